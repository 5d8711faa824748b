"""First-crossing, the decision rule of Rank Coding: it stops when an output potential first reaches theta, in ticks and
in continuous time, where the crossing lies between events; and what a recorded run can tell about it afterwards."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import test_cli
from hypothesis import given
from hypothesis import strategies as st
from test_async import events, unbalanced
from test_engine import same_every_time

import eventsnn as es
from eventsnn import store, study
from eventsnn.network import Connection, Dense, Network, Population
from eventsnn.neurons import IF, LI, CubaLI, Input, Integrator
from eventsnn.watchdog import StopReason, parse_policy

command = test_cli.command
TICK = 1e-3
CROSSED, HORIZON = int(StopReason.FIRST_CROSSING), int(StopReason.HORIZON)


def network_of(output, weight, hidden: IF | None = None, ticks=12, **connection) -> Network:
    """Inputs with dense weights (classes, inputs) to the output, or to one hidden neuron each and on from there."""
    weight = np.asarray(weight, float)
    classes, inputs = weight.shape
    populations = [Population("input", (inputs,), Input()), Population("out", (classes,), output)]
    connections = [Connection("input", "out", Dense(weight), **connection)]
    if hidden is not None:
        populations.insert(1, Population("hidden", (inputs,), hidden))
        straight = Connection("input", "hidden", Dense(np.eye(inputs)))
        connections = [straight, Connection("hidden", "out", Dense(weight), **connection)]
    return Network(
        populations=tuple(populations),
        connections=tuple(connections),
        output="out",
        encoding="events",
        ticks=ticks,
        tick_seconds=TICK,
    )


def spikes(rng, samples: int, inputs: int, ticks: int, grid=1000) -> es.Events:
    """A few events of every input, at multiples of so many microseconds."""
    found = []
    for _ in range(samples):
        count = int(rng.integers(0, 3 * ticks))
        when = np.sort(rng.integers(0, 1000 * ticks // grid, count)) * grid
        found.append(list(zip(when.tolist(), rng.integers(0, inputs, count).tolist())))
    return events(*found)


def first_crossing(outputs: np.ndarray, theta: float) -> tuple[int, int, bool]:
    """(tick, class, whether theta was reached) of (ticks, classes) potentials, word for word."""
    for tick, row in enumerate(outputs.tolist()):
        if max(row) >= theta:
            return tick, row.index(max(row)), True
    return len(outputs) - 1, row.index(max(row)), False


# --------------------------------------------------------------------------------------------------------- in ticks


def test_the_mistake_of_step_0_gives_another_mean_decision():
    """The published notebooks of Rank Coding take the argmax over a vector of events and read 0 as "no event".

    So a crossing in step 0 counts as none and decides at the end. Crossings here: steps 1, 0 and 2, and none.
    """
    low, theta = 0.5, math.log(0.95 / 0.05)
    outputs = np.zeros((4, 5, 2))
    outputs[0, 1:, 1] = 3.0
    outputs[1, 0, 1] = 3.0  # crosses in step 0 and falls back; class 0 leads at the end
    outputs[1, 1:, 0] = low
    outputs[2, 2:, 0] = 3.5
    outputs[3, :, 1] = low  # never
    found = es.replay(es.Trace(outputs, [1, 1, 0, 1], readout="potential"), es.FirstCrossing(theta))
    assert found.stop_time.tolist() == [2, 1, 3, 5]
    assert found.predictions.tolist() == [1, 1, 0, 1]
    event = (outputs >= theta).any(2)
    mistaken = np.where(event.argmax(1) == 0, 4, event.argmax(1))
    assert mistaken.tolist() == [1, 4, 2, 4]
    assert mistaken.mean() + 1 != found.stop_time.mean()
    assert outputs[np.arange(4), mistaken].argmax(1).tolist() == [1, 0, 0, 1]  # and another answer


@st.composite
def leaky_outputs(draw):
    """A leaky output of any kind, over neurons that spike or over the events themselves; theta; its inputs."""
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    classes, inputs = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    leak = {"alpha": draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])), "rest": draw(st.sampled_from([0.0, 0.0, -0.5, 1.0]))}
    leak["v0"] = draw(st.sampled_from([0.0, 0.0, -1.0, 1.5]))
    if draw(st.booleans()):
        output: LI = CubaLI(alpha_syn=draw(st.sampled_from([0.0, 0.5, 0.8])), gain_syn=0.75, **leak)
    else:
        output = LI(gain=draw(st.sampled_from([1.0, 0.5])), **leak)
    shape = (classes, inputs)
    weight = rng.integers(-2, 4, shape) / 2 if draw(st.booleans()) else rng.normal(0.3, 1, shape)
    hidden = draw(st.sampled_from([None, IF(threshold=2.0)]))
    bias = rng.normal(0, 0.2, classes) if draw(st.booleans()) else None
    network = network_of(output, weight, hidden, bias=bias)
    return network, spikes(rng, draw(st.integers(1, 5)), inputs, network.ticks)


@same_every_time(150)
@given(leaky_outputs(), st.data())
def test_a_run_stops_in_the_first_tick_with_an_output_at_theta(case, data):
    """If this fails, it stops in another tick, answers another class than the largest then, or a replay says so."""
    network, inputs = case
    dtype = data.draw(st.sampled_from(["float64", "float32"]))
    full = es.simulate(network, inputs, watchdog=es.Fixed(), dtype=dtype)
    seen = full.outputs.ravel()
    theta = float(data.draw(st.sampled_from(sorted({*seen.tolist(), 0.7, float(seen.max()) + 0.1}))))
    run = es.simulate(network, inputs, watchdog=es.FirstCrossing(theta), dtype=dtype)
    replayed = es.replay(full.trace, es.FirstCrossing(theta))
    for n, outputs in enumerate(full.outputs):
        tick, chosen, crossed = first_crossing(outputs, theta)
        for found in (run, replayed):
            assert found.stop_time[n] == tick + 1
            assert found.predictions[n] == chosen
            assert found.stop_reason[n] == (CROSSED if crossed else HORIZON)
        assert np.array_equal(run.outputs[n, : tick + 1], outputs[: tick + 1])
        assert np.isnan(run.outputs[n, tick + 1 :]).all()


def test_the_decision_rule_of_rank_coding():
    """If this fails, an LI with alpha 0 does not give instantaneous logits, or the rule is not "sigmoid above 0.95".

    Jeffares et al. (ICLR 2022), section 3: a classifier that decides as soon as the sigmoid of a class's output exceeds
    0.95, here of one unit a class; sigmoid(x) > 0.95 says x > log(0.95 / 0.05) = log 19.
    """
    rng = np.random.default_rng(8)
    samples, ticks, inputs, classes = 40, 12, 6, 3
    weight, raster = rng.normal(0, 1.2, (classes, inputs)), rng.random((samples, ticks, inputs)) < 0.25
    logits = raster.astype(float) @ weight.T
    sure = 1 / (1 + np.exp(-logits)) > 0.95
    assert np.abs(logits - math.log(19)).min() > 1e-9  # no close call
    given_events = events(*([(1000 * int(t), int(u)) for t, u in np.argwhere(one)] for one in raster))
    network = network_of(LI(alpha=0.0), weight)
    run = es.simulate(network, given_events, watchdog=es.FirstCrossing(math.log(19)), dtype="float64")
    stops = [np.flatnonzero(s.any(1))[0] if s.any() else ticks - 1 for s in sure]
    assert run.stop_time.tolist() == [t + 1 for t in stops]
    assert run.predictions.tolist() == [logits[n, t].argmax() for n, t in enumerate(stops)]
    assert (run.stop_reason == CROSSED).tolist() == [bool(s.any()) for s in sure]
    assert 0 < np.sum(run.stop_reason == CROSSED) < samples  # both kinds are among them


def test_of_two_outputs_that_reach_theta_together_the_larger_one_wins():
    """If this fails, the class is the first that crossed by number, not the largest."""
    network = network_of(LI(alpha=1.0), [[1.0, 0], [1.5, 0], [0, 9]])
    run = es.simulate(network, events([(0, 0), (1000, 0), (2000, 1)]), watchdog=es.FirstCrossing(2.0), dtype="float64")
    assert (run.stop_time.tolist(), run.predictions.tolist()) == ([2], [1])
    assert run.outputs[0, 1].tolist() == [2.0, 3.0, 0.0]


# --------------------------------------------------------------------------------------------------- continuous time


def asynchronous(network: Network, inputs: es.Events, theta: float | None = None, **options) -> es.Run:
    """A run in continuous time, to the first crossing of theta or to its horizon."""
    watchdog = es.Fixed() if theta is None else es.FirstCrossing(theta)
    return es.simulate(network, inputs, mode="async", **{"watchdog": watchdog, **options})


def of_leakless(theta: float, drive: float, tau: float) -> float:
    """When drive tau (1 - e^(-t / tau)) reaches theta: seconds after the event, infinite for never."""
    return -tau * math.log1p(-theta / (drive * tau)) if theta < drive * tau else math.inf


def of_double(theta: float, drive: float, tau: float) -> float:
    """When drive 2 tau (e^(-t / 2 tau) - e^(-t / tau)) reaches theta: a quadratic equation in z = e^(-t / 2 tau)."""
    missing = 0.25 - theta / (drive * 2 * tau)
    return -2 * tau * math.log(0.5 + math.sqrt(missing)) if missing >= 0 else math.inf


# the leak of the membrane beside that of its current, and the crossing of the curve that one event makes
CURVES = {"leakless": ({"alpha": 1.0}, of_leakless), "double": ({"alpha": math.exp(-1 / 14), "tau": 0.014}, of_double)}


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize("seed", range(12))
def test_a_potential_that_rises_crosses_between_events(kind, seed):
    """If this fails, a run stops at the event after the crossing, or beside it, or answers another class.

    One event at 2 ms makes the current of every class jump; the class that crosses first is not always the largest in
    the end, for each has another gain. A later event comes too late to change anything but to be counted.
    """
    rng = np.random.default_rng([3, seed])
    leak, crossing = CURVES[kind]
    tau, classes = 0.007, 4
    rate = rng.uniform(50, 200, classes)
    output = CubaLI(**leak, alpha_syn=math.exp(-1 / 7), tau_syn=tau, input_rate=rate)
    weight = rng.uniform(0.5, 3, classes)
    crossings = [crossing(0.25, r * w, tau) for r, w in zip(rate, weight)]
    wanted, theta = min(crossings), 0.25
    assert 0 < wanted < 0.02
    network = network_of(output, np.stack([weight, weight], axis=1))
    inputs = events([(2000, 0), (29000, 1)])
    run = asynchronous(network, inputs, theta, duration=0.04)
    assert run.stop_time[0] == pytest.approx(0.002 + wanted, rel=1e-12)
    assert run.stop_reason.tolist() == [CROSSED]
    assert run.predictions.tolist() == [int(np.argmin(crossings))]
    last = run.outputs[0, int(run.ticks_run[0]) - 1]
    assert last.max() == theta  # to the bit: at its crossing a potential is its threshold
    assert run.ledger.input_events.tolist() == [1]
    assert run.trace.answers.time.tolist() == [0.002, run.stop_time[0]]
    assert unbalanced(run) == []


def test_a_constant_input_leads_over_theta_without_an_event():
    """If this fails, an LI is looked at at events only: V = b / dt tau (1 - e^(-t / tau)) gets to theta alone."""
    tau, bias, theta = 0.01, 0.25, 1.5
    output = LI(alpha=math.exp(-TICK / tau), tau=tau)
    network = network_of(output, [[1.0], [1.0]], bias=np.array([bias, 0.0]))
    run = asynchronous(network, events([(14_000, 0)]), theta, duration=0.02)
    wanted = -tau * math.log(1 - theta / (bias / TICK * tau))
    assert run.stop_time[0] == pytest.approx(wanted, rel=1e-12)
    assert (run.stop_reason.tolist(), run.predictions.tolist()) == ([CROSSED], [0])
    assert run.outputs[0, int(run.ticks_run[0]) - 1, 0] == theta


def test_a_jump_crosses_at_its_arrival():
    """If this fails, an LI that an event lifts over theta does not stop in that instant, with what it jumped to."""
    tau = 0.01
    output = LI(alpha=math.exp(-TICK / tau), tau=tau)
    network = network_of(output, [[2.0, 2.0, 0], [0, 0, 2.5]])
    inputs = events([(1000, 0), (4500, 1), (4500, 2), (6000, 0)])
    run = asynchronous(network, inputs, 2.9)
    assert run.stop_time.tolist() == [0.0045]
    assert run.predictions.tolist() == [0]
    assert run.outputs[0, 4].tolist() == pytest.approx([2 + 2 * math.exp(-0.35), 2.5], rel=1e-15)
    assert run.ledger.input_events.tolist() == [3]
    again = asynchronous(network, inputs, float(run.outputs[0, 4, 0]))  # to reach is enough
    assert again.stop_time.tolist() == [0.0045]


@pytest.mark.parametrize("output", [LI(alpha=0.9), CubaLI(alpha=0.9, alpha_syn=0.5), LI(alpha=0.9, rest=1.0)])
def test_a_run_without_a_crossing_goes_to_its_horizon(output):
    """If this fails, what never reaches theta stops early, or does not answer by its last outputs."""
    network = network_of(output, [[0.5, 0.1], [0.4, 0.2]])
    run = asynchronous(network, events([(1000, 0), (3000, 1)], []), 2.0, duration=0.0105)
    whole = asynchronous(network, events([(1000, 0), (3000, 1)], []), duration=0.0105)
    assert run.stop_time.tolist() == [0.0105, 0.0105]
    assert run.stop_reason.tolist() == [HORIZON, HORIZON]
    assert run.outputs.tobytes() == whole.outputs.tobytes()
    assert run.predictions.tolist() == whole.outputs[:, -1].argmax(-1).tolist()


@pytest.mark.parametrize("theta", [math.log(19), 0.1, 0.7, 1.9])  # float32 has some of them above and some below
def test_the_crossing_of_a_coarser_membrane_is_a_crossing(theta):
    """If this fails, a float32 potential stops at a theta rounded down, is not at theta yet, and runs on."""
    rate = 1.0 / TICK
    output = CubaLI(alpha=1.0, alpha_syn=0.9, input_rate=rate)
    for dtype in ("float32", "float64"):
        run = asynchronous(network_of(output, [[1.0], [0.5]]), events([(1000, 0)]), theta, duration=0.03, dtype=dtype)
        assert run.stop_reason.tolist() == [CROSSED]
        end = float(run.outputs[0, int(run.ticks_run[0]) - 1, 0])
        assert 0 <= end - theta < 1e-7 * theta
        tau = -TICK / math.log(0.9)
        assert run.stop_time[0] == pytest.approx(0.001 + of_leakless(theta, rate, tau), rel=1e-6)


# ------------------------------------------------------------------------------------- what a recorded run can tell


@same_every_time(60)
@given(st.integers(0, 2**20), st.sampled_from(["together", "serial"]), st.booleans(), st.data())
def test_a_replay_in_continuous_time_is_the_live_run(seed, ties, through, data):
    """If this fails, a leaky output without anything that lifts it is recorded otherwise than it is lived."""
    rng = np.random.default_rng(seed)
    options = {"ties": ties, "record": "potentials"}
    output = LI(alpha=float(rng.choice([0.5, 0.9, 1.0])), gain=0.5, v0=float(rng.choice([0.0, -1.0, 0.25])), rest=-0.5)
    network = network_of(output, rng.integers(-2, 4, (3, 3)) / 2, IF(threshold=2.0) if through else None)
    inputs = spikes(rng, 4, 3, network.ticks, grid=int(rng.choice([1, 250, 1000])))
    full = asynchronous(network, inputs, **options)
    above = [x for x in full.trace.answers.outputs.ravel().tolist() if x > 0.25]
    theta = data.draw(st.sampled_from([0.5, *above]))
    live, replayed = asynchronous(network, inputs, theta, **options), es.replay(full.trace, es.FirstCrossing(theta))
    for name in ("stop_time", "predictions", "tied", "stop_reason"):
        assert np.array_equal(getattr(replayed, name), getattr(live, name)), name
    assert unbalanced(live) == []


LIFTED = {
    "a current": (CubaLI(alpha=0.9, alpha_syn=0.5), {}, {}, 0.4),
    "a bias": (LI(alpha=0.9), {"bias": np.array([0.1, 0.0])}, {}, 0.7),
    "a rest": (LI(alpha=0.9, rest=1.0), {}, {}, 0.7),
    "its start": (LI(alpha=0.9, v0=np.array([0.0, 2.0])), {}, {}, 1.5),
    "a pulse": (LI(alpha=0.9), {}, {"pulse": 5e-4}, 0.4),
    "a rest above theta": (LI(alpha=0.9), {}, {}, -0.1),
}


@pytest.mark.parametrize("what", LIFTED)
def test_a_replay_that_would_miss_a_crossing_is_refused(what):
    """If this fails, a replay gives another stop than a live run, which here crosses where no event reaches it."""
    output, connection, options, theta = LIFTED[what]
    network = network_of(output, [[0.5, -1.0], [-1.0, -1.0]], **connection)
    inputs = events([(1000, 0), (1000, 1)] if theta < 0 else [(1000, 0), (9000, 1)])
    full = asynchronous(network, inputs, **options)
    with pytest.raises(ValueError, match="between the events that reach it") as refusal:
        es.replay(full.trace, es.FirstCrossing(theta))
    assert str(refusal.value).startswith(f"an output can get to the threshold of first-crossing:{theta:g} ")
    if what == "a pulse":
        return  # an end of a pulse is an instant as an arrival is, but the way up to it is not recorded
    live = asynchronous(network, inputs, theta, **options)
    assert live.stop_reason.tolist() == [CROSSED]
    assert live.stop_time[0] not in full.trace.answers.time


def test_a_replay_of_a_later_window_is_refused():
    """If this fails, a window whose outputs stand above theta from before is replayed as if they began at v0."""
    network = network_of(LI(alpha=0.99), [[2.0]])
    first = asynchronous(network, events([(1000, 0)]), duration=2e-3)
    assert es.replay(first.trace, es.FirstCrossing(1.0)).stop_time.tolist() == [1e-3]
    second = asynchronous(network, events([(5000, 0)]), duration=8e-3, state=first.state)
    with pytest.raises(ValueError, match="run it live with this cutoff"):
        es.replay(second.trace, es.FirstCrossing(1.0))


# ------------------------------------------------------------------------------------------------ texts and refusals


@same_every_time(100)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_the_policy_gives_theta_back(theta):
    """If this fails, a run folder names a threshold that is not the one it ran with."""
    policy = es.FirstCrossing(theta)
    assert parse_policy(str(policy)) == policy
    assert str(policy).startswith("first-crossing:")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (IF(), "cutoff first-crossing:1 reads the potentials of a leaky output (LI, CubaLI), but this network's output "
               "spikes; choose first-spike"),
        (Integrator(), "cutoff first-crossing:1 reads the potentials of a leaky output (LI, CubaLI), but this "
                       "network's output sums logits; choose topk or confidence"),
    ],
)  # fmt: skip
def test_other_outputs_are_refused_in_one_sentence(output, words):
    network, inputs = network_of(output, np.ones((2, 1))), events([(0, 0)])
    for mode in ("sync", "async"):
        full = es.simulate(network, inputs, mode=mode, watchdog=es.Fixed())
        for ask in (
            lambda mode=mode: es.simulate(network, inputs, mode=mode, watchdog=es.FirstCrossing(1.0)),
            lambda full=full: es.replay(full.trace, es.FirstCrossing(1.0)),
        ):
            with pytest.raises(ValueError) as refusal:  # noqa: PT011 - compared as a whole
                ask()
            assert str(refusal.value) == words


@pytest.mark.parametrize("text", ["first-crossing:inf", "first-crossing:nan", "first-crossing", "first-crossing:x"])
def test_a_threshold_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="first-crossing"):
        parse_policy(text)


def test_policies_on_logits_read_potentials_and_spike_policies_do_not():
    """If this fails, a leaky output cannot be stopped by confidence, or can be by spikes that it does not have."""
    network, inputs = network_of(LI(alpha=0.5), [[3.0, 0], [0, 1.0]]), events([(0, 0), (2000, 1)])
    for mode in ("sync", "async"):
        run = es.simulate(network, inputs, mode=mode, watchdog=es.TopKGap(2.0))
        assert run.stop_reason.tolist() == [int(StopReason.TOPK)]
        with pytest.raises(ValueError, match="is a potential"):
            es.simulate(network, inputs, mode=mode, watchdog=es.FirstSpike())


# --------------------------------------------------------------------------------------------- curves, files, commands


def labelled(seed=5, samples=30) -> tuple[Network, es.Events, np.ndarray]:
    """A network with hidden neurons and a leaky output that is right more often than not, and samples."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, samples)
    found = []
    for label in labels:
        units = np.where(rng.random(24) < 0.55, label, rng.integers(0, 3, 24))
        when = np.sort(rng.integers(0, 12, 24)) * 1000
        found.append(list(zip(when.tolist(), units.tolist())))
    network = network_of(CubaLI(alpha=0.9, alpha_syn=0.5), 1.5 * np.eye(3) - 0.5, IF(threshold=2.0))
    return network, events(*found), labels


THETAS = [0.3, 1.0, 1.7, 2.5, 99.0]


def test_a_curve_in_ticks_is_the_family_of_a_sweep():
    """If this fails, accuracy, stops or SynOps of a time-to-decision curve are not those of the replay."""
    network, inputs, labels = labelled()
    full = es.simulate(network, inputs, labels, watchdog=es.Fixed(), dtype="float64")
    swept = [p for p in study.sweep(full, points=6) if p.family == "first-crossing"]
    assert len(swept) == 6
    assert len({p.ticks_run for p in swept}) > 3  # they are different points
    curve = study.decision_curve(network, inputs, labels, [p.threshold for p in swept], dtype="float64")
    for point, decision in zip(swept, curve, strict=True):
        assert decision.theta == point.threshold == point.policy.theta
        assert decision.accuracy == point.accuracy
        assert decision.mean_stop == point.mean_stop
        assert decision.mean_synops == point.synops / 30
    points = study.rerun(full, [p.policy for p in swept], network, inputs)
    assert [int(r.stop_time.sum()) for r in points] == [p.ticks_run for p in swept]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_curve_is_live_runs(mode):
    """If this fails, a point of a curve is not what a run with that threshold gives, in seconds or in ticks."""
    network, inputs, labels = labelled()
    curve = study.decision_curve(network, inputs, labels, THETAS, mode=mode, jobs=2)
    for decision, theta in zip(curve, THETAS, strict=True):
        run = es.simulate(network, inputs, labels, mode=mode, watchdog=es.FirstCrossing(theta))
        assert decision == (
            theta,
            run.accuracy,
            run.stop_time.mean(),
            run.ledger.synops().sum() / 30,
            np.mean(run.stop_reason == CROSSED),
        )
    decided = [d.decided for d in curve]
    assert decided == sorted(decided, reverse=True)  # what does not get so far gets no further
    assert (decided[0], decided[-1]) == (1.0, 0.0)
    stops = [d.mean_stop for d in curve]
    assert stops == sorted(stops)
    assert stops[-1] == pytest.approx(12 if mode == "sync" else 0.012)


def test_a_curve_needs_samples_and_potentials():
    network, inputs, labels = labelled(samples=2)
    with pytest.raises(ValueError, match="no samples"):
        study.decision_curve(network, inputs, labels[:0], [1.0])
    with pytest.raises(ValueError, match="reads the potentials"):
        study.decision_curve(network_of(IF(), np.eye(3)), inputs, labels, [1.0])
    with pytest.raises(ValueError, match="continuous time; a study compares ticks"):
        study.sweep(asynchronous(network, inputs))


def test_the_command_line_stops_sweeps_and_draws(command, tmp_path):
    """If this fails, a leaky output cannot be run, swept or drawn from a file, or its report names another reason."""
    network, inputs, labels = labelled()
    store.save(replace(network, cutoff="first-crossing:1.7"), tmp_path / "net.h5")
    np.savez(tmp_path / "in.npz", t=inputs.t, x=inputs.neuron, offsets=inputs.offsets, labels=labels)
    run = ("simulate", "--weights", "net.h5", "--input", "in.npz")
    for mode in ("sync", "async"):
        wanted = es.simulate(network, inputs, labels, mode=mode, watchdog=es.FirstCrossing(1.7))
        code, out, err = command(*run, "--mode", mode, "--json", "--out", mode)
        assert code == 0, err
        found = json.loads(out)
        assert found["cutoff"] == "first-crossing:1.7"
        assert json.loads((tmp_path / mode / "network.json").read_text())["readout"] == "potential"
        crossed = int(np.sum(wanted.stop_reason == CROSSED))
        assert crossed > 0
        reasons = {"first-crossing": crossed, "horizon": 30 - crossed}
        assert found["stop_reasons"] == {reason: count for reason, count in reasons.items() if count}
        assert found["mean_stop"] == pytest.approx(wanted.stop_time.mean())
        with (tmp_path / mode / "samples.csv").open() as file:
            assert [r["stop_reason"] for r in csv.DictReader(file)].count("first-crossing") == crossed
        code, out, err = command(*run, "--mode", mode)
        assert code == 0, err
        said = ", ".join(f"{reason}: {count}" for reason, count in found["stop_reasons"].items())
        assert f"on average ({said})" in out
    code, out, err = command(*run, "--cutoff", "fixed", "--out", "full")
    assert code == 0, err
    code, out, err = command("sweep", "full", "--json", "--live", 5, "--weights", "net.h5", "--input", "in.npz")
    assert code == 0, err
    rows = [r for r in json.loads(out)["points"] if r["family"] == "first-crossing"]
    assert all(r["parameter"] == "theta" for r in rows)
    full = es.simulate(network, inputs, labels, watchdog=es.Fixed())
    for row in rows:
        replayed = es.replay(full.trace, es.FirstCrossing(row["threshold"]))
        assert row["ticks_run"] == replayed.stop_time.sum()
        assert row["correct"] == np.sum(replayed.predictions == labels)
    table = list(csv.DictReader(io.StringIO((tmp_path / "full" / "sweep.csv").read_text())))
    assert {r["family"] for r in table} >= {"first-crossing", "topk", "fixed"}
    code, out, err = command("plot", "tradeoff", "full", "-o", "curve.png")
    assert code == 0, err
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    test_cli.refused(command(*run, "--cutoff", "first-crossing:inf"), "wanted a finite number")
    test_cli.refused(command(*run, "--cutoff", "spike-gap:2"), "is a potential")


if __name__ == "__main__":
    pytest.main([__file__])
