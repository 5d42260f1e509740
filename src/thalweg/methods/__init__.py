"""Numerical methods as data."""

from .registry import Method, get_method, methods
from .tableau import Tableau

__all__ = ["Method", "Tableau", "get_method", "methods"]
