"""The figure of Euler's method."""

import itertools
import math

import numpy as np
import pytest
import torch

from thalweg.figures import euler_figure
from thalweg.nn import MLPField


def lines(ax, label):
    return [line.get_xydata() for line in ax.lines if line.get_label() == label]


@pytest.mark.parametrize("t_span", [(0.0, 1.0), (2000.0, 2025.0), (1e6, 1e6 + 1)])
def test_times_have_room_beside_each_other(t_span):
    figure = euler_figure(lambda t, z: z, t_span, 1e-9, steps=(3, 6, 12))
    figure.draw_without_rendering()
    for ax in figure.axes:
        boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
        assert len(boxes) > 2
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_each_panel_shows_its_steps_the_path_and_how_far_they_are_apart():
    figure = euler_figure(lambda t, z: -z, (0.0, 1.0), 1.0, steps=(1, 4))
    for ax, n in zip(figure.axes, (1, 4), strict=True):
        (steps,), (path,), (miss,) = (lines(ax, label) for label in ("_blocks", "_path", "_miss"))
        np.testing.assert_allclose(steps, [(k / n, (1 - 1 / n) ** k) for k in range(n + 1)], atol=1e-12)
        np.testing.assert_allclose(path[:, 1], np.exp(-path[:, 0]), atol=1e-5)
        np.testing.assert_allclose(miss, [(1.0, (1 - 1 / n) ** n), (1.0, math.exp(-1))], atol=1e-5)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["1 step: off by 0.368", "4 steps: off by 0.0515"]


def test_it_goes_back_in_time_and_takes_a_field_of_time_alone():
    figure = euler_figure(lambda t, z: 2 * t, (1.0, 0.0), 1.0, steps=(2,))
    (steps,) = lines(figure.axes[0], "_blocks")
    np.testing.assert_allclose(steps, [(1.0, 1.0), (0.5, 0.0), (0.0, -0.5)], atol=1e-12)


def test_a_module_is_drawn_in_its_own_dtype():
    assert len(euler_figure(MLPField(1, width=4), (0.0, 1.0), torch.tensor(0.5), steps=(1, 2, 3)).axes) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"z0": [0.0, 1.0]}, "z0 must be a number.*got 2"),
        ({"steps": ()}, "steps must hold at least one number"),
        ({"steps": (2, 0)}, "steps must be an integer of 1 or more, got 0"),
        ({"steps": 4}, r"steps must be a sequence of numbers of steps, such as \(3, 6, 12\), got 4"),
        ({"z0": "one"}, "must be told by numbers, got 'one'"),
        ({"t_span": (1.0, 1.0)}, "t_span must have two different times"),
    ],
)
def test_a_bad_argument_is_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        euler_figure(**{"fun": lambda t, z: -z, "t_span": (0.0, 1.0), "z0": 1.0, **arguments})
