# SPDX-License-Identifier: BSD-3-Clause
"""The types of the public functions."""

from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Scalar: TypeAlias = np.floating[Any]  # or ml_dtypes.bfloat16, which NumPy's types do not know
Losses: TypeAlias = Array | Any  # a scalar for a 0-d target

Reduced: TypeAlias = Literal["mean", "sum"]
Reduction: TypeAlias = Literal["mean", "sum", "none"]
Empty: TypeAlias = Literal["nan", "zero", "raise"]


class Choices(TypedDict, total=False):
    """Keywords of all losses that do not change what kind of object is returned."""

    ignore_index: int | None
    axis: int
    index_base: int
    empty: Empty
