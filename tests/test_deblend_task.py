"""The deblend stage: rows, columns and what stays as it was."""

import numpy as np
import pytest
from astropy.table import Table
from test_measure_task import as_detections
from white_differences import ERROR, SIGMA, make_white

from lsst.twinkles.diffim.tasks.deblend import DeblendConfig, DeblendTask
from lsst.twinkles.diffim.tasks.measurement import MeasurementTask

FWHM = 2.3548 * SIGMA
# A pair 0.8 FWHM apart and two single sources.
PAIR = np.array([[40.2, 30.1, 40 * ERROR], [40.2 + 0.8 * FWHM, 30.1, 30 * ERROR]])
SINGLES = np.array([[90.4, 29.7, 60 * ERROR], [140.0, 30.3, -80 * ERROR]])


@pytest.fixture(scope="module")
def images():
    return make_white((60, 180), np.vstack([PAIR, SINGLES]), start=(7, -3))


def detections():
    """One peak for the pair, and one for each of the others."""
    middle = [[*(PAIR[:, :2].T @ PAIR[:, 2] / PAIR[:, 2].sum()), PAIR[:, 2].sum()]]
    return as_detections(np.vstack([middle, SINGLES]), start=(7, -3))


def test_a_pair_becomes_two_rows_and_singles_stay(images):
    peaks = detections()
    before = peaks.copy()
    task = DeblendTask()
    table = task.run(images[0], peaks).sources
    assert peaks.colnames == before.colnames and all((peaks[n] == before[n]).all() for n in peaks.colnames)
    assert len(table) == 4 and task.metadata["nSplitDiaSources"] == 1
    np.testing.assert_array_equal(table["isSplit"], [True, False, False, True])
    np.testing.assert_array_equal(table["footprint"], [1, 2, 3, 1])
    np.testing.assert_array_equal(table["nPeaks"], [2, 1, 1, 2])
    np.testing.assert_allclose(table["x"][[0, 3]], PAIR[:, 0] - 3, atol=0.4)
    np.testing.assert_allclose(table["y"][[0, 3]], PAIR[:, 1] + 7, atol=0.4)
    # Less than the 30 of a source that stands alone: the error counts what the two take from each other.
    assert 10 < table["significance"][3] < 30


def test_both_are_measured_with_their_fluxes(images):
    sources = DeblendTask().run(images[0], detections()).sources
    table = MeasurementTask().run(*images, sources, idBase=50).diaSources
    pulls = (table["psfFlux"] / 3.7 - [PAIR[0, 2], *SINGLES[:, 2], PAIR[1, 2]]) * 3.7 / table["psfFluxErr"]
    assert np.abs(pulls).max() < 4
    np.testing.assert_array_equal(table["blendSize"], [2, 1, 1, 2])
    np.testing.assert_array_equal(table["parentDiaSourceId"], [0, 0, 0, 50])
    assert table["psfFluxErr"][0] > 1.2 * table["psfFluxErr"][1]  # one takes from the other


def test_limits_are_those_of_the_configuration(images):
    for values in (
        {"minSnr": 100.0},
        {"minSeparationFwhm": 1.0},
        {"minFluxRatio": 0.95},
        {"minChi2Gain": 1e6},
    ):
        assert len(DeblendTask(config=DeblendConfig(**values)).run(images[0], detections()).sources) == 3, (
            values
        )


def test_positions_alone_are_enough_and_none_is_none(images):
    bare = detections()["x", "y"]
    assert DeblendTask().run(images[0], bare).sources.colnames == ["x", "y", "isSplit"]
    empty = DeblendTask().run(images[0], Table({"x": np.zeros(0), "y": np.zeros(0)})).sources
    assert len(empty) == 0 and empty["isSplit"].dtype == bool
