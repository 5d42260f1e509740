"""A pair of methods that changes between its two by itself, as the field is stiff or not.

What says that a field is stiff: the explicit method then takes steps as long as it is stable with, and no longer ones,
however loose the tolerance (Hairer & Wanner 1996, IV.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .explicit import TSIT5
from .rosenbrock import RODAS5P, Rosenbrock
from .tableau import Tableau


@dataclass(frozen=True)
class Switching:
    """An explicit method, and one for where the field is stiff.

    Parameters
    ----------
    explicit : Tableau
        The explicit method, whose last two stages lie at the end of the step and whose last is the first of the next.
    stiff : Rosenbrock
        The other one. The error estimates of both shrink with the same power of h, so that a controller that knows one
        knows the other.
    """

    explicit: Tableau
    stiff: Rosenbrock

    def __post_init__(self) -> None:
        c = self.explicit.c
        if not self.explicit.fsal or len(c) < 3 or c[-2] != 1:
            raise ValueError("explicit must have its last two stages at the end of the step, the last being fsal")
        if self.explicit.error_order != self.stiff.error_order:
            raise ValueError(
                "the error estimates of both methods must shrink with one power of h, got "
                f"{self.explicit.error_order} and {self.stiff.error_order}"
            )

    @property
    def order(self) -> int:
        """The order of the method."""
        return min(self.explicit.order, self.stiff.order)

    @property
    def stages(self) -> int:
        """The number of stages of an explicit step."""
        return self.explicit.stages

    @property
    def adaptive(self) -> bool:
        """Whether it estimates its error."""
        return self.explicit.adaptive

    @property
    def error_order(self) -> int:
        """The power of h by which the error estimate of a step shrinks."""
        return self.explicit.error_order

    @property
    def interpolant_order(self) -> int:
        """The order of the interpolant, uniformly in theta."""
        return min(self.explicit.interpolant_order, self.stiff.interpolant_order)

    @property
    def limit(self) -> float:
        """The largest x up to which the explicit method is stable on dy/dt = -x y with steps of size 1."""
        step, x = 0.125, 0.0
        while step > 1e-9:
            x, step = (x + step, step) if abs(self._growth(-x - step)) <= 1 else (x, step / 2)
        return x

    def _growth(self, z: float) -> float:
        """R(z): what one step of size 1 makes of 1 on dy/dt = z y."""
        slopes: list[float] = []
        for row in self.explicit.a:
            slopes.append(z * (1 + math.fsum(a * k for a, k in zip(row, slopes, strict=True))))
        return 1 + math.fsum(b * k for b, k in zip(self.explicit.b, slopes, strict=True))


AUTO = Switching(TSIT5, RODAS5P)
