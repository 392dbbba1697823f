# SPDX-License-Identifier: BSD-3-Clause
"""Run a real language model on real text, and save its logits for `nll score`.

The model is textgenrnn's, which predicts the next character; its weights come inside the package. It is computed here
with NumPy alone, so the package needs none of its dependencies: python -m pip install --no-deps textgenrnn. The text is
the Zen of Python and Python's own documentation. Saves the logits of the model as it is, and of one whose weights were
rounded to 8 bits, as people do to make models smaller:

    logits.npy, logits-int8.npy    (L, 465), float32: position i predicts character i + 1
    tokens.npy                     (L,), uint16
    texts.npy                      (L,), uint8: 0 for the Zen of Python, 1 for the documentation
"""

import argparse
import codecs
import contextlib
import importlib.util
import io
import json
import os
from pathlib import Path
from pydoc_data.topics import topics

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the matrices are small: threads would wait for each other

import h5py
import numpy as np
from tqdm import tqdm

CONTEXT = 40  # characters that the model sees
START = "<s>"


class Layer:
    """A layer of long short-term memory: its gates are those of the input, of what to forget, of the cell, and out."""

    def __init__(self, group: h5py.Group) -> None:
        kernels = np.split(group["kernel:0"][()], 4, axis=1)
        recurrent = np.split(group["recurrent_kernel:0"][()], 4, axis=1)
        # Trained on a GPU, whose library keeps each gate's matrix with its outputs first, and two biases.
        self.kernel = np.hstack([kernel.reshape(kernel.shape[::-1]).T for kernel in kernels])
        self.recurrent = np.hstack([kernel.T for kernel in recurrent])
        self.bias = sum(np.split(group["bias:0"][()], 2))

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """(N, T, features) -> (N, T, units)"""
        projected = inputs @ self.kernel + self.bias
        state = np.zeros((len(inputs), len(self.recurrent)), np.float32)
        cell = np.zeros_like(state)
        outputs = np.empty((*inputs.shape[:2], state.shape[1]), np.float32)
        for t in range(inputs.shape[1]):
            into, forget, candidate, out = np.split(projected[:, t] + state @ self.recurrent, 4, axis=1)
            cell = sigmoid(forget) * cell + sigmoid(into) * np.tanh(candidate)
            state = sigmoid(out) * np.tanh(cell)
            outputs[:, t] = state
        return outputs


class Model:
    """Embedding, two layers, an average over time by attention, and a logit for each character."""

    def __init__(self, weights: h5py.File) -> None:
        self.embedding = weights["embedding/embedding/embeddings:0"][()]
        self.layers = [Layer(weights[f"rnn_{i}/rnn_{i}"]) for i in (1, 2)]
        self.attention = weights["attention/attention/attention_W:0"][:, 0]
        self.kernel = weights["output/output/kernel:0"][()]
        self.bias = weights["output/output/bias:0"][()]

    def __call__(self, contexts: np.ndarray) -> np.ndarray:
        """(N, CONTEXT) characters -> (N, C) logits of the next one"""
        embedded = self.embedding[contexts]
        first = self.layers[0](embedded)
        features = np.concatenate([embedded, first, self.layers[1](first)], axis=-1)
        scores = features @ self.attention
        attention = np.exp(scores - scores.max(axis=1, keepdims=True))
        attention /= attention.sum(axis=1, keepdims=True)
        return np.einsum("nt,ntf->nf", attention, features) @ self.kernel + self.bias

    def round_to_8_bits(self) -> None:
        """Round each matrix to 255 multiples of one number."""
        self.embedding = rounded(self.embedding)
        self.kernel = rounded(self.kernel)
        for layer in self.layers:
            layer.kernel, layer.recurrent = rounded(layer.kernel), rounded(layer.recurrent)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * x) + np.float32(0.5)


def rounded(matrix: np.ndarray) -> np.ndarray:
    step = np.abs(matrix).max() / 127
    return np.rint(matrix / step) * step


def real_texts(characters: int) -> list[str]:
    """The Zen of Python, and so much of Python's documentation."""
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    documentation = " ".join(topics["execmodel"].split() + topics["exceptions"].split())
    return [" ".join(codecs.decode(this.s, "rot13").split()), documentation[:characters]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--characters", type=int, default=2000, help="of documentation (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to save (default: here)")
    arguments = parser.parse_args()

    spec = importlib.util.find_spec("textgenrnn")  # found, not imported
    if spec is None or spec.origin is None:
        parser.exit(1, "this needs textgenrnn: python -m pip install --no-deps textgenrnn\n")
    package = Path(spec.origin).parent
    vocabulary = json.loads((package / "textgenrnn_vocab.json").read_text("utf-8"))
    texts = real_texts(arguments.characters)
    encoded = [[vocabulary[START], *(vocabulary[c] for c in text if c in vocabulary)] for text in texts]
    contexts = []  # 0 stands before the start
    for tokens in encoded:
        padded = np.array([0] * (CONTEXT - 1) + tokens)
        contexts.append(np.lib.stride_tricks.sliding_window_view(padded, CONTEXT))
    contexts = np.concatenate(contexts)

    arguments.folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(package / "textgenrnn_weights.hdf5") as weights:
        model = Model(weights)
    for name in "logits", "logits-int8":
        if name == "logits-int8":
            model.round_to_8_bits()
        shape = (len(contexts), len(model.bias))
        logits = np.lib.format.open_memmap(arguments.folder / f"{name}.npy", "w+", np.float32, shape)
        for start in tqdm(range(0, len(contexts), 256), desc=name, unit="batch", disable=None):
            logits[start : start + 256] = model(contexts[start : start + 256])
        logits.flush()
    tokens = np.concatenate([np.array(tokens, np.uint16) for tokens in encoded])
    np.save(arguments.folder / "tokens.npy", tokens)
    np.save(arguments.folder / "texts.npy", np.repeat(np.arange(2, dtype=np.uint8), [len(t) for t in encoded]))
    print(f"saved {len(tokens)} characters; each text begins with {vocabulary[START]}, which is not to be predicted")


if __name__ == "__main__":
    main()
