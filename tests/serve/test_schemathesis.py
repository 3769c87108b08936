"""Whatever the server's OpenAPI document allows, and forbids, as schemathesis makes it up: never a 5xx."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.fixtures_serve import Server

HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)
# What is refused beyond what a schema can say (a model that isn't there, `stop` with JSON, …) makes the
# checks that count refusals, `positive_data_acceptance` and `negative_data_rejection`, say nothing here.


# What the document says, broken on purpose in every place; and what it allows, bent to reach an answer.
RUNS = (("--phases", "coverage"), ("--phases", "fuzzing", "--mode", "positive", "--max-examples", "50"))


def test_nothing_that_the_document_allows_or_forbids_breaks_the_server(tmp_path, tiny_gguf, tiny_systems):
    systems = [f"{name}={system.folder}" for name, system in tiny_systems.items()]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": str(HOOKS),
        "RUNG_FUZZ_MODELS": ",".join([*tiny_systems, "base"]),
        "RUNG_FUZZ_SYSTEM": str(tiny_systems["codes"].folder),
    }
    with Server(*systems, f"base={tiny_gguf}", home=tmp_path) as server:
        for run in RUNS:
            command = [
                sys.executable,
                "-m",
                "schemathesis.cli",
                "run",
                f"{server.address}/openapi.json",
                *run,
            ]
            command += ["--checks", ",".join(CHECKS), "--seed", "1", "--continue-on-failure", "--no-color"]
            ended = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
            )
            assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
        counted = re.findall(
            r'^rung_requests_total\{.*status="(\d+)",system="(.*)"\} (\S+)$', server.metrics(), re.M
        )
        assert not [status for status, _, _ in counted if status >= "500"], counted
        # Enough got past the door for that to say something.
        answered = [(system, float(number)) for status, system, number in counted if status == "200"]
        assert {system for system, _ in answered} >= {*tiny_systems, "base"}, counted
        assert sum(number for _, number in answered) > 25, counted
