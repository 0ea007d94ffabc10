"""The benchmark for GPUs: every section runs on the CPU in small, and on the stand-in, so that only
the device is untried.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_bench import Bench, Figure, at_least, at_most
from benchmarks.gpu_sections import SECTIONS
from tests.stand_in_gpu import stand_in_gpu

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = ("torch", "transformers", "numpy", "scipy", "scikit-learn")
RUN = """
import importlib.metadata, json, runpy, sys
sys.path[:0] = [sys.argv[1], "."]
owners = importlib.metadata.packages_distributions()
sys.argv = ["gpu.py", *sys.argv[2:]]
try:
    runpy.run_path("benchmarks/gpu.py", run_name="__main__")
finally:
    tops = {name.partition(".")[0] for name in sys.modules}
    print("USED", json.dumps(sorted({owner for top in tops for owner in owners.get(top, ())})))
"""


def a_machine_with(names: set[str], folder: Path) -> None:
    """A folder of links to these installed packages and no other, names in lower case with
    dashes."""
    folder.mkdir()
    for distribution in importlib.metadata.distributions():
        if _plain(distribution.metadata["Name"]) not in names:
            continue
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).is_symlink():
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))))


def wheels() -> list[str]:
    """The packages that `gpu.md` lists."""
    text = (REPOSITORY / "benchmarks" / "gpu.md").read_text(encoding="utf-8")
    found = re.search(r"```text\n(.*?)```", text, re.S)
    assert found is not None
    return found[1].split()


def brought_by(names: tuple[str, ...]) -> set[str]:
    """These distributions and all that they need, names in lower case with dashes."""
    known: set[str] = set()
    waiting = list(names)
    while waiting:
        name = _plain(waiting.pop())
        if name in known:
            continue
        known.add(name)
        listed = [need for need in _needs(name) if "extra ==" not in need]
        waiting += [re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in listed]
    return known


def _needs(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:  # of another system
        return []


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_section_runs_with_the_packages_that_are_listed_and_no_other(tmp_path: Path) -> None:
    """In less than a minute of one core; the wheels of `gpu.md` are enough, and none is listed in
    vain."""
    a_machine_with(brought_by((*BASE, "polars")) | set(wheels()), tmp_path / "site")
    script = ["-S", "-c", RUN, str(tmp_path / "site")]
    options = ["--device", "cpu", "--small", "--seconds", "3000", "--out", str(tmp_path)]
    command = [sys.executable, *script, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, env=environment, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    results = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert list(results["sections"]) == list(SECTIONS)
    assert all(
        section["error"] is None and section["figures"] for section in results["sections"].values()
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60
    table = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert table.strip() in ran.stdout
    assert table.count("\n| ") > 60
    used = json.loads(ran.stdout.rpartition("USED ")[2])
    assert set(wheels()) <= {_plain(name) for name in used}


def test_budgets_fit_eight_minutes() -> None:
    assert sum(budget for _, budget in SECTIONS.values()) <= gpu.arguments([]).seconds < 480


@pytest.fixture(scope="module")
def on_stand_in(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """The sections on a device that says it is a GPU and computes here; `waits` reads what only
    CUDA itself records."""
    folder = tmp_path_factory.mktemp("stand-in")
    sections = [name for name in SECTIONS if name != "waits"]
    with stand_in_gpu():
        gpu.main(
            [
                "--device",
                "cuda",
                "--small",
                "--out",
                str(folder),
                "--seconds",
                "3000",
                "--only",
                *sections,
            ]
        )
    return json.loads((folder / "gpu.json").read_text(encoding="utf-8"))["sections"]


def test_every_section_runs_on_a_device_that_is_not_the_cpu(on_stand_in: dict[str, dict]) -> None:
    assert len(on_stand_in) == len(SECTIONS) - 1
    assert {section.get("traceback") for section in on_stand_in.values()} == {None}


def test_what_the_stand_in_computes_agrees_with_the_cpu(on_stand_in: dict[str, dict]) -> None:
    figures = on_stand_in["agreement"]["figures"]
    assert len(figures) > 30
    assert [figure["what"] for figure in figures if not figure["holds"]] == []


class Planted(dict):
    """Sections of a test in place of the benchmark's."""

    def __enter__(self) -> None:
        self.before = dict(SECTIONS)
        SECTIONS.clear()
        SECTIONS.update(self)

    def __exit__(self, *_: object) -> None:
        SECTIONS.clear()
        SECTIONS.update(self.before)


def run(tmp_path: Path, *more: str) -> tuple[int, dict]:
    code = gpu.main(["--device", "cpu", "--small", "--out", str(tmp_path), *more])
    return code, json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))


def fails(bench: Bench):
    yield Figure("before", 1.0)
    raise ValueError("a | bar")


def dawdles(bench: Bench):
    yield at_most("quick", 1.0, 2.0)
    time.sleep(30)
    yield Figure("never", 0.0)


def succeeds(bench: Bench):
    yield at_least("speed", 1234.5, 1000, "tokens/s")


def test_a_section_that_fails_or_dawdles_is_recorded_and_the_others_go_on(
    tmp_path: Path, capsys
) -> None:
    with Planted(fails=(fails, 5), dawdles=(dawdles, 0.2), succeeds=(succeeds, 5)):
        code, results = run(tmp_path)
    assert code == 1
    errors = {name: section["error"] for name, section in results["sections"].items()}
    assert errors == {
        "fails": "ValueError: a | bar",
        "dawdles": "OverBudget: more than its 2 s",
        "succeeds": None,
    }
    assert [[f["what"] for f in section["figures"]] for section in results["sections"].values()] == [
        ["before"], ["quick"], ["speed"],
    ]  # fmt: skip
    assert "| succeeds | speed | 1,234 tokens/s | at least 1000 | yes |" in capsys.readouterr().out
    assert "| fails | ended early: ValueError: a / bar | | | **no** |" in (
        tmp_path / "gpu.md"
    ).read_text(encoding="utf-8")


def test_all_sections_together_have_an_end_too(tmp_path: Path) -> None:
    with Planted(dawdles=(dawdles, 60), succeeds=(succeeds, 60)):
        started = time.perf_counter()
        code, results = run(tmp_path, "--seconds", "0.5")
    assert code == 1 and time.perf_counter() - started < 20
    assert results["sections"]["dawdles"]["error"] == "OverBudget: more than its 0 s"


def test_figures_are_on_disk_before_their_section_ends(tmp_path: Path) -> None:
    seen = []

    def looks(bench: Bench):
        yield Figure("first", 1.0)
        seen.append(
            json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["sections"]["looks"][
                "figures"
            ]
        )

    with Planted(looks=(looks, 5)):
        run(tmp_path)
    assert [figure["what"] for figure in seen[0]] == ["first"]


def test_where_a_failure_leaves_cuda_unusable_the_rest_runs_in_a_new_process(
    tmp_path: Path, monkeypatch
) -> None:
    """What a new process would be started with, taken here: it keeps the figures and does not begin
    again."""
    started = []

    class NewProcessError(Exception):
        pass

    def execv(program: str, arguments: list[str]) -> None:
        started.append(arguments)
        raise NewProcessError

    monkeypatch.setattr(gpu.os, "execv", execv)
    monkeypatch.setattr(gpu, "is_lost", lambda bench: True)
    with Planted(fails=(fails, 5), succeeds=(succeeds, 5)):
        with pytest.raises(NewProcessError):
            run(tmp_path)
        (arguments,) = started
        assert arguments[0] == sys.executable and arguments[1].endswith("gpu.py")
        assert gpu.main(arguments[2:]) == 1
    results = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert [section["error"] for section in results["sections"].values()] == [
        "ValueError: a | bar",
        None,
    ]


def test_the_table_of_another_machine_is_taken_into_the_document(
    tmp_path: Path, monkeypatch
) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n\n{gpu.BEGIN}\nyesterday\n{gpu.END}\n\nafter\n", encoding="utf-8")
    monkeypatch.setattr(gpu, "DOCUMENT", document)
    with Planted(succeeds=(succeeds, 5)):
        run(tmp_path)
    assert "yesterday" in document.read_text(encoding="utf-8"), (
        "a run on the CPU changes no document"
    )
    assert gpu.main(["--take", str(tmp_path / "gpu.json")]) == 0
    text = document.read_text(encoding="utf-8")
    assert text.startswith(f"before\n\n{gpu.BEGIN}\n\nOn the CPU") and text.endswith(
        f"{gpu.END}\n\nafter\n"
    )
    assert "| succeeds | speed |" in text and "yesterday" not in text
    document.write_text("no marks", encoding="utf-8")
    with pytest.raises(SystemExit, match="has no place for the table"):
        gpu.main(["--take", str(tmp_path / "gpu.json")])


def test_the_document_has_a_place_for_the_table() -> None:
    text = gpu.DOCUMENT.read_text(encoding="utf-8")
    assert text.count(gpu.BEGIN) == text.count(gpu.END) == 1


def test_waits_are_those_of_one_iteration(tmp_path: Path) -> None:
    """What a run costs once does not count."""
    bench = Bench(torch.device("cpu"), True, tmp_path)
    x = torch.arange(4.0)

    def loop(n: int) -> None:
        x.sum().item()
        for _ in range(n):
            x.nonzero()
            x.sum().item()
            x.max().item()

    counts = bench.waits(loop, 3)
    assert (counts["aten::item"], counts["aten::nonzero"]) == (2, 1)


def test_peak_memory_is_what_the_work_added(tmp_path: Path) -> None:
    bench = Bench(torch.device("cpu"), True, tmp_path)
    peak = bench.peak_bytes(lambda: torch.ones(32 << 20).add_(1))
    assert 0.9 * (128 << 20) <= peak <= 1.5 * (128 << 20)
