"""What a step costs beyond the field's own work: operations, and reads of the device."""

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gradient_checks import give_room
from thalweg import solve_ivp

F64 = torch.float64
READS = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::nonzero"}


class Operations(TorchDispatchMode):
    """Counts the operations that reach ATen."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function._schema.name] += 1
        return function(*args, **(kwargs or {}))


class Lists(TorchFunctionMode):
    """Counts the reads that are no operations."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function in (torch.Tensor.tolist, torch.Tensor.numpy)
        return function(*args, **(kwargs or {}))


@dataclass
class Cost:
    """Of a solve, or of a step."""

    steps: int
    operations: float
    reads: float

    def __sub__(self, other):
        """What a step costs, where this solve took more of them: what happens once drops out."""
        steps = self.steps - other.steps
        assert steps >= 5
        return Cost(1, (self.operations - other.operations) / steps, (self.reads - other.reads) / steps)


def sine(t, y):
    """One operation."""
    return torch.sin(y)


def cost(t1, first_step=0.1, *, needs_grad=False, **options):
    """Of a solve, without the field's own operations."""
    y0 = torch.linspace(0.1, 1.0, 10, dtype=F64).reshape(5, 2).requires_grad_(needs_grad)
    with Operations() as operations, Lists() as lists:
        sol = solve_ivp(sine, (0.0, t1), y0, "dopri5", rtol=1e-7, atol=1e-9, first_step=first_step, **options)
    counts = operations.counts
    return Cost(
        steps=int(torch.as_tensor(sol.stats.n_steps).max()),
        operations=counts.total() - counts["aten::sin"],
        reads=lists.count + sum(counts[name] for name in READS),
    )


def check(most, reads, **options):
    """A step takes so many operations and reads at most, be it accepted or rejected."""
    accepted = cost(9.0, **options) - cost(3.0, **options)
    rejected = cost(1e9, 1e8, max_steps=12, on_failure="return", **options) - cost(
        1e9, 1e8, max_steps=6, on_failure="return", **options
    )
    for step in (accepted, rejected):
        assert step.operations <= most
        assert step.reads <= reads


@pytest.mark.parametrize("needs_grad", [False, True], ids=["no_gradient", "checkpointed"])
@pytest.mark.parametrize(("batching", "most"), [("joint", 60), ("per_sample", 95)])
def test_a_step_without_a_graph_takes_few_operations_and_one_read(needs_grad, batching, most, monkeypatch):
    give_room(monkeypatch, 0)  # no memory for a graph
    check(most, 1, batching=batching, needs_grad=needs_grad)


@pytest.mark.parametrize("gradient", ["checkpointed", "direct"])
@pytest.mark.parametrize(("batching", "most", "reads"), [("joint", 60, 1), ("per_sample", 120, 2)])
def test_a_step_with_a_graph_takes_few_operations_and_reads(gradient, batching, most, reads):
    """Per sample it must know whether a row is not finite before it goes on."""
    check(most, reads, batching=batching, needs_grad=True, gradient=gradient)
