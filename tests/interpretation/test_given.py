"""Explanations from files: every form that is read, what is too long or absent, and files that
cannot be used."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import polars as pl
import pytest

from components.errors import InputError
from components.interpretation.contract import LatentEvidence
from components.interpretation.explainers.given import Given, GivenConfig
from components.interpretation.explanation import Explanation, too_long
from components.store import tables
from tests.interpretation.windows_of import EXPLAINER, windows_of

WINDOWS = windows_of(["a b"] * 4, [[1, 0], [], [0, 1], []])


def read(path: Path, *latents: int, **settings: str) -> list[Explanation]:
    explainer = Given(GivenConfig(path=str(path), **settings), EXPLAINER)
    return list(explainer.explain(LatentEvidence(latent, WINDOWS) for latent in latents))


def neuronpedia(
    index: int, text: str, layer: str = "6-res-jb", kind: str = "oai_token-act-pair"
) -> str:
    row = {"modelId": "gpt2-small", "layer": layer, "index": str(index), "description": text}
    return (
        json.dumps(row | {"typeName": kind, "explanationModelName": "gpt-4o-mini", "notes": None})
        + "\n"
    )


def test_a_table_of_latents_and_texts_is_read(tmp_path: Path) -> None:
    rows = pl.DataFrame({"latent": [3, 12], "text": ["the sea", 'the word "sky"']})
    rows.write_csv(tmp_path / "a.csv")
    rows.write_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows.to_dicts()) + "\n"
    )
    for name in ("a.csv", "a.parquet", "a.jsonl"):
        path = tmp_path / name
        assert read(path, 12, 3) == [Explanation('the word "sky"'), Explanation("the sea")]
        assert read(path, 4) == [Explanation(None, f"{path} has no explanation of latent 4")]


def test_our_own_table_of_explanations_is_read_one_author_at_a_time(tmp_path: Path) -> None:
    written = [
        ("log_odds", "the sea", None),
        ("logistic", None, "no word"),
        ("logit_lens", "the shore", None),
    ]
    columns = ("latent", "explainer", "explanation", "reason")
    tables.EXPLANATIONS.write(
        tmp_path, [dict(zip(columns, (1, *each), strict=True)) for each in written]
    )
    path = tmp_path / tables.EXPLANATIONS.file
    assert read(path, 1, author="logit_lens") == [Explanation("the shore")]
    assert read(path, 1, author="log_odds") == [Explanation("the sea")]
    wanted = r"given\.author=nobody: .* has log_odds, logit_lens$"
    with pytest.raises(InputError, match=wanted):
        read(path, 1, author="nobody")


def test_neuronpedias_bulk_folder_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with gzip.open(tmp_path / "batch-0.jsonl.gz", "wt") as file:
        file.write(neuronpedia(0, "ships") + neuronpedia(0, "boats", kind="np_max-act"))
    with gzip.open(tmp_path / "batch-1.jsonl.gz", "wt") as file:
        file.write(neuronpedia(12, "harbours"))
    with caplog.at_level(logging.WARNING):
        assert [each.text for each in read(tmp_path, 0, 12)] == ["ships", "harbours"]
    assert "1 further explanations of latents that have one are not used" in caplog.text
    assert [each.text for each in read(tmp_path, 0, author="np_max-act")] == ["boats"]
    assert [each.text for each in read(tmp_path, 12, author="gpt-4o-mini")] == ["harbours"]


def test_several_dictionaries_in_a_file_need_a_source(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text(neuronpedia(0, "ships") + neuronpedia(0, "streets", layer="7-res-jb"))
    with pytest.raises(
        InputError, match=r"several dictionaries \(6-res-jb, 7-res-jb\); set .*given\.source$"
    ):
        read(path, 0)
    assert [each.text for each in read(path, 0, source="7-res-jb")] == ["streets"]
    with pytest.raises(InputError, match=r"given\.source=8-res-jb: .* has 6-res-jb, 7-res-jb$"):
        read(path, 0, source="8-res-jb")


def test_delphis_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "layers.6_latent3.txt").write_text(json.dumps("ships and boats"))
    (tmp_path / "layers.6_latent120.txt").write_text("plain text, as an editor leaves it\n")
    assert [each.text for each in read(tmp_path, 120, 3)] == [
        "plain text, as an editor leaves it",
        "ships and boats",
    ]
    (tmp_path / "layers.7_latent3.txt").write_text(json.dumps("streets"))
    assert [each.text for each in read(tmp_path, 3, source="layers.7")] == ["streets"]
    with pytest.raises(InputError, match=r"several dictionaries \(layers\.6, layers\.7\)"):
        read(tmp_path, 3)


def test_a_text_may_be_longer_than_others_and_is_never_cut(tmp_path: Path) -> None:
    texts = ["sea " * 127 + "seas", "sea " * 127 + "ocean", " ", "the\nsea\t"]
    pl.DataFrame({"latent": range(4), "text": texts}).write_csv(tmp_path / "a.csv")
    fits, long, empty, spaced = read(tmp_path / "a.csv", 0, 1, 2, 3)
    assert fits.text == texts[0] and len(texts[0]) == 512
    assert long == Explanation(None, too_long(513, 512))
    assert (
        empty.text is None and empty.reason == "nothing that can be read was written (1 characters)"
    )
    assert spaced == Explanation("the sea")


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.csv", "number,words\n1,sea\n", r"row 1: wanted latent or index, found number, words$"),
        (
            "a.csv",
            "latent,words\n1,sea\n",
            r"row 1: wanted text or description or explanation, found latent, words$",
        ),
        ("a.csv", "latent,text\none,sea\n", r"row 1: wanted the number of a latent, found 'one'$"),
        ("a.csv", "latent,text\n-1,sea\n", r"row 1: wanted the number of a latent, found '-1'$"),
        (
            "a.jsonl",
            '{"latent": 1, "text": "sea"}\n{"latent"\n',
            r"line 2: wanted a JSON object on each line; ",
        ),
        ("a.jsonl", "[1]\n", r"line 1: wanted an object with latent and text, found list$"),
        ("a.jsonl.gz", "not gzip", r"wanted a JSON object on each line; Not a gzipped file"),
        ("a.parquet", "not parquet", r"a\.parquet is no readable table: "),
        ("a.xlsx", "", r"a\.xlsx is of another kind; wanted a \.csv, \.parquet, "),
        (
            "latents/nameless.txt",
            "sea",
            r"wanted a name that ends in the number of the latent, as ",
        ),
        ("latents/readme.md", "sea", r"latents holds none; wanted a \.csv, "),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_a_sentence(
    tmp_path: Path, name: str, content: str, wanted: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(InputError, match=wanted):
        read(path.parent if "/" in name else path, 1)


def test_no_path_and_nothing_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"needs explanations: set interpret\.explainer_settings\.given\.path to a ",
    ):
        Given.files(GivenConfig())
    with pytest.raises(InputError, match=r"nothing\.csv is not there; wanted "):
        Given.files(GivenConfig(path=str(tmp_path / "nothing.csv")))
    for name in ("1.txt", "a.jsonl"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(
        InputError, match=r"the folder holds both \.jsonl and \.txt files; wanted one kind$"
    ):
        Given.files(GivenConfig(path=str(tmp_path)))
