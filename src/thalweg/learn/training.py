"""The one training loop: estimators, the command and the comparison all come here.

x: (N, inputs); y: (N,) class codes, or (N, outputs) standardised targets; weight: (N,).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from ..core.status import SolveError
from .config import TrainingConfig
from .model import FlowModel, Hide

Task = Literal["classification", "regression"]

_CHUNK = 4096  # rows carried at once where there is nothing to learn from them


@dataclass(frozen=True)
class Samples:
    """Rows to learn from or to be judged by.

    Attributes
    ----------
    x : Tensor (N, inputs)
    y : Tensor
        Class codes (N,), or targets (N, outputs).
    weight : Tensor (N,), optional
        How often each row counts.
    """

    x: Tensor
    y: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> Samples:
        return Samples(self.x[rows], self.y[rows], None if self.weight is None else self.weight[rows])

    def to(self, device: torch.device, dtype: torch.dtype) -> Samples:
        """The same rows elsewhere; class codes stay integers."""
        y = self.y.to(device, dtype if self.y.is_floating_point() else torch.int64)
        return Samples(self.x.to(device, dtype), y, None if self.weight is None else self.weight.to(device, dtype))


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch cost and gained.

    Attributes
    ----------
    epoch : int
        From 1.
    loss, score : float
        Of the training rows, as they were met: cross-entropy and accuracy, or mean squared error and R².
    val_loss, val_score : float or None
        Of the held-out rows, after the epoch.
    nfev, nfev_backward : float
        Field evaluations a sample, forward and backward, a batch's mean.
    seconds : float
        Wall time.
    lr : float
        The learning rate of the last step.
    """

    epoch: int
    loss: float
    score: float
    val_loss: float | None
    val_score: float | None
    nfev: float
    nfev_backward: float
    seconds: float
    lr: float

    @property
    def rmse(self) -> float:
        """The root of `loss`: for regression, the root mean squared error in standard deviations of the target."""
        return math.sqrt(self.loss)


@dataclass
class History:
    """The course of a training, and what is needed to go on with it.

    Attributes
    ----------
    records : list of EpochRecord
        One for each epoch that was finished.
    best_epoch : int
        The epoch whose weights the model has; 0 where none was finished.
    interrupted : bool
        Whether Ctrl-C ended it.
    stopped_early : bool
        Whether it ended because nothing got better any more.
    checkpoint : Checkpoint or None
        Where Ctrl-C ended it, to go on from as if it had not; None where it came in the midst of a change.
    """

    records: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    interrupted: bool = False
    stopped_early: bool = False
    optimizer: str = ""
    optimizer_state: dict[Any, Any] = field(default_factory=dict, repr=False)
    shuffle_state: Tensor | None = field(default=None, repr=False)
    checkpoint: Checkpoint | None = field(default=None, repr=False)

    @property
    def best(self) -> EpochRecord | None:
        """The record of the best epoch."""
        return next((record for record in self.records if record.epoch == self.best_epoch), None)


@dataclass(frozen=True)
class Checkpoint:
    """A training between two of its steps: all that the steps to come depend on, apart from its rows.

    Attributes
    ----------
    records : list of EpochRecord
        One for each epoch that was finished.
    best_epoch : int
        The epoch of the best weights; 0 where none was finished.
    weights, best_weights : dict of Tensor
        Those that the next step changes, and those that are kept.
    optimizer : dict
        From a parameter's number to its momentum and the like.
    order : Tensor
        The state of the generator of orders, as the epoch under way began.
    hidden : Tensor or None
        The state of the generator of what is hidden; None before the first step of an epoch, or where nothing is.
    moments : Tensor
        Sums over the rows that the epoch has met, of a regression.
    numbers : dict
        All else that was counted, as JSON holds it.
    """

    records: list[EpochRecord]
    best_epoch: int
    weights: dict[str, Tensor]
    best_weights: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    order: Tensor
    hidden: Tensor | None
    moments: Tensor
    numbers: dict[str, Any]


def fit(
    model: FlowModel,
    task: Task,
    train: Samples,
    validation: Samples | None,
    config: TrainingConfig,
    *,
    seed: int,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_best: Callable[[int, dict[str, Tensor]], None] | None = None,
    on_step: Callable[[Callable[[], Checkpoint]], None] | None = None,
    start: History | None = None,
    resume: Checkpoint | None = None,
) -> History:
    """Train a model in place, and leave it with its best weights.

    With held-out rows, the best weights are those of the highest score on them, of the lowest loss among equals.
    Without, they are those of the last epoch that was finished. Ctrl-C ends training, not the program: the best weights
    so far are kept and the history says `interrupted`.

    Parameters
    ----------
    model : FlowModel
        Moved to the device and dtype of the configuration.
    task : {"classification", "regression"}
        Decides the loss, cross-entropy or mean squared error, and the score, accuracy or R².
    train, validation : Samples
        Rows to learn from, and rows held out to judge by, if any. Where one batch holds all rows, a row of weight 2 is
        the same as two rows.
    config : TrainingConfig
        Optimiser, schedule, batches and when to stop.
    seed : int
        Decides the order of the rows.
    on_epoch : callable, optional
        Called with each epoch's record.
    on_best : callable, optional
        Called before that with the epoch and its weights, where they are the best so far; they do not change any more.
    on_step : callable, optional
        Called at first and after each step with a function that makes a checkpoint, then or in any of the other calls.
    start : History, optional
        A training of the same model to go on with: its records, its optimiser's state, its order of the rows.
        `config.max_epochs` further epochs follow, under a schedule of their own.
    resume : Checkpoint, optional
        Where this very training was stopped: it goes on as if it had not been, to the same bits.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        When the loss, a gradient or the flow stops being finite; the model keeps the best weights before that. When
        `resume` is of another training.

    Examples
    --------
    >>> import torch
    >>> from thalweg.learn.config import ModelConfig, SolverConfig, TrainingConfig
    >>> from thalweg.learn.model import build_model
    >>> from thalweg.learn.training import Samples, fit
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> model = build_model(ModelConfig(width=8, depth=1), SolverConfig(), 1, 1, seed=0)
    >>> history = fit(model, "regression", Samples(x, x**2), None, TrainingConfig(max_epochs=5), seed=0)
    >>> len(history.records), history.records[-1].loss < history.records[0].loss
    (5, True)
    """
    if not len(train):
        raise ValueError("train must have at least one row, got none")
    dtype = getattr(torch, config.dtype)
    device = usable_device(config.device)
    model.to(device, dtype)
    train = train.to(device, dtype)
    validation = None if validation is None else validation.to(device, dtype)

    optimizer = _optimizer(model, config)
    shuffle = torch.Generator("cpu").manual_seed(seed)
    history = _begin(optimizer, shuffle, config, start)
    batch_size = choose_batch_size(len(train)) if config.batch_size == "auto" else config.batch_size
    batches = math.ceil(len(train) / batch_size)
    course = _Course(model, task, optimizer, shuffle, history, config)
    if resume is not None:
        course.restore(resume)

    try:
        if on_step is not None:
            on_step(course.checkpoint)
        if start is not None and validation is not None:
            course.keeper.begin(*evaluate(model, task, validation))
        while not course.is_over:
            model.train()
            with course.epoch(device):
                for batch in islice(_batches(train, batch_size, shuffle), course.done, None):
                    lr = _learning_rate(config, (course.epochs * batches + course.done) / (config.max_epochs * batches))
                    _step(model, task, batch, optimizer, lr, config.clip_norm, course)
                    if on_step is not None:
                        on_step(course.checkpoint)
            judged = None if validation is None else evaluate(model, task, validation)
            if judged is not None and not math.isfinite(judged[0]):
                raise _Diverged(f"the loss of held-out rows is {judged[0]:g}")
            record = course.end_epoch(judged)
            if on_best is not None and history.best_epoch == record.epoch:
                on_best(record.epoch, course.keeper.weights)
            if on_epoch is not None:
                on_epoch(record)
        history.stopped_early = course.is_stale
    except KeyboardInterrupt:
        history.interrupted = True
        history.checkpoint = course.checkpoint() if course.is_whole else None
        course.keeper.catch_up()
    except _Diverged as error:
        raise ValueError(
            f"training diverged in epoch {len(history.records) + 1}: {error}; lower learning_rate "
            f"(now {config.learning_rate:g}), or set clip_norm=1 to bound the gradient"
        ) from error.__cause__
    finally:
        course.keeper.restore()
        model.eval()
    history.optimizer_state = optimizer.state_dict()["state"]
    history.shuffle_state = shuffle.get_state()
    return history


def choose_batch_size(rows: int) -> int:
    """The number of rows in a batch where none is given: a tenth, but at least 64 and at most 256.

    Examples
    --------
    >>> [choose_batch_size(n) for n in (20, 1437, 60_000)]
    [64, 143, 256]
    """
    return min(max(rows // 10, 64), 256)


def hold_out(samples: Samples, task: Task, fraction: float, seed: int) -> tuple[Samples, Samples]:
    """Split rows at random into those to learn from and those to be judged by.

    Classes keep their shares, where each has two rows at least.

    Raises
    ------
    ValueError
        When the fraction leaves either part empty.

    Examples
    --------
    >>> import torch
    >>> samples = Samples(torch.zeros(20, 2), torch.arange(20) % 2)
    >>> [len(part) for part in hold_out(samples, "classification", 0.2, seed=0)]
    [16, 4]
    """
    count = count_held_out(len(samples), fraction)
    codes = samples.y.cpu().numpy() if task == "classification" else None
    learn, judge = split_rows(len(samples), count, codes, seed)
    return samples[torch.from_numpy(learn)], samples[torch.from_numpy(judge)]


def count_held_out(rows: int, fraction: float) -> int:
    """How many rows `hold_out` holds out.

    Raises
    ------
    ValueError
        When that leaves either part empty.

    Examples
    --------
    >>> count_held_out(120, 0.1)
    12
    """
    count = round(fraction * rows)
    if not 0 < count < rows:
        raise ValueError(
            f"validation_fraction must leave rows both to learn from and to hold out: {fraction:g} of "
            f"{rows} rows is {count}; give more rows, or another fraction"
        )
    return count


def usable_device(device: str | torch.device) -> torch.device:
    """The device of a name, if numbers can be computed on it here.

    Raises
    ------
    ValueError
        When PyTorch does not know it, or it is not there, or holds no numbers, as `meta` does.

    Examples
    --------
    >>> usable_device("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device {device!r} is none that PyTorch knows; choose 'cpu' or 'cuda'") from None
    try:
        number = torch.zeros((), device=device)
        number.item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device {str(device)!r} cannot be used here ({str(error).splitlines()[0]}); choose 'cpu'"
        ) from None
    return number.device


def split_rows(
    rows: int, count: int, codes: NDArray[Any] | None, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The numbers of the rows to learn from and of the `count` to be judged by, each in order.

    Given class codes (rows,), classes keep their shares, where each has two rows at least.

    Examples
    --------
    >>> [len(part) for part in split_rows(20, 4, None, seed=0)]
    [16, 4]
    """
    if codes is not None:
        counts = np.bincount(codes)
        counts = counts[counts > 0]
        if counts.min() < 2 or not len(counts) <= count <= rows - len(counts):
            codes = None
    learn, judge = train_test_split(np.arange(rows), test_size=count, random_state=seed, stratify=codes)
    return np.sort(learn), np.sort(judge)


@torch.no_grad()
def outputs(model: FlowModel, x: Tensor) -> Tensor:
    """Logits, or standardised targets (N, outputs), in the model's dtype and on its device.

    Examples
    --------
    >>> import torch
    >>> from thalweg.learn.config import ModelConfig, SolverConfig
    >>> from thalweg.learn.model import build_model
    >>> outputs(build_model(ModelConfig(), SolverConfig(), 3, 2, seed=0), torch.zeros(4, 3)).shape
    torch.Size([4, 2])
    """
    like = next(model.parameters())
    model.eval()
    return torch.cat([model(chunk) for chunk in x.to(like).split(_CHUNK)])


def evaluate(model: FlowModel, task: Task, samples: Samples) -> tuple[float, float]:
    """The loss and score of a model on rows: cross-entropy and accuracy, or mean squared error and R².

    Examples
    --------
    >>> import torch
    >>> from thalweg.learn.config import ModelConfig, SolverConfig
    >>> from thalweg.learn.model import build_model
    >>> model = build_model(ModelConfig(), SolverConfig(), 3, 2, seed=0)
    >>> loss, accuracy = evaluate(model, "classification", Samples(torch.zeros(4, 3), torch.ones(4).long()))
    """
    tally = _Tally(task)
    try:
        output = outputs(model, samples.x)
    except SolveError as error:
        raise _Diverged(f"held-out rows cannot be carried to the end of the flow ({error})") from error
    tally.add(output, samples, row_losses(task, output, samples.y))
    return tally.loss, tally.score


def row_losses(task: Task, output: Tensor, y: Tensor) -> Tensor:
    """The loss of each row (N,): cross-entropy, or the squared error averaged over outputs.

    Examples
    --------
    >>> import torch
    >>> row_losses("regression", torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([5.])
    """
    if task == "classification":
        return nn.functional.cross_entropy(output, y, reduction="none")
    return (output - y).square().mean(dim=1)


class _Diverged(ArithmeticError):
    """Numbers that stopped being finite; `fit` adds when, and what to do."""


def _step(
    model: FlowModel,
    task: Task,
    batch: Samples,
    optimizer: torch.optim.Optimizer,
    lr: float,
    clip_norm: float | None,
    course: _Course,
) -> None:
    """One step of the optimiser down the weighted mean loss of a batch."""
    try:
        output = model(batch.x)
    except SolveError as error:
        raise _Diverged(f"the flow could not be followed to its end ({error})") from error
    nfev = model.nfev
    losses = row_losses(task, output, batch.y)
    loss = losses.mean() if batch.weight is None else (batch.weight * losses).sum() / batch.weight.sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), math.inf if clip_norm is None else clip_norm)
    if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
        raise _Diverged(f"the loss is {loss.item():g} and its gradient's norm {norm.item():g}")
    course.is_whole = False
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    course.tally.add(output.detach(), batch, losses.detach())
    course.tally.add_cost(nfev, model.nfev_backward)
    course.end_step(lr)


def _batches(samples: Samples, size: int, shuffle: torch.Generator) -> Iterator[Samples]:
    """The rows in random order, in batches as equal as can be and no larger than `size`; as they are, if in one."""
    if size >= len(samples):
        yield samples
        return
    order = torch.randperm(len(samples), generator=shuffle, device="cpu").to(samples.x.device)
    for rows in order.tensor_split(math.ceil(len(samples) / size)):
        yield samples[rows]


def _learning_rate(config: TrainingConfig, progress: float) -> float:
    """The rate at a point from 0 to 1 of the training: constant, or half a cosine wave down to nothing."""
    if config.schedule == "constant":
        return config.learning_rate
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def _optimizer(model: FlowModel, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser; decay pulls at matrices alone, not at biases or times."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)  # one call for a step, not ten for each parameter
    if config.optimizer == "adam":
        return torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)
    nesterov = config.momentum > 0
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov, fused=fused)


def _begin(
    optimizer: torch.optim.Optimizer, shuffle: torch.Generator, config: TrainingConfig, start: History | None
) -> History:
    """A new history, or one that goes on from `start` with the momentum and the order of rows that it had."""
    if start is None:
        return History(optimizer=config.optimizer)
    if start.optimizer == config.optimizer and start.optimizer_state:
        _load_optimizer(optimizer, start.optimizer_state)
    if start.shuffle_state is not None:
        shuffle.set_state(start.shuffle_state)
    return replace(
        start,
        records=list(start.records),
        optimizer=config.optimizer,
        interrupted=False,
        stopped_early=False,
        checkpoint=None,
    )


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[Any, Any]) -> None:
    """Give an optimiser a copy of the momentum and the like of an earlier one."""
    state = {number: _copied(parts) for number, parts in state.items()}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class _Course:
    """Where a training stands; between two of its steps it is whole, and a checkpoint can be made of it."""

    NUMBERS = ("done", "lr", "seconds")  # what a checkpoint takes down of it, apart from tensors

    order: Tensor
    hidden: Tensor | None
    tally: _Tally
    done: int  # steps of the epoch under way
    lr: float
    seconds: float
    is_whole: bool

    def __init__(
        self,
        model: FlowModel,
        task: Task,
        optimizer: torch.optim.Optimizer,
        shuffle: torch.Generator,
        history: History,
        config: TrainingConfig,
    ) -> None:
        self.model, self.task, self.optimizer, self.shuffle = model, task, optimizer, shuffle
        self.history, self.config = history, config
        self.earlier = len(history.records)  # of the training that this one follows
        self.keeper = _Keeper(model, history, config)
        self.hides = [part for part in model.modules() if isinstance(part, Hide)]
        self._begin_epoch()

    @property
    def epochs(self) -> int:
        """How many were finished."""
        return len(self.history.records) - self.earlier

    @property
    def is_stale(self) -> bool:
        """Whether nothing has got better for too long."""
        return self.config.early_stopping and self.keeper.stale >= self.config.patience

    @property
    def is_over(self) -> bool:
        """Whether no epoch is to follow."""
        return self.epochs >= self.config.max_epochs or self.is_stale

    @contextmanager
    def epoch(self, device: torch.device) -> Iterator[None]:
        """Let what is hidden inside follow the order of the rows, and no random state that others draw from."""
        self.began = time.perf_counter() - self.seconds
        seed = int(torch.randint(2**62, (), generator=self.shuffle, device="cpu"))
        self.hiding = torch.Generator(device).manual_seed(seed)
        if self.hidden is not None:
            self.hiding.set_state(self.hidden)
        for part in self.hides:
            part.generator = self.hiding
        try:
            yield
        finally:
            for part in self.hides:
                part.generator = None

    def end_step(self, lr: float) -> None:
        """Count a step."""
        self.done += 1
        self.lr = lr
        self.seconds = time.perf_counter() - self.began
        if self.hides:
            self.hidden = self.hiding.get_state()
        self.is_whole = True

    def end_epoch(self, judged: tuple[float, float] | None) -> EpochRecord:
        """Enter an epoch with the loss and score of held-out rows, and begin another."""
        record = EpochRecord(
            epoch=len(self.history.records) + 1,
            loss=self.tally.loss,
            score=self.tally.score,
            val_loss=None if judged is None else judged[0],
            val_score=None if judged is None else judged[1],
            nfev=self.tally.nfev,
            nfev_backward=self.tally.nfev_backward,
            seconds=time.perf_counter() - self.began,
            lr=self.lr,
        )
        self.is_whole = False
        self.keeper.note(record)
        self._begin_epoch()
        return record

    def checkpoint(self) -> Checkpoint:
        """All of it, as it is now."""
        assert self.is_whole
        state = self.optimizer.state_dict()["state"]
        return Checkpoint(
            records=list(self.history.records),
            best_epoch=self.history.best_epoch,
            weights=_copied(self.model.state_dict()),
            best_weights=self.keeper.weights,
            optimizer={number: _copied(parts) for number, parts in state.items()},
            order=self.order,
            hidden=self.hidden,
            moments=self.tally.moments,
            numbers={name: {key: copy(vars(part)[key]) for key in part.NUMBERS} for name, part in self._parts.items()},
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stand where a checkpoint was made."""
        try:
            self.model.load_state_dict(checkpoint.weights)
            _load_optimizer(self.optimizer, checkpoint.optimizer)
            for name, part in self._parts.items():
                vars(part).update({key: copy(checkpoint.numbers[name][key]) for key in part.NUMBERS})
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"resume must be a checkpoint of this very training: {error}") from error
        self.history.records[:] = checkpoint.records
        self.history.best_epoch = checkpoint.best_epoch
        self.keeper.weights = checkpoint.best_weights
        self.tally.moments = checkpoint.moments.to(next(self.model.parameters()).device)
        self.shuffle.set_state(checkpoint.order)
        self.order, self.hidden = checkpoint.order, checkpoint.hidden

    @property
    def _parts(self) -> dict[str, Any]:
        """Who counts what."""
        return {"course": self, "keeper": self.keeper, "tally": self.tally}

    def _begin_epoch(self) -> None:
        self.order, self.hidden = self.shuffle.get_state(), None
        self.tally = _Tally(self.task)
        self.done, self.lr, self.seconds = 0, 0.0, 0.0
        self.is_whole = True


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}


class _Keeper:
    """Keeps the best weights, and counts the epochs since anything got better."""

    NUMBERS = ("best", "mark", "stale")

    def __init__(self, model: FlowModel, history: History, config: TrainingConfig) -> None:
        self.model, self.history, self.tol = model, history, config.tol
        self.best: list[float] | None = None  # score and loss, in JSON's kind of a pair
        self.mark = -math.inf
        self.stale = 0
        self._keep(history.best_epoch)

    def begin(self, loss: float, score: float) -> None:
        """Enter what the weights that a training goes on from are worth, for further ones to beat."""
        self.best = [score, -loss]
        self.mark = score

    def note(self, record: EpochRecord) -> None:
        """Enter an epoch's record, and keep its weights if they are the best."""
        self.history.records.append(record)
        if record.val_score is None or record.val_loss is None:
            self._keep(record.epoch)
        elif self.best is None or [record.val_score, -record.val_loss] > self.best:
            self.best = [record.val_score, -record.val_loss]
            self._keep(record.epoch)
        merit = -record.loss if record.val_score is None else record.val_score
        if merit > self.mark + self.tol:
            self.mark, self.stale = merit, 0
        else:
            self.stale += 1

    def catch_up(self) -> None:
        """Keep the weights of the last record, where Ctrl-C came between the two and nothing held out decides."""
        records = self.history.records
        if records and records[-1].val_score is None and self.history.best_epoch < records[-1].epoch:
            self._keep(records[-1].epoch)

    def restore(self) -> None:
        """Give the model the weights that were kept."""
        self.model.load_state_dict(self.weights)

    def _keep(self, epoch: int) -> None:
        self.weights = _copied(self.model.state_dict())
        self.history.best_epoch = epoch


class _Tally:
    """Adds up what batches say about an epoch, in double precision."""

    NUMBERS = ("weight", "total_loss", "hits", "costs")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.weight = self.total_loss = 0.0
        self.hits = 0.0
        self.moments = torch.zeros((), dtype=torch.float64, device="cpu")  # of each output: Σwe², Σwy, Σwy²
        self.costs: list[tuple[float, float]] = []

    def add(self, output: Tensor, samples: Samples, losses: Tensor) -> None:
        """Count rows, given what the model said of them and its losses."""
        weight = torch.ones_like(losses) if samples.weight is None else samples.weight
        weight = weight.double()
        self.weight += weight.sum().item()
        self.total_loss += (weight @ losses.double()).item()
        if self.task == "classification":
            self.hits += (weight @ (output.argmax(dim=1) == samples.y).double()).item()
        else:
            y, error = samples.y.double(), (output - samples.y).double()
            self.moments = self.moments + torch.stack([weight @ error.square(), weight @ y, weight @ y.square()])

    def add_cost(self, nfev: float, nfev_backward: float) -> None:
        """Count a batch's field evaluations."""
        self.costs.append((nfev, nfev_backward))

    @property
    def loss(self) -> float:
        return self.total_loss / self.weight

    @property
    def score(self) -> float:
        """Accuracy, or R² averaged over outputs (1 or 0 for a constant one, as it was met or not)."""
        if self.task == "classification":
            return self.hits / self.weight
        residual, y, y_square = self.moments
        spread = y_square - y.square() / self.weight
        constant = spread <= 1e-12 * y_square
        r2 = torch.where(constant, (residual <= 0).double(), 1 - residual / spread.where(~constant, 1.0))
        return r2.mean().item()

    @property
    def nfev(self) -> float:
        return sum(cost for cost, _ in self.costs) / len(self.costs)

    @property
    def nfev_backward(self) -> float:
        return sum(cost for _, cost in self.costs) / len(self.costs)
