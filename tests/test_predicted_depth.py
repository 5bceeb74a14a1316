"""The predicted depth of a difference is the one that the difference has."""

import itertools

import numpy as np
import pytest
from scipy.signal import fftconvolve

from lsst.twinkles.diffim.adapters.masks import bad_pixels
from lsst.twinkles.diffim.adapters.psfs import sample_psf
from lsst.twinkles.diffim.algorithms.select.choose import predict_errors
from lsst.twinkles.diffim.simulation.campaign import Campaign
from lsst.twinkles.diffim.simulation.conditions import VisitConditions
from lsst.twinkles.diffim.simulation.config import DetectorConfig, SceneConfig
from lsst.twinkles.diffim.tasks.exposure_figures import measure_figures
from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask

BAD = ["NO_DATA", "BAD", "SAT", "SAT_TEMPLATE", "EDGE", "DETECTED", "DETECTED_NEGATIVE"]
# Seeing (arcsec), sky and transparency from the best to the worst tenth of the visits.
CONDITIONS = [
    (0.62, 20.9, 1.0),
    (0.75, 21.4, 0.9),
    (0.9, 20.3, 1.0),
    (1.05, 20.9, 0.85),
    (1.3, 21.3, 1.0),
    (0.8, 20.0, 0.95),
]


def simulate(numbers, size):
    """Return exposures of a field without things that vary."""
    conditions = [
        VisitConditions(visit=i, band="r", mjd=60000.0 + i, fwhm_eff=f, sky_magnitude=s, transparency=t)
        for i, (f, s, t) in enumerate(CONDITIONS)
        if i in numbers
    ]
    scene = SceneConfig(nx=size, ny=size, seed=5, supernovae_per_year=0, n_lenses=0, variable_star_fraction=0)
    campaign = Campaign(scene=scene, detector=DetectorConfig(), conditions=conditions)
    return [exposure for exposure, _ in campaign.run()]


def matched_filter_noise(difference):
    """Return the scatter of optimal PSF fluxes in blank sky, in the unit of the difference."""
    psf = sample_psf(difference.psf, difference.bbox, grid=3).mean()
    bad = bad_pixels(difference.mask, BAD)
    pixels = np.where(bad, 0.0, difference.image.array)
    fluxes = fftconvolve(pixels, psf[::-1, ::-1], mode="same") / (psf**2).sum()
    near = fftconvolve(bad.astype(float), np.ones((15, 15)), mode="same") > 0.5
    blank = fluxes[25:-25, 25:-25][~near[25:-25, 25:-25]]
    return 1.4826 * np.median(np.abs(blank - np.median(blank)))


def ratios(exposures, pairs):
    """Return measured over predicted flux errors."""
    figures = [measure_figures(exposure) for exposure in exposures]
    values = []
    for i, j in pairs:
        difference = TwinklesImageDifferenceTask().run(exposures[i], exposures[j]).subtractedExposure
        predicted = predict_errors([figures[j]], figures[i])[0]
        values.append(figures[i].scale * matched_filter_noise(difference) / predicted)
    return np.array(values)


def test_of_a_pair():
    # 60 000 blank pixels, of which the filter leaves some 2000 independent ones: 1.6 percent by chance.
    assert ratios(simulate([1, 3], 300), [(0, 1)])[0] == pytest.approx(1.0, abs=0.04)


@pytest.mark.slow
def test_of_many_pairs():
    values = ratios(simulate(range(6), 768), itertools.permutations(range(6), 2))
    print(
        f"measured over predicted: mean {values.mean():.4f}, rms {np.sqrt(np.mean((values - 1) ** 2)):.4f}, "
        f"extremes {values.min():.4f} {values.max():.4f}"
    )
    assert len(values) == 30
    assert np.sqrt(np.mean((values - 1) ** 2)) < 0.02
    assert abs(values.mean() - 1) < 0.01
    assert np.abs(values - 1).max() < 0.04
