"""Files of the LSST stack's layout behind a Butler."""

from __future__ import annotations

__all__ = ("AfwExposureFormatter",)

from typing import Any, ClassVar

from lsst.daf.butler import DatasetProvenance, FormatterV2
from lsst.images import DifferenceImage, VisitImage
from lsst.resources import ResourcePath

from ..adapters.afw.exposure import read_afw_exposure
from ..adapters.afw.write import write_afw_exposure
from ..adapters.read_exposure import carried_over

_WITH_BBOX = frozenset({"image", "mask", "variance", "masked_image"})


class AfwExposureFormatter(FormatterV2):
    """Stores a `lsst.images.VisitImage` or `DifferenceImage` such that ``ExposureF.readFits`` opens the file.

    The command takes it for ``datasets.layout="afw"``. Any other Butler does so where the configuration of
    its datastore names it, as ``lsst.twinkles.diffim.pipeline.afw_formatter.AfwExposureFormatter``, for a
    storage class or dataset type under ``formatters``.

    Notes
    -----
    Neither reading nor writing takes the stack. What the layout has no place for is not in the file (see
    `~lsst.twinkles.diffim.adapters.afw.write.write_afw_exposure`): a difference that is read back has neither
    kernel nor templates, and its PSF is the kernel that the file has. A component or a part of the pixels is
    taken from the whole.
    """

    can_read_from_local_file: ClassVar[bool] = True
    default_extension: ClassVar[str | None] = ".fits"
    unsupported_parameters = frozenset()

    _provenance: DatasetProvenance | None = None

    def add_provenance(
        self, in_memory_dataset: Any, /, *, provenance: DatasetProvenance | None = None
    ) -> Any:
        """Keep what the header is going to say of the inputs; the dataset stays as it is."""
        self._provenance = provenance
        return in_memory_dataset

    def write_local_file(self, in_memory_dataset: VisitImage, uri: ResourcePath) -> None:
        """Write the file."""
        cards: dict[str, Any] = {}
        if self._provenance is not None:
            cards = self._provenance.to_flat_dict(
                self.dataset_ref, prefix="LSST BUTLER", sep=" ", simple_types=True, max_inputs=3_000
            )
        write_afw_exposure(in_memory_dataset, uri.ospath, cards=cards)

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Read the file, and take a part of it where one is asked for."""
        storage_class = self.file_descriptor.storageClass
        parameters = dict(self.file_descriptor.parameters or {})
        exposure = read_afw_exposure(path)
        if issubclass(storage_class.pytype, DifferenceImage):
            exposure = _as_difference(exposure)
        if component == "components":
            known = set(storage_class.allComponents()) - {"components", "masked_image"}
            names = parameters.pop("components", None) or sorted(known)
            return {name: self._take(exposure, name, parameters) for name in names}
        return self._take(exposure, component, parameters)

    @staticmethod
    def _take(exposure: VisitImage, component: str | None, parameters: dict[str, Any]) -> Any:
        """Return a component, cut to a box if it has pixels; `None` for one that the file does not have."""
        if (box := parameters.get("bbox")) is not None and (component is None or component in _WITH_BBOX):
            exposure = exposure[box]
        if component is None:
            return exposure
        return exposure if component == "masked_image" else getattr(exposure, component, None)


def _as_difference(exposure: VisitImage) -> DifferenceImage:
    """Return an exposure as a difference image of which neither kernel nor templates are known."""
    return DifferenceImage(
        exposure.image,
        sky_projection=exposure.sky_projection,
        bounds=exposure.bounds,
        **carried_over(exposure),
    )
