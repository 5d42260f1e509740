"""Memory of training stays flat: no solve leaves a tensor behind, and none waits for the garbage collector.

Where a backward pass, its graph and its outputs hold each other in a circle, tensors outlive what they are for until
the collector comes round. So it is switched off, and what is alive is counted before and after many solves.
"""

import gc
from contextlib import contextmanager

import pytest
import torch

from thalweg import Checkpointed, Event, solve_ivp
from thalweg.gradients import GRADIENTS

F64 = torch.float64
WAYS = {**GRADIENTS, "step by step": Checkpointed(memory_limit=0), "few": Checkpointed(memory_limit=0, checkpoints=1)}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
both = pytest.mark.parametrize("batching", ["joint", "per_sample"])


@contextmanager
def without_collector():
    gc.disable()
    gc.freeze()  # what is there already is not looked at
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()


def alive():
    """How many tensors came into being and are there still, and the bytes that they hold."""
    tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return len(tensors), sum(storages.values())


def assert_flat(once, few=2, many=10):
    """As much is alive after a few rounds as after many."""
    with without_collector():
        for _ in range(few):
            once()
        before = alive()
        for _ in range(many):
            once()
        assert alive() == before


class Training:
    """A field that learns, and all that a solve can depend on."""

    def __init__(self, way, batching, **options):
        torch.manual_seed(0)
        self.net = torch.nn.Linear(2, 2).double()
        self.y0 = torch.randn(3, 2, dtype=F64, requires_grad=True)
        self.k, self.t1 = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.7, 1.0))
        self.options = {"gradient": way, "batching": batching, "method": "rk4", "step_size": 0.5, **options}
        self.optimizer = torch.optim.SGD([*self.net.parameters(), self.k], 1e-3)

    def solve(self, **options):
        return solve_ivp(
            lambda t, y, k: torch.tanh(self.net(y)) - k * y, (0.0, self.t1), self.y0, args=(self.k,),
            **{**self.options, **options},
        )  # fmt: skip

    def step(self, **options):
        """A solve and its backward pass, and a step of the optimiser."""
        self.solve(**options).ys.square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.y0.grad = self.t1.grad = None


@both
@ways
class TestTraining:
    def test_stays_flat(self, way, batching):
        assert_flat(Training(way, batching).step)

    def test_stays_flat_with_outputs_on_the_way(self, way, batching):
        training = Training(way, batching)
        assert_flat(lambda: training.step(t_eval=[0.0, 0.3, 0.6]))

    def test_stays_flat_where_no_backward_pass_comes(self, way, batching):
        """A solution that is dropped takes its graph with it."""
        assert_flat(Training(way, batching).solve)

    def test_stays_flat_where_it_is_refused(self, way, batching):
        """A backward pass that meets an error leaves nothing behind either."""
        training = Training(way, batching)

        def fails(x):
            raise RuntimeError("on the way back")

        def once():
            ys = training.solve().ys
            ys.register_hook(fails)
            with pytest.raises(RuntimeError, match="on the way back"):
                ys.sum().backward()

        assert_flat(once)


@pytest.mark.parametrize("way", [WAYS["checkpointed"], WAYS["step by step"], WAYS["few"], "direct"])
@both
def test_second_derivatives_stay_flat(way, batching):
    training = Training(way, batching)

    def once():
        loss = training.solve().ys.square().sum()
        first = torch.autograd.grad(loss, training.net.parameters(), create_graph=True)
        torch.autograd.grad(sum(g.square().sum() for g in first), training.net.parameters())

    assert_flat(once)


@pytest.mark.parametrize("method", ["kvaerno3", "radau5", "rodas5p", "adams", "rkc", "auto", "dopri8"])
def test_no_method_leaves_anything_behind(method):
    sizes = {"step_size": None, "rtol": 1e-2, "atol": 1e-2}
    for way in (WAYS["checkpointed"], WAYS["few"]):
        assert_flat(Training(way, "per_sample", method=method, **sizes).step, many=3)


@both
@ways
def test_adaptive_steps_leave_nothing_behind(way, batching):
    assert_flat(Training(way, batching, method="tsit5", step_size=None, rtol=1e-2, atol=1e-2).step, many=3)


@both
@ways
def test_events_leave_nothing_behind(way, batching):
    kick = Event(lambda t, y, k: t - 0.4 + 0 * y[..., 0].sum(), apply=lambda t, y, k: 0.9 * y)
    if batching == "per_sample":
        kick = Event(lambda t, y, k: y[..., 0] * 0 + t.flatten() - 0.4, apply=lambda t, y, k: 0.9 * y)
    training = Training(way, batching, events=kick)
    assert_flat(training.step, many=3)
