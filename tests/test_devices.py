"""What is asked with tensors on one device is answered there, and as on the CPU, wherever PyTorch puts new tensors.

The default device is another one throughout: a tensor that is made without saying where does not meet its like. On a
machine without a GPU the CPU alone is tested, beside tensors that hold nothing.
"""

import copy
import pickle
import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

import thalweg
from pairs import solve
from thalweg import (
    Adjoint,
    Checkpointed,
    Event,
    Forward,
    NeuralODEClassifier,
    NeuralODERegressor,
    Reversible,
    SolveError,
    solve_ivp,
)
from thalweg.compat import torchdiffeq
from thalweg.gradients import GRADIENTS
from thalweg.learn.config import Config
from thalweg.learn.runs import Run, find_stopped, resume_run, train_run
from thalweg.methods import get_method, methods
from thalweg.paths import CubicHermitePath

F64 = torch.float64
ROWS, SIZE = 4, 3
SPAN = (0.2, 1.0)
BATCHINGS = ("joint", "per_sample")


@pytest.fixture
def elsewhere(device):
    """The device on which tensors are made that do not say where."""
    gpu = "cuda" if torch.cuda.is_available() else "meta"
    with torch.device(gpu if device.type == "cpu" else "cpu") as other:
        yield other


def randn(*shape, seed=0):
    """The same numbers on every device."""
    return torch.randn(*shape, dtype=F64, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")


def slope(t, y, weight, rate):
    """Of rows that do not talk to each other, and of time."""
    return torch.tanh(y @ weight) + rate * torch.cos(3 * t + y)


@dataclass
class Given:
    """A problem, on a device; what needs a gradient is a leaf."""

    device: torch.device
    dtype: torch.dtype = F64
    grad: bool = False
    y0: torch.Tensor = field(init=False)

    def __post_init__(self):
        self.y0, self.weight, self.rate = (
            self.tensor(x)
            for x in (randn(ROWS, SIZE, seed=2), 0.5 * randn(SIZE, SIZE, seed=1), torch.tensor(0.7, device="cpu"))
        )
        self.ends = tuple(self.tensor(torch.tensor(t, dtype=F64, device="cpu"), F64) for t in SPAN)

    def tensor(self, x, dtype=None):
        return x.detach().to(self.device, dtype or self.dtype).requires_grad_(self.grad)

    @property
    def args(self):
        return (self.weight, self.rate)

    def solved(self, method="tsit5", t_span=None, **options):
        found = get_method(method)
        steps = {"rtol": 1e-6, "atol": 1e-6} if found.adaptive else {"step_size": 0.05}
        span = self.ends if t_span is None and self.grad else t_span or SPAN
        return solve(slope, span, self.y0, method, args=self.args, **{**steps, **options})

    def gradients(self, loss):
        sources = [self.y0, *self.args, *self.ends]
        found = torch.autograd.grad(loss, sources, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for g, x in zip(found, sources, strict=True)]


class Net(torch.nn.Module):
    """A field of its own parameters."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(SIZE, 8), torch.nn.Tanh(), torch.nn.Linear(8, SIZE))

    def forward(self, t, y):
        return self.layers(y)


def tensors_of(found):
    """All tensors of a result, and its statuses and counts of steps as they are."""
    if isinstance(found, thalweg.Solution):
        stats = found.stats
        return tensors_of(
            [
                found.ts,
                found.ys,
                found.status,
                stats.nfev,
                stats.n_steps,
                stats.njev,
                stats.nlu,
                found.t_events,
                found.y_events,
            ]
        )
    if isinstance(found, dict):
        return tensors_of(list(found.values()))
    if isinstance(found, list | tuple):
        return [x for part in found for x in tensors_of(part)]
    return [] if found is None else [found]


def assert_alike(ask, device, rtol=1e-9):
    """That what `ask(device)` gives is there, and what it is on the CPU."""
    found = tensors_of(ask(device))
    with torch.device("cpu"):
        expected = tensors_of(ask(torch.device("cpu")))
    assert found
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        if not isinstance(x, torch.Tensor):
            assert x == y
            continue
        assert x.device.type == device.type
        torch.testing.assert_close(x.cpu(), y, rtol=rtol, atol=rtol, equal_nan=True)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("method", [m.name for m in methods()])
def test_every_method(method, batching, device, elsewhere):
    times = torch.tensor([0.23, 0.5, 0.77], dtype=F64, device="cpu")

    def ask(device):
        sol = Given(device).solved(
            method, t_eval=times.to(device), batching=batching, dense_output=True, max_steps=10_000
        )
        return [sol, sol(0.4), sol(times)]

    # the steps of `auto`, and of what solves for its stages, turn on numbers that rounding moves
    assert_alike(ask, device, 1e-9 if get_method(method).kind in ("explicit", "adams", "symplectic") else 1e-7)


FAMILIES = {
    "dopri5": GRADIENTS,
    "vern7": ("checkpointed", "direct", "forward", "adjoint", "interpolating", "gauss"),
    "rk4": GRADIENTS,
    "kvaerno5": ("checkpointed", "direct", "adjoint", "gauss"),
    "radau5": ("checkpointed", "direct", "adjoint"),
    "rodas5p": ("checkpointed", "direct", "adjoint", "interpolating"),
    "auto": ("checkpointed", "direct", "adjoint"),
    "rkc": ("checkpointed", "direct", "adjoint"),
    "adams": ("checkpointed", "direct", "adjoint"),
    "kencarp4": ("checkpointed", "direct"),
    "yoshida4": ("checkpointed", "direct"),
}


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize(("method", "gradient"), [(m, g) for m, gs in FAMILIES.items() for g in gs])
def test_every_gradient(method, gradient, batching, device, elsewhere):
    def ask(device):
        given = Given(device, grad=True)
        sol = given.solved(method, gradient=gradient, batching=batching)
        return given.gradients((sol.ys.sin() * randn(ROWS, SIZE, seed=3).to(device)).sum())

    continuous = gradient in ("adjoint", "interpolating", "gauss")
    assert_alike(ask, device, 1e-5 if continuous else 1e-7)


@pytest.mark.parametrize(
    "gradient",
    [
        Checkpointed(checkpoints=2),
        Checkpointed(memory_limit=20_000),
        Adjoint(rtol=1e-8),
        Forward(limit=64),
        Reversible(coupling=0.99),
    ],
    ids=["by count", "by bytes", "adjoint", "forward", "reversible"],
)
def test_options_of_gradients(gradient, device, elsewhere):
    def ask(device):
        given = Given(device, grad=True)
        sol = given.solved("dopri5", gradient=gradient, max_step=0.05)
        return given.gradients(sol.ys.sin().sum())

    assert_alike(ask, device)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_times_on_the_cpu_for_a_state_elsewhere(batching, device, elsewhere):
    """As people give them, who think of times as numbers; gradients come back to where the times are."""
    t0, t1 = (torch.tensor(t, dtype=F64, device="cpu", requires_grad=True) for t in SPAN)
    given = Given(device)
    times = torch.linspace(*SPAN, 5, dtype=F64, device="cpu")
    assert given.solved("dopri5", t_span=(t0, t1), t_eval=times, batching=batching).ys.device.type == device.type
    sol = given.solved("dopri5", t_span=(t0, t1), batching=batching)
    g0, g1 = torch.autograd.grad(sol.ys[-1].sum(), (t0, t1))
    assert g0.device.type == g1.device.type == "cpu"
    torch.testing.assert_close(
        g1.item(), slope(t1.item(), sol.ys[-1].detach(), *given.args).sum().item(), rtol=1e-4, atol=1e-4
    )


def test_times_of_every_row(device, elsewhere):
    def ask(device):
        given = Given(device, grad=True)
        t1 = torch.linspace(0.5, 1.5, ROWS, dtype=F64, device=device).requires_grad_()
        t_eval = torch.stack([0.4 * t1.detach(), 0.9 * t1.detach()]).clamp(min=0.2)
        t_eval[1, 2] = torch.nan
        sol = given.solved("dopri5", t_span=(SPAN[0], t1), batching="per_sample", t_eval=t_eval)
        ends = given.solved("dopri5", t_span=(SPAN[0], t1), batching="per_sample").ys[-1]
        return [sol, torch.autograd.grad(ends.sin().sum(), (t1, given.weight))]

    assert_alike(ask, device)


@pytest.mark.parametrize("method", ["tsit5", "rodas5p"])
@pytest.mark.parametrize("batching", BATCHINGS)
def test_events(batching, method, device, elsewhere):
    """One that ends the solve, one that is recorded and one that changes the state; gradients of when and where."""

    def ask(device):
        height = torch.linspace(1, 2, ROWS, dtype=F64, device=device).requires_grad_()
        back = torch.tensor(0.5, dtype=F64, device=device, requires_grad=True)
        by_row = batching == "per_sample"
        count = len(height) if by_row else 1
        y0 = torch.stack([height[:count], torch.zeros_like(height[:count])], 1)

        def fall(t, y, back):
            return torch.stack([y[:, 1], torch.full_like(y[:, 1], -2.0)], 1)

        def of(value):
            return value if by_row else value[0]

        bounce = Event(
            lambda t, y, back: of(y[:, 0]),
            direction=-1,
            apply=lambda t, y, back: torch.stack([0 * y[:, 0], -back * y[:, 1]], 1),
        )
        top = Event(lambda t, y, back: of(y[:, 1]), direction=-1)
        late = Event(lambda t, y, back: t.flatten() - 2.4 if by_row else t - 2.4, terminal=True)
        sol = solve_ivp(
            fall,
            (0.0, 3.0),
            y0,
            method,
            args=(back,),
            events=[bounce, top, late],
            batching=batching,
            rtol=1e-8,
            atol=1e-8,
        )
        loss = sol.t_events[0][:1].sum() + sol.y_events[1][:1].sum() + sol.ys[-1].sum()
        return [sol, torch.autograd.grad(loss, (height, back))]

    assert_alike(ask, device, 1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.complex128])
@pytest.mark.parametrize("batching", BATCHINGS)
def test_dtypes(batching, dtype, device, elsewhere):
    def ask(device):
        given = Given(device)
        y0, weight = given.y0.to(dtype), given.weight.to(dtype)
        return solve_ivp(lambda t, y: y @ weight, SPAN, y0, rtol=0.1, atol=0.1, batching=batching).ys

    assert_alike(ask, device, {torch.complex128: 1e-9, torch.float32: 1e-5}.get(dtype, 3e-2))


@pytest.mark.parametrize("method", ["tsit5", "kvaerno5"])
def test_a_state_of_many_parts(method, device, elsewhere):
    def ask(device):
        given = Given(device, grad=True)
        y0 = {"z": given.y0, "area": [torch.zeros(ROWS, dtype=F64, device=device)]}

        def fun(t, y, weight, rate):
            return {"z": slope(t, y["z"], weight, rate), "area": [y["z"].square().sum(1)]}

        sol = solve_ivp(
            fun, SPAN, y0, method, args=given.args, rtol=1e-6, atol=torch.full((16,), 1e-6, dtype=F64, device=device)
        )
        return [sol, torch.autograd.grad(sol.ys["area"][0][-1].sum(), [given.y0, *given.args])]

    assert_alike(ask, device, 1e-7)


@pytest.mark.parametrize(
    "options",
    [
        {"step_ts": [0.33, 0.5], "jump_ts": [0.7]},
        {"jump_ts": torch.tensor([0.7], dtype=F64, device="cpu")},
        {"norm": lambda e: e.abs().amax()},
        {"first_step": 0.01, "max_step": 0.1, "min_step": 1e-4},
        {"controller": "pid"},
        {"controller": "gustafsson"},
        {"callback": lambda step: None, "progress": True},
        {"batching": "per_sample", "first_step": 0.01, "controller": "pi", "step_ts": [0.5]},
        {"batching": "per_sample", "jump_ts": torch.tensor([[0.2, 0.5, torch.nan, 0.7]], dtype=F64, device="cpu")},
        {"batching": "per_sample", "shrink": True, "gradient": "checkpointed"},
    ],
    ids=lambda options: " ".join(options),
)
def test_options(options, device, elsewhere):
    assert_alike(lambda device: Given(device).solved("dopri5", **options), device)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"jac": lambda t, y, a: a.expand(ROWS, 2, 2)},
        {"jac_sparsity": torch.tensor([[1, 0], [1, 1]], device="cpu")},
        {"jac_sparsity": ("banded", 1, 1)},
    ],
    ids=["differentiated", "given", "sparse", "banded"],
)
@pytest.mark.parametrize("method", ["kvaerno5", "radau5", "rodas5p"])
def test_jacobians(method, options, device, elsewhere):
    def ask(device):
        a = torch.tensor([[-1.0, 0.0], [0.5, -100.0]], dtype=F64, device=device)
        y0 = randn(ROWS, 2).to(device)
        return solve_ivp(
            lambda t, y, a: y @ a.T,
            (0.0, 1.0),
            y0,
            method,
            args=(a,),
            batching="per_sample",
            rtol=1e-6,
            atol=1e-6,
            **options,
        )

    assert_alike(ask, device, 1e-7)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_second_derivatives(batching, device, elsewhere):
    def ask(device):
        given = Given(device, grad=True)
        ys = given.solved("dopri5", batching=batching).ys[-1]
        (first,) = torch.autograd.grad(ys.sin().sum(), given.weight, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [given.y0, *given.args])

    assert_alike(ask, device, 1e-7)


def test_transforms(device, elsewhere):
    def ask(device):
        given = Given(device)

        def end(y0):
            return solve_ivp(slope, SPAN, y0, "rk4", args=given.args, step_size=0.1).ys[-1]

        _, tangent = torch.func.jvp(end, (given.y0,), (torch.ones_like(given.y0),))
        return [torch.func.jacrev(end)(given.y0), tangent]

    assert_alike(ask, device)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_failures(batching, device, elsewhere):
    """A row that becomes infinite."""

    def ask(device):
        y0 = torch.tensor([[0.1], [2.0]], dtype=F64, device=device)
        options = {"batching": batching, "t_eval": torch.tensor([0.2, 0.6, 1.0], dtype=F64, device=device)}
        sol = solve_ivp(lambda t, y: y * y, (0.0, 1.0), y0, on_failure="return", **options)
        assert "row 1" in sol.message or batching == "joint"
        with pytest.raises(SolveError):
            solve_ivp(lambda t, y: y * y, (0.0, 1.0), y0, **options)
        return sol

    assert_alike(ask, device)


@pytest.mark.parametrize("method", ["flow", "newton", "krylov", "anderson"])
@pytest.mark.parametrize("batching", BATCHINGS)
def test_steady_states(batching, method, device, elsewhere):
    def ask(device):
        given = Given(device, grad=True)
        found = thalweg.steady_state(
            lambda t, y, w, k: torch.tanh(y @ (0.3 * w)) + k - y,
            given.y0,
            args=given.args,
            method=method,
            batching=batching,
            rtol=1e-9,
            atol=1e-9,
        )
        return [
            found.y,
            found.residual if isinstance(found.residual, torch.Tensor) else [],
            torch.autograd.grad(found.y.sum(), given.args),
        ]

    assert_alike(ask, device, 1e-6)


def test_a_controlled_field(device, elsewhere):
    def ask(device):
        path = CubicHermitePath(
            torch.linspace(0, 1, 6, dtype=F64, device=device), randn(6, ROWS, SIZE, seed=4).to(device)
        )
        given = Given(device, grad=True)
        sol = solve_ivp(lambda t, y: torch.tanh(y @ given.weight) + path(t), SPAN, given.y0, batching="per_sample")
        return [sol, torch.autograd.grad(sol.ys.sum(), [given.y0, given.weight])]

    assert_alike(ask, device)


@pytest.mark.parametrize("odeint", [torchdiffeq.odeint, torchdiffeq.odeint_adjoint])
def test_as_torchdiffeq(odeint, device, elsewhere):
    def ask(device):
        given = Given(device, grad=True)
        more = {"adjoint_params": given.args} if odeint is torchdiffeq.odeint_adjoint else {}
        t = torch.linspace(*SPAN, 4, dtype=F64, device=device)
        ys = odeint(lambda t, y: slope(t, y, *given.args), given.y0, t, rtol=1e-6, atol=1e-6, **more)
        return [ys, torch.autograd.grad(ys.sin().sum(), [given.y0, *given.args])]

    assert_alike(ask, device, 1e-5)


@pytest.mark.parametrize("ends", [(0.2, 1.0), (0.2, torch.tensor(1.0, device="cpu"))], ids=["numbers", "a tensor too"])
def test_as_torchdiffeq_s_dense_output(ends, device, elsewhere):
    def ask(device):
        given = Given(device, torch.float32)
        return torchdiffeq.odeint_dense(lambda t, y: slope(t, y, *given.args), given.y0, *ends, rtol=1e-4, atol=1e-4)(
            torch.tensor(0.5, device=device)
        )

    assert_alike(ask, device, 1e-5)


def test_paths_of_numbers(device, elsewhere):
    def ask(device):
        return CubicHermitePath([0.0, 0.5, 1.0], randn(3, 2).to(device), slopes=randn(3, 2).numpy())(0.3)

    assert_alike(ask, device)


def test_a_module_that_is_moved(device, elsewhere):
    with torch.device("cpu"):
        torch.manual_seed(0)
        model = thalweg.NeuralODE(Net(), learn_times=True).to(F64)

    def ask(device):
        moved = copy.deepcopy(model).to(device)
        out = moved(randn(ROWS, SIZE).to(device))
        return [out, torch.autograd.grad(out.sin().sum(), list(moved.parameters()))]

    assert_alike(ask, device)


def test_what_runs_the_loop_is_said(device, elsewhere):
    given, loose = Given(device, torch.float32), {"rtol": 1e-4, "atol": 1e-4}
    explanation = thalweg.explain(slope, given.y0, args=given.args)
    if device.type == "cpu":
        assert explanation.backend == "native"
        return
    assert explanation.backend == given.solved(**loose).stats.backend == "eager"
    assert device.type in str(explanation)
    with pytest.raises(ValueError, match="CPU"):
        given.solved(backend="native", **loose)


def test_tensors_of_two_devices_are_refused(device, elsewhere):
    other = torch.ones(ROWS, SIZE, dtype=F64, device="meta")
    with pytest.raises(ValueError, match="device"):
        solve_ivp(lambda t, y: other, SPAN, Given(device).y0)
    with pytest.raises(ValueError, match="device"):
        solve_ivp(lambda t, y: y, SPAN, [Given(device).y0, other])


def test_gradients_can_be_checked(device, elsewhere):
    given = Given(device, grad=True)
    report = thalweg.check_gradients(
        slope, SPAN, given.y0, args=given.args, methods=["checkpointed", "adjoint"], rtol=1e-6, atol=1e-6
    )
    assert [row.gradient for row in report.rows] == ["checkpointed", "adjoint"]
    assert all(row.to_differences < 1e-4 for row in report.rows)


def test_estimators(device, elsewhere):
    """Trained there, from the same first weights and in the same order as on the CPU."""
    x = randn(80, 2).numpy()

    def ask(device):
        options = {
            "max_epochs": 4,
            "width": 8,
            "state_dim": 3,
            "random_state": 0,
            "device": str(device),
            "dropout": 0.0,
        }
        model = NeuralODEClassifier(**options).fit(x, (x[:, 0] * x[:, 1] > 0).astype(int))
        other = pickle.loads(pickle.dumps(NeuralODERegressor(**options).fit(x, x[:, 0])))
        return [
            *(torch.from_numpy(part) for part in (model.predict_proba(x), other.predict(x))),
            model.trajectory(x).cpu(),
        ]

    found, expected = ask(device), ask(torch.device("cpu"))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def test_a_run(tmp_path, device, elsewhere):
    config = Config().with_overrides(["data.source=iris", "training.max_epochs=3", f"training.device={device}"])
    run = train_run(config, tmp_path / "run")
    assert next(run.model.parameters()).device.type == device.type
    frame = run.frame()
    again = Run.load(tmp_path / "run", device="cpu")
    found, expected = (r.predict(frame).filter(like="p(").to_numpy() for r in (run, again))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_run_that_was_stopped(tmp_path, device, elsewhere):
    """It goes on to the very weights that it would have come to, dropout's dice among what is kept."""
    settings = ["data.source=iris", "model.dropout=0.2", "training.batch_size=32", "training.max_epochs=4"]
    config = Config().with_overrides([*settings, f"training.device={device}"])

    def stop(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    whole = train_run(config, tmp_path / "whole")
    stopped = train_run(config, tmp_path / "stopped", on_epoch=stop)
    assert stopped.result.ended == "interrupted"
    resumed = resume_run(find_stopped(stopped.path))
    assert len(resumed.history.records) == 4
    for mine, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert mine.device.type == device.type
        assert torch.equal(mine, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no device on which the CPU waits")
class TestOnAGpu:
    """The CPU runs ahead of a GPU, but for one look at the numbers a step."""

    @pytest.mark.parametrize("batching", BATCHINGS)
    @pytest.mark.parametrize("method", ["dopri5", "rk4"])
    def test_waits(self, method, batching):
        given = Given(torch.device("cuda"))

        def waits(size):
            chosen = {"first_step": size, "max_step": size} if method == "dopri5" else {"step_size": size}
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                try:
                    sol = given.solved(method, batching=batching, **chosen)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            return sum("called a synchronizing" in str(w.message) for w in seen), int(
                torch.as_tensor(sol.stats.n_steps).max()
            )

        (few, steps), (many, more) = waits(0.05), waits(0.005)
        assert more > steps + 100
        assert (many - few) / (more - steps) <= 1
        assert many - few > 0 or (method, batching) == ("rk4", "joint")  # they are seen

    def test_half_precision_by_autocast(self):
        given = Given(torch.device("cuda"), torch.float32, grad=True)
        loose = {"rtol": 1e-2, "atol": 1e-2}
        with torch.autocast("cuda", dtype=torch.bfloat16):
            found = given.gradients(given.solved("dopri5", **loose).ys[-1].sum())[1]
        exact = given.gradients(given.solved("dopri5", **loose).ys[-1].sum())[1]
        assert not torch.equal(found, exact)
        torch.testing.assert_close(found, exact, rtol=0.1, atol=0.1)
