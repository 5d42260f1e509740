"""The figure of a field on the line."""

import math
import os

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.image import imread

from thalweg.figures import field_figure, save
from thalweg.nn import LinearField


def lines(figure, label):
    return [line.get_xydata() for line in figure.axes[0].lines if line.get_label() == label]


@pytest.mark.parametrize("t_span", [(0.0, 1.0), (1.0, 0.0)])
def test_boats_follow_exponential_decay(t_span):
    figure = field_figure(lambda t, z: -z, t_span, [-1.0, 0.5, 2.0], rtol=1e-8, atol=1e-10)
    for path, z0 in zip(lines(figure, "_path"), [-1.0, 0.5, 2.0], strict=True):
        t, z = path.T
        assert (t[0], t[-1]) == t_span
        np.testing.assert_allclose(z, z0 * np.exp(t_span[0] - t), atol=1e-7)


@pytest.mark.parametrize(
    ("t_span", "ends"),
    [
        ((2000.0, 2025.0), ("2000", "2025")),
        ((2030.0, 1990.0), ("2030", "1990")),
        ((19000.0, 19100.0), ("19000", "19100")),
        ((0.0, 123456.0), ("0", "123456")),
        ((1e6, 1e6 + 1), ("1000000", "1000001")),
        ((1000.125, 1000.25), ("1000.125", "1000.25")),
        ((-0.001, 1 / 3), ("−0.001", "0.333")),
        ((0.0, 1e-5), ("0", "1e−05")),
        ((-4e8, 1e9), ("−4e+08", "1e+09")),
    ],
)
def test_times_are_called_by_their_names(t_span, ends):
    """However small the span beside them: what is between the ends is there once, and lies there."""
    ax = field_figure(lambda t, z: 0 * z, t_span, [0.0, 1.0]).axes[0]
    first, *inner, last = [label.get_text() for label in ax.get_xticklabels()]
    assert (first, last) == (f"$t_0$ = {ends[0]}", f"$t_1$ = {ends[1]}")
    assert len(set(inner)) == len(inner) > 1
    np.testing.assert_allclose(
        [float(text.replace("−", "-")) for text in inner], ax.get_xticks()[1:-1], atol=1e-3 * abs(t_span[1] - t_span[0])
    )


def test_eulers_method_is_drawn_step_by_step():
    (steps,) = lines(field_figure(lambda t, z: -z, (0.0, 1.0), [1.0], euler_steps=4), "_blocks")
    np.testing.assert_allclose(steps, [(k / 4, 0.75**k) for k in range(5)], atol=1e-12)


def test_a_field_of_time_alone_is_drawn():
    """Per sample, as boats are solved, it has the shape of the state; the water asks it at one time for many."""
    figure = field_figure(lambda t, z: torch.cos(t), (0.0, 3.0), [0.0, 1.0], euler_steps=3, rtol=1e-8, atol=1e-10)
    for (t, z), z0 in zip((path.T for path in lines(figure, "_path")), (0.0, 1.0), strict=True):
        np.testing.assert_allclose(z, z0 + np.sin(t), atol=1e-7)
    assert len(lines(figure, "_blocks")) == 2


def test_a_path_that_turns_often_is_drawn_round():
    (path,) = lines(field_figure(lambda t, z: t * torch.cos(t**2), (0.0, 5.0), [0.0], rtol=1e-6), "_path")
    middle = (path[1:] + path[:-1]) / 2
    np.testing.assert_allclose(middle[:, 1], np.sin(middle[:, 0] ** 2) / 2, atol=0.005)


def test_the_solver_is_shown_unless_it_is_not_asked_for():
    for shown in (True, False):
        figure = field_figure(lambda t, z: -z, (0.0, 1.0), [1.0], show_steps=shown)
        keys = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        assert ("end of a solver step" in keys) == ("field evaluation" in keys) == bool(lines(figure, "_step")) == shown


def test_every_evaluation_of_a_method_of_fixed_steps_is_drawn():
    (asked,) = lines(
        field_figure(lambda t, z: t + 0 * z, (0.0, 1.0), [0.0], method="rk4", step_size=0.5), "_evaluation"
    )
    np.testing.assert_allclose(sorted(asked[:, 0]), [0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0])


def test_a_module_is_drawn_in_its_own_dtype():
    field = LinearField(1)
    with torch.no_grad():
        field.layer.linear.weight.fill_(-1.0)
    (path,) = lines(field_figure(field, (0.0, 1.0), [1.0]), "_path")
    assert math.isclose(path[-1, 1], math.exp(-1), rel_tol=1e-3)


def test_saving_twice_to_one_name_replaces_it_and_settings_stay(tmp_path):
    settings = {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}
    figure = field_figure(lambda t, z: -z, (0.0, 1.0), [1.0], title="decay")
    paths = save(figure, tmp_path / "a" / "river.v1", dpi=50)
    assert [path.name for path in paths] == ["river.v1.png", "river.v1.svg"]
    assert save(figure, tmp_path / "a" / "river.v1", dpi=50) == paths
    assert imread(paths[0]).shape[:2] == (290, 500)
    assert {key: matplotlib.rcParams[key] for key in settings} == settings


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_is_not_replaced_but_written_through(tmp_path):
    (tmp_path / "shared.png").touch()
    (tmp_path / "river.png").symlink_to("shared.png")
    save(field_figure(lambda t, z: -z, (0.0, 1.0), [1.0]), tmp_path / "river", dpi=50)
    assert (tmp_path / "river.png").is_symlink()
    assert (tmp_path / "shared.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_named_and_leaves_what_was_there(tmp_path):
    """As where a disk is full: here no file may be larger than a few bytes."""
    resource = pytest.importorskip("resource")
    figure = field_figure(lambda t, z: -z, (0.0, 1.0), [1.0])
    save(figure, tmp_path / "river", dpi=50)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match=r"river\.png"):
            save(figure, tmp_path / "river", dpi=60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"z0_values": []}, "z0_values must hold at least one number"),
        ({"t_span": (1.0, 1.0)}, "t_span must have two different times"),
        ({"euler_steps": 0}, "euler_steps must be an integer of 1 or more"),
        ({"method": "magic"}, "magic"),
    ],
)
def test_a_bad_argument_is_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        field_figure(**{"fun": lambda t, z: -z, "t_span": (0.0, 1.0), "z0_values": [1.0], **arguments})
