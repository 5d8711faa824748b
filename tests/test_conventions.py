"""What other counting rules say of a run: against their own formulas, by hand, and on layers where everybody agrees."""

import csv
import io
import math
from itertools import pairwise

import numpy as np
import pytest
import small

import eventsnn as es
from eventsnn import report, runs
from eventsnn.conventions import COLUMNS, conventions, geometry
from eventsnn.network import Connection, Conv, Dense, Flatten, Identity, Network, Pool, Population, Sparse, Subsample
from eventsnn.neurons import IF, Input, Integrator, Relay
from eventsnn.wiring import fan_out


def network_of(op, shape, encoding="events", before=(), neuron=None, bias=None) -> Network:
    """One connection from an input (or from a layer that copies it) into neurons that never fire."""
    inner = shape
    for step in before:
        inner = step.out_shape(inner)
    populations, connections = [Population("input", shape, Input())], []
    source = "input"
    if neuron is not None:
        populations.append(Population("copy", shape, neuron))
        connections.append(Connection("input", "copy", Identity()))
        source = "copy"
    target = Population("target", op.out_shape(inner), IF(threshold=1e9))
    populations += [target, Population("out", (1,), Integrator())]
    connections.append(Connection(source, "target", op, before=before, bias=bias, name="layer"))
    last = Dense(np.ones((1, target.size)))
    connections.append(
        Connection("target", "out", last, before=(Flatten(),) if len(target.shape) > 1 else (), name="last")
    )
    return Network(
        populations=tuple(populations),
        connections=tuple(connections),
        output="out",
        encoding=encoding,
        tick_seconds=1e-3,
        ticks=2,
    )


def conv(shape, kernel, stride=1, padding=0, outputs=2, groups=1, dilation=1, weight=None) -> Conv:
    size = (outputs, shape[0] // groups, *(kernel if isinstance(kernel, tuple) else (kernel, kernel)))
    weight = np.ones(size) if weight is None else weight
    return Conv(weight, (stride,) * 2, ((padding, padding),) * 2, (dilation,) * 2, groups)


def uniform(network: Network) -> es.Events:
    """Every unit of the input once, in tick 0."""
    units = np.arange(network.input.size)
    return es.Events(np.zeros(units.size, np.int64), units, np.array([0, units.size]))


def rows_of(network: Network, events, **options):
    run = es.simulate(network, events, record="spikes", watchdog=es.Fixed(), **options)
    record = runs.describe(run)
    found = conventions(record.run, record.network, record.emitted)
    return {row["name"]: row for row in found["rows"]}, found, run


# ------------------------------------------------------------------------------------------- facts of a connection


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, (3, 2)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize(("groups", "dilation"), [(1, 1), (2, 1), (4, 2)])
def test_the_dense_layer_is_the_sum_of_all_fans(kernel, stride, padding, groups, dilation):
    """If this fails, the dense counts of a run are not those of its network."""
    shape = (4, 9, 7)
    if dilation * ((kernel if isinstance(kernel, int) else 3) - 1) >= 7 + 2 * padding:
        kernel = 3
    network = network_of(conv(shape, kernel, stride, padding, 4, groups, dilation), shape)
    taps, _ = fan_out(network)
    facts = geometry(network, network.connections[0])
    assert facts["dense"] == taps["layer"].sum()
    assert facts["outer"] == list(network["target"].shape)
    assert geometry(network, network.connections[1])["dense"] == taps["last"].sum()


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 0), (1, 3)])
def test_one_dimension_and_uneven_padding(before, after, dilation):
    """If this fails, the dense counts of a sequence, or of TensorFlow's padding, are not those of its network."""
    op = Conv(np.ones((4, 2, 3)), (2,), ((before, after),), (dilation,), 1)
    network = network_of(op, (2, 11))
    facts = geometry(network, network.connections[0])
    assert facts["dense"] == fan_out(network)[0]["layer"].sum()
    assert (facts["padding"], facts["stride"], facts["kernel"]) == ([[before, after]], [2], [3])
    row = rows_of(network, uniform(network))[0]["layer"]
    assert row["exact"] == row["ann"] == facts["dense"]
    assert row["kernel_area"] == 22 * 3 * 4


def test_facts_of_every_kind_of_connection():
    """If this fails, a rule is applied to a connection it does not fit."""
    network = small.network()
    facts = {c.label: geometry(network, c) for c in network.connections}
    assert facts["input->conv"]["events"] == "image"
    assert facts["conv->sum"]["events"] == "binary"
    assert facts["sum->rest"]["events"] == "graded"
    assert facts["rest->output"]["pools"] == "average"
    assert facts["rest->output"]["inner"] == [18]
    assert facts["skip"]["dense"] == 90
    multiple = network_of(Dense(np.ones((2, 3))), (3,), neuron=IF(multi_spike=True))
    assert geometry(multiple, multiple.connections[1])["events"] == "multiple"
    assert geometry(multiple, multiple.connections[0])["events"] == "repeated"
    sparse = Sparse(np.array([0, 2, 3, 3]), np.array([0, 1, 0]), np.array([1.0, 0.0, 2.0]), (2,))
    listed = network_of(sparse, (3,))
    facts = geometry(listed, listed.connections[0])
    assert (facts["dense"], facts["weights"], facts["zero_weights"]) == (3, 3, 1)


# ----------------------------------------------------------------------------------------------------- uniform activity


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "mean", "area", "by_stride"),
    [
        (32, 3, 1, 1, 8.629, 1.043, 1.043),
        (16, 3, 1, 1, 8.266, 1.089, 1.089),
        (8, 3, 1, 1, 7.562, 1.190, 1.190),
        (4, 3, 1, 1, 6.250, 1.440, 1.440),
        (32, 3, 2, 1, 2.157, 4.172, 1.043),
        (8, 3, 2, 1, 1.891, 4.760, 1.190),
        (32, 1, 2, 0, 0.250, 4.000, 1.000),
        (34, 5, 2, 1, 5.399, 4.631, 1.158),
    ],
)
def test_rules_under_uniform_activity(size, kernel, stride, padding, mean, area, by_stride):
    """If this fails, the published ratios (each unit of the source active once) do not come out."""
    network = network_of(conv((1, size, size), kernel, stride, padding), (1, size, size))
    rows, _, _ = rows_of(network, uniform(network))
    row = rows["layer"]
    assert row["exact"] / (2 * size * size) == pytest.approx(mean, abs=6e-4)
    assert row["kernel_area"] / row["exact"] == pytest.approx(area, abs=6e-4)
    assert row["area_over_stride2"] / row["exact"] == pytest.approx(by_stride, abs=6e-4)
    outer = network["target"].size
    assert row["rate_x_flops"] == pytest.approx(outer * kernel * kernel)  # the whole layer, padding included, once
    assert row["syops_ac"] == row["rate_x_flops"]  # no bias here
    assert row["sinabs"] == row["exact"]
    assert row["ann"] == row["exact"]


@pytest.mark.parametrize(
    ("size", "kernel", "padding", "wanted"),
    [
        (32, 1, 0, 4.0),
        (32, 3, 0, 1.091),
        (16, 3, 0, 1.2),
        (34, 5, 0, 1.11),
        (32, 3, 1, 1.0),  # 47 taps an axis either way: what it misses at one border it invents at the other
        (34, 5, 1, 1.051),
    ],
)
def test_the_toolbox_array_of_a_strided_convolution(size, kernel, padding, wanted):
    """If this fails, snn_toolbox's fan-out array is not the one its users get (its own ratios, run by us)."""
    shape = (1, size, size)
    network = network_of(conv(shape, kernel, 2, padding), shape, neuron=IF())
    rows, _, run = rows_of(network, uniform(network))
    assert rows["layer"]["toolbox"] / rows["layer"]["exact"] == pytest.approx(wanted, abs=6e-4)
    record = runs.describe(run)
    blind = conventions(record.run, record.network)  # without the events of single neurons
    assert next(row for row in blind["rows"] if row["name"] == "layer")["toolbox"] is None
    assert blind["totals"]["toolbox"] is None


def scattered(network: Network, seed: int, ticks: int = 3) -> es.Events:
    """Uneven activity: a third of the units, more of them at one end, at most once a tick."""
    rng = np.random.default_rng(seed)
    units = network.input.size
    fired = rng.random((ticks, units)) < np.linspace(0.1, 0.6, units)
    tick, unit = np.nonzero(fired)
    return es.Events(tick.astype(np.int64) * 1000, unit, np.array([0, unit.size]))


def toolbox_operations(emitted, outer, kernel, stride, padding, filters) -> int:
    """snn_toolbox, get_fanout_array and get_layer_synaptic_operations, one event and one axis at a time."""
    total = 0
    for (_, y, x), events in np.ndenumerate(emitted):
        fan = filters
        for place, size, k, pad in zip((y, x), outer[1:], kernel, padding, strict=True):
            shifted = place + ((k - 1) // 2 if pad == 0 else 0)
            if stride == 1:
                fan *= k
                continue
            fan *= 1 + sum(
                shifted % stride + i * stride < k and 0 <= shifted // stride - i < size for i in range(1, k + size)
            )
        total += int(events) * fan
    return total


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (2, 3)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_rules_under_uneven_activity(kernel, stride, padding, groups):
    """If this fails, a rule that looks at single neurons, or at groups, is not the one its authors wrote."""
    shape, outputs = (4, 8, 7), 8
    network = network_of(conv(shape, kernel, stride, padding, outputs, groups), shape, neuron=IF())
    rows, _, run = rows_of(network, scattered(network, 1), ticks=3)
    row, events, filters = rows["layer"], int(run.ledger.spikes("copy")[0]), outputs // groups
    emitted = run.emitted("copy")[0].reshape(shape)
    area = math.prod(kernel) * filters
    assert events == emitted.sum() > 50
    assert row["toolbox"] == toolbox_operations(
        emitted, network["target"].shape, kernel, stride, (padding, padding), filters
    )
    assert row["kernel_area"] == events * area
    assert row["area_over_stride2"] == pytest.approx(events * area / stride**2)
    flops = network["target"].size * math.prod(kernel) * 4 // groups
    assert row["rate_x_flops"] == pytest.approx(events / emitted.size * flops)
    assert (
        row["exact"] == row["sinabs"] == row["spikingjelly"] == (emitted.ravel() * fan_out(network)[0]["layer"]).sum()
    )


def syops_counts(calls, op: Conv | Dense, outputs: int, has_bias: bool) -> tuple[float, int]:
    """(AC, MAC) of syops 0.0.5 over forwards of one sample: conv_syops_counter_hook, linear_syops_counter_hook."""
    ac, mac = 0.0, 0
    for x in calls:
        values = np.unique(x)
        is_spike = values.size <= 2 and values.max() <= 1 and values.min() >= 0
        if isinstance(op, Conv):
            channels = x.shape[0]
            filters_per_channel = op.weight.shape[0] // op.groups
            per_position = math.prod(op.weight.shape[2:]) * channels * filters_per_channel
            positions = outputs // op.weight.shape[0]
            operations = per_position * positions + (op.weight.shape[0] * positions if has_bias else 0)
        else:
            operations = x.size * outputs + (outputs if has_bias else 0)
        if is_spike:
            ac += operations * (x.sum() / x.size)
        else:
            mac += operations
    return ac, mac


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("kind", ["conv", "strided", "grouped", "dense"])
def test_syops_call_by_call(kind, has_bias):
    """If this fails, the syops columns are not what that package adds up when it is called once a tick."""
    shape = (20,) if kind == "dense" else (4, 6, 5)
    op = {
        "conv": lambda: conv(shape, 3, 1, 1),
        "strided": lambda: conv(shape, 3, 2, 1),
        "grouped": lambda: conv(shape, 3, 1, 0, 8, groups=4),
        "dense": lambda: Dense(np.ones((7, 20))),
    }[kind]()
    bias = np.full(op.out_shape(shape)[0], 0.5) if has_bias else None
    network = network_of(op, shape, neuron=IF(), bias=bias)
    rows, found, run = rows_of(network, scattered(network, 2), ticks=3)
    calls = np.zeros((3, network["copy"].size))
    copied = run.events[run.events["population"] == 1]
    calls[copied["time"], copied["neuron"]] = 1
    ac, mac = syops_counts(calls.reshape(3, *shape), op, network["target"].size, has_bias)
    assert mac == rows["layer"]["syops_mac"] == 0
    assert rows["layer"]["syops_ac"] == pytest.approx(ac)
    # each neuron node: AC += numel(input), every call; `copy` and `target` spike, the integrator is no neuron to it
    assert found["syops_neurons"] == 3 * (network["copy"].size + network["target"].size)
    images = network_of(op, shape, "direct", bias=bias)
    pixels = np.random.default_rng(0).random((1, *shape))
    row = rows_of(images, pixels, ticks=3, layout="chw" if len(shape) == 3 else None)[0]["layer"]
    assert (row["syops_ac"], row["syops_mac"]) == syops_counts([pixels[0]] * 3, op, network["target"].size, has_bias)


def test_where_everybody_agrees():
    """If this fails, rules differ on a dense layer of spikes, where there is nothing to differ about."""
    network = network_of(Dense(np.ones((5, 6))), (6,), neuron=IF())
    rows, found, _ = rows_of(network, uniform(network))
    row = rows["layer"]
    for column in ("rate_x_flops", "kernel_area", "area_over_stride2", "syops_ac", "neurobench_ac", "sinabs"):
        assert row[column] == row["exact"] == 30, column
    assert row["spikingjelly"] == row["toolbox"] == row["ann"] == 30
    assert row["neurobench_dense"] == 60  # two ticks
    assert found["totals"]["exact"] == 30
    assert found["ratios"]["neurobench"] == found["ratios"]["syops"] == 1


# ----------------------------------------------------------------------------------------------- events of other kinds


def test_an_analog_image():
    """If this fails, the input layer is mixed into the SynOps, or a rule's charge for it is not its own."""
    weight = np.ones((2, 1, 3, 3))
    weight[0, 0, 0, 0] = 0
    network = network_of(conv((1, 4, 4), 3, 1, 1, weight=weight), (1, 4, 4), "direct", bias=np.array([1.0, 0.0]))
    images = np.ones((3, 1, 4, 4))
    images[0, 0, 0, 0] = 0
    rows, found, _ = rows_of(network, images, layout="chw")
    row = rows["layer"]
    assert row["image"]
    assert row["exact"] == row["ann"] == 3 * 200  # 10 x 10 in-bounds taps for each of two channels
    assert row["rate_x_flops"] == 6 * 288
    assert row["syops_mac"] == 6 * (288 + 32)
    assert row["toolbox"] == 3 * 2 * 9 * 32
    assert row["spikingjelly"] == row["neurobench_ac"] == row["syops_ac"] == 0
    # 200 taps less the 9 of the zero weight; the dark pixel of image 0 has 4 + 4 taps, 1 of them of the zero weight
    assert row["neurobench_mac"] == 2 * (3 * (200 - 9) - (8 - 1))
    assert found["totals"]["exact"] == 0
    assert row["kernel_area"] is None
    assert row["sinabs"] is None


def test_an_image_behind_a_pool():
    """If this fails, a window of pixels is counted as so many inputs by a rule that sees one."""
    network = network_of(conv((1, 4, 4), 3, 1, 1), (1, 4, 4), "direct", before=(Pool((2, 2), (2, 2), (0, 0)),))
    rows, _, run = rows_of(network, np.ones((1, 1, 4, 4)), layout="chw")
    row = rows["layer"]
    assert row["exact"] == run.ledger.macs_input[0] == 4 * 16 * 2  # four pixels a window, every path
    assert row["ann"] == 16 * 2  # a 3x3 kernel on 2 x 2 windows: 16 in-bounds taps
    assert row["neurobench_mac"] is None  # its calls see windows, whose zeros the run did not count
    assert row["neurobench_dense"] == 16 * 2 * 2


def test_a_toolbox_array_is_of_the_grid_in_front_of_the_kernel():
    """If this fails, events of one grid are multiplied with the fan-outs of another."""
    shape = (1, 8, 8)
    network = network_of(conv((1, 4, 4), 3, 2, 1), shape, before=(Subsample((2, 2), (0, 0)),), neuron=IF())
    row = rows_of(network, uniform(network))[0]["layer"]
    assert row["toolbox"] is None
    assert row["exact"] == 2 * 5**2  # 3 + 2 taps an axis from positions 0 and 2, seen from 4 pixels with padding 1


def test_behind_an_average_pool():
    """If this fails, a window of spikes is called something else than NeuroBench and spikingjelly call it."""
    pool = Pool((2, 2), (2, 2), (0, 0))
    network = network_of(conv((1, 4, 4), 1), (1, 4, 4), before=(pool,), neuron=IF())
    rows, _, _ = rows_of(network, uniform(network))
    row = rows["layer"]
    assert row["exact"] == row["sinabs"] == 32  # 16 spikes, two channels
    assert (row["neurobench_ac"], row["neurobench_mac"], row["neurobench_kind"]) == (0, 8, "MAC")  # four windows
    assert row["spikingjelly"] == 0
    assert row["syops_ac"] == 0
    assert row["syops_mac"] == 2 * 8  # every tick, in full
    assert row["toolbox"] is None
    summed = network_of(conv((1, 4, 4), 1), (1, 4, 4), before=(Pool((2, 2), (2, 2), (0, 0), "sum"),), neuron=IF())
    row = rows_of(summed, uniform(summed))[0]["layer"]
    assert row["neurobench_kind"] == "by call"
    assert row["neurobench_ac"] is row["neurobench_mac"] is row["spikingjelly"] is None


def test_graded_and_multiple_events():
    """If this fails, a rule that has no answer for an event's value is given one."""
    graded = network_of(Dense(np.ones((5, 6))), (6,), neuron=Relay())
    row = rows_of(graded, uniform(graded))[0]["layer"]
    assert row["exact"] == row["neurobench_mac"] == 30
    assert row["neurobench_kind"] == "MAC"
    assert row["sinabs"] is None
    assert row["spikingjelly"] == row["syops_ac"] == 0
    several = network_of(Dense(np.ones((5, 6))), (6,), neuron=IF(threshold=0.5, multi_spike=True))
    row = rows_of(several, uniform(several))[0]["layer"]
    assert (row["exact"], row["sinabs"]) == (30, 60)  # every neuron fires twice at once
    assert row["neurobench_kind"] == "by call"


def test_a_list_of_synapses_has_no_kernel():
    """If this fails, a rule about kernels is applied to what has none."""
    sparse = Sparse(np.array([0, 2, 3, 3]), np.array([0, 1, 0]), np.array([1.0, 0.0, 2.0]), (2,))
    network = network_of(sparse, (3,), neuron=IF())
    row = rows_of(network, uniform(network))[0]["layer"]
    assert row["exact"] == 3
    assert row["neurobench_ac"] == 2
    assert row["kernel_area"] is row["area_over_stride2"] is row["toolbox"] is None


# ------------------------------------------------------------------------------------------------- sums and sparsities


def test_totals_and_sparsities_by_hand():
    """If this fails, sums or ratios speak of other rows than they say."""
    record = runs.describe(small.run(record="spikes"))
    found = conventions(record.run, record.network, record.emitted)
    spikes = [row for row in found["rows"] if not row["image"]]
    assert [row["name"] for row in found["rows"]] == ["input->conv", "conv->sum", "sum->rest", "back", "rest->output"]
    for column in ("exact", *COLUMNS):
        known = [row[column] for row in spikes]
        assert found["totals"][column] == (None if None in known else sum(known)), column
    assert found["totals"]["exact"] == record.run["synops"]["structural"]
    both = sum(row["neurobench_ac"] + row["neurobench_mac"] for row in spikes)
    assert both == record.run["synops"]["effective_per_tick"]
    assert found["ratios"]["neurobench"] == pytest.approx(both / found["totals"]["exact"])
    ticks, neurons = record.run["ticks_run"], 90 + 90 + 3
    assert found["syops_neurons"] == ticks * neurons
    assert found["activation_sparsity"] == pytest.approx(1 - record.run["spikes"] / (ticks * neurons))
    assert found["connection_sparsity"] == 0
    assert found["footprint_bytes"] == 4 * (27 + 9 + 81 + 9 + 54 + 3)  # the identity's 1 is no stored weight


def test_the_published_speech_network():
    """NeuroBench's GSC network: 145,152 connections x 200 steps, 145,152 weights and 803 biases of 4 bytes."""
    sizes = (20, 256, 256, 256, 35)
    populations = [Population("input", (20,), Input())]
    connections = []
    for i, (a, b) in enumerate(pairwise(sizes), 1):
        populations.append(Population(f"l{i}", (b,), IF(threshold=1e9)))
        before = populations[-2].name
        connections.append(Connection(before, f"l{i}", Dense(np.ones((b, a))), bias=np.zeros(b)))
    network = Network(
        populations=tuple(populations),
        connections=tuple(connections),
        output="l4",
        encoding="events",
        tick_seconds=1e-3,
    )
    quiet = es.Events(np.zeros(0, np.int64), np.zeros(0, np.int64), np.array([0, 0]))
    record = runs.describe(es.simulate(network, quiet, ticks=200))
    found = conventions(record.run, record.network)
    assert found["totals"]["neurobench_dense"] == 29_030_400
    assert found["footprint_bytes"] == 145_955 * 4


def test_the_csv_holds_the_rows():
    """If this fails, the file a user reads elsewhere is not what the command computed."""
    record = runs.describe(small.run(record="spikes"))
    found = conventions(record.run, record.network, record.emitted)
    rows = list(csv.DictReader(io.StringIO(report.conventions_csv(found))))
    assert [row["name"] for row in rows] == [row["name"] for row in found["rows"]]
    for text, row in zip(rows, found["rows"]):
        for column in COLUMNS:
            if row[column] is None:
                assert text[column] == ""
            else:
                assert math.isclose(float(text[column]), row[column])
