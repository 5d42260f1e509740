"""The front door: check what came, find the root of each unit, and put its gradient behind it.

y: (*shape) in joint, (B, *D) per sample. R is 1 or B; z: (R, N).

The gradient is that of the implicit function: from f(t, y*, θ) = 0 follows ∂y*/∂θ = -J⁻¹ ∂f/∂θ, so that
dL/dθ = -wᵀ ∂f/∂θ with Jᵀ w = dL/dy*. One evaluation of f at y* is part of the graph; behind it are all tensors that f
uses, wherever they come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..arguments import Time, as_time, as_tolerance, one_of, positive_integer
from ..core.arithmetic import across, anywhere, negate
from ..core.derivatives import transformed
from ..core.field import Field, time_of
from ..core.once import once
from ..core.rows import stand_ins
from ..core.solution import Stats, told
from ..core.state import Layout, layout_of
from ..core.status import SolveError, Status
from ..gradients.capture import unreached
from .flow import follow
from .gmres import gmres
from .roots import Found, anderson, by_jacobian, by_products, newton
from .system import Linear, System

_SMALL = 256
"""The longest state, or row of it, whose flow is followed unless told otherwise: its eigenvalues are asked for."""

_STEPS = {"flow": 10_000, "newton": 100, "krylov": 100, "anderson": 1000}
"""The methods, and after how many steps each gives up."""

_MESSAGES = {
    Status.SUCCESS: "the field is zero there, as far as the tolerance asks",
    Status.MAX_STEPS: "the step limit was reached: raise max_steps, loosen rtol and atol, start nearer, or check that "
    "there is a steady state",
    Status.STEP_UNDERFLOW: "the flow could not be followed, as its step size fell below the spacing of floating-point "
    "numbers: check that the field is smooth, or choose method='newton'",
    Status.NONFINITE: "the state or the field became NaN or infinite: check the field, bound its output, or "
    "start nearer",
    Status.NOT_CONVERGED: "no step made the field smaller, or the water did not come to rest: start elsewhere, loosen "
    "rtol and atol, or choose another method",
    Status.SINGULAR: "the Jacobian of the field has no inverse where the search came to: start elsewhere, or choose "
    "method='flow'; where the field conserves something, its roots are not isolated: eliminate it",
}


@dataclass
class SteadyState:
    """Where a field is zero.

    Attributes
    ----------
    y : Tensor or pytree of Tensor
        The state there, shaped and structured as y0; NaN where none was found.
    status : Status or Tensor
        How the search ended; per sample, an int64 tensor of shape (batch,) of `Status` values.
    residual : float or Tensor
        The root mean square of the field there; per sample, of shape (batch,).
    stats : Stats
        What it cost: `nfev`, `njev` and `n_steps`.

    Examples
    --------
    >>> import torch, thalweg
    >>> thalweg.steady_state(lambda t, y: 1 - y, torch.zeros(1)).message
    'the field is zero there, as far as the tolerance asks'
    """

    y: Any
    status: Status | Tensor
    residual: float | Tensor
    stats: Stats

    @property
    def success(self) -> bool | Tensor:
        """Whether a root was found; per sample, of shape (batch,)."""
        return self.status == Status.SUCCESS.value

    @property
    def message(self) -> str:
        """How the search ended, and what to try where it failed."""
        return told(self.status, _MESSAGES)


def steady_state(
    fun: Callable[..., Any],
    y0: Any,
    *,
    args: tuple[Any, ...] | Any = (),
    t: Time = 0.0,
    method: Literal["flow", "newton", "krylov", "anderson"] | None = None,
    rtol: float | Tensor | None = None,
    atol: float | Tensor | None = None,
    batching: Literal["joint", "per_sample"] = "joint",
    max_steps: int | None = None,
    on_failure: Literal["raise", "return"] = "raise",
) -> SteadyState:
    """Find y with fun(t, y, *args) = 0, where the flow of a field stands still, with gradients to what it depends on.

    Gradients, by the implicit function theorem (Bai et al. 2019, theorem 1), reach t, tensors in args, the parameters
    of a module, and tensors that a function captured. None goes to y0: a root that stands alone does not move with
    where the search began.

    Parameters
    ----------
    fun : callable
        The field, `fun(t, y, *args) -> dy/dt`, as for `thalweg.solve_ivp`; the layer of a deep equilibrium model
        y = g(y, x) is the field g(y, x) - y.
    y0 : Tensor or pytree of Tensor
        Where the search begins, in float32 or float64; per sample, the first dimension of every leaf is the batch.
    args : tuple
        Further arguments of `fun`.
    t : float or Tensor
        The time at which the field is taken; per sample, it may have shape (batch,).
    method : {"flow", "newton", "krylov", "anderson"}, optional
        How the root is found; by default "flow" for states, or rows of these, of up to 256 numbers, "krylov" for
        longer ones.
        `flow`: the steady state that the water reaches from y0. The flow is solved, and Newton's method ends it where
        a root that attracts is near.
        `newton`: damped Newton steps by the Jacobian, for states of up to 4096 numbers. The root is one near y0 that
        need not attract.
        `krylov`: the same, without a Jacobian, by GMRES.
        `anderson`: accelerated steps y <- y + fun(y), for fields such as g(y) - y whose g nearly contracts.
    rtol, atol : float or Tensor, optional
        The error allowed is `atol + rtol * abs(y)`, in root mean square; by default 1e-8 and 1e-10 in float64, 1e-5 and
        1e-6 in float32. Newton's steps end when one is within it, `anderson` when the field is.
    batching : {"joint", "per_sample"}
        Whether y0 is one state, or each of its rows one of its own, found as if alone.
    max_steps : int, optional
        The number of steps after which the search fails.
    on_failure : {"raise", "return"}
        Whether a search that finds no root raises `SolveError`, or returns with NaN in its place and its status.

    Returns
    -------
    SteadyState

    Raises
    ------
    ValueError
        When an argument is not what is described here.
    SolveError
        When no root is found and `on_failure="raise"`; its `solution` is the `SteadyState`.

    Notes
    -----
    A gradient is computed once: to differentiate it again is an error. So is to ask for one where the Jacobian has no
    inverse.

    Examples
    --------
    The square root, where the water of dy/dt = a - y² comes to rest, and its derivative, 1/4 at 4:

    >>> import torch, thalweg
    >>> a = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    >>> rest = thalweg.steady_state(lambda t, y, a: a - y**2, torch.ones(1, dtype=torch.float64), args=(a,))
    >>> rest.y.sum().backward()
    >>> round(rest.y.item(), 6), round(a.grad.item(), 6)
    (2.0, 0.25)
    """
    by_row = one_of("batching", batching, ("joint", "per_sample")) == "per_sample"
    one_of("on_failure", on_failure, ("raise", "return"))
    if not callable(fun):
        raise ValueError(f"fun must be callable as fun(t, y, *args), got {type(fun).__name__}")
    if transformed():
        raise ValueError(
            "steady_state goes with torch.autograd alone, not with torch.func's transforms or forward-mode "
            "differentiation"
        )
    layout, packed = layout_of(y0, by_row=by_row)
    if packed.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"steady_state takes states of float32 or float64, got {packed.dtype}; convert y0")
    packed = packed.detach()
    args = args if isinstance(args, tuple) else (args,)
    if not packed.numel():
        return _nothing(layout, packed)
    time = as_time("t", t, packed.shape[0] if by_row else None, packed)
    field = Field(fun, args, layout, packed)
    relative, absolute = (1e-8, 1e-10) if packed.dtype == torch.float64 else (1e-5, 1e-6)
    tolerance = as_tolerance(relative if rtol is None else rtol, absolute if atol is None else atol, packed)
    system = System(field, time_of(field, time.detach(), packed.device), packed, tolerance)
    name = one_of("method", method or ("flow" if system.size <= _SMALL else "krylov"), tuple(_STEPS))
    most = _STEPS[name] if max_steps is None else positive_integer("max_steps", max_steps)
    with torch.no_grad():
        found = _search(name, system, system.rows(packed), most)
    result = _Root(field, time, system, found, dense=name in ("flow", "newton")).result()
    failed = anywhere(negate(result.success))
    if failed and on_failure == "raise":
        raise SolveError(
            f"no steady state was found: {result.message} (on_failure='return' keeps the rows that were)", result
        )
    return result


def _search(name: str, system: System, z: Tensor, most: int) -> Found:
    """The roots."""
    if name == "flow":
        return follow(system, z, most)
    if name == "anderson":
        return anderson(system, z, most)
    return newton(system, z, most, by_jacobian if name == "newton" else by_products)


def _nothing(layout: Layout, y: Tensor) -> SteadyState:
    """A state without entries, which is at rest."""
    none = torch.zeros(y.shape[:1], dtype=torch.int64, device=y.device)
    status, residual = (none, y.new_zeros(none.shape)) if layout.by_row else (Status.SUCCESS, 0.0)
    return SteadyState(layout.unpack(y), status, residual, Stats(none) if layout.by_row else Stats())


class _Root:
    """What was found, and how a gradient goes through it."""

    def __init__(self, field: Field, time: Tensor, system: System, found: Found, *, dense: bool) -> None:
        self.field, self.time, self.system, self.found, self.dense = field, time, system, found, dense
        self.good = found.status == Status.SUCCESS.value
        self.linear: Linear | None = None

    def result(self) -> SteadyState:
        """The state as part of the graph, NaN where no root was found, and what it cost."""
        system, good, by_row = self.system, self.good, self.system.by_row
        y, residual = self._in_graph() if bool(good.any()) else (system.packed(self.found.z), self.found.z)
        y = torch.where(across(good, y.ndim) if by_row else good.view(()), y, torch.nan)
        norms = torch.where(good, residual.square().mean(1).sqrt(), torch.nan)
        counts = [system.nfev, system.njev, self.found.n_steps]
        nfev, njev, n_steps = counts if by_row else map(int, counts)
        stats = Stats(nfev=nfev, njev=njev, n_steps=n_steps, n_accepted=n_steps)
        status = self.found.status if by_row else Status(int(self.found.status))
        return SteadyState(self.field.layout.unpack(y), status, norms if by_row else norms.item(), stats)

    def transposed(self, cotangent: Tensor) -> Tensor:
        """W with Jᵀ w = the cotangent, and 0 where no root was found."""
        right = torch.where(across(self.good, 2), self.system.rows(cotangent), 0.0)
        return self.system.packed(self._by_products(right) if self.linear is None else self._by_factors(right))

    def _in_graph(self) -> tuple[Tensor, Tensor]:
        """The state, and f there (R, N)."""
        # one that was found stands in for each that was not: 0 * NaN would reach what rows share
        z = self.found.z[stand_ins(self.good)]
        self.y = self.system.packed(z.clone()).requires_grad_(torch.is_grad_enabled() and not self.dense)
        self.slope = self.field(time_of(self.field, self.time, z.device), self.y)
        y, f = self.y.detach(), self.system.rows(self.slope.detach())
        if not unreached([self.slope], [self.y]):
            return y, f
        if self.dense:  # made now, as what it is made of may change before the backward pass
            with torch.no_grad():
                _, self.linear = self.system.jacobian(z, self.good)
        return _Implicit.apply(self.slope, y, self), f

    def _by_factors(self, right: Tensor) -> Tensor:
        assert self.linear is not None
        asked = (right != 0).any(1)
        if bool((self.linear.singular & asked).any()):
            raise RuntimeError(
                "a gradient through a steady state was asked for where the Jacobian of the field has no inverse: the "
                "root is a multiple one, or not isolated, and is no function of the parameters"
            )
        return torch.where(across(asked, 2), self.linear.solve_transposed(right), 0.0)

    def _by_products(self, right: Tensor) -> Tensor:
        def product(v: Tensor, asked: Tensor) -> Tensor:
            (found,) = torch.autograd.grad(
                self.slope, self.y, self.system.packed(v), retain_graph=True, allow_unused=True
            )
            return torch.zeros_like(v) if found is None else self.system.rows(found)

        eps = torch.finfo(right.dtype).eps
        w, left = gmres(product, right, rtol=eps**0.75, cycles=20)
        if not bool((left <= eps**0.5).all()):
            raise RuntimeError(
                f"the linear system of the gradient through a steady state was not solved: {left.max().item():.1e} of "
                "its right side is left; the Jacobian of the field is near to having no inverse (method='newton' "
                "solves with the matrix itself)"
            )
        return w


class _Implicit(torch.autograd.Function):
    """The root as a function of f."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, y: Tensor, root: _Root) -> Tensor:
        ctx.save_for_backward(slope)
        ctx.root = root
        return y.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            gradient = -ctx.root.transposed(cotangent)
        return *once([gradient], _FIRST_ORDER, ctx.saved_tensors), None, None


_FIRST_ORDER = (
    "the gradient of a steady state can be computed once, not differentiated again; for second derivatives take finite "
    "differences of it"
)
