"""Where the prompts of interpretation are."""

from __future__ import annotations

from pathlib import Path

from components.client.prompt import path_in

FOLDER = Path(__file__).parent / "prompts"


def path_of(name: str, own: str = "") -> Path:
    """The file of a prompt: `name` of ours, or the one that a setting points at."""
    return path_in(FOLDER, name, own)
