"""The slow twin of the engine: runs a program, and its derivative, in plain PyTorch, one instruction at a time.

values, inputs: (B, rows) each; shared: tensors of as many entries as the program says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .program import OPERATIONS, Instruction, Operand, Program

Scalars: TypeAlias = tuple[float, ...]


def evaluate(program: Program, inputs: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
    """dy/dt (B, rows), differentiable by PyTorch."""
    values = _values(program, inputs, shared)
    return _read(program.output, program.inputs[1], values, shared)


def pullback(
    program: Program, inputs: Sequence[Tensor], shared: Sequence[Tensor], cotangent: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """The gradients of sum(cotangent * dy/dt) to the inputs and to the shared tensors, by the engine's own rules."""
    values = _values(program, inputs, shared)
    gradients = _Gradients([torch.zeros_like(x) for x in values], [x.new_zeros(x.numel()) for x in shared])
    gradients.add(program.output, cotangent)
    for number in range(len(values) - 1, len(program.inputs) - 1, -1):
        instruction, g = program.instructions[number - len(program.inputs)], gradients.values[number]
        pulled = _pulled(instruction, g, values[number], _operands(instruction, values, shared))
        for operand, gradient in zip(instruction.operands, pulled, strict=True):
            if gradient is not None:
                gradients.add(operand, gradient)
    pairs = zip(gradients.shared, shared, strict=True)
    return gradients.values[: len(program.inputs)], [g.reshape(x.shape) for g, x in pairs]


def apply(instruction: Instruction, operands: Sequence[Tensor]) -> Tensor:
    """The value that an instruction makes of its operands, each (B, rows), or (rows,) where it is shared."""
    kind = OPERATIONS[instruction.operation].kind
    if kind == "linear":
        return _linear(instruction, *operands)
    if kind == "gather":
        return _joined(operands)[:, _places(instruction, operands)]
    if kind == "reduce":
        items = operands[0].unflatten(-1, (instruction.size, *instruction.index))
        return items.sum(-1) if instruction.operation == "sum" else items.amax(-1)
    value = FORWARD[instruction.operation](instruction.scalars, *operands)
    return value.expand(*value.shape[:-1], instruction.size)


class _Gradients:
    """What has come back so far to each value and to each shared tensor."""

    def __init__(self, values: list[Tensor], shared: list[Tensor]) -> None:
        self.values, self.shared = values, shared

    def add(self, operand: Operand, gradient: Tensor) -> None:
        """One more contribution, (B, rows) of what reads the operand."""
        if operand.stride == 0:
            gradient = gradient.sum(-1, keepdim=True)
        if operand.shared:
            gradient = gradient.sum(0)
        target = (self.shared if operand.shared else self.values)[operand.number]
        target[..., operand.row : operand.row + gradient.shape[-1]] += gradient


def _values(program: Program, inputs: Sequence[Tensor], shared: Sequence[Tensor]) -> list[Tensor]:
    """Every value of the program: the inputs, then what each instruction makes."""
    values = list(inputs)
    for instruction in program.instructions:
        values.append(apply(instruction, _operands(instruction, values, shared)))
    return values


def _operands(instruction: Instruction, values: Sequence[Tensor], shared: Sequence[Tensor]) -> list[Tensor]:
    """What an instruction reads: (B, rows), or (rows,) where it is shared; rows is 1 where the stride is 0."""
    counts = _counts(instruction)
    return [_read(operand, n, values, shared) for operand, n in zip(instruction.operands, counts, strict=True)]


def _counts(instruction: Instruction) -> Sequence[int | None]:
    """How many rows each operand has; None for all that are left from its first row on."""
    kind, size, index = OPERATIONS[instruction.operation].kind, instruction.size, instruction.index
    if kind == "linear":
        repeats, n_out, n_in = index
        return [repeats * n_in, n_out * n_in, n_out][: len(instruction.operands)]
    if kind == "reduce":
        return [size * index[0]]
    return [None if kind == "gather" else size] * len(instruction.operands)


def _read(operand: Operand, count: int | None, values: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
    """The rows of one operand."""
    source = shared[operand.number].reshape(-1) if operand.shared else values[operand.number]
    end = None if count is None else operand.row + (count if operand.stride else 1)
    return source[..., operand.row : end]


def _linear(instruction: Instruction, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    repeats, n_out, n_in = instruction.index
    x, weight = x.unflatten(-1, (repeats, n_in)), weight.view(n_out, n_in)
    return torch.nn.functional.linear(x, weight, bias).flatten(-2)


def _joined(operands: Sequence[Tensor]) -> Tensor:
    """All operands of a gather side by side, (B, rows)."""
    batch = max(x.shape[0] for x in operands if x.ndim == 2)
    return torch.cat([x.expand(batch, x.shape[-1]) for x in operands], -1)


def _places(instruction: Instruction, operands: Sequence[Tensor]) -> Tensor:
    """Where each row of a gather lies among the joined operands, (rows,)."""
    number, row = torch.tensor(instruction.index, device=operands[0].device).view(-1, 2).unbind(-1)
    starts = torch.tensor([0, *(x.shape[-1] for x in operands)], device=operands[0].device).cumsum(0)
    return starts[number] + row


def _pulled(instruction: Instruction, g: Tensor, out: Tensor, operands: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The gradient of each operand, (B, rows), from that of the result."""
    kind = OPERATIONS[instruction.operation].kind
    if kind == "linear":
        return _linear_pulled(instruction, g, *operands)
    if kind == "gather":
        joined = torch.zeros_like(_joined(operands)).index_add(-1, _places(instruction, operands), g)
        return joined.split([x.shape[-1] for x in operands], -1)
    if kind == "reduce":
        items = operands[0].unflatten(-1, (instruction.size, *instruction.index))
        g = g.unsqueeze(-1).expand_as(items)
        if instruction.operation == "amax":
            ties = items == out.unsqueeze(-1)
            g = g * ties / ties.sum(-1, keepdim=True)
        return (g.flatten(-2),)
    rule = DERIVATIVES.get(instruction.operation)
    return [None] * len(operands) if rule is None else rule(instruction.scalars, g, out, *operands)


def _linear_pulled(instruction: Instruction, g: Tensor, x: Tensor, weight: Tensor, *bias: Tensor) -> Sequence[Tensor]:
    repeats, n_out, n_in = instruction.index
    g, x = g.unflatten(-1, (repeats, n_out)), x.unflatten(-1, (repeats, n_in))
    to_weight = torch.einsum("bir,bik->brk", g, x).flatten(-2)
    return ((g @ weight.view(n_out, n_in)).flatten(-2), to_weight, g.sum(1))[: 2 + len(bias)]


def _elu(scalars: Scalars, x: Tensor) -> Tensor:
    alpha, scale, input_scale = scalars
    return torch.where(x <= 0, torch.expm1(x * input_scale) * (alpha * scale), x * scale)


def _softplus(scalars: Scalars, x: Tensor) -> Tensor:
    return torch.nn.functional.softplus(x, *scalars)


def _comparison(compare: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """1 where it holds and 0 elsewhere."""
    return lambda s, x, y: compare(x, y).to(x.dtype)


FORWARD: dict[str, Callable[..., Tensor]] = {
    "where": lambda s, mask, x, y: torch.where(mask != 0, x, y),
    "add": lambda s, x, y: x + y,
    "sub": lambda s, x, y: x - y,
    "mul": lambda s, x, y: x * y,
    "div": lambda s, x, y: x / y,
    "pow": lambda s, x, y: torch.pow(x, y),
    "fmod": lambda s, x, y: torch.fmod(x, y),
    "remainder": lambda s, x, y: torch.remainder(x, y),
    "atan2": lambda s, y, x: torch.atan2(y, x),
    "copysign": lambda s, x, y: torch.copysign(x, y),
    "minimum": lambda s, x, y: torch.minimum(x, y),
    "maximum": lambda s, x, y: torch.maximum(x, y),
    "gt": _comparison(torch.gt),
    "ge": _comparison(torch.ge),
    "lt": _comparison(torch.lt),
    "le": _comparison(torch.le),
    "eq": _comparison(torch.eq),
    "ne": _comparison(torch.ne),
    "neg": lambda s, x: -x,
    "abs": lambda s, x: x.abs(),
    "square": lambda s, x: x * x,
    "reciprocal": lambda s, x: x.reciprocal(),
    "sqrt": lambda s, x: x.sqrt(),
    "rsqrt": lambda s, x: x.rsqrt(),
    "exp": lambda s, x: x.exp(),
    "expm1": lambda s, x: x.expm1(),
    "exp2": lambda s, x: x.exp2(),
    "log": lambda s, x: x.log(),
    "log1p": lambda s, x: x.log1p(),
    "log2": lambda s, x: x.log2(),
    "sin": lambda s, x: x.sin(),
    "cos": lambda s, x: x.cos(),
    "tanh": lambda s, x: x.tanh(),
    "sigmoid": lambda s, x: x.sigmoid(),
    "relu": lambda s, x: x.relu(),
    "leaky_relu": lambda s, x: torch.nn.functional.leaky_relu(x, *s),
    "elu": _elu,
    "gelu": lambda s, x: torch.nn.functional.gelu(x),
    "gelu_tanh": lambda s, x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": lambda s, x: torch.nn.functional.silu(x),
    "softplus": _softplus,
    "clamp": lambda s, x: x.clamp(*s),
    "power": lambda s, x: x.pow(s[0]),
    "erf": lambda s, x: x.erf(),
    "erfc": lambda s, x: x.erfc(),
    "erfinv": lambda s, x: x.erfinv(),
    "lgamma": lambda s, x: x.lgamma(),
    "digamma": lambda s, x: x.digamma(),
    "sign": lambda s, x: x.sign(),
    "floor": lambda s, x: x.floor(),
    "round": lambda s, x: x.round(),
}
"""The value of each operation that works row by row, from its scalars and operands."""


def _where_pulled(s: Scalars, g: Tensor, out: Tensor, mask: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    zero = torch.zeros_like(g)
    return None, torch.where(mask != 0, g, zero), torch.where(mask != 0, zero, g)


def _pow_pulled(s: Scalars, g: Tensor, out: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    zero = torch.zeros_like(g)
    to_y = torch.where((x == 0) & (y >= 0), zero, g * (out * x.log()))
    return torch.where(y == 0, zero, g * (y * x.pow(y - 1))), to_y


def _extreme_pulled(sign: int) -> Callable[..., tuple[Tensor, ...]]:
    """Both get half where they are equal; sign is 1 for the maximum and -1 for the minimum."""

    def pulled(s: Scalars, g: Tensor, out: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        shared, above = torch.where(x == y, g / 2, g), sign * (x - y)
        return shared.masked_fill(above < 0, 0), shared.masked_fill(above > 0, 0)

    return pulled


def _atan2_pulled(s: Scalars, g: Tensor, out: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    square = y * y + x * x
    over = square.reciprocal().masked_fill(square == 0, 0)
    return g * (x * over), -g * (y * over)


def _copysign_pulled(s: Scalars, g: Tensor, out: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor | None, ...]:
    return g * (out / x).masked_fill(x == 0, 0), None


def _elu_pulled(s: Scalars, g: Tensor, out: Tensor, x: Tensor) -> tuple[Tensor]:
    alpha, scale, input_scale = s
    return (torch.where(x <= 0, g * (alpha * scale * input_scale) * torch.exp(x * input_scale), g * scale),)


def _gelu_pulled(s: Scalars, g: Tensor, out: Tensor, x: Tensor) -> tuple[Tensor]:
    below, density = 0.5 * (1 + torch.erf(x / math.sqrt(2))), torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return (g * (below + x * density),)


def _gelu_tanh_pulled(s: Scalars, g: Tensor, out: Tensor, x: Tensor) -> tuple[Tensor]:
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    tanh = torch.tanh(scale * (x + cubic * x**3))
    return (g * (0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * scale * (1 + 3 * cubic * x * x)),)


def _silu_pulled(s: Scalars, g: Tensor, out: Tensor, x: Tensor) -> tuple[Tensor]:
    sigmoid = x.sigmoid()
    return (g * (sigmoid * (1 + x * (1 - sigmoid))),)


def _power_pulled(s: Scalars, g: Tensor, out: Tensor, x: Tensor) -> tuple[Tensor]:
    return (torch.zeros_like(g) if s[0] == 0 else g * (s[0] * x.pow(s[0] - 1)),)


DERIVATIVES: dict[str, Callable[..., Sequence[Tensor | None]]] = {
    "where": _where_pulled,
    "add": lambda s, g, out, x, y: (g, g),
    "sub": lambda s, g, out, x, y: (g, -g),
    "mul": lambda s, g, out, x, y: (g * y, g * x),
    "div": lambda s, g, out, x, y: (g / y, -g * ((x / y) / y)),
    "pow": _pow_pulled,
    "fmod": lambda s, g, out, x, y: (g, -g * (x / y).trunc()),
    "remainder": lambda s, g, out, x, y: (g, -g * torch.div(x, y, rounding_mode="floor")),
    "atan2": _atan2_pulled,
    "copysign": _copysign_pulled,
    "minimum": _extreme_pulled(-1),
    "maximum": _extreme_pulled(1),
    "neg": lambda s, g, out, x: (-g,),
    "abs": lambda s, g, out, x: (g * x.sign(),),
    "square": lambda s, g, out, x: (g * 2 * x,),
    "reciprocal": lambda s, g, out, x: (-g * out * out,),
    "sqrt": lambda s, g, out, x: (g / (2 * out),),
    "rsqrt": lambda s, g, out, x: (-0.5 * g * out**3,),
    "exp": lambda s, g, out, x: (g * out,),
    "expm1": lambda s, g, out, x: (g * (out + 1),),
    "exp2": lambda s, g, out, x: (g * out * math.log(2),),
    "log": lambda s, g, out, x: (g / x,),
    "log1p": lambda s, g, out, x: (g / (x + 1),),
    "log2": lambda s, g, out, x: (g / (x * math.log(2)),),
    "sin": lambda s, g, out, x: (g * x.cos(),),
    "cos": lambda s, g, out, x: (-g * x.sin(),),
    "tanh": lambda s, g, out, x: (g * (1 - out * out),),
    "sigmoid": lambda s, g, out, x: (g * (1 - out) * out,),
    "relu": lambda s, g, out, x: (g.masked_fill(out <= 0, 0),),
    "leaky_relu": lambda s, g, out, x: (torch.where(x > 0, g, g * s[0]),),
    "elu": _elu_pulled,
    "gelu": _gelu_pulled,
    "gelu_tanh": _gelu_tanh_pulled,
    "silu": _silu_pulled,
    "softplus": lambda s, g, out, x: (torch.where(x * s[0] > s[1], g, g * torch.sigmoid(x * s[0])),),
    "clamp": lambda s, g, out, x: (torch.where((x >= s[0]) & (x <= s[1]), g, torch.zeros_like(g)),),
    "power": _power_pulled,
    "erf": lambda s, g, out, x: (g * (2 / math.sqrt(math.pi)) * torch.exp(-x * x),),
    "erfc": lambda s, g, out, x: (g * (-2 / math.sqrt(math.pi)) * torch.exp(-x * x),),
    "erfinv": lambda s, g, out, x: (g * (math.sqrt(math.pi) / 2) * torch.exp(out * out),),
    "lgamma": lambda s, g, out, x: (g * x.digamma(),),
    "digamma": lambda s, g, out, x: (g * torch.special.polygamma(1, x),),
}
"""The gradient of each operand from the scalars, the gradient g of the result, the result and the operands; what is
not here has none. At kinks as PyTorch has it: half to each where a maximum is a tie, all at the bounds of a clamp."""
