"""A template made of many visits."""

from __future__ import annotations

__all__ = ("COADD_VISITS_KEY", "MakeCoaddConfig", "MakeCoaddTask", "coadd_visits")

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table

from lsst.pex.config import ChoiceField, Config, ConfigurableField, Field, FieldValidationError, RangeField
from lsst.pipe.base import Struct, Task

from ..adapters.psfs import psf_from_grid
from ..algorithms.coadd.combine import combine_direct, combine_filtered, direct_psf, fill_from_others
from ..algorithms.coadd.filters import CoaddFilters
from ..algorithms.coadd.inputs import mean_variance_map
from ..algorithms.coadd.outliers import OutlierSettings, find_outliers
from ..algorithms.psf_grid import PsfGrid
from ..algorithms.threads import get_num_threads
from .coadd_exposure import COADD_VISITS_KEY, CoaddPlanes, coadd_visits, make_coadd_exposure
from .coadd_input import LoadCoaddInputTask, LoadedInput
from .errors import UnusableExposureError
from .select_registry import selectTemplateRegistry

if TYPE_CHECKING:
    from lsst.images import VisitImage

    from .coadd_exposure import TargetGrid

_TILE = 360
_ROWS = 768
_TOLERANCE = 1e-5
_PSF_NODES = 6
_PSF_TRANSFORM = 256
_MIN_FOR_OUTLIERS = 3


class MakeCoaddConfig(Config):
    """Configuration of `MakeCoaddTask`."""

    method = ChoiceField[str](
        doc="How images are summed up.",
        default="proper",
        allowed={
            "proper": "Proper coaddition: white noise, a known PSF, and nothing lost for point sources.",
            "matched": "All matched to the PSF of the widest, their mean whitened: the same for all filters "
            "but for the weights of the sharper images.",
            "direct": "Weighted mean of the images as they are; the PSF is only known where none has holes.",
        },
    )
    doRejectOutliers = Field[bool](
        doc="Leave out what is in few of the visits (transients, cosmic rays)? Needs three visits.",
        default=True,
    )
    outlierThreshold = RangeField[float](
        doc="Significance at which an image of the common PSF differs from the median.", default=5.0, min=1.0
    )
    outlierPixelThreshold = RangeField[float](
        doc="Significance at which a single pixel differs, beyond all of the light nearby.",
        default=6.0,
        min=1.0,
    )
    outlierBrightnessError = RangeField[float](
        doc="Error of PSF models, registration and flux scales, as a fraction of the light nearby.",
        default=0.02,
        min=0.0,
    )
    maxFractionEpochs = RangeField[float](
        doc="What is in more than this fraction of the visits (and in more than one) is left in.",
        default=0.2,
        min=0.0,
        max=0.5,
    )
    outlierGrow = RangeField[int](doc="Pixels by which outliers are grown.", default=2, min=0)
    lostWeightLimit = RangeField[float](
        doc="A pixel is SATURATED if visits with more than this share of the weight are, and INEXACT_PSF if "
        "more than that is missing for other reasons.",
        default=0.1,
        min=0.0,
        max=1.0,
    )
    nVisitsMin = RangeField[int](doc="Fewest visits that make a coadd.", default=1, min=1)
    selectVisits: Any = selectTemplateRegistry.makeField(
        doc="Which visits go in; there is no science exposure to choose them for.", default="psf"
    )
    loadInput: Any = ConfigurableField(
        doc="Sky, holes, noise and grid of each visit.", target=LoadCoaddInputTask
    )

    def validate(self) -> None:
        """Check that the number of visits can be had."""
        super().validate()
        most = self.selectVisits.active.nVisitsMax
        if 0 <= most < self.nVisitsMin:
            raise FieldValidationError(
                type(self)._fields["nVisitsMin"],
                self,
                f"nVisitsMin={self.nVisitsMin} is more than selectVisits.nVisitsMax={most} allows.",
            )


class MakeCoaddTask(Task):
    """Sum visits up to a template: white noise of known variance, one PSF, nothing in it that comes and goes.

    See `~lsst.twinkles.diffim.algorithms.coadd.filters.CoaddFilters` for what ``proper`` and ``matched``
    compute. The coadd is in nJy.
    """

    ConfigClass = MakeCoaddConfig
    _DefaultName = "makeCoadd"
    config: MakeCoaddConfig
    selectVisits: Any
    loadInput: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.makeSubtask("selectVisits")
        self.makeSubtask("loadInput")

    def run(
        self, grid: TargetGrid, visits: Sequence[int], load: Sequence[Callable[[], VisitImage]]
    ) -> Struct:
        """Make the coadd of some visits.

        Parameters
        ----------
        grid : `~lsst.twinkles.diffim.tasks.coadd_exposure.TargetGrid`
            Pixels of the coadd.
        visits : sequence of `int`
            Visit numbers.
        load : sequence of callable
            For each visit a function that returns its exposure; called once each, so that only one of them is
            in memory.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            - ``coadd`` (`lsst.images.VisitImage`): in nJy, without sky; its noise is white.
            - ``inputs`` (`astropy.table.Table`): a row for each visit that went in: ``visit``, ``weight``,
              ``psfFwhm`` (pixels), ``skyNoise`` (nJy), ``warped``, ``nOutlierPixels``.

        Raises
        ------
        UnusableExposureError
            If fewer than ``nVisitsMin`` visits can be used.
        """
        loaded = self._load(grid, visits, load)
        inputs = [item.data for item in loaded]
        fill_from_others(inputs)
        outliers = self._reject(loaded)
        psf, image = self._combine(loaded)
        planes = CoaddPlanes.make(loaded, image, lost_limit=self.config.lostWeightLimit)
        coadd = make_coadd_exposure(grid, loaded, planes, psf_from_grid(psf, grid.bbox))
        self.metadata["nVisits"] = len(loaded)
        self.metadata["skyNoise"] = float(np.sqrt(mean_variance_map(inputs).median))
        self.log.info("Coadd (%s) of %d visits: %s.", self.config.method, len(loaded), coadd_visits(coadd))
        return Struct(coadd=coadd, inputs=_describe(loaded, outliers))

    def _load(
        self, grid: TargetGrid, visits: Sequence[int], load: Sequence[Callable[[], VisitImage]]
    ) -> list[LoadedInput]:
        """Read and prepare the visits; those that cannot be used are left out with a warning."""
        loaded = []
        for visit, read in zip(visits, load, strict=True):
            try:
                loaded.append(self.loadInput.run(read(), grid, visit=visit).input)
            except UnusableExposureError as error:
                self.log.warning("Visit %d is left out of the coadd: %s", visit, error)
        if len(loaded) < self.config.nVisitsMin or not loaded:
            raise UnusableExposureError(
                f"{len(loaded)} of {len(visits)} visits can be coadded, nVisitsMin={self.config.nVisitsMin} "
                "are needed; look at the warnings above, or lower it.",
                nVisits=len(loaded),
            )
        return loaded

    def _reject(self, loaded: Sequence[LoadedInput]) -> list[int]:
        """Find outliers, fill them; return their numbers."""
        inputs, config = [item.data for item in loaded], self.config
        if not config.doRejectOutliers:
            return [0] * len(inputs)
        if len(inputs) < _MIN_FOR_OUTLIERS:
            self.log.warning("%d visits are too few to tell what does not belong there.", len(inputs))
            return [0] * len(inputs)
        settings = OutlierSettings(
            threshold=config.outlierThreshold,
            pixel_threshold=config.outlierPixelThreshold,
            brightness_error=config.outlierBrightnessError,
            max_fraction=config.maxFractionEpochs,
            grow=config.outlierGrow,
        )
        found = find_outliers(inputs, settings, side=_TILE, rows=_ROWS, workers=get_num_threads())
        for item, mask in zip(inputs, found, strict=True):
            item.bad[...] |= mask
        fill_from_others(inputs)
        return [int(mask.sum()) for mask in found]

    def _combine(self, loaded: Sequence[LoadedInput]) -> tuple[PsfGrid, np.ndarray]:
        """Return PSF and pixels of the coadd."""
        inputs, method = [item.data for item in loaded], self.config.method
        ny, nx = inputs[0].image.shape
        x, y = np.linspace(0, nx - 1, _PSF_NODES), np.linspace(0, ny - 1, _PSF_NODES)
        size = max(item.psf.size for item in inputs)
        if method == "direct":
            return direct_psf(inputs, x=x, y=y, size=size), combine_direct(inputs)
        filters = CoaddFilters(inputs, method)  # type: ignore[arg-type]
        image = combine_filtered(
            filters, side=_TILE, tolerance=_TOLERANCE, rows=_ROWS, workers=get_num_threads()
        )
        return filters.psf(x=x, y=y, size=size, side=_PSF_TRANSFORM), image


def _describe(loaded: Sequence[LoadedInput], outliers: Sequence[int]) -> Table:
    """Return a row for each visit."""
    weights = np.array([1.0 / item.data.sky.median for item in loaded])
    table = Table(
        {
            "visit": np.array([item.visit for item in loaded], dtype=np.int64),
            "weight": weights / weights.sum(),
            "psfFwhm": np.array([item.fwhm for item in loaded]),
            "skyNoise": 1.0 / np.sqrt(weights),
            "warped": np.array([item.warped for item in loaded]),
            "nOutlierPixels": np.array(outliers, dtype=np.int64),
        },
        units={"psfFwhm": "pix", "skyNoise": "nJy"},
    )
    return table
