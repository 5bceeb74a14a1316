"""twinklesInABox.py: a small survey from nothing to the page."""

import re

import numpy as np
import pytest
from astropy.table import Table

from lsst.twinkles.diffim.cli.box import main
from lsst.twinkles.diffim.cli.box_coadds import DIFFERENCE_COLLECTION


@pytest.mark.parametrize(
    ("words", "message"), [(["--visits", "3"], "must be at least 6"), (["-j", "0"], "must be at least 1")]
)
def test_wrong_words(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path / "box"), *words])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "box").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_small_survey(tmp_path, capsys):
    box = tmp_path / "box"
    words = ["--visits", "14", "--years", "2", "--size", "320", "--overload", "20", "--seed", "4", "-j", "1"]
    assert main([str(box), *words]) == 0
    text = (box / "index.html").read_text()
    for name in re.findall(r"src='([^']+)'", text):
        assert (box / name).stat().st_size > 5000
    visits, points = (Table.read(box / f"{name}.parquet") for name in ("visits", "lightCurves"))
    assert len(visits) >= 12
    assert (visits["template"] != visits["visit"]).all()
    by_visit = dict(zip(visits["visit"], visits["mjd"], strict=True))
    gaps = [abs(row["mjd"] - by_visit[row["template"]]) for row in visits if row["template"] in by_visit]
    assert min(gaps) >= 120
    good = points[np.isfinite(points["flux"])]
    pull = (good["flux"] - good["truth"]) / good["error"]
    assert 1.4826 * np.median(np.abs(pull)) == pytest.approx(1.0, abs=0.25)
    assert np.nanmedian(visits["measured"] - visits["predicted"]) == pytest.approx(0.0, abs=0.06)
    later = np.isfinite(visits["coadd"])
    assert later.any() and not later.all()
    assert np.nanmedian((visits["coadd"] - visits["measured"])[later]) > 0
    assert DIFFERENCE_COLLECTION and "gain of the coadded template" in capsys.readouterr().out
