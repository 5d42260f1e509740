"""Fixtures that every part of the suite shares."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request):
    """The devices to test on: the CPU, and a GPU where there is one."""
    return torch.device(request.param)
