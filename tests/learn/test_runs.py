"""A run folder keeps a training whole, and gives back the same model."""

import dataclasses
import errno
import gzip
import itertools
import json
import os
import pathlib
import pickletools
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import thalweg
from thalweg.learn import course, journal, runs, training
from thalweg.learn.compare import compare
from thalweg.learn.config import Config, DataConfig
from thalweg.learn.files import CHECKPOINT, CONFIG, METRICS, WEIGHTS
from thalweg.learn.runs import Run, find_stopped, prepare, resume_run, train_run
from thalweg.learn.training import outputs

ROWS = 60


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV file with all kinds of columns and a numeric target."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "size [m²]": rng.normal(100, 20, ROWS).round(1),
            "town": rng.choice(["Aix", "Bar"], ROWS),
            "sold": pd.date_range("2024-01-01", periods=ROWS, freq="37h").strftime("%Y-%m-%d %H:%M"),
            "rooms": rng.integers(1, 9, ROWS).astype(object),
            "id": [f"house {n}" for n in range(ROWS)],
        }
    )
    frame["price"] = 3 * frame["size [m²]"] + 50 * (frame.town == "Bar")
    frame.loc[::7, "rooms"] = ""
    frame.loc[5, "price"] = np.nan
    path = tmp_path_factory.mktemp("table") / "houses.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def houses(table):
    return train_run(configure(table, "data.target=price"), table.parent / "run")


@pytest.fixture
def iris(tmp_path):
    return train_run(configure("iris"), tmp_path / "iris")


def configure(source, *settings, epochs=2):
    return Config().with_overrides(
        [f"data.source={source}", f"training.max_epochs={epochs}", "model.width=8", *settings]
    )


def files(path):
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


def test_the_untrained_model_is_the_one_that_training_began_with(table, tmp_path):
    """With next to no learning rate it is also the one that training ends with."""
    config = configure(table, "data.target=price", "training.learning_rate=1e-12", "seed=3")
    run = train_run(config, tmp_path / "run")
    trained, untrained = run.model.state_dict(), Run.load(run.path).untrained().state_dict()
    assert trained.keys() == untrained.keys()
    for name, value in trained.items():
        torch.testing.assert_close(untrained[name], value, rtol=0, atol=1e-6)


def test_a_run_folder_holds_all_of_a_training_and_nothing_else(houses):
    assert files(houses.path) == {
        "config.yaml",
        "data.json",
        "metrics.jsonl",
        "model/model.json",
        "model/weights.safetensors",
        "result.json",
    }


def test_no_file_of_a_run_is_a_pickle(houses):
    for name in files(houses.path):
        with pytest.raises(Exception):  # noqa: B017 - whatever a reader of pickles says
            list(pickletools.genops((houses.path / name).read_bytes()))


def test_metrics_have_one_line_of_json_for_each_epoch(houses):
    lines = [json.loads(line) for line in (houses.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines == [dataclasses.asdict(record) for record in houses.history.records]


def test_the_saved_configuration_leaves_nothing_to_be_chosen(houses, table):
    saved = yaml.safe_load((houses.path / "config.yaml").read_text())
    assert saved["data"]["source"] == str(table)
    assert saved["data"]["task"] == "regression"
    assert None not in (saved["model"]["state_dim"], saved["model"]["dropout"])
    assert isinstance(saved["training"]["batch_size"], int)


def test_the_saved_configuration_trains_the_same_model_again(houses, tmp_path):
    again = train_run(Config.load(houses.path / "config.yaml"), tmp_path / "again")
    for name, value in houses.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    assert again.result.test == houses.result.test


def test_loading_gives_back_the_model_to_the_bit(houses, table):
    loaded = Run.load(houses.path)
    frame = houses.frame()
    for name, value in houses.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name])
    pd.testing.assert_frame_equal(loaded.predict(frame), houses.predict(frame), check_exact=True)
    assert loaded.result == houses.result
    assert loaded.config == houses.config
    assert loaded.history.records == houses.history.records
    assert loaded.history.best_epoch == houses.history.best_epoch


def test_loading_in_another_precision_gives_nearly_the_same_answers(houses):
    double = Run.load(houses.path, dtype=torch.float64)
    assert next(double.model.parameters()).dtype == torch.float64
    answers = [run.predict(run.frame()).prediction for run in (double, houses)]
    np.testing.assert_allclose(*answers, rtol=1e-2)


def test_a_model_trained_in_float64_is_loaded_in_float64(tmp_path):
    run = train_run(configure("iris", "training.dtype=float64", epochs=1), tmp_path / "run")
    loaded = Run.load(run.path)
    assert next(loaded.model.parameters()).dtype == torch.float64
    assert torch.equal(loaded.model.decoder.weight, run.model.decoder.weight)


def test_learnt_times_are_kept(tmp_path):
    run = train_run(configure("iris", "solver.learn_times=true"), tmp_path / "run")
    assert Run.load(run.path).model.flow.t1.item() == run.model.flow.t1.item() != 1.0


def test_predictions_are_those_of_the_model_on_the_schema_s_features(iris):
    frame = iris.frame()
    logits = outputs(iris.model, torch.from_numpy(iris.schema.features(frame)))
    answers = iris.predict(frame)
    assert answers.prediction.tolist() == [iris.target.classes[k] for k in logits.argmax(1)]
    np.testing.assert_allclose(answers.iloc[:, 1:], logits.double().softmax(1))
    assert answers.columns.tolist() == ["prediction", "p(setosa)", "p(versicolor)", "p(virginica)"]


def test_the_order_of_rows_and_columns_and_others_between_change_no_answer(houses):
    frame = houses.frame()
    order = np.random.default_rng(1).permutation(len(frame))
    shuffled = frame.iloc[order, ::-1].assign(other="x").drop(columns=["price", "id"])
    answers = houses.predict(shuffled)
    assert answers.index.equals(shuffled.index)
    pd.testing.assert_frame_equal(answers.sort_index(), houses.predict(frame), rtol=1e-6)


def test_the_test_score_is_of_rows_that_training_never_met(tmp_path):
    """Labels drawn by lot can be learnt by heart, but not foretold."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(80, 8)), columns=list("abcdefgh")).assign(
        y=rng.choice(["heads", "tails"], 80)
    )
    frame.to_csv(tmp_path / "lots.csv", index=False)
    settings = ["data.target=y", "data.test_size=0.5", "model.width=64", "training.learning_rate=0.03"]
    run = train_run(configure(tmp_path / "lots.csv", *settings, epochs=40), tmp_path / "run")
    assert run.history.records[-1].score > 0.95
    assert 0.2 < run.result.test.value < 0.8


def test_test_rows_are_chosen_by_seed_with_classes_in_their_shares():
    one, same, other = (prepare(configure("iris", f"seed={seed}")) for seed in (0, 0, 1))
    assert torch.equal(one.test.x, same.test.x)
    assert not torch.equal(one.test.y, other.test.y) or not torch.equal(one.test.x, other.test.x)
    assert np.bincount(one.test.y).tolist() == np.bincount(other.test.y).tolist() == [10, 10, 10]


def test_means_are_taken_from_the_training_rows_alone():
    data = prepare(configure("diabetes"))
    np.testing.assert_allclose(data.train.x.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(data.train.y.mean(), 0, atol=1e-9)
    assert data.test.x.mean(0).abs().max() > 1e-3


def test_the_score_is_in_the_target_s_unit(houses):
    frame = houses.frame().dropna(subset="price")
    frame = frame[frame.price != ""]
    error = houses.predict(frame).prediction - pd.to_numeric(frame.price)
    score = houses.score(houses.frame())
    assert score.rows == ROWS - 1
    assert score.rmse == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)


def test_the_baseline_is_the_commonest_class_of_the_training_rows(iris, tmp_path):
    assert iris.result.baseline.value == pytest.approx(1 / 3)
    run = train_run(configure("diabetes"), tmp_path / "diabetes")
    data = prepare(run.config)
    assert run.result.baseline.rmse == pytest.approx(float(data.test.y.square().mean().sqrt()) * run.target.scale)
    assert run.result.baseline.value <= 0


def test_a_run_is_never_written_over_another(iris):
    before = {name: (iris.path / name).read_bytes() for name in files(iris.path)}
    with pytest.raises(ValueError, match=r"exists already.*--out"):
        train_run(configure("iris"), iris.path)
    assert {name: (iris.path / name).read_bytes() for name in files(iris.path)} == before


def test_without_a_name_the_next_free_number_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [train_run(configure("iris", epochs=1)).path.as_posix() for _ in range(2)]
    assert names == ["runs/iris-1", "runs/iris-2"]
    with gzip.open("flowers.csv.gz", "wt") as file:
        file.write("x,kind\n" + "1,a\n2,b\n" * 6)
    flowers = configure("flowers.csv.gz", epochs=1).with_overrides(["data.target=kind"])
    assert train_run(flowers).path.as_posix() == "runs/flowers-1"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
@pytest.mark.parametrize("make", [lambda path: path.symlink_to("nowhere"), lambda path: path.touch()])
def test_where_runs_is_no_folder_nothing_is_waited_for(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(journal, "count", lambda start: range(start, start + 99))  # an error where it would hang
    make(tmp_path / "runs")
    with pytest.raises(ValueError, match=r"runs is no folder that runs can go into.* --out"):
        train_run(configure("iris", epochs=1))


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names are text there")
def test_a_name_that_no_file_of_a_run_can_hold_is_refused_at_once(table, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.csv")
    path.write_bytes(table.read_bytes())
    with pytest.raises(ValueError, match=r"caf\\udce9.csv' is no UTF-8.*rename it"):
        prepare(Config().model_copy(update={"data": DataConfig(source=str(path), target="price")}))


def test_the_weight_of_a_class_goes_to_the_rows_of_its_label(tmp_path):
    (tmp_path / "codes.csv").write_text("x,y\n" + "".join(f"{n},{('01', '1', '2')[n % 3]}\n" for n in range(30)))
    asked = configure(tmp_path / "codes.csv", "data.target=y")
    train = prepare(asked.with_overrides(["training.class_weight={01: 5}"])).train
    assert train.weight.tolist() == [1.0 if code == 0 else 0.2 for code in train.y]
    (tmp_path / "codes.csv").write_text("x,y\n" + "".join(f"{n},{n % 2}\n" for n in range(30)))
    with pytest.raises(ValueError, match="class_weight must name each class once, got '1' twice"):
        prepare(asked.with_overrides(["training.class_weight={1: 5, 1.0: 2}"]))


def test_bad_rows_leave_no_folder(tmp_path):
    (tmp_path / "bad.csv").write_text("a,y\n1,x\n2,x\n")
    with pytest.raises(ValueError, match="constant"):
        train_run(configure(tmp_path / "bad.csv", "data.target=y"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_while_training_goes_on_the_best_weights_are_on_disk(tmp_path, monkeypatch):
    """What a kill after any epoch leaves is a run that can be loaded, with its best epoch so far."""
    monkeypatch.setattr(journal, "_SAVE_EVERY", 0.0)
    monkeypatch.setattr(journal, "_REST", 0.0)
    seen = []

    def look(record):
        run = Run.load(tmp_path / "run")
        seen.append(record)
        best = max(seen, key=lambda r: (r.val_score, -r.val_loss))
        assert run.history.records == seen
        assert run.history.best_epoch == best.epoch
        assert run.result is None
        assert run.history.interrupted

    config = configure("iris", "training.validation_fraction=0.3", "training.learning_rate=0.1", epochs=12)
    run = train_run(config, tmp_path / "run", on_epoch=look)
    assert run.history.best_epoch < 12, "the last epoch is the best, so that this shows nothing"


def test_weights_that_were_not_yet_due_are_saved_when_training_fails(tmp_path):
    def fail(record):
        if record.epoch == 3:
            raise RuntimeError("the screen fell off")

    with pytest.raises(RuntimeError, match="the screen fell off"):
        train_run(configure("iris", epochs=5), tmp_path / "run", on_epoch=fail)
    assert Run.load(tmp_path / "run").history.best_epoch == 3


def test_ctrl_c_leaves_a_complete_run(tmp_path):
    def interrupt(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    run = train_run(configure("iris", epochs=5), tmp_path / "run", on_epoch=interrupt)
    loaded = Run.load(run.path)
    assert loaded.result.ended == "interrupted"
    assert loaded.history.interrupted
    assert len(loaded.history.records) == loaded.result.epochs == 2


def test_ctrl_c_in_the_first_epoch_leaves_a_complete_run(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("thalweg.learn.training._step", interrupt)
    run = train_run(configure("iris"), tmp_path / "run")
    assert Run.load(run.path).result.epochs == 0


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(("place", "name"), [(pathlib.Path, "mkdir"), (runs, "write_records"), (runs, "_describe")])
def test_ctrl_c_before_training_begins_leaves_no_folder(tmp_path, monkeypatch, place, name, named):
    """Not even where it comes as soon as the folder has been made."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    done = getattr(place, name)

    def interrupted(*args, **options):
        answer = done(*args, **options)
        if args[0] != pathlib.Path("runs"):
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(place, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_run(configure("iris"), tmp_path / "runs" / "new" if named else None)
    assert not list((tmp_path / "runs").iterdir())


def test_a_full_disk_takes_away_a_run_that_learnt_nothing_and_names_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"config.yaml"):
        train_run(configure("iris"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_same_training_writes_the_same_weights_to_the_last_byte(tmp_path):
    config = configure("iris", "model.width=8", epochs=1)
    written = {(train_run(config, tmp_path / f"{n}").path / WEIGHTS).read_bytes() for n in range(6)}
    assert len(written) == 1


class TestResuming:
    """A training that was stopped and gone on with is the one that never was stopped."""

    settings = ("training.validation_fraction=0.2", "training.batch_size=32", "model.dropout=0.2")

    def whole(self, tmp_path, source="iris", epochs=6, on_epoch=None):
        return train_run(configure(source, *self.settings, epochs=epochs), tmp_path / "whole", on_epoch=on_epoch)

    @staticmethod
    def assert_same(run, whole):
        assert (run.path / WEIGHTS).read_bytes() == (whole.path / WEIGHTS).read_bytes()
        told = [
            [{**json.loads(line), "seconds": 0} for line in (path / METRICS).read_text().splitlines()]
            for path in (run.path, whole.path)
        ]
        assert told[0] == told[1]
        assert len(told[0]) == 6
        assert dataclasses.replace(run.history, records=[]) == dataclasses.replace(
            Run.load(run.path).history,
            records=[],
            optimizer=run.history.optimizer,
            optimizer_state=run.history.optimizer_state,
            shuffle_state=run.history.shuffle_state,
        )
        assert [r.result.model_copy(update={"seconds": 0}) for r in (run, Run.load(run.path))] == 2 * [
            whole.result.model_copy(update={"seconds": 0})
        ]
        assert files(run.path) == files(whole.path)

    @pytest.mark.parametrize("at", [0, 5])
    @pytest.mark.parametrize(
        ("place", "name"),
        [
            (training, "row_losses"),
            (training, "evaluate"),
            (course.Course, "end_step"),
            (course.Keeper, "note"),
            (journal, "line_of"),
        ],
    )
    def test_after_ctrl_c_anywhere(self, tmp_path, monkeypatch, place, name, at):
        """And again after it came a second time; each time the run is whole."""
        whole = self.whole(tmp_path)
        done = getattr(place, name)

        def interrupt():
            calls = itertools.count()

            def interrupted(*args):
                if next(calls) == at:
                    raise KeyboardInterrupt
                return done(*args)

            monkeypatch.setattr(place, name, interrupted)

        interrupt()
        run = train_run(whole.config, tmp_path / "run")
        for _ in range(2):
            if run.result.ended == "interrupted":
                assert Run.load(run.path).result.epochs == len(Run.load(run.path).history.records) <= 6
                interrupt()
                run = resume_run(find_stopped(run.path))
        monkeypatch.setattr(place, name, done)
        if run.result.ended == "interrupted":
            run = resume_run(find_stopped(run.path))
        self.assert_same(run, whole)

    @pytest.mark.parametrize("every", [0.0, 0.01, 1000.0])
    def test_after_a_kill(self, tmp_path, monkeypatch, every):
        """What is on disk after an epoch, however long before it was last saved, is what a kill there leaves."""
        monkeypatch.setattr(journal, "_SAVE_EVERY", every)
        whole = self.whole(
            tmp_path, on_epoch=lambda r: shutil.copytree(tmp_path / "whole", tmp_path / f"killed-{r.epoch}")
        )
        for epoch in range(1, 7):
            self.assert_same(resume_run(find_stopped(tmp_path / f"killed-{epoch}")), whole)

    def test_after_a_kill_before_anything_was_learnt(self, tmp_path, monkeypatch):
        whole = self.whole(tmp_path)
        done = runs.write_records
        monkeypatch.setattr(
            runs, "write_records", lambda path, *of: (done(path, *of), shutil.copytree(path, tmp_path / "killed"))
        )
        train_run(whole.config, tmp_path / "again")
        with pytest.raises(ValueError, match=r"killed before its first epoch ended; .* thalweg resume"):
            Run.load(tmp_path / "killed")
        self.assert_same(resume_run(find_stopped(tmp_path / "killed")), whole)

    @pytest.fixture
    def stopped(self, table, tmp_path):
        """A run of a table that can move, stopped after its first epoch."""

        def interrupt(record):
            raise KeyboardInterrupt

        path = tmp_path / "houses.csv"
        path.write_bytes(table.read_bytes())
        return train_run(configure(path, "data.target=price"), tmp_path / "run", on_epoch=interrupt)

    def test_rows_may_move_but_not_change(self, stopped, table):
        source = pathlib.Path(stopped.data.source)
        before = {name: (stopped.path / name).read_bytes() for name in files(stopped.path)}
        with source.open("a") as file:
            file.write("120,Aix,2024-05-05,3,house x,400\n")
        with pytest.raises(ValueError, match=r"houses.csv has changed since .*; give them as they were with --data"):
            find_stopped(stopped.path)
        source.unlink()
        with pytest.raises(ValueError, match=r"not where they were.*say where, with --data"):
            find_stopped(stopped.path)
        assert {name: (stopped.path / name).read_bytes() for name in files(stopped.path)} == before
        assert resume_run(find_stopped(stopped.path, source=str(table))).result.ended == "finished"

    def test_a_configuration_that_takes_rows_otherwise_is_refused(self, stopped):
        path = stopped.path / CONFIG
        path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
        with pytest.raises(ValueError, match=r"are taken otherwise: its config.yaml has changed, or"):
            find_stopped(stopped.path)

    @pytest.mark.parametrize(
        ("old", "new", "told"),
        [
            ("width: 8", "width: 9", "model.width is 9 and was 8"),
            ("activation: tanh", "activation: sin", "model.activation is sin and was tanh"),
            ("t1: 1.0", "t1: 2.0", "solver.t1 is 2.0 and was 1.0"),
            ("dtype: float32", "dtype: float64", "training.dtype is float64 and was float32"),
        ],
    )
    def test_a_configuration_of_another_model_is_refused_and_nothing_is_changed(self, stopped, old, new, told):
        """A checkpoint fits many models, and what `predict` loads is the one that training began with."""
        path = stopped.path / CONFIG
        written = path.read_text()
        assert written.count(old) == 1
        path.write_text(written.replace(old, new))
        before = {name: (stopped.path / name).read_bytes() for name in files(stopped.path)}
        with pytest.raises(ValueError, match=rf"config.yaml has changed.*: {told}; set it back, or train anew"):
            find_stopped(stopped.path)
        assert {name: (stopped.path / name).read_bytes() for name in files(stopped.path)} == before

    def test_how_training_goes_on_may_be_changed(self, stopped):
        path = stopped.path / CONFIG
        path.write_text(path.read_text().replace("max_epochs: 2", "max_epochs: 3"))
        assert resume_run(find_stopped(stopped.path)).result.epochs == 3

    def test_what_has_come_to_its_end_says_how_to_train_longer(self, iris):
        message = r"come to its end \(finished after 2 epochs\).*thalweg train --config .*config.yaml --epochs 4"
        with pytest.raises(ValueError, match=message):
            find_stopped(iris.path)

    def test_another_version_is_named(self, stopped):
        model = stopped.path / "model/model.json"
        model.write_text(model.read_text().replace(f'"thalweg": "{thalweg.__version__}"', '"thalweg": "0.0.9"'))
        with pytest.raises(ValueError, match=r"begun by thalweg 0.0.9.*pip install thalweg==0.0.9.*train --config"):
            find_stopped(stopped.path)

    @pytest.mark.parametrize(
        ("name", "harm", "message"),
        [
            ("checkpoint.safetensors", lambda old: old[:-8], "checkpoint.safetensors is damaged"),
            (
                "checkpoint.safetensors",
                lambda old: old.replace(b"keeper", b"reaper"),
                "of this very training: 'keeper'",
            ),
            ("checkpoint.safetensors", lambda old: old.replace(b"state/order", b"state/ordre"), "damaged .'order'"),
            ("metrics.jsonl", lambda old: b"", "damaged .it is of 1 epochs, and metrics.jsonl of 0"),
            ("model/model.json", lambda old: b"{}", "model.json is damaged"),
            ("checkpoint.safetensors", None, "lacks checkpoint.safetensors; restore it from a copy, or train anew"),
            ("data.json", None, "lacks data.json"),
        ],
    )
    def test_a_damaged_file_is_named_and_nothing_is_changed(self, stopped, name, harm, message):
        path = stopped.path / name
        if harm is None:
            path.unlink()
        else:
            path.write_bytes(harm(path.read_bytes()))
        before = {file: (stopped.path / file).read_bytes() for file in files(stopped.path)}
        with pytest.raises(ValueError, match=message):
            resume_run(find_stopped(stopped.path))
        assert {file: (stopped.path / file).read_bytes() for file in files(stopped.path)} == before

    def test_the_checkpoint_of_another_run_is_refused_and_nothing_is_changed(self, stopped, tmp_path):
        def interrupt(record):
            raise KeyboardInterrupt

        settings = ("data.target=price", "model.width=9")
        other = train_run(configure(stopped.data.source, *settings), tmp_path / "other", on_epoch=interrupt)
        shutil.copy(other.path / CHECKPOINT, stopped.path)
        before = {name: (stopped.path / name).read_bytes() for name in files(stopped.path)}
        with pytest.raises(ValueError, match="must be a checkpoint of this very training"):
            resume_run(find_stopped(stopped.path))
        assert {name: (stopped.path / name).read_bytes() for name in files(stopped.path)} == before

    def test_no_checkpoint_is_a_pickle(self, stopped):
        with pytest.raises(Exception):  # noqa: B017 - whatever a reader of pickles says
            list(pickletools.genops((stopped.path / CHECKPOINT).read_bytes()))

    @pytest.mark.skipif(os.name == "nt", reason="there are no such locks there")
    def test_a_folder_is_trained_in_once_at_a_time(self, tmp_path):
        def look(record):
            with pytest.raises(ValueError, match="is being trained by another process"):
                resume_run(find_stopped(tmp_path / "whole"))

        self.whole(tmp_path, on_epoch=look)


def test_divergence_says_where_what_was_learnt_before_is(tmp_path):
    config = configure("iris", "training.optimizer=sgd", "training.learning_rate=1e9", epochs=30)
    with pytest.raises(ValueError, match=r"diverged in epoch \d+.*what was learnt before is in"):
        train_run(config, tmp_path / "run")
    assert Run.load(tmp_path / "run").result is None


@pytest.mark.parametrize("device", ["nowhere", "meta"])
def test_a_device_that_is_not_there_or_holds_no_numbers_is_named(tmp_path, device):
    for attempt in (lambda config: train_run(config, tmp_path / "run"), compare):
        with pytest.raises(ValueError, match=rf"device '{device}'.*choose 'cpu'"):
            attempt(configure("iris", f"training.device={device}"))


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_fraction_that_leaves_no_rows_to_hold_out_or_to_learn_from_is_refused_at_once(fraction):
    message = rf"validation_fraction must leave rows .* {fraction} of 120 rows is (0|120); give more rows, or another"
    with pytest.raises(ValueError, match=message):
        prepare(configure("iris", f"training.validation_fraction={fraction}"))


@pytest.mark.parametrize(
    ("name", "harm", "message"),
    [
        ("model/weights.safetensors", lambda old: old[:100], "weights.safetensors is damaged"),
        ("model/weights.safetensors", lambda old: old[:-8], "weights.safetensors is damaged"),
        ("model/weights.safetensors", lambda old: b"", "weights.safetensors is damaged"),
        ("model/weights.safetensors", lambda old: old[:-4] + b"\0\0\xc0\x7f", "damaged .* holds NaN or infinity"),
        ("model/weights.safetensors", None, "killed before its first epoch"),
        ("model/model.json", lambda old: old.replace(b'"state_dim": 8', b'"state_dim": 9'), "is damaged"),
        ("model/model.json", None, "lacks model/model.json"),
        ("data.json", lambda old: b"{", "data.json is damaged"),
        ("data.json", lambda old: b"{}", "data.json is damaged .source"),
        (
            *("data.json", lambda old: old.replace(b'"missing": false', b'"missing": true', 1)),
            "data.json is damaged .its columns have n_inputs 5, and those of model/model.json 4",
        ),
        ("config.yaml", None, "lacks config.yaml"),
        ("config.yaml", lambda old: b"", "config.yaml is damaged .it lacks data, model, solver, training, seed"),
        ("config.yaml", lambda old: old[: old.index(b"training")], "config.yaml is damaged .it lacks training, seed"),
        ("config.yaml", lambda old: old.replace(b"width", b"widht"), "did you mean model.width"),
        ("metrics.jsonl", lambda old: old + b"nonsense\n", "metrics.jsonl is damaged"),
        ("metrics.jsonl", lambda old: old + b"\xff\n", "metrics.jsonl is damaged"),
        ("result.json", lambda old: b"3", "result.json is damaged"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(iris, name, harm, message):
    path = iris.path / name
    if harm is None:
        path.unlink()
    else:
        changed = harm(path.read_bytes())
        assert changed != path.read_bytes()
        path.write_bytes(changed)
    with pytest.raises(ValueError, match=message) as caught:
        Run.load(iris.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("data.json", b'"rows"', b'"novelty": 1, "rows"'),
        ("model/model.json", b'"dtype"', b'"novelty": 1, "dtype"'),
        ("config.yaml", b"seed:", b"novelty: 1\nseed:"),
        ("metrics.jsonl", b'"epoch"', b'"novelty": 1, "epoch"'),
        ("result.json", b'"epochs"', b'"novelty": 1, "epochs"'),
    ],
)
def test_a_run_of_a_newer_version_is_not_damaged(iris, name, old, new):
    """What this version can read of it is read; what it cannot, a newer one can."""
    written, model = (iris.path / name).read_bytes(), iris.path / "model/model.json"
    assert old in written
    (iris.path / name).write_bytes(written.replace(old, new))
    same, newer = f'"thalweg": "{thalweg.__version__}"', '"thalweg": "0.10.0rc1"'
    model.write_text(model.read_text().replace(same, newer))
    message = rf"iris was made by thalweg 0.10.0rc1, .* newer than this one, {thalweg.__version__}, .* pip install"
    with pytest.raises(ValueError, match=message):
        Run.load(iris.path)
    (iris.path / name).write_bytes(written)
    model.write_text(model.read_text().replace(same, newer))
    assert Run.load(iris.path).result == iris.result


def test_a_last_line_that_was_cut_off_does_not_count(iris):
    with (iris.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    assert len(Run.load(iris.path).history.records) == 2


def test_what_is_no_run_folder_is_said_to_be_none(tmp_path):
    with pytest.raises(ValueError, match="is no run folder"):
        Run.load(tmp_path)
    with pytest.raises(ValueError, match="there is no run folder"):
        Run.load(tmp_path / "nothing")


def test_rows_that_changed_or_moved_are_not_taken_for_the_run_s(table, tmp_path):
    path = tmp_path / "moving.csv"
    path.write_bytes(table.read_bytes())
    run = train_run(configure(path, "data.target=price", epochs=1), tmp_path / "run")
    assert len(run.frame()) == ROWS
    assert run.learnt_from(str(path))
    path.write_bytes(table.read_bytes() + b"120,Aix,2024-05-05,3,house x,400\n")
    assert not run.learnt_from(str(path))
    with pytest.raises(ValueError, match=r"has changed since .* --data"):
        run.frame()
    path.unlink()
    with pytest.raises(ValueError, match=r"not where they were.*--data"):
        run.frame()
    assert len(run.frame(str(table))) == ROWS


@pytest.fixture
def german(tmp_path):
    """A run from a file that writes 12.345,6, and the income that it learnt from."""
    income = np.random.default_rng(0).uniform(1e4, 1e5, ROWS).round(1)
    rows = [f"{x:_.1f};{x / 7:_.1f}".replace(".", ",").replace("_", ".") for x in income]
    (tmp_path / "german.csv").write_text("income;price\n" + "\n".join(rows) + "\n")
    return train_run(configure(tmp_path / "german.csv", "data.target=price"), tmp_path / "run"), income


def test_new_rows_are_read_as_those_that_were_learnt_from(german, tmp_path):
    """12.345 alone may be a dozen or twelve thousand."""
    run, income = german
    assert run.frame()["income"].astype(float).tolist() == income.tolist()
    path = tmp_path / "new.csv"
    for content in ("income;k\n12.345;1\n20.500;2\n900;3\n", "income\n12.345\n20.500\n900\n"):
        path.write_text(content)
        for loaded in (run, Run.load(run.path)):
            assert loaded.rows(str(path))["income"].tolist() == ["12345", "20500", "900"]
    path.write_text("income;price\n12.345;1.000\n20.500;2.000\n900;3.000\n")
    assert run.frame(str(path))["price"].tolist() == ["1000", "2000", "3000"]


@pytest.mark.parametrize(("name", "form"), [("order id", "10.{:03}"), (" Id ", "{:03}.000")])
def test_identifiers_are_answered_as_they_were_written(tmp_path, name, form):
    """Where decimals have a comma, a number 10.100 is 10100, and a name is not."""
    ids = [form.format(n + 100) for n in range(ROWS)]
    rows = "\n".join(f"{ids[n]};{n},5;{n * n},5" for n in range(ROWS))
    (tmp_path / "orders.csv").write_text(f"{name};size;price\n{rows}\n")
    run = train_run(configure(tmp_path / "orders.csv", "data.target=price", epochs=1), tmp_path / "run")
    frame = run.rows(str(tmp_path / "orders.csv"))
    answers = run.named(run.predict(frame), frame)
    assert answers.columns.tolist() == [name.strip(), "prediction"]
    assert answers[name.strip()].tolist() == ids


def test_a_notation_that_was_asked_for_holds_for_new_rows(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("income;price\n" + "".join(f"{n},{100 + n};{n}\n" for n in range(1, ROWS)))
    asked = configure(path, "data.target=price")
    with pytest.raises(ValueError, match=r"'1,101' in column 'income'.*data\.decimal=point"):
        prepare(asked)
    run = train_run(asked.with_overrides(["data.decimal=point"]), tmp_path / "run")
    assert run.frame()["income"].astype(float).max() == 59159
    assert run.rows(str(path))["income"].astype(float).max() == 59159


def test_a_run_that_did_not_keep_its_notation_is_read(german):
    run, _ = german
    path = run.path / "data.json"
    record = json.loads(path.read_bytes())
    assert record["schema"].pop("decimal") == "comma"
    path.write_text(json.dumps(record))
    loaded = Run.load(run.path)
    assert loaded.schema.decimal is None
    assert loaded.predict(loaded.frame()).equals(Run.load(run.path).predict(run.frame()))


def test_a_category_that_training_did_not_see_is_named_and_counts_as_none(houses):
    frame = houses.frame().assign(town="Cul")
    assert houses.unseen(frame) == {"town": ["Cul"]}
    assert houses.unseen(houses.frame()) == {}
    assert houses.predict(frame).prediction.notna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="town"), "lacks column 'town'"),
        (lambda f: f.assign(rooms="many"), "'rooms' must hold numbers.*'many'"),
        (lambda f: f.assign(sold="soon"), "'sold' held dates.*'soon'"),
        (lambda f: f.assign(rooms=np.inf), "'rooms' is infinite"),
    ],
)
def test_rows_that_are_not_as_in_training_are_refused(houses, change, message):
    with pytest.raises(ValueError, match=message):
        houses.predict(change(houses.frame()))
