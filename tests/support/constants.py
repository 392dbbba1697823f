# SPDX-License-Identifier: BSD-3-Clause
"""The sizes at which the library goes another way, read from the headers that it was built from.

Tests stand on both sides of each, wherever it lies.
"""

from __future__ import annotations

import re
from pathlib import Path

import nll

HEADERS = [path.read_text("utf-8") for path in sorted(Path(nll.get_include(), "nll").rglob("*.hpp"))]


def constant(name: str) -> int:
    """The integer that the headers define under this name."""
    definition = re.compile(rf"\bconstexpr\s+\w+\s+{name}\s*=\s*([\w\s<{{}}]+);")
    values = {value_of(expression) for header in HEADERS for expression in definition.findall(header)}
    assert len(values) == 1, f"{name} is {values} in {len(HEADERS)} headers"
    return values.pop()


def value_of(expression: str) -> int:
    """The value of a C++ expression of integers and shifts, such as `index_t{1} << 22`."""
    shifted, *places = (int(re.sub(r"index_t\{(\d+)\}", r"\1", part)) for part in expression.split("<<"))
    return shifted << sum(places)


BLOCK_SIZE = constant("block_size")  # samples that are taken at a time, and values that are summed at a time
CHUNK_SIZE = constant("chunk_size")  # classes whose exponentials are summed before they meet those of others
MAX_SEQUENTIAL_CLASSES = constant("max_sequential_classes")  # of more, classes are summed in lanes
MAX_TABLED_CLASSES = constant("max_tabled_classes")  # of more, each weight is looked up where it is
MAX_KEPT_CLASSES = constant("max_kept_classes")  # of more, exponentials are computed twice
MIN_PARALLEL_SAMPLES = constant("min_parallel_samples")  # fewer are left to one thread
LANES = constant("lanes")


def around(size: int) -> list[int]:
    return [size - 1, size, size + 1]
