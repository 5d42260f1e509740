"""How gradients are made. Each method is given the loop; none knows the front door."""

from __future__ import annotations

from .adjoint import Adjoint
from .base import GradientMethod, Request
from .checkpointed import Checkpointed
from .direct import Direct

GRADIENTS: dict[str, GradientMethod] = {
    "checkpointed": Checkpointed(),
    "direct": Direct(),
    "adjoint": Adjoint(),
}
"""The gradient methods that have a name."""

__all__ = ["GRADIENTS", "Adjoint", "Checkpointed", "Direct", "GradientMethod", "Request"]
