"""From a checked `Network` and its `Wiring` to what the compiled loops of continuous time read beside it.

Delays, time constants and drives in microseconds, and how a population is kept between events.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from eventsnn import kernels_async as ka
from eventsnn import kernels_sync as k
from eventsnn.network import Connection, Network, Population, Shape, positions, spread
from eventsnn.neurons import IF, LI, LIF, Current, Integrator, Parameter, Relay, Synapse
from eventsnn.wiring import Pile, Wiring, by_unit, levels, placed, whole_microseconds

FEW = 32  # neurons; fewer are not worth a look ahead at all of them
LOOKS = 8  # ahead in the shortest time constant of a population
LONGEST = 200  # refractory time in shortest time constants: modes are kept as they will be when it is over
APART = 0.2  # of two rates, relative to the current's: modes of closer ones lose digits


class Pace(NamedTuple):
    """A `Timing` and what is needed to size a state for it."""

    timing: ka.Timing
    drives: int
    currents: int
    alarms: int
    untils: int


def time_of(
    network: Network,
    wiring: Wiring,
    dtype: np.dtype,
    *,
    pulse: float,
    bias_period: float,
    serial: bool,
    crossing: float | None = None,
) -> Pace:
    """What continuous time adds to a wiring: delays, time constants and drives in microseconds.

    pulse: microseconds for which an event acts as a current, 0 for a jump. bias_period: microseconds between pulses
    that bring the constants of populations with several positions, 0 for constant drives. serial: see `simulate`.
    crossing: a potential of a leaky output whose crossing is to be met, or None.
    """
    assert network.tick_seconds is not None
    depths, numbers = network.depths(), range(len(network.populations))
    by_order = sorted(numbers, key=lambda i: (depths[network.populations[i].name], i))
    timer = _Timer(network, wiring, dtype, pulse, bias_period, crossing)
    pop = np.full((len(network.populations), ka.T_COLUMNS), -1, np.int64)
    for i, population in enumerate(network.populations):
        pop[i, ka.T_ORDER] = by_order.index(i)
        timer.fill(pop[i], population)
    own = np.full(len(network.connections), -1, np.int64)
    for j, ticks in wiring.synapse_delays.items():
        own[j] = timer.real.add(ticks * timer.tick)
    timing = ka.Timing(
        pop=pop,
        by_order=np.array(by_order, np.int64),
        delay=np.array([_delay(c, timer.tick) for c in network.connections]),
        own=own,
        lane=np.array([(c.receptor or 0) * network[c.target].size for c in network.connections], np.int64),
        real=timer.real.array(),
        tick=timer.tick,
        pulse=float(pulse),
        period=float(bias_period),
        serial=serial,
        stamp=ka.STAMP,
    )
    return Pace(timing, timer.drives, timer.currents, timer.alarms, timer.untils)


class _Timer:
    """Fills the rows of `Timing.pop`."""

    def __init__(
        self,
        network: Network,
        wiring: Wiring,
        dtype: np.dtype,
        pulse: float,
        bias_period: float,
        crossing: float | None,
    ):
        self.network, self.dtype, self.pulse, self.bias_period = network, dtype, pulse, bias_period
        self.crossing = crossing
        assert network.tick_seconds is not None
        self.tick = whole_microseconds(network.tick_seconds)
        self.real = Pile(np.float64)
        self.analog = {c.target for j, c in enumerate(network.connections) if wiring.plan.con[j, k.C_ANALOG]}
        self.spread = [network.connections[j].source for j in wiring.synapse_delays]
        self.drives = self.currents = self.alarms = self.untils = 0

    def fill(self, row: np.ndarray, population: Population) -> None:
        """All of a row but the order."""
        neuron = population.neuron
        row[ka.T_FLAGS], row[ka.T_SIZE], row[ka.T_RECEPTORS] = 0, population.size, 0
        row[ka.T_SPREAD] = self.spread.count(population.name)
        if isinstance(neuron, Relay):
            row[ka.T_FLAGS] = ka.FLAG_FORWARDS
        elif isinstance(neuron, IF | Integrator):
            self._cell(row, population, neuron)

    def _cell(self, row: np.ndarray, population: Population, cell: IF | Integrator) -> None:
        shape, name, tick = population.shape, population.name, self.tick
        readout, synapse = isinstance(cell, Integrator), cell if isinstance(cell, Synapse) else None
        watched = isinstance(cell, LI) and self.crossing is not None and name == self.network.output
        # a readout is a neuron without spikes; a watched one has a threshold at which the run ends
        level = self.crossing if watched and self.crossing is not None else math.inf
        neuron = cell if isinstance(cell, IF) else IF(threshold=level)
        one = cell if isinstance(cell, IF | LI) else LI(alpha=1.0)  # what sums up does not leak
        v0, gain, input_rate, rest = one.v0, one.gain, one.input_rate, getattr(one, "rest", 0.0)
        if synapse is not None:
            current = synapse.current(0)
            gain, input_rate = current.gain_syn, current.syn_rate
        rate = _per_tick(gain, input_rate, tick)
        constant = _constant_input(self.network, population).astype(self.dtype) / tick
        driven = bool(np.any(constant)) or name in self.analog
        pulsed = driven and self.bias_period > 0 and positions(shape) > 1 and not readout
        if not pulsed:
            constant = constant * by_unit(np.asarray(rate, self.dtype), shape)
        elif input_rate is not None:  # the turn multiplies by the gain
            constant = constant * by_unit(rate, shape) / by_unit(gain, shape)
        for_pulse = self.pulse > 0 and not (readout and not isinstance(cell, LI))
        driven |= for_pulse
        threshold, fire, floor = levels(neuron, self.dtype)
        tau = _tau(cell, tick)
        leaks = bool(np.any(np.isfinite(tau)))
        everywhere = [np.asarray(x, self.dtype) for x in (rest, v0)]
        ready = any(np.any(spread(x, shape) >= spread(fire, shape)) for x in everywhere)
        alone = watched or (
            not readout and ((driven and not pulsed) or ready or neuron.refractory > 0 or synapse is not None)
        )
        one_set = all(np.ndim(x) == 0 for x in (fire, neuron.subtracts, neuron.reset_value, gain, floor))
        one_set = one_set and not (for_pulse or readout or synapse)
        alike = leaks and all(np.ndim(x) == 0 for x in (tau, rest)) and not neuron.refractory
        constants = self._separate(one) if alone and not (readout or driven) and neuron.reset == "value" else []
        settled = neuron.refractory == 0 or neuron.holds
        settled &= neuron.refractory == math.inf or neuron.refractory * tick < LONGEST * min(constants, default=0.0)
        modes = bool(constants) and settled and neuron.v_min is None and population.size >= FEW
        row[ka.T_FLAGS] = (
            (ka.FLAG_INTEGRATES if readout else ka.FLAG_SPIKES)
            | (ka.FLAG_PLAIN if one_set and not (alone or leaks) else 0)
            | (ka.FLAG_ALIKE if one_set and alike else 0)
            | (ka.FLAG_HARD if neuron.reset == "value" else 0)
            | (ka.FLAG_DISCARD if neuron.discards else 0)
            | (ka.FLAG_HOLD if neuron.holds else 0)
            | (ka.FLAG_CURRENT if for_pulse else 0)
            | (ka.FLAG_BIAS_PULSES if pulsed else 0)
            | (ka.FLAG_SYNAPSE if synapse else 0)
            | (ka.FLAG_WATCHED if watched else 0)
            | (ka.FLAG_MODES if modes else 0)
        )
        receptors = synapse.receptors if synapse else 1
        if alone:
            row[ka.T_ALARM], self.alarms = self.alarms, self.alarms + population.size
        if neuron.refractory > 0:
            row[ka.T_UNTIL], self.untils = self.untils, self.untils + population.size
        if driven:
            row[ka.T_DRIVE], self.drives = self.drives, self.drives + receptors * population.size
        look = min(constants) / LOOKS if modes else 0.0
        parameters = (rest, gain, rate, fire, threshold, neuron.subtracts, neuron.reset_value, floor, v0)
        values: list[Parameter] = [tau, *(np.asarray(x, self.dtype) for x in parameters), constant]
        values += [neuron.refractory * tick, look]
        row[ka.T_TAU : ka.T_SYNAPSE] = [n for x in values for n in placed(self.real, shape, x)]
        if synapse is not None:
            row[ka.T_RECEPTORS], row[ka.T_CURRENT] = receptors, self.currents
            self.currents += receptors * population.size
            for r in range(receptors):
                column = ka.T_SYNAPSE + ka.SYN_COLUMNS * r
                values = self._current(one, synapse.current(r), shape)
                row[column : column + ka.SYN_COLUMNS] = [n for x in values for n in placed(self.real, shape, x)]

    def _separate(self, cell: IF | LI) -> list[float]:
        """The time constants of a population with one parameter set, where V is well kept as a sum of decaying modes.

        Empty where parameters differ, nothing leaks at all, or a time constant of the membrane is close to one of a
        current, whose modes would cancel each other.
        """
        parts = [cell.current(r) for r in range(cell.receptors)] if isinstance(cell, Synapse) else []
        single = (cell.threshold, cell.reset_value, cell.gain) if isinstance(cell, IF) else ()
        taus = [_tau(cell, self.tick)]
        if isinstance(cell, LIF):
            single = (*single, cell.rest)
            taus += [_time_constant(c.alpha_syn, c.tau_syn, cell.alpha_from, self.tick) for c in parts]
        everything = (*single, cell.input_rate, *taus, *(x for c in parts for x in (c.gain_syn, c.gain_old)))
        if any(np.ndim(x) for x in everything if x is not None):
            return []
        own, *others = [float(tau) for tau in taus]
        if any(not math.isfinite(tau) or abs(1 / tau - 1 / own) * tau < APART for tau in others):
            return []
        return [tau for tau in (own, *others) if math.isfinite(tau)]

    def _current(self, cell: IF | LI, current: Current, shape: Shape) -> list[Parameter]:
        """Decay, reach, jump, rate and start of a synaptic current."""
        tick = self.tick
        assert isinstance(cell, LIF | LI)
        with np.errstate(divide="ignore"):
            decay = 1 / _time_constant(current.alpha_syn, current.tau_syn, cell.alpha_from, tick)
        if cell.input_rate is None:
            reach = (spread(cell.gain, shape) + spread(current.gain_old, shape)) / tick
            reach = reach if reach.ndim == 0 else np.broadcast_to(reach, shape)
        else:
            reach = np.asarray(cell.input_rate) * 1e-6
        return [decay, reach, current.gain_syn, _per_tick(current.gain_syn, current.syn_rate, tick), current.i0]


def _per_tick(gain: Parameter, rate: Parameter | None, tick: float) -> Parameter:
    """What a steady input of 1 makes in a tick of so many microseconds: the gain, or what a rate per second says."""
    return gain if rate is None else np.asarray(rate) * (tick * 1e-6)


def _delay(c: Connection, tick: float) -> float:
    return c.delay * tick if c.delay_seconds is None else whole_microseconds(c.delay_seconds)


def _tau(cell: IF | Integrator, tick: float) -> np.ndarray:
    """Time constants of membranes in microseconds, infinite where nothing leaks."""
    if not isinstance(cell, LIF | LI):
        return np.asarray(np.inf)
    return _time_constant(cell.alpha, cell.tau, cell.alpha_from, tick)


def _time_constant(alpha: Parameter, tau: Parameter | None, alpha_from: str, tick: float) -> np.ndarray:
    """A time constant in microseconds: what is given in seconds, else what the factor kept in a tick makes."""
    if tau is not None:
        return np.asarray(tau, np.float64) * 1e6
    alpha = np.asarray(alpha, np.float64)
    with np.errstate(divide="ignore"):
        return tick / (1 - alpha) if alpha_from == "euler" else tick / np.abs(np.log(alpha))


def _constant_input(network: Network, population: Population) -> np.ndarray:
    """(size,) the sum of the biases that flow into a population in a tick, channels last."""
    shape = population.shape
    total = np.zeros(shape)
    for c in network.connections:
        if c.target == population.name and c.bias is not None:
            total = total + spread(c.bias, shape)
    return by_unit(total, shape)
