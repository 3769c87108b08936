"""What clients get, in OpenAI's shapes."""

import base64
import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from rung.records import Answer
from rung.search import cited
from rung.serve.answer import Asked, Chance, Reply
from rung.serve.systems import Served


def new_id(prefix: str) -> str:
    """An id for a response."""
    return f"{prefix}-{uuid.uuid4().hex}"


def head(served: Served, kind: str, identity: str) -> dict[str, Any]:
    """What every response begins with."""
    return {
        "id": identity,
        "object": kind,
        "created": int(time.time()),
        "model": served.name,
        "system_fingerprint": f"rung-{served.system.digest}",
    }


def usage(replies: Sequence[Reply], each: int) -> dict[str, int]:
    """Tokens of the prompts, which `each` answers in a row share, and of the answers."""
    prompt = sum(reply.prompt_tokens for reply in replies[::each])
    written = sum(reply.completion_tokens for reply in replies)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def sources(served: Served, question: Asked, reply: Reply) -> dict[str, Any]:
    """What a choice says of the passages that its prompt held, the best first; nothing where it held none.

    OpenAI's shape has no place for that. `passages` are ids, `source` is the first with the answer's words.
    """
    if not question.passages:
        return {}
    answer = Answer(text=reply.text, value=reply.value)
    found = cited(answer, question.passages, served.spec.kind)
    return {"passages": list(found.passages), "source": found.source}


def chat_logprobs(chances: Sequence[Chance]) -> dict[str, Any]:
    """Log-probabilities as chat completions have them."""
    return {
        "content": [
            {
                "token": chance.text,
                "logprob": chance.logprob,
                "bytes": list(chance.spelled),
                "top_logprobs": [
                    {"token": text, "logprob": logprob, "bytes": list(spelled)}
                    for text, logprob, spelled in chance.top
                ],
            }
            for chance in chances
        ],
        "refusal": None,
    }


def text_logprobs(chances: Sequence[Chance], at: int = 0) -> dict[str, Any]:
    """Log-probabilities as completions have them; `at` characters of the answer came before."""
    places = []
    for chance in chances:
        places.append(at)
        at += len(chance.text)
    return {
        "tokens": [chance.text for chance in chances],
        "token_logprobs": [chance.logprob for chance in chances],
        "top_logprobs": [{text: logprob for text, logprob, _ in chance.top} for chance in chances],
        "text_offset": places,
    }


def embedding(index: int, vector: np.ndarray, form: str | None) -> dict[str, Any]:
    """One sentence vector [width] of a response."""
    if form == "base64":
        value: Any = base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode("ascii")
    else:
        value = [float(x) for x in vector]
    return {"object": "embedding", "index": index, "embedding": value}


def model(name: str, created: int = 0) -> dict[str, Any]:
    """An entry of /v1/models; `created` in seconds since 1970."""
    return {"id": name, "object": "model", "created": created, "owned_by": "rung"}


def system(served: Served) -> dict[str, Any]:
    """An entry of /v1/systems: what a System is made of, and whether it is loaded.

    `probabilities`: whether its answers are labels that `logprobs` weighs against the others.
    """
    spec = served.spec
    return {
        "name": served.name,
        "object": "system",
        "digest": served.system.digest,
        "rung": spec.rung,
        "task": spec.task,
        "kind": spec.kind,
        "labels": list(spec.labels),
        "schema": spec.schema_,
        "form": spec.answer.form,
        "probabilities": served.labelled,
        "engine": spec.engine,
        "weight_type": spec.weight_type,
        "base": None
        if spec.model is None
        else {"name": spec.model.name, "digest": spec.model.digest, "licence": spec.model.licence},
        "adapter": served.adapter is not None,
        "tag": served.tag,
        "loaded": served.warm,
        "created": served.created,
    }
