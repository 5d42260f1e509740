"""Two processes train a model as one process does on the whole batch, or refuse at the door."""

import copy
import datetime
import json
from pathlib import Path

import pytest
import torch
from torch import multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from thalweg import NeuralODE
from thalweg.gradients import GRADIENTS

F64 = torch.float64
WRAPS = ("ddp", "whole", "field")
"""DistributedDataParallel; FSDP2 of the whole model; FSDP2 of the field too, which each evaluation then gathers."""


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, t, z):
        return self.net(z) * torch.cos(t)


def made(gradient):
    torch.manual_seed(0)
    ode = NeuralODE(Field().double(), rtol=1e-7, atol=1e-7, gradient=gradient)
    return nn.Sequential(nn.Linear(2, 3), ode, nn.Linear(3, 1)).double()


def trained(model, x, y):
    """The parameters after three steps."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        (model(x) - y).pow(2).mean().backward()
        optimiser.step()
    return [p.detach().full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]


def wrapped(model, wrap, mesh):
    if wrap == "ddp":
        return DistributedDataParallel(model)
    if wrap == "field":
        fully_shard(model[1].field, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def work(rank, folder):
    """What one of the processes does; the first writes how far the parameters are off, or what was refused."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/store", datetime.timedelta(seconds=60), world_size=2, rank=rank
    )
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(1)
    x = torch.randn(4, 2, dtype=F64)
    y, own, found = x.sin().sum(1, keepdim=True), slice(rank, None, 2), {}
    for gradient in GRADIENTS:
        model = made(gradient)
        alone = trained(copy.deepcopy(model), x, y)
        for wrap in WRAPS:
            try:
                parts = trained(wrapped(copy.deepcopy(model), wrap, mesh), x[own], y[own])
                off = max((a - b).abs().max().item() for a, b in zip(parts, alone, strict=True))
                found[f"{wrap}-{gradient}"] = off
            except (ValueError, RuntimeError) as error:
                found[f"{wrap}-{gradient}"] = f"{type(error).__name__}: {error}"
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2])  # where the processes find this module
        multiprocessing.spawn(work, (folder,), nprocs=2)
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_processes_with_a_copy_each_train_as_one(found, gradient):
    assert found[f"ddp-{gradient}"] < 1e-6


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_processes_that_share_out_the_whole_model_train_as_one(found, gradient):
    assert found[f"whole-{gradient}"] < 1e-6


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_field_that_is_shared_out_on_its_own_trains_by_direct_and_is_refused_by_others(found, gradient):
    if gradient == "direct":
        assert found["field-direct"] < 1e-6
    else:
        assert "shard the module that holds the whole solve" in found[f"field-{gradient}"]
