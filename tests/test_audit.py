"""The audit: agrees with true books, and finds any one wrong entry of them, by code that the engine has no part in."""

import csv
import hashlib
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import small
from hypothesis import assume, given
from hypothesis import strategies as st
from networks import cases
from test_engine import feed, policies, run_engine, same_every_time

import eventsnn as es
from eventsnn import inputs, report, runs, store
from eventsnn.audit import audit, digest, lines
from eventsnn.ledger import OPERATIONS
from eventsnn.network import Connection, Dense, Flatten, Network, Pool, Population, Sparse, spread
from eventsnn.neurons import IF, LI, LIF, CubaLI, CubaLIF, Gate, Input, Integrator, Relay, Synapse
from eventsnn.watchdog import Budget, Confidence, Fixed, SpikeGap, TopKGap

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
KINDS = report.KINDS
LAYERS = ("neurons", "spikes", "spike_units", "events", "synops", "mac", "identity", "pool", *OPERATIONS)
CONNECTIONS = ("synops", *KINDS, "pool_structural", "pool_taps", "pool_in_flight")
EVENTS = ("spikes", "spike_units", "input_events")
COUNTED = (*EVENTS, *(f"synops_{kind}" for kind in KINDS), "synops_mac", "identity", "pool", "macs_input", *OPERATIONS)
STATED = ("sample", "label", "prediction", "tied", "stop_time")
STATISTICS = ("total", "mean", "p5", "median", "p95", "max", "peak_per_tick")
TOTALS = (
    *((name,) for name in (*EVENTS, "macs_input", "macs_input_per_tick", "ties", "ticks_run", "mean_stop", "accuracy")),
    *(("synops", kind) for kind in (*KINDS, "ac", "mac")),
    *((tap_class, kind) for tap_class in ("identity", "pool") for kind in KINDS),
    *(("operations", operation) for operation in OPERATIONS),
)


def recorded(path: Path, network: Network, run: es.Run) -> Path:
    """The run in a folder of its own, its network file beside it."""
    path.mkdir(parents=True, exist_ok=True)
    store.save(network, path / "net.h5")
    runs.save_run(run, path / "run", weights=path / "net.h5")
    return path / "run"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A stopped run in which every class of count occurs."""
    run = small.run(record="spikes", count="sources")
    return recorded(tmp_path_factory.mktemp("audit"), small.network(), run)


@pytest.fixture
def folder(original, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(original, tmp_path / "run")
    (tmp_path / "run" / "timing.json").unlink()  # it names the network file of the original
    shutil.copy(original.parent / "net.h5", tmp_path)
    return tmp_path / "run"


@pytest.fixture
def several(tmp_path):
    """Pixels that several events share, and neurons that fire several times in a tick; names as a user may choose."""
    network = Network(
        populations=(
            Population("input", (1, 4), Input()),
            Population('a, "b"', (1, 2), IF(threshold=0.5, multi_spike=True)),
            Population("output", (3,), IF()),
        ),
        connections=(
            Connection("input", 'a, "b"', before=(Pool((2,), (2,), (0,), "sum"),), name="up, and on"),
            Connection('a, "b"', "output", Dense(np.ones((3, 2))), before=(Flatten(),), delay=1),
        ),
        output="output",
        encoding="events",
        tick_seconds=1e-3,
        ticks=4,
    )
    events = es.Events(t=np.array([0, 0, 5, 2000]), neuron=np.array([3, 0, 0, 1]), offsets=np.array([0, 4, 4]))
    return recorded(tmp_path / "several", network, es.simulate(network, events, record="spikes"))


def change_csv(path: Path, number: int, change) -> dict:
    """Change one row of a CSV file in place; returns the row as it was."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    before = dict(rows[number])
    change(rows[number])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return before


def change_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_hdf5(path: Path, change, again: bool = False) -> None:
    """Change the arrays of an HDF5 file. again: make offsets and digests of events anew, as a careful hand would."""
    with h5py.File(path, "r") as file:
        arrays = {name: file[name][()] for name in file}
    samples, populations = arrays["digest"].shape if again else (0, 0)
    change(arrays)
    if again:
        arrays["offsets"] = np.searchsorted(arrays["sample"], np.arange(samples + 1))
        arrays["digest"] = digest(arrays, samples, populations)
        stored = hashlib.sha256(arrays["digest"].astype("<u8").tobytes()).hexdigest()
        change_json(path.parent / "run.json", lambda run: run["recorded"].update(digest=stored))
    path.unlink()
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


# ------------------------------------------------------------------------------------------------------- agreement


@pytest.mark.parametrize("layer_delay", [0, 1])
@pytest.mark.parametrize(
    ("readout", "cutoff"),
    [
        ("spikes", Fixed()),
        ("spikes", SpikeGap(2)),
        ("spikes", Budget(2000)),
        ("sum", Fixed()),
        ("sum", TopKGap(0.5)),
        ("sum", Confidence(0.6)),
    ],
    ids=str,
)
def test_the_books_of_true_runs_agree(readout, cutoff, layer_delay, tmp_path):
    """If this fails, the engine or the audit counts something that docs/semantics.md does not say."""
    run = small.run(readout, cutoff, record="spikes", layer_delay=layer_delay)
    found = audit(recorded(tmp_path, small.network(readout), run))
    assert found.agrees, lines(found)
    assert (found.first, found.differences, found.differing) == (None, (), 0)
    assert found.events == len(run.events) > 0
    assert found.checked > found.events


@same_every_time(40)
@given(cases(full=True), st.data())
def test_the_books_of_random_networks_agree(tmp_path_factory, case, data):
    """If this fails, engine and audit read docs/semantics.md differently: groups, pools, delays, resets, tables."""
    _, policy = data.draw(policies(case.network.readout, case.ticks))
    layer_delay = data.draw(st.sampled_from([0, 0, 1]))
    dtype = data.draw(st.sampled_from(["float64", "float32"]))
    run = run_engine(case, watchdog=policy, layer_delay=layer_delay, dtype=dtype, record="spikes", count="sources")
    found = audit(recorded(tmp_path_factory.mktemp("case"), case.network, run))
    assert found.agrees, lines(found)


def currents(readout) -> tuple[Network, es.Events]:
    """A current-based layer with two receptors that rests, one that fires once, delays of synapses, a leaky readout."""
    rng = np.random.default_rng(6)

    def lines(inputs: int, outputs: int) -> Sparse:
        n = 3 * inputs
        targets, delay = rng.integers(0, outputs, n), rng.integers(0, 4, n)
        return Sparse(np.arange(inputs + 1) * 3, targets, rng.uniform(0.2, 1.0, n), (outputs,), delay)

    slow = CubaLIF(threshold=0.8, alpha=0.75, alpha_syn=(0.5, 0.75), gain_syn=(1.0, -0.5), refractory=2, hold=True)
    network = Network(
        populations=(
            Population("input", (12,), Input()),
            Population("slow", (8,), replace(slow, reset="value")),
            Population("once", (6,), IF(threshold=0.5, refractory=math.inf, reset="value")),
            Population("output", (3,), readout),
        ),
        connections=(
            Connection("input", "slow", lines(12, 8), bias=rng.uniform(0.0, 0.2, 8)),
            Connection("slow", "slow", Dense(rng.uniform(0.0, 0.5, (8, 8))), delay=1, receptor=1),
            Connection("slow", "once", lines(8, 6), delay=1),
            Connection("slow", "output", Dense(rng.uniform(0.0, 0.5, (3, 8)))),
            Connection("once", "output", lines(6, 3)),
        ),
        output="output",
        encoding="events",
        tick_seconds=1e-3,
    )
    times = np.sort(rng.integers(0, 14000, (4, 150)), axis=1).ravel()
    return network, es.Events(times, rng.integers(0, 12, 600), np.arange(5) * 150)


READOUTS = [LI(alpha=0.9), CubaLI(alpha=0.5, alpha_syn=0.75), CubaLIF(alpha=0.5, refractory=math.inf, reset="value")]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("readout", READOUTS, ids=lambda neuron: type(neuron).__name__)
@pytest.mark.parametrize("options", [{}, {"watchdog": Confidence(0.5)}, {"pulse": 3e-4}, {"ties": "serial"}], ids=str)
def test_currents_and_delays_by_synapse_agree(readout, mode, options, tmp_path):
    """If this fails, what reaches a synaptic current, and when, is read differently by engine and audit."""
    if mode == "sync" and set(options) - {"watchdog"}:
        return
    if isinstance(readout, CubaLIF) and "watchdog" in options:
        options = {"watchdog": Confidence(0.5, on="counts")}
    network, events = currents(readout)
    if mode == "async":
        folder = timed(tmp_path, network, events, duration=16e-3, **options)
    else:
        options = {"watchdog": Fixed(), **options}
        folder = recorded(tmp_path, network, es.simulate(network, events, ticks=16, record="spikes", **options))
    found, run = audit(folder), json.loads((folder / "run.json").read_text())
    assert found.agrees, lines(found)
    by_name = {row["name"]: row for row in run["connections"]}
    if not options:
        assert by_name["slow->once"]["dropped"] > 0  # after the only spike
        assert by_name["input->slow"]["dropped"] > 0
        assert by_name["slow->output"]["dropped"] == 0 or isinstance(readout, CubaLIF)
    done = {row["name"]: row for row in run["layers"]}
    assert done["slow"]["decay"] == 3 * done["slow"]["neuron_update"] > 0  # a membrane and two currents
    assert done["output"]["decay"] == (2 if isinstance(readout, Synapse) else 1) * done["output"]["neuron_update"]
    outputs = " ".join(found.unchecked)
    assert ("the outputs: they are potentials, not counts" in outputs) == isinstance(readout, LI)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(
    ("delay", "delivered"),  # of 9: 3 + 2 + 1, and so on
    [([0, 1, 2], 6), ([0, 0, 0], 9), ([9, 9, 9], 0), ([1, 3, 1], 5)],
)
def test_what_a_synapse_delivers_is_counted_at_its_own_time(mode, delay, delivered, tmp_path):
    """By hand: spikes in ticks 0, 2 and 3 of 4, over three synapses to three neurons."""
    lines_ = Sparse(np.array([0, 3]), np.arange(3), np.ones(3), (3,), np.array(delay))
    network = Network(
        populations=(Population("input", (1,), Input()), Population("output", (3,), LI())),
        connections=(Connection("input", "output", lines_),),
        output="output",
        encoding="events",
        tick_seconds=1e-3,
        ticks=4,
    )
    events = es.Events(np.array([0, 2000, 3000]), np.zeros(3, int), np.array([0, 3]))
    if mode == "sync":
        folder = recorded(tmp_path, network, es.simulate(network, events, record="spikes"))
    else:
        folder = timed(tmp_path, network, events, duration=4e-3)
    found = audit(folder)
    assert found.agrees, lines(found)
    (row,) = json.loads((folder / "run.json").read_text())["connections"]
    assert (row["structural"], row["delivered"], row["in_flight"]) == (9, delivered, 9 - delivered)
    change_csv(folder / "connections.csv", 0, lambda row: row.update(in_flight=str(int(row["in_flight"]) + 1)))
    assert "column in_flight: the file says" in audit(folder).first


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_population_behind_slow_synapses_is_not_behind_the_decision(mode, tmp_path):
    """If this fails, the order of populations is read off the connections' delays, without those of their synapses."""
    late = Sparse(np.arange(3), np.array([0, 1]), np.ones(2), (2,), np.array([1, 2]))
    network = Network(
        populations=(
            Population("input", (2,), Input()),
            Population("out", (2,), IF()),
            Population("beyond", (2,), IF()),
        ),
        connections=(
            Connection("input", "out"),
            Connection("out", "beyond", late),
            Connection("input", "beyond"),
        ),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
        ticks=6,
    )
    events = es.Events(np.array([0, 1000, 2000, 2000]), np.array([0, 1, 1, 0]), np.array([0, 4]))
    if mode == "sync":
        folder = recorded(tmp_path, network, es.simulate(network, events, record="spikes", watchdog=SpikeGap(1)))
    else:
        folder = timed(tmp_path, network, events, watchdog=SpikeGap(1), duration=6e-3)
    found = audit(folder)
    assert found.agrees, lines(found)
    assert es.simulate(network, events, watchdog=SpikeGap(1)).stop_time.tolist() == [1]
    assert network.depths() == {"input": 0, "out": 1, "beyond": 1}


def test_shared_pixels_and_several_spikes_agree(several):
    """If this fails, events of one pixel, multiplicities or unusual names are audited wrongly."""
    found = audit(several)
    assert found.agrees, lines(found)
    run = json.loads((several / "run.json").read_text())
    assert run["spike_units"] > run["spikes"]
    assert run["connections"][1]["units"] > run["connections"][1]["structural"]


def test_what_cannot_be_recounted_is_said(original, tmp_path):
    """If this fails, an audit passes for more than it is."""
    found = " ".join(audit(original).unchecked)
    assert "macs_input_effective: pixel values are not recorded" in found
    assert "whether the cutoff was right to stop" in found
    summed = small.run("sum", Fixed(), record="spikes")
    assert "the outputs: they are sums" in " ".join(audit(recorded(tmp_path, small.network("sum"), summed)).unchecked)


def test_the_answer_in_words(original, folder):
    """If this fails, a person at the terminal cannot tell agreement from its opposite."""
    assert lines(audit(original))[0].startswith("The books agree: ")
    assert " entries recounted from " in lines(audit(original))[0]
    change_csv(folder / "connections.csv", 1, lambda row: row.update(effective=int(row["effective"]) + 1))
    change_csv(folder / "samples.csv", 3, lambda row: row.update(bias="0"))
    first, second, count, *_ = lines(audit(folder))
    assert first.startswith("The books do NOT agree. First: connections.csv, row conv->sum, column effective: the file")
    assert second.startswith("  also: samples.csv, row 3, column bias: the file says 0, the events give ")
    assert count.startswith("2 of ")


# ----------------------------------------------------------------------------------------- one wrong entry of the books


@pytest.mark.parametrize(
    ("file", "number", "column"),
    [
        *(("layers.csv", 3, column) for column in LAYERS),
        *(("connections.csv", 5, column) for column in CONNECTIONS),
        *(("samples.csv", 7, column) for column in (*STATED, *COUNTED)),
        *(("statistics.csv", 2, column) for column in STATISTICS),
    ],
)
def test_a_changed_cell_is_found_and_named(folder, file, number, column):
    """If this fails, this column can say anything."""

    def add(row):
        row[column] = str(float(row[column]) + 1) if column == "mean" else str(int(row[column]) + 1)

    before = change_csv(folder / file, number, add)
    found = audit(folder)
    assert not found.agrees
    row = {"samples.csv": str(number), "statistics.csv": ", ".join(filter(None, [*before.values()][:3]))}
    place = f"{file}, row {row.get(file, before.get('name'))}, column {column}: the file says "
    assert found.first.startswith(place)
    assert found.differing == 1


def test_every_numeric_column_is_tried_above(original):
    """If this fails, a new column of the books is not audited."""
    for file, columns in (
        ("layers.csv", LAYERS),
        ("connections.csv", CONNECTIONS),
        ("samples.csv", (*STATED, *COUNTED, "macs_input_effective")),
        ("statistics.csv", STATISTICS),
    ):
        with (original / file).open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        numeric = {name for name in rows[0] if all(row[name].lstrip("-").replace(".", "").isdigit() for row in rows)}
        assert numeric == set(columns), file
    assert not [sentence for sentence in audit(original).unchecked if "not known here" in sentence]


@pytest.mark.parametrize("path", TOTALS, ids=".".join)
def test_a_changed_total_is_found_and_named(folder, path):
    """If this fails, this number of run.json can say anything."""

    def add(run):
        *above, last = path
        for key in above:
            run = run[key]
        run[last] += 1

    change_json(folder / "run.json", add)
    found = audit(folder)
    assert found.first.startswith(f"run.json, {'.'.join(path)}: the file says ")
    assert found.differing == 1


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        *(("layers", column, None) for column in LAYERS),
        *(("connections", column, None) for column in CONNECTIONS),
        *(("statistics", column, None) for column in STATISTICS),
        ("layers", "name", "other"),
        ("layers", "kind", "relay"),
        ("layers", "spiking", False),
        ("layers", "shape", [3, 6, 5]),
        ("connections", "class", "mac"),
        ("connections", "target", "conv"),
    ],
)
def test_a_changed_row_of_run_json_is_found_and_named(folder, table, column, value):
    """If this fails, scripts that read run.json see another account than was audited."""

    def change(run):
        run[table][1][column] = run[table][1][column] + 1 if value is None else value

    change_json(folder / "run.json", change)
    found = audit(folder)
    assert found.first.startswith(f"run.json, {table}, row ")
    assert f", column {column}: the file says " in found.first
    assert found.differing == 1


@pytest.mark.parametrize("reason", ["horizon", "budget"])
def test_a_changed_stop_reason_is_found(folder, reason):
    """If this fails, a run that was cut off passes for a whole one."""
    change_csv(folder / "samples.csv", 2, lambda row: row.update(stop_reason=reason))
    place = "samples.csv, row 2, column stop_reason" if reason == "horizon" else "run.json, stop_reasons"
    assert audit(folder).first.startswith(f"{place}: the file says ")


@pytest.mark.parametrize("name", ["synops", "outputs", "predictions", "tied", "labels", "stop_time", "stop_reason"])
def test_a_changed_number_of_the_trace_is_found(folder, name):
    """If this fails, curves drawn from the trace need not belong to the run."""

    def change(arrays):
        at = (4, 1, 2)[: arrays[name].ndim]
        step = -1 if name in ("stop_time", "stop_reason") else 1
        arrays[name][at] = not arrays[name][at] if name == "tied" else arrays[name][at] + step

    change_hdf5(folder / "trace.h5", change)
    first = audit(folder).first
    stated = {"predictions": "prediction", "labels": "label"}.get(name, name)
    if name in ("synops", "outputs"):
        assert first.startswith(f"trace.h5, {name}, sample 4, tick 1")
    else:
        assert f"row 4, column {stated}: " in first or "events.h5, row" in first


@pytest.mark.parametrize(
    ("readout", "name"), [("sum", "predictions"), ("sum", "tied"), ("spikes", "predictions"), ("spikes", "tied")]
)
def test_predictions_follow_from_the_outputs(readout, name, tmp_path):
    """If this fails, samples.csv and trace.h5 together can claim another answer than the outputs give."""
    run = small.run(readout, Fixed(), record="spikes", labels=False)
    folder = recorded(tmp_path, small.network(readout), run)
    sample = int(np.flatnonzero(~run.tied)[0])
    column = {"predictions": "prediction"}.get(name, name)
    other = (int(run.predictions[sample]) + 1) % 3 if name == "predictions" else True

    def change(arrays):
        arrays[name][sample] = other

    change_hdf5(folder / "trace.h5", change)
    change_csv(folder / "samples.csv", sample, lambda row: row.update({column: int(other)}))
    change_json(folder / "run.json", lambda content: content.update(ties=content["ties"] + (name == "tied")))
    assert audit(folder).first.startswith(f"trace.h5, {name}, sample {sample}: the file says {other}, its outputs give")


@pytest.mark.parametrize("group", ["emitted", "fan_out"])
def test_a_changed_count_of_one_neuron_is_found(folder, group):
    """If this fails, a heat map can show what did not happen."""
    name = "conv" if group == "emitted" else "2"
    with h5py.File(folder / "sources.h5", "r+") as file:
        array = file[group][name][()]
        array[(1, 2, 3, 4)[-array.ndim :]] += 1
        file[group][name][...] = array
    shown = {"emitted": "conv, sample 1, channel 2, row 3, column 4", "fan_out": "skip, channel 2, row 3, column 4"}
    assert audit(folder).first.startswith(f"sources.h5, {group}, {shown[group]}: the file says ")


def test_images_leave_nothing_unsaid_when_there_are_none(several):
    """If this fails, MACs of an image are claimed by a run that had none."""
    change_csv(several / "samples.csv", 1, lambda row: row.update(macs_input_effective="1"))
    assert audit(several).first.startswith("samples.csv, row 1, column macs_input_effective: the file says 1")


# ---------------------------------------------------------------------------------------------- one wrong event


@pytest.mark.parametrize("again", [False, True], ids=["digests left", "digests made anew"])
@pytest.mark.parametrize("number", [0, 40, 1000])
@pytest.mark.parametrize("column", ["sample", "time", "population", "neuron", "value"])
def test_a_changed_event_is_found(folder, column, number, again):
    """If this fails, the record can be bent without the account noticing, even by someone who knows the digest."""

    def change(arrays):
        arrays[column][np.flatnonzero(arrays["population"] == 1)[number]] += 1

    change_hdf5(folder / "events.h5", change, again)
    found = audit(folder)
    assert not found.agrees
    assert again or found.first.startswith("events.h5, ")


@pytest.mark.parametrize("again", [False, True], ids=["digests left", "digests made anew"])
def test_a_removed_or_added_event_is_found(folder, again, tmp_path):
    """If this fails, spikes can be hidden or invented."""
    shutil.copytree(folder, tmp_path / "other")

    def edit(how):
        def change(arrays):
            row = np.flatnonzero(arrays["population"] == 1)[30]
            for name in ("sample", "time", "population", "neuron", "value"):
                arrays[name] = how(arrays[name], row)

        return change

    change_hdf5(folder / "events.h5", edit(np.delete), again)
    removed = audit(folder)
    assert removed.first.startswith("run.json, spikes: " if again else "events.h5, offsets, entry ")
    change_hdf5(tmp_path / "other" / "events.h5", edit(lambda column, i: np.insert(column, i, column[i])), again)
    assert "the same event twice" in audit(tmp_path / "other").first


def test_the_digest_finds_what_no_count_shows(folder):
    """If this fails, the value of a graded event can be changed: every count stays, only the digest knows."""

    def change(arrays):
        arrays["value"][np.flatnonzero(arrays["population"] == 2)[17]] *= 2

    change_hdf5(folder / "events.h5", change)
    found = audit(folder)
    assert found.first.startswith("events.h5, digest, sample 0, population number 2: the file says ")
    assert found.differing == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a["sample"].__setitem__(5, 20), "row 5 (sample 20, time 0, population conv, neuron "),
        (lambda a: a["sample"].__setitem__(5, -1), "its sample is not between 0 and 19"),
        (lambda a: a["time"].__setitem__(5, 12), "its time is not between 0 and 11"),
        (lambda a: a["population"].__setitem__(5, 5), "its population is not between 0 and 4"),
        (lambda a: a["neuron"].__setitem__(5, 90), "its neuron is not between 0 and 89"),
        (lambda a: a["time"].__setitem__(-1, 11), "the population had no turn in this tick, its last was in tick"),
        (lambda a: a["population"].__setitem__(0, 0), "this population emits no events"),
        (lambda a: a["value"].__setitem__(0, 2.0), "the value is not 1, that of a spike"),
        (lambda a: a["value"].__setitem__(0, np.nan), "the value is not 1, that of a spike"),
        (lambda a: a["neuron"].__setitem__([0, 1], a["neuron"][[1, 0]]), "row 1 (sample 0, time 0, population conv, "),
        (lambda a: a["neuron"].__setitem__([0, 1], a["neuron"][[1, 0]]), "out of order"),
        (lambda a: a["neuron"].__setitem__(1, a["neuron"][0]), "the same event twice"),
        (lambda a: a["offsets"].__setitem__(3, 7), "events.h5, offsets, entry 3: the file says 7, the events give "),
        (lambda a: a["digest"].__setitem__((2, 1), 7), "digest, sample 2, population number 1: the file says 7, "),
    ],
)
def test_each_fault_of_the_events_has_its_words(folder, change, words):
    """If this fails, the first difference does not lead to what is wrong with the events."""
    change_hdf5(folder / "events.h5", change)
    assert words in audit(folder).first


def test_a_turn_taken_in_two_parts_is_out_of_order(tmp_path):
    """If this fails, a population can take two turns in one tick."""
    folder = recorded(tmp_path, small.network(), small.run(record="spikes", layer_delay=1))  # one depth for all

    def part(arrays):
        rows = np.flatnonzero((arrays["sample"] == 0) & (arrays["time"] == 4))
        assert len(set(arrays["population"][rows].tolist())) > 1
        rolled = np.roll(rows, 1)
        for name in ("sample", "time", "population", "neuron", "value"):
            arrays[name][rows] = arrays[name][rolled]

    change_hdf5(folder / "events.h5", part, again=True)
    assert "out of order" in audit(folder).first


@pytest.mark.parametrize("value", [0.0, 1.5, -1.0, np.nan, np.inf])
def test_a_multiplicity_is_a_whole_number(several, value):
    """If this fails, a neuron can have fired one and a half times."""

    def change(arrays):
        arrays["value"][np.flatnonzero(arrays["population"] == 1)[0]] = value

    change_hdf5(several / "events.h5", change, again=True)
    assert "the value is no multiplicity, a whole number from 1 on" in audit(several).first


def test_a_wrong_multiplicity_is_found_in_the_books(several):
    """If this fails, units are not recounted from the values of the events."""

    def change(arrays):
        arrays["value"][np.flatnonzero(arrays["population"] == 1)[0]] += 1

    change_hdf5(several / "events.h5", change, again=True)
    assert audit(several).first.startswith("run.json, spike_units: the file says ")


def test_the_digest_is_what_it_says():
    """If this fails, digests of other programs, or of the writer of runs, will not match."""
    rng = np.random.default_rng(5)
    events = np.empty(50, inputs.EVENT)
    for name, high in (("sample", 3), ("time", 9), ("population", 2), ("neuron", 40)):
        events[name] = rng.integers(0, high, 50)
    events["value"] = rng.choice([1.0, 2.0, -0.5], 50)

    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    wanted = np.zeros((3, 2), np.uint64)
    for sample, time, population, neuron, value in events.tolist():
        bits = int.from_bytes(np.float64(value).tobytes(), "little")
        word = mix(mix((time << 32) + neuron) ^ bits)
        wanted[sample, population] = (int(wanted[sample, population]) + word) % 2**64
    assert np.array_equal(digest(events, 3, 2), wanted)
    assert np.array_equal(digest(rng.permutation(events), 3, 2), wanted)
    assert np.array_equal(inputs.digest(events, 3, 2), wanted)
    assert digest(events, 3, 2).dtype == np.uint64
    assert not digest(events[:0], 3, 2).any()


# ------------------------------------------------------------------------------------------------- continuous time


def timed(path: Path, network: Network, inputs, ties: str = "together", **options) -> Path:
    """The folder of a run in continuous time, and of what it says of arrivals."""
    options = {"record": "spikes", "watchdog": Fixed(), "ties": ties, **options}
    folder = recorded(path, network, es.simulate(network, inputs, mode="async", **options))
    change_json(folder / "run.json", lambda run: run.update(arrivals=ties))
    return folder


def with_tick(readout: str = "spikes") -> Network:
    """The small network: convolutions, relay, identity, pool, a loop of refractory neurons, an image as a current."""
    return replace(small.network(readout), tick_seconds=1e-3)


def fed(seed: int = 3) -> tuple[Network, es.Events]:
    """The same under events, several of one microsecond among them, with delays that are no whole ticks."""
    network, rng = replace(with_tick(), encoding="events"), np.random.default_rng(seed)
    late = {0: 3.3e-4, 4: 1.7e-3, 5: 1 / 3000}
    connections = tuple(
        replace(c, delay=max(c.delay, 1), delay_seconds=late[i]) if i in late else c
        for i, c in enumerate(network.connections)
    )
    times = np.sort(rng.integers(0, 12000, (4, 150)) // 7 * 7, axis=1)
    events = es.Events(t=times.ravel(), neuron=rng.integers(0, 30, 600), offsets=np.arange(5) * 150)
    populations = [replace(p, neuron=IF(threshold=0.2)) if p.name == "conv" else p for p in network.populations]
    return replace(network, populations=tuple(populations), connections=connections), events


@pytest.mark.parametrize("readout", ["spikes", "sum"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"count": "sources", "dtype": "float32"},
        {"pulse": 3e-4},
        {"bias_period": 7e-4},
        {"ties": "serial"},
        {"watchdog": Budget(2000)},
        {"watchdog": TopKGap(0.5, on="counts")},
    ],
    ids=str,
)
def test_images_in_continuous_time_agree(readout, options, tmp_path):
    """If this fails, engine and audit read the rules of continuous time differently, for direct current."""
    if "watchdog" in options and readout == "sum":
        options = {"watchdog": Confidence(0.6)}
    images, labels = small.images(6)
    found = audit(timed(tmp_path, with_tick(readout), images, labels=labels, **options))
    assert found.agrees, lines(found)
    assert found.checked > found.events > 0
    assert ("bias" in " ".join(found.unchecked)) == ("bias_period" in options)


@pytest.mark.parametrize(
    "options",
    [{}, {"pulse": 1e-4}, {"bias_period": 5e-4}, {"ties": "serial"}, {"watchdog": SpikeGap(2)}, {"duration": 7.7e-3}],
    ids=str,
)
def test_events_in_continuous_time_agree(options, tmp_path):
    """If this fails, a delay, a refractory neuron, a pulse or a stop is audited wrongly."""
    network, events = fed()
    folder = timed(tmp_path, network, events, **options)
    found = audit(folder)
    assert found.agrees, lines(found)
    run = json.loads((folder / "run.json").read_text())
    assert ("what dropped" in " ".join(found.unchecked)) == ("ties" in options)
    if not options:
        assert run["synops"]["dropped"] > 0
        assert run["synops"]["in_flight"] > 0
        assert run["spike_units"] > run["spikes"]


def in_time(network: Network) -> Network:
    """A drawn network, as far as continuous time runs it: hard resets, no tables, time constants, images at once.

    Its neurons differ a little. Seconds in a file do not tell apart what happens a rounding of microseconds apart, as
    crossings do that are together in real numbers; only the membranes know whether these were one instant or two.
    """
    populations = []
    loops = any(c.source == c.target for c in network.connections)
    for p in network.populations:
        neuron = Relay() if isinstance(p.neuron, Gate) else p.neuron
        change = {}
        if isinstance(neuron, IF):
            change |= {"reset": "value", "reset_value": -4.0, "v_min": None, "multi_spike": False, "reset_delay": False}
            other = np.random.default_rng(len(populations)).uniform(0.9, 1.1, (2, *p.shape))
            change |= {"gain": spread(neuron.gain, p.shape) * other[0]}
            change |= {"threshold": spread(neuron.threshold, p.shape) + other[1] / 10}
        if isinstance(neuron, Synapse):
            by_receptor = [np.clip(neuron.current(r).alpha_syn, 0.25, 0.75) for r in range(neuron.receptors)]
            change |= {"alpha_syn": tuple(by_receptor)}
        if isinstance(neuron, CubaLIF) and loops and not neuron.refractory:  # or spikes of a loop multiply
            change |= {"refractory": 2, "hold": True, "refractory_input": "integrate"}
        if isinstance(neuron, LIF | LI):
            change |= {"alpha": np.maximum(neuron.alpha, 0.25)}
        populations.append(replace(p, neuron=replace(neuron, **change)))
    relays, connections = {p.name for p in populations if isinstance(p.neuron, Relay)}, []
    for c in network.connections:
        is_image = network.encoding == "direct" and c.source == network.input.name
        assume(not (is_image and c.target in relays))
        if isinstance(c.op, Sparse) and is_image:
            c = replace(c, op=replace(c.op, delay=None))
        c = replace(c, delay=0, receptor=None) if is_image else c
        connections.append(replace(c, scale=None, shift=None, bias=None if c.target in relays else c.bias))
    return replace(network, populations=tuple(populations), connections=tuple(connections), tick_seconds=1e-3)


@same_every_time(60)
@given(cases(full=True), st.data())
def test_random_networks_in_continuous_time_agree(tmp_path_factory, case, data):
    """If this fails, engine and audit differ on groups, pools, resets, delays or stops in continuous time."""
    network = in_time(case.network)
    _, policy = data.draw(policies(network.readout, case.ticks))
    ties = data.draw(st.sampled_from(["together", "together", "serial"]))
    pulses = data.draw(st.sampled_from([{}, {}, {"pulse": 3e-4}, {"bias_period": 7e-4}]))
    path, layout = tmp_path_factory.mktemp("case"), "chw" if network.encoding == "direct" else None
    options = {"watchdog": policy, "duration": case.ticks * 1e-3, "layout": layout, "count": "sources", **pulses}
    found = audit(timed(path, network, feed(replace(case, network=network)), ties, **options))
    assert found.agrees, lines(found)


def test_a_run_that_goes_on_is_recounted_as_far_as_it_can_be(tmp_path):
    """If this fails, what came from before a run's start is taken for an error, or its spikes are not recounted."""
    network, events = fed()
    one = es.Events(events.t[:150], events.neuron[:150], np.array([0, 150]))
    first = es.simulate(network, one, mode="async", duration=6e-3)
    folder = timed(tmp_path, network, one, state=first.state, duration=5e-3)
    found = audit(folder)
    assert found.agrees, lines(found)
    assert "events came from before its start" in " ".join(found.unchecked)
    change_csv(folder / "connections.csv", 3, lambda row: row.update(structural="1"))
    assert audit(folder).first.startswith("connections.csv, row sum->rest, column structural: the file says 1,")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run under events that a policy stopped."""
    network, events = fed()
    return timed(tmp_path_factory.mktemp("stopped"), network, events, watchdog=SpikeGap(2), count="sources")


def test_one_wrong_number_of_a_timed_run_is_found(stopped, tmp_path):
    """If this fails, a number of a run in continuous time can say anything."""

    def more(column):
        return lambda row: row.update(
            {column: str(float(row[column]) + 1 if "." in row[column] else int(row[column]) + 1)}
        )

    def found_after(file, change, *where):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(stopped, folder)
        {"csv": change_csv, "json": change_json, "h5": change_hdf5}[file.split(".")[1]](folder / file, *where, change)
        return audit(folder)

    assert audit(stopped).agrees
    for file, number, columns in (
        ("layers.csv", 3, LAYERS),
        ("connections.csv", 5, CONNECTIONS),
        ("samples.csv", 2, (*STATED[:2], *STATED[4:], *COUNTED)),
        ("statistics.csv", 2, STATISTICS),
    ):
        for column in columns:
            if column == "label":
                continue
            found = found_after(file, more(column), number)
            assert found.first.startswith(file), (file, column)
            assert f"column {column}: the file says " in found.first
            assert found.differing == 1
    for path in [path for path in TOTALS if path != ("accuracy",)]:

        def add(run, path=path):
            for key in path[:-1]:
                run = run[key]
            run[path[-1]] += 1

        assert found_after("run.json", add).first.startswith(f"run.json, {'.'.join(path)}: the file says "), path
    for name, step in (("duration", 0.01), ("tick_seconds", 1e-4)):
        assert not found_after("run.json", lambda run, n=name, s=step: run.update({n: run[n] + s})).agrees
    for name in ("synops", "outputs", "stop_time", "predictions", "stop_reason"):

        def raise_one(arrays, name=name):
            at = (1, 1, 2)[: arrays[name].ndim]
            arrays[name][at] += -1e-9 if name == "stop_time" else -arrays[name][at] if name == "stop_reason" else 1

        assert not found_after("trace.h5", raise_one).agrees, name
    for name, step in (("time", 1e-6), ("neuron", 1), ("value", 1.0), ("population", 1), ("sample", 1)):

        def move(arrays, name=name, step=step):
            arrays[name][np.flatnonzero(arrays["population"] == 1)[40]] += step

        assert not found_after("events.h5", move).agrees, name


@pytest.mark.parametrize(("change", "words"), [
    (lambda a: a["time"].__setitem__(-1, 0.012), "its time is not from 0 to before 0.012 s"),
    (lambda a: a["time"].__setitem__(-1, np.nan), "its time is not from 0 to before 0.012 s"),
    (lambda a: a["time"].__setitem__(-1, 0.0119), "it lies behind the decision, at 0.0"),
])  # fmt: skip
def test_each_fault_of_a_time_has_its_words(stopped, tmp_path, change, words):
    """If this fails, the first difference does not lead to the event that is wrong."""
    shutil.copytree(stopped, tmp_path / "run")
    change_hdf5(tmp_path / "run" / "events.h5", change)
    assert words in audit(tmp_path / "run").first


def test_a_synapse_takes_as_long_as_a_connection_of_that_delay(tmp_path):
    """If this fails, what arrives together in ticks arrives a rounding apart: sums of times are t + (delay + own)."""
    slow = CubaLIF(threshold=0.5, alpha=0.8, alpha_syn=0.7, reset="value")
    network = Network(
        populations=(
            Population("input", (1,), Input()),
            Population("slow", (1,), slow),
            Population("out", (2,), Integrator()),
        ),
        connections=(
            Connection("input", "slow", Dense(np.array([[1.3]])), bias=np.array([0.4])),
            Connection("slow", "out", Dense(np.ones((2, 1))), delay=3),
            Connection(
                "slow", "out", Sparse(np.array([0, 2]), np.arange(2), np.ones(2), (2,), np.array([2, 2])), delay=1
            ),
            Connection("slow", "out", Sparse(np.array([0, 2]), np.arange(2), np.ones(2), (2,), np.array([3.0, 3.0]))),
        ),
        output="out",
        encoding="events",
        tick_seconds=1 / 3000,
    )
    events = es.Events(np.arange(0, 30000, 700), np.zeros(43, int), np.array([0, 43]))
    folder = timed(tmp_path, network, events, duration=35e-3)
    found = audit(folder)
    assert found.agrees, lines(found)
    run = json.loads((folder / "run.json").read_text())
    done = {row["name"]: row for row in run["layers"]}
    assert done["slow"]["spikes"] > 10
    delivered = run["connections"][1]["delivered"]
    assert [row["delivered"] for row in run["connections"][2:]] == [delivered, delivered]
    assert done["out"]["neuron_update"] == delivered  # once for all three


def test_a_spike_that_ends_in_a_pool_is_delivered_there(tmp_path):
    """If this fails, a spike that no synapse waits for behind a pool is lost on its way, not even in flight."""
    few = Sparse(np.array([0, 1, 1]), np.array([0]), np.ones(1), (2,))
    network = Network(
        populations=(Population("input", (1, 4), Input()), Population("out", (2,), IF())),
        connections=(Connection("input", "out", few, before=(Pool((2,), (2,), (0,), "sum"), Flatten())),),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
    )
    events = es.Events(np.array([0, 100, 200]), np.array([0, 2, 3]), np.array([0, 3]))
    found = audit(timed(tmp_path, network, events, duration=2e-3))
    assert found.agrees, lines(found)


@pytest.mark.parametrize("neuron", [
    CubaLIF(threshold=0.5, alpha=0.8, alpha_syn=0.7, reset="value", refractory=3, hold=True),
    LIF(threshold=0.5, alpha=0.8, reset="value", refractory=3, hold=True),
], ids=lambda neuron: type(neuron).__name__)  # fmt: skip
def test_pulses_of_a_bias_reach_a_current_and_no_membrane_at_rest(neuron, tmp_path):
    """If this fails, a bias reaches a refractory neuron in ticks and as a steady drive, but not in pulses."""
    network = Network(
        populations=(
            Population("input", (1,), Input()),
            Population("slow", (1, 3), neuron),
            Population("out", (2,), Integrator()),
        ),
        connections=(
            Connection(
                "input", "slow", Sparse(np.array([0, 3]), np.arange(3), np.ones(3), (1, 3)), bias=np.array([0.3])
            ),
            Connection("slow", "out", Dense(np.ones((2, 3))), before=(Flatten(),)),
        ),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
    )
    events = es.Events(np.arange(0, 9000, 900), np.zeros(10, int), np.array([0, 10]))
    folder = timed(tmp_path, network, events, duration=12e-3, bias_period=1e-3)
    found = audit(folder)
    assert found.agrees, lines(found)
    done = {row["name"]: row for row in json.loads((folder / "run.json").read_text())["layers"]}["slow"]
    assert done["spikes"] > 0
    assert (done["bias"] == 3 * 11) == isinstance(neuron, CubaLIF)


def test_a_spike_in_the_refractory_time_of_its_target_is_dropped(tmp_path):
    """If this fails, the ends of (t, t + t_ref] are wrong. By hand: 10, twice, fires; 2010 is its end."""
    network = Network(
        populations=(Population("input", (1,), Input()), Population("out", (1,), IF(refractory=2, reset="value"))),
        connections=(Connection("input", "out", Dense(np.ones((1, 1)))),),
        output="out",
        encoding="events",
        tick_seconds=1e-3,
    )
    events = es.Events(t=np.array([10, 10, 11, 2010, 2011]), neuron=np.zeros(5, int), offsets=np.array([0, 5]))
    folder = timed(tmp_path, network, events, duration=5e-3)
    assert audit(folder).agrees
    (row,) = json.loads((folder / "run.json").read_text())["connections"]
    assert (row["delivered"], row["dropped"], row["in_flight"]) == (3, 2, 0)
    change_csv(folder / "connections.csv", 0, lambda row: row.update(dropped="1"))
    assert audit(folder).first.endswith("column dropped: the file says 1, the events give 2")


# ----------------------------------------------------------------------------------------------------- the network


def test_the_network_is_found_where_a_run_may_have_left_it(folder, tmp_path, monkeypatch):
    """If this fails, a run folder that moved needs --weights where it did not have to."""
    assert audit(folder).agrees  # beside the run folder
    (tmp_path / "net.h5").rename(tmp_path / "run" / "net.h5")
    assert audit(folder).agrees  # in it
    (tmp_path / "away").mkdir()
    (tmp_path / "run" / "net.h5").rename(tmp_path / "away" / "net.h5")
    with pytest.raises(ValueError, match=r"its network file net\.h5 was not found; name it with --weights"):
        audit(folder)
    monkeypatch.chdir(tmp_path / "away")
    assert audit(folder).agrees  # in the current folder
    monkeypatch.chdir(tmp_path)
    (folder / "timing.json").write_text(json.dumps({"network_path": str(tmp_path / "away" / "net.h5")}))
    assert audit(folder).agrees  # where it lay
    (folder / "timing.json").unlink()
    assert audit(folder, tmp_path / "away" / "net.h5").agrees  # where the user says
    change_json(folder / "run.json", lambda run: run["network"].update(file=None))
    with pytest.raises(ValueError, match=r"run\.json names no network file; name it with --weights"):
        audit(folder)


def test_the_packaged_network_is_found(folder):
    """If this fails, the first run that anyone makes cannot be audited after it was moved."""
    change_json(folder / "run.json", lambda run: run["network"].update(file="digits.h5"))
    with pytest.raises(ValueError, match=r"weights/digits\.h5 is not the network that ran"):
        audit(folder)


def test_another_network_is_refused(folder, tmp_path):
    """If this fails, a run is audited against a network that it did not run, and both hashes stay unknown."""
    store.save(small.network("sum"), tmp_path / "other.h5")
    said = json.loads((folder / "run.json").read_text())["network"]["sha256"]
    other = store.network_hash(small.network("sum"))
    with pytest.raises(ValueError, match=f"is not the network that ran: its hash is {other}, the run's {said}"):
        audit(folder, tmp_path / "other.h5")


def test_without_a_hash_the_counts_still_tell_another_network(folder, tmp_path):
    """If this fails, the recount does not look at weights at all."""
    network = small.network()
    weight = network.connections[3].op.weight.copy()
    weight[0, 0, 1, 1] = 0.0
    other = replace(network.connections[3], op=replace(network.connections[3].op, weight=weight))
    connections = (*network.connections[:3], other, *network.connections[4:])
    store.save(replace(network, connections=connections), tmp_path / "net.h5")
    change_json(folder / "run.json", lambda run: run["network"].update(sha256=None))
    found = audit(folder)
    assert found.first.startswith("run.json, synops.effective: the file says ")
    assert all("effective" in difference for difference in found.differences)
    assert "whether this is the network that ran: the run has no hash of it" in found.unchecked


def test_a_run_with_another_encoding_is_audited_as_it_ran(tmp_path):
    """If this fails, `--encoding` makes every audit fail."""
    network = replace(small.network(), encoding="rate")
    images, _ = small.images(4)
    run = es.simulate(network, images, record="spikes", watchdog=Fixed())
    folder = recorded(tmp_path, network, run)
    store.save(small.network(), tmp_path / "net.h5")  # stored as direct
    found = audit(folder)
    assert found.agrees, lines(found)
    assert json.loads((folder / "run.json").read_text())["input_events"] > 0


def test_a_foreign_network_is_read_as_it_was_for_the_run(tmp_path):
    """If this fails, runs of NIR files of other tools cannot be audited."""
    with h5py.File(shutil.copy(WEIGHTS / "digits.h5", tmp_path / "plain.h5"), "r+") as file:
        del file["eventsnn"]
    network = replace(store.load(tmp_path / "plain.h5", assume="nir"), encoding="direct")
    images = np.load(WEIGHTS / "digits-heldout.npz")["images"][:3]
    run = es.simulate(network, images, ticks=8, record="spikes")
    named = {"network_file": "plain.h5", "network_sha256": store.network_hash(network), "assume": "nir"}
    folder = runs.open_folder(tmp_path / "run", "plain")
    runs.write(run, folder, report.Facts(**named))
    found = audit(folder)
    assert found.agrees, lines(found)
    change_json(folder / "run.json", lambda content: content["network"].update(assume=None))
    with pytest.raises(ValueError, match=r"plain\.h5"):
        audit(folder)


# ---------------------------------------------------------------------------------------------------- refusals


def test_what_was_not_recorded_is_refused(tmp_path):
    """If this fails, a missing layer is read as a silent one."""
    folder = recorded(tmp_path / "none", small.network(), small.run(record="outputs"))
    with pytest.raises(ValueError, match="the events were not recorded; run it again with --record spikes"):
        audit(folder)
    folder = recorded(tmp_path / "part", small.network(), small.run(record=["conv", "output"]))
    with pytest.raises(ValueError, match=r"events of sum, rest were not recorded; run it again with --record spikes"):
        audit(folder)


def spoil(name: str, change):
    """A way to damage one file of a folder."""
    kinds = {"csv": change_csv, "json": change_json, "h5": change_hdf5}
    kind = kinds[name.rsplit(".", 1)[1]]
    return lambda folder: kind(folder / name, *((0,) if kind is change_csv else ()), change)


DAMAGES = [
    *((lambda f, n=n: (f / n).unlink(), f"{n} is missing") for n in ("run.json", "network.json", "samples.csv")),
    *((lambda f, n=n: (f / n).unlink(), f"{n} is missing") for n in ("layers.csv", "trace.h5", "sources.h5")),
    (lambda f: (f / "run.json").write_text("{"), "run.json cannot be read as JSON"),
    (lambda f: (f / "run.json").write_text("[]"), "run.json holds no JSON object"),
    (lambda f: (f / "run.json").write_bytes(b"\xff"), "run.json cannot be read as JSON"),
    (spoil("run.json", lambda r: r.pop("spikes")), "run.json lacks spikes"),
    (spoil("run.json", lambda r: r["synops"].pop("dropped")), "run.json lacks synops.dropped"),
    (spoil("run.json", lambda r: r["synops"].update(dropped="x")), "synops.dropped is 'x', wanted a whole number"),
    (spoil("run.json", lambda r: r.update(spikes=True)), "spikes is True, wanted a whole number"),
    (spoil("run.json", lambda r: r.update(spikes=None)), "spikes is None, wanted a whole number"),
    (spoil("run.json", lambda r: r.update(mode="both")), "only runs in mode sync or async can be recounted"),
    (spoil("run.json", lambda r: r.update(mode="async")), "run.json lacks start"),
    (spoil("run.json", lambda r: r.update(ticks=0)), "20 samples and 0 ticks, wanted 1 or more"),
    (spoil("run.json", lambda r: r.update(ticks=13)), "trace.h5 has outputs of shape (20, 12, 3)"),
    (spoil("run.json", lambda r: r.update(ticks=12.0)), "12.0 for ticks, wanted a whole number"),
    (spoil("run.json", lambda r: r["input"].update(samples=21)), "trace.h5 has outputs of shape (20, 12, 3)"),
    (spoil("run.json", lambda r: r.update(layers={})), "{} for layers, wanted a list"),
    (spoil("run.json", lambda r: r["layers"].pop()), "run.json, layers has 4 rows, wanted 5"),
    (spoil("run.json", lambda r: r["layers"][1].pop("events")), "run.json, layers lacks events"),
    (spoil("run.json", lambda r: r.update(network=[])), "[] for network, wanted an object"),
    (spoil("network.json", lambda n: n.pop("encoding")), "network.json lacks encoding"),
    (spoil("network.json", lambda n: n.update(encoding="morse")), "network.json does not fit"),
    (spoil("network.json", lambda n: n.update(tick_seconds="1")), "network.json does not fit"),
    (spoil("layers.csv", lambda row: row.update(synops="many")), "row input, column synops is 'many', wanted a whole"),
    (spoil("layers.csv", lambda row: row.update(synops="")), "row input, column synops is '', wanted a whole number"),
    (spoil("samples.csv", lambda row: row.update(stop_time="late")), "column stop_time is 'late', wanted a whole"),
    (spoil("statistics.csv", lambda row: row.update(mean="x")), "column mean is 'x', wanted a number"),
    (lambda f: (f / "layers.csv").write_text(""), "layers.csv has 0 rows, wanted 5"),
    (lambda f: (f / "samples.csv").write_text("sample\n0\n"), "samples.csv has 1 rows, wanted 20"),
    (lambda f: (f / "layers.csv").write_text("name,kind\na,b,c\n"), "row 0, has more or fewer cells"),
    (lambda f: (f / "layers.csv").write_text("name,kind\na\n"), "row 0, has more or fewer cells"),
    (lambda f: (f / "layers.csv").write_text('name\n"a\n'), "layers.csv cannot be read as CSV"),
    (lambda f: (f / "layers.csv").write_bytes(b"name\n\xff\n"), "layers.csv cannot be read as CSV"),
    (lambda f: (f / "events.h5").write_text("x"), "events.h5 is no HDF5 file"),
    (lambda f: (f / "events.h5").write_bytes((f / "events.h5").read_bytes()[:3000]), "events.h5: "),
    (spoil("events.h5", lambda a: a.pop("digest")), "events.h5 lacks digest"),
    (spoil("events.h5", lambda a: a.pop("neuron")), "events.h5 lacks neuron"),
    (spoil("events.h5", lambda a: a.update(neuron=a["neuron"][1:])), "events.h5 has neuron of shape"),
    (spoil("events.h5", lambda a: a.update(time=a["time"] * 1.0)), "events.h5 has time of shape"),
    (spoil("events.h5", lambda a: a.update(value=a["value"].astype(int))), "events.h5 has value of shape"),
    (spoil("events.h5", lambda a: a.update(offsets=a["offsets"][1:])), "events.h5, offsets has shape (20,)"),
    (spoil("events.h5", lambda a: a.update(digest=a["digest"][1:])), "events.h5, digest has shape (19, 5)"),
    (spoil("trace.h5", lambda a: a.pop("synops")), "trace.h5 lacks synops"),
    (spoil("trace.h5", lambda a: a.update(outputs=a["outputs"][..., :2])), "trace.h5 has 2 outputs"),
    (spoil("trace.h5", lambda a: a.update(outputs=a["outputs"].astype(int))), "trace.h5 has outputs of shape"),
    (spoil("trace.h5", lambda a: a.update(stop_time=a["stop_time"] * 0)), "trace.h5 has stop times from 0 to 0"),
    (spoil("trace.h5", lambda a: a.update(tied=a["tied"][:, None])), "trace.h5 has tied of shape"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[words for _, words in DAMAGES])
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")  # NaN outputs made whole
def test_a_damaged_folder_is_refused_in_one_sentence(folder, damage, words):
    """If this fails, a damaged folder ends in a traceback, or in an answer about something else."""
    damage(folder)
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the words are looked at below
        audit(folder)
    assert words in str(raised.value)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_link_out_of_the_folder_is_refused(folder):
    """If this fails, an audited folder reads other files of the machine."""
    (folder / "trace.h5").unlink()
    with h5py.File(folder / "trace.h5", "w") as file:
        file["outputs"] = h5py.ExternalLink("/etc/passwd", "x")
    with pytest.raises(ValueError, match=r"trace\.h5: /outputs is an external link"):
        audit(folder)


def test_a_column_nobody_knows_is_said(folder):
    """If this fails, an account of a newer version looks audited where it was not."""
    with (folder / "layers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "layers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "joules"])
        writer.writeheader()
        writer.writerows({**row, "joules": 1} for row in rows)
    found = audit(folder)
    assert found.agrees
    assert "layers.csv, column joules: it is not known here" in found.unchecked


# ------------------------------------------------------------------------------------------------- independence


def test_the_audit_shares_no_code_with_the_engine(folder, stopped):
    """If this fails, an error of the engine can hide in the recount, because both make it."""
    program = (
        "import sys; from eventsnn.audit import audit; assert all(audit(run).agrees for run in sys.argv[1:]); "
        "print(*sorted(m for m in sys.modules if m.split('.')[0] in ('eventsnn', 'numba', 'torch', 'nir')))"
    )
    command = [sys.executable, "-c", program, str(folder), str(stopped)]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    files = ["audit", "hdf5", "import_nir", "lower_nir", "network", "neurons", "recount", "recount_async", "store"]
    assert loaded == ["eventsnn", *(f"eventsnn.{name}" for name in files)]
