"""What a target of an export promises: it writes what an experiment knows of its latents into a
folder, for people and programs that have no Latentflow.

A target is one file in `targets/`: a class marked with `@targets`. It reads tables of finished
artifacts and computes nothing that a stage has not computed.
"""

from __future__ import annotations

import dataclasses
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import polars as pl

from components.errors import InputError, MissingArtifactError
from components.registry import Registry
from components.store import lineage
from components.store.artifact import Artifact, Store
from components.store.tables import LATENTS

targets: Registry[type[Target]] = Registry("target", "components.export.targets")


@dataclasses.dataclass(frozen=True)
class Findings:
    """One dictionary as one experiment sees it.

    Attributes:
        store: where its artifacts lie.
        artifacts: stage -> artifact; train and encode are there.
        split: whose statistics of latents are meant: test where it was encoded, else the last.
    """

    store: Store
    artifacts: Mapping[str, Artifact]
    split: str

    @classmethod
    def of(cls, store: Store, key: str) -> Findings:
        """From the key of a report, or of a dictionary (then as its newest report sees it).

        Raises:
            MissingArtifactError: neither is there, or codes or dictionary are gone.
        """
        report = store.find("report", key) if key.isalnum() else None
        if report is None:
            reports = sorted(store.artifacts("report"), key=lambda each: each.age, reverse=True)
            report = next((each for each in reports if _trained(store, each) == key), None)
        if report is None:
            raise MissingArtifactError(
                f"neither a report {key[:40]!r} nor a report of a dictionary of that key in "
                f"{store.root}; `latentflow experiment` makes one"
            )
        artifacts = lineage.behind(store, report).artifacts
        for stage in ("train", "encode"):
            if stage not in artifacts:
                raise MissingArtifactError(
                    f"the {stage} artifact of report {report.key} is not in {store.root}; run the "
                    "stage again, or `dvc pull` if it was published"
                )
        of_all = LATENTS.scan(artifacts["encode"]).select("split").unique()
        splits = sorted(of_all.collect()["split"])
        return cls(store, artifacts, "test" if "test" in splits else splits[-1])

    def latents(self) -> pl.LazyFrame:
        """Statistics of every latent on the split."""
        of = LATENTS.scan(self.artifacts["encode"])
        return of.filter(pl.col("split") == self.split)

    @property
    def d_sae(self) -> int:
        """Latents of the dictionary."""
        return self.artifacts["train"].facts["d_sae"]

    @property
    def model(self) -> str:
        """The last part of the model's name; where no model was run, that of the file."""
        capture = self.artifacts.get("capture")
        facts = capture.facts if capture else {}
        path = (facts.get("model_config") or {}).get("path") or facts.get("arrays") or "unknown"
        return Path(path).name


class Target(ABC):
    """One way to write latents down.

    Attributes:
        kind: its name, the file's; set by the registry.
        about: what it writes, in a phrase.
        chosen: whether it wants the numbers of the latents.
    """

    kind: ClassVar[str]
    about: ClassVar[str]
    chosen: ClassVar[bool] = False

    @abstractmethod
    def write(self, findings: Findings, folder: Path, latents: Sequence[int] | None) -> None:
        """Writes into an empty folder.

        Args:
            findings: what is written down.
            folder: where to.
            latents: which, ascending; None for all that there are.
        """


def export(target: Target, findings: Findings, folder: Path, latents: Sequence[int]) -> None:
    """Writes latents as a target has them, whole or not at all.

    Args:
        target: how.
        findings: what.
        folder: where to, a new or an empty one.
        latents: which; none for all.

    Raises:
        InputError: a folder that is not empty, latents that the dictionary lacks, or none where the
            target wants to be told which.
    """
    top = findings.d_sae - 1
    if beyond := [latent for latent in latents if not 0 <= latent <= top]:
        raise InputError(f"no latent {beyond[0]} in this dictionary; it has 0 to {top}")
    if target.chosen and not latents:
        raise InputError(f"say which latents: --format {target.kind} --latents 1,2,3")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder; give a new one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent
    ) as beside:
        partial = Path(beside)
        target.write(findings, partial, sorted(set(latents)) or None)
        folder.mkdir(exist_ok=True)
        for path in partial.iterdir():
            path.rename(folder / path.name)


def _trained(store: Store, report: Artifact) -> str | None:
    """Key of the dictionary that a report is about."""
    trained = lineage.behind(store, report).artifacts.get("train")
    return trained.key if trained else None
