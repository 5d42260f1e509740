"""Scikit-learn estimators: encoder, flow and decoder behind `fit` and `predict`.

X: (N, features), an array or a data frame; y: (N,), or (N, outputs) for regression.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from inspect import signature
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_random_state, check_X_y
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ..nn import NeuralODE
from .config import Config, Gradient, TrainingConfig, validated
from .course import EpochRecord, History
from .datasets import Task
from .inputs import Inputs, check_size, inputs_for, take
from .model import FlowModel, build_model
from .training import Samples, fit, hold_out, outputs
from .values import Array, centre_and_scale, standardised
from .weights import row_weights, with_class_weights

_PARTS = {
    "model": (
        *("flow", "state_dim", "width", "depth", "activation", "time", "encoder", "decoder", "dropout"),
        *("resnet_depth", "resnet_shared"),
    ),
    "solver": ("method", "step_size", "rtol", "atol", "batching", "gradient", "backend", "learn_times", "max_steps"),
    "training": (
        *("optimizer", "learning_rate", "momentum", "weight_decay", "schedule", "batch_size", "max_epochs"),
        *("early_stopping", "validation_fraction", "patience", "tol", "clip_norm", "device"),
    ),
}
"""Which part of the configuration each parameter belongs to."""

_PARAMETERS = """    state_dim : int, optional
        The dimension of the state; by default as many as there are features, but at least 8 and at most 64.
    width, depth : int
        Width and number of the field's hidden layers.
    activation : {"tanh", "relu", "gelu", "silu", "softplus", "sin"}
        Between the field's layers.
    time : {"none", "concat", "gated"}
        How time enters the field.
    encoder : {"linear", "mlp", "identity"}
        How features become z(t0); the identity adds zeros where the state is larger.
    decoder : {"linear", "mlp"}
        How z(t1) becomes the answer.
    flow : {"ode", "resnet", "none"}
        A neural ODE; or, to compare with, residual blocks of the same field, or encoder and decoder alone.
    dropout : float, optional
        The share of the features that training hides from the encoder, others each time; by default a fifth from 32
        features up, none below.
    resnet_depth, resnet_shared : int, bool
        The number of residual blocks, and whether all of them are one.
    t_span : (float, float)
        Where the flow begins and ends.
    method, step_size, rtol, atol, batching, gradient, backend, max_steps
        How the flow is solved, as for `thalweg.solve_ivp`.
    learn_times : bool
        Whether t0 and t1 are learnt too.
    optimizer : {"adam", "sgd"}
        Adam with decoupled weight decay, or stochastic gradient descent with Nesterov's momentum.
    learning_rate, momentum, weight_decay : float
        Momentum is SGD's; decay pulls at matrices, not at biases.
    schedule : {"cosine", "constant"}
        How the learning rate goes from epoch to epoch.
    batch_size : int or "auto"
        Rows in a minibatch; "auto": a tenth of them, but at least 64 and at most 256.
    max_epochs : int
        Passes over the rows.
    early_stopping : bool
        Whether to hold out a part of the rows, keep the weights that are best on it, and end when nothing has got
        better by `tol` for `patience` epochs.
    validation_fraction : float
        The share that early stopping holds out.
    patience, tol : int, float
        When early stopping ends.
    clip_norm : float, optional
        The bound on the gradient's norm.
    dtype : {"float32", "float64"}, optional
        What is computed in; by default float32 where X is, float64 elsewhere.
    device : str
        Where, as PyTorch names it.
    random_state : int, RandomState or None
        Decides the initial weights, the order of the rows and what is hidden and held out.
    warm_start : bool
        Whether a further call of `fit` goes on from the weights and the optimiser's state of the last one. What the
        model is built of must then be as it was.
    verbose : int
        1 prints a line each epoch.
"""

_ATTRIBUTES = """    history_ : History
        What each epoch cost and gained.
    n_iter_ : int
        Epochs, those of earlier warm starts and partial fits too.
    loss_curve_ : list of float
        The training loss of each epoch.
    n_features_in_, feature_names_in_
        As scikit-learn defines them.

    Notes
    -----
    An array must hold finite numbers. A data frame may also hold text, categories, truth values, dates and missing
    values: each column becomes numbers as `thalweg train` makes it (see `thalweg.learn.data.Schema`). A number that is
    missing in later rows, but in none of those of `fit`, counts as the median.
    `partial_fit` runs one epoch at the full learning rate; what the columns are, and their means, the first call says.
    Rows are followed one by one (`batching="per_sample"`): an answer does not depend on what else is asked with it.
"""


def _documented(cls: Any) -> Any:
    """Put what both estimators share into the docstring of one, and into the signature that is asked for parameters."""
    head, attributes, rest = cls.__doc__.partition("\n    Attributes\n")
    own, examples, end = rest.partition("\n    Examples\n")
    title = "" if "\n    Parameters\n" in head else "\n    Parameters\n    ----------\n"
    cls.__doc__ = head + title + _PARAMETERS + attributes + own + _ATTRIBUTES + examples + end
    if cls.__init__ is not _Estimator.__init__:
        parameters = signature(_Estimator.__init__).parameters | signature(cls.__init__).parameters
        named = [parameter for parameter in parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        cls.__init__.__signature__ = signature(cls.__init__).replace(parameters=named)
    return cls


class _Estimator(BaseEstimator):
    """What both estimators are made of."""

    _task: ClassVar[Task]
    _inputs: Inputs
    _seed: int
    model_: FlowModel
    history_: History

    def __init__(
        self,
        *,
        state_dim: int | None = None,
        width: int = 64,
        depth: int = 1,
        activation: str = "tanh",
        time: Literal["none", "concat", "gated"] = "concat",
        encoder: Literal["linear", "mlp", "identity"] = "linear",
        decoder: Literal["linear", "mlp"] = "linear",
        flow: Literal["ode", "resnet", "none"] = "ode",
        dropout: float | None = None,
        resnet_depth: int = 6,
        resnet_shared: bool = False,
        t_span: tuple[float, float] = (0.0, 1.0),
        method: str = "tsit5",
        step_size: float | None = None,
        rtol: float = 1e-2,
        atol: float = 1e-3,
        batching: Literal["joint", "per_sample"] = "per_sample",
        gradient: Gradient = "checkpointed",
        backend: Literal["auto", "eager", "native"] = "auto",
        max_steps: int = 10_000,
        learn_times: bool = False,
        optimizer: Literal["adam", "sgd"] = "adam",
        learning_rate: float = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 1e-2,
        schedule: Literal["constant", "cosine"] = "cosine",
        batch_size: int | Literal["auto"] = "auto",
        max_epochs: int = 40,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
        tol: float = 1e-4,
        clip_norm: float | None = None,
        dtype: Literal["float32", "float64"] | None = None,
        device: str = "cpu",
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
    ) -> None:
        self.state_dim = state_dim
        self.width = width
        self.depth = depth
        self.activation = activation
        self.time = time
        self.encoder = encoder
        self.decoder = decoder
        self.flow = flow
        self.dropout = dropout
        self.resnet_depth = resnet_depth
        self.resnet_shared = resnet_shared
        self.t_span = t_span
        self.method = method
        self.step_size = step_size
        self.rtol = rtol
        self.atol = atol
        self.batching = batching
        self.gradient = gradient
        self.backend = backend
        self.max_steps = max_steps
        self.learn_times = learn_times
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.tol = tol
        self.clip_norm = clip_norm
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on rows X with answers y.

        Parameters
        ----------
        X : array or data frame (N, features)
        y : array (N,), or (N, outputs) for regression
        sample_weight : array (N,), optional
            How much each row counts; a row of weight 0 is as one that is not there.

        Returns
        -------
        The estimator itself.

        Raises
        ------
        ValueError
            When a parameter, X or y is not what is described here, or training diverges.
        """
        going_on = self.warm_start and hasattr(self, "model_")
        return self._fit(X, y, sample_weight, going_on=going_on)

    def _fit(self, X: Any, y: Any, sample_weight: Any, **how: Any) -> Self:
        """Let a copy learn, and take over all of it at once: a fit that fails leaves what an earlier one learnt."""
        learner = copy(self)
        learner._learn(X, y, sample_weight, **how)
        self.__dict__ = learner.__dict__
        return self

    @torch.inference_mode(False)
    @torch.enable_grad()  # in a program that has turned gradients off to predict, too
    def _learn(
        self, X: Any, y: Any, sample_weight: Any, *, going_on: bool, classes: Any = None, one_epoch: bool = False
    ) -> None:
        config = self._config()
        if going_on:
            self._check_same_model(config)
        inputs = self._inputs if going_on else inputs_for(X)
        X = inputs.check(self, X, reset=not going_on)
        y = self._check_target(X, y)
        weight = row_weights(sample_weight, len(y))
        if weight is not None:  # a row of weight 0 is as one that is not there
            counts = np.flatnonzero(weight)
            X, y, weight = take(X, counts), y[counts], weight[counts]
        share = None if weight is None else weight / weight.max()  # whose sums and squares any dtype can hold
        if not going_on:
            inputs.learn(X, weight)
            self._learn_target(y, share, classes)
            self._inputs = inputs
            self._seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        answers = self._encode(y)
        share = self._weigh(answers, share)
        samples = Samples(
            torch.from_numpy(inputs.features(X)),
            torch.from_numpy(answers),
            None if share is None else torch.from_numpy(share),
        )
        if share is not None:
            samples = samples[torch.from_numpy(share > 0)]
        if not going_on:
            self._built = config
            self.model_ = build_model(config.model, config.solver, samples.x.shape[1], self._n_outputs, self._seed)
        elif not one_epoch:  # which leaves it as it was where it fails; a copy takes the engine longer to trace
            self.model_ = deepcopy(self.model_)
        dtype = self.dtype or ("float32" if samples.x.dtype == torch.float32 else "float64")
        training = config.training.model_copy(update={"dtype": dtype})
        self._train(samples, training, self.history_ if going_on else None, one_epoch=one_epoch)

    def _train(self, samples: Samples, training: TrainingConfig, start: History | None, *, one_epoch: bool) -> None:
        """Run the one loop that trains."""
        validation = None
        if one_epoch:
            changes = {"max_epochs": 1, "schedule": "constant", "early_stopping": False}
            training = training.model_copy(update=changes)
        if training.early_stopping:
            samples, validation = hold_out(samples, self._task, training.validation_fraction, self._seed)
        self.history_ = fit(
            self.model_,
            self._task,
            samples,
            validation,
            training,
            seed=self._seed,
            on_epoch=_report if self.verbose else None,
            start=start,
        )
        self.loss_curve_ = [record.loss for record in self.history_.records]
        self.n_iter_ = len(self.history_.records)
        if self.history_.interrupted:
            warnings.warn("training was interrupted; the best weights so far are kept", stacklevel=5)

    def _weigh(self, answers: NDArray[Any], weight: Array | None) -> Array | None:
        """How much rows count, given what each answers to and how often it is there."""
        return weight

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> Self:
        going_on = hasattr(self, "model_")
        return self._fit(X, y, sample_weight, going_on=going_on, classes=classes, one_epoch=True)

    def _outputs(self, X: Any) -> Tensor:
        """Logits, or standardised answers (N, outputs)."""
        x = self.inputs(X)
        answers = outputs(self.model_, x).cpu()
        wrong = (~answers.isfinite().all(dim=1)).nonzero()
        if len(wrong):
            raise ValueError(
                f"the model's answer to row {int(wrong[0]) + 1} of X (of {len(wrong)} such) is not finite: its numbers "
                "overflow; see that the row is like those of fit, or fit anew with a lower learning_rate"
            )
        return answers

    def inputs(self, X: Any) -> Tensor:
        """What the encoder of `model_` takes for rows: their features, made numbers and scaled as `fit` learnt to.

        Parameters
        ----------
        X : array or data frame (N, features)

        Returns
        -------
        Tensor (N, inputs)
        """
        check_is_fitted(self)
        return torch.from_numpy(self._inputs.features(self._inputs.check(self, X, reset=False)))

    @torch.no_grad()
    def trajectory(self, X: Any, t_eval: Sequence[float] | Tensor | None = None) -> Tensor:
        """Follow rows through the flow.

        Parameters
        ----------
        X : array or data frame (N, features)
        t_eval : (T,), optional
            The times; 50 equally spaced ones from t0 to t1 by default.

        Returns
        -------
        Tensor (T, N, state_dim)
        """
        x, flow = self.inputs(X), self.model_.flow
        if not isinstance(flow, NeuralODE):
            raise ValueError(f"trajectory needs an estimator with flow='ode', this one has {self.flow!r}")
        z0 = self.model_.encoder(x.to(next(self.model_.parameters())))
        t0, t1 = (float(t) for t in flow.t_span)
        return flow.trajectory(
            z0, torch.linspace(t0, t1, 50, dtype=torch.float64, device="cpu") if t_eval is None else t_eval
        )

    def _config(self) -> Config:
        """The parameters, checked, as a configuration."""
        try:
            t0, t1 = self.t_span
        except (TypeError, ValueError):
            raise ValueError(f"t_span must be a pair of numbers (t0, t1), got {self.t_span!r}") from None
        content: dict[str, dict[str, Any]] = {
            part: {name: _plain(getattr(self, name)) for name in names} for part, names in _PARTS.items()
        }
        content["solver"] |= {"t0": _plain(t0), "t1": _plain(t1)}
        content["training"]["dtype"] = self.dtype or "float64"
        try:
            config = validated(content)
        except ValueError as error:
            raise ValueError(re.sub(r"^(model|solver|training)(\.|: )", "", str(error))) from None
        if self.early_stopping and not config.training.validation_fraction:
            raise ValueError("validation_fraction must be above 0 with early_stopping=True, got 0")
        return config

    def _check_same_model(self, config: Config) -> None:
        """See that parameters are still those that the model was built with."""
        for part in ("model", "solver"):
            before, now = getattr(self._built, part).model_dump(), getattr(config, part).model_dump()
            for name in before:
                if now[name] != before[name]:
                    raise ValueError(
                        f"{name} is {now[name]!r}, and was {before[name]!r} when the model was built that this fit "
                        "goes on from; set it back, or begin anew with a clone"
                    )

    # what an estimator knows of its target

    @property
    def _n_outputs(self) -> int:
        raise NotImplementedError

    def _check_target(self, X: Any, y: Any) -> NDArray[Any]:
        raise NotImplementedError

    def _learn_target(self, y: NDArray[Any], weight: Array | None, classes: Any) -> None:
        raise NotImplementedError

    def _encode(self, y: NDArray[Any]) -> NDArray[Any]:
        raise NotImplementedError


@_documented
class NeuralODEClassifier(ClassifierMixin, _Estimator):
    """A classifier whose middle is a neural ODE, trained on cross-entropy.

    Parameters
    ----------
    class_weight : None, "balanced" or dict
        How much the rows of each class count, beside what `sample_weight` says: `"balanced"`, so that classes count
        alike, however many rows each has; or by label, 1 where none is given. Probabilities are then those of classes
        that are as common as they count, and the score of held-out rows counts them so too.

    Attributes
    ----------
    classes_ : array (classes,)
        The labels, sorted.
    model_ : FlowModel
        Encoder, flow and decoder, a PyTorch module from standardised features to logits.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from thalweg import NeuralODEClassifier
    >>> X, y = make_moons(300, noise=0.1, random_state=0)
    >>> classifier = NeuralODEClassifier(random_state=0).fit(X[:200], y[:200])
    >>> classifier.score(X[200:], y[200:]) > 0.95
    True
    >>> classifier.predict_proba(X[:5]).shape, classifier.trajectory(X[:5]).shape
    ((5, 2), torch.Size([50, 5, 8]))
    """

    _task = "classification"

    def __init__(self, *, class_weight: Literal["balanced"] | Mapping[Any, float] | None = None, **shared: Any) -> None:
        super().__init__(**shared)
        self.class_weight = class_weight

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch on some of the rows.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array, optional
            All labels that will come; the first call needs it where its rows lack one, and later ones cannot change it.
        """
        if classes is not None and hasattr(self, "classes_") and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(
                f"classes must be those of the first fit, {self.classes_.tolist()}, got {np.unique(classes).tolist()}; "
                "begin anew with a clone to learn others"
            )
        if isinstance(self.class_weight, str):
            raise ValueError(
                f"class_weight={self.class_weight!r} asks how many rows of each class there are, and partial_fit sees "
                "some of them; give the weights, as sklearn.utils.class_weight.compute_class_weight makes them"
            )
        return self._partial_fit(X, y, sample_weight, classes)

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable label of each row (N,)."""
        codes = self._outputs(X).argmax(dim=1)
        labels: NDArray[Any] = self.classes_[codes.numpy()]
        return labels

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """The probability of each label, in the order of `classes_` (N, classes)."""
        probabilities: NDArray[Any] = self._outputs(X).double().softmax(dim=1).numpy()
        return probabilities

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """The logarithm of each label's probability (N, classes)."""
        logarithms: NDArray[Any] = self._outputs(X).double().log_softmax(dim=1).numpy()
        return logarithms

    def _weigh(self, answers: NDArray[Any], weight: Array | None) -> Array | None:
        return with_class_weights(self.class_weight, self.classes_.tolist(), answers, weight)

    @property
    def _n_outputs(self) -> int:
        return len(self.classes_)

    def _check_target(self, X: Any, y: Any) -> NDArray[Any]:
        y = _check_y(X, y, self)
        check_classification_targets(y)
        return y

    def _learn_target(self, y: NDArray[Any], weight: Array | None, classes: Any) -> None:
        self._labels = LabelEncoder().fit(y if classes is None else np.asarray(classes))
        self.classes_ = self._labels.classes_
        if len(self.classes_) < 2:
            raise ValueError(
                f"y must hold at least two classes, got one class, {_plain(self.classes_[0])!r}: "
                "there is nothing to learn"
            )

    def _encode(self, y: NDArray[Any]) -> NDArray[Any]:
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y holds {_plain(unknown[0])!r}, which is none of the classes of the first fit "
                f"({self.classes_.tolist()}); "
                "name all of them as classes= in the first call of partial_fit, or fit without warm_start"
            )
        codes: NDArray[Any] = self._labels.transform(y)
        return codes


@_documented
class NeuralODERegressor(RegressorMixin, _Estimator):
    """A regressor whose middle is a neural ODE, trained on the mean squared error.

    Attributes
    ----------
    model_ : FlowModel
        Encoder, flow and decoder, a PyTorch module from standardised features to standardised answers.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg import NeuralODERegressor
    >>> X = np.linspace(-2, 2, 200)[:, None]
    >>> y = np.sin(2 * X[:, 0])
    >>> NeuralODERegressor(random_state=0).fit(X, y).score(X, y) > 0.95
    True
    """

    _task = "regression"

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch on some of the rows; parameters as for `fit`."""
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X: Any) -> NDArray[Any]:
        """The answers in the unit of y (N,), or (N, outputs), float64 whatever is computed in.

        A target's mean may be so large beside its spread that no float32 tells one answer from another.
        """
        answers: NDArray[Any] = self._outputs(X).double().numpy() * self._scale + self._mean
        return answers[:, 0] if self._flat else answers

    @property
    def _n_outputs(self) -> int:
        return len(self._mean)

    def _check_target(self, X: Any, y: Any) -> NDArray[Any]:
        try:
            y = _check_y(X, y, self, multi_output=True, y_numeric=True)
        except TypeError as error:  # of objects that are no numbers
            raise ValueError(f"y must hold numbers: {error}") from None
        if y.dtype.kind in "SU":
            raise ValueError(f"y must hold numbers, got text, {str(y.flat[0])!r}: classes are NeuralODEClassifier's")
        if y.dtype.kind in "mM":
            raise ValueError(f"y must hold numbers, got {str(y.flat[0])!r}: write it as seconds since some day")
        check_size(y, "y")
        return y

    def _learn_target(self, y: NDArray[Any], weight: Array | None, classes: Any) -> None:
        self._flat = y.ndim == 1
        y = y.reshape(len(y), -1).astype(np.float64)
        self._mean, self._scale = centre_and_scale(y, np.ones(len(y)) if weight is None else weight)

    def _encode(self, y: NDArray[Any]) -> NDArray[Any]:
        y = y.reshape(len(y), -1)
        if y.shape[1] != self._n_outputs:
            raise ValueError(f"y must have {self._n_outputs} outputs, as it had in the first fit, got {y.shape[1]}")
        return standardised(y.astype(np.float64), self._mean, self._scale)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _check_y(X: Any, y: Any, estimator: _Estimator, **options: Any) -> NDArray[Any]:
    """The answers, one for each row."""
    _, y = check_X_y(np.zeros((len(X), 1)), y, estimator=estimator, **options)
    answers: NDArray[Any] = y
    return answers


def _plain(value: Any) -> Any:
    """A Python number, from NumPy's where it is one."""
    return value.item() if isinstance(value, np.generic) else value


def _report(record: EpochRecord) -> None:
    held_out = "" if record.val_score is None else f", held out {record.val_score:.4f}"
    print(f"epoch {record.epoch}: loss {record.loss:.4f}, score {record.score:.4f}{held_out}")
