"""Real exposures, which are not part of the project, through both commands (slow; skipped without them)."""

import numpy as np
import pytest
from astropy.table import Table
from lsst.daf.butler import Butler
from lsst.images import DifferenceImage

from lsst.twinkles.diffim.report.noise import find_blank_sky, measure_noise

pytestmark = pytest.mark.slow

# Science, template, and the most detections of a pair: HOTPANTS finds 30 on the first, which is a null test.
PAIRS = {
    "eso085": (
        "properimage_eso085/aligned_eso085-030-005.fit",
        "properimage_eso085/aligned_eso085-030-004.fit",
        30,
    ),
    "decam": ("sfft_decam/Stack-DEC-OBS18.fits", "sfft_decam/Stack-DEC-OBS04.fits", 20),
}


@pytest.fixture(params=sorted(PAIRS))
def pair(request, shared_data):
    science, template, most = PAIRS[request.param]
    files = [shared_data / "real" / name for name in (science, template)]
    if not all(path.is_file() for path in files):
        pytest.skip(f"needs {files[0]} and {files[1]}")
    return request.param, files, most


def check(name, difference, sources, most):
    """Assert what is known of a pair."""
    noise = difference.image.array / np.sqrt(difference.variance.array)
    core = 1.4826 * np.median(np.abs(noise[find_blank_sky(difference)]))
    assert core == pytest.approx(1.0, abs=0.03)
    # The whitened noise of stacks of resampled frames has tails (kurtosis 0.6): a larger standard deviation.
    assert measure_noise(difference).ratio == pytest.approx(1.0, abs=0.07 if name == "decam" else 0.03)
    assert 1 <= len(sources) <= most
    if name == "decam":
        # The source beside the core of a galaxy, which was there in the template only.
        (row,) = sources[np.hypot(sources["x"] - 128.7, sources["y"] - 127.7) < 1.0]
        # By the peaks: fitted apart, the lobes of a dipole take flux from each other.
        assert row["isNegative"] and row["significance"] == max(sources["significance"], key=abs)


def test_two_files(pair, tmp_path):
    from lsst.twinkles.diffim.cli.subtract_exposures import main

    name, files, most = pair
    assert main([*map(str, files), "--output", str(tmp_path / "out")]) == 0
    difference = DifferenceImage.read(str(tmp_path / "out" / "difference.fits"))
    check(name, difference, Table.read(tmp_path / "out" / "diaSources.parquet"), most)


def test_repository(pair, tmp_path):
    from lsst.twinkles.diffim.cli.image_difference import main as image_difference
    from lsst.twinkles.diffim.cli.ingest import main as ingest
    from lsst.twinkles.diffim.cli.make_repo import main as make_repo

    name, files, most = pair
    repo, out = str(tmp_path / "repo"), str(tmp_path / "out")
    assert make_repo([repo]) == 0
    assert ingest([repo, *map(str, files), "--visit", "1"]) == 0
    words = ["--id", "visit=1", "--templateId", "visit=2", "--output", out]
    assert image_difference([repo, *words]) == 0
    with Butler.from_config(out, collections="deepDiff") as butler:
        data_id = {"instrument": "TwinklesCam", "visit": 1, "detector": 94}
        difference = butler.get("deepDiff_differenceExp", data_id)
        sources = butler.get("deepDiff_diaSrc", data_id)
    check(name, difference, sources, most)
