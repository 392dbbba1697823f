# SPDX-License-Identifier: BSD-3-Clause
"""Random arrays for the tests: inputs, targets, class weights and gradients of every dtype."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

FLOAT_DTYPES = [np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)]
INTEGER_DTYPES = [np.dtype(t) for t in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")]
WEIGHT_DTYPES = [None, *FLOAT_DTYPES, *INTEGER_DTYPES]
REDUCTIONS = ["none", "sum", "mean"]


def random_input(rng: np.random.Generator, shape: Any, dtype: Any, exponents: tuple[int, int] = (-24, 8)) -> np.ndarray:
    """Numbers of both signs with every significand bit in use, their exponents spread evenly over [low, high)."""
    values = rng.choice([-1.0, 1.0], shape) * rng.uniform(1, 2, shape)
    return np.ldexp(values, rng.integers(*exponents, shape)).astype(dtype)


def random_logits(rng: np.random.Generator, shape: Any, dtype: Any, scale: float = 3) -> np.ndarray:
    """Normally distributed numbers."""
    return (scale * rng.normal(size=shape)).astype(dtype)


def random_target(
    rng: np.random.Generator, shape: Any, class_count: int, dtype: Any = np.int64, *, ignored: int | None = None
) -> np.ndarray:
    """Labels in [0, class_count); about a quarter of them replaced by `ignored` where that is given."""
    target = rng.integers(0, class_count, shape).astype(dtype)
    if ignored is not None:
        target = np.where(rng.random(shape) < 0.25, np.array(ignored, dtype), target)
    return target


def random_weight(rng: np.random.Generator, class_count: int, dtype: Any) -> np.ndarray | None:
    """Weights of either sign, one of them zero, that use every bit of the dtype; None for dtype None."""
    if dtype is None:
        return None
    dtype = np.dtype(dtype)
    if dtype.kind in "iu":
        weight = rng.integers(1, 100, class_count).astype(dtype)
    else:
        weight = rng.uniform(0.1, 3, class_count).astype(dtype)
        weight[-1] = -weight[-1] / 16
    weight[0] = 0
    return weight


def random_grad_output(rng: np.random.Generator, target_shape: Any, reduction: str, dtype: Any = np.float64) -> Any:
    """Numbers that use every bit of the dtype, one for each sample; one double for a reduced loss."""
    return np.asarray(rng.normal(size=target_shape)).astype(dtype) if reduction == "none" else rng.normal()
