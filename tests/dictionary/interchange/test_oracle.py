"""The comparison with the peers' classes (`benchmarks/oracle.py`) goes red where a side lacks what
a case declares.

Our side is computed as there; the peer's is a copy of it in the form its script returns, whole or
without one part. That the peers themselves agree is seen in their own environments (`make oracle`).
"""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks import oracle

# the oracle's own way to its peers' scripts
sys.path.remove(str(oracle.REPOSITORY / "benchmarks" / "peers"))


def as_returned(case, mine):
    """What a peer's script would return if it agreed with ours in everything."""
    weights, *_ = case.numbers()
    theirs = {name: tensor for name, tensor in mine.items() if name.startswith(("loss.", "grad."))}
    moved = {
        name.removeprefix("after."): change
        for name, change in mine.items()
        if name.startswith("after.")
    }
    theirs |= {f"after.{name}": weights[name] + change for name, change in moved.items()}
    theirs |= {
        "codes": mine["codes"],
        "inference": mine["codes"],
        "reconstruction": mine["reconstruction"],
    }
    if case.kind in ("batch_topk", "matryoshka"):  # compared by how many rows use each latent
        theirs["codes"] = (torch.arange(oracle.N)[:, None] < mine["fired"]).double()
    return theirs


@pytest.mark.parametrize("case", oracle.CASES, ids=[case.name for case in oracle.CASES])
def test_what_a_side_lacks_is_a_row_that_does_not_hold(case):
    mine, _ = oracle.ours(case)
    theirs = as_returned(case, mine)
    assert all(row.holds for row in oracle.compare(case, mine, theirs))
    learnt = [name.removeprefix("after.") for name in mine if name.startswith("after.")]
    declared = ["codes", "reconstruction"]
    for term in case.terms:
        declared.append(f"loss.{term.theirs}")
        if term.gradient:
            declared += [
                f"grad.{term.theirs}.{name}" for name in learnt if name not in term.without
            ]
    if not case.no_steps:
        declared += [f"after.{name}" for name in learnt]
    for name in declared:
        without = {other: tensor for other, tensor in theirs.items() if other != name}
        damaged = theirs | {name: theirs[name] * torch.nan}
        for lacking in (without, damaged) if name != "codes" else (without,):
            assert [
                row.deviation for row in oracle.compare(case, mine, lacking) if not row.holds
            ] == [float("inf")]


def test_what_is_not_compared_has_its_reason_in_the_table():
    for case in (case for case in oracle.CASES if case.no_steps):
        mine, _ = oracle.ours(case)
        row = oracle.compare(case, mine, as_returned(case, mine))[-1]
        assert (row.quantity, row.told, row.stated) == ("3 steps", "not compared", case.no_steps)
