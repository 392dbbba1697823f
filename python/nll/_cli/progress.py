# SPDX-License-Identifier: BSD-3-Clause
"""A progress bar on standard error, if that is a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import required


@contextmanager
def progress_bar(samples: int) -> Iterator[Callable[[int], object]]:
    """Show how far it is, at what rate, and how long it will take; yield what is to be told."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda done: None
        return
    with required("tqdm").tqdm(
        total=samples,
        desc="scoring",
        unit=" samples",
        unit_scale=True,
        leave=False,
        dynamic_ncols=True,
    ) as bar:
        yield bar.update
