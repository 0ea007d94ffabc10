"""The files of a model as transformers reads them: its network, its configuration and its
tokenizer.

Code that comes with a model is never run (`trust_remote_code` is never set) and weights are
safetensors only. A network has its head wherever transformers has a class of next-token models for
the type in config.json and the files hold every weight of it; a configuration need not name its
class. No weight is left out in silence: blocks beyond those that config.json asks for are refused,
and whatever else was not used is said in one line of the log.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from components.errors import ModelError
from components.model.hub import first_line

log = logging.getLogger(__name__)
ADAPTER = ("adapter_config.json", "adapter_model*", "adapters.safetensors")
"""Files of an adapter (LoRA and its kind): a change of the weights that is kept apart from them."""


def adapter(folder: Path) -> str | None:
    """The name of an adapter's file in that folder, where there is one."""
    return min((path.name for pattern in ADAPTER for path in folder.glob(pattern)), default=None)


def configuration(folder: Path) -> Any:
    """What config.json says.

    Raises:
        ModelError: no configuration that transformers knows.
    """
    from transformers import AutoConfig

    with quiet():
        try:
            config = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except (
            Exception
        ) as error:  # transformers raises many kinds here, and all mean the same to a user
            raise _unreadable(folder, error) from error
    if _read_as_encoder(config):
        # of its two stacks of blocks only the encoder's is loaded and counted
        config.num_decoder_layers, config.is_encoder_decoder = None, False
    return config


def _read_as_encoder(config: Any) -> bool:
    """Whether it is a T5 or its kin, of which the encoder is a model by itself, as sentence
    encoders use it."""
    from transformers import AutoModelForTextEncoding

    known = AutoModelForTextEncoding._model_mapping
    return hasattr(config, "num_decoder_layers") and type(config) in known


def sizes(config: Any) -> tuple[int, int, int, int | None]:
    """Number of blocks, width of the residual stream, number of token ids, and most positions where
    that is said.

    Raises:
        ModelError: the configuration does not describe a language model of blocks.
    """
    text = config.get_text_config(decoder=True)
    # BART and its kin count the blocks of their encoder as num_hidden_layers; of a decoder alone
    # those are not here
    layers = (
        getattr(text, name, None)
        for name in ("decoder_layers", "num_decoder_layers", "num_hidden_layers")
    )
    n_layers = next(filter(None, layers), None)
    d_model, vocab_size = getattr(text, "hidden_size", None), getattr(text, "vocab_size", None)
    if not (isinstance(n_layers, int) and isinstance(d_model, int) and isinstance(vocab_size, int)):
        raise ModelError(
            f"a {config.model_type} is not a language model of blocks: its configuration does not "
            "say num_hidden_layers, hidden_size and vocab_size; use a causal language model"
        )
    positions = getattr(text, "max_position_embeddings", None)
    # XLNet says -1
    n_positions = positions if isinstance(positions, int) and positions > 0 else None
    return n_layers, d_model, vocab_size, n_positions


def end_tokens(ids: int | Sequence[int] | None) -> frozenset[int]:
    """Token ids that end a text, as configurations tell them: one, several or none."""
    return frozenset([] if ids is None else [ids] if isinstance(ids, int) else ids)


def end_tokens_beside(folder: Path) -> list[int]:
    """Token ids that generation_config.json alone names as ends of a text, in order."""
    described = {}
    for name in ("config.json", "generation_config.json"):
        with contextlib.suppress(OSError, ValueError):
            described[name] = json.loads((folder / name).read_text(encoding="utf-8"))
    known = described.get("config.json", {})
    texts = (known, *(part for part in known.values() if isinstance(part, dict)))
    ends = frozenset(token for text in texts for token in end_tokens(text.get("eos_token_id")))
    return sorted(
        end_tokens(described.get("generation_config.json", {}).get("eos_token_id")) - ends
    )


def network(folder: Path, dtype: torch.dtype) -> Any:
    """The network in that type of numbers, on the CPU.

    Raises:
        ModelError: files that transformers cannot read, weights that are missing, or blocks that
            config.json leaves out.
    """
    import transformers

    config = configuration(folder)
    lacking: list[str] | None = None
    kinds: tuple[Any, ...] = (
        transformers.AutoModelForCausalLM,
        transformers.AutoModelForImageTextToText,
        transformers.AutoModelForMultimodalLM,
        transformers.AutoModel,
    )
    for kind in (transformers.AutoModelForTextEncoding,) if _read_as_encoder(config) else kinds:
        known = getattr(kind, "_model_mapping", None)  # AutoModel takes every configuration
        if known is not None and kind is not transformers.AutoModel and type(config) not in known:
            continue
        with quiet():
            try:
                network, info = kind.from_pretrained(  # type: ignore[misc]  (with its loading report, a pair)
                    folder,
                    config=config,
                    dtype=dtype,
                    local_files_only=True,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
            except Exception as error:  # as above
                raise _unreadable(folder, error) from error
        missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
        if not missing:
            if info["missing_keys"]:
                network.pooler = (
                    None  # it sums a text up from its tokens, and files without it are whole for us
                )
            _tell_of_unused(folder, network, info["unexpected_keys"])
            return network
        lacking = lacking or missing
    assert lacking
    raise ModelError(
        f"{folder} lacks {len(lacking)} weights that its config.json asks for "
        f"({', '.join(lacking[:3])} ...); use the files of one and the same model"
    )


def sequence_classifier(folder: Path) -> Any:
    """A network that gives a text one number for each of its labels, in float32, on the CPU.

    Raises:
        ModelError: files that transformers cannot read, or without the weights of a classifier.
    """
    import transformers

    with quiet():
        try:
            network, info = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except Exception as error:  # as above
            raise _unreadable(folder, error) from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{folder} is no sequence classifier: it lacks {len(missing)} weights of one "
            f"({', '.join(missing[:3])}); name a model that was trained to classify"
        )
    return network


def tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder; None where there is none.

    Raises:
        ModelError: files that transformers cannot read.
    """
    from transformers import AutoTokenizer

    if not any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")
    ):
        return None
    with quiet():
        try:
            return AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # as above
            raise ModelError(
                f"the tokenizer in {folder} could not be loaded: {first_line(error)}; wanted the "
                "tokenizer.json that transformers saves (code that comes with a model is never "
                "run)"
            ) from error


def new_llama(**shape: Any) -> Any:
    """A Llama with random weights of that configuration."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**shape))


def new_tokenizer(tokenizer: Any, **settings: Any) -> Any:
    """A tokenizer of the `tokenizers` library as transformers saves and uses it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Transformers without progress bars and advice, while inside."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _tell_of_unused(folder: Path, network: Any, unused: Collection[str]) -> None:
    """Refuses files that hold more blocks than the network has; says in the log what else was not
    used."""
    sizes = {
        path: len(module)
        for path, module in network.named_modules()
        if isinstance(module, nn.ModuleList)
    }
    if beyond := sorted(name for name in unused if _is_beyond(name, sizes)):
        raise ModelError(
            f"{folder}: {len(beyond)} weights of its files have no place in the model that its "
            f"config.json describes ({', '.join(beyond[:3])} ...), which asks for fewer layers "
            "than there are; use the config.json that came with these weights"
        )
    if unused:
        listed = f"{', '.join(sorted(unused)[:3])}{' ...' if len(unused) > 3 else ''}"
        log.warning(
            "%s: %d weights of its files are not used by %s: %s",
            folder,
            len(unused),
            type(network).__name__,
            listed,
        )


def _is_beyond(name: str, sizes: Mapping[str, int]) -> bool:
    """Whether a weight belongs to a member that a list of the network does not have."""
    for number in re.finditer(r"(?<=\.)\d+(?=\.)", name):
        listed = name[: number.start() - 1]  # may lack the body's name ("h" for "transformer.h")
        n_members = [size for path, size in sizes.items() if f".{path}".endswith(f".{listed}")]
        if n_members and int(number[0]) >= max(n_members):
            return True
    return False


def _unreadable(folder: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{folder} could not be loaded as a language model: {first_line(error)}; wanted "
        "config.json of a type that transformers knows and model.safetensors (code that comes "
        "with a model is never run)"
    )
