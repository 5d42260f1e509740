"""Figures: the river of a field or of a trained model, its discrete twin, and how training went."""

from .flow import field_figure
from .model import flow_figures
from .style import save
from .training import training_figure

__all__ = ["field_figure", "flow_figures", "save", "training_figure"]
