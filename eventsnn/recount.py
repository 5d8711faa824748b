"""What an audit counts again: the files of a run, its connections from the output side, and the account they give.

Shares nothing with the engine, see `audit`. Accounts of continuous time are in `recount_async`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
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
from eventsnn.neurons import IF, LI, LIF, Input, Integrator, Neuron, Relay, Synapse

KINDS = ("structural", "units", "effective", "effective_per_tick", "delivered", "dropped", "in_flight")
CLASSES = ("ac", "mac", "identity", "pool")
OPERATIONS = ("neuron_update", "neuron_update_clocked", "threshold_test", "reset", "decay", "decay_clocked", "bias")
COLUMNS = ("sample", "time", "population", "neuron", "value")  # of events.h5
TRACE = {"outputs": 3, "synops": 2, "stop_time": 1, "stop_reason": 1, "predictions": 1, "tied": 1}  # dimensions
TABLES = ("layers.csv", "connections.csv", "samples.csv", "statistics.csv")
CELLS = 2**22  # numbers of one population that are held at a time: 32 MB
NUMBER = int | float

# ------------------------------------------------------------------------------------------------ files of the run


@dataclass(frozen=True)
class Clock:
    """What only a run in continuous time has, in microseconds; pulse, period: 0 for none. ends: in seconds."""

    start: float
    end: float
    tick: float
    pulse: float
    period: float
    is_serial: bool

    @property
    def ends(self) -> float:
        """Seconds at which it ends."""
        return self.end / 1e6

    @property
    def count(self) -> int:
        """Bins of the account; what rounding leaves over makes none."""
        return max(1, math.ceil((self.end - self.start) / self.tick * (1 - 1e-12)))

    def bins(self, time: np.ndarray, ticks: int) -> np.ndarray:
        """The bins of the account that moments in microseconds lie in."""
        return np.minimum(np.floor((time - self.start) / self.tick), ticks - 1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Books:
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
    clock: Clock | None


def open_books(folder: Path) -> Books:
    """The files of a run; raises ValueError for one that is missing, damaged or of another kind."""
    run, network = _json(folder / "run.json"), _json(folder / "network.json")
    if entry_at(run, "mode") not in ("sync", "async"):
        raise ValueError(f"run.json has mode {run['mode']!r}; only runs in mode sync or async can be recounted")
    clock = _clock(run) if run["mode"] == "async" else None
    samples, ticks = entry_at(run, "input", "samples", kind=int), entry_at(run, "ticks", kind=int)
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
    has_sources = (folder / "sources.h5").exists() or entry_at(run, "recorded", "sources", kind=list)
    sources = _hdf5(folder / "sources.h5", ("emitted", "fan_out"), dict) if has_sources else None
    return Books(folder, run, network, rows, trace, events, sources, samples, ticks, clock)


def _clock(run: dict[str, Any]) -> Clock:
    found = {name: entry_at(run, name, kind=NUMBER) for name in ("start", "duration", "tick_seconds")}
    for name in ("pulse", "bias_period"):
        found[name] = 0 if entry_at(run, name) is None else entry_at(run, name, kind=NUMBER)
    for name, seconds in found.items():
        if not 0 <= seconds < math.inf or (name in ("duration", "tick_seconds") and not seconds):
            raise ValueError(f"run.json has {seconds!r} for {name}, wanted a positive number of seconds")
    start, length = (float(microseconds_of(found[name])[0]) for name in ("start", "duration"))
    tick, pulse, period = (in_microseconds(found[name]) for name in ("tick_seconds", "pulse", "bias_period"))
    return Clock(start, start + length, tick, pulse, period, run.get("arrivals") == "serial")


def microseconds_of(seconds: np.ndarray | float) -> np.ndarray:
    """(2, ...) the numbers that, divided by 1e6, are these seconds, a whole one first; one twice if it is alone."""
    near = np.asarray(seconds) * 1e6
    first, second = np.full((2, *near.shape), np.nan)
    for guess in (np.rint(near), near, np.nextafter(near, np.inf), np.nextafter(near, -np.inf)):
        fits = guess / 1e6 == seconds
        second = np.where(fits & ~np.isnan(first) & (guess != first), guess, second)
        first = np.where(fits & np.isnan(first), guess, first)
    first = np.where(np.isnan(first), near, first)
    return np.stack([first, np.where(np.isnan(second), first, second)])


def in_microseconds(seconds: float) -> float:
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


def entry_at(content: Any, *keys: str, kind: Any = object, file: str = "run.json") -> Any:
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


def find_network(books: Books, weights: str | Path | None) -> Network:
    """The network as it ran: with the run's encoding, length of a tick and least delay."""
    said = entry_at(books.run, "network", kind=dict)
    path = Path(weights) if weights is not None else _find_file(books.folder, said.get("file"))
    as_run = {key: entry_at(books.network, key, file="network.json") for key in ("encoding", "tick_seconds")}
    how = {key: said.get(key) for key in ("assume", "spike_input")}
    loaded = store.load(path, **how, tick_seconds=as_run["tick_seconds"])
    least = entry_at(books.run, "layer_delay", kind=int)
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
    recorded = entry_at(books.run, "recorded", "events", kind=list)
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
        return _Step(sparse_table([0], [0], (1, 1)), 1, inputs, outputs), (outputs,)
    if isinstance(what, Sparse):
        in_front = np.repeat(np.arange(len(what.indptr) - 1), np.diff(what.indptr))
        return _Step(sparse_table(what.target, in_front, (math.prod(what.shape), math.prod(shape))), 1), what.shape
    reads, sizes, is_uneven = sparse_table([0], [0], (1, 1)), [], False
    for axis, size in enumerate(shape[1:]):
        window, divisors = _window(what, axis, size)
        behind, tap = np.nonzero((window >= 0) & (window < size))
        reads = sparse.kron(reads, sparse_table(behind, window[behind, tap], (len(window), size)), format="csr")
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


def sparse_table(row: Any, column: Any, shape: tuple[int, int]) -> sparse.csr_array:
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


@dataclass(frozen=True, eq=False)
class Late:
    """The synapses of a connection whose synapses have delays of their own: arrivals are theirs, not the connection's.

    own: (synapses,) ticks beside the connection's delay. reached: (source units, synapses), how often an event of the
    unit comes to the synapse. table: (synapses, target units). No pool lies before and no map behind them.
    """

    own: np.ndarray
    reached: sparse.csr_array
    table: sparse.csr_array


class Route:
    """A connection: its steps, and the taps of one event of every source unit, (source units,) int64.

    fan, effective: of the connection's class. pool: beside a weight. present: (units in front of the operation,). late:
    where synapses have delays of their own.
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
        own = own_delays(connection)
        self.late = self._late(own, place) if own.size else None

    def _late(self, own: np.ndarray, place: int) -> Late:
        op, synapses = self.connection.op, np.arange(len(own))
        assert isinstance(op, Sparse)
        behind, in_front = self.steps[place].reads.shape
        reached = sparse_table(np.repeat(np.arange(in_front), np.diff(op.indptr)), synapses, (in_front, len(own)))
        for table in reversed([t for step in self.before for t in step.tables()]):
            reached = table @ reached
        return Late(own, reached, sparse_table(synapses, op.target, (len(own), behind)))


def own_delays(c: Connection) -> np.ndarray:
    """(synapses,) ticks that each takes beside the connection's delay; none where they have no delays of their own."""
    return c.op.delay if isinstance(c.op, Sparse) and c.op.delay is not None else np.zeros(0)


def least_delay(c: Connection) -> float:
    """Ticks that the quickest of a connection's synapses takes."""
    own = own_delays(c)
    return c.delay + (float(own.min()) if own.size else 0.0)


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
        self.events = sparse_table(row, column, shape)
        self.units = sparse.csr_array((multiplicities(population, value, False), (row, column)), shape=shape)
        self.distinct = sparse_table(row[value != 0], column[value != 0], shape)
        self.distinct.data[:] = 1  # two events of one pixel in one tick are one
        self.fired = self.by_tick(self.events.toarray() > 0 if isinstance(neuron, IF) else np.zeros((has_turn.size, 0)))
        self.touched = self.deaf = None
        if isinstance(neuron, IF | Integrator):
            self.touched = np.zeros((*has_turn.shape, population.size), bool)
        if isinstance(neuron, IF) and neuron.refractory and neuron.refractory_input == "discard":
            self.deaf = np.zeros_like(self.fired)
            if neuron.refractory == math.inf:
                self.deaf = _later(np.logical_or.accumulate(self.fired, axis=1), 1)
            else:
                for ticks in range(1, min(int(neuron.refractory) + 1, has_turn.shape[1])):
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


class Account:
    """What a run's events amount to, int64.

    events, delivered: by population and by connection, (samples, ticks). units: by population, operations: by
    population and operation, taps, pool: by connection and kind, (samples,). tick: (events,) that each was emitted in.
    begun: (samples,) ticks. hidden: names of counts that the record does not tell, unknown: a sentence each about them.
    ends: (samples,) seconds, where they are known.
    """

    ends: np.ndarray | None = None

    def __init__(self, network: Network, books: Books) -> None:
        def blank(names: Iterable[str]) -> dict[str, np.ndarray]:
            return {name: np.zeros(books.samples, np.int64) for name in names}

        self.network, self.books = network, books
        self.hidden: set[str] = set()
        self.unknown: list[str] = []
        self.routes = [Route(network, c) for c in network.connections]
        self.tick, self.begun = self._ticks()
        self.turns = turns_of(network, books, self.begun)
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

    def _book_taps(self, route: Route, source: _Grid, target: _Grid, part: slice) -> None:
        label = route.label
        fans = np.stack([route.fan, route.effective, route.pool], 1)
        structural, effective, pool = np.moveaxis(source.by_tick(source.events @ fans), 2, 0)
        units, _, pool_units = np.moveaxis(source.by_tick(source.units @ fans), 2, 0)
        distinct = effective
        if route.is_weighted:  # several events of one window are one input that is not zero
            reached = _push(route.before, source.distinct.toarray()) > 0 if route.before else source.distinct
            distinct = source.by_tick(reached @ route.present)

        came, delay = None, route.connection.delay
        arrived, pool_arrived = (_later(x, delay) * target.has_turn for x in (structural, pool))
        if route.late is not None:
            arrived, came = self._late_taps(route, source, target)
        elif target.touched is not None:
            came = _later(source.by_tick(_push(route.steps, source.events.toarray())), delay)
        dropped = np.zeros_like(arrived)
        if target.touched is not None and came is not None:
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

    def _late_taps(self, route: Route, source: _Grid, target: _Grid) -> tuple[np.ndarray, np.ndarray]:
        """What arrived over synapses of several delays: taps, (samples, ticks), and by neuron of the target."""
        late, (samples, ticks) = route.late, source.has_turn.shape
        assert late is not None
        flow = (source.events @ late.reached).tocoo()
        sample, tick = np.divmod(flow.row, ticks)
        tick = tick + route.connection.delay + late.own[flow.col].astype(np.int64)
        here = tick < ticks
        row, synapse, taps = (sample * ticks + tick)[here], flow.col[here], flow.data[here]
        arrived = np.zeros(samples * ticks, np.int64)
        np.add.at(arrived, row, taps)
        came = sparse.csr_array((taps, (row, synapse)), shape=(samples * ticks, len(late.own))) @ late.table
        return source.by_tick(arrived) * target.has_turn, source.by_tick(came.toarray())

    def _book_population(self, grid: _Grid, constants: np.ndarray | None, part: slice) -> None:
        name, neuron, size = grid.population.name, grid.population.neuron, grid.population.size
        self.events[name][part] = grid.by_tick(grid.events.sum(1))
        self.units[name][part] = units = grid.by_tick(grid.units.sum(1)).sum(1)
        if isinstance(neuron, Input):
            return
        driven = np.zeros((*grid.has_turn.shape, size), bool)
        driven |= False if constants is None else constants
        # what is constant does not arrive: a synaptic current takes it up while its neuron drops arrivals
        hears = np.ones_like(driven) if grid.deaf is None or isinstance(neuron, Synapse) else ~grid.deaf
        driven &= hears
        done = {"bias": grid.in_turns(driven)}
        if grid.touched is not None:
            for route in self.routes:
                if route.is_image and route.connection.target == name:
                    since = slice(int(least_delay(route.connection)), None)
                    driven[:, since] |= hears[:, since]
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
            done |= {"decay": updates * decaying(neuron), "decay_clocked": clocked * decaying(neuron)}
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


def decaying(neuron: Neuron) -> int:
    """How many numbers of a neuron decay by themselves: its membrane, and its synaptic currents."""
    return isinstance(neuron, LIF | LI) + (neuron.receptors if isinstance(neuron, Synapse) else 0)


def turns_of(network: Network, books: Books, begun: np.ndarray) -> np.ndarray:
    """(populations, samples) ticks in which a population had its turn: what lies behind the decision had none."""
    depth = depths_of(network)
    is_behind = np.array([depth[p.name] > depth[network.output] for p in network.populations])
    return begun - (is_behind[:, None] & cut_samples(books))


def cut_samples(books: Books) -> np.ndarray:
    """(samples,) whether a decision ended the sample within a tick, or an instant."""
    return books.trace["stop_reason"] != 0 if books.clock is None else books.trace["stop_time"] < books.clock.ends


def depths_of(network: Network) -> dict[str, int]:
    """The longest path to every population over connections without delay."""
    depth = {p.name: 0 for p in network.populations}
    for _ in network.populations:  # a path visits every population at most once
        for c in network.connections:
            if least_delay(c) == 0:
                depth[c.target] = max(depth[c.target], depth[c.source] + 1)
    return depth


def orders(network: Network) -> dict[str, int]:
    """The place of every population in an instant: by depth, then by number; the input feeds before all."""
    depth, numbers = depths_of(network), {p.name: i for i, p in enumerate(network.populations)}
    names = sorted(numbers, key=lambda name: (name != network.input.name, depth[name], numbers[name]))
    return {name: i for i, name in enumerate(names)}


def disorder(network: Network, books: Books, moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(events,) which repeat the event before them in its turn, and which come too late. moment: of each, in order."""
    populations, clock, events = network.populations, books.clock, books.events
    population, neuron, count = events["population"], events["neuron"], len(moment)
    order = (depths_of if clock is None else orders)(network)
    level, is_fed, channels, sizes = (
        np.array([how(p) for p in populations])[population]
        for how in (
            lambda p: order[p.name],
            lambda p: isinstance(p.neuron, Input),
            lambda p: p.shape[0],
            lambda p: p.size,
        )
    )
    positions = sizes // channels
    place = neuron % positions * channels + neuron // positions  # in a turn, position by position, and by channel there
    turn = moment * len(populations) + population
    again, back = np.zeros(count, bool), np.zeros(count, bool)
    same_moment, same_turn = moment[1:] == moment[:-1], turn[1:] == turn[:-1]
    fires = same_turn & ~is_fed[1:]  # input comes as it was given, on one pixel twice if so
    fires &= clock is None or not clock.is_serial  # there a neuron may fire after each of the events that reach it
    again[1:] = fires & (place[1:] == place[:-1])
    back[1:] = (moment[1:] < moment[:-1]) | (same_moment & (level[1:] < level[:-1]))
    back[1:] |= fires & (place[1:] < place[:-1])
    begins = np.flatnonzero(np.concatenate([[count > 0], ~same_turn]))
    back[np.delete(begins, np.unique(turn[begins], return_index=True)[1])] = True  # one turn of a population in a tick
    return again, back


def _constants(network: Network, population: Population, books: Books) -> np.ndarray | None:
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


def multiplicities(population: Population, value: np.ndarray, is_timed: bool) -> np.ndarray:
    """How many spikes events stand for, int64; 1 for a value that is none."""
    if not fires_repeatedly(population, is_timed):
        return np.ones(len(value), np.int64)
    return np.where(is_multiplicity(value), value, 1).astype(np.int64)


def fires_repeatedly(population: Population, is_timed: bool) -> bool:
    """Whether a neuron may fire several times at once."""
    neuron = population.neuron
    if not isinstance(neuron, IF):
        return False
    return neuron.reset == "subtract" and not neuron.refractory if is_timed else neuron.multi_spike


def is_multiplicity(value: np.ndarray) -> np.ndarray:
    """Which values are whole numbers of spikes."""
    return (value >= 1) & (value <= 2**53) & (value == np.floor(value))
