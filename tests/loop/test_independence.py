"""`per_sample`: a row's answer and its cost are those that it has alone, whatever its neighbours."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pairs import solve as solve_by_any
from thalweg import Status, solve_ivp
from thalweg.learn.config import ModelConfig, SolverConfig
from thalweg.learn.model import build_model
from thalweg.methods import methods

F64 = torch.float64
ADAPTIVE = [method for method in methods() if method.adaptive]
COUNTS = ("n_steps", "nfev", "n_accepted")
BOUND = 1e-10


def pushed(t, y):
    """A pendulum that is pushed; its stiffness is the third component, so that rows need very different steps."""
    t = t[..., 0] if t.ndim else t
    x, v, k = y.unbind(-1)
    return torch.stack([v, torch.cos(3 * t) * (1 + x) - 0.25 * v - k * torch.sin(x), torch.zeros_like(k)], -1)


def assert_close(found, expected):
    """To 1e-10 in norm, NaN where NaN."""
    assert torch.equal(found.isnan(), expected.isnan())
    found, expected = found.nan_to_num(), expected.nan_to_num()
    assert (found - expected).norm() <= BOUND * expected.norm()


def assert_alone(solve, rows):
    """That `solve(rows)` says of each row what `solve([row])` does; solve takes a list of row numbers."""
    together = solve(rows)
    for place, row in enumerate(rows):
        alone = solve([row])
        assert_close(together.ys[:, place], alone.ys[:, 0])
        assert together.status[place] == alone.status[0]
        for count in COUNTS:
            assert getattr(together.stats, count)[place] == getattr(alone.stats, count)[0], count


finite = st.floats(-2, 2, allow_subnormal=False)
row = st.tuples(finite, finite, st.floats(0.1, 40), finite, finite)
"""x, v, stiffness, t0, t1 - t0."""


@pytest.mark.parametrize("method", ADAPTIVE, ids=lambda m: m.name)
@settings(deadline=None, max_examples=20)
@given(
    rows=st.lists(row, min_size=1, max_size=5),
    order=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    own_times=st.booleans(),
    outputs=st.none() | st.lists(st.integers(0, 8), max_size=5).map(sorted),
    controller=st.sampled_from(["i", "pi", "pid"]),
)
def test_a_row_among_any_others_is_the_row_alone(method, rows, order, own_times, outputs, controller):
    """Any rows, in any order, some twice; each over its own times, or all over the same; in both directions of time."""
    table = torch.tensor(rows, dtype=F64)
    y0, t0, t1 = table[:, :3], table[:, 3], table[:, 3] + table[:, 4]
    if not own_times:
        t0, t1 = t0[:1].expand(len(rows)), t1[:1].expand(len(rows))
    share = None if outputs is None else torch.tensor(outputs, dtype=F64)[:, None] / 8
    tolerance = 1e-2 if method.order < 4 else 1e-5

    def solve(batch):
        start, end = t0[batch], t1[batch]
        return solve_by_any(
            pushed,
            (start, end),
            y0[batch],
            method.name,
            None if share is None else torch.lerp(start, end, share),
            controller=controller,
            rtol=tolerance,
            atol=tolerance,
            batching="per_sample",
        )

    assert_alone(solve, [i % len(rows) for i in order])


@pytest.mark.parametrize("method", [method.name for method in methods()])
def test_fixed_steps_too(method):
    y0 = torch.tensor([[1.0, 0.0, 3.0], [-1.0, 1.0, 8.0], [0.5, -1.0, 1.0], [2.0, 0.0, 5.0]], dtype=F64)
    t0, t1 = torch.tensor([0.0, 1.0, 0.5, 0.0], dtype=F64), torch.tensor([1.0, -1.0, 0.5, 0.55], dtype=F64)

    def solve(rows):
        return solve_by_any(pushed, (t0[rows], t1[rows]), y0[rows], method, step_size=0.1, batching="per_sample")

    assert_alone(solve, [0, 1, 2, 3])
    assert solve([0, 1, 2, 3]).stats.n_steps.tolist() == [10, 20, 0, 6]


class TestFailedNeighbours:
    """Rows of five kinds, which the second component says: well, soon NaN, towards a pole, too stiff, never finite."""

    KINDS = (Status.SUCCESS, Status.NONFINITE, Status.STEP_UNDERFLOW, Status.MAX_STEPS, Status.NONFINITE)
    STARTS = torch.tensor([[0.3, 0], [1.0, 1], [2.0, 2], [1.0, 3], [-1.0, 4], [-0.7, 0], [1.2, 0]], dtype=F64)
    WELL = (0, 5, 6)

    @staticmethod
    def field(t, y, rate):
        t = t.expand_as(y)[:, :1]
        z, kind = y[:, :1], y[:, 1:]
        slope = torch.sin(rate * z + t)
        others = (
            torch.where(t > 0.5, torch.nan, rate * z),
            torch.exp(rate * z * (kind == 2)),
            -1e6 * (z - torch.cos(rate * t)),
            torch.sqrt(torch.where(kind == 4, rate * z, 1.0)),
        )
        for number, other in enumerate(others, start=1):
            slope = torch.where(kind == number, other, slope)
        return torch.cat([slope, torch.zeros_like(kind)], 1)

    def solve(self, rows, *, gradient="checkpointed", rate=None, y0=None, t_eval=(0.1, 0.3, 0.7, 1.0)):
        return solve_ivp(
            self.field,
            (0.0, 1.0),
            (self.STARTS if y0 is None else y0)[rows],
            "tsit5",
            t_eval,
            args=(torch.tensor(1.0, dtype=F64) if rate is None else rate,),
            rtol=1e-6,
            atol=1e-6,
            max_steps=200,
            batching="per_sample",
            gradient=gradient,
            on_failure="return",
        )

    @settings(deadline=None, max_examples=10)
    @given(rows=st.lists(st.integers(0, 6), min_size=1, max_size=7), outputs=st.sampled_from([None, (0.1, 0.3, 1.0)]))
    def test_values_costs_and_statuses_are_each_rows_own(self, rows, outputs):
        assert_alone(lambda batch: self.solve(batch, t_eval=outputs), rows)
        assert self.solve(rows).status.tolist() == [self.KINDS[int(self.STARTS[row, 1])] for row in rows]

    @pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint", "interpolating", "gauss"])
    def test_gradients_do_not_feel_them(self, gradient):
        """To the starts, and to an argument that all rows share."""

        def gradients(rows):
            rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
            y0 = self.STARTS.clone().requires_grad_()
            sol = self.solve(rows, gradient=gradient, rate=rate, y0=y0)
            to_y0, to_rate = torch.autograd.grad(sol.ys[:, sol.success].square().sum(), [y0, rate])
            return to_y0[list(self.WELL)], to_rate

        for found, expected in zip(gradients(list(range(7))), gradients(list(self.WELL)), strict=True):
            assert_close(found, expected)


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "tsit5"])
@pytest.mark.parametrize("time", ["none", "concat", "gated"])
def test_a_models_answer_does_not_depend_on_the_batch(time, method):
    """Through encoder, flow and decoder."""
    model = build_model(ModelConfig(time=time, width=16), SolverConfig(method=method, t1=5.0), 5, 3, seed=0).double()
    with torch.no_grad():
        for parameter in model.flow.parameters():
            parameter.mul_(6.0)  # so that rows differ in their steps
        x = torch.randn(20, 5, dtype=F64) * torch.logspace(-2, 1, 20, dtype=F64)[:, None]
        together = model(x)
        steps = model.flow.stats.n_steps
        assert len(set(steps.tolist())) > 1
        order = torch.randperm(20)
        assert_close(model(x[order]), together[order])
        for row in range(20):
            assert_close(model(x[row : row + 1]), together[row : row + 1])
            assert model.flow.stats.n_steps.item() == steps[row]


@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint", "interpolating", "gauss"])
def test_each_rows_gradient_is_its_own(gradient):
    """Also where rows take very different numbers of steps, between outputs too."""

    def gradients(rows):
        y0 = torch.linspace(0.5, 2, 4, dtype=F64).unsqueeze(1)[rows].requires_grad_()
        rate = torch.tensor([1.0, 5.0, 20.0, 60.0], dtype=F64).unsqueeze(1)[rows]
        sol = solve_ivp(
            lambda t, y, rate: torch.sin(rate * (y + t)), (0, 2), y0, "tsit5", (0.5, 1.0, 2.0), args=(rate,),
            rtol=1e-6, atol=1e-6, batching="per_sample", gradient=gradient,
        )  # fmt: skip
        return torch.autograd.grad(sol.ys.square().sum(), y0)[0]

    together = gradients([0, 1, 2, 3])
    for row in range(4):
        assert_close(together[row], gradients([row])[0])


@pytest.mark.parametrize("method", ["kvaerno3", "radau5"])
def test_a_step_whose_equations_have_no_solution_is_told_and_counted_alike_with_gradients(method):
    """A slope that jumps back over the state of the first row, whose steps may not be small enough for it.

    So that its NaN reaches no gradient the step is taken again without it: that is not what failed, nor what it took.
    """
    k = torch.tensor([[1e6], [0.0], [0.0]], dtype=F64)

    def field(t, y, k):
        return -k * torch.sign(y - 0.2) * (y - 0.2).abs().sqrt() - y.sin() * (1 + t)

    def solve(rows, **options):
        y0 = torch.tensor([[1.0], [0.3], [2.0]], dtype=F64)[rows].requires_grad_()
        return solve_ivp(
            field, (0, 1), y0, method, args=(k[rows],), batching="per_sample", min_step=1e-3, rtol=1e-5, atol=1e-8,
            first_step=0.5, on_failure="return", **options,
        )  # fmt: skip

    assert_alone(lambda rows: solve(rows, gradient="direct"), [0, 1, 2])
    with torch.no_grad():
        expected = solve([0, 1, 2]).status
    assert expected.tolist() == [Status.NOT_CONVERGED, Status.SUCCESS, Status.SUCCESS]
    for gradient in ("direct", "checkpointed", "adjoint"):
        assert torch.equal(solve([0, 1, 2], gradient=gradient).status, expected)
