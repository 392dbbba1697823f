# SPDX-License-Identifier: BSD-3-Clause
"""Other users of threads in the process: Python threads, OpenMP regions, joblib, PyTorch, scikit-learn."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

import nll
from support.oracle import assert_same_bits
from support.samples import random_logits, random_target

needs_openmp = pytest.mark.skipif(not nll.build_info()["openmp"], reason="built without OpenMP: always one thread")

CALLS = """
import sys
import numpy as np
import nll

def call(seed=0):
    rng = np.random.default_rng(seed)
    input, target = rng.normal(size=(20_000, 7)).astype(np.float32), rng.integers(0, 7, 20_000)
    rows, label = rng.normal(size=(1, 70_000)), rng.integers(0, 70_000, 1)
    results = [*nll.nll_loss_value_and_grad(input, target), *nll.cross_entropy_value_and_grad(input, target)]
    results += [*nll.cross_entropy_value_and_grad(rows, label), nll.log_softmax(input)]
    return [np.asarray(result).tobytes() for result in results]
"""


# ---- Python threads


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_64_threads_at_once(limit, rng):
    """They begin together, each with arrays of its own and all with those that they share."""
    shared = random_logits(rng, (9000, 11), np.float32), random_target(rng, 9000, 11)
    own = [(random_logits(rng, (40, 600), np.float32), random_target(rng, 40, 600)) for _ in range(64)]
    one_row = random_logits(rng, (1, 40_000), np.float64), np.array([123])

    def results(i):
        calls = [shared, own[i], one_row]
        return [
            part for arrays in calls for part in (nll.nll_loss(*arrays), *nll.cross_entropy_value_and_grad(*arrays))
        ]

    with nll.num_threads(1):
        expected = [results(i) for i in range(64)]
    begin, right = threading.Barrier(64, timeout=60), []

    def work(i):
        begin.wait()
        for _ in range(3):
            with nll.num_threads(limit):
                for actual, wanted in zip(results(i), expected[i], strict=True):
                    assert_same_bits(actual, wanted)
        right.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(right) == list(range(64))


# ---- other regions

# Calls back from all threads of a region, and from a task of one.
REGION = """
#include <omp.h>
int threads_of_region(int threads, void (*call)(int)) {
    int most = 0;
#pragma omp parallel num_threads(threads)
    {
        call(omp_get_thread_num());
#pragma omp single
        {
            most = omp_get_num_threads();
#pragma omp task
            call(-1);
        }
    }
    return most;
}
"""


def runtime_library(compiler: str) -> list[str]:
    return ["-fopenmp"] if compiler == "cc" else ["-fopenmp=libomp"]


@pytest.mark.parametrize("compiler", ["cc", "clang"])
@pytest.mark.parametrize("before", [False, True], ids=["first-call-in-it", "called-before"])
def test_inside_a_region(compiler, before, tmp_path: Path, run_python):
    """The region's threads are the team of nll's own OpenMP (GNU's), or those of another library of OpenMP (LLVM's)."""
    found = shutil.which(os.environ.get("CC", compiler) if compiler == "cc" else compiler)
    if found is None:
        pytest.skip(f"{compiler} is not installed")
    (tmp_path / "region.c").write_text(REGION)
    command = [
        found,
        "-shared",
        "-fPIC",
        *runtime_library(compiler),
        tmp_path / "region.c",
        "-o",
        tmp_path / "region.so",
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"{compiler} has no OpenMP: {built.stderr}")
    run_python(
        CALLS
        + f"""
import ctypes, threading
nll.set_num_threads(2)
with nll.num_threads(1):
    expected = call()
if {before}:
    assert call() == expected
library = ctypes.CDLL({str(tmp_path / "region.so")!r})
outcomes = []
callback = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: outcomes.append((number, call() == expected)))
for threads in 1, 3, 4:
    outcomes.clear()
    most = library.threads_of_region(threads, callback)
    assert sorted(outcomes) == [(number, True) for number in range(-1, most)], outcomes
assert call() == expected  # and afterwards
""",
        timeout=60,
    )


@pytest.mark.parametrize("backend", ["threading", "loky", "multiprocessing"])
def test_under_joblib(backend, run_python):
    pytest.importorskip("joblib")
    run_python(
        CALLS
        + f"""
import warnings
warnings.simplefilter("ignore")  # of forks
import joblib
nll.set_num_threads(2)
expected = [call(i) for i in range(6)]
for jobs in 1, 3:
    assert joblib.Parallel(jobs, backend={backend!r})(joblib.delayed(call)(i) for i in range(6)) == expected
""",
        timeout=120,
    )


@needs_openmp
def test_limits_of_threadpoolctl_nest(run_python):
    """They hold for their block, and only where nll has no number of its own."""
    pytest.importorskip("threadpoolctl")
    run_python(
        CALLS
        + """
from threadpoolctl import threadpool_limits
before, expected = nll.get_num_threads(), call()
with threadpool_limits(1):
    assert nll.get_num_threads() == 1
    assert call() == expected
    with nll.num_threads(3):
        assert nll.get_num_threads() == 3
        assert call() == expected
    nll.set_num_threads(4)
    assert nll.get_num_threads() == 4
    assert call() == expected
assert before >= 1
"""
    )


PEERS = {
    "torch": """
import torch
logits, labels = torch.randn(3000, 50), torch.randint(0, 50, (3000,))
def peer():
    return float(torch.nn.functional.cross_entropy(logits, labels))
def ours():
    return float(nll.cross_entropy(logits.numpy(), labels.numpy()))
""",
    "sklearn": """
import sklearn.metrics
logits = np.random.default_rng(0).normal(size=(3000, 50))
labels = np.random.default_rng(1).integers(0, 50, 3000)
probabilities = np.exp(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
from sklearn.cluster import KMeans
def peer():
    KMeans(3, n_init=1, max_iter=3).fit(logits[:, :4])  # whose threads are those of OpenMP
    return sklearn.metrics.log_loss(labels, probabilities, labels=list(range(50)))
def ours():
    return float(nll.cross_entropy(logits, labels))
""",
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("order", ["nll-first", "peer-first"])
def test_beside_another_package(peer, order, run_python):
    """Imported before it or after it; its calls and ours take turns, and come from threads at the same time."""
    pytest.importorskip(peer)
    imports = [CALLS, PEERS[peer]] if order == "nll-first" else ["import numpy as np", PEERS[peer], CALLS]
    run_python(
        "\n".join(imports)
        + """
import threading
nll.set_num_threads(2)
expected, wanted = call(), ours()
for _ in range(3):
    assert abs(peer() - wanted) < 1e-4 * wanted
    assert call() == expected and ours() == wanted
outcomes = []
def work(function, right):
    outcomes.extend(right(function()) for _ in range(5))
threads = [threading.Thread(target=work, args=(call, lambda got: got == expected)) for _ in range(2)]
threads += [threading.Thread(target=work, args=(peer, lambda got: abs(got - wanted) < 1e-4 * wanted))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert outcomes == [True] * 15, outcomes
""",
        timeout=120,
    )
