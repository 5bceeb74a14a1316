"""afw for the tests of `lsst.twinkles.diffim.stack`: the real one where the stack is set up, else `fake_afw`.

    import stack_here as afw

gives ``afw.ExposureF``, ``afw.GaussianPsf`` and the like wherever they live. What only the plain-Python
classes have skips the test that asks for it where the real ones are set up.
"""

import importlib
from contextlib import contextmanager
from unittest import mock

import fake_afw
import pytest

try:
    import lsst.ip.diffim  # noqa: F401 (all of the stack that is needed here comes with it)
    from lsst.afw.image import ExposureF as _ExposureF
except ImportError:
    IS_REAL = False
else:
    IS_REAL = _ExposureF.__module__.startswith("lsst.afw")

_PLACES = {item.__name__: module for module, items in fake_afw._MODULES.items() for item in items}
_PLACES |= {"LinearCombinationKernel": "lsst.afw.math", "KernelPsf": "lsst.meas.algorithms"}


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    if not IS_REAL:
        return getattr(fake_afw, name)
    if name not in _PLACES:
        need_plain_python()
    return getattr(importlib.import_module(_PLACES[name]), name)


@contextmanager
def install():
    """Let imports of the stack find afw within a ``with`` block."""
    if IS_REAL:
        yield
        return
    from lsst.images import SkyProjection

    with fake_afw.install(), mock.patch.object(SkyProjection, "to_legacy", _to_fake_wcs):
        yield


def _to_fake_wcs(projection):
    """Stand in for the one conversion that needs astshim."""
    from lsst.images import Box

    return fake_afw.SkyWcs(projection.as_fits_wcs(Box.factory[0:10, 0:10], allow_approximation=True))


def make_sky_wcs(wcs):
    """Return an `astropy.wcs.WCS` of the array whose first pixel is (0, 0) as a SkyWcs."""
    if not IS_REAL:
        return fake_afw.SkyWcs(wcs)
    from lsst.afw.geom import makeSkyWcs
    from lsst.daf.base import PropertyList

    metadata = PropertyList()
    for card in wcs.to_header().cards:
        metadata.set(card.keyword, card.value)
    return makeSkyWcs(metadata)


def make_detector(number):
    """Return a detector of which nothing but the number is looked at."""
    if not IS_REAL:
        return fake_afw.Detector(number)
    from lsst.afw.cameraGeom.testUtils import DetectorWrapper

    return DetectorWrapper(id=number).detector


def need_plain_python():
    """Skip a test whose objects only the plain-Python afw lets be made."""
    if IS_REAL:
        pytest.skip("needs objects that Python cannot make of the stack's afw")


def forget_mask_planes():
    """Leave masks with the planes that they have from the start."""
    need_plain_python()
    fake_afw.Mask.reset()


def stack_task(place, ours):
    """Return a task of ip_diffim (``"module.Class"``), or ours in its place where it is not set up."""
    if not IS_REAL:
        return ours
    module, _, name = place.rpartition(".")
    return getattr(importlib.import_module(f"lsst.ip.diffim.{module}"), name)


def write_as_the_stack(exposure, path):
    """Write an afw exposure: the stack does, or else the package on the stack's behalf."""
    if IS_REAL:
        exposure.writeFits(str(path))
        return
    from lsst.twinkles.diffim.adapters.afw.write import write_afw_exposure
    from lsst.twinkles.diffim.stack.exposures import visit_image_from_afw

    write_afw_exposure(visit_image_from_afw(exposure, name="exposure"), path)


class Opened:
    """What the stack finds in a file, or the second reader of these tests where it is not set up.

    Attributes
    ----------
    image, variance : `numpy.ndarray`
        Pixels.
    planes : `dict` [`str`, `numpy.ndarray`]
        Where each mask plane is set.
    xy0 : `tuple` [`int`, `int`]
        First pixel.
    band : `str`
        Name of the band.
    nanojansky : `float`
        Of one count.
    """

    def __init__(self, path):
        if IS_REAL:
            exposure = __getattr__("ExposureF").readFits(str(path))
            planes, bits = exposure.mask.array, exposure.mask.getMaskPlaneDict()
            self.image, self.variance = exposure.image.array, exposure.variance.array
            self.xy0, self.band = (exposure.getX0(), exposure.getY0()), exposure.filter.bandLabel
            self.nanojansky = exposure.photoCalib.getCalibrationMean()
            self.sky = lambda x, y: tuple(v.item() for v in exposure.wcs.pixelToSkyArray([x], [y], True))
            self.psf = lambda x, y: exposure.psf.computeKernelImage(__getattr__("Point2D")(x, y)).array
        else:
            from stack_reader import read_as_the_stack

            from lsst.twinkles.diffim.adapters import read_afw_exposure

            found = read_as_the_stack(path)
            (self.image, planes, self.variance), bits = found["planes"], found["bits"]
            parts = found["components"]
            self.xy0, self.band = found["xy0"], parts["FILTER"][1]["band"].strip()
            self.nanojansky = parts["PHOTOCALIB"][1]["calibrationMean"]
            exposure = read_afw_exposure(path)
            self.sky = lambda x, y: _degrees(exposure.sky_projection.pixel_to_sky(x=x, y=y))
            self.psf = lambda x, y: exposure.psf.compute_kernel_image(x=x, y=y).array
        self.planes = {name: (planes >> bit & 1).astype(bool) for name, bit in bits.items()}


def _degrees(position):
    return position.ra.deg, position.dec.deg
