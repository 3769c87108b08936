"""POST /v1/decisions and /v1/systemone: a probability for every option, calibrated on the task's own rows."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rung.data.conversations import Question
from rung.data.conversations import asked as read_question
from rung.records import Answer, Json
from rung.serve.answer import label
from rung.serve.completions import question_of
from rung.serve.decision_wire import DecisionRequest, SystemOneRequest
from rung.serve.decisions import (
    check_questions,
    check_systemone,
    decision,
    input_text,
    systemone_decision,
)
from rung.serve.faults import bad
from rung.serve.gateway import Gateway
from rung.serve.systems import Served


async def decide(gateway: Gateway, request: Request, body: DecisionRequest) -> Response:
    """Answer typed questions in OpenAI's shape."""
    served = _labelled(gateway, body.model)
    labels = served.spec.labels
    try:
        check_questions(body.questions, labels)
    except ValueError as error:
        raise bad(str(error), "questions") from None

    async def work() -> dict[str, Any]:
        found = await _answer(gateway, served, body.input, "input")
        return decision(body, labels, found.distribution, found.prompt_tokens).model_dump(mode="json")

    return await gateway.whole(request, "decisions", served.name, work())


async def systemone(gateway: Gateway, request: Request, body: SystemOneRequest) -> Response:
    """Answer typed questions in System One's shape."""
    served = _labelled(gateway, body.model)
    labels = served.spec.labels
    try:
        check_systemone(body.questions, labels)
    except ValueError as error:
        raise bad(str(error), "questions") from None

    async def work() -> dict[str, Any]:
        found = await _answer(gateway, served, body.state, "state")
        made = systemone_decision(body, labels, found.distribution, found.prompt_tokens)
        return made.model_dump(mode="json")

    return await gateway.whole(request, "systemone", served.name, work())


def _labelled(gateway: Gateway, name: str) -> Served:
    served = gateway.find(name)
    if not served.labelled and served.spec.kind == "label":
        raise bad(
            f"{name!r} gives no probabilities of its labels (it votes, or a hosted model answers), so "
            "that it decides nothing; ask /v1/chat/completions",
            "model",
        )
    if not served.labelled:
        raise bad(
            f"{name!r} answers with {served.spec.kind}, not with one of some labels: it decides nothing; ask "
            "/v1/chat/completions",
            "model",
        )
    return served


async def _answer(gateway: Gateway, served: Served, given: Any, param: str) -> Answer:
    """The System's answer to what a decision is about, with the probability of every label."""
    read: list[Question] = []

    def asked(turns: Sequence[Json]) -> str:
        read.append(read_question(turns))
        return read[0].input

    try:
        text = input_text(given, asked)
    except ValueError as error:
        raise bad(str(error), param) from None
    if not text.strip():
        raise bad(f"`{param}` is empty: there is nothing to decide", param)
    question = await question_of(gateway, served, read[0] if read else Question(input=text, context=None))
    found = await label(gateway.systems, served, question, every=True)
    gateway.metrics.tokens(served.name, found.prompt_tokens, found.completion_tokens)
    return found
