"""Where a training stands: its epochs, its best weights, what an epoch has come to, and a checkpoint of it all."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .config import TrainingConfig
from .datasets import Task
from .model import FlowModel, Hide


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


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[Any, Any]) -> None:
    """Give an optimiser a copy of the momentum and the like of an earlier one."""
    state = {number: _copied(parts) for number, parts in state.items()}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class Course:
    """Where a training stands; between two of its steps it is whole, and a checkpoint can be made of it."""

    NUMBERS = ("done", "lr", "seconds")  # what a checkpoint takes down of it, apart from tensors

    order: Tensor
    hidden: Tensor | None
    tally: Tally
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
        self.keeper = Keeper(model, history, config)
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

    @property
    def may_end(self) -> bool:
        """Whether the epoch under way may be the last."""
        losing = self.config.early_stopping and self.keeper.stale + 1 >= self.config.patience
        return self.epochs + 1 >= self.config.max_epochs or losing

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
            load_optimizer(self.optimizer, checkpoint.optimizer)
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
        self.tally = Tally(self.task)
        self.done, self.lr, self.seconds = 0, 0.0, 0.0
        self.is_whole = True


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}


class Keeper:
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


class Tally:
    """Adds up what batches say about an epoch, in double precision."""

    NUMBERS = ("weight", "total_loss", "hits", "costs")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.weight = self.total_loss = 0.0
        self.hits = 0.0
        self.moments = torch.zeros((), dtype=torch.float64, device="cpu")  # of each output: Σwe², Σwy, Σwy²
        self.costs: list[tuple[float, float]] = []

    def add(self, output: Tensor, y: Tensor, weight: Tensor | None, losses: Tensor) -> None:
        """Count rows with their answers and weights, given what the model said of them and its losses."""
        weight = (torch.ones_like(losses) if weight is None else weight).double()
        self.weight += weight.sum().item()
        self.total_loss += (weight @ losses.double()).item()
        if self.task == "classification":
            self.hits += (weight @ (output.argmax(dim=1) == y).double()).item()
        else:
            y, error = y.double(), (output - y).double()
            self.moments = self.moments + torch.stack([weight @ error.square(), weight @ y, weight @ y.square()])

    def add_cost(self, nfev: float, nfev_backward: float) -> None:
        """Count a batch's field evaluations."""
        self.costs.append((nfev, nfev_backward))

    @property
    def loss(self) -> float:
        """The mean loss of a row."""
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
        """Field evaluations a sample, forward, a batch's mean."""
        return sum(cost for cost, _ in self.costs) / len(self.costs)

    @property
    def nfev_backward(self) -> float:
        """The same of the way back."""
        return sum(cost for _, cost in self.costs) / len(self.costs)
