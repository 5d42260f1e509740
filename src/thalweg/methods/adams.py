"""The Adams methods: the integral of the polynomial through slopes of the past; computed, of any order.

`Adams` holds the weights of one order for slopes that are equally far apart. `Multistep` and `VariableAdams` say which
method is solved with; the steps need not be equal, and are those of `Adams` where they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from .explicit import HEUN2, HEUN3, RK4, TSIT5
from .quadrature import at, integrated
from .tableau import Tableau, padded


@dataclass(frozen=True)
class Adams:
    """A linear multistep method of equal steps h: y_{n+1} = y_n + h sum_j b_j f_j, f_j the slope at t_n + nodes_j h.

    Parameters
    ----------
    nodes : sequence
        Where the slopes are, in steps from t_n: 0, -1, …; 1 comes first when the method is implicit.
    b : sequence
        Their weights.
    interpolant : sequence of rows
        Row j holds the coefficients of theta, theta², … in b_j(theta); y(t_n + theta h) = y_n + h sum_j b_j(theta) f_j.
    error_constant : float
        A step errs by this times h^(order + 1) times the derivative of that number.
    """

    nodes: tuple[int, ...]
    b: tuple[float, ...]
    interpolant: tuple[tuple[float, ...], ...]
    error_constant: float

    @property
    def order(self) -> int:
        """The order of the method and of its interpolant."""
        return len(self.nodes)

    @property
    def implicit(self) -> bool:
        """Whether the slope at the end of the step is among those it uses."""
        return self.nodes[0] == 1


@cache
def adams_bashforth(order: int) -> Adams:
    """The explicit method of that order (Bashforth & Adams 1883).

    Examples
    --------
    >>> adams_bashforth(2).b
    (1.5, -0.5)
    """
    return _adams(tuple(range(0, -order, -1)))


@cache
def adams_moulton(order: int) -> Adams:
    """The implicit method of that order (Moulton 1926).

    Examples
    --------
    >>> adams_moulton(2).b
    (0.5, 0.5)
    """
    return _adams(tuple(range(1, 1 - order, -1)))


def _adams(nodes: tuple[int, ...]) -> Adams:
    if not nodes:
        raise ValueError("order must be at least 1")
    exact = [Fraction(node) for node in nodes]
    rows = integrated(exact)
    b = [at(row, Fraction(1)) for row in rows]
    order = len(nodes)
    moment = sum(x * node**order for x, node in zip(b, exact, strict=True))
    error = (Fraction(1, order + 1) - moment) / math.factorial(order)
    return Adams(nodes, tuple(float(x) for x in b), padded(rows), float(error))


@dataclass(frozen=True)
class Multistep:
    """An Adams method of one order, explicit, or as predictor and corrector.

    Parameters
    ----------
    predictor : Adams
        The explicit method.
    corrector : Adams or None
        The implicit method of the same order, for whose slope at the end of the step that of the predicted state is
        taken; the slope that is kept is that of the corrected one (PECE).
    start : Tableau
        The Runge–Kutta method of the first steps, until there are slopes enough.
    """

    predictor: Adams
    corrector: Adams | None
    start: Tableau

    def __post_init__(self) -> None:
        if self.corrector is not None and self.corrector.order != self.order:
            raise ValueError(f"corrector must have the predictor's order {self.order}, got {self.corrector.order}")
        if self.start.order < self.order:
            raise ValueError(f"start must have order {self.order} or more, got {self.start.order}")

    @property
    def order(self) -> int:
        """The order of the method."""
        return self.predictor.order

    @property
    def stages(self) -> int:
        """The evaluations of a step, once there are slopes enough."""
        return 1 if self.corrector is None else 2

    @property
    def adaptive(self) -> bool:
        """Whether it estimates its error: its first steps do not."""
        return False

    @property
    def interpolant_order(self) -> int:
        """The order of the interpolant, that of the first steps among them."""
        return min(self.order, self.start.interpolant_order)


_STARTS = {2: HEUN2, 3: HEUN3, 4: RK4, 5: TSIT5}


@cache
def multistep(order: int, *, corrected: bool) -> Multistep:
    """The explicit method of an order from 2 to 5, or the predictor and corrector of it.

    Examples
    --------
    >>> multistep(4, corrected=True).stages
    2
    """
    if order not in _STARTS:
        raise ValueError(f"order must be one of {', '.join(map(str, _STARTS))}, got {order}")
    return Multistep(adams_bashforth(order), adams_moulton(order) if corrected else None, _STARTS[order])


@dataclass(frozen=True)
class VariableAdams:
    """Predictor and corrector of an order, and of steps, that change as the error asks for.

    A step predicts with the explicit method of order k, evaluates, corrects with the implicit one of order k + 1, and
    evaluates again; the two implicit methods of orders k and k + 1 differ by its error.

    Parameters
    ----------
    order : int
        The highest k.
    """

    order: int = 12

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 12:
            raise ValueError(f"order must lie between 1 and 12, got {self.order}")

    @property
    def stages(self) -> int:
        """The evaluations of a step."""
        return 2

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return True
