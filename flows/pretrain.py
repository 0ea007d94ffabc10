"""Trains the embedded world's language model; `data/demo` holds one that was made this way."""

from __future__ import annotations

import os
from pathlib import Path

from components.config import assignments, override
from components.device import Execution
from components.store.artifact import Store
from components.world.pretrain import PRETRAIN, PretrainConfig, export
from flows.progress import progress_bar


def run(arguments: list[str], folder: Path) -> Path:
    """The model of these parameters, found or trained, copied to `folder`."""
    config = override(PretrainConfig(), assignments(arguments))
    store = Store(os.environ["LATENTFLOW_STORE"])
    with progress_bar("pretrain")() as show:
        artifact, _ = store.ensure(PRETRAIN, config, {}, Execution(), show)
    export(artifact, folder)
    return folder
