"""The methods for y' = f(t, y) + g(t, y), f taken explicitly and g, stiff, implicitly; each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction as Q
from typing import ClassVar

from .tableau import DiagonalTableau, Tableau, diagonal_tableau, tableau


@dataclass(frozen=True)
class Imex:
    """A pair of Runge–Kutta methods with the same nodes, weights and interpolant.

    Stage i of a step of size h from (t, y) solves

        y_i = y + h sum_{j<i} (a_ij f_j + â_ij g_j) + h gamma g(t + c_i h, y_i),

    and f_j, g_j are the two fields at (t + c_j h, y_j). The step moves to y + h sum_i b_i (f_i + g_i).

    Parameters
    ----------
    explicit : Tableau
        The method of f.
    implicit : DiagonalTableau
        The method of g.
    """

    explicit: Tableau
    implicit: DiagonalTableau
    pair: ClassVar[str] = "additive"

    def __post_init__(self) -> None:
        for name in ("order", "b", "b_error", "embedded_order", "interpolant", "interpolant_order"):
            if getattr(self.explicit, name) != getattr(self.implicit, name):
                raise ValueError(f"the two methods must have the same {name}")
        if any(abs(x - y) > 1e-14 for x, y in zip(self.explicit.c, self.implicit.c, strict=True)):
            raise ValueError("the two methods must have the same nodes")

    @property
    def order(self) -> int:
        """The order of the method."""
        return self.implicit.order

    @property
    def stages(self) -> int:
        """The number of stages."""
        return self.implicit.stages

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return self.implicit.adaptive

    @property
    def interpolant_order(self) -> int:
        """The order of the interpolant, uniformly in theta."""
        return self.implicit.interpolant_order


_B = [Q(82889, 524892), Q(0), Q(15625, 83664), Q(69875, 102672), -Q(2260, 8211), Q(1, 4)]
_EMBEDDED = [
    Q(4586570599, 29645900160),
    Q(0),
    Q(178811875, 945068544),
    Q(814220225, 1159782912),
    -Q(3700637, 11593932),
    Q(61727, 225920),
]
_ERROR = [b - e for b, e in zip(_B, _EMBEDDED, strict=True)]
_INTERPOLANT = [
    [Q(6943876665148, 7220017795957), -Q(54480133, 30881146), Q(6818779379841, 7100303317025)],
    [Q(0), Q(0), Q(0)],
    [Q(7640104374378, 9702883013639), -Q(11436875, 14766696), Q(2173542590792, 12501825683035)],
    [-Q(20649996744609, 7521556579894), Q(174696575, 18121608), -Q(31592104683404, 5083833661969)],
    [Q(8854892464581, 2390941311638), -Q(12120380, 966161), Q(61146701046299, 7138195549469)],
    [-Q(11397109935349, 6675773540249), Q(3843, 706), -Q(17219254887155, 4939391667607)],
]

KENCARP4 = Imex(
    explicit=tableau(
        4,
        [
            [],
            [Q(1, 2)],
            [Q(13861, 62500), Q(6889, 62500)],
            [
                -Q(116923316275, 2393684061468),
                -Q(2731218467317, 15368042101831),
                Q(9408046702089, 11113171139209),
            ],
            [
                -Q(451086348788, 2902428689909),
                -Q(2682348792572, 7519795681897),
                Q(12662868775082, 11960479115383),
                Q(3355817975965, 11060851509271),
            ],
            [
                Q(647845179188, 3216320057751),
                Q(73281519250, 8382639484533),
                Q(552539513391, 3454668386233),
                Q(3354512671639, 8306763924573),
                Q(4040, 17871),
            ],
        ],
        _B,
        b_error=_ERROR,
        embedded_order=3,
        interpolant=_INTERPOLANT,
        interpolant_order=3,
    ),
    implicit=diagonal_tableau(
        4,
        [
            [0],
            [Q(1, 4), Q(1, 4)],
            [Q(8611, 62500), -Q(1743, 31250), Q(1, 4)],
            [Q(5012029, 34652500), -Q(654441, 2922500), Q(174375, 388108), Q(1, 4)],
            [
                Q(15267082809, 155376265600),
                -Q(71443401, 120774400),
                Q(730878875, 902184768),
                Q(2285395, 8070912),
                Q(1, 4),
            ],
            _B,
        ],
        _B,
        b_error=_ERROR,
        embedded_order=3,
        interpolant=_INTERPOLANT,
        interpolant_order=3,
    ),
)
"""Kennedy & Carpenter 2003, ARK4(3)6L[2]SA with its dense output; the implicit method is L-stable."""
