"""HDF5 files as plain trees: read with suspicion, written whole or not at all.

A tree is a dict: a group is a dict, a dataset a leaf. Leaves are numbers, text, or arrays of either; what is read comes
back as text or arrays.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Tree = dict[str, Any]

NUMBERS = "fiub"  # kinds of dtype a leaf may have: floats, integers, booleans
LARGEST_BYTES = 2**33  # a small hostile file can declare an array that would not fit any machine
SHARED_BYTES = 1024  # equal arrays from this size on are stored once, under two names

# ------------------------------------------------------------------------------------------------------- reading


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """An HDF5 file open for reading; raises ValueError when it is missing, truncated, damaged, or not HDF5."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; wanted an HDF5 file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if not os.access(path, os.R_OK):
            raise ValueError(f"{path}: permission denied; wanted a file that may be read") from None
        if h5py.is_hdf5(path):
            raise ValueError(f"{path}: truncated or damaged HDF5 file ({_reason(error)}); get it again") from None
        raise ValueError(f"{path}: not an HDF5 file; wanted a network saved by eventsnn or a NIR file") from None
    with file:
        try:
            yield file
        except (OSError, RuntimeError, KeyError, TypeError) as error:  # what h5py makes of bytes that lead nowhere
            raise ValueError(f"{path}: damaged HDF5 file ({_reason(error)}); get it again") from None


def read_tree(group: h5py.Group) -> Tree:
    """Everything below a group. Raises ValueError for links that leave the file, loops, and unreadable datasets."""
    return _read_group(group, set())


def is_here(group: h5py.Group, name: str) -> bool:
    """Whether the group holds `name` itself; raises ValueError when the name is a link to somewhere else."""
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink | h5py.SoftLink):
        kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
        raise ValueError(f"{_join(group, name)} is {kind}; links are not followed, wanted the data itself")
    return link is not None


def _read_group(group: h5py.Group, seen: set[int]) -> Tree:
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        raise ValueError(f"{group.name} is a group reached under two names; wanted a tree of groups")
    seen.add(address)
    tree: Tree = {}
    for name in group:
        if not isinstance(name, str):  # h5py hands out bytes that it cannot decode
            raise ValueError(f"a name in {group.name} is not UTF-8 text; the file is damaged")
        is_here(group, name)
        try:
            item = group[name]
        except (KeyError, OSError, RuntimeError) as error:
            raise ValueError(f"{_join(group, name)} cannot be read ({_reason(error)}); the file is damaged") from None
        if isinstance(item, h5py.Group):
            tree[name] = _read_group(item, seen)
        elif isinstance(item, h5py.Dataset):
            tree[name] = _read_leaf(item)
        else:
            raise ValueError(f"{_join(group, name)} is a named datatype; wanted a group or a dataset")
    return tree


def _read_leaf(dataset: h5py.Dataset) -> Any:
    where = dataset.name
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"dataset {where} keeps its data in another file; external data is not followed")
    if dataset.shape is None:
        raise ValueError(f"dataset {where} is empty; wanted an array, a number or text")
    text = h5py.check_string_dtype(dataset.dtype) is not None
    if not text and dataset.dtype.kind not in NUMBERS:
        raise ValueError(f"dataset {where} has dtype {dataset.dtype}; wanted numbers or text")
    if dataset.nbytes > LARGEST_BYTES:
        raise ValueError(f"dataset {where} declares {dataset.nbytes} bytes; at most {LARGEST_BYTES} are read")
    try:
        return dataset.asstr()[()] if text else np.asarray(dataset[()], dataset.dtype)
    except UnicodeDecodeError:
        raise ValueError(f"dataset {where} holds bytes that are not UTF-8 text") from None
    except (OSError, RuntimeError, TypeError, ValueError, MemoryError) as error:
        raise ValueError(f"dataset {where} cannot be read ({_reason(error)}); the file is damaged") from None


def _join(group: h5py.Group, name: str) -> str:
    return f"{(group.name or '').rstrip('/')}/{name}"


def _reason(error: Exception) -> str:
    text = str(error).encode("ascii", "backslashreplace").decode()
    return " ".join(text.strip("'\"").split()) or type(error).__name__


# ---------------------------------------------------------------------------------------------------------- hashing


def tree_hash(tree: Tree) -> str:
    """SHA-256, in hex, over a tree's content, whatever the HDF5 bytes that carry it.

    Hashed for each leaf, in order of path: path, dtype, shape, and the little-endian bytes in C order. Text counts as
    UTF-8.
    """
    digest = hashlib.sha256()
    for path, leaf in sorted(_leaves(tree), key=lambda item: item[0]):
        dtype, shape, content = _canonical(leaf)
        digest.update(f"{path}\0{dtype}\0{shape}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _leaves(tree: Tree, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}/{name}")
        else:
            yield f"{above}/{name}", value


def _canonical(leaf: Any) -> tuple[str, tuple[int, ...], Any]:
    array = np.asarray(leaf)
    if array.dtype.kind in "OUS":
        words = [str(word).encode() for word in array.ravel()]
        return "text", array.shape, b"".join(len(word).to_bytes(8, "little") + word for word in words)
    flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
    return flat.dtype.str, array.shape, flat.view(np.uint8)


# ---------------------------------------------------------------------------------------------------------- writing


@contextmanager
def written(path: str | Path) -> Iterator[h5py.File]:
    """A new HDF5 file that takes its place at `path` only once it is complete; raises ValueError when it cannot."""
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; wanted a file name")
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with h5py.File(part, "x") as file:
            yield file
        os.replace(part, path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({_reason(error)})") from None
    finally:
        part.unlink(missing_ok=True)


def write_tree(group: h5py.Group, tree: Tree, shared: dict[tuple, h5py.Dataset] | None = None) -> None:
    """Write a tree below a group.

    Arrays that compress well are compressed. shared: hand the same dict to several calls on one file, and an array
    that is stored already becomes a second name (a hard link) of the same dataset.
    """
    shared = {} if shared is None else shared
    for name, value in tree.items():
        if isinstance(value, dict):
            write_tree(group.create_group(name), value, shared)
            continue
        array = np.asarray(value)
        if array.dtype.kind in "OU":
            data = value if array.ndim == 0 else array.astype(object)
            group.create_dataset(name, data=data, dtype=h5py.string_dtype(), track_times=False)
            continue
        if array.dtype.kind not in NUMBERS or array.dtype.itemsize > 8:
            raise ValueError(f"{_join(group, name)}: an array of dtype {array.dtype} has no place in the file")
        if array.nbytes < SHARED_BYTES:
            group.create_dataset(name, data=array, track_times=False)
            continue
        array = np.ascontiguousarray(array)
        content = array.reshape(-1).view(np.uint8)
        key = (array.dtype.str, array.shape, hashlib.sha256(content).digest())
        if key in shared:
            group[name] = shared[key]
        else:
            packed = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if _packs(content) else {}
            shared[key] = group.create_dataset(name, data=array, track_times=False, **packed)


def _packs(content: np.ndarray) -> bool:
    """Whether gzip would more than halve these bytes: yes for padded kernels and constants, no for trained weights."""
    step = max(len(content) // 8, 1)
    sample = b"".join(content[start : start + 4096].tobytes() for start in range(0, len(content), step))
    return 2 * len(zlib.compress(sample, 1)) < len(sample)
