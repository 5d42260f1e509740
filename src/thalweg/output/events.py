"""Events: where along a solution a function of the user's is zero, and what becomes of the solve there.

Of each accepted step the event functions are looked at in a few places, by the step's interpolant. Where the sign
changes between two looks there is a root, which is then bracketed until floating-point numbers lie no closer.

A number of a unit has the shape (U), which is () in joint and (B,) per sample. E events, L looks.
y: (*shape) in joint, (B, *D) per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.arithmetic import (
    Count,
    Flag,
    Number,
    absolute,
    across,
    anywhere,
    maximum,
    minimum,
    negate,
    quotient,
    sign,
    where,
    wide_dtype,
)
from ..core.field import Field, time_of, version_of, wrote
from ..core.step import Step, Stepper

_LOOKS = (0.25, 0.5, 0.75, 1.0)
"""Where in a step the functions are looked at."""

_ITERATIONS = 120


@dataclass(frozen=True)
class Event:
    """Something that happens where `fun(t, y, *args)` is zero.

    A function with attributes of these names, as SciPy has it, says the same.

    Parameters
    ----------
    fun : callable
        `fun(t, y, *args)`, shaped as the field's arguments are, returns one real number; per sample, one for each
        row, of shape (batch,).
    terminal : bool or int
        Whether it ends the solve: never (False), the first time (True or 1), or the n-th time (n).
    direction : float
        Positive: only where the function grows through zero, as the solve goes. Negative: only where it falls. 0:
        both.
    apply : callable, optional
        `apply(t, y, *args)` returns the state from which the solve goes on; one that ends the solve is not applied.

    Examples
    --------
    A ball is dropped from height 1 under gravity 2, and comes back from each bounce with half its speed:

    >>> import torch, thalweg
    >>> bounce = thalweg.Event(lambda t, y: y[0], direction=-1, apply=lambda t, y: y * torch.tensor([0.0, -0.5]))
    >>> fall = lambda t, y: torch.stack([y[1], torch.tensor(-2.0)])
    >>> sol = thalweg.solve_ivp(fall, (0.0, 2.2), torch.tensor([1.0, 0.0]), events=bounce)
    >>> [round(t, 3) for t in sol.t_events[0].tolist()]
    [1.0, 2.0]
    """

    fun: Callable[..., Any]
    terminal: bool | int = False
    direction: float = 0.0
    apply: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if not callable(self.fun):
            raise ValueError(f"an event must be callable as event(t, y, *args), got {type(self.fun).__name__}")
        if not isinstance(self.terminal, int) or self.terminal < 0:
            raise ValueError(
                f"terminal of an event must be True, False or the count at which it ends, got {self.terminal!r}"
            )
        if not isinstance(self.direction, int | float):
            raise ValueError(f"direction of an event must be a number, as 1, -1 or 0, got {self.direction!r}")
        if self.apply is not None and not callable(self.apply):
            raise ValueError(
                f"apply of an event must be callable as apply(t, y, *args) -> y, got {type(self.apply).__name__}"
            )

    @classmethod
    def of(cls, event: Any) -> Event:
        """From a function with attributes."""
        if isinstance(event, Event):
            return event
        return cls(
            event,
            terminal=getattr(event, "terminal", None) or False,  # SciPy allows None
            direction=getattr(event, "direction", 0.0),
            apply=getattr(event, "apply", None),
        )


def as_events(events: Any) -> tuple[Event, ...]:
    """One event, a sequence of them, or None, as records."""
    if events is None:
        return ()
    if callable(events) or isinstance(events, Event):
        events = (events,)
    if not isinstance(events, Sequence):
        raise ValueError(f"events must be a function, an Event or a sequence of these, got {type(events).__name__}")
    return tuple(Event.of(event) for event in events)


class EventFunctions:
    """The user's event functions, on packed states and with checks of what they return.

    Parameters
    ----------
    events : tuple of Event
        What they are those of.
    field : Field
        The field of the solve.
    direction : Tensor (U)
        The direction of time: 1 or -1.
    """

    def __init__(self, events: tuple[Event, ...], field: Field, direction: Tensor) -> None:
        self.events, self._field, self._direction, self._units = events, field, direction, direction.shape

    def value(self, i: int, t: Tensor, y: Tensor) -> Tensor:
        """The value of event i (U), as wide as times are."""
        return self._value(i, self._clock(t, y), y)

    def values(self, t: Tensor, y: Tensor) -> Tensor:
        """Of all events, (E, U)."""
        if not self._units.numel():
            return torch.zeros((len(self.events), 0), dtype=wide_dtype(y.device), device=y.device)
        clock = self._clock(t, y)
        return torch.stack([self._value(i, clock, y) for i in range(len(self.events))])

    @property
    def evaluations(self) -> int:
        """How many `slope` takes."""
        return len(self._field.parts)

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        """The field there, where it jumps as the solve goes on."""
        return self._field(time_of(self._field, t, y.device, self._direction), y)

    def rate(self, i: int, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        """dg/dt of event i along a solution of that slope (U), part of no graph; 0 where it has no derivative."""
        t, y = t.detach().requires_grad_(), y.detach().requires_grad_()
        with torch.enable_grad():
            total = self.value(i, t, y).sum()
        g_t, g_y = torch.autograd.grad(total, (t, y), allow_unused=True) if total.requires_grad else (None, None)
        rate = torch.zeros_like(t) if g_t is None else g_t
        if g_y is not None:
            product = (g_y.conj() * slope).real if y.is_complex() else g_y * slope
            rate = rate + product.reshape(*self._units, -1).sum(-1)
        return rate.detach()

    def _value(self, i: int, clock: Tensor, y: Tensor) -> Tensor:
        version = version_of(y)
        value = self._call(self.events[i].fun, f"events[{i}]", clock, y)
        if version_of(y) != version:
            raise wrote(f"events[{i}]", "y")
        if isinstance(value, bool | int | float):
            value = torch.tensor(float(value), device=y.device)
        if not isinstance(value, Tensor) or value.is_complex():
            got = f"a {value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"events[{i}] must return a real number or tensor, but returned {got}")
        if value.numel() != self._units.numel() or value.shape[: len(self._units)] != self._units:
            expected = f"one number for each row, {tuple(self._units)}" if self._units else "one number"
            hint = (
                "index y and t as y[:, 0] and t[:, 0]"
                if self._units
                else "reduce over y's entries, or solve per_sample"
            )
            raise ValueError(f"events[{i}] must return {expected}, but returned shape {tuple(value.shape)}; {hint}")
        return value.reshape(self._units).to(wide_dtype(y.device))

    def apply(self, i: int, t: Tensor, y: Tensor) -> Tensor:
        """The state that event i puts in the place of y."""
        apply, layout = self.events[i].apply, self._field.layout
        assert apply is not None
        own = y.clone()  # it may write into it, and is asked of all rows, though it is for some
        new = self._call(apply, f"apply of events[{i}]", self._clock(t, y), own)
        expected = pytree.tree_flatten(layout.unpack(y))
        leaves, spec = pytree.tree_flatten(new)
        if spec != expected[1]:
            raise ValueError(f"apply of events[{i}] must return the structure of y, {expected[1]}, but returned {spec}")
        for leaf, like in zip(leaves, expected[0], strict=True):
            if not isinstance(leaf, Tensor) or leaf.shape != like.shape or leaf.dtype != like.dtype:
                got = f"{tuple(leaf.shape)}, {leaf.dtype}" if isinstance(leaf, Tensor) else type(leaf).__name__
                raise ValueError(
                    f"apply of events[{i}] must return the shape and dtype of y, {tuple(like.shape)}, {like.dtype}, "
                    f"but returned {got}"
                )
        return layout.pack(new)

    def _clock(self, t: Tensor, y: Tensor) -> Tensor:
        """A time as the user's functions take it."""
        return time_of(self._field, t, y.device)

    def _call(self, function: Callable[..., Any], name: str, clock: Tensor, y: Tensor) -> Any:
        try:
            return function(clock, self._field.layout.unpack(y), *self._field.args)
        except Exception as error:
            error.add_note(f"(raised by {name} while thalweg evaluated it)")
            raise


@dataclass(frozen=True)
class Found:
    """What was found of one event: times (K, U), states (K, *y.shape), and which of them there are, (K, U).

    `slope`, like y, is dy/dt of the interpolant there, where the watch was asked for it, and 0 elsewhere. `stops` are
    those at which the solve of their unit stopped.
    """

    t: Tensor
    y: Tensor
    slope: Tensor
    there: Tensor
    stops: Tensor

    @classmethod
    def join(cls, parts: Sequence[Found]) -> Found:
        """All of them in order, so that each unit's first come first, and no row of K is empty."""
        t, y, slope, there, stops = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("t", "y", "slope", "there", "stops")
        )
        order = torch.argsort((~there).to(torch.uint8), dim=0, stable=True)
        order = order[: int(there.sum(0).max()) if there.numel() else 0]

        def take(x: Tensor) -> Tensor:
            return torch.take_along_dim(x, order.view(*order.shape, *(1,) * (x.ndim - order.ndim)), 0)

        return cls(take(t), take(y), take(slope), take(there), take(stops))

    def shown(self) -> tuple[Tensor, Tensor]:
        """The times and states, NaN where there is none."""
        there = self.there.view(*self.there.shape, *(1,) * (self.y.ndim - self.there.ndim))
        return torch.where(self.there, self.t, torch.nan), torch.where(there, self.y, torch.nan)


@dataclass(frozen=True)
class Stop:
    """Which units end with a step, when, and with which state."""

    units: Flag
    t: Number
    y: Tensor

    @classmethod
    def at(cls, units: Tensor, t: Tensor, y: Tensor) -> Stop:
        """With numbers as the loop has them."""
        return cls(units, t, y) if units.ndim else cls(bool(units), float(t), y)


class Until:
    """Ends each unit at a time, since nothing is asked for after it.

    Parameters
    ----------
    t, direction : Tensor (U)
        The time, and the direction in which it is reached.
    inside : bool
        Whether the state at the end matters.
    """

    def __init__(self, t: Tensor, direction: Tensor, *, inside: bool) -> None:
        self._t, self._direction, self.inside = t, direction, inside

    def see(
        self, stepper: Stepper, step: Step, t: Number, h: Number, y: Tensor, t_next: Number, accept: Flag
    ) -> Stop | None:
        """See a step that some unit accepts."""
        place = _Place.of(stepper, step, t, h, y)
        units = torch.as_tensor(accept, device=y.device) & ((_wide(t_next, y) - self._t) * self._direction >= 0)
        if units.ndim == 0 and not units:
            return None
        if not self.inside:
            return Stop.at(units, self._t, step.y)
        theta = torch.where(units, (self._t - place.t) / torch.where(units, place.h, 1.0), 1.0)
        return Stop.at(units, self._t, place.at(theta)[1])


class EventWatch:
    """Finds events in the steps of a solve, and stops a unit where one ends its solve or changes its state.

    Events that stop a unit at the same time, to the last few digits, do so together.

    Parameters
    ----------
    functions : EventFunctions
        The events.
    t0, y0 : Tensor
        Where the solve begins.
    forward : Tensor (U)
        The direction of time: 1 or -1.
    slopes : bool
        Whether the slopes at what is found are asked for.

    Attributes
    ----------
    found : list of Found
        What was found of each event since `begin`, in order.
    stopped, ended : Tensor (U)
        The units that stopped, and those of them whose solve is over.
    t, y : Tensor
        When and where they stopped.
    fired : Tensor (E, U)
        The events that happened when they stopped.
    """

    inside = True

    def __init__(
        self, functions: EventFunctions, t0: Tensor, y0: Tensor, forward: Tensor, *, slopes: bool = False
    ) -> None:
        self.functions = functions
        self._forward, self._slopes = forward, slopes
        events, self._device = functions.events, y0.device
        column = (len(events), *(1,) * t0.ndim)

        def each(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=t0.dtype, device=y0.device).view(column)

        self._direction = each([event.direction for event in events])
        self._limit = each([int(event.terminal) or torch.inf for event in events])
        self._applies = each([event.apply is not None for event in events]) > 0
        self._count = torch.zeros((len(events), *t0.shape), dtype=torch.int64, device=self._device)
        self._fresh = functions.values(t0, y0) == 0  # zeros at t0 itself, which count
        self._begins = bool(self._fresh.any())
        self.fired = torch.zeros_like(self._fresh)
        self._scale = torch.zeros_like(self._fresh, dtype=t0.dtype)  # how large the values of the last step were

    def begin(self, t: Tensor, y: Tensor) -> Count:
        """Start a segment at (t, y); returns how often the field was evaluated for each unit.

        A function that is zero there, since its event led to the segment or since t0 is a zero, has the sign of the
        direction in which it goes.
        """
        self._value = self.functions.values(t, y)
        alike = torch.finfo(y.dtype).eps ** 0.5 * self._scale
        zero = self._fresh | (self.fired & (self._value.abs() <= alike))
        rows = zero.any(0)
        if bool(rows.any()):
            slope = self.functions.slope(t, y)
            rates = torch.stack([self.functions.rate(i, t, y, slope) for i in range(len(zero))])
            self._value = torch.where(zero, rates.sign() * self._forward * torch.finfo(rates.dtype).tiny, self._value)
        self._parts: list[list[Found]] = [[] for _ in self.functions.events]
        self._like = y
        self.fired = torch.zeros_like(self.fired)
        self.stopped = torch.zeros_like(t, dtype=torch.bool)
        self.ended = self.stopped
        self.t, self.y = t, y
        return (rows if rows.ndim else int(rows)) * self.functions.evaluations

    @property
    def found(self) -> list[Found]:
        """What was found of each event."""
        none = torch.zeros((0, *self.t.shape), dtype=torch.bool, device=self._device)
        states = self._like.new_zeros((0, *self._like.shape))
        empty = Found(none.to(self.t.dtype), states, states, none, none)
        return [Found.join(parts or [empty]) for parts in self._parts]

    @torch.no_grad()
    def see(
        self, stepper: Stepper, step: Step, t: Number, h: Number, y: Tensor, t_next: Number, accept: Flag
    ) -> Stop | None:
        """See a step that some unit accepts."""
        place = _Place.of(stepper, step, t, h, y)
        accepted = torch.as_tensor(accept, device=self._device).expand(self.t.shape)
        values = torch.stack([self.functions.values(t, y) for t, y in place.looks()])
        seen = torch.cat([self._value.unsqueeze(0), values])
        signs = seen.sign()
        self._value = values[-1] if accept is True else torch.where(accepted, values[-1], self._value)
        largest = values.abs().amax(0)
        self._scale = largest if accept is True else torch.where(accepted, largest, self._scale)
        if not self._begins and not bool((signs[1:] != signs[:-1]).any()):  # as in most steps
            return None
        hit, before = self._hits(signs, accepted), seen[:-1]
        somewhere = hit.flatten(2).any(2).tolist() if hit.ndim > 2 else hit.tolist()
        if not any(map(any, somewhere)):
            return None
        theta = torch.full_like(hit, torch.inf, dtype=self.t.dtype)
        theta[0] = torch.where(hit[0], 0.0, torch.inf)
        for look, row in enumerate(somewhere[1:]):
            for i in (i for i, here in enumerate(row) if here):
                ends = (_LOOKS[look - 1] if look else 0.0, _LOOKS[look])
                theta[look + 1, i] = self._root(i, place, ends, before[look, i], values[look, i], hit[look + 1, i])
        return self._keep(place, theta, hit)

    def _hits(self, signs: Tensor, accepted: Tensor) -> Tensor:
        """Which event happens before which look, (1 + L, E, U); the first for those at t0 itself."""
        a, b = signs[:-1], signs[1:]
        up, down = self._direction >= 0, self._direction <= 0
        crossed = ((a < 0) & (b >= 0) & up) | ((a > 0) & (b <= 0) & down)
        leaving = torch.where(a[0] == 0, b[0], a[0])
        at_start = self._fresh & (((leaving >= 0) & up) | ((leaving <= 0) & down))
        self._fresh = self._fresh & ~accepted
        self._begins = bool(self._fresh.any())
        return torch.cat([at_start.unsqueeze(0), crossed]) & accepted

    def _root(
        self, i: int, place: _Place, ends: tuple[float, float], low: Tensor, high: Tensor, mine: Tensor
    ) -> Tensor:
        """Where event i is zero between two looks; inf for the units where it is not."""
        digits = torch.finfo(place.y.dtype).eps / 4  # the states in a step are told apart by no more
        if not self.t.ndim:  # one number, on the host: an operation of PyTorch's costs as much as all of these

            def value(theta: float) -> float:
                return self.functions.value(i, *place.at(torch.full_like(self.t, theta))).item()

            return torch.full_like(self.t, float(find_root(value, *ends, low.item(), high.item(), True, digits)))
        a, b = (torch.full_like(self.t, end) for end in ends)
        root = find_root(lambda theta: self.functions.value(i, *place.at(theta)), a, b, low, high, mine, digits)
        return torch.where(mine, root, torch.inf)

    def _keep(self, place: _Place, theta: Tensor, hit: Tensor) -> Stop:
        """Keep what happened up to the first event that stops the unit."""
        number = self._count + hit.cumsum(0)
        over = hit & (number >= self._limit)
        stops = over | (hit & self._applies)
        first = torch.where(stops, theta, torch.inf).flatten(0, 1).amin(0)
        near = 8 * torch.finfo(self.t.dtype).eps * (place.t.abs() / place.h.abs() + 1)
        near = near + 8 * torch.finfo(place.y.dtype).eps * first.clamp(max=1.0)  # as rounded as the states are there
        together = hit & ((theta - first).abs() <= near)
        hit = hit & ((theta <= first) | together)
        theta = torch.where(together, first, theta)
        stops, over = stops & together, over & together
        self._count = self._count + hit.sum(0)
        self._record(place, theta, hit, stops)

        units = torch.isfinite(first)
        t, y = place.at(torch.where(units, first, 1.0))
        self.fired = torch.where(units, (hit & together).any(0), self.fired)
        self.ended = torch.where(units, over.flatten(0, 1).any(0), self.ended)
        self.stopped = self.stopped | units
        self.t, self.y = torch.where(units, t, self.t), place.where(units, y, self.y)
        return Stop.at(units, t, y)

    def _record(self, place: _Place, theta: Tensor, hit: Tensor, stops: Tensor) -> None:
        for look, i in torch.nonzero(hit.flatten(2).any(2) if hit.ndim > 2 else hit).tolist():
            there = torch.where(hit[look, i], theta[look, i], 1.0)
            t, y = place.at(there)
            slope = place.slope(there) if self._slopes else torch.zeros_like(y)
            parts = (t, y, slope, hit[look, i], stops[look, i])
            self._parts[i].append(Found(*(x.unsqueeze(0) for x in parts)))


@dataclass(frozen=True)
class _Place:
    """A step from (t, y) of size h, as a function of the fraction of it; `size` is h as the stepper takes it."""

    stepper: Stepper
    step: Step
    t: Tensor
    h: Tensor
    size: Number
    y: Tensor

    @classmethod
    def of(cls, stepper: Stepper, step: Step, t: Number, h: Number, y: Tensor) -> _Place:
        """Of a step as the loop has it."""
        return cls(stepper, step, _wide(t, y), _wide(h, y), h, y)

    def at(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Time and state at the fractions theta (U)."""
        fraction = theta if theta.ndim else theta.unsqueeze(0)
        y = self.stepper.interpolate(self.step, self.y, self.size, fraction)
        return self.t + theta * self.h, (y if theta.ndim else y.squeeze(0))

    def slope(self, theta: Tensor) -> Tensor:
        """dy/dt there, of the interpolant."""
        with torch.enable_grad():  # twice back is forward: the product with v, which is linear, by v
            theta = theta.detach().requires_grad_()
            _, y = self.at(theta)
            v = torch.zeros_like(y, requires_grad=True)
            (product,) = torch.autograd.grad(y, theta, v, create_graph=True)
            (found,) = torch.autograd.grad(product.sum(), v)
        h = torch.where(self.h == 0, 1.0, self.h).to(found.real.dtype)
        return found / (across(h, found.ndim) if h.ndim else h)

    def looks(self) -> list[tuple[Tensor, Tensor]]:
        """Times and states at all looks."""
        looks = torch.tensor(_LOOKS, dtype=self.t.dtype, device=self.t.device)
        times = self.t + looks.view(-1, *(1,) * self.t.ndim) * self.h
        if not self.t.ndim:
            return list(zip(times, self.stepper.interpolate(self.step, self.y, self.size, looks), strict=True))

        def many(x: Tensor) -> Tensor:
            return x.expand(len(looks), *x.shape).flatten(0, 1)

        stages, theta = [many(k) for k in self.step.stages], looks.repeat_interleave(len(self.t))
        ys = self.stepper.interpolate_rows(stages, many(self.y), many(self.h), theta)
        return list(zip(times, ys.view(len(looks), *self.y.shape), strict=True))

    def where(self, units: Tensor, this: Tensor, other: Tensor) -> Tensor:
        """One state for the units, the other for the rest."""
        return torch.where(across(units, this.ndim) if units.ndim else units, this, other)


def _wide(x: Number, like: Tensor) -> Tensor:
    return torch.as_tensor(x, dtype=wide_dtype(like.device), device=like.device)


def find_root(
    fun: Callable[[Any], Number], a: Number, b: Number, fa: Number, fb: Number, wanted: Flag, digits: float
) -> Number:
    """A root between a and b, of one function or of as many at once as there are entries, where `wanted`.

    It is where a function first has no longer the sign of fa, also of one that stays zero or jumps, and never before.
    Each bracket shrinks by inverse quadratic interpolation where that is safe, else by half, until its ends are
    neighbours among floating-point numbers of the size of a step, or alike to within `digits` of them.

    References
    ----------
    Chandrupatla, "A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function without
    using derivatives", Advances in Engineering Software 28 (1997).

    Examples
    --------
    >>> import torch
    >>> round(find_root(lambda x: x * x - 2.0, 0.0, 2.0, -2.0, 2.0, True, 1e-16), 12)
    1.414213562373
    >>> zero, two = torch.zeros(2, dtype=torch.float64), torch.full((2,), 2.0, dtype=torch.float64)
    >>> squares = torch.tensor([2.0, 3.0], dtype=torch.float64)
    >>> find_root(lambda x: x * x - squares, zero, two, -squares, 4 - squares, squares > 0, 1e-16)
    tensor([1.4142, 1.7321], dtype=torch.float64)
    """
    finest = torch.finfo(a.dtype).eps if isinstance(a, Tensor) else 2.0**-52
    x1, f1, x2, f2 = b, fb, a, fa
    beyond: Flag = wanted | negate(wanted)  # whether x1 lies beyond the root, as b does
    fraction: Number = a * 0 + 0.5
    for _ in range(_ITERATIONS):
        x = where(fraction < 0.5, x1 + fraction * (x2 - x1), x2 - (1 - fraction) * (x2 - x1))
        f = fun(x)
        past = sign(f) != sign(fa)
        same, beyond = past == beyond, past
        x3, f3 = where(same, x1, x2), where(same, f1, f2)
        x2, f2 = where(same, x2, x1), where(same, f2, f1)
        x1, f1 = x, f
        width = absolute(x2 - x1)
        tolerance = 2 * max(digits, finest) * absolute(x1) + 0.25 * finest
        done = (width <= 2 * tolerance) | negate(wanted)
        if not anywhere(negate(done)):
            break
        xi, phi = quotient(x1 - x2, x3 - x2), quotient(f1 - f2, f3 - f2)
        safe = (phi * phi < xi) & ((1 - phi) * (1 - phi) < 1 - xi)
        quadratic = quotient(f1, f2 - f1) * quotient(f3, f2 - f3)
        quadratic = quadratic + quotient(x3 - x1, x2 - x1) * quotient(f1, f3 - f1) * quotient(f2, f3 - f2)
        margin = minimum(quotient(tolerance, width), 0.5)
        fraction = where(safe, minimum(maximum(quadratic, margin), 1 - margin), 0.5)
        # those that are done stay beyond: from before a jump its function would be seen to jump again
        fraction = where(done, where(beyond, 0.0, 1.0), fraction)
    return where(beyond, x1, x2)
