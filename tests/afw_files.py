"""Exposure files of the LSST stack's layout, made of objects that a test puts into the archive."""

import numpy as np
from astropy.io import fits
from small_exposures import make_wcs

from lsst.twinkles.diffim.adapters.afw.output_archive import Column, OutputArchive

STACK_FILES = ("single_gaussian", "double_gaussian", "kernel", "lincomb", "pca", "warped", "coadd")
SHAPE = (70, 90)


class TestArchive(OutputArchive):
    """An archive that tells its next number, and takes objects of several tables."""

    __test__ = False
    sky_number = 0

    @property
    def next_number(self):
        return self._last + 1

    def put_tables(self, name, module, *tables):
        """Add an object of several tables, each ``(columns, row, ...)``."""
        numbers = [self.put(name, module, columns, *rows) for columns, *rows in tables]
        # put() counts each table as an object: make them one.
        for place, entry in enumerate(self._index[-len(numbers) :]):
            self._index[len(self._index) - len(numbers) + place] = (numbers[0], entry[1], place, *entry[3:])
        return numbers[0]


def put_sky(archive, wcs):
    """Put celestial coordinates, in the form that our own writer makes."""
    from lsst.images import Box

    from lsst.twinkles.diffim.adapters.afw.sky import stack_ast_text
    from lsst.twinkles.diffim.adapters.camera import make_sky_projection

    projection = make_sky_projection(wcs, visit=1, bbox=Box.from_shape(SHAPE))
    text = f"1 SkyWcs 0 {stack_ast_text(projection).lstrip()}".encode()
    return archive.put("SkyWcs", "lsst.afw.geom", [Column("wcs", "1QB", is_array=True)], (text,))


def put_gaussian(archive, sigma=2.0):
    columns = [Column("dimensions_x", "1J", "pixel"), Column("dimensions_y", "1J", "pixel")]
    columns += [Column("sigma", "1D", "pixel")]
    return archive.put("SingleGaussianPsf", "lsst.meas.algorithms", columns, (21, 21, sigma))


def make_file(path, *, image=None, shape=SHAPE, wcs=None, **components):
    """Write an exposure; components are functions that put an object into an archive, return its number."""
    if image is None:
        image = np.random.default_rng(1).normal(0, 10, shape)
    archive = TestArchive()
    archive.sky_number = put_sky(archive, make_wcs() if wcs is None else wcs)
    components = {"SKYWCS": lambda archive: archive.sky_number, "PSF": put_gaussian} | components
    primary = fits.PrimaryHDU()
    primary.header["HIERARCH EXPINFO_V"] = 2
    primary.header["AR_HDU"] = 5
    for name, put in components.items():
        primary.header[f"HIERARCH ARCHIVE_ID_{name}"] = put(archive)
    planes = (
        ("IMAGE", image.astype("f4")),
        ("MASK", np.zeros(image.shape, "i4")),
        ("VARIANCE", np.full(image.shape, 100, "f4")),
    )
    hdus = [primary]
    for name, array in planes:
        hdus.append(fits.ImageHDU(array, name=name))
        hdus[-1].header["EXTTYPE"] = name
        hdus[-1].header["INHERIT"] = True
    hdus[1].header["BUNIT"] = "adu"
    hdus[2].header["MP_BAD"] = 0
    fits.HDUList([*hdus, *archive.hdus()]).writeto(path)
    return path


def put_pickle(archive, content=b"pickle"):
    """Put a PSF as Piff's is stored."""
    columns = [Column("bytes", "1QB", is_array=True)]
    return archive.put("PiffPsf", "lsst.meas.extensions.piff.piffPsf", columns, (content,))


def put_psfex(archive, components, *, step, degree=1, group=(0, 0)):
    """Put a PSF of PSFEx, of which ``components`` has the shape ``(C, H, W)``."""
    n, height, width = components.shape
    columns = [
        Column(name, "1J")
        for name in ("ndim", "ngroup", "ncoeff", "_size_size", "_comp_size", "_context_size")
    ]
    columns += [
        *(Column(f"averagePosition_{axis}", "1D", "pixel") for axis in "xy"),
        Column("_pixstep", "1E", "pixel"),
    ]
    scalars = (columns, (2, 1, n, 3, components.size, 2, 45.0, 35.0, step))
    columns = [
        Column("group", "2J", is_array=True),
        Column("degree", "1J", is_array=True),
        Column("basis", f"{n}D", is_array=True),
        Column("coeff", f"{n}D", is_array=True),
        Column("_size", "3J", is_array=True),
        Column("_comp", f"{components.size}E", is_array=True),
        Column("_context_first", "2D", is_array=True),
        Column("_context_second", "2D", is_array=True),
    ]
    zeros, scale = np.zeros(n), ((45.0, 35.0), (90.0, 70.0))
    row = (group, [degree], zeros, zeros, (width, height, n), components.ravel(), *scale)
    return archive.put_tables("PsfexPsf", "lsst.meas.extensions.psfex", scalars, (columns, row))
