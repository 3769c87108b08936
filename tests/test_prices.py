"""The price of a hosted model as a task file has it: one, or each by its name."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml

from rung.checks.rows import prepare
from rung.climb.options import Options
from rung.errors import TaskError
from rung.models.hosted import hosted
from rung.rungs.api import price_unknown, prices
from rung.scoring.prices import listed_price
from rung.task import load_task
from rung.task.model import Prices
from rung.task.written import task_schema
from tests.fixtures_climb import label_rows, write_rows

X, Y, LISTED = "openai:x@http://h:1/v1", "openai:y@http://h:2/v1", "openai:gpt-4o"
ONE = {"input_usd_per_m": 1.0, "output_usd_per_m": 4.0}
OTHER = {"input_usd_per_m": 2.0, "output_usd_per_m": 8.0}
FIELDS = "models, teacher or judge"


@pytest.fixture
def write(tmp_path):
    (tmp_path / "rows.jsonl").write_text("")

    def written(**keys):
        task = {"data": {"train": "rows.jsonl"}, "models": ["smollm2-135m", X, Y], **keys}
        (tmp_path / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
        return tmp_path

    return written


def rows_in(folder: Path) -> Path:
    write_rows(folder / "rows.jsonl", label_rows(60))
    return folder


def test_one_price_is_read_as_it_was_and_prices_by_name_beside_it(write):
    assert load_task(write(prices=ONE)).prices == Prices(**ONE)
    task = load_task(write(prices={X: ONE, Y: OTHER}))
    assert task.prices == {X: Prices(**ONE), Y: Prices(**OTHER)}
    assert task.model_dump(mode="json")["prices"][Y]["output_usd_per_m"] == 8.0
    assert load_task(write(prices=None)).prices is None


def test_a_model_has_its_own_price_before_the_lists_and_the_others_have_the_lists(write):
    task = load_task(write(models=["smollm2-135m", X, Y, LISTED], prices={X: ONE}))
    models = [hosted(name) for name in (X, Y, LISTED)]
    known = prices(task, models)
    assert known == {
        ("http://h:1/v1", "x"): Prices(**ONE).per_token,
        ("https://api.openai.com/v1", "gpt-4o"): listed_price("gpt-4o", "https://api.openai.com/v1"),
    }
    task = load_task(write(models=["smollm2-135m", LISTED], prices={LISTED: ONE}))
    assert prices(task, models[2:]) == {("https://api.openai.com/v1", "gpt-4o"): Prices(**ONE).per_token}


def test_teacher_and_judge_have_their_prices_by_name_and_a_system_that_teaches_by_its_own(write):
    judged = {"metric": "judge", "judge": {"model": Y}, "output": {"kind": "text"}}
    task = load_task(write(models=["smollm2-135m"], teacher=X, prices={X: ONE, Y: OTHER}, **judged))
    assert set(prices(task, [hosted(X), hosted(Y)]).values()) == {
        Prices(**ONE).per_token,
        Prices(**OTHER).per_token,
    }
    task = load_task(write(models=["smollm2-135m", Y], teacher="desk", prices={"desk": ONE, Y: OTHER}))
    of_desk = replace(hosted(X), system="desk")
    assert prices(task, [hosted(Y), of_desk])["http://h:1/v1", "x"] == Prices(**ONE).per_token
    task = load_task(write(models=["smollm2-135m", X], teacher="desk", prices={"desk": ONE}))
    assert prices(task, [hosted(X), of_desk]) == {("http://h:1/v1", "x"): Prices(**ONE).per_token}
    task = load_task(write(models=["smollm2-135m", X], teacher="desk", prices={"desk": ONE, X: OTHER}))
    assert set(prices(task, [hosted(X), of_desk]).values()) == {Prices(**OTHER).per_token}


def test_a_model_that_the_command_names_may_have_its_price_by_name_too(write):
    folder = write(models=["smollm2-135m"], prices={Y: ONE})
    task = prepare(rows_in(folder), Options(models=("smollm2-135m", Y))).task
    assert prices(task, [hosted(Y)]) == {("http://h:2/v1", "y"): Prices(**ONE).per_token}
    with pytest.raises(TaskError, match="prices: 'openai:y@http://h:2/v1' is no hosted model of"):
        prepare(folder, Options())


@pytest.mark.parametrize("already", [None, {Y: OTHER}])
def test_what_is_advised_for_a_model_without_a_price_is_taken(already, write):
    for model in (hosted(X), replace(hosted("openai:z@http://h:3/v1"), system="de\\sk")):
        said = price_unknown(model)
        assert said.startswith(f"the price of {model.given} isn't known; give it in task.yaml as prices: {{")
        advised = yaml.safe_load(said.partition("prices: ")[2].replace("…", "1.0"))
        task = load_task(write(teacher="de\\sk", prices={**advised, **(already or {})}))
        assert prices(task, [model])[model.url, model.model].output_usd_per_m == 1.0


KEYS = "needs keys and values: input_usd_per_m, output_usd_per_m, cached_input_usd_per_m"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"openai:z": ONE}, f"prices: 'openai:z' is no hosted model of {FIELDS}; name one of {X}, {Y}"),
        ({X: ONE, "smollm2-135m": ONE}, f"prices: 'smollm2-135m' is no hosted model of {FIELDS}"),
        ({X: {"input_usd_per_m": 1}}, f"key 'prices.{X}.output_usd_per_m' is missing; write 'prices: {{"),
        ({X: {**ONE, "cache": 1}}, f"unknown key 'prices.{X}.cache'; known here: input_usd_per_m, output"),
        ({X: 5}, f"prices.{X}: {KEYS}, not 5"),
        ({X: {**ONE, "input_usd_per_m": -1}}, f"prices.{X}.input_usd_per_m: should be greater than or equal"),
        ({**ONE, X: OTHER}, f"unknown key 'prices.{X}'"),
        ({"input_usd": 1}, "unknown key 'prices.input_usd'; did you mean 'input_usd_per_m'?"),
        ({}, "key 'prices.input_usd_per_m' is missing"),
        (5, f"prices: {KEYS}, not 5"),
    ],
)
def test_what_is_no_price_is_told_in_a_line_with_the_way_out(given, said, write):
    with pytest.raises(TaskError) as caught:
        load_task(write(prices=given))
    assert said in str(caught.value) and "one price" not in str(caught.value)


def test_a_task_without_hosted_models_has_no_price_by_name(write):
    with pytest.raises(TaskError, match="prices: 'openai:x' is no hosted model of .*; the task names none"):
        load_task(write(models=["smollm2-135m"], prices={"openai:x": ONE}))


def test_the_schema_of_a_task_file_knows_both_forms():
    check = jsonschema.Draft202012Validator(task_schema())
    for given in (ONE, {X: ONE, Y: OTHER}, None):
        assert check.is_valid({"data": {"train": "rows.jsonl"}, "prices": given})
    for given in ({X: 5}, {X: {"input": 1}}, {"input_usd_per_m": 1}, 5):
        assert not check.is_valid({"data": {"train": "rows.jsonl"}, "prices": given})
