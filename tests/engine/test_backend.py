"""What a solve by the engine keeps to beside its numbers: failures, threads, processes, memory, refusals."""

import gc
import multiprocessing
import os
import resource
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from gradient_checks import TROUBLE, assert_rows_that_fail_are_not_felt, troubled
from thalweg import Checkpointed, Fixed, SolveError, Status, explain, solve_ivp
from thalweg.stepsize.controllers import Gustafsson

pytest.importorskip("thalweg.core._native", reason="the native engine was not built")

F64 = torch.float64
both = pytest.mark.parametrize("batching", ["joint", "per_sample"])
Y0 = torch.linspace(-1, 1, 6, dtype=F64).view(3, 2)


class Net(nn.Module):
    def __init__(self, features=2, width=7, dtype=F64):
        super().__init__()
        layers = nn.Linear(features, width), nn.Tanh(), nn.Linear(width, features)
        self.layers = nn.Sequential(*layers).to(dtype)

    def forward(self, t, y, *args):
        return self.layers(y) + sum(args)


def solved(fun, y0, backend="native", t_span=(0.0, 1.0), **options):
    sol = solve_ivp(fun, t_span, y0, backend=backend, **options)
    assert sol.stats.backend == backend
    return sol


def gradients(fun, y0, sources, **options):
    """Of the sum of squares of the end."""
    return torch.autograd.grad(solved(fun, y0, **options).ys[-1].square().sum(), sources)


def assert_both_backends(fun, y0, sources, **options):
    theirs, ours = (gradients(fun, y0, sources, backend=backend, **options) for backend in ("eager", "native"))
    for expected, found in zip(theirs, ours, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


# failures


def same_failure(fun, y0, **options):
    """Both backends end alike, with the same message where they raise; theirs is returned."""
    sols, messages = [], []
    for backend in ("eager", "native"):
        sols.append(solved(fun, y0, backend, on_failure="return", **options))
        with pytest.raises(SolveError) as raised:
            solved(fun, y0, backend, **options)
        messages.append(str(raised.value))
    theirs, ours = sols
    assert messages[0] == messages[1]
    assert torch.equal(torch.as_tensor(ours.status), torch.as_tensor(theirs.status))
    torch.testing.assert_close(ours.ys, theirs.ys, rtol=1e-10, atol=1e-10, equal_nan=True)
    # where steps have shrunk to the spacing of numbers, rounding says how often they do
    allowed = 0.3 * (torch.as_tensor(theirs.status) == Status.NONFINITE)
    for name in ("n_steps", "n_accepted", "nfev"):
        expected, found = (torch.as_tensor(getattr(sol.stats, name)) for sol in sols)
        assert bool(((found - expected).abs() <= allowed * expected).all()), name
    return ours


FAILURES = {
    "a NaN, a pole": {},
    "too many steps": {"max_steps": 12},
    "outputs before the end": {"t_eval": torch.tensor([0.0, 0.2, 0.55, 0.9, 1.0], dtype=F64)},
    "equal steps": {"method": "rk4", "step_size": 0.05},
    "no smaller steps": {"min_step": 0.02},
}


@pytest.mark.parametrize("options", FAILURES.values(), ids=FAILURES)
def test_rows_fail_as_in_the_eager_loop_and_their_neighbours_are_right(options):
    k = torch.tensor(3.0, dtype=F64)
    sol = same_failure(troubled, TROUBLE, args=(k,), batching="per_sample", **options)
    alone = solved(troubled, TROUBLE[[0, 4]], args=(k,), batching="per_sample", on_failure="return", **options)
    assert torch.equal(sol.ys[:, [0, 4]].nan_to_num(7), alone.ys.nan_to_num(7))


@pytest.mark.parametrize("row", range(1, 4))
@pytest.mark.parametrize("options", FAILURES.values(), ids=FAILURES)
def test_one_row_fails_all_in_joint(row, options):
    def fun(t, y, k):
        return troubled(t.expand(len(y), 1), y, k)

    same_failure(fun, TROUBLE[[0, row]], args=(torch.tensor(3.0, dtype=F64),), **options)


def test_steps_underflow_where_the_field_jumps():
    """What no step is small enough for is told from what is not finite."""
    same_failure(lambda t, y: torch.where(t > 0.3, 1e30 + 0 * y, 1 + 0 * y), Y0, batching="per_sample", rtol=1e-12)


@pytest.mark.parametrize("gradient", ["checkpointed", Checkpointed(memory_limit=0)])
@pytest.mark.parametrize("method", ["tsit5", "heun2", "dopri8"])
def test_rows_that_fail_are_not_felt_in_gradients(gradient, method):
    assert_rows_that_fail_are_not_felt(method, gradient, backend="native")
    assert_rows_that_fail_are_not_felt(method, gradient, backend="native", t_eval=torch.tensor([0.1, 0.45, 1.0]))


# the way back


@both
def test_stages_that_are_computed_again_are_those_that_were_kept(batching):
    net, y0 = Net(), torch.randn(40, 2, dtype=F64, requires_grad=True)
    found = [
        gradients(net, y0, [y0, *net.parameters()], batching=batching, gradient=Checkpointed(memory_limit=limit))
        for limit in (0, 5_000, 2**28)
    ]
    for some, all_ in zip(found[0] + found[1], found[2] * 2, strict=True):
        assert torch.equal(some, all_)


def test_a_second_backward_pass_is_as_the_first():
    net, y0 = Net(), Y0.clone().requires_grad_()
    end = solved(net, y0).ys[-1].sum()
    first, second = (torch.autograd.grad(end, [y0, *net.parameters()], retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
def test_second_derivatives(batching):
    found = []
    for backend, gradient in (("eager", "direct"), ("auto", "checkpointed")):
        torch.manual_seed(0)
        net, y0 = Net(), Y0.clone().requires_grad_()
        k, t1 = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.3, 1.0))
        sources = [y0, k, t1, *net.parameters()]
        options = {"batching": batching, "backend": backend, "gradient": gradient}
        sol = solve_ivp(net, (0.0, t1), y0, args=(k,), **options)
        first = torch.autograd.grad(sol.ys[-1].square().sum(), sources, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), sources)
        found.append([*first, *second])
    assert sol.stats.backend == "native"
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)


def test_what_is_written_into_weights_between_solves_is_followed():
    net, y0 = Net(), Y0.clone().requires_grad_()
    for _ in range(3):
        assert_both_backends(net, y0, [y0, *net.parameters()])
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1)


SAVED = {
    "a weight": lambda net, y0, own, k: next(net.parameters()),
    "the state": lambda net, y0, own, k: y0,
    "an argument of each sample": lambda net, y0, own, k: own,
    "an argument of all": lambda net, y0, own, k: k,
}


@pytest.mark.parametrize("what", SAVED)
def test_writing_into_what_the_way_back_needs_is_an_error(what):
    net, y0, own, k = Net(), Y0.clone(), torch.rand(3, 2, dtype=F64), torch.tensor(0.3, dtype=F64)
    end = solved(net, y0, args=(own, k), batching="per_sample").ys[-1].sum()
    with torch.no_grad():
        SAVED[what](net, y0, own, k).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        end.backward()


def test_times_and_tolerances_may_be_written_into():
    """They are the solve's own."""
    found = []
    for changed in (False, True):
        torch.manual_seed(0)
        net, y0 = Net(), Y0.clone().requires_grad_()
        t_eval, rtol = torch.tensor([0.2, 0.5, 1.0], dtype=F64), torch.full((3, 2), 1e-4, dtype=F64)
        span = torch.tensor([0.0, 1.0], dtype=F64)
        ys = solved(net, y0, t_span=span, t_eval=t_eval, rtol=rtol, gradient=Checkpointed(memory_limit=0)).ys
        if changed:
            for x in (t_eval, rtol, span):
                x.fill_(7)
        found.append(torch.autograd.grad(ys.square().sum(), [y0, *net.parameters()]))
    assert all(map(torch.equal, *found))


# what is given


@both
def test_states_of_any_strides_and_views_that_need_gradients(batching):
    net, whole = Net(), torch.randn(2, 8, dtype=F64, requires_grad=True)
    assert_both_backends(net, whole.T[::2], [whole], batching=batching)
    assert_both_backends(net, whole[:, :2].expand(2, 2), [whole], batching=batching)
    own = torch.randn(2, 4, dtype=F64, requires_grad=True)
    assert_both_backends(net, whole.T[::2], [whole, own], batching=batching, args=(own.T,))


def test_a_parameter_that_is_used_twice_and_one_that_is_frozen():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 2, dtype=F64))
            self.bias = nn.Parameter(torch.randn(2, dtype=F64), requires_grad=False)

        def forward(self, t, y):
            return torch.tanh(y @ self.weight + self.bias) @ self.weight.T + self.weight[0] * self.weight[1, 1]

    net, y0 = Tied(), Y0.clone().requires_grad_()
    assert_both_backends(net, y0, [y0, net.weight])
    net.bias.requires_grad_()
    net.weight.requires_grad_(False)
    assert_both_backends(net, y0, [y0, net.bias])


@both
def test_states_that_are_trees(batching):
    y0 = {
        "x": torch.randn(3, 2, dtype=F64, requires_grad=True),
        "v": (torch.ones(3, 2, dtype=F64), torch.zeros(3, 1, dtype=F64)),
    }

    def fun(t, y):
        (v, n), x = y["v"], y["x"]
        return {"x": v * torch.cos(n), "v": (-x, x.sum(-1, keepdim=True))}

    found = []
    for backend in ("eager", "native"):
        sol = solve_ivp(fun, (1.0, 0.0), y0, batching=batching, backend=backend)
        found.append((sol.ys["x"], sol.ys["v"][1], *torch.autograd.grad(sol.ys["x"][-1].sum(), [y0["x"]])))
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


# threads and processes


@pytest.fixture
def threads():
    """Sets the number of threads, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@both
@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("rows", [12, 20, 200])  # few are carried by narrower tiles
def test_the_number_of_threads_changes_no_bit_of_a_sample(threads, batching, record, rows):
    net, y0 = Net(dtype=torch.float32), torch.randn(rows, 2, requires_grad=record)
    own = torch.randn(rows, 2, requires_grad=record)
    for parameter in net.parameters():
        parameter.requires_grad_(record)
    found, shared = [], []
    for n in (1, 2, 3, 3):
        threads(n)
        sol = solved(net, y0, args=(own,), batching=batching)
        found.append([sol.ys.detach(), torch.as_tensor(sol.stats.nfev)])
        if record:
            *samples, weight = torch.autograd.grad(sol.ys[-1].square().sum(), [y0, own, net.layers[0].weight])
            found[-1] += samples
            shared.append(weight)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    if record:
        assert torch.equal(shared[2], shared[3])
        torch.testing.assert_close(shared[1], shared[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["dopri5", "rosenbrock23"])
def test_the_number_of_threads_changes_no_bit_of_many_samples_of_a_light_field(threads, method):
    """Which are carried by tiles of more samples."""
    rows = 64 * os.cpu_count() + 45  # two wide tiles for each core, and more
    y0, own = torch.randn(rows, 2, dtype=F64), torch.rand(rows, dtype=F64) * 9

    def oscillators(t, y, mu):
        x, v = y.unbind(-1)
        return torch.stack([v, mu * (1 - x * x) * v - x], -1)

    found = []
    for n in (1, 2, 3):
        threads(n)
        sol = solved(oscillators, y0, args=(own,), method=method, batching="per_sample", t_span=(0.0, 5.0))
        found.append([sol.ys, sol.stats.nfev])
    few = solved(oscillators, y0[:40], args=(own[:40],), method=method, batching="per_sample", t_span=(0.0, 5.0))
    for ys, nfev in found:
        assert torch.equal(ys, found[0][0])
        assert torch.equal(nfev[:40], few.stats.nfev)
        torch.testing.assert_close(ys[:, :40], few.ys, rtol=1e-11, atol=1e-11)


def test_solves_in_several_threads_of_python_at_once(threads):
    threads(2)
    nets = [Net(3, width, torch.float32) for width in (5, 9, 33, 64)]
    y0 = torch.randn(100, 3, requires_grad=True)
    start = threading.Barrier(4)

    def work(net):
        return gradients(net, y0, [y0, *net.parameters()], batching="per_sample")

    alone = [work(net) for net in nets]

    def together(net):
        start.wait()
        for _ in range(5):
            found = work(net)
        return found

    with ThreadPoolExecutor(4) as pool:
        for expected, found in zip(alone, pool.map(together, nets), strict=True):
            assert all(map(torch.equal, expected, found))


def in_child(net, y0, expected):
    found = gradients(net, y0, [y0], batching="per_sample")[0]
    raise SystemExit(0 if torch.equal(found, expected) else 1)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, PyTorch's backward passes forbid a fork after them")
def test_a_process_that_was_forked_after_a_solve_has_threads_of_its_own(threads):
    """Also one that forks while another thread solves."""
    net, y0 = Net(dtype=torch.float32), torch.randn(100, 2, requires_grad=True)
    threads(2)
    expected = gradients(net, y0, [y0], batching="per_sample")[0]
    end = threading.Event()

    def busily():
        while not end.is_set():
            gradients(net, y0, [y0], batching="per_sample")

    thread = threading.Thread(target=busily)
    thread.start()
    try:
        for _ in range(3):
            child = multiprocessing.get_context("fork").Process(target=in_child, args=(net, y0, expected))
            child.start()
            child.join(60)
            assert child.exitcode == 0
    finally:
        end.set()
        thread.join()


# memory


def test_training_keeps_nothing():
    """Each step records some 10 MB."""
    net, y0 = Net(8, 64, torch.float32), torch.randn(256, 8)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            solved(net, y0, method="rk4", step_size=0.05).ys[-1].square().mean().backward()
            optimizer.step()
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = train(3)
    assert train(30) - before < 50_000  # kilobytes


# refusals


def decay(t, y):
    return -y


def hooked(t, y):
    y.sum().item()
    return -y


REFUSALS = {
    "another kind of method": ({"method": "kvaerno3"}, "and 'kvaerno3' is none"),
    "another library": ({"method": "scipy:RK45"}, "those of another library"),
    "a gradient of another kind": ({"gradient": "adjoint"}, "gradient='checkpointed'"),
    "checkpoints": ({"gradient": Checkpointed(checkpoints=2)}, "no checkpoints="),
    "a controller of another kind": ({"controller": Gustafsson()}, "PID and Fixed, got Gustafsson"),
    "a callback": ({"callback": lambda step: None}, "a callback"),
    "times of steps": ({"step_ts": [0.5]}, "step_ts"),
    "a norm": ({"norm": lambda e: e.abs().max()}, "a norm"),
    "events": ({"events": lambda t, y: y.sum() - 9}, "events"),
    "a bar": ({"progress": True}, "a progress bar"),
    "rows that leave": ({"batching": "per_sample", "shrink": True}, "shrink"),
    "numbers out of tensors": ({"fun": hooked}, "reads a number out of a tensor"),
    "complex states": ({"y0": torch.ones(2, dtype=torch.complex128)}, "float32 or float64 on the CPU"),
    "no rows": ({"y0": torch.ones(0, 2, dtype=F64), "batching": "per_sample"}, "the state is empty"),
    "tolerances of rows": (
        {"batching": "per_sample", "rtol": torch.tensor([[1e-3], [1e-4], [1e-3]], dtype=F64)},
        "differ from row to row",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSALS)
def test_what_the_engine_does_not_take_is_said_and_left_to_the_eager_loop(why):
    options, reason = REFUSALS[why]
    options = {"fun": lambda t, y: -y, "y0": Y0.clone().requires_grad_(), "t_span": (0.0, 1.0), **options}
    with pytest.raises(ValueError, match=r"backend='native' .*" + reason):
        solve_ivp(**options, backend="native")
    assert solve_ivp(**options).stats.backend != "native"


def test_a_solve_without_gradients_says_nothing_of_one_with_them():
    """The engine takes the first, whatever the gradient; the second is alike in all but what needs a gradient."""
    options = {"gradient": "adjoint", "rtol": 1e-3}
    for y0, backend in ((Y0, "native"), (Y0.clone().requires_grad_(), "eager"), (Y0, "native")):
        assert solve_ivp(decay, (0.0, 1.0), y0, **options).stats.backend == backend


@both
def test_arguments_of_another_precision(batching):
    net, y0 = Net(), Y0.clone().requires_grad_()
    for own in (torch.rand(3, 2), torch.arange(6).view(3, 2), torch.rand(2), torch.rand(3, 1)):
        sols = [solve_ivp(net, (0.0, 1.0), y0, args=(own,), batching=batching, backend=x) for x in ("eager", "auto")]
        torch.testing.assert_close(sols[1].ys, sols[0].ys, rtol=1e-10, atol=1e-10)


@both
def test_masks_of_each_sample(batching):
    """They are no part of the program: what is seen in one solve may be hidden in the next."""
    net, y0 = Net(), Y0.clone().requires_grad_()

    def field(t, y, seen, moving):
        return torch.where(seen, net(t, y), -y) * moving.unsqueeze(-1) + y * (seen & ~moving.unsqueeze(-1))

    for seed in range(3):
        given = torch.rand(3, 3, generator=torch.Generator().manual_seed(seed)) > 0.5
        args = (given[:, :2], given[:, 2])
        assert_both_backends(field, y0, [y0, *net.parameters()], args=args, batching=batching, rtol=1e-7)


@both
def test_a_batch_without_rows(batching):
    sol = solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.ones(0, 2), batching=batching)
    assert sol.ys.shape == (2, 0, 2)
    assert sol.stats.backend == "eager"


def test_auto_takes_the_engine_where_it_can():
    assert solve_ivp(lambda t, y: -y, (0.0, 1.0), Y0).stats.backend == "native"
    assert solve_ivp(lambda t, y: -y, (0.0, 1.0), Y0, controller=Fixed(), first_step=0.1).stats.backend == "native"
    assert solve_ivp(hooked, (0.0, 1.0), Y0).stats.backend == "eager"


def test_what_is_kept_of_one_solve_serves_none_that_asks_otherwise():
    """A way that was found by insisting is not taken without; what is wrong is said each time."""

    def decay(t, y):
        return -y

    y0, options = torch.ones(2, 3), {"step_size": 0.5, "batching": "per_sample"}
    for backend, expected in [("native", "native"), ("auto", "eager")] * 2:
        assert solve_ivp(decay, (0.0, 1.0), y0, "euler", backend=backend, **options).stats.backend == expected
    options = {"step_size": 1.0, "rtol": 1e-3, "atol": 1e-6}
    assert solve_ivp(decay, (0.0, 1.0), y0, "rk4", **options).stats.backend == "native"
    for wrong in ({"on_failure": "ignore"}, {"backend": "fast"}, {"step_size": True}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            solve_ivp(decay, (0.0, 1.0), y0, "rk4", **{**options, **wrong})


def test_one_sample_of_very_many_numbers_is_left_to_pytorch_unless_a_person_insists():
    """Alone it fills one lane, where PyTorch has all its registers."""

    def mixing(t, y):
        return torch.tanh(y.mean(0) - y)

    for rows, backend in ((100, "native"), (4000, "eager")):
        y0 = torch.randn(rows, 8)
        assert explain(mixing, y0).backend == solve_ivp(mixing, (0.0, 0.1), y0).stats.backend == backend
        assert solve_ivp(mixing, (0.0, 0.1), y0, backend="native").stats.backend == "native"
    assert solve_ivp(lambda t, y: -y, (0.0, 0.1), torch.randn(4000, 8)).stats.backend == "native"


class Flow(nn.Module):
    """A state of several tensors, as a flow that carries its density along has it."""

    def __init__(self):
        super().__init__()
        self.net = Net(3, 5)
        self.out = nn.Linear(3, 2, dtype=F64)

    def forward(self, t, y, rate, own=0.0):
        slope = self.out(self.net(t, torch.cat([y["z"], y["density"].unsqueeze(1)], 1))) * rate + own
        return {"z": slope, "density": (slope * y["z"]).sum(1) * torch.cos(t)}


FLOW = {"z": Y0, "density": torch.linspace(0, 1, 3, dtype=F64)}


@pytest.mark.parametrize("t_eval", [None, [0.0, 0.4, 1.0]])
@pytest.mark.parametrize("own", [(), (torch.linspace(-1, 1, 6, dtype=F64).view(3, 2),)])
@pytest.mark.parametrize("rtol", [1e-7, torch.linspace(1e-7, 1e-6, 9, dtype=F64)])
def test_rows_of_a_joint_pytree_are_samples(t_eval, own, rtol):
    """Where they do not talk to each other, and all leaves have them; not where tolerances differ from row to row."""
    flow, rate = Flow(), torch.tensor(1.2, dtype=F64, requires_grad=True)
    ends = [torch.tensor(t, dtype=F64, requires_grad=True) for t in (0.0, 1.0)]
    found = []
    for backend in ("eager", "auto"):
        y0 = {name: y.clone().requires_grad_() for name, y in FLOW.items()}
        args = (rate, *own)
        sol = solve_ivp(flow, ends, y0, args=args, rtol=rtol, atol=1e-9, t_eval=t_eval, backend=backend)
        assert sol.stats.backend == {"auto": "native"}.get(backend, backend)
        loss = sum(y.square().sum() for y in sol.ys.values())
        sources = [*y0.values(), rate, *ends, *flow.parameters()]
        first = torch.autograd.grad(loss, sources, create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), sources[:4], retain_graph=True)
        found.append([sol.ts, *sol.ys.values(), *first, *second])
        assert set(sol.ys) == set(FLOW)
        assert sol.ys["density"].shape == (len(sol.ts), 3)
    for ours, theirs in zip(*found[::-1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_joint_pytrees_without_rows_are_one_sample():
    """Rows that talk, leaves of several lengths, and shapes that only the whole can take."""
    cases = {
        "they talk": (lambda t, y: (y[0].mean(0) - y[0], -y[1]), (Y0, Y0[:, 0])),
        "several lengths": (lambda t, y: (-y[0], -y[1]), (Y0, Y0[0])),
        "single numbers": (lambda t, y: (-y[0], -y[1]), (Y0[0, 0], Y0[0, 1])),
        "the whole": (lambda t, y: (-y[0].view(-1).reshape(3, 2), -y[1]), (Y0, Y0[:, 0])),
    }
    for name, (fun, y0) in cases.items():
        theirs, ours = (solve_ivp(fun, (0.0, 1.0), y0, rtol=1e-6, backend=b) for b in ("eager", "native"))
        for a, b in zip(ours.ys, theirs.ys, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=name)
        assert str(explain(fun, y0)).startswith("backend: native; the whole state is one sample"), name
    rows = explain(lambda t, y: (-y[0], -y[1]), (Y0, Y0[:, 0]))
    assert str(rows).startswith("backend: native; each of 3 rows is a sample")


def test_a_joint_pytree_by_a_rosenbrock_method():
    """A Jacobian of each row, where one of the whole would be too large."""
    y0 = (torch.rand(50, 2, dtype=F64), torch.rand(50, dtype=F64))

    def fun(t, y):
        return -100 * (y[0] - y[1].unsqueeze(1)), -y[1]

    theirs, ours = (solve_ivp(fun, (0.0, 1.0), y0, "rodas5p", rtol=1e-6, backend=b) for b in ("eager", "native"))
    for a, b in zip(ours.ys, theirs.ys, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert ours.stats.n_steps == theirs.stats.n_steps
