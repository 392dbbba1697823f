# SPDX-License-Identifier: BSD-3-Clause
"""Threads change no bit and no process: counts, forks, concurrent callers, failures to create a thread, Ctrl-C."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import nll
from support import oracle
from support.oracle import assert_same_bits
from support.pairs import pairwise
from support.samples import FLOAT_DTYPES, random_input, random_target, random_weight

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into Linux's /proc, or asks Linux's scheduler")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
needs_openmp = pytest.mark.skipif(not nll.build_info()["openmp"], reason="built without OpenMP: always one thread")

# A call large enough to be shared by threads, for programs that run in processes of their own.
LARGE_CALL = """
import os, sys, threading
import numpy as np
import nll
input = np.random.default_rng(0).normal(size=(200_000, 3))
target = np.random.default_rng(1).integers(0, 3, 200_000)

def call():
    return nll.nll_loss_value_and_grad(input, target)

def check(result):
    assert result[0] == expected[0] and (result[1] == expected[1]).all()

with nll.num_threads(1):
    expected = call()
"""


# ---- counts


@pytest.mark.parametrize("n", [1, 2, 7, 256])
@needs_openmp
def test_num_threads_holds_inside_the_block(n):
    before = nll.get_num_threads()
    with nll.num_threads(n):
        assert nll.get_num_threads() == n
    assert nll.get_num_threads() == before


@needs_openmp
def test_num_threads_nests():
    with nll.num_threads(3):
        with nll.num_threads(2):
            assert nll.get_num_threads() == 2
        assert nll.get_num_threads() == 3


@needs_openmp
def test_num_threads_ends_with_an_exception():
    before = nll.get_num_threads()
    with pytest.raises(KeyError), nll.num_threads(before + 1):
        raise KeyError
    assert nll.get_num_threads() == before


@needs_openmp
def test_num_threads_is_of_this_thread_only():
    inside, done = threading.Event(), threading.Event()
    seen = []

    def other() -> None:
        inside.wait()
        seen.append(nll.get_num_threads())
        done.set()

    thread = threading.Thread(target=other)
    before = nll.get_num_threads()
    thread.start()
    with nll.num_threads(before + 5):
        inside.set()
        done.wait()
    thread.join()
    assert seen == [before]


@needs_openmp
def test_num_threads_is_of_this_context_only():
    before, outside = nll.get_num_threads(), contextvars.copy_context()
    with nll.num_threads(before + 5):
        assert outside.run(nll.get_num_threads) == before


@needs_openmp
def test_num_threads_is_of_this_task_only():
    before = nll.get_num_threads()
    seen = {}

    async def task(name: str, n: int) -> None:
        with nll.num_threads(n):
            await asyncio.sleep(0.01)
            seen[name] = nll.get_num_threads()

    async def both() -> None:
        await asyncio.gather(task("a", before + 1), task("b", before + 2))

    asyncio.run(both())
    assert seen == {"a": before + 1, "b": before + 2}


@needs_openmp
def test_one_num_threads_object_serves_threads_tasks_and_nested_blocks():
    """It is left in another order than it was entered."""
    before, block = nll.get_num_threads(), nll.num_threads(5)
    entered, seen = threading.Barrier(2, timeout=10), []

    def of_thread(first_out: bool) -> None:
        with nll.num_threads(3):
            with block:
                entered.wait()
                seen.append(nll.get_num_threads())
                if not first_out:
                    left.wait(10)
            seen.append(nll.get_num_threads())
        left.set()

    left = threading.Event()
    threads = [threading.Thread(target=of_thread, args=(first_out,)) for first_out in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [3, 3, 5, 5]

    async def task(seconds: float) -> None:
        with block:
            await asyncio.sleep(seconds)
            assert nll.get_num_threads() == 5
        assert nll.get_num_threads() == before

    async def both() -> None:
        await asyncio.gather(task(0.02), task(0.01))

    asyncio.run(both())
    with block, nll.num_threads(2), block:
        assert nll.get_num_threads() == 5
    assert nll.get_num_threads() == before


def left_without_being_entered() -> None:
    nll.num_threads(2).__exit__(None, None, None)


def left_in_another_thread() -> None:
    block = nll.num_threads(2)
    with block, ThreadPoolExecutor(1) as pool:
        pool.submit(block.__exit__, None, None, None).result()


@pytest.mark.parametrize("leave", [left_without_being_entered, left_in_another_thread])
def test_num_threads_is_left_where_it_was_entered(leave):
    before = nll.get_num_threads()
    with pytest.raises(ValueError, match="num_threads: no block is left here"):
        leave()
    assert nll.get_num_threads() == before


BAD_COUNTS = [(0, ValueError), (-1, ValueError), (257, ValueError), (2**70, ValueError)]
BAD_COUNTS += [(1.0, TypeError), (True, TypeError), (None, TypeError), ("2", TypeError), (np.float64(2), TypeError)]


@pytest.mark.parametrize(("n", "error"), BAD_COUNTS, ids=lambda v: repr(v) if not isinstance(v, type) else "")
@pytest.mark.parametrize("function", [nll.set_num_threads, nll.num_threads], ids=lambda f: f.__name__)
def test_bad_counts(function, n, error):
    before = nll.get_num_threads()
    with pytest.raises(error, match=str(n)) as caught, function(n):
        pass
    assert caught.type is error
    assert nll.get_num_threads() == before


@needs_openmp
def test_set_num_threads_holds_for_all_threads(run_python):
    run_python("""
import threading, nll, numpy as np
assert nll.set_num_threads(np.int64(5)) is None
assert nll.get_num_threads() == 5
seen = []
thread = threading.Thread(target=lambda: seen.append(nll.get_num_threads()))
thread.start(); thread.join()
assert seen == [5], seen
with nll.num_threads(2):
    nll.set_num_threads(7)
    assert nll.get_num_threads() == 2
assert nll.get_num_threads() == 7
""")


@on_linux
@needs_openmp
@pytest.mark.parametrize(
    ("setting", "expected"),
    [("1", 1), *((wrong, None) for wrong in ["100000", "99999999999", "rubbish", "4x", "-3", "0", ""])],
)
def test_omp_num_threads(setting, expected, run_python):
    """It limits, and what makes no sense is passed over; no setting gets more than the CPUs we may use."""
    done = run_python(LARGE_CALL + "check(call()); print(nll.get_num_threads())", OMP_NUM_THREADS=setting)
    count = int(done.stdout)
    assert count == expected or (expected is None and 1 <= count <= len(os.sched_getaffinity(0)))


@on_linux
@needs_openmp
def test_affinity(run_python):
    run_python("""
import os, nll
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
assert nll.get_num_threads() == 1
nll.set_num_threads(2)
assert nll.get_num_threads() == 2
""")


@needs_openmp
def test_threadpoolctl_limits(run_python):
    pytest.importorskip("threadpoolctl")
    run_python("""
import nll, threadpoolctl
assert any(pool["user_api"] == "openmp" for pool in threadpoolctl.threadpool_info())
with threadpoolctl.threadpool_limits(1):
    assert nll.get_num_threads() == 1
""")


@on_linux
@needs_openmp
def test_threads_are_used(run_python):
    """A large call starts as many as are asked for, and a small one none."""
    run_python(
        LARGE_CALL
        + """
def count():
    return len(os.listdir("/proc/self/task"))
start = count()
with nll.num_threads(4):
    nll.nll_loss(input[:100], target[:100])
    assert count() == start
    check(call())
    assert count() == start + 3, count() - start
"""
    )


@on_linux
@needs_openmp
@pytest.mark.parametrize("shape", [(40_000, 5), (40, 5000), (2, 19, 100, 100), (1, 2**18)], ids=str)
@pytest.mark.parametrize(
    "call",
    [
        pytest.param("nll.cross_entropy(input, target)", id="value"),
        pytest.param("nll.cross_entropy_value_and_grad(input, target)", id="value-and-grad"),
        pytest.param("nll.log_softmax(input)", id="log-softmax"),
    ],
)
def test_threads_share_a_cross_entropy(call, shape, run_python):
    """However its elements are spread over samples and classes."""
    run_python(f"""
import os
import numpy as np, nll
input = np.zeros({shape}, np.float32)
target = np.zeros(input[:, 0].shape, np.int64)
start = len(os.listdir("/proc/self/task"))
with nll.num_threads(3):
    {call}
assert len(os.listdir("/proc/self/task")) == start + 2
""")


@pairwise(reduced=["sum", "mean"], weighted=[False, True], dtype=FLOAT_DTYPES)
def test_one_to_seven_threads_give_the_same_bits(reduced, weighted, dtype, rng):
    input, target = random_input(rng, (100_000, 3), dtype), random_target(rng, 100_000, 3, np.uint8, ignored=255)
    arrays = input, target, random_weight(rng, 3, np.float64) if weighted else None
    keywords: dict[str, Any] = {"ignore_index": 255, "reduction": reduced}
    expected = oracle.nll_loss(*arrays, **keywords).loss
    for n in range(1, 8):
        with nll.num_threads(n):
            loss, gradient = nll.nll_loss_value_and_grad(*arrays, **keywords)
            assert_same_bits(loss, expected)
            assert_same_bits(nll.nll_loss(*arrays, **keywords), expected)
        if n == 1:
            first_gradient = gradient
        assert_same_bits(gradient, first_gradient)


# ---- forks

FORK = """
def in_child(body):
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, "the child failed"
"""


@needs_fork
@pytest.mark.parametrize(
    "parent",
    [
        pytest.param("", id="parent-never-called"),
        pytest.param("check(call())", id="parent-called-before"),
        pytest.param("t = threading.Thread(target=call); t.start(); t.join()", id="parent-called-in-a-thread"),
    ],
)
@pytest.mark.parametrize(
    "child",
    [
        pytest.param("check(call())", id="child-calls"),
        pytest.param(
            "t = threading.Thread(target=lambda: check(call())); t.start(); t.join()", id="child-calls-in-a-thread"
        ),
        pytest.param(
            "nll.set_num_threads(3); check(call()); assert nll.get_num_threads() == 3", id="child-sets-threads-first"
        ),
        pytest.param("in_child(lambda: check(call()))", id="child-forks-again"),
    ],
)
def test_forked_child_does_not_hang(parent, child, run_python):
    """GNU's OpenMP would: the child waits for threads that only the parent has."""
    program = f"""
nll.set_num_threads(2)
{parent}
def body():
    {child}
in_child(body)
check(call())  # and the parent goes on
"""
    run_python(LARGE_CALL + FORK + program, timeout=30)


@on_linux
@needs_fork
@needs_openmp
def test_forked_child_is_serial_until_it_sets_threads(run_python):
    run_python(
        LARGE_CALL
        + FORK
        + """
def count():
    return len(os.listdir("/proc/self/task"))
nll.set_num_threads(2)
call()
def body():
    assert nll.get_num_threads() == 1
    check(call())
    assert count() == 1
    with nll.num_threads(2):
        check(call())
    nll.set_num_threads(2)
    assert nll.get_num_threads() == 2
    for _ in range(3):
        check(call())
in_child(body)
assert nll.get_num_threads() == 2
""",
        timeout=30,
    )


@needs_fork
def test_multiprocessing_by_fork(run_python):
    run_python(
        LARGE_CALL
        + """
import multiprocessing
nll.set_num_threads(2)
check(call())
def work(i):
    return float(call()[0])
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(work, range(6)) == [float(expected[0])] * 6
check(call())
""",
        timeout=60,
    )


@needs_fork
def test_fork_while_another_thread_is_in_a_call(run_python):
    run_python(
        LARGE_CALL
        + FORK
        + """
import time
nll.set_num_threads(2)
stop = False
def others():
    while not stop:
        call()
thread = threading.Thread(target=others)
thread.start()
for _ in range(10):
    time.sleep(0.01)
    in_child(lambda: check(call()))
stop = True
thread.join()
check(call())
""",
        timeout=60,
    )


# ---- concurrent callers


def test_concurrent_python_threads(rng):
    calls = []
    for size in (50, 9000, 60_000, 200_000):
        arrays = random_input(rng, (size, 3), np.float32), random_target(rng, size, 3), rng.uniform(size=3)
        calls.append((arrays, nll.nll_loss(*arrays), nll.nll_loss_backward(1.0, *arrays)))

    def work(i: int) -> None:
        arrays, loss, gradient = calls[i % len(calls)]
        with nll.num_threads(1 + i % 3):
            assert_same_bits(nll.nll_loss(*arrays), loss)
            assert_same_bits(nll.nll_loss_backward(1.0, *arrays), gradient)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(60)))


def test_large_calls_release_the_interpreter():
    """Another Python thread goes on during a call."""
    input, target = np.broadcast_to(np.float32(-1), (400_000_000, 1)), np.broadcast_to(np.int8(0), 400_000_000)
    calling, ticks = threading.Event(), []

    def tick() -> None:
        calling.wait()
        while calling.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    with nll.num_threads(1):
        calling.set()
        start = time.perf_counter()
        nll.nll_loss(input, target)
        end = time.perf_counter()
        calling.clear()
    thread.join()
    during = [t for t in ticks if start < t < end]
    assert len(during) > 10, (len(during), end - start)


def test_labels_that_another_thread_changes_give_no_wrong_address(run_python):
    """They may give a loss of either, or an IndexError; a wrong address would end the process."""
    run_python("""
import threading, time, numpy as np, nll
nll.set_num_threads(2)
target = np.zeros(300_000, np.int64)
input = np.zeros((300_000, 2), np.float32)
out = np.empty_like(input)
planes, out_planes = np.zeros((1, 2, 300_000), np.float32), np.empty((1, 2, 300_000), np.float32)
some = target[7::512]  # one label of a block, so that most blocks pass the check before it changes again
stop = False
def change():
    while not stop:
        some[...] = 2**40
        some[...] = 1
thread = threading.Thread(target=change)
thread.start()
outcomes = set()
end = time.monotonic() + 2
while time.monotonic() < end:
    for call in (
        lambda: nll.nll_loss(input, target),
        lambda: nll.nll_loss(input, target, reduction="none"),
        lambda: nll.nll_loss(input, target, [1.0, 2.0]),
        lambda: nll.nll_loss_backward(1.0, input, target, out=out),
        lambda: nll.nll_loss_value_and_grad(input, target, [1.0, 2.0], out=out),
        lambda: nll.cross_entropy(input, target, reduction="none"),
        lambda: nll.cross_entropy_value_and_grad(input, target, [1.0, 2.0], label_smoothing=0.1, out=out),
        lambda: nll.cross_entropy_value_and_grad(planes, target[None], out=out_planes),
    ):
        try:
            call()
            outcomes.add("value")
        except IndexError as error:
            assert "is 1099511627776, outside [0, 2)" in str(error), error
            outcomes.add("error")
stop = True
thread.join()
assert "error" in outcomes, "the labels were never seen to change"
""")


# ---- failures


@on_linux
@needs_openmp
def test_no_thread_to_be_had_is_no_failure(run_python):
    """With no room for the stack of a thread (as if a limit on threads was met), the call is serial and right."""
    run_python(
        LARGE_CALL
        + """
import resource
nll.set_num_threads(4)
out = np.empty_like(input)
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 3 * 2**20, resource.RLIM_INFINITY))
try:
    threading.Thread(target=int).start()
except RuntimeError:
    pass
else:
    raise SystemExit("a thread could be created: the test would show nothing")
result = nll.nll_loss_value_and_grad(input, target, out=out)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
check(result)
check(call())
"""
    )


IN_FORKED_CHILD = """nll.set_num_threads(2)
nll.nll_loss(input[:100_000], target[:100_000])
if os.fork():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
nll.set_num_threads(2)"""


@needs_fork
@pytest.mark.parametrize(
    "setup",
    [
        pytest.param("nll.set_num_threads(1)", id="1-thread"),
        pytest.param("nll.set_num_threads(2)", id="2-threads"),
        pytest.param(IN_FORKED_CHILD, id="2-threads-of-a-forked-child"),
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        pytest.param("nll.nll_loss(input, target)", id="mean"),
        pytest.param("nll.nll_loss(input, target, [0.5])", id="weighted-mean"),
        pytest.param("nll.nll_loss_backward(1.0, no_classes, ignored)", id="gradient"),
        pytest.param("nll.cross_entropy(input, target)", id="cross-entropy"),
    ],
)
def test_interrupt_stops_a_long_call(setup, call):
    """It would take minutes."""
    program = f"""
import os, signal, sys
import numpy as np, nll
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
count = 2**39
input, target = np.broadcast_to(np.float32(-1), (count, 1)), np.broadcast_to(np.int8(0), count)
no_classes, ignored = np.zeros((count, 0)), np.broadcast_to(np.int8(-100), count)
{setup}
try:
    print("ready", flush=True)
    {call}
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert nll.nll_loss(input[:100_000], target[:100_000]) == 1
"""
    interrupt(program)


@needs_fork
@pytest.mark.parametrize("reduction", ["'mean'", "'none'"])
def test_interrupt_stops_a_call_of_many_long_rows(reduction):
    """A piece of work is bounded in elements: so many rows of a large vocabulary would be one of seconds."""
    interrupt(f"""
import signal
import numpy as np, nll
signal.signal(signal.SIGINT, signal.default_int_handler)
input = np.broadcast_to(np.zeros((1, 262_144), np.float16), (400_000, 262_144))
target = np.zeros(400_000, np.int64)
try:
    print("ready", flush=True)
    nll.cross_entropy(input, target, reduction={reduction})
except KeyboardInterrupt:
    print("interrupted", flush=True)
""")


@needs_fork
def test_interrupt_stops_a_long_row():
    """Whose classes take many seconds, though it is but one sample."""
    interrupt("""
import signal
import numpy as np, nll
signal.signal(signal.SIGINT, signal.default_int_handler)
input = np.broadcast_to(np.float32(0), (1, 2**35))
nll.set_num_threads(2)
try:
    print("ready", flush=True)
    nll.cross_entropy(input, [0])
except KeyboardInterrupt:
    print("interrupted", flush=True)
""")


def interrupt(program: str) -> None:
    """Run it, and interrupt it when it has been ready for a while: it must say so soon, and end well."""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        too_late = threading.Timer(20, os.killpg, (process.pid, signal.SIGKILL))
        too_late.start()
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.7)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            sent = time.monotonic()
            assert process.stdout.readline() == "interrupted\n"
            assert time.monotonic() - sent < 2
            assert process.wait() == 0
        finally:
            too_late.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


# ---- small stacks

EVERY_KERNEL = """
import sys, threading
import ml_dtypes, numpy as np, nll

def call_all():
    rng = np.random.default_rng(0)
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64):
        for shape in ((2,), (3, 2), (70, 10), (40, 130), (3, 5000), (2, 150_000), (3, 7, 50), (2, 300, 40), (9000, 9)):
            logits = rng.normal(size=shape).astype(dtype)
            classes = shape[min(1, len(shape) - 1)]
            target = rng.integers(0, classes, shape[:1] * (len(shape) > 1) + shape[2:])
            weight = rng.uniform(1, 2, classes)
            for order in "CF":
                given = np.asarray(logits, order=order)
                for choices in ({}, {"weight": weight}, {"weight": weight, "reduction": "none"}):
                    nll.nll_loss(given, target, **choices)
                    nll.cross_entropy(given, target, **choices)
                    nll.cross_entropy(given, target, **choices, label_smoothing=0.1)
                    grad_output = np.ones(target.shape) if "reduction" in choices else 1.0
                    nll.nll_loss_backward(grad_output, given, target, **choices)
                    nll.cross_entropy_backward(grad_output, given, target, **choices)
                    nll.cross_entropy_backward(grad_output, given, target, **choices, label_smoothing=0.1)
                nll.log_softmax(given)
    try:
        nll.nll_loss(np.zeros((1, 2)), [7])
    except IndexError:
        done.append(1)

done = []
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_a_thread_of_96_kib(threads, run_python):
    """The variables of kernels lie in memory of their own: musl gives threads 128 KiB, and Python what is asked for."""
    run_python(
        EVERY_KERNEL
        + f"""
nll.set_num_threads({threads})
threading.stack_size(96 * 1024)
thread = threading.Thread(target=call_all)
thread.start()
thread.join()
assert done
""",
        timeout=120,
    )


@needs_openmp
@pytest.mark.parametrize("size", ["16k", "64k", "128k"])
def test_small_stacks_of_openmp(size, run_python):
    run_python(EVERY_KERNEL + "nll.set_num_threads(3); call_all(); assert done", timeout=120, OMP_STACKSIZE=size)
