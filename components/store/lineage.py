"""What lies behind an artifact: the inputs that manifests name, followed in one place.

A place is (stage, key), of an artifact that is in the store or of one that is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.store.artifact import Artifact, Store
from components.store.stage import GIVEN

Place = tuple[str, str]
UNTRAINED = "untrained"
"""The role of an input that is of the untrained control dictionary."""
CONTROLS = (UNTRAINED, "randomised")
"""How the roles of inputs begin that are of a control."""


def inputs(manifest: Mapping[str, Any]) -> dict[str, Place]:
    """Where each input of an artifact is, by role."""
    return {role: (each["stage"], each["key"]) for role, each in manifest["inputs"].items()}


def source(artifact: Artifact, role: str) -> Artifact | None:
    """The artifact that an input is; None where there is no such input, or it is not in the same
    store."""
    place = inputs(artifact.manifest).get(role)
    return Store(artifact.folder.parent.parent).find(*place) if place else None


def trail(manifests: Iterable[Mapping[str, Any]], place: Place) -> set[Place]:
    """Everything that an artifact rests on, itself included, whether or not its manifest is among
    these."""
    known = {(manifest["stage"], manifest["key"]): manifest for manifest in manifests}
    reached: set[Place] = set()
    waiting = [place]
    while waiting:
        place = waiting.pop()
        if place not in reached:
            reached.add(place)
            waiting += inputs(known[place]).values() if place in known else ()
    return reached


def closure(
    store: Store, artifacts: Sequence[Artifact], whole: bool = False
) -> dict[Place, Artifact]:
    """These artifacts and every artifact that they were made from.

    Raises:
        MissingArtifactError: `whole` was asked for, and one of them is not in the store.
    """
    behind: dict[Place, Artifact] = {}
    waiting = list(artifacts)
    while waiting:
        artifact = waiting.pop()
        if (artifact.stage, artifact.key) in behind:
            continue
        behind[artifact.stage, artifact.key] = artifact
        for stage, key in inputs(artifact.manifest).values():
            if stage in GIVEN:
                continue  # its files are the user's, not the store's
            if whole:
                waiting.append(store.get(stage, key))
            elif parent := store.find(stage, key):
                waiting.append(parent)
    return behind


@dataclasses.dataclass(frozen=True)
class Behind:
    """What an experiment was made of.

    Attributes:
        artifacts: stage -> the artifact nearest to the report; those of controls are left out.
        missing: stages whose artifact is named by a manifest but is not in the store.
    """

    artifacts: Mapping[str, Artifact]
    missing: tuple[str, ...]


def behind(store: Store, report: Artifact) -> Behind:
    """What one report stands for."""
    artifacts: dict[str, Artifact] = {report.stage: report}
    missing: list[str] = []
    waiting = list(inputs(report.manifest).items())  # breadth first: the nearest comes first
    reached: set[Place] = set()
    while waiting:
        role, place = waiting.pop(0)
        if role.startswith(CONTROLS) or place in reached:
            continue
        reached.add(place)
        artifact = store.find(*place)
        if artifact is not None:
            artifacts.setdefault(artifact.stage, artifact)
            waiting.extend(inputs(artifact.manifest).items())
        elif place[0] not in GIVEN:
            missing.append(place[0])
    return Behind(
        artifacts, tuple(stage for stage in dict.fromkeys(missing) if stage not in artifacts)
    )


def controls(artifacts: Iterable[Artifact]) -> dict[str, str]:
    """Keys of the artifacts among these that were made for a control alone, and for which: codes,
    and the dictionary and activations behind them where nothing else rests on those."""
    manifests = {(artifact.stage, artifact.key): artifact.manifest for artifact in artifacts}
    of_control: dict[Place, str] = {}
    for manifest in manifests.values():
        for role, place in inputs(manifest).items():
            if role.startswith(CONTROLS) and place in manifests:
                behind_it = trail(manifests.values(), place)
                of_control |= {each: of_control.get(each, role) for each in behind_it}
    ours: set[Place] = set()
    waiting = [place for place in manifests if place not in of_control]
    while waiting:
        place = waiting.pop()
        if place not in ours:
            ours.add(place)
            roles = inputs(manifests[place]) if place in manifests else {}
            waiting += [each for role, each in roles.items() if not role.startswith(CONTROLS)]
    return {place[1]: role for place, role in of_control.items() if place not in ours}
