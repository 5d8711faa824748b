"""Trains a network from a recipe, goes on where it was stopped, and exports it for eventsnn.

    python tools/train.py tools/recipes/digits.toml            train or resume, then export
    python tools/train.py tools/recipes/digits.toml --folds    cross-validate on the training samples, export nothing
    python tools/train.py tools/recipes/digits.toml --export   only export what was trained before
    python tools/train.py tools/recipes/digits.toml --seed 1   repeat it with another seed, as runs/digits-seed1.*

Needs torch and scikit-learn (`pip install '.[torch,test]'`). Runs on CUDA where there is one; `--device cpu` repeats
a network on the kind of processor that trained it, others round sums differently. Each epoch draws its random numbers
from (seed, stage, epoch) alone, so a training that was stopped and resumed ends in the same weights as one that was
not.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import platform
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # models are named from here, "tools.modules:digits_net", also in the exported file

import eventsnn as es  # noqa: E402
from eventsnn import layouts  # noqa: E402
from eventsnn.import_torch import NORMALISATIONS, load_checkpoint  # noqa: E402
from eventsnn.report import predictions_by_tick  # noqa: E402
from eventsnn.watchdog import parse_policy  # noqa: E402
from tools import samples  # noqa: E402
from tools.losses import anytime, rcs_activations, rcs_spiking, tet  # noqa: E402
from tools.modules import Watched, ends_in_neurons, neurons, running, spikes, spiking_outputs  # noqa: E402
from tools.recurrent import CROSSING, Recurrent, Spiking, logit, sequence_loss  # noqa: E402
from tools.samples import Samples  # noqa: E402

GAPS = range(1, 7)  # the spike-gap cutoffs that --folds compares
AT_ONCE = 100  # samples that are stepped together
SEQUENCES = ("bits", "noise", "spoken")
LOSSES = {  # by kind of stage
    "relu": ("cross_entropy",),
    "quantised": ("cross_entropy",),
    "spiking": ("cross_entropy", "anytime", "tet"),
    "sequence": ("last", "first-crossing"),
}

# --------------------------------------------------------------------------------------------------------- the recipe


@dataclass(frozen=True)
class Data:
    """source: "digits", "mnist", "cifar10", "cifar100" or "events"; or of sequences "bits", "noise" or "spoken".

    held_out, folds: of the digits, how many of the last are only measured on, and the folds of `--folds`. calibration:
    of each class, how many of the last are kept out of training, to calibrate cutoffs on. path: an ordinary CIFAR
    folder, or the file of events or of sound. tick_us: the length of a tick. normalise: "" or "cifar10". samples: of
    "bits" and "noise", how many sequences are made. code: "" or how samples become spikes, "brightest-first" (images)
    or "bins" (numbers), see `tools.samples`. frames: of events, "time", ticks of tick_us, or "number", each with as
    many of a recording's events. side: of events, pixels across that a sensor's are added up to; 0: as they are.
    """

    source: str
    held_out: int = 0
    folds: int = 0
    calibration: int = 0
    path: str = ""
    tick_us: int = 0
    normalise: str = ""
    samples: int = 0
    code: str = ""
    frames: str = "time"
    side: int = 0


@dataclass(frozen=True)
class Augment:
    """How training images are moved, each drawn evenly from -value to +value. rotate: degrees. shift: pixels.

    noise: standard deviation added to pixels of 0..1, which are then clipped. crop: pixels that an image is moved at
    most, whole ones, drawn evenly. flip: whether each image is mirrored with odds of one half. cutout: side of a square
    that is made grey, or in frames of events empty. Of sequences, thin: share of the events that is left out, at most,
    drawn evenly for each; late: ticks that each begins later, at most; tune: channels that it is moved up or down, at
    most.
    """

    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    noise: float = 0.0
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    thin: float = 0.0
    late: int = 0
    tune: int = 0


@dataclass(frozen=True)
class Stage:
    """kind: "relu" trains plain ReLUs, "quantised" the activations, "spiking" the neurons, over `ticks`.

    "sequence" trains a `tools.recurrent.Recurrent` by its outputs' sigmoids, `criterion` "bce" or "cross_entropy": loss
    "last" at the end of the sequence, loss "first-crossing" (Rank Coding) where an output first exceeds `crossing`,
    less `entropy` x the uncertainty up to there. clip: largest norm of the gradient, 0 for any.

    loss: of a network whose last layer is linear, "cross_entropy" of its (mean) output; when spiking also "anytime",
    its mean over the means up to each tick, or "tet". Of a network that ends in neurons, the cross-entropy of
    `sharpness` x output spike counts; when spiking, its mean over the counts up to each tick. To it come `rate_penalty`
    x the sum over hidden layers of the spikes per neuron and tick, and `rcs` x the RCS regulariser. optimiser: "adamw",
    or "sgd" with momentum 0.9. The learning rate rises over `warmup` of the steps and falls to 0 as a cosine, or, with
    schedule "steps", to a tenth at 70, 80 and 90 % of them. Weight
    decay leaves thresholds and norms alone. percentile: sets the thresholds to this percentile of the positive inputs
    they get, at the beginning of the stage.
    """

    kind: str
    epochs: int
    learning_rate: float
    weight_decay: float
    ticks: int = 0
    sharpness: float = 1.0
    rate_penalty: float = 0.0
    loss: str = "cross_entropy"
    optimiser: str = "adamw"
    rcs: float = 0.0
    warmup: float = 0.1
    percentile: float = 0.0
    schedule: str = "cosine"
    criterion: str = "bce"
    crossing: float = CROSSING
    entropy: float = 0.0
    clip: float = 0.0


@dataclass(frozen=True)
class Export:
    """Files to write: the state dict, the eventsnn network, the held-out samples, and the card (`tools/results.py`)."""

    state: str
    network: str = ""
    held_out: str = ""
    card: str = ""


@dataclass(frozen=True)
class Recipe:
    """A training. model: "module:factory" of a network of `tools.modules.Neuron`s. ticks, cutoff: of the network.

    title, about: a line and paragraphs (Markdown) of the network's card: what it is, where its data is from.
    start: a state dict to begin from, of another recipe. precision: "float32", or "bfloat16" for convolutions and
    products while training, with compiled elementwise steps.
    """

    name: str
    model: str
    seed: int
    threads: int
    batch: int
    ticks: int
    checkpoint: str
    data: Data
    augment: Augment
    stages: tuple[Stage, ...]
    export: Export
    title: str = ""
    about: str = ""
    cutoff: str = "fixed"
    start: str = ""
    precision: str = "float32"


def read_recipe(path: str | Path) -> Recipe:
    """The recipe of a TOML file; raises ValueError naming the file, the key and what was wanted.

    A file with `like = "other.toml"` holds only what differs from that file beside it, key by key.
    """
    table = _read(Path(path))
    try:
        recipe = _filled(Recipe, table, "")
        _check(recipe)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return recipe


def shipped_recipe(name: str, seed: int | None = None) -> Recipe:
    """The recipe of `tools/recipes` by its name, or a repetition of it with another seed."""
    return reseeded(read_recipe(ROOT / "tools" / "recipes" / f"{name}.toml"), seed)


def reseeded(recipe: Recipe, seed: int | None) -> Recipe:
    """A repetition of the recipe with another seed, whose files all stand beside its checkpoint; itself for None."""
    if seed is None:
        return recipe
    name, folder = f"{recipe.name}-seed{seed}", Path(recipe.checkpoint).parent
    files = Export(str(folder / f"{name}.pt"), str(folder / f"{name}.h5") if recipe.export.network else "")
    again = replace(recipe, name=name, seed=seed, checkpoint=str(folder / f"train-{name}.pt"), export=files)
    _check(again)
    return again


def _read(path: Path, *before: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    other = table.pop("like", None)
    if other is None:
        return table
    if not isinstance(other, str) or path in before:
        what = f"{other!r}, wanted the name of a recipe beside it"
        raise ValueError(f"{path}: 'like' is {what if path not in before else 'a circle of recipes'}")
    return _over(_read(path.parent / other, path, *before), table)


def _over(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of both; a list of tables replaces the other."""
    found = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = _over(found[key], value) if both else value
    return found


def _filled(kind: type, table: Mapping[str, Any], place: str) -> Any:
    types = get_type_hints(kind)
    for key in table:
        if key not in types:
            raise ValueError(f"unknown key {place + key!r}; there are {', '.join(place + name for name in types)}")
    for field in fields(kind):
        if field.name not in table and field.default is MISSING:
            raise ValueError(f"{place + field.name!r} is missing")
    return kind(**{key: _value(types[key], value, place + key) for key, value in table.items()})


def _value(kind: Any, value: Any, name: str) -> Any:
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{name!r} is {value!r}, wanted tables headed [[{name}]]")
        return tuple(_value(get_args(kind)[0], entry, name) for entry in value)
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{name!r} is {value!r}, wanted a table headed [{name}]")
        return _filled(kind, value, f"{name}.")
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        words = {int: "a whole number", float: "a number", str: "text"}
        raise ValueError(f"{name!r} is {value!r}, wanted {words[kind]}")
    return value


def _check(recipe: Recipe) -> None:
    least = {"threads": 1, "batch": 2, "ticks": 1}
    if recipe.data.source == "digits":
        least |= {"data.held_out": 1, "data.folds": 2}
    if recipe.data.source in ("events", *SEQUENCES):
        least |= {"data.tick_us": 1}
    if recipe.data.source in ("bits", "noise"):
        least |= {"data.samples": 1}
    for name, low in least.items():
        value = recipe
        for part in name.split("."):
            value = getattr(value, part)
        if value < low:
            raise ValueError(f"{name!r} is {value}, wanted {low} or more")
    if recipe.seed < 0:
        raise ValueError(f"'seed' is {recipe.seed}, wanted 0 or more")
    if recipe.data.calibration < 0:
        raise ValueError(f"'data.calibration' is {recipe.data.calibration}, wanted 0 or more")
    _choose("data.source", recipe.data.source, "digits", "mnist", "cifar10", "cifar100", "events", *SEQUENCES)
    _choose("data.frames", recipe.data.frames, "time", "number")
    _choose("data.code", recipe.data.code, "", "brightest-first", "bins")
    _choose("data.normalise", recipe.data.normalise, "", "cifar10")
    _choose("precision", recipe.precision, "float32", "bfloat16")
    _check_data(recipe)
    if not recipe.stages:
        raise ValueError("'stages' is empty, wanted at least one table headed [[stages]]")
    for stage in recipe.stages:
        _choose("stages.kind", stage.kind, *LOSSES)
        _choose("stages.loss", stage.loss, *LOSSES[stage.kind])
        _choose("stages.schedule", stage.schedule, "cosine", "steps")
        _choose("stages.criterion", stage.criterion, "bce", "cross_entropy")
        _choose("stages.optimiser", stage.optimiser, "adamw", "sgd")
        names = (
            "epochs",
            "learning_rate",
            "sharpness",
            *(("ticks",) if stage.kind in ("quantised", "spiking") else ()),
        )
        for name in names:
            if not getattr(stage, name) > 0:
                raise ValueError(f"'stages.{name}' is {getattr(stage, name)}, wanted more than 0")
        _check_stage(recipe, stage)
        if not 0 < stage.warmup < 1:
            raise ValueError(f"'stages.warmup' is {stage.warmup}, wanted a share between 0 and 1")
    parse_policy(recipe.cutoff)


def _check_stage(recipe: Recipe, stage: Stage) -> None:
    """What one key means only together with another."""
    for name in ("rcs", "rate_penalty", "weight_decay", "entropy", "clip"):
        if getattr(stage, name) < 0:
            raise ValueError(f"'stages.{name}' is {getattr(stage, name)}, wanted 0 or more")
    if not 0 < stage.crossing < 1:
        raise ValueError(f"'stages.crossing' is {stage.crossing}, wanted a probability between 0 and 1")
    if not 0 <= stage.percentile <= 100:
        raise ValueError(f"'stages.percentile' is {stage.percentile}, wanted 0 to 100")
    if stage.rate_penalty and stage.kind != "spiking":
        raise ValueError(f"'stages.rate_penalty' is {stage.rate_penalty} in a stage of kind {stage.kind!r}: no spikes")
    if recipe.data.source == "events" and stage.kind == "spiking" and stage.ticks != recipe.ticks:
        raise ValueError(f"'stages.ticks' is {stage.ticks}, but the frames of events are {recipe.ticks} ticks long")


def _check_data(recipe: Recipe) -> None:
    how = recipe.augment
    if recipe.data.source == "events" and any((how.rotate, how.scale, how.shear, how.shift, how.noise)):
        raise ValueError("'augment' moves frames of events only by crop, flip and cutout; leave the others out")
    if not 0 <= how.thin < 1:
        raise ValueError(f"'augment.thin' is {how.thin}, wanted a share from 0 to below 1")
    wanted = {
        "events": "an HDF5 file of events",
        "cifar100": "a CIFAR-100 folder",
        "spoken": "an HDF5 file of recordings",
    }
    if recipe.data.source in wanted and not recipe.data.path:
        raise ValueError(f"'data.path' is missing, wanted {wanted[recipe.data.source]}")
    for name in ("crop", "cutout", "late", "tune"):
        if getattr(how, name) < 0:
            raise ValueError(f"'augment.{name}' is {getattr(how, name)}, wanted 0 or more")


def _choose(name: str, value: str, *wanted: str) -> None:
    if value not in wanted:
        *most, last = (repr(each) for each in wanted)
        raise ValueError(f"{name!r} is {value!r}, wanted {', '.join(most)}{' or ' if most else ''}{last}")


# ------------------------------------------------------------------------------------------------------------ samples


def load(recipe: Recipe) -> tuple[Samples, Samples]:
    """What there is to train, tune and calibrate on, of which `trained_on` says what for, and what is held out."""
    if recipe.data.source == "digits":
        return samples.digits(recipe.data.held_out)
    if recipe.data.source.startswith("cifar"):
        return samples.cifar(recipe.data.path)
    if recipe.data.source == "mnist":
        return samples.mnist()
    if recipe.data.source in ("bits", "noise"):
        make = samples.runs_of_bits if recipe.data.source == "bits" else samples.noisy_signs
        return make(recipe.data.samples)
    if recipe.data.source == "spoken":
        return samples.spoken(recipe.data.path, recipe.ticks, recipe.data.tick_us)
    how = {"by_number": recipe.data.frames == "number", "side": recipe.data.side}
    return samples.events(recipe.data.path, recipe.ticks, recipe.data.tick_us, **how)


def trained_on(recipe: Recipe, labels: np.ndarray) -> np.ndarray:
    """(N,) bool: whether the recipe trains on a sample, or keeps it for calibrating. labels: of all that `load` knows.

    Raises ValueError when a class has too few samples.
    """
    kept = np.ones(len(labels), bool)
    if count := recipe.data.calibration:
        for label in np.unique(labels):
            of_this = np.flatnonzero(labels == label)
            if len(of_this) <= count:
                wanted = f"'data.calibration' is {count}, but class {label} has only {len(of_this)} samples"
                raise ValueError(f"{wanted}; lower it")
            kept[of_this[-count:]] = False
    return kept


def as_tensor(images: np.ndarray, dtype: str = "float32") -> Tensor:
    """Floats in 0..1, exactly what eventsnn makes of uint8 images; (N, H, W) becomes (N, 1, H, W).

    Frames of events (N, ticks, C, H, W) are counts and stay so, and so do numbers of sequences.
    """
    x = torch.from_numpy(images.astype(dtype))
    if images.ndim == 5:
        return x
    x /= 255
    return x.unsqueeze(1) if x.ndim == 3 else x


def normalised(x: Tensor, how: str) -> Tensor:
    """Images of 0..1 as the network wants them. how: "" or "cifar10"."""
    if not how:
        return x
    mean, std = (x.new_tensor(values).reshape(-1, 1, 1) for values in NORMALISATIONS[how])
    return (x - mean) / std


def augmented(images: Tensor, how: Augment, generator: torch.Generator) -> Tensor:
    """The images, each changed in its own way. images: (N, C, H, W) of 0..1, or frames (N, ticks, C, H, W)."""
    if how.thin or how.late or how.tune:
        images = _heard_otherwise(images, how, generator)
    if how.flip:
        images = torch.where(_each(torch.rand(len(images), generator=generator) < 0.5, images), images.flip(-1), images)
    if how.crop:
        images = _moved(images, how.crop, generator)
    if how.cutout:
        images = _cut_out(images, how.cutout, generator)
    if not any((how.rotate, how.scale, how.shear, how.shift, how.noise)):
        return images
    count, _, height, width = images.shape

    def draw(most: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * most

    angle, scale, shear = draw(math.radians(how.rotate)), 1 + draw(how.scale), draw(how.shear)
    across, down = draw(how.shift * 2 / width), draw(how.shift * 2 / height)  # a grid is 2 wide, whatever its pixels
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [torch.stack([cosine, shear - sine, across], 1), torch.stack([sine, cosine, down], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, align_corners=False)
    return (moved + how.noise * torch.randn(moved.shape, generator=generator)).clamp(0, 1)


def _each(values: Tensor, images: Tensor) -> Tensor:
    return values.reshape(-1, *(1 for _ in images.shape[1:]))


def _moved(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Each image moved by whole pixels, at most `most` down and across; what comes in is 0."""
    height, width = images.shape[-2:]
    padded = functional.pad(images.flatten(1, -3), (most, most, most, most))
    down, across = torch.randint(0, 2 * most + 1, (2, len(images)), generator=generator)
    rows = (down[:, None] + torch.arange(height))[:, None, :, None]
    columns = (across[:, None] + torch.arange(width))[:, None, None, :]
    which, channel = torch.arange(len(images)).reshape(-1, 1, 1, 1), torch.arange(padded.shape[1]).reshape(1, -1, 1, 1)
    return padded[which, channel, rows, columns].reshape(images.shape)


def _cut_out(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Each image with a grey square around a point drawn evenly; it may reach over the border (Cutout)."""
    height, width = images.shape[-2:]
    y, x = (torch.randint(0, size, (len(images), 1), generator=generator) for size in (height, width))
    rows = (torch.arange(height) - y + side // 2).floor_divide(side) == 0
    columns = (torch.arange(width) - x + side // 2).floor_divide(side) == 0
    inside = (rows[:, :, None] & columns[:, None, :]).unflatten(0, (-1, *(1 for _ in images.shape[1:-2])))
    return torch.where(inside, torch.tensor(0.0 if images.ndim == 5 else 0.5), images)


def _heard_otherwise(frames: Tensor, how: Augment, generator: torch.Generator) -> Tensor:
    """Sequences of event counts (N, ticks, C, 1, 1), thinned, later, and in other channels."""
    count, ticks, channels = frames.shape[:3]
    share = 1 - torch.rand(count, generator=generator).reshape(-1, 1, 1, 1, 1) * how.thin
    frames = torch.binomial(frames, share.expand_as(frames).contiguous(), generator=generator)
    late = torch.randint(0, how.late + 1, (count, 1, 1), generator=generator)
    tune = torch.randint(-how.tune, how.tune + 1, (count, 1, 1), generator=generator)
    tick = torch.arange(ticks).reshape(1, -1, 1) - late
    channel = torch.arange(channels).reshape(1, 1, -1) - tune
    inside = (tick >= 0) & (channel >= 0) & (channel < channels)
    which = torch.arange(count).reshape(-1, 1, 1)
    moved = frames[which, tick.clamp(min=0), channel.clamp(0, channels - 1), 0, 0]
    return torch.where(inside, moved, torch.zeros(()))[..., None, None]


def coded(x: Tensor, code: str, ticks: int) -> Tensor:
    """Images (N, C, H, W) of 0..1 or numbers (N, ticks, 1, 1, 1) as spikes, (N, ticks, channels, 1, 1)."""
    if not code:
        return x
    values = x.numpy()
    spikes = (
        samples.brightest_first(values, ticks) if code == "brightest-first" else samples.in_bins(values[..., 0, 0, 0])
    )
    return torch.from_numpy(spikes[..., None, None]).to(x.dtype)


# ----------------------------------------------------------------------------------------------------------- training


def new_network(recipe: Recipe) -> nn.Module:
    """The recipe's model with its first weights."""
    place, _, name = recipe.model.partition(":")
    try:
        factory = getattr(import_module(place), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"model {recipe.model!r} cannot be imported: {error}") from None
    torch.manual_seed(recipe.seed)
    network = factory()
    if recipe.start:
        path = ROOT / recipe.start
        if not path.exists():
            raise ValueError(f"'start' is {recipe.start!r}, which is not there; run the recipe that writes it first")
        network.load_state_dict(load_checkpoint(path))
    return network


def train(
    recipe: Recipe,
    images: np.ndarray,
    labels: np.ndarray,
    checkpoint: Path,
    device: str = "cpu",
    tell: Callable[[Stage, int, float], None] | None = None,
) -> tuple[nn.Module, float]:
    """The trained network, on the CPU and in evaluation mode, and the seconds its training took in all.

    images: (N, H, W) uint8. checkpoint: written after every epoch, before tell(stage, epochs done in it, loss); when
    it is there, training goes on from it. Raises ValueError when it belongs to another training.
    """
    network = new_network(recipe).to(device)
    if recipe.precision == "bfloat16":
        network = network.to(memory_format=torch.channels_last)
        for layer in neurons(network):
            layer.compiled = True
    x, y = torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))
    plan = [(s, epoch) for s, stage in enumerate(recipe.stages) for epoch in range(stage.epochs)]
    fingerprints = _fingerprints(recipe, images, labels)
    saved = _resume(checkpoint, [fingerprints[s] for s, _ in plan])
    done, spent = (saved["done"], saved["seconds"]) if saved else (0, 0.0)
    if saved:
        network.load_state_dict(saved["network"])

    started = time.perf_counter()
    optimiser = None
    for s, epoch in plan[done:]:
        stage = recipe.stages[s]
        if optimiser is None or epoch == 0:
            if epoch == 0 and stage.percentile:
                _set_thresholds(network, recipe, stage.percentile, x, device)
            optimiser = _optimiser(network, stage)
            if saved and epoch > 0:
                optimiser.load_state_dict(saved["optimiser"])
        loss = _epoch(network, optimiser, recipe, s, epoch, x, y, device)
        done += 1
        state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "fingerprint": fingerprints[s]}
        _save({**state, "done": done, "seconds": spent + time.perf_counter() - started}, checkpoint)
        if tell is not None:
            tell(stage, epoch + 1, loss)
    return network.cpu().eval(), spent + time.perf_counter() - started


def _epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    s: int,
    epoch: int,
    x: Tensor,
    y: Tensor,
    device: str,
) -> float:
    stage = recipe.stages[s]
    seed = np.random.SeedSequence([recipe.seed, s, epoch]).generate_state(1)[0]
    generator = torch.Generator().manual_seed(int(seed))  # on the CPU, so that devices see the same samples
    network.train()
    batches = torch.randperm(len(x), generator=generator).split(recipe.batch)
    total = 0.0
    for b, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = stage.learning_rate * _warmth((epoch + b / len(batches)) / stage.epochs, stage)
        moved = augmented(as_tensor(x[batch].numpy()), recipe.augment, generator)
        moved = coded(moved, recipe.data.code, recipe.ticks).to(device)
        with _precision(recipe, device):
            loss = _loss(network, stage, _prepared(moved, recipe), y[batch].to(device))
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is {loss.item()} in epoch {epoch + 1} of stage {s + 1}; lower 'learning_rate'")
        optimiser.zero_grad()
        loss.backward()
        if stage.clip:
            nn.utils.clip_grad_norm_(network.parameters(), stage.clip)
        optimiser.step()
        total += loss.item() * len(batch)
    return total / len(x)


def _precision(recipe: Recipe, device: str) -> Any:
    return torch.autocast(device, torch.bfloat16, enabled=recipe.precision == "bfloat16")


def _prepared(x: Tensor, recipe: Recipe) -> Tensor:
    """Images of 0..1, or frames, as the network takes them; frames become one batch a tick, (ticks * N, C, H, W)."""
    x = normalised(x, recipe.data.normalise)
    if x.ndim == 5:
        x = x.transpose(0, 1).flatten(0, 1)
    return x.contiguous(memory_format=torch.channels_last) if recipe.precision == "bfloat16" else x


def _set_thresholds(network: nn.Module, recipe: Recipe, percentile: float, x: Tensor, device: str) -> None:
    """Thresholds to a percentile of the positive inputs of each layer, running as ReLUs, over 512 training images."""
    network.eval()
    with torch.no_grad(), running(network, watch=True, rectify=True):
        network(_prepared(as_tensor(x[:512].numpy()).to(device), recipe))
        for layer in neurons(network):
            positive = np.asarray(layer.watched.membranes.float().cpu())
            layer.threshold.fill_(float(np.percentile(positive[positive > 0], percentile)))


def _loss(network: nn.Module, stage: Stage, x: Tensor, y: Tensor) -> Tensor:
    if stage.kind == "sequence":
        assert isinstance(network, Recurrent)
        rank, theta = stage.loss == "first-crossing", logit(stage.crossing)
        how = {"first_crossing": rank, "entropy": stage.entropy, "kind": stage.criterion, "theta": theta}
        return sequence_loss(network, x.flatten(1).unflatten(0, (-1, len(y))), y, **how)
    ticks = stage.ticks if stage.kind == "spiking" else 0
    watch = stage.rcs > 0 or stage.rate_penalty > 0 or ends_in_neurons(network)
    # of RCS only one sample a layer carries a gradient, and it is computed again
    detach = not (stage.rate_penalty or ends_in_neurons(network))
    how = {"watch": watch, "detach": detach, "rectify": stage.kind == "relu"}
    with running(network, ticks=ticks, samples=len(y), **how):
        outputs = network(x).float()
        watched = [layer.watched for layer in neurons(network)]
    outputs = outputs.unflatten(0, (ticks, len(y))) if ticks else outputs
    if ends_in_neurons(network):
        return _counted_loss(network, stage, outputs, watched, y)
    if not ticks:
        loss = functional.cross_entropy(outputs, y)
    elif stage.loss == "cross_entropy":
        loss = functional.cross_entropy(outputs.mean(0), y)
    else:
        loss = {"anytime": anytime, "tet": tet}[stage.loss](outputs, y)
    if stage.rate_penalty:
        loss = loss + stage.rate_penalty * sum(layer.spikes.mean() for layer in watched)
    if stage.rcs:
        compiled = neurons(network)[0].compiled
        rcs = rcs_spiking(watched, outputs, y, compiled) if ticks else rcs_activations(watched, outputs, y)
        loss = loss + stage.rcs * rcs
    return loss


def _counted_loss(network: nn.Module, stage: Stage, outputs: Tensor, watched: list[Watched], y: Tensor) -> Tensor:
    if stage.kind != "spiking":
        return functional.cross_entropy(stage.sharpness * (outputs / network[-1].threshold * stage.ticks), y)
    counts = watched[-1].spikes.cumsum(0)
    loss = functional.cross_entropy((stage.sharpness * counts).flatten(0, 1), y.repeat(stage.ticks))
    return loss + stage.rate_penalty * sum(layer.spikes.mean() for layer in watched[:-1])


def _warmth(part: float, stage: Stage) -> float:
    """Share of the learning rate when `part` of a stage is done."""
    if part < stage.warmup:
        return part / stage.warmup
    if stage.schedule == "steps":
        return 0.1 ** sum(part >= edge for edge in (0.7, 0.8, 0.9))
    return 0.5 * (1 + math.cos(math.pi * (part - stage.warmup) / (1 - stage.warmup)))


def _optimiser(network: nn.Module, stage: Stage) -> torch.optim.Optimizer:
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": stage.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if stage.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=stage.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=stage.learning_rate)


def _fingerprints(recipe: Recipe, images: np.ndarray, labels: np.ndarray) -> list[str]:
    """What the weights after each stage depend on: another recipe or other samples must not go on from a checkpoint.

    Later stages are left out, so that a stage can be added to a training that is done; and so are keys that a recipe
    leaves as they are, so that a new key of the recipes changes no training.
    """
    samples_hash = hashlib.sha256(np.ascontiguousarray(images).tobytes())
    samples_hash.update(np.ascontiguousarray(labels).tobytes())
    start = sha256(ROOT / recipe.start) if recipe.start else ""
    fixed = (
        recipe.model,
        recipe.seed,
        recipe.batch,
        recipe.precision,
        _said(recipe.augment),
        _said(recipe.data),
        start,
    )
    found = []
    for s in range(len(recipe.stages)):
        what = repr((fixed, [_said(stage) for stage in recipe.stages[: s + 1]], samples_hash.hexdigest()))
        found.append(hashlib.sha256(what.encode()).hexdigest())
    return found


def _said(part: Data | Augment | Stage) -> dict[str, Any]:
    """The keys of a part of a recipe that differ from their defaults."""
    return {f.name: value for f in fields(part) if (value := getattr(part, f.name)) != f.default}


def _resume(checkpoint: Path, fingerprints: list[str]) -> dict[str, Any] | None:
    """The checkpoint, when there is one. fingerprints: of every epoch."""
    if not checkpoint.exists():
        return None
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if saved["done"] > len(fingerprints) or saved["fingerprint"] != fingerprints[saved["done"] - 1]:
        raise ValueError(
            f"checkpoint {checkpoint} belongs to another recipe or other samples; delete it, or name another one"
        )
    return saved


def _save(content: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    torch.save(content, part)
    os.replace(part, path)  # so that a training killed while writing still has its last checkpoint


# ---------------------------------------------------------------------------------------------------------- measuring


def stepped(
    network: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    ticks: int,
    normalise: str = "",
    *,
    dropout: float = 0.0,
    seed: int = 0,
) -> es.Trace:
    """What the output did, stepped in PyTorch: a trace in float64 that `es.replay` asks any cutoff about.

    images: as `train`, or one frame a tick, (N, at least ticks, C, H, W). normalise: as in recipes. dropout: behind
    every layer of neurons, drawn anew from seed for each sample and tick, as Wu et al. have it while they calibrate
    (`tools.modules.Neuron`); output neurons are counted whole. The network, on the CPU, is put into evaluation mode and
    run in its own precision. Raises ValueError for too few frames, or a dropout that is not from 0 to below 1.
    """
    if images.ndim == 5 and images.shape[1] < ticks:
        raise ValueError(f"the samples have {images.shape[1]} frames, but {ticks} ticks are to be run")
    network.eval()
    dtype = str(next(network.parameters()).dtype).removeprefix("torch.")
    generator = torch.Generator().manual_seed(seed)
    found = []
    for begin in range(0, len(images), AT_ONCE):
        part = images[begin : begin + AT_ONCE]
        x = normalised(as_tensor(part[:, :ticks] if part.ndim == 5 else part, dtype), normalise)
        with torch.no_grad():
            found.append(_outputs(network, x, ticks, dropout, generator))
    each_tick, margins = (torch.cat(parts, 1).transpose(0, 1).double().numpy() for parts in zip(*found, strict=True))
    return es.Trace(
        outputs=each_tick.cumsum(1),
        margins=margins,
        synops=np.zeros((len(images), ticks), np.int64),
        stop_time=np.full(len(images), ticks, np.int64),
        readout="spikes" if ends_in_neurons(network) else "sum",
        labels=labels,
    )


def _outputs(
    network: nn.Module, x: Tensor, ticks: int, dropout: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Output spikes or linear outputs of each tick alone, (ticks, N, classes), and margins, of the latter none."""
    if ends_in_neurons(network):
        emitted, margins = spikes(network, x, ticks, dropout, generator)
        return emitted[-1], margins
    with running(network, ticks=ticks, samples=len(x), dropout=dropout, generator=generator):
        outputs = spiking_outputs(network, x, ticks)
    return outputs, outputs[..., :0]


class Cut(NamedTuple):
    """How a cutoff does on a trace: how many are right, the mean stop in ticks, how many answers the cut changed."""

    right: int
    mean_stop: float
    changed: int


def cut(trace: es.Trace, policy: str) -> Cut:
    """The account of one cutoff, given as text."""
    full = predictions_by_tick(trace.outputs, trace.margins)[:, -1]
    found = es.replay(trace, parse_policy(policy))
    right = int(np.sum(found.predictions == trace.labels))
    return Cut(right, float(found.stop_time.mean()), int(np.sum(found.predictions != full)))


def cross_validate(
    recipe: Recipe, images: np.ndarray, labels: np.ndarray, device: str, tell: Callable[..., None]
) -> list[es.Trace]:
    """One trace per fold: trained on the other folds, measured on this one. Folds are consecutive samples."""
    edges = [len(labels) * i // recipe.data.folds for i in range(recipe.data.folds + 1)]
    traces = []
    for fold, (low, high) in enumerate(pairwise(edges), 1):
        rest = np.r_[0:low, high : len(labels)]
        checkpoint = ROOT / recipe.checkpoint
        checkpoint = checkpoint.with_name(f"{checkpoint.stem}-fold{fold}of{recipe.data.folds}{checkpoint.suffix}")
        network, _ = train(recipe, images[rest], labels[rest], checkpoint, device, tell)
        traces.append(stepped(network, images[low:high], labels[low:high], recipe.ticks))
    return traces


def pooled(traces: list[es.Trace]) -> es.Trace:
    """The traces of all folds as one."""
    names = ("outputs", "margins", "synops", "stop_time", "labels")
    return replace(traces[0], **{name: np.concatenate([getattr(t, name) for t in traces]) for name in names})


# ---------------------------------------------------------------------------------------------------------- exporting


def save_state(recipe: Recipe, network: nn.Module, seconds: float, device: str) -> None:
    """Write the trained state dict, and beside it what is known about its training, as numbers and text."""
    from sklearn import __version__ as sklearn_version

    training = {
        "seconds": seconds,
        "device": device,
        "machine": platform.machine(),
        "processor": processor(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "sklearn": sklearn_version,
        "numpy": np.__version__,
    }
    _save({"state_dict": network.state_dict(), "training": training}, ROOT / recipe.export.state)


def processor() -> str:
    """The processor's name, and how many cores of it there are here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def export(recipe: Recipe, images: np.ndarray, labels: np.ndarray) -> es.Network:
    """Write the eventsnn network of the saved state dict, and the held-out samples where named; returns the network.

    Raises ValueError when there is no state dict, or it is of another model.
    """
    path = ROOT / recipe.export.state
    network = layouts.build(recipe.model, load_checkpoint(path))
    if recipe.export.held_out:
        _save_arrays(ROOT / recipe.export.held_out, images=images, labels=labels)
    origin = {"checkpoint": path.name, "sha256": sha256(path), "model": recipe.model, "seed": recipe.seed}
    found = converted(recipe, network, as_tensor(images[:1]).shape[-3:], origin)
    classes = tuple(str(label) for label in range(found[found.output].size))
    found = replace(found, labels=classes, cutoff=str(parse_policy(recipe.cutoff)))
    es.save(found, ROOT / recipe.export.network)
    return found


def converted(
    recipe: Recipe, network: nn.Module, shape: tuple[int, ...], origin: Mapping[str, Any] | None = None
) -> es.Network:
    """The network as eventsnn runs it, folded in its own precision. shape: of an image or a frame, (C, H, W)."""
    if isinstance(network, Spiking):
        found = network.to_network(recipe.ticks, recipe.data.tick_us / 1e6)
        return replace(found, origin=dict(origin or {}))
    example = torch.zeros(1, *shape, dtype=next(network.parameters()).dtype)
    how = {"ticks": recipe.ticks, "normalise": recipe.data.normalise or None, "origin": origin}
    found = es.from_torch(network, example, **how)
    if recipe.data.source == "events":
        found = replace(found, encoding="events", tick_seconds=recipe.data.tick_us / 1e6)
    return found


def _save_arrays(path: Path, **arrays: np.ndarray) -> None:
    part = path.with_name("part-" + path.name)  # numpy would put its own ending behind any other
    np.savez_compressed(part, **arrays)
    os.replace(part, path)


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --------------------------------------------------------------------------------------------------------- the command


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 2 after a sentence about bad input."""
    parser = argparse.ArgumentParser(description="Train, resume and export a network.")
    parser.add_argument("recipe", type=Path, help="a TOML file such as tools/recipes/digits.toml")
    parser.add_argument("--folds", action="store_true", help="cross-validate on the training samples, export nothing")
    parser.add_argument("--export", action="store_true", help="train nothing; export the saved state dict")
    parser.add_argument("--seed", type=int, help="instead of the recipe's; files go to runs/NAME-seedN.*")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    options = parser.parse_args(arguments)
    try:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda, but PyTorch finds none here; leave --device out")
        recipe = reseeded(read_recipe(options.recipe), options.seed)
        torch.set_num_threads(recipe.threads)
        known, held_out = load(recipe)
        kept = trained_on(recipe, known.labels)
        if options.folds:
            if recipe.data.folds < 2:
                raise ValueError(f"{options.recipe} has no 'data.folds', so there is nothing to cross-validate")
            _fold_up(recipe, known.images[kept], known.labels[kept], options.device)
            return 0
        if not options.export:
            with _progress(recipe, 1) as tell:
                checkpoint = ROOT / recipe.checkpoint
                images, labels = known.images[kept], known.labels[kept]
                network, seconds = train(recipe, images, labels, checkpoint, options.device, tell)
            save_state(recipe, network, seconds, options.device)
        if recipe.export.network:
            export(recipe, held_out.images, held_out.labels)
        files = (recipe.export.state, recipe.export.network, recipe.export.held_out)
        print("wrote", *(path for path in files if path))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _fold_up(recipe: Recipe, images: np.ndarray, labels: np.ndarray, device: str) -> None:
    with _progress(recipe, recipe.data.folds) as tell:
        traces = cross_validate(recipe, images, labels, device, tell)
    ticks = sorted({1, 2, 3, 4, 6, 8, 12, recipe.ticks})
    policies = ["fixed", *(f"spike-gap:{gap}" for gap in GAPS)]
    print("accuracy in % after ticks", *ticks, sep="\t")
    for name, trace in [*((f"fold {i}", t) for i, t in enumerate(traces, 1)), ("all", pooled(traces))]:
        leading = predictions_by_tick(trace.outputs, trace.margins) == trace.labels[:, None]
        print(f"{name:24}", *(f"{100 * leading[:, t - 1].mean():.2f}" for t in ticks if t <= recipe.ticks), sep="\t")
    print("\ncutoff\tright\taccuracy %\tmean stop\tanswers changed\tworst fold, points lost")
    everything = pooled(traces)
    for policy in policies:
        found = cut(everything, policy)
        lost = max(100 * (cut(t, "fixed").right - cut(t, policy).right) / len(t.labels) for t in traces)
        accuracy = 100 * found.right / len(labels)
        print(policy, found.right, f"{accuracy:.2f}", f"{found.mean_stop:.2f}", found.changed, f"{lost:.2f}", sep="\t")


@contextmanager
def _progress(recipe: Recipe, trainings: int) -> Iterator[Callable[[Stage, int, float], None]]:
    """Progress on stderr: a bar on a terminal, else a line an epoch. A resumed training starts where it stands."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        epochs = sum(stage.epochs for stage in recipe.stages)
        task = bar.add_task(recipe.name, total=epochs * trainings)

        def tell(stage: Stage, epoch: int, loss: float) -> None:
            if not console.is_terminal:
                print(f"{recipe.name}, {stage.kind} epoch {epoch} of {stage.epochs}, loss {loss:.4f}", file=sys.stderr)
            bar.update(task, advance=1, description=f"{recipe.name}, {stage.kind} epoch {epoch}, loss {loss:.3f}")

        yield tell


if __name__ == "__main__":
    sys.exit(main())
