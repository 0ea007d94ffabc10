"""A tiny random model of every causal family that the installed transformers can make small.

`FAMILIES` lists them; `LEFT_OUT` lists the rest with the reason. A configuration is asked for small
numbers under each of the names that configurations use, and only the names that it knows are given
to it.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from components.model.encoder_model import model_of
from components.model.language_model import LanguageModel

VOCABULARY = 64
_WIDTH, _HIDDEN, _BLOCKS, _HEADS, _POSITIONS = 16, 40, 2, 4, 64
_SIZES: tuple[tuple[int, str], ...] = (
    (_WIDTH, "hidden_size n_embd d_model emb_dim embedding_size attention_hidden_size input_embedding_size"),
    (_HIDDEN, "intermediate_size n_inner d_inner dim_ff dff ffn_dim encoder_ffn_dim decoder_ffn_dim intermediate_size_mlp"),
    (_BLOCKS, "num_hidden_layers n_layer n_layers num_layers num_encoder_layers num_decoder_layers "
    "encoder_layers decoder_layers num_dense_layers"),
    (_HEADS, "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads "
    "num_encoder_attention_heads num_decoder_attention_heads"),
    (_POSITIONS, "max_position_embeddings n_positions max_seq_len original_max_position_embeddings"),
    (VOCABULARY, "vocab_size"),
    (24, "moe_intermediate_size shared_expert_intermediate_size router_hidden_size"),
    (8, "kv_lora_rank q_lora_rank sliding_window attention_window window_size attention_chunk_size chunk_size "
    "hc_lowrank adapter_rank mamba_d_head indexer_head_dim index_head_dim"),
    (4, "head_dim attention_head_dim rotary_dim qk_rope_head_dim qk_nope_head_dim v_head_dim num_experts "
    "num_local_experts n_routed_experts moe_num_experts state_size time_step_rank mamba_d_state "
    "mamba_n_heads n_mamba_heads linear_key_head_dim linear_value_head_dim linear_num_value_heads "
    "index_topk indexer_budget "
    "linear_num_key_heads ssm_state_size mamba_num_heads mamba_head_dim"),
    (2, "num_key_value_heads num_experts_per_tok mamba_expand expand eos_token_id"),
    (1, "n_shared_experts n_group topk_group mamba_n_groups mamba_ngroups bos_token_id"),
    (0, "pad_token_id"),
)  # fmt: skip
_SMALL: dict[str, Any] = {name: size for size, names in _SIZES for name in names.split()}
_SMALL |= {"initializer_range": 0.25, "is_decoder": True}

_TEXT = {name: _SMALL[name] for name in (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings", "pad_token_id", "initializer_range", "num_local_experts", "intermediate_size_mlp",
)}  # fmt: skip
_VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
           "patch_size": 14, "head_dim": 8, "num_key_value_heads": 2, "position_embedding_size": 16}  # fmt: skip
_PER_LAYER = {
    "global_head_dim": 4,
    "vocab_size_per_layer_input": 64,
    "hidden_size_per_layer_input": 8,
}
_ROPE = {
    kind: {"rope_type": "default", "rope_theta": 10000.0}
    for kind in ("sliding_attention", "full_attention")
}
_LATENT_ATTENTION = (  # has a key and a value for every head
    "axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots3_note_text", "glm4_moe_lite", "glm_moe_dsa",
    "longcat_flash", "minicpm3", "youtu",
)  # fmt: skip
_SCALED = (
    "granite",
    "granite_swa",
    "granitemoe",
    "granitemoe_swa",
    "granitemoehybrid",
    "granitemoeshared",
)
_OWN: dict[str, dict[str, Any]] = {
    **{family: {"num_key_value_heads": _HEADS} for family in _LATENT_ATTENTION},
    **{family: {"residual_multiplier": 0.22} for family in _SCALED},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": _ROPE,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 40, "moe_top_k": 2},
    },
    "deepseek_v4": {"head_dim": 64},
    "falcon_h1": {"mamba_d_ssm": 32},
    "gemma3": {"text_config": _TEXT, "vision_config": _VISION, "mm_tokens_per_image": 4},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": 64,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "layer_types": ["sliding_attention", "full_attention"],
        "activation_sparsity_pattern": [0.5, 0.0],
        "rope_parameters": _ROPE,
    },
    "gemma4": {"text_config": _TEXT | _PER_LAYER, "vision_config": _VISION, "audio_config": None},
    "gemma4_text": _PER_LAYER,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "llama4": {"text_config": _TEXT, "vision_config": _VISION},
    "kimi_linear": {"linear_head_dim": 4, "linear_num_heads": 4, "num_key_value_heads": _HEADS},
    "mamba2": {"head_dim": 8, "n_groups": 1},
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention", "moe"],
        "n_groups": 1,
        "moe_shared_expert_intermediate_size": 24,
    },
    "qwen4_exp_text": {"indexer_n_heads": None, "indexer_head_dim": None, "indexer_budget": None},
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "local"],
        "attention_head_size": 4,
        "feed_forward_size": 40,
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
    },
    "roc_bert": {
        "pronunciation_embed_dim": 8,
        "shape_embed_dim": 8,
        "pronunciation_vocab_size": 64,
        "shape_vocab_size": 64,
    },
    "xlm": {"causal": True, "n_langs": 1},
    "xmod": {"default_language": "en_XX", "languages": ("en_XX",)},
    "zamba": {
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "hybrid", "hybrid"],
        "attention_hidden_size": 32,
        "attention_head_dim": 8,
    },
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}
LEFT_OUT = {
    "blt": "several models in one, over bytes; its parts have no small form",
    "dots3_note": "its text part is dots3_note_text",
    "emu3": "its text part is a Llama; the image codes have no small form",
    "fuyu": "its text part is persimmon",
    "gemma3n": "its text part is gemma3n_text; the rest needs a package that is not installed",
    "gemma4_assistant": "drafts for another model and needs that model's cache",
    "gemma4_unified": "its text part is gemma4_unified_text",
    "gemma4_unified_assistant": "drafts for another model and needs that model's cache",
    "git": "describes images; its text part is a BERT that looks ahead within the image",
    "got_ocr2": "its text part is qwen2",
    "mllama": "half of its blocks need an image",
    "moss_transcribe_diarize": "its text part is qwen3",
    "musicgen": "continues sound codes, which come in four rows at once",
    "musicgen_melody": "continues sound codes, which come in four rows at once",
    "phi4_multimodal": "its text part is phi3",
    "qwen3_5": "its text part is qwen3_5_text",
    "qwen3_5_moe": "its text part is qwen3_5_moe_text",
    "qwen4_exp": "its text part is qwen4_exp_text",
}
FAMILIES = tuple(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in LEFT_OUT)


def network(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random transformers model of that family: 2 blocks of width 16, 64 token ids, in evaluation
    mode.

    Its weights are large enough that blocks, positions and tokens all matter; norms and biases are
    not 1 and 0.
    """
    config = transformers.CONFIG_MAPPING[family](
        **(_small(family) | _OWN.get(family, {}) | changes)
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = transformers.AutoModelForCausalLM.from_config(config)
        for name, parameter in made.named_parameters():
            if "norm" in name or "ln_" in name or name.endswith("bias"):
                torch.nn.init.normal_(parameter, 0.0 if name.endswith("bias") else 1.0, 0.2)
    return made.eval()


def encoder(family: str, seed: int = 0, **changes: Any) -> Any:
    """The same of a family whose attention looks both ways, without a head; of a T5 its encoder."""
    kind = transformers.CONFIG_MAPPING[family]
    config = kind(**(_small(family) | _OWN.get(family, {}) | {"is_decoder": False} | changes))
    auto = (
        transformers.AutoModelForTextEncoding
        if config.is_encoder_decoder
        else transformers.AutoModel
    )
    config.is_encoder_decoder = False
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = auto.from_config(config)
    return made.eval()


def model(family: str, seed: int = 0, **changes: Any) -> LanguageModel:
    """The same as a language model of the product."""
    return model_of(network(family, seed, **changes))


@functools.cache
def _small(family: str) -> dict[str, Any]:
    kind = transformers.CONFIG_MAPPING[family]
    known = set(inspect.signature(kind).parameters) | set(kind.attribute_map)
    return {name: size for name, size in _SMALL.items() if name in known}
