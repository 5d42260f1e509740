"""The engine and the eager loop take the same steps, to the same outputs and gradients, whatever they are asked."""

import functools
import math
import os
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from compositions import BLOCKS, KINKED, Composed
from thalweg import PID, Checkpointed, solve_ivp
from thalweg.engine.program import OPERATIONS
from thalweg.engine.trace import trace
from thalweg.methods import get_method, methods

pytest.importorskip("thalweg.core._native", reason="the native engine was not built")

F32, F64 = torch.float32, torch.float64
# Euler's method is left to PyTorch
EXPLICIT = [method.name for method in methods() if method.kind == "explicit" and method.name != "euler"]
ADAPTIVE = [name for name in EXPLICIT if get_method(name).adaptive]
TIMES = ("t0", "t1", "t_eval")
MANY = 64 * os.cpu_count()  # float64: two wide tiles for each core


@dataclass
class Case:
    """A solve, and all that gradients of it are wanted to; tensors are made anew for each run."""

    chains: list
    features: int = 3
    rows: int = 5
    dtype: torch.dtype = F64
    batching: str = "per_sample"
    method: str = "tsit5"
    span: tuple = (0.0, 1.0)
    spread: bool = False  # each row's own t_span
    t_eval: str | None = None
    options: dict = field(default_factory=dict)
    seed: int = 0
    scale: str = "own"  # or "shared"
    damped: bool = True

    def tensors(self):
        """The field and the sources of gradients."""
        torch.manual_seed(self.seed)
        rows, features = self.rows, self.features
        module = Composed(self.chains, features, self.damped)
        sources = {
            "y0": torch.randn(rows, features),
            "scale": 0.5 * torch.randn(rows if self.scale == "own" else 1, features),
            "mix": torch.randn(features, features) / math.sqrt(features),
        }
        sources = {name: x.to(self.dtype) for name, x in sources.items()}
        t0, t1 = (torch.tensor(t, dtype=F64) for t in self.span)
        if self.spread:
            t1 = t0 + (t1 - t0) * (0.2 + torch.rand(rows, dtype=F64))
            t1[-1] = t0  # one that has nothing to do
        sources |= {"t0": t0, "t1": t1}
        if self.t_eval is not None:
            parts = torch.tensor([0.0, 0.0, 0.11, 0.3, 0.31, 0.75, 1.0], dtype=F64)
            if self.t_eval != "common":
                parts = torch.rand(5, rows, dtype=F64).sort(0).values
                parts[-1, ::2] = 1
                if self.t_eval == "ragged":
                    parts[torch.arange(5)[:, None] > torch.randint(-1, 5, (rows,))] = math.nan
            elif self.spread:
                parts = parts[:, None]
            sources["t_eval"] = torch.where(parts == 1, t1, t0 + parts * (t1 - t0))
        for name, x in sources.items():
            sources[name] = x.clone().requires_grad_()
        return module.to(self.dtype), sources

    def solve(self, backend, module, x):
        """The solution."""
        return solve_ivp(
            module, (x["t0"], x["t1"]), x["y0"], self.method, x.get("t_eval"), args=(x["scale"], x["mix"]),
            batching=self.batching, backend=backend, on_failure="return", **self.options,
        )  # fmt: skip

    def run(self, backend, timed=True):
        """The solution, and the gradient of a sum of its outputs to each source and parameter; perhaps not to times."""
        module, x = self.tensors()
        if not timed:
            x |= {name: x[name].detach() for name in TIMES if name in x}
        sol = self.solve(backend, module, x)
        cotangent = torch.randn(sol.ys.shape, generator=torch.Generator().manual_seed(1)).to(self.dtype)
        loss = (sol.ys.nan_to_num() * cotangent).sum()
        wanted = {name: z for name, z in [*x.items(), *module.named_parameters()] if z.requires_grad}
        gradients = torch.autograd.grad(loss, [*wanted.values()], allow_unused=True, materialize_grads=True)
        return sol, dict(zip(wanted, gradients, strict=True))


def exactness(case):
    """How near both come in float64: to rounding, where their steps are equal.

    The error that methods of high orders estimate may be little but rounding, and then their steps differ a little.
    """
    noisy = "step_size" not in case.options and get_method(case.method).order >= 7
    return 1e-10 + 0.02 * case.options.get("rtol", 1e-3) * noisy


def assert_agree(case, tolerance=None):
    """What both backends make of a case; with float64 steps too."""
    tolerance = tolerance or exactness(case)
    theirs, expected = case.run("eager")
    ours, found = case.run("native")
    assert (ours.stats.backend, theirs.stats.backend) == ("native", "eager")
    if case.dtype == F64:
        for name in ("n_steps", "n_accepted", "nfev"):
            assert torch.equal(*(torch.as_tensor(getattr(sol.stats, name)) for sol in (ours, theirs))), name
    assert torch.equal(torch.as_tensor(ours.status), torch.as_tensor(theirs.status))
    assert ours.message == theirs.message
    with torch.no_grad():  # where nothing is recorded, to the last bit the same
        assert torch.equal(case.solve("native", *case.tensors()).ys.nan_to_num(), ours.ys.nan_to_num())
    _, untimed = case.run("native", timed=False)  # so are gradients, where those to times are not wanted
    assert {*found} - {*untimed} <= {*TIMES}
    for name, gradient in untimed.items():
        assert torch.equal(gradient.nan_to_num(), found[name].nan_to_num()), name
    assert torch.equal(ours.ts.isnan(), theirs.ts.isnan())
    size = 1 + theirs.ys.detach().nan_to_num().abs().max().item()
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=tolerance, atol=tolerance * size, equal_nan=True)
    for name, gradient in expected.items():
        # the gradient to a time is a sum of what may cancel: the slope times the cotangents of all outputs
        parts = ours.ys.numel() * 4 if name in TIMES else 0
        size = 1 + gradient.abs().max().item() + math.sqrt(parts)
        torch.testing.assert_close(
            found[name], gradient, rtol=tolerance, atol=tolerance * size, msg=lambda text, name=name: f"{name}: {text}"
        )


@st.composite
def cases(draw, dtype=F64):
    """Anything that the engine takes."""
    adaptive = draw(st.booleans())
    method = draw(st.sampled_from(ADAPTIVE if adaptive else EXPLICIT))
    rtol = 10.0 ** -draw(st.integers(2, 4 if dtype == F32 else min(8, 2 + get_method(method).order)))
    options = {"rtol": rtol, "atol": rtol / 10} if adaptive else {"step_size": draw(st.sampled_from([0.3, 0.25]))}
    if adaptive:
        some = {
            "controller": st.sampled_from(["i", "pi", "pid", PID(0.1, 0.5, 0.1, safety=0.8, factor_min=0.5)]),
            "first_step": st.sampled_from([0.01, 0.5, 3.0]),
            "max_step": st.sampled_from([0.2, 5.0]),
            "min_step": st.sampled_from([1e-3, 0.1]),
        }
        for name, values in some.items():
            if draw(st.integers(0, 2)) == 0:
                options[name] = draw(values)
    if draw(st.booleans()):
        options["gradient"] = Checkpointed(memory_limit=draw(st.sampled_from([0, 3000])))
    batching = draw(st.sampled_from(["joint", "per_sample"]))
    by_row = batching == "per_sample"
    # a kink turns a step that differs by little into one that differs by much
    blocks = [name for name in BLOCKS if not (adaptive and get_method(method).order >= 7 and name in KINKED)]
    return Case(
        chains=draw(st.lists(st.lists(st.sampled_from(blocks), min_size=1, max_size=4), min_size=1, max_size=3)),
        features=draw(st.sampled_from([1, 2, 3, 5, 17])),
        rows=draw(st.sampled_from([1, 2, 3, 9, 34])),
        dtype=dtype,
        batching=batching,
        method=method,
        span=draw(st.sampled_from([(0.0, 1.0), (0.5, -0.75), (-2.0, -1.25)])),
        spread=by_row and draw(st.booleans()),
        t_eval=draw(st.sampled_from([None, "common", *(["each", "ragged"] if by_row else [])])),
        options=options,
        seed=draw(st.integers(0, 2**16)),
        scale=draw(st.sampled_from(["own", "shared"])),
        damped=draw(st.booleans()),
    )


many = functools.partial(
    settings, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@many(max_examples=100)
@given(cases())
def test_steps_outputs_and_gradients_are_those_of_the_eager_loop(case):
    assert_agree(case)


PRODUCTS = {"linear", "twice"}


@many(max_examples=25)
@given(cases(), st.sampled_from([MANY, MANY + 35]))
def test_light_fields_of_many_samples(case, rows):
    """Those without a product of matrices, which are carried by tiles of more samples."""
    chains = [[name for name in chain if name not in PRODUCTS] or ["tanh"] for chain in case.chains]
    assert_agree(replace(case, chains=chains, rows=rows, features=min(case.features, 3), batching="per_sample"))


@many(max_examples=40)
@given(cases(F32))
def test_in_single_precision_within_what_it_and_the_tolerance_allow(case):
    """An error near what is allowed may be judged otherwise, after which steps differ: asked where that is little."""
    tolerance = 1e-3 if "step_size" in case.options else 2e-3 + 30 * case.options["rtol"]
    _, single = case.run("eager")
    _, double = replace(case, dtype=F64).run("eager")
    for name, gradient in double.items():
        size = 1 + gradient.abs().max().item()
        assume(torch.allclose(single[name].double(), gradient, rtol=tolerance, atol=tolerance * size))
    assert_agree(case, tolerance)


@pytest.mark.parametrize("name", BLOCKS)
def test_each_block_alone(name):
    assert_agree(Case([[name]], method="bosh3", t_eval="common", seed=3))
    assert_agree(Case([[name, "tanh"]], batching="joint", method="rk4", options={"step_size": 0.4}))


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_the_derivative_of_the_last_operation_may_read_the_slope_itself(batching):
    assert_agree(Case([["linear"]], damped=False, batching=batching))


GATHERED = {
    "each once": lambda x, v, m: torch.stack([v, (1 - x * x) * v - x], 1),
    "one twice": lambda x, v, m: torch.cat([torch.sin(x * v)[:, None]] * 2, 1),
    "one that is read later": lambda x, v, m: torch.stack([torch.cos(x * v), torch.cos(x * v) * v], 1),
    "whose derivative reads it": lambda x, v, m: torch.stack([torch.tanh(x), torch.exp(-v * v)], 1),
    "parts in another order": lambda x, v, m: torch.cat([m[:, 1:], m[:, :1]], 1),
    "a part and another": lambda x, v, m: torch.cat([m[:, 1:], (x + v)[:, None]], 1),
    "a constant": lambda x, v, m: torch.stack([v - x, torch.full_like(x, 0.3)], 1),
}


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("name", GATHERED)
def test_a_slope_may_be_put_together_from_results(name, batching):
    """These are written to their rows of it at once, where nothing else reads them."""
    y0, mix = torch.randn(21, 2, dtype=F64, requires_grad=True), torch.randn(2, 2, dtype=F64, requires_grad=True)
    found = []
    for backend in ("native", "eager"):
        options = {"batching": batching, "backend": backend, "rtol": 1e-6, "atol": 1e-6}
        field = lambda t, y: GATHERED[name](*y.unbind(1), 0.5 * y @ mix)  # noqa: E731
        ys = solve_ivp(field, (0.0, 1.0), y0, t_eval=torch.tensor([0.3, 1.0]), **options).ys
        found.append([ys, *torch.autograd.grad(ys.sin().sum(), [y0, mix], materialize_grads=True, allow_unused=True)])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", EXPLICIT)
def test_each_method(name):
    """With outputs inside steps and without."""
    for t_eval in (None, "each"):
        options = {"rtol": 1e-5} if name in ADAPTIVE else {"step_size": 0.3}
        assert_agree(Case([["linear", "time"], ["own"]], method=name, t_eval=t_eval, spread=True, options=options))


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("name", ["tsit5", "dopri8", "rosenbrock23"])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_states_near_the_smallest_numbers(name, batching, dtype):
    """One over what their errors may be is infinite."""
    y0 = torch.tensor([[4.0], [8.0]], dtype=dtype) * torch.finfo(dtype).tiny * 2**13
    found = [
        solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, name, rtol=1e-5, atol=0.0, batching=batching, backend=backend)
        for backend in ("native", "eager")
    ]
    torch.testing.assert_close(*(sol.ys[-1] / y0 for sol in found), rtol=1e-4, atol=0)


def test_the_blocks_use_every_instruction():
    used = set()
    for name in BLOCKS:
        module, x = Case([[name]]).tensors()
        args = (x["scale"].detach(), x["mix"].detach())
        found = trace(module, torch.zeros(5, 1, dtype=F64), x["y0"].detach(), args, by_row=True)
        used |= {instruction.operation for instruction in found.program.instructions}
    assert used == OPERATIONS.keys()


@pytest.mark.parametrize("method", ["tsit5", "rosenbrock23"])
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("block", BLOCKS)
def test_no_bit_of_a_sample_hangs_on_its_place(block, dtype, method):
    """Alone, in each lane of a tile, and in tiles of each width, its answer and its gradients are the same."""
    torch.manual_seed(3)
    module, recorded = Composed([[block]], 3).to(dtype), method == "tsit5"
    y0, own, mix = (
        torch.randn(1, 3, dtype=dtype),
        torch.randn(1, 3, dtype=dtype) / 2,
        torch.randn(3, 3, dtype=dtype) / 2,
    )
    expected = None
    for rows in (1, 20, 70, 2 * MANY):
        sources = [x.repeat(rows, 1).requires_grad_(recorded) for x in (y0, own)]
        with torch.set_grad_enabled(recorded):
            sol = solve_ivp(
                module, (0.0, 1.0), sources[0], method, args=(sources[1], mix), rtol=1e-5, batching="per_sample",
                backend="native", on_failure="return",
            )  # fmt: skip
        end = sol.ys[-1]
        found = [end.detach()]
        if recorded:
            found += torch.autograd.grad(end.sum(), sources, allow_unused=True, materialize_grads=True)
        expected = expected or [x[:1] for x in found]
        for x, first in zip(found, expected, strict=True):
            torch.testing.assert_close(x, first.expand_as(x), rtol=0, atol=0, equal_nan=True)


SHAPES = [(1, 4, 1000), (1024, 8, 3), (64, 64, 70), (33, 129, 9), (7, 500, 40), (2, 16, 10_000)]


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize(("features", "width", "rows"), SHAPES)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_networks_of_every_size(dtype, features, width, rows, batching):
    y0 = torch.randn(rows, features, dtype=dtype)
    net = nn.Sequential(nn.Linear(features, width), nn.Tanh(), nn.Linear(width, features)).to(dtype)
    runs = []
    for backend in ("eager", "native"):
        y = y0.clone().requires_grad_()
        options = {"batching": batching, "backend": backend}
        sol = solve_ivp(lambda t, y: net(y), (0.0, 1.0), y, "bosh3", step_size=0.5, **options)
        loss = sol.ys[-1].square().mean() * features
        runs.append((sol.ys.detach(), *torch.autograd.grad(loss, [y, *net.parameters()])))
    for theirs, ours in zip(*runs, strict=True):
        tolerance = (2e-5 if dtype == F32 else 1e-12) * theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("exponent", [0.0, 1e-60])
def test_a_power_of_nearly_none_has_no_gradient(exponent):
    y0 = torch.full((5, 2), 2.0, requires_grad=True)
    sol = solve_ivp(lambda t, y: y**exponent, (0, 1), y0, batching="per_sample", backend="native")
    sol.ys[-1].sum().backward()
    torch.testing.assert_close(y0.grad, torch.ones(5, 2))
