"""A trace as a file of its own: what any model's outputs were, tick by tick, and what was right.

It is HDF5 with the names that `trace.h5` of a run folder has, so a few lines of h5py in another framework write one:

- `outputs`: (samples, ticks, classes) numbers; `labels`: (samples,) whole numbers, which studies need;
- `readout`: "sum", "potential" or "spikes" (see `watchdog.Trace`), an attribute or a dataset; "sum" if it is missing;
- `margins`, `synops`, `asked`, `stop_time`: as in `watchdog.Trace`, where they are known.

In a run folder `network.json` says the readout, so there the folder is what to read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eventsnn.arrays import open_arrays
from eventsnn.watchdog import READOUTS, Trace

ARRAYS = ("outputs", "labels", "margins", "synops", "stop_time", "asked")


def save_trace(trace: Trace, path: str | Path) -> None:
    """Write a trace to a file, under a temporary name first; `read_trace` gives it back.

    Raises ValueError for a trace of continuous time, whose questions the file cannot hold, and when it cannot be
    written.
    """
    from eventsnn import hdf5

    path = Path(path)
    if trace.answers is not None:
        raise ValueError(f"{path}: a trace of continuous time cannot be kept alone; save its run (save_run)")
    _check_alone(path)
    arrays = {name: getattr(trace, name) for name in ARRAYS}
    known = {name: array for name, array in arrays.items() if array is not None and all(array.shape[1:])}
    with hdf5.written(path) as file:
        hdf5.write_tree(file, known)
        file.attrs["readout"] = trace.readout


def read_trace(path: str | Path) -> Trace:
    """A trace from its file.

    Raises ValueError, in one sentence, when the file cannot be read, is of another kind, does not fit itself, or
    belongs to a run folder.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; wanted a trace (save_trace)")
    _check_alone(path)
    try:
        with open_arrays(path, text=True) as store:
            arrays: dict[str, Any] = {
                name: store.read(name) for name in ARRAYS if name == "outputs" or name in store.names
            }
            said = store.read("readout") if "readout" in store.names else store.attributes.get("readout", READOUTS[0])
        readout = said.decode(errors="replace") if isinstance(said, bytes) else said
        return Trace(**arrays, readout=str(readout))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: {error}") from None


def is_trace(path: str | Path) -> bool:
    """Whether a study is to read this as the file of a trace, and not as a run folder."""
    path = Path(path)
    return path.is_file() or (path.suffix in (".h5", ".hdf5") and not path.is_dir())


def _check_alone(path: Path) -> None:
    if path.name == "trace.h5" and (path.parent / "run.json").is_file():
        raise ValueError(
            f"{path} is part of a run and does not say what its outputs are; give the folder {path.parent}"
        )
