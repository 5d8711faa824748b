"""Figures of a run that explain themselves: the raster of one sample, the membranes of some of its neurons, where its
synaptic operations come from, what they cost, and what stopping early would save.

All take a run folder, a `Run` or a `Record`, and give a matplotlib `Figure` (no window, no global state); save it with
`runs.save_figure`. A tick is drawn as a slot from t to t + 1, so the stop line stands right behind the last tick run.
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
from eventsnn.watchdog import StopReason

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from eventsnn.simulation import Run
    from eventsnn.study import Point

SPIKE, FORWARDED, DECIDED, STOP = "#2b4a73", "#9a7b3c", "#d1495b", "#a3122b"
SHADE, GREY, QUIET = "#dbe4ef", "#f3f3f3", "#8a8a8a"
OTHERS = ("#2b4a73", "#3a9188", "#9a7b3c", "#7b5aa6")  # the runners-up in the curves of the outputs

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 11.0, 2.65, 1.75, 1.12, 0.62  # inches
MARGIN, GAP, CURVES, CLASS_ROW, IMAGE_BAND = 0.2, 0.14, 1.7, 0.19, 0.3


@dataclass(frozen=True, eq=False)
class _Sample:
    """One sample of a record, cut out for drawing. events: of this sample. classes: names of the output units."""

    record: runs.Record
    index: int
    ticks: int
    stop: int
    prediction: int
    label: int | None
    classes: tuple[str, ...]
    events: np.ndarray | None

    @property
    def outputs(self) -> np.ndarray:
        """(ticks run, classes) what the watchdog saw."""
        return self.record.trace["outputs"][self.index - self.record.first, : self.stop]


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
    figure = Figure(figsize=(WIDTH, height), dpi=120)
    axes = _axes(figure, TOP, bands)
    axes.set_xlim(0, one.ticks)
    axes.set_ylim(bands, 0)

    y = GAP / 2
    for layer, band in zip(layers, heights, strict=True):
        if layer["name"] == one.record.network["output"]:
            _draw_output(axes, one, layer, shown, y, band)
        else:
            _draw_layer(axes, one, layer, y, band, rows)
        y += band + GAP
    _draw_stop(axes, one, 0, bands)
    axes.set_xticks([])
    axes.set_yticks([])

    curves = _axes(figure, TOP + bands + GAP, CURVES)
    _draw_curves(curves, one, shown)
    _tick_axis(curves, one)
    _head(figure, one, height, _raster_note(one, layers, shown))
    return figure


def trace(
    source: str | Path | Run | runs.Record,
    population: str | None = None,
    neurons: Sequence[int] | None = None,
    sample: int = 0,
    *,
    most: int = 6,
) -> Figure:
    """Membranes of some neurons of one population over the ticks of one sample, with threshold and spikes.

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
    figure = Figure(figsize=(WIDTH, height), dpi=120)
    for i, neuron in enumerate(neurons):
        axes = _axes(figure, TOP + i * (panel + gap), panel, right=0.3)
        theta = record.thresholds.get(name)
        threshold = None if theta is None else float(np.broadcast_to(theta, layer["shape"]).ravel()[neuron])
        _draw_membrane(axes, one, layer, neuron, membranes[: one.stop, neuron], threshold, fired, first=i == 0)
        if i < len(neurons) - 1:
            axes.set_xticks([])
        else:
            _tick_axis(axes, one)
    _head(figure, one, height, f"{name}: membrane at the end of each tick, after the reset; dashed: threshold; ▼ spike")
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
    figure = Figure(figsize=(WIDTH, height), dpi=120)
    run = record.run
    source = [Path(part["file"]).name for part in (run["network"], run["input"]) if part["file"]]
    about = f"{samples:,} samples, {run['mean_stop']:.2f} of {run['ticks']} ticks on average (cutoff {run['cutoff']})"
    _line(figure, 0.26, f"Energy per sample: {' on '.join(source) or 'a run'}", size=12, weight="bold")
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

    record = runs.read(source) if isinstance(source, str | Path) else source
    record = record if isinstance(record, runs.Record) else runs.describe(record)
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
    figure = Figure(figsize=(WIDTH, height), dpi=120)
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
    "budget": ("#8fb8de", "budget of SynOps"),
}


def tradeoff(
    points: Sequence[Point],
    axis: str = "synops",
    *,
    record: runs.Record | None = None,
    table: str | None = None,
    chosen: Point | None = None,
) -> Figure:
    """Accuracy of every policy of a sweep against what it spends, a line a family, its Wilson interval shaded.

    points: of `study.sweep`. axis: "ticks", "synops" or "picojoule", per sample. record, table: named in the title.
    chosen: a point to mark. The star is the optimal cutoff (OCT), which knows the labels: nothing that decides by the
    outputs alone can be expected to reach it. A panel beside it enlarges the corner where accuracy is almost that of
    the full run. Raises ValueError without points, for an unknown axis, or for picojoules that were not priced.
    """
    from matplotlib.figure import Figure

    if not points:
        raise ValueError("there is nothing to draw: the sweep has no points")
    if axis not in ("ticks", "synops", "picojoule"):
        raise ValueError(f"axis is {axis!r}, wanted ticks, synops or picojoule")
    samples = points[0].samples
    spent = {id(p): p.cost(axis) / samples for p in points}
    largest = max(spent.values())
    steps = {"ticks": ((1.0, ""),), "synops": ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))}
    joule = ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1.0, "pJ"))
    size, unit = next((s, u) for s, u in steps.get(axis, joule) if largest >= s or s == 1)
    what = {"ticks": "ticks per sample, mean", "synops": f"{unit} SynOps per sample, mean".strip()}
    label = what.get(axis, f"{unit} per sample, mean ({table or 'energy table'})")

    families = [f for f in _LINES if any(p.family == f for p in points)]
    full = max((p for p in points if p.family == "fixed"), key=lambda p: p.ticks_run, default=None)
    top, tall = 1.25 + 0.2 * -(-len(families) // 4), 3.9
    height = top + tall + BOTTOM
    figure = Figure(figsize=(WIDTH, height), dpi=120)
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
        axes.set_xlabel(label, fontsize=9)
        axes.tick_params(labelsize=8, colors="#555555")
        axes.grid(color="#ececec", linewidth=0.7)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_color("#c8c8c8")
    wide.set_ylabel("accuracy in %", fontsize=9)
    wide.set_xlim(left=0)
    _enlarge(near, points, spent, size, full)
    wide.set_title("all thresholds", fontsize=9, color="#555555", loc="left")
    near.set_title("near the accuracy of the full run", fontsize=9, color="#555555", loc="left")

    source = [] if record is None else [record.run[key]["file"] for key in ("network", "input")]
    names = " on ".join(Path(name).name for name in source if name)
    _line(figure, 0.26, f"What stopping early saves: {names or 'a run'}", size=12, weight="bold")
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


def _cut(source: str | Path | Run | runs.Record, sample: int) -> _Sample:
    if isinstance(source, str | Path):
        record = runs.read(source, sample)
    elif isinstance(source, runs.Record):
        record = source
    else:
        record = runs.describe(source)
    held = len(record.trace["stop_time"])
    if not record.first <= sample < record.first + held:
        raise ValueError(f"there is no sample {sample}; there are {record.first} to {record.first + held - 1}")
    i = sample - record.first
    events = record.events
    labels = record.trace.get("labels")
    count = record.trace["outputs"].shape[-1]
    return _Sample(
        record=record,
        index=sample,
        ticks=record.run["ticks"],
        stop=int(record.trace["stop_time"][i]),
        prediction=int(record.trace["predictions"][i]),
        label=None if labels is None else int(labels[i]),
        classes=tuple(record.network["labels"] or map(str, range(count))),
        events=None if events is None else events[events["sample"] == sample],
    )


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


def _draw_layer(axes: Axes, one: _Sample, layer: Mapping[str, Any], y: float, band: float, rows: int) -> None:
    shape = "\N{MULTIPLICATION SIGN}".join(map(str, layer["shape"]))
    if _is_image(one, layer):
        axes.fill_between([0, one.stop], y, y + band, color=SHADE, linewidth=0)
        axes.text(one.stop / 2, y + band / 2, _fitting(one, "the image, added in every tick"), **_small(QUIET))
        _label(axes, y + band / 2, layer["name"], f"image, {shape}")
        return
    events = _events_of(one, layer)
    kept = np.arange(layer["neurons"])
    if layer["neurons"] > rows:  # evenly spaced, so that every channel and row of the grid has its share
        kept = (np.arange(rows) * layer["neurons"]) // rows
    row_of = np.full(layer["neurons"], -1)
    row_of[kept] = np.arange(len(kept))
    drawn = row_of[events["neuron"]]
    totals = np.bincount(events["time"], minlength=one.stop)
    if totals.any():
        tops = y + band - totals / totals.max() * band
        axes.stairs(tops, np.arange(one.stop + 1), baseline=y + band, fill=True, color=SHADE, linewidth=0, zorder=1)
    row = band / len(kept)
    colour = SPIKE if layer["spiking"] else FORWARDED
    _cells(axes, events["time"][drawn >= 0], y + drawn[drawn >= 0] * row, row, colour)
    axes.plot([0, one.ticks], [y + band, y + band], color="#c8c8c8", linewidth=0.5, zorder=1)
    what = "spike" if layer["spiking"] else "event"
    size = f"{shape} = {layer['neurons']:,}" if len(layer["shape"]) > 1 else f"{layer['neurons']:,}"
    lines = [
        f"{size} neurons",
        f"{_count(len(events), what)}, at most {totals.max():,} in a tick" if len(events) else f"no {what}s",
    ]
    if len(kept) < layer["neurons"]:
        lines.append(f"{len(kept)} neurons drawn, evenly chosen")
    _label(axes, y + band / 2 - 0.06 * (len(lines) - 1), layer["name"], *lines)


def _draw_output(axes: Axes, one: _Sample, layer: Mapping[str, Any], shown: list[int], y: float, band: float) -> None:
    """A row for each class with its name, its spikes numbered, and its count at the stop."""
    events = _events_of(one, layer)
    row = band / len(shown)
    numbered = (WIDTH - LEFT - RIGHT) / one.ticks > 0.16
    for i, unit in enumerate(shown):
        top = y + i * row
        mine = events[events["neuron"] == unit]
        colour = DECIDED if unit == one.prediction else SPIKE
        _cells(axes, mine["time"], np.full(len(mine), top + 0.1 * row), 0.8 * row, colour)
        counts = one.outputs[mine["time"], unit] if len(mine) else []
        if numbered:
            for time, count in zip(mine["time"].tolist(), counts, strict=True):
                axes.text(time + 0.5, top + row / 2, f"{count:g}", **_small("white"))
        weight = "bold" if unit == one.prediction else "normal"
        name = _class_name(one, unit)
        axes.text(-0.008, top + row / 2, name, transform=_beside(axes), **_small(colour, ha="right", weight=weight))
        note = _count(int(one.outputs[-1, unit]), "spike") + _marks(one, unit)
        axes.text(1.008, top + row / 2, note, transform=_beside(axes), **_small(colour, ha="left", weight=weight))
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
    edges = np.arange(one.stop + 1)
    ranked = sorted(shown, key=lambda unit: (unit != one.prediction, -outputs[-1, unit], unit))
    low, high = float(min(outputs[:, shown].min(), 0)), float(outputs[:, shown].max())
    high = max(high, low + 1.0) if counts or high == low else high
    room = 0.08 * (high - low)
    axes.set_ylim(low - room, high + room)
    _draw_stop(axes, one, low - room, high + room, words=False)
    for place, unit in reversed(list(enumerate(ranked))):
        colour = DECIDED if place == 0 else OTHERS[place - 1] if place <= len(OTHERS) else "#b9b9b9"
        axes.stairs(
            outputs[:, unit], edges, baseline=None, color=colour, linewidth=2.2 if place == 0 else 1.2, zorder=4
        )
    named = ranked[: 1 + len(OTHERS)]
    if one.label is not None and one.label not in named:
        named[-1] = one.label
    room_left = (1 - one.stop / one.ticks) * (WIDTH - LEFT - RIGHT)  # names stand at their curves, or in the margin
    at = one.stop / one.ticks + 0.012 if room_left > 2.2 else 1.008
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}
    levels = _apart([outputs[-1, unit] for unit in named], (high - low + 2 * room) * 0.095, low)
    for place, (unit, level) in enumerate(zip(named, levels, strict=True)):
        colour = (
            DECIDED if place == 0 else OTHERS[ranked.index(unit) - 1] if ranked.index(unit) <= len(OTHERS) else QUIET
        )
        value = f"{outputs[-1, unit]:g}" if counts else f"{outputs[-1, unit]:.3g}"
        text = f"{_class_name(one, unit)}: {value}{_marks(one, unit)}"
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
    axes.stairs(membrane, np.arange(len(membrane) + 1), baseline=None, color=SPIKE, linewidth=1.5, zorder=3)
    axes.axhline(0, color="#d8d8d8", linewidth=0.6, zorder=1)
    levels = [0.0, *membrane.tolist(), *([] if threshold is None else [threshold])]
    low, high = min(levels), max(levels)
    room = 0.12 * (high - low or 1.0)
    axes.set_ylim(low - room, high + 2.2 * room)
    if threshold is not None:
        axes.axhline(threshold, color=FORWARDED, linewidth=1, linestyle=(0, (4, 2)), zorder=2)
    axes.plot(mine["time"] + 0.5, np.full(len(mine), high + room), "v", color=DECIDED, markersize=4, zorder=4)
    _draw_stop(axes, one, low - room, high + 2.2 * room, words=first, notice=False)
    where = np.unravel_index(neuron, layer["shape"])
    place = ", ".join(f"{axis} {int(i)}" for axis, i in zip(("channel", "row", "column"), where, strict=False))
    if len(layer["shape"]) == 1 and layer["name"] == one.record.network["output"]:
        place = f"class {_class_name(one, neuron)}{_marks(one, neuron)}"
    lines = [place] if place != f"channel {neuron}" else []
    if layer["spiking"]:
        units = int(mine["value"].sum())
        lines.append(_count(len(mine), "spike") + (f" ({units} with multiplicity)" if units != len(mine) else ""))
    _label(axes, (low + high) / 2, f"neuron {neuron}", *lines)
    _value_axis(axes)


def _draw_stop(axes: Axes, one: _Sample, low: float, high: float, *, words: bool = True, notice: bool = True) -> None:
    """The stop line, and what would have followed, greyed and named as not run."""
    axes.set_xlim(0, one.ticks)
    left = one.ticks - one.stop
    if left:
        axes.fill_between(
            [one.stop, one.ticks], low, high, facecolor=GREY, edgecolor="#e2e2e2", hatch="///", linewidth=0, zorder=5
        )
    axes.axvline(one.stop, color=STOP, linewidth=2, zorder=6, clip_on=False)
    if not words:
        return
    at = one.stop / one.ticks
    text = f"stop after {_count(one.stop, 'tick')}" if left else f"horizon, {_count(one.ticks, 'tick')}"
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
        missed = f"not run\n{_count(left, 'tick')}"
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2}
        turn = 90 if left / one.ticks < 0.1 else 0
        axes.text(
            (one.stop + one.ticks) / 2,
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
    when = f"after {one.stop} of {_count(one.ticks, 'tick')}"
    title = f"Sample {one.index}: “{_class_name(one, one.prediction)}” {when}{verdict}"
    why = f"Cutoff {run['cutoff']}: {reason.sentence}"
    final = one.outputs[-1]
    if len(final) > 1:
        second = max((unit for unit in range(len(final)) if unit != one.prediction), key=lambda unit: final[unit])
        names = f"“{_class_name(one, one.prediction)}”", f"“{_class_name(one, second)}”"
        if final[one.prediction] == final[second]:
            why += f" {names[0]} and {names[1]} are level at {final[second]:.3g}; such ties go to the "
            why += f"{run['conventions']['tie_order']}."
        else:
            why += f" {names[0]} leads {names[1]} by {final[one.prediction]:.3g} to {final[second]:.3g}."
    if one.stop < one.ticks:
        why += " Nothing behind the red line was computed."
    source = [Path(part["file"]).name for part in (run["network"], run["input"]) if part["file"]]
    note = "; ".join([*([" on ".join(source)] if source else []), note])
    for line, (text, size, weight, colour) in enumerate(
        [(title, 12, "bold", "black"), (why, 9, "normal", STOP), (note, 8, "normal", QUIET)]
    ):
        figure.text(
            MARGIN / WIDTH, 1 - (0.28 + 0.24 * line) / height, text, size=size, weight=weight, color=colour, va="center"
        )


def _raster_note(one: _Sample, layers: Iterable[Mapping[str, Any]], shown: list[int]) -> str:
    drawn = {layer["name"] for layer in layers}
    missing = [
        p["name"] for p in one.record.network["populations"] if p["name"] not in drawn and p["kind"] != "integrator"
    ]
    notes = ["a bar is a spike; the shading counts the spikes of the whole layer in each tick"]
    if any(p["kind"] in ("relay", "gate") for p in one.record.network["populations"] if p["name"] in drawn):
        notes.append("brown: forwarded events")
    if missing:
        notes.append(f"not recorded: {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}")
    return "; ".join(notes)


def _cells(axes: Axes, time: np.ndarray, top: np.ndarray, height: float, colour: str) -> None:
    """A bar for each event, most of its tick wide; an edge keeps it visible where a tick is less than a pixel."""
    from matplotlib.collections import PolyCollection

    left, right = time + 0.06, time + 0.94
    bottom = top + height * 0.85
    edge = 0.25 if np.ptp(axes.get_xlim()) <= 100 else 0.7
    corners: Any = np.stack([left, top, right, top, right, bottom, left, bottom], 1).reshape(-1, 4, 2)
    axes.add_collection(
        PolyCollection(corners, facecolor=colour, edgecolor=colour, linewidth=edge, rasterized=True, zorder=3)
    )


def _tick_axis(axes: Axes, one: _Sample) -> None:
    step = next(s for s in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 10**9) if one.ticks / s <= 17)
    ticks = np.arange(0, one.ticks, step)
    axes.set_xticks(ticks + 0.5, [str(t) for t in ticks], fontsize=8)
    seconds = one.record.network["tick_seconds"]
    length = "" if seconds is None else f", {seconds * 1e3:g} ms each"
    axes.set_xlabel(f"time in ticks{length}", fontsize=9)


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
    inches = one.stop / one.ticks * (WIDTH - LEFT - RIGHT)
    return text if inches > 0.065 * len(text) else ""


def _class_name(one: _Sample, unit: int) -> str:
    return _short(one.classes[unit], 16)


def _marks(one: _Sample, unit: int) -> str:
    decided, true = unit == one.prediction, unit == one.label
    return " (decided, true)" if decided and true else " (decided)" if decided else " (true)" if true else ""


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
