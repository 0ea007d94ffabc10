"""One notion of done: a content-addressed store of artifacts.

    key = blake2b(canonical JSON of [stage, version, entry versions, result-bearing config, keys of
    the inputs])

`ensure` returns the artifact if its manifest is there and verifies, else makes it in
`<key>.partial/` under an operating-system lock (a second process waits and then finds it done; a
run that was killed leaves its partial folder for the next holder to continue). `manifest.json` is
written last, then the folder is renamed: an artifact that has its final name is complete. The store
knows nothing of Prefect, MLflow or DVC.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from components.config import Config, canonical
from components.errors import (
    DamagedArtifactError,
    MissingArtifactError,
    NoMemoryError,
    NoSpaceError,
    ReadOnlyStoreError,
    StoreError,
    shortened,
)
from components.paths import expanded
from components.store.provenance import git_commit, peak_memory, versions
from components.store.stage import Facts, Inputs, Progress, Stage

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1
_verified: dict[tuple[str, int, int, int], str] = {}


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A finished artifact: a folder of files whose digests are in its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def stage(self) -> str:
        """The stage that made it."""
        return self.manifest["stage"]

    @property
    def key(self) -> str:
        """Its content key."""
        return self.manifest["key"]

    @property
    def facts(self) -> Mapping[str, Any]:
        """What was found while making it (shapes, counts, seconds)."""
        return self.manifest["facts"]

    @property
    def config(self) -> Mapping[str, Any]:
        """The config section it was made with, every field."""
        return self.manifest["config"]

    @property
    def age(self) -> tuple[int, str, float]:
        """Sorts artifacts of one stage from the first made to the last, also where the clock was
        set back meanwhile."""
        made = self.manifest["made"]
        return int(made.get("order", 0)), str(made["at"]), self.folder.stat().st_mtime

    @property
    def files(self) -> list[str]:
        """Relative names of all files, sorted."""
        return sorted(self.manifest["files"])

    def path(self, name: str) -> Path:
        """The path of one file, its bytes verified against the manifest (once for each state of the
        file).

        Raises:
            MissingArtifactError: the artifact has no such file.
            DamagedArtifactError: the bytes differ from the manifest.
        """
        if name not in self.manifest["files"]:
            raise MissingArtifactError(
                f"artifact {self.stage}/{self.key} has no file {name!r}; it has "
                f"{', '.join(self.files) or 'none'}"
            )
        path = self.folder / name
        wanted = self.manifest["files"][name]
        found = digest(path) if path.exists() else "no file"
        if found != wanted["digest"]:
            raise DamagedArtifactError(
                f"{path} is damaged: wanted digest {wanted['digest']} and {wanted['bytes']} "
                f"bytes, found {found}; delete the folder {self.folder} and run again, and it is "
                "remade"
            )
        return path

    def reference(self) -> dict[str, str]:
        """What tasks pass to one another: stage and key."""
        return {"stage": self.stage, "key": self.key}


def digest(path: Path) -> str:
    """blake2b-128 of a file, remembered while size, time and inode stay the same."""
    status = path.stat()
    state = (str(path), status.st_size, status.st_mtime_ns, status.st_ino)
    if state not in _verified:
        with path.open("rb") as file:
            _verified[state] = hashlib.file_digest(
                file, lambda: hashlib.blake2b(digest_size=16)
            ).hexdigest()
    return _verified[state]


def content_number(paths: Sequence[Path]) -> int:
    """One number for the bytes of several files in their order."""
    together = "\n".join(digest(path) for path in paths)
    return int(hashlib.blake2b(together.encode(), digest_size=7).hexdigest(), 16)


def key_of(stage: Stage, config: Config, inputs: Inputs) -> str:
    """The content key of what `stage` makes from `config` and `inputs` (24 hexadecimal digits)."""
    content = [
        stage.name,
        stage.version,
        dict(sorted(stage.entries(config).items())),
        canonical(config),
        {role: given.key for role, given in sorted(inputs.items()) if given is not None},
    ]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


class Store:
    """A folder of artifacts: `<root>/<stage>/<key>/`.

    Raises:
        ReadOnlyStoreError: on `ensure`, when the folder cannot be written.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = expanded(root).absolute()

    def folder(self, stage: str, key: str) -> Path:
        """Where an artifact lies, made or not."""
        return self.root / stage / key

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artifact if it is complete: manifest present, every file there with its size. Digests
        are checked on reading."""
        folder = self.folder(stage, key)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (json.JSONDecodeError, UnicodeDecodeError):
            log.warning("the manifest in %s is not readable; the artifact is remade", folder)
            return None
        if manifest.get("format", 0) > FORMAT:
            raise StoreError(
                f"artifact {stage}/{key} has format {manifest['format']}, this version reads up "
                f"to {FORMAT}; update Latentflow or use another store"
            )
        for name, wanted in manifest["files"].items():
            path = folder / name
            if not path.exists() or path.stat().st_size != wanted["bytes"]:
                log.warning(
                    "%s is missing or truncated; artifact %s/%s is remade", path, stage, key
                )
                return None
        return Artifact(folder, manifest)

    def get(self, stage: str, key: str) -> Artifact:
        """The artifact of that key.

        Raises:
            MissingArtifactError: it is not in the store.
        """
        found = self.find(stage, key)
        if found is None:
            raise MissingArtifactError(
                f"no artifact {stage}/{key} in {self.root}; run the stage again, or `dvc pull` if "
                "it was published"
            )
        return found

    def artifacts(self, stage: str | None = None) -> Iterator[Artifact]:
        """Every complete artifact, of one stage or of all."""
        for manifest in sorted(self.root.glob(f"{stage or '*'}/*/{MANIFEST}")):
            folder = manifest.parent
            if "." not in folder.name and (found := self.find(folder.parent.name, folder.name)):
                yield found

    def ensure(
        self,
        stage: Stage,
        config: Config,
        inputs: Inputs,
        settings: Any = None,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> tuple[Artifact, bool]:
        """The artifact of (stage, config, inputs) and whether it was already there.

        Args:
            stage: what to make.
            config: the stage's section.
            inputs: by role; None marks an optional input that is absent.
            settings: execution settings, handed to `make` and kept out of the key.
            report: called with every `Progress`.

        Raises:
            NoSpaceError: the disk filled up; what was written so far stays for the next run to
                continue.
            ReadOnlyStoreError: the store cannot be written.
        """
        made = self.ensure_many(stage, {"": (config, inputs)}, settings, report)
        return made[""]

    def ensure_many(
        self,
        stage: Stage,
        wanted: Mapping[str, tuple[Config, Inputs]],
        settings: Any = None,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> dict[str, tuple[Artifact, bool]]:
        """Several artifacts of one stage, those missing made in one pass where the stage has
        `make_many`, else one by one.

        Args:
            stage: what to make.
            wanted: label -> (config, inputs).
            settings: execution settings.
            report: called with every `Progress`.
        """
        keys = {label: key_of(stage, config, inputs) for label, (config, inputs) in wanted.items()}
        done = {
            label: found for label, key in keys.items() if (found := self.find(stage.name, key))
        }
        result = {label: (artifact, True) for label, artifact in done.items()}
        # equal keys: one is made
        twins = {keys[label]: label for label in reversed(list(wanted)) if label not in done}
        missing = [twins[key] for key in sorted(twins)]
        if not missing:
            return result
        with contextlib.ExitStack() as locks, self._readable_errors(stage.name):
            for key in sorted(twins):
                self._enter(locks, stage.name, key)
            for label in list(missing):  # another process may have finished while this one waited
                if found := self.find(stage.name, keys[label]):
                    result[label] = (found, True)
                    missing.remove(label)
            groups: Sequence[list[str]] = (
                [missing] if stage.make_many and missing else [[label] for label in missing]
            )
            for group in groups:
                started = time.monotonic()
                folders = {label: self._partial(stage.name, keys[label]) for label in group}
                continued = any(any(folder.iterdir()) for folder in folders.values())
                if stage.make_many:
                    work = stage.make_many(
                        {label: (folders[label], *wanted[label]) for label in group}, settings
                    )
                    facts = _drain(work, report)
                else:
                    config, inputs = wanted[group[0]]
                    facts = {
                        group[0]: _drain(
                            stage.make(folders[group[0]], config, inputs, settings), report
                        )
                    }
                took = {
                    "seconds": round((time.monotonic() - started) / len(group), 3),
                    "continued": continued,
                    "machine": settings.machine() if settings else None,
                }
                for label in group:
                    config, inputs = wanted[label]
                    artifact = self._finish(
                        stage, keys[label], folders[label], config, inputs, facts[label], took
                    )
                    result[label] = (artifact, False)
        return {
            label: result[label] if label in result else result[twins[keys[label]]]
            for label in wanted
        }

    def delete(self, stage: str, key: str) -> None:
        """Removes one artifact and anything partial of that key."""
        for folder in (self.folder(stage, key), self.folder(stage, f"{key}.partial")):
            shutil.rmtree(folder, ignore_errors=True)

    def _partial(self, stage: str, key: str) -> Path:
        folder = self.folder(stage, f"{key}.partial")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _enter(self, locks: contextlib.ExitStack, stage: str, key: str) -> None:
        """Takes the lock of one key; says so when another run holds it, and waits."""
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{stage}-{key}.lock")
        try:
            locks.enter_context(lock.acquire(timeout=0))
        except Timeout:
            log.info("another run is making %s/%s; waiting for it", stage, key)
            locks.enter_context(lock)

    def _finish(
        self,
        stage: Stage,
        key: str,
        partial: Path,
        config: Config,
        inputs: Inputs,
        facts: Facts,
        took: Facts,
    ) -> Artifact:
        """Writes the manifest; `took` says how long the work took, on what, and whether an earlier
        run had begun it."""
        files = {}
        for path in sorted(partial.rglob("*")):
            name = path.relative_to(partial).as_posix()
            if path.is_dir() or name == MANIFEST or name.startswith("."):
                continue
            with path.open("rb") as file:
                os.fsync(file.fileno())
            files[name] = {"bytes": path.stat().st_size, "digest": digest(path)}
        manifest = {
            "format": FORMAT,
            "stage": stage.name,
            "key": key,
            "version": stage.version,
            "entries": dict(stage.entries(config)),
            "config": config.model_dump(mode="json"),
            "inputs": {
                role: {"stage": given.stage, "key": given.key}
                for role, given in inputs.items()
                if given is not None
            },
            "facts": facts,
            "files": files,
            "made": {
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "order": 1 + self._last_order(stage.name),
                **took,
                "peak_memory_bytes": peak_memory(),
                "git_commit": git_commit(),
                "versions": versions(),
            },
        }
        temporary = partial / f".{MANIFEST}.writing"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(partial / MANIFEST)
        final = self.folder(stage.name, key)
        # found incomplete above: a truncated or damaged artifact makes room for the new one
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        # checkpoints and other working files end with the work, and not before it
        for hidden in final.glob(".*"):
            shutil.rmtree(hidden, ignore_errors=True) if hidden.is_dir() else hidden.unlink(
                missing_ok=True
            )
        return Artifact(final, manifest)

    def _last_order(self, stage: str) -> int:
        """The highest order of a stage's artifacts; one that cannot be read, or is of a newer
        format, has none."""
        found = [0]
        for manifest in (self.root / stage).glob(f"*/{MANIFEST}"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                found.append(int(json.loads(manifest.read_text(encoding="utf-8"))["made"]["order"]))
        return max(found)

    @contextlib.contextmanager
    def _readable_errors(self, stage: str) -> Iterator[None]:
        try:
            yield
        except (
            Exception
        ) as error:  # polars and safetensors report a full disk with errors of their own
            if _is_too_large(error):
                said = shortened(str(error).partition("\n")[0]) or "no more is free"
                raise NoMemoryError(
                    f"memory cannot hold what {stage} needs at once ({said}); lower "
                    "the largest of its settings: `latentflow plan` says what each stage needs "
                    "and what would fit"
                ) from error
            number, name = _error_number(error), getattr(error, "filename", None)
            where = self.root if name is None else Path(str(name)).absolute()
            if not (where.is_relative_to(self.root) or self.root.is_relative_to(where)):
                raise  # a file of the user's, not of the store
            if number == errno.ENOSPC:
                raise NoSpaceError(
                    f"the disk holding {self.root} is full while making {stage}; what was written "
                    "stays and the next run continues it: free space or set execution.store to "
                    "another disk"
                ) from error
            if number in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
                raise ReadOnlyStoreError(
                    f"the store {self.root} cannot be written while making {stage} "
                    f"({os.strerror(number)}); make it writable or set execution.store to another "
                    "folder"
                ) from error
            raise


def _is_too_large(error: Exception) -> bool:
    """Whether an allocation failed, or could not even be counted: torch and numpy have no class for
    some of it."""
    said = str(error).lower()
    of_torch = isinstance(error, RuntimeError) and any(
        word in said for word in ("allocate", "out of memory", "overflow")
    )
    of_numpy = isinstance(error, ValueError) and (
        "array is too big" in said or "maximum allowed dimension" in said
    )
    return isinstance(error, MemoryError | OverflowError) or of_torch or of_numpy


def _error_number(error: Exception) -> int | None:
    """The operating system's number of an error, also where a Rust library only wrote it into its
    message."""
    written = re.search(r"\(os error (\d+)\)", str(error))
    return getattr(error, "errno", None) or (int(written.group(1)) if written else None)


def _drain(work: Generator[Progress, None, Any], report: Callable[[Progress], None]) -> Any:
    while True:
        try:
            report(next(work))
        except StopIteration as end:
            return end.value
