"""Networks in files: `net.h5` is a valid NIR file whose `/eventsnn` group says what NIR cannot, and has the last word.

::

    /version, /node          what any NIR reader sees: the lowering of `lower_nir`
    /eventsnn                attributes: schema, requires, network_sha256 (`network_hash`), node_sha256 (of /node),
                             nir_faithful, nir_reasons
    /eventsnn/network        the Network as JSON: every field; an array is {"array": PATH, "dtype": ..., "shape": ...}
    /eventsnn/populations/NAME/FIELD, /eventsnn/connections/INDEX LABEL/FIELD...     these arrays

`requires` names what a reader must understand to run the network: the types of its neurons, operations and maps, and
"tables" for per-tick tables. Hashes are over decoded content (see `hdf5.tree_hash`), never over HDF5 bytes. A weight
that NIR holds as it is, is stored once and has two names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from eventsnn import hdf5, import_nir, lower_nir
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

SCHEMA = "1"
NEURONS = (Input, IF, LIF, CubaLIF, Integrator, LI, CubaLI, Relay, Gate)
PARTS = (*NEURONS, Identity, Dense, Conv, Sparse, Pool, AdaptivePool, Subsample, Flatten)
TYPES: dict[str, type] = {t.__name__: t for t in (*PARTS, Population, Connection)}
UNDERSTOOD = {t.__name__ for t in PARTS} | {"tables"}


def save(network: Network, path: str | Path) -> None:
    """Write the network to `path`, whole or not at all.

    Raises ValueError when it holds something that a file cannot keep, that has no lowering to NIR, or when the path
    cannot be written.
    """
    lower_nir.check_names(network)
    document, arrays = _described(network)
    lowering = lower_nir.lower(network)
    node, reasons = lowering.tree(), lower_nir.faithful(network, lowering)
    text = h5py.string_dtype()

    with hdf5.written(path) as file:
        shared: dict[tuple, h5py.Dataset] = {}
        hdf5.write_tree(file, {"version": lower_nir.NIR_VERSION, "node": node}, shared)
        group = file.create_group("eventsnn")
        group.attrs["schema"] = SCHEMA
        group.attrs["network_sha256"] = hdf5.tree_hash({"network": document, **arrays})
        group.attrs["node_sha256"] = hdf5.tree_hash(node)
        group.attrs.create("requires", np.array(_required(network), dtype=object), dtype=text)
        group.attrs["nir_faithful"] = not reasons
        group.attrs.create("nir_reasons", np.array(reasons, dtype=object), dtype=text)
        hdf5.write_tree(group, {"network": document, **arrays}, shared)


def load(
    path: str | Path,
    *,
    assume: str | None = None,
    dt: float | None = None,
    tick_seconds: float | None = None,
    spike_input: str | None = None,
) -> Network:
    """The network of a file: one that `save` wrote, or a NIR file of another tool.

    assume: the profile (`import_nir.PROFILES`) that says what a foreign NIR file leaves open; such a file is refused
    without one. dt, tick_seconds, spike_input: as in `import_nir.from_nir`. A file of our own leaves nothing open.

    Raises ValueError, in one sentence that names the file, for anything that is not a network: truncated, foreign,
    incomplete or inconsistent files, and links out of the file.
    """
    with hdf5.opened(path) as file:
        try:
            ours = hdf5.is_here(file, "eventsnn")
            found = _decoded(file) if ours else None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    if found is not None:
        return found
    return import_nir.from_nir(path, assume, dt=dt, tick_seconds=tick_seconds, spike_input=spike_input)


def network_hash(network: Network) -> str:
    """SHA-256, in hex, over every field of a network: the same for every copy of it, saved and loaded or not."""
    document, arrays = _described(network)
    return hdf5.tree_hash({"network": document, **arrays})


def _required(network: Network) -> list[str]:
    steps = [step for c in network.connections for step in (c.op, *c.before, *c.after)]
    tables = any(table is not None for c in network.connections for table in (c.scale, c.shift))
    used = {type(x).__name__ for x in (*(p.neuron for p in network.populations), *steps)}
    return sorted(used | ({"tables"} if tables else set()))


# --------------------------------------------------------------------------------------------- network -> JSON, arrays


def _described(network: Network) -> tuple[str, hdf5.Tree]:
    """Every field as JSON text, and the tree of arrays that the text points to."""
    arrays: hdf5.Tree = {}
    document: dict[str, Any] = {
        "populations": [_encoded(p, f"populations/{p.name}", arrays) for p in network.populations],
        "connections": [
            _encoded(c, f"connections/{i} {c.label.replace('/', '|')}", arrays)
            for i, c in enumerate(network.connections)
        ],
    }
    for field in fields(network):
        if field.name == "origin":
            document["origin"] = _plain(network.origin, "origin")
        elif field.name not in document:
            document[field.name] = _encoded(getattr(network, field.name), field.name, arrays)
    return json.dumps(document, sort_keys=True), arrays


def _encoded(value: Any, path: str, arrays: hdf5.Tree) -> Any:
    if is_dataclass(value):
        named = {"type": type(value).__name__}
        if named["type"] not in TYPES:
            raise ValueError(f"{path} is a {named['type']}, which the file format does not know")
        # the neuron's fields stand at the population's own path, for people who look into the file
        return named | {
            f.name: _encoded(getattr(value, f.name), _below(path, f.name), arrays)
            for f in fields(value)
            if "later" not in f.metadata or getattr(value, f.name) is not None
        }
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind not in hdf5.NUMBERS or array.dtype.itemsize > 8:
            raise ValueError(
                f"{path} has dtype {array.dtype}; a file keeps floats, integers and booleans up to 64 bits"
            )
        *above, name = path.split("/")
        place = arrays
        for part in above:
            place = place.setdefault(part, {})
        place[name] = array
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: path, "dtype": array.dtype.str, "shape": list(array.shape)}
    if isinstance(value, tuple | list):
        return [_encoded(v, f"{path}/{i}", arrays) for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{path} is {value!r}, which a file cannot keep; wanted numbers, text, arrays or None")


def _below(path: str, name: str) -> str:
    return path if name == "neuron" else f"{path}/{name}"


def _plain(value: Any, path: str) -> Any:
    """A JSON value of `origin`, numpy numbers as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{path} has the key {key!r}; wanted text, as in JSON")
        return {key: _plain(v, f"{path}/{key}") for key, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v, f"{path}/{i}") for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{path} is a {type(value).__name__}; wanted a JSON value")


# --------------------------------------------------------------------------------------------- JSON, arrays -> network


def _decoded(file: h5py.File) -> Network:
    group = file["eventsnn"]
    if not isinstance(group, h5py.Group):
        raise ValueError("/eventsnn is a dataset; wanted a group")
    schema = str(_attribute(group, "schema"))
    if schema != SCHEMA:
        raise ValueError(
            f"/eventsnn has schema {schema!a}, this eventsnn reads schema {SCHEMA}; install the version that wrote it"
        )
    unknown = sorted(set(map(str, np.atleast_1d(_attribute(group, "requires")))) - UNDERSTOOD)
    if unknown:
        raise ValueError(
            f"the network requires {', '.join(map(ascii, unknown))}, which this eventsnn does not know; install a newer"
        )
    tree = hdf5.read_tree(group)
    text = tree.get("network")
    if not isinstance(text, str):
        raise ValueError("dataset /eventsnn/network is missing; it describes the network")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("dataset /eventsnn/network is not JSON; it describes the network") from None
    try:
        values = _fields(document, Network, "network")
        network = Network(**{k: v if k == "origin" else _value(v, tree, k) for k, v in values.items()})
        found = network_hash(network)
    except (TypeError, AttributeError, KeyError, IndexError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"dataset /eventsnn/network does not describe a network ({error})") from None

    if found != _attribute(group, "network_sha256"):
        raise ValueError(
            "group /eventsnn is not what was saved: its hash differs, so it is damaged or was edited by hand"
        )
    node = hdf5.read_tree(file["node"]) if hdf5.is_here(file, "node") and isinstance(file["node"], h5py.Group) else {}
    if hdf5.tree_hash(node) != _attribute(group, "node_sha256"):
        raise ValueError(
            "group /node is not what was saved: its hash differs, so it was edited; save the network again, or remove "
            "the group /eventsnn to read it as plain NIR"
        )
    return network


def _attribute(group: h5py.Group, name: str) -> Any:
    try:
        return group.attrs[name]
    except (KeyError, OSError, RuntimeError, TypeError):
        raise ValueError(f"attribute {name!r} of {group.name} is missing or damaged") from None


def _fields(document: Any, kind: type, path: str) -> dict[str, Any]:
    """The fields of a dataclass in a JSON object, all of them and no others."""
    if not isinstance(document, dict):
        raise ValueError(f"{path} in /eventsnn/network is {document!r}; wanted a {kind.__name__}")
    names = {f.name for f in fields(kind)}
    needed = {f.name for f in fields(kind) if "later" not in f.metadata}
    given = set(document) - {"type"}
    if not needed <= given <= names:
        what, which = ("lacks", needed - given) if needed - given else ("has the unknown field", given - names)
        raise ValueError(f"{path} in /eventsnn/network {what} {', '.join(sorted(which))}; wanted a {kind.__name__}")
    return {name: document[name] for name in given}


def _value(value: Any, tree: hdf5.Tree, path: str) -> Any:
    if isinstance(value, list):
        return tuple(_value(v, tree, f"{path}/{i}") for i, v in enumerate(value))
    if not isinstance(value, dict):
        return value
    if "array" in value or "scalar" in value:
        array = _array(value, tree)
        return array if "array" in value else array[()]
    kind = TYPES.get(value.get("type", ""))
    if kind is None:
        raise ValueError(f"{path} in /eventsnn/network has the unknown type {value.get('type')!r}")
    return kind(**{k: _value(v, tree, f"{path}/{k}") for k, v in _fields(value, kind, path).items()})


def _array(value: dict[str, Any], tree: hdf5.Tree) -> np.ndarray:
    path = str(value.get("array", value.get("scalar")))
    leaf: Any = tree
    for part in path.split("/"):
        leaf = leaf.get(part) if isinstance(leaf, dict) else None
    if leaf is None or isinstance(leaf, dict):
        raise ValueError(f"dataset /eventsnn/{path} is missing")
    array = np.asarray(leaf)
    for what, is_, wanted in (
        ("dtype", array.dtype.str, value["dtype"]),
        ("shape", array.shape, tuple(value["shape"])),
    ):
        if is_ != wanted:
            raise ValueError(f"dataset /eventsnn/{path} has {what} {is_}, wanted {wanted}")
    return array
