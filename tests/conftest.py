"""What several test files need of pytest itself."""

import os
from pathlib import Path

import pytest

import eventsnn

# Processes that tests start run the package under test, with the kernels it has compiled, also where another copy is
# installed.
_ROOT = str(Path(eventsnn.__file__).resolve().parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="module")
def one_thread():
    """Networks this small are slower on several threads, much slower on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CONTINUOUS = {"test_async", "test_async_currents", "test_async_exact", "test_audit"}


def pytest_collection_modifyitems(config, items):
    """Where several processes run the tests, a file's stay in one: some of them draw from one generator, in order.

    So do the files that are mostly about continuous time, whose kernels take a minute to compile: one process does it.
    """
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            name = item.path.stem
            item.add_marker(pytest.mark.xdist_group("continuous" if name in CONTINUOUS else name))
