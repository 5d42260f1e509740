"""Classes count as much as they are asked to."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.utils.class_weight import compute_class_weight

from thalweg import NeuralODEClassifier
from thalweg.learn.config import Config
from thalweg.learn.runs import prepare, train_run
from thalweg.learn.training import outputs
from thalweg.learn.weights import with_class_weights

QUICK = {"max_epochs": 15, "width": 8, "random_state": 0}


@pytest.fixture(scope="module")
def rare():
    """Rows of which a twentieth are of a class that overlaps with the other."""
    rng = np.random.default_rng(0)
    y = np.where(rng.random(600) < 0.05, "rare", "usual")
    X = rng.normal(size=(600, 2))
    X[y == "rare", 0] += 1.5
    return X, y


def test_balanced_is_as_scikit_learn_has_it_and_counts_weights_as_rows(rare):
    codes = (rare[1] == "usual").astype(int)
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=codes)[codes]
    np.testing.assert_allclose(
        with_class_weights("balanced", ["rare", "usual"], codes, None), expected / expected.max()
    )
    times = np.random.default_rng(1).integers(1, 4, len(codes))
    weight = with_class_weights("balanced", ["rare", "usual"], codes, times.astype(float))
    repeated = with_class_weights("balanced", ["rare", "usual"], codes.repeat(times), None)
    sums = [
        [w[c == code].sum() / w.sum() for code in (0, 1)] for w, c in ((weight, codes), (repeated, codes.repeat(times)))
    ]
    np.testing.assert_allclose(sums, 0.5)


def test_a_class_weight_is_the_weight_of_each_of_its_rows(rare):
    X, y = rare
    by_class = NeuralODEClassifier(**QUICK, class_weight={"rare": 6}).fit(X, y)
    by_row = NeuralODEClassifier(**QUICK).fit(X, y, sample_weight=np.where(y == "rare", 6.0, 1.0))
    # the weights of rows count in the means of the columns too
    np.testing.assert_allclose(by_class.predict_proba(X), by_row.predict_proba(X), atol=0.1)
    both = NeuralODEClassifier(**QUICK, class_weight={"rare": 3}).fit(X, y, sample_weight=np.full(len(y), 2.0))
    alone = NeuralODEClassifier(**QUICK, class_weight={"rare": 3, "usual": 1}).fit(X, y)
    np.testing.assert_allclose(both.predict_proba(X), alone.predict_proba(X), rtol=1e-6)


def test_balanced_classes_are_found_where_one_is_rare(rare):
    X, y = rare
    plain, balanced = (NeuralODEClassifier(**QUICK, class_weight=w).fit(X, y) for w in (None, "balanced"))
    assert balanced_accuracy_score(y, plain.predict(X)) < 0.6
    assert balanced_accuracy_score(y, balanced.predict(X)) > 0.7
    assert balanced.predict_proba(X).mean(0)[0] == pytest.approx(0.3, abs=0.15)


def test_it_is_a_parameter_like_the_others_of_the_classifier_alone(rare):
    X, y = rare
    grid = {"class_weight": [None, "balanced", {"rare": 10}], "width": [8]}
    search = GridSearchCV(NeuralODEClassifier(max_epochs=10, random_state=0), grid, scoring="balanced_accuracy", cv=2)
    assert search.fit(X, y).best_params_["class_weight"] is not None
    with pytest.raises(TypeError, match="widht"):
        NeuralODEClassifier(widht=3)


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ("balance", "must be None, 'balanced' or a dict from labels to weights, got 'balance'"),
        ({"rear": 2}, "names 'rear', which is none of the classes 'rare', 'usual'"),
        ({"rare": -1}, "finite numbers that are not negative, got -1 for 'rare'"),
        ({"rare": np.nan}, "not negative, got nan"),
        ({"rare": True}, "not negative, got True"),
        ({"rare": 0, "usual": 0}, "must not be zero for every row"),
    ],
)
def test_wrong_weights_are_one_clear_sentence(rare, class_weight, message):
    with pytest.raises(ValueError, match=message):
        NeuralODEClassifier(**QUICK, class_weight=class_weight).fit(*rare)


def test_balanced_takes_all_rows(rare):
    with pytest.raises(ValueError, match="partial_fit sees some of them"):
        NeuralODEClassifier(**QUICK, class_weight="balanced").partial_fit(*rare)


class TestRuns:
    @pytest.fixture
    def asked(self, rare, tmp_path):
        X, y = rare
        pd.DataFrame(X, columns=["a", "b"]).assign(kind=y).to_csv(tmp_path / "t.csv", index=False)

        def ask(weight):
            settings = [f"data.source={tmp_path / 't.csv'}", "data.target=kind", "training.max_epochs=8"]
            return Config().with_overrides([*settings, f"training.class_weight={weight}"])

        return ask

    def test_rows_to_learn_from_count_and_those_kept_apart_do_not(self, asked, tmp_path):
        data = prepare(asked("{rare: 9}"))
        rare = data.train.y == 0
        assert (data.train.weight[rare] == 1).all()
        np.testing.assert_allclose(data.train.weight[~rare], 1 / 9)
        assert data.test.weight is None
        run = train_run(asked("balanced"), tmp_path / "run")
        said = outputs(run.model, data.test.x).argmax(1).numpy()
        assert run.result.test.value == pytest.approx((said == data.test.y.numpy()).mean())
        assert run.result.test.balanced == pytest.approx(balanced_accuracy_score(data.test.y.numpy(), said))
        assert run.result.test.balanced > 0.65
        assert Config.load(run.path / "config.yaml").training.class_weight == "balanced"

    @pytest.mark.parametrize(
        ("weight", "message"),
        [
            ("balance", "'balanced', or weights by label such as {spam: 5, ham: 1}, got 'balance'"),
            ("{rare: -1}", "training.class_weight must be .*greater than or equal to 0"),
            ("{rear: 1}", "names 'rear', which is none of the classes 'rare', 'usual'"),
        ],
    )
    def test_wrong_weights_are_refused(self, asked, weight, message):
        with pytest.raises(ValueError, match=message):
            prepare(asked(weight))

    def test_a_dict_in_a_file_may_be_set_anew(self, asked):
        config = asked("{rare: 9}")
        assert config.training.class_weight == {"rare": 9.0}
        assert config.with_overrides(["training.class_weight=balanced"]).training.class_weight == "balanced"

    def test_labels_that_are_numbers_are_named_by_them(self, tmp_path):
        frame = pd.DataFrame({"x": np.arange(40.0), "y": np.arange(40) % 4 > 2}).assign(z=lambda f: f.y.astype(int))
        frame.to_csv(tmp_path / "t.csv", index=False)
        for target, weight in (("z", "{0: 1, 1: 3}"), ("y", "{true: 3}")):
            settings = [f"data.source={tmp_path / 't.csv'}", f"data.target={target}"]
            data = prepare(Config().with_overrides([*settings, f"training.class_weight={weight}"]))
            assert (data.train.weight == 1).sum() == (data.train.y == 1).sum()

    def test_a_number_has_no_classes(self):
        with pytest.raises(ValueError, match="'progression' is predicted as a number"):
            prepare(Config().with_overrides(["data.source=diabetes", "training.class_weight=balanced"]))
