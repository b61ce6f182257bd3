"""Benchmarks run on all cores, as training does."""

import pytest
import torch

from pneumonia.data.parallel import available_cores


@pytest.fixture(autouse=True)
def all_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(available_cores())
    yield
    torch.set_num_threads(before)
