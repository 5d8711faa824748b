"""Energy is price times count: the shipped tables, tables of one's own, accounts, and the model of Lemaire et al."""

import json
import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import small

from eventsnn import energy, paper, report, runs
from eventsnn.network import Connection, Conv, Dense, Flatten, Network, Population
from eventsnn.neurons import IF, Input, Integrator
from eventsnn.simulation import simulate
from eventsnn.watchdog import Fixed, SpikeGap

OWN = """
name = "own"
title = "My chip"
technology = "22 nm"
scope = ["arithmetic"]
basis = "measured"
source = "page 7"

[[price]]
operation = "ac"
value = 2
unit = "pJ"
scope = ["arithmetic"]
basis = "measured"
source = "page 7"

[[price]]
operation = "neuron_update"
value = 3
unit = "nJ"
scope = ["arithmetic"]
basis = "measured"
source = "page 8"

[static]
value = 0.5
unit = "mW"
scope = ["static"]
basis = "measured"
source = "page 9"
"""


def own(tmp_path, *changes):
    """The path of OWN with some texts in it replaced."""
    text = OWN
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "own.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def run():
    return small.run(record="spikes")


@pytest.fixture(scope="module")
def books(run):
    record = runs.describe(run)
    return record.run, record.network


# ------------------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("name", sorted(path.stem for path in energy.TABLES.glob("*.toml")))
def test_every_shipped_table_is_whole(name):
    """If this fails, a table cannot be loaded, does not say where it comes from, or costs nothing."""
    table = energy.load_table(name)
    assert table.name == name
    assert len(table.source) > 20
    prices = [*table.prices.values(), *([table.static] if table.static else [])]
    assert prices
    assert all(p.value > 0 and len(p.source) > 5 for p in prices)
    assert {scope for p in prices for scope in p.scope} <= {*table.scope}


@pytest.mark.parametrize(
    ("name", "operation", "picojoule"),
    [
        ("45nm-fp32", "ac", 0.9),  # Horowitz, ISSCC 2014
        ("45nm-fp32", "mac", 4.6),
        ("45nm-fp16", "ac", 0.4),
        ("45nm-fp16", "mac", 1.5),
        ("45nm-int8", "ac", 0.03),
        ("45nm-int8", "mac", 0.23),
        ("loihi1-davies2018", "ac", 23.6),  # Davies et al., IEEE Micro 2018, table 2
        ("loihi1-davies2018", "neuron_update_clocked", 81.0),
        ("truenorth-akopyan2015", "ac", 2.5),  # SENECA (Tang et al. 2023), table 3, and so are the next four
        ("tianjic-deng2020", "ac", 1.54),
        ("reckon-frenkel2022", "ac", 5.3),
        ("odin-frenkel2018", "ac", 12.7),
        ("spinnaker2-hoppner2021", "ac", 10.0),
        ("spinnaker1-hoppner2019", "ac", 13300.0),  # Hoeppner et al. 2019, by keras-spiking
        ("spinnaker2-hoppner2019", "ac", 450.0),
    ],
)
def test_known_prices(name, operation, picojoule):
    """If this fails, a shipped table no longer says what its source does."""
    assert energy.load_table(name).prices[operation].value == pytest.approx(picojoule, rel=1e-12)


def test_sources_that_disagree_both_stand():
    """If this fails, one of two published numbers for one chip has been dropped, as if it were settled."""
    names = energy.table_names()
    for chip in ("loihi1", "truenorth", "spinnaker1", "spinnaker2", "odin"):
        assert len([name for name in names if name.startswith(chip)]) >= 2, chip
    assert {"lemaire2022", "lemaire2022-exact"} <= {*names}


def test_a_table_of_ones_own(tmp_path, books):
    """If this fails, units are converted wrongly or a user's file is not read."""
    table = energy.load_table(own(tmp_path))
    assert table.prices["ac"].value == 2
    assert table.prices["neuron_update"].value == 3000
    assert table.static.value == 0.0005
    for unit, factor in (("fJ", 1e-3), ("nJ", 1e3), ("uJ", 1e6)):
        changed = energy.load_table(own(tmp_path, ('unit = "pJ"', f'unit = "{unit}"')))
        assert changed.prices["ac"].value == pytest.approx(2 * factor)
    for unit, factor in (("nW", 1e-9), ("uW", 1e-6), ("W", 1.0)):
        changed = energy.load_table(own(tmp_path, ('unit = "mW"', f'unit = "{unit}"')))
        assert changed.static.value == pytest.approx(0.5 * factor)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "own"', "name = own", "not valid TOML"),
        ('operation = "ac"', 'operation = "fire"', "price 1: operation is 'fire', wanted one of ac, mac"),
        ('operation = "neuron_update"', 'operation = "ac"', "price 2: ac is priced twice"),
        ('operation = "ac"', 'operation = "neuron_update_clocked"', "are both priced; they are two ways"),
        ("value = 2", "value = -2", r"price 1 \(ac\): value is -2, wanted a number, 0 or more"),
        ("value = 2", "value = nan", "value is nan"),
        ("value = 2", "value = true", "value is True"),
        ("value = 2", 'value = "2"', "value is '2'"),
        ('unit = "pJ"', 'unit = "J"', "unit is 'J', wanted one of fJ, pJ, nJ, uJ"),
        ('unit = "mW"', 'unit = "pJ"', "static: unit is 'pJ', wanted one of nW, uW, mW, W"),
        ('scope = ["arithmetic"]', 'scope = ["all"]', "scope is .*wanted a list of arithmetic"),
        ('scope = ["arithmetic"]', "scope = []", "scope is"),
        ('basis = "measured"', 'basis = "guessed"', "basis is 'guessed', wanted one of measured"),
        ('source = "page 7"', 'source = " "', "source is ' ', wanted text"),
        ('technology = "22 nm"', "year = 2020", "has an entry 'year', which is not known"),
        ('technology = "22 nm"', "", "technology is None, wanted text"),
        ("[static]", "[power]", "has an entry 'power'"),
    ],
)
def test_a_wrong_table_is_refused_in_a_sentence(tmp_path, old, new, message):
    """If this fails, a slip in a user's table prices something silently, or ends in a traceback."""
    path = own(tmp_path, (old, new))
    with pytest.raises(ValueError, match=message) as error:
        energy.load_table(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value).split("not valid TOML")[0]


def test_tables_that_are_not_there(tmp_path):
    """If this fails, a mistyped name is not answered with the names there are."""
    with pytest.raises(ValueError, match="no energy table '45nm'; there are 45nm-fp16, 45nm-fp32"):
        energy.load_table("45nm")
    with pytest.raises(ValueError, match=r"absent\.toml cannot be read"):
        energy.load_table(tmp_path / "absent.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not valid TOML"):
        energy.load_table(tmp_path / "bytes.toml")
    (tmp_path / "empty.toml").write_text("\n".join(OWN.splitlines()[:8]))
    with pytest.raises(ValueError, match="it prices nothing"):
        energy.load_table(tmp_path / "empty.toml")


# ---------------------------------------------------------------------------------------------------------- accounts


@pytest.mark.parametrize("name", energy.table_names())
def test_an_account_is_the_sum_of_its_parts(books, name):
    """If this fails, layers, operations and the total of an account contradict each other."""
    found = energy.account(*books, name, tick_seconds=1e-3)
    assert math.isclose(math.fsum(layer["picojoule"] for layer in found["layers"]), found["dynamic"], rel_tol=1e-12)
    assert math.isclose(
        math.fsum(o["picojoule"] for o in found["operations"].values()), found["dynamic"], rel_tol=1e-12
    )
    assert found["picojoule"] == found["dynamic"] + (found["static"] or 0.0)
    for layer in found["layers"]:
        assert math.isclose(math.fsum(layer["parts"].values()), layer["picojoule"], rel_tol=1e-12)
    json.dumps(found, allow_nan=False)


def test_prices_meet_the_counts_of_the_ledger(tmp_path, run, books):
    """If this fails, a price is multiplied with another count than the one it is for."""
    ledger = run.ledger
    wanted = {
        "ac": ledger.by_class("ac"),
        "mac": ledger.by_class("mac"),
        "identity": ledger.by_class("identity"),
        "pool": ledger.by_class("pool"),
        "mac_input": ledger.macs_input,
        "spike": sum(ledger.spike_units(p.name) for p in run.network.populations if isinstance(p.neuron, IF)),
        **{o: ledger.operations(o) for o in energy.OPERATIONS},
    }
    totals = {key: 0 for key in energy.PRICED}
    for layer in energy.layer_counts(*books).values():
        for key, count in layer.items():
            totals[key] += count
    assert totals == {key: int(wanted[key].sum()) for key in energy.PRICED}
    assert min(totals.values()) > 0  # nothing is compared with nothing
    for key, counts in energy.sample_counts(ledger).items():
        assert np.array_equal(counts, wanted[key]), key
    for key in energy.PRICED:
        if key in ("neuron_update", "ac"):
            continue
        path = own(
            tmp_path, ('operation = "ac"', f'operation = "{key}"'), ('operation = "neuron_update"', 'operation = "ac"')
        )
        found = energy.account(*books, path)
        assert found["picojoule"] == 2 * totals[key] + 3000 * totals["ac"]  # whole numbers: exact
        left = {k for k in totals if k not in (key, "ac")}
        for pair in energy.EITHER:  # counted one way or the other, a pair is told once
            left -= pair if key in pair else {max(pair, key=len)}
        assert {*found["unpriced"]} == left
        assert all(found["unpriced"][k] == totals[k] for k in left)


def test_static_power_takes_the_time_that_ran(tmp_path, run, books):
    """If this fails, a chip that draws power while it idles gains nothing, or too much, from an early stop."""
    table = energy.load_table(own(tmp_path))
    found = energy.account(*books, table, tick_seconds=0.002)
    assert found["static"] == pytest.approx(0.0005 * int(run.stop_time.sum()) * 0.002 * 1e12, rel=1e-12)
    unknown = energy.account(*books, table)
    assert unknown["static"] is None
    assert unknown["picojoule"] == unknown["dynamic"] == found["dynamic"]
    with_tick = {**books[1], "tick_seconds": 0.002}
    assert energy.account(books[0], with_tick, table)["static"] == found["static"]
    full = runs.describe(small.run(cutoff=Fixed()))
    longer = energy.account(full.run, full.network, table, tick_seconds=0.002)
    assert longer["static"] > found["static"]
    assert longer["dynamic"] > found["dynamic"]  # a stopped run is a prefix


def test_the_dense_network_is_priced_once_a_sample(books, run):
    """If this fails, the baseline that papers compare with is not the dense network's."""
    found = energy.account(*books, "45nm-fp32")
    # conv 1 -> 3 on 5x6, 1x1 on the relay's way, 3x3 and 1x1 recurrent among 3 channels, pooled dense 18 x 3
    pairs = (3 * 5 - 2) * (3 * 6 - 2)  # in-bounds taps of a 3x3 kernel on 5 x 6
    dense = 3 * pairs + 9 * 30 + 9 * pairs + 9 * 30 + 54
    assert found["ann"] == pytest.approx(4.6 * dense * len(run.predictions), rel=1e-12)
    assert energy.account(*books, "tianjic-deng2020")["ann"] is None


@pytest.mark.parametrize("input_macs", energy.INPUT_MACS)
def test_how_images_are_multiplied(run, books, input_macs):
    """If this fails, the input layer is charged for other multiplications than asked for."""
    ledger = run.ledger
    wanted = {
        "once": ledger.macs_input,
        "per-tick": ledger.macs_input * run.stop_time,
        "effective": ledger.macs_input_effective,
        "effective-per-tick": ledger.macs_input_effective * run.stop_time,
    }[input_macs]
    counts = energy.layer_counts(*books, input_macs)
    assert {name: layer["mac_input"] for name, layer in counts.items() if layer["mac_input"]} == {
        "conv": int(wanted.sum())
    }
    assert np.array_equal(energy.sample_counts(ledger, input_macs)["mac_input"], wanted)


def test_input_macs_that_are_not_known():
    """If this fails, the effective multiplications of two image connections are made up."""
    network = small.network("sum")
    second = replace(network.connections[0], name="again")
    network = replace(network, connections=(*network.connections, second))
    images, _ = small.images(2)
    record = runs.describe(simulate(network, images, watchdog=Fixed()))
    assert energy.layer_counts(record.run, record.network)["conv"]["mac_input"] == record.run["macs_input"]
    with pytest.raises(ValueError, match="images enter by 2 connections"):
        energy.account(record.run, record.network, "45nm-fp32", input_macs="effective")
    with pytest.raises(ValueError, match="input-macs is 'twice', wanted one of once"):
        energy.account(record.run, record.network, "45nm-fp32", input_macs="twice")


def test_samples_add_up_to_the_run(run, books):
    """If this fails, the energies of single samples are not those of the run they make up."""
    for name in ("45nm-fp32", "loihi1-frady2020"):
        one = energy.sample_picojoule(run.ledger, name, tick_seconds=1e-3)
        assert one.shape == run.stop_time.shape
        assert math.isclose(one.sum(), energy.account(*books, name, tick_seconds=1e-3)["picojoule"], rel_tol=1e-9)
    with pytest.raises(ValueError, match="is a model of whole runs"):
        energy.sample_picojoule(run.ledger, "lemaire2022")


# ------------------------------------------------------------------------------------------------------- Lemaire 2022


def tiny(padding: int, bias: bool) -> Network:
    """Events, a 3x3 convolution of one channel to two, a dense readout."""
    conv = Conv(np.full((2, 1, 3, 3), 0.4), (1, 1), ((padding, padding),) * 2, (1, 1))
    shape = conv.out_shape((1, 5, 5))
    units = math.prod(shape)
    return Network(
        populations=(
            Population("input", (1, 5, 5), Input()),
            Population("conv", shape, IF(threshold=1.0)),
            Population("out", (3,), Integrator()),
        ),
        connections=(
            Connection("input", "conv", conv, bias=np.array([0.1, 0.2]) if bias else None),
            Connection("conv", "out", Dense(np.ones((3, units))), before=(Flatten(),)),
        ),
        output="out",
        encoding="rate",
        ticks=4,
    )


@pytest.mark.parametrize("bias", [False, True])
def test_the_published_model_by_hand(bias):
    """If this fails, the model is not the sum of its printed equations."""
    record = runs.describe(simulate(tiny(1, bias), np.full((2, 1, 5, 5), 0.5), seed=3))
    found = energy.account(record.run, record.network, "lemaire2022")
    spikes = {layer["name"]: layer["events"] for layer in record.run["layers"]}
    s, out, ticks = spikes["input"], spikes["conv"], 8
    access = energy.memory_access
    neurons = 2 * 25
    taps = s * 9 * 2
    memory = s * access(1000) + taps * access(18) + 2 * (taps + ticks * neurons) * access(neurons) + out * access(1000)
    memory += bias * ticks * neurons * access(2)
    operations = taps * 0.1 + out * 0.1 + bias * ticks * neurons * 0.1
    addressing = taps * 0.1 + 2 * s * 3.2
    layer = next(layer for layer in found["layers"] if layer["name"] == "conv")
    wanted = {"memory": memory, "operations": operations, "addressing": addressing}
    assert layer["parts"] == pytest.approx(wanted, rel=1e-12)
    taps = out * 3
    memory = out * access(1000) + taps * access(150) + 2 * (taps + ticks * 3) * access(3)
    layer = next(layer for layer in found["layers"] if layer["name"] == "out")
    assert layer["parts"] == pytest.approx(
        {"memory": memory, "operations": taps * 0.1, "addressing": taps * 0.1}, rel=1e-12
    )


def test_exact_counts_are_the_published_ones_without_borders_and_silence():
    """If this fails, the exact variant differs from the published one by more than borders and untouched neurons."""
    network = tiny(2, True)  # with padding 2 no tap of a 3x3 kernel falls outside
    record = runs.describe(simulate(network, np.full((2, 1, 5, 5), 0.5), seed=3))
    published, exact = (energy.account(record.run, record.network, f"lemaire2022{x}") for x in ("", "-exact"))
    assert exact["layers"][1]["parts"] == pytest.approx(published["layers"][1]["parts"], rel=1e-12)
    bordered = runs.describe(simulate(tiny(1, True), np.full((2, 1, 5, 5), 0.5), seed=3))
    published, exact = (energy.account(bordered.run, bordered.network, f"lemaire2022{x}") for x in ("", "-exact"))
    assert exact["picojoule"] < published["picojoule"]


def test_memory_access_follows_the_three_points():
    """Least squares through 8 kB 10 pJ, 32 kB 20 pJ, 1 MB 100 pJ gives the line that the model uses."""
    slope, start = np.polyfit(np.array([8e3, 32e3, 1e6]) * 8, [10, 20, 100], 1)
    assert energy.memory_access(0) == pytest.approx(start, rel=2e-3)
    assert energy.memory_access(1) - energy.memory_access(0) == pytest.approx(32 * slope, rel=5e-3)


# ------------------------------------------------------------------------------------------------------- for a paper


def test_the_methods_paragraph_says_what_was_run(books, run):
    """If this fails, a paper would state other numbers than the run's, or a reader could not tell what was run."""
    found = {
        **books[0],
        "network": {"file": "my_net 100%.h5", "sha256": "ab12"},
        "input": {**books[0]["input"], "file": "x.npz"},
    }
    accounts = [energy.account(*books, name) for name in ("45nm-fp32", "tianjic-deng2020")]
    text = paper.methods(found, books[1], report.timing(run), accounts)
    samples = len(run.predictions)
    delivered = f"{run.ledger.synops().sum() / samples:,.0f}"
    for part in ("`my_net 100%.h5`", "ab12", f"eventsnn {report.versions()['eventsnn']}", f"NumPy {np.__version__}"):
        assert part in text.splitlines()[0]
    assert f"{delivered} SynOps per sample were delivered" in text
    for account in accounts:
        assert f"{report.joules(account['picojoule'] / samples)} per sample" in text
        assert f"{account['table']}: {account['source']}" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    latex = text[text.index("\\begin{tabular}") : text.index("\\end{tabular}")].splitlines()[2:-1]
    assert len(rows) == len(latex) >= 7
    for row, line in zip(rows, latex):
        name, value = (cell.strip() for cell in row.strip("|").split("|"))
        assert line.endswith(" \\\\")
        plain = line.removesuffix(" \\\\").replace("\\%", "%").replace("$\\mu$", "µ").replace("\\_", "_")
        assert plain == f"{name} & {value}"
        assert not re.search(r"(?<!\\)[%#_]", line.replace("$\\mu$", ""))
    assert "By the table" not in paper.methods(found, books[1], report.timing(run), [])


def test_latex_is_escaped():
    """If this fails, a file name breaks somebody's paper."""
    assert paper._escaped("a_b 100% #1 {x} \\ ~ ^ & $") == (
        "a\\_b 100\\% \\#1 \\{x\\} \\textbackslash{} \\textasciitilde{} \\textasciicircum{} \\& \\$"
    )


@pytest.mark.parametrize(
    ("picojoule", "words"),
    [(0, "0 pJ"), (0.5, "0.5 pJ"), (999, "999 pJ"), (1e3, "1 nJ"), (2.5e6, "2.5 µJ"), (7e9, "7 mJ"), (1.5e12, "1.5 J")],
)
def test_energies_in_words(picojoule, words):
    """If this fails, an energy is shown a thousand times too large or small."""
    assert report.joules(picojoule) == words


def test_a_cutoff_is_a_prefix_of_the_cost():
    """If this fails, stopping later can cost less."""
    costs = []
    for cutoff in (SpikeGap(1), SpikeGap(2), SpikeGap(4), Fixed()):
        costs.append(energy.sample_picojoule(small.run(cutoff=cutoff).ledger, "45nm-fp32"))
    for earlier, later in pairwise(costs):
        assert np.all(earlier <= later)
    assert costs[0].sum() < costs[-1].sum()
