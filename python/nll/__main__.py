# SPDX-License-Identifier: BSD-3-Clause
"""The command ``nll``, also as ``python -m nll``: scores predictions in files."""

import io
import sys


def main() -> None:
    """Run the command line; without its packages, say what to install.

    What a stream cannot encode is escaped there.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        import click  # noqa: F401
    except ModuleNotFoundError:
        sys.exit("nll: the command line needs click: python -m pip install 'nll[cli]'")
    from ._cli.commands import nll

    nll()


if __name__ == "__main__":
    main()
