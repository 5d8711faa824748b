"""Figures: what is drawn is what was recorded, the stop stands where it happened, and large layers stay readable."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import small
from matplotlib.collections import LineCollection, PolyCollection

from eventsnn import plot, report, runs
from eventsnn.comparison import compare, verdict
from eventsnn.energy import account
from eventsnn.inputs import EVENT, Events
from eventsnn.network import Connection, Dense, Flatten, Network, Population
from eventsnn.neurons import IF, Input
from eventsnn.simulation import simulate
from eventsnn.watchdog import Fixed, SpikeGap, StopReason, TopKGap


@pytest.fixture(scope="module")
def run():
    return small.run()


def texts(figure):
    found = [t.get_text() for t in figure.texts]
    for axes in figure.axes:
        found += [t.get_text() for t in axes.texts]
    return [t.strip() for t in found if t.strip()]


def cells(axes):
    """Corners of every drawn event, (n, 4, 2)."""
    drawn = [c for c in axes.collections if type(c) is PolyCollection and c.get_zorder() == 3]
    return np.concatenate([np.stack([p.vertices[:4] for p in c.get_paths()]) for c in drawn if c.get_paths()])


def stop_lines(figure):
    """x of the red line in every axes."""
    return [line.get_xdata()[0] for axes in figure.axes for line in axes.lines if line.get_color() == plot.STOP]


def pick(run, stopped):
    """A sample that was, or was not, stopped before the horizon."""
    return int(np.flatnonzero((run.stop_time < run.ticks) == stopped)[0])


def test_the_raster_says_what_happened(run):
    """Decision, truth, moment and reason of the stop, and the counts of every layer, in words."""
    sample = pick(run, True)
    words = texts(plot.raster(run, sample))
    stop, answer = int(run.stop_time[sample]), small.CLASSES[run.predictions[sample]]
    title = next(t for t in words if t.startswith("Sample"))
    assert title.startswith(f"Sample {sample}: “{answer}” after {stop} of 12 ticks")
    right = run.predictions[sample] == run.labels[sample]
    assert ("right" in title) == right
    assert ("wrong: it is" in title) == (not right)
    assert any(StopReason.SPIKE_GAP.sentence in t and "spike-gap:2" in t for t in words)
    assert f"stop after {stop} ticks" in words
    assert f"not run\n{12 - stop} ticks" in words
    for name in ("input", "conv", "sum", "rest", "output"):
        assert name in words
    mine = run.events[run.events["sample"] == sample]
    for index, name, noun in ((1, "conv", "spike"), (2, "sum", "event"), (3, "rest", "spike")):
        count = int(np.sum(mine["population"] == index))
        assert count == int(run.ledger.spikes(name)[sample])
        assert any(f"{count:,} {noun}" in t and "90 neurons" in t for t in words)
    for unit, name in enumerate(small.CLASSES):
        assert name in words
        count = int(run.outputs[sample, stop - 1, unit])
        assert any(t.startswith(f"{count} spike") for t in words)
    assert any(t.endswith("(decided, true)") or t.endswith("(decided)") for t in words)


def test_every_event_of_small_layers_is_drawn_in_its_tick(run):
    """One bar for each event, inside its slot, none behind the stop line."""
    sample = pick(run, True)
    figure = plot.raster(run, sample)
    mine = run.events[run.events["sample"] == sample]
    drawn = cells(figure.axes[0])
    assert len(drawn) == len(mine)
    assert np.array_equal(np.sort(np.floor(drawn[:, 0, 0])), np.sort(mine["time"]).astype(float))
    assert drawn[:, :, 0].max() < run.stop_time[sample]
    assert stop_lines(figure) == [run.stop_time[sample]] * 2
    assert figure.axes[0].get_xlim() == (0, 12)


def test_rows_of_a_layer_follow_the_neuron_number(run):
    """Neuron 0 on top: the vertical order of a tick's bars is the order of the neurons."""
    sample = pick(run, True)
    figure = plot.raster(run, sample)
    drawn = cells(figure.axes[0])
    mine = run.events[(run.events["sample"] == sample) & (run.events["population"] == 1)]
    conv = drawn[: len(mine)]  # conv is drawn first: the image has no events
    order = np.argsort(conv[:, 0, 1], kind="stable")
    assert np.array_equal(np.argsort(mine["neuron"], kind="stable"), order)


def test_a_run_to_the_horizon_shows_nothing_left_out(run):
    """No grey region, and the line says horizon."""
    sample = pick(run, False)
    words = texts(plot.raster(run, sample))
    assert "horizon, 12 ticks" in words
    assert not any(t.startswith("not run") for t in words)
    assert not any("behind the red line" in t for t in words)


@pytest.mark.parametrize("sample", [0, 3])
def test_folder_run_and_record_give_the_same_picture(run, tmp_path, sample):
    """The plot commands and the Python door must agree."""
    facts = report.Facts()
    folder = runs.open_folder(tmp_path / "run", "x")
    runs.write(run, folder, facts)
    from_folder, from_run = plot.raster(folder, sample), plot.raster(run, sample)
    from_record = plot.raster(runs.describe(run, facts), sample)
    assert texts(from_folder) == texts(from_run) == texts(from_record)
    assert np.array_equal(cells(from_folder.axes[0]), cells(from_run.axes[0]))
    shifted = plot.raster(runs.describe(run, facts, first=50), sample + 50)
    assert [t.replace(f"Sample {sample + 50}:", f"Sample {sample}:") for t in texts(shifted)] == texts(from_run)


def test_summed_logits_have_curves_and_no_spikes():
    """A readout without spikes is drawn as its running logits."""
    run = small.run("sum", TopKGap(2.0), record="spikes")
    sample = pick(run, True)
    figure = plot.raster(run, sample)
    words = texts(figure)
    assert "summed logits so far" in words
    assert "output layer" not in "".join(words)
    stop = int(run.stop_time[sample])
    levels = [patch.get_data().values for patch in figure.axes[1].patches]
    for unit in range(3):
        assert any(np.array_equal(level, run.outputs[sample, :stop, unit]) for level in levels)


def wide_network(classes=100):
    """3,000 event inputs onto 5,000 neurons onto many classes."""
    rng = np.random.default_rng(4)
    return Network(
        populations=(
            Population("input", (3, 20, 50), Input()),
            Population("wide", (5000,), IF()),
            Population("out", (classes,), IF()),
        ),
        connections=(
            Connection("input", "wide", Dense(rng.normal(0.02, 0.1, (5000, 3000))), before=(Flatten(),)),
            Connection("wide", "out", Dense(rng.normal(0.002, 0.02, (classes, 5000)))),
        ),
        output="out",
        encoding="events",
        ticks=200,
        tick_seconds=1e-3,
    )


@pytest.fixture(scope="module")
def wide():
    rng = np.random.default_rng(5)
    t = np.sort(rng.integers(0, 200_000, 4000))
    events = Events(t, rng.integers(0, 3000, 4000), np.array([0, 4000]))
    return simulate(wide_network(), events, np.array([42]), watchdog=Fixed(), record="potentials")


def test_thousands_of_neurons_are_thinned_and_told_so(wide):
    """A picture of 8,000 neurons must stay quick and readable, and say that it leaves neurons out."""
    figure = plot.raster(wide, 0, rows=60)
    words = texts(figure)
    assert sum("60 neurons drawn, evenly chosen" in t for t in words) == 2
    assert any("5,000 neurons" in t for t in words)
    assert any(f"{int(wide.ledger.spikes('wide')[0]):,} spikes" in t for t in words)  # all of them are counted
    kept = set(np.arange(60) * 5000 // 60)
    shown = sum(int(n) in kept for n in wide.events["neuron"][wide.events["population"] == 1])
    sensor = set(np.arange(60) * 3000 // 60)
    shown += sum(int(n) in sensor for n in wide.events["neuron"][wide.events["population"] == 0])
    leading = [t for t in words if t.isdigit()]
    assert len(leading) == 12  # of 100 classes: those that lead, with the true one
    assert "42" in leading
    units = [int(t) for t in leading]
    shown += int(np.isin(wide.events["neuron"][wide.events["population"] == 2], units).sum())
    assert len(cells(figure.axes[0])) == shown
    assert figure.axes[1].get_xlabel() == "time in ticks, 1 ms each"
    height = figure.get_size_inches()[1]
    assert 4 < height < 12


def test_bands_do_not_overlap_and_labels_stay_in_the_figure(run):
    """Text that runs out of the picture, or over the raster, explains nothing."""
    figure = plot.raster(run, pick(run, True))
    figure.canvas.draw()
    width, height = figure.get_size_inches() * figure.dpi
    left_edge = plot.LEFT * figure.dpi
    for axes in figure.axes:
        for text in axes.texts:
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= width
            assert box.y0 >= 0
            assert box.y1 <= height
            if box.x0 < 0.25 * figure.dpi:
                assert box.x1 < left_edge
    for text in figure.texts:
        assert text.get_window_extent().x1 <= width
    drawn = [c for c in figure.axes[0].collections if type(c) is PolyCollection and c.get_zorder() == 3]
    heights = [np.concatenate([p.vertices[:, 1] for p in c.get_paths()]) for c in drawn if c.get_paths()]
    ranges = [(values.min(), values.max()) for values in heights]
    assert len(ranges) >= 4
    for (_, bottom), (top, _) in pairwise(ranges):  # drawn from the input down to the output
        assert bottom < top


def test_membranes_are_those_recorded(run):
    """The curves are the potentials, the dashed line the threshold, the marks the spikes."""
    sample = pick(run, True)
    stop = int(run.stop_time[sample])
    figure = plot.trace(run, "rest", [0, 31, 89], sample)
    assert len(figure.axes) == 3
    flat = run.potentials["rest"][sample].reshape(12, -1)
    mine = run.events[(run.events["sample"] == sample) & (run.events["population"] == 3)]
    for axes, neuron, threshold in zip(figure.axes, (0, 31, 89), (0.8, 1.0, 1.2), strict=True):
        assert np.array_equal(axes.patches[0].get_data().values, flat[:stop, neuron])
        dashed = [line for line in axes.lines if line.get_color() == plot.FORWARDED]
        assert dashed[0].get_ydata()[0] == threshold
        marks = next(line for line in axes.lines if line.get_marker() == "v")
        assert np.array_equal(marks.get_xdata() - 0.5, mine["time"][mine["neuron"] == neuron])
    assert stop_lines(figure) == [stop] * 3
    assert "channel 1, row 0, column 1" in texts(figure)[texts(figure).index("neuron 31") + 1]


def test_the_default_trace_shows_the_answer(run, wide):
    """Without a population: the output, the classes that lead; elsewhere neurons from busy to quiet."""
    sample = pick(run, True)
    words = texts(plot.trace(run, sample=sample))
    assert [t for t in words if t.startswith("neuron")] == ["neuron 0", "neuron 1", "neuron 2"]
    assert any("(decided" in t for t in words)
    chosen = [int(t.split()[1]) for t in texts(plot.trace(wide, "wide")) if t.startswith("neuron")]
    counts = np.bincount(wide.events["neuron"][wide.events["population"] == 1], minlength=5000)
    assert len(chosen) == 6
    assert counts.max() in counts[chosen]
    assert counts[chosen].min() > 0
    logits = small.run("sum", TopKGap(2.0))
    assert len(plot.trace(logits).axes) == 3


def test_what_cannot_be_drawn_is_refused(run):
    """Each in a sentence that says what to do."""
    bare = small.run(record="outputs")
    with pytest.raises(ValueError, match=r"no recorded spikes to draw; run it again .*--record spikes"):
        plot.raster(bare)
    with pytest.raises(ValueError, match=r"no recorded membranes to draw; run it again .*--record potentials"):
        plot.trace(bare)
    with pytest.raises(ValueError, match="there is no sample 20; there are 0 to 19"):
        plot.raster(run, 20)
    with pytest.raises(ValueError, match="there are no membranes of 'sum'; there are those of conv, rest, output"):
        plot.trace(run, "sum")
    with pytest.raises(ValueError, match=r"neurons of 'conv' are \[90\], wanted some of 0 to 89"):
        plot.trace(run, "conv", [90])


def test_layers_that_were_not_recorded_are_named():
    """Silence and absence must look different."""
    words = texts(plot.raster(small.run(record=["conv", "output"])))
    assert any("not recorded: sum, rest" in t for t in words)
    assert "rest" not in words


def test_ties_and_single_ticks_are_drawn():
    """No spike at all after one tick: a tie, decided by rule, and a picture all the same."""
    run = small.run(cutoff=SpikeGap(3), ticks=1, samples=2, labels=False)
    assert run.tied.all()
    words = texts(plot.raster(run, 1))
    assert any(t.startswith("Sample 1: “") and t.endswith("after 1 of 1 tick (a tie)") for t in words)
    assert any("are level at 0; such ties go to the larger membrane" in t for t in words)
    assert "horizon, 1 tick" in words


def test_saving_is_possible_without_a_display(run, tmp_path):
    """A PNG file, and pyplot, with its global state and windows, is never loaded."""
    path = tmp_path / "raster.png"
    runs.save_figure(plot.raster(run), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    runs.write(run, runs.open_folder(tmp_path / "run", "x"), report.Facts())
    code = (
        "import sys; from eventsnn import plot, runs; from pathlib import Path; "
        f"runs.save_figure(plot.trace({str(tmp_path / 'run')!r}), Path({str(tmp_path / 'trace.png')!r})); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert {p.name for p in tmp_path.iterdir()} == {"raster.png", "run", "trace.png"}


def test_energy_bars_are_the_account(run):
    """If this fails, a bar is longer or shorter than the energy it stands for."""
    record = runs.describe(run)
    tables = ("45nm-fp32", "loihi1-frady2020", "lemaire2022")
    accounts = [account(record.run, record.network, t, tick_seconds=1e-3) for t in tables]
    figure = plot.energy(record, accounts)
    assert len(figure.axes) == len(tables)
    for axes, found in zip(figure.axes, accounts):
        size = {"nJ": 1e3, "µJ": 1e6, "mJ": 1e9}[axes.get_xlabel().split()[0]]
        drawn = sum(bar.get_width() for bar in axes.patches) * size * 20
        assert drawn == pytest.approx(found["picojoule"], rel=1e-9)
    words = texts(figure)
    for found in accounts:
        assert any(w.startswith(f"{found['table']}: ") for w in words)
    assert any("static power" in t.get_text() for t in figure.axes[1].get_yticklabels())
    with pytest.raises(ValueError, match="give at least one energy table"):
        plot.energy(record, [])


def test_the_heat_map_adds_up_to_the_account(run):
    """If this fails, the map shows other SynOps than were counted."""
    record = runs.describe(run)
    for population, labels in (("conv", ["conv->sum"]), ("rest", ["back", "rest->output"]), ("sum", ["sum->rest"])):
        figure = plot.heatmap(record, population)
        drawn = sum(axes.images[0].get_array().sum() for axes in figure.axes if axes.images)
        counted = sum(run.ledger.synops(label, "structural").sum() for label in labels)
        assert drawn == pytest.approx(counted / 20)
        one = plot.heatmap(record, population, 3)
        drawn = sum(axes.images[0].get_array().sum() for axes in one.axes if axes.images)
        assert drawn == sum(run.ledger.synops(label, "structural")[3] for label in labels)
    few = plot.heatmap(record, "conv", channels=1)
    assert sum(bool(axes.images) for axes in few.axes) == 1
    assert any("the 1 busiest of 3 channels" in w for w in texts(few))


def test_maps_that_cannot_be_drawn(run):
    """If this fails, a map of nothing is drawn, or the refusal does not say what to do."""
    with pytest.raises(ValueError, match="there is no population 'x'; there are input, conv"):
        plot.heatmap(run, "x")
    with pytest.raises(ValueError, match="no connection with weights leaves 'output'"):
        plot.heatmap(run, "output")
    with pytest.raises(ValueError, match="there is no sample 20; there are 0 to 19"):
        plot.heatmap(run, "conv", 20)
    with pytest.raises(ValueError, match="run it again with --count sources"):
        plot.heatmap(small.run(record="outputs"), "conv")


def test_a_vector_of_neurons_has_one_map(wide):
    """If this fails, a dense layer cannot be drawn."""
    name = next(p.name for p in wide.network.populations if len(p.shape) == 1 and p.name != wide.network.output)
    figure = plot.heatmap(wide, name)
    assert sum(bool(axes.images) for axes in figure.axes) == 1


def test_every_bar_is_cut_as_the_account_is(run):
    """If this fails, a colour of a bar stands for another operation's energy."""
    record = runs.describe(run)
    found = account(record.run, record.network, "loihi1-frady2020", tick_seconds=1e-3)
    axes = plot.energy(record, [found]).axes[0]
    size = {"nJ": 1e3, "µJ": 1e6, "mJ": 1e9}[axes.get_xlabel().split()[0]]
    names = [label.get_text() for label in axes.get_yticklabels()]
    drawn = [layer for layer in found["layers"] if layer["picojoule"]]
    assert names == [*(layer["name"] for layer in drawn), "static power"]
    bars = sorted(axes.patches, key=lambda bar: (round(bar.get_y() + bar.get_height() / 2), bar.get_x()))
    widths = [part for layer in drawn for part in layer["parts"].values()] + [found["static"]]
    assert [bar.get_width() * size * 20 for bar in bars] == pytest.approx(widths, rel=1e-9)
    ends = [0.0, *(bar.get_x() + bar.get_width() for bar in bars)]
    assert all(bar.get_x() in (0.0, end) for bar, end in zip(bars, ends))  # one part begins where the last one ends
    assert sum(bar.get_x() == 0 for bar in bars) == len(names)
    kinds = [part for layer in drawn for part in layer["parts"]] + ["static"]
    colour_of = dict(zip(kinds, (bar.get_facecolor() for bar in bars)))
    assert len(set(colour_of.values())) == len(colour_of)
    assert all(bar.get_facecolor() == colour_of[kind] for bar, kind in zip(bars, kinds))


def test_a_table_that_has_nothing_to_say_has_an_empty_panel(run):
    """If this fails, a table of static power alone, without the length of a tick, ends in a traceback."""
    record = runs.describe(run)
    found = account(record.run, record.network, "speck-yao2024")
    figure = plot.energy(record, [found])
    assert not figure.axes[0].patches
    assert any(t.startswith("speck-yao2024: 0 pJ") for t in texts(figure))


def test_the_heat_map_shows_every_neuron_in_its_place(run, wide):
    """If this fails, a neuron's SynOps are drawn on its neighbour."""
    figure = plot.heatmap(run, "rest", 3)
    maps = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert np.array_equal(np.stack(maps), (run.synops_by_source("back") + run.synops_by_source("rest->output"))[3])
    limits = {axes.images[0].get_clim() for axes in figure.axes if axes.images}
    assert limits == {(0, np.max(maps))}  # one scale for all
    (drawn,) = [axes.images[0].get_array() for axes in plot.heatmap(wide, "wide").axes if axes.images]
    flat = np.ma.filled(drawn, np.nan).ravel()
    assert np.array_equal(flat[:5000], wide.synops_by_source("wide->out")[0])  # row after row
    assert np.isnan(flat[5000:]).all()


def test_the_busiest_channels_are_drawn(run):
    """If this fails, a large layer is judged by its quiet channels."""
    sums = run.synops_by_source("conv->sum").sum((0, 2, 3))
    for channels in (1, 2):
        figure = plot.heatmap(run, "conv", channels=channels)
        titles = [axes.get_title(loc="left") for axes in figure.axes if axes.images]
        assert titles == [str(c) for c in sorted(np.argsort(-sums, kind="stable")[:channels])]


def test_folder_record_and_counted_sources_give_the_same_map(run, tmp_path):
    """If this fails, counting at the source and recording every spike disagree, or a folder reads another sample."""
    counted = small.run(record="outputs", count="sources")
    runs.write(counted, runs.open_folder(tmp_path / "run", "x"), report.Facts())
    for sample in (None, 7):
        pictures = [plot.heatmap(source, "rest", sample) for source in (run, counted, tmp_path / "run")]
        maps = [[a.images[0].get_array() for a in p.axes if a.images] for p in pictures]
        assert np.array_equal(maps[0], maps[1])
        assert np.array_equal(maps[0], maps[2])
        assert texts(pictures[0]) == texts(pictures[1]) == texts(pictures[2])
    shifted = plot.heatmap(runs.describe(run, first=50), "rest", 57)
    assert np.array_equal([a.images[0].get_array() for a in shifted.axes if a.images], maps[0])


def test_an_analog_image_has_no_map(run):
    """If this fails, a black picture suggests that the pixels cost nothing."""
    with pytest.raises(ValueError, match=r"'input' is an analog image: its pixels are multiplied once a sample"):
        plot.heatmap(small.run(record="outputs", count="sources"), "input")
    with pytest.raises(ValueError, match="events of single neurons of 'rest' are not known; run it again"):
        plot.heatmap(small.run(record=["conv"]), "rest")


# ------------------------------------------------------------------------------------------- runs in real time


def timed(count=400, bins=60, stop=0.0407, tick=1e-3, mode="async", seed=0):
    """A made-up record of one sample: an input, a layer and 4 outputs, stopped inside a bin, in seconds or ticks."""
    rng = np.random.default_rng(seed)
    sizes = {"input": 30, "deep": 20, "out": 4}
    dtype = [(n, "<f8" if n == "time" and mode == "async" else EVENT[n]) for n in EVENT.names]
    events = np.zeros(count, dtype)
    events["population"] = rng.choice(3, count, p=[0.5, 0.4, 0.1])
    events["neuron"] = rng.integers(0, np.array([*sizes.values()])[events["population"]])
    time = np.sort(rng.random(count)) * stop
    events["time"] = time if mode == "async" else time / tick
    events["value"] = 1
    rows = int(np.ceil(stop / tick))
    ends = np.minimum((np.arange(bins) + 1) * tick, stop)
    out = events["population"] == 2
    outputs = np.stack([np.searchsorted(time[out & (events["neuron"] == u)], ends, "right") for u in range(4)], 1)
    outputs = outputs.astype(float)[None]
    outputs[:, rows:] = np.nan
    potentials = rng.random((1, bins, 20))
    potentials[:, rows:] = np.nan
    queue = rng.integers(1, 50, (2, bins))
    queue[:, rows:] = 0
    prediction = int(np.argmax(outputs[0, rows - 1]))
    network = {
        **{"name": "net", "file": None, "sha256": None, "encoding": "events", "output": "out", "readout": "spikes"},
        **{"ticks": bins, "tick_seconds": tick, "labels": ["a", "b", "c", "d"], "connections": []},
        "populations": [
            {"name": n, "kind": k, "spiking": k == "if", "shape": [size], "neurons": size, "depth": i}
            for i, ((n, size), k) in enumerate(zip(sizes.items(), ("input", "if", "if"), strict=True))
        ],
    }
    run = {
        **{"mode": mode, "ticks": bins, "duration": bins * tick, "start": 0.0, "cutoff": "spike-gap:2"},
        **{"dtype": "float64", "recorded": {"events": [*sizes]}, "conventions": {"tie_order": "lowest index"}},
        **{"network": {"file": None}, "input": {"file": None, "samples": 1}},
    }
    trace = {
        **{"outputs": outputs, "stop_time": np.array([stop if mode == "async" else rows])},
        **{"predictions": np.array([prediction]), "tied": np.array([False]), "stop_reason": np.array([1])},
        **{"labels": np.array([prediction]), "queue": queue[:1]},
    }
    return runs.Record(run, network, trace, events, {"deep": potentials}, {"deep": np.array(1.0)})


def strokes(axes):
    """x of every drawn instant."""
    drawn = [c for c in axes.collections if type(c) is LineCollection]
    return np.concatenate([np.array(c.get_segments()).reshape(-1, 4)[:, 0] for c in drawn if len(c.get_segments())])


def test_a_run_in_real_time_is_drawn_on_an_axis_of_time():
    """If this fails, an instant is moved to a tick, or the stop is not where it happened."""
    record = timed()
    figure = plot.raster(record)
    assert np.allclose(np.sort(strokes(figure.axes[0])), np.sort(record.events["time"]) * 1e3, rtol=1e-12)
    assert stop_lines(figure) == [pytest.approx(40.7)] * 2
    assert figure.axes[0].get_xlim() == (0, 60)
    assert figure.axes[1].get_xlabel() == "time in ms"
    words = texts(figure)
    assert "stop at 40.7 ms" in words
    assert "not run\n19.3 ms" in words
    assert any(t.startswith("Sample 0:") and "after 40.7 of 60 ms, right" in t for t in words)
    assert any("in each 1 ms" in t for t in words)
    most = np.bincount((record.events["time"][record.events["population"] == 1] / 1e-3).astype(int)).max()
    assert any(f"at most {most} in 1 ms" in t for t in words)


@pytest.mark.parametrize(("tick", "unit", "factor"), [(1e-6, "µs", 1e6), (1e-3, "ms", 1e3), (1.0, "s", 1.0)])
def test_the_unit_of_time_is_apt(tick, unit, factor):
    """If this fails, an axis reads 0.00005 s."""
    record = timed(stop=40.7 * tick, tick=tick)
    figure = plot.raster(record)
    assert figure.axes[1].get_xlabel() == f"time in {unit}"
    assert figure.axes[0].get_xlim() == (0, pytest.approx(60 * tick * factor))
    assert f"stop at 40.7 {unit}" in texts(figure)


def test_curves_of_a_run_in_real_time_stand_at_the_ends_of_bins():
    """If this fails, a curve is shifted by a bin, or goes on behind the stop."""
    record = timed()
    ends = np.minimum(np.arange(1, 42), 40.7)
    lines = [line for line in plot.raster(record).axes[1].lines if len(line.get_xdata()) == 41]
    assert len(lines) == 4
    assert all(np.allclose(line.get_xdata(), ends) for line in lines)
    drawn = sorted(line.get_ydata().tolist() for line in lines)
    assert drawn == sorted(record.trace["outputs"][0, :41, u].tolist() for u in range(4))
    figure = plot.trace(record, "deep", [3])
    (curve,) = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 41]
    assert np.allclose(curve.get_xdata(), ends)
    assert np.array_equal(curve.get_ydata(), record.potentials["deep"][0, :41, 3])
    marks = next(line for line in figure.axes[0].lines if line.get_marker() == "v")
    mine = (record.events["population"] == 1) & (record.events["neuron"] == 3)
    assert np.allclose(marks.get_xdata(), record.events["time"][mine] * 1e3)
    assert any("joined by straight lines" in t for t in texts(figure))


@pytest.mark.parametrize("start", [0.0, 0.0305, 0.1, 0.7])
def test_a_run_that_went_on_to_its_horizon_has_nothing_left_out(start):
    """If this fails, rounding leaves 1e-15 ms that were "not run", or a resumed run is drawn from 0."""
    record = timed(stop=0.0205, bins=21)
    events, end = record.events.copy(), (round(start * 1e6) + 20_500) / 1e6
    events["time"] += start
    run = {**record.run, "duration": 0.0205, "start": start}
    trace = {**record.trace, "stop_time": np.array([end]), "stop_reason": np.array([0])}
    figure = plot.raster(replace(record, events=events, run=run, trace=trace))
    words = texts(figure)
    assert any(t.startswith("horizon, ") for t in words)
    assert not any(t.startswith("not run") for t in words)
    unit = 1.0 if end >= 1 else 1e3
    assert figure.axes[0].get_xlim() == (pytest.approx(start * unit), pytest.approx(end * unit))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_million_events_are_counted_in_pixels(mode):
    """If this fails, a large run takes minutes to draw, or events vanish between pixels."""
    record = timed(1_000_000, 1000, 0.9, mode=mode)
    figure = plot.raster(record)
    axes = figure.axes[0]
    assert len(axes.images) == 6  # an input, a layer, four classes
    assert len(axes.collections) < 20
    assert sum(len(c.get_paths()) for c in axes.collections) < 100
    assert any("the darker, the more spikes" in t for t in texts(figure))
    columns = axes.images[0].get_array().shape[1]
    assert columns < 1000
    for image, number in zip(axes.images[:2], (0, 1), strict=True):
        mine = record.events[record.events["population"] == number]
        drawn = image.get_array()[:, :, 3]
        time = mine["time"] / (1.0 if mode == "async" else 1000)
        counts = np.zeros(drawn.shape)
        np.add.at(counts, (mine["neuron"], np.minimum(time * columns, columns - 1).astype(int)), 1)
        assert np.allclose(drawn, np.sqrt(counts / counts.max()))


def test_many_ticks_keep_their_counts():
    """If this fails, the shading of a long run loses spikes where neighbouring ticks are merged."""
    record = timed(5000, 30_000, 25.5, mode="sync")
    figure = plot.raster(record)
    for patch, number in zip([p for p in figure.axes[0].patches if hasattr(p, "get_data")], (0, 1), strict=False):
        values, edges, base = patch.get_data()
        assert len(values) <= plot.FINE
        mine = record.events["time"][record.events["population"] == number]
        counts = np.histogram(mine, edges)[0]
        assert np.allclose((base - values) / (base - values).max(), counts / counts.max())
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()][:2] == ["0", "2000"]


def test_the_queue_is_drawn_as_it_was():
    """If this fails, the picture of the queue is of another sample, or does not end at the stop."""
    record = timed()
    pending = np.concatenate([record.trace["queue"], 2 * record.trace["queue"], 3 + 0 * record.trace["queue"]])
    trace = {**record.trace, "queue": pending}
    trace.update({key: np.repeat(trace[key], 3, axis=0) for key in trace if key != "queue"})
    trace["stop_time"] = np.array([0.0407, 0.0207, 0.0407])
    record = replace(record, trace=trace)
    outlines = {s: plot.queue(record, s).axes[0].patches[0].get_data() for s in (0, 2)}
    for sample, outline in outlines.items():
        assert np.array_equal(outline.values, pending[sample, :41])
        assert np.allclose(outline.edges, [*range(41), 40.7])
    every = plot.queue(record)
    assert np.array_equal(every.axes[0].patches[0].get_data().values, pending.max(0)[:41])
    assert any("the most of 3 samples" in t for t in texts(every))
    assert any(f"at most {pending.max()} entries" in t for t in texts(every))
    with pytest.raises(ValueError, match=r"did not keep its queue over time; run it again with --mode async"):
        plot.queue(small.run())
    with pytest.raises(ValueError, match="there is no sample 3; there are 0 to 2"):
        plot.queue(record, 3)


# ------------------------------------------------------------------------------------------------- two runs


def inside(figure):
    """Whether every text lies in the figure."""
    figure.canvas.draw()
    width, height = figure.get_size_inches() * figure.dpi
    boxes = [t.get_window_extent() for t in [*figure.texts, *(t for axes in figure.axes for t in axes.texts)]]
    return all(b.x0 >= 0 and b.x1 <= width and b.y0 >= 0 and b.y1 <= height for b in boxes)


@pytest.mark.parametrize("cutoffs", [(SpikeGap(2), Fixed()), (Fixed(), Fixed())])
def test_the_comparison_is_drawn_as_it_was_found(cutoffs):
    """If this fails, the picture of two runs tells of other differences than the numbers."""
    found = compare(*(small.run(cutoff=c) for c in cutoffs))
    figure = plot.comparison(found)
    words = texts(figure)
    assert verdict(found).rstrip(".") in words
    assert f"A: run A (sync, float32, cutoff {cutoffs[0]});   B: run B (sync, float32, cutoff fixed)" in words
    for layer in found.layers:
        assert f"{layer.spikes[0]:,} in A, {layer.spikes[1]:,} in B" in words
    bars = figure.axes[-1].patches
    assert [bar.get_width() for bar in bars] == [layer.distance for layer in found.layers]
    shown = [cells(axes) if axes.collections else [] for axes in figure.axes[1:3]]
    for side, drawn in enumerate(shown):
        sample = found.first.sample if found.first else 0
        events = found.records[side].events
        mine = events[(events["sample"] == sample) & (events["population"] == 4)]
        assert sorted(np.floor([c[0, 0] for c in drawn])) == sorted(mine["time"])
    marks = [t for t in words if t.startswith("first difference")]
    assert len(marks) == (found.first is not None)
    assert inside(figure)


def test_runs_in_real_time_are_compared_in_their_unit():
    """If this fails, a first difference is marked at another time than it happened."""
    record = timed()
    moved = record.events.copy()
    index = int(np.flatnonzero(moved["population"] == 2)[-1])
    moved["time"][index] -= 1e-5
    found = compare(record, replace(record, events=np.delete(moved, index)))
    figure = plot.comparison(found)
    assert found.first.population == "out"
    assert found.first.b is None
    assert "first difference" in texts(figure)
    assert "not here" in texts(figure)
    lines = [line.get_xdata()[0] for axes in figure.axes[1:3] for line in axes.lines if line.get_linestyle() == "--"]
    assert lines == [pytest.approx(record.events["time"][index] * 1e3)] * 2
    for axes, events in zip(figure.axes[1:3], (record.events, np.delete(moved, index)), strict=True):
        assert np.allclose(np.sort(strokes(axes)), np.sort(events["time"][events["population"] == 2]) * 1e3)
    assert inside(figure)
    later = compare(record, replace(record, events=moved))
    assert later.first.b == pytest.approx(later.first.a - 1e-5)
    mixed = plot.comparison(compare(timed(mode="sync"), record))
    assert mixed.axes[2].get_xlabel() == "time in ms"
    assert "No spike differs in 1 sample" in texts(mixed)
