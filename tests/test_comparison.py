"""Comparing two runs: held to an obvious implementation, to laws of the distance, and to what a reader would check."""

import json
import math
import sys
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import h5py
import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from eventsnn import cli, plot, report, runs
from eventsnn.comparison import compare, lines, verdict
from eventsnn.inputs import EVENT
from eventsnn.trains import van_rossum
from eventsnn.watchdog import Fixed

TIMED = [(name, "<f8" if name == "time" else EVENT[name]) for name in EVENT.names]
TICK = 1e-3
# (name, neurons, depth, spikes): not in order of depth, and one that forwards graded events
LAYERS = (("output", 3, 3, True), ("first", 4, 1, True), ("relay", 4, 2, False), ("second", 2, 1, True))


def record(rows, mode="async", samples=3, tick=TICK, recorded=None, layers=LAYERS):
    """A run with these events: (sample, time, population, neuron, value or nothing)."""
    names = [layer[0] for layer in layers]
    rows = [(s, t, names.index(p), n, v[0] if v else 1.0) for s, t, p, n, *v in rows]
    events = np.array(sorted(rows), TIMED if mode == "async" else EVENT)
    populations = [
        {"name": n, "kind": "if" if s else "relay", "spiking": s, "shape": [c], "neurons": c, "depth": d}
        for n, c, d, s in layers
    ]
    network = {
        "sha256": None,
        "encoding": "events",
        "output": "output",
        "labels": None,
        "tick_seconds": tick,
        "populations": populations,
    }
    run = {"mode": mode, "dtype": "float64", "cutoff": "fixed", "ticks": 50, "recorded": {"events": recorded or names}}
    trace = {"stop_time": np.full(samples, 50)}
    return runs.Record(run, network, trace, events, None, {})


def double_sum(a, b, tau):
    """Van Rossum's distance as its definition multiplies out, O(n^2)."""
    signed = [(t, 1) for t in a] + [(t, -1) for t in b]
    return math.fsum(s * r * math.exp(-abs(t - u) / tau) for t, s in signed for u, r in signed) / 2


def obvious(a, b, tolerance, tau):
    """What `compare` must find, by loops over trains: firsts by sample, and for each layer what a `Layer` holds."""
    trains = defaultdict(lambda: ([], []))
    names = [layer[0] for layer in LAYERS]
    for side, one in enumerate((a, b)):
        for sample, time, population, neuron, value in one.events.tolist():
            times = int(value) if LAYERS[population][3] else 1
            trains[sample, names[population], neuron][side].extend([time] * times)
    depth = {name: (d, names.index(name)) for name, _, d, _ in LAYERS}
    found, layers = {}, {name: [0, 0, set(), set(), 0.0] for name in names}
    for (sample, name, neuron), (x, y) in trains.items():
        x, y = sorted(x), sorted(y)
        layer = layers[name]
        layer[0] += len(x)
        layer[1] += len(y)
        layer[4] += double_sum(x, y, tau)
        for k in range(max(len(x), len(y))):
            times = x[k] if k < len(x) else None, y[k] if k < len(y) else None
            if None in times or abs(times[0] - times[1]) > tolerance:
                layer[2].add(sample)
                layer[3].add(neuron)
                when = min(t for t in times if t is not None)
                candidate = (when, depth[name], neuron), (sample, name, neuron, k, *times)
                found[sample] = min(found.get(sample, candidate), candidate, key=lambda c: c[0])
                break
    return [found[s][1] for s in sorted(found)], {n: (a, b, len(s), len(u), d) for n, (a, b, s, u, d) in layers.items()}


def check(a, b, tolerance, tau):
    """The comparison against the obvious one, and against itself with A and B swapped."""
    found = compare(a, b, tolerance=tolerance, tau=tau)
    firsts, layers = obvious(a, b, tolerance, tau)
    assert [tuple(d) for d in found.firsts] == firsts
    assert np.flatnonzero(found.differs).tolist() == [d[0] for d in firsts]
    for layer in found.layers:
        *counts, distance = layers[layer.name]
        assert [*layer.spikes, layer.samples, layer.neurons] == counts
        assert layer.distance == pytest.approx(distance, rel=1e-9, abs=1e-12)
    back = compare(b, a, tolerance=tolerance, tau=tau)
    assert [(d[:4], d.b, d.a) for d in back.firsts] == [(d[:4], d.a, d.b) for d in found.firsts]
    assert [(r.spikes[::-1], r.samples, r.neurons, r.distance) for r in back.layers] == [r[1:] for r in found.layers]


# few different times, so that coincidences are common; eighths of a ms are exact as floats
moments = st.integers(0, 40).map(lambda n: n / 8192)
places = st.sampled_from([(name, neuron) for name, count, _, _ in LAYERS for neuron in range(count)])
spikes = st.lists(
    st.tuples(st.integers(0, 2), moments, places, st.sampled_from([1.0, 1.0, 2.0, 3.0])).map(
        lambda row: (row[0], row[1], *row[2], row[3])
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=150)
@given(spikes, spikes, st.sampled_from([0.0, 1 / 8192, 3 / 8192]), st.sampled_from([1e-4, 1e-3, 0.1]))
def test_random_trains_against_the_obvious_comparison(a, b, tolerance, tau):
    """If this fails, a first difference, a count or a distance is not what the definition says."""
    check(record(a), record(a + b), tolerance, tau)
    check(record(a), record(b), tolerance, tau)


def test_the_order_of_the_events_does_not_matter():
    """If this fails, a file written in another order looks like another run."""
    run = runs.describe(small.run())
    shuffled = replace(run, events=np.random.default_rng(0).permutation(run.events))
    assert compare(run, shuffled).first is None
    assert not compare(shuffled, run).trains[0].differs.any()


@settings(deadline=None, max_examples=60)
@given(spikes, st.data())
def test_one_moved_spike_differs_by_more_than_the_tolerance_only(rows, data):
    """If this fails, the tolerance is not the distance in time at which two spikes part."""
    rows = [*rows, (1, 0.02, "second", 1, 1.0)]
    tolerance = data.draw(st.sampled_from([1e-6, 3e-6, 2e-4]))
    for factor, same in ((0.5, True), (1.0, True), (1.001, False), (-1.0, True), (-1.001, False)):
        moved = [*rows[:-1], (1, 0.02 + factor * tolerance, "second", 1, 1.0)]
        found = compare(record(rows), record(moved), tolerance=tolerance)
        assert (found.first is None) == same, factor
        if not same:
            assert found.first[:3] == (1, "second", 1)
            assert (found.first.a, found.first.b) == (0.02, 0.02 + factor * tolerance)


def test_a_run_is_equal_to_itself(tmp_path):
    """If this fails, a comparison finds differences of its own, or depends on how a run is handed over."""
    run = small.run()
    runs.write(run, runs.open_folder(tmp_path / "run", "x"), report.Facts())
    contents = []
    for other in (run, runs.describe(run), tmp_path / "run"):
        found = compare(run, other)
        assert found.first is None
        assert not found.differs.any()
        assert [layer.distance for layer in found.layers] == [0.0] * len(found.layers)
        assert found.predictions == ()
        assert found.inputs == 0
        content = found.content()
        json.dumps(content, allow_nan=False)
        contents.append({**content, "b": {**content["b"], "name": ""}})
    assert contents[0] == contents[1] == contents[2]
    assert verdict(compare(run, run)) == "No spike differs in 20 samples."


def test_two_precisions_and_two_cutoffs_of_one_network():
    """If this fails, what a reader compares side by side is not what the runs say of themselves."""
    stopped, full = small.run(), small.run(cutoff=Fixed())
    found = compare(stopped, full)
    for summary, run in zip(found.summaries, (stopped, full), strict=True):
        said = report.summary(run, report.Facts())
        assert summary == {
            **{k: said[k] for k in ("accuracy", "mean_stop", "stop_unit", "spikes", "synops")},
            "mean_stop_seconds": None,
        }
    early = np.flatnonzero(stopped.stop_time < full.ticks)
    assert np.array_equal(np.flatnonzero(found.differs), early)
    for d in found.firsts:  # a stopped run is the full run, cut: nothing differs before the stop, nothing is moved
        assert d.a is None
        assert d.b >= stopped.stop_time[d.sample] - 1
    assert found.predictions == tuple(np.flatnonzero(stopped.predictions != full.predictions).tolist())
    for layer in found.layers:
        assert layer.spikes == tuple(int(run.ledger.spikes(layer.name).sum()) for run in (stopped, full))
    single, double = small.run(dtype="float32"), small.run(dtype="float64")
    precise = compare(single, double)
    assert [d.sample for d in precise.firsts] == [
        s
        for s in range(20)
        if [*map(tuple, single.events[single.events["sample"] == s][["time", "population", "neuron"]].tolist())]
        != [*map(tuple, double.events[double.events["sample"] == s][["time", "population", "neuron"]].tolist())]
    ]


def test_the_first_difference_is_the_earliest_then_the_shallowest_then_the_lowest():
    """If this fails, a search for a cause starts at an effect."""
    base = [(0, 0.001, "first", 0), (0, 0.002, "output", 1)]
    late = (0, 0.005, "first", 0)
    cases = [
        ([late, (0, 0.004, "output", 2)], ("output", 2, 0)),  # earlier, though deeper
        ([(0, 0.004, "output", 0), (0, 0.004, "second", 1), (0, 0.004, "relay", 0)], ("second", 1, 0)),
        ([(0, 0.004, "second", 0), (0, 0.004, "first", 3), (0, 0.004, "first", 2)], ("first", 2, 0)),
        ([late], ("first", 0, 1)),  # the second of its train
    ]
    for more, (population, neuron, position) in cases:
        for swap in (False, True):
            pair = record(base), record(base + more)
            first = compare(*(pair[::-1] if swap else pair)).first
            assert first[:4] == (0, population, neuron, position)
            assert (first.a is None) != swap
            assert (first.b is None) == swap


def test_multiplicity_is_as_many_spikes_and_a_graded_value_is_none():
    """If this fails, two spikes in one instant look like one, or the value of a relay's event counts."""
    twice = record([(0, 0.001, "first", 0, 2.0)])
    assert compare(twice, record([(0, 0.001, "first", 0), (0, 0.001, "first", 0)])).first is None
    found = compare(twice, record([(0, 0.001, "first", 0)]))
    assert found.first == (0, "first", 0, 1, 0.001, None)
    assert [layer.distance for layer in found.layers if layer.name == "first"] == [0.5]
    assert "its 2nd spike: at 1 ms in A, not in B" in verdict(found)
    graded = [record([(0, 0.001, "relay", 0, value)]) for value in (0.25, 7.0)]
    assert compare(*graded).first is None
    assert compare(*graded).layers[2].spikes == (1, 1)


# -------------------------------------------------------------------------------------------- ticks and seconds


@pytest.mark.parametrize("tick", [1e-3, 7e-4, 1e-6, 0.1])
def test_a_tick_covers_the_time_up_to_the_next(tick):
    """If this fails, a spike at the edge of a tick is taken to its neighbour by rounding."""
    ticks = np.arange(0, 5000, 7)
    sync = record([(0, int(k), "first", 0) for k in ticks], "sync", tick=tick)
    for part in (0.0, 0.5, 0.999):
        timed = record([(0, (k + part) * tick, "first", 0) for k in ticks], tick=tick)
        for found in (compare(sync, timed), compare(timed, sync)):
            assert found.first is None
            assert found.on_ticks
            assert found.layers[0].distance == 0
    us = record([(0, float(int(k) * round(tick * 1e6)) * 1e-6, "first", 0) for k in ticks], tick=tick)
    assert compare(sync, us).first is None  # times as the async engine makes them


def test_the_next_tick_is_another():
    """If this fails, sync and async runs seem to agree when they are a tick apart."""
    sync, timed = record([(0, 5, "first", 0)], "sync"), record([(0, 0.0060001, "first", 0)])
    found = compare(sync, timed)
    assert found.first == (0, "first", 0, 0, 5 * TICK, 0.0060001)
    assert found.unit == "s"
    assert found.layers[0].distance == pytest.approx(1 - math.exp(-1), rel=1e-12)  # one tick apart, tau a tick
    assert compare(sync, timed, tolerance=TICK).first is None
    assert compare(sync, timed, tolerance=0.99 * TICK).first is not None
    assert "in tick 5 (from 5 ms) in A, at 6.0001 ms in B" in verdict(found)
    unknown = [record([(0, 5, "first", 0)], "sync", tick=None), record([(0, 0.006, "first", 0)], tick=None)]
    with pytest.raises(ValueError, match=r"comparing ticks with seconds needs the length of a tick.*--tick"):
        compare(*unknown)
    assert compare(*unknown, tick=TICK).first.a == 5 * TICK


def test_sync_runs_are_compared_by_ticks_and_other_ticks_by_seconds():
    """If this fails, tick 4 of 1 ms is not the time of tick 2 of 2 ms, or a run without seconds cannot be compared."""
    a, b = record([(0, 4, "first", 0)], "sync"), record([(0, 2, "first", 0)], "sync", tick=2e-3)
    assert compare(a, b).first is None
    same = record([(0, 2, "first", 0)], "sync")
    assert compare(a, same).first == (0, "first", 0, 0, 4.0, 2.0)
    assert compare(a, same).unit == "ticks"
    bare = [replace(r, network={**r.network, "tick_seconds": None}) for r in (a, same)]
    assert compare(*bare).layers == compare(a, same).layers  # tau is a tick in either
    with pytest.raises(ValueError, match="a tolerance or tau in seconds needs the length of a tick"):
        compare(*bare, tolerance=1e-3)
    assert compare(*bare, tolerance=2e-3, tick=1e-3).first is None


# --------------------------------------------------------------------------------------------------- the distance

trains = st.lists(st.floats(0, 1, width=32), max_size=12)


@settings(deadline=None)
@given(trains, trains, st.sampled_from([0.01, 0.3, 5.0]))
def test_the_distance_is_the_double_sum(a, b, tau):
    """If this fails, the sum from spike to spike is not van Rossum's."""
    found = van_rossum(np.array(a), np.array(b), tau)
    assert found == pytest.approx(double_sum(a, b, tau), rel=1e-9, abs=1e-12)
    assert found == van_rossum(np.array(b), np.array(a), tau)
    assert van_rossum(np.array(a), np.array(a), tau) == 0
    assert found >= 0


@pytest.mark.parametrize("seed", range(4))
def test_the_distance_is_the_integral(seed):
    """If this fails, kernel, normalisation or sign is another than the docstring says."""
    rng = np.random.default_rng(seed)
    a, b, tau = rng.random(5), rng.random(7), 0.2

    def squared(t):
        f, g = (sum(math.exp(-(t - s) / tau) for s in train if s <= t) for train in (a, b))
        return (f - g) ** 2 / tau

    edges = [*np.sort(np.concatenate([a, b])).tolist(), 1 + 40 * tau]
    integral = math.fsum(quad(squared, low, high, epsabs=1e-13)[0] for low, high in pairwise(edges))
    assert van_rossum(a, b, tau) == pytest.approx(integral, rel=1e-8)


def test_known_values_and_limits_of_the_distance():
    """If this fails, tau does not mean what it should: a short one counts all spikes, a long one nets them."""
    a, b = np.array([0.1, 0.2, 0.7]), np.array([0.1, 0.2])
    assert van_rossum(a, b, 0.01) == 0.5
    assert van_rossum(a, np.zeros(0), 1e-6) == pytest.approx(3 / 2)
    assert van_rossum(a, np.array([0.3, 0.4]), 1e9) == pytest.approx((3 - 2) ** 2 / 2)
    for shift in (1e-12, 1e-6, 0.01, 1.0):  # small shifts do not drown in rounding
        moved = van_rossum(np.array([0.0]), np.array([shift]), 0.1)
        assert moved == pytest.approx(-math.expm1(-shift / 0.1), rel=1e-3 if shift < 1e-9 else 1e-9)
    assert van_rossum(a * 8, b * 8, 0.08) == pytest.approx(van_rossum(a, b, 0.01), rel=1e-12)


def test_a_dropped_spike_is_one_half_anywhere_in_a_run():
    """If this fails, the distance of a run is not one that is 1/2 for each spike that is alone."""
    run = runs.describe(small.run())
    counts = defaultdict(list)
    for i, event in enumerate(run.events.tolist()):
        counts[event[0], event[2]].append(i)
    for index in (0, len(run.events) // 2, len(run.events) - 1):
        sample, time, population, neuron, _ = run.events[index].tolist()
        found = compare(run, replace(run, events=np.delete(run.events, index)))
        assert sum(layer.distance for layer in found.layers) == 0.5
        assert len(found.firsts) == 1
        name = run.network["populations"][population]["name"]
        assert found.first[:3] == (sample, name, neuron)
        assert found.first.a == time


# ------------------------------------------------------------------------------------------------- other tools


def saved(path, columns):
    """A file of these columns, of the kind its name says."""
    if path.suffix == ".npz":
        np.savez(path, **columns)
    elif path.suffix == ".npy":
        rows = np.empty(len(columns["time"]), [(n, c.dtype) for n, c in columns.items()])
        for name, column in columns.items():
            rows[name] = column
        np.save(path, rows)
    else:
        with h5py.File(path, "w") as file:
            for name, column in columns.items():
                file[name] = column.astype("S") if column.dtype.kind == "U" else column
    return path


@pytest.mark.parametrize("kind", ["npz", "npy", "h5"])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_file_of_another_tool_is_compared_like_a_run(tmp_path, kind, named, mode):
    """If this fails, a recording of another simulator cannot be held against ours."""
    scale = 1 if mode == "sync" else TICK
    rows = [(s, t * scale, p, n) for s in range(3) for t in (1, 4, 9) for p, n in (("first", s), ("output", 2))]
    run = record(rows, mode)
    numbers = run.events["population"]
    names = np.array([layer[0] for layer in LAYERS])
    columns = {"sample": run.events["sample"], "time": run.events["time"], "neuron": run.events["neuron"]}
    columns["population"] = names[numbers] if named else numbers
    if mode == "sync":
        columns["time"] = columns["time"].astype(np.int64)
    path = saved(tmp_path / f"other.{kind}", columns)
    found = compare(run, path, tick=TICK if mode == "sync" else None)
    assert found.first is None
    assert [layer.name for layer in found.layers] == ["first", "output"]
    assert found.not_compared == {"relay": "a", "second": "a"}
    assert found.summaries[1] is None
    json.dumps(found.content(), allow_nan=False)
    columns["time"] = columns["time"].copy()
    columns["time"][-1] += 2 * scale
    found = compare(saved(tmp_path / f"late.{kind}", columns), run, tick=TICK if mode == "sync" else None)
    last = run.events[-1]
    assert found.first[:4] == (last["sample"], names[last["population"]], last["neuron"], 2)
    assert found.first.a == pytest.approx(found.first.b + 2 * scale)
    assert plot.comparison(found).axes


def test_a_file_of_another_tool_is_a_strangers_file(tmp_path):
    """If this fails, a link in a file of spikes leads to another file of this machine."""
    run = record([(0, 0.001, "output", 1)], samples=1)
    saved(tmp_path / "private.h5", {"time": run.events["time"], "neuron": run.events["neuron"]})
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["time"] = h5py.ExternalLink("private.h5", "time")
        file["neuron"] = run.events["neuron"]
    with pytest.raises(ValueError, match="'time' is a link to another place or file; links are not followed"):
        compare(run, tmp_path / "links.h5", population="output")


def test_the_population_and_the_sample_of_a_file_may_be_left_out(tmp_path):
    """If this fails, a plain list of spikes must be dressed up before it can be compared."""
    run = record([(0, 0.001, "output", 1), (0, 0.002, "output", 0)], samples=1)
    columns = {"time": run.events["time"], "neuron": run.events["neuron"]}
    path = saved(tmp_path / "plain.npz", columns)
    found = compare(run, path, population="output")
    assert found.first is None
    assert [layer.name for layer in found.layers] == ["output"]
    silent = saved(tmp_path / "silent.npz", {"time": np.zeros(0), "neuron": np.zeros(0, int)})
    assert compare(run, silent, population="output").layers[0].spikes == (2, 0)
    for change, message in (
        ({}, r"no column 'population'; name .*--population"),
        ({"population": np.array(["x", "y"])}, "names the population x; there are output, first"),
        ({"population": np.array([0, 9])}, "names the population 9"),
        ({"population": np.array([0, 0]), "neuron": np.array([0, 3])}, "row 1 is outside the neurons of the run"),
        ({"population": np.array([0, 0]), "sample": np.array([0, 1])}, "row 1 is outside the samples of the run"),
        ({"population": np.array([0, 0]), "time": np.array([0.0, -1.0])}, "row 1 is outside the times from 0"),
        ({"population": np.array([0, 0]), "time": np.array([1, 2])}, r"whole numbers as times.*--tick"),
        ({"population": np.array([0])}, "columns of different lengths"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(run, saved(tmp_path / "bad.npz", {**columns, **change}))
    with pytest.raises(ValueError, match="no column 'neuron'; it has time"):
        compare(run, saved(tmp_path / "bad.npz", {"time": columns["time"]}))
    with pytest.raises(ValueError, match="both are files of spikes"):
        compare(path, path)
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(ValueError, match="cannot be read as a file of spikes"):
        compare(run, tmp_path / "text.npz")


# ------------------------------------------------------------------------------------------------------ refusals


def test_what_cannot_be_compared_is_refused():
    """If this fails, neurons are laid beside others that are not theirs."""
    one = record([(0, 0.001, "first", 0)])
    other = record([(0, 0.001, "first", 0)], layers=(*LAYERS[:1], ("first", 5, 1, True), *LAYERS[2:]))
    with pytest.raises(ValueError, match="population 'first' has 4 neurons in run A and 5 neurons in run B"):
        compare(one, other)
    with pytest.raises(ValueError, match="population 'second' has 2 neurons in run A and no such population in run B"):
        compare(one, record([], layers=LAYERS[:3]))
    with pytest.raises(ValueError, match="run A has 3 samples and run B 2 samples; wanted runs of the same samples"):
        compare(one, record([], samples=2))
    with pytest.raises(ValueError, match="3 samples and run B 3 samples from 5"):
        compare(one, replace(one, first=5))
    with pytest.raises(ValueError, match=r"run B has no recorded spikes to compare; run it again with --record spikes"):
        compare(small.run(), small.run(record="outputs"))
    with pytest.raises(ValueError, match="no population was recorded in both run A and run B"):
        compare(record([], recorded=["first"]), record([], recorded=["output"]))
    for bad in ({"tau": 0.0}, {"tau": math.nan}, {"tolerance": -1.0}, {"tick": math.inf}):
        with pytest.raises(ValueError, match="wanted seconds above 0"):
            compare(one, one, **bad)


def test_populations_recorded_in_one_only_are_left_out_and_named():
    """If this fails, a layer that was not recorded looks silent."""
    some, every = small.run(record=["conv", "output"]), small.run()
    found = compare(some, every)
    assert found.first is None
    assert [layer.name for layer in found.layers] == ["conv", "output"]
    assert found.not_compared == {"sum": "b", "rest": "b"}
    assert any(
        "Not compared" in str(line) and "sum (only in B), rest (only in B)" in str(line) for line in lines(found)
    )


def test_other_inputs_are_told():
    """If this fails, a difference of the inputs passes for one of the runs."""
    run = runs.describe(small.run())
    digests = run.trace["digests"].copy()
    digests[4] += 1
    found = compare(run, replace(run, trace={**run.trace, "digests": digests}))
    assert found.inputs == 1
    assert any("WARNING: the inputs of 1 of 20 samples differ" in str(line) for line in lines(found))


# ---------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs one command in a folder with runs `stopped`, `full` and `bare`: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    made = {"stopped": small.run(), "full": small.run(cutoff=Fixed()), "bare": small.run(record="outputs")}
    for name, run in made.items():
        runs.write(run, runs.open_folder(tmp_path / name, name), report.Facts())

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["eventsnn", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_the_command_prints_the_first_difference(command, tmp_path):
    """If this fails, the command line says less than the function."""
    found = compare(tmp_path / "stopped", tmp_path / "full")
    code, out, err = command("compare", "stopped", "full", "--figure", "both.png")
    assert (code, err) == (0, "")
    assert verdict(found) in " ".join(out.split())
    for words in ("A: stopped (sync, float32, cutoff spike-gap:2)", "accuracy", "mean stop", "SynOps delivered"):
        assert words in out
    assert f"{len(found.firsts)} of 20 samples differ" in out
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = command("compare", "stopped", "full", "--json")
    content = json.loads(out)
    assert code == 0
    assert content["command"] == "compare"
    assert content["first"]["population"] == found.first.population
    assert content["first"]["a"] is None
    assert content["a"]["cutoff"] == "spike-gap:2"
    assert [row["distance"] for row in content["populations"]] == [layer.distance for layer in found.layers]
    code, out, _ = command("compare", "full", "full", "--tick", "1ms", "--tau", "2ms", "--tolerance", "500us")
    assert code == 0
    assert "No spike differs in 20 samples." in out
    assert "tolerance of 500 µs. Distance: van Rossum's of tau 2 ms" in " ".join(out.split())


def test_the_command_refuses_in_one_sentence(command):
    """If this fails, a mistake ends in a traceback."""
    for arguments, words in (
        (("bare", "full"), "bare has no recorded spikes to compare; run it again with --record spikes"),
        (("full", "absent"), "absent is no run folder"),
        (("full", "full", "--tau", "soon"), "tau is 'soon'"),
        (("full", "full", "--tolerance", "1us"), "give --tick, as 1ms"),
    ):
        code, out, err = command("compare", *arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert words in err
