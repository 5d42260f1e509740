"""Where the water stands still: the roots of a field, and their gradients."""

from __future__ import annotations

from .steady_state import SteadyState, steady_state

__all__ = ["SteadyState", "steady_state"]
