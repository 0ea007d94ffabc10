"""Who answers prompts while latents are interpreted: how that enters the key, what it may cost, and
the clients themselves.

`interpret.client` writes explanations, for explainers that ask; `interpret.judge` reads, for
predictors and scorers of latents that ask, and is the same client where it is not set. Both share
`interpret.budget`. Which model answers is part of the artifact's key where a listed entry asks, and
of no other; so is the budget, since where it ends decides what is known.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.client import identity
from components.client.client import Client
from components.client.forecast import NOTHING, Most
from components.client.forecast import forecast as of_clients
from components.client.price import Purse
from components.config import warn_once
from components.device import Execution
from components.errors import ConfigError
from components.interpretation.contract import Predictor, explainers, predictors, scorers
from components.interpretation.latent_contract import latent_scorers
from components.interpretation.trials import Shown, Unit
from components.store.estimate import Forecast

if TYPE_CHECKING:  # it imports this module
    from components.interpretation.config import InterpretConfig

log = logging.getLogger(__name__)
CLIENT, JUDGE, BUDGET = "interpret.client", "interpret.judge", "interpret.budget"


def writers(config: InterpretConfig) -> list[str]:
    """The listed explainers that ask."""
    return [name for name in config.explainers if explainers[name].asks]


def readers(config: InterpretConfig) -> list[str]:
    """The listed predictors that ask."""
    return [name for name in config.predictors if predictors[name].asks]


def readers_of_latents(config: InterpretConfig) -> list[str]:
    """The listed scorers of latents that ask, with these settings."""
    settings = config.latent_scorer_settings
    return [n for n in config.latent_scorers if latent_scorers[n].asks(getattr(settings, n))]


def first_reader(config: InterpretConfig) -> str | None:
    """The predictor with which explainers test what they write: the first of the listed that can be
    asked about windows."""
    return next((name for name in config.predictors if predictors[name].answers("windows")), None)


def judge_of(config: InterpretConfig) -> tuple[Any, str]:
    """Who answers predictors and scorers of latents, and the section that says so."""
    alone = config.judge.kind == "none"
    return (config.client, CLIENT) if alone else (config.judge, JUDGE)


def refuse_nobody(config: InterpretConfig) -> None:
    """Refuses entries that ask where nobody would answer.

    Raises:
        ConfigError: naming them, and what to set.
    """
    judge = judge_of(config)[0]
    kinds = (
        (writers, "explainer", config.client),
        (readers, "predictor", judge),
        (readers_of_latents, "latent scorer", judge),
    )
    for listed, noun, section in kinds:
        if (names := listed(config)) and section.kind == "none":
            verb = "asks" if len(names) == 1 else "ask"
            raise ConfigError(
                f"{noun} {', '.join(names)} {verb} a language model, and {CLIENT}.kind is none: set "
                f"it to endpoint (a server) or local (a model on this machine), or leave "
                f"{', '.join(names)} out of interpret.{noun.replace(' ', '_')}s"
            )


def warn_of_unasked(config: InterpretConfig) -> None:
    """Says so where a client is set that no listed entry asks: what it was set for does not
    happen."""
    writes, reads = writers(config), readers(config) or readers_of_latents(config)
    judge = judge_of(config)[1]
    if config.client.kind != "none" and not writes and not (reads and judge == CLIENT):
        warn_once(
            log,
            f"{CLIENT} is set and no listed entry asks it: list max_activating in "
            "interpret.explainers (it writes explanations), or client in interpret.predictors (it "
            "reads them)",
        )
    if config.judge.kind != "none" and not reads:
        warn_once(
            log, f"{JUDGE} is set and no listed entry asks it: list client in interpret.predictors"
        )


def numbers(config: InterpretConfig) -> Mapping[str, int]:
    """What of the clients is part of the key, a number for each: nothing where no entry asks."""
    asked = {"client": config.client} if writers(config) else {}
    asked |= {"judge": judge_of(config)[0]} if readers(config) or readers_of_latents(config) else {}
    return identity.numbers(asked, config.budget)


@dataclasses.dataclass(frozen=True, eq=False)
class Clients:
    """Who answers in one run.

    Attributes:
        client: for explainers; None where none asks.
        judge: for predictors and scorers of latents; the same one where it is not set apart; None
            where none asks.
        is_one_model: whether the same model writes explanations and reads them.
    """

    client: Client | None
    judge: Client | None
    is_one_model: bool = False

    @classmethod
    def of(cls, config: InterpretConfig, execution: Execution) -> Clients:
        """Makes sure that they can be asked; nothing is paid.

        Raises:
            ConfigError: no endpoint there, no key, a model that is not served, no budget.
        """
        purse = Purse(config.budget)
        section, where = judge_of(config)
        writes, reads = bool(writers(config)), bool(readers(config))
        client = Client(config.client, purse, execution, CLIENT, BUDGET) if writes else None
        judge, asks_judge = client, reads or bool(readers_of_latents(config))
        if asks_judge and not (writes and where == CLIENT):
            judge = Client(section, purse, execution, where, BUDGET)
        for each in dict.fromkeys((client, judge)):
            if each is not None:
                each.check()
        is_one = writes and reads and identity.identity(config.client) == identity.identity(section)
        if is_one:
            log.warning(
                "%s writes explanations and reads them: a model finds its own words easier to "
                "follow; set %s to another one",
                section.model if isinstance(section.model, str) else section.model.path,
                JUDGE,
            )
        return cls(client, judge if asks_judge else None, is_one)

    @property
    def _each(self) -> Mapping[str, Client]:
        named = {"client": self.client, "judge": self.judge}
        if self.judge is self.client:
            del named["judge"]
        return {name: each for name, each in named.items() if each is not None}

    def __bool__(self) -> bool:
        return bool(self._each)

    def facts(self) -> Mapping[str, Any]:
        """What was asked, got and paid, for the manifest."""
        accounts = {name: each.account.facts() for name, each in self._each.items()}
        return accounts | {"is_one_model": self.is_one_model}

    def calls(self) -> Iterator[Mapping[str, Any]]:
        """The sample of calls, rows of the table `calls`; what both asked alike stands once."""
        rows = {row["call"]: row for each in self._each.values() for row in each.account.rows()}
        return (rows[call] for call in sorted(rows))


def forecast(config: InterpretConfig, execution: Execution, controls: int) -> Forecast | None:
    """What a run asks at most, before it does; None where no listed entry asks.

    Args:
        config: the section.
        execution: for a model on this machine.
        controls: dictionaries that are explained and scored beside the one that is interpreted.

    Raises:
        ConfigError: the settings do not say who is asked.
    """
    if not (writers(config) or readers(config) or readers_of_latents(config)):
        return None
    written, read = _most(config, controls)
    asked = [(written, config.client, CLIENT), (read, *judge_of(config))]
    return of_clients(asked, config.budget, BUDGET, execution)


def _most(config: InterpretConfig, controls: int) -> tuple[Most, Most]:
    """What all explainers ask, and what all that read ask; of the dictionary and its controls."""
    written, read = NOTHING, NOTHING
    for name in readers_of_latents(config):
        settings = getattr(config.latent_scorer_settings, name)
        n = config.latents + controls * config.of_control
        read = read.plus(latent_scorers[name].most_asked(settings).times(n))
    for name in config.explainers:
        explainer, settings = explainers[name], getattr(config.explainer_settings, name)
        beside = explainer.role == "entry" and explainer.any_dictionary
        # latents of each dictionary whose latents it explains
        latents = [config.latents, *[config.of_control] * (controls * beside)]
        n = sum(latents)
        if explainer.asks:
            each = explainer.most_asked(settings, config.contexts, config.longest)
            written = written.plus(each.times(n))
        first = first_reader(config)
        if explainer.tests_itself and first:
            shown = Shown(config.contexts.explain_windows)
            tests = _of_predictor(config, predictors[first], "windows", shown)
            read = read.plus(tests.times(n * explainer.most_tests(settings)))
        for predictor, scorer in itertools.product(readers(config), config.scorers):
            # the explanation, and another latent's in its place
            read = read.plus(_of_scorer(config, predictor, scorer, latents).times(2))
    return written, read


def _of_scorer(
    config: InterpretConfig, predictor: str, scorer: str, latents: Sequence[int]
) -> Most:
    """What a predictor asks for a scorer about one explanation of each latent, the latents of
    several dictionaries."""
    reader, of = predictors[predictor], scorers[scorer]
    shown = of.most_shown(getattr(config.scorer_settings, scorer), config.contexts)
    asked = _of_predictor(config, reader, of.needs, shown).times(sum(latents))
    for n in latents if shown.pool else ():
        if reader.reads_pool:
            asked = asked.plus(_of_predictor(config, reader, "windows", Shown(shown.pool)).times(n))
            continue
        # Latents that are skipped leave larger parts of the pool to the others, and with these the
        # last prompt of a part may be fuller or emptier: whichever number asks most.
        parts = (
            _of_predictor(config, reader, "windows", Shown(-(-shown.pool // left))).times(left)
            for left in range(1, n + 1)
        )
        asked = asked.plus(Most(*map(max, zip(*parts, strict=True))))
    return asked


def _of_predictor(
    config: InterpretConfig, predictor: type[Predictor], unit: Unit, shown: Shown
) -> Most:
    """What a predictor asks about one explanation in this unit."""
    if not predictor.answers(unit):
        return NOTHING
    given = unit if unit in predictor.gives else "tokens"
    settings = getattr(config.predictor_settings, predictor.kind)
    return predictor.most_asked(settings, config.contexts, given, shown)
