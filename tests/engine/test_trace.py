"""A field and its trace are one function, for any number of samples; what no program can do is refused in words."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import thalweg
from thalweg.core.state import layout_of
from thalweg.engine.builder import Untraceable
from thalweg.engine.reference import evaluate, pullback
from thalweg.engine.trace import packed, trace
from thalweg.nn import ConvField, LinearField, MLPField
from workloads import MLP, VanDerPol

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
tall = torch.randn(4, 3, dtype=F64)
mask = torch.tensor([True, False, True])
order = torch.tensor([1])
ordered = torch.ones(3, 3, dtype=torch.bool).tril(-1)  # the first looks at nobody


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


def moved_in_place(t, y):
    out, matrix = y * 1, w * 1
    out.unsqueeze_(1).transpose_(0, 1).squeeze_(0)
    out[:, 0] = t.reshape(-1)
    return out @ matrix.t_()


def by_energy(t, y):
    with torch.enable_grad():
        z = y.requires_grad_()
        energy = (torch.tanh(z @ w) ** 2).sum() + (t * z**3).sum()
        return -torch.autograd.grad(energy, z, create_graph=True)[0]


energy = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

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
    "extrema": lambda t, y: torch.maximum(y, t) + torch.minimum(y, v),
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
    "diagonal": lambda t, y: y @ torch.diag(torch.ones(3, dtype=F64) * 2),
    "in place": in_place,
    "moved in place": moved_in_place,
    "constant": lambda t, y: torch.zeros_like(y),
    "shared alone": lambda t, y: (torch.tanh(v) * 2).expand_as(y),
    "the state": lambda t, y: y,
    "time alone": lambda t, y: t.expand_as(y),
    "built matrix": lambda t, y: y @ torch.stack([v, v * 2, torch.zeros(3, dtype=F64)]),
    "first extremes": lambda t, y: y.max(1, keepdim=True).values * y + t * y.min(1, keepdim=True)[0],
    "angles": lambda t, y: y.atan() + (y / 4).tanh().asin() + (y * t).cos().acos() + y.asinh() + y.tanh().atanh(),
    "distances by products": lambda t, y: (
        torch.cdist(y.unsqueeze(-1), y.unsqueeze(-1), compute_mode="use_mm_for_euclid_dist") ** 2
    ).sum(-1),
    "lengths": lambda t, y: torch.hypot(y, t) + y.cumprod(1) + torch.sinc(y) + torch.xlogy(y, 2.0),
    "to places": lambda t, y: y.index_add(1, torch.tensor([2, 0, 2]), y * t).scatter(1, order.expand(len(y), 1), 0.0),
    "solved": lambda t, y: torch.linalg.solve(torch.diag_embed(y * y + 1) + y.unsqueeze(-1) * v, y),
    "glu": lambda t, y: F.glu(y.repeat(1, 2), 1),
    "attention": lambda t, y: F.scaled_dot_product_attention(*[y.unsqueeze(-1)] * 3).squeeze(-1),
    "attention with a mask": lambda t, y: F.scaled_dot_product_attention(
        *[y.unsqueeze(-1)] * 3, attn_mask=ordered
    ).squeeze(-1),
    "a filled column": lambda t, y: y * torch.zeros(3, 1, dtype=F64).masked_fill_(mask.view(3, 1), 2.0).squeeze(1),
    "gradient": by_energy,
    "squeezed": lambda t, y: y.unsqueeze(1).sin().squeeze_(1).unsqueeze_(-1).transpose_(1, 2)[:, 0] * y,
    "energy": lambda t, y: torch.func.vmap(torch.func.grad(lambda z: energy(z).squeeze(-1)))(y),
    "vmap": lambda t, y: torch.func.vmap(lambda z: torch.tanh(w @ z))(y),
    "vmap from the right": lambda t, y: torch.func.vmap(lambda z: torch.tanh(z @ w))(y),
    "jvp": lambda t, y: torch.func.jvp(lambda z: torch.cat([z, t.expand(len(z), 1)], 1).sin() @ tall, (y,), (y,))[1],
    "jacobian": lambda t, y: torch.func.vmap(torch.func.grad(lambda z: (torch.tanh(w @ z) ** 2).sum()))(y),
}
if torch.__version__ >= "2.13":  # before, it compares numbers on the way, which no program can
    VECTORS["quantile"] = lambda t, y: y - y.quantile(0.3, -1, keepdim=True)


@pytest.mark.parametrize("name", VECTORS)
def test_fields_on_vectors(name):
    assert_same(VECTORS[name], torch.randn(5, 3, dtype=F64))


@pytest.mark.parametrize("name", sorted(VECTORS.keys() - {"filled"}))  # which asks for a time with dimensions
def test_fields_on_vectors_in_joint(name):
    """Where no row looks at another, each is a sample in joint too."""
    assert_same(VECTORS[name], torch.randn(5, 3, dtype=F64), by_row=False)


TENSORS = {
    "from the left": (lambda t, y: A @ y, (4, 3)),
    "from both sides": (lambda t, y: A @ y @ w - t * y, (4, 3)),
    "squared": (lambda t, y: y @ y, (3, 3)),
    "einsum": (lambda t, y: torch.einsum("ij,bjk->bik", A, y), (4, 3)),
    "heads": (lambda t, y: torch.einsum("hij,bhj->bhi", torch.stack([w, w * 2, w, w.T]), y), (4, 3)),
    "numbers": (lambda t, y: -y * t, ()),
    "heat": (lambda t, y: y.roll(1, -1) + y.roll(-1, -1) - 2 * y, (8,)),
    "distances": (lambda t, y: torch.cdist(y, y) @ y + torch.cdist(y, A[:3, :2], p=1)[..., :2], (4, 2)),
    "cross": (lambda t, y: torch.linalg.cross(y, v.expand_as(y)), (3,)),
}
MODULES = {
    "linear": (nn.Linear(3, 3), (4, 3)),
    "flattened": (nn.Sequential(nn.Flatten(1), nn.Linear(12, 12), nn.Unflatten(1, (4, 3))), (4, 3)),
    "layer_norm": (nn.LayerNorm([4, 3]), (4, 3)),
    "batch_norm": (nn.BatchNorm1d(4).eval(), (4, 3)),
    "group_norm": (nn.GroupNorm(2, 4), (4, 3)),
    "instance_norm": (nn.InstanceNorm1d(4, affine=True), (4, 3)),
    "prelu": (nn.PReLU(4), (4, 3)),
    "transformer": (nn.TransformerEncoderLayer(3, 1, 8, dropout=0.1, batch_first=True).eval(), (4, 3)),
    "gru": (nn.GRUCell(3, 3), (3,)),
    "bilinear": (nn.Bilinear(3, 3, 3), (3,)),
    "convolutions": (
        nn.Sequential(nn.Conv1d(4, 2, 3, padding=1), nn.Tanh(), nn.ConvTranspose1d(2, 4, 3, padding=1)),
        (4, 3),
    ),
}


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_modules(name, by_row):
    module, shape = MODULES[name]
    given = (lambda t, y: module(y, y)) if name in ("gru", "bilinear") else lambda t, y: module(y)
    module.double()
    assert_same(given, torch.randn(5, *shape, dtype=F64), by_row=by_row)


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("name", TENSORS)
def test_fields_on_other_shapes(name, by_row):
    fun, shape = TENSORS[name]
    assert_same(fun, torch.randn(5, *shape, dtype=F64), by_row=by_row, rows=by_row or bool(shape))


def assigned(t, y):
    dy = torch.zeros(3, dtype=F64)
    dy[0], dy[1] = y[1], -y[0] * t
    return dy


def built(t, y):
    matrix = torch.zeros(3, 3, dtype=F64)
    matrix[0, 1], matrix[1, 0] = v[0], -v[1]
    return matrix @ y


WHOLE = {
    "lorenz": lambda t, y: torch.stack([10 * (y[1] - y[0]), y[0] * (28 - y[2]) - y[1], y[0] * y[1] - y[2] * 8 / 3]),
    "matrix": lambda t, y: w @ y + t,
    "constant matrix": lambda t, y: torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 2]], dtype=F64) @ y,
    "assigned": assigned,
    "built": built,
    "dot": lambda t, y: y * torch.dot(y, v) + torch.outer(y, y).sum(0) + y.norm() + y.max(),
    "ranges": lambda t, y: y * torch.arange(3) + torch.linspace(0, 1, 3, dtype=F64),
    "identity": lambda t, y: (torch.eye(3, dtype=F64) * t) @ y,
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_state_without_a_batch_is_one_sample(name):
    assert_same(WHOLE[name], torch.randn(3, dtype=F64), by_row=False, rows=False)


def test_rows_that_talk_to_each_other_are_one_sample_in_joint():
    assert_same(lambda t, y: y - y.mean(0), torch.randn(5, 3, dtype=F64), by_row=False, rows=False)
    assert_same(lambda t, y: torch.cos(y) * t, torch.randn((), dtype=F64), by_row=False, rows=False)


ACTIVATIONS = {
    "elu": nn.ELU(0.7),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU("tanh"),
    "leaky_relu": nn.LeakyReLU(),
    "relu": nn.ReLU(inplace=True),
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(2),
    "tanh": nn.Tanh(),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_one_instruction(name):
    assert operations(assert_same(lambda t, y: ACTIVATIONS[name](y * 2), torch.randn(5, 3, dtype=F64))) == ["mul", name]


KINKED = [
    *(
        nn.Hardtanh(),
        nn.ReLU6(),
        nn.Hardswish(),
        nn.Hardshrink(),
        nn.Softshrink(),
        nn.LogSigmoid(),
        nn.SELU(),
        nn.CELU(),
    ),
    *(nn.Mish(), nn.Softsign(), nn.Tanhshrink(), nn.Threshold(1.0, 2.0), nn.PReLU(), nn.Softmin(-1), nn.LeakyReLU()),
    *(nn.ELU(), nn.ReLU(), nn.LayerNorm(13), nn.RMSNorm(13)),
]


@pytest.mark.parametrize("module", KINKED, ids=lambda module: type(module).__name__)
def test_derivatives_of_activations_at_kinks_too(module):
    module, y = module.double(), torch.tensor([*range(-6, 7)], dtype=F64).expand(5, 13) / 2
    assert_derivatives(lambda t, z: module(z), y)


def assert_derivatives(fun, y, args=(), parameters=()):
    """The program's own pullback, to the state, the arguments and the parameters, is autograd's of the field."""
    found = trace(fun, time_like(y, True), y, args, by_row=True)
    leaves = [x.detach().clone().requires_grad_() for x in (time_like(y, True), y, *args)]
    out = fun(leaves[0], leaves[1], *leaves[2:])
    cotangent = torch.randn_like(out)
    expected = torch.autograd.grad(out, [*leaves, *parameters], cotangent, allow_unused=True, materialize_grads=True)
    shared = found.shared(leaves[2:])
    with torch.no_grad():
        given, to_shared = pullback(found.program, found.inputs(*leaves[:2], leaves[2:]), shared, cotangent.flatten(1))
    own = [None, None, *(given[2 + found.batched.index(n)] if n in found.batched else None for n in range(len(args)))]
    own[:2] = given[:2]
    roots = [(x, g) for x, g in zip(shared, to_shared, strict=True) if x.requires_grad]
    back = (
        torch.autograd.grad(
            [x for x, _ in roots],
            [*leaves, *parameters],
            [g for _, g in roots],
            allow_unused=True,
            materialize_grads=True,
        )
        if roots
        else [torch.zeros_like(x) for x in (*leaves, *parameters)]
    )
    for n, (theirs, through) in enumerate(zip(expected, back, strict=True)):
        direct = own[n].reshape(theirs.shape) if n < len(own) and own[n] is not None else 0
        torch.testing.assert_close(through + direct, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", sorted(VECTORS.keys() - {"constant", "shared alone", "the state", "time alone"}))
def test_derivatives_of_fields(name):
    assert_derivatives(VECTORS[name], torch.rand(5, 3, dtype=F64) + 0.1)


# parameters


class Decorated(nn.Module):
    """Weights as people have them: tied, transposed, with a norm of their own."""

    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
        self.second = nn.Linear(4, 3, bias=False)
        self.third = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.register_buffer("offset", torch.rand(3))

    def forward(self, t, y):
        z = torch.tanh(self.first(y))
        z = self.second(z) + torch.sigmoid(z) @ (self.second.weight.T * self.scale.exp())
        return self.third(z) * (1 + self.offset).log() + t


def test_gradients_reach_parameters_through_what_is_computed_of_them():
    module = Decorated().double().eval()
    y = torch.randn(5, 3, dtype=F64)
    found = assert_same(module, y)
    assert set(operations(found)) == {"linear", "tanh", "sigmoid", "add", "mul"}
    assert_derivatives(module, y, parameters=list(module.parameters()))


def test_a_plain_parameter_is_handed_over_itself():
    module = nn.Linear(3, 3).double()
    shared = trace(lambda t, y: module(y), *two(), by_row=True).shared(())
    assert shared[0] is module.weight
    assert shared[1] is module.bias


def two():
    y = torch.randn(5, 3, dtype=F64)
    return time_like(y, True), y


def test_what_is_written_into_parameters_later_is_followed():
    module = Decorated().double().eval()
    t, y = two()
    found = trace(module, t, y, by_row=True)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
        module.offset.add_(1)
    got = evaluate(found.program, found.inputs(t, y, ()), found.shared(()))
    torch.testing.assert_close(got, module(t, y))


def test_indices_are_part_of_the_program_until_they_are_written_into():
    order = torch.tensor([2, 0, 1])
    found = assert_same(lambda t, y: y[:, order], torch.randn(5, 3, dtype=F64))
    assert found.holds()
    order.copy_(torch.tensor([0, 1, 2]))
    assert not found.holds()


# arguments


def test_arguments_with_a_row_for_each_sample_and_others():
    y = torch.randn(5, 3, dtype=F64)
    args = (torch.rand(5, 3, dtype=F64), torch.rand(3, 3, dtype=F64), torch.rand(5, dtype=F64))

    def fun(t, y, rates, matrix, scale):
        return rates * (y @ matrix) * scale.unsqueeze(-1) + 2

    assert assert_same(fun, y, args).batched == (0, 2)
    assert_derivatives(fun, y, args)


def test_an_argument_that_only_happens_to_have_as_many_rows_is_shared():
    y, matrix = torch.randn(3, 3, dtype=F64), torch.rand(3, 3, dtype=F64)
    fun = lambda t, y, matrix: y @ matrix  # noqa: E731
    assert assert_same(fun, y, (matrix,)).batched == ()
    assert_derivatives(fun, y, (matrix,))


def test_arguments_that_are_no_tensors():
    options = {"rate": torch.tensor(2.0), "power": 3}
    found = trace(lambda t, y, k: y * k["rate"] ** k["power"], *two(), (options,), by_row=True)
    assert len(found.program.shared) == 1


def test_states_of_any_structure():
    def fun(t, state):
        return {"q": state["p"] * t, "p": -torch.sin(state["q"])[..., :1] * torch.ones(2, dtype=F64)}

    state = {"q": torch.randn(5, 2, dtype=F64), "p": torch.randn(5, 2, dtype=F64)}
    t = torch.full((5, 1), 0.3, dtype=F64)
    for by_row in (True, False):
        found = trace(fun, t if by_row else t[0, 0], state, by_row=by_row)
        assert found.rows
        layout, y = packed(state, by_row=by_row, rows=True)
        got = evaluate(found.program, found.inputs(t if by_row else t[0, 0], y, ()), found.shared(()))
        torch.testing.assert_close(got.reshape(y.shape), layout.pack(fun(t if by_row else t[0, 0], state)))


def test_states_of_several_shapes():
    """The time has the dimensions that all leaves share, or that of the rows alone where they share none."""
    for shapes in (((2, 3), (3, 2)), ((2, 3), (2,))):
        state = [torch.randn(5, *shape, dtype=F64) for shape in shapes]
        shape = (5, 1, 1) if len(shapes[1]) == 2 else (5,)

        def fun(t, state, shape=shape):
            assert t.shape[1:] == shape[1:]
            return [torch.sin(state[1]).flatten(1).repeat(1, 3)[:, :6].view(-1, 2, 3) * t.reshape(-1, 1, 1), -state[1]]

        t = torch.full((5, 1), 0.3, dtype=F64)
        found = trace(fun, t, state, by_row=True)
        layout, y = layout_of(state, by_row=True)
        got = evaluate(found.program, found.inputs(t, y, ()), found.shared(()))
        torch.testing.assert_close(got, layout.pack(fun(t.reshape(shape), state)))


# programs are short


def test_known_fields_have_the_fewest_instructions():
    y = torch.randn(5, 2, dtype=F64)
    found = assert_same(VanDerPol(5), y, (torch.rand(5, dtype=F64),))
    assert operations(found) == ["square", "sub", "mul", "mul", "sub", "gather"]
    found = assert_same(MLP(2, 8, 8, 2, gain=1.0).double(), y)
    assert operations(found) == ["linear", "tanh", "linear", "tanh", "linear"]
    assert found.program.multiplications == 2 * 8 + 8 * 8 + 8 * 2
    assert operations(assert_same(lambda t, y: (y * 1 + 0) / 1 - 0, y)) == []
    assert operations(assert_same(lambda t, y: torch.sin(y) + torch.sin(y) * torch.exp(y * 0 + t)[:, :1], y))[:1] == [
        "sin"
    ]


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("time", ["none", "concat", "gated"])
@pytest.mark.parametrize("kind", [MLPField, LinearField])
def test_fields_of_the_house(kind, time, by_row):
    assert_same(kind(3, time=time).double(), torch.randn(5, 3, dtype=F64), by_row=by_row)


def test_common_subexpressions_are_computed_once_and_constants_not_at_all():
    y = torch.randn(5, 3, dtype=F64)
    found = assert_same(
        lambda t, y: torch.sin(y) * torch.sin(y) + torch.sin(y) * (torch.ones((), dtype=F64) + 2).sqrt(), y
    )
    assert operations(found) == ["sin", "square", "mul", "add"]
    assert operations(assert_same(lambda t, y: (torch.exp(y), -y)[1], y)) == ["neg"]


# refusals


def noisy(t, y):
    return y + torch.rand_like(y)


def branching(t, y):
    return y if y.sum() > 0 else -y


def detached(t, y):
    return y.detach() * 2


class StraightThrough(torch.autograd.Function):
    """A sign that lets gradients pass, of operations without a derivative alone."""

    @staticmethod
    def forward(ctx, x):
        return torch.sign(x)

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent


def without_graph(t, y):
    with torch.no_grad():
        return y * 2


def writing(t, y):
    v.add_(0)
    return y * v


def sized(t, y):
    return y / len(y)


def through_numpy(t, y):
    return torch.as_tensor(y.numpy())


buffers = nn.BatchNorm1d(3).double()


@pytest.mark.parametrize("number", [float, lambda t: complex(t).real])
def test_a_field_that_makes_a_number_of_the_time_is_not_warned_of_gradients_that_nobody_asked_for(number):
    """A warning of PyTorch, which it gives once unless it is told to give it always."""
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            sol = thalweg.solve_ivp(lambda t, y: y * number(t), (0.0, 1.0), torch.ones(2, dtype=F64), rtol=1e-6)
    finally:
        torch.set_warn_always(False)
    assert told == []
    torch.testing.assert_close(sol.ys[-1], torch.full((2,), 0.5, dtype=F64).exp(), rtol=1e-5, atol=0)


REFUSED = {
    "large windows": (lambda t, y: F.conv1d(y.repeat(1, 9000).unsqueeze(1), w[:1, None])[:, 0, :3], "80994 multipl"),
    "random numbers": (noisy, "draws random numbers"),
    "dropout": (lambda t, y: F.dropout(y, 0.5), "draws random numbers"),
    "batch_norm": (
        lambda t, y: F.batch_norm(y, None, None, training=True),
        "mixes samples .batch_norm in training mode",
    ),
    "statistics": (lambda t, y: F.instance_norm(y.unsqueeze(-1).repeat(1, 1, 2), v, v)[..., 0], "running statistics"),
    "running statistics": (lambda t, y: buffers(y), "writes into a tensor that it holds"),
    "mean of the batch": (lambda t, y: y - y.mean(0), "mixes samples"),
    "neighbours": (lambda t, y: y.roll(1, 0), "what belongs to another"),
    "products of samples": (lambda t, y: y @ y.T @ y, "mixes samples"),
    "first sample": (lambda t, y: y + y[:1], "mixes samples"),
    "position": (lambda t, y: y * torch.arange(len(y)).unsqueeze(-1), "treats some samples differently"),
    "branch": (branching, "reads a number out of a tensor"),
    "item": (lambda t, y: y * t[0].item(), "reads a number out of a tensor"),
    "numpy": (through_numpy, "numpy"),
    "size of the batch": (sized, "the number of samples"),
    "detach": (detached, "cuts its own gradient .mul after detach"),
    "detach alone": (lambda t, y: y.detach().flip(1), "cuts its own gradient .detach"),
    "bits": (lambda t, y: y * ~(y > 0).long(), "bits of numbers"),
    "no_grad": (without_graph, "no_grad"),
    "writes": (writing, "writes into a tensor that it holds"),
    "promotes": (lambda t, y: y * torch.ones(3, dtype=torch.complex128), "complex128"),
    "text": (lambda t, y: y * len(f"{y}"), "makes text of a tensor"),
    "rows that it holds": (lambda t, y: y * w.new_ones(5, 1), r"watched, with \d+ rows .* must reach it by args"),
    "half": (lambda t, y: y.half().double(), "float16"),
    "places": (
        lambda t, y: y.gather(1, F.max_pool1d(y, 2, return_indices=True)[1]) * y,
        "where the largest entry of a window lies",
    ),
    "sorts": (lambda t, y: y.repeat(1, 20).sort(1).values[:, ::20], "sorts 60 numbers"),
    "no instruction": (lambda t, y: torch.special.bessel_j0(y), "aten::special_bessel_j0"),
    "rounded with a derivative": (lambda t, y: StraightThrough.apply(y), "derivative of its own"),
    "wrong shape": (lambda t, y: y[:, :1], "shape and dtype of y"),
    "large products": (lambda t, y: (lambda m: (m @ m)[:, 0, :3])(y.repeat(1, 300).view(-1, 30, 30)), "27000 products"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_and_why(name):
    (fun, words), (t, y) = REFUSED[name], two()
    before = torch.get_rng_state(), {k: x.clone() for k, x in buffers.state_dict().items()}
    with pytest.raises(Untraceable, match=words):
        trace(fun, t, y, by_row=True)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(x, buffers.state_dict()[k]) for k, x in before[1].items())


def test_refusals_of_states_and_modules():
    with pytest.raises(Untraceable, match="windows over a sample"):
        trace(ConvField(2, width=64), torch.zeros(3, 1, 1, 1), torch.randn(3, 2, 9, 9), by_row=True)
    for dtype in (torch.complex128, torch.float16):
        with pytest.raises(Untraceable, match="float32 or float64"):
            trace(lambda t, y: y, torch.zeros(3, 1), torch.ones(3, 2, dtype=dtype), by_row=True)
    with pytest.raises(Untraceable, match="float64"):
        trace(lambda t, y: y * v, torch.zeros(3, 1), torch.ones(3, 3), by_row=True)


def test_nothing_is_left_behind():
    """No gradients, flags, attributes or random numbers; a state that asks for a gradient still does."""
    module = Decorated().double().eval()
    t, y = two()
    y.requires_grad_()
    before, state = torch.get_rng_state(), {k: x.clone() for k, x in module.state_dict().items()}
    with torch.no_grad():
        trace(module, t, y, by_row=True)
        trace(by_energy, t, y, by_row=True)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, module.state_dict()[k]) for k, x in state.items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert y.grad is None
    assert y.is_leaf


# any composition


LAYERS = st.sampled_from(
    [
        lambda n: nn.Linear(n, n),
        lambda n: nn.Linear(n, n, bias=False),
        lambda n: nn.Tanh(),
        lambda n: nn.SiLU(),
        lambda n: nn.GELU(),
        lambda n: nn.LayerNorm(n),
        lambda n: nn.Softmax(-1),
        lambda n: nn.Softplus(),
        lambda n: nn.Sequential(nn.Unflatten(-1, (2, n // 2)), nn.Linear(n // 2, n // 2), nn.Flatten(-2)),
        lambda n: nn.PReLU(),
    ]
)
STEPS = st.sampled_from(
    [
        lambda t, y: y.flip(-1),
        lambda t, y: torch.cat([y[..., 2:], y[..., :2]], -1),
        lambda t, y: y * t,
        lambda t, y: y - y.mean(-1, keepdim=True),
        lambda t, y: torch.stack(y.unbind(-1)[::-1], -1),
        lambda t, y: torch.where(y > t, y, 0.1 * y),
        lambda t, y: y + torch.sin(t),
        lambda t, y: y / (1 + y.square().sum(-1, keepdim=True)),
    ]
)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.one_of(LAYERS, STEPS), max_size=6), st.sampled_from([2, 4, 6]), st.integers(1, 7), st.booleans())
def test_compositions(parts, n, batch, by_row):
    layers = [part(n).double() if part.__code__.co_argcount == 1 else part for part in parts]

    def fun(t, y):
        for layer in layers:
            y = layer(y) if isinstance(layer, nn.Module) else layer(t, y)
        return y

    assert_same(fun, torch.randn(batch, n, dtype=F64), by_row=by_row)
