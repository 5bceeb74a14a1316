"""Photometric calibrations and other functions of position of the LSST stack, as fields of `lsst.images`."""

from __future__ import annotations

__all__ = ("FIELD_READERS", "PhotometricCalibration", "fit_chebyshev")

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np

from .archive import AfwComponentError, Reader, Row, StoredObject, TableArchive
from .sky import SkySystem

if TYPE_CHECKING:
    from lsst.images import Box
    from lsst.images.fields import ChebyshevField, Field

# A function of position is approximated by a Chebyshev series of the lowest of these orders that is good to
# this part of its value.
_FIT_ORDERS = (2, 4, 6, 8, 12)
_FIT_TOLERANCE = 1e-8
_AB_ZERO_NANOJANSKY = 3631e9


@dataclass(frozen=True)
class PhotometricCalibration:
    """The factor from pixel units to nJy.

    Attributes
    ----------
    mean : `float`
        Its mean.
    field : `lsst.images.fields.Field` or `None`
        Its value at a position; `None` where it is the mean everywhere.
    """

    mean: float
    field: Field | None

    def scaling(self, box: Box, unit: u.UnitBase) -> Field | None:
        """Return it as the photometric scaling of an exposure.

        Parameters
        ----------
        box : `lsst.images.Box`
            Pixels of the exposure.
        unit : `astropy.units.UnitBase`
            Their unit.

        Returns
        -------
        scaling : `lsst.images.fields.Field` or `None`
            Field in nJy per ``unit``; `None` if the pixels are in nJy already.
        """
        from lsst.images.fields import ChebyshevField

        if unit.is_equivalent(u.nJy):
            return None
        factor_unit = u.nJy / unit
        if self.field is None:
            return ChebyshevField(box, np.array([[self.mean]]), unit=factor_unit)
        return self.field * factor_unit


def _box(row: Row) -> Box:
    from lsst.images import Box

    x1, y1, x2, y2 = (int(row[f"bbox_{end}_{axis}"]) for end in ("min", "max") for axis in "xy")
    return Box.factory[y1 : y2 + 1, x1 : x2 + 1]


def _read_calibration(archive: TableArchive, stored: StoredObject) -> PhotometricCalibration:
    row = stored.row()
    mean = float(row["calibrationMean"])
    if int(row.get("version", 0)) < 1:
        raise AfwComponentError(stored.name, "it is of version 0, which was never in a release")
    if not (np.isfinite(mean) and mean > 0):
        raise AfwComponentError(stored.name, f"its mean is {mean}; it has to be positive")
    if row["isConstant"]:
        return PhotometricCalibration(mean, None)
    field = archive.get(row["field"])
    if field is None:
        raise AfwComponentError(stored.name, "it varies and has no field")
    return PhotometricCalibration(mean, field)


def _read_old_calibration(archive: TableArchive, stored: StoredObject) -> PhotometricCalibration:
    """Read what was stored before 2018: the flux of magnitude zero."""
    return PhotometricCalibration(_AB_ZERO_NANOJANSKY / float(stored.row()["fluxmag0"]), None)


def _read_chebyshev(archive: TableArchive, stored: StoredObject) -> Field | None:
    from lsst.images.fields import ChebyshevField

    row = stored.row()
    if int(row["bbox_max_x"]) < int(row["bbox_min_x"]):
        return None  # what the stack keeps of a constant calibration
    coefficients = np.atleast_1d(row["coefficients"]).astype(float)
    return ChebyshevField(_box(row), coefficients.reshape(-1, int(row["order_x"]) + 1).copy())


def _read_product(archive: TableArchive, stored: StoredObject) -> Field:
    from lsst.images.fields import ProductField

    return ProductField([archive.get(row["id"]) for row in stored.tables[0]])


def _read_pixel_area(archive: TableArchive, stored: StoredObject) -> Field:
    row = stored.row()
    sky, box = archive.get(row["wcs"]), _box(row)
    if not isinstance(sky, SkySystem):
        raise AfwComponentError(stored.name, "it has no celestial coordinates")
    return fit_chebyshev(lambda x, y: float(row["scaling"]) * _pixel_area(sky, x, y), box)


def _pixel_area(sky: SkySystem, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the area of pixels in square radian, from vectors between neighbours."""

    def vector(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        ra, dec = sky.to_sky(x, y)
        return np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])

    half = 0.5
    along = vector(x + half, y) - vector(x - half, y)
    across = vector(x, y + half) - vector(x, y - half)
    return np.linalg.norm(np.cross(along, across, axis=0), axis=0)


def fit_chebyshev(function: Callable[[np.ndarray, np.ndarray], np.ndarray], box: Box) -> ChebyshevField:
    """Approximate a smooth function by a `lsst.images.fields.ChebyshevField` over a box."""
    from lsst.images.fields import ChebyshevField

    for order in _FIT_ORDERS:
        node = np.cos(np.pi * (np.arange(order + 1) + 0.5) / (order + 1))
        x = (box.x.min + box.x.max) / 2 + node * box.x.size / 2
        y = (box.y.min + box.y.max) / 2 + node * box.y.size / 2
        xx, yy = np.meshgrid(x, y)
        values = function(xx.ravel(), yy.ravel()).reshape(xx.shape)
        # Discrete orthogonality at the nodes: the interpolating series, without solving for it.
        basis = np.polynomial.chebyshev.chebvander(node, order)
        inverse = basis.T * (2.0 / (order + 1))
        inverse[0] /= 2.0
        coefficients = inverse @ values @ inverse.T
        last = np.abs(coefficients[-1]).max() + np.abs(coefficients[:, -1]).max()
        if last <= _FIT_TOLERANCE * np.abs(values).max():
            break
    return ChebyshevField(box, coefficients)


def _read_corrections(archive: TableArchive, stored: StoredObject) -> dict[str, Any]:
    """Read a map from names of fluxes to their aperture corrections."""
    return {str(row["name"]).strip(): archive.get(row["field"]) for row in stored.tables[0]}


FIELD_READERS: dict[str, Reader] = {
    "PhotoCalib": _read_calibration,
    "Calib": _read_old_calibration,
    "ChebyshevBoundedField": _read_chebyshev,
    "ProductBoundedField": _read_product,
    "PixelAreaBoundedField": _read_pixel_area,
    "ApCorrMap": _read_corrections,
}
"""Readers of calibrations and fields by name of class."""
