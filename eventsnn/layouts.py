"""Architectures known by name, so that a checkpoint needs no code of its own.

`build` returns the PyTorch module of a state dict. What varies between copies of an architecture is read from the
checkpoint: numbers of channels and classes, the kind of shortcut, the name of the last layer, whether there is batch
norm. Layouts: the CIFAR ResNet of He et al. (2016), section 4.2, with option-A shortcuts or 1x1 convolutions, as in
github akamaster/pytorch_resnet_cifar10; ResNet-18/34 with a 3x3 stem and VGG, as in github kuangliu/pytorch-cifar and
torchvision; the spiking S-ResNet of Vicente-Sola et al., as in github VicenteAlex/Spiking_ResNet. Any other
architecture comes from the user's own factory.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from eventsnn.neurons import LIF
from eventsnn.torch_trace import register

Checkpoint = Mapping[str, Any]

RESNETS = {  # blocks in each stage
    "resnet20": (3, 3, 3),
    "resnet32": (5, 5, 5),
    "resnet44": (7, 7, 7),
    "resnet56": (9, 9, 9),
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
}
VGGS = {"vgg11": (1, 1, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3)}  # convolutions in each stage; a pooling layer ends it
# S-ResNet by the way its shortcuts join: behind the spikes, in front of them, or as logic on them
SRESNETS = {"sresnet": "spikes", "sresnet-current": "current", "sresnet-and": "and", "sresnet-iand": "iand"}
SRESNET_LEAK = 0.874  # of the authors' command line
BOOSTED = 10  # outputs of the authors' "boosting" that are averaged to one class
MODELS = (*RESNETS, *VGGS, *(f"{name}-average" for name in VGGS), *SRESNETS, "sresnet-boosting")


def build(model_name: str, state_dict: Checkpoint) -> Any:
    """The `nn.Module` called model_name, in evaluation mode, with the weights of a state dict.

    model_name: one of `MODELS` ("vgg16" pools by maximum as in torchvision, "vgg16-average" by average; of "sresnet"
    the others are `spiking_resnet`'s joins, and "sresnet-boosting" averages ten outputs to a class), or
    "package.module:factory", a function of no arguments that returns an `nn.Module`; the current folder is searched
    first. state_dict: tensors by name, from `import_torch.load_checkpoint`. Raises ValueError when the name is unknown,
    the factory cannot be used, or the weights do not fit, naming the first of them.
    """
    if ":" in model_name:
        module = _from_factory(model_name)
    elif model_name in RESNETS:
        module = _resnet(model_name, state_dict)
    elif model_name.removesuffix("-average") in VGGS:
        module = _vgg(model_name, state_dict)
    elif model_name in MODELS:
        state_dict = _sresnet_weights(model_name, state_dict)
        module = _sresnet(model_name, state_dict)
    else:
        raise ValueError(f"unknown model {model_name!r}; choose {', '.join(MODELS)} or give package.module:factory")
    _fill(module, state_dict, model_name)
    return module.eval()


def _from_factory(model_name: str) -> Any:
    from torch import nn

    place, _, name = model_name.partition(":")
    sys.path.insert(0, "")  # a console script does not look into the current folder by itself
    try:
        factory: Callable[[], Any] = getattr(importlib.import_module(place), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"model {model_name!r} cannot be imported: {str(error).splitlines()[0]}") from None
    finally:
        sys.path.remove("")
    try:
        module = factory()
    except TypeError as error:
        raise ValueError(f"model {model_name!r}: calling {name}() fails ({str(error).splitlines()[0]})") from None
    if not isinstance(module, nn.Module):
        raise ValueError(f"model {model_name!r} gives a {type(module).__name__}, wanted a torch.nn.Module")
    return module


def _fill(module: Any, state_dict: Checkpoint, model_name: str) -> None:
    """Load the weights, or say in one sentence what does not fit. Step counters of batch norm may be absent."""
    wanted, given = module.state_dict(), dict(state_dict)
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in given if key not in wanted and not key.endswith("num_batches_tracked")]
    for what, keys in (("lacks", missing), ("has weights unknown to the model:", unexpected)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ValueError(f"the checkpoint does not fit {model_name}: it {what} {', '.join(keys[:3])}{more}")
    for key, tensor in wanted.items():
        if key in given and given[key].shape != tensor.shape:
            raise ValueError(
                f"the checkpoint does not fit {model_name}: {key} has shape {tuple(given[key].shape)}, "
                f"wanted {tuple(tensor.shape)}"
            )
    module.load_state_dict({key: given[key] for key in wanted if key in given}, strict=False)


def _shape(state_dict: Checkpoint, key: str, dimensions: int, model_name: str) -> tuple[int, ...]:
    """Shape of one weight of the checkpoint, from which the layout takes its sizes."""
    shape = tuple(state_dict[key].shape) if key in state_dict else ()
    if len(shape) != dimensions:
        raise ValueError(f"the checkpoint does not fit {model_name}: it lacks {key} with {dimensions} dimensions")
    return shape


# -------------------------------------------------------------------------------------------------------------- ResNet


def _resnet(model_name: str, state_dict: Checkpoint) -> Any:
    """conv1-bn1-ReLU, stages layer1..n of basic blocks that double channels and halve the grid, mean, linear or fc."""
    import torch.nn.functional as F
    from torch import nn

    width, inputs, *kernel = _shape(state_dict, "conv1.weight", 4, model_name)
    if kernel != [3, 3]:
        raise ValueError(
            f"the checkpoint's conv1 is {kernel[0]}x{kernel[1]}, but {model_name} here is the CIFAR layout with a 3x3 "
            "stem; give your own as package.module:factory"
        )
    head = "fc" if "fc.weight" in state_dict else "linear"
    classes, _ = _shape(state_dict, f"{head}.weight", 2, model_name)
    branch = "downsample" if any(".downsample." in key for key in state_dict) else "shortcut"
    learned = any(f".{branch}." in key for key in state_dict)

    class ZeroPadded(nn.Module):
        """Option A: every second position, new channels silent on both sides."""

        def __init__(self, stride: int, spare: int) -> None:
            super().__init__()
            self.stride, self.before, self.after = stride, spare // 2, spare - spare // 2

        def forward(self, x: Any) -> Any:
            return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))

    class Block(nn.Module):
        def __init__(self, channels_in: int, channels: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)
            shortcut: nn.Module = nn.Sequential()
            if stride != 1 or channels_in != channels:
                if learned:
                    projection = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
                    shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))
                else:
                    shortcut = ZeroPadded(stride, channels - channels_in)
            self.add_module(branch, shortcut)

        def forward(self, x: Any) -> Any:
            hidden = F.relu(self.bn1(self.conv1(x)))
            return F.relu(self.bn2(self.conv2(hidden)) + getattr(self, branch)(x))

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, width, 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.stages, before = [], width
            for number, blocks in enumerate(RESNETS[model_name]):
                channels, parts = width << number, []
                for block in range(blocks):
                    parts.append(Block(before, channels, 2 if number and not block else 1))
                    before = channels
                self.stages.append(f"layer{number + 1}")
                self.add_module(self.stages[-1], nn.Sequential(*parts))
            self.add_module(head, nn.Linear(before, classes))

        def forward(self, x: Any) -> Any:
            x = F.relu(self.bn1(self.conv1(x)))
            for stage in self.stages:
                x = getattr(self, stage)(x)
            return getattr(self, head)(x.mean((2, 3)))

    return ResNet()


# ----------------------------------------------------------------------------------------------------------------- VGG


def _vgg(model_name: str, state_dict: Checkpoint) -> Any:
    """features.N: 3x3 convolutions, batch norm or not, ReLU, a pooling layer after each stage; classifier: linear."""
    from torch import nn

    stages = VGGS[model_name.removesuffix("-average")]
    pool = nn.AvgPool2d if model_name.endswith("-average") else nn.MaxPool2d
    normed = any(re.fullmatch(r"features\.\d+\.running_mean", key) for key in state_dict)
    layers: list[nn.Module] = []
    channels_in = 0
    for convolutions in stages:
        for _ in range(convolutions):
            name = f"features.{len(layers)}"
            channels, before, *_ = _shape(state_dict, f"{name}.weight", 4, model_name)
            channels_in = channels
            layers.append(nn.Conv2d(before, channels, 3, padding=1, bias=f"{name}.bias" in state_dict))
            if normed:
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU())
        layers.append(pool(2, 2))

    single = "classifier.weight" in state_dict
    found = (re.fullmatch(r"classifier\.(\d+)\.weight", key) for key in state_dict)
    places = [int(match[1]) for match in found if match]
    first = "classifier" if single else f"classifier.{min(places, default=0)}"
    size = round((_shape(state_dict, f"{first}.weight", 2, model_name)[1] / channels_in) ** 0.5)

    def linear(name: str) -> nn.Linear:
        outputs, inputs = _shape(state_dict, f"{name}.weight", 2, model_name)
        return nn.Linear(inputs, outputs, bias=f"{name}.bias" in state_dict)

    steps: list[nn.Module] = []  # between two linear layers the first free place is a ReLU, others were dropout
    for place in range(0 if single else max(places, default=0) + 1):
        if place in places:
            steps.append(linear(f"classifier.{place}"))
        else:
            steps.append(nn.ReLU() if place - 1 in places else nn.Identity())

    class VGG(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(*layers)
            # torchvision's classifier reads a grid of 7x7, made from any size; CIFAR's reads what is left
            self.avgpool = nn.AdaptiveAvgPool2d(size) if size > 1 else nn.Identity()
            self.classifier = linear("classifier") if single else nn.Sequential(*steps)

        def forward(self, x: Any) -> Any:
            return self.classifier(self.avgpool(self.features(x)).flatten(1))

    return VGG()


# ------------------------------------------------------------------------------------------------------------ S-ResNet


def spiking_resnet(
    blocks: int,
    width: int,
    classes: int,
    neuron: Callable[[], Any],
    norm: Callable[[int], Any],
    *,
    inputs: int = 3,
    stride: int = 1,
    join: str = "spikes",
) -> Any:
    """The S-ResNet of Vicente-Sola et al. (arXiv 2111.05955) as an `nn.Module`, with their names of layers.

    One convolution and three stages of `blocks` pairs of 3x3 convolutions, of width, 2 and 4 x width channels, the
    second and third stage on half the grid of the one before; each followed by norm(channels) and a neuron; then the
    mean over positions and a linear layer without bias. stride: of the first convolution (2 in their variant for event
    cameras, with inputs 2).

    join: how a shortcut meets the second convolution of a pair. "spikes": it is added to the spikes, whose sums, whole
    numbers and behind a projection real ones, are what the next convolution gets; "current": it is added to the current
    in front of the neuron; "and", "iand": (spike) x (shortcut) and (1 - spike) x (shortcut), of binary spikes (SEW of
    Fang et al., NeurIPS 2021). Where the grid shrinks, the shortcut is a 1x1 convolution and a norm, and for "and" and
    "iand" a neuron. Raises ValueError for another join.
    """
    if join not in SRESNETS.values():
        raise ValueError(f"join is {join!r}, wanted {', '.join(SRESNETS.values())}")
    return _spiking_layers()[2](blocks, width, classes, neuron, norm, inputs, stride, join)


@functools.cache
def _spiking_layers() -> tuple[Any, Any, Any]:
    """The authors' neuron, their batch norm through time (BNTT, Kim & Panda 2021), and the network, as classes."""
    from torch import nn

    class SoftLIF(nn.Module):
        """`u <- leak u + x`, a spike where u > 1, which takes 1 off. Called once a tick, from a fresh state."""

        def __init__(self) -> None:
            super().__init__()
            self.u: Any = 0.0

        def forward(self, x: Any) -> Any:
            u = SRESNET_LEAK * self.u + x
            spikes = (u > 1).to(x.dtype)
            self.u = u - spikes
            return spikes

    class BNTT(nn.ModuleList):
        """One batch norm a tick."""

        def __init__(self, channels: int, ticks: int) -> None:
            super().__init__(nn.BatchNorm2d(channels, eps=1e-4) for _ in range(ticks))

    class SResNet(nn.Module):
        def __init__(
            self, blocks: int, width: int, classes: int, neuron: Any, norm: Any, inputs: int, stride: int, join: str
        ) -> None:
            super().__init__()
            self.join, self.shrinks = join, (2 + 2 * blocks, 2 + 4 * blocks)
            convolutions, norms, projections, projected = [], [], [], []
            before = inputs
            for i in range(6 * blocks + 1):
                channels = width << max(0, (i - 1) // (2 * blocks))
                step = stride if i == 0 else 2 if i + 1 in self.shrinks else 1
                convolutions.append(nn.Conv2d(before, channels, 3, step, 1, bias=False))
                norms.append(norm(channels))
                if i in self.shrinks:
                    projections.append(nn.Conv2d(channels // 2, channels, 1, 2, bias=False))
                    projected.append(norm(channels))
                before = channels
            self.conv_list, self.bntt_list = nn.ModuleList(convolutions), nn.ModuleList(norms)
            self.conv1x1_list, self.bn_conv1x1_list = nn.ModuleList(projections), nn.ModuleList(projected)
            self.fc = nn.Linear(before, classes, bias=False)
            self.neurons = nn.ModuleList(neuron() for _ in convolutions)
            binary = join in ("and", "iand")
            self.shortcuts = nn.ModuleList(neuron() if binary else nn.Identity() for _ in projections)

        def forward(self, x: Any) -> Any:
            """Class scores of a tick (N, classes) for (N, inputs, H, W)."""
            layers = zip(self.conv_list, self.bntt_list, self.neurons, strict=True)
            shortcut: Any = None
            for i, (convolution, norm, neuron) in enumerate(layers):
                current = norm(convolution(x))
                if i in self.shrinks:
                    k = self.shrinks.index(i)
                    shortcut = self.shortcuts[k](self.bn_conv1x1_list[k](self.conv1x1_list[k](shortcut)))
                if i % 2 or i == 0:
                    x = neuron(current)
                elif self.join == "current":
                    x = neuron(current + shortcut)
                elif self.join == "spikes":
                    x = neuron(current) + shortcut
                else:
                    spikes = neuron(current)
                    x = spikes * shortcut if self.join == "and" else (1 - spikes) * shortcut
                if i % 2 == 0:
                    shortcut = x
            return self.fc(x.mean((2, 3)))

    register(SoftLIF, lambda _: LIF(alpha=SRESNET_LEAK, threshold=1.0, comparator="gt", reset="subtract"))
    register(BNTT, norm_tables, norm=True)
    return SoftLIF, BNTT, SResNet


def norm_tables(norms: Any) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) of one batch norm a tick in evaluation mode, both (ticks, channels) float64."""
    scales, shifts = [], []
    for norm in norms:
        names = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        gamma, beta, mean, variance = (each.detach().cpu().double().numpy() for each in names)
        scales.append(gamma / np.sqrt(variance + norm.eps))
        shifts.append(beta - mean * scales[-1])
    return np.stack(scales), np.stack(shifts)


def _sresnet_weights(model_name: str, state_dict: Checkpoint) -> Checkpoint:
    """The weights under one name each: the authors' checkpoints hold some twice. Boosted outputs are averaged."""
    found = {}
    for key, tensor in state_dict.items():
        for pattern, name, shift in (
            (r"conv(\d+)\.", "conv_list", 1),
            (r"bntt(\d+)\.", "bntt_list", 1),
            (r"conv_resize_(\d+)\.", "conv1x1_list", 1),
            (r"resize_bn_(\d+)\.", "bn_conv1x1_list", 1),
        ):
            match = re.match(pattern, key)
            if match:
                key = f"{name}.{int(match[1]) - shift}.{key[match.end() :]}"
        found[key] = tensor
    if model_name == "sresnet-boosting":
        outputs, features = _shape(found, "fc.weight", 2, model_name)
        if outputs % BOOSTED:
            raise ValueError(f"the checkpoint does not fit {model_name}: fc has {outputs} outputs, wanted tens of them")
        found["fc.weight"] = found["fc.weight"].reshape(outputs // BOOSTED, BOOSTED, features).mean(1)
    return found


def _sresnet(model_name: str, state_dict: Checkpoint) -> Any:
    """Sizes, ticks among them, from the weights; two input channels are an event camera's, whose grid is halved."""
    neuron, norm, _ = _spiking_layers()
    width, inputs, *_ = _shape(state_dict, "conv_list.0.weight", 4, model_name)
    classes, _ = _shape(state_dict, "fc.weight", 2, model_name)
    layers = sum(re.fullmatch(r"conv_list\.\d+\.weight", key) is not None for key in state_dict)
    ticks = sum(re.fullmatch(r"bntt_list\.0\.\d+\.weight", key) is not None for key in state_dict)
    if layers % 6 != 1 or layers < 7 or not ticks:
        raise ValueError(
            f"the checkpoint does not fit {model_name}: it has {layers} convolutions in conv_list and {ticks} norms in "
            "bntt_list.0, wanted 6 n + 1 and one for each tick"
        )
    join = SRESNETS.get(model_name, "spikes")
    stride = 2 if inputs == 2 else 1
    return spiking_resnet(
        layers // 6, width, classes, neuron, lambda c: norm(c, ticks), inputs=inputs, stride=stride, join=join
    )
