"""The command forcedPhotometry.py on an output repository and on a directory of subtractExposures.py."""

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table
from command_runs import TRANSIENT, command, fetch, pair_words, read_input, scratch
from small_exposures import make_exposure, make_wcs
from small_pairs import draw

from lsst.twinkles.diffim.cli import subtract_exposures
from lsst.twinkles.diffim.cli.forced_photometry import main
from lsst.twinkles.diffim.tasks.forced_measurement import ForcedMeasurementTask


@pytest.fixture(scope="module")
def out():
    path = scratch() / "forced"
    assert command(*pair_words(path, "230^231")).status == 0
    return path


def sky_of(exposure, x, y):
    sky = exposure.sky_projection.pixel_to_sky(x=np.array(x, float), y=np.array(y, float))
    return np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)


def write_csv(path, **columns):
    path.write_text(
        "\n".join(",".join(map(str, row)) for row in [columns, *zip(*columns.values(), strict=True)])
    )
    return path


@pytest.mark.parametrize("suffix", ["parquet", "ecsv"])
def test_every_position_is_measured_on_every_image(out, tmp_path, suffix, capsys):
    ra, dec = sky_of(read_input(230), [TRANSIENT[0], 20.0, 5000.0], [TRANSIENT[1], 24.0, 5.0])
    file = write_csv(tmp_path / "in.csv", id=["a", "b", "c", "d"], ra=[*ra, "nan"], dec=[*dec, ""])
    target = tmp_path / "new" / f"forced.{suffix}"
    assert main([str(out), str(file), "--output", str(target)]) == 0
    assert "8 rows of 2 images, 4 without psfFlux" in capsys.readouterr().out
    table = Table.read(target)
    assert list(table["id"]) == [*"abcd"] * 2 and sorted(set(table["visit"])) == [230, 231]
    np.testing.assert_array_equal(np.asarray(table["psfFlux_flag"]), [False, False, True, True] * 2)
    np.testing.assert_array_equal(np.isfinite(table["psfFlux"]), ~np.asarray(table["psfFlux_flag"]))
    assert table["psfFlux"].unit == u.electron and table["midpointMjdTai"].unit == u.d
    # What the task gives on the same images, at the pixels.
    x, y = [TRANSIENT[0], 20.0], [TRANSIENT[1], 24.0]
    images = fetch(out, "differenceExp", 230), read_input(230), fetch(out, "matchedExp", 230)
    expected = ForcedMeasurementTask().run(*images, Table({"x": x, "y": y})).forcedSources
    rows = table[table["visit"] == 230][:2]
    for name in ("psfFlux", "psfFluxErr", "scienceFlux", "templateFlux"):
        np.testing.assert_allclose(rows[name], expected[name], rtol=1e-4)
    np.testing.assert_allclose(rows["x"], x, atol=1e-4)
    assert not list(target.parent.glob(".*"))


def test_images_are_chosen_by_data_id_and_catalogues_are_positions(out, tmp_path, caplog):
    ra, dec = sky_of(read_input(230), [20.0], [24.0])
    catalogue = Table({"diaObjectId": [7], "ra": ra, "dec": dec, "psfFlux": [1.0], "x": [3.0], "visit": [9]})
    catalogue.write(tmp_path / "in.parquet")
    words = [
        str(out),
        str(tmp_path / "in.parquet"),
        "--output",
        str(tmp_path / "a.parquet"),
        "--id",
        "visit=231",
    ]
    assert main(words) == 0
    (row,) = Table.read(tmp_path / "a.parquet")
    assert row["diaObjectId"] == 7 and row["visit"] == 231 and row["x"] == pytest.approx(20.0, abs=1e-4)
    assert "psfFlux, x, visit" in caplog.text
    with pytest.raises(SystemExit, match="2"):  # it is there already
        main(words)
    assert main([*words, "--clobber"]) == 0


def test_a_directory_of_two_files_is_measured(tmp_path, capsys, caplog):
    shape, places = (160, 170), [(x, y) for x in range(20, 160, 26) for y in range(20, 150, 26)]
    stars = np.array([(x, y, 2e4) for x, y in places], float)
    rng, paths = np.random.default_rng(1), []
    for name, change in (("science", 3000.0), ("template", 0.0)):
        image = 100.0 + draw(shape, stars, 2.0) + change * draw(shape, np.array([[72.0, 59.0, 1.0]]), 2.0)
        exposure = make_exposure(
            image + 5.0 * rng.normal(size=shape), variance=25.0, sigma=2.0, wcs=make_wcs(), unit=u.electron
        )
        paths.append(tmp_path / f"{name}.fits")
        exposure.write(str(paths[-1]))
    results = tmp_path / "results"
    assert subtract_exposures.main([*map(str, paths), "--output", str(results), "-L", "error"]) == 0
    file = write_csv(tmp_path / "in.csv", x=[72.0, 30.0], y=[59.0, 33.0])
    assert main([str(results), str(file), "--output", str(tmp_path / "a.ecsv")]) == 0
    table = Table.read(tmp_path / "a.ecsv")
    pulls = (table["psfFlux"] - [3000.0, 0.0]) / table["psfFluxErr"]
    assert np.all(np.abs(pulls) < 4.5) and table["psfFlux"].unit == u.electron
    assert np.all(
        np.abs(table["scienceFlux"] - table["templateFlux"] - table["psfFlux"]) < 5 * table["scienceFluxErr"]
    )
    paths[0].unlink()
    capsys.readouterr()
    assert main([str(results), str(file), "--output", str(tmp_path / "b.ecsv")]) == 1
    assert "no image could be measured" in capsys.readouterr().err
    assert "science.fits: there is no such file" in caplog.text and not (tmp_path / "b.ecsv").exists()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"RA": [1.0], "dec": [2.0]}, "but has RA, dec"),
        ({"ra": [1.0], "dec": [102.0]}, "is 102 in row 1; are ra and dec interchanged"),
        ({"ra": ["12:30:00"], "dec": [2.0]}, "must hold numbers, and has '12:30:00'"),
        ({"x": [1.0], "y": [2.0]}, "there are several images"),
    ],
)
def test_bad_positions_are_named(out, tmp_path, capsys, columns, said):
    file = write_csv(tmp_path / "in.csv", **columns)
    assert main([str(out), str(file), "--output", str(tmp_path / "a.parquet")]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a.parquet").exists()


def test_what_is_not_there_is_said(out, tmp_path, capsys):
    file = write_csv(tmp_path / "in.csv", ra=[1.0], dec=[2.0])
    words = ["--output", str(tmp_path / "a.parquet")]
    assert main([str(tmp_path / "no"), str(file), *words]) == 1
    assert main([str(out), str(tmp_path / "no.csv"), *words]) == 1
    assert main([str(out), str(file), *words, "--id", "visit=999"]) == 1
    said = capsys.readouterr().err
    assert "there is no file" in said and "nothing to measure" in said
    with pytest.raises(SystemExit, match="2"):
        main([str(out), str(file), "--output", str(tmp_path / "a.txt")])
