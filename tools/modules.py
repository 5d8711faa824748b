"""Trainable layers and networks, plain PyTorch: activations that are also neurons, TEBN, and the shipped architectures.

A `Neuron` layer runs in one of three ways, set for the whole network by `activations` and `spiking`: as a ReLU, as its
quantised activation, or as the neurons themselves over ticks, with surrogate gradients. Convolutions and norms see
all ticks as one batch. Importing this file teaches `eventsnn.from_torch` what these layers are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import eventsnn as es
from eventsnn.layouts import norm_tables
from eventsnn.neurons import IF, LIF

# -------------------------------------------------------------------------------------------------------- the neurons

KEEP, KEEP_DETACHED = 1, 2  # of spikes and membranes


class Watched(NamedTuple):
    """What a layer of neurons did: spikes and membranes after their reset, (ticks, N, ...), and their threshold.

    As an activation: `spikes` is None and `membranes` is what came in, (N, ...). again: of one sample by its number,
    spikes and membranes computed again, (ticks, 1, ...); with `running(detach=True)` gradients go back only this way.
    """

    spikes: Tensor | None
    membranes: Tensor
    threshold: Tensor | float
    again: Callable[[int], tuple[Tensor, Tensor]] | None = None


class Timed(nn.Module):
    """A layer that has to know of ticks; `running` tells it how many are run, 0 for none, and of how many samples."""

    ticks = 0
    samples = 0


class Neuron(Timed):
    """A layer of neurons, or the activation they stand for; `running` sets which.

    ticks: 0 as an activation, else how many are run. watch: whether `watched` is kept for a regulariser, with detach
    cut off from the gradients. compiled: whether the elementwise steps are fused by `torch.compile`, equal up to
    rounding. dropout: share of what goes on to other layers that is made 0, drawn from `generator`; the rest is divided
    by 1 - dropout.

    Dropout is where Wu et al. put it to calibrate cutoffs: behind the neurons, whose own membranes and resets know
    nothing of it, and drawn anew for every tick (`set_dropout` and `DropoutLayer` in their code, `utils/conversion.py`
    and `layers/dropout_layer.py`: an `nn.Dropout` on all ticks at once, or on each in turn).
    """

    watch = False
    detach = False
    compiled = False
    dropout = 0.0
    generator: torch.Generator | None = None
    watched: Watched | None = None

    def activate(self, x: Tensor) -> Tensor:
        """The layer as an activation."""
        raise ValueError(f"{type(self).__name__} has no activation; train it in stages of kind 'spiking'")

    def height(self) -> Tensor | float:
        """The threshold, which is what one spike emits."""
        return 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Activations in the shape of x, or what the neurons emit, (ticks * N, ...)."""
        if not self.ticks:
            if self.watch:
                self.watched = Watched(None, x, self.height())
            return self._dropped(self.activate(x))
        if len(x) == self.samples and self.ticks > 1:  # a current that never changes stands for all ticks
            x = torch.cat([x] * self.ticks)
        # neurons know no neighbours, so each tick is one flat row in whatever order its memory has
        last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        x = x.permute(0, 2, 3, 1) if last else x
        keep = KEEP_DETACHED if self.detach else KEEP
        emitted, spikes, membranes = self._turns(x.reshape(self.ticks, -1), keep if self.watch else 0)
        if self.watch:
            shape, ticks = (self.ticks, -1, *x.shape[1:]), self.ticks

            def arranged(each: Tensor) -> Tensor:
                each = each.reshape(shape)
                return each.permute(0, 1, 4, 2, 3) if last else each

            def again(sample: int) -> tuple[Tensor, Tensor]:
                of_it = x.unflatten(0, (ticks, -1))[:, sample].reshape(ticks, -1)
                _, spikes, membranes = self._turns(of_it, KEEP, once=True)
                return arranged(spikes), arranged(membranes)

            self.watched = Watched(arranged(spikes), arranged(membranes), self.height(), again)
        emitted = emitted.reshape(x.shape)
        return self._dropped(emitted.permute(0, 3, 1, 2) if last else emitted)

    def _dropped(self, x: Tensor) -> Tensor:
        if not self.dropout:
            return x
        kept = torch.rand(x.shape, generator=self.generator) >= self.dropout  # on the CPU, so that devices draw alike
        return x * kept.to(x.device) / (1 - self.dropout)

    def _turns(self, current: Tensor, keep: int, once: bool = False) -> tuple[Tensor, Tensor | None, Tensor | None]:
        raise NotImplementedError

    def _fused(self, function: Any, once: bool = False) -> Any:
        return fused(function) if self.compiled and not once else function


class QCFS(Neuron):
    """Quantised clip-floor-shift activation: `y = theta * floor(clip(x / theta, 0, 1) * levels + 0.5) / levels`.

    threshold: theta, one learnable number. The floor is passed straight through in the gradients: dy/dx = 1 for
    0 < x < theta, else 0; dy/dtheta = (y - x) / theta for 0 < x < theta, 1 from theta on, 0 below. With `rectify` it is
    a plain ReLU, for a first training that needs no thresholds.

    As a neuron it is IF with soft reset, `v0 = theta / 2`, that fires at `u >= theta` and emits theta: under a constant
    input its mean over `levels` ticks is y (Bu et al., ICLR 2022, arXiv 2303.04347).
    """

    rectify = False

    def __init__(self, levels: int = 8, threshold_init: float = 2.0) -> None:
        super().__init__()
        if levels < 1 or not threshold_init > 0:
            raise ValueError(f"QCFS has levels={levels}, threshold_init={threshold_init}; wanted both above 0")
        self.levels = levels
        self.threshold = nn.Parameter(torch.tensor(float(threshold_init)))

    def activate(self, x: Tensor) -> Tensor:
        """The quantised activation, in the shape of x."""
        if self.rectify:
            return functional.relu(x)
        return self._fused(_quantise)(x, self.threshold, self.levels)

    def _turns(self, current: Tensor, keep: int, once: bool = False) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self._fused(_emit, once)(current, self.threshold, keep)

    def height(self) -> Tensor:
        """The threshold."""
        return self.threshold

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


class LeakyNeuron(Neuron):
    """LIF of TET and TEBN: `u <- leak * u + x`, fires at `u > 1` strictly, resets to 0.

    leak: 0.5 for TET (Deng et al., ICLR 2022), 0.25 for TEBN's own code (Duan et al., NeurIPS 2022).
    """

    def __init__(self, leak: float = 0.5) -> None:
        super().__init__()
        if not 0 <= leak <= 1:
            raise ValueError(f"{type(self).__name__} has leak={leak}, wanted 0 to 1")
        self.leak = leak

    def _turns(self, current: Tensor, keep: int, once: bool = False) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self._fused(_emit_leaky, once)(current, self.leak, keep)

    def extra_repr(self) -> str:
        return f"leak={self.leak}"


es.register(
    QCFS, lambda m: (IF(threshold=float(m.threshold), v0=float(m.threshold) / 2), float(m.threshold)), activation=True
)
es.register(LeakyNeuron, lambda m: LIF(alpha=m.leak, threshold=1.0, comparator="gt", reset="value"), multi_step=True)


def fire(current: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes and membranes after each tick, both (ticks, ...), of the neurons a QCFS stands for.

    current: (ticks, ...). Differentiable in both arguments by a surrogate, the reset included.
    """
    current = current.to(torch.promote_types(current.dtype, torch.float32))  # also where the current is bfloat16
    membrane = theta / 2
    emitted, left = [], []
    for drive in current:
        membrane = membrane + drive
        # divided by theta for the gradient's width only: the quotient has the sign of the difference
        spike = _Fire.apply((membrane - theta) / theta)
        membrane = membrane - theta * spike
        emitted.append(spike)
        left.append(membrane)
    return torch.stack(emitted), torch.stack(left)


def fires_above_one(membrane: Tensor) -> Tensor:
    """Spikes of `LeakyNeuron`s."""
    return FireAbove.apply(membrane - 1)


def fire_leaky(
    current: Tensor, leak: float, fires: Callable[[Tensor], Tensor] = fires_above_one, soft: bool = False
) -> tuple[Tensor, Tensor]:
    """Spikes and membranes after each tick, both (ticks, ...), of `LeakyNeuron`s. current: (ticks, ...).

    fires: spikes of membranes. soft: whether a spike takes 1 off, or sets the membrane to 0.
    """
    current = current.to(torch.promote_types(current.dtype, torch.float32))  # also where the current is bfloat16
    membrane = torch.zeros((), dtype=current.dtype, device=current.device)
    emitted, left = [], []
    for drive in current:
        membrane = leak * membrane + drive
        spike = fires(membrane)
        membrane = membrane - spike if soft else membrane * (1 - spike)
        emitted.append(spike)
        left.append(membrane)
    return torch.stack(emitted), torch.stack(left)


class _Fire(torch.autograd.Function):
    """1 where the distance to the threshold is >= 0, else 0; the gradient is a triangle, 1 at 0 and 0 from +-1 on."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        (distance,) = ctx.saved_tensors
        return gradient * torch.clamp(1 - distance.abs(), min=0)


class FireAbove(_Fire):
    """As `_Fire`, but 1 only above the threshold."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)


class _Quantise(torch.autograd.Function):
    """QCFS and its gradients, keeping only x, y and theta for the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: Tensor, levels: int) -> Tensor:
        y = theta * torch.floor(torch.clamp(x / theta, 0, 1) * levels + 0.5) / levels
        ctx.save_for_backward(x, y, theta)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        x, y, theta = ctx.saved_tensors
        inside = (x > 0) & (x < theta)
        slope = torch.where(inside, (y - x) / theta, (x >= theta).to(x.dtype))
        return gradient * inside, (gradient * slope).sum().reshape(theta.shape), None


def kept(spikes: Tensor, membranes: Tensor, keep: int) -> tuple[Tensor | None, Tensor | None]:
    """Of a layer's spikes and membranes what a regulariser wants. keep: 0, KEEP or KEEP_DETACHED."""
    if keep == KEEP_DETACHED:
        return spikes.detach(), membranes.detach()
    return (spikes, membranes) if keep else (None, None)


def _emit(current: Tensor, theta: Tensor, keep: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    spikes, membranes = fire(current, theta)
    emitted = (spikes * theta).to(current.dtype)
    return (emitted, *kept(spikes, membranes, keep))


def _emit_leaky(current: Tensor, leak: float, keep: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    spikes, membranes = fire_leaky(current, leak)
    emitted = spikes.to(current.dtype)
    return (emitted, *kept(spikes, membranes, keep))


def _quantise(x: Tensor, theta: Tensor, levels: int) -> Tensor:
    return _Quantise.apply(x, theta, levels).to(x.dtype)


_COMPILED: dict[Any, Any] = {}


def fused(function: Any) -> Any:
    """One fused loop for a chain of elementwise steps: three times faster on a CPU, equal up to rounding."""
    if function not in _COMPILED:
        _COMPILED[function] = torch.compile(function)
    return _COMPILED[function]


# ---------------------------------------------------------------------------------------------------- running networks


def neurons(network: nn.Module) -> list[Neuron]:
    """The layers of neurons, in the order they were added."""
    return [layer for layer in network.modules() if isinstance(layer, Neuron)]


@contextmanager
def running(
    network: nn.Module,
    *,
    ticks: int = 0,
    samples: int = 0,
    watch: bool = False,
    detach: bool = False,
    rectify: bool = False,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[None]:
    """Within, the neurons run as said; after it they are activations again and hold nothing.

    dropout, generator: see `Neuron`. Raises ValueError when dropout is not from 0 to below 1.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}, wanted a share from 0 to below 1")
    layers = neurons(network)
    timed = [layer for layer in network.modules() if isinstance(layer, Timed)]
    for layer in layers:
        layer.watch, layer.detach, layer.watched = watch, detach, None
        layer.dropout, layer.generator = dropout, generator
        if isinstance(layer, QCFS):
            layer.rectify = rectify
    for each in timed:
        each.ticks, each.samples = ticks, samples
    try:
        yield
    finally:
        for layer in layers:
            layer.watch, layer.detach, layer.watched = False, False, None
            layer.dropout, layer.generator = 0.0, None
            if isinstance(layer, QCFS):
                layer.rectify = False
        for each in timed:
            each.ticks, each.samples = 0, 0


def spiking_outputs(network: nn.Module, inputs: Tensor, ticks: int) -> Tensor:
    """What the last layer gave at each tick, (ticks, N, classes). To be called within `running(ticks=, samples=N)`.

    inputs: images (N, C, H, W), shown as a constant current, or one frame a tick (N, ticks, C, H, W).
    """
    x = inputs.transpose(0, 1).flatten(0, 1) if inputs.ndim == 5 else inputs
    return network(x).unflatten(0, (ticks, len(inputs)))


def ends_in_neurons(network: nn.Module) -> bool:
    """Whether the answer is read from the spikes of a last QCFS layer, not from the output of a linear one."""
    return isinstance(network, nn.Sequential) and isinstance(network[-1], QCFS)


def spikes(
    network: nn.Module, inputs: Tensor, ticks: int, dropout: float = 0.0, generator: torch.Generator | None = None
) -> tuple[list[Tensor], Tensor]:
    """A network that ends in neurons, over ticks: spikes of each layer, and the last one's membrane minus threshold.

    inputs: as `spiking_outputs`. Spikes: (ticks, N, ...) for each layer of neurons, in order; margins: (ticks, N,
    classes). dropout, generator: see `Neuron`; spikes are those of the neurons, before any of them is dropped. Raises
    ValueError when the last layer is not a QCFS.
    """
    if not ends_in_neurons(network):
        last = network[-1] if isinstance(network, nn.Sequential) else network
        raise ValueError(f"the network ends in {type(last).__name__}, wanted a QCFS as output neurons")
    how = {"dropout": dropout, "generator": generator}
    with running(network, ticks=ticks, samples=len(inputs), watch=True, **how):
        spiking_outputs(network, inputs, ticks)
        found = [layer.watched for layer in neurons(network)]
    return [entry.spikes for entry in found], found[-1].membranes - network[-1].threshold


class TEBN(Timed):
    """Temporal effective batch norm: statistics over all ticks, then a learnable factor p[t].

    Duan et al. (NeurIPS 2022). In evaluation mode tick t is `p[t] * (gamma * (x - mean) / sqrt(var + eps) + beta)`,
    which `es.from_torch` keeps as tables of a factor and a shift for each tick and channel. Fewer ticks may be run than
    there are factors; more raise ValueError.
    """

    def __init__(self, channels: int, ticks: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.p = nn.Parameter(torch.ones(ticks))

    def forward(self, x: Tensor) -> Tensor:
        """(ticks * N, C, H, W), each tick normalised and times its factor. A constant (N, C, H, W) is spread first."""
        if self.ticks > len(self.p):
            raise ValueError(f"TEBN has factors for {len(self.p)} ticks, but {self.ticks} are run")
        ticks = self.ticks or len(self.p)
        y = self.norm(x)
        factors = self.p[:ticks].to(y.dtype)
        if len(y) == self.samples:
            return torch.cat([y * factor for factor in factors])
        return torch.cat([part * factor for part, factor in zip(y.chunk(ticks), factors, strict=True)])

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """(scale, shift), both (ticks, channels) float64: what `forward` does in evaluation mode, tick by tick."""
        p, ((scale,), (shift,)) = self.p.detach().cpu().double().numpy(), norm_tables([self.norm])
        return np.outer(p, scale), np.outer(p, shift)


es.register(TEBN, TEBN.tables, norm=True)


# -------------------------------------------------------------------------------------------------------- architectures


def digits_net() -> nn.Sequential:
    """The packaged network, untrained: 8x8 grey digits to ten output neurons, 9,872 weights."""
    layers = {
        "conv1": nn.Conv2d(1, 16, 3, padding=1, bias=False),
        "norm1": nn.BatchNorm2d(16),
        "spike1": QCFS(),
        "conv2": nn.Conv2d(16, 32, 3, padding=1, bias=False),
        "norm2": nn.BatchNorm2d(32),
        "spike2": QCFS(),
        "pool": nn.AvgPool2d(2),
        "flatten": nn.Flatten(),
        "output": nn.Linear(512, 10, bias=False),
        "norm3": nn.BatchNorm1d(10),
        "spike3": QCFS(),
    }
    return nn.Sequential(OrderedDict(layers))


class Block(nn.Module):
    """The residual block of He et al. (2016): the shortcut joins as a current, before the last neurons."""

    def __init__(self, channels_in: int, channels: int, stride: int, neuron: Callable[[], Neuron]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.spike1 = neuron()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))
        self.spike2 = neuron()

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels, H / stride, W / stride)."""
        hidden = self.spike1(self.bn1(self.conv1(x)))
        return self.spike2(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class ResNet(nn.Module):
    """A CIFAR ResNet: a 3x3 stem, stages that double the channels and halve the grid, mean, one linear layer."""

    def __init__(self, blocks: tuple[int, ...], width: int, classes: int, neuron: Callable[[], Neuron]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.spike1 = neuron()
        parts, before = [], width
        for stage, count in enumerate(blocks):
            for block in range(count):
                parts.append(Block(before, width << stage, 2 if stage and not block else 1, neuron))
                before = width << stage
        self.blocks = nn.Sequential(*parts)
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of (N, 3, H, W)."""
        return self.fc(self.blocks(self.spike1(self.bn1(self.conv1(x)))).mean((2, 3)))


def resnet20(classes: int = 10) -> ResNet:
    """ResNet-20 of QCFS neurons with 4 levels and 1x1 shortcuts, 0.27 million weights."""
    return ResNet((3, 3, 3), 16, classes, lambda: QCFS(4))


def resnet18(classes: int = 10) -> ResNet:
    """ResNet-18 of QCFS neurons with 4 levels, 11.2 million weights."""
    return ResNet((2, 2, 2, 2), 64, classes, lambda: QCFS(4))


def resnet18_cifar100() -> ResNet:
    """ResNet-18 for CIFAR-100."""
    return resnet18(100)


def vgg(convolutions: tuple[int, ...], classes: int, neuron: Callable[[], Neuron]) -> nn.Sequential:
    """A CIFAR VGG: stages of 3x3 convolutions, norms and neurons, each ended by an average pool, and one linear layer.

    convolutions: how many in each of five stages of 64, 128, 256, 512 and 512 channels. Takes (N, 3, 32, 32). Wu et al.
    put two layers of 4,096 neurons in front of the last.
    """
    layers: dict[str, nn.Module] = {}
    before = 3
    for stage, (channels, count) in enumerate(zip((64, 128, 256, 512, 512), convolutions, strict=True), 1):
        for number in range(1, count + 1):
            layers[f"conv{stage}_{number}"] = nn.Conv2d(before, channels, 3, padding=1, bias=False)
            layers[f"norm{stage}_{number}"] = nn.BatchNorm2d(channels)
            layers[f"spike{stage}_{number}"] = neuron()
            before = channels
        layers[f"pool{stage}"] = nn.AvgPool2d(2)
    layers |= {"flatten": nn.Flatten(), "output": nn.Linear(before, classes)}
    return nn.Sequential(OrderedDict(layers))


def vgg11(classes: int = 10) -> nn.Sequential:
    """VGG-11 of QCFS neurons with 4 levels, average pooling and one linear layer, 9.2 million weights."""
    return vgg((1, 1, 2, 2, 2), classes, lambda: QCFS(4))


def vgg16(classes: int = 10) -> nn.Sequential:
    """VGG-16 of QCFS neurons with 4 levels, average pooling and one linear layer, 14.7 million weights."""
    return vgg((2, 2, 3, 3, 3), classes, lambda: QCFS(4))


def vgg16_cifar100() -> nn.Sequential:
    """VGG-16 for CIFAR-100."""
    return vgg16(100)


def events_net(
    inputs: int, side: int, classes: int, neuron: Callable[[], Neuron], norm: Callable[[int], nn.Module]
) -> nn.Sequential:
    """Three convolutions of 16, 32 and 64 channels, each with a norm, neurons and a pool, and one linear layer.

    Takes frames of events, (ticks * N, inputs, side, side).
    """
    layers: dict[str, nn.Module] = {}
    for number, channels in enumerate((16, 32, 64), 1):
        layers[f"conv{number}"] = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)
        layers[f"norm{number}"] = norm(channels)
        layers[f"spike{number}"] = neuron()
        layers[f"pool{number}"] = nn.AvgPool2d(2)
        inputs, side = channels, side // 2
    layers |= {"flatten": nn.Flatten(), "output": nn.Linear(inputs * side * side, classes)}
    return nn.Sequential(OrderedDict(layers))


def nmnist_tet() -> nn.Sequential:
    """For N-MNIST: leaky neurons and one batch norm for all ticks, as TET trains them; 34 thousand weights."""
    return events_net(2, 34, 10, LeakyNeuron, nn.BatchNorm2d)


def nmnist_tebn() -> nn.Sequential:
    """For N-MNIST at 10 ticks: the same with TEBN and its faster leak."""
    return events_net(2, 34, 10, lambda: LeakyNeuron(0.25), lambda channels: TEBN(channels, 10))


def objects_net() -> nn.Sequential:
    """For DVS128 objects: pixels pooled 4 x 4 first, then as `nmnist_tet`, for 8 classes."""
    return nn.Sequential(
        OrderedDict(shrink=nn.AvgPool2d(4), **dict(events_net(2, 32, 8, LeakyNeuron, nn.BatchNorm2d).named_children()))
    )
