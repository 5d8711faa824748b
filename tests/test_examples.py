"""The examples run, and print what a reader of them is told."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def printed(name):
    done = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, check=False)
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


def test_every_example_is_tested():
    assert {p.name for p in EXAMPLES.glob("*.py")} == {"01_one_neuron.py", "02_stop_early.py", "03_from_pytorch.py"}


if __name__ == "__main__":
    pytest.main([__file__])
