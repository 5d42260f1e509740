"""The explicit Runge–Kutta methods, each with its source.

A coefficient that is a ratio is written as one. Every interpolant uses the stages of the step alone and costs no
further evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction as Q

from .tableau import Tableau, tableau


def _parabola(b: Sequence[Q]) -> list[list[Q]]:
    """The interpolant of order 2 of any method of order 2: the parabola through both ends with the slope k_1."""
    return [[Q(i == 0), weight - (i == 0)] for i, weight in enumerate(b)]


def _two_stage(c2: Q) -> Tableau:
    """The two-stage method of order 2 with node c2, with Euler's method embedded."""
    b2 = 1 / (2 * c2)
    return tableau(
        2,
        [[], [c2]],
        [1 - b2, b2],
        b_error=[-b2, b2],
        embedded_order=1,
        interpolant=_parabola([1 - b2, b2]),
        interpolant_order=2,
    )


def _dopri5_interpolant(b: Sequence[Q], d: Sequence[Q]) -> list[list[Q]]:
    """The coefficients of theta, …, theta⁴ in b_i(theta).

    The form is Hairer's `contd5` (Hairer, Nørsett & Wanner 1993, II.6, after Shampine 1986): with s = 1 - theta,
    y(theta) = y0 + theta (D + s (B + theta (C + s E))), where D = h sum b_i k_i, B = h k_1 - D, C = D - h k_7 - B and
    E = h sum d_i k_i.
    """
    rows = []
    for i, (D, E) in enumerate(zip(b, d, strict=True)):
        B = (i == 0) - D
        C = D - (i == 6) - B
        # theta D + theta (1-theta) B + theta² (1-theta) C + theta² (1-theta)² E
        rows.append([D + B, -B + C + E, -C - 2 * E, E])
    return rows


EULER = tableau(1, [[]], [1], interpolant=[[1]], interpolant_order=1)
"""Euler 1768; one stage."""

MIDPOINT = _two_stage(Q(1, 2))
"""Runge 1895."""

HEUN2 = _two_stage(Q(1))
"""Heun 1900, the trapezoidal rule made explicit."""

RALSTON = _two_stage(Q(2, 3))
"""Ralston 1962: the least error constant of its kind."""

_FEHLBERG2_B = [Q(1, 512), Q(255, 256), Q(1, 512)]

FEHLBERG2 = tableau(
    2,
    [[], [Q(1, 2)], [Q(1, 256), Q(255, 256)]],
    _FEHLBERG2_B,
    b_error=[-Q(1, 512), 0, Q(1, 512)],
    embedded_order=1,
    interpolant=_parabola(_FEHLBERG2_B),
    interpolant_order=2,
)
"""Fehlberg 1969, RK1(2), carried on with the formula of order 2."""

HEUN3 = tableau(
    3,
    [[], [Q(1, 3)], [0, Q(2, 3)]],
    [Q(1, 4), 0, Q(3, 4)],
    # Three stages leave one weight free at order 2. This is the choice that makes the error of order 3 least at each
    # theta, (b·c² - theta³/3)²/4 + (b·Ac - theta³/6)², where the terms stand for f''(f, f) and f'f'f.
    interpolant=[[1, -Q(33, 20), Q(9, 10)], [0, Q(9, 5), -Q(9, 5)], [0, -Q(3, 20), Q(9, 10)]],
    interpolant_order=2,
)
"""Heun 1900, of order 3."""

_SSPRK3_B = [Q(1, 6), Q(1, 6), Q(2, 3)]

SSPRK3 = tableau(
    3,
    [[], [1], [Q(1, 4), Q(1, 4)]],
    _SSPRK3_B,
    # y(theta) = (1 - theta) y + theta (1 - theta) (y + h k_1) + theta² y_1 is a mean of states that a step of Euler's
    # method reaches, so what those keep (bounds, positivity) holds between the steps too: Ketcheson et al. 2017
    interpolant=_parabola(_SSPRK3_B),
    interpolant_order=2,
)
"""Shu & Osher 1988; strong-stability preserving: each step is a mean of steps of Euler's method."""

BOSH3 = tableau(
    3,
    [[], [Q(1, 2)], [0, Q(3, 4)], [Q(2, 9), Q(1, 3), Q(4, 9)]],
    [Q(2, 9), Q(1, 3), Q(4, 9), 0],
    b_error=[Q(2, 9) - Q(7, 24), Q(1, 3) - Q(1, 4), Q(4, 9) - Q(1, 3), -Q(1, 8)],
    embedded_order=2,
    # the cubic through both ends with both slopes
    interpolant=[[1, -Q(4, 3), Q(5, 9)], [0, 1, -Q(2, 3)], [0, Q(4, 3), -Q(8, 9)], [0, -1, 1]],
    interpolant_order=3,
)
"""Bogacki & Shampine 1989."""

RK4 = tableau(
    4,
    [[], [Q(1, 2)], [0, Q(1, 2)], [0, 0, 1]],
    [Q(1, 6), Q(1, 3), Q(1, 3), Q(1, 6)],
    # Hairer, Nørsett & Wanner 1993, II.6, eq. (6.4)
    interpolant=[[1, -Q(3, 2), Q(2, 3)], [0, 1, -Q(2, 3)], [0, 1, -Q(2, 3)], [0, -Q(1, 2), Q(2, 3)]],
    interpolant_order=3,
)
"""Kutta 1901."""

RK38 = tableau(
    4,
    [[], [Q(1, 3)], [-Q(1, 3), 1], [1, -1, 1]],
    [Q(1, 8), Q(3, 8), Q(3, 8), Q(1, 8)],
    # the only one of order 3: four conditions, four weights
    interpolant=[[1, -Q(15, 8), 1], [0, Q(15, 8), -Q(3, 2)], [0, Q(3, 8), 0], [0, -Q(3, 8), Q(1, 2)]],
    interpolant_order=3,
)
"""Kutta 1901, the 3/8 rule: a smaller error than `RK4`'s, one more product a step."""

_DOPRI5_B = [Q(35, 384), Q(0), Q(500, 1113), Q(125, 192), -Q(2187, 6784), Q(11, 84), Q(0)]
_DOPRI5_EMBEDDED = [Q(5179, 57600), Q(0), Q(7571, 16695), Q(393, 640), -Q(92097, 339200), Q(187, 2100), Q(1, 40)]
_DOPRI5_D = [
    -Q(12715105075, 11282082432),
    Q(0),
    Q(87487479700, 32700410799),
    -Q(10690763975, 1880347072),
    Q(701980252875, 199316789632),
    -Q(1453857185, 822651844),
    Q(69997945, 29380423),
]

DOPRI5 = tableau(
    5,
    [
        [],
        [Q(1, 5)],
        [Q(3, 40), Q(9, 40)],
        [Q(44, 45), -Q(56, 15), Q(32, 9)],
        [Q(19372, 6561), -Q(25360, 2187), Q(64448, 6561), -Q(212, 729)],
        [Q(9017, 3168), -Q(355, 33), Q(46732, 5247), Q(49, 176), -Q(5103, 18656)],
        _DOPRI5_B[:-1],
    ],
    _DOPRI5_B,
    b_error=[b - e for b, e in zip(_DOPRI5_B, _DOPRI5_EMBEDDED, strict=True)],
    embedded_order=4,
    interpolant=_dopri5_interpolant(_DOPRI5_B, _DOPRI5_D),
    interpolant_order=4,
)
"""Dormand & Prince 1980, with the interpolant of Shampine 1986."""

_TSIT5_B = [
    0.09646076681806522951816731316512876333711995238157997181903319,
    0.01,
    0.4798896504144995747752495322905965199130404621990332488332634,
    1.379008574103741893192274821856872770756462643091360525934940,
    -3.290069515436080679901047585711363850115683290894936158531296,
    2.324710524099773982415355918398765796109060233222962411944060,
    0.0,
]

TSIT5 = tableau(
    5,
    [
        [],
        [Q(161, 1000)],
        [
            -0.008480655492356988544426874250230774675121177393430391537369234,
            0.3354806554923569885444268742502307746751211773934303915373692,
        ],
        [
            2.897153057105493432130432594192938764924887287701866490314866,
            -6.359448489975074843148159912383825625952700647415626703305928,
            4.362295432869581411017727318190886861027813359713760212991062,
        ],
        [
            5.325864828439256604428877920840511317836476253097040101202360,
            -11.74888356406282787774717033978577296188744178259862899288666,
            7.495539342889836208304604784564358155658679161518186721010132,
            -0.09249506636175524925650207933207191611349983406029535244034750,
        ],
        [
            5.861455442946420028659251486982647890394337666164814434818157,
            -12.92096931784710929170611868178335939541780751955743459166312,
            8.159367898576158643180400794539253485181918321135053305748355,
            -0.07158497328140099722453054252582973869127213147363544882721139,
            -0.02826905039406838290900305721271224146717633626879770007617876,
        ],
        _TSIT5_B[:-1],
    ],
    _TSIT5_B,
    b_error=[
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        Q(1, 66),
    ],
    embedded_order=4,
    interpolant=[
        [1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216],
        [0.0, 0.13169999999999998, -0.2234, 0.1017],
        [0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651253],
        [0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902],
        [0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928],
        [0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661],
        [0.0, 1.5, -4.0, 2.5],
    ],
    interpolant_order=4,
)
"""Tsitouras 2011, with the interpolant of its section 4."""
