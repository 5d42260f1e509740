"""Numerical methods as data."""

from .registry import Method, MethodData, as_method, get_method, methods, register_method
from .tableau import Tableau

__all__ = ["Method", "MethodData", "Tableau", "as_method", "get_method", "methods", "register_method"]
