"""How gradients are made. Each method is given the loop; none knows the front door."""

from __future__ import annotations

from typing import Literal, TypeAlias

from .adjoint import Adjoint, Continuous, Gauss, Interpolating
from .base import GradientMethod, Request
from .checkpointed import Checkpointed, DirectOrNative
from .direct import Direct
from .forward import Forward
from .reversible import Reversible

GradientName: TypeAlias = Literal[
    "checkpointed",
    "direct",
    "reversible",
    "forward",
    "adjoint",
    "interpolating",
    "gauss",
]
"""The names of gradient methods."""

GRADIENTS: dict[str, GradientMethod] = {
    "checkpointed": Checkpointed(),
    "direct": Direct(),
    "reversible": Reversible(),
    "forward": Forward(),
    "adjoint": Adjoint(),
    "interpolating": Interpolating(),
    "gauss": Gauss(),
}
"""What they stand for: the exact ones first, then the continuous ones."""

__all__ = [
    "GRADIENTS",
    "Adjoint",
    "Checkpointed",
    "Continuous",
    "Direct",
    "DirectOrNative",
    "Forward",
    "Gauss",
    "GradientMethod",
    "GradientName",
    "Interpolating",
    "Request",
    "Reversible",
]
