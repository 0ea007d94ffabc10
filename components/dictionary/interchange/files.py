"""Reading and writing the two kinds of files that other projects keep: safetensors and JSON.
Pickles are never read."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path, PurePath
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.dictionary.saved import PICKLES
from components.errors import DictionaryError

NAMES_TOLD = 12
"""So many names of what a folder holds are told where a file is missing."""


def read_json(path: Path) -> dict[str, Any]:
    """The JSON of one file.

    Raises:
        DictionaryError: no such file, no JSON, or no mapping in it.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise absent_here(path) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DictionaryError(f"{path} is not JSON ({error}); fetch the file again") from error
    if not isinstance(settings, dict):
        raise DictionaryError(
            f"{path}: wanted settings by name, found {settings!r:.60}; the file is of another "
            "format"
        )
    return settings


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        DictionaryError: no such file, a pickle, or a damaged file.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise absent_here(path) from None
    except SafetensorError as error:
        with path.open("rb") as file:
            begins = file.read(2)
        if begins in (b"PK", b"\x80\x02", b"\x80\x04"):
            raise DictionaryError(
                f"{path} is a pickle under another name: loading it could run any code that is in "
                "it, so it is not read. " + _convert(path.name, path.name)
            ) from error
        raise DictionaryError(
            f"{path} is no safetensors file ({error}); fetch the file again"
        ) from error


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
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 < value < float("inf")
    ):
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


def checked(
    path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The tensors of these names, in these shapes, as float32.

    Raises:
        DictionaryError: tensors that are missing, transposed or misshapen, hold no floating-point
            numbers, or not finite ones.
    """
    if missing := sorted(set(shapes) - set(tensors)):
        raise DictionaryError(
            f"{path} lacks {', '.join(missing)}: wanted {', '.join(shapes)}, found "
            f"{', '.join(sorted(tensors)) or 'none'}; the file is of another format or incomplete"
        )
    wanted_tensors = {}
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            turned = len(shape) == 2 and tuple(tensor.shape) == shape[::-1]
            raise DictionaryError(
                f"{path}: wanted {name} of shape {list(shape)}, found {list(tensor.shape)}"
                + (
                    ", which is transposed; the file is not as its project writes it"
                    if turned
                    else ""
                )
            )
        if not tensor.is_floating_point():
            raise DictionaryError(
                f"{path}: {name} holds {tensor.dtype}, wanted floating-point numbers"
            )
        if not tensor.isfinite().all():
            raise DictionaryError(f"{path}: {name} holds NaN or infinity; the file is damaged")
        wanted_tensors[name] = tensor.float()
    return wanted_tensors


def write_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes tensors (`*.safetensors`) and settings (`*.json`), by the file's name."""
    for name, content in files.items():
        if name.endswith(".safetensors"):
            save_file({key: tensor.contiguous() for key, tensor in content.items()}, folder / name)
        else:
            (folder / name).write_text(
                json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8"
            )


def absent(path: PurePath, names: Collection[str], example: str = "") -> DictionaryError:
    """What is said where a file is not among the names in its folder, there or on the hub: a
    pickle, or what there is.

    Args:
        path: the file that was wanted.
        names: what its folder holds.
        example: a folder that does hold it.
    """
    pickles = sorted(name for name in names if PurePath(name).suffix in PICKLES)
    if pickles and path.suffix == ".safetensors":
        return DictionaryError(
            f"{path.parent / pickles[0]} is a pickle: loading it could run any code that is in "
            "it, so it is not read. " + _convert(pickles[0], path.name)
        )
    told = sorted(names)[:NAMES_TOLD]
    more = f" and {len(names) - len(told)} more" if len(names) > len(told) else ""
    return DictionaryError(
        f"no {path.name} in {path.parent}; it holds {', '.join(told) or 'nothing'}{more}; give "
        "the folder that holds it" + (f", for example {example}" if example else "")
    )


def conversion(pickle: str, wanted: str) -> str:
    """Python that turns a pickled state dict into safetensors, to be run where the pickle is
    trusted.

    dictionary_learning's backups hold the state dict as `ae`, in units of activations divided by
    `norm_factor`: its biases and thresholds are multiplied by it, as that project does when it
    saves.
    """
    return (
        f"from torch import load; from safetensors.torch import save_file; f = load('{pickle}', "
        "map_location='cpu', weights_only=True); n = 'ae' in f and f.get('norm_factor') or 1; s = "
        "lambda k: n if 'bias' in k or k in ('b_enc', 'b_dec', 'threshold') else 1; save_file({k: "
        f"(v * s(k)).contiguous() for k, v in f.get('ae', f).items()}}, '{wanted}')"
    )


def absent_here(path: Path) -> DictionaryError:
    """What is said where a file is not in its folder on this machine."""
    if not path.parent.is_dir():
        return DictionaryError(
            f"no {path.name} in {path.parent}; there is no such folder; give the one that holds it"
        )
    return absent(path, [file.name for file in path.parent.iterdir()])


def _convert(pickle: str, wanted: str) -> str:
    return (
        "Convert it where you trust it, in that project's own environment, and give the folder "
        f"that then holds {wanted}: "
        f'python -c "{conversion(pickle, wanted)}"'
    )
