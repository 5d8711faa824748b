"""Samples to train and measure on: scikit-learn's digits, CIFAR, and event recordings as one frame a tick.

CIFAR-10 and CIFAR-100 are read from ordinary folders (`cifar-10-batches-py` or `-bin`, `cifar-100-python` or
`-binary`), CIFAR-10 also from the packed copy that `EVENTSNN_DATA` names (its `data/cifar10.npz`); events from HDF5
files with `t x y p offsets labels split`.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TRAINING = 50_000  # CIFAR-10's training images
KNOWN = 45_000  # the first of them: what is trained, tuned and calibrated on


@dataclass(frozen=True)
class Samples:
    """images: (N, H, W), (N, C, H, W) or, one frame a tick, (N, T, C, H, W); uint8. labels: (N,) uint8."""

    images: np.ndarray
    labels: np.ndarray

    def __getitem__(self, part: slice) -> Samples:
        return Samples(self.images[part], self.labels[part])

    def __len__(self) -> int:
        return len(self.labels)


def data_folder() -> Path:
    """The folder of evaluation data: EVENTSNN_DATA, else `../shared` beside the project."""
    return Path(os.environ.get("EVENTSNN_DATA", ROOT.parent / "shared")) / "data"


def digits(held_out: int) -> tuple[Samples, Samples]:
    """scikit-learn's digits in its order, its 0..16 spread over 0..255; the last `held_out` apart."""
    from sklearn import datasets

    found = datasets.load_digits()
    images, labels = np.rint(found.images * (255 / 16)).astype(np.uint8), found.target.astype(np.uint8)
    everything = Samples(images, labels)
    return everything[: len(labels) - held_out], everything[len(labels) - held_out :]


def cifar(path: str = "") -> tuple[Samples, Samples]:
    """CIFAR-10 or CIFAR-100, images (N, 3, 32, 32): the 45,000 first training images, and those held out.

    Held out are the last 5,000 training images, then the test images: all of an ordinary folder named by path, or the
    1,000 pixel-exact ones of the packed copy of CIFAR-10. Of CIFAR-100 the labels are the fine ones.
    """
    if path:
        return _ordinary(_found(Path(path), "a CIFAR folder"))
    parts = [_found(data_folder() / name, "a CIFAR-10 folder") for name in ("cifar10.npz", "cifar10_train_part2.npz")]
    with np.load(parts[0]) as first, np.load(parts[1]) as second:
        images = np.concatenate([decoded(first, "train"), decoded(second, "train"), decoded(first, "test_lossless")])
        labels = np.concatenate([first["train_labels"], second["train_labels"], first["test_lossless_labels"]])
    everything = Samples(images, labels)
    return everything[:KNOWN], everything[KNOWN:]


def _found(path: Path, wanted: str) -> Path:
    if not path.exists():
        raise ValueError(f"{path} is not there; set EVENTSNN_DATA, or give {wanted} as 'data.path'")
    return path


def decoded(store: np.lib.npyio.NpzFile, split: str, count: int | None = None) -> np.ndarray:
    """The first images of a split of a packed copy, (N, 3, H, W) uint8; all of them without count."""
    from PIL import Image

    blob, offsets = store[f"{split}_bytes"].tobytes(), store[f"{split}_offsets"]
    offsets = offsets if count is None else offsets[: count + 1]
    images = [np.asarray(Image.open(io.BytesIO(blob[low:high])).convert("RGB")) for low, high in pairwise(offsets)]
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


def events_file(path: str) -> Path:
    """A file of events: as it is named, or of that name among the evaluation data."""
    return _found(Path(path) if Path(path).exists() else data_folder() / path, "an HDF5 file of events")


def events(path: str, ticks: int, tick_us: int) -> tuple[Samples, Samples]:
    """Recordings of an event camera as frames of event counts, (N, ticks, 2, H, W): those of split 0, then of split 1.

    Tick k holds the events from k x tick_us on, later ones than the last tick are left out; counts stop at 255. Of
    split 1, recordings of a class that split 0 does not have are left out.
    """
    import h5py

    with h5py.File(events_file(path)) as file:
        t, x, y, p = (file[name][:] for name in "txyp")
        offsets, labels, split = file["offsets"][:], file["labels"][:], file["split"][:]
        height, width = int(file.attrs["sensor_height"]), int(file.attrs["sensor_width"])
    frames = np.zeros((len(labels), ticks, 2, height, width), np.uint8)
    for frame, (low, high) in zip(frames, pairwise(offsets), strict=True):
        tick = t[low:high] // tick_us
        kept = tick < ticks
        places = (tick, p[low:high], y[low:high], x[low:high])
        where = np.ravel_multi_index([place[kept] for place in places], frame.shape)
        frame[:] = np.minimum(np.bincount(where, minlength=frame.size), 255).reshape(frame.shape)
    first = split == 0
    second = (split == 1) & np.isin(labels, labels[first])
    return Samples(frames[first], labels[first]), Samples(frames[second], labels[second])


def _ordinary(folder: Path) -> tuple[Samples, Samples]:
    """An ordinary CIFAR folder, its pickles read as `eventsnn.readers` reads them: arrays and numbers only."""
    from eventsnn.readers import cifar_folder

    (images, labels), (test_images, test_labels) = cifar_folder(folder, "train"), cifar_folder(folder, "test")
    everything = Samples(np.concatenate([images, test_images]), np.concatenate([labels, test_labels]).astype(np.uint8))
    return everything[:KNOWN], everything[KNOWN:]
