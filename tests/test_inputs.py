"""Images, encoders and event checks: shapes, values, keys of the random numbers, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsnn.inputs import (
    Events,
    arrange_images,
    check_events,
    event_ticks,
    latency_events,
    prepare_images,
    rate_events,
)
from eventsnn.network import Connection, Dense, Flatten, Network, Population
from eventsnn.neurons import IF, Input


def network(shape, **options):
    """One dense layer of two neurons behind an input of this shape."""
    units = int(np.prod(shape))
    before = (Flatten(),) if len(shape) > 1 else ()
    return Network(
        populations=(Population("input", shape, Input()), Population("out", (2,), IF())),
        connections=(Connection("input", "out", Dense(np.ones((2, units))), before=before),),
        output="out",
        **options,
    )


def events(t, neuron, offsets):
    return Events(*(np.asarray(a, np.int64) for a in (t, neuron, offsets)))


# ---------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    ("given", "shape", "axes"),
    [
        ((5, 3, 4, 6), (3, 4, 6), None),
        ((5, 4, 6, 3), (3, 4, 6), (0, 3, 1, 2)),
        ((5, 4, 6), (1, 4, 6), None),
        ((5, 4, 6, 1), (1, 4, 6), (0, 3, 1, 2)),
        ((5, 7), (7,), None),
        ((5, 3, 9), (3, 9), None),
        ((5, 9, 3), (3, 9), (0, 2, 1)),
        ((5, 9), (1, 9), None),
    ],
)
def test_every_layout_becomes_channels_first(given, shape, axes):
    """A wrong axis order would feed every network noise."""
    images = np.arange(np.prod(given), dtype=np.float64).reshape(given)
    arranged = arrange_images(images, network(shape))
    assert arranged.shape == (5, *shape)
    expected = images.transpose(axes) if axes else images.reshape(5, *shape)
    assert np.array_equal(arranged, expected)


def test_uint8_is_divided_by_255_and_normalised_per_channel():
    """The bits must be those of PyTorch's ToTensor and Normalize in the same dtype."""
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)
    net = network((3, 5, 6), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    for dtype in (np.float32, np.float64):
        x = images.transpose(0, 3, 1, 2).astype(dtype) / dtype(255)
        mean, std = (np.array(v, dtype)[:, None, None] for v in (net.mean, net.std))
        prepared = prepare_images(images, net, dtype=dtype)
        assert prepared.dtype == dtype
        assert prepared.flags.c_contiguous
        assert np.array_equal(prepared, (x - mean) / std)
    assert prepare_images(images, net).dtype == np.float32


def test_normalisation_has_the_bits_of_torch():
    """The same image in PyTorch, float32: zero differences, or spikes would differ from the first layer on."""
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(1).integers(0, 256, (3, 3, 8, 9), np.uint8)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    x = torch.from_numpy(images).to(torch.float32).div(255)
    x = x.sub(torch.tensor(mean).view(-1, 1, 1)).div(torch.tensor(std).view(-1, 1, 1))
    assert np.array_equal(prepare_images(images, network((3, 8, 9), mean=mean, std=std)), x.numpy())


def test_floats_are_taken_as_given_and_the_array_passed_in_stays():
    """Floats must not be rescaled, and preparing must not write into the caller's array."""
    images = np.array([[[200.0, -3.0], [0.5, 1.0]]])
    before = images.copy()
    net = network((1, 2, 2))
    assert np.array_equal(prepare_images(images, net), images[:, None])
    assert prepare_images(images, net).dtype == np.float64
    prepare_images(images, network((1, 2, 2), mean=(1.0,), std=(2.0,)))
    assert np.array_equal(images, before)


def test_both_layouts_fitting_is_refused_without_a_choice():
    """(N, 4, 4, 4) can be read twice; guessing would be silent and wrong half the time."""
    images = np.random.default_rng(2).random((2, 4, 4, 4))
    net = network((4, 4, 4))
    with pytest.raises(ValueError, match="channels first and with channels last; say which with --layout"):
        arrange_images(images, net)
    assert np.array_equal(arrange_images(images, net, "chw"), images)
    assert np.array_equal(arrange_images(images, net, "hwc"), images.transpose(0, 3, 1, 2))
    assert arrange_images(np.ones((2, 1, 1, 1)), network((1, 1, 1))).shape == (2, 1, 1, 1)


@pytest.mark.parametrize(
    ("images", "layout", "message"),
    [
        (
            np.zeros((2, 5, 5, 3)),
            None,
            r"\(2, 5, 5, 3\) do not fit the network's input \(3, 4, 6\): wanted \(N, 3, 4, 6\)",
        ),
        (np.zeros((3, 4, 6)), None, "put an axis for the samples in front"),
        (np.zeros((2, 3, 4, 6)), "hwc", r"wanted \(N, 4, 6, 3\) \(layout hwc\)"),
        (np.zeros((2, 3, 4, 6)), "nchw", "layout is 'nchw', wanted 'chw'"),
        (np.zeros((2, 3, 4, 6), np.int64), None, "images have dtype int64, wanted uint8"),
        (np.zeros((2, 3, 4, 6), bool), None, "images have dtype bool, wanted uint8"),
        (np.full((2, 3, 4, 6), np.nan), None, r"the value at \(0, 0, 0, 0\) is nan"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, layout, message):
    """Each wrong input needs one sentence that names it."""
    with pytest.raises(ValueError, match=message):
        arrange_images(images, network((3, 4, 6)), layout)


def test_infinity_is_named_with_its_position():
    """The position is that of the caller's array."""
    images = np.zeros((2, 4, 6, 3), np.float32)
    images[1, 2, 5, 0] = np.inf
    with pytest.raises(ValueError, match=r"the value at \(1, 2, 5, 0\) is inf"):
        prepare_images(images, network((3, 4, 6)))


# -------------------------------------------------------------------------------------------------------- encoders


def test_rate_events_follow_the_pixel():
    """Probability 0 never fires, 1 always does, and others do at their rate (5 deviations of a binomial)."""
    image = np.array([[[0.0, 0.25], [0.75, 1.0]]])
    ticks = 4000
    events = rate_events(image, ticks, seed=3, sample_index=11)
    assert np.all(np.diff(events.tick) >= 0)
    counts = np.bincount(events.neuron, minlength=4)
    assert counts[0] == 0
    assert counts[3] == ticks
    for unit, p in ((1, 0.25), (2, 0.75)):
        assert abs(counts[unit] - p * ticks) < 5 * np.sqrt(ticks * p * (1 - p))


def test_rate_events_are_keyed_by_seed_sample_and_tick():
    """A prefix of a longer run, and a sample taken out of a batch, must have the same events."""
    image = np.random.default_rng(4).random((2, 5, 3))
    long = rate_events(image, 30, seed=7, sample_index=2)
    short = rate_events(image, 12, seed=7, sample_index=2)
    kept = long.tick < 12
    assert np.array_equal(short.tick, long.tick[kept])
    assert np.array_equal(short.neuron, long.neuron[kept])
    for other in (rate_events(image, 12, seed=8, sample_index=2), rate_events(image, 12, seed=7, sample_index=3)):
        assert not (len(other.tick) == len(short.tick) and np.array_equal(other.neuron, short.neuron))
    per_tick = [frozenset(long.neuron[long.tick == t].tolist()) for t in range(30)]
    assert len(set(per_tick)) > 25  # ticks do not repeat each other


def test_rate_events_equal_the_stated_stream():
    """The numbers are the documented Philox stream, not an accident of NumPy's version."""
    image = np.linspace(0, 1, 9)
    events = rate_events(image, 3, seed=5, sample_index=6)
    for tick in range(3):
        stream = np.random.Philox(key=np.array([5, 6], np.uint64), counter=np.array([0, tick, 0, 0], np.uint64))
        fractions = [(int(stream.random_raw()) >> 11) / 2**53 for _ in range(9)]
        expected = [unit for unit in range(9) if fractions[unit] < image[unit]]
        assert events.neuron[events.tick == tick].tolist() == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 30))
def test_latency_events_are_one_per_lit_unit_and_brighter_earlier(values, ticks):
    """The order of latencies must be the reverse order of brightness, ends included."""
    events = latency_events(np.array(values), ticks)
    assert sorted(events.neuron.tolist()) == [i for i, v in enumerate(values) if v > 0]
    assert np.all(np.diff(events.tick) >= 0)
    found = dict(zip(events.neuron.tolist(), events.tick.tolist(), strict=True))
    for unit, tick in found.items():
        assert 0 <= tick < ticks
        assert tick == int((1 - values[unit]) * (ticks - 1) + 0.5)
        assert all(tick <= found[other] for other in found if values[other] < values[unit])


def test_latency_rounds_half_up():
    """The documented rounding: 0.5 between two ticks goes to the later one, not to the even one."""
    assert latency_events(np.array([0.5]), 2).tick.tolist() == [1]
    assert latency_events(np.array([0.5]), 4).tick.tolist() == [2]
    assert latency_events(np.array([1.0, 0.0]), 9).tick.tolist() == [0]


@pytest.mark.parametrize("value", [-0.1, 1.0001, np.nan])
def test_encoders_refuse_values_outside_the_unit_interval(value):
    """A normalised image is no probability."""
    image = np.zeros((1, 2, 2))
    image[0, 1, 0] = value
    for encode in (lambda: rate_events(image, 2, 0, 0), lambda: latency_events(image, 2)):
        with pytest.raises(ValueError, match=r"coding: the value at \(0, 1, 0\) is .*, wanted 0 to 1"):
            encode()
    with pytest.raises(ValueError, match="seed is -1"):
        rate_events(np.zeros(2), 1, -1, 0)


# ---------------------------------------------------------------------------------------------------------- events


def test_event_ticks_divides_and_keeps_multiple_events():
    """Two events of one unit in one tick stay two; a sample's times start at its own zero."""
    stored = events([0, 999, 1000, 5, 5], [1, 1, 0, 2, 2], [0, 3, 5])
    first, second = event_ticks(stored, 0, 1000), event_ticks(stored, 1, 1000.0)
    assert first.tick.tolist() == [0, 0, 1]
    assert second.tick.tolist() == [0, 0]
    assert second.neuron.tolist() == [2, 2]
    assert event_ticks(events([0, 1, 2, 3], [0] * 4, [0, 4]), 0, 1.5).tick.tolist() == [0, 0, 1, 2]


def test_a_tick_in_seconds_is_not_stretched_by_rounding():
    """0.000123 s is 123.00000000000001 us in floating point; an event at 123 us must be in tick 1 all the same."""
    tick_us = 0.000123 * 1e6
    assert tick_us > 123
    stored = events([122, 123, 123 * 4000 - 1, 123 * 4000], [0] * 4, [0, 4])
    assert event_ticks(stored, 0, tick_us).tick.tolist() == [0, 1, 3999, 4000]
    with pytest.raises(ValueError, match="wanted a positive length"):
        event_ticks(stored, 0, 0.0)


def test_first_keeps_whole_samples():
    """--limit must not cut through a sample."""
    part = events([0, 1, 2, 0], [3, 4, 5, 6], [0, 1, 3, 4]).first(2)
    assert len(part) == 2
    assert part.neuron.tolist() == [3, 4, 5]


@pytest.mark.parametrize("which", [[2, 0, 1], np.array([False, True, True]), slice(1, 3), [-1], []])
def test_take_keeps_whole_samples_in_the_order_asked_for(which):
    """If samples were cut or mixed up, a part of a data set would be other recordings."""
    whole = events([5, 6, 7, 0, 1, 2], [3, 4, 5, 6, 7, 8], [0, 3, 3, 6])
    wanted = [[(5, 3), (6, 4), (7, 5)], [], [(0, 6), (1, 7), (2, 8)]]
    part = whole.take(which)
    found = list(zip(part.t.tolist(), part.neuron.tolist()))
    cut = [found[low:high] for low, high in pairwise(part.offsets.tolist())]
    assert cut == [wanted[i] for i in np.arange(3)[which]]
    check_events(part, 9)


def test_sound_events_pass():
    """A new sample may start earlier than the last one ended, also after an empty one."""
    check_events(events([4, 9, 1, 0], [0, 3, 2, 1], [0, 2, 2, 3, 4]), 4)
    check_events(events([], [], [0]), 4)


@pytest.mark.parametrize(
    ("t", "neuron", "offsets", "message"),
    [
        ([0, 5, 3], [0, 0, 0], [0, 3], "time 3 us of sample 0, event 2 comes after 5 us; sort"),
        ([0, 5, 7, 6], [0, 0, 0, 0], [0, 2, 4], "time 6 us of sample 1, event 1 comes after 7 us"),
        ([0, -2], [0, 0], [0, 2], "time -2 us of sample 0, event 1 is negative"),
        ([0, 1, 2], [0, 1, 4], [0, 1, 3], "neuron 4 of sample 1, event 1 is out of range, wanted 0 to 3"),
        ([0, 1], [0, -1], [0, 2], "neuron -1 of sample 0, event 1"),
        ([0, 1], [0], [0, 2], "2 times for 1 neurons"),
        ([0, 1], [0, 1], [0, 3], "offsets go from 0 to 3, wanted 0 to 2"),
        ([0, 1], [0, 1], [0, 2, 1, 2], "offsets fall from 2 to 1 at position 2"),
        ([0, 1], [0, 1], [], "offsets go from nothing"),
    ],
)
def test_events_out_of_range_or_order_are_named(t, neuron, offsets, message):
    """The sentence must point at the event: sample, position, value."""
    with pytest.raises(ValueError, match=message):
        check_events(events(t, neuron, offsets), 4)


def test_events_of_floats_are_refused():
    """Times in seconds would all fall into tick 0."""
    with pytest.raises(ValueError, match=r"t has shape .* dtype float64, wanted one row of whole numbers"):
        check_events(Events(np.array([0.5]), np.array([0]), np.array([0, 1])), 4)
