"""The comparison is fair: the same rows for all, each contender as it would be alone, failures told."""

import re
from statistics import fmean

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from thalweg.cli.compare import verdict
from thalweg.learn.compare import CONTENDERS, Contender, Standing, Trial, compare
from thalweg.learn.config import Config
from thalweg.learn.model import build_model
from thalweg.learn.runs import prepare
from thalweg.learn.training import evaluate, fit, split_rows

IRIS = Config().with_overrides(["data.source=iris", "training.max_epochs=3", "model.width=8"])


def test_contenders_stand_as_they_would_alone():
    seen = []
    standings = compare(IRIS, [0, 1], on_trial=lambda who, seed, trial: seen.append((who.kind, seed, trial.score)))
    assert [s.contender for s in standings] == list(CONTENDERS)
    assert seen == [(s.contender.kind, seed, s.trials[seed].score) for s in standings for seed in (0, 1)]
    ode, *_, linear = standings

    config = IRIS.model_copy(update={"seed": 1})
    data = prepare(config)
    model = build_model(config.model, config.solver, data.schema.n_inputs, 3, 1)
    fit(model, "classification", data.train, None, config.training, seed=1)
    assert ode.trials[1].score == evaluate(model, "classification", data.test)[1]
    assert ode.trials[1].parameters == model.n_parameters
    assert ode.trials[1].nfev > 5

    known = LogisticRegression(max_iter=1000).fit(data.train.x, data.train.y)
    assert linear.trials[1].score == known.score(data.test.x, data.test.y)
    assert linear.trials[1].parameters == 3 * 4 + 3
    assert all(s.trials[0].seconds > 0 for s in standings)
    resnet, none = standings[1], standings[2]
    assert resnet.trials[0].nfev == 6
    assert none.trials[0].nfev == 0


def test_regression_is_told_in_the_targets_unit():
    config = Config().with_overrides(["data.source=diabetes", "training.max_epochs=2"])
    linear = compare(config, [0], contenders=CONTENDERS[-1:])[0]
    spread = prepare(config).test.y.numpy().std() * prepare(config).schema.target.scale
    expected = spread * np.sqrt(1 - linear.trials[0].score)
    assert linear.trials[0].rmse == pytest.approx(expected, rel=1e-6)
    assert linear.spread("score") == 0


def test_one_that_fails_says_why_and_the_others_go_on():
    config = IRIS.with_overrides(["solver.max_steps=1", "solver.rtol=1e-6", "solver.atol=1e-6"])
    ode, none = compare(config, [0], contenders=[CONTENDERS[0], CONTENDERS[2]])
    assert not ode.trials
    assert "max_steps" in ode.failure
    assert ode.failure.startswith("training diverged in epoch 1")
    assert len(none.trials) == 1


def test_one_that_cannot_be_judged_says_why(tmp_path):
    """A row apart that is far from all others takes more steps than there may be."""
    path = tmp_path / "table.csv"
    config = Config().with_overrides(
        [f"data.source={path}", "data.target=y", "training.max_epochs=1", "solver.max_steps=5"]
    )
    frame = pd.DataFrame({"x": np.linspace(0, 1, 40), "y": np.linspace(0, 1, 40) ** 2})
    _, apart = split_rows(40, 8, None, 0)
    frame.loc[apart[0], "x"] = 1e140
    frame.to_csv(path, index=False)
    (ode,) = compare(config, [0], contenders=CONTENDERS[:1])
    assert ode.failure.startswith("held-out rows cannot be carried to the end of the flow")


def test_bad_rows_and_no_seeds_are_refused_at_once():
    with pytest.raises(ValueError, match="no file"):
        compare(Config().with_overrides(["data.source=nowhere.csv", "data.target=x"]))
    with pytest.raises(ValueError, match="at least one seed"):
        compare(IRIS, [])


def standing(kind, *scores):
    return Standing(Contender(kind, kind, ""), tuple(Trial(score, None, 1, 0.0, 0.0) for score in scores), None)


@pytest.mark.parametrize(
    ("standings", "words"),
    [
        ([standing("ode", 0.9, 0.92), standing("mlp", 0.5, 0.52)], "0.4000 above mlp, the best of the others."),
        ([standing("ode", 0.5, 0.52), standing("mlp", 0.9, 0.92)], "0.4000 below mlp, the best of the others."),
        ([standing("ode", 0.8, 0.9), standing("mlp", 0.86, 0.86)], "below mlp.*within the spread"),
        ([standing("ode"), standing("mlp", 0.9)], "best is mlp; the neural ODE could not be trained"),
        ([standing("ode", 0.9)], "stands alone"),
        ([standing("ode", 0.9), standing("mlp", 0.9)], r"neural ODE is level with mlp, the best of the others\.$"),
        ([standing("ode")], "No contender"),
    ],
)
def test_the_verdict_tells_the_truth(standings, words):
    assert re.search(words, verdict(standings))
    assert standings[0].trials == () or standings[0].mean("score") == fmean(t.score for t in standings[0].trials)
