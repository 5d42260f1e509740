"""Arrays in files: rows are those of the array, whatever its shape, and a model answers each as it did before."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from thalweg.learn.arrays import read_arrays
from thalweg.learn.config import Config
from thalweg.learn.runs import Run, find_stopped, resume_run, train_run
from thalweg.learn.tables import load_table

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = np.where(X[:, 0] > 0, "up", "down")
PIXELS = RNG.integers(0, 100, (40, 4, 5), dtype=np.uint8) + np.repeat([0, 150], 20).astype(np.uint8)[:, None, None]
NIGHT = np.repeat(["night", "day"], 20)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def configure(source, *asked):
    quick = ["training.max_epochs=2", "model.width=8", "model.state_dim=8"]
    return Config().with_overrides([f"data.source={source}", *quick, *asked])


@settings(max_examples=50, deadline=None)
@given(
    x=hnp.arrays(
        dtype=st.sampled_from(["f2", "f4", "f8", ">f8", "i1", "u2", "i8", "?"]),
        shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4),
        elements={"allow_nan": False, "allow_infinity": False, "min_value": 0, "max_value": 1}
    )
)  # fmt: skip
def test_the_columns_are_the_entries_of_each_row(x, tmp_path_factory):
    path = tmp_path_factory.mktemp("arrays")
    np.save(path / "x.npy", x)
    frame = read_arrays(save(path / "x.npz", X=x, y=np.arange(len(x)))).frame
    assert np.array_equal(frame.drop(columns="y").to_numpy(), x.reshape(len(x), -1))
    assert frame["y"].tolist() == list(range(len(x)))
    assert np.array_equal(read_arrays(path / "x.npy").frame.to_numpy(), x.reshape(len(x), -1))


def test_names_say_where_a_value_stood(tmp_path):
    arrays = read_arrays(save(tmp_path / "a.npz", age=np.arange(2), X=np.zeros((2, 2)), s=np.zeros((2, 1, 2))))
    assert list(arrays.frame) == ["age", "X_0", "X_1", "s_0_0", "s_0_1"]
    assert arrays.target is None


def test_fields_of_records_and_kinds_of_values(tmp_path):
    records = np.array([(1.5, b"caf\xc3\xa9", (1, 2))], dtype=[("size", "f4"), ("name", "S5"), ("at", "i4", 2)])
    np.save(tmp_path / "records.npy", records)
    assert read_arrays(tmp_path / "records.npy").frame.to_dict("list") == {
        "size": [1.5], "name": ["café"], "at_0": [1], "at_1": [2]
    }  # fmt: skip
    day = np.array(["2026-01-31"], dtype="datetime64[D]")
    frame = read_arrays(save(tmp_path / "kinds.npz", day=day, word=np.array(["a"]), r=records)).frame
    assert frame["day"].tolist() == [pd.Timestamp("2026-01-31")]
    assert frame["word"].tolist() == ["a"]
    assert list(frame)[2:] == ["r_size", "r_name", "r_at_0", "r_at_1"]


@pytest.mark.parametrize("name", ["y", "target", "label"])
def test_a_target_may_be_known_by_its_name(tmp_path, name):
    table = load_table(str(save(tmp_path / "a.npz", X=X, **{name: Y[:, None]})))
    assert table.target == name
    assert table.frame[name].tolist() == Y.tolist()


def test_what_has_no_row_for_each_is_left_out_with_a_word(tmp_path):
    path = save(tmp_path / "a.npz", X=X, y=Y, names=np.array(["a", "b", "c"]), version=np.array(2))
    with pytest.warns(UserWarning, match=r"names \(3\), version \(one number\) are left out: y has 60 rows"):
        assert list(load_table(str(path)).frame) == ["X_0", "X_1", "X_2", "y"]


@pytest.mark.parametrize("shape", ["N × H × W", "N × H × W × 1", "N × 3 × H × W", "N × H × W × 3"])
def test_bytes_in_the_shape_of_images_are_pixels(tmp_path, shape):
    colour = np.stack([PIXELS, PIXELS // 2, PIXELS // 3], axis=-1)
    images = {
        "N × H × W": PIXELS, "N × H × W × 1": PIXELS[..., None],
        "N × 3 × H × W": np.moveaxis(colour, 3, 1), "N × H × W × 3": colour,
    }[shape]  # fmt: skip
    table = load_table(str(save(tmp_path / "a.npz", x=images, y=NIGHT)))
    assert table.images.describe() == ("4 × 5 pixels in colour" if "3" in shape else "4 × 5 pixels, grey")
    pixels = table.frame[table.images.columns].to_numpy()
    assert np.array_equal(pixels, (colour if "3" in shape else PIXELS).reshape(40, -1))


def test_a_run_answers_an_array_as_the_file_it_was_made_from(tmp_path):
    source = save(tmp_path / "a.npz", X=X, y=Y)
    run = train_run(configure(source), tmp_path / "run")
    expected = run.predict(run.rows(str(source)))
    np.save(tmp_path / "new.npy", X)
    save(tmp_path / "new.npz", other=Y, X=X)
    for name in ("new.npy", "new.npz"):
        pd.testing.assert_frame_equal(Run.load(run.path).predict(run.rows(str(tmp_path / name))), expected)
    assert run.learnt_from(str(source))


def test_an_array_alone_goes_by_the_place_of_its_columns(tmp_path):
    np.save(tmp_path / "a.npy", np.column_stack([Y == "up", X]))
    run = train_run(configure(tmp_path / "a.npy", "data.target='0'"), tmp_path / "run")
    np.save(tmp_path / "new.npy", X)
    with_target, without = (run.rows(str(tmp_path / name)) for name in ("a.npy", "new.npy"))
    assert list(without) == ["1", "2", "3"]
    pd.testing.assert_frame_equal(run.predict(with_target), run.predict(without))
    np.save(tmp_path / "narrow.npy", X[:, :2])
    with pytest.raises(ValueError, match="an array of 2 columns, and the model takes 3: 1, 2, 3"):
        run.rows(str(tmp_path / "narrow.npy"))


def test_rows_kept_apart_in_the_file_are_not_learnt_from(tmp_path):
    source = save(tmp_path / "a.npz", x_train=PIXELS[::2], y_train=NIGHT[::2], x_test=PIXELS[1::2], y_test=NIGHT[1::2])
    for asked in ([], ["data.target=y_train"]):
        run = train_run(configure(source, *asked), tmp_path / f"run{len(asked)}")
        assert run.target.name == "y"
        assert run.data.rows == 20
        rows = run.rows(str(source))
        assert np.array_equal(rows[run.schema.images.columns].to_numpy(), PIXELS[1::2].reshape(20, -1))
        assert rows["y"].tolist() == NIGHT[1::2].tolist()
        assert not run.learnt_from(str(source))


def test_an_array_of_a_part_counts_before_one_for_all_rows(tmp_path):
    """Though that comes later in the file; what has no part of its own is of every part."""
    parts = {"x_train": X[:20], "y_train": Y[:20], "x_test": X[20:30], "y_test": Y[20:30]}
    source = save(tmp_path / "a.npz", **parts, x=X, y=Y, age=np.arange(20))
    with pytest.warns(UserWarning, match=r"^x, y are left out, beside arrays that end in _train$"):
        frame = read_arrays(source).frame
    assert np.array_equal(frame[["x_0", "x_1", "x_2"]], X[:20])
    assert frame["y"].tolist() == Y[:20].tolist()
    assert frame["age"].tolist() == list(range(20))


@pytest.mark.parametrize(
    ("names", "learnt", "taken", "left_out"),
    [
        (["x_test", "y_val", "x_val", "y_test"], False, "_test", "y_val, x_val are"),
        (["y_valid", "x_val", "y_val", "x_train"], False, "_val", "y_valid is"),
        (["x_training", "y_train", "y_training", "x_train", "x_val"], True, "_train", "x_training, y_training are"),
        (["x_val", "y_val", "y_test", "x_test"], True, "_test", "x_val, y_val are"),
    ],
)
def test_rows_of_one_part_never_meet_answers_of_another(tmp_path, names, learnt, taken, left_out):
    """Whatever the order in the file: each array holds the place of its name."""
    source = save(tmp_path / "a.npz", **{name: np.full(5, place) for place, name in enumerate(names)})
    with pytest.warns(UserWarning, match=f"^{left_out} left out, beside arrays that end in {taken}$"):
        frame = read_arrays(source, learnt=learnt).frame
    assert frame.iloc[0].to_dict() == {name: names.index(name + taken) for name in "xy"}


def test_training_on_arrays_goes_on_after_it_was_stopped(tmp_path):
    def stop(record):
        raise KeyboardInterrupt

    asked = configure(save(tmp_path / "a.npz", x_train=PIXELS, y_train=NIGHT, x_test=PIXELS[:3], y_test=NIGHT[:3]))
    whole = train_run(asked, tmp_path / "whole")
    train_run(asked, tmp_path / "stopped", on_epoch=stop)
    run = resume_run(find_stopped(tmp_path / "stopped"))
    assert [x.loss for x in run.history.records] == [x.loss for x in whole.history.records]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": X, "y": np.array([None] * 60)}, "objects of Python.*astype"),
        ({"X": X, "y": X[:, :2]}, "'y'.* is an array of 60 × 2; what is predicted is one number or label"),
        ({"X": X + 1j, "y": Y}, "'X_0' in .* is of complex128"),
        ({"X": X}, "which column to predict.*X_0, X_1, X_2"),
        ({"X": X[:0], "y": Y[:0]}, "no rows"),
        ({}, "no arrays"),
        ({"a": PIXELS, "b": PIXELS, "y": NIGHT}, "'a' and 'b'.*both hold images"),
        ({"X_1": Y, "X": X, "y": Y}, "'X_1' and 'X' in .* both become a column 'X_1'; rename one of them"),
        ({"X": X, "X_1": Y, "y": Y}, "'X' and 'X_1' in .* both become a column 'X_1'"),
        ({"x": PIXELS, "pixel": np.zeros((40, 2, 2)), "y": NIGHT}, "'x' and 'pixel'.* a column 'pixel_0_0'"),
        ({"r": np.zeros(9, [("x", "f4", 2), ("x_1", "f4")])}, "'r_x' and 'r_x_1'.* a column 'r_x_1'"),
        ({"y": Y[:, None][:, :0], "X": X}, "'y'.* is an array of 60 × 0"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_in_words(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        load_table(str(save(tmp_path / "a.npz", **arrays)))


def test_damaged_files_are_named(tmp_path):
    content = save(tmp_path / "a.npz", X=X, y=Y).read_bytes()
    for name, part in (("cut.npz", content[:-30]), ("text.npy", b"1,2,3"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(part)
        with pytest.raises(ValueError, match=rf"{name} is no file of NumPy's, or is damaged"):
            load_table(str(tmp_path / name))


def test_images_of_another_size_are_not_cut_to_that_of_the_model(tmp_path):
    run = train_run(configure(save(tmp_path / "a.npz", x=PIXELS, y=NIGHT)), tmp_path / "run")
    other = save(tmp_path / "other.npz", x=np.pad(PIXELS, ((0, 0), (0, 2), (0, 2))))
    with pytest.raises(ValueError, match=r"images of 6 × 7 pixels, grey, and the model takes 4 × 5 pixels, grey"):
        run.rows(str(other))
