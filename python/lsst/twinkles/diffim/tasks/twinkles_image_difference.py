"""Image differencing of the Twinkles survey: one CCD, a visit as template."""

from __future__ import annotations

__all__ = ("TwinklesImageDifferenceConfig", "TwinklesImageDifferenceTask", "set_twinkles_defaults")

from .get_template import GetCalexpAsTemplateTask
from .image_difference import ImageDifferenceConfig, ImageDifferenceTask


def set_twinkles_defaults(config: ImageDifferenceConfig) -> None:
    """Change a configuration to what is right for Twinkles.

    Parameters
    ----------
    config : `ImageDifferenceConfig`
        Configuration; changed.

    Notes
    -----
    Visits of all seeings come back to one pointing, so that the template is
    another visit and may be the wider of the two: the direction of the
    convolution is chosen from the PSFs, and the method is the one that needs
    none: their PSFs are well known. The brightest 500 stars tell as much of the
    kernel as 1000, in half the time. Noise that is not white, of exposures which
    were resampled before, is whitened by what blank sky shows, and so is the
    sky that is left set to zero. The visits of one
    pointing are taken in several bands, hence no insistence on the same one if a
    template is named; one that is not named is chosen by PSF and noise among
    those of the band.
    """
    config.selectTemplate.name = "psf"
    config.getTemplate.retarget(GetCalexpAsTemplateTask)
    config.subtract.mode = "auto"
    config.subtract.kernel.name = "zogy"
    config.subtract.maxKernelSources = 500
    config.doFinalWhitening = True
    config.doSubtractBackground = True
    config.subtractBackground.order = 2
    config.doSpatiallySampledMetrics = True
    config.doWriteMatchedExp = True
    config.requireSameBand = False


class TwinklesImageDifferenceConfig(ImageDifferenceConfig):
    """Configuration of `TwinklesImageDifferenceTask`."""

    def setDefaults(self) -> None:
        """Set what differs from the base."""
        super().setDefaults()
        set_twinkles_defaults(self)


class TwinklesImageDifferenceTask(ImageDifferenceTask):
    """Subtract a Twinkles visit from another.

    The base task with the overrides of `set_twinkles_defaults`.
    """

    ConfigClass = TwinklesImageDifferenceConfig
    _DefaultName = "imageDifference"
    config: TwinklesImageDifferenceConfig
