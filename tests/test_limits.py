# SPDX-License-Identifier: BSD-3-Clause
"""Limits that a system sets: on processors, threads and memory. Fewer threads, or MemoryError; never another bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nll

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sets limits as Linux has them")
needs_openmp = pytest.mark.skipif(not nll.build_info()["openmp"], reason="built without OpenMP: always one thread")

CALLS = """
import os, resource, sys, threading
import numpy as np
import nll
rng = np.random.default_rng(0)
input, target = rng.normal(size=(60_000, 5)).astype(np.float32), rng.integers(0, 5, 60_000)
rows, label = rng.normal(size=(64, 3000)).astype(np.float32), rng.integers(0, 3000, 64)
one_row = rng.normal(size=(1, 200_000)).astype(np.float32)
calls = [
    lambda: nll.nll_loss_value_and_grad(input, target),
    lambda: nll.cross_entropy_value_and_grad(input, target, label_smoothing=0.1),
    lambda: nll.cross_entropy_value_and_grad(rows, label),
    lambda: nll.cross_entropy_value_and_grad(np.asfortranarray(rows), label),
    lambda: nll.cross_entropy_value_and_grad(one_row, [7]),
    lambda: (nll.log_softmax(rows), nll.logsumexp(rows)),
]
def bits(result):
    return [np.asarray(part).tobytes() for part in result]
def check():
    assert [bits(call()) for call in calls] == expected
with nll.num_threads(1):
    expected = [bits(call()) for call in calls]
"""


# ---- processors


def readable_processors() -> int:
    return len(os.sched_getaffinity(0))


# What a system says of control groups: files, and the threads that they leave of sixteen.
CGROUPS: dict[str, tuple[dict[str, str], int | None]] = {
    "version-2": ({"/proc/self/cgroup": "0::/job\n", "/sys/fs/cgroup/job/cpu.max": "150000 100000\n"}, 1),
    "version-2-of-three": ({"/proc/self/cgroup": "0::/job\n", "/sys/fs/cgroup/job/cpu.max": "300000 100000\n"}, 3),
    "less-than-one": ({"/proc/self/cgroup": "0::/job\n", "/sys/fs/cgroup/job/cpu.max": "5000 100000\n"}, 1),
    "no-limit": ({"/proc/self/cgroup": "0::/job\n", "/sys/fs/cgroup/job/cpu.max": "max 100000\n"}, None),
    "of-the-group-above": (
        {
            "/proc/self/cgroup": "0::/pod/job\n",
            "/sys/fs/cgroup/pod/job/cpu.max": "max 100000\n",
            "/sys/fs/cgroup/pod/cpu.max": "200000 100000\n",
        },
        2,
    ),
    "of-the-namespace": ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
    "version-1": (
        {
            "/proc/self/cgroup": "5:memory:/job\n4:cpu,cpuacct:/job\n0::/\n",
            "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "200000\n",
            "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
        },
        2,
    ),
    "version-1-no-limit": (
        {
            "/proc/self/cgroup": "4:cpu,cpuacct:/job\n",
            "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "-1\n",
            "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
    "of-memory-alone": (
        {"/proc/self/cgroup": "5:memory:/job\n", "/sys/fs/cgroup/memory/job/cpu.max": "100000 100000\n"},
        None,
    ),
    "none": ({}, None),
    "empty": ({"/proc/self/cgroup": "0::/job\n", "/sys/fs/cgroup/job/cpu.max": ""}, None),
    "rubbish": ({"/proc/self/cgroup": "no group\n:\n::\n0::\n", "/sys/fs/cgroup/cpu.max": "many of them\n"}, None),
    "of-no-time": ({"/proc/self/cgroup": "0::/job\n", "/sys/fs/cgroup/job/cpu.max": "100000 0\n"}, None),
    "too-large-a-number": (
        {"/proc/self/cgroup": "0::/job\n", "/sys/fs/cgroup/job/cpu.max": f"{10**30} 100000\n"},
        None,
    ),
    "a-very-long-path": ({"/proc/self/cgroup": "0::" + "/d" * 40_000 + "\n"}, None),
}

# Opens the files below a folder instead, and tells OpenMP of sixteen processors.
ANOTHER_SYSTEM = """
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

FILE* fopen(const char* path, const char* mode) {
    FILE* (*real)(const char*, const char*) = (FILE * (*)(const char*, const char*)) dlsym(RTLD_NEXT, "fopen");
    if (strncmp(path, "/sys/fs/cgroup", 14) && strcmp(path, "/proc/self/cgroup")) return real(path, mode);
    char elsewhere[200000];
    snprintf(elsewhere, sizeof elsewhere, "%s%s", getenv("ANOTHER_SYSTEM"), path);
    return real(elsewhere, mode);
}
int omp_get_num_procs(void) { return 16; }
int omp_get_max_threads(void) { return 16; }
"""


@pytest.fixture(scope="module")
def another_system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes a process see another system's files."""
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    folder = tmp_path_factory.mktemp("system")
    (folder / "system.c").write_text(ANOTHER_SYSTEM)
    command = [compiler, "-shared", "-fPIC", "-D_GNU_SOURCE", folder / "system.c", "-o", folder / "system.so", "-ldl"]
    subprocess.run(command, check=True)
    return folder / "system.so"


@needs_openmp
@pytest.mark.parametrize("system", CGROUPS)
def test_quota_of_control_groups(system, another_system, tmp_path, run_python):
    files, expected = CGROUPS[system]
    for path, text in files.items():
        file = tmp_path / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    environment = {"LD_PRELOAD": str(another_system), "ANOTHER_SYSTEM": str(tmp_path)}
    done = run_python("import nll; print(nll.get_num_threads())", **environment)
    assert int(done.stdout) == (16 if expected is None else expected)


@needs_openmp
@pytest.mark.parametrize("quota", [1, 2])
def test_quota_of_this_system(quota, run_python):
    """A group of version 1 or 2 that is made, joined by a process before it calls, and removed."""
    cpu = Path("/sys/fs/cgroup/cpu")
    folder = (cpu if cpu.is_dir() else Path("/sys/fs/cgroup")) / f"nll-test-{os.getpid()}"
    try:
        folder.mkdir()
        if (folder / "cpu.max").exists():
            (folder / "cpu.max").write_text(f"{quota * 100_000} 100000")
        else:
            (folder / "cpu.cfs_quota_us").write_text(str(quota * 100_000))
    except OSError as error:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"may make no control group: {error}")
    try:
        join = f"open({str(folder / 'cgroup.procs')!r}, 'w').write('0')"
        done = run_python(CALLS.replace("import nll", f"{join}\nimport nll") + "check(); print(nll.get_num_threads())")
    finally:
        folder.rmdir()
    assert int(done.stdout) == min(quota, readable_processors())


def test_one_processor(run_python):
    """Where more threads are asked for, they take turns on it."""
    run_python(
        CALLS
        + """
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
check()
for count in 2, 5:
    nll.set_num_threads(count)
    check()
"""
    )


# ---- threads

# A user who has no process but this one, and may have no other thread.
NO_MORE_THREADS = """
if os.getuid() == 0:
    os.setresuid(54321, 54321, 54321)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
try:
    threading.Thread(target=int).start()
except RuntimeError:
    pass
else:
    raise SystemExit("a thread could be created: the test would show nothing")
"""


@needs_openmp
@pytest.mark.parametrize(
    "before",
    [pytest.param("", id="first-calls"), pytest.param("nll.set_num_threads(2); check()", id="of-a-smaller-team")],
)
def test_no_more_threads_for_this_user(before, run_python):
    """GNU's OpenMP would end the process."""
    run_python(CALLS + before + NO_MORE_THREADS + "nll.set_num_threads(4); check()")


# ---- memory


@pytest.mark.parametrize(("threads", "arenas"), [(1, 1), (2, 8)], ids=["1-thread-1-arena", "2-threads-8-arenas"])
def test_tight_memory(threads, arenas, run_python):
    """A right answer or MemoryError, `out` as it was then, and right answers afterwards.

    Each limit leaves a little more room than the one before, from none to what all calls need. Where threads share one
    arena of malloc, calls run out of memory; where each has its own, whose 64 MiB no limit takes away, what the system
    allocates for a thread does.
    """
    run_python(
        CALLS
        + f"""
def attempt(call):
    try:
        return call()
    except MemoryError:
        return None

out = np.full_like(input, 7)
row_out = np.full_like(rows, 7)
apart = np.full((3000, 64), 7, np.float32).T
fresh = rng.normal(size=(600_000, 5)).astype(np.float32)
labels = rng.integers(0, 5, 600_000)
groups = np.arange(600_000) % 7
def update():
    total = nll.LossAccumulator("nll", groups=7)
    total.update(fresh, labels, group=groups)
    return [total.state]
attempts = [
    (lambda: nll.nll_loss_value_and_grad(input, target, out=out), [out]),
    (lambda: nll.cross_entropy_value_and_grad(rows, label, out=row_out), [row_out]),
    (lambda: nll.cross_entropy_value_and_grad(rows, label, out=apart, label_smoothing=0.1), [apart]),
    (lambda: [nll.cross_entropy(one_row, [7])], []),
    (lambda: nll.cross_entropy_value_and_grad(fresh, labels), []),
    (lambda: [nll.nll_loss(fresh, labels, reduction="none")], []),
    (lambda: [nll.nll_loss_backward(1.0, fresh, labels)], []),
    (update, []),
]
in_order = [bits(call()) for call, _ in attempts]
for array in out, row_out, apart:
    array[...] = 7
nll.set_num_threads({threads})
outcomes = set()
hard = resource.RLIM_INFINITY
def in_a_thread(limit):  # a new one has no memory for kernels yet
    # But data of its own in NumPy and in C++'s exceptions: where there is none for these, glibc ends the process.
    np.zeros(2) + 1
    try:
        nll.nll_loss(input, target[:1])
    except ValueError:
        pass
    for i, (call, outs) in enumerate(attempts):
        before = [out.tobytes() for out in outs]
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        try:
            result = attempt(call)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        if result is None:
            assert [out.tobytes() for out in outs] == before, "a call without memory has written"
        else:
            result = bits(result)
        outcomes.add((i, result is None))
        assert result is None or result == in_order[i], i
        for array in outs:
            array[...] = 7
    done.append(limit)
done = []
for room in [*range(0, 400, 20), *range(400, 4000, 300), *range(4000, 40_000, 4000)]:
    thread = threading.Thread(target=lambda: in_a_thread(in_use() + 1024 * room))
    in_use = lambda: int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    thread.start()
    thread.join()
assert len(done) == 20 + 12 + 9, len(done)
assert all((i, False) in outcomes for i in range(len(attempts))), outcomes
assert {arenas} > 1 or any(failed for _, failed in outcomes), "memory was never short"
check()
""",
        timeout=120,
        MALLOC_ARENA_MAX=str(arenas),
    )
