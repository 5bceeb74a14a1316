"""Runs of imageDifference.py in this process, on a small repository with stub stages."""

import atexit
import functools
import gc
import io
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lsst.daf.butler import Butler
from repositories import make_image
from small_exposures import make_wcs

from lsst.twinkles.diffim.cli.image_difference import main
from lsst.twinkles.diffim.pipeline.ingest import ExposureIngester
from lsst.twinkles.diffim.pipeline.repository import create_repository

HERE = Path(__file__).resolve().parent
TRANSIENT = (12, 30)
"""Pixel (x, y) at which visit 230 has something that no other visit has."""

CONFIG = """\
from stub_stages import StubDetectionTask, StubMeasurementTask, StubSubtractTask
config.doDecorrelation = False
config.doScaleDiffimVariance = False
config.doDeblend = False
config.subtract.retarget(StubSubtractTask)
config.detection.retarget(StubDetectionTask)
config.measurement.retarget(StubMeasurementTask)
config.doFindCosmicRays = False  # the sources of these tests are single pixels
"""


@dataclass(frozen=True)
class Run:
    """What a run of the command gave."""

    status: int
    stdout: str
    stderr: str

    def lines(self, *words):
        """Return the lines of the standard error that contain all of these words."""
        return [line for line in self.stderr.splitlines() if all(word in line for word in words)]


@functools.cache
def scratch():
    """Return a directory that goes away with this process."""
    path = Path(tempfile.mkdtemp(prefix="twinkles-diffim-command-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def config_file():
    """Return an override file that puts the stub stages in."""
    path = scratch() / "stubs.py"
    path.write_text(CONFIG)
    return str(path)


@functools.cache
def repository():
    """Return a repository: 230 and 231 (i), 232 (r), 240 (i, elsewhere on the sky), 250 and 251 (i)."""
    root = scratch() / "repo"
    with create_repository(root) as butler, ExposureIngester(butler) as ingester:
        for visit, band in ((230, "i"), (231, "i"), (232, "r"), (240, "i"), (250, "i"), (251, "i")):
            wcs = make_wcs(ra=80.0) if visit == 240 else None
            image = make_image(visit, visit=visit, band=band, wcs=wcs)
            if visit == 230:
                x, y = TRANSIENT
                image.image.array[y, x] += 1000.0
            ingester.add(image)
    # A full collection takes as long as a run of the command, and comes several times in one.
    gc.freeze()
    return root


def copy_of_repository(target):
    """Return a copy of the repository that may be changed."""
    shutil.copytree(repository(), target)
    return target


def command(*words, repo=None, config=True, versions=False):
    """Run the command, with the stub stages put in (``config``), and looking for versions of packages."""
    stdout, stderr = io.StringIO(), io.StringIO()
    words = [str(repo or repository()), *(["-C", config_file()] if config else []), *map(str, words)]
    words += [] if versions else ["--no-versions"]  # finding them takes half a second
    with redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            status = main(words)
        except SystemExit as error:
            status = error.code
    return Run(status, stdout.getvalue(), stderr.getvalue())


def pair_words(out, visit=230, template=250):
    """Return the words that ask for one or more visits."""
    return ["--id", f"visit={visit}", "--templateId", f"visit={template}", "--output", out]


@functools.cache
def finished_output():
    """Return an output repository with visits 230 and 231, which is not to be changed."""
    out = scratch() / "finished"
    assert command(*pair_words(out, "230^231"), "-c", "doWriteMatchedExp=False").status == 0
    return out


def start_command(*words, repo=None):
    """Start the command in a process group of its own."""
    code = (
        "import sys\nfrom lsst.twinkles.diffim.cli.image_difference import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())"
    )
    words = [str(repo or repository()), "-C", config_file(), *map(str, words)]
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env=os.environ | {"PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stored(out):
    """Return the names and visits of all results in an output repository, sorted."""
    with Butler.from_config(str(out)) as butler:
        refs = [
            ref
            for kind in butler.registry.queryDatasetTypes()
            for ref in butler.query_datasets(kind, collections="*", find_first=False, explain=False)
        ]
        return sorted((ref.datasetType.name, ref.dataId.get("visit")) for ref in refs)


def visits_done(out):
    """Return the visits that have a difference image, sorted."""
    return [visit for name, visit in stored(out) if name == "deepDiff_differenceExp"]


def fetch(out, name, visit=None, **kwargs):
    """Read a result."""
    with Butler.from_config(str(out), collections="deepDiff", instrument="TwinklesCam") as butler:
        ids = {"visit": visit, "detector": 94} if visit else {}
        return butler.get(f"deepDiff_{name}", ids, **kwargs)


def read_input(visit):
    """Read an exposure of the repository."""
    with Butler.from_config(str(repository()), collections="TwinklesCam/defaults") as butler:
        return butler.get("calexp", instrument="TwinklesCam", visit=visit, detector=94)


def dataset_id(visit):
    """Return the identifier of an exposure of the repository."""
    with Butler.from_config(str(repository()), collections="TwinklesCam/defaults") as butler:
        return str(butler.find_dataset("calexp", instrument="TwinklesCam", visit=visit, detector=94).id)


def difference_of(visit, template):
    """Return what the stub subtraction gives."""
    return np.asarray(read_input(visit).image.array - read_input(template).image.array)
