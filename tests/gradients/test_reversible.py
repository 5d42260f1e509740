"""The gradient of a reversible solve is exact, at a memory that does not grow with the number of steps."""

import gc
import math

import pytest
import torch

from gradient_checks import (
    DirectlyReversible,
    Nonlinear,
    assert_rows_that_fail_are_not_felt,
    central_differences,
    give_room,
)
from problems import PROBLEMS
from thalweg import Event, NeuralODE, Reversible, SolveError, solve_ivp
from thalweg.gradients import reversible
from thalweg.steppers.reversible import ReversibleStepper

F64 = torch.float64


def randn(*shape, seed):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def field():
    torch.manual_seed(1)
    return Nonlinear()


def assert_exact(solve, sources, loss=lambda sol: sol.ys.sin().sum(), bound=1e-10):
    """As `direct` through the same steps, relative to the largest entry."""
    found, expected = (
        torch.autograd.grad(loss(solve(gradient)), sources, allow_unused=True)
        for gradient in (Reversible(), DirectlyReversible())
    )
    for one, other in zip(found, expected, strict=True):
        if other is None:
            assert one is None or not one.any()
        else:
            assert (one - other).abs().max() <= bound * max(other.abs().max(), 1e-3)


CASES = [
    ("joint", None),
    ("joint", "of all"),
    ("per_sample", None),
    ("per_sample", "of all"),
    ("per_sample", "of each row"),
]


def times(direction, batching, outputs):
    """t0, t1 and t_eval; per sample, t1 and t_eval may have a value for each row."""
    t0, t1, t_eval = torch.tensor(0.2, dtype=F64), torch.tensor(3.0, dtype=F64), None
    if batching == "per_sample":
        t1 = t1 + randn(4, seed=3).abs()
    if outputs is not None:
        t_eval = torch.linspace(0.3, 2.8, 5, dtype=F64)
    if outputs == "of each row":
        t_eval = t_eval[:, None] + 0.09 * randn(4, seed=4).abs().clamp(max=1)
    if direction == "back":
        t0, t1, t_eval = t1, t0, None if t_eval is None else t_eval.flip(0)
    return [t if t is None else t.clone().requires_grad_() for t in (t0, t1, t_eval)]


STEPS = {"rk4": {"step_size": 0.29}, "bosh3": {"rtol": 3e-3, "atol": 1e-3, "first_step": 1.5}}
ROUGH = {"rtol": 1e-4, "atol": 1e-5, "first_step": 1.5}  # rejections among the steps


@pytest.mark.parametrize("direction", ["forward", "back"])
@pytest.mark.parametrize(("batching", "outputs"), CASES)
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "rk4", "bosh3"])
def test_gradients_are_those_of_direct_through_the_same_steps(method, batching, outputs, direction):
    """To parameters, args, y0, t0, t1 and t_eval; 1e-10 relative."""
    f, y0, k = field(), (1.5 * randn(4, 2, seed=5)).requires_grad_(), torch.tensor(0.6, dtype=F64, requires_grad=True)
    t0, t1, t_eval = times(direction, batching, outputs)

    def solve(gradient):
        options = STEPS.get(method, ROUGH)
        return solve_ivp(f, (t0, t1), y0, method, t_eval, args=(k,), batching=batching, gradient=gradient, **options)

    assert_exact(solve, [f.weight, y0, k, t0, t1, *([] if t_eval is None else [t_eval])])


@pytest.mark.parametrize(("method", "outputs"), [("euler", "of each row"), ("rk4", None)])
def test_gradients_are_those_of_finite_differences(method, outputs):
    """Coarse steps: the derivative is of what was computed, not of what should have been."""
    f, y0, k = field(), randn(4, 2, seed=5).requires_grad_(), torch.tensor(0.6, dtype=F64, requires_grad=True)
    t0, t1, t_eval = times("forward", "per_sample", outputs)

    def loss():
        sol = solve_ivp(
            f, (t0, t1), y0, method, t_eval, args=(k,), step_size=0.3, batching="per_sample", gradient="reversible"
        )
        return sol.ys.sin().sum()

    sources = [f.weight, y0, k, t0, *([t1] if outputs is None else [t_eval])]
    for x, found in zip(sources, torch.autograd.grad(loss(), sources), strict=True):
        expected = central_differences(lambda: loss().item(), x)
        assert (found - expected).norm() < 1e-6 * expected.norm()


def turn(t, y):
    return torch.stack([y[..., 1], -y[..., 0]], -1)


def states_alive(y0):
    """The tensors of that size that there are, views among them."""
    gc.collect()
    return sum(issubclass(type(x), torch.Tensor) and x.numel() == y0.numel() for x in gc.get_objects())


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_memory_does_not_grow_with_the_number_of_steps(batching, monkeypatch):
    """States that are alive after the forward pass, and in the midst of the backward pass."""
    give_room(monkeypatch, 0)
    y0 = randn(1, 1009, 2, seed=0).requires_grad_()

    def counts(steps, gradient):
        seen, watched = [], None

        def counting(t, y):
            seen.append(states_alive(y0) if len(seen) == watched else None)
            return turn(t, y)

        sol = solve_ivp(counting, (0, 1), y0, "rk4", step_size=1 / steps, batching=batching, gradient=gradient)
        kept, watched = states_alive(y0), 2 * len(seen)
        sol.ys[-1].sum().backward()
        return kept, seen[watched] if watched < len(seen) else None

    few = counts(10, "reversible")
    assert None not in few
    assert few == counts(30, "reversible")
    assert counts(30, "checkpointed")[0] > 30  # what is counted is what is kept


def test_a_joint_step_leaves_no_tensor_behind_however_small():
    y0, kept = randn(1, 3, 2, seed=0).requires_grad_(), []
    for steps in (10, 60):
        sol = solve_ivp(turn, (0, 1), y0, "rk4", step_size=1 / steps, gradient="reversible")
        gc.collect()
        kept.append(sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects()))
        del sol
    assert kept[0] == kept[1]


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_gradients_are_exact_where_the_flow_contracts(tolerance, batching):
    """By e^30: the way back alone would know nothing of where it began."""
    k = torch.tensor([20.0, 3.0], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[2.0, 1.0], [-1.0, 3.0]], dtype=F64, requires_grad=True)

    def solve(gradient):
        return solve_ivp(
            lambda t, y, k: -k * (y - torch.sin(t)), (0.0, 1.5), y0, args=(k,), t_eval=[0.02, 0.1, 0.5, 1.5],
            rtol=tolerance, atol=tolerance, batching=batching, gradient=gradient,
        )  # fmt: skip

    assert_exact(solve, [k, y0], bound=1e-8)


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_gradients_are_exact_where_the_flow_expands(batching):
    """By e^20: what is rounded at the end is large where it began."""
    k = torch.tensor([20.0, 3.0], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[2.0, 1.0], [-1.0, 3.0]], dtype=F64, requires_grad=True)

    def solve(gradient):
        return solve_ivp(
            lambda t, y, k: k * y, (0.0, 1.0), y0, args=(k,), rtol=1e-5, batching=batching, gradient=gradient
        )

    assert_exact(solve, [k, y0], lambda sol: sol.ys[-1].log().nan_to_num().sum())


def test_the_states_are_joined_as_often_as_the_flow_asks_whatever_the_number_of_steps(monkeypatch):
    """Van der Pol's oscillator, by 80 steps and by 300: 14 and 10 times."""
    tracks = []

    class Seen(reversible._JointTrack):
        def __init__(self, y0):
            super().__init__(y0)
            tracks.append(self)

    monkeypatch.setattr(reversible, "_JointTrack", Seen)
    problem = next(p for p in PROBLEMS if p.name == "van_der_pol")
    y0 = problem.state().requires_grad_()
    steps = [
        solve_ivp(
            problem.fun, problem.t_span, y0, rtol=tolerance, atol=tolerance, gradient="reversible"
        ).stats.n_accepted
        for tolerance in (1e-6, 1e-9)
    ]
    few, many = (len(track.joined) for track in tracks)
    assert steps[1] > 3 * steps[0]
    assert 5 < many <= few + 3


def test_going_astray_is_an_error_and_never_a_wrong_gradient(monkeypatch):
    """The states are never joined here, and the flow forgets where it began."""
    monkeypatch.setattr(
        ReversibleStepper, "growth", property(lambda self: math.inf, lambda self, value: None), raising=False
    )
    y0 = torch.tensor([[1.0], [1.0]], dtype=F64, requires_grad=True)
    rate = torch.tensor([[0.1], [40.0]], dtype=F64)

    def solve():
        return solve_ivp(
            lambda t, y: -rate * (y - 2), (0.0, 3.0), y0, "rk4", step_size=0.02, batching="per_sample",
            rtol=1e6, atol=1e-9, gradient="reversible",
        )  # fmt: skip

    # the row that is not asked for is not felt
    (found,) = torch.autograd.grad(solve().ys[-1, 0].sum(), [y0])
    torch.testing.assert_close(found, torch.tensor([[math.exp(-0.3)], [0.0]], dtype=F64), rtol=1e-8, atol=0)
    with pytest.raises(RuntimeError, match=r"of rows \[1\].*checkpointed"):
        solve().ys[-1].sum().backward()


def test_the_gradient_of_a_row_does_not_depend_on_its_neighbours():
    f, y0, k = field(), randn(5, 2, seed=5) * torch.tensor([[0.1], [3.0], [1.0], [0.3], [6.0]], dtype=F64), 0.4
    t1 = torch.tensor([1.0, 5.0, 0.3, 2.0, 4.0], dtype=F64)

    def gradient(rows):
        y = y0[rows].requires_grad_()
        sol = solve_ivp(f, (0.0, t1[rows]), y, args=(k,), rtol=1e-4, batching="per_sample", gradient="reversible")
        return torch.autograd.grad(sol.ys[-1].square().sum(), [y])[0]

    together = gradient([0, 1, 2, 3, 4])
    for row in range(5):
        torch.testing.assert_close(together[row], gradient([row])[0], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("t_eval", [None, (0.0, 0.1, 1.0)])
def test_rows_that_fail_are_not_felt(t_eval):
    assert_rows_that_fail_are_not_felt("dopri5", "reversible", t_eval=t_eval)


def test_rows_that_leave_the_batch_keep_their_gradients():
    """And their tolerances, by which their states are joined. The last two are alike, and end together."""
    order = [0, 1, 2, 3, 4, 4]
    f, y0 = field(), randn(5, 2, seed=5)[order].requires_grad_()
    t1 = torch.tensor([0.1, 4.0, 0.5, 1.0, 6.0], dtype=F64)[order].requires_grad_()
    k = (0.3 * randn(5, 1, seed=2))[order].requires_grad_()
    atol = torch.logspace(-5, -3, 5, dtype=F64)[order, None]
    for t_eval in (None, torch.linspace(0, 1, 5, dtype=F64)[:, None] * t1.detach()):

        def solve(gradient, shrink=True, t_eval=t_eval):
            return solve_ivp(
                f, (0.0, t1), y0, t_eval=t_eval, args=(k,), batching="per_sample", shrink=shrink, gradient=gradient,
                **ROUGH | {"atol": atol},
            )  # fmt: skip

        assert_exact(solve, [f.weight, y0, k, t1])


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("stops", ["step_ts", "jump_ts"])
@pytest.mark.parametrize("t_eval", [None, (0.0, 0.5, 0.7, 2.0)])
def test_gradients_go_through_stops_and_jumps(stops, t_eval, batching):
    f, y0, k = field(), randn(3, 2, seed=5).requires_grad_(), torch.tensor(0.6, dtype=F64, requires_grad=True)

    def jumping(t, y, k):
        return f(t, y, k) + torch.where((t > 0.7) & (t < 1.6), 2.0, 0.0)

    def solve(gradient):
        return solve_ivp(
            jumping, (0.0, 2.0), y0, t_eval=t_eval, args=(k,), batching=batching, gradient=gradient,
            **{stops: (0.7, 1.6)}, **ROUGH,
        )  # fmt: skip

    assert_exact(solve, [f.weight, y0, k])


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_gradients_go_through_events(batching):
    """A bouncing ball, and then the time at which it comes to a height for the third time."""
    y0 = torch.tensor([[1.0, 0.0], [1.3, 0.2]], dtype=F64)[: 2 if batching == "per_sample" else 1].requires_grad_()
    g = torch.tensor(2.0, dtype=F64, requires_grad=True)
    bounce = Event(lambda t, y, g: y[:, 0] if batching == "per_sample" else y[0, 0], direction=-1,
                   apply=lambda t, y, g: y * torch.tensor([0.0, -0.8], dtype=F64))  # fmt: skip
    high = Event(lambda t, y, g: (y[:, 0] if batching == "per_sample" else y[0, 0]) - 0.3, terminal=3)

    def solve(gradient):
        return solve_ivp(
            lambda t, y, g: torch.stack([y[:, 1], -g - 0.1 * y[:, 1]], -1), (0.0, 9.0), y0, args=(g,),
            events=[bounce, high], batching=batching, gradient=gradient, rtol=1e-6, atol=1e-6,
        )  # fmt: skip

    assert_exact(solve, [y0, g], lambda sol: sol.t_events[1].nan_to_num().sum() + sol.ys[-1].sum(), bound=1e-9)


def test_complex_states_structured_states_and_float32():
    rate = torch.tensor(-0.3 + 2.0j, dtype=torch.complex128, requires_grad=True)
    z0 = torch.tensor([1.0 + 0.5j, -0.2 + 1j], dtype=torch.complex128, requires_grad=True)
    for batching in ("joint", "per_sample"):

        def complex_solve(gradient, batching=batching):
            return solve_ivp(lambda t, y, k: k * y, (0.0, 2.0), z0, args=(rate,), batching=batching, gradient=gradient)

        assert_exact(complex_solve, [rate, z0], lambda sol: sol.ys[-1].sum().abs() ** 2)

    y0 = {"x": randn(3, 2, seed=1).requires_grad_(), "v": randn(3, seed=2).requires_grad_()}

    def solve(gradient):
        return solve_ivp(
            lambda t, y: {"x": y["v"][:, None] * torch.cos(y["x"]), "v": -y["x"].sum(1)}, (0.0, 2.0), y0,
            batching="per_sample", gradient=gradient,
        )  # fmt: skip

    assert_exact(solve, [y0["x"], y0["v"]], lambda sol: sol.ys["x"][-1].sum() + sol.ys["v"][-1].sum())

    f, y0 = field().float(), randn(4, 2, seed=5).float().requires_grad_()
    for batching in ("joint", "per_sample"):
        assert_exact(
            lambda gradient, batching=batching: solve_ivp(
                f, (0.0, 3.0), y0, args=(0.5,), batching=batching, gradient=gradient, step_size=0.1
            ),
            [f.weight, y0],
            bound=1e-4,
        )


def test_a_captured_tensor_has_its_gradient():
    k = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.ones(1, dtype=F64)
    assert_exact(lambda gradient: solve_ivp(lambda t, y: -(k.exp()) * y, (0, 1), y0, gradient=gradient), [k])


def test_a_gradient_can_be_made_again_but_not_differentiated():
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    sol = solve_ivp(lambda t, y: -y * y, (0.0, 1.0), y0, gradient="reversible")
    first, second = (torch.autograd.grad(sol.ys[-1].sum(), [y0], retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    (found,) = torch.autograd.grad(sol.ys[-1].sum(), [y0], create_graph=True)
    with pytest.raises(RuntimeError, match="direct"):
        found.sum().backward()


def test_equal_times_and_outputs_at_the_start_pass_the_gradient_through():
    y0 = torch.ones(2, dtype=F64, requires_grad=True)
    for span, t_eval in (((1.0, 1.0), None), ((0.0, 1.0), [0.0])):
        sol = solve_ivp(lambda t, y: -y, span, y0, t_eval=t_eval, gradient="reversible")
        assert torch.equal(torch.autograd.grad(sol.ys[-1].sum(), [y0])[0], torch.ones(2, dtype=F64))


def test_outputs_before_a_failure_have_gradients():
    """y' = y², which leaves for infinity at t = 1/2; it goes as far as steps are allowed to."""
    y0 = torch.tensor([2.0], dtype=F64, requires_grad=True)
    options = {"t_eval": [0.1, 0.2, 0.9], "rtol": 1e-8, "atol": 1e-8, "gradient": "reversible"}
    with pytest.raises(SolveError):
        solve_ivp(lambda t, y: y * y, (0.0, 1.0), y0, max_steps=30, **options)
    sol = solve_ivp(lambda t, y: y * y, (0.0, 1.0), y0, max_steps=30, on_failure="return", **options)
    (found,) = torch.autograd.grad(sol.ys[1].sum(), [y0])
    torch.testing.assert_close(found, 1 / (1 - 0.2 * y0.detach()) ** 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", ["kvaerno5", "rodas5p", "radau5", "adams", "rkc", "auto"])
def test_a_method_that_cannot_be_made_reversible_is_an_error_at_the_door(method):
    def untouched(t, y):
        raise AssertionError

    with pytest.raises(ValueError, match=f"{method}.*tsit5.*checkpointed"):
        solve_ivp(untouched, (0, 1), torch.ones(2, dtype=F64), method, gradient="reversible")


@pytest.mark.parametrize("coupling", [0, 1, 1.5, -0.1, True, "0.9", None])
def test_a_coupling_that_is_none_is_an_error(coupling):
    with pytest.raises(ValueError, match="coupling must lie between 0 and 1"):
        Reversible(coupling)


@pytest.mark.parametrize("coupling", [0.5, 0.9, 0.999])
def test_gradients_are_exact_whatever_the_coupling(coupling):
    f, y0 = field(), randn(4, 2, seed=5).requires_grad_()
    grads = [
        torch.autograd.grad(
            solve_ivp(f, (0.0, 3.0), y0, args=(0.5,), batching="per_sample", gradient=gradient).ys.sin().sum(),
            [f.weight, y0],
        )
        for gradient in (Reversible(coupling), DirectlyReversible(coupling))
    ]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_the_answer_does_not_depend_on_whether_a_gradient_is_wanted():
    y0 = randn(4, 2, seed=5)
    for t_eval in (None, (0.5, 2.0)):
        ys = [
            solve_ivp(field(), (0.0, 3.0), y, t_eval=t_eval, args=(0.5,), gradient="reversible").ys.detach()
            for y in (y0.clone().requires_grad_(), y0)
        ]
        with torch.no_grad():
            ys.append(solve_ivp(field(), (0.0, 3.0), y0, t_eval=t_eval, args=(0.5,), gradient="reversible").ys)
        assert torch.equal(ys[0], ys[1])
        assert torch.equal(ys[0], ys[2])


def test_a_neural_ode_learns_with_it():
    """Points go to twice their distance from the origin."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    flow = NeuralODE(lambda t, y: layers(y), gradient="reversible", rtol=1e-4, atol=1e-4)
    x = torch.randn(32, 2)
    optimiser, losses = torch.optim.Adam(layers.parameters(), lr=0.02), []
    for _ in range(20):
        loss = (flow(x) - 2 * x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
