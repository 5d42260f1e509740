"""A run: one training, and the folder that keeps it; `files` says what is in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from .arrays import has_rows_apart, is_array
from .columns import CategoryColumn
from .config import ClassWeight, Config
from .course import Checkpoint, EpochRecord, History
from .data import Schema, Target, drop_missing_targets
from .datasets import BUNDLED, Task
from .files import (
    CHECKPOINT,
    FIGURES,
    DataRecord,
    Result,
    read_run,
    read_stopped,
    write_records,
    write_result,
)
from .images import OnImage
from .journal import Journal, NewFolder
from .judging import Score, judge, judge_guess
from .model import FlowModel, build_model, choose_dropout, choose_state_dim
from .tables import Decimal, Table, check_target, load_table, read_rows, source_sha256
from .training import (
    Samples,
    choose_batch_size,
    count_held_out,
    fit,
    hold_out,
    outputs,
    split_rows,
    usable_device,
)
from .values import like
from .weights import with_class_weights


@dataclass(frozen=True)
class Prepared:
    """Rows that are ready: those to learn from, and those that are kept apart to judge by."""

    table: Table
    frame: pd.DataFrame
    schema: Schema
    train: Samples
    test: Samples

    @property
    def task(self) -> Task:
        """What is asked of the model."""
        return self.schema.target.task

    @property
    def without_target(self) -> int:
        """The number of rows that were dropped, as they lack a target."""
        return len(self.table.frame) - len(self.frame)


@dataclass(frozen=True)
class Run:
    """A trained model with all that is known of its training.

    Attributes
    ----------
    path : Path
        The run folder.
    config : Config
        With everything that was chosen written out.
    data : DataRecord
        Where the rows came from.
    model : FlowModel
        With its best weights.
    history : History
        The epochs.
    result : Result or None
        None where training was killed before its end.

    Examples
    --------
    >>> import tempfile
    >>> from thalweg.learn.config import Config
    >>> from thalweg.learn.runs import Run, train_run
    >>> config = Config().with_overrides(["data.source=iris", "training.max_epochs=2"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trained = train_run(config, f"{folder}/first")
    ...     run = Run.load(f"{folder}/first")
    >>> run.task, run.result.epochs, run.result.test.rows
    ('classification', 2, 30)
    >>> run.predict(run.frame()).columns.tolist()
    ['prediction', 'p(setosa)', 'p(versicolor)', 'p(virginica)']
    """

    path: Path
    config: Config
    data: DataRecord
    model: FlowModel
    history: History
    result: Result | None

    @classmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Run:
        """Read a run folder.

        Parameters
        ----------
        path : str or Path
            The folder.
        device, dtype : optional
            Where the model goes, and in which precision; by default the CPU, and that of the training.

        Raises
        ------
        ValueError
            When it is no run folder, or lacks a file, or a file is damaged or of a newer version.
        """
        path = Path(path)
        config, data, model, history, result = read_run(path)
        model.to(usable_device(device), dtype).eval()
        return cls(path, config, data, model, history, result)

    @property
    def figures(self) -> Path:
        """Where pictures go."""
        return self.path / FIGURES

    @property
    def schema(self) -> Schema:
        """What each column is."""
        return self.data.table

    @property
    def target(self) -> Target:
        """What is predicted."""
        return self.schema.target

    @property
    def task(self) -> Task:
        """What is asked of the model."""
        return self.target.task

    def untrained(self) -> FlowModel:
        """The model as it was before training, with the first weights, which the seed decides."""
        sizes = self.schema.n_inputs, self.schema.n_outputs
        like = next(self.model.parameters())
        return build_model(self.config.model, self.config.solver, *sizes, self.config.seed).to(like).eval()

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Predict rows, whose columns may come in any order and with others between.

        Parameters
        ----------
        frame : DataFrame
            The columns that the model was trained with. A value that was missing in training too is no obstacle, and a
            category that training did not see counts as none of those it saw (see `unseen`).

        Returns
        -------
        DataFrame
            A row for each, with the same index: `prediction` and, for classes, the probability `p(…)` of each.

        Raises
        ------
        ValueError
            When a column is missing, or holds what it did not hold in training.
        """
        answer = outputs(self.model, torch.from_numpy(self.schema.features(frame))).double().cpu()
        columns = {"prediction": pd.Series(list(self.target.decode(answer.numpy())), index=frame.index)}
        if self.task == "classification":
            probabilities = answer.softmax(dim=1).numpy()
            for label, column in zip(self.target.classes, probabilities.T, strict=True):
                columns[f"p({label})"] = pd.Series(column, index=frame.index)
        return pd.DataFrame(columns)

    def named(self, answers: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
        """What `predict` answered to rows, after the columns that tell them apart, such as an id, where there are any.

        They are those that training left out as identifiers. New rows need not have them.
        """
        names = self.schema.identifiers(frame)
        return pd.concat([names.loc[:, ~names.columns.isin(answers.columns)], answers], axis=1)

    def score(self, frame: pd.DataFrame) -> Score:
        """How well the model predicts the rows that have a target.

        Raises
        ------
        ValueError
            When no row has one, or a target is none of the classes.
        """
        return judge(self.model, self.target, self.samples(frame))

    def learnt_from(self, source: str) -> bool:
        """Whether a source holds the very rows that the run was made from, so that a score on them flatters."""
        if _is_bundled(source):
            return source == self.data.source
        if not Path(source).is_file() and not Path(source).is_dir():  # a pipe, which has been read
            return False
        if is_array(Path(source)) and has_rows_apart(Path(source)):
            return False
        return source_sha256(source, self.schema.images, **self._written) == self.data.sha256

    def unseen(self, frame: pd.DataFrame) -> dict[str, list[str]]:
        """For each column of categories, the values that training did not see, where there are any."""
        columns = [c for c in self.schema.columns if isinstance(c, CategoryColumn) and c.name in frame.columns]
        found = {column.name: column.unseen(frame[column.name]) for column in columns}
        return {name: values for name, values in found.items() if values}

    def rows(self, source: str, on_image: OnImage | None = None) -> pd.DataFrame:
        """Read rows to predict, with or without their target.

        They come from a CSV or Parquet file, arrays of NumPy's, or a bundled data set by its name, or from an image or
        a folder of images, which then name the rows. Numbers that could have a decimal point or a comma have what they
        had where the run was made from, and images become the pixels that they did there; `on_image` is that of
        `read_images`.

        Raises
        ------
        ValueError
            When there is no such file, or it is empty or no table, or images cannot be read.
        """
        if _is_bundled(source):
            return load_table(source, None, self.config.data.data_dir).frame
        columns = [column.name for column in self.schema.columns]
        classes = [str(label) for label in self.target.classes]
        return read_rows(
            source,
            self.schema.images,
            columns,
            self.target.name,
            classes,
            as_written=self.schema.identifier_names,
            on_image=on_image,
            **self._written,
        )

    def samples(self, frame: pd.DataFrame) -> Samples:
        """What the model takes and should answer, for the rows that have a target."""
        absent = self.target.lacking(frame)
        if absent.all():
            raise ValueError(f"target {self.target.name!r} has no values")
        return _samples(self.schema, frame.loc[~absent])

    def frame(
        self, source: str | None = None, *, data_dir: str | None = None, on_image: OnImage | None = None
    ) -> pd.DataFrame:
        """The rows that the run was made from, or those of another source.

        Raises
        ------
        ValueError
            When they cannot be found, or are not what they were.
        """
        if source is not None:
            bundled = _is_bundled(source)
            frame = load_table(source, None, data_dir).frame if bundled else self.rows(source, on_image)
            if self.schema.images is not None and self.target.name not in frame:
                raise ValueError(
                    f"{source} does not say what its images are, as folders named as the classes would, or a column "
                    f"{self.target.name!r} of a table that names images"
                )
            check_target(frame, self.target.name)
            return frame
        return _same_table(self.path, self.config, self.data, on_image=on_image).frame

    @property
    def _written(self) -> dict[str, Any]:
        """How numbers are written, as was asked for and as was found."""
        return {"decimal": self.config.data.decimal, "likely": self.schema.decimal}


def train_run(
    config: Config,
    out: str | Path | None = None,
    *,
    data: Prepared | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> Run:
    """Train a model, and keep everything in a run folder.

    Parameters
    ----------
    config : Config
        What to learn from, what, and how.
    out : str or Path, optional
        The folder, which must not exist; by default `runs/<data>-<number>` with the first number that is free.
    data : Prepared, optional
        What `prepare(config)` returned, if it was called before.
    on_epoch : callable, optional
        Called with each epoch's record.

    Returns
    -------
    Run
        Trained to its end or, by Ctrl-C, to the last epoch that was finished.

    Raises
    ------
    ValueError
        When the rows cannot be learnt from, training diverges, or `out` exists. The folder is left where an epoch was
        finished: it holds the best weights up to there.
    """
    usable_device(config.training.device)
    data = prepare(config) if data is None else data
    config = _written_out(config, data)
    record = _describe(config, data)
    with NewFolder(out, config.data.source) as path:
        write_records(path, config, record, data.schema)
        return _train(path, config, record, data, None, on_epoch)


@dataclass(frozen=True)
class Stopped:
    """A run whose training was stopped, and what is needed to go on with it.

    Attributes
    ----------
    path : Path
        The run folder.
    config : Config
        With everything that was chosen written out.
    record : DataRecord
        Where the rows came from.
    data : Prepared
        These rows.
    checkpoint : Checkpoint or None
        Where training stands; None where it was killed before it began.
    """

    path: Path
    config: Config
    record: DataRecord
    data: Prepared
    checkpoint: Checkpoint | None

    @property
    def epochs(self) -> int:
        """How many were finished."""
        return 0 if self.checkpoint is None else len(self.checkpoint.records)


def find_stopped(
    path: str | Path,
    *,
    source: str | None = None,
    data_dir: str | None = None,
    on_image: OnImage | None = None,
) -> Stopped:
    """Read what is needed to go on with a training that was stopped, by Ctrl-C or by whatever killed it.

    Parameters
    ----------
    path : str or Path
        The run folder.
    source, data_dir : str, optional
        Where its rows are now, if not where they were.
    on_image : callable, optional
        That of `read_images`.

    Raises
    ------
    ValueError
        When it is no run folder, or has come to its end; when another version began it; when its rows are not there or
        have changed; when its configuration has changed in what the model is; when a file is missing or damaged.
    """
    path = Path(path)
    config, record, checkpoint = read_stopped(path)
    data = prepare(config, _same_table(path, config, record, source, data_dir, on_image))
    words: Any = {"table": {"target": {"reason"}}}  # which are others where all is written out
    if _describe(config, data).model_dump(exclude=words) != record.model_dump(exclude=words):
        raise ValueError(
            f"the rows of {path} are where they were, but are taken otherwise: its config.yaml has changed, or another "
            "version of pandas or scikit-learn reads them; set it back, or train anew"
        )
    return Stopped(path, config, record, data, checkpoint)


def resume_run(stopped: Stopped, *, on_epoch: Callable[[EpochRecord], None] | None = None) -> Run:
    """Go on with a training as if it had not been stopped: weights and epochs are the same, to the last bit.

    So they are on the same machine, with as many threads and the same versions of all that computes.

    Parameters
    ----------
    stopped : Stopped
        What `find_stopped` returned.
    on_epoch : callable, optional
        Called with each further epoch's record.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        When training diverges, or another process is training in the same folder.

    Examples
    --------
    >>> import tempfile
    >>> from thalweg.learn.config import Config
    >>> from thalweg.learn.runs import find_stopped, resume_run, train_run
    >>> def stop(record):
    ...     raise KeyboardInterrupt
    >>> config = Config().with_overrides(["data.source=iris", "training.max_epochs=3"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stopped = train_run(config, f"{folder}/run", on_epoch=stop)
    ...     run = resume_run(find_stopped(stopped.path))
    >>> stopped.result.ended, stopped.result.epochs, run.result.ended, run.result.epochs
    ('interrupted', 1, 'finished', 3)
    """
    return _train(stopped.path, stopped.config, stopped.record, stopped.data, stopped.checkpoint, on_epoch)


def _train(
    path: Path,
    config: Config,
    record: DataRecord,
    data: Prepared,
    checkpoint: Checkpoint | None,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> Run:
    """Train in a folder that has its records, and keep there what comes of it."""
    device = usable_device(config.training.device)
    task, seed = data.task, config.seed
    train, validation = data.train, None
    if config.training.validation_fraction:
        train, validation = hold_out(train, task, config.training.validation_fraction, seed)
    model = build_model(config.model, config.solver, data.schema.n_inputs, data.schema.n_outputs, seed).to(device)
    with Journal(path, checkpoint, on_epoch) as journal:
        history = fit(
            model,
            task,
            train,
            validation,
            config.training,
            seed=seed,
            on_epoch=journal.note_epoch,
            on_best=journal.note_best,
            on_step=journal.note_step,
            resume=checkpoint,
        )
        journal.end(model, history)
    result = _result(model, data, history)
    write_result(path, result)
    if not history.interrupted:
        (path / CHECKPOINT).unlink(missing_ok=True)
    return Run(path, config, record, model, history, result)


def read_table(config: Config, *, likely: Decimal | None = None, on_image: OnImage | None = None) -> Table:
    """Read the rows of a configuration; the other arguments, and errors, are those of `load_table`."""
    _check_names(config)
    data = config.data
    return load_table(
        data.source,
        data.target,
        data.data_dir,
        decimal=data.decimal,
        likely=likely,
        image_size=data.image_size,
        image_colour=data.image_colour,
        on_image=on_image,
    )


def prepare(config: Config, table: Table | None = None) -> Prepared:
    """Read the rows of a configuration, find out what each column is, and keep some rows apart.

    The rows kept apart are chosen by `seed`, with the classes in their shares. Means and the like are taken from the
    other rows alone. `table` is what `read_table(config)` returned, if it was called before.

    Raises
    ------
    ValueError
        When the rows cannot be learnt from.

    Examples
    --------
    >>> from thalweg.learn.config import Config
    >>> from thalweg.learn.runs import prepare
    >>> data = prepare(Config().with_overrides(["data.source=wine", "data.test_size=0.5"]))
    >>> data.task, len(data.train), len(data.test)
    ('classification', 89, 89)
    """
    table = read_table(config) if table is None else table
    frame, _ = drop_missing_targets(table.frame, table.target)
    task = config.data.task or table.task
    target = Target.learn(frame[table.target], task)
    codes = target.encode(frame[table.target]) if target.task == "classification" else None
    count = min(max(round(config.data.test_size * len(frame)), 1), len(frame) - 1)
    if config.training.validation_fraction:
        count_held_out(len(frame) - count, config.training.validation_fraction)
    learn, apart = split_rows(len(frame), count, codes, config.seed)
    schema = Schema.learn(frame, table.target, task, rows=learn, decimal=table.decimal, images=table.images)
    samples = _samples(schema, frame)
    train, test = samples[torch.from_numpy(learn)], samples[torch.from_numpy(apart)]
    return Prepared(table, frame, schema, _weighted(train, schema.target, config.training.class_weight), test)


def _weighted(samples: Samples, target: Target, class_weight: ClassWeight) -> Samples:
    """Rows that count as their classes do."""
    if class_weight is None:
        return samples
    if target.task == "regression":
        raise ValueError(f"class_weight is for classes, and {target.name!r} is predicted as a number; leave it out")
    if isinstance(class_weight, dict):  # by words, which may be written otherwise than the classes are
        spelt = like(pd.Series(list(class_weight), dtype=object), [str(label) for label in target.classes])
        twice = next((label for label in spelt if spelt.count(label) > 1), None)
        if twice is not None:
            raise ValueError(f"class_weight must name each class once, got {twice!r} twice; leave one of them out")
        class_weight = dict(zip(spelt, class_weight.values(), strict=True))
    weight = with_class_weights(class_weight, [str(label) for label in target.classes], samples.y.numpy(), None)
    assert weight is not None
    return replace(samples, weight=torch.from_numpy(weight))[torch.from_numpy(weight > 0)]


def _samples(schema: Schema, frame: pd.DataFrame) -> Samples:
    """What a model takes and should answer; every row has a target."""
    y = schema.target.encode(frame[schema.target.name])
    return Samples(torch.from_numpy(schema.features(frame)), torch.from_numpy(y))


def _result(model: FlowModel, data: Prepared, history: History) -> Result:
    target = data.schema.target
    ended: Any = "interrupted" if history.interrupted else "stopped early" if history.stopped_early else "finished"
    return Result(
        ended=ended,
        epochs=len(history.records),
        best_epoch=history.best_epoch,
        seconds=sum(record.seconds for record in history.records),
        parameters=model.n_parameters,
        test=judge(model, target, data.test),
        baseline=judge_guess(target, data.train.y.numpy(), data.test.y.numpy()),
    )


def _same_table(
    path: Path,
    config: Config,
    record: DataRecord,
    source: str | None = None,
    data_dir: str | None = None,
    on_image: OnImage | None = None,
) -> Table:
    """The very table that a run was made from, where it was or elsewhere.

    Raises
    ------
    ValueError
        When it cannot be found, or is not what it was.
    """
    place, folder = source or record.source, data_dir or config.data.data_dir
    there = {"source": place, "target": record.table.target.name, "data_dir": folder}
    asked = config.model_copy(update={"data": config.data.model_copy(update=there)})
    try:
        table = read_table(asked, likely=record.table.decimal, on_image=on_image)
    except (ValueError, OSError) as error:
        raise ValueError(f"the rows of {path} are not where they were: {error}; say where, with --data") from None
    if table.sha256 != record.sha256:
        raise ValueError(
            f"{place} has changed since {path} was trained "
            f"(its sha256 was {record.sha256[:12]}…, now {table.sha256[:12]}…); "
            "give them as they were with --data"
        )
    return table


def _written_out(config: Config, data: Prepared) -> Config:
    """The configuration with everything that was left to be chosen."""
    n_inputs, model, training = data.schema.n_inputs, config.model, config.training
    source = config.data.source
    if not _is_bundled(source):
        source = str(Path(source).resolve())
    state_dim = choose_state_dim(n_inputs, model.encoder) if model.state_dim is None else model.state_dim
    dropout = choose_dropout(n_inputs) if model.dropout is None else model.dropout
    batch_size = choose_batch_size(len(data.train)) if training.batch_size == "auto" else training.batch_size
    folder = config.data.data_dir
    chosen: dict[str, Any] = {
        "source": source,
        "target": data.schema.target.name,
        "task": data.task,
        "data_dir": None if folder is None else str(Path(folder).resolve()),
    }
    if data.schema.images is not None:
        seen = data.schema.images
        chosen |= {"image_size": [seen.height, seen.width], "image_colour": seen.colour}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=chosen),
            "model": model.model_copy(update={"state_dim": state_dim, "dropout": dropout}),
            "training": training.model_copy(update={"batch_size": batch_size}),
        }
    )


def _is_bundled(source: str) -> bool:
    return source in BUNDLED and not Path(source).is_file()


def _check_names(config: Config) -> None:
    """See that the files of a run, which are UTF-8, can say where its rows came from."""
    for name in (config.data.source, config.data.data_dir):
        path = "" if name is None or _is_bundled(name) else str(Path(name).resolve())
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"the name {path!r} is no UTF-8, as the names in the files of a run must be; rename it"
            ) from None


def _describe(config: Config, data: Prepared) -> DataRecord:
    return DataRecord(
        source=config.data.source,
        sha256=data.table.sha256,
        rows=len(data.table.frame),
        without_target=data.without_target,
        train_rows=len(data.train),
        test_rows=len(data.test),
        schema=data.schema,
    )
