"""A saved Hugging Face data set, laid out as `save_to_disk` lays it out."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest

from components.corpus.contract import Label
from components.corpus.corpora.huggingface import HuggingFace, HuggingFaceConfig
from components.errors import CorpusError

FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
}


def saved(folder: Path, *parts: list[tuple[str, int]]) -> Path:
    """One arrow stream for each part, and the state.json that lists them."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    schema = pyarrow.schema(
        [("text", pyarrow.string()), ("label", pyarrow.int64())], metadata=metadata
    )
    names = [f"data-{number:05d}-of-{len(parts):05d}.arrow" for number in range(len(parts))]
    for name, rows in zip(names, parts, strict=True):
        columns = [list(column) for column in zip(*rows, strict=True)]
        with (
            pyarrow.OSFile(str(folder / name), "wb") as sink,
            pyarrow.ipc.new_stream(sink, schema) as writer,
        ):
            writer.write_table(pyarrow.table(columns, schema=schema))
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": name} for name in names]})
    )
    return folder


def test_rows_of_all_parts_come_in_order_with_class_labels_by_name(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", [("a", 1), ("b", 0)], [("c", -1)])
    corpus = HuggingFace(HuggingFaceConfig(path=str(folder), label_columns=["label"]))
    documents = list(corpus.documents("train", 0))
    assert [document.text for document in documents] == ["a", "b", "c"]
    assert [list(document.labels) for document in documents] == [
        [Label("label.pos")],
        [Label("label.neg")],
        [],
    ]
    assert [path.name for path in corpus.files()] == [
        "data-00000-of-00002.arrow",
        "data-00001-of-00002.arrow",
    ]


def test_a_folder_of_parts_is_read_by_subset(tmp_path: Path) -> None:
    saved(tmp_path / "train", [("a", 1)])
    saved(tmp_path / "test", [("b", 0)])
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    for subset, text in {"train": "a", "test": "b"}.items():
        config = HuggingFaceConfig(path=str(tmp_path), subset=subset)
        assert [document.text for document in HuggingFace(config).documents("", 0)] == [text]
    with pytest.raises(
        CorpusError, match=r"no part 'tests'; known: test, train; did you mean 'test'\?"
    ):
        HuggingFace(HuggingFaceConfig(path=str(tmp_path), subset="tests")).files()


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"written by datasets' save_to_disk, but there is no state.json in"
    ):
        HuggingFace(HuggingFaceConfig(path=str(tmp_path))).files()


def test_a_damaged_arrow_file_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", [("a", 1)])
    (folder / "data-00000-of-00001.arrow").write_bytes(b"not arrow at all")
    with pytest.raises(CorpusError, match=r"data-00000-of-00001.arrow: not readable as arrow"):
        list(HuggingFace(HuggingFaceConfig(path=str(folder))).documents("train", 0))


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"_data_files": 3}', '{"_data_files": [{"name": "x"}]}']
)
def test_a_state_file_that_lists_nothing_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(CorpusError, match=r"state.json: .*save the data set again"):
        HuggingFace(HuggingFaceConfig(path=str(tmp_path))).files()


def test_a_class_that_has_no_name_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", [("a", 2)])
    with pytest.raises(
        CorpusError, match=r"row 0: label column 'label' holds class 2 of 2 named ones"
    ):
        list(
            HuggingFace(HuggingFaceConfig(path=str(folder), label_columns=["label"])).documents(
                "", 0
            )
        )
