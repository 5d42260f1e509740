"""Backpropagation through every operation of the solver."""

from __future__ import annotations

from torch import Tensor

from ..loop.integrate import Result
from .base import Integrate, Request


class Direct:
    """The exact gradient of what was computed, of any order; its memory grows with the number of steps."""

    def run(self, integrate: Integrate, request: Request) -> tuple[Tensor, Result]:
        """Let PyTorch record the loop."""
        problem = request.problem.with_graph(request.y0, request.times)
        result = integrate(problem)
        return result.ys, result
