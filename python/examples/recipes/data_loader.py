# SPDX-License-Identifier: BSD-3-Clause
"""Evaluate a PyTorch model over a DataLoader, whose last batch is smaller than the others."""

import torch
from torch.utils.data import DataLoader, TensorDataset

import nll


@torch.inference_mode()
def evaluate(model, loader):
    """The accumulator of the model's losses. Tensors of the CPU are read in place."""
    total = nll.LossAccumulator("cross_entropy")
    for images, labels in loader:
        total.update(model(images).cpu(), labels)
    return total


def main():
    torch.manual_seed(0)
    images, labels = torch.randn(1000, 20), torch.randint(0, 10, (1000,))
    model = torch.nn.Linear(20, 10)
    totals = [evaluate(model, DataLoader(TensorDataset(images, labels), batch_size=n)) for n in (64, 300)]
    for total in totals:
        print(f"{total.compute():.7f} ± {total.standard_error:.7f}, perplexity {total.perplexity:.4f}")


if __name__ == "__main__":
    main()
