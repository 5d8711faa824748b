"""Recordings of event cameras and spike lists: what is in the file, what part of it is wanted, whole or in windows.

A recording is one sample of address events in a file: AEDAT 2.0 and 3.1, structured `.npy` arrays, `.csv` and `.txt`
tables, or one sample of an `.npz` or HDF5 file. Its events are read in chunks, so that `stream` holds one window of a
long file and no more. A `View` crops, cuts, merges and coarsens events of any source.

Options that belong to a file are written among its keys: `chip=davis346` (which camera wrote an AEDAT 2.0 file),
`unit=s` (the unit of its times, when not whole microseconds), `zero=first` or `zero=file` (times count from the first
event, as in AEDAT files unless asked otherwise, or are those in the file, as everywhere else), `sort=time` (sort events
by time, equal times in the order of the file; nothing is ever sorted unasked).
"""

from __future__ import annotations

import itertools
import math
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

import numpy as np

from eventsnn.arrays import SIZES, damage, listing, open_arrays
from eventsnn.inputs import Events, check_offsets, check_times, place
from eventsnn.network import Network

CHUNK = 1 << 16  # events read at a time: what a stream holds besides its window
NAMES = {"t": ("t", "ts", "time", "timestamp"), "x": ("x",), "y": ("y",), "p": ("p", "pol", "polarity")}
UNITS = {"s": 1_000_000, "ms": 1000, "us": 1}
POLARITIES = ("keep", "merge", "swap", "on", "off")
SUFFIXES = (".aedat", ".aedat2", ".aedat4", ".csv", ".txt", ".npy")
LONGEST_LINE = 1 << 16

Columns = dict[str, np.ndarray]


class Chip(NamedTuple):
    """How a camera packs an event into the 32-bit address of AEDAT 2.0; `skip`: bits that no pixel event has set."""

    name: str
    width: int
    height: int
    x: tuple[int, int]  # shift, mask
    y: tuple[int, int]
    polarity: int  # shift
    on: int  # the value of that bit for a brighter pixel
    skip: int


CHIPS = {
    "dvs128": Chip("DVS128", 128, 128, (1, 0x7F), (8, 0x7F), 0, 0, 0xFFFF8000),
    "davis240": Chip("DAVIS240", 240, 180, (12, 0x3FF), (22, 0x1FF), 11, 1, 0x80000400),
    "davis346": Chip("DAVIS346", 346, 260, (12, 0x3FF), (22, 0x1FF), 11, 1, 0x80000400),
}
SAID = {"unit": tuple(UNITS), "chip": tuple(CHIPS), "zero": ("first", "file"), "sort": ("time",)}


# ------------------------------------------------------------------------------------------------------- the view


@dataclass(frozen=True)
class View:
    """The part of a recording that a network sees; what is asked for is done in this order.

    window: (start, end) in seconds: events with start <= t < end stay, and their times count from `start`. crop:
    (x0, y0, x1, y1) in pixels: columns x0 to x1 - 1 and rows y0 to y1 - 1 stay. polarity: "keep"; "swap" exchanges ON
    and OFF; "merge" makes one channel of both; "on" and "off" keep the events of one, as one channel. downsample: x and
    y are divided by it, rounding down, so that no event is lost and a sensor of W columns becomes one of ceil(W /
    downsample).
    """

    crop: tuple[int, int, int, int] | None = None
    polarity: str = "keep"
    downsample: int = 1
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.crop is not None:
            x0, y0, x1, y1 = self.crop
            if not (0 <= x0 < x1 and 0 <= y0 < y1):
                raise ValueError(f"crop is {x0},{y0},{x1},{y1}, wanted x0,y0,x1,y1 with 0 <= x0 < x1 and 0 <= y0 < y1")
        if self.polarity not in POLARITIES:
            raise ValueError(f"polarity is {self.polarity!r}, wanted {', '.join(POLARITIES[:-1])} or {POLARITIES[-1]}")
        if self.downsample < 1:
            raise ValueError(f"downsample is {self.downsample}, wanted a whole number from 1")
        if self.window is not None and not (0 <= self.ends[0] < self.ends[1]):
            start, end = self.window
            raise ValueError(f"window is {start:g},{end:g} seconds, wanted 0 <= start < end, at least 1 us apart")

    @property
    def ends(self) -> tuple[int, int]:
        """Start and end of the window in whole microseconds; (0, 2^63 - 1) without one."""
        if self.window is None:
            return 0, 2**63 - 1
        if not all(math.isfinite(s) and s < 2**40 for s in self.window):
            raise ValueError(f"window is {self.window}, wanted two finite times in seconds")
        start, end = (round(s * 1e6) for s in self.window)
        return start, end

    def names(self, names: Iterable[str]) -> tuple[str, ...]:
        """The columns that stay of those there are; raises ValueError when the view needs one that is missing."""
        names = tuple(names)
        if self.crop is not None and "y" not in names:
            raise ValueError("a crop is of columns and rows, but its events have one-dimensional addresses (no y)")
        if self.polarity in ("swap", "on", "off") and "p" not in names:
            raise ValueError(f"polarity is {self.polarity!r}, but its events have no polarity p")
        return tuple(n for n in names if n != "p" or self.polarity in ("keep", "swap"))

    def sensor(self, sensor: Mapping[str, int]) -> dict[str, int]:
        """What is left of a sensor's `sensor_height`, `sensor_width` and `n_channels`, those that are known."""
        left = {name: size for name, size in sensor.items() if name in SIZES}
        if self.crop is not None:
            x0, y0, x1, y1 = self.crop
            width, height = left.get("sensor_width", x1), left.get("sensor_height", y1)
            if x1 > width or y1 > height:
                raise ValueError(f"crop is {x0},{y0},{x1},{y1}, but the sensor has {width} columns and {height} rows")
            left |= {"sensor_width": x1 - x0, "sensor_height": y1 - y0}
        return {name: -(-size // self.downsample) for name, size in left.items()}

    def apply(self, columns: Mapping[str, np.ndarray]) -> Columns:
        """The events that stay, as new columns: t, x and, where there are any, y, p, offsets and others per event."""
        names = self.names(columns)
        kept = np.ones(len(columns["t"]), bool)
        start, end = self.ends
        if self.window is not None:
            kept &= (columns["t"] >= start) & (columns["t"] < end)
        if self.crop is not None:
            for name, low, high in zip("xy", self.crop[:2], self.crop[2:], strict=True):
                kept &= (columns[name] >= low) & (columns[name] < high)
        if self.polarity in ("on", "off"):
            kept &= columns["p"] == (self.polarity == "on")
        shown = {name: columns[name][kept] for name in names if name != "offsets"}
        if "offsets" in columns:
            shown["offsets"] = np.concatenate([[0], np.cumsum(kept)])[columns["offsets"]]
        shown["t"] = shown["t"] - start
        for name, low in zip("xy", self.crop[:2] if self.crop else (0, 0), strict=True):
            if name in shown:
                shown[name] = (shown[name] - low) // self.downsample
        if self.polarity == "swap":
            shown["p"] = 1 - shown["p"]
        return shown


def parse_view(
    crop: str | None = None, polarity: str | None = None, downsample: str | int | None = None, window: str | None = None
) -> View | None:
    """The view that texts of a command line ask for; None when none is given.

    crop: "16,16,112,112". polarity: one of POLARITIES. downsample: "2". window: "0.1,0.4" (seconds), "100ms,400ms".
    Raises ValueError, one sentence, for anything else.
    """
    if crop is polarity is downsample is window is None:
        return None
    corners, ends = None, None
    if crop is not None:
        if not re.fullmatch(r"\s*\d{1,9}\s*(,\s*\d{1,9}\s*){3}", crop):
            raise ValueError(f"crop is {crop!r}, wanted four whole numbers x0,y0,x1,y1 such as 16,16,112,112")
        x0, y0, x1, y1 = map(int, crop.split(","))
        corners = (x0, y0, x1, y1)
    if downsample is not None and not re.fullmatch(r"\s*\d{1,9}\s*", str(downsample)):
        raise ValueError(f"downsample is {downsample!r}, wanted a whole number such as 2")
    if window is not None:
        times = [re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(s|ms|us)?\s*", part) for part in window.split(",")]
        if len(times) != 2 or None in times:
            raise ValueError(f"window is {window!r}, wanted a start and an end such as 0.1,0.4 or 100ms,400ms")
        start, end = (float(m[1]) * UNITS[m[2] or "s"] / 1e6 for m in times if m)
        ends = (start, end)
    return View(corners, polarity or "keep", 1 if downsample is None else int(downsample), ends)


# ------------------------------------------------------------------------------------------- addresses and times


def address_events(
    columns: Mapping[str, np.ndarray], network: Network, sensor: Mapping[str, int], view: View | None = None
) -> Events:
    """Events of several samples from columns t (us), x, offsets and, where there are any, y and p.

    sensor: `sensor_height`, `sensor_width`, `n_channels`, what is known of it. Raises ValueError, with sample, event
    and value, for what is no whole number, out of order or outside the network's input.
    """
    found = {name: whole(name, column) for name, column in columns.items() if name != "labels"}
    t, offsets = found["t"], found["offsets"]
    for name in ("x", "y", "p"):
        if name in found and len(found[name]) != len(t):
            raise ValueError(f"{len(found[name])} entries of {name} for {len(t)} times, wanted one for each event")
    check_offsets(offsets, len(t))
    check_times(t, offsets)
    if view is not None:
        check_pixels(found, sensor, lambda i: place(offsets, i))
        found, sensor = view.apply({**found, "at": np.arange(len(t))}), view.sensor(sensor)
    positions = found.get("at")
    grid = input_grid(network.input.shape, sensor, has_y="y" in found, has_p="p" in found)
    where = (lambda i: place(offsets, i)) if positions is None else (lambda i: place(offsets, int(positions[i])))
    return Events(found["t"], neurons(found, grid, network, where), found["offsets"])


def neurons(columns: Columns, grid: tuple[int, int, int], network: Network, where: Callable[[int], str]) -> np.ndarray:
    """(n,) int64: the input unit of each event, channels first; `where` says in words where event i is."""
    neuron = np.zeros(len(columns["t"]), np.int64)
    for name, size in zip(("p", "y", "x"), grid, strict=True):
        if name in columns:
            wrong = np.flatnonzero((columns[name] < 0) | (columns[name] >= size))
            if wrong.size:
                i = int(wrong[0])
                raise ValueError(
                    f"{name} of {where(i)} is {columns[name][i]}, wanted 0 to {size - 1} "
                    f"(the network's input is {network.input.shape})"
                    + ("; a '-' in place of p among --keys merges the polarities" if name == "p" else "")
                )
            neuron = neuron * size + columns[name]
    return neuron


def check_pixels(columns: Columns, sensor: Mapping[str, int], where: Callable[[int], str]) -> None:
    """Nothing, when x and y lie on the sensor, as far as it is known, and p is 0 or 1; else raises ValueError."""
    width = sensor.get("sensor_width", sensor.get("n_channels"))
    for name, size in (("x", width), ("y", sensor.get("sensor_height")), ("p", 2)):
        if name in columns and size is not None:
            wrong = np.flatnonzero((columns[name] < 0) | (columns[name] >= size))
            if wrong.size:
                i = int(wrong[0])
                what = "0 for OFF or 1 for ON" if name == "p" else f"0 to {size - 1}, the size of the sensor"
                raise ValueError(f"{name} of {where(i)} is {columns[name][i]}, wanted {what}")


def whole(name: str, column: np.ndarray) -> np.ndarray:
    """A row of whole numbers as int64; raises ValueError for anything else."""
    if column.ndim != 1 or column.dtype.kind not in "biu":
        unit = " of microseconds (or a unit among --keys, such as unit=s)" if name == "t" else ""
        raise ValueError(
            f"{name} has shape {column.shape} and dtype {column.dtype}, wanted one row of whole numbers{unit}"
        )
    return column.astype(np.int64)


def microseconds(t: np.ndarray, unit: str | None, where: Callable[[int], str]) -> np.ndarray:
    """Times as (n,) int64 microseconds: fractions, of the unit that must be stated, go to the nearest microsecond."""
    if t.dtype.kind != "f" or t.ndim != 1 or unit is None:
        t = whole("t", t)
        wrong = np.flatnonzero(abs(t) > 2**62 // UNITS[unit or "us"])
        if not wrong.size:
            return t * UNITS[unit or "us"]
    else:
        with np.errstate(all="ignore"):  # what is no number is named below
            scaled = t.astype(np.float64) * UNITS[unit]
        wrong = np.flatnonzero(~(abs(scaled) < 2**53))  # also NaN
        if not wrong.size:
            return np.rint(scaled).astype(np.int64)
    raise ValueError(f"the time of {where(int(wrong[0]))} is {t[wrong[0]]}, wanted a finite time in {unit or 'us'}")


def spike_lists(times: np.ndarray, units: np.ndarray) -> Columns:
    """Columns t, x and offsets of spikes as SHD and SSC store them: for each sample a row of seconds and one of units.

    Times are the nearest microsecond of the number in the file, and the order in the file is kept. The number itself is
    coarse: SHD and SSC store float16, which steps by 0.5 ms between 0.5 and 1 s and by 1 ms between 1 and 2 s, so that
    many times are equal that were not; through float64 (and not in float16, where x 10^6 is infinite) nothing more is
    lost.
    """
    if len(times) != len(units):
        raise ValueError(f"{len(times)} rows of spikes/times for {len(units)} rows of spikes/units, wanted as many")
    for i, (row, unit) in enumerate(zip(times, units, strict=True)):
        if np.shape(row) != np.shape(unit) or np.ndim(row) != 1:
            raise ValueError(f"sample {i} has times of shape {np.shape(row)} for units of shape {np.shape(unit)}")
        if row.dtype.kind != "f":
            raise ValueError(f"the times of sample {i} have dtype {row.dtype}, wanted fractions of seconds")
    offsets = np.cumsum([0, *map(len, times)])
    t = np.concatenate([np.zeros(0), *(row.astype(np.float64) for row in times)])
    x = np.concatenate([np.zeros(0, np.int64), *(whole("spikes/units", unit) for unit in units)])
    return {"t": microseconds(t, "s", lambda i: place(offsets, i)), "x": x, "offsets": offsets}


def arranged(columns: Columns, said: Mapping[str, str]) -> Columns:
    """The same events with `sort=time` and `zero=first` done, where they are said: for every sample on its own."""
    t, offsets = columns["t"], whole("offsets", columns["offsets"])
    check_offsets(offsets, len(t))
    lengths = np.diff(offsets)
    if "sort" in said:
        order = np.lexsort((t, np.repeat(np.arange(len(lengths)), lengths)))  # stable: equal times as in the file
        whole_rows = {name for name, c in columns.items() if np.shape(c)[:1] == t.shape} - {"offsets"}
        columns = {name: c[order] if name in whole_rows else c for name, c in columns.items()}
    if said.get("zero") == "first":
        first = columns["t"][offsets[:-1][lengths > 0]]
        columns = {**columns, "t": columns["t"] - np.repeat(first, lengths[lengths > 0])}
    return columns


def input_grid(shape: tuple[int, ...], sensor: Mapping[str, int], *, has_y: bool, has_p: bool) -> tuple[int, int, int]:
    """(polarities, rows, columns) of the addresses, by the network's input shape and what is known of the sensor."""
    height = sensor.get("sensor_height")
    width = sensor.get("sensor_width", sensor.get("n_channels"))
    if len(shape) != 1 and has_y != (len(shape) == 3):
        what = "two-dimensional addresses (x, y)" if has_y else "one-dimensional addresses (x without y)"
        raise ValueError(f"its events have {what}, they do not fit the network's input {shape}")
    if len(shape) == 3:
        grid = (shape[0], shape[1], shape[2])
    elif len(shape) == 2:
        grid = (shape[0], 1, shape[1])
    else:  # a vector: polarity, row, column, as a flattened (C, H, W)
        rows = height if has_y else 1
        columns = width if has_y or width else shape[0] // (2 if has_p else 1)
        if not rows or not columns:
            raise ValueError(
                f"the network's input is a vector {shape} and the sensor's size is not stated; "
                "add sensor_height and sensor_width"
            )
        grid = (shape[0] // (rows * columns), rows, columns)
    fits = math.prod(grid) == math.prod(shape) and (not has_y or height in (None, grid[1])) and width in (None, grid[2])
    if not fits:
        size = f"{height} x {width}" if has_y else f"{width} channels"
        raise ValueError(f"its events come from a sensor of {size}, they do not fit the network's input {shape}")
    if not has_p and grid[0] != 1:
        raise ValueError(f"its events have no polarity p, the network's input {shape} has {grid[0]} channels")
    return grid


# ---------------------------------------------------------------------------------------------------- what is said


class Keys(NamedTuple):
    """What `--keys` says: names of arrays or columns, NAME=NUMBER to choose samples by, and options (see SAID)."""

    names: tuple[str, ...]
    wanted: dict[str, float]
    said: dict[str, str]

    def check(self, kind: str, names: bool, *options: str) -> None:
        """Nothing, when all that is said makes sense for a file of this kind; else raises ValueError."""
        useless = [f"{k}={v}" for k, v in self.said.items() if k not in options]
        useless += [f"{k}={v:g}" for k, v in self.wanted.items()] + ([] if names else list(self.names))
        if useless:
            raise ValueError(f"keys {','.join(useless)!r} cannot apply to {kind}; leave them out")


def parse_keys(keys: str | None) -> Keys:
    """The parts of `keys`; raises ValueError for NAME=VALUE that is neither a number nor an option."""
    names, wanted, said = [], {}, {}
    for part in keys.split(",") if keys is not None else ():
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            names.append(name)
        elif value.lower() in SAID.get(name, ()):
            said[name] = value.lower()
        else:
            try:
                wanted[name] = float(value)
            except ValueError:
                options = f" or {name}={'|'.join(SAID[name])}" if name in SAID else ""
                raise ValueError(f"keys: {part.strip()!r} is not NAME=NUMBER{options}") from None
    return Keys(tuple(names), wanted, said)


def roles(names: Iterable[str], keys: tuple[str, ...] = ()) -> dict[str, str]:
    """Which of the names hold t, x, y and p, by their usual names or those in `keys`, "-" for what there is none of."""
    names = list(names)
    lower = {name.strip().lower(): name for name in reversed(names)}
    if keys and len(keys) != 4:
        raise ValueError(f"keys are {','.join(keys)!r}, wanted four names, t,x,y,p ('-' for what there is none of)")
    if keys:
        missing = [key for key in keys if key != "-" and key not in names]
        found = {role: key for role, key in zip(NAMES, keys, strict=True) if key != "-"}
    else:
        found = {
            r: next(lower[n] for n in known if n in lower) for r, known in NAMES.items() if set(known) & set(lower)
        }
        missing = []
    missing += [role for role in ("t", "x") if role not in found]
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}; it holds {listing(names)}")
    return found


# ------------------------------------------------------------------------------------------------- open recordings


@dataclass(frozen=True, eq=False)
class Recording:
    """One open sample. sensor: its size, if known. names: its columns. place: what positions count ("line", "record").

    zero: "first" or "file", see the module. chunks: int64 columns t (us), x, y, p and `at`, the position in the file.
    """

    sensor: Mapping[str, int]
    names: tuple[str, ...]
    place: str
    zero: str
    chunks: Iterator[Columns]


def read_recording(path: Path, network: Network, keys: str | None, view: View | None) -> Events:
    """A recording with one of SUFFIXES as `Events` of one sample; raises ValueError, see `opened`."""
    with opened(path, parse_keys(keys)) as recording:
        parts = [(t, neuron) for t, neuron, _ in _addressed(recording, network, view or View())]
    if not parts:
        raise ValueError("it holds no events")
    return _joined(parts)


def stream(
    path: str | Path,
    network: Network,
    window_seconds: float,
    *,
    view: View | None = None,
    keys: str | None = None,
    sample: int | None = None,
) -> Iterator[Events]:
    """A long recording in consecutive windows of `window_seconds`, each an `Events` with one sample.

    Times are microseconds since the start of the recording (of the view's window, where there is one), not of the
    window: window k holds k W <= t < (k + 1) W. Windows without events come too, up to the one in which the recording's
    last event lies, whether the view shows it or not. What is held in memory is one window and one chunk of CHUNK
    events, however long the file, for AEDAT 2.0 and 3.1, `.csv` and `.txt`, structured `.npy` (mapped) and HDF5 (t, x,
    y, p read in slices; of SHD, one sample); an `.npz` is compressed and read whole. sample: which one, for files of
    several. keys: as in `readers.read_input`, four or six names.

    Raises ValueError, one sentence naming the file: at once for wrong arguments, while reading for wrong events.
    """
    path = Path(path)
    length = round(window_seconds * 1e6) if math.isfinite(window_seconds) else 0
    if length < 1 or abs(length - window_seconds * 1e6) > 1e-6 * length:
        raise ValueError(f"a window of {window_seconds} s: wanted a whole number of microseconds, 1e-6 or more")
    if not path.is_file():
        raise ValueError(f"input {path} is {'a folder' if path.is_dir() else 'absent'}, wanted a recording in one file")
    return _stream(path, network, length, view or View(), keys, sample)


def _stream(
    path: Path, network: Network, length: int, view: View, text: str | None, sample: int | None
) -> Iterator[Events]:
    try:
        keys = parse_keys(text)
        wants(network, "events")
        if "sort" in keys.said:
            raise ValueError("keys sort=time needs the whole recording, which a stream never has; sort the file first")
        with opened(path, keys, sample) as recording:
            yield from _windows(_addressed(recording, network, view), length)
    except (ValueError, OSError) as error:
        raise ValueError(f"input {path}: {error}") from None


def _windows(parts: Iterable[tuple[np.ndarray, np.ndarray, int]], length: int) -> Iterator[Events]:
    end, seen = length, False
    held: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    empty = held[0]
    for t, neuron, last in parts:
        seen |= last >= 0
        while True:
            cut = int(np.searchsorted(t, end))
            held.append((t[:cut], neuron[:cut]))
            if last < end:
                break
            yield _joined(held)
            held, t, neuron, end = [empty], t[cut:], neuron[cut:], end + length
    if seen:
        yield _joined(held)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> Events:
    t, neuron = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Events(t, neuron, np.array([0, len(t)]))


def _addressed(recording: Recording, network: Network, view: View) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Times, neurons, and how far the recording has come (us since the view's start; negative: not yet there)."""
    names, sensor = view.names(recording.names), view.sensor(recording.sensor)
    grid = input_grid(network.input.shape, sensor, has_y="y" in names, has_p="p" in names)
    start, end = view.ends
    origin, before = 0, None
    for columns in recording.chunks:
        t, at = columns["t"], columns["at"]
        if not len(t):
            continue
        if before is None and recording.zero == "first":
            origin = int(t[0])
        columns["t"] = t = t - origin
        falls = np.flatnonzero(np.diff(t, prepend=0 if before is None else before[0]) < 0)
        if falls.size:
            i = int(falls[0])
            late = (t[i - 1], at[i - 1]) if i else before
            raise ValueError(
                f"time {t[i]} us of {recording.place} {at[i]} is negative, wanted 0 or more"
                if late is None
                else f"time {t[i]} us of {recording.place} {at[i]} comes after {late[0]} us of {recording.place} "
                f"{late[1]}; sort the events by time"
            )
        check_pixels(columns, recording.sensor, _counted(recording.place, at))
        before = int(t[-1]), int(at[-1])
        inside = int(np.searchsorted(t, end))
        shown = view.apply(columns)
        found = neurons(shown, grid, network, _counted(recording.place, shown["at"]))
        yield shown["t"], found, int(t[inside - 1]) - start if inside else -1
        if before[0] >= end:
            return


def _counted(word: str, at: np.ndarray) -> Callable[[int], str]:
    return lambda i: f"{word} {at[i]}"


@contextmanager
def opened(path: Path, keys: Keys, sample: int | None = None) -> Iterator[Recording]:
    """The recording in a file, or one sample of an `.npz` or HDF5 file, ready to be read in chunks.

    Raises ValueError, one sentence, for a file that is truncated, damaged or of another kind; the chunks raise it too,
    with the record, line or event, and the value. Kinds: see the functions below.
    """
    openers: dict[str, Callable[[Path, Keys], Any]] = {".csv": _csv, ".txt": _csv, ".npy": _structured}
    openers |= dict.fromkeys((".aedat", ".aedat2", ".aedat4"), _aedat)
    if path.suffix in openers:
        if sample not in (None, 0):
            raise ValueError(f"sample is {sample}, but it holds one recording, sample 0")
        with openers[path.suffix](path, keys) as recording:
            yield _as_said(recording, keys.said)
    elif path.suffix in (".npz", ".h5", ".hdf5"):
        with _one_of_many(path, keys, sample) as recording:
            yield _as_said(recording, keys.said)
    else:
        raise ValueError(f"a recording in {path.suffix or 'a file without a suffix'} is not understood")


def _as_said(recording: Recording, said: Mapping[str, str]) -> Recording:
    chunks = recording.chunks
    if "sort" in said and (parts := list(chunks)):
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        chunks = iter([arranged(joined | {"offsets": np.array([0, len(joined["t"])])}, {"sort": "time"})])
    return replace(recording, zero=said.get("zero", recording.zero), chunks=chunks)


# ----------------------------------------------------------------------------------------------------------- AEDAT


@contextmanager
def _aedat(path: Path, keys: Keys) -> Iterator[Recording]:
    """AEDAT 2.0 and 3.1, as iniVation's file format pages, jAER and libcaer have them.

    x counts from the left and y from the top, as the camera's own viewer shows the scene. AEDAT 3.1 stores that; AEDAT
    2.0 stores both from the other end (x = W - 1 - address, y = H - 1 - address, for the DVS128 and the DAVIS alike).
    p is 1 for ON, a brighter pixel: bit 11 set for a DAVIS, bit 0 clear for a DVS128. There jAER, libcaer and the
    camera agree against the text of the format and many readers; `View(polarity="swap")` gives what those give.
    Left out are frames, inertial samples, external events, and invalid events of AEDAT 3.1. The 32-bit clock of AEDAT
    2.0 may wrap around any number of times (no gap may be longer than 35 minutes); AEDAT 3.1 counts its turns.
    """
    with path.open("rb") as file:
        version, notes = _aedat_header(file)
        size = os.fstat(file.fileno()).st_size
        if version == "3.1":
            keys.check("an AEDAT 3.1 file", False, "zero", "sort")
            chip = _chip(notes, "source")
            sensor = {"sensor_height": chip.height, "sensor_width": chip.width} if chip else {}
            yield Recording(sensor, ("t", "x", "y", "p"), "event", "first", _aedat3(file, size))
            return
        keys.check("an AEDAT 2.0 file", False, "zero", "sort", "chip")
        chip = CHIPS[keys.said["chip"]] if "chip" in keys.said else _chip(notes, "aechip", "hardwareinterface")
        if chip is None:
            told = next((f"names the camera {text!r}" for name, text in notes.items() if name == "aechip"), "is silent")
            raise ValueError(
                f"the address layout depends on the camera, and its header {told}; say which it was with --keys "
                f"chip={', chip='.join(CHIPS)}"
            )
        if (size - file.tell()) % 8:
            raise ValueError(f"{size - file.tell()} bytes follow its header, wanted 8 for each record; truncated?")
        sensor = {"sensor_height": chip.height, "sensor_width": chip.width}
        yield Recording(sensor, ("t", "x", "y", "p"), "record", "first", _aedat2(file, chip))


def _aedat_header(file: BinaryIO) -> tuple[str, dict[str, str]]:
    """The version, and the notes of the header in lower case ("aechip", "hardwareinterface", "source", "format")."""
    first = file.readline(LONGEST_LINE)
    match = re.match(rb"#!AER-DAT(\d+\.\d+)\s", first)
    version = match[1].decode() if match else ""
    if version not in ("2.0", "3.1"):
        what = (
            f"it is AEDAT {version}" if version else "it has no line '#!AER-DAT', so it is AEDAT 1.0 or no AEDAT file"
        )
        raise ValueError(f"{what}, which is not read; wanted AEDAT 2.0 or 3.1, convert it with jAER or DV")
    notes: dict[str, str] = {}
    while True:
        here = file.tell()
        line = file.readline(LONGEST_LINE)
        text = line.startswith(b"#") and not re.search(rb"[\0-\x08\x0b\x0c\x0e-\x1f]", line)
        if not text and version == "2.0":  # an event may begin with the byte of '#', but then goes on with other bytes
            file.seek(here)
            break
        if not text or not line.endswith(b"\n"):
            raise ValueError(f"its header has no end at byte {here}; it is truncated or damaged")
        if b"#!END-HEADER" in line or (version == "2.0" and b"end of ascii header" in line.lower()):
            break
        note = re.match(r"#\s*(aechip|hardwareinterface|source|format)\b[^:]*:\s*(.*)", line.decode("latin1").lower())
        if note:
            notes.setdefault(note[1], note[2].strip())
    if version == "3.1" and notes.get("format", "raw") != "raw":
        raise ValueError(f"its packets have the format {notes['format']!r}, wanted RAW")
    return version, notes


def _chip(notes: Mapping[str, str], *names: str) -> Chip | None:
    found = [chip for name in names for key, chip in CHIPS.items() if key in notes.get(name, "")]
    return found[0] if found else None


def _aedat2(file: BinaryIO, chip: Chip) -> Iterator[Columns]:
    last, stamp, read = 0, 0, 0
    while block := file.read(8 * CHUNK):
        address, stamps = np.frombuffer(block, ">u4").reshape(-1, 2).T.astype(np.int64)
        at = np.flatnonzero(address & chip.skip == 0)
        address, stamps = address[at], stamps[at]
        steps = np.diff(stamps, prepend=stamp)
        t = last + np.cumsum(((steps + 2**31) & 0xFFFFFFFF) - 2**31)  # the clock goes round after 2^32 us
        found = {"t": t, "p": (address >> chip.polarity & 1) ^ (1 - chip.on), "at": read + at}
        for name, (shift, mask), size in (("x", chip.x, chip.width), ("y", chip.y, chip.height)):
            pixel = address >> shift & mask
            wrong = np.flatnonzero(pixel >= size)
            if wrong.size:
                raise ValueError(
                    f"the {name} address of record {found['at'][wrong[0]]} is {pixel[wrong[0]]}, wanted 0 to "
                    f"{size - 1} for a {chip.name}; another camera is named with --keys chip={', chip='.join(CHIPS)}"
                )
            found[name] = size - 1 - pixel
        if len(t):
            last, stamp = int(t[-1]), int(stamps[-1])
        read += len(block) // 8
        yield found


def _aedat3(file: BinaryIO, size: int) -> Iterator[Columns]:
    """Polarity events of packets: a header, then `number` events of `width` bytes.

    An event is a word, from bit 0: valid, polarity, 15 bits of y, 15 bits of x; and a time of 31 bits, to which the
    packet's overflow counter adds 2^31 us each.
    """
    camera, read = None, 0
    for packet in itertools.count():
        head = file.read(28)
        if not head:
            return
        if len(head) < 28:
            raise ValueError(f"packet {packet} has {len(head)} bytes of its 28 byte header; truncated?")
        kind, source, width, _, overflow, capacity, number, valid = struct.unpack("<2h6i", head)
        left = size - file.tell()
        if width < 1 or overflow < 0 or not 0 <= valid <= number <= capacity or width * number > left:
            raise ValueError(
                f"packet {packet} declares {number} events of {width} bytes ({valid} valid, capacity {capacity}, "
                f"overflow {overflow}), and {left} bytes follow; it is truncated or damaged"
            )
        if kind != 1:
            file.seek(width * number, os.SEEK_CUR)
            continue
        if width != 8 or source != (source if camera is None else camera):
            raise ValueError(f"packet {packet} has events of {width} bytes from camera {source}, wanted 8 and {camera}")
        camera = source
        for done in range(0, number, CHUNK):
            block = file.read(8 * min(CHUNK, number - done))
            data, t = np.frombuffer(block, "<u4").reshape(-1, 2).T.astype(np.int64)
            at = np.flatnonzero(data & 1)
            data, t = data[at], t[at]
            wrong = np.flatnonzero(t >= 2**31)
            if wrong.size:
                raise ValueError(f"the time of event {read + at[wrong[0]]} is {t[wrong[0]] - 2**32}, wanted 0 or more")
            pixels = {"x": data >> 17 & 0x7FFF, "y": data >> 2 & 0x7FFF, "p": data >> 1 & 1}
            yield {"t": t + (overflow << 31), **pixels, "at": read + at}
            read += len(block) // 8


# ---------------------------------------------------------------------------------------------------------- tables


@contextmanager
def _csv(path: Path, keys: Keys) -> Iterator[Recording]:
    """Tables, one event a line, separated by commas, semicolons or white space; blank lines and '#' lines are skipped.

    A first line that is not all numbers names the columns (see NAMES; others are ignored). Without it there are four,
    t, x, y, p, or keys give their numbers, from 0: "3,0,1,2" for x, y, p, t.
    """
    keys.check("a table", True, "unit", "zero", "sort")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = _lines(file)
        first = next(lines, None)
        if first is None:
            raise ValueError("it holds no events")
        split = next((mark for mark in ",;" if mark in first[1]), None)
        fields = [field.strip().strip('"') for field in first[1].split(split)]
        if all(re.fullmatch(r"[-+.\d]+([eE][-+]?\d+)?|nan|[-+]?inf", field, re.I) for field in fields):
            if len(fields) != 4 and not keys.names:
                raise ValueError(
                    f"line {first[0]} has {len(fields)} columns and no line names them, wanted t, x, y, p; give their "
                    "numbers from 0, t,x,y,p, with --keys ('-' for what there is none of)"
                )
            columns = roles(map(str, range(len(fields))), keys.names or ("0", "1", "2", "3"))
            where = {role: int(name) for role, name in columns.items()}
            lines = itertools.chain([first], lines)
        else:
            where = {role: fields.index(name) for role, name in roles(fields, keys.names).items()}
        yield Recording({}, tuple(where), "line", "file", _table_chunks(lines, split, where, keys.said.get("unit")))


def _lines(file: TextIO) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line that says something."""
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), ""), 1):
        if len(line) == LONGEST_LINE:
            raise ValueError(f"line {number} has {LONGEST_LINE} characters or more, wanted one event; is it a table?")
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


def _table_chunks(
    lines: Iterator[tuple[int, str]], split: str | None, where: Mapping[str, int], unit: str | None
) -> Iterator[Columns]:
    kinds = [(role, np.float64 if role == "t" and unit else np.int64) for role in where]
    while block := list(itertools.islice(lines, CHUNK)):
        numbers, texts = zip(*block, strict=True)
        try:
            with warnings.catch_warnings():  # NumPy would read "1.5" as the whole number 1, with a warning
                warnings.simplefilter("error")
                table = np.loadtxt(texts, kinds, comments=None, delimiter=split, usecols=[*where.values()], ndmin=1)
        except (ValueError, Warning) as error:
            raise ValueError(_misread(block, split, where, unit) or str(error).splitlines()[0]) from None
        at = np.array(numbers)
        t = microseconds(table["t"], unit, _counted("line", at))
        yield {**{role: table[role] for role in where}, "t": t, "at": at}


def _misread(block: list[tuple[int, str]], split: str | None, where: Mapping[str, int], unit: str | None) -> str | None:
    """The first field of a table that is no number, in words."""
    for number, line in block:
        fields = [field.strip() for field in line.split(split)]
        for role, column in where.items():
            if column >= len(fields):
                return f"line {number} has {len(fields)} columns, wanted one for {role} at column {column}"
            if role == "t" and unit:
                try:
                    float(fields[column])
                except ValueError:
                    return f"t of line {number} is {fields[column][:40]!r}, wanted a number of {unit}"
            elif not re.fullmatch(r"[-+]?\d{1,18}", fields[column]):
                more = " of microseconds (or a unit among --keys, such as unit=s)" if role == "t" else ""
                return f"{role} of line {number} is {fields[column][:40]!r}, wanted a whole number{more}"
    return None


# ---------------------------------------------------------------------------------------------------------- arrays


@contextmanager
def _structured(path: Path, keys: Keys) -> Iterator[Recording]:
    """A `.npy` file with one structured array, an entry for each event, fields as in NAMES; y and p may be missing."""
    keys.check("a structured array", True, "unit", "zero", "sort")
    with damage("it"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.dtype.names is None or array.ndim != 1:
        raise ValueError("it holds no row of events with named fields t, x, y, p")
    yield array_recording({name: array[name] for name in array.dtype.names}, keys)


def array_recording(arrays: Mapping[str, Any], keys: Keys, start: int = 0, end: int | None = None) -> Recording:
    """Events `start` to `end` of arrays, or of datasets, which are read in slices."""
    names = roles(arrays, keys.names[:4])
    lengths: dict[str, tuple[int, ...]] = {name: arrays[name].shape or () for name in names.values()}
    if any(len(shape) != 1 or shape != lengths[names["t"]] for shape in lengths.values()):
        raise ValueError(f"{', '.join(f'{n} has shape {s}' for n, s in lengths.items())}, wanted rows of one length")
    end = lengths[names["t"]][0] if end is None else end

    def chunks() -> Iterator[Columns]:
        for first in range(start, end, CHUNK):
            part = slice(first, min(first + CHUNK, end))
            with damage("a column"):
                found = {role: np.asarray(arrays[name][part]) for role, name in names.items()}
            at = np.arange(part.start, part.stop) - start
            t = microseconds(found.pop("t"), keys.said.get("unit"), _counted("event", at))
            yield {"t": t, **{role: whole(role, column) for role, column in found.items()}, "at": at}

    return Recording({}, tuple(names), "event", "file", chunks())


@contextmanager
def _one_of_many(path: Path, keys: Keys, sample: int | None) -> Iterator[Recording]:
    """One sample of an `.npz` file (read whole) or an HDF5 file: t, x, y, p, offsets, or spike lists as in SHD."""

    with open_arrays(path) as store:
        if not keys.names and store.has_spike_lists:
            keys.check("spike lists", False, "zero")
            one = _one(sample, len(store.array("spikes/times")))
            spikes = spike_lists(store.read("spikes/times", one), store.read("spikes/units", one))
            yield array_recording({"t": spikes["t"], "x": spikes["x"]}, keys)
            return
        keys.check("one sample of arrays", True, "unit", "zero")
        if len(keys.names) not in (0, 4, 6):
            raise ValueError(f"keys name {len(keys.names)} arrays, wanted t,x,y,p or t,x,y,p,offsets,labels")
        named = {name: store.array(name) for name in roles(store.names, keys.names[:4]).values()}
        cut = keys.names[4] if len(keys.names) == 6 else "offsets" if "offsets" in store.names else "-"
        start, end = 0, None
        if cut == "-":
            _one(sample, 1)
        else:
            offsets = whole(cut, store.read(cut))
            check_offsets(offsets, len(next(iter(named.values()))))
            start, end = map(int, offsets[_one(sample, len(offsets) - 1).start :][:2])
        found = array_recording(named, keys, start, end)
        yield replace(found, sensor={name: size for name, size in store.sensor.items() if name in SIZES})


def _one(sample: int | None, samples: int) -> slice:
    """The place of the sample that is asked for; None is the only one."""
    if sample is None and samples != 1:
        raise ValueError(f"it holds {samples} samples and one can be streamed; say which with sample=")
    if not 0 <= (sample or 0) < samples:
        raise ValueError(f"sample is {sample}, wanted 0 to {samples - 1}")
    return slice(sample or 0, (sample or 0) + 1)


def wants(network: Network, found: str) -> None:
    """Nothing, when the network takes what was found, "events" or "images"; else raises ValueError."""
    wanted = "events" if network.encoding == "events" else "images"
    if found != wanted:
        raise ValueError(f"it holds {found}, but the network takes {wanted} (encoding {network.encoding!r})")
