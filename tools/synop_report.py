"""Where the synaptic operations of a network go: by layer, by sample, by tick, and the neurons that cause most of them.

    python tools/synop_report.py [--weights net.h5 --input test.npz] [--limit 100] [--cutoff topk:1.5] [--top 5]

A script to copy: everything it uses is public. Without options it reports on the packaged digits.
"""

from __future__ import annotations

import argparse

import numpy as np

import eventsnn as es
from eventsnn.cli import packaged
from eventsnn.readers import read_input
from eventsnn.watchdog import parse_policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="network file; default: the packaged digits network")
    parser.add_argument("--input", help="images or events; default: the packaged digits")
    parser.add_argument("--limit", type=int, default=100, help="use the first N samples")
    parser.add_argument("--cutoff", help="as for eventsnn simulate; default: the network's")
    parser.add_argument("--top", type=int, default=5, help="show the N neurons that cause most")
    options = parser.parse_args()
    if (options.weights is None) != (options.input is None):
        parser.error("--weights and --input go together")

    network = es.load(options.weights or packaged("digits.h5"))
    samples = read_input(options.input or packaged("digits-heldout.npz"), network, limit=options.limit)
    run = es.simulate(
        network,
        samples.inputs,
        samples.labels,
        watchdog=None if options.cutoff is None else parse_policy(options.cutoff),
        layout="chw" if len(network.input.shape) == 3 else None,
        count="sources",
    )
    ledger = run.ledger
    total = ledger.synops()
    print(f"{len(total):,} samples, {run.stop_time.mean():.2f} ticks and {total.mean():,.0f} SynOps each on average")
    print(f"median {np.median(total):,.0f}, most {total.max():,}, most in one tick {run.trace.synops.max():,}\n")

    print(f"{'connection':<34} {'delivered':>14} {'effective':>14} {'of a dense pass':>16}")
    for c in network.connections:
        if ledger.tap_class[c.label] not in ("ac", "mac"):
            continue
        delivered, effective = (int(ledger.synops(c.label, kind).sum()) for kind in ("delivered", "effective"))
        source = network[c.source]
        emitted = int(ledger.spikes(c.source).sum())
        share = emitted / (source.size * int(run.stop_time.sum()))  # activity: events per neuron and tick
        print(f"{c.label:<34} {delivered:14,} {effective:14,} {share:16.2%}")

    print(f"\n{'neuron (channel, row, column)':<34} {'SynOps':>14} {'of its layer':>14}")
    for c in network.connections:
        if ledger.tap_class[c.label] not in ("ac", "mac") or c.source == network.input.name:
            continue
        caused = run.synops_by_source(c.label).sum(axis=0)
        for flat in np.argsort(-caused, axis=None)[: options.top]:
            where = tuple(int(i) for i in np.unravel_index(flat, caused.shape))
            if caused[where]:
                name = f"{c.source} {where}"
                print(f"{name:<34} {caused[where]:14,} {caused[where] / caused.sum():14.2%}")


if __name__ == "__main__":
    main()
