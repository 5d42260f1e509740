"""The one training loop: estimators, the command and the comparison all come here.

x: (N, inputs); y: (N,) class codes, or (N, outputs) standardised targets; weight: (N,).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from ..core.status import SolveError
from ..nn import NeuralODE
from .config import TrainingConfig
from .course import Checkpoint, Course, EpochRecord, History, Tally, load_optimizer
from .datasets import Task
from .model import FlowModel

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
        When the loss, a gradient or the flow stops being finite, or what the last step leaves answers a row by no
        number; the model keeps the best weights before that. When `resume` is of another training.

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
    course = Course(model, task, optimizer, shuffle, history, config)
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
            if judged is None and course.may_end:  # no further step will find what the last one did
                _check_answers(model, train.x)
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
    return _in_chunks(model, x.to(like))


def _in_chunks(model: FlowModel, x: Tensor) -> Tensor:
    """What a model makes of rows, as many at a time as there is room for."""
    return torch.cat([model(chunk) for chunk in x.split(_CHUNK)])


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
    tally = Tally(task)
    try:
        output = outputs(model, samples.x)
    except SolveError as error:
        raise _Diverged(f"held-out rows cannot be carried to the end of the flow ({error})") from error
    tally.add(output, samples.y, samples.weight, row_losses(task, output, samples.y))
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


@torch.no_grad()
def _check_answers(model: FlowModel, x: Tensor) -> None:
    """See that a model answers rows by numbers, and neither draw at random nor change what it keeps."""
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise _Diverged("after its last step the weights are not finite")
    model.eval()
    if isinstance(model.flow, NeuralODE):  # whose field is a function; the engine has traced it as it is in training
        model.flow.train()
    try:
        sound = bool(_in_chunks(model, x).isfinite().all())
    except SolveError as error:
        raise _Diverged(f"after its last step the flow could not be followed to its end ({error})") from error
    if not sound:
        raise _Diverged("after its last step the outputs are not finite")


def _step(
    model: FlowModel,
    task: Task,
    batch: Samples,
    optimizer: torch.optim.Optimizer,
    lr: float,
    clip_norm: float | None,
    course: Course,
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
    course.tally.add(output.detach(), batch.y, batch.weight, losses.detach())
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
        load_optimizer(optimizer, start.optimizer_state)
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
