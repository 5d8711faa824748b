"""What a run says: the JSON object scripts depend on, the tables people read, and the rows of the CSV files.

Counts are whole numbers, summed over samples. `synops` is always `ac` + `mac`, the taps of weights; identity and pool
taps stand apart (`docs/semantics.md`, Counting).
"""

from __future__ import annotations

import csv
import io
import math
import operator
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from eventsnn.ledger import KINDS as BOOKED
from eventsnn.ledger import OPERATIONS, wilson
from eventsnn.network import Connection, Conv, Network, Population
from eventsnn.neurons import IF
from eventsnn.watchdog import StopReason, predictions_by_tick

if TYPE_CHECKING:
    from rich.table import Table

    from eventsnn.simulation import Run
    from eventsnn.study import Curve, Search

SCHEMA = 1
KINDS = (*BOOKED, "in_flight")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a run does not know about itself. Files are named as the user gave them; hashes are sha256, in hex.

    network_path: where the network file lies on this machine, for `eventsnn audit`; it goes to `timing.json`. assume:
    the profile a foreign network file was read with; spike_input: what it was told a spike is. view: what of event
    recordings was run (`recordings.View`).
    """

    command: str = "simulate"
    network_name: str = "network"
    network_file: str | None = None
    network_path: str | None = None
    network_sha256: str | None = None
    assume: str | None = None
    spike_input: str | None = None
    input_file: str | None = None
    input_sha256: str | None = None
    view: Mapping[str, Any] | None = None


# ------------------------------------------------------------------------------------------------ the JSON object


@dataclass(frozen=True, eq=False)
class Tally:
    """What a run, or a part of its samples, adds to the account of all.

    sums: counts by name, nested, that are added; correct_by_tick are samples that ran all ticks, short those that did
    not. peaks: "queue", and "by_tick" for each quantity of `statistics`, of
    which the largest counts. columns: (samples,) int64 totals of each quantity. stops: stop times of the samples.
    """

    sums: Mapping[str, Any]
    peaks: Mapping[str, Any]
    columns: Iterable[np.ndarray]
    stops: Iterable[float]


def tally(run: Run) -> Tally:
    """What a run adds to an account; that of all samples is `together` of their parts'.

    Raises ValueError when the run counted spikes only (`count="spikes"`): an account with zeros for what was not
    counted would be wrong.
    """
    ledger, network = run.ledger, run.network
    if ledger.counted == "spikes":
        raise ValueError("the run counted spikes only; an account needs count='connections'")
    spiking = [p.name for p in network.populations if isinstance(p.neuron, IF)]
    connections = {c.label: _connection(run, c.label) for c in network.connections}
    layers = {p.name: _layer(run, p, connections) for p in network.populations}
    quantities = [by_tick for *_, by_tick in _quantities(run)]
    sums: dict[str, Any] = {
        "samples": len(run.predictions),
        "ticks_run": int(run.ticks_run.sum()),
        "short": int(np.sum(run.ticks_run < run.ticks)),
        "stop_reasons": {stop_reason_name(r): int(np.sum(run.stop_reason == r)) for r in StopReason},
        "ties": int(np.sum(run.tied)),
        "spikes": int(ledger.spikes().sum()),
        "spike_units": sum(layers[name]["spike_units"] for name in spiking),
        "input_events": int(ledger.input_events.sum()),
        "synops": {
            **{kind: int(ledger.synops(kind=kind).sum()) for kind in KINDS},
            "ac": int(ledger.by_class("ac").sum()),
            "mac": int(ledger.by_class("mac").sum()),
        },
        "identity": {kind: int(ledger.by_class("identity", kind).sum()) for kind in KINDS},
        "pool": {kind: int(ledger.by_class("pool", kind).sum()) for kind in KINDS},
        "macs_input": int(ledger.macs_input.sum()),
        "macs_input_effective": int(ledger.macs_input_effective.sum()),
        "macs_input_per_tick": int(ledger.macs_input_per_tick.sum()),
        "macs_input_effective_per_tick": int((ledger.macs_input_effective * run.ticks_run).sum()),
        "operations": {operation: int(ledger.operations(operation).sum()) for operation in OPERATIONS},
        "queue": {"pushed": int(run.queue_pushed.sum()), "popped": int(run.queue_popped.sum())},
        "layers": layers,
        "connections": connections,
    }
    if run.labels is not None:
        sums["correct"] = int(np.sum(run.predictions == run.labels))
        full = run.ticks_run >= run.ticks
        leading = predictions_by_tick(run.trace.outputs[full], run.trace.margins[full])
        sums["correct_by_tick"] = np.sum(leading == run.labels[full, None], axis=0).tolist()
    if run.events is not None:
        numbers = np.bincount(run.events["population"], minlength=len(network.populations))
        sums["recorded"] = {p.name: int(number) for p, number in zip(network.populations, numbers, strict=True)}
    if run.calibration is not None:
        sums["overlap"] = run.calibration["overlap"]
    return Tally(
        sums=sums,
        peaks={
            "queue": int(run.queue_peak.max(initial=0)),
            "by_tick": [int(by_tick.max(initial=0)) for by_tick in quantities],
        },
        columns=np.stack([by_tick.sum(1) for by_tick in quantities]),
        stops=run.stop_time,
    )


def together(one: Any, other: Any, add: Callable[[int, int], int] = operator.add) -> Any:
    """The sums of two tallies as one, number by number; with `add=max` their peaks."""
    if isinstance(one, Mapping):
        return {name: together(one[name], other[name], add) for name in one}
    if isinstance(one, list):
        return [together(a, b, add) for a, b in zip(one, other, strict=True)]
    return add(one, other)


def summary(
    run: Run, facts: Facts, counted: Tally | None = None, rows: Sequence[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The content of `run.json`: everything about a run that does not depend on the machine or the clock.

    layers: one for each population, `synops` the SynOps delivered to it, `spikes` 0 where events are no spikes (input,
    relay, gate; their number is `events`). connections: `synops` delivered, 0 for a connection without weights; its
    taps by kind, and the pool taps beside its weights, stand next to it. accuracy_by_tick: null unless every sample
    ran to the horizon. ties: samples whose largest outputs were equal. operations: what neurons did. queue: what the
    simulator's own queue did, which is no cost of the model. statistics: see `statistics`.

    counted, rows: the tally and the statistics of all samples, where `run` holds only some of them, or none: then it
    says what was run, and they say what came out. Raises ValueError as `tally` does.
    """
    counted = counted or tally(run)
    rows = rows if rows is not None else statistics(run, counted)
    sums, peaks, network = counted.sums, counted.peaks, run.network
    samples, correct = sums["samples"], sums.get("correct")
    reasons = sums["stop_reasons"]
    comparators = {p.neuron.comparator for p in network.populations if isinstance(p.neuron, IF)}
    return {
        "schema": SCHEMA,
        "command": facts.command,
        "network": {
            "file": facts.network_file,
            "sha256": facts.network_sha256,
            **({} if facts.assume is None else {"assume": facts.assume}),
            **({} if facts.spike_input is None else {"spike_input": facts.spike_input}),
        },
        "input": {
            "file": facts.input_file,
            "sha256": facts.input_sha256,
            "samples": samples,
            **({} if facts.view is None else {"view": dict(facts.view)}),
        },
        "mode": run.mode,
        "ticks": int(run.ticks),
        **_interval(run),
        "cutoff": str(run.policy),
        **({} if run.calibration is None else {"calibration": {**run.calibration, "overlap": sums["overlap"]}}),
        "dtype": run.dtype,
        "seed": run.seed,
        "layer_delay": run.layer_delay,
        "conventions": {
            "comparator": comparators.pop() if len(comparators) == 1 else "mixed" if comparators else None,
            "tie_order": "lowest index"
            if network.readout != "spikes"
            else "larger membrane minus threshold, then lowest index",
            "stop_instant": "after the output population's turn of the deciding "
            + ("tick" if run.interval is None else "instant"),
        },
        "accuracy": None if correct is None else correct / samples,
        "accuracy_interval": None if correct is None else list(wilson(correct, samples)),
        "accuracy_by_tick": None
        if correct is None or sums["short"]
        else [right / samples for right in sums["correct_by_tick"]],
        "mean_stop": (sums["ticks_run"] if run.interval is None else math.fsum(counted.stops)) / samples,
        "stop_unit": "ticks" if run.interval is None else "s",
        "ticks_run": sums["ticks_run"],
        "stop_reasons": {name: count for name, count in reasons.items() if count},
        **{
            name: sums[name] for name in ("ties", "spikes", "spike_units", "input_events", "synops", "identity", "pool")
        },
        "macs_input": sums["macs_input"],
        "macs_input_effective": sums["macs_input_effective"],
        "macs_input_per_tick": sums["macs_input_per_tick"],
        "macs_input_effective_per_tick": sums["macs_input_effective_per_tick"],
        "operations": sums["operations"],
        "queue": {**sums["queue"], "peak": peaks["queue"]},
        "queue_peak": peaks["queue"],
        "statistics": [row for row in rows if row["scope"] == "network"],
        "layers": [
            {
                "name": p.name,
                "kind": type(p.neuron).__name__.lower(),
                "spiking": isinstance(p.neuron, IF),
                "shape": list(p.shape),
                "neurons": p.size,
                **sums["layers"][p.name],
            }
            for p in network.populations
        ],
        "connections": [
            {
                "name": c.label,
                "source": c.source,
                "target": c.target,
                "class": run.ledger.tap_class[c.label],
                **sums["connections"][c.label],
            }
            for c in network.connections
        ],
        "energy": [],
    }


def _interval(run: Run) -> dict[str, Any]:
    """What run.json says of a run in continuous time alone."""
    if run.interval is None:
        return {}
    names = ("start", "duration", "pulse", "bias_period")
    found = {name: getattr(run.interval, name) for name in names}
    return {"tick_seconds": run.network.tick_seconds, **found, "arrivals": run.interval.ties}


def timing(run: Run, delivered: int | None = None, seconds: float | None = None) -> dict[str, Any]:
    """The content of `timing.json`: what may differ between two runs of the same thing.

    delivered, seconds: the SynOps and the time of all samples, where `run` holds only some of them.
    """
    delivered = int(run.ledger.synops().sum()) if delivered is None else delivered
    seconds = float(run.seconds) if seconds is None else seconds
    return {
        "seconds": seconds,
        "synops_per_second": delivered / seconds if seconds > 0 else None,
        "versions": versions(),
        "host": {"platform": platform.platform(), "cpus": os.cpu_count()},
    }


def versions() -> dict[str, str]:
    """Versions of what computed the numbers."""
    found = {"python": platform.python_version()}
    for name in ("eventsnn", "numpy", "numba", "h5py"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"  # run from a source folder
    return found


def stop_reason_name(reason: int) -> str:
    """A stop reason as the files spell it: "horizon", "spike-gap"."""
    return StopReason(reason).name.lower().replace("_", "-")


def _connection(run: Run, label: str) -> dict[str, int]:
    taps = {kind: int(run.ledger.synops(label, kind).sum()) for kind in KINDS}
    return {
        "synops": taps["delivered"] if run.ledger.tap_class[label] in ("ac", "mac") else 0,
        **taps,
        "pool_structural": int(run.ledger.pool_taps(label, "structural").sum()),
        "pool_taps": int(run.ledger.pool_taps(label, "delivered").sum()),
        "pool_in_flight": int(run.ledger.pool_taps(label, "in_flight").sum()),
    }


def _layer(run: Run, population: Population, connections: Mapping[str, dict[str, int]]) -> dict[str, int]:
    ledger, name = run.ledger, population.name
    arriving = [(ledger.tap_class[c.label], connections[c.label]) for c in run.network.connections if c.target == name]
    events = int(ledger.spikes(name).sum())
    is_spiking = isinstance(population.neuron, IF)
    return {
        "spikes": events if is_spiking else 0,
        "spike_units": int(ledger.spike_units(name).sum()) if is_spiking else 0,
        "events": events,
        "synops": sum(c["synops"] for _, c in arriving),
        "mac": sum(c["synops"] for kind, c in arriving if kind == "mac"),
        "identity": sum(c["delivered"] for kind, c in arriving if kind == "identity"),
        "pool": sum(c["pool_taps"] + (c["delivered"] if kind == "pool" else 0) for kind, c in arriving),
        **{operation: int(ledger.operations(operation, name).sum()) for operation in OPERATIONS},
    }


def statistics(run: Run, counted: Tally | None = None) -> list[dict[str, Any]]:
    """How counts spread over the samples, a row a quantity: the whole network, every layer, every connection.

    scope: "network", "layer" (spikes emitted, SynOps arriving) or "connection" (delivered taps of its class). total,
    median, p5, p95, max: whole numbers, each percentile the smallest count that this share of samples does not exceed.
    mean: over samples. peak_per_tick: the most in any tick of any sample, which a chip's bandwidth must carry.
    counted: as in `summary`.
    """
    counted = counted or tally(run)
    rows = []
    for (scope, name, quantity, _), peak, counts in zip(
        _quantities(run), counted.peaks["by_tick"], counted.columns, strict=True
    ):
        row: dict[str, Any] = {"scope": scope, "name": name, "quantity": quantity, "total": int(counts.sum())}
        row["mean"] = int(counts.sum()) / len(counts) if len(counts) else None
        for key, q in (("p5", 5), ("median", 50), ("p95", 95), ("max", 100)):
            row[key] = int(np.percentile(counts, q, method="inverted_cdf")) if len(counts) else None
        rows.append({**row, "peak_per_tick": peak})
    return rows


def _quantities(run: Run) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """Scope, name, quantity and (samples, ticks) int64 counts of every row of `statistics`."""
    ledger, network = run.ledger, run.network
    nothing = np.zeros((len(run.predictions), run.ticks), np.int64)
    delivered = {c.label: ledger.synops_by_tick(c.label, "delivered") for c in network.connections}
    weighted = {c.label: ledger.tap_class[c.label] in ("ac", "mac") for c in network.connections}
    spikes = {p.name: ledger.spikes_by_tick(p.name) for p in network.populations}
    fired = (spikes[p.name] for p in network.populations if isinstance(p.neuron, IF))
    yield "network", "", "synops", sum((taps for label, taps in delivered.items() if weighted[label]), nothing)
    yield "network", "", "spikes", sum(fired, nothing)
    yield "network", "", "input_events", spikes[network.input.name]
    yield "network", "", "ticks", (np.arange(run.ticks) < run.ticks_run[:, None]).astype(np.int64)
    for p in network.populations:
        yield "layer", p.name, "spikes" if isinstance(p.neuron, IF) else "events", spikes[p.name]
        arriving = [c.label for c in network.connections if c.target == p.name and weighted[c.label]]
        yield "layer", p.name, "synops", sum((delivered[label] for label in arriving), nothing)
    for label, taps in delivered.items():
        yield "connection", label, ledger.tap_class[label], taps


def statistics_csv(run: Run) -> str:
    """The text of statistics.csv: the rows of `statistics`."""
    return rows_csv(statistics(run))


def rows_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The text of a CSV file with a line for each row; all have the same columns, and there is one at least."""
    return _csv(rows[0], (row.values() for row in rows))


# ------------------------------------------------------------------------------------------------- for the terminal


def layer_table(found: Mapping[str, Any]) -> Table:
    """A table of a summary's layers: neurons, spikes, their mean rate, the SynOps that arrive and their share.

    The rate is spikes per neuron and tick that was run. Numbers in brackets are events of populations that forward
    (input, relay, gate); they are not spikes.
    """
    from rich.table import Table
    from rich.text import Text

    total = found["synops"]["delivered"]
    table = Table(box=None, header_style="bold", pad_edge=False, show_footer=True, footer_style="bold")
    neurons = sum(layer["neurons"] for layer in found["layers"] if layer["spiking"])
    footers = {
        "layer": "all",
        "neurons": f"{neurons:,}",
        "spikes": f"{found['spikes']:,}",
        "SynOps arriving": f"{total:,}",
    }
    for title in ("layer", "neurons", "spikes", "rate", "SynOps arriving", "share"):
        side: Any = "left" if title == "layer" else "right"
        table.add_column(title, footers.get(title, ""), justify=side, no_wrap=True)
    for layer in found["layers"]:
        rate = layer["spikes"] / (layer["neurons"] * found["ticks_run"])
        forwarded = f"({layer['events']:,})" if layer["events"] else ""
        table.add_row(
            Text(layer["name"]),  # a name may hold square brackets, which rich reads as style
            f"{layer['neurons']:,}",
            f"{layer['spikes']:,}" if layer["spiking"] else forwarded,
            f"{rate:.4f}" if layer["spiking"] else "",
            f"{layer['synops']:,}" if layer["synops"] else "",
            f"{layer['synops'] / total:.1%}" if layer["synops"] else "",
        )
    notes = ["rate: spikes per neuron and tick"]
    if any(layer["events"] and not layer["spiking"] for layer in found["layers"]):
        notes.append("in brackets: forwarded events, which are no spikes")
    table.caption, table.caption_justify = "; ".join(notes), "left"
    return table


def closing_lines(found: Mapping[str, Any], seconds: float | None = None) -> list[str]:
    """The last lines of a report, from a summary: accuracy, when the samples stopped, what was counted.

    Nothing is said about what a cutoff saved: that is known only beside a full run.
    """
    samples = found["input"]["samples"]
    lines = []
    if found["accuracy"] is not None:
        low, high = found["accuracy_interval"]
        right = round(found["accuracy"] * samples)
        lines.append(
            f"accuracy {found['accuracy']:.2%} ({right:,} of {samples:,}; 95 % interval {low:.2%} to {high:.2%})"
        )
    if found["accuracy_by_tick"] is not None and found["ticks"] > 1:
        shown = [2**i for i in range(found["ticks"].bit_length()) if 2**i <= found["ticks"]]
        by_tick = ", ".join(f"{found['accuracy_by_tick'][t - 1]:.1%} at {t}" for t in shown)
        what = "ticks" if found["stop_unit"] == "ticks" else f"ticks of {span(found['tick_seconds'])}"
        lines.append(f"accuracy by {what}: {by_tick}")
    reasons = ", ".join(f"{name}: {count:,}" for name, count in found["stop_reasons"].items())
    if found["stop_unit"] == "s":
        end = found["start"] + found["duration"]
        lines.append(f"stopped at {span(found['mean_stop'])} of {span(end)} on average ({reasons})")
    else:
        lines.append(f"stopped after {found['mean_stop']:.2f} of {found['ticks']} ticks on average ({reasons})")
    lines.append(f"tied predictions: {found['ties']:,} of {samples:,} ({found['ties'] / samples:.2%})")
    if "calibration" in found:
        lines.append(calibration_line(found["calibration"], samples))
    synops = found["synops"]
    per_sample = f"{synops['delivered'] / samples:,.0f}"
    counted = f"SynOps {synops['delivered']:,} delivered, {per_sample} per sample"
    apart = [(synops["mac"], "of them with graded events"), (synops["dropped"], "dropped")]
    apart += [(synops["in_flight"], "in flight at the stop")]
    lines.append("; ".join([counted, *(f"{count:,} {what}" for count, what in apart if count)]))
    beside = [
        (found["macs_input"], "multiply-accumulates of input images"),
        (found["input_events"], "input events"),
        (found["identity"]["delivered"], "identity taps"),
        (found["pool"]["delivered"], "pool taps"),
    ]
    if any(count for count, _ in beside):
        lines.append("beside them: " + ", ".join(f"{count:,} {what}" for count, what in beside if count))
    if seconds:
        rate = synops["delivered"] / seconds
        lines.append(f"{seconds:.2f} s, {samples / seconds:,.1f} samples/s, {rate:.3g} SynOps/s")
    return lines


def calibration_line(calibration: Mapping[str, Any], samples: int) -> str:
    """What to think of a calibrated cutoff on these samples."""
    known = f"the cutoff was calibrated on {calibration['samples']:,} samples ({calibration['file']})"
    if not calibration["overlap"]:
        return f"{known}, none of them among these"
    return (
        f"WARNING: {known}, and {calibration['overlap']:,} of these {samples:,} are among them: "
        "accuracy and stops are flattered"
    )


# -------------------------------------------------------------------------------------- energy and other people's rules


def stop_words(found: Mapping[str, Any]) -> str:
    """When the samples of a summary stopped on average: "3.21 ticks", "12.3 ms"."""
    return f"{found['mean_stop']:.2f} ticks" if found["stop_unit"] == "ticks" else span(found["mean_stop"])


def span(seconds: float, digits: int = 4) -> str:
    """A length of time in the unit that leaves digits before the point: 12.3 ms."""
    units = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
    unit, size = next((u for u in units if abs(seconds) >= u[1] * (1 - 1e-9)), units[-1] if seconds else units[0])
    return f"{seconds / size:.{digits}g} {unit}"


def quantity(number: float) -> str:
    """A mean count for people: whole from 100 on, else three digits."""
    return f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.3g}"


def joules(picojoule: float) -> str:
    """An energy in the unit that leaves one to three digits before the point."""
    for unit, size in (("J", 1e12), ("mJ", 1e9), ("µJ", 1e6), ("nJ", 1e3)):
        if picojoule >= size:
            return f"{picojoule / size:.4g} {unit}"
    return f"{picojoule:.4g} pJ"


def operation_words(operation: str) -> str:
    """An operation that a table can price, in words, as in "not priced: biases"."""
    words = {
        "ac": "SynOps",
        "mac": "SynOps of graded events",
        "mac_input": "input MACs",
        "identity": "identity taps",
        "pool": "pool taps",
        "bias": "biases",
    }
    return words.get(operation, operation.removesuffix("_clocked").replace("_", " ") + "s")


def energy_table(accounts: Sequence[Mapping[str, Any]], samples: int) -> Table:
    """A table of energy accounts, one a row: a sample's energy, the static part of it, what the table knows and not."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("table", "per sample", "static", "dense ANN", "scope", "basis", "not priced"):
        right: Any = "right" if title in ("per sample", "static", "dense ANN") else "left"
        table.add_column(title, justify=right, no_wrap=title != "not priced")
    for a in accounts:
        unknown = a["static_watt"] is not None and a["static"] is None
        left = [_SHORT.get(key, key) for key in a["unpriced"]] + ["static (give --tick)"] * unknown
        nothing = not a["operations"] and a["static"] is None
        table.add_row(
            Text(a["table"]),
            "" if nothing else joules(a["picojoule"] / samples),
            "" if a["static"] is None else joules(a["static"] / samples),
            "" if a["ann"] is None else joules(a["ann"] / samples),
            "+".join(_SHORT.get(scope, scope) for scope in a["scope"]),
            a["basis"],
            ", ".join(left),
        )
    return table


_SHORT = {
    "ac": "SynOps",
    "mac": "graded SynOps",
    "mac_input": "input MACs",
    "neuron_update": "update",
    "neuron_update_clocked": "update",
    "threshold_test": "test",
    "decay_clocked": "decay",
    "arithmetic": "arith",
    "memory": "mem",
    "communication": "comm",
}


def energy_layer_table(accounts: Sequence[Mapping[str, Any]], samples: int) -> Table:
    """Energy accounts layer by layer: a sample's energy of operations, and the layer's share, a column a table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, title="Operations by layer", title_justify="left")
    table.add_column("layer", no_wrap=True)
    for a in accounts:
        table.add_column(Text(a["table"]), justify="right", no_wrap=True)
    for rows in zip(*(a["layers"] for a in accounts), strict=True):
        cells = []
        for a, row in zip(accounts, rows, strict=True):
            share = row["picojoule"] / a["dynamic"] if a["dynamic"] else 0.0
            cells.append(f"{joules(row['picojoule'] / samples)} {share:6.1%}" if row["picojoule"] else "")
        table.add_row(Text(rows[0]["name"]), *cells)
    return table


def energy_csv(accounts: Sequence[Mapping[str, Any]]) -> str:
    """Energy accounts as CSV: a row for each table, layer and part, in picojoule over all samples; static too."""
    rows = [
        (a["table"], layer["name"], part, picojoule)
        for a in accounts
        for layer in [*a["layers"], {"name": "", "parts": {} if a["static"] is None else {"static": a["static"]}}]
        for part, picojoule in layer["parts"].items()
    ]
    return _csv(("table", "layer", "part", "picojoule"), rows)


_UNITS = {"ticks": "ticks_run", "synops": "synops", "picojoule": "picojoule"}


def cost_words(cost: str, total: float, samples: int) -> str:
    """A cost of a sweep, per sample: "3.21 ticks", "47,395 SynOps", "53 nJ"."""
    if cost == "picojoule":
        return joules(total / samples)
    return f"{total / samples:.2f} ticks" if cost == "ticks" else f"{quantity(total / samples)} SynOps"


def sweep_table(rows: Sequence[Mapping[str, Any]], axis: str, lose: float = 0.5) -> Table:
    """A table of a sweep: of every family the cheapest cutoff that loses at most `lose` points on these samples.

    rows: of `study.Point.row`. axis: "ticks", "synops" or "picojoule", which is to be small.
    """
    table = _points_table("accuracy")
    key = _UNITS[axis]
    end = max((r for r in rows if r["family"] == "fixed"), key=lambda r: r["threshold"])
    good = [r for r in rows if r["correct"] >= end["correct"] - lose / 100 * r["samples"]]
    firsts = {r["family"]: r for r in sorted(good, key=lambda r: (r[key], -r["correct"]), reverse=True)}
    for row in sorted(firsts.values(), key=lambda r: r[key]):
        _add_point(table, row, end, key)
    table.add_section()
    _add_point(table, {**end, "family": "full run"}, end, key)
    table.caption_justify = "left"
    table.caption = (
        f"the cheapest threshold of each family that loses at most {lose:g} points here; chosen on these very samples, "
        "so they flatter (--calibration with --lose chooses on others); all points: sweep.csv"
    )
    return table


def _points_table(*accuracies: str) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("cutoff", no_wrap=True)
    for title in ("threshold", *accuracies, "95 % interval", "ticks", "SynOps", "energy", "saved"):
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _add_point(table: Table, row: Mapping[str, Any], end: Mapping[str, Any], key: str, *before: float) -> None:
    """A row of a `_points_table`. before: accuracies on other samples, to stand before the row's own."""
    shown = row["threshold"]
    table.add_row(
        row["family"],
        "" if shown is None else f"{shown:.4g}",
        *(f"{accuracy:.2%}" for accuracy in before),
        f"{row['accuracy']:.2%}",
        f"{row['low']:.2%} to {row['high']:.2%}",
        f"{row['mean_stop']:.2f}",
        "" if row["mean_synops"] is None else quantity(row["mean_synops"]),
        "" if row["picojoule"] is None else joules(row["mean_picojoule"]),
        f"{1 - row[key] / end[key]:.1%}" if end[key] else "",
    )


def curves_table(curves: Sequence[Curve], axis: str, lose: float = 0.5) -> Table:
    """A table of several models: the full run of each, and its cheapest cutoff that loses at most `lose` points.

    curves: of `study.curves`. axis: "ticks", "synops" or "picojoule", which is to be small.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    titles = ("source", "cutoff", "full run", "ticks", "threshold", "accuracy", "95 % interval", "ticks", "saved")
    for i, title in enumerate(titles):
        table.add_column(title, justify="left" if i < 2 else "right", no_wrap=i > 0, overflow="fold")
    for curve in curves:
        point, end = curve.earliest(axis, lose) or curve.full, curve.full
        low, high = point.interval
        spent, whole = point.cost(axis), end.cost(axis)
        table.add_row(
            Text(curve.name),
            curve.family,
            f"{end.accuracy:.2%}",
            f"{end.mean_stop:g}",
            "none" if point is end else "" if point.threshold is None else f"{point.threshold:.4g}",
            f"{point.accuracy:.2%}",
            f"{low:.2%} to {high:.2%}",
            f"{point.mean_stop:.2f}",
            f"{1 - spent / whole:.1%}" if whole else "",
        )
    table.caption_justify = "left"
    table.caption = (
        f"the threshold of each that loses at most {lose:g} points here at the least {_AXES[axis]}; chosen on these "
        "very samples, so they flatter; all points: sweep.csv"
    )
    return table


_AXES = {"ticks": "ticks", "synops": "SynOps", "picojoule": "energy"}


def curve_rows(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """The points of several models as rows of sweep.csv, the full run of each behind its own."""
    return [
        {"source": curve.name, **point.row()}
        for curve in curves
        for point in (*curve.points, *([] if curve.family == "fixed" else [curve.full]))
    ]


def curves_json(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """The points of several models as JSON values, by source."""
    return [
        {
            "source": curve.name,
            "readout": curve.readout,
            "family": curve.family,
            "full": curve.full.row(),
            "points": [p.row() for p in curve.points],
        }
        for curve in curves
    ]


def sweep_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The text of sweep.csv: a row for each policy of a sweep (`study.Point.row`), empty where there is no number."""
    return _csv(rows[0] if rows else [], (("" if v is None else v for v in row.values()) for row in rows))


def search_json(search: Search) -> dict[str, Any]:
    """A search as JSON values: the wanted accuracy, the best cutoff, the best of every family, on both sample sets."""

    def pair(chosen: Any) -> dict[str, Any]:
        return {"calibration": chosen.calibration.row(), "held_out": chosen.held_out.row()}

    return {
        "wanted": search.wanted,
        "cost": search.cost,
        "best": pair(search.best),
        "families": [pair(c) for c in search.families],
        "full": pair(search.full),
    }


def search_lines(search: Search) -> list[Any]:
    """A search for the terminal: what was chosen on the calibration samples, and what it gives on the held-out ones."""
    cost = search.cost.partition(":")[0]
    key = _UNITS[cost]
    table, whole_run = _points_table("calibration", "held out"), search.full.held_out.row()
    for chosen in search.families:
        _add_point(table, chosen.held_out.row(), whole_run, key, chosen.calibration.accuracy)
    table.add_section()
    _add_point(table, {**whole_run, "family": "full run"}, whole_run, key, search.full.calibration.accuracy)
    best, end = search.best, search.full.held_out
    point = best.held_out
    text = str(point.policy)
    low, high = point.interval
    spent = cost_words(cost, point.cost(cost), point.samples)
    whole = cost_words(cost, end.cost(cost), end.samples)
    return [
        f"the cheapest that keeps {search.wanted:.2%} on the {best.calibration.samples:,} calibration samples: "
        f"{text if len(text) <= 100 else point.family + ', see --json for its thresholds'}",
        f"held out: accuracy {point.accuracy:.2%} ({low:.2%} to {high:.2%}), full run {end.accuracy:.2%}; "
        f"{spent} a sample against {whole}",
        "",
        table,
    ]


_RULES = {
    "rate_x_flops": "mean rate x dense FLOPs, padding included",
    "kernel_area": "spikes x kernel area x output channels (norse)",
    "area_over_stride2": "the same / stride²",
    "syops": "syops: rate x FLOPs, biases; MACs unless 0/1",
    "neurobench": "NeuroBench: distinct inputs x non-zero weights",
    "sinabs": "sinabs: exact taps x multiplicity",
    "spikingjelly": "spikingjelly: exact taps, 0 unless 0/1",
    "toolbox": "snn_toolbox: no borders; strided array",
}


def convention_tables(found: Mapping[str, Any]) -> list[Any]:
    """What published rules say of a run, beside the exact count: their totals, and their ratios layer by layer.

    found: from `conventions.conventions`.
    """
    from rich.table import Table
    from rich.text import Text

    from eventsnn.conventions import RATIOS, ratio

    samples, totals = found["samples"], found["totals"]

    def cell(column: str) -> str:
        halves = [totals[f"{column}_{kind}"] for kind in ("ac", "mac")] if f"{column}_ac" in totals else []
        if halves:
            named = zip(halves, ("AC", "MAC"), strict=True)
            return "" if None in halves else ", ".join(f"{quantity(h / samples)} {k}" for h, k in named if h) or "0"
        return "" if totals[column] is None else quantity(totals[column] / samples)

    whole = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("rule", "SynOps per sample", "by exact"):
        whole.add_column(title, justify="left" if title == "rule" else "right")
    whole.add_row("exact (structural)", quantity(totals["exact"] / samples), "1")
    for column in RATIOS:
        share = found["ratios"][column]
        whole.add_row(_RULES[column], cell(column), "" if share is None else f"{share:.4g}")
    ann = found["totals"]["ann"] / samples
    whole.add_row("the dense network, MACs (no input layer)", quantity(ann), f"{_by(found['totals'], 'ann'):.4g}")

    titles = {"rate_x_flops": "rate x FLOPs", "kernel_area": "k²", "area_over_stride2": "k²/s²", "toolbox": "toolbox"}
    layers = Table(
        box=None,
        header_style="bold",
        pad_edge=False,
        title="Ratio to the exact count, by connection",
        title_justify="left",
    )
    layers.add_column("connection")
    for title in ("exact per sample", *(titles.get(column, column) for column in RATIOS)):
        layers.add_column(title, justify="right")
    for row in found["rows"]:
        ratios = [ratio([row], column) for column in RATIOS]
        exact = quantity(row["exact"] / samples) + (" MAC" if row["image"] else "")
        layers.add_row(Text(row["name"]), exact, *("" if r is None else f"{r:.3f}" for r in ratios))
    shares = ("activation_sparsity", "connection_sparsity")
    known = [f"{key.replace('_', ' ')} {found[key]:.4f}" for key in shares if found[key] is not None]
    lines = [", ".join([*known, f"footprint {found['footprint_bytes']:,} bytes (float32)"])]
    if found["syops_neurons"]:
        lines.append(f"syops also charges {quantity(found['syops_neurons'] / samples)} AC a sample for its neurons")
    lines.append("an empty cell: the rule does not say, or it needs recorded spikes; docs/counting.md explains each")
    return [whole, "", layers, "", *lines]


def _by(totals: Mapping[str, Any], column: str) -> float:
    return totals[column] / totals["exact"] if totals["exact"] else 0.0


def conventions_csv(found: Mapping[str, Any]) -> str:
    """The rows of `conventions.conventions` as CSV; counts over all samples, empty where a rule does not say."""
    rows = [{key: "" if value is None else value for key, value in row.items()} for row in found["rows"]]
    return _csv(rows[0] if rows else [], (row.values() for row in rows))


# ------------------------------------------------------------------------------------------------------- CSV files


def samples_csv(run: Run, first: int = 0) -> str:
    """The text of samples.csv: a row for each sample, its answer, its stop and its counts.

    first: the index its first sample goes by.
    """
    ledger = run.ledger
    columns: dict[str, Iterable[Any]] = {
        "sample": range(first, first + len(run.predictions)),
        "label": [""] * len(run.predictions) if run.labels is None else run.labels.tolist(),
        "prediction": run.predictions.tolist(),
        "tied": run.tied.astype(int).tolist(),
        "stop_time": run.stop_time.tolist(),
        "stop_reason": [stop_reason_name(r) for r in run.stop_reason],
        "spikes": ledger.spikes().tolist(),
        "spike_units": sum(
            (ledger.spike_units(p.name) for p in run.network.populations if isinstance(p.neuron, IF)),
            np.zeros(len(run.predictions), np.int64),
        ).tolist(),
        "input_events": ledger.input_events.tolist(),
        **{f"synops_{kind}": ledger.synops(kind=kind).tolist() for kind in KINDS},
        "synops_mac": ledger.by_class("mac").tolist(),
        "identity": ledger.by_class("identity").tolist(),
        "pool": ledger.by_class("pool").tolist(),
        "macs_input": ledger.macs_input.tolist(),
        "macs_input_effective": ledger.macs_input_effective.tolist(),
        **{operation: ledger.operations(operation).tolist() for operation in OPERATIONS},
    }
    return _csv(columns, zip(*columns.values(), strict=True))


def layers_csv(found: Mapping[str, Any]) -> str:
    """The text of layers.csv: a row for each population, from a summary."""
    return rows_csv([{**layer, "shape": "x".join(map(str, layer["shape"]))} for layer in found["layers"]])


def connections_csv(found: Mapping[str, Any]) -> str:
    """The text of connections.csv: a row for each connection, from a summary."""
    return rows_csv(found["connections"])


def _csv(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


# -------------------------------------------------------------------------------------------- a network on its own


def inspection(network: Network) -> dict[str, Any]:
    """What `eventsnn inspect` shows of a network, as JSON values.

    fan_out of a connection: fewest, mean and most taps of one event, over the units of its source.
    """
    from eventsnn import lower_nir
    from eventsnn.wiring import fan_out

    depths = network.depths()
    taps, classes = fan_out(network)
    reasons = lower_nir.faithful(network)
    return {
        "input": {"population": network.input.name, "shape": list(network.input.shape), "encoding": network.encoding},
        "mean": network.mean,
        "std": network.std,
        "output": network.output,
        "readout": network.readout,
        "ticks": network.ticks,
        "max_ticks": network.max_ticks,
        "tick_seconds": network.tick_seconds,
        "cutoff": network.cutoff,
        "labels": network.labels,
        "populations": [
            {
                "name": p.name,
                "kind": type(p.neuron).__name__,
                "shape": list(p.shape),
                "neurons": p.size,
                "depth": depths[p.name],
                "neuron": _neuron_words(p.neuron),
            }
            for p in network.populations
        ],
        "connections": [
            {
                "name": c.label,
                "operation": _operation_words(c),
                "class": classes[c.label],
                "delay": int(c.delay),
                "weights": int(np.size(c.op.weight)),
                "zero_weights": int(np.sum(np.asarray(c.op.weight) == 0)),
                "fan_out": [int(taps[c.label].min()), float(taps[c.label].mean()), int(taps[c.label].max())],
            }
            for c in network.connections
        ],
        "origin": dict(network.origin),
        "nir_faithful": not reasons,
        "nir_reasons": reasons,
    }


def inspection_tables(found: Mapping[str, Any]) -> list[Any]:
    """An inspection as tables and lines for the terminal."""
    from rich.table import Table

    populations = Table(title="Populations", title_justify="left")
    for name in ("population", "kind", "shape", "neurons", "depth", "neuron"):
        populations.add_column(name, justify="right" if name in ("neurons", "depth") else "left")
    for p in found["populations"]:
        shape = "\N{MULTIPLICATION SIGN}".join(map(str, p["shape"]))
        populations.add_row(p["name"], p["kind"], shape, f"{p['neurons']:,}", str(p["depth"]), p["neuron"])
    connections = Table(title="Connections", title_justify="left")
    for name in ("connection", "operation", "class", "weights", "zero", "delay", "fan-out min / mean / max"):
        left = name in ("connection", "operation", "class")
        connections.add_column(name, justify="left" if left else "right")
    for c in found["connections"]:
        low, mean, high = c["fan_out"]
        connections.add_row(
            c["name"],
            c["operation"],
            c["class"],
            f"{c['weights']:,}",
            f"{c['zero_weights']:,}",
            str(c["delay"]),
            f"{low:,} / {mean:,.1f} / {high:,}",
        )
    entry = found["input"]
    shape = "\N{MULTIPLICATION SIGN}".join(map(str, entry["shape"]))
    lines = [
        f"Input: {entry['encoding']}, {shape}"
        + (f", normalised by mean {list(found['mean'])}, std {list(found['std'] or [1])}" if found["mean"] else ""),
        f"Readout: {found['readout']} of {found['output']}",
        f"Default ticks: {found['ticks']}; cutoff: {found['cutoff'] or 'fixed'}; tick: {found['tick_seconds']} s",
    ]
    lines += [f"{key}: {value}" for key, value in found["origin"].items() if isinstance(value, str | int | float)]
    if found["nir_faithful"]:
        lines.append("Another NIR reader would run it alike.")
    else:
        lines.append("Another NIR reader would run it differently:")
        lines += [f"  - {reason}" for reason in found["nir_reasons"]]
    return [populations, connections, *lines]


def _neuron_words(neuron: Any) -> str:
    """The fields of a neuron that are not the defaults of its class."""
    said = []
    for item in fields(neuron):
        value = getattr(neuron, item.name)
        if np.ndim(value):
            low, high = float(np.min(value)), float(np.max(value))
            said.append(f"{item.name} {low:.4g} to {high:.4g}")
        elif item.name == "threshold" or value != item.default:
            said.append(f"{item.name} {value:.4g}" if isinstance(value, float) else f"{item.name} {value}")
    return ", ".join(said)


def _operation_words(connection: Connection) -> str:
    """Maps and operation in the order an event meets them."""
    op = connection.op
    words = [type(m).__name__.lower() for m in connection.before]
    if isinstance(op, Conv):
        kernel = "\N{MULTIPLICATION SIGN}".join(map(str, op.weight.shape[2:]))
        words.append(f"conv {kernel}" + "".join(f", stride {s}" for s in {*op.stride} - {1}))
    else:
        words.append(type(op).__name__.lower())
    words += [type(m).__name__.lower() for m in connection.after]
    if connection.scale is not None or connection.shift is not None:
        words.append("per-tick table")
    return ", ".join(words)
