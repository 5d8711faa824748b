"""Spike trains of two runs, or of a run and another tool's file, on one axis of time, and how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eventsnn import runs
from eventsnn.arrays import open_arrays
from eventsnn.inputs import EVENT

FILES = (".npz", ".npy", ".h5", ".hdf5")
COLUMNS = ("sample", "time", "population", "neuron")  # of other tools' spikes


class Trains(NamedTuple):
    """All spikes of one side, ordered by key, then time; each array (n,).

    key: int64, sample * (neurons of all populations) + number of the neuron. time: what is compared, in units of the
    axis. shown: the time to tell people. differs: bool, no equal in the other side.
    """

    key: np.ndarray
    time: np.ndarray
    shown: np.ndarray
    differs: np.ndarray


class Axis(NamedTuple):
    """How the times of two records are compared.

    on_ticks: as whole ticks, else in seconds. unit: "ticks" or "s", of times told to people. lengths: of each record's
    tick, seconds or None; tick: the one that counts. scale: seconds in a unit of the axis, 1 where not known.
    """

    on_ticks: bool
    unit: str
    tick: float | None
    lengths: tuple[float | None, float | None]
    scale: float


def is_timed(record: runs.Record) -> bool:
    """Whether the times of its events are seconds, not ticks."""
    assert record.events is not None
    return record.events["time"].dtype.kind == "f"


def common_axis(one: runs.Record, two: runs.Record, tick: float | None, *, in_seconds: bool) -> Axis:
    """The axis for two records with events: ticks where one of them knows only ticks, else seconds.

    tick: seconds, for a network without `tick_seconds`. in_seconds: something else is given in seconds. Raises
    ValueError when the length of a tick is needed and not known.
    """
    timed = [is_timed(one), is_timed(two)]
    known = [record.network["tick_seconds"] or tick for record in (one, two)]
    lengths = known[0] or known[1], known[1] or known[0]
    mixed = timed[0] != timed[1]
    length = lengths[timed.index(False)] if mixed else lengths[0]
    if length is None and (mixed or in_seconds):
        what = "comparing ticks with seconds" if mixed else "a tolerance or tau in seconds"
        raise ValueError(f"{what} needs the length of a tick, which the network does not tell; give --tick, as 1ms")
    on_ticks = mixed or (not any(timed) and lengths[0] == lengths[1])
    told = "ticks" if on_ticks and not mixed else "s"
    return Axis(on_ticks, told, length, lengths, (length or 1.0) if on_ticks else 1.0)


def common_populations(
    one: runs.Record, two: runs.Record, names: Sequence[str]
) -> tuple[list[Mapping[str, Any]], dict[str, str]]:
    """The populations recorded in both, in order of depth, and the others: where they were recorded."""
    sizes = [{p["name"]: p["neurons"] for p in r.network["populations"]} for r in (one, two)]
    for name in [*sizes[0], *sizes[1]]:
        if sizes[0].get(name) != sizes[1].get(name):
            have = [f"{s[name]:,} neurons" if name in s else "no such population" for s in sizes]
            raise ValueError(
                f"population {name!r} has {have[0]} in {names[0]} and {have[1]} in {names[1]}; wanted runs of "
                "networks with the same populations"
            )
    for record, name in zip((one, two), names):
        if record.events is None:
            raise ValueError(f"{name} has no recorded spikes to compare; run it again with --record spikes")
    layers, left = [], {}
    for p in sorted(one.network["populations"], key=lambda p: p["depth"]):
        image = p["kind"] == "input" and one.network["encoding"] == two.network["encoding"] == "direct"
        where = "".join(s for s, r in zip("ab", (one, two)) if p["name"] in r.run["recorded"]["events"])
        if image or p["kind"] == "integrator":
            continue  # without events in either
        if where == "ab":
            layers.append(p)
        else:
            left[p["name"]] = where
    if not layers:
        raise ValueError(
            f"no population was recorded in both {names[0]} and {names[1]}; run them again with --record spikes"
        )
    return layers, left


def common_samples(one: runs.Record, two: runs.Record, names: Sequence[str]) -> int:
    """How many samples both hold."""
    held = [(r.first, len(r.trace["stop_time"])) for r in (one, two) if "stop_time" in r.trace]
    if held[0] != held[-1]:
        have = [f"{count:,} samples from {first}" if first else f"{count:,} samples" for first, count in held]
        raise ValueError(f"{names[0]} has {have[0]} and {names[1]} {have[1]}; wanted runs of the same samples")
    return held[0][1]


def spike_trains(
    record: runs.Record, layers: Sequence[Mapping[str, Any]], offsets: np.ndarray, axis: Axis, length: float | None
) -> Trains:
    """The spikes of some populations; none is marked as differing yet.

    layers: entries of `network.json`. offsets: (layers + 1,) number of their first neurons. length: of the record's
    tick. A spike of multiplicity m is m spikes; an event of a population that does not spike is one, of any value.
    """
    assert record.events is not None
    starts = {layer["name"]: start for layer, start in zip(layers, offsets.tolist())}
    place = np.array([starts.get(p["name"], -1) for p in record.network["populations"]], np.int64)
    counts = np.array([p["spiking"] for p in record.network["populations"]])
    events = record.events[place[record.events["population"]] >= 0]
    number = events["population"]
    key = (events["sample"].astype(np.int64) - record.first) * offsets[-1] + place[number] + events["neuron"]
    shown = time = events["time"].astype(np.float64)
    if axis.on_ticks and is_timed(record):
        assert length is not None
        # 0.29 s / 0.01 s is 28.999999999999996: a time at the edge of a tick belongs to the tick it begins
        time = np.floor((shown - record.run.get("start", 0.0)) / length + 1e-9)
    elif axis.unit == "s" and not is_timed(record):
        shown = time * (length or 1.0)
        time = time if axis.on_ticks else shown
    order = np.lexsort((time, key))
    multiple = np.where(counts[number], events["value"], 1).astype(np.int64)[order]
    columns = [np.repeat(column[order], multiple) for column in (key, time, shown)]
    return Trains(columns[0], columns[1], columns[2], np.zeros(len(columns[0]), bool))


def partners(key: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For the k-th spike of every neuron: the place of the other side's k-th, or the other's length; and k, from 0."""
    rank = np.arange(len(key)) - np.searchsorted(key, key)
    start = np.searchsorted(other, key)
    there = np.searchsorted(other, key, "right") - start
    return np.where(rank < there, start + rank, len(other)), rank


def layer_of(key: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Which of the populations every key is of."""
    return np.searchsorted(offsets, key % offsets[-1], "right") - 1


# ---------------------------------------------------------------------------------------------------- distance


def van_rossum(a: np.ndarray, b: np.ndarray, tau: float) -> float:
    """The distance of two spike trains of van Rossum (2001); one spike more, far from all others, is 1/2.

    a, b: times, in any order, repeated where several spikes share one; tau in the same unit. With every spike followed
    by exp(-t / tau), f(t) = sum_i H(t - a_i) exp(-(t - a_i) / tau), and g alike of b, it is

        D^2 = (1 / tau) integral (f - g)^2 dt = 1/2 sum_ij s_i s_j exp(-|t_i - t_j| / tau)

    over all spikes of both, s = +1 for those of a and -1 for those of b (M. C. W. van Rossum, A novel spike distance,
    Neural Computation 13 (2001) 751-763; D^2 and not its root, because D^2 adds over neurons). Computed in O(n log n)
    as the integral from spike to spike, D^2 = 1/2 sum_i m_i^2 (1 - exp(-2 d_i / tau)), with m_i = f - g just after
    spike i and d_i the time to the next: no term is negative, so no two cancel.
    """
    key = np.zeros(len(a) + len(b), np.int64)
    time = np.concatenate([np.asarray(a, np.float64), np.asarray(b, np.float64)])
    return math.fsum(integrals(key, time, np.repeat([1.0, -1.0], [len(a), len(b)]), tau)[1])


def integrals(key: np.ndarray, time: np.ndarray, sign: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """The terms of `van_rossum` of many neurons, told apart by key: their keys in order and they, each (terms,)."""
    order = np.lexsort((time, key))
    key, time, sign = key[order], time[order], sign[order]
    if not len(key):
        return key, time
    new = np.concatenate([[True], (np.diff(key) != 0) | (np.diff(time) != 0)])
    sign = np.add.reduceat(sign, np.flatnonzero(new))
    kept = sign != 0  # what both have at one time cancels here, exactly, and not later by rounding
    key, time, sign = key[new][kept], time[new][kept], sign[kept]
    gap = np.where(np.diff(key) == 0, np.diff(time) / tau, np.inf)
    decay = np.exp(-np.concatenate([[np.inf], gap])[: len(key)])
    # views give plain floats one at a time; lists of all of them would need five times the memory
    steps = zip(memoryview(decay), memoryview(sign))
    level = np.fromiter(accumulate(steps, lambda m, step: m * step[0] + step[1], initial=0.0), np.float64)[1:]
    return key, level**2 * -np.expm1(-2 * np.concatenate([gap, [np.inf]])[: len(key)]) / 2


# ----------------------------------------------------------------------------------------- files of other tools


def read_spikes(path: Path, like: runs.Record, tick: float | None, population: str | None) -> runs.Record:
    """Another tool's spikes as a record of the network, samples and ticks of `like`.

    path: `.npz` or `.h5` of arrays, or `.npy` structured, with columns time and neuron, and where needed sample
    (default 0) and population (number or name; default `population`). tick: seconds, of times that are ticks; without
    it times are seconds. Only populations that occur count as recorded. Raises ValueError for what does not fit.
    """
    columns = _columns(path)
    missing = [name for name in ("time", "neuron") if name not in columns]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}; it has {', '.join(columns) or 'none'}")
    names = [p["name"] for p in like.network["populations"]]
    time, neuron = columns["time"], columns["neuron"]
    sample = columns.get("sample", np.full(len(time), like.first))
    where = columns.get("population")
    if where is None and population is None:
        raise ValueError(f"{path} has no column 'population'; name the population its spikes are of (--population)")
    if where is None:
        where = np.full(len(time), population)
    if where.dtype.kind in "USO":
        text = [w.decode() if isinstance(w, bytes) else str(w) for w in where.tolist()]
        strange = [w for w in [*text, *([population] if population else [])] if w not in names]
        number = np.array([-1 if strange else names.index(w) for w in text], np.int64)
    else:
        number = where.astype(np.int64)
        strange = [str(n) for n in number.tolist() if not 0 <= n < len(names)]
    if strange:
        raise ValueError(f"{path} names the population {strange[0]}; there are {', '.join(names)}")
    if not len(time) == len(neuron) == len(sample) == len(number):
        raise ValueError(f"{path} has columns of different lengths, wanted one row a spike")
    if time.dtype.kind in "iu" and tick is None:
        raise ValueError(f"{path} has whole numbers as times; give the length of their tick (--tick, as 1ms)")
    size = np.array([p["neurons"] for p in like.network["populations"]])[number]
    end = like.first + len(like.trace["stop_time"])
    if tick is not None and np.any(time != np.floor(time)):
        raise ValueError(f"{path} has times that are no whole ticks; without --tick they are taken as seconds")
    for what, bad in (
        ("neurons of the run", (neuron < 0) | (neuron >= size)),
        ("samples of the run", (sample < like.first) | (sample >= end)),
        ("times from 0", ~np.isfinite(time) | (time < 0)),
    ):
        if bad.any():
            raise ValueError(f"{path}: the spike of row {int(bad.argmax())} is outside the {what}")
    kind = "<f8" if tick is None else EVENT["time"]
    events = np.empty(len(time), [(n, kind if n == "time" else EVENT[n]) for n in EVENT.names or ()])
    for name, column in (("sample", sample), ("time", time), ("population", number), ("neuron", neuron), ("value", 1)):
        events[name] = column
    found = {names[i] for i in np.unique(number)} | ({population} if population else set())
    network = {**like.network, "tick_seconds": tick or like.network["tick_seconds"]}
    return runs.Record({"recorded": {"events": sorted(found)}}, network, {}, events, None, {}, first=like.first)


def _columns(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of spikes, by name."""
    try:
        if path.suffix != ".npy":
            with open_arrays(path, text=True) as store:
                return {name: store.read(name) for name in COLUMNS if name in store.names}
        with path.open("rb") as stream:
            held = np.load(stream, allow_pickle=False)
        names = held.dtype.names or () if isinstance(held, np.ndarray) else ()
        return {name: held[name] for name in names}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a file of spikes: {error}") from None
