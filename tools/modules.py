"""Trainable modules, plain PyTorch: the QCFS activation, the same layer as spiking neurons, and the digits' network.

`QCFS` is the quantised activation of Bu et al. (ICLR 2022, arXiv 2303.04347). `spikes` runs a network of such
activations as integrate-and-fire neurons over ticks, with surrogate gradients, so the same weights can be trained as
either. Importing this file teaches `eventsnn.from_torch` what a QCFS is.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

import eventsnn as es
from eventsnn.neurons import IF


class QCFS(nn.Module):
    """Quantised clip-floor-shift activation: `y = theta * floor(clip(x / theta, 0, 1) * levels + 0.5) / levels`.

    threshold: theta, one learnable number. The floor is passed straight through in the gradients: dy/dx = 1 for
    0 < x < theta, else 0; dy/dtheta = (y - x) / theta for 0 < x < theta, 1 from theta on, 0 below.

    As a neuron it is IF with soft reset, `v0 = theta / 2`, that fires at `u >= theta` and emits theta: under a constant
    input its mean over `levels` ticks is y.
    """

    def __init__(self, levels: int = 8, threshold_init: float = 2.0) -> None:
        super().__init__()
        if levels < 1 or not threshold_init > 0:
            raise ValueError(f"QCFS has levels={levels}, threshold_init={threshold_init}; wanted both above 0")
        self.levels = levels
        self.threshold = nn.Parameter(torch.tensor(float(threshold_init)))

    def forward(self, x: Tensor) -> Tensor:
        """The quantised activation, in the shape of x."""
        return _Quantise.apply(x, self.threshold, self.levels)

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


def _as_neuron(module: QCFS) -> tuple[IF, float]:
    theta = float(module.threshold.detach())
    return IF(threshold=theta, v0=theta / 2), theta


es.register(QCFS, _as_neuron, activation=True)


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


def fire(current: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes and membranes after each tick, both (ticks, ...), of the neurons a QCFS stands for.

    current: (ticks, ...). Differentiable in both arguments by a surrogate, the reset included.
    """
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


def spikes(network: nn.Sequential, images: Tensor, ticks: int) -> tuple[list[Tensor], Tensor]:
    """The network as spiking neurons: spikes of each QCFS layer, and the last one's membrane minus threshold.

    images: (N, C, H, W), shown as a constant current. Spikes: (ticks, N, ...) for each QCFS layer, in order; margins:
    (ticks, N, classes). A layer that learns statistics (batch norm) sees all ticks as one batch. Raises ValueError when
    the last layer is not a QCFS.
    """
    if not isinstance(network[-1], QCFS):
        raise ValueError(f"the network ends in {type(network[-1]).__name__}, wanted a QCFS as output neurons")
    found: list[Tensor] = []
    x = images.unsqueeze(0)  # one tick stands for all of them until the first neurons: the current never changes
    for layer in network:
        if isinstance(layer, QCFS):
            current = x.expand(ticks, *x.shape[1:]) if len(x) == 1 else x
            emitted, membrane = fire(current, layer.threshold)
            found.append(emitted)
            x = emitted * layer.threshold
        else:
            x = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return found, membrane - network[-1].threshold


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
