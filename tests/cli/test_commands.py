"""What the commands do, print, refuse and leave on disk."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from thalweg.cli.console import ending_at_once
from thalweg.cli.main import app
from thalweg.external.methods import external_methods
from thalweg.learn.compare import CONTENDERS, Standing, Trial
from thalweg.learn.runs import Run, find_stopped
from thalweg.methods import methods

ROWS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a table of all kinds of columns."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "size [m²]": rng.normal(100, 20, ROWS).round(1),
            "town": rng.choice(["Aix", "Bar"], ROWS),
            "sold": pd.date_range("2024-01-01", periods=ROWS, freq="37h").strftime("%Y-%m-%d %H:%M"),
            "rooms": [n % 7 or "" for n in range(ROWS)],
            "empty": "",
        }
    )
    frame["price"] = 3 * frame["size [m²]"] + 50 * (frame.town == "Bar")
    path = tmp_path_factory.mktemp("houses")
    frame.to_csv(path / "houses.csv", index=False)
    return path


@pytest.fixture(scope="module")
def trained(folder):
    return command("train", folder / "houses.csv", "--target", "price", "--out", folder / "run", *quick())


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    path = tmp_path_factory.mktemp("flowers") / "run"
    command("train", "iris", "--out", path, *quick())
    return path


def quick(epochs=1):
    return "--epochs", epochs, "--set", "model.width=8", "--no-figures"


def command(*words, code=0):
    """Run a command, and see that it ends with that code and without a traceback."""
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    if code:
        assert len([line for line in result.stderr.splitlines() if line]) == 1, result.stderr
        assert result.stderr.startswith("error: ")
    return result


def refused(*words, code=1):
    return command(*words, code=code).stderr


def test_rows_come_and_answers_go_through_pipes(folder, trained, tmp_path):
    """`-` is standard input and output; what else is said then goes elsewhere."""
    command("predict", folder / "run", folder / "houses.csv", "-o", tmp_path / "answers.csv")
    words = ["predict", str(folder / "run"), "-", "-o", "-"]
    result = CliRunner().invoke(app, words, input=(folder / "houses.csv").read_bytes())
    assert result.exit_code == 0
    assert result.stdout == (tmp_path / "answers.csv").read_text()
    assert "R²" in result.stderr
    assert "cannot" not in result.output
    assert not (tmp_path / "-").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_named_pipe_is_read_and_written_and_not_replaced(folder, trained, tmp_path):
    given, taken = tmp_path / "given", tmp_path / "taken"
    os.mkfifo(given)
    os.mkfifo(taken)
    command("predict", folder / "run", folder / "houses.csv", "-o", tmp_path / "answers.csv")
    with ThreadPoolExecutor() as pool:
        pool.submit(given.write_bytes, (folder / "houses.csv").read_bytes())
        answers = pool.submit(taken.read_bytes)
        command("predict", folder / "run", given, "-o", taken, "--force")
        assert answers.result() == (tmp_path / "answers.csv").read_bytes()
    assert taken.is_fifo()


def test_a_link_that_is_written_over_leads_where_it_led(folder, trained, tmp_path):
    (tmp_path / "answers.csv").write_text("old")
    (tmp_path / "latest.csv").symlink_to("answers.csv")
    command("predict", folder / "run", folder / "houses.csv", "-o", tmp_path / "latest.csv", "--force")
    assert (tmp_path / "latest.csv").is_symlink()
    assert (tmp_path / "answers.csv").read_text().startswith("prediction\n")


def test_what_can_be_read_but_once_is_no_place_to_train_from(folder):
    assert "- is no file that can be read again" in refused("train", "-", "--target", "price")


def test_commands_that_train_suggests_can_be_typed_as_they_are(tmp_path):
    folder = tmp_path / "it's my run"
    lines = command("train", "iris", "--out", folder, *quick()).stdout.splitlines()
    for name, words in (("predict", ["FILE"]), ("flow", [])):
        (line,) = [line for line in lines if f"thalweg {name} " in line]
        assert shlex.split(line.partition(": ")[2]) == ["thalweg", name, str(folder), *words]


def test_train_says_what_each_column_was_taken_for(trained):
    lines = [" ".join(line.split()) for line in trained.stdout.splitlines()]
    assert "size [m²] number" in lines  # and its brackets are no markup
    assert "town category of 2: Aix, Bar" in lines
    assert any(line.startswith("sold date, with ") for line in lines)
    assert "rooms number, with missing values" in lines
    assert "empty left out: it has no values" in lines
    assert any(line.startswith("price: regression, as ") for line in lines)
    assert "32 rows to learn from, 8 kept apart to judge by" in lines


def test_train_reports_the_test_score_that_it_keeps(trained, folder):
    result = json.loads((folder / "run" / "result.json").read_text())
    assert f"test R² {result['test']['value']:.3f}" in trained.stdout
    assert "(8 rows)" in trained.stdout
    assert "the mean, always" in trained.stdout


def test_classes_of_very_different_sizes_are_judged_one_by_one(tmp_path):
    """A model that always says the commonest class is told from one that is worth something."""
    kinds = ["spam" if n % 20 == 0 else "ham" for n in range(200)]
    pd.DataFrame({"x": np.random.default_rng(0).normal(size=200), "kind": kinds}).to_csv(
        tmp_path / "t.csv", index=False
    )
    words = ("train", tmp_path / "t.csv", "--target", "kind", *quick(15))
    text = command(*words, "--out", tmp_path / "plain").stdout
    assert "test accuracy 0.950 (38 of 40 rows right), balanced accuracy 0.500" in text
    assert "the model does no better than that; --class-weight balanced lets classes count alike" in text
    assert "spam 2 – 0.000" in " ".join(text.split())
    assert "balanced accuracy" in command("predict", tmp_path / "plain", tmp_path / "t.csv").stdout
    kept = json.loads((tmp_path / "plain" / "result.json").read_text())["test"]["classes"]
    assert [(one["label"], one["rows"], one["recall"]) for one in kept] == [("ham", 38, 1.0), ("spam", 2, 0.0)]
    for weight, expected in (("balanced", "balanced"), ("{spam: 19}", {"spam": 19.0})):
        text = command(*words, "--out", tmp_path / str(weight), "--class-weight", weight).stdout
        assert "  weighted accuracy " in text
        assert "--class-weight" not in text
        assert Run.load(tmp_path / str(weight)).config.training.class_weight == expected
    assert "names 'eggs', which is none of the classes" in refused(*words, "--class-weight", "{eggs: 1}")


def test_train_says_how_many_rows_are_held_out(tmp_path):
    words = ("train", "iris", "--out", tmp_path / "run", *quick(), "--set")
    text = command(*words, "training.validation_fraction=0.01").stdout
    assert "120 rows to learn from (of which 1 held out, to choose the best epoch), 30 kept apart" in text
    refusal = command("train", "iris", "--set", "training.validation_fraction=0.001", code=1)
    assert "validation_fraction must leave rows" in refusal.stderr
    assert "held out" not in refusal.stdout


def test_many_columns_are_summed_up(tmp_path):
    text = command("train", "digits", "--out", tmp_path / "run", *quick()).stdout
    assert "pixel_0_0, pixel_4_0, pixel_4_7" in text
    assert "pixel_5_5" not in text
    assert len(text.splitlines()) < 25


def test_training_shows_its_course_without_a_terminal(tmp_path):
    lines = command("train", "iris", "--out", tmp_path / "run", *quick(epochs=30)).stdout.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert 3 < len(epochs) < 15
    assert epochs[-1].startswith("epoch 30/30  loss ")
    assert "accuracy" in epochs[-1]
    assert "evals" in epochs[-1]


def test_train_draws_and_flow_draws_beside_what_is_there(tmp_path):
    run = tmp_path / "run"
    command("train", "moons", "--out", run, "--epochs", 1, "--set", "model.width=4")
    drawn = set(run.glob("figures/*"))
    assert {"figure1-flow.png", "figure1-flow.svg", "training.png", "training.svg"} <= {path.name for path in drawn}
    before = {path: path.read_bytes() for path in drawn}
    printed = command("flow", run, "--boats", 3, "--blocks", 2).stdout.split()
    assert set(printed) == {str(path) for path in set(run.glob("figures/*")) - drawn}
    assert len(printed) == 6
    assert {path: path.read_bytes() for path in drawn} == before
    printed = command("flow", run, "--boats", 3, "--before", "--out", tmp_path / "new").stdout.split()
    assert {"figure1-flow.png", "figure4-training.png"} <= {path.name for path in (tmp_path / "new").iterdir()}
    assert len(printed) == 8


def test_names_in_a_script_that_no_font_has_cost_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("thalweg.figures.style._FALLBACKS", ())
    frame = pd.DataFrame({"x": np.arange(40.0), "种类": ["山茶", "日本語"] * 20})
    frame.to_csv(tmp_path / "tea.csv", index=False)
    words = ("train", tmp_path / "tea.csv", "--target", "种类", "--out", tmp_path / "run", "--epochs", 1)
    for result in (command(*words, "--set", "model.width=4"), command("flow", tmp_path / "run")):
        assert result.output.count("note: boxes stand in the figures") == 1
        assert "Glyph" not in result.output
        assert result.stderr == ""


def test_a_model_without_a_flow_is_trained_and_not_drawn(tmp_path):
    text = command("train", "iris", "--out", tmp_path / "run", *quick(), "--set", "model.flow=none").stdout
    assert "thalweg flow" not in text
    assert "has no flow to draw" in refused("flow", tmp_path / "run")


def test_options_settings_and_files_outweigh_each_other_in_order(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\nmodel: {width: 4}\ntraining: {max_epochs: 3, momentum: 0.5}\n")
    words = ("--config", tmp_path / "config.yaml", "--epochs", 2, "--seed", 2, "--set", "seed=3", "--no-figures")
    command("train", "iris", "--out", tmp_path / "run", *words)
    config = Run.load(tmp_path / "run").config
    assert (config.seed, config.training.max_epochs, config.model.width, config.training.momentum) == (3, 2, 4, 0.5)


def test_the_configuration_of_a_run_trains_it_again(flowers, tmp_path):
    command("train", "--config", flowers / "config.yaml", "--out", tmp_path / "again", "--no-figures")
    results = [json.loads((path / "result.json").read_text())["test"] for path in (flowers, tmp_path / "again")]
    assert results[0] == results[1]


def test_predict_takes_columns_in_any_order_and_rows_in_any_order(trained, folder, tmp_path):
    frame = pd.read_csv(folder / "houses.csv", dtype=str, keep_default_na=False)
    order = np.random.default_rng(1).permutation(ROWS)
    frame.iloc[order, ::-1].drop(columns="price").assign(other="x").to_csv(tmp_path / "new.csv", index=False)
    command("predict", folder / "run", folder / "houses.csv", "-o", tmp_path / "old_answers.csv")
    command("predict", folder / "run", tmp_path / "new.csv", "-o", tmp_path / "new_answers.csv")
    old, new = (pd.read_csv(tmp_path / f"{name}_answers.csv") for name in ("old", "new"))
    assert list(old.columns) == ["prediction"]
    np.testing.assert_allclose(new.prediction, old.prediction.iloc[order], rtol=1e-6)


def test_predict_writes_what_the_run_predicts(flowers, tmp_path):
    command("predict", flowers, "iris", "-o", tmp_path / "out.csv")
    run = Run.load(flowers)
    written = pd.read_csv(tmp_path / "out.csv")
    expected = run.predict(run.frame())
    assert list(written.columns) == ["prediction", "p(setosa)", "p(versicolor)", "p(virginica)"]
    assert written.prediction.tolist() == expected.prediction.tolist()
    np.testing.assert_allclose(written.iloc[:, 1:], expected.iloc[:, 1:])
    command("predict", flowers, "iris", "-o", tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out.parquet"), expected)


def test_a_folder_of_images_is_learnt_from_judged_by_and_answered_by_the_names_of_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for n in range(24):
        path = tmp_path / ("photos" if n < 20 else "new") / ("dark", "light")[n % 2] / f"{n:02}é.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((rng.integers(0, 100, (5, 4)) + n % 2 * 100).astype(np.uint8)).save(path)
    (tmp_path / "photos" / "list.txt").touch()
    text = command("train", "photos", *quick(20)).stdout
    assert "note: left out, as they are no images: 1 other file (1 .txt) in photos" in text
    assert "images are seen as 5 × 4 pixels, grey" in text
    assert "2 classes (dark, light)" in text
    text = command("predict", "runs/photos-1", "new", "-o", "answers.csv").stdout
    assert "(4 of 4 rows right)" in text
    written = pd.read_csv("answers.csv")
    assert list(written.columns) == ["file", "prediction", "p(dark)", "p(light)"]
    assert written.file.tolist() == ["dark/20é.png", "dark/22é.png", "light/21é.png", "light/23é.png"]
    assert written.prediction.tolist() == ["dark", "dark", "light", "light"]
    command("predict", "runs/photos-1", "new", "-o", "answers.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet("answers.parquet"), written, check_dtype=False)
    assert command("predict", "runs/photos-1", "new/light/21é.png").stdout.split()[-4:-2] == ["21é.png", "light"]
    assert "this flatters" in command("predict", "runs/photos-1", "photos").stdout
    command("flow", "runs/photos-1", "--data", "new", "--boats", 3)
    assert len(list((tmp_path / "runs" / "photos-1" / "figures").glob("*.png"))) == 3


def test_classes_beyond_64_bits_are_written_too(tmp_path):
    rows = "".join(f"{n},{2**70 + n % 2}\n" for n in range(ROWS))
    command("train", write(tmp_path / "t.csv", "x,y\n" + rows), "--target", "y", "--out", tmp_path / "run", *quick())
    for name in ("out.parquet", "out.csv"):
        command("predict", tmp_path / "run", write(tmp_path / "x.csv", "x,z\n1,0\n2,0\n"), "-o", tmp_path / name)
    written = pd.read_parquet(tmp_path / "out.parquet").prediction
    assert set(written) <= {str(2**70), str(2**70 + 1)}
    assert written.tolist() == pd.read_csv(tmp_path / "out.csv", dtype=str).prediction.tolist()


def test_what_is_taken_for_no_target_is_said(tmp_path):
    rows = "".join(f"{n},{('yes', 'none', 'NA')[n % 3]}\n" for n in range(ROWS))
    path = write(tmp_path / "t.csv", "x,y\n" + rows)
    text = command("train", path, "--target", "y", "--out", tmp_path / "run", *quick()).stdout
    assert "2 classes (none, yes)" in text
    assert "13 rows without a target left out (in a CSV file NA, NaN, null and ? are none" in text


def test_the_index_that_pandas_writes_is_left_out_and_not_asked_for(tmp_path):
    frame = pd.DataFrame({"x": range(ROWS), "y": ["a", "b"] * (ROWS // 2)})
    frame.to_csv(tmp_path / "t.csv")
    text = command("train", tmp_path / "t.csv", "--target", "y", "--out", tmp_path / "run", *quick()).stdout
    assert "left out: it has no name in its file" in " ".join(text.split())
    frame.to_csv(tmp_path / "new.csv", index=False)
    answers = [command("predict", tmp_path / "run", tmp_path / name).stdout for name in ("t.csv", "new.csv")]
    assert answers[1] in answers[0]  # which says besides that it learnt from these


def test_answers_say_which_row_is_whose(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"name": [f"customer {n}" for n in rng.permutation(ROWS)], "x": rng.normal(size=ROWS)})
    frame = frame.assign(order_id=rng.permutation(ROWS) + 1000, y=["a", "b"] * (ROWS // 2))
    frame.to_csv(tmp_path / "t.csv", index=False)
    command("train", tmp_path / "t.csv", "--target", "y", "--out", tmp_path / "run", *quick())
    new = frame.drop(columns="y").sample(frac=1, random_state=0)
    new.to_csv(tmp_path / "new.csv", index=False)
    new.assign(name=new.name.mask(new.index == 3)).drop(columns="order_id").to_parquet(tmp_path / "new.parquet")
    command("predict", tmp_path / "run", tmp_path / "new.csv", "-o", tmp_path / "out.csv")
    command("predict", tmp_path / "run", tmp_path / "new.parquet", "-o", tmp_path / "out.parquet")
    csv, parquet = pd.read_csv(tmp_path / "out.csv"), pd.read_parquet(tmp_path / "out.parquet")
    assert list(csv) == ["name", "order_id", "prediction", "p(a)", "p(b)"]
    assert (csv.name.tolist(), csv.order_id.tolist()) == (new.name.tolist(), new.order_id.tolist())
    assert list(parquet) == ["name", "prediction", "p(a)", "p(b)"]
    assert parquet.name.isna().sum() == 1
    text = " ".join(command("predict", tmp_path / "run", tmp_path / "new.csv").stdout.split())
    assert f"1 {new.name.iloc[0]} {new.order_id.iloc[0]} " in text


def test_values_that_squeeze_the_others_of_their_column_are_named(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"age": rng.normal(50, 9, ROWS).round(), "x": rng.normal(size=ROWS), "y": rng.normal(size=ROWS)}
    )
    frame.assign(age=frame.age.where(frame.index % 8 > 0, -999)).to_csv(tmp_path / "t.csv", index=False)
    text = command("train", tmp_path / "t.csv", "--target", "y", "--out", tmp_path / "run", *quick()).stdout
    assert "note: column 'age' holds -999 in 5 of 40 rows" in text
    assert "column 'x'" not in text


def test_predict_never_overwrites_unless_told(flowers, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("precious")
    assert "--force" in refused("predict", flowers, "iris", "-o", out)
    assert out.read_text() == "precious"
    command("predict", flowers, "iris", "-o", out, "--force")
    assert len(pd.read_csv(out)) == 150


def test_answers_are_written_as_their_name_says_or_not_at_all(flowers, tmp_path):
    for name in ("out.xlsx", "out.JSON", "out.tsv", "out.csv.gz", "out.pq"):
        assert "no CSV; choose one for -o that ends in .csv, or in .parquet" in refused(
            "predict", flowers, "iris", "-o", tmp_path / name
        )
        assert not (tmp_path / name).exists()
    command("predict", flowers, "iris", "-o", tmp_path / "out.PARQUET")
    assert len(pd.read_parquet(tmp_path / "out.PARQUET")) == 150
    for name in ("out.CSV", "out.txt", "out"):
        command("predict", flowers, "iris", "-o", tmp_path / name)
        assert len(pd.read_csv(tmp_path / name)) == 150


def test_predict_shows_the_first_rows_and_the_score(flowers):
    text = command("predict", flowers, "iris").stdout
    assert "p(virginica)" in text
    assert "and 140 more rows" in text
    assert "of 150 rows right" in text
    assert "this flatters" in text  # as it learnt from some of them


def test_predict_shows_numbers_of_any_unit(tmp_path):
    """In fixed decimals those of 1e-9 had all been shown as 0."""
    rows = "".join(f"{n},{n}e-9\n" for n in range(ROWS))
    path = write(tmp_path / "t.csv", "x,y\n" + rows)
    text = command("train", path, "--target", "y", "--out", tmp_path / "run", *quick()).stdout
    assert "1 column and the target" in text
    command("predict", tmp_path / "run", path, "-o", tmp_path / "out.csv")
    first = pd.read_csv(tmp_path / "out.csv").prediction[0]
    assert f"{first:.4e}" in command("predict", tmp_path / "run", path).stdout


def test_predict_answers_a_row_far_beyond_a_tiny_spread(tmp_path):
    rows = "".join(f"{n}e-40,{'ab'[n % 2]}\n" for n in range(ROWS))
    command("train", write(tmp_path / "t.csv", "x,y\n" + rows), "--target", "y", "--out", tmp_path / "run", *quick())
    assert "0." in command("predict", tmp_path / "run", write(tmp_path / "new.csv", "x\n1e10\n")).stdout


def test_predict_says_what_it_did_not_know(trained, folder, tmp_path):
    frame = pd.read_csv(folder / "houses.csv", dtype=str, keep_default_na=False).assign(town="Cul", price="dear")
    frame.to_csv(tmp_path / "new.csv", index=False)
    text = command("predict", folder / "run", tmp_path / "new.csv").stdout
    assert "'town' holds 'Cul', which training did not see" in text
    assert "no score: " in text
    assert "'dear'" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"x,y\n", "has no rows"),
        (b"x,y\n1,2\n", "one row"),
        (b"x,y\n1,a\n2,a\n3,a\n", "constant"),
        (b"x,y\n1,\n2,\n", "has no values"),
        (b"x,y\n,1\n,2\n,1\n,2\n", "no column is left"),
        (b"x,y\n1,1\ninf,2\n2,1\n3,2\n", "'x' is infinite in row 2"),
        (b"x,y\n1,a\n2,a\n3,b\n", "class 'b'"),
        (b"There was a river.\n", "is no CSV"),
        (bytes(range(256)) * 9, "binary"),
        (b"x,z\n1,a\n2,b\n", "no column 'y'"),
    ],
)
def test_a_table_that_cannot_be_learnt_from_is_refused_and_leaves_no_folder(tmp_path, content, message):
    (tmp_path / "bad.csv").write_bytes(content)
    words = ("train", tmp_path / "bad.csv", "--target", "y", "--out", tmp_path / "run", *quick())
    assert message in refused(*words)
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_there_is_named(tmp_path):
    assert "there is no file" in refused("train", tmp_path / "nothing.csv", "--target", "y")
    assert "did you mean the bundled 'iris'" in refused("train", "irs")
    assert "is a folder" in refused("train", tmp_path, "--target", "y")
    assert "--target" in refused("train", write(tmp_path / "table.csv", "x,y\n1,2\n"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train",), "DATA is missing"),
        (("train", "iris", "--set", "model.widht=3"), "did you mean model.width?"),
        (("train", "iris", "--set", "model.width=wide"), "model.width must be"),
        (("train", "iris", "--set", "model.width=["), "model.width must be"),
        (("train", "iris", "--set", "width"), "key=value"),
        (("train", "iris", "--set", "solver.method=tsit6"), "did you mean 'tsit5'?"),
        (("train", "iris", "--epochs", "0"), "--epochs"),
        (("train", "iris", "--epoch", "3"), "--epochs"),
        (("train", "iris", "--task", "guess"), "classification"),
        (("train", "iris", "--config", "nothing.yaml"), "nothing.yaml"),
        (("predict", "run"), "DATA"),
        (("flow", "run", "--boats", "0"), "--boats"),
        (("tran", "iris"), "train"),
    ],
)
def test_a_command_that_cannot_be_is_a_usage_error_that_names_the_word(words, message):
    assert message in refused(*words, code=2)


def test_a_run_is_never_written_over(flowers, tmp_path):
    before = (flowers / "model/weights.safetensors").read_bytes()
    assert "exists already" in refused("train", "iris", "--out", flowers, "--seed", 1)
    assert (flowers / "model/weights.safetensors").read_bytes() == before
    assert "not a directory" in refused("train", "iris", "--out", write(tmp_path / "file", "x") / "run")


@pytest.mark.parametrize("name", ["riv😀er", "née: 'x'", 'a"b\\c', "a\u2028\x7f", "yes"])
def test_files_and_columns_may_have_any_name(folder, tmp_path, name):
    path = tmp_path / f"{name}.csv"
    pd.read_csv(folder / "houses.csv").rename(columns={"price": name}).to_csv(path, index=False)
    command("train", path, "--target", name, "--out", tmp_path / "run", *quick())
    assert Run.load(tmp_path / "run").config.data.source == str(path)
    assert Run.load(tmp_path / "run").target.name == name
    assert (
        f"40 predictions in {tmp_path}" in command("predict", tmp_path / "run", path, "-o", tmp_path / "a.csv").stdout
    )


def test_runs_that_are_none_are_refused_by_every_command(tmp_path):
    for words in (("predict", tmp_path, "iris"), ("flow", tmp_path)):
        assert "is no run folder" in refused(*words)
    for words in (("predict", tmp_path / "no", "iris"), ("flow", tmp_path / "no")):
        assert "there is no run folder" in refused(*words)


def test_a_place_that_is_not_there_is_refused_before_predicting(flowers, tmp_path):
    assert "there is no folder" in refused("predict", flowers, "iris", "-o", tmp_path / "no" / "out.csv")
    assert "is a folder" in refused("predict", flowers, "iris", "-o", tmp_path)


class TestCompare:
    """What is shown of a comparison; `tests/learn/test_compare.py` sees to the comparison itself."""

    FAILURE = "training diverged in epoch 1: the loss is nan; lower learning_rate (now 1e+30), " + "or " * 99

    @pytest.fixture
    def standings(self, monkeypatch):
        """The standings that a comparison comes to, the last two of them failures."""
        trial = Trial(score=0.9, rmse=None, parameters=3, nfev=0.0, seconds=1.0)
        stand = [Standing(who, (trial,), None) for who in CONTENDERS[:3]]
        stand += [Standing(who, (), None, self.FAILURE) for who in CONTENDERS[3:]]
        monkeypatch.setattr("thalweg.learn.compare.compare", lambda *_, **__: stand)
        return stand

    def test_who_failed_is_named_with_the_whole_reason(self, standings):
        lines = command("compare", "iris").stdout.splitlines()
        for standing in standings[:3]:
            assert sum(line.split("  ")[0] == standing.contender.name for line in lines) == 1
        for standing in standings[3:]:
            assert [line.split() for line in lines].count([*standing.contender.name.split(), "failed"]) == 1
            assert f"{standing.contender.name} failed: {self.FAILURE}" in lines

    @pytest.mark.parametrize("rmse", [None, 0.0, 1.2345e-7, 54.321, 1234.5, 999_999.0, 1.2345e7])
    def test_each_contender_has_a_line_on_a_terminal_of_80_letters(self, standings, monkeypatch, rmse):
        trial = Trial(score=0.9, rmse=rmse, parameters=123_456, nfev=14.0, seconds=100.0)
        standings[:] = [Standing(who, (trial,) * 5, 12_300_000) for who in CONTENDERS]
        monkeypatch.setattr("thalweg.cli.compare.console", lambda: Console(width=80, force_terminal=False))
        lines = command("compare", "iris").stdout.splitlines()
        assert [line[:18].strip() for line in lines[2:7]] == [who.name for who in CONTENDERS]
        assert all(line.rstrip().endswith("12.3") and "0.9000 ± 0.0000" in line for line in lines[2:7])

    def test_one_split_has_no_spread(self, standings):
        standings[:] = [Standing(CONTENDERS[0], (Trial(0.9, None, 1, 1.0, 1.0),), 0)]
        assert "accuracy (1 split)" in (told := command("compare", "iris", "--seeds", "1").stdout)
        assert "±" not in told

    def test_where_all_fail_so_does_the_command(self, standings, tmp_path):
        del standings[:3]
        assert "no contender could be trained" in refused("compare", "iris", "-o", tmp_path / "out.json")
        assert [kept["failure"] for kept in json.loads((tmp_path / "out.json").read_text())] == [self.FAILURE] * 2

    def test_a_place_that_is_not_there_is_refused_before_training(self, tmp_path, monkeypatch):
        monkeypatch.setattr("thalweg.learn.compare.compare", lambda *_, **__: 1 / 0)
        (tmp_path / "out.json").write_text("precious")
        assert "exists already" in refused("compare", "iris", "-o", tmp_path / "out.json")
        assert "there is no folder" in refused("compare", "iris", "-o", tmp_path / "no" / "out.json")
        assert "is a folder" in refused("compare", "iris", "-o", tmp_path)

    @pytest.mark.usefixtures("standings")
    def test_what_was_found_is_shown_where_it_cannot_be_written(self, tmp_path, monkeypatch):
        def fail(path, content):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr("thalweg.core.files.write_whole", fail)
        result = command("compare", "iris", "-o", tmp_path / "out.json", code=1)
        assert "no space left" in result.stderr
        assert "0.9000" in result.stdout


def test_an_error_that_nobody_foresaw_is_one_sentence_too(flowers, monkeypatch):
    monkeypatch.setattr(Run, "load", lambda *_: 1 / 0)
    assert "unexpected ZeroDivisionError: division by zero; --debug shows" in refused("flow", flowers)


def test_debug_shows_where_an_error_came_from(tmp_path):
    result = CliRunner().invoke(app, ["flow", str(tmp_path), "--debug"])
    assert isinstance(result.exception, ValueError)


def test_every_method_is_listed_with_when_to_use_it():
    text = command("methods").stdout
    for method in methods():
        start = [method.name, str(method.order), str(method.stages)]
        (line,) = (line for line in text.splitlines() if line.split()[:3] == start)
        assert method.summary in line
    for external in external_methods():
        (line,) = (line for line in text.splitlines() if line.split()[:1] == [external.name])
        assert line.split()[1] == external.orders
        assert external.summary in line


def test_help_and_version():
    from thalweg import __version__

    assert command("--version").stdout.split() == ["thalweg", __version__]
    for words in ((), ("--help",)):
        for name in ("train", "resume", "predict", "flow", "methods"):
            assert name in command(*words).stdout
    for name in ("train", "resume", "predict", "flow", "methods"):
        assert f"For example: thalweg {name}" in " ".join(command(name, "--help").stdout.split())


def test_the_command_is_a_module_too():
    done = subprocess.run([sys.executable, "-m", "thalweg", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout == command("--version").stdout


def test_help_and_methods_import_neither_torch_nor_what_else_is_slow():
    code = (
        "import sys\nfrom thalweg.cli.main import app\n"
        "try: app(sys.argv[1:])\nexcept SystemExit: pass\n"
        "sys.exit(len({'torch', 'pandas', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    for word in ("--help", "methods"):
        done = subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_and_leaves_a_complete_run(tmp_path, sign):
    process, run = train_for_long(tmp_path)
    process.send_signal(sign)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err == ""
    assert "interrupted after" in out
    loaded = Run.load(run)
    assert loaded.result.ended == "interrupted"
    assert loaded.result.epochs == loaded.history.best_epoch == len(loaded.history.records) >= 2
    # where it came while weights were being changed, the last checkpoint before that counts
    assert find_stopped(run).epochs <= loaded.result.epochs


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
@pytest.mark.parametrize("words", ["train iris", "resume run", "predict run iris", "flow run", "compare iris"])
def test_ctrl_c_while_pytorch_is_imported_ends_a_command_at_once(tmp_path, words):
    """PyTorch swallows it now and then, or aborts by it; the one that is found here first always swallows it."""
    swallow = "import os, signal\ntry: os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException: print('swallowed')\n"
    write(tmp_path / "torch.py", swallow)
    done = subprocess.run(
        [sys.executable, "-c", "from thalweg.cli.main import main; main()", *words.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_ctrl_c_means_after_the_imports_what_it_meant_before(handler):
    """A program in the background does not hear it at all."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        with ending_at_once():
            assert (signal.getsignal(signal.SIGINT) is handler) == (handler is signal.SIG_IGN)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_a_kill_leaves_a_run_that_can_be_used(tmp_path):
    process, run = train_for_long(tmp_path)
    process.kill()
    process.communicate(timeout=60)
    assert Run.load(run).result is None
    assert 0 <= find_stopped(run).epochs <= len(Run.load(run).history.records)
    assert "of 150 rows right" in command("predict", run, "iris").stdout


def test_resume_goes_on_where_training_was_stopped(flowers, tmp_path, monkeypatch):
    """And says where that was, what came of it, and why it cannot go on where it cannot."""

    def show(progress, record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    words = ("train", "iris", "--out", tmp_path / "run", *quick(epochs=4))
    with monkeypatch.context() as patched:
        patched.setattr("thalweg.cli.progress.TrainingProgress.show", show)
        stopped = CliRunner().invoke(app, [str(word) for word in words])
    assert stopped.exit_code == 130
    assert f"go on with it: thalweg resume {tmp_path / 'run'}" in " ".join(stopped.stdout.split())
    out = command("resume", tmp_path / "run", "--no-figures").stdout
    assert "2 of 4 epochs finished" in out
    assert "finished after 4 epochs" in out
    assert "go on with it" not in out
    assert "come to its end" in refused("resume", tmp_path / "run")
    assert "is no run folder" in refused("resume", tmp_path)


def train_for_long(tmp_path):
    """Start a training that would take hours, and wait until two of its epochs are on disk."""
    run = tmp_path / "run"
    words = ["train", "iris", "--out", str(run), "--epochs", "100000", "--no-figures"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from thalweg.cli.main import main; main()", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # a suite that was started in the background hands on that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    metrics = run / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and metrics.read_text().count("\n") >= 2:
            return process, run
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.kill()
    raise AssertionError("training did not begin")


def write(path, text):
    path.write_text(text)
    return path
