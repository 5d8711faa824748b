"""The run folder: what one run leaves behind, and how it is read again.

`run.json` is written last, so its presence means the folder is complete. Every file is written under `.part/` first and
then renamed. All of it but `timing.json` is identical, byte for byte, for any number of workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eventsnn import conventions, report
from eventsnn.arrays import Store, open_arrays
from eventsnn.energy import BY_TICK, counts_by_tick
from eventsnn.inputs import EVENT, TIMED_EVENT, digest
from eventsnn.network import spread
from eventsnn.neurons import IF

if TYPE_CHECKING:
    from eventsnn.simulation import Run

PART = ".part"
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


def open_folder(path: str | Path | None, network_name: str) -> Path:
    """A new, empty run folder: `path`, or `runs/<UTC time>-<network>` where None.

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
    except OSError as error:
        raise ValueError(
            f"run folder {path or 'runs'} cannot be written: {error.strerror}; choose another with --out"
        ) from None
    return folder


def abandon(folder: Path) -> None:
    """Remove what `open_folder` made, when the run will not be: the work in progress, and the folder if empty."""
    shutil.rmtree(folder / PART, ignore_errors=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def write(run: Run, folder: Path, facts: report.Facts) -> dict[str, Any]:
    """Write the run into a folder from `open_folder`; gives the JSON object: `run.json` and `timing.json` together."""
    record = describe(run, facts)
    timing = {**report.timing(run), "network_path": facts.network_path}
    _put_text(folder, "samples.csv", report.samples_csv(run))
    _put_text(folder, "layers.csv", report.layers_csv(record.run))
    _put_text(folder, "connections.csv", report.connections_csv(record.run))
    _put_text(folder, "statistics.csv", report.statistics_csv(run))
    _put_text(folder, "network.json", _json(record.network))
    with _new_hdf5(folder, "trace.h5") as put:
        for name, array in record.trace.items():
            put(name, array)
        put(COUNTS, counts_by_tick(run.ledger, run.network))
    if record.events is not None:
        with _new_hdf5(folder, "events.h5") as put:
            for name in record.events.dtype.names or ():
                put(name, record.events[name])
            samples = np.arange(record.run["input"]["samples"] + 1)
            put("offsets", np.searchsorted(record.events["sample"], samples).astype(np.int64))
            assert record.digest is not None
            put("digest", record.digest)
    if record.emitted is not None:
        with _new_hdf5(folder, "sources.h5") as put:
            for name, array in record.emitted.items():
                put(f"emitted/{name}", array)
            for number, array in enumerate((record.fan_out or {}).values()):
                put(f"fan_out/{number}", array)
    if record.potentials is not None:
        with _new_hdf5(folder, "potentials.h5") as put:
            for name, array in record.potentials.items():
                put(f"potentials/{name}", array)
                if name in record.thresholds:
                    put(f"thresholds/{name}", record.thresholds[name])
    _put_text(folder, "timing.json", _json(timing))
    _put_text(folder, "run.json", _json(record.run))
    (folder / PART).rmdir()
    return {**record.run, **timing}


def describe(run: Run, facts: report.Facts | None = None, first: int = 0) -> Record:
    """A run in memory as `read` would give it from its folder; `first` is the index its first sample goes by."""
    facts = facts or report.Facts()
    network = run.network
    trace = {name: getattr(run.trace if name in TRACE[:3] else run, name) for name in TRACE}
    if run.interval is not None:
        trace["queue"] = run.interval.pending
    events = run.events
    if events is not None and first:
        events = events.copy()
        events["sample"] += first
    thresholds = {p.name: spread(p.neuron.threshold, p.shape) for p in network.populations if isinstance(p.neuron, IF)}
    potentials = None if run.potentials is None else dict(run.potentials)
    emitted = _emitted(run)
    recorded: dict[str, Any] = {
        "events": _recorded(run),
        "potentials": [*(potentials or {})],
        "sources": [*(emitted or {})],
    }
    kept = None if run.events is None else digest(run.events, len(run.predictions), len(network.populations))
    if kept is not None:
        recorded["digest"] = hashlib.sha256(kept.astype("<u8").tobytes()).hexdigest()
    return Record(
        run={**report.summary(run, facts), "recorded": recorded},
        network=_network(run, facts),
        trace={name: np.asarray(array) for name, array in trace.items() if array is not None},
        events=events,
        potentials=potentials,
        thresholds={name: thresholds[name] for name in potentials or {} if name in thresholds},
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


def _emitted(run: Run) -> dict[str, np.ndarray] | None:
    """Events of every neuron, of the populations of which they are known."""
    known = {p.name for p in run.network.populations} if run.ledger.sources is not None else {*run.recorded}
    if not known:
        return None
    shapes = {p.name: p.shape for p in run.network.populations if p.name in known}
    return {name: run.emitted(name).reshape(-1, *shape) for name, shape in shapes.items()}


def _fan_out(run: Run) -> dict[str, np.ndarray]:
    from eventsnn.wiring import fan_out

    taps, _ = fan_out(run.network)
    return {c.label: taps[c.label].reshape(run.network[c.source].shape) for c in run.network.connections}


def _recorded(run: Run) -> list[str]:
    """Populations whose every event is among the recorded ones (a silent population always is)."""
    if run.events is None:
        return []
    kept = np.bincount(run.events["population"], minlength=len(run.network.populations))
    counted = [int(run.ledger.spikes(p.name).sum()) for p in run.network.populations]
    return [p.name for p, a, b in zip(run.network.populations, kept, counted, strict=True) if a == b]


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
    temporary = folder / PART / name
    temporary.write_text(text, encoding="utf-8", newline="")
    os.replace(temporary, folder / name)


@contextmanager
def _new_hdf5(folder: Path, name: str) -> Iterator[Callable[[str, np.ndarray], None]]:
    """An HDF5 file that appears under its name only when it is whole. Same arrays, same bytes: no times inside."""
    import h5py

    def put(dataset: str, array: np.ndarray) -> None:
        array = np.asarray(array)
        options: dict[str, Any] = {}
        if array.size > 512:
            row = max(1, array.nbytes // len(array))  # a chunk of some 256 kB, so that one sample is read alone
            chunk = (min(len(array), max(1, 2**18 // row)), *array.shape[1:])
            options = {"chunks": chunk, "compression": "gzip", "compression_opts": 4, "shuffle": True}
        file.create_dataset(dataset, data=array, track_times=False, **options)

    temporary = folder / PART / name
    with h5py.File(temporary, "w") as file:
        yield put
    os.replace(temporary, folder / name)


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
