"""The engine against the naive simulator, with ==, and the laws every run must keep."""

import itertools
import math
from dataclasses import replace

import naive
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from networks import Case, cases

import eventsnn as es
from eventsnn.ledger import OPERATIONS
from eventsnn.network import Connection, Conv, Dense, Flatten, Identity, Network, Pool, Population, Sparse, Subsample
from eventsnn.neurons import IF, LI, LIF, CubaLI, CubaLIF, Input, Integrator, Neuron, Relay

MANTISSA = {"float32": 24, "float64": 53}
KINDS = ("structural", "units", "effective", "effective_per_tick", "delivered", "dropped")


def same_every_time(examples: int) -> settings:
    """The same examples in every run, so that a failure stays one."""
    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=slow,
    )


def feed(case: Case):
    """A case's samples as the engine takes them."""
    if case.network.encoding == "direct":
        return np.stack(case.samples)
    microseconds = [1000 * tick + min(999, 37 * i) for s in case.samples for i, (tick, _) in enumerate(s)]
    units = [unit for s in case.samples for _, unit in s]
    offsets = np.cumsum([0] + [len(s) for s in case.samples])
    return es.Events(t=np.array(microseconds, np.int64), neuron=np.array(units, np.int64), offsets=offsets)


def run_engine(case: Case, network: Network | None = None, **options) -> es.Run:
    network = network or case.network
    layout = "chw" if network.encoding == "direct" else None
    return es.simulate(network, feed(case), layout=layout, **{"ticks": case.ticks, "dtype": "float64", **options})


@st.composite
def policies(draw, readout: str, ticks: int):
    """A policy, as the naive simulator takes it and as the engine does."""
    names = ["fixed", "topk", "topk by tick", "confidence", "entropy", "budget"]
    name = draw(st.sampled_from(names + (["spike-gap", "first-spike"] if readout == "spikes" else [])))
    on = {"on": "counts"} if readout == "spikes" else {}
    if name == "fixed":
        return ("fixed",), es.Fixed()
    if name == "first-spike":
        return ("first-spike",), es.FirstSpike()
    if name == "spike-gap":
        gap = draw(st.integers(1, 3))
        return (name, gap), es.SpikeGap(gap)
    if name == "budget":
        synops = draw(st.integers(1, 300))
        return (name, synops), es.Budget(synops)
    if name == "topk":
        beta = draw(st.sampled_from([0.0, 0.5, 1.0, 2.5, 6.0]))
        return ("topk", beta), es.TopKGap(beta, **on)
    if name == "topk by tick":
        beta = tuple(draw(st.sampled_from([0.0, 0.5, 1.0, 2.5, 6.0])) for _ in range(ticks))
        return ("topk", beta), es.TopKGap(beta, **on)
    level, scale = draw(st.sampled_from([0.413, 0.617, 0.9])), draw(st.sampled_from([1.0, 2.0]))
    policy = es.Confidence if name == "confidence" else es.Entropy
    return (name, level, scale), policy(level, scale=scale, **on)


def events_of(run: es.Run, sample: int) -> list[tuple[int, str, int, float]]:
    names = [p.name for p in run.network.populations]
    chosen = run.events[run.events["sample"] == sample]
    return [(int(e["time"]), names[e["population"]], int(e["neuron"]), float(e["value"])) for e in chosen]


def differences(run: es.Run, results: list[naive.Result]) -> list[str]:
    """Everything in which a run is not what the naive simulator says, one line each."""
    network, ledger, found = run.network, run.ledger, []

    def compare(what: str, got, wanted) -> None:
        same = np.array_equal(got, wanted) if isinstance(wanted, np.ndarray) else got == wanted
        if not same:
            found.append(f"sample {n}: {what} is {got}, wanted {wanted}")

    for n, result in enumerate(results):
        stop = result.stop_time
        compare("events", sorted(events_of(run, n)), sorted(result.events))
        compare("outputs", run.outputs[n, :stop], np.array(result.outputs))
        compare("outputs past the stop", bool(np.isnan(run.outputs[n, stop:]).all()), True)
        compare("stop_time", int(run.stop_time[n]), stop)
        compare("whether it was cut off", bool(run.stop_reason[n] != 0), result.reason == "cutoff")
        compare("prediction", int(run.predictions[n]), result.prediction)
        compare("tied", bool(run.tied[n]), result.tied)
        compare("macs_input", int(ledger.macs_input[n]), result.macs_input)
        compare("input_events", int(ledger.input_events[n]), result.input_events)
        for p in network.populations:
            if not isinstance(p.neuron, Input):
                compare(f"spikes of {p.name}", int(ledger.spikes(p.name)[n]), result.spikes(p.name))
                by_tick = [
                    sum(t == tick and name == p.name for t, name, _, _ in result.events) for tick in range(run.ticks)
                ]
                compare(f"spikes of {p.name} by tick", ledger.spikes_by_tick(p.name)[n].tolist(), by_tick)
            if isinstance(p.neuron, IF):
                compare(f"spike units of {p.name}", int(ledger.spike_units(p.name)[n]), result.spike_units(p.name))
            for operation in OPERATIONS:
                done = int(ledger.operations(operation, p.name)[n])
                compare(f"{operation} of {p.name}", done, result.operations[p.name, operation])
        for name, membranes in result.potentials.items() if run.potentials is not None else ():
            got = run.potentials[name][n].reshape(run.ticks, -1)
            compare(f"potentials of {name}", got[: len(membranes)].tolist(), membranes)
        for (label, tap_class), counts in result.taps.items():
            main = result.main_class[label] == tap_class
            if main:
                compare(f"class of {label}", ledger.tap_class[label], tap_class)
            for kind in KINDS:
                ask = ledger.synops_by_tick if main else ledger.pool_taps_by_tick
                compare(f"{kind} {tap_class} taps of {label}", ask(label, kind)[n].tolist(), counts[kind])
            left = (ledger.synops if main else ledger.pool_taps)(label, "in_flight")[n]
            compare(f"{tap_class} taps of {label} in flight", int(left), counts["in_flight"])
    return found


@same_every_time(1500)
@given(cases(full=True), st.data())
def test_the_engine_is_the_naive_simulator(case, data):
    """If this fails, the engine breaks a rule of docs/semantics.md, or the naive simulator does."""
    told, policy = data.draw(policies(case.network.readout, case.ticks))
    layer_delay = data.draw(st.sampled_from([0, 0, 0, 1]))
    dtype = data.draw(st.sampled_from(["float64", "float32"]))
    # recorded potentials make every population take every turn; without them, turns with nothing to do are skipped
    record = data.draw(st.sampled_from(["spikes", "potentials"]))
    results = [naive.simulate(case.network, s, case.ticks, told, layer_delay) for s in case.samples]
    assume(max(r.bits for r in results) <= MANTISSA[dtype])
    run = run_engine(case, watchdog=policy, layer_delay=layer_delay, dtype=dtype, record=record)
    assert differences(run, results) == []


WIDE = [8, 16, 24, 48]
WIDE_NEURONS = {
    "IF": IF(threshold=3.0, v0=1.5),
    "above the threshold": IF(threshold=2.0, comparator="gt"),
    "to a value": IF(threshold=2.0, reset="value", reset_value=-1.0),
    "without reset": IF(threshold=6.0, reset="none"),
    "more than it takes": IF(threshold=2.0, reset_amount=1.0),
    "leaky": LIF(threshold=2.0, alpha=0.5),
    "leaky, with a floor": LIF(threshold=2.0, alpha=0.5, v_min=-0.5),
    "with a floor": IF(threshold=2.0, v_min=-1.0),
    "pushed below its floor": IF(threshold=1.0, reset_amount=4.0, v_min=-1.0),
    "several": IF(threshold=2.0, multi_spike=True),
    "several, with a floor": IF(threshold=1.0, multi_spike=True, v_min=-1.0, gain=0.5),
    "several, leaky": LIF(threshold=2.0, alpha=0.25, multi_spike=True),
    "refractory": IF(threshold=2.0, refractory=1),
}


def wide_case(neuron: IF, channels: int, bias: str, encoding: str) -> Case:
    """Convolutions at stride 1 and 2, a residual connection and a loop between layers of many channels."""
    rng = np.random.default_rng(channels)

    def weights(*shape):
        return rng.choice([-1.0, 0.0, 0.0, 1.0, 2.0], shape)

    def conv(inputs, outputs, stride=1):
        return Conv(weights(outputs, inputs, 3, 3), (stride, stride), ((1, 1), (1, 1)), (1, 1))

    grid = (channels, 3, 4)
    biases = {"none": None, "by channel": weights(channels) / 4, "by unit": weights(*grid) / 4}[bias]
    network = Network(
        populations=(
            Population("input", (2, 3, 4), Input()),
            Population("a", grid, neuron),
            Population("b", grid, neuron),
            Population("c", (16, 2, 2), neuron),
            Population("out", (3,), IF(threshold=4.0)),
        ),
        connections=(
            Connection("input", "a", conv(2, channels), bias=biases),
            Connection("a", "b", conv(channels, channels), bias=None if biases is None else -biases),
            Connection("a", "b", Identity(weights(channels)), delay=1),
            Connection("b", "a", Identity(-1.0), delay=2),
            Connection("b", "c", conv(channels, 16, 2)),
            Connection("c", "out", Dense(weights(3, 64)), before=(Flatten(),)),
        ),
        output="out",
        encoding=encoding,
        tick_seconds=1e-3,
    )
    ticks = 9
    if encoding == "direct":
        return Case(network, (rng.choice([-1.0, 0.0, 1.0], (2, 3, 4)),), 4)
    busy = [0, 1, 2, 5, 8]  # and ticks in which nothing arrives
    sample = sorted((int(t), int(u)) for t, u in zip(rng.choice(busy, 20), rng.integers(0, 24, 20), strict=True))
    return Case(network, (sample, sample[::3]), ticks)


@pytest.mark.parametrize(
    ("name", "channels"), [(name, WIDE[(i + j) % 4]) for i, name in enumerate(WIDE_NEURONS) for j in (0, 1)]
)
def test_wide_layers_are_the_naive_simulator(name, channels):
    """If this fails, layers that are updated and delivered by whole blocks of channels break a rule."""
    number = [*WIDE_NEURONS].index(name) + WIDE.index(channels)
    neuron, bias = WIDE_NEURONS[name], ("none", "none", "by channel", "by unit")[number % 4]
    case = wide_case(neuron, channels, bias, "direct" if number % 5 == 4 else "events")
    results = [naive.simulate(case.network, s, case.ticks, ("fixed",), 0) for s in case.samples]
    bits = max(r.bits for r in results)
    dtype = "float32" if number % 3 == 0 and bits <= MANTISSA["float32"] else "float64"
    assert bits <= MANTISSA[dtype]
    run = run_engine(case, dtype=dtype, record="spikes", watchdog=es.Fixed())
    assert differences(run, results) == []
    spikes = [int(run.ledger.spikes(name).sum()) for name in "abc"]
    assert min(spikes) > 0
    alone = run_engine(case, dtype=dtype, count="spikes", watchdog=es.Fixed())  # no account of what was reached
    assert np.array_equal(alone.outputs, run.outputs)
    assert [int(alone.ledger.spikes(name).sum()) for name in "abc"] == spikes


def tie_network(**changes) -> Case:
    """Two inputs that bring a layer exactly to its threshold, now and again."""
    return tied(LIF(**{"threshold": 2.0, "v0": 0.0, "alpha": 0.5, "leak": "after", "v_min": -1.0, **changes}))


def tied(hidden: Neuron, receptor: int | None = None, delay: int = 1) -> Case:
    network = Network(
        populations=(Population("input", (2,), Input()), Population("a", (3,), hidden), Population("out", (2,), IF())),
        connections=(
            Connection(
                "input", "a", Dense(np.array([[1.0, 1.0], [2.0, -1.0], [-3.0, 2.0]])), bias=np.array([0.0, 0.5, 1.0])
            ),
            Connection("a", "a", Identity(0.5), delay=delay, receptor=receptor),
            Connection("a", "out", Dense(np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]])), delay=1),
        ),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
    )
    sample = [(0, 0), (0, 1), (1, 0), (2, 1), (2, 1), (3, 0), (3, 1), (4, 1), (5, 0)]
    return Case(network, (sample, sample[2:]), 8)


@pytest.mark.parametrize(
    "change",
    [
        {"comparator": "gt"},
        {"reset": "value"},
        {"reset": "none"},
        {"reset_amount": 1.0},
        {"reset_delay": True},
        {"multi_spike": True, "reset_amount": 0.5},
        {"refractory": 1},
        {"refractory": 1, "refractory_input": "integrate"},
        {"leak": "before"},
        {"v0": 1.0},
        {"v_min": None},
        {"gain": 2.0},
        {"rest": 1.0},
        {"alpha": 0.75},
        {"threshold": 2.5},
    ],
    ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items()),
)
def test_the_comparison_can_fail(change):
    """If this fails, the comparison above is blind to a flag of the neurons: a network without it counts as equal."""
    plain, changed = tie_network(), tie_network(**change)
    results = [naive.simulate(changed.network, s, changed.ticks) for s in changed.samples]
    assert differences(run_engine(changed, record="potentials"), results) == []
    assert differences(run_engine(plain, record="potentials"), results) != []


SLOW = {"threshold": 2.0, "alpha": 0.5, "alpha_syn": (0.5, 0.75), "refractory": 2, "hold": True}


@pytest.mark.parametrize(
    "change",
    [
        {"alpha_syn": (0.75, 0.75)},
        {"alpha_syn": 0.5, "gain_syn": (1.0, 1.0)},
        {"alpha_syn": (1.0, 0.75)},
        {"gain_syn": 0.5},
        {"gain_syn": (1.0, -1.0)},
        {"gain_old": 1.0},
        {"gain_old": (0.0, 0.5)},
        {"i0": (0.0, 1.0)},
        {"gain": 0.5},
        {"alpha": 1.0},
        {"rest": 1.0},
        {"v0": 1.0},
        {"v_min": 0.0},
        {"comparator": "gt"},
        {"reset": "value"},
        {"reset": "none"},
        {"refractory": 1},
        {"refractory": math.inf},
        {"refractory_input": "integrate"},
        {"refractory": 0, "hold": None},
        {"refractory": 0, "hold": None, "multi_spike": True},
    ],
    ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items()),
)
def test_the_comparison_can_fail_for_currents(change):
    """If this fails, the comparison is blind to a parameter of a synaptic current, or of what it does to a membrane."""
    plain, changed = tied(CubaLIF(**SLOW), 1, 3), tied(CubaLIF(**{**SLOW, **change}), 1, 3)
    results = [naive.simulate(changed.network, s, changed.ticks) for s in changed.samples]
    assert differences(run_engine(changed, record="potentials"), results) == []
    assert differences(run_engine(plain, record="potentials"), results) != []


def read_by(neuron: Neuron, **options) -> Case:
    """What a readout sees of a layer that is driven now and again, over synapses of several delays."""
    lines = Sparse(
        np.array([0, 3, 4]),
        np.array([0, 1, 0, 1]),
        np.array([1.0, 2.0, -0.5, 1.0]),
        (2,),
        options.pop("delay", np.array([0, 2, 1, 3])),
    )
    network = Network(
        populations=(Population("input", (2,), Input()), Population("out", (2,), neuron)),
        connections=(Connection("input", "out", lines, bias=np.array([0.0, 0.5]), **options),),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
    )
    return Case(network, ([(0, 0), (1, 1), (1, 1), (4, 0)], [], [(5, 1)]), 7)


@pytest.mark.parametrize(
    "change",
    [{"alpha": 0.25}, {"rest": 1.0}, {"gain": 2.0}, {"v0": 1.0}, {"alpha_syn": 0.0}, {"gain_old": 1.0}, {"i0": 0.5}],
    ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items()),
)
@pytest.mark.parametrize("kind", [LI, CubaLI])
def test_the_comparison_can_fail_for_readouts(kind, change):
    """If this fails, a leaky readout could forget to leak, in silent ticks above all, and nobody would see it."""
    if kind is LI and not hasattr(LI(), next(iter(change))):
        return
    plain, changed = read_by(kind()), read_by(kind(**change))
    results = [naive.simulate(changed.network, s, changed.ticks) for s in changed.samples]
    for record in ("spikes", "potentials"):
        assert differences(run_engine(changed, record=record), results) == []
        assert differences(run_engine(plain, record=record), results) != []


@pytest.mark.parametrize(
    "change",
    [{"delay": np.array([0, 2, 2, 3])}, {"delay": np.array([1, 2, 1, 3])}, {"delay": None}, {"scale": np.ones((9, 2))}],
    ids=lambda change: "-".join(change),
)
@pytest.mark.parametrize("neuron", [LI(), Integrator(), IF(refractory=1), CubaLIF(refractory=math.inf)])
def test_the_comparison_can_fail_for_delays(neuron, change):
    """If this fails, a synapse could take another time than its own, or its taps be booked at another."""
    plain, changed = read_by(neuron), read_by(neuron, **change)
    results = [naive.simulate(changed.network, s, changed.ticks) for s in changed.samples]
    assert differences(run_engine(changed, record="spikes"), results) == []
    assert ("scale" in change) == (differences(run_engine(plain, record="spikes"), results) == [])


def test_a_synapse_takes_its_own_time():
    """By hand: synapses of 0, 2, 1 and 3 ticks, beside the connection's one; what takes 4 is still on its way."""
    network = read_by(Integrator()).network
    slow = replace(network.connections[0], bias=None, delay=1)
    run = run_engine(Case(replace(network, connections=(slow,)), ([(0, 0), (1, 1)],), 4), record="spikes")
    assert run.outputs[0].tolist() == [[0.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.5, 2.0]]
    taps = {kind: run.ledger.synops_by_tick(slow.label, kind)[0].tolist() for kind in ("structural", "delivered")}
    assert taps == {"structural": [3, 1, 0, 0], "delivered": [0, 1, 1, 1]}
    assert run.ledger.synops(slow.label, "in_flight").tolist() == [1]


@pytest.mark.parametrize("delay", [None, np.array([2, 0, 1])], ids=["at once", "late"])
def test_an_image_reaches_both_receptors(delay):
    """By hand: pixels 1 and 2 as currents of both receptors; one that synapses delay begins after as many ticks."""
    weights = Sparse(np.array([0, 2, 3]), np.array([0, 1, 1]), np.array([1.0, 2.0, 4.0]), (2,), delay)
    network = Network(
        populations=(
            Population("input", (2,), Input()),
            Population("out", (2,), CubaLI(alpha=0.0, alpha_syn=0.0, gain_syn=(1.0, 0.5))),
        ),
        connections=(
            Connection("input", "out", Dense(np.array([[1.0, 0.0], [0.0, 1.0]]))),
            Connection("input", "out", weights, receptor=1),
        ),
        output="out",
        tick_seconds=1e-3,
    )
    case = Case(network, (np.array([1.0, 2.0]),), 4)
    run = run_engine(case)
    second = [[0.5, 5.0]] * 4 if delay is None else [[0.0, 1.0], [0.0, 5.0], [0.5, 5.0], [0.5, 5.0]]
    assert run.outputs[0].tolist() == [[1.0 + a, 2.0 + b] for a, b in second]
    assert differences(run_engine(case, record="spikes"), [naive.simulate(network, case.samples[0], 4)]) == []


@pytest.mark.parametrize(("refractory_input", "dropped"), [("discard", 7), ("integrate", 0)])
def test_a_neuron_that_fires_once_fires_no_more(refractory_input, dropped):
    """By hand: the first spike in tick 1; events of the ticks after it are dropped or not, the membrane stays."""
    once = LIF(threshold=2.0, alpha=0.5, reset_amount=0.5, refractory=math.inf, refractory_input=refractory_input)
    network = Network(
        populations=(Population("input", (1,), Input()), Population("out", (2,), once)),
        connections=(Connection("input", "out", Dense(np.array([[1.5], [0.0]]))),),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
    )
    for record in ("spikes", "potentials"):
        run = run_engine(Case(network, ([(t, 0) for t in range(9)],), 9), record=record)
        assert [e for e in events_of(run, 0) if e[1] == "out"] == [(1, "out", 0, 1.0)]
        assert run.ledger.synops(kind="dropped").tolist() == [dropped]
        assert run.ledger.synops(kind="delivered").tolist() == [18 - dropped]
    assert run.potentials["out"][0, :, 0].tolist() == [1.5] + [1.75] * 8


def test_a_current_outlasts_the_refractory_time():
    """By hand: the current of one event, halved in every tick, fires the neuron; it is held, and fires again."""
    slow = CubaLIF(threshold=4.0, alpha=1.0, alpha_syn=0.5, reset="value", refractory=2, hold=True)
    network = Network(
        populations=(Population("input", (1,), Input()), Population("out", (2,), slow)),
        connections=(Connection("input", "out", Dense(np.array([[4.0], [64.0]]))),),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
    )
    # currents 64, 32, 16, 8, 4, 2: fires in tick 0, held in 1 and 2, fires at 8, held, nothing after
    run = run_engine(Case(network, ([(0, 0), (1, 0)],), 6), record="potentials")
    assert [(t, unit) for t, name, unit, _ in events_of(run, 0) if name == "out"] == [(0, 0), (0, 1), (3, 1)]
    assert run.potentials["out"][0].tolist() == [
        [0.0, 0.0],
        [0.0, 0.0],
        [0.0, 0.0],
        [0.5, 0.0],
        [0.75, 0.0],
        [0.875, 0.0],
    ]
    assert run.ledger.synops(kind="dropped").tolist() == [2]


@same_every_time(60)
@given(cases(full=True), st.data())
def test_a_stopped_run_is_the_full_run_cut_at_its_deciding_position(case, data):
    """If this fails, stopping changes what came before it, or something after it was still processed."""
    _, policy = data.draw(policies(case.network.readout, case.ticks))
    layer_delay = data.draw(st.sampled_from([0, 0, 1]))
    full = run_engine(case, record="potentials", layer_delay=layer_delay)
    cut = run_engine(case, record="potentials", layer_delay=layer_delay, watchdog=policy)
    network = case.network if layer_delay == 0 else case.network.with_layer_delay(layer_delay)
    depth = network.depths()
    deciding = depth[network.output]
    names = [p.name for p in network.populations]
    for n in range(len(case.samples)):
        stop, stopped = int(cut.stop_time[n]), cut.stop_reason[n] != 0
        if not stopped:
            assert stop == case.ticks

        def happened(tick: int, rank_depth: int, stop: int = stop, stopped: bool = stopped) -> bool:
            return tick < stop - 1 or (tick == stop - 1 and (rank_depth <= deciding or not stopped))

        kept = [e for e in events_of(full, n) if happened(e[0], depth[e[1]])]
        assert events_of(cut, n) == kept
        assert np.array_equal(cut.outputs[n, :stop], full.outputs[n, :stop])
        for name in names:
            ticks = [t for t in range(case.ticks) if happened(t, depth[name])]
            if name in full.potentials:
                assert np.array_equal(cut.potentials[name][n, ticks], full.potentials[name][n, ticks])
        for c, kind in itertools.product(network.connections, KINDS):
            # emitted counts belong to the source's turn, delivered ones to the arrival at the target
            rank_depth = depth[c.source] if kind in KINDS[:4] else depth[c.target]
            mask = np.array([happened(t, rank_depth) for t in range(case.ticks)])
            for ask in ("synops_by_tick", "pool_taps_by_tick"):
                full_counts = getattr(full.ledger, ask)(c.label, kind)[n]
                assert np.array_equal(getattr(cut.ledger, ask)(c.label, kind)[n], full_counts * mask)


def has_own_delays(c: Connection) -> bool:
    return isinstance(c.op, Sparse) and c.op.delay is not None and bool(c.op.delay.any())


@same_every_time(60)
@given(cases(full=True), st.data())
def test_taps_are_conserved_at_every_stop(case, data):
    """If this fails, an operation was counted twice or lost: structural = delivered + dropped + in flight."""
    ticks = data.draw(st.integers(1, case.ticks))
    _, policy = data.draw(policies(case.network.readout, ticks))
    record = data.draw(st.sampled_from(["outputs", "spikes", "potentials"]))
    ledger = run_engine(case, watchdog=policy, ticks=ticks, record=record).ledger
    totals = {}
    for c in case.network.connections:
        for ask, tap_class in ((ledger.synops, ledger.tap_class[c.label]), (ledger.pool_taps, "pool")):
            counts = {kind: ask(c.label, kind) for kind in (*KINDS, "in_flight")}
            assert np.array_equal(counts["structural"], counts["delivered"] + counts["dropped"] + counts["in_flight"])
            assert np.all(counts["effective"] <= counts["structural"])
            assert all(values.dtype == np.int64 and np.all(values >= 0) for values in counts.values())
            if not any(d.delay or has_own_delays(d) for d in case.network.connections) and isinstance(policy, es.Fixed):
                assert not counts["in_flight"].any()
            for kind in counts:
                totals[tap_class, kind] = totals.get((tap_class, kind), 0) + counts[kind]
    for kind in (*KINDS, "in_flight"):
        synops = totals.get(("ac", kind), 0) + totals.get(("mac", kind), np.zeros(len(case.samples), np.int64))
        assert np.array_equal(ledger.synops(kind=kind), synops)


@same_every_time(60)
@given(cases(full=True), st.data())
def test_a_replayed_policy_answers_as_a_live_one(case, data):
    """If this fails, the curves drawn from one full run are not the runs they stand for."""
    full = run_engine(case)
    for _ in range(4):
        _, policy = data.draw(policies(case.network.readout, case.ticks))
        live, replayed = run_engine(case, watchdog=policy), es.replay(full.trace, policy)
        assert replayed.stop_time.tolist() == live.stop_time.tolist()
        assert replayed.predictions.tolist() == live.predictions.tolist()
        assert replayed.tied.tolist() == live.tied.tolist()
        assert replayed.stop_reason.tolist() == live.stop_reason.tolist()


def everything(run: es.Run) -> list[bytes]:
    """All arrays of a run, as bytes."""
    ledger = run.ledger
    arrays = [run.predictions, run.tied, run.stop_time, run.stop_reason, run.outputs, run.events, ledger.macs_input]
    arrays += [potential for _, potential in sorted((run.potentials or {}).items())]
    arrays += [ledger.spikes_by_tick(p.name) for p in run.network.populations]
    for c, kind in itertools.product(run.network.connections, (*KINDS, "in_flight")):
        arrays += [ledger.synops(c.label, kind), ledger.pool_taps(c.label, kind)]
        if kind != "in_flight":
            arrays += [ledger.synops_by_tick(c.label, kind), ledger.pool_taps_by_tick(c.label, kind)]
    arrays += [run.trace.margins, run.trace.synops]
    return [np.ascontiguousarray(a).tobytes() for a in arrays]


def busy_case(encoding: str = "events", samples: int = 9) -> Case:
    """Real-valued weights, a recurrent connection, dropped arrivals and a relay, over several samples."""
    rng = np.random.default_rng(3)
    leaky = LIF(alpha=0.9, threshold=0.7, refractory=1, v0=0.1)

    def conv(*shape: int) -> Conv:
        return Conv(rng.normal(0.1, 0.5, shape), (1, 1), ((1, 1), (1, 1)), (1, 1))

    network = Network(
        populations=(
            Population("input", (2, 4, 5), Input()),
            Population("a", (3, 4, 5), leaky),
            Population("sum", (3, 4, 5), Relay()),
            Population("b", (4, 4, 5), IF(threshold=0.6, reset="value")),
            Population("out", (3,), IF(threshold=0.8)),
        ),
        connections=(
            Connection("input", "a", conv(3, 2, 3, 3), bias=rng.normal(0, 0.1, 3)),
            Connection("a", "sum", conv(3, 3, 3, 3)),
            Connection("a", "sum", Identity()),
            Connection("sum", "b", conv(4, 3, 3, 3)),
            Connection("b", "a", conv(3, 4, 3, 3), delay=2),
            Connection("b", "out", Sparse(np.arange(81), np.arange(80) % 3, rng.normal(0.1, 0.3, 80), (3,))),
        ),
        output="out",
        encoding=encoding,
        tick_seconds=1e-3,
    )
    if encoding != "events":
        return Case(network, tuple(rng.random((samples, 2, 4, 5))), 8)
    drawn = [sorted(zip(rng.integers(0, 8, 60).tolist(), rng.integers(0, 40, 60).tolist())) for _ in range(samples)]
    return Case(network, tuple(drawn), 8)


@pytest.mark.parametrize("encoding", ["direct", "events", "rate", "latency"])
@pytest.mark.parametrize("policy", [es.Fixed(), es.SpikeGap(2)], ids=["fixed", "spike-gap"])
def test_the_answer_does_not_depend_on_the_workers(encoding, policy):
    """If this fails, a result depends on how many threads computed it or on what ran before in a worker."""
    case = busy_case("events" if encoding == "events" else "direct")
    case = replace(case, network=replace(case.network, encoding=encoding))
    options = {"watchdog": policy, "record": "potentials", "dtype": "float32", "layout": "chw"}
    inputs = feed(case) if encoding == "events" else np.stack(case.samples)
    if encoding == "events":
        del options["layout"]
    one, two = (es.simulate(case.network, inputs, ticks=8, jobs=jobs, **options) for jobs in (1, 2))
    assert one.ledger.spikes().sum() > 100
    assert everything(one) == everything(two)


def test_recording_does_not_change_a_run():
    """If this fails, turns are skipped in which something would have happened."""
    case = busy_case()
    quiet, spikes, potentials = (run_engine(case, record=r) for r in ("outputs", "spikes", "potentials"))
    for run in (spikes, potentials):
        assert np.array_equal(run.outputs, quiet.outputs)
        assert np.array_equal(run.predictions, quiet.predictions)
        for name in ("a", "sum", "b", "out"):
            assert np.array_equal(run.ledger.spikes_by_tick(name), quiet.ledger.spikes_by_tick(name))
    assert spikes.events.tobytes() == potentials.events.tobytes()
    assert quiet.events is None
    assert quiet.potentials is None
    some = run_engine(case, record=["b"])
    names = [p.name for p in case.network.populations]
    assert some.events.tobytes() == spikes.events[spikes.events["population"] == names.index("b")].tobytes()


@pytest.mark.parametrize(
    "neuron",
    [
        LIF(threshold=1.0, rest=2.0, alpha=0.5),  # leak alone carries it over the threshold
        LIF(threshold=-1.0, v0=-3.0, alpha=0.5, reset="value", reset_value=-3.0, comparator="gt"),
        LIF(threshold=1.0, rest=-1.0, v0=5.0, alpha=0.5),  # above the threshold from the start
        IF(threshold=1.0, v0=4.5),  # a soft reset leaves it above the threshold
        IF(threshold=1.0, v0=-2.0, v_min=-1.0),  # the bound lifts a membrane nothing arrived at
        IF(threshold=0.5, reset_amount=3.0, v_min=-1.0, v0=0.5),  # and one that its reset took below
        IF(threshold=-1.0, reset_amount=4.0, v_min=0.0),  # and one over the threshold
        LIF(threshold=1.0, v0=4.0, v_min=0.5, rest=-2.0, alpha=0.5, refractory=2),
        LIF(threshold=3.0, v0=4.0, reset_delay=True, alpha=0.5, leak="after"),
        IF(threshold=0.0, v0=0.0, reset_amount=1.0),
        LIF(threshold=1.0, v0=4.0, v_min=0.5, rest=-2.0, alpha=0.5, refractory=2, hold=True),  # held below its bound
        LIF(threshold=1.0, v0=3.0, alpha=0.5, leak="after", refractory=3, hold=True),
        LIF(threshold=1.0, v0=4.0, rest=2.0, alpha=0.5, refractory=math.inf),
        LIF(threshold=1.0, v0=4.0, reset_delay=True, alpha=0.5, refractory=2, hold=True),
        CubaLIF(threshold=1.0, i0=1.0, alpha_syn=0.5),  # a current left from before fires it
        CubaLIF(threshold=1.0, i0=(-1.0, 1.0), alpha_syn=(0.5, 1.0), alpha=0.75, multi_spike=True),
        CubaLIF(threshold=0.5, alpha=1.0, gain=0.0, gain_old=1.0, refractory=1, hold=True),  # a tick after it arrived
        CubaLIF(threshold=1.0, i0=4.0, rest=0.5, refractory=math.inf, refractory_input="integrate"),
    ],
    ids=lambda neuron: type(neuron).__name__,
)
def test_a_neuron_left_alone_does_what_it_would_in_every_turn(neuron):
    """If this fails, a turn was skipped that would have fired, clamped or reset: leak and time act without arrivals."""
    network = Network(
        populations=(Population("input", (1,), Input()), Population("a", (1,), neuron), Population("out", (2,), IF())),
        connections=(
            Connection("input", "a", Dense(np.array([[1.0]]))),
            Connection("a", "out", Dense(np.array([[1.0], [0.5]]))),
        ),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
    )
    case = Case(network, ([], [(4, 0), (5, 0)], [(0, 0), (6, 0), (7, 0), (8, 0)]), 9)
    results = [naive.simulate(network, s, case.ticks) for s in case.samples]
    for record in ("spikes", "potentials"):
        assert differences(run_engine(case, record=record), results) == []


def test_a_tie_is_broken_by_the_membrane_of_that_tick():
    """If this fails, the prediction depends on what was recorded: leak is not made up before membranes are compared."""
    output = LIF(threshold=np.array([3.0, 0.5, 1.5]), alpha=0.25, v0=np.array([2.5, 0.0, 0.0]), comparator="gt")
    network = Network(
        populations=(Population("input", (1,), Input()), Population("out", (3,), output)),
        connections=(Connection("input", "out", Dense(np.zeros((3, 1)))),),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
    )
    case = Case(network, ([],), 3)
    for record in ("outputs", "spikes", "potentials"):
        run = run_engine(case, record=record)
        assert run.predictions.tolist() == [naive.simulate(network, [], 3).prediction] == [1]
        assert run.tied.tolist() == [True]


@pytest.mark.parametrize("encoding", ["direct", "events"])
def test_silent_channels_of_another_group_take_no_part(encoding):
    """If this fails, an event is counted, or arrives, in groups of a convolution that its channel is not in."""
    grouped = Conv(np.array([3.0, 1.0, 2.0]).reshape(3, 1, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), groups=3)
    network = Network(
        populations=(
            Population("input", (1, 2, 2), Input()),
            Population("sum", (3, 2, 2), Relay()),
            Population("out", (2,), IF(threshold=4.0)),
        ),
        connections=(
            Connection("input", "sum", grouped, before=(Subsample((1, 1), (1, 1)),)),
            Connection("sum", "out", Dense(np.ones((2, 12))), before=(Flatten(),)),
        ),
        output="out",
        encoding=encoding,
        tick_seconds=1e-3,
    )
    samples = ([(0, 0), (1, 3)],) if encoding == "events" else (np.array([[[1.0, 2.0], [3.0, 4.0]]]),)
    case = Case(network, samples, 2)
    results = [naive.simulate(network, s, case.ticks) for s in samples]
    assert differences(run_engine(case, record="spikes"), results) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_recording_of_millions_of_events_is_whole(jobs):
    """If this fails, a worker's buffer of recorded events overflows, or is handed over in the wrong order."""
    period = np.random.default_rng(0).choice([1, 2, 4], (2, 1, 200, 310))
    silent = Sparse(np.zeros(62_001, np.int64), np.zeros(0, np.int64), np.zeros(0), (2,))
    network = Network(
        populations=(
            Population("input", (1, 200, 310), Input()),
            Population("a", (1, 200, 310), IF()),
            Population("out", (2,), IF()),
        ),
        connections=(Connection("input", "a"), Connection("a", "out", silent)),
        output="out",
    )
    run = es.simulate(network, 1.0 / period, ticks=40, record="spikes", jobs=jobs)
    assert len(run.events) == run.ledger.spikes("a").sum() > 2 << 20
    wanted = [np.flatnonzero((tick + 1) % period[n].ravel() == 0) for n in range(2) for tick in range(40)]
    assert np.array_equal(run.events["neuron"], np.concatenate(wanted))
    assert np.array_equal(run.events["time"], np.repeat(np.tile(np.arange(40), 2), [len(w) for w in wanted]))


@pytest.mark.parametrize("encoding", ["rate", "latency"])
def test_an_encoded_run_is_the_run_of_its_own_events(encoding):
    """If this fails, rate or latency input is more than events: what the input emitted does not explain the run."""
    case = busy_case("direct", samples=4)
    network = replace(case.network, encoding=encoding)
    images = np.stack(case.samples)
    run = es.simulate(network, images, ticks=8, record="spikes", dtype="float64", seed=5, layout="chw")
    again = es.simulate(network, images[2:], ticks=8, record="spikes", dtype="float64", seed=5, layout="chw")
    fed = [[(t, unit) for t, name, unit, _ in events_of(run, n) if name == "input"] for n in range(4)]
    assert all(fed)
    replayed = Case(replace(network, encoding="events"), tuple(fed), 8)
    assert everything(run_engine(replayed, record="spikes"))[:6] == everything(run)[:6]
    if encoding == "latency":
        assert events_of(again, 0) == events_of(run, 2)


@same_every_time(40)
@given(cases(full=True))
def test_layer_delay_is_the_network_with_slower_connections(case):
    """If this fails, layer_delay means something else than one tick on every connection that had none."""
    connections = tuple(replace(c, delay=max(c.delay, 1)) for c in case.network.connections)
    slower = replace(case.network, connections=connections)
    wanted = run_engine(case, slower, record="potentials")
    assert everything(run_engine(case, layer_delay=1, record="potentials")) == everything(wanted)


def test_layer_delay_brings_a_spike_one_layer_further_each_tick():
    """If this fails, zero-delay layers still cascade inside a tick under layer_delay=1."""
    names = ["a", "b", "c", "out"]
    populations = [Population("input", (1,), Input()), *(Population(n, (2 if n == "out" else 1,), IF()) for n in names)]
    chain = [
        Connection(s, t, Dense(np.ones((2 if t == "out" else 1, 1)))) for s, t in itertools.pairwise(["input", *names])
    ]
    network = Network(
        populations=tuple(populations),
        connections=tuple(chain),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
    )
    case = Case(network, ([(0, 0)],), 6)
    at_once = {name: tick for tick, name, _, _ in events_of(run_engine(case, record="spikes"), 0)}
    delayed = {name: tick for tick, name, _, _ in events_of(run_engine(case, record="spikes", layer_delay=1), 0)}
    assert at_once == dict.fromkeys(["input", *names], 0)
    assert delayed == {name: tick for tick, name in enumerate(["input", *names])}


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_structural_synops_are_a_dense_convolution_of_ones(kernel):
    """If this fails, fan-out is wrong at borders, strides, dilations or groups: the product's one number is wrong."""
    rng = np.random.default_rng(kernel)
    shape = (4, 9, 10)
    samples = tuple(
        sorted(zip(rng.integers(0, 3, 80).tolist(), rng.permutation(4 * 9 * 10)[:80].tolist())) for _ in range(2)
    )
    for stride, padding, dilation, groups in itertools.product((1, 2, 3), (0, 1, 2), (1, 2), (1, 2, 4)):
        weight = rng.integers(-2, 3, (8, 4 // groups, kernel, kernel)).astype(float)
        op = Conv(weight, (stride, stride), ((padding, padding),) * 2, (dilation, dilation), groups)
        out = op.out_shape(shape)
        network = Network(
            populations=(
                Population("input", shape, Input()),
                Population("a", shape, IF(threshold=1.0)),
                Population("b", out, IF(threshold=100.0)),
                Population("out", (2,), Integrator()),
            ),
            connections=(
                Connection("input", "a"),
                Connection("a", "b", op),
                Connection(
                    "b", "out", Sparse(np.zeros(np.prod(out) + 1, np.int64), np.zeros(0, np.int64), np.zeros(0), (2,))
                ),
            ),
            output="out",
            encoding="events",
            tick_seconds=1e-3,
        )
        run = run_engine(Case(network, samples, 3), record=["a"])
        spikes = torch.zeros(2, 3, 4 * 9 * 10)
        for e in run.events:
            spikes[int(e["sample"]), int(e["time"]), int(e["neuron"])] = 1
        assert spikes.sum() == 160
        spikes = spikes.reshape(6, *shape)
        for kind, taps in (("structural", torch.ones(weight.shape)), ("effective", torch.tensor(weight != 0).float())):
            dense = F.conv2d(spikes, taps, None, stride, padding, dilation, groups).sum((1, 2, 3)).reshape(2, 3)
            assert run.ledger.synops_by_tick("a->b", kind).tolist() == dense.long().tolist()


@same_every_time(60)
@given(cases(full=True), st.data())
def test_sums_by_source_and_by_target_are_the_connection(case, data):
    """If this fails, SynOps are booked on neurons that did not emit them, or reach more neurons than they are for."""
    told, policy = data.draw(policies(case.network.readout, case.ticks))
    run = run_engine(case, watchdog=policy, record="spikes")
    counted = run_engine(case, watchdog=policy, count="sources")
    names = [p.name for p in case.network.populations]
    for c in case.network.connections:
        for kind in ("structural", "units", "effective"):
            by_source = run.synops_by_source(c.label, kind)
            assert np.array_equal(by_source, counted.synops_by_source(c.label, kind))
            assert by_source.shape == (len(case.samples), *case.network[c.source].shape)
            whole = run.ledger.synops(c.label, kind)
            assert np.array_equal(by_source.reshape(len(whole), -1).sum(1), whole), (c.label, kind, told)
        path = naive.Path(case.network, c)
        if c.after or path.main == "pool":  # maps behind a weight forward its taps, and all paths of a pool are one map
            continue
        by_target = np.zeros((len(case.samples), case.network[c.target].size), np.int64)
        for e in run.events[run.events["population"] == names.index(c.source)]:
            for target, _ in path.walk(int(e["neuron"]))[0]:
                by_target[e["sample"], target] += 1
        assert np.array_equal(by_target.sum(1), run.ledger.synops(c.label, "structural"))


@same_every_time(40)
@given(cases(full=True), st.data())
def test_the_account_does_not_depend_on_what_is_recorded(case, data):
    """If this fails, looking at a network changes what it is said to have done."""
    _, policy = data.draw(policies(case.network.readout, case.ticks))
    watched = isinstance(policy, es.Budget)
    plain = run_engine(case, watchdog=policy)
    for record, count in (("spikes", "connections"), ("potentials", "connections"), ("outputs", "sources")):
        other = run_engine(case, watchdog=policy, record=record, count=count)
        assert account(plain) == account(other), (record, count)
    if not watched:
        bare = run_engine(case, watchdog=policy, count="spikes")
        assert np.array_equal(bare.ledger.events, plain.ledger.events)
        assert np.array_equal(bare.ledger.units, plain.ledger.units)
        assert np.array_equal(bare.predictions, plain.predictions)


def account(run: es.Run) -> list[bytes]:
    """Everything a ledger counts, as bytes."""
    ledger = run.ledger
    arrays = [ledger.events, ledger.units, ledger.updates, ledger.biases, ledger.taps, ledger.left, ledger.turns]
    return [a.tobytes() for a in arrays]


def test_what_was_not_counted_is_refused():
    """If this fails, an account that was not kept reads as zeros."""
    case = busy_case()
    bare = run_engine(case, count="spikes")
    for ask in (
        lambda: bare.ledger.synops(),
        lambda: bare.ledger.synops("b->a", "in_flight"),
        lambda: bare.ledger.operations("neuron_update"),
        lambda: es.replay(bare.trace, es.Budget(10)),
        lambda: run_engine(case, count="spikes", watchdog=es.Budget(10)),
    ):
        with pytest.raises(ValueError, match="count='connections'"):
            ask()
    with pytest.raises(ValueError, match="count='sources'"):
        run_engine(case).ledger.emitted("a")
    with pytest.raises(ValueError, match="count is 'all', wanted one of spikes, connections, sources"):
        run_engine(case, count="all")


def test_events_that_share_a_pixel_or_a_window_count_once_a_tick():
    """Four taps an event; two events on one pixel in one tick are two effective visits, and one non-zero input."""
    pool = Pool((2,), (2,), (0,), "sum")
    network = Network(
        populations=(Population("input", (1, 4), Input()), Population("out", (4,), Integrator())),
        connections=(
            Connection("input", "out", Dense(np.ones((4, 4))), before=(Flatten(),), name="plain"),
            Connection("input", "out", Dense(np.array([[1.0, 0.0]] * 4)), before=(pool, Flatten()), name="pooled"),
        ),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
        ticks=2,
    )
    # tick 0: pixel 0 twice, pixel 1 once (the same window), pixel 2 once (the window of weight 0); tick 1: pixel 0
    events = es.Events(t=np.array([0, 0, 0, 0, 1000]), neuron=np.array([0, 0, 1, 2, 0]), offsets=np.array([0, 5]))
    ledger = es.simulate(network, events).ledger
    assert [int(ledger.synops("plain", kind)[0]) for kind in KINDS[:4]] == [20, 20, 20, 16]
    assert [int(ledger.synops("pooled", kind)[0]) for kind in KINDS[:4]] == [20, 20, 16, 8]


@pytest.mark.parametrize(("shape", "pad"), [((1, 1), Subsample((1,), (1, 0))), ((1, 2), Subsample((2,), (0, 1)))])
def test_distinct_inputs_behind_padded_channels(shape, pad):
    """If this fails, channels or positions that a map moved are counted as the source's own."""
    inner = pad.out_shape(shape)[0]
    op = Sparse(np.cumsum([0, 3, 2][: inner + 1]), np.zeros(5, np.int64), np.ones(5), (1,))
    network = Network(
        populations=(Population("input", shape, Input()), Population("out", (1,), Integrator())),
        connections=(
            Connection("input", "out", op, before=(pad,), name="sparse"),
            Connection("input", "out", Dense(np.array([[1.0, 0.0]])), before=(pad, Flatten()), name="dense"),
        ),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
        ticks=1,
    )
    twice = [0, 0, *range(1, shape[1])]  # the first pixel twice, the others once
    events = es.Events(np.zeros(len(twice), np.int64), np.array(twice), np.array([0, len(twice)]))
    ledger = es.simulate(network, events).ledger
    first = pad.channels[0]  # the channel that is not silent, of 3 and 2 synapses, 1 and 0 weights other than zero
    synapses, present = ([3, 2][first], [1, 0][first])
    assert [int(ledger.synops("sparse", kind)[0]) for kind in KINDS[:4]] == [2 * synapses] * 3 + [synapses]
    assert [int(ledger.synops("dense", kind)[0]) for kind in KINDS[:4]] == [2, 2, 2 * present, present]


def test_counts_by_source_neuron_at_a_border():
    """A corner neuron of a 3x3 kernel reaches 4 positions, an edge one 6, an inner one 9."""
    ends = (Population("input", (1, 3, 3), Input()), Population("out", (2, 3, 3), Integrator()))
    conv = Conv(np.ones((2, 1, 3, 3)), (1, 1), ((1, 1), (1, 1)), (1, 1))
    net = Network(
        populations=ends,
        connections=(Connection("input", "out", conv),),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
        ticks=1,
    )
    events = es.Events(t=np.zeros(9, np.int64), neuron=np.arange(9), offsets=np.array([0, 9]))
    run = es.simulate(net, events, record=["input"])
    assert run.synops_by_source("input->out").tolist() == [[[[8, 12, 8], [12, 18, 12], [8, 12, 8]]]]
    with pytest.raises(ValueError, match="not known; run with count='sources'"):
        es.simulate(net, events).synops_by_source("input->out")
    with pytest.raises(ValueError, match="no connection 'a->b'"):
        run.synops_by_source("a->b")
