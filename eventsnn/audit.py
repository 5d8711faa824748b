"""A second opinion on a run: everything it counted, recounted from its recorded events and the network file alone.

Nothing here is shared with the engine: no kernel, no table, no address arithmetic. The engine walks from a unit to its
targets, an event at a time. Here every step of a connection is a sparse matrix that says which positions every position
behind it *reads*; counts are products of such matrices with the numbers of events in a tick, in continuous time in an
instant.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eventsnn.network import (
    Network,
)
from eventsnn.neurons import LI, Input, Integrator, Relay
from eventsnn.recount import (
    CLASSES,
    COLUMNS,
    KINDS,
    OPERATIONS,
    Account,
    Books,
    disorder,
    entry_at,
    find_network,
    fires_repeatedly,
    is_multiplicity,
    microseconds_of,
    multiplicities,
    open_books,
    orders,
    turns_of,
)
from eventsnn.recount_async import TimedAccount, of_later

NAMES = ("scope", "name", "quantity")
STATED = ("sample", "label", "prediction", "tied", "stop_time", "stop_reason")  # columns of samples.csv, not counts
SHOWN = 20  # differences that are told one by one


@dataclass(frozen=True)
class Audit:
    """What became of recounting a run.

    agrees: whether every entry is what the events give. checked: entries compared. events: recorded events they were
    recounted from. differing: entries that differ. first: the first of them in words: file, place, what the file says,
    what was recounted; None if there is none. differences: the first 20 of them. unchecked: what the files do not allow
    to recount, a sentence each.
    """

    agrees: bool
    checked: int
    events: int
    differing: int
    first: str | None
    differences: tuple[str, ...]
    unchecked: tuple[str, ...]


def audit(folder: str | Path, weights: str | Path | None = None) -> Audit:
    """Whether the books of a run folder follow from its recorded events and the network it ran.

    weights: the network file; None for the file the run names, where `timing.json` says it lay, beside the run folder,
    in the current folder or in the package. First the events are looked at for themselves (ranges, order, digest), then
    `run.json`, `layers.csv`, `connections.csv`, `samples.csv`, `trace.h5` and what else of counts the folder holds.

    Raises ValueError, in one sentence, when the folder is no finished run with all events recorded, when a file lacks
    something or holds text for numbers, and when the network is not the one that ran.
    """
    try:
        books = open_books(Path(folder))
        network = find_network(books, weights)
        compare = _Comparison(books, network)
        _compare_events(compare)
        _compare_stops(compare)
        if compare.can_recount:
            account = _account(network, books)
            compare.unknown += account.unknown
            _compare_counts(compare, account)
            _compare_trace(compare, account)
            _compare_sources(compare, account)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return Audit(
        agrees=compare.differing == 0,
        checked=compare.checked,
        events=len(books.events["sample"]),
        differing=compare.differing,
        first=compare.differences[0] if compare.differences else None,
        differences=tuple(compare.differences),
        unchecked=(*_unchecked(compare), *compare.unknown),
    )


def lines(audit: Audit) -> list[str]:
    """An audit in words for the terminal, a line each."""
    if audit.agrees:
        found = [f"The books agree: {audit.checked:,} entries recounted from {audit.events:,} events."]
    else:
        found = [f"The books do NOT agree. First: {audit.first}."]
        found += [f"  also: {difference}" for difference in audit.differences[1:]]
        found.append(f"{audit.differing:,} of {audit.checked:,} entries differ.")
    return found + [f"Not checked: {sentence}." for sentence in audit.unchecked]


def digest(events: Mapping[str, np.ndarray] | np.ndarray, samples: int, populations: int) -> np.ndarray:
    """(samples, populations) uint64: sums that change with any event of a sample and population, whatever their order.

    events: arrays by the names sample, time, population, neuron (whole numbers) and value (float64), or a structured
    array of them. Every event adds, modulo 2**64, mix(mix(2**32 time + neuron) xor the bits of its value), where mix is
    the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014). A time in seconds counts as mix(its bits).
    """
    is_real = events["time"].dtype.kind == "f"
    time = _mixed(_bits(events["time"])) if is_real else events["time"].astype(np.uint64)
    key = np.left_shift(time, np.uint64(32)) + events["neuron"].astype(np.uint64)
    word = _mixed(np.bitwise_xor(_mixed(key), _bits(events["value"])))
    sums = np.zeros(samples * populations, np.uint64)
    np.add.at(sums, events["sample"].astype(np.int64) * populations + events["population"], word)
    return sums.reshape(samples, populations)


def _bits(number: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(number, "<f8").view("<u8").astype(np.uint64)


def _mixed(word: np.ndarray) -> np.ndarray:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        word = np.bitwise_xor(word, np.right_shift(word, np.uint64(shift))) * np.uint64(factor)
    return word


def _account(network: Network, books: Books) -> Account:
    if books.clock is None:
        return Account(network, books)
    return TimedAccount(network, books)


# -------------------------------------------------------------------------------------------- as the files tell it


def _by_sample(account: Account) -> dict[str, np.ndarray]:
    """The columns of samples.csv that are counts, (samples,) each."""
    nothing = np.zeros(account.books.samples, np.int64)
    found = {"spikes": account.spikes().sum(1)}
    found["spike_units"] = sum((account.units[name] for name in account.spiking), nothing)
    found["input_events"] = account.events[account.network.input.name].sum(1)
    found |= {f"synops_{kind}": account.by_class(kind, "ac", "mac") for kind in KINDS}
    found |= {f"synops_{c}" if c == "mac" else c: account.by_class("delivered", c) for c in CLASSES[1:]}
    found["macs_input"] = nothing + account.macs_input
    if account.network.encoding != "direct":
        found["macs_input_effective"] = nothing
    return found | {o: sum((done[o] for done in account.operations.values()), nothing) for o in OPERATIONS}


def _totals(account: Account, by_sample: Mapping[str, np.ndarray]) -> dict[tuple[str, ...], Any]:
    """What run.json tells of all samples together, by path of keys, as far as it can be recounted."""
    trace, samples, is_timed = account.books.trace, account.books.samples, account.books.clock is not None
    labels, begun = trace.get("labels"), int(account.begun.sum())
    correct = None if labels is None else int(np.sum(trace["predictions"] == labels))
    found: dict[tuple[str, ...], Any] = {("accuracy",): None if correct is None else correct / samples}
    found |= {("mean_stop",): (math.fsum(trace["stop_time"]) if is_timed else begun) / samples}
    found |= {("stop_unit",): "s" if is_timed else "ticks"}
    found |= {("ticks_run",): begun, ("ties",): int(np.sum(trace["tied"]))}
    for name, counts in by_sample.items():
        if name in OPERATIONS:
            found["operations", name] = int(counts.sum())
        elif name.startswith("synops_"):
            found["synops", name.removeprefix("synops_")] = int(counts.sum())
        elif name not in CLASSES:
            found[name,] = int(counts.sum())
            if name.startswith("macs_input"):
                found[f"{name}_per_tick",] = int((counts * account.begun).sum())
    found["synops", "ac"] = int(account.by_class("delivered", "ac").sum())
    return found | {(c, k): int(account.by_class(k, c).sum()) for c in ("identity", "pool") for k in KINDS}


def _layers(account: Account) -> list[dict[str, Any]]:
    """The rows of layers.csv."""
    rows = []
    for p in account.network.populations:
        taps = dict.fromkeys(CLASSES, 0)
        for route in account.routes:
            if route.connection.target == p.name:
                taps[route.tap_class] += int(account.taps[route.label]["delivered"].sum())
                taps["pool"] += int(account.pool[route.label]["delivered"].sum())
        is_spiking, events = p.name in account.spiking, int(account.events[p.name].sum())
        units = int(account.units[p.name].sum())
        row: dict[str, Any] = {"name": p.name, "kind": type(p.neuron).__name__.lower(), "spiking": is_spiking}
        row |= {"shape": list(p.shape), "neurons": p.size, "spikes": events * is_spiking}
        row |= {"spike_units": units * is_spiking, "events": events, "synops": taps["ac"] + taps["mac"]}
        row |= {tap_class: taps[tap_class] for tap_class in CLASSES[1:]}
        rows.append(row | {o: int(counts.sum()) for o, counts in account.operations[p.name].items()})
    return rows


def _connections(account: Account) -> list[dict[str, Any]]:
    """The rows of connections.csv."""
    rows = []
    for route in account.routes:
        taps, pool = ({k: int(n.sum()) for k, n in book[route.label].items()} for book in (account.taps, account.pool))
        row: dict[str, Any] = {"name": route.label, "source": route.connection.source}
        row |= {"target": route.connection.target, "class": route.tap_class}
        row |= {"synops": taps["delivered"] * route.is_weighted, **taps, "pool_structural": pool["structural"]}
        rows.append(row | {"pool_taps": pool["delivered"], "pool_in_flight": pool["in_flight"]})
    return rows


def _statistics(account: Account) -> list[dict[str, Any]]:
    """The rows of statistics.csv: how counts spread over the samples."""
    events, begun = account.events, np.arange(account.books.ticks) < account.begun[:, None]
    found = [("network", "", "synops", account.synops()), ("network", "", "spikes", account.spikes())]
    found.append(("network", "", "input_events", events[account.network.input.name]))
    found.append(("network", "", "ticks", begun.astype(np.int64)))
    for name in events:
        found.append(("layer", name, "spikes" if name in account.spiking else "events", events[name]))
        found.append(("layer", name, "synops", account.synops(name)))
    found += [("connection", route.label, route.tap_class, account.delivered[route.label]) for route in account.routes]
    rows = []
    for scope, name, quantity, by_tick in found:
        ranked = np.sort(by_tick.sum(1)).tolist()
        row: dict[str, Any] = {"scope": scope, "name": name, "quantity": quantity, "total": sum(ranked)}
        row["mean"] = sum(ranked) / len(ranked)
        for key, percent in (("p5", 5), ("median", 50), ("p95", 95), ("max", 100)):
            row[key] = ranked[-(-percent * len(ranked) // 100) - 1]  # the smallest that so many do not exceed
        rows.append(row | {"peak_per_tick": int(by_tick.max())})
    return rows


# ----------------------------------------------------------------------------------------------------- the comparison


class _Comparison:
    """Entries of the files beside what they should be; keeps count, and words for the first that differ."""

    def __init__(self, books: Books, network: Network) -> None:
        self.books, self.network = books, network
        self.checked, self.differing, self.can_recount = 0, 0, True
        self.differences: list[str] = []
        self.unknown: list[str] = []

    def differs(self, words: str, entries: int = 1) -> None:
        """Note that entries differ; the words are about the first of them."""
        self.differing += entries
        if len(self.differences) < SHOWN:
            self.differences.append(words)

    def cell(self, where: str, said: Any, found: Any, source: str = "the events give") -> None:
        """One entry; text of a CSV file is read as the kind of thing that was found."""
        if isinstance(found, bool | list) and isinstance(said, str):
            found = "x".join(map(str, found)) if isinstance(found, list) else str(found)
        elif isinstance(found, int | float) and not isinstance(found, bool):
            try:
                said = type(found)(said) if isinstance(said, str) else said
                if isinstance(said, bool) or not isinstance(said, int | float):
                    raise ValueError
            except ValueError:
                wanted = "a number" if isinstance(found, float) else "a whole number"
                raise ValueError(f"{where} is {said!r}, wanted {wanted}") from None
        self.checked += 1
        if said != found:
            self.differs(f"{where}: the file says {said}, {source} {found}")

    def rows(self, file: str, said: Any, found: list[dict[str, Any]], known: Sequence[str] = ()) -> None:
        """Rows of a table, of a CSV file or of run.json. known: columns that are looked at elsewhere."""
        if len(said) != len(found):
            raise ValueError(f"{file} has {len(said)} rows, wanted {len(found)}")
        for number, (row, wanted) in enumerate(zip(said, found, strict=True)):
            name = ", ".join(str(wanted[key]) for key in NAMES if wanted.get(key))
            for column, value in wanted.items():
                self.cell(f"{file}, row {name or number}, column {column}", entry_at(row, column, file=file), value)
        self.unknown += [f"{file}, column {c}: it is not known here" for c in said[0] if c not in (*found[0], *known)]

    def array(
        self, where: str, axes: Sequence[str], said: np.ndarray, found: np.ndarray, source: str = "the events give"
    ) -> None:
        """An array, number by number; NaN is NaN. axes: what its indices count."""
        if said.shape != found.shape or said.dtype.kind not in "fiub":
            raise ValueError(f"{where} has shape {said.shape} and dtype {said.dtype}, wanted numbers of {found.shape}")
        self.checked += found.size
        wrong = np.argwhere((said != found) & ~((said != said) & (found != found)))
        if len(wrong):
            at = tuple(wrong[0])
            place = ", ".join(f"{axis} {i}" for axis, i in zip(axes, at, strict=True))
            self.differs(f"{where}, {place}: the file says {said[at]}, {source} {found[at]}", len(wrong))


def _compare_events(compare: _Comparison) -> None:
    """The events for themselves: in range, possible, in order, none twice, and those whose digest the run made."""
    books, network, populations = compare.books, compare.network, compare.network.populations
    sample, time, population, neuron, value = (books.events[name] for name in COLUMNS)
    count, names, neurons = len(sample), [p.name for p in populations], [p.neuron for p in populations]

    compare.checked += count

    def tell(wrong: np.ndarray, words: str, limit: np.ndarray | None = None) -> None:
        if wrong.any():
            i = int(np.argmax(wrong))
            of = names[population[i]] if 0 <= population[i] < len(names) else population[i]
            event = f"sample {sample[i]}, time {time[i]}, population {of}, neuron {neuron[i]}, value {value[i]:g}"
            words += "" if limit is None else f" {limit[i]}"
            compare.differs(f"events.h5, row {i} ({event}): {words}", int(wrong.sum()))

    known = np.clip(population, 0, len(names) - 1)
    clock, limits = books.clock, {"sample": books.samples, "time": books.ticks, "population": len(names)}
    sizes = np.array([p.size for p in populations])[known]
    for name, limit in {**limits, "neuron": sizes}.items():
        said, highest = books.events[name], np.broadcast_to(limit, (count,)) - 1
        if clock is not None and name == "time":
            is_inside = (time >= clock.start / 1e6) & (microseconds_of(time).min(0) < clock.end)
            tell(~is_inside, f"its time is not from {clock.start / 1e6:g} to before {clock.ends:g} s")
        else:
            tell((said < 0) | (said > highest), f"its {name} is not between 0 and", highest)
    if compare.differing:
        compare.can_recount = False
        return

    last = books.trace["stop_time"][sample]
    if clock is None:
        last = turns_of(network, books, books.trace["stop_time"].astype(np.int64))[population, sample] - 1
        tell(time > last, "the population had no turn in this tick, its last was in tick", last)
    else:
        order = orders(network)
        is_behind = np.array([order[name] > order[network.output] for name in names])[population]
        tell((time > last) | (is_behind & (time == last)), "it lies behind the decision, at", last)
    is_fed = np.array([isinstance(n, Input) for n in neurons])
    emits_none = is_fed & (network.encoding == "direct") | np.array([isinstance(n, Integrator) for n in neurons])
    is_graded = np.array([isinstance(n, Relay) for n in neurons])
    is_multiple = np.array([fires_repeatedly(p, clock is not None) for p in populations])
    tell(emits_none[population], "this population emits no events")
    tell(is_multiple[population] & ~is_multiplicity(value), "the value is no multiplicity, a whole number from 1 on")
    tell(~(is_graded | is_multiple)[population] & (value != 1), "the value is not 1, that of a spike")

    moment = np.unique(sample + 1j * time, return_inverse=True)[1]
    again, back = disorder(network, books, moment if clock is None else 2 * moment + of_later(network, books))
    tell(again, "the same event twice")
    tell(back, "out of order; wanted by sample, time, depth of the population and, in its turn, position and channel")

    ends = np.cumsum(np.bincount(sample, minlength=books.samples))
    compare.array("events.h5, offsets", ["entry"], books.events["offsets"], np.concatenate([[0], ends]))
    said, found = books.events["digest"], digest(books.events, books.samples, len(names))
    compare.array("events.h5, digest", ["sample", "population number"], said, found)
    stored = hashlib.sha256(np.ascontiguousarray(said, "<u8").tobytes()).hexdigest()
    compare.cell("run.json, recorded.digest", entry_at(books.run, "recorded", "digest"), stored, "events.h5 gives")


def _compare_stops(compare: _Comparison) -> None:
    """What the run states and events do not show, why and when samples stopped, in samples.csv as in trace.h5."""
    books, trace, rows = compare.books, compare.books.trace, compare.books.rows["samples.csv"]
    if len(rows) != books.samples:
        raise ValueError(f"samples.csv has {len(rows)} rows, wanted {books.samples}")
    for i, row in enumerate(rows):
        said = {column: entry_at(row, column, file="samples.csv") for column in STATED}
        stop, is_cut = trace["stop_time"][i].item(), bool(trace["stop_reason"][i])
        stated: dict[str, Any] = {"sample": i, "label": int(trace["labels"][i]) if "labels" in trace else ""}
        stated |= {"prediction": int(trace["predictions"][i]), "tied": int(trace["tied"][i])}
        stated |= {"stop_time": stop, "stop_reason": "horizon"}
        if is_cut:
            stated["stop_reason"] = said["stop_reason"] if said["stop_reason"] != "horizon" else "a cutoff"
        for column, value in stated.items():
            compare.cell(f"samples.csv, row {i}, column {column}", said[column], value, "trace.h5 has")
        end = books.ticks if books.clock is None else books.clock.ends
        if not is_cut or (books.clock is not None and stated["stop_reason"] == "ticks"):
            compare.cell(f"trace.h5, stop_time, sample {i}", stop, end, "the horizon is")
    reasons = dict(Counter(row["stop_reason"] for row in rows))
    compare.cell("run.json, stop_reasons", entry_at(books.run, "stop_reasons"), reasons, "samples.csv gives")
    if books.clock is not None:
        tick = entry_at(books.network, "tick_seconds", file="network.json")
        compare.cell("run.json, tick_seconds", entry_at(books.run, "tick_seconds"), tick, "network.json has")
        name, _, number = str(entry_at(books.run, "cutoff")).partition(":")
        ticks = min(int(number), books.ticks) if name == "fixed" and number.isdecimal() else books.ticks
        compare.cell("run.json, duration in ticks", books.clock.count, ticks, "its ticks are")


def _compare_counts(compare: _Comparison, account: Account) -> None:
    books, by_sample, hidden = compare.books, _by_sample(account), account.hidden

    def shown(row: dict[str, Any]) -> dict[str, Any]:
        """A row without what the record does not tell; of a statistic of such counts, its name is left."""
        left = NAMES if row.get("quantity") in hidden else row
        return {k: row[k] for k in left if k in NAMES or k.removeprefix("synops_") not in hidden}

    for path, value in _totals(account, by_sample).items():
        if path[-1] not in hidden:
            compare.cell(f"run.json, {'.'.join(path)}", entry_at(books.run, *path), value)
    tables = {"layers": _layers(account), "connections": _connections(account), "statistics": _statistics(account)}
    for name, rows in tables.items():
        whole = [row for row in rows if row.get("scope", "network") == "network"]  # run.json has no other statistics
        compare.rows(f"run.json, {name}", entry_at(books.run, name, kind=list), [*map(shown, whole)], known=[*rows[0]])
    samples = [dict(zip(by_sample, map(int, row), strict=True)) for row in zip(*by_sample.values(), strict=True)]
    for name, rows in {**tables, "samples": samples}.items():
        known = (*STATED, "macs_input_effective", *rows[0])
        compare.rows(f"{name}.csv", books.rows[f"{name}.csv"], [*map(shown, rows)], known=known)


def _compare_trace(compare: _Comparison, account: Account) -> None:
    """SynOps by tick; outputs, as far as they count spikes; and the predictions that the outputs make."""
    books, trace, output = compare.books, compare.books.trace, compare.network[compare.network.output]
    is_timed, goes_on = books.clock is not None, books.clock is not None and books.clock.start > 0
    if "synops" not in account.hidden:
        compare.array("trace.h5, synops", ["sample", "tick"], trace["synops"], account.synops())
    outputs, stop = trace["outputs"], account.begun
    wanted = outputs.copy()
    if output.name in account.spiking and not goes_on:
        here = books.events["population"] == compare.network.populations.index(output)
        units, counts = multiplicities(output, books.events["value"][here], is_timed), np.zeros(outputs.shape, np.int64)
        np.add.at(counts, (books.events["sample"][here], account.tick[here], books.events["neuron"][here]), units)
        wanted = counts.cumsum(1).astype(outputs.dtype)
    wanted[np.arange(books.ticks) >= stop[:, None]] = np.nan
    compare.array("trace.h5, outputs", ["sample", "tick", "class"], outputs, wanted)

    final = wanted[np.arange(books.samples), stop - 1]
    is_tied = (final == final.max(1, keepdims=True)).sum(1) > 1
    compare.array("trace.h5, tied", ["sample"], trace["tied"], is_tied, "its outputs give")
    # of equal counts of spikes the membrane decides, which no event shows
    is_open = is_tied & (output.name in account.spiking)
    predictions = np.where(is_open, trace["predictions"], final.argmax(1))
    compare.array("trace.h5, predictions", ["sample"], trace["predictions"], predictions, "its outputs give")
    if account.ends is not None:
        compare.array("trace.h5, stop_time", ["sample"], trace["stop_time"], account.ends, "the output last changed at")


def _compare_sources(compare: _Comparison, account: Account) -> None:
    """Events of every neuron and taps of every source neuron, where the folder has them."""
    books, sources, axes = compare.books, compare.books.sources, ["sample", "channel", "row", "column"]
    if sources is None:
        return
    for number, p in enumerate(compare.network.populations):
        if p.name in sources["emitted"]:
            here = books.events["population"] == number
            cell = books.events["sample"][here] * p.size + books.events["neuron"][here]
            found = np.bincount(cell, minlength=books.samples * p.size).reshape(books.samples, *p.shape)
            compare.array(f"sources.h5, emitted, {p.name}", axes[: found.ndim], sources["emitted"][p.name], found)
    for number, route in enumerate(account.routes):
        shape = compare.network[route.connection.source].shape
        said = entry_at(sources["fan_out"], str(number), kind=np.ndarray, file="sources.h5, fan_out")
        compare.array(f"sources.h5, fan_out, {route.label}", axes[1 : len(shape) + 1], said, route.fan.reshape(shape))


def _unchecked(compare: _Comparison) -> list[str]:
    """What the files do not allow to recount, a sentence each."""
    books, network, found = compare.books, compare.network, []
    if not compare.can_recount:
        found.append("any count: some events lie outside the network or the run")
    if books.run["network"].get("sha256") is None:
        found.append("whether this is the network that ran: the run has no hash of it")
    if network.encoding == "direct":
        found.append("macs_input_effective: pixel values are not recorded")
    if isinstance(network[network.output].neuron, Integrator):
        what = "potentials" if isinstance(network[network.output].neuron, LI) else "sums of weights"
        found.append(f"the outputs: they are {what}, not counts")
    elif books.trace["tied"].any():
        found.append("which of equal outputs was predicted: the membranes decide")
    if any(isinstance(p.neuron, Relay) for p in network.populations):
        found.append("the values of graded events, beyond their digest: they are sums of weights")
    if (books.folder / "potentials.h5").exists():
        found.append("potentials.h5: membranes are not simulated again")
    if np.any(books.trace["stop_reason"] != 0):
        found.append("whether the cutoff was right to stop: only what was counted until then")
    return [*found, "accuracy_interval, accuracy_by_tick and queue of run.json: they count no events"]
