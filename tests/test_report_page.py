"""The page of figures and pictures, and the command that writes it."""

import base64
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from astropy.table import Table
from lsst.images import Box
from small_pairs import make_pair
from test_detect_streaks import make_difference

from lsst.twinkles.diffim.report.page import ReportInputs, write_index, write_page
from lsst.twinkles.diffim.report.quality_figures import measure_sky_pulls, plot_dipoles
from lsst.twinkles.diffim.report.spatial_figures import plot_spatial_figures, summarize_spatial_figures
from lsst.twinkles.diffim.tasks.image_difference import ImageDifferenceConfig, ImageDifferenceTask

TITLES = [
    "Difference and detections",
    "Detections of highest signal-to-noise",
    "Residuals at kernel stars",
    "Matching kernel at nine positions",
    "Autocorrelation of the noise",
    "PSF fluxes of blank sky",
    "All over the image",
]


@pytest.fixture(scope="module")
def inputs():
    pair = make_pair(seed=8, n_transients=5)
    config = ImageDifferenceConfig()
    config.doSkySources = config.doSpatiallySampledMetrics = True
    result = ImageDifferenceTask(config=config).run(pair.science, pair.template)
    return ReportInputs(
        "visit <1>",
        result.subtractedExposure,
        pair.science,
        result.matchedExposure,
        result.diaSources,
        result.selectSources,
        result.metrics,
        result.spatiallySampledMetrics,
    )


def pictures(text):
    """Return the pictures of a page by their titles."""
    found = re.findall(r'<h2>([^<]*)</h2><figure><img alt="[^"]*" src="data:image/png;base64,([^"]*)"', text)
    return {title: base64.b64decode(data) for title, data in found}


def test_page_is_whole(inputs, tmp_path):
    path = write_page(inputs, tmp_path / "page.html")
    text = path.read_text()
    assert list(pictures(text)) == TITLES
    assert all(data.startswith(b"\x89PNG") for data in pictures(text).values())
    assert "visit &lt;1&gt;" in text and 'class="good"' in text
    assert f"{inputs.metrics['residualFootprintRatioMean']:.4f}" in text
    # Nothing from elsewhere: the page can be sent by mail.
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_doubtful_sources_are_counted_and_not_marked(inputs, tmp_path):
    sources = inputs.sources.copy()
    sources["reliability"] = np.where(np.arange(len(sources)) < 2, 0.2, 0.9)
    page = ReportInputs("a", inputs.difference, inputs.science, inputs.matched, sources)
    text = write_page(page, tmp_path / "page.html").read_text()
    n = np.count_nonzero(~sources["sky_source"])
    assert f"Of {n} detections 2 of a reliability below 0.5 are not marked." in text


def test_ranges_are_those_of_the_table():
    n = 7
    table = Table({"x": np.arange(n) * 9.0, "y": np.arange(n) * 8.0, "source_density": np.arange(n) / 1.0})
    table["diffim_value"], table["dipole_separation"] = [*np.arange(n - 1) - 2.5, np.nan], np.full(n, np.nan)
    table["sat_mask_fraction"], table["no_data_mask_fraction"] = np.full(n, 0.25), np.arange(n) / 6.0
    rows = {title: values for title, *values in summarize_spatial_figures(table)}
    assert rows == {
        "median of the difference": [0.0, -2.5, 2.5],
        "sources": [3.0, 0.0, 6.0],
        "share of bad pixels": [0.75, 0.25, 1.0],
    }


def test_positions_without_figures_are_not_drawn(tmp_path):
    table = Table({"x": [1.0], "y": [2.0], "diffim_value": [np.nan]})
    with pytest.raises(ValueError, match="None of the 1 positions has a figure"):
        plot_spatial_figures(table, Box.from_shape((30, 30)), tmp_path / "a.png")


def test_page_of_what_little_there_is(tmp_path):
    rng = np.random.default_rng(1)
    inputs = ReportInputs("a", make_difference(rng.normal(size=(120, 120))))
    text = write_page(inputs, tmp_path / "page.html").read_text()
    assert list(pictures(text)) == ["Autocorrelation of the noise", "PSF fluxes of blank sky"]
    assert "was not assessed" in text


def test_a_doubtful_difference_says_why(inputs, tmp_path):
    metrics = {"verdict": "doubtful", "reasons": ["x is 3, more than maxX=2; <mend it>."]}
    page = ReportInputs("a", inputs.difference, metrics=metrics)
    text = write_page(page, tmp_path / "page.html").read_text()
    assert 'class="doubtful"' in text and "x is 3, more than maxX=2; &lt;mend it&gt;." in text


def test_a_picture_that_cannot_be_drawn_says_why(inputs, tmp_path):
    difference = inputs.difference.copy()
    difference.mask.set("NO_DATA", np.ones(difference.image.array.shape, bool))
    text = write_page(ReportInputs("a", difference), tmp_path / "page.html").read_text()
    assert "No picture: Only 0 pixels of blank sky are left" in text


def test_pulls_of_noise():
    rng = np.random.default_rng(2)
    pulls = measure_sky_pulls(make_difference(rng.normal(size=(500, 500))), count=500)
    assert len(pulls) > 300
    assert abs(pulls.mean()) < 4 / np.sqrt(len(pulls)) and pulls.std() == pytest.approx(1, abs=0.13)


@pytest.mark.parametrize("n", [0, 20])
def test_dipoles_are_drawn(n, tmp_path):
    rng = np.random.default_rng(3)
    sources = Table({name: rng.uniform(0, 300, n) for name in ("x", "y", "dipoleAngle", "dipoleLength")})
    sources["isDipole"] = np.arange(n) % 2 == 0
    path = plot_dipoles(sources, Box.from_shape((300, 300)), tmp_path / "d.png")
    assert path.stat().st_size > 5000


def test_index_lists_pages(tmp_path):
    entries = [("visit 1", "a.html", {"verdict": "good", "nDiaSources": 7}), ("visit 2", "b.html", {})]
    text = write_index(entries, tmp_path / "index.html").read_text()
    assert '<a href="a.html">visit 1</a></td><td>good</td><td class="number">7</td>' in text
    assert '<a href="b.html">' in text


# The command


def run(*args):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "lsst.twinkles.diffim.cli.report", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_writes_pages_of_a_repository(tmp_path):
    from command_runs import finished_output

    from lsst.twinkles.diffim.cli.report import main

    out, pages = finished_output(), tmp_path / "pages"
    assert main([str(out), "--id", "visit=230^231", "--output", str(pages)]) == 0
    assert sorted(p.name for p in pages.iterdir()) == ["index.html", "v230-d94.html", "v231-d94.html"]
    assert "Difference and detections" not in (pages / "v230-d94.html").read_text()  # no template was written
    assert main([str(out), "--id", "visit=999", "--output", str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--id", "visit"], "must be in form key=value"),
        (["--id", "colour=3"], "Unrecognized ID key 'colour'"),
        (["--id", "visit=x"], "Cannot cast value 'x'"),
    ],
)
def test_command_refuses_wrong_data_ids(words, message, tmp_path, capsys):
    from command_runs import finished_output

    from lsst.twinkles.diffim.cli.report import main

    with pytest.raises(SystemExit) as caught:
        main([str(finished_output()), *words, "--output", str(tmp_path / "pages")])
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_command_says_what_is_no_repository(tmp_path, capsys):
    from lsst.twinkles.diffim.cli.report import main

    assert main([str(tmp_path), "--output", str(tmp_path / "pages")]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_command_is_installed():
    assert shutil.which("reportImageDifference.py", path=str(next(iter([sys.prefix + "/bin"]))))
