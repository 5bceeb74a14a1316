"""Submission to batch systems: the site files, and runs that lose processes on the way."""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from lsst.daf.butler import Butler
from repositories import make_repository

pytest.importorskip("lsst.ctrl.bps.parsl", reason="needs the extra 'batch'")

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
SITES = ("local", "slurm", "htcondor")
N_VISITS = 22
TEMPLATE = 99
PATIENCE_S = 1500.0
STUBS = """\
from stub_stages import StubDetectionTask, StubMeasurementTask, StubSubtractTask
config.doDecorrelation = False
config.doScaleDiffimVariance = False
config.subtract.retarget(StubSubtractTask)
config.detection.retarget(StubDetectionTask)
config.measurement.retarget(StubMeasurementTask)
"""

# Sleeping stands in for a queue; the job is a process of its own, as it would be on a node.
SBATCH = """\
#!/bin/sh
set -e
n=$(ls "$FAKE_SLURM" | wc -l)
cp "$1" "$FAKE_SLURM/$n.script"
SLURM_JOB_ID=$n setsid bash "$1" >"$FAKE_SLURM/$n.out" 2>&1 </dev/null &
echo $! >"$FAKE_SLURM/$n.pid"
echo "Submitted batch job $n"
"""
SQUEUE = """\
#!/bin/sh
for file in "$FAKE_SLURM"/*.pid; do
    if kill -0 $(cat "$file") 2>/dev/null; then echo "$(basename "$file" .pid) R"; fi
done
"""
SCANCEL = """\
#!/bin/sh
for n in "$@"; do kill -TERM -$(cat "$FAKE_SLURM/$n.pid") 2>/dev/null || true; done
"""


# The files ------------------------------------------------------------------------------------


def read_site(site):
    from lsst.ctrl.bps import BpsConfig

    service = "lsst.ctrl.bps.parsl.ParslService"
    config = BpsConfig(ROOT / "bps" / f"{site}.yaml", wms_service_class_fqn=service)
    config["operator"] = "somebody"  # bps takes the user's name
    return config


@pytest.mark.parametrize("site", SITES)
def test_every_site_runs_the_pipeline_in_clusters(site):
    config = read_site(site)
    assert config["computeSite"] == site
    assert (ROOT / config["pipelineYaml"]).exists()
    assert config["clusterAlgorithm"].endswith(".dimension_clustering")
    assert config[".cluster.imageDifference.partitionMaxSize"] == 10
    assert config["requestMemory"] >= 2048 and config[".finalJob.requestCpus"] == 1


@pytest.mark.parametrize(("site", "provider"), [("local", "LocalProvider"), ("slurm", "SlurmProvider")])
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # Parsl, looking for its address
def test_parsl_takes_the_site(site, provider):
    from lsst.ctrl.bps.parsl.site import SiteConfig

    (executor,) = SiteConfig.from_config(read_site(site)).get_parsl_config().executors
    assert type(executor.provider).__name__ == provider
    assert executor.encrypted
    if site == "local":
        assert executor.address == "127.0.0.1"  # and no other interface


# Runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("batch") / "repo"
    visits = [*range(1, N_VISITS + 1), TEMPLATE]
    make_repository(root, [(visit, "r") for visit in visits]).close()
    return root


@pytest.fixture
def place(original, tmp_path, monkeypatch):
    """A directory with a repository, in which runs are submitted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))  # where bps puts its files
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    scripts = Path(sys.executable).parent
    monkeypatch.setenv("PATH", os.pathsep.join((str(scripts), os.environ["PATH"])))
    shutil.copytree(original, tmp_path / "repo")
    return tmp_path


def submit_words(place, config, *, stubs=""):
    (place / "stubs.py").write_text(STUBS + stubs)
    options = f"-C imageDifference:{place}/stubs.py -c parameters:templateVisit={TEMPLATE}"
    words = [
        "bps",
        "submit",
        config,
        "-b",
        place / "repo",
        "--output",
        "u/batch",
        "--output-run",
        "u/batch/run",
    ]
    words += ["-p", ROOT / "pipelines" / "TwinklesImageDifference.yaml", "-d", "instrument='TwinklesCam'"]
    return [*map(str, words), "--extra-qgraph-options", options]


def run(words):
    result = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


def count_images(place):
    return len(list((place / "repo/u/batch/run/deepDiff_differenceExp").rglob("*.fits")))


def assert_every_visit_is_there_once(place):
    """Also for the registry: what it knows has a file, and no file is unknown to it."""
    with Butler.from_config(str(place / "repo")) as butler:
        for name in ("deepDiff_differenceExp", "deepDiff_diaSrc", "imageDifference_metadata"):
            refs = butler.query_datasets(name, "u/batch/run", explain=False, limit=None)
            count = Counter(ref.dataId["visit"] for ref in refs)
            assert count == dict.fromkeys(range(1, N_VISITS + 1), 1), name
            files = {Path(butler.getURI(ref).ospath) for ref in refs}
            assert files == {f for f in (place / "repo/u/batch/run" / name).rglob("*") if f.is_file()}


@pytest.mark.slow
def test_a_job_that_is_killed_is_tried_again(place):
    trouble = f"config.subtract.dieVisits = [7]\nconfig.subtract.dieOnce = {str(place / 'died')!r}\n"
    said = run(submit_words(place, ROOT / "bps" / "local.yaml", stubs=trouble))
    assert (place / "died").exists(), said
    assert_every_visit_is_there_once(place)
    logs = place / "submit/u/batch/run/logs/imageDifference"
    assert len(list(logs.glob("*.stderr"))) == 3  # 22 visits by tens


@pytest.mark.slow
def test_a_run_that_is_killed_is_restarted(place):
    with (place / "log").open("w") as log:
        words = submit_words(place, ROOT / "bps" / "local.yaml")
        process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    limit = time.monotonic() + PATIENCE_S
    while count_images(place) < 3:
        assert process.poll() is None and time.monotonic() < limit, (place / "log").read_text()[-3000:]
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for member in family:
        member.kill()
    process.wait()
    psutil.wait_procs(family, timeout=30)
    assert 3 <= count_images(place) < N_VISITS
    service = "lsst.ctrl.bps.parsl.ParslService"
    said = run(["bps", "restart", "--wms-service-class", service, "--id", str(place / "submit/u/batch/run")])
    assert count_images(place) == N_VISITS, said
    assert_every_visit_is_there_once(place)


@pytest.mark.slow
def test_the_slurm_site_with_stand_ins_for_slurms_commands(place, monkeypatch):
    """They start what they are given at once, on this machine."""
    (place / "fake").mkdir()
    (place / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        (place / "bin" / name).write_text(text)
        (place / "bin" / name).chmod(0o755)
    monkeypatch.setenv("FAKE_SLURM", str(place / "fake"))
    monkeypatch.setenv("PATH", os.pathsep.join((str(place / "bin"), os.environ["PATH"])))
    config = place / "mine.yaml"
    config.write_text(
        f"includeConfigs: [{ROOT}/bps/slurm.yaml]\nsite: {{slurm: {{cores_per_node: 2, mem_per_node: 6}}}}\n"
    )
    run(submit_words(place, config))
    assert_every_visit_is_there_once(place)
    script = (place / "fake/0.script").read_text()
    assert "#SBATCH --cpus-per-task=2" in script and "#SBATCH --mem=6g" in script


@pytest.mark.slow
def test_the_htcondor_site_is_prepared(place):
    """As far as it goes without a pool: the files that HTCondor would be given."""
    pytest.importorskip("lsst.ctrl.bps.htcondor", reason="needs the extra 'htcondor'")
    words = submit_words(place, ROOT / "bps" / "htcondor.yaml")
    run([words[0], "prepare", *words[2:]])
    (submit,) = (place / "submit/u/batch/run").glob("*.dag")
    dag = submit.read_text()
    assert dag.count("JOB imageDifference_") == 3 and "FINAL finalJob" in dag
    job = next((submit.parent / "jobs/imageDifference").glob("*.sub")).read_text()
    assert "request_memory=" in job and "max_retries=3" in job and "getenv=True" in job
