# SPDX-License-Identifier: BSD-3-Clause
"""Add up a loss over the ranks of MPI: ``mpiexec -n 3 python mpi.py``.

A state is an array of bytes, MPI_BYTE to MPI, and always of one size.
"""

import numpy as np
from mpi4py import MPI

import nll


def of_all_ranks(total, communicator=MPI.COMM_WORLD):
    """The accumulator of all ranks, on each of them."""
    states = np.empty((communicator.size, total.state_size), np.uint8)
    communicator.Allgather([total.state, MPI.BYTE], [states, MPI.BYTE])
    return nll.LossAccumulator.from_bytes(nll.merge(states))


def samples_of(rank):
    """Logits and labels: another number of them on each rank."""
    rng = np.random.default_rng(rank)
    count = 100 + 50 * rank
    return rng.normal(size=(count, 10)).astype(np.float32), rng.integers(0, 10, count)


def main():
    rank, ranks = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
    total = nll.LossAccumulator("cross_entropy")
    total.update(*samples_of(rank))
    total = of_all_ranks(total)
    everything = (np.concatenate(arrays) for arrays in zip(*map(samples_of, range(ranks)), strict=True))
    assert total.compute() == nll.cross_entropy(*everything)
    if rank == 0:
        print(f"{total.compute():.7f} over {total.count} samples of {ranks} ranks")


if __name__ == "__main__":
    main()
