"""Neural ODEs for PyTorch: an exact, fast solver, the blocks built on it, and classifiers and regressors.

Names are imported when they are first used, so that the command answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "solve_ivp": "thalweg.ivp",
    "Solution": "thalweg.core.solution",
    "Stats": "thalweg.core.solution",
    "Sparsity": "thalweg.core.sparsity",
    "SolveError": "thalweg.core.status",
    "Status": "thalweg.core.status",
    "DenseOutput": "thalweg.output.dense",
    "Adjoint": "thalweg.gradients.adjoint",
    "Forward": "thalweg.gradients.forward",
    "Checkpointed": "thalweg.gradients.checkpointed",
    "Gauss": "thalweg.gradients.adjoint",
    "Interpolating": "thalweg.gradients.adjoint",
    "Reversible": "thalweg.gradients.reversible",
    "Event": "thalweg.output.events",
    "Explanation": "thalweg.explaining",
    "explain": "thalweg.explaining",
    "GradientReport": "thalweg.checking",
    "check_gradients": "thalweg.checking",
    "SteadyState": "thalweg.equilibrium",
    "steady_state": "thalweg.equilibrium",
    "PID": "thalweg.stepsize.controllers",
    "Fixed": "thalweg.stepsize.controllers",
    "register_method": "thalweg.methods",
    "NeuralODE": "thalweg.nn",
    "NeuralODEClassifier": "thalweg.learn.estimators",
    "NeuralODERegressor": "thalweg.learn.estimators",
}

__all__ = [
    "PID",
    "Adjoint",
    "Checkpointed",
    "DenseOutput",
    "Event",
    "Explanation",
    "Fixed",
    "Forward",
    "Gauss",
    "GradientReport",
    "Interpolating",
    "NeuralODE",
    "NeuralODEClassifier",
    "NeuralODERegressor",
    "Reversible",
    "Solution",
    "SolveError",
    "Sparsity",
    "Stats",
    "Status",
    "SteadyState",
    "__version__",
    "check_gradients",
    "explain",
    "register_method",
    "solve_ivp",
    "steady_state",
]

if TYPE_CHECKING:
    from .checking import GradientReport, check_gradients
    from .core.solution import Solution, Stats
    from .core.sparsity import Sparsity
    from .core.status import SolveError, Status
    from .equilibrium import SteadyState, steady_state
    from .explaining import Explanation, explain
    from .gradients.adjoint import Adjoint, Gauss, Interpolating
    from .gradients.checkpointed import Checkpointed
    from .gradients.forward import Forward
    from .gradients.reversible import Reversible
    from .ivp import solve_ivp
    from .learn.estimators import NeuralODEClassifier, NeuralODERegressor
    from .methods import register_method
    from .nn import NeuralODE
    from .output.dense import DenseOutput
    from .output.events import Event
    from .stepsize.controllers import PID, Fixed


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name in {"nn", "figures", "learn", "methods", "paths"}:
        value = import_module(f"thalweg.{name}")
    else:
        raise AttributeError(f"module 'thalweg' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "nn", "figures", "learn", "methods", "paths"})
