"""Control inputs: paths x(t) through data, as differentiable arguments of a field.

`LinearPath`, `CubicHermitePath` and `NaturalCubicSplinePath` interpolate; `StepPath` holds each value until the next;
`RectilinearPath` moves time and values in turn, for neural controlled differential equations that predict online.
"""

from .kinds import CubicHermitePath, LinearPath, NaturalCubicSplinePath, RectilinearPath, StepPath
from .path import Path

__all__ = [
    "CubicHermitePath",
    "LinearPath",
    "NaturalCubicSplinePath",
    "Path",
    "RectilinearPath",
    "StepPath",
]
