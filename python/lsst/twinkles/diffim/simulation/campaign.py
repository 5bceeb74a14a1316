"""Many visits to one field, several at a time, and the truth beside them."""

from __future__ import annotations

__all__ = ("Campaign", "CampaignError")

import dataclasses
import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from astropy.table import Table

from lsst.images import VisitImage

from .conditions import VisitConditions
from .config import DetectorConfig, SceneConfig
from .scene import TwinklesScene
from .truth import write_truth
from .visits import simulate_visit

_SCENE_FILE = "scene.json"


class CampaignError(ValueError):
    """The visits asked for do not fit those that are there."""


@dataclass(frozen=True)
class Campaign:
    """What to simulate.

    Attributes
    ----------
    scene : `SceneConfig`
        The field.
    detector : `DetectorConfig`
        Telescope and CCD.
    conditions : `list` [`VisitConditions`]
        One a visit.
    """

    scene: SceneConfig
    detector: DetectorConfig
    conditions: list[VisitConditions]

    def __post_init__(self) -> None:
        numbers = [item.visit for item in self.conditions]
        repeated = sorted({number for number in numbers if numbers.count(number) > 1})
        if repeated:
            raise CampaignError(f"Visit numbers must differ; repeated: {', '.join(map(str, repeated))}.")

    def run(self, *, processes: int = 1) -> Iterator[tuple[VisitImage, Table]]:
        """Simulate the visits.

        Parameters
        ----------
        processes : `int`, optional
            Visits simulated at a time; each needs about 1.5 GB for a whole CCD.

        Yields
        ------
        exposure : `lsst.images.VisitImage`
            One visit.
        truth : `astropy.table.Table`
            Its truth.
        """
        if processes == 1 or len(self.conditions) < 2:
            scene = TwinklesScene.make(self.scene)
            for item in self.conditions:
                visit = simulate_visit(scene, item, detector=self.detector)
                yield visit.exposure, visit.truth
        else:
            yield from self._run_parallel(processes)

    def _run_parallel(self, processes: int) -> Iterator[tuple[VisitImage, Table]]:
        """Simulate in other processes, which hand exposures over in files."""
        context = multiprocessing.get_context("spawn")
        todo = iter(self.conditions)
        with (
            tempfile.TemporaryDirectory(prefix="twinkles-visits-") as directory,
            ProcessPoolExecutor(processes, mp_context=context) as pool,
        ):

            def submit(item: VisitConditions) -> Future[tuple[Path, Table]]:
                return pool.submit(_simulate_to_file, self.scene, self.detector, item, Path(directory))

            # Only as many wait as are worked on, so that the directory stays small.
            pending = {submit(item) for item in islice(todo, processes)}
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                pending |= {submit(item) for item in islice(todo, len(done))}
                for future in done:
                    path, truth = future.result()
                    exposure = VisitImage.read(path)
                    path.unlink()
                    yield exposure, truth

    def check_scene(self, directory: Path) -> None:
        """Refuse to add visits of another field to those whose truth is in a directory.

        Raises
        ------
        CampaignError
            If the field that is there has another seed, size or content.
        """
        path = directory / _SCENE_FILE
        if not path.exists():
            return
        there, asked = json.loads(path.read_text()), dataclasses.asdict(self.scene)
        different = [name for name in asked if there.get(name) != asked[name]]
        if different:
            raise CampaignError(
                f"{path} describes another field: "
                + ", ".join(f"{name} is {there.get(name)}, not {asked[name]}" for name in different)
                + ". Use the same options, or another repository."
            )

    def write_scene(self, directory: Path) -> None:
        """Write what does not depend on time: the configuration, stars, galaxies and lenses."""
        directory.mkdir(parents=True, exist_ok=True)
        scene = TwinklesScene.make(self.scene)
        tables = {"stars": scene.stars, "galaxies": scene.galaxies, "lenses": scene.quasars.lenses}
        for name, table in tables.items():
            sky = scene.wcs.pixel_to_world(table["x"], table["y"])
            table = table.copy()
            table["ra"], table["dec"] = sky.ra.to("deg"), sky.dec.to("deg")
            write_truth(table, directory / f"{name}.parquet")
        (directory / _SCENE_FILE).write_text(json.dumps(dataclasses.asdict(self.scene), indent=1) + "\n")

    @staticmethod
    def write_visit_truth(truth: Table, directory: Path) -> Path:
        """Write the truth of a visit and return the file."""
        path = directory / f"visit-{truth.meta['visit']}.parquet"
        write_truth(truth, path)
        return path


def _simulate_to_file(
    scene: SceneConfig, detector: DetectorConfig, conditions: VisitConditions, directory: Path
) -> tuple[Path, Table]:
    """Simulate one visit into a file; runs in a process of its own."""
    visit = simulate_visit(TwinklesScene.make(scene), conditions, detector=detector)
    path = directory / f"{conditions.visit}.fits"
    visit.exposure.write(str(path), compression_options={"image": None, "mask": None, "variance": None})
    return path, visit.truth
