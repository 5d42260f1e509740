"""The Adams methods: the integral of the polynomial through slopes of the past; computed, of any order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from .quadrature import at, integrated
from .tableau import padded


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
