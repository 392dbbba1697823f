# SPDX-License-Identifier: BSD-3-Clause
"""Children by fork, as data loaders and pools make them: the parent's bits, at once, and threads where they are set."""

from __future__ import annotations

import os

import pytest

import nll

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
needs_openmp = pytest.mark.skipif(not nll.build_info()["openmp"], reason="built without OpenMP: always one thread")

# One call of each way of sharing work: samples, rows, tiles, one row, and what takes no labels. A parent that made
# them has an OpenMP team that no child has.
EVERY_WAY = """
import multiprocessing, os, sys, threading, warnings
import numpy as np
import nll

warnings.simplefilter("ignore")  # Python warns of forks of processes that have threads
rng = np.random.default_rng(0)
ways = {
    "samples": (rng.normal(size=(50_000, 3)), rng.integers(0, 3, 50_000)),
    "rows": (rng.normal(size=(300, 1000)).astype(np.float32), rng.integers(0, 1000, 300)),
    "planes": (rng.normal(size=(2, 19, 64, 64)).astype(np.float32), rng.integers(0, 19, (2, 64, 64))),
    "one-row": (rng.normal(size=(1, 200_000)).astype(np.float32), rng.integers(0, 200_000, 1)),
}

def results():
    all = []
    for input, target in ways.values():
        all += [nll.nll_loss(input, target), *nll.nll_loss_value_and_grad(input, target)]
        all += [nll.cross_entropy(input, target, label_smoothing=0.1), nll.log_softmax(input)]
        all += nll.cross_entropy_value_and_grad(input, target)
        total = nll.LossAccumulator("cross_entropy")
        total.update(input, target)
        all.append(total.state)
    return [np.asarray(one).tobytes() for one in all]

def threads():
    return len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0

nll.set_num_threads(2)
expected = results()
fork = multiprocessing.get_context("fork")
"""


@pytest.mark.parametrize(
    "count",
    [pytest.param(None, id="serial"), pytest.param(1, id="1"), pytest.param(2, id="2"), pytest.param(3, id="3")],
)
def test_every_way_of_sharing_work_in_a_child(count, run_python):
    """Whatever number of threads is set there."""
    program = f"""
def child():
    if {count} is not None:
        nll.set_num_threads({count})
    os._exit(results() != expected)
process = fork.Process(target=child)
process.start()
process.join()
assert process.exitcode == 0
assert results() == expected  # and the parent goes on
"""
    run_python(EVERY_WAY + program, timeout=30)


@needs_openmp
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads as Linux does")
def test_threads_come_back_in_each_generation(run_python):
    """A child of a child of a child: each is serial at first, and has threads once it asks for them."""
    run_python(
        EVERY_WAY
        + """
def generation(depth):
    assert nll.get_num_threads() == 1
    assert results() == expected and threads() == 1
    nll.set_num_threads(2 + depth)
    assert nll.get_num_threads() == 2 + depth
    started = []
    stop = threading.Event()
    def count():
        while not stop.wait(0.0002):
            started.append(threads())
    counter = threading.Thread(target=count)
    counter.start()
    while max(started, default=0) < 3:  # this thread, the counter, and one more
        assert results() == expected
    stop.set()
    counter.join()
    if depth < 3:
        descend(depth + 1)
    os._exit(0)

def descend(depth):
    process = fork.Process(target=generation, args=(depth,))
    process.start()
    process.join()
    assert process.exitcode == 0

descend(0)
assert nll.get_num_threads() == 2
""",
        timeout=60,
    )


@pytest.mark.parametrize(
    "pool",
    [
        pytest.param("fork.Pool(3)", id="multiprocessing"),
        pytest.param("concurrent.futures.ProcessPoolExecutor(3, mp_context=fork)", id="concurrent-futures"),
    ],
)
def test_a_pool_that_is_made_while_threads_are_in_calls(pool, run_python):
    """The children are copies of a process in the middle of calls of other threads."""
    run_python(
        EVERY_WAY
        + f"""
import concurrent.futures
stop = threading.Event()
def others():
    while not stop.is_set():
        results()
def work(i):
    return results() == expected
busy = [threading.Thread(target=others) for _ in range(2)]
for thread in busy:
    thread.start()
with {pool} as pool:
    assert list(pool.map(work, range(9))) == [True] * 9
stop.set()
for thread in busy:
    thread.join()
assert results() == expected
""",
        timeout=60,
    )


@pytest.mark.parametrize(
    ("before", "count"),
    [pytest.param(False, 2, id="first-call-in-workers"), pytest.param(True, 1, id="called-before")],
)
def test_data_loader_of_pytorch(before, count, run_python):
    """Its workers, by fork, call nll to score their samples; two epochs, so that workers are forked twice."""
    pytest.importorskip("torch")
    run_python(
        EVERY_WAY
        + f"""
import torch
from torch.utils.data import DataLoader, Dataset

class Scored(Dataset):
    logits = rng.normal(size=(24, 40_000, 3)).astype(np.float32)
    target = rng.integers(0, 3, (24, 40_000))

    def __len__(self):
        return len(self.logits)

    def __getitem__(self, i):
        loss, gradient = nll.cross_entropy_value_and_grad(self.logits[i], self.target[i])
        return torch.tensor(loss), torch.from_numpy(gradient), torch.tensor(nll.get_num_threads())

def start_worker(worker):
    if {count} > 1:
        nll.set_num_threads({count})

scored = Scored()
nll.set_num_threads(2)
if {before}:
    scored[0]
for epoch in range(2):
    loader = DataLoader(
        scored, batch_size=4, num_workers=2, multiprocessing_context="fork", worker_init_fn=start_worker, timeout=20
    )
    losses, gradients, counts = (torch.cat(parts).numpy() for parts in zip(*loader, strict=True))
    for i in range(len(scored)):
        loss, gradient, _ = scored[i]
        assert losses[i].tobytes() == loss.numpy().tobytes()
        assert gradients[i].tobytes() == gradient.numpy().tobytes()
    assert set(counts) <= {{1, {count}}}, counts
    assert nll.build_info()["openmp"] is None or set(counts) == {{{count}}}
""",
        timeout=120,
    )
