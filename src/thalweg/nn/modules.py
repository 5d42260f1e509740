"""The modules that follow a field: continuously, or by residual blocks.

z0: (batch, …), and for flows also a pytree of such; trajectories: (T, batch, …).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..core.solution import Solution, Stats
from ..gradients import GradientMethod, GradientName
from ..ivp import solve_ivp
from ..stepsize.controllers import Controller


class NeuralODE(nn.Module):
    """The flow of a field: carries z(t0) to z(t1).

    Parameters
    ----------
    field : Module or callable
        `field(t, z)`, shaped and structured as z: a tensor, or a pytree of tensors. The flow has the parameters of a
        module, not those that a function uses.
    t_span : (t0, t1)
        Where the flow begins and ends.
    method, step_size, rtol, atol, controller, batching, gradient, max_steps, backend
        As for `thalweg.solve_ivp`. With the default `per_sample`, no sample's answer depends on which batch it is in.
    learn_times : bool
        Whether t0 and t1 are parameters.

    Attributes
    ----------
    t_span : (t0, t1)
        Floats, or parameters where times are learnt.
    stats : Stats or None
        What the last solve cost.

    Examples
    --------
    >>> import torch
    >>> from thalweg.nn import MLPField, NeuralODE
    >>> flow = NeuralODE(MLPField(2, width=8, depth=1))
    >>> flow(torch.zeros(5, 2)).shape, flow.trajectory(torch.zeros(5, 2), torch.linspace(0, 1, 4)).shape
    (torch.Size([5, 2]), torch.Size([4, 5, 2]))
    """

    def __init__(
        self,
        field: Any,
        t_span: tuple[float, float] = (0.0, 1.0),
        *,
        method: str = "tsit5",
        step_size: float | None = None,
        rtol: float | Tensor = 1e-3,
        atol: float | Tensor = 1e-6,
        controller: Controller | Literal["i", "pi", "pid", "gustafsson"] | None = None,
        learn_times: bool = False,
        batching: Literal["joint", "per_sample"] = "per_sample",
        gradient: GradientName | GradientMethod | None = None,
        max_steps: int = 10_000,
        backend: Literal["auto", "eager", "native"] = "auto",
    ) -> None:
        super().__init__()
        if not callable(field):
            raise ValueError(f"field must be callable as field(t, z), got {type(field).__name__}")
        _check_time(field)
        try:
            t0, t1 = (float(t) for t in t_span)
        except (TypeError, ValueError):
            raise ValueError(f"t_span must be a pair of numbers (t0, t1), got {t_span!r}") from None
        if not (math.isfinite(t0) and math.isfinite(t1)):
            raise ValueError(f"t_span must be a pair of finite numbers (t0, t1), got {t_span!r}")
        self.field = field
        self.learn_times = learn_times
        self.t0: Any = t0
        self.t1: Any = t1
        if learn_times:
            beside = next(field.parameters(), None) if isinstance(field, nn.Module) else None
            device = None if beside is None else beside.device
            self.t0, self.t1 = (nn.Parameter(torch.tensor(t, device=device)) for t in (t0, t1))
        self.options: dict[str, Any] = {
            "method": method,
            "step_size": step_size,
            "rtol": rtol,
            "atol": atol,
            "controller": controller,
            "batching": batching,
            "gradient": gradient,
            "max_steps": max_steps,
            "backend": backend,
        }
        # a solve over no time asks nothing of the field: it lets the front door check the options now
        options = {**self.options, "backend": "eager" if backend == "native" else backend}  # that looks at the field
        try:
            shape = np.broadcast_shapes(np.shape(rtol), np.shape(atol))
        except ValueError:
            raise ValueError(
                "rtol and atol must broadcast against each other, as they do against z0, got shapes "
                f"{tuple(np.shape(rtol))} and {tuple(np.shape(atol))}"
            ) from None
        solve_ivp(field, (t0, t0), torch.zeros(1, *shape, dtype=torch.float64, device="cpu"), **options)
        self.stats: Stats | None = None

    @property
    def t_span(self) -> tuple[Any, Any]:
        """(t0, t1)."""
        return self.t0, self.t1

    def forward(self, z0: Any) -> Any:
        """z(t1) from z(t0), shaped and structured as it."""
        return pytree.tree_map(lambda z: z[-1], self.solve(z0).ys)

    def trajectory(self, z0: Any, t_eval: Tensor | Sequence[float]) -> Any:
        """The states at the times t_eval, (T, *z0.shape), structured as z0."""
        return self.solve(z0, t_eval).ys

    def solve(self, z0: Any, t_eval: Tensor | Sequence[float] | None = None, **options: Any) -> Solution:
        """The whole solution; further options are those of `thalweg.solve_ivp`."""
        solution = solve_ivp(self.field, self.t_span, z0, t_eval=t_eval, **{**self.options, **options})
        self.stats = solution.stats
        return solution

    @property
    def nfev(self) -> float:
        """The field evaluations of the last solve, a sample's mean."""
        if self.stats is None:
            return 0.0
        nfev = self.stats.nfev
        return nfev.double().mean().item() if isinstance(nfev, Tensor) else float(nfev)

    @property
    def nfev_backward(self) -> int:
        """The field evaluations of the last solve's backward passes."""
        return 0 if self.stats is None else self.stats.nfev_backward

    def extra_repr(self) -> str:
        """The options that differ from their defaults matter most; all are shown."""
        times = "t_span=learnt" if self.learn_times else f"t_span=({self.t0:g}, {self.t1:g})"
        shown = [f"{name}={value!r}" for name, value in self.options.items() if value is not None]
        return ", ".join([times, *shown])


class ResNet(nn.Module):
    """Residual blocks: Euler's method with steps of 1 (z(t+1) = z(t) + f(t, z(t))).

    Parameters
    ----------
    field : Module, or sequence of Module
        One field shared by all depths, or one for each.
    depth : int, optional
        The number of blocks; a sequence of fields brings its own.

    Examples
    --------
    A residual network that shares its block is Euler's method with steps of 1, to the last bit:

    >>> import torch
    >>> from thalweg.nn import MLPField, NeuralODE, ResNet
    >>> field, z0 = MLPField(2, width=8), torch.randn(5, 2)
    >>> torch.equal(ResNet(field, 3)(z0), NeuralODE(field, (0, 3), method="euler", step_size=1)(z0))
    True
    """

    def __init__(self, field: Any, depth: int | None = None) -> None:
        super().__init__()
        several = isinstance(field, list | tuple | nn.ModuleList)
        if not (several or callable(field)):
            raise ValueError(f"field must be callable as field(t, z), or a list of such, got {type(field).__name__}")
        if several and depth is None:
            depth = len(field)
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0 or (several and depth != len(field)):
            expected = f"{len(field)}, the number of fields" if several else "an integer of 0 or more"
            raise ValueError(f"depth must be {expected}, got {depth!r}")
        for each in field if several else (field,):
            _check_time(each)
        self.depth = depth
        self.shared = not several
        self.field = nn.ModuleList(field) if several else field

    def forward(self, z0: Tensor) -> Tensor:
        """The state after the last block."""
        z = z0
        for n in range(self.depth):
            z = self._block(n, z)
        return z

    def trajectory(self, z0: Tensor) -> Tensor:
        """The states before, between and after the blocks, (depth + 1, *z0.shape)."""
        states = [z0]
        for n in range(self.depth):
            states.append(self._block(n, states[-1]))
        return torch.stack(states)

    def _block(self, n: int, z: Tensor) -> Tensor:
        field = self.field if self.shared else self.field[n]
        # shaped as `NeuralODE` has it, a time for each row: PyTorch may round another shape in another way
        t = z.new_full((*z.shape[:1], *(1,) * (z.ndim - 1)), float(n), dtype=z.real.dtype)
        return z + field(t, z)


def _check_time(field: Any) -> None:
    """Refuse what takes a state alone, as `Sequential` does, before it is called."""
    try:
        signature = inspect.signature(field.forward if isinstance(field, nn.Module) else field)
    except (TypeError, ValueError):  # Python cannot say what it takes
        return
    try:
        signature.bind(None, None)
    except TypeError:
        raise ValueError(
            f"field must take a time and a state, field(t, z), but {type(field).__name__} takes {signature}; wrap it "
            "in a module whose forward(t, z) calls it"
        ) from None


class Augment(nn.Module):
    """Adds zeros to a state, so that a flow has room to carry paths past one another (Dupont et al. 2019).

    Parameters
    ----------
    extra : int
        The number of zeros, added to the last dimension of vectors and to the channels of images.

    Examples
    --------
    >>> import torch
    >>> from thalweg.nn import Augment
    >>> Augment(1)(torch.ones(1, 2))
    tensor([[1., 1., 0.]])
    """

    def __init__(self, extra: int) -> None:
        super().__init__()
        if isinstance(extra, bool) or not isinstance(extra, int) or extra < 0:
            raise ValueError(f"extra must be an integer of 0 or more, got {extra!r}")
        self.extra = extra

    def forward(self, z: Tensor) -> Tensor:
        """`z` with zeros after its features (batch, features) or channels (batch, channels, …)."""
        if z.ndim < 2:
            raise ValueError(f"z must have a batch and features or channels, got shape {tuple(z.shape)}")
        return torch.cat([z, z.new_zeros(z.shape[0], self.extra, *z.shape[2:])], dim=1)
