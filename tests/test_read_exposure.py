"""read_exposure: what a file has is kept, what it lacks is made well enough and said."""

import logging

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from lsst.images import VisitImage
from plain_scenes import FWHM_PER_SIGMA, make_scene
from small_exposures import draw_stars, make_exposure, make_wcs

from lsst.twinkles.diffim.adapters.fits_files import UnreadableExposureError
from lsst.twinkles.diffim.adapters.psfs import InvalidPsfError, psf_fwhm, psf_sigma, sample_psf
from lsst.twinkles.diffim.adapters.read_exposure import has_sky, read_exposure, with_sky_projection

GAIN, READ_NOISE = 1.5, 5.0


@pytest.fixture(scope="module")
def scene():
    return make_scene(gain=GAIN, read_noise=READ_NOISE)


def gaussian_stamp(sigma, size=25):
    r = np.arange(size) - size // 2
    stamp = np.exp(-(r[:, None] ** 2 + r**2) / (2 * sigma**2))
    return stamp / stamp.sum()


def write_plain(path, image, *, header=None, psf=1.8, **planes):
    primary = fits.PrimaryHDU(image, header=header)
    hdus = [primary, *(fits.ImageHDU(array, name=name) for name, array in planes.items())]
    if psf is not None:
        hdus.append(fits.ImageHDU(gaussian_stamp(psf), name="PSF"))
    fits.HDUList(hdus).writeto(path)
    return path


def header_with(**cards):
    return fits.Header(list(cards.items()))


# Nothing lacks ---------------------------------------------------------------


def test_complete_plain_file_is_taken_as_it_is(tmp_path, scene):
    header = make_wcs(crpix=(30.0, 40.0)).to_header()
    header.update({"BUNIT": "electron", "ZP": 30.0, "FILTER": "r_sdss", "EXPTIME": 30.0, "VISIT": 17})
    mask = np.zeros(scene.image.shape, "i4")
    mask[10, 20] = 2
    path = write_plain(
        tmp_path / "a.fits", scene.image, header=header, MASK=mask, VARIANCE=scene.true_variance
    )
    exposure = read_exposure(path)
    np.testing.assert_array_equal(exposure.image.array, scene.image)
    np.testing.assert_allclose(exposure.variance.array, scene.true_variance, rtol=1e-6)
    assert np.argwhere(exposure.mask.get("SATURATED")).tolist() == [[10, 20]]
    assert exposure.unit == u.electron and exposure.variance.unit == u.electron**2
    assert exposure.band == "r" and exposure.obs_info.visit_id == 17
    assert exposure.obs_info.physical_filter == "r_sdss"
    assert psf_sigma(sample_psf(exposure.psf, exposure.bbox)) == pytest.approx(1.8, rel=1e-3)
    sky = exposure.sky_projection.pixel_to_sky(x=29.0, y=39.0)
    assert (sky.ra.deg, sky.dec.deg) == pytest.approx((53.0, -27.4), abs=1e-7)
    assert has_sky(exposure)
    assert not [key for key in exposure.metadata if key.startswith("made")]


def test_zero_point_becomes_the_photometric_scaling(tmp_path, scene):
    path = write_plain(tmp_path / "a.fits", scene.image, header=header_with(MAGZP=31.4))
    scaling = read_exposure(path).photometric_scaling
    # 3631 Jy is AB magnitude 0, so that 31.4 is one nJy and 28.9 are ten.
    assert float(scaling(x=10.0, y=10.0)) == pytest.approx(3631e9 * 10 ** (-0.4 * 31.4))
    assert scaling.unit == u.nJy / u.adu
    other = read_exposure(path, zero_point=28.9)
    assert float(other.photometric_scaling(x=0.0, y=0.0)) == pytest.approx(10.0, rel=1e-3)


def test_exposure_survives_its_own_file(tmp_path, scene):
    """What is read from a plain file can be written by lsst.images and read back."""
    exposure = read_exposure(write_plain(tmp_path / "a.fits", scene.image, header=header_with(GAIN=GAIN)))
    exposure.write(str(tmp_path / "b.fits"))
    back = read_exposure(tmp_path / "b.fits")
    assert isinstance(back, VisitImage)
    np.testing.assert_array_equal(back.image.array, exposure.image.array)
    np.testing.assert_array_equal(back.variance.array, exposure.variance.array)
    assert back.metadata["madeVariance"] == exposure.metadata["madeVariance"]
    assert not has_sky(back)


def test_lsst_images_file_is_read_as_it_is(tmp_path):
    exposure = make_exposure(draw_stars((60, 70), [(30, 30)], sigma=2.0, flux=1e4), visit=230, band="i")
    exposure.write(str(tmp_path / "a.fits"))
    back = read_exposure(tmp_path / "a.fits")
    np.testing.assert_array_equal(back.image.array, exposure.image.array)
    assert back.obs_info.visit_id == 230 and back.band == "i" and has_sky(back)


def test_damaged_lsst_images_file(tmp_path):
    exposure = make_exposure(np.ones((60, 70)))
    exposure.write(str(tmp_path / "a.fits"))
    data = (tmp_path / "a.fits").read_bytes()
    (tmp_path / "a.fits").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableExposureError, match=r"a\.fits"):
        read_exposure(tmp_path / "a.fits")


# Variance --------------------------------------------------------------------


def compare_variance(exposure, scene):
    """Return the ratio of claimed to true variance in the sky and under the stars."""
    ratio = exposure.variance.array / scene.true_variance
    light = scene.model - np.median(scene.model)
    # The photons of a star matter where they add half of the sky's variance or more.
    stars = light > 0.5 * np.median(scene.model)
    return float(np.median(ratio[light < 1.0])), float(ratio[stars].mean())


def test_variance_from_gain(tmp_path, scene):
    header = header_with(GAIN=GAIN, RDNOISE=READ_NOISE, BUNIT="adu")
    exposure = read_exposure(write_plain(tmp_path / "a.fits", scene.image, header=header))
    assert compare_variance(exposure, scene) == pytest.approx((1.0, 1.0), abs=0.05)
    assert "from the gain 1.5 and the read noise 5" in exposure.metadata["madeVariance"]


def test_variance_from_gain_of_the_command_line(tmp_path, scene):
    """The header is wrong by a factor of four, which the pixels contradict."""
    path = write_plain(tmp_path / "a.fits", scene.image, header=header_with(GAIN=4 * GAIN))
    believed = read_exposure(path)
    assert compare_variance(believed, scene)[0] == pytest.approx(1.0, abs=0.05)
    assert "wrong gain" in believed.metadata["madeVariance"]
    told = read_exposure(path, gain=GAIN, read_noise=READ_NOISE)
    assert compare_variance(told, scene) == pytest.approx((1.0, 1.0), abs=0.05)


def test_variance_from_scatter_when_the_sky_is_there(tmp_path):
    scene = make_scene(gain=GAIN, read_noise=0.0)
    exposure = read_exposure(write_plain(tmp_path / "a.fits", scene.image))
    assert compare_variance(exposure, scene) == pytest.approx((1.0, 1.0), abs=0.06)
    assert "follows from sky over scatter" in exposure.metadata["madeVariance"]


def test_variance_from_scatter_when_the_sky_was_subtracted(tmp_path, scene):
    image = scene.image - np.float32(400.0)
    exposure = read_exposure(write_plain(tmp_path / "a.fits", image))
    sky, stars = compare_variance(exposure, scene)
    assert sky == pytest.approx(1.0, abs=0.05) and stars < 0.9
    assert "no gain is known" in exposure.metadata["madeVariance"]


def test_variance_of_a_subtracted_sky_with_gain(tmp_path, scene):
    path = write_plain(tmp_path / "a.fits", scene.image - np.float32(400.0), header=header_with(GAIN=GAIN))
    assert compare_variance(read_exposure(path), scene) == pytest.approx((1.0, 1.0), abs=0.06)


def test_gaps_of_a_variance_plane_are_masked_and_filled(tmp_path, scene):
    variance = scene.true_variance.copy()
    variance[5, :10] = 0.0
    variance[6, :10] = np.nan
    exposure = read_exposure(write_plain(tmp_path / "a.fits", scene.image, VARIANCE=variance))
    assert (exposure.variance.array > 0).all()
    assert exposure.mask.get("BAD")[5:7, :10].all() and exposure.mask.get("BAD").sum() == 20
    assert "20 pixels" in exposure.metadata["markedBAD"]


# Mask ------------------------------------------------------------------------


def test_mask_of_a_bare_image(tmp_path, scene):
    image = scene.image.copy()
    image[:7] = 0.0  # a border that a registration filled
    image[100, 100] = np.nan
    image[150:152, 150:152] = 50000.0  # too few to be known by their number
    exposure = read_exposure(write_plain(tmp_path / "a.fits", image, header=header_with(SATURATE=50000)))
    no_data, saturated = exposure.mask.get("NO_DATA"), exposure.mask.get("SATURATED")
    assert no_data[:9].all() and no_data[100, 100] and no_data[9:].sum() == 1
    assert saturated[150:152, 150:152].all() and 4 < saturated.sum() < 60
    assert np.isnan(exposure.image.array[100, 100])
    for words in ("1 not finite", f"{9 * image.shape[1]} of a blank border", "level 50000 from the header"):
        assert words in exposure.metadata["madeMask"]


def test_saturation_level_is_found_where_pixels_pile_up(tmp_path):
    scene = make_scene(n_stars=30, seed=8)
    image = np.minimum(scene.image, np.float32(2500.0))
    clipped = scene.model > 2600
    assert clipped.sum() > 30
    exposure = read_exposure(write_plain(tmp_path / "a.fits", image))
    assert exposure.mask.get("SATURATED")[clipped].all()
    assert "pile up" in exposure.metadata["madeMask"]


def test_infinite_pixels_are_saturated(tmp_path, scene):
    image = scene.image.copy()
    image[40, 50], image[60, 70] = np.inf, -np.inf
    exposure = read_exposure(write_plain(tmp_path / "a.fits", image))
    assert exposure.mask.get("SATURATED")[40, 50] and exposure.mask.get("NO_DATA")[60, 70]
    assert np.isnan(exposure.image.array[[40, 60], [50, 70]]).all()


def test_hot_pixels_are_marked_where_there_is_no_mask(tmp_path, scene):
    image = scene.image.copy()
    image[5::50, 7::50] += 800.0  # thirty times the noise of a pixel
    hot = image != scene.image
    exposure = read_exposure(write_plain(tmp_path / "a.fits", image))
    bad = exposure.mask.get("BAD")
    assert bad[hot].mean() > 0.9 and not (bad & ~hot).any()
    assert "sharper than the PSF" in exposure.metadata["markedBAD"]
    with_mask = write_plain(tmp_path / "b.fits", image, MASK=np.zeros(image.shape, "u1"))
    assert not read_exposure(with_mask).mask.get("BAD").any()


def test_all_pixels_masked(tmp_path, scene):
    path = write_plain(tmp_path / "a.fits", scene.image, MASK=np.ones(scene.image.shape, "u1"))
    with pytest.raises(UnreadableExposureError, match="every pixel is masked"):
        read_exposure(path)


# PSF and WCS -----------------------------------------------------------------


def test_psf_is_measured_from_the_stars(tmp_path, scene):
    exposure = read_exposure(write_plain(tmp_path / "a.fits", scene.image, psf=None))
    fwhm = psf_fwhm(sample_psf(exposure.psf, exposure.bbox))
    assert fwhm == pytest.approx(FWHM_PER_SIGMA * scene.sigma, rel=0.02)
    assert "stars with Piff" in exposure.metadata["madePsf"]


def test_no_psf_and_no_stars(tmp_path):
    sky = np.random.default_rng(1).normal(100.0, 5.0, (128, 128)).astype("f4")
    with pytest.raises(InvalidPsfError, match=r"no isolated, unsaturated one.*Add an extension PSF"):
        read_exposure(write_plain(tmp_path / "a.fits", sky, psf=None))


def test_no_wcs_is_said_and_known(tmp_path, scene, caplog):
    with caplog.at_level(logging.WARNING):
        exposure = read_exposure(write_plain(tmp_path / "a.fits", scene.image))
    assert not has_sky(exposure)
    assert "sky positions mean nothing" in exposure.metadata["madeWcs"]
    assert "a guess" in exposure.metadata["assumedPixelScale"]
    header = header_with(PIXSCALE=0.4)
    known = read_exposure(write_plain(tmp_path / "b.fits", scene.image, header=header))
    assert "assumedPixelScale" not in known.metadata
    a, b = (known.sky_projection.pixel_to_sky(x=150.0 + d, y=150.0) for d in (0.0, 10.0))
    assert a.separation(b).arcsec == pytest.approx(4.0)
    assert "a.fits: no WCS in the header" in caplog.text


def test_projection_of_another_exposure(tmp_path, scene):
    header = make_wcs().to_header()
    first = read_exposure(write_plain(tmp_path / "a.fits", scene.image, header=header))
    second = read_exposure(write_plain(tmp_path / "b.fits", scene.image), sky_projection=first.sky_projection)
    for exposure in (second, with_sky_projection(second, first.sky_projection)):
        a, b = (e.sky_projection.pixel_to_sky(x=7.0, y=200.0) for e in (first, exposure))
        assert a.separation(b).arcsec < 1e-6
    assert "pixels of the other image" in second.metadata["madeWcs"]
    assert with_sky_projection(second, first.sky_projection).psf is second.psf


@pytest.mark.parametrize(("keyword", "hdu"), [("WCSAXES", 1), ("NAXIS", 2)])
def test_a_number_of_axes_that_would_keep_readers_busy_for_ever_is_refused(tmp_path, keyword, hdu):
    path = tmp_path / "a.fits"
    make_exposure(np.zeros((40, 44))).write(path)
    data = bytearray(path.read_bytes())
    with fits.open(path) as hdus:
        start = hdus[hdu].fileinfo()["hdrLoc"]
    place = data.index(keyword.ljust(8).encode() + b"=", start)
    data[place + 10 : place + 30] = b"2147483647".rjust(20)
    path.write_bytes(data)
    with pytest.raises(UnreadableExposureError, match=rf"{keyword} is 2147483647 and must be from 0 to 99"):
        read_exposure(path)


# A field full of stars ----------------------------------------------------------


def test_noise_of_a_crowded_field_is_that_of_its_photons(tmp_path):
    """Where no pixel is free of stars, their confusion is not taken for noise, and the gain is found."""
    scene = make_scene(shape=(256, 256), n_stars=900, sky=100.0, gain=2.0, read_noise=0.0, seed=3)
    exposure = read_exposure(write_plain(tmp_path / "a.fits", scene.image, psf=1.8))
    ratio = exposure.variance.array / scene.true_variance
    assert "a field full of sources" in exposure.metadata["madeVariance"]
    # Second differences of the steepest stars add to it; the scatter of whole cells is 20 times too large.
    assert 0.85 < np.median(ratio) < 1.3
    bright = scene.model > np.percentile(scene.model, 95)
    assert 0.75 < np.median(ratio[bright]) < 1.3  # their light is smoothed
    gain = float(exposure.metadata["madeVariance"].split("from the gain ")[1].split()[0])
    assert gain == pytest.approx(2.0, rel=0.05)
    # Nor are places with more stars than others given more noise than their light has.
    places = [np.median(ratio[j : j + 64, i : i + 64]) for j in range(0, 256, 64) for i in range(0, 256, 64)]
    assert max(places) < 1.25 * min(places)


def test_smoothed_noise_is_not_taken_for_a_crowded_field(tmp_path):
    """Its neighbours differ as little as those of stars, but it is as often dark as bright."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(5)
    noise = gaussian_filter(rng.normal(0, 100, (256, 256)), 1.5)
    for x, y in rng.uniform(10, 246, (30, 2)):
        noise += draw_stars(noise.shape, [(x, y)], sigma=2.0, flux=4e4)
    exposure = read_exposure(write_plain(tmp_path / "a.fits", noise.astype("f4"), psf=2.0))
    assert "full of sources" not in exposure.metadata["madeVariance"]
    scatter = 100 / (2 * np.sqrt(np.pi) * 1.5)
    assert np.sqrt(np.median(exposure.variance.array)) == pytest.approx(scatter, rel=0.1)


# A variance that does not fit ---------------------------------------------------


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_wrong_gain_is_noticed_and_named(tmp_path, scene, caplog, factor):
    """A variance plane made with a gain that is 0.4 or 2.5 times the right one."""
    path = write_plain(tmp_path / "a.fits", scene.image, VARIANCE=scene.true_variance / factor)
    with caplog.at_level(logging.WARNING):
        exposure = read_exposure(path)
    sentence = exposure.metadata["noticedVariance"]
    assert sentence in caplog.text and "wrong gain" in sentence
    found = float(sentence.split("scatter with ")[1].split()[0])
    assert found == pytest.approx(factor, rel=0.2)  # the wings of the stars add a little


def test_right_gain_is_not_commented_on(tmp_path, scene):
    path = write_plain(tmp_path / "a.fits", scene.image, VARIANCE=scene.true_variance)
    assert "noticedVariance" not in read_exposure(path).metadata


def test_gain_of_the_header_that_cannot_be_is_named(tmp_path, scene):
    path = write_plain(tmp_path / "a.fits", scene.image, header=header_with(GAIN=5.0, RDNOISE=READ_NOISE))
    sentence = read_exposure(path).metadata["madeVariance"]
    assert "wrong gain" in sentence
    fitting = float(sentence.split("a gain of ")[1].split()[0])
    # Sky photons and read noise: 400 / (400 / 1.5 + (5 / 1.5)**2).
    assert fitting == pytest.approx(1.44, rel=0.05)
