"""PSF models of the LSST stack without the stack: they give the images that the stack gives.

Each is an `lsst.images.psfs.PointSpreadFunction`, so that all tasks can use it. `lsst.images` cannot write
them: `~lsst.twinkles.diffim.adapters.psfs.serialisable_psf` turns one into a model that it can.
"""

from __future__ import annotations

__all__ = ("PSF_READERS", "AfwPsf", "CoaddInput", "CoaddPsf", "KernelPsf", "PsfexPsf", "WarpedPsf")

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, override

import numpy as np

from lsst.images import BoundsError, Box, Image
from lsst.images.psfs import PointSpreadFunction

from ...algorithms.read.psfex import PsfexModel
from ...algorithms.warp.stamps import Stamp, add_stamps, shift_stamp, split_position, warp_stamp
from .archive import AfwComponentError, Reader, StoredObject, TableArchive
from .kernels import AnalyticKernel, Kernel, double_gaussian, gaussian
from .sky import PixelTransform, SkySystem

if TYPE_CHECKING:
    from lsst.images import Bounds, Polygon

# Positions an axis at which the size of the stamps is looked up.
_N_LOOK = 5
# The average position that the stack gives a model that has none.
_NO_POSITION = (0.0, 0.0)


class AfwPsf(PointSpreadFunction):
    """A PSF that computes what one of the stack's would.

    Attributes
    ----------
    average_position : `tuple` [`float`, `float`]
        Position x, y that stands for the model.
    """

    average_position: tuple[float, float] = _NO_POSITION
    _bounds: Bounds | None = None

    @abstractmethod
    def kernel_stamp(self, *, x: float, y: float) -> Stamp:
        """Return the image at a position, centred on pixel (0, 0)."""

    def star_stamp(self, *, x: float, y: float) -> Stamp:
        """Return the image of a star at a position."""
        i, dx = split_position(x)
        j, dy = split_position(y)
        shifted = shift_stamp(self.kernel_stamp(x=x, y=y), dx=dx, dy=dy)
        return Stamp(shifted.array, shifted.x0 + i, shifted.y0 + j)

    def within(self, bounds: Bounds) -> AfwPsf:
        """Say where the model is valid; returns itself."""
        self._bounds = bounds
        return self

    @property
    @override
    def bounds(self) -> Bounds:
        if self._bounds is None:
            raise ValueError("A PSF that is part of another has no bounds of its own.")
        return self._bounds

    @cached_property
    def kernel_bbox(self) -> Box:
        """The smallest square box around (0, 0) that holds the images at positions all over the bounds."""
        area = self.bounds.bbox
        half = 0
        for y in np.linspace(area.y.min, area.y.max, _N_LOOK):
            for x in np.linspace(area.x.min, area.x.max, _N_LOOK):
                try:
                    stamp = self.kernel_stamp(x=float(x), y=float(y))
                except BoundsError:
                    continue
                height, width = stamp.array.shape
                half = max(half, -stamp.x0, -stamp.y0, stamp.x0 + width - 1, stamp.y0 + height - 1)
        return Box.factory[-half : half + 1, -half : half + 1]

    @override
    def compute_kernel_image(self, *, x: float, y: float) -> Image:
        box = self.kernel_bbox
        stamp = self.kernel_stamp(x=float(x), y=float(y))
        image = np.zeros((box.y.size, box.x.size))
        height, width = stamp.array.shape
        # Stamps of warped models vary in size; what sticks out of the largest seen is next to nothing.
        j0, i0 = max(stamp.y0, box.y.min), max(stamp.x0, box.x.min)
        j1, i1 = min(stamp.y0 + height, box.y.stop), min(stamp.x0 + width, box.x.stop)
        image[j0 - box.y.min : j1 - box.y.min, i0 - box.x.min : i1 - box.x.min] = stamp.array[
            j0 - stamp.y0 : j1 - stamp.y0, i0 - stamp.x0 : i1 - stamp.x0
        ]
        return Image(image, bbox=box)

    @override
    def compute_stellar_image(self, *, x: float, y: float) -> Image:
        stamp = self.star_stamp(x=float(x), y=float(y))
        return Image(stamp.array.copy(), bbox=_box(stamp))

    @override
    def compute_stellar_bbox(self, *, x: float, y: float) -> Box:
        return _box(self.star_stamp(x=float(x), y=float(y)))


def _box(stamp: Stamp) -> Box:
    height, width = stamp.array.shape
    return Box.factory[stamp.y0 : stamp.y0 + height, stamp.x0 : stamp.x0 + width]


class KernelPsf(AfwPsf):
    """A PSF given by a kernel, which may vary.

    Parameters
    ----------
    kernel : `Kernel`
        Its kernel.
    average_position : `tuple` [`float`, `float`], optional
        Position x, y that stands for the model.
    """

    def __init__(self, kernel: Kernel, average_position: tuple[float, float] = _NO_POSITION) -> None:
        self.kernel = kernel
        self.average_position = average_position

    @cached_property
    def _constant(self) -> Stamp:
        return self.kernel.image(x=self.average_position[0], y=self.average_position[1])

    @override
    def kernel_stamp(self, *, x: float, y: float) -> Stamp:
        return self.kernel.image(x=x, y=y) if self.kernel.is_varying else self._constant


class PsfexPsf(AfwPsf):
    """A PSF of PSFEx (Bertin 2011).

    Parameters
    ----------
    model : `PsfexModel`
        Its numbers.
    average_position : `tuple` [`float`, `float`]
        Position x, y that stands for the model.
    """

    def __init__(self, model: PsfexModel, average_position: tuple[float, float]) -> None:
        self.model = model
        self.average_position = average_position

    @override
    def kernel_stamp(self, *, x: float, y: float) -> Stamp:
        return self.model.image(x=x, y=y)

    @override
    def star_stamp(self, *, x: float, y: float) -> Stamp:
        return self.model.image(x=x, y=y, centre=(x, y))


@dataclass(frozen=True)
class WarpingControl:
    """How a PSF is warped: order of the Lanczos weights (1 and ``bilinear`` for linear ones), cache size."""

    order: int
    cache_size: int
    bilinear: bool = False

    @classmethod
    def from_name(cls, name: str, cache_size: int) -> WarpingControl:
        """Return the control of a kernel's name, as ``lanczos3`` or ``bilinear``."""
        if name == "bilinear":
            return cls(1, cache_size, bilinear=True)
        if (match := re.fullmatch(r"lanczos(\d+)", name)) is None or not 1 <= int(match[1]) <= 50:
            raise AfwComponentError("WarpingControl", f"the warping kernel {name!r} is not known")
        return cls(int(match[1]), cache_size)


class WarpedPsf(AfwPsf):
    """A PSF of one pixel grid as it is seen on another.

    Parameters
    ----------
    psf : `AfwPsf`
        The PSF.
    transform : `PixelTransform`
        From its pixels to those of this one.
    control : `WarpingControl`
        How to interpolate.
    """

    def __init__(self, psf: AfwPsf, transform: PixelTransform, control: WarpingControl) -> None:
        self.psf = psf
        self.transform = transform
        self.control = control
        x, y = transform.forward(*psf.average_position)
        self.average_position = float(x), float(y)

    @override
    def kernel_stamp(self, *, x: float, y: float) -> Stamp:
        matrix, offset = self.transform.linearise_inverse(x=x, y=y)
        # The image is that of a star in the middle of the nearest pixel, shifted to (0, 0).
        centre = np.array([_round_half_away(x), _round_half_away(y)])
        offset = offset + matrix @ centre
        star = self.psf.star_stamp(x=float(offset[0]), y=float(offset[1]))
        control = self.control
        return warp_stamp(
            star,
            matrix,
            offset,
            order=control.order,
            cache_size=control.cache_size,
            bilinear=control.bilinear,
        )


def _round_half_away(value: float) -> float:
    return float(np.copysign(np.floor(abs(value) + 0.5), value))


@dataclass(frozen=True)
class CoaddInput:
    """An exposure that went into a coadd.

    Attributes
    ----------
    number : `int`
        Its identifier.
    psf, sky : `AfwPsf`, `SkySystem`
        PSF and celestial coordinates of its pixels.
    box : `tuple` [`int`, `int`, `int`, `int`]
        Least x, y and greatest x, y of its pixels.
    polygon : `lsst.images.Polygon` or `None`
        Where its pixels are valid, if not everywhere.
    weight : `float`
        Its weight.
    """

    number: int
    psf: AfwPsf
    sky: SkySystem
    box: tuple[int, int, int, int]
    polygon: Polygon | None
    weight: float

    def contains(self, ra: float, dec: float) -> bool:
        """Tell whether a position in radian is on it."""
        x, y = map(float, self.sky.to_pixel(ra, dec))
        x1, y1, x2, y2 = self.box
        inside = x1 - 0.5 <= x < x2 + 0.5 and y1 - 0.5 <= y < y2 + 0.5
        return inside and (self.polygon is None or bool(self.polygon.contains(x=x, y=y)))


class CoaddPsf(AfwPsf):
    """The PSF of a coadd: at each position the mean of those of the exposures that are there.

    Parameters
    ----------
    inputs : sequence of `CoaddInput`
        The exposures.
    sky : `SkySystem`
        Celestial coordinates of the coadd's pixels.
    control : `WarpingControl`
        How to warp their PSFs.
    average_position : `tuple` [`float`, `float`]
        Position x, y that stands for the model.
    """

    def __init__(
        self,
        inputs: Sequence[CoaddInput],
        sky: SkySystem,
        control: WarpingControl,
        average_position: tuple[float, float],
    ) -> None:
        self.inputs = tuple(inputs)
        self.sky = sky
        self.average_position = average_position
        self._warped = [WarpedPsf(i.psf, i.sky.then(sky), control) for i in self.inputs]

    @override
    def kernel_stamp(self, *, x: float, y: float) -> Stamp:
        ra, dec = map(float, self.sky.to_sky(x, y))
        there = [n for n, entry in enumerate(self.inputs) if entry.contains(ra, dec)]
        if not there:
            raise BoundsError(f"No exposure of the coadd covers x={x:.1f}, y={y:.1f}.")
        stamps = [self._warped[n].kernel_stamp(x=x, y=y) for n in there]
        return add_stamps(stamps, [self.inputs[n].weight for n in there])


# Readers ---------------------------------------------------------------------


def _dimensions(row: dict[str, Any]) -> tuple[int, int, int, int]:
    width, height = int(row["dimensions_x"]), int(row["dimensions_y"])
    if not (0 < width <= 10_000 and 0 < height <= 10_000):
        raise ValueError(f"a PSF of {width} x {height} pixels")
    return width, height, (width - 1) // 2, (height - 1) // 2


def _read_gaussian(archive: TableArchive, stored: StoredObject) -> KernelPsf:
    row = stored.row()
    sigma = float(row["sigma"])
    return KernelPsf(AnalyticKernel(*_dimensions(row), gaussian, (sigma, sigma, 0.0)))


def _read_double_gaussian(archive: TableArchive, stored: StoredObject) -> KernelPsf:
    row = stored.row()
    sigma1, sigma2, ratio = (float(row[key]) for key in ("sigma1", "sigma2", "b"))
    sigma2 = sigma2 or 1.0  # the stack stores 0 for a second Gaussian that is not there
    return KernelPsf(AnalyticKernel(*_dimensions(row), double_gaussian, (sigma1, sigma2, ratio)))


def _read_kernel(archive: TableArchive, stored: StoredObject) -> KernelPsf:
    row = stored.row()
    kernel = archive.get(row["kernel"])
    if not isinstance(kernel, Kernel):
        raise AfwComponentError(stored.name, "it has no kernel")
    return KernelPsf(kernel, (float(row["averagePosition_x"]), float(row["averagePosition_y"])))


def _read_control(archive: TableArchive, stored: StoredObject) -> WarpingControl:
    row = stored.row()
    kernel = archive.get(row["warpingKernelIndex"])
    return WarpingControl.from_name(kernel, int(row["cacheSize"]))


def _read_warped(archive: TableArchive, stored: StoredObject) -> WarpedPsf:
    row = stored.row()
    parts = [archive.get(row[key]) for key in ("psfIndex", "transformIndex", "controlIndex")]
    psf, transform, control = parts
    if not (
        isinstance(psf, AfwPsf)
        and isinstance(transform, PixelTransform)
        and isinstance(control, WarpingControl)
    ):
        raise AfwComponentError(stored.name, "its PSF, its transform or its interpolation is missing")
    return WarpedPsf(psf, transform, control)


def _read_coadd(archive: TableArchive, stored: StoredObject) -> CoaddPsf:
    if len(stored.tables) == 1:  # before 2014: the coadd's own coordinates are those of the last row
        *rows, last = stored.tables[0]
        sky, control, position = archive.get(last["wcs"]), WarpingControl(3, 10_000), _NO_POSITION
    else:
        first, rows = stored.row(0), stored.tables[1]
        sky = archive.get(first["coaddwcs"])
        control = WarpingControl.from_name(str(first["warpingkernelname"]).strip(), int(first["cachesize"]))
        position = float(first["avgpos_x"]), float(first["avgpos_y"])
    if not isinstance(sky, SkySystem) or not rows:
        raise AfwComponentError(stored.name, "it has no exposures, or no celestial coordinates")
    return CoaddPsf([_coadd_input(archive, stored, row) for row in rows], sky, control, position)


def _coadd_input(archive: TableArchive, stored: StoredObject, row: dict[str, Any]) -> CoaddInput:
    psf, sky = archive.get(row["psf"]), archive.get(row["wcs"])
    polygon = archive.get(row["validPolygon"]) if row.get("validPolygon") else None
    if not isinstance(psf, AfwPsf) or not isinstance(sky, SkySystem):
        raise AfwComponentError(stored.name, f"exposure {row['id']} has no PSF or no celestial coordinates")
    box = tuple(int(row[f"bbox_{end}_{axis}"]) for end in ("min", "max") for axis in "xy")
    return CoaddInput(int(row["id"]), psf, sky, box, polygon, float(row["weight"]))  # type: ignore[arg-type]


def _read_polygon(archive: TableArchive, stored: StoredObject) -> Polygon:
    from lsst.images import Polygon

    rows = stored.tables[0]
    return Polygon(
        x_vertices=np.array([float(row["vertices_x"]) for row in rows]),
        y_vertices=np.array([float(row["vertices_y"]) for row in rows]),
    )


def _read_psfex(archive: TableArchive, stored: StoredObject) -> PsfexPsf:
    scalars, arrays = stored.row(0), stored.row(1)
    size = np.atleast_1d(arrays["_size"])
    width, height, n = int(size[0]), int(size[1]), int(size[2]) if len(size) > 2 else 1
    if len(np.atleast_1d(arrays["_context_first"])) != 2:
        raise AfwComponentError(stored.name, "only PSFs that vary with x and y, and nothing else, are known")
    model = PsfexModel(
        components=np.asarray(arrays["_comp"], dtype=np.float32).reshape(n, height, width),
        group=tuple(int(g) for g in np.atleast_1d(arrays["group"])),
        degrees=tuple(int(d) for d in np.atleast_1d(arrays["degree"])),
        offset=tuple(float(v) for v in arrays["_context_first"]),
        scale=tuple(float(v) for v in arrays["_context_second"]),
        step=float(scalars["_pixstep"]),
    )
    return PsfexPsf(model, (float(scalars["averagePosition_x"]), float(scalars["averagePosition_y"])))


def _refuse_piff(archive: TableArchive, stored: StoredObject) -> Any:
    raise AfwComponentError(
        "PiffPsf",
        "it is stored as a pickle, a program that would run when it is read, and is therefore not opened",
        "Convert the exposure where the stack is set up, with lsst.images.VisitImage.from_legacy and its "
        "write, or have the PSF measured from the stars (--psf stars, psf='stars')",
    )


PSF_READERS: dict[str, Reader] = {
    "SingleGaussianPsf": _read_gaussian,
    "GaussianPsf": _read_gaussian,
    "DoubleGaussianPsf": _read_double_gaussian,
    "KernelPsf": _read_kernel,
    "PcaPsf": _read_kernel,
    "PsfexPsf": _read_psfex,
    "PiffPsf": _refuse_piff,
    "WarpedPsf": _read_warped,
    "CoaddPsf": _read_coadd,
    "WarpingControl": _read_control,
    "LanczosWarpingKernel": lambda archive, stored: f"lanczos{int(stored.row()['order'])}",
    "BilinearWarpingKernel": lambda archive, stored: "bilinear",
    "Polygon": _read_polygon,
}
"""Readers of PSFs, and of what they consist of, by name of class."""
