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


def events(path: str, ticks: int, tick_us: int, *, by_number: bool = False, side: int = 0) -> tuple[Samples, Samples]:
    """Recordings of an event camera as frames of event counts, (N, ticks, 2, H, W): those of split 0, then of split 1.

    Tick k holds the events from k x tick_us on, later ones than the last tick are left out; or, by_number, every tick
    as many of the recording's events, the last one also those that are left over (spikingjelly's "number"). side:
    pixels across that the sensor's are added up to, a divisor of its size; 0: as they are. Counts stop at 255. Of split
    1, recordings of a class that split 0 does not have are left out.
    """
    import h5py

    with h5py.File(events_file(path)) as file:
        t, x, y, p = (file[name][:] for name in "txyp")
        offsets, labels, split = file["offsets"][:], file["labels"][:], file["split"][:]
        height, width = int(file.attrs["sensor_height"]), int(file.attrs["sensor_width"])
    if side:
        if height % side or width % side:
            raise ValueError(f"'data.side' is {side}, wanted a divisor of the sensor's {width} x {height} pixels")
        x, y = x // (width // side), y // (height // side)
        height = width = side
    frames = np.zeros((len(labels), ticks, 2, height, width), np.uint8)
    for frame, (low, high) in zip(frames, pairwise(offsets), strict=True):
        tick = t[low:high] // tick_us
        if by_number:
            tick = np.minimum(np.arange(high - low) // max(1, (high - low) // ticks), ticks - 1)
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


# ------------------------------------------------------------------------------------------------------- sequences

BITS, RUN = 25, 5  # of the first toy sequence: how many there are, and how many equal ones make a run
STEPS, LEVEL, NOISE = 40, 0.05, (0.05, 0.25)  # of the second: its steps, the number's size, and that of the noise
HELD_OUT = 20_000  # sequences that are made to measure on
CHANNELS, LOWEST, HIGHEST = 64, 100.0, 3_600.0  # the cochlea: its channels, and their range in Hz
SPIKES_A_SECOND = 4_000.0  # of all its channels together, at the mean loudness of a recording


def runs_of_bits(count: int) -> tuple[Samples, Samples]:
    """The first toy task of Jeffares et al.: 25 random bits; label 1 where five in a row are equal.

    images: (N, 25, 2, 1, 1), a 1 in the channel of the bit's value. What is held out is drawn apart.
    """
    return _bits(count, 0), _bits(HELD_OUT, 1)


def _bits(count: int, seed: int) -> Samples:
    bits = np.random.default_rng([25, seed]).integers(0, 2, (count, BITS), np.uint8)
    return Samples(np.stack([1 - bits, bits], 2)[..., None, None], (run_ends(bits) < BITS).astype(np.uint8))


def run_ends(bits: np.ndarray) -> np.ndarray:
    """(N,) int64: the step in which the first run of five equal bits is complete, 25 where there is none."""
    same = np.cumsum(bits[:, 1:] == bits[:, :-1], 1)
    same = np.concatenate([np.zeros((len(bits), 1), np.int64), same], 1)
    whole = same[:, RUN - 1 :] - same[:, : -RUN + 1] == RUN - 1
    return np.where(whole.any(1), whole.argmax(1) + RUN - 1, bits.shape[1])


def noisy_signs(count: int) -> tuple[Samples, Samples]:
    """The second toy task: 40 steps of +0.05 or -0.05 under normal noise, whose size is drawn from 0.05 to 0.25.

    images: (N, 40, 1, 1, 1) float32. Label 1 for +0.05. What is held out is drawn apart.
    """
    return _signs(count, 0), _signs(HELD_OUT, 1)


def _signs(count: int, seed: int) -> Samples:
    rng = np.random.default_rng([40, seed])
    labels = rng.integers(0, 2, count, np.uint8)
    size = rng.uniform(*NOISE, (count, 1))
    values = np.where(labels[:, None], LEVEL, -LEVEL) + size * rng.standard_normal((count, STEPS), np.float32)
    return Samples(values.astype(np.float32)[..., None, None, None], labels)


def mnist() -> tuple[Samples, Samples]:
    """MNIST, images (N, 28, 28): its training images, and its test images."""
    with np.load(_found(data_folder() / "mnist.npz", "the evaluation data")) as store:
        x, y, u, v = (store[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    return Samples(x, y), Samples(u, v)


def spoken(path: str, ticks: int, tick_us: int) -> tuple[Samples, Samples]:
    """Spoken digits as spikes of a cochlea, counted by tick, (N, ticks, 64, 1, 1) uint8: of split 0, then of split 1.

    path: an HDF5 file with `audio` (int16, 8 kHz), `offsets`, `labels` and `split`. What is later than the last tick is
    left out; behind the end of a recording there is silence.
    """
    import h5py

    with h5py.File(events_file(path)) as file:
        audio, offsets, labels, split = (file[name][:] for name in ("audio", "offsets", "labels", "split"))
        rate = int(file.attrs.get("sample_rate", 8_000))
    frames = np.zeros((len(labels), ticks, CHANNELS, 1, 1), np.uint8)
    for frame, (low, high) in zip(frames, pairwise(offsets), strict=True):
        counts = cochlea(audio[low:high], rate)
        tick = np.arange(len(counts)) * 1_000_000 // rate // tick_us
        kept = tick < ticks
        total = np.zeros((ticks, CHANNELS), np.int64)
        np.add.at(total, tick[kept], counts[kept])
        frame[:, :, 0, 0] = np.minimum(total, 255)
    everything = Samples(frames, labels.astype(np.uint8))
    return tuple(Samples(everything.images[split == s], everything.labels[split == s]) for s in (0, 1))  # type: ignore


def cochlea(audio: np.ndarray, rate: int) -> np.ndarray:
    """Spikes of a simple cochlea, (n, 64) int64, for n samples of sound.

    Gammatone filters (`scipy.signal.gammatone`, Slaney 1993), spread evenly over ERB numbers (Glasberg & Moore 1990)
    from 100 Hz to 3.6 kHz; half-wave rectified, compressed by a cube root, and integrated by neurons with soft reset.
    The recording's loudness is taken out.
    """
    from scipy import signal

    ends = 21.4 * np.log10(1 + 0.00437 * np.array([LOWEST, HIGHEST]))
    centres = (10 ** (np.linspace(*ends, CHANNELS) / 21.4) - 1) / 0.00437
    sound = audio.astype(np.float64) / max(1.0, float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))))
    heard = np.stack([signal.lfilter(*signal.gammatone(f, "iir", fs=rate), sound) for f in centres], 1)
    drive = np.cbrt(np.maximum(heard, 0))
    charge = np.cumsum(drive, 0) * (SPIKES_A_SECOND / CHANNELS / rate / max(float(drive.mean()), 1e-12))
    return np.diff(np.floor(charge), axis=0, prepend=0).astype(np.int64)


def brightest_first(images: np.ndarray, ticks: int) -> np.ndarray:
    """Images of 0..1, (N, ...), as one spike a pixel, (N, ticks, pixels) bool: the brighter the earlier.

    Brightness falls into `ticks` bins of equal width, the brightest first, the background last (Jeffares et al.).
    """
    bins = np.clip(np.floor(images.reshape(len(images), 1, -1) * ticks), 0, ticks - 1)
    return bins == np.arange(ticks - 1, -1, -1).reshape(1, -1, 1)


def in_bins(values: np.ndarray, bins: int = 32, most: float = 0.6) -> np.ndarray:
    """Numbers (N, ticks) as one spike a tick in the channel of their bin, (N, ticks, bins) bool.

    The bins part -most..most evenly; the outer ones also take what lies beyond.
    """
    bin = np.clip(np.floor((values + most) * (bins / 2 / most)), 0, bins - 1)
    return bin[..., None] == np.arange(bins)
