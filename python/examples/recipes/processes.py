# SPDX-License-Identifier: BSD-3-Clause
"""Score files in a pool of processes: each returns the state of its file, as bytes."""

import multiprocessing
import sys
import tempfile
from pathlib import Path

import numpy as np

import nll


def state_of(path):
    """The state of a file's logits and labels. One process a core, one thread a process."""
    with np.load(path) as arrays, nll.num_threads(1):
        total = nll.LossAccumulator("cross_entropy")
        total.update(arrays["logits"], arrays["labels"])
    return total.to_bytes()


def score(paths, processes):
    """The accumulator of all files, whatever the order in which they are done."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        states = list(pool.imap_unordered(state_of, paths))
    return nll.LossAccumulator.from_bytes(nll.merge(states))


def main(processes):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(1000, 10)).astype(np.float32), rng.integers(0, 10, 1000)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for first, last in ((0, 100), (100, 600), (600, 1000)):
            paths.append(Path(folder, f"{first}.npz"))
            np.savez(paths[-1], logits=logits[first:last], labels=labels[first:last])
        total = score(paths, processes)
    assert total.compute() == nll.cross_entropy(logits, labels)
    print(f"{total.compute():.7f} ± {total.standard_error:.7f} over {total.count} samples")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 3)
