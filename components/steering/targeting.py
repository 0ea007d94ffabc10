"""What is steered towards: a kind of target says which targets there are, which text has them and
which has not.

`steer.targets.kind` names a file in `targets/`. Whatever the kind, methods get the same evidence and
judges the same passages, so that one protocol measures all.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from components.client.client import Client
from components.client.forecast import NOTHING, Most
from components.concept.gate import ProbeGate
from components.config import Config
from components.device import Execution
from components.model.language_model import LanguageModel
from components.model.text_encoder import TextEncoderReference
from components.registry import Registry
from components.steering.contract import Concept, Evidence
from components.steering.passages import Cut
from components.steering.subject import SteeredSubject
from components.store.artifact import Artifact

if TYPE_CHECKING:
    from components.steering.config import SteerConfig


@dataclasses.dataclass(frozen=True, eq=False)
class Ground:
    """What targets may be found in.

    Attributes:
        subject: corpus, dictionary and activations.
        model: the model that is steered.
        codes: artifact of `encode`.
        config: the section `steer`.
        execution: where to run.
        interpreted: artifact of `interpret`; None where the kind does not ask for it, or where
            there is none.
        text_encoder: gives texts vectors, likewise.
        client: answers prompts; None where the kind asks nobody.
    """

    subject: SteeredSubject
    model: LanguageModel
    codes: Artifact
    config: SteerConfig
    execution: Execution
    interpreted: Artifact | None = None
    text_encoder: TextEncoderReference | None = None
    client: Client | None = None


class Targeted(ABC):
    """Targets that were found.

    Attributes:
        concepts: the targets.
        limit: that not all there are were taken, and which setting says so, or how many rows of the
            user's own were left out and why; None where all were.
    """

    concepts: Sequence[Concept]
    limit: str | None = None

    @abstractmethod
    def refusals(self, gate: ProbeGate) -> Mapping[str, str]:
        """Target -> why it cannot be steered towards, by its own text; judges have gates of their
        own."""

    @abstractmethod
    def cut(self, split: str, opening: int, length: int) -> Cut:
        """Passages of a split (judge, calibrate or validate), each with the targets that it has.

        Args:
            split: which.
            opening: tokens before the first passage of a document.
            length: tokens of a passage.
        """

    @abstractmethod
    def evidence(self, columns: Sequence[int], stand_ins: int) -> Evidence:
        """What methods may know of the targets in these columns: text of the select split.

        Raises:
            InputError: codes of other activations.
        """

    def texts(self) -> Sequence[str]:
        """Texts of the user's own that are learnt or judged from; none where all is the corpus's."""
        return ()

    def told(self, column: int) -> Mapping[str, Any]:
        """Further columns of the TARGETS table for one target: stratum, density, scores, and how
        much text there is."""
        return {}


class Targets(ABC):
    """A kind of target. A file in `targets/` holds one, registered with `@targets`.

    Attributes:
        kind: the file's name, set by the registry.
        version: raised when its targets change.
        config: the section's type, with a field `kind`.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    config: ClassVar[type[Config]]

    def __init__(self, config: Any) -> None:
        """`config` is of the kind's own class."""
        self.settings = config

    @property
    def explained(self) -> bool:
        """Whether it reads the tables of `interpret`."""
        return False

    @property
    def embeds(self) -> bool:
        """Whether it asks the text encoder."""
        return False

    @property
    def asks(self) -> bool:
        """Whether it asks a language model (`steer.client`) which targets there are."""
        return False

    def most_asked(self) -> Most:
        """What it asks, at most.

        Raises:
            InputError: a prompt that cannot be read or filled.
        """
        return NOTHING

    @property
    def judges(self) -> Sequence[str]:
        """Names of judges that choose the texts of the targets."""
        return ()

    def files(self) -> Sequence[Path]:
        """Files beside the corpus whose bytes the targets depend on; they enter the key."""
        return ()

    def obstacle(self, corpus: Artifact, config: SteerConfig) -> str | None:
        """Why this corpus has no such target, and what to do; None where it may have."""
        return None

    def check(self, config: SteerConfig) -> None:
        """Looks whether the targets fit the rest of the section.

        Raises:
            ConfigError: they do not, with what to change.
        """
        return

    def n_tokens(self, config: SteerConfig) -> int:
        """Tokens that the model reads or writes to find them, for the estimate."""
        return 0

    @abstractmethod
    def at_most(self, inventory: Sequence[Mapping[str, Any]], config: SteerConfig) -> int:
        """How many targets there will be at most, for the estimate.

        Args:
            inventory: rows of the concepts table.
            config: the section `steer`.
        """

    @abstractmethod
    def find(self, ground: Ground) -> Targeted:
        """The targets.

        Raises:
            InputError: there are none, with what to do.
        """


targets: Registry[type[Targets]] = Registry("kind of target", "components.steering.targets")
