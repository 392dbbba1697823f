# SPDX-License-Identifier: BSD-3-Clause
"""The sizes at which the library goes another way, read from the headers that it was built from.

Tests stand on both sides of each, wherever it lies.
"""

from __future__ import annotations

import re
from pathlib import Path

import nll

HEADERS = sorted(Path(nll.get_include(), "nll").rglob("*.hpp"))


def constant(*names: str) -> int:
    """The integer that the headers define under one of these names, and under one only."""
    definition = re.compile(rf"\bconstexpr\s+\w+\s+(?:{'|'.join(names)})\s*=\s*(\d+)\s*;")
    values = [int(value) for header in HEADERS for value in definition.findall(header.read_text("utf-8"))]
    assert len(values) == 1, f"{' or '.join(names)} is defined {len(values)} times in {len(HEADERS)} headers"
    return values[0]


BLOCK_SIZE = constant("block_size")  # samples that are taken at a time, and values that are summed at a time
CHUNK_SIZE = constant("chunk_size")  # classes whose exponentials are summed before they meet those of others
MAX_SEQUENTIAL_CLASSES = constant("max_sequential_classes", "in_turn")  # of more, classes are summed in lanes
LANES = constant("lanes")


def around(size: int) -> list[int]:
    return [size - 1, size, size + 1]
