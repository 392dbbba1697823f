# SPDX-License-Identifier: BSD-3-Clause
"""How many threads a call may use."""

from contextvars import ContextVar
from types import TracebackType

from . import _core
from ._arguments import as_num_threads

# What held outside of each block that this thread or task is in, outermost first.
_around: ContextVar[tuple[int, ...]] = ContextVar("nll.num_threads.around", default=())


def get_num_threads() -> int:
    """Return the number of threads that the next large call would use.

    Returns
    -------
    int
        The `n` of the `num_threads` block around the call; else that of `set_num_threads`; else the
        least of what OpenMP reports (``OMP_NUM_THREADS``, threadpoolctl), of the process's CPU
        affinity and of its control group's quota. It is 1 in a forked child until `set_num_threads`
        is called there, and in builds without OpenMP.

    Examples
    --------
    >>> import nll
    >>> nll.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Let the calls of this process use `n` threads.

    Parameters
    ----------
    n : int
        1 to 256; it may exceed the number of CPUs.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is outside 1 to 256.

    Examples
    --------
    >>> import nll
    >>> nll.set_num_threads(2)
    """
    _core.set_num_threads(as_num_threads(n))


class num_threads:
    """Use `n` threads in this block, and in this thread or asynchronous task alone.

    Parameters
    ----------
    n : int
        1 to 256; it may exceed the number of CPUs.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is outside 1 to 256.

    Examples
    --------
    >>> import nll
    >>> with nll.num_threads(1):
    ...     nll.get_num_threads()
    1
    """

    def __init__(self, n: int) -> None:
        self._n = as_num_threads(n)

    def __enter__(self) -> None:
        _around.set((*_around.get(), _core.thread_context.get()))
        _core.thread_context.set(self._n)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not _around.get():
            rule = "a block is left by the thread or task that entered it"
            raise ValueError(f"num_threads: no block is left here; {rule}")
        *around, outer = _around.get()
        _around.set(tuple(around))
        _core.thread_context.set(outer)
