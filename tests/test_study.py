"""Calibration, sweeps and searches: the published procedures word for word, and a live run behind every point."""

import csv
import io
import json
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import small
import test_cli
from hypothesis import given
from hypothesis import strategies as st
from networks import cases
from test_engine import feed, run_engine, same_every_time

import eventsnn as es
from eventsnn import energy, plot, report, runs, store, study, watchdog
from eventsnn.network import Connection, Dense, Flatten, Network, Population
from eventsnn.neurons import IF, Input
from eventsnn.watchdog import Calibration, ConformalSet, Oracle, StopReason, Trace, parse_policy

command = test_cli.command


def trace_of(outputs, labels, readout="sum", synops=None):
    """A recorded full run from its outputs, (samples, ticks, classes)."""
    outputs = np.asarray(outputs, float)
    n, ticks, _ = outputs.shape
    return Trace(
        outputs=outputs,
        margins=np.zeros((n, ticks, 0)),
        synops=np.ones((n, ticks), np.int64) if synops is None else synops,
        stop_time=np.full(n, ticks),
        readout=readout,
        labels=np.asarray(labels),
    )


def trace_of_gaps(gaps, correct):
    """Two classes: the leading one is ahead by the gap, and is the label where correct. Both (ticks, samples)."""
    gaps, correct = np.asarray(gaps, float).T, np.asarray(correct, bool).T
    outputs = np.zeros((*gaps.shape, 2))
    outputs[..., 0] = np.where(correct, gaps, 0)
    outputs[..., 1] = np.where(correct, 0, gaps)
    return trace_of(outputs, np.zeros(len(gaps), np.int64))


@st.composite
def traces(draw, readout="sum"):
    """Random full runs, with ties and repeated gaps as likely as not."""
    n, ticks, classes = draw(st.integers(1, 12)), draw(st.integers(1, 5)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    steps = rng.integers(-1, 3, (n, ticks, classes)) * draw(st.sampled_from([1.0, 0.37]))
    if draw(st.booleans()):
        steps = steps + rng.normal(0, 0.5, steps.shape)
    labels = rng.integers(0, classes, n)
    steps[np.arange(n), :, labels] += draw(st.sampled_from([0.0, 0.5, 2.0]))
    return trace_of(steps.cumsum(1), labels, readout)


epsilons = st.sampled_from([0.0, 0.01, 0.1, 0.2, 0.25, 0.3, 0.5, 0.7, 0.9])


# ------------------------------------------------------------------------------------- the procedures, word for word


def literal_stable(trace):
    """A.2, steps 1 and 2: ok[t][n], and-ed with all later ticks."""
    n, ticks, _ = trace.outputs.shape
    ok = [[int(np.argmax(trace.outputs[i, t]) == trace.labels[i]) for i in range(n)] for t in range(ticks)]
    for t in range(ticks - 2, -1, -1):
        for i in range(n):
            ok[t][i] = ok[t][i] and ok[t + 1][i]
    return ok


def literal_gap(outputs):
    top = sorted(outputs.tolist(), reverse=True)
    return top[0] - top[1]


def literal_topk(trace, epsilon):
    """A.3, line by line."""
    n, ticks, _ = trace.outputs.shape
    gap = [[literal_gap(trace.outputs[i, t]) for i in range(n)] for t in range(ticks)]
    ok = literal_stable(trace)
    delta = max(max(row) for row in gap) / 100
    betas = []
    for t in range(ticks):
        for m in range(100):
            above = [i for i in range(n) if gap[t][i] > m * delta]
            confidence = sum(ok[t][i] for i in above) / len(above) if above else math.nan
            if m == 99:
                confidence = 1.0
            if confidence >= 1 - epsilon:
                betas.append(m * delta)
                break
    return betas


def literal_conformal(trace, alpha):
    """A.4, SpikeCP as the authors have it."""
    n, ticks, _ = trace.outputs.shape
    found = []
    for t in range(ticks):
        scores = []
        for i in range(n):
            e = [math.exp(v - max(trace.outputs[i, t])) for v in trace.outputs[i, t]]
            scores.append(-math.log(e[trace.labels[i]] / sum(e) + 1e-5))
        scores = sorted([*scores, math.inf])
        index = math.ceil((1 - Fraction(str(alpha))) * (n + 2)) - 1  # 1-based
        found.append(scores[max(index, 1) - 1])
    return found


@pytest.mark.parametrize(("epsilon", "beta"), [(0, [1.0, 1.0, 0]), (0.3, [1.0, 0, 0]), (0.5, [0, 0, 0])])
def test_the_published_calibration_of_its_worked_example(epsilon, beta):
    """If this fails, "paper" is not the authors' procedure: the example and its answers are those of A.3."""
    gaps = [[1, 2, 4, 0.5], [2, 3, 6, 1], [3, 5, 10, 1]]
    correct = [[0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert study.calibrate_topk(trace_of_gaps(gaps, correct), epsilon, "paper").tolist() == beta


@same_every_time(200)
@given(traces(), epsilons)
def test_the_published_calibration_is_its_literal_loop(trace, epsilon):
    """If this fails, the vectorised calibration is another procedure than the one it cites."""
    assert study.calibrate_topk(trace, epsilon, "paper").tolist() == literal_topk(trace, epsilon)


@same_every_time(200)
@given(traces(), epsilons)
def test_the_exact_calibration_is_the_smallest_beta_there_is(trace, epsilon):
    """If this fails, sorting found another beta than trying every one of them."""
    ok, found = literal_stable(trace), study.calibrate_topk(trace, epsilon)
    for t, beta in enumerate(found):
        gap = [literal_gap(o) for o in trace.outputs[:, t]]
        passing = []
        for candidate in {0.0, *gap}:
            above = [i for i in range(len(gap)) if gap[i] > candidate]
            right = sum(ok[t][i] for i in above)
            if above and right >= (1 - Fraction(str(epsilon))) * len(above):
                passing.append(candidate)
        assert beta == min(passing, default=math.inf)


@same_every_time(200)
@given(traces())
def test_the_optimal_cutoff_is_its_literal_loop(trace):
    """If this fails, OCT is not A.2; its accuracy is that of the full run by construction."""
    ok = literal_stable(trace)
    ok[-1] = [1] * len(ok[-1])
    wanted = [min(t + 1 for t in range(len(ok)) if ok[t][i]) for i in range(len(trace.labels))]
    assert study.optimal_cutoffs(trace).tolist() == wanted
    found = es.replay(trace, Oracle())
    at_end = trace.outputs[:, -1].argmax(1)
    assert np.mean(found.predictions == trace.labels) == np.mean(at_end == trace.labels)
    assert study.accuracy_by_tick(trace)[-1] == np.mean(at_end == trace.labels)


def test_the_optimal_cutoff_of_the_worked_example():
    """A.2: right, wrong, right, right has its cutoff in tick 3."""
    assert study.optimal_cutoffs(trace_of_gaps([[1], [1], [1], [1]], [[1], [0], [1], [1]])).tolist() == [3]


@same_every_time(200)
@given(traces(), epsilons)
def test_conformal_calibration_and_sets_are_the_literal_code(trace, epsilon):
    """If this fails, ConformalSet is not SpikeCP as the cutoff paper's authors run it."""
    found, wanted = study.calibrate_conformal(trace, epsilon), literal_conformal(trace, epsilon)
    assert found.tolist() == pytest.approx(wanted, rel=1e-12, abs=1e-15)
    scores = found.tolist()
    replayed = es.replay(trace, ConformalSet(tuple(scores)))
    for i, outputs in enumerate(trace.outputs):
        stop = len(outputs)
        for t, o in enumerate(outputs):
            e = [math.exp(v - o.max()) for v in o]
            numbers = [-math.log(x / sum(e) + 1e-5) for x in e]
            if any(abs(x - scores[t]) < 1e-12 for x in numbers):
                break  # equality to the last bit is for the compiled function alone to decide
            if sum(x < scores[t] for x in numbers) <= 1:
                stop = t + 1
                break
        else:
            t = -1
        if t < 0 or stop == t + 1:
            assert replayed.stop_time[i] == stop


@same_every_time(100)
@given(traces(), st.sampled_from([0.01, 0.1, 0.5, 0.9]))
def test_bonferroni_keeps_the_true_class_often_enough(trace, epsilon):
    """If this fails, the split-conformal index is off: enough calibration samples must lie within each threshold."""
    scores, ticks = study.nonconformity_of(trace), trace.outputs.shape[1]
    found, n = study.calibrate_conformal(trace, epsilon, bonferroni=True), len(scores)
    for t in range(ticks):
        inside = np.sum(scores[:, t] < found[t])
        if math.isinf(found[t]):  # n samples are too few to promise anything
            assert (1 - Fraction(str(epsilon)) / ticks) * (n + 1) > n
        else:
            assert inside >= (1 - Fraction(str(epsilon)) / ticks) * (n + 1) - 1e-6
            fewer = np.sum(scores[:, t] < np.nextafter(found[t], -np.inf))
            assert fewer < (1 - Fraction(str(epsilon)) / ticks) * (n + 1)


def test_a_perfect_and_a_hopeless_tick():
    """No gap to demand where all are right; no stop ever where no set of gaps is right often enough."""
    trace = trace_of_gaps([[1, 2, 3], [1, 2, 3]], [[0, 0, 0], [1, 1, 1]])
    assert study.calibrate_topk(trace, 0.1).tolist() == [math.inf, 0.0]
    assert study.calibrate_conformal(trace, 0.0).tolist() == [math.inf, math.inf]
    stop = es.replay(trace, es.TopKGap((math.inf, 0.0)))
    assert stop.stop_time.tolist() == [2, 2, 2]


def test_outputs_without_a_lead_never_stop():
    """A gap of 0 does not exceed a beta of 0, and calibrating on nothing but ties stops nowhere."""
    trace = trace_of(np.zeros((3, 2, 2)), [0, 0, 1])
    assert study.calibrate_topk(trace, 0.5).tolist() == [math.inf, math.inf]
    assert study.calibrate_topk(trace, 0.5, "paper").tolist() == [0.0, 0.0]  # 99 x 0, as the last bin always passes
    assert es.replay(trace, es.TopKGap(0.0)).stop_time.tolist() == [2, 2, 2]


# ----------------------------------------------------------------------------------------------------- live is replay


@st.composite
def new_policies(draw, readout, ticks, classes):
    """The policies that test_engine does not draw."""
    on = "logits" if readout == "sum" else "counts"
    by_tick = [draw(st.sampled_from([0.05, 0.4, 1.1, 3.0, 12.0, math.inf, -1.0])) for _ in range(ticks)]
    name = draw(st.sampled_from(["fixed", "conformal", "conformal by tick", "topk"]))
    if name == "fixed":
        return es.Fixed(draw(st.integers(1, ticks + 1)))
    if name == "topk":
        return es.TopKGap(tuple(by_tick), on)
    size, scale = draw(st.integers(1, classes - 1)), draw(st.sampled_from([1.0, 2.0]))
    return ConformalSet(tuple(by_tick) if "by" in name else by_tick[0], size, scale, on)


@same_every_time(80)
@given(cases(), st.data())
def test_every_policy_stops_live_where_the_replay_says(case, data):
    """If this fails, a point of a sweep is not the run it stands for: stops, answers and counts."""
    n, classes = len(case.samples), case.network[case.network.output].size
    labels = np.zeros(n, np.int64)
    layout = "chw" if case.network.encoding == "direct" else None
    full = es.simulate(
        case.network, feed(case), labels, ticks=case.ticks, dtype="float64", layout=layout, watchdog=es.Fixed()
    )
    policies = [data.draw(new_policies(case.network.readout, case.ticks, classes)) for _ in range(3)]
    spent = study.recorded(full).spent
    policies.append(es.Budget(max(1, int(spent[0, data.draw(st.integers(0, case.ticks - 1))]))))
    for run in study.rerun(full, policies, case.network, feed(case), layout=layout):
        assert len(run.predictions) == n


@same_every_time(60)
@given(cases(), st.data())
def test_counts_by_tick_add_up_to_the_account(case, data):
    """If this fails, a sweep prices something else than the account of the live run does."""
    policy = data.draw(st.sampled_from([es.Fixed(), es.Fixed(2), es.Budget(20)]))
    run = run_engine(case, watchdog=policy)
    counts = energy.counts_by_tick(run.ledger, case.network)
    counted = energy.sample_counts(run.ledger)
    assert counts.sum(1).tolist() == np.stack([counted[name] for name in energy.BY_TICK], 1).tolist()
    cut = run.stop_reason != 0
    assert not counts[cut, -1].any()


def beyond():
    """A network whose output drives another population, which goes on after the watchdog was asked."""
    return Network(
        populations=(
            Population("input", (1, 1, 2), Input()),
            Population("out", (2,), IF()),
            Population("late", (3,), IF()),
        ),
        connections=(
            Connection("input", "out", Dense(np.array([[1.0, 0.0], [0.5, 0.0]])), before=(Flatten(),)),
            Connection("out", "late", Dense(np.ones((3, 2)))),
        ),
        output="out",
        ticks=5,
    )


def test_a_budget_counts_what_was_spent_when_it_was_asked():
    """If this fails, a replayed budget counts SynOps behind the output that the live run had not spent yet."""
    image = np.ones((1, 1, 1, 2), np.float32)
    full = es.simulate(beyond(), image, np.zeros(1, np.int64), watchdog=es.Fixed())
    assert full.trace.synops.tolist() == [[3, 6, 3, 6, 3]]
    spent = study.recorded(full).spent
    assert spent.tolist() == [[0, 3, 9, 12, 18, 21]]
    policies = [es.Budget(b) for b in (1, 3, 4, 9, 10, 18, 19, 30)]
    stops = [int(run.stop_time[0]) for run in study.rerun(full, policies, beyond(), image)]
    assert stops == [2, 2, 3, 3, 4, 5, 5, 5]


@pytest.fixture(scope="module", params=["sum", "spikes"])
def full(request):
    """A recorded full run of the small network, with 40 samples."""
    return small.run(request.param, es.Fixed(), samples=40, record="outputs")


def test_a_row_of_a_sweep_is_its_replay_and_its_live_run(full):
    """If this fails, the curve is drawn through points that no run gives."""
    points = study.sweep(full, calibration=full, table="45nm-fp32", points=7)
    families = {p.family for p in points}
    only = {"topk"} if full.network.readout == "sum" else {"spike-gap", "first-spike"}
    assert families == {*study.FAMILIES} - {"topk", "spike-gap", "first-spike", "first-crossing"} | only
    x, labels = small.images(40)
    live = study.rerun(full, [p.policy for p in points if p.family != "oracle"], full.network, x)
    for point, run in zip((p for p in points if p.family != "oracle"), live, strict=True):
        replayed = es.replay(full.trace, point.policy)
        assert point.correct == np.sum(replayed.predictions == labels)
        assert point.ticks_run == replayed.stop_time.sum()
        assert point.synops == run.ledger.synops().sum()
        record = runs.describe(run)
        assert point.picojoule == energy.account(record.run, record.network, "45nm-fp32")["picojoule"]
        assert point.interval == tuple(record.run["accuracy_interval"])
        assert parse_policy(str(point.policy)) == point.policy
    end = next(p for p in points if p.family == "fixed" and p.threshold == full.ticks)
    assert end.synops == full.ledger.synops().sum()
    oracle = next(p for p in points if p.family == "oracle")
    assert oracle.correct == end.correct
    assert oracle.mean_stop == study.optimal_cutoffs(full.trace).mean()


def test_a_sweep_reads_a_folder_as_it_reads_a_run(full, tmp_path):
    """If this fails, the command line and Python give different curves."""
    es.save_run(full, tmp_path / "run")
    here = study.sweep(full, calibration=full, table="45nm-fp32", points=5)
    assert study.sweep(tmp_path / "run", calibration=tmp_path / "run", table="45nm-fp32", points=5) == here
    bare = study.sweep(runs.describe(full), points=5)
    assert bare == [p for p in study.sweep(full, points=5)]


def test_static_power_is_priced_by_the_time_that_was_run():
    """If this fails, a sweep forgets what a chip draws while it waits."""
    network = replace(small.network("sum"), tick_seconds=1e-3)
    x, y = small.images(5)
    full = es.simulate(network, x, y, watchdog=es.Fixed())
    name = next(t.name for t in energy.all_tables() if isinstance(t, energy.Table) and t.static is not None)
    point = next(p for p in study.sweep(full, table=name) if p.threshold == 3 and p.family == "fixed")
    record = runs.describe(es.simulate(network, x, y, watchdog=es.Fixed(3)))
    assert point.picojoule == energy.account(record.run, record.network, name)["picojoule"]


@same_every_time(40)
@given(traces(), traces(), st.sampled_from([0.0, 10.0, 50.0]))
def test_the_cheapest_is_no_dearer_than_any_that_is_good_enough(calibration, other, lose):
    """If this fails, the search overlooked a point of its own sweep."""
    base = recorded_of(calibration)
    held_out = recorded_of(trace_like(other, calibration))
    for cost in ("ticks", "synops"):
        search = study.cheapest(base, held_out, lose=lose, cost=cost)
        tried = study.sweep(base, calibration=base, points=200)
        end = np.mean(base.trace.outputs[:, -1].argmax(1) == base.trace.labels)
        good = [p.cost(cost) for p in tried if p.family != "oracle" and p.accuracy >= end - lose / 100 - 1e-9]
        assert search.best.calibration.cost(cost) == min(good)
        assert search.best.held_out == study.evaluate(
            held_out, search.best.calibration.policy, search.best.calibration.family, search.best.calibration.threshold
        )
        assert [c.calibration.cost(cost) for c in search.families] == sorted(
            c.calibration.cost(cost) for c in search.families
        )
        assert "oracle" not in {c.calibration.family for c in search.families}


def recorded_of(trace):
    return study.Recorded(trace, None, 0, None, None, "float64", 0, 0, None, "a trace")


def trace_like(trace, other):
    """The trace with as many ticks and classes as the other, filled from it."""
    outputs = np.resize(trace.outputs, (len(trace.outputs), *other.outputs.shape[1:]))
    return trace_of(outputs, trace.labels % outputs.shape[2])


# ------------------------------------------------------------------------------------------------------- texts, files


@same_every_time(150)
@given(st.lists(st.floats(allow_nan=False, width=64), min_size=1, max_size=5), st.integers(1, 9), st.floats(1e-9, 1e9))
def test_texts_give_every_number_back(numbers, whole, scale):
    """If this fails, a run folder names a cutoff that stops elsewhere than the one that ran."""
    p, budget = abs(math.remainder(scale, 1.0)) or 1.0, abs(scale)
    for policy in (
        es.TopKGap(tuple(numbers)),
        es.TopKGap(numbers[0], "counts"),
        ConformalSet(tuple(numbers), whole, scale, "counts"),
        ConformalSet(numbers[0]),
        es.Confidence(p, scale),
        es.Entropy(p, scale, "counts"),
        es.Budget(budget),
        es.Fixed(whole),
        es.Fixed(),
        es.SpikeGap(whole),
        Oracle(),
    ):
        assert parse_policy(str(policy)) == policy


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("conformal:nan", "scores is nan"),
        ("conformal:1,size=0", "whole number of classes"),
        ("conformal:1,size=1.5", "whole number of classes"),
        ("conformal:1,scale=-1", "scale is -1"),
        ("conformal:1,beta=2", "is not an option"),
        ("conformal:", "needs a value"),
        ("oracle:1", "takes no value"),
        ("fixed:0", "whole number of ticks"),
        ("fixed:inf", "whole number of ticks"),
        ("fixed:2,scale=1", "does not take these options"),
        ("topk:none.json", "none.json cannot be read"),
        ("spike-gap:1.5", "spike-gap is 1.5, wanted a whole number of spikes"),
    ],
)
def test_a_text_that_is_no_policy_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse_policy(text)


@pytest.mark.parametrize("kind", ["topk", "conformal"])
def test_a_policy_file_gives_back_what_was_calibrated(full, kind, tmp_path):
    """If this fails, a calibrated run is another than the one that was studied."""
    made = study.calibrate(full, kind, 0.1)
    study.save_policy(made, tmp_path / "policy.json")
    assert [p.name for p in tmp_path.iterdir()] == ["policy.json"]
    found = parse_policy(f"{kind}:{tmp_path / 'policy.json'}")
    assert found == made
    assert str(found) == str(made)
    known, wanted = found.calibrated, made.calibrated
    assert known.file == "policy.json"
    for name in ("method", "epsilon", "network", "readout", "ticks", "layer_delay"):
        assert getattr(known, name) == getattr(wanted, name)
    assert known.digests.tolist() == full.digests.tolist()
    other = "conformal" if kind == "topk" else "topk"
    with pytest.raises(ValueError, match=f"holds a {kind} policy; write {kind}:"):
        parse_policy(f"{other}:{tmp_path / 'policy.json'}")
    with pytest.raises(ValueError, match="names a file"):
        parse_policy(f"{kind}:{tmp_path / 'policy.json'}", files=False)


def test_a_run_says_how_many_of_its_samples_were_calibrated_on(full):
    """If this fails, accuracy on the calibration samples passes for accuracy on others."""
    policy = study.calibrate(full, "topk", 0.1)
    x, y = small.images(40)
    rng = np.random.default_rng(5)
    mixed = np.concatenate([x[3:7], rng.random((6, 1, 5, 6))])
    run = es.simulate(full.network, mixed, np.zeros(10, np.int64), watchdog=policy)
    assert run.calibration == {"file": "a calibration", "samples": 40, "overlap": 4}
    said = report.summary(run, report.Facts())
    assert said["calibration"]["overlap"] == 4
    assert any(line.startswith("WARNING") and "4 of these 10" in line for line in report.closing_lines(said))
    assert es.simulate(full.network, x[:2], y[:2], watchdog=es.TopKGap(policy.beta, policy.on)).calibration is None
    with pytest.raises(ValueError, match="but this one is"):
        es.simulate(replace(full.network, labels=("a", "b", "c")), x, y, watchdog=policy)
    with pytest.raises(ValueError, match="calibrated over 12 ticks; a run of 13 needs more"):
        es.simulate(full.network, x, y, watchdog=policy, ticks=13)
    with pytest.raises(ValueError, match="layer delay of 0, but this run has 1"):
        es.simulate(full.network, x, y, watchdog=policy, layer_delay=1)
    assert es.simulate(full.network, x[:2], y[:2], watchdog=policy, ticks=4).ticks == 4


def test_bytes_and_fractions_of_one_picture_have_one_digest():
    """If this fails, the same picture in a file of floats is not known again."""
    network = small.network()
    pixels = np.random.default_rng(3).integers(0, 256, (4, 1, 5, 6), np.uint8)
    labels = np.zeros(4, np.int64)
    one = es.simulate(network, pixels, labels).digests
    assert np.array_equal(es.simulate(network, pixels / np.float32(255), labels, dtype="float64").digests, one)
    assert np.array_equal(es.simulate(network, (pixels / 255.0)[::-1], labels).digests[::-1], one)
    assert len({bytes(row) for row in one}) == 4


def test_another_readout_than_calibrated_is_refused():
    known = Calibration("p.json", "exact", 0.1, "abc", "sum", 4, 0, np.zeros((0, 6), np.uint8))
    with pytest.raises(ValueError, match="readout 'sum', but this one is 'spikes'"):
        known.check("abc", "spikes", 4)
    assert known.overlap(np.zeros((3, 6), np.uint8)) == 0


def spoilt(**changes):
    def change(content):
        content.update(changes)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("policy"), "policy is missing"),
        (spoilt(schema=2), "schema is 2, wanted 1"),
        (spoilt(ticks=11), "12 thresholds for 11 ticks"),
        (spoilt(epsilon="small"), "epsilon is 'small', wanted a number"),
        (lambda c: c["policy"].update(kind="fixed"), "kind is 'fixed'"),
        (lambda c: c["policy"].update(thresholds=["much"]), "a threshold is 'much'"),
        (lambda c: c["policy"].update(thresholds=[]), "beta is"),
        (lambda c: c["calibration"].update(samples=3), "damaged"),
        (lambda c: c["calibration"].update(digests="?"), "not base64"),
        (lambda c: c["calibration"].update(sha256="0"), "damaged"),
        (lambda c: c["policy"].update(on="both"), "on is 'both'"),
    ],
)
def test_a_damaged_policy_file_is_refused(full, tmp_path, change, words):
    path = tmp_path / "policy.json"
    study.save_policy(study.calibrate(full, "topk", 0.1), path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words) as refusal:
        watchdog.read_policy(path)
    assert str(refusal.value).startswith(f"policy file {path}")
    for text in ("", "[]", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(ValueError, match="policy file"):
            watchdog.read_policy(path)


# ------------------------------------------------------------------------------------------------- what is refused


def test_the_oracle_is_for_replays(full):
    """If this fails, a run could stop by knowing the answer."""
    x, y = small.images(3)
    with pytest.raises(ValueError, match="knows the labels"):
        es.simulate(full.network, x, y, watchdog=Oracle())
    found = es.replay(full.trace, Oracle())
    assert {*found.stop_reason} <= {int(StopReason.ORACLE), int(StopReason.HORIZON)}
    with pytest.raises(ValueError, match="needs labels"):
        es.replay(replace(full.trace, labels=None), Oracle())


def test_a_study_refuses_what_it_cannot_study(full):
    """One sentence each: stopped runs, no labels, numbers that are none, wrong settings."""
    x, y = small.images(4)
    cut = es.simulate(full.network, x, y, watchdog=es.Fixed(2))
    bare = es.simulate(full.network, x, None, watchdog=es.Fixed())
    odd = full.trace.outputs.copy()
    odd[1, 2, 0] = np.nan
    spoiled = replace(full, trace=replace(full.trace, outputs=odd))
    quick = es.simulate(full.network, x, y, watchdog=es.Fixed(), count="spikes")
    conformal = ConformalSet(1.0, 3, on="logits" if full.network.readout == "sum" else "counts")
    for ask, words in (
        (lambda: study.sweep(cut), "stopped after 2 of 12 ticks"),
        (lambda: study.sweep(bare), "no labels"),
        (lambda: study.sweep(spoiled), "output 0 of sample 1 in tick 2 is nan"),
        (lambda: study.cheapest(quick, quick, lose=1), "counted no SynOps; run it with"),
        (lambda: study.sweep(full, table="lemaire2022"), "a model of whole runs"),
        (lambda: study.sweep(full, families=["best"]), "no family 'best'"),
        (lambda: study.sweep(full, points=1), "points is 1"),
        (lambda: study.calibrate(full, epsilon=1.0), "epsilon is 1.0"),
        (lambda: study.calibrate(full, epsilon=math.nan), "epsilon is nan"),
        (lambda: study.calibrate(full, method="best"), "method is 'best'"),
        (lambda: study.calibrate(full, "fixed"), "policy is 'fixed'"),
        (lambda: study.save_policy(es.TopKGap(1.0), "x.json"), "was not calibrated"),
        (lambda: study.cheapest(full, full), "not both and not neither"),
        (lambda: study.cheapest(full, full, accuracy=0.5, lose=1), "not both and not neither"),
        (lambda: study.cheapest(full, full, accuracy=2.0), "accuracy is 2.0"),
        (lambda: study.cheapest(full, full, accuracy=1.0), "no cutoff reaches an accuracy of 1"),
        (lambda: study.cheapest(full, full, lose=1, cost="joules"), "cost is 'joules'"),
        (lambda: study.cheapest(full, full, lose=1, cost="picojoule"), "cost is 'picojoule'"),
        (lambda: es.replay(full.trace, conformal), "always holds: there are 3 classes"),
        (lambda: study.rerun(full, [es.Fixed()], full.network, x[::-1]), "not the first samples"),
    ):
        with pytest.raises(ValueError, match=words):
            ask()


def test_a_conformal_set_of_numbers_that_are_none_does_not_stop():
    """If this fails, outputs of NaN leave the set empty, and an empty set stops."""
    trace = trace_of(np.array([[[np.nan, np.nan], [0.0, 9.0]]]), [1])
    assert es.replay(trace, ConformalSet(1.0)).stop_time.tolist() == [2]


def test_two_classes_are_enough(full):
    """K = 2: a sweep, a calibration and a search run through."""
    trace = trace_of_gaps([[1, 2, 3, 1], [1, 2, 3, 2]], [[0, 1, 1, 1], [1, 1, 1, 1]])
    points = study.sweep(recorded_of(trace), calibration=recorded_of(trace))
    assert {p.family for p in points} == {*study.FAMILIES} - {"spike-gap", "first-spike", "first-crossing"}
    assert study.cheapest(recorded_of(trace), recorded_of(trace), lose=0, cost="ticks").best.held_out.correct == 4


def test_the_figure_draws_every_family_and_names_it(full):
    """If this fails, a curve is missing, or stands where its points do not."""
    points = study.sweep(full, calibration=full, points=9)
    chosen = next(p for p in points if p.family == "confidence")
    figure = plot.tradeoff(points, "ticks", record=runs.describe(full), chosen=chosen)
    words = " ".join(t.get_text() for t in figure.texts)
    wide, near = figure.axes
    for family in {p.family for p in points} - {"oracle"}:
        colour, name = plot._LINES[family]
        assert f"■ {name}" in words
        own = sorted((p.mean_stop, 100 * p.accuracy) for p in points if p.family == family)
        for axes in (wide, near):
            drawn = [sorted(zip(*line.get_data(), strict=True)) for line in axes.lines if line.get_color() == colour]
            assert any(len(d) == len(own) and np.allclose(d, own) for d in drawn)
    oracle = next(p for p in points if p.family == "oracle")
    assert f"{oracle.mean_stop:.2f} ticks" in words
    assert f"{chosen.accuracy:.2%}" in words
    for ask, why in (
        (lambda: plot.tradeoff([]), "no points"),
        (lambda: plot.tradeoff(points, "volts"), "axis is 'volts'"),
        (lambda: plot.tradeoff(points, "picojoule"), "need an energy table"),
    ):
        with pytest.raises(ValueError, match=why):
            ask()
    one = [p for p in points if p.family == "fixed"][:1]
    plot.tradeoff(one, "synops").savefig(io.BytesIO())


# ------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def folders(tmp_path, command):
    """Two recorded full runs of one network, "a" with 30 samples and "b" with 24, of which 6 are in both."""
    store.save(small.network("sum"), tmp_path / "net.h5")
    x, y = small.images(48)
    np.savez(tmp_path / "a.npz", images=x[:30], labels=y[:30])
    np.savez(tmp_path / "b.npz", images=x[24:], labels=y[24:])
    for name in "ab":
        code, _, err = command("simulate", "--weights", "net.h5", "--input", f"{name}.npz", "--out", name)
        assert code == 0, err
    return tmp_path


def test_calibrate_gives_one_policy_from_samples_and_from_their_run(folders, command):
    """If this fails, calibrating on a file and on its recorded run differ."""
    code, out, err = command("calibrate", "--weights", "net.h5", "--input", "a.npz", "--epsilon", 0.2, "-o", "one.json")
    assert (code, err) == (0, "")
    assert "one.json" in out
    code, out, err = command("calibrate", "--run", "a", "--epsilon", 0.2, "-o", "two.json", "--json")
    assert code == 0, err
    assert json.loads(out)["calibration"]["samples"] == 30
    one, two = (json.loads((folders / n).read_text()) for n in ("one.json", "two.json"))
    assert one == two
    assert one["network"]["sha256"] == json.loads((folders / "a" / "run.json").read_text())["network"]["sha256"]
    code, out, err = command("simulate", "--weights", "net.h5", "--input", "b.npz", "--cutoff", "topk:one.json")
    assert code == 0, err
    assert "6 of these 24 are among them" in " ".join(out.split())
    code, out, err = command(
        "simulate", "--weights", "net.h5", "--input", "b.npz", "--cutoff", "topk:one.json", "--json", "--out", "cut"
    )
    assert json.loads(out)["calibration"] == {"file": "one.json", "samples": 30, "overlap": 6}
    live = json.loads((folders / "cut" / "run.json").read_text())
    assert live["calibration"]["overlap"] == 6
    code, out, err = command("sweep", "b", "--calibration", "one.json", "--json", "-o", "here")
    row = next(r for r in json.loads(out)["points"] if r["family"] == "topk-calibrated")
    assert (row["correct"] / 24, row["mean_stop"], row["synops"]) == (
        live["accuracy"],
        live["mean_stop"],
        live["synops"]["delivered"],
    )


def test_a_conformal_cutoff_goes_through_its_file(folders, command):
    """If this fails, SpikeCP calibrated on the command line does not run."""
    given = ("--policy", "conformal", "--bonferroni", "--epsilon", 0.5, "--scale", 2, "--size", 2)
    code, _, err = command("calibrate", "--run", "a", *given, "-o", "c.json")
    assert code == 0, err
    content = json.loads((folders / "c.json").read_text())
    assert content["method"] == "bonferroni"
    assert (content["policy"]["size"], content["policy"]["scale"]) == (2, 2.0)
    run = ("simulate", "--weights", "net.h5", "--input", "b.npz", "--json", "--cutoff")
    code, out, err = command(*run, "conformal:c.json")
    assert code == 0, err
    found = json.loads(out)
    again = json.loads(command(*run, found["cutoff"])[1])  # the text alone stops alike
    assert again["stop_reasons"] == found["stop_reasons"]
    assert again["synops"] == found["synops"]
    assert "calibration" not in again


def test_sweep_writes_its_curve_and_finds_the_cheapest(folders, command):
    """Files, tables and JSON of one sweep agree; a search chooses on one run and reports on the other."""
    arguments = ("sweep", "b", "--calibration", "a", "--energy", "45nm-fp32", "--axis", "picojoule", "--lose", 5)
    code, out, err = command(*arguments, "-o", "out")
    assert code == 0, err
    assert {"sweep.csv", "sweep.png"} == {p.name for p in (folders / "out").iterdir()}
    words = " ".join(out.split())
    assert "6 of these 24" in words
    rows = list(csv.DictReader(io.StringIO((folders / "out" / "sweep.csv").read_text())))
    code, out, err = command(*arguments, "--json", "--live", 9, "--weights", "net.h5", "--input", "b.npz")
    assert code == 0, err
    found = json.loads(out)
    assert (folders / "b" / "sweep.png").is_file()
    assert [r["policy"] for r in found["points"]] == [r["policy"] for r in rows]
    assert [r["synops"] for r in found["points"]] == [int(r["synops"]) for r in rows]
    best = found["cheapest"]["best"]
    assert found["calibration"] == {"file": "a", "samples": 30, "overlap": 6}
    assert best["calibration"]["policy"] == best["held_out"]["policy"]
    assert best["calibration"]["accuracy"] >= found["cheapest"]["wanted"]
    assert found["live"]["samples"] == 9
    assert found["live"]["agree"] is True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("calibrate", "-o", "p.json"), "give samples"),
        (("calibrate", "--run", "a", "--input", "a.npz"), "not both"),
        (("calibrate", "--weights", "net.h5"), "give samples"),
        (("calibrate", "--run", "a", "--epsilon", "1.5"), "epsilon is 1.5"),
        (("calibrate", "--run", "a", "--policy", "oracle"), "policy is 'oracle'"),
        (("calibrate", "--run", "a", "--method", "best"), "method is 'best'"),
        (("calibrate", "--run", "a", "--policy", "conformal", "--method", "exact"), "--method is of topk"),
        (("calibrate", "--run", "a", "--bonferroni"), "--bonferroni is of conformal"),
        (("calibrate", "--run", "nowhere"), "no run folder"),
        (("calibrate", "--run", "a", "-o", "."), "folder"),
        (("calibrate", "--run", "a", "-o", "policy.txt"), ".json"),
        (("calibrate", "--run", "a", "-o", "no/policy.json"), "no folder no"),
        (("sweep", "nowhere"), "no run folder"),
        (("sweep", "a", "--energy", "nothing"), "no energy table 'nothing'"),
        (("sweep", "a", "--axis", "picojoule"), "--energy"),
        (("sweep", "a", "--axis", "volts"), "axis is 'volts'"),
        (("sweep", "a", "--lose", "1"), "--calibration"),
        (("sweep", "a", "--calibration", "b", "--lose", "1", "--accuracy", "0.5"), "not both"),
        (("sweep", "a", "--live", "3"), "--weights and --input"),
        (("simulate", "--weights", "net.h5", "--input", "a.npz", "--cutoff", "oracle"), "knows the labels"),
        (("simulate", "--weights", "net.h5", "--input", "a.npz", "--cutoff", "topk:no.json"), "no.json cannot be read"),
        (("plot", "tradeoff", "nowhere"), "no run folder"),
    ],
)
def test_a_command_that_cannot_be_done_says_why_in_one_sentence(folders, command, arguments, words):
    test_cli.refused(command(*arguments), words)


def test_a_policy_for_another_network_is_refused(folders, command):
    """Exit code 2 and one sentence: another network, another readout, more ticks."""
    assert command("calibrate", "--run", "a", "-o", "p.json")[0] == 0
    store.save(small.network("spikes"), folders / "other.h5")
    run = ("simulate", "--input", "b.npz", "--cutoff", "topk:p.json", "--weights")
    test_cli.refused(command(*run, "other.h5"), "cutoff")
    store.save(replace(small.network("sum"), labels=("x", "y", "z")), folders / "third.h5")
    test_cli.refused(command(*run, "third.h5"), "p.json was calibrated for the network")
    test_cli.refused(command(*run, "net.h5", "--ticks", 13), "a run of 13 needs more")
    assert not (folders / "runs").exists()
