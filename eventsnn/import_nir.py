"""Networks from NIR files of other tools, read with h5py alone.

NIR says the weights, the graph and equations in continuous time; it leaves open how a neuron compares and resets, how
long a tick is, how a tick solves the equations, and whether a spike is a current of some length or an impulse. A
profile says so, by the habits of one tool (`neurons.preset` has its comparator and reset)::

    profile       dt     alpha in a tick   a spike w moves an IF by  a LIF by          a CubaLIF's current by
    nir           1      exp(-dt/tau)      r dt w                    r (1 - alpha) w   w_in (1 - alpha_syn) w
    sinabs        1      exp(-dt/tau)      w                         w                 (is not read)
    snntorch      1e-4   1 - dt/tau        w (r must be 1)           r dt/tau w        w_in dt/tau_syn w
    norse         1e-3   1 - dt/tau        w                         dt/tau w          w_in dt/tau_syn w
    spikingjelly  1e-4   1 - dt/tau        r dt w                    r dt/tau w        (is not read)
    snncutoff     1      exp(-dt/tau)      w                         w                 (is not read)
    lava          1e-4   1 - dt/tau        w (r must be 1)           dt/tau w          w_in dt/tau_syn w

dt is in NIR's time unit, seconds where a tool says so. The file's v_reset is used by nir and spikingjelly; the others
reset to 0 or by subtraction. They are the tools' own importers, except snncutoff, which has none. So `snntorch` means
`snntorch.import_nir`, not snnTorch's neurons as they are by themselves: LIF and CubaLIF are reset to 0, IF by
subtraction, all at once, and r of a CubaLIF must be tau_mem / dt. (It also gives an IF a leak of 0.9, and snnTorch
1.0.0 resets recurrent layers a step late although it asks for a reset at once; neither is imitated.)

LI and CubaLI are LIF and CubaLIF without threshold. Of a CubaLIF the membrane is moved by the new current, times
r dt/tau_mem, where a tick is an Euler step. In `nir` a tick is the exact solution for a current that is constant in it,
so that the old current has its part. For continuous time every neuron keeps what the equations say, whatever a tick
makes of them: tau, tau_syn, input_rate = r/tau, syn_rate = w_in/tau_syn (IF: input_rate = r), in seconds, where it is
known how long a tick is.

`spike_input` takes the place of the profile's habit. "pulse:DT": a spike is a current of w for DT, which has to be the
length of a tick, in seconds (0.1ms) or in NIR's time unit (1e-4). "impulse": a current of unit area in NIR's time unit:
it moves an IF by r w, a LIF by r/tau w, a CubaLIF's current by w_in/tau_syn w; a bias is then, in every tick, an
impulse of the area dt.

Between two neurons the linear nodes become one connection: maps, one weight operation, maps; a scale is multiplied
into the weights. Where two weight operations follow each other, or several signals meet before one, a `Relay` is put.
Delays that are not one whole number of ticks become those of single synapses (`Sparse.delay`).

A cycle without a `Delay` of a tick or more is given a tick on the edge that closes it, as it has in all tools that go
step by step. That edge is found by a search in depth from the input, which follows the edges of a node in the order of
the file; behind such a Delay it starts anew. The bias of a recurrent Affine acts in every tick.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eventsnn import hdf5
from eventsnn.network import (
    AddressMap,
    Connection,
    Conv,
    Dense,
    Flatten,
    Identity,
    Network,
    Operation,
    Pool,
    Population,
    Shape,
    Sparse,
    positions,
)
from eventsnn.neurons import LI, LIF, CubaLI, Gate, Input, Integrator, Neuron, Parameter, Relay, preset


class Profile(NamedTuple):
    """What a tool adds to a NIR file.

    dt: NIR time units per tick. seconds: whether that unit is the second. decay: "exp" or "euler". if_spike, lif_spike:
    how a spike moves an IF, and a neuron that leaks: "pulse" (a current held for one tick), "weight" (the weight is
    added as it is) or "impulse" (a current of unit area). if_r: the resistance of an IF is "heeded", "dropped", or must
    be "one". lif_r, v_reset, v_leak: whether the tool heeds that field; a v_leak that it does not heed must be 0.
    cuba_r: the r of a CubaLIF is "heeded" or must be "tau_mem / dt"; "": the tool reads no current-based neurons.
    """

    dt: float
    seconds: bool
    decay: str
    if_spike: str
    lif_spike: str
    if_r: str
    lif_r: bool
    v_reset: bool
    v_leak: bool
    cuba_r: str


PROFILES = {
    "nir": Profile(1.0, False, "exp", "pulse", "pulse", "heeded", True, True, True, "heeded"),
    "sinabs": Profile(1.0, False, "exp", "weight", "weight", "dropped", False, False, False, ""),
    "snntorch": Profile(1e-4, True, "euler", "weight", "pulse", "one", True, False, False, "tau_mem / dt"),
    "norse": Profile(1e-3, True, "euler", "weight", "pulse", "dropped", False, False, True, "heeded"),
    "spikingjelly": Profile(1e-4, True, "euler", "pulse", "pulse", "heeded", True, True, True, ""),
    "snncutoff": Profile(1.0, False, "exp", "weight", "weight", "dropped", False, False, True, ""),
    "lava": Profile(1e-4, True, "euler", "weight", "pulse", "one", False, False, False, "tau_mem / dt"),
}

WEIGHTS = ("Affine", "Linear", "Conv1d", "Conv2d")
LINEAR = (*WEIGHTS, "Scale", "SumPool2d", "AvgPool2d", "Flatten", "Delay")
SPIKING = ("IF", "LIF", "CubaLIF", "Threshold")
READOUTS = ("I", "LI", "CubaLI")
STATEFUL = (*SPIKING, *READOUTS)
LARGEST = 2**26  # synapses of one connection that are written out one by one

Edges = list[tuple[str, str]]


def from_nir(
    path: str | Path,
    assume: str | None = None,
    *,
    dt: float | None = None,
    tick_seconds: float | None = None,
    spike_input: str | None = None,
) -> Network:
    """The network of a NIR file, fed with events (for images: `dataclasses.replace(network, encoding="direct")`).

    assume: the name of a profile. dt: NIR time units per tick; None for the profile's. tick_seconds: what a tick means
    in time; None for dt where NIR's time unit is the second (the profile says so, or dt was given), else unknown.
    spike_input: what a spike is, "impulse" or "pulse:DT" (see above); None for the profile's habit. A pulse lasts one
    tick: where its length is given, it is that of the tick, and dt or tick_seconds must not say otherwise.

    Raises ValueError, in one sentence that names the file and the node, for what is not NIR or not supported.
    """
    with hdf5.opened(path) as file:
        try:
            if not hdf5.is_here(file, "node"):
                raise ValueError("HDF5, but neither a network of eventsnn (/eventsnn) nor NIR (/node)")
            tree = hdf5.read_tree(file)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    try:
        if assume is None:
            raise ValueError(
                "a NIR file, which does not say how its neurons compare, reset and keep time; "
                f"choose a profile: --assume {'|'.join(PROFILES)}"
            )
        if assume not in PROFILES:
            raise ValueError(f"there is no profile {assume!r} to assume; choose one of {', '.join(PROFILES)}")
        for name, value in (("dt", dt), ("tick_seconds", tick_seconds)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}, wanted a positive number")
        return _network(tree, Path(path).name, assume, dt, tick_seconds, spike_input)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _network(
    tree: hdf5.Tree,
    file_name: str,
    assume: str,
    dt: float | None,
    tick_seconds: float | None,
    spike_input: str | None,
) -> Network:
    profile = PROFILES[assume]
    if spike_input is not None:
        spike, dt, tick_seconds = _spike(spike_input, profile, dt, tick_seconds)
        profile = profile._replace(if_spike=spike, lif_spike=spike)
    if tick_seconds is None and (dt is not None or profile.seconds):
        tick_seconds = dt or profile.dt
    if dt is not None:
        profile = profile._replace(dt=dt)

    nodes, edges = _graph(tree["node"], "")
    walk = _Walk(nodes, _through(edges, nodes), assume, profile)
    walk.run()
    neurons = {name: _neuron(name, walk, assume, profile, tick_seconds) for name in walk.shapes}
    network = Network(
        populations=tuple(Population(name, shape, neurons[name]) for name, shape in walk.shapes.items()),
        connections=tuple(_connection(c, target, walk.shapes[c.source]) for c, target in walk.found),
        output=walk.output,
        encoding="events",
        tick_seconds=tick_seconds,
    )
    # what an export needs to spell the network as the file does; it says nothing that the network does not
    paths = {c.label: [list(step) for step in chain.path] for c, (chain, _) in zip(network.connections, walk.found)}
    spelling: dict[str, Any] = {
        "nodes": {label: path for label, path in paths.items() if path},
        "closing": [c.label for c, (chain, _) in zip(network.connections, walk.found) if chain.closing],
        "output": walk.sink,
    }
    if walk.output in nodes and walk.type(walk.output) == "I":
        spelling["r"] = _parameter(nodes, walk.output, "r", walk.shapes[walk.output]).tolist()
    return replace(
        network,
        origin={
            "format": "NIR",
            "version": str(tree.get("version", "unknown")),
            "file": file_name,
            "node_sha256": hdf5.tree_hash(tree["node"]),
            "assume": assume,
            "dt": profile.dt,
            "spike_input": spike_input,
            "spelling": spelling,
        },
    )


def _spike(
    spike_input: str, profile: Profile, dt: float | None, tick_seconds: float | None
) -> tuple[str, float | None, float | None]:
    """What `spike_input` says: the kind, and dt and tick_seconds with what the length of a pulse says about them."""
    if spike_input == "impulse":
        return "impulse", dt, tick_seconds
    match = re.fullmatch(r"pulse:\s*([0-9.eE+-]+?)\s*(s|ms|us|ns)?", spike_input.strip())
    try:
        length = float(match[1]) if match else math.nan
    except ValueError:
        length = math.nan
    if match is None or not 0 < length < math.inf:
        raise ValueError(
            f"spike_input is {spike_input!r}, wanted impulse, or pulse:DT with a length of time such as pulse:0.1ms, "
            "or pulse:1 in the file's time unit"
        )
    if match[2] is None:
        what, has, dt = "dt", dt, length if dt is None else dt
    else:
        length /= {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[match[2]]
        what, has = ("tick", tick_seconds) if tick_seconds is not None else ("dt", dt)
        tick_seconds = length if has is None else has
        dt = length if dt is None and profile.seconds else dt
    if has is not None and abs(has - length) > 1e-9 * length:
        raise ValueError(
            f"spike_input is {spike_input!r}, and a pulse lasts one tick, but {what} is {has:g}; set "
            f"{'--tick (tick_seconds)' if what == 'tick' else 'dt'} to the length of the pulse"
        )
    return "pulse", dt, tick_seconds


# -------------------------------------------------------------------------------------------------------- the graph


def _graph(graph: Any, above: str) -> tuple[dict[str, hdf5.Tree], Edges]:
    """Nodes and edges with the graphs inside the graph taken apart; their inputs and outputs are left as `Pass`."""
    here = f"graph {above!r}" if above else "the NIR graph"
    kind = graph.get("type") if isinstance(graph, dict) else None
    if kind != "NIRGraph" or not isinstance(graph.get("nodes"), dict) or "edges" not in graph:
        raise ValueError(f"{here} is {f'a {kind}' if kind else 'not a node'}; wanted a NIRGraph with nodes and edges")
    pairs = np.asarray(graph["edges"])
    if pairs.size and (pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "OUS"):
        raise ValueError(f"the edges of {here} have shape {pairs.shape} and dtype {pairs.dtype}; wanted pairs of names")

    nodes: dict[str, hdf5.Tree] = {}
    edges: Edges = []
    entry: dict[str, str] = {}
    leave: dict[str, str] = {}
    for name, node in graph["nodes"].items():
        if not isinstance(node, dict) or not isinstance(node.get("type"), str):
            raise ValueError(f"node {above + name!r} has no type")
        full = above + name
        entry[name] = leave[name] = full
        if node["type"] != "NIRGraph":
            nodes[full] = node
            continue
        inner, inner_edges = _graph(node, f"{full}.")
        ends = {
            kind: [n for n in node["nodes"] if node["nodes"][n]["type"] == kind and f"{full}.{n}" in inner]
            for kind in ("Input", "Output")
        }
        for kind, found in ends.items():
            if len(found) != 1:
                raise ValueError(f"graph {full!r} has {len(found)} {kind} nodes; wanted exactly one in a nested graph")
            inner[f"{full}.{found[0]}"] = {"type": "Pass"}
        entry[name], leave[name] = f"{full}.{ends['Input'][0]}", f"{full}.{ends['Output'][0]}"
        for other in inner.keys() & nodes.keys():
            raise ValueError(f"two nodes are called {other!r} once nested graphs are taken apart; rename one")
        nodes |= inner
        edges += inner_edges
    for source, target in pairs.reshape(-1, 2):
        for end in (source, target):
            if end not in entry:
                raise ValueError(f"the edge from {source!r} to {target!r} names the node {end!r}, which is not there")
        edges.append((leave[source], entry[target]))
    return nodes, list(dict.fromkeys(edges))  # a duplicate edge is a slip of an exporter, not a second synapse


def _through(edges: Edges, nodes: dict[str, hdf5.Tree]) -> Edges:
    """The edges without the `Pass` nodes of nested graphs, which leave `nodes` as well; an edge may come twice now."""
    for name in [n for n in nodes if nodes[n]["type"] == "Pass"]:
        del nodes[name]
        if (name, name) in edges:
            raise ValueError(f"node {name!r} leads back to itself through nothing; wanted a neuron in a cycle")
        sources, targets = [a for a, b in edges if b == name], [b for a, b in edges if a == name]
        found: Edges = []
        for a, b in edges:
            if b == name:
                found += [(a, target) for target in targets]
            elif a != name:
                found.append((a, b))
        edges = found
        if not sources:  # so that the nodes behind it are not blamed for it
            raise ValueError(f"node {name!r} (of a nested graph) has no incoming edge; nothing feeds it")
    return edges


def _closing(start: str, after: dict[str, list[str]], breaks: set[str]) -> set[tuple[str, str]]:
    """The edges that close a cycle which no node of `breaks` is part of, by a search in depth from `start`."""
    closing: set[tuple[str, str]] = set()
    done: dict[str, bool] = {}  # False while on the trail
    roots = deque([start])
    while roots:
        if roots[0] in done:
            roots.popleft()
            continue
        trail, branches = [roots[0]], [iter(after[roots[0]])]
        done[roots[0]] = False
        while trail:  # without recursion: networks can be deeper than Python's stack
            for target in branches[-1]:
                if target in breaks:
                    if target not in done:
                        done[target] = True
                        roots.extend(after[target])
                elif target not in done:
                    done[target] = False
                    trail.append(target)
                    branches.append(iter(after[target]))
                    break
                elif not done[target]:
                    closing.add((trail[-1], target))
            else:
                done[trail.pop()] = True
                branches.pop()
    return closing


@dataclass(frozen=True)
class _Chain:
    """Linear nodes since a population, as far as they fit one connection; shape: of what comes out.

    early, late: ticks, of every unit in front of the operation and behind it, beside `delay`. scale: not yet part of an
    operation; a number, (C,), or of the shape. bias: (C,) or of the shape. path: type and name of the nodes. closing:
    whether a tick of the delay closes a cycle.
    """

    source: str
    shape: Shape
    delay: int = 0
    early: np.ndarray | None = None
    late: np.ndarray | None = None
    before: tuple[AddressMap, ...] = ()
    op: Operation | None = None
    after: tuple[AddressMap, ...] = ()
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None
    path: tuple[tuple[str, str], ...] = ()
    closing: bool = False


class _Walk:
    """Follows the graph from its input and collects populations (name -> shape) and the chains between them."""

    def __init__(self, nodes: dict[str, hdf5.Tree], edges: Edges, assume: str, profile: Profile) -> None:
        self.nodes, self.assume, self.profile = nodes, assume, profile
        self.after: dict[str, list[str]] = {name: [] for name in nodes}
        self.into: dict[str, list[str]] = {name: [] for name in nodes}
        for source, target in edges:
            self.after[source].append(target)
            self.into[target].append(source)
        self.shapes: dict[str, Shape] = {}
        self.relays: set[str] = set()
        self.found: list[tuple[_Chain, str]] = []
        self.start, self.sink, self.output = self._ends()
        slow = {n for n in nodes if self.type(n) == "Delay" and np.min(_delays(nodes, n, profile.dt)) >= 1}
        self.closing = _closing(self.start, self.after, slow)
        self.visited: set[str] = set()

    def type(self, name: str) -> str:
        return self.nodes[name]["type"]

    def _ends(self) -> tuple[str, str, str]:
        """Names of the input node, the output node, and the population that is read."""
        for name in self.nodes:
            kind = self.type(name)
            if kind not in (*LINEAR, *STATEFUL, "Input", "Output"):
                raise ValueError(f"node {name!r} has the type {kind!r}, which is not a NIR node known here")
            if kind != "Input" and not self.into[name]:
                raise ValueError(f"node {name!r} ({kind}) has no incoming edge; nothing feeds it")
            if (kind == "Input" and self.into[name]) or (kind == "Output" and self.after[name]):
                raise ValueError(f"node {name!r} ({kind}) stands in the middle of the graph; wanted it at the end")
        inputs, outputs = ([n for n in self.nodes if self.type(n) == kind] for kind in ("Input", "Output"))
        for kind, found in (("Input", inputs), ("Output", outputs)):
            if len(found) != 1:
                raise ValueError(f"the graph has {len(found)} {kind} nodes ({', '.join(found)}); wanted exactly one")
        last = self.into[outputs[0]]
        for name in self.nodes:
            if self.type(name) in READOUTS and (last != [name] or self.after[name] != outputs):
                raise ValueError(
                    f"node {name!r} ({self.type(name)}) is not the only one before the output; a potential is only "
                    "read out"
                )
        alone = len(last) == 1 and self.type(last[0]) in STATEFUL
        return inputs[0], outputs[0], last[0] if alone else outputs[0]

    def run(self) -> None:
        shape = _shape(_field(self.nodes, self.start, "shape"), self.start)
        self.shapes[self.start] = shape
        waiting = deque(self._go(_Chain(self.start, shape), self.start))
        while waiting:
            chain, name = waiting.popleft()
            waiting.extend(self._step(chain, name))
        for name in self.nodes:
            if name not in self.visited and name != self.start:
                raise ValueError(f"node {name!r} ({self.type(name)}) cannot be reached from the input")
        if self.output not in self.shapes:
            raise ValueError(f"the output {self.output!r} cannot be reached from the input")

    def _step(self, chain: _Chain, name: str) -> list[tuple[_Chain, str]]:
        """Go on to the node `name`; what comes next."""
        kind = self.type(name)
        self.visited.add(name)
        if name == self.sink and self.output != name:  # the population before it is read
            return []
        if kind in (*STATEFUL, "Output"):
            if kind == "I":
                gain = _integrating(self.nodes, name, chain.shape, self.assume, self.profile)["gain"]
                chain = self._fit(chain, name, lambda c: _times(c, gain))
            return [] if not self._arrive(chain, name) else self._go(_Chain(name, chain.shape), name)
        if len(self.into[name]) > 1:  # several signals meet before a linear node
            relay = f"{name}.sum"
            if not self._arrive(chain, relay, relay=True):
                return []
            chain = _Chain(relay, chain.shape)
        chain = self._fit(chain, name, lambda c: _append(c, name, self.nodes, self.profile, self.after[name]))
        chain = replace(chain, path=(*chain.path, (kind, name)))
        if kind in WEIGHTS and len(self.after[name]) > 1:  # computed once, used by several
            relay = f"{name}.out"
            self._arrive(chain, relay, relay=True)
            chain = _Chain(relay, chain.shape)
        return self._go(chain, name)

    def _go(self, chain: _Chain, name: str) -> list[tuple[_Chain, str]]:
        """The chain at every node that follows; where that closes a cycle, a tick later."""
        late = replace(chain, delay=chain.delay + 1, closing=True)
        return [(late if (name, target) in self.closing else chain, target) for target in self.after[name]]

    def _arrive(self, chain: _Chain, target: str, relay: bool = False) -> bool:
        """End a chain in a population; whether that population is new."""
        self.found.append((chain, target))
        new = target not in self.shapes
        if new:
            if relay and target in self.nodes:
                raise ValueError(f"a node is called {target!r}, which is needed for a relay; rename it")
            self.shapes[target] = chain.shape
            self.relays |= {target} if relay else set()
        return new

    def _fit(self, chain: _Chain, name: str, extend: Any) -> _Chain:
        """The chain with one node more; when it does not fit, it ends in a relay and a new one begins there."""
        longer = extend(chain)
        if longer is None:
            relay, count = f"{name}.in", 1
            while relay in self.shapes or relay in self.nodes:
                count += 1
                relay = f"{name}.in{count}"
            self._arrive(chain, relay, relay=True)
            longer = extend(_Chain(relay, chain.shape))
        return longer


# ------------------------------------------------------------------------------------------------ nodes in a chain


def _append(
    chain: _Chain, name: str, nodes: dict[str, hdf5.Tree], profile: Profile, following: list[str]
) -> _Chain | None:
    """The chain with a linear node appended; None when they need a relay between them."""
    node = nodes[name]
    kind = node["type"]
    try:
        if kind == "Delay":
            return _delayed(chain, _spread(_delays(nodes, name, profile.dt), chain.shape))
        if kind == "Scale":
            return _times(chain, _spread(_numbers(nodes, name, "scale"), chain.shape))
        if kind == "Flatten":
            return _flattened(chain, node, [nodes[f] for f in following])
        if kind in ("SumPool2d", "AvgPool2d"):
            kernel, stride, padding = (
                _integers(_field(nodes, name, field), 2, field) for field in ("kernel_size", "stride", "padding")
            )
            return _pooled(chain, Pool(kernel, stride, padding, "sum" if kind == "SumPool2d" else "average"))
        weight = _numbers(nodes, name, "weight")
        bias = _numbers(nodes, name, "bias") if "bias" in node else None
        if bias is not None and profile.lif_spike == "impulse":
            bias = (bias * profile.dt).astype(np.result_type(bias, np.float32))
        if kind in ("Affine", "Linear"):
            return _affine(chain, weight, bias)
        return _convolved(chain, node, weight, bias)
    except ValueError as error:
        raise ValueError(f"node {name!r} ({kind}): {error}") from None


def _delayed(chain: _Chain, ticks: np.ndarray) -> _Chain | None:
    whole = np.round(ticks)
    ticks = np.where(np.abs(ticks - whole) <= 1e-6 * np.maximum(1, whole), whole, ticks)
    if not np.any(ticks):
        return chain
    if chain.bias is not None:
        return None  # it acts from tick 0 in the connection, behind a delay it does not
    if ticks.ndim == 0 and ticks == np.round(ticks):
        return replace(chain, delay=chain.delay + int(ticks))
    units = _full(ticks, chain.shape).reshape(-1)
    if chain.op is None and all(isinstance(m, Flatten) for m in chain.before):
        return replace(chain, early=units if chain.early is None else chain.early + units)
    if chain.op is None or chain.after:
        return None
    return replace(chain, late=units if chain.late is None else chain.late + units)


def _flattened(chain: _Chain, node: hdf5.Tree, following: list[hdf5.Tree]) -> _Chain | None:
    dims = len(chain.shape)
    if dims == 1:
        return chain
    first, last = (int(np.asarray(node.get(k, d))) for k, d in (("start_dim", 0), ("end_dim", -1)))
    whole = first in (0, -dims) and last in (-1, dims - 1)
    if not whole:
        # torch counts the batch as dimension 0, NIR does not; some exporters forget
        wanted = {np.shape(n.get("weight", 0))[-1:] for n in following}
        whole = first == 1 and last in (-1, dims) and wanted == {(math.prod(chain.shape),)}
    if not whole:
        raise ValueError(f"flattens dimensions {first} to {last} of {chain.shape}; wanted all of them, 0 to -1")
    if chain.op is not None or chain.bias is not None:
        return None
    scale = None if chain.scale is None else _compact(_full(chain.scale, chain.shape).reshape(-1))
    return replace(chain, before=(*chain.before, Flatten()), shape=Flatten().out_shape(chain.shape), scale=scale)


def _pooled(chain: _Chain, pool: Pool) -> _Chain | None:
    out = pool.out_shape(chain.shape)
    if chain.early is not None or chain.late is not None:
        return None
    if chain.op is None and chain.bias is None:
        if chain.scale is not None and chain.scale.ndim > 1:
            return None
        return replace(chain, before=(*chain.before, pool), shape=out)
    bias = chain.bias
    if bias is not None:
        taps = pool.taps(chain.shape)
        full = _full(bias, chain.shape).reshape(chain.shape[0], -1)
        pooled = np.zeros((positions(out), out[0]))
        np.add.at(pooled, taps.target, (taps.coefficient * full[:, taps.source]).T)
        bias = _compact(pooled.T.reshape(out), number=False).astype(bias.dtype)
    return replace(chain, op=chain.op or Identity(), after=(*chain.after, pool), shape=out, bias=bias)


def _affine(chain: _Chain, weight: np.ndarray, bias: np.ndarray | None) -> _Chain | None:
    if weight.ndim < 2:
        raise ValueError(f"weight has shape {weight.shape}; wanted (out, in)")
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise ValueError(f"bias has shape {bias.shape}; wanted {weight.shape[:-1]}")
    if weight.ndim > 2:
        return _rows(chain, weight, bias)
    if chain.op is not None or chain.bias is not None:
        return None
    if math.prod(chain.shape) != weight.shape[1]:
        raise ValueError(f"weight has shape {weight.shape}, the source gives {chain.shape}")
    if len(chain.shape) > 1:
        chain = _flattened(chain, {}, []) or chain
    if chain.scale is not None:
        weight = (weight * chain.scale).astype(weight.dtype)
    return replace(chain, op=Dense(weight), shape=weight.shape[:1], scale=None, bias=bias)


def _rows(chain: _Chain, weight: np.ndarray, bias: np.ndarray | None) -> _Chain | None:
    """An Affine of more than one dimension: a matrix of its own for each row of the grid."""
    if chain.shape != (*weight.shape[:-2], weight.shape[-1]):
        raise ValueError(f"weight has shape {weight.shape}, the source gives {chain.shape}")
    if weight.shape[-1] == weight.shape[-2] and np.all(weight == np.eye(weight.shape[-1])):
        if bias is None or chain.bias is None:
            return replace(chain, op=_operation(chain), scale=None, bias=chain.bias if bias is None else bias)
        return replace(chain, bias=_compact(_full(chain.bias, chain.shape) + bias, number=False))
    if chain.op is not None or chain.bias is not None or chain.scale is not None:
        return None
    row, source, target = np.nonzero(np.moveaxis(weight, -1, -2).reshape(-1, weight.shape[-1], weight.shape[-2]))
    units = row * weight.shape[-1] + source  # ascending: one row of the CSR list after the other
    counts = np.bincount(units, minlength=math.prod(chain.shape))
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    values = weight.reshape(-1, *weight.shape[-2:])[row, target, source]
    op = Sparse(indptr, row * weight.shape[-2] + target, values, weight.shape[:-1])
    return replace(chain, op=op, shape=op.shape, bias=bias)


def _convolved(chain: _Chain, node: hdf5.Tree, weight: np.ndarray, bias: np.ndarray | None) -> _Chain | None:
    dims = int(node["type"][4])
    if weight.ndim != dims + 2 or len(chain.shape) != dims + 1:
        raise ValueError(f"weight has shape {weight.shape}, the source gives {chain.shape}")
    if chain.op is not None or chain.bias is not None or (chain.scale is not None and chain.scale.ndim > 1):
        return None
    stride, dilation = (_integers(node.get(k, 1), dims, k) for k in ("stride", "dilation"))
    declared = node.get("input_shape")
    if declared is not None and _integers(declared, dims, "input_shape") != chain.shape[1:]:
        raise ValueError(f"input_shape is {declared}, the source gives {chain.shape}")
    padding = _padding(node.get("padding", 0), stride, dilation, weight.shape[2:])
    (groups,) = _integers(node.get("groups", 1), 1, "groups")
    op = Conv(weight, stride, padding, dilation, groups)
    shape = op.out_shape(chain.shape)
    if bias is not None and bias.shape != shape[:1]:
        raise ValueError(f"bias has shape {bias.shape}; wanted {shape[:1]}")
    if chain.scale is not None:  # of the input's channels: each group has its own
        scale = _full(chain.scale, chain.shape[:1]).reshape(groups, 1, -1)
        parts = weight.reshape(groups, -1, weight.shape[1], math.prod(weight.shape[2:])) * scale[..., None]
        op = replace(op, weight=parts.reshape(weight.shape).astype(weight.dtype))
    return replace(chain, op=op, shape=shape, scale=None, bias=bias)


def _padding(value: Any, stride: Shape, dilation: Shape, kernel: Shape) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, str):
        return tuple((p, p) for p in _integers(value, len(kernel), "padding"))
    if value == "valid":
        return ((0, 0),) * len(kernel)
    if value != "same" or set(stride) != {1}:
        raise ValueError(f"padding is {value!r} with stride {stride}; wanted numbers, 'valid', or 'same' with stride 1")
    both = [d * (k - 1) for d, k in zip(dilation, kernel)]
    return tuple((b // 2, b - b // 2) for b in both)


def _times(chain: _Chain, factor: np.ndarray) -> _Chain | None:
    """The chain with every unit multiplied; a factor for each position passes no convolution."""
    if np.all(factor == 1):
        return chain
    if chain.op is None and chain.bias is None:
        scale = factor if chain.scale is None else _full(chain.scale, chain.shape) * _full(factor, chain.shape)
        return replace(chain, scale=_compact(scale))
    if factor.ndim > 1:
        return None
    channels = _full(factor, chain.shape[:1])
    bias = chain.bias
    if bias is not None:
        bias = (bias * channels.reshape(-1, *(1,) * (bias.ndim - 1))).astype(bias.dtype)
    op = chain.op or Identity()
    if isinstance(op, Identity):
        changed: Operation = Identity(_number(_compact(op.weight * channels)))
    elif isinstance(op, Sparse):
        units = np.repeat(channels, positions(chain.shape))
        changed = replace(op, weight=(op.weight * units[op.target]).astype(op.weight.dtype))
    else:
        rows = channels.reshape(-1, *(1,) * (op.weight.ndim - 1))
        changed = replace(op, weight=(op.weight * rows).astype(op.weight.dtype))
    return replace(chain, op=changed, bias=bias)


def _operation(chain: _Chain) -> Operation:
    """The chain's weight operation, a pending scale included."""
    if chain.op is not None:
        return chain.op
    if chain.scale is None:
        return Identity()
    if chain.scale.ndim < 2:
        return Identity(_number(chain.scale))
    units = np.arange(math.prod(chain.shape) + 1, dtype=np.int64)
    return Sparse(units, units[:-1], chain.scale.reshape(-1), chain.shape)


def _connection(chain: _Chain, target: str, source_shape: Shape) -> Connection:
    bias, op, before = chain.bias, _operation(chain), chain.before
    if bias is not None:
        bias = _compact(bias, number=False) if np.any(bias) else None
    if chain.early is not None or chain.late is not None:
        try:
            op, before = _own_delays(op, chain, source_shape), ()
        except ValueError as error:
            raise ValueError(f"the connection from {chain.source!r} to {target!r}: {error}") from None
    return Connection(
        chain.source,
        target,
        op=op,
        before=before,
        after=chain.after,
        delay=chain.delay,
        bias=bias,
    )


def _own_delays(op: Operation, chain: _Chain, shape: Shape) -> Sparse:
    """The operation synapse by synapse, each with the delays of the units it joins."""
    for step in chain.before:
        shape = step.out_shape(shape)
    out = op.out_shape(shape)
    parts = list(_synapses(op, shape, out))
    source, target, weight = (np.concatenate([part[i] for part in parts]) for i in range(3))
    order = np.argsort(source, kind="stable")
    source, target = source[order], target[order]
    delay = np.zeros(len(source))
    for units, delays in ((source, chain.early), (target, chain.late)):
        delay += 0.0 if delays is None else delays[units]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=math.prod(shape)))]).astype(np.int64)
    return Sparse(indptr, target, weight[order], out, delay)


def _synapses(op: Operation, shape: Shape, out: Shape) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Source unit, target unit and weight of every synapse, those on the padding left out."""
    units = np.arange(math.prod(shape), dtype=np.int64)
    if isinstance(op, Sparse):
        yield np.repeat(units, np.diff(op.indptr)), op.target, op.weight
    elif isinstance(op, Identity):
        yield units, units, _full(np.asarray(op.weight), shape).reshape(-1)
    elif isinstance(op, Dense):
        yield np.tile(units, out[0]), np.repeat(np.arange(out[0], dtype=np.int64), len(units)), op.weight.reshape(-1)
    else:
        most = op.weight.size * positions(out)
        if most > LARGEST:
            raise ValueError(f"its {most} synapses have delays of their own, and at most {LARGEST} are written out")
        # a source's position tells which taps of the kernel, moved over the grid, hit it
        per_group, wide = op.weight.shape[0] // op.groups, op.weight.shape[1]
        grid, hit = units.reshape(shape), np.arange(math.prod(out), dtype=np.int64).reshape(out)
        for tap in np.ndindex(*op.weight.shape[2:]):
            inside, at = [], []
            axes = zip(tap, op.stride, op.padding, op.dilation, shape[1:], out[1:], strict=True)
            for k, stride, (front, _), dilation, size, count in axes:
                place = np.arange(count) * stride - front + k * dilation
                inside.append(np.flatnonzero((place >= 0) & (place < size)))
                at.append(place[inside[-1]])
            for channel in range(shape[0]):
                group, own = divmod(channel, wide)
                targets = slice(group * per_group, (group + 1) * per_group)
                reached = np.stack([of_channel[np.ix_(*inside)].reshape(-1) for of_channel in hit[targets]])
                sources = np.broadcast_to(grid[channel][np.ix_(*at)].reshape(-1), reached.shape)
                weights = np.broadcast_to(op.weight[(targets, own, *tap)][:, None], reached.shape)
                yield sources.reshape(-1), reached.reshape(-1), weights.reshape(-1)


# ---------------------------------------------------------------------------------------------------------- neurons


def _neuron(name: str, walk: _Walk, assume: str, profile: Profile, tick_seconds: float | None) -> Neuron:
    if name in walk.relays:
        return Relay()
    kind, shape, nodes = walk.type(name), walk.shapes[name], walk.nodes
    if kind == "Input":
        return Input()
    if kind in ("Output", "I"):
        return Integrator()
    if kind == "Threshold":
        threshold = _parameter(nodes, name, "threshold", shape)
        if np.all(threshold == 0) and name != walk.output and _pools_spikes(name, walk, assume):
            return Gate()
        # without memory from tick to tick, an LIF is NIR's step function
        return LIF(threshold=_number(threshold), comparator="gt", reset="value", alpha=0.0)

    equations = {"IF": _integrating, "LIF": _leaking, "LI": _leaking}.get(kind, _current_based)
    values = equations(nodes, name, shape, assume, profile)
    # NIR's time units become seconds, or are left out
    unit = None if tick_seconds is None else tick_seconds / profile.dt
    for field in ("tau", "tau_syn"):
        if field in values:
            values[field] = None if unit is None else values[field] * unit
    for field in ("input_rate", "syn_rate"):
        if values.get(field) is not None:
            values[field] = None if unit is None else values[field] / unit
    changes: dict[str, Any] = {k: v if v is None else _number(_compact(_full(v, shape))) for k, v in values.items()}
    if kind != "IF":
        changes["alpha_from"] = profile.decay
    if kind in READOUTS:
        return LI(**changes) if kind == "LI" else CubaLI(**changes)

    habit = preset(assume)
    if habit.reset == "value" and profile.v_reset and "v_reset" in nodes[name]:
        changes["reset_value"] = _number(_parameter(nodes, name, "v_reset", shape))
    if assume == "sinabs" and kind != "IF":
        changes["v_min"] = None  # it clamps its IF neurons only
    if assume == "snncutoff" and kind != "IF":
        changes["leak"] = "after"
    if assume == "snntorch":
        changes |= {"reset_delay": False} | ({} if kind == "IF" else {"reset": "value"})
    neuron = preset(assume, _number(_parameter(nodes, name, "v_threshold", shape)), **changes)
    # numpy's 0-d numbers as Python's
    return replace(neuron, v0=_number(neuron.v0), v_min=None if neuron.v_min is None else _number(neuron.v_min))


def _wrong(nodes: dict[str, hdf5.Tree], name: str, what: str) -> ValueError:
    return ValueError(f"node {name!r} ({nodes[name]['type']}): {what}")


Values = dict[str, Any]  # fields of a neuron: what a tick does, and in NIR's time unit tau, tau_syn and the rates


def _integrating(nodes: dict[str, hdf5.Tree], name: str, shape: Shape, assume: str, profile: Profile) -> Values:
    """The fields of an IF, or what an I multiplies its input with."""
    r = _parameter(nodes, name, "r", shape)
    if profile.if_r == "one" and np.any(r != 1):
        raise _wrong(nodes, name, f"r is not 1, and {assume} knows no other")
    r = r if profile.if_r == "heeded" else np.ones(())
    if profile.if_spike == "pulse":
        return {"gain": r * profile.dt, "input_rate": r}
    return {"gain": r}  # in continuous time, too, a steady input of 1 is one spike in every tick


def _leaking(nodes: dict[str, hdf5.Tree], name: str, shape: Shape, assume: str, profile: Profile) -> Values:
    """The fields of a LIF or LI."""
    tau, alpha = _decay(nodes, name, "tau", shape, profile)
    r = _parameter(nodes, name, "r", shape) if profile.lif_r else np.ones(())
    found = {"alpha": alpha, "rest": _rest(nodes, name, shape, assume, profile.v_leak), "tau": tau}
    r, tau, alpha = (_full(x, shape) for x in (r, tau, alpha))
    if profile.lif_spike == "weight":
        return found | {"gain": np.ones(())}
    if profile.lif_spike == "impulse":
        return found | {"gain": r / tau}
    lost = profile.dt / tau if profile.decay == "euler" else 1 - alpha
    return found | {"gain": r * lost, "input_rate": r / tau}


def _current_based(nodes: dict[str, hdf5.Tree], name: str, shape: Shape, assume: str, profile: Profile) -> Values:
    """The fields of a CubaLIF or CubaLI."""
    if not profile.cuba_r:
        read = [p for p in PROFILES if PROFILES[p].cuba_r]
        others = f"{', '.join(read[:-1])} or {read[-1]}"
        raise _wrong(nodes, name, f"{assume} reads no current-based neurons; assume {others}")
    tau, alpha = _decay(nodes, name, "tau_mem", shape, profile)
    tau_syn, alpha_syn = _decay(nodes, name, "tau_syn", shape, profile)
    rest = _rest(nodes, name, shape, assume, profile.v_leak and assume != "norse")  # which lets the current rest there
    found = {"alpha": alpha, "rest": rest, "tau": tau, "alpha_syn": alpha_syn, "tau_syn": tau_syn}
    r = _parameter(nodes, name, "r", shape)
    w_in = _parameter(nodes, name, "w_in", shape) if "w_in" in nodes[name] else np.ones(())
    r, w_in, tau, tau_syn, alpha_syn = (_full(x, shape) for x in (r, w_in, tau, tau_syn, alpha_syn))
    if profile.cuba_r == "tau_mem / dt":
        if not np.allclose(r, tau / profile.dt):
            wanted = f"tau_mem / dt at a dt of {profile.dt:g}"
            raise _wrong(nodes, name, f"r is not {wanted}, and {assume} knows no other")
        r = tau / profile.dt
    found["input_rate"] = r / tau
    mem, syn = profile.dt / tau, profile.dt / tau_syn
    lost = syn if profile.decay == "euler" else -np.expm1(-syn)
    if profile.lif_spike == "pulse":
        found |= {"gain_syn": w_in * lost, "syn_rate": w_in / tau_syn}
    else:
        found["gain_syn"] = w_in / tau_syn
    if profile.decay == "euler":
        return found | {"gain": r * mem}
    kept, driven = held(mem, syn)
    if profile.lif_spike == "impulse":  # the current jumps at the beginning of the tick
        return found | {"gain": r * kept}
    driven = driven / lost
    return found | {"gain": r * driven, "gain_old": r * (kept - alpha_syn * driven)}


def held(mem: np.ndarray, syn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a membrane gets in a tick, for r = 1: of a current of 1 that decays; of the one that an input of 1 makes.

    mem, syn: dt / tau_mem and dt / tau_syn. The integrals of exp(-mem (1 - x)) exp(-syn x) and of
    exp(-mem (1 - x)) (1 - exp(-syn x)) over a tick, x from 0 to 1, times mem. Their closed forms are differences of
    nearly equal numbers where ticks are short or the time constants alike. Gauss' formula adds positive terms only,
    and has converged for whatever 1e-9 or more is left of after a tick.
    """
    node, weight = np.polynomial.legendre.leggauss(40)
    x, weight = (node + 1) / 2, weight / 2
    mem, syn = (np.asarray(v, np.float64)[..., None] for v in (mem, syn))
    leak = weight * np.exp(-mem * (1 - x)) * mem
    return np.sum(leak * np.exp(-syn * x), -1), np.sum(leak * -np.expm1(-syn * x), -1)


def _decay(
    nodes: dict[str, hdf5.Tree], name: str, field: str, shape: Shape, profile: Profile
) -> tuple[np.ndarray, np.ndarray]:
    """A time constant, and what is kept after a tick."""
    tau = _parameter(nodes, name, field, shape)
    if not np.all(tau > 0):
        raise _wrong(nodes, name, f"{field} is {tau.min()}; wanted a positive time")
    alpha = np.exp(-profile.dt / tau) if profile.decay == "exp" else 1 - profile.dt / tau
    if np.any(alpha < 1e-9 if profile.decay == "exp" else alpha < 0):  # else seconds were taken for ticks
        lost = f"{field} is {tau.min()}, and nothing of that is left after a tick of {profile.dt}"
        raise _wrong(nodes, name, f"{lost}; give the tick in the file's time unit (dt)")
    return tau, alpha


def _rest(nodes: dict[str, hdf5.Tree], name: str, shape: Shape, assume: str, heeded: bool) -> np.ndarray:
    rest = _parameter(nodes, name, "v_leak", shape)
    if np.any(rest != 0) and not heeded:
        raise _wrong(nodes, name, f"v_leak is not 0, and {assume} knows no leak potential")
    return rest


def _pools_spikes(name: str, walk: _Walk, assume: str) -> bool:
    """Whether only sums of binary events arrive, so that a threshold of 0 is a spiking max-pool."""
    for chain, target in walk.found:
        if target != name:
            continue
        if chain.op is not None or chain.scale is not None or chain.bias is not None or chain.source in walk.relays:
            return False
        if not all(isinstance(m, Pool) and m.kind == "sum" for m in chain.before):
            return False
        if chain.early is not None or (walk.type(chain.source) in SPIKING and preset(assume).multi_spike):
            return False
    return True


# ----------------------------------------------------------------------------------------------------------- fields


def _field(nodes: dict[str, hdf5.Tree], name: str, field: str) -> Any:
    if field not in nodes[name]:
        raise ValueError(f"node {name!r} ({nodes[name]['type']}) has no field {field!r}")
    return nodes[name][field]


def _numbers(nodes: dict[str, hdf5.Tree], name: str, field: str) -> np.ndarray:
    value = _field(nodes, name, field)
    if isinstance(value, str | dict) or np.asarray(value).dtype.kind not in "fiu":
        raise ValueError(f"field {field!r} holds no numbers")
    value = np.asarray(value)
    if not np.all(np.isfinite(value)):
        raise ValueError(f"field {field!r} holds NaN or infinity")
    return value


def _parameter(nodes: dict[str, hdf5.Tree], name: str, field: str, shape: Shape) -> np.ndarray:
    """A neuron's parameter, float64: 0-d, (channels,) or of the population's shape, whichever is enough.

    Files hold scalars (snnTorch), one number for all, channels, or a leading batch dimension (older sinabs).
    """
    try:
        return _spread(_numbers(nodes, name, field).astype(np.float64), shape)
    except ValueError as error:
        raise ValueError(f"node {name!r} ({nodes[name]['type']}), {field!r}: {error}") from None


def _spread(value: np.ndarray, shape: Shape) -> np.ndarray:
    if value.size == 1:
        return _compact(value.reshape(()))
    if value.size == math.prod(shape) and tuple(n for n in value.shape if n > 1) == tuple(n for n in shape if n > 1):
        return _compact(value.reshape(shape))
    if value.size == shape[0] and (
        value.ndim == 1 or value.shape[-len(shape) :] == (shape[0],) + (1,) * len(shape[1:])
    ):
        return _compact(value.reshape(-1))
    raise ValueError(f"has shape {value.shape}, what arrives has shape {shape}")


def _compact(value: np.ndarray, number: bool = True) -> np.ndarray:
    """The same values in the smallest of a 0-d array (where allowed), (C,), or the whole shape."""
    value = np.asarray(value)
    if value.ndim > 1:
        rows = value.reshape(value.shape[0], -1)
        if np.all(rows == rows[:, :1]):
            value = rows[:, 0]
    if number and value.ndim == 1 and np.all(value == value[0]):
        value = value[0]
    return np.array(value)


def _number(value: Parameter) -> Parameter:
    """A Python number instead of a 0-d array."""
    return float(value) if np.ndim(value) == 0 else value


def _full(value: np.ndarray, shape: Shape) -> np.ndarray:
    value = np.asarray(value)
    if value.ndim == 1 and len(shape) > 1:
        value = value.reshape(-1, *(1,) * (len(shape) - 1))
    return np.array(np.broadcast_to(value, shape))


def _integers(value: Any, count: int, what: str) -> tuple[int, ...]:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or array.size not in (1, count) or np.any(array != np.round(array)):
        raise ValueError(f"{what} is {value!r}; wanted {count} whole numbers")
    return tuple(int(n) for n in np.broadcast_to(array.reshape(-1), (count,)))


def _shape(value: Any, name: str) -> Shape:
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise ValueError(f"node {name!r}: shape is {value!r}; wanted the sizes of its dimensions")
    return tuple(int(n) for n in array)


def _delays(nodes: dict[str, hdf5.Tree], name: str, dt: float) -> np.ndarray:
    """The ticks of a delay node's units."""
    try:
        delay = _numbers(nodes, name, "delay").astype(np.float64)
    except ValueError as error:
        raise _wrong(nodes, name, str(error)) from None
    if not delay.size or np.any(delay < 0):
        raise _wrong(nodes, name, f"the delay is {delay.min() if delay.size else 'empty'}; wanted times, 0 or more")
    return delay / dt
