# SPDX-License-Identifier: BSD-3-Clause
"""What this build is, and where it keeps what C++ projects need."""

from importlib.resources import files
from typing import TypedDict

from . import _core


class BuildInfo(TypedDict):
    """What `build_info` returns."""

    version: str
    compiler: str
    instruction_set: str
    openmp: int | None
    num_threads: int


def build_info() -> BuildInfo:
    """Tell how the library was built and which of its kernels run here.

    Returns
    -------
    dict
        ``version``; ``compiler``; ``instruction_set`` of the kernels that were picked for this
        machine, or that the environment variable ``NLL_INSTRUCTION_SET`` names (``x86-64``,
        ``x86-64-v3``, ``x86-64-v4`` or ``native``); ``openmp``, the date of its specification, None
        without; ``num_threads`` that a large call would use.

    Raises
    ------
    ValueError
        If ``NLL_INSTRUCTION_SET`` names one that this machine does not run.

    Examples
    --------
    >>> import nll
    >>> nll.build_info()["version"] == nll.__version__
    True
    """
    return _core.build_info()


def get_include() -> str:
    """Return the folder of the C++ headers, for a compiler's ``-I``.

    Returns
    -------
    str
        The folder that holds ``nll/nll.hpp``.

    Examples
    --------
    >>> import nll, os
    >>> os.path.exists(os.path.join(nll.get_include(), "nll", "nll.hpp"))
    True
    """
    return str(files("nll") / "include")


def get_cmake_dir() -> str:
    """Return the folder of the CMake package, for ``-Dnll_DIR=``.

    A project that is built by scikit-build-core finds it without.

    Returns
    -------
    str
        The folder that holds ``nllConfig.cmake``.

    Examples
    --------
    >>> import nll, os
    >>> os.path.exists(os.path.join(nll.get_cmake_dir(), "nllConfig.cmake"))
    True
    """
    return str(files("nll") / "lib" / "cmake" / "nll")
