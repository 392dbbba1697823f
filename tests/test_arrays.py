# SPDX-License-Identifier: BSD-3-Clause
"""What counts as an array: everything NumPy takes, arrays of other packages in place, and odd memory by a copy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nll
from support import oracle
from support.oracle import assert_same_bits
from support.samples import FLOAT_DTYPES, random_grad_output, random_input, random_target

INPUT = -np.arange(12, dtype=np.float64).reshape(4, 3)
TARGET = np.array([0, 2, 1, 1])


@pytest.fixture
def expected() -> np.ndarray:
    return oracle.nll_loss(INPUT, TARGET).loss


# ---- array-likes


def test_lists(expected):
    assert_same_bits(nll.nll_loss(INPUT.tolist(), TARGET.tolist()), expected)
    assert_same_bits(nll.nll_loss(INPUT, TARGET, [1, 1, 1]), expected)
    assert_same_bits(nll.nll_loss(INPUT, tuple(TARGET), (1.0, 1, 1)), expected)


def test_lists_of_numpy_scalars():
    loss = nll.nll_loss([[np.float32(-1), np.float32(-2)]], [np.uint8(1)])
    assert_same_bits(loss, np.float32(2))


def test_target_of_one_sample_may_be_an_integer():
    assert nll.nll_loss([-1.0, -2.0], 1) == 2
    assert nll.nll_loss([-1.0, -2.0], np.int8(1)) == 2


def test_gradient_of_lists():
    gradient = nll.nll_loss_backward(1.0, INPUT.tolist(), TARGET.tolist())
    assert_same_bits(gradient, oracle.nll_loss_backward(1.0, INPUT, TARGET))


def test_grad_output_may_be_a_list():
    gradient = nll.nll_loss_backward([1.0, 2, 3, 4], INPUT, TARGET, reduction="none")
    assert gradient[TARGET == 1].sum(0).tolist() == [0, -7, 0]


class Subclass(np.ndarray):
    pass


def test_subclasses(expected):
    assert_same_bits(nll.nll_loss(INPUT.view(Subclass), TARGET.view(Subclass)), expected)
    gradient = nll.nll_loss_backward(1.0, INPUT.view(Subclass), TARGET.view(Subclass))
    assert_same_bits(gradient, oracle.nll_loss_backward(1.0, INPUT, TARGET))


class Lying(np.ndarray):
    """One whose attributes are another array's."""

    dtype = property(lambda self: np.dtype(np.float16))  # type: ignore[assignment]
    shape = property(lambda self: (1,))  # type: ignore[assignment]
    strides = property(lambda self: (1,))  # type: ignore[assignment]
    size = property(lambda self: 0)
    ndim = property(lambda self: 1)
    flags = None  # type: ignore[assignment]


def test_arguments_are_judged_by_their_memory(loss, rng):
    """Not by what a subclass says of itself."""
    input, target = loss.random_input(rng, (4, 3), np.float32), random_target(rng, 4, 3)
    weight, grad_output = rng.uniform(size=3), rng.normal(size=4)
    arrays, choices = (input, target, weight), {"sample_weight": rng.uniform(size=4)}
    lying = tuple(array.view(Lying) for array in arrays), {"sample_weight": choices["sample_weight"].view(Lying)}
    assert_same_bits(loss.value(*lying[0], **lying[1]), loss.value(*arrays, **choices))
    gradient = loss.backward(grad_output.view(Lying), *lying[0], **lying[1], reduction="none")
    assert_same_bits(gradient, loss.backward(grad_output, *arrays, **choices, reduction="none"))
    number = loss.backward(np.array(0.5).view(Lying), *lying[0], **lying[1])
    assert_same_bits(number, loss.backward(0.5, *arrays, **choices))


def test_subclass_as_out():
    out = np.zeros_like(INPUT).view(Subclass)
    assert nll.nll_loss_backward(1.0, INPUT, TARGET, out=out) is out
    assert_same_bits(out, oracle.nll_loss_backward(1.0, INPUT, TARGET))


def test_matrix(expected):
    """np.matrix never has one dimension, so its shape must not be asked for."""
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.asmatrix(INPUT)
    assert_same_bits(nll.nll_loss(matrix, TARGET), expected)


def test_read_only_arrays(expected):
    arrays = INPUT.copy(), TARGET.copy(), np.ones(3)
    for array in arrays:
        array.flags.writeable = False
    assert_same_bits(nll.nll_loss(*arrays), expected)
    assert_same_bits(nll.nll_loss_backward(1.0, *arrays), oracle.nll_loss_backward(1.0, *arrays))


def test_memory_mapped_arrays(tmp_path: Path, expected):
    np.save(tmp_path / "input.npy", INPUT)
    np.save(tmp_path / "target.npy", TARGET)
    input, target = (np.load(tmp_path / name, mmap_mode="r") for name in ("input.npy", "target.npy"))
    assert_same_bits(nll.nll_loss(input, target), expected)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", INPUT.dtype, INPUT.shape)
    assert nll.nll_loss_backward(1.0, input, target, out=out) is out
    out.flush()
    assert_same_bits(np.load(tmp_path / "out.npy"), oracle.nll_loss_backward(1.0, INPUT, TARGET))


def test_buffers(expected):
    assert_same_bits(nll.nll_loss(memoryview(INPUT), memoryview(TARGET)), expected)


# ---- memory that is copied: byte-swapped, unaligned


def byte_swapped(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder())


def unaligned(array: np.ndarray) -> np.ndarray:
    buffer = np.empty(array.nbytes + 1, np.uint8)[1:]
    odd = buffer.view(array.dtype).reshape(array.shape)
    odd[...] = array
    return odd


def packed_field(array: np.ndarray) -> np.ndarray:
    """A column of a table without padding."""
    table = np.zeros(array.shape, [("flag", np.uint8), ("value", array.dtype)])
    table["value"] = array
    return table["value"]


def unaligned_and_swapped(array: np.ndarray) -> np.ndarray:
    return unaligned(byte_swapped(array))


ODD = [byte_swapped, unaligned, packed_field, unaligned_and_swapped]
ODD_DTYPES = [
    pytest.param(odd, dtype, id=f"{odd.__name__}-{dtype}")
    for odd in ODD
    for dtype in FLOAT_DTYPES
    if dtype.isbuiltin == 1 or odd in (unaligned, packed_field)  # bfloat16 has no other byte order
]


@pytest.mark.parametrize(("odd", "dtype"), ODD_DTYPES)
def test_odd_memory(loss, odd, dtype, reduction, rng):
    input, target = loss.random_input(rng, (50, 5), dtype), random_target(rng, 50, 5, np.int32, ignored=-100)
    arrays, grad_output = (
        (input, target, loss.random_weight(rng, 5, np.float32)),
        random_grad_output(rng, 50, reduction),
    )
    odd_arrays = tuple(map(odd, arrays))
    odd_grad_output = odd(grad_output) if reduction == "none" else grad_output
    assert not odd_arrays[0].flags.aligned or not odd_arrays[0].dtype.isnative
    assert_same_bits(loss.value(*odd_arrays, reduction=reduction), loss.value(*arrays, reduction=reduction))
    gradient = loss.backward(odd_grad_output, *odd_arrays, reduction=reduction)
    assert gradient.dtype == dtype
    assert gradient.dtype.isnative
    assert_same_bits(gradient, loss.backward(grad_output, *arrays, reduction=reduction))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=lambda t: t.__name__)
def test_byte_order_of_the_machine_by_its_name(loss, dtype, reduction, rng):
    """Zarr's dtypes say "<" where NumPy's say "=". Nothing is copied."""

    def named(array):
        return array.view(array.dtype.newbyteorder("<" if sys.byteorder == "little" else ">"))

    arrays = loss.random_input(rng, (50, 5), dtype), random_target(rng, 50, 5, np.int32), rng.uniform(size=5)
    assert named(arrays[0]).dtype.byteorder != arrays[0].dtype.byteorder
    result = loss.value(*map(named, arrays), reduction=reduction)
    assert_same_bits(result, loss.value(*arrays, reduction=reduction))
    grad_output = 1.0 if reduction != "none" else np.ones(50)
    gradient = loss.backward(grad_output, *map(named, arrays), reduction=reduction)
    assert gradient.dtype.byteorder == "="
    out = named(np.empty((50, 5), dtype))
    assert loss.backward(grad_output, *map(named, arrays), reduction=reduction, out=out) is out
    assert_same_bits(out.view(gradient.dtype), gradient)


def test_position_of_a_bad_label_in_odd_memory():
    with pytest.raises(IndexError, match=r"target\[2\] is 513, outside \[0, 3\)"):
        nll.nll_loss(INPUT, byte_swapped(np.array([0, 1, 513, 1])))


# ---- arrays of other packages


class OnlyDLPack:
    """An array that offers nothing but the protocol."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.exports = 0

    def __dlpack__(self, **keywords: Any) -> Any:
        self.exports += 1
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def test_dlpack_only_arrays(expected):
    arrays = OnlyDLPack(INPUT), OnlyDLPack(TARGET), OnlyDLPack(np.ones(3))
    assert_same_bits(nll.nll_loss(*arrays), expected)
    assert all(array.exports == 1 for array in arrays)
    assert_same_bits(nll.nll_loss_backward(1.0, *arrays), oracle.nll_loss_backward(1.0, INPUT, TARGET))


def test_strided_dlpack_arrays(rng):
    input = random_input(rng, (4, 3, 5), np.float32).transpose(2, 0, 1)[::2]
    target = random_target(rng, (3, 3), 4)
    loss = nll.nll_loss(OnlyDLPack(input), target)
    assert_same_bits(loss, oracle.nll_loss(input, target).loss)


class Wrapper:
    """An array that gives its memory away by `__array__`, as pandas' and xarray's do."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        assert not copy, "a copy was asked for"
        return self.array if dtype is None else self.array.astype(dtype)


def test_arrays_by_the_array_method(expected):
    assert_same_bits(nll.nll_loss(Wrapper(INPUT), Wrapper(TARGET), Wrapper(np.ones(3))), expected)


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("torch", "torch.from_numpy(array), torch.from_numpy(np.ascontiguousarray(array.T)).T"),
        ("jax", "[jax.block_until_ready(jax.numpy.asarray(array))]"),
    ],
)
def test_cpu_arrays_of_other_packages_are_not_copied(package, make, peak_growth):
    """A copy of an input would be 64 MB."""
    pytest.importorskip(package)
    setup = f"""
import {package}
make = lambda array: ({make})
inputs, targets = make(np.ones((4_000_000, 4), np.float32)), make(np.zeros(4_000_000, np.int32))
"""
    assert peak_growth(setup, "[nll.nll_loss(input, targets[0]) for input in inputs]") < 4e6


@pytest.mark.parametrize("dtype", [d for d in FLOAT_DTYPES if d.isbuiltin == 1], ids=str)
def test_torch_tensors(dtype, reduction, rng, torch):
    input, target = random_input(rng, (20, 5, 3), dtype), random_target(rng, (20, 3), 5)
    weight = rng.uniform(size=5)
    loss = nll.nll_loss(torch.tensor(input), torch.tensor(target), torch.tensor(weight), reduction=reduction)
    assert_same_bits(loss, oracle.nll_loss(input, target, weight, reduction=reduction).loss)


def test_detached_torch_tensors(rng, torch):
    input, target = random_input(rng, (20, 5), np.float32), random_target(rng, 20, 5)
    leaf = torch.tensor(input, requires_grad=True)
    assert_same_bits(nll.nll_loss(leaf.detach(), torch.tensor(target)), oracle.nll_loss(input, target).loss)


def test_jax_arrays(dtype, rng):
    jax = pytest.importorskip("jax")
    input, target = random_input(rng, (20, 5), dtype), random_target(rng, 20, 5, np.int32)
    with jax.enable_x64(True):
        arrays = jax.numpy.asarray(input), jax.numpy.asarray(target)
    assert arrays[0].dtype == dtype
    assert_same_bits(nll.nll_loss(*arrays), oracle.nll_loss(input, target).loss)
    assert_same_bits(nll.nll_loss_backward(1.0, *arrays), oracle.nll_loss_backward(1.0, input, target))
