"""Traces of any model: made from arrays, kept in files, asked by every study, and several of them in one figure."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import small
import test_cli
from hypothesis import given
from hypothesis import strategies as st
from test_engine import same_every_time
from test_first_crossing import first_crossing

import eventsnn as es
from eventsnn import cli, plot, report, runs, store, study
from eventsnn.watchdog import parse_policy

command = test_cli.command
FIELDS = ("outputs", "labels", "margins", "synops", "stop_time", "asked")


def model(seed=0, samples=40, ticks=9, classes=3, scale=1.0, dtype=float):
    """Outputs of a model that gets surer with time, and the labels, which are those of every seed."""
    labels = np.random.default_rng(7).integers(0, classes, samples)
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 1, (samples, ticks, classes))
    steps[np.arange(samples), :, labels] += 0.6
    return (scale * steps.cumsum(1)).astype(dtype), labels


def same(one, two):
    """Whether two traces are equal, array by array and dtype by dtype."""
    for name in FIELDS:
        a, b = getattr(one, name), getattr(two, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    assert one.readout == two.readout


# ------------------------------------------------------------------------------------------------------ from arrays


@same_every_time(150)
@given(st.integers(0, 2**20), st.integers(1, 9), st.integers(1, 6), st.integers(1, 4), st.sampled_from([0.0, 1.0, 1.3]))
def test_a_trace_from_arrays_is_replayed_as_a_plain_loop_does(seed, samples, ticks, classes, threshold):
    """If this fails, a foreign model is stopped elsewhere than its outputs and the rule say."""
    outputs = np.random.default_rng(seed).integers(-2, 5, (samples, ticks, classes)) * 0.5
    crossed = es.replay(es.Trace(outputs, readout="potential"), es.FirstCrossing(threshold))
    for n, rows in enumerate(outputs):
        tick, leader, _ = first_crossing(rows, threshold)
        assert (crossed.stop_time[n], crossed.predictions[n]) == (tick + 1, leader)
    if classes < 2:
        return
    apart = es.replay(es.Trace(outputs.tolist()), es.TopKGap(threshold))
    for n, rows in enumerate(outputs.tolist()):
        tops = [sorted(row)[::-1] for row in rows]
        tick = next((t for t, top in enumerate(tops) if top[0] - top[1] > threshold), ticks - 1)
        assert (apart.stop_time[n], apart.predictions[n]) == (tick + 1, rows[tick].index(tops[tick][0]))


def test_a_trace_of_outputs_alone_says_no_more_than_they_do():
    outputs, labels = model(dtype=np.float32)
    trace = es.Trace(outputs, labels)
    assert trace.outputs is outputs  # a run of float32 is replayed in float32, and no array is copied
    assert es.Trace(outputs.astype(np.float16)).outputs.dtype == np.float64
    assert es.Trace(np.ones((2, 3, 4), int)).outputs.dtype == np.float64
    assert (trace.margins.shape, trace.synops.shape) == ((40, 9, 0), (40, 0))
    assert trace.stop_time.tolist() == [9] * 40
    assert (trace.readout, trace.asked, trace.answers) == ("sum", None, None)
    with pytest.raises(ValueError, match="no SynOps by tick"):
        es.replay(trace, es.Budget(5))


def test_two_mirrored_logits_are_one_probability():
    """A binary model: p above 0.95 or below 0.05 is a crossing of the logit of 0.95, of one class or the other."""
    p = np.random.default_rng(1).uniform(0.01, 0.99, (50, 12))
    z = np.log(p / (1 - p))
    found = es.replay(es.Trace(np.stack([-z, z], axis=2), readout="potential"), es.FirstCrossing(math.log(0.95 / 0.05)))
    for n, row in enumerate(p):
        sure = [t for t, x in enumerate(row) if x >= 0.95 or x <= 0.05]
        tick = sure[0] if sure else 11
        assert (found.stop_time[n], found.predictions[n]) == (tick + 1, int(row[tick] > 0.5))


def test_a_trace_that_does_not_fit_itself_says_why():
    x, y = np.zeros((4, 3, 2)), [0, 1, 0, 1]
    for make, words in (
        (lambda: es.Trace(np.zeros((4, 3)), y), r"outputs have shape \(4, 3\), wanted \(samples, ticks, classes\)"),
        (lambda: es.Trace(np.zeros((4, 0, 2)), y), r"outputs have shape \(4, 0, 2\), wanted"),
        (lambda: es.Trace([[[1, 2], [3]]], y), "outputs cannot be read as an array"),
        (lambda: es.Trace(np.full((4, 3, 2), "a"), y), "outputs have dtype <U1, wanted numbers"),
        (lambda: es.Trace(x.astype(complex), y), "outputs have dtype complex128, wanted numbers"),
        (lambda: es.Trace(x, y[:3]), r"labels have shape \(3,\), wanted \(4,\)"),
        (lambda: es.Trace(x, np.eye(4)), "labels have dtype float64, wanted whole numbers"),
        (lambda: es.Trace(x, [0, 1, 2, 1]), "labels run from 0 to 2, but the outputs have 2 classes"),
        (lambda: es.Trace(x, [0, -1, 0, 1]), "labels run from -1 to 1"),
        (lambda: es.Trace(x, y, readout="logits"), "readout is 'logits', wanted sum, potential or spikes"),
        (lambda: es.Trace(x, y, stop_time=[1, 2, 3, 4]), "stop_time runs from 1 to 4, wanted ticks from 1 to 3"),
        (lambda: es.Trace(x, y, stop_time=[0, 2, 3, 3]), "stop_time runs from 0 to 3"),
        (lambda: es.Trace(x, y, stop_time=[1.5, 2, 3, 3]), "stop_time has dtype float64"),
        (lambda: es.Trace(x, y, margins=np.zeros((4, 3, 1))), r"margins have shape \(4, 3, 1\), wanted"),
        (lambda: es.Trace(x, y, synops=np.zeros((4, 2), int)), r"synops have shape \(4, 2\), wanted \(4, 3\) or"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


# -------------------------------------------------------------------------------------------------------- from files


@pytest.mark.parametrize("readout", ["sum", "potential", "spikes"])
def test_a_trace_comes_back_from_its_file(tmp_path, readout):
    """What a file holds is the trace; written again, it is the same file."""
    outputs, labels = model(samples=200)
    counted = np.random.default_rng(2).integers(0, 99, outputs.shape[:2])
    for trace in (
        es.Trace(outputs, labels, readout=readout),
        es.Trace(outputs.astype(np.float32)),
        es.Trace(outputs[:0], labels[:0]),
        es.Trace(outputs, labels, outputs - 1, counted, np.full(200, 4), readout, asked=counted // 2),
    ):
        es.save_trace(trace, tmp_path / "a.h5")
        same(es.read_trace(tmp_path / "a.h5"), trace)
        es.save_trace(es.read_trace(str(tmp_path / "a.h5")), tmp_path / "b.h5")
        assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"a.h5", "b.h5"}


def test_a_file_by_hand_needs_outputs_and_labels_alone(tmp_path):
    """If this fails, a few lines of h5py in another framework are not enough."""
    outputs, labels = model(dtype=np.float32)
    path = tmp_path / "lstm.h5"
    with h5py.File(path, "w") as file:
        file["outputs"], file["labels"] = outputs, labels.astype(np.uint8)
    same(es.read_trace(path), es.Trace(outputs, labels))
    with h5py.File(path, "a") as file:
        file.attrs["readout"] = "potential"
    assert es.read_trace(path).readout == "potential"
    with h5py.File(path, "a") as file:
        file["readout"] = "spikes"
    assert es.read_trace(path).readout == "spikes"


def test_a_file_that_is_no_trace_says_why(tmp_path):
    outputs, labels = model()
    store.save(small.network(), tmp_path / "net.h5")
    (tmp_path / "text.h5").write_text("outputs")
    es.save_trace(es.Trace(outputs, labels), tmp_path / "whole.h5")
    (tmp_path / "half.h5").write_bytes((tmp_path / "whole.h5").read_bytes()[:3000])
    for name, arrays in {"flat": {"outputs": outputs[0]}, "label": {"outputs": outputs, "labels": labels + 1}}.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for key, array in arrays.items():
                file[key] = array
    with h5py.File(tmp_path / "readout.h5", "w") as file:
        file["outputs"], file["readout"] = outputs, np.zeros(3)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["outputs"] = h5py.ExternalLink(str(tmp_path / "whole.h5"), "outputs")
    for name, words in (
        ("none.h5", "no such file"),
        (".", "is a folder"),
        ("net.h5", "has no dataset 'outputs'"),
        ("text.h5", "of another kind"),
        ("half.h5", "truncated"),
        ("flat.h5", "outputs have shape"),
        ("label.h5", "labels run from 1 to 3"),
        ("readout.h5", "readout is"),
        ("link.h5", "links are not followed"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            es.read_trace(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
    with pytest.raises(ValueError, match="no folder"):
        es.save_trace(es.Trace(outputs), tmp_path / "no" / "trace.h5")


def test_the_trace_of_a_run_folder_is_read_with_its_folder(tmp_path):
    """Its readout stands beside it, so a file without one would be misread; moved elsewhere, it is a trace."""
    x, y = small.images(5)
    run = es.simulate(small.network("sum"), x, y, watchdog=es.Fixed())
    es.save_run(run, tmp_path / "run")
    inside = tmp_path / "run" / "trace.h5"
    for ask in (es.read_trace, study.recorded, lambda path: es.save_trace(run.trace, path)):
        with pytest.raises(ValueError, match="give the folder"):
            ask(inside)
    moved = inside.rename(tmp_path / "alone.h5")
    found = es.read_trace(moved)
    assert found.readout == run.trace.readout
    for name in ("outputs", "labels", "synops", "stop_time"):
        np.testing.assert_array_equal(getattr(found, name), getattr(run.trace, name))


# ---------------------------------------------------------------------------------------------------------- studies


def test_sources_are_named_by_what_tells_them_apart():
    """As short as it can be, as long as it must be, and never longer than it was given."""
    for paths, wanted in (
        (("a", "b"), ("a", "b")),
        (("runs/x", "runs/y.h5"), ("x", "y.h5")),
        (("x/trace.h5", "/home/y/trace.h5"), ("x/trace.h5", "y/trace.h5")),
        (("t.h5", "x/t.h5", "y/x/t.h5"), ("t.h5", "x/t.h5", "y/x/t.h5")),
        (("p/x/t.h5", "q/x/t.h5", "r/s"), ("p/x/t.h5", "q/x/t.h5", "s")),
    ):
        assert cli._names([Path(path) for path in paths]) == list(wanted)
    assert cli._names([Path("."), Path("other")]) == [Path().resolve().name, "other"]


def test_a_trace_is_studied_as_its_run_is(tmp_path):
    """If this fails, the outputs of a run, handed over alone, give other curves than the run does."""
    x, y = small.images(40)
    for readout in ("sum", "spikes"):
        run = es.simulate(small.network(readout), x, y, watchdog=es.Fixed())
        es.save_trace(run.trace, tmp_path / "run.h5")
        wanted = study.sweep(run, calibration=run, points=9)
        for source in (run.trace, tmp_path / "run.h5", str(tmp_path / "run.h5")):
            assert study.sweep(source, calibration=source, points=9) == wanted
        bare = replace(run.trace, synops=None, asked=None)
        found = study.sweep(bare, calibration=run.trace, points=9)
        assert found == [replace(p, synops=None) for p in wanted if p.family != "budget"]
        assert all(p.row()["synops"] is None and p.row()["mean_synops"] is None for p in found)
        plot.tradeoff(found, "ticks").savefig(io.BytesIO())
        best = study.cheapest(run.trace, bare, lose=1, cost="ticks", points=9)
        assert best.best.held_out.ticks_run <= best.full.held_out.ticks_run
        assert np.array_equal(study.optimal_cutoffs(bare), study.optimal_cutoffs(run.trace))


def test_what_a_trace_does_not_say_is_not_guessed(tmp_path):
    """One sentence each: costs that were not counted, a live run, continuous time, what a run's trace lacks."""
    outputs, labels = model()
    trace = es.Trace(outputs, labels)
    points = study.sweep(trace)
    assert {p.family for p in points} == {
        *("fixed", "topk", "confidence", "entropy", "conformal", "oracle"),
    }
    stopped = replace(trace, stop_time=np.full(40, 3))
    for ask, words in (
        (lambda: plot.tradeoff(points, "synops"), "SynOps were not counted"),
        (lambda: study.sweep(trace, table="45nm-fp32"), "no operations by tick"),
        (lambda: study.cheapest(trace, trace, lose=1), "counted no SynOps"),
        (lambda: study.recorded(trace).check_cost("synops"), "this trace counted no SynOps; choose the axis ticks"),
        (lambda: study.rerun(trace, [es.Fixed()], small.network(), small.images(3)[0]), "does not say what was run"),
        (lambda: study.sweep(es.Trace(outputs)), "this trace has no labels"),
        (lambda: study.sweep(es.Trace(outputs[:, :, :1])), "no labels"),
        (lambda: study.sweep(es.Trace(outputs[:, :, :1], labels * 0)), "a single output"),
        (lambda: study.sweep(stopped), "stopped after 3 of 9 ticks"),
        (lambda: study.sweep(replace(trace, outputs=np.full_like(outputs, np.nan))), "is nan"),
        (lambda: study.sweep(es.Trace(outputs[:0], labels[:0])), "holds no samples"),
        (lambda: study.sweep(tmp_path / "lstm.h5"), "no such file"),
    ):
        with pytest.raises(ValueError, match=words):
            ask()


def test_thresholds_of_a_trace_are_for_traces(tmp_path):
    """A policy that was calibrated on outputs alone knows no network: no run stops by it, and it says so."""
    outputs, labels = model()
    trace = es.Trace(outputs, labels)
    for kind in ("topk", "conformal"):
        made = study.calibrate(trace, kind, 0.2)
        study.save_policy(made, tmp_path / "p.json")
        policy = parse_policy(f"{kind}:{tmp_path / 'p.json'}")
        assert str(policy) == str(made)
        assert policy.calibrated.network is None
        assert len(policy.calibrated.digests) == 40
        other = es.Trace(*model(seed=1))
        (point,) = study.sweep(other, calibration=tmp_path / "p.json", families=[f"{kind}-calibrated"])
        assert point.ticks_run == es.replay(other, policy).stop_time.sum()
        assert study.overlapping(study.recorded(other), policy) is None
        with pytest.raises(ValueError, match="calibrated on the outputs of another model"):
            es.simulate(small.network("sum"), small.images(2)[0], watchdog=policy)
        with pytest.raises(ValueError, match="over 9 ticks; a run of 12"):
            study.sweep(es.Trace(*model(ticks=12)), calibration=policy)
        with pytest.raises(ValueError, match="for the readout 'sum'"):
            study.sweep(es.Trace(outputs, labels, readout="potential"), calibration=policy)


# ------------------------------------------------------------------------------------------------- several at once


def three():
    """Three models of the same samples, a readout each, of different lengths."""
    spikes = np.floor(np.maximum(model(2, ticks=14)[0], 0))
    return {
        "summed": es.Trace(*model(0)),
        "lstm": es.Trace(*model(1, ticks=6), readout="potential"),
        "counts": es.Trace(spikes, model()[1], readout="spikes"),
    }


def test_curves_are_the_sweeps_of_each_model():
    """If this fails, the common figure shows other points than each model has alone."""
    sources = three()
    found = study.curves(sources, points=9)
    assert [(c.name, c.family) for c in found] == [
        ("summed", "topk"),
        ("lstm", "first-crossing"),
        ("counts", "spike-gap"),
    ]
    for curve, trace in zip(found, sources.values(), strict=True):
        assert sorted(curve.points, key=str) == sorted(study.sweep(trace, families=[curve.family], points=9), key=str)
        ticks = [p.ticks_run for p in curve.points]
        assert ticks == sorted(ticks)
        assert curve.full.mean_stop == trace.outputs.shape[1]
        assert curve.full.correct == np.sum(trace.outputs[:, -1].argmax(1) == trace.labels)
        first = curve.earliest(lose=5)
        for p in curve.points:
            good = curve.full.accuracy - p.accuracy <= 0.05 + 1e-12
            assert not (good and p.ticks_run < first.ticks_run)
        assert first.accuracy >= curve.full.accuracy - 0.05 - 1e-12
    assert {c.family for c in study.curves(sources, "confidence")} == {"confidence"}


def test_only_models_of_the_same_samples_are_compared():
    outputs, labels = model()
    trace = es.Trace(outputs, labels)
    other = np.where(np.arange(40) == 5, (labels + 1) % 3, labels)
    for sources, family, words in (
        ({"a": trace, "b": es.Trace(outputs[:30], labels[:30])}, None, "has 30 samples, but this trace has 40"),
        ({"a": trace, "b": es.Trace(outputs, other)}, None, f"sample 5 of this trace has the label {other[5]}"),
        ({"a": trace}, "spike-gap", "the family spike-gap does not fit this trace: its readout is sum"),
        ({"a": trace}, "budget", "its SynOps were not counted"),
        ({"a": trace}, "topk-calibrated", "is calibrated"),
        ({"a": trace}, "best", "no family 'best'"),
    ):
        with pytest.raises(ValueError, match=words):
            study.curves(sources, family)


def test_the_common_figure_draws_a_line_a_model_and_marks_its_full_run():
    """If this fails, a curve is missing, or stands where its points do not."""
    found = study.curves(three(), points=9)
    figure = plot.tradeoffs(found)
    words = " ".join(t.get_text() for t in figure.texts)
    (axes,) = figure.axes
    drawn = [list(zip(*line.get_data(), strict=True)) for line in axes.lines]
    for curve, band in zip(found, axes.collections, strict=True):
        end = (curve.full.mean_stop, 100 * curve.full.accuracy)
        assert [end] in drawn
        line = sorted((p.mean_stop, 100 * p.accuracy) for p in (*curve.points, curve.full))
        assert any(np.array_equal(line, d) for d in drawn)
        edges = band.get_paths()[0].vertices
        for p in curve.points:
            assert all((np.isclose(edges, (p.mean_stop, 100 * bound))).all(1).any() for bound in p.interval)
        assert f"{curve.name}: " in words
        assert f"{curve.full.accuracy:.2%} after {curve.full.mean_stop:g} ticks" in words
    for ask, why in (
        (lambda: plot.tradeoffs([]), "no curves"),
        (lambda: plot.tradeoffs(found, "volts"), "axis is 'volts'"),
        (lambda: plot.tradeoffs(found, "synops"), "SynOps were not counted"),
    ):
        with pytest.raises(ValueError, match=why):
            ask()
    oracle = study.curves(three(), "oracle")  # a single point each, and no way from it to the full run
    plot.tradeoffs(oracle).savefig(io.BytesIO())
    lost = replace(found[0].full, correct=0)
    never = found[0]._replace(points=(lost,))
    table = report.curves_table([never], "ticks")
    assert "none" in [cell for column in table.columns for cell in column.cells]


# ------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def sources(tmp_path, command):
    """A run folder, and two traces of the same samples in another model's files; one of fewer samples."""
    x, y = small.images(40)
    run = es.simulate(small.network("sum"), x, y, watchdog=es.Fixed())
    es.save_run(run, tmp_path / "run")
    outputs = np.random.default_rng(3).normal(0, 1, (40, 7, 3)).cumsum(1)
    outputs[np.arange(40), :, y] += 2
    (tmp_path / "deep").mkdir()
    es.save_trace(es.Trace(outputs, y, readout="potential"), tmp_path / "lstm.h5")
    es.save_trace(es.Trace(outputs, y, synops=np.ones((40, 7), int)), tmp_path / "deep" / "lstm.h5")
    es.save_trace(es.Trace(outputs[:9], y[:9]), tmp_path / "few.h5")
    es.save_trace(es.Trace(outputs, (y + 1) % 3), tmp_path / "others.h5")
    return tmp_path


def test_one_trace_is_swept_as_a_run_is(sources, command):
    code, out, err = command("sweep", "deep/lstm.h5")
    assert (code, err) == (0, "")
    assert "deep/lstm.h5: 40 samples, 7 ticks" in out
    assert {p.name for p in (sources / "deep").iterdir()} == {"lstm.h5", "sweep.csv", "sweep.png"}
    test_cli.refused(command("sweep", "lstm.h5", "--calibration", "deep/lstm.h5", "--lose", 1), "is of readout sum")
    code, out, err = command("sweep", "lstm.h5", "--json", "-o", "out", "--calibration", "lstm.h5", "--lose", 1)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["axis"] == "ticks"
    assert found["trace"] == {"file": "lstm.h5", "samples": 40, "readout": "potential"}
    assert found["calibration"] is None  # nobody knows which samples these were
    assert {"first-crossing", "topk-calibrated"} <= {p["family"] for p in found["points"]}
    assert "budget" not in {p["family"] for p in found["points"]}
    rows = list(csv.DictReader(io.StringIO((sources / "out" / "sweep.csv").read_text())))
    assert [r["policy"] for r in rows] == [p["policy"] for p in found["points"]]
    assert {r["synops"] for r in rows} == {""}
    code, out, err = command("sweep", "lstm.h5", "--calibration", "lstm.h5", "--lose", 1)
    assert (code, err) == (0, "")
    assert "ticks a sample against 7.00 ticks" in " ".join(out.split())
    code, out, err = command("plot", "tradeoff", "lstm.h5")
    assert (code, err) == (0, "")
    assert (sources / "tradeoff.png").stat().st_size > 10_000
    code, out, err = command("calibrate", "--run", "lstm.h5", "--epsilon", 0.2, "-o", "p.json")
    assert (code, err) == (0, "")
    code, out, err = command("sweep", "lstm.h5", "--calibration", "p.json", "--json")
    assert "topk-calibrated" in {p["family"] for p in json.loads(out)["points"]}


def test_several_sources_stand_in_one_table_and_one_figure(sources, command):
    """Files, table and JSON of a comparison agree with each source's own sweep."""
    given = ("sweep", "run", "lstm.h5", "deep/lstm.h5")
    code, out, err = command(*given, "-o", "out")
    assert (code, err) == (0, "")
    assert {"sweep.csv", "sweep.png"} == {p.name for p in (sources / "out").iterdir()}
    code, found, err = command(*given, "--json")
    assert (code, err) == (0, "")
    assert (sources / "sweep.csv").read_bytes() == (sources / "out" / "sweep.csv").read_bytes()
    found = json.loads(found)
    assert found["axis"] == "ticks"
    assert [s["source"] for s in found["sources"]] == ["run", "lstm.h5", "deep/lstm.h5"]
    assert [s["family"] for s in found["sources"]] == ["topk", "first-crossing", "topk"]
    text = (sources / "sweep.csv").read_text()
    assert text.startswith("source,family,")
    rows = list(csv.DictReader(io.StringIO(text)))
    for said, path in zip(found["sources"], given[1:], strict=True):
        own = study.sweep(sources / path, families=[said["family"]])
        assert sorted(p["policy"] for p in said["points"]) == sorted(str(p.policy) for p in own)
        policies = [r["policy"] for r in rows if r["source"] == said["source"]]
        assert policies == [*(p["policy"] for p in said["points"]), "fixed"]
        line = next(line for line in out.splitlines() if line.startswith(said["source"]))
        assert f"{said['full']['accuracy']:.2%}" in line
    code, out, err = command("sweep", "run", "deep/lstm.h5", "--axis", "synops", "--family", "fixed", "--json")
    assert (code, err) == (0, "")
    assert {p["family"] for s in json.loads(out)["sources"] for p in s["points"]} == {"fixed"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "few.h5"), "few.h5 has 9 samples, but run has 40"),
        (("run", "others.h5"), "wanted the same samples"),
        (("run", "nowhere"), "no run folder"),
        (("run", "nowhere.h5"), "no such file"),
        (("run", "run"), "run is given twice"),
        (("run/trace.h5",), "give the folder run"),
        (("run", "lstm.h5", "--axis", "synops"), "lstm.h5 counted no SynOps"),
        (("run", "lstm.h5", "--energy", "45nm-fp32"), "lstm.h5 holds no operations by tick"),
        (("run", "lstm.h5", "--family", "best"), "no family 'best'"),
        (("run", "lstm.h5", "--family", "first-crossing"), "does not fit run"),
        (("run", "lstm.h5", "--lose", "1"), "--lose is of one source"),
        (("run", "lstm.h5", "--accuracy", "0.5"), "--accuracy is of one source"),
        (("run", "lstm.h5", "--calibration", "run"), "--calibration is of one source"),
        (("run", "lstm.h5", "--live", "3"), "--live is of one source"),
        (("run", "lstm.h5", "--method", "paper"), "--method is of one source"),
        (("run", "lstm.h5", "--bonferroni"), "--bonferroni is of one source"),
        (("run", "--family", "topk"), "--family is of several sources"),
        (("lstm.h5", "--axis", "synops"), "lstm.h5 counted no SynOps; choose the axis ticks"),
        (("lstm.h5", "--energy", "45nm-fp32"), "no operations by tick"),
        (("lstm.h5", "--live", "3", "--weights", "a", "--input", "b"), "does not say what was run"),
    ],
)
def test_a_sweep_that_cannot_be_done_says_why_in_one_sentence(sources, command, arguments, words):
    test_cli.refused(command("sweep", *arguments), words)
    assert not (sources / "sweep.csv").exists()


def test_a_run_whose_arrays_do_not_fit_each_other_is_damaged(sources):
    """One sentence with the folder's name, not an error from inside."""
    record = runs.read(sources / "run")
    odd = replace(record, trace={**record.trace, "labels": record.trace["labels"][:3]})
    with pytest.raises(ValueError, match="is damaged: labels have shape"):
        study.recorded(odd)


if __name__ == "__main__":
    pytest.main([__file__])
