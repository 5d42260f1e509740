"""Methods of one's own: their orders are checked, and then they are methods like all others."""

from dataclasses import replace

import pytest
import torch

import order_conditions
from problems import F64, FORCED
from thalweg import Adjoint, register_method, solve_ivp
from thalweg.methods import Method, Tableau, get_method, methods, registry
from thalweg.methods.conditions import check_order, trees
from thalweg.methods.tableau import RungeKutta

KUTTA3 = Tableau(
    order=3,
    a=((), (0.5,), (-1.0, 2.0)),
    b=(1 / 6, 2 / 3, 1 / 6),
    interpolant=((1.0, -5 / 6), (0.0, 2 / 3), (0.0, 1 / 6)),
    interpolant_order=2,
)
DOPRI5 = get_method("dopri5").data


@pytest.fixture(autouse=True)
def _own_list(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


def test_a_registered_method_is_one_like_all_others():
    method = register_method("mine3", KUTTA3, "equal steps", "Kutta 1901")
    assert methods()[-1] == method == get_method("mine3") == Method("mine3", KUTTA3, "equal steps", "Kutta 1901")
    exact = FORCED.reference([2.0])[0]
    errors = [
        (solve_ivp(FORCED.fun, (0, 2), FORCED.state(), "mine3", step_size=h).ys[-1] - exact).norm()
        for h in (0.02, 0.01)
    ]
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.1)
    with pytest.raises(ValueError, match="did you mean 'mine3'"):
        get_method("mine4")


def test_coefficients_serve_without_a_name():
    """The steps of dopri5 from its tableau, from a `Method`, and back in time by the adjoint."""
    mine = Method("mine", DOPRI5, "", "")
    by_name, by_data, by_method = (
        solve_ivp(FORCED.fun, (0, 2), FORCED.state(), method, rtol=1e-6) for method in ("dopri5", DOPRI5, mine)
    )
    assert torch.equal(by_name.ys, by_data.ys)
    assert torch.equal(by_name.ys, by_method.ys)
    y0 = FORCED.state().requires_grad_()
    found = [
        torch.autograd.grad(solve_ivp(FORCED.fun, (0, 1), y0, gradient=Adjoint(method=m)).ys[-1].sum(), [y0])[0]
        for m in ("dopri5", DOPRI5)
    ]
    assert torch.equal(*found)


def test_implicit_ones_too():
    gauss = get_method("gl4").data
    register_method("gauss2", gauss)
    sol = solve_ivp(lambda t, y: -y, (0, 1), torch.ones(1, dtype=F64), "gauss2", step_size=0.1, rtol=1e-9)
    assert sol.ys[-1].item() == pytest.approx(torch.tensor(-1.0).exp().item(), rel=1e-6)
    assert get_method("gauss2").kind == "firk"
    assert solve_ivp(lambda t, y: -y, (0, 1), torch.ones(1), get_method("kvaerno3").data).success


@pytest.mark.parametrize("method", [m for m in methods() if isinstance(m.data, RungeKutta)], ids=lambda m: m.name)
def test_ours_pass_and_would_not_with_an_order_more(method):
    check_order(method.data)
    with pytest.raises(ValueError, match=rf"^order={method.order + 1} is not met: for the tree \[.*\] of order"):
        check_order(replace(method.data, order=method.order + 1))


def test_the_trees_are_those_of_the_tests():
    for size in range(1, 8):
        assert set(trees(size)) == set(order_conditions.trees(size))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"a": ((), (0.5,), (-1.0, 2.1))},
            r"order=3 is not met: for the tree \[τ\] of order 2 .* of b is 0.5166666667",
        ),
        (
            {"a": ((), (0.5,), (-0.5, 1.5))},
            r"for the tree \[\[τ\]\] of order 3 .* is 0.125, and must be 0.1666666667; ",
        ),
        ({"a": ((), (0.5,), (-0.5, 1.5))}, "or declare order=2"),
        ({"b": (1 / 6, 2 / 3, 1 / 5)}, "for the tree τ of order 1 .* is 1.033333333, and must be 1"),
        ({"order": 4}, r"order=4 is not met: for the tree \[τ, τ, τ\]|order=4 is not met: for the tree \[\[\[τ\]\]\]"),
        ({"b_error": (0.1, -0.1, 0.0), "embedded_order": 2}, r"embedded_order=2 is not met: for the tree \[τ\]"),
        ({"interpolant_order": 3}, "interpolant_order=3 is not met.* of interpolant at theta = 0.2"),
        ({"interpolant": ((1.0, -5 / 6), (0.1, 2 / 3), (0.0, 1 / 6))}, "interpolant_order=2 is not met"),
        (
            {"interpolant": ((1.0, -1 / 2), (0.0, 0.0), (0.0, 1 / 2))},
            "each row of interpolant must add up to its b, 0.1666666667, but one does to 0.5",
        ),
    ],
)
def test_coefficients_that_miss_their_order_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        register_method("wrong", replace(KUTTA3, **change))
    assert "wrong" not in {m.name for m in methods()}
    with pytest.raises(ValueError, match=message):
        solve_ivp(lambda t, y: -y, (0, 1), torch.ones(1), replace(KUTTA3, **change), step_size=0.1)


def test_rounded_coefficients_are_good_enough():
    """Those that were published with 12 digits."""
    check_order(replace(DOPRI5, b=tuple(round(x, 12) for x in DOPRI5.b)))
    with pytest.raises(ValueError, match="is not met"):
        check_order(replace(DOPRI5, b=tuple(round(x, 8) for x in DOPRI5.b)))


@pytest.mark.parametrize("name", ["tsit5", "heun"])
def test_a_name_that_is_taken(name):
    with pytest.raises(ValueError, match=f"there is a method '{name}' already"):
        register_method(name, KUTTA3)


@pytest.mark.parametrize("name", ["", "my method", "scipy:mine", "3rd", 7])
def test_what_is_no_name(name):
    with pytest.raises(ValueError, match="name must be a letter, then letters"):
        register_method(name, KUTTA3)


def test_what_is_no_tableau():
    with pytest.raises(ValueError, match=r"data must be a thalweg\.methods\.Tableau, .* got Rosenbrock"):
        register_method("mine", get_method("rodas5p").data)
