"""Controllers: what becomes of a step, and how large the next one is.

A controller holds no state of its own: `init` gives the first, `adapt` returns the next. An error is the norm of a
step's error estimate relative to the tolerance, so 1 is just allowed. Sizes are signed: negative runs back in time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..core.arithmetic import Flag, Number, at_least, maximum, minimum, where


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

    def adapt(self, error: Number | None, h: Number, state: Any, order: Number) -> Decision:
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

    def adapt(self, error: Number | None, h: Number, state: Number, order: Number) -> Decision:
        """Accept."""
        return Decision(accept=True, h=state, state=state)


@dataclass(frozen=True, slots=True)
class PIDState:
    """Errors of the two accepted steps before, and the most the size may grow: not at all after a rejection.

    The factors that do not change are numbers of the units too, so that a step need not make them.
    """

    before: Number
    two_before: Number
    limit: Number
    least: Number
    safety: Number
    one: Number
    most: Number


@dataclass(frozen=True)
class PID:
    """Proportional–integral–derivative control of the error.

    With k the power of h by which the error shrinks, the next step size is

        h safety error_n^(-(p + i + d) / k) error_{n-1}^((p + 2 d) / k) error_{n-2}^(-d / k),

    its change held between `factor_min` and `factor_max`.

    Parameters
    ----------
    pcoeff, icoeff, dcoeff : float
        The coefficients; (0, 1, 0), the default, is the plain I controller of most textbooks, `"i"`; (0.2, 0.65, 0)
        the PI controller of DOPRI5, `"pi"`; (0.4, 0.3, 0) a smoother one where stability limits the steps throughout;
        (0.2, 0.3, 0.1) a PID one, `"pid"`.
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
        if not 0 < self.safety <= 1:
            raise ValueError(f"safety must lie in (0, 1], got {self.safety}")
        if not 0 < self.factor_min < 1 < self.factor_max:
            raise ValueError(
                f"factor_min must lie in (0, 1) and factor_max above 1, got {self.factor_min} and {self.factor_max}"
            )

    def init(self, h: Number) -> PIDState:
        """No history: errors of 1, and no limit on growth."""
        one = h * 0 + 1.0
        least, safety, most = one * self.factor_min, one * self.safety, one * self.factor_max
        return PIDState(one, one, most, least, safety, one, most)

    def adapt(self, error: Number | None, h: Number, state: PIDState, order: Number) -> Decision:
        """Accept where the error is at most 1; a step that is not finite is rejected and shrinks all it may."""
        assert error is not None, "an adaptive controller needs an error estimate"
        accept = error <= 1.0
        error = maximum(error, 1e-10)  # what is smaller lets a step grow no further
        factor = self.safety * error ** (-(self.pcoeff + self.icoeff + self.dcoeff) / order)
        before, two_before = state.before, state.two_before
        if self.dcoeff:
            factor = factor * two_before ** (-self.dcoeff / order)
            two_before = where(accept, before, two_before)
        if self.pcoeff or self.dcoeff:
            factor = factor * before ** ((self.pcoeff + 2 * self.dcoeff) / order)
            before = where(accept, error, before)
        most = where(accept, state.limit, state.safety)  # whatever came before, a rejected step must shrink
        factor = at_least(minimum(factor, most), state.least)
        limit = where(accept, state.most, state.one)
        return Decision(accept, h * factor, replace(state, before=before, two_before=two_before, limit=limit))


CONTROLLERS = {"i": PID(), "pi": PID(0.2, 0.65, 0.0), "pid": PID(0.2, 0.3, 0.1)}
"""The controllers that have a name."""
