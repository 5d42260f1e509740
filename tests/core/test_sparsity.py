"""Jacobians of a known pattern: the same as without it, at the cost of their colours."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from thalweg import Sparsity, solve_ivp
from thalweg.core.field import Field
from thalweg.core.jacobian import Jacobians
from thalweg.core.state import layout_of

F64 = torch.float64
BATCHINGS = ["joint", "per_sample"]


def sizes(colours):
    return [int(c.max()) + 1 for c in (colours.rows, colours.columns)]


def arrow(n, *, row):
    """A diagonal and one full row, or one full column."""
    pattern = torch.eye(n, dtype=torch.bool)
    pattern[(0, slice(None)) if row else (slice(None), 0)] = True
    return pattern


def masked(pattern, seed=0):
    """dy_i/dt: a nonlinear function of time and of the entries that row i of the pattern names."""
    weights = torch.randn(pattern.shape, dtype=F64, generator=torch.Generator().manual_seed(seed)) * pattern

    def field(t, y):
        return torch.sin(y @ weights.T) + t * torch.cos(y) * pattern.diagonal() - 0.1 * y * pattern.diagonal()

    return field


def made(field, pattern, y, *, timed=False):
    """The linearization at t = 0.3, with the pattern and without."""
    by_row = y.ndim > 1
    layout, _ = layout_of(y, by_row=by_row)
    t = torch.full((len(y), 1), 0.3, dtype=F64) if by_row else torch.tensor(0.3, dtype=F64)
    return [
        Jacobians(y, by_row=by_row).at(Field(field, (), layout, y, sparsity=known), t, y, timed=timed)
        for known in (None if pattern is None else Sparsity(pattern), None)
    ]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 9), st.floats(0, 1), st.integers(0, 10_000))
def test_colours_never_clash(n, density, seed):
    """Columns of one colour share no row, rows no column, on patterns of any density; colours are used from 0 on."""
    pattern = torch.rand(n, n, generator=torch.Generator().manual_seed(seed)) < density
    found = Sparsity(pattern)
    for matrix, colours in ((pattern, found.columns), (pattern.t(), found.rows)):
        assert sorted(set(colours.tolist())) == list(range(int(colours.max()) + 1 if n else 0))
        for colour in set(colours.tolist()):
            assert (matrix[:, colours == colour].sum(1) <= 1).all()


def test_known_patterns_need_as_many_colours_as_they_must():
    assert sizes(Sparsity.banded(30, 1, 1)) == [3, 3]
    assert sizes(Sparsity.banded(30, 2, 1)) == [4, 4]
    assert sizes(Sparsity.banded(30, 0, 0)) == [1, 1]
    assert sizes(Sparsity.banded(5, 9, 9)) == [5, 5]
    assert sizes(Sparsity(arrow(20, row=True))) == [2, 20]
    assert sizes(Sparsity(arrow(20, row=False))) == [20, 2]


PATTERNS = {
    "banded": Sparsity.banded(7, 2, 1).pattern,
    "diagonal": torch.eye(7, dtype=torch.bool),
    "a full row": arrow(7, row=True),
    "a full column": arrow(7, row=False),
    "full": torch.ones(7, 7, dtype=torch.bool),
    "scattered": torch.rand(7, 7, generator=torch.Generator().manual_seed(3)) < 0.3,
    "empty": torch.zeros(7, 7, dtype=torch.bool),
}


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("rows", [None, 3], ids=BATCHINGS)
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
class TestTheSameAsWithout:
    def test_by_products(self, pattern, rows, timed):
        y = torch.randn(*([rows] if rows else []), 7, dtype=F64)
        with torch.no_grad():
            known, whole = made(masked(pattern), pattern, y, timed=timed)
        torch.testing.assert_close(known.jacobian, whole.jacobian, rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(known.slope, whole.slope)
        if timed:
            derivatives = (
                torch.zeros_like(y) if x.time_derivative is None else x.time_derivative for x in (known, whole)
            )
            torch.testing.assert_close(*derivatives, rtol=1e-13, atol=1e-14)

    def test_in_a_graph(self, pattern, rows, timed):
        """Second derivatives too."""
        y = torch.randn(*([rows] if rows else []), 7, dtype=F64, requires_grad=True)
        weights = torch.randn(7, 7, dtype=F64)
        found = []
        for linear in made(masked(pattern), pattern, y, timed=timed):
            total = (linear.jacobian * weights).sum() + linear.slope.sum()
            if timed and linear.time_derivative is not None:
                total = total + linear.time_derivative.sin().sum()
            found.append(torch.autograd.grad(total, [y])[0])
        torch.testing.assert_close(*found, rtol=1e-12, atol=1e-13)

    def test_by_differences(self, pattern, rows, timed):
        """Of a field that is cut from its graph: as many evaluations as colours, and one for the slope."""
        y = torch.randn(*([rows] if rows else []), 7, dtype=F64)
        field, calls = masked(pattern), []

        def cut(t, y):
            calls.append(1)
            return field(t, y).detach()

        with torch.no_grad():
            whole = made(field, None, y)[1]
            layout, _ = layout_of(y, by_row=bool(rows))
            t = torch.full((rows, 1), 0.3, dtype=F64) if rows else torch.tensor(0.3, dtype=F64)
            known = Jacobians(y, by_row=bool(rows)).at(Field(cut, (), layout, y, sparsity=Sparsity(pattern)), t, y)
        assert len(calls) == 1 + sizes(Sparsity(pattern))[1]
        torch.testing.assert_close(known.jacobian, whole.jacobian, rtol=1e-6, atol=1e-6)


def test_products_are_as_many_as_the_colours():
    """Of a field whose backward pass refuses to be batched, and counts."""
    counts = []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, cotangent):
            cotangent.sum().item()  # which no batch has
            counts.append(1)
            return cotangent

    pattern = Sparsity.banded(12, 2, 1).pattern
    weights = torch.randn(12, 12, dtype=F64) * pattern
    y, t = torch.randn(12, dtype=F64), torch.tensor(0.0, dtype=F64)
    layout, _ = layout_of(y, by_row=False)
    for known, products in ((Sparsity(pattern), 4), (None, 12)):
        counts.clear()
        field = Field(lambda t, y: weights @ Counted.apply(y).sin(), (), layout, y, sparsity=known)
        with torch.no_grad():
            found = Jacobians(y, by_row=False).at(field, t, y).jacobian
        torch.testing.assert_close(found, weights * y.cos(), rtol=1e-13, atol=1e-14)
        assert len(counts) == products


def test_what_has_no_second_derivative_is_found_by_rows():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, cotangent):
            return cotangent * ctx.saved_tensors[0].cos()

    pattern = arrow(9, row=False)
    weights = torch.randn(9, 9, dtype=F64) * pattern
    y = torch.randn(9, dtype=F64)
    with torch.no_grad():
        known, _ = made(lambda t, y: weights @ Once.apply(y), pattern, y, timed=True)
    torch.testing.assert_close(known.jacobian, weights * y.cos(), rtol=1e-13, atol=1e-14)


def diffusion(t, y, evaluations=None):
    """On a line with walls, with a reaction."""
    flux = y.diff(dim=-1)
    return 40 * (torch.nn.functional.pad(flux, (0, 1)) - torch.nn.functional.pad(flux, (1, 0))) + torch.sin(y + t)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("method", ["rosenbrock23", "rodas5p", "trbdf2", "kvaerno5", "radau5", "auto"])
def test_solves_are_the_same_with_a_pattern(method, batching):
    """Steps, states and gradients, whichever way the Jacobian is used."""
    y0 = torch.linspace(0, 6, 24, dtype=F64).sin().reshape(2, 12)
    y0 = (y0[0] if batching == "joint" else y0).clone().requires_grad_()

    def solve(pattern):
        sol = solve_ivp(
            diffusion, (0.0, 1.0), y0, method, jac_sparsity=pattern, batching=batching, rtol=1e-4, atol=1e-5
        )
        return sol.ys, sol.stats, torch.autograd.grad(sol.ys[-1].square().sum(), [y0])[0]

    expected = solve(None)
    for pattern in (("banded", 1, 1), Sparsity.banded(12, 1, 1)):
        found = solve(pattern)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(found[2], expected[2], rtol=1e-6, atol=1e-8)
        assert torch.equal(torch.as_tensor(found[1].n_steps), torch.as_tensor(expected[1].n_steps))


def test_other_libraries_have_it_too():
    y0 = torch.linspace(0, 6, 12, dtype=F64).sin()
    one, other = (
        solve_ivp(diffusion, (0.0, 1.0), y0, "scipy:Radau", jac_sparsity=pattern, rtol=1e-6)
        for pattern in (None, ("banded", 1, 1))
    )
    torch.testing.assert_close(one.ys, other.ys, rtol=1e-9, atol=1e-10)


def test_a_pattern_of_the_stiff_part_of_a_pair():
    y0 = torch.linspace(0, 6, 12, dtype=F64).sin()
    one, other = (
        solve_ivp((lambda t, y: torch.sin(y.flip(0)), diffusion), (0.0, 1.0), y0, "kencarp4", jac_sparsity=pattern)
        for pattern in (None, ("banded", 1, 1))
    )
    torch.testing.assert_close(one.ys, other.ys, rtol=1e-9, atol=1e-10)


def test_evaluations_of_a_solve_by_differences():
    """As many as the colours for each Jacobian, beside those that nfev counts."""
    calls = []

    def field(t, y):
        calls.append(1)
        return diffusion(t, y).detach()

    y0 = torch.linspace(0, 6, 40, dtype=F64).sin()
    sol = solve_ivp(field, (0.0, 1.0), y0, "kvaerno5", jac_sparsity=("banded", 1, 1), rtol=1e-4)
    assert sol.stats.njev > 0
    assert len(calls) == sol.stats.nfev + sol.stats.njev * (1 + 3)


@pytest.mark.parametrize(
    "pattern",
    [
        Sparsity.banded(12, 1, 1).pattern.numpy(),
        Sparsity.banded(12, 1, 1).pattern.numpy().tolist(),
        sparse.diags_array([np.ones(11), np.ones(12), np.ones(11)], offsets=[-1, 0, 1]),
        torch.randn(12, 12).abs().add(0.1) * Sparsity.banded(12, 1, 1).pattern,
        Sparsity.banded(12, 1, 1).pattern.double().to_sparse(),
    ],
    ids=["array", "list", "sparse", "numbers", "sparse tensor"],
)
def test_patterns_of_any_kind(pattern):
    assert torch.equal(Sparsity.of(pattern, 12).pattern, Sparsity.banded(12, 1, 1).pattern)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (torch.ones(3, 4), r"jac_sparsity must have shape \(N, N\), .* got \(3, 4\)"),
        (torch.ones(4, 4), r"jac_sparsity must have shape \(3, 3\), a row for each entry of the slope .* got \(4, 4\)"),
        (Sparsity.banded(4, 1, 1), r"jac_sparsity must have shape \(3, 3\)"),
        (torch.ones(3), r"must have shape \(N, N\), .* got \(3,\)"),
        ("banded", "must be a tensor, an array or a sparse matrix"),
        (("banded", -1, 1), "lower of a banded jac_sparsity must be a number of diagonals, got -1"),
        (("banded", 1, 0.5), "upper of a banded jac_sparsity must be a number of diagonals, got 0.5"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.ones(3), "rodas5p", jac_sparsity=pattern)


def test_an_explicit_method_says_that_it_makes_no_use_of_it():
    with pytest.warns(UserWarning, match="explicit and makes no use of jac_sparsity"):
        solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.ones(3), "tsit5", jac_sparsity=torch.eye(3))
