"""What pixels have in common does not drown what tells them apart."""

import numpy as np
import pandas as pd
import pytest
import torch

from thalweg.learn.columns import frame_features
from thalweg.learn.config import Config
from thalweg.learn.data import Schema
from thalweg.learn.images import ImageForm
from thalweg.learn.model import build_model
from thalweg.learn.runs import train_run
from thalweg.learn.training import Samples, evaluate, fit

SIDE = 20


def spots(rows):
    """Images of one spot each, on a background that is dark or bright, with the size of the spot."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    centre, radius = rng.uniform(5, 15, (2, rows, 1, 1)), rng.uniform(1.5, 5, (rows, 1, 1))
    spot = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * radius**2))
    pixels = 60 * spot + rng.uniform(40, 180, (rows, 1, 1)) + rng.normal(0, 3, spot.shape)
    return pixels.clip(0, 255).astype(np.uint8), radius.reshape(rows)


@pytest.fixture(scope="module")
def table():
    pixels, radius = spots(500)
    form = ImageForm(height=SIDE, width=SIDE, colour="grey")
    frame = pd.DataFrame(pixels.reshape(len(pixels), -1), columns=form.columns)
    return frame.assign(age=np.random.default_rng(1).normal(size=500), radius=radius), form


def test_brightness_is_a_feature_of_its_own_and_other_columns_are_left_alone(table):
    frame, form = table
    schema = Schema.learn(frame, "radius", rows=np.arange(400), images=form)
    schema = Schema.model_validate_json(schema.model_dump_json())
    features, columns = schema.features(frame), frame_features(schema.columns, frame)
    assert features.shape == (500, schema.n_inputs) == (500, SIDE * SIDE + 2)
    np.testing.assert_array_equal(features[:, -2], columns[:, -1])
    np.testing.assert_allclose(features[:, :-2].mean(1), 0, atol=1e-12)
    assert features[:400, -1].std() == pytest.approx(4)
    assert np.corrcoef(features[:, -1], frame[form.columns].mean(axis=1))[0, 1] == pytest.approx(1)
    assert np.square(features[:400, :-2]).sum(1).mean() == pytest.approx(32)
    # nothing is lost: what the columns were comes back
    scale = schema.pixels.contrast * np.sqrt(SIDE * SIDE / 32)
    back = features[:, :-2] * scale + features[:, -1:] / 4 * schema.pixels.brightness
    np.testing.assert_allclose(back, columns[:, :-1], atol=1e-9)


def test_an_older_run_measures_pixels_as_it_did(table):
    frame, form = table
    schema = Schema.learn(frame, "radius", images=form)
    old = Schema.model_validate(schema.model_dump(exclude={"pixels"}))
    np.testing.assert_array_equal(old.features(frame), frame_features(schema.columns, frame))
    assert old.n_inputs == schema.n_inputs - 1


def test_images_of_varied_brightness_are_learnt_from_as_others_are(table):
    frame, form = table
    schema = Schema.learn(frame, "radius", rows=np.arange(400), images=form)
    x, y = torch.from_numpy(schema.features(frame)), torch.from_numpy(schema.target.encode(frame["radius"]))
    config = Config().with_overrides(["training.max_epochs=25"])
    model = build_model(config.model, config.solver, schema.n_inputs, 1, seed=0)
    history = fit(model, "regression", Samples(x[:400], y[:400]), None, config.training, seed=0)
    assert max(record.loss for record in history.records) < 3  # in variances of the target
    assert evaluate(model, "regression", Samples(x[400:].float(), y[400:].float()))[1] > 0.9


def test_one_pixel_is_all_brightness(tmp_path):
    np.savez(tmp_path / "t.npz", x=np.arange(40, dtype=np.uint8).reshape(40, 1, 1), y=np.arange(40) > 19)
    config = Config().with_overrides([f"data.source={tmp_path / 't.npz'}", "data.target=y", "training.max_epochs=40"])
    assert train_run(config, tmp_path / "run").result.test.value > 0.7
