"""Figures of a run that explain themselves: the raster of one sample, the membranes of some of its neurons, where its
synaptic operations come from, what they cost, and what stopping early would save.

All take a run folder, a `Run` or a `Record`, and give a matplotlib `Figure` (no window, no global state); save it with
`runs.save_figure`. A tick is drawn as a slot from t to t + 1, so the stop line stands right behind the last tick run.
Runs in real time (mode "async") have an axis of seconds, milliseconds or microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eventsnn import report, runs
from eventsnn.inputs import EVENT
from eventsnn.report import span
from eventsnn.trains import is_timed, layer_of
from eventsnn.watchdog import StopReason

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from eventsnn.comparison import Comparison
    from eventsnn.simulation import Run
    from eventsnn.study import Curve, Point

SPIKE, FORWARDED, DECIDED, STOP = "#2b4a73", "#9a7b3c", "#d1495b", "#a3122b"
UPPER, LOWER = "#bfd0e6", "#dccfae"  # A and B of a comparison
SHADE, GREY, QUIET = "#dbe4ef", "#f3f3f3", "#8a8a8a"
OTHERS = ("#2b4a73", "#3a9188", "#9a7b3c", "#7b5aa6")  # the runners-up in the curves of the outputs

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 11.0, 2.65, 1.75, 1.12, 0.62  # inches
MARGIN, GAP, CURVES, CLASS_ROW, IMAGE_BAND = 0.2, 0.14, 1.7, 0.19, 0.3
DPI = 120
DENSE = 100_000  # drawn events of a sample above which pixels are counted
FEW = 1_000  # events of a layer up to which they never are
FINE = 2_000  # bins above which they are too fine to see


@dataclass(frozen=True, eq=False)
class _Sample:
    """One sample of a record, cut out for drawing. events: of this sample. classes: names of the output units.

    unit: of the axis of time, "tick", "s", "ms" or "µs"; start, stop, end: on it; per_second: units in a second (0 of
    ticks). edges: (ticks + 1,) of the bins of the trace, rows: how many of them were run.
    """

    record: runs.Record
    index: int
    ticks: int
    rows: int
    unit: str
    per_second: float
    edges: np.ndarray
    stop: float
    end: float
    prediction: int
    label: int | None
    classes: tuple[str, ...]
    events: np.ndarray | None

    @property
    def outputs(self) -> np.ndarray:
        """(bins run, classes) what the watchdog saw."""
        return self.record.trace["outputs"][self.index - self.record.first, : self.rows]

    @property
    def start(self) -> float:
        """Where the axis of time begins."""
        return float(self.edges[0])

    def times(self, events: np.ndarray) -> np.ndarray:
        """Where on the axis the events are."""
        return events["time"] * self.per_second if self.per_second else events["time"]

    def bins(self, events: np.ndarray) -> np.ndarray:
        """In which bin of the trace the events are."""
        if not self.per_second:
            return events["time"]
        length = self.edges[1] - self.edges[0]
        return np.clip((self.times(events) - self.start) / length + 1e-9, 0, self.rows - 1).astype(np.int64)

    def part(self, x: float) -> float:
        """How far along the axis x is, 0 to 1."""
        return (x - self.start) / (self.end - self.start)

    def length(self, x: float) -> str:
        """A length of the axis in words."""
        return f"{x:.4g} {self.unit}" if self.per_second else _count(int(x), "tick")

    def bin_words(self) -> str:
        """The length of a bin of the trace in words: tick, 1 ms."""
        return span(self.record.network["tick_seconds"]) if self.per_second else "tick"


def raster(source: str | Path | Run | runs.Record, sample: int = 0, *, rows: int = 100, classes: int = 12) -> Figure:
    """The events of one sample, layer under layer, with the output layer enlarged and the stop drawn in.

    source: a run folder, a `Run` or a `Record`, with recorded spikes. rows: neurons drawn of a layer at most, evenly
    chosen; shading behind them counts the spikes of all. classes: output units shown at most, those that lead at the
    stop. Raises ValueError when no spikes were recorded or there is no such sample.
    """
    from matplotlib.figure import Figure

    one = _cut(source, sample)
    if one.events is None:
        raise ValueError("this run has no recorded spikes to draw; run it again with record='spikes' (--record spikes)")
    layers = _layers(one.record)
    shown = _leading(one, classes)
    heights = [_band_height(one, layer, rows, len(shown)) for layer in layers]
    bands = sum(heights) + GAP * len(heights)
    height = TOP + bands + GAP + CURVES + BOTTOM
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    axes = _axes(figure, TOP, bands)
    axes.set_xlim(one.start, one.end)
    axes.set_ylim(bands, 0)

    drawn = sum(len(_events_of(one, p)) * min(1.0, rows / p["neurons"]) for p in layers)
    dense = drawn > DENSE
    y = GAP / 2
    for layer, band in zip(layers, heights, strict=True):
        if layer["name"] == one.record.network["output"]:
            _draw_output(axes, one, layer, shown, y, band, dense)
        else:
            _draw_layer(axes, one, layer, y, band, rows, dense)
        y += band + GAP
    _draw_stop(axes, one, 0, bands)
    axes.set_xticks([])
    axes.set_yticks([])

    curves = _axes(figure, TOP + bands + GAP, CURVES)
    _draw_curves(curves, one, shown)
    _time_axis(curves, one)
    _head(figure, one, height, _raster_note(one, layers, dense))
    return figure


def trace(
    source: str | Path | Run | runs.Record,
    population: str | None = None,
    neurons: Sequence[int] | None = None,
    sample: int = 0,
    *,
    most: int = 6,
) -> Figure:
    """Membranes of some neurons of one population over the time of one sample, with threshold and spikes.

    A run in real time recorded them at the ends of bins, one tick long; between these they are joined by straight
    lines, which neither leak nor jump with an arrival.

    source: a run folder, a `Run` or a `Record`, with recorded potentials. population: default the output. neurons:
    channels-first numbers; default `most` of them: of the output those that lead, elsewhere from the most to the least
    active, evenly chosen among those that fired.
    Raises ValueError when there are no potentials, no such population or no such neuron.
    """
    from matplotlib.figure import Figure

    one = _cut(source, sample)
    record, index = one.record, one.index - one.record.first
    if not record.potentials:
        raise ValueError(
            "this run has no recorded membranes to draw; run it again with record='potentials' (--record potentials)"
        )
    name = population or (
        record.network["output"] if record.network["output"] in record.potentials else next(iter(record.potentials))
    )
    if name not in record.potentials:
        raise ValueError(f"there are no membranes of {name!r}; there are those of {', '.join(record.potentials)}")
    layer = next(p for p in record.network["populations"] if p["name"] == name)
    membranes = record.potentials[name][index].reshape(one.ticks, -1)
    fired = _events_of(one, layer)
    if neurons is None:
        neurons = _leading(one, most) if name == record.network["output"] else _typical(fired["neuron"], layer, most)
    wrong = [n for n in neurons if not 0 <= n < layer["neurons"]]
    if wrong or not neurons:
        raise ValueError(f"neurons of {name!r} are {list(neurons)}, wanted some of 0 to {layer['neurons'] - 1}")

    panel, gap = 0.95, 0.12
    height = TOP + len(neurons) * (panel + gap) + BOTTOM
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    for i, neuron in enumerate(neurons):
        axes = _axes(figure, TOP + i * (panel + gap), panel, right=0.3)
        theta = record.thresholds.get(name)
        threshold = None if theta is None else float(np.broadcast_to(theta, layer["shape"]).ravel()[neuron])
        _draw_membrane(axes, one, layer, neuron, membranes[: one.rows, neuron], threshold, fired, first=i == 0)
        if i < len(neurons) - 1:
            axes.set_xticks([])
        else:
            _time_axis(axes, one)
    joined = ", joined by straight lines" if one.per_second else ", after the reset"
    note = f"{name}: membrane at the end of each {one.bin_words()}{joined}; dashed: threshold; ▼ spike"
    _head(figure, one, height, note)
    return figure


def queue(source: str | Path | Run | runs.Record, sample: int | None = None) -> Figure:
    """Entries that waited in the simulator's queue, the most in every bin of time, of a run in real time.

    sample: one sample; None for the most of all samples, with the middle sample (median) beside it. The queue is the
    simulator's own work and no cost of the model. Raises ValueError when the run tells nothing of its queue, or there
    is no such sample.
    """
    from matplotlib.figure import Figure

    record = _record(source)
    pending = record.trace.get("queue")
    if pending is None:
        raise ValueError("this run did not keep its queue over time; run it again with --mode async")
    held = len(pending)
    sample = record.first if held == 1 and sample is None else sample
    shown = record.first if sample is None else sample
    one = _cut(record, shown)
    stops = record.trace["stop_time"] * one.per_second
    mine = pending[shown - record.first, : one.rows]
    rows, stop = one.rows, one.stop
    if sample is None:
        mine = pending.max(0)
        stop = float(stops.max())
        rows = max(1, int(np.sum(one.edges[:-1] < stop)))
    height = 3.6
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    axes = _axes(figure, 0.95, height - 0.95 - BOTTOM, right=0.4)
    edges = np.minimum(one.edges[: rows + 1], stop)
    axes.stairs(mine[:rows], edges, fill=True, color=SHADE, linewidth=0, zorder=1)
    axes.stairs(mine[:rows], edges, baseline=None, color=SPIKE, linewidth=1.4, zorder=3)
    axes.set_xlim(one.start, one.end)
    axes.set_ylim(0, 1.12 * max(1, int(mine.max(initial=0))))
    peak = int(np.argmax(mine[:rows]))
    most = int(mine[peak])
    middle = one.length((edges[peak] + edges[peak + 1]) / 2)
    lines = [f"at most {most:,} {'entry' if most == 1 else 'entries'}", f"around {middle}"]
    if sample is None:
        axes.stairs(np.median(pending[:, :rows], 0), edges, baseline=None, color=FORWARDED, linewidth=1.2, zorder=4)
        lines.append("brown: the middle sample")
        axes.axvline(stop, color=STOP, linewidth=2, zorder=6)
    else:
        _draw_stop(axes, one, 0, axes.get_ylim()[1], notice=False)
    _label(axes, axes.get_ylim()[1] / 2, "queue", *lines)
    _value_axis(axes, whole=True)
    _time_axis(axes, one)
    whose = f"sample {sample}" if sample is not None else f"the most of {_count(held, 'sample')}"
    _line(figure, 0.26, f"Entries waiting in the queue: {whose}", size=12, weight="bold")
    about = [*_files(record.run), f"the most in every {one.bin_words()}"]
    about += [f"red: the last stop, {one.length(stop)}"] if sample is None else []
    _line(figure, 0.5, "; ".join(about), size=8.5, color=QUIET)
    return figure


def energy(record: runs.Record, accounts: Sequence[Mapping[str, Any]]) -> Figure:
    """Energy by layer, a panel for each account of `energy.account`, its bars cut by kind of operation.

    Every panel has its own scale, because numbers of different tables are not comparable. Raises ValueError without
    accounts.
    """
    from matplotlib.figure import Figure

    if not accounts:
        raise ValueError("there is nothing to draw: give at least one energy table (--table)")
    samples = record.run["input"]["samples"]
    bars = [[layer for layer in a["layers"] if layer["picojoule"]] for a in accounts]
    for a, layers in zip(accounts, bars, strict=True):
        if a["static"]:
            layers.append({"name": "static power", "picojoule": a["static"], "parts": {"static": a["static"]}})
    heights = [0.95 + 0.2 * max(1, len(layers)) + 0.34 for layers in bars]
    top = 0.66
    height = top + sum(heights)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    run = record.run
    lasted = f"{run['mean_stop']:.2f} of {run['ticks']} ticks"
    if run.get("stop_unit") == "s":
        lasted = f"{span(run['mean_stop'])} of {span(run['duration'])}"
    about = f"{samples:,} samples, {lasted} on average (cutoff {run['cutoff']})"
    _line(figure, 0.26, f"Energy per sample: {''.join(_files(run)) or 'a run'}", size=12, weight="bold")
    _line(figure, 0.48, about, size=9)
    y = top
    for a, layers, tall in zip(accounts, bars, heights, strict=True):
        _draw_account(figure, a, layers, samples, y)
        y += tall
    return figure


def _draw_account(
    figure: Figure, account: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], samples: int, y: float
) -> None:
    """One panel of `energy`, its upper edge y inches below the figure's."""
    left = ", ".join(report.operation_words(key) for key in account["unpriced"]) or "nothing"
    title = f"{account['table']}: {report.joules(account['picojoule'] / samples)}"
    about = f"{account['title']} ({', '.join(account['scope'])}; {account['basis']})."
    _line(figure, y + 0.2, title, size=10, weight="bold")
    _line(figure, y + 0.4, _short(about, 170), size=8, color="#555555")
    _line(figure, y + 0.56, _short(f"Not priced: {left}.", 170), size=8, color="#555555")
    axes = _axes(figure, y + 0.74, 0.2 * max(1, len(layers)), right=1.2)
    largest = max((layer["picojoule"] for layer in layers), default=0) / samples
    unit, size = next((u, s) for u, s in (("mJ", 1e9), ("µJ", 1e6), ("nJ", 1e3), ("pJ", 1.0)) if largest >= s or s == 1)
    kinds = [*dict.fromkeys(part for layer in layers for part in layer["parts"])]
    colours = {kind: QUIET if kind == "static" else _KINDS[i % len(_KINDS)] for i, kind in enumerate(kinds)}
    for i, layer in enumerate(layers):
        start = 0.0
        for part, picojoule in layer["parts"].items():
            width = picojoule / samples / size
            axes.barh(i, width, left=start, height=0.72, color=colours[part])
            start += width
        share = layer["picojoule"] / account["picojoule"]
        axes.text(start, i, f" {report.joules(layer['picojoule'] / samples)}, {share:.1%}", va="center", fontsize=7.5)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_yticks(range(len(layers)), [_short(layer["name"], 34) for layer in layers], fontsize=8)
    axes.margins(x=0.16)
    axes.set_xlim(left=0)
    axes.tick_params(axis="x", labelsize=7, colors=QUIET)
    axes.set_xlabel(f"{unit} per sample", fontsize=7.5, color=QUIET, labelpad=1)
    for i, part in enumerate(kinds):
        where = LEFT + 0.75 + i * min(1.0, (WIDTH - LEFT - 1.0) / len(kinds))
        _line(figure, y + 0.2, "■ " + _PARTS.get(part, part), size=8, color=colours[part], x=where)


def _line(figure: Figure, y: float, text: str, x: float = MARGIN, **style: Any) -> None:
    """A line of text, x and y in inches from the figure's upper left corner."""
    width, height = figure.get_size_inches()
    figure.text(x / width, 1 - y / height, text, va="center", **style)


_KINDS = ("#2b4a73", "#3a9188", "#9a7b3c", "#7b5aa6", "#d1495b", "#6f8fb5", "#8fc1a9", "#c9ad6a", "#b9a3d3")
_PARTS = {
    "ac": "SynOps",
    "mac": "graded",
    "mac_input": "input MACs",
    "bias": "biases",
    "threshold_test": "tests",
    "neuron_update": "updates",
    "neuron_update_clocked": "updates",
    "decay_clocked": "decay",
}


def heatmap(
    source: str | Path | Run | runs.Record, population: str, sample: int | None = None, *, channels: int = 64
) -> Figure:
    """SynOps by the neuron that caused them: a map of one population's grid for each channel, one colour scale.

    A neuron's SynOps are its events times its fan-out over every weight connection that leaves the population
    (structural: zero weights in, padding out). sample: one sample; None for the mean over all. channels: maps drawn at
    most, those of the most SynOps. Raises ValueError when the events of single neurons are not known, or there is no
    such population or sample, or no weights leave it, or it is an analog image.
    """
    from matplotlib.figure import Figure

    record = _record(source)
    names = [p["name"] for p in record.network["populations"]]
    if population not in names:
        raise ValueError(f"there is no population {population!r}; there are {', '.join(names)}")
    if record.emitted is None or record.fan_out is None or population not in record.emitted:
        raise ValueError(
            f"events of single neurons of {population!r} are not known; run it again with --count sources "
            "(count='sources') or --record spikes"
        )
    if (
        record.network["encoding"] == "direct"
        and record.network["populations"][names.index(population)]["kind"] == "input"
    ):
        raise ValueError(
            f"{population!r} is an analog image: its pixels are multiplied once a sample (macs_input), without events"
        )
    classes = {c["name"]: c["class"] for c in record.run["connections"]}
    out = [c["name"] for c in record.network["connections"] if c["source"] == population]
    out = [name for name in out if classes[name] in ("ac", "mac")]
    if not out:
        raise ValueError(f"no connection with weights leaves {population!r}, so its events cause no SynOps")
    emitted = record.emitted[population]
    held = len(emitted)
    if sample is not None and not record.first <= sample < record.first + held:
        raise ValueError(f"there is no sample {sample}; there are {record.first} to {record.first + held - 1}")
    counted = emitted.sum(0) if sample is None else emitted[sample - record.first]
    fan = np.sum([record.fan_out[name] for name in out], axis=0)
    synops = np.asarray(counted * fan, np.int64)
    shown = synops / (held if sample is None else 1)
    if shown.ndim == 1:  # a vector: rows of equal length, one map
        width = min(len(shown), max(1, math.ceil(math.sqrt(len(shown) * 4))))
        maps = np.full((1, -(-len(shown) // width), width), np.nan)
        maps.reshape(-1)[: len(shown)] = shown
        order = np.zeros(1, np.int64)
    else:
        maps = shown.reshape(shown.shape[0], -1, shown.shape[-1])
        order = np.sort(np.argsort(-np.nansum(maps, axis=(1, 2)), kind="stable")[:channels])
    columns = min(len(order), 8 if maps.shape[2] <= 4 * maps.shape[1] else 1)
    rows = -(-len(order) // columns)
    top, side, gap = 0.95, 0.75, 0.18
    wide = (WIDTH - MARGIN - side - 0.5) / columns - gap
    tall = min(max(wide * maps.shape[1] / maps.shape[2], 0.2), 2.6)
    height = top + rows * (tall + gap) + 0.25
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    of = "mean of all samples" if sample is None else f"sample {sample}"
    title = f"{population}: SynOps by the neuron that caused them, {of}"
    total = int(synops.sum())
    per = f"{total / held:,.0f} a sample" if sample is None else f"{total:,}"
    note = f"through {', '.join(out)}: {per}, structural; fan-out of a neuron {int(fan.min())} to {int(fan.max())}"
    if shown.ndim > 1 and len(order) < len(maps):
        note += f"; the {len(order)} busiest of {len(maps)} channels"
    _line(figure, 0.26, title, size=12, weight="bold")
    _line(figure, 0.5, _short(note, 160), size=8.5)
    most = float(np.nanmax(maps)) or 1.0
    image = None
    for i, channel in enumerate(order):
        x, y = MARGIN + i % columns * (wide + gap), top + i // columns * (tall + gap)
        axes = figure.add_axes((x / WIDTH, 1 - (y + tall) / height, wide / WIDTH, tall / height))
        image = axes.imshow(
            maps[channel], cmap="magma", vmin=0, vmax=most, interpolation="nearest", aspect="auto", origin="upper"
        )
        axes.set_xticks([])
        axes.set_yticks([])
        if shown.ndim > 1:
            axes.set_title(f"{channel}", fontsize=6.5, color="#555555", pad=1.5, loc="left")
    bar = figure.add_axes(((WIDTH - side - 0.1) / WIDTH, 0.25 / height, 0.16 / WIDTH, 1 - (top + 0.25) / height))
    assert image is not None
    figure.colorbar(image, cax=bar).ax.tick_params(labelsize=7)
    return figure


def comparison(found: Comparison, *, rows: int = 24) -> Figure:
    """Where two runs part: spike counts over time, the rasters of the first differing sample, the distances.

    found: of `comparison.compare`. Above, a band for each population: A's spikes upwards and B's downwards, shaded, and
    their difference B - A in bars on a scale of its own. In the middle the output population (where it has no spikes or
    was not compared, that of the first difference) of the first differing sample, A over B, spikes without an equal in
    red; rows: neurons drawn at most, those that differ first. Below, van Rossum's distance of every population.
    """
    from matplotlib.figure import Figure

    from eventsnn.comparison import described, tau_words, verdict

    clock = _Clock.of(found)
    layers = found.layers
    tall = float(np.clip(5.0 / len(layers), 0.3, 0.62))
    bands = len(layers) * (tall + GAP)
    name, shown = _rastered(found, rows)
    raster_tall = max(0.16 * len(shown), 0.5)
    bars = 0.22 * len(layers)
    tops = np.cumsum([TOP, bands + 0.72, raster_tall + 0.3, raster_tall + 0.75])
    height = float(tops[-1]) + bars + 0.5
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    title = verdict(found).rstrip(".")
    _line(figure, 0.28, _short(title, 130), size=12 if len(title) < 96 else 9.5, weight="bold")
    _line(figure, 0.52, _short(f"A: {described(found, 0)};   B: {described(found, 1)}", 150), size=9, color=STOP)
    note = "shaded: spikes of A upwards, of B downwards; bars: B - A, every band on its own scales"
    _line(
        figure,
        0.76,
        f"{_count(found.samples, 'sample')}, {len(found.firsts):,} of them differ; {note}",
        size=8,
        color=QUIET,
    )

    axes = _axes(figure, TOP, bands)
    axes.set_xlim(0, clock.end)
    axes.set_ylim(bands, 0)
    for i in range(len(layers)):
        _draw_counts(axes, found, clock, i, GAP / 2 + i * (tall + GAP), tall)
    axes.set_yticks([])
    _clock_axis(axes, clock)

    number = next(i for i, layer in enumerate(layers) if layer.name == name)
    for side, top in ((0, tops[1]), (1, tops[2])):
        _draw_side(figure, found, clock, side, number, shown, float(top), raster_tall)
    _draw_distances(_axes(figure, float(tops[3]), bars), found, tau_words(found))
    return figure


@dataclass(frozen=True)
class _Clock:
    """The axis of time of a comparison. unit: its name. scale: units of it in one of the comparison's. end: on it.

    ticks: lengths of the ticks of A and B on it, 0 where times are instants.
    """

    unit: str
    scale: float
    end: float
    ticks: tuple[float, float]

    @classmethod
    def of(cls, found: Comparison) -> _Clock:
        ends = []
        for record, trains in zip(found.records, found.trains):
            length = 1.0 if found.unit == "ticks" else record.network["tick_seconds"] or found.tick_seconds
            ends.append(record.run.get("ticks", 0) * length + record.run.get("start", 0.0))
            ends.append(float(trains.shown.max(initial=0)))
        end = max(*ends, 1e-9)
        unit, scale = ("ticks", 1.0) if found.unit == "ticks" else _unit(end)
        lengths = [
            0.0
            if is_timed(r)
            else scale * (1.0 if found.unit == "ticks" else r.network["tick_seconds"] or found.tick_seconds or 1.0)
            for r in found.records
        ]
        return cls(unit, scale, end * scale, (lengths[0], lengths[1]))


def _rastered(found: Comparison, rows: int) -> tuple[str, np.ndarray]:
    """The population to draw spike by spike and its neurons to show: those that differ first, then the busiest."""
    names = [layer.name for layer in found.layers]
    output = found.records[0].network["output"]
    name = output if output in names else found.first.population if found.first else names[-1]
    number = names.index(name)
    low, high = found.offsets[number : number + 2]
    mine = [_mine(found, side, number) for side in (0, 1)]
    spikes: Any = sum(
        np.bincount(found.trains[s].key[m] % found.offsets[-1] - low, minlength=high - low) for s, m in enumerate(mine)
    )
    unequal: Any = sum(
        np.bincount(found.trains[s].key[m][found.trains[s].differs[m]] % found.offsets[-1] - low, minlength=high - low)
        for s, m in enumerate(mine)
    )
    order = np.lexsort((np.arange(high - low), -spikes, -unequal))
    shown = [*order[:rows].tolist()]
    if found.first and found.first.population == name and found.first.neuron not in shown:
        shown[-1] = found.first.neuron
    return name, np.sort(shown)


def _mine(found: Comparison, side: int, layer: int) -> np.ndarray:
    """Which spikes of a side are of that population and of the sample drawn: the first that differs, or the first."""
    key = found.trains[side].key
    sample = (found.first.sample if found.first else found.first_sample) - found.first_sample
    low, high = sample * found.offsets[-1] + found.offsets[layer : layer + 2]
    return np.arange(*np.searchsorted(key, [low, high]))


def _draw_counts(axes: Axes, found: Comparison, clock: _Clock, number: int, y: float, tall: float) -> None:
    """A band of `comparison`: the spikes of all samples over time."""
    tick = 1.0 if found.unit == "ticks" else clock.scale * (found.tick_seconds or 1.0)
    if found.on_ticks:  # bins of whole ticks, in which equal spikes fall together
        total = math.ceil(clock.end / tick - 1e-9)
        width, scale = -(-total // 200), 1.0
    else:
        total, width, scale, tick = 100, 1, clock.scale * 100 / clock.end, clock.end / 100
    bins = -(-total // width)
    edges = np.minimum(np.arange(bins + 1) * width * tick, clock.end)
    counts = []
    for trains in found.trains:
        mine = trains.time[layer_of(trains.key, found.offsets) == number] * scale
        counts.append(np.bincount(np.clip(mine // width, 0, bins - 1).astype(np.int64), minlength=bins))
    middle, half = y + tall / 2, tall / 2
    most = max(1, *(int(c.max()) for c in counts))
    axes.stairs(middle - counts[0] / most * half, edges, baseline=middle, fill=True, color=UPPER, linewidth=0)
    axes.stairs(middle + counts[1] / most * half, edges, baseline=middle, fill=True, color=LOWER, linewidth=0)
    left = counts[1] - counts[0]
    largest = int(np.abs(left).max())
    if largest:
        bars = middle - left / largest * half * 0.92
        axes.stairs(bars, edges, baseline=middle, fill=True, color=DECIDED, linewidth=0, zorder=3)
    axes.plot([0, clock.end], [middle, middle], color="#c8c8c8", linewidth=0.6, zorder=2)
    layer = found.layers[number]
    a, b = layer.spikes
    words = f"{a:,} in A, {b:,} in B"
    _label(axes, middle - 0.04, layer.name, words)
    note = "equal counts" if not largest else f"B - A: {_signed(left.min())} to {_signed(left.max())}"
    within = "a tick" if clock.unit == "ticks" and width == 1 else f"{width * tick:.3g} {clock.unit}"
    axes.text(
        1.008,
        middle,
        f"{note}\nA, B: at most {most:,}\nin {within}",
        transform=_beside(axes),
        **_small("#555555", 6.8, ha="left"),
    )


def _draw_side(
    figure: Figure, found: Comparison, clock: _Clock, side: int, number: int, shown: np.ndarray, top: float, tall: float
) -> None:
    """The raster of one side of `comparison`, with the first difference marked."""
    axes = _axes(figure, top, tall)
    axes.set_xlim(0, clock.end)
    axes.set_ylim(len(shown), 0)
    trains, layer = found.trains[side], found.layers[number]
    mine = _mine(found, side, number)
    neuron = trains.key[mine] % found.offsets[-1] - found.offsets[number]
    row_of = np.full(int(found.offsets[number + 1] - found.offsets[number]), -1)
    row_of[shown] = np.arange(len(shown))
    row = row_of[neuron]
    mine, row = mine[row >= 0], row[row >= 0]
    time, differs = trains.shown[mine] * clock.scale, trains.differs[mine]
    for which, colour in ((~differs, SPIKE), (differs, DECIDED)):
        if which.sum() > DENSE // 10:
            _pixels(axes, time[which], clock.unit == "ticks", row[which], len(shown), 0, len(shown), colour)
        elif clock.ticks[side]:
            _cells(axes, time[which], row[which] + 0.08, 1.0, colour, clock.ticks[side])
        else:
            _strokes(axes, time[which], row[which] + 0.08, 1.0, colour)
    first = found.first
    sample = first.sample if first else found.first_sample
    if first is not None:
        at = (first.a, first.b)[side]
        earliest = min(t for t in (first.a, first.b) if t is not None)
        x = (at if at is not None else earliest) * clock.scale + clock.ticks[side] / 2
        axes.axvline(x, color=STOP, linewidth=1.2, linestyle=(0, (4, 2)), zorder=5)
        if side == 0:
            text = "first difference" if first.population == layer.name else f"first difference, in {first.population}"
            turn = "left" if x < 0.15 * clock.end else "right" if x > 0.85 * clock.end else "center"
            axes.annotate(
                text, (x, 0), xytext=(0, 4), textcoords="offset points", **_small(STOP, 8, ha=turn, va="bottom")
            )
        if first.population == layer.name and first.neuron in shown:
            place = int(np.searchsorted(shown, first.neuron)) + 0.5
            axes.plot(
                x,
                place,
                "o",
                markersize=10,
                markerfacecolor="none",
                markeredgecolor=STOP,
                markeredgewidth=1.5,
                zorder=8,
            )
            if at is None:
                axes.text(x, place, "   not here", **_small(STOP, 7.5, ha="left"))
    labels = found.records[0].network["labels"] if layer.name == found.records[0].network["output"] else None
    names = [_short(labels[n], 16) if labels else str(n) for n in shown.tolist()]
    axes.set_yticks(np.arange(len(shown)) + 0.5, names, fontsize=7)
    axes.tick_params(axis="y", length=0, colors=SPIKE)
    neurons = int(found.offsets[number + 1] - found.offsets[number])
    lines = [f"{layer.name}, sample {sample}", f"{_count(int(differs.sum()), 'spike')} of {len(mine):,} differ"]
    lines[1] += "s" if differs.sum() == 1 else ""
    if len(shown) < neurons:
        lines.append(f"{len(shown)} of {neurons:,} neurons drawn")
    _label(axes, len(shown) / 2, "AB"[side], *lines)
    if side:
        _clock_axis(axes, clock)
    else:
        axes.set_xticks([])


def _draw_distances(axes: Axes, found: Comparison, tau: str) -> None:
    """The bars of `comparison`."""
    values = [layer.distance for layer in found.layers]
    axes.barh(range(len(values)), values, height=0.7, color=[DECIDED if v else SHADE for v in values])
    for i, layer in enumerate(found.layers):
        told = f" {_level(layer.distance)}, in {_count(layer.neurons, 'neuron')} of {_count(layer.samples, 'sample')}"
        axes.text(layer.distance, i, told if layer.distance or layer.neurons else " 0", va="center", fontsize=7.5)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_xlim(0, 1.0 if not any(values) else 1.5 * max(values))
    axes.set_yticks(range(len(values)), [_short(layer.name, 26) for layer in found.layers], fontsize=8)
    axes.tick_params(axis="x", labelsize=7, colors=QUIET)
    axes.set_xlabel(f"van Rossum's distance, tau {tau}; a spike more or less: 0.5", fontsize=8, color="#555555")


def _signed(count: int) -> str:
    return f"{count:+,}" if count else "0"


def _clock_axis(axes: Axes, clock: _Clock) -> None:
    if clock.unit == "ticks":
        _slots(axes, int(clock.end))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(f"time in {clock.unit}", fontsize=8.5, labelpad=1)


_LINES = {
    "fixed": ("#8a8a8a", "fixed number of ticks"),
    "topk": ("#2b4a73", "Top-K gap, one threshold"),
    "topk-calibrated": ("#d1495b", "Top-K gap, calibrated by tick"),
    "confidence": ("#3a9188", "confidence"),
    "entropy": ("#9a7b3c", "entropy"),
    "conformal": ("#7b5aa6", "conformal set, one score"),
    "conformal-calibrated": ("#e08e3c", "conformal set, calibrated by tick"),
    "spike-gap": ("#2b4a73", "spike gap"),
    "first-spike": ("#3f3f3f", "first spike"),
    "first-crossing": ("#3f3f3f", "first crossing"),
    "budget": ("#8fb8de", "budget of SynOps"),
}


def tradeoff(
    points: Sequence[Point],
    axis: str = "synops",
    *,
    record: runs.Record | None = None,
    table: str | None = None,
    chosen: Point | None = None,
    name: str = "a run",
) -> Figure:
    """Accuracy of every policy of a sweep against what it spends, a line a family, its Wilson interval shaded.

    points: of `study.sweep`. axis: "ticks", "synops" or "picojoule", per sample. record, table: named in the title.
    chosen: a point to mark. name: stands in the title without a record. The star is the optimal cutoff (OCT), which
    knows the labels: nothing that decides by the outputs alone can be expected to reach it. A panel beside it enlarges
    the corner where accuracy is almost that of the full run. Raises ValueError without points, for an unknown axis, or
    for SynOps and picojoules that are not known.
    """
    from matplotlib.figure import Figure

    if not points:
        raise ValueError("there is nothing to draw: the sweep has no points")
    _check_axis(axis)
    samples = points[0].samples
    spent = {id(p): p.cost(axis) / samples for p in points}
    size, label = _cost_unit(axis, max(spent.values()), table)

    families = [f for f in _LINES if any(p.family == f for p in points)]
    full = max((p for p in points if p.family == "fixed"), key=lambda p: p.ticks_run, default=None)
    top, tall = 1.25 + 0.2 * -(-len(families) // 4), 3.9
    height = top + tall + BOTTOM
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    wide, near = (figure.add_axes((x, BOTTOM / height, 0.425, tall / height)) for x in (0.07, 0.565))
    for axes in (wide, near):
        for family in families:
            line = sorted((p for p in points if p.family == family), key=lambda p: (spent[id(p)], p.accuracy))
            x = [spent[id(p)] / size for p in line]
            y = [100 * p.accuracy for p in line]
            colour = _LINES[family][0]
            low, high = ([100 * p.interval[i] for p in line] for i in (0, 1))
            # bands lie on each other: all together are a quarter opaque
            axes.fill_between(x, low, high, color=colour, alpha=0.28 / len(families), linewidth=0, zorder=2)
            alone, dashed = len(line) == 1, (0, (4, 2)) if family == "fixed" else "-"
            mark = "D" if alone else "o" if len(line) <= 20 else "None"
            axes.plot(x, y, color=colour, linestyle=dashed, linewidth=1.6, zorder=4)
            axes.plot(x, y, marker=mark, color=colour, linestyle="", markersize=5 if alone else 3.2, zorder=5)
        for p in points:
            if p.family == "oracle":
                place = (spent[id(p)] / size, 100 * p.accuracy)
                axes.plot(*place, "*", color="black", markersize=13, zorder=7, markeredgecolor="white")
        if full is not None:
            axes.axhline(100 * full.accuracy, color=QUIET, linewidth=0.8, linestyle=":", zorder=1)
        if chosen is not None:
            place = (chosen.cost(axis) / chosen.samples / size, 100 * chosen.accuracy)
            axes.plot(
                *place, "o", markersize=11, markerfacecolor="none", markeredgecolor=STOP, markeredgewidth=2, zorder=8
            )
        _quiet(axes, label)
    wide.set_ylabel("accuracy in %", fontsize=9)
    wide.set_xlim(left=0)
    _enlarge(near, points, spent, size, full)
    wide.set_title("all thresholds", fontsize=9, color="#555555", loc="left")
    near.set_title("near the accuracy of the full run", fontsize=9, color="#555555", loc="left")

    source = [] if record is None else [record.run[key]["file"] for key in ("network", "input")]
    names = " on ".join(Path(name).name for name in source if name)
    _line(figure, 0.26, f"What stopping early saves: {names or name}", size=12, weight="bold")
    about = f"{samples:,} samples; "
    if full is not None:
        about += f"full run, dotted: {full.accuracy:.2%} after {full.mean_stop:g} ticks; "
    _line(figure, 0.5, about + "shaded: 95 % intervals (Wilson)", size=8.5)
    marks = [
        f"★ optimal cutoff, which knows the labels: {p.accuracy:.2%} after {p.mean_stop:.2f} ticks"
        for p in points
        if p.family == "oracle"
    ]
    if chosen is not None:
        marks.append(f"○ cheapest on the calibration samples: {chosen.accuracy:.2%} after {chosen.mean_stop:.2f} ticks")
    _line(figure, 0.71, ";  ".join(marks), size=8.5)
    for i, family in enumerate(families):
        colour, words = _LINES[family]
        column, row = i % 4, i // 4
        _line(figure, 1.0 + 0.2 * row, f"■ {words}", x=MARGIN + 0.05 + 2.62 * column, size=8.5, color=colour)
    return figure


_SOURCES = ("#2b4a73", "#d1495b", "#3a9188", "#e08e3c", "#7b5aa6", "#3f3f3f", "#8fb8de", "#9a7b3c")


def tradeoffs(curves: Sequence[Curve], axis: str = "ticks", *, table: str | None = None) -> Figure:
    """Accuracy of several models against what they spend, a line each with its Wilson interval shaded.

    curves: of `study.curves`. axis: "ticks", "synops" or "picojoule", per sample. table: named on the axis. A diamond
    is the run to the horizon, which a threshold that is never reached gives. Raises ValueError without curves, for an
    unknown axis, or for SynOps and picojoules that are not known.
    """
    from matplotlib.figure import Figure

    if not curves:
        raise ValueError("there is nothing to draw: there are no curves")
    _check_axis(axis)
    samples = curves[0].full.samples
    size, label = _cost_unit(axis, max(p.cost(axis) for c in curves for p in (*c.points, c.full)) / samples, table)

    top, tall = 0.9 + 0.2 * len(curves), 4.2
    height = top + tall + BOTTOM
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    axes = figure.add_axes((0.07, BOTTOM / height, 0.92, tall / height))
    for i, curve in enumerate(curves):
        colour, dashes = _SOURCES[i % len(_SOURCES)], "-" if i < len(_SOURCES) else (0, (4, 2))
        ends = [] if curve.family in ("first-spike", "oracle") else [curve.full]  # these have no stricter threshold
        line = sorted((*curve.points, *ends), key=lambda p: (p.cost(axis), p.accuracy))
        x = [p.cost(axis) / samples / size for p in line]
        low, high = ([100 * p.interval[side] for p in line] for side in (0, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0, zorder=2)
        axes.plot(x, [100 * p.accuracy for p in line], color=colour, linestyle=dashes, linewidth=1.7, zorder=4)
        if len(curve.points) <= 20:
            dots = [(p.cost(axis) / samples / size, 100 * p.accuracy) for p in curve.points]
            axes.plot(*zip(*dots, strict=True), "o", color=colour, markersize=3.6, zorder=5)
        end = (curve.full.cost(axis) / samples / size, 100 * curve.full.accuracy)
        axes.plot(*end, "D", color=colour, markersize=8, markeredgecolor="white", zorder=6, clip_on=False)
        told = f"{curve.full.accuracy:.2%} after {curve.full.mean_stop:g} ticks"
        words = f"■ {_short(curve.name, 70)}: {_LINES.get(curve.family, ('', curve.family))[1]}; full run {told}"
        _line(figure, 0.78 + 0.2 * i, words, x=MARGIN + 0.05, size=8.5, color=colour)
    _quiet(axes, label)
    axes.set_xlim(left=0)
    axes.set_ylabel("accuracy in %", fontsize=9)
    _line(figure, 0.26, "What stopping early saves, side by side", size=12, weight="bold")
    about = f"the same {samples:,} samples; ◆ full run; shaded: 95 % intervals (Wilson)"
    _line(figure, 0.5, about, size=8.5)
    return figure


def _check_axis(axis: str) -> None:
    if axis not in ("ticks", "synops", "picojoule"):
        raise ValueError(f"axis is {axis!r}, wanted ticks, synops or picojoule")


def _cost_unit(axis: str, largest: float, table: str | None) -> tuple[float, str]:
    """The unit of an axis whose largest value is this, and the axis in words."""
    steps = {"ticks": ((1.0, ""),), "synops": ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))}
    joule = ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1.0, "pJ"))
    size, unit = next((s, u) for s, u in steps.get(axis, joule) if largest >= s or s == 1)
    what = {"ticks": "ticks per sample, mean", "synops": f"{unit} SynOps per sample, mean".strip()}
    return size, what.get(axis, f"{unit} per sample, mean ({table or 'energy table'})")


def _quiet(axes: Axes, label: str) -> None:
    """Axes of a trade-off: what is drawn in them stands out."""
    axes.set_xlabel(label, fontsize=9)
    axes.tick_params(labelsize=8, colors="#555555")
    axes.grid(color="#ececec", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_color("#c8c8c8")


def _enlarge(axes: Axes, points: Sequence[Point], spent: Mapping[int, float], size: float, full: Point | None) -> None:
    """The corner of a trade-off that matters: from the star to where the curves have joined the full run."""
    end = 100 * (full.accuracy if full is not None else max(p.accuracy for p in points))
    reached = [p for p in points if 100 * p.accuracy >= end - 1.0]
    firsts = {p.family: spent[id(p)] / size for p in sorted(reached, key=lambda p: -spent[id(p)])}
    sensible = [x for family, x in firsts.items() if family != "fixed"]
    left = min(sensible, default=0.0)
    right = max(sensible, default=max(spent.values()) / size)
    room = 0.25 * (right - left) or 0.1 * right or 1.0
    axes.set_xlim(max(0.0, left - room), right + 3 * room)
    top = max(end, *(100 * p.accuracy for p in points))
    axes.set_ylim(end - 3.0, min(100.2, top + 1.0))


# ------------------------------------------------------------------------------------------------- what is drawn


def _record(source: str | Path | Run | runs.Record, sample: int | None = None) -> runs.Record:
    if isinstance(source, str | Path):
        return runs.read(source, sample)
    return source if isinstance(source, runs.Record) else runs.describe(source)


def _cut(source: str | Path | Run | runs.Record, sample: int) -> _Sample:
    record = _record(source, sample)
    held = len(record.trace["stop_time"])
    if not record.first <= sample < record.first + held:
        raise ValueError(f"there is no sample {sample}; there are {record.first} to {record.first + held - 1}")
    i = sample - record.first
    events = record.events
    labels = record.trace.get("labels")
    outputs = record.trace["outputs"]
    ticks, stop = record.run["ticks"], record.trace["stop_time"][i]
    unit, per_second, edges, rows, end = "tick", 0.0, np.arange(ticks + 1), int(stop), float(ticks)
    if record.run["mode"] == "async":
        start, length = record.run.get("start", 0.0), record.network["tick_seconds"]
        last = start + min(ticks * length, record.run["duration"])
        unit, per_second = _unit(last)
        edges = (start + np.arange(ticks + 1) * length) * per_second
        rows = max(1, int(np.isfinite(outputs[i, :, 0]).sum()))  # a bin is NaN when it begins behind the stop
        last = stop if stop >= last * (1 - 1e-12) else last  # the same instant, summed in another order
        stop, end = stop * per_second, last * per_second
    return _Sample(
        record=record,
        index=sample,
        ticks=ticks,
        rows=rows,
        unit=unit,
        per_second=per_second,
        edges=edges,
        stop=stop.item(),
        end=float(end),
        prediction=int(record.trace["predictions"][i]),
        label=None if labels is None else int(labels[i]),
        classes=tuple(record.network["labels"] or map(str, range(outputs.shape[-1]))),
        events=None if events is None else events[events["sample"] == sample],
    )


def _unit(seconds: float) -> tuple[str, float]:
    """The unit for an axis of so many seconds, and how many of it are a second."""
    return next((u for u in (("s", 1.0), ("ms", 1e3)) if seconds * u[1] >= 1), ("µs", 1e6))


def _layers(record: runs.Record) -> list[Mapping[str, Any]]:
    """The populations to draw, from the input down to the output."""
    network = record.network
    recorded = [p for p in network["populations"] if p["name"] in record.run["recorded"]["events"]]
    drawn = [p for p in recorded if p["kind"] != "integrator"]  # a readout without spikes has its curves
    return sorted(drawn, key=lambda p: (p["name"] == network["output"], p["depth"]))


def _events_of(one: _Sample, layer: Mapping[str, Any]) -> np.ndarray:
    names = [p["name"] for p in one.record.network["populations"]]
    events = np.zeros(0, EVENT) if one.events is None else one.events
    return events[events["population"] == names.index(layer["name"])]


def _is_image(one: _Sample, layer: Mapping[str, Any]) -> bool:
    return layer["kind"] == "input" and one.record.network["encoding"] == "direct"


def _leading(one: _Sample, most: int) -> list[int]:
    """The output units to show, in their own order: the leading ones, the decision and the true class among them."""
    final = one.outputs[-1]
    order = np.argsort(-final, kind="stable").tolist()
    wanted = dict.fromkeys([one.prediction, *([] if one.label is None else [one.label]), *order])
    return sorted(list(wanted)[: max(most, 2)])


def _typical(fired: np.ndarray, layer: Mapping[str, Any], most: int) -> list[int]:
    """Neurons from the most to the least active, evenly chosen among those that fired; silent ones if there are few."""
    counts = np.bincount(fired, minlength=layer["neurons"])
    order = np.argsort(-counts, kind="stable")
    active = max(int(np.sum(counts > 0)), min(most, layer["neurons"]))
    return sorted({int(order[i]) for i in np.linspace(0, active - 1, most).round().astype(int)})


def _band_height(one: _Sample, layer: Mapping[str, Any], rows: int, shown: int) -> float:
    if layer["name"] == one.record.network["output"]:
        return CLASS_ROW * shown
    if _is_image(one, layer):
        return IMAGE_BAND
    return float(np.clip(0.3 + 0.0065 * min(layer["neurons"], rows), 0.45, 0.95))


# --------------------------------------------------------------------------------------------------------- pieces


def _axes(figure: Figure, from_top: float, height: float, right: float = RIGHT) -> Axes:
    """Axes placed in inches, so that bands and text keep their size however many layers there are."""
    width, total = figure.get_size_inches()
    axes = figure.add_axes(
        (LEFT / width, 1 - (from_top + height) / total, (width - LEFT - right) / width, height / total)
    )
    for side in axes.spines.values():
        side.set_color("#c8c8c8")
    return axes


def _draw_layer(
    axes: Axes, one: _Sample, layer: Mapping[str, Any], y: float, band: float, rows: int, dense: bool
) -> None:
    shape = "\N{MULTIPLICATION SIGN}".join(map(str, layer["shape"]))
    if _is_image(one, layer):
        axes.fill_between([one.start, one.stop], y, y + band, color=SHADE, linewidth=0)
        how = "the image, a constant current" if one.per_second else "the image, added in every tick"
        axes.text((one.start + one.stop) / 2, y + band / 2, _fitting(one, how), **_small(QUIET))
        _label(axes, y + band / 2, layer["name"], f"image, {shape}")
        return
    events = _events_of(one, layer)
    kept = np.arange(layer["neurons"])
    if layer["neurons"] > rows:  # evenly spaced, so that every channel and row of the grid has its share
        kept = (np.arange(rows) * layer["neurons"]) // rows
    row_of = np.full(layer["neurons"], -1)
    row_of[kept] = np.arange(len(kept))
    drawn = row_of[events["neuron"]]
    totals = np.bincount(one.bins(events), minlength=one.rows)
    if totals.any():
        shade, edges = _merged(totals, one.edges[: len(totals) + 1])
        tops = y + band - shade / shade.max() * band
        axes.stairs(tops, edges, baseline=y + band, fill=True, color=SHADE, linewidth=0, zorder=1)
    colour = SPIKE if layer["spiking"] else FORWARDED
    _marks(axes, one, events[drawn >= 0], drawn[drawn >= 0], len(kept), y, band, colour, dense=dense)
    axes.plot([one.start, one.end], [y + band, y + band], color="#c8c8c8", linewidth=0.5, zorder=1)
    what = "spike" if layer["spiking"] else "event"
    within = one.bin_words() if one.per_second else "a tick"
    size = f"{shape} = {layer['neurons']:,}" if len(layer["shape"]) > 1 else f"{layer['neurons']:,}"
    lines = [
        f"{size} neurons",
        f"{_count(len(events), what)}, at most {totals.max():,} in {within}" if len(events) else f"no {what}s",
    ]
    if len(kept) < layer["neurons"]:
        lines.append(f"{len(kept)} neurons drawn, evenly chosen")
    _label(axes, y + band / 2 - 0.06 * (len(lines) - 1), layer["name"], *lines)


def _draw_output(
    axes: Axes, one: _Sample, layer: Mapping[str, Any], shown: list[int], y: float, band: float, dense: bool
) -> None:
    """A row for each class with its name, its spikes numbered, and its count at the stop."""
    events = _events_of(one, layer)
    row = band / len(shown)
    numbered = not one.per_second and (WIDTH - LEFT - RIGHT) / one.ticks > 0.16
    for i, unit in enumerate(shown):
        top = y + i * row
        mine = events[events["neuron"] == unit]
        colour = DECIDED if unit == one.prediction else SPIKE
        _marks(axes, one, mine, np.zeros(len(mine), np.int64), 1, top + 0.1 * row, 0.8 * row, colour, dense=dense)
        if numbered:
            counts = one.outputs[mine["time"], unit] if len(mine) else []
            for time, count in zip(mine["time"].tolist(), counts, strict=True):
                axes.text(time + 0.5, top + row / 2, f"{count:g}", **_small("white"))
        weight = "bold" if unit == one.prediction else "normal"
        name = _class_name(one, unit)
        axes.text(-0.008, top + row / 2, name, transform=_beside(axes), **_small(colour, ha="right", weight=weight))
        note = _count(int(one.outputs[-1, unit]), "spike") + _role(one, unit)
        small = _small(colour, ha="left", weight=weight, size=7.5 if len(note) < 28 else 6.8)
        axes.text(1.008, top + row / 2, note, transform=_beside(axes), **small)
    _label(
        axes,
        y + band / 2,
        layer["name"],
        "output layer",
        f"{layer['neurons']:,} neurons, {_count(len(events), 'spike')}",
    )


def _draw_curves(axes: Axes, one: _Sample, shown: list[int]) -> None:
    """The running output of the classes shown, the decision in its colour, the runners-up named at the right."""
    outputs, counts = one.outputs, one.record.network["readout"] == "spikes"
    ranked = sorted(shown, key=lambda unit: (unit != one.prediction, -outputs[-1, unit], unit))
    low, high = float(min(outputs[:, shown].min(), 0)), float(outputs[:, shown].max())
    high = max(high, low + 1.0) if counts or high == low else high
    room = 0.08 * (high - low)
    axes.set_ylim(low - room, high + room)
    _draw_stop(axes, one, low - room, high + room, words=False)
    for place, unit in reversed(list(enumerate(ranked))):
        colour = DECIDED if place == 0 else OTHERS[place - 1] if place <= len(OTHERS) else "#b9b9b9"
        _curve(axes, one, outputs[:, unit], color=colour, linewidth=2.2 if place == 0 else 1.2, zorder=4)
    named = ranked[: 1 + len(OTHERS)]
    if one.label is not None and one.label not in named:
        named[-1] = one.label
    room_left = (1 - one.part(one.stop)) * (WIDTH - LEFT - RIGHT)  # names stand at their curves, or in the margin
    at = one.part(one.stop) + 0.012 if room_left > 2.2 else 1.008
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}
    levels = _apart([outputs[-1, unit] for unit in named], (high - low + 2 * room) * 0.095, low)
    for place, (unit, level) in enumerate(zip(named, levels, strict=True)):
        colour = (
            DECIDED if place == 0 else OTHERS[ranked.index(unit) - 1] if ranked.index(unit) <= len(OTHERS) else QUIET
        )
        value = f"{outputs[-1, unit]:g}" if counts else f"{outputs[-1, unit]:.3g}"
        text = f"{_class_name(one, unit)}: {value}{_role(one, unit)}"
        axes.text(
            at,
            level,
            text,
            transform=_beside(axes),
            zorder=8,
            bbox=box,
            **_small(colour, ha="left", weight=("bold" if place == 0 else "normal")),
        )
    what = "output spikes so far" if counts else "summed logits so far"
    _label(axes, (low + high) / 2, what, "the answer as it grows", f"{len(shown)} of {len(one.classes)} classes")
    _value_axis(axes, whole=counts)


def _merged(counts: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The counts of bins, neighbours added where they are too many to see: an outline of all would take seconds."""
    starts = np.arange(0, len(counts), -(-len(counts) // FINE))
    return np.add.reduceat(counts, starts), np.append(edges[starts], edges[len(counts)])


def _curve(axes: Axes, one: _Sample, values: np.ndarray, **style: Any) -> None:
    """Values of the bins that were run: a step a tick, or the values at the ends of bins joined by straight lines."""
    if one.per_second:
        axes.plot(np.minimum(one.edges[1 : len(values) + 1], one.stop), values, **style)
    elif len(values) <= FINE:
        axes.stairs(values, one.edges[: len(values) + 1], baseline=None, **style)
    else:  # the same line; the extent of so many stairs takes seconds to find
        axes.plot(one.edges[: len(values) + 1], np.append(values, values[-1]), drawstyle="steps-post", **style)


def _draw_membrane(
    axes: Axes,
    one: _Sample,
    layer: Mapping[str, Any],
    neuron: int,
    membrane: np.ndarray,
    threshold: float | None,
    fired: np.ndarray,
    *,
    first: bool,
) -> None:
    mine = fired[fired["neuron"] == neuron]
    _curve(axes, one, membrane, color=SPIKE, linewidth=1.5, zorder=3)
    axes.axhline(0, color="#d8d8d8", linewidth=0.6, zorder=1)
    levels = [0.0, *membrane[np.isfinite(membrane)].tolist(), *([] if threshold is None else [threshold])]
    low, high = min(levels), max(levels)
    room = 0.12 * (high - low or 1.0)
    axes.set_ylim(low - room, high + 2.2 * room)
    if threshold is not None:
        axes.axhline(threshold, color=FORWARDED, linewidth=1, linestyle=(0, (4, 2)), zorder=2)
    axes.plot(
        one.times(mine) + (0.0 if one.per_second else 0.5),
        np.full(len(mine), high + room),
        "v",
        color=DECIDED,
        markersize=4,
        zorder=4,
    )
    _draw_stop(axes, one, low - room, high + 2.2 * room, words=first, notice=False)
    where = np.unravel_index(neuron, layer["shape"])
    place = ", ".join(f"{axis} {int(i)}" for axis, i in zip(("channel", "row", "column"), where, strict=False))
    if len(layer["shape"]) == 1 and layer["name"] == one.record.network["output"]:
        place = f"class {_class_name(one, neuron)}{_role(one, neuron)}"
    lines = [place] if place != f"channel {neuron}" else []
    if layer["spiking"]:
        units = int(mine["value"].sum())
        lines.append(_count(len(mine), "spike") + (f" ({units} with multiplicity)" if units != len(mine) else ""))
    _label(axes, (low + high) / 2, f"neuron {neuron}", *lines)
    _value_axis(axes)


def _draw_stop(axes: Axes, one: _Sample, low: float, high: float, *, words: bool = True, notice: bool = True) -> None:
    """The stop line, and what would have followed, greyed and named as not run."""
    axes.set_xlim(one.start, one.end)
    left = one.end - one.stop
    if left:
        axes.fill_between(
            [one.stop, one.end], low, high, facecolor=GREY, edgecolor="#e2e2e2", hatch="///", linewidth=0, zorder=5
        )
    axes.axvline(one.stop, color=STOP, linewidth=2, zorder=6, clip_on=False)
    if not words:
        return
    at = one.part(one.stop)
    text = f"horizon, {one.length(one.end)}"
    if left:
        text = f"stop {'at' if one.per_second else 'after'} {one.length(one.stop)}"
    side = "left" if at < 0.12 else "right" if at > 0.88 else "center"
    axes.annotate(
        text,
        (at, 1.0),
        xytext=(0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        **_small(STOP, size=8.5, ha=side, va="bottom", weight="bold"),
    )
    if left and notice:
        missed = f"not run\n{one.length(left)}"
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2}
        turn = 90 if 1 - at < 0.1 else 0
        axes.text(
            (one.stop + one.end) / 2,
            min((low + high) / 2, low + 2.5),
            missed,
            rotation=turn,
            bbox=box,
            zorder=7,
            **_small(QUIET, size=9),
        )


def _head(figure: Figure, one: _Sample, height: float, note: str) -> None:
    """Three lines that say what was decided, when and why, and how to read the picture."""
    run, i = one.record.run, one.index - one.record.first
    reason = StopReason(int(one.record.trace["stop_reason"][i]))
    verdict = ""
    if one.label is not None:
        verdict = ", right" if one.label == one.prediction else f", wrong: it is “{_class_name(one, one.label)}”"
    if bool(one.record.trace["tied"][i]):
        verdict += " (a tie)"
    stop = f"{one.stop:.4g}" if one.per_second else f"{one.stop:,}"
    when = f"after {stop} of {one.length(one.end)}"
    title = f"Sample {one.index}: “{_class_name(one, one.prediction)}” {when}{verdict}"
    why = f"Cutoff {run['cutoff']}: {reason.sentence}"
    final = one.outputs[-1]
    if len(final) > 1:
        second = max((unit for unit in range(len(final)) if unit != one.prediction), key=lambda unit: final[unit])
        names = f"“{_class_name(one, one.prediction)}”", f"“{_class_name(one, second)}”"
        if final[one.prediction] == final[second]:
            why += f" {names[0]} and {names[1]} are level at {_level(final[second])}; such ties go to the "
            why += f"{run['conventions']['tie_order']}."
        else:
            why += f" {names[0]} leads {names[1]} by {_level(final[one.prediction])} to {_level(final[second])}."
    if one.stop < one.end:
        why += " Nothing behind the red line was computed."
    note = "; ".join([*_files(run), note])
    for line, (text, size, weight, colour) in enumerate(
        [(title, 12, "bold", "black"), (why, 9, "normal", STOP), (note, 8, "normal", QUIET)]
    ):
        figure.text(
            MARGIN / WIDTH, 1 - (0.28 + 0.24 * line) / height, text, size=size, weight=weight, color=colour, va="center"
        )


def _files(run: Mapping[str, Any]) -> list[str]:
    """One text, which network file ran on which input; none where neither is known."""
    named = [Path(part["file"]).name for part in (run["network"], run["input"]) if part["file"]]
    return [" on ".join(named)] if named else []


def _raster_note(one: _Sample, layers: Iterable[Mapping[str, Any]], dense: bool) -> str:
    drawn = {layer["name"] for layer in layers}
    missing = [
        p["name"] for p in one.record.network["populations"] if p["name"] not in drawn and p["kind"] != "integrator"
    ]
    notes = [f"a bar is a spike; the shading counts the spikes of the whole layer in each {one.bin_words()}"]
    if dense:
        notes[0] = notes[0].replace("a bar is a spike", "the darker, the more spikes")
    if any(p["kind"] in ("relay", "gate") for p in one.record.network["populations"] if p["name"] in drawn):
        notes.append("brown: forwarded events")
    if missing:
        notes.append(f"not recorded: {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}")
    return "; ".join(notes)


def _marks(
    axes: Axes,
    one: _Sample,
    events: np.ndarray,
    row: np.ndarray,
    rows: int,
    y: float,
    band: float,
    colour: str,
    *,
    dense: bool,
) -> None:
    """The events in their rows of a band: bars; where there are very many, the count in every pixel as its darkness."""
    if dense and len(events) > FEW:
        _pixels(axes, one.times(events), not one.per_second, row, rows, y, band, colour)
    elif one.per_second:
        _strokes(axes, one.times(events), y + row * (band / rows), band / rows, colour)
    else:
        _cells(axes, events["time"], y + row * (band / rows), band / rows, colour)


def _cells(axes: Axes, time: np.ndarray, top: np.ndarray, height: float, colour: str, tick: float = 1.0) -> None:
    """A bar for each event, most of its tick wide; an edge keeps it visible where a tick is less than a pixel."""
    from matplotlib.collections import PolyCollection

    left, right = time + 0.06 * tick, time + 0.94 * tick
    bottom = top + height * 0.85
    edge = 0.25 if np.ptp(axes.get_xlim()) <= 100 * tick else 0.7
    corners: Any = np.stack([left, top, right, top, right, bottom, left, bottom], 1).reshape(-1, 4, 2)
    axes.add_collection(
        PolyCollection(corners, facecolor=colour, edgecolor=colour, linewidth=edge, rasterized=True, zorder=3)
    )


def _strokes(axes: Axes, time: np.ndarray, top: np.ndarray, height: float, colour: str) -> None:
    """A stroke for each event, at its instant."""
    from matplotlib.collections import LineCollection

    ends: Any = np.stack([time, top, time, top + height * 0.85], 1).reshape(-1, 2, 2)
    axes.add_collection(LineCollection(ends, colors=colour, linewidths=1.0, rasterized=True, zorder=3))


def _pixels(
    axes: Axes, time: np.ndarray, whole: bool, row: np.ndarray, rows: int, y: float, band: float, colour: str
) -> None:
    """The events counted in every pixel; the darkness is the square root of the count. whole: time is in ticks."""
    from matplotlib.colors import to_rgb

    left, right = axes.get_xlim()
    columns = int((WIDTH - LEFT - RIGHT) * DPI)
    if whole:
        columns = min(columns, int(right - left))
    column = np.clip((time - left) / (right - left) * columns, 0, columns - 1).astype(np.int64)
    counts = np.bincount(row * columns + column, minlength=rows * columns).reshape(rows, columns)
    image = np.empty((rows, columns, 4))
    image[:, :, :3] = to_rgb(colour)
    image[:, :, 3] = np.sqrt(counts / max(1, counts.max(initial=0)))
    place = (left, right, y + band, y)
    axes.imshow(image, extent=place, aspect="auto", interpolation="nearest", zorder=3, origin="upper")


def _time_axis(axes: Axes, one: _Sample) -> None:
    if one.per_second:
        axes.tick_params(axis="x", labelsize=8)
        axes.set_xlabel(f"time in {one.unit}", fontsize=9)
        return
    _slots(axes, one.ticks)
    seconds = one.record.network["tick_seconds"]
    length = "" if seconds is None else f", {seconds * 1e3:g} ms each"
    axes.set_xlabel(f"time in ticks{length}", fontsize=9)


def _slots(axes: Axes, ticks: int) -> None:
    """Numbers of ticks in the middle of their slots."""
    step = next(
        s
        for s in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, *(m * 10**n for n in range(3, 9) for m in (1, 2, 5)))
        if ticks / s <= 17
    )
    numbered = np.arange(0, ticks, step)
    axes.set_xticks(numbered + 0.5, [str(t) for t in numbered], fontsize=8)


def _value_axis(axes: Axes, *, whole: bool = False) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.tick_params(axis="y", labelsize=7, colors=QUIET)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=whole))


def _label(axes: Axes, y: float, name: str, *lines: str) -> None:
    """A layer's name and facts, at the left edge of the figure."""
    from matplotlib.transforms import blended_transform_factory

    edge = blended_transform_factory(axes.figure.transFigure, axes.transData)
    x = MARGIN / WIDTH
    axes.text(x, y, _short(name, 30), transform=edge, fontsize=9, weight="bold", va="bottom" if lines else "center")
    if lines:
        axes.text(x, y, "\n".join(lines), transform=edge, va="top", fontsize=7.5, color="#555555")


def _small(colour: str, size: float = 7.5, **more: Any) -> dict[str, Any]:
    return {"fontsize": size, "color": colour, "ha": "center", "va": "center", **more}


def _beside(axes: Axes) -> Any:
    """x in widths of the axes, y in its data."""
    return axes.get_yaxis_transform()


def _fitting(one: _Sample, text: str) -> str:
    """The text, or nothing where the ticks that were run leave no room for it."""
    inches = one.part(one.stop) * (WIDTH - LEFT - RIGHT)
    return text if inches > 0.065 * len(text) else ""


def _class_name(one: _Sample, unit: int) -> str:
    return _short(one.classes[unit], 16)


def _role(one: _Sample, unit: int) -> str:
    decided, true = unit == one.prediction, unit == one.label
    return " (decided, true)" if decided and true else " (decided)" if decided else " (true)" if true else ""


def _level(output: float) -> str:
    return f"{output:,.0f}" if abs(output) >= 1000 else f"{output:.3g}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _apart(levels: Sequence[float], least: float, low: float) -> list[float]:
    """The levels, moved as little as it takes for texts at them not to overlap, nor to fall below `low`."""
    order = sorted(range(len(levels)), key=lambda i: -levels[i])
    moved = [float(level) for level in levels]
    for above, below in pairwise(order):
        moved[below] = min(moved[below], moved[above] - least)
    floor = low
    for i in reversed(order):
        moved[i] = max(moved[i], floor)
        floor = moved[i] + least
    return moved
