"""The symplectic splittings for q' = v(p), p' = f(q), each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Splitting:
    """A step of size h that alternates kicks p += h kick_i f(q) and drifts q += h drift_i v(p), a kick first and last.

    Parameters
    ----------
    order : int
        The order of the method.
    kick : sequence
        The sizes of the kicks, one more than drifts.
    drift : sequence
        The sizes of the drifts.
    """

    order: int
    kick: tuple[float, ...]
    drift: tuple[float, ...]
    adaptive: ClassVar[bool] = False
    pair: ClassVar[str] = "separable"

    def __post_init__(self) -> None:
        if len(self.kick) != len(self.drift) + 1:
            raise ValueError(f"kicks must be one more than drifts, got {len(self.kick)} and {len(self.drift)}")

    @property
    def symmetric(self) -> bool:
        """Whether the method goes back the way it came: it is then reversible."""
        return self.kick == self.kick[::-1] and self.drift == self.drift[::-1]

    @property
    def stages(self) -> int:
        """Evaluations of v, and of f, a step: the last kick's is the first one's of the next step."""
        return len(self.drift)

    @property
    def interpolant_order(self) -> int:
        """The order of the interpolant: the cubic with the states and the slopes at both ends."""
        return min(self.order, 3)


LEAPFROG = Splitting(2, (0.5, 0.5), (1.0,))
"""Störmer 1907, Verlet 1967, in its velocity form."""

_OUTER = 1 / (2 - 2 ** (1 / 3))
_INNER = 1 - 2 * _OUTER

YOSHIDA4 = Splitting(
    4, (_OUTER / 2, (_OUTER + _INNER) / 2, (_OUTER + _INNER) / 2, _OUTER / 2), (_OUTER, _INNER, _OUTER)
)
"""Forest & Ruth 1990, Yoshida 1990: three leapfrogs, the middle one backward."""
