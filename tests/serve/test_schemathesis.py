"""Whatever the server's OpenAPI document allows, and forbids, as schemathesis makes it up: never a 5xx."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.fixtures_serve import ROOT, Server

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


def test_nothing_that_the_document_allows_or_forbids_breaks_the_server(tmp_path, tiny_gguf, tiny_systems):
    systems = [f"{name}={system.folder}" for name, system in tiny_systems.items()]
    with Server(*systems, f"base={tiny_gguf}", home=tmp_path) as server:
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.address}/openapi.json"),
                *("--checks", ",".join(CHECKS)),
                *("--phases", "coverage,fuzzing"),
                *("--max-examples", "20"),
                *("--seed", "1"),
                *("--continue-on-failure", "--no-color"),
            ],
            cwd=tmp_path,
            env={
                **os.environ,
                "SCHEMATHESIS_HOOKS": str(HOOKS),
                "PYTHONPATH": str(ROOT),
                "RUNG_FUZZ_MODELS": ",".join([*tiny_systems, "base"]),
                "RUNG_FUZZ_SYSTEM": str(tiny_systems["codes"].folder),
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
        counted = re.findall(r'^rung_requests_total\{.*status="(\d+)".*\} (\S+)$', server.metrics(), re.M)
        answers = sum(float(number) for status, number in counted if status == "200")
        assert answers > 50, counted
        assert not [status for status, _ in counted if status >= "500"], counted
