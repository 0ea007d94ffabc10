"""What a dictionary promises: it reads activations by name, writes sparse codes, and reconstructs
activations by name.

A name is a hook point (`resid_post.3`) or the gradient of the model's loss there
(`gradient:resid_post.3`); a batch maps names to rows. An autoencoder reads and reconstructs one
name; a transcoder reconstructs another than it reads; a crosscoder reads and reconstructs several.
What lies under `scales` is the only normalisation: one number for each name, estimated once from a
sample so that the mean norm becomes sqrt(width), kept in the artifact, applied on the way in and
undone on the way out. Architectures see scaled rows only; everybody else sees activations and codes
in their units.

An architecture is one file in `architectures/`: a final class marked with `@architectures`, its
config beside it.

    def start        first values of the parameters, from a sample
    def outcome      one training batch -> named loss terms, reconstruction, which latents fired
    def codes        rows -> codes
    def rebuild      codes -> rows                 (unless that is z W_dec + b_dec, and `directions` the rows of W_dec)
    def finish       after the last batch; a factorisation without loss terms takes its statistics here

A model can take part in training: what it says of `Outcome.reconstruction` (its graph is alive) is
a further loss term. A second dictionary on the error of a frozen one is given a stream whose
batches carry `error:<hook point>`.

Several dictionaries that learn together, of which one is kept, are one entry: `rivals` says how
many they are, `start` makes the others as further modules (so that gradients, checkpoints and the
optimiser reach them), `outcome` sums the losses of all, and `finish` copies the winner's values
into the parameters that `__init__` made and removes the others.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.config import Config, load
from components.dictionary import saved
from components.dictionary.kernels.sparse import decode_codes
from components.dictionary.whitening import Whitening
from components.errors import DictionaryError
from components.registry import Registry
from components.store.artifact import Artifact
from components.store.shards import Codes

_ENTRIES_AT_ONCE = 1 << 24  # rows x d_sae of one encoder product: 64 MiB in float32

Batch = Mapping[str, Tensor]
"""Rows of activations by name, [token, width], the same tokens under every name."""

architectures: Registry[type[Dictionary]] = Registry(
    "architecture", "components.dictionary.architectures"
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How an architecture wants to be optimised.

    Attributes:
        lr: learning rate, where the training config names none.
        betas: Adam's decay rates.
        eps: Adam's epsilon (6.25e-10: OpenAI's, for gradients as small as those of seldom latents).
        unit_rows: parameters whose rows keep norm 1: the gradient loses its part along the row, the
            row is renormalised.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 6.25e-10
    unit_rows: tuple[str, ...] = ()


def rate(d_sae: int) -> float:
    """The learning rate that most architectures share: 2e-4 at 2^14 latents, falling as the root of
    their number.

    Source: sparsify's and dictionary_learning's rule for TopK (Gao et al. 2024, arXiv:2406.04093,
    section A.3).
    """
    return 2e-4 / (d_sae / 2**14) ** 0.5


def refuse_large_k(k: int, d_sae: int) -> None:
    """For validators of options.

    Raises:
        ValueError: more latents for a token than there are.
    """
    if k > d_sae:
        raise ValueError(
            f"k is {k}, but there are only d_sae = {d_sae} latents; lower k or raise d_sae"
        )


@dataclasses.dataclass(frozen=True)
class Moment:
    """Where training stands when a batch comes.

    Attributes:
        step: updates made so far.
        steps: updates in all.
        dead: latents that have been silent for the configured number of tokens.
        generator: for architectures that draw; a fresh stream for each step.
        may_be_dead: False where the host knows, without a wait for the device, that no latent is
            dead.
    """

    step: int
    steps: int
    dead: Bool[Tensor, " d_sae"]
    generator: torch.Generator
    may_be_dead: bool = True

    def revives(self, coefficient: float) -> bool:
        """Whether a term by which dead latents learn is to be made.

        On the CPU, where any latent is dead; elsewhere, where any may be: the term is zero then if
        none is.
        """
        return (
            coefficient > 0 and self.may_be_dead and (not self.dead.is_cpu or bool(self.dead.any()))
        )

    def risen(self, warm_up: float) -> float:
        """How far a weight has risen that goes from 0 to 1 over the first `warm_up` of training; 1
        without a warm-up."""
        return min(1.0, self.step / rising) if (rising := warm_up * self.steps) else 1.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one training batch gives.

    Attributes:
        losses: named terms, coefficients applied; training descends on their sum. Empty: nothing to
            descend on.
        reconstruction: scaled rows by name, differentiable.
        fired: tokens of the batch on which each latent is active.
    """

    losses: Mapping[str, Float[Tensor, ""]]
    reconstruction: Batch
    fired: Float[Tensor, " d_sae"]


def autoencoder(options: Any, hook_point: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names read and reconstructed by a dictionary of one hook point."""
    return (hook_point,), (hook_point,)


class Dictionary(nn.Module, ABC):
    """A dictionary of latents. Everything concrete here is final, except what stands under "what it
    may write".

    Attributes:
        kind: name of the architecture, set by the registry.
        version: number beside the architecture's code.
        config: class of the architecture's options; has `kind`, and `d_sae` unless `size` follows
            from the width.
        wiring: (options, hook point) -> names read, names reconstructed.
        learns: from gradients of its loss terms, from statistics of the batches (taken in
            `outcome`, used in `finish`), or nothing: a baseline whose first values are its last.
        trains_as_it_encodes: whether a training batch gets the codes that `encode` gives; not so
            where the tokens of a batch share a budget of latents.
        sparsity: the option that sets how sparse the codes are, for sweeps; without such an option
            it has one sparsity.
        baseline: whether it stands beside the others for comparison and isn't expected to find
            directions.
        dense: tensors of shape (rows, d_sae) that an update holds at its peak, the pre-activations
            among them; what memory is estimated from.
        in_blocks: whether those rows are the blocks that are multiplied at once, and not a whole
            batch; so where latents are picked by `kernels.sparse.choose`.
        folds: whether a linear map of its input can be folded into its weights: it has W_enc, W_dec
            and b_dec of its own, reads only (x - b_dec) W_enc.T, and does not rest on the norms of
            W_dec's rows once it is trained.
        from_file: whether its directions come from a file: it is in a sweep only where it is
            listed, and its size is the file's.
        rebuilds: whether what it decodes is meant to be the activation; else nothing is said of how
            near it comes.
        latent_names: what each latent is called by whoever made it, in order; empty where nobody
            named them.
        options: this dictionary's options.
        reads: names of what `encode` needs.
        reconstructs: names of what `decode` gives; codes are in the units of the first.
        widths: name -> width.
        scales: name -> the number its rows are multiplied by.
        W_dec: decoder directions [d_sae, width] of one that inherits `rebuild` and `directions`.
        b_dec: its decoder bias [width].
    """

    like: Tensor
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    config: ClassVar[type[Config]]
    wiring: ClassVar[Callable[[Any, str], tuple[tuple[str, ...], tuple[str, ...]]]] = staticmethod(
        autoencoder
    )
    learns: ClassVar[Literal["gradients", "statistics", "nothing"]] = "gradients"
    trains_as_it_encodes: ClassVar[bool] = True
    sparsity: ClassVar[str] = "k"
    baseline: ClassVar[bool] = False
    dense: ClassVar[int] = 5
    in_blocks: ClassVar[bool] = False
    folds: ClassVar[bool] = False
    from_file: ClassVar[bool] = False
    rebuilds: ClassVar[bool] = True
    latent_names: tuple[str, ...] = ()

    def __init__(
        self,
        options: Any,
        reads: tuple[str, ...],
        reconstructs: tuple[str, ...],
        widths: Mapping[str, int],
    ):
        super().__init__()
        self.options = options
        self.reads, self.reconstructs = tuple(reads), tuple(reconstructs)
        self.widths = {name: widths[name] for name in (*self.reads, *self.reconstructs)}
        self.scales = dict.fromkeys(self.widths, 1.0)
        self.d_in: int = self.widths[self.reads[0]]
        self.d_sae: int = self.size(options, self.d_in)
        if (k := getattr(options, "k", 1)) > self.d_sae:
            raise DictionaryError(
                f"k is {k}, but {self.kind} has only {self.d_sae} latents at width {self.d_in}; "
                "lower k"
            )
        # tells dtype and device, whatever else there is
        self.register_buffer("like", torch.zeros(()), persistent=False)

    # What an architecture writes.

    @abstractmethod
    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """Sets the parameters to their first values, from a sample of scaled rows."""

    @abstractmethod
    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """Loss terms and reconstruction of scaled rows."""

    @abstractmethod
    def codes(self, batch: Batch) -> Codes:
        """Codes of scaled rows, in scaled units."""

    # What it may write: this is what is right for one reconstructed name, with `W_dec` and `b_dec`
    # kept.

    @property
    def name(self) -> str:
        """Architecture, size and sparsity in a word: `topk-1536-k32`, `gated-1536-l5`."""
        sparsity = self.sparsity_of(self.options)
        value = getattr(self.options, sparsity, None)
        return f"{self.kind}-{self.d_sae}" + ("" if value is None else f"-{sparsity[0]}{value:g}")

    @property
    def recipe(self) -> Recipe:
        """How it wants to be optimised, if it learns from gradients: at `rate`, with decoder rows
        of length 1, with momentum."""
        return Recipe(lr=rate(self.d_sae), unit_rows=("W_dec",))

    def rebuild(self, codes: Codes) -> Batch:
        """Scaled rows by name, from codes in scaled units: z W_dec + b_dec for the one name that is
        reconstructed."""
        self._reconstructs_one("rebuild")
        return {self.reconstructs[0]: decode_codes(codes, self.W_dec) + self.b_dec}

    def directions(self, name: str) -> Float[Tensor, "d_sae width"]:
        """Decoder directions towards one reconstructed name, in scaled units: the rows of W_dec."""
        self._reconstructs_one("directions")
        return self.W_dec

    def finish(self) -> None:
        """Called once after the last batch."""

    @classmethod
    def size(cls, options: Any, d_in: int) -> int:
        """Number of latents: `d_sae` of the options, unless it follows from the width (then the
        options have none)."""
        return options.d_sae

    @classmethod
    def files(cls, options: Any) -> Sequence[Path]:
        """Files that the first values are read from; their bytes go into the key.

        Raises:
            DictionaryError: one of them is not there, or cannot be one.
        """
        return ()

    @classmethod
    def gathers(cls, options: Any, d_in: int) -> int:
        """Bytes of statistics that are held while batches come, beside the parameters."""
        return 0

    @classmethod
    def used(cls, options: Any) -> int:
        """Latents that a token decodes while learning, beside revived ones; what sparse parts of an
        update are estimated from."""
        return getattr(options, "k", 0)

    @classmethod
    def rivals(cls, options: Any) -> int:
        """Dictionaries of this size that learn together, of which `finish` keeps one."""
        return 1

    @classmethod
    def control(cls, trained: Mapping[str, Any]) -> Config:
        """Options of the dictionary that stands untrained beside a trained one, equal in size and
        in sparsity.

        Random directions, with a gain fitted, and as many active latents as the trained one has on
        held-out text. (First values of another architecture would not do: a `relu` one starts half
        active.) Where options of an architecture that learns are returned, its first values are the
        control.

        Args:
            trained: the facts of its artifact: `d_sae`, `l0`, `reads`, `reconstructs`.

        Raises:
            DictionaryError: a dictionary that is no autoencoder of one hook point, whose class has
                no `control`.
        """
        reads, reconstructs = tuple(trained["reads"]), tuple(trained["reconstructs"])
        if reads != reconstructs or len(reads) > 1:
            raise DictionaryError(
                f"architecture {cls.kind} reads {', '.join(reads)} and reconstructs "
                f"{', '.join(reconstructs)}, and its class has no `control` of its own: what it "
                "inherits is for one hook point; write `control`"
            )
        k = min(max(1, round(trained["l0"])), trained["d_sae"])
        return architectures["untrained"].config(d_sae=trained["d_sae"], k=k)  # type: ignore[call-arg]

    @classmethod
    def sparsity_of(cls, options: Any) -> str:
        """`sparsity`, unless the options say that another one of them sets how sparse the codes
        are."""
        return cls.sparsity

    # What everybody calls.

    @property
    @final
    def scale(self) -> float:
        """The activation scale of what is read (of the first name where there are several)."""
        return self.scales[self.reads[0]]

    @property
    @final
    def hook_point(self) -> str:
        """The first name read."""
        return self.reads[0]

    @property
    @final
    def writes(self) -> tuple[str, ...]:
        """The hook points among what is reconstructed: where the model can be given the
        reconstruction or be steered."""
        return tuple(
            name for name in self.reconstructs if not name.startswith(("gradient:", "error:"))
        )

    @final
    def begin(self, sample: Batch, generator: torch.Generator) -> None:
        """Estimates the scales from a sample of rows, then sets the first values of the parameters.

        Raises:
            DictionaryError: activations that are all zero or do not vary.
        """
        for name in self.widths:
            self.scales[name] = _scale(name, sample)
        with torch.no_grad():
            self.start(self.scaled(sample), generator)

    @final
    def loss(self, batch: Batch, moment: Moment) -> Outcome:
        """Named loss terms of a batch of activations."""
        return self.outcome(self.scaled(batch), moment)

    @final
    @torch.no_grad()
    def encode(self, x: Tensor | Batch) -> Codes:
        """Codes of activations: a latent's value is its length along its decoder direction, in
        activation units.

        The encoder's product is made for a bounded number of rows at a time.

        Args:
            x: rows [token, d_in], or rows by name where several are read.

        Raises:
            DictionaryError: rows of another width, or a name that is missing.
        """
        batch = {self.reads[0]: x} if isinstance(x, Tensor) else x
        n_rows = batch[self.reads[0]].shape[0] if self.reads[0] in batch else 0
        at_once = max(1, _ENTRIES_AT_ONCE // self.d_sae)
        parts = [
            self.codes(
                self.scaled(
                    {name: rows[start : start + at_once] for name, rows in batch.items()},
                    self.reads,
                )
            )
            for start in range(0, max(1, n_rows), at_once)
        ]
        codes = Codes.cat(parts)
        return dataclasses.replace(codes, values=codes.values / self.scales[self.reconstructs[0]])

    @final
    @torch.no_grad()
    def decode(self, codes: Codes, name: str | None = None) -> Float[Tensor, "token width"]:
        """Activations that the codes stand for, towards `name` (by default the first that is
        reconstructed).

        Raises:
            DictionaryError: codes of a dictionary of another size.
        """
        if codes.d_sae != self.d_sae:
            raise DictionaryError(
                f"dictionary {self.name} has {self.d_sae} latents, got codes over {codes.d_sae}; "
                "decode with the dictionary that encoded them"
            )
        name = name or self.reconstructs[0]
        scaled = dataclasses.replace(codes, values=codes.values * self.scales[self.reconstructs[0]])
        return self.rebuild(scaled)[name] / self.scales[name]

    @final
    @torch.no_grad()
    def decoder_directions(self, name: str | None = None) -> Float[Tensor, "d_sae width"]:
        """What one unit of each latent adds to the reconstruction, in activation units."""
        name = name or self.reconstructs[0]
        return self.directions(name) * (self.scales[self.reconstructs[0]] / self.scales[name])

    @final
    def scaled(self, batch: Batch, names: tuple[str, ...] | None = None) -> dict[str, Tensor]:
        """Rows in this dictionary's dtype, on its device, times the scale, for these names (by
        default all).

        Raises:
            DictionaryError: rows of another width, or a name that is missing.
        """
        scaled = {}
        for name in names or tuple(self.widths):
            if name not in batch:
                raise DictionaryError(
                    f"dictionary {self.name} reads {name}, got activations at "
                    f"{', '.join(batch) or 'no hook point'}; capture that hook point too"
                )
            width = batch[name].shape[-1]
            if width != self.widths[name]:
                raise DictionaryError(
                    f"dictionary {self.name} was trained at {name} with d_in {self.widths[name]}, "
                    f"got activations of width {width}; use activations of the model it was "
                    "trained on, or train one on these"
                )
            scaled[name] = batch[name].to(self.like.device, self.like.dtype) * self.scales[name]
        return scaled

    @final
    @torch.no_grad()
    def fold(self, whitening: Whitening) -> None:
        """From now on reads activations where it read whitened ones, and rebuilds activations: same
        codes, other weights.

        With u = s (x - mean) A, what it has learnt to read: W_enc becomes W_enc A, W_dec becomes
        W_dec A^-1, and b_dec becomes b_dec A^-1 + s mean. The pre-activations are the same numbers
        up to rounding. Rows of W_dec lose their norm of 1.
        """
        assert self.folds and self.reads == self.reconstructs and len(self.reads) == 1, (
            f"{self.kind} cannot be folded"
        )
        W_enc = self.get_parameter("W_enc")
        W_enc.copy_(W_enc @ whitening.into)
        self.W_dec.copy_(whitening.directions(self.W_dec))
        self.b_dec.copy_(whitening.directions(self.b_dec[None])[0] + self.scale * whitening.mean)

    def _reconstructs_one(self, what: str) -> None:
        if len(self.reconstructs) > 1:
            raise DictionaryError(
                f"architecture {self.kind} reconstructs {', '.join(self.reconstructs)}, and its "
                f"class has no `{what}` of its own: what it inherits is for one name; write "
                "`rebuild` and `directions`"
            )

    @final
    def save(self, folder: Path) -> None:
        """Writes `dictionary.safetensors`, then `dictionary.json`, each whole or not at all."""
        description = {
            "architecture": self.kind,
            "version": self.version,
            "options": self.options.model_dump(mode="json"),
            "reads": self.reads,
            "reconstructs": self.reconstructs,
            "widths": self.widths,
            "scales": self.scales,
            "d_in": self.d_in,
            "d_sae": self.d_sae,
            "dtype": str(self.like.dtype).removeprefix("torch."),
        }
        if self.latent_names:
            description["latent_names"] = self.latent_names
        saved.write(folder, description, self.state_dict())

    @staticmethod
    @final
    def load(source: Path | str | Artifact, device: torch.device | str = "cpu") -> Dictionary:
        """The dictionary in a folder or in an artifact of `train` (its bytes verified).

        Raises:
            DictionaryError: no dictionary there, a pickle, a newer format, or tensors that are
                missing or misshapen.
        """
        description, tensors = saved.read(source, device)
        architecture = architectures[description["architecture"]]
        dictionary = architecture(
            load(architecture.config, description["options"]),
            tuple(description["reads"]),
            tuple(description["reconstructs"]),
            description["widths"],
        )
        dictionary.scales = description["scales"]
        dictionary.latent_names = tuple(description.get("latent_names", ()))
        wanted = {name: tuple(tensor.shape) for name, tensor in dictionary.state_dict().items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if wanted != shapes:
            path = (source.folder if isinstance(source, Artifact) else Path(source)) / saved.WEIGHTS
            raise DictionaryError(f"{path}: wanted tensors of shapes {wanted}, found {shapes}")
        dictionary.to(device, getattr(torch, description["dtype"])).load_state_dict(tensors)
        return dictionary


def untrained(
    options: Any,
    hook_point: str,
    widths: Mapping[str, int],
    sample: Batch,
    generator: torch.Generator,
) -> Dictionary:
    """A dictionary of these options with its scales and first values, on the sample's device;
    nothing learnt yet."""
    architecture = architectures[options.kind]
    reads, reconstructs = architecture.wiring(options, hook_point)
    dictionary = architecture(options, reads, reconstructs, widths).to(
        next(iter(sample.values())).device
    )
    dictionary.begin(sample, generator)
    return dictionary


def _scale(name: str, sample: Batch) -> float:
    """sqrt(width) over the mean norm; gradients take the inverse scale of their hook point, by the
    chain rule."""
    hook_point = name.rpartition("gradient:")[2]
    if hook_point not in sample:
        raise DictionaryError(
            f"{name} is scaled by the activations at {hook_point}, got {', '.join(sample)}; read "
            f"{hook_point} beside it"
        )
    rows = sample[hook_point].float()
    if not (rows != rows[0]).any():
        raise DictionaryError(
            f"the {len(rows)} activations sampled at {hook_point} are all equal: nothing to "
            "learn; capture other text or another hook point"
        )
    scale = math.sqrt(rows.shape[1]) / rows.norm(dim=1).mean().item()
    return scale if hook_point == name else 1 / scale
