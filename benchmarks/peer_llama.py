"""llama.cpp's server as xllamacpp's documentation starts it, until the parent closes standard input.

A child of evaluate_vs_llamacpp.py, in the peer's environment. Standard input's first line: a JSON object with
`gguf`, `parallel` and `context` (tokens of one slot). Standard output: one JSON line with the address.
"""

import json
import os
import sys
from importlib.metadata import version


def main() -> None:
    """Serve until nobody is left to ask. All settings but slots, context and port are the server's own."""
    import xllamacpp

    job = json.loads(sys.stdin.readline())
    answer = os.dup(1)
    os.dup2(2, 1)
    params = xllamacpp.CommonParams()
    params.model.path = job["gguf"]
    params.n_parallel = job["parallel"]
    params.n_ctx = job["context"] * job["parallel"]
    params.port = 0
    server = xllamacpp.Server(params)
    said = {"address": server.listening_address, "xllamacpp": version("xllamacpp")}
    os.write(answer, (json.dumps(said) + "\n").encode())
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
