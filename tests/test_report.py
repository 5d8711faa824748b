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

from eventsnn import energy, report, runs
from eventsnn.conventions import conventions
from eventsnn.ledger import OPERATIONS
from eventsnn.network import Connection, Dense, Network, Population
from eventsnn.neurons import IF, Input, Integrator
from eventsnn.simulation import simulate
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


@pytest.mark.parametrize("samples", [1, 7, 20])
def test_every_row_of_statistics_against_numpy(samples):
    """If this fails, a row of statistics.csv is of another quantity than its name, or was cut at another share."""
    run = small.run(samples=samples)
    ledger, network = run.ledger, run.network
    spiking = [p.name for p in network.populations if isinstance(p.neuron, IF)]
    weighted = [c for c in network.connections if ledger.tap_class[c.label] in ("ac", "mac")]

    def arriving(name):
        taps = [ledger.synops_by_tick(c.label) for c in weighted if c.target == name]
        return np.sum(taps, axis=0) if taps else np.zeros((samples, small.TICKS), np.int64)

    wanted = {
        ("network", "", "synops"): np.sum([ledger.synops_by_tick(c.label) for c in weighted], axis=0),
        ("network", "", "spikes"): np.sum([ledger.spikes_by_tick(name) for name in spiking], axis=0),
        ("network", "", "input_events"): ledger.spikes_by_tick("input"),
        ("network", "", "ticks"): np.arange(small.TICKS) < run.stop_time[:, None],
        **{("layer", n, "spikes" if n in spiking else "events"): ledger.spikes_by_tick(n) for n in ledger.populations},
        **{("layer", n, "synops"): arriving(n) for n in ledger.populations},
        **{("connection", n, ledger.tap_class[n]): ledger.synops_by_tick(n) for n in ledger.connections},
    }
    rows = {(row["scope"], row["name"], row["quantity"]): row for row in report.statistics(run)}
    assert {*rows} == {*wanted}
    for key, by_tick in wanted.items():
        counts = np.sort(by_tick.sum(1))
        nearest = {name: int(counts[max(-(-share * samples // 100) - 1, 0)]) for name, share in SHARES.items()}
        hand = {"total": int(counts.sum()), "mean": counts.mean(), **nearest, "peak_per_tick": int(by_tick.max())}
        assert {name: rows[key][name] for name in hand} == hand, key
        assert all(type(rows[key][name]) is int for name in hand if name != "mean")


SHARES = {"p5": 5, "median": 50, "p95": 95, "max": 100}  # the nearest rank: the ceil(share x samples)-th smallest


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
    for operation in OPERATIONS:
        assert found["operations"][operation] == run.ledger.operations(operation).sum() > 0
        assert sum(layer[operation] for layer in found["layers"]) == found["operations"][operation]
    assert found["queue"]["pushed"] >= found["queue"]["popped"] > 0
    assert found["queue"]["peak"] == found["queue_peak"]
    assert found["macs_input_per_tick"] == (run.ledger.macs_input * run.stop_time).sum()
    assert found["macs_input_effective_per_tick"] == (run.ledger.macs_input_effective * run.stop_time).sum()
    assert found["spike_units"] == found["spikes"]
    assert {row["scope"] for row in found["statistics"]} == {"network"}


# -------------------------------------------------------------------------------------- energy and other people's rules


@pytest.fixture(scope="module")
def record(run):
    return runs.describe(run, FACTS)


def shown(*things, width=120):
    console = rich.console.Console(width=width, file=io.StringIO(), highlight=False)
    for thing in things:
        console.print(thing, markup=False)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("picojoule", "words"),
    [(0, "0 pJ"), (0.5, "0.5 pJ"), (999, "999 pJ"), (1e3, "1 nJ"), (2.5e6, "2.5 µJ"), (7e9, "7 mJ"), (1.5e12, "1.5 J")],
)
def test_energies_in_words(picojoule, words):
    """If this fails, an energy is shown a thousand times too large or small."""
    assert report.joules(picojoule) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0"), (3, "3"), (0.1234, "0.123"), (99.94, "99.9"), (12345.6, "12,346"), (1e9, "1,000,000,000")],
)
def test_mean_counts_in_words(number, words):
    """If this fails, a mean count is rounded away, or shown with digits it does not have."""
    assert report.quantity(number) == words


def test_the_assumed_profile_is_kept_when_there_was_one(run, found):
    """If this fails, an audit of a foreign network file reads it under other assumptions than the run."""
    assert "assume" not in found["network"]
    assumed = report.summary(run, replace(FACTS, assume="sinabs"))
    assert assumed["network"] == {**found["network"], "assume": "sinabs"}


def test_every_operation_a_table_prices_has_words():
    """If this fails, a reader is told of an unpriced operation in the program's own spelling."""
    words = [report.operation_words(operation) for operation in energy.PRICED]
    assert all("_" not in w and w.endswith("s") for w in words)
    assert len(set(words)) == len(words) - len(energy.EITHER)  # clocked or by event: one word


def test_the_table_of_energies_holds_the_accounts(record):
    """If this fails, the terminal shows another energy than the JSON, or hides what a table does not price."""
    names = ("45nm-fp32", "loihi1-frady2020", "speck-yao2024", "lemaire2022")

    def rows(**options):
        accounts = [energy.account(record.run, record.network, name, **options) for name in names]
        lines = shown(report.energy_table(accounts, 20), width=200).splitlines()
        return accounts, {line.split()[0]: line for line in lines}

    accounts, lines = rows()
    for a in accounts:
        if a["table"] != "speck-yao2024":
            assert f" {report.joules(a['picojoule'] / 20)} " in lines[a["table"]]
    assert f" {report.joules(accounts[0]['ann'] / 20)} " in lines["45nm-fp32"]
    assert lines["45nm-fp32"].rstrip().endswith("update, spike")
    assert "0 pJ" not in lines["speck-yao2024"]  # no tick: nothing is known, which is not nothing
    for name in ("loihi1-frady2020", "speck-yao2024"):
        assert "static (give --tick)" in lines[name]
    accounts, lines = rows(tick_seconds=1e-3)
    for a in accounts[1:3]:
        assert lines[a["table"]].count(report.joules(a["static"] / 20)) == 1 + (a["dynamic"] == 0)
        assert "give --tick" not in lines[a["table"]]


def test_energies_by_layer_and_as_csv_add_up(record):
    """If this fails, a spreadsheet of the parts does not sum to the account, or a layer has another share."""
    names = ("45nm-fp32", "loihi1-frady2020", "lemaire2022-exact")
    accounts = [energy.account(record.run, record.network, name, tick_seconds=1e-3) for name in names]
    rows = rows_of(report.energy_csv(accounts))
    for a in accounts:
        mine = [row for row in rows if row["table"] == a["table"]]
        assert sum(float(row["picojoule"]) for row in mine) == pytest.approx(a["picojoule"], rel=1e-12)
        for layer in a["layers"]:
            parts = {row["part"]: float(row["picojoule"]) for row in mine if row["layer"] == layer["name"]}
            assert parts == layer["parts"]
        static = [float(row["picojoule"]) for row in mine if row["part"] == "static"]
        assert static == ([] if a["static"] is None else [a["static"]])
    text = shown(report.energy_layer_table(accounts, 20))
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    for i, layer in enumerate(record.run["layers"]):
        for a in accounts:
            energy_of = a["layers"][i]["picojoule"]
            cell = f"{report.joules(energy_of / 20)} {energy_of / a['dynamic']:6.1%}" if energy_of else ""
            assert cell in lines[layer["name"]]


def test_the_tables_of_rules_hold_the_columns(record):
    """If this fails, a rule's total or ratio is printed beside another rule's name."""
    found = conventions(record.run, record.network, record.emitted)
    whole, _, layers, *_ = report.convention_tables(found)
    cells = [list(column.cells) for column in whole.columns]
    assert cells[0][1:-1] == [report._RULES[column] for column in report._RULES]
    for rule, total, by_exact in list(zip(*cells))[1:-1]:
        column = next(name for name, words in report._RULES.items() if words == rule)
        share = found["ratios"][column]
        assert by_exact == ("" if share is None else f"{share:.4g}")
        if found["totals"].get(column) is not None:
            assert total == report.quantity(found["totals"][column] / 20)
    assert cells[1][-1] == report.quantity(found["totals"]["ann"] / 20)
    names = [str(cell) for cell in layers.columns[0].cells]
    assert names == [row["name"] for row in found["rows"]]
    area = [str(cell) for cell in layers.columns[3].cells]
    assert area == ["" if r["image"] else f"{r['kernel_area'] / r['exact']:.3f}" for r in found["rows"]]


def test_a_network_without_weights_or_spikes_has_its_rules_shown():
    """If this fails, a sparsity of nothing ends the command in a traceback."""
    for neuron, op in ((IF(), None), (Integrator(), Dense(np.eye(2)))):
        network = Network(
            populations=(Population("input", (2,), Input()), Population("out", (2,), neuron)),
            connections=(Connection("input", "out", **({} if op is None else {"op": op})),),
            output="out",
            encoding="rate",
            ticks=3,
        )
        record = runs.describe(simulate(network, np.ones((1, 2))))
        found = conventions(record.run, record.network, record.emitted)
        assert found["connection_sparsity"] == (None if op is None else 0.5)
        assert found["activation_sparsity"] == (0.0 if op is None else None)
        text = shown(*report.convention_tables(found))
        assert ("connection sparsity" in text) == (op is not None)
        assert ("activation sparsity" in text) == (op is None)
        assert f"footprint {0 if op is None else 16} bytes" in text
        report.conventions_csv(found)
