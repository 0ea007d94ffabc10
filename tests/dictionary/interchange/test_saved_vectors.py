"""Vectors of one's own become a dictionary as docs/interpretation.md says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from components.dictionary.interchange.contract import formats
from components.dictionary.interchange.exchange import bring

DOCS = Path(__file__).parents[3] / "docs/interpretation.md"


def test_saved_vectors_are_imported_and_active_on_the_share_of_tokens_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = DOCS.read_text(encoding="utf-8").partition("## Saved vectors")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    generator = torch.Generator().manual_seed(0)
    vectors, x = (torch.randn(n, 16, generator=generator) for n in (5, 4000))
    monkeypatch.chdir(tmp_path)
    exec(code[1], {"vectors": vectors, "x": x})
    dictionary = bring(formats["saelens"](), tmp_path / "vectors", x)
    codes = dictionary.encode({name: x for name in dictionary.reads})
    # the token at the threshold itself may lie on either side of it, by the last digit
    assert set(codes.indices.bincount(minlength=5).tolist()) <= {40, 41}
    # a code is the projection itself, where it is above the threshold
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    projected = (x @ unit.T)[codes.row_index(), codes.indices.long()]
    torch.testing.assert_close(codes.values, projected)
