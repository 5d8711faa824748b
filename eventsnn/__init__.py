"""eventsnn: spiking neural networks, one spike at a time, with an exact account.

The public names are loaded when they are first used, so that `eventsnn --help` does not wait for a compiler.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Budget": "watchdog",
    "Confidence": "watchdog",
    "ConformalSet": "watchdog",
    "Connection": "network",
    "Entropy": "watchdog",
    "Events": "inputs",
    "FirstCrossing": "watchdog",
    "FirstSpike": "watchdog",
    "Fixed": "watchdog",
    "Network": "network",
    "Oracle": "watchdog",
    "Population": "network",
    "Run": "simulation",
    "SpikeGap": "watchdog",
    "TopKGap": "watchdog",
    "Trace": "watchdog",
    "from_torch": "import_torch",
    "load": "store",
    "read_trace": "traces",
    "register": "import_torch",
    "replay": "simulation",
    "save": "store",
    "save_run": "runs",
    "save_trace": "traces",
    "simulate": "simulation",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
