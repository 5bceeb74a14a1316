"""The image difference tasks by name, for pipelines that choose among them."""

from __future__ import annotations

__all__ = ("imageDifferenceRegistry",)

from lsst.pex.config import makeRegistry

from .image_difference import ImageDifferenceConfig, ImageDifferenceTask
from .twinkles_image_difference import TwinklesImageDifferenceTask

imageDifferenceRegistry = makeRegistry(  # noqa: N816 (as registries of the stack are named)
    "Tasks that subtract a template from a science exposure and measure what is left.",
    configBaseType=ImageDifferenceConfig,
)
"""Registry of image difference tasks.

In the configuration of another pipeline::

    difference = imageDifferenceRegistry.makeField("Difference imaging.", default="twinkles")

Another survey adds its own with ``imageDifferenceRegistry.register(name, Task)``.
"""

imageDifferenceRegistry.register("imageDifference", ImageDifferenceTask)
imageDifferenceRegistry.register("twinkles", TwinklesImageDifferenceTask)
