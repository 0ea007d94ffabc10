"""The hook point sweep: where in the model each method steers best, chosen by text after validate
prompts.

Methods whose steerings come from activations alone (`SteeringMethod.any_hook_point`) are asked at
each hook point of `steer.hook_point_sweep`. Strengths are set at equal cost, as for every steering.
The score of a hook point is what validate prompts choose candidates by (`choice.Merits`), mean over
all targets and KL budgets; a target without text counts as 0. The largest wins, of equals the
earlier one: one hook point for each method, not one for each target. What stands elsewhere goes no
further, and no test prompt has been written by then.

Controls go through the same. A method under a control chooses as the method does. Of a control that
belongs to no concept each direction chooses for itself, over all targets: it is what a method would
be that knows nothing, and it has as many hook points to choose from.

Methods that read a dictionary, and the untrained one, stay where the dictionary writes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from jaxtyping import Float

from components.config import Config
from components.errors import InputError
from components.report.measure import Measure
from components.statistics import Interval, bounded, t_interval
from components.steering.choice import Merits, Steered
from components.steering.comparison import Comparison
from components.steering.contract import SteeringMethod
from components.steering.scores import score_row

if TYPE_CHECKING:
    from components.steering.config import SteerConfig

VERSION = 1
MEASURES = (
    Measure(
        "hook_point_sweep", "Hook point sweep", "0 to 1",
        "What text after validate prompts reached at the hook point that it chose for the method: a "
        "largest value, so it is read for the choice alone.",
        "neither", rank=5, kinds=5, least=-1, most=1,
    ),
)  # fmt: skip
"""What a sweep adds to the measures of the stage."""
RANGE = {"composite": (0.0, 1.0), "uplift": (-1.0, 1.0)}
"""What may choose, and its range: the composite, or the uplift where no composite is judged."""
Who = tuple[str, int | None]
"""What chooses: a method, or one direction of a control (its number)."""


def numbered(replicate: int, place: int, n_places: int) -> int:
    """The number, among all steerings of its method, of one that has this number at a place."""
    return replicate * n_places + place


def settings_at_each(
    config: SteerConfig, kind: type[SteeringMethod], settings: Config
) -> list[Config]:
    """The settings of a method for each hook point that it is tried at; without a sweep its own."""
    if not (kind.any_hook_point and config.hook_point_sweep):
        return [settings]
    return [settings.model_copy(update={"hook_points": [name]}) for name in config.hook_point_sweep]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is tried where.

    Attributes:
        hook_points: in the order in which equals are taken; none without a sweep.
        methods: names, as tables call them, of what is tried at each: methods, methods under
            controls, and controls.
    """

    hook_points: Sequence[str]
    methods: Collection[str]

    @classmethod
    def of(cls, config: SteerConfig) -> Sweep:
        """That of the section `steer`."""
        if not config.hook_point_sweep:
            return cls((), ())
        own = [name for name, (kind, _) in config.method_kinds().items() if kind.any_hook_point]
        spoilt = [called for called, (method, _) in config.spoilt().items() if method in own]
        return cls(config.hook_point_sweep, [*own, *spoilt])

    def refuse_absent(self, captured: Iterable[str]) -> None:
        """
        Raises:
            InputError: a hook point at which nothing was captured.
        """
        there = list(captured)
        if absent := [name for name in self.hook_points if name not in there]:
            raise InputError(
                f"steer.hook_point_sweep wants {', '.join(absent)}, where no activations were "
                f"captured; add it to capture.hook_points, or choose among those that were: "
                f"{', '.join(there)}"
            )

    def entrants(self, steered: Sequence[Steered]) -> list[Steered]:
        """Those that a hook point is chosen by."""
        return [s for s in steered if s.method in self.methods]

    def decide(
        self,
        validated: pl.DataFrame,
        steered: Sequence[Steered],
        targets: Sequence[str],
        floor: str | None = None,
    ) -> Decision:
        """The hook point of each method, and of each direction of a control.

        Args:
            validated: texts of validate prompts with their judgements
                (`components.store.judgements`), and no others.
            steered: every candidate at every budget.
            targets: what is steered towards.
            floor: the control whose directions stand beside each method.
        """
        if not self.hook_points:
            return Decision(self, "composite", floor, len(targets), {}, {})
        merits = Merits(validated)
        measure = "uplift" if validated["composite"].drop_nulls().is_empty() else "composite"
        groups: dict[Who, list[list[Steered]]] = {}
        for s in self.entrants(steered):
            number, place = divmod(s.candidate.replicate, len(self.hook_points))
            who = s.method, None if s.candidate.concept is not None else number
            groups.setdefault(who, [[] for _ in self.hook_points])[place].append(s)
        tried = {
            who: [_Tried.of(merits, group, targets, measure) for group in places]
            for who, places in groups.items()
        }
        chosen = {
            who: max(range(len(places)), key=lambda i, places=places: (places[i].merit, -i))
            for who, places in tried.items()
        }
        return Decision(self, measure, floor, len(targets), tried, chosen)


@dataclasses.dataclass(frozen=True, eq=False)
class _Tried:
    """One method, or one direction of a control, at one hook point.

    Attributes:
        reached: by KL budget (None where no strength can be set) what each target reaches on
            validate: composite and uplift (of what is meant to lower its targets the fall); 0 where
            it has no text.
        measure: the column of `reached` that chooses.
        n_failed: by KL budget the targets without text that worked.
        reasons: by KL budget why.
        numbers: of its steerings, in the tables.
        lowers: whether it is meant to lower its targets.
    """

    reached: Mapping[float | None, Float[np.ndarray, "target 2"]]
    measure: int
    n_failed: Mapping[float | None, int]
    reasons: Mapping[float | None, str | None]
    numbers: Sequence[int]
    lowers: bool = False

    @classmethod
    def of(
        cls, merits: Merits, group: Sequence[Steered], targets: Sequence[str], measure: str
    ) -> _Tried:
        """From its steerings: where a target has several, validate prompts choose among them as
        they always do."""
        reached, n_failed, reasons = {}, {}, {}
        lowers = any(s.candidate.lowers for s in group)
        sign = -1 if lowers else 1
        for budget in dict.fromkeys(s.budget for s in group):
            here = [s for s in group if s.budget == budget]
            values, working = np.zeros((len(targets), 2)), np.zeros(len(targets), bool)
            for s in merits.best(here):
                for i, target in enumerate(targets):
                    row = merits.reached(s, target)
                    if s.candidate.concept in (None, target) and row:
                        values[i] = row["composite"] or 0.0, sign * (row["uplift"] or 0.0)
                        working[i] = row["n_failed"] < row["n"]
            reached[budget], n_failed[budget] = values, int((~working).sum())
            why = Counter(s.reason for s in here if s.reason).most_common(1)
            reasons[budget] = (
                f"{n_failed[budget]} of {len(targets)} targets have no text here and count as 0"
                + "".join(f": {reason}" for reason, _ in why)
                if n_failed[budget]
                else None
            )
        numbers = sorted({s.candidate.replicate for s in group})
        return cls(reached, list(RANGE).index(measure), n_failed, reasons, numbers, lowers)

    @property
    def merit(self) -> tuple[bool, float, float]:
        """What the choice is made by: whether any target has text, as what has no strength is no
        rival; then the mean over targets and budgets of composite, and of uplift."""
        composite, uplift = np.mean([of.mean(0) for of in self.reached.values()], axis=0)
        works = any(self.n_failed[budget] < len(of) for budget, of in self.reached.items())
        return works, float(composite), float(uplift)

    @property
    def score(self) -> float:
        """Mean over targets and budgets of what chooses."""
        return float(self.of_targets.mean())

    @property
    def of_targets(self) -> Float[np.ndarray, " target"]:
        """What each target reaches, mean over budgets."""
        return np.mean([of[:, self.measure] for of in self.reached.values()], axis=0)


@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
    """The hook points that were chosen.

    Attributes:
        sweep: what was tried.
        measure: what chose: composite or uplift.
        floor: the control whose directions stand beside each method.
        n_targets: targets that a score is the mean over.
        tried: who -> what was tried at each hook point.
        chosen: who -> which of them, by its place in the sweep.
    """

    sweep: Sweep
    measure: str
    floor: str | None
    n_targets: int
    tried: Mapping[Who, Sequence[_Tried]]
    chosen: Mapping[Who, int]

    def kept(self, steered: Sequence[Steered]) -> list[Steered]:
        """Those at the hook points that were chosen, and all that had no choice."""
        return [s for s in steered if self._stays(s.method, s.candidate.replicate)]

    def frozen(self, results: pl.DataFrame) -> pl.DataFrame:
        """Texts without those at hook points that were not chosen: what is compared later went
        through the same choices, and this one is made."""
        if not self.tried:
            return results
        place = ["method", "replicate"]
        every = results.select(place).unique()
        lost = every.filter([not self._stays(*row) for row in every.iter_rows()])
        return results.join(lost, on=place, how="anti", maintain_order="left")

    def _stays(self, method: str, replicate: int) -> bool:
        if method not in self.sweep.methods:
            return True
        number, place = divmod(replicate, len(self.sweep.hook_points))
        place_of = self.chosen.get((method, number), self.chosen.get((method, None)))
        return place_of is None or place == place_of

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows of the HOOK_POINTS table."""
        for (method, direction), places in self.tried.items():
            for i, (name, at) in enumerate(zip(self.sweep.hook_points, places, strict=True)):
                for budget, reached in at.reached.items():
                    beside = self._beside(method, i, budget)
                    yield {
                        "method": method,
                        "direction": direction,
                        "hook_point": name,
                        "kl_budget": budget,
                        "measure": self.measure,
                        **dataclasses.asdict(self._interval(reached[:, at.measure])),
                        "n_failed": at.n_failed[budget],
                        "uplift": (-1 if at.lowers else 1) * float(reached[:, 1].mean()),
                        "over_budgets": at.score,
                        "baseline": beside,
                        "baseline_name": None if beside is None else self._floor_name,
                        "better": "higher",
                        "chosen": i == self.chosen[method, direction],
                        "replicates": at.numbers,
                        "reason": at.reasons[budget],
                    }

    def facts(self) -> dict[str, Any]:
        """What the manifest says; nothing without a sweep. Of a control how many of its directions
        chose each hook point."""
        if not self.sweep.hook_points:
            return {}
        chosen: dict[str, Any] = {}
        for method in self.sweep.methods:
            counts = self._counts(method)
            if (method, None) in self.chosen:
                chosen[method] = next(name for name, n in counts.items() if n)
            elif sum(counts.values()):
                chosen[method] = counts
        return {"hook_point_sweep": {"tried": list(self.sweep.hook_points), "chosen": chosen}}

    def score_rows(self, comparison: Comparison) -> Iterator[dict[str, Any]]:
        """A row of the scores for each method and control that was tried: what the chosen hook
        point reached, with the whole curve as its note."""
        for method in self.sweep.methods:
            own = {who: at for who, at in self.tried.items() if who[0] == method}
            about: dict[str, Any] = {"split": "validate", "concept_kind": "all", "n_failed": 0}
            if not (own and self.n_targets):
                interval = Interval(None, None, None, 0)
                reason = comparison.absent.get(method, "no concept passed the gate")
            else:
                at = [places[self.chosen[who]] for who, places in own.items()]
                interval = self._interval(np.mean([each.of_targets for each in at], axis=0))
                about["n_failed"] = max(max(each.n_failed.values()) for each in at)
                reason = self._told(method)
            beside = self._beside_chosen(method)
            yield score_row(
                comparison,
                MEASURES[0].name,
                interval,
                **comparison.who(method),
                **about,
                reason=reason,
                baseline=None if beside is None else (beside, f"{self._floor_name}, likewise"),
            )

    def _told(self, method: str) -> str:
        """The curve in a sentence."""
        counts, told = self._counts(method), []
        is_control = (method, None) not in self.chosen
        for i, name in enumerate(self.sweep.hook_points):
            at = [places[i] for (of, _), places in self.tried.items() if of == method]
            interval = self._interval(np.mean([each.of_targets for each in at], axis=0))
            beside = self._beside(method, i)
            notes = [
                *(
                    [f"{interval.low:.3g} to {interval.high:.3g}"]
                    if interval.low is not None
                    else []
                ),
                *([f"controls {beside:.3g}"] if beside is not None else []),
                *([f"chosen by {counts[name]}"] if is_control else []),
            ]
            told.append(f"{name} {interval.value:.3g}" + f" ({', '.join(notes)})" * bool(notes))
        begin = (
            f"each of {sum(counts.values())} directions chose one"
            if is_control
            else next(f"{name} was chosen" for name, n in counts.items() if n)
        )
        of = f"mean {self.measure} on validate text over {self.n_targets} targets"
        return f"{begin} among {len(told)} hook points by the {of}: {', '.join(told)}"

    def _counts(self, method: str) -> dict[str, int]:
        """How often each hook point was chosen: once by a method, once by each direction of a
        control."""
        places = Counter(place for (of, _), place in self.chosen.items() if of == method)
        return {name: places[i] for i, name in enumerate(self.sweep.hook_points)}

    @property
    def _of_floor(self) -> list[Who]:
        return [who for who in self.tried if who[0] == self.floor]

    @property
    def _floor_name(self) -> str:
        return f"mean of {len(self._of_floor)} directions of {self.floor}"

    def _beside(self, method: str, place: int, budget: float | None = None) -> float | None:
        """What the control's directions reach at that hook point; at one budget, or over all."""
        at = [self.tried[who][place] for who in self._of_floor]
        if not at or method == self.floor or self._lowers(method):
            return None
        if budget is None:
            return float(np.mean([each.score for each in at]))
        reached = [each.reached[budget][:, each.measure] for each in at if budget in each.reached]
        return float(np.mean(reached)) if reached else None

    def _beside_chosen(self, method: str) -> float | None:
        """What they reach, each at the hook point that it chose."""
        if not self._of_floor or method == self.floor or self._lowers(method):
            return None
        return float(np.mean([self.tried[who][self.chosen[who]].score for who in self._of_floor]))

    def _lowers(self, method: str) -> bool:
        """Whether it is meant to lower its targets: the control's directions, which chose their hook
        point by what they gained, are then nothing to compare with."""
        return any(each.lowers for each in self.tried.get((method, None), ()))

    def _interval(self, values: Float[np.ndarray, " target"]) -> Interval:
        """Student's over targets; an interval without width, which would claim to be sure, is left
        out."""
        found = bounded(t_interval(values), *RANGE[self.measure])
        return found if found.low != found.high else dataclasses.replace(found, low=None, high=None)
