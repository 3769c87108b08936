"""How long a prompt and its answer may be: what a task says of it holds for all that is made of it."""

import asyncio

import pytest

from rung.asking import context_of
from rung.climb.climb import Options, climb
from rung.models.resolve import limited, resolve
from rung.records import Example
from rung.serve.answer import Wish, asked, reply
from rung.serve.faults import Fault
from rung.serve.limits import Limits
from rung.serve.systems import Systems
from rung.system import Pool, System
from tests.fixtures_climb import Log, label_rows, make_tiny_gguf, write_rows
from tests.fixtures_ship import make_tuned

WORDS = 2100
"""Each is a token at least, and 2048 are usual."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", context=8192)


def written(folder, said: str = ""):
    rows = [{**row, "input": f"{row['input']} {'please ' * WORDS}"} for row in label_rows(24)]
    write_rows(folder / "rows.jsonl", rows)
    (folder / "task.yaml").write_text(f"data: {{train: rows.jsonl}}\noutput: {{kind: label}}\n{said}\n")
    return folder


def climbed(folder, tiny, **changes):
    options = Options(models=(str(tiny),), rungs=("prompt",), out=folder / "run", budget_s=600, **changes)
    log = Log()
    result, run = climb(folder, options, log)
    return result, run, log


def test_a_model_has_the_usual_tokens_unless_a_task_wants_others_and_never_more_than_it_holds(tiny):
    model = resolve(str(tiny))
    assert context_of(model) == context_of(limited(model, None)) == 2048
    assert context_of(limited(model, 300)) == 300 and context_of(limited(model, 99_999)) == 8192


def test_long_rows_are_answered_where_the_task_gives_them_the_tokens(tiny, tmp_path):
    result, run, log = climbed(written(tmp_path, "context_tokens: 5000"), tiny)
    (prompt,) = result.results
    assert prompt.dev is not None and prompt.test is not None
    assert prompt.dev.failures == prompt.test.failures == 0 and "too_long" not in log.text
    system = System.load(run / "rungs" / "prompt" / "system")
    assert system.spec.context_tokens == 5000
    with Pool() as pool:
        assert system.engine_spec(pool).context == 5000


def test_without_them_the_check_says_how_to_give_them(tiny, tmp_path):
    with pytest.raises(Exception, match="give them more with context_tokens in task.yaml: tiny holds 8,192"):
        climbed(written(tmp_path), tiny)


def test_systems_with_unlike_limits_are_served_by_children_of_their_own(tiny, tmp_path):
    changes = {"engine": "llama", "form": "free", "kind": "text", "labels": ()}
    made = {
        name: make_tuned(tiny, tmp_path / name, context_tokens=tokens, **changes)
        for name, tokens in (("short", None), ("also", None), ("long", 5000))
    }
    assert made["short"].digest == made["also"].digest != made["long"].digest
    question = Example(id="1", input="please " * WORDS, output=None)

    async def run() -> tuple[str, str]:
        systems = Systems(Limits(slots=1, threads=1))
        for name, system in made.items():
            await systems.add(str(system.folder), name)
        assert sorted(host.spec.context for host in systems.hosts.values()) == [2048, 5000]
        long, short = systems.find("long"), systems.find("short")
        assert long is not None and short is not None
        found = await reply(systems, long, await asked(systems, long, question), Wish(max_tokens=4))
        with pytest.raises(Fault) as caught:
            await reply(systems, short, await asked(systems, short, question), Wish(max_tokens=4))
        await systems.close()
        return found.text, caught.value.message

    text, refused = asyncio.run(run())
    assert "the context holds 2,048" in refused
    with Pool(threads=1, parallel=1) as pool:
        assert made["long"].answer([question], pool)[0].text.startswith(text[:1])
