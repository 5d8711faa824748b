"""What a run costs on named hardware: published prices times exact counts.

A *table* gives an energy for some kinds of operation, with its source, technology and scope; it is a TOML file of
`eventsnn/tables/` or the user's own. A *model* is a table whose prices depend on the network: `lemaire2022`. Numbers
of different tables are not comparable with each other: one may price arithmetic alone and another a whole chip. So
there is no default table, several stand side by side, and each says which operations of the run it does not price.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eventsnn.ledger import OPERATIONS, Ledger
from eventsnn.network import Network
from eventsnn.neurons import IF

# What a table can price. A neuron update is either event-driven (something arrived) or clocked (every neuron, every
# tick), and a leak likewise: a table prices one or the other.
PRICED = (
    "ac",
    "mac",
    "mac_input",
    "identity",
    "pool",
    "bias",
    "neuron_update",
    "neuron_update_clocked",
    "threshold_test",
    "reset",
    "decay",
    "decay_clocked",
    "spike",
)
BY_TICK = tuple(operation for operation in PRICED if operation != "mac_input")  # an image enters once a sample
EITHER = ({"neuron_update", "neuron_update_clocked"}, {"decay", "decay_clocked"})
SCOPES = ("arithmetic", "memory", "communication", "static", "system")
BASES = ("measured", "simulated", "estimated", "mixed")
INPUT_MACS = ("once", "per-tick", "effective", "effective-per-tick")
PICOJOULES = {"fJ": 1e-3, "pJ": 1.0, "nJ": 1e3, "uJ": 1e6}
WATTS = {"nW": 1e-9, "uW": 1e-6, "mW": 1e-3, "W": 1.0}
MOST = 1e30  # no price is above; times any count it stays finite
TABLES = Path(__file__).resolve().parent / "tables"


@dataclass(frozen=True)
class Price:
    """What one operation costs, in picojoule (`Table.static`: watts), what is in it, and where the number stands."""

    value: float
    scope: tuple[str, ...]
    basis: str
    source: str


@dataclass(frozen=True)
class Table:
    """Prices of one piece of hardware from one source. prices: by operation, see PRICED. static: power always drawn."""

    name: str
    title: str
    technology: str
    scope: tuple[str, ...]
    basis: str
    source: str
    note: str
    prices: Mapping[str, Price]
    static: Price | None


# ------------------------------------------------------------------------------------------------------------ tables


def table_names() -> list[str]:
    """The names of the tables that come with the package, and of the models."""
    return sorted([*(path.stem for path in TABLES.glob("*.toml")), *MODELS])


def all_tables() -> list[Table | str]:
    """Every table that comes with the package, and the names of the models."""
    return [name if name in MODELS else load_table(name) for name in table_names()]


def load_table(name: str | Path) -> Table:
    """A table of the package by its name, or a file of the user's (a path that ends in .toml).

    Raises ValueError naming the file, the entry, what it was and what was wanted.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if str(name) in MODELS:
            raise ValueError(f"{name} is a model, whose prices depend on the network; it has no table to load")
        path = TABLES / f"{name}.toml"
        if not path.is_file():
            raise ValueError(
                f"there is no energy table {str(name)!r}; there are {', '.join(table_names())}, "
                "or give a file of your own that ends in .toml"
            )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"energy table {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not TOML
        raise ValueError(f"energy table {path} is not valid TOML: {error}") from None
    try:
        return _parse(content)
    except ValueError as error:
        raise ValueError(f"energy table {path}: {error}") from None


def _parse(content: Mapping[str, Any]) -> Table:
    known = {"name", "title", "technology", "scope", "basis", "source", "note", "price", "static"}
    _refuse_unknown("the table", content, known)
    texts = {key: _text("the table", content, key) for key in ("name", "title", "technology", "source")}
    prices: dict[str, Price] = {}
    entries = content.get("price", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("price is no list of tables; write each as [[price]]")
    for number, entry in enumerate(entries, 1):
        where = f"price {number}"
        _refuse_unknown(where, entry, {"operation", "value", "unit", "scope", "basis", "source"})
        operation = _text(where, entry, "operation")
        if operation not in PRICED:
            raise ValueError(f"{where}: operation is {operation!r}, wanted one of {', '.join(PRICED)}")
        if operation in prices:
            raise ValueError(f"{where}: {operation} is priced twice; put the other number in a table of its own")
        prices[operation] = _price(f"{where} ({operation})", entry, PICOJOULES)
    for pair in EITHER:
        if pair <= {*prices}:
            raise ValueError(f"{' and '.join(sorted(pair))} are both priced; they are two ways to count the same thing")
    static = None
    if "static" in content:
        if not isinstance(content["static"], dict):
            raise ValueError("static is no table; write it as [static]")
        _refuse_unknown("static", content["static"], {"value", "unit", "scope", "basis", "source"})
        static = _price("static", content["static"], WATTS)
    if not prices and static is None:
        raise ValueError("it prices nothing; wanted [[price]] entries or a [static] one")
    note = content.get("note", "")
    if not isinstance(note, str):
        raise ValueError(f"note is {note!r}, wanted text")
    scope, basis = _scope("the table", content), _basis("the table", content)
    return Table(**texts, scope=scope, basis=basis, note=note, prices=prices, static=static)


def _price(where: str, entry: Mapping[str, Any], units: Mapping[str, float]) -> Price:
    value, unit = entry.get("value"), entry.get("unit")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST:
        raise ValueError(f"{where}: value is {value!r}, wanted a number, 0 or more and below {MOST:g}")
    if not isinstance(unit, str) or unit not in units:
        raise ValueError(f"{where}: unit is {unit!r}, wanted one of {', '.join(units)}")
    scope, basis, source = _scope(where, entry), _basis(where, entry), _text(where, entry, "source")
    return Price(value * units[unit], scope, basis, source)


def _refuse_unknown(where: str, content: Mapping[str, Any], known: set[str]) -> None:
    for key in content:
        if key not in known:
            raise ValueError(f"{where} has an entry {key!r}, which is not known; known are {', '.join(sorted(known))}")


def _text(where: str, content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: {key} is {value!r}, wanted text")
    return value


def _scope(where: str, content: Mapping[str, Any]) -> tuple[str, ...]:
    scope = content.get("scope")
    if not isinstance(scope, list) or not scope or not all(isinstance(s, str) and s in SCOPES for s in scope):
        raise ValueError(f"{where}: scope is {scope!r}, wanted a list of {', '.join(SCOPES)}")
    return tuple(scope)


def _basis(where: str, content: Mapping[str, Any]) -> str:
    basis = content.get("basis")
    if basis not in BASES:
        raise ValueError(f"{where}: basis is {basis!r}, wanted one of {', '.join(BASES)}")
    return basis


# ---------------------------------------------------------------------------------------------------------- accounts


def layer_counts(
    run: Mapping[str, Any], network: Mapping[str, Any], input_macs: str = "once"
) -> dict[str, dict[str, int]]:
    """By layer, how often every operation of PRICED happened over all samples: delivered taps, not those in flight.

    run, network: the contents of `run.json` and `network.json`. Taps are booked on the layer they arrive at.
    input_macs: how often an analog image is multiplied: "once" a sample (its current is kept), "per-tick" (computed
    anew), and for hardware that skips pixels and weights of 0 "effective" or "effective-per-tick". Raises ValueError
    for effective ones when images enter by several connections: only their sum is known.
    """
    if input_macs not in INPUT_MACS:
        raise ValueError(f"input-macs is {input_macs!r}, wanted one of {', '.join(INPUT_MACS)}")
    classes = {c["name"]: c["class"] for c in run["connections"]}
    images = [c for c in network["connections"] if c["events"] == "image" and classes[c["name"]] in ("ac", "mac")]
    if len(images) > 1 and input_macs.startswith("effective"):
        raise ValueError(
            f"input-macs is {input_macs!r}, but images enter by {len(images)} connections, whose effective "
            "multiplications are known together only; use once or per-tick"
        )
    macs: dict[str, int] = {}
    for c in images:
        times = {"once": run["input"]["samples"], "per-tick": run["ticks_run"]}.get(input_macs)
        key = "macs_input_effective" if input_macs == "effective" else "macs_input_effective_per_tick"
        macs[c["target"]] = macs.get(c["target"], 0) + (run[key] if times is None else c["image_taps"] * times)
    return {
        layer["name"]: {
            "ac": layer["synops"] - layer["mac"],
            "mac": layer["mac"],
            "mac_input": macs.get(layer["name"], 0),
            "identity": layer["identity"],
            "pool": layer["pool"],
            "spike": layer["spike_units"],
            **{key: layer[key] for key in PRICED if key in layer and key not in ("mac", "identity", "pool")},
        }
        for layer in run["layers"]
    }


def account(
    run: Mapping[str, Any],
    network: Mapping[str, Any],
    table: str | Path | Table,
    *,
    input_macs: str = "once",
    tick_seconds: float | None = None,
) -> dict[str, Any]:
    """The energy of a run by one table or model, as JSON values; energies in picojoule over all samples.

    run, network: the contents of `run.json` and `network.json`. table: a name, a path or a `Table`. input_macs: see
    `layer_counts`. tick_seconds: length of a tick for static power; the network's own when None.

    dynamic: of operations. static: power x simulated time, null when the table has none or the time is not known.
    picojoule: their sum. ann: the dense network of the same shape, every in-bounds multiply-accumulate once a sample,
    at this table's price of a MAC; null where it has none. layers: by layer, with the parts by operation. operations:
    of every priced one the count, the price and the sum. unpriced: counts of this run that the table has no price for.
    """
    if not isinstance(table, Table) and str(table) in MODELS:
        return MODELS[str(table)](run, network, input_macs)
    table = table if isinstance(table, Table) else load_table(table)
    counts = layer_counts(run, network, input_macs)
    totals = {key: sum(layer[key] for layer in counts.values()) for key in PRICED}
    layers = []
    for name, layer in counts.items():
        parts = {key: layer[key] * price.value for key, price in table.prices.items() if layer[key]}
        layers.append({"name": name, "picojoule": math.fsum(parts.values()), "parts": parts})
    operations = {
        key: {"count": totals[key], "each": price.value, "picojoule": totals[key] * price.value}
        for key, price in table.prices.items()
    }
    unpriced = {key: count for key, count in totals.items() if count and key not in table.prices}
    for pair in EITHER:
        if pair & {*table.prices}:
            unpriced = {key: count for key, count in unpriced.items() if key not in pair}
        elif pair <= {*unpriced}:
            unpriced.pop(max(pair, key=len))  # one way to count them is enough to say that they are not priced
    tick = tick_seconds if tick_seconds is not None else network["tick_seconds"]
    seconds = None if tick is None else run["ticks_run"] * tick
    static = None if table.static is None or seconds is None else table.static.value * seconds * 1e12
    dynamic = math.fsum(part["picojoule"] for part in operations.values())
    mac = table.prices.get("mac")
    return {
        **_about(table),
        "input_macs": input_macs,
        "picojoule": dynamic + (static or 0.0),
        "dynamic": dynamic,
        "static": static,
        "static_watt": None if table.static is None else table.static.value,
        "seconds": seconds,
        "ann": None if mac is None else mac.value * _ann_macs(run, network),
        "layers": layers,
        "operations": operations,
        "unpriced": unpriced,
    }


def _about(table: Table) -> dict[str, Any]:
    return {
        "table": table.name,
        "title": table.title,
        "technology": table.technology,
        "scope": list(table.scope),
        "basis": table.basis,
        "source": table.source,
        "note": table.note,
    }


def _ann_macs(run: Mapping[str, Any], network: Mapping[str, Any]) -> int:
    weighted = {c["name"] for c in run["connections"] if c["class"] in ("ac", "mac")}
    return run["input"]["samples"] * sum(c["dense"] for c in network["connections"] if c["name"] in weighted)


def sample_counts(ledger: Ledger, input_macs: str = "once") -> dict[str, np.ndarray]:
    """(samples,) int64 by operation of PRICED: the counts of `layer_counts`, sample by sample, from a run in memory."""
    if input_macs not in INPUT_MACS:
        raise ValueError(f"input-macs is {input_macs!r}, wanted one of {', '.join(INPUT_MACS)}")
    macs = ledger.macs_input_effective if input_macs.startswith("effective") else ledger.macs_input
    spiking = [name for name, neuron in zip(ledger.populations, ledger.neurons) if isinstance(neuron, IF)]
    return {
        **{kind: ledger.by_class(kind) for kind in ("ac", "mac", "identity", "pool")},
        "mac_input": macs * (ledger.stop_time if input_macs.endswith("per-tick") else 1),
        "spike": sum((ledger.spike_units(name) for name in spiking), np.zeros(len(macs), np.int64)),
        **{operation: ledger.operations(operation) for operation in OPERATIONS},
    }


def counts_by_tick(ledger: Ledger, network: Network) -> np.ndarray:
    """(samples, ticks + 1, operations of BY_TICK) int64: what was done from one question of the watchdog to the next.

    Row t holds what followed the question of tick t - 1 up to that of tick t, the last row what followed the last
    question: the turns, in the same tick, of populations behind the output. So a run that a policy stops after s ticks
    has done the sum of the first s rows, and one that reaches its horizon the sum of all; that is `sample_counts`.
    """
    depths = network.depths()
    behind = {p.name: depths[p.name] > depths[network.output] for p in network.populations}
    samples, _, ticks = ledger.events.shape
    found = np.zeros((samples, ticks + 1, len(BY_TICK)), np.int64)

    def add(operation: str, population: str, by_tick: np.ndarray) -> None:
        late = int(behind[population])
        found[:, late : ticks + late, BY_TICK.index(operation)] += by_tick

    for c in network.connections:
        add(ledger.tap_class[c.label], c.target, ledger.synops_by_tick(c.label, "delivered"))
        add("pool", c.target, ledger.pool_taps_by_tick(c.label, "delivered"))
    for index, p in enumerate(network.populations):
        if isinstance(p.neuron, IF):
            add("spike", p.name, ledger.units[:, index])
        for operation in OPERATIONS:
            add(operation, p.name, ledger.operations_by_tick(operation, p.name))
    return found


def sample_picojoule(
    ledger: Ledger, table: str | Path | Table, *, input_macs: str = "once", tick_seconds: float | None = None
) -> np.ndarray:
    """(samples,) float64: the energy of each sample of a run in memory, static power included where the time is known.

    table: a name, a path or a `Table`; a model has no prices of single samples. Raises ValueError for what is no table.
    """
    if not isinstance(table, Table) and str(table) in MODELS:
        raise ValueError(f"{table} is a model of whole runs; single samples can be priced by a table")
    table = table if isinstance(table, Table) else load_table(table)
    counts = sample_counts(ledger, input_macs)
    spent = sum((counts[key] * price.value for key, price in table.prices.items()), np.zeros(len(ledger.stop_time)))
    if table.static is not None and tick_seconds is not None:
        spent = spent + table.static.value * tick_seconds * 1e12 * ledger.stop_time
    return spent


# ------------------------------------------------------------------------------------------------------- Lemaire 2022

ADD, MULTIPLY = 0.1, 3.1  # picojoule, 32-bit integers at 45 nm (Horowitz, ISSCC 2014)
WORD_BITS, QUEUE_WORDS = 32, 1000


def memory_access(words: int) -> float:
    """Picojoule of one 32-bit access to an on-chip memory of that many words.

    The straight line that fits Horowitz's three points best (8 kB 10 pJ, 32 kB 20 pJ, 1 MB 100 pJ):
    1.09e-5 pJ a bit + 13.2 pJ. Horowitz gives them for 64-bit accesses; the model takes them for one word, as here.
    """
    return 1.09e-5 * words * WORD_BITS + 13.2


def lemaire2022(run: Mapping[str, Any], network: Mapping[str, Any], input_macs: str, *, exact: bool) -> dict[str, Any]:
    """The memory-inclusive model of Lemaire et al., "An Analytical Estimation of Spiking Neural Networks Energy
    Efficiency" (ICONIP 2022, arXiv 2210.13107), of a digital 45 nm core with 32-bit integers.

    E = E_memory + E_operations + E_addressing. With s spikes into a connection and s' out of a layer of N neurons, T
    ticks, k = kernel positions x output channels (dense: outputs), and E(m) one access to a memory of m words:

        memory:      s E(queue) [5] + s k E(weights) [7, 8] + T N E(biases) [7, 8]
                     + 2 (s k + T N) E(N), potentials read and written [9, 10, 14, 15] + s' E(queue) [13]
        operations:  s ceil(kh / sh) ceil(kw / sw) C_out additions [1.4] (dense: s outputs [2.4], without the factor
                     inputs, a slip of the print), T N additions of biases, s' of resets, T N multiplications and
                     additions of leaks (LIF only) [1.3, 2.3]
        addressing:  s k additions, and 2 s multiplications and additions for a convolution [16.2, 16.3, 17.2]

    [n] are the paper's equations. An analog first layer is the formal network's, once: in-bounds multiply-accumulates
    with a read of input and weight each [1.1, 3, 6], without its addressing [16, 17]. The queue between layers has 1000
    words. The paper's text was not at hand; the equations are those of its laboratory's published code, which numbers
    them.

    exact: with this run's counts in place of the paper's estimates: delivered taps for s k, neurons that something
    arrived at for T N, and biases, resets and leaks as they happened. The paper knows no identity connections and no
    pools; their taps are not priced. Nor does it know lists of synapses: s k are their structural taps.
    """
    layers = {layer["name"]: layer for layer in run["layers"]}
    counts = layer_counts(run, network, input_macs)
    taps = {c["name"]: c for c in run["connections"]}
    ticks = run["ticks_run"]
    mac = ADD + MULTIPLY
    found = []
    for name, layer in layers.items():
        memory = operations = addressing = reached = 0.0
        for c in network["connections"]:
            if c["target"] != name or taps[c["name"]]["class"] not in ("ac", "mac"):
                continue
            weights = memory_access(c["weights"])
            if c["events"] == "image":
                times = counts[name]["mac_input"]
                memory += times * (memory_access(math.prod(c["inner"])) + weights)
                operations += times * mac
                continue
            spikes = layers[c["source"]]["events"]
            kernel = math.prod(c["kernel"] or [1])
            steps = [math.ceil(k / s) for k, s in zip(c["kernel"] or [1], c["stride"] or [1], strict=True)]
            outputs = c["outer"][0] // (c["groups"] or 1)
            touched = taps[c["name"]]["delivered"] if exact else spikes * kernel * outputs
            adds = touched if exact else spikes * math.prod(steps) * outputs
            if c["operation"] == "sparse" and not exact:
                touched = adds = taps[c["name"]]["structural"]
            graded = c["events"] == "graded"
            memory += spikes * memory_access(QUEUE_WORDS) + touched * weights
            operations += adds * (mac if graded else ADD)
            addressing += touched * ADD + (2 * spikes * mac if c["kernel"] else 0)
            reached += touched
        neurons, leaky = layer["neurons"], layer["decay_clocked"] > 0
        if layer["neuron_update_clocked"]:
            steps_taken = layer["neuron_update"] if exact else neurons * ticks
            biased = layer["bias"] > 0
            biases = layer["bias"] if exact else neurons * ticks * biased
            resets = layer["reset"] if exact else layer["spike_units"]
            leaks = layer["decay"] if exact else neurons * ticks * leaky
            stored = sum(c["biases"] for c in network["connections"] if c["target"] == name)
            memory += 2 * (reached + steps_taken) * memory_access(neurons) + biases * memory_access(stored)
            memory += layer["events"] * memory_access(QUEUE_WORDS)
            operations += (biases + resets) * ADD + leaks * mac
        parts = {"memory": memory, "operations": operations, "addressing": addressing}
        found.append({"name": name, "picojoule": math.fsum(parts.values()), "parts": parts})
    total = math.fsum(layer["picojoule"] for layer in found)
    unpriced = {key: sum(layer[key] for layer in counts.values()) for key in ("identity", "pool", "threshold_test")}
    name = "lemaire2022-exact" if exact else "lemaire2022"
    return {
        "table": name,
        "title": "Memory-inclusive model of Lemaire et al. 2022"
        + (", with exact counts" if exact else ", as published"),
        "technology": "45 nm CMOS, 0.9 V, 32-bit integers, on-chip memories sized by layer",
        "scope": ["arithmetic", "memory"],
        "basis": "estimated",
        "source": "E. Lemaire et al., An Analytical Estimation of Spiking Neural Networks Energy Efficiency, ICONIP "
        "2022, doi:10.1007/978-3-031-30105-6_48, arXiv 2210.13107; equations from the laboratory's published code "
        "(LEAT-EDGE/qualia-plugin-snn); prices after Horowitz, ISSCC 2014",
        "note": "Memory accesses are most of it. Off-chip memory, communication and static power are out."
        + ("" if exact else " Borders are ignored, and every neuron is updated in every tick."),
        "input_macs": input_macs,
        "picojoule": total,
        "dynamic": total,
        "static": None,
        "static_watt": None,
        "seconds": None,
        "ann": None,
        "layers": found,
        "operations": {
            key: {"count": None, "each": None, "picojoule": math.fsum(layer["parts"][key] for layer in found)}
            for key in ("memory", "operations", "addressing")
        },
        "unpriced": {key: count for key, count in unpriced.items() if count},
    }


def _published(run: Mapping[str, Any], network: Mapping[str, Any], input_macs: str) -> dict[str, Any]:
    return lemaire2022(run, network, input_macs, exact=False)


def _exact(run: Mapping[str, Any], network: Mapping[str, Any], input_macs: str) -> dict[str, Any]:
    return lemaire2022(run, network, input_macs, exact=True)


MODELS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any], str], dict[str, Any]]] = {
    "lemaire2022": _published,
    "lemaire2022-exact": _exact,
}
