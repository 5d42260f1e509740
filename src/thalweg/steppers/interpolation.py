"""States inside a step, as a sum of its stages.

y, k_i: (*shape) in joint, (B, *D) per sample. h: a float or a 0-d tensor in joint, (B,) per sample. theta in [0, 1] is
a place inside the step: (m,) in joint, (B,) per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..core.arithmetic import Flag, Number, wide_dtype
from ..core.derivatives import transformed
from ..core.step import Step
from ..methods.quadrature import at

_FEW = 16
"""The most fractions whose weights are computed one by one, as numbers of Python's."""

CUBIC = ((0.0, 3.0, -2.0), (1.0, -2.0, 1.0), (0.0, -1.0, 1.0))
"""The cubic with the states and the slopes at both ends; stages are the mean slope of the step and these two slopes."""


class StageInterpolation:
    """What steppers share whose interpolant is y(t + theta h) = y + h sum_i b_i(theta) k_i.

    Parameters
    ----------
    rows : sequence of rows
        Row i holds the coefficients of theta, theta², … in b_i(theta).
    like : Tensor
        The packed initial state.
    by_row : bool
        Whether each row has its own t and h.
    """

    def __init__(self, rows: Sequence[Sequence[float]], like: Tensor, *, by_row: bool) -> None:
        self.by_row = by_row
        self.device = like.device
        self._coefficients = rows

    @cached_property
    def _interpolant(self) -> Tensor:  # (S, degree), in float64, and cast last: some rows are large numbers that cancel
        return self._numbers(self._coefficients)

    def _numbers(self, values: Sequence[Any]) -> Tensor:
        """Numbers as times and coefficients are kept."""
        return torch.tensor(values, dtype=wide_dtype(self.device), device=self.device)

    @cached_property
    def _used(self) -> list[int]:
        return [i for i, row in enumerate(self._coefficients) if any(row)]

    def forget(self, units: Flag = True) -> None:
        """Nothing is kept."""

    def take(self, rows: Tensor) -> None:
        """Go on with some of the rows alone; nothing is kept of any."""

    def interpolate(self, step: Step, y: Tensor, h: Number, theta: Tensor) -> Tensor:
        """States inside an extended step of size h from y, at the fractions theta of it.

        In joint, theta (m,) gives states (m, *shape); per sample, theta (B,) gives (B, *D), a fraction for each row.
        """
        if not self.by_row:
            stages = torch.stack([step.stages[i] for i in self._used])
            inside = self._weights_at(theta, h, y) @ stages.reshape(len(stages), y.numel())
            return y + inside.view(len(theta), *y.shape)
        assert isinstance(h, Tensor)
        return self.interpolate_rows(step.stages, y, h, theta)

    def interpolate_rows(self, stages: Sequence[Tensor], y: Tensor, h: Tensor, theta: Tensor) -> Tensor:
        """A state inside each of M steps: y and k_i (M, *D), h and theta (M,)."""
        weights = (self._weights(theta) * h).to(y.dtype)
        weights = weights.view(*weights.shape, *(1,) * (y.ndim - 1))
        for i in self._used:
            y = y + weights[i] * stages[i]
        return y

    def _weights_at(self, theta: Tensor, h: Number, y: Tensor) -> Tensor:
        """H b_i(theta) of the stages that count, (m, S), of the dtype of y."""
        plain = theta.is_cpu and not theta.requires_grad and not transformed()
        if isinstance(h, Tensor) or not plain or len(theta) > _FEW:
            return (self._weights(theta)[self._used] * h).to(y.dtype).t()
        # a dozen small operations of PyTorch's would cost several times as much
        rows = [self._coefficients[i] for i in self._used]
        weights = [[h * at(row, x) for row in rows] for x in theta.tolist()]
        return torch.tensor(weights, dtype=y.dtype, device=y.device)

    def _weights(self, theta: Tensor) -> Tensor:
        """b_i(theta) for theta (M,), as (S, M)."""
        powers = torch.stack([theta**n for n in range(1, self._interpolant.shape[1] + 1)])
        return self._interpolant @ powers
