"""Datasets under the names of today's Rubin pipelines, by one configuration file."""

import textwrap
from pathlib import Path

import numpy as np
import pytest
from command_runs import command, config_file, stored
from lsst.daf.butler import Butler
from lsst.pipe.base import Pipeline
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor
from repositories import make_image

from lsst.twinkles.diffim.pipeline.from_template import FromTemplatePipelineConfig, FromTemplatePipelineTask
from lsst.twinkles.diffim.pipeline.image_difference import TwinklesImageDifferencePipelineConfig
from lsst.twinkles.diffim.pipeline.ingest import ExposureIngester
from lsst.twinkles.diffim.pipeline.repository import create_repository
from lsst.twinkles.diffim.tasks.dataset_names import set_rubin_names
from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "config" / "rubinPreliminaryVisitImage.py"
OUTPUTS = ("difference_image", "template_matched", "dia_source_detector")
NOISE_SEED = {1: 1, 2: 2}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Visits 1 and 2 as preliminary_visit_image and visit_image; a template for the first one."""
    root = tmp_path_factory.mktemp("rubin") / "repo"
    with create_repository(root) as butler:
        for name, visits in (
            ("preliminary_visit_image", (1, 2)),
            ("visit_image", (1,)),
            ("template_detector", (1,)),
        ):
            with ExposureIngester(butler, dataset_type=name) as ingester:
                for visit in visits:
                    seed = 50 if name == "template_detector" else NOISE_SEED[visit]
                    ingester.add(make_image(seed, visit=visit))
    return root


@pytest.mark.parametrize(
    "file, exposure",
    [(CONFIG, "preliminary_visit_image"), (ROOT / "config" / "rubinVisitImage.py", "visit_image")],
)
def test_command(repository, tmp_path, file, exposure):
    run = command("-C", str(file), "--id", "visit=1", "--output", tmp_path / "out", repo=repository)
    assert run.status == 0, run.stderr
    names = {name for name, visit in stored(tmp_path / "out") if visit == 1}
    assert set(OUTPUTS) <= names and not any("Diff_diff" in name for name in names)
    with Butler.from_config(tmp_path / "out", collections="deepDiff", instrument="TwinklesCam") as butler:
        difference = butler.get("difference_image", visit=1, detector=94)
        table = butler.get("dia_source_detector", visit=1, detector=94)
    expected = make_image(1, visit=1).image.array - make_image(50, visit=1).image.array
    np.testing.assert_allclose(difference.image.array, expected, atol=1e-3)
    assert "diaSourceId" in table.colnames
    # A later run finds the results of this one.
    again = command("-C", str(file), "--id", "visit=1", "--output", tmp_path / "out", repo=repository)
    assert again.status == 0 and again.lines("was done by an earlier run"), again.stderr


def test_an_exposure_without_template_is_named(repository, tmp_path):
    run = command("-C", str(CONFIG), "--id", "visit=1^2", "--output", tmp_path / "out", repo=repository)
    assert run.status == 1 and run.lines("There is no template_detector of it", "'visit': 2")
    assert ("difference_image", 1) in stored(tmp_path / "out")


def test_template_of_another_visit_under_rubins_names(repository, tmp_path):
    words = ["--id", "visit=1", "--templateId", "visit=2", "--output", tmp_path / "out"]
    run = command("-C", str(CONFIG), "-c", "datasets.template=", *words, repo=repository)
    assert run.status == 0, run.stderr
    with Butler.from_config(tmp_path / "out", collections="deepDiff", instrument="TwinklesCam") as butler:
        difference = butler.get("difference_image", visit=1, detector=94)
    assert difference.templates[0].tract == 2


def test_pipeline_of_pairs_takes_the_same_file():
    config = TwinklesImageDifferencePipelineConfig()
    config.load(str(CONFIG))
    connections = config.connections.ConnectionsClass(config=config)
    assert connections.exposures.name == "preliminary_visit_image"
    assert connections.differenceExp.name == "difference_image"
    assert connections.diaSrc.name == "dia_source_detector"


def test_pipeline_of_templates(repository, tmp_path):
    config = FromTemplatePipelineConfig()
    config.load(str(CONFIG))
    config.load(config_file())
    config.doWriteMatchedExp = True
    inputs = ["TwinklesCam/preliminary_visit_image", "TwinklesCam/template_detector"]
    with SimplePipelineExecutor.prep_butler(
        str(repository), inputs=inputs, output="u/rubin", output_run="u/rubin/run"
    ) as butler:
        executor = SimplePipelineExecutor.from_task_class(
            FromTemplatePipelineTask, config=config, where="instrument = 'TwinklesCam'", butler=butler
        )
        executor.run(register_dataset_types=True, save_versions=False)
        for name in OUTPUTS:
            (ref,) = butler.query_datasets(name, collections="u/rubin/run")
            assert ref.dataId["visit"] == 1
        stored_difference = butler.get(name := "difference_image", ref.dataId)
    plain = TwinklesImageDifferenceTask.ConfigClass()
    plain.load(config_file())
    result = TwinklesImageDifferenceTask(config=plain).run(make_image(1, visit=1), make_image(50, visit=1))
    np.testing.assert_allclose(
        stored_difference.image.array, result.subtractedExposure.image.array, atol=1e-3, err_msg=name
    )


def test_pipeline_file():
    pipeline = Pipeline.fromFile(ROOT / "pipelines" / "RubinImageDifference.yaml")
    task = pipeline.to_graph().tasks["imageDifference"]
    read = {edge.dataset_type_name for edge in task.inputs.values()}
    written = {edge.dataset_type_name for edge in task.outputs.values()}
    assert read == {"preliminary_visit_image", "template_detector"} and written == set(OUTPUTS)


AP_PIPE = """
description: What is looked at of ap_pipe's pipeline.
parameters:
  coaddName: goodSeeing
  release_id: 3
tasks:
  subtractImages:
    class: lsst.twinkles.diffim.pipeline.from_template.FromTemplatePipelineTask
    config:
      connections.coaddName: parameters.coaddName
  detectAndMeasureDiaSource:
    class: lsst.twinkles.diffim.pipeline.from_template.FromTemplatePipelineTask
    config:
      connections.coaddName: parameters.coaddName
"""


def test_alert_pipeline_with_our_tasks(tmp_path, monkeypatch):
    """The classes of an imported pipeline give way to ours, and their datasets fit together."""
    place = tmp_path / "pipelines" / "LSSTCam"
    place.mkdir(parents=True)
    (place / "ApPipe.yaml").write_text(textwrap.dedent(AP_PIPE))
    monkeypatch.setenv("AP_PIPE_DIR", str(tmp_path))
    pipeline = Pipeline.fromFile(ROOT / "pipelines" / "ApPipeTwinklesDiffim.yaml")
    pipeline.addConfigOverride("detectAndMeasureDiaSource", "doSkySources", False)
    tasks = pipeline.to_graph().tasks
    assert {t.task_class_name.rpartition(".")[2] for t in tasks.values()} == {
        "AlardLuptonSubtractTask",
        "DetectAndMeasureTask",
    }
    subtract, detect = tasks["subtractImages"], tasks["detectAndMeasureDiaSource"]
    for edge in ("difference", "matchedTemplate", "kernelSources"):
        names = {
            subtract.get_output_edge(edge).dataset_type_name,
            detect.get_input_edge(edge).dataset_type_name,
        }
        assert len(names) == 1
    assert detect.get_output_edge("subtractedMeasuredExposure").dataset_type_name == "difference_image"
    assert detect.get_output_edge("diaSources").dataset_type_name == "dia_source_unfiltered"
    assert detect.config.idGenerator.release_id == 3


def test_names_are_set_where_they_are():
    config = TwinklesImageDifferenceTask.ConfigClass()
    assert config.datasets.outputs() == {}
    set_rubin_names(config, exposure="visit_image")
    assert config.datasets.exposure == "visit_image"
    assert config.datasets.outputs()["differenceExp"] == "difference_image"
