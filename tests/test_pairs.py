# SPDX-License-Identifier: BSD-3-Clause
"""The generator of test cases itself."""

from __future__ import annotations

import itertools

import pytest

from support.pairs import all_pairs


@pytest.mark.parametrize("sizes", [(1, 1), (2, 2, 2), (3, 4), (9, 4, 13, 3, 8, 4), (1, 5, 1), (3, 8, 9)], ids=str)
def test_every_two_values_meet_in_a_few_rows(sizes):
    axes = [range(100 * axis, 100 * axis + size) for axis, size in enumerate(sizes)]
    rows = all_pairs(*axes)
    for one, other in itertools.combinations(range(len(sizes)), 2):
        met = {(row[one], row[other]) for row in rows}
        assert met == set(itertools.product(axes[one], axes[other]))
    longest, second = sorted(sizes)[:-3:-1]
    assert longest * second <= len(rows) <= 1.3 * longest * second
    assert rows == all_pairs(*axes)


def test_a_single_axis_has_its_values():
    assert all_pairs("abc") == [("a",), ("b",), ("c",)]
