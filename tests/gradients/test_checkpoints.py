"""A solve of which few states are kept has the gradient that it has anyway, and keeps no more than those."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from gradient_checks import TROUBLE, troubled
from pairs import solve
from thalweg import Checkpointed, Event, solve_ivp
from thalweg.gradients.schedule import Places

F64 = torch.float64
BATCHINGS = ["joint", "per_sample"]
FAMILIES = [
    "euler", "tsit5", "dopri8", "implicit_midpoint", "kvaerno3", "gl4", "radau5", "rosenbrock23", "adams_bashforth3",
    "adams_moulton2", "adams", "rkc", "auto", "kencarp4", "leapfrog",
]  # fmt: skip
both = pytest.mark.parametrize("batching", BATCHINGS)
EVERY = Checkpointed(memory_limit=0)


def few(count):
    return Checkpointed(memory_limit=0, checkpoints=count)


class Field(torch.nn.Module):
    """Nonlinear in y, in t and in its parameters; each row faster than the one before."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.weight = torch.nn.Parameter(torch.randn(3, 3, dtype=F64))
        self.bias = torch.nn.Parameter(torch.randn(3, dtype=F64))

    def forward(self, t, y, rate):
        return rate * (torch.tanh(y @ self.weight + t * self.bias) - 0.3 * y * torch.sin(t + y))


def compared(ways, method="tsit5", *, inside=True, back=False, **options):
    """The gradients of each way to everything that a solve depends on."""
    found = []
    options = {"rtol": 1e-5, "atol": 1e-6, **options}
    for gradient in ways:
        field = Field()
        y0, rate = torch.randn(4, 3, dtype=F64), torch.tensor([[0.3], [0.6], [1.0], [2.0]], dtype=F64)
        t0, t1 = torch.tensor(0.2, dtype=F64), torch.tensor(1.5, dtype=F64)
        t_eval = torch.tensor([0.2, 0.4, 0.41, 0.9, 1.3], dtype=F64)
        if back:
            t0, t1, t_eval = t1, t0, t_eval.flip(0)
        sources = [y0, rate, t0, t1, *([t_eval] if inside else [])]
        for x in sources:
            x.requires_grad_()
        sol = solve(field, (t0, t1), y0, method, t_eval if inside else None, args=(rate,), gradient=gradient, **options)
        sources += field.parameters()
        weights = torch.linspace(1, 2, sol.ys.numel(), dtype=F64).view_as(sol.ys)
        loss = (sol.ys.sin() * weights).sum()
        found.append(torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True))
        compared.steps = torch.as_tensor(sol.stats.n_accepted)
    return found


def assert_equal(found, expected, rtol=1e-12):
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert (one - other).norm() <= rtol * max(other.norm(), 1), f"source {i}"


@both
@pytest.mark.parametrize("method", FAMILIES)
def test_gradients_of_every_family_of_methods_are_the_same_with_one_state(method, batching):
    """Whatever a stepper keeps to itself between steps: as with all states, and as those of `direct`."""
    bounded, every, direct = compared([few(1), EVERY, "direct"], method, batching=batching, step_size=0.26)
    assert_equal(bounded, every)
    assert_equal(bounded, direct)


@both
@pytest.mark.parametrize("method", ["kvaerno3", "radau5", "rodas5p", "adams", "rkc", "auto"])
def test_gradients_of_steps_that_are_chosen_are_the_same_with_two_states(method, batching):
    bounded, direct = compared([few(2), "direct"], method, batching=batching, rtol=1e-4, atol=1e-5)
    assert_equal(bounded, direct, rtol=1e-11)


@both
@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("inside", [True, False], ids=["t_eval", "ends"])
@pytest.mark.parametrize("back", [False, True], ids=["forward", "back"])
def test_gradients_are_the_same_with_any_number_of_states(back, inside, count, batching):
    """Both directions of time, steps that are rejected, and rows that take more steps than others."""
    bounded, direct = compared([few(count), "direct"], "dopri5", inside=inside, back=back, batching=batching)
    assert compared.steps.max() > 4
    assert batching == "joint" or len(set(compared.steps.tolist())) > 1
    assert_equal(bounded, direct, rtol=1e-11)


@both
def test_a_graph_that_turns_out_too_large_is_let_go(batching):
    """Recorded at first, then not: the beginnings that were kept meanwhile serve as all others."""
    ways = [Checkpointed(memory_limit=20_000, checkpoints=2), "direct"]
    assert_equal(*compared(ways, batching=batching), rtol=1e-11)


def test_rows_that_fail_are_not_felt():
    found = []
    for gradient in (few(2), EVERY):
        k = torch.tensor(3.0, dtype=F64, requires_grad=True)
        sol = solve_ivp(
            troubled, (0.0, 1.0), TROUBLE, args=(k,), rtol=1e-4, batching="per_sample", gradient=gradient,
            on_failure="return",
        )  # fmt: skip
        found.append(torch.autograd.grad(sol.ys[-1, sol.success].square().sum(), k))
    assert found[0][0].isfinite()
    assert_equal(*found)


@both
def test_events_that_change_the_state_and_their_times(batching):
    """A ball that bounces, row by row at times of its own: each stretch in between keeps as many."""
    bounce = Event(
        lambda t, y, g: y[..., 0],
        direction=-1,
        apply=lambda t, y, g: torch.stack([0 * y[..., 0], -0.8 * y[..., 1]], -1),
    )
    found = []
    for gradient in (few(1), EVERY):
        y0 = torch.tensor([[1.0, 0.0], [1.3, 0.4]], dtype=F64)[: 2 if batching == "per_sample" else 1].clone()
        y0.requires_grad_()
        g = torch.tensor(9.81, dtype=F64, requires_grad=True)
        start = y0 if batching == "per_sample" else y0[0]
        sol = solve_ivp(
            lambda t, y, g: torch.stack([y[..., 1], -g - 0.1 * y[..., 1] ** 3], -1), (0.0, 1.5), start, args=(g,),
            events=bounce, gradient=gradient, batching=batching, rtol=1e-6, atol=1e-8,
        )  # fmt: skip
        times = torch.nan_to_num(torch.as_tensor(sol.t_events[0]))
        found.append(torch.autograd.grad(sol.ys[-1].sum() + times.sum(), [y0, g]))
    assert_equal(*found)


def test_jumps_of_the_field_and_times_that_no_step_crosses():
    options = {"jump_ts": [0.6, 1.1], "step_ts": [0.8]}
    assert_equal(*compared([few(1), EVERY], "bosh3", **options))


@both
def test_a_second_backward_pass_and_a_second_derivative(batching):
    found = []
    for gradient in (few(2), "direct"):
        y0 = torch.linspace(0.5, 2, 6, dtype=F64).view(3, 2).requires_grad_()
        sol = solve_ivp(lambda t, y: -(y**2), (0, 3), y0, gradient=gradient, batching=batching, rtol=1e-8)
        loss = sol.ys[-1].square().sum()
        first = torch.autograd.grad(loss, y0, retain_graph=True)
        again = torch.autograd.grad(loss, y0, create_graph=True)
        found.append([*first, *again, *torch.autograd.grad(again[0].sum(), y0)])
    assert_equal(*found, rtol=1e-11)


class States:
    """A field that sees the beginnings of all steps, and how many of them are alive at once.

    `euler` evaluates it there and nowhere else.
    """

    def __init__(self):
        self.seen, self.most, self.calls = {}, 0, 0

    def __call__(self, t, y, k):
        self.calls += 1
        self.seen = {key: ref for key, ref in self.seen.items() if not ref.expired()}
        self.most = max(self.most, len(self.seen))
        storage = y.untyped_storage()
        self.seen[storage._cdata] = StorageWeakRef(storage)
        return -k * y**2


@both
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_no_more_states_are_alive_and_no_more_steps_taken_again(steps, count, batching):
    """Alive beside those that are kept are y0 and the states where the step at hand begins and ends."""
    field, k = States(), torch.tensor(0.3, dtype=F64, requires_grad=True)
    y0 = torch.ones(3, 2, dtype=F64)
    sol = solve_ivp(
        field, (0.0, 1.0), y0, "euler", args=(k,), step_size=1 / steps, batching=batching, gradient=few(count)
    )
    assert field.calls == steps
    assert field.most <= count + 3
    sol.ys[-1].sum().backward()
    assert field.most <= count + 3
    places, again = Places(count), 0
    for n in range(1, steps):
        places.add(n)
    for n in reversed(range(steps)):
        begin, stops = places.way_to(n)
        again += n - begin
        for stop in stops:
            places.keep(stop)
    assert field.calls == 2 * steps + again
    assert sol.stats.nfev_backward == steps + again


def test_every_state_is_alive_without_a_bound():
    """What is counted above can be seen at all."""
    field, k = States(), torch.tensor(0.3, dtype=F64, requires_grad=True)
    solve_ivp(
        field, (0.0, 1.0), torch.ones(3, 2, dtype=F64), "euler", args=(k,), step_size=1 / 40, gradient=EVERY
    ).ys.sum()
    assert field.most >= 39


@both
@pytest.mark.parametrize("count", [1, 3])
def test_a_backward_pass_that_broke_off_can_be_run_again(batching, count):
    """An error at any evaluation of it leaves what the next one needs."""
    field, rate = Field(), torch.tensor(0.7, dtype=F64)
    y0 = torch.linspace(-1, 1, 6, dtype=F64).view(2, 3).requires_grad_()
    left = [1_000]

    def breaking(t, y):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return field(t, y, rate)

    sol = solve_ivp(breaking, (0.0, 2.0), y0, step_size=0.25, batching=batching, gradient=few(count), backend="eager")
    loss = sol.ys[-1].square().sum()
    (expected,) = torch.autograd.grad(loss, y0, retain_graph=True)
    spent = 1_000 - left[0]
    for at in range(1, spent // 2, 5):
        left[0] = at
        with pytest.raises(KeyboardInterrupt):
            torch.autograd.grad(loss, y0, retain_graph=True)
        left[0] = 1_000
        assert torch.equal(torch.autograd.grad(loss, y0, retain_graph=True)[0], expected)


@pytest.mark.parametrize("count", [0, -1, 2.0, True, "few"])
def test_the_bound_is_a_number_of_states(count):
    with pytest.raises(ValueError, match="checkpoints must be a number of states"):
        Checkpointed(checkpoints=count)


def test_a_batch_that_shrinks_is_refused():
    y0 = torch.ones(3, 2, requires_grad=True)
    with pytest.raises(ValueError, match="leave out one of the two"):
        solve_ivp(lambda t, y: -y, (0, 1), y0, batching="per_sample", shrink=True, gradient=few(3))
