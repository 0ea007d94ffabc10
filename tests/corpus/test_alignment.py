"""A token carries a label exactly when the two share a character, whatever the tokenizer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from components.corpus.alignment import align
from components.corpus.contract import Document, Label
from tests.corpus.doubles import byte_level

TOKENIZER = byte_level().backend_tokenizer
ALPHABET = "fox the“é”漢🦊 \n.1"


@st.composite
def labelled(draw) -> Document:
    text = draw(st.text(ALPHABET, max_size=30))
    ends = st.integers(0, len(text))
    spans = draw(st.lists(st.tuples(st.sampled_from("ab"), ends, ends), max_size=5))
    labels = [Label(concept, min(span), max(span)) for concept, *span in spans]
    return Document(text, "", [*labels, *[Label("c")] * draw(st.integers(0, 2))])


@given(st.lists(labelled(), max_size=5))
def test_alignment_equals_the_definition(documents: list[Document]) -> None:
    encodings = TOKENIZER.encode_batch([document.text for document in documents])
    wanted, lost = set(), 0
    for index, (document, encoding) in enumerate(zip(documents, encodings, strict=True)):
        for concept, start, end, _ in document.labels:
            if start is None or end is None:
                wanted.add((concept, index, None))
                continue
            touched = {
                (concept, index, token)
                for token, (first, last) in enumerate(encoding.offsets)
                if set(range(first, last)) & set(range(start, end))
            }
            wanted |= touched
            lost += not touched
    codes: dict[str, int] = {}
    found = align(documents, encodings, codes)
    names = {code: name for name, code in codes.items()}
    rows = [
        (names[c], d, t)
        for c, d, t in found.rows.select("concept", "document", "token").iter_rows()
    ]
    assert len(rows) == len(set(rows))
    assert set(rows) == wanted
    assert found.n_lost == lost


def test_every_byte_of_a_split_character_is_labelled() -> None:
    encodings = TOKENIZER.encode_batch(["a 漢 b"])
    assert len(encodings[0].ids) > 5
    found = align([Document("a 漢 b", "", [Label("han", 2, 3)])], encodings, {})
    covered = [
        token for token, (first, last) in enumerate(encodings[0].offsets) if first <= 2 < last
    ]
    assert found.rows["token"].to_list() == covered and len(covered) >= 3


def test_of_two_values_on_one_token_the_larger_stays() -> None:
    document = Document(
        "fox", "", [Label("a", 0, 3, 0.5), Label("a", 0, 2, 2.0), Label("a", 0, 1, 1.0)]
    )
    found = align([document], TOKENIZER.encode_batch(["fox"]), {})
    assert found.rows.filter(found.rows["token"] == 0)["value"].to_list() == [2.0]
