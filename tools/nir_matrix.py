"""Writes docs/nir.md: what of NIR is read, run and written, tried out primitive by primitive.

    python tools/nir_matrix.py

Every cell of the first table is the outcome of a small file: it is read with profile nir, run in both modes, and
written again. The other tables come from the profiles and from the text of `lower_nir`.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import eventsnn as es
from eventsnn import hdf5, import_nir, lower_nir
from eventsnn.inputs import Events
from eventsnn.neurons import preset

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "nir.md"

Node = dict[str, Any]
Graph = tuple[dict[str, Node], list[tuple[str, str]]]


def full(value: float, *shape: int) -> np.ndarray:
    return np.full(shape, value, np.float32)


def ends(shape: tuple[int, ...], out: tuple[int, ...]) -> tuple[Node, Node]:
    return {"type": "Input", "shape": np.array(shape)}, {"type": "Output", "shape": np.array(out)}


def chain(*between: Node, shape: tuple[int, ...] = (3,), out: tuple[int, ...] = (3,)) -> Graph:
    first, last = ends(shape, out)
    nodes = {"input": first, **{f"n{i}": node for i, node in enumerate(between)}, "output": last}
    names = list(nodes)
    return nodes, list(itertools.pairwise(names))


def neuron(kind: str, *shape: int) -> Node:
    fields = {
        "I": ("r",),
        "IF": ("r", "v_threshold", "v_reset"),
        "LI": ("tau", "r", "v_leak"),
        "LIF": ("tau", "r", "v_leak", "v_threshold", "v_reset"),
        "CubaLI": ("tau_mem", "tau_syn", "r", "v_leak", "w_in"),
        "CubaLIF": ("tau_mem", "tau_syn", "r", "v_leak", "w_in", "v_threshold", "v_reset"),
    }[kind]
    values = {"tau": 5e-3, "tau_mem": 5e-3, "tau_syn": 2e-3, "r": 1e3, "w_in": 1.0, "v_threshold": 1.0}
    return {"type": kind, **{field: full(values.get(field, 0.0), *(shape or (3,))) for field in fields}}


def pool(kind: str) -> Node:
    return {"type": kind, "kernel_size": np.array([2, 2]), "stride": np.array([2, 2]), "padding": np.array([0, 0])}


def conv(dims: int) -> Node:
    sides = {"stride": np.ones(dims, int), "padding": np.ones(dims, int), "dilation": np.ones(dims, int)}
    if dims == 1:
        sides = {name: side[0] for name, side in sides.items()}
    weight = {"weight": full(1, 2, 1, *(3,) * dims), "bias": full(0, 2), "groups": 1}
    return {"type": f"Conv{dims}d", "input_shape": np.array((4,) * dims) if dims > 1 else 4, **weight, **sides}


LINEAR = {"type": "Linear", "weight": np.eye(3, dtype=np.float32)}
AFFINE = {"type": "Affine", "weight": np.eye(3, dtype=np.float32), "bias": full(0.1, 3)}
GRID = {"type": "Flatten", "input_type": np.array((2, 2, 2)), "start_dim": 0, "end_dim": -1}
WIDE = {"type": "Linear", "weight": full(1, 3, 8)}


def recurrent() -> Graph:
    nodes, edges = chain(neuron("LIF"))
    return nodes | {"w": AFFINE}, [*edges, ("n0", "w"), ("w", "n0")]


def nested() -> Graph:
    nodes, edges = recurrent()
    inner = {"type": "NIRGraph", "nodes": nodes, "edges": np.array(edges, object)}
    first, last = ends((3,), (3,))
    return {"input": first, "block": inner, "output": last}, [("input", "block"), ("block", "output")]


# what is tried, and what there is to say about it
PRIMITIVES: dict[str, tuple[Graph, str]] = {
    "Input, Output": (chain(neuron("IF")), "one of each; the shape of the output node is not looked at"),
    "Affine": (chain(AFFINE, neuron("IF")), "a bias is added in every tick"),
    "Linear": (chain(LINEAR, neuron("IF")), ""),
    "Scale": (chain({"type": "Scale", "scale": full(2, 3)}, neuron("IF")), "multiplied into weights beside it"),
    "Conv1d": (chain(conv(1), neuron("IF", 2, 4), shape=(1, 4), out=(2, 4)), ""),
    "Conv2d": (
        chain(conv(2), neuron("IF", 2, 4, 4), shape=(1, 4, 4), out=(2, 4, 4)),
        'groups, padding "same" and "valid" are read; groups are written as one block-diagonal kernel',
    ),
    "SumPool2d": (chain(pool("SumPool2d"), neuron("IF", 2, 2, 2), shape=(2, 4, 4), out=(2, 2, 2)), ""),
    "AvgPool2d": (
        chain(pool("AvgPool2d"), neuron("IF", 2, 2, 2), shape=(2, 4, 4), out=(2, 2, 2)),
        "padding counts in the average, as PyTorch's default",
    ),
    "Flatten": (chain(GRID, WIDE, neuron("IF"), shape=(2, 2, 2)), "of all dimensions"),
    "Delay": (chain({"type": "Delay", "delay": full(2e-3, 3)}, neuron("IF")), "one whole number of ticks"),
    "Delay, by unit": (
        chain({"type": "Delay", "delay": np.array([1e-3, 2e-3, 4e-3])}, LINEAR, neuron("IF")),
        "delays of single synapses (`Sparse.delay`)",
    ),
    "Delay, parts of ticks": (
        chain({"type": "Delay", "delay": np.array([1.5e-3, 2e-3, 2.25e-3])}, LINEAR, neuron("IF")),
        "",
    ),
    "Threshold": (
        chain(LINEAR, {"type": "Threshold", "threshold": full(0.5, 3)}),
        "a LIF without memory (alpha 0)",
    ),
    "SumPool2d, Threshold of 0": (
        chain(
            neuron("IF", 2, 4, 4),
            pool("SumPool2d"),
            {"type": "Threshold", "threshold": full(0, 2, 2, 2)},
            neuron("IF", 2, 2, 2),
            shape=(2, 4, 4),
            out=(2, 2, 2),
        ),
        "of spikes: a max-pool (`Gate`)",
    ),
    "I": (chain(LINEAR, neuron("I")), "a readout: summed input; its r goes into the weights"),
    "IF": (chain(LINEAR, neuron("IF")), ""),
    "LI": (chain(LINEAR, neuron("LI")), "a readout: a potential is only read out"),
    "LIF": (chain(LINEAR, neuron("LIF")), ""),
    "CubaLI": (chain(LINEAR, neuron("CubaLI")), "a readout; a missing w_in is 1"),
    "CubaLIF": (chain(LINEAR, neuron("CubaLIF")), "a missing w_in is 1"),
    "recurrence": (recurrent(), "a cycle without a Delay of a tick is given one"),
    "NIRGraph in a graph": (nested(), "taken apart"),
}


def tried(graph: Graph, folder: Path, notes: list[str]) -> list[str]:
    """read, sync, async, written: "yes", or the numbers of the notes on what is in the way."""
    nodes, edges = graph
    path, again = folder / "net.nir", folder / "again.nir"
    with hdf5.written(path) as file:
        node = {"type": "NIRGraph", "nodes": nodes, "edges": np.array(edges, object)}
        hdf5.write_tree(file, {"version": lower_nir.NIR_VERSION, "node": node})
    network = import_nir.from_nir(path, "nir", dt=1e-3)
    found = ["yes"]
    sample = Events(np.arange(6) * 1000, np.zeros(6, np.int64), np.array([0, 6]))
    for options in ({"ticks": 8}, {"mode": "async", "duration": 8e-3}):
        try:
            es.simulate(network, sample, **options)  # type: ignore[arg-type]
            found.append("yes")
        except ValueError as error:
            found.append(f"refused {noted(notes, str(error))}")
    reasons = lower_nir.faithful(network)
    lower_nir.export_nir(network, again, lossy=True)
    import_nir.from_nir(again, "nir", dt=1e-3)
    told = " ".join(noted(notes, reason.rsplit(": ", 1)[0]) for reason in reasons)
    found.append(f"with `--lossy` {told}" if reasons else "yes")
    return found


def noted(notes: list[str], text: str) -> str:
    if text not in notes:
        notes.append(text)
    return f"[{notes.index(text) + 1}]"


def moved(profile: import_nir.Profile, kind: str) -> str:
    """How far a spike of weight w moves a neuron in a tick."""
    exact = profile.decay == "exp"
    if kind == "IF":
        return {"pulse": "r dt w", "weight": "w" if profile.if_r == "dropped" else "w, r must be 1"}[profile.if_spike]
    if kind == "LIF":
        part = "(1 - alpha) w" if exact else "dt/tau w"
        return "w" if profile.lif_spike == "weight" else f"r {part}" if profile.lif_r else part
    if not profile.cuba_r:
        return "is not read"
    need = "" if profile.cuba_r == "heeded" else ", r must be tau_mem / dt"
    return ("w_in (1 - alpha_syn) w" if exact else "w_in dt/tau_syn w") + need


def reset(name: str, kind: str) -> str:
    profile, habit = import_nir.PROFILES[name], preset(name)
    # snnTorch's neurons subtract by themselves; its importer lets them, but for those that leak
    if habit.reset == "value" or (name == "snntorch" and kind != "IF"):
        return "to v_reset" if profile.v_reset else "to 0"
    return "by subtraction"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def page() -> str:
    """The text of docs/nir.md."""
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        rows = [[name, *tried(graph, Path(folder), notes), note] for name, (graph, note) in PRIMITIVES.items()]
    primitives = table(["primitive", "read", "sync", "async", "written", "remarks"], rows)
    footnotes = "\n".join(f"{i}. {note}" for i, note in enumerate(notes, 1))
    rows = []
    for name, p in import_nir.PROFILES.items():
        habit = preset(name)
        fires = "u >= threshold" if habit.comparator == "ge" else "u > threshold"
        extra = ", several times in a tick" if habit.multi_spike else ""
        alpha = "exp(-dt/tau)" if p.decay == "exp" else "1 - dt/tau"
        resets = ", ".join(f"{kind} {reset(name, kind)}" for kind in ("IF", "LIF"))
        dt = f"{p.dt:g}" + (" s" if p.seconds else "")
        rows.append(
            [f"`{name}`", dt, alpha, fires + extra, resets, *(moved(p, kind) for kind in ("IF", "LIF", "CubaLIF"))]
        )
    moves = ["a spike w moves an IF by", "a LIF by", "the current of a CubaLIF by"]
    profiles = table(["profile", "dt", "alpha: kept in a tick", "fires at", "is reset", *moves], rows)
    spikes = table(
        ["`--spike-input`", "a spike of weight w is", "it moves an IF by", *moves[1:]],
        [
            ["`pulse:DT`", "a current of w for a tick, DT", "r DT w", "r (1 - alpha) w", "w_in (1 - alpha_syn) w"],
            ["`impulse`", "a current of unit area in NIR's time unit", "r w", "r/tau w", "w_in/tau_syn w"],
        ],
    )
    lowered = "\n".join(line for line in (lower_nir.__doc__ or "").splitlines() if line.startswith("|"))
    return TEXT.format(primitives=primitives, footnotes=footnotes, profiles=profiles, spikes=spikes, lowered=lowered)


TEXT = """# NIR

What of the [Neuromorphic Intermediate Representation](https://neuroir.org) is read, run and written. This page is
made by `python tools/nir_matrix.py`, which tries every primitive; the details stand in `eventsnn/import_nir.py` and
`eventsnn/lower_nir.py`.

    eventsnn simulate --weights net.nir --assume norse --input events.h5
    eventsnn export --nir net.h5 -o net.nir

## Primitives

Read with `--assume nir`, run in ticks (sync) and in continuous time (async), written again as plain NIR:

{primitives}

{footnotes}

A graph comes back with equal nodes, parameters and edges, and with the names of its nodes. But nested graphs are
taken apart, a `Scale` that was multiplied into weights stays there, a node without weights that feeds several others
is written once for each, groups of a convolution become one kernel, delays by unit in front of one a dense matrix,
and padding "same" and "valid" becomes numbers.

What NIR cannot say is refused at export, by name, unless `--lossy` is given. A network file of our own always has a
lowering for other readers; its group `/eventsnn` has the last word here.

A cycle without a `Delay` of a tick or more is given a tick on the edge that closes it, as it has in all tools that go
step by step. That edge is found by a search in depth from the input, which follows the edges of a node in the order
of the file; behind such a `Delay` it starts anew. The bias of a recurrent Affine acts in every tick.

## Profiles

NIR has equations, and no rules for ticks. `--assume` says by whose habits a file is read; they are those of the
tools' own importers, except snncutoff, which has none. dt is the length of a tick in NIR's time unit.

{profiles}

LI and CubaLI are LIF and CubaLIF without threshold. The membrane of a CubaLIF is moved by the new current, times r
dt/tau_mem, where a tick is an Euler step; in `nir` a tick is the exact solution for an input that is held for the
tick. In continuous time the time constants are those of the file in every profile; so are r/tau and w_in/tau_syn,
unless a tool adds weights as they are.

`snntorch` is what snnTorch's importer makes of a file, with two exceptions: it gives an IF a leak of 0.9, and version
1.0.0 resets recurrent layers a step late although its importer asks for a reset at once. Neither is imitated.

## What a spike is

A file does not say whether a spike is a current of some length or an impulse. A profile has its habit, as above;
`--spike-input` chooses.

{spikes}

DT is a time (`0.1ms`) or a number in the file's time unit (`1e-4`). Where nothing else says how long a tick is, it is
DT; another length is refused. In mode async, too, the spike is then a current for DT; otherwise it acts at once. With
`impulse` a bias is, in every tick, an impulse of the area dt. Where a tick is an Euler step, 1 - alpha is DT/tau. r
is 1 where the profile drops it.

## What becomes of a network

{lowered}
"""


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
