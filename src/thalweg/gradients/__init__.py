"""How gradients are made. Each method is given the loop; none knows the front door."""

from __future__ import annotations

from typing import Literal, TypeAlias

from .adjoint import Adjoint, Continuous, Gauss, Interpolating
from .base import GradientMethod, Request
from .checkpointed import Checkpointed
from .direct import Direct
from .forward import Forward
from .reversible import Reversible

GradientName: TypeAlias = Literal[
    "checkpointed",
    "direct",
    "adjoint",
    "forward",
    "interpolating",
    "gauss",
    "reversible",
]
"""The names of gradient methods."""

GRADIENTS: dict[str, GradientMethod] = {
    "checkpointed": Checkpointed(),
    "direct": Direct(),
    "adjoint": Adjoint(),
    "forward": Forward(),
    "interpolating": Interpolating(),
    "gauss": Gauss(),
    "reversible": Reversible(),
}
"""What they stand for."""

__all__ = [
    "GRADIENTS",
    "Adjoint",
    "Checkpointed",
    "Continuous",
    "Direct",
    "Forward",
    "Gauss",
    "GradientMethod",
    "GradientName",
    "Interpolating",
    "Request",
    "Reversible",
]
