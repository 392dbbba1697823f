# SPDX-License-Identifier: BSD-3-Clause
"""The command ``nll``, also as ``python -m nll``: scores predictions in files."""

import sys


def main() -> None:
    """Run the command line; without its packages, say what to install."""
    try:
        import click  # noqa: F401
    except ModuleNotFoundError:
        sys.exit("nll: the command line needs click: python -m pip install 'nll[cli]'")
    from ._cli.commands import nll

    nll()


if __name__ == "__main__":
    main()
