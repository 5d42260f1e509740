"""The simplified Newton iteration for the stages of implicit methods, each row on its own.

y: (*shape) in joint, (B, *D) per sample. In what follows joint is a batch of one row: R is 1 or B, N the length of what
a Jacobian acts on; J: (R, N, N); what each row has one of: (R,).

To be solved is w = size slope(w), size being h times a constant. With M = I - size slope', of a Jacobian from somewhere
near, the iteration is

    M d = size slope(w) - w,    w <- w + d

(Hairer & Wanner 1996, IV.8). Unknown is w, and not the state, which is larger and would lose its digits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from ..core.arithmetic import Flag, across
from ..core.field import FieldLike
from ..core.jacobian import Jacobians
from ..core.norms import Tolerance, rms_of_rows
from ..core.once import once

_MOST = 10  # iterations of a stage, where a smaller step is a way out
_PATIENT = 40  # where none is: the method has no error estimate
_SHARE = 0.01  # of the error that is allowed, left to the iteration
_SLOW = 0.1  # the rate of convergence above which J is made anew


Factors: TypeAlias = tuple[Tensor, Tensor]
"""LU factors and pivots of a matrix of each row."""


class SimplifiedNewton(ABC):
    """Solves equations; keeps J and the factors of M while they serve.

    A row's J is made anew when its iteration was slow, or failed with one from elsewhere; its M when J or the size
    changed.

    Attributes
    ----------
    least_rate : float
        The rate of convergence that is believed at best.
    fresh : Tensor (R,)
        Whether J belongs to the step that is being tried.
    nfev, njev, nlu : Tensor (R,)
        What the step took so far, without the field's values that come with a Jacobian.
    """

    least_rate: ClassVar[float] = 0.0

    def __init__(
        self, like: Tensor, *, by_row: bool, tolerance: Tolerance, adaptive: bool, evaluations: int = 1
    ) -> None:
        self._evaluations = evaluations  # of the field, an iteration
        self._adaptive = adaptive
        self._most = _MOST if adaptive else _PATIENT
        self.by_row = by_row
        self._jacobians = Jacobians(like, by_row=by_row)
        self._rows = like.shape[0] if by_row else 1
        self._tolerance = tolerance
        self._eps = torch.finfo(like.dtype).eps
        rtol = float(tolerance.rtol.min() if isinstance(tolerance.rtol, Tensor) else tolerance.rtol)
        self._share = max(_SHARE, 10 * self._eps / rtol)  # no less than rounding lets be seen
        self._eye = torch.eye(self._jacobians.size, dtype=like.dtype, device=like.device)
        self._zero = torch.zeros(self._rows, dtype=torch.int64, device=like.device)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._jacobian: Tensor | None = None
        self._factors: tuple[Factors, ...] = ()
        self._size = self._zero.to(self._eye.dtype)  # of M
        self._stale = torch.ones_like(self._zero, dtype=torch.bool)
        self._failed = torch.zeros_like(self._stale)
        self._ratio = torch.ones_like(self._size)  # of the error that is left to the last change

    def forget(self, units: Flag = True) -> None:
        """Begin anew with those units."""
        if isinstance(units, Tensor):
            self._stale = self._stale | units
            self._ratio = torch.where(units, 1.0, self._ratio)
        elif units:
            self._begin_anew()

    def take(self, rows: Tensor) -> None:
        """Go on with some of the rows alone."""
        self._rows, self._zero = len(rows), self._zero[rows]
        self._tolerance = self._tolerance.taken(rows)
        self._jacobian = None if self._jacobian is None else self._jacobian[rows]
        self._factors = tuple((matrix[rows], pivots[rows]) for matrix, pivots in self._factors)
        self._size, self._stale, self._failed, self._ratio = (
            x[rows] for x in (self._size, self._stale, self._failed, self._ratio)
        )

    def begin(self, field: FieldLike, time: Tensor, y: Tensor, size: Tensor) -> None:
        """Make ready for a step from (t, y), `size` (R,)."""
        self.nfev = self.njev = self.nlu = self._zero
        self.fresh = self._failed  # with a fresh J, and so tried again from there
        self._scale = self._allowed(y)
        self._rate = torch.zeros_like(self._size)
        changed = size != self._size
        self._size = size
        self.renew(field, time, y, self._stale, changed)

    def renew(self, field: FieldLike, time: Tensor, y: Tensor, old: Tensor, changed: Tensor) -> None:
        """Make J of the rows `old` anew, and M of these and of the rows `changed`."""
        if bool(old.any()):
            jacobian = self._jacobians.at(field, time, y).jacobian.view(self._rows, *self._eye.shape)
            kept = self._jacobian
            self._jacobian = jacobian if kept is None else torch.where(across(old, 3), jacobian, kept)
            self.njev = self.njev + old
            self.fresh = self.fresh | old
            self._stale = self._stale & ~old
        changed = changed | old
        if bool(changed.any()):
            assert self._jacobian is not None
            self._factors = self._decomposed(self._jacobian)
            self.nlu = self.nlu + changed

    def solve(self, slope: Callable[[Tensor], Tensor], w: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """W, from a first guess, and which of the active rows converged."""
        # without an error estimate nothing would see it if the rate of the stage before did not hold for this one
        ratio = self._ratio.clamp(min=self._eps) ** 0.8 if self._adaptive else torch.ones_like(self._ratio)
        before: Tensor | None = None
        going, solved = active, torch.zeros_like(active)
        for left in reversed(range(self._most)):
            if not bool(going.any()):
                break
            change = self.back(self.each(self._size, w) * slope(w) - w)
            change = torch.where(self.each(going, w), change, 0.0)
            w = w + change
            self.nfev = self.nfev + going * self._evaluations
            norm = rms_of_rows((change / self._scale).reshape(self._rows, -1))
            hopeless = ~torch.isfinite(norm)
            if before is not None:
                rate = norm / torch.where(going, before, 1.0)
                self._rate = torch.where(going, torch.maximum(self._rate, rate), self._rate)
                believed = rate.clamp(min=self.least_rate)
                ratio = torch.where(going, believed / (1 - believed), ratio)
                hopeless = hopeless | (rate >= 1) | (rate**left * norm > self._share * (1 - rate))
            # a change as small as rounding says nothing of the rate
            enough = ((ratio >= 0) & (ratio * norm <= self._share)) | (norm <= 0.1 * self._share)
            solved = solved | (going & enough)
            going = going & ~enough & ~hopeless
            before = norm
        self._ratio = torch.where(active, torch.where(solved, ratio.clamp(min=0.0, max=1.0), 1.0), self._ratio)
        return w, solved

    def end(self, solved: Tensor) -> None:
        """Decide whether J serves for the next step."""
        self._stale = solved & (self._rate > _SLOW)
        self._failed = ~solved

    @abstractmethod
    def back(self, x: Tensor) -> Tensor:
        """M⁻¹ x."""

    def each(self, x: Tensor, y: Tensor) -> Tensor:
        """What each row has one of, to combine with states like y."""
        return across(x, y.ndim) if self.by_row else x.view(())

    @abstractmethod
    def _decomposed(self, jacobian: Tensor) -> tuple[Factors, ...]:
        """The factors of M."""

    def _allowed(self, y: Tensor) -> Tensor:
        """What a change of w is measured by."""
        return self._tolerance.scale(y)


class Newton(SimplifiedNewton):
    """Solves one stage after the other: slope(w) = f(t, phi + w), w = gamma h k and M = I - gamma h J.

    It begins at the slope of the stage before, which is far off in fast components alone. These are gone with the first
    change, and so the second is small, whatever the rate is in the slow components, from which J may have gone far.
    """

    least_rate = 0.25

    def back(self, x: Tensor) -> Tensor:
        """M⁻¹ x."""
        return solved_with(*self._factors[0], x)

    def _decomposed(self, jacobian: Tensor) -> tuple[Factors, ...]:
        return (factorised(self._eye - across(self._size, 3) * jacobian),)

    def exact(self, field: FieldLike, time: Tensor, y: Tensor) -> Factors:
        """The factors of M with the Jacobian at (t, y) itself, as a gradient needs it."""
        jacobian = self._jacobians.at(field, time, y).jacobian.view(self._rows, *self._eye.shape)
        self.njev, self.nlu, self.nfev = self.njev + 1, self.nlu + 1, self.nfev + 1
        return factorised(self._eye - across(self._size, 3) * jacobian)


class Solved(torch.autograd.Function):
    """A solution w as a function of what it leaves of its equations, r(w) = size slope(w) - w: dw = M⁻¹ dr, once."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, rest: Tensor, factors: Tensor, pivots: Tensor) -> Tensor:
        """The solution as it is."""
        ctx.save_for_backward(rest, factors, pivots)
        return w.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Solve with the transpose."""
        rest, factors, pivots = ctx.saved_tensors
        gradient = solved_with(factors, pivots, cotangent, adjoint=True)
        return None, *once([gradient], _FIRST_ORDER, [rest]), None, None


_FIRST_ORDER = (
    "the equations of an implicit step have first derivatives alone; to differentiate again choose an explicit method, "
    "or 'rodas5p' where the field is stiff"
)


def divided(w: Tensor, size: Tensor) -> Tensor:
    """W / size, and 0 in a step of size 0, where w is."""
    return w / torch.where(size == 0, 1.0, size)


def factorised(matrix: Tensor) -> Factors:
    """Its LU factors; those of a singular one solve to what is not finite."""
    factors, pivots, _ = torch.linalg.lu_factor_ex(matrix)
    return factors, pivots


def solved_with(factors: Tensor, pivots: Tensor, x: Tensor, *, adjoint: bool = False) -> Tensor:
    """The solution of the factorised system with right side x, shaped like it."""
    right = x.reshape(*factors.shape[:-1], 1)
    return torch.linalg.lu_solve(factors, pivots, right, adjoint=adjoint).view(x.shape)
