"""Many samples: a run is written in chunks and goes on after any end; neither chunks nor workers change a byte."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st
from test_async import rush
from test_cli import call, refused

import eventsnn as es
from eventsnn import report, runs, store
from eventsnn.simulation import pack, prepare

FACTS = report.Facts(network_name="small", network_file="small.h5", input_file="x.npz")
SAMPLES = 12


def job(samples=SAMPLES, network=None, **options):
    x, y = small.images(samples)
    options = {"watchdog": es.SpikeGap(2), "record": "potentials", **options}
    return prepare(network or small.network(), x, y, **options)


def written(folder, made, parts):
    """The run folder of a job that ran in these parts."""
    runs.open_folder(folder, "small")
    for part, run in zip(parts, made.runs(parts), strict=True):
        runs.keep(run, folder, part)
    runs.finish(pack(made, [], range(0)), folder, FACTS, parts)
    return content(folder)


def content(folder):
    """What lies in a run folder, but for the clock's and the figures."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in files.items() if name != "timing.json" and p.suffix != ".png"}


def cut(count, *edges):
    bounds = [0, *sorted({e for e in edges if 0 < e < count}), count]
    return [range(a, b) for a, b in pairwise(bounds)]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """One command in a folder with a network and labelled images."""
    monkeypatch.chdir(tmp_path)
    store.save(small.network(), tmp_path / "net.h5")
    x, y = small.images(SAMPLES)
    np.savez(tmp_path / "images.npz", images=x, labels=y)
    return lambda *more: call(monkeypatch, capsys, *SIMULATE, *more)


SIMULATE = ("simulate", "--weights", "net.h5", "--input", "images.npz", "--cutoff", "spike-gap:2")

# ---------------------------------------------------------------------------------------------------------- chunks


@pytest.mark.parametrize("options", [{}, {"count": "sources"}, {"record": "outputs"}])
def test_chunks_of_any_size_leave_the_same_bytes(tmp_path, options):
    """If this fails, a folder tells how its run was cut up, and a resumed run differs from another."""
    whole = small.run(samples=SAMPLES, **options)
    runs.write(whole, runs.open_folder(tmp_path / "whole", "small"), FACTS)
    wanted = content(tmp_path / "whole")
    assert {"run.json", "trace.h5", "samples.csv"} <= wanted.keys()
    for name, edges in (("ones", range(SAMPLES)), ("fives", (5, 10)), ("uneven", (1, 2, 11))):
        assert written(tmp_path / name, job(**options), cut(SAMPLES, *edges)) == wanted, name


def test_large_datasets_do_not_tell_their_chunks_either(tmp_path):
    """Rows that fill several chunks of HDF5, so that the edges of shards and chunks fall apart."""
    found = []
    for name, edges in (("one", ()), ("some", (7, 30, 31, 77)), ("tens", range(0, 90, 10))):
        made = job(90, watchdog=es.Fixed(), ticks=40, record=["conv", "output"])
        found.append(written(tmp_path / name, made, cut(90, *edges)))
    with h5py.File(tmp_path / "one" / "trace.h5") as file:
        assert file["operations"].chunks[0] < 77
    assert found[1] == found[0]
    assert found[2] == found[0]


def test_continuous_time_is_cut_up_alike(tmp_path):
    """Stop times in seconds, whose mean must not depend on the order of additions."""
    network, inputs = rush()
    options = {"mode": "async", "watchdog": es.FirstSpike(), "record": "spikes", "count": "sources"}
    count = len(inputs)
    found = []
    for name, edges in (("one", ()), ("ones", range(count))):
        made = prepare(network, inputs, np.zeros(count, int), **options)
        found.append(written(tmp_path / name, made, cut(count, *edges)))
    assert count > 1
    assert found[0] == found[1]


@settings(max_examples=20, deadline=None)
@given(edges=st.lists(st.integers(1, SAMPLES - 1), max_size=6), full=st.booleans())
def test_tallies_of_chunks_add_up_to_the_whole(edges, full):
    """If this fails, run.json of a long run holds other numbers than a run in memory."""
    options = {"watchdog": es.Fixed() if full else es.SpikeGap(2)}
    (whole,) = (report.tally(run) for run in job(**options).runs([range(SAMPLES)]))
    sums = peaks = None
    columns, stops = [], []
    for run in job(**options).runs(cut(SAMPLES, *edges)):
        part = report.tally(run)
        sums = part.sums if sums is None else report.together(sums, part.sums)
        peaks = part.peaks if peaks is None else report.together(peaks, part.peaks, max)
        columns.append(part.columns)
        stops += list(part.stops)
    assert sums == whole.sums
    assert sums["samples"] == SAMPLES
    assert sums["short"] == 0 or not full
    assert any(sums["correct_by_tick"])
    assert peaks == whole.peaks
    assert np.array_equal(np.concatenate(columns, axis=1), whole.columns)
    assert stops == list(whole.stops)


def test_threads_run_no_more_than_a_few_chunks_ahead():
    """If this fails, results pile up in memory when they are not taken."""
    from eventsnn.parallel import map_tasks

    begun = []
    found = map_tasks(lambda i: begun.append(i) or i, ((i,) for i in range(100)), 2)
    assert next(found) == 0
    time.sleep(0.2)
    assert len(begun) <= 6
    assert list(found) == list(range(1, 100))


@pytest.mark.parametrize(("encoding", "value"), [("rate", 1.5), ("latency", -0.5), ("direct", np.nan)])
def test_samples_are_checked_before_anything_is_written(command, tmp_path, encoding, value):
    """The last sample is the bad one: nothing may have been run, or be left behind."""
    x, y = small.images(SAMPLES)
    x[-1, 0, 2, 3] = value
    np.savez(tmp_path / "images.npz", images=x, labels=y)
    refused(command("--encoding", encoding, "--out", "r"), str(value))
    assert not (tmp_path / "r").exists()


# ---------------------------------------------------------------------------------------------------------- resume

KILLED = """
import os, signal, sys
from eventsnn import cli
renames, replace, calls = int(sys.argv.pop(1)), os.replace, 0

def killing(old, new):
    global calls
    calls += ".part" in str(old)
    if calls == renames:  # what was written has no name yet
        os.kill(os.getpid(), signal.SIGKILL)
    replace(old, new)

os.replace = killing
cli.main()
"""


def test_a_run_that_is_killed_again_and_again_leaves_the_same_bytes(command, tmp_path):
    """Killed with -9 between two chunks, at the first and the last file of the merge, and between them."""
    command("--record", "spikes", "--out", "whole")
    wanted = content(tmp_path / "whole")
    (tmp_path / "killed.py").write_text(KILLED)
    arguments, left = ["--record", "spikes", "--out", "r"], []
    # First the plan is renamed, then a shard, a figure, the other shards, and samples.csv to run.json, the 11th.
    for moment in (2 + 3, 6, 6, 7, 11, 0):
        killed = [sys.executable, str(tmp_path / "killed.py"), str(moment), *SIMULATE, *arguments]
        ended = subprocess.run(killed, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == (-signal.SIGKILL if moment else 0), ended.stderr
        here = {p.name for p in (tmp_path / "r").iterdir()}
        left.append(
            (len(list((tmp_path / "r" / runs.PART).glob("*.npz"))), {"samples.csv", "events.h5", "run.json"} & here)
        )
        arguments = ["--record", "spikes", "--out", "r", "--resume"]
    merged = {"samples.csv", "events.h5"}
    assert left[:5] == [(2, set()), (7, set()), (12, set()), (12, {"samples.csv"}), (12, merged)]
    assert content(tmp_path / "r") == wanted
    assert (tmp_path / "r" / "raster.png").read_bytes() == (tmp_path / "whole" / "raster.png").read_bytes()


def interrupted(monkeypatch, after, error=KeyboardInterrupt):
    """The next run ends so when it has that many chunks."""
    keep, left = runs.keep, [after]

    def keeping(*arguments):
        if not left[0]:
            monkeypatch.setattr(runs, "keep", keep)
            raise error
        left[0] -= 1
        keep(*arguments)

    monkeypatch.setattr(runs, "keep", keeping)


def test_an_interrupted_run_says_how_to_go_on(command, tmp_path, monkeypatch):
    """Ctrl-C after hours of work must not throw them away."""
    interrupted(monkeypatch, 5)
    code, out, err = command("--out", "r")
    assert (code, out) == (1, "")
    assert f"interrupted; 5 of {SAMPLES} samples are kept in r" in err
    assert "--out r and --resume" in err
    ran = []
    samples = es.simulation.clocked.Worker.__call__
    monkeypatch.setattr(
        es.simulation.clocked.Worker, "__call__", lambda self, x, first: ran.append(first) or samples(self, x, first)
    )
    code, out, err = command("--out", "r", "--resume", "--jobs", "2")
    assert (code, err) == (0, "")
    assert "Run folder: r" in out
    assert sorted(ran) == [0, *range(5, SAMPLES)]  # the first once more, for the figure
    command("--out", "whole")
    assert content(tmp_path / "r") == content(tmp_path / "whole")
    interrupted(monkeypatch, 0)
    assert command("--out", "none")[0] != 0
    assert not (tmp_path / "none").exists()


def test_what_a_failed_run_leaves_behind(command, tmp_path, monkeypatch):
    """A full disk keeps the work; a sample that can never run leaves nothing, unless there was something before."""
    interrupted(monkeypatch, 3, OSError(28, "No space left on device"))
    code, _, err = command("--out", "r")
    assert code == 1
    assert f"No space left on device; 3 of {SAMPLES} samples are kept in r" in err
    interrupted(monkeypatch, 3, RuntimeError("sample 6: a neuron fired without end"))
    assert command("--out", "r", "--resume")[0] == 1
    assert len(list((tmp_path / "r" / runs.PART).glob("*.npz"))) == 6
    with monkeypatch.context() as patch:
        patch.setattr(runs, "save_figure", lambda *_: (_ for _ in ()).throw(ValueError("figure r.png: no space")))
        refused(command("--out", "r", "--resume"), "figure r.png", f"{SAMPLES} of {SAMPLES} samples are kept in r")
    interrupted(monkeypatch, 3, RuntimeError("sample 3: a neuron fired without end"))
    code, _, err = command("--out", "other")
    assert (code, err) == (1, "eventsnn: the run failed: sample 3: a neuron fired without end\n")
    assert not (tmp_path / "other").exists()


def test_a_run_that_cannot_go_on_is_refused(command, tmp_path, monkeypatch):
    """One sentence that names what differs; the shards stay for whoever asks rightly."""
    refused(command("--resume"), "--out")
    refused(command("--resume", "--out", "r"), "no unfinished run", "--resume")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    refused(command("--resume", "--out", "mine"), "no unfinished run")
    interrupted(monkeypatch, 4)
    command("--out", "r", "--seed", "3")
    before = content(tmp_path / "r")
    again = ("--out", "r", "--resume")
    refused(command("--out", "r", "--seed", "3"), "not empty")
    refused(command(*again), "its seed is 3, not 0")
    refused(command(*again, "--seed", "3", "--ticks", "5"), "its ticks is 12, not 5")
    refused(command(*again, "--seed", "3", "--cutoff", "spike-gap:3"), "its cutoff is 'spike-gap:2', not 'spike-gap:3'")
    refused(command(*again, "--seed", "3", "--limit", "11"), "its samples is 12, not 11")
    refused(command(*again, "--seed", "3", "--record", "conv"), "its record is")
    store.save(small.network("sum"), tmp_path / "net.h5")
    refused(command(*again, "--seed", "3", "--cutoff", "fixed"), "its network_sha256 is")
    store.save(small.network(), tmp_path / "net.h5")
    assert content(tmp_path / "r") == before
    assert command(*again, "--seed", "3")[0] == 0


def test_two_processes_do_not_write_one_folder(command, tmp_path, monkeypatch):
    """If this fails, asking again for a run that still goes on damages it."""
    interrupted(monkeypatch, 4)
    command("--out", "r")
    before = content(tmp_path / "r")
    with runs.claimed(tmp_path / "r"):
        refused(command("--out", "r", "--resume"), "r is being written by another process")
    assert content(tmp_path / "r") == before
    assert command("--out", "r", "--resume")[0] == 0


def test_damaged_shards_run_again(command, tmp_path, monkeypatch):
    """What a full disk or a dying machine left of a shard is no shard."""
    command("--out", "whole")
    interrupted(monkeypatch, 6)
    command("--out", "r")
    first, second, third, *_ = sorted((tmp_path / "r" / runs.PART).glob("*.npz"))
    first.write_bytes(first.read_bytes()[:-30])
    second.write_bytes(b"")
    third.write_bytes(third.read_bytes().replace(b"NUMPY", b"NUMPX", 1))
    assert command("--out", "r", "--resume")[0] == 0
    assert content(tmp_path / "r") == content(tmp_path / "whole")


def test_a_complete_folder_is_complete(command, tmp_path):
    """Asking twice does no harm; what the last moment of a killed run left is cleared away."""
    command("--out", "r")
    before = content(tmp_path / "r")
    (tmp_path / "r" / runs.PART).mkdir()
    code, out, err = command("--out", "r", "--resume")
    assert (code, err) == (0, "")
    assert out.startswith("r is complete already")
    assert "accuracy" in out
    assert content(tmp_path / "r") == before
    assert '"accuracy"' in command("--out", "r", "--resume", "--json")[1]


# -------------------------------------------------------------------------------------------------------- clusters


def children():
    """Worker processes of this one."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            line = (status.parent / "cmdline").read_bytes()
            parent = status.read_text().partition("PPid:")[2].split()[0]
        except OSError:
            continue
        if int(parent) == os.getpid() and b"spawn_main(" in line:
            found.append(int(status.parent.name))
    return found


def test_a_lost_worker_of_a_cluster_changes_no_byte(tmp_path):
    """Two processes, one of them killed while it has samples to run."""
    parts, options = cut(40, *range(40)), {"watchdog": es.Fixed(), "ticks": 300, "record": "outputs"}
    wanted = written(tmp_path / "one", job(40, **options), parts)
    folder, made = runs.open_folder(tmp_path / "r", "small"), job(40, jobs="dask:2", **options)
    killed = []
    for part, run in zip(parts, made.runs(parts), strict=True):
        runs.keep(run, folder, part)
        if not killed:
            killed += children()
            threading.Timer(0.05, os.kill, (killed[0], signal.SIGKILL)).start()
    assert len(killed) == 2
    assert children() == []
    runs.finish(pack(made, [], range(0)), folder, FACTS, parts)
    assert content(folder) == wanted


def test_a_cluster_of_ones_own_runs_a_command(command, tmp_path):
    """The same bytes, and not a word on stderr; the scheduler goes on running."""
    from distributed import Client, LocalCluster

    options = {"n_workers": 1, "processes": False, "protocol": "tcp://", "dashboard_address": None}
    command("--out", "one")
    with LocalCluster(**options) as cluster:
        code, out, err = command("--out", "r", "--scheduler", cluster.scheduler_address)
        assert (code, err) == (0, "")
        assert "accuracy" in out
        with Client(cluster, set_as_default=False) as client:
            assert client.submit(int, 3).result() == 3
    assert content(tmp_path / "r") == content(tmp_path / "one")


def test_clusters_that_are_not_there_are_told(command, tmp_path, monkeypatch):
    """One sentence each, and no folder."""
    monkeypatch.setattr(es.parallel, "PATIENCE", 1)
    refused(command("--out", "r", "--scheduler", "tcp://127.0.0.1:1"), "tcp://127.0.0.1:1 cannot be reached")
    refused(command("--out", "r", "--scheduler", "somewhere"), "somewhere cannot be reached")
    refused(command("--out", "r", "--scheduler", "tcp://127.0.0.1:1", "--jobs", "2"), "workers of its own")
    for jobs, word in (("dask:0", "1 or more worker processes"), ("0", "1 or more worker threads"), ("x", "dask:N")):
        refused(command("--out", "r", "--jobs", jobs), word)
    monkeypatch.setitem(sys.modules, "distributed", None)
    refused(command("--out", "r", "--jobs", "dask:2"), "pip install 'eventsnn[dask]'")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_worker_travels_without_samples_and_states(mode):
    """If this fails, every process is sent all samples, or megabytes of scratch memory."""
    network, inputs = rush()
    made = prepare(network, inputs, mode=mode)
    (before,) = made.runs([range(len(made))])
    assert made.worker.spare
    sent = pickle.dumps(made.worker)
    assert len(sent) < 30_000
    again = pickle.loads(sent)
    for _ in range(2):
        results = again(inputs, 0)
        assert [r.stop for r in results] == before.ledger.stop_time.tolist()
    assert len(again.spare) == 1  # kept for the next chunk


# ---------------------------------------------------------------------------------------------------------- memory

PEAK = """
import sys
import numpy as np
from eventsnn import cli

sys.argv = ["eventsnn", "simulate", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as end:
    assert not end.code, end.code
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def chain(depth=24):
    """Two neurons in each of many layers: little to compute, much to account for."""
    from eventsnn.network import Connection, Dense, Network, Population
    from eventsnn.neurons import IF, Input, Integrator

    names = ["input", *(f"layer{i}" for i in range(depth)), "output"]
    ends = [Input(), *(IF(threshold=0.5) for _ in range(depth)), Integrator()]
    return Network(
        populations=tuple(Population(name, (2,), neuron) for name, neuron in zip(names, ends)),
        connections=tuple(Connection(a, b, Dense(np.eye(2))) for a, b in pairwise(names)),
        output="output",
        ticks=10,
    )


def test_memory_grows_neither_with_samples_nor_with_ticks():
    """If this fails, a run of a test set, or of a deep network for many ticks, ends with the machine's memory."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        store.save(chain(), folder / "net.h5")
        np.savez(
            folder / "x.npz", images=np.random.default_rng(0).random((200, 2), np.float32), labels=np.arange(200) % 2
        )
        (folder / "peak.py").write_text(PEAK)

        def peak(samples, ticks):
            """Megabytes at most."""
            names = [
                "--weights",
                "net.h5",
                "--input",
                "x.npz",
                "--limit",
                samples,
                "--ticks",
                ticks,
                "--out",
                f"{samples}-{ticks}",
            ]
            arguments = [sys.executable, "peak.py", *map(str, names)]
            printed = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=True).stdout
            return int(printed.splitlines()[-1]) / 1024

        base = peak(20, 200)
        assert peak(200, 200) < base + 50  # the books of 200 samples take 250
        assert peak(20, 2000) < base + 120  # those of one sample take 5, and several copies of them are made
