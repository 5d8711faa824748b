"""Recordings: each format read back exactly, the laws of a view, streams that equal the whole, and hostile files."""

import struct
import tracemalloc
from itertools import islice, pairwise

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsnn.inputs import Events, check_events
from eventsnn.network import Connection, Dense, Flatten, Network, Population
from eventsnn.neurons import IF, Input
from eventsnn.readers import read_input
from eventsnn.recordings import View, parse_view, stream


def network(shape, encoding="events"):
    """One dense layer of two neurons behind an input of this shape."""
    before = (Flatten(),) if len(shape) > 1 else ()
    return Network(
        populations=(Population("input", shape, Input()), Population("out", (2,), IF())),
        connections=(Connection("input", "out", Dense(np.zeros((2, int(np.prod(shape))))), before=before),),
        output="out",
        encoding=encoding,
    )


def read(path, shape, **options):
    events = read_input(path, network(shape), **options).inputs
    assert isinstance(events, Events)
    assert [events.t.dtype, events.neuron.dtype] == [np.int64, np.int64]
    assert [events.offsets[0], events.offsets[-1]] == [0, len(events.t)]
    return events


def refused(path, shape, message, **options):
    """Reading must fail with one sentence that names the file and matches; streaming too."""
    for attempt in (read_input, lambda *a, **k: list(stream(*a, 1.0, **k))):
        with pytest.raises(ValueError, match=message) as caught:
            attempt(path, network(shape), **options)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def pixels(events, shape):
    """(t, x, y, p) of every event, from the unit numbers."""
    p, y, x = np.unravel_index(events.neuron, shape)
    return list(zip(events.t.tolist(), x.tolist(), y.tolist(), p.tolist(), strict=True))


# ------------------------------------------------------------------------------------- files, written from the specs


def aedat2(events, chip="eu.seebetter.ini.chips.davis.Davis346blue", clock=0, end=True):
    """AEDAT 2.0: events are (t, x, y, p) with y from the top and x from the left, or (t, raw address)."""
    header = "#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n# Timestamps tick is 1 us\r\n"
    if chip:
        header += f"# AEChip: {chip}\r\n"
    if end:
        header += "#End Of ASCII Header\r\n"
    body = b""
    for t, *rest in events:
        if len(rest) == 1:
            address = rest[0]
        elif "DVS128" in chip:
            x, y, p = rest
            address = ((127 - y) * 256) + ((127 - x) * 2) + (0 if p else 1)
        else:
            x, y, p = rest
            width, height = (346, 260) if "346" in chip else (240, 180)
            address = int(f"0{height - 1 - y:09b}{width - 1 - x:010b}{p:b}" + "0" * 11, 2)
        body += struct.pack(">II", address, (t + clock) % 2**32)
    return header.encode() + body


def packet(events, overflow=0, kind=1, source=0, invalid=()):
    """One AEDAT 3.1 packet of polarity events (t, x, y, p); those at the positions `invalid` carry no valid mark."""
    body = b""
    for i, (t, x, y, p) in enumerate(events):
        body += struct.pack("<II", int(f"{x:015b}{y:015b}{p:b}{int(i not in invalid):b}", 2), t)
    n = len(events)
    return struct.pack("<hhiiiiii", kind, source, 8, 4, overflow, n, n, n - len(invalid)) + body


def aedat3(*packets, source="DVS128"):
    header = f"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 0: {source}\r\n#Start-Time: 2016-09-21 (TZ+0200)\r\n"
    return header.encode() + b"#!END-HEADER\r\n" + b"".join(packets)


def shd(path, times, units, labels):
    with h5py.File(path, "w") as file:
        for name, rows, kind in (("times", times, np.float16), ("units", units, np.uint16)):
            data = file.create_dataset(f"spikes/{name}", (len(rows),), h5py.vlen_dtype(kind))
            for i, row in enumerate(rows):
                data[i] = np.asarray(row, kind)
        file["labels"] = np.asarray(labels, np.uint16)
        file["extra/speaker"] = np.arange(len(labels), dtype=np.uint16)


SOME = [(0, 3, 5, 1), (7, 0, 0, 0), (7, 127, 100, 1), (900_000, 64, 127, 0), (1_700_000, 1, 2, 1)]
RECORD = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "?")])

# ---------------------------------------------------------------------------------------------------------- AEDAT


@pytest.mark.parametrize(
    ("chip", "shape"), [("DVS128", (128, 128)), ("Davis240C", (180, 240)), ("Davis346", (260, 346))]
)
@pytest.mark.parametrize("end", [True, False])
def test_aedat2_layouts(tmp_path, chip, shape, end):
    """Pixels at all four corners, both polarities, times from the first event."""
    path = tmp_path / "a.aedat"
    h, w = shape
    events = [(0, 0, 0, 0), (1, w - 1, 0, 1), (5, 0, h - 1, 1), (5, w - 1, h - 1, 0), (9, 12, 34, 1)]
    path.write_bytes(aedat2(events, chip, clock=123_456, end=end))
    assert pixels(read(path, (2, h, w)), (2, h, w)) == events
    assert read(path, (2, h, w), keys="zero=file").t.tolist() == [t + 123_456 for t, *_ in events]
    refused(path, (2, 34, 34), f"a sensor of {h} x {w}, they do not fit")


def test_aedat2_leaves_out_what_is_no_pixel_event(tmp_path):
    """Frames, inertial samples and external input of a DAVIS; external events of a DVS128."""
    path = tmp_path / "a.aedat"
    aps, imu, external = 0x80000000 | 5 << 12, 0x80000C00, 0x400
    kept = [(3, 10, 20, 1), (4, 11, 21, 0)]
    path.write_bytes(aedat2([(0, aps), (1, imu), kept[0], (3, external), kept[1], (9, aps | 0x3FF)]))
    assert pixels(read(path, (2, 260, 346)), (2, 260, 346)) == [(0, 10, 20, 1), (1, 11, 21, 0)]
    path.write_bytes(aedat2([(0, 0x8000), (2, 5, 6, 1), (3, 0x80000000)], "DVS128"))
    assert pixels(read(path, (2, 128, 128)), (2, 128, 128)) == [(0, 5, 6, 1)]
    path.write_bytes(aedat2([(0, aps)]))
    with pytest.raises(ValueError, match="it holds no events"):
        read(path, (2, 260, 346))
    assert list(stream(path, network((2, 260, 346)), 1.0)) == []


def test_aedat2_clock_wraps(tmp_path):
    """32 bits of microseconds are 72 minutes; a long recording goes round more than once."""
    path = tmp_path / "a.aedat"
    times = [0, 2**30, 2**31, 2**31 + 2**30, 2**32 - 1, 2**32, 2**32 + 2**30, 2**32 + 2**31, 2**33 - 2**30, 2**33 + 5]
    for clock in (0, 2**31 - 1, 2**32 - 3):
        path.write_bytes(aedat2([(t, 1, 2, 0) for t in times], "DVS128", clock))
        assert read(path, (2, 128, 128)).t.tolist() == times
    path.write_bytes(aedat2([(100, 1, 2, 0), (50, 1, 2, 0)], "DVS128"))
    refused(path, (2, 128, 128), "time -50 us of record 1 comes after 0 us of record 0; sort the events by time")


def test_aedat2_camera_must_be_known(tmp_path):
    """The same 32 bits mean another pixel for another camera, so none is guessed."""
    path = tmp_path / "a.aedat"
    whole = aedat2([(0, 3, 5, 1)], "DVS128").replace(b"# AEChip: DVS128\r\n", b"")
    path.write_bytes(whole)
    refused(path, (2, 128, 128), "depends on the camera, and its header is silent; .* chip=dvs128, chip=davis240")
    assert pixels(read(path, (2, 128, 128), keys="chip=dvs128"), (2, 128, 128)) == [(0, 3, 5, 1)]
    path.write_bytes(aedat2([(0, 3, 5, 1)], "eu.seebetter.ini.chips.davis.Davis640"))
    refused(path, (2, 128, 128), "names the camera 'eu.seebetter.ini.chips.davis.davis640'")
    path.write_bytes(aedat2([(0, 3, 5, 1), (1, 300 << 12)]))
    refused(path, (2, 180, 240), "x address of record 0 is 342, wanted 0 to 239 for a DAVIS240", keys="chip=davis240")
    path.write_bytes(aedat2([(0, 3, 5, 1), (1, 0x1FF << 22)]))
    refused(path, (2, 260, 346), "y address of record 1 is 511, wanted 0 to 259 for a DAVIS346")
    refused(path, (2, 260, 346), "'chip=davis9' is not NAME=NUMBER or chip=dvs128", keys="chip=davis9")
    refused(path, (2, 260, 346), "keys 'unit=s' cannot apply to an AEDAT 2.0 file", keys="unit=s")


def test_a_header_is_told_from_events_that_begin_with_its_mark(tmp_path):
    """Row addresses 140 to 143 of a DAVIS begin with the byte of '#'; without an end line they are still events."""
    path = tmp_path / "a.aedat"
    events = [(t, 345, 260 - 1 - 141, 0) for t in range(3)]
    data = aedat2(events, end=False)
    assert data.endswith(struct.pack(">II", 0x23400000, 2))
    path.write_bytes(data)
    assert pixels(read(path, (2, 260, 346)), (2, 260, 346)) == events


def test_aedat3_packets(tmp_path):
    """Several packets, invalid events, other kinds, the overflow counter."""
    path = tmp_path / "a.aedat"
    other = struct.pack("<hhiiiiii", 3, 0, 36, 4, 0, 2, 2, 2) + bytes(72)
    last = (5, 9, 8, 1)
    path.write_bytes(aedat3(packet(SOME[:3], invalid=(1,)), other, packet(SOME[3:]), packet([last], overflow=3)))
    expected = [SOME[0], SOME[2], *SOME[3:], (3 * 2**31 + 5, 9, 8, 1)]
    assert pixels(read(path, (2, 128, 128)), (2, 128, 128)) == expected
    refused(path, (2, 34, 34), "a sensor of 128 x 128")
    path.write_bytes(aedat3(packet([(7, 300, 200, 1)]), source="Some new camera"))
    assert pixels(read(path, (2, 260, 346)), (2, 260, 346)) == [(0, 300, 200, 1)]
    refused(path, (2, 260, 256), "x of event 0 is 300, wanted 0 to 255")
    path.write_bytes(aedat3(packet([(7, 128, 0, 1)])))
    refused(path, (2, 128, 128), "x of event 0 is 128, wanted 0 to 127, the size of the sensor")
    path.write_bytes(aedat3(packet(SOME[3:]), packet(SOME[:3])))
    refused(path, (2, 128, 128), "time -900000 us of event 2 comes after 800000 us of event 1")
    path.write_bytes(aedat3(packet(SOME), packet(SOME, source=1)))
    refused(path, (2, 128, 128), "packet 1 has events of 8 bytes from camera 1, wanted 8 and 0")
    path.write_bytes(aedat3(packet([(2**31 + 1, 0, 0, 0)])))
    refused(path, (2, 128, 128), "the time of event 0 is -2147483647, wanted 0 or more")


@pytest.mark.parametrize("number", [2**31 - 1, 10, -1])
def test_aedat3_sizes_that_are_not_there(tmp_path, number):
    """A packet that declares gigabytes must be refused before memory is asked for."""
    path = tmp_path / "a.aedat"
    head = struct.pack("<hhiiiiii", 1, 0, 8, 4, 0, max(number, 0), number, 0)
    path.write_bytes(aedat3(packet(SOME), head + bytes(16)))
    tracemalloc.start()
    refused(
        path, (2, 128, 128), f"packet 1 declares {number} events of 8 bytes .* and 16 bytes follow; it is truncated"
    )
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()
    path.write_bytes(aedat3(packet(SOME))[:-3])
    refused(path, (2, 128, 128), "packet 0 declares 5 events .* and 37 bytes follow")
    path.write_bytes(aedat3(packet(SOME), bytes(27)))
    refused(path, (2, 128, 128), "packet 1 has 27 bytes of its 28 byte header")


def test_other_versions_and_broken_headers_are_named(tmp_path):
    """Users confuse 1.0, 2.0, 3.1 and 4; the refusal says which it is."""
    path, shape = tmp_path / "a.aedat", (2, 128, 128)
    for content, message in (
        (b"#!AER-DAT1.0\r\n" + bytes(12), "it is AEDAT 1.0, which is not read; wanted AEDAT 2.0 or 3.1"),
        (b"#!AER-DAT4.0\r\n" + bytes(90), "it is AEDAT 4.0, which is not read"),
        (b"#!AER-DAT3.0\r\n" + bytes(90), "it is AEDAT 3.0, which is not read"),
        (bytes(600), "no line '#!AER-DAT', so it is AEDAT 1.0 or no AEDAT file"),
        (b"", "no line '#!AER-DAT'"),
        (b"#!AER-DAT3.1\r\n#Format: RAW\r\n", "its header has no end at byte 28; it is truncated or damaged"),
        (b"#!AER-DAT3.1\r\n" + packet(SOME), "its header has no end"),
        (b"#!AER-DAT3.1\r\n#Format: Compressed\r\n#!END-HEADER\r\n", "format 'compressed', wanted RAW"),
        (b"#!AER-DAT2.0\r\n# AEChip: DVS128\r\n# cut of", "its header has no end at byte 32"),
        (b"#!AER-DAT2.0\r\n#" + b"a" * 100_000, "its header has no end"),
        (aedat2(SOME, "DVS128")[:-3], "37 bytes follow its header, wanted 8 for each record"),
    ):
        path.write_bytes(content)
        refused(path, shape, message)
    (tmp_path / "b.aedat4").write_bytes(b"#!AER-DAT4.0\r\n")
    refused(tmp_path / "b.aedat4", shape, "it is AEDAT 4.0")


# ------------------------------------------------------------------------------------------------ arrays and tables


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_structured_arrays(tmp_path, suffix):
    """Fields under their usual names, in any order; missing y and p; a wide integer of time."""
    path, shape = tmp_path / f"a{suffix}", (2, 128, 128)
    save = np.save if suffix == ".npy" else np.savez
    save(path, np.array(SOME, RECORD))
    assert pixels(read(path, shape), shape) == SOME
    names = [("polarity", "u1"), ("y", "i2"), ("Timestamp", "u8"), ("x", "u2")]
    save(path, np.array([(p, y, t + 5, x) for t, x, y, p in SOME], names))
    assert pixels(read(path, shape), shape) == [(t + 5, *rest) for t, *rest in SOME]
    line = np.array([(t, x) for t, x, *_ in SOME], [("ts", "i4"), ("x", "i4")])
    save(path, line)
    assert read(path, (128,)).neuron.tolist() == [x for _, x, *_ in SOME]
    save(path, line[:0])
    if suffix == ".npy":
        with pytest.raises(ValueError, match="it holds no events"):
            read(path, (128,))
    save(path, np.array([(1, 2)], [("when", "i4"), ("x", "i4")]))
    if suffix == ".npy":
        refused(path, shape, "it has no t; it holds when, x")
        assert read(path, (128,), keys="when,x,-,-").t.tolist() == [1]


def test_arrays_without_offsets_are_one_sample(tmp_path):
    """What np.savez(t=, x=, y=, p=) writes, the files of other libraries, is one recording."""
    path, shape = tmp_path / "a.npz", (2, 128, 128)
    t, x, y, p = np.array(SOME).T
    np.savez(path, t=t, x=x, y=y, p=p)
    assert pixels(read(path, shape), shape) == SOME
    assert [pixels(w, shape) for w in stream(path, network(shape), 1.0)] == [SOME[:4], SOME[4:]]
    np.savez(path, when=t, x=x, y=y, p=p)
    assert pixels(read(path, shape, keys="when,x,y,p,-,-"), shape) == SOME


def test_options_of_arrays(tmp_path):
    """Times from the first event of every sample when asked for; what makes no sense for arrays is refused."""
    path = tmp_path / "a.npz"
    np.savez(path, t=[7.0, 9.5, 3.0], x=[0, 1, 2], offsets=[0, 0, 2, 3])
    assert read(path, (3,), keys="unit=ms,zero=first").t.tolist() == [0, 2500, 0]
    assert read(path, (3,), keys="unit=ms").t.tolist() == [7000, 9500, 3000]
    refused(path, (3,), "keys 'chip=dvs128' cannot apply to .*arrays", keys="chip=dvs128")
    np.savez(path, t=[7, 9, 3], x=[0, 1], offsets=[0, 3])
    with pytest.raises(ValueError, match="2 entries of x for 3 times"):
        read(path, (3,), keys="sort=time")
    np.savez(path, t=7, x=1)
    with pytest.raises(ValueError, match=r"t has shape \(\) and dtype int64, wanted one row"):
        read(path, (3,))
    np.savez(path, t=[7, 9, 3], x=[0, 1, 2], offsets=[0, 4])
    with pytest.raises(ValueError, match="offsets go from 0 to 4, wanted 0 to 3"):
        read(path, (3,), keys="sort=time")


def test_fractions_of_seconds_need_their_unit(tmp_path):
    """0.5 could be seconds, milliseconds or a mistake; stated, it goes to the nearest microsecond."""
    path, shape = tmp_path / "a.npy", (2, 128, 128)
    kinds = [("t", "f8"), ("x", "i4"), ("y", "i4"), ("p", "i4")]
    seconds = np.array([(t * 1e-6, x, y, p) for t, x, y, p in SOME], kinds)
    np.save(path, seconds)
    refused(path, shape, "t has shape .* float64, wanted one row of whole numbers of microseconds .* such as unit=s")
    assert pixels(read(path, shape, keys="unit=s"), shape) == SOME
    assert read(path, shape, keys="unit=us").t.tolist() == [0, 0, 0, 1, 2]
    for bad, text in ((np.nan, "nan"), (np.inf, "inf"), (1e300, "1e\\+300")):
        seconds["t"][3] = bad
        np.save(path, seconds)
        refused(path, shape, f"the time of event 3 is {text}, wanted a finite time in s", keys="unit=s")
    whole = np.array([(t, x, y, p) for t, (_, x, y, p) in enumerate(SOME)], RECORD)
    np.save(path, whole)
    assert read(path, shape, keys="unit=ms").t.tolist() == [0, 1000, 2000, 3000, 4000]
    whole["t"][4] = 2**62
    np.save(path, whole)
    refused(path, shape, "the time of event 4 is 4611686018427387904, wanted a finite time in ms", keys="unit=ms")


def test_pickles_in_structured_arrays_are_never_loaded(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([(1, {})], [("t", "i4"), ("x", object)]), allow_pickle=True)
    refused(path, (128,), "it holds python objects, wanted plain numbers; they are never loaded")
    np.save(path, np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="no row of events with named fields"):
        list(stream(path, network((128,)), 1.0))
    np.save(path, np.array(SOME, RECORD))
    path.write_bytes(path.read_bytes()[:-5])
    refused(path, (2, 128, 128), "it cannot be read, the file may be truncated")


@pytest.mark.parametrize("mark", [",", ";", " ", "\t", ", "])
def test_tables(tmp_path, mark):
    """A line that names columns, in any order and with others between; or none, and t, x, y, p."""
    path, shape = tmp_path / "a.csv", (2, 128, 128)
    path.write_text("\n".join(mark.join(map(str, event)) for event in SOME) + "\n")
    assert pixels(read(path, shape), shape) == SOME
    rows = [mark.join(["polarity", "X", "note", "y", "Time"])]
    rows += [mark.join(map(str, (p, x, "word", y, t))) for t, x, y, p in SOME]
    path.with_suffix(".txt").write_text("# a comment\r\n\r\n" + "\r\n".join(rows))
    assert pixels(read(path.with_suffix(".txt"), shape), shape) == SOME
    path.write_text("\n".join(mark.join(map(str, (x, y, p, t / 1e6))) for t, x, y, p in SOME))
    assert pixels(read(path, shape, keys="3,0,1,2,unit=s"), shape) == SOME


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1,2,1\n5,1,2,1\n\n4,1,2,1\n", "time 4 us of line 4 comes after 5 us of line 2; sort"),
        ("-4,1,2,1\n", "time -4 us of line 1 is negative"),
        ("t,x,y,p\n0,1,2,1\n5,128,2,1\n", "x of line 3 is 128, wanted 0 to 127"),
        ("0,1,-2,1\n", "y of line 1 is -2, wanted 0 to 127"),
        ("0,1,2,-1\n", "p of line 1 is -1, wanted 0 for OFF or 1 for ON"),
        ("0,1,2,1\n0.5,1,2,1\n", "t of line 2 is '0.5', wanted a whole number of microseconds .* such as unit=s"),
        ("0,1,2,1\n1,1.5,2,1\n", "x of line 2 is '1.5', wanted a whole number"),
        ("0,1,2,1\n1,1\n", "line 2 has 2 columns, wanted one for y at column 2"),
        ("0,1,2,1\n1,one,2,1\n", "x of line 2 is 'one'"),
        ("0,1,2\n", "line 1 has 3 columns and no line names them"),
        ("when,x,y,p\n0,1,2,1\n", "it has no t; it holds when, x, y, p"),
        ("\n# only a comment\n", "it holds no events"),
        ("0,1,2,1\n" + "1" * 70_000, "line 2 has 65536 characters or more"),
        ("99999999999999999999,1,2,1\n", "t of line 1 is '99999999999999999999'"),
        ("\0\1\2\n\3", "it has no t and no x"),
    ],
)
def test_tables_with_faults_are_refused_with_line_and_value(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    refused(path, (2, 128, 128), message)


def test_nan_times_in_tables(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("t,x,y,p\n0.5,1,2,1\nnan,1,2,1\n")
    refused(path, (2, 128, 128), "the time of line 3 is nan, wanted a finite time in s", keys="unit=s")
    path.write_text("t,x,y,p\n0.5,1,2,1\n?,1,2,1\n")
    refused(path, (2, 128, 128), r"t of line 3 is '\?', wanted a number of s", keys="unit=s")


def test_sorting_is_done_only_when_asked_for(tmp_path):
    """Equal times keep the order of the file; a stream cannot sort."""
    path, shape = tmp_path / "a.csv", (2, 128, 128)
    path.write_text("9,1,2,1\n3,4,5,0\n9,6,7,0\n3,8,9,1\n")
    expected = [(3, 4, 5, 0), (3, 8, 9, 1), (9, 1, 2, 1), (9, 6, 7, 0)]
    assert pixels(read(path, shape, keys="sort=time"), shape) == expected
    with pytest.raises(ValueError, match="keys sort=time needs the whole recording"):
        list(stream(path, network(shape), 1.0, keys="sort=time"))
    arrays = {"t": [9, 3, 5, 5, 1], "x": [0, 1, 2, 3, 4], "offsets": [0, 2, 5]}
    np.savez(tmp_path / "a.npz", **arrays)
    assert read(tmp_path / "a.npz", (5,), keys="sort=time").neuron.tolist() == [1, 0, 4, 2, 3]


def test_spike_lists(tmp_path):
    """SHD's layout: float16 seconds become the nearest microsecond of what they say, beyond float16's range of it."""
    path = tmp_path / "shd.h5"
    times = [[0.0, 0.0005, 0.125, 1.3], [], [0.75, 0.75, 2.5]]
    units = [[0, 699, 3, 3], [], [5, 4, 1]]
    shd(path, times, units, [19, 0, 1])
    with pytest.raises(ValueError, match="the label of sample 0 is 19, wanted 0 to 1"):
        read_input(path, network((700,)))
    shd(path, times, units, [1, 0, 1])
    samples = read_input(path, network((700,)))
    exact = [round(float(np.float16(s)) * 1e6) for row in times for s in row]
    assert samples.inputs.t.tolist() == exact
    assert exact[3] == 1299805  # and not 1300000: the file does not know better
    assert samples.inputs.neuron.tolist() == [0, 699, 3, 3, 5, 4, 1]
    assert samples.inputs.offsets.tolist() == [0, 4, 4, 7]
    assert samples.labels.tolist() == [1, 0, 1]
    assert read_input(path, network((1, 700)), keys="extra/speaker=2").inputs.t.tolist() == exact[4:]
    coarse = read_input(path, network((140,)), view=View(downsample=5)).inputs
    assert coarse.neuron.tolist() == [0, 139, 0, 0, 1, 0, 0]
    one = [e.t.tolist() for e in stream(path, network((700,)), 1.0, sample=2)]
    assert one == [exact[4:6], [], exact[6:]]
    with pytest.raises(ValueError, match="it holds 3 samples and one can be streamed; say which"):
        list(stream(path, network((700,)), 1.0))
    with pytest.raises(ValueError, match="sample is 3, wanted 0 to 2"):
        list(stream(path, network((700,)), 1.0, sample=3))
    shd(path, [[0.5, 0.25]], [[1, 2]], [0])
    with pytest.raises(ValueError, match="time 250000 us of sample 0, event 1 comes after 500000 us"):
        read_input(path, network((700,)))
    shd(path, [[0.5, np.nan]], [[1, 2]], [0])
    with pytest.raises(ValueError, match="the time of sample 0, event 1 is nan, wanted a finite time in s"):
        read_input(path, network((700,)))
    shd(path, [[0.5, 0.75]], [[1]], [0])
    with pytest.raises(ValueError, match=r"sample 0 has times of shape \(2,\) for units of shape \(1,\)"):
        read_input(path, network((700,)))
    shd(path, [[0.5]], [[700]], [0])
    with pytest.raises(ValueError, match="x of sample 0, event 0 is 700, wanted 0 to 699"):
        read_input(path, network((700,)))


def test_arrays_that_do_not_belong_together(tmp_path):
    """Rows of unlike lengths, spike lists of unlike numbers, whole seconds, names too few."""
    path, net = tmp_path / "a.h5", network((9,))
    with h5py.File(path, "w") as file:
        file["t"], file["x"], file["few"] = [1, 2, 3], [1, 2], [0, 3]
    refused(path, (9,), "t has shape .3,., x has shape .2,., wanted rows of one length|2 entries of x for 3 times")
    with pytest.raises(ValueError, match="keys name 2 arrays, wanted t,x,y,p or t,x,y,p,offsets,labels"):
        next(stream(path, net, 1.0, keys="t,x"))
    with pytest.raises(ValueError, match=r"keys are 'few,x', wanted four names, t,x,y,p"):
        next(stream(write(tmp_path / "a.npy", SOME), net, 1.0, keys="few,x"))
    with h5py.File(path, "w") as file:
        file.create_dataset("spikes/times", (2,), h5py.vlen_dtype(np.int32))[0] = np.array([1, 2], np.int32)
        file.create_dataset("spikes/units", (2,), h5py.vlen_dtype(np.int32))[0] = np.array([1, 2], np.int32)
        file.create_dataset("spikes/more", (3,), h5py.vlen_dtype(np.int32))
    refused(path, (9,), "the times of sample 0 have dtype int32, wanted fractions of seconds|it holds 2 samples")
    with h5py.File(path, "a") as file:
        file.move("spikes/more", "spikes/times2")
        del file["spikes/units"]
        file.move("spikes/times2", "spikes/units")
    with pytest.raises(ValueError, match="2 rows of spikes/times for 3 rows of spikes/units"):
        read_input(path, net)


@given(st.lists(st.floats(0, 60, width=16), max_size=50).map(sorted))
def test_float16_keeps_the_order(seconds):
    """Rounding to float16 and then to microseconds is monotone, so a sorted sample stays sorted."""
    t = np.rint(np.array(seconds, np.float16).astype(np.float64) * 1e6)
    assert (np.diff(t) >= 0).all()


# ------------------------------------------------------------------------------------------------------------- views

W, H = 24, 18
POINTS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, W - 1), st.integers(0, H - 1), st.integers(0, 1)))
FACTORS = st.integers(1, 9)


def columns(points):
    t, x, y, p = np.array(sorted(points), np.int64).reshape(-1, 4).T
    return {"t": t, "x": x, "y": y, "p": p}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


SENSOR = {"sensor_width": W, "sensor_height": H}


@given(POINTS, FACTORS, FACTORS)
def test_downsampling_loses_no_event_and_composes(points, a, b):
    """By a and then by b is by a b, for events and for the sensor; every pixel stays on the sensor."""
    events = columns(points)
    first, second, both = View(downsample=a), View(downsample=b), View(downsample=a * b)
    twice = second.apply(first.apply(events))
    assert same(twice, both.apply(events))
    assert second.sensor(first.sensor(SENSOR)) == both.sensor(SENSOR)
    left = both.sensor(SENSOR)
    assert len(twice["t"]) == len(points)
    assert all(x < left["sensor_width"] for x in twice["x"])
    assert all(y < left["sensor_height"] for y in twice["y"])
    assert same(View(downsample=1).apply(events), events)


@given(POINTS)
def test_laws_of_polarity(points):
    """Swap is its own inverse, merge forgets polarity, on and off share the events out between them."""
    events = columns(points)
    shown = {kind: View(polarity=kind).apply(events) for kind in ("keep", "merge", "swap", "on", "off")}
    assert same(shown["keep"], events)
    assert same(View(polarity="swap").apply(shown["swap"]), events)
    assert same(View(polarity="merge").apply(shown["swap"]), shown["merge"])
    assert same(View(polarity="off").apply(shown["swap"]), shown["on"])
    assert "p" not in shown["merge"]
    assert len(shown["merge"]["t"]) == len(points) == len(shown["on"]["t"]) + len(shown["off"]["t"])


@given(POINTS, st.data())
def test_laws_of_crop_and_window(points, data):
    """Four quarters of the sensor and two halves of the time hold every event once; the slow count agrees."""
    events = columns(points)
    x, y = data.draw(st.integers(1, W - 1)), data.draw(st.integers(1, H - 1))
    corners = [(0, 0, x, y), (x, 0, W, y), (0, y, x, H), (x, y, W, H)]
    quarters = [View(crop=crop).apply(events) for crop in corners]
    assert sum(len(q["t"]) for q in quarters) == len(points)
    x0, y0, x1, y1 = corners[3]
    slow = [(t, px - x0, py - y0, p) for t, px, py, p in sorted(points) if x0 <= px < x1 and y0 <= py < y1]
    assert list(zip(*(quarters[3][n].tolist() for n in "txyp"), strict=True)) == slow
    assert View(crop=corners[3]).sensor(SENSOR) == {"sensor_width": W - x, "sensor_height": H - y}
    middle = data.draw(st.integers(1, 10**6))
    halves = [View(window=ends).apply(events) for ends in ((0, middle / 1e6), (middle / 1e6, 2))]
    assert halves[0]["t"].tolist() == [t for t, *_ in sorted(points) if t < middle]
    assert halves[1]["t"].tolist() == [t - middle for t, *_ in sorted(points) if t >= middle]


@given(st.lists(POINTS, min_size=1, max_size=4), st.integers(0, 10**6))
def test_a_view_cuts_every_sample_alike(many, start):
    """Applied to several samples at once it equals each sample on its own."""
    view = View((2, 3, 20, 15), "on", 3, (start / 1e6, 2.0))
    parts = [columns(points) for points in many]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in "txyp"}
    joined["offsets"] = np.cumsum([0, *(len(part["t"]) for part in parts)])
    shown = view.apply(joined)
    for part, (a, b) in zip(parts, pairwise(shown["offsets"]), strict=True):
        assert same(view.apply(part), {name: shown[name][a:b] for name in ("t", "x", "y")})


def test_views_of_what_is_read(tmp_path):
    """Before the check against the network: of N-MNIST files, of arrays with offsets, of recordings."""
    net = network((1, 8, 8))
    view = View(crop=(2, 2, 18, 18), polarity="merge", downsample=2, window=(0.0, 0.5))
    rows = [(0, 2, 2, 1), (5, 17, 3, 0), (6, 18, 3, 0), (499_999, 9, 17, 1), (500_000, 9, 9, 1)]
    expected = [(0, 0, 0, 0), (5, 7, 0, 0), (499_999, 3, 7, 0)]
    t, x, y, p = np.array(rows).T
    np.savez(tmp_path / "a.npz", t=t, x=x, y=y, p=p, offsets=[0, 0, 5], sensor_height=34, sensor_width=34)
    np.save(tmp_path / "a.npy", np.array(rows, RECORD))
    (tmp_path / "a.csv").write_text("\n".join(" ".join(map(str, row)) for row in rows))
    bits = b"".join(int(f"{x:08b}{y:08b}{p:b}{t:023b}", 2).to_bytes(5, "big") for t, x, y, p in rows)
    (tmp_path / "a.bin").write_bytes(bits)
    (tmp_path / "a.aedat").write_bytes(aedat2(rows, "DVS128"))
    for suffix in ("npz", "npy", "csv", "bin", "aedat"):
        events = read_input(tmp_path / f"a.{suffix}", net, view=view).inputs
        assert pixels(events, (1, 8, 8)) == expected
        assert events.offsets.tolist() == ([0, 0, 3] if suffix == "npz" else [0, 3])
    for suffix, columns in (("bin", 34), ("aedat", 128)):
        with pytest.raises(ValueError, match=f"crop is 0,0,200,8, but the sensor has {columns} columns"):
            read_input(tmp_path / f"a.{suffix}", net, view=View(crop=(0, 0, 200, 8)))
    with pytest.raises(ValueError, match=r"a sensor of 9 x 8, they do not fit the network's input \(2, 8, 8\)"):
        read_input(tmp_path / "a.npz", network((2, 8, 8)), view=View(crop=(9, 9, 17, 18)))
    np.savez(tmp_path / "a.npz", t=t, x=x, y=y, p=p, offsets=[0, 0, 5])
    with pytest.raises(ValueError, match="x of sample 1, event 1 is 17, wanted 0 to 15"):
        read_input(tmp_path / "a.npz", network((2, 32, 16)), view=View(window=(0, 1)))


def test_views_that_make_no_sense_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=np.zeros((2, 8, 8)))
    with pytest.raises(ValueError, match="it holds images, and a crop, polarity, downsample or window is of events"):
        read_input(path, network((1, 8, 8), "direct"), view=View())
    np.savez(path, t=[1], x=[2], offsets=[0, 1])
    with pytest.raises(ValueError, match=r"one-dimensional addresses \(no y\)"):
        read_input(path, network((8,)), view=View(crop=(0, 0, 4, 4)))
    with pytest.raises(ValueError, match="polarity is 'on', but its events have no polarity p"):
        read_input(path, network((8,)), view=View(polarity="on"))
    for options, message in (
        ({"crop": (4, 0, 4, 9)}, "crop is 4,0,4,9, wanted x0,y0,x1,y1"),
        ({"polarity": "both"}, "polarity is 'both', wanted keep, merge, swap, on or off"),
        ({"downsample": 0}, "downsample is 0, wanted a whole number from 1"),
        ({"window": (0.2, 0.1)}, "window is 0.2,0.1 seconds, wanted 0 <= start < end"),
        ({"window": (0.1, 0.1 + 1e-9)}, "at least 1 us apart"),
        ({"window": (0.0, float("nan"))}, "wanted two finite times"),
    ):
        with pytest.raises(ValueError, match=message):
            View(**options)


def test_views_in_words():
    """The command line's texts, and one sentence for every other text."""
    assert parse_view() is None
    assert parse_view("16,16,112, 112") == View(crop=(16, 16, 112, 112))
    assert parse_view(polarity="merge", downsample="2") == View(polarity="merge", downsample=2)
    assert parse_view(downsample=3) == View(downsample=3)
    assert parse_view(window="0.1,0.4") == parse_view(window="100ms, 400ms") == parse_view(window="100000us,.4s")
    assert parse_view(window="0,1").ends == (0, 1_000_000)
    for options, message in (
        ({"crop": "16,16,112"}, "crop is '16,16,112', wanted four whole numbers"),
        ({"crop": "1,1,-3,4"}, "crop is '1,1,-3,4', wanted four whole numbers"),
        ({"crop": "4,1,3,4"}, "crop is 4,1,3,4, wanted x0,y0,x1,y1 with 0 <= x0 < x1"),
        ({"downsample": "1.5"}, "downsample is '1.5', wanted a whole number such as 2"),
        ({"window": "0.1"}, "window is '0.1', wanted a start and an end"),
        ({"window": "1,2,3"}, "wanted a start and an end"),
        ({"window": "1h,2h"}, "wanted a start and an end"),
        ({"polarity": "ON"}, "polarity is 'ON', wanted keep"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            parse_view(**options)
        assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- streams

SHAPE = (2, 128, 128)


def many(n, step=7):
    """n events, `step` us apart on average, some at equal times."""
    rng = np.random.default_rng(n)
    t = np.cumsum(rng.integers(0, 2 * step, n))
    return np.stack([t - t[0], *rng.integers(0, 128, (2, n)), rng.integers(0, 2, n)], 1)


def write(path, events):
    t, x, y, p = np.asarray(events, np.int64).T
    if path.suffix == ".aedat" and "3" not in path.stem:
        address = (127 - y) << 8 | (127 - x) << 1 | (1 - p)
        header = aedat2([], "DVS128")
        path.write_bytes(header + np.stack([address, t % 2**32], 1).astype(">u4").tobytes())
    elif path.suffix == ".aedat":
        data = np.stack([x << 17 | y << 2 | p << 1 | 1, t], 1).astype("<u4")
        parts = np.array_split(data, max(len(t) // 5000, 1))
        heads = [struct.pack("<hhiiiiii", 1, 0, 8, 4, 0, len(a), len(a), len(a)) for a in parts]
        path.write_bytes(aedat3(*(head + a.tobytes() for head, a in zip(heads, parts, strict=True))))
    elif path.suffix == ".csv":
        path.write_text("\n".join(",".join(map(str, row)) for row in np.asarray(events).tolist()))
    elif path.suffix == ".npy":
        np.save(path, np.rec.fromarrays([t, x, y, p], dtype=RECORD).view(np.ndarray))
    elif path.suffix == ".npz":
        np.savez(path, t=t, x=x, y=y, p=p)
    else:
        with h5py.File(path, "w") as file:
            for name, column in zip("txyp", (t, x, y, p), strict=True):
                file.create_dataset(name, data=column, chunks=(min(4096, len(t)),), compression="gzip")
            file["offsets"] = [0, len(t)]
    return path


FILES = ["2.aedat", "3.aedat", "a.csv", "a.npy", "a.h5", "a.npz"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("view", [None, View((10, 0, 120, 128), "swap", 2, (0.2, 0.93))])
def test_windows_joined_are_the_whole(tmp_path, name, view, monkeypatch):
    """Whatever the chunks, the windows hold every event once, in its window and at its own time."""
    events = many(30_000, step=40)
    path = write(tmp_path / name, events)
    net = network(SHAPE if view is None else (2, 64, 55))
    whole = read_input(path, net, view=view).inputs
    for chunk, window in ((1000, 0.01), (7777, 0.25), (10**6, 5.0)):
        monkeypatch.setattr("eventsnn.recordings.CHUNK", chunk)
        windows = list(stream(path, net, window, view=view))
        assert np.array_equal(np.concatenate([w.t for w in windows]), whole.t)
        assert np.array_equal(np.concatenate([w.neuron for w in windows]), whole.neuron)
        length = round(window * 1e6)
        last = events[-1, 0] if view is None else events[events[:, 0] < 930_000, 0][-1] - 200_000
        assert len(windows) == last // length + 1
        for k, one in enumerate(windows):
            assert len(one) == 1
            assert one.offsets.tolist() == [0, len(one.t)]
            assert ((one.t >= k * length) & (one.t < (k + 1) * length)).all()


def test_empty_windows_come_too(tmp_path):
    """A gap is silence that lasts; the view does not change how long the recording is."""
    path = write(tmp_path / "a.csv", [(0, 1, 1, 1), (3_500_000, 100, 100, 0)])
    assert [e.t.tolist() for e in stream(path, network(SHAPE), 1.0)] == [[0], [], [], [3_500_000]]
    left = stream(path, network((2, 50, 50)), 1.0, view=View(crop=(0, 0, 50, 50)))
    assert [e.t.tolist() for e in left] == [[0], [], [], []]
    later = stream(path, network(SHAPE), 1.0, view=View(window=(1.0, 9.0)))
    assert [e.t.tolist() for e in later] == [[], [], [2_500_000]]


def test_order_is_checked_across_chunks(tmp_path, monkeypatch):
    """An event at the start of a chunk may be earlier than the last one of the chunk before."""
    monkeypatch.setattr("eventsnn.recordings.CHUNK", 4)
    events = [(t, 1, 1, 1) for t in (0, 1, 2, 30, 29, 40)]
    for name, word in (("2.aedat", "record"), ("3.aedat", "event"), ("a.csv", "line"), ("a.npy", "event")):
        path, first = write(tmp_path / name, events), word == "line"
        refused(path, SHAPE, f"time 29 us of {word} {4 + first} comes after 30 us of {word} {3 + first}; sort")


def test_a_stream_of_one_sample_among_several(tmp_path):
    """`sample` picks by offsets; positions and times are that sample's own."""
    for path in (tmp_path / "a.h5", tmp_path / "a.npz"):
        arrays = {"t": [0, 5, 1, 2, 2], "x": [0, 1, 2, 3, 9], "offsets": [0, 2, 5], "labels": [0, 1]}
        if path.suffix == ".npz":
            np.savez(path, **arrays)
        else:
            with h5py.File(path, "w") as file:
                for name, value in arrays.items():
                    file[name] = value
        windows = list(stream(path, network((10,)), 2e-6, sample=1))
        assert [(w.t.tolist(), w.neuron.tolist()) for w in windows] == [([1], [2]), ([2, 2], [3, 9])]
        with pytest.raises(ValueError, match="x of event 2 is 9, wanted 0 to 7"):
            list(stream(path, network((8,)), 2e-6, sample=1))
        with pytest.raises(ValueError, match="it holds 2 samples and one can be streamed"):
            list(stream(path, network((10,)), 2e-6))


def test_wrong_arguments_are_refused_at_once(tmp_path):
    """Before the first window is asked for."""
    path = write(tmp_path / "a.csv", SOME)
    for length in (0, -1.0, float("nan"), 1e-7, 1.5e-6):
        with pytest.raises(ValueError, match="wanted a whole number of microseconds"):
            stream(path, network(SHAPE), length)
    with pytest.raises(ValueError, match="is absent, wanted a recording in one file"):
        stream(tmp_path / "none.csv", network(SHAPE), 1.0)
    with pytest.raises(ValueError, match="is a folder, wanted a recording in one file"):
        stream(tmp_path, network(SHAPE), 1.0)
    with pytest.raises(ValueError, match="it holds events, but the network takes images"):
        next(stream(path, network(SHAPE, "direct"), 1.0))
    with pytest.raises(ValueError, match="sample is 2, but it holds one recording"):
        next(stream(path, network(SHAPE), 1.0, sample=2))
    (tmp_path / "a.bin").write_bytes(bytes(10))
    with pytest.raises(ValueError, match=r"a recording in \.bin is not understood"):
        next(stream(tmp_path / "a.bin", network(SHAPE), 1.0))


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_give_events_or_one_sentence(tmp_path, name):
    """Whatever bytes are changed, cut or added: Events that pass the checks, or a ValueError, and no traceback else."""
    rng = np.random.default_rng(5)
    whole = write(tmp_path / name, many(200)).read_bytes()
    net = network(SHAPE)
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(0, 4)):
            data[at] = rng.integers(0, 256)
        if rng.random() < 0.3:
            data = data[: rng.integers(0, len(data))]
        if rng.random() < 0.1:
            data += bytes(rng.integers(0, 256, rng.integers(0, 40)).astype(np.uint8))
        (tmp_path / name).write_bytes(data)
        for attempt in (lambda: [read_input(tmp_path / name, net).inputs], lambda: few(tmp_path / name, net)):
            found, sentence = [], f"input {tmp_path / name}"
            try:
                found = attempt()
            except ValueError as error:
                sentence = str(error)
            assert sentence.startswith(f"input {tmp_path / name}")
            assert "\n" not in sentence
            for events in found:
                check_events(events, 2 * 128 * 128)


def few(path, net):
    """The first windows: a damaged clock may ask for any number of empty ones."""
    return list(islice(stream(path, net, 1e-3), 5))


@pytest.mark.parametrize("name", FILES[:-1])
def test_memory_is_flat_in_the_length_of_the_recording(tmp_path, name, monkeypatch):
    """Eight times the recording, the same peak: only a window and a chunk are held."""
    monkeypatch.setattr("eventsnn.recordings.CHUNK", 4096)
    peaks = []
    for n in (20_000, 160_000):
        path = write(tmp_path / name, many(n))
        next(stream(path, network(SHAPE), 0.01))  # imports and caches
        tracemalloc.start()
        count = sum(len(window.t) for window in stream(path, network(SHAPE), 0.01))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == n
    assert peaks[1] < 1.2 * peaks[0]
