"""What enters a network: images, and address events with times, and how an image becomes events."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from eventsnn.network import Network

LAYOUTS = ("chw", "hwc")
DIGEST_BYTES = 6  # of one sample: two samples of a million look alike with a probability below 0.002
# A recorded event. time: tick; population: its number in the network; neuron: channels first; value: 1 for a spike, the
# multiplicity of several, the value of a graded event.
EVENT = np.dtype([("sample", "<i4"), ("time", "<i4"), ("population", "<i2"), ("neuron", "<i4"), ("value", "<f8")])
# The same in continuous time: seconds.
TIMED_EVENT = np.dtype([(name, "<f8" if name == "time" else EVENT[name]) for name in EVENT.names or ()])


@dataclass(frozen=True, eq=False)
class Events:
    """Address events of several samples, one after the other.

    t: (n,) int64, microseconds since the sample's start, never decreasing inside a sample. neuron: (n,) int64, unit of
    the input population, channels first. offsets: (samples + 1,) int64; sample i is `[offsets[i]:offsets[i + 1]]`.
    """

    t: np.ndarray
    neuron: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def first(self, samples: int) -> Events:
        """The first `samples` samples, as views."""
        offsets = self.offsets[: samples + 1]
        return Events(self.t[: offsets[-1]], self.neuron[: offsets[-1]], offsets)

    def take(self, which: Any) -> Events:
        """The samples asked for, in that order, as copies. which: (k,) indices, a (samples,) mask, or a slice."""
        which = np.arange(len(self))[which]
        edges = np.asarray(self.offsets, np.int64)
        lengths = np.diff(edges)[which]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        where = np.arange(offsets[-1]) + np.repeat(edges[which] - offsets[:-1], lengths)
        return Events(self.t[where], self.neuron[where], offsets)


def digest(events: np.ndarray, samples: int, populations: int) -> np.ndarray:
    """(samples, populations) uint64: a number that changes with any recorded event of that sample and population.

    events: structured array of dtype EVENT or TIMED_EVENT, in any order. It is the sum, modulo 2^64, over the events of
    mix(mix(2^32 time + neuron) xor the bits of value), with mix the finaliser of splitmix64 (Steele et al., OOPSLA
    2014); a time in seconds counts as mix(its bits).
    """
    time = events["time"]
    time = _mix(time.astype("<f8").view(np.uint64)) if time.dtype.kind == "f" else time.astype(np.uint64)
    key = (time << np.uint64(32)) + events["neuron"].astype(np.uint64)
    mixed = _mix(_mix(key) ^ events["value"].astype("<f8").view(np.uint64))
    found = np.zeros((samples, populations), np.uint64)
    np.add.at(found, (events["sample"], events["population"]), mixed)
    return found


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class TickEvents(NamedTuple):
    """One sample's input events in ticks. tick: (n,) int64, never decreasing. neuron: (n,) int64, channels first."""

    tick: np.ndarray
    neuron: np.ndarray


def check_events(events: Events, size: int) -> None:
    """Nothing, when the events can be fed to an input population of `size` units.

    Raises ValueError naming the first offending event: its sample, its position in the sample and its value.
    """
    t, neuron, offsets = events.t, events.neuron, events.offsets
    for name, array in (("t", t), ("neuron", neuron), ("offsets", offsets)):
        if np.ndim(array) != 1 or np.asarray(array).dtype.kind not in "iu":
            raise ValueError(
                f"events: {name} has shape {np.shape(array)} and dtype {np.asarray(array).dtype}, "
                "wanted one row of whole numbers"
            )
    if len(t) != len(neuron):
        raise ValueError(f"events: {len(t)} times for {len(neuron)} neurons, wanted one time for each event")
    check_offsets(offsets, len(t))
    wrong = np.flatnonzero((neuron < 0) | (neuron >= size))
    if wrong.size:
        raise ValueError(
            f"events: neuron {neuron[wrong[0]]} of {place(offsets, int(wrong[0]))} is out of range, "
            f"wanted 0 to {size - 1} (the input population has {size} units)"
        )
    check_times(t, offsets)


def check_offsets(offsets: np.ndarray, events: int) -> None:
    """Nothing, when `offsets` cuts `events` events into samples; else raises ValueError."""
    if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != events:
        ends = f"{offsets[0]} to {offsets[-1]}" if len(offsets) else "nothing"
        raise ValueError(f"events: offsets go from {ends}, wanted 0 to {events} (the number of events)")
    back = np.flatnonzero(offsets[1:] < offsets[:-1])
    if back.size:
        i = int(back[0])
        raise ValueError(
            f"events: offsets fall from {offsets[i]} to {offsets[i + 1]} at position {i + 1}, wanted rising ones"
        )


def check_times(t: np.ndarray, offsets: np.ndarray) -> None:
    """Nothing, when no time is negative or earlier than the one before it in its sample; else raises ValueError."""
    negative = np.flatnonzero(t < 0)
    if negative.size:
        i = int(negative[0])
        raise ValueError(f"events: time {t[i]} us of {place(offsets, i)} is negative, wanted 0 or more")
    falls = np.flatnonzero(t[1:] < t[:-1]) + 1
    falls = falls[~np.isin(falls, offsets)]  # a new sample may start earlier than the last one ended
    if falls.size:
        i = int(falls[0])
        raise ValueError(
            f"events: time {t[i]} us of {place(offsets, i)} comes after {t[i - 1]} us; "
            "sort every sample's events by time"
        )


def place(offsets: np.ndarray, position: int) -> str:
    """Where an event is, in words: "sample 3, event 17"."""
    sample = int(np.searchsorted(offsets, position, side="right")) - 1
    return f"sample {sample}, event {position - int(offsets[sample])}"


# ---------------------------------------------------------------------------------------------------------- images


def arrange_images(images: np.ndarray, network: Network, layout: str | None = None) -> np.ndarray:
    """Images as (N, *input shape), channels first, in their own dtype.

    images: uint8 or floats, (N, C, H, W), (N, H, W, C), or (N, H, W) for one channel; (N, C, L), (N, L, C) or (N, L)
    for an input of (C, L); (N, F) for one of (F,). The network's input shape decides which it is. layout: "chw"
    (channels first) or "hwc" (channels last), needed only where both fit.

    Raises ValueError, with both shapes, when none fits or both do; for another dtype; for NaN and infinity, with the
    position of the first.
    """
    images = np.asarray(images)
    shape = network.input.shape
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}, wanted 'chw' (channels first) or 'hwc' (channels last)")
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise ValueError(
            f"images have dtype {images.dtype}, wanted uint8 (0 to 255) or floats; convert them so that their scale is "
            "clear"
        )
    last, grey = (*shape[1:], shape[0]), shape[1:]
    fits_first = images.ndim > 1 and images.shape[1:] == shape and layout != "hwc"
    fits_last = images.ndim > 1 and images.shape[1:] == last and layout != "chw"
    if fits_first and fits_last and len(shape) > 1 and shape[0] > 1:
        raise ValueError(
            f"images of shape {images.shape} fit the network's input {shape} with channels first and with channels "
            "last; say which with --layout chw or --layout hwc"
        )
    if fits_first:
        arranged = images
    elif fits_last:
        arranged = np.moveaxis(images, -1, 1)
    elif len(shape) > 1 and shape[0] == 1 and images.ndim > 1 and images.shape[1:] == grey:
        arranged = images[:, None]
    else:
        raise ValueError(_misfit(images.shape, shape, layout))
    for part in blocks(images) if images.dtype.kind == "f" else ():
        wrong = ~np.isfinite(images[part])
        if wrong.any():
            at = np.argwhere(wrong)[0]
            where = (part.start + int(at[0]), *(int(i) for i in at[1:]))
            raise ValueError(f"images: the value at {where} is {images[where]}, wanted finite numbers")
    return arranged


def blocks(images: np.ndarray) -> Iterator[slice]:
    """Slices of some million values each, so that many images are looked through without a copy of them all."""
    size = max(1, 2**22 // max(1, math.prod(images.shape[1:])))
    return (slice(i, i + size) for i in range(0, len(images), size))


def _misfit(found: tuple[int, ...], shape: tuple[int, ...], layout: str | None) -> str:
    readings = {"chw": shape, "hwc": (*shape[1:], shape[0])}
    wanted = [s for name, s in readings.items() if layout in (None, name)]
    if len(shape) > 1 and shape[0] == 1:
        wanted.append(shape[1:])
    forms = dict.fromkeys("(" + ", ".join(["N", *map(str, s)]) + ")" for s in wanted)
    sentence = f"images of shape {found} do not fit the network's input {shape}: wanted {' or '.join(forms)}"
    if found in wanted:
        return f"{sentence}; put an axis for the samples in front"
    return f"{sentence}" + (f" (layout {layout})" if layout else "")


def prepare_images(
    images: np.ndarray, network: Network, layout: str | None = None, dtype: str | type | None = None
) -> np.ndarray:
    """Images as the network's first operation sees them: (N, *input shape), channels first, C-contiguous floats.

    uint8 is divided by 255, floats are taken as given; then `network.mean` is subtracted and the result divided by
    `network.std`, per channel. All of it is done in `dtype`, as PyTorch's ToTensor and Normalize do; None keeps float64
    images and makes float32 of everything else. images, layout, errors: see `arrange_images`.
    """
    arranged = arrange_images(images, network, layout)
    return normalised(arranged, network, dtype or ("float64" if arranged.dtype == np.float64 else "float32"))


def normalised(arranged: np.ndarray, network: Network, dtype: str | type | np.dtype) -> np.ndarray:
    """`prepare_images` of images that `arrange_images` gave."""
    prepared = arranged.astype(dtype, order="C")
    if arranged.dtype == np.uint8:
        prepared /= prepared.dtype.type(255)
    channels = (-1, *(1,) * (prepared.ndim - 2))
    if network.mean is not None:
        prepared -= np.asarray(network.mean, prepared.dtype).reshape(channels)
    if network.std is not None:
        prepared /= np.asarray(network.std, prepared.dtype).reshape(channels)
    return prepared


def prepared(samples: np.ndarray | Events, network: Network, dtype: np.dtype) -> np.ndarray | Events:
    """A chunk of a run's samples as its workers feed them: arranged images normalised, in float64 if to be encoded."""
    if isinstance(samples, Events):
        return samples
    return normalised(samples, network, dtype if network.encoding == "direct" else "float64")


def sample_digests(samples: np.ndarray | Events) -> np.ndarray:
    """(N, 6) uint8: the first bytes of a sha256 of each sample, by which it is known again in another file.

    samples: arranged images (`arrange_images`), hashed as float32 with uint8 divided by 255, so that a file of bytes
    and one of fractions agree; or `Events`, of which times and neurons are hashed.
    """
    found = np.zeros((len(samples), DIGEST_BYTES), np.uint8)
    for i in range(len(samples)):
        if isinstance(samples, Events):
            part = slice(int(samples.offsets[i]), int(samples.offsets[i + 1]))
            content = b"".join(np.ascontiguousarray(a[part], "<i8").tobytes() for a in (samples.t, samples.neuron))
        else:
            image = np.ascontiguousarray(samples[i], "<f4")
            content = (image / np.float32(255) if samples.dtype == np.uint8 else image).tobytes()
        found[i] = np.frombuffer(hashlib.sha256(content).digest()[:DIGEST_BYTES], np.uint8)
    return found


# -------------------------------------------------------------------------------------------------------- encoders


def rate_events(image: np.ndarray, ticks: int, seed: int, sample_index: int) -> TickEvents:
    """Events of a rate-coded image: in every tick each unit fires with the probability that is its value.

    image: values in 0..1, channels first. sample_index: position of the sample in the whole data set, so that a part of
    it gives the same events. The random numbers of a tick are the Philox stream with key (seed, sample index) and
    counter (0, tick, 0, 0), its top 53 bits read as a fraction: neither the worker, nor the number of ticks, nor other
    samples matter.

    Raises ValueError for values outside 0..1 or a seed that is not in 0..2^64 - 1.
    """
    values = unit_interval(image, "rate")
    check_seed(seed)
    key = np.array([seed, sample_index], np.uint64)
    fired = []
    for tick in range(ticks):
        stream = np.random.Philox(key=key, counter=np.array([0, tick, 0, 0], np.uint64))
        fraction = (stream.random_raw(values.size) >> np.uint64(11)) * 2.0**-53
        fired.append(np.flatnonzero(fraction < values))
    counts = [len(units) for units in fired]
    neuron = np.concatenate(fired) if fired else np.zeros(0, np.int64)
    return TickEvents(np.repeat(np.arange(ticks, dtype=np.int64), counts), neuron.astype(np.int64))


def latency_events(image: np.ndarray, ticks: int) -> TickEvents:
    """Events of a latency-coded image: one spike for each unit that is not zero, the brighter the earlier.

    image: values x in 0..1, channels first. tick = floor((1 - x) * (ticks - 1) + 1/2): x = 1 fires in tick 0, a value
    just above 0 in the last tick. Raises ValueError for values outside 0..1.
    """
    late, neuron = latencies(image, ticks)
    tick = np.floor(late + 0.5).astype(np.int64)
    order = np.argsort(tick, kind="stable")
    return TickEvents(tick[order], neuron[order])


def latencies(image: np.ndarray, ticks: int) -> tuple[np.ndarray, np.ndarray]:
    """When each unit of an image that is not zero fires, (1 - x) (ticks - 1) as a fraction of ticks, and which it is.

    In continuous time these are the times; `latency_events` rounds them to whole ticks. Errors as there.
    """
    values = unit_interval(image, "latency")
    neuron = np.flatnonzero(values)
    return (1.0 - values[neuron]) * (ticks - 1), neuron.astype(np.int64)


def check_seed(seed: int) -> None:
    """Nothing, when the seed keys a stream of random numbers; else raises ValueError."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}, wanted a whole number from 0 to 2^64 - 1")


def unit_interval(image: np.ndarray, code: str) -> np.ndarray:
    """The values of an image as a row of float64; raises ValueError for one outside 0..1, which `code` cannot code."""
    values = np.asarray(image, np.float64).ravel()
    wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if wrong.size:
        where = tuple(int(i) for i in np.unravel_index(wrong[0], np.shape(image)))
        raise ValueError(
            f"{code} coding: the value at {where} is {values[wrong[0]]}, wanted 0 to 1; scale the images, and give the "
            "network no mean and std"
        )
    return values


def event_ticks(events: Events, sample: int, tick_us: float) -> TickEvents:
    """One sample of `events` in ticks of `tick_us` microseconds: tick = floor(t / tick_us).

    A length within a millionth of a whole number of microseconds is that number: 0.000123 s is 123 us, although
    0.000123 * 1e6 is 123.00000000000001 in floating point.
    """
    if not (math.isfinite(tick_us) and tick_us > 0):
        raise ValueError(f"a tick of {tick_us} us: wanted a positive length")
    whole = round(tick_us)
    part = slice(int(events.offsets[sample]), int(events.offsets[sample + 1]))
    t = np.asarray(events.t[part], np.int64)
    if whole > 0 and abs(tick_us - whole) <= 1e-6 * whole:
        tick = t // whole
    else:
        tick = np.floor_divide(t, tick_us).astype(np.int64)
    return TickEvents(tick, np.asarray(events.neuron[part], np.int64))


def encoded(
    samples: np.ndarray | Events,
    index: int,
    encoding: str,
    ticks: int,
    tick_us: float | None,
    seed: int = 0,
    first: int = 0,
) -> TickEvents:
    """One sample as events in ticks: of images by "rate" or "latency", or the events of "events", cut every tick_us.

    samples: prepared images (N, C, H, W), or `Events`. Events at `ticks` or later may be among those of a recording.
    first: position of `samples[0]` in the whole data set, see `rate_events`.
    """
    if isinstance(samples, Events):
        assert tick_us is not None
        return event_ticks(samples, index, tick_us)
    if encoding == "rate":
        return rate_events(samples[index], ticks, seed, first + index)
    return latency_events(samples[index], ticks)
