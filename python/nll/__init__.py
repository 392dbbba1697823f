# SPDX-License-Identifier: BSD-3-Clause
"""The negative log likelihood loss for CPUs: exact, at the memory limit, nothing silent."""

from ._build import build_info, get_cmake_dir, get_include
from ._threads import get_num_threads, num_threads, set_num_threads
from .functional import nll_loss, nll_loss_backward, nll_loss_value_and_grad
from .modules import NLLLoss

__version__: str = build_info()["version"]

__all__ = [
    "NLLLoss",
    "__version__",
    "build_info",
    "get_cmake_dir",
    "get_include",
    "get_num_threads",
    "nll_loss",
    "nll_loss_backward",
    "nll_loss_value_and_grad",
    "num_threads",
    "set_num_threads",
]
