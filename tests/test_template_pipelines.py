"""The pipelines that choose and make templates, as `pipetask` runs them; the subtraction is a stub."""

import shutil
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from lsst.daf.butler import Butler
from lsst.images import Box
from lsst.images.fields import ChebyshevField
from lsst.pipe.base import Pipeline
from lsst.pipe.base.pipelineIR import ContractError
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor
from repositories import make_image
from stub_stages import StubDetectionTask, StubMeasurementTask, StubSubtractTask

from lsst.twinkles.diffim.pipeline.ingest import ExposureIngester
from lsst.twinkles.diffim.pipeline.repository import create_repository
from lsst.twinkles.diffim.tasks.coadd_exposure import coadd_visits

PIPELINES = Path(__file__).resolve().parent.parent / "pipelines"
NOISES = {1: 10.0, 2: 8.0, 3: 9.0, 4: 12.0, 5: 11.0}  # visit 2 is the deepest, then 3; 6 is in another band
CHOSEN = ("u/choice", "TwinklesCam/defaults")
STUBS = """
from stub_stages import StubDetectionTask, StubMeasurementTask, StubSubtractTask
config.doDecorrelation = False
config.doScaleDiffimVariance = False
config.subtract.retarget(StubSubtractTask)
config.detection.retarget(StubDetectionTask)
config.measurement.retarget(StubMeasurementTask)
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A repository of calibrated visits, to be copied."""
    root = tmp_path_factory.mktemp("pipelines") / "repo"
    with create_repository(root) as butler, ExposureIngester(butler) as ingester:
        for visit, noise in (*NOISES.items(), (6, 5.0)):
            scaling = ChebyshevField(Box.from_shape((48, 48)), np.array([[2.0]]), unit=u.nJy / u.electron)
            image = make_image(
                visit, visit=visit, band="i" if visit == 6 else "r", variance=noise**2, scaling=scaling
            )
            ingester.add(image)
    return root


@pytest.fixture
def root(original, tmp_path):
    return shutil.copytree(original, tmp_path / "repo")


def load(name, **parameters):
    """Return a pipeline with the stub stages put in."""
    pipeline = Pipeline.fromFile(str(PIPELINES / f"{name}.yaml"))
    for key, value in parameters.items():
        pipeline.addConfigOverride("parameters", key, value)
    if "imageDifference" in pipeline.task_labels:
        pipeline.addConfigPython("imageDifference", STUBS)
    return pipeline


def run(root, name, where="", *, inputs=("TwinklesCam/defaults",), output="u/out", **parameters):
    """Run a pipeline; return a client that reads its results."""
    where = f"instrument = 'TwinklesCam' {where and 'AND'} {where}"
    with SimplePipelineExecutor.prep_butler(str(root), inputs=list(inputs), output=output) as butler:
        executor = SimplePipelineExecutor.from_pipeline(load(name, **parameters), where=where, butler=butler)
        executor.run(register_dataset_types=True)
    return Butler.from_config(str(root), collections=output, instrument="TwinklesCam")


def fetch(butler, name, **data_id):
    """Read a result."""
    return butler.get(name, data_id, detector=94)


def templates_of(butler, visits=range(1, 7)):
    """Return the template of each visit that has a difference."""
    found = {}
    for visit in visits:
        ref = butler.find_dataset("deepDiff_differenceExp", visit=visit, detector=94)
        if ref is not None:
            found[visit] = butler.get(ref).templates[0]
    return found


def test_best_template_of_every_visit(root):
    run(root, "selectTemplates", output="u/choice").close()
    with run(root, "imageDifferenceBest", inputs=CHOSEN) as butler:
        templates = {visit: info.tract for visit, info in templates_of(butler).items()}
        assert templates == {1: 2, 2: 3, 3: 2, 4: 2, 5: 2}  # the only visit in i has none
        scores = fetch(butler, "deepDiff_templateScores", visit=3)
        assert sorted(scores["visit"]) == [1, 2, 3, 4, 5]
        assert scores["visit"][scores["rank"] == 0][0] == 2
        alone = fetch(butler, "deepDiff_templateChoices", physical_filter="i")
        assert list(alone["reason"]) == ["the science visit itself"]


def test_another_method_of_choice(root):
    with run(root, "selectTemplates", "band = 'r'", method="bestSeeing") as butler:
        table = fetch(butler, "deepDiff_templateChoices", physical_filter="r")
    best = {int(row["scienceVisit"]): int(row["visit"]) for row in table if row["rank"] == 0}
    assert best == {1: 2, 2: 1, 3: 1, 4: 1, 5: 1}  # all equally sharp: the first


def test_choices_have_to_be_there_and_fit_the_query(root):
    with pytest.raises(LookupError, match=r"no deepDiff_templateChoices of these .* run selectTemplates"):
        run(root, "imageDifferenceBest", "band = 'r'")
    run(root, "selectTemplates", "visit IN (1, 2, 3)", output="u/choice").close()
    with pytest.raises(LookupError, match="No template was chosen for visit 4; run selectTemplates"):
        run(root, "imageDifferenceBest", "visit IN (2, 3, 4)", inputs=CHOSEN)
    with pytest.raises(LookupError, match="Visit 2, the template of visit 1, is not among the visits"):
        run(root, "imageDifferenceBest", "visit IN (1, 3)", inputs=CHOSEN)


def test_coadd_and_differences_from_it(root):
    with run(root, "makeTemplate", "band = 'r'", output="templates/first", nVisitsMax=3) as butler:
        coadd = fetch(butler, "deepCoadd_template", physical_filter="r")
        assert coadd_visits(coadd) == [2, 3, 1]
        table = fetch(butler, "deepCoadd_inputs", physical_filter="r")
        assert list(table["visit"]) == [1, 2, 3, 4, 5]
        assert list(table["weight"] > 0) == [True, True, True, False, False]
    inputs = ("templates/first", "TwinklesCam/defaults")
    with run(root, "imageDifferenceCoadd", "band = 'r'", inputs=inputs, output="u/late") as butler:
        templates = templates_of(butler)
        assert set(templates) == {4, 5}  # the others are part of the coadd
        assert templates[4].skymap == "coadd"


def test_yearly_templates_in_one_repository(root):
    """Templates of the visits before, each in a run of its own: the small visits here have no dates."""
    for name, excluded in (("one", [3, 4, 5]), ("two", [4, 5])):
        pipeline = load("makeTemplate")
        pipeline.addConfigPython(
            "makeTemplate", f"config.selectVisits.active.excludeVisits = {excluded}\nconfig.nVisitsMin = 2"
        )
        with SimplePipelineExecutor.prep_butler(
            str(root), inputs=["TwinklesCam/defaults"], output=f"templates/{name}"
        ) as butler:
            SimplePipelineExecutor.from_pipeline(pipeline, where="band = 'r'", butler=butler).run(
                register_dataset_types=True
            )
    for name, visit, members in (("one", 3, [2, 1]), ("two", 4, [2, 3, 1])):
        inputs = (f"templates/{name}", "TwinklesCam/defaults")
        with run(
            root, "imageDifferenceCoadd", f"visit = {visit}", inputs=inputs, output=f"u/{name}"
        ) as butler:
            assert set(templates_of(butler)) == {visit}
            assert coadd_visits(fetch(butler, "deepCoadd_template", physical_filter="r")) == members


def test_tangent_plane_and_a_reference_that_is_not_there(root):
    pipeline = load("makeTemplate")
    pipeline.addConfigOverride("makeTemplate", "grid", "tangentPlane")
    pipeline.addConfigOverride("makeTemplate", "pixelScale", 0.25)
    with SimplePipelineExecutor.prep_butler(
        str(root), inputs=["TwinklesCam/defaults"], output="u/plane"
    ) as butler:
        SimplePipelineExecutor.from_pipeline(pipeline, where="band = 'r'", butler=butler).run(
            register_dataset_types=True
        )
    with Butler.from_config(str(root), collections="u/plane", instrument="TwinklesCam") as butler:
        coadd = fetch(butler, "deepCoadd_template", physical_filter="r")
        assert 37 < coadd.bbox.x.size < 42  # 48 pixels of 0.2 arcsec
    with pytest.raises(LookupError, match="referenceVisit=77 is not among the visits"):
        pipeline.addConfigOverride("makeTemplate", "referenceVisit", 77)
        with SimplePipelineExecutor.prep_butler(
            str(root), inputs=["TwinklesCam/defaults"], output="u/none"
        ) as butler:
            SimplePipelineExecutor.from_pipeline(pipeline, where="band = 'r'", butler=butler).run(
                register_dataset_types=True
            )


def test_parameters_of_the_template():
    graph = load("makeTemplate", minMJD="59000.5", maxMJD="60000.5", method="bestSeeing").to_graph()
    select = graph.tasks["makeTemplate"].config.selectVisits
    assert select.name == "bestSeeing"
    assert (select.active.minMJD, select.active.maxMJD, select.active.nVisitsMax) == (59000.5, 60000.5, 12)


@pytest.mark.parametrize("name", ["imageDifferenceBest", "imageDifferenceCoadd"])
def test_contracts(name):
    pipeline = load(name)
    pipeline.addConfigOverride("imageDifference", "templateSource", "visit")
    pipeline.addConfigOverride("imageDifference", "templateVisit", 1)
    with pytest.raises(ContractError, match="for others there are"):
        pipeline.to_graph()


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PIPELINES.glob("*.yaml")) if "TwinklesCam/defaults" in path.read_text()],
    ids=lambda path: path.stem,
)
def test_every_pipeline_of_twinkles_makes_a_graph_of_tasks_and_says_how_to_run_it(path):
    pipeline = Pipeline.fromFile(str(path))
    if path.stem == "TwinklesImageDifference":
        pipeline.addConfigOverride("parameters", "templateVisit", 1)
    assert pipeline.to_graph().tasks
    text = path.read_text()
    assert "pipetask run -b REPO" in text and f"-p {path.name}" in text


def test_the_stubs_are_the_ones_in_use():
    config = load("imageDifferenceBest").to_graph().tasks["imageDifference"].config
    assert config.subtract.target is StubSubtractTask
    assert (config.detection.target, config.measurement.target) == (StubDetectionTask, StubMeasurementTask)
