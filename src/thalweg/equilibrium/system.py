"""The equations f(t, y) = 0 of each unit, at a fixed time, and what Newton's method asks of them.

y: (*shape) in joint, (B, *D) per sample. In what follows joint is a batch of one row: R is 1 or B, N the length of a
row's state; z, f, s: (R, N); J: (R, N, N); what each row has one of: (R,).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.arithmetic import across
from ..core.field import Field, kept
from ..core.jacobian import Jacobians
from ..core.norms import Tolerance, rms_of_rows


class System:
    """The equations, and the count of what was evaluated of them.

    Parameters
    ----------
    field : Field
        f.
    time : Tensor
        t, as the field takes it.
    like : Tensor
        A state.
    tolerance : Tolerance
        What a change is measured by.

    Attributes
    ----------
    nfev, njev : Tensor (R,)
        Evaluations of the field and of its Jacobian.
    """

    def __init__(self, field: Field, time: Tensor, like: Tensor, tolerance: Tolerance) -> None:
        self.field, self.time, self.tolerance = field, time, tolerance
        self.by_row, self._shape = field.layout.by_row, like.shape
        rows = like.shape[0] if self.by_row else 1
        self.size = like.numel() // max(rows, 1)
        self.nfev = torch.zeros(rows, dtype=torch.int64, device=like.device)
        self.njev = self.nfev.clone()
        self._jacobians: Jacobians | None = None

    def packed(self, z: Tensor) -> Tensor:
        """Z as the field takes it."""
        return z.view(self._shape)

    def rows(self, y: Tensor) -> Tensor:
        """Y as rows."""
        return y.reshape(len(self.nfev), self.size)

    def __call__(self, z: Tensor, asked: Tensor) -> Tensor:
        """F, counted for the rows that asked."""
        self.nfev = self.nfev + asked
        return self.rows(kept(self.field(self.time, self.packed(z))))

    def jacobian(self, z: Tensor, asked: Tensor) -> tuple[Tensor, Linear]:
        """F and J, ready to be solved with."""
        if self._jacobians is None:
            self._jacobians = Jacobians(self.packed(z), by_row=self.by_row)
        self.nfev, self.njev = self.nfev + asked, self.njev + asked
        found = self._jacobians.at(self.field, self.time, self.packed(z))
        return self.rows(found.slope), Linear.of(found.jacobian.view(len(z), self.size, self.size))

    def relative(self, change: Tensor, z: Tensor) -> Tensor:
        """How large a change of z is, relative to the tolerance."""
        return rms_of_rows(change / self.rows(self.tolerance.scale(self.packed(z))))


@dataclass(frozen=True)
class Linear:
    """J of each row, its rows brought to one size: J = D A, and A in triangular factors.

    Attributes
    ----------
    singular : Tensor (R,)
        Whether it has no inverse as far as rounding lets be seen.
    """

    matrix: Tensor
    size: Tensor
    factors: Tensor
    pivots: Tensor
    singular: Tensor

    @staticmethod
    def of(matrix: Tensor) -> Linear:
        """The factors."""
        size = matrix.abs().amax(-1, keepdim=True)
        size = torch.where(size > 0, size, 1.0)
        factors, pivots, _ = torch.linalg.lu_factor_ex(matrix / size)
        diagonal = factors.diagonal(dim1=-2, dim2=-1).abs()
        least = matrix.shape[-1] * torch.finfo(matrix.dtype).eps
        singular = ~(diagonal.amin(-1) > least * diagonal.amax(-1))  # also where it is NaN
        return Linear(matrix, size.squeeze(-1), factors, pivots, singular)

    def solve(self, x: Tensor) -> Tensor:
        """J⁻¹ x."""
        return torch.linalg.lu_solve(self.factors, self.pivots, (x / self.size).unsqueeze(-1)).squeeze(-1)

    def solve_transposed(self, x: Tensor) -> Tensor:
        """J⁻ᵀ x."""
        return torch.linalg.lu_solve(self.factors, self.pivots, x.unsqueeze(-1), adjoint=True).squeeze(-1) / self.size

    def rightmost(self) -> Tensor:
        """The largest real part of the eigenvalues, in units of their rounding: below -1 what is near moves nearer."""
        finite = torch.isfinite(self.matrix).flatten(1).all(1)
        values = torch.linalg.eigvals(torch.where(across(finite, 3), self.matrix, 0.0))
        info = torch.finfo(self.matrix.dtype)
        rounding = 10 * self.matrix.shape[-1] * info.eps * values.abs().amax(-1).clamp(min=info.tiny / info.eps)
        return torch.where(finite, values.real.amax(-1) / rounding, torch.inf)
