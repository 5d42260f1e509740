"""What `explain` says is what `solve_ivp` does, and a person can read it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import thalweg
from thalweg import explain, solve_ivp

pytest.importorskip("thalweg.core._native", reason="the native engine was not built")

Y0 = torch.ones(4, 2)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(3, 5)
        self.lower = nn.Linear(5, 2)
        self.register_buffer("scale", torch.rand(2))

    def forward(self, t, y):
        z = torch.cat([y, t.expand(len(y), 1)], -1)
        return self.lower(torch.tanh(self.lift(z))) * self.scale


def test_a_network_is_shown_with_the_names_of_its_parameters():
    found = explain(Net(), Y0, batching="per_sample")
    assert str(found).splitlines() == [
        "backend: native; each of 4 rows is a sample",
        "  of each sample: t (1), y (2)",
        "  of all samples: lift.weight (15), lift.bias (5), lower.weight (10), lower.bias (2), scale (2)",
        "    v1 = gather(y, t)",
        "    v2 = linear(v1, lift.weight, lift.bias)",
        "    v3 = tanh(v2)",
        "    v4 = linear(v3, lower.weight, lower.bias)",
        "    v5 = v4 * scale",
        "    dy/dt = v5",
        "  5 instructions, 25 multiplications by weights, 5 shared tensors, 8 rows of scratch",
    ]
    assert (found.backend, found.reason, found.samples) == ("native", None, 4)


def lines(fun, y0=Y0, args=()):
    return [line.strip() for line in str(explain(fun, y0, args, batching="per_sample")).splitlines()[2:-1]]


READABLE = {
    "operators": (lambda t, y: -(y**2) / (1 + y**3), ["v1 = y ** 2", "v2 = -v1", "v5 = v2 / v4"]),
    "numbers": (lambda t, y: F.leaky_relu(y, 0.25).clamp(-1, 2), ["v1 = leaky_relu(y, 0.25)", "v2 = clamp(v1, -1, 2)"]),
    "choices": (lambda t, y: torch.where(y > t, y, t), ["v1 = y > t", "v2 = where(v1, y, t)"]),
    "sums": (lambda t, y: y - y.sum(-1, keepdim=True), ["v1 = sum(y)", "v2 = y - v1"]),
    "rows": (lambda t, y: y.flip(-1), ["v1 = gather(y[1], y[0])"]),
}


@pytest.mark.parametrize("name", READABLE)
def test_instructions_are_written_as_people_write_them(name):
    fun, expected = READABLE[name]
    assert [line for line in expected if line not in lines(fun)] == []


def test_arguments_of_each_sample_and_of_all():
    found = lines(lambda t, y, own, k: y * own * k, args=(torch.rand(4, 2), torch.rand(2)))
    assert found[:3] == ["of all samples: shared0 (2)", "v1 = y * arg0", "v2 = v1 * shared0"]


def test_what_a_function_captured_is_shown_by_its_name():
    net, rate = Net(), torch.rand(2)
    assert "v4 = linear(v3, net.lower.weight, net.lower.bias)" in lines(lambda t, y: net(t, y) * rate)
    assert "v6 = v5 * rate" in lines(lambda t, y: net(t, y) * rate)
    assert "v2 = linear(v1, lift.weight, lift.bias)" in lines(net.forward)


def test_a_state_that_is_one_sample():
    assert str(explain(lambda t, y: y.sum() * y, torch.ones(3))).startswith("backend: native; the whole state is one")


WAYS = [
    {"method": "radau5"},
    {"gradient": "adjoint"},
    {"gradient": "adjoint", "y0": Y0.clone().requires_grad_()},
    {"callback": print},
    {"events": lambda t, y: y.sum() - 9},
    {"method": "scipy:RK45"},
    {"method": "rk4", "step_size": 0.5},
    {"fun": lambda t, y: y * y.sum().item()},
    {"fun": lambda t, y: y + torch.randn_like(y)},
    {"t0": 0.5, "batching": "per_sample"},
]


@pytest.mark.parametrize("way", WAYS, ids=[", ".join(way) for way in WAYS])
def test_the_backend_is_the_one_that_a_solve_takes(way):
    way = {"fun": lambda t, y: -y, "y0": Y0, **way}
    found = explain(**way)
    t0 = way.pop("t0", 0.0)
    assert (found.backend == "native") == (solve_ivp(t_span=(t0, t0 + 0.1), **way).stats.backend == "native")
    assert (found.backend == "native") == (found.reason is None)
    if found.reason is not None:
        assert found.reason in str(found)


def test_nothing_is_solved_and_wrong_arguments_are_said():
    calls = []
    explain(lambda t, y: calls.append(len(y)) or -y, torch.ones(4, 2, dtype=torch.complex64))
    assert calls == []
    with pytest.raises(ValueError, match=r"explain takes fun, y0, args, and no t_span: got y0=\(0, 1\)"):
        explain(lambda t, y: -y, (0, 1), torch.ones(4, 2))
    with pytest.raises(ValueError, match="no error estimate"):
        explain(lambda t, y: -y, Y0, method="rk4")


def test_it_is_a_name_of_the_package():
    assert {"explain", "Explanation"} <= set(thalweg.__all__)
