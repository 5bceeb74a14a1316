"""Small repositories for tests, and disks that fail on demand."""

import gc
import hashlib
import os
import resource
import shutil
import stat
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from small_exposures import draw_stars, make_exposure

from lsst.twinkles.diffim.pipeline.ingest import ExposureIngester
from lsst.twinkles.diffim.pipeline.repository import create_repository

NOBODY = 65534


def make_image(seed=0, *, size=48, **kwargs):
    """Return a small exposure of noise with one star in its middle."""
    rng = np.random.default_rng(seed)
    star = draw_stars((size, size), [(size / 2, size / 2)], sigma=2.0, flux=5e4)
    return make_exposure(star + rng.normal(0.0, 10.0, (size, size)), **kwargs)


def make_repository(root, visits=((1, "r"), (2, "r"), (3, "i"))):
    """Make a repository with small exposures; return a writeable client."""
    butler = create_repository(root)
    with ExposureIngester(butler) as ingester:
        for visit, band in visits:
            ingester.add(make_image(visit, visit=visit, band=band))
    assert len(ingester.report.ingested) == len(visits)
    return butler


def snapshot(root):
    """Return what is below a directory: content, mode and time of change of every file and directory."""
    found = {}
    for path in [Path(root), *sorted(Path(root).rglob("*"))]:
        info = path.stat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(root))] = (content, info.st_mode, info.st_mtime_ns)
    return found


def files_below(root):
    """Return the names of all files below a directory, without those of the database."""
    names = {str(path.relative_to(root)) for path in Path(root).rglob("*") if path.is_file()}
    return names - {"butler.yaml", "gen3.sqlite3", "_parent"}


def make_read_only(root):
    """Take the right to write away from everybody, and let everybody read."""
    for path in [Path(root), *Path(root).rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def make_writeable(root):
    """Give the right to write back to the owner."""
    for path in [Path(root), *Path(root).rglob("*")]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


@contextmanager
def public_directory():
    """Make a directory that every user of the machine can read."""
    root = Path(tempfile.mkdtemp(prefix="twinkles-diffim-test-"))
    root.chmod(0o755)
    try:
        yield root
    finally:
        make_writeable(root)
        shutil.rmtree(root)


@contextmanager
def without_privileges():
    """Be a user whom file permissions hold back, also where the tests are run by root."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextmanager
def leaky_butler():
    """Forgive the framework that a Butler that fails to open does not close its connection."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed database", ResourceWarning)
        yield
        gc.collect()


@contextmanager
def file_size_limit(n_bytes):
    """Let the operating system refuse to make a file larger than this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
