"""Stages of detection and measurement that are the stack's own tasks, or ours where it is not set up."""

from __future__ import annotations

__all__ = ("StackStages",)

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..adapters.masks import difference_mask_schema
from ..tasks.find_cosmic_rays import FindCosmicRaysConfig, FindCosmicRaysTask
from ..tasks.mask_streaks import MaskStreaksTask
from .exposures import visit_image_from_afw
from .unused_fields import PlaceholderTask

if TYPE_CHECKING:
    from .detect_and_measure import DetectAndMeasureTask

_TRAIL_KEYS = ("slopes", "intercepts", "stderrs", "lengths", "angles")
_TRAIL_ATTRIBUTES = ("slope", "intercept", "stderr", "length", "angle")


class StackStages:
    """Run the stack's tasks where they are set up; cosmic rays and streaks are else found by our own.

    Parameters
    ----------
    task : `DetectAndMeasureTask`
        Task whose subtasks they are.
    schema : `lsst.afw.table.Schema`
        Schema of the catalogue; the stack's tasks add their columns.
    """

    def __init__(self, task: DetectAndMeasureTask, schema: Any) -> None:
        self.task, self.config = task, task.config
        wanted: dict[str, tuple[bool, dict[str, Any]]] = {
            "maskStreaks": (self.config.doMaskStreaks, {}),
            "findGlints": (True, {}),
            "skySources": (self.config.doSkySources, {"schema": schema}),
            "applyApCorr": (self.config.doApCorr, {"schema": schema}),
        }
        self.there: set[str] = set()
        for name, (is_wanted, arguments) in wanted.items():
            if is_wanted and not self._is_placeholder(name):
                task.makeSubtask(name, **arguments)
                self.there.add(name)
        if self.config.doSkySources and "skySources" not in self.there:
            raise RuntimeError(
                "doSkySources=True needs SkyObjectsTask of lsst.meas.algorithms, which is not set up; "
                "set it to False."
            )

    def _is_placeholder(self, name: str) -> bool:
        return getattr(self.config, name).target is PlaceholderTask

    def _subtask(self, name: str) -> Any:
        """Return a subtask, `None` if it is not set up."""
        return getattr(self.task, name) if name in self.there else None

    def find_cosmic_rays(self, exposure: Any) -> None:
        """Mask cosmic rays (plane ``CR``)."""
        if not self.config.doFindCosmicRays:
            return
        try:
            from lsst.afw.detection import setMaskFromFootprintList
            from lsst.meas.algorithms import findCosmicRays
            from lsst.pex.config import makePropertySet
        except ImportError:
            self._find_own_cosmic_rays(exposure)
            return
        keep = self.config.cosmicray.keepCRs
        found = findCosmicRays(
            exposure.maskedImage, exposure.getPsf(), 0.0, makePropertySet(self.config.cosmicray), keep
        )
        if found is not None:
            setMaskFromFootprintList(exposure.mask, found, exposure.mask.getPlaneBitMask("CR"))
        self.task.metadata["cosmic_ray_count"] = 0 if found is None else len(found)

    def _find_own_cosmic_rays(self, exposure: Any) -> None:
        """Mask cosmic rays with the finder of this package."""
        task = FindCosmicRaysTask(config=own_settings(self.config.cosmicray), name="cosmicray")
        image = visit_image_from_afw(exposure, name="difference")
        found = task.run(image, role="difference")
        exposure.mask.addMaskPlane("CR")
        exposure.mask.array[found.mask] |= np.asarray(
            exposure.mask.getPlaneBitMask("CR"), dtype=exposure.mask.array.dtype
        )
        if found.count and not self.config.cosmicray.keepCRs:
            exposure.image.array[found.mask] = found.exposure.image.array[found.mask]
        self.task.metadata["cosmic_ray_count"] = found.count

    def mask_streaks(self, exposure: Any) -> dict[str, np.ndarray]:
        """Mask streaks (plane ``STREAK``) and return them."""
        if not self.config.doMaskStreaks:
            return {}
        task = self._subtask("maskStreaks")
        if task is None:
            return self._mask_own_streaks(exposure)
        lines = task.run(exposure.maskedImage).lines
        names = ("rho", "theta", "sigma", "reducedChi2", "modelMaximum")
        return {name: np.array([getattr(line, name) for line in lines]) for name in names}

    def _mask_own_streaks(self, exposure: Any) -> dict[str, np.ndarray]:
        """Mask streaks with the finder of this package; they are returned by their ends."""
        config = MaskStreaksTask.ConfigClass()
        config.streakBinFactor = self.config.streakBinFactor
        image = visit_image_from_afw(exposure, name="difference")
        image = with_streak_plane(image)
        lines = MaskStreaksTask(config=config, name="maskStreaks").run(image).lines
        exposure.mask.addMaskPlane("STREAK")
        exposure.mask.array[image.mask.get("STREAK")] |= np.asarray(
            exposure.mask.getPlaneBitMask("STREAK"), dtype=exposure.mask.array.dtype
        )
        return {name: np.asarray(lines[name]) for name in lines.colnames}

    def find_sky_positions(self, exposure: Any) -> np.ndarray:
        """Return positions (x, y) of blank sky, ``(N, 2)``."""
        task = self._subtask("skySources")
        if task is None:
            return np.empty((0, 2))
        peaks = [f.getPeaks()[0] for f in task.run(mask=exposure.mask, seed=exposure.info.id or 1)]
        self.task.metadata["n_skySources"] = len(peaks)
        return np.array([(peak.getFx(), peak.getFy()) for peak in peaks], dtype=float).reshape(-1, 2)

    def find_glints(self, sources: Any) -> dict[str, np.ndarray]:
        """Flag the members of trails of glints and return the trails."""
        task = self._subtask("findGlints")
        if task is None:
            return {key: np.array([]) for key in _TRAIL_KEYS}
        real = sources[~np.asarray(sources["sky_source"], dtype=bool)].copy(deep=True)
        found = task.run(real)
        member = np.isin(np.asarray(sources["id"]), list(found.trailed_ids))
        if member.any():
            sources["glint_trail"] = member
        pairs = zip(_TRAIL_KEYS, _TRAIL_ATTRIBUTES, strict=True)
        return {key: np.array([getattr(t, name) for t in found.parameters]) for key, name in pairs}

    def apply_aperture_corrections(self, sources: Any, exposure: Any) -> None:
        """Apply the exposure's aperture corrections to the catalogue."""
        task = self._subtask("applyApCorr")
        if task is None:
            return
        corrections = exposure.info.getApCorrMap()
        if corrections is None:
            self.task.log.warning("The difference has no aperture corrections; none are applied.")
            return
        task.run(catalog=sources, apCorrMap=corrections)


def own_settings(cosmicray: Any) -> FindCosmicRaysConfig:
    """Return our finder's configuration, with the stack's settings where they differ from its defaults.

    Its defaults are for the counts of a CCD and its own test of shape; ours are those of our test.
    """
    config, stock = FindCosmicRaysConfig(), type(cosmicray)()
    for name in ("minSigma", "cond3_fac", "cond3_fac2", "niteration", "nCrPixelMax", "keepCRs"):
        value = getattr(cosmicray, name)
        if name == "keepCRs" or value != getattr(stock, name):
            setattr(config, name, value)
    return config


def with_streak_plane(image: Any) -> Any:
    """Return an exposure whose mask has the plane ``STREAK``, not set."""
    from lsst.images import Mask

    schema = difference_mask_schema()
    mask = Mask(schema=schema, bbox=image.bbox)
    for name in image.mask.schema.names:
        if name in schema.names and name != "STREAK":
            mask.set(name, image.mask.get(name))
    return SimpleNamespace(image=image.image, variance=image.variance, mask=mask, bbox=image.bbox)
