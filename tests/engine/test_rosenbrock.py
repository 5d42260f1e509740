"""Rosenbrock methods by the engine are those of the eager loop: states, counts and statuses.

y: (B, D). Where a test says nothing of it, each row steps on its own.
"""

import math

import pytest
import torch

import testset
from problems import F64, rober
from thalweg import solve_ivp
from thalweg.engine import native
from thalweg.methods import get_method

pytestmark = pytest.mark.skipif(not native.AVAILABLE, reason="the native engine was not built")

METHODS = ["rosenbrock23", "rodas5p"]
COUNTS = ["nfev", "njev", "nlu", "n_steps", "n_accepted"]
BATCH = 21
"""More rows than the lanes of two tiles, and not a multiple of them."""


def spread(*shape):
    """Numbers between -1 and 1, the same at each call."""
    return torch.sin(3.7 * torch.arange(1, 1 + math.prod(shape), dtype=F64)).reshape(shape)


class Layers(torch.nn.Module):
    """A field of layers, of four rows and the time, which does not vanish in any entry of its Jacobian."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(5, 9, dtype=F64), torch.nn.Linear(9, 4, dtype=F64)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(spread(*parameter.shape))

    def forward(self, t, y):
        return self.outer(torch.tanh(self.inner(torch.cat([y, t.expand(len(y), 1)], 1)))) - 3 * y


def driven(t, y):
    """Linear, stiff, and driven: its derivative by the time moves every stage."""
    matrix = torch.tensor([[-80.0, 30.0, 1.0], [10.0, -50.0, 4.0], [0.0, 2.0, -1.0]], dtype=y.dtype)
    return y @ matrix.T + torch.cat([torch.sin(3 * t), t * t, torch.cos(t)], -1)


def rows_of(name, by=0.05):
    """States near the beginning of a problem of the test set."""
    y0 = testset.problem(name).state()
    return y0 * (1 + by * spread(BATCH, len(y0)))


RATES = torch.tensor([0.04, 3e7, 1e4], dtype=F64) * torch.exp(0.3 * spread(BATCH, 3))
START = torch.tensor([1.0, 0.0, 0.0], dtype=F64).repeat(BATCH, 1)
SOLVES = {  # field, span, y0 and options
    "rober": (rober, (0.0, 1e5), START, {"args": (RATES,), "rtol": 1e-4, "atol": 1e-8}),
    "hires": (testset.problem("hires").fun, (0.0, 321.8122), rows_of("hires"), {"rtol": 1e-3, "atol": 1e-8}),
    "van_der_pol": (testset.problem("van_der_pol").fun, (0.0, 900.0), rows_of("van_der_pol"), {"rtol": 1e-4}),
    "layers": (Layers(), (0.0, 3.0), spread(BATCH, 4), {"rtol": 1e-5}),
    "driven": (driven, (0.5, 4.0), spread(BATCH, 3), {"rtol": 1e-5}),
    "back": (lambda t, y: -driven(-t, y), (-0.5, -4.0), spread(BATCH, 3), {"rtol": 1e-5}),
}


@torch.no_grad()
def both(fun, t_span, y0, method, **options):
    """The solutions of the eager loop and of the engine."""
    given = {"batching": "per_sample", "on_failure": "return", **options}
    eager, engine = (solve_ivp(fun, t_span, y0, method, backend=backend, **given) for backend in ("eager", "native"))
    assert engine.stats.backend == "native"
    return eager, engine


def assert_alike(fun, t_span, y0, method, **options):
    """Equal counts and statuses, and the same states to 10 digits; returns the engine's solution."""
    eager, engine = both(fun, t_span, y0, method, **options)
    for name in COUNTS:
        assert torch.equal(torch.as_tensor(getattr(eager.stats, name)), torch.as_tensor(getattr(engine.stats, name))), (
            name
        )
    assert torch.equal(torch.as_tensor(eager.status), torch.as_tensor(engine.status))
    torch.testing.assert_close(engine.ys, eager.ys, rtol=1e-10, atol=1e-10 * options.get("atol", 1e-6), equal_nan=True)
    return engine


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SOLVES)
def test_each_row_takes_the_steps_of_the_eager_loop(name, method):
    fun, t_span, y0, options = SOLVES[name]
    solution = assert_alike(fun, t_span, y0, method, **options)
    assert bool(solution.success.all())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["rober", "back"])
def test_outputs_inside_steps_are_those_of_the_methods_interpolant(name, method):
    """Where rows have times of their own, too, and where outputs are close together, at the ends, or twice the same."""
    fun, (t0, t1), y0, options = SOLVES[name]
    shares = torch.tensor([0.0, 1e-6, 1e-6, 0.2, 0.2001, 0.7, 1.0], dtype=F64)
    own = shares[:, None] ** (1 + 0.3 * spread(BATCH))
    for t_eval in (t0 + (t1 - t0) * shares, t0 + (t1 - t0) * own):
        assert_alike(fun, (t0, t1), y0, method, t_eval=t_eval, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "options", [{"step_size": 0.05}, {"first_step": 0.3}, {"max_step": 0.1}, {"max_steps": 4}], ids=str
)
def test_sizes_are_chosen_as_the_eager_loop_does(method, options):
    fun, t_span, y0, _ = SOLVES["driven"]
    assert_alike(fun, t_span, y0, method, **options)


@pytest.mark.parametrize("method", METHODS)
def test_rows_step_together_where_they_are_asked_to(method):
    """A step that is rejected is tried again with the Jacobian that it had."""
    fun, t_span, y0, _ = SOLVES["driven"]
    options = {"first_step": 1.0, "batching": "joint", "t_eval": torch.linspace(*t_span, 9, dtype=F64)}
    solution = assert_alike(lambda t, y: fun(t[None, None], y), t_span, y0, method, **options)
    assert solution.stats.n_steps > solution.stats.n_accepted
    assert solution.stats.njev < solution.stats.n_steps


@pytest.mark.parametrize("method", METHODS)
def test_rows_that_talk_to_each_other_are_one_system(method):
    """Diffusion along 40 rows, whose Jacobian is of all of them."""

    def diffusion(t, y):
        return 200 * torch.cat([y[1:2] - y[:1], y[2:] - 2 * y[1:-1] + y[:-2], y[-2:-1] - y[-1:]])

    assert_alike(diffusion, (0.0, 1.0), spread(40, 1), method, batching="joint", rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_system_with_as_many_entries_as_the_engine_takes(method):
    matrix = spread(64, 64) - 9 * torch.eye(64, dtype=F64)
    assert_alike(lambda t, y: torch.tanh(y @ matrix.T), (0.0, 0.4), spread(9, 64), method)


@pytest.mark.parametrize("method", METHODS)
def test_rows_that_fail_leave_their_neighbours_right(method):
    """Rows that have no slope from the start, that come to where there is none, and that run off."""

    def fun(t, y, k):
        return torch.cat([k[:, :1] * y[:, :1] ** 2, -torch.sqrt(k[:, 1:] - t) * y[:, 1:]], 1)

    k = torch.stack([0.1 + 0.05 * spread(BATCH), 5 + spread(BATCH)], 1)
    k[3, 0], k[8, 1], k[12, 0] = math.nan, 1.0, 2.0
    eager, engine = both(fun, (0.0, 2.0), 1 + 0.2 * spread(BATCH, 2), method, args=(k,))
    failed = torch.zeros(BATCH, dtype=torch.bool)
    failed[[3, 8, 12]] = True
    assert torch.equal(engine.success, ~failed)
    assert torch.equal(engine.status, eager.status)
    torch.testing.assert_close(engine.ys, eager.ys, rtol=1e-10, atol=1e-16, equal_nan=True)
    for name in COUNTS:  # a row that runs off has its errors from rounding in the end
        assert torch.equal(getattr(eager.stats, name)[~failed], getattr(engine.stats, name)[~failed]), name


def turning(t, y, k):
    """Turns as fast as k[0] says and grows by k[1]; the matrix of a step is singular where k says so."""
    turn, grow = k[:, :1], k[:, 1:]
    return torch.cat([grow * y[:, :1] + turn * y[:, 1:], turn * y[:, :1]], 1)


def singular(method):
    """A size of step h and a number J with gamma h J = 1, in float64 too."""
    gamma = get_method(method).data.gamma
    return next((h, 1 / (h * gamma)) for h in (1.0, 0.9, 0.8, 0.7) if h * gamma * (1 / (h * gamma)) == 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_singular_matrix_is_a_step_that_is_rejected(method):
    """M = I - gamma h J has rows that are equal but for their sign in some of the systems, which try a smaller step."""
    h, entry = singular(method)
    k = torch.stack([1 + 0.3 * spread(BATCH), torch.zeros(BATCH, dtype=F64)], 1)
    k[[2, 7, 16], 0] = entry
    solution = assert_alike(turning, (0.0, 2.0), 1 + spread(BATCH, 2), method, args=(k,), first_step=h)
    assert bool(solution.success.all())
    assert bool((solution.stats.n_steps > solution.stats.n_accepted)[[2, 7, 16]].all())


@pytest.mark.parametrize("method", METHODS)
def test_each_matrix_has_pivots_of_its_own(method):
    """With 0, or next to it, in the first place of M in some of the systems, elimination without a pivot is far off."""
    h, entry = singular(method)
    k = torch.stack([1 + 0.3 * spread(BATCH), -spread(BATCH).abs()], 1)
    k[[1, 4, 13], 1] = entry
    k[[5, 9], 1] = (1 - 1e-13) * entry
    solution = assert_alike(turning, (0.0, h), 1 + spread(BATCH, 2), method, args=(k,), step_size=h)
    assert bool(solution.ys.isfinite().all())


@pytest.mark.parametrize("method", METHODS)
def test_sums_of_stages_are_exact_to_single_precision(method):
    """Stages of a stiff step are thousands of times what they add up to: sums at single precision would show it."""
    fun, t_span, y0, _ = SOLVES["driven"]
    _, single = both(fun, t_span, y0.float(), method, step_size=0.25)
    double, _ = both(fun, t_span, y0.float().double(), method, step_size=0.25)
    assert single.ys.dtype == torch.float32
    torch.testing.assert_close(single.ys.double(), double.ys, rtol=2.5e-7, atol=2.5e-7)  # 4.3e-7 with such sums


def test_what_the_engine_does_not_do_with_these_methods_is_done_by_pytorch():
    fun, t_span, y0, _ = SOLVES["driven"]

    def solve(backend, y0=y0, fun=fun, method="rodas5p", **options):
        return solve_ivp(fun, t_span, y0, method, batching="per_sample", backend=backend, **options)

    refused = {
        "gradient is that of explicit methods": {"y0": y0.clone().requires_grad_()},
        "without jac or jac_sparsity": {"jac": lambda t, y: torch.zeros(BATCH, 3, 3, dtype=F64)},
        "up to 64 rows, got 65": {"y0": spread(2, 65), "fun": lambda t, y: -y},
        "and 'kvaerno5' is none": {"method": "kvaerno5"},
    }
    for reason, options in refused.items():
        with pytest.raises(ValueError, match=reason):
            solve("native", **options)
    for options in ({"y0": y0.clone().requires_grad_()}, {"jac_sparsity": ("banded", 2, 2)}):
        assert solve("auto", **options).stats.backend == "eager"
    assert solve("auto").stats.backend == "native"


def test_a_solve_without_a_gradient_does_not_choose_for_one_with():
    fun, t_span, y0, _ = SOLVES["driven"]

    def solve(y0):
        return solve_ivp(fun, t_span, y0, "rodas5p", batching="per_sample")

    assert [solve(y0).stats.backend for _ in range(2)] == ["native", "native"]
    start = y0.clone().requires_grad_()
    solution = solve(start)
    assert solution.stats.backend == "eager"
    solution.ys[-1].sum().backward()
    assert start.grad is not None
    with torch.no_grad():
        assert solve(start).stats.backend == "native"
