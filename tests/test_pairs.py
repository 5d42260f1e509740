"""A field given as two functions: checked each by its name, counted each as one, and gradients through both."""

import math

import pytest
import torch

from thalweg import Event, solve_ivp
from thalweg.learn.config import SolverConfig
from thalweg.methods import methods
from thalweg.nn import MLPField, NeuralODE

F64 = torch.float64
ADDITIVE = [m.name for m in methods() if m.pair == "additive"]
SEPARABLE = [m.name for m in methods() if m.pair == "separable"]
SINGLE = [m.name for m in methods() if m.pair is None]


def decay(t, y):
    return -y


def solve(pair, method, **options):
    """By either kind of method, from a state that fits."""
    y0 = torch.ones(3, 2)
    return solve_ivp(pair, (0.0, 1.0), (y0, y0) if method in SEPARABLE else y0, method, step_size=0.25, **options)


class TestRefusals:
    @pytest.mark.parametrize("fun", [decay, (decay,), (decay, decay, decay), (decay, 3), None, torch.nn.Linear(2, 2)])
    @pytest.mark.parametrize("method", ADDITIVE + SEPARABLE)
    def test_a_method_for_pairs_says_how_to_split(self, method, fun):
        expected = r"fun=\(f, g\) for dy/dt = f" if method in ADDITIVE else r"fun=\(v, f\) for dq/dt = v"
        with pytest.raises(ValueError, match=f"{method!r} takes two functions, {expected}"):
            solve(fun, method)

    @pytest.mark.parametrize("method", SINGLE)
    def test_a_method_for_one_function_does_not_guess_what_two_mean(self, method):
        with pytest.raises(ValueError, match=f"{method!r} takes one function, got 2; give the whole field"):
            solve((decay, decay), method)

    @pytest.mark.parametrize("place", [0, 1])
    @pytest.mark.parametrize("method", ADDITIVE + SEPARABLE)
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (lambda t, y: y[..., :1], r"must return the shape of {state}, \(3, 2\), but returned \(3, 1\)"),
            (lambda t, y: y.double(), "must return the dtype of y"),
            (lambda t, y: y.to("meta"), "must return a tensor on y's device"),
            (lambda t, y: (y, y), "must return a tensor shaped like {state}, got tuple"),
            (lambda t, y: None, "must return a tensor shaped like {state}, got NoneType"),
        ],
    )
    def test_messages_say_which_of_the_two_it_was(self, wrong, message, method, place):
        pair = (wrong, decay) if place == 0 else (decay, wrong)
        state = "y" if method in ADDITIVE else "qp"[place]
        with pytest.raises(ValueError, match=rf"fun\[{place}\] " + message.format(state=state)):
            solve(pair, method)

    @pytest.mark.parametrize("place", [0, 1])
    @pytest.mark.parametrize("method", ADDITIVE + SEPARABLE)
    def test_structures_are_those_of_the_state(self, method, place):
        y0 = {"a": torch.ones(3, 2)}
        y0 = (y0, y0) if method in SEPARABLE else y0
        for wrong, message in (
            (lambda t, y: [y["a"]], "must return the structure of"),
            (lambda t, y: {"a": y["a"][:1]}, "must return leaves shaped like those of"),
        ):
            pair = [lambda t, y: {"a": -y["a"]}] * 2
            pair[place] = wrong
            state = "y" if method in ADDITIVE else "qp"[place]
            with pytest.raises(ValueError, match=rf"fun\[{place}\] {message} {state}"):
                solve_ivp(pair, (0.0, 1.0), y0, method, step_size=0.25)

    @pytest.mark.parametrize("place", [0, 1])
    @pytest.mark.parametrize("method", ADDITIVE + SEPARABLE)
    def test_an_error_inside_is_the_persons_own_and_says_where(self, method, place):
        def broken(t, y):
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine") as caught:
            solve((broken, decay) if place == 0 else (decay, broken), method)
        assert f"raised by fun[{place}] while" in caught.value.__notes__[0]

    @pytest.mark.parametrize("method", ADDITIVE + SEPARABLE)
    def test_a_flow_has_one_function(self, method):
        with pytest.raises(ValueError, match="takes two functions, and a flow has one"):
            SolverConfig(method=method, step_size=0.1)
        with pytest.raises(ValueError, match="takes two functions"):
            NeuralODE(MLPField(2), method=method, step_size=0.1)(torch.ones(1, 2))


class Hidden:
    """A function that keeps a tensor where it is not looked for."""

    __slots__ = ("k",)

    def __init__(self):
        self.k = torch.ones((), requires_grad=True)

    def __call__(self, t, y):
        return -self.k * y


class TestGradients:
    @pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
    @pytest.mark.parametrize("batching", ["joint", "per_sample"])
    @pytest.mark.parametrize("method", ADDITIVE + SEPARABLE)
    def test_reach_the_parameters_of_both(self, method, batching, gradient):
        """Of two modules; with nothing else that needs a gradient."""
        pair = tuple(MLPField(2, width=4) for _ in range(2))
        sol = solve(pair, method, batching=batching, gradient=gradient)
        ys = sol.ys if method in ADDITIVE else sol.ys[0] + sol.ys[1]
        ys[-1].square().sum().backward()
        for field in pair:
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in field.parameters())

    @pytest.mark.parametrize("place", [0, 1])
    @pytest.mark.parametrize("needed", [False, True])
    @pytest.mark.parametrize("method", ADDITIVE + SEPARABLE)
    def test_one_that_cannot_be_reached_is_an_error(self, method, needed, place):
        """Whichever function hides it, and whether or not something else needs a gradient."""
        weight = torch.ones((), requires_grad=needed)

        def other(t, y):
            return -weight * y

        def run():
            sol = solve((Hidden(), other) if place == 0 else (other, Hidden()), method)
            (sol.ys if method in ADDITIVE else sol.ys[0] + sol.ys[1]).sum().backward()

        with pytest.raises(RuntimeError, match="that thalweg could not find"):
            run()


class TestEvents:
    """Times at which something happens to f + g are those of the sum."""

    def test_their_evaluations_are_counted_of_both(self):
        calls = []

        def f(t, y):
            calls.append("f")
            return 0 * y

        def g(t, y):
            calls.append("g")
            return -y

        def bounce(t, y):
            return 2 * y

        half = Event(lambda t, y: y[0] - 0.5, apply=bounce)
        y0 = torch.ones(1, dtype=F64)
        sol = solve_ivp((f, g), (0, 2), y0, "kencarp4", events=half, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(
            sol.t_events[0], math.log(2) * torch.tensor([1.0, 2.0], dtype=F64), rtol=1e-6, atol=0
        )
        assert sol.stats.nfev + sol.stats.njev == len(calls)

    def test_gradients_of_times(self):
        """Of exp(-(a + b) t) = 1/2: t = log 2 / (a + b)."""
        a, b = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.5, 1.5))
        pair = (lambda t, y: -a * y, lambda t, y: -b * y)
        half = Event(lambda t, y: y[0] - 0.5, terminal=True)
        sol = solve_ivp(pair, (0, 2), torch.ones(1, dtype=F64), "kencarp4", events=half, rtol=1e-9, atol=1e-11)
        for found in torch.autograd.grad(sol.t_events[0].sum(), [a, b]):
            assert abs(found.item() + math.log(2) / 4) < 1e-6


@pytest.mark.parametrize("gradient", ["none", "direct", "checkpointed"])
@pytest.mark.parametrize("method", ADDITIVE + SEPARABLE)
def test_rows_may_leave_the_batch(method, gradient):
    """With arguments of their own; nothing changes but the rows that are evaluated."""
    start = torch.randn(6, 2, dtype=F64)
    t1 = torch.tensor([0.3, 4.0, 1.0, -1.0, 0.0, 2.5], dtype=F64)
    rates = torch.linspace(0.5, 3, 6, dtype=F64)[:, None].requires_grad_(gradient != "none")
    seen = []

    def v(t, y, k):
        seen.append(len(y))
        return torch.cos(k * y + t)

    def f(t, y, k):
        seen.append(len(y))
        return -k * y

    found, rows = [], []
    for shrink in (True, False):
        seen.clear()
        sol = solve_ivp(
            (v, f), (0.0, t1), (start, start) if method in SEPARABLE else start, method, args=(rates,),
            step_size=0.1 if method in SEPARABLE else None, batching="per_sample", shrink=shrink,
            gradient="checkpointed" if gradient == "none" else gradient,
        )  # fmt: skip
        rows.append(sum(seen))
        ys = sol.ys if method in ADDITIVE else torch.cat(sol.ys, -1)
        found.append([ys.detach(), sol.stats.nfev, sol.stats.n_steps])
        if gradient != "none":
            found[-1] += torch.autograd.grad(ys.square().sum(), rates)
    assert rows[0] < 0.8 * rows[1]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
