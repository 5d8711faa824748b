"""When to stop: cutoff policies as small frozen objects, and why a run ended.

A policy is asked once per tick, after the output population's turn, by the compiled function that a replay asks too
(`kernels_sync.should_stop`), so a recorded full run answers for every policy what a live run would have done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

from eventsnn.network import Network


class StopReason(IntEnum):
    """Why a sample ended; `sentence` says it in words."""

    HORIZON = 0
    SPIKE_GAP = 1
    TOPK = 2
    CONFIDENCE = 3
    ENTROPY = 4
    FIRST_SPIKE = 5
    BUDGET = 6

    @property
    def sentence(self) -> str:
        """The reason as a sentence for people."""
        return _SENTENCES[self]


_SENTENCES = {
    StopReason.HORIZON: "The run reached its horizon.",
    StopReason.SPIKE_GAP: "The leading class was far enough ahead in output spikes.",
    StopReason.TOPK: "The gap between the two largest outputs exceeded its threshold.",
    StopReason.CONFIDENCE: "The largest softmax probability exceeded its threshold.",
    StopReason.ENTROPY: "The normalised entropy of the outputs fell below its threshold.",
    StopReason.FIRST_SPIKE: "An output neuron fired.",
    StopReason.BUDGET: "The budget of synaptic operations was spent.",
}


@dataclass(frozen=True)
class Fixed:
    """Run to the horizon."""

    reason = StopReason.HORIZON
    reads = "nothing"

    def thresholds(self, ticks: int) -> np.ndarray:
        """No threshold."""
        return np.zeros(ticks)

    def __str__(self) -> str:
        return "fixed"


@dataclass(frozen=True)
class SpikeGap:
    """Stop when the leading output neuron has fired at least `gap` times more often than the second."""

    gap: int
    reason = StopReason.SPIKE_GAP
    reads = "counts"

    def __post_init__(self) -> None:
        if isinstance(self.gap, bool) or int(self.gap) != self.gap or self.gap < 1:
            raise ValueError(f"spike-gap is {self.gap}, wanted a whole number of spikes, 1 or more")

    def thresholds(self, ticks: int) -> np.ndarray:
        """The gap, for every tick."""
        return np.full(ticks, float(self.gap))

    def __str__(self) -> str:
        return f"spike-gap:{int(self.gap)}"


@dataclass(frozen=True)
class TopKGap:
    """Stop when the largest output exceeds the second by more than beta (Wu et al. 2023, Top-K cutoff).

    beta: one number, or one per tick. on: "logits" (a summed readout) or "counts" (output spikes).
    """

    beta: float | tuple[float, ...]
    on: str = "logits"
    reason = StopReason.TOPK

    def __post_init__(self) -> None:
        if np.ndim(self.beta):
            object.__setattr__(self, "beta", tuple(float(b) for b in np.asarray(self.beta)))
        if np.any(np.isnan(np.asarray(self.beta, float))) or np.size(self.beta) == 0:
            raise ValueError(f"topk: beta is {self.beta}, wanted a number or one number per tick")
        _check_on("topk", self.on)

    @property
    def reads(self) -> str:
        """What the policy looks at."""
        return self.on

    def thresholds(self, ticks: int) -> np.ndarray:
        """Beta for every tick; raises ValueError when there are fewer than ticks."""
        beta = np.asarray(self.beta, float)
        if beta.ndim and len(beta) < ticks:
            raise ValueError(f"topk: {len(beta)} values of beta for {ticks} ticks; give one per tick or one for all")
        return np.broadcast_to(beta, ticks).copy() if not beta.ndim else beta[:ticks].copy()

    def __str__(self) -> str:
        beta = np.atleast_1d(np.asarray(self.beta, float))
        return f"topk:{'/'.join(f'{b:g}' for b in beta)}" + ("" if self.on == "logits" else f",on={self.on}")


@dataclass(frozen=True)
class Confidence:
    """Stop when the largest softmax(output / scale) exceeds p (SEENN-I, Li et al. 2023)."""

    p: float
    scale: float = 1.0
    on: str = "logits"
    reason = StopReason.CONFIDENCE

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise ValueError(f"confidence is {self.p}, wanted a probability above 0 and at most 1")
        _check_scale("confidence", self.scale)
        _check_on("confidence", self.on)

    @property
    def reads(self) -> str:
        """What the policy looks at."""
        return self.on

    def thresholds(self, ticks: int) -> np.ndarray:
        """p, for every tick."""
        return np.full(ticks, self.p)

    def __str__(self) -> str:
        return f"confidence:{self.p:g}{_options(self)}"


@dataclass(frozen=True)
class Entropy:
    """Stop when the entropy of softmax(output / scale) over log(classes) is below h (DT-SNN, Li et al. 2023)."""

    h: float
    scale: float = 1.0
    on: str = "logits"
    reason = StopReason.ENTROPY

    def __post_init__(self) -> None:
        if not 0 <= self.h <= 1:
            raise ValueError(f"entropy is {self.h}, wanted a normalised entropy between 0 and 1")
        _check_scale("entropy", self.scale)
        _check_on("entropy", self.on)

    @property
    def reads(self) -> str:
        """What the policy looks at."""
        return self.on

    def thresholds(self, ticks: int) -> np.ndarray:
        """h, for every tick."""
        return np.full(ticks, self.h)

    def __str__(self) -> str:
        return f"entropy:{self.h:g}{_options(self)}"


@dataclass(frozen=True)
class FirstSpike:
    """Stop at the end of the tick in which an output neuron first fires (time-to-first-spike decision)."""

    reason = StopReason.FIRST_SPIKE
    reads = "counts"

    def thresholds(self, ticks: int) -> np.ndarray:
        """No threshold."""
        return np.zeros(ticks)

    def __str__(self) -> str:
        return "first-spike"


@dataclass(frozen=True)
class Budget:
    """Stop when the delivered synaptic operations (classes ac and mac) have reached `synops`."""

    synops: float
    reason = StopReason.BUDGET
    reads = "nothing"

    def __post_init__(self) -> None:
        if not self.synops > 0:
            raise ValueError(f"budget is {self.synops}, wanted a positive number of synaptic operations")

    def thresholds(self, ticks: int) -> np.ndarray:
        """The budget, for every tick."""
        return np.full(ticks, float(self.synops))

    def __str__(self) -> str:
        return f"budget:{self.synops:g}"


Policy = Fixed | SpikeGap | TopKGap | Confidence | Entropy | FirstSpike | Budget


@dataclass(frozen=True, eq=False)
class Trace:
    """What a policy can see of recorded runs.

    outputs: (samples, ticks, classes) summed logits or spike counts, NaN past the stop. margins: same shape, membrane
    minus threshold of spiking outputs (breaks prediction ties), or (samples, ticks, 0). synops: (samples, ticks) int64
    delivered per tick, (samples, 0) where they were not counted. stop_time: (samples,) ticks run. readout: "sum" or
    "spikes". labels: (samples,) or None.
    """

    outputs: np.ndarray
    margins: np.ndarray
    synops: np.ndarray
    stop_time: np.ndarray
    readout: str
    labels: np.ndarray | None = field(default=None)


def check_policy(policy: Policy, readout: str, classes: int) -> None:
    """Refuse, in a sentence, a policy that does not fit what the output gives."""
    if policy.reads == "counts" and readout != "spikes":
        raise ValueError(
            f"cutoff {policy} reads output spikes, but this network's output sums logits; "
            "choose topk, confidence, entropy or budget, or convert with --readout spikes"
        )
    if policy.reads == "logits" and readout != "sum":
        raise ValueError(
            f"cutoff {policy} reads summed logits, but this network's output neurons spike; "
            f"choose spike-gap or first-spike, or read the counts with {policy},on=counts"
        )
    if isinstance(policy, SpikeGap | TopKGap | Confidence | Entropy) and classes < 2:
        raise ValueError(f"cutoff {policy} compares classes, but the output has {classes} unit")


def parse_policy(text: str) -> Policy:
    """A policy from its text, such as `fixed`, `spike-gap:3`, `topk:1.5`, `confidence:0.9,scale=8` or `budget:2e6`.

    Several betas, one per tick, are written `topk:2.0/1.5/1.0`. Raises ValueError naming what was wrong.
    """
    name, _, rest = text.strip().partition(":")
    value, *pairs = rest.split(",")
    options: dict[str, Any] = {}
    for pair in pairs:
        key, found, setting = pair.partition("=")
        if not found or key not in ("scale", "on"):
            raise ValueError(f"cutoff {text!r}: {pair!r} is not an option; there are scale=NUMBER and on=counts")
        options[key] = _number(text, setting) if key == "scale" else setting
    plain: dict[str, Any] = {"fixed": Fixed, "first-spike": FirstSpike}
    if name in plain:
        if rest:
            raise ValueError(f"cutoff {text!r}: {name} takes no value")
        return plain[name]()
    makers: dict[str, Any] = {
        "spike-gap": SpikeGap,
        "topk": TopKGap,
        "confidence": Confidence,
        "entropy": Entropy,
        "budget": Budget,
    }
    if name not in makers:
        raise ValueError(
            f"unknown cutoff {text!r}; choose one of {', '.join([*plain, *(f'{m}:VALUE' for m in makers)])}"
        )
    if not value:
        raise ValueError(f"cutoff {text!r} needs a value, as in {name}:{'3' if name == 'spike-gap' else '0.9'}")
    number: Any = tuple(_number(text, part) for part in value.split("/")) if "/" in value else _number(text, value)
    try:
        if name == "spike-gap":
            whole = int(number)
            if whole != number:
                raise ValueError(f"spike-gap is {number:g}, wanted a whole number of spikes, 1 or more")
            number = whole
        return makers[name](number, **options)
    except TypeError:
        raise ValueError(f"cutoff {text!r}: {name} does not take these options") from None


def default_policy(network: Network) -> Policy:
    """The network's own cutoff, else `Fixed`."""
    return parse_policy(network.cutoff) if network.cutoff else Fixed()


def _number(text: str, part: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise ValueError(f"cutoff {text!r}: {part!r} is not a number") from None


def _check_on(name: str, on: str) -> None:
    if on not in ("logits", "counts"):
        raise ValueError(f"{name}: on is {on!r}, wanted 'logits' or 'counts'")


def _check_scale(name: str, scale: float) -> None:
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"{name}: scale is {scale}, wanted a positive number")


def _options(policy: Confidence | Entropy) -> str:
    scale = "" if policy.scale == 1 else f",scale={policy.scale:g}"
    return scale + ("" if policy.on == "logits" else f",on={policy.on}")
