"""From knots to polynomials, one for each entry of x and each interval between knots, over missing values.

ts: (T,) or (T, batch). xs, valid: (T, *shape). The polynomial of an interval is written in
θ = (t - t_i) / (t_{i+1} - t_i), lowest power first; the coefficients of all intervals are (T-1, *shape, K).

Each entry of x has missing values of its own. Its polynomial on an interval is that of the nearest knots at which it
has a value, written in the θ of the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Slopes = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The slopes at an entry's knots (T, *shape) from their distances, differences, and whether these exist (T-1, *shape).

Where an entry has fewer values than T, its knots come first; distances are 1 and differences 0 behind them.
"""


def column(ts: Tensor, xs: Tensor) -> Tensor:
    """Times beside values: (T, 1, …, 1) or (T, batch, 1, …, 1), with as many dimensions as `xs`."""
    return ts.reshape(*ts.shape, *(1,) * (xs.ndim - ts.ndim))


def padded(ts: Tensor) -> Tensor:
    """Times in which NaN behind a row's last time is replaced by later times, which nothing depends on."""
    number = column(torch.arange(len(ts), device=ts.device), ts)
    last = ts.detach().nan_to_num(nan=-torch.inf).amax(0)
    return torch.where(ts.isnan(), last + number * (last.abs() + 1), ts)


def neighbours(valid: Tensor) -> tuple[Tensor, Tensor]:
    """The last knot at or before each that has a value, -1 for none, and the first at or after it, T for none."""
    count = len(valid)
    number = column(torch.arange(count, device=valid.device), valid)
    before = torch.where(valid, number, -1).cummax(0).values
    after = torch.where(valid, number, count).flip(0).cummin(0).values.flip(0)
    return before, after


def held(xs: Tensor, valid: Tensor) -> Tensor:
    """Each value held until the next; the first one also before it."""
    before, after = neighbours(valid)
    return xs.gather(0, torch.where(before < 0, after, before).clamp(max=len(xs) - 1))


def linear_pieces(ts: Tensor, xs: Tensor, valid: Tensor, *, extend: bool) -> Tensor:
    """The straight lines between values."""
    left, right = _ends(valid, extend=extend)
    start, span = _stretch(ts, xs, left, right)
    x = xs.gather(0, left)
    return _in_intervals([x, xs.gather(0, right) - x], ts, xs, start, span)


def cubic_pieces(ts: Tensor, xs: Tensor, slopes: Tensor, valid: Tensor, *, extend: bool) -> Tensor:
    """The cubics with these values and slopes (T, *shape) at the knots."""
    left, right = _ends(valid, extend=extend)
    start, span = _stretch(ts, xs, left, right)
    x = xs.gather(0, left)
    rise = xs.gather(0, right) - x
    flat = left == right
    at_left, at_right = (torch.where(flat, 0.0, slopes.gather(0, end) * span) for end in (left, right))
    powers = [x, at_left, 3 * rise - 2 * at_left - at_right, at_left + at_right - 2 * rise]
    return _in_intervals(powers, ts, xs, start, span)


def slopes_at_values(ts: Tensor, xs: Tensor, valid: Tensor, rule: Slopes) -> Tensor:
    """The slopes that `rule` makes of the knots at which an entry has a value; 0 at the others."""
    count = valid.sum(0)
    order = torch.sort((~valid).to(torch.int8), dim=0, stable=True).indices
    number = column(torch.arange(len(xs), device=xs.device), xs)
    last = order.gather(0, (count - 1).clamp(min=0).unsqueeze(0))
    known = torch.where(number < count, order, last)  # repeats the last value, which is never NaN
    exists = number[1:] < count
    steps = column(ts, xs).expand_as(xs).gather(0, known).diff(dim=0)
    slopes = rule(torch.where(exists, steps, 1.0), xs.gather(0, known).diff(dim=0), exists)
    return torch.zeros_like(xs).scatter(0, order, torch.where(number < count, slopes, 0.0))


def backward_differences(steps: Tensor, rises: Tensor, exists: Tensor) -> Tensor:
    """The slope of the line to each value from the one before; at the first, that of the line to the second."""
    lines = rises / steps
    return torch.cat([lines[:1], lines])


def natural_slopes(steps: Tensor, rises: Tensor, exists: Tensor) -> Tensor:
    """The slopes of the cubic spline without curvature at its ends.

    Continuity of the curvature at knot i is m_{i-1} w_{i-1} + 2 m_i (w_{i-1} + w_i) + m_{i+1} w_i = 3 (r_{i-1} + r_i)
    with w = 1 / h and r = Δx / h²; an interval beyond the ends has w = r = 0, which makes the curvature there vanish.
    """
    weight = torch.where(exists, 1 / steps, 0.0)
    rise = 3 * rises * weight * weight
    lower, upper = _shifted(weight, 1, 0.0, grow=True), _shifted(weight, -1, 0.0, grow=True)
    diagonal = 2 * (lower + upper)
    diagonal = torch.where(diagonal == 0, 1.0, diagonal)  # behind the last value, and where there is one alone
    right_side = _shifted(rise, 1, 0.0, grow=True) + _shifted(rise, -1, 0.0, grow=True)
    return tridiagonal_solve(lower, diagonal, upper, right_side)


def tridiagonal_solve(lower: Tensor, diagonal: Tensor, upper: Tensor, right_side: Tensor) -> Tensor:
    """Solve diagonally dominant tridiagonal systems along the first dimension, by parallel cyclic reduction.

    Each round eliminates the neighbours of every unknown by their own equations, which couples it to unknowns twice as
    far: log2(T) rounds of operations on all (Hockney & Jesshope 1981).
    """
    distance = 1
    while distance < len(diagonal):
        down, up = -lower / _shifted(diagonal, distance, 1.0), -upper / _shifted(diagonal, -distance, 1.0)
        diagonal = diagonal + down * _shifted(upper, distance, 0.0) + up * _shifted(lower, -distance, 0.0)
        right_side = right_side + down * _shifted(right_side, distance, 0.0) + up * _shifted(right_side, -distance, 0.0)
        lower, upper = down * _shifted(lower, distance, 0.0), up * _shifted(upper, -distance, 0.0)
        distance *= 2
    return right_side / diagonal


def _shifted(x: Tensor, by: int, fill: float, *, grow: bool = False) -> Tensor:
    """x[i - by], and `fill` where there is none; with `grow`, longer by abs(by)."""
    filling = torch.full_like(x[: abs(by)], fill)
    if by > 0:
        return torch.cat([filling, x if grow else x[:-by]])
    return torch.cat([x if grow else x[-by:], filling])


def _ends(valid: Tensor, *, extend: bool) -> tuple[Tensor, Tensor]:
    """The knots whose values rule each interval, (T-1, *shape); the same one twice where an entry is held."""
    before, after = neighbours(valid)
    last_knot = len(valid) - 1
    left, right = before[:-1], after[1:]
    if extend:
        first, last = after[:1].clamp(max=last_knot), before[-1:].clamp(min=0)
        second = after.gather(0, (first + 1).clamp(max=last_knot))
        next_to_last = before.gather(0, (last - 1).clamp(min=0))
        too_early, too_late = left < 0, right > last_knot
        left = torch.where(too_early, first, torch.where(too_late, next_to_last, left))
        right = torch.where(too_early, second, torch.where(too_late, last, right))
    left = torch.where(left < 0, right, left).clamp(max=last_knot)
    return left, torch.where(right > last_knot, left, right)


def _stretch(ts: Tensor, xs: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """When the knots of each polynomial begin, and the time between them, 1 where they are one."""
    times = column(ts, xs).expand_as(xs)
    start = times.gather(0, left)
    return start, torch.where(left == right, 1.0, times.gather(0, right) - start)


def _in_intervals(powers: Sequence[Tensor], ts: Tensor, xs: Tensor, start: Tensor, span: Tensor) -> Tensor:
    """Polynomials in (t - start) / span, written in the θ of their intervals: with offset + scale * θ for it."""
    times = column(ts, xs)
    offset, scale = (times[:-1] - start) / span, times.diff(dim=0) / span
    powers = list(powers)
    for i in range(len(powers) - 1):  # Horner's scheme, repeated, moves the origin to the offset
        for j in reversed(range(i, len(powers) - 1)):
            powers[j] = powers[j] + offset * powers[j + 1]
    return torch.stack([power * scale**i for i, power in enumerate(powers)], -1)
