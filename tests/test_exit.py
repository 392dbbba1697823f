# SPDX-License-Identifier: BSD-3-Clause
"""The end of a process while many of its threads are in calls: clean, at once, with the exit status that was meant."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

# Daemon threads, two of each kind: in calls of hours, in calls of a moment, in errors, in forked children's calls.
BUSY = """
import atexit, os, sys, threading, time
import numpy as np
import nll

endless, label = np.broadcast_to(np.float32(-1), (2**39, 1)), np.broadcast_to(np.int8(0), 2**39)
rows, labels = np.random.default_rng(0).normal(size=(200, 700)).astype(np.float32), np.arange(200)
apart, out = np.asfortranarray(rows), np.empty_like(rows)
total = nll.LossAccumulator("cross_entropy", groups=200)

def bad_label():
    try:
        nll.cross_entropy_value_and_grad(rows, labels + 700)
    except IndexError:
        pass

calls = [
    lambda: nll.nll_loss(endless, label),
    lambda: nll.cross_entropy(endless, label, label_smoothing=0.1),
    lambda: nll.LossAccumulator("nll").update(endless, label),
    lambda: nll.logsumexp(np.broadcast_to(np.float16(0), (1, 2**40))),
    lambda: nll.cross_entropy_value_and_grad(rows, labels),
    lambda: nll.cross_entropy_backward(1.0, apart, labels, out=np.empty_like(apart)),
    lambda: nll.nll_loss_backward(1.0, rows, labels, out=out),
    lambda: total.update(rows, labels, group=labels),
    lambda: nll.nll_loss(rows, labels, reduction="none"),
    lambda: nll.log_softmax(rows.tolist()[0]),
    bad_label,
]

def again(call):
    while True:
        call()

nll.set_num_threads(3)
for call in calls * 2:
    threading.Thread(target=again, args=(call,), daemon=True).start()
time.sleep(0.3)
"""
ENDS = {
    "last-line": ("", 0),
    "sys-exit": ("sys.exit(3)", 3),
    "exception": ("raise KeyError('last')", 1),
    # A shell's background processes begin with the signal ignored.
    "interrupt": (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(9)",
        -2,
    ),
    "call-at-exit": ("atexit.register(lambda: print(nll.nll_loss(rows, labels)))", 0),
    "in-a-child": (
        "child = os.fork()\nif child == 0: nll.cross_entropy(rows, labels); sys.exit(3)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))",
        3,
    ),
}


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and ends by signals")
@pytest.mark.parametrize("end", ENDS)
def test_end_of_a_busy_process(end):
    last, status = ENDS[end]
    begin = time.monotonic()
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", BUSY + last]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    complaints = [
        line for line in done.stderr.splitlines() if "KeyError" not in line and "KeyboardInterrupt" not in line
    ]
    assert not [line for line in complaints if "terminate" in line or "Fatal" in line or "Error" in line], done.stderr
    assert time.monotonic() - begin < 30
