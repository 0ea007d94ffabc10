"""The check around every function of `components/` in tests: it refuses what jaxtyping refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import beartype
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from components.concept.probe import Probe
from tests.checked import jaxtyped

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

strict = jaxtyped(typechecker=beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True)))
X = torch.zeros(3, 2)


@strict
def product(x: Float[Tensor, "row d"], y: Float[Tensor, "d e"]) -> Float[Tensor, "row e"]:
    return x @ y


@strict
def wrong_rows(x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
    product(X.T, X)  # its axes have names of their own
    return x[1:]


@strict
def named(*names: str, n: float = 1, unknown: Unknown = None) -> int:
    return n  # type: ignore[return-value]


@strict
def counted(n: int) -> Iterator[int]:
    yield from range(n)


@strict
@dataclasses.dataclass
class Pair:
    x: Float[Tensor, "row d"]
    y: Float[Tensor, " row"]

    @strict
    @property
    def sum(self) -> Float[Tensor, " row"]:
        return self.x.sum(1, keepdim=len(self.y) > 1)

    @classmethod
    @strict
    def of(cls, n: int) -> Pair:
        return cls(torch.zeros(n, 2), torch.zeros(n))


def test_what_fits_passes() -> None:
    assert product(X, X.T).shape == (3, 3)
    assert named("a", unknown=object()) == 1 and list(counted(2)) == [0, 1]
    assert Pair.of(1).sum.shape == (1,)


@pytest.mark.parametrize(
    "call",
    [
        lambda: product(X, X),  # d is 2 and 3
        lambda: product(X, [1.0]),
        lambda: product(X.long(), X.T),
        lambda: wrong_rows(X),  # row is 3 and 2
        lambda: named(1),
        lambda: named(n="1"),
        lambda: named(n=0.5),  # returned: no integer
        lambda: counted("2"),  # at the call, before the first is asked for
        lambda: Pair(X, torch.zeros(2)),
        lambda: Pair.of("2"),
        lambda: Pair.of(2).sum,
        lambda: Probe(X, torch.zeros(2)),  # of components/, decorated by the option
        lambda: Probe(X, torch.zeros(3)).scores(torch.zeros(4, 5, 6)),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(Exception, match=r"(?i)type-?check|violates type hint"):
        call()
