"""The satellite service: a small one of our own answers on the loopback interface."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import requests
import stack_here as afw
from astropy.time import Time
from lsst.pex.config import FieldValidationError
from test_stack_detect import make_difference, make_task, run

from lsst.twinkles.diffim.stack import DetectAndMeasureTask


class Service:
    """Knows no visit before it is told of one; forbids sources whose box covers a place on the sky."""

    def __init__(self):
        self.visits, self.questions, self.forbidden, self.status = {}, [], None, 200
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = service.answer(self.path, body)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *args):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def answer(self, path, body):
        if path == "/visit_cache":
            self.visits[body["visit_id"]] = body
            return 200, {}
        assert path == "/diasource_allow_list"
        self.questions.append(body)
        if self.status != 200 or body["visit_id"] not in self.visits:
            return (self.status if self.status != 200 else 404), {}
        return 200, {
            "allow_list": [s["diasource_id"] for s in body["diasources"] if not self.covers(s["bbox"])]
        }

    def covers(self, corners):
        if self.forbidden is None:
            return False
        low, high = np.min(corners, axis=0), np.max(corners, axis=0)
        return bool((low <= self.forbidden).all() and (self.forbidden <= high).all())


@pytest.fixture
def service(monkeypatch):
    service = Service()
    monkeypatch.setenv("SATTLE_URI_BASE", service.address)
    yield service
    service.server.shutdown()
    service.server.server_close()


@pytest.fixture(scope="module", autouse=True)
def _afw():
    with afw.install():
        yield


@pytest.fixture(scope="module")
def scene():
    scene = make_difference(n=6)
    degrees = SimpleNamespace
    direction = degrees(
        getRa=lambda: degrees(asDegrees=lambda: 53.0), getDec=lambda: degrees(asDegrees=lambda: -27.0)
    )
    scene.science.setDetector(afw.make_detector(12))
    date = Time("2026-01-01T00:00:00", scale="tai")
    afw.need_plain_python()
    scene.science.setVisitInfo(afw.VisitInfo(id=42, date=date, exposureTime=30.0, boresightRaDec=direction))
    return scene


def test_what_a_satellite_left_is_removed(service, scene):
    """The service is told of the visit that it does not know, and asked again."""
    every = run(scene, run_sattle=False).diaSources
    wcs, chosen = scene.science.getWcs(), every[2]
    x, y = chosen.getX(), chosen.getY()
    service.forbidden = np.array([float(v) for v in wcs.pixelToSkyArray(x, y, degrees=True)])
    task = make_task(run_sattle=True, sattle_historical=True)
    kept = run(scene, task).diaSources
    assert set(kept["id"]) == set(every["id"]) - {chosen["id"]}
    assert len(service.questions) == 2 and service.questions[0]["historical"] is True
    assert service.questions[0]["detector_id"] == scene.science.getDetector().getId()
    visit = service.visits[42]
    assert (visit["exposure_end_mjd"] - visit["exposure_start_mjd"]) * 86400 == pytest.approx(30.0, abs=1e-3)
    assert (visit["boresight_ra"], visit["boresight_dec"]) == (53.0, -27.0)
    # The corners are those of the footprint.
    box = chosen.getFootprint().getBBox()
    (corners,) = [s["bbox"] for s in service.questions[0]["diasources"] if s["diasource_id"] == chosen["id"]]
    px, py = wcs.wcs.world_to_pixel_values(*np.transpose(corners))
    np.testing.assert_allclose([px.min(), px.max()], [box.getMinX(), box.getMaxX()], atol=1e-6)
    np.testing.assert_allclose([py.min(), py.max()], [box.getMinY(), box.getMaxY()], atol=1e-6)


def test_service_that_fails_stops_the_task(service, scene):
    """What may be a satellite is not made public because nobody could say so."""
    service.status = 500
    with pytest.raises(requests.HTTPError):
        run(scene, run_sattle=True)


def test_without_an_address_it_cannot_be_asked(monkeypatch):
    monkeypatch.delenv("SATTLE_URI_BASE", raising=False)
    config = DetectAndMeasureTask.ConfigClass()
    config.run_sattle = True
    with pytest.raises(FieldValidationError, match="put it into SATTLE_URI_BASE"):
        config.validate()
