"""How a path runs from knot to knot.

ts: (T,) or (T, batch). xs, slopes: (T, *shape) or (T, batch, *shape).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .checks import any_of, check_choice
from .path import Outside, Path, Pieces
from .pieces import (
    backward_differences,
    cubic_pieces,
    held,
    linear_pieces,
    natural_slopes,
    padded,
    slopes_at_values,
)


class LinearPath(Path):
    """Straight lines from value to value.

    Parameters
    ----------
    ts : Tensor (T,) or (T, batch)
        The times of the data, strictly ascending; of each row where there are two dimensions. A row with fewer times
        than T ends in NaN. They are used in the precision of `xs`.
    xs : Tensor (T, *shape), or (T, batch, *shape) where rows have times of their own
        The values, floating or complex. NaN is a missing value: the path runs from the value before to the one after,
        each entry of x for itself.
    outside : {"hold", "extrapolate", "raise"}
        What an entry is before its first value and after its last, within `ts` and beyond: `hold` keeps that value,
        with slope 0, so that a row of ragged data stays where it ended; `extrapolate` carries the first or last
        polynomial on, as SciPy does; `raise` refuses times beyond `ts`, at one read of the device for each call, and
        holds within.

    Raises
    ------
    ValueError
        When times do not ascend, shapes do not fit, or an entry has no value at all.

    Examples
    --------
    >>> import torch
    >>> from thalweg.paths import LinearPath
    >>> path = LinearPath(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.0, 2.0, 0.0]))
    >>> path(0.5), path(torch.tensor([1.0, 2.0])), path.derivative(2.0)
    (tensor(1.), tensor([2., 1.]), tensor(-1.))

    A control u(t) that drives a field:

    >>> import thalweg
    >>> sol = thalweg.solve_ivp(lambda t, y, u: u(t) - y, path.t_span, torch.zeros(1), args=(path,))
    >>> sol.success
    True
    """

    def __init__(self, ts: Any, xs: Any, *, outside: Outside = "hold") -> None:
        super().__init__(ts, xs, outside)

    def _polynomials(self, ts: Tensor, xs: Tensor, valid: Tensor, **more: Tensor) -> Tensor:
        return linear_pieces(ts, xs, valid, extend=self.outside == "extrapolate")


class CubicHermitePath(Path):
    """Cubics with given values and slopes at the knots: continuously differentiable.

    Without slopes, backward differences: the slope at a value is that of the line from the one before, at the first
    that of the line to the second. The path up to a time then depends on no value later than the next one, as
    neural controlled differential equations want it.

    Parameters
    ----------
    ts, xs, outside
        As for `LinearPath`.
    slopes : Tensor, optional
        dx/dt at the knots, shaped as `xs`. A knot at which value or slope is NaN has neither.

    Notes
    -----
    Backward differences: Morrill, Kidger, Yang & Lyons, "Neural controlled differential equations for online
    prediction tasks", arXiv:2106.11028 (2021).

    Examples
    --------
    A neural controlled differential equation, dz = f(z) dX, whose field turns the slope of the data into that of z:

    >>> import torch, thalweg
    >>> from thalweg.paths import CubicHermitePath
    >>> batch, channels, hidden = 5, 3, 4
    >>> ts, xs = torch.linspace(0, 1, 10), torch.randn(10, batch, channels)
    >>> f = torch.nn.Sequential(
    ...     torch.nn.Linear(hidden, hidden * channels), torch.nn.Tanh(), torch.nn.Unflatten(-1, (hidden, channels))
    ... )
    >>> def field(t, z, path):
    ...     return (f(z) @ path.derivative(t).unsqueeze(-1)).squeeze(-1)
    >>> path, z0 = CubicHermitePath(ts, xs), torch.nn.Linear(channels, hidden)(xs[0])
    >>> sol = thalweg.solve_ivp(field, path.t_span, z0, args=(path,), batching="per_sample")
    >>> sol.ys[-1].shape
    torch.Size([5, 4])
    """

    def __init__(self, ts: Any, xs: Any, slopes: Any = None, *, outside: Outside = "hold") -> None:
        super().__init__(ts, xs, outside, **({} if slopes is None else {"slopes": slopes}))

    def _polynomials(self, ts: Tensor, xs: Tensor, valid: Tensor, **more: Tensor) -> Tensor:
        slopes = more["slopes"] if "slopes" in more else slopes_at_values(ts, xs, valid, backward_differences)
        return cubic_pieces(ts, xs, slopes, valid, extend=self.outside == "extrapolate")


class NaturalCubicSplinePath(Path):
    """The smoothest path through the data: twice continuously differentiable cubics, without curvature at both ends.

    All values shape all of it, also those at later times.

    Parameters
    ----------
    ts, xs, outside
        As for `LinearPath`. With missing values, an entry's spline is that through the values which it has.

    Examples
    --------
    >>> import torch
    >>> from thalweg.paths import NaturalCubicSplinePath
    >>> ts = torch.linspace(0, 3, 20, dtype=torch.float64)
    >>> path = NaturalCubicSplinePath(ts, torch.sin(ts))
    >>> bool(abs(path.derivative(1.0) - torch.cos(torch.tensor(1.0))) < 1e-4)
    True
    """

    def __init__(self, ts: Any, xs: Any, *, outside: Outside = "hold") -> None:
        super().__init__(ts, xs, outside)

    def _polynomials(self, ts: Tensor, xs: Tensor, valid: Tensor, **more: Tensor) -> Tensor:
        slopes = slopes_at_values(ts, xs, valid, natural_slopes)
        return cubic_pieces(ts, xs, slopes, valid, extend=self.outside == "extrapolate")


class StepPath(Path):
    """Each value held until the next: a zero-order hold, with a derivative of 0.

    It jumps at its knots, so a solver should step onto `path.kinks`, given as `jump_ts`.

    Parameters
    ----------
    ts, xs, outside
        As for `LinearPath`; a missing value is the one before, and before the first that one. To extrapolate is to
        hold.
    continuous : {"right", "left"}
        What x is at a knot: its value there, or still the one before.

    Examples
    --------
    >>> import torch
    >>> from thalweg.paths import StepPath
    >>> ts, xs = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([5.0, 6.0, 7.0])
    >>> StepPath(ts, xs)(ts), StepPath(ts, xs, continuous="left")(ts)
    (tensor([5., 6., 7.]), tensor([5., 5., 6.]))
    """

    def __init__(
        self, ts: Any, xs: Any, *, continuous: Literal["right", "left"] = "right", outside: Outside = "hold"
    ) -> None:
        check_choice("continuous", continuous, ("right", "left"))
        super().__init__(ts, xs, outside)
        self._right_continuous = continuous == "right"

    def _polynomials(self, ts: Tensor, xs: Tensor, valid: Tensor, **more: Tensor) -> Tensor:
        return held(xs, valid).unsqueeze(-1)

    def _piece_starts(self, ts: Tensor) -> Tensor:
        return ts.nan_to_num(nan=torch.inf)


class RectilinearPath(LinearPath):
    """Time and values that move in turn: the path (t, x) of data that are seen when they come.

    Its argument is not time but s, from 0 to 2 (T - 1): while s goes from 2i to 2i + 1, time goes from t_i to t_{i+1}
    and x is held at x_i; while s goes on to 2i + 2, time is held and x goes to x_{i+1}. At s = 2i all data up to t_i
    have been seen and none that come later, so predictions may be made there, and a longer series begins with the
    same path.

    Parameters
    ----------
    ts, xs, outside
        As for `LinearPath`; `xs` (T, …, channels). Its value (…, 1 + channels) has time as its first channel. A missing
        value is the one before; a row that ends stays where it is.

    Raises
    ------
    ValueError
        Also when the first value of an entry is missing, since a later one in its place would look ahead.

    Notes
    -----
    Morrill, Kidger, Yang & Lyons, "Neural controlled differential equations for online prediction tasks",
    arXiv:2106.11028 (2021).

    Examples
    --------
    >>> import torch
    >>> from thalweg.paths import RectilinearPath
    >>> path = RectilinearPath(torch.tensor([0.0, 1.0, 1.5]), torch.tensor([[5.0], [6.0], [7.0]]))
    >>> path(torch.arange(5.0)).T
    tensor([[0.0000, 1.0000, 1.0000, 1.5000, 1.5000],
            [5.0000, 5.0000, 6.0000, 6.0000, 7.0000]])
    """

    def _make(self, ts: Tensor, xs: Tensor, **more: Tensor) -> Pieces:
        if xs.ndim == ts.ndim:
            raise ValueError(f"xs must have a dimension of channels, got shape {tuple(xs.shape)}; use xs.unsqueeze(-1)")
        if any_of(xs[0].isnan()):
            raise ValueError("xs must have all values at the first time, but one is NaN; put a default in its place")
        ended = ts.isnan()
        seen = held(xs, ~(xs.isnan() | ended.reshape(*ended.shape, *(1,) * (xs.ndim - ts.ndim))))
        clock = held(padded(ts), ~ended).to(xs.dtype)
        clock = clock.reshape(*ts.shape, *(1,) * (xs.ndim - ts.ndim)).expand(*xs.shape[:-1], 1)
        joint = torch.cat([clock.repeat_interleave(2, 0)[1:], seen.repeat_interleave(2, 0)[:-1]], -1)
        s = torch.arange(len(joint), dtype=ts.dtype, device=ts.device)
        return super()._make(s, joint)
