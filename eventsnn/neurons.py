"""Neuron models: what a population does when its turn to fire comes.

Every model is a frozen dataclass of plain numbers. A parameter is one number for the whole population, an array of
shape (channels,), or an array of the population's shape (channels first). Potentials and thresholds share one
arbitrary unit; times are whole ticks. In continuous time (`mode="async"`) they mean the same of every instant, a tick
lasting `Network.tick_seconds`; `LIF.tau` may say exactly what `alpha` says of a whole tick.

At a turn, `I` is the sum of everything that arrived in the tick, biases included, and the membrane `u` goes through::

    leak     u <- rest + alpha (u - rest)      (LIF, leak="before"; once for every tick since the last turn)
    input    u <- u + gain I                   (left out while refractory with refractory_input="discard")
    clamp    u <- max(u, v_min)
    late     reset owed from the last spike    (reset_delay=True only)
    fire     u >= threshold, or u > threshold  (comparator "ge" or "gt"; never while refractory)
    reset    u <- u - reset_amount, or u <- reset_value, or nothing
    leak     u <- rest + alpha (u - rest)      (LIF, leak="after")

Of a `CubaLIF` the input is a synaptic current, which arrivals add to and which leaks by itself::

    current  i_old <- i;  i <- alpha_syn i + gain_syn I
    input    u <- u + gain i + gain_old i_old

`docs/semantics.md` states these rules with the order of events around them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

Parameter = float | np.ndarray

LATER = {"later": True}  # of fields that older files lack; left out of a file, and of its hash, where they are None

COMPARATORS = ("ge", "gt")
RESETS = ("subtract", "value", "none")


@dataclass(frozen=True, eq=False, kw_only=True)
class Input:
    """Where samples enter: analog images (direct) or events. It has no dynamics."""


@dataclass(frozen=True, eq=False, kw_only=True)
class IF:
    """Integrate-and-fire: `u <- u + gain I`, a spike at the threshold, then the reset.

    threshold: fires at `u >= threshold` (comparator "ge") or `u > threshold` ("gt").
    reset: "subtract" takes `reset_amount` off (soft reset; None means the threshold), "value" sets `reset_value`
        (hard reset), "none" leaves the membrane.
    v0: membrane before the first tick. v_min: lower bound of the membrane, None for none.
    refractory: ticks after a spike in which the neuron cannot fire; what arrives then is "discard"ed, and counted as
        dropped, or "integrate"d. math.inf: it fires once (time to first spike, single-spike networks).
    hold: True: the membrane stays where its reset has put it while the neuron is refractory, as in NEST and with
        Brian2's "unless refractory"; None: it goes on as `refractory_input` says.
    multi_spike: fires again, within the turn, while still at threshold: one event of that multiplicity (sinabs).
    reset_delay: the reset happens at the neuron's next tick, after its leak and input (snnTorch's default).
    input_rate: for continuous time alone, dV/dt per second that a steady input of 1 (a bias, an image, a pulse) makes;
        None: gain / tick, what the ticks make.

    InfLoR-SNN (Guo et al., ECCV 2022) is `IF(threshold=0.5, reset_amount=1.0, comparator="gt")`; QCFS (Bu et al.,
    ICLR 2022) is `IF(threshold=theta, v0=theta / 2)`.
    """

    threshold: Parameter = 1.0
    comparator: str = "ge"
    reset: str = "subtract"
    reset_amount: Parameter | None = None
    reset_value: Parameter = 0.0
    v0: Parameter = 0.0
    v_min: Parameter | None = None
    gain: Parameter = 1.0
    refractory: float = 0
    refractory_input: str = "discard"
    multi_spike: bool = False
    reset_delay: bool = False
    hold: bool | None = field(default=None, metadata=LATER)
    input_rate: Parameter | None = field(default=None, metadata=LATER)

    @property
    def subtracts(self) -> Parameter:
        """The amount a soft reset takes off the membrane."""
        return self.threshold if self.reset_amount is None else self.reset_amount

    @property
    def discards(self) -> bool:
        """Whether arrivals can be dropped: refractory neurons that do not integrate."""
        return self.refractory > 0 and self.refractory_input == "discard"

    @property
    def holds(self) -> bool:
        """Whether the membrane stays where its reset has put it while refractory: for good, if it fires once."""
        return bool(self.hold) or self.refractory == math.inf

    @property
    def repeats(self) -> bool:
        """Whether, in continuous time, it fires again at the same instant while still at threshold after its reset."""
        return self.reset == "subtract" and self.refractory == 0

    def problems(self) -> list[str]:
        """What makes this neuron impossible to run, one sentence each; empty when it is sound."""
        found = []
        if self.comparator not in COMPARATORS:
            found.append(f"comparator is {self.comparator!r}, wanted 'ge' or 'gt'")
        if self.reset not in RESETS:
            found.append(f"reset is {self.reset!r}, wanted 'subtract', 'value' or 'none'")
        if self.refractory_input not in ("discard", "integrate"):
            found.append(f"refractory_input is {self.refractory_input!r}, wanted 'discard' or 'integrate'")
        whole = isinstance(self.refractory, int) and not isinstance(self.refractory, bool)
        if not (whole and self.refractory >= 0) and self.refractory != math.inf:
            found.append(
                f"refractory is {self.refractory!r}, wanted a whole number of ticks, 0 or more, or infinity (fires "
                "once)"
            )
        if self.hold not in (None, True):
            found.append(f"hold is {self.hold!r}, wanted True or None")
        if self.hold and not self.refractory:
            found.append("hold says what a membrane does while refractory; give a refractory time")
        if self.hold and self.refractory_input == "integrate" and not isinstance(self, Synapse):
            found.append("hold keeps the membrane where it is; refractory_input must be 'discard'")
        for name in ("threshold", "reset_value", "v0", "gain", "reset_amount", "v_min", "input_rate"):
            value = getattr(self, name)
            if value is not None and not np.all(np.isfinite(value)):
                found.append(f"{name} holds NaN or infinity")
        if self.reset == "subtract" and not np.all(np.asarray(self.subtracts) > 0):
            found.append("reset_amount must be greater than 0, or a spike would not lower the membrane")
        if self.multi_spike and (self.reset != "subtract" or self.reset_delay or self.refractory):
            found.append("multi_spike needs reset='subtract' without delay or refractory time")
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class LIF(IF):
    """Leaky integrate-and-fire: an `IF` whose membrane decays towards `rest` by the factor `alpha` each tick.

    alpha: factor kept per tick, 0 <= alpha <= 1. leak: "before" the input (TET, TEBN, snnTorch) or "after" the reset
    (snncutoff); they differ only while `v0` is not `rest`. alpha_from: how alpha came from a time constant, kept in the
    file for the reader: "given", "exp" (exp(-dt/tau)) or "euler" (1 - dt/tau). tau: time constant in seconds, for
    continuous time alone; None: what alpha and a tick make, -tick / ln(alpha), or tick / (1 - alpha) if from "euler".
    """

    alpha: Parameter = 0.5
    rest: Parameter = 0.0
    leak: str = "before"
    alpha_from: str = "given"
    tau: Parameter | None = field(default=None, metadata=LATER)

    def problems(self) -> list[str]:
        """As `IF.problems`, with the leak."""
        found = super().problems() + _leak_problems(self)
        if self.leak not in ("before", "after"):
            found.append(f"leak is {self.leak!r}, wanted 'before' or 'after'")
        return found


class Current(NamedTuple):
    """One synaptic current; the fields are those of `Synapse`."""

    alpha_syn: Parameter
    gain_syn: Parameter
    gain_old: Parameter
    i0: Parameter
    tau_syn: Parameter | None
    syn_rate: Parameter | None


_CURRENT = Current._fields


@dataclass(frozen=True, eq=False, kw_only=True)
class Synapse:
    """An exponential synaptic current between arrivals and membrane, the part that `CubaLIF` and `CubaLI` share.

    alpha_syn: factor the current keeps per tick, 0 <= alpha_syn <= 1. gain_syn: what an arrival of 1 adds to it.
    gain_old: what the membrane takes of the current as it was before this tick's leak and arrivals, beside `gain` of
    what it is then (snnTorch, Norse: 0). i0: current before the first tick. tau_syn: time constant in seconds, for
    continuous time alone; None: what alpha_syn makes, as `LIF.tau`. syn_rate: for continuous time alone, di/dt per
    second that a steady input of 1 makes; None: gain_syn / tick. There, `input_rate` is dV/dt per second of a current
    of 1; None: (gain + gain_old) / tick.

    A tuple in these places, of equal length, means as many currents (receptors), which all reach the one membrane; a
    connection says which it feeds (`Connection.receptor`). A single value there holds for all of them.
    """

    alpha_syn: Parameter | tuple[Parameter, ...] = 0.5
    gain_syn: Parameter | tuple[Parameter, ...] = 1.0
    gain_old: Parameter | tuple[Parameter, ...] = 0.0
    i0: Parameter | tuple[Parameter, ...] = 0.0
    tau_syn: Parameter | tuple[Parameter, ...] | None = field(default=None, metadata=LATER)
    syn_rate: Parameter | tuple[Parameter, ...] | None = field(default=None, metadata=LATER)

    @property
    def receptors(self) -> int:
        """How many currents there are."""
        return max(self._lengths(), default=1)

    def _lengths(self) -> set[int]:
        return {len(v) for v in (getattr(self, name) for name in _CURRENT) if isinstance(v, tuple)}

    def current(self, receptor: int) -> Current:
        """The fields as they hold for one current."""
        values = {name: getattr(self, name) for name in _CURRENT}
        return Current(**{name: v[receptor] if isinstance(v, tuple) else v for name, v in values.items()})

    def current_problems(self) -> list[str]:
        """What makes the current impossible to run, one sentence each."""
        lengths = self._lengths()
        if len(lengths) > 1 or not lengths <= {1, 2}:
            return [f"the currents are {sorted(lengths)} in number, wanted one or two, and as many in each tuple"]
        found = []
        for receptor in range(self.receptors):
            one = self.current(receptor)
            alpha, tau = np.asarray(one.alpha_syn), one.tau_syn
            if not np.all((alpha >= 0) & (alpha <= 1)):
                found.append("alpha_syn must lie between 0 and 1")
            if tau is not None and not np.all(np.isfinite(tau) & (np.asarray(tau) > 0)):
                found.append("tau_syn must be a positive number of seconds")
            for name in ("gain_syn", "gain_old", "i0", "syn_rate"):
                value = getattr(one, name)
                if value is not None and not np.all(np.isfinite(value)):
                    found.append(f"{name} holds NaN or infinity")
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class CubaLIF(LIF, Synapse):
    """Current-based leaky integrate-and-fire: a `LIF` that arrivals reach through an exponential synaptic current.

    In continuous time di/dt = -i / tau_syn, dV/dt = -(V - rest) / tau + input_rate i, and an arrival of w adds
    gain_syn w to i (NIR's CubaLIF, Pedersen et al. 2024; alpha 1 and no tau: the non-leaky neurons of Mostafa 2017;
    tau = tau_syn: the alpha function of Comsa et al. 2020). A refractory one holds its membrane, its current goes on.
    """

    def problems(self) -> list[str]:
        """As `LIF.problems`, with the current."""
        found = super().problems() + self.current_problems()
        if self.refractory and self.refractory != math.inf and not self.hold:
            found.append("a refractory CubaLIF holds its membrane; set hold=True")
        if self.leak != "before" or self.reset_delay:
            found.append("a CubaLIF leaks before its input and resets at once")
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Integrator:
    """A readout without a threshold: `y <- y + I`, the summed logits of Wu et al. (2023). Never spikes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LI(Integrator):
    """A leaky readout: `y <- rest + alpha (y - rest) + gain I`, whose output is where it stands (NIR's LI).

    With alpha 0 the output of a tick is what arrived in it: the instantaneous logits of Rank Coding (Jeffares et al.
    2022). Fields as in `LIF`.
    """

    alpha: Parameter = 0.5
    rest: Parameter = 0.0
    gain: Parameter = 1.0
    v0: Parameter = 0.0
    alpha_from: str = "given"
    tau: Parameter | None = field(default=None, metadata=LATER)
    input_rate: Parameter | None = field(default=None, metadata=LATER)

    def problems(self) -> list[str]:
        """What makes this readout impossible to run, one sentence each."""
        found = _leak_problems(self)
        for name in ("v0", "gain", "input_rate"):
            if getattr(self, name) is not None and not np.all(np.isfinite(getattr(self, name))):
                found.append(f"{name} holds NaN or infinity")
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class CubaLI(LI, Synapse):
    """A leaky readout that arrivals reach through an exponential synaptic current (NIR's CubaLI)."""

    def problems(self) -> list[str]:
        """As `LI.problems`, with the current."""
        return super().problems() + self.current_problems()


def _leak_problems(neuron: LIF | LI) -> list[str]:
    found = []
    if neuron.alpha_from not in ("given", "exp", "euler"):
        found.append(f"alpha_from is {neuron.alpha_from!r}, wanted 'given', 'exp' or 'euler'")
    alpha = np.asarray(neuron.alpha)
    if not np.all((alpha >= 0) & (alpha <= 1)):
        found.append("alpha must lie between 0 and 1")
    if not np.all(np.isfinite(neuron.rest)):
        found.append("rest holds NaN or infinity")
    if neuron.tau is not None and not np.all(np.isfinite(neuron.tau) & (np.asarray(neuron.tau) > 0)):
        found.append("tau must be a positive number of seconds")
    return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Relay:
    """Sums what arrives in a tick and forwards it at once as one graded event per unit that received anything.

    Stands where two weight operations follow each other without a neuron (add-after-spike residuals, projection
    shortcuts of S-ResNet). A relay with a shift forwards every unit, every tick.
    """


@dataclass(frozen=True, eq=False, kw_only=True)
class Gate:
    """Logic on binary events: a unit forwards one when its arrivals in a tick sum to more than `threshold`.

    Fed through a window map of coefficient 1 this is the OR of the window, the maximum of its spikes: a spiking
    max-pool. With one connection of weight 1 from each of two populations, threshold 1 is their AND; with weights -1
    and 1 and threshold 0, (not a) and b: the joins AND and IAND of SEW-ResNet (Fang et al., NeurIPS 2021).

    threshold: one number, 0 or more, so that nothing is forwarded where nothing arrives; None: 0.
    """

    threshold: float | None = field(default=None, metadata=LATER)

    @property
    def level(self) -> float:
        """The threshold as a number."""
        return 0.0 if self.threshold is None else float(self.threshold)

    def problems(self) -> list[str]:
        """What makes this gate impossible to run, one sentence each."""
        if np.ndim(self.level) or not np.isfinite(self.level) or self.level < 0:
            return [f"a gate's threshold is {self.threshold!r}, wanted one number, 0 or more"]
        return []


Neuron = Input | IF | LIF | CubaLIF | Integrator | LI | CubaLI | Relay | Gate


def preset(name: str, threshold: Parameter = 1.0, **changes: Any) -> IF:
    """The neuron another tool means by its defaults.

    name: "nir" (strict, reset to value 0), "sinabs" (soft reset, several spikes a tick, clamp at -threshold),
    "snntorch" (strict, soft reset one tick late), "norse" (strict, hard reset), "spikingjelly" (>=, hard reset),
    "snncutoff" (strict, soft reset, v0 = threshold / 2), "lava" (>=, hard reset). With `alpha_syn` among the
    changes the result is a `CubaLIF`, with `alpha` a `LIF`, else an `IF`. Raises ValueError for an unknown name.
    """
    presets: dict[str, dict[str, Any]] = {
        "nir": {"comparator": "gt", "reset": "value"},
        "sinabs": {"comparator": "ge", "reset": "subtract", "multi_spike": True, "v_min": -threshold},
        "snntorch": {"comparator": "gt", "reset": "subtract", "reset_delay": True},
        "norse": {"comparator": "gt", "reset": "value"},
        "spikingjelly": {"comparator": "ge", "reset": "value"},
        "snncutoff": {"comparator": "gt", "reset": "subtract", "v0": threshold / 2},
        "lava": {"comparator": "ge", "reset": "value"},
    }
    if name not in presets:
        raise ValueError(f"unknown neuron preset {name!r}; choose one of {', '.join(sorted(presets))}")
    fields = {"threshold": threshold, **presets[name], **changes}
    kind = CubaLIF if "alpha_syn" in fields else LIF if "alpha" in fields else IF
    return kind(**fields)
