"""The training tools: the QCFS layer, the neurons it stands for, resuming, recipes, the shipped files; the bench."""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import eventsnn as es
from eventsnn import import_torch, layouts, study
from eventsnn.store import network_hash
from eventsnn.watchdog import read_policy

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools import bench, compare, rank_coding, rivals, workloads  # noqa: E402
from tools import results as measure  # noqa: E402
from tools import samples as sources  # noqa: E402
from tools import train as tool  # noqa: E402
from tools.modules import QCFS, digits_net, fire, spikes  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = ROOT / "tools" / "recipes" / "digits.toml"

# --------------------------------------------------------------------------------------------------------- the layer


def plain_qcfs(x: Fraction, theta: Fraction, levels: int) -> Fraction:
    return theta * Fraction(floor(min(max(x / theta, Fraction(0)), Fraction(1)) * levels + Fraction(1, 2)), levels)


@pytest.mark.parametrize(("levels", "wanted"), [(4, [0, 0, 0.5, 1, 2, 2]), (8, [0, 0.25, 0.25, 1, 2, 2])])
def test_golden_activations(levels, wanted):
    """Values worked out by hand for theta = 2, with one on a grid tie and one on either side of the range."""
    x = torch.tensor([-0.1, 0.2, 0.25, 0.9, 1.99, 3.0])
    assert QCFS(levels, 2.0)(x).tolist() == wanted


@given(st.integers(-400, 400), st.integers(-2, 3), st.sampled_from([1, 2, 4, 8, 16]))
def test_activation_is_the_formula(x, exponent, levels):
    """Equal to exact rational arithmetic wherever floats are exact, ties included."""
    theta = Fraction(2) ** exponent
    found = QCFS(levels, float(theta))(torch.tensor([x / 64]))
    assert Fraction(found.item()) == plain_qcfs(Fraction(x, 64), theta, levels)


def test_gradients_are_those_of_a_straight_through_floor():
    """The fused backward pass equals autograd through the formula with a floor of gradient 1."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(400, generator=generator, dtype=torch.float64) * 3).requires_grad_()
    upstream = torch.randn(400, generator=generator, dtype=torch.float64)
    layer = QCFS(4, 1.7).double()
    (layer(x) * upstream).sum().backward()

    plain_x, theta = x.detach().clone().requires_grad_(), layer.threshold.detach().clone().requires_grad_()
    scaled = torch.clamp(plain_x / theta, 0, 1) * 4 + 0.5
    straight = scaled + (torch.floor(scaled) - scaled).detach()
    (theta * straight / 4 * upstream).sum().backward()

    assert torch.equal(x.grad != 0, (x > 0) & (x < layer.threshold))
    torch.testing.assert_close(x.grad, plain_x.grad)
    torch.testing.assert_close(layer.threshold.grad, theta.grad)


def test_impossible_layers_are_refused():
    with pytest.raises(ValueError, match=r"levels=0, threshold_init=2\.0; wanted both above 0"):
        QCFS(0)
    with pytest.raises(ValueError, match="threshold_init=-1"):
        QCFS(4, -1.0)


# ------------------------------------------------------------------------------------------- the neurons it stands for


def test_golden_spikes():
    """Theta 2, v0 1, input 0.9 every tick: spikes in every second tick, worked out by hand."""
    emitted, left = fire(torch.full((8, 1), 0.9), torch.tensor(2.0))
    assert emitted.flatten().tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert (left[0].item(), left[1].item()) == pytest.approx((1.9, 0.8))


@given(st.lists(st.integers(-200, 400), min_size=1, max_size=20), st.sampled_from([1, 2, 4, 8, 16]))
def test_mean_of_a_constant_input_is_the_activation(currents, levels):
    """Over `levels` ticks of a constant current the neuron emits the quantised activation, ties included."""
    x, theta = torch.tensor(currents) / 128, torch.tensor(2.0)
    emitted, _ = fire(x.expand(levels, -1), theta)
    assert torch.equal(emitted.sum(0) * theta / levels, QCFS(levels, 2.0)(x))


def test_surrogate_gradient_of_one_tick():
    """One tick from theta / 2: d spike = triangle(distance) x d distance, distance = (z - theta / 2) / theta."""
    z = torch.tensor([[-1.5, 0.3, 1.0, 1.8, 9.0]], dtype=torch.float64, requires_grad=True)
    theta = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    emitted, _ = fire(z, theta)
    emitted.sum().backward()
    distance = (z.detach() - 1.0) / 2
    triangle = torch.clamp(1 - distance.abs(), min=0)
    torch.testing.assert_close(z.grad, triangle / 2)
    torch.testing.assert_close(theta.grad, (triangle * -z.detach() / 4).sum())


def dyadic(shape, generator, denominator):
    return torch.randint(-8, 9, shape, generator=generator).float() / denominator


def test_the_stepper_is_the_simulator():
    """What is trained is what eventsnn runs: the same counts and membranes, to the bit, where floats are exact."""
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), QCFS(4, 2.0), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24, 5))
    net.append(QCFS(4, 1.0))
    with torch.no_grad():
        for layer in (net[0], net[4]):
            layer.weight.copy_(dyadic(layer.weight.shape, generator, 16))
            layer.bias.copy_(dyadic(layer.bias.shape, generator, 32))
    images = (torch.randint(0, 9, (12, 1, 6, 4), generator=generator) / 8).float()
    emitted, margins = spikes(net.eval(), images, 10)
    assert 0 < emitted[-1].mean() < 1

    network = es.from_torch(net, images, ticks=10)
    run = es.simulate(network, images.numpy(), record="spikes")
    assert np.array_equal(run.outputs, emitted[-1].cumsum(0).transpose(0, 1).detach().numpy())
    assert np.array_equal(run.trace.margins, margins.transpose(0, 1).detach().numpy())
    assert run.ledger.spikes(network.populations[1].name).tolist() == emitted[0].sum((0, 2, 3, 4)).int().tolist()


def test_a_network_without_output_neurons_is_refused():
    with pytest.raises(ValueError, match="ends in Linear, wanted a QCFS"):
        spikes(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2), 3)


# ----------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def digits():
    known, _ = sources.digits(360)
    return known.images[:160], known.labels[:160]


def short(tmp_path):
    """The shipped recipe with three epochs of few ticks a stage, writing to a folder of the test."""
    recipe = tool.read_recipe(RECIPE)
    stages = tuple(replace(stage, epochs=3, learning_rate=0.01, ticks=4) for stage in recipe.stages)
    files = {name: str(tmp_path / Path(path).name) for name, path in vars(recipe.export).items()}
    return replace(recipe, batch=32, stages=stages, export=tool.Export(**files))


def test_a_resumed_training_ends_in_the_same_weights(tmp_path, digits):
    """Stopped in either stage and gone on, a training gives the bits of one that ran through; and it learns."""
    recipe = short(tmp_path)
    losses = []
    whole, _ = tool.train(recipe, *digits, tmp_path / "whole.pt", tell=lambda stage, epoch, loss: losses.append(loss))
    assert losses[2] < losses[0]

    def stop(stage, epoch, loss):
        if (stage.kind, epoch) in (("quantised", 1), ("quantised", 3), ("spiking", 2)):
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            tool.train(recipe, *digits, tmp_path / "parts.pt", tell=stop)
    parts, seconds = tool.train(recipe, *digits, tmp_path / "parts.pt")
    assert seconds > 0
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name

    again, spent = tool.train(recipe, *digits, tmp_path / "parts.pt", tell=stop)  # done: nothing is trained any more
    assert torch.equal(again[0].weight, parts[0].weight)
    assert spent < seconds + 1

    trace = tool.stepped(whole, *digits, 16)
    assert tool.cut(trace, "fixed").right > 0.3 * len(digits[1])


def test_a_checkpoint_of_another_training_is_refused(tmp_path, digits):
    """Another recipe or other samples never go on from a checkpoint, and it is left as it was."""
    recipe = short(tmp_path)
    recipe = replace(recipe, stages=(replace(recipe.stages[0], epochs=1),))
    images, labels = digits[0][:64], digits[1][:64]
    checkpoint = tmp_path / "c.pt"
    tool.train(recipe, images, labels, checkpoint)
    before = checkpoint.read_bytes()
    for changed, samples in ((replace(recipe, seed=1), 64), (recipe, 63)):
        with pytest.raises(ValueError, match="belongs to another recipe or other samples"):
            tool.train(changed, images[:samples], labels[:samples], checkpoint)
    assert checkpoint.read_bytes() == before


def test_a_training_that_diverges_says_so(tmp_path, digits):
    recipe = short(tmp_path)
    recipe = replace(recipe, stages=(replace(recipe.stages[0], learning_rate=1e30),))
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) in epoch 1 of stage 1; lower 'learning_rate'"):
        tool.train(recipe, digits[0][:96], digits[1][:96], tmp_path / "c.pt")


def test_augmentation_moves_images_by_what_it_says(digits):
    """Nothing asked, nothing changed; a shift of one pixel moves an image by at most one pixel; seeds repeat."""
    x = tool.as_tensor(digits[0])
    assert x.numpy().tobytes() == (digits[0][:, None] / np.float32(255)).astype(np.float32).tobytes()
    still = tool.augmented(x, tool.Augment(), torch.Generator().manual_seed(1))
    torch.testing.assert_close(still, x)
    shift = tool.Augment(shift=1.0)
    dot = torch.zeros(200, 1, 8, 8)
    dot[:, :, 4, 3] = 1
    moved = tool.augmented(dot, shift, torch.Generator().manual_seed(1))
    reached = {tuple(where) for where in moved.nonzero()[:, 2:].tolist()}
    assert reached == {(row, column) for row in (3, 4, 5) for column in (2, 3, 4)}
    assert torch.equal(moved, tool.augmented(dot, shift, torch.Generator().manual_seed(1)))


def test_cuts_are_counted_as_they_are_defined():
    """`cut` against the obvious loop: stop at the first tick whose leader is far enough ahead of the second."""
    generator = np.random.default_rng(0)
    fired = generator.random((60, 12, 4)) < generator.random((60, 1, 4))
    outputs = fired.cumsum(1).astype(float)
    margins = generator.normal(size=outputs.shape)
    labels = generator.integers(0, 4, 60)
    none = np.zeros((60, 12), np.int64)
    trace = es.Trace(outputs, labels, margins, none, readout="spikes")

    def leader(n, t):
        return max(range(4), key=lambda k: (outputs[n, t, k], margins[n, t, k]))

    for gap in (1, 2, 5):
        stops = []
        for n in range(60):
            far = [t for t in range(12) if np.ptp(np.sort(outputs[n, t])[-2:]) >= gap]
            stops.append(far[0] if far else 11)
        found = tool.cut(trace, f"spike-gap:{gap}")
        assert found.mean_stop == np.mean(stops) + 1
        assert found.right == sum(leader(n, t) == labels[n] for n, t in enumerate(stops))
        assert found.changed == sum(leader(n, t) != leader(n, 11) for n, t in enumerate(stops))


def test_folds_leave_the_measured_samples_out(tmp_path, digits, monkeypatch):
    """Each fold is trained on exactly the other samples, and the pooled trace holds every sample once, in order."""
    seen = []

    def pretend(recipe, images, labels, checkpoint, device, tell):
        seen.append((images, checkpoint))
        return digits_net().eval(), 0.0

    monkeypatch.setattr(tool, "train", pretend)
    images, labels = digits[0][:23], digits[1][:23]
    images = images.copy()
    images[:, 0, 0] = np.arange(23)  # so that every image is another one
    recipe = replace(short(tmp_path), ticks=2)
    traces = tool.cross_validate(recipe, images, labels, "cpu", lambda *told: None)
    assert len({checkpoint for _, checkpoint in seen}) == recipe.data.folds
    low = 0
    for (rest, _), trace in zip(seen, traces, strict=True):
        high = low + len(trace.labels)
        assert rest[:, 0, 0].tolist() == [i for i in range(23) if not low <= i < high]
        low = high
    assert tool.pooled(traces).labels.tolist() == labels.tolist()


# ------------------------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 0", "seed = 0\nsede = 1", r"unknown key 'sede'; there are name, model, seed"),
        ("seed = 0", "", "'seed' is missing"),
        ("rotate =", "rotat =", "unknown key 'augment.rotat'; there are augment.rotate"),
        ('kind = "spiking"', "", "'stages.kind' is missing"),
        ("batch = 64", 'batch = "64"', "'batch' is '64', wanted a whole number"),
        ("batch = 64", "batch = true", "'batch' is True, wanted a whole number"),
        ("ticks = 16", "ticks = 0", "'ticks' is 0, wanted 1 or more"),
        ("held_out = 360", "held_out = 0", "'data.held_out' is 0, wanted 1 or more"),
        ("seed = 0", "seed = -1", "'seed' is -1, wanted 0 or more"),
        (
            'source = "digits"',
            'source = "emnist"',
            "'data.source' is 'emnist', wanted 'digits', 'mnist', 'cifar10', 'cifar100', 'events', 'bits', 'noise' or",
        ),
        (
            'kind = "spiking"',
            'kind = "spikes"',
            "'stages.kind' is 'spikes', wanted 'relu', 'quantised', 'spiking' or 'sequence'",
        ),
        ("learning_rate = 4e-3", "learning_rate = 0", "'stages.learning_rate' is 0.0, wanted more than 0"),
        ("[[stages]]", "[[stage]]", "unknown key 'stage'"),
        ("[augment]", "[[augment]]", "wanted a table headed \\[augment\\]"),
        ('cutoff = "spike-gap', 'cutoff = "gap', "unknown cutoff 'gap:"),
        ("seed = 0", "seed =", "is not TOML"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path, capsys, old, new, message):
    """One sentence with the file and the key, exit code 2, before anything is trained."""
    text = RECIPE.read_text()
    assert old in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        tool.read_recipe(path)
    assert tool.main([str(path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(str(path))
    assert re.search(message, told)
    assert told.count("\n") == 1


def test_an_absent_recipe_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.toml: cannot be read \(No such file or directory\)"):
        tool.read_recipe(tmp_path / "none.toml")


# ---------------------------------------------------------------------------------------------------------- the files


def test_export_writes_files_that_belong_together(tmp_path, digits):
    """The network file holds the module, the samples are those given, and the card's checksums are the files'."""
    recipe = short(tmp_path)
    network = tool.new_network(recipe).eval()
    tool.save_state(recipe, network, 12.0, "cpu")
    tool.export(recipe, *digits)
    loaded = es.load(recipe.export.network)
    assert (loaded.ticks, loaded.cutoff, loaded.readout) == (recipe.ticks, recipe.cutoff, "spikes")
    assert [p.name for p in loaded.populations] == ["input", "conv1", "conv2", "output"]
    card = measure.report(recipe, RECIPE, [recipe.ticks], 30, 1, lambda *told, **how: None, False)
    _, held_out = tool.load(recipe)
    run = es.simulate(loaded, held_out.images[:30], held_out.labels[:30], watchdog=es.Fixed())
    right = int(np.sum(run.predictions == held_out.labels[:30]))
    assert f"| 16 | none | held out | {right} of 30 |" in card
    assert "12 s on cpu" in card
    for name in ("state", "network", "held_out"):
        path = Path(getattr(recipe.export, name))
        assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    held_out = np.load(recipe.export.held_out)
    assert np.array_equal(held_out["images"], digits[0])
    assert np.array_equal(held_out["labels"], digits[1])
    assert loaded.origin["sha256"] == hashlib.sha256(Path(recipe.export.state).read_bytes()).hexdigest()


def test_the_shipped_network_keeps_its_promise():
    """At least 97 % on the 360 held-out digits, and the default cutoff loses at most 0.5 points for half the ticks."""
    recipe = tool.read_recipe(RECIPE)
    known, held_out = tool.load(recipe)
    assert (len(known), len(held_out)) == (1437, 360)
    stored = np.load(ROOT / recipe.export.held_out)
    assert np.array_equal(stored["images"], held_out.images)
    assert np.array_equal(stored["labels"], held_out.labels)

    network = es.load(ROOT / recipe.export.network)
    assert (network.ticks, network.cutoff) == (recipe.ticks, recipe.cutoff)
    full = es.simulate(network, stored["images"], stored["labels"], watchdog=es.Fixed())
    stopped = es.simulate(network, stored["images"], stored["labels"])
    assert full.ticks <= 16
    assert full.accuracy >= 0.97
    assert stopped.accuracy >= full.accuracy - 0.005
    assert stopped.stop_time.mean() <= full.stop_time.mean() / 2

    card = (ROOT / recipe.export.card).read_text()
    for name in (recipe.export.state, recipe.export.network, recipe.export.held_out):
        assert hashlib.sha256((ROOT / name).read_bytes()).hexdigest() in card, name
    for run in (full, stopped):
        assert f"{np.sum(run.predictions == stored['labels'])} of 360" in card


SHIPPED = sorted(path.stem for path in (ROOT / "weights").glob("*.h5"))
CARDS = [name for name in SHIPPED if (ROOT / "weights" / f"{name}.md").exists()]


def shown(network, count):
    """Samples for any network: random images, or random events over its ticks."""
    generator = np.random.default_rng(0)
    if network.encoding == "direct":
        return generator.integers(0, 256, (count, *network.input.shape), np.uint8)
    each = network.input.size // 4
    until = round(network.ticks * network.tick_seconds * 1e6)
    t = np.sort(generator.integers(0, until, (count, each)), axis=1).ravel()
    neuron = generator.integers(0, network.input.size, count * each)
    return es.Events(t, neuron, np.arange(count + 1) * each)


@pytest.mark.parametrize("name", [name for name in SHIPPED if not name.startswith("rank-")])  # test_rank_coding.py
def test_a_shipped_network_is_its_checkpoint(name):
    """The state dict beside the network gives its weights again; converted in float64, the same spikes to the last."""
    recipe = tool.read_recipe(ROOT / "tools" / "recipes" / f"{name}.toml")
    module = layouts.build(recipe.model, import_torch.load_checkpoint(ROOT / recipe.export.state))
    shipped = es.load(ROOT / recipe.export.network)
    again = tool.converted(recipe, module, shipped.input.shape)
    assert (again.encoding, again.tick_seconds) == (shipped.encoding, shipped.tick_seconds)
    assert [p.name for p in again.populations] == [p.name for p in shipped.populations]
    for ours, theirs in zip(again.connections, shipped.connections, strict=True):
        for what in ("bias", "scale", "shift"):
            assert np.array_equal(getattr(ours, what), getattr(theirs, what)), what
        if hasattr(ours.op, "weight"):
            assert np.array_equal(ours.op.weight, theirs.op.weight)

    exact = tool.converted(recipe, module.double(), shipped.input.shape)
    found = import_torch.verify(module, exact, shown(shipped, 2), es.simulate, dtype="float64")
    assert found["spikes"] > 2_000
    assert found["differing"] == 0


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_stops_live_where_the_replay_says(name):
    """Every family of cutoffs but the oracle, on random samples, the live run beside the recorded full one."""
    network = es.load(ROOT / "weights" / f"{name}.h5")
    inputs = shown(network, 3)
    run = es.simulate(network, inputs, np.zeros(3, np.int64), watchdog=es.Fixed(), count="connections")
    full = study.recorded(run)
    middle = measure.one_of_each(full, full)
    study.rerun(full, [point.policy for point in middle], network, inputs)
    assert len(middle) >= 8


def test_a_repetition_with_another_seed_ships_nothing():
    """It differs in the seed and in its files, all in runs/; None is the recipe itself."""
    recipe = tool.read_recipe(ROOT / "tools" / "recipes" / "digits.toml")
    again = tool.reseeded(recipe, 7)
    assert (again.seed, again.name) == (7, "digits-seed7")
    assert [again.checkpoint, *vars(again.export).values()] == [
        "runs/train-digits-seed7.pt",
        "runs/digits-seed7.pt",
        "runs/digits-seed7.h5",
        "",
        "",
    ]
    same = {"name": "", "seed": 0, "checkpoint": "", "export": recipe.export}
    assert replace(again, **same) == replace(recipe, **same)
    assert tool.reseeded(recipe, None) is recipe
    with pytest.raises(ValueError, match="'seed' is -1, wanted 0 or more"):
        tool.reseeded(recipe, -1)


def test_every_network_has_a_card_or_stands_in_a_study():
    """Nothing is shipped of which nothing was measured."""
    compared = {name for study in compare.STUDIES.values() for name in study}
    compared |= {rank_coding.name_of(task, *key) for task in rank_coding.TASKS for key in rank_coding.TRAINED}
    assert {*SHIPPED} - {*CARDS} <= compared


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_of_the_files_beside_it(name):
    """Every network has a card with the checksums of its files, at most 12 MB each, and what was checked."""
    recipe = tool.read_recipe(ROOT / "tools" / "recipes" / f"{name}.toml")
    card = (ROOT / recipe.export.card).read_text()
    for file in (recipe.export.state, recipe.export.network, recipe.export.held_out, str(measure.policy_file(recipe))):
        if file:
            content = (ROOT / file).read_bytes()
            assert hashlib.sha256(content).hexdigest() in card, file
            assert len(content) <= 12_000_000
    policy = read_policy(ROOT / measure.policy_file(recipe))
    network = es.load(ROOT / recipe.export.network)
    policy.calibrated.check(network_hash(network), network.readout, network.ticks, 0)
    assert card.count("spikes differ") == card.count("what the replay of the full run says") >= 1


def test_the_table_is_what_the_cards_say(tmp_path):
    """The README's rows are those of all cards; writing the table again changes nothing."""
    readme = ROOT / "weights" / "README.md"
    for path in readme.parent.glob("*.md"):
        (tmp_path / path.name).write_text(path.read_text())
        (tmp_path / path.name).with_suffix(".h5").touch()
    (tmp_path / "README.h5").unlink()
    measure.write_table(tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == readme.read_text()
    for name in CARDS:
        assert f"| [{name}]({name}.md) |" in readme.read_text()
    (tmp_path / "README.md").write_text("no place")
    with pytest.raises(ValueError, match="has no place for the table"):
        measure.write_table(tmp_path / "README.md")


# ---------------------------------------------------------------------------------------------------------- the bench


def test_bench_runs(tmp_path):
    """Every section, small and without data: figures with a median, a least and a most, and verdicts on the targets."""
    figures, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    environment = os.environ | {"EVENTSNN_DATA": str(tmp_path)}
    command = [sys.executable, ROOT / "tools" / "bench.py", "--quick", "--json", figures, "--figure", picture]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert list(found["sections"]) == list(bench.SECTIONS)
    spreads = 0
    for name, section in found["sections"].items():
        assert f"\n{name} (load" in done.stdout
        nested = [section]
        while nested:
            one = nested.pop()
            nested += [x for x in (one.values() if isinstance(one, dict) else one) if isinstance(x, dict | list)]
            if isinstance(one, dict) and "median" in one:
                assert one["min"] <= one["median"] <= one["max"]
                spreads += 1
    assert spreads > 50
    judged = {target["section"] for target in found["targets"]}
    assert judged >= {"resnet", "workers", "memory", "growth", "ticks", "cutoff", "start"}
    for target in found["targets"]:
        reached, wanted = target["reached"]["median"], target["wanted"]
        assert target["met"] == (reached <= wanted if target["most"] else reached >= wanted)
        assert f"wanted {'at most ' * target['most']}{wanted:g}, reached" in done.stdout
    for block in (found["sections"]["resnet"]["2 ticks"], found["sections"]["mlp"]):
        assert "torch" in block["libraries"]
        assert all(same == {"answers_equal": 1, "spikes_differ": 0} for same in block["same_network"].values())
    assert picture.stat().st_size > 10_000


def test_a_library_with_other_spikes_is_left_out(capsys):
    """A model whose neurons start elsewhere is another network: it is named, and there is nothing to compare."""
    network, _ = workloads.mlp_network(5, 60)
    samples = workloads.poisson(5, 4)
    book = bench.Book(1, True, False)

    class Other(rivals.Plain):
        def node(self, neuron, several):
            return super().node(replace(neuron, v0=0.5), several)

    book.libraries = lambda: {"torch": rivals.Plain, "other": Other}
    frames = rivals.frames(samples, (784,), 5, 1000.0)
    one = bench.Contest(book, network, samples, frames, 5)
    assert list(one.works(2)) == ["torch 2"]
    assert "other is left out: it agrees with us on" in capsys.readouterr().out


def test_every_library_here_runs_our_network():
    """All libraries that are installed give our spikes and outputs, with biases, shortcuts and initial membranes."""
    network, images, _ = workloads.resnet20(small=True)
    mean, std = (np.asarray(x, np.float32).reshape(-1, 1, 1) for x in (network.mean, network.std))
    batch = torch.from_numpy((images.astype(np.float32) / 255 - mean) / std)
    run = es.simulate(network, images, ticks=3, watchdog=es.Fixed())
    for name, kind in rivals.present().items():
        model = kind(network, 3)
        found = model.outcome(model.arranged(batch))
        np.testing.assert_allclose(found.outputs, run.outputs[:, -1], rtol=1e-3, atol=1e-3, err_msg=name)
        for population, theirs in found.spikes.items():
            assert theirs == pytest.approx(run.ledger.spikes(population).sum(), rel=1e-3), (name, population)
