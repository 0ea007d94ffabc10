"""One notion of done: what makes a key, what counts as complete, and what is left behind when
things go wrong."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.numpy
import torch

from components.config import Config, execution
from components.errors import (
    DamagedArtifactError,
    MissingArtifactError,
    NoMemoryError,
    NoSpaceError,
    ReadOnlyStoreError,
    StoreError,
)
from components.store.artifact import MANIFEST, Artifact, Store, key_of
from components.store.stage import Progress, Stage
from tests.store.maker import N_PARTS, SLOW, SlowConfig

REPOSITORY = Path(__file__).resolve().parents[2]


class TextConfig(Config):
    text: str = "a"
    threads: int = execution(1)


class LaterTextConfig(Config):
    """The same section, one version of the code later."""

    text: str = "a"
    threads: int = execution(1)
    added: int = 3


def write_text(folder: Path, config: TextConfig, inputs: Mapping, settings: Any):
    (folder / "text").mkdir(exist_ok=True)
    (folder / "text" / "a.txt").write_text(config.text)
    (folder / ".checkpoint").mkdir(exist_ok=True)
    yield Progress(1, 1, "files")
    return {"length": len(config.text)}


TEXT = Stage("text", 1, write_text)


def failing_with(error: Exception) -> Stage:
    def make(folder: Path, config: Config, inputs: Mapping, settings: Any):
        (folder / "begun").write_text("so far")
        yield Progress(0, 1, "files")
        raise error

    return Stage("text", 1, make)


def key(config: Config, stage: Stage = TEXT, **inputs: Any) -> str:
    return key_of(stage, config, inputs)


# ---- keys ----


def test_a_key_changes_with_stage_version_entry_choice_and_input(store: Store) -> None:
    other = store.ensure(TEXT, TextConfig(text="other"), {})[0]
    keys = [
        key(TextConfig()),
        key(TextConfig(text="b")),
        key(TextConfig(), Stage("prose", 1, write_text)),
        key(TextConfig(), Stage("text", 2, write_text)),
        key(TextConfig(), Stage("text", 1, write_text, entries=lambda config: {"font.serif": 1})),
        key(TextConfig(), Stage("text", 1, write_text, entries=lambda config: {"font.serif": 2})),
        key(TextConfig(), source=other),
        key(TextConfig(), model=other),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(one) == 24 for one in keys)


def test_execution_fields_and_absent_inputs_change_no_key() -> None:
    assert key(TextConfig(threads=8)) == key(TextConfig()) == key(TextConfig(), source=None)


def test_a_new_field_with_a_default_rekeys_nothing() -> None:
    assert key(LaterTextConfig(text="b")) == key(TextConfig(text="b"))
    assert key(LaterTextConfig(added=4)) != key(TextConfig())


def test_a_key_is_the_same_on_every_machine() -> None:
    assert key(TextConfig(text="b")) == "b617cc1b796f8fe29069c9ce"


# ---- ensure ----


def test_an_artifact_is_made_once_and_then_found(store: Store) -> None:
    told: list[Progress] = []
    made, was_there = store.ensure(TEXT, TextConfig(text="hello"), {}, report=told.append)
    again, found = store.ensure(failing_with(AssertionError()), TextConfig(text="hello"), {})
    assert (was_there, found, told) == (False, True, [Progress(1, 1, "files")])
    assert again == made
    assert again.path("text/a.txt").read_text() == "hello"
    assert again.facts == {"length": 5} and again.config == {"text": "hello", "threads": 1}
    assert again.files == ["text/a.txt"], "working files end with the work"
    assert not (again.folder / ".checkpoint").exists()
    assert not list(store.root.glob("*/*.partial"))


def test_a_manifest_says_from_what_with_what_and_how_long(store: Store) -> None:
    source = store.ensure(TEXT, TextConfig(), {})[0]
    made = store.ensure(TEXT, TextConfig(text="b"), {"source": source, "model": None})[0]
    assert made.manifest["inputs"] == {"source": source.reference()}
    about = {
        "at",
        "order",
        "seconds",
        "continued",
        "machine",
        "peak_memory_bytes",
        "git_commit",
        "versions",
    }
    assert about == set(made.manifest["made"]) and made.manifest["made"]["continued"] is False
    assert made.manifest["made"]["versions"]["numpy"] == np.__version__
    assert made.stage == "text" and made.key == key(TextConfig(text="b"), source=source)


def test_peak_memory_is_of_this_process_and_not_of_the_one_that_started_it() -> None:
    large = b"x" * 2**30
    asking = "from components.store.provenance import peak_memory; large = b'x' * 2**28; print(peak_memory())"
    peak = int(
        subprocess.run(
            [sys.executable, "-c", asking], capture_output=True, text=True, check=True
        ).stdout
    )
    assert 2**28 < peak < len(large)


def test_a_run_that_waits_for_another_says_so(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = key(TextConfig(text="slow"))
    (store.root / ".locks").mkdir(parents=True)
    hold = "import filelock, sys, time; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); time.sleep(0.5)"
    path = store.root / ".locks" / f"text-{wanted}.lock"
    with subprocess.Popen([sys.executable, "-c", hold, path], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        with caplog.at_level("INFO"):
            store.ensure(TEXT, TextConfig(text="slow"), {})
    assert f"another run is making text/{wanted}; waiting for it" in caplog.text


def test_several_artifacts_are_made_in_one_pass_and_only_those_missing(store: Store) -> None:
    store.ensure(TEXT, TextConfig(text="a"), {})
    passes = []

    def together(wanted: Mapping[str, tuple[Path, TextConfig, Mapping]], settings: Any):
        passes.append(sorted(wanted))
        for folder, config, _ in wanted.values():
            (folder / "a.txt").write_text(config.text)
        yield Progress(1, 1, "passes")
        return {label: {"together": True} for label in wanted}

    wanted = {label: (TextConfig(text=label), {}) for label in "abc"}
    stage = dataclasses.replace(TEXT, make_many=together)
    made = store.ensure_many(stage, wanted)
    assert passes == [["b", "c"]]
    assert {label: hit for label, (_, hit) in made.items()} == {"a": True, "b": False, "c": False}
    assert all(hit for _, hit in store.ensure_many(stage, wanted).values())


def test_two_labels_of_one_key_are_one_artifact(store: Store) -> None:
    made = store.ensure_many(TEXT, {"x": (TextConfig(), {}), "y": (TextConfig(threads=4), {})})
    assert made["x"][0].key == made["y"][0].key
    assert len(list(store.artifacts())) == 1


# ---- damage ----


def test_changed_bytes_are_found_when_they_are_read(store: Store) -> None:
    made = store.ensure(TEXT, TextConfig(text="hello"), {})[0]
    time.sleep(0.01)
    (made.folder / "text" / "a.txt").write_text("hellO")
    damaged = store.get("text", made.key)
    with pytest.raises(
        DamagedArtifactError,
        match=r"a.txt is damaged: wanted digest \w+ and 5 bytes, found \w+; delete",
    ):
        damaged.path("text/a.txt")


@pytest.mark.parametrize("harm", ["truncate", "remove", "manifest", "no manifest"])
def test_a_truncated_or_missing_file_means_not_done_and_is_remade(store: Store, harm: str) -> None:
    made = store.ensure(TEXT, TextConfig(text="hello"), {})[0]
    file = made.folder / ("text/a.txt" if harm in ("truncate", "remove") else MANIFEST)
    if harm in ("remove", "no manifest"):
        file.unlink()
    else:
        file.write_text(file.read_text()[:3])
    assert store.find("text", made.key) is None
    assert list(store.artifacts()) == []
    remade, was_there = store.ensure(TEXT, TextConfig(text="hello"), {})
    assert not was_there and remade.path("text/a.txt").read_text() == "hello"


def test_what_is_not_there_is_named(store: Store) -> None:
    made = store.ensure(TEXT, TextConfig(), {})[0]
    with pytest.raises(MissingArtifactError, match=r"has no file 'b.txt'; it has text/a.txt"):
        made.path("b.txt")
    with pytest.raises(
        MissingArtifactError,
        match=r"no artifact text/0000 in .*; run the stage again, or `dvc pull`",
    ):
        store.get("text", "0000")


def test_a_store_of_a_later_format_is_refused_not_misread(store: Store) -> None:
    made = store.ensure(TEXT, TextConfig(), {})[0]
    (made.folder / MANIFEST).write_text(json.dumps({**made.manifest, "format": 99}))
    with pytest.raises(
        StoreError, match=r"has format 99, this version reads up to 1; update Latentflow"
    ):
        store.find("text", made.key)


def test_deleting_an_artifact_takes_what_was_begun_of_it_too(store: Store) -> None:
    made = store.ensure(TEXT, TextConfig(), {})[0]
    (store.folder("text", f"{made.key}.partial") / "x").mkdir(parents=True)
    store.delete("text", made.key)
    assert [path.name for path in (store.root / "text").iterdir()] == []


# ---- what goes wrong while making ----


def test_a_failure_leaves_no_artifact_and_the_next_run_continues(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        store.ensure(failing_with(ZeroDivisionError()), TextConfig(), {})
    assert list(store.artifacts()) == []
    assert (store.folder("text", f"{key(TextConfig())}.partial") / "begun").read_text() == "so far"
    made = store.ensure(TEXT, TextConfig(), {})[0]
    assert set(made.files) == {"begun", "text/a.txt"}


def full_disks() -> dict[str, Exception]:
    """How Python, polars and safetensors say that a disk is full."""
    return {
        "python": OSError(errno.ENOSPC, "No space left on device"),
        "polars": pl.exceptions.ComputeError(
            "parquet: underlying IO error: No space left on device (os error 28)"
        ),
        "safetensors": safetensors.SafetensorError(
            "I/O error: No space left on device (os error 28)"
        ),
    }


@pytest.mark.parametrize("library", full_disks())
def test_a_full_disk_is_told_as_such_whichever_library_meets_it(store: Store, library: str) -> None:
    with pytest.raises(
        NoSpaceError,
        match=r"the disk holding .*artifacts is full while making text; what was written",
    ):
        store.ensure(failing_with(full_disks()[library]), TextConfig(), {})
    assert (store.folder("text", f"{key(TextConfig())}.partial") / "begun").exists(), (
        "for the next run to continue"
    )


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs the device /dev/full, which is Linux's"
)
def test_polars_says_of_a_full_disk_what_the_store_understands(store: Store) -> None:
    def make(folder: Path, config: Config, inputs: Mapping, settings: Any):
        (folder / "a.parquet").symlink_to("/dev/full")
        pl.DataFrame({"a": np.random.default_rng(0).random(10**5)}).write_parquet(
            folder / "a.parquet"
        )
        yield Progress(1, 1, "files")
        return {}

    with pytest.raises(NoSpaceError):
        store.ensure(Stage("text", 1, make), TextConfig(), {})


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_store_that_cannot_be_written_is_told_as_such(
    store: Store, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    found = store.ensure(TEXT, TextConfig(text="made before"), {})[0]
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        ReadOnlyStoreError,
        match=rf"cannot be written while making text \({os.strerror(number)}\); make",
    ):
        store.ensure(TEXT, TextConfig(), {})
    assert store.ensure(TEXT, TextConfig(text="made before"), {}) == (found, True), (
        "reading still works"
    )


def test_a_store_whose_folder_is_a_file_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ReadOnlyStoreError,
        match=r"the store .*file cannot be written while making text \(Not a dir",
    ):
        Store(tmp_path / "file").ensure(TEXT, TextConfig(), {})


def test_a_users_file_that_may_not_be_read_is_not_blamed_on_the_store(
    store: Store, tmp_path: Path
) -> None:
    theirs = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "corpus.txt"))
    with pytest.raises(PermissionError, match=r"corpus.txt"):
        store.ensure(failing_with(theirs), TextConfig(), {})


# ---- several processes ----


def start(store: Store, seconds: float, log: Path) -> subprocess.Popen:
    arguments = [sys.executable, "-m", "tests.store.maker", str(store.root), str(seconds), str(log)]
    return subprocess.Popen(arguments, cwd=REPOSITORY)


def made_parts(log: Path) -> list[int]:
    return [int(line.split()[0]) for line in log.read_text().splitlines()] if log.exists() else []


def whole(artifact: Artifact) -> bool:
    return all(artifact.path(f"part-{n}").read_bytes() == bytes([n]) * 1000 for n in range(N_PARTS))


def test_processes_that_want_the_same_artifact_at_once_make_it_once(
    store: Store, tmp_path: Path
) -> None:
    processes = [start(store, 0.05, tmp_path / "log") for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    lines = (tmp_path / "log").read_text().splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(N_PARTS))
    assert len({line.split()[1] for line in lines}) == 1
    assert whole(next(store.artifacts("slow")))


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(2**53 - 1, 64), lambda: torch.empty(2**50), lambda: np.zeros(2**60), lambda: bytearray(2**62),
        lambda: bytearray(2**70),
    ],
    ids=["torch, uncountable", "torch", "numpy", "python", "python, uncountable"],
)  # fmt: skip
def test_what_memory_cannot_hold_is_said_in_a_sentence_and_other_errors_stay(
    store: Store, allocate: Any
) -> None:
    def make(folder: Path, config: Config, inputs: Mapping, settings: Any):
        allocate()
        yield Progress(0, 1, "files")
        return {}

    with pytest.raises(
        NoMemoryError,
        match=r"memory cannot hold what text needs at once \(.+\); lower .*`latentflow plan`",
    ):
        store.ensure(Stage("text", 1, make), TextConfig(), {})
    with pytest.raises(RuntimeError, match="^mat1 and mat2"):
        store.ensure(
            failing_with(RuntimeError("mat1 and mat2 shapes cannot be multiplied")),
            TextConfig(),
            {},
        )


def test_the_newest_is_the_last_made_also_where_the_clock_was_set_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(text: str) -> Artifact:
        return store.ensure(TEXT, TextConfig(text=text), {})[0]

    first, now, gmtime = made("first"), time.time(), time.gmtime
    monkeypatch.setattr(time, "gmtime", lambda *_: gmtime(now - 3600))
    second, third = made("second"), made("third")
    for artifact in (second, third):
        os.utime(artifact.folder, (now - 3600, now - 3600))
    assert second.manifest["made"]["at"] < first.manifest["made"]["at"]
    assert sorted(store.artifacts(TEXT.name), key=lambda artifact: artifact.age) == [
        first,
        second,
        third,
    ]
    assert second.manifest["made"]["seconds"] >= 0


def test_a_killed_process_leaves_only_what_is_complete_and_the_next_one_continues(
    store: Store, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    for n_parts in (1, 3):  # killed as soon as so many parts are there
        process = start(store, 0.2, log)
        deadline = time.monotonic() + 120
        while len(made_parts(log)) < n_parts and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        assert list(store.artifacts()) == []
        assert sorted(path.name for path in (store.root / "slow").iterdir()) == [
            f"{key(SlowConfig(seconds=0.2, log=str(log)), SLOW)}.partial"
        ]
    made, was_there = store.ensure(SLOW, SlowConfig(seconds=0.2, log=str(log)), {})
    assert not was_there and whole(made)
    assert made_parts(log) == list(range(N_PARTS)), "no part was made twice"


def test_a_manifest_half_written_by_a_killed_process_is_no_file_of_the_artifact(
    store: Store,
) -> None:
    partial = store.folder("text", f"{key(TextConfig())}.partial")
    partial.mkdir(parents=True)
    (partial / f".{MANIFEST}.writing").write_text('{"half')
    (partial / MANIFEST).write_text("left behind between the two renames")
    made = store.ensure(TEXT, TextConfig(), {})[0]
    assert made.files == ["text/a.txt"]
    assert store.find("text", made.key) == made
