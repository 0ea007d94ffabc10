"""A question to the live worker as a part of a page: asked once, followed while the page stays
usable, cancelled on demand.

The part polls by itself (a Streamlit fragment) and stops polling when the answer is there. What was
asked is kept in the session under the part's name, so an answer stays on the page until another
question takes its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from dashboards import live
from dashboards.markdown import plain, sentence

SECONDS_BETWEEN_LOOKS = 0.7
PATIENCE = 1.0
"""Seconds a page waits for an answer before it begins to poll: most answers come sooner, and then
nothing flickers."""


@dataclasses.dataclass
class Asked:
    """What was asked, and how far it is.

    Attributes:
        about: what the page wants to remember of it.
        question: where it stands; None where it was never taken.
        refusal: a sentence, where it was not taken or was lost.
        cancelled: whether it was taken back; work ends at the next pass of the model.
    """

    about: Mapping[str, Any]
    question: live.AskedQuestion | None = None
    refusal: str | None = None
    cancelled: bool = False


def asked(name: str) -> Asked | None:
    """The last question of this part of the page."""
    return st.session_state.get(_slot(name))


def forget(name: str) -> None:
    """Takes the question back, and cancels it where it still runs."""
    before = st.session_state.pop(_slot(name), None)
    if before and before.question and not before.question.ended:
        _cancel(before)


def ask(
    name: str, kind: live.QuestionKind, experiment: str, about: Mapping[str, Any], **question: Any
) -> None:
    """Asks; a question of this part that still runs is cancelled."""
    forget(name)
    new = Asked(about)
    try:
        new.question = live.ask(kind, experiment, **question)
        new.question = live.look(new.question.id, PATIENCE)
    except live.LiveError as error:
        new.refusal = str(error)
    st.session_state[_slot(name)] = new


def show(name: str, draw: Callable[[Any, Mapping[str, Any]], None]) -> None:
    """Shows how far the question is, or what came out: `draw(answer, about)`; nothing where nothing
    was asked."""
    current = asked(name)
    if current is None:
        return
    pending = current.question is not None and not current.question.ended and not current.refusal
    st.fragment(_follow, run_every=SECONDS_BETWEEN_LOOKS if pending else None)(name, draw)


def _follow(name: str, draw: Callable[[Any, Mapping[str, Any]], None]) -> None:
    current = asked(name)
    if current is None:
        return
    if current.question and not current.question.ended and not current.refusal:
        try:
            current.question = live.look(current.question.id)
        except live.LiveError as error:
            current.refusal = str(error)
        if current.refusal or current.question.ended:
            st.rerun()  # of the whole page: only that ends the polling
    question = current.question
    if current.refusal or question is None:
        st.warning(sentence(current.refusal or "The question was not taken."))
    elif question.answer is not None:
        draw(question.answer, current.about)
    elif question.ended:
        problem = question.problem
        why = live.sentence(problem) if problem else "There is no answer."
        (st.info if problem and problem.kind == "cancelled" else st.warning)(sentence(why))
    else:
        said, button = st.columns([5, 1], vertical_alignment="center")
        said.progress(
            question.share or 0.0, "being cancelled" if current.cancelled else _standing(question)
        )
        button.button(
            "Cancel",
            key=f"cancel {name}",
            on_click=_cancel,
            args=(current,),
            disabled=current.cancelled,
            width="stretch",
        )


def _standing(question: live.AskedQuestion) -> str:
    if question.state == "waiting" and question.position:
        return f"waiting; {question.position} before it"
    return plain(question.message or "waiting") + (
        "" if question.share is None else f" · {question.share:.0%}"
    )


def _cancel(current: Asked) -> None:
    assert current.question is not None
    try:
        live.cancel(current.question.id)
        current.cancelled = True
    except live.LiveError as error:
        current.refusal = str(error)


def _slot(name: str) -> str:
    return f"question {name}"
