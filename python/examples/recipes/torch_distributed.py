# SPDX-License-Identifier: BSD-3-Clause
"""Add up the loss of an evaluation over the ranks of torch.distributed: each gathers the states of all.

A state is a tensor of bytes, always of one size. The loss has the same bits for any number of ranks.
"""

import sys
import tempfile

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import nll


def of_all_ranks(total):
    """The accumulator of all ranks, on each of them."""
    state = torch.from_numpy(total.state)
    states = [torch.empty_like(state) for _ in range(dist.get_world_size())]
    dist.all_gather(states, state)
    return nll.LossAccumulator.from_bytes(nll.merge(torch.stack(states).numpy()))


def samples_of(rank):
    """Logits and labels: another number of them on each rank."""
    rng = np.random.default_rng(rank)
    count = 100 + 50 * rank
    return rng.normal(size=(count, 10)).astype(np.float32), rng.integers(0, 10, count)


def evaluate(rank, ranks, rendezvous):
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks)
    total = nll.LossAccumulator("cross_entropy")
    total.update(*samples_of(rank))
    total = of_all_ranks(total)
    everything = (np.concatenate(arrays) for arrays in zip(*map(samples_of, range(ranks)), strict=True))
    assert total.compute() == nll.cross_entropy(*everything)
    if rank == 0:
        print(f"{total.compute():.7f} over {total.count} samples of {ranks} ranks")
    dist.destroy_process_group()


def main(ranks):
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(evaluate, (ranks, f"{folder}/rendezvous"), nprocs=ranks)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 3)
