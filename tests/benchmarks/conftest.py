"""Benchmarks run on all cores, as training does."""

import pytest
import torch

from pneumonia.data.pool import cores


@pytest.fixture(autouse=True)
def all_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    yield
    torch.set_num_threads(before)
