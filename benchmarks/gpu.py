"""What a GPU does here: agreement with the CPU, speed, memory and waits, in at most eight minutes
on an H100 or H200.

    python benchmarks/gpu.py [--out FOLDER] [--device auto] [--small] [--only SECTION ...]
    python benchmarks/gpu.py --take FOLDER/gpu.json

Each section (`gpu_sections.py`) has a budget of seconds, and its figures are written to
FOLDER/gpu.json and, as a table, FOLDER/gpu.md as they come. A section that fails or runs out of its
budget is recorded with its reason, and the others go on; where the failure leaves CUDA unusable
they go on in a new process. On a GPU the table is put into docs/performance.md at the end; `--take`
does that with the figures of a run on another machine. `--small` is for the tests: every section on
sizes that a CPU computes in seconds. `gpu.md` says what a machine needs.

Ends with 1 where a section failed or a figure misses what is wanted of it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.gpu_bench import Bench, machine  # noqa: E402 (the repository is found first)
from benchmarks.gpu_sections import SECTIONS  # noqa: E402

DOCUMENT = REPOSITORY / "docs" / "performance.md"
BEGIN, END = "<!-- benchmarks/gpu.py: begin -->", "<!-- benchmarks/gpu.py: end -->"


class OverBudget(BaseException):
    """A section has used up its seconds. No Exception: code that tries things catches those."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises OverBudget in the block once so many seconds are over."""

    def over(number: int, frame: object) -> None:
        raise OverBudget(f"more than its {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    others = signal.setitimer(signal.ITIMER_REAL, seconds)  # a caller may have an alarm too
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *others)


class Results:
    """The figures so far, on disk after each one."""

    def __init__(self, folder: Path, begun: dict[str, Any]) -> None:
        self.folder, self.all = folder, begun
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def sections(self) -> dict[str, dict[str, Any]]:
        return self.all["sections"]

    def write(self) -> None:
        for name, text in (
            ("gpu.json", json.dumps(self.all, indent=1)),
            ("gpu.md", table(self.all)),
        ):
            path = self.folder / name
            path.with_suffix(".writing").write_text(text + "\n", encoding="utf-8")
            path.with_suffix(".writing").rename(path)


def run_section(name: str, bench: Bench, results: Results, seconds: float) -> None:
    """Runs one section within its seconds; whatever happens in it is recorded."""
    work, budget = SECTIONS[name]
    record: dict[str, Any] = {"budget_s": budget, "seconds": 0.0, "error": None, "figures": []}
    results.sections[name] = record
    started = time.perf_counter()
    try:
        # in small it runs in tests, beside whatever else a machine does
        with limited(max(0.1, min(bench.of(budget, 10 * budget), seconds))):
            for figure in work(bench):
                record["figures"].append(dataclasses.asdict(figure))
                record["seconds"] = round(time.perf_counter() - started, 2)
                results.write()
    except (
        Exception,
        OverBudget,
    ) as error:  # the figures of the other sections must not be lost with this one's
        record["error"] = f"{type(error).__name__}: {error}"
        record["traceback"] = traceback.format_exc()[-4000:]
    record["seconds"] = round(time.perf_counter() - started, 2)
    bench.tidy()
    results.write()


def table(results: dict[str, Any]) -> str:
    """The figures in Markdown: section, what, value, what is wanted of it, whether it holds."""
    about = results["machine"]
    lines = [
        f"On {about['device']} (torch {about['torch']}, transformers {about['transformers']}, "
        f"Python {about['python']}{', small sizes' if results['small'] else ''}):",
        "",
        "| section | what | figure | wanted | holds |",
        "|---|---|---|---|---|",
    ]
    for name, section in results["sections"].items():
        for figure in section["figures"]:
            holds = {True: "yes", False: "**no**", None: ""}[figure["holds"]]
            value = f"{number(figure['value'])} {figure['unit']}".strip()
            lines.append(f"| {name} | {figure['what']} | {value} | {figure['wanted']} | {holds} |")
        if section["error"]:
            reason = " ".join(section["error"].split()).replace("|", "/")[:200]
            lines.append(f"| {name} | ended early: {reason} | | | **no** |")
    return "\n".join(lines)


def number(value: float) -> str:
    """Four significant digits; large ones in full, with commas."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def put_into_document(results: dict[str, Any]) -> None:
    """Replaces the table between the two marks of docs/performance.md."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{DOCUMENT} has no place for the table: wanted the lines {BEGIN} and {END}")
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}", encoding="utf-8")


def is_lost(bench: Bench) -> bool:
    """Whether CUDA answers no more in this process, as after an illegal access to memory."""
    try:
        bench.wait()
    except RuntimeError:
        return True
    return False


def failures(results: dict[str, Any]) -> int:
    """Sections that failed, and figures that miss what is wanted of them."""
    sections = results["sections"].values()
    missed = sum(figure["holds"] is False for section in sections for figure in section["figures"])
    return missed + sum(section["error"] is not None for section in sections)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument(
        "--out",
        type=Path,
        default=REPOSITORY / "data" / "scratch" / "gpu",
        help="folder of the figures",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")
    parser.add_argument("--small", action="store_true", help="sizes for the tests")
    sections = {"choices": SECTIONS, "default": list(SECTIONS)}
    parser.add_argument("--only", nargs="+", help="these sections", **sections)
    parser.add_argument("--seconds", type=float, default=460, help="of all sections together")
    parser.add_argument(
        "--take",
        type=Path,
        help="put the table of this gpu.json into docs/performance.md, run nothing",
    )
    parser.add_argument("--continue", dest="goes_on", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    wanted = arguments(given)
    if wanted.take:
        put_into_document(json.loads(wanted.take.read_text(encoding="utf-8")))
        return 0
    with tempfile.TemporaryDirectory(prefix="gpu-", dir=_in_memory()) as folder:
        bench = Bench.on(wanted.device, wanted.small, Path(folder))
        begun = {
            "benchmark": "gpu",
            "small": wanted.small,
            "machine": machine(bench),
            "began": time.time(),
            "sections": {},
        }
        if wanted.goes_on:
            begun = json.loads((wanted.out / "gpu.json").read_text(encoding="utf-8"))
        results = Results(wanted.out, begun)
        for name in [name for name in wanted.only if name not in results.sections]:
            run_section(name, bench, results, wanted.seconds - (time.time() - begun["began"]))
            section = results.sections[name]
            print(
                f"{name}: {section['seconds']:.1f} s {section['error'] or ''}",
                file=sys.stderr,
                flush=True,
            )
            if section["error"] and is_lost(bench):
                shutil.rmtree(folder, ignore_errors=True)  # no `finally` runs after what comes next
                again = sys.argv if given is None else [__file__, *given]
                os.execv(
                    sys.executable,
                    [sys.executable, *again, *(() if wanted.goes_on else ("--continue",))],
                )
    print(table(results.all))
    if bench.device.type == "cuda" and not wanted.small and set(wanted.only) == set(SECTIONS):
        put_into_document(results.all)
    return 1 if failures(results.all) else 0


def _in_memory() -> str | None:
    """A folder in memory where there is one, so that captured activations wait for no disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    sys.exit(main())
