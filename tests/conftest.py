"""What several test files need of pytest itself."""

import pytest


@pytest.fixture(scope="module")
def one_thread():
    """Networks this small are slower on several threads, much slower on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
