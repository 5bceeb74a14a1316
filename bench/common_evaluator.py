"""Run the evaluator that other codes were scored with, where it is beside the checkout."""

from __future__ import annotations

__all__ = (
    "EVALUATOR",
    "find_evaluator",
    "make_shared_pair",
    "read_transients",
    "score_oracle",
    "score_result",
)

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

EVALUATOR = Path(__file__).resolve().parent.parent.parent / "shared" / "eval"

# Names of ours -> names of the evaluator.
_NAMES = {
    "sigma": "std_expected",
    "claimed": "std_claimed",
    "matched_filter": "mf_norm",
    "ac1": "ac1",
    "ac2": "ac2",
    "star": "star_rms",
    "bias": "bias_pct",
    "scatter": "scatter_sigma",
    "completeness": "completeness5",
    "false": "false_pos",
    "n_transients": "n_measured",
    "n_stars": "n_star",
}


def find_evaluator() -> Path | None:
    """Return the directory of the evaluator, `None` if it is not there."""
    return EVALUATOR if all((EVALUATOR / f"{n}.py").is_file() for n in ("sim", "eval", "ideal")) else None


def make_shared_pair(case: str, seed: int, shape: tuple[int, int], cache: Path) -> Path:
    """Simulate a pair of ``(ny, nx)`` pixels with the evaluator's simulator, once."""
    ny, nx = shape
    pair = cache / f"{case}_{nx if nx == ny else f'{nx}x{ny}'}_{seed}"
    if not (pair / "meta.json").exists():
        pair.parent.mkdir(parents=True, exist_ok=True)
        options = {"nx": nx, "ny": ny, "case": case, "seed": seed, "out": pair}
        _run("sim", *(word for name, value in options.items() for word in (f"--{name}", str(value))))
    return pair


def score_oracle(pair: Path) -> dict[str, float]:
    """Score the best difference there can be."""
    out = pair / "oracle"
    _run("ideal", str(pair), str(out))
    return _score(pair, out)


def score_result(pair: Path, out: Path, arrays: dict[str, Any], psf: Any) -> dict[str, float]:
    """Score a difference.

    Parameters
    ----------
    pair : `pathlib.Path`
        The pair.
    out : `pathlib.Path`
        Directory to write to.
    arrays : `dict` [`str`, `numpy.ndarray`]
        ``difference``, ``variance`` and ``masked``, ``(ny, nx)``.
    psf : `~lsst.twinkles.diffim.algorithms.psf_grid.PsfGrid`
        PSF of the difference.
    """
    out.mkdir(parents=True, exist_ok=True)
    masked = arrays["masked"]
    np.save(out / "diff.npy", np.where(masked, 0.0, arrays["difference"]).astype(np.float32))
    np.save(out / "var.npy", np.where(masked, 0.0, arrays["variance"]).astype(np.float32))
    np.save(out / "mask.npy", masked)
    if psf.stamps.shape[:2] == (1, 1):
        np.save(out / "psf.npy", psf.stamps[0, 0])
        mode = "array"
    else:
        x, y = np.meshgrid(psf.x, psf.y)
        np.save(out / "psfgrid.npy", psf.stamps.reshape(-1, psf.size, psf.size))
        np.save(out / "psfpos.npy", np.stack([x.ravel(), y.ravel()], axis=1))
        mode = "grid"
    (out / "run.json").write_text(json.dumps({"psf_mode": mode}))
    return _score(pair, out)


def read_transients(out: Path) -> list[list[float]]:
    """Return measured flux (NaN where there is none), true flux and ideal error of transients."""
    with (out / "trans.csv").open(newline="") as stream:
        return [
            [float(row[key] or "nan") for key in ("f", "dflux", "sigma")] for row in csv.DictReader(stream)
        ]


def _score(pair: Path, out: Path) -> dict[str, float]:
    """Run the evaluator and return its figures under our names."""
    _run("eval", str(pair), str(out))
    raw = json.loads((out / "eval.json").read_text())
    scores = {ours: raw.get(theirs) for ours, theirs in _NAMES.items()}
    masked = 100 * max(0.0, raw["peer_masked_frac"] - raw["in_masked_frac"])
    return {name: float("nan") if value is None else value for name, value in scores.items()} | {
        "masked": masked
    }


def _run(script: str, *arguments: str) -> None:
    """Run one of the evaluator's scripts; its own words are shown if it fails."""
    command = [sys.executable, str(EVALUATOR / f"{script}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
