"""The image difference as a task of a pipeline."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from lsst.daf.butler import Butler
from lsst.pex.config import FieldValidationError
from lsst.pipe.base import AlgorithmError, Pipeline, TaskFactory
from lsst.pipe.base.separable_pipeline_executor import SeparablePipelineExecutor
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor
from repositories import make_image, make_repository
from stub_stages import StubAssessTask, StubDetectionTask, StubMeasurementTask, StubSubtractTask

from lsst.twinkles.diffim.pipeline.ids import DiaSourceIdFactory
from lsst.twinkles.diffim.pipeline.image_difference import (
    ImageDifferenceConnections,
    ImageDifferencePipelineConfig,
    TwinklesImageDifferencePipelineConfig,
    TwinklesImageDifferencePipelineTask,
)
from lsst.twinkles.diffim.pipeline.ingest import ingest_visit_image
from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = ROOT / "pipelines" / "TwinklesImageDifference.yaml"
DATA_ID = {"instrument": "TwinklesCam", "visit": 1, "detector": 94}
VISITS = ((1, "r"), (2, "r"), (3, "i"))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A repository with exposures, to be copied."""
    root = tmp_path_factory.mktemp("pipeline") / "repo"
    make_repository(root, VISITS).close()
    return root


@pytest.fixture
def butler(original, tmp_path):
    """A client of a repository that writes into the run ``u/run``."""
    shutil.copytree(original, tmp_path / "repo")
    with SimplePipelineExecutor.prep_butler(
        str(tmp_path / "repo"), inputs=["TwinklesCam/defaults"], output="u/out", output_run="u/run"
    ) as butler:
        yield butler


def make_config(template=2, **values):
    """Return a configuration whose stages are stubs."""
    config = TwinklesImageDifferencePipelineConfig()
    config.templateVisit = template
    config.subtract.retarget(StubSubtractTask)
    config.detection.retarget(StubDetectionTask)
    config.measurement.retarget(StubMeasurementTask)
    config.doFindCosmicRays = False  # the sources of these tests are single pixels
    config.doDecorrelation = False
    config.doScaleDiffimVariance = False
    config.doDeblend = False
    for name, value in values.items():
        setattr(config, name, value)
    return config


def build(butler, where="", **kwargs):
    """Return an executor with its graph."""
    where = f"instrument = 'TwinklesCam' {where and 'AND'} {where}"
    return SimplePipelineExecutor.from_task_class(
        TwinklesImageDifferencePipelineTask, config=make_config(**kwargs), where=where, butler=butler
    )


def quanta_of(executor):
    """Return the visits that the inputs of each quantum are of, by the visit of the quantum."""
    quanta = executor.predicted.build_execution_quanta(task_label="imageDifference")
    return {
        quantum.dataId["visit"]: sorted(ref.dataId["visit"] for ref in quantum.inputs["calexp"])
        for quantum in quanta.values()
    }


# The graph


def test_every_visit_but_the_template_is_paired_with_the_template(butler):
    assert quanta_of(build(butler)) == {1: [1, 2], 3: [2, 3]}


def test_the_query_chooses_the_visits(butler):
    assert quanta_of(build(butler, "visit IN (1, 2)")) == {1: [1, 2]}
    assert quanta_of(build(butler, "visit IN (1, 3)", template=3)) == {1: [1, 3]}


def test_no_difference_is_made_of_the_template_alone(butler):
    assert quanta_of(build(butler, "visit = 2")) == {}


def test_a_template_outside_the_query_is_named_with_the_way_out(butler):
    with pytest.raises(LookupError, match=r"templateVisit=2 is not among .* -d 'visit IN \(1, 2\)'"):
        build(butler, "visit = 1")


def test_only_what_is_to_be_written_is_an_output(butler):
    config = make_config(doWriteMatchedExp=False, doWriteWarpedExp=True, doMeasurement=False)
    connections = ImageDifferenceConnections(config=config)
    assert set(connections.outputs) == {
        *("differenceExp", "warpedExp", "kernelSrc", "metrics", "spatiallySampledMetrics")
    }
    config.doWriteMetrics = False
    assert set(ImageDifferenceConnections(config=config).outputs) == {"differenceExp", "warpedExp"}
    assert set(ImageDifferenceConnections(config=make_config()).outputs) == {
        "differenceExp",
        "matchedExp",
        "diaSrc",
        "kernelSrc",
        "metrics",
        "spatiallySampledMetrics",
    }


# The configuration


def test_a_template_has_to_be_named():
    with pytest.raises(ValueError, match=r"templateVisit must be set, for example -c imageDifference"):
        make_config(template=None).validate()


def test_one_name_for_the_outputs():
    config = make_config(coaddName="goodSeeing")
    with pytest.raises(ValueError, match=r"coaddName='goodSeeing' and connections.coaddName='deep'"):
        config.validate()
    config.connections.coaddName = "goodSeeing"
    config.validate()


def test_stages_that_are_not_built_refuse_here_too():
    config = make_config(doPreConvolve=True)
    with pytest.raises(FieldValidationError, match="not built yet"):
        config.validate()


def test_override_files_of_the_command_load_here():
    config = ImageDifferencePipelineConfig()
    config.load(ROOT / "config" / "imageDifference.py")
    expected = TwinklesImageDifferencePipelineConfig()
    assert config.subtract.mode == expected.subtract.mode == "auto"
    assert config.doWriteMatchedExp


def test_the_pipeline_file_names_this_task_and_asks_for_a_template():
    pipeline = Pipeline.fromFile(PIPELINE)
    with pytest.raises(ValueError, match="Configuration validation failed") as caught:
        pipeline.to_graph()
    assert "templateVisit must be set" in str(caught.value.__cause__)
    pipeline.addConfigOverride("parameters", "templateVisit", 250)
    graph = pipeline.to_graph()
    assert list(graph.tasks) == ["imageDifference"]
    assert graph.tasks["imageDifference"].task_class is TwinklesImageDifferencePipelineTask
    assert set(graph.dataset_types) >= {"calexp", "deepDiff_differenceExp", "deepDiff_diaSrc"}


# Running


def test_results_and_what_they_say_of_their_template(butler):
    (quantum, *_) = build(butler, "visit IN (1, 2)").run(register_dataset_types=True, save_versions=False)
    difference = butler.get("deepDiff_differenceExp", DATA_ID)
    science, template = make_image(1, visit=1), make_image(2, visit=2)
    np.testing.assert_array_equal(difference.image.array, science.image.array - template.image.array)
    (info,) = difference.templates
    ref = butler.find_dataset("calexp", {**DATA_ID, "visit": 2})
    assert (info.dataset_id, info.tract, info.dataset_run) == (ref.id, 2, "TwinklesCam/calexp")
    assert {r.dataId["visit"] for r in quantum.inputs["calexp"]} == {1, 2}
    matched = butler.get("deepDiff_matchedExp", DATA_ID)
    np.testing.assert_array_equal(matched.image.array, template.image.array)
    header = fits.getheader(butler.getURI("deepDiff_differenceExp", DATA_ID).ospath)
    ids = {header[f"LSST BUTLER INPUT {i} ID"] for i in range(header["LSST BUTLER N_INPUTS"])}
    assert ids == {str(r.id) for r in quantum.inputs["calexp"]}
    assert butler.find_dataset("deepDiff_differenceExp", {**DATA_ID, "visit": 2}) is None


def test_sources_have_identifiers_of_their_visit_and_detector(butler):
    image = make_image(4, visit=4)
    image.image.array[10, 12] += 1e4
    ingest_visit_image(butler, image)
    build(butler, "visit IN (2, 4)").run(register_dataset_types=True, save_versions=False)
    table = butler.get("deepDiff_diaSrc", {**DATA_ID, "visit": 4})
    assert (table["x"].tolist(), table["y"].tolist()) == ([12], [10])
    assert table["diaSourceId"].tolist() == DiaSourceIdFactory(4, 94).make(1).tolist()


def test_a_failed_algorithm_is_told_and_leaves_no_image(butler):
    config = make_config()
    config.subtract.failVisits = [1]
    executor = SimplePipelineExecutor.from_task_class(
        TwinklesImageDifferencePipelineTask,
        config=config,
        where="instrument = 'TwinklesCam' AND visit IN (1, 2)",
        butler=butler,
    )
    with pytest.raises(AlgorithmError, match="Too few stars"):
        executor.run(register_dataset_types=True, save_versions=False)
    assert butler.query_datasets("deepDiff_differenceExp", explain=False) == []


def test_outputs_of_a_bad_subtraction_are_kept(butler):
    config = make_config()
    config.assess.retarget(StubAssessTask)
    config.assess.badVisits = [1]
    executor = SimplePipelineExecutor.from_task_class(
        TwinklesImageDifferencePipelineTask,
        config=config,
        where="instrument = 'TwinklesCam' AND visit IN (1, 2)",
        butler=butler,
    )
    with pytest.raises(AlgorithmError, match="40 percent"):
        executor.run(register_dataset_types=True, save_versions=False)
    (ref,) = butler.query_datasets("deepDiff_differenceExp", explain=False)
    assert ref.dataId["visit"] == 1 and butler.get("deepDiff_metrics", DATA_ID)["visit"] == 1


def test_no_work_is_no_failure(butler):
    config = make_config()
    config.subtract.noWorkVisits = [1]
    executor = SimplePipelineExecutor.from_task_class(
        TwinklesImageDifferencePipelineTask,
        config=config,
        where="instrument = 'TwinklesCam'",
        butler=butler,
    )
    executor.run(register_dataset_types=True, save_versions=False)
    refs = butler.query_datasets("deepDiff_differenceExp", explain=False)
    assert [ref.dataId["visit"] for ref in refs] == [3]


def test_result_is_that_of_the_plain_task(butler):
    config = make_config()
    plain = TwinklesImageDifferenceTask.ConfigClass()
    plain.subtract.retarget(StubSubtractTask)
    plain.doDecorrelation = plain.doDetection = plain.doMeasurement = False
    config.doScaleDiffimVariance = plain.doScaleDiffimVariance = True
    build(butler, "visit IN (1, 2)", doScaleDiffimVariance=True).run(
        register_dataset_types=True, save_versions=False
    )
    stored = butler.get("deepDiff_differenceExp", DATA_ID)
    result = TwinklesImageDifferenceTask(config=plain).run(make_image(1, visit=1), make_image(2, visit=2))
    np.testing.assert_array_equal(stored.variance.array, result.subtractedExposure.variance.array)


def test_separable_executor_runs_the_pipeline_file(butler):
    pipeline = Pipeline.fromFile(PIPELINE)
    pipeline.addConfigOverride("parameters", "templateVisit", 2)
    pipeline.addConfigPython("imageDifference", _STUBS)
    executor = SeparablePipelineExecutor(butler, task_factory=TaskFactory())
    graph = executor.build_quantum_graph(pipeline, where="instrument = 'TwinklesCam'")
    executor.pre_execute_qgraph(graph, register_dataset_types=True, save_versions=False)
    executor.run_pipeline(graph)
    refs = butler.query_datasets("deepDiff_diaSrc", explain=False)
    assert sorted(ref.dataId["visit"] for ref in refs) == [1, 3]


_STUBS = """
from stub_stages import StubDetectionTask, StubMeasurementTask, StubSubtractTask
config.subtract.retarget(StubSubtractTask)
config.detection.retarget(StubDetectionTask)
config.measurement.retarget(StubMeasurementTask)
config.doDecorrelation = False
config.doScaleDiffimVariance = False
config.doDeblend = False
"""


@pytest.mark.slow
def test_pipetask_subtracts_simulated_visits(tmp_path):
    from lsst.twinkles.diffim.cli import simulate

    repo = tmp_path / "repo"
    assert simulate.main([str(repo), "--size", "400", "400", "--overload", "20"]) == 0
    pipetask = Path(sys.executable).with_name("pipetask")
    command = [pipetask, "run", "-b", repo, "-i", "TwinklesCam/defaults", "-o", "u/test/diff", "-p", PIPELINE]
    command += ["-d", "instrument='TwinklesCam' AND visit IN (230, 250)", "--register-dataset-types"]
    command += ["-c", "parameters:templateVisit=250"]
    subprocess.run(command, check=True, capture_output=True)
    with Butler.from_config(repo, collections="u/test/diff") as butler:
        data_id = {**DATA_ID, "visit": 230}
        difference = butler.get("deepDiff_differenceExp", data_id)
        table = butler.get("deepDiff_diaSrc", data_id)
    assert difference.templates[0].tract == 250
    good = np.isfinite(difference.image.array) & (difference.mask.array == 0).all(axis=-1)
    chi = difference.image.array[good] / np.sqrt(difference.variance.array[good])
    assert 0.9 < 1.4826 * np.median(np.abs(chi - np.median(chi))) < 1.1
    first = DiaSourceIdFactory(230, 94).base
    assert all(first < number < first + 1000 for number in table["diaSourceId"])
    assert len(table) > 0
