"""A plural folder as a table: one file is one entry, the file's name is the entry's name.

`Registry("architecture", "components.dictionary.architectures")` knows every module of that package
by listing its files; an entry is imported when it is asked for. The module marks its entry with the
registry as a decorator:

    @architectures
    class TopK(Dictionary): ...

The entry's name is the module's name, so nothing is written twice; `version` is a class attribute
(a number beside the code, part of every artifact key that used the entry).

Every entry of every registry that computes is made the same way, `Entry(config, services)`: its own
settings, and what it may use. It never sees the inputs of its stage.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from abc import ABC
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from components.errors import LONGEST_QUOTATION, UnknownNameError, quoted

if TYPE_CHECKING:  # both import this module
    from components.config import Config
    from components.device import Execution

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class Services:
    """What an entry may use beside its own settings. The contract of a stage adds what its entries
    need, no more.

    Attributes:
        execution: where to run.
        seed: of the stage; an entry that draws derives its own from it.
    """

    execution: Execution
    seed: int


class Entry(ABC):
    """One method of a registry, made from its settings and its services.

    Attributes:
        kind: its name, the file's; set by the registry.
        version: raised when its results change; part of the key of every artifact that used it.
        config: the class of its settings.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    config: ClassVar[type[Config]]

    def __init__(self, config: Any, services: Services) -> None:
        """`config` is of the entry's own class."""
        self.settings = config
        self.services = services


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error sentence: the nearest known name, if one is near, and all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name[:LONGEST_QUOTATION], known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"known: {', '.join(known) or 'none'}{hint}"


class Registry(Generic[T]):
    """Name -> entry, for the modules of one package.

    Attributes:
        noun: what one entry is called in errors ("architecture").
        package: dotted path of the plural folder.
    """

    def __init__(self, noun: str, package: str) -> None:
        self.noun = noun
        self.package = package
        self._entries: dict[str, Any] = {}

    def __call__(self, entry: Any) -> Any:
        """Decorator: registers a class (or function) under the name of the module it is written
        in."""
        name = entry.__module__.rpartition(".")[2]
        entry.kind = name
        self._entries[name] = entry
        return entry

    def names(self) -> list[str]:
        """Every known name, sorted; reads file names only and imports nothing beyond the package
        itself."""
        folder = importlib.import_module(self.package).__path__
        on_disk = {
            module.name
            for module in pkgutil.iter_modules(folder)
            if not module.name.startswith("_")
        }
        return sorted(on_disk | set(self._entries))

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            if name not in self.names():
                raise UnknownNameError(
                    f"no {self.noun} named {quoted(name)}; {nearest(name, self.names())}"
                )
            importlib.import_module(f"{self.package}.{name}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def items(self) -> list[tuple[str, T]]:
        """All entries, imported, by name."""
        return [(name, self[name]) for name in self.names()]

    def version(self, name: str) -> int:
        """The version number beside the code of one entry."""
        return getattr(self[name], "version", 1)
