"""Requests made up from the server's own OpenAPI document, allowed and forbidden: is any answered by a 5xx?

    python benchmarks/serve_schemathesis.py --examples 200

schemathesis against `rung serve` with a base model and Systems of random adapters; what it makes up is bent
so that a part of it reaches what is served (tests/serve/schemathesis_hooks.py). Its report is printed, and
what the server counted by status.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import httpx
from common import HERE, print_machine, table
from serve import random_system, rung_server

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method,allow_header_conformance"
)


def main() -> None:
    """Two runs; the exit status is 0 where neither found anything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=200, help="at most, for each route and phase")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        forms = {name: random_system(Path(folder) / name, 0, name, 16) for name in ("codes", "free")}
        served = [f"{name}={system}" for name, system in forms.items()]
        with rung_server([*served, "base=smollm2-135m", "minilm-l6"], 4) as server:
            hooks = {
                "SCHEMATHESIS_HOOKS": str(HERE.parent / "tests" / "serve" / "schemathesis_hooks.py"),
                "RUNG_FUZZ_MODELS": "codes,free,base,minilm-l6",
                "RUNG_FUZZ_SYSTEM": str(forms["codes"]),
            }
            statuses = []
            # What the document says, broken in every place; then what it allows, bent to reach an answer.
            for mode in (("coverage", "all"), ("fuzzing,stateful", "positive")):
                command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
                command += ["--phases", mode[0], "--mode", mode[1], "--checks", CHECKS, "--no-color"]
                command += ["--max-examples", str(given.examples), "--seed", str(given.seed)]
                command += ["--continue-on-failure"]
                statuses.append(subprocess.run(command, cwd=folder, env={**os.environ, **hooks}).returncode)
            said = httpx.get(f"{server.url}/metrics").text
    counted: Counter[tuple[str, str]] = Counter()
    for labels, value in re.findall(r"^rung_requests_total\{(.*)\} (\S+)$", said, re.MULTILINE):
        found = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        counted[found["route"], found["status"]] += int(float(value))
    table(("route", "status", "responses"), [(*key, str(count)) for key, count in sorted(counted.items())])
    sys.exit(max(statuses))


if __name__ == "__main__":
    main()
