"""The fully implicit Runge–Kutta methods: collocation, so each is its nodes, and its polynomial the interpolant."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .quadrature import at, integrated
from .tableau import FullTableau


def _collocation(order: int, nodes: Sequence[float], *, weight: float | None = None) -> FullTableau:
    """The method whose polynomial has the field's slope at the nodes (Hairer, Nørsett & Wanner 1993, II.7).

    With a weight, the error is estimated by replacing that much of the polynomial's slope at the start by the
    field's own: error = h weight (sum_i l_i(0) k_i - f(t, y)). The embedded method has as many orders as there are
    stages.
    """
    rows = integrated(nodes)
    b = tuple(at(row, 1.0) for row in rows)
    a = tuple(b if c == 1.0 else tuple(at(row, c) for row in rows) for c in nodes)
    stages = len(nodes)
    interpolant = tuple(tuple(row) for row in rows)
    if weight is None:
        return FullTableau(order, a, b, interpolant, stages)
    # the slope of row i at the start is l_i(0)
    b_error = tuple(weight * row[0] for row in rows)
    return FullTableau(order, a, b, interpolant, stages, b_error, stages, slope_error=-weight)


GL4 = _collocation(4, [0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6])
"""Hammer & Hollingsworth 1955, the Gauss method of two stages; A-stable, symplectic, symmetric."""

GL6 = _collocation(6, [0.5 - math.sqrt(15) / 10, 0.5, 0.5 + math.sqrt(15) / 10])
"""Kuntzmann 1961, Butcher 1964, the Gauss method of three stages; A-stable, symplectic, symmetric."""

RADAU3 = _collocation(3, [1 / 3, 1.0])
"""Ehle 1969, Axelsson 1969, the Radau IIA method of two stages; L-stable. A has no real eigenvalue, whose factor would
filter an error estimate."""

RADAU5 = _collocation(
    5,
    [(4 - math.sqrt(6)) / 10, (4 + math.sqrt(6)) / 10, 1.0],
    # the inverse of the real eigenvalue of a⁻¹, so that the estimate is filtered with the same factors
    weight=(6 + 81 ** (1 / 3) - 9 ** (1 / 3)) / 30,
)
"""Ehle 1969, Axelsson 1969, the Radau IIA method of three stages; L-stable; Hairer & Wanner 1996, IV.8 (estimate)."""
