# SPDX-License-Identifier: BSD-3-Clause
"""Train a softmax classifier on the handwritten digits that scikit-learn ships, with nothing but NumPy and nll.

Every training image is used nine times with other noise, a tenth of the labels is unknown (ignored), and classes weigh
inversely to how often they occur. Prints the accuracy on digits that were held out, and saves a picture.
"""

import argparse
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import nll

mpl.use("Agg")
import matplotlib.pyplot as plt

UNKNOWN = 255
LEARNING_RATE = np.float32(0.5)


def with_bias(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels, np.ones((len(pixels), 1), np.float32)], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="steps of training (default: %(default)s)")
    parser.add_argument("--plot", type=Path, default=Path("digits.png"), help="picture to save (default: %(default)s)")
    parser.add_argument("--save", type=Path, help="folder for the held-out digits' logits.npy and labels.npy")
    arguments = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype(np.float32), labels.astype(np.uint8)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.25, random_state=0, stratify=labels
    )
    rng = np.random.default_rng(0)
    noisy = np.tile(train_images, (9, 1)) + rng.normal(scale=0.1, size=(9 * len(train_images), 64)).astype(np.float32)
    x = with_bias(noisy)  # (N, 65)
    target = np.tile(train_labels, 9)  # (N,)
    target[rng.random(len(target)) < 0.1] = UNKNOWN
    weight = 1 / np.bincount(target[target != UNKNOWN], minlength=10)
    loss_fn = nll.CrossEntropyLoss(weight / weight.mean(), ignore_index=UNKNOWN)

    parameters = np.zeros((65, 10), np.float32)
    velocity = np.zeros_like(parameters)
    logits = np.empty((len(x), 10), np.float32)  # the same memory in every step
    curve = []
    start = time.perf_counter()
    for _ in (steps := tqdm(range(arguments.steps), desc="training", unit="step", disable=None)):
        np.matmul(x, parameters, out=logits)
        loss, gradient = loss_fn.value_and_grad(logits, target, out=logits)  # the gradient takes the logits' place
        velocity = 0.9 * velocity - LEARNING_RATE * x.T @ gradient
        parameters += velocity
        curve.append(float(loss))
        steps.set_postfix(loss=f"{loss:.4f}")
    seconds = time.perf_counter() - start

    logits = x @ parameters
    print(
        f"{len(x)} images, {np.count_nonzero(target == UNKNOWN)} of them without a label, {seconds:.1f} s of training"
    )
    for threads in (1, 2):
        with nll.num_threads(threads):
            final = loss_fn(logits, target)
        print(f"final loss, {threads} thread{'s'[: threads - 1]}: {final:.7f} = {float(final).hex()}")

    logits = with_bias(test_images) @ parameters
    if arguments.save is not None:  # for: nll score logits.npy labels.npy
        arguments.save.mkdir(parents=True, exist_ok=True)
        np.save(arguments.save / "logits.npy", logits)
        np.save(arguments.save / "labels.npy", test_labels)
    held_out = nll.log_softmax(logits)
    accuracy = np.mean(held_out.argmax(axis=1) == test_labels)
    loss = nll.nll_loss(held_out, test_labels)
    print(f"accuracy on {len(test_labels)} held-out digits: {accuracy:.1%}, loss {loss:.4f}")

    losses = nll.nll_loss(held_out, test_labels, reduction="none")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(curve)
    left.set(title="Training", xlabel="step", ylabel="weighted mean loss (nats)", yscale="log")
    of_digits = [losses[test_labels == digit].mean() for digit in range(10)]
    right.bar(range(10), of_digits)
    right.set(
        title=f"Held-out digits: {accuracy:.1%} right", xlabel="digit", ylabel="mean loss (nats)", xticks=range(10)
    )
    figure.savefig(arguments.plot, dpi=120)
    print(f"saved {arguments.plot}")


if __name__ == "__main__":
    main()
