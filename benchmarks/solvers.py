"""Who solves: each peer is one function that lists its ways to solve; a further peer is one more.

A way takes the field, y0 and the workload and returns the state at t1. Ways of one kind do the same and are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workloads import Workload

FORWARD, EXACT, ADJOINT = "forward", "forward + backward, exact gradient", "forward + backward, adjoint"
KINDS = (FORWARD, EXACT, ADJOINT)
METHOD = "dopri5"


@dataclass(frozen=True)
class Way:
    """One way to solve."""

    kind: str
    solver: str
    label: str
    solve: Callable[[nn.Module, Tensor, Workload], Tensor]
    by_row: bool = False
    """Whether each row has a step size of its own."""


def torchdiffeq() -> Iterator[Way]:
    """The baseline: the first way of each kind is what the others are divided by."""
    from torchdiffeq import odeint, odeint_adjoint

    def solve(function: Callable[..., Tensor]) -> Callable[[nn.Module, Tensor, Workload], Tensor]:
        def run(field: nn.Module, y0: Tensor, workload: Workload) -> Tensor:
            t = torch.tensor([0.0, workload.t1], dtype=y0.dtype, device=y0.device)
            return function(field, y0, t, rtol=workload.tolerance, atol=workload.tolerance, method=METHOD)[-1]

        return run

    yield Way(FORWARD, "torchdiffeq", "odeint", solve(odeint))
    yield Way(EXACT, "torchdiffeq", "odeint", solve(odeint))
    yield Way(ADJOINT, "torchdiffeq", "odeint_adjoint", solve(odeint_adjoint))


def torchode() -> Iterator[Way]:
    """The peer whose rows have steps of their own, for the workloads where that is worth a look."""
    import torchode as to

    def run(field: nn.Module, y0: Tensor, workload: Workload) -> Tensor:
        term = to.ODETerm(field)
        controller = to.IntegralController(atol=workload.tolerance, rtol=workload.tolerance, term=term)
        solver = to.AutoDiffAdjoint(to.Dopri5(term=term), controller)
        t0 = torch.zeros(len(y0), dtype=y0.dtype, device=y0.device)
        return solver.solve(to.InitialValueProblem(y0=y0, t_start=t0, t_end=t0 + workload.t1)).ys[:, -1]

    yield Way(FORWARD, "torchode", "Dopri5", run, by_row=True)


def thalweg() -> Iterator[Way]:
    """Ours, by PyTorch's operations; the native engine has a benchmark of its own."""
    from thalweg import solve_ivp

    def solve(method: str = METHOD, **options: Any) -> Callable[[nn.Module, Tensor, Workload], Tensor]:
        def run(field: nn.Module, y0: Tensor, workload: Workload) -> Tensor:
            tolerance = workload.tolerance
            args = field.of_rows() if "shrink" in options else ()
            sol = solve_ivp(
                field,
                (0.0, workload.t1),
                y0,
                method,
                args=args,
                rtol=tolerance,
                atol=tolerance,
                backend="eager",
                **options,
            )
            return sol.ys[-1]

        return run

    yield Way(FORWARD, "thalweg", "joint", solve())
    yield Way(FORWARD, "thalweg", "per_sample", solve(batching="per_sample"), by_row=True)
    shrinking = solve(batching="per_sample", shrink=True)
    yield Way(FORWARD, "thalweg", "per_sample, shrink", shrinking, by_row=True)
    yield Way(EXACT, "thalweg", "direct", solve(gradient="direct"))
    yield Way(EXACT, "thalweg", "checkpointed", solve(gradient="checkpointed"))
    yield Way(ADJOINT, "thalweg", "adjoint", solve(gradient="adjoint"))


PEERS = (torchdiffeq, torchode, thalweg)


def ways() -> list[Way]:
    """All of them, the baseline first."""
    return [way for peer in PEERS for way in peer()]


def reference(workload: Workload, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """The end and the gradient in float64 at a tight tolerance: the peer's method of order 8, not ours."""
    from torchdiffeq import odeint

    field, y0 = workload.make(torch.float64, device)
    y0.requires_grad_()
    t = torch.tensor([0.0, workload.t1], dtype=y0.dtype, device=device)
    end = odeint(field, y0, t, rtol=1e-10, atol=1e-10, method="dopri8")[-1]
    return end.detach(), gradient(field, y0, end)


def gradients(field: nn.Module, y0: Tensor, end: Tensor) -> tuple[Tensor, ...]:
    """The gradients of the end's sum of squares to y0 and all parameters."""
    return torch.autograd.grad(end.square().sum(), [y0, *field.parameters()])


def gradient(field: nn.Module, y0: Tensor, end: Tensor) -> Tensor:
    """The same, side by side."""
    return joined(gradients(field, y0, end))


def joined(parts: Sequence[Tensor]) -> Tensor:
    """All numbers of some tensors."""
    return torch.cat([x.flatten() for x in parts])
