# SPDX-License-Identifier: BSD-3-Clause
"""Memory layouts: functions that give an array of the same shape and dtype.

Of the same values too, but for those with strides of 0, which repeat some.
"""

from __future__ import annotations

import numpy as np


def c_order(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array)


def fortran(array: np.ndarray) -> np.ndarray:
    return np.asfortranarray(array)


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.moveaxis(array, 1, -1).copy(), -1, 1)


def transposed_images(array: np.ndarray) -> np.ndarray:
    return np.swapaxes(np.swapaxes(array, -1, -2).copy(), -1, -2)


def negative_strides(array: np.ndarray) -> np.ndarray:
    backwards = (slice(None, None, -1),) * array.ndim
    return array[backwards].copy()[backwards]


def every_second(array: np.ndarray) -> np.ndarray:
    frame = np.full([2 * n for n in array.shape], 77, array.dtype)
    frame[(slice(None, None, 2),) * array.ndim] = array
    return frame[(slice(None, None, 2),) * array.ndim]


def cropped(array: np.ndarray) -> np.ndarray:
    """A window whose axes do not collapse into fewer."""
    frame = np.full([n + 3 for n in array.shape], 77, array.dtype)
    window = frame[tuple(slice(1, n + 1) for n in array.shape)]
    window[...] = array
    return window


def zero_stride_batch(array: np.ndarray) -> np.ndarray:
    return np.broadcast_to(array[:1], array.shape)


def zero_stride_images(array: np.ndarray) -> np.ndarray:
    return np.broadcast_to(array[..., :1], array.shape)


OWN_MEMORY = [
    c_order,
    fortran,
    channels_last,
    transposed_images,
    negative_strides,
    every_second,
    cropped,
]
LAYOUTS = [*OWN_MEMORY, zero_stride_batch, zero_stride_images]


# ---- what is copied where it is read


def unaligned(array: np.ndarray) -> np.ndarray:
    memory = np.frombuffer(bytearray(b"x" + array.tobytes()), np.uint8)[1:]
    return memory.view(array.dtype).reshape(array.shape)


def byte_swapped(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("S"))


class Subclass(np.ndarray):
    """An array of another class, of which nothing is lost where it is read."""
