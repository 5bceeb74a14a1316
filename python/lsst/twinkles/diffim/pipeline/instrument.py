"""The Twinkles camera as the Butler knows it: one CCD and six filters."""

from __future__ import annotations

__all__ = ("DETECTOR_MAX", "VISIT_MAX", "TwinklesCam")

from typing import TYPE_CHECKING

from lsst.daf.butler import DataId, Formatter, FormatterV2
from lsst.pipe.base import Instrument

from ..adapters import camera

if TYPE_CHECKING:
    from lsst.daf.butler import Registry

VISIT_MAX = 10**13
"""Visit numbers are below this (the day_obs and sequence numbers of LSSTCam fit)."""
DETECTOR_MAX = 256
VISIT_SYSTEM_ID = 0
"""The only visit system: every visit is one exposure."""


class TwinklesCam(Instrument):
    """A camera with the single CCD R22_S11 and the filters u, g, r, i, z, y.

    Parameters
    ----------
    collection_prefix : `str`, optional
        First part of the names of its collections; its own name by default.

    Notes
    -----
    Physical filters carry the name of their band. Ingest adds the filters of
    images that were taken through others.
    """

    policyName = "twinkles"

    def __init__(self, collection_prefix: str | None = None) -> None:
        super().__init__(collection_prefix)

    @classmethod
    def getName(cls) -> str:
        """Return the name used in data ids."""
        return camera.INSTRUMENT_NAME

    def register(self, registry: Registry, *, update: bool = False) -> None:
        """Write the records of the camera into a registry; may be repeated.

        Parameters
        ----------
        registry : `lsst.daf.butler.Registry`
            Registry of a writeable repository.
        update : `bool`, optional
            Overwrite records that differ instead of raising.
        """
        name = self.getName()
        with registry.transaction():
            registry.syncDimensionData(
                "instrument",
                {
                    "name": name,
                    "visit_max": VISIT_MAX,
                    "visit_system": VISIT_SYSTEM_ID,
                    "exposure_max": VISIT_MAX,
                    "detector_max": DETECTOR_MAX,
                    "class_name": f"{type(self).__module__}.{type(self).__qualname__}",
                },
                update=update,
            )
            registry.syncDimensionData(
                "detector",
                {
                    "instrument": name,
                    "id": camera.DETECTOR_ID,
                    "full_name": camera.DETECTOR_NAME,
                    "name_in_raft": camera.NAME_IN_RAFT,
                    "raft": camera.RAFT_NAME,
                    "purpose": "SCIENCE",
                },
                update=update,
            )
            for band in camera.BANDS:
                registry.syncDimensionData(
                    "physical_filter", {"instrument": name, "name": band, "band": band}, update=update
                )
            registry.syncDimensionData(
                "visit_system",
                {"instrument": name, "id": VISIT_SYSTEM_ID, "name": "one-to-one"},
                update=update,
            )

    def getRawFormatter(self, dataId: DataId) -> type[Formatter | FormatterV2]:
        """Refuse: Twinkles images are calibrated exposures, there are no raws.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            f"{self.getName()} has no raw images; add calibrated exposures with ingestExposures.py."
        )
