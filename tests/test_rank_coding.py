"""Rank Coding: its sequences against slow loops, its rule and its gradients, and the spiking network event by event."""

import itertools
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import eventsnn as es
from eventsnn import layouts
from eventsnn.import_torch import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools import rank_coding, recurrent, samples  # noqa: E402
from tools import train as tool  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPES = [rank_coding.name_of(task, *key) for task, key in itertools.product(rank_coding.TASKS, rank_coding.TRAINED)]

# ---------------------------------------------------------------------------------------------------------- sequences


@given(st.lists(st.integers(0, 1), min_size=5, max_size=30))
def test_where_the_first_run_of_five_ends(bits):
    """Against itertools.groupby."""
    at, wanted = 0, len(bits)
    for _, group in itertools.groupby(bits):
        length = len(list(group))
        if length >= 5:
            wanted = at + 4
            break
        at += length
    assert samples.run_ends(np.array([bits])).tolist() == [wanted]


def test_the_first_toy_task():
    """Labels are right, as many are 1 as of all 2^25 sequences (0.552), and what is held out is drawn apart."""
    known, held_out = samples.runs_of_bits(4_000)
    assert known.images.shape == (4_000, 25, 2, 1, 1)
    assert (known.images.sum(2) == 1).all()
    bits = known.images[:, :, 1, 0, 0]
    for row, label in zip(bits[:200], known.labels[:200], strict=True):
        text = "".join(map(str, row))
        assert label == ("00000" in text or "11111" in text)
    # sequences without a run of five: each step of a Markov chain over the length of the last run, 1 to 4
    without, count = [2, 0, 0, 0], 2**25
    for _ in range(24):
        without = [sum(without), *without[:3]]
    assert known.labels.mean() == pytest.approx(1 - sum(without) / count, abs=0.03)
    assert not np.array_equal(known.images, held_out.images[:4_000])


def test_the_second_toy_task():
    """The mean of the numbers tells the sign almost always; the noise is of sizes 0.05 to 0.25."""
    known, _ = samples.noisy_signs(20_000)
    values = known.images[..., 0, 0, 0]
    assert values.shape == (20_000, 40)
    assert ((values.mean(1) > 0) == known.labels).mean() == pytest.approx(0.97, abs=0.01)
    size = values.std(1)
    assert np.quantile(size, [0.02, 0.5, 0.98]) == pytest.approx([0.053, 0.15, 0.25], abs=0.015)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=8), st.sampled_from([10, 20]))
def test_brightest_pixels_come_first(pixels, ticks):
    """Bins of width 1 / ticks, counted from the brightest; every pixel fires once, the background in the last tick."""
    image = np.array([pixels]) / 255
    found = samples.brightest_first(image.reshape(1, 1, -1), ticks)
    for p, tick in zip(pixels, found[0].argmax(0), strict=True):
        assert tick == ticks - 1 - min(ticks - 1, p * ticks // 255)
    assert (found.sum(1) == 1).all()
    assert samples.brightest_first(np.zeros((1, 3)), ticks)[0, -1].all()
    assert samples.brightest_first(np.ones((1, 3)), ticks)[0, 0].all()


@given(st.floats(-2, 2))
def test_numbers_in_bins(value):
    found = samples.in_bins(np.array([[value]]))[0, 0]
    assert found.sum() == 1
    k = int(found.argmax())
    edges = np.linspace(-0.6, 0.6, 33)
    assert k == 0 or value >= edges[k] - 1e-9
    assert k == 31 or value <= edges[k + 1] + 1e-9


def test_the_cochlea_hears_pitch_and_not_loudness():
    """A tone excites the channel tuned to it most; ten times as loud gives the same spikes."""
    rate, time = 8_000, np.arange(4_000) / 8_000
    ends = 21.4 * np.log10(1 + 0.00437 * np.array([samples.LOWEST, samples.HIGHEST]))
    centres = (10 ** (np.linspace(*ends, samples.CHANNELS) / 21.4) - 1) / 0.00437
    for channel in (5, 30, 60):
        tone = np.rint(1_000 * np.sin(2 * np.pi * centres[channel] * time)).astype(np.int16)
        spikes = samples.cochlea(tone, rate)
        assert abs(int(spikes.sum(0).argmax()) - channel) <= 1
        assert spikes.min() >= 0
        louder = samples.cochlea((10 * tone).astype(np.int16), rate)
        assert np.array_equal(spikes, louder)
    assert samples.cochlea(np.zeros(100, np.int16), rate).sum() == 0


def test_frames_as_events():
    """Each count as so many events at the beginning of its tick, in the order of time."""
    frames = np.random.default_rng(0).integers(0, 3, (4, 5, 6))
    events = recurrent.as_events(frames, 1_000)
    assert len(events) == 4
    again = np.zeros_like(frames)
    for n in range(4):
        part = slice(events.offsets[n], events.offsets[n + 1])
        assert (np.diff(events.t[part]) >= 0).all()
        np.add.at(again[n], (events.t[part] // 1_000, events.neuron[part]), 1)
    assert np.array_equal(again, frames)


# ---------------------------------------------------------------------------------------------------------- the rule


class Given(recurrent.Recurrent):
    """Outputs that are what comes in."""

    binary, hidden = False, 1

    def drive(self, x):
        return x

    def begin(self, samples, like):
        return (like.new_zeros(samples, 1),)

    def step(self, driven, state):
        return driven, (state[0] + 1,)


def slowly(outputs: np.ndarray, theta: float) -> list[tuple[int, bool]]:
    """The step of the first crossing of every sample, and whether there was one."""
    found = []
    for sample in outputs.transpose(1, 0, 2):
        steps = [t for t, each in enumerate(sample) if each.max() >= theta]
        found.append((steps[0], True) if steps else (len(sample) - 1, False))
    return found


@given(st.integers(1, 7), st.integers(1, 6), st.integers(0, 10_000))
@settings(deadline=None)
def test_the_first_crossing_decides(steps, count, seed):
    """Against a slow loop, and against the replay of the same outputs; samples keep their order."""
    outputs = np.random.default_rng(seed).normal(0, 2, (steps, count, 3)).round(1)
    found = recurrent.decide(Given(), torch.from_numpy(outputs), 2.5)
    wanted = slowly(outputs, 2.5)
    assert found.step.tolist() == [step for step, _ in wanted]
    assert found.crossed.tolist() == [crossed for _, crossed in wanted]
    for n, (step, _) in enumerate(wanted):
        assert np.array_equal(found.outputs[n].numpy(), outputs[step, n])
    replayed = es.replay(es.Trace(outputs.transpose(1, 0, 2), readout="potential"), es.FirstCrossing(2.5))
    assert replayed.stop_time.tolist() == [step + 1 for step, _ in wanted]
    assert np.array_equal(replayed.predictions, found.outputs.argmax(1).numpy())


def test_a_crossing_in_the_first_step_is_one():
    """Crossings in steps 1, 0 and 2: the published notebooks for binary tasks read the second as none (hazard of D)."""
    outputs = torch.zeros(4, 3, 2)
    outputs[1, 0, 1] = outputs[0, 1, 0] = outputs[2, 2, 1] = 5.0
    assert recurrent.decide(Given(), outputs).step.tolist() == [1, 0, 2]
    mistaken = (outputs.amax(2) >= recurrent.THETA).int().argmax(0)
    assert torch.where(mistaken == 0, 3, mistaken).tolist() == [1, 3, 2]


@pytest.mark.parametrize("make", [recurrent.LSTM, lambda i, k: recurrent.Spiking(i, k, 16)])
@pytest.mark.parametrize("classes", [2, 4])
def test_gradients_go_back_from_the_decision_alone(make, classes):
    """What comes in later has none; what came in before has; the outputs are those of all steps."""
    torch.manual_seed(0)
    network = make(3, classes).double()
    x = (3 * torch.randn(6, 8, 3, dtype=torch.float64)).requires_grad_()
    whole = network(x)
    assert whole.shape == (6, 8, classes)
    theta = float(whole.detach().amax(2).median())
    found = recurrent.decide(network, x, theta)
    assert len(found.step.unique()) > 1
    assert torch.allclose(found.outputs, whole[found.step, torch.arange(8)])
    labels = torch.arange(8) % classes
    how = {"entropy": 0.0, "kind": "bce", "theta": theta}
    recurrent.sequence_loss(network, x, labels, first_crossing=True, **how).backward()
    for n, step in enumerate(found.step.tolist()):
        assert x.grad[step + 1 :, n].abs().sum() == 0
        assert x.grad[: step + 1, n].abs().sum() > 0
    if classes == 2:
        assert torch.equal(whole[..., 0], -whole[..., 1])


def test_the_lstm_is_pytorchs():
    """With the weights of an nn.LSTM and a linear layer."""
    torch.manual_seed(0)
    network, other = recurrent.LSTM(3, 4, hidden=7), nn.LSTM(3, 7)
    with torch.no_grad():
        network.into.weight.copy_(other.weight_ih_l0)
        network.into.bias.copy_(other.bias_ih_l0 + other.bias_hh_l0)
        network.again.weight.copy_(other.weight_hh_l0)
        x = torch.randn(5, 6, 3)
        assert torch.allclose(network(x), network.readout(other(x)[0]), atol=1e-6)
    assert sum(p.numel() for p in recurrent.lstm_mnist().parameters()) == 784 * 500 + 500 + 125 * 500 + 125 * 10 + 10


def test_losses():
    """Of a mirrored pair that of the single sigmoid; the authors' cross-entropy of sigmoids; the reward of entropy."""
    torch.manual_seed(0)
    z, labels = torch.randn(9), torch.arange(9) % 2
    pair = torch.stack([-z, z], 1)
    wanted = functional.binary_cross_entropy_with_logits(z, labels.float())
    assert recurrent.sigmoid_loss(pair, labels, "bce").item() == pytest.approx(wanted.item())
    outputs, labels = torch.randn(9, 4), torch.arange(9) % 4
    p = torch.sigmoid(outputs).numpy()
    slow = -np.mean([sum(math.log(p[n, c] if c == y else 1 - p[n, c]) for c in range(4)) for n, y in enumerate(labels)])
    assert recurrent.sigmoid_loss(outputs, labels, "bce").item() == pytest.approx(slow, rel=1e-5)
    slow = -np.mean([math.log(math.exp(p[n, y]) / np.exp(p[n]).sum()) for n, y in enumerate(labels)])
    assert recurrent.sigmoid_loss(outputs, labels, "cross_entropy").item() == pytest.approx(slow, rel=1e-5)

    x = torch.randn(5, 9, 4)
    found = recurrent.decide(Given(), x, 1.5)
    for n in range(9):
        p = torch.sigmoid(x[: found.step[n] + 1, n])
        entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean()
        assert found.uncertainty[n].item() == pytest.approx(entropy.item(), rel=1e-5)
    how = {"first_crossing": True, "kind": "bce", "theta": 1.5}
    plain, rewarded = (recurrent.sequence_loss(Given(), x, labels, entropy=e, **how).item() for e in (0.0, 0.3))
    assert rewarded == pytest.approx(plain - 0.3 * found.uncertainty.mean().item(), rel=1e-5)
    end = recurrent.sequence_loss(Given(), x, labels, **{**how, "first_crossing": False}, entropy=0.0)
    assert end.item() == pytest.approx(recurrent.sigmoid_loss(x[-1], labels, "bce").item())


# --------------------------------------------------------------------------------------------------- event by event


@pytest.mark.parametrize("classes", [2, 5])
def test_the_spiking_network_runs_event_by_event(classes):
    """Hidden spikes and outputs of PyTorch's own steps, in float64; live runs stop at the step that `decide` finds."""
    torch.manual_seed(2)
    network = recurrent.Spiking(6, classes, 24).double()
    with torch.no_grad():
        network.into.weight.mul_(3)
        network.again.weight.mul_(3)
        network.readout.weight.mul_(6)
    frames = np.random.default_rng(1).integers(0, 3, (12, 9, 6))
    events = recurrent.as_events(frames, 1_000)
    exact = network.to_network(9, 1e-3)
    run = es.simulate(exact, events, ticks=9, watchdog=es.Fixed(), record="spikes", dtype="float64")
    theirs = rank_coding.hidden_spikes(network, frames.astype(np.float64))
    assert theirs.sum() > 300
    assert np.array_equal(run.ledger.spikes_by_tick("hidden"), theirs.sum(2))
    with torch.no_grad():
        outputs = network(torch.from_numpy(frames).double().transpose(0, 1))
    assert np.allclose(run.outputs, outputs.transpose(0, 1).numpy(), atol=1e-12)
    theta = float(outputs.amax(2).median())
    found = recurrent.decide(network, torch.from_numpy(frames).double().transpose(0, 1), theta)
    live = es.simulate(exact, events, ticks=9, watchdog=es.FirstCrossing(theta), dtype="float64", record="spikes")
    assert np.array_equal(live.stop_time, found.step.numpy() + 1)
    assert np.array_equal(live.predictions, found.outputs.argmax(1).numpy())
    assert len(np.unique(live.stop_time)) > 2
    assert live.events["time"].max() < 9
    for n in range(12):  # nothing happens behind a stop
        assert live.events["time"][live.events["sample"] == n].max(initial=-1) < live.stop_time[n]


# ---------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_train_go_on_and_convert(name, tmp_path):
    """A few steps of every recipe; stopped and resumed it ends in the same weights; the export can be run."""
    recipe = tool.read_recipe(ROOT / "tools" / "recipes" / f"{name}.toml")
    stage = replace(recipe.stages[0], epochs=2)
    task = name.split("-")[1]
    ticks = 6 if task in ("mnist", "spoken") else recipe.ticks
    recipe = replace(recipe, stages=(stage,), batch=8, ticks=ticks)
    rng = np.random.default_rng(0)
    images, labels = {
        "bits": lambda: (samples._bits(24, 9).images, samples._bits(24, 9).labels),
        "noise": lambda: (samples._signs(24, 9).images, samples._signs(24, 9).labels),
        "mnist": lambda: (rng.integers(0, 256, (24, 28, 28), np.uint8), rng.integers(0, 10, 24).astype(np.uint8)),
        "spoken": lambda: (
            rng.integers(0, 3, (24, ticks, 64, 1, 1), np.uint8),
            rng.integers(0, 10, 24).astype(np.uint8),
        ),
    }[task]()
    told = []
    whole, _ = tool.train(recipe, images, labels, tmp_path / "a.pt", tell=lambda *what: told.append(what[2]))
    assert len(told) == 2
    assert all(math.isfinite(loss) for loss in told)

    def stop(*what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tool.train(recipe, images, labels, tmp_path / "b.pt", tell=stop)
    again, _ = tool.train(recipe, images, labels, tmp_path / "b.pt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    if "spiking" in name:
        network = tool.converted(recipe, whole, (1, 1, 1))
        frames = rank_coding.frames_of(recipe, images)
        run = es.simulate(network, recurrent.as_events(frames, 1_000), ticks=ticks, watchdog=es.FirstCrossing(2.9))
        assert run.stop_time.max() <= ticks


@pytest.mark.parametrize("loss", ["last", "first-crossing"])
def test_both_losses_learn(tmp_path, loss):
    """An LSTM that is shown the answer in its first step, and is then to say it by the third and at the end."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 600).astype(np.uint8)
    shown = np.zeros((600, 6, 2, 1, 1), np.uint8)
    shown[np.arange(600), 0, labels] = 1
    base = tool.read_recipe(ROOT / "tools" / "recipes" / "rank-bits-lstm-end.toml")
    stage = replace(base.stages[0], loss=loss, epochs=6, learning_rate=0.02)
    recipe = replace(base, stages=(stage,), batch=50, ticks=6)
    network, _ = tool.train(recipe, shown, labels, tmp_path / "c.pt")
    outputs = rank_coding.outputs_of(network, shown[..., 0, 0].astype(np.float32))
    accuracy, tick = rank_coding.at(es.Trace(outputs, labels, readout="potential"), 0.95)
    assert accuracy > 0.99
    assert tick < 3
    if loss == "last":
        assert np.mean(outputs[:, -1].argmax(1) == labels) > 0.99


def test_the_report_says_who_decides_earlier():
    """40 samples, of which the first 10 are always wrong, and outputs that cross 0.95 in tick 2, or in tick 5 of 6."""
    labels = np.arange(40) % 2

    def row(network, training, tick, synops):
        outputs = np.zeros((40, 6, 2))
        said = np.where(np.arange(40) < 10, 1 - labels, labels)
        outputs[np.arange(40)[:, None], np.arange(tick - 1, 6), said[:, None]] = 5.0
        return rank_coding.Row(network, training, es.Trace(outputs, labels, readout="potential"), synops)

    early, late = row("lstm", "first", 2, None), row("lstm", "end", 5, None)
    assert early.name == "LSTM, trained at the first crossing"
    assert rank_coding.comparison(late, early) == (
        "Rank Coding decides earlier: 74.00% are reached after 2.00 ticks, trained at the end after 5.00; "
        "its own threshold gives 75.00% after 2.00, trained at the end after 5.00."
    )
    told = rank_coding.comparison(row("spiking", "end", 2, 400), row("spiking", "first", 5, 4_000))
    assert told.startswith("Rank Coding does **not** decide earlier: 74.00% are reached after 5.00 ticks")
    assert told.endswith("at 0.95, 100 SynOps a sample against 10.")
    lines = rank_coding.task_lines([late, early, row("spiking", "end", 2, 1), row("spiking", "first", 5, 1)])
    assert lines[3].startswith("| LSTM | at the first crossing | 75.00% (")
    assert lines[3].endswith("| 75.00% @ 2.00 | 75.00% @ 2.00 | 75.00% @ 6.00 |")


def test_the_timing_loss_of_the_authors():
    """Wrong or too early 1, else the delay in steps / 20: runs of five that end in step 4, decided in steps 4, 6, 3."""
    bits = np.zeros((4, 25), np.uint8)
    bits[:, 5:] = np.arange(20) % 2
    images = np.stack([1 - bits, bits], 2)[..., None, None]
    outputs = np.zeros((4, 25, 2))
    for n, (step, said) in enumerate([(4, 1), (6, 1), (3, 1), (6, 0)]):
        outputs[n, step:, said] = 5.0
    trace = es.Trace(outputs, np.ones(4, np.int64), readout="potential")
    assert rank_coding.timing_loss(trace, images) == pytest.approx((0 + 2 / 20 + 1 + 1) / 4)


def test_models_are_built_by_name(tmp_path):
    """As the export and the measurement do it, from a saved state dict."""
    network = recurrent.spiking_bits()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "n.pt")
    again = layouts.build("tools.recurrent:spiking_bits", load_checkpoint(tmp_path / "n.pt"))
    assert torch.equal(again.leaks["membrane"], network.leaks["membrane"])


@pytest.mark.parametrize("name", RECIPES)
def test_what_ships_is_its_state_dict(name):
    """Converted again it has the same weights, and in float64 every hidden spike of PyTorch's own steps."""
    recipe = tool.read_recipe(ROOT / "tools" / "recipes" / f"{name}.toml")
    module = layouts.build(recipe.model, load_checkpoint(ROOT / recipe.export.state))
    if not isinstance(module, recurrent.Spiking):
        return
    shipped = es.load(ROOT / recipe.export.network)
    again = tool.converted(recipe, module, (shipped.input.size, 1, 1))
    assert again.tick_seconds == shipped.tick_seconds
    for ours, theirs in zip(again.connections, shipped.connections, strict=True):
        assert np.array_equal(ours.op.weight, theirs.op.weight)
        assert np.array_equal(ours.bias, theirs.bias)
        assert ours.delay == theirs.delay
    assert np.array_equal(again["hidden"].neuron.alpha, shipped["hidden"].neuron.alpha)
    size = shipped.input.size
    frames = np.random.default_rng(0).binomial(1, min(0.5, 4 / size), (3, recipe.ticks, size))
    told = rank_coding.check_spikes(recipe, module, recurrent.as_events(frames, recipe.data.tick_us), frames)
    assert int(re.findall(r"of ([\d,]+) spikes", told)[0].replace(",", "")) > 100


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        (
            'loss = "last"',
            'loss = "cross_entropy"',
            "'stages.loss' is 'cross_entropy', wanted 'last' or 'first-crossing'",
        ),
        ('criterion = "bce"', 'criterion = "mse"', "'stages.criterion' is 'mse', wanted 'bce' or 'cross_entropy'"),
        ("clip = 1.0", "crossing = 1.0", "'stages.crossing' is 1.0, wanted a probability between 0 and 1"),
        ("samples = 200_000", "samples = 0", "'data.samples' is 0, wanted 1 or more"),
        ("[augment]", "[augment]\nthin = 1.0", "'augment.thin' is 1.0, wanted a share from 0 to below 1"),
        ("[augment]", "[augment]\nlate = -1", "'augment.late' is -1, wanted 0 or more"),
        (
            'source = "bits"',
            'source = "bits"\ncode = "morse"',
            "'data.code' is 'morse', wanted '', 'brightest-first' or 'bins'",
        ),
    ],
)
def test_what_a_recipe_cannot_say(old, new, wanted, tmp_path):
    text = (ROOT / "tools" / "recipes" / "rank-bits-lstm-end.toml").read_text()
    assert text.count(old) == 1
    (tmp_path / "r.toml").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(wanted)):
        tool.read_recipe(tmp_path / "r.toml")


def test_sequences_are_moved_and_thinned():
    """Later ticks and other channels at most as far as said, nothing wraps around; thinning only takes away."""
    frames = torch.zeros(200, 8, 6, 1, 1)
    frames[:, 2, 3] = 5
    generator = torch.Generator().manual_seed(0)
    moved = tool.augmented(frames, tool.Augment(late=3, tune=2), generator)[..., 0, 0]
    assert moved.sum((1, 2)).unique().tolist() == [5]
    tick, channel = (moved.amax(d).argmax(1) for d in (2, 1))
    assert (sorted(tick.unique().tolist()), sorted(channel.unique().tolist())) == ([2, 3, 4, 5], [1, 2, 3, 4, 5])
    edge = torch.zeros(100, 3, 2, 1, 1)
    edge[:, 2, 1] = 1
    assert {0.0, 1.0} == {*tool.augmented(edge, tool.Augment(late=1, tune=1), generator).sum((1, 2, 3, 4)).tolist()}
    thinned = tool.augmented(frames, tool.Augment(thin=0.5), generator)
    assert bool((thinned <= frames).all())
    assert 0.65 < float(thinned.sum() / frames.sum()) < 0.85
