# SPDX-License-Identifier: BSD-3-Clause
"""All pairs: as few test cases as let every two values of different axes meet.

A full product of axes tests little more where the axes meet in code two at a time only.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def all_pairs(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Rows with a value of each axis, in which every two values of different axes stand side by side in some row.

    The choice is greedy and the same every time. There are rarely more than a few rows beyond the product of the two
    longest axes, below which no choice can go.
    """
    choose = random.Random(0)
    places = [[(axis, index) for index in range(len(values))] for axis, values in enumerate(axes)]
    missing = {pair for one, other in itertools.combinations(places, 2) for pair in itertools.product(one, other)}
    if len(axes) == 1:
        return [(value,) for value in axes[0]]
    rows = []
    while missing:
        row = dict(min(missing))
        for axis in choose.sample(range(len(axes)), len(axes)):
            if axis not in row:
                row[axis] = choose.choice(best_of(places[axis], row, missing))[1]
        missing.difference_update(itertools.combinations(sorted(row.items()), 2))
        rows.append(tuple(values[row[axis]] for axis, values in enumerate(axes)))
    return rows


def best_of(places: list[tuple[int, int]], row: dict[int, int], missing: set[Any]) -> list[tuple[int, int]]:
    """The places that make the most missing pairs with what is in the row."""
    found = [sum(tuple(sorted((place, other))) in missing for other in row.items()) for place in places]
    return [place for place, count in zip(places, found, strict=True) if count == max(found)]


def pairwise(*, indirect: Sequence[str] = (), **axes: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrize a test by all pairs of these axes. The names in `indirect` are those of fixtures."""
    rows = all_pairs(*(list(values) for values in axes.values()))
    names = list(axes)
    return pytest.mark.parametrize(
        names,
        [pytest.param(*row, id="-".join(map(identify, names, row))) for row in rows],
        indirect=list(indirect),
    )


def identify(name: str, value: Any) -> str:
    """A value of an axis as a part of a test's id."""
    if isinstance(value, str):
        return value
    readable = getattr(value, "__name__", None) or str(value).replace(" ", "")
    return f"{name}={readable}" if not callable(value) else readable.replace("_", "-")
