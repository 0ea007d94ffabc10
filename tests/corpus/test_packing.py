"""What packing may not do: lose, repeat, reorder, mix or needlessly cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from components.corpus.packing import Packed, Packer, pack

BOS, EOS, PAD = 1, 2, 0
corpora = st.lists(st.lists(st.integers(3, 99), max_size=40), max_size=30)
lengths = st.integers(2, 24)
specials = st.sampled_from([(BOS, EOS), (None, EOS), (BOS, None), (None, None), (EOS, EOS)])


def documents_of(packed: Packed) -> dict[int, list[int]]:
    """Tokens of each document, by position; fails where a position comes twice."""
    found: dict[int, dict[int, int]] = {}
    kept = packed.document >= 0
    for document, position, token in zip(
        packed.document[kept], packed.position[kept], packed.token[kept], strict=True
    ):
        place = found.setdefault(int(document), {})
        assert int(position) not in place
        place[int(position)] = int(token)
    for place in found.values():
        assert sorted(place) == list(range(len(place)))
    return {document: [place[i] for i in range(len(place))] for document, place in found.items()}


@given(corpora, lengths, specials)
def test_every_token_of_every_document_is_kept_exactly_once_in_order(
    documents, length, special
) -> None:
    packed = pack(documents, bos=special[0], eos=special[1], pad=PAD, context_length=length)
    assert documents_of(packed) == {i: ids for i, ids in enumerate(documents) if ids}


@given(corpora, lengths, specials)
def test_a_context_is_bos_then_whole_runs_of_one_document_each_then_eos_then_padding(
    documents, length, special
) -> None:
    bos, eos = special
    packed = pack(documents, bos=bos, eos=eos, pad=PAD, context_length=length)
    for token, document, position in zip(
        packed.token, packed.document, packed.position, strict=True
    ):
        at = 0
        if bos is not None:
            assert (token[0], document[0], position[0]) == (bos, -1, -1)
            at = 1
        while at < length and document[at] >= 0:
            end = at
            while (
                end < length
                and document[end] == document[at]
                and position[end] == position[at] + end - at
            ):
                end += 1
            ended = position[end - 1] + 1 == len(documents[document[at]])
            assert ended or end == length, "a piece that is not the last fills its context"
            if eos is not None and ended and end < length:
                assert (token[end], document[end], position[end]) == (eos, -1, -1)
                end += 1
            at = end
        assert (
            (token[at:] == PAD).all()
            and (document[at:] == -1).all()
            and (position[at:] == -1).all()
        )


@given(corpora, lengths, specials)
def test_a_document_that_fits_is_never_cut(documents, length, special) -> None:
    packed = pack(documents, bos=special[0], eos=special[1], pad=PAD, context_length=length)
    capacity = length - (special[0] is not None)
    for number, ids in enumerate(documents):
        n_contexts = (packed.document == number).any(1).sum()
        assert n_contexts == -(-len(ids) // capacity)


@given(corpora, lengths, st.integers(1, 4))
def test_taking_contexts_as_they_finish_loses_none(documents, length, n_open) -> None:
    packer, parts = Packer(BOS, EOS, PAD, length, n_open), []
    for number, ids in enumerate(documents):
        packer.add(number, ids)
        parts.append(packer.take())
        assert len(packer._open) <= n_open
    parts.append(packer.finish())
    whole = Packed(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("token", "document", "position", "mask")
        )
    )
    assert documents_of(whole) == {i: ids for i, ids in enumerate(documents) if ids}


def test_stories_of_ordinary_lengths_waste_under_one_position_in_twenty() -> None:
    generator = np.random.default_rng(0)
    documents = [np.full(n, 7) for n in generator.integers(60, 180, 2000)]
    packed = pack(documents, bos=BOS, eos=EOS, pad=PAD, context_length=256)
    assert (packed.token == PAD).mean() < 0.05


def test_packing_by_hand() -> None:
    packed = pack([[5, 6, 7], [8, 9], [3]], bos=BOS, eos=EOS, pad=PAD, context_length=6)
    assert packed.token.tolist() == [[1, 5, 6, 7, 2, 3], [1, 8, 9, 2, 0, 0]]
    assert packed.document.tolist() == [[-1, 0, 0, 0, -1, 2], [-1, 1, 1, -1, -1, -1]]
    assert packed.position.tolist() == [[-1, 0, 1, 2, -1, 0], [-1, 0, 1, -1, -1, -1]]
