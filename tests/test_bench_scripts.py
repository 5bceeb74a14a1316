"""The scripts behind make demo, make quality and make bench."""

import importlib
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table
from conftest import ROOT
from lsst.images.fields import ChebyshevField
from small_exposures import make_exposure

from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid

BENCH = ROOT / "bench"


@pytest.fixture
def script(monkeypatch):
    """Return a function that imports a script of the directory bench."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


_MEASURE = """
import json, os, pathlib, sys
import bench
program = "x = bytearray(200 * 2**20); import time; time.sleep(0.2); raise SystemExit(3)"
print(json.dumps(bench.measure([sys.executable, "-c", program], dict(os.environ), pathlib.Path(sys.argv[1]))))
"""


def test_a_process_is_measured(tmp_path):
    # From a small process, as bench.py is one: the peak of a child counts from its parent's memory.
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path / "log")],
        cwd=BENCH,
        check=True,
        capture_output=True,
        text=True,
    )
    used = json.loads(done.stdout)
    assert used["status"] == 3 and used["wall"] >= 0.2 and 0 < used["cpu"] < 30.0
    assert 200 < used["memory"] < 300


def test_times_are_given_in_units_of_a_transform_and_a_copy(script):
    bench = script("bench")
    stages = {"match": {"wall": 2.0, "cpu": 3.0}}
    result = {
        "size": "1024x1024",
        "threads": 2,
        "cold": False,
        "stages": {
            "fft": 0.5,
            "fft_cpu": 0.4,
            "copy": 0.01,
            "memory": 700.0,
            "task": {"wall": 4.0, "cpu": 5.0},
            "stages": stages,
        },
        "commands": {"imageDifference.py": {"wall": 9.0, "cpu": 10.0, "memory": 800.0, "status": 1}},
    }
    lines = bench.format_result(result).split("\n")
    (match,) = (line for line in lines if line.startswith("match"))
    assert match.split() == ["match", "2.00", "3.00", "4.0", "7.5", "200"]
    (task,) = (line for line in lines if "task in memory" in line)
    assert task.split()[-1] == "700"
    assert "failed, status 1" in lines[-1]


@pytest.mark.parametrize("arguments", [["--sizes", "1024"], ["--sizes", "axb"], ["--repeat", "0"]])
def test_bench_refuses_what_makes_no_sense(script, monkeypatch, arguments, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.py", *arguments])
    with pytest.raises(SystemExit):
        script("bench").parse_arguments()
    assert arguments[0] in capsys.readouterr().err


def test_rows_of_the_peers_fit_their_columns(script):
    peers = script("peers")
    names = {name for name, *_ in script("quality")._TABLE}
    assert set(peers.COLUMNS) <= names
    assert all(len(row) == len(peers.COLUMNS) for case in peers.PEERS.values() for row in case.values())


def test_quality_is_median_and_worst_of_the_seeds_and_set_beside_the_peers(script):
    quality = script("quality")
    scores = [{"sigma": 1.0, "false": 2}, {"sigma": 1.2, "false": 5}, {"sigma": 0.7, "false": 3}]
    rows = [
        quality.Row("evaluator", "std", seed, code, score)
        for code in (quality.ORACLE, quality.OURS)
        for seed, score in enumerate(scores)
    ]
    text = quality.format_rows(rows, "1024")
    ours, worst = (line for line in text.split("\n") if quality.OURS in line)
    assert ours.split()[-2:] == ["1.000", "3.0"]
    # Farthest from 1, and from 0.
    assert "worst" in worst and worst.split()[-2:] == ["0.700", "5.0"]
    assert "HOTPANTS" in text and "Our own pairs" not in text
    # The published rows are of one size.
    assert "HOTPANTS" not in quality.format_rows(rows, "512")


def test_quality_pools_the_fluxes_of_all_seeds(script):
    quality = script("quality")
    rng = np.random.default_rng(1)
    true = np.concatenate([rng.uniform(-100, -6, 2000), rng.uniform(6, 100, 2000), [1.0] * 9])
    noise = rng.normal(size=len(true))

    def transients(width, bias):
        measured = true * (1 + bias) + width * noise
        measured[:50] = np.nan
        return np.column_stack([measured, true, np.ones(len(true))]).tolist()

    rows = [
        quality.Row("evaluator", case, seed, code, {"sigma": 1.0}, transients(width, bias))
        for case in ("std", "rev")
        for seed in (1, 2)
        for code, width, bias in ((quality.ORACLE, 1.0, 0.0), (quality.OURS, 1.02, 0.01))
    ]
    lines = quality.format_rows(rows, "512").split("\n")
    first, second = (k for k, line in enumerate(lines) if "all seeds together" in line)
    for case, number in (("std", 2 * 3950), ("all", 4 * 3950)):
        (line,) = (line for line in lines[first:second] if line.startswith(case))
        best, ours = (part.split() for part in line.removeprefix(case).split(";"))
        assert float(best[1]) == pytest.approx(1.0, abs=0.04) and int(best[-1]) == number
        # A percent more of fluxes of up to 100 errors scatters, too.
        assert float(ours[2]) == pytest.approx(np.hypot(1.02, 0.5), abs=0.1)
        (line,) = (line for line in lines[second:] if line.startswith(case))
        pairs = re.findall(r"([+-][0-9.]+) \+- ([0-9.]+)", line)
        values = [(float(value), float(error)) for value, error in pairs]
        (bias, error), (ours, _), (between, small) = values
        assert abs(bias) < 4 * error and 0.01 <= error < 0.2 and ours == pytest.approx(1 + bias, abs=0.05)
        assert between == pytest.approx(1.0, abs=4 * small) and small < 0.1 * error


def test_quality_reads_its_options(script, monkeypatch, capsys):
    quality = script("quality")
    monkeypatch.setattr(sys, "argv", ["quality.py", "--seeds", "2..4", "--cases", "std,eq"])
    args = quality.parse_arguments()
    assert args.seeds == [2, 3, 4] and args.cases == ["std", "eq"] and args.shape == (1024, 1024)
    monkeypatch.setattr(sys, "argv", ["quality.py", "--size", "4000x4072", "--no-own"])
    assert quality.parse_arguments().shape == (4072, 4000)
    for wrong in (["--cases", "fog"], ["--seeds", "a"], ["--size", "40by40"]):
        monkeypatch.setattr(sys, "argv", ["quality.py", *wrong])
        with pytest.raises(SystemExit):
            quality.parse_arguments()
        assert wrong[0] in capsys.readouterr().err


def test_quality_configures_the_task(script, monkeypatch):
    quality = script("quality")
    line = ["quality.py", "--mode", "convolveScience", "-c", "doDecorrelation=False"]
    monkeypatch.setattr(sys, "argv", line)
    task = quality.make_task(quality.parse_arguments())
    assert task.config.subtract.mode == "convolveScience"
    assert not task.config.doDecorrelation


def test_catalogue_is_scored_on_good_pixels_without_flagged_sources(script):
    quality = script("quality")
    sources = Table({"x": [5.0, 15.0, 15.0], "y": [5.0, 2.0, 18.0], "isNegative": [False] * 3})
    sources["psfFlux"], sources["psfFluxErr"] = 100.0, 10.0
    for name in quality.FLAGS:
        sources[name] = [False, False, name == "pixelFlags"]
    truth = Table({"x": [5.0, 10.0, 17.0], "y": [5.0, 10.0, 7.0], "snr": [10.0] * 3})
    truth["difference_flux"] = 100.0
    masked = np.zeros((20, 20), dtype=bool)
    masked[10, 10] = True
    scores = quality.score_catalogue(sources, truth, masked)
    assert scores == {"catalogue": 0.5, "catalogue_false": 1}
    assert quality.score_catalogue(None, truth, masked) == {}


def test_psf_is_handed_to_the_evaluator_in_raster_order(script, monkeypatch, tmp_path):
    evaluator = script("common_evaluator")
    monkeypatch.setattr(evaluator, "_score", lambda pair, out: {})
    stamps = np.zeros((2, 3, 5, 5))
    stamps[:, :, 2, 2] = np.arange(6).reshape(2, 3)
    grid = PsfGrid(stamps=stamps, x=np.array([0.0, 10.0, 20.0]), y=np.array([0.0, 7.0]))
    masked = np.zeros((8, 8), dtype=bool)
    masked[2, 3] = True
    arrays = {"difference": np.ones((8, 8)), "variance": np.full((8, 8), 4.0), "masked": masked}
    evaluator.score_result(tmp_path, tmp_path / "out", arrays, grid)
    positions, written = (np.load(tmp_path / "out" / f"{n}.npy") for n in ("psfpos", "psfgrid"))
    assert [tuple(p) for p in positions[:4]] == [(0, 0), (10, 0), (20, 0), (0, 7)]
    assert list(written[:, 2, 2]) == [0, 1, 2, 3, 4, 5]
    assert np.load(tmp_path / "out" / "diff.npy")[2, 3] == 0.0


def test_the_demonstration_drops_flagged_sources_and_knows_units(script):
    demo = script("demo")
    exposure = make_exposure(np.zeros((20, 20)))
    scaling = ChebyshevField(exposure.bbox, np.array([[3.0]]), unit=u.nJy / u.electron)
    table = Table({"x": [5.0, 6.0], "y": [5.0, 6.0], "psfFlux": [10.0, 20.0], "psfFluxErr": [1.0, 2.0]})
    for name in ("centroid_flag", "psfFlux_flag", "pixelFlags", "pixelFlags_edge"):
        table[name] = [False, name == "pixelFlags_edge"]
    kept, count = demo.drop_flagged(table)
    assert list(kept["x"]) == [5.0] and count == 1
    table["psfFlux"].unit = table["psfFluxErr"].unit = u.electron
    difference = SimpleNamespace(photometric_scaling=scaling)
    assert list(demo.in_nanojansky(table, difference)["psfFlux"]) == [30.0, 60.0]
    table["psfFlux"].unit = table["psfFluxErr"].unit = u.uJy
    assert list(demo.in_nanojansky(table, difference)["psfFlux"]) == pytest.approx([10_000.0, 20_000.0])


def test_the_demonstration_says_what_is_not_installed(script, monkeypatch, capsys):
    demo = script("demo")
    monkeypatch.setenv("PATH", "")
    assert demo.run_command("noSuchProgram.py repo") == 127
    assert "make install" in capsys.readouterr().err
    assert (ROOT / demo.configuration_file()).is_file()


def test_pulls_are_those_of_changes_that_stand_apart(script, capsys, tmp_path):
    pulls = script("pulls")
    truth = Table({"x": [10.0, 22.0, 80.0, 95.0], "y": [10.0, 10.0, 80.0, 80.0], "snr": [9.0, 0.1, 8.0, 7.0]})
    np.testing.assert_array_equal(pulls.apart(truth), [True, False, False, False])
    rng = np.random.default_rng(1)
    table = {name: rng.normal(2.0, 3.0, 400) for name in (*pulls.KINDS, *pulls.DIPOLE_KINDS)}
    table |= {"snr": np.full(400, 10.0), "on_source": np.zeros(400, bool)}
    pulls.report(table, pulls.KINDS)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    (row,) = [words[5:] for words in lines if words[:5] == ["8", "-", "14", "sky", "400"]]
    for mean, width in zip(row[::2], row[1::2], strict=True):
        assert float(mean.split("(")[0]) == pytest.approx(2.0, abs=0.6)
        assert float(width) == pytest.approx(3.0, abs=0.4)
    pulls.draw(table, table, tmp_path / "pulls.png")
    assert (tmp_path / "pulls.png").stat().st_size > 10000


def test_real_pairs_are_those_whose_files_are_there(script, tmp_path, monkeypatch, capsys):
    real = script("real")
    monkeypatch.setattr(sys, "argv", ["real.py", "--data", str(tmp_path), "--output", str(tmp_path / "out")])
    assert real.main() == 0 and "skipped" in capsys.readouterr().out and not (tmp_path / "out").exists()
    for name in ("sfft_decam/DEC-OBS04a.mini.fits", "sfft_decam/DEC-OBS04b.mini.fits"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (pair,) = real.find_pairs(tmp_path, "decam")
    assert pair.name == "04b - 04a" and pair.science.name == "DEC-OBS04b.mini.fits"
    monkeypatch.setattr(sys, "argv", ["real.py", "--sets", "moon"])
    with pytest.raises(SystemExit):
        real.parse_arguments()
    # An empty file is refused, and said so.
    args = SimpleNamespace(keep=False, output=tmp_path, config=[])
    outcome = real.subtract(pair, args)
    assert outcome.status == 1 and "is empty" in outcome.message and "is empty" in real.row(outcome)


def test_real_figures_count_what_was_put_there(script):
    real = script("real")
    rng = np.random.default_rng(4)
    pixels = rng.normal(size=(200, 220)) * 3.0
    y, x = np.mgrid[:200, :220]
    for x0, y0, flux in ((50, 60, 200.0), (150, 120, -200.0), (100, 30, 200.0)):
        pixels += flux * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 1.5**2) / (2 * np.pi * 1.5**2)
    exposure = make_exposure(pixels, variance=np.full(pixels.shape, 9.0), sigma=1.5)
    masked = np.zeros(pixels.shape, bool)
    masked[25:36, 95:106] = True  # one of the three
    exposure.mask.set("BAD", masked)
    significance = real.filter_with_psf(exposure)
    scatter = real.robust_scatter(significance)
    assert scatter == pytest.approx(1.0, abs=0.05)
    # Signal-to-noise ratio of flux over noise times the root of the PSF's area.
    assert significance[60, 50] == pytest.approx(200 / (3.0 * np.sqrt(4 * np.pi) * 1.5), abs=4)
    assert real.count_peaks(significance, scatter, exposure) == 2
    correlations = np.zeros((7, 7))
    correlations[3, 3], correlations[3, 4], correlations[4, 2], correlations[5, 5] = 1.0, 0.1, -0.2, 0.05
    assert real.largest_correlation(correlations, 1) == -0.2
    assert real.largest_correlation(correlations, 2) == 0.05


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["zogy", "AL"])
def test_stars_that_moved_are_called_dipoles_and_transients_are_not(script, kernel):
    dipoles = script("dipoles")
    counts = np.sum([dipoles.count_pair(seed, 1024, kernel) for seed in (1, 2, 3, 4)], axis=0)
    n_moved, called, n_transients, wrong = counts
    assert n_moved > 40 and n_transients > 800
    assert called >= 0.95 * n_moved
    assert wrong <= 0.01 * n_transients


@pytest.mark.slow
def test_catalogue_is_that_of_the_ideal_matched_filter(script):
    completeness = script("completeness")
    counts = np.sum([completeness.count_pair(case, 5, 1024, "zogy") for case in ("std", "rev", "eq")], axis=0)
    (expected, ideal, false_ideal, area), (same, ours, false, _) = counts
    assert expected == same > 150
    # What is within 1 percent of the ideal, allowing for as many as change sides by chance.
    assert ours >= ideal - 0.01 * expected - 3
    assert false - false_ideal <= area / 1e6 + 3


@pytest.mark.slow
def test_quasars_of_two_images_are_two_sources(script):
    (number, resolved), errors = script("completeness").measure_quasars(5, 1024, "zogy")
    assert number >= 50 and resolved >= 0.95 * number
    assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(len(errors))
