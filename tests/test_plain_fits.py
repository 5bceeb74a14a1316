"""FITS files as they come: the pixels and planes that are in them, or an error that says what is wrong."""

import gzip

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from small_exposures import make_wcs

from lsst.twinkles.diffim.adapters.fits_files import UnreadableExposureError
from lsst.twinkles.diffim.adapters.plain_fits import read_plain_fits
from lsst.twinkles.diffim.adapters.psfs import InvalidPsfError

SHAPE = (48, 64)
# Whole numbers, so that every integer format holds them exactly.
TRUTH = np.random.default_rng(3).integers(100, 30000, SHAPE).astype(np.float64)


def write(path, *hdus):
    """Write HDUs; if the first is an extension, after an empty primary HDU."""
    first = [] if isinstance(hdus[0], fits.PrimaryHDU) else [fits.PrimaryHDU()]
    fits.HDUList([*first, *hdus]).writeto(path)
    return path


@pytest.mark.parametrize("dtype", ["u1", ">i2", "u2", ">i4", "u4", ">i8", ">f4", "<f4", ">f8", "<f8"])
def test_every_pixel_type(tmp_path, dtype):
    truth = TRUTH % 250 if dtype == "u1" else TRUTH
    image = read_plain_fits(write(tmp_path / "a.fits", fits.PrimaryHDU(truth.astype(dtype)))).image
    assert image.dtype == np.dtype("float32") and image.dtype.isnative
    np.testing.assert_array_equal(image, truth)


def test_scaled_integers(tmp_path):
    hdu = fits.PrimaryHDU(TRUTH.copy())
    hdu.scale("int16", bscale=0.5, bzero=15000.0)
    path = write(tmp_path / "a.fits", hdu)
    assert fits.getheader(path)["BSCALE"] == 0.5 and fits.getheader(path)["BITPIX"] == 16
    np.testing.assert_allclose(read_plain_fits(path).image, TRUTH, atol=0.3)


def test_blank_integers_are_nan(tmp_path):
    hdu = fits.PrimaryHDU(TRUTH.astype("i2"))
    hdu.header["BLANK"] = int(TRUTH[5, 7])
    image = read_plain_fits(write(tmp_path / "a.fits", hdu)).image
    np.testing.assert_array_equal(np.isnan(image), TRUTH[5, 7] == TRUTH)


@pytest.mark.parametrize("compression", ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1"])
def test_tile_compression(tmp_path, compression):
    hdu = fits.CompImageHDU(TRUTH.astype("i4"), compression_type=compression)
    np.testing.assert_array_equal(read_plain_fits(write(tmp_path / "a.fits.fz", hdu)).image, TRUTH)


def test_gzipped_file(tmp_path):
    path = write(tmp_path / "a.fits.gz", fits.PrimaryHDU(TRUTH.astype("f4")))
    assert path.read_bytes().startswith(b"\x1f\x8b")
    np.testing.assert_array_equal(read_plain_fits(path).image, TRUTH)


def test_axes_of_length_one_are_dropped(tmp_path):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(TRUTH[None, None].astype("f4")))
    np.testing.assert_array_equal(read_plain_fits(path).image, TRUTH)


def test_cube_is_refused(tmp_path):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(np.ones((3, 8, 8), "f4")))
    with pytest.raises(UnreadableExposureError, match=r"HDU 0 has the shape \(3, 8, 8\)"):
        read_plain_fits(path)


def test_first_image_is_taken_of_several_and_that_is_said(tmp_path):
    path = write(tmp_path / "a.fits", fits.ImageHDU(TRUTH, name="CCD1"), fits.ImageHDU(-TRUTH, name="CCD2"))
    plain = read_plain_fits(path)
    np.testing.assert_array_equal(plain.image, TRUTH.astype("f4"))
    assert "HDU 1 taken of the 2" in plain.notes["hdu"]


@pytest.mark.parametrize("hdu", [2, "CCD2", "ccd2"])
def test_image_that_is_asked_for(tmp_path, hdu):
    path = write(tmp_path / "a.fits", fits.ImageHDU(TRUTH, name="CCD1"), fits.ImageHDU(-TRUTH, name="CCD2"))
    np.testing.assert_array_equal(read_plain_fits(path, hdu=hdu).image, -TRUTH.astype("f4"))


@pytest.mark.parametrize("hdu", [0, 7, "NOSUCH"])
def test_image_that_is_not_there(tmp_path, hdu):
    path = write(tmp_path / "a.fits", fits.ImageHDU(TRUTH, name="CCD1"))
    with pytest.raises(UnreadableExposureError, match=r"has no image. Those with an image are \[1\]"):
        read_plain_fits(path, hdu=hdu)


def test_image_called_image_is_preferred(tmp_path):
    path = write(tmp_path / "a.fits", fits.ImageHDU(-TRUTH, name="BACK"), fits.ImageHDU(TRUTH, name="SCI"))
    np.testing.assert_array_equal(read_plain_fits(path).image, TRUTH.astype("f4"))


def test_primary_header_is_inherited(tmp_path):
    primary = fits.PrimaryHDU()
    primary.header["GAIN"] = 2.5
    primary.header["EXPTIME"] = 30.0
    extension = fits.ImageHDU(TRUTH, name="SCI")
    extension.header["GAIN"] = 1.5
    header = read_plain_fits(write(tmp_path / "a.fits", primary, extension)).header
    assert header["GAIN"] == 1.5 and header["EXPTIME"] == 30.0


# Planes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, values, expected",
    [
        ("VARIANCE", 4.0, 4.0),
        ("VAR", 4.0, 4.0),
        ("IVAR", 0.25, 4.0),
        ("ERR", 2.0, 4.0),
        ("rms", 2.0, 4.0),
    ],
)
def test_noise_planes_become_variance(tmp_path, name, values, expected):
    noise = np.full(SHAPE, values)
    noise[0, :4] = [0.0, -1.0, np.nan, np.inf]
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(TRUTH), fits.ImageHDU(noise, name=name))
    variance = read_plain_fits(path).variance
    np.testing.assert_allclose(variance[1:], expected)
    assert np.isnan(variance[0, :3]).all()
    assert not np.isfinite(variance[0, 3]) or variance[0, 3] == 0  # 1 / infinity


def test_variance_without_a_good_pixel(tmp_path):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(TRUTH), fits.ImageHDU(np.zeros(SHAPE), name="VARIANCE"))
    with pytest.raises(UnreadableExposureError, match=r"no pixel that is positive.*Remove this extension"):
        read_plain_fits(path)


def test_plane_of_another_shape(tmp_path):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(TRUTH), fits.ImageHDU(np.ones((4, 4)), name="VARIANCE"))
    with pytest.raises(UnreadableExposureError, match=r"VARIANCE has the shape \(4, 4\) and the image"):
        read_plain_fits(path)


@pytest.mark.parametrize("style", ["afw", "lsst.images", "argument"])
def test_named_mask_bits(tmp_path, style):
    bits = np.zeros(SHAPE, "i4")
    bits[1, 1], bits[2, 2] = 1 << 3, 1 << 5
    mask = fits.ImageHDU(bits, name="MASK")
    if style == "afw":
        mask.header["MP_SAT"], mask.header["MP_CR"] = 3, 5
    elif style == "lsst.images":
        mask.header["MSKN0001"], mask.header["MSKM0001"] = "SATURATED", 8
        mask.header["MSKN0002"], mask.header["MSKM0002"] = "COSMIC_RAY", 32
    planes = {3: "SAT", 5: "CR"} if style == "argument" else None
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(TRUTH), mask)
    plain = read_plain_fits(path, mask_planes=planes)
    assert {name: np.argwhere(where).tolist() for name, where in plain.planes.items()} == {
        "SATURATED": [[1, 1]],
        "COSMIC_RAY": [[2, 2]],
    }
    assert "mask" not in plain.notes


def test_unnamed_mask_bits(tmp_path):
    bits = np.zeros(SHAPE, "u1")
    bits[1, 1], bits[2, 2], bits[3, 3] = 1, 2, 128
    plain = read_plain_fits(
        write(tmp_path / "a.fits", fits.PrimaryHDU(TRUTH), fits.ImageHDU(bits, name="DQ"))
    )
    assert np.argwhere(plain.planes["BAD"]).tolist() == [[1, 1], [3, 3]]
    assert np.argwhere(plain.planes["SATURATED"]).tolist() == [[2, 2]]
    assert "without names" in plain.notes["mask"]


@pytest.mark.parametrize("name", ["MASK", "PSFPOS"])
@pytest.mark.parametrize(
    "card", ["XTENSION= 'OTHER   '", "XTENSION= \0IMAGE   '", "BITPIX  = 'IMAGE   '", "XTENSION= -1"]
)
def test_extension_whose_first_card_is_damaged_is_refused(tmp_path, name, card):
    planes = {"MASK": np.zeros(SHAPE, "i4"), "PSFGRID": gaussian(2.0)[None], "PSFPOS": np.zeros((1, 2))}
    hdus = [fits.ImageHDU(array, name=key) for key, array in planes.items()]
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(TRUTH), *hdus)
    data = bytearray(path.read_bytes())
    start = data.rindex(b"XTENSION", 0, data.index(name.encode()))
    data[start : start + 80] = card.ljust(80).encode()
    path.write_bytes(data)
    with pytest.raises(UnreadableExposureError, match=r"its header is damaged|columns of PSFPOS are \[\]"):
        read_plain_fits(path)


# PSF -------------------------------------------------------------------------


def gaussian(sigma, size=15):
    r = np.arange(size) - size // 2
    stamp = np.exp(-(r[:, None] ** 2 + r**2) / (2 * sigma**2))
    return stamp / stamp.sum()


def test_single_psf_is_normalised(tmp_path):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(TRUTH), fits.ImageHDU(7 * gaussian(2.0), name="PSF"))
    grid = read_plain_fits(path).psf
    np.testing.assert_allclose(grid.evaluate(x=3.0, y=40.0), gaussian(2.0), atol=1e-9)


@pytest.mark.parametrize("as_table", [True, False])
def test_psf_grid_in_any_order(tmp_path, as_table):
    positions = np.array([[x, y] for x in (0.0, 63.0) for y in (0.0, 47.0)])[[2, 0, 3, 1]]
    cube = np.array([gaussian(1.5 + x / 100 + y / 200) for x, y in positions])
    if as_table:
        columns = [fits.Column(n, "D", array=positions[:, i]) for i, n in enumerate("XY")]
        where = fits.BinTableHDU.from_columns(columns, name="PSFPOS")
    else:
        where = fits.ImageHDU(positions, name="PSFPOS")
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(TRUTH), fits.ImageHDU(cube, name="PSFGRID"), where)
    grid = read_plain_fits(path).psf
    for (x, y), stamp in zip(positions, cube, strict=True):
        np.testing.assert_allclose(grid.evaluate(x=x, y=y), stamp, atol=1e-9)


def test_psf_grid_with_a_missing_node(tmp_path):
    positions = np.array([[0.0, 0.0], [63.0, 0.0], [0.0, 47.0]])
    hdus = (
        fits.ImageHDU(np.array([gaussian(2.0)] * 3), name="PSFGRID"),
        fits.ImageHDU(positions, name="PSFPOS"),
    )
    with pytest.raises(UnreadableExposureError, match="regular grid"):
        read_plain_fits(write(tmp_path / "a.fits", fits.PrimaryHDU(TRUTH), *hdus))


def test_psf_without_light(tmp_path):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(TRUTH), fits.ImageHDU(np.zeros((9, 9)), name="PSF"))
    with pytest.raises(InvalidPsfError, match=r"sum is not positive.*measured from the stars"):
        read_plain_fits(path)


# Header ----------------------------------------------------------------------


def test_no_header_at_all(tmp_path):
    plain = read_plain_fits(write(tmp_path / "a.fits", fits.PrimaryHDU(TRUTH)))
    assert plain.wcs is None and plain.zero_point is None and plain.unit == u.adu
    assert plain.planes is None and plain.variance is None and plain.psf is None
    assert "no BUNIT" in plain.notes["unit"]


def test_wcs(tmp_path):
    hdu = fits.PrimaryHDU(TRUTH, header=make_wcs().to_header())
    wcs = read_plain_fits(write(tmp_path / "a.fits", hdu)).wcs
    np.testing.assert_allclose(wcs.pixel_to_world_values(49.0, 49.0), (53.0, -27.4), atol=1e-9)


def test_wcs_that_does_not_work_is_none(tmp_path):
    header = make_wcs().to_header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--ZPN"
    plain = read_plain_fits(write(tmp_path / "a.fits", fits.PrimaryHDU(TRUTH, header=header)))
    assert plain.wcs is None and "cannot be used" in plain.notes["wcs"]


@pytest.mark.parametrize(
    "text, unit",
    [
        ("electron", u.electron),
        ("e-", u.electron),
        ("ADU", u.adu),
        ("counts", u.adu),
        ("nJy", u.nJy),
        ("electrons/s", u.electron / u.s),
        ("gibberish", u.adu),
    ],
)
def test_units(tmp_path, text, unit):
    hdu = fits.PrimaryHDU(TRUTH)
    hdu.header["BUNIT"] = text
    plain = read_plain_fits(write(tmp_path / "a.fits", hdu))
    assert plain.unit == unit
    assert ("unit" in plain.notes) == (text == "gibberish")


@pytest.mark.parametrize(
    "key, value, expected", [("MAGZP", 27.5, 27.5), ("FLUXMAG0", 1e12, 30.0), ("ZP", 0.0, None)]
)
def test_zero_points(tmp_path, key, value, expected):
    hdu = fits.PrimaryHDU(TRUTH)
    hdu.header[key] = value
    assert read_plain_fits(write(tmp_path / "a.fits", hdu)).zero_point == expected


# Files that cannot be read ---------------------------------------------------


def test_no_such_file(tmp_path):
    with pytest.raises(UnreadableExposureError, match="there is no such file"):
        read_plain_fits(tmp_path / "a.fits")


def test_directory(tmp_path):
    with pytest.raises(UnreadableExposureError, match="it is a directory"):
        read_plain_fits(tmp_path)


def test_empty_file(tmp_path):
    (tmp_path / "a.fits").touch()
    with pytest.raises(UnreadableExposureError, match="the file is empty"):
        read_plain_fits(tmp_path / "a.fits")


def test_not_fits(tmp_path):
    (tmp_path / "a.fits").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(UnreadableExposureError, match=r"it is not a FITS file .*PNG.*Convert it"):
        read_plain_fits(tmp_path / "a.fits")


def test_gzip_of_something_else(tmp_path):
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress(b"hello" * 1000))
    with pytest.raises(UnreadableExposureError):
        read_plain_fits(tmp_path / "a.fits.gz")


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz", "a.fits.fz"])
@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.9])
def test_truncated(tmp_path, name, fraction):
    noise = np.random.default_rng(1).normal(size=(200, 200)).astype("f4")
    hdu = (
        fits.CompImageHDU(noise, compression_type="GZIP_2", quantize_level=0) if name.endswith("fz") else None
    )
    path = write(tmp_path / name, hdu if hdu is not None else fits.PrimaryHDU(noise))
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(UnreadableExposureError):
        read_plain_fits(path)


def test_missing_padding_does_no_harm(tmp_path):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(TRUTH.astype("f4")))
    path.write_bytes(path.read_bytes()[: 2880 + 4 * TRUTH.size])
    np.testing.assert_array_equal(read_plain_fits(path).image, TRUTH)


def test_table_only(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("X", "D", array=np.arange(3.0))])
    with pytest.raises(UnreadableExposureError, match="no HDU has an image"):
        read_plain_fits(write(tmp_path / "a.fits", table))


def test_nothing_finite(tmp_path):
    path = write(tmp_path / "a.fits", fits.PrimaryHDU(np.full(SHAPE, np.nan)))
    with pytest.raises(UnreadableExposureError, match="none of its pixels is finite"):
        read_plain_fits(path)


def test_cards_that_cannot_be_parsed_are_left_out_and_named(tmp_path):
    path = tmp_path / "damaged.fits"
    header = fits.Header({"FILTER": "r", "GAIN": 1.5})
    fits.PrimaryHDU(np.ones((8, 9), "f4"), header=header).writeto(path)
    path.write_bytes(path.read_bytes().replace(b"FILTER  = 'r       '", b"FILTER  = '\0       '"))

    plain = read_plain_fits(path)

    assert "FILTER" not in plain.header and plain.header["GAIN"] == 1.5
    assert plain.notes["header"] == "cards of the header that cannot be read are left out: FILTER"
