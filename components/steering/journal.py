"""What a run has written and measured so far, so that a run that was killed does not do it twice.

A resumed run does everything in the same order and finds what is known here, batch by batch: it asks
for the same batches as the run that was never interrupted, so both write the same text. A batch is
known by its content (the tensors of its steerings, strengths, prompts, samples), not by its number:
where a number differs, as on a machine that adds in another order, it is written anew.

The file has a JSON object on each line and is removed with the other working files when the artifact
is complete. A line that the kill has cut is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.steering.contract import Steering

FILE = Path(".checkpoint") / "journal.jsonl"
"""In the folder of an artifact that is being made."""


class Journal:
    """Results by what they were asked for.

    Attributes:
        n_found: results that an earlier run had left, and that were asked for.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Reads what an earlier run left.

        Args:
            path: of the file; None keeps nothing.
        """
        self._path, self._known = path, {} if path is None else _read(path)
        self._told_of: dict[Steering | nn.Module, str] = {}
        self.n_found = 0

    @classmethod
    def within(cls, folder: Path) -> Journal:
        """That of an artifact that is being made in this folder."""
        return cls(folder / FILE)

    def remember(self, asked: Iterable[Any], make: Callable[[], Any]) -> Any:
        """What was made before for the same, or what `make` gives now.

        Args:
            asked: whatever the result depends on: texts, numbers, steerings, sequences of them. The
                settings of the run are the same for all of it. What holds anything else is made
                anew each time.
            make: gives something that JSON can hold (numbers that are not finite included).
        """
        if self._path is None:
            return make()
        try:
            told = json.dumps(list(asked), default=self._told)
        except TypeError:  # a steering of somebody's own holds what cannot be told
            return make()
        key = hashlib.sha256(told.encode()).hexdigest()
        if key in self._known:
            self.n_found += 1
            return self._known[key]
        made = make()
        self._path.parent.mkdir(exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "made": made}) + "\n")
        return made

    def _told(self, value: Any) -> Any:
        """What JSON cannot hold, told by its content.

        Raises:
            TypeError: something whose content nothing here can tell.
        """
        if isinstance(value, Tensor):
            array = value.detach().cpu().contiguous()
            content = array.flatten().view(torch.uint8).numpy().tobytes()
            return [str(array.dtype), list(array.shape), hashlib.sha256(content).hexdigest()]
        if not isinstance(value, Steering | nn.Module):
            raise TypeError(f"nothing in a journal is known by a {type(value).__name__}")
        if value not in self._told_of:
            of = value.state_dict() if isinstance(value, nn.Module) else vars(value)
            text = json.dumps([type(value).__qualname__, of], default=self._told)
            self._told_of[value] = hashlib.sha256(text.encode()).hexdigest()
        return self._told_of[value]


def _read(path: Path) -> dict[str, Any]:
    """What a file holds; nothing where there is none."""
    known: dict[str, Any] = {}
    if not path.exists():
        return known
    text = path.read_text(encoding="utf-8", errors="replace")
    whole, _, cut = text.rpartition("\n")
    if cut:  # the next line must not go on behind half a line
        path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    for line in whole.splitlines():
        try:
            entry = json.loads(line)
            known[entry["key"]] = entry["made"]
        except (ValueError, KeyError, TypeError):
            continue
    return known
