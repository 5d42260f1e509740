"""Which backend takes a solve.

y0: (B, *D) or (*D), packed; the engine sees (samples, rows). Times are float64: 0-d, or (B,) where rows have their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..core.field import Field, FieldLike
from ..core.holdings import all_tensors
from ..core.norms import Tolerance
from ..core.state import Layout
from ..gradients import Checkpointed, GradientMethod
from ..gradients.base import Integrate, Request
from ..loop.batching import Joint
from ..loop.integrate import Problem
from ..methods import Method
from ..methods.rosenbrock import Rosenbrock
from ..methods.tableau import Tableau
from ..stepsize.controllers import PID, Fixed
from . import native
from .builder import Untraceable
from .cache import cached_trace, keep_way, kept_way
from .call import Native
from .keys import is_plain
from .trace import Trace, any_time, leaves_of, surroundings


class Unsuitable(ValueError):
    """A solve that the native engine does not take.

    Parameters
    ----------
    reason : str
        Why, in a sentence without its end.
    message : str, optional
        What to tell a person who insists.
    """

    def __init__(self, reason: str, message: str | None = None) -> None:
        super().__init__(message or reason)
        self.reason = reason


TOO_WIDE = "it is one sample of so many numbers that PyTorch is faster"
"""Why it takes a solve that the engine could, unless a person insists."""


def is_too_wide(trace: Trace, samples: int) -> bool:
    """Whether a state is one sample alone of so many numbers: it fills one lane, and all others compute along.

    A number costs some 13 ns then, and a multiplication by a weight a fortieth of that; an operation of PyTorch's costs
    6 µs, and its loop a tenth of a millisecond.
    """
    program = trace.program
    work = sum(program.sizes) + program.multiplications / 40
    return samples == 1 and work > 8000 + 500 * len(program.instructions)


def keep(key: Any, fun: Any, args: tuple[Any, ...], found: Native) -> None:
    """Keep what was chosen for a solve, to be had again by its key, where that tells it."""
    if is_plain(key):
        keep_way(key, fun, args, found.trace, found)


def kept(key: Any, fun: Any, y0: Any, args: tuple[Any, ...]) -> Native | None:
    """What was chosen for a solve that is alike in all but the numbers in its state and arguments; None if nothing.

    The field is looked at anew: where something that it reads has changed, nothing is kept.
    """
    if surroundings() is not None:
        return None
    found = cast("Native | None", kept_way(key, fun, args))
    if found is None or found.differentiable or not torch.is_grad_enabled():
        return found
    return None if _wanted(found.trace, pytree.tree_leaves(y0), args) else found


_OTHER_GRADIENT = "the engine's gradient is that of gradient='checkpointed'"


def chosen(method: Method, gradient: GradientMethod, request: Request, integrate: Integrate, *, insist: bool) -> Native:
    """The native engine for a solve; `integrate` is the eager loop, `insist` whether a person wants no other.

    Raises
    ------
    Unsuitable
        Where it does not take that, in a sentence that says why.
    """
    problem = request.problem
    reason = _unsuitable(problem, method)
    if reason is not None:
        raise Unsuitable(reason)
    field, y0 = request.field, request.y0
    by_row = problem.batching.by_row
    exact = isinstance(gradient, Checkpointed)
    given = [y0, *(x for x in pytree.tree_leaves(field.args) if isinstance(x, Tensor))]
    if torch.is_grad_enabled() and not exact and (request.times is not None or any(x.requires_grad for x in given)):
        raise Unsuitable(_OTHER_GRADIENT)
    time, rowed = any_time(y0, by_row=by_row), field.layout.in_rows()
    rowed = rowed if rowed is not None and _is_alike(_repacked(problem.tolerance, field.layout, rowed)) else None
    try:
        state = field.layout.unpack(request.y0.detach())
        trace = cached_trace(field.fun, time, state, field.args, by_row=by_row, rowed=rowed is not None, insist=insist)
    except Untraceable as error:
        raise Unsuitable(str(error)) from None
    except Exception as error:  # the eager loop asks the field in earnest, and what is wrong with it is told there
        for x in (*given, *all_tensors(field.fun)):
            if x.layout is not torch.strided:
                raise Unsuitable(
                    f"the field has a tensor of layout {x.layout}, and the engine knows dense ones"
                ) from None
        raise Unsuitable(f"the field could not be watched: {type(error).__name__}: {error}") from None
    # a joint pytree has no rows as the loop packs it
    layout = rowed if rowed is not None and trace.rows else field.layout
    y0 = field.layout.repacked(y0.detach(), layout)
    problem = replace(problem, y0=y0, tolerance=_repacked(problem.tolerance, field.layout, layout))
    samples = y0.shape[0] if trace.rows else 1
    if isinstance(method.data, Rosenbrock) and y0.numel() > samples * _LARGEST_JACOBIAN:
        raise Unsuitable(f"the engine makes Jacobians of up to {_LARGEST_JACOBIAN} rows, got {y0.numel() // samples}")
    if torch.is_grad_enabled() and (request.times is not None or _wanted(trace, [request.y0], field.args)):
        if problem.dense:
            raise Unsuitable("the engine makes no gradient where dense_output is asked for")
        if isinstance(method.data, Rosenbrock):
            raise Unsuitable("the engine's gradient is that of explicit methods")
        if not exact:
            raise Unsuitable(_OTHER_GRADIENT)
    if isinstance(gradient, Checkpointed) and gradient.checkpoints is not None:
        raise Unsuitable("the engine stores each accepted step, and knows no checkpoints=")
    limit = gradient.memory_limit if isinstance(gradient, Checkpointed) else 0
    differentiable = exact and isinstance(method.data, Tableau)
    solve = _solve(problem, method, trace, samples, limit, _parts(problem, layout, trace))
    # what is kept holds neither the field nor its state
    problem = replace(problem, field=cast(FieldLike, None), y0=y0.new_empty(0))
    times = solve.times if request.problem.t_eval is None else request.problem.t_eval.clone()
    return Native(trace, solve, problem, integrate, differentiable, layout, samples, times)


def _unsuitable(problem: Problem, method: Method) -> str | None:
    """Why the engine does not take a problem, its field aside."""
    if not native.AVAILABLE:
        return "the native engine was not built, as there was no C++ compiler when thalweg was installed"
    y0 = problem.y0
    asked = {
        "step_ts or jump_ts": problem.stops is not None,
        "a callback": problem.callback is not None,
        "a progress bar": problem.progress is not None,
        "shrink": problem.shrink,
    }
    if any(asked.values()):
        return f"the engine does not know {next(name for name, there in asked.items() if there)}"
    if y0.device.type != "cpu" or y0.dtype not in (torch.float32, torch.float64):
        return f"the engine takes states of float32 or float64 on the CPU, got {y0.dtype} on {y0.device}"
    if y0.numel() == 0:
        return "the state is empty"
    if not _has(method.data):
        return f"the engine has explicit Runge–Kutta and Rosenbrock methods, and {method.name!r} is none"
    if not isinstance(problem.controller, PID | Fixed):
        return f"the engine has the controllers PID and Fixed, got {type(problem.controller).__name__}"
    units = problem.batching
    if isinstance(units, Joint) and units.norm is not None and not units.by_leaf:
        return "the engine does not know a norm of one's own"
    if torch.is_autocast_enabled("cpu"):
        return "the field is evaluated in another dtype by torch.autocast"
    if type(problem.field) is not Field:
        return "the field is a pair of functions"
    if problem.field.jac is not None or problem.field.sparsity is not None:
        return "the engine makes Jacobians by itself, without jac or jac_sparsity"
    return None


_MOST_STAGES = 64
"""Of a method, extra ones of its interpolant too."""
_LARGEST_JACOBIAN = 64
"""The most rows of one that is made for each sample."""


def _has(data: Any) -> bool:
    """Whether the engine has a method."""
    if isinstance(data, Tableau):
        return data.stages + data.dense_evaluations <= _MOST_STAGES
    return isinstance(data, Rosenbrock) and data.stages <= _MOST_STAGES


def _wanted(trace: Trace, states: Sequence[Tensor], args: Any) -> bool:
    """Whether anything but the times needs a gradient."""
    leaves = leaves_of(args)
    return any(x.requires_grad for x in (*states, *(leaves[i] for i in trace.batched), *trace.shared(args)))


def _parts(problem: Problem, layout: Layout, trace: Trace) -> tuple[int, ...]:
    """The row behind each part of a sample's state whose error counts alone; none where all of it counts together."""
    if not (isinstance(problem.batching, Joint) and problem.batching.by_leaf):
        return ()
    sizes = (math.prod(shape[1:] if trace.rows else shape) for shape in layout.shapes)
    return tuple(accumulate(size for size in sizes if size))


def _solve(
    problem: Problem, method: Method, trace: Trace, samples: int, memory_limit: int, parts: tuple[int, ...]
) -> native.Solve:
    """The call of the engine."""
    by_row, y0 = problem.batching.by_row, problem.y0
    ends = [torch.as_tensor(t, dtype=torch.float64, device="cpu") for t in (problem.t0, problem.t1)]
    first = problem.first_step
    if isinstance(first, Tensor):
        first = float(first[0])
    if first is not None:
        first = min(first, float((ends[1] - ends[0]).abs().max()))  # as in the loop
    rtol, atol = (_of_entries(x, y0, trace.rows) for x in (problem.tolerance.rtol, problem.tolerance.atol))
    t_eval = problem.t_eval
    if t_eval is not None and by_row and t_eval.stride(1) == 0:
        t_eval = t_eval[:, 0]
    data, controller = method.data, problem.controller
    assert isinstance(data, Tableau | Rosenbrock)
    assert isinstance(controller, PID | Fixed)
    return native.Solve(
        _compiled(trace),
        native.method(data),
        native.control(
            controller,
            joint=not by_row,
            first_step=first,
            max_step=problem.max_step,
            min_step=problem.min_step,
            max_steps=problem.max_steps,
            parts=parts,
        ),
        torch.stack(ends),
        # the user may write into theirs
        None if t_eval is None else t_eval.to(torch.float64, copy=True).contiguous(),
        rtol,
        atol,
        memory_limit,
    )


_PROGRAMS: WeakKeyDictionary[Trace, Any] = WeakKeyDictionary()


def _compiled(trace: Trace) -> Any:
    """The program of a trace as the engine holds it, made once."""
    found = _PROGRAMS.get(trace)
    if found is None:
        found = _PROGRAMS[trace] = native.compiled(trace.program)
    return found


def _repacked(tolerance: Tolerance, given: Layout, layout: Layout) -> Tolerance:
    """That of a state packed otherwise."""
    rtol, atol = tolerance.rtol, tolerance.atol
    return Tolerance(
        given.repacked(rtol, layout) if isinstance(rtol, Tensor) else rtol,
        given.repacked(atol, layout) if atol.ndim else atol,
    )


def _of_entries(tolerance: float | Tensor, y0: Tensor, rows: bool) -> Tensor:
    """A tolerance, one for all entries of a sample's state or for each."""
    if not isinstance(tolerance, Tensor) or tolerance.ndim == 0:
        return torch.as_tensor(tolerance, dtype=y0.dtype, device="cpu")
    if not rows:
        return tolerance.reshape(-1).contiguous()
    if not _is_one_row(tolerance):
        raise Unsuitable("rtol and atol differ from row to row")
    return tolerance[0].reshape(-1).contiguous()


def _is_one_row(tolerance: Tensor) -> bool:
    """Whether all rows of a tolerance are alike."""
    return len(tolerance) <= 1 or bool((tolerance == tolerance[:1]).all())


def _is_alike(tolerance: Tolerance) -> bool:
    """Whether rtol and atol are so for all rows."""
    return all(not isinstance(x, Tensor) or not x.ndim or _is_one_row(x) for x in (tolerance.rtol, tolerance.atol))
