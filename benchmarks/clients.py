"""Clients as their users point them at a server: LangChain and LiteLLM against `rung serve`.

    python -m venv clients && clients/bin/pip install langchain-openai litellm
    python benchmarks/clients.py --clients clients/bin/python

The server runs in this environment on SmolLM2-135M and sentence vectors; the clients run in theirs, with
nothing changed but the base URL. Each line is one thing that they were asked to do, and what came back.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

SCHEMA = {
    "title": "ticket",
    "description": "A ticket.",
    "type": "object",
    "properties": {"topic": {"enum": ["badge", "laptop", "payslip"]}, "urgent": {"type": "boolean"}},
    "required": ["topic", "urgent"],
    "additionalProperties": False,
}
ASKED = "My laptop is broken and I need it now."


def main() -> None:
    """Serve, and have the other environment's Python run this file as the client."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=Path, help="the Python that has langchain-openai and litellm")
    parser.add_argument("--ask", metavar="URL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        sys.exit(ask(given.ask))
    if given.clients is None:
        parser.error("--clients is needed: the Python of an environment with langchain-openai and litellm")
    from serve import rung_server

    with rung_server(["chat=smollm2-135m", "minilm-l6"], 2) as server:
        sys.exit(subprocess.run([given.clients, __file__, "--ask", f"{server.url}/v1"]).returncode)


def ask(url: str) -> int:
    """Everything of both; how many failed."""
    failed = 0
    for package, asked in (("langchain-openai", langchain(url)), ("litellm", litellm(url))):
        print(f"{package} {version(package)}")
        for what, call in asked.items():
            try:
                found = call()
            except Exception as error:  # noqa: BLE001 - whatever a client raises is what is to be seen
                failed += 1
                print(f"  {what}: FAILED: {type(error).__name__}: {str(error)[:300]}")
            else:
                print(f"  {what}: {str(found)[:100]!r}")
    return failed


def langchain(url: str) -> dict[str, Callable[[], object]]:
    """What LangChain is asked to do."""
    from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

    chat = ChatOpenAI(model="chat", base_url=url, api_key="none", max_tokens=24, temperature=0)
    text = OpenAI(model="chat", base_url=url, api_key="none", max_tokens=8, temperature=0)
    # By default LangChain sends the token ids of another model, which no server but OpenAI's can read.
    vectors = OpenAIEmbeddings(
        model="minilm-l6", base_url=url, api_key="none", check_embedding_ctx_length=False
    )
    tool = {"type": "function", "function": {"name": "ticket", "parameters": SCHEMA}}
    return {
        "invoke": lambda: chat.invoke(ASKED).content,
        "batch": lambda: [answer.content for answer in chat.batch([ASKED, "Hello"])],
        "stream": lambda: "".join(str(piece.content) for piece in chat.stream(ASKED)),
        "with_structured_output, json_schema": lambda: checked(
            chat.with_structured_output(SCHEMA, method="json_schema").invoke(ASKED)
        ),
        "with_structured_output, function_calling": lambda: checked(
            chat.with_structured_output(SCHEMA, method="function_calling").invoke(ASKED)
        ),
        "bind_tools": lambda: chat.bind_tools([tool], tool_choice="ticket").invoke(ASKED).tool_calls,
        "text completion": lambda: text.invoke("The capital of France is"),
        "embed_documents": lambda: len(vectors.embed_documents([ASKED, "Hello"])[1]),
    }


def litellm(url: str) -> dict[str, Callable[[], object]]:
    """What LiteLLM is asked to do."""
    import litellm

    where = {"api_base": url, "api_key": "none"}
    turns = [{"role": "user", "content": ASKED}]
    schema = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": SCHEMA, "strict": True}}
    tool = {"type": "function", "function": {"name": "ticket", "parameters": SCHEMA}}

    def chat(**more: object) -> object:
        return litellm.completion(model="openai/chat", messages=turns, max_tokens=24, **where, **more)

    return {
        "completion": lambda: chat().choices[0].message.content,
        "stream": lambda: "".join(piece.choices[0].delta.content or "" for piece in chat(stream=True)),
        "response_format": lambda: checked(
            json.loads(chat(response_format=schema).choices[0].message.content)
        ),
        "tools": lambda: chat(tools=[tool], tool_choice="required").choices[0].message.tool_calls[0].function,
        "text completion": lambda: (
            litellm.text_completion(
                model="text-completion-openai/chat", prompt="The capital of France is", max_tokens=8, **where
            )
            .choices[0]
            .text
        ),
        "embedding": lambda: len(
            litellm.embedding(model="openai/minilm-l6", input=[ASKED], encoding_format="float", **where).data[
                0
            ]["embedding"]
        ),
    }


def checked(found: dict) -> dict:
    """What has the schema's form; raises ValueError for anything else."""
    if set(found) != {"topic", "urgent"} or found["topic"] not in SCHEMA["properties"]["topic"]["enum"]:
        raise ValueError(f"not of the schema: {found}")
    return found


if __name__ == "__main__":
    main()
