"""Files of another project -> a dictionary, and back, each with a numeric check at its end.

`bring` reads a file into a `Dictionary`, `export` writes one, the activation scale folded in: with
scale s a dictionary computes z' = f((s x - b_dec) W_enc + b_enc) and gives z = z' / s; every f here
is positively homogeneous once its thresholds are divided too, so dividing biases and thresholds by
s gives the same z from x itself. The check encodes and decodes the same activations in both
conventions, the peer's one from the file alone (`Format.as_peer`), in float64, so that what is
compared is the convention and not rounding.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor

from components.dictionary.contract import Dictionary, architectures
from components.dictionary.interchange.contract import Format, Weights, written
from components.errors import DictionaryError

TOLERANCE = 1e-5
"""Largest deviation of codes and of reconstructions, as a share of their norm."""
UNDECIDED = 200
"""One row in so many may differ: where two pre-activations tie in the last digit, folding decides
which is taken."""
IN_UNITS = ("b_enc", "b_dec", "b_gate", "b_mag", "threshold")
"""Parameters in the units of what is encoded, which the activation scale divides."""


def bring(
    format_: Format, folder: Path, x: Float[Tensor, "token d_in"], hook_point: str = ""
) -> Dictionary:
    """The dictionary in a folder of another project's files.

    Args:
        format_: the layout.
        folder: where they lie.
        x: activations for the check, of the place the dictionary belongs to.
        hook_point: what that place is called; empty takes the file's word.

    Raises:
        DictionaryError: files that cannot be read, another width than x has, or a dictionary that
            does not compute here what the file computes there.
    """
    weights = format_.read(folder)
    hook_point = hook_point or weights.hook_point
    if not hook_point:
        raise DictionaryError(
            f"{folder} does not say at which hook point its dictionary reads; give it, for "
            "example resid_post.8"
        )
    if x.shape[1] != weights.d_in:
        raise DictionaryError(
            f"the dictionary in {folder} has d_in {weights.d_in}, got activations of width "
            f"{x.shape[1]} at {hook_point}; use the model it was made "
            f"for{f' ({weights.model})' if weights.model else ''}, or name another hook point"
        )
    dictionary = built(weights, hook_point, folder)
    check(
        format_,
        dictionary,
        folder,
        x,
        f"the import of {dictionary.name} ({format_.peer}, {folder})",
    )
    return dictionary


def export(
    format_: Format,
    dictionary: Dictionary,
    folder: Path,
    x: Float[Tensor, "token d_in"],
    model: str = "",
) -> None:
    """Writes a dictionary as another project's own loader reads it.

    Args:
        format_: the layout.
        dictionary: what to write.
        folder: where to, a new or an empty one; it stays as it was where the check fails.
        x: activations for the check.
        model: the model they come from, for the metadata.

    Raises:
        DictionaryError: an architecture that is not written, a folder that is not empty, or files
            that do not compute the same.
    """
    if not format_.exports:
        raise DictionaryError(
            f"the format {format_.kind} is read, not written; written are: {', '.join(written())}"
        )
    if dictionary.kind not in format_.exports:
        raise DictionaryError(
            f"{dictionary.kind!r} is not written as files of {format_.peer}; written are: "
            f"{', '.join(format_.exports)}"
        )
    if len(dictionary.widths) > 1:
        raise DictionaryError(
            f"dictionary {dictionary.name} reads {', '.join(dictionary.reads)} and reconstructs "
            f"{', '.join(dictionary.reconstructs)}; only autoencoders of one hook point are "
            "exported"
        )
    if folder.is_file():
        raise DictionaryError(f"{folder} is a file; give a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise DictionaryError(
            f"{folder} is not empty; give a new folder, so that nothing of another dictionary "
            "stays beside"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent
    ) as beside:
        partial = Path(beside)
        format_.write(dataclasses.replace(plain(dictionary), model=model), partial)
        check(
            format_,
            dictionary,
            partial,
            x,
            f"the export of {dictionary.name} ({format_.peer}, {folder})",
        )
        folder.mkdir(exist_ok=True)
        for path in partial.iterdir():
            path.rename(folder / path.name)


def plain(dictionary: Dictionary) -> Weights:
    """A dictionary of ours in plain terms: the scale folded into biases and thresholds, in float32.

    Raises:
        DictionaryError: a batch_topk or matryoshka dictionary that was never trained and has no
            threshold.
    """
    state = {
        name: tensor.detach().double().cpu() for name, tensor in dictionary.state_dict().items()
    }
    if dictionary.kind in ("batch_topk", "matryoshka") and not state["threshold"] > 0:
        raise DictionaryError(
            f"dictionary {dictionary.name} has no threshold yet ({state['threshold'].item():g}): "
            "outside training it would encode nothing as it was trained to; train it first"
        )
    scaled = {
        name: tensor / dictionary.scale if name in IN_UNITS else tensor
        for name, tensor in state.items()
    }
    options = {
        name: value for name, value in dictionary.options if name in ("k", "prefixes", "weights")
    }
    tensors = {name: tensor.float().contiguous() for name, tensor in scaled.items()}
    return Weights(dictionary.kind, tensors, options, hook_point=dictionary.hook_point)


def built(weights: Weights, hook_point: str, folder: Path) -> Dictionary:
    """A dictionary of ours with these weights, its scale 1; `folder` is where they were read, for
    the error.

    Raises:
        DictionaryError: options that no such dictionary can have, as a k above the number of
            latents.
    """
    architecture = architectures[weights.architecture]
    try:
        options = architecture.config(d_sae=weights.d_sae, **weights.options)  # type: ignore[call-arg]
    except ValidationError as error:
        came = ", ".join(f"{name} = {value}" for name, value in weights.options.items())
        faults = [" ".join((*map(str, fault["loc"]), fault["msg"])) for fault in error.errors()]
        raise DictionaryError(
            f"{folder} holds no {weights.architecture} dictionary of {weights.d_sae} latents that "
            f"can be: it has {came}; {'; '.join(faults)}; the files are damaged or not of one "
            "dictionary"
        ) from error
    dictionary = architecture(options, (hook_point,), (hook_point,), {hook_point: weights.d_in})
    tensors = {name: tensor.float() for name, tensor in weights.tensors.items()}
    for name in ("b_enc", "b_gate", "b_mag"):
        if name in tensors:
            tensors[name] = weights.centred_bias(name).float()
    dictionary.load_state_dict(tensors)
    return dictionary


def check(format_: Format, dictionary: Dictionary, folder: Path, x: Tensor, what: str) -> None:
    """Encodes and decodes x in both conventions; `what` is done, for the error.

    Raises:
        DictionaryError: they differ by more than `TOLERANCE` of their norm.
    """
    x = x.double().cpu()
    exact = copy.deepcopy(dictionary).cpu().double()
    codes = exact.encode(x)
    ours = codes.dense().double(), exact.decode(codes).double()
    theirs = format_.as_peer(folder, x)
    for name, mine, peer in zip(("codes", "reconstructions"), ours, theirs, strict=True):
        difference = deviation(mine, peer.double())
        if not difference <= TOLERANCE:
            raise DictionaryError(
                f"{what} does not compute the same: {name} differ by {difference:.2g} of their "
                f"norm, at most {TOLERANCE:g} was wanted; do not use it"
            )


def deviation(ours: Float[Tensor, "token _"], theirs: Float[Tensor, "token _"]) -> float:
    """Norm of the difference over the norm, all rows together but the worst one in `UNDECIDED`; inf
    for another shape."""
    if ours.shape != theirs.shape:
        return float("inf")
    errors = (ours - theirs).square().sum(1)
    counted = (
        errors.sort().values[: len(errors) - len(errors) // UNDECIDED]
        if errors.isfinite().all()
        else errors
    )
    return (
        (counted.sum() / ours.square().sum().clamp_min(torch.finfo(ours.dtype).tiny)).sqrt().item()
    )
