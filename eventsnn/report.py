"""What a run says: the JSON object scripts depend on, the tables people read, and the rows of the CSV files.

Counts are whole numbers, summed over samples. `synops` is always `ac` + `mac`, the taps of weights; identity and pool
taps stand apart (`docs/semantics.md`, Counting).
"""

from __future__ import annotations

import csv
import io
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from eventsnn.ledger import wilson
from eventsnn.network import Connection, Conv, Network
from eventsnn.neurons import IF
from eventsnn.watchdog import StopReason

if TYPE_CHECKING:
    from rich.table import Table

    from eventsnn.simulation import Run

SCHEMA = 1
KINDS = ("structural", "effective", "delivered", "dropped", "in_flight")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a run does not know about itself. Files are named as the user gave them; hashes are sha256, in hex."""

    command: str = "simulate"
    network_name: str = "network"
    network_file: str | None = None
    network_sha256: str | None = None
    input_file: str | None = None
    input_sha256: str | None = None


# ------------------------------------------------------------------------------------------------ the JSON object


def summary(run: Run, facts: Facts) -> dict[str, Any]:
    """The content of `run.json`: everything about a run that does not depend on the machine or the clock.

    layers: one for each population, `synops` the SynOps delivered to it, `spikes` 0 where events are no spikes (input,
    relay, gate; their number is `events`). connections: `synops` delivered, 0 for a connection without weights; its
    taps by kind, and the pool taps beside its weights, stand next to it. accuracy_by_tick: null unless every sample
    ran to the horizon. ties: samples whose largest outputs were equal.
    """
    ledger, network = run.ledger, run.network
    samples, ticks_run = len(run.predictions), int(run.stop_time.sum())
    correct = None if run.labels is None else int(np.sum(run.predictions == run.labels))
    reasons = {stop_reason_name(r): int(np.sum(run.stop_reason == r)) for r in StopReason}
    connections = [_connection(run, c) for c in network.connections]
    spiking = [p.neuron for p in network.populations if isinstance(p.neuron, IF)]
    comparators = {neuron.comparator for neuron in spiking}
    return {
        "schema": SCHEMA,
        "command": facts.command,
        "network": {"file": facts.network_file, "sha256": facts.network_sha256},
        "input": {"file": facts.input_file, "sha256": facts.input_sha256, "samples": samples},
        "mode": run.mode,
        "ticks": int(run.ticks),
        "cutoff": str(run.policy),
        "dtype": run.dtype,
        "seed": run.seed,
        "layer_delay": run.layer_delay,
        "conventions": {
            "comparator": comparators.pop() if len(comparators) == 1 else "mixed" if comparators else None,
            "tie_order": "lowest index"
            if network.readout == "sum"
            else "larger membrane minus threshold, then lowest index",
            "stop_instant": "after the output population's turn of the deciding tick",
        },
        "accuracy": None if correct is None else correct / samples,
        "accuracy_interval": None if correct is None else list(wilson(correct, samples)),
        "accuracy_by_tick": _accuracy_by_tick(run),
        "mean_stop": ticks_run / samples,
        "stop_unit": "ticks",
        "ticks_run": ticks_run,
        "stop_reasons": {name: count for name, count in reasons.items() if count},
        "ties": int(np.sum(run.tied)),
        "spikes": int(ledger.spikes().sum()),
        "input_events": int(ledger.input_events.sum()),
        "synops": {
            **{kind: int(ledger.synops(kind=kind).sum()) for kind in KINDS},
            "ac": int(ledger.by_class("ac").sum()),
            "mac": int(ledger.by_class("mac").sum()),
        },
        "identity": {kind: int(ledger.by_class("identity", kind).sum()) for kind in KINDS},
        "pool": {kind: int(ledger.by_class("pool", kind).sum()) for kind in KINDS},
        "macs_input": int(ledger.macs_input.sum()),
        "queue_peak": int(run.queue_peak.max(initial=0)),
        "layers": [_layer(run, i, connections) for i in range(len(network.populations))],
        "connections": connections,
        "energy": [],
    }


def timing(run: Run) -> dict[str, Any]:
    """The content of `timing.json`: what may differ between two runs of the same thing."""
    delivered = int(run.ledger.synops().sum())
    return {
        "seconds": float(run.seconds),
        "synops_per_second": delivered / run.seconds if run.seconds > 0 else None,
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


def predictions_by_tick(outputs: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """(samples, ticks) the class that leads at the end of each tick.

    outputs: (samples, ticks, classes). margins: same shape, breaks ties; or (samples, ticks, 0). Then the lowest index.
    """
    if not margins.shape[-1]:
        return outputs.argmax(-1)
    leading = outputs == outputs.max(-1, keepdims=True)
    return np.where(leading, margins, -np.inf).argmax(-1)


def _accuracy_by_tick(run: Run) -> list[float] | None:
    if run.labels is None or np.any(run.stop_time < run.ticks):
        return None
    leading = predictions_by_tick(run.trace.outputs, run.trace.margins)
    return [float(fraction) for fraction in np.mean(leading == run.labels[:, None], axis=0)]


def _connection(run: Run, connection: Any) -> dict[str, Any]:
    label = connection.label
    tap_class = run.ledger.tap_class[label]
    taps = {kind: int(run.ledger.synops(label, kind).sum()) for kind in KINDS}
    return {
        "name": label,
        "source": connection.source,
        "target": connection.target,
        "class": tap_class,
        "synops": taps["delivered"] if tap_class in ("ac", "mac") else 0,
        **taps,
        "pool_taps": int(run.ledger.pool_taps(label, "delivered").sum()),
    }


def _layer(run: Run, index: int, connections: list[dict[str, Any]]) -> dict[str, Any]:
    population = run.network.populations[index]
    arriving = [c for c in connections if c["target"] == population.name]
    events = int(run.ledger.spikes(population.name).sum())
    is_spiking = isinstance(population.neuron, IF)
    return {
        "name": population.name,
        "kind": type(population.neuron).__name__.lower(),
        "spiking": is_spiking,
        "shape": list(population.shape),
        "neurons": population.size,
        "spikes": events if is_spiking else 0,
        "spike_units": int(run.ledger.spike_units(population.name).sum()) if is_spiking else 0,
        "events": events,
        "synops": sum(c["synops"] for c in arriving),
        "mac": sum(c["synops"] for c in arriving if c["class"] == "mac"),
        "identity": sum(c["delivered"] for c in arriving if c["class"] == "identity"),
        "pool": sum(c["pool_taps"] + (c["delivered"] if c["class"] == "pool" else 0) for c in arriving),
    }


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
        lines.append(f"accuracy by ticks: {by_tick}")
    reasons = ", ".join(f"{name}: {count:,}" for name, count in found["stop_reasons"].items())
    lines.append(f"stopped after {found['mean_stop']:.2f} of {found['ticks']} ticks on average ({reasons})")
    lines.append(f"tied predictions: {found['ties']:,} of {samples:,} ({found['ties'] / samples:.2%})")
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


# ------------------------------------------------------------------------------------------------------- CSV files


def samples_csv(run: Run) -> str:
    """The text of samples.csv: a row for each sample, its answer, its stop and its counts."""
    ledger = run.ledger
    columns: dict[str, Iterable[Any]] = {
        "sample": range(len(run.predictions)),
        "label": [""] * len(run.predictions) if run.labels is None else run.labels.tolist(),
        "prediction": run.predictions.tolist(),
        "tied": run.tied.astype(int).tolist(),
        "stop_time": run.stop_time.tolist(),
        "stop_reason": [stop_reason_name(r) for r in run.stop_reason],
        "spikes": ledger.spikes().tolist(),
        "input_events": ledger.input_events.tolist(),
        **{f"synops_{kind}": ledger.synops(kind=kind).tolist() for kind in KINDS},
        "synops_mac": ledger.by_class("mac").tolist(),
        "identity": ledger.by_class("identity").tolist(),
        "pool": ledger.by_class("pool").tolist(),
        "macs_input": ledger.macs_input.tolist(),
    }
    return _csv(columns, zip(*columns.values(), strict=True))


def layers_csv(found: Mapping[str, Any]) -> str:
    """The text of layers.csv: a row for each population, from a summary."""
    rows = [{**layer, "shape": "x".join(map(str, layer["shape"]))} for layer in found["layers"]]
    return _csv(rows[0], (row.values() for row in rows))


def connections_csv(found: Mapping[str, Any]) -> str:
    """The text of connections.csv: a row for each connection, from a summary."""
    rows = found["connections"]
    return _csv(rows[0], (row.values() for row in rows))


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
