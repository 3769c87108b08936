"""Real models under the schemas of real sets, at limits from one token to the whole answer."""

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from rung.data.sources import read_source
from rung.engines import start
from rung.engines.base import Engine, Request
from rung.models.chat import Chat, Message, load_chat
from rung.models.resolve import resolve
from rung.task.schemas import infer_schema
from tests.fixtures_models import llama_spec, torch_spec

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
LONGEST = 72

pytestmark = pytest.mark.models


@pytest.fixture(scope="module", params=["llama", "torch"])
def engine(request) -> Iterator[Engine]:
    spec = {"llama": llama_spec, "torch": torch_spec}[request.param]
    engine = start(spec(context=768))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def chat() -> Chat:
    return load_chat(resolve("smollm2-135m"))


@pytest.mark.parametrize("name", ["sroie_receipts", "bfcl_v4_single_turn"])
def test_answers_under_an_inferred_schema_parse_at_any_limit_or_name_the_fewest_tokens(engine, chat, name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"no folder {name} beside this project")
    rows = read_source(SHARED / name / "train.jsonl").examples
    schema = infer_schema([row.output for row in rows])
    prompt = chat.render([Message(role="user", content=f"Answer in JSON.\n{str(rows[3].input)[:300]}")])

    def ask(*limits: int):
        return engine.generate(
            [
                Request(prompt=prompt, max_tokens=limit, stop_ids=chat.stop_ids, schema=schema)
                for limit in limits
            ]
        )

    (refused,), (whole,) = ask(1), ask(LONGEST)
    least = int(refused.failure.split("raise it to ")[1].split()[0])
    full = len(whole.tokens)
    limits = sorted({1, least - 1, *(least + step * (full - least) // 2 for step in range(3))})
    assert len(limits) == 5
    # One at a time, as the whole was: among other requests a near-tie may turn.
    for limit in limits:
        (completion,) = ask(limit)
        if limit < least:
            assert f"raise it to {least} or more" in completion.failure
            continue
        assert completion.failure is None
        jsonschema.validate(json.loads(completion.text), schema)
        assert len(completion.tokens) <= limit
        assert completion.text == chat.tokens.decode(completion.tokens)
        assert completion.truncated == (limit < full or whole.truncated)
        assert completion.logprob < 0
