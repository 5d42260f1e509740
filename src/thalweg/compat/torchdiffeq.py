"""torchdiffeq's functions, each a call of `solve_ivp`.

Names, signatures, options, norms and callbacks are torchdiffeq's, so that ``from torchdiffeq import odeint`` becomes
``from thalweg.compat.torchdiffeq import odeint``. What differs is said in docs/guide/coming-from-torchdiffeq.md.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..core.derivatives import transformed
from ..core.norms import AsGiven, LargestOfLeaves, rms
from ..core.state import layout_of
from ..core.status import SolveError
from ..core.step import TriedStep
from ..gradients import Adjoint, DirectOrNative
from ..ivp import solve_ivp
from ..methods import get_method
from ..methods.registry import OF_SCIPY
from ..output.events import Event
from ..stepsize.controllers import PID

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]

State: TypeAlias = Any
"""A tensor or a tuple of tensors."""


@dataclass(frozen=True)
class _Method:
    """What one of torchdiffeq's methods is here.

    Attributes
    ----------
    name : str
        The name that `solve_ivp` knows, without the order where that is an option.
    kind : str
        Which options and callbacks it has.
    """

    name: str
    kind: Literal["adaptive", "fixed", "scipy"] = "fixed"


_METHODS = {
    "dopri8": _Method("dopri8", "adaptive"),
    "dopri5": _Method("dopri5", "adaptive"),
    "tsit5": _Method("tsit5", "adaptive"),
    "bosh3": _Method("bosh3", "adaptive"),
    "fehlberg2": _Method("fehlberg2", "adaptive"),
    "adaptive_heun": _Method("heun2", "adaptive"),
    "euler": _Method("euler"),
    "midpoint": _Method("midpoint"),
    "heun2": _Method("heun2"),
    "heun3": _Method("heun3"),
    "rk4": _Method("rk38"),
    "explicit_adams": _Method("adams_bashforth"),
    "implicit_adams": _Method("adams_moulton"),
    "implicit_euler": _Method("implicit_euler"),
    "implicit_midpoint": _Method("implicit_midpoint"),
    "trapezoid": _Method("trapezoid"),
    "radauIIA3": _Method("radau3"),
    "gl4": _Method("gl4"),
    "radauIIA5": _Method("radau5"),
    "gl6": _Method("gl6"),
    "sdirk2": _Method("sdirk2"),
    "trbdf2": _Method("trbdf2"),
    "fixed_adams": _Method("adams_moulton"),
    "scipy_solver": _Method("", "scipy"),
}

_ADAMS_ORDERS = 4, 12
"""The least and the greatest max_order of torchdiffeq's Adams methods; below they are its rk4."""

_FAR = 1e9
"""How far a solve goes in search of an event."""

_OPTIONS = {
    "adaptive": {
        "first_step", "min_step", "max_step", "step_t", "jump_t", "safety", "ifactor", "dfactor", "max_num_steps",
        "dtype", "norm",
    },
    "fixed": {"step_size", "grid_constructor", "interp", "perturb", "norm", "max_iters", "max_order"},
    "scipy": {"solver", "min_step", "max_step", "norm", "grid_points", "eps"},
}  # fmt: skip
"""The options of each kind of method; those that choose nothing here are accepted."""

_CALLBACKS = {
    "adaptive": {"callback_step", "callback_accept_step", "callback_reject_step"},
    "fixed": {"callback_step"},
    "scipy": set[str](),
}


def odeint(
    func: Callable[..., Any],
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[..., Tensor] | None = None,
) -> Any:
    """The states at the times t, the first of which is that of y0, with gradients through the solver.

    Parameters
    ----------
    func : callable
        func(t, y) -> dy/dt.
    y0 : Tensor or tuple of Tensor
        The state at t[0].
    t : Tensor (T,)
        The times of the outputs, which ascend or descend.
    rtol, atol : float or Tensor, or a tuple of one for each of y0's
        The tolerances.
    method : str, optional
        One of torchdiffeq's names; "dopri5" by default.
    options : dict, optional
        torchdiffeq's options of that method.
    event_fn : callable, optional
        event_fn(t, y) -> Tensor: solve until one of its entries is zero, from t[0] in the direction of t[1], however
        far that is.

    Returns
    -------
    Tensor (T, *y0.shape), or a tuple of such
        With event_fn, the time of the event comes first, and the states are those at t[0] and then.

    Raises
    ------
    ValueError
        When an argument is not what is described here.
    SolveError
        When the solve does not reach the last time.

    Examples
    --------
    >>> import torch
    >>> from thalweg.compat.torchdiffeq import odeint
    >>> odeint(lambda t, y: -y, torch.tensor([1.0]), torch.tensor([0.0, 1.0, 2.0])).flatten()
    tensor([1.0000, 0.3679, 0.1353])
    """
    setting = _Setting(func, y0, _checked_times(t), rtol, atol, method, options, endless=event_fn is not None)
    gradient = "direct" if event_fn is not None or transformed() else DirectOrNative()
    return _solve(func, setting, setting.steps(), gradient, event_fn)


def odeint_adjoint(
    func: Callable[..., Any],
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[..., Tensor] | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """As `odeint`, with the gradients of the adjoint method, at the memory of one step.

    Parameters
    ----------
    func, y0, t, rtol, atol, method, options, event_fn
        As for `odeint`.
    adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options : optional
        The same for the solve back in time; as for the solve itself where they are left out.
    adjoint_params : iterable of Tensor, optional
        Tensors that need a gradient; the parameters of func, which must be a module, where they are left out.

    Examples
    --------
    >>> import torch
    >>> from thalweg.compat.torchdiffeq import odeint_adjoint
    >>> y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    >>> ys = odeint_adjoint(lambda t, y: -y, y0, torch.tensor([0.0, 1.0]), adjoint_params=())
    >>> ys[-1].sum().backward()
    >>> round(y0.grad.item(), 6)
    0.367879
    """
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise ValueError(
            "func must be a torch.nn.Module, or adjoint_params must say which tensors need a gradient: "
            "adjoint_params=() where none does"
        )
    if adjoint_method not in (None, method) and options is not None and adjoint_options is None:
        raise ValueError("options are those of method, and adjoint_method is another: give adjoint_options too")
    params = tuple(p for p in _parameters(func, adjoint_params) if p.requires_grad)
    if adjoint_options is None:
        adjoint_options = {name: value for name, value in (options or {}).items() if name != "norm"}
    setting = _Setting(func, y0, _checked_times(t), rtol, atol, method, options, endless=event_fn is not None)
    steps = setting.steps()
    back = _Setting(
        func,
        y0,
        setting.t.flip(0),
        rtol if adjoint_rtol is None else adjoint_rtol,
        atol if adjoint_atol is None else adjoint_atol,
        method if adjoint_method is None else adjoint_method,
        adjoint_options,
        setting,
    )
    way_back = back.adjoint(params)
    if not torch.is_grad_enabled():
        return _solve(func, setting, steps, None, event_fn)
    if params:  # the engine knows no adjoint, and would look at a function that is made anew each time
        func, steps = functools.partial(_holding, func, params), steps | {"backend": "eager"}
    found = _solve(func, setting, steps, way_back, event_fn)
    return pytree.tree_map(lambda x: _ZeroWhereUnused.apply(x, *params), found) if params else found


def odeint_dense(
    func: Callable[..., Any],
    y0: Tensor,
    t0: float | Tensor,
    t1: float | Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable[[float | Tensor], State]:
    """The solution between t0 and t1 as a function of time.

    Examples
    --------
    >>> import torch
    >>> from thalweg.compat.torchdiffeq import odeint_dense
    >>> y = odeint_dense(lambda t, y: -y, torch.tensor([1.0]), torch.tensor(0.0), torch.tensor(2.0))
    >>> y(torch.tensor([0.5, 1.0])).flatten()
    tensor([0.6065, 0.3679])
    """
    t = _checked_times(torch.stack([torch.as_tensor(end, device=_leaves(y0)[0].device) for end in (t0, t1)]))
    setting = _Setting(func, y0, t, rtol, atol, method, options)
    return solve_ivp(_field(func, y0), (t[0], t[1]), y0, dense_output=True, gradient="direct", **setting.steps())


def odeint_event(
    func: Callable[..., Any],
    y0: State,
    t0: Tensor,
    *,
    event_fn: Callable[..., Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, State]:
    """The time at which an entry of event_fn(t, y) is zero, and the states at t0 and then, with gradients to both.

    Parameters
    ----------
    func, y0
        As for `odeint`.
    t0 : Tensor ()
        The time of y0.
    event_fn : callable
        event_fn(t, y) -> Tensor.
    reverse_time : bool
        Whether to go back in time.
    odeint_interface : callable
        `odeint` or `odeint_adjoint`.
    **kwargs
        Its further arguments.

    Examples
    --------
    When has what decays from 1 come down to 1/2? After ln 2.

    >>> import torch
    >>> from thalweg.compat.torchdiffeq import odeint_event
    >>> y0 = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    >>> t, ys = odeint_event(lambda t, y: -y, y0, torch.tensor(0.0), event_fn=lambda t, y: y - 0.5)
    >>> t.backward()
    >>> round(t.item(), 4), round(ys[-1].item(), 4), round(y0.grad.item(), 4)
    (0.6931, 0.5, 1.0)
    """
    start = t0.reshape(-1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    return odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)


def _until_event(
    func: Callable[..., Any],
    setting: _Setting,
    steps: dict[str, Any],
    event_fn: Callable[..., Tensor],
    gradient: Any,
) -> tuple[Tensor, State]:
    """The time at which the first entry of event_fn is zero, and the states at the start and then."""
    t, y0 = setting.t, setting.y0
    if len(t) != 2:
        raise ValueError(f"with event_fn, t holds the start and a time that says the direction, got {len(t)}")
    if setting.kind == "fixed" and setting.options.get("step_size") is None:
        raise ValueError("with event_fn, a method of fixed steps needs step_size in options")
    with torch.no_grad():
        negative = event_fn(t[0], y0).reshape(-1) < 0

    def first(time: Tensor, y: State) -> Tensor:
        """The least of the entries, all of which begin positive: it is zero where the first of them is."""
        values = event_fn(time, y).reshape(-1)
        return torch.where(negative, -values, values).min()

    start, towards = t.detach()
    span, event = (t[0], start + torch.sign(towards - start) * _FAR), Event(first, terminal=True)
    sol = solve_ivp(_field(func, y0), span, y0, events=event, gradient=gradient, on_failure="return", **steps)
    assert sol.t_events is not None
    assert sol.y_events is not None
    if not len(sol.t_events[0]):
        raise SolveError(f"no event came: {sol.message}", sol)
    ys = pytree.tree_map(lambda y, end: torch.cat([y.unsqueeze(0), end]), y0, sol.y_events[0])
    return sol.t_events[0][0].to(t.dtype), ys


def _solve(
    func: Callable[..., Any],
    setting: _Setting,
    steps: dict[str, Any],
    gradient: Any,
    event_fn: Callable[..., Tensor] | None,
) -> State:
    """The states at all times of a setting, or what comes until the event."""
    if event_fn is not None:
        return _until_event(func, setting, steps, event_fn, gradient)
    t, y0 = setting.t, setting.y0
    if len(t) == 1:
        return pytree.tree_map(lambda y: y.unsqueeze(0), y0)
    ends = (t[0].item(), t[-1].item()) if _is_plain(t) else (t[0], t[-1])
    return solve_ivp(_field(func, y0), ends, y0, t_eval=t, gradient=gradient, **steps).ys


class _Setting:
    """torchdiffeq's arguments of one solve, checked, and what they are for `solve_ivp`.

    Parameters
    ----------
    there : _Setting, optional
        That of the solve from the first time to the last, where this one is the adjoint's, back.
    endless : bool
        Whether the times only say the direction, as in the search for an event: no grid is known. The way back is so
        where that there is.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        y0: State,
        t: Tensor,
        rtol: Any,
        atol: Any,
        method: str | None,
        options: dict[str, Any] | None,
        there: _Setting | None = None,
        *,
        endless: bool = False,
    ) -> None:
        self.endless: bool = endless if there is None else there.endless
        if isinstance(y0, tuple):
            y0 = tuple(y0)  # a named one is such a tuple to torchdiffeq too
        self.func, self.y0, self.t, self.rtol, self.atol, self.there = func, y0, t, rtol, atol, there
        if not (isinstance(y0, Tensor) or (isinstance(y0, tuple) and y0 and all(isinstance(y, Tensor) for y in y0))):
            raise ValueError(f"y0 must be a tensor or a tuple of tensors, got {type(y0).__name__}")
        layout_of(y0, by_row=False)  # refuses what is no state
        name = "dopri5" if method is None else method
        if name not in _METHODS:
            raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {name!r}")
        self.method_name, self.kind = name, _METHODS[name].kind
        self.options = dict(options or {})
        unknown = {key: value for key, value in self.options.items() if key not in _OPTIONS[self.kind]}
        if unknown:
            warnings.warn(f"{name}: Unexpected arguments {unknown}", stacklevel=4)
        self.method = self._method()
        self.family = get_method(self.method).kind

    def _method(self) -> str:
        """The name that `solve_ivp` knows."""
        method = _METHODS[self.method_name]
        name = method.name
        if self.kind == "scipy":
            solver = self.options.get("solver", "LSODA")
            if solver not in OF_SCIPY:
                raise ValueError(f"solver must be one of {', '.join(OF_SCIPY)}, got {solver!r}")
            name = OF_SCIPY[solver]
        return self._adams(name) if name.startswith("adams") else name

    def _adams(self, name: str) -> str:
        """The Adams method of that name, of the highest order that there is and that max_order allows.

        So many slopes are combined less one, to which the implicit methods add that at the end of the step.
        """
        least, most = _ADAMS_ORDERS
        order = self.options.get("max_order", most)
        if not isinstance(order, int) or order > most:
            raise ValueError(f"max_order must be an integer and at most {most}, got {order!r}")
        if order < least:
            warnings.warn(f"max_order is below {least}, so the solver reduces to `rk4`.", stacklevel=5)
            return _METHODS["rk4"].name
        slopes = order if name == "adams_moulton" else order - 1
        return f"{name}{min(slopes, 5)}"

    def adjoint(self, params: Sequence[Tensor]) -> Adjoint | str:
        """The gradient method of a solve whose way back this is."""
        steps = self.steps(params)
        if self.family == "adams":
            return Adjoint(**(steps | {"method": _METHODS["rk4"].name}))  # on the same grid
        # where the field is stiff, as these are meant for, solving it back is unstable
        return "checkpointed" if self.family in ("rosenbrock", "switching") else Adjoint(**steps)

    def steps(self, params: Sequence[Tensor] = ()) -> dict[str, Any]:
        """How steps are taken, in the words of `solve_ivp` and of its adjoint."""
        eps = torch.finfo(_leaves(self.y0)[0].dtype).eps
        # no finer than a number is rounded
        rtol, atol = _tolerance(self.rtol, self.y0, eps / 2), _tolerance(self.atol, self.y0, 0.0)
        steps: dict[str, Any] = {
            "method": self.method,
            "rtol": AsGiven(rtol),
            "atol": atol,
            # theirs are from output to output
            "max_steps": int(self.options.get("max_num_steps", 2**31 - 1)) * max(1, len(self.t) - 1),
            "callback": self._callback(),
        }
        if self.kind == "fixed":
            return steps | self._grid()
        steps |= {name: self.options[name] for name in ("first_step", "min_step", "max_step") if name in self.options}
        steps = {name: float(x) if name.endswith("_step") and x is not None else x for name, x in steps.items()}
        steps["controller"] = PID(
            safety=float(self.options.get("safety", 0.9)),
            factor_min=float(self.options.get("dfactor", 0.2)),
            factor_max=float(self.options.get("ifactor", 10.0)),
        )
        for ours, theirs in (("step_ts", "step_t"), ("jump_ts", "jump_t")):
            if (times := self.options.get(theirs)) is not None:
                steps[ours] = times.detach() if isinstance(times, Tensor) else times
        norm = self._norm(params)
        if norm is not rms:  # which is that of `solve_ivp`
            steps["norm"] = norm
        return steps

    def _norm(self, params: Sequence[Tensor] = ()) -> Callable[..., Any]:
        """The norm of an error; that of the adjoint's, if it is the user's own, is given what torchdiffeq's is."""
        norm = self.options.get("norm") if self.kind == "adaptive" else None
        if self.there is None:
            return norm or (LargestOfLeaves() if isinstance(self.y0, tuple) else rms)
        if norm is None or norm == "seminorm":  # the integrals over parameters are in no norm here
            either = self.there._norm()
            return lambda y, a: max(float(either(y)), float(either(a)))
        zero = _leaves(self.y0)[0].new_zeros(())
        integrals = [torch.zeros_like(p) for p in params]
        return lambda y, a: norm((zero, *_leaves(y), *_leaves(a), *integrals))

    def _grid(self) -> dict[str, Any]:
        """Steps on a grid: of one size, or of the user's own, or from output to output.

        Implicit methods, which make a Jacobian at each step there, stop at each time of the grid, where they do so too.
        """
        size, constructor = self.options.get("step_size"), self.options.get("grid_constructor")
        if size is not None and constructor is not None:
            raise ValueError("step_size and grid_constructor exclude each other")
        if self.options.get("interp", "linear") not in ("linear", "cubic"):
            raise ValueError(f"interp must be 'linear' or 'cubic', got {self.options['interp']!r}")
        perturb = bool(self.options.get("perturb", False))
        on_grid = (perturb or self.family in ("dirk", "firk")) and not self.endless
        if size is not None and not on_grid:
            return {"step_size": float(size)}
        t = self.t.detach()
        if size is None and constructor is None and not on_grid and _is_even(t):
            return {"step_size": float(abs(t[-1] - t[0])) / (len(t) - 1)}
        spans = [t[i : i + 2] for i in range(len(t) - 1)] if self.there else [t]
        grids = [self._grid_of(span, size, constructor) for span in spans or [t]]
        grid = torch.cat(grids).to("cpu", torch.float64).unique()
        return {"jump_ts" if perturb else "step_ts": grid, "step_size": float(abs(t[-1] - t[0])) or 1.0}

    def _grid_of(self, t: Tensor, size: Any, constructor: Callable[..., Tensor] | None) -> Tensor:
        """The grid from the first to the last of t."""
        if constructor is not None:
            return constructor(self.func, self.y0, t)
        if size is None:
            return t
        length = t[-1] - t[0]
        inner = torch.arange(math.ceil(abs(float(length)) / float(size)), device=t.device)
        return torch.cat([t[0] + inner * torch.sign(length) * float(size), t[-1:]])

    def _callback(self) -> Callable[[TriedStep], None] | None:
        """The callbacks that func has, as one."""
        suffix = "_adjoint" if self.there else ""
        names = _CALLBACKS["adaptive"]
        found = {name: call for name in sorted(names) if (call := getattr(self.func, name + suffix, None)) is not None}
        invalid = found.keys() - _CALLBACKS[self.kind]
        if invalid:
            warnings.warn(f"Solver '{self.method_name}' does not support callbacks {invalid}", stacklevel=5)
        calls = {name: call for name, call in found.items() if name not in invalid}
        return functools.partial(_call, calls, self.t.device) if calls else None


def _call(calls: dict[str, Callable[..., Any]], device: torch.device, step: TriedStep) -> None:
    """Call the callbacks of a step, which know its time, its state and its size, a positive one."""
    t, h = (torch.as_tensor(x, dtype=torch.float64, device=device) for x in (step.t, step.h))
    for name in ("callback_step", "callback_accept_step" if step.accepted else "callback_reject_step"):
        if name in calls:
            calls[name](t, step.y, h.abs())


def _field(func: Callable[..., Any], y0: State) -> Callable[..., Any]:
    """The function as `solve_ivp` takes it: a tuple of slopes for a tuple of states."""
    if not isinstance(y0, tuple):
        return func

    def as_tuple(t: Tensor, y: State) -> tuple[Tensor, ...]:
        return tuple(slope.reshape(part.shape) for slope, part in zip(func(t, y), y, strict=True))

    return as_tuple


def _holding(func: Callable[..., Any], params: Sequence[Tensor], t: Tensor, y: State) -> Any:
    """The function, holding on to its parameters, where they are found by what looks for a gradient's way."""
    return func(t, y)


def _parameters(func: Callable[..., Any], given: Iterable[Tensor] | None) -> Sequence[Tensor]:
    """The tensors that the user wants gradients of."""
    if given is not None:
        return tuple(given)
    assert isinstance(func, nn.Module)
    return tuple(func.parameters())


def _checked_times(t: Any) -> Tensor:
    """T, if it is what torchdiffeq asks for."""
    if not isinstance(t, Tensor):
        raise ValueError(f"t must be a tensor, got {type(t).__name__}")
    if not t.is_floating_point():
        raise TypeError(f"t must be a floating point Tensor but is a {t.type()}")
    if t.ndim != 1 or len(t) == 0:
        raise ValueError(f"t must be one dimensional and not empty, got shape {tuple(t.shape)}")
    if not _is_monotonic(t):
        raise ValueError("t must be strictly increasing or decreasing")
    return t


_FEW = 64
"""Up to so many numbers Python compares sooner than PyTorch."""


def _is_plain(t: Tensor) -> bool:
    """Whether times are mere numbers: no graph and no transform knows of them, and no device has to be waited for."""
    return t.is_cpu and not t.requires_grad and not transformed()


def _is_monotonic(t: Tensor) -> bool:
    """Whether times ascend or descend, strictly."""
    if _is_plain(t) and len(t) <= _FEW:
        pairs = list(pairwise(t.tolist()))
        return all(a < b for a, b in pairs) or all(a > b for a, b in pairs)
    steps = t.detach().diff()
    return bool((steps > 0).all()) or bool((steps < 0).all())


def _is_even(t: Tensor) -> bool:
    """Whether times lie equally far apart, as well as their dtype can say: then they are ends of steps of one size."""
    if len(t) < 2:
        return False
    steps, rounding = t.double().diff(), torch.finfo(t.dtype).eps * float(t.abs().max())
    return float((steps - steps.mean()).abs().max()) <= 2 * rounding


def _tolerance(value: Any, y0: State, least: float) -> float | Tensor:
    """A tolerance as `solve_ivp` takes it, no smaller than `least`."""
    if isinstance(value, tuple | list):
        pairs = zip(value, _leaves(y0), strict=True)
        value = torch.cat([torch.as_tensor(x, device=y.device).expand(y.shape).reshape(-1).double() for x, y in pairs])
    if isinstance(value, Tensor) and value.numel() != 1:
        return value.detach().clamp(min=least)
    return max(float(value), least)


def _leaves(y: State) -> tuple[Tensor, ...]:
    return y if isinstance(y, tuple) else (y,)


class _ZeroWhereUnused(torch.autograd.Function):
    """Gives parameters that a field does not use a gradient of zero, as torchdiffeq does, and not None."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, *params: Tensor) -> Tensor:
        ctx.params = params
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, ...]:
        return (cotangent, *(torch.zeros_like(p) for p in ctx.params))
