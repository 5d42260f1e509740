"""The diagonally implicit Runge–Kutta methods, each with its source.

The interpolants of the L-stable methods stay bounded where the field is stiff: on y' = lambda y, y(t + theta h) has a
limit as h lambda goes to -infinity. Where the first stage is explicit, this asks that b_1(theta) equals
sum_ij b_i(theta) (Â⁻¹)_ij a_j1 over the implicit stages, Â being their part of a. The cubic through both ends with
both slopes has no such limit.
"""

from __future__ import annotations

import math
from fractions import Fraction as Q

from .tableau import diagonal_tableau

IMPLICIT_EULER = diagonal_tableau(1, [[1]], [1], interpolant=[[1]], interpolant_order=1)
"""Euler 1768, implicit; L-stable."""

IMPLICIT_MIDPOINT = diagonal_tableau(2, [[Q(1, 2)]], [1], interpolant=[[1]], interpolant_order=1)
"""The Gauss method of one stage; A-stable, symplectic, symmetric."""

TRAPEZOID = diagonal_tableau(
    2,
    [[0], [Q(1, 2), Q(1, 2)]],
    [Q(1, 2), Q(1, 2)],
    interpolant=[[1, -Q(1, 2)], [0, Q(1, 2)]],  # the parabola through both ends with both slopes
    interpolant_order=2,
)
"""Crank & Nicolson 1947; A-stable, symmetric."""

_W = math.sqrt(2) / 4
_D = 1 - math.sqrt(2) / 2

TRBDF2 = diagonal_tableau(
    2,
    [[0], [_D, _D], [_W, _W, _D]],
    [_W, _W, _D],
    b_error=[_W - (1 - _W) / 3, _W - (3 * _W + 1) / 3, 2 * _D / 3],
    embedded_order=3,
    # the only one of order 2 that stays bounded: b_1 = b_2 = (theta - theta²/2) / sqrt(2)
    interpolant=[
        [math.sqrt(0.5), -math.sqrt(0.125)],
        [math.sqrt(0.5), -math.sqrt(0.125)],
        [1 - math.sqrt(2), math.sqrt(0.5)],
    ],
    interpolant_order=2,
)
"""Bank et al. 1985, with the estimate of Hosea & Shampine 1996; the estimate's order is above the method's."""

_G2 = 1 - math.sqrt(0.5)

SDIRK2 = diagonal_tableau(
    2,
    [[_G2], [1 - _G2, _G2]],
    [1 - _G2, _G2],
    b_error=[-_G2, _G2],
    embedded_order=1,
    # the only one of order 2: two conditions, two weights
    interpolant=[[1 + _G2 / (1 - _G2), -0.5 / (1 - _G2)], [-_G2 / (1 - _G2), 0.5 / (1 - _G2)]],
    interpolant_order=2,
)
"""Alexander 1977; L-stable. The embedded method takes the first stage alone."""

_G3 = 0.435866521508458999416019451194  # the root of g³ - 3g² + 3g/2 - 1/6 with which the method is L-stable
_KVAERNO3 = [
    [0.0],
    [_G3, _G3],
    [(-4 * _G3**2 + 6 * _G3 - 1) / (4 * _G3), (1 - 2 * _G3) / (4 * _G3), _G3],
    [
        (6 * _G3 - 1) / (12 * _G3),
        -1 / ((24 * _G3 - 12) * _G3),
        (-6 * _G3**2 + 6 * _G3 - 1) / (6 * _G3 - 3),
        _G3,
    ],
]

KVAERNO3 = diagonal_tableau(
    3,
    _KVAERNO3,
    _KVAERNO3[3],
    b_error=[b - e for b, e in zip(_KVAERNO3[3], [*_KVAERNO3[2], 0.0], strict=True)],
    embedded_order=2,
    # the only one of order 3 that stays bounded: three conditions by the second stage order, one of boundedness
    interpolant=[
        [1.0, -1.0735700900697605, 0.38238006004650693],
        [0.0, 4.471690165265342, -2.981126776843561],
        [1.0452602553351023, -5.796240150391163, 3.5157400151490745],
        [-1.0452602553351023, 2.3981200751955813, -0.9169932983520201],
    ],
    interpolant_order=3,
)
"""Kværnø 2004, ESDIRK 3/2; both methods are stiffly accurate, the third-order one is L-stable."""

_KVAERNO5 = [
    [0.0],
    [0.26, 0.26],
    [0.13, 0.84033320996790809, 0.26],
    [0.22371961478320505, 0.47675532319799699, -0.06470895363112615, 0.26],
    [0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998, 0.26],
    [0.13855640231268224, 0.0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676, 0.26],
    [
        0.13659751177640291,
        0.0,
        -0.05496908796538376,
        -0.04118626728321046,
        0.62993304899016403,
        0.06962479448202728,
        0.26,
    ],
]

KVAERNO5 = diagonal_tableau(
    5,
    _KVAERNO5,
    _KVAERNO5[6],
    b_error=[b - e for b, e in zip(_KVAERNO5[6], [*_KVAERNO5[5], 0.0], strict=True)],
    embedded_order=4,
    # of those of order 4 and degree 4 that stay bounded and end with the slope at the end, the one whose error of
    # order 5, squared and integrated over theta, is least
    interpolant=[
        [0.9949038780723968, -2.0619823503132, 1.6856431135148213, -0.4819671294976152],
        [0.0, 0.0, 0.0, 0.0],
        [-0.03256007076470155, 0.9069691077846679, -1.9361343551367662, 1.0067562301514161],
        [-0.1707981652140459, -0.32958116233915374, 1.0068117511876034, -0.5476186909176142],
        [0.027323031120396156, 3.203017311126294, -3.9682715196531206, 1.3678642263965946],
        [0.8410980328485125, 0.7366362118357164, -3.718067344288861, 2.2099578940866595],
        [-0.6599667060625581, -2.455059118094325, 6.930018354376323, -3.554992530219441],
    ],
    interpolant_order=4,
)
"""Kværnø 2004, ESDIRK 5/4; both methods are stiffly accurate, the fifth-order one is L-stable."""
