"""The encoder's product in blocks, and in bfloat16."""

from __future__ import annotations

import threading

import pytest
import torch

from components.dictionary.kernels import product


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*size, generator=generator) for size in ((101, 16), (48, 16), (48,))]


@pytest.mark.parametrize("intel", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_blocks_together_are_the_product(case, threads, dtype, intel, monkeypatch):
    monkeypatch.setattr(product, "_intel", lambda: intel)
    monkeypatch.setattr(product, "ENTRIES_AT_ONCE", 48 * 20)
    monkeypatch.setattr(product, "FEWEST_ROWS", 1)
    x, W_enc, b_enc = (tensor.to(dtype) for tensor in case)
    found = product.by_rows(x, W_enc, b_enc, torch.clone)
    assert max(map(len, found)) * threads <= 20
    torch.testing.assert_close(torch.cat(found), torch.addmm(b_enc, x, W_enc.T))


def test_the_same_threads_give_the_same_bits(case, threads):
    once, again = (torch.cat(product.by_rows(*case, torch.clone)) for _ in range(2))
    assert torch.equal(once, again)


def test_each_core_gets_a_block_and_works_alone(case, threads):
    def use(pre):
        return len(pre), torch.get_num_threads()

    rows, inside = zip(*product.by_rows(*case, use), strict=True)
    assert sum(rows) == 101 and max(rows) - min(rows) <= threads and len(rows) == threads
    assert set(inside) == {1}
    assert torch.get_num_threads() == threads
    theirs = []
    one = threading.Thread(target=lambda: theirs.append(torch.get_num_threads()))
    one.start()
    one.join()
    assert theirs == [threads]


def test_no_gradient_and_no_error_is_lost(case, threads):
    x, W_enc, b_enc = case
    W_enc.requires_grad_()
    assert not any(pre.requires_grad for pre in product.by_rows(x, W_enc, b_enc, torch.clone))

    def fails(pre):
        raise ArithmeticError("no choice")

    with pytest.raises(ArithmeticError, match="no choice"):
        product.by_rows(x, W_enc, b_enc, fails)
    assert len(product.by_rows(x[:0], W_enc, b_enc, torch.clone)[0]) == 0


@pytest.mark.parametrize(
    ("n", "d_sae", "threads", "rows"),
    [(4096, 16384, 2, 1024), (4096, 24576, 2, 512), (10, 64, 4, 3)],
)
def test_blocks_are_equal_and_fit(n, d_sae, threads, rows):
    assert product.block(n, d_sae, threads) == rows
    assert product.block(n, 1 << 20, threads) <= product.FEWEST_ROWS


def test_bfloat16_rounds_the_factors_and_sums_in_float32(case, threads):
    x, W_enc, b_enc = case
    wanted = torch.addmm(b_enc.double(), x.bfloat16().double(), W_enc.bfloat16().double().T).float()
    with product.in_precision("bfloat16"):
        found = torch.cat(product.by_rows(x, W_enc, b_enc, torch.clone))
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(product.affine(x, W_enc, b_enc), wanted)
        with product.in_precision("float32"):
            torch.testing.assert_close(
                product.affine(x, W_enc, b_enc), torch.addmm(b_enc, x, W_enc.T)
            )
    exact = torch.cat(product.by_rows(x, W_enc, b_enc, torch.clone))
    torch.testing.assert_close(exact, torch.addmm(b_enc, x, W_enc.T))
    assert (exact - wanted).abs().max() > 1e-3


def test_products_beside_each_other_have_threads_of_their_own_and_leave_no_limit(case):
    """Two at once, ending in turn: neither's library runs wide while the other multiplies, nor
    stays narrow after."""
    before = _threads_of_libraries()
    first_is_in, second_is_done, seen = threading.Event(), threading.Event(), {}

    def first(pre):
        seen.setdefault("first", set()).add(threading.get_ident())
        first_is_in.set()
        assert second_is_done.wait(20)
        seen["limit"] = _threads_of_libraries()

    def second(pre):
        seen.setdefault("second", set()).add(threading.get_ident())

    def run(use):
        torch.set_num_threads(2)
        product.by_rows(*case, use)

    one = threading.Thread(target=run, args=(first,))
    one.start()
    assert first_is_in.wait(20)
    two = threading.Thread(target=run, args=(second,))
    two.start()
    two.join()
    second_is_done.set()
    one.join()
    assert set(seen["limit"]) == {1}
    assert len(seen["first"]) == 2 and seen["second"] and not seen["first"] & seen["second"]
    assert _threads_of_libraries() == before


def _threads_of_libraries():
    return [library["num_threads"] for library in product._libraries().info()]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_gives_what_the_cpu_gives(case, precision):
    with product.in_precision(precision):
        here, there = (
            product.affine(*case),
            product.affine(*(tensor.cuda() for tensor in case)).cpu(),
        )
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)


def test_what_was_multiplied_in_inference_mode_is_multiplied_outside_of_it_too() -> None:
    x, W_enc, b_enc = torch.randn(9, 5), torch.randn(70, 5), torch.randn(70)
    product._scratch.__dict__.clear()
    with torch.inference_mode():
        inside = product.by_rows(x, W_enc, b_enc, torch.clone)
    outside = product.by_rows(x, W_enc, b_enc, torch.clone)
    assert all(torch.equal(one, other) for one, other in zip(inside, outside, strict=True))
