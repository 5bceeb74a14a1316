"""Our Alard-Lupton difference beside the one that the stack made of the same simulated pair.

The pair is made by ``../shared/eval/sim.py``; ``../shared/data/ip_diffim`` holds what AlardLuptonSubtractTask
of a weekly of spring 2026 made of it. Where the two ought to agree they do; where they differ, ours is nearer
to the truth.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from scipy.ndimage import maximum_filter
from scipy.signal import fftconvolve

from lsst.twinkles.diffim.adapters.kernels import evaluate_kernel
from lsst.twinkles.diffim.adapters.read_exposure import read_exposure
from lsst.twinkles.diffim.tasks.image_difference import ImageDifferenceTask

pytestmark = pytest.mark.slow
_BORDER = 25


@pytest.fixture(scope="module")
def theirs(shared_data):
    path = shared_data / "ip_diffim" / "std_512_seed1.npz"
    if not path.is_file():
        pytest.skip("needs ip_diffim/std_512_seed1.npz in ../shared/data")
    with np.load(path) as file:
        return {name: file[name] for name in file}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    simulator = ROOT.parent / "shared" / "eval" / "sim.py"
    if not simulator.is_file():
        pytest.skip("needs the simulator ../shared/eval/sim.py beside the checkout")
    out = tmp_path_factory.mktemp("sim") / "pair"
    words = ["--nx", "512", "--ny", "512", "--case", "std", "--seed", "1", "--out", str(out)]
    subprocess.run([sys.executable, simulator, *words], check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def ours(pair):
    config = ImageDifferenceTask.ConfigClass()
    config.doDetection = config.doMeasurement = config.doScaleDiffimVariance = False
    task = ImageDifferenceTask(config=config)
    return task.run(*(read_exposure(pair / f"{name}.fits") for name in ("sci", "tmpl")))


@pytest.fixture(scope="module")
def blank(pair, ours, theirs):
    """Pixels without light and without masks."""
    with np.load(pair / "truthmodel.npz") as file:
        light = file["sci"] + file["tmpl"]
    planes = json.loads(str(theirs["mask_planes"]))
    bits = sum(1 << planes[name] for name in ("BAD", "EDGE", "SAT", "NO_DATA", "SAT_TEMPLATE"))
    bad = ((theirs["mask_bits"] & bits) != 0) | (ours.subtractedExposure.mask.array != 0).any(axis=-1)
    pixels = ~bad & (maximum_filter(light, 11) < 10)
    pixels[:_BORDER] = pixels[-_BORDER:] = pixels[:, :_BORDER] = pixels[:, -_BORDER:] = False
    return pixels


def test_blank_sky_is_the_same(ours, theirs, blank):
    """Pixel by pixel the same noise, filtered by nearly the same kernel and whitening."""
    assert blank.mean() > 0.4
    one, other = ours.subtractedExposure.image.array[blank], theirs["image"][blank]
    assert np.corrcoef(one, other)[0, 1] > 0.95
    assert one.std() == pytest.approx(other.std(), rel=0.02)
    assert abs(one.mean()) < 0.05 * one.std()


def test_variance_is_nearer_to_the_scatter(ours, theirs, blank):
    image, variance = ours.subtractedExposure.image.array, ours.subtractedExposure.variance.array
    one = image[blank].std() / np.sqrt(np.median(variance[blank]))
    other = theirs["image"][blank].std() / np.sqrt(np.median(theirs["variance"][blank]))
    assert abs(one - 1) < abs(other - 1) and one == pytest.approx(1.0, abs=0.05)


def test_kernels_make_one_psf_of_the_other(pair, ours, theirs):
    """The template's PSF through either is the science PSF; the sum is the ratio of fluxes, 1.05."""
    difference = ours.subtractedExposure
    centre = np.array([difference.bbox.x.size / 2]), np.array([difference.bbox.y.size / 2])
    kernel = evaluate_kernel(difference.kernel, difference.bbox, x=centre[0], y=centre[1])[0]
    with np.load(pair / "pair.npz") as file:
        science, template = file["sci_psf"], file["tmpl_psf"]
    errors = []
    for image in (kernel, theirs["kernel"]):
        matched = fftconvolve(template, image / image.sum(), mode="same")
        errors.append(np.abs(matched - science / science.sum()).max() / science.max())
    assert errors[0] < errors[1] < 0.1 and errors[0] < 0.03
    assert abs(kernel.sum() / 1.05 - 1) < abs(float(theirs["kernel_sum"]) / 1.05 - 1)


def test_psf_of_a_whitened_difference(ours, theirs):
    """Ours is the PSF from behind the whitening, theirs the one from before it."""
    x, y = ours.subtractedExposure.bbox.x.center, ours.subtractedExposure.bbox.y.center
    psf = ours.subtractedExposure.psf.compute_kernel_image(x=x, y=y).array
    half, c = 15, psf.shape[0] // 2
    psf = psf[c - half : c + half + 1, c - half : c + half + 1]
    right, shipped = (theirs[name] / theirs[name].sum() for name in ("psf_decorrelated", "psf"))
    assert psf.max() == pytest.approx(right.max(), rel=0.03)
    assert np.abs(psf - right).max() < 0.3 * np.abs(psf - shipped).max()
