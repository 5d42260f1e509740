"""What operations of PyTorch become is what they compute, derivatives too: at special points, in both dtypes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thalweg import explain, paths, solve_ivp

pytest.importorskip("thalweg.core._native", reason="the native engine was not built")

F32, F64 = torch.float32, torch.float64
EDGES = torch.tensor([0, 1, 2, 0])


def agree(fun, y0, *, exact=1e-10, batchings=("joint", "per_sample"), parameters=()):
    """The end of a step and its gradients by the engine and by PyTorch."""
    for batching in batchings:
        runs = []
        for backend in ("native", "eager"):
            y = y0.clone().requires_grad_()
            end = solve_ivp(fun, (0.0, 0.5), y, "midpoint", step_size=0.5, batching=batching, backend=backend).ys[-1]
            weights = torch.linspace(1, 2, end.numel(), dtype=y.dtype).view_as(end)
            runs.append((end.detach(), *torch.autograd.grad((end * weights).sum(), (y, *parameters))))
        for found, expected in zip(*runs, strict=True):
            tolerance = exact if y0.dtype == F64 else 2e-5
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


# entry by entry

EACH = {
    "acos": (torch.acos, [0.0, -0.0, 0.3, -0.9, 0.999, 1e-8]),
    "acosh": (torch.acosh, [1.001, 1.5, 7.0, 1e4]),
    "asin": (torch.asin, [0.0, 0.3, -0.9, 0.9, 1e-8]),
    "asinh": (torch.asinh, [0.0, -0.3, 7.0, -1e4, 1e-8]),
    "atan": (torch.atan, [0.0, -0.3, 1.0, -1.0, 7.0, -1e4, 1e-8, 0.4142, 2.4142]),
    "atanh": (torch.atanh, [0.0, -0.3, 0.9, -0.9, 1e-8]),
    "ceil": (torch.ceil, [0.0, -0.0, 0.3, -0.3, 2.0, -2.5]),
    "digamma": (torch.digamma, [0.3, 1.0, 1.5, 7.0, -0.5]),
    "erfc": (torch.erfc, [0.0, 0.5, -3.0, 5.0]),
    "erfinv": (torch.erfinv, [0.0, -0.3, 0.5, 0.9]),
    "exp2": (torch.exp2, [0.0, 5.0, -20.3]),
    "floor": (torch.floor, [0.0, -0.0, 0.3, -0.3, 2.0, -2.5]),
    "frac": (torch.frac, [0.0, -0.0, 0.3, -0.3, 2.0, -2.5]),
    "lgamma": (torch.lgamma, [0.3, 1.0, 1.5, 2.0, 30.0, -0.5]),
    "log2": (torch.log2, [1.0, 8.0, 0.3]),
    "orders": (lambda y: sum(torch.linalg.norm(y, ord=p, dim=-1, keepdim=True) for p in (0, 0.5, 3)), [0.0, 1.0, -2.0]),
    "round": (torch.round, [0.5, 1.5, -2.5, 0.3]),
    "round to two": (lambda y: torch.round(y, decimals=2), [0.125, 1.234, -7.0]),
    "signbit": (lambda y: torch.where(torch.signbit(y), y * y, y), [0.0, -0.0, 2.0, -2.0]),
    "trunc": (torch.trunc, [0.0, -0.0, 0.3, -0.3, 2.0, -2.5]),
    "whole numbers": (lambda y: y.int() * y + y.long() % 2, [0.5, 2.7, -2.7, -0.2]),
    "fmax": (lambda y: torch.fmax(y, 1 - y) + torch.fmin(y, y * y), [0.5, 0.0, 2.0, 1.0]),
    "hypot": (lambda y: torch.hypot(y, y + 1), [0.0, -1.0, 3.0, 1e4]),
    "hypot of extremes": (lambda y: torch.hypot(y, 2 * y), [1e-30, -1e30, 1e30, 1.0]),
    "nan_to_num": (lambda y: torch.nan_to_num(y.log(), 0.5, neginf=-3.0), [-1.0, 0.5, 2.0]),
    "sinc": (torch.sinc, [0.0, 0.5, -1.0, 2.0, 0.1]),
    "xlog1py": (lambda y: torch.special.xlog1py(y, 2.0) + torch.special.xlog1py(y, y + 1), [0.0, -0.0, 1.0, -1.0]),
    "xlogy": (lambda y: torch.xlogy(y, 2.0) + torch.xlogy(y, y + 2), [0.0, -0.0, 1.0, -1.0]),
}


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", EACH)
def test_functions_of_one_entry(name, dtype):
    function, points = EACH[name]
    agree(lambda t, y: 0.01 * function(y), torch.tensor(points, dtype=dtype).view(-1, 1))


def test_the_derivative_of_sinc_near_0_is_no_rounding():
    y0 = torch.tensor([1e-8, -1e-20], dtype=F64, requires_grad=True)
    end = solve_ivp(lambda t, y: torch.sinc(y).cumsum(0), (0.0, 1e-9), y0, "midpoint", step_size=1e-9, backend="native")
    slope = (torch.autograd.grad(end.ys[-1].sum(), y0)[0] - 1) / 1e-9
    assert slope.abs().max() < 1e-6


# of two entries, those whose derivative to either is told apart

TWO = {
    "atan2": (torch.atan2, [0.0, -0.0, 1.0, -2.0], [0.0, -0.0, 1.0, -1.0, 3.0]),
    "copysign": (torch.copysign, [0.0, -0.0, 1.0, -2.0], [0.0, -0.0, 1.0, -3.0]),
    "fmod": (torch.fmod, [0.0, -0.0, 0.5, 7.5, -7.5, 1e5], [2.0, -2.0, 0.1, 7.5]),
    "remainder": (torch.remainder, [0.0, -0.0, 0.5, 7.5, -7.5, 1e5], [2.0, -2.0, 0.1, 7.5]),
    "quotient, floor": (lambda x, y: torch.div(x, y, rounding_mode="floor"), [0.5, 7.5, -7.5], [0.1, -2.0, 7.5]),
    "quotient, trunc": (lambda x, y: torch.div(x, y, rounding_mode="trunc"), [0.5, 7.5, -7.5], [0.1, -2.0, 7.5]),
    "logaddexp": (torch.logaddexp, [0.0, 1.0, -900.0], [1.0, 0.0, 900.0]),
    "logaddexp2": (torch.logaddexp2, [0.0, 1.0, -90.0], [1.0, 0.0, 90.0]),
    "hypot": (torch.hypot, [3.0, -1e20], [0.0, -4.0]),
    "fmax": (torch.fmax, [0.0, 1.0], [0.0, 2.0]),
    "xlogy": (torch.xlogy, [0.0, 1.0, -2.0], [1.0, 2.5]),
}


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", TWO)
def test_functions_of_two_entries(name, dtype):
    """At zeros of both signs too, in the order of bits."""
    function, first, second = TWO[name]
    points = torch.cartesian_prod(torch.tensor(first), torch.tensor(second)).to(dtype)
    sides = [points.clone().requires_grad_() for _ in range(2)]
    found = []
    for xy, backend in zip(sides, ("native", "eager"), strict=True):
        field = lambda t, y, xy: function(*xy.unbind(-1)) + 0 * y  # noqa: E731
        end = solve_ivp(
            field, (0.0, 1.0), torch.zeros(len(xy), dtype=dtype).unsqueeze(-1), "midpoint", step_size=1.0,
            args=(xy.unsqueeze(1),), batching="per_sample", backend=backend,
        ).ys[-1]  # fmt: skip
        found.append((end.detach(), torch.autograd.grad(end.sum(), xy)[0]))
    for ours, theirs in zip(*found, strict=True):
        tolerance = 1e-13 if dtype == F64 else 2e-6
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance / 10)


def test_a_rest_has_the_derivative_of_a_sawtooth():
    """Slope 1 to the state; to the period, less how often it was taken."""
    period = torch.tensor(0.3, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [-1.0]], dtype=F64, requires_grad=True)
    end = solve_ivp(lambda t, y: y % period, (0.0, 1e-3), y0, "midpoint", step_size=1e-3, backend="native").ys[-1]
    to_y0, to_period = torch.autograd.grad(end.sum(), (y0, period))
    torch.testing.assert_close(to_y0, torch.full_like(y0, 1 + 1e-3), rtol=0, atol=1e-6)
    torch.testing.assert_close(to_period, torch.tensor(-1e-3 * (3 - 4), dtype=F64), rtol=0, atol=1e-6)


def test_a_square_wave_of_the_time():
    """Up and down by turns, at steps that do not meet the jumps: a sum of signs."""
    field = lambda t, y: torch.where(torch.floor(t / 0.25) % 2 == 0, 1.0, -1.0).expand_as(y)  # noqa: E731
    for batching in ("joint", "per_sample"):
        sol = solve_ivp(field, (0.0, 1.0), torch.zeros(3, 1), "heun2", t_eval=[0.0, 0.25, 0.5, 1.0], step_size=1 / 32,
                        batching=batching, backend="native")  # fmt: skip
        torch.testing.assert_close(sol.ys[:, 0, 0], torch.tensor([0.0, 0.25, 0.0, 0.0]), rtol=0, atol=2 / 32)


# along a dimension

ALONG = {
    "max": lambda t, y: y.max(-1, keepdim=True).values * y,
    "min": lambda t, y: y.min(-1)[0].unsqueeze(-1) - y,
    "maxout": lambda t, y: torch.cat([y, 1 - y], -1).unflatten(-1, (5, 2)).max(-1).values,
    "cumprod": lambda t, y: y.cumprod(-1),
    "where the largest lies": lambda t, y: y.gather(-1, y.max(-1, keepdim=True).indices) - y * y.argmin(-1, True),
    "in order": lambda t, y: y.sort(stable=True, dim=-1, descending=True).values * torch.arange(5),
    "places in order": lambda t, y: y * y.flip(-1).sort(stable=True, dim=-1).indices,
    "distances": lambda t, y: torch.cdist(y.unsqueeze(-1), (y + 1).unsqueeze(-1)).sum(-1),
    "deviations": lambda t, y: sum(torch.std_mean(y, -1, keepdim=True)) * y,
    "counts": lambda t, y: y * (y > 0).sum(-1, keepdim=True) + (y > 0.5).float() + (y > 1).long() * y,
    "chosen numbers": lambda t, y: y * torch.where(y > 0.5, 0.25, -1.0),
    "all but": lambda t, y: torch.where((y > 0).float().to(y.dtype) > 0, y, -y) * (y > 0).any(-1, keepdim=True),
}
TIED = [[1.0, 1.0, 0.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0, 0.0], [3.0, 2.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 3.0, 2.0]]


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", sorted(ALONG))
def test_functions_along_a_dimension_with_ties(name, dtype):
    """Of equal entries the first gets the gradient of `max` and `min` with dim."""
    agree(ALONG[name], torch.tensor(TIED, dtype=dtype))


def test_the_first_in_order():
    def fun(t, y):
        return y - y.topk(2, -1).values.sum(-1, True) * y.kthvalue(4, -1, True).values + y.median(-1, True).values

    agree(fun, torch.randn(4, 5, dtype=F64))


def test_what_is_no_number_is_the_largest_and_the_smallest():
    for function in (torch.max, torch.min):
        sol = solve_ivp(
            lambda t, y, function=function: function(y.sqrt(), -1, keepdim=True)[0] - torch.full_like(y, 5), (0.0, 1.0),
            torch.tensor([[0.2, 4.0, 3.0]]), backend="native", on_failure="return",
        )  # fmt: skip
        assert not sol.success


# to places that are known


def pairwise(t, y):
    """A graph: what flows along edges, two of them to one node."""
    flow = torch.sin(y[..., [1, 2, 0, 1]] - y[..., [0, 1, 2, 2]])
    return torch.zeros_like(y).index_add(-1, EDGES, flow)


def scattered(t, y):
    index = torch.tensor([2, 0, 1, 2]).expand(*y.shape[:-1], 4)
    summed = y.clone().scatter_add_(-1, index, torch.cat([y, y[..., :1]], -1) * t)
    return summed + torch.zeros_like(y).scatter(-1, index[..., :3], y.exp())


def put(t, y):
    dy = torch.zeros_like(y)
    dy.index_put_(
        (torch.arange(len(y)).unsqueeze(-1), EDGES.unsqueeze(0)), torch.cat([y, y[:, :1]], 1), accumulate=True
    )
    return dy


def gathered(t, y):
    return y.gather(-1, torch.tensor([2, 0, 1]).expand_as(y)) * t


def means(t, y):
    """What flows along edges into a node, on average, with what is there and without."""
    index, flow = EDGES.expand(*y.shape[:-1], 4), torch.sin(y[..., [1, 2, 0, 1]])
    there = [
        y.scatter_reduce(-1, index, flow, kind, include_self=own) for kind in ("mean", "sum") for own in (True, False)
    ]
    return there[0] + 2 * there[1] - there[2] / 3 + there[3] / 4


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("fun", [pairwise, scattered, put, gathered, means])
def test_sums_to_places(fun, dtype):
    batchings = ("joint",) if fun is put else ("joint", "per_sample")
    agree(fun, torch.randn(4, 3, dtype=dtype), batchings=batchings)
    if fun is not put:
        agree(fun, torch.randn(3, dtype=dtype), batchings=("joint",))


def test_a_graph_whose_nodes_are_rows():
    source, target = torch.randint(0, 30, (2, 90))
    weight = torch.rand(90, 1, dtype=F64, requires_grad=True)

    def fun(t, y):
        return torch.zeros_like(y).index_add_(0, target, weight * torch.tanh(y[source])) - y

    agree(fun, torch.randn(30, 2, dtype=F64), batchings=("joint",))


def test_several_entries_scattered_to_one_place_are_pytorchs():
    index = torch.tensor([0, 0, 1])
    reason = str(explain(lambda t, y: torch.zeros_like(y).scatter(-1, index.expand_as(y), y), torch.ones(4, 3)))
    assert "to one place" in reason


# to places that depend on the time or the state

KNOTS = torch.tensor([0.1, 0.2, 0.35, 0.6], dtype=F64)
TABLE = torch.randn(5, 3, dtype=F64, requires_grad=True)


def knots(y):
    return KNOTS.to(y.dtype)


def interpolated(t, y):
    """What many write for a force that was measured."""
    ts, table = knots(y), TABLE.to(y.dtype)
    place = (torch.searchsorted(ts, t.detach().reshape(-1), right=True) - 1).clamp(0, len(ts) - 2)
    weight = (t.reshape(-1) - ts[place]) / (ts[place + 1] - ts[place])
    return torch.lerp(table[place], table[place + 1], weight.unsqueeze(-1)) - y


def before_the_first(t, y):
    """A place before the first counts from the last."""
    return TABLE.to(y.dtype)[torch.bucketize(t.reshape(-1), knots(y), right=True) - 3] - y


def chosen_by_state(t, y):
    with torch.no_grad():
        place = torch.bucketize(y * 2, knots(y) * 2)
    return y.gather(-1, place.clamp(max=2)) * TABLE.to(y.dtype)[:, 0][place]


def the_two_largest(t, y):
    """A mixture of experts: weights for those alone that are asked."""
    values, places = (y @ TABLE.to(y.dtype).T).topk(2, -1)
    spread = torch.zeros_like(y[..., :1]).expand(*y.shape[:-1], 5).clone()
    chosen = (spread - torch.inf).scatter(-1, places, values).softmax(-1) + spread.scatter_add(-1, places, values.sin())
    return chosen @ TABLE.to(y.dtype)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("fun", [interpolated, before_the_first, chosen_by_state, the_two_largest])
def test_tables(fun, dtype):
    y0 = torch.rand(4, 3, dtype=dtype)
    agree(fun, y0)
    ends = [solve_ivp(fun, (0.0, 0.8), y0, "rk4", step_size=0.1, backend=name).ys[-1] for name in ("native", "eager")]
    found, expected = (torch.autograd.grad(end.sum(), TABLE)[0] for end in ends)
    torch.testing.assert_close(
        found, expected, rtol=1e-9 if dtype == F64 else 1e-4, atol=1e-6 if dtype == F32 else 1e-12
    )


def test_a_place_outside_of_a_table_is_no_number():
    sol = solve_ivp(
        lambda t, y: 1 + TABLE.abs()[torch.bucketize(y[:, 0].contiguous(), KNOTS) + 2],
        (0.0, 1.0), torch.zeros(2, 3, dtype=F64), "rk4", step_size=0.05, backend="native", on_failure="return",
    )  # fmt: skip
    assert not sol.success


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("knots", [2, 7])
@pytest.mark.parametrize("kind", ["LinearPath", "CubicHermitePath", "NaturalCubicSplinePath", "StepPath"])
def test_paths_of_control_inputs(kind, knots, dtype):
    path = getattr(paths, kind)(torch.linspace(0, 0.4, knots, dtype=dtype), torch.randn(knots, 3, dtype=dtype))
    agree(lambda t, y: torch.tanh(path(t) + y) - path.derivative(t) * t, torch.randn(4, 3, dtype=dtype))


@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_table_by_whole_parts(dtype):
    """Of the time, as for a force given each tenth of a second; round a circle, for one of a state."""

    def fun(t, y):
        place = (t.reshape(-1) / 0.1).long()
        return TABLE.to(y.dtype)[place] + F.embedding((y[..., 0] * 7).long() % 5, TABLE.to(y.dtype))

    agree(fun, torch.randn(4, 3, dtype=dtype))


@pytest.mark.parametrize("batching", ["joint", "per_sample"])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_labels_and_masks_of_each_sample(dtype, batching):
    """Whole numbers and truths among the arguments: a table by label, one-hot, comparisons and products."""
    table, labels = torch.randn(4, 3, dtype=dtype, requires_grad=True), torch.tensor([3, 0, 1, 2, 0])
    mask = torch.tensor([True, False, True, True, False])

    def fun(t, y, labels, mask):
        chosen = F.embedding(labels, table) * F.one_hot((labels + 1) % 3, 3)
        return torch.where(mask.unsqueeze(-1) & (labels > 0).unsqueeze(-1), chosen, y) - labels.unsqueeze(-1) * y

    found = []
    for backend in ("native", "eager"):
        y = torch.ones(5, 3, dtype=dtype, requires_grad=True)
        end = solve_ivp(fun, (0.0, 0.5), y, "rk4", step_size=0.25, args=(labels, mask), batching=batching,
                        backend=backend).ys[-1]  # fmt: skip
        found.append([end.detach(), *torch.autograd.grad(end.square().sum(), (y, table))])
    torch.testing.assert_close(*found)


def test_labels_that_are_no_numbers_of_the_state_are_refused():
    options = {"batching": "per_sample", "args": (torch.tensor([2**24 + 1, 0]),)}
    field = lambda t, y, labels: y * (labels % 2)[:, None]  # noqa: E731
    assert "float32: solve by backend='eager'" in str(explain(field, torch.ones(2, 3), **options))
    assert explain(field, torch.ones(2, 3, dtype=F64), **options).backend == "native"
    another = lambda t, y, labels: y - (labels % 2)[:, None]  # noqa: E731
    solve_ivp(another, (0.0, 1.0), torch.ones(2, 3), **{**options, "args": (torch.tensor([1, 0]),)})
    with pytest.raises(ValueError, match="make y0 float64"):
        solve_ivp(another, (0.0, 1.0), torch.ones(2, 3), **options)


# windows


def net(*layers):
    return torch.nn.Sequential(*layers)


CONVOLUTIONS = {
    "padded": (nn.Conv1d(2, 2, 3, padding=1), (2, 6)),
    "without a bias, far apart": (nn.Conv1d(2, 2, 3, padding=2, dilation=2, bias=False), (2, 6)),
    "circular": (nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), (2, 6)),
    "reflected": (nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect"), (2, 6)),
    "each channel alone": (nn.Conv1d(4, 4, 3, padding="same", groups=4), (4, 5)),
    "there and back": (net(nn.Conv1d(2, 4, 3, 2, 1), nn.ConvTranspose1d(4, 2, 3, 2, 1, 1)), (2, 6)),
    "back in groups": (net(nn.ConvTranspose1d(4, 6, 2, 2, groups=2, dilation=2), nn.Conv1d(6, 4, 3, 2)), (4, 5)),
    "of images": (net(nn.Conv2d(2, 3, (3, 1), padding=(1, 0)), nn.ConvTranspose2d(3, 2, 3, padding=1)), (2, 4, 3)),
    "of volumes": (nn.Conv3d(1, 1, 3, padding=1), (1, 2, 3, 2)),
    "means": (net(nn.AvgPool1d(3, 1, 1), nn.AvgPool1d(3, 1, 1, count_include_pad=False)), (2, 6)),
    "means of some": (net(nn.AvgPool2d((2, 3), 2, (1, 0), True, False), nn.Upsample((4, 5))), (2, 4, 5)),
    "largest": (net(nn.MaxPool1d(3, 1, 1), nn.MaxPool1d(2, 2, ceil_mode=True), nn.Upsample(5)), (2, 5)),
    "largest of images": (nn.MaxPool2d(3, 1, 1), (1, 4, 4)),
    "patches": (net(nn.Unfold(3, padding=1), nn.Unflatten(-1, (4, 3))), (1, 4, 3)),
}


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_windows(name, dtype):
    module, shape = CONVOLUTIONS[name]
    module.to(dtype)
    y0 = torch.randn(3, *shape, dtype=dtype).round(decimals=1)  # with some that are equal
    fun = (lambda t, y: module(y)[:, :1]) if name == "patches" else lambda t, y: module(y)
    agree(fun, y0, parameters=[*module.parameters()])


def test_one_state_on_a_grid_and_a_kernel_of_each_sample():
    """Fields of PDEs: the state is the grid; a coefficient is the sample's own."""
    kernel = torch.tensor([[[1.0, -2.0, 1.0]]], dtype=F64, requires_grad=True)
    agree(
        lambda t, y: F.conv1d(y[None, None], kernel, padding=1)[0, 0], torch.randn(7, dtype=F64),
        batchings=("joint",), parameters=[kernel],
    )  # fmt: skip
    agree(lambda t, y: F.conv1d(y[None], y[:, None, :3], padding=1, groups=len(y))[0], torch.randn(3, 7, dtype=F64))


# small matrices


def matrix(y, n):
    """One that is not symmetric, and whose rows must be swapped."""
    return (
        torch.stack([(y * (i + 1)).cos().roll(i, -1) for i in range(n)], -2) + torch.eye(n, dtype=y.dtype).flip(0) * 2
    )


MATRICES = {
    "solve": lambda a, y: torch.linalg.solve(a, y),
    "solve for several": lambda a, y: torch.linalg.solve(a, torch.stack([y, y * y], -1)).sum(-1),
    "solve from the right": lambda a, y: torch.linalg.solve(a, y.unsqueeze(-2), left=False).squeeze(-2),
    "inverse": lambda a, y: (torch.linalg.inv(a) @ y.unsqueeze(-1)).squeeze(-1),
    "triangles": lambda a, y: torch.cholesky_solve(
        y.unsqueeze(-1), torch.linalg.cholesky(a @ a.mT + 2 * torch.eye(y.shape[-1], dtype=y.dtype))
    ).squeeze(-1),
    "determinant": lambda a, y: torch.linalg.det(a).unsqueeze(-1) * y / 20,
    "logarithm": lambda a, y: torch.linalg.slogdet(a)[1].unsqueeze(-1) * y,
    "triangular": lambda a, y: torch.linalg.solve_triangular(
        a.tril() + 2 * torch.eye(y.shape[-1], dtype=y.dtype), y.unsqueeze(-1), upper=False
    ).squeeze(-1),
    "shared": lambda a, y: torch.linalg.solve(SHARED[: y.shape[-1], : y.shape[-1]].to(y.dtype), y.unsqueeze(-1))[
        ..., 0
    ],
}
SHARED = torch.randn(8, 8, dtype=F64) + 4 * torch.eye(8, dtype=F64)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("name", MATRICES)
def test_small_matrices(name, n, dtype):
    y0 = torch.linspace(-1, 1.3, 4 * n, dtype=dtype).view(4, n)
    agree(lambda t, y: MATRICES[name](matrix(y, n), y), y0)


def test_the_gradient_of_an_arm_is_that_of_finite_differences():
    """Two links: the acceleration solves the mass matrix, which depends on the angle between them."""

    def arm(t, y):
        angle, speed = y[..., :2], y[..., 2:]
        cos, sin = (f(angle[..., 0] - angle[..., 1]) for f in (torch.cos, torch.sin))
        mass = torch.stack([torch.stack([2 + 0 * cos, cos], -1), torch.stack([cos, 1 + 0 * cos], -1)], -2)
        force = torch.stack([-sin * speed[..., 1] ** 2, sin * speed[..., 0] ** 2], -1) - torch.sin(angle)
        return torch.cat([speed, torch.linalg.solve(mass, force)], -1)

    def end(y):
        return solve_ivp(arm, (0.0, 1.0), y, "rk4", step_size=0.25, backend="native").ys[-1]

    assert torch.autograd.gradcheck(end, torch.randn(2, 4, dtype=F64, requires_grad=True))


def test_a_determinant_of_0_has_a_gradient():
    """The adjugate; PyTorch's own is 0 there."""
    y0 = torch.tensor([[1.0, 2.0, 2.0, 4.0]], dtype=F64, requires_grad=True)
    for n in (2, 3):
        matrix = torch.nn.functional.pad(y0.view(2, 2), (0, n - 2, 0, n - 2)) + torch.eye(n, dtype=F64) * (n - 2)
        field = lambda t, y, n=n: torch.linalg.det(y.view(-1, n, n)).unsqueeze(-1).expand(-1, n * n)  # noqa: E731
        end = lambda y, field=field: solve_ivp(field, (0.0, 0.1), y, "rk4", step_size=0.1, backend="native").ys[-1]  # noqa: E731
        assert torch.autograd.gradcheck(end, matrix.detach().reshape(1, -1).requires_grad_())


def test_the_determinant_of_a_matrix_without_an_inverse_is_0():
    """Also of one of many rows, which is eliminated: a column of zeros has no pivot."""
    y0 = torch.zeros(2, 16, dtype=F64)
    y0[1] = torch.arange(16.0) % 3
    y0[1].view(4, 4)[:, 1] = 0.0
    sol = solve_ivp(
        lambda t, y: torch.linalg.det(y.view(-1, 4, 4)).unsqueeze(-1).expand(-1, 16), (0.0, 1.0), y0, backend="native"
    )
    torch.testing.assert_close(sol.ys[-1], y0, rtol=0, atol=1e-12)


def test_matrices_that_are_larger_are_pytorchs():
    reason = str(explain(lambda t, y: torch.linalg.solve(matrix(y, 9), y), torch.ones(3, 9)))
    assert "matrix of 9 rows" in reason


def test_derivatives_of_derivatives_in_a_field():
    """As Lagrangian networks take: the Hessian by the forward mode over the reverse one."""

    def fun(t, y):
        return torch.func.vmap(torch.func.hessian(lambda z: (z.sin() * z.square().sum()).sum()))(y).sum(-1)

    agree(fun, torch.randn(3, 2, dtype=F64))
