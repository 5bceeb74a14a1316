"""Pixels whose value may be wrong, and what a convolution makes of that."""

from __future__ import annotations

__all__ = ("Doubt",)

from dataclasses import dataclass

import numpy as np

from ..fill_nb import scatter_kernel


@dataclass(frozen=True)
class Doubt:
    """By how much some pixels of an image may be wrong; all ``(N,)``.

    Attributes
    ----------
    rows, cols : `numpy.ndarray`, int
        Pixels.
    values : `numpy.ndarray`, float32
        Largest error that is to be expected, in counts; not negative.
    """

    rows: np.ndarray
    cols: np.ndarray
    values: np.ndarray

    def carried(self, kernel: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return how much of a convolved image is in doubt.

        Parameters
        ----------
        kernel : `numpy.ndarray`, ``(S, S)``
            Kernel.
        shape : `tuple` [`int`, `int`]
            Shape of the image.

        Returns
        -------
        error : `numpy.ndarray`, ``shape``, float32
            What the kernel carries of the errors to each pixel; they may all have one sign.
        """
        error = np.zeros(shape, dtype=np.float32)
        scatter_kernel(self.rows, self.cols, self.values, np.abs(kernel).astype(np.float32), error)
        return error
