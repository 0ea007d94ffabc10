"""What a format of another project promises: reading and writing that project's files, and computing as it computes.

In between stands `Weights`: a dictionary in activation units, in the terms on which every project agrees.

    u = (x - b_dec) W_enc.T + b_enc    (without b_dec where the file does not centre: folded exactly on the way in)
    z = nonlinearity(u)                x^ = z W_dec + b_dec

`bring` reads a file into a `Dictionary`, `export` writes one, the activation scale folded in: with scale s a dictionary
computes z' = f((s x - b_dec) W_enc + b_enc) and gives z = z' / s; every f here is positively homogeneous once its
thresholds are divided too, so dividing biases and thresholds by s gives the same z from x itself. Both end with a numeric
check that encodes and decodes the same activations in both conventions, the peer's one from the file alone
(`Format.as_peer`), in float64, so that what is compared is the convention and not rounding. Pickles are never read.

A format is one file in `formats/`: a class marked with `@formats`.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.dictionary.contract import Dictionary, architectures
from components.errors import DictionaryError
from components.registry import Registry

TOLERANCE = 1e-5
"""Largest deviation of codes and of reconstructions, as a share of their norm."""
UNDECIDED = 200
"""One row in so many may differ: where two pre-activations tie in the last digit, folding decides which is taken."""
IN_UNITS = ("b_enc", "b_dec", "b_gate", "b_mag", "threshold")
"""Parameters in the units of what is encoded, which the activation scale divides."""
PICKLES = ("*.pt", "*.pth", "*.bin", "*.pkl", "*.ckpt")

formats: Registry[type[Format]] = Registry("format", "components.dictionary.interchange.formats")


@dataclasses.dataclass(frozen=True)
class Weights:
    """A dictionary in plain terms and activation units.

    Attributes:
        architecture: ours: relu, topk, gated, jumprelu, batch_topk, matryoshka.
        tensors: by our names: W_enc and W_dec [d_sae, d_in], b_dec [d_in], and what the architecture has besides.
        options: the architecture's options that the file tells (k, prefixes), by our names.
        centred: whether b_dec is subtracted from the input.
        hook_point: where it belongs, by our or TransformerLens's name; empty where the file does not say.
        model: the model it belongs to; empty where the file does not say.
    """

    architecture: str
    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    centred: bool = True
    hook_point: str = ""
    model: str = ""

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.tensors["W_enc"].shape[0]

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return self.tensors["W_enc"].shape[1]

    def uncentred_bias(self, name: str = "b_enc") -> Tensor:
        """The bias that gives the same pre-activations without subtracting b_dec from the input."""
        if not self.centred:
            return self.tensors[name]
        return (self.tensors[name].double() - self._shift()).to(self.tensors[name].dtype)

    def centred_bias(self, name: str = "b_enc") -> Tensor:
        """The bias that gives the same pre-activations when b_dec is subtracted from the input."""
        if self.centred:
            return self.tensors[name]
        return (self.tensors[name].double() + self._shift()).to(self.tensors[name].dtype)

    def _shift(self) -> Tensor:
        return self.tensors["W_enc"].double() @ self.tensors["b_dec"].double()


class Format(ABC):
    """One project's layout of files.

    Attributes:
        kind: name of the format, set by the registry.
        version: number beside the format's code.
        peer: what the project is called.
        exports: our architecture -> what the project calls it; empty for a format that is only read.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    peer: ClassVar[str]
    exports: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def files(self, folder: Path) -> Sequence[Path]:
        """The files that hold the dictionary.

        Raises:
            DictionaryError: they are not there, or are pickles.
        """

    @abstractmethod
    def read(self, folder: Path) -> Weights:
        """The dictionary in that folder.

        Raises:
            DictionaryError: files or tensors that are missing, misshapen or without a counterpart here.
        """

    @abstractmethod
    def as_peer(
        self, folder: Path, x: Float[Tensor, "token d_in"]
    ) -> tuple[Float[Tensor, "token d_sae"], Float[Tensor, "token d_in"]]:
        """Codes and reconstruction as the project computes them, from the file alone, in x's type."""

    def write(self, weights: Weights, folder: Path) -> None:
        """Writes the folder that the project's own loader reads."""
        raise DictionaryError(f"the format {self.kind} is read, not written; written are: {', '.join(written())}")


def written() -> list[str]:
    """The formats that can be exported to."""
    return [name for name, entry in formats.items() if entry.exports]


def bring(format_: Format, folder: Path, x: Float[Tensor, "token d_in"], hook_point: str = "") -> Dictionary:
    """The dictionary in a folder of another project's files.

    Args:
        format_: the layout.
        folder: where they lie.
        x: activations for the check, of the place the dictionary belongs to.
        hook_point: what that place is called; empty takes the file's word.

    Raises:
        DictionaryError: files that cannot be read, another width than x has, or a dictionary that does not compute here
            what the file computes there.
    """
    weights = format_.read(folder)
    hook_point = hook_point or weights.hook_point
    if not hook_point:
        raise DictionaryError(
            f"{folder} does not say at which hook point its dictionary reads; give it, for example resid_post.8"
        )
    if x.shape[1] != weights.d_in:
        raise DictionaryError(
            f"the dictionary in {folder} has d_in {weights.d_in}, got activations of width {x.shape[1]} at {hook_point}; "
            f"use the model it was made for{f' ({weights.model})' if weights.model else ''}, or name another hook point"
        )
    dictionary = built(weights, hook_point)
    check(format_, dictionary, folder, x, "import")
    return dictionary


def export(
    format_: Format, dictionary: Dictionary, folder: Path, x: Float[Tensor, "token d_in"], model: str = ""
) -> None:
    """Writes a dictionary as another project's own loader reads it.

    Args:
        format_: the layout.
        dictionary: what to write.
        folder: where to; made if need be.
        x: activations for the check.
        model: the model they come from, for the metadata.

    Raises:
        DictionaryError: an architecture without a counterpart, or files that do not compute the same.
    """
    if not format_.exports:
        raise DictionaryError(f"the format {format_.kind} is read, not written; written are: {', '.join(written())}")
    if dictionary.kind not in format_.exports:
        raise DictionaryError(
            f"{format_.peer} has no counterpart of {dictionary.kind!r}; it has one of: {', '.join(format_.exports)}"
        )
    if len(dictionary.widths) > 1:
        raise DictionaryError(
            f"dictionary {dictionary.name} reads {', '.join(dictionary.reads)} and reconstructs "
            f"{', '.join(dictionary.reconstructs)}; only autoencoders of one hook point are exported"
        )
    folder.mkdir(parents=True, exist_ok=True)
    format_.write(dataclasses.replace(plain(dictionary), model=model), folder)
    check(format_, dictionary, folder, x, "export")


def plain(dictionary: Dictionary) -> Weights:
    """A dictionary of ours in plain terms: the scale folded into biases and thresholds, in float32.

    Raises:
        DictionaryError: a batch_topk or matryoshka dictionary that was never trained and has no threshold.
    """
    state = {name: tensor.detach().double().cpu() for name, tensor in dictionary.state_dict().items()}
    if dictionary.kind in ("batch_topk", "matryoshka") and not state["threshold"] > 0:
        raise DictionaryError(
            f"dictionary {dictionary.name} has no threshold yet ({state['threshold'].item():g}): outside training it would "
            "encode nothing as it was trained to; train it first"
        )
    scaled = {name: tensor / dictionary.scale if name in IN_UNITS else tensor for name, tensor in state.items()}
    options = {name: value for name, value in dictionary.options if name in ("k", "prefixes", "weights")}
    tensors = {name: tensor.float().contiguous() for name, tensor in scaled.items()}
    return Weights(dictionary.kind, tensors, options, hook_point=dictionary.hook_point)


def built(weights: Weights, hook_point: str) -> Dictionary:
    """A dictionary of ours with these weights, its scale 1."""
    architecture = architectures[weights.architecture]
    options = architecture.config(d_sae=weights.d_sae, **weights.options)  # type: ignore[call-arg]
    dictionary = architecture(options, (hook_point,), (hook_point,), {hook_point: weights.d_in})
    tensors = {name: tensor.float() for name, tensor in weights.tensors.items()}
    for name in ("b_enc", "b_gate"):
        if name in tensors:
            tensors[name] = weights.centred_bias(name).float()
    if not weights.centred and "b_mag" in tensors:
        raise AssertionError("no format has gated dictionaries that are not centred")
    dictionary.load_state_dict(tensors)
    return dictionary


def check(format_: Format, dictionary: Dictionary, folder: Path, x: Tensor, what: str) -> None:
    """Encodes and decodes x in both conventions.

    Raises:
        DictionaryError: they differ by more than `TOLERANCE` of their norm.
    """
    x = x.double().cpu()
    exact = copy.deepcopy(dictionary).cpu().double()
    codes = exact.encode(x)
    ours = codes.dense().double(), exact.decode(codes).double()
    theirs = format_.as_peer(folder, x)
    for name, mine, peer in zip(("codes", "reconstructions"), ours, theirs, strict=True):
        found = deviation(mine, peer.double())
        if not found <= TOLERANCE:
            raise DictionaryError(
                f"the {what} of {dictionary.name} ({format_.peer}, {folder}) does not compute the same: {name} differ by "
                f"{found:.2g} of their norm, at most {TOLERANCE:g} was wanted; do not use it"
            )


def deviation(ours: Float[Tensor, "token _"], theirs: Float[Tensor, "token _"]) -> float:
    """Norm of the difference over the norm, all rows together but the worst one in `UNDECIDED`; inf for another shape."""
    if ours.shape != theirs.shape:
        return float("inf")
    errors = (ours - theirs).square().sum(1)
    kept = errors.sort().values[: len(errors) - len(errors) // UNDECIDED] if errors.isfinite().all() else errors
    return (kept.sum() / ours.square().sum().clamp_min(torch.finfo(ours.dtype).tiny)).sqrt().item()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON of one file.

    Raises:
        DictionaryError: no such file, or no JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise DictionaryError(
            f"no {path.name} in {path.parent}; {_there(path.parent)}; give the folder that holds it"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DictionaryError(f"{path} is not JSON ({error}); fetch the file again") from error


def read_tensors(path: Path, way_round: str = "") -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Args:
        path: the file.
        way_round: what to do where only a pickle lies there.

    Raises:
        DictionaryError: no such file, a pickle, or a damaged file.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        pickles = sorted({found.name for pattern in PICKLES for found in path.parent.glob(pattern)})
        if pickles:
            raise DictionaryError(
                f"{path.parent / pickles[0]} is a pickle: loading it could run any code that is in it, so it is not read. "
                + (way_round or _convert(pickles[0], path.name))
            ) from None
        raise DictionaryError(
            f"no {path.name} in {path.parent}; {_there(path.parent)}; give the folder that holds it"
        ) from None
    except SafetensorError as error:
        with path.open("rb") as file:
            begins = file.read(2)
        if begins in (b"PK", b"\x80\x02", b"\x80\x04"):
            raise DictionaryError(
                f"{path} is a pickle under another name: loading it could run any code that is in it, so it is not read. "
                + (way_round or _convert(path.name, path.name))
            ) from error
        raise DictionaryError(f"{path} is no safetensors file ({error}); fetch the file again") from error


def checked(path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of these names, in these shapes, as float32.

    Raises:
        DictionaryError: tensors that are missing, transposed or misshapen, hold no floating-point numbers, or not finite
            ones.
    """
    if missing := sorted(set(shapes) - set(tensors)):
        raise DictionaryError(
            f"{path} lacks {', '.join(missing)}: wanted {', '.join(shapes)}, found {', '.join(sorted(tensors)) or 'none'}; "
            "the file is of another format or incomplete"
        )
    found = {}
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            turned = len(shape) == 2 and tuple(tensor.shape) == shape[::-1]
            raise DictionaryError(
                f"{path}: wanted {name} of shape {list(shape)}, found {list(tensor.shape)}"
                + (", which is transposed; the file is not as its project writes it" if turned else "")
            )
        if not tensor.is_floating_point():
            raise DictionaryError(f"{path}: {name} holds {tensor.dtype}, wanted floating-point numbers")
        if not tensor.isfinite().all():
            raise DictionaryError(f"{path}: {name} holds NaN or infinity; the file is damaged")
        found[name] = tensor.float()
    return found


def write_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes tensors (`*.safetensors`) and settings (`*.json`), by the file's name."""
    for name, content in files.items():
        if name.endswith(".safetensors"):
            save_file({key: tensor.contiguous() for key, tensor in content.items()}, folder / name)
        else:
            (folder / name).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def _there(folder: Path) -> str:
    if not folder.is_dir():
        return "there is no such folder"
    return f"it holds {', '.join(sorted(found.name for found in folder.iterdir())) or 'nothing'}"


def conversion(pickle: str, wanted: str) -> str:
    """Python that turns a pickled state dict into safetensors, to be run where the pickle is trusted."""
    return (
        "from torch import load; from safetensors.torch import save_file; "
        f"save_file({{k: v.contiguous() for k, v in load('{pickle}', map_location='cpu', weights_only=True).items()}}, "
        f"'{wanted}')"
    )


def _convert(pickle: str, wanted: str) -> str:
    return (
        f"Convert it where you trust it, in that project's own environment, and keep {wanted} beside it: "
        f'python -c "{conversion(pickle, wanted)}"'
    )
