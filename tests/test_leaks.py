# SPDX-License-Identifier: BSD-3-Clause
"""Nothing grows with calls or with errors: neither memory nor references. `support.leaks` makes a million by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support import leaks

TIMES = 3000


@pytest.mark.parametrize(("name", "call"), [pytest.param(*one, id=one[0]) for one in leaks.every_call()])
def test_nothing_grows(name: str, call: Callable[[], Any]):
    """In one of three tries: others of the process may have allocated something meanwhile."""
    found = [leaks.leaks(leaks.growth(call, TIMES), TIMES)]
    while found[-1] and len(found) < 3:
        found.append(leaks.leaks(leaks.growth(call, TIMES), TIMES))
    assert not found[-1], f"{name}: {found}"


def test_a_leak_is_seen():
    """Of a reference, and of an object, in each call."""
    kept = []
    assert "references of input" in leaks.leaks(leaks.growth(lambda: kept.append(leaks.input), 1000), 1000)
    assert "blocks of Python" in leaks.leaks(leaks.growth(lambda: kept.append([1]), 1000), 1000)
    assert "bytes of malloc" in leaks.leaks(leaks.growth(lambda: kept.append(bytearray(5000)), 1000), 1000)
