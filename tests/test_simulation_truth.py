"""Truth tables, and the command that writes them beside a repository."""

import json

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table

from lsst.twinkles.diffim.cli.simulate import build_parser, main
from lsst.twinkles.diffim.simulation.campaign import Campaign, CampaignError
from lsst.twinkles.diffim.simulation.conditions import cookbook_conditions
from lsst.twinkles.diffim.simulation.config import DetectorConfig, SceneConfig
from lsst.twinkles.diffim.simulation.scene import TwinklesScene
from lsst.twinkles.diffim.simulation.truth import (
    difference_truth,
    exposure_truth,
    mean_around,
    stack_truth,
    write_truth,
)
from lsst.twinkles.diffim.simulation.visits import simulate_visit

CONFIG = SceneConfig(nx=200, ny=180, seed=3, overload=20.0, variable_star_fraction=0.3)


@pytest.fixture(scope="module")
def visits():
    scene = TwinklesScene.make(CONFIG)
    return [simulate_visit(scene, item) for item in cookbook_conditions()]


def test_difference_is_science_minus_template(visits):
    science, template = visits
    truth = difference_truth(science, template)
    assert truth["difference_flux"].unit == truth["flux_error"].unit == u.nJy
    assert np.all((truth["x"] >= 0) & (truth["x"] <= 199) & (truth["y"] >= 0) & (truth["y"] <= 179))
    by_id = {row["object_id"]: row["flux"] for row in template.truth}
    expected = [row["flux"] - by_id[row["object_id"]] for row in truth]
    assert np.asarray(truth["difference_flux"]) == pytest.approx(np.array(expected))
    assert np.asarray(truth["snr"]) == pytest.approx(np.abs(expected) / np.asarray(truth["flux_error"]))


def test_truth_from_exposures_is_that_from_the_simulation(visits):
    science, template = visits
    known = difference_truth(science, template)
    made = exposure_truth(science.exposure, template.exposure, science.truth, template.truth)
    assert np.array_equal(made["object_id"], known["object_id"])
    assert np.array_equal(made["difference_flux"], known["difference_flux"])
    ratio = np.asarray(made["flux_error"] / known["flux_error"])
    # The variance planes have the noise of the pixels in them.
    assert np.median(ratio) == pytest.approx(1.0, abs=0.02)
    assert np.all((ratio > 0.8) & (ratio < 1.3))


def test_truth_of_different_fields_is_refused(visits):
    science, template = visits
    with pytest.raises(ValueError, match="same objects"):
        exposure_truth(science.exposure, template.exposure, science.truth, template.truth[1:])
    small = simulate_visit(TwinklesScene.make(SceneConfig(nx=64, ny=64)), template.conditions)
    with pytest.raises(ValueError, match="one scene"):
        difference_truth(science, small)


def test_mean_around_is_cut_at_the_rim():
    image = np.arange(20.0).reshape(4, 5)
    means = mean_around(image, np.array([0, 2]), np.array([0, 4]), half=1)
    assert means == pytest.approx([image[:2, :2].mean(), image[1:4, 3:].mean()])


def test_stacked_truth_says_when_and_reads_back_with_units(visits, tmp_path):
    stacked = stack_truth([visit.truth for visit in visits])
    assert len(stacked) == sum(len(visit.truth) for visit in visits)
    assert set(stacked["visit"]) == {230, 250} and set(stacked["band"]) == {"i"}
    path = tmp_path / "deep" / "truth.parquet"
    write_truth(stacked, path)
    assert [file.name for file in path.parent.iterdir()] == ["truth.parquet"]
    back = Table.read(path)
    assert back["flux"].unit == u.nJy and back["mjd"].unit == u.day
    assert np.array_equal(back["flux"], stacked["flux"])


def test_a_visit_number_may_appear_once():
    conditions = cookbook_conditions()
    with pytest.raises(CampaignError, match="230"):
        Campaign(scene=CONFIG, detector=DetectorConfig(), conditions=[*conditions, conditions[0]])


def test_another_field_is_not_added_to_one_that_is_there(tmp_path):
    campaign = Campaign(scene=CONFIG, detector=DetectorConfig(), conditions=cookbook_conditions())
    campaign.check_scene(tmp_path)
    campaign.write_scene(tmp_path)
    campaign.check_scene(tmp_path)
    other = Campaign(scene=SceneConfig(nx=200, ny=180, seed=4), detector=DetectorConfig(), conditions=[])
    with pytest.raises(CampaignError, match="seed is 3, not 4"):
        other.check_scene(tmp_path)


@pytest.mark.slow
def test_several_processes_make_the_same_visits_as_one(visits):
    campaign = Campaign(scene=CONFIG, detector=DetectorConfig(), conditions=cookbook_conditions())
    made = {truth.meta["visit"]: exposure for exposure, truth in campaign.run(processes=2)}
    for visit in visits:
        number = visit.conditions.visit
        assert np.array_equal(made[number].image.array, visit.exposure.image.array)
        assert np.array_equal(made[number].mask.array, visit.exposure.mask.array)


def test_the_command_fills_a_repository_and_adds_to_it(tmp_path, capsys):
    from lsst.daf.butler import Butler

    repo = tmp_path / "repo"
    size = ["--size", "150", "140", "--seed", "9"]
    assert main([str(repo), *size]) == 0
    words = capsys.readouterr().out
    assert "2 visits of 150 x 140" in words and "imageDifference.py" in words
    names = {file.name for file in (repo / "truth").iterdir()}
    assert names == {
        "scene.json",
        "stars.parquet",
        "galaxies.parquet",
        "lenses.parquet",
        "visit-230.parquet",
        "visit-250.parquet",
    }
    assert json.loads((repo / "truth" / "scene.json").read_text())["seed"] == 9
    more = ["--no-cookbook", "--visits", "2", "--bands", "r"]
    assert main([str(repo), *size, *more]) == 0
    assert main([str(repo), *size, *more]) == 0
    assert "0 visits" in capsys.readouterr().out.split("Added")[-1]
    butler = Butler.from_config(str(repo), writeable=False)
    refs = butler.query_datasets("calexp", collections="*", find_first=False)
    assert {ref.dataId["visit"] for ref in refs} == {230, 250, 1000, 1001}
    exposure = butler.get(next(ref for ref in refs if ref.dataId["visit"] == 230))
    assert exposure.image.array.shape == (140, 150)
    butler.close()


def test_the_command_refuses_another_field_and_keeps_what_is_there(tmp_path, capsys):
    repo = tmp_path / "repo"
    (repo / "truth").mkdir(parents=True)
    Campaign(scene=CONFIG, detector=DetectorConfig(), conditions=[]).write_scene(repo / "truth")
    before = sorted(repo.rglob("*"))
    assert main([str(repo), "--size", "128", "128"]) == 1
    assert "describes another field" in capsys.readouterr().err
    assert sorted(repo.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["repo", "--no-cookbook"], "--visits"),
        (["repo", "-j", "0"], "-j must be at least 1"),
        ([], "REPO"),
    ],
)
def test_a_wrong_command_line_ends_with_status_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and words in capsys.readouterr().err


def test_a_field_too_small_is_refused_before_anything_is_written(tmp_path, capsys):
    assert main([str(tmp_path / "repo"), "--size", "20", "20"]) == 1
    assert "64 x 64" in capsys.readouterr().err and not (tmp_path / "repo").exists()


def test_defaults_of_the_command_are_those_of_the_field():
    args, config = build_parser().parse_args(["repo"]), SceneConfig()
    assert tuple(args.size) == (config.nx, config.ny)
    assert (args.seed, args.overload) == (config.seed, config.overload)
    assert args.variable_stars == config.variable_star_fraction
    assert args.jitter == DetectorConfig().jitter
