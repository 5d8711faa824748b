"""S-ResNet and InfLoR, trainable: their neurons, norms through time, and networks with every way to join a shortcut.

S-ResNet is Vicente-Sola et al. (arXiv 2111.05955), whose architecture `eventsnn.layouts.spiking_resnet` holds, so that
what is trained here and the authors' own checkpoints have the same names. InfLoR-SNN is Guo et al. (ECCV 2022, arXiv
2307.04356). As everything in `tools.modules`, the networks take all ticks as one batch.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import eventsnn as es
from eventsnn.layouts import BOOSTED, SRESNET_LEAK, norm_tables, spiking_resnet
from eventsnn.network import Conv
from eventsnn.neurons import IF, LIF
from tools.modules import FireAbove, LeakyNeuron, Neuron, Timed, fire_leaky, kept

# ------------------------------------------------------------------------------------------------------------ S-ResNet

SLOPE = 0.3  # height of the surrogate's triangle in the authors' code


class SoftNeuron(LeakyNeuron):
    """LIF of S-ResNet: `u <- leak * u + x`, fires at `u > 1` strictly, which takes 1 off.

    The gradient of a spike is 0.3 max(0, 1 - |u - 1|); the reset carries it too.
    """

    def __init__(self, leak: float = SRESNET_LEAK) -> None:
        super().__init__(leak)

    def _turns(self, current: Tensor, keep: int, once: bool = False) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self._fused(_emit_soft, once)(current, self.leak, keep)


class _FireSoft(FireAbove):
    """With a triangle of 0.3 in height."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (distance,) = ctx.saved_tensors
        return gradients[0] * (SLOPE * torch.clamp(1 - distance.abs(), min=0))


def _emit_soft(current: Tensor, leak: float, keep: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    spikes, membranes = fire_leaky(current, leak, lambda u: _FireSoft.apply(u - 1), soft=True)
    return (spikes.to(current.dtype), *kept(spikes, membranes, keep))


class BNTT(Timed, nn.ModuleList):
    """One batch norm a tick (Kim & Panda 2021), named as in the authors' checkpoints. More ticks raise ValueError."""

    def __init__(self, channels: int, ticks: int) -> None:
        super().__init__(nn.BatchNorm2d(channels, eps=1e-4) for _ in range(ticks))

    def forward(self, x: Tensor) -> Tensor:
        """(ticks * N, C, H, W), each tick with its norm. A constant (N, C, H, W) is given to every one."""
        if self.ticks > len(self):
            raise ValueError(f"BNTT has norms for {len(self)} ticks, but {self.ticks} are run")
        ticks = self.ticks or len(self)
        parts = [x] * ticks if len(x) == self.samples else x.chunk(ticks)
        return torch.cat([norm(part) for norm, part in zip(list(self)[:ticks], parts, strict=True)])


class PoissonInput(Timed):
    """The authors' Poisson coding: in each tick sign(x) with odds of |x| / 2, else 0. x: -1 to 1."""

    generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (ticks * N, C, H, W) of -1, 0 and 1."""
        x = torch.cat([x] * max(1, self.ticks)) if len(x) == self.samples else x
        drawn = torch.rand(x.shape, generator=self.generator).to(x.device)
        return torch.where(2 * drawn <= x.abs(), x.sign(), torch.zeros_like(x))


class Vote(nn.Module):
    """The authors' "boosting": the mean of ten outputs for each class."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 10 classes) to (N, classes)."""
        return x.unflatten(1, (-1, BOOSTED)).mean(2)


es.register(SoftNeuron, lambda m: LIF(alpha=m.leak, threshold=1.0, comparator="gt", reset="subtract"), multi_step=True)
es.register(BNTT, norm_tables, norm=True)


def sresnet(
    blocks: int = 6,
    width: int = 32,
    classes: int = 10,
    ticks: int = 50,
    *,
    join: str = "spikes",
    inputs: int = 3,
    boosting: bool = False,
    poisson: bool = False,
) -> nn.Module:
    """An S-ResNet with the authors' first weights; S-ResNet38 by default, 2.53 million weights.

    join: see `spiking_resnet`. inputs: 3, or 2 for an event camera, whose first convolution halves the grid. boosting:
    ten outputs a class, averaged. poisson: images -1 to 1 become spikes in front. The options stand around the network,
    which is `.net` then.
    """
    outputs = classes * BOOSTED if boosting else classes
    net = spiking_resnet(
        blocks,
        width,
        outputs,
        SoftNeuron,
        lambda channels: BNTT(channels, ticks),
        inputs=inputs,
        stride=2 if inputs == 2 else 1,
        join=join,
    )
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight, gain=2)
    if not (boosting or poisson):
        return net
    parts: dict[str, nn.Module] = {"code": PoissonInput()} if poisson else {}
    parts["net"] = net
    return nn.Sequential(OrderedDict({**parts, "vote": Vote()} if boosting else parts))


def small(join: str) -> nn.Module:
    """S-ResNet of 7 convolutions and 16 channels at 8 ticks: what two cores train in an hour."""
    return sresnet(1, 16, 10, 8, join=join)


sresnet_small = partial(small, "spikes")
sresnet_small_current = partial(small, "current")
sresnet_small_and = partial(small, "and")
sresnet_small_iand = partial(small, "iand")


def sresnet38() -> nn.Module:
    """The paper's network for CIFAR-10 at 50 ticks."""
    return sresnet()


def sresnet38_dvs() -> nn.Module:
    """The paper's network for an event camera of 64 x 64 pixels, 8 classes, 50 frames."""
    return sresnet(inputs=2, classes=8)


def signed_rate(network: es.Network) -> es.Network:
    """A network for images as one that takes signed Poisson events: positive and negative parts as channels of spikes.

    Its input has twice the channels, first max(x, 0) / 2 and then max(-x, 0) / 2 of x in -1..1 (`split_signs`), coded
    by rate; the first convolution gets its weights once more with the other sign. Raises ValueError for another input.
    """
    name, into = network.input.name, [c for c in network.connections if c.source == network.input.name]
    if network.encoding != "direct" or not all(isinstance(c.op, Conv) and c.op.groups == 1 for c in into):
        raise ValueError("signed_rate wants a network of images whose first layers are convolutions")

    def doubled(c: Any) -> Any:
        if c.source != name:
            return c
        return replace(c, op=replace(c.op, weight=np.concatenate([c.op.weight, -c.op.weight], 1)))

    channels, *grid = network.input.shape
    populations = tuple(replace(p, shape=(2 * channels, *grid)) if p.name == name else p for p in network.populations)
    connections = tuple(doubled(c) for c in network.connections)
    return replace(network, populations=populations, connections=connections, encoding="rate", mean=None, std=None)


def split_signs(images: np.ndarray) -> np.ndarray:
    """(N, C, H, W) of -1..1 as (N, 2 C, H, W) of 0..0.5: the odds of a positive and of a negative event."""
    return np.concatenate([np.maximum(images, 0), np.maximum(-images, 0)], 1) / 2


# -------------------------------------------------------------------------------------------------------------- InfLoR

HALF = 0.5  # where InfLoR's neurons fire; a spike takes 1 off
STEEPNESS = 1.5  # 3 (u - 1/2) runs from -1.5 to 1.5 as u runs from 0 to 1


def rectified(u: Tensor) -> Tensor:
    """The membrane potential rectifier (MPR) of InfLoR, which gathers membranes near 0 and 1.

    u^(1/3) above 1, 1 - (1 - u)^(1/3) below 0, and tanh(3 (u - 1/2)) / (2 tanh(3/2)) + 1/2 between. It rises, and
    leaves 0, 1/2 and 1 where they are, so it never changes which side of the threshold 1/2 a membrane is on.
    """
    middle = torch.tanh(3 * (u - HALF)) / (2 * math.tanh(STEEPNESS)) + HALF
    above, below = u.clamp(min=1).pow(1 / 3), 1 - (1 - u.clamp(max=0)).pow(1 / 3)
    return torch.where(u > 1, above, torch.where(u < 0, below, middle))


class InfLoR(Neuron):
    """IF of InfLoR-SNN: `u <- leak * u + x`, fires at `u > 1/2` strictly; the gradient is that of a clamp to 0..1.

    reset: "subtract", a spike takes 1 off u (their soft reset), or "value", it sets u to 0. mpr: whether the gradient
    goes through the membrane potential rectifier, `rectified`; no spike depends on it, so a network is converted
    without. The un-rectified u is what is reset. With leak 1 and a soft reset the dynamics are those of an IF of
    threshold 1 that starts at 1/2.
    """

    def __init__(self, reset: str = "subtract", mpr: bool = True, leak: float = 1.0) -> None:
        super().__init__()
        if reset not in ("subtract", "value") or not 0 <= leak <= 1:
            raise ValueError(f"InfLoR has reset={reset!r}, leak={leak}; wanted 'subtract' or 'value', and 0 to 1")
        self.reset, self.mpr, self.leak = reset, mpr, leak

    def _turns(self, current: Tensor, keep: int, once: bool = False) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self._fused(_emit_inflor, once)(current, self.reset == "subtract", self.mpr, self.leak, keep)

    def extra_repr(self) -> str:
        return f"reset={self.reset!r}, mpr={self.mpr}, leak={self.leak}"


class _FireInfLoR(torch.autograd.Function):
    """1 where u > 1/2; the gradient is that of clamp(MPR(u), 0, 1), or of clamp(u, 0, 1)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, mpr: bool) -> Tensor:
        ctx.save_for_backward(u)
        ctx.mpr = mpr
        return (u > HALF).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (u,) = ctx.saved_tensors
        # 1 for 0 <= u <= 1, else 0, of floats: compiled for a CPU, saved booleans take as long to read as all the rest
        inside = 1 - torch.sign(u * (u - 1)).clamp(min=0)
        if ctx.mpr:
            inside = inside * (STEEPNESS / math.tanh(STEEPNESS)) * (1 - torch.tanh(3 * (u - HALF)).square())
        return gradients[0] * inside, None


def _emit_inflor(
    current: Tensor, soft: bool, mpr: bool, leak: float, keep: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    spikes, membranes = fire_leaky(current, leak, lambda u: _FireInfLoR.apply(u, mpr), soft)
    return (spikes.to(current.dtype), *kept(spikes, membranes, keep))


def inflor_neuron(m: InfLoR) -> IF:
    """As eventsnn runs it."""
    how: dict[str, Any] = {"threshold": HALF, "comparator": "gt", "reset": m.reset}
    if m.reset == "subtract":
        how["reset_amount"] = 1.0
    return IF(**how) if m.leak == 1 else LIF(alpha=m.leak, **how)


es.register(InfLoR, inflor_neuron, multi_step=True)


class TdBN(nn.Module):
    """Batch norm over samples and ticks times alpha / 2 (tdBN of Zheng et al. 2021 for a threshold of 1/2)."""

    def __init__(self, channels: int, alpha: float = 1.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.factor = alpha * HALF

    def forward(self, x: Tensor) -> Tensor:
        """(ticks * N, C, H, W), one statistic for all ticks."""
        return self.norm(x) * self.factor


class InfLoRBlock(nn.Module):
    """conv-tdBN-neuron-conv-tdBN, joined as a current by the shortcut, and a neuron.

    Where the grid or the channels change, the shortcut is an average pool, a 1x1 convolution and a tdBN, and both
    halves have 1/sqrt(2). The last norm's weights begin at 0.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, neuron: Callable[[], Neuron]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = TdBN(channels)
        self.spike1 = neuron()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        changes = stride != 1 or channels_in != channels
        alpha = math.sqrt(0.5) if changes else 1.0
        self.bn2 = TdBN(channels, alpha)
        nn.init.zeros_(self.bn2.norm.weight)
        self.shortcut = nn.Sequential()
        if changes:
            pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
            projection = nn.Conv2d(channels_in, channels, 1, bias=False)
            self.shortcut = nn.Sequential(pool, projection, TdBN(channels, alpha))
        self.spike2 = neuron()

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels, H / stride, W / stride)."""
        hidden = self.spike1(self.bn1(self.conv1(x)))
        return self.spike2(self.bn2(self.conv2(hidden)) + self.shortcut(x))


def inflor_resnet(
    blocks: tuple[int, ...],
    width: int,
    classes: int,
    neuron: Callable[[], Neuron],
    *,
    inputs: int = 3,
    stem: int = 1,
    pooled: bool = False,
    shrink: int = 1,
) -> nn.Sequential:
    """A ResNet of `InfLoRBlock`s.

    stem: how many 3x3 convolutions stand in front. pooled: whether the stem ends in a 2x2 pool.
    shrink: side of the average pool that an event camera's frames go through first.
    """
    layers: dict[str, nn.Module] = {"shrink": nn.AvgPool2d(shrink)} if shrink > 1 else {}
    before = inputs
    for number in range(1, stem + 1):
        layers[f"conv{number}"] = nn.Conv2d(before, width, 3, 1, 1, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(width)
        layers[f"spike{number}"] = neuron()
        before = width
    if pooled:
        layers["pool"] = nn.AvgPool2d(2)
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage and not block else 1
            layers[f"block{stage + 1}_{block + 1}"] = InfLoRBlock(before, width << stage, stride, neuron)
            before = width << stage
    layers |= {"mean": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(before, classes)}
    return nn.Sequential(OrderedDict(layers))


def inflor(inputs: int, classes: int, shrink: int, reset: str, mpr: bool) -> nn.Sequential:
    """7 convolutions of 16 to 64 channels: what two cores train in an hour."""
    return inflor_resnet((1, 1, 1), 16, classes, lambda: InfLoR(reset, mpr), inputs=inputs, shrink=shrink)


_CIFAR, _OBJECTS = (3, 10, 1), (2, 8, 4)  # DVS128's pixels are pooled 4 x 4 first
inflor_hard = partial(inflor, *_CIFAR, "value", False)
inflor_soft = partial(inflor, *_CIFAR, "subtract", False)
inflor_hard_mpr = partial(inflor, *_CIFAR, "value", True)
inflor_soft_mpr = partial(inflor, *_CIFAR, "subtract", True)
inflor_objects_hard = partial(inflor, *_OBJECTS, "value", False)
inflor_objects_soft = partial(inflor, *_OBJECTS, "subtract", False)
inflor_objects_hard_mpr = partial(inflor, *_OBJECTS, "value", True)
inflor_objects_soft_mpr = partial(inflor, *_OBJECTS, "subtract", True)


def inflor_res20m() -> nn.Sequential:
    """`res20m` of the authors' code: a stem of three convolutions and a pool, then ResNet-18's blocks."""
    return inflor_resnet((2, 2, 2, 2), 64, 10, InfLoR, stem=3, pooled=True)
