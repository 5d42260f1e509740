"""The figures of a trained model show what the model does."""

from itertools import pairwise
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

from thalweg.figures import flow_figures
from thalweg.figures.model import draw_flow
from thalweg.figures.plane import plane_figure
from thalweg.figures.style import Colouring, class_colour
from thalweg.figures.view import choose_view
from thalweg.figures.water import exact_plane
from thalweg.learn.model import FlowModel
from thalweg.nn import MLPField, NeuralODE, ResNet

NAMES = ["low", "middle", "high"]


def model_of(dims, *, t_span=(0.0, 1.0), inputs=2, **options):
    """A model whose field is strong enough for the solver to take several steps."""
    encoder, field = nn.Linear(inputs, dims), MLPField(dims, width=16, depth=1)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.mul_(2.0)
    return FlowModel(encoder, NeuralODE(field, t_span, **options), nn.Linear(dims, len(NAMES)))


def rows_of(count=30, inputs=2):
    """Inputs, and as many rows of each of three classes, which lie beside each other."""
    y = torch.arange(count) % 3
    return torch.randn(count, inputs) + y[:, None], y


def lines(ax, label):
    """The data (points, 2) of all lines of one kind."""
    return [line.get_xydata() for line in ax.lines if line.get_label() == label]


def along(model, x, y, states, task="classification"):
    """States (…, N, D) along the line that the figures draw, with the view chosen as documented: by the ends."""
    with torch.no_grad():
        ends = model.flow(model.encoder(x)).flatten(1).double().numpy()
    return choose_view(ends, np.asarray(y), task).line(states.detach().flatten(2).double().numpy())


@pytest.mark.parametrize(("dims", "t_span"), [(1, (0.0, 1.0)), (1, (1.0, 0.0)), (2, (1.0, 0.0)), (5, (0.0, 1.0))])
def test_paths_go_from_where_the_encoder_puts_the_boats_to_where_the_flow_ends(dims, t_span):
    model, (x, y) = model_of(dims, t_span=t_span).double(), rows_of()  # in float32 rounding may choose other steps
    x = torch.as_tensor(x).double()
    with torch.no_grad():  # as figures are drawn
        z0 = model.encoder(x)
        expected = along(model, x, y, torch.stack([z0, model.flow(z0)]))

    ax = draw_flow(model, x, y, "classification", NAMES, boats=len(x))["figure1-flow"].axes[0]

    paths = lines(ax, "_path")
    assert [path[0, 0] for path in paths] == [t_span[0]] * len(x)
    assert [path[-1, 0] for path in paths] == [t_span[1]] * len(x)
    drawn = np.array([path[[0, -1], 1] for path in paths])
    # boats are drawn class by class: compare them in one order; the ends may differ by the solver's interpolation
    np.testing.assert_allclose(drawn[drawn[:, 0].argsort()], expected[:, expected[0].argsort()].T, atol=1e-4)
    assert ax.get_xlim() == t_span  # the axis runs as the boats do


@pytest.mark.parametrize("dims", [1, 3])
def test_the_river_before_training_is_drawn_beside_the_one_after_from_the_same_side(dims):
    before, after, (x, y) = model_of(dims).double(), model_of(dims).double(), rows_of()
    x = torch.as_tensor(x).double()
    figures = draw_flow(after, x, y, "classification", NAMES, boats=len(x), before=before)
    left, right = figures["figure4-training"].axes
    for ax, model in ((left, before), (right, after)):
        with torch.no_grad():
            z0 = model.encoder(x)
            expected = along(after, x, y, torch.stack([z0, model.flow(z0)]))
        drawn = np.array([path[[0, -1], 1] for path in lines(ax, "_path")])
        np.testing.assert_allclose(drawn[drawn[:, 0].argsort()], expected[:, expected[0].argsort()].T, atol=1e-4)
    assert left.get_ylim() == right.get_ylim()


def test_as_many_boats_are_drawn_as_are_asked_for_though_a_class_has_few():
    x, y = torch.randn(30, 2), (torch.arange(30) > 4).long()
    ax = draw_flow(model_of(1), x, y, "classification", boats=20)["figure1-flow"].axes[0]
    colours = [line.get_color() for line in ax.lines if line.get_label() == "_path"]
    assert sorted(map(colours.count, set(colours))) == [5, 15]


def test_as_many_evaluations_are_drawn_as_the_solver_counts():
    model, (x, y) = model_of(3, rtol=1e-4).double(), rows_of()  # in single precision rounding alone may change a step
    x = x.double()
    figures = draw_flow(model, x, y, "classification", NAMES, boats=6)
    z0 = model.encoder(x)
    model.flow(z0)
    nfev, steps = model.flow.stats.nfev.numpy(), model.flow.stats.n_accepted.numpy()
    places = along(model, x, y, z0[None])[0]

    ax = figures["figure2-steps"].axes[1]
    drawn = [np.abs(places - path[0, 1]).argmin() for path in lines(ax, "_path")]

    assert len(drawn) == 6
    assert [len(points) for points in lines(ax, "_evaluation")] == nfev[drawn].tolist()
    assert [len(points) for points in lines(ax, "_step")] == (steps[drawn] - 1).tolist()  # those at t0 and t1 are boats
    assert "evaluations" in ax.get_title(loc="left")


def test_evaluations_lie_on_the_path_where_the_solver_accepted_a_step():
    model, (x, y) = model_of(1), rows_of(5)
    ax = draw_flow(model, x, y, "classification", NAMES, boats=1)["figure1-flow"].axes[0]
    (path,), (steps,) = lines(ax, "_path"), lines(ax, "_step")
    np.testing.assert_allclose(np.interp(steps[:, 0], *path.T), steps[:, 1], atol=2e-3)
    (asked,) = lines(ax, "_evaluation")
    np.testing.assert_allclose(asked[0], path[0], atol=1e-6)


@pytest.mark.parametrize("far", [1, 3])
@pytest.mark.parametrize("dims", [2, 5])
def test_a_few_rows_far_from_all_others_do_not_decide_the_scale(dims, far):
    torch.manual_seed(0)
    model, (x, y) = model_of(dims), rows_of(300)
    plane = draw_flow(model, x, y, "classification", NAMES)["figure3-plane"]
    x[:far] *= 1e3
    figure = draw_flow(model, x, y, "classification", NAMES)["figure3-plane"]
    for of in ("get_xlim", "get_ylim"):
        assert np.ptp(getattr(figure.axes[0], of)()) < 3 * np.ptp(getattr(plane.axes[0], of)())
    assert f"Far off and not shown: {far}." in figure.legends[-1].get_title().get_text()
    assert "not shown" not in plane.legends[-1].get_title().get_text()


def test_of_few_rows_all_are_shown_however_far():
    model, (x, y) = model_of(2), rows_of(12)
    x[0] *= 1e3
    ax = draw_flow(model, x, y, "classification", NAMES)["figure3-plane"].axes[0]
    z0 = model.encoder(x).detach().numpy()
    assert ax.get_xlim()[0] < z0[:, 0].min() < z0[:, 0].max() < ax.get_xlim()[1]


def test_times_below_zero_have_the_minus_sign_of_the_other_axis():
    figures = draw_flow(model_of(2, t_span=(-1.0, 1.0)), *rows_of(), "classification", NAMES)
    names = [label.get_text() for label in figures["figure1-flow"].axes[0].get_xticklabels()]
    assert names[0] == "$t_0$ = −1"
    assert "−0.5" in names
    assert [ax.get_title(loc="left") for ax in figures["figure3-plane"].axes] == ["t = −1", "t = 0", "t = 1"]


@pytest.mark.parametrize("t_span", [(0.0, 3.0), (3.0, 0.0)])
def test_blocks_of_figure_2_are_eulers_method_on_the_same_field(t_span):
    model, (x, y) = model_of(1, t_span=t_span), rows_of(6)
    z = model.encoder(x)
    way = 1.0 if t_span[1] > t_span[0] else -1.0
    expected = [z]
    for k in range(3):
        z = z + way * model.flow.field(torch.tensor(t_span[0] + way * k), z)
        expected.append(z)
    expected = torch.stack(expected)[..., 0].detach().numpy()

    ax = draw_flow(model, x, y, "classification", NAMES, blocks=3)["figure2-steps"].axes[0]

    drawn = np.array(lines(ax, "_blocks"))
    assert drawn[0, :, 0].tolist() == np.linspace(*t_span, 4).tolist()
    order = drawn[:, 0, 1].argsort()
    np.testing.assert_allclose(drawn[order, :, 1].T, expected[:, expected[0].argsort()], atol=1e-5)


def test_arrows_of_a_block_point_along_its_step():
    """In reversed time too, where both time and the state go the other way."""
    flow = NeuralODE(_Decay(), (1.0, 0.0))
    model = FlowModel(nn.Linear(1, 1), flow, nn.Linear(1, 2))
    x = torch.tensor([[1.0], [2.0], [3.0]])
    ax = draw_flow(model, x, [0, 0, 1], "classification", blocks=4)["figure2-steps"].axes[0]
    (arrows,) = [artist for artist in ax.collections if hasattr(artist, "U")]
    assert (arrows.U < 0).all()
    np.testing.assert_allclose(arrows.V / arrows.U, -arrows.XY[:, 1], atol=1e-5)  # dz/dt = -z
    assert sorted(set(arrows.X.tolist())) == [0.25, 0.5, 0.75, 1.0]  # at the starts of the blocks, not at t1 = 0


@pytest.mark.parametrize("shared", [True, False])
def test_a_residual_network_has_its_own_trajectory_drawn(shared):
    fields = [MLPField(4, width=8) for _ in range(3)]
    flow = ResNet(fields[0], 3) if shared else ResNet(fields)
    model, (x, y) = FlowModel(nn.Linear(2, 4), flow, nn.Linear(4, 3)), rows_of(12)
    expected = along(model, x, y, flow.trajectory(model.encoder(x)))

    figures = draw_flow(model, x, y, "classification", NAMES, boats=12)

    assert list(figures) == ["figure2-steps"]
    drawn = np.array(lines(figures["figure2-steps"].axes[0], "_blocks"))
    order = drawn[:, 0, 1].argsort()
    np.testing.assert_allclose(drawn[order, :, 1].T, expected[:, expected[0].argsort()], atol=1e-5)


@pytest.mark.parametrize("reach", [(-0.0085, 0.0255), (-1.0, 1.0), (-8500.0, 25500.0)])
def test_numbers_below_a_plane_keep_apart(reach):
    z = np.random.default_rng(0).uniform(*reach, size=(3, 40, 2))
    water = exact_plane(np.ones_like, reach, reach, (9, 9))
    figure = plane_figure(
        [water] * 3, np.arange(3.0), z, [0, 1, 2], Colouring.plain(40), wakes=[], labels=("one", "two")
    )
    figure.canvas.draw()
    for ax in figure.axes:
        numbers = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
        assert len(numbers) > 2
        assert all(left.x1 + 4 < right.x0 for left, right in pairwise(numbers))


def test_a_plane_of_two_dimensions_shows_the_states_themselves_at_three_times():
    model, (x, y) = model_of(2).double(), rows_of()
    x = torch.as_tensor(x).double()
    with torch.no_grad():
        trajectory = model.flow.trajectory(model.encoder(x), [0.0, 0.5, 1.0]).numpy()
    axes = draw_flow(model, x, y, "classification", NAMES)["figure3-plane"].axes
    assert [ax.get_title(loc="left") for ax in axes] == ["t = 0", "t = 0.5", "t = 1"]
    for ax, states in zip(axes, trajectory, strict=True):
        boats = [c.get_offsets() for c in ax.collections if len(c.get_offsets()) in np.bincount(y)]
        drawn = np.concatenate(boats)
        np.testing.assert_allclose(drawn[drawn[:, 0].argsort()], states[states[:, 0].argsort()], atol=1e-4)


def test_files_are_png_and_svg_and_nothing_is_overwritten(tmp_path):
    model, (x, y) = model_of(1), rows_of(6)
    first = flow_figures(model, x, y, tmp_path / "new", "classification", NAMES)
    content = {path: path.read_bytes() for path in first}
    second = flow_figures(model, x, y, str(tmp_path / "new"), "classification", NAMES)
    assert [path.name for path in first] == [f"{name}.{kind}" for name in FILES for kind in ("png", "svg")]
    assert [path.name for path in second] == [f"{name}-2.{kind}" for name in FILES for kind in ("png", "svg")]
    assert content == {path: path.read_bytes() for path in first}
    assert [path.read_bytes() for path in second] == list(content.values())  # the same figure is the same file
    assert first[0].read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert ElementTree.parse(first[1]).getroot().tag.endswith("svg")


FILES = ("figure1-flow", "figure2-steps")


def test_one_name_that_is_taken_numbers_all_files_alike(tmp_path):
    (tmp_path / "figure2-steps.svg").write_text("mine")
    model, (x, y) = model_of(1), rows_of(4)
    names = [path.stem for path in flow_figures(model, x, y, tmp_path, "classification", NAMES)]
    assert set(names) == {"figure1-flow-2", "figure2-steps-2"}
    assert (tmp_path / "figure2-steps.svg").read_text() == "mine"


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize(("rows", "dims"), [(1, 3), (3, 1), (3, 4)])
def test_a_few_rows_are_enough(task, rows, dims):
    model, (x, y) = model_of(dims), rows_of(rows)
    figures = draw_flow(model, x, y if task == "classification" else x[:, :1], task, NAMES)
    assert len(figures) == (2 if dims == 1 else 3)
    figures["figure1-flow"].canvas.draw()


def test_one_class_alone_among_the_rows_keeps_its_own_colour():
    model, (x, _) = model_of(1), rows_of()
    middle = torch.ones(len(x), dtype=torch.int64)
    figure = draw_flow(model, x, middle, "classification", NAMES)["figure1-flow"]
    mixed = draw_flow(model, x, rows_of()[1], "classification", NAMES)["figure1-flow"]
    colours = [{line.get_color() for line in f.axes[0].lines if line.get_label() == "_path"} for f in (figure, mixed)]
    assert len(colours[0]) == 1
    assert len(colours[1]) == 3
    assert colours[0] < colours[1]


def test_a_class_of_few_rows_among_very_many_has_boats():
    x, y = torch.randn(40_000, 2), torch.zeros(40_000, dtype=torch.int64)
    y[[7, 20_000, 39_000]] = 2
    ax = draw_flow(model_of(1), x, y, "classification", NAMES)["figure1-flow"].axes[0]
    assert {line.get_color() for line in ax.lines if line.get_label() == "_path"} == {class_colour(0), class_colour(2)}


def test_a_few_targets_far_from_all_others_do_not_decide_the_colours():
    y = torch.linspace(-1, 1, 300)
    y[:3] = torch.tensor([1e4, -1e4, 5e3])
    for figure in draw_flow(model_of(2), torch.randn(300, 2), y, "regression").values():
        bar = figure.axes[-1]
        assert bar.get_ylim() == pytest.approx((-1, 1), abs=0.1)


def test_the_colour_of_a_regression_tells_its_target_on_one_scale():
    model, (x, _) = model_of(3), rows_of(20)
    target = np.linspace(100.0, 200.0, 20)
    figure = draw_flow(model, x, target, "regression", target="price", boats=5)["figure1-flow"]
    bar = figure.axes[-1]
    assert bar.get_ylabel() == "price"
    assert bar.get_ylim() == (100.0, 200.0)  # of all boats, not of the five that are drawn


def test_states_that_are_images_are_drawn_as_long_vectors():
    class Stir(nn.Module):
        def forward(self, t, z):
            return 0.5 * z.roll(1, dims=-1)

    model = FlowModel(nn.Unflatten(1, (1, 2, 2)), NeuralODE(Stir()), nn.Flatten())
    x = torch.randn(10, 4)
    figures = draw_flow(model, x, (x[:, 0] > 0).long(), "classification")
    assert list(figures) == ["figure1-flow", "figure2-steps", "figure3-plane"]


@pytest.mark.parametrize(
    "options",
    [{"learn_times": True}, {"batching": "joint"}, {"gradient": "adjoint"}, {"method": "rk4", "step_size": 0.25}],
)
def test_every_way_to_solve_can_be_drawn(options):
    model, (x, y) = model_of(2, **options), rows_of(6)
    assert len(draw_flow(model, x, y, "classification", NAMES)) == 3


def test_drawing_leaves_model_settings_and_randomness_alone(tmp_path):
    model, (x, y) = model_of(1), rows_of(6)
    model.encoder = nn.Sequential(nn.Dropout(0.5), model.encoder, nn.BatchNorm1d(1))
    model.train()
    model.encoder[2].eval()  # frozen on purpose
    model.flow(model.encoder(x))
    stats, weights = model.flow.stats, {k: v.clone() for k, v in model.state_dict().items()}
    settings, torch_state, numpy_state = _settings(), torch.get_rng_state(), np.random.get_state()  # noqa: NPY002

    flow_figures(model, x, y, tmp_path, "classification", NAMES)

    assert _settings() == settings
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state, strict=True))  # noqa: NPY002
    assert model.flow.stats is stats
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    assert [part.training for part in model.encoder] == [True, True, False]
    assert all(p.grad is None for p in model.parameters())


def test_the_figure_of_a_model_does_not_depend_on_dropout():
    model, (x, y) = model_of(1), rows_of(6)
    model.encoder = nn.Sequential(nn.Dropout(0.5), model.encoder)
    model.train()
    paths = [lines(draw_flow(model, x, y, "classification", NAMES)["figure1-flow"].axes[0], "_path") for _ in range(2)]
    np.testing.assert_array_equal(*paths)


@pytest.mark.parametrize("name", ["k00", "0", "OF LETTERS WIDE ALL", "seven"])
def test_the_key_to_many_classes_of_any_name_fits(name):
    x, y = torch.randn(120, 2), torch.arange(120) % 30
    figure = draw_flow(model_of(1), x, y, "classification", [name] * 30)["figure1-flow"]
    figure.canvas.draw()
    assert figure.legends[0].get_window_extent().x1 < figure.bbox.x1


def test_names_of_classes_that_begin_alike_are_told_apart_in_the_key():
    x, y = torch.randn(60, 2), torch.arange(60) % 20
    names = [f"a leaf of a tomato, {'well' if k < 10 else 'ill, of kind'} {k}, as seen from above" for k in range(20)]
    figure = draw_flow(model_of(1), x, y, "classification", names)["figure1-flow"]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(set(texts)) == 20
    assert texts[0] == "a leaf…well 0, as…"
    assert max(map(len, texts)) <= 18


def test_many_rows_and_classes_and_long_names_with_signs_fit():
    x, y = torch.randn(900, 2), torch.arange(900) % 40
    names = [f"${k}^$ of a class of 40" for k in range(40)]
    figure = draw_flow(model_of(1), x, y, "classification", names)["figure1-flow"]
    figure.canvas.draw()
    key = figure.legends[0]
    assert len(key.get_texts()) == 25
    assert key.get_texts()[-1].get_text() == "and 16 more"
    assert key.get_window_extent().x1 < figure.bbox.x1
    assert figure.axes[0].get_window_extent().height > 0.4 * figure.bbox.height  # there is room for the river


BAD = {
    "no flow": ({"model": FlowModel(nn.Linear(2, 2), nn.Identity(), nn.Linear(2, 3))}, "model.flow must be"),
    "no blocks": ({"model": FlowModel(nn.Linear(2, 2), ResNet([]), nn.Linear(2, 3))}, "at least one residual block"),
    "before of no flow": ({"before": nn.Linear(2, 2)}, "before.flow must be a NeuralODE"),
    "before of another size": ({"before": model_of(3)}, "before must make states like those of model, (2,), got (3,)"),
    "before of blocks": (
        {"model": FlowModel(nn.Linear(2, 2), ResNet(MLPField(2), 2), nn.Linear(2, 3)), "before": model_of(2)},
        "before is for a model whose flow is a NeuralODE",
    ),
    "no encoder": ({"model": nn.ModuleDict({"flow": NeuralODE(MLPField(2))})}, "model.encoder"),
    "no rows": ({"x": torch.zeros(0, 2), "y": []}, "at least one"),
    "unequal rows": ({"y": [0, 1]}, "as many rows"),
    "wrong inputs": ({"x": torch.zeros(3, 5)}, "x must be what model.encoder takes, got shape (3, 5)"),
    "nan": ({"x": torch.full((3, 2), torch.nan)}, "look for NaN in x"),
    "labels": ({"y": ["a", "b", "c"]}, "encode the labels"),
    "negative code": ({"y": [0, -1, 1]}, "integers from 0"),
    "few names": ({"class_names": ["only"]}, "class_names must name all 3 classes"),
    "task": ({"task": "clustering"}, "task must be"),
    "nan target": ({"y": [0.0, np.nan, 1.0], "task": "regression"}, "finite numbers"),
    "text target": ({"y": ["a", "b", "c"], "task": "regression"}, "finite numbers"),
    "boats": ({"boats": 0}, "boats must be an integer of 1 or more, got 0"),
    "blocks": ({"blocks": True}, "blocks must be an integer"),
    "equal times": ({"model": model_of(2, t_span=(1.0, 1.0))}, "two different times"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_is_one_clear_error_and_writes_nothing(case, tmp_path):
    arguments = {
        "model": model_of(2),
        "x": torch.zeros(3, 2),
        "y": [0, 1, 2],
        "out_dir": tmp_path / "figures",
        "task": "classification",
    }
    changes, message = BAD[case]
    with pytest.raises(ValueError) as error:
        flow_figures(**{**arguments, **changes})
    assert message in str(error.value)
    assert not (tmp_path / "figures").exists()


def test_a_file_in_place_of_the_folder_is_said_so(tmp_path):
    (tmp_path / "figures").write_text("mine")
    with pytest.raises(ValueError, match="out_dir must be a folder"):
        flow_figures(model_of(1), torch.zeros(3, 2), [0, 1, 2], tmp_path / "figures", "classification")


class _Decay(nn.Module):
    def forward(self, t, z):
        return -z


def _settings():
    """All but the backend, which matplotlib finds out when it is first asked."""
    return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}
