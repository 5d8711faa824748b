"""Rank Coding: recurrent networks that answer at the first output to cross a threshold, trained to do so.

Jeffares et al., "Spike-inspired Rank Coding for Fast and Accurate Recurrent Neural Networks" (ICLR 2022, arXiv
2110.02865): a network runs step by step until an output's sigmoid exceeds 0.95, answers with the largest output of that
step, and is trained by the loss of that step alone. Here for their LSTM and for a recurrent layer of current-based
spiking neurons, which `to_network` exports so that it runs, and stops, event by event.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import eventsnn as es
from eventsnn.network import Connection, Dense, Network, Population
from eventsnn.neurons import LI, CubaLIF, Input
from tools.modules import FireAbove

CROSSING = 0.95  # the authors' threshold of a sigmoid


def logit(probability: float) -> float:
    """The output whose sigmoid it is."""
    return math.log(probability / (1 - probability))


THETA = logit(CROSSING)

# ----------------------------------------------------------------------------------------------------------- networks


class Recurrent(nn.Module):
    """A network that is run step by step. binary: two classes, whose outputs are one logit and its negative.

    So an output crosses a threshold where the authors' single sigmoid p does, p > 0.95 or p < 0.05.
    """

    binary: bool
    hidden: int

    def drive(self, x: Tensor) -> Tensor:
        """The input's part of one step or of several at once. x: (..., N, inputs)."""
        raise NotImplementedError

    def begin(self, samples: int, like: Tensor) -> tuple[Tensor, ...]:
        """The state before the first step."""
        raise NotImplementedError

    def step(self, driven: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (N, classes) of a step, and the state behind it. driven: a step of `drive`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of every step, (steps, N, classes), of (steps, N, inputs)."""
        driven = self.drive(x)
        state = self.begin(x.shape[1], driven)
        outputs = []
        for each in driven:
            output, state = self.step(each, state)
            outputs.append(output)
        return torch.stack(outputs)

    def _mirrored(self, output: Tensor) -> Tensor:
        return torch.cat([-output, output], 1) if self.binary else output


class LSTM(Recurrent):
    """The paper's network: one LSTM layer of 125 and a linear layer whose sigmoids are the outputs."""

    def __init__(self, inputs: int, classes: int, hidden: int = 125) -> None:
        super().__init__()
        self.binary, self.hidden = classes == 2, hidden
        self.into = nn.Linear(inputs, 4 * hidden)
        self.again = nn.Linear(hidden, 4 * hidden, bias=False)
        self.readout = nn.Linear(hidden, 1 if self.binary else classes)
        for weight in (self.into.weight, self.into.bias, self.again.weight):  # as nn.LSTM begins
            nn.init.uniform_(weight, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))
        with torch.no_grad():
            self.into.bias[hidden : 2 * hidden] += 1  # so that it begins by remembering (Jozefowicz et al., ICML 2015)

    def drive(self, x: Tensor) -> Tensor:
        """Currents of the four gates."""
        return self.into(x)

    def begin(self, samples: int, like: Tensor) -> tuple[Tensor, ...]:
        """Zeros."""
        return like.new_zeros(samples, self.hidden), like.new_zeros(samples, self.hidden)

    def step(self, driven: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step of the cell."""
        h, c = state
        i, f, g, o = (driven + self.again(h)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return self._mirrored(self.readout(h)), (h, c)


class Spiking(Recurrent):
    """One layer of current-based leaky neurons that are connected among themselves, and leaky outputs.

    In each step `i <- alpha_syn i + W x + V s + b` with the spikes s of the step before, `u <- alpha u + i`, a spike
    where u > 1, which takes 1 off; `y <- alpha_out y + R s + c` is the output. All three alphas are learned, for each
    unit its own, through a sigmoid. The gradient of a spike is a triangle, 1 at the threshold, 0 from 1 away on.
    """

    def __init__(self, inputs: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.binary, self.hidden = classes == 2, hidden
        self.into = nn.Linear(inputs, hidden)
        self.again = nn.Linear(hidden, hidden, bias=False)
        self.readout = nn.Linear(hidden, 1 if self.binary else classes)
        outputs = 1 if self.binary else classes
        self.leaks = nn.ParameterDict(
            {
                "synapse": nn.Parameter(torch.empty(hidden).uniform_(-2, 1)),
                "membrane": nn.Parameter(torch.empty(hidden).uniform_(0, 4)),
                "output": nn.Parameter(torch.full((outputs,), 2.0)),
            }
        )
        nn.init.normal_(self.again.weight, std=0.5 / math.sqrt(hidden))

    def drive(self, x: Tensor) -> Tensor:
        """W x + b."""
        return self.into(x)

    def begin(self, samples: int, like: Tensor) -> tuple[Tensor, ...]:
        """Zeros: currents, membranes, spikes, outputs."""
        outputs = self.readout.out_features
        return (*(like.new_zeros(samples, self.hidden) for _ in range(3)), like.new_zeros(samples, outputs))

    def step(self, driven: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One tick."""
        i, u, s, y = state
        synapse, membrane, output = (torch.sigmoid(self.leaks[name]) for name in ("synapse", "membrane", "output"))
        i = synapse * i + driven + self.again(s)
        u = membrane * u + i
        s = FireAbove.apply(u - 1)
        u = u - s
        y = output * y + self.readout(s)
        return self._mirrored(y), (i, u, s, y)

    def to_network(self, ticks: int, tick_seconds: float) -> Network:
        """As eventsnn runs it: one tick a step, a recurrent connection of one tick of delay, potentials as outputs."""
        arrays = {name: p.detach().cpu().numpy() for name, p in self.named_parameters()}
        synapse, membrane, output = (
            torch.sigmoid(self.leaks[name].detach()).cpu().numpy() for name in ("synapse", "membrane", "output")
        )
        readout, shift = arrays["readout.weight"], arrays["readout.bias"]
        if self.binary:
            readout, shift, output = (
                torch.cat([-t, t]).numpy() for t in map(torch.from_numpy, (readout, shift, output))
            )
            output = abs(output)
        hidden = CubaLIF(
            alpha_syn=synapse, gain_syn=1.0, alpha=membrane, threshold=1.0, comparator="gt", reset="subtract"
        )
        return Network(
            populations=(
                Population("input", (self.into.in_features,), Input()),
                Population("hidden", (self.hidden,), hidden),
                Population("output", (len(readout),), LI(alpha=output)),
            ),
            connections=(
                Connection("input", "hidden", Dense(arrays["into.weight"]), bias=arrays["into.bias"]),
                Connection("hidden", "hidden", Dense(arrays["again.weight"]), delay=1),
                Connection("hidden", "output", Dense(readout), bias=shift),
            ),
            output="output",
            encoding="events",
            ticks=ticks,
            tick_seconds=tick_seconds,
        )


# ----------------------------------------------------------------------------------------------------------- training


class Decided(NamedTuple):
    """What a network said when it decided: outputs (N, classes), step (N,) from 0, crossed (N,) bool.

    uncertainty: (N,) the mean over the steps up to that one of the mean binary entropy of the outputs' sigmoids, nats.
    """

    outputs: Tensor
    step: Tensor
    crossed: Tensor
    uncertainty: Tensor


def decide(network: Recurrent, x: Tensor, theta: float = THETA) -> Decided:
    """Run until an output first reaches theta, at most to the last step; what comes later is not computed.

    x: (steps, N, inputs). The outputs, but not the choice of the step, carry gradients. The published notebooks for
    binary tasks take a crossing in the first step for none; here it is one.
    """
    steps, samples = x.shape[:2]
    state = network.begin(samples, x)
    alive = torch.arange(samples, device=x.device)
    total = x.new_zeros(samples)
    parts = []
    for step, each in enumerate(x):
        outputs, state = network.step(network.drive(each[alive] if len(alive) < samples else each), state)
        total = total + _entropy(outputs)
        crossed = (outputs.detach() >= theta).any(1)
        ends = crossed if step < steps - 1 else torch.ones_like(crossed)
        if ends.any():
            uncertainty = total[ends] / (step + 1)
            parts.append((alive[ends], outputs[ends], torch.full_like(alive[ends], step), crossed[ends], uncertainty))
            alive, total, state = alive[~ends], total[~ends], tuple(part[~ends] for part in state)
        if not len(alive):
            break
    where, *found = (torch.cat(each) for each in zip(*parts, strict=True))
    order = where.argsort()
    return Decided(*(each[order] for each in found))


def _entropy(outputs: Tensor) -> Tensor:
    p = torch.sigmoid(outputs)
    return functional.binary_cross_entropy(p, p, reduction="none").mean(1)


def sigmoid_loss(outputs: Tensor, labels: Tensor, kind: str) -> Tensor:
    """Of outputs (N, classes), read as sigmoids. labels: (N,). A scalar.

    kind: "bce", the binary cross-entropy of every output, summed over classes (of a mirrored pair the mean, which is
    that of the single sigmoid); or "cross_entropy", the authors' for MNIST, taken of the sigmoids as if of logits.
    """
    if kind == "cross_entropy":
        return functional.cross_entropy(torch.sigmoid(outputs), labels)
    wanted = functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
    each = functional.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
    return (each.mean(1) if outputs.shape[1] == 2 else each.sum(1)).mean()


def sequence_loss(
    network: Recurrent, x: Tensor, labels: Tensor, *, first_crossing: bool, entropy: float, kind: str, theta: float
) -> Tensor:
    """The loss at the last step, or, Rank Coding, at the first crossing, where gradients go back from alone.

    entropy: weight of what is taken off for uncertainty, `Decided.uncertainty`. The paper names a term that rewards the
    entropy of the outputs and discourages early crossings; its form is not published, this one is ours.
    """
    if not first_crossing:
        return sigmoid_loss(network(x)[-1], labels, kind)
    found = decide(network, x, theta)
    loss = sigmoid_loss(found.outputs, labels, kind)
    return loss - entropy * found.uncertainty.mean() if entropy else loss


# ------------------------------------------------------------------------------------------------------ the networks

BITS, LEVELS, PIXELS, CHANNELS = 2, 32, 784, 64  # inputs: a bit's value, bins of a number, of MNIST, of the cochlea


def lstm_bits() -> LSTM:
    """For `samples.runs_of_bits`."""
    return LSTM(BITS, 2)


def lstm_noise() -> LSTM:
    """For `samples.noisy_signs`, whose number it gets."""
    return LSTM(1, 2)


def lstm_mnist() -> LSTM:
    """For MNIST, brightest pixels first."""
    return LSTM(PIXELS, 10)


def lstm_spoken() -> LSTM:
    """For spoken digits."""
    return LSTM(CHANNELS, 10)


def spiking_bits() -> Spiking:
    """For `samples.runs_of_bits`."""
    return Spiking(BITS, 2, 128)


def spiking_noise() -> Spiking:
    """For `samples.noisy_signs`, in bins."""
    return Spiking(LEVELS, 2, 128)


def spiking_mnist() -> Spiking:
    """For MNIST, brightest pixels first."""
    return Spiking(PIXELS, 10, 256)


def spiking_spoken() -> Spiking:
    """For spoken digits."""
    return Spiking(CHANNELS, 10, 256)


def as_events(frames: Any, tick_us: int) -> es.Events:
    """Counts (N, ticks, inputs) as events, each at the beginning of its tick."""
    import numpy as np

    counts = np.asarray(frames).astype(np.int64)
    sample, tick, neuron = np.nonzero(counts)
    times = np.repeat(np.arange(len(sample)), counts[sample, tick, neuron])
    offsets = np.concatenate([[0], np.cumsum(counts.sum((1, 2)))])
    return es.Events(tick[times] * tick_us, neuron[times], offsets)
