"""NIR: what we write, nir opens, and it means the same network; what others wrote is read, or refused by name."""

import itertools
import math
import os
from dataclasses import replace
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import HealthCheck, given, settings
from naive import simulate
from networks import cases

from eventsnn import import_nir, store
from eventsnn.import_nir import from_nir
from eventsnn.lower_nir import export_nir, faithful, lower
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
    Sparse,
    Subsample,
)
from eventsnn.neurons import IF, LIF, Gate, Input, Integrator, Relay

MODELS = Path(os.environ.get("EVENTSNN_DATA", Path(__file__).resolve().parents[2] / "shared")) / "models"
needs_data = pytest.mark.skipif(not MODELS.is_dir(), reason="data absent")


def drawn(examples):
    """Hypothesis, for tests that open files: no deadline, and nothing kept in the working folder."""
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(max_examples=examples, deadline=None, database=None, suppress_health_check=checks)


RNG = np.random.default_rng(0)


def whole(*shape):
    return RNG.integers(-2, 4, shape).astype(np.float32)


def network(*layers, shape=(2, 6, 5), output=None, encoding="events", extra=(), **options):
    """Layers (name, shape, neuron, connection options) one behind the other, and extra connections."""
    populations, connections = [Population("in", shape, Input())], list(extra)
    for name, size, neuron, how in layers:
        connections.append(Connection(how.pop("source", populations[-1].name), name, **how))
        populations.append(Population(name, size, neuron))
    return Network(
        populations=tuple(populations),
        connections=tuple(connections),
        output=output or populations[-1].name,
        encoding=encoding,
        **options,
    )


def nir_neuron(threshold=1.0, **options):
    """A neuron that NIR says completely."""
    return IF(threshold=threshold, comparator="gt", reset="value", **options)


# ------------------------------------------------------------------------------------------------- a NIR stepper


def nir_linear(node, x):
    """One linear NIR node, by numpy and torch's own layers."""
    kind = node["type"]
    if kind in ("Affine", "Linear"):
        return np.einsum("...oi,...i->...o", node["weight"].astype(float), x) + node.get("bias", 0.0)
    if kind == "Scale":
        return x * node["scale"]
    if kind == "Flatten":
        assert tuple(node["input_type"]) == x.shape
        return x.reshape(*x.shape[: node["start_dim"]], math.prod(x.shape[node["start_dim"] :]))
    image = torch.from_numpy(x)[None]
    if kind.endswith("Pool2d"):
        sides = [tuple(int(n) for n in node[k]) for k in ("kernel_size", "stride", "padding")]
        pooled = functional.avg_pool2d(image, *sides)[0].numpy()
        return pooled * math.prod(sides[0]) if kind == "SumPool2d" else pooled
    convolve = {"Conv1d": functional.conv1d, "Conv2d": functional.conv2d}[kind]
    weight, bias = (torch.from_numpy(node[k].astype(float)) for k in ("weight", "bias"))
    options = {k: tuple(np.atleast_1d(node[k]).tolist()) for k in ("stride", "padding", "dilation")}
    return convolve(image, weight, bias, **options)[0].numpy()


def run_nir(lowering, sample, ticks):
    """Step NIR nodes with one time unit per tick; spikes (tick, node, unit) and what reached the output so far."""
    nodes = lowering.nodes
    into = {name: [a for a, b in lowering.edges if b == name] for name in nodes}
    order: list[str] = []
    while len(order) < len(nodes):  # a delay answers from the past, so nothing waits for its input
        ready = [
            n for n in nodes if n not in order and (nodes[n]["type"] == "Delay" or all(a in order for a in into[n]))
        ]
        assert ready, "a cycle without delay"
        order += ready
    past = {n: [] for n in nodes if nodes[n]["type"] == "Delay"}
    v = {n: np.zeros(nodes[n]["r"].shape) for n in nodes if nodes[n]["type"] in ("IF", "LIF")}
    (sink,) = (n for n in nodes if nodes[n]["type"] == "Output")
    spikes, total, outputs = set(), 0.0, []
    for tick in range(ticks):
        value = {}
        for name in order:
            node = nodes[name]
            if node["type"] == "Delay":
                late = tick - int(node["delay"].flat[0])
                value[name] = past[name][late] if late >= 0 else np.zeros(node["delay"].shape)
                continue
            x = sum((value[a] for a in into[name]), 0.0)
            if node["type"] == "Input":
                x = np.zeros(math.prod(node["shape"]))
                np.add.at(x, [unit for when, unit in sample if when == tick], 1.0)
                value[name] = x.reshape(node["shape"])
            elif node["type"] == "IF":
                v[name] = v[name] + node["r"] * x
                value[name] = (v[name] > node["v_threshold"]).astype(float)
                v[name] = np.where(value[name] > 0, node["v_reset"], v[name])
            elif node["type"] == "Threshold":
                value[name] = (x > node["threshold"]).astype(float)
            elif node["type"] in ("Output", "I"):
                value[name] = x
            else:
                value[name] = nir_linear(node, x)
            if node["type"] in ("IF", "Threshold"):
                spikes |= {(tick, name, int(unit)) for unit in np.flatnonzero(value[name])}
        for name in past:
            past[name].append(sum((value[a] for a in into[name]), 0.0))
        total = total + value[sink]
        outputs.append(total.ravel().tolist())
    return spikes, outputs


def plain(network):
    """A drawn network with neurons and tables that NIR can say."""
    populations = []
    for p in network.populations:
        neuron = p.neuron
        if isinstance(neuron, IF):
            neuron = nir_neuron(neuron.threshold, gain=neuron.gain, reset_value=neuron.reset_value)
        populations.append(replace(p, neuron=neuron))
    connections = [
        replace(
            c,
            **{
                k: np.repeat(getattr(c, k)[:1], network.ticks, 0)
                for k in ("scale", "shift")
                if getattr(c, k) is not None
            },
        )
        for c in network.connections
    ]
    return replace(network, populations=tuple(populations), connections=tuple(connections))


def spikes_of(result, names):
    return {(tick, name, unit) for tick, name, unit, _ in result.events if name in names}


# ------------------------------------------------------------------------------------------------------ our own files


@drawn(100)
@given(cases())
def test_nir_opens_every_network_that_can_be_drawn(tmp_path_factory, case):
    """Breaks when a construct is lowered to something whose shapes nir computes otherwise than we do."""
    path = tmp_path_factory.getbasetemp() / "drawn.h5"
    store.save(case.network, path)
    graph = nir.read(path)
    assert {p.name for p in case.network.populations if isinstance(p.neuron, IF)} <= graph.nodes.keys()


@drawn(80)
@given(cases(encoding="events"))
def test_lowering_means_the_same_network(case):
    """Breaks when an edge, a kernel, a delay or a table is lowered to something that computes other spikes."""
    network = plain(case.network)
    names = {p.name for p in network.populations if isinstance(p.neuron, IF | Gate)}
    for sample in case.samples:
        expected = simulate(network, sample, case.ticks)
        spikes, outputs = run_nir(lower(network), sample, case.ticks)
        assert spikes == spikes_of(expected, names)
        assert outputs == expected.outputs


@drawn(80)
@given(cases(encoding="events"))
def test_import_of_an_export_means_the_same_network(tmp_path_factory, case):
    """Breaks when a chain of NIR nodes is folded into connections, relays and gates that compute other spikes."""
    network = plain(case.network)
    lowering = lower(network)
    path = tmp_path_factory.getbasetemp() / "exported.nir"
    export_nir(network, path, lossy=True)
    if any("vector becomes a grid" in note for note in lowering.notes):
        with pytest.raises(ValueError, match=r"exported\.nir: node '.*' \(Conv"):
            from_nir(path, "nir")
        return
    again = from_nir(path, "nir")
    names = {p.name for p in network.populations if isinstance(p.neuron, IF)}
    assert names == {p.name for p in again.populations if type(p.neuron) is IF}  # a LIF is a step function here
    for sample in case.samples:
        expected, found = (simulate(n, sample, case.ticks) for n in (network, again))
        assert spikes_of(found, names) == spikes_of(expected, names)
        assert found.outputs == expected.outputs


GRID = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}

HARD = {
    "grouped": Connection("in", "out", Conv(whole(4, 2, 3, 3), **GRID, groups=2)),
    "depthwise": Connection("in", "out", Conv(whole(4, 1, 3, 3), **GRID, groups=4)),
    "oblong": Connection("in", "out", Conv(whole(4, 4, 3, 1), (1, 1), ((1, 1), (0, 0)), (1, 1))),
    "oblong, odd and even": Connection("in", "out", Conv(whole(4, 4, 3, 2), (1, 1), ((1, 1), (0, 1)), (1, 1))),
    "even": Connection("in", "out", Conv(whole(4, 4, 2, 2), (1, 1), ((1, 0), (1, 0)), (1, 1))),
    "one-sided": Connection("in", "out", Conv(whole(4, 4, 3, 3), (1, 1), ((2, 0), (0, 2)), (1, 1))),
    "dilated, one-sided": Connection("in", "out", Conv(whole(4, 4, 2, 3), (1, 1), ((2, 0), (3, 1)), (2, 2))),
    "two dilations": Connection("in", "out", Conv(whole(4, 4, 3, 3), (1, 1), ((1, 1), (2, 2)), (1, 2))),
    "ceil": Connection("in", "out", before=(Pool((2, 2), (2, 2), (0, 0), ceil_mode=True),)),
    "ceil, padded": Connection("in", "out", before=(Pool((3, 2), (2, 2), (1, 1), "average", True, False),)),
    "padding not counted": Connection("in", "out", before=(Pool((3, 3), (1, 1), (1, 1), count_include_pad=False),)),
    "dilated window": Connection("in", "out", before=(Pool((2, 2), (1, 1), (0, 0), "sum", dilation=(2, 2)),)),
    "uneven adaptive": Connection("in", "out", before=(AdaptivePool((4, 3)),)),
    "global": Connection("in", "out", Dense(whole(3, 4)), before=(AdaptivePool((1, 1)), Flatten())),
    "option A": Connection("in", "out", before=(Subsample((2, 2), (1, 2)),)),
    "bias by position": Connection("in", "out", bias=whole(4, 7, 5)),
    "bias by channel": Connection("in", "out", Identity(2.0), bias=np.array([1.0, 0, 2, 3])),
    "scaled": Connection("in", "out", Conv(whole(4, 4, 3, 3), **GRID), scale=np.full((5, 4), 2.0), bias=np.ones(4)),
    "delayed": Connection("in", "out", Conv(whole(4, 4, 3, 3), **GRID), delay=2, bias=np.ones(4)),
}


@pytest.mark.parametrize("name", HARD)
def test_what_nir_shapes_otherwise_is_lowered_exactly(tmp_path, name):
    """Breaks when one of the constructs that nir mis-shapes is written as it is, or loses its meaning."""
    c = HARD[name]
    shape = (4, 7, 5)
    neuron = nir_neuron(0.7)
    populations = (Population("in", shape, Input()), Population("out", c.shapes(shape)[-1], neuron))
    network = Network(populations=populations, connections=(c,), output="out", encoding="events")
    store.save(network, tmp_path / "net.h5")
    graph = nir.read(tmp_path / "net.h5")
    assert tuple(graph.nodes["out"].output_type["output"]) == network["out"].shape
    sample = sorted((int(t), int(u)) for t, u in zip(RNG.integers(0, 4, 200), RNG.integers(0, 140, 200)))
    # some of these averages are not dyadic, but none of their sums comes near 0.7
    expected = simulate(network, sample, 5)
    spikes, _ = run_nir(lower(network), sample, 5)
    assert spikes == spikes_of(expected, {"out"})
    assert len(spikes) > 0


def test_two_bare_connections_are_one_edge_of_twice_the_weight(tmp_path):
    """Breaks when a duplicate edge, which nir refuses, is merged and half the input is lost."""
    twice = [Connection("in", "hidden")]
    net = network(
        ("hidden", (3,), nir_neuron(1.5), {}),
        ("relay", (3,), Relay(), {}),
        ("out", (2,), Integrator(), {"op": Dense(whole(2, 3))}),
        shape=(3,),
        extra=[*twice, Connection("hidden", "relay"), Connection("in", "relay", delay=1)],
    )
    store.save(net, tmp_path / "net.h5")
    graph = nir.read(tmp_path / "net.h5")
    assert ("in", "hidden") not in graph.edges
    assert [np.unique(n.scale).tolist() for n in graph.nodes.values() if isinstance(n, nir.Scale)] == [[2.0], [2.0]]
    sample = [(0, 0), (1, 1), (2, 2), (2, 2)]
    assert run_nir(lower(net), sample, 4)[1] == simulate(net, sample, 4).outputs


def test_max_pool_is_a_sum_and_a_threshold(tmp_path):
    """Breaks when the window of a spiking max-pool does more, or less, than OR."""
    net = network(
        ("gate", (2, 3, 2), Gate(), {"before": (Pool((2, 2), (2, 2), (0, 0), "sum"),)}),
        ("out", (2, 3, 2), nir_neuron(0.5), {}),
    )
    assert faithful(net) == []
    export_nir(net, tmp_path / "net.nir")
    graph = nir.read(tmp_path / "net.nir")
    assert {type(n).__name__ for n in graph.nodes.values()} == {"Input", "SumPool2d", "Threshold", "IF", "Output"}
    again = from_nir(tmp_path / "net.nir", "nir")
    assert isinstance(again["gate"].neuron, Gate)
    assert again.connections[0].before == (Pool((2, 2), (2, 2), (0, 0), "sum"),)


def test_lif_survives_where_nir_holds_it(tmp_path):
    """Breaks when tau or r are written by another rule than they are read by."""
    alphas = np.array([0.9, 0.5, 0.25], np.float64)
    neuron = LIF(threshold=1.0, comparator="gt", reset="value", alpha=alphas, gain=0.5, rest=-0.25, reset_value=-0.5)
    net = network(("out", (3,), neuron, {"op": Dense(whole(3, 4))}), shape=(4,))
    with pytest.raises(ValueError, match=r"leaks: tau is written for a decay of exp\(-1/tau\).*: out\); set lossy"):
        export_nir(net, tmp_path / "net.nir")
    assert list(tmp_path.iterdir()) == []
    export_nir(net, tmp_path / "net.nir", lossy=True)
    again = from_nir(tmp_path / "net.nir", "nir")["out"].neuron
    np.testing.assert_allclose(again.alpha, alphas, rtol=1e-15)
    np.testing.assert_allclose(again.gain, 0.5, rtol=1e-15)
    assert (again.rest, again.reset_value, again.alpha_from) == (-0.25, -0.5, "exp")

    euler = replace(neuron, alpha_from="euler")
    export_nir(network(("out", (3,), euler, {"op": Dense(whole(3, 4))}), shape=(4,)), tmp_path / "e.nir", lossy=True)
    again = from_nir(tmp_path / "e.nir", "norse", dt=1.0)["out"].neuron
    np.testing.assert_allclose(again.alpha, alphas, rtol=1e-15)


def test_leak_factors_at_their_bounds_have_a_time_constant(tmp_path):
    """Breaks when alpha 0 or 1 becomes a tau of 0 or infinity, which no reader can use."""
    net = network(("out", (3,), LIF(alpha=np.array([0.0, 1.0, 0.5])), {"op": Dense(whole(3, 4))}), shape=(4,))
    node = lower(net).nodes["out"]
    assert node["type"] == "LIF"
    assert np.all(np.isfinite(node["tau"]))
    assert np.all(node["tau"] > 0)
    np.testing.assert_allclose(node["r"] * (1 - np.exp(-1 / node["tau"])), [1 - np.exp(-1), 1, 1], rtol=1e-6)
    leakless = network(("out", (3,), LIF(alpha=1.0), {"op": Dense(whole(3, 4))}), shape=(4,))
    assert lower(leakless).nodes["out"]["type"] == "IF"


def test_faithful_networks_come_back_the_same(tmp_path):
    """Breaks when a network that NIR says completely is read back with another structure."""
    net = network(
        ("a", (4, 6, 5), nir_neuron(1.5), {"op": Conv(whole(4, 2, 3, 3), **GRID), "bias": np.arange(4, dtype="f4")}),
        (
            "b",
            (4, 3, 3),
            nir_neuron(np.float64(2.5), reset_value=-1.0),
            {"op": Conv(whole(4, 4, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1))},
        ),
        (
            "c",
            (8,),
            nir_neuron(np.arange(8) + 0.5),
            {"op": Dense(whole(8, 4)), "before": (Pool((3, 3), (1, 1), (0, 0)), Flatten())},
        ),
        ("logits", (3,), Integrator(), {"op": Dense(whole(3, 8)), "bias": np.ones(3, "f4")}),
        extra=[Connection("c", "c", Dense(whole(8, 8)), delay=2), Connection("a", "a", delay=1)],
    )
    assert faithful(net) == []
    export_nir(net, tmp_path / "net.nir")
    again = from_nir(tmp_path / "net.nir", "nir")
    assert again.output == "logits"
    assert again.readout == "sum"
    assert again.encoding == "events"
    assert [p.name for p in again.populations] == [p.name for p in net.populations]
    found = {c.label: c for c in again.connections}
    assert found.keys() == {c.label for c in net.connections}
    for c in net.connections:
        other = found[c.label]
        assert (other.before, other.after, other.delay, type(other.op)) == (c.before, c.after, c.delay, type(c.op))
        assert np.array_equal(other.op.weight, c.op.weight)
        assert (other.bias is None) == (c.bias is None)
        assert c.bias is None or np.array_equal(other.bias, c.bias)
        if isinstance(c.op, Conv):
            assert (other.op.stride, other.op.padding, other.op.dilation) == (c.op.stride, c.op.padding, c.op.dilation)
    for p in net.populations:
        other = again[p.name]
        assert other.shape == p.shape
        assert type(other.neuron) is type(p.neuron)
        if isinstance(p.neuron, IF):
            for name in p.neuron.__dataclass_fields__:
                assert np.array_equal(getattr(other.neuron, name), getattr(p.neuron, name)), name


REASONS = {
    "fires at u >= threshold": {"neuron": IF(reset="value")},
    "is reset by subtraction": {"neuron": IF(comparator="gt")},
    "is not reset": {"neuron": IF(comparator="gt", reset="none")},
    "starts at another potential": {"neuron": nir_neuron(v0=0.5)},
    "lower bound": {"neuron": nir_neuron(v_min=-1.0)},
    "refractory time": {"neuron": nir_neuron(refractory=2)},
    "several times in a tick": {"neuron": IF(comparator="gt", multi_spike=True)},
    "one tick late": {"neuron": nir_neuron(reset_delay=True)},
    "leaks": {"neuron": LIF(comparator="gt", reset="value", alpha=0.5)},
    "encoded as 'direct'": {"encoding": "direct"},
    "encoded as 'rate'": {"encoding": "rate"},
    "no scale that changes": {"scale": np.array([[1.0, 1, 1], [2, 1, 1]])},
    "no shift that changes": {"shift": np.array([[1.0, 1, 1], [2, 1, 1]])},
    "vector becomes a grid": {"grid": True},
}


@pytest.mark.parametrize("reason", REASONS)
def test_export_refuses_what_others_would_run_differently(tmp_path, reason):
    """Breaks when something NIR cannot say leaves the house without a word."""
    given = dict(REASONS[reason])
    neuron, encoding = given.pop("neuron", nir_neuron()), given.pop("encoding", "events")
    if given.pop("grid", False):
        units = np.arange(5)
        given["op"] = Sparse(units, units[:-1], np.ones(4), (3, 2, 1))
        net = network(("out", (3, 2, 1), neuron, given), shape=(4,), encoding=encoding)
    else:
        net = network(("out", (3,), neuron, {"op": Dense(whole(3, 4)), **given}), shape=(4,), encoding=encoding)
    assert any(reason in text for text in faithful(net))
    with pytest.raises(ValueError, match=rf"NIR cannot say everything.*{reason}.*--lossy"):
        export_nir(net, tmp_path / "net.nir")
    assert list(tmp_path.iterdir()) == []
    export_nir(net, tmp_path / "net.nir", lossy=True)
    assert "eventsnn" not in nir.read(tmp_path / "net.nir").nodes
    nir.read(tmp_path / "net.nir")
    constant = network(
        ("out", (3,), nir_neuron(), {"op": Dense(whole(3, 4)), "scale": np.full((4, 3), 2.0)}), shape=(4,)
    )
    assert faithful(constant) == []


def test_what_has_no_lowering_is_refused_by_name(tmp_path):
    """Breaks when a network is saved whose nodes nobody can write down, or when half a file stays behind."""
    big = Sparse(np.zeros(20001, np.int64), np.zeros(0, np.int64), np.zeros(0), (20000,))
    net = network(("out", (20000,), IF(), {"op": big}), shape=(20000,))
    with pytest.raises(ValueError, match="connection 'in->out' cannot be written as NIR: its 0 synapses as a dense"):
        store.save(net, tmp_path / "net.h5")
    lonely = network(("out", (3,), IF(), {"source": "out", "delay": 1}), shape=(3,))
    with pytest.raises(ValueError, match="the input population 'in' feeds nothing"):
        store.save(lonely, tmp_path / "net.h5")
    assert any("cannot be written as NIR" in reason for reason in faithful(net))
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- files of other tools


def conv2d(weight, stride=1, padding=0, dilation=1, groups=1, bias=None, input_shape=(6, 5)):
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    return nir.Conv2d(input_shape, weight, stride, padding, dilation, groups, bias)


def nir_if(shape=(3,), threshold=1.0, r=1.0, v_reset=0.0):
    return nir.IF(np.full(shape, r), np.full(shape, threshold), np.full(shape, v_reset))


def nir_lif(shape=(3,), tau=2.0, r=1.0, v_leak=0.0, threshold=1.0):
    return nir.LIF(*(np.full(shape, x) for x in (tau, r, v_leak, threshold)))


def written(path, nodes, edges=None):
    """A NIR file by nir's own writer; without edges the nodes follow one another."""
    names = list(nodes)
    edges = list(itertools.pairwise(names)) if edges is None else edges
    nir.write(path, nir.NIRGraph(nodes, edges, type_check=False), compression=None)
    return path


def chain(path, *between, shape=(4,), out=(3,)):
    nodes = {"input": nir.Input(np.array(shape)), **{f"n{i}": n for i, n in enumerate(between)}}
    return written(path, {**nodes, "output": nir.Output(np.array(out))})


@needs_data
def test_the_sinabs_network_loads():
    """Breaks when the published N-MNIST network is read as another one."""
    net = store.load(MODELS / "nir" / "cnn_sinabs.nir", assume="sinabs")
    assert net.encoding == "events"
    assert net.readout == "spikes"
    assert net.input.shape == (2, 34, 34)
    assert net[net.output].shape == (10,)
    assert [p.shape for p in net.populations] == [(2, 34, 34), (16, 16, 16), (16, 16, 16), (8, 8, 8), (256,), (10,)]
    assert [type(c.op).__name__ for c in net.connections] == ["Conv"] * 3 + ["Dense"] * 2
    neuron = net[net.output].neuron
    assert (neuron.comparator, neuron.reset, neuron.multi_spike, neuron.v_min) == ("ge", "subtract", True, -1.0)
    assert net.tick_seconds is None
    assert from_nir(MODELS / "nir" / "cnn_sinabs.nir", "sinabs", tick_seconds=1e-3).tick_seconds == 1e-3
    with pytest.raises(ValueError, match=r"cnn_sinabs\.nir: a NIR file.*--assume nir\|sinabs\|snntorch\|norse\|"):
        store.load(MODELS / "nir" / "cnn_sinabs.nir")
    with pytest.raises(ValueError, match="no profile 'snn' to assume; choose one of nir, sinabs"):
        store.load(MODELS / "nir" / "cnn_sinabs.nir", assume="snn")


@needs_data
def test_a_kind_of_neuron_that_is_not_built_is_named():
    """Breaks when a CubaLIF network is read as something else."""
    with pytest.raises(ValueError, match=r"node 'lif1\.lif' is a CubaLIF, which is not supported yet"):
        store.load(MODELS / "nir" / "braille_noDelay_bias_zero.nir", assume="norse")
    net = store.load(MODELS / "nir" / "lif_rockpool.nir", assume="norse")  # its output's shape is (1, 1, 1)
    assert net[net.output].shape == (1,)


PROFILES = [
    # profile, options, IF gain at r = 3, LIF alpha and gain at tau = 0.002, r = 3; reset and comparator of an IF
    ("nir", {"dt": 1e-3}, 3e-3, math.exp(-0.5), 3 * (1 - math.exp(-0.5)), "value", "gt"),
    ("sinabs", {"dt": 1e-3}, 1.0, math.exp(-0.5), 1.0, "subtract", "ge"),
    ("snntorch", {"dt": 1e-3}, None, 0.5, 1.5, "subtract", "gt"),
    ("snntorch", {}, None, 0.95, 0.15, "subtract", "gt"),
    ("norse", {}, 1.0, 0.5, 0.5, "value", "gt"),
    ("spikingjelly", {}, 3e-4, 0.95, 0.15, "value", "ge"),
    ("snncutoff", {"dt": 1e-3}, 1.0, math.exp(-0.5), 1.0, "subtract", "gt"),
    ("lava", {"dt": 1e-3}, None, 0.5, 0.5, "value", "ge"),
]


@pytest.mark.parametrize(("profile", "options", "if_gain", "alpha", "gain", "reset", "comparator"), PROFILES)
def test_profiles_fill_in_what_the_file_leaves_open(
    tmp_path, profile, options, if_gain, alpha, gain, reset, comparator
):
    """Breaks when a profile reads r, tau or the reset otherwise than its tool does."""
    path = chain(tmp_path / "if.nir", nir.Linear(whole(3, 4)), nir_if(r=3.0, threshold=2.0, v_reset=-1.0))
    if if_gain is None:
        with pytest.raises(ValueError, match=r"node 'n1' \(IF\): r is not 1"):
            from_nir(path, profile, **options)
        path = chain(tmp_path / "if.nir", nir.Linear(whole(3, 4)), nir_if(r=1.0, threshold=2.0, v_reset=-1.0))
        if_gain = 1.0
    net = from_nir(path, profile, **options)
    neuron = net["n1"].neuron
    assert neuron.gain == pytest.approx(if_gain, rel=1e-12)
    assert (neuron.threshold, neuron.reset, neuron.comparator) == (2.0, reset, comparator)
    assert neuron.reset_value == (-1.0 if profile in ("nir", "spikingjelly") else 0.0)
    assert neuron.v_min == (-2.0 if profile == "sinabs" else None)
    assert neuron.v0 == (1.0 if profile == "snncutoff" else 0.0)
    dt = options.get("dt", import_nir.PROFILES[profile].dt)
    assert net.tick_seconds == dt
    assert net.origin["assume"] == profile

    neuron = from_nir(chain(tmp_path / "lif.nir", nir_lif((4,), tau=0.002, r=3.0), out=(4,)), profile, **options)[
        "n0"
    ].neuron
    assert neuron.alpha == pytest.approx(alpha, rel=1e-12)
    assert neuron.gain == pytest.approx(gain, rel=1e-12)
    assert neuron.v_min is None

    leaky = chain(tmp_path / "leak.nir", nir_lif((4,), tau=0.002, v_leak=0.25), out=(4,))
    if profile in ("sinabs", "snntorch", "lava"):
        with pytest.raises(ValueError, match=f"v_leak is not 0, and {profile} knows no leak"):
            from_nir(leaky, profile, **options)
    else:
        assert from_nir(leaky, profile, **options)["n0"].neuron.rest == 0.25


def test_a_time_constant_in_seconds_is_not_taken_for_ticks(tmp_path):
    """Breaks when a file in seconds, read with a tick of one second, silently forgets everything between ticks."""
    path = chain(tmp_path / "net.nir", nir_lif((4,), tau=0.0025), out=(4,))
    with pytest.raises(ValueError, match=r"node 'n0' \(LIF\): tau is 0\.0025, and nothing of that is left.*\(dt\)"):
        from_nir(path, "nir")
    assert store.load(path, assume="nir", dt=1e-3)["n0"].neuron.alpha == pytest.approx(math.exp(-0.4))
    with pytest.raises(ValueError, match="dt is -1, wanted a positive number"):
        from_nir(path, "nir", dt=-1)


def test_linear_nodes_between_neurons_become_one_connection(tmp_path):
    """Breaks when scales are not folded into the weights beside them, on either side, or a pool is misplaced."""
    first, second = whole(4, 2, 3, 3), whole(3, 8)
    path = chain(
        tmp_path / "net.nir",
        nir.Scale(np.broadcast_to(np.array([2.0, 3.0])[:, None, None], (2, 6, 6))),
        conv2d(first, padding=1, input_shape=(6, 6), bias=np.arange(4, dtype="f4")),
        nir.AvgPool2d(np.array([3, 3]), np.array([3, 3]), np.array([0, 0])),
        nir.Scale(np.full((4, 2, 2), 0.5)),
        nir_if((4, 2, 2)),
        nir.SumPool2d(np.array([2, 1]), np.array([2, 1]), np.array([0, 0])),
        nir.Scale(np.broadcast_to(np.array([1.0, 2, 3, 4])[:, None, None], (4, 1, 2))),
        nir.Flatten({"input": np.array([4, 1, 2])}, 0, -1),
        nir.Linear(second),
        shape=(2, 6, 6),
    )
    net = from_nir(path, "nir")
    one, two = net.connections
    pool = Pool((3, 3), (3, 3), (0, 0))
    assert (one.before, one.after, two.after) == ((), (pool,), ())
    assert np.array_equal(one.op.weight, first * np.array([2.0, 3.0])[:, None, None] * 0.5)
    assert np.array_equal(one.bias, np.arange(4) * 0.5)
    assert two.before == (Pool((2, 1), (2, 1), (0, 0), "sum"), Flatten())
    assert np.array_equal(two.op.weight, second * np.repeat([1.0, 2, 3, 4], 2))
    assert net.readout == "sum"
    assert net.output == "output"


def test_scales_find_the_channels_of_their_group(tmp_path):
    """Breaks when the scale in front of a grouped convolution is folded into another group's weights."""
    weight, factors = whole(6, 2, 3, 3), np.array([1.0, 2, 3, 4])
    scale = nir.Scale(np.broadcast_to(factors[:, None, None], (4, 6, 5)))
    path = chain(tmp_path / "net.nir", scale, conv2d(weight, groups=2), shape=(4, 6, 5), out=(6, 4, 3))
    (connection,) = from_nir(path, "nir").connections
    assert connection.op.groups == 2
    assert np.array_equal(connection.op.weight[:3], weight[:3] * np.array([1.0, 2])[:, None, None])
    assert np.array_equal(connection.op.weight[3:], weight[3:] * np.array([3.0, 4])[:, None, None])


def test_weights_behind_weights_meet_in_a_relay(tmp_path):
    """Breaks when two weight operations, or signals that meet before one, are folded into one connection."""
    nodes = {
        "input": nir.Input(np.array([4])),
        "a": nir.Linear(whole(3, 4)),
        "b": nir.Linear(whole(3, 4)),
        "c": nir.Linear(whole(2, 3)),
        "d": nir.Linear(whole(2, 2)),
        "output": nir.Output(np.array([2])),
    }
    edges = [("input", "a"), ("input", "b"), ("a", "c"), ("b", "c"), ("c", "d"), ("d", "output"), ("c", "output")]
    net = from_nir(written(tmp_path / "net.nir", nodes, edges), "nir")
    assert {p.name for p in net.populations if isinstance(p.neuron, Relay)} == {"c.sum", "c.out"}
    assert {(c.source, c.target, type(c.op).__name__) for c in net.connections} == {
        ("input", "c.sum", "Dense"),
        ("c.sum", "c.out", "Dense"),
        ("c.out", "output", "Dense"),
        ("c.out", "output", "Identity"),
    }
    assert len(net.connections) == 5
    total = (nodes["d"].weight + np.eye(2)) @ nodes["c"].weight @ (nodes["a"].weight + nodes["b"].weight)
    assert simulate(net, [(0, 1)], 1).outputs == [total[:, 1].tolist()]


def test_nested_graphs_are_taken_apart(tmp_path):
    """Breaks when a network inside the network loses its way in or out."""
    inner = nir.NIRGraph(
        {"input": nir.Input(np.array([4])), "w": nir.Linear(whole(3, 4)), "output": nir.Output(np.array([3]))},
        [("input", "w"), ("w", "output")],
    )
    block = nir.NIRGraph(
        {"input": nir.Input(np.array([4])), "in": inner, "n": nir_if(), "output": nir.Output(np.array([3]))},
        [("input", "in"), ("in", "n"), ("n", "output")],
    )
    nodes = {"input": nir.Input(np.array([4])), "block": block, "output": nir.Output(np.array([3]))}
    net = from_nir(written(tmp_path / "net.nir", nodes), "nir")
    assert [(c.source, c.target) for c in net.connections] == [("input", "block.n"), ("block.n", "output")]
    assert np.array_equal(net.connections[0].op.weight, inner.nodes["w"].weight)


def test_recurrence_needs_its_delay(tmp_path):
    """Breaks when a loop without a delay is run in some order nobody promised."""
    nodes = {
        "input": nir.Input(np.array([3])),
        "n": nir_if(),
        "w": nir.Linear(whole(3, 3)),
        "output": nir.Output(np.array([3])),
    }
    edges = [("input", "n"), ("n", "w"), ("w", "n"), ("n", "output")]
    with pytest.raises(ValueError, match="cycle without delay: n -> n; give one of its connections a delay of 1 tick"):
        from_nir(written(tmp_path / "net.nir", nodes, edges), "nir")
    nodes["d"] = nir.Delay(np.full(3, 2e-3))
    edges = [("input", "n"), ("n", "w"), ("w", "d"), ("d", "n"), ("n", "output")]
    net = from_nir(written(tmp_path / "net.nir", nodes, edges), "nir", dt=1e-3)
    assert [(c.label, c.delay) for c in net.connections] == [("input->n", 0), ("n->n", 2)]
    with pytest.raises(ValueError, match=r"node 'd' \(Delay\): the delay is 0\.002, 0\.5 ticks"):
        from_nir(tmp_path / "net.nir", "nir", dt=4e-3)
    nodes["d"] = nir.Delay(np.array([1.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match="delays differ from unit to unit"):
        from_nir(written(tmp_path / "net.nir", nodes, edges), "nir")


def test_quirks_of_exporters_are_understood(tmp_path):
    """Breaks when a habit of some exporter makes its files unreadable: scalars, batch dimensions, missing flattens."""
    scalar = nir.LIF(np.array(2.0), np.array(1.0), np.array(0.0), np.array(1.0))
    net = from_nir(chain(tmp_path / "a.nir", nir.Linear(whole(3, 4)), scalar), "nir")
    assert net["n1"].shape == (3,)
    assert net["n1"].neuron.threshold == 1.0

    batched = nir_if((1, 2, 3, 3))
    net = from_nir(chain(tmp_path / "b.nir", batched, shape=(2, 3, 3), out=(2, 3, 3)), "nir")
    assert net["n0"].shape == (2, 3, 3)

    channels = nir.IF(np.ones((2, 1, 1)), np.array([1.0, 2.0]).reshape(2, 1, 1), np.zeros((2, 1, 1)))
    net = from_nir(chain(tmp_path / "c.nir", channels, shape=(2, 3, 3), out=(2, 3, 3)), "nir")
    assert net["n0"].neuron.threshold.tolist() == [1.0, 2.0]

    weight = whole(3, 8)
    for flatten in ([], [nir.Flatten({"input": np.array([2, 2, 2])}, 1, -1)]):
        net = from_nir(chain(tmp_path / "d.nir", *flatten, nir.Linear(weight), nir_if(), shape=(2, 2, 2)), "nir")
        assert net.connections[0].before == (Flatten(),)

    kernel = whole(3, 2, 3, 3)
    for padding, wanted in (("same", ((1, 1), (1, 1))), ("valid", ((0, 0), (0, 0))), (2, ((2, 2), (2, 2)))):
        net = from_nir(chain(tmp_path / "e.nir", conv2d(kernel, padding=padding), shape=(2, 6, 5)), "nir")
        assert net.connections[0].op.padding == wanted
    net = from_nir(chain(tmp_path / "f.nir", conv2d(kernel[:, :1], groups=1, padding=(0, 1)), shape=(1, 6, 5)), "nir")
    assert net.connections[0].op.padding == ((0, 0), (1, 1))

    nodes = {"input": nir.Input(np.array([3])), "n": nir_if(), "output": nir.Output(np.array([3]))}
    edges = [("input", "n"), ("input", "n"), ("n", "output")]
    assert len(from_nir(written(tmp_path / "g.nir", nodes, edges), "nir").connections) == 1

    readout = from_nir(chain(tmp_path / "h.nir", nir.Linear(weight), nir.I(np.full(3, 2.0)), shape=(8,)), "nir")
    assert readout.output == "n1"
    assert readout.readout == "sum"
    assert np.array_equal(readout.connections[0].op.weight, weight * 2)

    step = from_nir(chain(tmp_path / "i.nir", nir.Linear(weight), nir.Threshold(np.full(3, 0.5)), shape=(8,)), "nir")
    assert step["n1"].neuron.alpha == 0.0
    assert step["n1"].neuron.comparator == "gt"


REFUSED = {
    "two inputs": (
        lambda n: written(
            n,
            {
                "a": nir.Input(np.array([3])),
                "b": nir.Input(np.array([3])),
                "n": nir_if(),
                "o": nir.Output(np.array([3])),
            },
            [("a", "n"), ("b", "n"), ("n", "o")],
        ),
        r"2 Input nodes \(a, b\); wanted exactly one",
    ),
    "two outputs": (
        lambda n: written(
            n,
            {
                "i": nir.Input(np.array([3])),
                "n": nir_if(),
                "o": nir.Output(np.array([3])),
                "p": nir.Output(np.array([3])),
            },
            [("i", "n"), ("n", "o"), ("n", "p")],
        ),
        r"2 Output nodes \(o, p\); wanted exactly one",
    ),
    "same with stride": (
        lambda n: chain(n, conv2d(whole(3, 2, 3, 3), 2, "same"), shape=(2, 6, 5)),
        r"node 'n0' \(Conv2d\): padding is 'same' with stride \(2, 2\)",
    ),
    "half a flatten": (
        lambda n: chain(n, nir.Flatten({"input": np.array([2, 3, 3])}, 1, -1), nir_if((2, 9)), shape=(2, 3, 3)),
        r"node 'n0' \(Flatten\): flattens dimensions 1 to -1 of \(2, 3, 3\)",
    ),
    "wrong sizes": (
        lambda n: chain(n, nir.Linear(whole(3, 5)), nir_if()),
        r"node 'n0' \(Linear\): weight has shape \(3, 5\), the source gives \(4,\)",
    ),
    "wrong channels": (
        lambda n: chain(n, conv2d(whole(3, 5, 3, 3)), nir_if((3, 4, 4)), shape=(2, 6, 5)),
        r"node 'n0' \(Conv2d\): source gives \(2, 6, 5\), kernel wants 5 channels",
    ),
    "wrong input_shape": (
        lambda n: chain(n, conv2d(whole(3, 2, 3, 3), input_shape=(7, 5)), shape=(2, 6, 5)),
        r"node 'n0' \(Conv2d\): input_shape is .7 5., the source gives \(2, 6, 5\)",
    ),
    "wrong neurons": (
        lambda n: chain(n, nir.Linear(whole(3, 4)), nir_if((5,))),
        r"node 'n1' \(IF\), 'v_threshold': has shape \(5,\), what arrives has shape \(3,\)",
    ),
    "NaN": (
        lambda n: chain(n, nir.Linear(np.full((3, 4), np.nan)), nir_if()),
        r"node 'n0' \(Linear\): field 'weight' holds NaN",
    ),
    "potential fed on": (
        lambda n: chain(n, nir.I(np.ones(4)), nir.Linear(whole(3, 4)), nir_if()),
        r"node 'n0' \(I\) is not the only one before the output",
    ),
    "nobody feeds": (
        lambda n: written(
            n,
            {"i": nir.Input(np.array([3])), "n": nir_if(), "m": nir_if(), "o": nir.Output(np.array([3]))},
            [("i", "n"), ("n", "o")],
        ),
        r"node 'm' \(IF\) has no incoming edge; nothing feeds it",
    ),
    "an input in the middle": (
        lambda n: written(
            n,
            {"i": nir.Input(np.array([3])), "n": nir_if(), "o": nir.Output(np.array([3]))},
            [("i", "n"), ("n", "o"), ("n", "i")],
        ),
        r"node 'i' \(Input\) stands in the middle of the graph",
    ),
    "a circle of its own": (
        lambda n: written(
            n,
            {"i": nir.Input(np.array([3])), "n": nir_if(), "m": nir_if(), "o": nir.Output(np.array([3]))},
            [("i", "n"), ("n", "o"), ("m", "m")],
        ),
        r"node 'm' \(IF\) cannot be reached from the input",
    ),
    "unknown edge": (
        lambda n: written(
            n, {"i": nir.Input(np.array([3])), "n": nir_if(), "o": nir.Output(np.array([3]))}, [("i", "n"), ("x", "o")]
        ),
        r"the edge from 'x' to 'o' names the node 'x', which is not there",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_cannot_be_run_are_refused_by_node(tmp_path, name):
    """Breaks when a foreign file that is wrong, or asks for more than we have, is run all the same."""
    make, message = REFUSED[name]
    path = make(tmp_path / "net.nir")
    with pytest.raises(ValueError, match=rf"net\.nir: {message}|net\.nir: the graph has {message}"):
        store.load(path, assume="nir")
