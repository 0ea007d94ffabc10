"""Who answers the judges of steering that ask a language model, and kinds of targets that do: how
that enters the key, and what it may cost.

`steer.client` answers, within `steer.budget`. Which model that is, the bytes of the prompts and the
budget are part of the artifact's key where somebody asks, and of no other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from components.client import identity
from components.client.client import Client
from components.client.forecast import NOTHING
from components.client.forecast import forecast as of_clients
from components.config import warn_once
from components.device import Execution
from components.steering.asking import AskingJudge
from components.steering.contract import judges
from components.store.estimate import Forecast

if TYPE_CHECKING:
    from components.steering.config import SteerConfig
    from components.steering.meter import Meter

log = logging.getLogger(__name__)
CLIENT, BUDGET = "steer.client", "steer.budget"


def asking(config: SteerConfig) -> dict[str, type[AskingJudge]]:
    """The listed judges that ask."""
    listed = {name: judges[name] for name in config.judges}
    return {name: judge for name, judge in listed.items() if issubclass(judge, AskingJudge)}


def is_asked(config: SteerConfig) -> bool:
    """Whether somebody is asked at all."""
    asks = bool(asking(config)) or config.targeted.asks
    return asks and config.client.kind != "none"


def warn_of_unasked(config: SteerConfig) -> None:
    """Says so where a client is set that nobody asks: no listed judge, and no target."""
    if config.client.kind != "none" and not is_asked(config):
        able = [name for name in judges.names() if issubclass(judges[name], AskingJudge)]
        sentence = f"no listed judge asks it: list {' or '.join(able)} in steer.judges"
        warn_once(log, f"{CLIENT} is set and {sentence}")


def prompts(config: SteerConfig) -> Mapping[str, list[Path]]:
    """The prompts of each listed judge that asks."""
    return {
        name: list(judge.files(getattr(config.judge_settings, name)))
        for name, judge in asking(config).items()
    }


def numbers(config: SteerConfig) -> Mapping[str, int]:
    """What of the client is part of the key, a number for each part: nothing where nobody is
    asked."""
    return identity.numbers({"client": config.client} if is_asked(config) else {}, config.budget)


def client_of(config: SteerConfig, execution: Execution) -> Client | None:
    """Who answers, made sure to be there and to have room for the prompts; nothing is paid. None
    where nobody is asked.

    Raises:
        ConfigError: no endpoint there, no key, a model that is not served, no budget, a model whose
            context a prompt fills alone, before any text stands in it.
    """
    if not is_asked(config):
        return None
    client = Client(config.client, config.budget, execution, CLIENT, BUDGET)
    client.check()
    for name, judge in asking(config).items():
        shortest = judge.shortest(getattr(config.judge_settings, name))
        client.refuse_too_long(shortest, f"the prompts of {name}")
    return client


def forecast(config: SteerConfig, meter: Meter, execution: Execution) -> Forecast | None:
    """What a run asks at most, before it does; None where nobody is asked.

    Args:
        config: the section.
        meter: has planned the run.
        execution: for a model on this machine.

    Raises:
        ConfigError: the settings do not say who is asked.
    """
    if not is_asked(config):
        return None
    # a token of a small model is mostly less than one of a large one; a few are more
    text, prompt = 2 * config.max_new_tokens, 2 * meter.longest
    each = NOTHING
    for name, judge in asking(config).items():
        each = each.plus(judge.most_asked(getattr(config.judge_settings, name), text, prompt))
    most = each.times(meter.asked).plus(config.targeted.most_asked())
    whole = [(most, config.client, CLIENT)]
    return of_clients(whole, config.budget, BUDGET, execution)
