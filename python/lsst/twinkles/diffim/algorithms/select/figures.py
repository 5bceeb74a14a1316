"""What the choice of a template has to know of each exposure."""

from __future__ import annotations

__all__ = ("VisitFigures", "overlap_fraction")

from dataclasses import dataclass

import numpy as np

_GRID = 33


@dataclass(frozen=True)
class VisitFigures:
    """Figures of one exposure: few numbers instead of its pixels.

    Attributes
    ----------
    visit, detector : `int`
        Identity.
    band : `str`
        Band.
    mjd : `float`
        Middle of the exposure, TAI, in days; NaN if unknown.
    fwhm : `float`
        FWHM in pixels of the Gaussian as wide as the PSF.
    pixel_scale : `float`
        Arcsec per pixel.
    variance : `float`
        Variance of a pixel of blank sky, in the squared unit of the exposure.
    scale : `float`
        nJy per unit of the exposure; NaN if it is not calibrated.
    corners : `numpy.ndarray`, ``(4, 3)``
        Unit vectors of the sky at the outer corners, in order around the exposure.
    power : `numpy.ndarray`, ``(K, K // 2 + 1)``, float32
        Power spectrum of the PSF, see `depth.psf_power`.
    """

    visit: int
    detector: int
    band: str
    mjd: float
    fwhm: float
    pixel_scale: float
    variance: float
    scale: float
    corners: np.ndarray
    power: np.ndarray

    @property
    def fwhm_arcsec(self) -> float:
        """FWHM in arcsec (`float`)."""
        return self.fwhm * self.pixel_scale

    @property
    def is_calibrated(self) -> bool:
        """Whether the flux scale is known (`bool`)."""
        return bool(np.isfinite(self.scale) and self.scale > 0)

    @property
    def is_usable(self) -> bool:
        """Whether noise and PSF are known (`bool`)."""
        return bool(np.isfinite(self.variance) and self.variance > 0 and np.isfinite(self.power).all())

    def variance_at(self, scale: float) -> float:
        """Return the variance on a flux scale of ``scale`` nJy per unit (of its own if not calibrated)."""
        own = self.scale if self.is_calibrated and np.isfinite(scale) else 1.0
        return self.variance * (own / (scale if np.isfinite(scale) else 1.0)) ** 2


def overlap_fraction(frame: np.ndarray, other: np.ndarray) -> float:
    """Return the fraction of an exposure that another covers.

    Parameters
    ----------
    frame, other : `numpy.ndarray`, ``(4, 3)``
        Unit vectors of the corners in order around each.

    Returns
    -------
    fraction : `float`
        From a grid of 33 x 33 points, hence to about 3 percent; 1 for the same frame.
    """
    if np.array_equal(frame, other):
        return 1.0
    # Cell centres, so that an exposure covers itself whatever the rounding.
    u = (np.arange(_GRID) + 0.5) / _GRID
    s, t = (a.ravel()[:, None] for a in np.meshgrid(u, u))
    points = (1 - t) * ((1 - s) * frame[0] + s * frame[1]) + t * ((1 - s) * frame[3] + s * frame[2])
    normals = np.cross(other, np.roll(other, -1, axis=0))
    # Which side of its edges is the inside depends on the handedness of the pixel grid.
    normals *= np.sign(normals @ other.mean(axis=0))[:, None]
    # The antipodes satisfy no edge of a small frame, so that this is all.
    return float(np.mean((points @ normals.T > 0).all(axis=1)))
