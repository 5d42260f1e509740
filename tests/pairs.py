"""One problem for every method: a function, made into the pair that a method takes, with the same solution."""

import torch

from thalweg import solve_ivp
from thalweg.methods import get_method


def taken(fun, y0, method):
    """The function, or pair of functions, and the state from which a method solves dy/dt = fun(t, y).

    f + g: shares of fun that change with time. (v, f): the state twice, q and p moved by each other's slope, so that
    both are y.
    """
    pair = get_method(method).pair
    if pair == "additive":

        def share(t):
            return 0.4 + 0.2 * torch.cos(3 * t)

        return (
            lambda t, y, *args: share(t) * fun(t, y, *args),
            lambda t, y, *args: (1 - share(t)) * fun(t, y, *args),
        ), y0
    return ((fun, fun), (y0, y0)) if pair == "separable" else (fun, y0)


def solve(fun, t_span, y0, method="tsit5", *rest, **options):
    """As `solve_ivp`, of one function, by any method."""
    fun, y0 = taken(fun, y0, method)
    sol = solve_ivp(fun, t_span, y0, method, *rest, **options)
    if isinstance(y0, tuple):
        sol.ys = sol.ys[0]
    return sol
