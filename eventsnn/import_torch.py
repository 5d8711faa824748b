"""From PyTorch to a `Network`: thresholds, weights in units of spikes, and two ways of checking the result.

    checkpoint --load_checkpoint--> weights --layouts.build--> module --from_torch--> Network
                                                 conversion_check <-- images, verify <-- images or events

`torch_trace` makes a graph of the module and `torch_terms` reads it as populations and connections; this file balances
thresholds (Diehl et al. 2015, Rueckauer et al. 2017), keeps those of QCFS networks (Bu et al., ICLR 2022), and compares
the module with the network it became. `torch` is imported inside the functions that need it.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import math
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from eventsnn.inputs import Events, check_events, encoded, prepare_images
from eventsnn.ledger import wilson
from eventsnn.network import AdaptivePool, Connection, Network, Pool, Population, Shape, spread
from eventsnn.neurons import COMPARATORS, IF, LIF, Input
from eventsnn.torch_terms import Layer, Plan, carry, check_currents, draw, scaled
from eventsnn.torch_trace import at_tick, describe, first_line, forward, register
from eventsnn.watchdog import Fixed

__all__ = ["conversion_check", "from_torch", "load_checkpoint", "register", "verify"]

CONVERTER = "eventsnn.import_torch 1"
NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "unit": (None, None),
}
BATCH = 32
MEMORY = 1 << 30  # bytes of activations kept at once while thresholds are found
DENSE = 1 << 27  # bytes of spikes compared at once

# ------------------------------------------------------------------------------------------------------ checkpoints


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The tensors of a PyTorch checkpoint by name, read with `weights_only=True`: no code of the file is run.

    A state dict lying under "state_dict", "model", "net" or "model_state_dict" is taken out, and a "module." in front
    of every name (DataParallel) is removed. Raises ValueError, in one sentence, when there is no such file, it is not
    a PyTorch file, loading it would run code, or it holds something other than a state dict.
    """
    try:
        import torch
    except ImportError:
        raise ValueError("reading a checkpoint needs PyTorch: pip install 'eventsnn[torch]'") from None

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    with path.open("rb") as file:
        start = file.read(2)
    if not zipfile.is_zipfile(path) and start[:1] != b"\x80":
        raise ValueError(f"{path} is not a PyTorch checkpoint, wanted a file written by torch.save")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an odd pickle torch warns before it refuses it
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise a dozen kinds here, all of them meaning "not readable"
        raise ValueError(f"{path} {_why_unreadable(str(error))}") from None
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"{path} holds a {type(found).__name__}, wanted a state dict: tensors by name")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise ValueError(f"{path} is not a state dict: its entry {name!r} is a {kind}, wanted tensors by name")
    wrapped = all(name.startswith("module.") for name in found)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in found.items()}


def _why_unreadable(message: str) -> str:
    named = re.search(r"GLOBAL (\S+)", message)
    if named or "Unsupported" in message or "TorchScript" in message:
        what = f"names {named[1].rstrip('.')}" if named else "holds more than tensors"
        return f"{what}, so loading it could run code; save the model's state_dict() instead"
    return "is not a PyTorch checkpoint, or it is cut off; wanted a file written by torch.save"


# ------------------------------------------------------------------------------------------------- the public verbs


def from_torch(
    module: Any,
    example: Any,
    *,
    calibrate: Any = None,
    percentile: float = 99.9,
    normalise: str | None = None,
    readout: str = "sum",
    comparator: str = "ge",
    ticks: int | None = None,
    v0: str | float = "half",
    origin: Mapping[str, Any] | None = None,
) -> Network:
    """The spiking `Network` of a trained PyTorch module.

    module: an `nn.Module` from one tensor to class scores; it is copied, put in evaluation mode, and left as it was.
        ReLU networks are balanced: each population's threshold is the `percentile` of its non-zero activations over
        the images of `calibrate`, weights become W lambda_source / lambda and biases b / lambda, the threshold 1, with
        soft reset. Registered activations (QCFS) keep their own threshold, and what they emit is folded into the next
        weights. Registered spiking modules are carried over as they are, one call being one tick. Registered per-tick
        norms (TEBN, BNTT) become the tables `scale` and `shift` of the connections in front of them, behind which a run
        cannot go; where ReLUs or activations are balanced, such a norm is its mean over the ticks.
    example: a tensor or array (N, *input shape); only its shape counts.
    calibrate: images (N, *input shape), channels first: uint8 (divided by 255) or floats. Needed for ReLU and for
        readout="spikes". percentile 100 is lowered by 2^-20 of itself, or the largest activation would miss its own
        threshold by rounding.
    normalise: "imagenet", "cifar10", "unit", or "MEAN/STD" with comma-separated numbers ("0.5,0.5,0.5/0.2,0.2,0.2").
        It becomes part of the network, which normalises its images itself.
    readout: "sum", the last layer's outputs added up over the ticks, or "spikes", spiking output neurons whose
        threshold is the percentile of the positive outputs. A module that ends in neurons keeps them.
    comparator: "ge" or "gt", for ReLU, registered activations and spiking output neurons. v0: initial
        membrane of ReLU and output neurons, as a part of the threshold: "half", "zero" or a number.
    ticks: the network's default run length; with per-tick norms at most, and if left out, the length of their tables.
    origin: further JSON values to remember (checkpoint, sha256).

    Populations are called after the layer that drives them ("layer1.0.conv2"). Raises ValueError naming what cannot be
    carried over, and also when a converted layer does not reproduce the module's own values on a random input.
    """
    _check_options(percentile, readout, comparator)
    start = _initial_part(v0)
    mean, std = _normalisation(normalise)
    plan = draw(module, np.shape(example), readout)
    check_currents(plan)
    for layer in plan.layers.values():
        if layer.kind == "spiking" and not layer.multi_step:
            _probe(plan, layer)

    for layer in plan.layers.values():
        if layer.kind == "activation" and isinstance(layer.neuron, IF):
            layer.neuron = replace(layer.neuron, comparator=comparator)
    balanced = [layer for layer in plan.layers.values() if layer.kind in ("relu", "scores")]
    calibration: dict[str, Any] | None = None
    if balanced:
        if calibrate is None:
            raise ValueError(
                f"{len(balanced)} layers ({balanced[0].name!r} first) need thresholds from data; give images with "
                "calibrate="
            )
        whole = [layer for layer in plan.layers.values() if layer.multi_step]
        if whole:
            raise ValueError(
                f"{describe(plan.root, whole[0].at)} takes all ticks in one call, so no images can be sent through the "
                f"module to find the threshold of {balanced[0].name!r}; readout='sum' needs none for the output"
            )
        calibration = {"images": len(calibrate), "sha256": _content_hash(calibrate), "percentile": percentile}
        _balance(plan, balanced, calibrate, mean, std, percentile)
        for layer in balanced:
            layer.neuron = IF(threshold=1.0, comparator=comparator, v0=start)

    notes = {
        "converter": CONVERTER,
        "module": f"{type(module).__module__}.{type(module).__qualname__}",
        "folded": list(plan.folded),
        "thresholds": _threshold_notes(plan, percentile),
        "calibration": calibration,
        "normalise": normalise,
        **dict(origin or {}),
    }
    return _assemble(plan, mean, std, ticks, notes)


def conversion_check(
    module: Any,
    network: Network,
    images: Any,
    labels: Any,
    ticks_list: Sequence[int],
    simulate: Callable[..., Any],
    *,
    layer_images: int = 8,
    limit: float = 0.95,
) -> dict[str, Any]:
    """How much the conversion lost, and where: the trained module against its spiking network.

    images (N, *input shape), labels (N,). ticks_list: the run lengths to try. simulate: `eventsnn.simulate`. Returns
    JSON values: `ann` and a list `snn` (one for each run length) of {accuracy, interval} (Wilson, 95 %); `layers`, one
    for each neuron population in depth order, with `correlation` (Pearson, between the mean emission per tick, times
    what a spike stands for, and the activation, over all neurons of the first `layer_images` images at the longest
    run), `clipped` (share of the non-zero activations above the threshold, which no rate can express) and the
    `threshold` in the module's unit; `first_below`: the first layer whose correlation is under `limit`, or None. In
    `ann` and the activations a per-tick norm is its mean over the ticks of its tables.
    Raises ValueError for a module of spiking neurons, which has no activations to compare with.
    """
    plan = _match(module, network)
    stepped = [layer.name for layer in plan.layers.values() if layer.kind == "spiking"]
    if stepped:
        raise ValueError(f"{stepped[0]!r} is a spiking module without an activation to compare with; use verify")
    labels = np.asarray(labels)
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels; wanted one label for each image")
    lengths = sorted({int(t) for t in ticks_list})
    if not lengths or lengths[0] < 1:
        raise ValueError(f"run lengths are {list(ticks_list)}, wanted one or more whole numbers of ticks, 1 or more")

    norms = at_tick(plan.norms, None)
    batches = _batches(plan, network, images)
    scores = np.concatenate([np.asarray(forward(plan.root, plan.graph, x, norms)) for x in batches])
    right = int(np.sum(scores.reshape(len(scores), -1).argmax(1) == labels))
    ann = {"accuracy": right / len(labels), "interval": list(wilson(right, len(labels)))}
    snn = []
    for t, predictions in _predictions(network, images, lengths, simulate):
        right = int(np.sum(predictions == labels))
        snn.append({"ticks": t, "accuracy": right / len(labels), "interval": list(wilson(right, len(labels)))})

    layers = _compare_rates(plan, network, images[:layer_images], lengths[-1], simulate)
    below = [row["name"] for row in layers if row["correlation"] is not None and row["correlation"] < limit]
    return {
        "images": len(labels),
        "ann": ann,
        "snn": snn,
        "layers": layers,
        "layer_images": min(layer_images, len(labels)),
        "layer_ticks": lengths[-1],
        "limit": limit,
        "first_below": below[0] if below else None,
    }


def verify(
    module: Any,
    network: Network,
    inputs: Any,
    simulate: Callable[..., Any],
    ticks: int | None = None,
    *,
    dtype: str = "float32",
) -> dict[str, Any]:
    """The converted network against the module it came from, spike for spike.

    The module is stepped in PyTorch, its batch norms not folded, with its ReLUs and activations replaced by neurons
    that emit their amplitude; spiking modules are stepped themselves, unless they take all ticks in one call: then the
    neuron of their converter is. Per-tick norms are computed by their converters' tables. From the network it takes
    only the balanced thresholds, the comparator and v0.

    inputs: images (N, *input shape), or `Events` for a network that takes them. Where the input is events (the
    encodings "events", "rate" and "latency"), the module is shown how many each unit has in that tick, one frame
    (N, *input shape) a tick. simulate: `eventsnn.simulate`, run on them with dtype.

    Returns JSON values: `spikes` (PyTorch's) and `differing` (sample, neuron, tick with another count) in all and for
    each of `populations`; `agreeing`: samples without any difference; `first`, one for each differing sample, the
    first in (tick, layer) order: sample, tick, population, neuron, how often it fired in `torch` and in `eventsnn`,
    its `margin` |u - threshold| and the `rounding` a sum of its size may carry (8 n eps sum |terms|, n the number of
    terms, eps of the coarser of dtype and the stored weights, for folding rounds them), both in units of the threshold,
    and `tie`, whether the margin is within it. `first_difference` is the first of them or None; `outputs`: the largest
    difference of the summed outputs, None for spiking outputs.
    Raises ValueError when network and module do not belong together, or the network does not take such inputs.
    """
    import torch

    inputs = inputs if isinstance(inputs, Events) else np.asarray(inputs)
    if not len(inputs):
        raise ValueError("there are no samples; wanted at least one")
    plan = _match(module, network)
    ticks = ticks or network.ticks
    if not ticks or ticks < 1:
        raise ValueError("verify needs a number of ticks: the network has none, so give ticks=")
    kind = {"float32": torch.float32, "float64": torch.float64}.get(dtype)
    if kind is None:
        raise ValueError(f"dtype is {dtype!r}, wanted 'float32' or 'float64'")
    if isinstance(inputs, Events):
        check_events(inputs, network.input.size)  # before they are cut into parts
    plan.root.to(kind)
    names = [layer.name for layer in plan.layers.values() if isinstance(network[layer.name].neuron, IF)]
    totals = {name: {"spikes": 0, "differing": 0} for name in names}
    firsts: list[dict[str, Any]] = []
    outputs = 0.0

    neurons = sum(network[name].size for name in names)
    chunk = max(1, min(len(inputs), DENSE // (2 * max(neurons, 1) * ticks)))
    for begin in range(0, len(inputs), chunk):
        some = slice(begin, begin + chunk)
        part = inputs.take(some) if isinstance(inputs, Events) else inputs[some]
        run = simulate(network, part, ticks=ticks, watchdog=Fixed(), record="spikes", dtype=dtype, layout="chw")
        counts = {name: _dense_events(run, network, name, len(part), ticks) for name in names}
        stepped = _step(plan, network, part, ticks, kind, counts)
        for name, (spikes, differing) in stepped.totals.items():
            totals[name]["spikes"] += spikes
            totals[name]["differing"] += differing
        for first in stepped.firsts.values():
            bound = _rounding(network, run, part, first, dtype)
            tie = first["margin"] <= bound
            firsts.append({**first, "sample": begin + first["sample"], "rounding": bound, "tie": tie})
        if network.readout == "sum":
            theirs = np.asarray(run.outputs)[:, ticks - 1].reshape(len(part), -1)
            outputs = max(outputs, float(np.max(np.abs(theirs - stepped.scores.reshape(len(part), -1)))))

    firsts.sort(key=lambda first: first["sample"])
    return {
        "samples": len(inputs),
        "ticks": ticks,
        "dtype": dtype,
        "spikes": sum(t["spikes"] for t in totals.values()),
        "differing": sum(t["differing"] for t in totals.values()),
        "agreeing": len(inputs) - len(firsts),
        "populations": [{"name": name, **totals[name]} for name in names],
        "first": firsts,
        "first_difference": firsts[0] if firsts else None,
        "outputs": outputs if network.readout == "sum" else None,
    }


# ------------------------------------------------------------------------------------------------ options and images


def _check_options(percentile: float, readout: str, comparator: str) -> None:
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is {percentile}, wanted a number above 0 and up to 100")
    if readout not in ("sum", "spikes"):
        raise ValueError(f"readout is {readout!r}, wanted 'sum' or 'spikes'")
    if comparator not in COMPARATORS:
        raise ValueError(f"comparator is {comparator!r}, wanted 'ge' or 'gt'")


def _initial_part(v0: str | float) -> float:
    if isinstance(v0, str):
        if v0 not in ("half", "zero"):
            raise ValueError(f"v0 is {v0!r}, wanted 'half', 'zero' or a number (a part of the threshold)")
        return 0.5 if v0 == "half" else 0.0
    return float(v0)


def _normalisation(text: str | None) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """(mean, std) of a normalisation by name or as "MEAN/STD"."""
    if text is None:
        return None, None
    if text in NORMALISATIONS:
        return NORMALISATIONS[text]
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in text.split("/"))
    except ValueError:
        raise ValueError(
            f"normalise is {text!r}, wanted {', '.join(NORMALISATIONS)} or MEAN/STD, as in 0.5,0.5,0.5/0.2,0.2,0.2"
        ) from None
    if len(mean) != len(std) or not all(math.isfinite(m) for m in mean) or not all(0 < s < math.inf for s in std):
        raise ValueError(f"normalise is {text!r}, wanted as many standard deviations (above 0) as means")
    return mean, std


def _content_hash(images: Any) -> str:
    array = np.ascontiguousarray(images)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).hexdigest()


def _batches(plan: Plan, network: Network | None, images: Any, mean: Any = None, std: Any = None) -> Iterator[Any]:
    """The images as normalised tensors of the module's dtype, `BATCH` at a time."""
    import torch

    images = np.asarray(images)
    shape = plan.layers["input"].shape
    if images.shape[1:] != shape:
        raise ValueError(f"images have shape {images.shape}, wanted (N, {', '.join(map(str, shape))}), channels first")
    if not len(images):
        raise ValueError("there are no images; wanted at least one")
    if network is not None:
        mean, std = network.mean, network.std
    column = (-1,) + (1,) * (len(shape) - 1)
    for begin in range(0, len(images), BATCH):
        part = images[begin : begin + BATCH]
        x = torch.from_numpy(np.ascontiguousarray(part)).to(plan.dtype)
        if part.dtype == np.uint8:
            x = x / 255
        if not torch.isfinite(x).all():
            raise ValueError(f"images {begin} to {begin + len(part) - 1} hold NaN or infinity")
        if mean is not None:
            x = x - torch.tensor(mean, dtype=plan.dtype).reshape(column)
        if std is not None:
            x = x / torch.tensor(std, dtype=plan.dtype).reshape(column)
        yield x


# ----------------------------------------------------------------------------------------------------------- thresholds


@dataclass(eq=False)
class _Tail:
    """The largest of very many numbers, enough of them for one exact percentile of all that are above 0."""

    keep: int
    count: int = 0
    held: int = 0
    floor: float = 0.0
    parts: list[np.ndarray] = field(default_factory=list)

    def add(self, values: np.ndarray) -> None:
        self.count += int(np.count_nonzero(values > 0))
        part = values[values > self.floor]
        self.parts.append(part)
        self.held += part.size
        if self.held > 2 * self.keep + (1 << 16):
            self._shrink()

    def _shrink(self) -> None:
        values = np.concatenate(self.parts)
        if values.size > self.keep:
            values = np.partition(values, values.size - self.keep)[values.size - self.keep :]
            self.floor = float(values.min())  # as many as will ever be asked for are at least this large
        self.parts, self.held = [values], values.size

    def percentile(self, percent: float) -> float:
        """As numpy.percentile (linear) of everything above 0 that was added; 1 if nothing was."""
        if not self.count:
            return 1.0
        self._shrink()
        values = np.sort(self.parts[0])[::-1].astype(np.float64)
        place = (self.count - 1) * (percent / 100)
        below = min(math.floor(place), self.count - 1)
        rank = self.count - 1 - below  # from the largest down
        low, high = values[rank], values[max(rank - 1, 0)]
        return float(low + (high - low) * (place - below))


def _balance(plan: Plan, layers: list[Layer], images: Any, mean: Any, std: Any, percentile: float) -> None:
    """Set unit and amplitude of the layers to the percentile of their non-zero activations (methods of Rueckauer 2017).

    Exact: of each layer all values that can matter are kept. Layers go in groups that fit `MEMORY`, a pass each.
    """
    groups: list[dict[Any, tuple[Layer, _Tail]]] = [{}]
    room = MEMORY
    for layer in layers:
        total = math.prod(layer.shape) * len(images)
        tail = _Tail(math.ceil((total - 1) * (1 - percentile / 100)) + 2)
        size = 4 * min(total, 3 * tail.keep)
        if groups[-1] and size > room:
            groups.append({})
            room = MEMORY
        groups[-1][layer.at] = (layer, tail)
        room -= size
    for group in groups:

        def watch(node: Any, first: Any, group: dict[Any, tuple[Layer, _Tail]] = group) -> None:
            if node in group:
                group[node][1].add(first.numpy().ravel())

        for x in _batches(plan, None, images, mean, std):
            forward(plan.root, plan.graph, x, at_tick(plan.norms, None), before=watch)
        for layer, tail in group.values():
            value = tail.percentile(percentile) * (1 - 2.0**-20 if percentile == 100 else 1)
            if not math.isfinite(value):
                raise ValueError(f"the activations of {layer.name!r} are infinite; check weights and images")
            layer.unit = layer.amplitude = value
    for layer in plan.layers.values():
        if layer.kind == "gate":
            layer.amplitude = plan.layers[layer.terms[0].source].amplitude


def _threshold_notes(plan: Plan, percentile: float) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    for layer in plan.layers.values():
        if layer.kind in ("relu", "scores"):
            what = "non-zero activations" if layer.kind == "relu" else "positive outputs"
            notes[layer.name] = {"value": layer.unit, "from": f"percentile {percentile:g} of {what}"}
        elif layer.kind in ("activation", "spiking") and isinstance(layer.neuron, IF):
            threshold = layer.neuron.threshold
            value = float(threshold) if np.ndim(threshold) == 0 else "an array"
            origin = describe(plan.root, layer.at)
            notes[layer.name] = {"value": value, "amplitude": layer.amplitude, "from": origin}
    return notes


def _probe(plan: Plan, layer: Layer) -> None:
    """Drive a spiking module for a few ticks and compare it with the neuron its converter made of it."""
    import torch

    neuron, seen = layer.neuron, plan.inputs[layer.at].shape[1:]
    assert isinstance(neuron, IF)
    module = copy.deepcopy(plan.root.get_submodule(layer.at.target))
    what = f"the converter of {describe(plan.root, layer.at)}"
    generator = torch.Generator().manual_seed(2)
    size = float(np.max(np.abs(neuron.threshold))) or 1.0
    state = _Membrane(neuron, (1, *layer.shape), torch.float64)
    sure = torch.ones((1, *layer.shape), dtype=torch.bool)  # what once came close to a tie may go either way after it
    for tick in range(12):
        current = size * (0.5 + torch.randn((1, *layer.shape), generator=generator, dtype=torch.float64))
        current = current.to(plan.dtype)
        try:
            with torch.no_grad():
                given = module(current.reshape(1, *seen))
        except Exception as error:  # whatever the user's module raises
            raise ValueError(f"{what} cannot be tried: calling the module fails ({first_line(error)})") from None
        given = (given[0] if isinstance(given, tuple) else given).double().reshape(1, *layer.shape)
        emitted = layer.amplitude * state.turn(current.double())
        sure &= state.margin > 1e-5 * size
        wrong = sure & ((given - emitted).abs() > 1e-6 * abs(layer.amplitude))
        if wrong.any():
            unit = tuple(torch.nonzero(wrong)[0].tolist())
            raise ValueError(
                f"{what} made a neuron that emits {float(emitted[unit]):g} in tick {tick} where the module gives "
                f"{float(given[unit]):g}; correct the converter"
            )


# ---------------------------------------------------------------------------------------------------------- the Network


def _assemble(plan: Plan, mean: Any, std: Any, ticks: int | None, notes: dict[str, Any]) -> Network:
    """Populations and connections in the spikes' unit: weight x amplitude of the source / unit of the target."""
    dtype = np.float64 if str(plan.dtype) == "torch.float64" else np.float32
    populations, connections = [], []
    for layer in plan.layers.values():
        assert layer.neuron is not None
        populations.append(Population(layer.name, layer.shape, layer.neuron))
        for term in layer.terms:
            factor = 1.0 if layer.kind == "gate" else plan.layers[term.source].amplitude / layer.unit
            weight: Any = np.asarray(scaled(term.op, factor).weight).astype(dtype)
            if weight.ndim == 0:
                weight = float(weight)
            op = replace(term.op, weight=weight)
            bias = None if term.bias is None else (term.bias / layer.unit).astype(dtype)
            scale = None if term.scale is None else term.scale.astype(dtype)
            shift = None if term.shift is None else (term.shift / layer.unit).astype(dtype)
            connections.append(
                Connection(
                    term.source,
                    layer.name,
                    op=op,
                    before=term.before,
                    after=term.after,
                    bias=bias,
                    scale=scale,
                    shift=shift,
                )
            )
    network = Network(
        populations=tuple(populations),
        connections=tuple(connections),
        output=plan.output,
        encoding="direct",
        mean=mean,
        std=std,
        ticks=ticks,
        origin=notes,
    )
    return network if ticks is not None else replace(network, ticks=network.max_ticks)


def _match(module: Any, network: Network) -> Plan:
    """The plan of a module, with the thresholds of the network that was made from it."""
    plan = draw(module, (1, *network.input.shape), network.readout)
    drawn = {name: layer.shape for name, layer in plan.layers.items()}
    stored = {population.name: population.shape for population in network.populations}
    if drawn != stored:
        odd = next(iter(sorted(set(drawn.items()) ^ set(stored.items()))))
        raise ValueError(
            f"the network was not converted from this module: population {odd[0]!r} of shape {odd[1]} is in one of "
            "them only"
        )
    notes = network.origin.get("thresholds", {})
    for layer in plan.layers.values():
        if layer.kind in ("relu", "scores"):
            if layer.name not in notes:
                raise ValueError(f"the network does not say where the threshold of {layer.name!r} came from")
            layer.unit = layer.amplitude = float(notes[layer.name]["value"])
        neuron = network[layer.name].neuron
        if layer.kind == "activation" and isinstance(layer.neuron, IF) and isinstance(neuron, IF):
            layer.neuron = replace(layer.neuron, comparator=neuron.comparator)
        elif layer.kind in ("relu", "scores"):
            layer.neuron = neuron
    for layer in plan.layers.values():
        if layer.kind == "gate":
            layer.amplitude = plan.layers[layer.terms[0].source].amplitude
    return plan


# -------------------------------------------------------------------------------------------------- how much was lost


def _predictions(
    network: Network, images: Any, lengths: Sequence[int], simulate: Callable[..., Any]
) -> Iterator[tuple[int, np.ndarray]]:
    """Predicted classes at each run length; summed outputs of one long run hold the shorter ones."""
    if network.readout == "sum":
        outputs = np.asarray(simulate(network, images, ticks=lengths[-1], watchdog=Fixed()).outputs)
        for t in lengths:
            yield t, outputs[:, t - 1].reshape(len(outputs), -1).argmax(1)
    else:
        for t in lengths:  # ties of spike counts are settled by membranes, which only the run knows
            yield t, np.asarray(simulate(network, images, ticks=t, watchdog=Fixed()).predictions)


def _compare_rates(
    plan: Plan, network: Network, images: Any, ticks: int, simulate: Callable[..., Any]
) -> list[dict[str, Any]]:
    layers = [layer for layer in plan.layers.values() if layer.kind in ("relu", "activation", "scores")]
    nodes = {layer.at: layer for layer in layers}
    wanted: dict[str, list[np.ndarray]] = {layer.name: [] for layer in layers}
    rates: dict[str, list[np.ndarray]] = {layer.name: [] for layer in layers}

    def watch(node: Any, value: Any) -> None:
        if node in nodes:
            wanted[nodes[node].name].append(value.clamp(min=0).numpy().reshape(len(value), -1).astype(np.float64))

    for begin in range(len(images)):  # one at a time: the events of a deep network fill memory
        part = images[begin : begin + 1]
        for x in _batches(plan, network, part):
            forward(plan.root, plan.graph, x, at_tick(plan.norms, None), after=watch)
        run = simulate(network, part, ticks=ticks, watchdog=Fixed(), record="spikes")
        for layer in layers:
            events = run.events[run.events["population"] == _index(network, layer.name)]
            counts = np.bincount(events["neuron"], events["value"], minlength=network[layer.name].size)
            rates[layer.name].append(counts[None] / ticks * layer.amplitude)
    rows = []
    for layer in layers:
        activation, rate = np.concatenate(wanted[layer.name]), np.concatenate(rates[layer.name])
        firing = activation > 0
        rows.append(
            {
                "name": layer.name,
                "correlation": _correlation(activation, rate),
                "clipped": float(np.mean(activation[firing] > layer.amplitude)) if firing.any() else 0.0,
                "threshold": layer.amplitude,
                "rate": float(np.mean(rate) / layer.amplitude),
            }
        )
    return rows


def _correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's, or None where both are constant; 0 where only one is."""
    flat = [float(np.ptp(values)) == 0 for values in (x, y)]
    if all(flat):
        return None
    return 0.0 if any(flat) else float(np.corrcoef(x.ravel(), y.ravel())[0, 1])


def _index(network: Network, name: str) -> int:
    return next(i for i, population in enumerate(network.populations) if population.name == name)


# ------------------------------------------------------------------------------------------------- spike for spike


@dataclass(eq=False)
class _Membrane:
    """A grid of neurons stepped densely in PyTorch, by the rules in `neurons`; the slow twin of the engine."""

    neuron: IF
    shape: tuple[int, ...]  # (N, *population)
    dtype: Any
    u: Any = None
    margin: Any = None  # |u - threshold| at the last test
    owed: Any = None
    silent: Any = None

    def _parameter(self, value: Any) -> Any:
        import torch

        array = torch.as_tensor(np.asarray(value), dtype=self.dtype)
        return array.reshape(-1, *(1,) * (len(self.shape) - 2)) if array.ndim == 1 else array

    def _leak(self, u: Any) -> Any:
        assert isinstance(self.neuron, LIF)
        rest = self._parameter(self.neuron.rest)
        return rest + self._parameter(self.neuron.alpha) * (u - rest)

    def _reset(self, u: Any, fired: Any) -> Any:
        import torch

        if self.neuron.reset == "subtract":
            return torch.where(fired, u - self._parameter(self.neuron.subtracts), u)
        if self.neuron.reset == "value":
            return torch.where(fired, self._parameter(self.neuron.reset_value), u)
        return u

    def turn(self, current: Any) -> Any:
        """Take one tick's current (N, *population) and return the spikes of each neuron."""
        import torch

        neuron = self.neuron
        if self.u is None:
            self.u = self._parameter(neuron.v0).expand(self.shape).clone()
            self.owed = torch.zeros(self.shape, dtype=torch.bool)
            self.silent = torch.zeros(self.shape, dtype=torch.int64)
        u, resting = self.u, self.silent > 0
        if isinstance(neuron, LIF) and neuron.leak == "before":
            u = self._leak(u)
        drive = self._parameter(neuron.gain) * current
        u = u + (torch.where(resting, torch.zeros_like(drive), drive) if neuron.discards else drive)
        if neuron.v_min is not None:
            u = torch.maximum(u, self._parameter(neuron.v_min))
        if neuron.reset_delay:
            u = self._reset(u, self.owed)
        threshold = self._parameter(neuron.threshold)
        reaches = torch.ge if neuron.comparator == "ge" else torch.gt
        self.margin = (u - threshold).abs()
        fired = reaches(u, threshold) & ~resting
        counts = fired.to(self.dtype)
        if neuron.reset_delay:
            self.owed = fired
        else:
            u = self._reset(u, fired)
        while neuron.multi_spike and fired.any():
            fired = reaches(u, threshold) & fired
            counts = counts + fired
            u = self._reset(u, fired)
        if isinstance(neuron, LIF) and neuron.leak == "after":
            u = self._leak(u)
        self.silent = torch.where(counts > 0, torch.full_like(self.silent, neuron.refractory), self.silent - 1)
        self.u = u
        return counts


@dataclass(eq=False)
class _Stepped:
    totals: dict[str, list[int]]
    firsts: dict[int, dict[str, Any]]
    scores: Any


def _step(plan: Plan, network: Network, inputs: Any, ticks: int, kind: Any, counts: dict[str, np.ndarray]) -> _Stepped:
    """Step the traced module over `ticks` and compare every neuron's spikes with `counts` (N, ticks, neurons)."""
    root = copy.deepcopy(plan.root)  # spiking modules start from a fresh state
    plan = replace(plan, dtype=kind)
    cells = {
        name: _Membrane(layer.neuron, (len(inputs), *layer.shape), kind)
        for name, layer in plan.layers.items()
        if isinstance(layer.neuron, IF)
    }
    result = _Stepped({name: [0, 0] for name in cells}, {}, 0)

    def fire(layer: Layer, node: Any, args: tuple[Any, ...]) -> Any:
        current = args[0].reshape(len(inputs), *layer.shape) / layer.unit
        cell = cells[layer.name]
        spikes = cell.turn(current)
        given: Any = spikes.reshape(args[0].shape) * layer.amplitude
        if layer.kind == "spiking" and not layer.multi_step:  # it decides; our neuron is stepped along for its margin
            given = root.get_submodule(node.target)(*args)
            emitted = given[0] if isinstance(given, tuple) else given
            spikes = (emitted / layer.amplitude).round().reshape(spikes.shape)
        compare(layer, spikes.reshape(len(inputs), -1).numpy(), cell)
        return given

    def compare(layer: Layer, spikes: np.ndarray, cell: _Membrane) -> None:
        theirs = counts[layer.name][:, tick]
        samples, neurons = np.nonzero(spikes != theirs)
        total = result.totals[layer.name]
        total[0] += int(spikes.sum())
        total[1] += len(samples)
        for sample, neuron in zip(samples.tolist(), neurons.tolist()):
            if sample in result.firsts:
                continue
            threshold = np.broadcast_to(cell._parameter(cell.neuron.threshold).numpy(), layer.shape).ravel()[neuron]
            margin = float(cell.margin[sample].reshape(-1)[neuron]) / abs(float(threshold) or 1.0)
            result.firsts[sample] = {
                "sample": sample,
                "tick": tick,
                "population": layer.name,
                "neuron": neuron,
                "torch": int(spikes[sample, neuron]),
                "eventsnn": int(theirs[sample, neuron]),
                "margin": margin,
            }

    instead = {layer.at: functools.partial(fire, layer, layer.at) for n, layer in plan.layers.items() if n in cells}
    for tick, x in enumerate(_shown(plan, network, inputs, ticks)):
        scores = forward(root, plan.graph, x, at_tick(plan.norms, tick) | instead)
        result.scores = result.scores + (scores[0] if isinstance(scores, tuple) else scores)
    result.scores = np.asarray(result.scores)
    return result


def _shown(plan: Plan, network: Network, inputs: Any, ticks: int) -> Iterator[Any]:
    """What the module sees in each tick, (N, *input shape): the images, or how many events every unit has."""
    import torch

    if network.encoding == "direct":
        x = torch.cat(list(_batches(plan, network, inputs)))
        for _ in range(ticks):
            yield x.clone()  # a module may work in place
        return

    samples = inputs if isinstance(inputs, Events) else prepare_images(inputs, network, "chw", "float64")
    tick_us = None if network.tick_seconds is None else network.tick_seconds * 1e6
    each = [encoded(samples, i, network.encoding, ticks, tick_us) for i in range(len(samples))]
    size = network.input.size
    tick, neuron = (np.concatenate(parts) for parts in zip(*each))
    unit = neuron + np.repeat(np.arange(len(each)), [len(events.tick) for events in each]) * size
    order = np.argsort(tick, kind="stable")
    edges = np.searchsorted(tick[order], np.arange(ticks + 1))
    for begin, end in itertools.pairwise(edges):
        counts = np.bincount(unit[order[begin:end]], minlength=len(each) * size)
        yield torch.from_numpy(counts).to(plan.dtype).reshape(-1, *network.input.shape)


def _dense_events(run: Any, network: Network, name: str, samples: int, ticks: int) -> np.ndarray:
    """Spikes of one population as (N, ticks, neurons) int16."""
    counts = np.zeros((samples, ticks, network[name].size), np.int16)
    events = run.events[run.events["population"] == _index(network, name)]
    np.add.at(counts, (events["sample"], events["time"], events["neuron"]), events["value"].astype(np.int16))
    return counts


def _rounding(network: Network, run: Any, inputs: Any, first: dict[str, Any], dtype: str) -> float:
    """8 n eps sum |terms| of the neuron in `first`, in units of its threshold: what its membrane may be off by.

    The terms are all that reached the neuron since its last hard reset, as far as it has not leaked away by that tick:
    |weight x value| of every event, times the largest factor of a per-tick table, biases, and resets.
    """
    sample, until, name = first["sample"], first["tick"], first["population"]
    population = network[name]
    neuron = population.neuron
    assert isinstance(neuron, IF)
    total = terms = 0.0
    eps = float(np.finfo(dtype).eps)
    kept = _kept(network, run, first)
    lasting, since = float(kept.sum()), slice(int(np.argmax(kept > 0)), until + 1)
    for c in network.connections:
        if c.target != name:
            continue
        source = network[c.source]
        arrived = np.zeros(source.size)
        if isinstance(source.neuron, Input) and network.encoding == "direct":
            value = inputs[sample].astype(np.float64) / (255 if inputs.dtype == np.uint8 else 1)
            column = (-1,) + (1,) * (value.ndim - 1)
            value = value - np.reshape(network.mean if network.mean is not None else 0.0, column)
            value = value / np.reshape(network.std if network.std is not None else 1.0, column)
            arrived = np.abs(value).ravel() * lasting
        else:
            events = run.events[run.events["population"] == _index(network, c.source)]
            events = events[(events["sample"] == sample) & (events["time"] <= until)]
            np.add.at(arrived, events["neuron"], np.abs(events["value"]) * kept[events["time"]])
        if np.asarray(c.op.weight).dtype == np.float32:
            eps = max(eps, float(np.finfo(np.float32).eps))
        bias = None if c.bias is None else np.abs(c.bias.astype(np.float64)) * lasting
        weight = np.abs(np.asarray(c.op.weight, np.float64))
        x = arrived.reshape(1, *source.shape)
        scale = None if c.scale is None else np.abs(c.scale[since], dtype=np.float64).max(0, keepdims=True)
        shift = None if c.shift is None else np.tensordot(kept, np.abs(c.shift[: until + 1], dtype=np.float64), 1)[None]
        sizes = replace(c, op=replace(c.op, weight=weight), bias=bias, scale=scale, shift=shift)
        ones = replace(c, op=replace(c.op, weight=(weight > 0) * 1.0), bias=None, scale=None, shift=None)
        total += float(carry(sizes, x).ravel()[first["neuron"]])
        shares = [step.taps(shape).coefficient for step, shape in _pools(c, source.shape)]
        counted = float(carry(ones, (x > 0) * 1.0).ravel()[first["neuron"]]) / math.prod(s.min() for s in shares)
        terms += (counted + 1) * (until + 1 - since.start)
    threshold = np.broadcast_to(spread(neuron.threshold, population.shape), population.shape).ravel()[first["neuron"]]
    amount = np.broadcast_to(spread(neuron.subtracts, population.shape), population.shape).ravel()[first["neuron"]]
    total += float(abs(amount)) * lasting
    return 8 * terms * eps * total / abs(float(threshold) or 1.0)


def _kept(network: Network, run: Any, first: dict[str, Any]) -> np.ndarray:
    """(ticks up to the difference,) float64: the share of each tick's arrivals that the membrane still holds then."""
    until, neuron = first["tick"], network[first["population"]].neuron
    assert isinstance(neuron, IF)
    kept = np.ones(until + 1)
    if isinstance(neuron, LIF):
        shape = network[first["population"]].shape
        alpha = np.broadcast_to(spread(neuron.alpha, shape), shape).ravel()[first["neuron"]]
        kept = float(alpha) ** np.arange(until, -1, -1.0)
    if neuron.reset == "value" and not neuron.reset_delay:
        own = run.events[run.events["population"] == _index(network, first["population"])]
        own = own[(own["sample"] == first["sample"]) & (own["neuron"] == first["neuron"]) & (own["time"] < until)]
        kept[: int(own["time"].max(initial=-1)) + 1] = 0
    return kept


def _pools(c: Connection, shape: Shape) -> list[tuple[Any, Shape]]:
    """The maps of a connection that weigh positions, each with the shape it meets."""
    steps = zip((*c.before, c.op, *c.after), c.shapes(shape))
    return [(step, met) for step, met in steps if isinstance(step, Pool | AdaptivePool)]
