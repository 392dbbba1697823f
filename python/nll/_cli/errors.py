# SPDX-License-Identifier: BSD-3-Clause
"""The two kinds of ends that a command may come to, their words, and packages that it may miss."""

import importlib
from types import ModuleType

EXTRA = "python -m pip install 'nll[cli]'"


class BadInput(Exception):
    """Something that was given is wrong: exit status 2."""


class Failure(Exception):
    """Something that was asked for could not be done: exit status 1."""


def printable(text: str) -> str:
    """Escape what a terminal would obey, and what cannot be encoded."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def required(module: str) -> ModuleType:
    """Import a module of a package of the extra, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise Failure(f"this needs {package}: {EXTRA}") from None
