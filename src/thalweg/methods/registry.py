"""The list of methods: the one that `thalweg methods` prints, `solve_ivp` accepts and the tests prove."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Protocol

from . import adams, auto, dirk, dop853, explicit, firk, imex, rkc, rosenbrock, symplectic, verner
from .conditions import check_order
from .tableau import DiagonalTableau, FullTableau, RungeKutta, Tableau


class MethodData(Protocol):
    """What every kind of coefficients says of its method; a stepper knows the rest."""

    @property
    def order(self) -> int:
        """The order of the method."""

    @property
    def stages(self) -> int:
        """The number of stages of a step."""

    @property
    def adaptive(self) -> bool:
        """Whether it estimates its error, so that it can choose its own steps."""


@dataclass(frozen=True)
class Method:
    """A numerical method and what a person needs to choose it.

    Parameters
    ----------
    name : str
        The name to give `solve_ivp`.
    data : MethodData
        Its coefficients, of a type that says who takes its steps.
    summary : str
        When to use it, in fewer than 55 characters.
    source : str
        Where the coefficients come from.
    kind : str
        The family, such as `"explicit"`.
    """

    name: str
    data: MethodData
    summary: str
    source: str
    kind: str = "explicit"

    @property
    def order(self) -> int:
        """The order of the method."""
        return self.data.order

    @property
    def stages(self) -> int:
        """The number of stages of a step."""
        return self.data.stages

    @property
    def adaptive(self) -> bool:
        """Whether it estimates its error, so that it can choose its own steps."""
        return self.data.adaptive

    @property
    def pair(self) -> str | None:
        """How two functions make up its field: `"additive"`, `"separable"`; None where it takes one function."""
        return getattr(self.data, "pair", None)


_METHODS = {
    method.name: method
    for method in (
        Method("euler", explicit.EULER, "to learn from: a residual network as an ODE", "Euler 1768"),
        Method("midpoint", explicit.MIDPOINT, "cheap and rough: two evaluations a step", "Runge 1895"),
        Method("heun2", explicit.HEUN2, "cheap and rough: averages the slopes at both ends", "Heun 1900"),
        Method("ralston", explicit.RALSTON, "the least error of the two-stage methods", "Ralston 1962"),
        Method("fehlberg2", explicit.FEHLBERG2, "rough, with an estimate that trusts itself", "Fehlberg 1969"),
        Method("heun3", explicit.HEUN3, "equal steps, three evaluations each", "Heun 1900"),
        Method(
            "ssprk3",
            explicit.SSPRK3,
            "transport and shocks: keeps bounds as Euler does",
            "Shu & Osher 1988; Ketcheson et al. 2017",
        ),
        Method("bosh3", explicit.BOSH3, "loose tolerances, fields with kinks", "Bogacki & Shampine 1989"),
        Method("rk4", explicit.RK4, "equal steps of good accuracy at a known cost", "Kutta 1901"),
        Method("rk38", explicit.RK38, "as rk4, with a smaller error; torchdiffeq's rk4", "Kutta 1901"),
        Method(
            "dopri5",
            explicit.DOPRI5,
            "SciPy's RK45 and torchdiffeq's dopri5",
            "Dormand & Prince 1980; Shampine 1986",
        ),
        Method("tsit5", explicit.TSIT5, "the default: smooth fields, 1e-2 … 1e-8", "Tsitouras 2011"),
        Method("vern7", verner.VERN7, "smooth fields at tolerances 1e-6 … 1e-10", "Verner 2010"),
        Method(
            "dopri8",
            dop853.DOPRI8,
            "tight tolerances: SciPy's DOP853",
            "Prince & Dormand 1981; Hairer, Nørsett & Wanner 1993",
        ),
        Method("vern8", verner.VERN8, "smooth fields at tolerances 1e-8 … 1e-12", "Verner 2010"),
        Method("vern9", verner.VERN9, "near the limit of float64: tolerances below 1e-10", "Verner 2010"),
        *(
            Method(
                f"adams_bashforth{order}",
                adams.multistep(order, corrected=False),
                "equal steps: one evaluation each, smooth fields",
                "Bashforth & Adams 1883",
                "adams",
            )
            for order in (2, 3, 4, 5)
        ),
        *(
            Method(
                f"adams_moulton{order}",
                adams.multistep(order, corrected=True),
                "equal steps: two evaluations each, smaller errors",
                "Moulton 1926",
                "adams",
            )
            for order in (2, 3, 4, 5)
        ),
        Method(
            "adams",
            adams.VariableAdams(),
            "smooth fields that are costly to evaluate",
            "Shampine & Gordon 1975",
            "adams",
        ),
        Method(
            "rkc",
            rkc.Stabilised(),
            "diffusion: stiff, real eigenvalues, large states",
            "Sommeijer, Shampine & Verwer 1997",
            "stabilised",
        ),
        Method("implicit_euler", dirk.IMPLICIT_EULER, "equal steps: stiff, damps what is fast", "Euler 1768", "dirk"),
        Method("implicit_midpoint", dirk.IMPLICIT_MIDPOINT, "equal steps: keeps quadratic invariants", "Gauss", "dirk"),
        Method("trapezoid", dirk.TRAPEZOID, "equal steps: stiff, oscillating", "Crank & Nicolson 1947", "dirk"),
        Method("trbdf2", dirk.TRBDF2, "stiff fields at loose tolerances", "Bank 1985; Hosea & Shampine 1996", "dirk"),
        Method("sdirk2", dirk.SDIRK2, "stiff fields at loose tolerances, no slope kept", "Alexander 1977", "dirk"),
        Method("kvaerno3", dirk.KVAERNO3, "stiff fields at tolerances 1e-2 … 1e-5", "Kværnø 2004", "dirk"),
        Method("kvaerno5", dirk.KVAERNO5, "stiff fields at tolerances 1e-4 … 1e-9", "Kværnø 2004", "dirk"),
        Method("radau3", firk.RADAU3, "equal steps: stiff, damps what is fast", "Ehle 1969; Axelsson 1969", "firk"),
        Method("gl4", firk.GL4, "equal steps: keeps quadratic invariants", "Hammer & Hollingsworth 1955", "firk"),
        Method("gl6", firk.GL6, "equal steps: keeps them, of order 6", "Kuntzmann 1961; Butcher 1964", "firk"),
        Method(
            "radau5",
            firk.RADAU5,
            "stiff fields at tolerances 1e-4 … 1e-12",
            "Ehle 1969; Hairer & Wanner 1996",
            "firk",
        ),
        Method(
            "rosenbrock23",
            rosenbrock.ROSENBROCK23,
            "stiff fields at loose tolerances: ode23s",
            "Shampine & Reichelt 1997",
            "rosenbrock",
        ),
        Method(
            "rodas5p",
            rosenbrock.RODAS5P,
            "stiff fields, states of up to some hundred",
            "Steinebach 2023",
            "rosenbrock",
        ),
        Method(
            "auto",
            auto.AUTO,
            "stiff or not, unknown or by turns: tsit5 and rodas5p",
            "Petzold 1983; Hairer & Wanner 1996",
            "switching",
        ),
        Method(
            "kencarp4",
            imex.KENCARP4,
            "fun=(f, g), g stiff: g alone is solved for",
            "Kennedy & Carpenter 2003",
            "imex",
        ),
        Method(
            "leapfrog",
            symplectic.LEAPFROG,
            "fun=(v, f): orbits and waves, energy does not drift",
            "Störmer 1907; Verlet 1967",
            "symplectic",
        ),
        Method(
            "yoshida4",
            symplectic.YOSHIDA4,
            "fun=(v, f): as leapfrog, of order 4",
            "Forest & Ruth 1990; Yoshida 1990",
            "symplectic",
        ),
    )
}

_ALIASES = {"heun": "heun2"}

OF_SCIPY = {
    "RK45": "dopri5",
    "RK23": "bosh3",
    "DOP853": "dopri8",
    "Radau": "radau5",
    "BDF": "rodas5p",
    "LSODA": "auto",
}
"""What stands for SciPy's methods: of the same order, or as fit for problems that are stiff, or may be."""


def methods() -> tuple[Method, ...]:
    """All methods, from the simplest up.

    Examples
    --------
    >>> from thalweg.methods import methods
    >>> [method.name for method in methods()]
    ['euler', 'midpoint', ..., 'tsit5', ..., 'rodas5p', ...]
    """
    return tuple(_METHODS.values())


def get_method(name: str) -> Method:
    """The method of that name; `heun` is another name of `heun2`.

    Raises
    ------
    ValueError
        When there is none; the message suggests the nearest.

    Examples
    --------
    >>> from thalweg.methods import get_method
    >>> get_method("dopri5").order
    5
    """
    try:
        return _METHODS[_ALIASES.get(name, name)]
    except (KeyError, TypeError):
        near = difflib.get_close_matches(str(name).lower(), _METHODS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        if str(name) in OF_SCIPY:
            hint = f"{OF_SCIPY[name]!r} stands for it here, and 'scipy:{name}' is SciPy's own; "
        raise ValueError(f"unknown method {name!r}; {hint}choose from {', '.join(_METHODS)}") from None


def as_method(method: str | Method | RungeKutta) -> Method:
    """The method of that name, or a method of one's own, whose orders are checked.

    Examples
    --------
    >>> from thalweg.methods import as_method
    >>> as_method("tsit5").order
    5
    """
    if isinstance(method, RungeKutta):
        return _of_ones_own("a tableau of your own", method, "", "")
    if isinstance(method, Method):
        if isinstance(method.data, RungeKutta):
            check_order(method.data)
        return method
    return get_method(method)


def register_method(name: str, data: RungeKutta, summary: str = "", source: str = "") -> Method:
    """Give a Runge–Kutta method of one's own a name, for as long as the process runs.

    Its orders, that of its embedded method and that of its interpolant are checked by their conditions, a sum for each
    rooted tree. `thalweg.solve_ivp` then takes its name, and `thalweg.methods.methods()` lists it.

    Parameters
    ----------
    name : str
        A name that no method has: a letter, then letters, digits, ".", "-", "_" or "+".
    data : Tableau, DiagonalTableau or FullTableau
        The coefficients (see `thalweg.methods.Tableau`): explicit, diagonally implicit or fully implicit.
    summary, source : str
        When to use it, and where it comes from, as `thalweg methods` shows it.

    Returns
    -------
    Method

    Raises
    ------
    ValueError
        When the name is taken or not a name, or when an order is not met; the message says for which tree.

    Examples
    --------
    Heun's third-order method in another guise, of three stages, with a quadratic interpolant:

    >>> import torch, thalweg
    >>> from thalweg.methods import Tableau
    >>> third = Tableau(
    ...     order=3,
    ...     a=((), (0.5,), (-1.0, 2.0)),
    ...     b=(1 / 6, 2 / 3, 1 / 6),
    ...     interpolant=((1.0, -5 / 6), (0.0, 2 / 3), (0.0, 1 / 6)),
    ...     interpolant_order=2,
    ... )
    >>> thalweg.register_method("kutta3", third, "equal steps, to compare with", "Kutta 1901").order
    3
    >>> sol = thalweg.solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.ones(1), "kutta3", step_size=0.1)
    >>> round(sol.ys[-1].item(), 3)
    0.368
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][\w.+-]*", name):
        raise ValueError(f"name must be a letter, then letters, digits, '.', '-', '_' or '+', got {name!r}")
    if name in _METHODS or name in _ALIASES:
        raise ValueError(f"there is a method {name!r} already; choose another name")
    _METHODS[name] = _of_ones_own(name, data, summary, source)
    return _METHODS[name]


def _of_ones_own(name: str, data: RungeKutta, summary: str, source: str) -> Method:
    """A method that somebody else has written down."""
    for kind, shape in (("explicit", Tableau), ("dirk", DiagonalTableau), ("firk", FullTableau)):
        if isinstance(data, shape):
            check_order(data)
            return Method(name, data, summary, source, kind)
    raise ValueError(
        "data must be a thalweg.methods.Tableau, or a DiagonalTableau or FullTableau from thalweg.methods.tableau, got "
        f"{type(data).__name__}"
    )
