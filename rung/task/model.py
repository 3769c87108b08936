"""The Task: every key of task.yaml with its type, default and explanation. All paths are absolute."""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    model_validator,
)

from rung.home import expanded
from rung.records import MetricName, OutputKind, TokenPrice
from rung.task.outputs import as_kind, shown

DataFormat = Literal[
    "auto", "io", "chat", "prompt_completion", "preference", "unpaired_preference", "alpaca", "sharegpt"
]

SYNONYMS: dict[str, OutputKind] = {"sql": "text"}
"""Kinds that a task file may name and that are answered as another kind in this version."""
RUBRIC = (
    "Prefer the answer that serves the input better: first what is true and follows from the input, then "
    "what is complete, then what is clear. Of two that are equally good, neither is better for being longer."
)
PER_MONTH = {"day": 365.25 / 12, "month": 1.0, "year": 1 / 12}

_VOLUME = re.compile(r"(\d[\d,_]{0,19})\s*(?:/\s*(day|month|year))?", re.ASCII)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _from_folder(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder") or Path.cwd()
    return (folder / path).absolute()


def _beside(name: str, info: ValidationInfo) -> str:
    """A model's path from the task file's folder, where it leads somewhere, and nowhere from the current one.

    A bare word is never taken for a folder: it may be a model that is known by that name.
    """
    folder = (info.context or {}).get("folder")
    if folder is None or "://" in name or not ("/" in name or name.endswith(".gguf")):
        return name
    there = folder / name
    return str(there) if there.exists() and not expanded(name).exists() else name


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _label_text(value: object) -> object:
    """A label as rows have it that hold a number or a boolean."""
    if isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return as_kind(value, "label")
    return value


def _volume_text(value: object) -> object:
    match = _VOLUME.fullmatch(str(value).strip())
    count = int(re.sub("[,_]", "", match[1])) if match else 0
    if match is None or not count or isinstance(value, bool):
        raise ValueError(
            f"write a count above 0 per day, month or year, such as 100000/month, not {shown(value)}"
        )
    return f"{count}/{match[2] or 'month'}"


def _with_its_metric(judge: "JudgeSpec | None", info: ValidationInfo) -> "JudgeSpec | None":
    if "metric" not in info.data:
        return judge
    metric = info.data["metric"]
    if metric == "judge" and judge is None:
        raise ValueError(
            "metric judge needs one; write judge: {model: openai:NAME}, of another family than models"
        )
    if judge is not None and metric not in ("judge", "style"):
        raise ValueError(
            f"a judge belongs to metric style or metric judge, and metric is {metric or 'left out'}; write "
            "one of these, or take the judge out"
        )
    compares = {"rubric", "checked"} & (set() if judge is None else judge.model_fields_set)
    if metric == "style" and compares:
        raise ValueError(
            f"{' and '.join(sorted(compares))}: metric style asks its judge only whether an answer says what "
            "its row's output says, and compares none by a rubric; leave model alone, or write metric: judge"
        )
    return judge


def _price_form(value: object) -> str:
    """Whether this is one price, or those of several models by name; what is neither is told as one price."""
    if not isinstance(value, dict) or value.keys() & Prices.model_fields.keys():
        return ONE_PRICE
    by_name = any(isinstance(one, (dict, Prices)) or ":" in str(name) for name, one in value.items())
    return PRICES_BY_NAME if by_name else ONE_PRICE


def _of_models_named(
    prices: "Prices | dict[str, Prices] | None", info: ValidationInfo
) -> "Prices | dict[str, Prices] | None":
    if not isinstance(prices, dict) or not {"models", "teacher", "judge"} <= info.data.keys():
        return prices
    judge, teacher = info.data["judge"], info.data["teacher"]
    of_command = (info.context or {}).get("models", ())
    names = dict.fromkeys([*info.data["models"], *of_command, teacher, judge and judge.model])
    # Without a colon it's a model of this machine; a teacher may be a System that a hosted one answers for.
    priced = [name for name in names if name is not None and (":" in name or name == teacher)]
    for name in prices:
        if name not in priced:
            those = f"name one of {', '.join(priced)}" if priced else "the task names none"
            raise ValueError(f"{shown(name)} is no hosted model of models, teacher or judge; {those}")
    return prices


FilePath = Annotated[Path, AfterValidator(_from_folder)]
ModelName = Annotated[str, AfterValidator(_beside)]
LabelText = Annotated[str, BeforeValidator(_label_text), Field(min_length=1)]
_KINDS = {"anyOf": [{"enum": [*get_args(OutputKind), *SYNONYMS]}, {"type": "null"}]}
_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "object"}, {"type": "null"}]}
_VOLUME_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1}]}


class DataFiles(_Frozen):
    """The files that hold the rows."""

    train: FilePath = Field(description="Rows to learn from: .jsonl, .json, .csv, .tsv or .parquet.")
    test: FilePath | None = Field(
        default=None, description="Rows for the verdict; left out: carved from train, sealed."
    )
    documents: FilePath | None = Field(
        default=None,
        description="Documents to look answers up in: a folder, or a file (.md, .txt, .html, .pdf, .jsonl).",
    )
    unlabelled: FilePath | None = Field(
        default=None,
        description="Inputs without outputs, for a teacher to answer; for distill_head and distill.",
    )
    database: FilePath | None = Field(
        default=None, description="An SQLite file to run queries on, for metric execution; never written to."
    )
    format: DataFormat = Field(default="auto", description="How a row is written; auto: seen from the rows.")

    def written(self, asked: str) -> str:
        """How rows are written: as the command line asks, or as the task file says where that is `auto`."""
        return asked if asked != "auto" else self.format


class Output(_Frozen):
    """What an answer is."""

    kind: Annotated[OutputKind | None, WithJsonSchema(_KINDS)] = Field(
        default=None, description="What an answer is; sql is answered as text."
    )
    json_schema: Annotated[dict[str, Any] | None, WithJsonSchema(_SCHEMA)] = Field(
        default=None,
        alias="schema",
        description="JSON Schema of a json answer: a file, or the schema itself.",
    )
    labels: tuple[LabelText, ...] | None = Field(
        default=None, description="The labels to choose from.", min_length=2
    )

    _written_kind: str | None = PrivateAttr(default=None)
    _seen_from_rows: bool = PrivateAttr(default=False)

    @property
    def written_kind(self) -> str | None:
        """The synonym that the task file used for `kind`, if it did."""
        return self._written_kind

    @property
    def seen_from_rows(self) -> bool:
        """Whether nobody gave the kind, and the rows decided."""
        return self._seen_from_rows

    def as_seen(self, kind: OutputKind) -> "Output":
        """The same with the kind that the rows decided."""
        made = self.model_copy(update={"kind": kind})
        made._seen_from_rows = True
        return made

    @model_validator(mode="wrap")
    @classmethod
    def _translate_kind(cls, data: Any, handler: ValidatorFunctionWrapHandler) -> "Output":
        written = data.get("kind") if isinstance(data, dict) else None
        synonym = SYNONYMS.get(written) if isinstance(written, str) else None
        output = handler({**data, "kind": synonym} if synonym else data)
        if synonym:
            output._written_kind = written
        return output

    @model_validator(mode="after")
    def _agree(self) -> "Output":
        if self.labels is not None and self.kind not in (None, "label"):
            raise ValueError(f"labels belong to kind label, not {self.kind!r}; take one of them out")
        if self.json_schema is not None and self.kind not in (None, "json"):
            raise ValueError(f"a schema belongs to kind json, not {self.kind!r}; take one of them out")
        if self.labels is not None and self.json_schema is not None:
            raise ValueError("give labels (kind label) or a schema (kind json), not both")
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise ValueError(f"a label is listed twice: {max(self.labels, key=self.labels.count)!r}")
        return self


class Limits(_Frozen):
    """What a System must keep to; one outside cannot win."""

    p95_ms: float | None = Field(
        default=None, gt=0, description="95th percentile of the answer time, milliseconds."
    )
    memory_mb: float | None = Field(
        default=None, gt=0, description="Memory of weights, sentence model and what is looked up, MiB."
    )
    api_usd: float = Field(
        default=1.0, ge=0, description="What a climb may pay to hosted models in all, US dollars."
    )
    forgetting: Literal["warn", "block"] = Field(
        default="warn",
        description="A tune that spoils its base for other questions: warn of it, or block: it can't win.",
    )


ONE_PRICE, PRICES_BY_NAME = "one price", "prices by name"
"""The forms in which `prices` may be given."""
CACHE_WRITING = 1.25
"""Of the price of other input."""


class Prices(_Frozen):
    """What a hosted model's tokens cost."""

    input_usd_per_m: float = Field(ge=0, description="A million tokens of prompts, US dollars.")
    output_usd_per_m: float = Field(ge=0, description="A million tokens of answers, US dollars.")
    cached_input_usd_per_m: float | None = Field(
        default=None, ge=0, description="A million cached tokens of prompts; left out: as others."
    )

    @property
    def per_token(self) -> TokenPrice:
        """As the record that costs are worked out with.

        What a server says that it put into its cache costs a quarter more, as OpenAI (from GPT-5.6 on),
        Anthropic and others bill it: too much where that is free, and nowhere too little.
        """
        cached = self.cached_input_usd_per_m
        return TokenPrice(
            input_usd_per_m=self.input_usd_per_m,
            output_usd_per_m=self.output_usd_per_m,
            cached_input_usd_per_m=self.input_usd_per_m if cached is None else cached,
            cache_write_usd_per_m=CACHE_WRITING * self.input_usd_per_m,
        )


PricesGiven = Annotated[
    Annotated[Prices, Tag(ONE_PRICE)] | Annotated[dict[ModelName, Prices], Tag(PRICES_BY_NAME)],
    Discriminator(_price_form),
]

TuningMethod = Literal["lora", "rslora", "dora", "qlora", "prefix", "full"]


class Tuning(_Frozen):
    """How the rungs that train do it."""

    method: TuningMethod = Field(
        default="lora",
        description="How: lora, rslora, dora, qlora (over weights of a few bits), prefix, or full.",
    )
    rank: int = Field(
        default=16,
        ge=1,
        le=512,
        strict=True,
        description="Rank of what is added to the weights; from 64 on rslora learns better than lora.",
    )


class JudgeSpec(_Frozen):
    """Who compares answers where nothing else scores them, or says if one in a style keeps its content."""

    model: ModelName = Field(
        min_length=1,
        description="The model that judges, of another family than those of models: openai:NAME, "
        "anthropic:NAME, openai:NAME@URL or a local one.",
    )
    rubric: str = Field(
        default=RUBRIC,
        min_length=1,
        description="What makes one answer better than another; for metric judge alone.",
    )
    checked: FilePath | None = Field(
        default=None,
        description="Pairs that a person judged, .jsonl (`rung judge sheet RUN`): 50 or more, or nothing is "
        "decided; for metric judge alone.",
    )


class Task(_Frozen):
    """A task file, read. `rung.task.infer` fills what was left out from the rows."""

    name: str = Field(
        default="task", pattern=r"^\w[\w.-]{0,79}$", description="Short name; also names folders."
    )
    about: str = Field(default="", description="The job in words: what comes in, what must come out.")
    data: DataFiles = Field(description="The files that hold the rows.")
    output: Output = Field(default_factory=Output, description="What an answer is.")
    metric: MetricName | None = Field(
        default=None, description="How an answer is scored; left out: by the kind of the output."
    )
    judge: Annotated[JudgeSpec | None, AfterValidator(_with_its_metric)] = Field(
        default=None,
        validate_default=True,
        description="For metric judge: {model: …, rubric: …, checked: …}, a model that compares each answer "
        "with the row's output, what it goes by, and a file of what people said. For metric style: {model: "
        "…}, one that says whether an answer keeps its row's content; left out, sentence vectors alone do.",
    )
    models: Annotated[tuple[ModelName, ...], BeforeValidator(_one_or_many)] = Field(
        default=("smollm2-135m",),
        min_length=1,
        description="The models to climb on, one or more: catalog names, hub ids, folders or .gguf files, "
        "and hosted ones to compare them with: openai:NAME, anthropic:NAME or openai:NAME@URL. Left out, "
        "metric style has a base model beside the usual one.",
    )
    teacher: ModelName | None = Field(
        default=None,
        description="A bigger model, whose answers may be learned from and that writes better instructions: "
        "one named as in models, or a System, which answers alone.",
    )
    prices: Annotated[PricesGiven | None, AfterValidator(_of_models_named)] = Field(
        default=None,
        description="What the hosted models' tokens cost, where no price list knows them; of several {NAME: "
        "{input_usd_per_m: …, output_usd_per_m: …}}, each NAME as in models, teacher or judge.",
    )
    context_tokens: int | None = Field(
        default=None,
        ge=256,
        strict=True,
        description="Tokens that a prompt and its answer may have together, as far as the model holds them; "
        "left out: 2048. More take more memory and time.",
    )
    tuning: Tuning = Field(default_factory=Tuning, description="How the rungs that train do it.")
    limits: Limits = Field(default_factory=Limits, description="What a System must keep to.")
    volume: Annotated[str, BeforeValidator(_volume_text), WithJsonSchema(_VOLUME_SCHEMA)] = Field(
        default="100000/month", description="Answers per day, month or year; a bare number is per month."
    )
    machine_usd_per_hour: float = Field(
        default=0.10, ge=0, description="What the serving machine costs, USD per hour."
    )
    seed: int = Field(default=0, ge=0, lt=2**32, strict=True, description="Seed of every random choice.")

    @property
    def answers_per_month(self) -> float:
        """`volume` as answers per month; a month is a twelfth of 365.25 days."""
        count, unit = self.volume.split("/")
        return int(count) * PER_MONTH[unit]
