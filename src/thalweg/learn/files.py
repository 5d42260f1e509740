"""The files of a run folder: what is in each, and how they are written, read and checked.

    config.yaml                 the configuration, with everything that was chosen written out
    data.json                   where the rows came from, and what each column is
    metrics.jsonl               a line for each epoch, written as it ends
    model/model.json            what is needed to build the model
    model/weights.safetensors   its best weights so far
    checkpoint.safetensors      where training stands, until it has come to its end
    result.json                 the score on the rows that were kept apart, once training has ended
    figures/                    pictures, drawn by others

Each file but `metrics.jsonl` is written beside its place and then moved there, so that whatever ends the program leaves
the whole file or none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from textwrap import shorten
from typing import Literal, TypeVar

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .. import __version__
from ..core.files import write_whole
from .config import Config, ModelConfig, SolverConfig
from .course import Checkpoint, EpochRecord, History
from .data import Schema
from .judging import Score
from .model import FlowModel, build_model

CONFIG, DATA, METRICS, RESULT = "config.yaml", "data.json", "metrics.jsonl", "result.json"
MODEL, WEIGHTS, CHECKPOINT = "model/model.json", "model/weights.safetensors", "checkpoint.safetensors"
FIGURES = "figures"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataRecord(_Record):
    """`data.json`: where the rows came from, and what each column is."""

    source: str
    sha256: str
    rows: int
    without_target: int
    train_rows: int
    test_rows: int
    table: Schema = Field(alias="schema")


class ModelRecord(_Record):
    """`model.json`: what is needed to build the model."""

    thalweg: str
    dtype: Literal["float32", "float64"]
    n_inputs: int
    n_outputs: int
    model: ModelConfig
    solver: SolverConfig


class Result(_Record):
    """`result.json`: how training ended, and the score on the rows that were kept apart.

    Attributes
    ----------
    ended : {"finished", "stopped early", "interrupted"}
    epochs, best_epoch : int
        How many were finished, and which one's weights are kept.
    seconds : float
        What the epochs took.
    parameters : int
        How many numbers training changed.
    test : Score
        On the rows that were kept apart.
    baseline : Score
        On the same rows, of the commonest class or the mean of the training rows: what one knows without a model.
    """

    ended: Literal["finished", "stopped early", "interrupted"]
    epochs: int
    best_epoch: int
    seconds: float
    parameters: int
    test: Score
    baseline: Score


def write_records(path: Path, config: Config, data: DataRecord, schema: Schema) -> None:
    """Write all that is known before training begins."""
    (path / MODEL).parent.mkdir()
    model = ModelRecord(
        thalweg=__version__,
        dtype=config.training.dtype,
        n_inputs=schema.n_inputs,
        n_outputs=schema.n_outputs,
        model=config.model,
        solver=config.solver,
    )
    write_whole(path / CONFIG, config.to_yaml().encode())
    write_whole(path / DATA, _json(data))
    write_whole(path / MODEL, _json(model))


def write_result(path: Path, result: Result) -> None:
    """Write how training ended."""
    write_whole(path / RESULT, _json(result))


def line_of(record: EpochRecord) -> str:
    """An epoch's line of `metrics.jsonl`."""
    return json.dumps(asdict(record)) + "\n"


def write_metrics(path: Path, records: Sequence[EpochRecord]) -> None:
    """Write the lines of all epochs, whatever lines there are."""
    write_whole(path / METRICS, "".join(map(line_of, records)).encode())


def save_weights(path: Path, epoch: int, weights: Mapping[str, Tensor]) -> None:
    """Write the weights of an epoch."""
    _save_tensors(path / WEIGHTS, weights, {"epoch": str(epoch)})


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write where training stands, whose epochs are in `metrics.jsonl`."""
    tensors = {f"weights/{name}": value for name, value in checkpoint.weights.items()}
    tensors |= {f"best/{name}": value for name, value in checkpoint.best_weights.items()}
    for number, parts in checkpoint.optimizer.items():
        tensors |= {f"optimizer/{number}/{name}": value for name, value in parts.items()}
    tensors |= {"state/order": checkpoint.order, "state/moments": checkpoint.moments}
    if checkpoint.hidden is not None:
        tensors["state/hidden"] = checkpoint.hidden
    told = {"epochs": len(checkpoint.records), "best_epoch": checkpoint.best_epoch, "numbers": checkpoint.numbers}
    _save_tensors(path / CHECKPOINT, tensors, {"training": json.dumps(told)})


def read_run(path: Path) -> tuple[Config, DataRecord, FlowModel, History, Result | None]:
    """All that is in a run folder.

    Raises
    ------
    ValueError
        When it is no run folder, or lacks a file, or a file is damaged or of a newer version.
    """
    _check_records(path)
    if not (path / WEIGHTS).is_file():
        raise ValueError(
            f"run folder {path} lacks {WEIGHTS}: training was killed before its first epoch ended; "
            f"go on with it by thalweg resume {path}"
        )
    try:
        return _read_run(path)
    except ValueError as error:
        made = _version(path)
        if made is None or _numbers(made) <= _numbers(__version__):
            raise
        raise ValueError(
            f"{path} was made by thalweg {made}, which is newer than this one, {__version__}, and holds what this "
            "one does not know; upgrade with pip install --upgrade thalweg"
        ) from error


def read_stopped(path: Path) -> tuple[Config, DataRecord, Checkpoint | None]:
    """What is needed to go on with a training that was stopped; without a checkpoint, it has not begun.

    Raises
    ------
    ValueError
        When there is nothing to go on with, or another version began it, or its model was changed since, or a file is
        missing or damaged.
    """
    _check_records(path)
    anew = f"thalweg train --config {path / CONFIG}"
    made = _version(path) or _read_json(path / MODEL, ModelRecord).thalweg
    if made != __version__:
        raise ValueError(
            f"{path} was begun by thalweg {made}, and this is {__version__}, whose steps may be others; go on with it "
            f"by that version (pip install thalweg=={made}), or train anew: {anew}"
        )
    config, data = _read_config(path / CONFIG), _read_json(path / DATA, DataRecord)
    result = _read_result(path)
    if result is not None and result.ended != "interrupted":
        raise ValueError(
            f"{path} has come to its end ({result.ended} after {result.epochs} epochs): there is nothing to go on "
            f"with; a longer training is a new run: {anew} --epochs {2 * config.training.max_epochs}"
        )
    changed = _changed_in_model(config, _read_json(path / MODEL, ModelRecord))
    if changed:
        raise ValueError(
            f"{path / CONFIG} has changed, and training goes on with the model that it began with: "
            f"{', '.join(changed)}; set it back, or train anew: {anew}"
        )
    if (path / CHECKPOINT).is_file():
        return config, data, _read_checkpoint(path)
    if (path / WEIGHTS).is_file():
        raise ValueError(f"run folder {path} lacks {CHECKPOINT}; restore it from a copy, or train anew: {anew}")
    return config, data, None


def _changed_in_model(config: Config, record: ModelRecord) -> list[str]:
    """What a configuration has otherwise than the model that was built by it, each in words."""
    built = [(f"{part}.{name}", old) for part in ("model", "solver") for name, old in getattr(record, part)]
    built.append(("training.dtype", record.dtype))
    now = {key: reduce(getattr, key.split("."), config) for key, _ in built}
    return [f"{key} is {now[key]} and was {old}" for key, old in built if now[key] != old]


def _json(record: BaseModel) -> bytes:
    return record.model_dump_json(indent=1, by_alias=True).encode() + b"\n"


def _save_tensors(path: Path, tensors: Mapping[str, Tensor], told: dict[str, str]) -> None:
    """Write tensors, and one text of what they are; of two, the order would be random."""
    here = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_whole(path, safetensors.torch.save(here, metadata=told))


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, all of them finite, and what they are."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            told = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(_damaged(path, str(error))) from None
    broken = next((name for name, value in tensors.items() if not value.isfinite().all()), None)
    if broken:
        raise ValueError(_damaged(path, f"{broken} holds NaN or infinity"))
    return tensors, told


def _load_weights(model: FlowModel, path: Path) -> int:
    """Give a model the weights of a file, and say of which epoch they are."""
    weights, told = _read_tensors(path)
    try:
        model.load_state_dict(weights)
        return int(told.get("epoch", 0))
    except (RuntimeError, ValueError) as error:
        raise ValueError(_damaged(path, str(error))) from None


def _read_checkpoint(path: Path) -> Checkpoint:
    """Where training stands, by a run folder."""
    tensors, told = _read_tensors(path / CHECKPOINT)
    groups: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "optimizer": {}, "state": {}}
    optimizer: dict[int, dict[str, Tensor]] = {}
    try:
        training = json.loads(told["training"])
        for name, value in tensors.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = value
        for name, value in groups["optimizer"].items():
            number, _, part = name.partition("/")
            optimizer.setdefault(int(number), {})[part] = value
        records = _read_metrics(path / METRICS)[: training["epochs"]]
        if len(records) < training["epochs"]:
            raise ValueError(f"it is of {training['epochs']} epochs, and {METRICS} of {len(records)}")
        return Checkpoint(
            records=records,
            best_epoch=training["best_epoch"],
            weights=groups["weights"],
            best_weights=groups["best"],
            optimizer=optimizer,
            order=groups["state"]["order"],
            hidden=groups["state"].get("hidden"),
            moments=groups["state"]["moments"],
            numbers=training["numbers"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(_damaged(path / CHECKPOINT, str(error))) from None


def _check_records(path: Path) -> None:
    """See that what is known of a run before it is trained is there."""
    if not path.is_dir():
        raise ValueError(f"there is no run folder {path}; `thalweg train` makes one")
    needed = (CONFIG, DATA, MODEL)
    missing = [name for name in needed if not (path / name).is_file()]
    if len(missing) == len(needed):
        raise ValueError(f"{path} is no run folder: it holds neither {', '.join(needed[:-1])} nor {needed[-1]}")
    if missing:
        raise ValueError(f"run folder {path} lacks {', '.join(missing)}; restore it from a copy, or train again")


def _read_run(path: Path) -> tuple[Config, DataRecord, FlowModel, History, Result | None]:
    """All that is in a run folder."""
    config = _read_config(path / CONFIG)
    data = _read_json(path / DATA, DataRecord)
    record = _read_json(path / MODEL, ModelRecord)
    for size in ("n_inputs", "n_outputs"):
        made, told = getattr(record, size), getattr(data.table, size)
        if made != told:
            raise ValueError(_damaged(path / DATA, f"its columns have {size} {told}, and those of {MODEL} {made}"))
    model = build_model(record.model, record.solver, record.n_inputs, record.n_outputs, seed=0)
    model.to(getattr(torch, record.dtype))
    best_epoch = _load_weights(model, path / WEIGHTS)
    result = _read_result(path)
    history = History(
        records=_read_metrics(path / METRICS),
        best_epoch=best_epoch,
        interrupted=result is None or result.ended == "interrupted",
        stopped_early=result is not None and result.ended == "stopped early",
    )
    return config, data, model, history, result


def _version(path: Path) -> str | None:
    """The version that made a run, where it can be read."""
    try:
        return str(json.loads((path / MODEL).read_bytes())["thalweg"])
    except (ValueError, TypeError, KeyError):
        return None


def _numbers(version: str) -> list[int]:
    """A version's numbers, by which versions are in order.

    Examples
    --------
    >>> _numbers("0.10.0") > _numbers("0.9.1")
    True
    """
    return [int(number) for number in re.findall(r"\d+", version)]


_AnyRecord = TypeVar("_AnyRecord", bound=_Record)


def _read_json(path: Path, kind: type[_AnyRecord]) -> _AnyRecord:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(_damaged(path, f"{place}: {first['msg']}" if place else first["msg"])) from None


def _read_result(path: Path) -> Result | None:
    """How training ended, where it has."""
    return _read_json(path / RESULT, Result) if (path / RESULT).exists() else None


def _read_config(path: Path) -> Config:
    """The configuration, all parts of which a run writes out."""
    config = Config.load(path)
    missing = [part for part in Config.model_fields if part not in config.model_fields_set]
    if missing:
        raise ValueError(_damaged(path, f"it lacks {', '.join(missing)}"))
    return config


def _read_metrics(path: Path) -> list[EpochRecord]:
    """The epochs; a last line that was cut off does not count."""
    if not path.exists():
        return []
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
        return [EpochRecord(**json.loads(line)) for line in lines]
    except (TypeError, ValueError) as error:
        raise ValueError(_damaged(path, str(error))) from None


def _damaged(path: Path, reason: str) -> str:
    return f"{path} is damaged ({shorten(reason, 160)}); restore it from a copy, or train again"
