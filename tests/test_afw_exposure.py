"""Exposures of the LSST stack, read without it: they hold what the stack itself says they hold.

The real files and the stack's own values lie in ../shared/data/afw; without them the tests of the archive,
which make their own files, remain.
"""

import json
import logging
import pickle
import re
import warnings

import astropy.units as u
import numpy as np
import pytest
from afw_files import STACK_FILES, make_file, put_pickle, put_psfex
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_exposures import draw_stars, make_exposure, make_wcs

from lsst.twinkles.diffim.adapters import read_afw_exposure
from lsst.twinkles.diffim.adapters.afw.exposure import is_afw_file
from lsst.twinkles.diffim.adapters.afw.output_archive import Column
from lsst.twinkles.diffim.adapters.afw.write import write_afw_exposure
from lsst.twinkles.diffim.adapters.fits_files import UnreadableExposureError
from lsst.twinkles.diffim.adapters.masks import resolve_plane_name
from lsst.twinkles.diffim.adapters.psfs import psf_sigma, sample_psf
from lsst.twinkles.diffim.adapters.read_exposure import has_sky, read_exposure

# Files that the stack wrote ---------------------------------------------------


@pytest.fixture(scope="module", params=STACK_FILES)
def stack_file(request, shared_data):
    """An exposure, what the stack says of it, and its PSF images."""
    folder = shared_data / "afw"
    path = folder / f"{request.param}.fits"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    truth = json.loads((folder / "truth.json").read_text())[request.param]
    with np.load(folder / f"{request.param}.psf.npz") as images:
        return path, read_afw_exposure(path), truth, dict(images)


def test_pixels_are_those_of_the_stack(stack_file):
    path, exposure, truth, _ = stack_file
    assert exposure.image.array.sum(dtype=float) == pytest.approx(truth["image_sum"], rel=1e-12)
    assert exposure.variance.array.sum(dtype=float) == pytest.approx(truth["variance_sum"], rel=1e-12)
    x0, y0, width, height = truth["bbox"]
    assert (exposure.bbox.x.start, exposure.bbox.y.start) == (x0, y0)
    assert exposure.image.array.shape == (height, width)
    bits = fits.getdata(path, 2)
    for name, bit in truth["mask_planes"].items():
        expected = bits >> bit & 1 == 1
        resolved = name if name == "TWINKLE" else resolve_plane_name(name)
        assert np.array_equal(exposure.mask.get(resolved), expected), name
    assert truth["mask_or"] >> truth["mask_planes"]["TWINKLE"] & 1, "a plane that only some task knows is set"


def test_sky_is_that_of_the_stack(stack_file):
    _, exposure, truth, _ = stack_file
    x, y, ra, dec = np.array(truth["sky"]).T
    sky = exposure.sky_projection.pixel_to_sky(x=x, y=y)
    offset = np.hypot((sky.ra.deg - ra) * np.cos(np.radians(dec)), sky.dec.deg - dec)
    assert offset.max() * 3600e3 < 1e-3  # mas; the bar is 1
    assert has_sky(exposure)


def test_fluxes_are_those_of_the_stack(stack_file):
    _, exposure, truth, _ = stack_file
    x, y, flux = np.array(truth["nJy"]).T
    scaling = exposure.photometric_scaling
    np.testing.assert_allclose(1000 * np.asarray(scaling(x=x, y=y)), flux, rtol=1e-12)
    assert scaling.unit == u.nJy / u.adu


def test_psf_is_that_of_the_stack(stack_file):
    _, exposure, truth, images = stack_file
    assert exposure.psf.average_position == pytest.approx(truth["average_position"], abs=1e-9)
    for n, (x, y) in enumerate(truth["points"]):
        expected = images[f"kernel{n}"]
        kernel = exposure.psf.compute_kernel_image(x=x, y=y)
        height, width = (side // 2 for side in expected.shape)
        inner = kernel.bbox.factory[-height : height + 1, -width : width + 1]
        np.testing.assert_allclose(kernel[inner].array, expected, rtol=0, atol=1e-9 * expected.max())
        assert kernel.array.sum() == pytest.approx(expected.sum(), abs=1e-9)
        star, expected = exposure.psf.compute_stellar_image(x=x, y=y), images[f"image{n}"]
        assert [star.bbox.x.start, star.bbox.y.start] == list(images[f"image{n}_xy0"])
        np.testing.assert_allclose(star.array, expected, rtol=0, atol=1e-9 * expected.max())


def test_psf_has_the_width_that_the_stack_measures(stack_file):
    _, exposure, truth, _ = stack_file
    widths = [psf_sigma(exposure.psf.compute_kernel_image(x=x, y=y).array) for x, y in truth["points"]]
    # Both from adaptive moments; the stack's algorithm stops iterating earlier.
    np.testing.assert_allclose(widths, truth["determinant_radius"], rtol=2e-3)


def test_what_is_known_of_the_visit(stack_file):
    _, exposure, _, _ = stack_file
    info = exposure.obs_info
    assert (exposure.band, exposure.physical_filter) == ("r", "r_03")
    assert (info.visit_id, info.instrument, info.detector_exposure_id) == (230, "TwinklesCam", 2301)
    assert info.exposure_time == 30 * u.s and info.boresight_airmass == 1.0944
    middle = info.datetime_begin + (info.datetime_end - info.datetime_begin) / 2
    assert middle.tai.isot == "2022-01-01T03:16:52.500"


def test_read_exposure_knows_such_files_by_themselves(stack_file):
    path, exposure, _, _ = stack_file
    assert is_afw_file(path)
    again = read_exposure(path)
    np.testing.assert_array_equal(again.image.array, exposure.image.array)
    assert type(again.psf) is type(exposure.psf)


def read_layouts(file):
    """Return names, formats, units, field classes and flags of the columns of each table of an archive."""
    tables = {}
    with fits.open(file) as hdus:
        for hdu in hdus[4:]:
            cards = {
                key: re.sub(r"[(].*", "", str(value))
                for key, value in hdu.header.items()
                if key.startswith(("TTYPE", "TFORM", "TUNIT", "TCCLS", "TFLAG"))
            }
            tables.setdefault(hdu.header["EXTNAME"], cards)
    return tables


def test_what_is_written_has_the_tables_of_the_stack(stack_file, tmp_path):
    """The stack refuses tables whose columns are not, one by one, those of the class."""
    path, exposure, _, _ = stack_file
    write_afw_exposure(exposure, tmp_path / "again.fits")
    stack, ours = read_layouts(path), read_layouts(tmp_path / "again.fits")
    common = set(stack) & set(ours)
    assert {"ARCHIVE_INDEX", "FilterLabel", "PhotoCalib", "SkyWcs", "ChebyshevBoundedField"} <= common
    for name in common:
        for key, value in stack[name].items():
            written = ours[name][key]
            if key.startswith("TFORM") and name in ("LinearCombinationKernel", "FixedKernel"):
                value, written = value[-1], written[-1]  # the lengths of arrays are the object's own
            assert written == value, (name, key)
        assert set(ours[name]) == set(stack[name])


# Files of our own -------------------------------------------------------------


def read(tmp_path, **objects):
    return read_afw_exposure(make_file(tmp_path / "a.fits", **objects))


def gaussian_images(sigma, size):
    r = np.arange(size) - size // 2
    return np.exp(-(r[:, None] ** 2 + r**2) / (2 * sigma**2))


KERNEL = [Column(f"{what}_{axis}", "1J", "pixel") for what in ("dimensions", "center") for axis in "xy"]
POSITION = [Column("averagePosition_x", "1D", "pixel"), Column("averagePosition_y", "1D", "pixel")]
SQUARE = (21, 21, 10, 10)


def put_fixed(archive, image):
    size = image.shape[0]
    row = (size, size, size // 2, size // 2, image.ravel())
    columns = [*KERNEL, Column("image", f"{image.size}D", is_array=True)]
    return archive.put("FixedKernel", "lsst.afw.math", columns, row)


def put_kernel_psf(archive, kernel):
    columns = [Column("kernel", "1J"), *POSITION]
    return archive.put("KernelPsf", "lsst.meas.algorithms", columns, (kernel, 30.0, 40.0))


def test_combination_with_constant_amplitudes(tmp_path):
    narrow, wide = gaussian_images(1.5, 21), gaussian_images(3.0, 21)

    def psf(archive):
        parts = [put_fixed(archive, image) for image in (narrow, wide)]
        columns = [
            *KERNEL,
            Column("components", "2J", is_array=True),
            Column("amplitudes", "2D", is_array=True),
        ]
        row = (*SQUARE, parts, [0.75, 0.25])
        return put_kernel_psf(archive, archive.put("LinearCombinationKernel", "lsst.afw.math", columns, row))

    image = read(tmp_path, PSF=psf).psf.compute_kernel_image(x=3.0, y=50.0).array
    expected = 0.75 * narrow + 0.25 * wide
    np.testing.assert_allclose(image, expected / expected.sum(), atol=1e-15)


def test_combination_with_chebyshev_functions(tmp_path):
    """Against numpy's own series: the order of the terms, and the scale of the coordinates."""
    rng = np.random.default_rng(3)
    first, second = gaussian_images(1.5, 21), gaussian_images(3.0, 21)
    coefficients = np.array([1.0, *rng.uniform(-0.1, 0.1, 9)])
    corners = (-0.5, -0.5, 89.5, 69.5)

    def psf(archive):
        columns = [Column("coefficients", "10D", is_array=True)]
        columns += [Column(f"{end}_{axis}", "1D", "pixel") for end in ("min", "max") for axis in "xy"]
        one = np.array([1.0, *np.zeros(9)])
        functions = [
            archive.put("Chebyshev1Function2D", "lsst.afw.math", columns, (c, *corners))
            for c in (coefficients, one)
        ]
        parts = [put_fixed(archive, image) for image in (first, second)]
        columns = [*KERNEL, Column("spatialfunctions", "2J", is_array=True)]
        columns += [Column("components", "2J", is_array=True)]
        kernel = archive.put("LinearCombinationKernel", "lsst.afw.math", columns, (*SQUARE, functions, parts))
        return put_kernel_psf(archive, kernel)

    x, y = 62.0, 11.0
    image = read(tmp_path, PSF=psf).psf.compute_kernel_image(x=x, y=y).array
    tx = np.polynomial.chebyshev.chebvander((x - 44.5) / 45, 3)
    ty = np.polynomial.chebyshev.chebvander((y - 34.5) / 35, 3)
    pairs = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3)]
    weight = sum(c * tx[0, i] * ty[0, j] for c, (i, j) in zip(coefficients, pairs, strict=True))
    expected = weight * first + second
    np.testing.assert_allclose(image, expected / expected.sum(), atol=1e-14)


def test_analytic_kernel_varies_with_its_functions(tmp_path):
    """An elliptical Gaussian whose first width grows along x, turned by 0.3 radian."""

    def psf(archive):
        columns = [Column(name, "1D") for name in ("sigma1", "sigma2", "angle")]
        family = archive.put("GaussianFunction2D", "lsst.afw.math", columns, (1.0, 1.0, 0.0))
        columns = [Column("coefficients", "3D", is_array=True)]
        functions = [
            archive.put("PolynomialFunction2D", "lsst.afw.math", columns, (np.array(c),))
            for c in ([2.0, 0.01, 0.0], [1.5, 0.0, 0.0], [0.3, 0.0, 0.0])
        ]
        columns = [*KERNEL, Column("spatialfunctions", "3J", is_array=True), Column("kernelfunction", "1J")]
        kernel = archive.put("AnalyticKernel", "lsst.afw.math", columns, (*SQUARE, functions, family))
        return put_kernel_psf(archive, kernel)

    image = read(tmp_path, PSF=psf).psf.compute_kernel_image(x=60.0, y=5.0).array
    v, w = np.mgrid[-10:11, -10:11]
    # Axis 1 points to x = cos 0.3, y = sin 0.3.
    along, across = w * np.cos(0.3) + v * np.sin(0.3), v * np.cos(0.3) - w * np.sin(0.3)
    expected = np.exp(-0.5 * ((along / 2.6) ** 2 + (across / 1.5) ** 2))
    np.testing.assert_allclose(image, expected / expected.sum(), atol=1e-15)


def test_psfex_gives_the_gaussian_it_was_made_of(tmp_path):
    """Components sampled twice a pixel: a Gaussian of 2 pixels, which x adds to and y takes from."""
    step, sigma = 0.5, 2.0
    size = 45
    shape = gaussian_images(sigma / step, size)
    components = np.array([shape, 0.2 * shape, -0.1 * shape])
    psf = read(tmp_path, PSF=lambda archive: put_psfex(archive, components, step=step)).psf
    assert psf.average_position == (45.0, 35.0)
    kernel = psf.compute_kernel_image(x=20.0, y=30.0)
    assert kernel.array.shape == (23, 23)  # 45 / 2, made odd
    expected = gaussian_images(sigma, 23)
    np.testing.assert_allclose(kernel.array, expected / expected.sum(), atol=2e-4 * expected.max())
    star = psf.compute_stellar_image(x=20.3, y=30.8)
    assert (star.bbox.x.start, star.bbox.y.start) == (20 - 11, 31 - 11)
    v, w = np.mgrid[20:43, 9:32]
    expected = np.exp(-((w - 20.3) ** 2 + (v - 30.8) ** 2) / (2 * sigma**2))
    np.testing.assert_allclose(star.array, expected / expected.sum(), atol=2e-4 * expected.max())


@pytest.mark.parametrize("group, degrees, n", [((0, 0), [2], 6), ((0, 1), [1, 2], 6)])
def test_psfex_terms_run_over_x_first(group, degrees, n):
    from lsst.twinkles.diffim.algorithms.read.psfex import PsfexModel

    x, y = 0.7, -0.4
    expected = {
        (0, 0): [1, x, x * x, y, x * y, y * y],
        (0, 1): [1, x, y, x * y, y * y, x * y * y],
    }[group]
    # A component that holds one pixel of its own, so that the image shows each term by itself.
    for term, value in enumerate(expected):
        components = np.zeros((n, 25, 25))
        components[0, 12, 12] = 1.0
        components[term, 12, 6] += 1.0
        model = PsfexModel(components.astype("f4"), group, tuple(degrees), (10.0, 20.0), (2.0, 5.0), 1.0)
        image = model.image(x=10.0 + 2.0 * x, y=20.0 + 5.0 * y).array
        assert image[12, 6] / image[12, 12] == pytest.approx(value, abs=1e-6)


def test_old_wcs_with_sip_is_the_fits_one(tmp_path):
    """What the stack stored before 2018, against astropy on the same numbers."""
    header = make_wcs(crpix=(40.0, 30.0), angle=0.4).to_header()
    wcs = WCS(header)
    cd = wcs.pixel_scale_matrix
    a, b = np.zeros((3, 3)), np.zeros((3, 3))
    a[2, 0], a[1, 1], b[0, 2] = 1e-5, -2e-5, 3e-5

    def sky(archive):
        columns = [
            Column(f"{key}_{axis}", "1D", unit)
            for key, unit in (("crval", "deg"), ("crpix", "pixel"))
            for axis in "xy"
        ]
        columns += [Column("cd", "4D", is_array=True), Column("ctype1", "72A"), Column("ctype2", "72A")]
        columns += [Column("equinox", "1D"), *(Column(k, "72A") for k in ("radesys", "cunit1", "cunit2"))]
        row = (53.0, -27.4, 39.0, 29.0, cd.T.ravel(), "RA---TAN", "DEC--TAN", 2000.0, "ICRS", "deg", "deg")
        sip_columns = [Column(k, "9D", is_array=True) for k in ("A", "B", "Ap", "Bp")]
        sip_row = (a.T.ravel(), b.T.ravel(), np.zeros(9), np.zeros(9))
        return archive.put_tables("TanWcs", "lsst.afw.image", (columns, row), (sip_columns, sip_row))

    exposure = read(tmp_path, SKYWCS=sky)
    sip = wcs.deepcopy()
    sip.wcs.ctype = "RA---TAN-SIP", "DEC--TAN-SIP"
    from astropy.wcs import Sip

    sip.sip = Sip(a, b, None, None, (40.0, 30.0))
    x, y = np.array([0.0, 39.0, 88.0]), np.array([5.0, 29.0, 60.0])
    expected = sip.pixel_to_world(x, y)
    assert exposure.sky_projection.pixel_to_sky(x=x, y=y).separation(expected).mas.max() < 1e-3


def test_calibration_from_before_2018(tmp_path):
    def calibration(archive):
        columns = [Column("fluxmag0", "1D", "count"), Column("fluxmag0.err", "1D", "count")]
        return archive.put("Calib", "lsst.afw.image", columns, (1e12, 0.0))

    scaling = read(tmp_path, PHOTOCALIB=calibration).photometric_scaling
    assert float(scaling(x=1.0, y=1.0)) == pytest.approx(3631e9 / 1e12)


def test_calibration_by_a_product_with_the_pixel_area(tmp_path):
    """On a tangent plane a pixel's area falls with the cube of the cosine of its distance."""
    box = [Column(f"bbox_{end}_{axis}", "1J", "pixel") for end in ("min", "max") for axis in "xy"]
    corners = (0, 0, 89, 69)

    def calibration(archive):
        columns = [Column("order_x", "1J"), *box, Column("coefficients", "2D", is_array=True)]
        linear = archive.put(
            "ChebyshevBoundedField", "lsst.afw.math", columns, (1, *corners, np.array([2.0, 0.5]))
        )
        columns = [*box, Column("wcs", "1J"), Column("scaling", "1D")]
        area = archive.put(
            "PixelAreaBoundedField", "lsst.afw.math", columns, (*corners, archive.sky_number, 1e10)
        )
        product = archive.put(
            "ProductBoundedField", "lsst.afw.math", [Column("id", "1J")], (linear,), (area,)
        )
        columns = [Column("calibrationMean", "1D", "count"), Column("calibrationErr", "1D", "count")]
        columns += [Column("isConstant", "flag"), Column("field", "1J"), Column("version", "1J")]
        return archive.put("PhotoCalib", "", columns, (0.02, 0.0, False, product, 1))

    # 20 arcseconds a pixel, so that the field spans a fraction of a radian.
    scale = 20.0 / 3600
    wcs = make_wcs(crpix=(45.5, 35.5), scale=scale)
    exposure = read_afw_exposure(make_file(tmp_path / "a.fits", wcs=wcs, PHOTOCALIB=calibration))
    x, y = np.array([0.0, 44.5, 80.0]), np.array([60.0, 34.5, 3.0])
    value = np.asarray(exposure.photometric_scaling(x=x, y=y))
    pixel = np.radians(scale)
    distance = np.arctan(pixel * np.hypot(x - 44.5, y - 34.5))
    expected = (2.0 + 0.5 * (x - 44.5) / 45) * 1e10 * pixel**2 * np.cos(distance) ** 3
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_polygon_and_aperture_corrections(tmp_path):
    box = [Column(f"bbox_{end}_{axis}", "1J", "pixel") for end in ("min", "max") for axis in "xy"]

    def polygon(archive):
        columns = [Column("vertices_x", "1D", "pixel"), Column("vertices_y", "1D", "pixel")]
        return archive.put("Polygon", "lsst.afw.geom", columns, (0, 0), (60, 0), (60, 50), (0, 50))

    def corrections(archive):
        columns = [Column("order_x", "1J"), *box, Column("coefficients", "1D", is_array=True)]
        field = archive.put("ChebyshevBoundedField", "lsst.afw.math", columns, (0, 0, 0, 89, 69, [0.9]))
        columns = [Column("name", "64A"), Column("field", "1J")]
        return archive.put("ApCorrMap", "lsst.afw.image", columns, ("base_PsfFlux_instFlux", field))

    exposure = read(tmp_path, VALID_POLYGON=polygon, AP_CORR_MAP=corrections)
    assert exposure.bounds.contains(x=30.0, y=30.0) and not exposure.bounds.contains(x=70.0, y=30.0)
    assert float(exposure.aperture_corrections["base_PsfFlux_instFlux"](x=1.0, y=1.0)) == 0.9


def test_detector_is_kept(tmp_path):
    def detector(archive):
        columns = [Column("name", "16A"), Column("id", "1J"), Column("type", "1J"), Column("serial", "16A")]
        columns += [Column(f"bbox_{end}_{axis}", "1J", "pixel") for end in ("min", "max") for axis in "xy"]
        row = ("R01_S22", 8, 0, "ITL-3800C", -10, -20, 3999, 4071)
        amplifiers = ([Column("name", "16A")], ("C00",), ("C01",))
        return archive.put_tables("Detector", "lsst.afw.cameraGeom", (columns, row), amplifiers)

    exposure = read(tmp_path, DETECTOR=detector)
    assert exposure.obs_info.detector_num == 8 and exposure.obs_info.detector_unique_name == "R01_S22"
    assert exposure.sky_projection.pixel_frame.detector == 8
    assert exposure.detector.bbox.x.start == -10 and exposure.detector.bbox.y.stop == 4072


# Coadds ----------------------------------------------------------------------


def put_coadd(archive, boxes, *, weights=(1.0, 3.0), polygon=0):
    columns = [Column("dimensions_x", "1J", "pixel"), Column("dimensions_y", "1J", "pixel")]
    columns += [Column("sigma", "1D", "pixel")]
    psfs = [
        archive.put("SingleGaussianPsf", "lsst.meas.algorithms", columns, (25, 25, s)) for s in (1.5, 2.5)
    ]
    first = [Column("coaddwcs", "1J"), Column("cachesize", "1J"), Column("avgpos_x", "1D", "pixel")]
    first += [Column("avgpos_y", "1D", "pixel"), Column("warpingkernelname", "32A")]
    columns = [Column(name, "1J") for name in ("wcs", "psf", "validPolygon")] + [Column("id", "1K")]
    columns += [Column(f"bbox_{end}_{axis}", "1J", "pixel") for end in ("min", "max") for axis in "xy"]
    columns += [Column("weight", "1D")]
    rows = [
        (archive.sky_number, psf, polygon, n, *box, weight)
        for n, (psf, box, weight) in enumerate(zip(psfs, boxes, weights, strict=True))
    ]
    heading = (archive.sky_number, 10000, 40.0, 30.0, "lanczos5")
    return archive.put_tables("CoaddPsf", "lsst.meas.algorithms", (first, heading), (columns, *rows))


def test_coadd_takes_the_exposures_that_are_there(tmp_path):
    """Two exposures on the coadd's own pixels that overlap between x = 30 and 60: there the weighted mean."""
    boxes = [(0, 0, 60, 69), (30, 0, 89, 69)]
    exposure = read(tmp_path, PSF=lambda archive: put_coadd(archive, boxes))
    narrow, wide = (gaussian_images(s, 25) / gaussian_images(s, 25).sum() for s in (1.5, 2.5))
    for x, expected in ((10.0, narrow), (45.0, 0.25 * narrow + 0.75 * wide), (80.0, wide)):
        image = exposure.psf.compute_kernel_image(x=x, y=30.0).array
        # The same grid: the warp does nothing but look its weights up half a step of its cache aside.
        np.testing.assert_allclose(image, expected, atol=1e-4 * expected.max())


def test_coadd_has_gaps(tmp_path):
    """Between two exposures that do not meet there is no PSF; sampling fills the gap from the nearest."""
    from lsst.images import BoundsError

    boxes = [(0, 0, 30, 69), (60, 0, 89, 69)]
    exposure = read(tmp_path, PSF=lambda archive: put_coadd(archive, boxes))
    with pytest.raises(BoundsError, match=r"No exposure of the coadd covers x=45.0"):
        exposure.psf.compute_kernel_image(x=45.0, y=30.0)
    assert np.isfinite(sample_psf(exposure.psf, exposure.bbox).stamps).all()


# What cannot be read ----------------------------------------------------------


def test_unknown_component_is_named_and_left_out(tmp_path, caplog):
    def strange(archive):
        return archive.put("FlavourOfTheMonth", "lsst.strange", [Column("taste", "1D")], (3.0,))

    with caplog.at_level(logging.WARNING):
        exposure = read(tmp_path, FLAVOUR=strange)
    sentence = "component FLAVOUR (a FlavourOfTheMonth) is not known and left out"
    assert exposure.metadata["skippedFLAVOUR"] == sentence and sentence in caplog.text


def test_calibration_that_cannot_be_read_is_left_out(tmp_path, caplog):
    def calibration(archive):
        return archive.put("SplineCalib", "lsst.strange", [Column("taste", "1D")], (3.0,))

    with caplog.at_level(logging.WARNING):
        exposure = read(tmp_path, PHOTOCALIB=calibration)
    assert exposure.photometric_scaling is None
    assert "component PHOTOCALIB cannot be read and is left out: SplineCalib" in caplog.text


def test_unknown_psf_is_refused_with_the_cure(tmp_path):
    def psf(archive):
        return archive.put("MoffatPsf", "lsst.strange", [Column("beta", "1D")], (3.0,))

    with pytest.raises(UnreadableExposureError, match=r"its PSF, MoffatPsf, no class of.*--psf stars"):
        read(tmp_path, PSF=psf)


class Bomb:
    """A pickle that leaves a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_no_pickle_is_executed(tmp_path):
    trace = tmp_path / "executed"
    text = pickle.dumps((25, 25, Bomb(trace)))
    pickle.loads(text)
    assert trace.exists(), "the bomb is one"
    trace.unlink()

    with pytest.raises(UnreadableExposureError, match=r"stored as a pickle.*not opened.*--psf stars"):
        read(tmp_path, PSF=lambda archive: put_pickle(archive, text))
    assert not trace.exists()


def test_psf_from_the_stars_instead(tmp_path):
    positions = [(20 + 30 * i, 20 + 30 * j) for i in range(6) for j in range(6)]
    image = draw_stars((200, 200), positions, sigma=1.7, flux=20000.0)
    image += np.random.default_rng(1).normal(0, 10, image.shape)

    path = make_file(tmp_path / "a.fits", image=image, PSF=put_pickle)
    exposure = read_exposure(path, psf="stars")
    assert psf_sigma(sample_psf(exposure.psf, exposure.bbox)) == pytest.approx(1.7, rel=0.02)
    assert "madePsf" in exposure.metadata


def test_objects_that_refer_to_each_other_are_refused(tmp_path):
    def psf(archive):
        columns = [Column("psfIndex", "1J"), Column("transformIndex", "1J"), Column("controlIndex", "1J")]
        number = archive.put("WarpedPsf", "lsst.meas.algorithms", columns, (archive.next_number, 1, 1))
        assert number == archive.next_number - 1
        return number

    with pytest.raises(UnreadableExposureError, match=r"refer to each other in a circle"):
        read(tmp_path, PSF=psf)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"\n *End \w+", ""),  # an object that does not end
        (r"Begin WcsMap", "Begin ZoomMap"),
        (r"\n *MapB =(?=\n)", ""),
        (r"MapB =(?=\n)", "MapX ="),
        (r"\n( *)Naxes = 2", r"\n\1 x Naxes = 2"),
        (r"Frm1 =(?=\n)", "Frm1 = 1"),
    ],
)
def test_coordinates_that_ast_would_not_survive_are_refused(tmp_path, old, new):
    """Such texts end the process within AST."""
    path = make_file(tmp_path / "a.fits")
    with fits.open(path) as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU) and "wcs" in hdu.columns.names]
        text = bytes(tables[0].data["wcs"][0]).decode()
    damaged, count = re.subn(old, new, text, count=1)
    assert count == 1
    from lsst.twinkles.diffim.adapters.afw.sky import SkySystem

    system = SkySystem(damaged[damaged.index("Begin") :])
    with pytest.raises(ValueError, match="AST text"):
        system.to_sky(0.0, 0.0)


def test_file_without_its_archive_is_refused(tmp_path):
    path = make_file(tmp_path / "a.fits")
    with fits.open(path) as hdus:
        fits.HDUList(hdus[:5]).writeto(tmp_path / "cut.fits")
    with pytest.raises(UnreadableExposureError, match=r"its archive should have .* tables and has 1"):
        read_afw_exposure(tmp_path / "cut.fits")


def test_plain_file_is_refused(tmp_path):
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((9, 9)))]).writeto(tmp_path / "a.fits")
    assert not is_afw_file(tmp_path / "a.fits")
    with pytest.raises(UnreadableExposureError, match=r"no table archive"):
        read_afw_exposure(tmp_path / "a.fits")


@pytest.fixture(scope="module")
def good_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("afw") / "a.fits"
    psf = gaussian_images(2.0, 11)
    make_file(path, shape=(24, 24), PSF=lambda archive: put_kernel_psf(archive, put_fixed(archive, psf)))
    return path


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=4),
    kept=st.floats(0.2, 1.0),
)
def test_damaged_files_end_in_a_sentence(good_file, tmp_path, changes, kept):
    """Whatever bytes are wrong, the reader either reads or says why not; nothing else comes out of it."""
    content = bytearray(good_file.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path / "damaged.fits"
    path.write_bytes(content[: int(kept * len(content))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy says what it finds, too
        try:
            read_afw_exposure(path)
        except UnreadableExposureError as error:
            assert str(path) in str(error)


# What is written ---------------------------------------------------------------


def test_exposure_comes_back_as_it_was(tmp_path):
    rng = np.random.default_rng(2)
    exposure = make_exposure(rng.normal(100, 10, (60, 80)), visit=42, start=(7, -3), sigma=1.8)
    exposure.mask.set("SATURATED", np.arange(80) < np.arange(60)[:, None])
    exposure.mask.set("NOT_DEBLENDED", np.eye(60, 80, dtype=bool))
    write_afw_exposure(exposure, tmp_path / "a.fits")
    again = read_afw_exposure(tmp_path / "a.fits")
    np.testing.assert_array_equal(again.image.array, exposure.image.array)
    np.testing.assert_array_equal(again.variance.array, exposure.variance.array)
    assert again.bbox == exposure.bbox and again.unit == exposure.unit
    for name in exposure.mask.schema.names:
        np.testing.assert_array_equal(again.mask.get(name), exposure.mask.get(name))
    x, y = np.array([-3.0, 40.0, 76.0]), np.array([7.0, 30.0, 66.0])
    there, here = (e.sky_projection.pixel_to_sky(x=x, y=y) for e in (again, exposure))
    assert there.separation(here).mas.max() < 1e-6
    assert (again.band, again.obs_info.visit_id) == (exposure.band, 42)
    np.testing.assert_allclose(
        again.psf.compute_stellar_image(x=10.0, y=20.0).array,
        exposure.psf.compute_stellar_image(x=10.0, y=20.0).array,
        atol=1e-12,
    )


def test_varying_psf_comes_back_as_it_was(tmp_path):
    """A Piff PSF of second order is exactly of the form that is written."""
    from lsst.twinkles.diffim.adapters.psfs import psf_from_grid
    from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid

    nodes = np.linspace(0, 99, 6)
    wide, narrow = (gaussian_images(s, 25) / gaussian_images(s, 25).sum() for s in (3.0, 2.0))
    part = (nodes[:, None] / 99) * (nodes / 99)
    stamps = narrow + part[..., None, None] * (wide - narrow)
    exposure = make_exposure(np.zeros((100, 100)), start=(11, 13))
    exposure.psf = psf_from_grid(PsfGrid(stamps=stamps, x=nodes, y=nodes), exposure.bbox)
    write_afw_exposure(exposure, tmp_path / "a.fits")
    again = read_afw_exposure(tmp_path / "a.fits")
    for x, y in ((13.0, 11.0), (50.0, 61.0), (101.0, 99.0)):
        expected = exposure.psf.compute_kernel_image(x=x, y=y).array
        image = again.psf.compute_kernel_image(x=x, y=y).array
        np.testing.assert_allclose(image, expected, atol=1e-6 * expected.max())


def test_calibration_comes_back_as_it_was(tmp_path):
    from lsst.images.fields import ChebyshevField

    exposure = make_exposure(np.zeros((60, 80)))
    coefficients = np.array([[2.0, 0.1, 0.02], [-0.2, 0.03, 0.0]])
    exposure.photometric_scaling = ChebyshevField(exposure.bbox, coefficients, unit=u.nJy / u.electron)
    write_afw_exposure(exposure, tmp_path / "a.fits")
    again = read_afw_exposure(tmp_path / "a.fits")
    x, y = np.array([0.0, 33.0, 79.0]), np.array([59.0, 21.0, 3.0])
    np.testing.assert_allclose(again.photometric_scaling(x=x, y=y), exposure.photometric_scaling(x=x, y=y))
    with fits.open(tmp_path / "a.fits") as hdus:
        mean = hdus["PhotoCalib"].data["calibrationMean"][0]
    yy, xx = np.mgrid[:60:0.25, :80:0.25] - 0.375
    assert mean == pytest.approx(float(np.mean(exposure.photometric_scaling(x=xx, y=yy))), rel=1e-5)


def test_calibrated_image_has_a_factor_of_one(tmp_path):
    exposure = make_exposure(np.ones((40, 40)), unit=u.nJy)
    write_afw_exposure(exposure, tmp_path / "a.fits")
    again = read_afw_exposure(tmp_path / "a.fits")
    assert again.unit == u.nJy and again.photometric_scaling is None
    with fits.open(tmp_path / "a.fits") as hdus:
        assert hdus["PhotoCalib"].data["calibrationMean"][0] == 1.0


def test_long_notes_are_kept(tmp_path):
    exposure = make_exposure(np.ones((40, 40)))
    exposure.metadata["madeVariance"] = "a sentence that is longer than a card of a header has room for " * 2
    exposure.metadata["scale"] = 1.5
    exposure.metadata["nothing"] = float("nan")
    write_afw_exposure(exposure, tmp_path / "a.fits")
    header = fits.getheader(tmp_path / "a.fits")
    assert header["scale"] == 1.5 and "longer than a card" in str(header["COMMENT"])
