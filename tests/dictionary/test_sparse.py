"""The sparse kernels equal dense products, and their hand-written gradients equal autograd through
dense ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.dictionary.kernels import product
from components.dictionary.kernels.dense import centred_linear
from components.dictionary.kernels.rows import norm, normalise_, project_
from components.dictionary.kernels.sparse import (
    Pattern,
    choose,
    decode,
    decode_codes,
    preactivations,
    select,
)
from components.store.shards import Codes


def drawn(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spread(values, indices, d_sae):
    """The dense matrix of a pattern; a latent that stands twice in a row counts twice."""
    dense = values.new_zeros(len(values), d_sae)
    return dense.scatter_add(1, indices, values)


shapes = st.tuples(
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 7),
    st.integers(1, 5),
    st.integers(0, 2**20),
)


@given(shapes)
@settings(max_examples=40, deadline=None)
def test_the_three_products_equal_dense_ones_with_repeated_latents(shape):
    n, k, more, d, seed = shape
    d_sae = k + more
    indices = torch.randint(0, d_sae, (n, k), generator=torch.Generator().manual_seed(seed))
    values, table, tokens = drawn(seed, n, k), drawn(seed + 1, d_sae, d), drawn(seed + 2, n, d)
    pattern = Pattern(indices, d_sae)
    dense = spread(values, indices, d_sae)
    torch.testing.assert_close(pattern.to_tokens(values, table), dense @ table)
    torch.testing.assert_close(pattern.to_latents(values, tokens), dense.T @ tokens)
    torch.testing.assert_close(
        pattern.between(tokens, table), (tokens @ table.T).gather(1, indices)
    )


@pytest.mark.parametrize("d_sae", [65_535, 65_536, 70_000])
def test_latents_beyond_sixteen_bits_are_not_taken_for_others(d_sae):
    indices = torch.tensor([[0, d_sae - 1], [d_sae - 1, 5], [0, 70]])
    values, tokens = drawn(0, 3, 2), drawn(1, 3, 4)
    to_latents = Pattern(indices, d_sae).to_latents(values, tokens)
    expected = torch.zeros(d_sae, 4, dtype=tokens.dtype)
    expected.index_put_((indices,), values[..., None] * tokens[:, None], accumulate=True)
    torch.testing.assert_close(to_latents, expected)


@pytest.fixture
def case():
    n, d_sae, d = 6, 9, 4
    names = {
        "x": (n, d),
        "W_enc": (d_sae, d),
        "b_enc": (d_sae,),
        "W_dec": (d_sae, d),
        "b_dec": (d,),
    }
    return {name: drawn(seed, *shape) for seed, (name, shape) in enumerate(names.items())}


def reconstruct(x, W_enc, b_enc, W_dec, b_dec, k=3):
    """The step of a TopK dictionary by the sparse kernels."""
    centred, pre = preactivations(x, W_enc, b_enc, b_dec)
    pattern = Pattern(pre.topk(k).indices, len(W_enc))
    z = select(centred, pre, pattern, W_enc, b_enc, b_dec).relu()
    return decode(z, pattern, W_dec) + b_dec


def reconstruct_densely(x, W_enc, b_enc, W_dec, b_dec, k=3):
    pre = (x - b_dec) @ W_enc.T + b_enc
    kept = torch.zeros_like(pre).scatter(1, pre.topk(k).indices, 1.0)
    return (pre * kept).relu() @ W_dec + b_dec


def test_gradients_of_the_sparse_step_pass_gradcheck(case):
    x = case.pop("x")
    parameters = [tensor.requires_grad_() for tensor in case.values()]
    assert torch.autograd.gradcheck(lambda *given: reconstruct(x, *given), parameters)


def test_values_and_gradients_equal_dense_autograd(case):
    x = case.pop("x")
    found, wanted = ([t.clone().requires_grad_() for t in case.values()] for _ in range(2))
    ours, dense = reconstruct(x, *found), reconstruct_densely(x, *wanted)
    torch.testing.assert_close(ours, dense)
    weights = drawn(99, *ours.shape)
    (ours * weights).sum().backward()
    (dense * weights).sum().backward()
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_a_frozen_decoder_costs_and_receives_no_gradient(case):
    indices = torch.tensor([[0, 2]] * 6)
    values = drawn(5, 6, 2).requires_grad_()
    decode(values, Pattern(indices, 9), case["W_dec"]).sum().backward()
    torch.testing.assert_close(values.grad, case["W_dec"].sum(1)[indices])
    assert case["W_dec"].grad is None


def test_the_dense_encoder_passes_gradcheck_and_equals_the_plain_expression(case):
    x, W_enc, b_enc, b_dec = case["x"], case["W_enc"], case["b_enc"], case["b_dec"]
    torch.testing.assert_close(
        centred_linear(x, W_enc, b_enc, b_dec), (x - b_dec) @ W_enc.T + b_enc
    )
    parameters = [tensor.requires_grad_() for tensor in (W_enc, b_enc, b_dec)]
    assert torch.autograd.gradcheck(lambda *given: centred_linear(x, *given), parameters)


def test_codes_of_any_length_decode_as_the_dense_matrix_and_empty_rows_give_zero():
    dense = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, -1.0, 3.0]])
    W_dec = drawn(0, 3, 5).float()
    torch.testing.assert_close(decode_codes(Codes.from_dense(dense), W_dec), dense @ W_dec)
    assert decode_codes(Codes.from_dense(dense[1:2]), W_dec).tolist() == [[0.0] * 5]
    assert decode_codes(Codes.from_dense(dense[:0]), W_dec).shape == (0, 5)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_the_three_products_equal_dense_ones_for_tokens_of_any_number_of_latents(lengths, seed):
    n, d_sae, d = len(lengths), 5, 3
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    indices = torch.randint(
        0, d_sae, (sum(lengths),), generator=torch.Generator().manual_seed(seed)
    )
    pattern = Pattern(indices, d_sae, offsets)
    values, table, tokens = (
        drawn(seed, len(indices)),
        drawn(seed + 1, d_sae, d),
        drawn(seed + 2, n, d),
    )
    of = torch.arange(n).repeat_interleave(torch.tensor(lengths))
    dense = torch.zeros(n, d_sae, dtype=torch.float64).index_put(
        (of, indices), values, accumulate=True
    )
    torch.testing.assert_close(pattern.to_tokens(values, table), dense @ table)
    torch.testing.assert_close(pattern.to_latents(values, tokens), dense.T @ tokens)
    torch.testing.assert_close(pattern.between(tokens, table), (tokens @ table.T)[of, indices])


def test_gradients_of_a_step_over_rows_of_any_length_pass_gradcheck(case):
    x = case.pop("x")
    pattern = Pattern(torch.tensor([0, 3, 8, 3, 1, 2, 5]), 9, torch.tensor([0, 3, 3, 4, 4, 6, 7]))

    def step(W_enc, b_enc, W_dec, b_dec):
        centred, pre = preactivations(x, W_enc, b_enc, b_dec)
        return decode(select(centred, pre, pattern, W_enc, b_enc, b_dec), pattern, W_dec) + b_dec

    assert torch.autograd.gradcheck(step, [tensor.requires_grad_() for tensor in case.values()])


@pytest.mark.parametrize("at_once", [1, 18, 1000])
def test_choosing_some_tokens_at_a_time_is_choosing_all_at_once(case, at_once, monkeypatch):
    monkeypatch.setattr(product, "ENTRIES_AT_ONCE", at_once)
    monkeypatch.setattr(product, "FEWEST_ROWS", 1)
    encoder = (case["W_enc"], case["b_enc"], case["b_dec"])
    centred, indices, values = choose(case["x"], *encoder, lambda pre: pre.topk(3).indices)
    wanted, pre = preactivations(case["x"], *encoder)
    torch.testing.assert_close((centred, values, indices), (wanted, *pre.topk(3)))


def test_row_passes_equal_the_plain_expressions():
    directions, gradient = drawn(0, 700, 512), drawn(1, 700, 512)  # more than one block
    normalise_(directions)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(700, dtype=torch.float64))
    wanted = gradient - directions * (gradient * directions).sum(1, keepdim=True)
    project_(gradient, directions)
    torch.testing.assert_close(gradient, wanted)
    torch.testing.assert_close(norm([gradient, directions]), (gradient.square().sum() + 700).sqrt())


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"
)
def test_the_step_on_cuda_equals_the_cpu(case):
    moved = {name: tensor.float().cuda() for name, tensor in case.items()}
    on_cpu = reconstruct(**{name: tensor.float() for name, tensor in case.items()})
    torch.testing.assert_close(reconstruct(**moved).cpu(), on_cpu, atol=1e-5, rtol=1e-5)
