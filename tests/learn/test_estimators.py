"""The estimators are scikit-learn's in every respect, and learn."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, make_moons, make_regression
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from thalweg import NeuralODEClassifier, NeuralODERegressor

MOONS = make_moons(200, noise=0.1, random_state=0)
LINE = make_regression(120, 3, noise=1.0, random_state=0)
QUICK = {"width": 16, "max_epochs": 15, "random_state": 0}


@parametrize_with_checks([NeuralODEClassifier(), NeuralODERegressor()])
def test_it_is_a_scikit_learn_estimator(estimator, check):
    """Every check that scikit-learn has, at the default parameters, none excepted."""
    check(estimator)


class TestLearning:
    def test_a_classifier_bends_the_river(self):
        X, y = make_moons(400, noise=0.1, random_state=1)
        classifier = NeuralODEClassifier(random_state=0).fit(X[:300], y[:300])
        assert classifier.score(X[300:], y[300:]) > 0.97

    def test_a_regressor_learns_what_no_line_can(self):
        X = np.random.default_rng(0).uniform(-2, 2, (300, 2))
        y = np.sin(2 * X[:, 0]) * X[:, 1]
        regressor = NeuralODERegressor(max_epochs=100, random_state=0).fit(X[:200], y[:200])
        assert regressor.score(X[200:], y[200:]) > 0.9 > 0.2 > LinearRegression().fit(X, y).score(X, y)

    def test_several_outputs_are_learnt_together(self):
        X, _ = LINE
        Y = np.column_stack([X[:, 0], 100 + 10 * X[:, 1]])
        answers = NeuralODERegressor(random_state=0).fit(X, Y).predict(X)
        assert answers.shape == Y.shape
        assert (np.square(answers - Y).mean(0) < 0.1 * Y.var(0)).all()

    def test_labels_come_back_as_they_were(self):
        X, y = MOONS
        classifier = NeuralODEClassifier(**QUICK).fit(X, np.array(["up", "down"])[y])
        assert set(classifier.predict(X)) == {"up", "down"}
        assert list(classifier.classes_) == ["down", "up"]

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_computes_in_the_dtype_of_its_rows_unless_told(self, dtype):
        X, y = MOONS[0].astype(dtype), MOONS[1]
        asked = {np.float32: torch.float32, np.float64: torch.float64}[dtype]
        assert next(NeuralODEClassifier(**QUICK).fit(X, y).model_.parameters()).dtype == asked
        assert next(NeuralODEClassifier(**QUICK, dtype="float32").fit(X, y).model_.parameters()).dtype == torch.float32

    @pytest.mark.parametrize(("rows", "dtype"), [(np.float32, None), (np.float64, "float32"), (np.float32, "float64")])
    def test_a_target_far_from_zero_is_answered_in_its_own_precision(self, rows, dtype):
        """As seconds since 1970 are: float32 tells them apart by minutes alone."""
        X = np.random.default_rng(1).normal(size=(200, 2))
        y = 1.7e9 + 50 * X[:, 0]
        regressor = NeuralODERegressor(random_state=0, max_epochs=20, dtype=dtype).fit(X.astype(rows), y)
        assert regressor.predict(X.astype(rows)).dtype == np.float64
        assert regressor.score(X.astype(rows), y) > 0.99

    @pytest.mark.parametrize(("rows", "dtype"), [(np.float32, None), (np.float64, "float32"), (np.float64, None)])
    def test_a_row_far_beyond_a_tiny_spread_is_answered(self, rows, dtype):
        """In standard deviations it is beyond what float32 holds."""
        X, y = (MOONS[0] * 1e-30).astype(rows), MOONS[1]
        classifier = NeuralODEClassifier(**QUICK, dtype=dtype).fit(X, y)
        far = X[:2].copy()
        far[1] = 1e10
        assert np.isfinite(classifier.predict_proba(far)).all()

    def test_probabilities_are_those_of_the_predictions(self):
        X, y = load_iris(return_X_y=True)
        classifier = NeuralODEClassifier(**QUICK).fit(X, y)
        p = classifier.predict_proba(X)
        np.testing.assert_allclose(p.sum(1), 1, rtol=1e-12)
        np.testing.assert_allclose(np.log(p), classifier.predict_log_proba(X), rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(classifier.classes_[p.argmax(1)], classifier.predict(X))

    def test_the_path_ends_where_the_decoder_reads(self):
        X, y = MOONS
        classifier = NeuralODEClassifier(**QUICK).fit(X, y)
        path = classifier.trajectory(X[:7])
        with torch.no_grad():
            read = classifier.model_.decoder(path[-1]).softmax(1).numpy()
        np.testing.assert_allclose(read, classifier.predict_proba(X[:7]), rtol=1e-6)


class TestTraining:
    @pytest.mark.parametrize(("make", "data"), [(NeuralODEClassifier, MOONS), (NeuralODERegressor, LINE)])
    def test_early_stopping_keeps_the_best_epoch_of_held_out_rows(self, make, data):
        model = make(early_stopping=True, patience=2, max_epochs=60, learning_rate=0.05, random_state=0).fit(*data)
        scores = [record.val_score for record in model.history_.records]
        assert model.n_iter_ < 60
        assert model.history_.best.val_score == max(scores)

    def test_warm_start_goes_on_and_a_plain_fit_starts_anew(self):
        X, y = MOONS
        going_on = NeuralODEClassifier(**QUICK, warm_start=True).fit(X, y).fit(X, y)
        assert going_on.n_iter_ == 30
        anew = NeuralODEClassifier(**QUICK).fit(X, y).fit(X, y)
        once = NeuralODEClassifier(**QUICK).fit(X, y)
        np.testing.assert_array_equal(anew.predict_proba(X), once.predict_proba(X))
        assert going_on.loss_curve_[-1] < once.loss_curve_[-1]

    def test_partial_fit_learns_batch_by_batch(self):
        X, y = MOONS
        model = NeuralODEClassifier(width=16, random_state=0)
        for _ in range(60):
            for rows in np.array_split(np.arange(len(X)), 2):
                model.partial_fit(X[rows], y[rows], classes=[0, 1])
        assert model.n_iter_ == 120
        assert model.score(X, y) > 0.95

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"width": 8}, "width is 8, and was 16 when the model was built"),
            ({"t_span": (0.0, 2.0)}, "t1 is 2.0, and was 1.0 when the model was built"),
            ({"rtol": 1e-6}, "rtol is 1e-06, and was 0.01 when the model was built"),
        ],
    )
    @pytest.mark.parametrize("go_on", ["fit", "partial_fit"])
    def test_a_model_that_is_gone_on_with_is_not_rebuilt_and_says_so(self, go_on, changes, message):
        classifier = NeuralODEClassifier(**QUICK | {"max_epochs": 1}, warm_start=True).fit(*MOONS)
        with pytest.raises(ValueError, match=message):
            getattr(classifier.set_params(**changes), go_on)(*MOONS)

    def test_how_a_model_is_trained_may_change_as_it_is_gone_on_with(self):
        classifier = NeuralODEClassifier(**QUICK | {"max_epochs": 1}, warm_start=True).fit(*MOONS)
        changes = {"learning_rate": 1e-3, "optimizer": "sgd", "batch_size": 10, "early_stopping": True}
        assert classifier.set_params(**changes).fit(*MOONS).n_iter_ == 2

    def test_partial_fit_does_not_change_its_classes(self):
        X, y = MOONS
        classifier = NeuralODEClassifier(**QUICK).partial_fit(X, y, classes=[1, 0]).partial_fit(X, y, classes=[0, 1])
        with pytest.raises(ValueError, match=r"classes must be those of the first fit, \[0, 1\], got \[0, 1, 2\]"):
            classifier.partial_fit(X, y, classes=[0, 1, 2])

    def test_partial_fit_needs_all_classes_at_first(self):
        X, y = MOONS
        model = NeuralODEClassifier(**QUICK).partial_fit(X, y, classes=[0, 1, 2])
        assert model.predict_proba(X).shape == (200, 3)
        with pytest.raises(ValueError, match="none of the classes of the first fit"):
            model.partial_fit(X, y + 2)

    def test_a_weight_of_two_is_two_rows_and_of_none_is_none(self):
        X, y = LINE[0][:40], LINE[1][:40]
        weight = np.arange(40) % 3
        weighted = NeuralODERegressor(**QUICK).fit(X, y, sample_weight=weight)
        repeated = NeuralODERegressor(**QUICK).fit(X.repeat(weight, 0), y.repeat(weight))
        np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-6)

    @pytest.mark.parametrize("unit", [1e-300, 1e-50, 1e50, 1e300])
    @pytest.mark.parametrize(("make", "data"), [(NeuralODEClassifier, MOONS), (NeuralODERegressor, LINE)])
    def test_the_unit_of_weights_says_nothing_however_far_from_one(self, make, data, unit):
        """As of 1/σ² in metres; float32 holds neither 1e50 nor 1e-50."""
        X, y = data[0].astype(np.float32), data[1]
        weight = 1.0 + np.arange(len(X)) % 3
        answers, plain = (make(**QUICK).fit(X, y, sample_weight=w).predict(X) for w in (unit * weight, weight))
        np.testing.assert_allclose(answers, plain, rtol=1e-4)

    @pytest.mark.parametrize("warm_start", [False, True])
    def test_a_fit_that_fails_leaves_what_was_learnt_before(self, warm_start):
        X, y = MOONS
        model = NeuralODEClassifier(**QUICK, encoder="identity", state_dim=2, warm_start=warm_start).fit(X, y)
        before = model.predict_proba(X)
        with pytest.raises(ValueError, match=r"state_dim must be|is expecting 2 features"):
            model.fit(np.column_stack([X, X]), y + 7)
        assert (list(model.classes_), model.n_features_in_, model.n_iter_) == ([0, 1], 2, 15)
        np.testing.assert_array_equal(model.predict_proba(X), before)

    @pytest.mark.parametrize("go_on", ["fit", "partial_fit"])
    @pytest.mark.parametrize("batch_size", [50, 200])
    def test_going_on_that_diverges_leaves_what_was_learnt_before(self, go_on, batch_size):
        """Also where it does so after an epoch that was finished."""
        X, y = MOONS
        model = NeuralODEClassifier(**QUICK, warm_start=True).fit(X, y)
        before, loss = model.predict_proba(X), model.loss_curve_[-1]
        model.set_params(optimizer="sgd", learning_rate=1e300, batch_size=batch_size)
        with pytest.raises(ValueError, match="diverged"):
            getattr(model, go_on)(X, y)
        assert (model.n_iter_, model.loss_curve_[-1]) == (15, loss)
        np.testing.assert_array_equal(model.predict_proba(X), before)

    def test_a_copy_stays_as_it_was_while_the_other_goes_on(self):
        X, y = MOONS
        model = NeuralODEClassifier(**QUICK, warm_start=True).fit(X, y)
        other, before = copy.copy(model), model.predict_proba(X)
        after = model.fit(X, y).predict_proba(X)
        np.testing.assert_array_equal(other.predict_proba(X), before)
        np.testing.assert_array_equal(other.fit(X, y).predict_proba(X), after)

    def test_a_last_step_that_diverges_is_no_fit(self):
        wild = {"optimizer": "sgd", "learning_rate": 1.0, "random_state": 0}
        X, y = load_iris(return_X_y=True)
        classifier = NeuralODEClassifier(flow="resnet", activation="relu", max_epochs=1, schedule="constant", **wild)
        for train in (partial(classifier.fit, X.astype("f4")), partial(NeuralODERegressor(**wild).partial_fit, X)):
            with pytest.raises(ValueError, match=r"^training diverged in epoch 1: after its last step"):
                train(y)

    @pytest.mark.parametrize(("make", "data"), [(NeuralODEClassifier, MOONS), (NeuralODERegressor, LINE)])
    def test_answers_that_are_not_finite_are_none(self, make, data):
        X = data[0].astype("f4")
        model = make(**QUICK, flow="none", weight_decay=0.0).fit(X, data[1])
        with torch.no_grad():
            model.model_.decoder.weight *= 1e37
        far = np.concatenate([X[:2], 1e10 * X[:3]])
        assert np.isfinite(model.predict(far[:2])).all()
        with pytest.raises(ValueError, match=r"answer to row 3 of X \(of 3 such\) is not finite.*lower learning_rate"):
            model.predict(far)

    def test_a_first_fit_that_fails_leaves_nothing(self):
        model = NeuralODERegressor(**{**QUICK, "learning_rate": 1e30})
        with pytest.raises(ValueError, match="diverged"):
            model.fit(*LINE)
        with pytest.raises(NotFittedError):
            model.predict(LINE[0])

    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_the_same_seed_gives_the_same_model(self, optimizer):
        X, y = load_diabetes(return_X_y=True)
        before = torch.random.get_rng_state()
        one, other = (NeuralODERegressor(**QUICK, optimizer=optimizer).fit(X, y).predict(X) for _ in range(2))
        np.testing.assert_array_equal(one, other)
        assert torch.equal(before, torch.random.get_rng_state())
        third = NeuralODERegressor(**{**QUICK, "random_state": 1}, optimizer=optimizer).fit(X, y).predict(X)
        assert np.abs(one - third).max() > 0

    def test_verbose_prints_a_line_an_epoch(self, capsys):
        NeuralODEClassifier(**QUICK, verbose=1).fit(*MOONS)
        assert capsys.readouterr().out.count("\n") == 15


class TestCompany:
    """Beside the rest of scikit-learn."""

    def test_grid_search_on_two_processes(self):
        grid = {"width": np.array([4, 16]), "learning_rate": [1e-4, 2e-2]}
        search = GridSearchCV(NeuralODEClassifier(max_epochs=15, random_state=0), grid, cv=2, n_jobs=2).fit(*MOONS)
        assert search.best_params_["learning_rate"] == 2e-2
        assert search.best_score_ > 0.8

    @pytest.mark.parametrize("dropout", [0.0, 0.3])
    def test_threads_that_train_beside_each_other_get_what_each_gets_alone(self, dropout):
        X, y = MOONS
        model = NeuralODEClassifier(**QUICK | {"max_epochs": 4, "batch_size": 25}, dropout=dropout)
        alone = clone(model).fit(X, y).predict_proba(X)
        before = torch.random.get_rng_state()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: clone(model).fit(X, y).predict_proba(X), range(16)))
        assert torch.equal(before, torch.random.get_rng_state())
        for answer in answers:
            np.testing.assert_array_equal(answer, alone)

    @pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
    @pytest.mark.parametrize("go_on", ["fit", "partial_fit"])
    def test_it_learns_where_gradients_are_off(self, off, go_on):
        X, y = MOONS
        model = NeuralODEClassifier(**QUICK | {"max_epochs": 2})
        with off():
            quiet = getattr(clone(model), go_on)(X, y).predict_proba(X)
            assert not torch.is_grad_enabled()
        np.testing.assert_array_equal(quiet, getattr(model, go_on)(X, y).predict_proba(X))

    def test_in_a_pipeline(self):
        pipeline = make_pipeline(
            StandardScaler(), PolynomialFeatures(2), NeuralODERegressor(**QUICK).set_params(max_epochs=60)
        )
        assert cross_val_score(pipeline, *LINE, cv=3).mean() > 0.8

    @pytest.mark.parametrize("dump", [pickle, joblib], ids=["pickle", "joblib"])
    def test_pickled_it_answers_alike(self, dump, tmp_path):
        X, y = MOONS
        model = NeuralODEClassifier(**QUICK).fit(X, y)
        with (tmp_path / "model").open("wb") as file:
            dump.dump(model, file)
        with (tmp_path / "model").open("rb") as file:
            again = dump.load(file)
        np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))

    @pytest.mark.parametrize("kind", ["default", "pandas"])
    def test_what_pipelines_are_asked_to_hand_on_is_no_concern_inside(self, kind):
        with config_context(transform_output=kind):
            for make, (X, y) in ((NeuralODEClassifier, MOONS), (NeuralODERegressor, LINE)):
                pipeline = make_pipeline(StandardScaler(), make(**QUICK))
                answers = pipeline.fit(X, y).predict(X)
                assert isinstance(answers, np.ndarray)
                assert pipeline.score(X, y) > 0.5

    def test_a_clone_is_untrained_and_alike(self):
        model = NeuralODEClassifier(**QUICK).fit(*MOONS)
        again = clone(model)
        assert not hasattr(again, "model_")
        np.testing.assert_array_equal(again.fit(*MOONS).predict_proba(MOONS[0]), model.predict_proba(MOONS[0]))


class TestFrames:
    FRAME = pd.DataFrame(
        {
            "size": [1.0, 2.0, np.nan, 4.0] * 15,
            "colour": ["red", "green", "green", None] * 15,
            "day": pd.date_range("2026-01-01", periods=60, freq="7D"),
            "new": [True, False, True, True] * 15,
        }
    )
    PRICE = FRAME["size"].fillna(2) + 3 * (FRAME["colour"] == "red") + np.arange(60) / 10

    def test_text_dates_truth_and_missing_values(self):
        model = NeuralODERegressor(random_state=0, max_epochs=80).fit(self.FRAME, self.PRICE)
        assert model.score(self.FRAME, self.PRICE) > 0.9
        unseen = self.FRAME.assign(colour="blue")
        assert np.isfinite(model.predict(unseen)).all()

    def test_a_frame_of_numbers_is_an_array_with_names(self):
        X, y = load_iris(return_X_y=True, as_frame=True)
        model = NeuralODEClassifier(**QUICK).fit(X, y)
        plain = NeuralODEClassifier(**QUICK).fit(X.to_numpy(), y.to_numpy())
        np.testing.assert_array_equal(model.predict_proba(X), plain.predict_proba(X.to_numpy()))
        assert list(model.feature_names_in_) == list(X.columns)

    def test_a_weight_of_two_is_two_rows_and_of_none_is_none(self):
        weight = np.arange(60) % 3
        frame = self.FRAME.assign(code=[f"c{n}" if n % 3 == 0 else f"c{n % 9}" for n in range(60)])
        frame.loc[frame.index % 7 == 0, "day"] = pd.NaT
        weighted = NeuralODERegressor(**QUICK).fit(frame, self.PRICE, sample_weight=weight)
        repeated = NeuralODERegressor(**QUICK).fit(frame.loc[frame.index.repeat(weight)], self.PRICE.repeat(weight))
        np.testing.assert_allclose(weighted.predict(frame), repeated.predict(frame), rtol=1e-9)

    def test_the_unit_of_weights_says_nothing(self):
        frame = self.FRAME.assign(code=[f"c{n % 25}" for n in range(60)])
        plain = NeuralODERegressor(**QUICK).fit(frame, self.PRICE)
        shares = NeuralODERegressor(**QUICK).fit(frame, self.PRICE, sample_weight=np.full(60, 1 / 60))
        np.testing.assert_allclose(shares.predict(frame), plain.predict(frame), rtol=1e-9)

    @pytest.mark.parametrize("kind", ["float64", "float32", "Int64"])
    def test_missing_values_of_one_fold_are_medians_to_the_others(self, kind):
        frame = pd.DataFrame(np.random.default_rng(0).integers(0, 9, (60, 2)).astype(float), columns=["a", "b"])
        y = frame["a"] + frame["b"]
        gappy = frame.astype(kind)
        gappy.loc[3, "b"] = pd.NA if kind == "Int64" else np.nan
        scores = cross_val_score(NeuralODERegressor(**QUICK).set_params(max_epochs=60), gappy, y, cv=KFold(3))
        assert (scores > 0.8).all()
        model = NeuralODERegressor(**QUICK).fit(gappy[5:], y[5:])
        filled = frame.assign(b=frame["b"].where(frame.index != 3, frame["b"][5:].median())).astype(kind)
        np.testing.assert_array_equal(model.predict(gappy), model.predict(filled))
        with pytest.raises(ValueError, match="infinity"):
            model.predict(frame.replace(frame.loc[3, "b"], np.inf))

    def test_a_text_that_one_fold_has_but_once_is_no_obstacle(self):
        frame = pd.DataFrame({"a": np.arange(60.0) % 7, "town": ["Aix"] * 40 + ["Bar"] * 20})
        scores = cross_val_score(NeuralODERegressor(**QUICK), frame, frame["a"], cv=KFold(3))
        assert (scores > 0.5).all()

    def test_an_array_must_be_whole(self):
        X, y = LINE
        model = NeuralODERegressor(**QUICK).fit(X, y)
        with pytest.raises(ValueError, match="NaN"):
            model.predict(np.where(X < 0, np.nan, X))

    def test_other_columns_are_refused(self):
        model = NeuralODERegressor(**QUICK).fit(self.FRAME, self.PRICE)
        with pytest.raises(ValueError, match="feature names should match"):
            model.predict(self.FRAME[["colour", "size", "day", "new"]])
        with pytest.raises(ValueError, match="X must be a data frame"):
            model.predict(self.FRAME.to_numpy())
        with pytest.raises(ValueError, match="at least one row"):
            model.predict(self.FRAME.iloc[:0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "^width must be greater than or equal to 1, got 0"),
        ({"method": "tsit6"}, "did you mean 'tsit5'"),
        ({"method": "rk4"}, "^method 'rk4' has no error estimate and needs a step_size"),
        ({"rtol": 0}, "^rtol must be greater than 0, got 0"),
        ({"t_span": 1.0}, r"^t_span must be a pair of numbers \(t0, t1\), got 1.0"),
        ({"t_span": (0.0, float("nan"))}, "^t1 must be"),
        ({"t_span": (1, 1.0)}, "^t1 must be another time than t0 for there to be a flow, got 1 for both"),
        ({"activation": "sine"}, "^activation must be"),
        ({"device": "meta"}, "^device 'meta' cannot be used here"),
        ({"dtype": "float16"}, "^dtype must be"),
        ({"early_stopping": True, "validation_fraction": 0}, "^validation_fraction must be above 0"),
        ({"early_stopping": True, "validation_fraction": 0.001}, "^validation_fraction must leave rows"),
        ({"encoder": "identity", "state_dim": 1}, "^state_dim must be at least the number of inputs, 2"),
    ],
)
def test_a_wrong_parameter_is_one_clear_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        NeuralODEClassifier(**change).fit(*MOONS)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(3), r"shape \(200,\), one for each row, got \(3,\)"),
        (-np.ones(200), "negative"),
        (np.full(200, np.nan), "NaN"),
        (np.zeros(200), "zero"),
    ],
)
def test_wrong_weights_are_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        NeuralODEClassifier(**QUICK).fit(*MOONS, sample_weight=weight)


def test_one_class_is_nothing_to_learn():
    with pytest.raises(ValueError, match="got one class"):
        NeuralODEClassifier().fit(MOONS[0], np.zeros(200))


@pytest.mark.parametrize("make", [NeuralODEClassifier, NeuralODERegressor])
def test_numbers_too_large_to_be_squared_are_named_before_training(make):
    X, y = MOONS
    with pytest.raises(ValueError, match=r"^X must hold numbers of at most 1e\+150 in size .*, but one of size"):
        make(**QUICK).fit(X * 1e200, y)
    trained = make(**QUICK).fit(X, y)
    with pytest.raises(ValueError, match=r"^X must hold numbers of at most"):
        trained.predict(X * 1e200)


def test_a_target_too_large_to_be_squared_is_named_before_training():
    X, y = LINE
    with pytest.raises(ValueError, match=r"^y must hold numbers of at most"):
        NeuralODERegressor(**QUICK).fit(X, y * 1e200)


def test_text_is_no_target_of_a_regressor():
    with pytest.raises(ValueError, match="y must hold numbers, got text, 'a': classes are NeuralODEClassifier's"):
        NeuralODERegressor(**QUICK).fit([[0.0], [1.0]], ["a", "b"])


@pytest.mark.parametrize(
    ("y", "got"),
    [
        (pd.Series(pd.date_range("2026-01-01", periods=4)), "got '2026-01-01T"),
        (pd.Series(pd.to_timedelta([1, 2, 3, 4], unit="s")), "got '1"),
        (pd.Series(pd.date_range("2026-01-01", periods=4, tz="UTC")), "not 'Timestamp'"),
    ],
    ids=["dates", "spans", "zoned"],
)
def test_times_are_no_target_of_a_regressor(y, got):
    with pytest.raises(ValueError, match=f"^y must hold numbers.*{got}"):
        NeuralODERegressor(**QUICK).fit(np.arange(4.0)[:, None], y)


def test_complex_numbers_are_refused_where_a_frame_holds_text_too():
    frame = pd.DataFrame({"z": np.arange(6) * 1j, "x": np.arange(6.0), "town": ["Aix", "Bar"] * 3})
    with pytest.raises(ValueError, match="column 'z' holds complex numbers; give their real and imaginary parts"):
        NeuralODERegressor(**QUICK).fit(frame, np.arange(6.0))
    fitted = NeuralODERegressor(**QUICK).fit(frame.assign(z=np.arange(6.0)), np.arange(6.0))
    with pytest.raises(ValueError, match="column 'z' holds complex numbers"):
        fitted.predict(frame)


def test_only_a_flow_has_paths():
    model = NeuralODEClassifier(**QUICK, flow="resnet").fit(*MOONS)
    with pytest.raises(ValueError, match="flow='ode'"):
        model.trajectory(MOONS[0])


@pytest.mark.parametrize("unit", [2.0**-1000, 2.0**-600])
@pytest.mark.parametrize(
    "make", [np.asarray, pd.DataFrame, lambda X: pd.DataFrame(X, columns=list("abc")).assign(town=["Aix", "Bar"] * 50)]
)
def test_numbers_whose_squares_are_zero_are_learnt_from_as_others_are(make, unit):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3))
    X[:, 2] = 3.0
    y = X[:, 0] + X[:, 1] / 2
    regressor = NeuralODERegressor(max_epochs=3, random_state=0)
    known = regressor.fit(make(X), y).predict(make(X))
    small = regressor.fit(make(unit * X), unit * y).predict(make(unit * X))
    np.testing.assert_allclose(small / unit, known, rtol=1e-9, atol=1e-12)
    assert np.isfinite(regressor.predict(make(X)[:2])).all()  # by far beyond the rows of fit


@pytest.mark.parametrize(
    "make", [np.asarray, lambda X: pd.DataFrame(X, columns=list("ab")).assign(town=["Aix", "Bar"] * 150)]
)
def test_numbers_that_differ_in_their_last_digits_are_learnt_from_as_others_are(make):
    """Such as frequencies of 9 GHz that differ by hertz."""
    rng = np.random.default_rng(0)
    X = np.rint(100 * rng.normal(size=(300, 2)))
    y = X[:, 0] + np.rint(X[:, 1] / 2)
    far, step = 2.0**44, 2.0**-7  # half of which is the last digit
    regressor = NeuralODERegressor(max_epochs=3, random_state=0)
    known = regressor.fit(make(X), y).predict(make(X))
    answers = regressor.fit(make(far + step * X), far + step * y).predict(make(far + step * X))
    np.testing.assert_allclose((answers - far) / step, known, atol=1)  # of a hundred


@pytest.mark.parametrize(
    ("make", "held"),
    [
        (lambda frame: frame.to_numpy(), "the text 'Aix': ndarray"),
        (lambda frame: frame.to_numpy(dtype=str), "the text 'Aix': ndarray"),
        (lambda frame: frame.to_numpy().tolist(), "the text 'Aix': list"),
        (pa.Table.from_pandas, "the text 'Aix': Table"),
        (lambda frame: frame[["size"]].where(frame["size"] > 3).to_numpy(), "NaN: ndarray"),
    ],
)
def test_what_only_a_data_frame_may_hold_says_so(make, held):
    frame = pd.DataFrame({"size": np.arange(12.0), "town": ["Aix", "Bar", "it's"] * 4})
    y = np.arange(12) % 2
    message = rf"^X holds {held} must hold .* a pandas data frame may hold text and missing values too; fit to one"
    with pytest.raises(ValueError, match=message):
        NeuralODEClassifier(**QUICK).fit(make(frame), y)


def test_text_where_a_frame_held_numbers_is_named():
    frame = pd.DataFrame({"size": np.arange(12.0), "rooms": np.arange(12) % 5})
    model = NeuralODEClassifier(**QUICK).fit(frame, np.arange(12) % 2)
    with pytest.raises(ValueError, match=r"^X held nothing but numbers in fit, and now holds the text 'many'"):
        model.predict(frame.astype(object).assign(rooms="many"))


def test_images_are_rows_of_their_pixels():
    images = np.random.default_rng(0).normal(size=(12, 4, 5, 3))
    with pytest.raises(
        ValueError, match=r"array of shape \(12, 4, 5, 3\); images .* as X.reshape\(len\(X\), -1\) has them"
    ):
        NeuralODEClassifier(**QUICK).fit(images, np.arange(12) % 2)
    assert len(NeuralODEClassifier(**QUICK).fit(images.reshape(len(images), -1), np.arange(12) % 2).classes_) == 2
