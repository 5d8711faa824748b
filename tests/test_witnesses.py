"""Our counts against three counters written by others, on the same rasters: integers, compared with ==.

    sinabs' hooks             value x fan-out, summed; a mean over the first axis; average pools scaled back by k^2
    spikingjelly's SynOp      fan-out of every 1, if a layer's input is nothing but 0s and 1s, else 0
    NeuroBench's effective    inputs other than 0 x weights other than 0; AC or MAC for a whole forward call
    NeuroBench's dense        all inputs x all weights, in bounds

Where the definitions coincide, `differences` wants equality. Where they part, the worked examples at the end say what
each of them counts. None counts a bias. A witness that is absent is a failure: without them nothing here is shown.
"""

import functools
import importlib
import itertools
import warnings
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import eventsnn as es
from eventsnn.network import (
    AdaptivePool,
    Connection,
    Conv,
    Dense,
    Flatten,
    Network,
    Pool,
    Population,
    Sparse,
    Subsample,
)
from eventsnn.neurons import IF, Input, Integrator, Relay
from eventsnn.wiring import fan_out

SHAPE = (6, 9, 11)

# ------------------------------------------------------------------------------------------------------ the witnesses


@functools.cache
def imported(module: str):
    """A module of a witness; its absence fails the test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they warn of while being imported is theirs
            return importlib.import_module(module)
    except ImportError as error:
        pytest.fail(f"{module}: {error}. Install it: pip install --no-deps -r tests/witnesses.txt", pytrace=False)


def whole(number) -> int:
    """The integer that a witness gives as a float64."""
    number = float(number)
    assert abs(number - round(number)) <= 1e-9 * max(1.0, abs(number)), f"{number} is no count"
    return round(number)


def sinabs_synops(layers: nn.Sequential, raster: torch.Tensor) -> int:
    """The last layer's SynOps over (n, *shape)."""
    hooks = imported("sinabs.hooks")
    hooks.register_synops_hooks(layers)
    with torch.no_grad():
        layers(raster)
    return whole(layers.hook_data["synops_per_timestep"][len(layers) - 1] * len(raster))


def spikingjelly_synops(layers: nn.Sequential, raster: torch.Tensor) -> int:
    """SynOps over (n, *shape)."""
    counters = imported("spikingjelly.activation_based.op_counter")
    counter = counters.SynOpCounter()
    with torch.no_grad(), counters.DispatchCounterMode([counter]):
        layers(raster)
    return counter.get_total()


class Operations(NamedTuple):
    """NeuroBench's three counts."""

    ac: int
    mac: int
    dense: int


def neurobench_synops(layers: nn.Sequential, *calls: torch.Tensor) -> Operations:
    """Totals over forward calls, each of (n, *shape)."""
    model = imported("neurobench.models").TorchModel(layers)
    metric = imported("neurobench.metrics.workload").SynapticOperations()
    model.register_hooks()
    with torch.no_grad():
        for raster in calls:
            model(raster)
        mean = metric(model, None, (calls[0], None))
    model.cleanup_hooks()
    return Operations(*(whole(mean[k] * len(calls[0])) for k in ("Effective_ACs", "Effective_MACs", "Dense")))


def torch_layers(op: Conv | Dense, before=()) -> nn.Sequential:
    """PyTorch's layers in float64 with the weights of a connection, and biases of 1, which nobody counts."""
    weight = torch.tensor(op.weight, dtype=torch.float64)
    if isinstance(op, Dense):
        layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    else:
        kind = nn.Conv1d if weight.ndim == 3 else nn.Conv2d
        sizes = (weight.shape[1] * op.groups, weight.shape[0], op.weight.shape[2:], op.stride)
        layer = kind(*sizes, [p for p, _ in op.padding], op.dilation, op.groups, dtype=torch.float64)
    layer.weight.data, layer.bias.data = weight, torch.ones(len(weight), dtype=torch.float64)
    return nn.Sequential(*(torch_map(step) for step in before), layer)


def torch_map(step) -> nn.Module:
    if isinstance(step, Flatten):
        return nn.Flatten()
    if isinstance(step, AdaptivePool):
        return nn.AdaptiveAvgPool2d(step.size)
    if step.kind == "sum":  # what sinabs' SumPool2d is
        return nn.LPPool2d(1, step.kernel, step.stride, step.ceil_mode)
    return nn.AvgPool2d(step.kernel, step.stride, step.padding, step.ceil_mode, step.count_include_pad)


# ------------------------------------------------------------------------------------------------------- our side


def fanned(shape: tuple[int, ...], ops, before=()) -> Network:
    """An input that feeds every operation into neurons of its own, which have a bias and never fire.

    ops: weight operations, or pairs of maps and an operation.
    """
    populations, connections = [Population("input", shape, Input())], []
    for i, op in enumerate(ops):
        maps, op = op if isinstance(op, tuple) else (before, op)
        link = Connection("input", f"target {i}", op, before=maps, bias=np.ones(op.weight.shape[0]))
        populations.append(Population(link.target, link.shapes(shape)[-1], IF(threshold=1e30)))
        connections.append(link)
    populations.append(Population("out", (1,), Integrator()))
    silent = Sparse(np.zeros(np.prod(shape) + 1, np.int64), np.zeros(0, np.int64), np.zeros(0), (1,))
    connections.append(Connection("input", "out", silent))
    return Network(
        populations=tuple(populations),
        connections=tuple(connections),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
    )


def run_events(network: Network, rasters: np.ndarray, **options) -> es.Run:
    """Run (samples, ticks, *shape) of event counts; a 2 is two events of one unit in one tick."""
    flat = rasters.reshape(*rasters.shape[:2], -1)
    sample, tick, neuron = np.nonzero(flat)
    times = flat[sample, tick, neuron].astype(int)
    offsets = np.searchsorted(np.repeat(sample, times), np.arange(len(flat) + 1))
    events = es.Events(np.repeat(tick * 1000, times), np.repeat(neuron, times), offsets)
    return es.simulate(network, events, ticks=rasters.shape[1], dtype="float64", **options)


def recorded_rasters(run: es.Run) -> dict[str, np.ndarray]:
    """(samples, ticks, *shape) of every population: how often each neuron fired."""
    found = {}
    for number, p in enumerate(run.network.populations):
        own = run.events[run.events["population"] == number]
        raster = np.zeros((len(run.predictions), run.ticks, p.size))
        np.add.at(raster, (own["sample"], own["time"], own["neuron"]), own["value"])
        found[p.name] = raster.reshape(*raster.shape[:2], *p.shape)
    return found


def random_rasters(shape: tuple[int, ...], samples: int = 2, ticks: int = 3, most: int = 1) -> np.ndarray:
    rng = np.random.default_rng(7)
    return rng.integers(1, most + 1, (samples, ticks, *shape)) * (rng.random((samples, ticks, *shape)) < 0.25)


def some_weights(*shape: int) -> np.ndarray:
    """Multiples of 1/2, about a third of them exactly 0. Not only 0s and 1s: see the examples on spikingjelly."""
    weight = np.random.default_rng(5).choice([0.0, 0.0, -1.5, 0.5, 1.0, 2.0], shape)
    weight.flat[:2] = 0.5, 0.0
    return weight


def convolution(weight: np.ndarray, stride=1, padding=0, dilation=1, groups: int = 1) -> Conv:
    """A Conv as PyTorch writes it, one number for all dimensions or one for each."""

    def each(value) -> tuple[int, ...]:
        return (value,) * (weight.ndim - 2) if isinstance(value, int) else value

    return Conv(weight, each(stride), tuple((p, p) for p in each(padding)), each(dilation), groups)


class Difference(NamedTuple):
    """A count of ours that a witness does not confirm."""

    witness: str
    connection: str
    what: str
    ours: object
    theirs: object


def differences(run: es.Run, rasters: dict[str, np.ndarray], told=lambda op: op) -> list[Difference]:
    """Everything that a witness counts otherwise than we, over all connections with weights and spiking sources.

    rasters: (samples, ticks, *shape) by source. told: what to tell the witnesses of an operation instead of the truth.
    """
    found, (fans, _), ledger = [], fan_out(run.network), run.ledger

    def compare(witness: str, what: str, ours, theirs) -> None:
        if not np.array_equal(ours, theirs):
            found.append(Difference(witness, c.label, what, ours, theirs))

    for c in run.network.connections:
        if c.source not in rasters or not isinstance(c.op, Conv | Dense):
            continue
        fan, op, shape = fans[c.label], told(c.op), run.network[c.source].shape
        ac_by_tick = ledger.synops_by_tick(c.label, "effective")
        per_tick = ledger.synops_by_tick(c.label, "effective_per_tick")
        pooled = any(isinstance(step, Pool | AdaptivePool) for step in c.before)
        if isinstance(op, Conv) and op.weight.ndim == 4 and not pooled:
            layer, out = torch_layers(op)[0], op.out_shape(shape)
            theirs = imported("sinabs.hooks").conv_connection_map(layer, torch.Size(shape), torch.Size(out))
            compare("sinabs", "fan-out of every neuron", fan.tolist(), theirs.ravel().tolist())
        for n, raster in enumerate(torch.tensor(rasters[c.source], dtype=torch.float64)):
            layers = functools.partial(torch_layers, op, c.before)
            binary = not pooled and bool(((raster == 0) | (raster == 1)).all())
            if op.weight.ndim != 3:
                compare("sinabs", f"units of {n}", ledger.synops(c.label, "units")[n], sinabs_synops(layers(), raster))
            if binary:
                structural = ledger.synops(c.label, "structural")[n]
                compare("spikingjelly", f"structural of {n}", structural, spikingjelly_synops(layers(), raster))
            ticks = [neurobench_synops(layers(), one[None]) for one in raster]
            compare("NeuroBench", f"per tick of {n}", per_tick[n].tolist(), [t.ac + t.mac for t in ticks])
            if binary:
                compare("NeuroBench", f"effective of {n}", ac_by_tick[n].tolist(), [t.ac for t in ticks])
            if not pooled:
                compare("NeuroBench", f"dense of {n}", int(fan.sum()) * run.ticks, sum(t.dense for t in ticks))
    return found


# ---------------------------------------------------------------------------------------------------- they coincide

KERNELS = [(1, 1), (2, 2), (3, 3), (5, 5), (3, 2), (1, 4)]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{k[0]}x{k[1]}")
def test_convolutions_are_counted_as_the_witnesses_count_them(kernel):
    """If this fails, fan-out is wrong at borders, strides, dilations or groups, or weights of 0 are counted wrongly."""
    grid = itertools.product((1, 2, 3, (2, 1)), (0, 1, 2, (0, 1)), (1, 2), (1, 2, SHAPE[0]))
    ops = [convolution(some_weights(12, SHAPE[0] // g, *kernel), s, p, d, g) for s, p, d, g in grid]
    rasters = random_rasters(SHAPE)
    run = run_events(fanned(SHAPE, ops), rasters)
    assert differences(run, {"input": rasters}) == []
    assert np.array_equal(run.ledger.synops(kind="delivered"), run.ledger.synops(kind="structural"))


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_convolutions_over_one_dimension(kernel):
    """If this fails, fan-out along a line is wrong. sinabs has no hook for these and counts nothing."""
    shape = (6, 13)
    grid = itertools.product((1, 2, 3), (0, 1, 2), (1, 2), (1, 2, 6))
    ops = [convolution(some_weights(12, 6 // g, kernel), s, p, d, g) for s, p, d, g in grid]
    rasters = random_rasters(shape)
    assert differences(run_events(fanned(shape, ops), rasters), {"input": rasters}) == []
    hooked = torch_layers(ops[0])
    imported("sinabs.hooks").register_synops_hooks(hooked)
    hooked(torch.ones(1, *shape, dtype=torch.float64))
    assert hooked.hook_data["synops_per_timestep"] == {}


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_dense_weights_are_counted_as_the_witnesses_count_them(shape):
    """If this fails, a dense connection does not cost one operation for each event and row of its weights."""
    size, rasters = int(np.prod(shape)), random_rasters(shape)
    ops = [Dense(some_weights(outputs, size)) for outputs in (1, 2, 11)]
    network = fanned(shape, ops, before=(Flatten(),) if len(shape) > 1 else ())
    assert differences(run_events(network, rasters), {"input": rasters}) == []


def test_several_events_of_a_neuron_in_a_tick():
    """If this fails, two input events of one unit and tick are not two to sinabs and one to NeuroBench."""
    rasters = random_rasters(SHAPE, most=3)
    ops = [convolution(some_weights(5, 6, 3, 3), s, p) for s in (1, 2) for p in (0, 1)]
    run = run_events(fanned(SHAPE, ops), rasters)
    assert rasters.max() == 3
    assert differences(run, {"input": rasters}) == []
    for c in run.network.connections[:-1]:
        assert run.ledger.synops(c.label, "structural").tolist() == run.ledger.synops(c.label, "units").tolist()
        assert np.all(run.ledger.synops(c.label, "effective") > run.ledger.synops(c.label, "effective_per_tick"))


POOLS = [
    (Pool((2, 2), (2, 2), (0, 0)),),
    (Pool((2, 3), (2, 3), (0, 0)),),
    (Pool((2, 2), (2, 2), (0, 0), kind="sum"),),
    (Pool((3, 3), (2, 2), (0, 0), kind="sum"),),
    (Pool((2, 2), (2, 2), (0, 0)), Pool((2, 2), (2, 2), (0, 0))),
    (Pool((3, 3), (2, 2), (0, 0)),),
    (Pool((3, 3), (1, 1), (1, 1)),),
    (Pool((3, 2), (2, 1), (1, 1)),),
]


@pytest.mark.filterwarnings("ignore:In order for the Synops counter to work accurately the pooling layers:UserWarning")
def test_pools_before_weights():
    """If this fails, a path through a pool is lost (sinabs) or an input of the weight is counted twice (NeuroBench)."""
    rasters = random_rasters(SHAPE)
    ops = [(pools, convolution(some_weights(5, 6, 2, 2), 1, 1)) for pools in POOLS]
    for pools in POOLS:
        shape = SHAPE
        for pool in pools:
            shape = pool.out_shape(shape)
        ops.append(((*pools, Flatten()), Dense(some_weights(4, int(np.prod(shape))))))
    run = run_events(fanned(SHAPE, ops), rasters)
    assert set(run.ledger.tap_class.values()) == {"ac"}
    assert differences(run, {"input": rasters}) == []


def test_a_network_of_two_convolutions_a_residual_and_a_readout():
    """If this fails, counts taken while a network runs are not those of its recorded spikes."""
    weight = np.random.default_rng(1).normal
    zeroed = np.where(np.random.default_rng(2).random((6, 4, 3, 3)) < 0.3, 0, weight(0.05, 0.4, (6, 4, 3, 3)))
    network = Network(
        populations=(
            Population("input", (2, 9, 8), Input()),
            Population("a", (4, 9, 8), IF()),
            Population("b", (6, 5, 4), IF(v0=0.5)),
            Population("out", (5,), Integrator()),
        ),
        connections=(
            Connection("input", "a", convolution(weight(0.1, 0.4, (4, 2, 3, 3)), 1, 1), bias=np.full(4, 0.1)),
            Connection("a", "b", convolution(zeroed, 2, 1), bias=np.full(6, 0.05)),
            Connection("a", "b", before=(Subsample((2, 2), (1, 1)),), name="residual"),
            Connection("b", "b", convolution(weight(0, 0.1, (6, 2, 3, 3)), 1, 1, 1, 3), delay=1, name="back"),
            Connection("b", "out", Dense(weight(0, 1, (5, 120))), before=(Flatten(),)),
        ),
        output="out",
    )
    images = np.random.default_rng(3).random((3, 2, 9, 8)) * (np.random.default_rng(4).random((3, 2, 9, 8)) < 0.8)
    run = es.simulate(network, images, ticks=6, record="spikes", dtype="float64", layout="chw")
    rasters = {name: raster for name, raster in recorded_rasters(run).items() if name in ("a", "b")}
    assert all(0 < raster.mean() < 1 for raster in rasters.values())
    assert differences(run, rasters) == []
    assert run.ledger.tap_class["residual"] == "identity"

    # the image: NeuroBench's multiplications of one call
    layers = torch_layers(network.connections[0].op)
    for n, image in enumerate(torch.tensor(images)):
        counted = neurobench_synops(layers, image[None])
        assert counted == (0, run.ledger.macs_input_effective[n], run.ledger.macs_input[n])


# ------------------------------------------------------------------------------------------ the comparison can fail

ALL = {"sinabs", "spikingjelly", "NeuroBench"}


@pytest.mark.parametrize(
    ("mistake", "noticed_by"),
    [
        ({"padding": ((0, 0), (0, 0))}, ALL),
        ({"padding": ((1, 1), (0, 0))}, ALL),
        ({"stride": (1, 1)}, ALL),
        ({"stride": (2, 1)}, ALL),
        ({"dilation": (2, 2)}, ALL),
        ({"weight": some_weights(12, 6, 3, 2)}, ALL),
        ({"weight": some_weights(12, 6, 2, 3).swapaxes(2, 3)}, ALL),
        ({"weight": some_weights(12, 2, 2, 3), "groups": 3}, ALL),
        ({"weight": some_weights(12, 6, 2, 3) + 9}, {"NeuroBench"}),
    ],
    ids=lambda value: "+".join(sorted(value)),
)
def test_the_comparison_can_fail(mistake, noticed_by):
    """If this fails, a witness that is told another layer than ours still agrees: its agreement is worth nothing."""
    rasters = random_rasters(SHAPE)
    run = run_events(fanned(SHAPE, [convolution(some_weights(12, 6, 2, 3), 2, 1)]), rasters)
    assert differences(run, {"input": rasters}) == []
    found = differences(run, {"input": rasters}, told=lambda op: replace(op, **mistake))
    assert {d.witness for d in found} == noticed_by


def test_the_comparison_misses_no_event():
    """If this fails, a witness that sees one spike less still agrees."""
    rasters = random_rasters(SHAPE)
    run = run_events(fanned(SHAPE, [convolution(some_weights(12, 6, 2, 3), 1, 1)]), rasters)
    fewer = rasters.copy()
    fewer[tuple(np.argwhere(fewer)[-1])] = 0
    assert {d.witness for d in differences(run, {"input": fewer})} == ALL


def test_a_fan_out_that_ignores_borders_is_another_number():
    """If this fails, the witnesses would confirm kernel area x channels, the rule of thumb that counts padding."""
    op = convolution(some_weights(12, 6, 3, 3), 1, 1)
    network = fanned(SHAPE, [op])
    exact = fan_out(network)[0]["input->target 0"].reshape(SHAPE)
    theirs = imported("sinabs.hooks").conv_connection_map(torch_layers(op)[0], torch.Size(SHAPE), (12, *SHAPE[1:]))
    blind = np.full(SHAPE, 3 * 3 * 12)
    border = np.ones(SHAPE, bool)
    border[:, 1:-1, 1:-1] = False
    assert np.array_equal(exact, theirs[0].numpy())
    assert np.array_equal(blind != exact, border)
    rasters = random_rasters(SHAPE)
    counted = spikingjelly_synops(torch_layers(op), torch.tensor(rasters[0], dtype=torch.float64))
    assert int((rasters[0] * blind).sum()) != int((rasters[0] * exact).sum()) == counted


def test_an_absent_witness_is_a_failure():
    """If this fails, a machine without the witnesses passes or skips these tests."""
    with pytest.raises(pytest.fail.Exception, match=r"pip install --no-deps -r tests/witnesses\.txt"):
        imported("sinabs_that_is_not_there")


# ---------------------------------------------------------------------------------------------- published numbers


def dense_network(*sizes: int) -> Network:
    """A chain of dense connections with biases."""
    names = ["input", *(f"layer {i}" for i in range(1, len(sizes)))]
    neurons = [Input(), *[IF() for _ in sizes[1:]]]
    return Network(
        populations=tuple(Population(n, (s,), neuron) for n, s, neuron in zip(names, sizes, neurons)),
        connections=tuple(
            Connection(a, b, Dense(np.ones((n, m))), bias=np.zeros(n))
            for (a, b), (m, n) in zip(itertools.pairwise(names), itertools.pairwise(sizes))
        ),
        output=names[-1],
        encoding="events",
        tick_seconds=1e-3,
    )


def test_the_worked_example_of_neurobench():
    """If this fails, "effective" is not NeuroBench's: 4 of 9 in docs/.../synaptic_operations.rst of NeuroBench 2.3."""
    weight = np.array([[1.3, 0, -3.2], [0, 1.2, -5.1], [-1.1, 2.7, 0]])
    x = np.array([[0, 1.3, -1]])
    assert neurobench_synops(torch_layers(Dense(weight)), torch.tensor(x)) == Operations(ac=0, mac=4, dense=9)
    graded = replace(fanned((3,), [Dense(weight)]), encoding="direct")
    ledger = es.simulate(graded, x, ticks=1, layout="chw").ledger
    assert (ledger.macs_input_effective.tolist(), ledger.macs_input.tolist()) == ([4], [9])
    spiking = fanned((3,), [Dense(weight)])
    ledger = run_events(spiking, (x != 0)[None].astype(int)).ledger
    assert ledger.synops("input->target 0", "effective").tolist() == [4]
    assert fan_out(spiking)[0]["input->target 0"].sum() == 9


def test_the_unit_test_figures_of_neurobench():
    """If this fails, the operations of whole layers are not those in tests/test_metrics.py of NeuroBench."""

    def operations(network: Network) -> int:
        return sum(int(fan.sum()) for fan in fan_out(network)[0].values())

    assert operations(dense_network(20, 25, 25)) == 1125
    assert operations(dense_network(20, 20, 25, 25, 25)) == 2 * 625 + 400 + 500
    assert operations(fanned((1, 3, 3), [convolution(np.ones((1, 1, 3, 3)))])) == 9
    assert operations(fanned((1, 12, 12), [convolution(np.ones((1, 1, 3, 3)))])) == 900
    assert operations(fanned((5, 10), [convolution(np.ones((1, 5, 5)))])) == 150
    run = run_events(fanned((20,), [Dense(np.ones((5, 20)))]), np.ones((5, 10, 20)))
    assert run.ledger.synops("input->target 0", "effective").tolist() == [1000] * 5


def test_the_speech_commands_network_of_neurobench():
    """If this fails, the dense count of a published network is not the published 29,030,400 (NeuroBench's README)."""
    network, ticks = dense_network(20, 256, 256, 256, 35), 200
    synapses = sum(int(fan.sum()) for fan in fan_out(network)[0].values())
    assert (synapses, synapses * ticks) == (145_152, 29_030_400)
    parameters = synapses + sum(c.bias.size for c in network.connections)
    snntorch = imported("snntorch")
    layers = [nn.Flatten()]
    for c in network.connections:
        layers += [nn.Linear(*c.op.weight.shape[::-1]), snntorch.Leaky(beta=0.9, init_hidden=True)]
    model = imported("neurobench.models").SNNTorchModel(nn.Sequential(*layers))
    footprint = imported("neurobench.metrics.static").Footprint()
    assert (parameters, parameters * 4 + 80) == (145_955, 583_900)
    assert footprint(model) == 583_900


@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_the_grid_of_sinabs(kernel, stride, padding):
    """If this fails, "units" are not the SynOps of sinabs on the grid of its tests/test_hooks.py, 3 to 5 channels."""
    rasters = random_rasters((3, 10, 12), most=4)
    network = fanned((3, 10, 12), [convolution(some_weights(5, 3, kernel, kernel), stride, padding)])
    assert differences(run_events(network, rasters), {"input": rasters}) == []


def test_the_linear_example_of_sinabs():
    """If this fails, 3 + 5 spikes into Linear(3, 5) are not 40 SynOps, 20 for each of two samples (test_hooks.py)."""
    rasters = np.zeros((2, 1, 3))
    rasters[0, 0, 0], rasters[1, 0, 2] = 3, 5
    op = Dense(some_weights(5, 3))
    assert run_events(fanned((3,), [op]), rasters).ledger.synops("input->target 0", "units").tolist() == [15, 25]
    hooked = torch_layers(op)
    assert sinabs_synops(hooked, torch.tensor(rasters[:, 0])) == 40
    assert hooked.hook_data["total_synops_per_timestep"] == 20


# --------------------------------------------------------------------------------------------- where they part ways
# `average`: of 2x2 windows; each of the 2x2 pooled positions meets 12 weights of a 3x3 kernel to 3 channels
AVERAGE, SUM = Pool((2, 2), (2, 2), (0, 0)), Pool((2, 2), (2, 2), (0, 0), kind="sum")
OVERLAPPING = Pool((3, 3), (2, 2), (1, 1))
ONE, THREE, FOUR = [(0, 0)], [(0, 0), (0, 1), (1, 0)], [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.filterwarnings("ignore:In order for the Synops counter to work accurately the pooling layers:UserWarning")
@pytest.mark.parametrize(
    ("pool", "spikes", "structural", "sinabs", "spikingjelly", "per_tick", "ac", "mac"),
    [
        (AVERAGE, THREE, 36, 36, 0, 12, 0, 12),
        (AVERAGE, FOUR, 48, 48, 12, 12, 12, 0),  # their average is 1, which looks like one spike
        (SUM, ONE, 12, 12, 12, 12, 12, 0),
        (SUM, THREE, 36, 36, 0, 12, 0, 12),
        (OVERLAPPING, THREE, 60, 60, 0, 36, 0, 36),  # five paths to three positions; sinabs warns and is right
        (replace(OVERLAPPING, count_include_pad=False), THREE, 60, 117, 0, 36, 0, 36),  # times 9, divided by 4 or 6
        (Pool((3, 3), (2, 2), (0, 0), ceil_mode=True), [(3, 3)], 12, 27, 0, 12, 0, 12),  # times 9, divided by 4
        (AdaptivePool((2, 2)), THREE, 36, 9, 0, 12, 0, 12),  # sinabs knows AvgPool2d only
    ],
)
def test_what_each_counts_behind_a_pool(pool, spikes, structural, sinabs, spikingjelly, per_tick, ac, mac):
    """Ours: each path of an event. sinabs: average x k^2. spikingjelly: 0s and 1s only. NeuroBench: inputs, once."""
    op = convolution(np.full((3, 1, 3, 3), 0.5), 1, 1)
    raster = np.zeros((1, 1, 1, 4, 4))
    for y, x in spikes:
        raster[0, 0, 0, y, x] = 1
    ledger = run_events(fanned((1, 4, 4), [((pool,), op)]), raster).ledger
    ours = [int(ledger.synops("input->target 0", kind)[0]) for kind in ("structural", "effective_per_tick")]
    layers, seen = functools.partial(torch_layers, op, (pool,)), torch.tensor(raster[0])
    assert ours == [structural, per_tick]
    assert sinabs_synops(layers(), seen) == sinabs
    assert spikingjelly_synops(layers(), seen) == spikingjelly
    assert neurobench_synops(layers(), seen) == Operations(ac, mac, dense=48)


def test_a_call_of_neurobench_is_all_accumulations_or_all_multiplications():
    """Ours: the class of a connection. NeuroBench: ACs if a call's whole input is 0, 1 or -1, else MACs."""
    layers = torch_layers(Dense(np.full((3, 2), 0.5)))
    spike, two = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    assert neurobench_synops(layers, spike, two) == Operations(ac=3, mac=3, dense=12)
    assert neurobench_synops(layers, torch.cat([spike, two])) == Operations(ac=0, mac=6, dense=12)
    assert neurobench_synops(layers, torch.cat([spike, -spike])) == Operations(ac=6, mac=0, dense=12)
    rasters = np.array([[[1, 0]], [[2, 0]]])
    ledger = run_events(fanned((2,), [Dense(np.full((3, 2), 0.5))]), rasters).ledger
    assert ledger.by_class("ac", "structural").tolist() == [3, 6]
    assert ledger.by_class("ac", "effective_per_tick").tolist() == [3, 3]
    assert ledger.by_class("mac", "structural").tolist() == [0, 0]


def test_weights_of_0_and_1_look_like_spikes_to_spikingjelly():
    """Ours: zero weights are structural. spikingjelly: so they are, unless all weights of the layer are 0 or 1."""
    spikes = np.array([[[1, 0, 1, 1]]])
    weight = np.array([[1.0, 0, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]])
    for op, theirs in ((Dense(weight), 7), (Dense(weight / 2), 9), (Dense(0 * weight), 0)):
        ledger = run_events(fanned((4,), [op]), spikes).ledger
        assert ledger.synops("input->target 0", "structural").tolist() == [9]
        assert spikingjelly_synops(torch_layers(op), torch.tensor(spikes[0] * 1.0)) == theirs
    # the other way round, an image: each weight of 1 at every place of the output, padding included
    image = torch.tensor([[[[0.5, 0.0], [0.0, 0.0]]]], dtype=torch.float64)
    assert spikingjelly_synops(torch_layers(convolution(np.ones((1, 1, 3, 3)), 1, 1)), image) == 9 * 4
    assert spikingjelly_synops(torch_layers(convolution(np.full((1, 1, 3, 3), 0.5), 1, 1)), image) == 0


def test_spikingjelly_counts_nothing_in_inference_mode():
    """Ours: no modes. spikingjelly: PyTorch hands it other operators under inference_mode, for which it has no rule."""
    counters = imported("spikingjelly.activation_based.op_counter")
    layer, spikes = torch_layers(Dense(np.full((3, 2), 0.5))), torch.ones(1, 2, dtype=torch.float64)
    counter = counters.SynOpCounter()
    with torch.inference_mode(), counters.DispatchCounterMode([counter]) as mode:
        layer(spikes)
    assert (counter.get_total(), mode.get_unsupported(counter)) == (0, {"aten.linear.default": 1})
    assert spikingjelly_synops(layer, spikes) == 6


def test_padding_of_an_image_is_multiplied_by_spikingjelly():
    """Ours, NeuroBench's dense: weights in bounds. spikingjelly's MACs: kernel area x outputs. sinabs: x values."""
    image, op = np.array([[[[0.5, 0.0], [0.0, 0.25]]]]), convolution(np.full((1, 1, 3, 3), 0.5), 1, 1)
    ledger = es.simulate(replace(fanned((1, 2, 2), [op]), encoding="direct"), image, ticks=1, layout="chw").ledger
    assert (ledger.macs_input.tolist(), ledger.macs_input_effective.tolist()) == ([16], [8])
    assert neurobench_synops(torch_layers(op), torch.tensor(image)) == Operations(ac=0, mac=8, dense=16)
    counters = imported("spikingjelly.activation_based.op_counter")
    multiplications = counters.MACCounter()
    with torch.no_grad(), counters.DispatchCounterMode([multiplications]):
        torch_layers(op)(torch.tensor(image))
    assert multiplications.get_total() == 36
    assert spikingjelly_synops(torch_layers(op), torch.tensor(image)) == 0
    assert sinabs_synops(torch_layers(op), torch.tensor(image)) == 3  # (0.5 + 0.25) x 4


def test_sinabs_means_are_over_the_first_axis():
    """Ours: totals. sinabs "per timestep": a mean over samples and ticks, if they are one axis; else over samples."""
    rasters = np.ones((1, 4, 2))
    op = Dense(np.full((3, 2), 0.5))
    assert run_events(fanned((2,), [op]), rasters).ledger.synops("input->target 0").tolist() == [24]
    for seen, mean in ((rasters.reshape(4, 2), 6), (rasters, 24)):
        hooked = torch_layers(op)
        imported("sinabs.hooks").register_synops_hooks(hooked)
        hooked(torch.tensor(seen))
        assert hooked.hook_data["total_synops_per_timestep"] == mean
        assert spikingjelly_synops(torch_layers(op), torch.tensor(seen)) == 24


def relayed(weight: np.ndarray, before=(), op=None) -> es.Run:
    """One event of every input in one tick, by one weight each into a relay, and on as graded events."""
    size = len(weight)
    op = op or Dense(np.full((3, size), 0.5))
    network = Network(
        populations=(
            Population("input", (1, 1, size), Input()),
            Population("sum", (1, 1, size), Relay()),
            Population("out", (3,), Integrator()),
        ),
        connections=(
            Connection("input", "sum", Sparse(np.arange(size + 1), np.arange(size), weight, (1, 1, size))),
            Connection("sum", "out", op, before=(*before, Flatten())),
        ),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
    )
    return run_events(network, np.ones((1, 1, 1, 1, size)), record="spikes")


def test_what_each_counts_of_graded_events():
    """Ours: events, as MACs. sinabs: values, negative ones too. spikingjelly: nothing. NeuroBench: values not 0."""
    run = relayed(np.array([0.0, 1, -2.5]))
    assert run.ledger.tap_class["sum->out"] == "mac"
    assert run.ledger.synops("sum->out", "structural").tolist() == [9]  # an event of value 0 is one
    assert run.ledger.synops("sum->out", "effective_per_tick").tolist() == [6]
    layers, seen = torch_layers(run.network.connections[1].op), torch.tensor([[0, 1, -2.5]], dtype=torch.float64)
    with pytest.raises(AssertionError, match=r"-4\.5 is no count"):  # (0 + 1 - 2.5) x 3
        sinabs_synops(layers, seen)
    assert spikingjelly_synops(layers, seen) == 0
    assert neurobench_synops(layers, seen) == Operations(ac=0, mac=6, dense=9)


def test_graded_events_that_cancel_in_a_window():
    """Ours: an input of the weight that events reached. NeuroBench: one whose sum is not 0."""
    run = relayed(np.array([1.0, -1]), (Pool((1, 2), (1, 2), (0, 0), kind="sum"),), Dense(np.full((3, 1), 0.5)))
    assert run.ledger.synops("sum->out", "structural").tolist() == [6]
    assert run.ledger.synops("sum->out", "effective_per_tick").tolist() == [3]
    layers = torch_layers(*(getattr(run.network.connections[1], name) for name in ("op", "before")))
    assert neurobench_synops(layers, torch.tensor([[[[1.0, -1.0]]]], dtype=torch.float64)) == (0, 0, 3)


# ---------------------------------------------------------------------------------- neurons that fire several times


def test_multiplicities_are_the_units_of_sinabs():
    """If this fails, a neuron that fires m times in a tick is not m times its fan-out to sinabs, once to NeuroBench."""
    shape = (2, 4, 5)
    network = fanned(shape, [convolution(some_weights(3, 2, 3, 3), 2, 1)])
    several = replace(
        network,
        populations=(*network.populations, Population("several", shape, IF(multi_spike=True))),
        connections=(
            Connection("input", "several", Sparse(np.arange(41), np.arange(40), np.full(40, 2.5), shape)),
            *(replace(c, source="several", name=None) for c in network.connections),
        ),
    )
    run = run_events(several, random_rasters(shape, ticks=5), record="spikes")
    rasters = recorded_rasters(run)
    assert set(np.unique(rasters["several"])) == {0, 2, 3}
    assert differences(run, {"several": rasters["several"]}) == []
    structural, units = (run.ledger.synops("several->target 0", kind) for kind in ("structural", "units"))
    assert np.all(units > 2 * structural)
    for n, raster in enumerate(torch.tensor(rasters["several"])):
        layers = torch_layers(network.connections[0].op)
        assert sinabs_synops(layers, raster) == units[n]
        assert spikingjelly_synops(layers, raster) == 0
