"""Independent components (scikit-learn's FastICA), both signs of each, top-k sparsified.

    whiten with the principal components of the kept rows, rotate until the sources are as far from Gaussian as can be:
    s = (x - b_dec) U.T        x = s A.T + b_dec        W_dec = (a_i / ||a_i||, its opposite)        W_enc = (||a_i|| u_i, ...)
    u = (x - b_dec) W_enc.T        z = ReLU(the k largest u)        x^ = z W_dec + b_dec

FastICA needs its rows at once, so the first `rows` rows of the shuffled stream are kept (part of
the checkpoint, dropped at the end) and later ones are not looked at. The first rotation is drawn
from the seed, so the result is a function of seed and data. Directions that do not vary are left
out: their latents are rows of zeros that never fire. Decoder rows have norm 1, so a code is the
length of its contribution and the largest contributions are kept; they are not orthogonal, so the
rest is not refitted. Both signs because codes are amounts and never negative here, so d_sae = 2
d_in. Before the end it is the raw basis.

Source: Hyvarinen and Oja 2000, "Independent component analysis: algorithms and applications"
(parallel FastICA with log cosh); as a baseline for dictionaries, Cunningham et al. 2023
(arXiv:2309.08600).
"""

from __future__ import annotations

import logging
import warnings
from typing import Any, ClassVar, Literal, final

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from components.config import Config
from components.dictionary.contract import Batch, Dictionary, Moment, Outcome, architectures
from components.dictionary.initial import both_signs
from components.dictionary.kernels.sparse import topk_codes, topk_rebuilt
from components.store.shards import Codes

log = logging.getLogger(__name__)

FLAT = 1e-5
"""Standard deviations below this share of the largest count as no variation: noise of float32."""


class IcaConfig(Config, title="ica"):
    """Independent components, both signs."""

    kind: Literal["ica"] = "ica"
    """Latents are independent components and their opposites, 2 * d_in of them; a baseline."""
    k: PositiveInt = 32
    """Latents that a token may use."""
    rows: PositiveInt = 32_768
    """Rows of the stream that are kept for the factorisation."""
    iterations: PositiveInt = 200
    """Rotations tried at most; a warning tells when that was too few."""


@architectures
@final
class Ica(Dictionary):
    """See the module."""

    version = 1
    config: ClassVar[type[Config]] = IcaConfig
    learns = "statistics"
    baseline = True
    options: IcaConfig

    n: Tensor | None
    kept: Tensor | None

    def __init__(self, options, reads, reconstructs, widths) -> None:
        super().__init__(options, reads, reconstructs, widths)
        self.W_enc = nn.Parameter(torch.zeros(self.d_sae, self.d_in), requires_grad=False)
        self.W_dec = nn.Parameter(torch.zeros(self.d_sae, self.d_in), requires_grad=False)
        self.b_dec = nn.Parameter(torch.zeros(self.d_in), requires_grad=False)
        self.seed = 0
        for name in ("n", "kept"):  # there only while rows are kept
            self.register_buffer(name, None)

    @classmethod
    def size(cls, options: Any, d_in: int) -> int:
        """Two for each component."""
        return 2 * d_in

    @classmethod
    def gathers(cls, options: Any, d_in: int) -> int:
        """The rows that are kept."""
        return 4 * options.rows * d_in

    def start(self, sample: Batch, generator: torch.Generator) -> None:
        """The raw basis around the mean, and room for the rows."""
        self.b_dec.copy_(sample[self.hook_point].double().mean(0))
        self.W_dec.copy_(both_signs(torch.eye(self.d_in)))
        self.W_enc.copy_(self.W_dec)
        self.seed = int(torch.randint(2**31, (), generator=generator))
        # on the host, where asking it waits for nothing
        self.n = torch.zeros((), dtype=torch.int64)
        self.kept = self.W_dec.new_zeros(self.options.rows, self.d_in)

    def outcome(self, batch: Batch, moment: Moment) -> Outcome:
        """Keeps rows while there is room; nothing to descend on."""
        x = batch[self.hook_point]
        if (
            self.n is not None
            and self.kept is not None
            and (room := len(self.kept) - int(self.n)) > 0
        ):
            self.kept[int(self.n) : int(self.n) + len(x)] = x[:room]
            self.n += min(room, len(x))
        x_hat, active = topk_rebuilt(x, self.W_enc, self.W_dec, self.b_dec, self.options.k)
        return Outcome({}, {self.hook_point: x_hat}, active)

    @torch.no_grad()
    def finish(self) -> None:
        """Factorises what was kept, then drops it."""
        if self.n is not None and self.kept is not None and self.n > 0:
            rows = self.kept[: int(self.n)].double().cpu()
            mean = rows.mean(0)
            unmixing, mixing = self._factors(rows - mean)
            norms = mixing.norm(dim=0)
            for weights, directions in (
                (self.W_enc, unmixing * norms[:, None]),
                (self.W_dec, (mixing / norms).T),
            ):
                whole = torch.zeros(self.d_in, self.d_in, dtype=torch.float64)
                whole[: len(directions)] = directions
                weights.copy_(both_signs(whole))
            self.b_dec.copy_(mean)
        self.n = self.kept = None

    def _factors(self, centred: Tensor) -> tuple[Tensor, Tensor]:
        """Unmixing [component, d_in] and mixing [d_in, component]: centred = (centred @ unmixing.T)
        @ mixing.T."""
        from sklearn.decomposition import (
            FastICA,  # here: half a second that describing the flows need not wait for
        )
        from sklearn.exceptions import ConvergenceWarning

        _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
        deviations = singular / len(centred) ** 0.5
        varies = deviations > FLAT * deviations[0]
        deviations, axes = deviations[varies], axes[varies]
        whitened = centred @ axes.T / deviations
        factorised = FastICA(whiten=False, max_iter=self.options.iterations, random_state=self.seed)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            factorised.fit(whitened.numpy())
        if any(issubclass(warning.category, ConvergenceWarning) for warning in told):
            log.warning(
                "%s has not converged after %d iterations over %d rows; raise iterations or rows",
                self.name,
                self.options.iterations,
                len(centred),
            )
        rotation = torch.from_numpy(factorised.components_)
        return rotation @ (axes / deviations[:, None]), axes.T @ (
            deviations[:, None] * torch.linalg.inv(rotation)
        )

    def codes(self, batch: Batch) -> Codes:
        """The k largest sources, by the length of what they add."""
        no_bias = self.W_enc.new_zeros(self.d_sae)
        return topk_codes(batch[self.hook_point], self.W_enc, no_bias, self.b_dec, self.options.k)
