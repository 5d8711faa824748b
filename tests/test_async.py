"""Continuous time in the engine: the laws every run keeps, what it shares with ticks, and what is refused by name."""

import itertools
import json
import re
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import cases
from test_engine import busy_case, policies, same_every_time

import eventsnn as es
from eventsnn import cli, continuous, runs, store, study
from eventsnn import kernels_async as ka
from eventsnn import kernels_sync as k
from eventsnn.ledger import KINDS
from eventsnn.network import AdaptivePool, Connection, Conv, Dense, Flatten, Identity, Network, Pool, Population, Sparse
from eventsnn.neurons import IF, LIF, Gate, Input, Integrator, Relay
from eventsnn.wiring import fan_out, wire

TICK = 1e-3


def events(*samples) -> es.Events:
    """Samples of (microseconds, unit), as the engine takes them."""
    t, neuron = (np.array([e[i] for s in samples for e in s], np.int64) for i in (0, 1))
    return es.Events(t, neuron, np.cumsum([0] + [len(s) for s in samples]))


def simulate(network: Network, inputs, **options) -> es.Run:
    return es.simulate(network, inputs, mode="async", **{"record": "spikes", **options})


def graph(populations: dict, *ways: Connection, encoding="events", ticks=10) -> Network:
    """A network of (shape, neuron) by name, read at "out"."""
    ends = [Population(name, shape, neuron) for name, (shape, neuron) in populations.items()]
    return Network(populations=ends, connections=ways, output="out", encoding=encoding, ticks=ticks, tick_seconds=TICK)


def network_of(neuron, weight, encoding="events", **connection) -> Network:
    """Inputs with dense weights (out, in) to the output, one population."""
    weight = np.asarray(weight, float)
    ends = {"input": (weight.shape[1:], Input()), "out": (weight.shape[:1], neuron)}
    return graph(ends, Connection("input", "out", Dense(weight), **connection), encoding=encoding)


def busy(encoding="events", samples=9, ticks=8) -> tuple[Network, es.Events | np.ndarray]:
    """The network of `busy_case`, with events at any microsecond or with images."""
    case = busy_case("events" if encoding == "events" else "direct", samples)
    network = replace(case.network, encoding=encoding, ticks=ticks)
    if encoding != "events":
        return network, np.stack(case.samples)
    return network, events(*(sorted((1000 * t + 37 * i % 1000, u) for i, (t, u) in enumerate(s)) for s in case.samples))


def times(run: es.Run, name="out", neuron=None, sample=0) -> list[float]:
    """When a population, or a neuron of it, fired: seconds."""
    number = [p.name for p in run.network.populations].index(name)
    e = run.events
    chosen = (e["sample"] == sample) & (e["population"] == number)
    return e["time"][chosen if neuron is None else chosen & (e["neuron"] == neuron)].tolist()


def arrays(run: es.Run) -> dict[str, np.ndarray]:
    """Everything a run gives that no run may change."""
    ledger, answers = run.ledger, run.trace.answers
    found = {name: getattr(run, name) for name in ("predictions", "tied", "stop_time", "stop_reason", "outputs")}
    found |= {name: getattr(ledger, name) for name in ("events", "units", "updates", "biases", "taps", "left", "turns")}
    found |= {f"asked {name}": getattr(answers, name) for name in answers.__dataclass_fields__}
    found |= {f"potential {name}": v for name, v in (run.potentials or {}).items()}
    found |= {name: getattr(run, name) for name in ("events", "queue_pushed", "queue_popped", "queue_peak", "digests")}
    return found | {"margins": run.trace.margins, "synops": run.trace.synops, "pending": run.interval.pending}


def unlike(one: es.Run, other: es.Run, but=()) -> list[str]:
    """Names of what differs between two runs, in a single bit."""
    pairs = zip(arrays(one).items(), arrays(other).values(), strict=True)
    return [name for (name, a), b in pairs if name not in but and (a.shape != b.shape or a.tobytes() != b.tobytes())]


# -------------------------------------------------------------------------------------------------- random networks


def allowed(network: Network) -> Network:
    """The network without what continuous time refuses; soft resets in a loop rest a tick, or they multiply."""
    number = {p.name: i for i, p in enumerate(network.populations)}
    loops = any(number[c.source] >= number[c.target] for c in network.connections)
    populations = []
    for p in network.populations:
        neuron = Relay() if isinstance(p.neuron, Gate) else p.neuron
        if isinstance(neuron, IF):
            lowest = float(np.min(neuron.threshold))
            amount = neuron.reset_amount
            if amount is None and lowest <= 0:
                amount = 1.0
            change = {
                "reset": "subtract" if neuron.reset == "none" else neuron.reset,
                "reset_amount": amount,
                "reset_value": np.minimum(neuron.reset_value, lowest - 0.5),
                "v_min": None if neuron.v_min is None else np.minimum(neuron.v_min, lowest - 0.5),
                "reset_delay": False,
            }
            if loops and not neuron.refractory:
                change |= {"refractory": 1, "refractory_input": "integrate", "multi_spike": False}
            if isinstance(neuron, LIF):
                change["alpha"] = np.maximum(neuron.alpha, 0.25)
            neuron = replace(neuron, **change)
        populations.append(replace(p, neuron=neuron))
    relays = {p.name for p in populations if isinstance(p.neuron, Relay)}
    connections = tuple(
        replace(c, scale=None, shift=None, bias=None if c.target in relays else c.bias) for c in network.connections
    )
    return replace(network, populations=tuple(populations), connections=connections)


@st.composite
def timed(draw, samples=None):
    """An allowed network, events at any microsecond or at whole ticks, and its ticks."""
    case = draw(cases(encoding="events"))
    late = draw(st.sampled_from([0, 0, 37, 101]))
    parts = [sorted((1000 * t + i * late % 1000, unit) for i, (t, unit) in enumerate(s)) for s in case.samples]
    return allowed(case.network), events(*parts[:samples]), case.ticks


def twins(network: Network) -> tuple[Network, Network]:
    """A network that acts on whole ticks alone, and the one that does the same in continuous time.

    What spikes once in a tick waits for the next one, so it rests for a tick there; a refractory time r ends in time to
    fire at t + r + 1 in ticks, at t + r in continuous time. What discards is the same where a reset ends below
    threshold, as a hard one does. Lower bounds lie where no reset ends below them: what ends there is lifted at once in
    continuous time, in ticks together with the next tick's arrivals.
    """
    network = allowed(replace(network, connections=[replace(c, bias=None) for c in network.connections]))
    pairs = []
    for p in network.populations:
        neuron = later = p.neuron
        if isinstance(neuron, IF):
            if neuron.refractory and neuron.discards and neuron.reset == "subtract":
                neuron = replace(neuron, reset="value")
            if neuron.v_min is not None:
                ends = (neuron.reset_value, neuron.v0, np.min(neuron.threshold) - np.max(neuron.subtracts))
                neuron = replace(neuron, v_min=float(min(np.min(x) for x in (neuron.v_min, *ends))))
            if isinstance(neuron, LIF):
                neuron = replace(neuron, alpha=1.0)
            later = neuron
            once = neuron.reset == "subtract" and not neuron.multi_spike
            if (once or neuron.refractory) and not neuron.discards:
                later = replace(neuron, refractory=neuron.refractory + 1, refractory_input="integrate")
        pairs.append((replace(p, neuron=neuron), replace(p, neuron=later)))
    return tuple(replace(network, populations=populations) for populations in zip(*pairs))


def apart(sync: es.Run, run: es.Run) -> list[str]:
    """In what a run in continuous time is not one in ticks."""

    def rows(e: np.ndarray, seconds: np.ndarray) -> list[tuple]:
        return sorted(zip(e["sample"], seconds, e["population"], e["neuron"], e["value"]))

    kept = [kind != "effective_per_tick" for kind in KINDS]  # every instant is a tick of its own
    pairs = {
        "outputs": (sync.outputs, run.outputs),
        "margins": (sync.trace.margins, run.trace.margins),
        "predictions": (sync.predictions, run.predictions),
        "tied": (sync.tied, run.tied),
        "counts": (sync.ledger.events, run.ledger.events),
        "units": (sync.ledger.units, run.ledger.units),
        "taps": (sync.ledger.taps[..., kept], run.ledger.taps[..., kept]),
        "in flight": (sync.ledger.left, run.ledger.left),
        "synops": (sync.trace.synops, run.trace.synops),
    }
    same = rows(sync.events, sync.events["time"] * 1000 / 1e6) == rows(run.events, run.events["time"])
    return ["events"] * (not same) + [name for name, (a, b) in pairs.items() if not np.array_equal(a, b)]


def test_on_whole_ticks_both_modes_are_one():
    """If this fails, an event, a tap or an output of continuous time is not the one of the clocked mode."""
    seen = Counter()

    def compare(clocked, later, inputs, **options):
        options |= {"record": "spikes", "layout": None if isinstance(inputs, es.Events) else "chw"}
        sync = es.simulate(clocked, inputs, dtype="float64", **options)
        run = es.simulate(later, inputs, mode="async", **options)
        assert apart(sync, run) == []
        halves = es.simulate(clocked, inputs, dtype="float32", **options)
        if sync.events.tobytes() == halves.events.tobytes() and np.array_equal(sync.outputs, halves.outputs):
            assert apart(sync, es.simulate(later, inputs, mode="async", dtype="float32", **options)) == []
            seen["float32"] += 1
        for policy in (es.SpikeGap(1), es.FirstSpike()) * (clocked.readout == "spikes"):
            stopped = es.simulate(clocked, inputs, dtype="float64", watchdog=policy, **options)
            cut = es.simulate(later, inputs, mode="async", watchdog=policy, **options)
            assert np.array_equal(stopped.stop_reason, cut.stop_reason)
            assert np.array_equal(stopped.predictions, cut.predictions)
            early = stopped.stop_reason > 0
            assert np.array_equal(cut.stop_time[early], (stopped.stop_time[early] - 1) * 1000 / 1e6)
            seen["stopped"] += bool(early.any())
        plan = wire(clocked, 1, np.dtype("float64"), [], []).plan
        for j, c in enumerate(clocked.connections):
            fired = bool(run.ledger.synops(c.label, "structural").any())
            seen.update([type(step).__name__ for step in (*c.before, c.op, *c.after)] * fired)
            seen["grouped"] += fired and isinstance(c.op, Conv) and c.op.groups > 1
            seen["uneven"] += int(fired and plan.con[j, k.C_COEFFICIENT] >= 0)
            seen["in flight"] += bool(run.ledger.synops(c.label, "in_flight").any())
            seen["dropped"] += bool(run.ledger.synops(c.label, "dropped").any())
        for p in later.populations:
            fired = bool(run.ledger.spikes(p.name).any())
            seen[type(p.neuron).__name__] += fired
            if isinstance(p.neuron, IF):
                waits = p.neuron.refractory > 1 or p.neuron.discards
                seen[p.neuron.refractory_input if waits else p.neuron.reset] += fired
        seen["several"] += bool((run.events["value"] > 1).any())

    @same_every_time(300)
    @given(cases(encoding="events"), st.data())
    def check(case, data):
        clocked, later = twins(case.network)
        inputs, ticks = events(*([(1000 * t, unit) for t, unit in s] for s in case.samples)), case.ticks
        if data.draw(st.integers(0, 4)) == 4:
            clocked, later = (replace(n, encoding="latency") for n in (clocked, later))
            rng = np.random.default_rng(data.draw(st.integers(0, 99)))
            ticks = 5  # in which quarters of full brightness fire on whole ticks
            inputs = rng.integers(0, 5, (2, *clocked.input.shape)) / 4
        compare(clocked, later, inputs, layer_delay=data.draw(st.sampled_from([0, 0, 1])), ticks=ticks)

    rng = np.random.default_rng(4)  # windows of 1, 2 and 4 pixels inside the padding: coefficients 1, 1/2 and 1/4
    pool = Pool((2, 2), (2, 2), (1, 1), count_include_pad=False)
    conv = Conv(rng.integers(-1, 3, (2, 2, 2, 2)).astype(float), (1, 1), ((0, 1), (1, 0)), (1, 1))
    for before, op, after, shape in (
        ((pool,), conv, (), (2, 3, 3)),
        ((), conv, (pool,), (2, 3, 3)),
        ((pool,), Identity(2.0), (), (2, 3, 3)),
        ((AdaptivePool((2, 2)),), conv, (), (2, 2, 2)),
        ((pool, Flatten()), Dense(rng.integers(-1, 3, (3, 18)).astype(float)), (), (3,)),
    ):
        uneven = graph(
            {"input": ((2, 4, 4), Input()), "out": (shape, IF(multi_spike=True))},
            Connection("input", "out", op, before, after),
        )
        drawn = sorted(zip(rng.integers(0, 9, 80) * 1000, rng.integers(0, 32, 80)))
        compare(uneven, uneven, events(drawn))
    check()
    wanted = ("Conv", "Dense", "Sparse", "Identity", "Pool", "AdaptivePool", "Subsample", "Flatten", "Relay", "LIF")
    wanted += ("grouped", "uneven", "in flight", "dropped", "integrate", "discard", "value", "subtract", "several")
    assert {name: seen[name] for name in (*wanted, "stopped", "float32") if not seen[name]} == {}


@same_every_time(40)
@given(cases(encoding="direct"))
def test_an_image_is_a_constant_drive(case):
    """If this fails, an image or a bias brings something else in a tick's time than it does in a tick."""
    populations = [
        p if isinstance(p.neuron, Input | Integrator) else replace(p, neuron=IF(threshold=1e9))
        for p in case.network.populations
    ]
    connections = [
        replace(c, scale=None, shift=None, delay=0 if c.source == "input" else c.delay)
        for c in case.network.connections
    ]
    network = replace(case.network, populations=populations, connections=connections)
    options = {"ticks": case.ticks, "layout": "chw", "record": "potentials", "dtype": "float64"}
    sync = es.simulate(network, np.stack(case.samples), **options)
    run = es.simulate(network, np.stack(case.samples), mode="async", **options)
    for name, v in sync.potentials.items():
        assert np.allclose(run.potentials[name], v, rtol=1e-12, atol=1e-12), name
    assert np.array_equal(run.ledger.macs_input, sync.ledger.macs_input)
    assert np.array_equal(run.ledger.macs_input_effective, sync.ledger.macs_input_effective)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_spikes_of_an_image_are_evenly_apart(dtype):
    """If this fails, a crossing under a steady drive is not at k theta / drive, or a drive outlives its image."""
    network = network_of(IF(threshold=1.5, gain=2.0), [[0.5, 0.25], [-1.0, 0.5]], "direct", bias=np.array([0.125, 0.0]))
    images = np.array([[0.5, 1.0], [0.0, 0.0], [0.25, 2.0]])
    run = simulate(network, images, duration=0.05, dtype=dtype)
    for n, image in enumerate(images):
        drive = 2.0 * (np.array([[0.5, 0.25], [-1.0, 0.5]]) @ image + [0.125, 0.0]) / TICK
        for neuron in (0, 1):
            found = np.array(times(run, neuron=neuron, sample=n))
            if drive[neuron] <= 0:
                assert found.size == 0
                continue
            wanted = np.arange(1, 1000) * 1.5 / drive[neuron]
            wanted = wanted[wanted < 0.05 * (1 - 1e-9)]
            assert np.allclose(found[: wanted.size], wanted, rtol=1e-6 if dtype == "float32" else 1e-12)
            assert found.size - wanted.size in (0, 1)  # the last may be at the horizon itself, up to rounding


# ------------------------------------------------------------------------------------------------------- the account


def unbalanced(run: es.Run, incoming=0) -> list[str]:
    """Connections whose taps were counted twice or lost. incoming: those that were in flight when the run began."""
    taps, left = run.ledger.taps.sum(3), run.ledger.left
    structural, delivered, dropped = (taps[..., KINDS.index(kind)] for kind in ("structural", "delivered", "dropped"))
    wrong = structural + incoming != delivered + dropped + left
    wrong |= (taps[..., KINDS.index("effective")] > structural) | (taps.min(-1) < 0) | (left < 0)
    return [c.label for c, row in zip(run.network.connections, wrong.any((0, 2)), strict=True) if row]


@pytest.mark.parametrize("stride", [1, 2])
def test_synapses_that_a_map_leads_nowhere_are_counted(stride):
    """A list of synapses in front of a pool that leaves out all, or some, of what they reach."""
    behind = (Pool((1, 1), (1, stride), (0, 0)),)
    network = Network(
        populations=(
            Population("in", (1,), Input()),
            Population("spikes", (1,), IF()),
            Population("relay", (1, 1, -(-3 // stride)), Relay()),
            Population("out", (1,), Integrator()),
        ),
        connections=(
            Connection("in", "spikes", Dense(np.ones((1, 1)))),
            Connection(
                "spikes", "relay", Sparse(np.array([0, 2]), np.array([1, 1]), np.ones(2), (1, 1, 3)), after=behind
            ),
            Connection("relay", "out", Dense(np.ones((1, -(-3 // stride)))), before=(Flatten(),)),
        ),
        output="out",
        encoding="events",
        ticks=2,
        tick_seconds=1e-3,
    )
    events = es.Events(np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([0, 1]))
    runs = [es.simulate(network, events, mode=mode, watchdog=es.Fixed()) for mode in ("sync", "async")]
    assert unbalanced(runs[1]) == []
    for run in runs:
        assert run.ledger.synops("spikes->relay").tolist() == [2]
        assert run.outputs[0, -1].tolist() == [2.0 if stride == 1 else 0.0]


@same_every_time(250)
@given(timed(), st.data())
def test_taps_are_conserved_at_every_stop(case, data):
    """If this fails, an operation was counted twice or lost, or booked on a neuron that did not emit it."""
    network, inputs, ticks = case
    _, policy = data.draw(policies(network.readout, ticks))
    options = {"ties": data.draw(st.sampled_from(["together", "serial"]))}
    options["pulse"] = data.draw(st.sampled_from([None, None, 4e-4]))
    for watchdog in (es.Fixed(), policy):
        run = simulate(network, inputs, ticks=ticks, watchdog=watchdog, count="sources", **options)
        assert unbalanced(run) == []
        for kind in ("structural", "effective"):
            fan, _ = fan_out(network, kind)
            for c in network.connections:
                booked = (run.ledger.emitted(c.source) * fan[c.label]).sum(1)
                assert np.array_equal(booked, run.ledger.synops(c.label, kind)), (c.label, kind)
        for i, p in enumerate(network.populations):
            own = run.events[run.events["population"] == i]
            emitted = np.zeros((len(inputs), p.size), np.int64)
            np.add.at(emitted, (own["sample"], own["neuron"]), 1)
            assert np.array_equal(run.ledger.emitted(p.name), emitted)
            assert np.array_equal(run.ledger.spikes(p.name), emitted.sum(1))
        assert np.array_equal(run.interval.pending.max(1), run.queue_peak)
        assert np.all(run.queue_popped <= run.queue_pushed)
        assert np.array_equal(run.trace.synops.sum(1), run.ledger.synops())


def since(inputs, time):
    """Events from a time on: those of the past are refused where no others are given."""
    if not isinstance(inputs, es.Events):
        return inputs
    late = inputs.t >= time
    return es.Events(inputs.t[late], inputs.neuron[late], np.array([0, late.sum()]))


@same_every_time(200)
@given(timed(samples=1), st.data())
def test_windows_are_one_run(case, data):
    """If this fails, going on from a state is not the run that was never left: bits, counts, the queue."""
    network, inputs, ticks = case
    options = {"record": "potentials", "ties": data.draw(st.sampled_from(["together", "serial"]))}
    options["dtype"] = data.draw(st.sampled_from(["float32", "float64"]))
    options["pulse"] = data.draw(st.sampled_from([None, None, 4e-4]))
    whole = simulate(network, inputs, ticks=ticks, **options)
    cuts = sorted({*data.draw(st.lists(st.integers(1, ticks), max_size=3)), ticks})
    parts, state, incoming, waiting = [], None, 0, 0
    for start, end in itertools.pairwise([0, *cuts]):
        part = simulate(network, since(inputs, start * 1000), ticks=end - start, state=state, **options)
        assert unbalanced(part, incoming) == []
        state, incoming = part.state, part.ledger.left
        held = int(state.states[0].at[ka.A_HEAP])
        assert part.queue_pushed[0] + waiting == part.queue_popped[0] + held
        parts, waiting = [*parts, part], held
    assert np.concatenate([p.events for p in parts]).tobytes() == whole.events.tobytes()
    for name in ("events", "units", "updates", "biases"):
        assert np.array_equal(np.concatenate([getattr(p.ledger, name) for p in parts], 2), getattr(whole.ledger, name))
    assert np.array_equal(np.concatenate([p.ledger.taps for p in parts], 3), whole.ledger.taps)
    assert np.array_equal(incoming, whole.ledger.left)
    assert np.concatenate([p.outputs for p in parts], 1).tobytes() == whole.outputs.tobytes()
    for name, v in whole.potentials.items():
        assert np.concatenate([p.potentials[name] for p in parts], 1).tobytes() == v.tobytes()
    assert np.array_equal(parts[-1].predictions, whole.predictions)


def test_a_state_serves_again_and_only_its_own_kind():
    """If this fails, a run changes the state it went on from, or goes on as something else."""
    network, inputs = busy(samples=2)
    first = simulate(network, inputs.first(1), duration=2.5e-3)
    on = [simulate(network, inputs.first(1), duration=4e-3, state=first.state) for _ in range(2)]
    assert unlike(*on) == []
    assert len(on[0].events) > 50
    assert on[0].events["time"].min() >= 2.5e-3 == on[0].interval.start
    further = [simulate(network, inputs.first(1), duration=1e-3, state=run.state) for run in on]
    assert unlike(*further) == []
    assert first.state.wired is on[0].state.wired is further[0].state.wired  # a stream is not wired in every window
    more = simulate(network, inputs.first(1), duration=1e-3, state=on[0].state, record="outputs")
    assert more.events is None
    assert np.array_equal(more.outputs, further[0].outputs)
    assert simulate(network, inputs, duration=1e-3).state is None
    assert simulate(network, inputs.first(1), duration=1e-2, watchdog=es.FirstSpike()).state is None
    with pytest.raises(ValueError, match="all events lie before 0\\.0025 s, where"):
        simulate(network, events([(100, 0)]), duration=1e-3, state=first.state)
    other = replace(network, connections=[replace(c, delay=c.delay + 1) for c in network.connections])
    for wrong, words in (
        ({"network": other}, "another network or other options"),
        ({"ties": "serial"}, "another network or other options"),
        ({"dtype": "float32"}, "another network or other options"),
        ({"pulse": 1e-3}, "another network or other options"),
        ({"bias_period": 1e-3}, "another network or other options"),
        ({"inputs": inputs}, "the state is of 1 samples, but 2 were given"),
    ):
        asked = {"network": network, "inputs": inputs.first(1), **wrong}
        with pytest.raises(ValueError, match=words):
            simulate(state=first.state, duration=1e-3, **asked)
    latency = replace(network, encoding="latency")
    begun = simulate(latency, np.ones((1, 2, 4, 5)), layout="chw", ticks=2)
    with pytest.raises(ValueError, match="latency-coded images cannot go on"):
        simulate(latency, np.ones((1, 2, 4, 5)), layout="chw", ticks=2, state=begun.state)


def test_a_run_of_fixed_ticks_goes_on_where_it_ended():
    """If this fails, the time between the end of a cutoff and the horizon is lost to the next window."""
    network = network_of(IF(threshold=1.0), [[0.5]], bias=np.array([0.25]))
    inputs = events([(1000 * t + 100, 0) for t in range(10)])
    whole = simulate(network, inputs, ticks=10)
    first = simulate(network, inputs, ticks=6, watchdog=es.Fixed(3))
    rest = simulate(network, inputs, ticks=7, state=first.state)
    assert np.concatenate([first.events, rest.events]).tobytes() == whole.events.tobytes()


def test_stale_alarms_are_swept_out():
    """If this fails, the heap grows with every alarm that is replaced by an earlier one, or a live one is swept out.

    After a turn there are at most max(COMPACT_FROM, live alarms + deliveries) stale entries, and a turn sets one alarm
    for each of its neurons.
    """
    n, arrivals, weight, drive = 40, 2000, np.linspace(0.001, 0.002, 40)[:, None], np.linspace(0.01, 0.02, 40)
    network = graph(
        {"input": ((1,), Input()), "out": ((n,), IF(threshold=4.0))},
        Connection("input", "out", Dense(weight), bias=drive),
        Connection("out", "out", Identity(1 / 8), delay=300),
    )
    inputs = events([(20 * i, 0) for i in range(arrivals)])
    run = simulate(network, inputs, duration=0.6, record="potentials")
    emitted = np.array(sorted(set(times(run))))
    deliveries = 1 + max(np.sum((emitted > t - 0.3) & (emitted <= t)) for t in emitted)
    assert deliveries > 20
    busy = n + deliveries
    assert n < run.queue_peak[0] <= busy + max(ka.COMPACT_FROM, busy) + n
    assert run.queue_pushed[0] > 100 * run.queue_peak[0]
    assert run.queue_popped[0] <= run.queue_pushed[0]
    out = run.events["population"] == 1
    old = out & (run.events["time"] + 0.3 < run.interval.duration)
    spikes, arrived = (np.bincount(run.events["neuron"][e], minlength=n) for e in (out, old))
    charge = 0.6 / TICK * drive + arrivals * weight[:, 0] + arrived / 8
    assert np.allclose(run.potentials["out"][0, -1] + 4.0 * spikes, charge, rtol=1e-9)
    assert spikes.min() > 0


# ---------------------------------------------------------------------------------------------------------- the stop


@contextmanager
def microseconds():
    """Times of events and questions by sample, as the kernel has them: two an ulp apart may be one in seconds."""
    fetch, seen = continuous.Worker._fetch, {}

    def keep(worker, state, index):
        events, asked = state.record.time[: state.at[ka.A_RECORDED]], state.record.asked[: state.at[ka.A_STAMPED]]
        seen.setdefault(index, set()).update(events.tolist(), asked.tolist())
        return fetch(worker, state, index)

    continuous.Worker._fetch = keep
    try:
        yield seen
    finally:
        continuous.Worker._fetch = fetch


@st.composite
def cutoffs(draw, readout: str, ticks: int):
    """A policy that can be replayed, with what the naive simulator calls it, or None."""
    if draw(st.integers(0, 6)) == 6:
        scores = tuple(draw(st.sampled_from([0.3, 0.7, 1.3])) for _ in range(ticks))
        return None, es.ConformalSet(scores, size=1, on="logits" if readout == "sum" else "counts")
    return draw(policies(readout, ticks))


@same_every_time(300)
@given(timed(), st.data())
def test_a_stopped_run_is_the_full_run_cut_at_its_deciding_position(case, data):
    """If this fails, a policy was asked at another moment than after the output events of an instant, or of other
    answers, or what lies behind its position was still processed, or a replay is not the live run."""
    network, inputs, ticks = case
    options = {"ticks": ticks, "record": "potentials", "ties": data.draw(st.sampled_from(["together", "serial"]))}
    with microseconds() as seen:
        full = simulate(network, inputs, **options)
    shown, names = full.trace.answers, [p.name for p in network.populations]
    depths = network.depths()
    order = sorted(range(len(names)), key=lambda i: (depths[names[i]], i))
    last = order.index(names.index("out"))
    for _ in range(3):
        told, policy = data.draw(cutoffs(network.readout, ticks))
        cut, replayed = simulate(network, inputs, watchdog=policy, **options), es.replay(full.trace, policy)
        for name in ("stop_time", "predictions", "tied", "stop_reason"):
            assert np.array_equal(getattr(replayed, name), getattr(cut, name)), (name, policy)
        assert unbalanced(cut) == []
        for n in range(len(inputs)):
            if len(seen[n]) > len({t / 1e6 for t in seen[n]}):
                continue
            part = slice(shown.offsets[n], shown.offsets[n + 1])
            asked = list(zip(shown.time[part], shown.bin[part], shown.outputs[part].tolist(), shown.synops[part]))
            if network.readout == "spikes":
                assert [a[0] for a in asked] == sorted(set(times(full, sample=n)))
                mine = full.events[(full.events["sample"] == n) & (full.events["population"] == names.index("out"))]
                for time, _, output, _ in asked:
                    before = mine[mine["time"] <= time]
                    assert np.array_equal(output, np.bincount(before["neuron"], before["value"], len(output)))
            if told is not None:
                decided = [a[0] for a in asked if naive.decides(told, a[1], a[2], True, a[3])]
                assert (cut.stop_reason[n] != 0) == bool(decided), policy
                assert cut.stop_time[n] == (decided[0] if decided else ticks * 1000 / 1e6), policy
            e, stop = full.events[full.events["sample"] == n], cut.stop_time[n]
            if cut.stop_reason[n] != 0:
                rank = np.argsort(order)[e["population"]]
                e = e[(e["time"] < stop) | ((e["time"] == stop) & (rank <= last))]
            assert cut.events[cut.events["sample"] == n].tobytes() == e.tobytes()
            b = int(cut.ticks_run[n])
            whole = b if cut.stop_reason[n] == 0 else b - 1  # bins that ended before the stop
            assert np.array_equal(cut.ledger.taps[n, :, :, :whole], full.ledger.taps[n, :, :, :whole])
            assert not cut.ledger.taps[n, :, :, b:].any()
            for v, w in ((cut.outputs, full.outputs), *((v, full.potentials[p]) for p, v in cut.potentials.items())):
                assert np.array_equal(v[n, :whole], w[n, :whole])
                assert np.isfinite(v[n, :b]).all()
                assert np.isnan(v[n, b:]).all()


@pytest.mark.parametrize("ties", ["together", "serial"])
def test_two_outputs_that_fire_at_once_are_one_question(ties):
    """If this fails, a policy sees the first of two spikes of one instant without the second."""
    network = graph(
        {"input": ((3,), Input()), "out": ((2,), IF())},
        Connection("input", "out", Dense(np.array([[1.0, 0, 1], [0, 0, 0]])), delay=1, name="one"),
        Connection("input", "out", Dense(np.array([[0.0, 0, 0], [0, 1, 0]])), delay=1, name="other"),
    )
    run = simulate(network, events([(0, 0), (0, 1), (3000, 2)]), watchdog=es.SpikeGap(1), ties=ties)
    assert run.trace.answers.time.tolist() == [1e-3, 4e-3]
    assert run.stop_time.tolist() == [4e-3]
    assert run.predictions.tolist() == [0]


def test_fixed_ticks_are_a_shorter_run():
    """If this fails, the cutoff fixed:T ends elsewhere than T ticks after the start, or takes a horizon for its own."""
    network, inputs = busy(samples=3)
    short = simulate(network, inputs, duration=3e-3)
    cut = simulate(network, inputs, duration=8e-3, watchdog=es.Fixed(3))
    assert cut.events.tobytes() == short.events.tobytes()
    assert cut.outputs[:, :3].tobytes() == short.outputs.tobytes()
    assert np.isnan(cut.outputs[:, 3:]).all()
    assert cut.stop_time.tolist() == short.stop_time.tolist() == [3e-3] * 3
    assert {es.simulate(network, inputs, ticks=8, watchdog=es.Fixed(3)).stop_reason[0]} == set(cut.stop_reason)
    with pytest.raises(ValueError, match="cutoff fixed:3 counts ticks"):
        es.replay(short.trace, es.Fixed(3))
    for ticks in (3, 4):  # as long as the run, and longer
        sync = es.simulate(network, inputs, ticks=3, watchdog=es.Fixed(ticks))
        late = simulate(network, inputs, ticks=3, watchdog=es.Fixed(ticks))
        assert late.stop_reason.tolist() == sync.stop_reason.tolist()


def test_thresholds_by_tick_are_those_of_the_bin():
    """If this fails, a threshold is looked up by the number of the question, or in a neighbouring bin."""
    network = network_of(IF(), [[1.0], [0.0]])
    inputs = events([(t, 0) for t in (100, 999, 1000, 1500, 2999, 3000, 3500)])
    for beta, stop in (((9, 9, 9, 0, 9), 3e-3), ((9, 3, 9, 9, 9), 1.5e-3), ((9, 2, 9, 9, 9), 1e-3), ((9,) * 5, 5e-3)):
        run = simulate(network, inputs, ticks=5, watchdog=es.TopKGap(beta, on="counts"))
        assert run.stop_time.tolist() == [stop]
    with pytest.raises(ValueError, match="4 values of beta for 5 ticks"):
        simulate(network, inputs, ticks=5, watchdog=es.TopKGap((9.0,) * 4, on="counts"))


# ------------------------------------------------------------------------------------------------------- same bytes


@pytest.mark.parametrize("encoding", ["events", "direct", "latency"])
def test_the_answer_does_not_depend_on_the_workers(encoding):
    """If this fails, a result depends on threads, on what a worker did before, or on the other samples."""
    network, inputs = busy(encoding)
    options = {"watchdog": es.SpikeGap(3), "record": "potentials", "layout": None if encoding == "events" else "chw"}
    one = simulate(network, inputs, **options)
    assert one.ledger.spikes().sum() > 100
    assert unlike(one, simulate(network, inputs, jobs=3, **options)) == []
    assert unlike(one, simulate(network, inputs, **options)) == []
    turned = [7, 0, 3]
    few = inputs.take(turned) if encoding == "events" else inputs[turned]
    other = simulate(network, few, **options)
    for name, whole in arrays(one).items():
        if not name.startswith("asked") and name != "events":
            assert np.array_equal(arrays(other)[name], whole[turned], equal_nan=whole.dtype.kind == "f"), name
    for place, n in enumerate(turned):
        a, b = (e[e["sample"] == i] for e, i in ((other.events, place), (one.events, n)))
        assert a[["time", "neuron", "value"]].tolist() == b[["time", "neuron", "value"]].tolist()
    for record in ("outputs", "spikes", ["b"]):
        plain = simulate(network, inputs, **{**options, "record": record})
        for name in ("events", "taps", "left"):
            assert np.array_equal(getattr(plain.ledger, name), getattr(one.ledger, name))


def rush() -> tuple[Network, es.Events]:
    """A thousand spikes on their way at once."""
    network = graph(
        {"input": ((8,), Input()), "a": ((8,), IF()), "out": ((3,), IF(threshold=2.0))},
        Connection("input", "a", Identity(), delay=4),
        Connection("a", "out", Dense(np.random.default_rng(0).normal(0.3, 0.5, (3, 8))), delay=2),
        ticks=12,
    )
    rng = np.random.default_rng(1)
    return network, events(*(sorted(zip(rng.integers(0, 9000, 900), rng.integers(0, 8, 900))) for _ in range(2)))


@pytest.fixture
def answers(monkeypatch):
    """What kernels of workers with little room answer, counted; an error when they ask for room again and again."""
    kernel, seen = continuous.Worker._kernel, Counter()

    def counted(*arguments):
        status = kernel(*arguments)
        seen[status] += 1
        assert seen.total() < 20_000, "the kernel asks for room again and again"
        return status

    monkeypatch.setattr(continuous, "RECORD_CAPACITY", 16)
    monkeypatch.setattr(continuous, "ANSWERS", 1)
    monkeypatch.setattr(continuous.Worker, "_kernel", counted)
    return seen


@pytest.mark.parametrize("ties", ["together", "serial"])
def test_a_queue_and_a_record_that_overflow_lose_nothing(monkeypatch, answers, ties):
    """If this fails, what happens depends on when a queue grows, or on when events and answers are fetched."""
    network, inputs = rush()
    monkeypatch.setattr(continuous, "RECORD_CAPACITY", 16 * 64)
    run = simulate(network, inputs, ties=ties)
    assert run.queue_peak.min() > 300
    assert answers[ka.GROW] >= 3
    assert answers[ka.FULL] > 300
    make, grow = continuous.Worker._state, continuous.grown
    monkeypatch.setattr(
        continuous.Worker, "_state", lambda worker: reduce(lambda s, _: grow(s), range(6), make(worker))
    )
    monkeypatch.setattr(continuous, "RECORD_CAPACITY", 1 << 20)
    monkeypatch.setattr(continuous, "ANSWERS", 1 << 20)
    answers.clear()
    assert unlike(run, simulate(network, inputs, ties=ties)) == []
    assert set(answers) == {ka.HORIZON}


@pytest.mark.usefixtures("answers")
def test_a_record_smaller_than_what_a_delivery_may_cause():
    """If this fails, mode serial waits for ever for room that no record has: a batch may make more spikes than that."""
    network = graph(
        {"input": ((4,), Input()), "a": ((4,), IF()), "out": ((4,), IF())},
        Connection("input", "a", Identity()),
        Connection("a", "out", Dense(np.ones((4, 4)))),
    )
    run = simulate(network, events([(0, u) for u in range(4)]), ties="serial")
    assert run.ledger.spikes("out").tolist() == [16]


# --------------------------------------------------------------------------------------------------------------- ties


def test_serial_tests_after_each_arrival():
    """If this fails, a neuron tested after each of two arrivals of an instant does not fire on the first, or one that
    takes both together does; excitation that comes second does not reach its threshold in either."""
    network = network_of(IF(), [[1.0, -1.0]])
    found = {}
    for ties, order in itertools.product(("together", "serial"), ((0, 1), (1, 0))):
        run = simulate(network, events([(500, unit) for unit in order]), ties=ties, record="potentials")
        found[ties, order] = (len(times(run)), run.potentials["out"][0, 0, 0])
        assert run.ledger.synops().tolist() == [2]
    assert found == {
        ("together", (0, 1)): (0, 0.0),
        ("together", (1, 0)): (0, 0.0),
        ("serial", (0, 1)): (1, -1.0),
        ("serial", (1, 0)): (0, 0.0),
    }


def test_without_ties_serial_is_together():
    """If this fails, mode serial does more than to test after each of several arrivals of one instant."""
    rng = np.random.default_rng(5)
    leaky, plain = LIF(alpha=0.8, threshold=0.6, refractory=1), IF(threshold=0.7, v_min=-0.5)
    network = graph(
        {"input": ((6,), Input()), "a": ((6,), leaky), "out": ((6,), plain)},
        Connection("input", "a", Identity(rng.normal(0.5, 0.3, 6))),
        Connection("a", "out", Identity(rng.normal(0.5, 0.3, 6)), delay_seconds=3e-4),
        Connection("input", "out", Identity(rng.normal(0.2, 0.5, 6)), delay_seconds=1.5e-6),  # never when others arrive
        ticks=20,
    )
    inputs = events(sorted(zip(rng.permutation(20_000)[:1500].tolist(), rng.integers(0, 6, 1500).tolist())))
    one, other = (simulate(network, inputs, ties=ties) for ties in ("together", "serial"))
    assert len(times(one)) > 100
    assert unlike(one, other) == []


@same_every_time(60)
@given(timed(samples=1))
def test_together_does_not_know_the_order_of_an_instant(case):
    """If this fails, the order of bit-equal arrivals decides something in mode together."""
    network, inputs, ticks = case
    network = twins(network)[1]  # membranes that leak or drift round, and so do sums in another order
    back = np.lexsort((-inputs.neuron, inputs.t))
    one, other = (
        simulate(network, i, ticks=ticks)
        for i in (inputs, replace(inputs, t=inputs.t[back], neuron=inputs.neuron[back]))
    )
    assert sorted(one.events.tolist()) == sorted(other.events.tolist())
    assert unlike(one, other, but=("events", "digests")) == []


# ------------------------------------------------------------------------------------------------- closed forms, bounds


def test_what_one_number_says_each_unit_may_say():
    """If this fails, the kernels for neurons of one kind, for leaky ones of one kind and for any differ in a bit."""
    rng = np.random.default_rng(2)
    inputs = events(sorted(zip(rng.integers(0, 20_000, 400).tolist(), rng.integers(0, 3, 400).tolist())))
    weight = rng.integers(-3, 5, (4, 3)) / 4
    for reset, v_min, v0, leak, amount in itertools.product(
        ("subtract", "value"), (None, -0.5), (0.0, -2.0, 2.5), (None, 0.0, 1.25), (0.75, 2.5)
    ):
        options = {"reset": reset, "v_min": v_min, "v0": v0, "reset_value": -amount, "reset_amount": amount}
        options |= {} if leak is None else {"alpha": 0.9, "rest": leak}
        kind = IF if leak is None else LIF
        for bias in (None, np.full(4, 0.125)):
            nets = [
                network_of(kind(threshold=threshold, **options), weight, bias=bias) for threshold in (1.0, np.ones(4))
            ]
            one, other = (simulate(net, inputs, ticks=20) for net in nets)
            assert unlike(one, other, but=("digests",)) == [], (options, bias)


@pytest.mark.parametrize("leaky", [False, True])
def test_a_pulse_brings_its_weight_in_the_course_of_time(leaky):
    """If this fails, an event under `pulse` is not the current gain w / DT for DT, or currents do not add up."""
    tau, gain, w, length = 2e-3, 2.0, 0.75, 5e-4
    neuron = LIF(threshold=50.0, gain=gain, tau=tau) if leaky else IF(threshold=50.0, gain=gain)
    network = replace(network_of(neuron, [[w]]), tick_seconds=1e-4)
    starts = np.array([200, 500, 530, 1500]) * 1e-6  # two overlap, one begins where another has ended
    run = simulate(
        network, events([(round(s * 1e6), 0) for s in starts]), duration=3e-3, pulse=length, record="potentials"
    )
    t = np.arange(1, 31)[:, None] * 1e-4
    since, over = np.maximum(t - starts, 0), np.maximum(t - starts - length, 0)
    if leaky:
        wanted = gain * w / length * tau * (np.exp(-over / tau) - np.exp(-since / tau))
    else:
        wanted = gain * w / length * (since - over)
        assert wanted.sum(1)[-1] == pytest.approx(4 * gain * w)
    assert np.allclose(run.potentials["out"][0, :, 0], wanted.sum(1), rtol=1e-12, atol=1e-12)
    assert run.ledger.synops().tolist() == [4]
    steep = simulate(network_of(IF(threshold=1.0), [[4.0]]), events([(1000, 0)]), pulse=1e-3)
    assert np.allclose(times(steep), [1.25e-3, 1.5e-3, 1.75e-3, 2e-3], rtol=1e-9)


@pytest.mark.parametrize("encoding", ["events", "direct"])
def test_a_bias_in_pulses_brings_the_charge_of_a_steady_one(encoding):
    """If this fails, `bias_period` loses or invents charge, or reaches populations of one position."""
    period, gain = 3e-4, 2.0
    wide = Conv(np.array([1.0, 0.5]).reshape(2, 1, 1, 1), (1, 1), ((0, 0),) * 2, (1, 1))
    network = graph(
        {
            "input": ((1, 2, 2), Input()),
            "wide": ((2, 2, 2), IF(threshold=1e6, gain=gain)),
            "out": ((1,), IF(threshold=9.0)),
        },
        Connection("input", "wide", wide, bias=np.array([0.25, -0.5])),
        Connection("wide", "out", Dense(np.zeros((1, 8))), before=(Flatten(),), bias=np.array([0.125])),
        encoding=encoding,
    )
    image = np.array([[[[1.0, 0.0], [2.0, 3.0]]]])
    inputs, layout = (image, "chw") if encoding == "direct" else (events([]), None)
    seen = image[0] if encoding == "direct" else np.zeros((1, 2, 2))
    current = gain * (np.concatenate([seen, 0.5 * seen]) + np.array([0.25, -0.5])[:, None, None])
    options = {"record": "potentials", "layout": layout}
    steady, pulsed = (simulate(network, inputs, bias_period=p, **options) for p in (None, period))
    t = np.arange(1, 11)
    came = np.ceil(np.round(t * TICK / period, 9)) - 1  # what arrives at the end of a bin belongs to the next one
    assert np.allclose(steady.potentials["wide"][0], t[:, None, None, None] * current, rtol=1e-12)
    assert np.allclose(
        pulsed.potentials["wide"][0], (came * period / TICK)[:, None, None, None] * current, rtol=1e-12, atol=1e-15
    )
    assert np.array_equal(pulsed.potentials["out"], steady.potentials["out"])
    pulses = np.ceil(np.round(10 * TICK / period, 9)) - 1
    assert pulsed.ledger.operations("bias", "wide").tolist() == [pulses * np.count_nonzero(current)]
    later = simulate(network, inputs, bias_period=period, duration=9 * TICK + 1e-6, **options)  # 30 pulses, at 9 ms
    assert np.allclose(later.potentials["wide"][0, -1], 9 * current, rtol=1e-12)


def test_membranes_and_readouts_at_the_ends_of_bins():
    """If this fails, what is read at the end of a bin is not the closed form of what arrived before it."""
    alpha, rest, v0, w, bias = 0.9, 0.25, 0.5, 0.375, 0.125
    arrivals = np.array([150, 1000, 2400, 7001])
    leaky = network_of(LIF(threshold=99.0, alpha=alpha, rest=rest, v0=v0), [[w]], bias=np.array([bias]))
    run = simulate(leaky, events([(t, 0) for t in arrivals]), record="potentials")
    t = np.arange(1, 11)[:, None]
    tau = -1 / np.log(alpha)
    level, ago = rest + bias * tau, t - arrivals / 1000
    kicks = np.where(ago > 0, w * alpha ** np.maximum(ago, 0), 0).sum(1)
    assert np.allclose(run.potentials["out"][0, :, 0], (level + (v0 - level) * alpha**t)[:, 0] + kicks, rtol=1e-13)
    single = simulate(leaky, events([(t, 0) for t in arrivals]), record="potentials", dtype="float32")
    assert single.potentials["out"].dtype == np.float32
    assert np.allclose(single.potentials["out"], run.potentials["out"], rtol=1e-6)
    assert not np.array_equal(single.potentials["out"], run.potentials["out"])
    summed = simulate(network_of(Integrator(), [[w]], bias=np.array([bias])), events([(t, 0) for t in arrivals]))
    assert np.allclose(summed.outputs[0, :, 0], (bias * t + w * (ago > 0).sum(1)[:, None])[:, 0], rtol=1e-13)


def test_a_unit_without_leak_among_leaky_ones():
    """If this fails, an infinite time constant meets a drive of 0 or another, and no number comes of it."""
    inputs, bias = events([(1500, 0)]), np.array([0.25, 0.25])
    leaky = LIF(alpha=np.array([1.0, 0.5]), rest=0.125, threshold=9.0)
    for b in (None, bias):
        mixed, plain, alone = (
            simulate(network_of(neuron, [[0.75], [0.5]], bias=b), inputs, record="potentials").potentials["out"][0]
            for neuron in (leaky, IF(threshold=9.0), LIF(alpha=0.5, rest=0.125, threshold=9.0))
        )
        assert np.allclose(mixed, np.stack([plain[:, 0], alone[:, 1]], 1), rtol=1e-14)


def test_a_neuron_that_runs_away_ends_the_run(monkeypatch, tmp_path, capsys):
    """If this fails, a neuron fires for ever in an instant, or nobody learns in which sample."""
    heavy = network_of(IF(), [[2e6, 1.0]])
    with pytest.raises(
        RuntimeError, match=r"sample 1: a neuron fired more than 1000000 times in one instant, at 0\.0005 s"
    ):
        simulate(heavy, events([(0, 1)], [(0, 1), (500, 0)], [(0, 1)]))
    assert simulate(network_of(IF(), [[1e6]]), events([(0, 0)])).events["value"].tolist() == [1, 1e6]
    with pytest.raises(RuntimeError, match="sample 0"):  # a reset that rounding swallows
        simulate(network_of(IF(reset_amount=1e-30), [[1.0]]), events([(0, 0)]))
    store.save(replace(heavy, encoding="latency"), tmp_path / "net.h5")
    np.savez(tmp_path / "in.npz", images=np.ones((1, 2)))
    out = tmp_path / "run"
    names = ("--weights", tmp_path / "net.h5", "--input", tmp_path / "in.npz", "--out", out)
    monkeypatch.setattr(sys, "argv", ["eventsnn", "simulate", "--mode", "async", *map(str, names)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    assert "the run failed: sample 0: a neuron fired" in capsys.readouterr().err
    assert not out.exists()


# ----------------------------------------------------------------------------------------------------------- refusals


def pair(neuron=None, middle=None, encoding="events", **first) -> Network:
    """Input, middle, output; `first` is of the connection into the middle."""
    ends = {"input": Input(), "mid": middle or IF(), "out": neuron or IF()}
    ways = (Connection("input", "mid", name="first", **first), Connection("mid", "out", Identity(2.0)))
    return graph({name: ((1, 2), cell) for name, cell in ends.items()}, *ways, encoding=encoding, ticks=4)


REFUSED = [
    (replace(pair(), tick_seconds=None), {}, "how long a tick is; give tick_seconds"),
    (pair(encoding="rate"), {}, "rate coding draws spikes tick by tick"),
    (pair(scale=np.ones((4, 1))), {}, "connection 'first' has a table of scales by tick"),
    (pair(shift=np.ones((4, 1))), {}, "connection 'first' has a table of scales by tick"),
    (pair(middle=Gate()), {}, "population 'mid' is a gate"),
    (pair(middle=Relay(), bias=np.ones(1)), {}, "the relay 'mid' has a bias or an image"),
    (pair(middle=Relay(), encoding="direct"), {}, "the relay 'mid' has a bias or an image"),
    (pair(IF(reset="none")), {}, "population 'out' has no reset"),
    (pair(IF(reset_delay=True)), {}, "population 'out' resets one tick late"),
    (pair(LIF(alpha=np.array([0.0]))), {}, "population 'out' has alpha 0"),
    (pair(IF(reset="value", reset_value=1.0)), {}, "population 'out' resets to its threshold or above"),
    (pair(IF(threshold=0.0, reset_amount=1.0, v_min=0.0)), {}, "population 'out'"),  # a bound that lifts it back
    (pair(encoding="direct", delay=1), {}, "connection 'first' delays an image"),
    (pair(encoding="direct", delay_seconds=1e-4), {}, "connection 'first' delays an image"),
    (pair(encoding="direct"), {"layer_delay": 1}, "connection 'first' delays an image"),
    (pair(), {"duration": 0.0}, "duration is 0.0, wanted a positive number"),
    (pair(), {"duration": float("nan")}, "duration is nan, wanted"),
    (pair(), {"duration": -1.0}, "duration is -1.0, wanted"),
    (pair(), {"duration": float("inf")}, "duration is inf, wanted"),
    (pair(), {"duration": 1e5}, "the run has 100,000,000 bins of 1000 us, more than 10,000,000"),
    (pair(), {"ties": "twice"}, "ties is 'twice', wanted 'together' or 'serial'"),
    (pair(), {"pulse": 1e-3, "bias_period": 1e-3}, "give one of them"),
    (pair(), {"pulse": 0.0}, "pulse is 0.0, wanted a positive number of seconds"),
    (pair(), {"bias_period": float("nan")}, "bias_period is nan, wanted a positive number"),
    (pair(), {"mode": "asynchronous"}, "mode is 'asynchronous', wanted 'sync'"),
    *((pair(), {"mode": "sync", name: 1e-3}, f"{name} belongs to continuous time") for name in
      ("duration", "pulse", "bias_period")),
    (pair(), {"mode": "sync", "ties": "serial"}, "ties belongs to continuous time"),
    (pair(), {"mode": "sync", "state": continuous.Standing(0.0, (), None, None)}, "state belongs to continuous time"),
    (replace(pair(), ticks=None), {}, "does not say how many ticks"),
]  # fmt: skip


@pytest.mark.usefixtures("answers")
@pytest.mark.parametrize(("network", "options", "words"), REFUSED)
def test_what_has_no_meaning_is_refused_by_name(network, options, words):
    """If this fails, continuous time runs what it has no rule for, or does not say what is wrong."""
    inputs = events([(0, 0)]) if network.encoding == "events" else np.ones((1, 1, 2))
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        es.simulate(network, inputs, **{"mode": "async", "record": "spikes", **options})
    assert "\n" not in str(refused.value)


def test_next_to_what_is_refused_something_runs():
    """If this fails, a refusal takes more with it than it says."""
    for network in (
        pair(IF(reset="value", reset_value=1.0, refractory=1)),
        pair(LIF(alpha=0.0, tau=1e-3)),
        pair(IF(reset_value=5.0)),
        pair(middle=Relay()),
    ):
        assert len(simulate(network, events([(0, 0)])).events) > 0
    assert simulate(replace(pair(), ticks=None), events([]), duration=0.0025).ticks == 3


def test_a_study_of_ticks_refuses_a_run_without(tmp_path):
    """If this fails, seconds are calibrated or swept as if they were ticks."""
    run = simulate(pair(), events([(0, 0)], [(0, 1)]), labels=np.array([0, 1]))
    es.save_run(run, tmp_path / "run")
    for source in (run, tmp_path / "run"):
        for study_of in (study.calibrate, study.sweep):
            with pytest.raises(ValueError, match="ran in continuous time; a study compares ticks"):
                study_of(source)


def test_a_state_is_given_back_when_nothing_of_it_is_wanted_any_more(monkeypatch):
    """If this fails, a thread reads what another thread's sample has written into the state they take turns with."""
    network, inputs = busy(samples=3)
    wanted = simulate(network, inputs)

    class Taken(list):
        """Spare states of which each is overwritten as soon as it is given back."""

        def append(self, state):
            for part in state:
                for array in part if isinstance(part, tuple) else (part,):
                    if not any(array is kept for kept in state.books):
                        array[...] = 7
            super().append(state)

    begin = continuous.Worker.__init__

    def begun(worker, *options):
        begin(worker, *options)
        worker.spare = Taken()

    monkeypatch.setattr(continuous.Worker, "__init__", begun)
    assert unlike(simulate(network, inputs), wanted) == []


# ----------------------------------------------------------------------------------------------- caches and run folders


def test_code_compiled_for_other_tables_touches_nothing(monkeypatch):
    """If this fails, a cache of compiled code that predates an edit of `kernels_sync` is run all the same."""
    network, inputs = rush()
    wanted = simulate(network, inputs)
    made = continuous.Made(network, "float64", "together", None, None)
    wired = made.wired(["out"], [], None)
    wiring, pace = wired.wiring, wired.pace
    worker = continuous.Worker(made, wired, (0.0, 9000.0), es.Fixed(), "connections", None, False)
    state = worker._state()
    parts = [array for part in state for array in (part if isinstance(part, tuple) else (part,))]
    for array in parts:
        array[...] = 3
    before = [array.copy() for array in parts]
    old = pace.timing._replace(stamp=ka.STAMP ^ 1)
    status = ka.run(wiring.plan, old, state, worker._feed(inputs, 0), 0, worker.thresholds, 1.0, 1, True)
    assert status == ka.STALE
    assert all(np.array_equal(a, b) for a, b in zip(parts, before))

    class Old:
        """The kernel as a stale cache gives it, until it is compiled again."""

        def __init__(self, kernel):
            self.kernel, self.compiled = kernel, 0

        def __call__(self, plan, timing, *rest):
            return self.kernel(plan, timing if self.compiled else timing._replace(stamp=timing.stamp ^ 1), *rest)

        def recompile(self):
            self.compiled += 1

    monkeypatch.setattr(ka, "run", Old(ka.run))
    assert unlike(simulate(network, inputs), wanted) == []
    assert ka.run.compiled == 1


def test_a_run_folder_gives_the_run_back(tmp_path):
    """If this fails, a time or a count of a run in continuous time is not in its folder as it was in memory."""
    network, images = busy("direct", samples=3)
    options = {"labels": np.array([0, 1, 2]), "record": "potentials", "layout": "chw", "watchdog": es.SpikeGap(4)}
    run = simulate(network, images, duration=7.3e-3, **options)
    assert (run.stop_reason != 0).any()
    es.save_run(run, tmp_path / "run")
    found = runs.read(tmp_path / "run")
    assert found.events.dtype == run.events.dtype
    assert found.events.tobytes() == run.events.tobytes()
    assert found.trace["stop_time"].dtype == np.float64
    assert np.array_equal(found.trace["stop_time"], run.stop_time)
    assert np.array_equal(found.trace["queue"], run.interval.pending)
    for name in ("outputs", "margins", "synops"):
        assert np.array_equal(found.trace[name], getattr(run.trace, name), equal_nan=True)
    for name, v in run.potentials.items():
        assert np.array_equal(found.potentials[name], v, equal_nan=True)
    second = runs.read(tmp_path / "run", sample=1)
    assert second.events.tobytes() == run.events[run.events["sample"] == 1].tobytes()
    said = json.loads((tmp_path / "run" / "run.json").read_text())
    expected = {"mode": "async", "start": 0.0, "duration": 7.3e-3, "tick_seconds": TICK, "arrivals": "together"}
    expected |= {"pulse": None, "bias_period": None, "stop_unit": "s", "ticks": 8, "dtype": "float64"}
    assert {key: said[key] for key in expected} == expected
    assert said["mean_stop"] == pytest.approx(run.stop_time.mean(), rel=1e-15)
    assert said["queue_peak"] == run.queue_peak.max()
