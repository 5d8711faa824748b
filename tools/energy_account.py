"""What a cutoff saves, in picojoule: one network run to its horizon and with a cutoff, priced sample by sample.

    python tools/energy_account.py [--weights net.h5 --input test.npz] [--cutoff spike-gap:2] [--table NAME ...]
                                   [--tick-seconds 0.001] [--limit 100] [--csv account.csv]

A script to copy: everything it uses is public. Without options it accounts for the packaged digits.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

import eventsnn as es
from eventsnn.cli import packaged
from eventsnn.energy import load_table, sample_picojoule
from eventsnn.readers import read_input
from eventsnn.watchdog import parse_policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="network file; default: the packaged digits network")
    parser.add_argument("--input", help="images or events; default: the packaged digits")
    parser.add_argument("--cutoff", default="spike-gap:2", help="as for eventsnn simulate")
    parser.add_argument("--table", action="append", help="cost table by name or .toml file; may be repeated")
    parser.add_argument("--tick-seconds", type=float, help="length of a tick, for static power")
    parser.add_argument("--limit", type=int, default=100, help="use the first N samples")
    parser.add_argument("--csv", type=Path, help="write a row for each sample, run and table")
    options = parser.parse_args()
    if (options.weights is None) != (options.input is None):
        parser.error("--weights and --input go together")

    network = es.load(options.weights or packaged("digits.h5"))
    samples = read_input(options.input or packaged("digits-heldout.npz"), network, limit=options.limit)
    layout = "chw" if len(network.input.shape) == 3 else None
    tables = [load_table(name) for name in options.table or ("45nm-fp32", "loihi1-davies2018", "odin-frenkel2018")]
    runs = {
        policy: es.simulate(network, samples.inputs, samples.labels, watchdog=parse_policy(policy), layout=layout)
        for policy in ("fixed", options.cutoff)
    }

    rows = []
    print(f"{'cutoff':<16} {'table':<28} {'accuracy':>9} {'ticks':>7} {'nJ per sample':>14} {'95th percentile':>16}")
    for policy, run in runs.items():
        accuracy = "" if run.accuracy is None else f"{run.accuracy:.2%}"
        for table in tables:
            spent = sample_picojoule(run.ledger, table, tick_seconds=options.tick_seconds)
            rows += [(policy, table.name, n, picojoule) for n, picojoule in enumerate(spent)]
            print(
                f"{policy:<16} {table.name:<28} {accuracy:>9} {run.stop_time.mean():7.2f} "
                f"{spent.mean() / 1e3:14,.4g} {np.percentile(spent, 95) / 1e3:16,.4g}"
            )
    print("\nNumbers of different tables are not comparable: look at their scope (eventsnn energy --tables).")
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("cutoff", "table", "sample", "picojoule"))
            writer.writerows(rows)


if __name__ == "__main__":
    main()
