"""No backward pass flattens or copies the parameters, or gradients as large as they are."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from thalweg import Checkpointed, solve_ivp
from thalweg.gradients import GRADIENTS

WAYS = {**GRADIENTS, "step by step": Checkpointed(memory_limit=0), "few": Checkpointed(memory_limit=0, checkpoints=1)}
COPIES = {"cat", "stack", "clone", "copy_", "_to_copy", "contiguous", "_reshape_copy", "new_empty", "new_zeros"}
WIDE = 64


class Watch(TorchDispatchMode):
    """Sees the operations of a backward pass: the largest output, and copies of what is as large as a weight."""

    def __init__(self):
        super().__init__()
        self.largest, self.copies, self.operations = 0, [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        name, sizes = function.overloadpacket.__name__, [x.numel() for x in tree_leaves(made) if torch.is_tensor(x)]
        self.operations += 1
        self.largest = max([self.largest, *sizes])
        if name in COPIES and max(sizes, default=0) >= WIDE * WIDE:
            self.copies.append(name)
        return made


class Field(torch.nn.Module):
    """Two weights of 64 x 64, by far larger than the state and than what a step holds."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = (torch.nn.Linear(WIDE, WIDE) for _ in range(2))

    def forward(self, t, y):
        return self.two(torch.tanh(self.one(y)))


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("outputs", [None, [0.2, 0.7]], ids=["ends", "outputs"])
@pytest.mark.parametrize(
    ("name", "backend"),
    [*((name, "eager") for name in WAYS if name != "forward"), ("checkpointed", "native"), ("step by step", "native")],
)  # forward is for a hundred numbers at most
def test_no_backward_pass_flattens_or_copies_the_parameters(name, backend, outputs, batching):
    field, y0 = Field(), torch.ones(2, WIDE, requires_grad=True)
    options = {"step_size": 0.5, "gradient": WAYS[name], "batching": batching, "backend": backend}
    sol = solve_ivp(field, (0.0, 1.0), y0, "tsit5", outputs, **options)
    loss = sol.ys.square().sum()
    watch = Watch()
    with watch:
        loss.backward()
    assert watch.operations > (50 if backend == "eager" else 5)
    assert watch.largest < sum(x.numel() for x in field.parameters())
    assert watch.largest >= WIDE * WIDE
    assert watch.copies == []
