#!/usr/bin/env python
"""How fast the package is and how much memory it takes, by stage and for the whole command.

Every time is also given in units of two operations timed in the same process: one pair
of scipy.fft.rfft2 and irfft2 of the image (float32, one thread) and one copy of the
image. They say more than seconds do on a machine that others use too, and the CPU
seconds over those of the transforms say most.

Repositories are simulated once and kept in ./.cache/bench. Called by ``make bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# The parent imports nothing large: on Linux a child's peak memory counts from its parent's at the fork.
ROOT = Path(__file__).resolve().parent.parent
SCIENCE, TEMPLATE = 230, 250
SIZES = ("1024x1024", "2048x2048", "4000x4072")


def main() -> int:
    """Measure and print; return the exit status."""
    args = parse_arguments()
    cache = args.cache.absolute()
    cache.mkdir(parents=True, exist_ok=True)
    results = []
    for size in args.sizes:
        repo = make_repository(cache, size)
        result: dict[str, Any] = {"size": size, "cold": args.cold, "threads": args.threads}
        result["stages"] = run_stages(repo, args)
        result["commands"] = run_commands(repo, args)
        print(format_result(result), flush=True)
        results.append(result)
    (cache / "bench.json").write_text(json.dumps(results, indent=1))
    (cache / "bench.txt").write_text("\n".join(map(format_result, results)) + "\n")
    print(f"\nWritten to {args.cache}/bench.txt and bench.json.")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=",".join(SIZES), help=f"NXxNY,... ({','.join(SIZES)})")
    parser.add_argument("--threads", type=int, help="threads of the package (as many as there are cores)")
    parser.add_argument("--cold", action="store_true", help="with an empty cache of compiled code")
    parser.add_argument("--repeat", type=int, default=3, help="runs of which the quickest counts (3)")
    parser.add_argument("--cache", type=Path, default=Path(".cache/bench"), help="directory (.cache/bench)")
    args = parser.parse_args()
    args.sizes = args.sizes.split(",")
    for size in args.sizes:
        if not all(word.isdigit() for word in size.split("x")) or size.count("x") != 1:
            parser.error(f"--sizes must be like 1024x1024,4000x4072; got {size}")
    if args.repeat < 1:
        parser.error(f"--repeat must be at least 1; got {args.repeat}")
    return args


def make_repository(cache: Path, size: str) -> Path:
    """Simulate the cookbook's visits in a size, once."""
    repo, unfinished = cache / size, cache / f"{size}.unfinished"
    if not repo.exists():
        print(f"simulating {size}", flush=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [program("simulateTwinkles.py"), str(unfinished), "--size", *size.split("x")]
        subprocess.run(command, check=True, capture_output=True)
        unfinished.rename(repo)
    return repo


def program(name: str) -> str | None:
    """Return a console script of this Python, or a program of the path; `None` if there is none."""
    return shutil.which(str(Path(sys.executable).parent / name)) or shutil.which(name)


def environment(args: argparse.Namespace, scratch: str) -> dict[str, str]:
    """Return the environment of a measured process."""
    result = dict(os.environ)
    if args.threads:
        result["TWINKLES_DIFFIM_NUM_THREADS"] = str(args.threads)
    if args.cold:
        result["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(dir=scratch)
    return result


def measure(command: list[str], env: dict[str, str], log: Path) -> dict[str, float]:
    """Run a command; return wall and CPU seconds, peak memory in MB and its status."""
    with log.open("wb") as stream:
        start = time.perf_counter()
        child = subprocess.Popen(command, env=env, stdout=stream, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    per_mb = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss / per_mb,
        "status": child.returncode,
    }


def run_stages(repo: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Time the stages in one process of their own; return what it found."""
    with tempfile.TemporaryDirectory(prefix="twinkles-bench-") as scratch:
        report, log = Path(scratch) / "stages.json", Path(scratch) / "log"
        worker = Path(__file__).with_name("stages.py")
        command = [sys.executable, str(worker), str(repo), str(report), "--repeat", str(args.repeat)]
        used = measure([*command, *(["--cold"] if args.cold else [])], environment(args, scratch), log)
        if used["status"]:
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
        return json.loads(report.read_text()) | {"memory": used["memory"]}


def run_commands(repo: Path, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time whole commands, each the quickest of several runs; those that are not installed are left out."""
    pair = exposure_files(repo)
    results = {}
    for name in ("imageDifference.py", "subtractExposures.py", "hotpants"):
        found = program(name)
        if found is None:
            continue
        with tempfile.TemporaryDirectory(prefix="twinkles-bench-") as scratch:
            runs = []
            for number in range(1 if args.cold else args.repeat):
                out, log = Path(scratch) / f"out{number}", Path(scratch) / "log"
                command = [found, *command_arguments(name, repo, pair, out)]
                runs.append(measure(command, environment(args, scratch), log))
                if runs[-1]["status"]:
                    print(f"{name} failed:\n{log.read_text()[-1500:]}", file=sys.stderr)
                    break
            results[name] = min(runs, key=lambda run: (run["status"] != 0, run["wall"]))
    return results


def command_arguments(name: str, repo: Path, pair: tuple[str, str], out: Path) -> list[str]:
    """Return the arguments of a command that subtracts the pair of a repository."""
    science, template = pair
    if name == "imageDifference.py":
        ids = ["--id", f"visit={SCIENCE}", "--templateId", f"visit={TEMPLATE}"]
        return [str(repo), *ids, "--output", str(out), "--configfile", str(ROOT / "config/diffimconfig.py")]
    if name == "subtractExposures.py":
        return [science, template, "--output", str(out)]
    limits = ["-tu", "90000", "-iu", "90000", "-tl", "-1000", "-il", "-1000"]
    return ["-inim", f"{science}[1]", "-tmplim", f"{template}[1]", "-outim", f"{out}.fits", *limits]


def exposure_files(repo: Path) -> tuple[str, str]:
    """Return the files of science and template."""
    found = []
    for visit in (SCIENCE, TEMPLATE):
        (file,) = repo.glob(f"TwinklesCam/calexp/v{visit}-*/*.fits")
        found.append(str(file))
    return found[0], found[1]


def format_result(result: dict[str, Any]) -> str:
    """Write the table of one size."""
    stages = result["stages"]
    units = {name: stages[name] for name in ("fft", "fft_cpu", "copy")}
    threads = result["threads"] or os.cpu_count()
    lines = [
        f"\n{result['size']}, {threads} threads, compiled code {'cold' if result['cold'] else 'warm'}; "
        f"FFT pair {units['fft']:.3f} s, copy {units['copy'] * 1000:.1f} ms",
        f"{'':26s}{'wall s':>9s}{'CPU s':>9s}{'/ FFT':>9s}{'CPU/FFT':>9s}{'/ copy':>9s}{'peak MB':>9s}",
    ]
    for name, used in stages["stages"].items():
        lines.append(_line(name, used, units))
    lines.append(_line("  task in memory, in all", stages["task"] | {"memory": stages["memory"]}, units))
    for name, used in result["commands"].items():
        failed = "" if used["status"] == 0 else f"   failed, status {used['status']}"
        lines.append(_line(name, used, units) + failed)
    return "\n".join(lines)


def _line(name: str, used: dict[str, float], units: dict[str, float]) -> str:
    """Write one row."""
    memory = f"{used['memory']:9.0f}" if "memory" in used else ""
    wall, cpu = used["wall"], used["cpu"]
    ratios = f"{wall / units['fft']:9.1f}{cpu / units['fft_cpu']:9.1f}{wall / units['copy']:9.0f}"
    return f"{name:26s}{wall:9.2f}{cpu:9.2f}{ratios}{memory}"


if __name__ == "__main__":
    sys.exit(main())
