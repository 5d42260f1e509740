"""The comparison: the neural ODE beside its discrete twin, the same without a flow, and what everybody knows.

All contenders see the same rows: for each seed the same split and the same features. Each runs in a process of its own,
so that its memory is its own; one epoch beforehand loads what is loaded but once.
"""

from __future__ import annotations

import multiprocessing
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.validation import has_fit_parameter

from .config import Config
from .model import FlowModel, build_model
from .runs import Prepared, prepare, read_table
from .tables import Table
from .training import evaluate, fit, hold_out, usable_device

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

Kind = Literal["ode", "resnet", "none", "mlp", "linear"]


@dataclass(frozen=True)
class Contender:
    """A way to learn from the rows.

    Attributes
    ----------
    kind : {"ode", "resnet", "none", "mlp", "linear"}
        The first three are values of `model.flow`; the others are scikit-learn's.
    name, summary : str
        In words.
    """

    kind: Kind
    name: str
    summary: str


CONTENDERS = (
    Contender("ode", "neural ODE", "encoder, flow, decoder"),
    Contender("resnet", "ResNet", "the same encoder, field's width and decoder, with residual blocks for a flow"),
    Contender("none", "no flow", "the same encoder and decoder with nothing between"),
    Contender("mlp", "MLP (sklearn)", "scikit-learn's MLPClassifier or MLPRegressor at its defaults"),
    Contender("linear", "linear (sklearn)", "scikit-learn's LogisticRegression or LinearRegression"),
)
"""All that are compared, in the order in which they are shown."""


@dataclass(frozen=True)
class Trial:
    """What one contender made of one split.

    Attributes
    ----------
    score : float
        Accuracy, or R², on the rows that were kept apart.
    rmse : float or None
        For regression, the root mean squared error in the target's unit.
    parameters : int
        How many numbers were learnt.
    nfev : float
        Field evaluations a sample in a forward pass, the last epoch's mean; 0 where there is no field.
    seconds : float
        What training took.
    """

    score: float
    rmse: float | None
    parameters: int
    nfev: float
    seconds: float


@dataclass(frozen=True)
class Standing:
    """What one contender made of all splits.

    Attributes
    ----------
    trials : tuple of Trial
        One for each seed.
    peak_memory : int or None
        The most bytes that training held beyond what the process held before; None where the system does not say.
    failure : str or None
        Why there are no trials, where training failed.
    """

    contender: Contender
    trials: tuple[Trial, ...]
    peak_memory: int | None
    failure: str | None = None

    def mean(self, of: str) -> float:
        """The mean of one of a trial's numbers over the seeds."""
        return statistics.fmean(getattr(trial, of) for trial in self.trials)

    def spread(self, of: str) -> float:
        """Its standard deviation over the seeds, 0 for one seed."""
        return statistics.stdev(getattr(trial, of) for trial in self.trials) if len(self.trials) > 1 else 0.0


def compare(
    config: Config,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    *,
    contenders: Sequence[Contender] = CONTENDERS,
    on_trial: Callable[[Contender, int, Trial], None] | None = None,
    table: Table | None = None,
) -> list[Standing]:
    """Let contenders learn from the same rows.

    Each is started as a process of its own, so a script that calls this guards its own code by
    `if __name__ == "__main__":`, as for all of `multiprocessing`.

    Parameters
    ----------
    config : Config
        What to learn from, and how; a contender changes `model.flow`, a seed changes `seed`.
    seeds : sequence of int
        Each gives a split, and initial weights.
    contenders : sequence of Contender
        Who takes part.
    on_trial : callable, optional
        Called with the contender, the seed and the trial as each ends.
    table : Table, optional
        What `read_table(config)` returned, if it was called before.

    Returns
    -------
    list of Standing
        In the order of the contenders. One that fails, as by divergence, has no trials and says why.

    Raises
    ------
    ValueError
        When the rows cannot be learnt from.

    Examples
    --------
    >>> from thalweg.learn.compare import CONTENDERS, compare
    >>> from thalweg.learn.config import Config
    >>> config = Config().with_overrides(["data.source=iris", "training.max_epochs=2"])
    >>> linear = compare(config, seeds=[0, 1], contenders=CONTENDERS[-1:])[0]
    >>> linear.contender.name, len(linear.trials), linear.mean("score") > 0.9
    ('linear (sklearn)', 2, True)
    """
    if not len(seeds):
        raise ValueError("seeds must hold at least one seed, got none")
    # what no contender could be trained with is refused here, once
    usable_device(config.training.device)
    table = read_table(config) if table is None else table
    prepare(config, table)
    return [_in_a_process(contender, config, seeds, table, on_trial) for contender in contenders]


def _in_a_process(
    contender: Contender,
    config: Config,
    seeds: Sequence[int],
    table: Table,
    on_trial: Callable[[Contender, int, Trial], None] | None,
) -> Standing:
    """Run a contender's trials, and listen to what it says of them."""
    context = _context()
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_contend, args=(contender.kind, config, list(seeds), table, there), daemon=True)
    process.start()
    there.close()
    trials: list[Trial] = []
    try:
        for seed in seeds:
            said = here.recv()
            if isinstance(said, str):
                return Standing(contender, (), None, said)
            trials.append(said)
            if on_trial is not None:
                on_trial(contender, seed, said)
        return Standing(contender, tuple(trials), here.recv())
    except EOFError:
        process.join()
        return Standing(contender, (), None, f"its process ended with code {process.exitcode}, perhaps out of memory")
    finally:
        process.terminate()  # where all was said, it has ended already
        process.join()


def _context() -> ForkServerContext | SpawnContext:
    """Where contenders' processes start from: on Linux one that has imported all and run nothing, as Python does."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # which the first optimizer of PyTorch imports
    return context


def _contend(kind: Kind, config: Config, seeds: list[int], table: Table, connection: Connection) -> None:
    """Send a trial for each seed, then the peak of memory; or, instead, a sentence that says what failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's, who then ends this process
    run = _TRIALS[kind]
    peaks: list[int | None] = []
    with suppress(BrokenPipeError):
        try:
            for seed in seeds:
                config = config.model_copy(update={"seed": seed})
                data = prepare(config, table)
                if seed == seeds[0]:
                    run(config.with_overrides(["training.max_epochs=1"]), data)
                before = _restart_peak()
                trial = run(config, data)
                peaks.append(None if before is None else max(0, (_peak() or 0) - before))
                connection.send(trial)
            connection.send(max((p for p in peaks if p is not None), default=None))
        except MemoryError:
            connection.send("there was not enough memory")
        except (ValueError, ArithmeticError, RuntimeError) as error:
            connection.send(" ".join(str(error).split()) or type(error).__name__)
    connection.close()


def _flow_trial(flow: Literal["ode", "resnet", "none"]) -> Callable[[Config, Prepared], Trial]:
    def run(config: Config, data: Prepared) -> Trial:
        began = time.perf_counter()
        shape = config.model.model_copy(update={"flow": flow})
        model: FlowModel = build_model(shape, config.solver, data.schema.n_inputs, data.schema.n_outputs, config.seed)
        train, validation = data.train, None
        if config.training.validation_fraction:
            train, validation = hold_out(train, data.task, config.training.validation_fraction, config.seed)
        history = fit(model, data.task, train, validation, config.training, seed=config.seed)
        seconds = time.perf_counter() - began
        like = next(model.parameters())
        loss, score = evaluate(model, data.task, data.test.to(like.device, like.dtype))
        nfev = history.records[-1].nfev if history.records else 0.0
        return Trial(score, _rmse(data, loss), model.n_parameters, nfev, seconds)

    return run


def _mlp_trial(config: Config, data: Prepared) -> Trial:
    make = MLPClassifier if data.task == "classification" else MLPRegressor
    return _sklearn_trial(make(random_state=config.seed), data)


def _linear_trial(config: Config, data: Prepared) -> Trial:
    return _sklearn_trial(
        LogisticRegression(max_iter=1000) if data.task == "classification" else LinearRegression(), data
    )


def _sklearn_trial(model: Any, data: Prepared) -> Trial:
    x, y = data.train.x.numpy(), data.train.y.numpy().reshape(len(data.train))
    weight = data.train.weight
    counted = weight is not None and has_fit_parameter(model, "sample_weight")  # older perceptrons know no weights
    weights = {"sample_weight": weight.numpy()} if weight is not None and counted else {}
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # at its defaults, come what may
        model.fit(x, y, **weights)
    seconds = time.perf_counter() - began
    truth = data.test.y.numpy().reshape(len(data.test))
    answers = model.predict(data.test.x.numpy())
    loss = None if data.task == "classification" else float(np.square(answers - truth).mean())
    return Trial(float(model.score(data.test.x.numpy(), truth)), _rmse(data, loss), _size(model), 0.0, seconds)


_TRIALS: dict[Kind, Callable[[Config, Prepared], Trial]] = {
    "ode": _flow_trial("ode"),
    "resnet": _flow_trial("resnet"),
    "none": _flow_trial("none"),
    "mlp": _mlp_trial,
    "linear": _linear_trial,
}


def _rmse(data: Prepared, loss: float | None) -> float | None:
    """The root mean squared error in the target's unit, from one in standard deviations."""
    if loss is None or data.task == "classification":
        return None
    return loss**0.5 * data.schema.target.scale


def _size(model: Any) -> int:
    """How many numbers a model of scikit-learn has learnt."""
    if hasattr(model, "coefs_"):
        return sum(part.size for part in [*model.coefs_, *model.intercepts_])
    return int(model.coef_.size + np.size(model.intercept_))


def _restart_peak() -> int | None:
    """The memory that this process holds, from which a new peak is counted; None where the system does not say."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int | None:
    """The most memory that this process held, in bytes."""
    with suppress(OSError):
        return _status("VmHWM")
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(name: str) -> int:
    """A number of Linux's account of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")
