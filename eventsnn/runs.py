"""The run folder: what one run leaves behind, and how it is read again.

`run.json` is written last, so its presence means the folder is complete. Every file is written under `.part/` first and
then renamed. All of it but `timing.json` is identical, byte for byte, for any number of workers.

While a run goes on, `.part/` holds `plan.json`, what the run is, and a shard for each finished chunk of samples. At the
end the shards are merged, dataset by dataset; a run that was killed goes on from those it has (`docs/scaling.md`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eventsnn import __version__, clocked, conventions, report
from eventsnn.arrays import Store, open_arrays
from eventsnn.energy import BY_TICK, counts_by_tick
from eventsnn.inputs import EVENT, TIMED_EVENT, digest
from eventsnn.network import spread
from eventsnn.neurons import IF

if TYPE_CHECKING:
    import h5py

    from eventsnn.simulation import Job, Run

PART = ".part"
PLAN = "plan.json"
TRACE = ("outputs", "margins", "synops", "stop_time", "predictions", "tied", "stop_reason", "labels", "digests")
COUNTS = "operations"  # what was done by tick, in trace.h5 as well; read only where it is asked for


@dataclass(frozen=True, eq=False)
class Record:
    """A run as plots and later commands see it, from a folder or from memory.

    run: the content of `run.json`. network: the content of `network.json`. trace: arrays by name, outputs and margins
    (samples, ticks, classes), synops (samples, ticks), stop_time, predictions, tied, stop_reason and, where known,
    labels (samples,), digests (samples, 6) of the inputs; of runs in continuous time queue (samples, bins), the most
    entries that waited in each bin. events: structured array (sample, time, population, neuron,
    value) or None. potentials: by population, (samples, ticks, *shape), NaN past the stop, or None. thresholds: by
    population, as far as it spikes and has potentials, a number or an array that broadcasts against its shape. emitted:
    by population, (samples, *shape) int64 events of every neuron, or None. fan_out: by connection, (*source shape)
    structural taps of one event of every source neuron, or None. digest: (samples, populations) of the events, of a run
    in memory that recorded them, or None (`inputs.digest`). first: the index of the first sample held.
    """

    run: Mapping[str, Any]
    network: Mapping[str, Any]
    trace: Mapping[str, np.ndarray]
    events: np.ndarray | None
    potentials: Mapping[str, np.ndarray] | None
    thresholds: Mapping[str, np.ndarray]
    emitted: Mapping[str, np.ndarray] | None = None
    fan_out: Mapping[str, np.ndarray] | None = None
    digest: np.ndarray | None = None
    first: int = 0


def open_folder(path: str | Path | None, network_name: str, plan: Mapping[str, Any] | None = None) -> Path:
    """A new, empty run folder: `path`, or `runs/<UTC time>-<network>` where None. plan: of a run that may be resumed.

    Raises ValueError when a named folder holds anything, is a file, or cannot be written.
    """
    try:
        if path is not None:
            folder = Path(path)
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise ValueError(f"run folder {folder} is not empty; choose another with --out, or empty it")
        else:
            folder = _new_folder(network_name)
        (folder / PART).mkdir()
        if plan is not None:
            save_text(_json(plan), folder / PART / PLAN)
    except OSError as error:
        raise ValueError(
            f"run folder {path or 'runs'} cannot be written: {error.strerror}; choose another with --out"
        ) from None
    return folder


def planned(job: Job, facts: report.Facts, parts: Sequence[range]) -> dict[str, Any]:
    """What a run is, as JSON values: two runs of one plan leave the same bytes behind, shard by shard."""
    worker, content = job.worker, hashlib.sha256(job.digests.tobytes())
    if job.labels is not None:
        content.update(job.labels.astype("<i8").tobytes())
    timed: dict[str, Any] = {}
    if not isinstance(worker, clocked.Worker):
        made = worker.made
        timed = {"start": worker.start, "duration": worker.end - worker.start, "ties": made.ties}
        timed |= {"pulse": made.pulse, "bias_period": made.bias_period}
    return {
        "version": __version__,
        **{name: value for name, value in vars(facts).items() if name != "network_path"},
        "samples": len(job),
        "input": content.hexdigest(),
        "mode": "async" if timed else "sync",
        "ticks": worker.ticks,
        **timed,
        "cutoff": str(worker.policy),
        "cutoff file": getattr(getattr(worker.policy, "calibrated", None), "file", None),
        "dtype": worker.dtype.name,
        "seed": worker.seed,
        "layer_delay": job.layer_delay,
        "count": worker.count,
        "record": [list(job.recorded), list(job.membranes)],
        "samples in a chunk": max(map(len, parts), default=0),
    }


def resume(folder: str | Path, plan: Mapping[str, Any], parts: Sequence[range]) -> list[range]:
    """The parts that the folder of an unfinished run of this plan has whole.

    Raises ValueError when there is no run to go on with, or one of another plan, naming the first thing that differs.
    """
    folder = Path(folder)
    if not (folder / PART).is_dir():
        raise ValueError(f"{folder} holds no unfinished run; leave --resume out to begin one")
    if not (folder / PART / PLAN).exists():
        save_text(_json(plan), folder / PART / PLAN)  # it ended before it began
    was, now = _get_json(folder / PART / PLAN), json.loads(_json(plan))
    for name in {**now, **was}:
        if was.get(name) != now.get(name):
            raise ValueError(
                f"{folder} is another run: its {name} is {was.get(name)!r}, not {now.get(name)!r}; give --resume the "
                "options it was begun with, or begin this one in another --out"
            )
    return [part for part in parts if _is_whole(folder / PART / _shard(part))]


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keeps other processes from going on with an unfinished folder until the body is done, or this process dies."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    with (folder / PART / PLAN).open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{folder} is being written by another process; wait for it, or stop it first") from None
        yield


def is_complete(folder: str | Path) -> bool:
    """Whether the folder holds a finished run. What its last moment may have left in `.part/` is removed then."""
    if not (Path(folder) / "run.json").is_file():
        return False
    shutil.rmtree(Path(folder) / PART, ignore_errors=True)
    return True


def abandon(folder: Path) -> None:
    """Remove what `open_folder` made, when the run will not be: the work in progress, and the folder if empty."""
    shutil.rmtree(folder / PART, ignore_errors=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def write(run: Run, folder: Path, facts: report.Facts) -> dict[str, Any]:
    """Write the run into a folder from `open_folder`; gives the JSON object: `run.json` and `timing.json` together."""
    part = range(len(run.predictions))
    keep(run, folder, part)
    return finish(run, folder, facts, [part])


def keep(run: Run, folder: Path, part: range) -> None:
    """Write the run of one part of the samples as a shard."""
    counted = report.tally(run)
    numbers = {"sums": counted.sums, "peaks": counted.peaks, "seconds": run.seconds}
    lines = report.samples_csv(run, part.start).partition("\n")[2]
    rows = {"samples.csv": _bytes(lines), "numbers": _bytes(_json(numbers)), "columns": np.asarray(counted.columns)}
    rows |= _rows(run, part.start)
    temporary = folder / PART / f"{_shard(part)}.new"
    with temporary.open("wb") as file:
        np.savez(file, **rows)  # type: ignore[arg-type]
    os.replace(temporary, folder / PART / _shard(part))


def finish(run: Run, folder: Path, facts: report.Facts, parts: Sequence[range]) -> dict[str, Any]:
    """Merge the shards of all parts into the files of the run; gives what `write` gives.

    run: any of the parts, or none of them (`simulation.pack`): it says what was run. A merge that was interrupted can
    be done again: the shards are removed when the folder is complete.
    """
    shards = _Shards([folder / PART / _shard(part) for part in parts])
    samples = sum(map(len, parts))
    sums, peaks, seconds = shards.numbers()
    stops = (float(stop) for block in shards.rows("trace.h5/stop_time") for stop in block)
    counted = report.Tally(sums, peaks, shards.columns(samples), stops)
    statistics = report.statistics(run, counted)
    hashed = hashlib.sha256()
    for block in shards.rows("events.h5/digest") if run.events is not None else ():
        hashed.update(block.astype("<u8").tobytes())
    account = _account(run, facts, counted, statistics, hashed.hexdigest())
    timing = {**report.timing(run, sums["synops"]["delivered"], seconds), "network_path": facts.network_path}
    header = report.samples_csv(run).partition("\n")[0] + "\n"
    with _new_file(folder, "samples.csv") as temporary, temporary.open("wb") as file:
        file.write(header.encode())
        file.writelines(block.tobytes() for block in shards.rows("samples.csv"))
    _put_text(folder, "layers.csv", report.layers_csv(account))
    _put_text(folder, "connections.csv", report.connections_csv(account))
    _put_text(folder, "statistics.csv", report.rows_csv(statistics))
    _put_text(folder, "network.json", _json(_network(run, facts)))
    with _new_hdf5(folder, "trace.h5") as file:
        for name in shards.names("trace.h5/"):
            _put_rows(file, name.partition("/")[2], shards.rows(name), samples)
    if run.events is not None:
        offsets = np.cumsum(np.concatenate([[0], *shards.rows("events")]), dtype=np.int64)
        with _new_hdf5(folder, "events.h5") as file:
            for name in run.events.dtype.names or ():
                _put_rows(file, name, shards.rows(f"events.h5/{name}"), int(offsets[-1]))
            _put(file, "offsets", offsets)
            _put_rows(file, "digest", shards.rows("events.h5/digest"), samples)
    if account["recorded"]["sources"]:
        with _new_hdf5(folder, "sources.h5") as file:
            for name in account["recorded"]["sources"]:
                _put_rows(file, f"emitted/{name}", shards.rows(f"sources.h5/{name}"), samples)
            for number, array in enumerate(_fan_out(run).values()):
                _put(file, f"fan_out/{number}", array)
    if run.potentials is not None:
        thresholds = _thresholds(run)
        with _new_hdf5(folder, "potentials.h5") as file:
            for name in run.potentials:
                _put_rows(file, f"potentials/{name}", shards.rows(f"potentials.h5/{name}"), samples)
                if name in thresholds:
                    _put(file, f"thresholds/{name}", thresholds[name])
    for figure in (folder / PART).glob("*.png"):
        os.replace(figure, folder / figure.name)
    _put_text(folder, "timing.json", _json(timing))
    _put_text(folder, "run.json", _json(account))
    shutil.rmtree(folder / PART)  # last: without shards and without run.json the run would be lost
    return {**account, **timing}


def describe(run: Run, facts: report.Facts | None = None, first: int = 0) -> Record:
    """A run in memory as `read` would give it from its folder; `first` is the index its first sample goes by."""
    facts = facts or report.Facts()
    counted, events = report.tally(run), _numbered(run, first)
    emitted, kept = _emitted(run), _digest(run)
    hashed = None if kept is None else hashlib.sha256(kept.astype("<u8").tobytes()).hexdigest()
    return Record(
        run=_account(run, facts, counted, report.statistics(run, counted), hashed),
        network=_network(run, facts),
        trace=_trace(run),
        events=events,
        potentials=None if run.potentials is None else dict(run.potentials),
        thresholds=_thresholds(run),
        emitted=emitted,
        fan_out=None if emitted is None else _fan_out(run),
        digest=kept,
        first=first,
    )


def read(folder: str | Path, sample: int | None = None) -> Record:
    """A finished run folder as a `Record`; with `sample`, that one sample alone (`first` is its index).

    Raises ValueError when the folder holds no finished run, is damaged, or has no such sample.
    """
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        what = "is a run that did not finish" if (folder / PART).is_dir() else "is no run folder"
        raise ValueError(f"{folder} {what}: it has no run.json")
    run, network = _get_json(folder / "run.json"), _get_json(folder / "network.json")
    try:
        samples, recorded = run["input"]["samples"], run["recorded"]
        if sample is not None and not 0 <= sample < samples:
            raise ValueError(f"{folder} has no sample {sample}; there are {samples}, counted from 0")
        part = slice(None) if sample is None else slice(sample, sample + 1)
        with _open(folder / "trace.h5") as store:
            trace = {name: store.read(name, part) for name in (*TRACE, "queue") if name in store.names}
        events = potentials = emitted = fan = None
        thresholds = {}
        if (folder / "events.h5").exists():
            events = _get_events(folder / "events.h5", sample, TIMED_EVENT if run["mode"] == "async" else EVENT)
        if (folder / "potentials.h5").exists():
            with _open(folder / "potentials.h5") as store:
                names = recorded["potentials"]
                potentials = {name: store.read(f"potentials/{name}", part) for name in names}
                if "thresholds" in store.names:
                    spiking = {p["name"] for p in network["populations"] if p["spiking"]}
                    thresholds = {n: store.read(f"thresholds/{n}") for n in names if n in spiking}
        if (folder / "sources.h5").exists():
            with _open(folder / "sources.h5") as store:
                emitted = {name: store.read(f"emitted/{name}", part) for name in recorded["sources"]}
                names = [c["name"] for c in network["connections"]]
                fan = {name: store.read(f"fan_out/{i}") for i, name in enumerate(names)}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder} is damaged: {error} is missing or of another kind") from None
    return Record(run, network, trace, events, potentials, thresholds, emitted, fan, first=sample or 0)


def save_run(
    run: Run, folder: str | Path, *, weights: str | Path | None = None, input: str | Path | None = None
) -> dict[str, Any]:
    """Write a run made in Python into a new folder, as `eventsnn simulate` does; gives the JSON object.

    weights: the network file it ran, input: the file of its samples, both only named (`eventsnn audit` looks the first
    one up). Raises ValueError when the folder holds anything already.
    """
    from eventsnn.store import network_hash

    target = open_folder(folder, "network")
    facts = report.Facts(
        network_name=Path(weights).stem if weights is not None else "network",
        network_file=None if weights is None else Path(weights).name,
        network_path=None if weights is None else str(Path(weights).resolve()),
        network_sha256=network_hash(run.network),
        input_file=None if input is None else Path(input).name,
    )
    try:
        return write(run, target, facts)
    except BaseException:
        abandon(target)
        raise


def read_counts(folder: str | Path) -> np.ndarray | None:
    """What a run did by tick, from its folder: see `energy.counts_by_tick`. None where an older version wrote it."""
    with _open(Path(folder) / "trace.h5") as store:
        if COUNTS not in store.names:
            return None
        counts = store.read(COUNTS)
    if counts.ndim != 3 or counts.shape[2] != len(BY_TICK):
        raise ValueError(f"{folder}: trace.h5 has {COUNTS} of shape {counts.shape}; run it again with this version")
    return counts


def read_timing(folder: str | Path) -> dict[str, Any]:
    """The content of a run folder's `timing.json`: seconds, versions, host."""
    return _get_json(Path(folder) / "timing.json")


def save_text(text: str, path: Path) -> None:
    """Write a text under a temporary name, then rename it: no half-written file."""
    with _renamed(path, "") as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def save_figure(figure: Any, path: Path) -> None:
    """Save a matplotlib figure under a temporary name, then rename it: no half-written picture."""
    with _renamed(path, "figure ") as temporary:
        figure.savefig(temporary)


@contextmanager
def _renamed(path: Path, what: str) -> Iterator[Path]:
    """A temporary name beside `path`, with its suffix, which becomes `path` when the body is done."""
    temporary = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"{what}{path} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------- pieces of a run


def _network(run: Run, facts: report.Facts) -> dict[str, Any]:
    network, depths = run.network, run.network.depths()
    return {
        "name": facts.network_name,
        "file": facts.network_file,
        "sha256": facts.network_sha256,
        "encoding": network.encoding,
        "output": network.output,
        "readout": network.readout,
        "ticks": network.ticks,
        "tick_seconds": network.tick_seconds,
        "labels": None if network.labels is None else list(network.labels),
        "populations": [
            {
                "name": p.name,
                "kind": type(p.neuron).__name__.lower(),
                "spiking": isinstance(p.neuron, IF),
                "shape": list(p.shape),
                "neurons": p.size,
                "depth": depths[p.name],
            }
            for p in network.populations
        ],
        "connections": [
            {
                "name": c.label,
                "source": c.source,
                "target": c.target,
                "operation": type(c.op).__name__.lower(),
                "delay": int(c.delay),
                **conventions.geometry(network, c),
            }
            for c in network.connections
        ],
    }


def _account(
    run: Run, facts: report.Facts, counted: report.Tally, statistics: list[dict[str, Any]], digest: str | None
) -> dict[str, Any]:
    """The content of `run.json`. digest: of all events. Else as `report.summary`."""
    recorded: dict[str, Any] = {"events": [], "potentials": [*(run.potentials or {})], "sources": _known(run)}
    if run.events is not None:  # a population that kept silent is recorded in any case
        kept, layers = counted.sums["recorded"], counted.sums["layers"]
        recorded["events"] = [name for name, number in kept.items() if number == layers[name]["events"]]
        recorded["digest"] = digest
    return {**report.summary(run, facts, counted, statistics), "recorded": recorded}


def _rows(run: Run, first: int) -> dict[str, np.ndarray]:
    """What the files of a run have a row of for each sample, or each event, by file and name."""
    rows = {f"trace.h5/{name}": array for name, array in _trace(run).items()}
    rows[f"trace.h5/{COUNTS}"] = counts_by_tick(run.ledger, run.network)
    events, kept = _numbered(run, first), _digest(run)
    if events is not None and kept is not None:
        rows |= {f"events.h5/{name}": events[name] for name in events.dtype.names or ()}
        rows |= {"events.h5/digest": kept, "events": np.bincount(events["sample"] - first, minlength=len(kept))}
    rows |= {f"sources.h5/{name}": array for name, array in (_emitted(run) or {}).items()}
    return rows | {f"potentials.h5/{name}": array for name, array in (run.potentials or {}).items()}


def _trace(run: Run) -> dict[str, np.ndarray]:
    trace = {name: getattr(run.trace if name in TRACE[:3] else run, name) for name in TRACE}
    if run.interval is not None:
        trace["queue"] = run.interval.pending
    return {name: np.asarray(array) for name, array in trace.items() if array is not None}


def _numbered(run: Run, first: int) -> np.ndarray | None:
    """The recorded events, their samples numbered from `first`."""
    if run.events is None or not first:
        return run.events
    events = run.events.copy()
    events["sample"] += first
    return events


def _digest(run: Run) -> np.ndarray | None:
    return None if run.events is None else digest(run.events, len(run.predictions), len(run.network.populations))


def _thresholds(run: Run) -> dict[str, np.ndarray]:
    """Of spiking populations with potentials."""
    kept = [p for p in run.network.populations if p.name in (run.potentials or {})]
    return {p.name: spread(p.neuron.threshold, p.shape) for p in kept if isinstance(p.neuron, IF)}


def _known(run: Run) -> list[str]:
    """Populations whose events are known neuron by neuron."""
    return [p.name for p in run.network.populations if run.ledger.sources is not None or p.name in run.recorded]


def _emitted(run: Run) -> dict[str, np.ndarray] | None:
    """Events of every neuron, of the populations of which they are known."""
    return {name: run.emitted(name).reshape(-1, *run.network[name].shape) for name in _known(run)} or None


def _fan_out(run: Run) -> dict[str, np.ndarray]:
    from eventsnn.wiring import fan_out

    taps, _ = fan_out(run.network)
    return {c.label: taps[c.label].reshape(run.network[c.source].shape) for c in run.network.connections}


# --------------------------------------------------------------------------------------------------- folder and files


def _new_folder(network_name: str) -> Path:
    """runs/<UTC time>-<network>, with a number behind it if two runs start in one second."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", network_name).strip(".-") or "network"
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{name}"
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        folder = Path("runs") / f"{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not Path("runs").is_dir():
                raise
        else:
            return folder
    raise ValueError(f"run folder runs/{stamp} and 998 more exist already; choose another with --out")


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _put_text(folder: Path, name: str, text: str) -> None:
    with _new_file(folder, name) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


@contextmanager
def _new_file(folder: Path, name: str) -> Iterator[Path]:
    """A file to write that appears under its name only when it is whole."""
    temporary = folder / PART / name
    yield temporary
    os.replace(temporary, folder / name)


@contextmanager
def _new_hdf5(folder: Path, name: str) -> Iterator[h5py.File]:
    """An HDF5 file that appears under its name only when it is whole. Same arrays, same bytes: no times inside."""
    import h5py

    with _new_file(folder, name) as temporary, h5py.File(temporary, "w") as file:
        yield file


def _put(file: h5py.File, dataset: str, array: np.ndarray) -> None:
    """An array as a dataset."""
    array = np.asarray(array)
    file.create_dataset(dataset, data=array, track_times=False, **_packing(array.shape, array.dtype))


def _put_rows(file: h5py.File, dataset: str, parts: Iterable[np.ndarray], count: int) -> None:
    """Arrays behind one another as a dataset of `count` rows. Its bytes do not depend on where one ends."""
    parts = iter(parts)
    head = next(parts)
    shape = (count, *head.shape[1:])
    packing = _packing(shape, head.dtype)
    into = file.create_dataset(dataset, shape=shape, dtype=head.dtype, track_times=False, **packing)
    size, start = packing["chunks"][0] if packing else max(count, 1), 0
    for block in _blocks(itertools.chain([head], parts), size):
        into[start : start + len(block)] = block
        start += len(block)


def _blocks(parts: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The rows of these arrays in blocks of `size`, whole chunks of a dataset, and one of what remains."""
    held: list[np.ndarray] = []
    room = size
    for part in parts:
        while len(part):
            held.append(part[:room])
            room, part = room - len(held[-1]), part[room:]
            if not room:
                yield np.concatenate(held)
                held, room = [], size
    if held:
        yield np.concatenate(held)


def _packing(shape: tuple[int, ...], dtype: np.dtype) -> dict[str, Any]:
    """How a dataset is stored: in compressed chunks of some 256 kB, so that one sample is read alone."""
    if math.prod(shape) <= 512:
        return {}
    row = max(1, math.prod(shape[1:]) * dtype.itemsize)
    chunk = (min(shape[0], max(1, 2**18 // row)), *shape[1:])
    return {"chunks": chunk, "compression": "gzip", "compression_opts": 4, "shuffle": True}


def _shard(part: range) -> str:
    return f"{part.start:09d}.npz"


def _is_whole(shard: Path) -> bool:
    """Whether the file is there with all its content: a machine that died may have kept its name alone."""
    try:
        with zipfile.ZipFile(shard) as file:
            return file.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


@dataclass(frozen=True)
class _Shards:
    """The shards of a run in the order of its samples; one is in memory at a time."""

    files: Sequence[Path]

    def names(self, head: str) -> list[str]:
        """Arrays whose name begins like this."""
        with np.load(self.files[0]) as shard:
            return [name for name in shard.files if name.startswith(head)]

    def rows(self, name: str) -> Iterator[np.ndarray]:
        """One array of every shard."""
        for file in self.files:
            with np.load(file) as shard:
                yield shard[name]

    def numbers(self) -> tuple[dict[str, Any], dict[str, Any], float]:
        """Sums, peaks and seconds of all."""
        numbers = (json.loads(block.tobytes()) for block in self.rows("numbers"))
        whole = next(numbers)
        sums, peaks, seconds = whole["sums"], whole["peaks"], [whole["seconds"]]
        for number in numbers:
            sums, peaks = report.together(sums, number["sums"]), report.together(peaks, number["peaks"], max)
            seconds.append(number["seconds"])
        return sums, peaks, math.fsum(seconds)

    def columns(self, samples: int) -> Iterator[np.ndarray]:
        """(samples,) totals of one quantity after the other; some are gathered at once, in 32 MB."""
        some, first = max(1, 2**22 // max(samples, 1)), 0
        while len(found := np.concatenate([block[first : first + some] for block in self.rows("columns")], axis=1)):
            yield from found
            first += some


@contextmanager
def _open(file: Path) -> Iterator[Store]:
    """`open_arrays`, with the file's name in what it raises."""
    try:
        with open_arrays(file) as store:
            yield store
    except (ValueError, OSError) as error:
        raise ValueError(f"{file}: {error}") from None


def _get_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no JSON object")
    return content


def _get_events(file: Path, sample: int | None, dtype: np.dtype) -> np.ndarray:
    with _open(file) as store:
        part = slice(None)
        if sample is not None:
            start, end = store.read("offsets", slice(sample, sample + 2))
            part = slice(int(start), int(end))
        columns = {name: store.read(name, part) for name in dtype.names or ()}
        events = np.empty(len(columns["sample"]), dtype)
        for name, column in columns.items():
            events[name] = column
    return events
