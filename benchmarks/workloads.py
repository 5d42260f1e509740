"""What is solved: fields, states, times and tolerances.

y: (batch, features), float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """A multilayer perceptron with tanh between its layers, the field of most neural ODEs.

    Fresh weights are multiplied by `gain`: the flow of a field that has learnt something is less smooth than that of
    a fresh one, which is over in two steps.
    """

    def __init__(self, *sizes: int, gain: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.Tanh()]
        self.layers = nn.Sequential(*layers[:-1])
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(gain)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""
        return self.layers(y)


class VanDerPol(nn.Module):
    """Oscillators from gentle to stiff, one a row."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.register_buffer("mu", torch.linspace(0.1, 30.0, rows))

    def forward(self, t: Tensor, y: Tensor, mu: Tensor | None = None) -> Tensor:
        """dy/dt, where only some rows are left with their mu."""
        x, v = y.unbind(-1)
        return torch.stack([v, (self.mu if mu is None else mu) * (1 - x * x) * v - x], -1)

    def of_rows(self) -> tuple[Tensor, ...]:
        """What belongs to a row."""
        return (self.mu,)


@dataclass(frozen=True)
class Workload:
    """A field and a state to carry from 0 to `t1` at rtol = atol = `tolerance`."""

    name: str
    title: str
    field: Callable[[], nn.Module]
    y0: Callable[[], Tensor]
    t1: float
    tolerance: float
    per_sample: bool = False
    """Whether a step size for each row is worth a look: the rows ask for very different ones."""

    def make(self, dtype: torch.dtype, device: str | torch.device = "cpu") -> tuple[nn.Module, Tensor]:
        """The field and the state, the same at each call."""
        torch.manual_seed(0)
        return self.field().to(device, dtype), self.y0().to(device, dtype)


def _mlp(name: str, sizes: tuple[int, ...], batch: int, t1: float, tolerance: float, gain: float) -> Workload:
    title = f"MLP {'-'.join(map(str, sizes))}, fresh weights times {gain:g}, batch {batch}"
    return Workload(name, title, lambda: MLP(*sizes, gain=gain), lambda: torch.randn(batch, sizes[0]), t1, tolerance)


_ALL = (
    _mlp("small", (2, 50, 2), batch=20, t1=5.0, tolerance=1e-5, gain=2.0),
    _mlp("tabular", (64, 128, 128, 64), batch=128, t1=1.0, tolerance=1e-4, gain=4.0),
    _mlp("wide", (256, 512, 256), batch=512, t1=1.0, tolerance=1e-4, gain=4.0),
    _mlp("large", (16, 64, 64, 16), batch=8192, t1=1.0, tolerance=1e-4, gain=4.0),
    Workload(
        "vdp",
        "256 Van der Pol oscillators, mu 0.1 to 30",
        lambda: VanDerPol(256),
        lambda: torch.tensor([2.0, 0.0]).repeat(256, 1),
        t1=10.0,
        tolerance=1e-5,
        per_sample=True,
    ),
)
WORKLOADS = {workload.name: workload for workload in _ALL}
