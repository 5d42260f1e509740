"""Solvers of other libraries: their answers, costs, failures and gradients, and what they refuse."""

import math
import sys

import pytest
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp

from problems import F64, FORCED, PROBLEMS
from testset import STIFF
from thalweg import Adjoint, SolveError, Status, solve_ivp
from thalweg.external.methods import External, external_methods

try:
    import sksundae  # noqa: F401
except ImportError:
    METHODS = [m for m in external_methods() if m.library != "sundials"]
else:
    METHODS = list(external_methods())

STIFF_METHODS = [m.name for m in METHODS if m.implicit and m.solver != "cvode_adams"]
NAMES = [m.name for m in METHODS]
each = pytest.mark.parametrize("method", NAMES)


@each
@pytest.mark.parametrize("problem", [PROBLEMS[0], FORCED], ids=lambda p: p.name)
def test_answers_in_both_directions(problem, method):
    """At times with repeats and both ends among them, forth and back."""
    t0, t1 = problem.t_span
    t_eval = torch.tensor([t0, t0, 0.3 * t1, 0.3 * t1, 0.8 * t1, t1], dtype=F64)
    exact = problem.reference([t0, 0.3 * t1, 0.8 * t1, t1])[[0, 0, 1, 1, 2, 3]]
    options = {"rtol": 1e-6, "atol": 1e-6}
    sol = solve_ivp(problem.fun, (t0, t1), problem.state(), method, t_eval, **options)
    assert torch.equal(sol.ys[0], problem.state())
    assert torch.equal(sol.ys[2], sol.ys[3])
    torch.testing.assert_close(sol.ys, exact, rtol=0, atol=1e-2)
    back = solve_ivp(problem.fun, (t1, t0), exact[-1], method, t_eval.flip(0), **options)
    torch.testing.assert_close(back.ys.flip(0), exact, rtol=0, atol=2e-2)
    tight = solve_ivp(problem.fun, (t0, t1), problem.state(), method, rtol=1e-9, atol=1e-9)
    assert (tight.ys[-1] - exact[-1]).norm() < 0.1 * (sol.ys[-1] - exact[-1]).norm()


@pytest.mark.parametrize("method", STIFF_METHODS)
@pytest.mark.parametrize("problem", STIFF[:2], ids=lambda p: p.name)
def test_stiff_problems(problem, method):
    sol = solve_ivp(problem.fun, problem.t_span, problem.state(), method, rtol=1e-5, atol=1e-5 * problem.scale)
    assert problem.error(sol.ys[-1], 1e-5) < 20
    assert sol.stats.n_steps < 1000


@pytest.mark.parametrize("name", ["RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"])
def test_scipys_solvers_are_scipys(name):
    """The same steps, states and costs as SciPy has by itself, with the same Jacobian."""
    problem = PROBLEMS[2]
    t_eval = torch.linspace(0.5, 9.5, 9, dtype=F64)

    def jac(t, y):
        x, v = y.tolist()
        return torch.tensor([[0.0, 1.0], [-4.0 * x * v - 1.0, 2.0 * (1 - x * x)]], dtype=F64)

    options = {"rtol": 1e-5, "atol": 1e-7}
    implicit = name in ("Radau", "BDF", "LSODA")
    theirs = scipy_solve_ivp(
        lambda t, y: problem.fun(t, torch.from_numpy(y)).numpy(),
        (0.0, 10.0),
        problem.y0,
        name,
        t_eval=t_eval.numpy(),
        **({"jac": lambda t, y: jac(t, y).numpy()} if implicit else {}),
        **options,
    )
    ours = solve_ivp(
        problem.fun, (0.0, 10.0), problem.state(), f"scipy:{name}", t_eval, jac=jac if implicit else None, **options
    )
    torch.testing.assert_close(ours.ys, torch.from_numpy(theirs.y.T), rtol=1e-12, atol=1e-12)
    assert (ours.stats.nfev, ours.stats.njev, ours.stats.nlu) == (theirs.nfev, theirs.njev, theirs.nlu)
    assert ours.stats.backend == "scipy"


@each
def test_states_of_any_structure_and_dtype(method):
    y0 = {"x": torch.tensor([[1.0, -1.0]]), "v": (torch.tensor(0.5),)}

    def field(t, y, rate):
        return {"x": -rate * y["x"] * torch.cos(t), "v": (y["v"][0] * rate,)}

    sol = solve_ivp(field, (0.0, 1.0), y0, method, [0.5, 1.0], args=(2.0,), rtol=1e-5, atol=1e-6)
    assert sol.ys["x"].dtype == torch.float32
    times = torch.tensor([0.5, 1.0])
    expected = torch.exp(-2 * torch.sin(times))[:, None, None] * y0["x"]
    torch.testing.assert_close(sol.ys["x"], expected, rtol=2e-4, atol=1e-4)
    torch.testing.assert_close(sol.ys["v"][0], 0.5 * torch.exp(2 * times), rtol=2e-4, atol=1e-4)


@each
def test_no_time_and_no_state(method):
    y0 = torch.randn(3)
    sol = solve_ivp(lambda t, y: -y, (1.0, 1.0), y0, method, [1.0, 1.0])
    assert torch.equal(sol.ys, torch.stack([y0, y0]))
    empty = solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.zeros(0, 2), method, [0.5, 1.0])
    assert empty.ys.shape == (2, 0, 2)
    assert empty.success


class Field(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(2, 2, dtype=F64))

    def forward(self, t, y, k):
        return torch.tanh(y @ self.weight) * torch.cos(k * t) - k * y


@pytest.mark.parametrize("back", ["the same", "tsit5", "scipy:LSODA"])
@pytest.mark.parametrize("outputs", [False, True], ids=["end", "t_eval"])
@each
def test_gradients_are_those_of_the_flow(method, outputs, back):
    """To parameters, arguments, the start and all times: those of tsit5's graph, whichever method goes back."""
    field, y0 = Field(), torch.randn(2, 2, dtype=F64)
    k = torch.tensor(1.3, dtype=F64)
    t0, t1 = torch.tensor(0.1, dtype=F64), torch.tensor(1.5, dtype=F64)
    t_eval = torch.tensor([0.1, 0.7, 1.4], dtype=F64) if outputs else None
    sources = [field.weight, y0, k, t0, t_eval if outputs else t1]
    for x in sources:
        x.requires_grad_()

    def gradients(method, gradient):
        sol = solve_ivp(field, (t0, t1), y0, method, t_eval, args=(k,), gradient=gradient, rtol=1e-8, atol=1e-9)
        found = torch.autograd.grad(sol.ys.sin().sum(), sources)
        return found, sol.stats

    expected, _ = gradients("tsit5", "direct")
    found, stats = gradients(method, None if back == "the same" else Adjoint(method=back))
    assert stats.nfev_backward > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way_back", ["scipy:DOP853", "scipy:Radau"])
def test_a_way_back_by_another_library_from_a_solve_of_our_own(way_back):
    k = torch.tensor(0.8, dtype=F64, requires_grad=True)
    sol = solve_ivp(
        lambda t, y, k: -k * y * y,
        (0.0, 1.0),
        torch.ones(1, dtype=F64),
        args=(k,),
        rtol=1e-9,
        atol=1e-9,
        gradient=Adjoint(method=way_back),
    )
    (found,) = torch.autograd.grad(sol.ys[-1].sum(), [k])
    assert found.item() == pytest.approx(-1 / 1.8**2, rel=1e-6)


def test_a_stiff_gradient_by_a_stiff_solver():
    """The way back is as stiff as the way there; the state at its end comes from where the fast part is gone."""
    rate = torch.tensor(1000.0, dtype=F64, requires_grad=True)
    scale = torch.tensor(2.0, dtype=F64, requires_grad=True)
    sol = solve_ivp(
        lambda t, y, rate, scale: -rate * (y - scale * torch.cos(t)),
        (0.0, 0.02),
        torch.zeros(1, dtype=F64),
        "scipy:Radau",
        args=(rate, scale),
        rtol=1e-8,
        atol=1e-10,
    )
    to_scale, to_rate = torch.autograd.grad(sol.ys[-1].sum(), [scale, rate])

    def exact(r, s, t=0.02):
        slow = (r * math.cos(t) + math.sin(t)) * r / (r * r + 1)
        return s * (slow - r * r / (r * r + 1) * math.exp(-r * t))

    assert sol.ys[-1].item() == pytest.approx(exact(1000.0, 2.0), rel=1e-6)
    assert to_scale.item() == pytest.approx(exact(1000.0, 1.0), rel=1e-6)
    difference = (exact(1000.1, 2.0) - exact(999.9, 2.0)) / 0.2
    assert to_rate.item() == pytest.approx(difference, rel=1e-3)


class TestFailures:
    @each
    def test_the_step_limit(self, method):
        sol = solve_ivp(
            FORCED.fun, (0.0, 2.0), FORCED.state(), method, [0.0, 0.1, 2.0], max_steps=4, on_failure="return"
        )
        assert sol.status is Status.MAX_STEPS
        assert sol.stats.n_steps == 4
        assert sol.ys[0].isfinite().all()
        assert sol.ys[-1].isnan().all()

    @each
    def test_a_field_that_turns_nan(self, method):
        sol = solve_ivp(
            lambda t, y: torch.where(t > 0.5, torch.nan, -y),
            (0.0, 1.0),
            torch.ones(2, dtype=F64),
            method,
            [0.1, 1.0],
            on_failure="return",
        )
        assert sol.status is Status.NONFINITE
        assert sol.ys[0].isfinite().all()
        assert sol.ys[1].isnan().all()

    @each
    @pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")  # SciPy's
    def test_a_state_that_overflows(self, method):
        """exp(300 t) is beyond float64 from t = 2.37 on."""
        sol = solve_ivp(
            lambda t, y: 300 * y, (0.0, 3.0), torch.ones(2, dtype=F64), method, [0.01, 3.0], on_failure="return"
        )
        assert sol.status is Status.NONFINITE
        assert sol.ys[0].isfinite().all()
        assert sol.ys[1].isnan().all()

    @each
    @pytest.mark.parametrize("number", [math.nan, math.inf])
    def test_what_is_not_finite_where_the_solve_begins(self, method, number):
        start = torch.ones(2, dtype=F64)
        for field, y0 in ((lambda t, y: y * number, start), (lambda t, y: -y, start * number)):
            sol = solve_ivp(field, (0.0, 1.0), y0, method, on_failure="return")
            assert sol.status is Status.NONFINITE
            assert sol.ys[-1].isnan().all()

    @each
    def test_a_pole_is_an_error_with_what_the_library_says(self, method):
        with pytest.raises(SolveError, match="the solve failed at t = ") as caught:
            solve_ivp(lambda t, y: y * y, (0.0, 2.0), torch.ones(1, dtype=F64), method, rtol=1e-6)
        note = caught.value.solution.note
        assert note == "" or note.partition(":")[0] in ("scipy", "sundials")
        assert note in caught.value.solution.message

    @each
    @pytest.mark.parametrize("error", [KeyError, ValueError])
    def test_the_users_own_error_comes_through(self, method, error):
        def field(t, y):
            if t > 0.3:
                raise error("mine")
            return -y

        with pytest.raises(error, match="mine"):
            solve_ivp(field, (0.0, 1.0), torch.ones(2, dtype=F64), method)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batching": "per_sample"}, "one step size for all of y0: choose batching='joint'"),
            ({"step_size": 0.1}, "takes no step_size"),
            ({"controller": "pi"}, "takes no controller"),
            ({"norm": lambda e: e.norm()}, "takes no norm"),
            ({"min_step": 1e-3}, "takes no min_step"),
            ({"step_ts": [0.5]}, "takes no step_ts or jump_ts"),
            ({"callback": lambda step: None}, "takes no callback"),
            ({"events": lambda t, y: y[0]}, "knows no events"),
            ({"dense_output": True}, "knows no dense_output; ask for times by t_eval"),
            ({"gradient": "direct"}, "in no graph: choose gradient='adjoint'"),
            ({"gradient": "checkpointed"}, "in no graph: choose gradient='adjoint'"),
        ],
    )
    def test_what_another_librarys_steps_do_not_know(self, options, message):
        with pytest.raises(ValueError, match=message):
            solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.ones(2), "scipy:LSODA", **options)

    def test_complex_states(self):
        with pytest.raises(ValueError, match="takes states of float32 or float64, got torch"):
            solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.ones(2, dtype=torch.complex64), "scipy:RK45")

    def test_other_devices(self):
        with pytest.raises(ValueError, match="runs on the CPU alone, and y0 is on meta"):
            solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.ones(2, device="meta"), "scipy:RK45", rtol=1e-3)

    def test_states_too_long_for_a_jacobian(self):
        with pytest.raises(ValueError, match="states of up to 4096 numbers, got 5000"):
            solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.ones(5000), "scipy:BDF")
        assert solve_ivp(lambda t, y: -y, (0.0, 0.1), torch.ones(5000), "scipy:RK45").success

    def test_unknown_names_suggest_the_nearest(self):
        with pytest.raises(ValueError, match="unknown method 'scipy:lsoda'; did you mean 'scipy:LSODA'"):
            solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.ones(2), "scipy:lsoda")

    def test_a_library_that_is_not_installed(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sksundae.cvode", None)
        with pytest.raises(ValueError, match=r"needs scikit-sundae, .* pip install thalweg\[sundials\]"):
            solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.ones(2), "sundials:cvode_bdf")

    @pytest.mark.parametrize("method", [m for m in METHODS if m.implicit], ids=lambda m: m.name)
    def test_a_relative_tolerance_for_each_entry_where_there_can_be_but_one(self, method):
        options = {"rtol": torch.tensor([1e-3, 1e-4], dtype=F64)}
        if method.rtol_each:
            assert solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.ones(2, dtype=F64), method.name, **options).success
        else:
            with pytest.raises(ValueError, match="takes one rtol for all entries"):
                solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.ones(2, dtype=F64), method.name, **options)


def test_the_tolerance_may_be_each_entrys_own():
    """An entry that is allowed any error costs nothing."""
    y0 = torch.ones(2, dtype=F64)

    def field(t, y):
        return torch.stack([-y[0], torch.cos(40 * t) * 40 * y[1]])

    both = solve_ivp(field, (0.0, 3.0), y0, "scipy:RK45", rtol=1e-6, atol=1e-6)
    one = solve_ivp(field, (0.0, 3.0), y0, "scipy:RK45", rtol=1e-6, atol=torch.tensor([1e-6, 1e3], dtype=F64))
    assert one.stats.nfev < 0.5 * both.stats.nfev


def test_steps_are_bounded_and_begin_as_asked():
    seen = []

    def field(t, y):
        seen.append(float(t))
        return -y

    for method in NAMES:
        seen.clear()
        sol = solve_ivp(field, (0.0, 1.0), torch.ones(1, dtype=F64), method, first_step=1e-3, max_step=0.05, rtol=1e-2)
        assert sol.stats.n_steps >= 20
        assert min(t for t in seen if t > 0) <= 1e-3


def test_each_is_described():
    for method in external_methods():
        assert isinstance(method, External)
        assert len(method.summary) < 55
