"""What a continuous gradient solves back in time: its state, its field, and the path that it may follow.

dz/dt = f(t, z, θ),  da/dt = -aᵀ ∂f/∂z. z: (*shape) in joint, (B, *D) per sample. The state of the solve back is z and a
side by side, (2, *shape) or (B, 2, *D), or a alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from ..core.arithmetic import Number
from ..core.field import Field, FieldLike, halves
from ..core.jacobian import Jacobians
from ..core.norms import Tolerance
from ..loop.integrate import Problem
from ..output.dense import DenseOutput
from .capture import check_reach

Gradients: TypeAlias = list[Tensor | None]
"""One for each tensor that the gradient goes to; None where it is not used."""


@dataclass(frozen=True)
class BackState:
    """How z and a make up the state of a solve back in time.

    Parameters
    ----------
    whole : bool
        Whether z is part of it; a alone otherwise.
    by_row : bool
        Whether each row is a unit.
    turned : bool
        Whether the halves of a change places. With z = (q, p), dq/dt = v(t, p), dp/dt = f(t, q) and a = (α, β) it is
        dβ/dt = -αᵀ ∂v/∂p, dα/dt = -βᵀ ∂f/∂q, which is again a separable field of the pair ((q, β), (p, α)).
    """

    whole: bool
    by_row: bool
    turned: bool = False

    def join(self, z: Tensor, a: Tensor) -> Tensor:
        """The state."""
        a = self._turn(a)
        return torch.stack([z, a], self._dim) if self.whole else a

    def split(self, state: Tensor) -> tuple[Tensor, ...]:
        """Z and a, or a alone."""
        *z, a = state.unbind(self._dim) if self.whole else (state,)
        return (*z, self._turn(a))

    def tolerance(self, tolerance: Tolerance) -> Tolerance:
        """One for states like z, for such a state."""
        rtol, atol = tolerance.rtol, tolerance.atol
        return Tolerance(
            self.join(rtol, rtol) if isinstance(rtol, Tensor) else rtol, self.join(atol, atol) if atol.ndim else atol
        )

    @property
    def _dim(self) -> int:
        return 1 if self.by_row else 0

    def _turn(self, a: Tensor) -> Tensor:
        return torch.cat(halves(a)[::-1], -1) if self.turned else a


@dataclass(frozen=True)
class WayBack:
    """A solve back in time.

    Attributes
    ----------
    problem : Problem
        How it takes its steps. Its stepper, tolerance and batching are made for `state`.
    state : BackState
        How the states on the way there, and the adjoint, make up its own.
    order : int
        That of the integral over the parameters, by Gauss's formula.
    exact : bool
        Whether the integral over the parameters has the method's own weights where these are cheap.
    """

    problem: Problem
    state: BackState
    order: int
    exact: bool


class Path:
    """z(t) on the way there, from the interpolants of its steps.

    Parameters
    ----------
    dense : DenseOutput
        The path.
    rows : Tensor (B,) or None
        Whose path each row has, where some failed, since theirs need not be finite.
    half : int or None
        The half of the state that is meant; None for all of it.
    """

    def __init__(self, dense: DenseOutput, rows: Tensor | None = None, half: int | None = None) -> None:
        self._dense, self._rows, self._half = dense, rows, half

    def half(self, half: int) -> Path:
        """The path of one half of the state."""
        return Path(self._dense, self._rows, half)

    def __call__(self, t: Tensor) -> Tensor:
        """The state at a time as a field takes it."""
        ts = self._dense.ts
        z = self._dense.packed(t.reshape(1, -1).to(ts.dtype) if ts.ndim == 2 else t.reshape(1).to(ts.dtype))[0]
        z = z if self._rows is None else z[self._rows]
        return z if self._half is None else halves(z)[self._half]


class BackField:
    """d(z, a)/dt, or da/dt along a path.

    The gradients aᵀ ∂f/∂θ come with the product that da/dt needs anyway, and may be kept until it is known what they
    weigh.

    Parameters
    ----------
    field : Field
        f, with arguments of its own.
    targets : sequence of Tensor
        θ: the tensors that gradients go to.
    state : BackState
        How z and a make up the state.
    path : Path or None
        z(t), where the state is a alone.
    retain : bool
        Whether a product leaves the graph as it is, since it runs into one that must stay.

    Attributes
    ----------
    first : list or None
        The gradients of the first evaluation of a solve.
    latest : deque
        Those of the last evaluations.
    """

    def __init__(
        self,
        field: Field,
        targets: Sequence[Tensor],
        state: BackState,
        path: Path | None = None,
        *,
        retain: bool = False,
    ) -> None:
        self.field, self.targets, self.state, self.path, self.retain = field, targets, state, path, retain
        self.kept: Sequence[Tensor] = ()
        self.first: Gradients | None = None
        self.latest: deque[Gradients] = deque(maxlen=0)
        self.checked = False
        self._jacobians: Jacobians | None = None

    def keep(self, evaluations: int) -> None:
        """Keep the gradients of the last evaluations, so many."""
        self.kept, self.latest = self.targets, deque(maxlen=evaluations)

    def times(self, t: Number, h: Number, c: Tensor) -> Sequence[Tensor]:
        """As the field takes them."""
        return self.field.times(t, h, c)

    def jacobian(self, t: Tensor, y: Tensor) -> Tensor | None:
        """-∂f/∂zᵀ of a alone; None where it is to be made from products, the user's being that of f alone."""
        if self.path is None or len(self.field.parts) > 1:
            return None
        with torch.no_grad():
            z, time = self.path(t), t.detach()
            if self._jacobians is None:
                self._jacobians = Jacobians(z, by_row=self.state.by_row)
            return -self._jacobians.at(self.field, time, z).jacobian.transpose(-1, -2)

    @property
    def sparsity(self) -> None:
        """The user's is that of the field alone."""

    @property
    def parts(self) -> Sequence[FieldLike]:
        """Itself, or the same of each function of a pair."""
        return (self,) if len(self.field.parts) == 1 else self._pair

    @cached_property
    def _pair(self) -> Sequence[FieldLike]:
        paths: list[Path | None] = [self.path, self.path]
        if self.path is not None and self.state.turned:  # v is a function of p, and f of q
            paths = [self.path.half(1), self.path.half(0)]
        state = replace(self.state, turned=False)
        return [
            BackField(function, self.targets, state, path, retain=self.retain)
            for function, path in zip(self.field.parts, paths, strict=True)
        ]

    def at(self, t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Z and a at a time."""
        *z, a = self.state.split(state)
        return (z[0] if self.path is None else self.path(t)), a

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The slope of the state; in a graph where a Jacobian of it is made."""
        recorded = torch.is_grad_enabled()
        z, a = self.at(t, y)
        z = z if z.requires_grad else z.detach().requires_grad_()
        with torch.enable_grad():
            slope = self.field(t, z)
        if not (self.checked or recorded):
            check_reach([slope], [t, z, *self.targets])
            self.checked = True
        product, *gradients = self._products(slope, z, a, recorded)
        if self.kept:
            self.first = self.first or gradients
            self.latest.append(gradients)
        change = torch.zeros_like(a) if product is None else -product
        return self.state.join(slope if recorded else slope.detach(), change)

    def _products(self, slope: Tensor, z: Tensor, a: Tensor, recorded: bool) -> Gradients:
        """aᵀ ∂f/∂z, then aᵀ ∂f/∂θ where they are kept."""
        if not slope.requires_grad:
            return [None] * (1 + len(self.kept))
        wanted, retain = [z, *self.kept], self.retain or recorded
        return list(
            torch.autograd.grad(slope, wanted, a, allow_unused=True, retain_graph=retain, create_graph=recorded)
        )
