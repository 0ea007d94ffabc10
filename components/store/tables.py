"""Every table but those of the report: its columns with type and unit, and its key.

Polars only, no torch: dashboards read through this file. Absent is null with a `reason`, never a
default.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from components.store.table import Table

_CONCEPT = {
    "concept": (pl.String, "name, as in the concepts table"),
    "concept_kind": (pl.String, "surface (readable off the token), contextual, or document"),
}

DOCUMENTS = Table(
    "documents",
    "read",
    "One row for each document.",
    {
        "document": (pl.Int32, "number, unique over all splits"),
        "split": (pl.String, "the one split it belongs to"),
        "source": (pl.String, "where it came from: file and line, or seed and index"),
        "digest": (pl.String, "blake2b-64 of the text"),
        "n_tokens": (pl.Int32, "tokens kept, special tokens not counted"),
        "text": (pl.String, "the text"),
    },
    ("document",),
)
CONCEPTS = Table(
    "concepts",
    "read",
    "The inventory of labelled concepts.",
    {
        **_CONCEPT,
        "unit": (pl.String, "token, or document (read off mean-pooled codes)"),
        "family": (pl.String, "the family it belongs to"),
        "description": (pl.String, "one sentence"),
    },
    ("concept",),
)
LABELS = Table(
    "labels",
    "read",
    "Where a concept is present; what is not listed is absent. Labelled splits only.",
    {
        "concept": (pl.String, "name, as in the concepts table"),
        "document": (pl.Int32, "document number"),
        "token": (
            pl.Int32,
            "position of the token in its document; null when the whole document is meant",
        ),
        "value": (pl.Float32, "1 for present; other values for graded concepts"),
    },
    ("concept", "document", "token"),
)
PAIRS = Table(
    "pairs",
    "read",
    "Minimal pairs: two texts that differ in one concept.",
    {
        "concept": (pl.String, "the concept that differs"),
        "pair": (pl.Int32, "number within the concept"),
        "split": (pl.String, "split"),
        "positive": (pl.String, "the text with the concept"),
        "negative": (pl.String, "the text without it"),
    },
    ("concept", "pair"),
)
PROMPTS = Table(
    "prompts",
    "read",
    "Openings that name no topic, for steered generation.",
    {
        "prompt": (pl.Int32, "number, unique over splits"),
        "split": (pl.String, "validate or test"),
        "text": (pl.String, "the opening"),
    },
    ("prompt",),
)
VOCABULARY = Table(
    "vocabulary",
    "read",
    "The text of every token of the tokenizer.",
    {
        "token": (pl.Int32, "token id"),
        "text": (pl.String, "the token as text, with its space where it has one"),
    },
    ("token",),
)
CURVE = Table(
    "curve",
    "train",
    "Training curves in long form.",
    {
        "step": (pl.Int64, "optimiser step"),
        "tokens": (pl.Int64, "tokens seen"),
        "name": (
            pl.String,
            "what is measured: loss, loss.reconstruction, loss.auxk, fvu, l0, dead_share, "
            "learning_rate",
        ),
        "value": (pl.Float64, "its value"),
    },
    ("step", "name"),
)
NAMES = Table(
    "names",
    "capture",
    "What the documents of activations from a file are called, where they have names.",
    {
        "document": (pl.Int32, "number"),
        "name": (pl.String, "as the table of provenance has it"),
    },
    ("document",),
)
LATENTS = Table(
    "latents",
    "encode",
    "Statistics of each latent over the encoded tokens of one split.",
    {
        "latent": (pl.Int32, "index in the dictionary"),
        "split": (pl.String, "the split that was read"),
        "n_active": (pl.Int64, "tokens on which it is active"),
        "density": (pl.Float64, "n_active over tokens"),
        "maximum": (pl.Float32, "largest activation, in units of the activations"),
        "mean_active": (pl.Float32, "mean activation where active"),
        "histogram": (
            pl.List(pl.Int64),
            "20 equal bins from 0 to the maximum, active tokens only; null where codes are not stored",
        ),
        "decoder_norm": (pl.Float32, "norm of the decoder direction"),
        "promoted": (
            pl.List(pl.String),
            "ten tokens whose logits the decoder direction raises most; null without a model",
        ),
        "promoted_logits": (
            pl.List(pl.Float32),
            "by how much, for a unit step along the direction",
        ),
        "suppressed": (pl.List(pl.String), "ten tokens whose logits it lowers most"),
        "suppressed_logits": (pl.List(pl.Float32), "by how much"),
    },
    ("latent", "split"),
)
NEIGHBOURS = Table(
    "neighbours",
    "encode",
    "The latents whose decoder directions lie nearest to each latent's.",
    {
        "latent": (pl.Int32, "latent"),
        "rank": (pl.Int8, "0 for the nearest"),
        "neighbour": (pl.Int32, "the other latent"),
        "cosine": (pl.Float32, "cosine of the two decoder directions, -1 to 1"),
    },
    ("latent", "rank"),
)
POOLED = Table(
    "pooled",
    "encode",
    "Mean code of each document, non-zero entries only.",
    {
        "split": (pl.String, "split"),
        "document": (pl.Int32, "document number"),
        "latent": (pl.Int32, "latent"),
        "mean": (pl.Float32, "mean activation over the document's tokens"),
    },
    ("document", "latent"),
)
CONTEXTS = Table(
    "contexts",
    "interpret",
    "Windows of text chosen for each latent, with its activation on every token.",
    {
        "latent": (pl.Int32, "latent"),
        "window": (pl.Int32, "number within the latent"),
        "split": (pl.String, "explain, calibrate or test"),
        "role": (
            pl.String,
            "top, weighted (drawn by the square of the largest activation), quantile, or silent "
            "(verified: never active inside)",
        ),
        "quantile": (pl.Int8, "interval of activation, 0 the strongest; null for silent windows"),
        "stratum": (
            pl.String,
            "of silent windows: random, same_token (holds the token that the latent fires on "
            "most), neighbour (a neighbouring latent is active), or near (its mean activation "
            "vector is close to that of the active windows); null else",
        ),
        "document": (pl.Int32, "document number"),
        "start": (pl.Int32, "position in the document of the first token"),
        "tokens": (pl.List(pl.String), "the tokens as text"),
        "activations": (pl.List(pl.Float32), "the latent's activation on each token"),
        "maximum": (pl.Float32, "largest of them"),
    },
    ("latent", "window"),
)
COOCCURRING = Table(
    "cooccurring",
    "interpret",
    "The latents that are most often active on the same tokens as each sampled one, on explain.",
    {
        "latent": (pl.Int32, "latent"),
        "rank": (pl.Int8, "0 for the one that is with it most"),
        "neighbour": (pl.Int32, "the other latent"),
        "jaccard": (
            pl.Float32,
            "tokens on which both are active, of those on which either is, 0 to 1",
        ),
    },
    ("latent", "rank"),
)
EXPLANATIONS = Table(
    "explanations",
    "interpret",
    "What an explainer says of a latent.",
    {
        "latent": (pl.Int32, "latent"),
        "explainer": (pl.String, "who wrote it"),
        "explanation": (
            pl.String,
            "at most interpret.longest characters; null when none could be written",
        ),
        "reason": (pl.String, "why it is null"),
    },
    ("latent", "explainer"),
)
WRITERS = Table(
    "writers",
    "interpret",
    "Which language model wrote an explanation, and in which call; only where one was asked.",
    {
        "latent": (pl.Int32, "latent"),
        "explainer": (pl.String, "who asked for it"),
        "served": (pl.String, "the model that the server says it is, with its fingerprint"),
        "call": (pl.String, "key of the request, in the table of calls and the cache of answers"),
    },
    ("latent", "explainer"),
)
_EXPLANATION_SCORE: dict[str, tuple[Any, str]] = {
    "latent": (pl.Int32, "latent"),
    "role": (
        pl.String,
        "entry; control (an explainer that others are to beat); own_judge (an explainer that "
        "tested what it wrote with this predictor); floor (another latent's "
        "explanation was read); ceiling (a probe read none)",
    ),
    "explainer": (pl.String, "who wrote the explanation; null for the probe"),
    "scorer": (pl.String, "what is measured"),
    "predictor": (pl.String, "who reads the explanation"),
    "value": (
        pl.Float64,
        "the score; chance where it failed, with the reason; null where there is none of this "
        "latent (detection of one that is active in over a third of windows)",
    ),
    "low": (pl.Float64, "95% interval over windows, lower end"),
    "high": (pl.Float64, "upper end"),
    "n": (pl.Int64, "windows"),
    "n_failed": (pl.Int64, "windows or answers that failed, counted in n"),
    "reason": (pl.String, "what failed"),
}
EXPLANATION_SCORES = Table(
    "explanation_scores",
    "interpret",
    "How well a predictor that sees only the explanation foretells the latent on the test split.",
    _EXPLANATION_SCORE,
    ("latent", "role", "explainer", "scorer", "predictor"),
)
CONTROL_SCORES = Table(
    "control_scores",
    "interpret",
    "The same of latents of controls, which were explained and scored alike.",
    {
        "control": (
            pl.String,
            "which: untrained (a dictionary of equal size and sparsity, nothing learnt), random "
            "(directions), neurons (coordinates), randomised, randomised_blocks (dictionaries of "
            "the model with drawn weights: all, all but embeddings)",
        ),
        "explanation": (pl.String, "what was read; null when none could be written"),
        **_EXPLANATION_SCORE,
    },
    ("control", "latent", "role", "explainer", "scorer", "predictor"),
)
EXPLANATION_STRATA = Table(
    "explanation_strata",
    "interpret",
    "The same scores over part of a latent's test windows, and at natural density.",
    {
        "control": (
            pl.String,
            "which control the latent is of; null for the dictionary itself",
        ),
        **{
            name: _EXPLANATION_SCORE[name]
            for name in ("latent", "role", "explainer", "scorer", "predictor")
        },
        "stratum": (
            pl.String,
            "strongest, weakest (three tenths of the active windows against all silent ones), "
            "decile_1 to decile_10 (one tenth, 1 the strongest), random, same_token, neighbour, "
            "near (all active ones against one kind of silent ones), macro (mean of those kinds "
            "that every latent has), average_precision (on the shared pool), natural_density; of "
            "marks: silent, active (wrong marks in silent windows, or on other tokens of active "
            "ones)",
        ),
        "value": (pl.Float64, "the score over these windows; chance where it failed"),
        "chance": (pl.Float64, "what knowing nothing gets"),
        "n": (pl.Int64, "windows"),
    },
    ("control", "latent", "role", "explainer", "scorer", "predictor", "stratum"),
)
LATENT_SCORES = Table(
    "latent_scores",
    "interpret",
    "Scores of a latent itself, which read no explanation, each beside its null.",
    {
        "control": (
            pl.String,
            "which control dictionary the latent is of; null for the dictionary itself",
        ),
        "latent": (pl.Int32, "latent"),
        "scorer": (pl.String, "who measures: input_score, output_score, intruder"),
        "measure": (pl.String, "what is measured"),
        "reader": (pl.String, "who compares texts; null where nobody does"),
        "value": (pl.Float64, "the score; null with the reason"),
        "chance": (pl.Float64, "what the null gets for this latent"),
        "n": (pl.Int64, "prompts, windows or trials that it is a mean over"),
        "n_failed": (pl.Int64, "those that failed, counted in n"),
        "reason": (pl.String, "what failed"),
    },
    ("control", "latent", "measure"),
)
TARGETS = Table(
    "targets",
    "steer",
    "What is steered towards, and whether it passed the gate.",
    {
        "concept": (pl.String, "the target's name, as in every table of this stage"),
        "concept_kind": (
            pl.String,
            "surface, contextual or document (labelled concepts), latent, or set (sets of texts)",
        ),
        "unit": (pl.String, "token or document: what has it as a whole"),
        "latent": (pl.Int32, "the latent that is the target; null where none is"),
        "text": (
            pl.String,
            "the target in words (an explanation, active words, a sentence); null without any",
        ),
        "stratum": (pl.String, "why it was taken: its part by each measure, or its nearness"),
        "density": (pl.Float64, "of a latent: share of tokens of select on which it is active"),
        "output_score": (pl.Float64, "of a latent, by interpret; null where it was not measured"),
        "explanation_score": (pl.Float64, "of its explanation, mean over scorers; likewise"),
        "n_with": (pl.Int64, "pieces of select text that have it"),
        "n_without": (pl.Int64, "pieces known to be without it"),
        "counted": (pl.String, "what those pieces are: tokens, windows or texts"),
        "passed": (pl.Boolean, "whether it is steered towards"),
        "reason": (pl.String, "who kept it out, and why"),
    },
    ("concept",),
)
STRENGTHS = Table(
    "strengths",
    "steer",
    "The strength at which the text that a steering writes costs a KL budget.",
    {
        "concept": (pl.String, "concept; null for steerings that belong to none"),
        "method": (pl.String, "steering method"),
        "replicate": (pl.Int32, "number of the steering among equals"),
        "latent": (pl.Int32, "the latent used, where one is"),
        "sign": (pl.Int8, "sign of the direction"),
        "kl_budget": (pl.Float64, "nats a token; null where no strength can be set"),
        "coefficient": (
            pl.Float64,
            "of an added vector in units of the mean activation norm at the hook point",
        ),
        "kl": (
            pl.Float64,
            "KL(steered || plain) a token along the text written after validate prompts at that "
            "strength",
        ),
        "kl_elsewhere": (
            pl.Float64,
            "side effect: KL(plain || steered) a token of neutral text; null for what was not "
            "chosen",
        ),
        "kl_whole": (pl.Float64, "the same over whole contexts; likewise"),
        "loss_whole": (pl.Float64, "how much the loss rises there, nats a token; likewise"),
        "dose": (
            pl.Float64,
            "length of the edit over that of the activation, mean over edited tokens of neutral "
            "text; null for what was not chosen, or edits no activation there",
        ),
        "kl_95": (
            pl.Float64,
            "95% quantile over tokens of KL(plain || steered) on that text; null for what was not "
            "chosen",
        ),
        "select_score": (
            pl.Float64,
            "what the unit scored on the select split; null where none was selected",
        ),
        "reason": (pl.String, "why there is none"),
    },
    ("concept", "method", "replicate", "kl_budget"),
)
GENERATIONS = Table(
    "generations",
    "steer",
    "Every steered and unsteered continuation.",
    {
        "generation": (pl.Int32, "number of the text"),
        "concept": (
            pl.String,
            "the concept steered towards; null for plain text and for a control",
        ),
        "method": (pl.String, "steering method; unsteered for plain text"),
        "replicate": (pl.Int32, "number of the steering among equals"),
        "kl_budget": (
            pl.Float64,
            "nats a token; null for unsteered, and where no strength was set",
        ),
        "split": (pl.String, "validate or test"),
        "prompt": (pl.Int32, "prompt number"),
        "sample": (pl.Int32, "number of the sample"),
        "text": (pl.String, "the continuation; null when generation failed"),
        "n_tokens": (pl.Int32, "tokens in it"),
        "nll": (pl.Float64, "nats a token under the unsteered model"),
        "kl": (pl.Float64, "KL(plain || steered) on this text, nats a token; of test prompts"),
        "kl_reverse": (
            pl.Float64,
            "KL(steered || plain) on this text, nats a token; of test prompts",
        ),
        "reason": (pl.String, "why there is no text"),
    },
    ("generation",),
)
JUDGEMENTS = Table(
    "judgements",
    "steer",
    "What each judge says of each continuation: of the concept steered towards, or of each where "
    "there is none.",
    {
        "generation": (pl.Int32, "number of the text"),
        "concept": (pl.String, "the concept it is judged for"),
        "judge": (
            pl.String,
            "who judges; composite is the harmonic mean of gain in the target and fluency (of what "
            "is to lower its target, of the fall); composite_of_fall is that of text without a "
            "target of its own",
        ),
        "value": (pl.Float64, "0 to 1"),
        "off_target": (
            pl.List(pl.Float32),
            "the judge's value for every concept that passed the gate, in the order of the fact "
            "`judged`; null where the text belongs to no concept, and has a row for each, and of "
            "judges that ask a language model",
        ),
        "reason": (pl.String, "why there is no value"),
    },
    ("generation", "concept", "judge"),
)
STEERED = Table(
    "steered",
    "steer",
    "What each method reaches on each concept over test prompts: pair methods by concept (and "
    "kl_budget).",
    {
        **_CONCEPT,
        "method": (
            pl.String,
            "steering method; untrained is the untrained dictionary; of a control the mean over "
            "its directions",
        ),
        "kl_budget": (pl.Float64, "nats a token"),
        "replicate": (pl.Int32, "the candidate that validate prompts chose; null for a control"),
        "latent": (pl.Int32, "the latent used, where one is"),
        "composite": (
            pl.Float64,
            "mean over generations, failures as 0: the value to compare methods by",
        ),
        "uplift": (pl.Float64, "mean over generations, failures as 0"),
        "fluency": (pl.Float64, "mean over generations, failures as 0"),
        "n": (pl.Int64, "generations"),
        "n_failed": (pl.Int64, "generations that failed, counted in n"),
        "composite_largest": (
            pl.Float64,
            "largest mean composite of a control direction on this concept; of its fall, beside a "
            "method that lowers its targets",
        ),
        "uplift_largest": (
            pl.Float64,
            "largest mean uplift of a control direction on this concept; the lowest, beside a "
            "method that lowers its targets",
        ),
        "fluency_unsteered": (pl.Float64, "mean fluency of plain text"),
        "kl_validate": (
            pl.Float64,
            "KL(steered || plain) a token of the text after validate prompts: what the budget is "
            "of; null for a control",
        ),
        "kl_elsewhere": (pl.Float64, "side effect: KL(plain || steered) a token of neutral text"),
        "kl_whole": (pl.Float64, "the same over whole contexts"),
        "loss_whole": (pl.Float64, "how much the loss rises there, nats a token"),
        "dose": (
            pl.Float64,
            "length of the edit over that of the activation, mean over edited tokens of neutral "
            "text; null where no activation is edited there",
        ),
        "kl_95": (
            pl.Float64,
            "95% quantile over tokens of KL(plain || steered) on that text",
        ),
        "kl_written": (pl.Float64, "KL(plain || steered) on the steered text, nats a token"),
        "kl_written_reverse": (
            pl.Float64,
            "KL(steered || plain) on the steered text, nats a token",
        ),
        "reason": (
            pl.String,
            "why nothing was steered; composite, uplift and fluency are then null",
        ),
    },
    ("concept", "method", "kl_budget"),
)
QUESTIONS = Table(
    "questions",
    "steer",
    "Which letter is the most probable for multiple-choice questions about other things, under what "
    "was chosen for each target; only where questions are given.",
    {
        "concept": (pl.String, "the target; null for unsteered"),
        "method": (pl.String, "as in `steered`; unsteered is the model as it is"),
        "kl_budget": (pl.Float64, "nats a token; null for unsteered"),
        "item": (pl.Int64, "number of the row among those of all files"),
        "choices": (pl.Int64, "how many choices it has"),
        "right": (pl.Boolean, "whether the most probable letter is that of the right choice"),
        "probability": (pl.Float64, "P(right letter) over that of all its letters"),
        "mass": (pl.Float64, "probability of all its letters together"),
        "reason": (pl.String, "why there is no answer"),
    },
    ("concept", "method", "kl_budget", "item"),
)
ANSWERS = Table(
    "answers",
    "steer",
    "How probable the target's answer to multiple-choice items is under what was chosen for it; only "
    "where items are given.",
    {
        "concept": (pl.String, "the target"),
        "method": (pl.String, "as in `steered`; unsteered is the model as it is"),
        "kl_budget": (pl.Float64, "nats a token; null for unsteered"),
        "item": (pl.Int64, "number of the row among those of all files"),
        "probability": (
            pl.Float64,
            "P(matching letter) / (P(A) + P(B)), mean of both orders of the choices",
        ),
        "mass": (pl.Float64, "P(A) + P(B), mean of both orders"),
        "reason": (pl.String, "why there is no probability"),
    },
    ("concept", "method", "kl_budget", "item"),
)
CONTRASTS = Table(
    "contrasts",
    "steer",
    "Each method against controls and against each other method, paired by target over test "
    "prompts.",
    {
        "method": (pl.String, "steering method"),
        "other": (pl.String, "what it stands against: controls, or another method"),
        "kl_budget": (
            pl.Float64,
            "nats a token; null where one of the two has no strength: both then at that one's own "
            "cost, target by target",
        ),
        "measure": (pl.String, "the composite that is compared"),
        "value": (pl.Float64, "mean over targets of the method's value minus the other's"),
        "low": (pl.Float64, "Student's 95% interval over targets, lower end"),
        "high": (pl.Float64, "upper end"),
        "n": (pl.Int64, "targets"),
        "n_failed": (pl.Int64, "of them, targets on which the method has no text; they count as 0"),
        "n_left_out": (
            pl.Int64,
            "targets at whose cost the graded one of the two was not tried (outside the budgets)",
        ),
        "p": (pl.Float64, "two-sided sign-flip test over targets"),
        "family": (
            pl.String,
            "primary (methods against controls at the headline budget), or pairs (method against "
            "method there); null outside both",
        ),
        "p_holm": (pl.Float64, "p within its family after Holm; null outside both"),
        "p_controls": (
            pl.Float64,
            "share of single control steerings that reach as much in the mean over targets, this "
            "method counted in: described, not corrected, and for a method that chooses too small",
        ),
        "n_controls": (pl.Int64, "control steerings that the mean is over"),
        "visible": (
            pl.Float64,
            "smallest mean difference that a test of that many targets sees with power 0.8, after "
            "correction in a family",
        ),
        "reason": (pl.String, "why there is no value, or what to know of it"),
    },
    ("method", "other", "kl_budget"),
)
FURTHER_JUDGES = Table(
    "further_judges",
    "steer",
    "What each judge that `steered` has no column for says of what each method writes; only where "
    "there is one.",
    {
        **_CONCEPT,
        "method": (pl.String, "as in `steered`"),
        "kl_budget": (pl.Float64, "nats a token"),
        "judge": (pl.String, "who judges"),
        "value": (pl.Float64, "mean over generations, failures as 0"),
        "unsteered": (pl.Float64, "mean over plain text, failures left out"),
        "n": (pl.Int64, "generations, but for those that the judge was not asked about"),
        "n_failed": (
            pl.Int64,
            "generations that failed or that the judge gave no value, counted in n",
        ),
        "reason": (pl.String, "why nothing was steered; the value is then null"),
    },
    ("concept", "method", "kl_budget", "judge"),
)
HOOK_POINTS = Table(
    "hook_points",
    "steer",
    "The hook point sweep: what each method reaches at each hook point on validate text, and which "
    "was chosen; only where a sweep was asked for.",
    {
        "method": (pl.String, "as in `steered`"),
        "direction": (
            pl.Int32,
            "number of a control's direction, each of which chooses for itself; null for methods",
        ),
        "hook_point": (pl.String, "canonical hook point"),
        "kl_budget": (pl.Float64, "nats a token; null where no strength can be set"),
        "measure": (
            pl.String,
            "what chooses: composite; uplift where no composite is judged",
        ),
        "value": (pl.Float64, "mean over targets on validate text; a target without text is 0"),
        "low": (pl.Float64, "Student's 95% interval over targets, lower end"),
        "high": (pl.Float64, "upper end"),
        "n": (pl.Int64, "targets, failures included"),
        "n_failed": (pl.Int64, "targets without text that worked, counted in n"),
        "uplift": (pl.Float64, "mean over targets, which decides between equals"),
        "over_budgets": (pl.Float64, "mean of value over the budgets, which the choice is made by"),
        "baseline": (pl.Float64, "the same of the control's directions at this hook point, mean"),
        "baseline_name": (pl.String, "that control"),
        "better": (pl.String, "higher"),
        "chosen": (pl.Boolean, "whether this hook point was chosen, for all targets and budgets"),
        "replicates": (
            pl.List(pl.Int32),
            "numbers of the steerings that are tried here, in `strengths` and `generations`",
        ),
        "reason": (pl.String, "why targets failed"),
    },
    ("method", "direction", "hook_point", "kl_budget"),
)
BATTERY = Table(
    "battery",
    "steer",
    "Whether the judges can be gamed: texts that are no steered text, beside real text.",
    {
        "trick": (pl.String, "what makes the text; unsteered is plain text"),
        "judge": (
            pl.String,
            "who judges: the composite that methods are compared by (panel or composite), or one "
            "judge alone",
        ),
        "real": (pl.Float64, "mean of real text over cells, failures as 0"),
        "fake": (pl.Float64, "mean of the trick's text, likewise"),
        "value": (pl.Float64, "mean over targets of real minus trick, paired by cell"),
        "low": (pl.Float64, "Student's 95% interval over targets, lower end"),
        "high": (pl.Float64, "upper end"),
        "n": (pl.Int64, "targets"),
        "n_cells": (pl.Int64, "cells: a target and a real opening"),
        "n_failed": (pl.Int64, "texts of the trick without a value; they count as 0"),
        "n_unjudged": (
            pl.Int64,
            "of the targets, those of which no real text has a value; they count as 0",
        ),
        "holds": (
            pl.Boolean,
            "whether real text is above the trick: the interval above 0; null without an interval",
        ),
        "reason": (pl.String, "why there is no value, or no interval"),
    },
    ("trick", "judge"),
)
CONCEPTS_FOUND = Table(
    "concepts_found",
    "evaluate",
    "The best unit for each concept, chosen on select and scored once on test.",
    {
        **_CONCEPT,
        "family": (
            pl.String,
            "the family it belongs to; its concepts are found or missed together",
        ),
        "unit_kind": (pl.String, "latent, neuron, untrained or probe"),
        "unit": (pl.Int32, "index of the unit; null for the probe"),
        "sign": (pl.Int8, "sign with which the unit is read"),
        "n_positive": (pl.Int64, "tokens or documents of the test split with the concept"),
        "n": (pl.Int64, "tokens or documents of the test split"),
        "gate": (pl.Boolean, "whether the probe decodes the concept on validate"),
        "decodable": (
            pl.Boolean,
            "gate passed, and the probe's lift on validate is large enough to compare units with "
            "it",
        ),
        "select_ap": (pl.Float64, "average precision on select"),
        "validate_ap": (pl.Float64, "average precision on validate"),
        "validate_auroc": (pl.Float64, "AUROC on validate"),
        "validate_positive": (
            pl.Int64,
            "tokens or documents of the validate split with the concept",
        ),
        "validate_n": (pl.Int64, "tokens or documents of the validate split"),
        "ap": (pl.Float64, "average precision on test, natural density"),
        "auroc": (pl.Float64, "AUROC on test"),
        "share": (
            pl.Float64,
            "average precision above the base rate, over the probe's, on test; decodable concepts",
        ),
        "found": (pl.Boolean, "decodable, and the share at least the threshold"),
        "found_absolute": (
            pl.Boolean,
            "average precision at least a fixed one, the probe's on validate and the unit's on "
            "test",
        ),
        "reason": (pl.String, "why a value is null"),
    },
    ("concept", "unit_kind"),
)
ABSORPTION = Table(
    "absorption",
    "evaluate",
    "For each token concept that the gate passes, how often a more special latent carries it "
    "while its own are silent.",
    {
        **_CONCEPT,
        "main": (pl.List(pl.Int32), "the main latents, chosen on select, the best first"),
        "main_f1": (pl.Float64, "F1 of any main latent being active, on test"),
        "n": (pl.Int64, "tokens of test that have the concept and that the probe recognises"),
        "n_silent": (pl.Int64, "of those, tokens on which no main latent is active"),
        "n_absorbed": (
            pl.Int64,
            "of those, tokens on which a more special latent carries the concept",
        ),
        "n_broad": (pl.Int64, "of those, tokens on which only a broader latent carries it"),
        "rate": (pl.Float64, "n_absorbed over n"),
        "reason": (pl.String, "why the rate is null"),
    },
    ("concept",),
)
FIRST_LETTER = Table(
    "first_letter",
    "evaluate",
    "For each first letter of a word, whether the model spells it, and how much of it another "
    "latent carries.",
    {
        "letter": (pl.String, "a to z"),
        "words_select": (pl.Int64, "words with the letter on which its probe was fitted"),
        "words_validate": (pl.Int64, "other words with it, on which the probe was gated"),
        "words_test": (pl.Int64, "other words again, which are counted"),
        "probe_f1": (
            pl.Float64,
            "F1 of the probe on the words of validate; null where words are too few",
        ),
        "probe_f1_test": (pl.Float64, "the same on the words of test"),
        "spelt": (pl.Boolean, "whether probe_f1 reaches what was asked for"),
        "main": (pl.List(pl.Int32), "the main latents, in the order in which they were taken"),
        "n_main": (pl.Int64, "how many those are"),
        "main_f1": (pl.Float64, "F1 of a probe of the main latents, on the words of test"),
        "n": (pl.Int64, "words of test that the probe recognises"),
        "silent": (pl.Float64, "of those, the share on which no main latent is active"),
        "fraction": (pl.Float64, "of those, the mean fraction absorbed"),
        "full": (pl.Float64, "of those, the share absorbed in full"),
        "reason": (pl.String, "why a value is null"),
    },
    ("letter",),
)
CALLS = Table(
    "calls",
    "*",
    "A sample of what was asked of a client, whole.",
    {
        "call": (pl.String, "key of the request in the cache of answers"),
        "label": (pl.String, "what it was for"),
        "replicate": (pl.Int64, "which of several answers to one prompt"),
        "prompt": (pl.String, "every message, each under its role"),
        "answer": (pl.String, "as it came; null where nothing did"),
        "reason": (pl.String, "why it is no answer"),
        "input_tokens": (pl.Int64, "tokens of the prompt, read anew"),
        "cached_tokens": (pl.Int64, "tokens of the prompt that the server still knew"),
        "reasoning_tokens": (pl.Int64, "tokens written before the answer"),
        "output_tokens": (pl.Int64, "tokens of the answer"),
        "estimated": (
            pl.Boolean,
            "whether the server did not count, and these are from the lengths of the texts",
        ),
        "usd": (pl.Float64, "what it cost; null where no price is known"),
        "served_model": (pl.String, "the model that the server says it is"),
        "fingerprint": (pl.String, "of the server's configuration, where it tells one"),
        "seconds": (pl.Float64, "from the request to the whole answer, when it was asked"),
    },
    ("call",),
)
TABLES = {
    table.name: table
    for table in (
        DOCUMENTS, CONCEPTS, LABELS, PAIRS, PROMPTS, VOCABULARY, NAMES, CURVE, LATENTS, NEIGHBOURS,
        POOLED, CONTEXTS, COOCCURRING, EXPLANATIONS, EXPLANATION_SCORES, CONTROL_SCORES, EXPLANATION_STRATA,
        LATENT_SCORES, TARGETS, STRENGTHS, GENERATIONS, JUDGEMENTS, STEERED, ANSWERS, QUESTIONS, CONTRASTS, FURTHER_JUDGES, HOOK_POINTS, BATTERY, CONCEPTS_FOUND, ABSORPTION, FIRST_LETTER,
        WRITERS, CALLS,
    )
}  # fmt: skip
