# SPDX-License-Identifier: BSD-3-Clause
"""Arrays in files: of any size, read a block at a time, never unpickled."""

import glob
import mmap
import os
import re
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .._typing import Array
from .errors import BadInput, required

Slices = tuple[slice, ...]  # one for each axis, with both ends

# What chunks may go through. Others, such as pickle, are not run.
ZARR_CODECS = {
    *("bytes", "transpose", "sharding_indexed", "crc32", "crc32c", "adler32", "fletcher32"),
    *("blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "shuffle", "delta"),
    *("bitround", "quantize", "fixedscaleoffset", "packbits", "astype"),
}


class Source(Protocol):
    """An array whose blocks can be read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    files: list[str]
    notes: list[str]  # what its user should know
    cuts: list[int]  # where along axis 0 another file begins
    granule: int  # indices along axis 0 that are stored, and read, together

    def read(self, slices: Slices) -> Array:
        """Return a block, in place where that can be."""

    def release(self, slices: Slices) -> None:
        """Let go of the memory that a block was mapped to."""

    def locate(self, position: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """Tell in which file a position of the array is, and where in that file's array."""


class Held:
    """An array in memory."""

    def __init__(self, array: Array, name: str, *notes: str) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype
        self.files = [name]
        self.notes = list(notes)
        self.cuts: list[int] = []
        self.granule = 1

    def read(self, slices: Slices) -> Array:
        return self.array[slices]

    def release(self, slices: Slices) -> None:
        pass

    def locate(self, position: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        return self.files[0], tuple(position)


class Mapped(Held):
    """A .npy file mapped into memory, of which only blocks in use count as the process's own."""

    def __init__(self, array: Array, mapping: object, name: str) -> None:
        super().__init__(np.asarray(array), name)
        self.mapping = mapping
        if isinstance(self.mapping, mmap.mmap) and hasattr(mmap, "MADV_SEQUENTIAL"):
            self.mapping.madvise(mmap.MADV_SEQUENTIAL)

    def release(self, slices: Slices) -> None:
        if not isinstance(self.mapping, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
            return
        first, last = 0, len(self.mapping)
        if self.array.flags.c_contiguous and self.array.ndim:
            begin = len(self.mapping) - self.array.nbytes
            stride = self.array.strides[0]
            # The pages at both ends belong to neighbours, too: they stay for them.
            first = -(-(begin + slices[0].start * stride) // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (begin + slices[0].stop * stride) // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last:
            self.mapping.madvise(mmap.MADV_DONTNEED, first, last - first)


class Zipped(Held):
    """An array of a .npz file: read whole with its first block, kept until its last."""

    def __init__(self, path: str, name: str, dtype: str | None) -> None:
        self.path = path
        self.name = name
        self.raw = dtype
        self.lock = threading.Lock()
        self.held: Array | None = None
        shape, stored = self.header()
        # An array of no samples, and of the file's dtype.
        super().__init__(of_dtype(np.empty((0, *shape[1:]), stored), path, dtype), path)
        self.shape = shape
        size = f"{np.prod(shape, dtype=object) * stored.itemsize / 2**20:,.1f} MiB"
        why = f"a .npz cannot be mapped, so {name} is read whole ({size}); a .npy can be"
        self.notes = [f"{path}: {why}"]

    def header(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Read shape and dtype, without the numbers."""
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.name}.npy") as member:
            version = np.lib.format.read_magic(member)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            elif version == (2, 0):
                shape, _, dtype = np.lib.format.read_array_header_2_0(member)
            else:
                raise ValueError(f"{self.name} has a header of version {version}")
        if dtype.hasobject:
            raise ValueError(f"{self.name} holds Python objects, which nll never unpickles")
        return shape, dtype

    def load(self) -> Array:
        try:
            with np.load(self.path, allow_pickle=False) as loaded:
                return of_dtype(loaded[self.name], self.path, self.raw)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise BadInput(f"{self.path}: {error}") from error

    def read(self, slices: Slices) -> Array:
        with self.lock:
            if self.held is None:
                self.held = self.load()
            return self.held[slices]

    def release(self, slices: Slices) -> None:
        if slices and slices[0].stop == self.shape[0]:
            with self.lock:
                self.held = None


class Tensor(Held):
    """A tensor of a .safetensors file."""

    def __init__(self, path: str, name: str) -> None:
        self.path = path
        self.name = name
        self.local = threading.local()
        view = self.view()
        # One number says what dtype NumPy gets, and that it can be had.
        array = view[tuple(slice(0, 1) for _ in view.get_shape())] if view.get_shape() else None
        if array is None:
            raise BadInput(f"{path}: {name} is a single number")
        self.shape = tuple(view.get_shape())
        self.dtype = array.dtype
        self.files = [path]
        self.notes = []
        self.cuts = []
        self.granule = 1

    def view(self) -> Any:
        if not hasattr(self.local, "view"):
            required("ml_dtypes")
            opened = required("safetensors").safe_open(self.path, framework="numpy")
            self.local.view = opened.get_slice(self.name)
        return self.local.view

    def read(self, slices: Slices) -> Array:
        try:
            array: Array = self.view()[slices]
        except Exception as error:  # of Rust, each of its own kind
            raise BadInput(f"{self.path}: {error}") from error
        return array


class Zarr(Held):
    """A Zarr array."""

    def __init__(self, array: Any, name: str) -> None:
        super().__init__(array, name)
        self.shape = tuple(array.shape)
        if array.ndim:
            self.granule = int((getattr(array, "shards", None) or array.chunks)[0])

    def read(self, slices: Slices) -> Array:
        try:
            block = np.asarray(self.array[slices])
        except Exception as error:  # each codec has its own
            raise BadInput(f"{self.files[0]} cannot be read: {error}") from error
        if block.dtype.isnative:  # Zarr's dtypes name their byte order, which is not NumPy's own
            return block.view(block.dtype.newbyteorder("="))
        return block


class Joined:
    """Several arrays, one after the other along axis 0."""

    def __init__(self, parts: list[Source]) -> None:
        first = parts[0]
        for part in parts[1:]:
            if part.shape[1:] != first.shape[1:] or not part.shape:
                problem = f"{part.shape}, which does not continue {first.shape} of {first.files[0]}"
                raise BadInput(f"{part.files[0]} has shape {problem}")
            if part.dtype != first.dtype:
                problem = f"dtype {part.dtype}, but {first.files[0]} has {first.dtype}"
                raise BadInput(f"{part.files[0]} has {problem}")
        lengths = [part.shape[0] for part in parts]
        self.parts = parts
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).tolist()
        self.shape = (self.starts[-1], *first.shape[1:])
        self.dtype = first.dtype
        self.files = [part.files[0] for part in parts]
        self.notes = [note for part in parts for note in part.notes]
        self.cuts = self.starts[1:-1]
        self.granule = max(part.granule for part in parts)

    def pieces(self, slices: Slices) -> list[tuple[Source, Slices]]:
        """Tell which slices of which parts a block consists of."""
        found: list[tuple[Source, Slices]] = []
        for part, start in zip(self.parts, self.starts, strict=False):
            first = max(slices[0].start - start, 0)
            last = min(slices[0].stop - start, part.shape[0])
            if first < last:
                found.append((part, (slice(first, last), *slices[1:])))
        return found or [(self.parts[0], (slice(0, 0), *slices[1:]))]

    def read(self, slices: Slices) -> Array:
        blocks = [part.read(own) for part, own in self.pieces(slices)]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def release(self, slices: Slices) -> None:
        for part, own in self.pieces(slices):
            part.release(own)

    def locate(self, position: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        index = int(np.searchsorted(self.starts, position[0], side="right")) - 1
        part = self.parts[index]
        return part.locate((position[0] - self.starts[index], *position[1:]))


def open_source(given: str, dtype: str | None = None) -> Source:
    """Open what an argument names: a file, FILE:NAME for an array in it, or a glob of such files.

    dtype: of raw bytes, such as bfloat16.
    """
    path, name = split_name(given)
    if os.path.exists(path) or not glob.has_magic(path):
        return open_one(path, name, dtype)
    paths = sorted(glob.glob(path, recursive=True), key=natural)
    if not paths:
        raise BadInput(f"{path}: no file has such a name")
    parts = [open_one(path, name, dtype) for path in paths]
    return parts[0] if len(parts) == 1 else Joined(parts)


def split_name(given: str) -> tuple[str, str | None]:
    """Split FILE:NAME where no file has that name."""
    path, colon, name = given.rpartition(":")
    if colon and name and path and not os.path.exists(given):
        return path, name
    return given, None


def natural(path: str) -> list[tuple[int, str]]:
    """Sort shard-2 before shard-10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path)]


def open_one(path: str, name: str | None, dtype: str | None) -> Source:
    """Open one file or store, whatever its format."""
    suffix = Path(path).suffix
    try:
        if Path(path).is_dir() or ".zarr" in Path(path).suffixes or ".zarr/" in path:
            return open_zarr(path, name, dtype)
        if not Path(path).exists():
            raise BadInput(f"{path}: no such file")
        if suffix == ".safetensors":
            return open_safetensors(path, name)
        return open_numpy(path, name, dtype)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from error


def open_numpy(path: str, name: str | None, dtype: str | None) -> Source:
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic[:2] != b"PK" and magic != b"\x93NUMPY":
        raise BadInput(
            f"{path} is none of the formats that are read: .npy, .npz, .safetensors, Zarr",
        )
    try:
        if magic[:2] == b"PK":
            with zipfile.ZipFile(path) as archive:
                names = [member.removesuffix(".npy") for member in archive.namelist()]
            return Zipped(path, chosen(path, name, names), dtype)
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        problem = str(error).splitlines()[0]
        if "Python objects" in problem:
            problem = "it holds Python objects, which nll never unpickles"
        raise BadInput(f"{path}: {problem}") from error
    if name is not None:
        raise BadInput(f"{path}: a .npy file has one array, without a name ({name!r})")
    return Mapped(of_dtype(loaded, path, dtype), loaded.base, path)


def open_safetensors(path: str, name: str | None) -> Source:
    safetensors = required("safetensors")
    required("ml_dtypes")  # which makes bfloat16 known to NumPy
    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            names = list(opened.keys())
        return Tensor(path, chosen(path, name, names))
    except safetensors.SafetensorError as error:
        raise BadInput(f"{path}: {error}") from error


def open_zarr(path: str, name: str | None, dtype: str | None) -> Source:
    zarr = required("zarr")
    required("ml_dtypes")
    try:
        opened = zarr.open(path, mode="r")
        if name is not None:
            opened = opened[name]
        elif not hasattr(opened, "dtype"):
            opened = opened[chosen(path, name, sorted(opened.array_keys()))]
    except (FileNotFoundError, KeyError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: no Zarr array is there ({error})") from error
    unsafe = codecs_of(opened.metadata) - ZARR_CODECS
    if opened.dtype.kind == "O" or unsafe:
        what = f"the codec {sorted(unsafe)[0]!r}" if unsafe else "Python objects"
        raise BadInput(f"{path} has {what}: nll reads arrays of numbers, and never unpickles")
    if dtype is not None and opened.dtype.kind in "Vu":
        array = np.asarray(opened[...])
        note = f"{path}: raw bytes of a Zarr array are read whole"
        return Held(of_dtype(array, path, dtype), path, note)
    return Zarr(opened, path)


def codecs_of(metadata: Any) -> set[str]:
    """Name what a Zarr array's chunks go through when they are read."""
    found: set[str] = set()
    todo: list[Any] = [metadata.to_dict()]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            codecs = [node.get(key) for key in ("codecs", "index_codecs", "filters", "compressor")]
            for codec in codecs:
                each = codec if isinstance(codec, list | tuple) else [codec]
                for one in each:
                    config: Any = one
                    for method in ("get_config", "to_dict"):
                        if hasattr(config, method):
                            config = getattr(config, method)()
                    if isinstance(config, dict):
                        name = str(config.get("id") or config.get("name"))
                        found.add(name.removeprefix("numcodecs."))
                        todo.append(config.get("configuration"))
    return found


def chosen(path: str, name: str | None, names: Sequence[str]) -> str:
    """Choose the array of a file: the named one, or the only one."""
    listed = ", ".join(names) or "none"
    if name is None:
        if len(names) != 1:
            raise BadInput(f"{path} has {len(names)} arrays ({listed}): name one, as {path}:NAME")
        return names[0]
    if name not in names:
        raise BadInput(f"{path} has no array {name!r}; it has {listed}")
    return name


def of_dtype(array: Array, path: str, dtype: str | None) -> Array:
    """View raw bytes as what they are: bfloat16, which .npy has no name for."""
    if dtype is None:
        if array.dtype.kind == "V":
            cure = "pass --dtype bfloat16 if that is what they are"
            raise BadInput(f"{path} has raw elements of {array.dtype.itemsize} bytes: {cure}")
        return array
    raw = array.dtype.kind == "V" or array.dtype == np.uint16
    if array.dtype.name == dtype or (not raw and array.dtype.kind in "iu"):
        return array
    wanted = required("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    if not raw or array.dtype.itemsize != np.dtype(wanted).itemsize:
        raise BadInput(f"{path} has dtype {array.dtype}, which are no raw bytes of {dtype}")
    return array.view(wanted)
