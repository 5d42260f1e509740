"""Events: when they happen, what they do, and the gradients of both."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp

from problems import PROBLEMS, pendulum
from thalweg import Event, SolveError, Status, solve_ivp

F64 = torch.float64
TIGHT = {"rtol": 1e-11, "atol": 1e-11}
GRADIENTS = ["direct", "checkpointed", "adjoint", "interpolating"]
BATCHINGS = ["joint", "per_sample"]


def tensor(x, **options):
    return torch.tensor(x, dtype=F64, **options)


def circle(t, y):
    """(cos t, -sin t) from (1, 0)."""
    return torch.stack([y[..., 1], -y[..., 0]], -1)


def first(t, y, *args):
    return y[..., 0]


def second(t, y, *args):
    return y[..., 1]


def clock(at):
    """The event of a time."""
    return lambda t, y, *args: t.reshape(-1) - at


def with_attributes(function, **attributes):
    """A function of its own, as a user of SciPy writes it."""

    def event(t, y, *args):
        return function(t, y, *args)

    for name, value in attributes.items():
        setattr(event, name, value)
    return event


def in_numpy(function, **attributes):
    def event(t, y):
        return float(function(torch.tensor(t, dtype=F64), torch.from_numpy(y)))

    for name, value in attributes.items():
        setattr(event, name, value)
    return event


def both(fun, t_span, y0, events, **options):
    """Our solution and SciPy's; events are (function, attributes)."""
    ours = solve_ivp(
        fun,
        t_span,
        tensor(y0),
        "dopri5",
        events=[with_attributes(function, **attributes) for function, attributes in events],
        **TIGHT,
        **options,
    )
    theirs = scipy_solve_ivp(
        lambda t, y: fun(torch.tensor(t, dtype=F64), torch.from_numpy(y)).numpy(),
        t_span,
        np.array(y0),
        "DOP853",
        events=[in_numpy(function, **attributes) for function, attributes in events],
        rtol=1e-12,
        atol=1e-12,
    )
    return ours, theirs


def assert_same_events(ours, theirs):
    assert len(ours.t_events) == len(theirs.t_events)
    for t, y, t_theirs, y_theirs in zip(ours.t_events, ours.y_events, theirs.t_events, theirs.y_events, strict=True):
        assert t.shape == t_theirs.shape
        assert y.shape == (len(t_theirs), *ours.ys.shape[1:])
        np.testing.assert_allclose(t.numpy(), t_theirs, rtol=0, atol=1e-8)
        np.testing.assert_allclose(y.numpy(), y_theirs.reshape(y.shape), rtol=0, atol=1e-7)


class TestAgainstSciPy:
    @pytest.mark.parametrize("direction", [0, 1, -1])
    @pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
    def test_times_and_states_of_several_events(self, problem, direction):
        """Where the first component passes its first value's half, and where the last one does."""
        levels = [value / 2 + 0.1 for value in problem.y0]
        span = problem.t_span if problem.name != "lorenz" else (0.0, 1.5)
        events = [
            (lambda t, y: y[..., 0] - levels[0], {"direction": direction}),
            (lambda t, y: y[..., -1] - levels[-1], {}),
        ]
        ours, theirs = both(problem.fun, span, problem.y0, events)
        assert direction or sum(map(len, theirs.t_events)) > 0
        assert_same_events(ours, theirs)
        assert ours.status is Status.SUCCESS

    @pytest.mark.parametrize("terminal", [True, 1, 2, 3, 50])
    @pytest.mark.parametrize("span", [(0.3, 15.0), (15.0, 0.3)], ids=["forward", "back"])
    def test_terminal_counts(self, terminal, span):
        events = [(first, {"terminal": terminal, "direction": 1}), (second, {})]
        ours, theirs = both(circle, span, (1.0, 0.2), events)
        assert_same_events(ours, theirs)
        assert (ours.status is Status.EVENT) == (theirs.status == 1)
        assert ours.success
        assert abs(ours.ts[-1].item() - theirs.t[-1]) < 1e-9
        np.testing.assert_allclose(ours.ys[-1].numpy(), theirs.y[:, -1], rtol=0, atol=1e-8)

    @pytest.mark.parametrize("terminal", [False, True])
    @pytest.mark.parametrize("direction", [0, 1, -1])
    @pytest.mark.parametrize("back", [False, True])
    def test_a_zero_at_t0_is_an_event_in_the_direction_in_which_it_is_left(self, direction, terminal, back):
        span = (0.0, -5.0) if back else (0.0, 5.0)
        ours, theirs = both(circle, span, (0.0, 1.0), [(first, {"direction": direction, "terminal": terminal})])
        assert_same_events(ours, theirs)
        assert (0 in ours.t_events[0]) == (direction == 0 or direction == (-1 if back else 1))
        assert (ours.status is Status.EVENT) == (theirs.status == 1)

    def test_the_first_of_two_terminal_events_ends_the_solve(self):
        """Whatever their order in the list, and in one step."""
        events = [(first, {"terminal": True}), (lambda t, y: y[..., 0] - 0.1, {"terminal": True})]
        for order in (events, events[::-1]):
            ours, theirs = both(circle, (0.0, 5.0), (1.0, 0.0), order)
            assert_same_events(ours, theirs)
            assert abs(ours.ts[-1].item() - math.acos(0.1)) < 1e-9


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("method", ["rk4", "euler"])
def test_steps_of_one_size_have_events_too(method, batching):
    """Between the steps, by the interpolant: a line is met where it is."""
    sol = solve_ivp(
        lambda t, y: torch.ones_like(y),
        (0.0, 1.0),
        tensor([[-0.37]]),
        method,
        step_size=0.1,
        events=first_row(batching),
        batching=batching,
    )
    assert abs(sol.t_events[0].item() - 0.37) < 1e-15


def first_row(batching):
    return (lambda t, y: y[:, 0]) if batching == "per_sample" else (lambda t, y: y[0, 0])


@pytest.mark.parametrize("level", [0.9, 0.1, -0.99, 0.5])
def test_an_event_is_located_to_the_last_digits(level):
    """The event function at the time and state found is zero to machine precision, at any tolerance."""
    for rtol in (1e-3, 1e-9):
        sol = solve_ivp(circle, (0.0, 50.0), tensor([1.0, 0.0]), rtol=rtol, events=lambda t, y: y[0] - level)
        assert len(sol.t_events[0]) >= 14
        assert (sol.y_events[0][:, 0] - level).abs().max() < 3e-14  # 50 eps, as times here have


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize(
    "level",
    [lambda y: y > 0.5, lambda y: torch.relu(y - 0.5), lambda y: torch.where(y > 0.5, 1.0, -3.0), lambda y: y - 0.5],
    ids=["flag", "flat", "jump", "smooth"],
)
def test_an_event_is_where_the_sign_ends_also_of_what_stays_zero_or_jumps(level, batching):
    """exp(-t) falls to 1/2 at ln 2, by one step over it."""

    def event(t, y):
        return level(y[..., 0])

    y0 = torch.ones(1, 1, dtype=F64) if batching == "per_sample" else torch.ones(1, dtype=F64)
    sol = solve_ivp(lambda t, y: -y, (0, 3), y0, "vern9", rtol=1e-12, atol=1e-12, events=event, batching=batching)
    assert len(sol.t_events[0]) == 1
    assert abs(sol.t_events[0].item() - math.log(2)) < 1e-11


def test_single_precision_and_complex_states():
    sol = solve_ivp(
        lambda t, y: 1j * y, (0.0, 6.0), torch.ones(1, dtype=torch.complex64), events=lambda t, y: y[0].real
    )
    torch.testing.assert_close(sol.t_events[0], tensor([0.5, 1.5]) * math.pi, rtol=0, atol=5e-3)
    assert sol.y_events[0].dtype == torch.complex64


def test_a_pytree():
    sol = solve_ivp(
        lambda t, y: {"x": y["v"], "v": torch.full_like(y["v"], -2.0)},
        (0.0, 2.2),
        {"x": tensor([1.0]), "v": tensor([0.0])},
        events=Event(lambda t, y: y["x"][0], direction=-1, apply=lambda t, y: {"x": 0 * y["x"], "v": -0.5 * y["v"]}),
        **TIGHT,
    )
    torch.testing.assert_close(sol.t_events[0], tensor([1.0, 2.0]))
    torch.testing.assert_close(sol.y_events[0]["v"], tensor([[-2.0], [-1.0]]))
    torch.testing.assert_close(sol.ys["x"][-1], tensor([0.2 * 0.5 - 0.2**2]))


class TestGrazingAndTogether:
    def test_a_touch_without_a_crossing_is_no_event(self):
        sol = solve_ivp(circle, (0.0, 6.0), tensor([1.0, 0.0]), events=lambda t, y: y[0] + 1 + 1e-9, **TIGHT)
        assert len(sol.t_events[0]) == 0

    def test_a_zero_at_the_end_of_a_step_is_one_event(self):
        """Steps of 1/4 end at the zero, which is met once, not as an end and a beginning."""
        for fun, slope in ((lambda t, y: y[0], 1.0), (lambda t, y: -y[0], -1.0)):
            sol = solve_ivp(
                lambda t, y: torch.ones_like(y), (0.0, 1.0), tensor([-0.5]), "euler", step_size=0.25,
                events=[Event(fun), Event(fun, direction=slope), Event(fun, direction=-slope)],
            )  # fmt: skip
            assert [t.tolist() for t in sol.t_events] == [[0.5], [0.5], []]

    def test_two_crossings_in_one_step_are_both_seen(self):
        """Where a quarter of the step lies between them; SciPy sees neither."""
        sol = solve_ivp(
            lambda t, y: t - 0.5 + 0 * y, (0.0, 1.0), tensor([0.1]), step_size=1.0, events=lambda t, y: y[0]
        )
        root = math.sqrt(0.05)
        torch.testing.assert_close(sol.t_events[0], tensor([0.5 - root, 0.5 + root]))

    def test_events_of_one_step_are_each_in_order_and_end_with_the_first_terminal_one(self):
        line = partial(solve_ivp, lambda t, y: torch.ones_like(y), (0.0, 1.0), tensor([0.0]), "euler", step_size=1.0)
        sol = line(events=[Event(clock(0.75)), Event(clock(0.5), terminal=True), Event(clock(0.25)), Event(clock(0.5))])
        assert [t.tolist() for t in sol.t_events] == [[], [0.5], [0.25], [0.5]]
        assert sol.ts.tolist() == [0.0, 0.5]
        assert sol.ys.flatten().tolist() == [0.0, 0.5]

    def test_events_at_one_time_apply_in_the_order_of_the_list(self):
        plus, times = (lambda t, y: y + 1.0), (lambda t, y: y * 2.0)
        for first_apply, then, expected in ((plus, times, 6.0), (times, plus, 5.0)):
            events = [Event(clock(0.3), apply=first_apply), Event(clock(0.3), apply=then)]
            sol = solve_ivp(lambda t, y: 0 * y, (0.0, 1.0), tensor([2.0]), events=events)
            assert [len(t) for t in sol.t_events] == [1, 1]
            assert sol.ys[-1].item() == expected

    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("direction", [1, -1])
    def test_a_zero_where_the_field_jumps_is_left_as_the_solve_goes_on(self, direction, batching):
        """At the jump itself the field still has its value of before, by which y would leave zero the other way."""
        fun = lambda t, y: torch.where(direction * (t - 0.5) > 0, -direction, direction) + 0 * y  # noqa: E731
        events = [Event(first, direction=1), Event(first, direction=-1)]
        y0 = tensor([0.0]) if batching == "joint" else tensor([[0.0], [0.0]])
        sol = solve_ivp(fun, (0.5, 0.5 + direction), y0, events=events, jump_ts=[0.5], batching=batching)
        assert [t.flatten().tolist() for t in sol.t_events] == [[], [0.5] * len(y0)]

    def test_an_event_that_only_looks_on_is_met_once_where_another_changes_the_state(self):
        """The change leaves both at zero, to the last digits of any sign."""
        y0 = torch.randn(50, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
        events = [Event(second, apply=lambda t, y: 0.9 * y), Event(second)]
        sol = solve_ivp(circle, (0.0, 6.0), y0, events=events, batching="per_sample", rtol=1e-6)
        torch.testing.assert_close(sol.t_events[0], sol.t_events[1], equal_nan=True, rtol=0, atol=0)

    def test_a_terminal_event_at_the_time_of_another_ends_the_solve_before_that_one_applies(self):
        events = [Event(clock(0.3), apply=lambda t, y: y + 1), Event(clock(0.3), terminal=True)]
        sol = solve_ivp(lambda t, y: 0 * y, (0.0, 1.0), tensor([2.0]), events=events)
        assert sol.status is Status.EVENT
        assert sol.ys[-1].item() == 2.0
        assert [len(t) for t in sol.t_events] == [1, 1]

    @pytest.mark.parametrize("needs_grad", [False, True])
    def test_an_apply_may_write_into_the_state_that_it_is_given(self, needs_grad):
        """It changes that of its own rows alone, and not what was recorded of the event."""
        options = {"t_eval": [0.3, 1.0], "batching": "per_sample"}

        def first_rows(*rows):
            return lambda t, y: t[:, 0] - torch.where(torch.isin(torch.arange(2), torch.tensor(rows)), 0.3, 2.0)

        ends = []
        for plus, times in (
            (lambda t, y: y.add_(1.0), lambda t, y: y.mul_(3.0)),
            (lambda t, y: y + 1.0, lambda t, y: y * 3.0),
        ):
            y0 = torch.ones(2, 1, dtype=F64, requires_grad=needs_grad)
            events = [Event(first_rows(0), apply=plus), Event(first_rows(1), apply=times)]
            sol = solve_ivp(lambda t, y: 0 * y, (0.0, 1.0), y0, events=events, **options)
            ends.append(torch.cat([sol.ys.flatten(), sol.y_events[0].flatten(), sol.y_events[1].flatten()]))
        torch.testing.assert_close(*ends, equal_nan=True)
        assert sol.ys[-1].flatten().tolist() == [2.0, 3.0]

    def test_an_apply_at_t0_happens_at_once_and_the_first_output_is_y0(self):
        events = Event(clock(0.0), apply=lambda t, y: y + 1)
        sol = solve_ivp(lambda t, y: 0 * y, (0.0, 1.0), tensor([2.0]), t_eval=[0.0, 0.5, 1.0], events=events)
        assert sol.ys.flatten().tolist() == [2.0, 3.0, 3.0]
        assert sol.t_events[0].tolist() == [0.0]


# ---------------------------------------------------------------------------------------------- closed forms


def fall(t, y, gravity, restitution):
    return torch.stack([y[..., 1], -gravity.expand(y[..., 1].shape)], -1)


BOUNCE = Event(
    first,
    direction=-1,
    apply=lambda t, y, gravity, restitution: torch.stack([0 * y[..., 0], -restitution * y[..., 1]], -1),
)


def bounces(height, gravity, restitution, count):
    """The times of the bounces and the speeds before them, (count, …)."""
    flight = (2 * height / gravity).sqrt()
    speed = (2 * height * gravity).sqrt()
    powers = [restitution**k for k in range(count)]
    times = [flight * (1 + 2 * sum(powers[1 : k + 1])) for k in range(count)]
    return torch.stack(times), torch.stack([speed * power for power in powers])


def parameters(batching):
    if batching == "joint":
        values = 1.3, 9.81, 0.9
    else:
        values = [1.3, 0.4, 2.0, 1.0], [9.81, 3.7, 1.6, 24.8], [0.9, 0.8, 0.95, 0.85]
    return [tensor(x, requires_grad=True) for x in values]


def assert_gradients(found, expected, sources, bound=1e-8):
    """Of weighted sums of outputs, relative to their size."""
    total = sum((x * torch.linspace(0.5, 1.5, x.numel(), dtype=F64).view_as(x)).sum() for x in found)
    exact = sum((x * torch.linspace(0.5, 1.5, x.numel(), dtype=F64).view_as(x)).sum() for x in expected)
    for ours, theirs in zip(torch.autograd.grad(total, sources), torch.autograd.grad(exact, sources), strict=True):
        assert ((ours - theirs).abs() / (1 + theirs.abs())).max() < bound


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_ball_bounces_twenty_times_as_its_closed_form_does(batching, gradient):
    """Times, speeds, outputs between and the state at t1; their gradients to height, gravity and restitution."""
    height, gravity, restitution = parameters(batching)
    times, speeds = bounces(height, gravity, restitution, 20)
    last = times[-1] + restitution**20 * (2 * height / gravity).sqrt()  # the top of the flight after the last
    middle = (0.3 * times[6] + 0.7 * times[7]).detach()
    t_eval = torch.stack([torch.zeros_like(middle), middle, last.detach()])
    sol = solve_ivp(
        fall,
        (0.0, last.detach()),
        torch.stack([height, torch.zeros_like(height)], -1),
        t_eval=t_eval,
        args=(gravity, restitution),
        events=BOUNCE,
        batching=batching,
        gradient=gradient,
        **TIGHT,
    )
    assert sol.t_events[0].shape == times.shape
    since = middle - times[6]
    height_there = since * speeds[6] * restitution - gravity * since**2 / 2
    until = last.detach() - times[-1]
    top = until * speeds[-1] * restitution - gravity * until**2 / 2
    expected = [times, -speeds, torch.stack([height, height_there, top])]
    found = [sol.t_events[0], sol.y_events[0][..., 1], sol.ys[..., 0]]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)
    assert sol.y_events[0][..., 0].abs().max() < 1e-12
    assert_gradients(found, expected, [height, gravity, restitution])


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_dosing_schedule_is_its_closed_form(batching, gradient):
    """Values and gradients, to the rate, the doses and the times at which they are given."""
    rows = () if batching == "joint" else (3,)
    generator = torch.Generator().manual_seed(0)
    at = tensor([0.5, 1.1, 1.15, 2.8]).view(4, *(1,) * len(rows)) + 0.04 * torch.rand(4, *rows, generator=generator)
    at = at.to(F64).requires_grad_()
    dose = (1 + torch.rand(4, *rows, dtype=F64, generator=generator)).requires_grad_()
    rate = (0.5 + torch.rand(rows, dtype=F64, generator=generator)).requires_grad_()

    def given(k):
        return Event(
            lambda t, y, rate, at, dose: t.reshape(at[k].shape) - at[k],
            apply=lambda t, y, rate, at, dose: y + dose[k],
        )

    sol = solve_ivp(
        lambda t, y, rate, at, dose: -rate * y,
        (0.0, 3.0),
        torch.ones(rows, dtype=F64),
        t_eval=[0.0, 0.7, 2.0, 3.0],
        args=(rate, at, dose),
        events=[given(k) for k in (2, 0, 1, 3)],
        batching=batching,
        gradient=gradient,
        rtol=1e-13,
        atol=1e-13,
    )
    outputs = tensor([0.0, 0.7, 2.0, 3.0]).view(4, 1, *(1,) * len(rows))
    since = outputs - at
    exact = torch.exp(-rate * outputs[:, 0]) + (torch.where(since > 0, dose * torch.exp(-rate * since), 0.0)).sum(1)
    times = torch.stack([sol.t_events[k][0] for k in (1, 2, 0, 3)])
    torch.testing.assert_close(sol.ys, exact, rtol=0, atol=1e-8)
    torch.testing.assert_close(times, at, rtol=0, atol=1e-14)
    assert_gradients([sol.ys, times], [exact, at + 0 * rate + 0 * dose], [rate, at, dose])


def test_flights_much_shorter_than_a_step_are_each_seen():
    """A function that begins at zero has the sign of its rate, so that its way back to zero is no crossing missed."""
    args = tensor(2.0), tensor(0.5)
    six = replace(BOUNCE, terminal=6)
    sol = solve_ivp(fall, (0.0, 9.0), tensor([1.0, 0.0]), args=args, events=six, first_step=1.0, **TIGHT)
    torch.testing.assert_close(sol.t_events[0], bounces(tensor(1.0), *args, 6)[0], rtol=0, atol=1e-9)


def test_a_change_that_leaves_the_zero_is_no_crossing():
    """The state falls from 1 to 0 at each event, and grows again."""
    sol = solve_ivp(
        lambda t, y: torch.ones_like(y),
        (0.0, 3.5),
        tensor([0.0]),
        events=Event(lambda t, y: y[0] - 1, apply=lambda t, y: 0 * y),
        **TIGHT,
    )
    torch.testing.assert_close(sol.t_events[0], tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(sol.ys[-1], tensor([0.5]))


# ---------------------------------------------------------------------------------------------- gradients


STEP = 1e-3


def swing(t, y, friction):
    """A pendulum that is pushed."""
    x, v = y.unbind(-1)
    return torch.stack([v, 0.3 * torch.cos(3 * (t[..., 0] if t.ndim else t)) - friction * v - 5 * torch.sin(x)], -1)


def value_of_everything(sources, batching, gradient, *, back=False):
    """A number that depends on all that a solve with events gives: about four passes of each."""
    y0, friction, level, gain, t0 = sources
    events = [
        Event(lambda t, y, friction: y[..., 0] - 0.2 * level.sin()),  # level is captured
        Event(lambda t, y, friction: y[..., 1] - 0.3 * level, direction=1, apply=lambda t, y, _: y * gain),
        Event(lambda t, y, friction: y[..., 0] + 0.02 * t.reshape(y[..., 0].shape) * friction, terminal=3),
    ]
    sol = solve_ivp(
        swing,
        (t0, t0 + (-9.0 if back else 9.0)),
        y0,
        "vern7",
        args=(friction,),
        events=events,
        batching=batching,
        gradient=gradient,
        **TIGHT,
    )
    assert all(len(t) for t in sol.t_events)
    total = (sol.ys * tensor([0.3, -1.1])).sum() + sol.ts[-1].sum()
    for t, y in zip(sol.t_events, sol.y_events, strict=True):
        weights = torch.linspace(1, 2, t.shape[0], dtype=F64).view(-1, *(1,) * (t.ndim - 1))
        total = total + (torch.where(t.isnan(), 0.0, t) * weights).sum()
        total = total + (torch.where(y.isnan(), 0.0, y).sin() * weights.unsqueeze(-1)).sum()
    return total


@pytest.mark.parametrize(("batching", "back"), [("joint", True), ("per_sample", False)])
def test_gradients_are_those_of_finite_differences(batching, back):
    """To y0, an argument, what the event and its apply captured, and t0, of all that a solve gives."""
    y0 = tensor([1.0, 0.3]) if batching == "joint" else tensor([[1.0, 0.3], [0.8, -0.7]])
    sources = [x.requires_grad_() for x in (y0, tensor(0.2), tensor(0.5), tensor(1.05), tensor(0.1))]
    found = {
        gradient: torch.autograd.grad(value_of_everything(sources, batching, gradient, back=back), sources)
        for gradient in GRADIENTS
    }
    for n, source in enumerate(sources):
        way = torch.linspace(0.6, 1.4, source.numel(), dtype=F64).view_as(source)
        start, values = source.detach().clone(), []
        with torch.no_grad():
            for shift in (-2, -1, 1, 2):  # a difference of fourth order, so that its step may be long
                source.copy_(start + shift * STEP * way)
                values.append(value_of_everything(sources, batching, "direct", back=back).item())
            source.copy_(start)
        expected = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * STEP)
        for gradient, gradients in found.items():
            error = abs((gradients[n] * way).sum().item() - expected) / abs(expected)
            assert error < 1e-6, f"{gradient}: source {n} is off by {error:.1e}"


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4", "dopri5"])
@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_exact_gradients_of_coarse_steps_are_those_of_what_was_computed(method, gradient, batching):
    """An event is a zero on the interpolant, whose slope is far from the field here, and so is its derivative."""
    start = tensor([1.0, 0.3, 0.2]) if batching == "joint" else tensor([[1.0, 0.3, 0.2]])

    def value(x):
        events = Event(lambda t, y, k: y[..., 0] + 0.1 * y[..., 1], apply=lambda t, y, k: -0.9 * y)
        given = {"args": x[..., 2].sum(), "events": events, "step_size": 0.3, "batching": batching}
        sol = solve_ivp(swing, (0.1, 2.0), x[..., :2], method, gradient=gradient, **given)
        return sol.t_events[0].square().sum() + sol.y_events[0].sin().sum() + sol.ys[-1].sum()

    x = start.clone().requires_grad_()
    (found,) = torch.autograd.grad(value(x), x)
    with torch.no_grad():
        for way in torch.eye(3, dtype=F64):
            far, near = ((value(start + h * way) - value(start - h * way)).item() / (2 * h) for h in (2e-4, 1e-4))
            expected = (4 * near - far) / 3
            assert abs((found * way).sum().item() - expected) < 1e-8 * max(abs(expected), 1)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_gradient_that_only_the_event_or_its_apply_needs(gradient):
    """Nothing that the front door sees needs one."""
    level, gain = tensor(0.25, requires_grad=True), tensor(3.0, requires_grad=True)
    grow = partial(solve_ivp, lambda t, y: y, (0.0, 1.0), tensor([1.0]), gradient=gradient, **TIGHT)
    sol = grow(events=Event(lambda t, y: y[0] - 1 - level, terminal=True))
    (found,) = torch.autograd.grad(sol.t_events[0].sum() + sol.ys[-1].sum(), level)
    assert abs(found.item() - (1 / 1.25 + 1)) < 1e-8
    sol = grow(events=Event(lambda t, y: y[0] - 2.0, direction=1, apply=lambda t, y: y - gain))
    (found,) = torch.autograd.grad(sol.ys[-1].sum(), gain)
    assert abs(found.item() + math.e / 2) < 1e-8


def test_parameters_of_a_module():
    """y = (cos t, -sin t) meets the line w y + b = 0 of a net where dt/db = -1 / (w dy/dt)."""
    net = torch.nn.Linear(2, 1).double()
    with torch.no_grad():
        net.weight.copy_(tensor([[1.0, 0.5]]))
        net.bias.fill_(0.3)
    for gradient in GRADIENTS:
        event = Event(lambda t, y: net(y), direction=-1)
        sol = solve_ivp(circle, (0.0, 6.0), tensor([[1.0, 0.0]]), events=event, batching="per_sample",
                        gradient=gradient, **TIGHT)  # fmt: skip
        to_weight, to_bias = torch.autograd.grad(sol.t_events[0].sum(), list(net.parameters()))
        y = sol.y_events[0][0, 0].detach()
        rate = net.weight.detach() @ circle(None, y)
        torch.testing.assert_close(to_bias, -1 / rate, rtol=1e-7, atol=0)
        torch.testing.assert_close(to_weight, -y[None] / rate, rtol=1e-7, atol=0)


def test_values_are_the_same_with_a_gradient_and_without():
    for batching in BATCHINGS:
        sources = [x.requires_grad_() for x in (
            tensor([1.0, 0.3]) if batching == "joint" else tensor([[1.0, 0.3], [0.8, -0.7]]),
            tensor(0.2), tensor(0.5), tensor(1.05), tensor(0.1),
        )]  # fmt: skip
        with torch.no_grad():
            expected = value_of_everything(sources, batching, "checkpointed")
        for gradient in GRADIENTS:
            torch.testing.assert_close(
                value_of_everything(sources, batching, gradient), expected, rtol=1e-12, atol=1e-12
            )


def test_a_second_derivative_of_an_event_is_refused():
    level = tensor(1.5, requires_grad=True)
    sol = solve_ivp(lambda t, y: y, (0.0, 1.0), tensor([1.0]), events=lambda t, y: y[0] - level, gradient="direct")
    (once,) = torch.autograd.grad(sol.t_events[0].sum(), level, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives alone"):
        torch.autograd.grad(once, level)


# ---------------------------------------------------------------------------------------------- rows


def test_a_row_among_others_is_the_row_alone():
    """Different numbers of events, some that end, one without any, and one that fails."""
    y0 = tensor([[1.0, 0.0], [0.1, 0.0], [2.5, 1.0], [0.0, 0.0], [1.0, 5.0]])
    t1 = tensor([9.0, 5.0, 7.0, 3.0, 8.0])

    def solve(rows):
        return solve_ivp(
            pendulum,
            (0.0, t1[rows]),
            y0[rows],
            t_eval=torch.linspace(0, 1, 7, dtype=F64)[:, None] * t1[rows],
            events=[
                Event(first, direction=1, apply=lambda t, y: y * 1.5),
                Event(second, terminal=4),
                Event(lambda t, y: y[:, 0] - 0.5),
            ],
            batching="per_sample",
            rtol=1e-8,
            atol=1e-8,
        )

    together = solve(list(range(5)))
    assert len(set(together.status.tolist())) == 2
    for row in range(5):
        alone = solve([row])
        assert together.status[row] == alone.status[0]
        assert together.stats.n_steps[row] == alone.stats.n_steps[0]
        assert together.stats.nfev[row] == alone.stats.nfev[0]
        torch.testing.assert_close(together.ys[:, row], alone.ys[:, 0], rtol=1e-11, atol=1e-11, equal_nan=True)
        for t, y, t_alone, y_alone in zip(
            together.t_events, together.y_events, alone.t_events, alone.y_events, strict=True
        ):
            count = len(t_alone)
            torch.testing.assert_close(t[:count, row], t_alone[:, 0], rtol=1e-11, atol=1e-11, equal_nan=True)
            torch.testing.assert_close(y[:count, row], y_alone[:, 0], rtol=1e-11, atol=1e-11, equal_nan=True)
            assert t[count:, row].isnan().all()
            assert y[count:, row].isnan().all()


@pytest.mark.parametrize("gradient", ["direct", "checkpointed"])
def test_a_row_that_an_event_has_ended_is_carried_no_further(gradient):
    """Not even in a graph, where rows that have ended take part in the steps of the others: with size 0."""
    latest = torch.zeros(2, dtype=F64)

    def field(t, y):
        latest.copy_(torch.maximum(latest, t.detach()[:, 0]))
        return torch.ones_like(y)

    y0, t1 = tensor([[0.9], [-9.5]], requires_grad=True), tensor(10.0, requires_grad=True)
    sol = solve_ivp(
        field, (0.0, t1), y0, events=Event(lambda t, y: y[:, 0] - 1, terminal=True), batching="per_sample",
        gradient=gradient, max_step=0.05,
    )  # fmt: skip
    torch.testing.assert_close(sol.t_events[0][0, 0].detach(), tensor(0.1))
    assert latest[0] < 0.2  # the step in which the event was found


@pytest.mark.parametrize("needs_grad", [False, True])
@pytest.mark.parametrize("batching", BATCHINGS)
def test_outputs_after_a_terminal_event_are_nan(batching, needs_grad):
    y0 = tensor([1.0, 0.0], requires_grad=needs_grad) if batching == "joint" else tensor(
        [[1.0, 0.0], [0.0, 1.0]], requires_grad=needs_grad
    )  # fmt: skip
    times = torch.linspace(0, 6, 13, dtype=F64)
    event = Event(first, direction=-1, terminal=True)  # at π/2, and at π
    sol = solve_ivp(circle, (0.0, 6.0), y0, t_eval=times, events=event, batching=batching, **TIGHT)
    exact = solve_ivp(circle, (0.0, 6.0), y0, t_eval=times, batching=batching, **TIGHT).ys
    ends = tensor(math.pi / 2) if batching == "joint" else tensor([math.pi / 2, math.pi])
    after = times.view(-1, *(1,) * ends.ndim) > ends
    assert torch.equal(sol.ys.isnan().all(-1), after)
    torch.testing.assert_close(sol.ys[~after], exact[~after], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sol.t_events[0][0], ends, rtol=0, atol=1e-9)
    assert sol.success if batching == "joint" else sol.success.all()
    assert sol.message == "a terminal event ended the solve"


@pytest.mark.parametrize("gradient", [None, "direct"])
@pytest.mark.parametrize("batching", BATCHINGS)
def test_dense_output_is_each_segments_own(batching, gradient):
    """At the time of a change it is the state after it."""
    height, gravity, restitution = (x.detach() for x in parameters(batching))
    times, speeds = bounces(height, gravity, restitution, 3)
    last = times[-1] + 0.1
    options = {} if gradient is None else {"gradient": gradient}
    gravity.requires_grad_(gradient is not None)
    sol = solve_ivp(
        fall,
        (0.0, last),
        torch.stack([height, torch.zeros_like(height)], -1),
        args=(gravity, restitution),
        events=BOUNCE,
        dense_output=True,
        batching=batching,
        **TIGHT,
        **options,
    )
    found = sol.t_events[0].detach()
    torch.testing.assert_close(sol(found)[..., 1], restitution * speeds, rtol=0, atol=1e-8)
    torch.testing.assert_close(sol(found - 1e-12)[..., 1], -speeds, rtol=0, atol=1e-8)
    since = (times[1] - times[0]) / 3
    there = since * speeds[0] * restitution - gravity * since**2 / 2
    at = (times[0] + since).unsqueeze(0)
    torch.testing.assert_close(sol(at)[0, ..., 0], there, rtol=0, atol=1e-8)
    torch.testing.assert_close(sol(last.unsqueeze(0))[0], sol.ys[-1], rtol=0, atol=1e-10)
    if gradient is not None:
        (found,) = torch.autograd.grad(sol(at)[0, ..., 0].sum(), gravity)
        assert found.isfinite().all()


def test_dense_output_ends_with_a_terminal_event():
    sol = solve_ivp(circle, (0.0, 5.0), tensor([1.0, 0.0]), events=Event(first, terminal=True), dense_output=True)
    assert sol.sol.ts[-1] == sol.t_events[0][0]
    with pytest.raises(ValueError, match=r"between the ends of the solution, 0 and 1\.57\d*, got 2"):
        sol(2.0)
    rows = {"events": Event(clock(tensor([9.0, 2.0])), terminal=True), "batching": "per_sample"}
    sol = solve_ivp(circle, (0.0, 5.0), torch.ones(2, 2, dtype=F64), dense_output=True, **rows)
    with pytest.raises(ValueError, match="between the ends of the solution, 0 and 2 in row 1, got 3"):
        sol(3.0)


# ---------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_solve_that_fails_keeps_the_events_before_it(gradient):
    """dy/dt = y² has a pole at 1 / y0; the other rows are as they would be without it."""
    y0 = tensor([1.0, 0.4, 0.8], requires_grad=True)
    sol = solve_ivp(
        lambda t, y: y * y,
        (0.0, 2.0),
        y0,
        events=[lambda t, y: y - 1.2, Event(lambda t, y: y - 1.6, apply=lambda t, y: 0.0 * y)],
        batching="per_sample",
        gradient=gradient,
        **TIGHT,
    )
    assert sol.success.all()
    sol = solve_ivp(
        lambda t, y: y * y,
        (0.0, 2.0),
        y0,
        events=lambda t, y: y - 1.2,
        batching="per_sample",
        gradient=gradient,
        on_failure="return",
        max_steps=500,
        **TIGHT,
    )
    assert sol.success.tolist() == [False, True, False]
    torch.testing.assert_close(sol.t_events[0], (1 / y0 - 1 / 1.2)[None], rtol=0, atol=1e-8)
    continuous = gradient in ("adjoint", "interpolating")  # which ask nothing of failed rows
    kept = sol.success if continuous else torch.ones(3, dtype=torch.bool)
    (found,) = torch.autograd.grad(sol.t_events[0][:, kept].sum(), y0)
    torch.testing.assert_close(found[kept], -1 / y0.detach()[kept] ** 2, rtol=1e-7, atol=1e-7)
    with pytest.raises(SolveError) as raised:
        solve_ivp(lambda t, y: y * y, (0.0, 2.0), tensor([1.0]), events=lambda t, y: y[0] - 1.2, max_steps=500)
    assert len(raised.value.solution.t_events[0]) == 1


@pytest.mark.parametrize("needs_grad", [False, True])
def test_a_callback_that_stops_the_solve_keeps_the_outputs_and_events_before(needs_grad):
    y0 = tensor([1.0, 0.0], requires_grad=needs_grad)
    sol = solve_ivp(circle, (0.0, 9.0), y0, t_eval=torch.arange(10.0), events=lambda t, y: y[0], max_step=0.5,
                    callback=lambda step: step.t > 3.2, on_failure="return", **TIGHT)  # fmt: skip
    assert sol.status is Status.STOPPED
    torch.testing.assert_close(sol.t_events[0], tensor([math.pi / 2]), rtol=0, atol=1e-9)
    assert torch.equal(sol.ys[:, 0].isnan(), torch.arange(10) > 3)


def test_times_that_no_step_crosses_and_events():
    sol = solve_ivp(circle, (0.0, 9.0), tensor([1.0, 0.0]), events=Event(first, apply=lambda t, y: 2 * y),
                    step_ts=[0.5, 1.6, 7.0], **TIGHT)  # fmt: skip
    torch.testing.assert_close(sol.t_events[0], (tensor([0.5, 1.5, 2.5]) * math.pi), rtol=0, atol=1e-9)
    torch.testing.assert_close(sol.ys[-1].norm(), tensor(8.0), rtol=0, atol=1e-8)


def test_bounces_without_end_fail():
    """A ball that loses half its speed bounces infinitely often in a finite time, and does not fall through."""
    args = tensor(2.0), tensor(0.5)
    solve = partial(solve_ivp, fall, (0.0, 10.0), tensor([1.0, 0.0]), args=args, events=BOUNCE, on_failure="return")
    assert solve(max_steps=30, **TIGHT).status is Status.MAX_STEPS
    sol = solve(**TIGHT)
    assert sol.status is Status.STEP_UNDERFLOW
    assert sol.ys[-1].isnan().all()
    assert (sol.t_events[0] < 3.0 + 1e-9).all()
    assert len(sol.t_events[0]) > 20


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (3, "events must be a function, an Event or a sequence"),
        ([3], "must be callable as event"),
        (with_attributes(first, terminal=-1), "terminal of an event must be True, False or the count"),
        (with_attributes(first, terminal=1.5), "terminal of an event must be"),
        (with_attributes(first, direction="up"), "direction of an event must be a number"),
        (with_attributes(first, apply=2), "apply of an event must be callable"),
        (lambda t, y: y, r"events\[0\] must return one number, but returned shape \(2,\)"),
        ([first, lambda t, y: 1j * y[0]], r"events\[1\] must return a real number"),
        (lambda t, y: "no", r"events\[0\] must return a real number or tensor, but returned str"),
        (lambda t, y: y.neg_()[0], r"events\[0\] must not write into y"),
        (Event(first, apply=lambda t, y: y[0]), r"apply of events\[0\] must return the shape and dtype"),
        (Event(first, apply=lambda t, y: [y]), r"apply of events\[0\] must return the structure"),
    ],
)
def test_what_is_wrong_with_an_event_is_said(events, message):
    with pytest.raises(ValueError, match=message):
        solve_ivp(circle, (0.0, 3.0), tensor([1.0, 0.0]), events=events)


def test_per_sample_events_are_one_number_a_row():
    with pytest.raises(ValueError, match=r"one number for each row, \(3,\), but returned shape \(3, 2\)"):
        solve_ivp(circle, (0.0, 3.0), torch.ones(3, 2), events=lambda t, y: y, batching="per_sample")


def test_no_events_are_no_lists_and_an_empty_list_is_one():
    assert solve_ivp(circle, (0.0, 1.0), tensor([1.0, 0.0])).t_events is None
    assert solve_ivp(circle, (0.0, 1.0), tensor([1.0, 0.0]), events=[]).t_events == []


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_span_without_length_and_a_batch_without_rows(batching):
    sol = solve_ivp(circle, (1.0, 1.0), tensor([[1.0, 0.0]]), events=first_row(batching), batching=batching)
    assert sol.t_events[0].shape[0] == 0
    assert sol.success if batching == "joint" else sol.success.all()
    if batching == "per_sample":
        sol = solve_ivp(circle, (0.0, 1.0), torch.ones(0, 2), events=first_row(batching), batching=batching)
        assert sol.t_events[0].shape == (0, 0)


JUMPS = {
    "two values": lambda y: torch.where(y > 0.3, 1.0, -1.0),
    "steps": lambda y: torch.floor(10 * y) - 2.5,
    "a sign": lambda y: torch.sign(y - 0.3),
    "an upright tangent": lambda y: torch.sign(y - 0.3) * (y - 0.3).abs() ** (1 / 3),
    "a flat one": lambda y: (y - 0.3) ** 3,
}


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("jump", JUMPS)
def test_what_jumps_happens_once(jump, dtype, batching):
    """The solve goes on from behind it: from before, it would be seen to jump again."""
    event = Event(lambda t, y: JUMPS[jump](y[..., 0]), apply=lambda t, y: y + torch.tensor([0.0, 1.0], dtype=dtype))
    y0 = torch.tensor([0.0, 1.0], dtype=dtype)
    y0 = y0[None] if batching == "per_sample" else y0
    field = lambda t, y: torch.stack([torch.cos(y[..., 0]), 0 * y[..., 1]], -1)  # noqa: E731
    sol = solve_ivp(field, (0.0, 1.0), y0, events=event, batching=batching, rtol=1e-4, atol=1e-5)
    assert sol.t_events[0].numel() == 1
    assert sol.t_events[0].item() == pytest.approx(math.log(math.tan(0.15 + math.pi / 4)), rel=1e-3)
    assert sol.ys[-1].flatten()[1].item() == 2


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("power", [2, 3, 5])
def test_functions_of_one_zero_happen_together(power, dtype, batching):
    """However many digits a state has."""
    events = [
        Event(lambda t, y: y[..., 0] - 1, apply=lambda t, y: y - 0.5),
        Event(lambda t, y: y[..., 0] ** power - 1, terminal=3),
    ]
    y0 = torch.tensor([[0.1], [0.3]] if batching == "per_sample" else [0.1], dtype=dtype)
    sol = solve_ivp(lambda t, y: 0.7 * y + 0.2, (0.0, 4.0), y0, events=events, batching=batching, rtol=1e-5)
    assert [len(t) for t in sol.t_events] == [3, 3]
    assert (torch.as_tensor(sol.status) == Status.EVENT.value).all()
