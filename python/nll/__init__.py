# SPDX-License-Identifier: BSD-3-Clause
"""Negative log likelihood and cross-entropy for CPUs.

Exact, as fast as memory allows, and silent about nothing.
"""

from . import _interpreter as _interpreter  # first: it refuses sub-interpreters
from ._build import build_info, get_cmake_dir, get_include
from ._threads import get_num_threads, num_threads, set_num_threads
from .accumulator import LossAccumulator, merge
from .functional import (
    cross_entropy,
    cross_entropy_backward,
    cross_entropy_value_and_grad,
    log_softmax,
    logsumexp,
    nll_loss,
    nll_loss_backward,
    nll_loss_value_and_grad,
    softmax,
)
from .modules import CrossEntropyLoss, NLLLoss

__version__: str = build_info()["version"]

__all__ = [
    "CrossEntropyLoss",
    "LossAccumulator",
    "NLLLoss",
    "__version__",
    "build_info",
    "cross_entropy",
    "cross_entropy_backward",
    "cross_entropy_value_and_grad",
    "get_cmake_dir",
    "get_include",
    "get_num_threads",
    "log_softmax",
    "logsumexp",
    "merge",
    "nll_loss",
    "nll_loss_backward",
    "nll_loss_value_and_grad",
    "num_threads",
    "set_num_threads",
    "softmax",
]
