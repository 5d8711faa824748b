"""A network of ours stepped through time by other libraries, as their users would write it, for `bench.py`.

Convolutions and dense layers are PyTorch's, with our weights; the integrate-and-fire neurons between them are each
library's own, with our thresholds and initial membranes, and the current of an image is computed once, not every tick.
spikingjelly and sinabs get all ticks of a layer at once, the others tick after tick, as their tutorials do. Norse's own
`IAFCell` resets to a value only, so its neuron here is made of Norse's functional threshold and soft reset.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from eventsnn.inputs import Events
from eventsnn.network import AdaptivePool, Connection, Conv, Dense, Flatten, Identity, Network, Pool, Subsample
from eventsnn.neurons import IF, Integrator

Run = Callable[[torch.Tensor], torch.Tensor]


class Outcome(NamedTuple):
    """outputs: (B, K) summed over the ticks. spikes: of every spiking population, all samples together."""

    outputs: np.ndarray
    spikes: dict[str, float]


class Rival:
    """One library's model of a network: `model(batch)` runs it, `model.outcome(batch)` also counts its spikes."""

    def __init__(self, network: Network, ticks: int, several: bool = False):
        self.ticks, self.analog = ticks, network.encoding == "direct"
        self.layers = Layers(network, lambda neuron: self.node(neuron, several)).eval()
        self.started = [
            (node, float(p.neuron.v0)) for p, node in zip(self.layers.spiking, self.layers.nodes) if p.neuron.v0
        ]

    def node(self, neuron: IF, several: bool) -> nn.Module:
        """The library's neuron. several: it fires several spikes a tick."""
        raise NotImplementedError

    def reset(self) -> None:
        """Bring every membrane to where it starts."""
        raise NotImplementedError

    def context(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()

    def arranged(self, batch: torch.Tensor) -> torch.Tensor:
        """A batch, of images or (T, B, ...) frames, as the model takes it."""
        return batch if self.analog else batch.contiguous()

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """(B, K) outputs summed over the ticks."""
        with self.context():
            self.reset()
            return self.forward(batch)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        current = self.layers.image(batch) if self.analog else batch
        total: Any = 0
        for tick in range(self.ticks):
            total = total + self.layers(current if self.analog else current[tick])
        return total

    def outcome(self, batch: torch.Tensor) -> Outcome:
        # Some libraries give a membrane its shape at the first input, so a start other than 0 needs a run before it.
        self(batch)
        self.layers.counted = {}
        outputs = self(batch).numpy()
        found, self.layers.counted = Outcome(outputs, self.layers.counted), None
        return found


class Plain(Rival):
    """PyTorch alone: an addition, a comparison and a subtraction, in place."""

    module = "torch"

    class Node(nn.Module):
        def __init__(self, threshold: float, start: float):
            super().__init__()
            self.threshold, self.start, self.v = threshold, start, None

        def forward(self, current: torch.Tensor) -> torch.Tensor:
            if self.v is None:
                self.v = torch.full_like(current, self.start)
            self.v += current
            fired = (self.v >= self.threshold).to(current.dtype)
            self.v -= fired * self.threshold
            return fired

    def node(self, neuron: IF, several: bool) -> nn.Module:
        return self.Node(float(neuron.threshold), float(neuron.v0))

    def reset(self) -> None:
        for node in self.layers.nodes:
            node.v = None


class Norse(Plain):
    """Its functional threshold and soft reset, step by step."""

    module = "norse"

    class Node(nn.Module):
        def __init__(self, threshold: float, start: float):
            from norse.torch.functional.reset import reset_subtract
            from norse.torch.functional.threshold import threshold as fire

            super().__init__()
            self.fire, self.take, self.start, self.v = fire, reset_subtract, start, None
            self.threshold, self.zero = torch.tensor(threshold), torch.tensor(0.0)

        def forward(self, current: torch.Tensor) -> torch.Tensor:
            v = current + (self.start if self.v is None else self.v)
            fired = self.fire(v - self.threshold, "heaviside", 0.0)
            self.v = self.take(fired, v, self.zero, self.threshold)
            return fired


class SnnTorch(Rival):
    """`Leaky` with beta 1, step by step.

    It takes the threshold off in the tick after a spike, as by default, which makes the same spikes. With
    `reset_delay=False` it would test a membrane that is still above the threshold as if it had been reset twice.
    """

    module = "snntorch"

    def node(self, neuron: IF, several: bool) -> nn.Module:
        import snntorch

        return snntorch.Leaky(beta=1.0, threshold=float(neuron.threshold), reset_mechanism="subtract", init_hidden=True)

    def reset(self) -> None:
        for node in self.layers.nodes:
            node.reset_mem()
        for node, start in self.started:
            node.mem = node.mem + start


class Spikingjelly(Rival):
    """`IFNode` in its multi-step mode."""

    module = "spikingjelly"

    def node(self, neuron: IF, several: bool) -> nn.Module:
        from spikingjelly.activation_based.neuron import IFNode

        node = IFNode(v_threshold=float(neuron.threshold), v_reset=None, step_mode="m")
        return Squeezed(node, self.ticks)

    def reset(self) -> None:
        from spikingjelly.activation_based import functional

        functional.reset_net(self.layers)
        for node, start in self.started:
            node.node.v = start

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        if self.analog:
            image = self.layers.image(batch)
            current = image.expand(self.ticks, *image.shape).flatten(0, 1)
        else:
            current = batch.flatten(0, 1)
        return self.layers(current).unflatten(0, (self.ticks, -1)).sum(0)


class Squeezed(nn.Module):
    """Gives a node that wants (T, B, ...) what comes as (T x B, ...)."""

    def __init__(self, node: nn.Module, ticks: int):
        super().__init__()
        self.node, self.ticks = node, ticks

    def forward(self, current: torch.Tensor) -> torch.Tensor:
        return self.node(current.unflatten(0, (self.ticks, -1))).flatten(0, 1)


class Sinabs(Rival):
    """`IAFSqueeze`, all ticks at once, sample after sample."""

    module = "sinabs"

    def node(self, neuron: IF, several: bool) -> nn.Module:
        from sinabs.activation import MultiSpike, SingleSpike
        from sinabs.layers import IAFSqueeze

        return IAFSqueeze(
            num_timesteps=self.ticks,
            spike_threshold=torch.tensor(float(neuron.threshold)),
            spike_fn=MultiSpike if several else SingleSpike,
            min_v_mem=None if neuron.v_min is None else float(neuron.v_min),
        )

    def context(self) -> AbstractContextManager[Any]:
        return torch.no_grad()  # its neurons are autograd functions that save tensors, which inference mode forbids

    def reset(self) -> None:
        for node in self.layers.nodes:
            node.reset_states()
        for node, start in self.started:
            node.v_mem.add_(start)

    def arranged(self, batch: torch.Tensor) -> torch.Tensor:
        return batch if self.analog else batch.transpose(0, 1).contiguous()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        if self.analog:
            current = self.layers.image(batch).unsqueeze(1)
            current = current.expand(-1, self.ticks, *current.shape[2:]).flatten(0, 1)
        else:
            current = batch.flatten(0, 1)
        return self.layers(current).unflatten(0, (-1, self.ticks)).sum(1)


RIVALS: dict[str, type[Rival]] = {
    "torch": Plain,
    "spikingjelly": Spikingjelly,
    "sinabs": Sinabs,
    "snntorch": SnnTorch,
    "norse": Norse,
}


def present(tell: Callable[[str], None] = print) -> dict[str, type[Rival]]:
    """The libraries that are installed and can be imported; the others are named in a line each."""
    found = {}
    for name, kind in RIVALS.items():
        try:
            import_module(kind.module)
            found[name] = kind
        except Exception as error:  # an optional library may be broken in its own ways
            tell(f"{name} is left out: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    return found


def versions() -> dict[str, str | None]:
    """The versions of the libraries, None where one is not installed."""
    found: dict[str, str | None] = {}
    for kind in RIVALS.values():
        try:
            found[kind.module] = version(kind.module)
        except PackageNotFoundError:
            found[kind.module] = None
    return found


class Layers(nn.Module):
    """A feed-forward network without its dynamics: what every spiking population sends is what its node makes."""

    def __init__(self, network: Network, make: Callable[[IF], nn.Module]):
        super().__init__()
        depth = network.depths()
        self.order = sorted((p for p in network.populations if p is not network.input), key=lambda p: depth[p.name])
        self.spiking = [p for p in self.order if isinstance(p.neuron, IF)]
        self.input, self.output = network.input.name, network.output
        self.arriving: dict[str, list[Connection]] = {p.name: [] for p in self.order}
        self.index: dict[str, int] = {}
        operations = []
        for c in network.connections:
            self.arriving[c.target].append(c)
            self.index[c.label] = len(operations)
            operations.append(operation(c))
        self.operations = nn.ModuleList(operations)
        self.nodes = nn.ModuleList(make(p.neuron) for p in self.spiking)
        self.node = {p.name: node for p, node in zip(self.spiking, self.nodes)}
        self.analog = network.encoding == "direct"
        self.counted: dict[str, float] | None = None

    def image(self, x: torch.Tensor) -> torch.Tensor:
        """The current an image makes in the first layer, the same in every tick."""
        (c,) = (c for p in self.order for c in self.arriving[p.name] if c.source == self.input)
        return self.operations[self.index[c.label]](x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the output population sends, or, where it does not spike, what it receives. x: the image's current."""
        sent = {self.input: x}
        for p in self.order:
            if self.analog and any(c.source == self.input for c in self.arriving[p.name]):
                current = x
            else:
                parts = [self.operations[self.index[c.label]](sent[c.source]) for c in self.arriving[p.name]]
                current = parts[0] if len(parts) == 1 else parts[0] + parts[1]
            if isinstance(p.neuron, Integrator):
                return current
            fired = self.node[p.name](current)
            if self.counted is not None:
                self.counted[p.name] = self.counted.get(p.name, 0.0) + float(fired.sum())
            sent[p.name] = fired
        return sent[self.output]


class Shortcut(nn.Module):
    """Every second position, silent channels on both sides, one weight for all."""

    def __init__(self, stride: int, channels: tuple[int, int], weight: float):
        super().__init__()
        self.stride, self.channels, self.weight = stride, channels, weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if any(self.channels):
            x = F.pad(x, (0, 0, 0, 0, *self.channels))
        return x if self.weight == 1 else x * self.weight


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def operation(c: Connection) -> nn.Module:
    """The layers a connection stands for, with its weights and biases."""
    subsampled = [m for m in c.before if isinstance(m, Subsample)]
    if isinstance(c.op, Identity):
        stride, channels = (subsampled[0].stride[0], subsampled[0].channels) if subsampled else (1, (0, 0))
        return Shortcut(stride, channels, float(c.op.weight))
    parts: list[nn.Module] = []
    for m in c.before:
        if isinstance(m, Pool):
            parts.append(nn.AvgPool2d(m.kernel, m.stride, divisor_override=1 if m.kind == "sum" else None))
        elif isinstance(m, AdaptivePool):
            parts.append(Mean())
        elif isinstance(m, Flatten) and not any(isinstance(part, Mean) for part in parts):
            parts.append(nn.Flatten())
    bias = c.bias is not None
    if isinstance(c.op, Conv):
        outputs, inputs, *kernel = c.op.weight.shape
        padding = tuple(before for before, _ in c.op.padding)
        layer: Any = nn.Conv2d(inputs, outputs, tuple(kernel), c.op.stride, padding, bias=bias)
    elif isinstance(c.op, Dense):
        layer = nn.Linear(c.op.weight.shape[1], c.op.weight.shape[0], bias=bias)
    else:
        raise TypeError(f"{c.label}: no library is asked to run {type(c.op).__name__}")
    layer.weight.data = torch.tensor(c.op.weight, dtype=torch.float32)
    if bias:
        layer.bias.data = torch.tensor(c.bias, dtype=torch.float32)
    return nn.Sequential(*parts, layer) if parts else layer


def dense(network: Network, lasting: bool) -> Rival:
    """One tick of the same layers with ReLUs between them and plain shortcuts: a plain ANN. lasting: channels last."""

    class Ann(Rival):
        def node(self, neuron: IF, several: bool) -> nn.Module:
            return nn.ReLU(inplace=True)

        def reset(self) -> None:
            pass

        def arranged(self, batch: torch.Tensor) -> torch.Tensor:
            return batch.to(memory_format=torch.channels_last) if lasting else batch

    found = Ann(network, 1)
    for part in found.layers.operations:
        if isinstance(part, Shortcut):
            part.weight = 1.0
    if lasting:
        found.layers = found.layers.to(memory_format=torch.channels_last)
    return found


def frames(events: Events, shape: tuple[int, ...], ticks: int, tick_us: float) -> torch.Tensor:
    """(T, B, *shape) counts of events."""
    sample = np.repeat(np.arange(len(events)), np.diff(events.offsets))
    tick = (np.asarray(events.t) / tick_us).astype(np.int64)
    kept = tick < ticks
    size = int(np.prod(shape))
    place = (tick[kept] * len(events) + sample[kept]) * size + np.asarray(events.neuron)[kept]
    counts = np.bincount(place, minlength=ticks * len(events) * size)
    return torch.from_numpy(counts.astype(np.float32).reshape(ticks, len(events), *shape))
