"""The steering playground: latents or a method's vector, a strength, a prompt; steered and plain
text side by side.

Defaults are those of the steer stage (its seed, temperature, length and prompts), so that a vector
at the stage's budget writes the very text that the stage wrote. The page polls while the live
worker writes, and stays usable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import polars as pl
import streamlit as st

from components.live import SteeredAnswer
from components.store.artifact import Artifact
from components.store.tables import EXPLANATIONS, GENERATIONS, PROMPTS, STRENGTHS
from dashboards import measures, questions, runs, selection, tokens, views
from dashboards.markdown import code, plain
from dashboards.runs import Experiment

NAME = "playground"
OFFERED = 2000
NATS, TOKENS = 20.0, 512
"""The largest budget, and the longest text, that the live worker takes."""
LATENTS, VECTOR = "latents", "a method's vector"
BUDGET, COEFFICIENT, STAGE = "KL budget", "coefficient", "as in the stage"


def section(shown: Experiment) -> None:
    """What to steer with, how strongly, on which prompt; below it the texts."""
    st.subheader("Playground", anchor="playground")
    if shown.file:
        st.caption(
            "Nothing to steer: the activations come from a file, and no model belongs to them."
        )
        return
    st.caption(
        "Written live: the same prompt from the same seed, with the direction added at every "
        "token and without. The KL is what that costs on neutral text."
    )
    steer = shown.artifacts.get("steer")
    if steer is not None and steer.config.get("chat", {}).get("messages"):
        st.caption(
            "As in the stage, a prompt is the user's message in a conversation"
            + (", behind the stage's system message." if steer.config["chat"]["system"] else ".")
        )
    kept = pl.DataFrame(schema=STRENGTHS.schema) if steer is None else runs.table(STRENGTHS, steer)
    kept = kept.filter(pl.col("coefficient").is_not_null())
    left, right = st.columns([1, 2.4], gap="large")
    kinds = [LATENTS] if kept.is_empty() else [LATENTS, VECTOR]
    kind = left.segmented_control("Steer with", kinds, default=LATENTS, key="steer with") or LATENTS
    direction, problem = _latents(shown, right) if kind == LATENTS else (_vector(kept, right), None)
    of_stage = _of_stage(steer, kept, direction["vector"]) if "vector" in direction else None
    strength = _strength(kept, of_stage)
    prompt, number = _prompt(shown)
    sampling, fault = _sampling(steer.config if steer else {})
    write, _ = st.columns([1, 4])
    if write.button("Write", type="primary", key="write", width="stretch"):
        questions.forget(NAME)
        if problem or fault:
            st.warning(problem or fault)
        else:
            about = {"prompt": prompt, "direction": _said(direction), "experiment": shown.key}
            asked = {**direction, **strength, **sampling, "prompt": prompt, "prompt_number": number}
            questions.ask(NAME, "steer", shown.key, about, **asked)
    before = questions.asked(NAME)
    if before and before.about["experiment"] != shown.key:
        questions.forget(NAME)
    questions.show(NAME, _draw)


def _latents(shown: Experiment, where: Any) -> tuple[dict[str, Any], str | None]:
    """The mixture that was picked, or what is wrong with it."""
    offered = _explained(shown)
    asked = selection.chosen("latent")
    if asked and asked.isdecimal() and len(asked) < 10 and int(asked) not in offered:
        offered = {int(asked): f"{int(asked)}", **offered}
    default = [offered[int(asked)]] if asked and asked.isdecimal() and int(asked) in offered else []
    picked = where.multiselect(
        "Latents",
        list(offered.values()),
        default=default,
        key="latents",
        max_selections=8,
        accept_new_options=True,
        placeholder="Choose by explanation, or type a number",
        help="Any latent may be typed by its number. Several are mixed by their weights.",
    )
    numbers = [re.match(r"\s*(\d{1,9})(?: ·|\s*$)", label) for label in picked]
    bad = [label for label, found in zip(picked, numbers, strict=True) if found is None]
    if bad:
        return {}, f"No latent {code(bad[0][:40])}: wanted the number of a latent, such as 12."
    latents = list(dict.fromkeys(int(found[1]) for found in numbers if found))
    if not latents:
        return {}, "Choose at least one latent to steer with."
    weights = [1.0]
    if len(latents) > 1:
        columns = where.columns(max(4, len(latents)))
        weights = [
            column.number_input(
                f"Weight of {latent}", -10.0, 10.0, 1.0, 0.5, key=f"weight {latent}"
            )
            for column, latent in zip(columns, latents, strict=False)
        ]
    mixed = [
        {"latent": latent, "weight": weight}
        for latent, weight in zip(latents, weights, strict=True)
    ]
    return {"latents": mixed}, None


def _explained(shown: Experiment) -> dict[int, str]:
    """Latents that have an explanation, as they are offered: number -> number and explanation."""
    interpret = shown.artifacts.get("interpret")
    if interpret is None:
        return {}
    said = runs.table(EXPLANATIONS, interpret).filter(pl.col("explanation").is_not_null())
    rows = said.unique("latent", keep="first").sort("latent").head(OFFERED)
    return {
        row["latent"]: f"{row['latent']} · {row['explanation'][:80]}"
        for row in rows.iter_rows(named=True)
    }


def _vector(kept: pl.DataFrame, where: Any) -> dict[str, Any]:
    """The kept direction that was picked."""
    first, second = where.columns(2)
    method = first.selectbox(
        "Vector of", kept["method"].unique().sort().to_list(), format_func=_spoken, key="vector of"
    )
    of = kept.filter(pl.col("method") == method)
    concepts = of["concept"].drop_nulls().unique().sort().to_list()
    if not concepts:
        numbers = of["replicate"].unique().sort().to_list()
        number = second.selectbox(
            "Direction", numbers, key="direction", help="Of a control: it belongs to no concept."
        )
        return {"vector": {"method": method, "replicate": number}}
    asked = selection.chosen("concept")
    index = concepts.index(asked) if asked in concepts else 0
    concept = second.selectbox("For the concept", concepts, index=index, key="for the concept")
    return {"vector": {"method": method, "concept": concept}}


def _of_stage(
    steer: Artifact | None, kept: pl.DataFrame, vector: dict[str, Any]
) -> dict[str, Any] | None:
    """The row of STRENGTHS with which the stage wrote test text along this vector, at its smallest
    budget."""
    if steer is None:
        return None
    used = views.scores.written_with(
        kept, runs.table(GENERATIONS, steer), vector["method"], vector.get("concept")
    )
    if "replicate" in vector:
        used = used.filter(pl.col("replicate") == vector["replicate"])
    rows = used.head(1).to_dicts()
    return rows[0] if rows else None


def _strength(kept: pl.DataFrame, of_stage: dict[str, Any] | None) -> dict[str, float]:
    """How strongly; along a vector of the stage, as strongly as there, unless another is asked."""
    left, right = st.columns([1, 2.4], gap="large")
    right, _ = right.columns(2)
    kinds = [BUDGET, COEFFICIENT] if of_stage is None else [STAGE, BUDGET, COEFFICIENT]
    kind = (
        left.segmented_control(
            "Strength as",
            kinds,
            default=kinds[0],
            key="strength as" if of_stage is None else "strength of the vector as",
        )
        or kinds[0]
    )
    if kind == STAGE and of_stage is not None:
        right.caption(
            f"Coefficient {measures.number(of_stage['coefficient'])}: its text after validate "
            f"prompts costs {measures.number(of_stage['kl'])} nats a token."
        )
        return {"coefficient": of_stage["coefficient"]}
    if kind == COEFFICIENT:
        about = "In units of the mean activation norm at the hook point; negative steers away."
        return {
            "coefficient": right.number_input(
                "Coefficient", -16.0, 16.0, 0.5, 0.1, key="coefficient", help=about
            )
        }
    usual = min(NATS, float(kept["kl_budget"].min() or 0.1))  # type: ignore[arg-type]
    about = f"The coefficient is found that costs this much on neutral text; at most {NATS:g}."
    # the step begins at the stage's own budget, so that one of 0.00001 can be stepped from, and
    # none is below the bounds
    least, step = min(0.001, usual), min(0.05, usual)
    budget = right.number_input(
        "Nats a token", least, NATS, usual, step, format="%g", key="nats", help=about
    )
    return {"kl_budget": budget}


def _prompt(shown: Experiment) -> tuple[str, int]:
    """The prompt, and its number where it is one of the experiment's own (they share their luck
    with the stage)."""
    read = shown.artifacts.get("read")
    known: dict[str, int] = {}
    if read is not None and PROMPTS.file in read.files:
        table = runs.table(PROMPTS, read).filter(pl.col("split") == "test").sort("prompt")
        known = dict(table.select("text", "prompt").iter_rows())
    prompt = st.text_area(
        "Prompt", next(iter(known), ""), height=70, key="prompt", help="What the model continues."
    )
    return prompt, known.get(prompt, 0)


def _sampling(config: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Temperature, seed, length and number of samples; the stage's own by default."""
    temperature, length, samples, seed = st.columns(4)
    usual = min(2.0, float(config.get("temperature", 1.0)))
    longest = int(config.get("max_new_tokens", 40))
    cut = (
        f" The stage wrote up to {longest}, here it is {TOKENS} at most."
        if longest > TOKENS
        else ""
    )
    chosen = {
        "temperature": temperature.number_input(
            "Temperature",
            0.0,
            2.0,
            usual,
            0.1,
            key="temperature",
            help="0 takes the likeliest token.",
        ),
        "max_new_tokens": length.number_input(
            "New tokens, at most",
            1,
            TOKENS,
            min(TOKENS, longest),
            key="length",
            help=f"Longest continuation.{cut}",
        ),
        "samples": samples.number_input(
            "Samples", 1, 8, 1, key="samples", help="Continuations, steered and plain each."
        ),
    }
    said = seed.text_input(
        "Seed", str(config.get("seed", 0)), key="seed", help="The same seed writes the same text."
    )
    if not (said.strip().isdecimal() and len(said.strip()) <= 15):
        return chosen, f"No seed {code(said[:40])}: wanted a whole number of at most 15 digits."
    return {**chosen, "seed": int(said)}, None


def _said(direction: Mapping[str, Any]) -> str:
    vector = direction.get("vector")
    if vector:
        return f"{_spoken(vector['method'])}, {vector.get('concept') or 'direction ' + str(vector['replicate'])}"
    mixed = direction["latents"]
    if len(mixed) == 1:
        return f"latent {mixed[0]['latent']}"
    return "latents " + " + ".join(
        f"{measures.number(part['weight'])} × {part['latent']}" for part in mixed
    )


def _draw(answer: SteeredAnswer, about: Mapping[str, Any]) -> None:
    kl = (
        "not measured: no neutral text"
        if answer.kl is None
        else f"{measures.number(answer.kl)} nats a token"
    )
    cost, strength, _ = st.columns([1, 1, 1])
    cost.metric(
        "KL on neutral text",
        kl,
        help=f"Plain against steered predictions, mean over {answer.kl_tokens:,} tokens.",
    )
    strength.metric(
        "Coefficient",
        measures.number(answer.coefficient),
        help=f"In units of the mean activation norm at {plain(answer.hook_point)}, {measures.number(answer.mean_norm)}.",
    )
    columns = [("Plain", answer.plain), (f"Steered · {about['direction']}", answer.steered)]
    st.html(tokens.written(about["prompt"], columns))
    left_out = (
        f" {answer.n_special:,} special tokens in the prompt were left out."
        if answer.n_special
        else ""
    )
    st.caption(f"Written in {measures.number(answer.seconds)} s.{left_out}")


def _spoken(method: str) -> str:
    return method.replace("_", " ")
