# SPDX-License-Identifier: BSD-3-Clause
"""Notes for failures inside of loops."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def note(*what: object) -> Iterator[None]:
    """Let the message of a failure tell what the loop was at."""
    try:
        yield
    except BaseException as error:
        error.add_note("at " + ", ".join(getattr(one, "__name__", str(one)) for one in what))
        raise
