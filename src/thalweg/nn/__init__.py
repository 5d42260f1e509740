"""The blocks: fields, and the modules that follow them."""

from .fields import ConvField, LinearField, MLPField
from .modules import Augment, NeuralODE, ResNet

__all__ = ["Augment", "ConvField", "LinearField", "MLPField", "NeuralODE", "ResNet"]
