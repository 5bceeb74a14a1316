"""Where a difference image came from."""

from __future__ import annotations

__all__ = ("CCD_COADD", "NO_SKYMAP", "describe_template", "make_provenance", "template_info")

import math
from collections.abc import Iterable

import numpy as np

from lsst.daf.butler import DataCoordinate, DatasetProvenance, DatasetRef
from lsst.images import (
    Box,
    DifferenceImage,
    DifferenceImageTemplateInfo,
    NoOverlapError,
    Polygon,
    VisitImage,
)

NO_SKYMAP = "visit"
"""Stands in the ``skymap`` field of a template that is a single visit."""

CCD_COADD = "coadd"
"""Stands there for a coadd of visits that is not on the patches of a sky map."""


def make_provenance(inputs: Iterable[DatasetRef]) -> DatasetProvenance:
    """Describe inputs for the headers of a file.

    Parameters
    ----------
    inputs : iterable of `lsst.daf.butler.DatasetRef`
        Datasets of the input repository.

    Returns
    -------
    provenance : `lsst.daf.butler.DatasetProvenance`
        Their identifiers, types, runs and data ids, without the dimension
        records (which would be repeated in every file).
    """
    simple = []
    for ref in inputs:
        plain = DataCoordinate.standardize(dict(ref.dataId.required), dimensions=ref.dataId.dimensions)
        simple.append(DatasetRef(ref.datasetType, plain, run=ref.run, id=ref.id).to_simple())
    return DatasetProvenance(inputs=simple)


def describe_template(
    difference: DifferenceImage, template: VisitImage, template_ref: DatasetRef
) -> DifferenceImageTemplateInfo:
    """Describe the template of a difference image, measuring what is needed.

    Parameters
    ----------
    difference : `lsst.images.DifferenceImage`
        Difference on the pixels of the science exposure.
    template : `lsst.images.VisitImage`
        Template as it was read, on its own pixels.
    template_ref : `lsst.daf.butler.DatasetRef`
        Its identity.

    Returns
    -------
    info : `lsst.images.DifferenceImageTemplateInfo`
        See `template_info`. The PSF moments are those in the middle of the
        template, turned into the science pixel frame.
    """
    corners = _outline(template.bbox)
    sky = template.sky_projection.pixel_to_sky(x=corners[0], y=corners[1])
    xy = difference.sky_projection.sky_to_pixel(sky)
    try:
        bounds = Polygon(x_vertices=np.asarray(xy.x, float), y_vertices=np.asarray(xy.y, float)).intersection(
            difference.bbox
        )
    except NoOverlapError:
        bounds = difference.bbox
    moments = _psf_moments(template, difference)
    return template_info(template_ref, bounds=_as_polygon(bounds), psf_moments=moments)


def _as_polygon(bounds: object) -> Polygon:
    return bounds if isinstance(bounds, Polygon) else Polygon.from_box(bounds.bbox)  # type: ignore[attr-defined]


def _outline(bbox: Box) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the four outer corners of a box, in order."""
    x0, x1 = bbox.x.start - 0.5, bbox.x.stop - 0.5
    y0, y1 = bbox.y.start - 0.5, bbox.y.stop - 0.5
    return np.array([x0, x1, x1, x0]), np.array([y0, y0, y1, y1])


def _psf_moments(template: VisitImage, difference: DifferenceImage) -> tuple[float, float, float] | None:
    """Return moments xx, yy, xy of the template's PSF in science pixels."""
    x = (template.bbox.x.start + template.bbox.x.stop - 1) // 2
    y = (template.bbox.y.start + template.bbox.y.stop - 1) // 2
    stamp = template.psf.compute_kernel_image(x=x, y=y).array
    flux = stamp.sum()
    dy, dx = np.mgrid[: stamp.shape[0], : stamp.shape[1]]
    dx, dy = dx - (stamp * dx).sum() / flux, dy - (stamp * dy).sum() / flux
    cross = (stamp * dx * dy).sum()
    matrix = np.array([[(stamp * dx**2).sum(), cross], [cross, (stamp * dy**2).sum()]]) / flux
    # Columns: where a step of one template pixel leads on the science grid.
    steps = template.sky_projection.pixel_to_sky(x=np.array([x, x + 1.0, x]), y=np.array([y, y, y + 1.0]))
    there = difference.sky_projection.sky_to_pixel(steps)
    jacobian = np.array([np.diff(there.x[[0, 1]]), np.diff(there.y[[0, 1]])])
    jacobian = np.hstack([jacobian, np.array([np.diff(there.x[[0, 2]]), np.diff(there.y[[0, 2]])])])
    matrix = jacobian @ matrix @ jacobian.T
    return float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 1])


def template_info(
    template_ref: DatasetRef,
    *,
    bounds: Polygon | Box,
    psf_moments: tuple[float, float, float] | None = None,
) -> DifferenceImageTemplateInfo:
    """Describe a visit that served as the template of a difference image.

    Parameters
    ----------
    template_ref : `lsst.daf.butler.DatasetRef`
        The exposure that was the template.
    bounds : `lsst.images.Polygon` or `lsst.images.Box`
        Pixels of the science image that the template covers.
    psf_moments : `tuple` [ `float` ], optional
        Second moments ``xx``, ``yy``, ``xy`` of its PSF in pixel**2 of the
        science image's grid; flagged as missing if not given or not finite.

    Returns
    -------
    info : `lsst.images.DifferenceImageTemplateInfo`
        The framework's record, made for coadds on patches. A single visit has no
        tract or patch: ``skymap`` is "visit", ``tract`` the visit number and
        ``patch`` the detector, so that the pair still names the template. Of a
        coadd for a detector ``skymap`` is "coadd" and ``tract`` 0.
    """
    visit = template_ref.dataId.get("visit")
    if isinstance(bounds, Box):
        bounds = Polygon.from_box(bounds)
    xx, yy, xy = (math.nan,) * 3 if psf_moments is None else map(float, psf_moments)
    return DifferenceImageTemplateInfo(
        skymap=CCD_COADD if visit is None else NO_SKYMAP,
        tract=0 if visit is None else int(visit),
        patch=int(template_ref.dataId["detector"]),
        dataset_id=template_ref.id,
        dataset_run=template_ref.run,
        bounds=bounds,
        psf_shape_xx=xx,
        psf_shape_yy=yy,
        psf_shape_xy=xy,
        psf_shape_flag=not all(map(math.isfinite, (xx, yy, xy))),
        instrument=str(template_ref.dataId["instrument"]),
    )
