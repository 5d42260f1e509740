"""A field and its trace are one function, for any number of samples; what no program can do is refused in words."""

import pytest
import torch
from torch.nn import functional as F

from thalweg.engine.reference import evaluate
from thalweg.engine.trace import trace

F64 = torch.float64


def time_like(y, by_row):
    return (
        torch.full((len(y), *(1,) * (y.ndim - 1)), 0.3, dtype=y.dtype) if by_row else torch.tensor(0.3, dtype=y.dtype)
    )


def assert_same(fun, y, args=(), *, by_row=True, batches=(1, 2, 7), rows=True):
    """The trace made at y gives what the field gives, at other states and numbers of rows; it is returned."""
    found = trace(fun, time_like(y, by_row), y, args, by_row=by_row)
    assert found.rows is rows
    for batch in batches if rows else (len(y),) if y.ndim else (1,):
        z = torch.randn(batch, *y.shape[1:], dtype=y.dtype) if y.ndim else torch.randn((), dtype=y.dtype)
        leaves = [
            torch.randn(batch, *x.shape[1:], dtype=x.dtype) if n in found.batched else x for n, x in enumerate(args)
        ]
        t = time_like(z, by_row)
        expected = fun(t, z, *leaves)
        got = evaluate(found.program, found.inputs(t, z, leaves), found.shared(leaves)).reshape(z.shape)
        torch.testing.assert_close(got, expected.detach(), rtol=1e-11, atol=1e-11)
    return found


def operations(found):
    return [instruction.operation for instruction in found.program.instructions]


w = torch.randn(3, 3, dtype=F64)
v = torch.rand(3, dtype=F64)
A = torch.randn(4, 4, dtype=F64)
mask = torch.tensor([True, False, True])


def filled(t, y):
    dy = torch.empty_like(y)
    dy[:, 0] = y[:, 1]
    dy[:, 1] = -y[:, 0] * t[:, 0]
    dy[:, 2] = 0.5
    return dy


def in_place(t, y):
    out = y.clone()
    out += 1
    out *= t
    out[:, 1:].add_(y[:, :2])
    return out.relu_()


def by_energy(t, y):
    with torch.enable_grad():
        z = y.requires_grad_()
        energy = (torch.tanh(z @ w) ** 2).sum() + (t * z**3).sum()
        return -torch.autograd.grad(energy, z, create_graph=True)[0]


VECTORS = {
    "linear": lambda t, y: y @ w + v,
    "transposed": lambda t, y: (w @ y.T).T,
    "time": lambda t, y: torch.sin(t) * y - t**2,
    "concatenated": lambda t, y: torch.cat([y, t.expand(len(y), 1)], -1) @ torch.ones(4, 3, dtype=F64) * y,
    "stacked": lambda t, y: torch.stack([y[:, 1], -y[:, 0] * y[..., 2], (1 - y[:, 0] ** 2) * y[:, 1]], -1),
    "softmax": lambda t, y: F.softmax(y, -1) + F.log_softmax(y * t, -1),
    "layer_norm": lambda t, y: F.layer_norm(y, (3,), v, v * 2),
    "rms_norm": lambda t, y: F.rms_norm(y, (3,), v),
    "group_norm": lambda t, y: F.group_norm(y.repeat(1, 2), 2)[:, :3],
    "normalize": lambda t, y: F.normalize(y, dim=-1),
    "reductions": lambda t, y: y.mean(-1, keepdim=True) + y.std(-1, keepdim=True) * y + y.var(1, keepdim=True),
    "extremes": lambda t, y: y.amax(1, keepdim=True) - y.amin(1, keepdim=True) + y.logsumexp(-1, keepdim=True) * y,
    "products": lambda t, y: y.prod(1, keepdim=True) + y.cumsum(1) + y.norm(dim=1, keepdim=True),
    "outer": lambda t, y: (y.unsqueeze(-1) @ y.unsqueeze(-2)).sum(-1),
    "einsum": lambda t, y: torch.einsum("bi,ij,bj->bi", y, w, y),
    "shared powers": lambda t, y: v ** y.abs() + y.abs() ** v + y**3 + y**-1 + (y * y) ** 0.5 + y**4 + 2.0**y,
    "choice": lambda t, y: torch.where(y > 0, y, t * y**2).masked_fill(mask, 0.5),
    "logic": lambda t, y: torch.where((y > 0) & ~(y > 1) | (y < -1), y, 0.0) + (y > 0.5).to(y.dtype),
    "clamps": lambda t, y: y.clamp(-0.5, 0.5) + y.clamp_min(0.1) + y.clamp(max=v) + F.hardtanh(y) + F.relu6(y),
    "extrema": lambda t, y: torch.maximum(y, t) + torch.minimum(y, v) + y.max() * 0 if False else torch.maximum(y, t),
    "moves": lambda t, y: y.flip(1) + y.roll(1, -1) + y[:, [2, 0, 1]] + y.index_select(1, torch.tensor([0, 0, 1])),
    "chunks": lambda t, y: torch.cat(y.chunk(3, -1)[::-1], -1) + torch.cat(y.split([1, 2], 1)[::-1], 1),
    "padded": lambda t, y: F.pad(y, (1, 1))[:, 2:] + F.pad(y.unsqueeze(1), (1, 1), mode="circular")[:, 0, :3],
    "diffusion": lambda t, y: torch.diff(y, dim=1, prepend=y[:, :1]),
    "arithmetic": lambda t, y: torch.lerp(y, y * t, 0.3) + torch.addcmul(y, y, t, value=2) + torch.rsub(y, 1) - 3 / y,
    "further": lambda t, y: (
        torch.sinh(y) + torch.cosh(y) + torch.tan(y) + torch.exp2(y) + y.expm1() + y.sign() + y.erf()
    ),
    "alpha": lambda t, y: (
        torch.add(y, y * y, alpha=2) - torch.sub(y, t, alpha=3) + torch.addmm(y, y, w, beta=2, alpha=3)
    ),
    "filled": filled,
    "in place": in_place,
    "constant": lambda t, y: torch.zeros_like(y),
    "shared alone": lambda t, y: (torch.tanh(v) * 2).expand_as(y),
    "the state": lambda t, y: y,
    "time alone": lambda t, y: t.expand_as(y),
    "built matrix": lambda t, y: y @ torch.stack([v, v * 2, torch.zeros(3, dtype=F64)]),
    "glu": lambda t, y: F.glu(y.repeat(1, 2), 1),
    "attention": lambda t, y: F.scaled_dot_product_attention(*[y.unsqueeze(-1)] * 3).squeeze(-1),
    "gradient": by_energy,
    "vmap": lambda t, y: torch.func.vmap(lambda z: torch.tanh(w @ z))(y),
    "jacobian": lambda t, y: torch.func.vmap(torch.func.grad(lambda z: (torch.tanh(w @ z) ** 2).sum()))(y),
}


@pytest.mark.parametrize("name", VECTORS)
def test_fields_on_vectors(name):
    assert_same(VECTORS[name], torch.randn(5, 3, dtype=F64))
