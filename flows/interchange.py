"""Another project's dictionary as an artifact of ours, and ours as that project's files.

An imported dictionary is an artifact of `train` whose facts say `imported_from`; `dictionary=<its key>` takes it through
every later stage. A hub id may go on into its folders (`google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`);
it is downloaded only with `model.online=true`, and never a pickle.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from components.dictionary.contract import Dictionary
from components.dictionary.interchange.contract import PICKLES, export, formats
from components.dictionary.interchange.importing import CHECKED_ROWS, ImportConfig, content_of
from components.dictionary.stream import Stream
from components.errors import DictionaryError
from components.experiment import ExperimentConfig
from components.model.hook_point import translate
from components.model.language_model import ModelConfig
from components.store.artifact import Artifact, Store
from components.store.shards import ActivationShards
from flows import windows
from flows.steps import SECONDS_BEFORE_A_RETRY, Chain, Reference, failed_over_a_network
from flows.tracking import resolve_dictionary


@flow(name="import", flow_run_name=windows.name)
def import_(config: ExperimentConfig, format: str, source: str) -> Reference:
    """Another project's dictionary, compared in both conventions and measured on this experiment's activations."""
    with Chain(config) as chain:
        return bring(chain, format, fetch(source, config.model)).reference()


def bring(chain: Chain, format: str, folder: Path) -> Artifact:
    """The artifact of the dictionary in a folder, its hook point under the canonical name."""
    named = chain.config.train.hook_point or formats[format]().read(folder).hook_point
    config = ImportConfig(
        format=format,
        content=content_of(format, folder),
        folder=str(folder),
        hook_point=translate(named),
        split=chain.config.train.split,
        held_out=chain.config.train.held_out,
        seed=chain.config.train.seed,
    )
    return chain.imported(config)


def write(name: str, to: Path, format: str, config: ExperimentConfig) -> None:
    """A dictionary of ours, by artifact key or name@alias, as another project's files in a folder.

    Raises:
        DictionaryError: no counterpart there, or a folder that is not empty.
        MissingArtifactError: no such dictionary, or its activations (which the check needs) are gone.
    """
    entry = formats[format]()
    if to.is_dir() and any(to.iterdir()):
        raise DictionaryError(
            f"{to} is not empty; give a new folder, so that nothing of another dictionary stays beside"
        )
    store = Store(config.execution.store)
    artifact = store.get("train", resolve_dictionary(name))
    dictionary = Dictionary.load(artifact)
    activations = ActivationShards(store.get(**artifact.manifest["inputs"]["activations"]))
    rows = Stream(activations, activations.splits[0], dictionary.reads, seed=0).sample(CHECKED_ROWS)
    model = (activations.artifact.facts.get("model_config") or {}).get("path", "")
    export(entry, dictionary, to, rows[dictionary.reads[0]], model)


def local(source: str, model: ModelConfig) -> Path:
    """The folder that a path or a hub id names.

    Raises:
        DictionaryError: no such folder, and no leave to ask the hub or no answer there.
    """
    if Path(source).is_dir():
        return Path(source)
    if Path(source).is_file():
        raise DictionaryError(f"{source} is a file; give the folder that holds it")
    parts = Path(source).parts
    if len(parts) < 2 or source.startswith((".", "/", "~")):
        raise DictionaryError(
            f"no folder {source!r}; give a folder, or a hub id such as google/gemma-scope-2b-pt-res/layer_20"
        )
    from huggingface_hub import snapshot_download

    repository, inside = "/".join(parts[:2]), "/".join(parts[2:])
    try:
        found = snapshot_download(
            repository,
            allow_patterns=[f"{inside}/*"] if inside else None,
            ignore_patterns=list(PICKLES),
            local_files_only=not model.online,
        )
    except Exception as error:
        tried = (
            f"the hub did not give it: {str(error).strip().splitlines()[0]}"
            if model.online
            else "no copy of such a hub repository on this machine, and model.online is false, so nothing is downloaded; set "
            "model.online=true to permit it"
        )
        raise DictionaryError(f"no folder {source!r}, and {tried}") from error
    if not (Path(found) / inside).is_dir():
        raise DictionaryError(f"the hub repository {repository} has no folder {inside}")
    return Path(found) / inside


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(SECONDS_BEFORE_A_RETRY),
    retry_delay_seconds=SECONDS_BEFORE_A_RETRY,
    retry_condition_fn=failed_over_a_network,
)
def fetch(source: str, model: ModelConfig) -> Path:
    """The dictionary's files, downloaded where they are not on this machine and may be."""
    return local(source, model)
