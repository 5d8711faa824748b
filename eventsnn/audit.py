"""A second opinion on a run: everything it counted, recounted from its recorded events and the network file alone.

Nothing here is shared with the engine: no kernel, no table, no address arithmetic. The engine walks from a unit to its
targets, an event at a time. Here every step of a connection is a sparse matrix that says which positions every position
behind it *reads*; counts are products of such matrices with the numbers of events in a tick, in continuous time in an
instant.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy import sparse

from eventsnn import hdf5, store
from eventsnn.network import (
    AdaptivePool,
    Connection,
    Conv,
    Dense,
    Flatten,
    Identity,
    Network,
    Pool,
    Population,
    Shape,
    Sparse,
    Subsample,
)
from eventsnn.neurons import IF, LIF, Input, Integrator, Relay

NAMES = ("scope", "name", "quantity")
KINDS = ("structural", "units", "effective", "effective_per_tick", "delivered", "dropped", "in_flight")
CLASSES = ("ac", "mac", "identity", "pool")
OPERATIONS = ("neuron_update", "neuron_update_clocked", "threshold_test", "reset", "decay", "decay_clocked", "bias")
STATED = ("sample", "label", "prediction", "tied", "stop_time", "stop_reason")  # columns of samples.csv, not counts
COLUMNS = ("sample", "time", "population", "neuron", "value")  # of events.h5
TRACE = {"outputs": 3, "synops": 2, "stop_time": 1, "stop_reason": 1, "predictions": 1, "tied": 1}  # dimensions
TABLES = ("layers.csv", "connections.csv", "samples.csv", "statistics.csv")
SHOWN = 20  # differences that are told one by one
CELLS = 2**22  # numbers of one population that are held at a time: 32 MB
NUMBER = int | float


@dataclass(frozen=True)
class Audit:
    """What became of recounting a run.

    agrees: whether every entry is what the events give. checked: entries compared. events: recorded events they were
    recounted from. differing: entries that differ. first: the first of them in words: file, place, what the file says,
    what was recounted; None if there is none. differences: the first 20 of them. unchecked: what the files do not allow
    to recount, a sentence each.
    """

    agrees: bool
    checked: int
    events: int
    differing: int
    first: str | None
    differences: tuple[str, ...]
    unchecked: tuple[str, ...]


def audit(folder: str | Path, weights: str | Path | None = None) -> Audit:
    """Whether the books of a run folder follow from its recorded events and the network it ran.

    weights: the network file; None for the file the run names, where `timing.json` says it lay, beside the run folder,
    in the current folder or in the package. First the events are looked at for themselves (ranges, order, digest), then
    `run.json`, `layers.csv`, `connections.csv`, `samples.csv`, `trace.h5` and what else of counts the folder holds.

    Raises ValueError, in one sentence, when the folder is no finished run with all events recorded, when a file lacks
    something or holds text for numbers, and when the network is not the one that ran.
    """
    try:
        books = _open_books(Path(folder))
        network = _find_network(books, weights)
        compare = _Comparison(books, network)
        _compare_events(compare)
        _compare_stops(compare)
        if compare.can_recount:
            account = _account(network, books)
            compare.unknown += account.unknown
            _compare_counts(compare, account)
            _compare_trace(compare, account)
            _compare_sources(compare, account)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return Audit(
        agrees=compare.differing == 0,
        checked=compare.checked,
        events=len(books.events["sample"]),
        differing=compare.differing,
        first=compare.differences[0] if compare.differences else None,
        differences=tuple(compare.differences),
        unchecked=(*_unchecked(compare), *compare.unknown),
    )


def lines(audit: Audit) -> list[str]:
    """An audit in words for the terminal, a line each."""
    if audit.agrees:
        found = [f"The books agree: {audit.checked:,} entries recounted from {audit.events:,} events."]
    else:
        found = [f"The books do NOT agree. First: {audit.first}."]
        found += [f"  also: {difference}" for difference in audit.differences[1:]]
        found.append(f"{audit.differing:,} of {audit.checked:,} entries differ.")
    return found + [f"Not checked: {sentence}." for sentence in audit.unchecked]


def digest(events: Mapping[str, np.ndarray] | np.ndarray, samples: int, populations: int) -> np.ndarray:
    """(samples, populations) uint64: sums that change with any event of a sample and population, whatever their order.

    events: arrays by the names sample, time, population, neuron (whole numbers) and value (float64), or a structured
    array of them. Every event adds, modulo 2**64, mix(mix(2**32 time + neuron) xor the bits of its value), where mix is
    the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014). A time in seconds counts as mix(its bits).
    """
    is_real = events["time"].dtype.kind == "f"
    time = _mixed(_bits(events["time"])) if is_real else events["time"].astype(np.uint64)
    key = np.left_shift(time, np.uint64(32)) + events["neuron"].astype(np.uint64)
    word = _mixed(np.bitwise_xor(_mixed(key), _bits(events["value"])))
    sums = np.zeros(samples * populations, np.uint64)
    np.add.at(sums, events["sample"].astype(np.int64) * populations + events["population"], word)
    return sums.reshape(samples, populations)


def _bits(number: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(number, "<f8").view("<u8").astype(np.uint64)


def _mixed(word: np.ndarray) -> np.ndarray:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        word = np.bitwise_xor(word, np.right_shift(word, np.uint64(shift))) * np.uint64(factor)
    return word


# -------------------------------------------------------------------------------------------------- files of the run


@dataclass(frozen=True)
class _Clock:
    """What only a run in continuous time has, in microseconds; pulse, period: 0 for none. ends: in seconds."""

    start: float
    end: float
    tick: float
    pulse: float
    period: float
    is_serial: bool

    @property
    def ends(self) -> float:
        return self.end / 1e6

    @property
    def count(self) -> int:
        """Bins of the account; what rounding leaves over makes none."""
        return max(1, math.ceil((self.end - self.start) / self.tick * (1 - 1e-12)))

    def bins(self, time: np.ndarray, ticks: int) -> np.ndarray:
        """The bins of the account that moments in microseconds lie in."""
        return np.minimum(np.floor((time - self.start) / self.tick), ticks - 1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Books:
    """A run folder as it lies there: JSON objects, rows of CSV files, arrays by name. clock: None in whole ticks."""

    folder: Path
    run: dict[str, Any]
    network: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]]
    trace: dict[str, np.ndarray]
    events: dict[str, np.ndarray]
    sources: dict[str, Any] | None
    samples: int
    ticks: int
    clock: _Clock | None


def _open_books(folder: Path) -> _Books:
    run, network = _json(folder / "run.json"), _json(folder / "network.json")
    if _at(run, "mode") not in ("sync", "async"):
        raise ValueError(f"run.json has mode {run['mode']!r}; only runs in mode sync or async can be recounted")
    clock = _clock(run) if run["mode"] == "async" else None
    samples, ticks = _at(run, "input", "samples", kind=int), _at(run, "ticks", kind=int)
    if samples < 1 or ticks < 1:
        raise ValueError(f"run.json has {samples} samples and {ticks} ticks, wanted 1 or more of both")
    if not (folder / "events.h5").exists():
        raise ValueError("the events were not recorded; run it again with --record spikes")
    events = _hdf5(folder / "events.h5", (*COLUMNS, "offsets", "digest"))
    real = ("value",) if clock is None else ("value", "time")
    for name in COLUMNS:
        column, count = events[name], events["sample"].shape
        if column.dtype.kind not in ("f" if name in real else "iu") or column.ndim != 1 or column.shape != count:
            raise ValueError(
                f"events.h5 has {name} of shape {column.shape} and dtype {column.dtype}, wanted numbers "
                f"as many as samples, {count}, whole but for the {' and the '.join(real)}"
            )
        events[name] = column.astype(np.float64 if name in real else np.int64)
    trace = _hdf5(folder / "trace.h5", TRACE)
    for name, dimensions in ({**TRACE, "labels": 1} if "labels" in trace else TRACE).items():
        array, wanted = trace[name], (samples, ticks)[:dimensions]
        is_kind = array.dtype.kind in ("f" if name == "outputs" or (clock and name == "stop_time") else "iub")
        if array.ndim != dimensions or array.shape[:2] != wanted or not is_kind:
            raise ValueError(f"trace.h5 has {name} of shape {array.shape} and dtype {array.dtype}, wanted {wanted}")
    low, high = trace["stop_time"].min(), trace["stop_time"].max()
    least, most = (1, ticks) if clock is None else (clock.start / 1e6, clock.ends)
    if not (low >= least and high <= most):
        raise ValueError(f"trace.h5 has stop times from {low} to {high}, wanted {least} to {most}")
    rows = {name: _csv(folder / name) for name in TABLES}
    has_sources = (folder / "sources.h5").exists() or _at(run, "recorded", "sources", kind=list)
    sources = _hdf5(folder / "sources.h5", ("emitted", "fan_out"), dict) if has_sources else None
    return _Books(folder, run, network, rows, trace, events, sources, samples, ticks, clock)


def _clock(run: dict[str, Any]) -> _Clock:
    found = {name: _at(run, name, kind=NUMBER) for name in ("start", "duration", "tick_seconds")}
    for name in ("pulse", "bias_period"):
        found[name] = 0 if _at(run, name) is None else _at(run, name, kind=NUMBER)
    for name, seconds in found.items():
        if not 0 <= seconds < math.inf or (name in ("duration", "tick_seconds") and not seconds):
            raise ValueError(f"run.json has {seconds!r} for {name}, wanted a positive number of seconds")
    start, length = (float(_divided(found[name])[0]) for name in ("start", "duration"))
    tick, pulse, period = _whole(found["tick_seconds"]), found["pulse"] * 1e6, _whole(found["bias_period"])
    return _Clock(start, start + length, tick, pulse, period, run.get("arrivals") == "serial")


def _divided(seconds: np.ndarray | float) -> np.ndarray:
    """(2, ...) the numbers that, divided by 1e6, are these seconds, a whole one first; one twice if it is alone."""
    near = np.asarray(seconds) * 1e6
    first, second = np.full((2, *near.shape), np.nan)
    for guess in (np.rint(near), near, np.nextafter(near, np.inf), np.nextafter(near, -np.inf)):
        fits = guess / 1e6 == seconds
        second = np.where(fits & ~np.isnan(first) & (guess != first), guess, second)
        first = np.where(fits & np.isnan(first), guess, first)
    first = np.where(np.isnan(first), near, first)
    return np.stack([first, np.where(np.isnan(second), first, second)])


def _whole(seconds: float) -> float:
    """Seconds as microseconds; what rounding alone parts from a whole number of them is that number."""
    found = seconds * 1e6
    return float(round(found)) if abs(found - round(found)) <= 1e-12 * round(found) else found


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path.name} is missing; wanted the folder of a finished run")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise ValueError(f"{path.name} cannot be read as JSON; it was changed or cut off") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


def _at(content: Any, *keys: str, kind: Any = object, file: str = "run.json") -> Any:
    """The value under a path of keys; raises ValueError naming the path where it is missing or of another kind."""
    for depth, key in enumerate(keys):
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"{file} lacks {'.'.join(keys[: depth + 1])}; was it written by another eventsnn?")
        content = content[key]
    if not isinstance(content, kind) or (kind in (int, NUMBER) and isinstance(content, bool)):
        words: dict[Any, str] = {int: "a whole number", list: "a list", dict: "an object", NUMBER: "a number"}
        wanted = words.get(kind, "an array")
        raise ValueError(f"{file} has {content!r} for {'.'.join(keys)}, wanted {wanted}")
    return content


def _csv(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"{path.name} is missing; wanted the folder of a finished run")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, csv.Error, ValueError) as error:
        raise ValueError(f"{path.name} cannot be read as CSV: {error}") from None
    for number, row in enumerate(rows):
        if None in row or None in row.values():
            raise ValueError(f"{path.name}, row {number}, has more or fewer cells than there are columns")
    return rows


def _hdf5(path: Path, wanted: Iterable[str], kind: type = np.ndarray) -> dict[str, Any]:
    if not path.is_file() or not h5py.is_hdf5(path):
        raise ValueError(f"{path.name} is {'no HDF5 file' if path.is_file() else 'missing'}; was it changed?")
    with hdf5.opened(path) as file:
        try:
            tree = hdf5.read_tree(file)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None
    for name in wanted:
        if not isinstance(tree.get(name), kind):
            raise ValueError(f"{path.name} lacks {name}; was it written by another eventsnn?")
    return tree


def _find_network(books: _Books, weights: str | Path | None) -> Network:
    """The network as it ran: with the run's encoding, length of a tick and least delay."""
    said = _at(books.run, "network", kind=dict)
    path = Path(weights) if weights is not None else _find_file(books.folder, said.get("file"))
    loaded = store.load(path, assume=said.get("assume"))
    as_run = {key: _at(books.network, key, file="network.json") for key in ("encoding", "tick_seconds")}
    least = _at(books.run, "layer_delay", kind=int)
    try:
        network = replace(loaded, **as_run)
    except (ValueError, TypeError) as error:
        raise ValueError(f"network.json does not fit {path}: {error}") from None
    slower = replace(network, connections=tuple(replace(c, delay=max(c.delay, least)) for c in network.connections))
    # a run made in Python is hashed with the delays that layer_delay gave it
    found = store.network_hash(network)
    if said.get("sha256") not in (None, found, store.network_hash(slower)):
        raise ValueError(
            f"{path} is not the network that ran: its hash is {found}, the run's {said['sha256']}; "
            "name the right file with --weights"
        )
    shortest = min((len(t) for c in network.connections for t in (c.scale, c.shift) if t is not None), default=None)
    if shortest is not None and shortest < books.ticks:
        raise ValueError(f"run.json has {books.ticks} ticks, but the per-tick tables of {path} end after {shortest}")
    recorded = _at(books.run, "recorded", "events", kind=list)
    missing = [p.name for p in network.populations if p.name not in recorded]
    if missing:
        raise ValueError(f"the events of {', '.join(missing)} were not recorded; run it again with --record spikes")
    classes = books.trace["outputs"].shape[2]
    if classes != network[network.output].size:
        raise ValueError(f"trace.h5 has {classes} outputs, {path} has {network[network.output].size}")
    return slower


def _find_file(folder: Path, name: Any) -> Path:
    """Where the network file of a run lies: where it lay, beside the run, here, or in the package."""
    try:
        lay = json.loads((folder / "timing.json").read_text(encoding="utf-8"))["network_path"]
        if isinstance(lay, str) and Path(lay).is_file():
            return Path(lay)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # only a hint: the run may have come from another machine
    if not isinstance(name, str):
        raise ValueError("run.json names no network file; name it with --weights")
    package = Path(__file__).resolve().parent
    for place in (folder, folder.parent, Path(), package / "weights", package.parent / "weights"):
        if (place / Path(name).name).is_file():
            return place / Path(name).name
    raise ValueError(f"its network file {name} was not found; name it with --weights")


# ----------------------------------------------------------------------------------- connections, from the output side


@dataclass(frozen=True, eq=False)
class _Step:
    """A map or operation as a reader: which positions in front of it every position behind it reads, how often.

    reads: (positions behind, positions in front) int64. Channels come in groups: each of the `outputs` channels of a
    group reads all `inputs` channels of it. silent: channels put before and after, which read nothing. is_pool: whether
    what it forwards are pool taps. is_uneven: whether its coefficients differ.
    """

    reads: sparse.csr_array
    groups: int
    inputs: int = 1
    outputs: int = 1
    silent: tuple[int, int] = (0, 0)
    is_pool: bool = False
    is_uneven: bool = False

    @property
    def size(self) -> int:
        """Units behind the step."""
        return (self.groups * self.outputs + sum(self.silent)) * self.reads.shape[0]

    def push(self, counts: np.ndarray) -> np.ndarray:
        """(rows, units behind) what arrives of (rows, units in front) int64."""
        rows, (behind, in_front) = len(counts), self.reads.shape
        grouped = counts.reshape(rows, self.groups, self.inputs, in_front).sum(2)
        read = (self.reads @ grouped.reshape(-1, in_front).T).T.reshape(rows, self.groups, 1, behind)
        arrived = np.broadcast_to(read, (rows, self.groups, self.outputs, behind)).reshape(rows, -1, behind)
        return np.pad(arrived, ((0, 0), self.silent, (0, 0))).reshape(rows, -1)

    def pull(self, counts: np.ndarray) -> np.ndarray:
        """(units in front,) for each the sum over all that reads it of (units behind,) int64: the transpose of push."""
        behind, in_front = self.reads.shape
        front, back = self.silent
        read = counts.reshape(-1, behind)[front : counts.size // behind - back]
        grouped = read.reshape(self.groups, self.outputs, behind).sum(1) @ self.reads
        return np.broadcast_to(grouped[:, None], (self.groups, self.inputs, in_front)).ravel()

    def tables(self) -> list[sparse.csr_array]:
        """`push` as a product of sparse tables: channels of a group together, what reads them, and all its outputs."""
        behind, in_front = self.reads.shape
        groups, front, back = (sparse.eye_array(n, dtype=np.int64) for n in (self.groups, in_front, behind))
        gathered = sparse.kron(sparse.kron(groups, np.ones((self.inputs, 1), np.int64)), front, format="csr")
        spread = sparse.kron(sparse.kron(groups, np.ones((1, self.outputs), np.int64)), back)
        silent = [sparse.csr_array((spread.shape[0], n * behind), dtype=np.int64) for n in self.silent]
        read = sparse.kron(groups, self.reads.T, format="csr")
        return [gathered, read, sparse.hstack([silent[0], spread, silent[1]], format="csr")]


def _step(what: Any, shape: Shape) -> tuple[_Step, Shape]:
    """A map or operation on a grid of `shape`, and the shape behind it."""
    if isinstance(what, Dense):
        outputs, inputs = what.weight.shape
        return _Step(_table([0], [0], (1, 1)), 1, inputs, outputs), (outputs,)
    if isinstance(what, Sparse):
        in_front = np.repeat(np.arange(len(what.indptr) - 1), np.diff(what.indptr))
        return _Step(_table(what.target, in_front, (math.prod(what.shape), math.prod(shape))), 1), what.shape
    reads, sizes, is_uneven = _table([0], [0], (1, 1)), [], False
    for axis, size in enumerate(shape[1:]):
        window, divisors = _window(what, axis, size)
        behind, tap = np.nonzero((window >= 0) & (window < size))
        reads = sparse.kron(reads, _table(behind, window[behind, tap], (len(window), size)), format="csr")
        sizes.append(len(window))
        is_uneven |= len(set(divisors)) > 1
    if isinstance(what, Conv):
        outputs = what.weight.shape[0]
        return _Step(reads, what.groups, shape[0] // what.groups, outputs // what.groups), (outputs, *sizes)
    front, back = what.channels if isinstance(what, Subsample) else (0, 0)
    step = _Step(reads, shape[0], 1, 1, (front, back), isinstance(what, Pool | AdaptivePool), is_uneven)
    return step, (front + shape[0] + back, *sizes)


def _window(what: Any, axis: int, size: int) -> tuple[np.ndarray, list[int]]:
    """What each position of one axis reads, (positions behind, taps), some outside the grid; and a mean's divisors."""
    if isinstance(what, Identity):
        return np.arange(size)[:, None], []
    if isinstance(what, Subsample):
        return np.arange(0, size, what.stride[axis])[:, None], []
    if isinstance(what, AdaptivePool):
        bins = what.size[axis]
        low, high = np.arange(bins) * size // bins, -(-(np.arange(bins) + 1) * size // bins)
        window = low[:, None] + np.arange(np.max(high - low))
        return np.where(window < high[:, None], window, -1), (high - low).tolist()
    if isinstance(what, Conv):
        taps, (before, after) = what.dilation[axis] * np.arange(what.weight.shape[2 + axis]), what.padding[axis]
        starts = np.arange(0, size + before + after - taps[-1], what.stride[axis])
        return starts[:, None] - before + taps, []
    assert isinstance(what, Pool)
    padding = what.padding[axis]
    taps = (what.dilation[axis] if what.dilation else 1) * np.arange(what.kernel[axis])
    hanging = what.stride[axis] - 1 if what.ceil_mode else 0
    starts = np.arange(0, size + 2 * padding + hanging - taps[-1], what.stride[axis])
    if what.ceil_mode:
        starts = starts[starts < size + padding]  # PyTorch drops a window that starts in the padding at the end
    window = starts[:, None] - padding + taps
    inside = ((window >= 0) & (window < size)).sum(1)
    divisors = (window < size + padding).sum(1) if what.count_include_pad else inside
    return window, divisors[inside > 0].tolist() if what.kind == "average" else []


def _table(row: Any, column: Any, shape: tuple[int, int]) -> sparse.csr_array:
    """A table of counts; a pair that is named twice counts twice."""
    return sparse.csr_array((np.ones(len(row), np.int64), (row, column)), shape=shape)


def _present(op: Any, shape: Shape) -> np.ndarray:
    """(units in front of the operation,) synapses of each in bounds whose weight is not zero."""
    nonzero = (np.asarray(op.weight) != 0).astype(np.int64)
    if isinstance(op, Dense):
        return nonzero.sum(0)
    if isinstance(op, Sparse):
        return np.diff(np.concatenate([[0], np.cumsum(nonzero)])[op.indptr])
    if isinstance(op, Identity):
        return np.broadcast_to(nonzero.reshape(-1, *(1,) * (len(shape) - 1)), shape).ravel()
    # (channels, *kernel): how many outputs use the tap; then axis by axis, from taps to the positions they read
    found = nonzero.reshape(op.groups, -1, *nonzero.shape[1:]).sum(1).reshape(shape[0], *nonzero.shape[2:])
    for axis, size in enumerate(shape[1:]):
        window, _ = _window(op, axis, size)
        uses = np.stack([np.bincount(read[(read >= 0) & (read < size)], minlength=size) for read in window.T])
        found = np.tensordot(found, uses, axes=(1, 0))
    return found.ravel()


class _Route:
    """A connection: its steps, and the taps of one event of every source unit, (source units,) int64.

    fan, effective: of the connection's class. pool: beside a weight. present: (units in front of the operation,).
    """

    def __init__(self, network: Network, connection: Connection) -> None:
        self.connection, self.label, source = connection, connection.label, network[connection.source]
        self.is_image = isinstance(source.neuron, Input) and network.encoding == "direct"
        self.is_weighted = not isinstance(connection.op, Identity)
        steps: list[_Step] = []
        shape, place = source.shape, 0
        for what in (*connection.before, connection.op, *connection.after):
            if what is connection.op:
                self.present, place = _present(what, shape), len(steps)
            if isinstance(what, Flatten):
                shape = (math.prod(shape),)  # channels come first already
                continue
            step, shape = _step(what, shape)
            steps.append(step)

        self.steps, self.before, self.tables = steps, steps[:place], [t for step in steps for t in step.tables()]
        pools = [i for i, step in enumerate(steps) if step.is_pool]
        self.pool = np.zeros(source.size, np.int64)
        if self.is_weighted:
            is_graded = isinstance(source.neuron, Relay) or self.is_image or any(step.is_uneven for step in self.before)
            self.tap_class = "mac" if is_graded else "ac"
            self.fan = _pull(steps[: place + 1], np.ones(steps[place].size, np.int64))
            self.effective = _pull(self.before, self.present)
            for i in pools:  # each of several pools counts what it forwards
                self.pool = self.pool + _pull(steps[: i + 1], np.ones(steps[i].size, np.int64))
        else:
            self.tap_class = "pool" if pools else "identity"
            behind = _pull(steps[place + 1 :], np.ones(steps[-1].size, np.int64))
            self.fan, self.effective = _pull(self.before, behind), _pull(self.before, behind * self.present)


def _pull(steps: Sequence[_Step], counts: np.ndarray) -> np.ndarray:
    for step in reversed(steps):
        counts = step.pull(counts)
    return counts


def _push(steps: Sequence[_Step], counts: np.ndarray) -> np.ndarray:
    for step in steps:
        counts = step.push(counts)
    return counts


# -------------------------------------------------------------------------------------------------------- the account


class _Grid:
    """Some samples' events of one population, as sparse tables (sample x tick, neuron) int64, and as masks.

    events: how many. units: with their multiplicity. distinct: 1 where there is one of a value other than 0. has_turn:
    (samples, ticks). fired, deaf, touched: (samples, ticks, neurons): that fired, that discard what arrives, that
    something arrived at; deaf and touched are None where they do not matter.
    """

    def __init__(self, population: Population, index: int, has_turn: np.ndarray, events: dict[str, np.ndarray]) -> None:
        self.population, self.has_turn = population, has_turn
        neuron, here = population.neuron, events["population"] == index
        row, column = events["sample"][here] * has_turn.shape[1] + events["time"][here], events["neuron"][here]
        shape, value = (has_turn.size, population.size), events["value"][here]
        self.events = _table(row, column, shape)
        self.units = sparse.csr_array((_multiplicity(population, value, False), (row, column)), shape=shape)
        self.distinct = _table(row[value != 0], column[value != 0], shape)
        self.distinct.data[:] = 1  # two events of one pixel in one tick are one
        self.fired = self.by_tick(self.events.toarray() > 0 if isinstance(neuron, IF) else np.zeros((has_turn.size, 0)))
        self.touched = self.deaf = None
        if isinstance(neuron, IF | Integrator):
            self.touched = np.zeros((*has_turn.shape, population.size), bool)
        if isinstance(neuron, IF) and neuron.refractory and neuron.refractory_input == "discard":
            self.deaf = np.zeros_like(self.fired)
            for ticks in range(1, min(neuron.refractory + 1, has_turn.shape[1])):
                self.deaf |= _later(self.fired, ticks)

    def by_tick(self, counts: np.ndarray) -> np.ndarray:
        """Counts by row of the tables as (samples, ticks, ...)."""
        return counts.reshape(*self.has_turn.shape, *counts.shape[1:])

    def in_turns(self, mask: np.ndarray) -> np.ndarray:
        """(samples,) how many of a mask of neurons there are in ticks in which the population had its turn."""
        return (np.count_nonzero(mask, axis=2) * self.has_turn).sum(1)


def _later(by_tick: np.ndarray, ticks: int) -> np.ndarray:
    """The same, so many ticks later; axis 1 is time."""
    found = np.zeros_like(by_tick)
    if ticks < by_tick.shape[1]:
        found[:, ticks:] = by_tick[:, : by_tick.shape[1] - ticks]
    return found


class _Account:
    """What a run's events amount to, int64.

    events, delivered: by population and by connection, (samples, ticks). units: by population, operations: by
    population and operation, taps, pool: by connection and kind, (samples,). tick: (events,) that each was emitted in.
    begun: (samples,) ticks. hidden: names of counts that the record does not tell, unknown: a sentence each about them.
    ends: (samples,) seconds, where they are known.
    """

    ends: np.ndarray | None = None

    def __init__(self, network: Network, books: _Books) -> None:
        def blank(names: Iterable[str]) -> dict[str, np.ndarray]:
            return {name: np.zeros(books.samples, np.int64) for name in names}

        self.network, self.books = network, books
        self.hidden: set[str] = set()
        self.unknown: list[str] = []
        self.tick, self.begun = self._ticks()
        self.turns = _turns(network, books, self.begun)
        self.routes = [_Route(network, c) for c in network.connections]
        self.constants = [_constants(network, p, books) for p in network.populations]
        self.spiking = [p.name for p in network.populations if isinstance(p.neuron, IF)]
        self.macs_input = sum(int(r.fan.sum()) for r in self.routes if r.is_image and r.is_weighted)
        names, labels, by_tick = [p.name for p in network.populations], [r.label for r in self.routes], self.no_ticks
        self.events = {name: by_tick() for name in names}
        self.delivered = {label: by_tick() for label in labels}
        self.units, self.operations = blank(names), {name: blank(OPERATIONS) for name in names}
        self.taps, self.pool = {label: blank(KINDS) for label in labels}, {label: blank(KINDS) for label in labels}
        self._book(books.events)

    def _ticks(self) -> tuple[np.ndarray, np.ndarray]:
        return self.books.events["time"], self.books.trace["stop_time"].astype(np.int64)

    def no_ticks(self) -> np.ndarray:
        """(samples, ticks) zeros."""
        return np.zeros((self.books.samples, self.books.ticks), np.int64)

    def _book(self, events: dict[str, np.ndarray]) -> None:
        """Count everything, a few samples at a time."""
        order = np.argsort(events["sample"], kind="stable")  # if they are out of order, that was told already
        events = {name: events[name][order] for name in COLUMNS}
        populations, ticks = self.network.populations, self.books.ticks
        sizes = [p.size for p in populations]
        some = max(1, CELLS // (ticks * max(*sizes, sum(sizes) // 8)))
        for first in range(0, self.books.samples, some):
            part = slice(first, min(first + some, self.books.samples))
            here = slice(*np.searchsorted(events["sample"], (part.start, part.stop)))
            of_part = {name: column[here] - (first if name == "sample" else 0) for name, column in events.items()}
            has_turn = np.arange(ticks) < self.turns[:, part, None]
            grids = {p.name: _Grid(p, i, has_turn[i], of_part) for i, p in enumerate(populations)}
            for route in self.routes:
                self._book_taps(route, grids[route.connection.source], grids[route.connection.target], part)
            for grid, constants in zip(grids.values(), self.constants, strict=True):
                self._book_population(grid, constants, part)

    def _book_taps(self, route: _Route, source: _Grid, target: _Grid, part: slice) -> None:
        label, delay = route.label, route.connection.delay
        fans = np.stack([route.fan, route.effective, route.pool], 1)
        structural, effective, pool = np.moveaxis(source.by_tick(source.events @ fans), 2, 0)
        units, _, pool_units = np.moveaxis(source.by_tick(source.units @ fans), 2, 0)
        distinct = effective
        if route.is_weighted:  # several events of one window are one input that is not zero
            reached = _push(route.before, source.distinct.toarray()) > 0 if route.before else source.distinct
            distinct = source.by_tick(reached @ route.present)

        arrived, pool_arrived = (_later(x, delay) * target.has_turn for x in (structural, pool))
        dropped = np.zeros_like(arrived)
        if target.touched is not None:
            came = _later(source.by_tick(_push(route.steps, source.events.toarray())), delay)
            if target.deaf is not None:
                dropped = (came * target.deaf).sum(2) * target.has_turn
                came[target.deaf] = 0
            target.touched |= came > 0
        self.delivered[label][part] = arrived - dropped
        # a pool in front of a weight ends before the neuron that drops: all of its taps are delivered
        of_class = (structural, units, effective, distinct, arrived - dropped, dropped)
        beside = (pool, pool_units, pool, pool, pool_arrived, np.zeros_like(pool))
        for book, counts, came_in in ((self.taps, of_class, arrived), (self.pool, beside, pool_arrived)):
            in_flight = counts[0].sum(1) - came_in.sum(1)
            for kind, count in zip(KINDS, (*(by_tick.sum(1) for by_tick in counts), in_flight), strict=True):
                book[label][kind][part] = count

    def _book_population(self, grid: _Grid, constants: np.ndarray | None, part: slice) -> None:
        name, neuron, size = grid.population.name, grid.population.neuron, grid.population.size
        self.events[name][part] = grid.by_tick(grid.events.sum(1))
        self.units[name][part] = units = grid.by_tick(grid.units.sum(1)).sum(1)
        if isinstance(neuron, Input):
            return
        driven = np.zeros((*grid.has_turn.shape, size), bool)
        driven |= False if constants is None else constants
        driven &= True if grid.deaf is None else ~grid.deaf
        done = {"bias": grid.in_turns(driven)}
        if grid.touched is not None:
            for route in self.routes:
                if route.is_image and route.connection.target == name:
                    since = slice(route.connection.delay, None)
                    driven[:, since] |= True if grid.deaf is None else ~grid.deaf[:, since]
            driven |= grid.touched
        if isinstance(neuron, IF):
            driven |= grid.fired
            if neuron.reset_delay:
                late = _later(grid.fired, 1) & (neuron.reset != "none")
                driven |= late
                units = grid.in_turns(late)
            done["reset"] = units * (neuron.reset != "none")
            done["threshold_test"] = grid.in_turns(driven) + units * neuron.multi_spike
        if grid.touched is not None:
            updates, clocked = grid.in_turns(driven), grid.has_turn.sum(1) * size
            done |= {"neuron_update": updates, "neuron_update_clocked": clocked}
            done |= {"decay": updates, "decay_clocked": clocked} if isinstance(neuron, LIF) else {}
        for operation, counts in done.items():
            self.operations[name][operation][part] = counts

    def spikes(self) -> np.ndarray:
        """(samples, ticks) spikes of all spiking populations."""
        return sum((self.events[name] for name in self.spiking), self.no_ticks())

    def synops(self, target: str | None = None) -> np.ndarray:
        """(samples, ticks) SynOps delivered to one population; without a name, to all."""
        arriving = (r for r in self.routes if r.is_weighted and target in (None, r.connection.target))
        return sum((self.delivered[r.label] for r in arriving), self.no_ticks())

    def by_class(self, kind: str, *classes: str) -> np.ndarray:
        """(samples,) taps of some classes."""
        found = np.zeros(self.books.samples, np.int64)
        for route in self.routes:
            found += self.taps[route.label][kind] if route.tap_class in classes else 0
            found += self.pool[route.label][kind] if "pool" in classes else 0
        return found


def _account(network: Network, books: _Books) -> _Account:
    if books.clock is None:
        return _Account(network, books)
    from eventsnn.audit_async import TimedAccount

    return TimedAccount(network, books)


def _turns(network: Network, books: _Books, begun: np.ndarray) -> np.ndarray:
    """(populations, samples) ticks in which a population had its turn: what lies behind the decision had none."""
    depth = _depths(network)
    is_behind = np.array([depth[p.name] > depth[network.output] for p in network.populations])
    return begun - (is_behind[:, None] & _is_cut(books))


def _is_cut(books: _Books) -> np.ndarray:
    """(samples,) whether a decision ended the sample within a tick, or an instant."""
    return books.trace["stop_reason"] != 0 if books.clock is None else books.trace["stop_time"] < books.clock.ends


def _depths(network: Network) -> dict[str, int]:
    """The longest path to every population over connections without delay."""
    depth = {p.name: 0 for p in network.populations}
    for _ in network.populations:  # a path visits every population at most once
        for c in network.connections:
            if c.delay == 0:
                depth[c.target] = max(depth[c.target], depth[c.source] + 1)
    return depth


def _order(network: Network) -> dict[str, int]:
    """The place of every population in an instant: by depth, then by number; the input feeds before all."""
    depth, numbers = _depths(network), {p.name: i for i, p in enumerate(network.populations)}
    names = sorted(numbers, key=lambda name: (name != network.input.name, depth[name], numbers[name]))
    return {name: i for i, name in enumerate(names)}


def _constants(network: Network, population: Population, books: _Books) -> np.ndarray | None:
    """(ticks or 1, neurons) whether the sum of all biases and shifts is other than 0, in the run's own precision."""
    incoming = [c for c in network.connections if c.target == population.name]
    positions, total = population.size // population.shape[0], np.zeros((1, population.size))
    for bias in (c.bias for c in incoming if c.bias is not None):
        total = total + (bias.ravel() if bias.size == population.size else np.repeat(bias, positions))
    for shift in (c.shift for c in incoming if c.shift is not None):
        total = total + np.repeat(shift[: books.ticks], positions, axis=1)
    with np.errstate(over="ignore", under="ignore"):
        is_present = total.astype(np.float32 if books.run.get("dtype") == "float32" else np.float64) != 0
    return is_present if is_present.any() else None


def _multiplicity(population: Population, value: np.ndarray, is_timed: bool) -> np.ndarray:
    """How many spikes events stand for, int64; 1 for a value that is none."""
    if not _is_multiple(population, is_timed):
        return np.ones(len(value), np.int64)
    return np.where(_is_multiplicity(value), value, 1).astype(np.int64)


def _is_multiple(population: Population, is_timed: bool) -> bool:
    """Whether a neuron may fire several times at once."""
    neuron = population.neuron
    if not isinstance(neuron, IF):
        return False
    return neuron.reset == "subtract" and not neuron.refractory if is_timed else neuron.multi_spike


def _is_multiplicity(value: np.ndarray) -> np.ndarray:
    return (value >= 1) & (value <= 2**53) & (value == np.floor(value))


# -------------------------------------------------------------------------------------------- as the files tell it


def _by_sample(account: _Account) -> dict[str, np.ndarray]:
    """The columns of samples.csv that are counts, (samples,) each."""
    nothing = np.zeros(account.books.samples, np.int64)
    found = {"spikes": account.spikes().sum(1)}
    found["spike_units"] = sum((account.units[name] for name in account.spiking), nothing)
    found["input_events"] = account.events[account.network.input.name].sum(1)
    found |= {f"synops_{kind}": account.by_class(kind, "ac", "mac") for kind in KINDS}
    found |= {f"synops_{c}" if c == "mac" else c: account.by_class("delivered", c) for c in CLASSES[1:]}
    found["macs_input"] = nothing + account.macs_input
    if account.network.encoding != "direct":
        found["macs_input_effective"] = nothing
    return found | {o: sum((done[o] for done in account.operations.values()), nothing) for o in OPERATIONS}


def _totals(account: _Account, by_sample: Mapping[str, np.ndarray]) -> dict[tuple[str, ...], Any]:
    """What run.json tells of all samples together, by path of keys, as far as it can be recounted."""
    trace, samples, is_timed = account.books.trace, account.books.samples, account.books.clock is not None
    labels, begun = trace.get("labels"), int(account.begun.sum())
    correct = None if labels is None else int(np.sum(trace["predictions"] == labels))
    found: dict[tuple[str, ...], Any] = {("accuracy",): None if correct is None else correct / samples}
    found |= {("mean_stop",): (math.fsum(trace["stop_time"]) if is_timed else begun) / samples}
    found |= {("stop_unit",): "s" if is_timed else "ticks"}
    found |= {("ticks_run",): begun, ("ties",): int(np.sum(trace["tied"]))}
    for name, counts in by_sample.items():
        if name in OPERATIONS:
            found["operations", name] = int(counts.sum())
        elif name.startswith("synops_"):
            found["synops", name.removeprefix("synops_")] = int(counts.sum())
        elif name not in CLASSES:
            found[name,] = int(counts.sum())
            if name.startswith("macs_input"):
                found[f"{name}_per_tick",] = int((counts * account.begun).sum())
    found["synops", "ac"] = int(account.by_class("delivered", "ac").sum())
    return found | {(c, k): int(account.by_class(k, c).sum()) for c in ("identity", "pool") for k in KINDS}


def _layers(account: _Account) -> list[dict[str, Any]]:
    """The rows of layers.csv."""
    rows = []
    for p in account.network.populations:
        taps = dict.fromkeys(CLASSES, 0)
        for route in account.routes:
            if route.connection.target == p.name:
                taps[route.tap_class] += int(account.taps[route.label]["delivered"].sum())
                taps["pool"] += int(account.pool[route.label]["delivered"].sum())
        is_spiking, events = p.name in account.spiking, int(account.events[p.name].sum())
        units = int(account.units[p.name].sum())
        row: dict[str, Any] = {"name": p.name, "kind": type(p.neuron).__name__.lower(), "spiking": is_spiking}
        row |= {"shape": list(p.shape), "neurons": p.size, "spikes": events * is_spiking}
        row |= {"spike_units": units * is_spiking, "events": events, "synops": taps["ac"] + taps["mac"]}
        row |= {tap_class: taps[tap_class] for tap_class in CLASSES[1:]}
        rows.append(row | {o: int(counts.sum()) for o, counts in account.operations[p.name].items()})
    return rows


def _connections(account: _Account) -> list[dict[str, Any]]:
    """The rows of connections.csv."""
    rows = []
    for route in account.routes:
        taps, pool = ({k: int(n.sum()) for k, n in book[route.label].items()} for book in (account.taps, account.pool))
        row: dict[str, Any] = {"name": route.label, "source": route.connection.source}
        row |= {"target": route.connection.target, "class": route.tap_class}
        row |= {"synops": taps["delivered"] * route.is_weighted, **taps, "pool_structural": pool["structural"]}
        rows.append(row | {"pool_taps": pool["delivered"], "pool_in_flight": pool["in_flight"]})
    return rows


def _statistics(account: _Account) -> list[dict[str, Any]]:
    """The rows of statistics.csv: how counts spread over the samples."""
    events, begun = account.events, np.arange(account.books.ticks) < account.begun[:, None]
    found = [("network", "", "synops", account.synops()), ("network", "", "spikes", account.spikes())]
    found.append(("network", "", "input_events", events[account.network.input.name]))
    found.append(("network", "", "ticks", begun.astype(np.int64)))
    for name in events:
        found.append(("layer", name, "spikes" if name in account.spiking else "events", events[name]))
        found.append(("layer", name, "synops", account.synops(name)))
    found += [("connection", route.label, route.tap_class, account.delivered[route.label]) for route in account.routes]
    rows = []
    for scope, name, quantity, by_tick in found:
        ranked = np.sort(by_tick.sum(1)).tolist()
        row: dict[str, Any] = {"scope": scope, "name": name, "quantity": quantity, "total": sum(ranked)}
        row["mean"] = sum(ranked) / len(ranked)
        for key, percent in (("p5", 5), ("median", 50), ("p95", 95), ("max", 100)):
            row[key] = ranked[-(-percent * len(ranked) // 100) - 1]  # the smallest that so many do not exceed
        rows.append(row | {"peak_per_tick": int(by_tick.max())})
    return rows


# ----------------------------------------------------------------------------------------------------- the comparison


class _Comparison:
    """Entries of the files beside what they should be; keeps count, and words for the first that differ."""

    def __init__(self, books: _Books, network: Network) -> None:
        self.books, self.network = books, network
        self.checked, self.differing, self.can_recount = 0, 0, True
        self.differences: list[str] = []
        self.unknown: list[str] = []

    def differs(self, words: str, entries: int = 1) -> None:
        """Note that entries differ; the words are about the first of them."""
        self.differing += entries
        if len(self.differences) < SHOWN:
            self.differences.append(words)

    def cell(self, where: str, said: Any, found: Any, source: str = "the events give") -> None:
        """One entry; text of a CSV file is read as the kind of thing that was found."""
        if isinstance(found, bool | list) and isinstance(said, str):
            found = "x".join(map(str, found)) if isinstance(found, list) else str(found)
        elif isinstance(found, int | float) and not isinstance(found, bool):
            try:
                said = type(found)(said) if isinstance(said, str) else said
                if isinstance(said, bool) or not isinstance(said, int | float):
                    raise ValueError
            except ValueError:
                wanted = "a number" if isinstance(found, float) else "a whole number"
                raise ValueError(f"{where} is {said!r}, wanted {wanted}") from None
        self.checked += 1
        if said != found:
            self.differs(f"{where}: the file says {said}, {source} {found}")

    def rows(self, file: str, said: Any, found: list[dict[str, Any]], known: Sequence[str] = ()) -> None:
        """Rows of a table, of a CSV file or of run.json. known: columns that are looked at elsewhere."""
        if len(said) != len(found):
            raise ValueError(f"{file} has {len(said)} rows, wanted {len(found)}")
        for number, (row, wanted) in enumerate(zip(said, found, strict=True)):
            name = ", ".join(str(wanted[key]) for key in NAMES if wanted.get(key))
            for column, value in wanted.items():
                self.cell(f"{file}, row {name or number}, column {column}", _at(row, column, file=file), value)
        self.unknown += [f"{file}, column {c}: it is not known here" for c in said[0] if c not in (*found[0], *known)]

    def array(
        self, where: str, axes: Sequence[str], said: np.ndarray, found: np.ndarray, source: str = "the events give"
    ) -> None:
        """An array, number by number; NaN is NaN. axes: what its indices count."""
        if said.shape != found.shape or said.dtype.kind not in "fiub":
            raise ValueError(f"{where} has shape {said.shape} and dtype {said.dtype}, wanted numbers of {found.shape}")
        self.checked += found.size
        wrong = np.argwhere((said != found) & ~((said != said) & (found != found)))
        if len(wrong):
            at = tuple(wrong[0])
            place = ", ".join(f"{axis} {i}" for axis, i in zip(axes, at, strict=True))
            self.differs(f"{where}, {place}: the file says {said[at]}, {source} {found[at]}", len(wrong))


def _compare_events(compare: _Comparison) -> None:
    """The events for themselves: in range, possible, in order, none twice, and those whose digest the run made."""
    books, network, populations = compare.books, compare.network, compare.network.populations
    sample, time, population, neuron, value = (books.events[name] for name in COLUMNS)
    count, names, neurons = len(sample), [p.name for p in populations], [p.neuron for p in populations]

    compare.checked += count

    def tell(wrong: np.ndarray, words: str, limit: np.ndarray | None = None) -> None:
        if wrong.any():
            i = int(np.argmax(wrong))
            of = names[population[i]] if 0 <= population[i] < len(names) else population[i]
            event = f"sample {sample[i]}, time {time[i]}, population {of}, neuron {neuron[i]}, value {value[i]:g}"
            words += "" if limit is None else f" {limit[i]}"
            compare.differs(f"events.h5, row {i} ({event}): {words}", int(wrong.sum()))

    known = np.clip(population, 0, len(names) - 1)
    clock, limits = books.clock, {"sample": books.samples, "time": books.ticks, "population": len(names)}
    sizes, channels = (np.array(x)[known] for x in ([p.size for p in populations], [p.shape[0] for p in populations]))
    for name, limit in {**limits, "neuron": sizes}.items():
        said, highest = books.events[name], np.broadcast_to(limit, (count,)) - 1
        if clock is not None and name == "time":
            is_inside = (time >= clock.start / 1e6) & (_divided(time).min(0) < clock.end)
            tell(~is_inside, f"its time is not from {clock.start / 1e6:g} to before {clock.ends:g} s")
        else:
            tell((said < 0) | (said > highest), f"its {name} is not between 0 and", highest)
    if compare.differing:
        compare.can_recount = False
        return

    order, last = (_depths if clock is None else _order)(network), books.trace["stop_time"][sample]
    if clock is None:
        last = _turns(network, books, books.trace["stop_time"].astype(np.int64))[population, sample] - 1
        tell(time > last, "the population had no turn in this tick, its last was in tick", last)
    else:
        is_behind = np.array([order[name] > order[network.output] for name in names])[population]
        tell((time > last) | (is_behind & (time == last)), "it lies behind the decision, at", last)
    is_fed = np.array([isinstance(n, Input) for n in neurons])
    emits_none = is_fed & (network.encoding == "direct") | np.array([isinstance(n, Integrator) for n in neurons])
    is_graded = np.array([isinstance(n, Relay) for n in neurons])
    is_multiple = np.array([_is_multiple(p, clock is not None) for p in populations])
    tell(emits_none[population], "this population emits no events")
    tell(is_multiple[population] & ~_is_multiplicity(value), "the value is no multiplicity, a whole number from 1 on")
    tell(~(is_graded | is_multiple)[population] & (value != 1), "the value is not 1, that of a spike")

    positions = sizes // channels
    level, place = np.array([order[name] for name in names])[population], neuron % positions * channels
    place += neuron // positions  # in a turn, position by position, and by channel there
    moment = np.unique(sample + 1j * time, return_inverse=True)[1]
    turn = moment * len(names) + population
    again, back = np.zeros(count, bool), np.zeros(count, bool)
    same_moment, same_turn = moment[1:] == moment[:-1], turn[1:] == turn[:-1]
    fires = same_turn & ~is_fed[population[1:]]  # input comes as it was given, on one pixel twice if so
    fires &= clock is None or not clock.is_serial  # there a neuron may fire after each of the events that reach it
    again[1:] = fires & (place[1:] == place[:-1])
    back[1:] = (moment[1:] < moment[:-1]) | (same_moment & (level[1:] < level[:-1]))
    back[1:] |= fires & (place[1:] < place[:-1])
    begins = np.flatnonzero(np.concatenate([[count > 0], ~same_turn]))
    back[np.delete(begins, np.unique(turn[begins], return_index=True)[1])] = True  # one turn of a population in a tick
    tell(again, "the same event twice")
    tell(back, "out of order; wanted by sample, time, depth of the population and, in its turn, position and channel")

    ends = np.cumsum(np.bincount(sample, minlength=books.samples))
    compare.array("events.h5, offsets", ["entry"], books.events["offsets"], np.concatenate([[0], ends]))
    said, found = books.events["digest"], digest(books.events, books.samples, len(names))
    compare.array("events.h5, digest", ["sample", "population number"], said, found)
    stored = hashlib.sha256(np.ascontiguousarray(said, "<u8").tobytes()).hexdigest()
    compare.cell("run.json, recorded.digest", _at(books.run, "recorded", "digest"), stored, "events.h5 gives")


def _compare_stops(compare: _Comparison) -> None:
    """What the run states and events do not show, why and when samples stopped, in samples.csv as in trace.h5."""
    books, trace, rows = compare.books, compare.books.trace, compare.books.rows["samples.csv"]
    if len(rows) != books.samples:
        raise ValueError(f"samples.csv has {len(rows)} rows, wanted {books.samples}")
    for i, row in enumerate(rows):
        said = {column: _at(row, column, file="samples.csv") for column in STATED}
        stop, is_cut = trace["stop_time"][i].item(), bool(trace["stop_reason"][i])
        stated: dict[str, Any] = {"sample": i, "label": int(trace["labels"][i]) if "labels" in trace else ""}
        stated |= {"prediction": int(trace["predictions"][i]), "tied": int(trace["tied"][i])}
        stated |= {"stop_time": stop, "stop_reason": "horizon"}
        if is_cut:
            stated["stop_reason"] = said["stop_reason"] if said["stop_reason"] != "horizon" else "a cutoff"
        for column, value in stated.items():
            compare.cell(f"samples.csv, row {i}, column {column}", said[column], value, "trace.h5 has")
        end = books.ticks if books.clock is None else books.clock.ends
        if not is_cut or (books.clock is not None and stated["stop_reason"] == "ticks"):
            compare.cell(f"trace.h5, stop_time, sample {i}", stop, end, "the horizon is")
    reasons = dict(Counter(row["stop_reason"] for row in rows))
    compare.cell("run.json, stop_reasons", _at(books.run, "stop_reasons"), reasons, "samples.csv gives")
    if books.clock is not None:
        tick = _at(books.network, "tick_seconds", file="network.json")
        compare.cell("run.json, tick_seconds", _at(books.run, "tick_seconds"), tick, "network.json has")
        name, _, number = str(_at(books.run, "cutoff")).partition(":")
        ticks = min(int(number), books.ticks) if name == "fixed" and number.isdecimal() else books.ticks
        compare.cell("run.json, duration in ticks", books.clock.count, ticks, "its ticks are")


def _compare_counts(compare: _Comparison, account: _Account) -> None:
    books, by_sample, hidden = compare.books, _by_sample(account), account.hidden

    def shown(row: dict[str, Any]) -> dict[str, Any]:
        """A row without what the record does not tell; of a statistic of such counts, its name is left."""
        left = NAMES if row.get("quantity") in hidden else row
        return {k: row[k] for k in left if k in NAMES or k.removeprefix("synops_") not in hidden}

    for path, value in _totals(account, by_sample).items():
        if path[-1] not in hidden:
            compare.cell(f"run.json, {'.'.join(path)}", _at(books.run, *path), value)
    tables = {"layers": _layers(account), "connections": _connections(account), "statistics": _statistics(account)}
    for name, rows in tables.items():
        whole = [row for row in rows if row.get("scope", "network") == "network"]  # run.json has no other statistics
        compare.rows(f"run.json, {name}", _at(books.run, name, kind=list), [*map(shown, whole)], known=[*rows[0]])
    samples = [dict(zip(by_sample, map(int, row), strict=True)) for row in zip(*by_sample.values(), strict=True)]
    for name, rows in {**tables, "samples": samples}.items():
        known = (*STATED, "macs_input_effective", *rows[0])
        compare.rows(f"{name}.csv", books.rows[f"{name}.csv"], [*map(shown, rows)], known=known)


def _compare_trace(compare: _Comparison, account: _Account) -> None:
    """SynOps by tick; outputs, as far as they count spikes; and the predictions that the outputs make."""
    books, trace, output = compare.books, compare.books.trace, compare.network[compare.network.output]
    is_timed, goes_on = books.clock is not None, books.clock is not None and books.clock.start > 0
    if "synops" not in account.hidden:
        compare.array("trace.h5, synops", ["sample", "tick"], trace["synops"], account.synops())
    outputs, stop = trace["outputs"], account.begun
    wanted = outputs.copy()
    if output.name in account.spiking and not goes_on:
        here = books.events["population"] == compare.network.populations.index(output)
        units, counts = _multiplicity(output, books.events["value"][here], is_timed), np.zeros(outputs.shape, np.int64)
        np.add.at(counts, (books.events["sample"][here], account.tick[here], books.events["neuron"][here]), units)
        wanted = counts.cumsum(1).astype(outputs.dtype)
    wanted[np.arange(books.ticks) >= stop[:, None]] = np.nan
    compare.array("trace.h5, outputs", ["sample", "tick", "class"], outputs, wanted)

    final = wanted[np.arange(books.samples), stop - 1]
    is_tied = (final == final.max(1, keepdims=True)).sum(1) > 1
    compare.array("trace.h5, tied", ["sample"], trace["tied"], is_tied, "its outputs give")
    # of equal counts of spikes the membrane decides, which no event shows
    is_open = is_tied & (output.name in account.spiking)
    predictions = np.where(is_open, trace["predictions"], final.argmax(1))
    compare.array("trace.h5, predictions", ["sample"], trace["predictions"], predictions, "its outputs give")
    if account.ends is not None:
        compare.array("trace.h5, stop_time", ["sample"], trace["stop_time"], account.ends, "the output last changed at")


def _compare_sources(compare: _Comparison, account: _Account) -> None:
    """Events of every neuron and taps of every source neuron, where the folder has them."""
    books, sources, axes = compare.books, compare.books.sources, ["sample", "channel", "row", "column"]
    if sources is None:
        return
    for number, p in enumerate(compare.network.populations):
        if p.name in sources["emitted"]:
            here = books.events["population"] == number
            cell = books.events["sample"][here] * p.size + books.events["neuron"][here]
            found = np.bincount(cell, minlength=books.samples * p.size).reshape(books.samples, *p.shape)
            compare.array(f"sources.h5, emitted, {p.name}", axes[: found.ndim], sources["emitted"][p.name], found)
    for number, route in enumerate(account.routes):
        shape = compare.network[route.connection.source].shape
        said = _at(sources["fan_out"], str(number), kind=np.ndarray, file="sources.h5, fan_out")
        compare.array(f"sources.h5, fan_out, {route.label}", axes[1 : len(shape) + 1], said, route.fan.reshape(shape))


def _unchecked(compare: _Comparison) -> list[str]:
    """What the files do not allow to recount, a sentence each."""
    books, network, found = compare.books, compare.network, []
    if not compare.can_recount:
        found.append("any count: some events lie outside the network or the run")
    if books.run["network"].get("sha256") is None:
        found.append("whether this is the network that ran: the run has no hash of it")
    if network.encoding == "direct":
        found.append("macs_input_effective: pixel values are not recorded")
    if isinstance(network[network.output].neuron, Integrator):
        found.append("the outputs: they are sums of weights, not counts")
    elif books.trace["tied"].any():
        found.append("which of equal outputs was predicted: the membranes decide")
    if any(isinstance(p.neuron, Relay) for p in network.populations):
        found.append("the values of graded events, beyond their digest: they are sums of weights")
    if (books.folder / "potentials.h5").exists():
        found.append("potentials.h5: membranes are not simulated again")
    if np.any(books.trace["stop_reason"] != 0):
        found.append("whether the cutoff was right to stop: only what was counted until then")
    return [*found, "accuracy_interval, accuracy_by_tick and queue of run.json: they count no events"]
