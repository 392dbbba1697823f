# SPDX-License-Identifier: BSD-3-Clause
"""Arrays in files: of any size, read a block at a time, never unpickled."""

import glob
import mmap
import os
import re
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .._typing import Array
from .errors import BadInput, Failure, required

Slices = tuple[slice, ...]  # one for each axis, with both ends

# What chunks may go through. Others, such as pickle, are not run.
ZARR_CODECS = {
    *("bytes", "transpose", "sharding_indexed", "crc32", "crc32c", "adler32", "fletcher32"),
    *("blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "shuffle", "delta"),
    *("bitround", "quantize", "fixedscaleoffset", "packbits", "astype"),
}
NEVER = "it holds Python objects, which nll never unpickles"
NOT_OF_FILES = (BadInput, Failure, ImportError, MemoryError)  # what is told as it is


@contextmanager
def as_bad_input(path: str) -> Iterator[None]:
    """Tell in a line what a reader raises: each format, header and codec has errors of its own."""
    try:
        yield
    except NOT_OF_FILES:
        raise
    except Exception as error:
        words = str(getattr(error, "strerror", None) or error).strip()
        problem = words.splitlines()[0] if words else type(error).__name__
        raise BadInput(f"{path}: {problem}") from error


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
        # An array of the file's shape and dtype that takes no memory.
        super().__init__(of_dtype(np.broadcast_to(np.empty((), stored), shape), path, dtype), path)
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
            raise BadInput(f"{self.path}: {NEVER}")
        return shape, dtype

    def load(self) -> Array:
        with as_bad_input(self.path), np.load(self.path, allow_pickle=False) as loaded:
            return of_dtype(loaded[self.name], self.path, self.raw)

    def read(self, slices: Slices) -> Array:
        with self.lock:
            if self.held is None:
                self.held = self.load()
            return self.held[slices]

    def release(self, slices: Slices) -> None:
        if all(one.stop == size for one, size in zip(slices, self.shape, strict=True)):
            with self.lock:
                self.held = None


class Tensor(Held):
    """A tensor of a .safetensors file."""

    def __init__(self, path: str, name: str, dtype: str | None) -> None:
        self.path = path
        self.name = name
        self.raw = dtype
        self.local = threading.local()
        view = self.view()
        shape = tuple(view.get_shape())
        if not shape:
            raise BadInput(f"{path}: {name} is a single number")
        try:  # One number says what dtype NumPy gets, and that it can be had.
            one = view[tuple(slice(0, 1) for _ in shape)]
        except AttributeError as error:
            problem = f"{name} has dtype {view.get_dtype()}, which NumPy does not have"
            raise BadInput(f"{path}: {problem}") from error
        super().__init__(of_dtype(one, path, dtype), path)
        self.shape = shape

    def view(self) -> Any:
        if not hasattr(self.local, "view"):
            required("ml_dtypes")
            opened = required("safetensors").safe_open(self.path, framework="numpy")
            self.local.view = opened.get_slice(self.name)
        return self.local.view

    def read(self, slices: Slices) -> Array:
        with as_bad_input(self.path):
            return of_dtype(self.view()[slices], self.path, self.raw)


class Zarr(Held):
    """A Zarr array."""

    def __init__(self, array: Any, name: str, dtype: str | None) -> None:
        super().__init__(array, name)
        self.shape = tuple(array.shape)
        self.raw = dtype
        self.dtype = of_dtype(np.empty(0, array.dtype), name, dtype).dtype
        if array.ndim:
            self.granule = int((getattr(array, "shards", None) or array.chunks)[0])

    def read(self, slices: Slices) -> Array:
        with as_bad_input(self.files[0]):
            block = np.asarray(self.array[slices])
        if block.dtype.isnative:  # Zarr's dtypes name their byte order, which is not NumPy's own
            block = block.view(block.dtype.newbyteorder("="))
        return of_dtype(block, self.files[0], self.raw)


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
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path)]


def open_one(path: str, name: str | None, dtype: str | None) -> Source:
    """Open one file or store, whatever its format."""
    suffix = Path(path).suffix
    with as_bad_input(path):
        if begins_as_numpy(path):
            return open_numpy(path, name, dtype)
        if Path(path).is_dir() or ".zarr" in Path(path).suffixes or ".zarr/" in path:
            return open_zarr(path, name, dtype)
        if not Path(path).exists():
            raise BadInput(f"{path}: no such file")
        if suffix == ".safetensors":
            return open_safetensors(path, name, dtype)
        return open_numpy(path, name, dtype)


def magic_of(path: str) -> bytes:
    """Read what tells a format."""
    with open(path, "rb") as file:
        return file.read(6)


def begins_as_numpy(path: str) -> bool:
    """Tell a .npy or .npz, whatever its name, but for a .zip, which may be of Zarr."""
    if not Path(path).is_file() or Path(path).suffix == ".zip":
        return False
    magic = magic_of(path)
    return magic == b"\x93NUMPY" or magic[:2] == b"PK"


def open_numpy(path: str, name: str | None, dtype: str | None) -> Source:
    magic = magic_of(path)
    if magic[:2] != b"PK" and magic != b"\x93NUMPY":
        raise BadInput(
            f"{path} is none of the formats that are read: .npy, .npz, .safetensors, Zarr",
        )
    if magic[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            names = [member.removesuffix(".npy") for member in archive.namelist()]
        return Zipped(path, chosen(path, name, names), dtype)
    if name is not None:
        raise BadInput(f"{path}: a .npy file has one array, without a name ({name!r})")
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "Python objects" in str(error):
            raise BadInput(f"{path}: {NEVER}") from error
        raise
    return Mapped(of_dtype(loaded, path, dtype), loaded.base, path)


def open_safetensors(path: str, name: str | None, dtype: str | None) -> Source:
    safetensors = required("safetensors")
    required("ml_dtypes")  # which makes bfloat16 known to NumPy
    with safetensors.safe_open(path, framework="numpy") as opened:
        name = chosen(path, name, list(opened.keys()))
        if 0 in opened.get_slice(name).get_shape():  # which safetensors does not slice
            return Held(of_dtype(opened.get_tensor(name), path, dtype), path)
    return Tensor(path, name, dtype)


def open_zarr(path: str, name: str | None, dtype: str | None) -> Source:
    zarr = required("zarr")
    required("ml_dtypes")
    try:
        opened = zarr.open(path, mode="r")
        if name is not None and hasattr(opened, "dtype"):
            raise BadInput(f"{path}: it is one Zarr array, without a name ({name!r})")
        if name is not None:
            opened = opened[name]
        elif not hasattr(opened, "dtype"):
            opened = opened[chosen(path, name, sorted(opened.array_keys()))]
    except NOT_OF_FILES:
        raise
    except Exception as error:
        raise BadInput(f"{path}: no Zarr array is there ({error})") from error
    if not hasattr(opened, "dtype"):
        raise BadInput(f"{path}: {name} is a group: name an array in it, as {path}:{name}/NAME")
    unsafe = codecs_of(opened.metadata) - ZARR_CODECS
    if opened.dtype.kind == "O" or unsafe:
        what = f"the codec {sorted(unsafe)[0]!r}" if unsafe else "Python objects"
        raise BadInput(f"{path} has {what}: nll reads arrays of numbers, and never unpickles")
    return Zarr(opened, path, dtype)


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
    is_void = array.dtype.type is np.void
    if dtype is None:
        if is_void:
            cure = "pass --dtype bfloat16 if that is what they are"
            raise BadInput(f"{path} has raw elements of {array.dtype.itemsize} bytes: {cure}")
        return array
    raw = is_void or array.dtype == np.uint16
    if array.dtype.name == dtype:
        return array
    wanted = required("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    if not raw or array.dtype.itemsize != np.dtype(wanted).itemsize:
        raise BadInput(f"{path} has dtype {array.dtype}, which are no raw bytes of {dtype}")
    return array.view(wanted)
