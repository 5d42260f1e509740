"""The front door: right answers, and clear refusals."""

import copy
import math
import pickle
from itertools import pairwise
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp as scipy_solve_ivp

from pairs import solve
from problems import PROBLEMS
from thalweg import PID, Adjoint, SolveError, Status, solve_ivp
from thalweg.methods import get_method, methods

F64 = torch.float64
ADAPTIVE = [m.name for m in methods() if m.adaptive]
HIGH_ORDER = [m.name for m in methods() if m.adaptive and m.order > 3]
TOLERANCES = {2: (1e-3, 1e-4), 3: (1e-4, 1e-6), 4: (1e-4, 1e-6, 1e-8), 5: (1e-4, 1e-7, 1e-10)}
TOLERANCES |= dict.fromkeys((7, 8, 9), (1e-6, 1e-10))  # what they are for
TOLERANCES |= {12: (1e-4, 1e-7, 1e-10)}  # the order changes
EXPLICIT = ("explicit", "adams")

# Fehlberg's first-order pair estimates h (k_1 - k_3) / 512, so that what it lets pass is as much larger.
UNSEEN = {"fehlberg2": 512}


def tolerances(method):
    """Those at which a method is tried; not the tightest where each step solves equations."""
    wanted = TOLERANCES[method.order]
    return wanted if method.kind in EXPLICIT else wanted[:-1]


def decay(t, y):
    return -y


def outputs():
    """Shares of a span."""
    return torch.linspace(0, 1, 21, dtype=F64)[:, None]


def widened(state):
    """Six numbers: two or three, as often as it takes, which changes no mean over them."""
    return torch.cat([state] * (6 // state.shape[-1]), -1)


def side_by_side(t, y):
    """Each of `PROBLEMS`, in equally many rows."""
    rows = zip(PROBLEMS, y.chunk(len(PROBLEMS)), strict=True)
    return torch.cat([widened(p.fun(t, part[..., : len(p.y0)])) for p, part in rows])


def assert_near_scipy(ys, problem, tolerance, method):
    """Against DOP853: an accumulated error of the size of the tolerance, or of SciPy's own."""
    times = outputs().flatten() * problem.t_span[1]
    exact = problem.reference(times)
    error, theirs = (((y - exact).abs() / (1 + exact.abs())).max() for y in (ys, problem.by_scipy(times, tolerance)))
    most = 120 if get_method(method).kind in EXPLICIT else 300  # estimates made for stiff fields
    unseen = UNSEEN.get(method, 1)
    assert error < max(most * unseen * tolerance, 20 * theirs), f"{problem.name} at {tolerance:.1e}"


class TestAnswers:
    @pytest.mark.parametrize("method", ADAPTIVE)
    def test_agrees_with_scipy_to_the_tolerance(self, method):
        """Every problem at every tolerance, as rows of one batch, and one of them jointly."""
        unseen = UNSEEN.get(method, 1)
        cases = [(p, tol / unseen) for p in PROBLEMS for tol in tolerances(get_method(method))]
        t0, t1 = torch.tensor([p.t_span for p, _ in cases], dtype=F64).unbind(-1)
        rows = torch.tensor([tol for _, tol in cases], dtype=F64)[:, None]
        options = {"batching": "per_sample", "rtol": rows, "atol": rows, "max_steps": 200_000}
        y0 = torch.stack([widened(p.state()) for p, _ in cases])
        sol = solve(side_by_side, (t0, t1), y0, method, t0 + outputs() * (t1 - t0), **options)
        for row, (problem, tolerance) in enumerate(cases):
            assert_near_scipy(sol.ys[:, row, : len(problem.y0)], problem, tolerance, method)
        lorenz = PROBLEMS[1]
        for tolerance in (tol for problem, tol in cases if problem is lorenz):
            options = {"rtol": tolerance, "atol": tolerance, "max_steps": 200_000}
            times = outputs().flatten() * lorenz.t_span[1]
            sol = solve(lorenz.fun, lorenz.t_span, lorenz.state(), method, times, **options)
            assert_near_scipy(sol.ys, lorenz, tolerance, method)

    @pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
    @pytest.mark.parametrize(("method", "peer"), [("dopri5", "RK45"), ("dopri8", "DOP853")])
    @pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
    def test_takes_the_steps_of_scipys_method(self, problem, method, peer, tolerance):
        """As many evaluations, and between steps the same values; what DOP853 adds for dense output too."""

        def fun(t, y):
            return problem.fun(torch.tensor(t, dtype=F64), torch.from_numpy(y)).numpy()

        options = {"rtol": tolerance, "atol": tolerance, "dense_output": True}
        theirs = scipy_solve_ivp(fun, problem.t_span, np.array(problem.y0), peer, **options)
        ours = solve_ivp(problem.fun, problem.t_span, problem.state(), method, controller="i", **options)
        assert ours.stats.nfev == theirs.nfev
        times = torch.linspace(*problem.t_span, 50, dtype=F64)
        torch.testing.assert_close(ours(times), torch.from_numpy(theirs.sol(times.numpy()).T), rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("method", [m.name for m in methods()])
    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_back_in_time_returns_to_the_start(self, method, batching):
        y0 = torch.tensor([[1.0, 0.5]], dtype=F64)

        def field(t, y):
            return torch.sin(y + t)

        size = 0.05
        options = {"batching": batching, "step_size": size, "rtol": 1e-10, "atol": 1e-10}
        there = solve(field, (0.0, 1.0), y0, method, **options).ys[-1]
        back = solve(field, (1.0, 0.0), there, method, **options).ys[-1]
        bound = 3 * size ** min(get_method(method).order, 4)
        torch.testing.assert_close(back, y0, rtol=0, atol=bound)

    @settings(deadline=None, max_examples=40)
    @given(
        t0=st.floats(-5, 5),
        length=st.floats(-3, 3),
        rate=st.floats(-2, 2),
        rows=st.integers(1, 4),
        batching=st.sampled_from(["joint", "per_sample"]),
        method=st.sampled_from(HIGH_ORDER),
    )
    def test_exponentials_anywhere(self, t0, length, rate, rows, batching, method):
        """y' = k y over any span, in either direction, from any start."""
        y0 = torch.linspace(0.5, 2.0, rows, dtype=F64)[:, None]
        sol = solve(lambda t, y: rate * y, (t0, t0 + length), y0, method, batching=batching, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(sol.ys[-1], y0 * math.exp(rate * (t0 + length - t0)), rtol=1e-6, atol=1e-8)

    @settings(deadline=None, max_examples=30)
    @given(
        times=st.lists(st.floats(0, 2), min_size=0, max_size=12).map(sorted),
        batching=st.sampled_from(["joint", "per_sample"]),
        method=st.sampled_from(HIGH_ORDER),
    )
    def test_outputs_at_any_times(self, times, batching, method):
        """Repeated ones, the ends and none at all among them; outputs do not change the steps."""
        y0 = torch.tensor([[1.0], [-2.0]], dtype=F64)
        t_eval = torch.tensor(times, dtype=F64)
        options = {"batching": batching, "rtol": 1e-8, "atol": 1e-10}
        sol = solve(lambda t, y: torch.cos(t) * y, (0.0, 2.0), y0, method, t_eval, **options)
        assert sol.ys.shape == (len(times), 2, 1)
        assert torch.equal(sol.ts if sol.ts.ndim == 1 else sol.ts[:, 0], t_eval)
        torch.testing.assert_close(sol.ys, torch.exp(torch.sin(t_eval))[:, None, None] * y0, rtol=1e-5, atol=1e-7)
        without = solve(lambda t, y: torch.cos(t) * y, (0.0, 2.0), y0, method, **options)
        assert torch.equal(torch.as_tensor(without.stats.n_steps), torch.as_tensor(sol.stats.n_steps))

    def test_without_t_eval_both_ends(self):
        y0 = torch.ones(2, dtype=F64)
        sol = solve_ivp(decay, (0.0, 1.0), y0, rtol=1e-9, atol=1e-9)
        assert sol.ts.tolist() == [0.0, 1.0]
        assert torch.equal(sol.ys[0], y0)
        torch.testing.assert_close(sol.ys[1], y0 / math.e, rtol=1e-8, atol=0)

    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_equal_times_give_y0(self, batching):
        y0 = torch.randn(3, 2)
        sol = solve_ivp(decay, (1.5, 1.5), y0, batching=batching, t_eval=[1.5, 1.5])
        assert torch.equal(sol.ys, torch.stack([y0, y0]))
        assert torch.as_tensor(sol.stats.n_steps).sum() == 0
        assert torch.as_tensor(sol.success).all()

    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    @pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
    def test_empty_states(self, batching, shape):
        y0 = torch.zeros(shape, requires_grad=True)
        sol = solve_ivp(decay, (0.0, 1.0), y0, t_eval=[0.5, 1.0], batching=batching)
        assert sol.ys.shape == (2, *shape)
        sol.ys.sum().backward()
        assert y0.grad.shape == shape

    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
    def test_dtypes_are_kept(self, dtype, batching):
        y0 = torch.tensor([1.0, -2.0], dtype=dtype)
        sol = solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, rtol=1e-5, batching=batching)
        assert sol.ys.dtype == dtype
        torch.testing.assert_close(sol.ys[-1], y0 / math.e, rtol=1e-4, atol=1e-5)

    def test_times_stay_accurate_in_single_precision(self):
        """Late times are not rounded to float32: at 1e5 its spacing is 0.008."""
        seen = []

        def field(t, y):
            seen.append(float(t))
            return -y

        sol = solve_ivp(field, (1e5, 1e5 + 1), torch.ones(1), rtol=1e-5)
        torch.testing.assert_close(sol.ys[-1], torch.ones(1) / math.e, rtol=1e-4, atol=0)

    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_pytrees(self, batching):
        """A state of several tensors is the one tensor of its parts."""
        x, v = torch.randn(3, 2, dtype=F64), torch.randn(3, 1, dtype=F64)

        def parts(t, y):
            return {"x": -y["x"] * y["v"], "v": (y["v"].sin(),)[0] * t}

        def whole(t, y):
            return torch.cat([-y[:, :2] * y[:, 2:], y[:, 2:].sin() * t], 1)

        options = {"batching": batching, "t_eval": [0.3, 1.0]}
        got = solve_ivp(parts, (0.0, 1.0), {"x": x, "v": v}, **options)
        expected = solve_ivp(whole, (0.0, 1.0), torch.cat([x, v], 1), **options)
        torch.testing.assert_close(got.ys["x"], expected.ys[..., :2], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got.ys["v"], expected.ys[..., 2:], rtol=1e-12, atol=1e-12)

    def test_a_tolerance_for_each_component(self):
        """The loose component may err, the tight one may not."""
        y0 = torch.ones(2, dtype=F64)
        sol = solve_ivp(
            lambda t, y: torch.stack([-y[0], -50 * y[1]]), (0.0, 0.2), y0, rtol=1e-12, atol=torch.tensor([1e-10, 1e3])
        )
        assert abs(sol.ys[-1, 0].item() - math.exp(-0.2)) < 1e-8
        tight = solve_ivp(lambda t, y: torch.stack([-y[0], -50 * y[1]]), (0.0, 0.2), y0, rtol=1e-12, atol=1e-10)
        assert sol.stats.n_steps < tight.stats.n_steps

    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_max_step_is_kept(self, batching):
        times = []

        def field(t, y):
            times.append(float(t.max()))
            return torch.zeros_like(y)

        sol = solve_ivp(field, (0.0, 1.0), torch.ones(1, 1), max_step=0.1, batching=batching)
        assert int(torch.as_tensor(sol.stats.n_accepted).max()) >= 10
        assert max(b - a for a, b in pairwise(times)) <= 0.1 + 1e-12

    def test_args_that_are_no_tuple_are_one_argument(self):
        k = torch.tensor(2.0)
        one = solve_ivp(lambda t, y, k: -k * y, (0, 1), torch.ones(1), args=k)
        other = solve_ivp(lambda t, y, k: -k * y, (0, 1), torch.ones(1), args=(k,))
        assert torch.equal(one.ys, other.ys)

    def test_statistics_count_what_happened(self):
        calls = []

        def field(t, y):
            calls.append(t)
            return -y * y

        sol = solve_ivp(field, (0.0, 3.0), torch.ones(2), "dopri5", first_step=3.0, rtol=1e-5)
        assert sol.stats.nfev == len(calls)
        assert sol.stats.n_steps == sol.stats.n_accepted + sol.stats.n_rejected
        assert sol.stats.n_rejected > 0
        assert sol.stats.backend == "eager"

    @pytest.mark.parametrize("backend", ["eager", "native"])
    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_a_first_step_beyond_the_end_is_as_long_as_the_span(self, backend, batching):
        """Its own size would say that a millionth of the span is too small to be tried."""
        given = {"t_span": (2.0, 1.0), "y0": torch.ones(2, 1, dtype=F64), "backend": backend, "batching": batching}
        whole, beyond = (solve_ivp(lambda t, y: 50 * y - t, first_step=size, **given) for size in (1.0, 1e300))
        assert bool(torch.as_tensor(beyond.success).all())
        assert torch.equal(beyond.ys, whole.ys)
        assert bool((torch.as_tensor(beyond.stats.n_rejected) > 0).all())

    def test_statistics_of_the_backward_pass(self):
        calls = []

        def field(t, y):
            calls.append(t)
            return -y * y

        for gradient in ("checkpointed", "adjoint"):
            calls.clear()
            sol = solve_ivp(field, (0.0, 3.0), torch.ones(2, requires_grad=True), gradient=gradient)
            sol.ys[-1].sum().backward()
            assert sol.stats.nfev + sol.stats.nfev_backward == len(calls), gradient


class TestFixedSteps:
    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_the_last_step_is_shorter(self, batching):
        sol = solve_ivp(decay, (0.0, 1.0), torch.ones(1, 1, dtype=F64), "euler", step_size=0.4, batching=batching)
        assert sol.ys[-1].item() == pytest.approx(0.6 * 0.6 * 0.8, rel=1e-14)

    def test_a_step_that_divides_the_span_takes_no_extra_one(self):
        for n in (3, 7, 10, 49, 1000):
            assert solve_ivp(decay, (0.0, 1.0), torch.ones(1), "rk4", step_size=1 / n).stats.n_steps == n

    def test_grows_with_max_steps_alone(self):
        with pytest.raises(SolveError, match="max_steps"):
            solve_ivp(decay, (0.0, 1.0), torch.ones(1), "euler", step_size=1e-3, max_steps=999)


class TestFailures:
    def test_the_step_limit(self):
        with pytest.raises(SolveError, match="raise max_steps") as caught:
            solve_ivp(decay, (0.0, 100.0), torch.ones(1), max_steps=3)
        assert caught.value.solution.status is Status.MAX_STEPS
        assert torch.isnan(caught.value.solution.ys[-1]).all()

    def test_a_pole_says_when_and_what_to_try(self):
        """1 / (1 / y0 - t), which has no end beyond t = 1 / y0; the second row is there at t1."""
        y0 = torch.tensor([[1.0], [0.2], [2.0]], dtype=F64)
        with pytest.raises(SolveError, match=r"at t = 0.99.* may become infinite there \(end t_span before"):
            solve_ivp(lambda t, y: y * y, (0.0, 2.0), y0[0])
        with pytest.raises(SolveError, match=r"at times from 0.49\d* to 0.99\d*: 2 of 3 samples \(rows 0, 2\): "):
            solve_ivp(lambda t, y: y * y, (0.0, 2.0), y0, batching="per_sample")

    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_a_field_that_is_nan_from_the_start(self, batching):
        sol = solve_ivp(lambda t, y: y * math.nan, (0.0, 1.0), torch.ones(2, 1), batching=batching, on_failure="return")
        assert (torch.as_tensor(sol.status) == Status.NONFINITE).all()
        assert "check the field" in sol.message

    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_a_field_that_becomes_nan(self, batching):
        def field(t, y):
            return torch.where(t > 0.5, math.nan, 1.0) * torch.ones_like(y)

        sol = solve_ivp(
            field, (0.0, 1.0), torch.zeros(1, 1, dtype=F64), t_eval=[0.25, 0.75], batching=batching, on_failure="return"
        )
        assert int(sol.status) == Status.NONFINITE
        assert sol.ys[0].item() == pytest.approx(0.25)
        assert math.isnan(sol.ys[1].item())

    def test_fixed_steps_into_nan(self):
        sol = solve_ivp(
            lambda t, y: torch.sqrt(y - 1.0), (0.0, 1.0), torch.zeros(1), "rk4", step_size=0.1, on_failure="return"
        )
        assert sol.status is Status.NONFINITE

    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_a_pole_is_an_underflow_or_not_finite(self, batching):
        sol = solve_ivp(
            lambda t, y: y * y, (0.0, 2.0), torch.ones(1, 1, dtype=F64), batching=batching, on_failure="return"
        )
        assert int(sol.status) in (Status.STEP_UNDERFLOW, Status.NONFINITE)

    def test_a_tolerance_that_the_dtype_cannot_hold(self):
        with pytest.warns(UserWarning, match="float64"):
            solve_ivp(decay, (0.0, 1.0), torch.ones(1), rtol=1e-12)

    def test_an_error_in_the_field_is_the_persons_own(self):
        def field(t, y):
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            solve_ivp(field, (0.0, 1.0), torch.ones(1))

    @pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
    @pytest.mark.parametrize(("dense", "needs_grad"), [(False, False), (False, True), (True, True)])
    def test_the_error_can_be_pickled_and_copied(self, again, dense, needs_grad):
        """With its solution, which leaves its graph behind."""
        y0 = torch.ones(1, requires_grad=needs_grad)
        options = {"dense_output": dense, "gradient": "direct" if dense else None}
        with pytest.raises(SolveError) as caught:
            solve_ivp(decay, (0.0, 100.0), y0, max_steps=3, **options)
        caught.value.add_note("of the third batch")
        found, solution = again(caught.value), caught.value.solution
        assert isinstance(found, SolveError)
        assert str(found) == str(caught.value)
        assert found.__notes__ == ["of the third batch"]
        assert found.solution.message == solution.message
        assert found.solution.stats == solution.stats
        assert not found.solution.ys.requires_grad
        torch.testing.assert_close(found.solution.ys, solution.ys, equal_nan=True)
        if dense:
            torch.testing.assert_close(found.solution(0.01), solution(0.01))
        assert solution.ys.requires_grad == needs_grad

    def test_a_process_hands_its_error_on(self):
        """As a pool of processes does, by queues that refuse tensors with a graph."""
        error = SolveError("no", torch.ones(1, requires_grad=True) * 2)
        found = ForkingPickler.loads(ForkingPickler.dumps(error))
        assert str(found) == "no"
        assert found.solution.item() == 2

    def test_the_message_names_rows(self):
        y0 = torch.tensor([[1.0], [-1.0]], dtype=F64)
        sol = solve_ivp(lambda t, y: y * y, (0.0, 2.0), y0, batching="per_sample", on_failure="return")
        assert "row 0" in sol.message
        assert sol.success.tolist() == [False, True]
        assert "Stats(" in repr(sol.stats)


BAD = [
    ({"fun": 3}, "fun must be callable"),
    ({"fun": lambda t, y: y[..., :1]}, "fun must return the shape of y"),
    ({"fun": lambda t, y: y.double()}, "fun must return the dtype of y"),
    ({"fun": lambda t, y: y.to("meta")}, "fun must return a tensor on y's device"),
    ({"fun": lambda t, y: [y[0], y[1].double()], "y0": [torch.ones(2)] * 2}, "fun must return the dtype of y"),
    ({"fun": lambda t, y: [y[0].half(), y[1]], "y0": [torch.ones(2)] * 2}, "fun must return the dtype of y"),
    ({"fun": lambda t, y: [y[0], y[1].to("meta")], "y0": [torch.ones(2)] * 2}, "fun must return a tensor on y's"),
    ({"fun": lambda t, y: (y, y)}, "fun must return a tensor"),
    ({"fun": lambda t, y: y.detach().numpy()}, "fun must return a tensor"),
    ({"fun": lambda t, y: None}, "fun must return a tensor"),
    ({"y0": torch.ones(2, dtype=torch.int64)}, "y0 has dtype"),
    ({"y0": torch.eye(2).to_sparse()}, "y0 has layout torch.sparse_coo, but a state must be dense"),
    ({"y0": ["a"]}, "y0 must be"),
    ({"y0": {}}, "y0 holds no tensor"),
    ({"y0": [torch.ones(2), torch.ones(2, dtype=F64)]}, "dtype"),
    ({"y0": torch.tensor(1.0), "batching": "per_sample"}, "batch"),
    ({"y0": [torch.ones(2, 1), torch.ones(3, 1)], "batching": "per_sample"}, "batch"),
    ({"t_span": 1.0}, "t_span must be a pair"),
    ({"t_span": (0.0, 1.0, 2.0)}, "t_span must be a pair"),
    ({"t_span": (0.0, math.inf)}, "t1 in t_span must be finite"),
    ({"t_span": (0.0, "later")}, "t1 in t_span must be a real number"),
    ({"t_span": (0.0, torch.tensor(1j))}, "t1 in t_span must be a real number"),
    ({"t_eval": torch.tensor([1j])}, "t_eval must be real numbers"),
    ({"t_span": (0.0, torch.ones(3))}, "per_sample"),
    ({"t_span": (0.0, torch.ones(3)), "batching": "per_sample"}, "shape"),
    ({"method": "rk46"}, "method"),
    ({"method": "dopri_5"}, "dopri5"),
    ({"method": "euler"}, "step_size"),
    ({"t_eval": [0.5, 2.0]}, "t_eval must lie within t_span"),
    ({"t_eval": [0.5, math.nan]}, "t_eval must lie within t_span"),
    ({"t_eval": [0.8, 0.5]}, "t_eval must ascend"),
    ({"t_eval": [[0.5]]}, "t_eval must have shape"),
    ({"t_eval": "never"}, "t_eval"),
    ({"rtol": 0.0}, "rtol must be a positive number"),
    ({"rtol": -1e-3}, "rtol must be a positive number"),
    ({"rtol": math.nan}, "rtol must be a positive number"),
    ({"atol": -1.0}, "atol must be"),
    ({"atol": torch.tensor([-1.0, 1.0])}, "atol must not be negative"),
    ({"atol": torch.ones(7)}, "atol must broadcast"),
    ({"step_size": 0.0}, "step_size must be a positive number"),
    ({"step_size": -0.1}, "step_size must be a positive number"),
    ({"step_size": 0.1, "first_step": 0.1}, "step_size fixes every step"),
    ({"first_step": 0}, "first_step must be a positive number"),
    ({"first_step": torch.tensor(0.1)}, "first_step must be a positive number.*item"),
    ({"max_step": 0}, "max_step must be a positive number"),
    ({"max_steps": 0}, "max_steps must be a positive integer"),
    ({"max_steps": 2.5}, "max_steps must be a positive integer"),
    ({"controller": "p"}, "controller must be one of"),
    ({"controller": 3}, "controller"),
    ({"controller": PID}, r"an object such as thalweg.PID\(\), got <class"),
    ({"gradient": Adjoint}, r"an object such as thalweg.Adjoint\(\), got <class"),
    ({"norm": 2}, "norm must be callable"),
    ({"norm": lambda e: e}, r"norm must return one number.*shape \(2,\)"),
    ({"norm": lambda e: None}, "norm must return one number.*NoneType"),
    ({"batching": "each"}, "batching must be one of"),
    ({"gradient": "backprop"}, "gradient must be one of"),
    ({"backend": "fast"}, "backend must be one of"),
    ({"on_failure": "ignore"}, "on_failure must be one of"),
    ({"fun": torch.nn.Linear(2, 2)}, r"callable as fun\(t, y\), but it takes .*give lambda t, y: fun\(y\)"),
    ({"fun": lambda t, y, k: -k * y}, r"callable as fun\(t, y\), but it takes \(t, y, k\); give .* by args"),
    ({"args": (torch.ones(1), 2)}, r"callable as fun\(t, y, \*args\), here with 2 of args.*leave out args"),
    ({"fun": lambda t, y: y * math.cos(t), "batching": "per_sample"}, r"t has shape \(2,\), a time .*use .*torch.cos"),
    ({"fun": lambda t, y: y if t < 1 else -y, "batching": "per_sample"}, "took a tensor of .*torch.where"),
    ({"fun": lambda t, y: math.sin(y) * y}, r"here t has shape \(\), and y has \(2,\)"),
    ({"fun": lambda t, y: y.to_sparse()}, "fun must return a dense tensor, .*add .to_dense"),
    ({"fun": lambda t, y: [y[0], y[1].to_sparse()], "y0": [torch.ones(2)] * 2}, "fun must return a dense tensor"),
    ({"jac": torch.eye(2).to_sparse(), "method": "kvaerno3"}, "jac must return a dense matrix, .*jac_sparsity"),
    ({"y0": torch.ones(2, requires_grad=True), "args": torch.eye(2).to_sparse(), "gradient": "forward"}, "sparse"),
    ({"args": torch.eye(2).to_sparse(), "fun": lambda t, y, a: a @ y, "backend": "native"}, "layout torch.sparse_coo"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[f"{i}-{next(iter(c))}" for i, (c, _) in enumerate(BAD)])
def test_bad_input_is_one_clear_sentence(change, message):
    call = {"fun": decay, "t_span": (0.0, 1.0), "y0": torch.ones(2), **change}
    with pytest.raises((ValueError, TypeError), match=message):
        solve_ivp(**call)


def test_numbers_and_states_may_be_numpys():
    """A state of one number in its precision, too."""
    options = {"rtol": np.float32(2**-10), "atol": np.int64(1), "first_step": np.float32(0.25), "max_step": np.int32(1),
               "min_step": np.float32(0.125), "max_steps": np.int64(99)}  # fmt: skip
    plain = {name: number.item() for name, number in options.items()}
    sol = solve_ivp(decay, (0.0, 3.0), np.float64(1.0), **options)
    assert sol.ys.dtype == F64
    assert torch.equal(sol.ys, solve_ivp(decay, (0.0, 3.0), torch.tensor(1.0, dtype=F64), **plain).ys)


def test_a_tolerance_of_nothing_is_told():
    with pytest.raises(SolveError, match="an atol above 0 where the state is 0"):
        solve_ivp(decay, (0.0, 1.0), [1.0, 0.0], atol=0.0)


class TestWritingIntoTheState:
    """The solve goes on with the state that a field is given, and would go on with what was written."""

    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    @pytest.mark.parametrize("gradient", ["direct", "checkpointed", "adjoint"])
    @pytest.mark.parametrize(
        "fun",
        [
            lambda t, y: {"x": -y["x"].mul_(2.0), "v": y["v"]},
            lambda t, y: {"x": y["x"], "v": y["v"] + y["v"][..., :1].zero_()},
            lambda t, y: {"x": y["x"] - y["x"].detach().clamp_(max=0.5), "v": y["v"]},
        ],
    )
    def test_is_an_error_of_any_part_of_it(self, fun, gradient, batching):
        y0 = {"x": torch.ones(3, 2), "v": torch.ones(3)[:, None]}
        with pytest.raises(ValueError, match="fun must not write into y"):
            solve_ivp(fun, (0.0, 1.0), y0, gradient=gradient, batching=batching, backend="eager")

    @pytest.mark.parametrize("method", ["rk4", "scipy:RK45", "rodas5p"])
    def test_is_an_error_whatever_takes_the_steps(self, method):
        size = 0.1 if method == "rk4" else None
        with pytest.raises((ValueError, RuntimeError), match=r"fun must not write into y|leaf Variable"):
            solve_ivp(lambda t, y: y.neg_(), (0.0, 1.0), torch.ones(2), method, step_size=size, backend="eager")

    def test_is_an_error_of_a_jacobian(self):
        with pytest.raises(ValueError, match="jac must not write into y"):
            solve_ivp(decay, (0.0, 1.0), torch.ones(2), "trbdf2", jac=lambda t, y: -torch.diag(y.detach().fill_(1.0)))

    def test_each_of_a_pair_is_named(self):
        pair = (lambda t, p: p, lambda t, q: q.neg_())
        with pytest.raises(ValueError, match=r"fun\[1\] must not write into p"):
            solve_ivp(pair, (0.0, 1.0), (torch.ones(2), torch.ones(2)), "leapfrog", step_size=0.1)

    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    def test_asking_for_its_gradient_is_no_writing(self, batching):
        def field(t, y):
            with torch.enable_grad():
                return -torch.autograd.grad(y.requires_grad_().square().sum() / 2, y)[0]

        sol = solve_ivp(field, (0.0, 1.0), torch.ones(2, 1, dtype=F64), batching=batching, rtol=1e-8, backend="eager")
        torch.testing.assert_close(sol.ys[-1], torch.full((2, 1), math.exp(-1), dtype=F64), rtol=1e-6, atol=0)

    def test_states_of_inference_mode_which_do_not_tell_are_solved(self):
        with torch.inference_mode():
            inside = torch.ones(1)
            here = solve_ivp(decay, (0.0, 1.0), inside, backend="eager").ys[-1]
        later = solve_ivp(decay, (0.0, 1.0), inside, backend="eager").ys[-1]
        assert here.item() == later.item() == pytest.approx(math.exp(-1), rel=1e-3)


def test_controllers_refuse_what_makes_no_sense():
    with pytest.raises(ValueError, match="safety"):
        PID(safety=1.5)
    with pytest.raises(ValueError, match="factor_min"):
        PID(factor_min=2.0)
    for coefficients in ((math.nan, 1.0, 0.0), (0.0, -1.0, 0.0), ("0.2", 0.8, 0.0)):
        with pytest.raises(ValueError, match="pcoeff, icoeff and dcoeff must be numbers whose sum is above 0"):
            PID(*coefficients)
