"""The encoder's product: in which precision, and on the CPU in blocks, a core for each.

On the CPU a core multiplies a block of rows by the whole encoder and hands the pre-activations,
still in its cache, to whoever picks latents from them; no core waits for another before the last
block. The product itself is the quicker of two, with one thread for each core: torch's (MKL) on
Intel's processors, where numpy's (OpenBLAS) took a sixth more time (measured on one with AVX-512),
and numpy's on all others, where it took a tenth less (measured on AMD's with AVX-512). Blocks, and
so bits, depend on the number of threads and on the processor's maker alone.

In bfloat16 the factors are rounded and their products summed in float32. A GPU multiplies bfloat16
several times faster; a CPU that has no such units multiplies the rounded factors in float32, to the
same result and no faster.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from threadpoolctl import ThreadpoolController
from torch import Tensor

ENTRIES_AT_ONCE = 1 << 25
"""Pre-activations held at a time by all cores together, 128 MiB in float32: fewer rows cost the
product."""
FEWEST_ROWS = 256
"""Rows of a block of a dictionary however wide: with fewer, reading the encoder again costs more
than multiplying."""
Precision = Literal["float32", "bfloat16"]
Found = TypeVar("Found")
_scratch = threading.local()
_chosen = threading.local()


@contextlib.contextmanager
def in_precision(precision: Precision) -> Iterator[None]:
    """The precision of the encoder's products that this thread makes inside."""
    before = _rounds()
    _chosen.rounds = precision == "bfloat16"
    try:
        yield
    finally:
        _chosen.rounds = before


def affine(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
) -> Float[Tensor, "token d_sae"]:
    """x @ W_enc.T + b_enc, in the precision that is in force; no gradient."""
    with torch.no_grad():
        if _rounds() and x.is_cuda and x.dtype == torch.float32:
            return torch.mm(x.bfloat16(), W_enc.bfloat16().T, out_dtype=torch.float32).add_(b_enc)
        x, W_enc = _rounded(x, W_enc)
        return torch.addmm(b_enc, x, W_enc.T)


def _rounds() -> bool:
    return getattr(_chosen, "rounds", False)


def _rounded(*factors: Tensor) -> tuple[Tensor, ...]:
    return tuple(factor.bfloat16().to(factor.dtype) for factor in factors) if _rounds() else factors


def by_rows(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    use: Callable[[Tensor], Found],
) -> list[Found]:
    """`use` of the pre-activations x @ W_enc.T + b_enc of each block of rows, in order; no
    gradient.

    `use` runs on several threads at once, and its argument is overwritten after it.
    """
    threads = torch.get_num_threads()
    x, W_enc = _rounded(x, W_enc)
    blocks = x.split(block(len(x), len(W_enc), threads))

    def one(rows: Tensor) -> Found:
        with torch.no_grad():
            return use(_product(rows, W_enc, b_enc))

    with torch.no_grad(), _one_thread_each:
        if threads == 1 or len(blocks) == 1:
            return [one(rows) for rows in blocks]
        return list(_cores(threads).map(one, blocks))


def block(n: int, d_sae: int, threads: int) -> int:
    """Rows of each block: as many for each thread, and no more than are held at once."""
    most = max(FEWEST_ROWS, ENTRIES_AT_ONCE // (d_sae * threads))
    rounds = -(-n // (most * threads))
    return max(1, -(-n // (max(1, rounds) * threads)))


def _product(rows: Tensor, W_enc: Tensor, b_enc: Tensor) -> Tensor:
    shape = len(rows), len(W_enc)
    held = getattr(_scratch, "pre", None)
    if held is None or held.dtype != rows.dtype or held.numel() < shape[0] * shape[1]:
        with torch.inference_mode(False):  # or it could not be written to outside that mode again
            held = _scratch.pre = rows.new_empty(shape[0] * shape[1])
    pre = held[: shape[0] * shape[1]].view(shape)
    # numpy has no bfloat16, and a slow float16
    if _intel() or rows.dtype not in (torch.float32, torch.float64):
        return torch.addmm(b_enc, rows, W_enc.T, out=pre)
    with np.errstate(all="ignore"):  # what is not finite is for the caller to see, as with torch
        np.matmul(rows.detach().numpy(), W_enc.detach().numpy().T, out=pre.numpy())
    return pre.add_(b_enc)


@functools.cache
def _intel() -> bool:
    cpu_info = Path("/proc/cpuinfo")
    return (
        torch.backends.mkl.is_available()
        and cpu_info.exists()
        and "GenuineIntel" in cpu_info.read_text(encoding="utf-8")
    )


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


class _OneThreadEach:
    """numpy's library multiplies on the thread that calls it. Its limit is the process's, so the
    last one out lifts it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limit = contextlib.ExitStack()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._limit.enter_context(_libraries().limit(limits=1))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._limit.close()


_one_thread_each = _OneThreadEach()


def _alone() -> None:
    # a thread takes the process's number when it is first asked, and would forget its own
    torch.get_num_threads()
    torch.set_num_threads(1)


_starting = threading.Lock()


def _cores(threads: int) -> ThreadPoolExecutor:
    """As many threads, each of which works alone: torch's own operators on one of them start no
    more.

    They are the calling thread's own (two that train beside each other do not wait for one another)
    and end with it.
    """
    pools: dict[int, ThreadPoolExecutor] = _scratch.__dict__.setdefault("pools", {})
    if threads not in pools:
        with _starting:
            pool = ThreadPoolExecutor(threads, "encoder-product", initializer=_alone)
            started = threading.Barrier(threads)
            list(pool.map(lambda _: started.wait(), range(threads)))
            # threads to come take the number that was set last, by whichever thread
            torch.set_num_threads(threads)
            pools[threads] = pool
    return pools[threads]
