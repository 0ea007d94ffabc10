"""A run's name and tags carry its choices."""

from __future__ import annotations

from flows.parameters import resolve
from flows.stack import windows


def test_name_and_tags_carry_model_hook_point_and_dictionary() -> None:
    config = resolve(["name=mine", "train.dictionary.k=16", "capture.hook_points=[resid_post.1]"])
    assert windows.choices(config) == {
        "model": "demo",
        "hook_point": "resid_post.1",
        "dictionary": "topk-1024-k16",
    }
    assert windows.tags(config) == {
        *(
            "latentflow",
            "mine",
            "model:demo",
            "hook_point:resid_post.1",
            "dictionary:topk-1024-k16",
        ),
    }


def test_a_dictionary_that_is_named_is_called_by_its_name() -> None:
    assert (
        windows.choices(resolve(["dictionary=topk-1536-k32@champion"]))["dictionary"]
        == "topk-1536-k32@champion"
    )


def test_a_dictionary_without_k_is_called_by_kind_and_size() -> None:
    assert windows.choices(resolve(["train.dictionary.kind=relu"]))["dictionary"].startswith(
        "relu-"
    )
