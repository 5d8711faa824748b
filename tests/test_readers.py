"""Files: every layout that is promised, read back exactly, and every damage that is named."""

import hashlib
import itertools
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from eventsnn.inputs import Events
from eventsnn.network import Connection, Dense, Flatten, Network, Population
from eventsnn.neurons import IF, Input
from eventsnn.readers import read_input
from eventsnn.recordings import View

DATA = Path(os.environ.get("EVENTSNN_DATA", Path(__file__).resolve().parents[2] / "shared")) / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="data absent")


def network(shape, encoding="direct", classes=10):
    """One dense layer behind an input of this shape."""
    before = (Flatten(),) if len(shape) > 1 else ()
    weight = np.zeros((classes, int(np.prod(shape))))
    return Network(
        populations=(Population("input", shape, Input()), Population("out", (classes,), IF())),
        connections=(Connection("input", "out", Dense(weight), before=before),),
        output="out",
        encoding=encoding,
    )


def refused(path, net, message, **options):
    """Reading must fail with one sentence that names the file and matches."""
    with pytest.raises(ValueError, match=message) as caught:
        read_input(path, net, **options)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.fixture
def photos():
    """Six 4 x 5 pictures of three channels, with labels."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (6, 4, 5, 3), np.uint8), np.arange(6, dtype=np.uint8)


def save(path, **arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        return
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            if np.ndim(value):
                file[name] = value
            else:
                file.attrs[name] = value


# ---------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".hdf5"])
def test_images_and_labels(tmp_path, photos, suffix):
    """Pixels arrive untouched, channels first, with the file's own hash."""
    images, labels = photos
    path = tmp_path / f"photos{suffix}"
    save(path, images=images, labels=labels)
    samples = read_input(path, network((3, 4, 5)))
    assert samples.inputs.dtype == np.uint8
    assert np.array_equal(samples.inputs, images.transpose(0, 3, 1, 2))
    assert samples.labels.dtype == np.int64
    assert samples.labels.tolist() == labels.tolist()
    assert samples.name == path.name
    assert samples.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(samples) == 6


def test_other_names_limit_and_choice_of_samples(tmp_path, photos):
    """--keys picks arrays by name and samples by value; --limit takes the first of what is left."""
    images, labels = photos
    path = tmp_path / "a.npz"
    np.savez(path, x_test=images, y_test=labels, split=[0, 1, 1, 0, 1, 1], images=images[:2])
    net = network((3, 4, 5))
    samples = read_input(path, net, keys="x_test,y_test,split=1", limit=3)
    assert samples.labels.tolist() == [1, 2, 4]
    assert np.array_equal(samples.inputs, images[[1, 2, 4]].transpose(0, 3, 1, 2))
    assert read_input(path, net, keys="x_test").labels is None
    assert read_input(path, net).labels is None
    refused(path, net, "no sample has split = 7", keys="x_test,y_test,split=7")
    refused(path, net, "it has no array 'y_train'; it holds x_test, y_test", keys="x_test,y_train")
    refused(path, net, r"array 'split' has shape \(6,\), wanted one entry for each of 2", keys="split=1")
    with pytest.raises(ValueError, match="limit is 0, wanted 1 or more"):
        read_input(path, net, limit=0)
    refused(path, net, "'split=one' is not NAME=NUMBER", keys="split=one")
    refused(path, net, "wanted one or two names", keys="a,b,c")
    refused(path, net, "wanted one or two names", keys="")


def test_npy_holds_images_alone(tmp_path, photos):
    """A bare array has no labels and no names."""
    path = tmp_path / "a.npy"
    np.save(path, photos[0])
    samples = read_input(path, network((3, 4, 5)))
    assert samples.labels is None
    assert samples.inputs.shape == (6, 3, 4, 5)
    refused(path, network((3, 4, 5)), "cannot apply", keys="images,labels")


def test_the_layout_is_asked_for_where_both_fit(tmp_path):
    """The choice reaches the reader."""
    images = np.random.default_rng(1).random((2, 3, 3, 3))
    path = tmp_path / "a.npz"
    np.savez(path, images=images)
    refused(path, network((3, 3, 3)), "--layout chw or --layout hwc")
    assert np.array_equal(read_input(path, network((3, 3, 3)), layout="chw").inputs, images)


def test_sound_files_with_unfit_content_are_refused(tmp_path, photos):
    """Shape, labels, NaN and encoding are checked against the network."""
    images, labels = photos
    path = tmp_path / "a.npz"
    net = network((3, 4, 5))
    np.savez(path, images=images, labels=labels[:4])
    refused(path, net, "4 labels for 6 samples")
    np.savez(path, images=images, labels=labels + 9)
    refused(path, net, r"the label of sample 1 is 10, wanted 0 to 9 \(the network has 10 output units\)")
    np.savez(path, images=images, labels=np.eye(6))
    refused(path, net, r"labels have shape \(6, 6\) and dtype float64")
    np.savez(path, images=images, labels=labels)
    refused(path, network((1, 8, 8)), r"\(6, 4, 5, 3\) do not fit the network's input \(1, 8, 8\)")
    refused(path, network((2, 4, 5), "events"), "it holds images, but the network takes events")
    np.savez(path, images=np.where(np.arange(5)[:, None] == 3, np.nan, images / 255.0), labels=labels)
    refused(path, net, r"images: the value at \(0, 0, 3, 0\) is nan")
    np.savez(path, pictures=images)
    refused(path, net, "it holds pictures, wanted images and labels, or events")
    np.savez(path, images=images[:0])
    refused(path, net, "it holds no samples")


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_truncated_and_foreign_files_are_refused(tmp_path, photos, suffix):
    """Half a file must not become half a result."""
    images, labels = photos
    path = tmp_path / f"a{suffix}"
    save(path, images=images, labels=labels)
    whole = path.read_bytes()
    for end in (0, 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:end])
        refused(path, network((3, 4, 5)), "cannot be read, the file may be truncated")
    path.write_bytes(b"hello, this is text" * 20)
    refused(path, network((3, 4, 5)), "cannot be read|python objects")


def test_a_file_that_is_not_there_or_not_known(tmp_path):
    """The path is named."""
    refused(tmp_path / "absent.npz", network((2,)), "does not exist")
    (tmp_path / "notes.md").write_text("x")
    refused(tmp_path / "notes.md", network((2,)), ".md is not understood; wanted .npz")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", network((2, 34, 34), "events"), "the folder holds nothing, wanted .bin recordings")


def test_objects_in_arrays_are_never_loaded(tmp_path):
    """An object array is a pickle in disguise."""
    path = tmp_path / "a.npz"
    np.savez(path, images=np.array([{"a": 1}], object))
    refused(path, network((2,)), "array 'images' holds python objects")
    path = tmp_path / "a.npy"
    path.write_bytes(pickle.dumps([1, 2]))
    refused(path, network((2,)), "it holds python objects")


def test_links_in_hdf5_files_are_not_followed(tmp_path):
    """A stranger's file must not make us read other files."""
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["images"] = np.zeros((2, 3))
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["images"] = h5py.ExternalLink(str(secret), "images")
        file["soft"] = h5py.SoftLink("/images")
        file["group/x"] = np.zeros((2, 3))
        file["dir"] = h5py.ExternalLink(str(secret), "/")
        layout = h5py.VirtualLayout((2, 3), float)
        layout[:] = h5py.VirtualSource(str(secret), "images", (2, 3))
        file.create_virtual_dataset("virtual", layout)
        file["text"] = "hello"
    net = network((3,))
    refused(path, net, "'images' is a link")
    refused(path, net, "'soft' is a link", keys="soft")
    refused(path, net, "'dir/images' is a link", keys="dir/images")
    refused(path, net, "'virtual' keeps its data in other files", keys="virtual")
    refused(path, net, "'group' is a group", keys="group")
    refused(path, net, "'text' has dtype object", keys="text")
    refused(path, net, "it has no dataset 'none'", keys="none")
    assert read_input(path, net, keys="group/x").inputs.shape == (2, 3)


# ---------------------------------------------------------------------------------------------------------- events


@pytest.fixture
def recording():
    """Two samples of events of a 4 x 5 sensor with two polarities."""
    return {
        "t": np.array([0, 3, 3, 900, 2], np.uint32),
        "x": np.array([0, 4, 2, 1, 3], np.uint8),
        "y": np.array([0, 3, 1, 2, 0], np.uint8),
        "p": np.array([0, 1, 1, 0, 1], np.uint8),
        "offsets": np.array([0, 4, 5]),
        "labels": np.array([7, 1], np.uint8),
        "sensor_height": 4,
        "sensor_width": 5,
    }


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
@pytest.mark.parametrize("shape", [(2, 4, 5), (40,)])
def test_events_become_units_in_channels_first_order(tmp_path, recording, suffix, shape):
    """(p, y, x) must be unit (p * H + y) * W + x, also for a network that takes the flattened sensor."""
    path = tmp_path / f"a{suffix}"
    save(path, **recording)
    samples = read_input(path, network(shape, "events"))
    assert isinstance(samples.inputs, Events)
    assert samples.inputs.t.tolist() == [0, 3, 3, 900, 2]
    expected = np.ravel_multi_index((recording["p"], recording["y"], recording["x"]), (2, 4, 5))
    assert samples.inputs.neuron.tolist() == expected.tolist()
    assert samples.inputs.offsets.tolist() == [0, 4, 5]
    assert samples.labels.tolist() == [7, 1]
    assert len(samples) == 2
    assert read_input(path, network(shape, "events"), limit=1).labels.tolist() == [7]


def test_polarities_can_be_merged_and_samples_chosen(tmp_path, recording):
    """A "-" leaves a column out; the events of chosen samples keep their times and order."""
    path = tmp_path / "a.npz"
    save(path, **recording, split=np.array([0, 1]))
    merged = read_input(path, network((1, 4, 5), "events"), keys="t,x,y,-,offsets,-")
    assert merged.labels is None
    assert merged.inputs.neuron.tolist() == [0, 19, 7, 11, 3]
    chosen = read_input(path, network((2, 4, 5), "events"), keys="split=1")
    assert chosen.labels.tolist() == [1]
    assert chosen.inputs.t.tolist() == [2]
    assert chosen.inputs.offsets.tolist() == [0, 1]


def test_choosing_several_samples_of_events(tmp_path):
    """The slices of chosen samples, one after the other, empty ones included."""
    rng = np.random.default_rng(3)
    lengths = np.array([3, 0, 5, 2, 4])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    t = np.concatenate([np.sort(rng.integers(0, 99, n)) for n in lengths])
    x = rng.integers(0, 6, len(t))
    path = tmp_path / "a.npz"
    np.savez(path, t=t, x=x, offsets=offsets, take=[1, 1, 0, 1, 1])
    events = read_input(path, network((6,), "events"), keys="take=1").inputs
    parts = [slice(a, b) for a, b in itertools.pairwise(offsets)]
    chosen = [parts[i] for i in (0, 1, 3, 4)]
    assert np.array_equal(events.t, np.concatenate([t[s] for s in chosen]))
    assert np.array_equal(events.neuron, np.concatenate([x[s] for s in chosen]))
    assert events.offsets.tolist() == [0, 3, 3, 5, 9]


def test_one_dimensional_addresses(tmp_path):
    """Without y: channel p, position x; or a vector, polarity after polarity."""
    columns = {"t": [0, 1, 2], "x": [0, 5, 3], "p": [1, 0, 1], "offsets": [0, 3]}
    path = tmp_path / "a.npz"
    np.savez(path, **columns)
    for shape in ((2, 6), (12,)):
        assert read_input(path, network(shape, "events")).inputs.neuron.tolist() == [6, 5, 9]
    assert read_input(path, network((6,), "events"), keys="t,x,-,-,offsets,-").inputs.neuron.tolist() == [0, 5, 3]
    np.savez(path, **columns, n_channels=6)
    refused(path, network((6,), "events"), "p of sample 0, event 0 is 1, wanted 0 to 0 .* merges the polarities")
    refused(path, network((2, 8), "events"), r"a sensor of 6 channels, they do not fit the network's input \(2, 8\)")
    refused(path, network((2, 4, 5), "events"), "one-dimensional addresses")


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_a_view_shrinks_the_sensor(tmp_path, recording, suffix):
    """Stated sizes follow the crop and the downsampling, so that a network of the smaller sensor fits."""
    path = tmp_path / f"a{suffix}"
    save(path, **recording)
    view = View(crop=(1, 0, 5, 4), downsample=2)
    for shape in ((2, 2, 2), (8,)):
        samples = read_input(path, network(shape, "events"), view=view)
        assert samples.inputs.t.tolist() == [3, 3, 900, 2]
        assert samples.inputs.neuron.tolist() == [7, 4, 2, 5]
        assert samples.inputs.offsets.tolist() == [0, 3, 4]
        assert samples.labels.tolist() == [7, 1]
    refused(path, network((2, 4, 5), "events"), "a sensor of 2 x 2, they do not fit", view=view)
    refused(path, network((2, 4, 4), "events"), "the sensor has 5 columns and 4 rows", view=View(crop=(0, 0, 6, 4)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": [0, 4, 5, 1, 3]}, "x of sample 0, event 2 is 5, wanted 0 to 4"),
        ({"y": [0, 3, 1, 2, 4]}, "y of sample 1, event 0 is 4, wanted 0 to 3"),
        ({"p": [0, 1, -1, 0, 1]}, "p of sample 0, event 2 is -1, wanted 0 to 1"),
        ({"t": [0, 3, 2, 900, 2]}, "time 2 us of sample 0, event 2 comes after 3 us; sort"),
        ({"t": [0, -3, 2, 900, 2]}, "time -3 us of sample 0, event 1 is negative"),
        (
            {"t": [0, 0.1, 0.2, 0.3, 0.4]},
            "t has shape .* dtype float64, wanted one row of whole numbers of microseconds",
        ),
        ({"x": [0, 4, 2, 1]}, "4 entries of x for 5 times"),
        ({"offsets": [0, 4, 6]}, "offsets go from 0 to 6, wanted 0 to 5"),
        ({"offsets": [0, 5, 4, 5], "labels": [1, 2, 3]}, "offsets fall from 5 to 4"),
        ({"labels": [1, 2, 3]}, "3 labels for 2 samples"),
        ({"sensor_width": 6}, r"a sensor of 4 x 6, they do not fit the network's input \(2, 4, 5\)"),
    ],
)
def test_events_that_do_not_fit_are_named(tmp_path, recording, change, message):
    """Position and value must be in the sentence."""
    path = tmp_path / "a.npz"
    save(path, **{**recording, **{name: np.array(value) for name, value in change.items()}})
    refused(path, network((2, 4, 5), "events"), message)


def test_events_for_the_wrong_network_are_refused(tmp_path, recording):
    """Missing columns and sizes that are not stated cannot be guessed."""
    path = tmp_path / "a.h5"
    save(path, **recording)
    refused(path, network((2, 4, 5)), "it holds events, but the network takes images")
    refused(path, network((20, 2), "events"), "two-dimensional addresses")
    refused(path, network((3, 40), "events"), "two-dimensional addresses")
    refused(path, network((41,), "events"), "a sensor of 4 x 5")
    with h5py.File(path, "a") as file:
        file.attrs["t_unit"] = np.bytes_("us")
        file.attrs["n_channels"] = "not a number"
    assert len(read_input(path, network((2, 4, 5), "events"))) == 2
    with h5py.File(path, "a") as file:
        file.attrs["t_unit"] = "ms"
    refused(path, network((2, 4, 5), "events"), "t_unit is 'ms', wanted 'us'")
    bare = {name: value for name, value in recording.items() if np.ndim(value)}
    save(path, **bare)
    assert len(read_input(path, network((2, 4, 5), "events"))) == 2
    refused(path, network((40,), "events"), "the sensor's size is not stated")
    del bare["p"]
    save(path, **bare)
    refused(path, network((2, 4, 5), "events"), r"no polarity p, the network's input \(2, 4, 5\) has 2 channels")


# --------------------------------------------------------------------------------------------------------- N-MNIST


def recorded(t, x, y, p):
    """Events in the 5-byte format of N-MNIST, written out bit by bit."""
    rows = []
    for time, column, row, polarity in zip(t, x, y, p, strict=True):
        bits = f"{column:08b}{row:08b}{polarity:01b}{time:023b}"
        rows.append(int(bits, 2).to_bytes(5, "big"))
    return b"".join(rows)


def test_nmnist_recordings(tmp_path):
    """Single files, folders and class folders; the 23 bits of time, big-endian."""
    net = network((2, 34, 34), "events")
    first = recorded([0, 70_000, 2**23 - 1], [33, 1, 2], [0, 33, 5], [1, 0, 1])
    (tmp_path / "one.bin").write_bytes(first)
    samples = read_input(tmp_path / "one.bin", net)
    assert samples.labels is None
    assert samples.inputs.t.tolist() == [0, 70_000, 2**23 - 1]
    assert samples.inputs.neuron.tolist() == [34 * 34 + 33, 33 * 34 + 1, 34 * 34 + 5 * 34 + 2]
    assert samples.sha256 == hashlib.sha256(first).hexdigest()

    train = tmp_path / "Train"
    for digit, name, x in ((7, "00001", 1), (0, "00003", 3), (0, "00002", 2)):
        (train / str(digit)).mkdir(parents=True, exist_ok=True)
        (train / str(digit) / f"{name}.bin").write_bytes(recorded([5], [x], [0], [0]))
    samples = read_input(train, net)
    assert samples.labels.tolist() == [7, 0, 0]  # by file name, so that a limit does not take one class alone
    assert samples.inputs.neuron.tolist() == [1, 2, 3]
    digests = {
        f: hashlib.sha256((train / f).read_bytes()).hexdigest() for f in ("0/00002.bin", "0/00003.bin", "7/00001.bin")
    }
    listing = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    assert samples.sha256 == hashlib.sha256(listing.encode()).hexdigest()
    zeros = read_input(train / "0", net)
    assert zeros.labels is None
    assert len(zeros) == 2

    refused(tmp_path, network((2, 28, 28), "events"), r"a sensor of 34 x 34, they do not fit")
    refused(tmp_path, network((1, 34, 34)), "it holds events, but the network takes images")
    refused(tmp_path, net, "cannot apply", keys="images")
    (tmp_path / "two.bin").write_bytes(first[:-2])
    refused(tmp_path, net, "two.bin has 13 bytes, wanted 5 for each event")
    (tmp_path / "two.bin").write_bytes(b"")
    refused(tmp_path, net, "two.bin has 0 bytes")
    (tmp_path / "two.bin").write_bytes(recorded([4, 3], [0, 0], [0, 0], [0, 0]))
    refused(tmp_path, net, "time 3 us of sample 1, event 1 comes after 4 us")
    (tmp_path / "two.bin").write_bytes(recorded([4], [34], [0], [0]))
    refused(tmp_path, net, "x of sample 1, event 0 is 34, wanted 0 to 33")


# ----------------------------------------------------------------------------------------------------------- CIFAR


@pytest.fixture
def pictures():
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (4, 3, 32, 32), np.uint8), np.array([3, 9, 0, 1])


def binary(images, *labels):
    return b"".join(
        bytes(row) + image.tobytes() for *row, image in zip(*(map(int, x) for x in labels), images, strict=True)
    )


def python2_pickle(images, labels):
    """What the published CIFAR-10 batches are: protocol 2 as Python 2 wrote it, byte strings and old module names."""

    def short(text):
        return b"U" + bytes([len(text)]) + text

    def long(data):
        return b"T" + len(data).to_bytes(4, "little") + data

    def integer(n):
        return b"J" + int(n).to_bytes(4, "little", signed=True)

    flat = images.reshape(len(images), -1)
    dtype = (
        b"cnumpy\ndtype\n(" + short(b"u1") + b"K\x00K\x01tR(K\x03" + short(b"|") + b"NNN" + integer(-1) * 2 + b"K\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + short(b"b") + b"tR"
    state = (
        b"(K\x01("
        + integer(flat.shape[0])
        + integer(flat.shape[1])
        + b"t"
        + dtype
        + b"\x89"
        + long(flat.tobytes())
        + b"tb"
    )
    listed = b"](" + b"".join(integer(n) for n in labels) + b"e"
    return b"\x80\x02}(" + short(b"data") + array + state + short(b"labels") + listed + b"u."


def test_cifar10_binary_and_python(tmp_path, pictures):
    """Both published forms give the same arrays; the test split unless asked for training."""
    images, labels = pictures
    net = network((3, 32, 32))
    (tmp_path / "test_batch.bin").write_bytes(binary(images[:2], labels[:2]))
    (tmp_path / "data_batch_2.bin").write_bytes(binary(images[3:], labels[3:]))
    (tmp_path / "data_batch_1.bin").write_bytes(binary(images[2:3], labels[2:3]))
    test, train = read_input(tmp_path, net), read_input(tmp_path, net, keys="train")
    assert np.array_equal(test.inputs, images[:2])
    assert test.labels.tolist() == [3, 9]
    assert np.array_equal(train.inputs, images[2:])
    assert train.labels.tolist() == [0, 1]
    assert test.sha256 != train.sha256
    assert read_input(tmp_path / "data_batch_2.bin", net).labels.tolist() == [1]
    refused(tmp_path, net, "keys of a CIFAR folder are 'images', wanted 'test' or 'train'", keys="images")
    (tmp_path / "test_batch.bin").write_bytes(binary(images[:2], labels[:2])[:-1])
    refused(tmp_path, net, "test_batch.bin has 6145 bytes, wanted 3073 for each image")

    folder = tmp_path / "py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(python2_pickle(images, labels))
    (folder / "batches.meta").write_bytes(b"never read")
    (folder / "readme.html").write_text("never read")
    read = read_input(folder, net)  # no test batch there: the training ones
    assert np.array_equal(read.inputs, images)
    assert read.labels.tolist() == labels.tolist()
    for protocol in range(5):
        batch = {b"data": images.reshape(4, -1), b"labels": labels.tolist(), b"filenames": [b"a.png"] * 4}
        (folder / "data_batch_1").write_bytes(pickle.dumps(batch, protocol))
        assert np.array_equal(read_input(folder, net).inputs, images)
    refused(folder, net, "nothing of the test split", keys="test")
    refused(folder, network((3, 16, 16)), r"\(4, 3, 32, 32\) do not fit")


def test_cifar100_takes_the_fine_labels(tmp_path, pictures):
    """The coarse label comes first in the binary records."""
    images, labels = pictures
    net = network((3, 32, 32), classes=100)
    (tmp_path / "test.bin").write_bytes(binary(images, [0, 1, 2, 3], labels + 80))
    assert read_input(tmp_path, net).labels.tolist() == (labels + 80).tolist()
    (tmp_path / "test.bin").unlink()
    batch = {"data": images.reshape(4, -1), "fine_labels": (labels + 80).tolist(), "coarse_labels": [0] * 4}
    (tmp_path / "test").write_bytes(pickle.dumps(batch, 2))
    assert read_input(tmp_path / "test", net).labels.tolist() == (labels + 80).tolist()
    refused(tmp_path / "test", network((3, 32, 32)), "the label of sample 0 is 83, wanted 0 to 9")


class Evil:
    def __reduce__(self):
        return (os.system, ("exit 1",))


class Getter:
    def __reduce__(self):
        return (getattr, ({}, "keys"))


@pytest.mark.parametrize(
    ("thing", "name"), [(Evil(), "posix.system|nt.system"), (Getter(), "getattr"), (Path("a"), "pathlib")]
)
def test_pickles_that_would_execute_code_are_refused(tmp_path, thing, name):
    """A batch is data; a name outside the list ends the reading before anything is called."""
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": thing}, 2))
    refused(path, network((3, 32, 32)), f"asks for .*({name}).* refused")


def test_damaged_pickles_are_refused(tmp_path, pictures):
    """Truncation, another content and wrong types are sentences too."""
    images, labels = pictures
    path = tmp_path / "test_batch"
    net = network((3, 32, 32))
    whole = python2_pickle(images, labels)
    for end in (0, 1, 60, len(whole) - 20):
        path.write_bytes(whole[:end])
        refused(path, net, "no CIFAR batch, or is truncated")
    for content, message in (
        ([1, 2], "no uint8 array `data`"),
        ({"data": images.reshape(4, -1)}, "no list of 4 whole numbers"),
        ({"data": images.reshape(4, -1), "labels": [1, 2, 3]}, "no list of 4 whole numbers"),
        ({"data": images.reshape(4, -1), "labels": [1, 2, 3, "x"]}, "no list of 4 whole numbers"),
        ({"data": images.reshape(4, -1) / 2, "labels": labels.tolist()}, "no uint8 array `data`"),
        ({"data": images, "labels": labels.tolist()}, "no uint8 array `data`"),
    ):
        path.write_bytes(pickle.dumps(content, 2))
        refused(path, net, message)


# ------------------------------------------------------------------------------------------------------- real data


@needs_data
def test_nmnist_subset():
    """The real file: 100 test items, and the same events through the .bin format."""
    path = DATA / "nmnist_subset.h5"
    net = network((2, 34, 34), "events")
    samples = read_input(path, net, keys="split=1")
    assert len(samples) == 100
    assert np.bincount(samples.labels).tolist() == [8, 14, 8, 11, 14, 7, 10, 15, 2, 11]
    with h5py.File(path) as file:
        item = int(np.flatnonzero(file["split"][()] == 1)[4])
        part = slice(*file["offsets"][item : item + 2])
        t, x, y, p = (file[name][part].astype(int) for name in "txyp")
    events = samples.inputs
    mine = slice(events.offsets[4], events.offsets[5])
    assert np.array_equal(events.t[mine], t)
    assert np.array_equal(events.neuron[mine], (p * 34 + y) * 34 + x)
    refused(
        path, network((2, 28, 28), "events"), r"a sensor of 34 x 34, they do not fit the network's input \(2, 28, 28\)"
    )


@needs_data
def test_nmnist_subset_as_bin_files(tmp_path):
    """Written as N-MNIST publishes it, a real recording reads back as the same events."""
    with h5py.File(DATA / "nmnist_subset.h5") as file:
        t, x, y, p = (file[name][: file["offsets"][1]].astype(int) for name in "txyp")
        label = int(file["labels"][0])
    (tmp_path / str(label)).mkdir()
    (tmp_path / str(label) / "00001.bin").write_bytes(recorded(t, x, y, p))
    samples = read_input(tmp_path, network((2, 34, 34), "events"))
    assert np.array_equal(samples.inputs.t, t)
    assert np.array_equal(samples.inputs.neuron, (p * 34 + y) * 34 + x)
    assert samples.labels.tolist() == [label]


@needs_data
def test_views_of_a_real_recording():
    """Every item of a real file, cropped, halved and cut in time, against the slow count of one."""
    path = DATA / "nmnist_subset.h5"
    view = View(crop=(3, 3, 31, 31), polarity="on", downsample=2, window=(0.1, 0.2))
    samples = read_input(path, network((1, 14, 14), "events"), view=view)
    with h5py.File(path) as file:
        part = slice(*file["offsets"][7:9])
        t, x, y, p = (file[name][part].tolist() for name in "txyp")
    rows = [
        (a - 100_000, (c - 3) // 2 * 14 + (b - 3) // 2)
        for a, b, c, d in zip(t, x, y, p, strict=True)
        if d and 100_000 <= a < 200_000 and 3 <= b < 31 and 3 <= c < 31
    ]
    mine = samples.inputs.take([7])
    assert list(zip(mine.t.tolist(), mine.neuron.tolist(), strict=True)) == rows


@needs_data
def test_other_real_files():
    """Names other than ours, a one-dimensional sensor, and a sensor of another size."""
    digits = read_input(DATA / "mnist.npz", network((1, 28, 28)), keys="x_test,y_test", limit=50)
    assert digits.inputs.shape == (50, 1, 28, 28)
    assert digits.labels[:4].tolist() == [7, 2, 1, 0]
    tones = read_input(DATA / "nas_tones.h5", network((2, 64), "events"))
    assert np.bincount(tones.labels).tolist() == [26] * 8
    refused(DATA / "dvs128_objects.h5", network((2, 34, 34), "events"), "a sensor of 128 x 128")
