"""Every error Latentflow raises on purpose.

A message says what was wanted, what came, where, and what to do.

    LatentflowError
    ├── ConfigError                a choice that cannot be honoured (also a ValueError)
    │   └── UnknownNameError       no entry of that name; lists the known names and the nearest
    ├── InputError                 what was handed in cannot be used (also a ValueError)
    │   ├── CorpusError            documents that are empty, not text, or too short
    │   ├── ModelError             a model that cannot be found, loaded or understood
    │   ├── HookPointError         a place in the model that does not exist
    │   ├── CapabilityError        the model cannot do what was asked (loss, generation, gradients)
    │   └── DictionaryError        a dictionary that does not fit the activations it is given
    │       └── DivergedError      training left the finite numbers; a lower rate may help
    ├── StoreError                 the artifact store cannot do what was asked
    │   ├── DamagedArtifactError   bytes differ from what the manifest promises
    │   ├── MissingArtifactError   an artifact that was named is not in the store
    │   ├── NoSpaceError           the disk cannot hold what would be written
    │   └── ReadOnlyStoreError     the store's folder cannot be written
    ├── NoMemoryError              memory cannot hold what would be computed
    └── ServiceError               an outside service did not answer as it should
"""

from __future__ import annotations

LONGEST_MESSAGE = 4000
LONGEST_QUOTATION = 200
"""Characters that an error repeats of what came."""


class LatentflowError(Exception):
    """The root: catch this to catch every error raised on purpose.

    A message that came to hold something endless keeps its beginning and its end, where the advice
    stands.
    """

    def __init__(self, message: str = "", *more: object) -> None:
        if len(message) > LONGEST_MESSAGE:
            kept = LONGEST_MESSAGE // 2
            message = f"{message[:kept]} ... ({len(message) - 2 * kept:,} characters) ... {message[-kept:]}"
        super().__init__(message, *more)


class ConfigError(LatentflowError, ValueError):
    """A choice that cannot be honoured."""


class UnknownNameError(ConfigError):
    """No entry of that name in a registry, a config or a model."""


class InputError(LatentflowError, ValueError):
    """What was handed in cannot be used."""


class CorpusError(InputError):
    """Documents that are empty, not text, or shorter than one context."""


class ModelError(InputError):
    """A model that cannot be found, loaded or understood."""


class HookPointError(InputError):
    """A place in the model that does not exist."""


class CapabilityError(InputError):
    """The model cannot do what was asked of it."""


class DictionaryError(InputError):
    """A dictionary that does not fit the activations it is given."""


class DivergedError(DictionaryError):
    """Training left the finite numbers; a lower rate may help."""


class StoreError(LatentflowError):
    """The artifact store cannot do what was asked."""


class DamagedArtifactError(StoreError):
    """Bytes on disk differ from what the manifest promises."""


class MissingArtifactError(StoreError):
    """An artifact that was named is not in the store."""


class NoSpaceError(StoreError):
    """The disk cannot hold what would be written."""


class ReadOnlyStoreError(StoreError):
    """The store's folder cannot be written."""


class NoMemoryError(LatentflowError):
    """Memory cannot hold what would be computed."""


class ServiceError(LatentflowError):
    """An outside service did not answer as it should."""


def quoted(value: object) -> str:
    """What came, as an error repeats it: whole where it is short, else its beginning and how long
    it is."""
    if isinstance(value, str):
        beginning = repr(value[:LONGEST_QUOTATION])
        over = len(value) > LONGEST_QUOTATION
        return f"{beginning}... ({len(value):,} characters)" if over else beginning
    try:
        return shortened(repr(value))
    except (ValueError, RecursionError):
        # an integer beyond Python's limit of digits; lists in one another
        return f"{type(value).__name__} too long to be shown"


def shortened(text: str, longest: int = 2 * LONGEST_QUOTATION) -> str:
    """A text that others wrote, an answer or a message: its beginning where it is long."""
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} characters)"
