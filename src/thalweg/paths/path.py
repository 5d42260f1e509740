"""A path x(t), made of one polynomial for each interval between knots.

ts: (T,) or (T, batch). x: (*shape), whose first dimension is the batch where ts has one. P pieces of K coefficients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from .checks import OUTSIDE, any_of, check_choice, checked_data, real_dtype
from .pieces import column, padded

Outside: TypeAlias = Literal["hold", "extrapolate", "raise"]


class Pieces(NamedTuple):
    """What a path is evaluated from.

    Attributes
    ----------
    ts : Tensor
        The knots, as part of the graph, finite also where a row has ended.
    inner : Tensor
        Where the second and later pieces begin, (P-1,) or (batch, P-1), infinite for those behind a row's last; part
        of no graph.
    bounds : Tensor
        The first and the last knot, (2,) or (2, batch), further apart by the rounding of a solver's times; part of no
        graph.
    coefficients : Tensor
        (P, *shape, K), lowest power first.
    """

    ts: Tensor
    inner: Tensor
    bounds: Tensor
    coefficients: Tensor


class _Place(NamedTuple):
    """Where times lie among the pieces.

    `piece` are their numbers and `grids` the entries of x that each time is for, as indices that broadcast against `t`;
    without grids it is for all. The last `shared` dimensions of x have one time together.
    """

    t: Tensor
    piece: Tensor
    grids: tuple[Tensor, ...]
    shared: int

    def take(self, x: Tensor, offset: int = 0) -> Tensor:
        """What `x`, (P or T, …), holds for them, `offset` pieces later."""
        piece = self.piece + offset if offset else self.piece
        grids = self.grids[: x.ndim - 1]
        if grids:
            return x[(piece, *grids)]
        found = x.index_select(0, piece.reshape(-1))
        return found[0] if piece.ndim == 0 else found.reshape(piece.shape + x.shape[1:])

    def beside_x(self, number: Tensor) -> Tensor:
        """A number of each time, shaped to combine with x."""
        return number.reshape(number.shape + (1,) * self.shared) if number.ndim else number


class Path(nn.Module, ABC):
    """A path x(t) through data, as an argument of a field: the base of all kinds, which say how it runs.

    A path is a module, so that the gradients of a solve reach its data, whether it is passed in `args` or captured.
    Its polynomials are made once, when the path is: in a model, make the path from the batch in the forward pass.
    Data that are an `nn.Parameter` become the path's own, and the polynomials are made again in each call, so that
    training moves the path.

    A step over a knot is less accurate than the method's order says, and `adjoint` is so for gradients too: where that
    matters give `solve_ivp` the knots, `jump_ts=path.kinks`, of which each row steps onto its own per sample (see the
    guide's page on control).

    Gradients to the times of knots are those of a path that moves smoothly with them. Where a field jumps as it passes
    a knot, as by the slope of a `LinearPath` or the value of a `StepPath`, that the jump moves too is not in them:
    where such times are learnt, change the state there by an event with `apply`, or take a smoother path.

    Attributes
    ----------
    outside : {"hold", "extrapolate", "raise"}
        What an entry is outside the times of its values.
    """

    _ts: Tensor
    _inner: Tensor
    _bounds: Tensor
    _coefficients: Tensor
    _right_continuous = True

    def __init__(self, ts: Any, xs: Any, outside: Outside, **more: Any) -> None:
        super().__init__()
        check_choice("outside", outside, OUTSIDE)
        self.outside: Outside = outside
        data = checked_data(ts, xs, **more)
        self._learnt = tuple(data) if any(isinstance(x, nn.Parameter) for x in data.values()) else ()
        if self._learnt:
            self._hold(data)
        else:
            self._hold({f"_{name}": x for name, x in self._make(**data)._asdict().items()})

    def _hold(self, tensors: dict[str, Tensor]) -> None:
        """Register tensors, so that they move with the module; parameters are part of its state, data are not."""
        for name, x in tensors.items():
            if isinstance(x, nn.Parameter):
                self.register_parameter(name, x)
            else:
                self.register_buffer(name, x, persistent=False)

    @abstractmethod
    def _polynomials(self, ts: Tensor, xs: Tensor, valid: Tensor, **more: Tensor) -> Tensor:
        """The coefficients (P, *shape, K), from knots, values, and which of these are there."""

    def _piece_starts(self, ts: Tensor) -> Tensor:
        """Where pieces begin, (P,) or (P, batch), infinite for those that a row does not have."""
        return torch.where(ts[1:].isnan(), torch.inf, ts[:-1])

    def _make(self, ts: Tensor, xs: Tensor, **more: Tensor) -> Pieces:
        """The pieces of the data."""
        ts = ts.to(real_dtype(xs))
        valid = ~(xs.isnan() | column(ts.isnan(), xs))
        for other in more.values():
            valid = valid & ~other.isnan()
        knots, plain = padded(ts), ts.detach()
        first, last = plain[0], plain.nan_to_num(nan=-torch.inf).amax(0)
        rounding = 8 * torch.finfo(ts.dtype).eps * torch.maximum(first.abs(), last.abs())
        return Pieces(
            # a copy: no stored tensor may lie in another's history, where gradients could not stop at both
            ts=knots.clone(),
            inner=self._piece_starts(plain)[1:].movedim(0, -1).contiguous(),
            bounds=torch.stack([first - rounding, last + rounding]),
            coefficients=self._polynomials(knots, xs, valid, **more),
        )

    def _pieces(self) -> Pieces:
        if self._learnt:
            return self._make(**{name: getattr(self, name) for name in self._learnt})
        return Pieces(self._ts, self._inner, self._bounds, self._coefficients)

    @property
    def kinks(self) -> Tensor:
        """The knots, (T,) or (T, batch), where the path is less smooth than elsewhere; NaN behind a row's last.

        They are what `thalweg.solve_ivp` takes as `jump_ts`, but where they need a gradient: none reaches the times at
        which a field jumps.
        """
        pieces = self._pieces()
        return torch.where(pieces.ts <= pieces.bounds[1], pieces.ts, torch.nan)

    @property
    def t_span(self) -> tuple[Tensor, Tensor]:
        """The first and the last time, of each row where rows have their own; as for `thalweg.solve_ivp`."""
        ts = self._pieces().ts
        last = (~self.kinks.isnan()).sum(0, keepdim=True) - 1
        return ts[0], ts.gather(0, last)[0]

    def forward(self, t: float | Tensor) -> Tensor:
        """The value x(t).

        Parameters
        ----------
        t : float or Tensor
            One time gives x, (*shape), and times (m,) give (m, *shape). With more dimensions the result is shaped as
            `t * x`: times (batch, 1, …, 1), as a field has them per sample, give each row of x (batch, …) its own.
            A vector is never one time for each row, so let a state of one number a row be (batch, 1).

        Raises
        ------
        ValueError
            When a time lies outside the path and `outside="raise"`, or shapes do not fit.
        """
        return self._evaluate(t, derivative=False)

    def derivative(self, t: float | Tensor) -> Tensor:
        """The slope dx/dt at t, from the right at a knot, but from the left at the last; shaped as x(t)."""
        return self._evaluate(t, derivative=True)

    def _evaluate(self, t: float | Tensor, *, derivative: bool) -> Tensor:
        pieces = self._pieces()
        place = self._locate(pieces, torch.as_tensor(t, dtype=pieces.ts.dtype, device=pieces.ts.device))
        powers = place.take(pieces.coefficients).unbind(-1)
        if self.outside == "raise":
            self._refuse_outside(pieces, place)
        if len(powers) == 1:
            return torch.zeros_like(powers[0]) if derivative else powers[0]
        start = place.take(pieces.ts)
        length = place.take(pieces.ts, 1) - start
        theta = (place.t - start) / length
        if self.outside == "hold":
            theta = theta.clamp(0.0, 1.0)
        theta = place.beside_x(theta)
        if not derivative:
            return _polynomial(powers, theta)
        slope = _polynomial([i * power for i, power in enumerate(powers)][1:], theta) / place.beside_x(length)
        if self.outside == "hold":
            slope = torch.where(place.beside_x(self._inside(pieces, place)), slope, 0.0)
        return slope

    def _locate(self, pieces: Pieces, t: Tensor) -> _Place:
        """The pieces that times lie in."""
        shape, by_row = pieces.coefficients.shape[1:-1], pieces.ts.ndim == 2
        ndim = len(shape)
        if t.ndim == 0 and not by_row:
            return _Place(t, self._search(pieces.inner, t, None), (), ndim)
        given = t.shape
        t = t.reshape(given + (1,) * ndim) if t.ndim == 1 else t.reshape((1,) * (ndim - t.ndim) + given)
        if not all(n == size or 1 in (n, size) for n, size in zip(t.shape[t.ndim - ndim :], shape, strict=True)):
            raise ValueError(
                f"t must be one time, times (m,), or broadcast against x, of shape {tuple(shape)}; got {tuple(given)}"
            )
        if by_row:  # each row looks among knots of its own
            t = t.expand(*t.shape[:-ndim], shape[0], *t.shape[t.ndim - ndim + 1 :])
        shared = 0
        while shared < ndim - by_row and t.shape[-1 - shared] == 1:
            shared += 1
        t = t.reshape(t.shape[: t.ndim - shared])
        own = ndim - shared
        grids = tuple(
            torch.arange(n, device=t.device).reshape((n,) + (1,) * (own - 1 - i)) for i, n in enumerate(shape[:own])
        )
        return _Place(t, self._search(pieces.inner, t, t.ndim - own if by_row else None), grids, shared)

    def _search(self, inner: Tensor, t: Tensor, rows: int | None) -> Tensor:
        """The piece that each time lies in; its dimension `rows`, if any, is that of the rows of `inner`."""
        t = t.detach()
        if rows is None:
            return torch.searchsorted(inner, t.contiguous(), right=self._right_continuous)
        along = t.movedim(rows, 0)
        flat = along.reshape(len(along), -1).contiguous()
        return torch.searchsorted(inner, flat, right=self._right_continuous).reshape(along.shape).movedim(0, rows)

    def _inside(self, pieces: Pieces, place: _Place) -> Tensor:
        """Which times lie on the path."""
        first, last = pieces.bounds
        if first.ndim:
            first, last = (bound.reshape(-1, *(1,) * (len(place.grids) - 1)) for bound in (first, last))
        return (first <= place.t) & (place.t <= last)

    def _refuse_outside(self, pieces: Pieces, place: _Place) -> None:
        outside = ~self._inside(pieces, place)
        if any_of(outside):
            first, last = (end.detach() for end in self.t_span)
            raise ValueError(
                f"t must lie on the path, which runs from {first.min().item():g} to {last.max().item():g}, got "
                f"{place.t[outside][0].item():g}; outside='hold' or 'extrapolate' continues it"
            )

    def extra_repr(self) -> str:
        """Size and choice."""
        pieces = self._pieces()
        return f"knots={len(pieces.ts)}, shape={tuple(pieces.coefficients.shape[1:-1])}, outside={self.outside!r}"


def _polynomial(powers: Any, theta: Tensor) -> Tensor:
    """The value of a polynomial, lowest power first."""
    value = powers[-1]
    for power in reversed(powers[:-1]):
        value = power + theta * value
    return value
