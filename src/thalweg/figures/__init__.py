"""Figures: the river of a field or of a trained model, its discrete twin, and how training went."""

from .adjoint import adjoint_figure
from .estimator import draw_estimator
from .euler import euler_figure
from .flow import field_figure
from .model import draw_flow, flow_figures
from .rivers import rivers_figure
from .style import save
from .training import draw_training, training_figure

__all__ = [
    "adjoint_figure",
    "draw_estimator",
    "draw_flow",
    "draw_training",
    "euler_figure",
    "field_figure",
    "flow_figures",
    "rivers_figure",
    "save",
    "training_figure",
]
