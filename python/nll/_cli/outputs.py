# SPDX-License-Identifier: BSD-3-Clause
"""Files that are written: whole or not at all, and none in the place of another."""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import BadInput, Failure


class Output:
    """A file that is written under another name in its folder, and gets its own when it is whole.

    The other name is no other process's. That it can be written is known at once.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.partial = f"{path}.{secrets.token_hex(4)}.part"
        if os.path.isdir(path):
            raise Failure(f"{path}: Is a directory")
        if os.path.exists(path) and not os.path.isfile(path):
            raise Failure(f"{path} is no regular file, which could be replaced")
        with self.failing(), open(self.partial, "xb"):
            pass

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Name the file in what the system or a format says of writing it."""
        try:
            yield
        except (OSError, ValueError) as error:
            problem = getattr(error, "strerror", None) or error
            raise Failure(f"{self.path}: {problem}") from error

    def keep(self) -> None:
        """Give the file its name."""
        with self.failing():
            os.replace(self.partial, self.path)


@contextmanager
def output(path: str | None) -> Iterator[Output | None]:
    """Yield an output, and remove what was not kept of it."""
    if path is None:
        yield None
        return
    opened = Output(path)
    try:
        yield opened
    finally:
        if os.path.exists(opened.partial):
            os.remove(opened.partial)


def check_outputs(outputs: dict[str, str | None], inputs: Iterable[str]) -> None:
    """Refuse outputs, by option, that would replace an input, something in it, or one another."""
    taken = {os.path.realpath(path): f"the input {path}" for path in inputs}
    for option, path in outputs.items():
        if path is None:
            continue
        real = os.path.realpath(path)
        for other, what in taken.items():
            same = os.path.exists(real) and os.path.exists(other) and os.path.samefile(real, other)
            if same or Path(real).is_relative_to(other):
                raise BadInput(f"{option} {path} would replace {what}")
        taken[real] = f"that of {option}"
