"""Where a difference image came from."""

from __future__ import annotations

__all__ = ("NO_SKYMAP", "make_provenance", "template_info")

import math
from collections.abc import Iterable

from lsst.daf.butler import DataCoordinate, DatasetProvenance, DatasetRef
from lsst.images import Box, DifferenceImageTemplateInfo, Polygon

NO_SKYMAP = "visit"
"""Stands in the ``skymap`` field of a template that is a single visit."""


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
        The framework's record, made for coadds. A single visit has no tract
        or patch: ``skymap`` is "visit", ``tract`` the visit number and
        ``patch`` the detector, so that the pair still names the template.
    """
    if isinstance(bounds, Box):
        bounds = Polygon.from_box(bounds)
    xx, yy, xy = (math.nan,) * 3 if psf_moments is None else map(float, psf_moments)
    return DifferenceImageTemplateInfo(
        skymap=NO_SKYMAP,
        tract=int(template_ref.dataId["visit"]),
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
