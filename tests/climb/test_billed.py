"""A hosted model is stopped by what costs less, by the price that it is ordered by in the end."""

import json

import pytest

from rung.climb.climb import Options, climb
from rung.climb.ordering import in_cost_order
from rung.task import load_task
from tests.fixtures_climb import Log, label_rows, make_tiny_gguf, write_rows
from tests.fixtures_hosted import KEY, Hosted


class Billing(Hosted):
    """Bills a thousand tokens of prompt a call, all of them cached; a forecast knows of no cache."""

    def completion(self, body):
        usage = {
            "prompt_tokens": 1000,
            "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 1000},
        }
        return super().completion(body) | {"usage": usage}


@pytest.mark.models
def test_a_model_that_bills_less_than_foretold_is_not_stopped_by_a_rung_that_costs_more(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    write_rows(tmp_path / "rows.jsonl", label_rows(270))
    with Billing(lambda text, body: json.dumps({"label": "billing"})) as server:
        task = {
            "data": {"train": "rows.jsonl"},
            "models": [str(make_tiny_gguf(tmp_path / "tiny.gguf")), server.name],
            "prices": {"input_usd_per_m": 1.0, "output_usd_per_m": 0.0, "cached_input_usd_per_m": 0.0},
            # Building the head costs some dollars a month: less than was foretold, and more than nothing.
            "volume": "1000000000/month",
            "machine_usd_per_hour": 0.01,
        }
        (tmp_path / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
        options = Options(out=tmp_path / "run", rungs=("head", "api"), budget_s=600, api_usd=1.0)
        result, _ = climb(tmp_path, options, Log())
    head, api = result.results
    assert api.dev is not None and head.dev is not None and head.dev.score > 0.9 > api.dev.score
    assert api.stopped is None and len(api.dev.predictions) == result.n_dev
    ordered = [one.rung for one in in_cost_order(result.results, load_task(tmp_path))]
    assert ordered == ["api", "head"]
