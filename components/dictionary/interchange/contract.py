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
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.dictionary.contract import PICKLES, Dictionary, architectures
from components.errors import DictionaryError
from components.registry import Registry

TOLERANCE = 1e-5
"""Largest deviation of codes and of reconstructions, as a share of their norm."""
UNDECIDED = 200
"""One row in so many may differ: where two pre-activations tie in the last digit, folding decides which is taken."""
IN_UNITS = ("b_enc", "b_dec", "b_gate", "b_mag", "threshold")
"""Parameters in the units of what is encoded, which the activation scale divides."""
NAMES_TOLD = 12
"""So many names of what a folder holds are told where a file is missing."""

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
        return (self.tensors[name].double() - self._shift(name)).to(self.tensors[name].dtype)

    def centred_bias(self, name: str = "b_enc") -> Tensor:
        """The bias that gives the same pre-activations when b_dec is subtracted from the input."""
        if self.centred:
            return self.tensors[name]
        return (self.tensors[name].double() + self._shift(name)).to(self.tensors[name].dtype)

    def _shift(self, name: str) -> Tensor:
        """What b_dec adds to the sum that this bias belongs to: a gated magnitude is exp(r_mag) x W_enc.T + b_mag."""
        shift = self.tensors["W_enc"].double() @ self.tensors["b_dec"].double()
        return shift * self.tensors["r_mag"].double().exp() if name == "b_mag" else shift


class Format(ABC):
    """One project's layout of files.

    Attributes:
        kind: name of the format, set by the registry.
        version: number beside the format's code.
        peer: what the project is called.
        layouts: names, below the folder, of the files that hold a dictionary; a layout is told by the first of them.
        exports: our architecture -> what the project calls it; empty for a format that is only read.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    peer: ClassVar[str]
    layouts: ClassVar[Sequence[Sequence[str]]]
    exports: ClassVar[Mapping[str, str]] = {}

    def layout(self, has: Callable[[str], bool]) -> Sequence[str]:
        """The layout of a folder that has these names; the last one where it has none."""
        return next((names for names in self.layouts if has(names[0])), self.layouts[-1])

    def files(self, folder: Path) -> Sequence[Path]:
        """The files that hold the dictionary.

        Raises:
            DictionaryError: they are not there, or are pickles.
        """
        paths = [folder / name for name in self.layout(lambda name: (folder / name).is_file())]
        for path in paths:
            if not path.is_file():
                raise _absent_here(path)
        return paths

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
    dictionary = built(weights, hook_point, folder)
    check(format_, dictionary, folder, x, f"the import of {dictionary.name} ({format_.peer}, {folder})")
    return dictionary


def export(
    format_: Format, dictionary: Dictionary, folder: Path, x: Float[Tensor, "token d_in"], model: str = ""
) -> None:
    """Writes a dictionary as another project's own loader reads it.

    Args:
        format_: the layout.
        dictionary: what to write.
        folder: where to, a new or an empty one; it stays as it was where the check fails.
        x: activations for the check.
        model: the model they come from, for the metadata.

    Raises:
        DictionaryError: an architecture that is not written, a folder that is not empty, or files that do not compute
            the same.
    """
    if not format_.exports:
        raise DictionaryError(f"the format {format_.kind} is read, not written; written are: {', '.join(written())}")
    if dictionary.kind not in format_.exports:
        raise DictionaryError(
            f"{dictionary.kind!r} is not written as files of {format_.peer}; written are: {', '.join(format_.exports)}"
        )
    if len(dictionary.widths) > 1:
        raise DictionaryError(
            f"dictionary {dictionary.name} reads {', '.join(dictionary.reads)} and reconstructs "
            f"{', '.join(dictionary.reconstructs)}; only autoencoders of one hook point are exported"
        )
    if folder.is_file():
        raise DictionaryError(f"{folder} is a file; give a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise DictionaryError(
            f"{folder} is not empty; give a new folder, so that nothing of another dictionary stays beside"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent) as beside:
        partial = Path(beside)
        format_.write(dataclasses.replace(plain(dictionary), model=model), partial)
        check(format_, dictionary, partial, x, f"the export of {dictionary.name} ({format_.peer}, {folder})")
        folder.mkdir(exist_ok=True)
        for path in partial.iterdir():
            path.rename(folder / path.name)


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


def built(weights: Weights, hook_point: str, folder: Path) -> Dictionary:
    """A dictionary of ours with these weights, its scale 1; `folder` is where they were read, for the error.

    Raises:
        DictionaryError: options that no such dictionary can have, as a k above the number of latents.
    """
    architecture = architectures[weights.architecture]
    try:
        options = architecture.config(d_sae=weights.d_sae, **weights.options)  # type: ignore[call-arg]
    except ValidationError as error:
        came = ", ".join(f"{name} = {value}" for name, value in weights.options.items())
        faults = [" ".join((*map(str, fault["loc"]), fault["msg"])) for fault in error.errors()]
        raise DictionaryError(
            f"{folder} holds no {weights.architecture} dictionary of {weights.d_sae} latents that can be: it has {came}; "
            f"{'; '.join(faults)}; the files are damaged or not of one dictionary"
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
        found = deviation(mine, peer.double())
        if not found <= TOLERANCE:
            raise DictionaryError(
                f"{what} does not compute the same: {name} differ by {found:.2g} of their norm, at most {TOLERANCE:g} was "
                "wanted; do not use it"
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
        DictionaryError: no such file, no JSON, or no mapping in it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _absent_here(path) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DictionaryError(f"{path} is not JSON ({error}); fetch the file again") from error
    if not isinstance(found, dict):
        raise DictionaryError(f"{path}: wanted settings by name, found {found!r:.60}; the file is of another format")
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        DictionaryError: no such file, a pickle, or a damaged file.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise _absent_here(path) from None
    except SafetensorError as error:
        with path.open("rb") as file:
            begins = file.read(2)
        if begins in (b"PK", b"\x80\x02", b"\x80\x04"):
            raise DictionaryError(
                f"{path} is a pickle under another name: loading it could run any code that is in it, so it is not read. "
                + _convert(path.name, path.name)
            ) from error
        raise DictionaryError(f"{path} is no safetensors file ({error}); fetch the file again") from error


def whole(path: Path, settings: Mapping[str, Any], name: str) -> int:
    """The whole number above 0 that the settings in a file have under a name.

    Raises:
        DictionaryError: they have none.
    """
    value = settings.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DictionaryError(f"{path}: wanted a whole number {name} above 0, found {value!r}")
    return value


def number(path: Path, settings: Mapping[str, Any], name: str) -> float:
    """The number above 0 that the settings in a file have under a name.

    Raises:
        DictionaryError: they have none.
    """
    value = settings.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise DictionaryError(f"{path}: wanted a number {name} above 0, found {value!r}")
    return value


def text(path: Path, settings: Mapping[str, Any], name: str) -> str:
    """The text that the settings in a file have under a name; empty where they have none.

    Raises:
        DictionaryError: something else than text.
    """
    value = settings.get(name)
    if value is not None and not isinstance(value, str):
        raise DictionaryError(f"{path}: wanted a text {name}, found {value!r}")
    return value or ""


def section(path: Path, settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings that the settings in a file have under a name; none where they have none.

    Raises:
        DictionaryError: something else than a mapping.
    """
    value = settings.get(name)
    if value is not None and not isinstance(value, dict):
        raise DictionaryError(f"{path}: wanted settings by name in {name}, found {value!r:.60}")
    return value or {}


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
            (folder / name).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def absent(path: PurePath, names: Collection[str], example: str = "") -> DictionaryError:
    """What is said where a file is not among the names in its folder, there or on the hub: a pickle, or what there is.

    Args:
        path: the file that was wanted.
        names: what its folder holds.
        example: a folder that does hold it.
    """
    pickles = sorted(name for name in names if PurePath(name).suffix in PICKLES)
    if pickles and path.suffix == ".safetensors":
        return DictionaryError(
            f"{path.parent / pickles[0]} is a pickle: loading it could run any code that is in it, so it is not read. "
            + _convert(pickles[0], path.name)
        )
    told = sorted(names)[:NAMES_TOLD]
    more = f" and {len(names) - len(told)} more" if len(names) > len(told) else ""
    return DictionaryError(
        f"no {path.name} in {path.parent}; it holds {', '.join(told) or 'nothing'}{more}; give the folder that holds it"
        + (f", for example {example}" if example else "")
    )


def conversion(pickle: str, wanted: str) -> str:
    """Python that turns a pickled state dict into safetensors, to be run where the pickle is trusted.

    dictionary_learning's backups hold the state dict as `ae`, in units of activations divided by `norm_factor`: its biases
    and thresholds are multiplied by it, as that project does when it saves.
    """
    return (
        "from torch import load; from safetensors.torch import save_file; "
        f"f = load('{pickle}', map_location='cpu', weights_only=True); n = 'ae' in f and f.get('norm_factor') or 1; "
        "s = lambda k: n if 'bias' in k or k in ('b_enc', 'b_dec', 'threshold') else 1; "
        "save_file({k: (v * s(k)).contiguous() for k, v in f.get('ae', f).items()}, "
        f"'{wanted}')"
    )


def _absent_here(path: Path) -> DictionaryError:
    if not path.parent.is_dir():
        return DictionaryError(f"no {path.name} in {path.parent}; there is no such folder; give the one that holds it")
    return absent(path, [found.name for found in path.parent.iterdir()])


def _convert(pickle: str, wanted: str) -> str:
    return (
        f"Convert it where you trust it, in that project's own environment, and give the folder that then holds {wanted}: "
        f'python -c "{conversion(pickle, wanted)}"'
    )
