"""What runs a solve, and why: the choice of the front door, and the field as the native engine sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from inspect import getclosurevars, isfunction
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from .core.field import uncallable
from .core.state import layout_of
from .engine import native
from .engine.backend import TOO_WIDE, Unsuitable, is_too_wide
from .engine.cache import cached_trace
from .engine.program import Instruction, Operand, Program
from .engine.trace import any_time, packed
from .ivp import LEFT_TO_PYTORCH, solve_ivp
from .methods import Method
from .methods.tableau import RungeKutta

_INFIX = dict(
    zip(
        ("add", "sub", "mul", "div", "pow", "gt", "ge", "lt", "le", "eq", "ne"),
        ("+", "-", "*", "/", "**", ">", ">=", "<", "<=", "==", "!="),
        strict=True,
    )
)
"""How operations between two are written."""

_PIECES = 6
"""The most pieces of a `gather` that are shown."""


@dataclass(frozen=True, repr=False)
class Explanation:
    """What runs the solves of a field, and why.

    Attributes
    ----------
    backend : str
        "native" or "eager".
    reason : str or None
        Why it is not the native engine.
    program : Program or None
        The field as the native engine runs it.
    names : tuple of str
        Those of the program's shared tensors.
    samples : int
        How many the engine carries: the rows of y0, or 1 where the whole state is one.
    scratch : int
        The rows that an evaluation works with, each a number of every sample.
    """

    backend: str
    reason: str | None = None
    program: Program | None = None
    names: tuple[str, ...] = ()
    samples: int = 0
    scratch: int = 0

    def __repr__(self) -> str:
        if self.program is None:
            return f"backend: {self.backend}, as the native engine does not take this solve:\n  {self.reason}"
        program = self.program
        values = ["t", "y", *(f"arg{n}" for n in range(len(program.inputs) - 2))]
        lines: list[str] = []
        for instruction in program.instructions:
            values.append(f"v{len(lines) + 1}")
            lines.append(f"{values[-1]} = {_written(instruction, program, values, self.names)}")
        output = _rows(program.output, program.inputs[1], program, values, self.names)
        each = f"each of {self.samples} rows is a sample" if self.samples > 1 else "the whole state is one sample"
        own = "".join(f", {name} ({n})" for name, n in zip(values[2:], program.inputs[2:], strict=False))
        sizes = zip(self.names, program.shared, strict=True)
        shared = ", ".join(f"{name} ({n})" for name, n in sizes if not name.lstrip("-")[0].isdigit())
        counts = (
            _counted(len(lines), "instruction"),
            f"{_counted(program.multiplications, 'multiplication')} by weights",
            _counted(len(program.shared), "shared tensor"),
            f"{_counted(self.scratch, 'row')} of scratch",
        )
        return "\n".join(
            [
                f"backend: native; {each}",
                f"  of each sample: t (1), y ({program.inputs[1]}){own}",
                *([f"  of all samples: {shared}"] if shared else []),
                *(f"    {line}" for line in lines),
                f"    dy/dt = {output}",
                f"  {', '.join(counts)}",
            ]
        )


def explain(
    fun: Callable[..., Any],
    y0: Any,
    args: tuple[Any, ...] | Any = (),
    *,
    t0: float | Tensor = 0.0,
    method: str | Method | RungeKutta = "tsit5",
    batching: str = "joint",
    **options: Any,
) -> Explanation:
    """What would run a solve of a field: the native engine, and by which program, or PyTorch, and why.

    Parameters
    ----------
    fun, y0, args, method, batching
        As of `solve_ivp`.
    t0 : float or Tensor
        The time to begin at. Nothing is solved.
    **options
        Further ones of `solve_ivp`, as some are for PyTorch alone.

    Returns
    -------
    Explanation
        It is for people, and prints itself.

    Raises
    ------
    ValueError
        Where `solve_ivp` would raise it.

    Examples
    --------
    >>> import torch, thalweg
    >>> def swing(t, y, damping):
    ...     angle, speed = y.unbind(-1)
    ...     return torch.stack([speed, -torch.sin(angle) - damping * speed], -1)
    >>> thalweg.explain(swing, torch.ones(8, 2), 0.1)
    backend: native; each of 8 rows is a sample
      of each sample: t (1), y (2)
        v1 = sin(y[0])
        v2 = -v1
        v3 = y[1] * 0.1
        v4 = v2 - v3
        v5 = gather(y[1], v4)
        dy/dt = v5
      5 instructions, 0 multiplications by weights, 1 shared tensor, 2 rows of scratch
    >>> thalweg.explain(swing, torch.ones(8, 2), 0.1, method="radau5")
    backend: eager, as the native engine does not take this solve:
      the engine has explicit Runge–Kutta and Rosenbrock methods, and 'radau5' is none
    """
    args = args if isinstance(args, tuple) else (args,)
    if (told := uncallable(fun, args)) is not None:
        order = f"; explain takes fun, y0, args, and no t_span: got y0={y0!r}" if _is_pair(y0) else ""
        raise ValueError(told + order)
    asked = {"method": method, "args": args, "batching": batching, **options}
    try:  # a solve that is over where it begins: the front door decides, and nothing is evaluated
        solve_ivp(fun, (t0, t0), y0, **{**asked, "backend": "native"})
    except Unsuitable as refusal:
        return Explanation("eager", refusal.reason)
    if isinstance(method, str) and method in LEFT_TO_PYTORCH:
        return Explanation("eager", LEFT_TO_PYTORCH[method])
    by_row = batching == "per_sample"
    layout, y = layout_of(y0, by_row=by_row)
    state = layout.unpack(y.detach())
    trace = cached_trace(fun, any_time(y, by_row=by_row), state, args, by_row=by_row)
    samples = len(packed(state, by_row=by_row, rows=True)[1]) if trace.rows else 1
    if is_too_wide(trace, samples):
        return Explanation("eager", TOO_WIDE)
    return Explanation(
        "native",
        None,
        trace.program,
        _names(fun, trace.shared(args)),
        samples,
        native.compiled(trace.program).scratch,
    )


def _is_pair(y0: Any) -> bool:
    """Whether it may have been meant as the ends of a span of time."""
    return y0.shape == (2,) if isinstance(y0, Tensor) else isinstance(y0, tuple | list) and len(y0) == 2


def _counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def _held(fun: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a module, or of what a function captured, by their names."""
    fun = getattr(fun, "__self__", fun)
    found = {"": fun}
    if isfunction(fun):
        captured = getclosurevars(fun)
        found = {**captured.globals, **captured.nonlocals}
    for name, x in found.items():
        if isinstance(x, nn.Module):
            yield from (*x.named_parameters(name), *x.named_buffers(name))
        elif isinstance(x, Tensor):
            yield name, x


def _names(fun: Any, shared: Sequence[Tensor]) -> tuple[str, ...]:
    """A tensor's own name where it is given to the engine as it is; a single number itself; others are numbered."""
    known = {(x.data_ptr(), x.shape): name for name, x in _held(fun)}

    def name(n: int, x: Tensor) -> str:
        if (x.data_ptr(), x.shape) in known:
            return known[x.data_ptr(), x.shape]
        return f"{x.item():.6g}" if x.numel() == 1 and not x.requires_grad else f"shared{n}"

    return tuple(name(n, x) for n, x in enumerate(shared))


def _rows(x: Operand, count: int, program: Program, values: Sequence[str], names: Sequence[str]) -> str:
    """An operand, with its rows where it is not whole."""
    name, size = (names if x.shared else values)[x.number], (program.shared if x.shared else program.sizes)[x.number]
    if size == 1 or (x.stride == 1 and (x.row, count) == (0, size)):
        return name
    return f"{name}[{x.row}]" if x.stride == 0 or count == 1 else f"{name}[{x.row}:{x.row + count}]"


def _written(code: Instruction, program: Program, values: Sequence[str], names: Sequence[str]) -> str:
    """An instruction as a person would write it."""
    name = code.operation

    def rows(x: Operand, count: int) -> str:
        return _rows(x, count, program, values, names)

    if name == "gather":
        return f"gather({', '.join(_pieces(code, rows))})"
    if name == "linear":
        repeats, into, of = code.index
        counts = (repeats * of, into * of, into)
        given = ", ".join(rows(x, n) for x, n in zip(code.operands, counts, strict=False))
        return f"linear({given})" + (f" for each of {repeats} vectors" if repeats > 1 else "")
    if name in ("sum", "amax"):
        length = code.index[0]
        each = f", each {length} rows" if code.size > 1 else ""
        return f"{name}({rows(code.operands[0], code.size * length)}{each})"
    operands = [rows(x, code.size) for x in code.operands]
    numbers = [f"{x:.6g}" for x in code.scalars]
    if name in _INFIX:
        return f"{operands[0]} {_INFIX[name]} {operands[1]}"
    if name in ("neg", "square", "power"):
        return f"-{operands[0]}" if name == "neg" else f"{operands[0]} ** {numbers[0] if numbers else 2}"
    return f"{name}({', '.join([*operands, *numbers])})"


def _pieces(code: Instruction, rows: Callable[[Operand, int], str]) -> list[str]:
    """The runs of rows that a `gather` puts one after the other."""
    pairs = list(zip(code.index[::2], code.index[1::2], strict=True))
    runs = [[x for _, x in run] for _, run in groupby(enumerate(pairs), lambda x: (x[1][0], x[1][1] - x[0]))]
    shown = []
    for run in runs[:_PIECES]:
        operand, row = run[0]
        x = code.operands[operand]
        shown.append(rows(Operand(x.number, x.shared, x.row + row), len(run)))
    return [*shown, f"… {len(runs) - _PIECES} more"] if len(runs) > _PIECES else shown
