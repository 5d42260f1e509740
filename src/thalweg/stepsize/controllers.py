"""Controllers: what becomes of a step, and how large the next one is.

A controller holds no state of its own: `init` gives the first, `adapt` returns the next. An error is the norm of a
step's error estimate relative to the tolerance, so 1 is just allowed; of a step that is not finite it is NaN, and where
no estimate is asked for it is otherwise 0. Sizes are signed: negative runs back in time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from ..core.arithmetic import Flag, Number, absolute, at_least, maximum, minimum, where

_TELLING = 0.1  # the least error of an earlier step that says how errors go on


@dataclass(frozen=True, slots=True)
class Decision:
    """What a controller decided of a step."""

    accept: Flag
    h: Number
    state: Any


class Controller(Protocol):
    """What the loop asks of a controller."""

    @property
    def adaptive(self) -> bool:
        """Whether it needs an error estimate."""

    def init(self, h: Number) -> Any:
        """The state before the first step, which will have size h."""

    def adapt(self, error: Number, h: Number, state: Any, order: Number) -> Decision:
        """Accept or reject a step of size h; `order` is the power of h by which its error shrinks."""


@dataclass(frozen=True)
class Fixed:
    """Steps of one size.

    Examples
    --------
    >>> import torch, thalweg
    >>> decay = lambda t, y: -y
    >>> y0 = torch.ones(1, dtype=torch.float64)
    >>> thalweg.solve_ivp(decay, (0, 1), y0, "tsit5", step_size=0.25).stats.n_steps
    4
    """

    adaptive = False

    def init(self, h: Number) -> Number:
        """The size, which every step returns to after a shorter last one."""
        return h

    def adapt(self, error: Number, h: Number, state: Number, order: Number) -> Decision:
        """Accept what could be computed: other sizes are not tried."""
        return Decision(error <= 1.0, state, state)


@dataclass(frozen=True, slots=True)
class _Factors:
    """The changes of size that do not themselves change, as numbers of the units, so that a step need not make them."""

    least: Number
    safety: Number
    one: Number
    most: Number

    @classmethod
    def of(cls, controller: PID | Gustafsson, like: Number) -> _Factors:
        """Those of a controller, for units that have numbers like that."""
        one = like * 0 + 1.0
        return cls(one * controller.factor_min, one * controller.safety, one, one * controller.factor_max)


@dataclass(frozen=True, slots=True)
class PIDState:
    """Errors of the two accepted steps before, and the most the size may grow: not at all after a rejection."""

    before: Number
    two_before: Number
    limit: Number
    factors: _Factors


@dataclass(frozen=True)
class PID:
    """Proportional–integral–derivative control of the error.

    With k the power of h by which the error shrinks, the next step size is

        h safety error_n^(-(p + i + d) / k) error_{n-1}^((p + 2 d) / k) error_{n-2}^(-d / k),

    its change held between `factor_min` and `factor_max`. Of an earlier step, an error below 0.1 counts as 0.1: that
    step was not as large as it might have been, and says nothing of how errors go on.

    Parameters
    ----------
    pcoeff, icoeff, dcoeff : float
        The coefficients; (0, 1, 0), the default, is the plain I controller of most textbooks, `"i"`; (0.2, 0.8, 0)
        a PI controller, `"pi"`, which costs the same where accuracy limits the steps, and is not thrown back again and
        again where stability does; (0.2, 0.3, 0.1) a PID one, `"pid"`.
    safety : float
        The share of the predicted size that is taken, in (0, 1].
    factor_min, factor_max : float
        The least and the greatest change of size from one step to the next.

    References
    ----------
    Söderlind, "Automatic control and adaptive time-stepping", Numerical Algorithms 31 (2002); "Digital filters in
    adaptive time-stepping", ACM TOMS 29 (2003). Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I
    (1993), II.4, and II (1996), IV.2.

    Examples
    --------
    >>> import torch, thalweg
    >>> controller = thalweg.PID(pcoeff=0.4, icoeff=0.3)
    >>> sol = thalweg.solve_ivp(lambda t, y: -y, (0, 1), torch.ones(1), controller=controller)
    >>> bool(sol.success)
    True
    """

    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0
    adaptive = True

    def __post_init__(self) -> None:
        coefficients = self.pcoeff, self.icoeff, self.dcoeff
        if not all(isinstance(x, int | float) for x in coefficients) or not 0 < sum(coefficients) < math.inf:
            raise ValueError(
                "pcoeff, icoeff and dcoeff must be numbers whose sum is above 0, so that a large error makes steps "
                f"shorter, got {', '.join(map(repr, coefficients))}"
            )
        if not 0 < self.safety <= 1:
            raise ValueError(f"safety must lie in (0, 1], got {self.safety}")
        if not 0 < self.factor_min < 1 < self.factor_max:
            raise ValueError(
                f"factor_min must lie in (0, 1) and factor_max above 1, got {self.factor_min} and {self.factor_max}"
            )

    def init(self, h: Number) -> PIDState:
        """No history: errors of 1, and no limit on growth."""
        factors = _Factors.of(self, h)
        return PIDState(factors.one, factors.one, factors.most, factors)

    def adapt(self, error: Number, h: Number, state: PIDState, order: Number) -> Decision:
        """Accept where the error is at most 1; a step that is not finite is rejected and shrinks all it may."""
        accept = error <= 1.0
        error = maximum(error, 1e-10)  # what is smaller lets a step grow no further
        factor = self.safety * error ** (-(self.pcoeff + self.icoeff + self.dcoeff) / order)
        before, two_before, most, factors = state.before, state.two_before, state.limit, state.factors
        if self.dcoeff:
            factor = factor * two_before ** (-self.dcoeff / order)
            two_before = where(accept, before, two_before)
        if self.pcoeff or self.dcoeff:
            factor = factor * before ** ((self.pcoeff + 2 * self.dcoeff) / order)
            before = where(accept, maximum(error, _TELLING), before)
            most = where(accept, most, factors.safety)  # whatever came before, a rejected step must shrink
        factor = at_least(minimum(factor, most), factors.least)
        limit = where(accept, factors.most, factors.one)
        return Decision(accept, h * factor, PIDState(before, two_before, limit, factors))


@dataclass(frozen=True, slots=True)
class GustafssonState:
    """Size and error of the accepted step before, size 0 where there is none, and the most the size may grow."""

    h: Number
    error: Number
    limit: Number
    factors: _Factors


@dataclass(frozen=True)
class Gustafsson:
    """Predictive control for implicit methods: sizes shrink before errors grow, and stay where little is to be gained.

    With k the power of h by which the error shrinks, the next step size is the smaller of

        h_n safety error_n^(-1 / k)   and   this times (h_n / h_{n-1}) (error_{n-1} / error_n)^(1 / k),

    the second on the belief that error / h^k changes from step to step as it did. A size that would grow by less than
    `hold` stays, so that the factors of a step's matrix serve again.

    Parameters
    ----------
    safety : float
        The share of the predicted size that is taken, in (0, 1].
    hold : float
        The growth that is not worth another matrix.
    factor_min, factor_max : float
        The least and the greatest change of size from one step to the next.

    References
    ----------
    Gustafsson, "Control-theoretic techniques for stepsize selection in implicit Runge–Kutta methods", ACM TOMS 20
    (1994); Hairer & Wanner, Solving Ordinary Differential Equations II (1996), IV.8.

    Examples
    --------
    >>> import torch, thalweg
    >>> from thalweg.stepsize.controllers import Gustafsson
    >>> y0 = torch.zeros(1, dtype=torch.float64)
    >>> field = lambda t, y: -1e3 * (y - torch.cos(t))
    >>> sol = thalweg.solve_ivp(field, (0, 20), y0, "radau5", rtol=1e-6, controller=Gustafsson(hold=1.2))
    >>> sol.stats.nlu < sol.stats.n_steps
    True
    """

    safety: float = 0.9
    hold: float = 1.2
    factor_min: float = 0.2
    factor_max: float = 10.0
    adaptive = True

    def __post_init__(self) -> None:
        if not 0 < self.safety <= 1:
            raise ValueError(f"safety must lie in (0, 1], got {self.safety}")
        if not 0 < self.factor_min < 1 <= self.hold < self.factor_max:
            raise ValueError(
                "factor_min must lie in (0, 1), and hold between 1 and factor_max, "
                f"got {self.factor_min}, {self.hold} and {self.factor_max}"
            )

    def init(self, h: Number) -> GustafssonState:
        """No step before, and no limit on growth."""
        factors = _Factors.of(self, h)
        return GustafssonState(h * 0, factors.one, factors.most, factors)

    def adapt(self, error: Number, h: Number, state: GustafssonState, order: Number) -> Decision:
        """Accept where the error is at most 1; a step that is not finite is rejected and shrinks all it may."""
        accept = error <= 1.0
        error = maximum(error, 1e-10)  # what is smaller lets a step grow no further
        factor = self.safety * error ** (-1 / order)
        known = accept & (state.h != 0)
        trend = absolute(h / where(known, state.h, 1.0)) * (state.error / error) ** (1 / order)
        factor = where(known, factor * minimum(trend, 1.0), factor)
        factors = state.factors
        factor = at_least(minimum(factor, where(accept, state.limit, factors.safety)), factors.least)
        factor = where(accept & (factor >= 1) & (factor < self.hold), 1.0, factor)
        before = GustafssonState(
            where(accept, h, state.h),
            where(accept, maximum(error, 0.01), state.error),  # what is smaller is mostly rounding, and no trend
            where(accept, factors.most, factors.one),
            factors,
        )
        return Decision(accept, h * factor, before)


CONTROLLERS: dict[str, Controller] = {
    "i": PID(),
    "pi": PID(0.2, 0.8, 0.0),
    "pid": PID(0.2, 0.3, 0.1),
    "gustafsson": Gustafsson(),
}
"""The controllers that have a name."""
