"""The run folder: complete or not there, the same bytes for any number of workers, and read back as it was."""

import hashlib
import json
import re
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import small

from eventsnn import report, runs
from eventsnn.inputs import digest
from eventsnn.watchdog import Fixed

FILES = {
    "run.json",
    "samples.csv",
    "layers.csv",
    "connections.csv",
    "network.json",
    "trace.h5",
    "statistics.csv",
    "events.h5",
    "sources.h5",
    "potentials.h5",
    "timing.json",
}
FACTS = report.Facts(network_name="small", network_file="small.h5", input_file="x.npz")


@pytest.fixture(scope="module")
def run():
    return small.run()


@pytest.fixture
def folder(run, tmp_path):
    path = runs.open_folder(tmp_path / "run", "small")
    runs.write(run, path, FACTS)
    return path


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].shape == b[name].shape
        assert a[name].dtype == b[name].dtype
        assert np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f")


# ---------------------------------------------------------------------------------------------------------- writing


def test_a_run_folder_holds_every_promised_file(run, folder):
    """And nothing else: no work in progress is left."""
    assert {path.name for path in folder.iterdir()} == FILES
    found = json.loads((folder / "run.json").read_text())
    assert found == json.loads(json.dumps(runs.describe(run, FACTS).run))
    assert set(json.loads((folder / "timing.json").read_text())) >= {"seconds", "synops_per_second", "versions"}
    assert (folder / "layers.csv").read_text() == report.layers_csv(found)


def test_what_was_not_recorded_has_no_file(tmp_path):
    """Neither empty files nor names of what does not exist."""
    path = runs.open_folder(tmp_path / "run", "small")
    found = runs.write(small.run(record="outputs"), path, FACTS)
    assert {p.name for p in path.iterdir()} == FILES - {"events.h5", "sources.h5", "potentials.h5"}
    assert found["recorded"] == {"events": [], "potentials": [], "sources": []}
    assert found["seconds"] > 0  # the object for stdout has the timing, too
    record = runs.read(path)
    assert record.events is None
    assert record.potentials is None


def test_the_bytes_depend_on_nothing_but_the_run(folder, tmp_path):
    """Two workers, another moment: every file but timing.json is the same to the byte."""
    time.sleep(1.1)  # HDF5 would store times in whole seconds
    other = runs.open_folder(tmp_path / "other", "small")
    runs.write(small.run(jobs=2), other, FACTS)
    for name in FILES - {"timing.json"}:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def test_the_run_is_marked_complete_last(run, tmp_path, monkeypatch):
    """A run that dies while writing leaves no run.json, and reading it says so."""
    path = runs.open_folder(tmp_path / "run", "small")
    put = runs._put_text

    def failing(folder, name, text):
        if name == "timing.json":
            raise OSError("disk full")
        put(folder, name, text)

    monkeypatch.setattr(runs, "_put_text", failing)
    with pytest.raises(OSError, match="disk full"):
        runs.write(run, path, FACTS)
    assert not (path / "run.json").exists()
    with pytest.raises(ValueError, match=r"is a run that did not finish: it has no run\.json"):
        runs.read(path)


def test_no_file_is_ever_half_written(run, tmp_path, monkeypatch):
    """Whatever stands under its own name is whole: the writing happens under another."""
    path = runs.open_folder(tmp_path / "run", "small")
    create = h5py.Group.create_dataset

    def failing(group, name, **options):
        if name == "stop_time":
            raise OSError("disk full")
        return create(group, name, **options)

    monkeypatch.setattr(h5py.Group, "create_dataset", failing)
    with pytest.raises(OSError, match="disk full"):
        runs.write(run, path, FACTS)
    assert "trace.h5" not in {p.name for p in path.iterdir()}
    assert (path / runs.PART / "trace.h5").exists()


# ---------------------------------------------------------------------------------------------------- opening


def test_a_folder_of_ones_own_is_named_by_time_and_network(tmp_path, monkeypatch):
    """Runs of the same second must not share a folder."""
    monkeypatch.chdir(tmp_path)
    folders = [runs.open_folder(None, "my net/v2.h5") for _ in range(3)]
    assert len(set(folders)) == 3
    for folder in folders:
        assert folder.is_dir()
        assert re.fullmatch(r"runs/\d{8}T\d{6}Z-my-net-v2\.h5(-\d)?", folder.as_posix())


def test_a_named_folder_must_be_empty(tmp_path):
    """An old result is never overwritten or mixed with a new one."""
    (tmp_path / "new").mkdir()
    assert runs.open_folder(tmp_path / "new", "x") == tmp_path / "new"
    assert runs.open_folder(tmp_path / "a" / "b", "x").is_dir()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"old is not empty; choose another with --out"):
        runs.open_folder(tmp_path / "old", "x")
    assert [p.name for p in (tmp_path / "old").iterdir()] == ["notes.txt"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    """Before the run, not after it."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"cannot be written: .*; choose another with --out"):
            runs.open_folder(path, "x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(ValueError, match="run folder runs cannot be written"):
        runs.open_folder(None, "x")
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(ValueError, match="cannot be written: Permission denied"):
        runs.open_folder(tmp_path / "locked", "x")


def test_abandoning_leaves_nothing_behind(run, tmp_path):
    """A refused run must not litter; a finished one is not touched."""
    runs.abandon(runs.open_folder(tmp_path / "run", "x"))
    assert list(tmp_path.iterdir()) == []
    folder = runs.open_folder(tmp_path / "run", "x")
    runs.write(run, folder, FACTS)
    runs.abandon(folder)
    assert (folder / "run.json").exists()


# --------------------------------------------------------------------------------------------------------- reading


def test_a_folder_reads_back_as_the_run(run, folder):
    """Everything a plot needs, exactly as it was in memory."""
    record, memory = runs.read(folder), runs.describe(run, FACTS)
    assert record.run == json.loads(json.dumps(memory.run))
    assert record.network == json.loads(json.dumps(memory.network))
    same(record.trace, memory.trace)
    assert np.array_equal(record.trace["outputs"], run.outputs, equal_nan=True)
    assert np.array_equal(record.events, run.events)
    same(record.potentials, run.potentials)
    same(record.thresholds, memory.thresholds)
    assert record.run["recorded"]["events"] == ["input", "conv", "sum", "rest", "output"]
    assert record.thresholds["rest"].ravel().tolist() == [0.8, 1.0, 1.2]
    assert np.broadcast_to(record.thresholds["rest"], (3, 5, 6))[2, 4, 5] == 1.2


@pytest.mark.parametrize("sample", [0, 7, 19])
def test_one_sample_is_a_slice_of_all(folder, sample):
    """Reading one sample of a large run must give that sample, not its neighbour."""
    one, every = runs.read(folder, sample), runs.read(folder)
    assert one.first == sample
    same(one.trace, {name: array[sample : sample + 1] for name, array in every.trace.items()})
    assert np.array_equal(one.events, every.events[every.events["sample"] == sample])
    assert len(one.events) > 0
    same(one.potentials, {name: array[sample : sample + 1] for name, array in every.potentials.items()})


def test_populations_recorded_in_part_are_told(tmp_path):
    """A plot must tell a silent layer from one that was not recorded."""
    record = runs.describe(small.run(record=["conv", "output"]), FACTS)
    assert record.run["recorded"]["events"] == ["input", "conv", "output"]  # the image emits no events
    silent = small.run(cutoff=Fixed(), ticks=1, record=["conv"])
    assert silent.ledger.spikes("output").sum() == 0  # nothing to record: all of it is there
    assert runs.describe(silent, FACTS).run["recorded"]["events"] == ["input", "conv", "output"]


def test_a_run_of_a_part_keeps_its_samples_numbers(run):
    """A single sample run again for a picture goes by its index in the data set."""
    record = runs.describe(run, FACTS, first=100)
    assert record.first == 100
    assert record.events["sample"].min() == 100
    assert run.events["sample"].min() == 0  # what was passed in stays


def test_folders_that_are_no_finished_runs_are_refused(folder, tmp_path):
    """One sentence for each way a folder can be wrong."""
    with pytest.raises(ValueError, match=r"is no run folder: it has no run\.json"):
        runs.read(tmp_path / "absent")
    with pytest.raises(ValueError, match="has no sample 20; there are 20, counted from 0"):
        runs.read(folder, 20)
    with pytest.raises(ValueError, match="has no sample -1"):
        runs.read(folder, -1)
    whole = (folder / "trace.h5").read_bytes()
    (folder / "trace.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"trace\.h5: it cannot be read, the file may be truncated"):
        runs.read(folder)
    (folder / "trace.h5").unlink()
    with h5py.File(folder / "trace.h5", "w") as file:
        file["outputs"] = h5py.ExternalLink("/etc/passwd", "x")
    with pytest.raises(ValueError, match="'outputs' is a link"):
        runs.read(folder)
    (folder / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json cannot be read"):
        runs.read(folder)
    (folder / "run.json").write_text("[]")
    with pytest.raises(ValueError, match=r"run\.json holds no JSON object"):
        runs.read(folder)
    (folder / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="is damaged: 'input' is missing"):
        runs.read(folder)


def test_figures_appear_whole_or_not_at_all(tmp_path):
    """A figure that fails in the middle leaves no file under its name or any other."""

    class Failing:
        def savefig(self, path):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match=r"a\.png cannot be written: No space left"):
        runs.save_figure(Failing(), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_events_of_single_neurons_are_kept(run, folder, tmp_path):
    """If this fails, the heat map of a folder shows other neurons than the run's."""
    from eventsnn.wiring import fan_out

    record = runs.read(folder)
    taps, _ = fan_out(run.network)
    for p in run.network.populations:
        if p.name in run.recorded:
            assert np.array_equal(record.emitted[p.name], run.emitted(p.name).reshape(-1, *p.shape))
    for c in run.network.connections:
        assert np.array_equal(record.fan_out[c.label].ravel(), taps[c.label])
    counted = runs.open_folder(tmp_path / "counted", "small")
    runs.write(small.run(record="outputs", count="sources"), counted, FACTS)
    assert not (counted / "events.h5").exists()
    again = runs.read(counted)
    assert {*again.emitted} == {p.name for p in run.network.populations}
    assert all(np.array_equal(again.emitted[name], array) for name, array in record.emitted.items())
    one = runs.read(counted, 3)
    assert np.array_equal(one.emitted["conv"][0], again.emitted["conv"][3])


def test_the_digest_notices_every_change(run):
    """If this fails, an event can be changed in a folder without the audit seeing it."""
    size = (len(run.predictions), len(run.network.populations))
    events = run.events.copy()
    whole = digest(events, *size)
    assert np.array_equal(digest(events[::-1], *size), whole)  # whatever the order
    for name in ("time", "neuron", "value", "population", "sample"):
        changed = events.copy()
        changed[name][7] += -1 if changed[name][7] >= 1 else 1
        differs = digest(changed, *size) != whole
        assert differs.sum() == (2 if name in ("population", "sample") else 1), name
    assert (digest(events[1:], *size) != whole).sum() == 1
    assert (digest(np.concatenate([events, events[:1]]), *size) != whole).sum() == 1


def test_a_run_made_in_python_is_saved_like_a_commands(run, tmp_path):
    """If this fails, an audit of it does not find the network, or a folder is written over."""
    from eventsnn.store import network_hash, save

    save(run.network, tmp_path / "net.h5")
    found = runs.save_run(run, tmp_path / "run", weights=tmp_path / "net.h5", input="x.npz")
    assert found["network"] == {"file": "net.h5", "sha256": network_hash(run.network)}
    assert found["input"]["file"] == "x.npz"
    assert runs.read_timing(tmp_path / "run")["network_path"] == str((tmp_path / "net.h5").resolve())
    assert "network_path" not in json.loads((tmp_path / "run" / "run.json").read_text())
    with pytest.raises(ValueError, match="is not empty"):
        runs.save_run(run, tmp_path / "run")
    with pytest.raises(ValueError, match="counted spikes only"):
        runs.save_run(small.run(record="outputs", count="spikes"), tmp_path / "bare")
    assert not (tmp_path / "bare").exists()


def test_statistics_are_kept_as_they_were(run, folder):
    """If this fails, the spread over samples in the folder is not that of the run."""
    assert (folder / "statistics.csv").read_text() == report.statistics_csv(run)
    found = json.loads((folder / "run.json").read_text())
    assert found["statistics"] == [row for row in report.statistics(run) if row["scope"] == "network"]


def test_the_digest_stands_beside_the_events_and_in_the_account(run, folder):
    """If this fails, events and digest can be exchanged together without run.json telling."""
    wanted = digest(run.events, 20, 5)
    with h5py.File(folder / "events.h5") as file:
        assert np.array_equal(file["digest"][:], wanted)
    found = json.loads((folder / "run.json").read_text())
    assert found["recorded"]["digest"] == hashlib.sha256(wanted.astype("<u8").tobytes()).hexdigest()
    shuffled = np.random.default_rng(0).permutation(run.events)
    assert np.array_equal(digest(shuffled, 20, 5), wanted)
    assert "digest" not in runs.describe(small.run(record="outputs")).run["recorded"]


def test_two_changes_do_not_cancel_in_the_digest(run):
    """If this fails, events can be exchanged between neurons or ticks of one population unseen."""
    whole = digest(run.events, 20, 5)
    for name in ("time", "neuron"):
        own = (run.events["sample"] == 0) & (run.events["population"] == 1) & (run.events[name] > 0)
        changed = run.events.copy()
        changed[name][np.flatnonzero(own)[0]] += 1
        changed[name][np.flatnonzero(own)[-1]] -= 1
        assert sorted(changed.tolist()) != sorted(run.events.tolist())
        assert (digest(changed, 20, 5) != whole).sum() == 1, name


def test_a_folder_without_names_is_saved_too(run, tmp_path):
    """If this fails, a run made in Python cannot be kept unless its network lies in a file."""
    found = runs.save_run(run, tmp_path / "run")
    assert found["network"]["file"] is None
    assert found["network"]["sha256"]
    assert found["network_path"] is None
    assert runs.read_timing(tmp_path / "run")["network_path"] is None
    assert runs.read(tmp_path / "run").run == json.loads(
        json.dumps(runs.describe(run).run | {"network": found["network"]})
    )
