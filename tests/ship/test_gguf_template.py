"""The chat template in an exported GGUF, as llama.cpp's own server fills it in."""

import subprocess
import sys
import threading

import pytest

from rung.engines.base import EngineSpec
from rung.engines.llama import LlamaEngine
from rung.models.resolve import resolve
from rung.records import Example
from rung.ship.quantising import write_pair
from rung.ship.subject import Subject, load_subject
from rung.system import Pool
from rung.wording import messages
from tests.fixtures_ship import make_gguf, make_tuned

TALK = [
    {"role": "system", "content": "You are a helpful assistant"},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi there"},
    {"role": "user", "content": "How are you?"},
]
"""What the server fills in when it starts."""
FORMS = {
    "terse": {},
    "chat": {"form": "words", "style": "chat", "instruction": "Name the topic."},
}
STARTS = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.port, params.ui, params.warmup, params.verbosity = 256, 0, False, False, 9
server = xllamacpp.Server(params)
sys.stdin.read()
"""
"""llama.cpp's server with all that it says, which a thread of its own writes; until it is killed."""


@pytest.fixture(scope="module", params=FORMS)
def exported(request, tmp_path_factory):
    """A System to be exported, and the GGUF file with its prompt."""
    folder = tmp_path_factory.mktemp("exported")
    system = make_tuned(make_gguf(folder / "base.gguf"), folder / "system", **FORMS[request.param])
    with Pool() as pool:
        subject = load_subject(system, pool)
        write_pair(subject, folder / "out.gguf", folder / "adapter.gguf")
        yield subject, folder / "out.gguf"


def prompt(subject: Subject, text: str) -> str:
    turns = messages(subject.spec.instruction, Example(id="", input=text, output=None))
    return subject.chat.show(turns, subject.spec.style)


def test_the_last_text_of_a_conversation_is_asked_as_the_system_asks_it(exported):
    subject, file = exported
    engine = LlamaEngine(EngineSpec(engine="llama", gguf=file, context=256, parallel=1, threads=1))
    try:
        for turns in (TALK, TALK[1:], TALK[-1:]):
            assert engine.templated(turns) == prompt(subject, "How are you?")
    finally:
        engine.close()


def test_the_server_starts_with_the_files_own_template_and_says_so(exported):
    _, file = exported
    said, pipe = "", subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", STARTS, str(file)],
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        late = threading.Timer(120, child.kill)
        late.start()
        assert child.stdout is not None
        for line in child.stdout:  # to its end where the server refuses to start
            said += line
            if "listening on" in line:
                break
        late.cancel()
        child.kill()
    example = said.partition("example_format")[2]
    assert "How are you?" in example and "listening on" in said, said[-2000:]


def test_the_file_is_talked_to_by_rung_as_before(exported):
    from rung.errors import ModelError
    from rung.models.chat import Message, load_chat

    subject, file = exported
    chat = load_chat(resolve(str(file)))
    asked = Message(role="user", content="How are you?")
    assert chat.show([asked]) == prompt(subject, "How are you?") and chat.end == subject.chat.tokens.eos_id
    for before in ("system", "user"):
        with pytest.raises(ModelError, match="leaves out turn 1"):
            chat.show([Message(role=before, content="Hello"), asked])
