# SPDX-License-Identifier: BSD-3-Clause
"""The types of the public functions."""

from typing import Any, Literal, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Scalar: TypeAlias = np.floating[Any]  # or ml_dtypes.bfloat16, which NumPy's types do not know
Losses: TypeAlias = Array | Any  # a scalar for a 0-d target

Reduced: TypeAlias = Literal["mean"] | Literal["sum"]
Reduction: TypeAlias = Reduced | Literal["none"]
Empty: TypeAlias = Literal["nan"] | Literal["zero"] | Literal["raise"]
