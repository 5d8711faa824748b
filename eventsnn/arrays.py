"""Files of named arrays, `.npz` and HDF5, as something a stranger sent: nothing is executed, no link is followed.

What is wrong with a file is said in one sentence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SIZES = ("sensor_height", "sensor_width", "n_channels")


@dataclass(frozen=True)
class Store:
    """An open file of named arrays: their names, the numbers that describe a sensor, and how to come by an array.

    array: from a name the array, or the HDF5 dataset that is read where it is sliced; ValueError when it is absent,
    damaged or no numbers. attributes: of an HDF5 file, as h5py gives them.
    """

    names: tuple[str, ...]
    sensor: Mapping[str, int]
    array: Callable[[str], Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def read(self, name: str, part: slice = slice(None)) -> np.ndarray:
        """The array of that name, or a part of its rows; raises ValueError when it is absent, damaged or no numbers."""
        array = self.array(name)
        with damage(f"array {name!r}"):
            return array[part] if array.ndim else array[()]

    fetch = read

    @property
    def has_spike_lists(self) -> bool:
        """Whether it is laid out as SHD and SSC are."""
        return "spikes" in self.names and not {"images", "t", "offsets"} & set(self.names)


@contextmanager
def open_arrays(path: Path, *, text: bool = False) -> Iterator[Store]:
    """A `.npz` file, or else an HDF5 file, as a `Store`; closed at the end of the `with`.

    text: the datasets of an HDF5 file may hold text, too.
    """
    if path.suffix == ".npz":
        with path.open("rb") as stream:  # np.load leaves the file open when the archive is damaged
            with damage("it"):
                archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it is an .npy file by its content; rename it")
            member = functools.lru_cache(1)(lambda name: _member(archive, name))  # often asked for twice in a row
            yield Store(tuple(archive.files), _npz_sensor(archive), member)
    else:
        import h5py

        with damage("it"):
            file = h5py.File(path, "r")
        with file:
            with damage("its list of names"):
                names, attributes = tuple(file), dict(file.attrs)
            sensor = {k: int(v) for k, v in attributes.items() if k in SIZES and isinstance(v, int | np.integer)}
            unit = attributes.get("t_unit", "us")
            if unit not in ("us", b"us"):
                raise ValueError(f"its attribute t_unit is {unit!r}, wanted 'us' (microseconds)")
            yield Store(names, sensor, lambda name: _dataset(file, name, text), attributes)


def _member(archive: Any, name: str) -> np.ndarray:
    if name not in archive.files:
        raise ValueError(f"it has no array {name!r}; it holds {listing(archive.files)}")
    with damage(f"array {name!r}"):
        return archive[name]


def _npz_sensor(archive: Any) -> dict[str, int]:
    found = {name: _member(archive, name) for name in SIZES if name in archive.files}
    return {name: int(value) for name, value in found.items() if value.ndim == 0 and value.dtype.kind in "iu"}


def _dataset(file: Any, name: str, text: bool) -> Any:
    import h5py

    parts = [part for part in name.split("/") if part]
    for end in range(1, len(parts) + 1):
        with damage(f"dataset {name!r}"):
            link = file.get("/".join(parts[:end]), getlink=True)
        if link is None:
            raise ValueError(f"it has no dataset {name!r}; it holds {listing(file)}")
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"dataset {name!r} is a link to another place or file; links are not followed")
    with damage(f"dataset {name!r}"):
        dataset = file["/".join(parts)]
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{name!r} is a group, wanted a dataset")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"dataset {name!r} keeps its data in other files; these are not followed")
    row = h5py.check_vlen_dtype(dataset.dtype)  # of spike lists, whose rows differ in length
    numbers = (dataset.dtype if row is None else np.dtype(row)).kind in "biuf"
    if not (numbers or (text and h5py.check_string_dtype(dataset.dtype))):
        raise ValueError(f"dataset {name!r} has dtype {dataset.dtype}, wanted numbers")
    # gzip shrinks at most 1032 times; what declares more than that was never stored and would only fill the memory
    if dataset.nbytes > 2**28 and dataset.nbytes > 1032 * dataset.id.get_storage_size():
        raise ValueError(f"dataset {name!r} declares {dataset.nbytes} bytes that the file does not hold")
    return dataset


def listing(names: Iterable[str]) -> str:
    """The first of some names, in words."""
    names = list(names)
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return shown or "nothing"


@contextmanager
def damage(what: str) -> Iterator[None]:
    """Turns what NumPy, zipfile and h5py say about damaged files into one sentence."""
    try:
        yield
    except Exception as error:  # damaged headers raise nearly anything, SyntaxError and TokenError too
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    else:
        return
    if "allow_pickle" in reason or "Python objects" in reason:
        raise ValueError(f"{what} holds python objects, wanted plain numbers; they are never loaded")
    raise ValueError(f"{what} cannot be read, the file may be truncated or of another kind ({reason})")
