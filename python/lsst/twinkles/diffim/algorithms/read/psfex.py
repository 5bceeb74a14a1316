"""PSF models of PSFEx as the LSST stack evaluates them."""

from __future__ import annotations

__all__ = ("PsfexModel",)

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..warp.stamps import Stamp, lanczos_weights

# PSFEx interpolates with Lanczos weights of this order, and looks at so many pixels on either side.
_ORDER = 5
_REACH = 6


@dataclass(frozen=True)
class PsfexModel:
    """A PSF model of PSFEx (Bertin 2011, ASP Conf. Ser. 442, 435).

    Attributes
    ----------
    components : `numpy.ndarray`, ``(C, H, W)``, float32
        Images that are the coefficients of the polynomials.
    group : `tuple` [`int`, `int`]
        Which group of polynomials x and y belong to, counted from 0.
    degrees : `tuple` [`int`, ...]
        Highest total degree of each group.
    offset, scale : `tuple` [`float`, `float`]
        Polynomials are of ``(position - offset) / scale``.
    step : `float`
        Pixels of the image per pixel of the components.
    """

    components: np.ndarray
    group: tuple[int, ...]
    degrees: tuple[int, ...]
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    step: float

    def __post_init__(self) -> None:
        n = len(self._exponents)
        if self.components.ndim != 3 or len(self.components) != n:
            raise ValueError(
                f"components of shape {self.components.shape} do not have {n} terms, those of {self.degrees}"
            )
        if not 0 < self.step < 1000 or not all(np.isfinite(self.scale)) or not all(self.scale):
            raise ValueError(f"step {self.step} and scales {self.scale} have to be positive")

    @cached_property
    def _exponents(self) -> list[tuple[int, int]]:
        """Powers of x and y of the terms: those of x run first."""
        gx, gy = self.group
        if gx == gy:
            degree = self.degrees[gx]
            return [(i, j) for j in range(degree + 1) for i in range(degree + 1 - j)]
        return [(i, j) for j in range(self.degrees[gy] + 1) for i in range(self.degrees[gx] + 1)]

    def image(self, *, x: float, y: float, centre: tuple[float, float] = (0.0, 0.0)) -> Stamp:
        """Evaluate the model.

        Parameters
        ----------
        x, y : `float`
            Position.
        centre : `tuple` [`float`, `float`], optional
            Position at which the star stands in the image.

        Returns
        -------
        image : `Stamp`
            Unit sum.
        """
        u, v = ((p - o) / s for p, o, s in zip((x, y), self.offset, self.scale, strict=True))
        terms = np.array([u**i * v**j for i, j in self._exponents])
        fine = np.tensordot(terms, self.components.astype(float), axes=1)
        (x0, dx, width), (y0, dy, height) = (
            self._axis(c, n) for c, n in zip(centre, fine.shape[::-1], strict=True)
        )
        rows = self._resampling(fine.shape[0], height, dy)
        columns = self._resampling(fine.shape[1], width, dx)
        return Stamp(rows @ fine @ columns.T, x0, y0).normalised()

    def _axis(self, centre: float, n: int) -> tuple[int, float, int]:
        """Return first pixel, fraction of the centre in (-0.5, 0.5] and size (odd) of the image."""
        size = int(n * self.step)
        size += 1 - size % 2
        fraction = centre - int(centre)
        if fraction > 0.5:
            fraction -= 1.0
        return int(centre - fraction + 0.5) - size // 2, fraction, size

    def _resampling(self, n: int, size: int, fraction: float) -> np.ndarray:
        """Return the matrix ``(size, n)`` that resamples one axis; the weights of a pixel have unit sum."""
        step = float(np.float32(1.0 / np.float32(self.step)))
        position = n // 2 - fraction * step + (np.arange(size) - size // 2) * step
        inside = (position >= 0) & (position <= n - 1)
        pixel = np.arange(n)
        offset = pixel - position[:, None]
        first = np.floor(position)[:, None]
        used = (pixel >= first - _REACH) & (pixel < first + _REACH) & (np.abs(offset) <= _ORDER)
        weights = np.where(used & inside[:, None], lanczos_weights(offset, _ORDER), 0.0)
        total = weights.sum(axis=1, keepdims=True)
        return weights / np.where(total > 0, total, 1.0)
