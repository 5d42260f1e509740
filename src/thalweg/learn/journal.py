"""The folder of a run while it is trained: made, held against others, and written into as training goes."""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from .course import Checkpoint, EpochRecord, History
from .files import CONFIG, METRICS, RESULT, WEIGHTS, line_of, save_checkpoint, save_weights, write_metrics
from .model import FlowModel

_SAVE_EVERY = 1.0  # seconds between two savings, at least: a kill loses no more
_REST = 50.0  # and as many times as long as the last one took, where that is longer


def check_free(out: str | Path) -> None:
    """See that a run folder can be made there.

    Raises
    ------
    ValueError
        When something is there already.
    """
    if os.path.lexists(out):
        raise ValueError(
            f"{out} exists already, and a run is never written over another; "
            "give the name of a new folder with --out (out=), or leave it out"
        )


class NewFolder:
    """A run's folder, which no other run then can make; where nothing is learnt, it is taken away again."""

    def __init__(self, out: str | Path | None, source: str) -> None:
        self.places = _numbered(source) if out is None else iter([Path(out)])
        if out is not None:
            check_free(out)

    def __enter__(self) -> Path:
        for path in self.places:
            self.path = path
            try:
                path.mkdir(parents=True)
                return path
            except FileExistsError as error:
                taken = error
            except BaseException:  # as Ctrl-C is, which may come when it has just been made
                with suppress(OSError):
                    path.rmdir()
                raise
        raise taken

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if not (self.path / WEIGHTS).exists():
            shutil.rmtree(self.path, ignore_errors=True)


class Journal:
    """Writes down what training says as it goes: every epoch, and now and then where it stands and the best weights.

    Now and then is about once a second, but no more than a fiftieth of the time. A training that fails leaves what it
    learnt.
    """

    def __init__(
        self, path: Path, checkpoint: Checkpoint | None, on_epoch: Callable[[EpochRecord], None] | None
    ) -> None:
        self.path, self.checkpoint, self.on_epoch = path, checkpoint, on_epoch
        self.unsaved: tuple[int, Mapping[str, Tensor]] | None = None
        self.take: Callable[[], Checkpoint] | None = None
        self.due = -math.inf

    def __enter__(self) -> Journal:
        self.claim = _claim(self.path)
        self.metrics = (self.path / METRICS).open("a", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        with suppress(OSError) if error else nullcontext():  # of a full disk, the first word is enough
            self._save_best()
            self.metrics.close()
        self.claim.close()
        if isinstance(error, ValueError) and (self.path / WEIGHTS).exists():
            raise ValueError(f"{error} (what was learnt before is in {self.path})") from error

    def note_best(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Remember the best weights until they are saved."""
        self.unsaved = epoch, weights

    def note_step(self, take: Callable[[], Checkpoint]) -> None:
        """Save where training stands, if it is time."""
        if self.take is None:
            self._begin()
        self.take = take
        if time.monotonic() >= self.due:
            self._save()

    def note_epoch(self, record: EpochRecord) -> None:
        """Write the epoch's line, and save the rest if it is time, or the first time."""
        try:
            self.metrics.write(line_of(record))
            self.metrics.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.metrics.name) from error
        if time.monotonic() >= self.due or not (self.path / WEIGHTS).exists():
            self._save()
        if self.on_epoch is not None:
            self.on_epoch(record)

    def end(self, model: FlowModel, history: History) -> None:
        """Save what there is at the end."""
        self.note_best(history.best_epoch, model.state_dict())
        self.metrics.close()
        if history.interrupted:  # perhaps between an epoch and its line
            write_metrics(self.path, history.records)
        if history.checkpoint is not None:
            save_checkpoint(self.path, history.checkpoint)

    def _begin(self) -> None:
        """Take back what was told of an end, and of epochs that are computed again."""
        begun = self.checkpoint
        if begun is not None and begun.best_epoch:
            self.note_best(begun.best_epoch, begun.best_weights)
        (self.path / RESULT).unlink(missing_ok=True)
        self.metrics.close()
        write_metrics(self.path, [] if begun is None else begun.records)
        self.metrics = (self.path / METRICS).open("a", encoding="utf-8")

    def _save(self) -> None:
        assert self.take is not None
        began = time.monotonic()
        os.fsync(self.metrics.fileno())  # epochs that a checkpoint counts shall be there
        save_checkpoint(self.path, self.take())
        self._save_best()
        ended = time.monotonic()
        self.due = ended + max(_SAVE_EVERY, _REST * (ended - began))

    def _save_best(self) -> None:
        if self.unsaved is not None:
            save_weights(self.path, *self.unsaved)
            self.unsaved = None


def _claim(path: Path) -> IO[bytes]:
    """Hold a run folder while training goes on, against another process; whatever ends this one lets go.

    Raises
    ------
    ValueError
        When another one holds it.
    """
    file = (path / CONFIG).open("rb")
    try:
        import fcntl
    except ImportError:  # on Windows
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(f"{path} is being trained by another process; end it, or wait until it has ended") from None
    except OSError:  # of a disk elsewhere that knows no locks
        pass
    return file


def _numbered(source: str) -> Iterator[Path]:
    """The folders that a run may have where no other is named."""
    stem = Path(re.sub(r"\.(gz|bz2|xz|zip)$", "", source)).stem
    name = re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "run"
    runs = Path("runs")
    try:
        runs.mkdir(exist_ok=True)
    except FileExistsError:
        raise ValueError(
            f"{runs.absolute()} is no folder that runs can go into, but a file, or a link to nothing; "
            "move it away, or name another place with --out (out=)"
        ) from None
    for number in count(1):
        yield runs / f"{name}-{number}"
