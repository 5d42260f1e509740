"""The list of other libraries' methods."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class External:
    """A method whose steps another library takes.

    Parameters
    ----------
    name : str
        The name to give `solve_ivp`: that of the library, a colon, and the library's own.
    orders : str
        Its order, or the range of its orders.
    implicit : bool
        Whether it makes use of Jacobians.
    summary : str
        When to use it, in fewer than 55 characters.
    source : str
        Where it comes from.
    recovers : bool
        Whether it takes a smaller step where a slope is not finite, and does not go on with it.
    rtol_each : bool
        Whether each entry may have a relative tolerance of its own.
    """

    name: str
    orders: str
    implicit: bool
    summary: str
    source: str
    recovers: bool = True
    rtol_each: bool = False

    adaptive = True
    pair = None

    @property
    def library(self) -> str:
        """The library's name."""
        return self.name.partition(":")[0]

    @property
    def solver(self) -> str:
        """What the library calls it."""
        return self.name.partition(":")[2]


_METHODS = {
    method.name: method
    for method in (
        External("scipy:RK23", "3", False, "as bosh3", "Bogacki & Shampine 1989", rtol_each=True),
        External("scipy:RK45", "5", False, "as dopri5", "Dormand & Prince 1980", rtol_each=True),
        External("scipy:DOP853", "8", False, "as dopri8", "Hairer, Nørsett & Wanner 1993", rtol_each=True),
        External("scipy:Radau", "5", True, "stiff fields at tight tolerances", "Hairer & Wanner 1996"),
        External("scipy:BDF", "1–5", True, "stiff fields", "Shampine & Reichelt 1997"),
        External(
            "scipy:LSODA",
            "1–12",
            True,
            "stiff or not: it changes by itself",
            "Petzold 1983; Hindmarsh 1983",
            recovers=False,
            rtol_each=True,
        ),
        External(
            "sundials:cvode_adams",
            "1–12",
            True,
            "smooth fields that cost much to evaluate",
            "Hindmarsh et al. 2005",
            recovers=False,
        ),
        External(
            "sundials:cvode_bdf",
            "1–5",
            True,
            "stiff fields that cost much to evaluate",
            "Hindmarsh et al. 2005",
            recovers=False,
        ),
    )
}


def external_methods() -> tuple[External, ...]:
    """All methods of other libraries.

    Examples
    --------
    >>> from thalweg.external.methods import external_methods
    >>> [method.name for method in external_methods()]
    ['scipy:RK23', ..., 'sundials:cvode_bdf']
    """
    return tuple(_METHODS.values())


def get_external(name: str) -> External:
    """The method of that name.

    Raises
    ------
    ValueError
        When there is none; the message suggests the nearest.

    Examples
    --------
    >>> from thalweg.external.methods import get_external
    >>> get_external("scipy:LSODA").orders
    '1–12'
    """
    try:
        return _METHODS[name]
    except KeyError:
        lower = {known.lower(): known for known in _METHODS}
        near = difflib.get_close_matches(name.lower(), lower, n=1)
        hint = f"did you mean {lower[near[0]]!r}? " if near else ""
        raise ValueError(f"unknown method {name!r}; {hint}choose from {', '.join(_METHODS)}") from None
