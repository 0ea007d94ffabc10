"""Models from a hub: a real server on this machine, the real library, in a process of its own."""

from __future__ import annotations

import pytest

from components.model.reference import ModelConfig, ModelReference
from tests.hubs import hub
from tests.toys import tiny_reference

ASK = """
import json, sys
from components.errors import ModelError
from components.model.reference import ModelConfig, ModelReference
told = []
for path, online in {asked!r}:
    try:
        reference = ModelReference(ModelConfig(path=path, online=online))
        told.append({{"key": reference.key, "files": sorted(file.name for file in reference.folder.iterdir())}})
    except ModelError as error:
        told.append(str(error))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What four askings in turn got, what was downloaded by then, and the key of the folder that
    the hub serves."""
    folder = tiny_reference(tmp_path_factory.mktemp("models") / "tiny").folder
    (folder / "pytorch_model.bin").write_bytes(b"a pickle that is never asked for")
    asked = [("toys/tiny", False), ("toys/tiny", True), ("toys/tiny", False), ("toys/none", True)]
    with hub({"toys/tiny": folder}) as served:
        answers = served.run(ASK.format(asked=asked), tmp_path_factory.mktemp("home"))
    return answers, served.downloaded, ModelReference(ModelConfig(path=str(folder))).key


def test_a_model_is_downloaded_with_leave_only_and_found_again_without(told):
    (without, online, again, _), _, key = told
    assert (
        "model.online is false, so nothing is downloaded; set model.online=true to permit it"
        in without
    )
    assert online["key"] == key and again == online


def test_nothing_but_what_a_model_needs_is_downloaded(told):
    (_, online, _, _), downloaded, _ = told
    assert "pytorch_model.bin" not in online["files"] and "model.safetensors" in online["files"]
    assert sorted(downloaded) == sorted(f"toys/tiny/{name}" for name in online["files"])


def test_a_repository_that_the_hub_does_not_have_is_said(told):
    (*_, none), _, _ = told
    assert (
        "no folder 'toys/none' with a config.json, and the hub did not give it: "
        "RepositoryNotFoundError" in none
    )
