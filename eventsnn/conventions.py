"""Other people's numbers, derived from the same run: what each published rule says of every weight connection.

Every rule answers the question "how many synaptic operations?" in its own way: with padding or without, per spike or
per rate, with zero weights or without. `docs/counting.md` explains each column; the exact count stands beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from eventsnn.network import AdaptivePool, Connection, Conv, Dense, Network, Pool, Shape, Sparse
from eventsnn.neurons import IF, Gate, Input, Relay

COLUMNS = (
    "rate_x_flops",
    "kernel_area",
    "area_over_stride2",
    "syops_ac",
    "syops_mac",
    "neurobench_ac",
    "neurobench_mac",
    "neurobench_dense",
    "sinabs",
    "spikingjelly",
    "toolbox",
    "ann",
)
RATIOS = (
    "rate_x_flops",
    "kernel_area",
    "area_over_stride2",
    "syops",
    "neurobench",
    "sinabs",
    "spikingjelly",
    "toolbox",
)


# --------------------------------------------------------------------------------------------- facts of a connection


def geometry(network: Network, connection: Connection) -> dict[str, Any]:
    """What published rules need to know of a connection, as JSON values; stored in a run's `network.json`.

    inner, outer: shapes in front of and behind the operation, channels first. kernel, stride, padding (before, after),
    dilation, groups: of a convolution, else null. weights, zero_weights: stored numbers. biases: stored numbers.
    dense: in-bounds taps of one event of every inner unit. image_taps: in-bounds taps of all pixels of an analog image,
    every path through a pool counted, else null. events: what the source emits: "binary" (at most one event a unit and
    tick), "repeated" (event input: a pixel can have several), "multiple" (events carry a multiplicity), "graded" or
    "image". pools: what stands in front of the operation, "none", "average" or "sum".
    """
    op, shapes = connection.op, connection.shapes(network[connection.source].shape)
    inner, outer = shapes[len(connection.before)], shapes[len(connection.before) + 1]
    conv = op if isinstance(op, Conv) else None
    kinds = [
        m.kind if isinstance(m, Pool) else "average" for m in connection.before if isinstance(m, Pool | AdaptivePool)
    ]
    bias = 0 if connection.bias is None else connection.bias.size
    return {
        "inner": list(inner),
        "outer": list(outer),
        "kernel": None if conv is None else list(conv.weight.shape[2:]),
        "stride": None if conv is None else list(conv.stride),
        "padding": None if conv is None else [list(pair) for pair in conv.padding],
        "dilation": None if conv is None else list(conv.dilation),
        "groups": None if conv is None else conv.groups,
        "weights": int(np.size(op.weight)),
        "zero_weights": int(np.sum(np.asarray(op.weight) == 0)),
        "biases": int(bias if connection.shift is None else connection.shift.shape[1]),
        "dense": _dense_taps(op, inner),
        "image_taps": _image_taps(network, connection, inner),
        "events": _events(network, connection.source),
        "pools": "none" if not kinds else "average" if "average" in kinds else "sum",
    }


def _dense_taps(op: Any, inner: Shape) -> int:
    """In-bounds taps when every unit in front of the operation has one event."""
    if isinstance(op, Dense):
        return int(op.weight.size)
    if isinstance(op, Sparse):
        return int(op.target.size)
    if not isinstance(op, Conv):
        return math.prod(inner)
    pairs = 1
    for size, n, k, s, (before, _), d in zip(
        inner[1:], op.out_shape(inner)[1:], op.weight.shape[2:], op.stride, op.padding, op.dilation, strict=True
    ):
        place = np.arange(n)[:, None] * s - before + np.arange(k) * d
        pairs *= int(np.sum((place >= 0) & (place < size)))
    return pairs * int(op.weight.shape[0] * op.weight.shape[1])


def _image_taps(network: Network, connection: Connection, inner: Shape) -> int | None:
    """What the connection has in `macs_input`, if it has weights; None where no image enters."""
    if _events(network, connection.source) != "image":
        return None
    if not any(isinstance(m, Pool | AdaptivePool) for m in connection.before):
        return _dense_taps(connection.op, inner)
    from eventsnn.wiring import fan_out

    return int(fan_out(network)[0][connection.label].sum())


def _events(network: Network, source: str) -> str:
    neuron = network[source].neuron
    if isinstance(neuron, Input):
        return {"direct": "image", "events": "repeated"}.get(network.encoding, "binary")
    if isinstance(neuron, Relay):
        return "graded"
    if isinstance(neuron, Gate):
        return "binary"
    assert isinstance(neuron, IF)
    return "multiple" if neuron.multi_spike else "binary"


# ------------------------------------------------------------------------------------------------------- the columns


def conventions(
    run: Mapping[str, Any], network: Mapping[str, Any], emitted: Mapping[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """Every published count of a run beside ours, as JSON values.

    run, network: the contents of `run.json` and `network.json`. emitted: events of single neurons by population
    ((samples, *shape), from `sources.h5`), without which strided convolutions have no `toolbox` count.

    rows: one for each connection with weights, counts over all samples and ticks that ran: `exact` (structural SynOps;
    for an image its `macs_input`) and COLUMNS; null where a rule does not say, or the run does not know.
    image: whether an analog image enters by it. neurobench_kind: how NeuroBench calls the row, "AC", "MAC", or "by
    call" where it depends on every single tick. totals: sums over the rows of spikes, null where a row is; syops_ac
    is without the neurons that rule charges, which are `syops_neurons`, one for each spiking neuron and tick. ratios:
    a column's sum by the exact sum over the same rows, the two halves of syops and of NeuroBench taken together as
    `syops` and `neurobench`. activation_sparsity: silent share of all neurons and ticks. connection_sparsity: share of
    zero weights. footprint_bytes: weights and biases at 4 bytes each.
    """
    samples, ticks = run["input"]["samples"], run["ticks_run"]
    layers = {layer["name"]: layer for layer in run["layers"]}
    taps = {c["name"]: c for c in run["connections"]}
    weighted = [c for c in network["connections"] if taps[c["name"]]["class"] in ("ac", "mac")]
    images = [c for c in weighted if c["events"] == "image"]
    alone = len(images) == 1 and images[0]["pools"] == "none"  # a window of pixels is one input to NeuroBench
    rows = []
    for c in weighted:
        image = c["events"] == "image"
        row = {"name": c["name"], "image": image, "neurobench_kind": _neurobench_kind(c), **dict.fromkeys(COLUMNS)}
        row["exact"] = c["image_taps"] * samples if image else taps[c["name"]]["structural"]
        row["ann"], row["neurobench_dense"] = c["dense"] * samples, c["dense"] * ticks
        if image:
            effective = run["macs_input_effective_per_tick"] if alone else None
            row |= _image_columns(c, samples, ticks, effective)
        else:
            own = None if emitted is None else emitted.get(c["source"])
            row |= _spike_columns(c, taps[c["name"]], layers[c["source"]], ticks, own)
        rows.append(row)
    spiking = [layer for layer in run["layers"] if layer["spiking"]]
    steps = sum(layer["neurons"] for layer in spiking) * ticks
    of_spikes = [row for row in rows if not row["image"]]
    weights = sum(c["weights"] for c in weighted)
    return {
        "samples": samples,
        "ticks_run": ticks,
        "rows": rows,
        "totals": {column: total(of_spikes, column) for column in ("exact", *COLUMNS)},
        "ratios": {column: ratio(of_spikes, column) for column in RATIOS},
        "syops_neurons": steps,
        "activation_sparsity": 1 - sum(layer["events"] for layer in spiking) / steps if steps else None,
        "connection_sparsity": sum(c["zero_weights"] for c in weighted) / weights if weights else None,
        "footprint_bytes": 4 * (weights + sum(c["biases"] for c in network["connections"])),
    }


def total(rows: list[dict[str, Any]], column: str) -> Any:
    """The sum of a column over rows, None where a row does not know it."""
    return None if any(row[column] is None for row in rows) else sum(row[column] for row in rows)


def ratio(rows: list[dict[str, Any]], column: str) -> float | None:
    """A column of RATIOS by the exact count, over the rows that know it; None where that is nothing."""
    parts = (f"{column}_ac", f"{column}_mac") if f"{column}_ac" in COLUMNS else (column,)
    known = [row for row in rows if all(row[part] is not None for part in parts)]
    exact = sum(row["exact"] for row in known)
    return sum(row[part] for row in known for part in parts) / exact if exact else None


def _image_columns(c: Mapping[str, Any], samples: int, ticks: int, effective: int | None) -> dict[str, Any]:
    """The rules for the layer that an analog image enters by: multiply-accumulates, by most of them in every tick."""
    flops = _flops(c)
    return {
        "rate_x_flops": flops * ticks,
        "syops_ac": 0,
        "syops_mac": (flops + _bias_adds(c)) * ticks,
        "neurobench_ac": 0,
        "neurobench_mac": effective,
        "spikingjelly": 0,  # its input is not binary
        "toolbox": 2 * _fan_in(c) * math.prod(c["outer"]) * samples,
    }


def _spike_columns(
    c: Mapping[str, Any],
    counts: Mapping[str, int],
    source: Mapping[str, Any],
    ticks: int,
    emitted: np.ndarray | None,
) -> dict[str, Any]:
    events, flops, fan = source["events"], _flops(c), _kernel_fan_out(c)
    rate = events / source["neurons"]
    spikes = c["events"] != "graded" and c["pools"] == "none"
    whole = flops + _bias_adds(c)
    row = {
        "rate_x_flops": rate * flops,
        "syops_ac": rate * whole if spikes else 0,
        "syops_mac": 0 if spikes else whole * ticks,
        "sinabs": None if c["events"] == "graded" else counts["units"],
    }
    if fan is not None:
        row["kernel_area"] = events * fan
        row["area_over_stride2"] = events * fan / math.prod(c["stride"] or [1])
    if _neurobench_kind(c) != "by call":
        is_mac = _neurobench_kind(c) == "MAC"
        row["neurobench_ac"] = 0 if is_mac else counts["effective_per_tick"]
        row["neurobench_mac"] = counts["effective_per_tick"] if is_mac else 0
    if c["events"] == "binary" and c["pools"] == "none":
        row["spikingjelly"] = counts["structural"]
    elif c["events"] == "graded" or c["pools"] == "average":
        row["spikingjelly"] = 0  # values other than 0 and 1 make it a layer of multiply-accumulates
    if fan is not None and c["pools"] == "none" and c["events"] != "repeated":
        if max(c["stride"] or [1]) == 1:
            row["toolbox"] = events * fan
        elif emitted is not None and list(emitted.shape[1:]) == c["inner"]:
            row["toolbox"] = _toolbox_strided(c, emitted)
    return row


def _neurobench_kind(c: Mapping[str, Any]) -> str:
    if c["events"] in ("image", "graded") or c["pools"] == "average":
        return "MAC"
    return "AC" if c["events"] == "binary" and c["pools"] == "none" else "by call"


def _flops(c: Mapping[str, Any]) -> int:
    """Multiply-accumulates of the layer as papers count them: every output meets its whole kernel, padding included."""
    if c["kernel"] is None:
        return c["dense"]
    return math.prod(c["outer"]) * _fan_in(c)


def _fan_in(c: Mapping[str, Any]) -> int:
    if c["kernel"] is None:
        return c["dense"] // math.prod(c["outer"])
    return math.prod(c["kernel"]) * c["inner"][0] // c["groups"]


def _kernel_fan_out(c: Mapping[str, Any]) -> int | None:
    """Targets of one event when borders and stride are ignored; None for a list of synapses, which has no such rule."""
    if c["kernel"] is not None:
        return math.prod(c["kernel"]) * c["outer"][0] // c["groups"]
    return c["outer"][0] if c["operation"] == "dense" else None


def _bias_adds(c: Mapping[str, Any]) -> int:
    return math.prod(c["outer"]) if c["biases"] else 0


def _toolbox_strided(c: Mapping[str, Any], emitted: np.ndarray) -> int:
    """snn_toolbox's fan-out array of a strided convolution over the events of single neurons.

    emitted: (samples, *inner). Per axis, for a source at a (p = 0 with padding, (k - 1) // 2 without, as it has it):
    the target (a + p) // s counts always, and so does every target before it that is in range and whose kernel still
    reaches back. The first is never asked whether it exists or is reached, so the array is off by one tap.
    """
    fan = np.full((), c["outer"][0] // c["groups"], np.int64)
    for size, result, k, s, pads in zip(
        c["inner"][1:], c["outer"][1:], c["kernel"], c["stride"], c["padding"], strict=True
    ):
        shift = (k - 1) // 2 if not any(pads) else 0
        last, rest = np.divmod(np.arange(size) + shift, s)
        count = np.ones(size, np.int64)
        for i in range(1, k):
            count += (rest + i * s < k) & (last - i >= 0) & (last - i < result)
        fan = fan[..., None] * count
    return int((emitted.sum((0, 1)) * fan).sum())
