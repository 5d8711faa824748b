"""When is it safe to stop, and what does stopping save: calibration, sweeps and searches over recorded full runs.

One run to the horizon answers for every policy (`simulation.replay`), and its counts by tick for what each would have
cost, so a study never runs a network; `rerun` does, to show that a chosen point is what a live run gives, and
`decision_curve`, as continuous time needs. A study takes a run folder, a `Run` or a `Record`, of cutoff fixed and with
labels, or any model's outputs and labels: a `Trace`, or its file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eventsnn import energy, runs, traces
from eventsnn import kernels_sync as k
from eventsnn.inputs import DIGEST_BYTES, Events
from eventsnn.ledger import wilson
from eventsnn.network import Network
from eventsnn.simulation import Replayed, Replays, Run, replay, simulate
from eventsnn.watchdog import (
    Budget,
    Calibration,
    Confidence,
    ConformalSet,
    Entropy,
    FirstCrossing,
    FirstSpike,
    Fixed,
    Oracle,
    Policy,
    SpikeGap,
    StopReason,
    TopKGap,
    Trace,
    overlap,
    policy_content,
    predictions_by_tick,
    read_policy,
    stably_right,
)

METHODS = ("exact", "paper")
EPSILONS = (
    *(0.0, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03),
    *(0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5),
)
COSTS = ("ticks", "synops", "picojoule")
# Every family of a sweep, and what its threshold is called.
FAMILIES = {
    "fixed": "ticks",
    "topk": "beta",
    "topk-calibrated": "epsilon",
    "confidence": "p",
    "entropy": "h",
    "conformal": "score",
    "conformal-calibrated": "epsilon",
    "spike-gap": "spikes",
    "first-spike": "",
    "first-crossing": "theta",
    "budget": "synops",
    "oracle": "",
}
FAMILY_OF = {"sum": "topk", "potential": "first-crossing", "spikes": "spike-gap"}  # what fits a readout best
AHEAD = ("oracle",)  # families that know the labels, so they cannot be chosen


# ---------------------------------------------------------------------------------------------------- recorded runs


@dataclass(frozen=True, eq=False)
class Recorded:
    """Full runs as studies take them. Make one with `recorded`.

    trace: with labels, every sample run to its horizon. counts: of `energy.counts_by_tick`, or None where they are not
    known. macs_input: multiply-accumulates of one sample's image. tick_seconds: length of a tick or None. network:
    sha256. digests: (N, 6) uint8 of the inputs, or None where an older version wrote the run. name: for people.
    foreign: a trace alone, of whatever model, so that network, digests and what was run are not known.
    """

    trace: Trace
    counts: np.ndarray | None
    macs_input: int
    tick_seconds: float | None
    network: str | None
    dtype: str
    seed: int
    layer_delay: int
    digests: np.ndarray | None
    name: str
    foreign: bool = False

    @property
    def ticks(self) -> int:
        """Ticks of every sample."""
        return self.trace.outputs.shape[1]

    def __len__(self) -> int:
        return len(self.trace.outputs)

    def take(self, which: np.ndarray) -> Recorded:
        """These samples. which: (k,) indices or an (N,) mask."""
        trace, arrays = self.trace, ("outputs", "margins", "synops", "stop_time", "labels", "asked")
        kept = {name: value[which] for name in arrays if (value := getattr(trace, name)) is not None}
        counts = None if self.counts is None else self.counts[which]
        digests = None if self.digests is None else self.digests[which]
        return replace(self, trace=replace(trace, **kept), counts=counts, digests=digests)

    @cached_property
    def replays(self) -> Replays:
        """Asks any policy of the trace."""
        return Replays(self.trace)

    @property
    def counted(self) -> bool:
        """Whether SynOps are known."""
        return self.counts is not None or self.trace.synops.shape[1] == self.ticks

    def check_cost(self, cost: str) -> None:
        """Refuse, in a sentence, costs that cannot be told: "ticks" can in any case."""
        if cost == "synops" and not self.counted:
            advice = "choose the axis ticks" if self.foreign else "run it with count='connections'"
            raise ValueError(f"{self.name} counted no SynOps; {advice}")
        if cost == "picojoule" and self.counts is None:
            advice = "leave the table out" if self.foreign else "run it again with this version"
            raise ValueError(f"{self.name} holds no operations by tick, which an energy table prices; {advice}")

    @cached_property
    def spent(self) -> np.ndarray:
        """(N, T + 1) int64: SynOps delivered up to the question of each tick, and at the end of the run."""
        self.check_cost("synops")
        if self.counts is not None:
            weighted = [energy.BY_TICK.index(kind) for kind in ("ac", "mac")]
            return self.counts[:, :, weighted].sum(2).cumsum(1)
        synops = self.trace.synops
        if self.trace.asked is None:
            return np.concatenate([synops.cumsum(1), synops.sum(1, keepdims=True)], axis=1)
        return np.concatenate([self.trace.asked.cumsum(1), synops.sum(1, keepdims=True)], axis=1)

    @cached_property
    def done(self) -> np.ndarray:
        """(N, T + 1, operations of `energy.BY_TICK`) int64: all that was done up to the question of each tick."""
        self.check_cost("picojoule")
        assert self.counts is not None
        return self.counts.cumsum(1)


Source = str | Path | Run | runs.Record | Trace | Recorded


def recorded(source: Source) -> Recorded:
    """Recorded full runs from a run folder, a `Run` or a `Record`; from a `Trace` or its file, what it tells.

    Raises ValueError when there are no labels, when a sample was stopped before its horizon, when an output is not
    finite, and when there is no sample or a single output.
    """
    if isinstance(source, Recorded):
        return source
    if isinstance(source, Run):
        found = _of_run(source)
    elif isinstance(source, Trace):
        found = _of_trace(source, "this trace")
    elif isinstance(source, str | Path) and traces.is_trace(source):
        found = _of_trace(traces.read_trace(source), str(source))
    else:
        found = _of_record(source)
    trace = found.trace
    if not len(found):
        raise ValueError(f"{found.name} holds no samples")
    if trace.labels is None:
        raise ValueError(f"{found.name} has no labels; a study compares answers with them")
    cut = np.flatnonzero(trace.stop_time < found.ticks)
    if cut.size:
        raise ValueError(
            f"{found.name}: sample {cut[0]} was stopped after {trace.stop_time[cut[0]]} of {found.ticks} ticks; "
            "a study needs a run with cutoff fixed"
        )
    if trace.outputs.shape[2] < 2:
        raise ValueError(f"{found.name} has a single output; policies compare classes")
    odd = np.argwhere(~np.isfinite(trace.outputs))
    if odd.size:
        n, t, c = odd[0]
        raise ValueError(f"{found.name}: output {c} of sample {n} in tick {t} is {trace.outputs[n, t, c]}")
    return found


def _check_mode(mode: Any, name: str) -> None:
    if mode == "async":
        raise ValueError(f"{name} ran in continuous time; a study compares ticks and needs a run in mode sync")


def _of_run(run: Run) -> Recorded:
    from eventsnn.store import network_hash

    _check_mode(run.mode, "this run")
    kept = run.ledger.counted != "spikes"
    return Recorded(
        trace=run.trace,
        counts=energy.counts_by_tick(run.ledger, run.network) if kept else None,
        macs_input=int(run.ledger.macs_input[0]) if len(run.predictions) else 0,
        tick_seconds=run.network.tick_seconds,
        network=network_hash(run.network),
        dtype=run.dtype,
        seed=run.seed,
        layer_delay=run.layer_delay,
        digests=run.digests,
        name="this run",
    )


def _of_trace(trace: Trace, name: str) -> Recorded:
    _check_mode(None if trace.answers is None else "async", name)
    return Recorded(
        trace=trace,
        counts=None,
        macs_input=0,
        tick_seconds=None,
        network=None,
        dtype=trace.outputs.dtype.name,
        seed=0,
        layer_delay=0,
        digests=None,
        name=name,
        foreign=True,
    )


def _of_record(source: str | Path | runs.Record) -> Recorded:
    record = source if isinstance(source, runs.Record) else runs.read(source)
    counts = None if isinstance(source, runs.Record) else runs.read_counts(source)
    arrays, run = record.trace, record.run
    name = "this run" if isinstance(source, runs.Record) else str(source)
    _check_mode(run.get("mode"), name)
    try:
        weighted = None
        if counts is not None:
            weighted = counts[:, :-1, [energy.BY_TICK.index(kind) for kind in ("ac", "mac")]].sum(2)
        trace = Trace(
            outputs=arrays["outputs"],
            margins=arrays["margins"],
            synops=arrays["synops"],
            stop_time=arrays["stop_time"],
            readout=record.network["readout"],
            labels=arrays.get("labels"),
            asked=weighted,
        )
        return Recorded(
            trace=trace,
            counts=counts,
            macs_input=run["macs_input"] // max(1, run["input"]["samples"]),
            tick_seconds=record.network["tick_seconds"],
            network=run["network"]["sha256"],
            dtype=run["dtype"],
            seed=run["seed"],
            layer_delay=run["layer_delay"],
            digests=arrays.get("digests"),
            name=name,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{name} is damaged: {error} is missing or of another kind") from None
    except ValueError as error:  # of arrays that do not fit each other
        raise ValueError(f"{name} is damaged: {error}") from None


# ------------------------------------------------------------------------------------------- what the outputs tell


def optimal_cutoffs(trace: Trace) -> np.ndarray:
    """(N,) int64: the optimal cutoff timestep (OCT) of every sample, 1-based, with the labels' help.

    Wu et al., `Evaluator.py` in their code: correctness, made true only where it stays so; the last tick counts as
    right; the first tick that is. So a sample that is never stably right has T, and the accuracy at OCT is that of the
    full run. Raises ValueError without labels or full runs.
    """
    return replay(trace, Oracle()).stop_time


def accuracy_by_tick(trace: Trace) -> np.ndarray:
    """(T,) float64: the fraction right after each tick. Raises ValueError without labels."""
    if trace.labels is None:
        raise ValueError("this needs labels, and the samples have none")
    return np.mean(predictions_by_tick(trace.outputs, trace.margins) == trace.labels[:, None], axis=0)


def gaps(outputs: np.ndarray) -> np.ndarray:
    """(...) float64: the largest output less the second, over the last axis."""
    two = np.partition(np.asarray(outputs, np.float64), -2, axis=-1)[..., -2:]
    return two[..., 1] - two[..., 0]


def calibrate_topk(trace: Trace, epsilon: float, method: str = "exact") -> np.ndarray:
    """(T,) float64: beta of every tick for a Top-K cutoff that errs on a fraction epsilon of those it stops.

    After Wu et al.: the confidence C(beta) of a tick is the share, among samples whose gap exceeds beta, of those that
    are right now and stay right; beta is the smallest with C >= 1 - epsilon.

    "exact": among 0 and all gaps of the tick, by sorting; infinity (never stop here) where no beta has it. C is not
    monotone in beta; the smallest beta that satisfies the definition stops most samples, and its C is an average over
    the largest set. No larger beta need satisfy it, for one confident error would then outweigh all others. C is an
    estimate on these samples, not a guarantee (see `calibrate_conformal`).
    "paper": the authors' procedure to the letter (`topk_cutoff.py` in their code): 100 values of beta, m / 100 of
    the largest gap of all samples and ticks, strict comparison, an empty set fails, the last value always passes, the
    first that passes is taken.

    Raises ValueError for an epsilon outside 0..1, without labels, full runs or samples.
    """
    _check_epsilon(epsilon)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, wanted {' or '.join(METHODS)}")
    right, gap = stably_right(trace), gaps(trace.outputs)
    if not len(gap):
        raise ValueError("there are no samples to calibrate on")
    return (_exact if method == "exact" else _paper)(gap, right, epsilon)


def _exact(gap: np.ndarray, right: np.ndarray, epsilon: float) -> np.ndarray:
    order = np.argsort(-gap, axis=0, kind="stable")
    falling = np.take_along_axis(gap, order, 0)
    wrong = np.cumsum(~np.take_along_axis(right, order, 0), axis=0)
    size = np.arange(1, len(gap) + 1)[:, None]  # of the set of the largest gaps that ends in this row
    below = np.vstack([falling[1:], np.zeros((1, gap.shape[1]))])  # the beta that cuts there
    # a thousandth of a sample's grace for epsilon * size, which is no whole number in floating point
    passes = (falling > below) & (wrong <= epsilon * size + 1e-9 * size)
    last = len(gap) - 1 - passes[::-1].argmax(0)
    beta = np.take_along_axis(below, last[None], 0)[0]
    return np.where(passes.any(0), beta, np.inf)


def _paper(gap: np.ndarray, right: np.ndarray, epsilon: float) -> np.ndarray:
    betas = np.arange(100) * (gap.max() / 100)
    found = np.empty(gap.shape[1])
    for t in range(gap.shape[1]):
        above, sure = (_above(values, betas) for values in (gap[:, t], gap[right[:, t], t]))
        confidence = np.divide(sure, above, out=np.full(100, np.nan), where=above > 0)
        confidence[-1] = 1
        found[t] = betas[np.argmax(confidence >= 1 - epsilon)]
    return found


def _above(values: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """How many values are larger than each beta."""
    return len(values) - np.searchsorted(np.sort(values), betas, side="right")


def calibrate_conformal(
    trace: Trace,
    epsilon: float,
    bonferroni: bool = False,
    *,
    scale: float = 1.0,
    nonconformity: np.ndarray | None = None,
) -> np.ndarray:
    """(T,) float64: the score of every tick for a conformal cutoff (SpikeCP, Chen et al. 2023) of miscoverage epsilon.

    With n samples and their scores -log(softmax(output / scale)[label] + 1e-5):

    - by default as the cutoff paper's code has it (`spikecp_cutoff.py`): infinity joins the scores, and with
      j = ceil((1 - epsilon) (n + 2)) the (j - 1)-th smallest is taken, no lower than the smallest; each tick apart;
    - bonferroni: the standard split-conformal index, the ceil((1 - epsilon / T) (n + 1))-th smallest of n, infinity
      beyond, with epsilon shared by the T ticks, so that the true class stays in the set at all of them with a
      probability of 1 - epsilon at least. The sets hold scores *below* the threshold; so that ties do not weaken the
      guarantee, the threshold is the next number above that score.

    nonconformity: (N, T), the scores, where they are known already. Raises ValueError for an epsilon outside 0..1,
    without labels, full runs or samples.
    """
    _check_epsilon(epsilon)
    scores = nonconformity_of(trace, scale) if nonconformity is None else nonconformity
    n, ticks = scores.shape
    if not n:
        raise ValueError("there are no samples to calibrate on")
    rising = np.vstack([np.sort(scores, axis=0), np.full((1, ticks), np.inf)])
    if bonferroni:
        place = _ceil((1 - epsilon / ticks) * (n + 1))
        return np.nextafter(rising[min(place, n + 1) - 1], np.inf)
    return rising[max(_ceil((1 - epsilon) * (n + 2)) - 1, 1) - 1].copy()


def nonconformity_of(trace: Trace, scale: float = 1.0) -> np.ndarray:
    """(N, T) float64: -log(softmax(output / scale)[label] + 1e-5), computed as the watchdog does, to the bit."""
    if trace.labels is None:
        raise ValueError("this needs labels, and the samples have none")
    found = np.empty(trace.outputs.shape[:2])
    k.nonconformity(np.ascontiguousarray(trace.outputs), np.asarray(trace.labels, np.int64), float(scale), found)
    return found


def _ceil(x: float) -> int:
    """The ceiling, of what (1 - 0.7) * 10 = 3.0000000000000004 was meant to be."""
    return math.ceil(x - 1e-9 * max(1.0, abs(x)))


def _check_epsilon(epsilon: float) -> None:
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon is {epsilon}, wanted 0 or more and below 1")


def calibrate(
    source: Source,
    policy: str = "topk",
    epsilon: float = 0.01,
    *,
    method: str = "exact",
    bonferroni: bool = False,
    size: int = 1,
    scale: float = 1.0,
) -> TopKGap | ConformalSet:
    """A calibrated policy, "topk" or "conformal", from recorded full runs; it knows what it rests on (`calibrated`).

    method: of `calibrate_topk`. bonferroni, size, scale: of the conformal cutoff. Spiking outputs are read as counts.
    From a `Trace` alone it knows neither network nor samples, and no network is run with it. Raises ValueError naming
    what does not fit. Write it with `save_policy`.
    """
    full = recorded(source)
    if not full.foreign and (full.network is None or full.digests is None):
        raise ValueError(f"{full.name} does not say which samples it ran; run it again with this version")
    on = "counts" if full.trace.readout == "spikes" else "logits"
    found: TopKGap | ConformalSet
    if policy == "topk":
        found = TopKGap(tuple(calibrate_topk(full.trace, epsilon, method).tolist()), on=on)
    elif policy == "conformal":
        scores = calibrate_conformal(full.trace, epsilon, bonferroni, scale=scale)
        found = ConformalSet(tuple(scores.tolist()), size=size, scale=scale, on=on)
        method = "bonferroni" if bonferroni else "spikecp"
    else:
        raise ValueError(f"policy is {policy!r}, wanted topk or conformal")
    known = Calibration(
        file="a calibration",
        method=method,
        epsilon=float(epsilon),
        network=full.network,
        readout=full.trace.readout,
        ticks=full.ticks,
        layer_delay=full.layer_delay,
        digests=np.zeros((len(full), DIGEST_BYTES), np.uint8) if full.digests is None else full.digests,
    )
    return replace(found, calibrated=known)


def save_policy(policy: TopKGap | ConformalSet, path: str | Path) -> None:
    """Write a calibrated policy to a file, under a temporary name first; `watchdog.read_policy` gives it back."""
    if policy.calibrated is None:
        raise ValueError(f"cutoff {policy} was not calibrated; only a policy from calibrate can be saved")
    runs.save_text(json.dumps(policy_content(policy), indent=1, allow_nan=False) + "\n", Path(path))


# -------------------------------------------------------------------------------------------------------------- sweep


@dataclass(frozen=True)
class Point:
    """One policy on recorded samples. threshold: what FAMILIES says, None where a family has none.

    ticks_run, synops, picojoule: totals, up to the stops; None where SynOps were not counted, and without a table.
    """

    family: str
    policy: Policy
    threshold: float | None
    samples: int
    correct: int
    ticks_run: int
    synops: int | None
    picojoule: float | None

    @property
    def accuracy(self) -> float:
        """Fraction right."""
        return self.correct / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy (Wilson)."""
        return wilson(self.correct, self.samples)

    @property
    def mean_stop(self) -> float:
        """Mean ticks of a sample."""
        return self.ticks_run / self.samples

    def cost(self, cost: str) -> float:
        """Total cost: "ticks", "synops" or "picojoule"."""
        found = {"ticks": self.ticks_run, "synops": self.synops, "picojoule": self.picojoule}[cost]
        if found is None and cost == "synops":
            raise ValueError("SynOps were not counted; choose the axis ticks")
        if found is None:
            raise ValueError("picojoules need an energy table; name one (--energy TABLE)")
        return found

    def row(self) -> dict[str, Any]:
        """As JSON values; totals over samples, but for what is called mean."""
        low, high = self.interval
        return {
            "family": self.family,
            "policy": str(self.policy),
            "parameter": FAMILIES[self.family],
            "threshold": self.threshold,
            "samples": self.samples,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "low": low,
            "high": high,
            "ticks_run": self.ticks_run,
            "mean_stop": self.mean_stop,
            "synops": self.synops,
            "mean_synops": None if self.synops is None else self.synops / self.samples,
            "picojoule": self.picojoule,
            "mean_picojoule": None if self.picojoule is None else self.picojoule / self.samples,
        }


def evaluate(
    full: Recorded,
    policy: Policy,
    family: str,
    threshold: float | None = None,
    table: energy.Table | None = None,
) -> Point:
    """What a policy would have given and cost on recorded full runs.

    synops, and every operation that the table prices, are summed exactly up to each sample's stop; images are
    multiplied once a sample. picojoule is what `energy.account` says of the live run.
    """
    found = full.replays(policy)
    assert full.trace.labels is not None
    return Point(
        family=family,
        policy=policy,
        threshold=threshold,
        samples=len(full),
        correct=int(np.sum(found.predictions == full.trace.labels)),
        ticks_run=int(found.stop_time.sum()),
        synops=int(full.spent[_places(full, found)].sum()) if full.counted else None,
        picojoule=None if table is None else _picojoule(full, found, table),
    )


def _places(full: Recorded, found: Replayed) -> tuple[np.ndarray, np.ndarray]:
    """Where the cumulative counts stand at every sample's end: at the question that stopped it, or behind the last."""
    cut = found.stop_reason != int(StopReason.HORIZON)
    return np.arange(len(full)), np.where(cut, found.stop_time - 1, full.ticks)


def _picojoule(full: Recorded, found: Replayed, table: energy.Table) -> float:
    counts = dict(zip(energy.BY_TICK, full.done[_places(full, found)].sum(0).tolist(), strict=True))
    counts["mac_input"] = full.macs_input * len(full)
    dynamic = math.fsum(counts[operation] * price.value for operation, price in table.prices.items())
    if table.static is None or full.tick_seconds is None:
        return dynamic
    return dynamic + table.static.value * (int(found.stop_time.sum()) * full.tick_seconds) * 1e12


def sweep(
    source: Source,
    *,
    calibration: Source | TopKGap | ConformalSet | None = None,
    table: str | Path | energy.Table | None = None,
    families: Iterable[str] | None = None,
    points: int = 64,
    scale: float = 1.0,
    method: str = "exact",
    bonferroni: bool = False,
) -> list[Point]:
    """Every policy that fits, over its range of thresholds, on one recorded full run: accuracy against what it cost.

    calibration: other recorded runs of the same network, on which Top-K and conformal cutoffs are calibrated for each
    of EPSILONS; or one calibrated policy. Without it, they have no calibrated line. table: an energy table by name,
    path or `Table`. families: some of FAMILIES; default all that fit the readout (a budget only where SynOps were
    counted). points: thresholds of a family at most, taken from the values that occurred. scale: of the softmax.
    method, bonferroni: as in `calibrate`.

    Raises ValueError naming what does not fit: see `recorded`; a model has no prices of its own.
    """
    full = recorded(source)
    prices = _table(table)
    asked = [
        *_candidates(full, points, scale),
        *([] if calibration is None else _calibrated(full, calibration, scale, method, bonferroni)),
        ("oracle", None, Oracle()),
    ]
    wanted = _families(families)
    found = [evaluate(full, policy, family, at, prices) for family, at, policy in asked if family in wanted]
    return sorted(found, key=lambda p: (list(FAMILIES).index(p.family), p.threshold is not None and p.threshold))


Candidate = tuple[str, float | None, Policy]


def _candidates(full: Recorded, points: int, scale: float) -> list[Candidate]:
    """Policies that need no calibration, by family, with thresholds that cut the samples evenly."""
    if points < 2:
        raise ValueError(f"points is {points}, wanted 2 or more thresholds of a family")
    counts = full.trace.readout == "spikes"
    on = "counts" if counts else "logits"

    def seen(policy: Policy) -> np.ndarray:
        # The last tick ends every sample, so its values decide nothing.
        return full.replays.evidence(policy)[:, : max(1, full.ticks - 1)]

    made: list[tuple[str, np.ndarray, Callable[[float], Policy]]] = [
        ("fixed", np.unique(np.linspace(1, full.ticks, min(points, full.ticks)).astype(int)), lambda x: Fixed(int(x))),
        ("confidence", seen(Confidence(1.0, scale, on)), lambda x: Confidence(min(x, 1.0), scale, on)),
        ("entropy", seen(Entropy(0.0, scale, on)), lambda x: Entropy(min(max(x, 0.0), 1.0), scale, on)),
        ("conformal", seen(ConformalSet(0.0, 1, scale, on)), lambda x: ConformalSet(x, 1, scale, on)),
    ]
    if full.counted:
        made.append(("budget", full.spent[:, : max(1, full.ticks - 1)], lambda x: Budget(max(x, 1.0))))
    if counts:
        most = max(1, int(seen(SpikeGap(1)).max()))
        made.append(("spike-gap", np.arange(1, most + 1), lambda x: SpikeGap(int(x))))
    else:
        made.append(("topk", np.append(seen(TopKGap(0.0, on)), 0.0), lambda x: TopKGap(x, on)))
    if full.trace.readout == "potential":
        made.append(("first-crossing", seen(FirstCrossing(0.0)), FirstCrossing))
    found: list[Candidate] = [("first-spike", None, FirstSpike())] if counts else []
    for family, values, make in made:
        found += [(family, float(x), make(float(x))) for x in _levels(values, points)]
    return found


def _levels(values: np.ndarray, points: int) -> np.ndarray:
    """At most so many of the values, evenly spread over their ranks, the smallest and the largest among them."""
    distinct = np.unique(values)
    if len(distinct) <= points:
        return distinct
    return np.unique(np.quantile(values, np.linspace(0, 1, points), method="inverted_cdf"))


def _calibrated(full: Recorded, calibration: Any, scale: float, method: str, bonferroni: bool) -> list[Candidate]:
    if isinstance(calibration, str | Path) and str(calibration).endswith(".json"):
        calibration = read_policy(calibration)
    if isinstance(calibration, TopKGap | ConformalSet):
        known = calibration.calibrated
        if known is not None and (full.foreign or full.network is not None):
            delay = known.layer_delay if full.foreign else full.layer_delay
            known.check(full.network, full.trace.readout, full.ticks, delay)
        kind = "topk" if isinstance(calibration, TopKGap) else "conformal"
        return [(f"{kind}-calibrated", None if known is None else known.epsilon, calibration)]
    base = recorded(calibration)
    _check_alike(base, full)
    on = "counts" if full.trace.readout == "spikes" else "logits"
    scores = nonconformity_of(base.trace, scale)
    found: list[Candidate] = []
    for epsilon in EPSILONS:
        beta = calibrate_topk(base.trace, epsilon, method).tolist()
        found.append(("topk-calibrated", epsilon, TopKGap(tuple(beta), on)))
        score = calibrate_conformal(base.trace, epsilon, bonferroni, nonconformity=scores).tolist()
        found.append(("conformal-calibrated", epsilon, ConformalSet(tuple(score), 1, scale, on)))
    return found


def _check_alike(base: Recorded, full: Recorded) -> None:
    """Refuse to carry thresholds from one network, readout or run length to another."""
    for what, one, other in (
        ("network", base.network, full.network),
        ("readout", base.trace.readout, full.trace.readout),
        ("layer delay", *(None if r.foreign else r.layer_delay for r in (base, full))),
    ):
        if one is not None and other is not None and one != other:
            words = (str(one)[:12], str(other)[:12])
            raise ValueError(f"{base.name} is of {what} {words[0]}, but {full.name} is of {words[1]}; wanted the same")
    if full.ticks > base.ticks:
        raise ValueError(f"{base.name} ran {base.ticks} ticks, but {full.name} ran {full.ticks}; wanted as many")


def _families(families: Iterable[str] | None) -> set[str]:
    wanted = set(FAMILIES if families is None else families)
    unknown = sorted(wanted - {*FAMILIES})
    if unknown:
        raise ValueError(f"there is no family {unknown[0]!r}; there are {', '.join(FAMILIES)}")
    return wanted


def _table(table: str | Path | energy.Table | None) -> energy.Table | None:
    if table is not None and not isinstance(table, energy.Table) and str(table) in energy.MODELS:
        raise ValueError(f"{table} is a model of whole runs; a sweep needs a table with a price for each operation")
    return table if table is None or isinstance(table, energy.Table) else energy.load_table(table)


class Curve(NamedTuple):
    """One family of cutoffs on one of several models.

    name: of the model. readout: what its outputs are (`watchdog.Trace`). full: its run to the horizon. points: in the
    order of their ticks.
    """

    name: str
    readout: str
    family: str
    full: Point
    points: tuple[Point, ...]

    def earliest(self, axis: str = "ticks", lose: float = 0.5) -> Point | None:
        """The cheapest point that loses at most so many percentage points of the full run's accuracy; None: none."""
        good = [p for p in self.points if p.correct >= self.full.correct - lose / 100 * p.samples]
        return min(good, key=lambda p: (p.cost(axis), -p.correct), default=None)


def curves(
    sources: Mapping[str, Source],
    family: str | None = None,
    *,
    table: str | Path | energy.Table | None = None,
    points: int = 64,
    scale: float = 1.0,
) -> list[Curve]:
    """Several models on the same samples, each with one family of cutoffs, to be drawn in one figure.

    sources: what `recorded` takes, by the names they are to have. family: one of FAMILIES that needs no calibration;
    default the one of FAMILY_OF the readout. table, points, scale: as in `sweep`. Raises ValueError where samples or
    labels differ, where a family does not fit, and as `sweep` does.
    """
    _families(None if family is None else [family])
    if family is not None and family.endswith("-calibrated"):
        raise ValueError(f"the family {family} is calibrated, which is done of one model; choose another family")
    prices = _table(table)
    found: list[Curve] = []
    first: Recorded | None = None
    for name, source in sources.items():
        full = recorded(source)
        first = first or full
        _check_samples(first, full)
        own = family or FAMILY_OF[full.trace.readout]
        made = sweep(full, table=prices, families=[own], points=points, scale=scale)
        if not made:
            why = "its SynOps were not counted" if own == "budget" else f"its readout is {full.trace.readout}"
            raise ValueError(f"the family {own} does not fit {full.name}: {why}")
        made.sort(key=lambda p: (p.ticks_run, p.correct))
        end = evaluate(full, Fixed(), "fixed", full.ticks, prices)
        found.append(Curve(name, full.trace.readout, own, end, tuple(made)))
    return found


def _check_samples(first: Recorded, other: Recorded) -> None:
    """Refuse to compare models that were not shown the same, as far as labels tell."""
    one, two = first.trace.labels, other.trace.labels
    assert one is not None
    assert two is not None
    if len(one) != len(two):
        raise ValueError(
            f"{other.name} has {len(two):,} samples, but {first.name} has {len(one):,}; wanted the same samples"
        )
    differing = np.flatnonzero(one != two)
    if differing.size:
        n = differing[0]
        raise ValueError(
            f"sample {n} of {other.name} has the label {two[n]}, but of {first.name} {one[n]}; wanted the same samples"
        )


def overlapping(source: Recorded, calibration: Any) -> tuple[int, int] | None:
    """(samples of `source` that stand among the calibration samples, calibration samples); None if not known."""
    if isinstance(calibration, TopKGap | ConformalSet):
        others = None if calibration.calibrated is None else calibration.calibrated.digests
    else:
        others = recorded(calibration).digests
    if others is None or source.digests is None:
        return None
    return overlap(source.digests, others), len(others)


# ------------------------------------------------------------------------------------------------------------- search


class Chosen(NamedTuple):
    """A policy chosen on calibration samples, and what it does on others."""

    calibration: Point
    held_out: Point


@dataclass(frozen=True)
class Search:
    """What `cheapest` found. wanted: the accuracy on the calibration samples. cost: what was to be small.

    best: the cheapest of all. families: the cheapest of every family that reaches the accuracy, cheapest first.
    full: the runs to the horizon.
    """

    wanted: float
    cost: str
    best: Chosen
    families: tuple[Chosen, ...]
    full: Chosen


def cheapest(
    calibration: Source,
    held_out: Source,
    *,
    accuracy: float | None = None,
    lose: float | None = None,
    cost: str = "synops",
    points: int = 200,
    scale: float = 1.0,
    method: str = "exact",
    bonferroni: bool = False,
    families: Iterable[str] | None = None,
) -> Search:
    """The cheapest policy that keeps a wanted accuracy on calibration samples, and what it gives on held-out ones.

    accuracy: a fraction, or lose: percentage points below the full run on the calibration samples; one of them. cost:
    "ticks", "synops" or "picojoule:TABLE". All families and thresholds compete, but for the oracle; of equally cheap
    ones the more accurate wins. Its calibration accuracy is the best of many, so it flatters; the held-out one does
    not.

    Raises ValueError when no policy reaches the accuracy, and as `sweep` does.
    """
    base, other = recorded(calibration), recorded(held_out)
    _check_alike(base, other)
    kind, _, name = cost.partition(":")
    if kind not in COSTS or (kind == "picojoule") != bool(name):
        raise ValueError(f"cost is {cost!r}, wanted ticks, synops or picojoule:TABLE")
    if (accuracy is None) == (lose is None):
        raise ValueError("give either the accuracy to keep or the points to lose, not both and not neither")
    for full in (base, other):
        full.check_cost(kind)
    table = _table(name or None)
    end = evaluate(base, Fixed(), "fixed", base.ticks, table)
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy is {accuracy}, wanted a fraction between 0 and 1")
    if lose is not None and not 0 <= lose <= 100:
        raise ValueError(f"lose is {lose}, wanted percentage points between 0 and 100")
    wanted = accuracy if accuracy is not None else end.accuracy - (lose or 0.0) / 100
    options: dict[str, Any] = {"points": points, "scale": scale, "method": method, "bonferroni": bonferroni}
    asked = _families(families) - {*AHEAD} - ({"budget"} if not other.counted else set())
    tried = sweep(base, calibration=base, table=table, families=asked, **options)
    good = [p for p in tried if p.correct >= wanted * p.samples - 1e-6]
    if not good:
        top = max(tried, key=lambda p: p.correct)
        raise ValueError(
            f"no cutoff reaches an accuracy of {wanted:.4g} on {base.name}; the best, {_brief(top.policy)}, has "
            f"{top.accuracy:.4g}"
        )
    good.sort(key=lambda p: (p.cost(kind), -p.correct))
    firsts = list({p.family: p for p in reversed(good)}.values())
    firsts.sort(key=lambda p: (p.cost(kind), -p.correct))
    chosen = tuple(Chosen(p, evaluate(other, p.policy, p.family, p.threshold, table)) for p in firsts)
    whole = Chosen(end, evaluate(other, Fixed(), "fixed", other.ticks, table))
    return Search(wanted, cost, chosen[0], chosen, whole)


def _brief(policy: Policy) -> str:
    text = str(policy)
    return text if len(text) <= 60 else text[:57] + "..."


# ------------------------------------------------------------------------------------------------------------- live


def rerun(
    source: Source,
    policies: Sequence[Policy],
    network: Network,
    inputs: np.ndarray | Events,
    *,
    layout: str | None = None,
    jobs: int = 1,
) -> list[Run]:
    """Live runs of the first samples of a recorded run, each stopped by its policy, shown to be what the replay says.

    inputs: the first samples that were recorded. Stop times, reasons, predictions, ties, outputs up to the stop, and
    every count by operation must agree. Raises RuntimeError naming the first that does not, ValueError when inputs or
    network are not those that were recorded.
    """
    full = recorded(source)
    if full.foreign:
        raise ValueError(f"{full.name} does not say what was run; a live run needs the recorded run itself")
    if not 1 <= len(inputs) <= len(full):
        raise ValueError(f"there are {len(inputs)} inputs, but {full.name} holds {len(full)} samples")
    full = full.take(np.arange(len(inputs)))
    found = []
    for policy in policies:
        run = simulate(
            network,
            inputs,
            full.trace.labels,
            ticks=full.ticks,
            watchdog=policy,
            dtype=full.dtype,
            seed=full.seed,
            layer_delay=full.layer_delay,
            layout=layout,
            jobs=jobs,
        )
        if full.digests is not None and not np.array_equal(run.digests, full.digests):
            raise ValueError(f"the inputs are not the first samples of {full.name}")
        _compare(full, run, full.replays(policy))
        found.append(run)
    return found


class Decision(NamedTuple):
    """One threshold of a time-to-decision curve; fractions and means are of all samples.

    theta: threshold of `FirstCrossing`. accuracy: fraction right; a sample that never gets there answers at the
    horizon. mean_stop: ticks, or seconds in continuous time. mean_synops: delivered. decided: fraction that got there.
    """

    theta: float
    accuracy: float
    mean_stop: float
    mean_synops: float
    decided: float


def decision_curve(
    network: Network,
    inputs: np.ndarray | Events,
    labels: np.ndarray,
    thetas: Iterable[float],
    *,
    mode: str = "sync",
    **options: Any,
) -> list[Decision]:
    """Accuracy and cost of deciding at the first crossing of each threshold (Rank Coding, Jeffares et al. 2022).

    Every threshold is a live run in either mode: in continuous time outputs cross between the instants that a recorded
    run knows. thetas: thresholds of `FirstCrossing`, kept in their order. options: of `simulate`, such as ticks,
    duration, dtype or jobs. Of a recorded run in ticks, `sweep` has the same points as its family "first-crossing".

    Raises ValueError without samples, for an output that is no potential, and as `simulate` does.
    """
    if not len(labels):
        raise ValueError("there are no samples to decide about")
    found = []
    for theta in thetas:
        run = simulate(network, inputs, labels, mode=mode, watchdog=FirstCrossing(theta), **options)
        found.append(
            Decision(
                theta=float(theta),
                accuracy=float(np.mean(run.predictions == run.labels)),
                mean_stop=float(run.stop_time.mean()),
                mean_synops=float(run.ledger.synops().mean()),
                decided=float(np.mean(run.stop_reason == int(StopReason.FIRST_CROSSING))),
            )
        )
    return found


def _compare(full: Recorded, run: Run, said: Replayed) -> None:
    def same(what: str, live: np.ndarray, replayed: np.ndarray) -> None:
        if not np.array_equal(live, replayed):
            where = np.argwhere(live != replayed)[0]
            raise RuntimeError(
                f"live and replay differ with cutoff {_brief(run.policy)} in {what} of sample {where[0]}: "
                f"{live[tuple(where)]} live, {replayed[tuple(where)]} replayed"
            )

    same("the stop time", run.stop_time, said.stop_time)
    same("the stop reason", run.stop_reason, said.stop_reason)
    same("the prediction", run.predictions, said.predictions)
    same("the tie", run.tied, said.tied)
    ran = np.arange(full.ticks) < said.stop_time[:, None]
    same("the outputs", run.outputs[ran], full.trace.outputs[ran])
    places = _places(full, said)
    same("the SynOps", run.ledger.synops(), full.spent[places])
    if full.counts is not None:
        counted = energy.sample_counts(run.ledger)
        live = np.stack([counted[operation] for operation in energy.BY_TICK], axis=1)
        same("the operations", live, full.done[places])
