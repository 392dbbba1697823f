# SPDX-License-Identifier: BSD-3-Clause
"""Refuses to be imported in a sub-interpreter, where the extension would hang."""

try:
    import _interpreters as interpreters  # type: ignore[import-not-found]  # from Python 3.13 on
except ImportError:
    import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]

if interpreters.get_current() != interpreters.get_main():
    raise ImportError(
        "nll was imported in a sub-interpreter; it serves the main interpreter of a process alone",
    )
