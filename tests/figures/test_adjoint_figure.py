"""The figure of the adjoint."""

import numpy as np
import pytest
import torch

from thalweg.figures import adjoint_figure
from thalweg.nn import MLPField


def lines(ax, label):
    return [line.get_xydata() for line in ax.lines if line.get_label() == label]


@pytest.mark.parametrize("t_span", [(0.0, 3.0), (3.0, 0.0)])
def test_the_adjoint_is_that_of_the_exact_solution_and_differences_lie_on_it(t_span):
    """For dz/dt = z cos t: z(t1) = z(t) exp(sin t1 - sin t)."""
    figure = adjoint_figure(lambda t, z: z * torch.cos(t), t_span, 1.0, lambda z: (z - 2) ** 2, nudges=3)
    river, ax = figure.axes
    end = np.sin(t_span[1])
    slope = 2 * (np.exp(end - np.sin(t_span[0])) - 2)
    (adjoint,), (slopes,), (begin,) = (lines(ax, label) for label in ("_adjoint", "_slopes", "_begin"))
    for points in (adjoint, slopes, begin):
        np.testing.assert_allclose(points[:, 1], slope * np.exp(end - np.sin(points[:, 0])), rtol=1e-4)
    np.testing.assert_allclose(slopes[:, 0], np.linspace(*t_span, 4)[:-1], atol=0.02)
    assert begin[0, 0] == t_span[1]
    nudged = lines(river, "_nudged")
    assert len(nudged) == 6
    for path in nudged:
        t, z = path.T
        np.testing.assert_allclose(z, z[0] * np.exp(np.sin(t) - np.sin(t[0])), rtol=1e-4)
        assert t[-1] == t_span[1]


def test_a_module_is_drawn_in_its_own_dtype():
    (adjoint,) = lines(adjoint_figure(MLPField(1, width=4), (0.0, 1.0), 0.5, torch.sin).axes[1], "_adjoint")
    assert np.isfinite(adjoint).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"z0": [0.0, 1.0]}, "z0 must be a number.*got 2"),
        ({"nudges": 0}, "nudges must be an integer of 1 or more"),
        ({"loss": torch.sum}, r"loss must be taken element by element: of shape \(4, 1\) it made shape \(\)"),
        ({"loss": lambda z: 1.0}, "loss must be taken element by element.*float"),
        ({"loss": torch.ones_like}, "loss must be computed from z1"),
        ({"t_span": (1.0, 1.0)}, "t_span must have two different times"),
    ],
)
def test_a_bad_argument_is_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        adjoint_figure(**{"fun": lambda t, z: -z, "t_span": (0.0, 1.0), "z0": 1.0, "loss": torch.square, **arguments})
