"""Trails of satellites: found where they are, as wide as they are, and nowhere else."""

import astropy.units as u
import numpy as np
import pytest
from lsst.images import DifferenceImage, Image, Mask
from small_exposures import make_exposure

from lsst.twinkles.diffim.adapters.masks import difference_mask_schema
from lsst.twinkles.diffim.algorithms.detect import streaks as module
from lsst.twinkles.diffim.algorithms.detect.streaks import Streak, find_streaks, streak_mask
from lsst.twinkles.diffim.tasks.mask_streaks import MaskStreaksTask

SHAPE = (420, 500)
SETTINGS = dict(bin_factor=4, threshold=7.0, min_length=128, max_width=100.0, max_number=10)


def draw_trail(shape, ends, *, sigma, height):
    """A Gaussian ridge between two points, and the distance of every pixel from it."""
    x0, y0, x1, y1 = ends
    y, x = np.mgrid[: shape[0], : shape[1]]
    length = np.hypot(x1 - x0, y1 - y0)
    dx, dy = (x1 - x0) / length, (y1 - y0) / length
    along = (x - x0) * dx + (y - y0) * dy
    across = (y - y0) * dx - (x - x0) * dy
    inside = (along >= 0) & (along <= length)
    return height * np.exp(-0.5 * (across / sigma) ** 2) * inside, np.where(inside, np.abs(across), np.inf)


def noise_with_residuals(rng, n=25):
    """White noise, and what badly subtracted stars leave."""
    image = rng.normal(size=SHAPE).astype(np.float32)
    for _ in range(n):
        y, x = rng.integers(4, SHAPE[0] - 4), rng.integers(4, SHAPE[1] - 4)
        image[y - 3 : y + 4, x - 3 : x + 4] += 20 * rng.normal()
    return image


def find(image, bad=None):
    return find_streaks(
        image, np.ones(SHAPE, np.float32), np.zeros(SHAPE, bool) if bad is None else bad, **SETTINGS
    )


def random_ends(rng, half_length):
    angle, (x, y) = rng.uniform(0, np.pi), rng.uniform((150, 150), (350, 270))
    dx, dy = half_length * np.cos(angle), half_length * np.sin(angle)
    return x - dx, y - dy, x + dx, y + dy


@pytest.mark.parametrize("height", [0.5, 2.0, 50.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_trails_are_covered_and_little_else_is(height, sign):
    rng = np.random.default_rng(int(10 * height) + sign)
    for _ in range(6):
        ends = random_ends(rng, rng.uniform(90, 400))
        trail, distance = draw_trail(SHAPE, ends, sigma=2.0, height=sign * height)
        found = find(noise_with_residuals(rng) + trail.astype(np.float32))
        assert len(found) == 1 and np.sign(found[0].significance) == sign
        mask = streak_mask(found, SHAPE)
        core = distance < 2.0
        assert mask[core].mean() > 0.85
        # Where a pixel of the trail is worth 0.1 sigma it ends; beyond that there are a few pixels of margin.
        reach = 2.0 * np.sqrt(2 * np.log(max(height / 0.1, 1.5)))
        assert mask[(distance > reach + 6) & np.isfinite(distance)].sum() < 0.02 * mask.sum() + 20


def test_two_trails_that_cross():
    rng = np.random.default_rng(2)
    one, near_one = draw_trail(SHAPE, (20, 30, 480, 390), sigma=1.5, height=3.0)
    two, near_two = draw_trail(SHAPE, (60, 400, 430, 10), sigma=4.0, height=-1.0)
    found = find((noise_with_residuals(rng) + one + two).astype(np.float32))
    assert sorted(np.sign(s.significance) for s in found) == [-1, 1]
    mask = streak_mask(found, SHAPE)
    assert mask[near_one < 1.5].mean() > 0.95 and mask[near_two < 4.0].mean() > 0.95


def test_ends_within_the_image_are_found():
    rng = np.random.default_rng(3)
    trail, _ = draw_trail(SHAPE, (100.0, 120.0, 400.0, 300.0), sigma=2.0, height=2.0)
    (streak,) = find((rng.normal(size=SHAPE) + trail).astype(np.float32))
    ends = sorted([(streak.x0, streak.y0), (streak.x1, streak.y1)])
    # To within a block of pixels along, and a pixel or two across.
    np.testing.assert_allclose(ends, [(100, 120), (400, 300)], atol=26)
    assert streak.length == pytest.approx(350, abs=40)


def test_clean_images_have_none():
    rng = np.random.default_rng(4)
    assert [find(noise_with_residuals(rng, n=60)) for _ in range(15)] == [[]] * 15


def test_a_row_of_stars_is_no_trail():
    rng = np.random.default_rng(5)
    image = rng.normal(size=SHAPE).astype(np.float32)
    for x in range(20, 480, 60):
        image[200:207, x : x + 7] += 100.0
    assert find(image) == []


def test_a_line_is_looked_at_once(monkeypatch):
    """Also where the trail that it leads to runs elsewhere."""
    trail, _ = draw_trail(SHAPE, (60.0, 100.0, 400.0, 300.0), sigma=2.0, height=2.0)
    elsewhere = Streak(20.0, 380.0, 220.0, 380.0, width=5.0, significance=20.0, mean=2.0)
    monkeypatch.setattr(module, "_refine", lambda *args, **kwargs: elsewhere)
    assert len(find(noise_with_residuals(np.random.default_rng(1)) + trail.astype(np.float32))) <= 3


@pytest.mark.parametrize("spacing, beta", [(20, None), (30, None), (45, 3.0), (30, 2.5), (60, 2.5)])
def test_a_row_of_very_bright_transients_is_no_trail(spacing, beta):
    """Their wings meet, so that there is light all the way, but not the same."""
    rng = np.random.default_rng(9)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = rng.normal(size=SHAPE)
    for k, x0 in enumerate(np.arange(15, 490, spacing)):
        r2 = (x - x0) ** 2 + (y - 200 - 0.15 * x0) ** 2
        profile = np.exp(-r2 / 8) if beta is None else (1 + r2 / 3.5**2) ** -beta
        image += 1e4 * (1 + k % 3) * profile
    assert find(image.astype(np.float32)) == []


def test_trail_that_flickers_and_crosses_stars():
    """A satellite that tumbles, its light between .4 and 1, over stars as bright as you like."""
    rng = np.random.default_rng(10)
    for height in (1.0, 5.0, 200.0):
        trail, distance = draw_trail(SHAPE, (10.0, 80.0, 490.0, 330.0), sigma=2.0, height=height)
        x = np.arange(SHAPE[1])
        image = noise_with_residuals(rng) + trail * (0.7 + 0.3 * np.sin(x / 15.0))
        for k in (100, 240, 380):
            image[int(80 + (k - 10) * 250 / 480) - 4 :][:8, k : k + 9] += 1e5
        found = find(image.astype(np.float32))
        assert len(found) == 1 and streak_mask(found, SHAPE)[distance < 2.0].mean() > 0.9


def test_bad_pixels_do_not_count():
    rng = np.random.default_rng(6)
    image, bad = rng.normal(size=SHAPE).astype(np.float32), np.zeros(SHAPE, bool)
    image[:, 200:204], bad[:, 200:204] = 1e5, True
    assert find(image, bad) == []


def test_line_sums_against_plain_sums():
    """Every sum of the fast transform is that over one pixel a row, as many columns on as its line goes."""
    rng = np.random.default_rng(7)
    image = rng.normal(size=(16, 20)).astype(np.float32)
    for height, sums in module._line_sums(image):
        for strip in range(16 // height):
            for shift in range(height):
                impulses = np.zeros((16, 20), np.float32)
                columns = []
                for row in range(height):
                    # Which column a row contributes is read off single pixels.
                    impulses[:] = 0
                    impulses[strip * height + row] = np.arange(20)
                    part = dict(module._line_sums(impulses))[height][strip, shift, 0]
                    columns.append(int(part))
                assert columns[0] == 0 and columns[-1] == shift
                assert np.abs(np.array(columns) - shift * np.arange(height) / max(height - 1, 1)).max() < 1.0
                expected = sum(image[strip * height + row, c] for row, c in enumerate(columns))
                assert sums[strip, shift, 0] == pytest.approx(expected, abs=1e-4)
        if height == 8:
            break


def test_painted_pixels_are_those_near_the_line():
    streak = Streak(30.0, 40.0, 300.0, 180.0, width=9.0, significance=10.0, mean=1.0)
    _, distance = draw_trail(SHAPE, (30.0, 40.0, 300.0, 180.0), sigma=1.0, height=1.0)
    mask = streak_mask([streak], SHAPE)
    assert mask[distance < 4.4].all() and not mask[np.isfinite(distance) & (distance > 4.6)].any()


def make_difference(image, start=(0, 0)):
    exposure = make_exposure(image, variance=1.0, start=start)
    return DifferenceImage(
        Image(exposure.image.array, bbox=exposure.bbox, unit=u.electron),
        mask=Mask(schema=difference_mask_schema(), bbox=exposure.bbox),
        variance=exposure.variance,
        sky_projection=exposure.sky_projection,
        obs_info=exposure.obs_info,
        psf=exposure.psf,
        detector=exposure.detector,
        band=exposure.band,
    )


@pytest.mark.parametrize("only_detected", [False, True])
def test_task_sets_the_plane_in_its_frame(only_detected):
    rng = np.random.default_rng(8)
    trail, distance = draw_trail(SHAPE, (20, 30, 480, 390), sigma=2.0, height=3.0)
    difference = make_difference(rng.normal(size=SHAPE) + trail, start=(1000, 2000))
    config = MaskStreaksTask.ConfigClass()
    config.onlyMaskDetected = only_detected
    detected = np.zeros(SHAPE, bool)
    detected[:200] = True
    difference.mask.set("DETECTED", detected)
    task = MaskStreaksTask(config=config)
    lines = task.run(difference).lines
    assert len(lines) == task.metadata["nStreaks"] == 1
    assert (
        1990 <= min(lines["x0"][0], lines["x1"][0]) < 2040
        and 990 <= min(lines["y0"][0], lines["y1"][0]) < 1050
    )
    mask = difference.mask.get("STREAK")
    assert mask[(distance < 2) & detected].mean() > 0.95
    assert (
        mask[(distance < 2) & ~detected].mean() == 0.0 if only_detected else mask[distance < 2].mean() > 0.95
    )
