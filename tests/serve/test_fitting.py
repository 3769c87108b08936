"""Questions that are too long: refused before an engine fails over them, and without holding up others."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from rung.asking import candidates, context_of
from rung.engines.trie import Trie
from rung.models.chat import Message
from rung.models.resolve import resolve
from rung.models.tokens import LONG_TEXT
from rung.serve.answer import TURN, Asked, asked, fitting, text_asked, turns_asked
from rung.serve.faults import Fault
from rung.serve.host import Host
from rung.serve.systems import Served, Systems
from rung.spec import AnswerSpec, Spec
from rung.system import Pool, System, ref_to
from tests.fixtures_serve import row


@pytest.mark.parametrize("engine", ["llama", "torch"])
def test_a_prompt_is_refused_from_the_length_on_at_which_its_engine_fails(engine, tiny_gguf):
    model = resolve(str(tiny_gguf))
    spec = Spec(
        rung="prompt",
        task="t",
        kind="label",
        labels=("card", "card lost", "card lost again"),
        engine=engine,
        model=ref_to(model, str(tiny_gguf)),
        answer=AnswerSpec(form="words"),
    )
    system, context = System(Path(), spec), context_of(model)
    with Pool(threads=1, parallel=1) as pool:
        chat = pool.chat(model)
        options = candidates(spec, chat)
        served = Served(
            name="cards",
            system=system,
            model=model,
            chat=chat,
            host=cast(Host, SimpleNamespace(spec=SimpleNamespace(context=context)))
            if engine == "llama"
            else None,
            adapter=None,
            adapter_mb=0.0,
            options=Trie(options),
        )
        prompts = [(5,) * length for length in range(context - 12, context + 1)]
        choices = system.open(pool).choose(prompts, options, exhaustive=True)
    taken = []
    for prompt in prompts:
        try:
            fitting(served, Asked(example=row("x"), prompt=prompt))
            taken.append(True)
        except Fault as fault:
            assert (fault.status, fault.code) == (400, "context_length_exceeded")
            taken.append(False)
    assert taken == [choice.failure is None for choice in choices]
    assert taken[0] and not taken[-2]


@pytest.mark.parametrize("size", [LONG_TEXT, LONG_TEXT + 1])
def test_a_long_text_is_made_a_prompt_on_a_thread_and_no_other_is(size):
    threads = []

    def made(found):
        def make(*_):
            threads.append(threading.current_thread())
            return found

        return make

    served = cast(
        Served,
        SimpleNamespace(
            chat=SimpleNamespace(render=made((5,)), continued=made((5,))),
            model=object(),
            host=SimpleNamespace(spec=SimpleNamespace(context=512)),
            options=None,
            spec=SimpleNamespace(looks_up=False),
            system=SimpleNamespace(prompted=made([((5,), ())])),
        ),
    )
    systems, text = cast(Systems, SimpleNamespace(pool=None)), "x" * (size - 1)
    # A turn counts for as many characters as its own words in a template take.
    first = Message(role="system", content=text[2 * TURN :])
    turns = [first, Message(role="user", content="c")]
    for asking in (
        asked(systems, served, row(text, "c")),
        turns_asked(served, turns),
        text_asked(served, text + "c"),
    ):
        assert asyncio.run(asking).prompt == (5,)
    assert len(threads) == 3
    assert {thread is threading.main_thread() for thread in threads} == {size == LONG_TEXT}
