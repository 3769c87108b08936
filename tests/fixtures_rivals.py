"""Several hosted models on this machine as rivals in one climb, each a server with its own answers."""

import json
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures_climb import label_rows, write_rows
from tests.fixtures_hosted import PRICES, Hosted, topic

DEV_ROWS = 54
DEAR = PRICES.model_dump()
CHEAP = {"input_usd_per_m": 0.1, "output_usd_per_m": 0.4, "cached_input_usd_per_m": 0.01}


def mistaken(text: str, body: dict) -> str:
    """Right on two rows of three."""
    found = topic(text.split("\n\n")[-1])
    return json.dumps({"label": "delivery" if found == "login" else found})


@dataclass(frozen=True)
class Rival:
    """A server, and what its model is called in a task and as a candidate."""

    server: Hosted
    model: str
    path: str = "/v1"

    @property
    def given(self) -> str:
        return f"openai:{self.model}@{self.server.url.removesuffix('/v1')}{self.path}"

    @property
    def candidate(self) -> str:
        host = self.server.url.removeprefix("http://").removesuffix("/v1")
        return f"api@{self.model}@{host.replace(':', '-')}"

    @property
    def asked(self) -> int:
        return len(self.server.seen)


def written(folder: Path, tiny: Path, prices: dict | None, *rivals: Rival) -> Path:
    if not (folder / "rows.jsonl").exists():
        write_rows(folder / "rows.jsonl", label_rows(270))
    models = [str(tiny), *(rival.given for rival in rivals)]
    task = {"name": "topics", "data": {"train": "rows.jsonl"}, "models": models, "prices": prices}
    (folder / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
    return folder


def each(*priced: tuple[Rival, dict]) -> dict:
    return {rival.given: price for rival, price in priced}
