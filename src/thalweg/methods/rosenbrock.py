"""The Rosenbrock methods: linearly implicit, one Jacobian and one factorisation a step and no iteration.

In its first form (Hairer & Wanner 1996, IV.7) a step of size h from (t, y) has the stages

    k_i = f(t + alpha_i h, y + h sum_{j<i} alpha_ij k_j) + h J sum_{j<=i} gamma_ij k_j + gamma_i h f_t,

with alpha_i and gamma_i the sums of the rows, and moves to y + h sum_i b_i k_i. With u_i = h sum_j gamma_ij k_j no
product with J is left: that is the form of the data here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .tableau import floats, nodes


@dataclass(frozen=True)
class Rosenbrock:
    """A Rosenbrock method.

    One step of size h from (t, y), with J and f_t the derivatives of the field there, solves for each stage

        (I / (gamma h) - J) u_i = f(t + alpha_i h, y + sum_{j<i} a_ij u_j) + sum_{j<i} (c_ij / h) u_j + gamma_i h f_t

    and moves to y + sum_i m_i u_i.

    Parameters
    ----------
    order : int
        The order of the method.
    gamma : float
        The number on the diagonal.
    a, c : sequence of rows
        Row i holds the i coefficients of stage i.
    m : sequence
        The weights.
    interpolant : sequence of rows
        Row i holds the coefficients of theta, theta², … in m_i(theta); y(t + theta h) = y + sum_i m_i(theta) u_i.
    interpolant_order : int
        The order of the interpolant, uniformly in theta.
    m_error : sequence
        The weights minus those of the embedded method.
    embedded_order : int
        The order of the embedded method.
    """

    order: int
    gamma: float
    a: tuple[tuple[float, ...], ...]
    c: tuple[tuple[float, ...], ...]
    m: tuple[float, ...]
    interpolant: tuple[tuple[float, ...], ...]
    interpolant_order: int
    m_error: tuple[float, ...]
    embedded_order: int

    def __post_init__(self) -> None:
        stages = len(self.m)
        for name, rows in (("a", self.a), ("c", self.c)):
            if [len(row) for row in rows] != list(range(stages)):
                raise ValueError(
                    f"row i of {name} must hold i coefficients, one row a stage ({stages}), "
                    f"got rows of {[len(row) for row in rows]}"
                )
        if len(self.interpolant) != stages or len({len(row) for row in self.interpolant}) != 1:
            raise ValueError(f"interpolant must have one row a stage ({stages}), of equal lengths")
        if len(self.m_error) != stages:
            raise ValueError(f"m_error must have one weight a stage ({stages}), got {len(self.m_error)}")
        if self.gamma <= 0:
            raise ValueError(f"gamma must be positive, got {self.gamma}")

    @property
    def stages(self) -> int:
        """The number of stages."""
        return len(self.m)

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return True

    @property
    def error_order(self) -> int:
        """The power of h by which the error estimate of a step shrinks."""
        return min(self.order, self.embedded_order) + 1

    @property
    def gammas(self) -> tuple[tuple[float, ...], ...]:
        """The rows of gamma_ij, with the diagonal: the inverse of (1 / gamma) I - c."""
        rows: list[list[float]] = []
        for i, row in enumerate(self.c):
            found = [self.gamma * math.fsum(row[j] * rows[j][n] for j in range(n, i)) for n in range(i)]
            rows.append([*found, self.gamma])
        return tuple(tuple(row) for row in rows)

    @property
    def alphas(self) -> tuple[tuple[float, ...], ...]:
        """The rows of alpha_ij, without the diagonal."""
        gammas = self.gammas
        return tuple(
            tuple(math.fsum(row[j] * gammas[j][n] for j in range(n, len(row))) for n in range(len(row)))
            for row in self.a
        )

    @property
    def alpha(self) -> tuple[float, ...]:
        """The nodes."""
        return nodes(self.alphas)

    @property
    def gamma_sums(self) -> tuple[float, ...]:
        """gamma_i, the weight of f_t in stage i."""
        return tuple(math.fsum(row) for row in self.gammas)

    @property
    def fsal(self) -> bool:
        """Whether the field's value of the last stage is that of the first one of the next step."""
        return self.m[-1] == 0 and self.a[-1] == self.m[:-1]

    def stage_weights(self, u_weights: Sequence[float]) -> tuple[float, ...]:
        """The weights of h k_j that say the same as those of u_i."""
        gammas = self.gammas
        return tuple(math.fsum(u_weights[i] * gammas[i][j] for i in range(j, self.stages)) for j in range(self.stages))


def _first_form(
    order: int,
    alphas: Sequence[Sequence[float]],
    gammas: Sequence[Sequence[float]],
    b: Sequence[float],
    *,
    b_error: Sequence[float],
    embedded_order: int,
    interpolant: Sequence[Sequence[float]],
    interpolant_order: int,
) -> Rosenbrock:
    """The method given by alpha_ij, gamma_ij with the diagonal, and b_i."""
    stages, gamma = len(b), gammas[0][0]
    inverse: list[list[float]] = []  # of gamma_ij
    for i, row in enumerate(gammas):
        found = [-math.fsum(row[j] * inverse[j][n] for j in range(n, i)) / gamma for n in range(i)]
        inverse.append([*found, 1 / gamma])

    def transformed(row: Sequence[float]) -> list[float]:
        return [math.fsum(row[j] * inverse[j][n] for j in range(n, len(row))) for n in range(len(row))]

    degree = len(interpolant[0])
    columns = [transformed([row[n] for row in interpolant]) for n in range(degree)]
    return Rosenbrock(
        order,
        gamma,
        a=tuple(floats(transformed(row)) for row in alphas),
        c=tuple(tuple(-x for x in row[:-1]) for row in inverse),
        m=floats(transformed(b)),
        interpolant=tuple(tuple(column[i] for column in columns) for i in range(stages)),
        interpolant_order=interpolant_order,
        m_error=floats(transformed(b_error)),
        embedded_order=embedded_order,
    )


_D = 1 / (2 + math.sqrt(2))
_E = 6 + math.sqrt(2)

ROSENBROCK23 = _first_form(
    2,
    [[], [0.5], [0.0, 1.0]],
    [[_D], [-_D, _D], [(_E - 2) * _D, -_E * _D, _D]],
    [0.0, 1.0, 0.0],
    b_error=[-1 / 6, 1 / 3, -1 / 6],
    embedded_order=3,
    interpolant=[
        [1 / (1 - 2 * _D), -1 / (1 - 2 * _D)],
        [-2 * _D / (1 - 2 * _D), 1 / (1 - 2 * _D)],
        [0.0, 0.0],
    ],
    interpolant_order=2,
)
"""Shampine & Reichelt 1997, ode23s; L-stable. The field's value of stage 3 is that at the end of the step."""

# fmt: off
_RODAS5P_A = [
    [],
    [3.0],
    [2.849394379747939, 0.45842242204463923],
    [-6.954028509809101, 2.489845061869568, -10.358996098473584],
    [2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641],
    [-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946],
]
_RODAS5P_C = [
    [],
    [-14.155112264123755],
    [-17.97296035885952, -2.859693295451294],
    [147.12150275711716, -1.41221402718213, 71.68940251302358],
    [165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306],
    [24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471],
    [30.91273214028599, -3.1208243349937974, 77.79954646070892, 34.28646028294783, -19.097331116725623,
     -28.087943162872662],
    [37.80277123390563, -3.2571969029072276, 112.26918849496327, 66.9347231244047, -40.06618937091002,
     -54.66780262877968, -9.48861652309627],
]
_RODAS5P_H = [
    [25.948786856663858, -2.5579724845846235, 10.433815404888879, -2.3679251022685204, 0.524948541321073,
     1.1241088310450404, 0.4272876194431874, -0.17202221070155493],
    [-9.91568850695171, -0.9689944594115154, 3.0438037242978453, -24.495224566215796, 20.176138334709044,
     15.98066361424651, -6.789040303419874, -6.710236069923372],
    [11.419903575922262, 2.8879645146136994, 72.92137995996029, 80.12511834622643, -52.072871366152654,
     -59.78993625266729, -0.15582684282751913, 4.883087185713722],
]
# fmt: on
_RODAS5P_M = [*_RODAS5P_A[5], 1.0, 1.0, 1.0]

RODAS5P = Rosenbrock(
    5,
    0.21193756319429014,
    a=tuple(floats(row) for row in [*_RODAS5P_A, _RODAS5P_M[:6], _RODAS5P_M[:7]]),
    c=tuple(floats(row) for row in _RODAS5P_C),
    m=floats(_RODAS5P_M),
    # m theta + theta (1 - theta) (H_1 + theta H_2 + theta² H_3)
    interpolant=tuple((m + p, q - p, r - q, -r) for m, p, q, r in zip(_RODAS5P_M, *_RODAS5P_H, strict=True)),
    interpolant_order=4,
    m_error=(0.0,) * 7 + (1.0,),
    embedded_order=4,
)
"""Steinebach 2023; L-stable, stiffly accurate, for differential-algebraic problems too. Stage 8 is the estimate."""
