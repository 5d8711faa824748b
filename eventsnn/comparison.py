"""Two runs side by side: where their spikes first part, how far apart the trains are, and what that did to answers.

Every neuron's train in A is laid beside its train in B: the k-th spike against the k-th. Runs of the same mode are
compared by their times. A tick of a sync run covers the time from t to t + 1 tick lengths, so beside an async run (or
another tool's times in seconds) all times are taken to the tick they fall in: spikes of one tick are equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from eventsnn import report, runs
from eventsnn.report import span
from eventsnn.trains import (
    FILES,
    Trains,
    common_axis,
    common_populations,
    common_samples,
    integrals,
    is_timed,
    layer_of,
    partners,
    read_spikes,
    spike_trains,
)

if TYPE_CHECKING:
    from rich.table import Table

    from eventsnn.simulation import Run

SHOWN = 10  # samples listed one by one
SUMMARY = ("accuracy", "mean_stop", "stop_unit", "spikes", "synops")


class Difference(NamedTuple):
    """A spike that is not the same in both. a, b: its times in the comparison's unit, None where it is missing.

    position: its place in the neuron's train, counted from 0, a spike of multiplicity m taking m places.
    """

    sample: int
    population: str
    neuron: int
    position: int
    a: float | None
    b: float | None


class Layer(NamedTuple):
    """A population in both. spikes: (in A, in B). samples, neurons: those with trains that differ.

    distance: of van Rossum, see `trains.van_rossum`, summed over neurons and samples.
    """

    name: str
    spikes: tuple[int, int]
    samples: int
    neurons: int
    distance: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found. Both (A, B): names, records, trains, summaries (None for another tool's file).

    unit: "ticks" or "s", of the times told. tick_seconds: length of a tick or None. on_ticks: times were compared as
    whole ticks. tolerance, tau: seconds, or ticks where their length is not known. layers: the compared populations, in
    order of depth; offsets: (layers + 1,) number of their first neurons. not_compared: by population, where it was
    recorded ("a", "b", or ""). samples: how many each has; first_sample: the index of the first. firsts: the first
    difference of every sample that has one: the earliest, of these the lowest in depth, of these the lowest neuron.
    predictions: samples of which the answers differ, None where they are not known. inputs: samples whose inputs
    differ, None where they are not known.
    """

    names: tuple[str, str]
    records: tuple[runs.Record, runs.Record]
    trains: tuple[Trains, Trains]
    summaries: tuple[dict[str, Any] | None, dict[str, Any] | None]
    unit: str
    tick_seconds: float | None
    on_ticks: bool
    tolerance: float
    tau: float
    layers: tuple[Layer, ...]
    offsets: np.ndarray
    not_compared: Mapping[str, str]
    samples: int
    first_sample: int
    firsts: tuple[Difference, ...]
    predictions: tuple[int, ...] | None
    inputs: int | None

    @property
    def first(self) -> Difference | None:
        """The first difference of the lowest sample that has one."""
        return self.firsts[0] if self.firsts else None

    @property
    def differs(self) -> np.ndarray:
        """(samples,) bool: whether any spike of the sample differs."""
        found = np.zeros(self.samples, bool)
        found[[d.sample - self.first_sample for d in self.firsts]] = True
        return found

    def content(self) -> dict[str, Any]:
        """The JSON object of `eventsnn compare`: plain numbers, null for what is not known; times in `unit`."""
        sides = {
            key: {"name": name, **_described(record), **(summary or {})}
            for key, name, record, summary in zip("ab", self.names, self.records, self.summaries, strict=True)
        }
        return {
            "schema": report.SCHEMA,
            "command": "compare",
            **sides,
            "unit": self.unit,
            "tick_seconds": self.tick_seconds,
            "compared_by": "tick" if self.on_ticks else "time",
            "tolerance": self.tolerance,
            "tau": self.tau,
            "samples": self.samples,
            "samples_differ": len(self.firsts),
            "first": None if self.first is None else self.first._asdict(),
            "firsts": [d._asdict() for d in self.firsts[:SHOWN]],
            "inputs_differ": self.inputs,
            "predictions_differ": None if self.predictions is None else len(self.predictions),
            "predictions_differ_in": [*(self.predictions or ())[:SHOWN]],
            "populations": [
                {**layer._asdict(), "spikes": {"a": layer.spikes[0], "b": layer.spikes[1]}} for layer in self.layers
            ],
            "not_compared": dict(self.not_compared),
        }


def compare(
    a: str | Path | Run | runs.Record,
    b: str | Path | Run | runs.Record,
    *,
    tolerance: float | None = None,
    tau: float | None = None,
    tick: float | None = None,
    population: str | None = None,
) -> Comparison:
    """Lay every neuron's spikes in A beside those in B.

    a, b: run folders, `Run`s or `Record`s with recorded spikes; one of them may be a file of another tool's spikes
    (`trains.read_spikes`, with `population`), whose times are seconds, or ticks of `tick` seconds where that is given.
    tolerance: seconds; the k-th spikes of a neuron are equal when |tA - tB| <= tolerance; default 0. tau: seconds, of
    `trains.van_rossum`; default a tick. tick: seconds, for a network without `tick_seconds` too.
    Spikes of multiplicity m count m times; events of populations that do not spike count once, whatever their value.

    Raises ValueError when populations or samples do not match, spikes were not recorded, or a tick's length is wanted
    and not known.
    """
    for what, value in (("tolerance", tolerance), ("tau", tau), ("tick", tick)):
        if value is not None and not (math.isfinite(value) and (value > 0 or (what == "tolerance" and value == 0))):
            raise ValueError(f"{what} is {value}, wanted seconds above 0")
    opened = [_open(source) for source in (a, b)]
    known = next((one for one in opened if isinstance(one, runs.Record)), None)
    if known is None:
        raise ValueError("both are files of spikes; one of them must be a run, whose network has the populations")
    one, two = (o if isinstance(o, runs.Record) else read_spikes(o, known, tick, population) for o in opened)
    names = (str(a) if isinstance(a, str | Path) else "run A", str(b) if isinstance(b, str | Path) else "run B")
    layers, left = common_populations(one, two, names)
    samples = common_samples(one, two, names)
    axis = common_axis(one, two, tick, in_seconds=bool(tolerance) or tau is not None)
    tau = tau or axis.tick or 1.0

    offsets = np.concatenate([[0], np.cumsum([layer["neurons"] for layer in layers])]).astype(np.int64)
    bare = [spike_trains(r, layers, offsets, axis, length) for r, length in zip((one, two), axis.lengths)]
    matched = (partners(bare[0].key, bare[1].key), partners(bare[1].key, bare[0].key))
    bound = (tolerance or 0.0) / axis.scale
    trains = (_marked(bare[0], bare[1], matched[0][0], bound), _marked(bare[1], bare[0], matched[1][0], bound))
    inputs = _unequal(one, two, "digests")
    return Comparison(
        names=names,
        records=(one, two),
        trains=trains,
        summaries=(_summary(one, axis.lengths[0]), _summary(two, axis.lengths[1])),
        unit=axis.unit,
        tick_seconds=axis.tick,
        on_ticks=axis.on_ticks,
        tolerance=tolerance or 0.0,
        tau=tau,
        layers=_layers(trains, layers, offsets, tau / axis.scale),
        offsets=offsets,
        not_compared=left,
        samples=samples,
        first_sample=one.first,
        firsts=_firsts(trains, matched, layers, offsets, one.first),
        predictions=_unequal(one, two, "predictions"),
        inputs=None if inputs is None else len(inputs),
    )


# ----------------------------------------------------------------------------------------------- opening the two


def _open(source: str | Path | Run | runs.Record) -> runs.Record | Path:
    """A record, or the path of another tool's file."""
    if isinstance(source, str | Path):
        path = Path(source)
        return path if path.is_file() and path.suffix in FILES else runs.read(path)
    return source if isinstance(source, runs.Record) else runs.describe(source)


def _marked(mine: Trains, other: Trains, partner: np.ndarray, bound: float) -> Trains:
    """The trains with the spikes marked that have no equal."""
    apart = np.abs(mine.time - np.append(other.time, np.inf)[partner])
    # a bound of 3 us is 2.9999999999999996 ticks of 1 us, and differences of times are rounded as well
    room = bound * (1 + 1e-9) + 2 * np.spacing(np.abs(mine.time)) if bound else 0.0
    return mine._replace(differs=apart > room)


def _firsts(
    trains: tuple[Trains, Trains],
    matched: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    layers: Sequence[Mapping[str, Any]],
    offsets: np.ndarray,
    first: int,
) -> tuple[Difference, ...]:
    """The first difference of every sample that has one."""
    a, b = trains
    mine = np.flatnonzero(a.differs)
    extra = np.flatnonzero(matched[1][0] == len(a.key))  # those of B with a partner are told with A's
    beside = matched[0][0][mine]
    key = np.concatenate([a.key[mine], b.key[extra]])
    time = np.concatenate([np.minimum(a.time[mine], np.append(b.time, np.inf)[beside]), b.time[extra]])
    position = np.concatenate([matched[0][1][mine], matched[1][1][extra]])
    in_a = np.concatenate([a.shown[mine], np.full(len(extra), np.nan)])
    in_b = np.concatenate([np.append(b.shown, np.nan)[beside], b.shown[extra]])
    sample, unit = np.divmod(key, offsets[-1])
    order = np.lexsort((unit, time, sample))  # units are numbered in order of depth
    found = []
    for i in order[np.unique(sample[order], return_index=True)[1]].tolist():
        layer = int(np.searchsorted(offsets, unit[i], "right")) - 1
        place = int(sample[i]) + first, layers[layer]["name"], int(unit[i] - offsets[layer]), int(position[i])
        found.append(Difference(*place, *(None if np.isnan(t[i]) else float(t[i]) for t in (in_a, in_b))))
    return tuple(found)


def _layers(
    trains: tuple[Trains, Trains], layers: Sequence[Mapping[str, Any]], offsets: np.ndarray, tau: float
) -> tuple[Layer, ...]:
    """A `Layer` for each population. tau: in units of the axis."""
    spikes = [np.bincount(layer_of(t.key, offsets), minlength=len(layers)).tolist() for t in trains]
    key, time = (np.concatenate([t[i] for t in trains]) for i in (0, 1))
    key, terms = integrals(key, time, np.repeat([1.0, -1.0], [len(t.key) for t in trains]), tau)
    differing = np.unique(np.concatenate([t.key[t.differs] for t in trains]))
    whose, apart = layer_of(key, offsets), layer_of(differing, offsets)
    found = []
    for i, layer in enumerate(layers):
        sample, unit = np.divmod(differing[apart == i], offsets[-1])
        counts = len(np.unique(sample)), len(np.unique(unit))
        found.append(Layer(layer["name"], (spikes[0][i], spikes[1][i]), *counts, math.fsum(terms[whose == i])))
    return tuple(found)


def _unequal(one: runs.Record, two: runs.Record, name: str) -> tuple[int, ...] | None:
    """Samples whose rows of an array of the traces differ, None where one has no such array."""
    if name not in one.trace or name not in two.trace:
        return None
    unequal = (one.trace[name] != two.trace[name]).reshape(len(one.trace[name]), -1).any(1)
    return tuple((np.flatnonzero(unequal) + one.first).tolist())


def _summary(record: runs.Record, length: float | None) -> dict[str, Any] | None:
    """What a run's own account says, None for another tool's file."""
    if "spikes" not in record.run:
        return None
    found = {key: record.run[key] for key in SUMMARY}
    seconds = 1.0 if found["stop_unit"] == "s" else length
    return {**found, "mean_stop_seconds": None if seconds is None else found["mean_stop"] * seconds}


def _described(record: runs.Record) -> dict[str, Any]:
    """How a side was run."""
    keys = ("mode", "dtype", "cutoff", "ticks", "seed")
    return {**{key: record.run.get(key) for key in keys}, "network": record.network["sha256"]}


# ------------------------------------------------------------------------------------------------- for people


def words(found: Comparison, difference: Difference) -> str:
    """A difference in words: sample 3, conv, neuron 17, its 2nd spike: in tick 4 in A, in tick 5 in B."""
    nth = difference.position + 1
    ordinal = "th" if nth % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(nth % 10, "th")
    times = difference.a, difference.b
    for digits in (6, 9, 12, 17):  # as many as it takes to tell them apart
        told = [_when(found, side, t, digits) for side, t in enumerate(times)]
        if told[0] != told[1]:
            break
    where = ", ".join(f"{text} in {side}" if text else f"not in {side}" for text, side in zip(told, "AB"))
    who = f"sample {difference.sample}, {difference.population}, neuron {difference.neuron}"
    return f"{who}, its {nth}{ordinal} spike: {where}"


def _when(found: Comparison, side: int, time: float | None, digits: int) -> str | None:
    if time is None or found.unit == "ticks":
        return None if time is None else f"in tick {time:.0f}"
    length = found.tick_seconds
    if found.on_ticks and length and not is_timed(found.records[side]):
        return f"in tick {time / length:.0f} (from {span(time, digits)})"
    return f"at {span(time, digits)}"


def described(found: Comparison, side: int) -> str:
    """A side in words: its name and how it was run."""
    run = found.records[side].run
    how = f"{run['mode']}, {run['dtype']}, cutoff {run['cutoff']}" if "mode" in run else "spikes of another tool"
    return f"{found.names[side]} ({how})"


def tau_words(found: Comparison) -> str:
    """The time constant in words: 1 tick, 5 ms."""
    return "1 tick" if found.tick_seconds is None and found.unit == "ticks" else span(found.tau)


def verdict(found: Comparison) -> str:
    """The first difference in one sentence."""
    if found.first is None:
        return f"No spike differs in {_samples_word(found.samples)}."
    return f"First difference: {words(found, found.first)}."


def lines(found: Comparison) -> list[Any]:
    """The report of a comparison for the terminal: texts and tables."""
    out: list[Any] = [f"{side}: {described(found, i)}" for i, side in enumerate("AB")]
    if found.records[0].network["sha256"] != found.records[1].network["sha256"]:
        out.append("The networks differ in their weights or parameters.")
    if found.inputs:
        out.append(f"WARNING: the inputs of {found.inputs:,} of {_samples_word(found.samples)} differ.")
    out += ["", verdict(found)]
    if found.firsts:
        out.append(f"{len(found.firsts):,} of {_samples_word(found.samples)} differ in some spike.")
    length = "" if found.tick_seconds is None else f" of {span(found.tick_seconds)}"
    how = f"by the tick{length} they fall in" if found.on_ticks else "by their times"
    bound = f" with a tolerance of {span(found.tolerance)}" if found.tolerance else ""
    out.append(
        f"Spikes were compared {how}{bound}. Distance: van Rossum's of tau {tau_words(found)}; one spike more is 0.5."
    )
    if found.not_compared:
        said = [f"{name} ({f'only in {w.upper()}' if w else 'in neither'})" for name, w in found.not_compared.items()]
        out.append(f"Not compared, because not recorded in both: {', '.join(said)}.")
    return [*out, "", layer_table(found), *([] if None in found.summaries else ["", summary_table(found)])]


def layer_table(found: Comparison) -> Table:
    """A row for each population: spikes in A and B, samples and neurons whose trains differ, distance."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("population", "spikes A", "spikes B", "B - A", "samples differ", "neurons differ", "distance"):
        table.add_column(title, justify="left" if title == "population" else "right", no_wrap=True)
    for layer in found.layers:
        a, b = layer.spikes
        counts = (f"{a:,}", f"{b:,}", f"{b - a:+,}" if a != b else "0", f"{layer.samples:,}", f"{layer.neurons:,}")
        table.add_row(Text(layer.name), *counts, f"{layer.distance:.6g}")
    return table


def summary_table(found: Comparison) -> Table:
    """What both runs say of themselves, side by side: answers, stops, spikes, SynOps of all kinds."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("", "A", "B"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    a, b = (summary or {} for summary in found.summaries)
    percent = [f"{s['accuracy']:.2%}" if s["accuracy"] is not None else "" for s in (a, b)]
    table.add_row("accuracy", *percent)
    table.add_row("mean stop", *(f"{s['mean_stop']:.6g} {s['stop_unit']}" for s in (a, b)))
    if None not in (a["mean_stop_seconds"], b["mean_stop_seconds"]):
        table.add_row("mean stop, time", *(span(s["mean_stop_seconds"], 6) for s in (a, b)))
    table.add_row("spikes", *(f"{s['spikes']:,}" for s in (a, b)))
    for kind in a["synops"]:
        table.add_row(f"SynOps {kind.replace('_', ' ')}", *(f"{s['synops'].get(kind, 0):,}" for s in (a, b)))
    if found.predictions is not None:
        some = ", ".join(map(str, found.predictions[:SHOWN])) + (", ..." if len(found.predictions) > SHOWN else "")
        caption = f"answers that differ: {len(found.predictions):,} of {_samples_word(found.samples)}"
        table.caption, table.caption_justify = caption + (f" (sample {some})" if some else ""), "left"
    return table


def _samples_word(count: int) -> str:
    return f"{count:,} sample{'' if count == 1 else 's'}"
