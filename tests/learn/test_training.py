"""The training loop."""

import copy
import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from thalweg.learn import training
from thalweg.learn.config import Gradient, ModelConfig, SolverConfig, TrainingConfig
from thalweg.learn.data import Schema
from thalweg.learn.datasets import load_bundled
from thalweg.learn.model import build_model
from thalweg.learn.training import EpochRecord, History, Samples, evaluate, fit, hold_out, outputs, row_losses

F64 = torch.float64
CHEAP = SolverConfig(method="euler", step_size=0.5)


def samples(name, rows=None, seed=0):
    """A bundled set as tensors."""
    bundled = load_bundled(name)
    frame = bundled.frame.sample(rows or len(bundled.frame), random_state=seed)
    schema = Schema.learn(frame, bundled.target)
    y = torch.from_numpy(schema.target.encode(frame[bundled.target]))
    return Samples(torch.from_numpy(schema.features(frame)), y), bundled.task


def toy(task="classification", rows=40, outputs=1):
    """Rows that a plane nearly parts."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 2, generator=generator, dtype=F64)
    noise = 0.3 * torch.randn(rows, outputs, generator=generator, dtype=F64)
    y = x @ torch.ones(2, outputs, dtype=F64) + noise
    return Samples(x, (y[:, 0] > 0).long() if task == "classification" else y)


def model(n_inputs=2, n_outputs=2, seed=0, solver=CHEAP, **options):
    return build_model(ModelConfig(**{"width": 8, **options}), solver, n_inputs, n_outputs, seed)


def train(net, task, rows, validation=None, *, seed=0, on_epoch=None, start=None, **options):
    config = TrainingConfig(**{"dtype": "float64", **options})
    return fit(net, task, rows, validation, config, seed=seed, on_epoch=on_epoch, start=start)


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def numbers(history):
    """All but the wall time."""
    return [(r.epoch, r.loss, r.score, r.val_loss, r.val_score, r.nfev, r.nfev_backward, r.lr) for r in history.records]


class TestLearning:
    @pytest.mark.parametrize(
        ("flow", "options"),
        [("ode", {}), ("resnet", {}), ("ode", {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0})],
    )
    def test_moons_are_told_apart(self, flow, options):
        """At the defaults of model and solver: more than 95 % of rows that were not learnt from."""
        learn, judge = hold_out(*samples("moons", 600), 0.3, seed=0)
        net = build_model(ModelConfig(flow=flow), SolverConfig(), 2, 2, seed=0)
        history = train(net, "classification", learn, max_epochs=25, dtype="float32", **options)
        assert evaluate(net, "classification", judge)[1] > 0.95
        assert history.records[-1].loss < 0.5 * history.records[0].loss
        assert (len(history.records), history.best_epoch) == (25, 25)

    def test_a_quantity_is_learnt(self):
        learn, judge = hold_out(*samples("diabetes"), 0.25, seed=0)
        net = model(10, 1, solver=SolverConfig())
        train(net, "regression", learn, max_epochs=20)
        assert evaluate(net, "regression", judge)[1] > 0.35

    @pytest.mark.parametrize("gradient", get_args(Gradient))
    def test_every_gradient_method_trains(self, gradient):
        net = model(solver=SolverConfig(rtol=1e-6, atol=1e-6, gradient=gradient, backend="eager"))
        history = train(net, "classification", toy(), max_epochs=5, learning_rate=0.05)
        assert history.records[-1].loss < history.records[0].loss
        assert all(record.nfev > 0 for record in history.records)
        assert all(
            (record.nfev_backward > 0) == (gradient not in ("direct", "checkpointed")) for record in history.records
        )

    def test_learnt_times_move(self):
        net = model(solver=SolverConfig(learn_times=True))
        train(net, "classification", toy(), max_epochs=5, learning_rate=0.05)
        assert net.flow.t1.item() != 1.0


class TestScores:
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("columns", [1, 3])
    def test_of_a_regression_are_those_of_scikit_learn(self, weighted, columns):
        rows = toy("regression", outputs=columns)
        weight = torch.rand(len(rows), dtype=F64) if weighted else None
        rows = Samples(rows.x, rows.y, weight)
        net = model(n_outputs=columns).double()
        predicted = outputs(net, rows.x)
        loss, score = evaluate(net, "regression", rows)
        assert score == pytest.approx(metrics.r2_score(rows.y, predicted, sample_weight=weight), rel=1e-12)
        assert loss == pytest.approx(metrics.mean_squared_error(rows.y, predicted, sample_weight=weight), rel=1e-12)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_of_a_classification_are_those_of_scikit_learn(self, weighted):
        rows = toy()
        weight = torch.rand(len(rows), dtype=F64) if weighted else None
        rows = Samples(rows.x, rows.y, weight)
        net = model().double()
        logits = outputs(net, rows.x)
        loss, score = evaluate(net, "classification", rows)
        assert score == pytest.approx(metrics.accuracy_score(rows.y, logits.argmax(1), sample_weight=weight), rel=1e-12)
        assert loss == pytest.approx(metrics.log_loss(rows.y, logits.softmax(1), sample_weight=weight), rel=1e-12)

    def test_of_constant_targets_are_defined(self):
        """As scikit-learn has it: 1 if met, 0 if not."""
        x = torch.zeros(4, 2, dtype=F64)
        net = model(n_outputs=1).double()
        met = outputs(net, x)
        assert evaluate(net, "regression", Samples(x, met))[1] == 1.0
        assert evaluate(net, "regression", Samples(x, met + 1))[1] == 0.0

    def test_of_an_epoch_are_those_of_the_batches_as_they_were_met(self):
        rows, net = toy("regression", rows=30), model(n_outputs=1).double()
        before = evaluate(net, "regression", rows)
        record = train(net, "regression", rows, max_epochs=1).records[0]  # one batch: met before the only step
        assert (record.loss, record.score) == (pytest.approx(before[0]), pytest.approx(before[1]))
        assert record.rmse == pytest.approx(math.sqrt(record.loss))
        assert (record.val_loss, record.val_score) == (None, None)

    def test_many_rows_are_carried_in_pieces(self):
        net, x = model().double(), torch.randn(5000, 2, dtype=F64)
        with torch.no_grad():
            torch.testing.assert_close(outputs(net, x), net(x), rtol=1e-12, atol=1e-12)

    def test_row_losses_add_up(self):
        logits, codes = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
        mean = row_losses("classification", logits, codes).mean()
        torch.testing.assert_close(mean, torch.nn.functional.cross_entropy(logits, codes))


class TestReproducibility:
    @pytest.mark.parametrize("options", [{}, {"optimizer": "sgd"}, {"clip_norm": 0.1, "batch_size": 7}])
    @pytest.mark.parametrize("dropout", [0.0, 0.3])
    def test_the_same_seed_gives_the_same_weights_to_the_last_bit(self, options, dropout):
        """Whatever the global random state, which is left as it was."""
        runs = []
        for noise in (1, 2):
            torch.manual_seed(noise)
            np.random.seed(noise)  # noqa: NPY002
            before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
            net = model(dropout=dropout)
            history = train(net, "classification", toy(), max_epochs=3, **{"batch_size": 8, **options})
            assert torch.equal(torch.get_rng_state(), before)
            assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
            runs.append((weights(net), numbers(history)))
        assert_same(runs[0][0], runs[1][0])
        assert runs[0][1] == runs[1][1]

    def test_another_seed_gives_another_order(self):
        nets = [model() for _ in range(2)]
        for seed, net in enumerate(nets):
            train(net, "classification", toy(), max_epochs=1, batch_size=8, seed=seed)
        assert not torch.equal(nets[0].decoder.weight, nets[1].decoder.weight)

    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    @pytest.mark.parametrize("dropout", [0.0, 0.3])
    def test_going_on_is_as_if_it_had_never_stopped(self, optimizer, dropout):
        """Optimiser, order of rows and hidden inputs go on where they were: to the last bit."""
        options = {"optimizer": optimizer, "schedule": "constant", "batch_size": 8, "learning_rate": 0.01}
        whole, parts = model(dropout=dropout), model(dropout=dropout)
        at_once = train(whole, "classification", toy(), max_epochs=5, **options)
        first = train(parts, "classification", toy(), max_epochs=3, **options)
        second = train(parts, "classification", toy(), max_epochs=2, start=first, seed=99, **options)
        assert_same(weights(whole), weights(parts))
        assert numbers(second) == numbers(at_once)
        assert (len(first.records), second.best_epoch) == (3, 5)

    @pytest.mark.parametrize("task", ["classification", "regression"])
    @pytest.mark.parametrize(
        "options", [{}, {"optimizer": "sgd", "momentum": 0.0}, {"early_stopping": True, "patience": 2}]
    )
    @pytest.mark.parametrize("dropout", [0.0, 0.3])
    def test_from_any_checkpoint_the_same_weights_and_history_follow_to_the_last_bit(self, task, options, dropout):
        """At first and after each step, as it may be stopped anywhere; each checkpoint serves twice."""
        learn, judge = hold_out(toy(task, rows=40), task, 0.2, seed=0)
        options = {"batch_size": 8, "max_epochs": 5, "learning_rate": 0.05, "dtype": "float64"} | options
        checkpoints = []

        def run(resume=None, on_step=None):
            net = model(dropout=dropout, n_outputs=2 if task == "classification" else 1)
            config = TrainingConfig(**options)
            history = fit(net, task, learn, judge, config, seed=0, on_step=on_step, resume=resume)
            return weights(net), (numbers(history), history.best_epoch, history.stopped_early)

        whole, told = run(on_step=lambda take: checkpoints.append(take()))
        assert len(checkpoints) == 1 + 4 * len(told[0])
        for checkpoint in checkpoints[::3] + checkpoints[::3]:
            resumed, told_again = run(resume=checkpoint)
            assert told_again == told
            assert_same(resumed, whole)

    @pytest.mark.parametrize("function", ["row_losses", "evaluate", "_learning_rate"])
    def test_ctrl_c_amid_an_epoch_leaves_a_checkpoint_of_it(self, function, monkeypatch):
        learn, judge = hold_out(toy(), "classification", 0.2, seed=0)
        config = TrainingConfig(batch_size=8, max_epochs=4, dtype="float64")
        whole, parts = model(dropout=0.3), model(dropout=0.3)
        at_once = fit(whole, "classification", learn, judge, config, seed=0)
        done, calls = getattr(training, function), itertools.count()

        def interrupted(*args):
            if next(calls) == 2:
                raise KeyboardInterrupt
            return done(*args)

        monkeypatch.setattr(training, function, interrupted)
        first = fit(parts, "classification", learn, judge, config, seed=0)
        assert first.interrupted
        resumed = model(dropout=0.3, seed=9)
        second = fit(resumed, "classification", learn, judge, config, seed=9, resume=first.checkpoint)
        assert_same(weights(resumed), weights(whole))
        assert numbers(second) == numbers(at_once)

    def test_a_checkpoint_of_another_model_is_none_to_go_on_from(self):
        first = []
        train_small = {"config": TrainingConfig(max_epochs=1), "seed": 0}
        fit(model(), "classification", toy(), None, **train_small, on_step=lambda take: first.append(take()))
        with pytest.raises(ValueError, match="resume must be a checkpoint of this very training"):
            fit(model(width=9), "classification", toy(), None, **train_small, resume=first[0])

    def test_going_on_does_not_lose_better_weights(self):
        """A further training that only harms leaves what there was."""
        learn, judge = hold_out(toy(rows=80), "classification", 0.3, seed=0)
        net = model()
        first = train(net, "classification", learn, judge, max_epochs=15, learning_rate=0.02)
        good = weights(net)
        harmful = Samples(learn.x, 1 - learn.y)
        second = train(net, "classification", harmful, judge, start=first, max_epochs=3, learning_rate=0.3)
        assert max(record.val_score for record in second.records[15:]) < first.best.val_score
        assert_same(weights(net), good)
        assert second.best == first.best


class TestWeights:
    @pytest.mark.parametrize("task", ["classification", "regression"])
    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_a_weight_of_two_is_two_rows(self, task, optimizer):
        rows = toy(task, rows=20)
        count = torch.randint(1, 4, (20,))
        nets = [model(n_outputs=2 if task == "classification" else 1) for _ in range(2)]
        weighted = Samples(rows.x, rows.y, count.double())
        repeated = Samples(rows.x.repeat_interleave(count, 0), rows.y.repeat_interleave(count, 0))
        options = {"max_epochs": 4, "batch_size": 100, "optimizer": optimizer}
        histories = [train(net, task, part, **options) for net, part in zip(nets, (weighted, repeated), strict=True)]
        for one, other in zip(*(weights(net).values() for net in nets), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        for one, other in zip(*(history.records for history in histories), strict=True):
            assert [one.loss, one.score] == pytest.approx([other.loss, other.score], rel=1e-12)

    def test_a_weight_of_zero_is_no_row(self):
        rows = toy(rows=20)
        kept = torch.arange(20) % 3 > 0
        nets = [model() for _ in range(2)]
        train(nets[0], "classification", Samples(rows.x, rows.y, kept.double()), max_epochs=3)
        train(nets[1], "classification", rows[kept], max_epochs=3)
        for one, other in zip(*(weights(net).values() for net in nets), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


class TestBest:
    def run(self, **options):
        learn, judge = hold_out(toy(rows=60), "classification", 0.3, seed=0)
        net = model()
        return net, judge, train(net, "classification", learn, judge, learning_rate=0.1, batch_size=8, **options)

    def test_the_best_epoch_on_held_out_rows_is_kept(self):
        net, judge, history = self.run(max_epochs=12)
        best = max(history.records, key=lambda r: (r.val_score, -r.val_loss))
        assert history.best == best
        assert evaluate(net, "classification", judge) == (pytest.approx(best.val_loss), pytest.approx(best.val_score))
        assert not net.training

    def test_early_stopping_ends_when_nothing_gets_better(self):
        net, judge, history = self.run(max_epochs=100, early_stopping=True, patience=4)
        assert history.stopped_early
        assert len(history.records) < 100
        scores = [record.val_score for record in history.records]
        assert max(scores[-4:]) <= max(scores[:-4]) + 1e-4
        assert evaluate(net, "classification", judge)[1] == pytest.approx(max(scores))

    def test_without_held_out_rows_the_loss_decides_when_to_end_and_the_last_epoch_counts(self):
        net = model()
        history = train(net, "classification", toy(), max_epochs=50, early_stopping=True, patience=3, tol=0.05)
        assert history.stopped_early
        assert history.best_epoch == len(history.records) < 50

    @pytest.mark.parametrize("at", [1, 4])
    def test_an_interruption_keeps_the_best_weights_and_a_history_to_go_on_from(self, at):
        def interrupt(record):
            if record.epoch == at:
                raise KeyboardInterrupt

        net, judge, history = self.run(max_epochs=30, on_epoch=interrupt)
        assert (history.interrupted, len(history.records)) == (True, at)
        best = max(history.records, key=lambda r: (r.val_score, -r.val_loss))
        assert history.best == best
        assert evaluate(net, "classification", judge)[0] == pytest.approx(best.val_loss)
        further = train(net, "classification", toy(), judge, max_epochs=2, start=history)
        assert (further.interrupted, [r.epoch for r in further.records]) == (False, list(range(1, at + 3)))

    def test_each_epoch_is_told_once_and_in_order(self):
        seen = []
        _, _, history = self.run(max_epochs=3, on_epoch=seen.append)
        assert seen == history.records
        assert all(isinstance(record, EpochRecord) and record.seconds > 0 for record in seen)


class TestOptimiser:
    def test_the_schedule_falls_like_half_a_cosine(self):
        options = {"batch_size": 10, "max_epochs": 5, "learning_rate": 0.01}
        history = train(model(), "classification", toy(), **options)
        expected = [0.01 * 0.5 * (1 + math.cos(math.pi * (4 * epoch - 1) / 20)) for epoch in range(1, 6)]
        assert [record.lr for record in history.records] == pytest.approx(expected)
        constant = train(model(), "classification", toy(), schedule="constant", **options)
        assert {record.lr for record in constant.records} == {0.01}

    @pytest.mark.parametrize("clip", [1e-3, 1e3, None])
    def test_the_gradient_is_clipped_to_its_norm(self, clip):
        """Of plain gradient descent at rate 1, the step is the gradient."""
        net = model()
        start = torch.cat([p.detach().double().flatten() for p in net.parameters()])
        options = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 1.0, "max_epochs": 1}
        reference = copy.deepcopy(net).double()
        torch.nn.functional.cross_entropy(reference(toy().x), toy().y).backward()
        gradient = torch.cat([p.grad.flatten() for p in reference.parameters()])
        train(net, "classification", toy(), clip_norm=clip, **options)
        step = start - torch.cat([p.detach().flatten() for p in net.parameters()])
        size = 1e-3 if clip == 1e-3 else gradient.norm()
        torch.testing.assert_close(step, gradient / gradient.norm() * size, rtol=1e-3, atol=1e-9)

    def test_decay_pulls_at_matrices_alone(self):
        nets = [model() for _ in range(2)]
        for net, decay in zip(nets, (0.0, 0.5), strict=True):
            train(net, "classification", toy(), max_epochs=1, weight_decay=decay, learning_rate=0.1)
        one, other = (dict(net.named_parameters()) for net in nets)
        assert {name for name in one if torch.equal(one[name], other[name])} == {n for n in one if one[n].ndim == 1}

    def test_batches_are_as_equal_as_can_be_and_hold_every_row_once(self):
        rows = toy(rows=41)
        seen = []
        net = model()
        net.register_forward_pre_hook(lambda module, args: seen.append(args[0]) if module.training else None)
        train(net, "classification", rows, max_epochs=1, batch_size=20)
        assert sorted(map(len, seen)) == [13, 14, 14]
        assert sorted(torch.cat(seen)[:, 0].tolist()) == sorted(rows.x[:, 0].tolist())


class TestFailures:
    def test_no_rows(self):
        with pytest.raises(ValueError, match="train must have at least one row"):
            train(model(), "classification", toy()[[]])

    @pytest.mark.parametrize(
        ("options", "solver"),
        [
            ({"flow": "none"}, CHEAP),
            ({"flow": "ode", "activation": "relu"}, CHEAP),
            ({"flow": "ode", "activation": "relu"}, SolverConfig(max_steps=50)),
        ],
    )
    @pytest.mark.parametrize("held_out", [False, True])
    def test_divergence_says_what_to_do_and_keeps_the_weights_before_it(self, options, solver, held_out):
        rows = toy("regression")
        net = model(n_outputs=1, solver=solver, **options)
        before = weights(net)
        kept = []
        wild = {"optimizer": "sgd", "learning_rate": 1e18, "schedule": "constant", "max_epochs": 60}
        with pytest.raises(ValueError, match=r"training diverged in epoch \d+: .*lower learning_rate.*clip_norm=1"):
            train(net, "regression", rows, rows if held_out else None, on_epoch=kept.append, dtype="float32", **wild)
        assert all(parameter.isfinite().all() for parameter in net.parameters())
        if not kept:
            assert_same(weights(net), before)
        assert not net.training

    @pytest.mark.parametrize("ending", [{"max_epochs": 1}, {"max_epochs": 9, "early_stopping": True, "patience": 1}])
    @pytest.mark.parametrize(
        ("flow", "rate", "message"),
        [
            ("none", 1e300, "weights are not finite"),
            ("resnet", 1e18, "outputs are not finite"),
            ("ode", 1e18, "the flow could not be followed to its end"),
        ],
    )
    def test_the_last_step_is_judged_as_all_others_are(self, flow, rate, message, ending):
        """Before its epoch is told: no further step would find out."""
        net = model(n_outputs=1, flow=flow, activation="relu", solver=SolverConfig(max_steps=50))
        before, told = weights(net), []
        wild = {"optimizer": "sgd", "learning_rate": rate, "schedule": "constant", "dtype": "float32", **ending}
        with pytest.raises(
            ValueError, match=f"^training diverged in epoch 1: after its last step .*{message}.*; lower"
        ):
            train(net, "regression", toy("regression"), on_epoch=told.append, **wild)
        assert_same(weights(net), before)
        assert not told

    def test_judging_the_last_step_changes_nothing(self):
        """Of two trainings in turn two last steps are judged, of one at once one."""
        nets = [model(dropout=0.3) for _ in range(2)]
        for net in nets:
            net.decoder = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5), net.decoder)
        options = {"batch_size": 8, "schedule": "constant"}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            train(nets[0], "classification", toy(), max_epochs=3, **options)
            torch.manual_seed(0)
            first = train(nets[1], "classification", toy(), max_epochs=2, **options)
            train(nets[1], "classification", toy(), max_epochs=1, start=first, **options)
        assert_same(*map(weights, nets))

    def test_nan_in_the_rows_is_divergence_at_once(self):
        rows = toy()
        rows.x[3, 1] = math.nan
        with pytest.raises(ValueError, match="training diverged in epoch 1"):
            train(model(), "classification", rows)

    def test_held_out_rows_must_be_judged_by_a_number(self):
        judge = toy("regression")
        judge.y[3] = math.nan
        with pytest.raises(ValueError, match="epoch 1: the loss of held-out rows is nan"):
            train(model(n_outputs=1), "regression", toy("regression"), judge)

    def test_an_error_elsewhere_is_not_hidden_and_weights_are_restored(self):
        def fail(record):
            raise OSError("disk full")

        net = model()
        with pytest.raises(OSError, match="disk full"):
            train(net, "classification", toy(), max_epochs=3, on_epoch=fail)
        assert not net.training


class TestHoldOut:
    def test_classes_keep_their_shares(self):
        y = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
        learn, judge = hold_out(Samples(torch.arange(100.0)[:, None], y), "classification", 0.2, seed=0)
        assert judge.y.bincount().tolist() == [12, 6, 2]
        assert learn.y.bincount().tolist() == [48, 24, 8]
        assert sorted(torch.cat([learn.x, judge.x])[:, 0].tolist()) == list(range(100))

    def test_rows_go_together_with_their_weight(self):
        x = torch.arange(20.0)[:, None]
        for part in hold_out(Samples(x, x * 2, x[:, 0] * 3), "regression", 0.3, seed=1):
            assert torch.equal(part.y, part.x * 2)
            assert torch.equal(part.weight, part.x[:, 0] * 3)

    def test_the_seed_decides(self):
        one, same, other = (hold_out(toy(), "classification", 0.25, seed=seed)[1].x for seed in (0, 0, 1))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    @pytest.mark.parametrize("y", [[0] * 19 + [1], list(range(10)) * 2, [3] * 20])
    def test_classes_too_small_to_share_are_split_at_random(self, y):
        learn, judge = hold_out(Samples(torch.zeros(20, 1), torch.tensor(y)), "classification", 0.1, seed=0)
        assert (len(learn), len(judge)) == (18, 2)

    @pytest.mark.parametrize(("rows", "fraction"), [(3, 0.1), (1, 0.5), (3, 0.99), (0, 0.5)])
    def test_a_part_without_rows(self, rows, fraction):
        with pytest.raises(ValueError, match="validation_fraction must leave rows both to learn from and to hold out"):
            hold_out(toy(rows=rows), "classification", fraction, seed=0)


def test_a_history_without_epochs_has_no_best():
    assert History().best is None
