# SPDX-License-Identifier: BSD-3-Clause
"""Accumulate the gradient of a batch over its micro-batches: sums and total weights are added, and divided once.

The mean of the micro-batches' means is another loss, with another gradient, wherever micro-batches differ in the number
of samples that they keep, or in weights.
"""

import numpy as np

import nll

IGNORED = 0


def accumulated(model, micro_batches):
    """The mean loss of all samples, and its gradient in the model, (features, classes)."""
    total = nll.LossAccumulator("cross_entropy", ignore_index=IGNORED)
    gradient = np.zeros_like(model)
    for features, labels in micro_batches:
        logits = features @ model
        total.update(logits, labels)
        of_logits = nll.cross_entropy_backward(1.0, logits, labels, reduction="sum", ignore_index=IGNORED)
        gradient += features.T @ of_logits
    return total.compute("mean"), gradient / total.total_weight


def mean_of_means(model, micro_batches):
    """What averaging the losses of micro-batches gives instead."""
    return np.mean([nll.cross_entropy(x @ model, labels, ignore_index=IGNORED) for x, labels in micro_batches])


def main():
    rng = np.random.default_rng(0)
    model = rng.normal(size=(8, 5))
    lengths = [30, 3, 12]  # of the sentences in each micro-batch; label 0 pads them
    micro_batches = [
        (rng.normal(size=(32, 8)), np.where(np.arange(32) < n, rng.integers(1, 5, 32), IGNORED)) for n in lengths
    ]
    loss, gradient = accumulated(model, micro_batches)

    features, labels = (np.concatenate(arrays) for arrays in zip(*micro_batches, strict=True))
    at_once, of_logits = nll.cross_entropy_value_and_grad(features @ model, labels, ignore_index=IGNORED)
    assert loss == at_once  # the same bits
    np.testing.assert_allclose(gradient, features.T @ of_logits, rtol=1e-12, atol=1e-15)
    print(f"accumulated: {loss:.6f}, at once: {at_once:.6f}, mean of means: {mean_of_means(model, micro_batches):.6f}")


if __name__ == "__main__":
    main()
