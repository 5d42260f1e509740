"""Pixels as features: how bright an image is, and by how much each pixel differs from that.

The pixels of an image are bright or dark together. What hundreds of them have in common is so much longer than what
tells them apart that a step of the optimiser which is right for the one overshoots along the other by far: where images
are of varied brightness, training swings for many epochs and learns little else. features: (N, n_inputs), float64.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from .values import Array, centre_and_scale

_COLUMNS: Final = 32.0  # as so many columns of a table pixels count together, however many there are
_BRIGHTNESS: Final = 4.0  # times a column: many pixels say it, and it is to be learnt as fast as if each did


class PixelScales(BaseModel):
    """What pixels are divided by, once the brightness of their image is taken off them and is a feature of its own.

    Attributes
    ----------
    brightness, contrast : float
        The standard deviation of the brightness of images, which is the mean of their pixels, and the root mean square
        of what is left of these.

    Examples
    --------
    >>> images = np.array([[1.0, 3.0], [5.0, 7.0], [-3.0, -1.0]])
    >>> scales = PixelScales.learn(images)
    >>> scales.features(images, np.array([True, True])).round(3).tolist()
    [[-1.0, 1.0, 2.449], [-1.0, 1.0, 7.348], [-1.0, 1.0, -2.449]]
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    brightness: float
    contrast: float

    @classmethod
    def learn(cls, pixels: Array) -> PixelScales:
        """The scales of images (N, pixels)."""
        bright = pixels.mean(axis=1)
        _, brightness = centre_and_scale(bright, np.ones(len(bright)))
        contrast = float(np.sqrt(np.mean(np.square(pixels - bright[:, None]))))
        return cls(brightness=float(brightness), contrast=contrast or 1.0)

    def features(self, features: Array, pixels: NDArray[np.bool_]) -> Array:
        """Features, some of which are pixels, with the brightness of each image after them (N, n_inputs + 1)."""
        bright = features[:, pixels].mean(axis=1, keepdims=True)
        scale = self.contrast * np.sqrt(max(1.0, pixels.sum() / _COLUMNS))
        apart = np.where(pixels, (features - bright) / scale, features)
        return np.concatenate([apart, _BRIGHTNESS * bright / self.brightness], axis=1)
