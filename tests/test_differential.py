# SPDX-License-Identifier: BSD-3-Clause
"""A few hundred of the random problems that `python tests/differential.py` draws by the hundred thousand.

And the comparison finds what is wrong: a result of other bits, a write beside `out`, a refusal that does not come.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nll
from differential import assert_none_differs
from support import losses, public_calls
from support.losses import CROSS_ENTROPY, NLL_LOSS
from support.problems import random_problem


def test_public_functions_have_the_results_of_the_definition():
    assert_none_differs("public", seed=1, calls=600)


def test_results_explain_those_of_pytorch(torch):
    assert_none_differs("pytorch", seed=1, calls=600)


@pytest.mark.parametrize("cross_entropy", [False, True], ids=["nll_loss", "cross_entropy"])
def test_problems_are_those_of_their_seed(cross_entropy):
    """So that a line tells how to draw a failure again."""
    one, other = (random_problem(np.random.default_rng([3, 14]), cross_entropy=cross_entropy) for _ in range(2))
    assert str(one) == str(other)
    for name, value in vars(one).items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(getattr(other, name)))


# ---- bugs that are put in by hand


def one_ulp_more(result: Any) -> Any:
    if isinstance(result, tuple):
        return (one_ulp_more(result[0]), *result[1:])
    return np.nextafter(result, result.dtype.type(np.inf)) if result.size else result


def assert_found(mode: str, message: str, calls: int = 300) -> None:
    with pytest.raises(AssertionError, match=message) as caught:
        assert_none_differs(mode, seed=2, calls=calls)
    assert any(note.startswith(f"again by: python tests/differential.py {mode}") for note in caught.value.__notes__)


def wrapped(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, change: Any) -> None:
    function = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: change(function(*a, **k)))


@pytest.mark.parametrize("name", ["nll_loss", "nll_loss_backward", "cross_entropy", "softmax", "logsumexp"])
def test_a_wrong_result_is_found(name, monkeypatch):
    """Of float32 by a unit in the last place, of float64 by more than its bound."""

    def change(result: Any) -> Any:
        for _ in range(9):
            result = one_ulp_more(result)
        return result

    wrapped(monkeypatch, nll, name, change)
    assert_found("public", "differ, first at|ULP of")


def test_a_write_beside_out_is_found(monkeypatch):
    def change(result: Any) -> Any:
        frame, written = public_calls.owner(result), result.copy()
        if frame.size > result.size:
            frame[...] = 5
            result[...] = written
        return result

    wrapped(monkeypatch, nll, "softmax", change)
    assert_found("public", "what lies around out was written")


def test_a_missing_refusal_is_found(monkeypatch):
    monkeypatch.setattr(nll._arguments, "as_integer", lambda name, value: int(value))
    assert_found("public", "is accepted|: a [A-Za-z]*Error: ", 1500)


def test_a_wrong_word_of_an_error_is_found(monkeypatch):
    wrapped(monkeypatch, nll._arguments, "is_floating", lambda result: True)
    assert_found("public", "is not |: a [A-Za-z]*Error: |is accepted", 1500)


@pytest.mark.parametrize("loss", [NLL_LOSS, CROSS_ENTROPY], ids=str)
def test_a_difference_from_pytorch_is_found(loss, monkeypatch, torch):
    from support import pytorch

    scaled = losses.Loss(**vars(loss) | {"value": lambda *a, **k: loss.value(*a, **k) * (1 + 1e-2)})
    monkeypatch.setattr(pytorch, loss.name.upper(), scaled)
    assert_found("pytorch", "times the errors of both")
