"""The table of figures over the image has the columns of ip_diffim's and the values of simple images."""

import astropy.units as u
import numpy as np
import pytest
from small_pairs import NJY, make_pair

from lsst.twinkles.diffim.tasks.assess_difference import METRICS_MASK_PLANES
from lsst.twinkles.diffim.tasks.image_difference import ImageDifferenceConfig, ImageDifferenceTask
from lsst.twinkles.diffim.tasks.spatially_sampled_metrics import SpatiallySampledMetricsTask

# Section B2 of the feature map.
COLUMNS = {
    "id", "x", "y", "source_density", "dipole_density", "dipole_direction", "dipole_separation",
    *(f"{i}_{k}" for i in ("template", "science", "diffim") for k in ("value", "variance")),
    "science_psfSize", "template_psfSize", *(f"{p.lower()}_mask_fraction" for p in METRICS_MASK_PLANES),
    *(f"psfMatchingKernel_{k}" for k in ("sum", "dx", "dy", "length", "position_angle", "direction")),
}  # fmt: skip


@pytest.fixture(scope="module")
def case():
    pair = make_pair(seed=7, shape=(320, 300), n_transients=6, start=(100, -50))
    config = ImageDifferenceConfig()
    config.doSpatiallySampledMetrics = True
    result = ImageDifferenceTask(config=config).run(pair.science, pair.template)
    return pair, result, result.spatiallySampledMetrics


def test_columns_and_rows(case):
    _, _, table = case
    assert set(table.colnames) >= COLUMNS
    assert 20 < len(table) <= 100 and len(set(table["id"])) == len(table)
    assert table["x"].min() > -50 and table["x"].max() < 250 and table["y"].min() > 100


def test_values_are_medians_in_njy(case):
    pair, _, table = case
    assert table["science_value"].unit == u.nJy and table["science_variance"].unit == u.nJy**2
    # The squares cover most of the image: its sky, which slopes by 65 counts.
    np.testing.assert_allclose(table["science_value"], NJY * np.median(pair.sky), atol=NJY * 25)
    np.testing.assert_allclose(table["diffim_value"], 0.0, atol=NJY * 1.0)
    np.testing.assert_allclose(table["science_variance"], NJY**2 * 100, rtol=0.05)
    np.testing.assert_allclose(table["science_psfSize"], 2.2 * 2.3548, rtol=0.02)
    np.testing.assert_allclose(table["template_psfSize"], 1.6 * 2.3548, rtol=0.02)
    np.testing.assert_allclose(table["psfMatchingKernel_sum"], 1.25, rtol=0.03)
    assert np.abs(table["psfMatchingKernel_length"]).max() < 0.05


def test_densities_count_the_catalogue(case):
    _, result, table = case
    half, row = 100, table[0]
    sources, box = result.diaSources, result.subtractedExposure.bbox
    x0, x1 = max(box.x.start, row["x"] - half), min(box.x.stop, row["x"] + half + 1)
    y0, y1 = max(box.y.start, row["y"] - half), min(box.y.stop, row["y"] + half + 1)
    inside = (sources["x"] >= x0) & (sources["x"] < x1) & (sources["y"] >= y0) & (sources["y"] < y1)
    area = (x1 - x0) * (y1 - y0) * (0.2 / 3600) ** 2
    assert row["source_density"] == pytest.approx(inside.sum() / area, rel=1e-3)


def test_dipoles_and_sky_sources_of_the_catalogue(case):
    pair, result, _ = case
    sources = result.diaSources.copy()
    sources["isDipole"] = np.arange(len(sources)) % 2 == 0
    sources["dipoleAngle"], sources["dipoleLength"] = 30.0, 0.8
    sources["sky_source"] = np.arange(len(sources)) == 0
    difference = result.subtractedExposure
    table = SpatiallySampledMetricsTask().run(
        pair.science, result.matchedExposure, result.warpedExposure, difference, sources, difference.kernel
    ).spatiallySampledMetrics  # fmt: skip
    some = table["dipole_density"] > 0
    assert some.any() and (table["dipole_density"] < table["source_density"])[some].any()
    np.testing.assert_allclose(table["dipole_direction"][some], np.radians(30.0))
    np.testing.assert_allclose(table["dipole_separation"][some], 4.0, rtol=1e-3)
