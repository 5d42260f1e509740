"""The slow twin: each operation's derivative is PyTorch's own, at kinks too."""

import pytest
import torch

from thalweg.engine.program import OPERATIONS, STATE, TIME, Instruction, Operand, Program
from thalweg.engine.reference import evaluate, pullback

F64 = torch.float64
SCALARS = {
    "leaky_relu": (0.1,),
    "elu": (1.3, 1.1, 0.7),
    "softplus": (2.0, 3.0),
    "clamp": (-1.0, 2.0),
    "power": (3.0,),
}
POSITIVE = {"sqrt", "rsqrt", "log", "log2", "log1p", "pow", "reciprocal", "lgamma", "digamma"}
WITHIN_ONE = {"erfinv"}
BY_KIND = {
    kind: sorted(name for name, operation in OPERATIONS.items() if operation.kind == kind)
    for kind in ("unary", "binary")
}


def agree(program, inputs, shared):
    """The pullback is what autograd says of the evaluation, which is returned."""
    inputs, shared = ([x.detach().requires_grad_() for x in xs] for xs in (inputs, shared))
    out = evaluate(program, inputs, shared) + 0 * inputs[STATE].sum()  # in a graph, also where nothing is to be derived
    cotangent = torch.randn_like(out)
    expected = torch.autograd.grad(out, (*inputs, *shared), cotangent, allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        found = pullback(program, inputs, shared, cotangent)
    for ours, theirs in zip([*found[0], *found[1]], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, equal_nan=True)
    return out


def spread(number, size, rows):
    """An instruction that repeats a value's rows until they are as many as the state has."""
    return Instruction("gather", rows, (Operand(number),), tuple(n for i in range(rows) for n in (0, i % size)))


def sample(name, *shape):
    """Numbers from everywhere that the operation is defined, with kinks and ties among them."""
    if name in POSITIVE:
        return torch.rand(*shape, dtype=F64) + 0.1
    return torch.randint(-4, 5, shape).to(F64)


@pytest.mark.parametrize("name", BY_KIND["unary"])
def test_unary_operations(name):
    for scalars in [SCALARS.get(name, ()), *([(0.0,), (-2.0,), (0.5,)] if name == "power" else [])]:
        instruction = Instruction(name, 9, (Operand(STATE),), scalars=scalars)
        x = torch.linspace(-4, 4, 27, dtype=F64).view(3, 9)
        x = x.abs() + 0.1 if name in POSITIVE or scalars == (0.5,) else x / 5 if name in WITHIN_ONE else x
        agree(Program((1, 9), (), (instruction,), Operand(2)), [torch.zeros(3, 1, dtype=F64), x], [])


OTHERS = {
    "value": Operand(STATE, row=4),
    "one row": Operand(STATE, row=2, stride=0),
    "time": Operand(TIME, stride=0),
    "shared": Operand(0, shared=True),
    "one shared number": Operand(1, shared=True, row=1, stride=0),
}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("name", BY_KIND["binary"])
def test_binary_operations(name, other, swapped):
    operands = (OTHERS[other], Operand(STATE)) if swapped else (Operand(STATE), OTHERS[other])
    program = Program((1, 8), (4, 2), (Instruction(name, 4, operands), spread(2, 4, 8)), Operand(3))
    agree(program, [sample(name, 5, 1), sample(name, 5, 8)], [sample(name, 4), sample(name, 2)])


def test_powers_of_zero():
    x = torch.tensor([[0.0, 0, 0, 0, 2, -2, 1]], dtype=F64)
    y = torch.tensor([0.0, 1, 2, -1, 0, 2, 0.5], dtype=F64)
    agree(
        Program((1, 7), (7,), (Instruction("pow", 7, (Operand(STATE), Operand(0, True))),), Operand(2)),
        [x[:, :1], x],
        [y],
    )


def test_choice():
    operands = Operand(STATE), Operand(STATE, row=3), Operand(0, shared=True, stride=0)
    program = Program((1, 6), (1,), (Instruction("where", 3, operands), spread(2, 3, 6)), Operand(3))
    agree(program, [sample("add", 5, 1), sample("add", 5, 6)], [sample("add", 1)])


@pytest.mark.parametrize("name", ["sum", "amax"])
def test_reductions(name):
    program = Program((1, 6), (), (Instruction(name, 2, (Operand(STATE),), (3,)), spread(2, 2, 6)), Operand(3))
    x = torch.tensor([[1.0, 2, 2, 0, 0, 0], [3, 1, 2, -1, -2, -1]], dtype=F64)
    agree(program, [x[:, :1], x], [])


@pytest.mark.parametrize("bias", [False, True])
def test_linear_maps_of_rows(bias):
    """Two vectors of three rows each, by a weight that begins in the middle of a shared tensor."""
    operands = (Operand(STATE), Operand(0, True, row=2), Operand(1, True))[: 2 + bias]
    program = Program((1, 6), (10, 2), (Instruction("linear", 4, operands, (2, 2, 3)), spread(2, 4, 6)), Operand(3))
    x, shared = torch.randn(5, 6, dtype=F64), [torch.randn(10, dtype=F64), torch.randn(2, dtype=F64)]
    out = agree(program, [x[:, :1], x], shared)
    expected = x.view(5, 2, 3) @ shared[0][2:8].view(2, 3).T + (shared[1] if bias else 0)
    torch.testing.assert_close(out[:, :4], expected.flatten(1))


def test_gathers_from_values_and_shared_tensors():
    index = (0, 1, 1, 0, 0, 1, 2, 0)
    instruction = Instruction("gather", 4, (Operand(STATE, row=1), Operand(0, True, row=1), Operand(TIME)), index)
    t, y, shared = torch.rand(3, 1, dtype=F64), torch.rand(3, 4, dtype=F64), torch.rand(2, dtype=F64)
    out = agree(Program((1, 4), (2,), (instruction,), Operand(2)), [t, y], [shared])
    assert torch.equal(out, torch.stack([y[:, 2], shared[1].expand(3), y[:, 2], t[:, 0]], -1))
