"""What all tests share."""

import logging
import os
from pathlib import Path

import hypothesis
import pytest

# Two workers of pytest on two processors: each keeps to one thread, and so does what it starts.
for _name in ("TWINKLES_DIFFIM_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# How long a machine takes that others use too is no property of the code.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _log_levels():
    """Undo what commands do to the log, which belongs to the process: other tests look at it."""
    logging.getLogger("lsst")  # is there, then
    known = logging.Logger.manager.loggerDict
    before = {name: logging.getLogger(name).level for name in list(known) if name.startswith("lsst")}
    yield
    for name in [name for name in known if name.startswith("lsst")]:
        logging.getLogger(name).setLevel(before.get(name, logging.NOTSET))


@pytest.fixture(scope="session")
def shared_data():
    """Directory of real exposures, which is not part of the project."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the directory ../shared/data beside the checkout")
    return path
