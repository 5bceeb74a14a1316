"""Exposures that are hard or impossible to use, through both commands with the real stages."""

import re
import warnings

import numpy as np
import pytest
from astropy.io import fits
from command_runs import command, pair_words, visits_done
from lsst.images import DifferenceImage
from small_exposures import make_exposure, make_wcs
from small_pairs import make_pair

from lsst.twinkles.diffim.cli.subtract_exposures import main
from lsst.twinkles.diffim.pipeline.ingest import ExposureIngester
from lsst.twinkles.diffim.pipeline.repository import create_repository

SIZE = (240, 260)
DIFFERENT_SKY = r"Of \d+ stars only \d agree on a kernel.*whether the two images show the same sky"
FEW_STARS = r"Too few stars to determine the matching kernel: \d usable, 3 required"


class Planes:
    """Pixels and PSF of an exposure that a test spoils and then writes."""

    def __init__(self, exposure, sigma):
        self.image = exposure.image.array.copy()
        self.variance = exposure.variance.array.copy()
        self.mask = np.zeros(self.image.shape, np.int32)
        self.psf = exposure.psf.compute_kernel_image(x=100.0, y=100.0).array.copy()
        self.sigma = sigma
        self.wcs = make_wcs(crpix=(130.0, 120.0))

    def write(self, path):
        header = self.wcs.to_header()
        header.update({"BUNIT": "electron", "FILTER": "r", "EXPTIME": 30.0})
        hdus = [fits.PrimaryHDU(self.image, header=header)]
        for name, plane in (("VARIANCE", self.variance), ("MASK", self.mask), ("PSF", self.psf)):
            if plane is not None:
                hdus.append(fits.ImageHDU(plane, name=name))
        fits.HDUList(hdus).writeto(path)
        return str(path)

    def crop(self, height, width):
        for name in ("image", "variance", "mask"):
            setattr(self, name, getattr(self, name)[:height, :width].copy())


def make_planes(*, science_sigma=2.0, template_sigma=1.5, **kwargs):
    kwargs = {"shape": SIZE, "n_stars": 24, "n_transients": 3} | kwargs
    pair = make_pair(science_sigma=science_sigma, template_sigma=template_sigma, **kwargs)
    return Planes(pair.science, science_sigma), Planes(pair.template, template_sigma), pair


@pytest.fixture(scope="module")
def good_pair():
    return make_pair(science_sigma=2.0, template_sigma=1.5, shape=SIZE, n_stars=24, n_transients=3)


@pytest.fixture
def planes(good_pair):
    return Planes(good_pair.science, 2.0), Planes(good_pair.template, 1.5)


@pytest.fixture(params=["AL", "zogy"])
def method(request):
    return request.param


def run(science, template, folder, capsys, method="AL"):
    """Run the command; return its status and what it said."""
    files = [plane.write(folder / name) for plane, name in ((science, "s.fits"), (template, "t.fits"))]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        status = main([*files, "--output", str(folder / "out"), "-c", f"subtract.kernel.name={method}"])
    return status, capsys.readouterr().err


# What no subtraction can come of ---------------------------------------------


def mask_all(science, template):
    science.mask[:] = 1


def mask_all_of_template(science, template):
    template.mask[:] = 1


def no_variance(science, template):
    template.variance[:] = 0.0


def nan_variance(science, template):
    science.variance[:] = np.nan


def copy_science(science, template):
    template.image, template.variance, template.psf = science.image, science.variance, science.psf


def nan_psf(science, template):
    science.psf[:] = np.nan


def no_psf_and_no_stars(science, template):
    science.psf = None
    science.image = np.random.default_rng(0).normal(100.0, 10.0, SIZE).astype(np.float32)


def nan_almost_everywhere(science, template):
    inside = np.zeros(SIZE, bool)
    inside[100:150, 90:140] = True
    science.image[~inside] = np.nan


def nan_but_for_ten_pixels(science, template):
    keep = science.image[100, 100:110].copy()
    science.image[:] = np.nan
    science.image[100, 100:110] = keep


def constant_science(science, template):
    science.image[:] = 100.0


def constant_template(science, template):
    template.image[:] = 100.0


def constant_both(science, template):
    science.image[:] = 100.0
    template.image[:] = 50.0


def huge_everywhere(science, template):
    science.image *= np.float32(1e30)


def negative_template(science, template):
    template.image *= -1


def twenty_pixels(science, template):
    science.crop(20, 20)
    template.crop(20, 20)


def narrow_strip(science, template):
    science.crop(SIZE[0], 18)
    template.crop(SIZE[0], 18)


def elsewhere(science, template):
    template.wcs = make_wcs(ra=90.0)


def hardly_overlapping(science, template):
    template.wcs = make_wcs(crpix=(130.0 + 245.0, 120.0))


HOPELESS = [
    (mask_all, r"s\.fits: every pixel is masked\. Look at its mask"),
    (mask_all_of_template, r"t\.fits: every pixel is masked\. Look at its mask"),
    (no_variance, r"t\.fits: VARIANCE has no pixel that is positive and finite\. Remove this extension"),
    (nan_variance, r"s\.fits: VARIANCE has no pixel that is positive and finite"),
    (copy_science, "template is the science exposure itself; give another"),
    (nan_psf, r"PSF in .*s\.fits has .* not positive and finite; remove the PSF extensions"),
    (no_psf_and_no_stars, r"s\.fits.* no PSF, and none of its stars can tell it.* Add an extension PSF"),
    (nan_almost_everywhere, FEW_STARS),
    (nan_but_for_ten_pixels, r"science exposure cannot be used: .*no usable pixel.*masked everywhere"),
    (constant_science, FEW_STARS),
    (constant_template, DIFFERENT_SKY),
    (constant_both, FEW_STARS),
    (huge_everywhere, r"science exposure scatter by 1\.\d+e\+31, its variance plane claims 10.*Mend it"),
    (negative_template, DIFFERENT_SKY),
    (twenty_pixels, FEW_STARS + r".*20 x 20"),
    (narrow_strip, FEW_STARS + r".*18 x 240"),
    (elsewhere, r"does not overlap the science exposure on the sky; check their WCS"),
    (hardly_overlapping, r"covers 5\.8 percent.*10\.0 percent required \(requiredTemplateFraction\)"),
]


@pytest.mark.parametrize(("spoil", "message"), HOPELESS, ids=[spoil.__name__ for spoil, _ in HOPELESS])
def test_hopeless_exposures_are_refused_with_a_sentence(
    spoil, message, planes, tmp_path, capsys, caplog, method
):
    spoil(*planes)
    status, err = run(*planes, tmp_path, capsys, method)
    assert status == 1
    (line,) = [line for line in err.splitlines() if line.startswith("subtractExposures.py: error: ")]
    text = "\n".join([*caplog.messages, line])
    assert re.search(message, text), text
    assert "Traceback" not in err + caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"s.fits", "t.fits"}


@pytest.mark.parametrize("n_stars", [0, 2])
def test_too_few_stars(n_stars, tmp_path, capsys):
    science, template, _ = make_planes(n_stars=n_stars, n_transients=0)
    status, err = run(science, template, tmp_path, capsys)
    assert status == 1 and re.search(f"kernel: {n_stars} usable, 3 required.*Lower it, or look at", err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("seeds", "n_stars"), [((1, 99), 30), ((2, 98), 30), ((4, 96), 30), ((1, 99), 10)])
def test_template_of_another_sky(seeds, n_stars, tmp_path, capsys, method):
    """A kernel of nothing fits all stars about as well; it must not pass for a match."""
    science, _, _ = make_planes(seed=seeds[0], n_stars=n_stars, n_transients=0)
    _, template, _ = make_planes(seed=seeds[1], n_stars=n_stars, n_transients=0)
    status, err = run(science, template, tmp_path, capsys, method)
    assert status == 1 and re.search(DIFFERENT_SKY, err), err
    assert not (tmp_path / "out").exists()


# What costs a part of the image ----------------------------------------------


def half_nan(science, template):
    template.image[:, 140:] = np.nan
    return np.s_[:, 140:], "NO_DATA"


def variance_strip(science, template):
    science.variance[100:112] = 0.0
    template.variance[150:160] = -1.0
    return np.s_[100:112], "BAD"


def sentinel_values(science, template):
    science.image[100:110, 100:110] = 1e30
    template.image[150, 150] = -1e30
    template.image[151, 160] = 3e38
    return np.s_[100:110, 100:110], "NO_DATA"


def infinite_values(science, template):
    science.image[100:110, 100:110] = -np.inf
    template.image[150] = np.nan
    return np.s_[100:110, 100:110], "NO_DATA"


@pytest.mark.parametrize("spoil", [half_nan, variance_strip, sentinel_values, infinite_values])
def test_what_is_spoilt_is_masked_and_the_rest_subtracted(spoil, good_pair, planes, tmp_path, capsys, method):
    where, plane = spoil(*planes)
    status, err = run(*planes, tmp_path, capsys, method)
    assert status == 0, err
    difference = DifferenceImage.read(str(tmp_path / "out" / "difference.fits"))
    assert difference.mask.get(plane)[where].all()
    check_difference(difference, good_pair.transients)


def check_difference(difference, transients):
    """Check that the noise is what it claims to be, and that the transients that are not masked are there."""
    image, deviation = difference.image.array, np.sqrt(difference.variance.array)
    assert np.isfinite(image).all() and np.isfinite(deviation).all()
    bad = difference.mask.get("NO_DATA") | difference.mask.get("BAD")
    assert 1.4826 * np.median(np.abs(image / deviation)[~bad]) == pytest.approx(1.0, abs=0.03)
    found = difference.mask.get("DETECTED") | difference.mask.get("DETECTED_NEGATIVE")
    seen = [found[round(y), round(x)] for x, y, _ in transients if not bad[round(y), round(x)]]
    assert seen and all(seen)
    assert found.mean() < 0.05


def test_sentinel_values_in_a_bare_image(good_pair, planes, tmp_path, capsys, method):
    """Nothing is made from them: not the variance, not the PSF."""
    sentinel_values(*planes)
    for plane in planes:
        plane.psf = plane.variance = plane.mask = None
    status, err = run(*planes, tmp_path, capsys, method)
    assert status == 0, err
    difference = DifferenceImage.read(str(tmp_path / "out" / "difference.fits"))
    assert difference.mask.get("NO_DATA")[150, 150]
    noise = np.sqrt(np.median(difference.variance.array))
    assert 8.0 < noise < 40.0


def test_missing_planes_are_made(tmp_path, capsys):
    """Piff's solver "cpp" ended the process on equations of this size, on some machines."""
    science, template, pair = make_planes(
        science_sigma=2.2, template_sigma=1.6, shape=(300, 340), n_stars=30, n_transients=5
    )
    for plane in (science, template):
        plane.psf = plane.variance = plane.mask = None
    assert run(science, template, tmp_path, capsys)[0] == 0
    difference = DifferenceImage.read(str(tmp_path / "out" / "difference.fits"))
    check_difference(difference, pair.transients)


# What is only hard -----------------------------------------------------------


def test_template_of_ten_times_the_flux_scale(good_pair, planes, tmp_path, capsys, method):
    science, template = planes
    template.image *= 10
    template.variance *= 100
    assert run(science, template, tmp_path, capsys, method)[0] == 0
    difference = DifferenceImage.read(str(tmp_path / "out" / "difference.fits"))
    check_difference(difference, good_pair.transients)


@pytest.mark.parametrize("sigmas", [(5.1, 0.68), (0.68, 5.1)])
def test_very_unequal_seeing(sigmas, tmp_path, capsys, method):
    science, template, pair = make_planes(science_sigma=sigmas[0], template_sigma=sigmas[1])
    assert run(science, template, tmp_path, capsys, method)[0] == 0
    difference = DifferenceImage.read(str(tmp_path / "out" / "difference.fits"))
    check_difference(difference, pair.transients)


# Through a repository --------------------------------------------------------


def spoilt_visits(pair):
    """Return visits that cannot be used: name of the flaw, exposure, what is said."""
    image = pair.science.image.array
    visits = {}

    def add(visit, message, image=image, variance=100.0, sigma=2.0, **kwargs):
        visits[visit] = (make_exposure(image, visit=visit, variance=variance, sigma=sigma, **kwargs), message)

    add(1, "All 62400 pixels of the science exposure are masked.*Look at its mask")
    visits[1][0].mask.set("BAD", np.ones(SIZE, bool))
    add(2, "pixels of the science exposure are masked", variance=0.0)
    add(3, "pixels of the science exposure are masked", image=np.full(SIZE, np.nan))
    add(4, FEW_STARS, image=np.full(SIZE, 100.0))
    add(5, FEW_STARS + ".*20 x 20", image=image[:20, :20])
    add(6, "template is the science exposure itself", image=pair.template.image.array)
    add(7, DIFFERENT_SKY, image=make_planes(seed=98, n_stars=30)[0].image)
    return visits


def test_a_repository_of_spoilt_visits(good_pair, tmp_path):
    """Each says what is wrong with it, none stops the others, and the exit status counts them."""
    visits = spoilt_visits(good_pair)
    with create_repository(tmp_path / "repo") as butler, ExposureIngester(butler) as ingester:
        for exposure, _ in visits.values():
            ingester.add(exposure)
        for visit, source, sigma in ((8, good_pair.science, 2.0), (9, good_pair.template, 1.5)):
            variance = source.variance.array
            ingester.add(make_exposure(source.image.array, visit=visit, variance=variance, sigma=sigma))
        assert ingester.report.failed == {}
    out = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        result = command(*pair_words(out, "1..8", 9), repo=tmp_path / "repo", config=False)
    assert result.status == len(visits)
    for visit, (_, message) in visits.items():
        (line,) = result.lines("FATAL: Failed on dataId", f"'visit': {visit},")
        assert re.search(message, line), line
    assert "Traceback" not in result.stderr
    assert visits_done(out) == [8]
