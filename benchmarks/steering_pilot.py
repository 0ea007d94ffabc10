"""Whether the panel that judges steering can be trusted, before anything is steered.

    python benchmarks/steering_pilot.py [--world params.yaml] [--real examples/stories.yaml]
    [--tokens 64] [--targets 24] [--per-target 2] [--to FILE] [section.field=value ...]

On each model, unsteered: plain text under its true prompt must reach a relevance of 0.5 and a
fluency of 0.8 in the mean; real passages must be well above plain text by the composite of three;
and on that composite no trick of the gaming battery may come up to real text
(components/steering/battery.py). Targets are labelled concepts (the world), and latents of the
experiment's dictionary (both), with the words that set their passages apart as their text.
Minutes, where read, train and encode of both experiments are made already.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402

from components.dictionary.contract import Dictionary  # noqa: E402
from components.model.language_model import LanguageModel  # noqa: E402
from components.seeds import numpy_generator  # noqa: E402
from components.statistics import Interval, t_interval  # noqa: E402
from components.steering.battery import (  # noqa: E402
    REAL,
    Outcome,
    bait,
    find_cells,
    run_battery,
)
from components.steering.concepts import pick_concepts  # noqa: E402
from components.steering.config import SteerConfig  # noqa: E402
from components.steering.contract import (  # noqa: E402
    Concept,
    Continuation,
    JudgeServices,
    Material,
    Passages,
)
from components.steering.latent_reading import read_latents  # noqa: E402
from components.steering.material import read_material, read_passages, read_prompts  # noqa: E402
from components.steering.panel import Panel  # noqa: E402
from components.steering.subject import SteeredSubject  # noqa: E402
from components.steering.targeting import Ground  # noqa: E402
from components.steering.targets.labels import Labelled  # noqa: E402
from components.steering.writer import Job, Writer  # noqa: E402
from components.store import tables  # noqa: E402
from components.store.judgements import PANEL, UNSTEERED  # noqa: E402
from components.store.shards import CodeShards  # noqa: E402
from flows.chain import Chain  # noqa: E402
from flows.parameters import resolve  # noqa: E402

BARS = {"relevance": 0.5, "fluency": 0.8}
"""What plain text under its true prompt must reach in the mean."""
DENSITY = (2e-4, 4e-3)
"""How often a latent is active that may be a target: what is active in most text tells nothing."""
PANELS = {
    "world": (("concept",), ("readback",), ("readback", "meaning")),
    "real": (("readback",), ("readback", "meaning")),
}
"""Judges of the target: of labelled concepts, and of latents."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one experiment's panel does with one kind of target.

    Attributes:
        name: of the experiment and of its targets.
        plain: judge -> mean over plain text, with its interval over prompts.
        n_targets: targets, and those that passed the gate of the judges of the target.
        judges: the judges of the target.
        outcomes: the battery.
        seconds: of everything.
    """

    name: str
    plain: Mapping[str, Interval]
    n_targets: tuple[int, int]
    judges: Sequence[str]
    outcomes: Sequence[Outcome]
    seconds: float


def main() -> None:
    """Measures both experiments and prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world", type=Path, default=REPOSITORY / "params.yaml")
    parser.add_argument("--real", type=Path, default=REPOSITORY / "examples" / "stories.yaml")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--targets", type=int, default=24)
    parser.add_argument("--per-target", type=int, default=2)
    parser.add_argument("--to", type=Path, default=None)
    parser.add_argument("--only", choices=["world", "real"], default=None)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    written = []
    for which, path in (("world", arguments.world), ("real", arguments.real)):
        if arguments.only in (None, which):
            for measured in measure(path, PANELS[which], arguments):
                written += lines(measured)
                sys.stdout.write("\n".join(lines(measured)) + "\n")
                sys.stdout.flush()
    if arguments.to:
        arguments.to.write_text("\n".join(written) + "\n", encoding="utf-8")


def measure(
    path: Path, panels: Sequence[Sequence[str]], arguments: argparse.Namespace
) -> list[Measured]:
    """Everything that is asked of one experiment, for each list of judges of the target."""
    config = resolve(list(arguments.overrides), path)
    with Chain(config, plain=True) as chain:
        return [_measure(chain, of_target, arguments) for of_target in panels]


def _measure(chain: Chain, of_target: Sequence[str], arguments: argparse.Namespace) -> Measured:
    started = time.monotonic()
    config, corpus = chain.config, chain.artifact("read")
    model = chain.model.load(config.execution)
    dictionary = Dictionary.load(chain.artifact("train"))
    kind = "latents" if "readback" in of_target else "labels"
    steer = SteerConfig.model_validate(
        {
            "judges": [*of_target, "relevance", "fluency"],
            "measure": of_target[0],
            "panel": list(of_target),
            "max_new_tokens": arguments.tokens,
        }
    )
    writer = Writer(model, steer.max_new_tokens, 1.0, steer.seed, steer.batch_size)
    prompts = {split: read_prompts(corpus, model, split, steer) for split in ("validate", "test")}
    n = -(-steer.band_texts // len(prompts["validate"]))
    plain = _finished(writer.write([Job(p, s) for s in range(n) for p in prompts["validate"]]))
    concepts = _concepts(chain, steer, arguments.targets)
    of_stage = chain.inputs("steer", config.steer)
    subject = SteeredSubject.read(of_stage)
    ground = Ground(subject, model, of_stage["codes"], steer, config.execution)
    targeted = Labelled(ground, concepts)
    material = read_material(targeted, writer, prompts["validate"], plain, steer)
    test = read_passages(targeted, "test", writer, prompts["validate"], steer)
    if kind == "latents":
        material, test = of_latents(chain, model, dictionary, material, test, arguments.targets)
    else:
        material = dataclasses.replace(
            material, targets=[_with_words(chain, target) for target in material.targets]
        )
    services = JudgeServices(
        config.execution, steer.seed, model, dictionary, chain.given("text_encoder")
    )
    panel = Panel.fitted(steer, material, services)
    refused = panel.refusals()
    columns = [i for i, name in enumerate(material.concepts) if name not in refused]
    written = _finished(writer.write([Job(prompt, 0) for prompt in prompts["test"]]))
    verdicts = panel.verdicts(written)
    judged = {name: verdicts[name].values[:, columns] for name in verdicts}
    told = {name: t_interval(values.mean(axis=1)) for name, values in judged.items() if columns}
    cells = find_cells(test, columns, writer, arguments.per_target)
    unsteered = _finished(writer.write([Job(cell.prompt) for cell in cells]))
    outcomes = run_battery(panel, material, cells, unsteered, writer)
    seconds = time.monotonic() - started
    n_targets = (len(material.targets), len(columns))
    return Measured(f"{config.name}, {kind}", told, n_targets, of_target, outcomes, seconds)


def _concepts(chain: Chain, steer: SteerConfig, n: int) -> list[Concept]:
    """Labelled concepts of the experiment, at most n: documents first, as they are drawn."""
    picked = pick_concepts(tables.CONCEPTS.read(chain.artifact("read")), steer)
    picked.sort(key=lambda concept: concept.unit != "document")
    return picked[:n]


def _with_words(chain: Chain, target: Concept) -> Concept:
    told = dict(
        tables.CONCEPTS.read(chain.artifact("read")).select("concept", "description").iter_rows()
    )
    return dataclasses.replace(target, text=told[target.name])


def of_latents(
    chain: Chain,
    model: LanguageModel,
    dictionary: Dictionary,
    material: Material,
    test: Passages,
    n: int,
) -> tuple[Material, Passages]:
    """The same material with latents as targets: passages have the target where it is active, and
    its text is the words that set those passages apart."""
    codes = CodeShards(chain.artifact("encode"))
    density, n_rows = np.zeros(codes.d_sae), 0
    for shard in codes.iterate("select"):
        density += np.bincount(shard.indices.numpy(), minlength=codes.d_sae)
        n_rows += shard.n_rows
    density /= n_rows
    usable = np.flatnonzero((density >= DENSITY[0]) & (density <= DENSITY[1]))
    latents = np.sort(numpy_generator(material.seed, "pilot").permutation(usable)[:n]).tolist()

    def labelled(passages: Passages) -> Passages:
        pairs = list(zip(passages.openings, passages.texts, strict=True))
        active = [each.any(axis=0) for each in read_latents(model, dictionary, latents, pairs)]
        return dataclasses.replace(passages, labels=np.array(active, bool))

    parts = {
        split: labelled(getattr(material, split)) for split in ("judge", "calibrate", "validate")
    }
    named = [Concept(f"latent {latent}", "latent", "token", latent) for latent in latents]
    given = dataclasses.replace(material, targets=named, **parts)
    worded = [
        dataclasses.replace(target, text=", ".join(bait(given, column).keywords))
        for column, target in enumerate(named)
    ]
    return dataclasses.replace(given, targets=worded), labelled(test)


def lines(measured: Measured) -> list[str]:
    """The tables of one experiment, in Markdown."""
    n, passed = measured.n_targets
    written = [
        f"## {measured.name}",
        "",
        f"{passed} of {n} targets pass the gate of {' and '.join(measured.judges)}; "
        f"{measured.seconds:.0f} s.",
        "",
        "| plain text | mean | interval | n | bar |",
        "|---|---|---|---|---|",
    ]
    for judge, told in measured.plain.items():
        bar = BARS.get(judge)
        met = "" if bar is None else f"{bar:g}: {'met' if (told.value or 0) >= bar else 'MISSED'}"
        written.append(f"| {judge} | {_shown(told.value)} | {_span(told)} | {told.n} | {met} |")
    judges = list(dict.fromkeys(each.judge for each in measured.outcomes))
    of = {(each.trick, each.judge): each for each in measured.outcomes}
    tricks = list(dict.fromkeys(each.trick for each in measured.outcomes))
    head = [judge for judge in judges if judge != PANEL]
    written += [
        "",
        f"| text | panel | real minus it | holds | cells | {' | '.join(head)} |",
        "|---" * (5 + len(head)) + "|",
    ]
    first = of[tricks[0], PANEL]
    means = " | ".join(_shown(of[tricks[0], judge].real) for judge in head)
    written.append(f"| {REAL} | {_shown(first.real)} | | | {first.n_cells} | {means} |")
    for trick in sorted(tricks, key=lambda name: name == UNSTEERED):
        law = of[trick, PANEL]
        cells = " | ".join(
            _shown(each.fake) + (" (!)" if each.n_cells and each.falls else "")
            for each in (of[trick, judge] for judge in head)
        )
        holds = "none" if law.holds is None else "yes" if law.holds else "NO"
        told = f"{_shown(law.difference.value)} {_span(law.difference)}"
        written.append(
            f"| {trick} | {_shown(law.fake)} | {told} | {holds} | {law.n_cells} | {cells} |"
        )
    return [*written, "", "(!): this judge alone falls for it.", ""]


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _span(told: Interval) -> str:
    return "" if told.low is None else f"[{told.low:.2f}, {told.high:.2f}]"


def _finished(work: Generator[int, None, list[Continuation]]) -> list[Continuation]:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


if __name__ == "__main__":
    main()
