"""Put a template onto the sky of a science exposure by their common stars."""

from __future__ import annotations

__all__ = ("RegisterConfig", "RegisterTask")

from typing import TYPE_CHECKING

import numpy as np

from lsst.pex.config import Config, RangeField
from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..adapters.registration import RegistrationError, register_exposure
from .errors import RegistrationFailedError
from .warp import template_pixel_map

if TYPE_CHECKING:
    from lsst.images import VisitImage

_ARCSEC = 180.0 / np.pi * 3600.0
_STEP = 256


class RegisterConfig(Config):
    """Configuration of `RegisterTask`."""

    matchRadius = RangeField[float](
        doc="Farthest that the coordinates of a template may move, arcsec; a match of the stars that asks "
        "for more is not believed.",
        default=1.0,
        min=0.0,
        inclusiveMin=False,
    )


class RegisterTask(Task):
    """Mend the celestial coordinates of a template such that its stars lie on those of the science exposure.

    Notes
    -----
    Stars are matched by triangles, and the transform is a polynomial of first to third order (see
    `~lsst.twinkles.diffim.algorithms.warp.register`). What is left, up to a fraction of a pixel, is absorbed
    by the matching kernel.
    """

    ConfigClass = RegisterConfig
    _DefaultName = "register"
    config: RegisterConfig

    @timeMethod
    def run(self, template: VisitImage, science: VisitImage) -> Struct:
        """Register.

        Parameters
        ----------
        template, science : `lsst.images.VisitImage`
            Template, and the exposure onto which it is registered; not modified.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``registered`` (`lsst.images.VisitImage`): the template with other celestial coordinates;
            ``largestShift`` (`float`): by how many pixels of the science exposure they moved at most.

        Raises
        ------
        RegistrationFailedError
            The stars do not tell, or ask for more than ``matchRadius``.
        """
        try:
            found = register_exposure(template, science)
        except RegistrationError as error:
            raise RegistrationFailedError(
                f"The template cannot be registered onto the science exposure (doUseRegister): {error}. Set "
                "doUseRegister=False to trust its WCS.",
                nScienceStars=error.n_second,
                nTemplateStars=error.n_first,
                nMatched=error.n_matched,
            ) from error
        shift = _largest_shift(template, found.exposure, science)
        scale = _pixel_scale(science)
        if shift * scale > self.config.matchRadius:
            raise RegistrationFailedError(
                f"Registration would move the template by {shift * scale:.2f} arcsec, beyond "
                f"register.matchRadius={self.config.matchRadius:g}; look at the WCS of both exposures, or "
                "raise it.",
                largestShift=shift,
                matchRadius=self.config.matchRadius,
            )
        self.metadata["registerLargestShift"] = shift
        self.metadata["registerScatter"] = found.registration.scatter
        self.metadata["registerNMatched"] = found.registration.n_matched
        self.log.info("Template %s; its coordinates moved by up to %.3f pixels.", found.note, shift)
        return Struct(registered=found.exposure, largestShift=shift)


def _largest_shift(before: VisitImage, after: VisitImage, science: VisitImage) -> float:
    """Return by how many pixels the place of a science pixel in a template moves at most."""
    maps = [template_pixel_map(exposure, science, step=_STEP) for exposure in (before, after)]
    return float(np.nanmax(np.hypot(maps[1].x - maps[0].x, maps[1].y - maps[0].y)))


def _pixel_scale(exposure: VisitImage) -> float:
    """Return the side of a pixel at the centre of an exposure in arcsec."""
    box = exposure.bbox
    x, y = box.x.center + np.array([0.0, 1.0, 0.0]), box.y.center + np.array([0.0, 0.0, 1.0])
    sky = exposure.sky_projection.pixel_to_sky(x=x, y=y)
    return float(np.sqrt(np.prod([sky[0].separation(sky[k]).radian for k in (1, 2)])) * _ARCSEC)
