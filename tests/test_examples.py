"""The examples and the scripts to copy run, and print what a reader of them is told; every run of theirs is audited."""

import contextlib
import csv
import io
import math
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import eventsnn as es
from eventsnn.audit import audit

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def printed(name, *options):
    done = subprocess.run([sys.executable, EXAMPLES / name, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_one_neuron():
    """0.75 halves to 0.375, the next 0.75 makes it cross 1 and reset; 1.25 crosses at once; every event has one tap."""
    assert printed("01_one_neuron.py") == [
        "membrane after each tick: 0.75 0.0 0.0 0.0 0.0",
        "ticks in which it fired:  1 3",
        "synaptic operations:      6 = 4 events in + 2",
    ]


def test_stop_early():
    lines = printed("02_stop_early.py")
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:6]}
    assert lines[-1] == "a live run stops where the replay says: True"
    assert float(rows["spike-gap:2"][1]) <= float(rows["fixed"][1]) / 2
    cost = [int(rows[f"spike-gap:{gap}"][2].replace(",", "")) for gap in (1, 2, 3, 4)]
    assert cost == sorted(cost)


def test_from_pytorch():
    lines = printed("03_from_pytorch.py")
    rows = (line.split(":") for line in lines[:5])
    accuracy = {name.strip(): float(found.split("%")[0]) for name, found in rows}
    assert accuracy["PyTorch"] > 90
    assert abs(accuracy["32 ticks"] - accuracy["PyTorch"]) < 2
    assert lines[-1].startswith("spikes that differ from PyTorch's: 0 of ")


def test_continuous_time():
    """Alone the neuron crosses at -tau ln(1 - 15/40); each other time solves the same law piece by piece."""
    lines = dict(line.split(":", 1) for line in printed("04_continuous_time.py"))
    found = {name: float(text.split()[0]) for name, text in lines.items()}
    formula = -10 * math.log(1 - 15 / 40)
    assert (
        found["the formula"] == found["drive alone"] == found["inhibited a us later"] == pytest.approx(formula, 1e-12)
    )
    for name, at, jump in (("excited at 3 ms", 3.0, 3.0), ("inhibited at 4.7 ms", 4.7, -3.0)):
        v = 40 * (1 - math.exp(-at / 10)) + jump
        assert found[name] == pytest.approx(at + 10 * math.log((40 - v) / (40 - 15)), abs=1e-11)


def test_both_modes():
    lines = printed("05_both_modes.py")
    rows = {line[:18].strip(): line[18:].split() for line in lines[1:4]}
    accuracy = {name: float(row[0].rstrip("%")) for name, row in rows.items()}
    assert min(accuracy.values()) > 90
    assert rows["ticks of 1 ms"][1] == "100.0%"
    assert len({row[2] for row in rows.values()}) == 3  # three disciplines, three bills
    assert re.fullmatch(r"first difference: sample \d+, conv\d, neuron \d+", lines[-1])


def test_event_camera():
    lines = printed("06_event_camera.py")
    assert lines[0].startswith("200,000 events in 100 windows of 0.1 s, ")
    assert all(int(n) > 0 for n in lines[1].removeprefix("output spikes:").split())
    assert lines[2].endswith("True")


def test_first_spike():
    """Nearly every letter is right, and the answers cost less than half of what the whole run does."""
    lines = printed("07_first_spike.py")
    right, of = re.match(r"(\d+) of (\d+) letters right", lines[0]).groups()
    assert int(of) == 60
    assert int(right) >= 57
    until, end = ([float(x) for x in re.findall(r"[\d.]+", line)] for line in lines[1:3])
    assert end[0] == 25.0
    assert 2 * until[0] < end[0]
    assert 2 * until[1] < end[1]
    assert lines[3] == "the whole run tells the same answers: True"


def test_recurrent():
    """One kick keeps the network going to its end, and every synapse's event is delivered or under way."""
    lines = printed("08_recurrent.py")
    spikes, first, last = re.match(r"(\d+) spikes, the first at (\S+) ms, the last at (\S+) ms", lines[0]).groups()
    assert int(spikes) > 100
    assert 1.0 < float(first) < 10
    assert 490 < float(last) < 500
    structural, delivered, under_way = (int(n) for n in re.findall(r"\d+", lines[1]))
    assert structural == delivered + under_way
    assert under_way > 0


def test_every_example_is_tested():
    assert {p.name for p in EXAMPLES.glob("*.py")} == {
        "01_one_neuron.py",
        "02_stop_early.py",
        "03_from_pytorch.py",
        "04_continuous_time.py",
        "05_both_modes.py",
        "06_event_camera.py",
        "07_first_spike.py",
        "08_recurrent.py",
    }


@pytest.mark.parametrize("name", sorted(p.name for p in EXAMPLES.glob("*.py")))
def test_every_run_of_an_example_stands_an_audit(name, tmp_path, monkeypatch):
    """If this fails, the engine's account of an ordinary run is not what its own events give."""
    simulate, audited = es.simulate, []

    def recorded(network, *arguments, **options):
        run = simulate(network, *arguments, **{**options, "record": "spikes"})
        folder = tmp_path / f"run{len(audited)}"
        es.save(network, tmp_path / f"net{len(audited)}.h5")
        es.save_run(run, folder, weights=tmp_path / f"net{len(audited)}.h5")
        audited.append(audit(folder))
        return simulate(network, *arguments, **options)

    monkeypatch.setattr(es, "simulate", recorded)
    runpy.run_path(str(EXAMPLES / name))
    assert audited
    assert [found.first for found in audited] == [None] * len(audited)
    assert all(found.agrees and found.checked > 50 for found in audited)


def test_the_example_of_the_counting_page_is_true():
    """If this fails, a reader who recomputes the page's example by hand gets other numbers than the program."""
    page = (ROOT / "docs" / "counting.md").read_text()
    code, wanted = (re.search(rf"```{kind}\n(.*?)```", page, re.S)[1] for kind in ("python", "text"))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(code, "docs/counting.md", "exec"), {})
    assert said.getvalue() == wanted
    # and the numbers of its table, from the two pictures alone
    fan = np.array([[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]])
    ticks = [[(0, 0), (1, 1)], [(1, 1), (3, 2)]]
    by_tick = [2 * sum(fan[pixel] for pixel in pixels) for pixels in ticks]
    assert by_tick == [26, 30]
    assert f"2 x 4 + 2 x 9 = {by_tick[0]} | 2 x 9 + 2 x 6 = {by_tick[1]} | {sum(by_tick)}" in page


def test_synop_report():
    """The script to copy adds up: its neurons' shares are shares of what `simulate` counts."""
    lines = printed("../tools/synop_report.py", "--limit", "20", "--top", "3")
    network = es.load(ROOT / "weights" / "digits.h5")
    images = np.load(ROOT / "weights" / "digits-heldout.npz")["images"][:20]
    run = es.simulate(network, images, count="sources")
    rows = {line.split()[0]: line.split()[1:] for line in lines if "->" in line}
    for label in ("conv1->conv2", "conv2->output"):
        assert int(rows[label][0].replace(",", "")) == run.ledger.synops(label).sum()
    most = run.synops_by_source("conv1->conv2").sum(0).max()
    first = next(line for line in lines if line.startswith("conv1 ("))
    assert f"{most:,}" in first


def test_energy_account(tmp_path):
    """The script to copy writes a sample's energy that the command gives for the whole run."""
    out = tmp_path / "account.csv"
    printed("../tools/energy_account.py", "--limit", "20", "--table", "45nm-int8", "--csv", str(out))
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    spent = {
        cutoff: sum(float(r["picojoule"]) for r in rows if r["cutoff"] == cutoff) for cutoff in ("fixed", "spike-gap:2")
    }
    assert spent["spike-gap:2"] < spent["fixed"] / 2


if __name__ == "__main__":
    pytest.main([__file__])
