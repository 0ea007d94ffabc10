"""Another project's dictionary as an artifact of ours, and ours as that project's files.

An imported dictionary is an artifact of `train` whose facts say `imported_from`; `dictionary=<its
key>` takes it through every later stage. A hub id may go on into its folders
(`google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`); it is asked for only with
`model.online=true`: what it holds is listed first, a pickle is refused there as it is here, and
nothing is downloaded but the files of the format.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from prefect import flow

from components.dictionary.contract import Dictionary
from components.dictionary.interchange.contract import Format, formats
from components.dictionary.interchange.exchange import export
from components.dictionary.interchange.files import absent
from components.dictionary.interchange.importing import CHECKED_ROWS, ImportConfig, content_of
from components.errors import DictionaryError, InputError
from components.experiment import ExperimentConfig
from components.model.hook_point import KINDS, translate
from components.model.hub import listing, snapshot
from components.model.reference import ModelConfig
from components.paths import expanded
from components.store.artifact import Artifact, Store
from components.store.lineage import inputs
from components.store.rows import Rows
from components.store.shards import ActivationShards
from flows.chain import Chain
from flows.stack import windows
from flows.steps import Reference, over_a_network
from flows.tracking.registry import resolve_dictionary


@flow(name="import", flow_run_name=windows.name)
def import_(config: ExperimentConfig, format: str, source: str) -> Reference:
    """Another project's dictionary, compared in both conventions and measured on this experiment's
    activations."""
    with Chain(config) as chain:
        return bring(chain, format, fetch(source, format, config.model)).reference()


def bring(chain: Chain, format: str, folder: Path) -> Artifact:
    """The artifact of the dictionary in a folder, its hook point under the canonical name."""
    # what cannot be read is refused before anything is captured
    said = formats[format]().read(folder).hook_point
    point = _place(chain.config.train.hook_point or said, folder, chain.capturing.hook_points)
    config = ImportConfig(
        format=format,
        content=content_of(format, folder),
        folder=str(folder),
        hook_point=point,
        split=chain.config.train.split,
        held_out=chain.config.train.held_out,
        seed=chain.config.train.seed,
    )
    return chain.imported(config)


def _place(named: str, folder: Path, captured: Sequence[str]) -> str:
    """The captured hook point at which a dictionary reads, by whatever name; "" where nobody says.

    Raises:
        DictionaryError: a name that means nothing here, or a place that is not captured; with
            settings that can be.
    """
    point = translate(named)
    if re.fullmatch(r"blocks\.\d+\..+|.*\bhook_\w+", point):
        raise DictionaryError(
            f"the dictionary in {folder} reads {named}, a place of another library that has no "
            "name here; find the module that it goes into or comes out of (between attention and "
            "MLP that is the norm before the MLP, its input), and set both "
            "capture.hook_points=[module:<path>:<input|output>] and train.hook_point to it"
        )
    if point and not re.fullmatch(rf"(?:{'|'.join(KINDS)})\.\d+|module:.+", point):
        # SAELens names a place of a Hugging Face model by the module that gives it
        point = f"module:{point}:output"
    if point and point not in captured:
        raise DictionaryError(
            f"the dictionary in {folder} reads {named}, but these activations are captured at "
            f"{', '.join(captured)}; set capture.hook_points=[{point}], or train.hook_point to "
            "the captured place that is the same"
        )
    return point


def write(name: str, to: Path, format: str, config: ExperimentConfig) -> None:
    """A dictionary of ours, by artifact key or name@alias, as another project's files in a folder.

    Raises:
        DictionaryError: an architecture that is not written so, or a folder that is not empty.
        MissingArtifactError: no such dictionary, or its activations (which the check needs) are
            gone.
    """
    entry = formats[format]()
    store = Store(config.execution.store)
    artifact = store.get("train", resolve_dictionary(name))
    dictionary = Dictionary.load(artifact)
    activations = ActivationShards(store.get(*inputs(artifact.manifest)["activations"]))
    rows = Rows(activations, activations.splits[0], dictionary.reads).drawn(CHECKED_ROWS, seed=0)
    model = (activations.artifact.facts.get("model_config") or {}).get("path", "")
    export(entry, dictionary, to, rows[dictionary.reads[0]], model)


def local(source: str, format: str, model: ModelConfig) -> Path:
    """The folder that a path or a hub id names; of a hub repository only the files of that format
    are fetched.

    Raises:
        DictionaryError: no such folder, and no leave to ask the hub or no answer there; nothing of
            that format there, or pickles.
    """
    folder = expanded(source)
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise DictionaryError(f"{source} is a file; give the folder that holds it")
    parts = Path(source).parts
    if len(parts) < 2 or source.startswith((".", "/", "~")):
        raise DictionaryError(
            f"no folder {source!r}; give a folder, or a hub id such as "
            "google/gemma-scope-2b-pt-res/layer_20"
        )
    entry, repository, inside = formats[format](), "/".join(parts[:2]), "/".join(parts[2:])
    wanted: Sequence[str] = [name for layout in entry.layouts for name in layout]
    if model.online and (names := listing(repository)) is not None:
        wanted = _wanted(entry, repository, inside, names)
    try:
        found = snapshot(
            repository,
            [glob.escape(f"{inside}/{name}".lstrip("/")) for name in wanted],
            online=model.online,
        )
    except InputError as error:
        raise DictionaryError(f"no folder {source!r}, and {error}") from error
    if not (found / inside).is_dir():
        raise DictionaryError(f"the hub repository {repository} has no folder {inside}")
    return found / inside


@over_a_network()
def fetch(source: str, format: str, model: ModelConfig) -> Path:
    """The dictionary's files, downloaded where they are not on this machine and may be."""
    return local(source, format, model)


def _wanted(entry: Format, repository: str, inside: str, names: Sequence[str]) -> Sequence[str]:
    """Which of the files below a folder of a hub repository hold the dictionary.

    Raises:
        DictionaryError: no such folder, none that hold one, or pickles.
    """
    paths = [PurePosixPath(name) for name in names]
    below = {path.relative_to(inside) for path in paths if path.is_relative_to(inside)}
    if not below:
        raise DictionaryError(f"the hub repository {repository} has no folder {inside}")
    wanted = entry.layout(lambda name: PurePosixPath(name) in below)
    for file in map(PurePosixPath, wanted):
        if file not in below:
            beside = {
                path.relative_to(file.parent).parts[0]
                for path in below
                if path.is_relative_to(file.parent)
            }
            holding = (
                path.parent
                for path in paths
                if any(path.name == layout[0] for layout in entry.layouts)
            )
            example = next((str(PurePosixPath(repository, folder)) for folder in holding), "")
            raise absent(PurePosixPath(repository, inside, file), beside, example)
    return wanted
