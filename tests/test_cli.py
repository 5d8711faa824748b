"""The command line: what it prints and leaves behind, and one sentence for every input that cannot be run."""

import csv
import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import small
import torch

import eventsnn as es
from eventsnn import cli, store
from eventsnn.network import Connection, Dense, Network, Population
from eventsnn.neurons import IF, Input, Integrator


def call(monkeypatch, capsys, *arguments):
    """(exit code, stdout, stderr) of one command."""
    monkeypatch.setattr(sys, "argv", ["eventsnn", *map(str, arguments)])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


@pytest.fixture
def files(tmp_path):
    """A network file and a labelled image file that fit."""
    store.save(small.network(), tmp_path / "net.h5")
    x, y = small.images(6)
    np.savez(tmp_path / "images.npz", images=x, labels=y)
    return tmp_path


def refused(result, *words):
    """One sentence on stderr that holds these words, exit code 2, no traceback, nothing on stdout."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert err.startswith("eventsnn: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err
    return err


# ------------------------------------------------------------------------------------------------------- simulate


def test_the_packaged_network_runs_without_any_argument(command):
    code, out, err = command("simulate", "--limit", "8", "--jobs", "2")
    assert (code, err) == (0, "")
    assert "accuracy" in out
    (folder,) = Path("runs").iterdir()
    names = {p.name for p in folder.iterdir()}
    assert {"run.json", "samples.csv", "layers.csv", "connections.csv", "trace.h5", "raster.png"} <= names
    assert not (folder / ".part").exists()


def test_json_holds_every_key_of_the_contract_and_the_runs_own_numbers(command, files):
    arguments = ("--weights", "net.h5", "--input", "images.npz", "--cutoff", "spike-gap:2", "--out", "r", "--json")
    code, out, _ = command("simulate", *arguments)
    found = json.loads(out)
    contract = {
        *("schema", "command", "network", "input", "mode", "ticks", "cutoff", "dtype", "seed", "conventions"),
        *("accuracy", "accuracy_interval", "accuracy_by_tick", "mean_stop", "stop_unit", "stop_reasons", "ties"),
        *("spikes", "input_events", "synops", "macs_input", "layers", "connections", "energy", "seconds"),
        *("synops_per_second", "versions"),
    }
    assert code == 0
    assert contract <= set(found)
    x, y = small.images(6)
    run = es.simulate(small.network(), x, y, watchdog=es.SpikeGap(2))
    assert found["spikes"] == run.ledger.spikes().sum()
    assert found["synops"]["delivered"] == run.ledger.synops().sum()
    assert found["mean_stop"] == run.stop_time.mean()
    assert found["accuracy"] == run.accuracy
    assert found["energy"] == []
    with (files / "r" / "layers.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [r["name"] for r in rows] == [p.name for p in small.network().populations]


def test_options_override_what_the_file_stores(command, files):
    arguments = ("--weights", "net.h5", "--input", "images.npz", "--ticks", "3", "--dtype", "float64", "--limit", "2")
    found = json.loads(command("simulate", *arguments, "--json", "--record", "spikes", "--out", "r")[1])
    assert (found["ticks"], found["dtype"], found["input"]["samples"]) == (3, "float64", 2)
    assert (files / "r" / "events.h5").is_file()
    assert command("plot", "raster", "r", "--sample", "1", "-o", "one.png")[0] == 0
    assert (files / "one.png").stat().st_size > 1000


def test_images_enter_as_spikes_when_told_to(command, files):
    arguments = ("--weights", "net.h5", "--input", "images.npz", "--seed", "3", "--json")
    rate, again, latency = (
        json.loads(command("simulate", *arguments, "--encoding", code, "--out", folder)[1])
        for code, folder in (("rate", "a"), ("rate", "b"), ("latency", "c"))
    )
    assert rate["input_events"] == again["input_events"] > 0
    assert latency["input_events"] == np.count_nonzero(small.images(6)[0])
    assert rate["macs_input"] == 0
    refused(run_on(command, "--encoding", "smoke"), "smoke")


def test_membranes_are_drawn(command, files):
    command("simulate", "--weights", "net.h5", "--input", "images.npz", "--record", "potentials", "--out", "r")
    assert command("plot", "trace", "r", "--population", "rest", "--neurons", "0,4")[0] == 0
    assert (files / "r" / "trace-0.png").stat().st_size > 1000


@pytest.mark.parametrize("jobs", [2, 3])
def test_any_number_of_workers_writes_the_same_bytes(command, files, jobs):
    arguments = ("--weights", "net.h5", "--input", "images.npz", "--record", "potentials")
    command("simulate", *arguments, "--out", "one")
    command("simulate", *arguments, "--jobs", jobs, "--out", "many")
    for path in (files / "one").iterdir():
        if path.name not in ("timing.json", "raster.png"):
            assert path.read_bytes() == (files / "many" / path.name).read_bytes(), path.name


def test_help_answers_at_once():
    """None of the slow libraries may be loaded to print a page of help."""
    code = "import sys; sys.argv = ['eventsnn', '--help']; import eventsnn.cli as c; c.main(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numba", "h5py", "matplotlib", "numpy", "torch", "scipy", "joblib"} & set(loaded)


# ------------------------------------------------------------------------------------------------------ bad input


def run_on(command, *more, out="r"):
    result = command("simulate", "--weights", "net.h5", "--input", "images.npz", "--out", out, *more)
    return result


def nothing_written(folder):
    return not (folder / "r").exists() and not (folder / "runs").exists()


def test_a_truncated_network_file(command, files):
    whole = (files / "net.h5").read_bytes()
    (files / "net.h5").write_bytes(whole[: len(whole) // 2])
    refused(run_on(command), "net.h5")
    assert nothing_written(files)


def test_a_foreign_hdf5_file(command, files):
    with h5py.File(files / "net.h5", "w") as file:
        file["something"] = [1, 2]
    refused(run_on(command), "net.h5")
    assert nothing_written(files)


def test_a_text_file_as_network(command, files):
    (files / "net.h5").write_text("not a network")
    refused(run_on(command), "net.h5")


def datasets(file, end):
    found = []
    file.visititems(lambda name, x: found.append(name) if isinstance(x, h5py.Dataset) and name.endswith(end) else None)
    return [name for name in found if name.startswith("eventsnn")]


def test_a_missing_dataset_is_named(command, files):
    with h5py.File(files / "net.h5", "a") as file:
        name = datasets(file, "weight")[0]
        del file[name]
    refused(run_on(command), name.split("/")[-1], "missing")
    assert nothing_written(files)


@pytest.mark.parametrize("bad", [np.array([b"x"]), np.zeros((2, 2, 2, 2, 2)), np.full((3, 1, 3, 3), np.nan)])
def test_weights_of_another_kind_shape_or_not_a_number(command, files, bad):
    with h5py.File(files / "net.h5", "a") as file:
        name = next(n for n in datasets(file, "weight") if file[n].shape == (3, 1, 3, 3))
        del file[name]
        file[name] = bad
    refused(run_on(command), "net.h5")
    assert nothing_written(files)


def graph(connections, extra=()):
    ends = (Population("input", (2,), Input()), Population("a", (2,), IF()), Population("out", (2,), Integrator()))
    return Network(populations=(*ends, *extra), connections=connections, output="out", ticks=4)


def test_a_cycle_without_delay_names_the_cycle():
    eye = Dense(np.eye(2))
    loop = (Connection("a", "b", eye), Connection("b", "a", eye), Connection("input", "a", eye))
    with pytest.raises(ValueError, match=r"cycle without delay: (a -> b -> a|b -> a -> b)") as error:
        graph((*loop, Connection("a", "out", eye)), (Population("b", (2,), IF()),))
    assert "delay of 1 tick" in str(error.value)


def test_a_population_nobody_feeds_is_named():
    eye = Dense(np.eye(2))
    with pytest.raises(ValueError, match="'lonely' has no incoming connection"):
        graph((Connection("input", "a", eye), Connection("a", "out", eye)), (Population("lonely", (2,), IF()),))


def test_images_of_another_shape(command, files):
    np.savez(files / "images.npz", images=np.zeros((6, 1, 7, 9)), labels=np.zeros(6, int))
    refused(run_on(command), "(6, 1, 7, 9)", "(1, 5, 6)")
    assert nothing_written(files)


def test_images_that_fit_two_layouts(command, files):
    square = (Population("input", (4, 4, 4), Input()), Population("out", (4, 4, 4), Integrator()))
    net = Network(populations=square, connections=(Connection("input", "out"),), output="out", ticks=2)
    store.save(net, files / "net.h5")
    np.savez(files / "images.npz", images=np.zeros((2, 4, 4, 4)))
    refused(run_on(command), "--layout")
    assert run_on(command, "--layout", "hwc")[0] == 0


def test_labels_of_another_length(command, files):
    np.savez(files / "images.npz", images=small.images(6)[0], labels=np.zeros(5, int))
    refused(run_on(command), "5", "6")
    assert nothing_written(files)


def test_more_ticks_than_the_tables_have(command, files):
    net = small.network()
    first = replace(net.connections[0], bias=None, shift=np.ones((4, 3)))
    store.save(replace(net, connections=(first, *net.connections[1:]), ticks=4), files / "net.h5")
    refused(run_on(command, "--ticks", "5"), "5", "4")
    assert nothing_written(files)


@pytest.mark.parametrize(
    ("cutoff", "word"),
    [
        ("sometimes", "unknown cutoff"),
        ("spike-gap:0", "1 or more"),
        ("spike-gap:x", "not a number"),
        ("spike-gap", "needs a value"),
        ("topk:1.5", "on=counts"),
        ("confidence:1.5,on=counts", "probability"),
        ("first-spike:3", "no value"),
        ("topk:1/2,on=counts", "2 values of beta for 12 ticks"),
    ],
)
def test_a_cutoff_that_is_unknown_or_does_not_fit(command, files, cutoff, word):
    refused(run_on(command, "--cutoff", cutoff), word)
    assert nothing_written(files)


def test_counting_cutoffs_on_a_summed_readout(command, files):
    store.save(small.network("sum"), files / "net.h5")
    for cutoff in ("spike-gap:2", "first-spike"):
        refused(run_on(command, "--cutoff", cutoff), "sums logits")


def test_an_occupied_run_folder(command, files):
    (files / "r").mkdir()
    (files / "r" / "mine.txt").write_text("keep")
    refused(run_on(command), "not empty", "--out")
    assert [p.name for p in (files / "r").iterdir()] == ["mine.txt"]


def test_a_run_folder_that_cannot_be_written(command, files):
    (files / "file").write_text("in the way")
    refused(run_on(command, out="file/inside"), "cannot be written")


def test_unknown_arguments_are_refused_in_a_sentence(command):
    refused(command("simulate", "--sideways", "1"), "--sideways")
    refused(command("calibrate"), "calibrate")
    refused(command("simulate", "--mode", "async"), "async")
    refused(command("simulate", "--jobs", "dask:two"), "jobs", "dask:N")
    refused(command("calibrate", "--jobs", "dask:2"), "--jobs")


def test_a_network_without_ticks_asks_for_them(command, files):
    store.save(replace(small.network(), ticks=None), files / "net.h5")
    refused(run_on(command), "--ticks")


def test_weights_alone_ask_for_input(command, files):
    refused(command("simulate", "--weights", "net.h5"), "--input")


def test_files_that_are_not_there(command, files):
    refused(command("simulate", "--weights", "none.h5", "--input", "images.npz"), "none.h5")
    refused(command("simulate", "--weights", "net.h5", "--input", "none.npz"), "none.npz")
    refused(command("plot", "raster", "none"), "none")
    assert nothing_written(files)


# ---------------------------------------------------------------------------------------------- convert and verify

FACTORY = """
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
                         nn.Linear(4 * 2 * 3, 3))
"""


@pytest.fixture
def checkpoint(files, monkeypatch):
    """A small trained-looking network: factory module, checkpoint and images."""
    (files / "architecture.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(files))
    sys.modules.pop("architecture", None)
    import architecture

    torch.manual_seed(0)
    module = architecture.small()
    torch.save(module.state_dict(), files / "small.pth")
    rng = np.random.default_rng(0)
    np.savez(files / "images.npz", images=rng.integers(0, 256, (12, 4, 6), np.uint8), labels=rng.integers(0, 3, 12))
    return files


def convert(command, *more):
    arguments = ("--model", "architecture:small", "--calibrate", "images.npz", "--ticks", "16")
    return command("convert", "small.pth", *arguments, "-o", "new.h5", *more)


def test_convert_simulate_verify_inspect(command, checkpoint):
    code, out, err = convert(command, "--check", "images.npz")
    assert (code, err) == (0, "")
    assert "16 ticks" in out
    assert "correlation" in out
    assert command("simulate", "--weights", "new.h5", "--input", "images.npz", "--out", "r")[0] == 0
    code, out, err = command("verify", "small.pth", "new.h5", "--input", "images.npz", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["differing"] == 0
    assert found["spikes"] > 0
    assert "12 samples agree" in command("verify", "small.pth", "new.h5", "--input", "images.npz")[1]
    code, out, _ = command("inspect", "new.h5", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["nir_faithful"] is False
    assert shown["nir_reasons"]
    assert [p["neurons"] for p in shown["populations"]] == [24, 96, 3]
    assert "Populations" in command("inspect", "new.h5")[1]


def test_verify_notices_another_network(command, checkpoint):
    convert(command)
    net = store.load(checkpoint / "new.h5")
    first = net.connections[0]
    weight = first.op.weight.copy()
    weight[0, 0, 1, 1] += 0.25
    changed = replace(first, op=replace(first.op, weight=weight))
    store.save(replace(net, connections=(changed, *net.connections[1:])), checkpoint / "other.h5")
    code, out, _ = command("verify", "small.pth", "other.h5", "--input", "images.npz")
    assert code == 1
    assert "NOT a rounding tie" in out


def test_verify_takes_events_as_simulate_does(command, checkpoint):
    """A state dict as tools/train.py leaves it, a network of events, and the samples that --keys names."""
    convert(command)
    state = torch.load(checkpoint / "small.pth", weights_only=True)
    torch.save({"state_dict": state, "training": {"seconds": 1.5, "device": "cpu"}}, checkpoint / "trained.pt")
    moving = replace(store.load(checkpoint / "new.h5"), encoding="events", tick_seconds=0.01)
    store.save(moving, checkpoint / "moving.h5")
    rng, samples, each = np.random.default_rng(1), 6, 100
    with h5py.File(checkpoint / "events.h5", "w") as file:
        file["t"] = np.sort(rng.integers(0, 200_000, (samples, each)), axis=1).ravel()
        file["x"], file["y"] = rng.integers(0, 6, samples * each), rng.integers(0, 4, samples * each)
        file["offsets"] = np.arange(samples + 1) * each
        file["called"], file["split"] = np.arange(samples) % 3, np.arange(samples) % 2
    given = ("--input", "events.h5", "--dtype", "float64", "--json")
    code, out, err = command("verify", "trained.pt", "moving.h5", *given, "--keys", "split=1")
    assert (code, err) == (0, "")
    odd = json.loads(out)
    assert (odd["samples"], odd["agreeing"], odd["ticks"], odd["differing"]) == (3, 3, 16, 0)
    assert odd["spikes"] > 50
    named = ("--keys", "t,x,y,-,offsets,called,split=1", "--limit", "2")
    assert json.loads(command("verify", "trained.pt", "moving.h5", *given, *named)[1])["samples"] == 2
    said = ("--encoding", "events", "--tick", "10ms", "--keys", "split=1")
    assert json.loads(command("verify", "small.pth", "new.h5", *given, *said)[1]) == odd
    refused(command("verify", "small.pth", "new.h5", *given), "it holds events, but the network takes images")
    refused(
        command("verify", "small.pth", "new.h5", *given, *said[:2]), "give tick_seconds (on the command line: --tick)"
    )
    refused(command("verify", "trained.pt", "moving.h5", "--input", "images.npz"), "but the network takes events")
    refused(command("verify", "trained.pt", "moving.h5", *given, "--keys", "split=2"), "no sample has split = 2")


def test_verify_takes_a_layout_as_simulate_does(command, checkpoint):
    convert(command)
    with np.load(checkpoint / "images.npz") as file:
        np.savez(checkpoint / "last.npz", pixels=file["images"][..., None])
    given = ("--input", "last.npz", "--keys", "pixels", "--json", "--layout")
    assert json.loads(command("verify", "small.pth", "new.h5", *given, "hwc")[1])["agreeing"] == 12
    refused(command("verify", "small.pth", "new.h5", *given, "chw"), "(layout chw)")


def test_export_refuses_what_another_reader_would_run_differently(command, checkpoint):
    convert(command)
    refused(command("export", "--nir", "new.h5", "-o", "out.nir"), "--lossy")
    assert not (checkpoint / "out.nir").exists()
    assert command("export", "--nir", "new.h5", "-o", "out.nir", "--lossy")[0] == 0
    import nir

    assert nir.read(checkpoint / "out.nir").nodes


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("sprung"),))


def test_a_checkpoint_that_would_execute_code_is_refused_and_does_not(command, checkpoint):
    with (checkpoint / "small.pth").open("wb") as file:
        pickle.dump(Trap(), file)
    refused(convert(command), "small.pth")
    torch.save({"state_dict": Trap()}, checkpoint / "small.pth")
    refused(convert(command), "small.pth")
    assert not (checkpoint / "sprung").exists()
    assert not (checkpoint / "new.h5").exists()


def test_a_checkpoint_that_is_not_a_state_dict(command, checkpoint):
    torch.save([1, 2, 3], checkpoint / "small.pth")
    refused(convert(command), "small.pth")
    (checkpoint / "small.pth").write_text("text")
    refused(convert(command), "small.pth")
    assert not (checkpoint / "new.h5").exists()


def test_relu_networks_need_calibration(command, checkpoint):
    result = command("convert", "small.pth", "--model", "architecture:small", "--input-shape", "1,4,6", "-o", "new.h5")
    refused(result, "calibrat")
    assert not (checkpoint / "new.h5").exists()


def test_an_unknown_model_lists_the_known_ones(command, checkpoint):
    refused(command("convert", "small.pth", "--model", "resnet99"), "resnet20")


def test_a_failed_run_leaves_no_folder(command, files):
    """A neuron that fires without end in one tick: exit code 1, and nothing half-written."""
    ends = (Population("input", (1,), Input()), Population("out", (1,), IF(reset_amount=1e-9, multi_spike=True)))
    net = Network(populations=ends, connections=(Connection("input", "out"),), output="out", ticks=2)
    store.save(net, files / "net.h5")
    np.savez(files / "images.npz", images=np.full((2, 1), 5.0))
    code, out, err = run_on(command)
    assert (code, out) == (1, "")
    assert "fired more than" in err
    assert nothing_written(files)


def test_a_copy_of_the_package_finds_its_network_beside_itself(tmp_path):
    """An installed wheel holds eventsnn/weights; a checkout has weights/ beside the package."""
    found = cli.packaged("digits.h5")
    assert found.is_file()
    installed = tmp_path / "eventsnn"
    shutil.copytree(Path(cli.__file__).parent, installed, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    (installed / "weights").mkdir()
    shutil.copy(found, installed / "weights" / "digits.h5")
    code = "from eventsnn import cli; print(cli.packaged('digits.h5'))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(printed.stdout.strip()) == installed / "weights" / "digits.h5"


# ------------------------------------------------------------------------------------------------ energy and audit


@pytest.fixture
def counted(command, files):
    """A run folder with recorded spikes."""
    command("simulate", "--weights", "net.h5", "--input", "images.npz", "--record", "spikes", "--out", "r")
    return files / "r"


def test_energy_shows_every_table(command, counted):
    """If this fails, a table is left out where tables stand side by side."""
    from eventsnn import energy

    code, out, err = command("energy", "r")
    assert (code, err) == (0, "")
    for name in energy.table_names():
        assert sum(line.startswith(f"{name} ") for line in out.splitlines()) == 1, name
    listed = command("energy", "--tables")[1]
    assert {line.split(":")[0] for line in listed.splitlines() if line[:1].isalnum()} >= {*energy.table_names()}


def test_energy_as_json_and_csv(command, counted):
    """If this fails, a script reads other energies than the library computes."""
    from eventsnn import energy, runs

    arguments = ("--table", "45nm-fp32", "--table", "loihi1-frady2020", "--tick", "2ms", "--csv", "e.csv", "--json")
    found = json.loads(command("energy", "r", *arguments)[1])
    record = runs.read("r")
    for entry, name in zip(found["energy"], ("45nm-fp32", "loihi1-frady2020"), strict=True):
        wanted = energy.account(record.run, record.network, name, tick_seconds=0.002)
        assert entry == json.loads(json.dumps(wanted))
    assert found["synops"] == record.run["synops"]
    assert found["conventions"]["totals"]["exact"] == record.run["synops"]["structural"]
    with Path("e.csv").open() as table:
        rows = list(csv.DictReader(table))
    for entry in found["energy"]:
        total = sum(float(row["picojoule"]) for row in rows if row["table"] == entry["table"])
        assert total == pytest.approx(entry["picojoule"])


def test_energy_by_layer_rules_and_for_a_paper(command, counted):
    """If this fails, a way to show a run's energy is gone."""
    code, out, _ = command("energy", "r", "--table", "45nm-fp32", "--input-macs", "per-tick")
    assert code == 0
    assert "Operations by layer" in out
    code, out, _ = command("energy", "r", "--conventions", "--csv", "c.csv")
    assert code == 0
    assert "by exact" in out
    assert Path("c.csv").read_text().startswith("name,")
    code, out, _ = command("energy", "r", "--methods", "--table", "45nm-fp32")
    assert code == 0
    assert "\\begin{tabular}" in out
    assert "was run event by event with eventsnn" in out


def test_wrong_questions_about_energy(command, counted, files):
    """If this fails, a mistyped option is answered with a traceback, or with numbers nobody asked for."""
    refused(command("energy"), "needs a run folder")
    refused(command("energy", "absent"), "is no run folder")
    refused(command("energy", "r", "--table", "45nm"), "no energy table '45nm'")
    refused(command("energy", "r", "--tick", "soon"), "tick is 'soon'")
    refused(command("energy", "r", "--input-macs", "never"), "input-macs is 'never'")
    (files / "my.toml").write_text("name = 1")
    refused(command("energy", "r", "--table", "my.toml"), "my.toml", "name is 1, wanted text")
    old = json.loads((counted / "network.json").read_text())
    for connection in old["connections"]:
        del connection["events"]
    (counted / "network.json").write_text(json.dumps(old))
    refused(command("energy", "r"), "older version", "run it again")


MY_TABLE = """
name = "my-chip"
title = "My chip [prototype]"
technology = "22 nm"
scope = ["arithmetic"]
basis = "measured"
source = "page 7"
note = "see [static] and [/price] of [1]"

[[price]]
operation = "ac"
value = 2
unit = "pJ"
scope = ["arithmetic"]
basis = "measured"
source = "page 7"
"""


def test_a_table_of_ones_own_prices_a_run(command, counted, files):
    """If this fails, a user's own prices do not reach the run, or brackets in a note are taken for style."""
    (files / "my.toml").write_text(MY_TABLE)
    found = json.loads(command("energy", "r", "--table", "my.toml", "--json")[1])
    account = json.loads((counted / "run.json").read_text())
    assert [a["table"] for a in found["energy"]] == ["my-chip"]
    assert found["energy"][0]["picojoule"] == 2 * account["synops"]["ac"] > 0
    code, out, err = command("energy", "r", "--table", "my.toml")
    assert (code, err) == (0, "")
    assert "my-chip: see [static] and [/price] of [1]" in out
    assert command("plot", "energy", "r", "--table", "my.toml", "--table", "45nm-fp32", "-o", "two.png")[0] == 0
    assert (files / "two.png").stat().st_size > 1000


def test_a_paper_is_given_no_energy_unless_a_table_is_named(command, counted):
    """If this fails, a methods section quotes energies nobody chose."""
    out = command("energy", "r", "--methods")[1]
    assert "By the table" not in out
    account = json.loads((counted / "run.json").read_text())
    assert account["network"]["sha256"] in out
    assert account["input"]["sha256"] in out
    assert f"NumPy {np.__version__}" in out
    assert out.count("By the table") == 0
    both = command("energy", "r", "--methods", "--table", "45nm-fp32", "--table", "lemaire2022")[1]
    assert both.count("By the table") == 2


def test_rules_as_json_and_csv_are_the_same(command, counted):
    """If this fails, a script and a spreadsheet read different ratios."""
    command("energy", "r", "--conventions", "--csv", "c.csv")
    found = json.loads(command("energy", "r", "--json")[1])
    with Path("c.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["name"] for row in rows] == [row["name"] for row in found["conventions"]["rows"]]
    for row, wanted in zip(rows, found["conventions"]["rows"], strict=True):
        assert {key: "" if value is None else str(value) for key, value in wanted.items()} == row


def test_energy_does_not_change_the_folder(command, counted):
    """If this fails, looking at a run writes into it."""
    before = {path.name: path.read_bytes() for path in counted.iterdir()}
    for more in ((), ("--conventions",), ("--methods",), ("--json",)):
        assert command("energy", "r", *more)[0] == 0
    assert {path.name: path.read_bytes() for path in counted.iterdir()} == before


def test_wrong_questions_about_pictures_of_energy(command, counted, files):
    """If this fails, a picture of nothing is drawn, or a traceback ends the command."""
    refused(command("plot", "energy", "r"), "--table")
    refused(command("plot", "energy", "r", "--table", "45nm"), "no energy table '45nm'")
    refused(command("plot", "energy", "r", "--table", "45nm-fp32", "--tick", "-1ms"), "tick is '-1ms'")
    refused(command("plot", "energy", "r", "--table", "45nm-fp32", "--input-macs", "never"), "input-macs is 'never'")
    refused(command("plot", "energy", "absent", "--table", "45nm-fp32"), "is no run folder")
    refused(command("plot", "heatmap", "r"), "--population")
    refused(command("plot", "heatmap", "r", "--population", "x"), "there is no population 'x'")
    refused(command("plot", "heatmap", "r", "--population", "input"), "is an analog image")
    refused(command("plot", "heatmap", "r", "--population", "conv", "--sample", "6"), "there are 0 to 5")
    command("simulate", "--weights", "net.h5", "--input", "images.npz", "--out", "bare")
    refused(command("plot", "heatmap", "bare", "--population", "conv"), "--count sources", "--record spikes")
    refused(command("energy", "r", "--csv", "absent/e.csv"), "cannot be written")
    old = json.loads((counted / "network.json").read_text())
    for connection in old["connections"]:
        for key in [*connection]:
            if key not in ("name", "source", "target", "operation", "delay"):
                del connection[key]
    (counted / "network.json").write_text(json.dumps(old))
    for arguments in (("energy", "r"), ("plot", "energy", "r", "--table", "45nm-fp32")):
        refused(command(*arguments), "older version", "run it again")


def test_energy_and_heat_map_are_drawn(command, counted):
    """If this fails, a command reports a picture it did not write."""
    assert command("plot", "energy", "r", "--table", "45nm-fp32")[0] == 0
    assert (counted / "energy.png").stat().st_size > 1000
    assert command("plot", "heatmap", "r", "--population", "conv", "--sample", "1")[0] == 0
    assert (counted / "heatmap-conv.png").stat().st_size > 1000


def test_events_of_every_neuron_on_request(command, files):
    """If this fails, a map of a long run needs every event on disk."""
    code, _, _ = command("simulate", "--weights", "net.h5", "--input", "images.npz", "--count", "sources", "--out", "s")
    assert code == 0
    assert (files / "s" / "sources.h5").is_file()
    assert not (files / "s" / "events.h5").exists()
    assert command("plot", "heatmap", "s", "--population", "rest")[0] == 0
    refused(run_on(command, "--count", "spikes"), "count is 'spikes', wanted connections or sources")


def test_an_audit_agrees_until_a_book_is_changed(command, counted):
    code, out, err = command("audit", "r")
    assert (code, err) == (0, "")
    assert "The books agree" in out
    text = (counted / "layers.csv").read_text().splitlines()
    header, row = text[0].split(","), text[2].split(",")
    at = header.index("spikes")
    row[at] = str(int(row[at]) + 1)
    (counted / "layers.csv").write_text("\n".join([*text[:2], ",".join(row), *text[3:]]) + "\n")
    code, out, _ = command("audit", "r", "--json")
    found = json.loads(out)
    assert code == 1
    assert not found["agrees"]
    assert found["differing"] == 1
    assert "layers.csv, row conv, column spikes" in found["first"]
    assert command("audit", "r")[0] == 1


def test_kernels_run_where_no_folder_can_be_written():
    """If this fails, an installation that is read-only for a user without a home cannot even be imported."""
    script = """
import numba.core.caching as caching
import numpy as np

caching.CacheImpl._locator_classes = []  # as if no folder could be written
from eventsnn import kernels_sync
print(kernels_sync.best_class(np.array([1.0, 3.0, 2.0]), np.zeros(0)), type(kernels_sync.best_class._cache).__name__)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "(1, False) NullCache", "")
