"""Numerical methods as data."""

from .registry import Method, MethodData, get_method, methods
from .tableau import Tableau

__all__ = ["Method", "MethodData", "Tableau", "get_method", "methods"]
