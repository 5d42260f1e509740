"""Polynomials through the slopes at given nodes, integrated: the ground of collocation and of Adams methods."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TypeVar

Scalar = TypeVar("Scalar", float, Fraction)


def integrated(nodes: Sequence[Scalar]) -> list[list[Scalar]]:
    """Row j holds the coefficients of theta, theta², … in the integral from 0 to theta of l_j.

    l_j is the Lagrange polynomial that is 1 at node j and 0 at the others.

    Examples
    --------
    >>> integrated([0.0, 1.0])  # theta - theta²/2 and theta²/2
    [[1.0, -0.5], [0.0, 0.5]]
    """
    rows = []
    for j, node in enumerate(nodes):
        polynomial = [node * 0 + 1]
        for i, other in enumerate(nodes):
            if i != j:
                polynomial = _with_root(polynomial, other, node - other)
        rows.append([x / (n + 1) for n, x in enumerate(polynomial)])
    return rows


def _with_root(polynomial: list[Scalar], root: Scalar, scale: Scalar) -> list[Scalar]:
    """The polynomial times (theta - root) / scale."""
    zero = root * 0
    shifted, kept = [zero] + polynomial, polynomial + [zero]  # noqa: RUF005
    return [(x - root * y) / scale for x, y in zip(shifted, kept, strict=True)]


def at(row: Sequence[Scalar], theta: Scalar) -> Scalar:
    """The value at theta of a row of coefficients of theta, theta², …"""
    total = theta * 0
    for x in reversed(row):
        total = (total + x) * theta
    return total
