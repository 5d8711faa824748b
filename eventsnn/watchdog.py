"""When to stop: cutoff policies as small frozen objects, and why a run ended.

A policy is asked once per tick, after the output population's turn, by the compiled function that a replay asks too
(`kernels_sync.should_stop`), so a recorded full run answers for every policy what a live run would have done.

Policies have a text (`parse_policy`, `str`) that gives every number back exactly. What was calibrated on samples is
kept in a file (`read_policy`), which also says for which network it holds and on which samples it must not be judged.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from eventsnn.inputs import DIGEST_BYTES
from eventsnn.network import Network

POLICY_SCHEMA = 1  # of policy files


class StopReason(IntEnum):
    """Why a sample ended; `sentence` says it in words."""

    HORIZON = 0
    SPIKE_GAP = 1
    TOPK = 2
    CONFIDENCE = 3
    ENTROPY = 4
    FIRST_SPIKE = 5
    BUDGET = 6
    CONFORMAL = 7
    ORACLE = 8
    TICKS = 9
    FIRST_CROSSING = 10

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
    StopReason.CONFORMAL: "The conformal set held few enough classes.",
    StopReason.ORACLE: "The answer was right and stayed right, as the labels tell.",
    StopReason.TICKS: "The ticks of its cutoff were over.",
    StopReason.FIRST_CROSSING: "An output reached its threshold.",
}


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a calibrated policy rests on, from its file.

    file: name of the policy file. method, epsilon: how it was calibrated. network: sha256 (`store.network_hash`).
    None where only the outputs of another model are known (`Trace`). readout, ticks, layer_delay: of the runs it was
    calibrated on. digests: (samples, 6) uint8 of the inputs (`inputs.sample_digests`), zeros where they are not known.
    """

    file: str
    method: str
    epsilon: float
    network: str | None
    readout: str
    ticks: int
    layer_delay: int
    digests: np.ndarray

    def check(self, network: str | None, readout: str, ticks: int, layer_delay: int = 0) -> None:
        """Refuse, in a sentence, a run of another network, readout or layer delay, or of more ticks.

        network: None of a model of which only the outputs are known.
        """
        if self.network is None and network is not None:
            raise ValueError(
                f"{self.file} was calibrated on the outputs of another model, but this is the network "
                f"{network[:12]}...; calibrate this network"
            )
        if self.network is not None and network is not None and network != self.network:
            raise ValueError(
                f"{self.file} was calibrated for the network {self.network[:12]}..., but this one is "
                f"{network[:12]}...; calibrate this network"
            )
        if readout != self.readout:
            raise ValueError(
                f"{self.file} was calibrated for the readout {self.readout!r}, but this one is {readout!r}"
            )
        if ticks > self.ticks:
            raise ValueError(f"{self.file} was calibrated over {self.ticks} ticks; a run of {ticks} needs more of them")
        if layer_delay != self.layer_delay:
            raise ValueError(
                f"{self.file} was calibrated with a layer delay of {self.layer_delay}, but this run has {layer_delay}"
            )

    def overlap(self, digests: np.ndarray) -> int:
        """How many of these samples, (N, 6) uint8, the policy was calibrated on."""
        return overlap(digests, self.digests)


def overlap(digests: np.ndarray, others: np.ndarray) -> int:
    """How many rows of `digests`, (N, 6) uint8, stand among the rows of `others`."""
    return int(np.isin(_rows(digests), _rows(others)).sum())


def _rows(digests: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(digests, np.uint8).reshape(-1, DIGEST_BYTES).view(f"V{DIGEST_BYTES}")[:, 0]


@dataclass(frozen=True)
class Fixed:
    """Run to the horizon, or stop after a number of ticks, whatever the outputs."""

    ticks: int | None = None
    reads = "nothing"

    def __post_init__(self) -> None:
        if self.ticks is not None:
            object.__setattr__(self, "ticks", _whole("fixed", self.ticks, "ticks"))

    @property
    def reason(self) -> StopReason:
        """The horizon, or the ticks."""
        return StopReason.HORIZON if self.ticks is None else StopReason.TICKS

    def thresholds(self, ticks: int) -> np.ndarray:
        """1 from the tick that it stops in, 0 before."""
        return (np.arange(ticks) >= (ticks if self.ticks is None else self.ticks - 1)).astype(float)

    def __str__(self) -> str:
        return "fixed" if self.ticks is None else f"fixed:{self.ticks}"


@dataclass(frozen=True)
class SpikeGap:
    """Stop when the leading output neuron has fired at least `gap` times more often than the second."""

    gap: int
    reason = StopReason.SPIKE_GAP
    reads = "counts"

    def __post_init__(self) -> None:
        object.__setattr__(self, "gap", _whole("spike-gap", self.gap, "spikes"))

    def thresholds(self, ticks: int) -> np.ndarray:
        """The gap, for every tick."""
        return np.full(ticks, float(self.gap))

    def __str__(self) -> str:
        return f"spike-gap:{int(self.gap)}"


@dataclass(frozen=True)
class TopKGap:
    """Stop when the largest output exceeds the second by more than beta (Wu et al. 2023, Top-K cutoff).

    beta: one number, or one per tick; infinity never stops. on: "logits" (a summed readout) or "counts" (output
    spikes). calibrated: what it rests on, when it comes from a file.
    """

    beta: float | tuple[float, ...]
    on: str = "logits"
    calibrated: Calibration | None = field(default=None, compare=False, repr=False)
    reason = StopReason.TOPK

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", _by_tick("topk", "beta", self.beta))
        _check_on("topk", self.on)

    @property
    def reads(self) -> str:
        """What the policy looks at."""
        return self.on

    def thresholds(self, ticks: int) -> np.ndarray:
        """Beta for every tick; raises ValueError when there are fewer than ticks."""
        return _spread("topk", "beta", self.beta, ticks)

    def __str__(self) -> str:
        return f"topk:{_joined(self.beta)}{_options(self)}"


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
        return f"confidence:{_exact(self.p)}{_options(self)}"


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
        return f"entropy:{_exact(self.h)}{_options(self)}"


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
class FirstCrossing:
    """Stop when an output potential first reaches theta (Rank Coding, Jeffares et al. 2022).

    It reads instantaneous outputs, the potentials of an `LI` or `CubaLI`; the class is that of the largest one then.
    The authors' sigmoid above 0.95 is a logit above log(0.95 / 0.05) = 2.944; an `LI` with alpha 0 and their weights
    gives their logits. In continuous time the crossing is met where it happens, also between events, so a recorded run
    can be replayed only where outputs cannot get to theta by themselves (`Answers.reach`).
    """

    theta: float
    reason = StopReason.FIRST_CROSSING
    reads = "potentials"

    def __post_init__(self) -> None:
        if not np.isfinite(self.theta):
            raise ValueError(f"first-crossing: theta is {self.theta}, wanted a finite number")

    def thresholds(self, ticks: int) -> np.ndarray:
        """theta, for every tick."""
        return np.full(ticks, float(self.theta))

    def __str__(self) -> str:
        return f"first-crossing:{_exact(self.theta)}"


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
        return f"budget:{_exact(self.synops)}"


@dataclass(frozen=True)
class ConformalSet:
    """Stop when at most `size` classes c have -log(softmax(output / scale)[c] + 1e-5) below the tick's score.

    SpikeCP (Chen et al. 2023, arXiv 2305.11322), with the score of the authors' code; an empty set stops too. scores:
    one number, or one per tick; infinity never stops. on: "logits" or "counts". calibrated: what it rests on, when it
    comes from a file.
    """

    scores: float | tuple[float, ...]
    size: int = 1
    scale: float = 1.0
    on: str = "logits"
    calibrated: Calibration | None = field(default=None, compare=False, repr=False)
    reason = StopReason.CONFORMAL

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", _by_tick("conformal", "scores", self.scores))
        object.__setattr__(self, "size", _whole("conformal: size", self.size, "classes"))
        _check_scale("conformal", self.scale)
        _check_on("conformal", self.on)

    @property
    def reads(self) -> str:
        """What the policy looks at."""
        return self.on

    def thresholds(self, ticks: int) -> np.ndarray:
        """The score of every tick; raises ValueError when there are fewer than ticks."""
        return _spread("conformal", "scores", self.scores, ticks)

    def __str__(self) -> str:
        return f"conformal:{_joined(self.scores)}{_options(self)}"


@dataclass(frozen=True)
class Oracle:
    """Stop at the optimal cutoff timestep (OCT): the first tick from which the answer is right and stays right.

    Wu et al., as their code has it: correctness from each tick on to the last; samples that never get there run to the
    horizon. It needs labels and a recorded full run, so it can be replayed but not run.
    """

    reason = StopReason.ORACLE
    reads = "nothing"

    def thresholds(self, ticks: int) -> np.ndarray:
        """No threshold."""
        return np.zeros(ticks)

    def __str__(self) -> str:
        return "oracle"


Policy = Fixed | SpikeGap | TopKGap | Confidence | Entropy | FirstSpike | FirstCrossing | Budget | ConformalSet | Oracle


@dataclass(frozen=True, eq=False)
class Answers:
    """What the watchdog was shown in continuous time: M instants in which the output changed, sample after sample.

    offsets: (samples + 1,). time: (M,) seconds. bin: (M,) int64 tick that this instant lies in. synops: (M,) int64
    delivered so far. outputs, margins: (M, classes) as in `Trace`. end: (samples,) seconds, of the run. reach:
    (classes,) the most that each output can come to between these instants, where nothing reaches it; infinity where
    that is not known.
    """

    offsets: np.ndarray
    time: np.ndarray
    bin: np.ndarray
    synops: np.ndarray
    outputs: np.ndarray
    margins: np.ndarray
    end: np.ndarray
    reach: np.ndarray


READOUTS = ("sum", "potential", "spikes")


@dataclass(frozen=True, eq=False)
class Trace:
    """What a policy can see of recorded runs, of this simulator or of any other model: `Trace(outputs, labels)`.

    outputs: (samples, ticks, classes) logits, potentials or spike counts, NaN past the stop; float32 and float64 stay
    what they are, other numbers become float64. labels: (samples,) classes, or None. margins: same shape as outputs,
    membrane minus threshold of spiking outputs (breaks prediction ties), or (samples, ticks, 0). synops: (samples,
    ticks) int64 delivered per tick, or (samples, 0), not counted. stop_time: (samples,) ticks run, by default all.
    readout: what the outputs are, see below. asked: (samples, ticks) SynOps delivered from one question of the watchdog
    to the next, where that is not `synops` because populations behind the output go on after the question; else None.
    answers: of runs in continuous time, whose watchdog is asked in instants, not in ticks.

    The readout (`Network.readout`) says which policies fit, and what another model's outputs are to be:

    - "sum": each tick's outputs are the sum of those of all ticks so far, as Wu et al. have it (`outputs.cumsum(1)`);
    - "potential": the outputs of this instant, as those of Rank Coding and of an LSTM; `FirstCrossing` reads them;
    - "spikes": the output spikes of each class so far, counted.

    A binary model with a single output p has two mirrored logits (-z, z) with z = log(p / (1 - p)), so that p > 0.95
    is a crossing of log(0.95 / 0.05), and p < 0.05 one of the other class.

    Raises ValueError for arrays that do not fit each other, labels that are no classes, and stops outside the ticks.
    """

    outputs: np.ndarray
    labels: np.ndarray | None = None
    margins: np.ndarray = None  # type: ignore[assignment]  # here and below, None becomes an array
    synops: np.ndarray = None  # type: ignore[assignment]
    stop_time: np.ndarray = None  # type: ignore[assignment]
    readout: str = "sum"
    asked: np.ndarray | None = None
    answers: Answers | None = None

    def __post_init__(self) -> None:
        outputs = _floats("outputs", self.outputs)
        if outputs.ndim != 3 or not all(outputs.shape[1:]):
            raise ValueError(f"outputs have shape {outputs.shape}, wanted (samples, ticks, classes)")
        n, ticks, classes = outputs.shape
        if self.readout not in READOUTS:
            raise ValueError(f"readout is {self.readout!r}, wanted {', '.join(READOUTS[:-1])} or {READOUTS[-1]}")

        def put(name: str, array: Any, *shapes: tuple[int, ...]) -> None:
            if array.shape not in shapes:
                raise ValueError(f"{_have(name)} shape {array.shape}, wanted {' or '.join(map(str, shapes))}")
            object.__setattr__(self, name, array)

        put("outputs", outputs, outputs.shape)
        if self.labels is not None:
            put("labels", _numbers("labels", self.labels, "iu", "whole numbers").astype(np.int64, copy=False), (n,))
            if n and not (self.labels.min() >= 0 and self.labels.max() < classes):
                lowest, highest = self.labels.min(), self.labels.max()
                raise ValueError(f"labels run from {lowest} to {highest}, but the outputs have {classes} classes")
        margins = np.zeros((n, ticks, 0), outputs.dtype) if self.margins is None else _floats("margins", self.margins)
        put("margins", margins, outputs.shape, (n, ticks, 0))
        synops = np.zeros((n, 0), np.int64) if self.synops is None else self.synops
        put("synops", _numbers("synops", synops, "iu", "whole numbers"), (n, ticks), (n, 0))
        stop_time = np.full(n, ticks, np.int64) if self.stop_time is None else self.stop_time
        put("stop_time", _numbers("stop_time", stop_time, "iu", "whole numbers"), (n,))
        if self.asked is not None:
            put("asked", _numbers("asked", self.asked, "iu", "whole numbers"), (n, ticks))
        if n and not (self.stop_time.min() >= 1 and self.stop_time.max() <= ticks):
            raise ValueError(
                f"stop_time runs from {self.stop_time.min()} to {self.stop_time.max()}, wanted ticks from 1 to {ticks}"
            )


def _floats(name: str, given: Any) -> np.ndarray:
    """Numbers as float64, but float32 as it is: a run in float32 is replayed as it ran."""
    array = _numbers(name, given, "fiub", "numbers")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _numbers(name: str, given: Any, kinds: str, wanted: str) -> np.ndarray:
    """The array itself, or one of what was given; refuses dtypes of another kind."""
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors with gradients
        raise ValueError(f"{name} cannot be read as an array ({' '.join(str(error).split())})") from None
    if array.dtype.kind not in kinds:
        raise ValueError(f"{_have(name)} dtype {array.dtype}, wanted {wanted}")
    return array


def _have(name: str) -> str:
    return f"{name} {'have' if name.endswith('s') else 'has'}"


def predictions_by_tick(outputs: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """(samples, ticks) the class that leads at the end of each tick.

    outputs: (samples, ticks, classes). margins: same shape, breaks ties; or (samples, ticks, 0). Then the lowest index.
    """
    if not margins.shape[-1]:
        return outputs.argmax(-1)
    leading = outputs == outputs.max(-1, keepdims=True)
    return np.where(leading, margins, -np.inf).argmax(-1)


def stably_right(trace: Trace) -> np.ndarray:
    """(samples, ticks) bool: the answer is right at the end of this tick and of every later one.

    Wu et al., both in OCT and in the calibration of Top-K. Raises ValueError without labels, or when a sample did not
    run all its ticks: what it would have answered later is not known.
    """
    if trace.labels is None:
        raise ValueError("this needs labels, and the samples have none")
    ticks = trace.outputs.shape[1]
    cut = np.flatnonzero(trace.stop_time < ticks)
    if cut.size:
        raise ValueError(
            f"sample {cut[0]} was stopped after {trace.stop_time[cut[0]]} of {ticks} ticks; "
            "this needs a run with cutoff fixed"
        )
    right = predictions_by_tick(trace.outputs, trace.margins) == trace.labels[:, None]
    return np.logical_and.accumulate(right[:, ::-1], axis=1)[:, ::-1]


def check_policy(policy: Policy, readout: str, classes: int, *, live: bool = True) -> None:
    """Refuse, in a sentence, a policy that does not fit what the output gives. live: for a run, not for a replay."""
    if live and isinstance(policy, Oracle):
        raise ValueError(
            "cutoff oracle knows the labels, so no run can stop by it; it is asked of a recorded full run "
            "(eventsnn sweep, or es.replay)"
        )
    if policy.reads == "counts" and readout != "spikes":
        raise ValueError(
            f"cutoff {policy} reads output spikes, but this network's output "
            f"{'sums logits' if readout == 'sum' else 'is a potential'}; "
            "choose topk, confidence, entropy, conformal or budget, or convert with --readout spikes"
        )
    if policy.reads == "potentials" and readout != "potential":
        raise ValueError(
            f"cutoff {policy} reads the potentials of a leaky output (LI, CubaLI), but this network's output "
            f"{'sums logits; choose topk or confidence' if readout == 'sum' else 'spikes; choose first-spike'}"
        )
    if policy.reads == "logits" and readout == "spikes":
        raise ValueError(
            f"cutoff {policy} reads summed logits, but this network's output neurons spike; "
            f"choose spike-gap or first-spike, or read the counts with {policy},on=counts"
        )
    if isinstance(policy, SpikeGap | TopKGap | Confidence | Entropy | ConformalSet) and classes < 2:
        raise ValueError(f"cutoff {policy} compares classes, but the output has {classes} unit")
    if isinstance(policy, ConformalSet) and policy.size >= classes:
        raise ValueError(f"cutoff {policy} always holds: there are {classes} classes, wanted a smaller size")


def parse_policy(text: str, *, files: bool = True) -> Policy:
    """A policy from its text, such as `fixed`, `spike-gap:3`, `topk:1.5`, `confidence:0.9,scale=8` or `budget:2e6`.

    Several betas, one per tick, are written `topk:2.0/1.5/1.0`; so are the scores of `conformal:2/1.5,size=1`.
    `topk:policy.json` and `conformal:policy.json` take them from a file that `eventsnn calibrate` wrote, unless files
    is False. Raises ValueError naming what was wrong.
    """
    name, _, rest = text.strip().partition(":")
    if name in _KINDS and rest.endswith(".json"):
        if not files:
            raise ValueError(f"cutoff {text!r} names a file; give its thresholds themselves")
        policy = read_policy(rest)
        if not isinstance(policy, _KINDS[name]):
            raise ValueError(f"cutoff {text!r}: {rest} holds a {_kind(policy)} policy; write {_kind(policy)}:{rest}")
        return policy
    value, *pairs = rest.split(",")
    options: dict[str, Any] = {}
    for pair in pairs:
        key, found, setting = pair.partition("=")
        if not found or key not in ("scale", "on", "size"):
            raise ValueError(
                f"cutoff {text!r}: {pair!r} is not an option; there are scale=NUMBER, size=NUMBER and on=counts"
            )
        options[key] = setting if key == "on" else _number(text, setting)
    plain: dict[str, Any] = {"fixed": Fixed, "first-spike": FirstSpike, "oracle": Oracle}
    if name in plain and not rest:
        return plain[name]()
    if name in ("first-spike", "oracle"):
        raise ValueError(f"cutoff {text!r}: {name} takes no value")
    makers: dict[str, Any] = {
        "spike-gap": SpikeGap,
        "topk": TopKGap,
        "confidence": Confidence,
        "entropy": Entropy,
        "budget": Budget,
        "conformal": ConformalSet,
        "first-crossing": FirstCrossing,
    }
    if name not in {**makers, "fixed": Fixed}:
        raise ValueError(
            f"unknown cutoff {text!r}; choose one of {', '.join([*plain, *(f'{m}:VALUE' for m in makers)])}"
        )
    if not value:
        raise ValueError(f"cutoff {text!r} needs a value, as in {name}:{'3' if name == 'spike-gap' else '0.9'}")
    number: Any = _number(text, value) if "/" not in value else ()
    if "/" in value:
        number = tuple(_number(text, part) for part in value.removesuffix("/").split("/"))
    try:
        return {**makers, "fixed": Fixed}[name](number, **options)
    except TypeError:
        raise ValueError(f"cutoff {text!r}: {name} does not take these options") from None


_KINDS: dict[str, type] = {"topk": TopKGap, "conformal": ConformalSet}  # what can be calibrated


def _kind(policy: Policy) -> str:
    return str(policy).partition(":")[0]


# ------------------------------------------------------------------------------------------------- calibrated policies


def policy_content(policy: TopKGap | ConformalSet) -> dict[str, Any]:
    """The JSON object of a policy file: `read_policy` gives the policy back, and what it rests on."""
    known = policy.calibrated
    assert known is not None
    numbers = policy.beta if isinstance(policy, TopKGap) else policy.scores
    options = {} if isinstance(policy, TopKGap) else {"size": policy.size, "scale": float(policy.scale)}
    digests = np.ascontiguousarray(known.digests, np.uint8)
    return {
        "schema": POLICY_SCHEMA,
        "command": "calibrate",
        "policy": {
            "kind": _kind(policy),
            # JSON has no infinity
            "thresholds": [
                float(x) if np.isfinite(x) else _exact(x) for x in np.atleast_1d(np.asarray(numbers, float))
            ],
            "on": policy.on,
            **options,
        },
        "method": known.method,
        "epsilon": known.epsilon,
        "network": {"sha256": known.network},
        "readout": known.readout,
        "ticks": known.ticks,
        "layer_delay": known.layer_delay,
        "calibration": {
            "samples": len(digests),
            "sha256": hashlib.sha256(digests.tobytes()).hexdigest(),
            "digests": base64.b64encode(digests.tobytes()).decode("ascii"),
        },
    }


def read_policy(path: str | Path) -> TopKGap | ConformalSet:
    """A calibrated policy from its file (`eventsnn calibrate`), with what it rests on.

    Raises ValueError, in one sentence, when the file cannot be read, lacks something, or does not fit itself.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"policy file {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"policy file {path} is no JSON: {error}") from None
    try:
        return _policy_of(content, path.name)
    except ValueError as error:
        raise ValueError(f"policy file {path}: {error}") from None


def _policy_of(content: Any, file: str) -> TopKGap | ConformalSet:
    schema = _entry(content, "schema", int)
    if schema != POLICY_SCHEMA:
        raise ValueError(f"schema is {schema}, wanted {POLICY_SCHEMA}; calibrate again with this version")
    said, network, samples = (_entry(content, key, dict) for key in ("policy", "network", "calibration"))
    kind = _entry(said, "kind", str)
    if kind not in _KINDS:
        raise ValueError(f"kind is {kind!r}, wanted {' or '.join(_KINDS)}")
    numbers = []
    for number in _entry(said, "thresholds", list):
        if isinstance(number, bool) or not (isinstance(number, int | float) or number in ("inf", "-inf")):
            raise ValueError(f"a threshold is {number!r}, wanted a number or 'inf'")
        numbers.append(float(number))
    try:
        digests = base64.b64decode(_entry(samples, "digests", str), validate=True)
    except binascii.Error:
        raise ValueError("the digests of the calibration samples are not base64") from None
    count = _entry(samples, "samples", int)
    if len(digests) != DIGEST_BYTES * count or hashlib.sha256(digests).hexdigest() != _entry(samples, "sha256", str):
        raise ValueError("the digests of the calibration samples are damaged; calibrate again")
    options = {} if kind == "topk" else {"size": _entry(said, "size", int), "scale": _entry(said, "scale", float)}
    policy = _KINDS[kind](tuple(numbers), on=_entry(said, "on", str), **options)
    calibrated = Calibration(
        file=file,
        method=_entry(content, "method", str),
        epsilon=_entry(content, "epsilon", float),
        network=None if "sha256" in network and network["sha256"] is None else _entry(network, "sha256", str),
        readout=_entry(content, "readout", str),
        ticks=_entry(content, "ticks", int),
        layer_delay=_entry(content, "layer_delay", int),
        digests=np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES),
    )
    if len(numbers) != calibrated.ticks:
        raise ValueError(f"it has {len(numbers)} thresholds for {calibrated.ticks} ticks")
    return replace(policy, calibrated=calibrated)


def _entry(content: Any, key: str, kind: type) -> Any:
    value = content.get(key) if isinstance(content, Mapping) else None
    wanted = int | float if kind is float else kind
    if isinstance(value, bool) or not isinstance(value, wanted):
        words = {int: "a whole number", float: "a number", str: "text", list: "a list", dict: "an object"}
        raise ValueError(f"{key} is {'missing' if value is None else repr(value)}, wanted {words[kind]}")
    return value


# ------------------------------------------------------------------------------------------------------------- pieces


def default_policy(network: Network) -> Policy:
    """The network's own cutoff, else `Fixed`."""
    # a file that somebody else wrote must not make us open others
    return parse_policy(network.cutoff, files=False) if network.cutoff else Fixed()


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


def _options(policy: TopKGap | Confidence | Entropy | ConformalSet) -> str:
    size, scale = getattr(policy, "size", 1), getattr(policy, "scale", 1)
    return (
        ("" if size == 1 else f",size={size}")
        + ("" if scale == 1 else f",scale={_exact(scale)}")
        + ("" if policy.on == "logits" else f",on={policy.on}")
    )


def _exact(number: float) -> str:
    """A number as short as possible, but so that reading it gives it back."""
    short = f"{float(number):g}"
    return short if float(short) == number else repr(float(number))


def _joined(numbers: float | Sequence[float]) -> str:
    """One number for all ticks, or one a tick with slashes between; a single one of these has its slash behind it."""
    if not isinstance(numbers, Sequence):
        return _exact(numbers)
    return "/".join(map(_exact, numbers)) + ("/" if len(numbers) == 1 else "")


def _by_tick(name: str, what: str, numbers: Any) -> float | tuple[float, ...]:
    """One number as a float, several as a tuple; refuses none at all, NaN and what is no number."""
    try:
        array = np.asarray(numbers, float)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if array.ndim > 1 or not array.size or np.isnan(array).any():
        raise ValueError(f"{name}: {what} is {numbers}, wanted a number or one number per tick")
    return tuple(array.tolist()) if array.ndim else float(array)


def _spread(name: str, what: str, numbers: float | tuple[float, ...], ticks: int) -> np.ndarray:
    if not isinstance(numbers, tuple):
        return np.full(ticks, float(numbers))
    if len(numbers) < ticks:
        raise ValueError(f"{name}: {len(numbers)} values of {what} for {ticks} ticks; give one per tick or one for all")
    return np.asarray(numbers[:ticks], float)


def _whole(name: str, number: Any, of: str) -> int:
    """The number, when it is a whole one above 0."""
    if isinstance(number, int | float | np.number) and not isinstance(number, bool) and number >= 1:
        with_fraction = not np.isfinite(number) or int(number) != number
        if not with_fraction:
            return int(number)
    raise ValueError(
        f"{name} is {_exact(number) if isinstance(number, float) else number}, wanted a whole number of {of}, 1 or more"
    )
