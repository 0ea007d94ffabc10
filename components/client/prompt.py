"""Prompts as text files: one of ours in the folder `prompts/` of a stage, or a file that a setting
points at.

    [system]
    what the model is to be
    [user]
    what it is asked, with $windows and other values

`$$` stands for a dollar sign. The bytes of the file are part of the artifact's key.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Collection, Mapping
from pathlib import Path

from components.client.contract import CHARACTERS_PER_TOKEN, Message
from components.errors import InputError
from components.paths import expanded

ROLES = ("system", "user")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt with places for values.

    Attributes:
        parts: role -> text; user always, system where the file has it.
    """

    parts: Mapping[str, string.Template]

    @classmethod
    def read(cls, path: Path, values: Collection[str], needed: Collection[str] = ()) -> Prompt:
        """The prompt of a file.

        Args:
            path: the file.
            values: names that may stand in it.
            needed: those that must.

        Raises:
            InputError: no such file, no part [user], or another value.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the prompt {path} cannot be read: {error}") from None
        texts: dict[str, list[str]] = {}
        role = ""
        for line in lines:
            if line.strip() in [f"[{role}]" for role in ROLES]:
                role = line.strip()[1:-1]
            elif role:
                texts.setdefault(role, []).append(line)
        if "user" not in texts:
            raise InputError(f"the prompt {path} has no part [user]; wanted [system] and [user]")
        parts = {role: string.Template("\n".join(text).strip()) for role, text in texts.items()}
        used = {name for part in parts.values() for name in _names(part, path)}
        for name in sorted(used - set(values)):
            raise InputError(f"the prompt {path} has ${name}; known: {_listed(values)} (and $$)")
        for name in sorted(set(needed) - used):
            raise InputError(f"the prompt {path} lacks ${name}; wanted {_listed(needed)}")
        return cls(parts)

    def messages(self, **values: str) -> list[Message]:
        """The conversation with these values in their places."""
        return [
            Message(role, self.parts[role].substitute(values))
            for role in ROLES
            if role in self.parts
        ]

    @property
    def tokens(self) -> int:
        """Estimated tokens, without the values."""
        n = sum(len(part.template) for part in self.parts.values())
        return -(-n // CHARACTERS_PER_TOKEN)


def path_in(folder: Path, name: str, own: str = "") -> Path:
    """The file of a prompt.

    Args:
        folder: where ours are.
        name: of ours.
        own: a file that a setting points at, instead of it.
    """
    return expanded(own) if own else folder / f"{name}.txt"


def _names(part: string.Template, path: Path) -> list[str]:
    if not part.is_valid():
        raise InputError(f"the prompt {path} has a $ that names no value; write $$ for a dollar")
    return part.get_identifiers()


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"${name}" for name in sorted(names))
