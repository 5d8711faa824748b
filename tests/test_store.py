"""Networks in files: every field comes back, and every file that is not a network is refused by one sentence."""

import dataclasses
import json
import math
import re
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from networks import cases

from eventsnn import hdf5, store
from eventsnn.network import (
    AdaptivePool,
    Connection,
    Conv,
    Dense,
    Flatten,
    Identity,
    Network,
    Pool,
    Population,
    Sparse,
    Subsample,
)
from eventsnn.neurons import IF, LI, LIF, CubaLI, CubaLIF, Gate, Input, Integrator, Relay
from eventsnn.store import load, network_hash, save


def same(a, b, where="network"):
    """Assert that two values are equal in every field: types, dtypes and shapes too."""
    assert type(a) is type(b), where
    if dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            same(getattr(a, field.name), getattr(b, field.name), f"{where}.{field.name}")
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), where
        assert np.array_equal(a, b), where
    elif isinstance(a, tuple | list):
        assert len(a) == len(b), where
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            same(one, other, f"{where}[{index}]")
    else:
        assert a == b, where


def earlier():
    """A network with every part that the first files knew, and every kind of number a field may hold."""
    rng = np.random.default_rng(1)
    lif = LIF(
        threshold=rng.random((4, 6, 6)).astype("f4"),
        reset_amount=np.array([1, 2, 3, 4], np.int16),
        v0=np.asarray(0.5),
        v_min=np.float32(-1.5),
        gain=np.array([1, 0.5, 2, 1], np.float16),
        alpha=np.array([0.1, 0.2, 0.3, 0.4]),
        rest=-0.25,
        refractory=2,
        refractory_input="integrate",
        leak="after",
        alpha_from="exp",
    )
    window = Pool((2, 2), (2, 2), (0, 0), "sum")
    units = np.arange(37, dtype=np.int64)
    return Network(
        populations=(
            Population("in", (2, 6, 6), Input()),
            Population("conv.1", (4, 6, 6), lif),
            Population("gate", (4, 3, 3), Gate()),
            Population("relay", (4, 6, 6), Relay()),
            Population("ü", (4, 3, 3), IF(comparator="gt", reset="value", reset_value=-1.0, v_min=None)),
            Population("hidden", (36,), IF(multi_spike=True, threshold=np.float64(2.5))),
            Population("out", (3,), Integrator()),
        ),
        connections=(
            Connection(
                "in",
                "conv.1",
                Conv(rng.random((4, 1, 3, 3)).astype(">f4"), (1, 1), ((1, 1), (0, 2)), (1, 1), 2),
                bias=rng.random((4, 6, 6)),
                scale=rng.random((5, 4)).astype("f4"),
                name="a/b",
            ),
            Connection("conv.1", "gate", before=(window,)),
            Connection("conv.1", "relay", Identity(np.array([1, 2, 3, 4], np.uint8)), shift=rng.random((5, 4))),
            Connection("conv.1", "relay", delay=np.int64(3)),
            Connection(
                "relay", "ü", Conv(np.asfortranarray(rng.random((4, 4, 1, 1))), (2, 2), ((0, 0), (0, 0)), (1, 1))
            ),
            Connection("gate", "ü", after=(Pool((3, 3), (1, 1), (1, 1), "average", True, False),)),
            Connection("gate", "hidden", Sparse(units, units[:-1], rng.integers(-3, 3, 36), (36,))),
            Connection("hidden", "hidden", Identity(-0.5), delay=1),
            Connection("ü", "out", Dense(rng.random((3, 36)).astype("f2")), before=(Flatten(),)),
            Connection("in", "ü", before=(Subsample((2, 2), (1, 1)),)),
            Connection("in", "out", Dense(rng.random((3, 8))), before=(AdaptivePool((2, 2)), Flatten())),
        ),
        output="out",
        encoding="rate",
        mean=(0.1, 0.2),
        std=(1 / 3,),
        ticks=5,
        tick_seconds=1e-3,
        labels=("one", "zwei", "trois "),
        cutoff="topk:1.5",
        origin={"checkpoint": {"sha256": "00ff"}, "folded": ["bn1", None, 1.5, True], "thresholds": {}},
    )


def everything():
    """A network with every part there is: `earlier`, and what came later."""
    rng = np.random.default_rng(2)
    cuba = CubaLIF(
        alpha_syn=(np.float32(0.5), rng.random(36)),
        gain_syn=(1.0, np.array(-0.5)),
        gain_old=0.25,
        i0=(0, rng.random(36).astype("f4")),
        tau_syn=(2e-3, np.float64(5e-3)),
        syn_rate=(1.0, rng.random(36)),
        refractory=2,
        hold=True,
        input_rate=100.0,
        tau=np.full(36, 0.02),
        alpha_from="euler",
    )
    once = IF(refractory=math.inf, hold=True, input_rate=np.ones(36))
    first = earlier()
    units = np.arange(37, dtype=np.int64)
    dense = rng.random((3, 36))
    return dataclasses.replace(
        first,
        populations=(
            *first.populations,
            Population("cuba", (36,), cuba),
            Population("once", (36,), once),
            Population("leaky", (3,), LI(alpha=np.full(3, 0.25), v0=0.5, gain=np.float32(2), tau=1e-3, input_rate=7.0)),
            Population("slow", (3,), CubaLI(alpha_syn=0.75, rest=-1.0, syn_rate=2.0, tau_syn=np.full(3, 1e-2))),
        ),
        connections=(
            *first.connections,
            Connection("hidden", "cuba", Sparse(units, units[:-1], rng.random(36), (36,), rng.integers(0, 5, 36))),
            Connection("hidden", "cuba", delay=1, delay_seconds=0.75e-3, receptor=1),
            Connection("cuba", "once", Sparse(units, units[:-1], rng.random(36), (36,), rng.random(36)), receptor=0),
            Connection("once", "leaky", Dense(dense)),
            Connection("once", "slow", Dense(dense.astype("f4")), delay=np.int8(2), bias=np.ones(3)),
        ),
    )


def simple(weight=None, **options):
    weight = np.arange(12, dtype=np.float32).reshape(3, 4) if weight is None else weight
    return Network(
        populations=(Population("in", (4,), Input()), Population("out", (3,), IF(threshold=np.ones(3)))),
        connections=(Connection("in", "out", Dense(weight)),),
        output="out",
        **options,
    )


@pytest.fixture
def saved(tmp_path):
    save(simple(), tmp_path / "net.h5")
    return tmp_path / "net.h5"


WEIGHT = "eventsnn/connections/0 in->out/op/weight"

# --------------------------------------------------------------------------------------------------------- round trips


def test_every_field_comes_back(tmp_path):
    """Breaks when a field is dropped, a dtype changes, or None becomes something."""
    network = everything()
    save(network, tmp_path / "net.h5")
    same(load(tmp_path / "net.h5"), network)
    assert [p.name for p in tmp_path.iterdir()] == ["net.h5"]
    nir.read(tmp_path / "net.h5")


@settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(cases(full=True))
def test_every_drawn_network_comes_back(tmp_path_factory, case):
    """Breaks when some combination of parts is saved that cannot be read again."""
    path = tmp_path_factory.getbasetemp() / "drawn.h5"
    save(case.network, path)
    again = load(path)
    same(again, case.network)
    assert network_hash(again) == network_hash(case.network)


def test_files_of_earlier_versions_keep_their_hash(tmp_path):
    """Breaks when a field that came later changes the hash of networks that do not use it: runs name them by it."""
    assert network_hash(simple()) == "41970d948298df5cda07be24671c2412fa2fb0f47008aeaf473f3e4419be6624"
    assert network_hash(earlier()) == "4c57e481fc27772a82515eddd14da9467fa2709adf65ed45825ce1b57c443f82"
    save(earlier(), tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5") as file:
        text = file["eventsnn/network"].asstr()[()]
    later = {f.name for t in (IF, LIF, Connection, Sparse, CubaLIF) for f in dataclasses.fields(t) if f.metadata}
    assert later == {"hold", "input_rate", "tau", "tau_syn", "syn_rate", "delay", "delay_seconds", "receptor"}
    assert not {f'"{name}": ' for name in later - {"delay"}} & set(re.findall(r'"\w+": ', text))


def test_every_later_field_changes_the_hash():
    """Breaks when a run can name a network by the hash of another: a field is left out of it."""
    network = everything()

    def neuron(name, **change):
        other = dataclasses.replace(network[name].neuron, **change)
        populations = [dataclasses.replace(p, neuron=other) if p.name == name else p for p in network.populations]
        return network_hash(dataclasses.replace(network, populations=tuple(populations)))

    def connection(number, **change):
        parts = list(network.connections)
        parts[number] = dataclasses.replace(parts[number], **change)
        return network_hash(dataclasses.replace(network, connections=tuple(parts)))

    lines = network.connections[-5].op
    hashes = [
        network_hash(network),
        neuron("cuba", alpha_syn=(0.5, 0.5)),
        neuron("cuba", gain_syn=(1.0, -0.5)),  # a number in the place of an array of no dimension
        neuron("cuba", gain_old=(0.25, 0.25)),
        neuron("cuba", i0=(0, 0)),
        neuron("cuba", tau_syn=None),
        neuron("cuba", syn_rate=None),
        neuron("cuba", refractory=math.inf),
        neuron("cuba", refractory=math.inf, hold=None),
        neuron("once", refractory=2),
        neuron("once", hold=None),
        neuron("once", input_rate=None),
        neuron("leaky", v0=0.0),
        neuron("leaky", tau=None),
        neuron("slow", rest=0.0),
        *(
            connection(-5, op=dataclasses.replace(lines, delay=delay))
            for delay in (lines.delay + 1, lines.delay.astype(float), None)
        ),
        connection(-4, delay_seconds=None),
        connection(-4, receptor=0),
        connection(-3, receptor=None),
    ]
    assert len(set(hashes)) == len(hashes)


def test_a_neuron_that_fires_once_comes_back(tmp_path):
    """Breaks when infinity becomes a large number, or a file that other JSON readers refuse is refused by ours."""
    network = dataclasses.replace(
        simple(), populations=(simple().input, Population("out", (3,), IF(refractory=math.inf)))
    )
    save(network, tmp_path / "net.h5")
    assert load(tmp_path / "net.h5")["out"].neuron.refractory == math.inf
    with h5py.File(tmp_path / "net.h5") as file:
        assert '"refractory": Infinity' in file["eventsnn/network"].asstr()[()]


def test_origin_keeps_json_values(tmp_path):
    """Breaks when a converter's numpy number in `origin` cannot be saved, or something that is no JSON value is."""
    save(simple(origin={"percentile": np.float32(99.5), "seen": (1, np.int64(2))}), tmp_path / "net.h5")
    assert load(tmp_path / "net.h5").origin == {"percentile": 99.5, "seen": [1, 2]}
    with pytest.raises(ValueError, match="origin/model is a function; wanted a JSON value"):
        save(simple(origin={"model": same}), tmp_path / "other.h5")
    with pytest.raises(ValueError, match="origin has the key 1; wanted text"):
        save(simple(origin={1: 2}), tmp_path / "other.h5")
    assert not (tmp_path / "other.h5").exists()


def test_the_hash_is_of_the_content(tmp_path):
    """Breaks when two copies of a network have different hashes, or two different networks the same one."""
    network = everything()
    first = network_hash(network)
    assert network_hash(everything()) == first
    for name in ("a.h5", "b.h5"):
        save(network, tmp_path / name)
        assert network_hash(load(tmp_path / name)) == first
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    changes = (
        {"ticks": 4},
        {"cutoff": None},
        {"labels": None},
        {"origin": {}},
        {"encoding": "direct"},
        {"std": (1 / 3, 1 / 3)},
        {"connections": (*network.connections[:3], *network.connections[4:])},
        {"populations": (*network.populations[1:], network.populations[0])},
    )
    hashes = {network_hash(dataclasses.replace(network, **change)) for change in changes}
    weight = network.connections[0].op.weight.copy()
    weight[0, 0, 0, 0] = np.nextafter(weight[0, 0, 0, 0], 1)
    first_connection = dataclasses.replace(
        network.connections[0], op=dataclasses.replace(network.connections[0].op, weight=weight)
    )
    nudged = dataclasses.replace(network, connections=(first_connection, *network.connections[1:]))
    assert len(hashes | {first, network_hash(nudged)}) == len(changes) + 2


def test_tree_hash_is_of_path_dtype_shape_and_bytes():
    """Breaks when equal content hashes differently by its layout in memory, or different content alike."""
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    tree = {"a": {"b": array}, "c": "text"}
    assert hdf5.tree_hash({"c": "text", "a": {"b": array.astype(">f4")}}) == hdf5.tree_hash(tree)
    assert hdf5.tree_hash({"a": {"b": np.asfortranarray(array)}, "c": np.array("text", object)}) == hdf5.tree_hash(tree)
    others = [
        {"a": {"b": array.reshape(3, 2)}, "c": "text"},
        {"a": {"b": array.astype("f8")}, "c": "text"},
        {"a": {"b": array.astype("i4")}, "c": "text"},
        {"a": {"x": array}, "c": "text"},
        {"a": {"b": array}, "c": "texts"},
        {"a": {"b": array}, "c": np.array(["te", "xt"], object)},
        {"a": {"b": array}, "c": np.array(["t", "ext"], object)},
        {"a": {"b": array}},
    ]
    assert len({hdf5.tree_hash(t) for t in [tree, *others]}) == len(others) + 1


def test_what_reads_the_file_is_told(saved, tmp_path):
    """Breaks when the attributes that a reader decides by are missing or wrong."""
    with h5py.File(saved) as file:
        attributes = dict(file["eventsnn"].attrs)
        assert set(file) == {"version", "node", "eventsnn"}
        assert attributes["node_sha256"] == hdf5.tree_hash(hdf5.read_tree(file["node"]))
    assert attributes["schema"] == "1"
    assert attributes["requires"].tolist() == ["Dense", "IF", "Input"]
    assert not attributes["nir_faithful"]
    assert "fires at u >= threshold, NIR at u > threshold: out" in attributes["nir_reasons"].tolist()
    save(everything(), tmp_path / "all.h5")
    with h5py.File(tmp_path / "all.h5") as file:
        assert set(file["eventsnn"].attrs["requires"]) == store.UNDERSTOOD


def test_weights_are_stored_once_and_packed_when_it_pays(tmp_path):
    """Breaks when files hold every kernel twice, or trained weights are put through gzip for nothing."""
    weight = np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)
    network = Network(
        populations=(Population("in", (400,), Input()), Population("out", (300,), Integrator())),
        connections=(Connection("in", "out", Dense(weight)),),
        output="out",
    )
    save(network, tmp_path / "net.h5")
    assert weight.nbytes < (tmp_path / "net.h5").stat().st_size < 1.1 * weight.nbytes
    with h5py.File(tmp_path / "net.h5") as file:
        assert file[WEIGHT] == file["node/nodes/in_out_linear/weight"]
        assert file[WEIGHT].compression is None
    save(dataclasses.replace(network, connections=(Connection("in", "out", Dense(weight * 0)),)), tmp_path / "0.h5")
    assert (tmp_path / "0.h5").stat().st_size < 0.1 * weight.nbytes


# ------------------------------------------------------------------------------------------------------------- writing


def test_a_failed_save_leaves_nothing(saved, tmp_path, monkeypatch):
    """Breaks when a network is lost, or half a file found, because a later save failed."""
    before = saved.read_bytes()

    def fails(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(hdf5.os, "replace", fails)
    with pytest.raises(ValueError, match=r"net\.h5: cannot be written \(No space left on device\)"):
        save(simple(np.zeros((3, 4))), saved)
    monkeypatch.undo()
    monkeypatch.setattr(hdf5, "_packs", fails)
    with pytest.raises(ValueError, match="cannot be written"):
        save(everything(), saved)
    monkeypatch.undo()
    assert saved.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["net.h5"]
    save(simple(np.zeros((3, 4))), saved)
    assert load(saved).connections[0].op.weight.sum() == 0


def test_places_that_cannot_be_written_are_named(tmp_path):
    """Breaks when a path that is no place for a file ends in a traceback."""
    with pytest.raises(ValueError, match=r"net\.h5: there is no folder .*missing; make it first"):
        save(simple(), tmp_path / "missing" / "net.h5")
    (tmp_path / "net.h5").mkdir()
    with pytest.raises(ValueError, match=r"net\.h5: is a folder; wanted a file name"):
        save(simple(), tmp_path / "net.h5")
    assert list(tmp_path.iterdir()) == [tmp_path / "net.h5"]


def test_what_a_file_cannot_keep_is_refused(tmp_path):
    """Breaks when a value is saved as something else, or fails inside HDF5."""
    long = simple(np.ones((3, 4), np.longdouble))
    with pytest.raises(ValueError, match=r"connections/0 in->out/op/weight has dtype float128; a file keeps"):
        save(long, tmp_path / "net.h5")
    for name, message in (("a\0b", "without NUL"), ("\ud800", "written as UTF-8")):
        odd = Network(
            populations=(Population("in", (4,), Input()), Population(name, (4,), IF())),
            connections=(Connection("in", name),),
            output=name,
        )
        with pytest.raises(ValueError, match=f"population name .*{message}"):
            save(odd, tmp_path / "net.h5")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- hostile files


def refused(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: "), text
    assert "\n" not in text


def test_missing_foreign_and_truncated_files_are_refused(saved, tmp_path):
    """Breaks when a file that is no network ends in a traceback, or is half read."""
    refused(tmp_path / "none.h5", "no such file; wanted an HDF5 file")
    refused(tmp_path, "is a folder")
    text = tmp_path / "text.h5"
    text.write_text("not a network")
    refused(text, "not an HDF5 file; wanted a network saved by eventsnn or a NIR file")
    text.write_bytes(b"")
    refused(text, "not an HDF5 file")
    whole = saved.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 600, 100):
        text.write_bytes(whole[:length])
        refused(text, "truncated or damaged HDF5 file|not an HDF5 file")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.zeros(3)
    refused(tmp_path / "other.h5", r"HDF5, but neither a network of eventsnn \(/eventsnn\) nor NIR \(/node\)")


def edited(path, edit):
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


def replaced(path, name, value):
    def edit(file):
        del file[name]
        file[name] = value

    return edited(path, edit)


def test_missing_datasets_are_named(saved):
    """Breaks when a file without its weights is read, or the message does not say which."""
    edited(saved, lambda f: f.__delitem__(WEIGHT))
    refused(saved, r"dataset /eventsnn/connections/0 in->out/op/weight is missing")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (WEIGHT, np.zeros((3, 4)), r"op/weight has dtype <f8, wanted <f4"),
        (WEIGHT, np.zeros((4, 3), "f4"), r"op/weight has shape \(4, 3\), wanted \(3, 4\)"),
        (WEIGHT, "text", r"op/weight has dtype \|O, wanted <f4|op/weight has dtype <U4, wanted <f4"),
        (WEIGHT, np.zeros((3, 4), "c8"), r"op/weight has dtype complex64; wanted numbers or text"),
        (WEIGHT, h5py.Empty("f4"), r"op/weight is empty; wanted an array"),
        (WEIGHT, np.full((3, 4), np.nan, "f4"), r"connection 'in->out': the weight at \(0, 0\) is nan, wanted finite"),
        (WEIGHT, np.full((3, 4), np.inf, "f4"), r"connection 'in->out': the weight at \(0, 0\) is inf, wanted finite"),
        ("eventsnn/populations/out/threshold", np.full(3, np.nan), r"'out': threshold holds NaN or infinity"),
        ("eventsnn/network", "{", r"dataset /eventsnn/network is not JSON"),
        ("eventsnn/network", "[]", r"network in /eventsnn/network is \[\]; wanted a Network"),
        ("eventsnn/network", 3, r"dataset /eventsnn/network is missing"),
        ("node", 3, r"group /node is not what was saved"),
        ("eventsnn", 3, r"/eventsnn is a dataset; wanted a group"),
        ("eventsnn", h5py.SoftLink("/node"), r"/eventsnn is a soft link; links are not followed"),
    ],
)
def test_wrong_datasets_are_refused(saved, name, value, message):
    """Breaks when a dataset of another type, shape or content is taken for what was saved."""
    refused(replaced(saved, name, value), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("output"), r"network in /eventsnn/network lacks output; wanted a Network"),
        (lambda d: d.update(speed=3), r"network in /eventsnn/network has the unknown field speed"),
        (lambda d: d.update(encoding="morse"), r"encoding is 'morse', wanted one of direct"),
        (lambda d: d.update(populations=7), r"/eventsnn/network does not describe a network"),
        (lambda d: d["populations"].append(None), r"/eventsnn/network does not describe a network"),
        (lambda d: d["connections"][0].update(delay=-1), r"'in->out': delay is -1, wanted a whole number"),
        (lambda d: d["connections"][0].update(delay="1"), r"'in->out': delay is '1', wanted a whole number"),
        (lambda d: d["connections"][0].update(receptor=1), r"'in->out': receptor is 1, its target 'out' has 1"),
        (lambda d: d["connections"][0].update(receptor="a"), r"does not describe a network"),
        (lambda d: d["populations"][1]["neuron"].update(hold=1.5), r"'out': hold is 1.5, wanted True or None"),
        (lambda d: d["populations"][1]["neuron"].update(refractory=-math.inf), r"'out': refractory is -inf"),
        (
            lambda d: d["populations"][1]["neuron"].update(alpha_syn=0.5),
            r"has the unknown field alpha_syn; wanted a IF",
        ),
        (lambda d: d["populations"][1]["neuron"].update(type="CubaLIF"), r"lacks alpha.*; wanted a CubaLIF"),
        (lambda d: d["connections"][0]["op"].update(type="Attention"), r"connections/0/op .* unknown type 'Attention'"),
        (
            lambda d: d["connections"][0]["op"]["weight"].update(array="../node"),
            r"dataset /eventsnn/../node is missing",
        ),
        (lambda d: d["connections"][0]["op"]["weight"].pop("dtype"), r"does not describe a network \('dtype'\)"),
        (lambda d: d["populations"][1].update(shape=[3, "x"]), r"does not describe a network"),
        (lambda d: d["populations"][1]["neuron"].update(threshold=None), r"does not describe a network"),
    ],
)
def test_a_wrong_description_is_refused(saved, change, message):
    """Breaks when an edited or damaged description builds a network, or fails without a sentence."""
    with h5py.File(saved) as file:
        document = json.loads(file["eventsnn/network"].asstr()[()])
    change(document)
    refused(replaced(saved, "eventsnn/network", json.dumps(document)), message)


def test_a_newer_file_says_who_reads_it(saved):
    """Breaks when a file of a later schema, or with parts that came later, is read by guess."""
    edited(saved, lambda f: f["eventsnn"].attrs.modify("schema", "2"))
    refused(saved, "has schema '2', this eventsnn reads schema 1; install the version that wrote it")
    edited(saved, lambda f: f["eventsnn"].attrs.__delitem__("schema"))
    refused(saved, "attribute 'schema' of /eventsnn is missing")
    edited(saved, lambda f: f["eventsnn"].attrs.__setitem__("schema", "1"))
    text = h5py.string_dtype()
    requires = np.array(["IF", "ALIF", "plasticity"], object)
    edited(saved, lambda f: f["eventsnn"].attrs.create("requires", requires, dtype=text))
    refused(saved, "the network requires 'ALIF', 'plasticity', which this eventsnn does not know")


def test_an_edited_lowering_is_noticed(saved):
    """Breaks when what NIR readers see and what we run are no longer the same network, and nobody says so."""

    def edit(file):
        del file["node/nodes/out/v_threshold"]
        file["node/nodes/out/v_threshold"] = np.full(3, 2.0, np.float32)

    refused(edited(saved, edit), "group /node is not what was saved: its hash differs, so it was edited")
    edited(saved, lambda f: f.__delitem__("eventsnn"))
    refused(saved, r"a NIR file, .*--assume nir")
    assert load(saved, assume="nir")["out"].neuron.threshold == 2.0


def test_an_edited_network_is_noticed(saved):
    """Breaks when a damaged number runs as if it had been saved: an exact account of another network."""

    def edit(file):
        file["eventsnn/populations/out/threshold"][0] = 1.5

    refused(edited(saved, edit), "group /eventsnn is not what was saved: its hash differs")
    with h5py.File(saved) as file:
        document = json.loads(file["eventsnn/network"].asstr()[()])
    refused(replaced(saved, "eventsnn/network", json.dumps({**document, "ticks": 7})), "group /eventsnn is not what")


def test_links_and_data_outside_the_file_are_not_followed(saved, tmp_path):
    """Breaks when a network file can make us read another file."""
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["weight"] = np.arange(12, dtype=np.float32).reshape(3, 4)
    replaced(saved, WEIGHT, h5py.ExternalLink(str(secret), "/weight"))
    refused(saved, r"op/weight is an external link; links are not followed")

    save(simple(), saved)
    replaced(saved, "node/nodes/out", h5py.ExternalLink(str(secret), "/"))
    refused(saved, r"/node/nodes/out is an external link")

    def outside(file):
        del file[WEIGHT]
        (tmp_path / "raw").write_bytes(np.arange(12, dtype=np.float32).tobytes())
        file.create_dataset(WEIGHT, (3, 4), np.float32, external=[(str(tmp_path / "raw"), 0, 48)])

    save(simple(), saved)
    refused(edited(saved, outside), "op/weight keeps its data in another file")

    def virtual(file):
        del file[WEIGHT]
        layout = h5py.VirtualLayout((3, 4), np.float32)
        layout[:] = h5py.VirtualSource(secret, "weight", (3, 4))
        file.create_virtual_dataset(WEIGHT, layout)

    save(simple(), saved)
    refused(edited(saved, virtual), "op/weight keeps its data in another file")


def test_loops_and_bombs_are_refused(saved):
    """Breaks when a small file can keep us busy for ever, or fill the memory."""

    def loop(file):
        file["node/nodes/again"] = file["node"]

    refused(edited(saved, loop), "is a group reached under two names")

    def bomb(file):
        del file[WEIGHT]
        file.create_dataset(WEIGHT, (2**20, 2**20), np.float32, chunks=(1024, 1024), compression="gzip")

    save(simple(), saved)
    refused(edited(saved, bomb), r"op/weight declares 4398046511104 bytes; at most")


def test_damaged_bytes_are_refused(tmp_path):
    """Breaks when a compressed weight that cannot be unpacked ends in a traceback."""
    network = Network(
        populations=(Population("in", (4000,), Input()), Population("out", (3,), IF())),
        connections=(Connection("in", "out", Dense(np.zeros((3, 4000), np.float32))),),
        output="out",
    )
    path = tmp_path / "net.h5"
    save(network, path)
    with h5py.File(path) as file:
        place = file[WEIGHT].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = b"\xff" * place.size
    path.write_bytes(content)
    refused(path, r"dataset .*weight cannot be read \(.*\); the file is damaged")


def test_read_only_files_and_folders_are_enough_to_load(saved, tmp_path):
    """Breaks when loading wants to write."""
    saved.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        same(load(Path(saved)), simple())
        same(load(str(saved)), simple())
    finally:
        tmp_path.chmod(0o755)
