"""The JSON object, the tables and the CSV rows: every number is a sum of the ledger, and none is invented."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import rich.console
import small
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from eventsnn import report
from eventsnn.watchdog import Budget, Fixed, SpikeGap, StopReason, TopKGap

FACTS = report.Facts(
    network_name="small", network_file="small.h5", network_sha256="ab", input_file="x.npz", input_sha256="cd"
)
KEYS = [
    "schema",
    "command",
    "network",
    "input",
    "mode",
    "ticks",
    "cutoff",
    "dtype",
    "seed",
    "conventions",
    "accuracy",
    "accuracy_interval",
    "accuracy_by_tick",
    "mean_stop",
    "stop_unit",
    "stop_reasons",
    "ties",
    "spikes",
    "input_events",
    "synops",
    "macs_input",
    "layers",
    "connections",
    "energy",
]
TIMING = ["seconds", "synops_per_second", "versions"]
KINDS = ("structural", "effective", "delivered", "dropped", "in_flight")


@pytest.fixture(scope="module")
def run():
    return small.run()


@pytest.fixture(scope="module")
def found(run):
    return report.summary(run, FACTS)


def printed(found, width=100):
    console = rich.console.Console(width=width, file=io.StringIO())
    console.print(report.layer_table(found))
    return console.file.getvalue()


def test_the_keys_scripts_depend_on_are_there(run, found):
    """A key that goes missing breaks other people's scripts."""
    assert set(KEYS) <= set(found)
    assert set(TIMING) <= set(report.timing(run))
    assert set(TIMING).isdisjoint(found)  # run.json must not depend on the clock
    assert found["network"] == {"file": "small.h5", "sha256": "ab"}
    assert found["input"] == {"file": "x.npz", "sha256": "cd", "samples": 20}
    assert set(found["conventions"]) == {"comparator", "tie_order", "stop_instant"}
    assert {"structural", "effective", "delivered", "dropped", "in_flight", "mac"} <= set(found["synops"])
    assert [layer["name"] for layer in found["layers"]] == ["input", "conv", "sum", "rest", "output"]
    assert {"name", "neurons", "spikes", "synops"} <= set(found["layers"][0])
    assert [c["name"] for c in found["connections"]][2] == "skip"
    assert {"name", "synops"} <= set(found["connections"][0])
    assert found["energy"] == []
    assert found["stop_unit"] == "ticks"
    assert (found["cutoff"], found["mode"], found["dtype"], found["ticks"]) == ("spike-gap:2", "sync", "float32", 12)
    assert json.loads(json.dumps({**found, **report.timing(run)}, allow_nan=False))["schema"] == 1


def test_totals_are_integers_that_add_up(run, found):
    """Sums over layers, over connections and over samples are the same numbers, exactly."""
    synops = found["synops"]
    assert all(type(synops[kind]) is int for kind in (*KINDS, "ac", "mac"))
    assert synops["ac"] + synops["mac"] == synops["delivered"]
    assert min(synops["dropped"], synops["in_flight"], synops["mac"], synops["ac"]) > 0  # or the test shows nothing
    for apart in (synops, found["identity"], found["pool"]):
        assert apart["structural"] == apart["delivered"] + apart["dropped"] + apart["in_flight"]
    assert sum(layer["synops"] for layer in found["layers"]) == synops["delivered"]
    assert sum(layer["mac"] for layer in found["layers"]) == synops["mac"]
    assert sum(layer["identity"] for layer in found["layers"]) == found["identity"]["delivered"] > 0
    assert sum(layer["pool"] for layer in found["layers"]) == found["pool"]["delivered"] > 0
    assert sum(c["synops"] for c in found["connections"]) == synops["delivered"]
    for kind in KINDS:
        weighted = (c[kind] for c in found["connections"] if c["class"] in ("ac", "mac"))
        assert sum(weighted) == synops[kind] == int(run.ledger.synops(kind=kind).sum())


def test_identity_and_pool_taps_are_no_synops(found):
    """The skip is an identity: its taps are shown, but never among the SynOps."""
    skip = next(c for c in found["connections"] if c["name"] == "skip")
    assert (skip["class"], skip["synops"]) == ("identity", 0)
    conv = next(layer for layer in found["layers"] if layer["name"] == "conv")
    assert skip["delivered"] == conv["spikes"]
    into_relay = next(c for c in found["connections"] if c["name"] == "conv->sum")
    relay = next(layer for layer in found["layers"] if layer["name"] == "sum")
    assert relay["synops"] == into_relay["synops"]


def test_spikes_are_those_of_spiking_layers(run, found):
    """Relays and inputs forward; counting their events as spikes would make residual networks look busier."""
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert layers["sum"]["spikes"] == 0 < layers["sum"]["events"]
    assert found["spikes"] == sum(layer["spikes"] for layer in found["layers"])
    recorded = np.bincount(run.events["population"], minlength=5)
    assert [layer["events"] for layer in found["layers"]] == recorded.tolist()
    assert found["macs_input"] == 20 * ((3 * 5 - 2) * (3 * 6 - 2)) * 3  # in-bounds taps of a 3 x 3 kernel, padding 1


def test_stops_and_accuracy(run, found):
    """Means and fractions come from whole numbers that are given beside them."""
    assert sum(found["stop_reasons"].values()) == 20
    assert found["stop_reasons"]["spike-gap"] == int(np.sum(run.stop_reason == StopReason.SPIKE_GAP))
    assert found["ticks_run"] == int(run.stop_time.sum())
    assert found["mean_stop"] == found["ticks_run"] / 20
    assert found["accuracy"] == np.mean(run.predictions == run.labels)
    assert found["accuracy_interval"] == list(report.wilson(round(found["accuracy"] * 20), 20))
    assert found["accuracy_by_tick"] is None  # a stopped sample has no answer at later ticks
    assert found["conventions"]["comparator"] == "mixed"
    unlabelled = report.summary(small.run(labels=False), FACTS)
    assert unlabelled["accuracy"] is None
    assert unlabelled["accuracy_interval"] is None
    assert not any("accuracy" in line for line in report.closing_lines(unlabelled))


@pytest.mark.parametrize("readout", ["spikes", "sum"])
def test_accuracy_by_tick_is_that_of_shorter_runs(readout):
    """The prefix of a full run is the shorter run; ties included, which are frequent in the first ticks."""
    run = small.run(readout, Fixed())
    found = report.summary(run, FACTS)
    assert len(found["accuracy_by_tick"]) == small.TICKS
    assert found["accuracy_by_tick"][-1] == found["accuracy"]
    for ticks in range(1, small.TICKS):
        assert small.run(readout, Fixed(), ticks=ticks).accuracy == found["accuracy_by_tick"][ticks - 1]
    leading = report.predictions_by_tick(run.trace.outputs, run.trace.margins)
    assert np.array_equal(leading[:, -1], run.predictions)


def test_ties_go_to_the_larger_margin_then_the_lowest_index():
    """Counts of (2, 2, 1): the margin decides; with equal margins, or none, the lowest index."""
    outputs = np.array([[[2.0, 2.0, 1.0], [2.0, 2.0, 1.0]]])
    margins = np.array([[[-0.5, -0.25, 9.0], [-0.5, -0.5, 9.0]]])
    assert report.predictions_by_tick(outputs, margins).tolist() == [[1, 0]]
    assert report.predictions_by_tick(outputs, margins[..., :0]).tolist() == [[0, 0]]


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval(counts):
    """SciPy's Wilson interval, and the fraction itself always inside, within 0..1."""
    correct, total = counts
    low, high = report.wilson(correct, total)
    other = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(other.low, abs=1e-12)
    assert high == pytest.approx(other.high, abs=1e-12)
    assert 0 <= low <= correct / total <= high <= 1


def test_the_table_names_every_layer_and_brackets_forwarded_events(found):
    """What people read must hold the numbers of the JSON object."""
    text = printed(found)
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    for layer in found["layers"]:
        assert f"{layer['neurons']:,}" in lines[layer["name"]]
        if layer["synops"]:
            assert f"{layer['synops']:,}" in lines[layer["name"]]
            assert f"{layer['synops'] / found['synops']['delivered']:.1%}" in lines[layer["name"]]
    conv, relay = found["layers"][1], found["layers"][2]
    assert f" {conv['spikes']:,} " in lines["conv"]
    assert f"{conv['spikes'] / (90 * found['ticks_run']):.4f}" in lines["conv"]
    assert f"({relay['events']:,})" in lines["sum"]
    assert f"{found['spikes']:,}" in lines["all"]
    assert "in brackets: forwarded events" in " ".join(text.split())
    assert max(len(line.rstrip()) for line in printed(found, 80).splitlines()) <= 80
    assert "…" not in printed(found, 80)


def test_layer_names_are_not_read_as_style(found):
    """Square brackets in a name must be printed, not swallowed."""
    layers = [{**found["layers"][1], "name": "blocks[0][red]"}]
    assert "blocks[0][red]" in printed({**found, "layers": layers})


def test_full_runs_show_their_accuracy_at_powers_of_two():
    _, y = small.images(20)
    full = small.run(cutoff=Fixed(), ticks=6)
    lines = report.closing_lines(report.summary(full, report.Facts()))
    (line,) = [text for text in lines if text.startswith("accuracy by ticks")]
    for ticks in (1, 2, 4):
        shorter = small.run(cutoff=Fixed(), ticks=ticks)
        assert f"{np.mean(shorter.predictions == y):.1%} at {ticks}" in line
    assert " at 8" not in line


def test_closing_lines_say_what_is_known_and_no_more(found):
    """Accuracy with its interval, the mean stop, the counts; nothing about what was saved."""
    text = "\n".join(report.closing_lines(found, seconds=2.0))
    low, high = found["accuracy_interval"]
    assert f"accuracy {found['accuracy']:.2%} (8 of 20; 95 % interval {low:.2%} to {high:.2%})" in text
    assert f"stopped after {found['mean_stop']:.2f} of 12 ticks on average" in text
    assert f"{found['synops']['delivered']:,} delivered" in text
    assert f"{found['macs_input']:,} multiply-accumulates of input images" in text
    assert "10.0 samples/s" in text
    assert "saved" not in text
    assert "SynOps/s" not in "\n".join(report.closing_lines(found))


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_rows_add_up_to_the_summary(run, found):
    """The tables for spreadsheets and the JSON object must not disagree."""
    rows = rows_of(report.samples_csv(run))
    assert len(rows) == 20
    for column, total in (
        ("spikes", found["spikes"]),
        ("macs_input", found["macs_input"]),
        ("identity", found["identity"]["delivered"]),
        ("pool", found["pool"]["delivered"]),
        *((f"synops_{kind}", found["synops"][kind]) for kind in (*KINDS, "mac")),
        ("stop_time", found["ticks_run"]),
        ("tied", found["ties"]),
    ):
        assert sum(int(row[column]) for row in rows) == total
    assert [int(row["prediction"]) for row in rows] == run.predictions.tolist()
    assert {row["stop_reason"] for row in rows} == set(found["stop_reasons"])
    assert [row["sample"] for row in rows] == [str(i) for i in range(20)]
    layers, connections = rows_of(report.layers_csv(found)), rows_of(report.connections_csv(found))
    assert [int(row["synops"]) for row in layers] == [layer["synops"] for layer in found["layers"]]
    assert layers[1]["shape"] == "3x5x6"
    assert [int(row["structural"]) for row in connections] == [c["structural"] for c in found["connections"]]
    assert rows_of(report.samples_csv(small.run(labels=False)))[0]["label"] == ""


def test_every_stop_reason_has_a_name_and_other_cutoffs_report():
    """Names are part of the files; each policy's own reason must arrive in the summary."""
    assert [report.stop_reason_name(reason) for reason in StopReason][:2] == ["horizon", "spike-gap"]
    for cutoff, readout, name in (
        (Budget(2000), "sum", "budget"),
        (TopKGap(0.5), "sum", "topk"),
        (Fixed(), "sum", "horizon"),
    ):
        found = report.summary(small.run(readout, cutoff), FACTS)
        assert name in found["stop_reasons"]
        assert found["conventions"]["tie_order"] == "lowest index"
        assert found["cutoff"] == str(cutoff)


def test_a_run_that_took_no_time_has_no_rate(run):
    """A clock too coarse for a tiny run must not divide by zero."""
    assert report.timing(replace(run, seconds=0.0))["synops_per_second"] is None
    assert report.timing(replace(run, seconds=2.0))["synops_per_second"] == int(run.ledger.synops().sum()) / 2
    assert report.timing(small.run(cutoff=SpikeGap(1), samples=1))["seconds"] > 0


def test_statistics_by_hand(run):
    """If this fails, a percentile or a peak is not that of the samples."""
    rows = {(r["scope"], r["name"], r["quantity"]): r for r in report.statistics(run)}
    ledger = run.ledger
    by_tick = ledger.synops_by_tick("back", "delivered")
    row = rows["connection", "back", "ac"]
    counts = sorted(int(n) for n in by_tick.sum(1))
    assert row["total"] == sum(counts)
    assert row["mean"] == sum(counts) / 20
    for key, share in (("p5", 0.05), ("median", 0.5), ("p95", 0.95), ("max", 1.0)):
        # the smallest count that this share of the samples does not exceed
        assert row[key] == next(n for n in counts if sum(c <= n for c in counts) >= share * 20), key
    assert row["peak_per_tick"] == by_tick.max()
    assert rows["network", "", "synops"]["total"] == ledger.synops().sum()
    assert rows["network", "", "synops"]["peak_per_tick"] == run.trace.synops.max()
    assert rows["network", "", "ticks"]["max"] == run.stop_time.max()
    assert rows["layer", "conv", "spikes"]["total"] == ledger.spikes("conv").sum()
    assert rows["layer", "input", "events"]["total"] == 0
    arriving = sum(rows["layer", p.name, "synops"]["total"] for p in run.network.populations)
    assert arriving == ledger.synops().sum()
    written = list(csv.DictReader(io.StringIO(report.statistics_csv(run))))
    assert [r["name"] for r in written] == [r["name"] for r in report.statistics(run)]


def test_the_summary_has_every_operation(run, found):
    """If this fails, what neurons did is lost on the way to run.json, or the queue's work is mixed into it."""
    from eventsnn.ledger import OPERATIONS

    for operation in OPERATIONS:
        assert found["operations"][operation] == run.ledger.operations(operation).sum() > 0
        assert sum(layer[operation] for layer in found["layers"]) == found["operations"][operation]
    assert found["queue"]["pushed"] >= found["queue"]["popped"] > 0
    assert found["queue"]["peak"] == found["queue_peak"]
    assert found["macs_input_per_tick"] == (run.ledger.macs_input * run.stop_time).sum()
    assert found["macs_input_effective_per_tick"] == (run.ledger.macs_input_effective * run.stop_time).sum()
    assert found["spike_units"] == found["spikes"]
    assert {row["scope"] for row in found["statistics"]} == {"network"}
