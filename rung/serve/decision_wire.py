"""What POST /v1/decisions (OpenAI's shape) and POST /v1/systemone (TypeSafe's) take and give, as JSON."""

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from rung.records import Json

MOST_CHOICES, MOST_LEVELS, MOST_QUESTIONS = 255, 10, 400
"""What both APIs allow in a question, and OpenAI's in a request."""

ChoiceValue: TypeAlias = StrictStr | StrictBool


class _In(BaseModel):
    """A part of a request. What isn't known is passed over, as settings that a System has no use for are."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Out(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Predicate(_In):
    """How likely is it that something is true of the input?"""

    type: Literal["predicate"]
    instructions: StrictStr | list[Json]
    name: StrictStr | None = None


class ChoiceOption(_In):
    """An option; a string and a boolean of the same text are two."""

    value: ChoiceValue
    description: StrictStr | None = None


class Choice(_In):
    """Which of the options?"""

    type: Literal["choice"]
    instructions: StrictStr | list[Json]
    choices: list[ChoiceOption] = Field(min_length=2, max_length=MOST_CHOICES)
    name: StrictStr | None = None


class ScoreLevel(_In):
    """A level of a scale."""

    label: StrictStr
    description: StrictStr | None = None


class Score(_In):
    """Which of the levels, the lowest first?"""

    type: Literal["score"]
    instructions: StrictStr | list[Json]
    levels: list[ScoreLevel] = Field(min_length=2, max_length=MOST_LEVELS)
    name: StrictStr | None = None


Question: TypeAlias = Annotated[Predicate | Choice | Score, Field(discriminator="type")]


class DecisionRequest(_In):
    """The body of POST /v1/decisions."""

    model: StrictStr
    input: StrictStr | Annotated[list[dict[str, Json]], Field(fail_fast=True)]
    questions: list[Question] = Field(min_length=1, max_length=MOST_QUESTIONS)


class PredicateAnswer(_Out):
    """The probability that it's true."""

    type: Literal["predicate"] = "predicate"
    name: str | None
    probability: float


class ChoiceProbability(_Out):
    """The probability of an option."""

    value: ChoiceValue
    probability: float


class ChoiceAnswer(_Out):
    """The likeliest option, and how likely each is, in the question's order."""

    type: Literal["choice"] = "choice"
    name: str | None
    choice: ChoiceValue
    confidence: float
    probabilities: list[ChoiceProbability]


class ScoreProbability(_Out):
    """The probability of a level; `value` is its number from 0."""

    label: str
    value: int
    probability: float


class ScoreAnswer(_Out):
    """The expected level, its number from 0, and how likely each is."""

    type: Literal["score"] = "score"
    name: str | None
    score: float
    confidence: float
    probabilities: list[ScoreProbability]


Answer: TypeAlias = PredicateAnswer | ChoiceAnswer | ScoreAnswer


class InputDetails(_Out):
    """Of the input's tokens."""

    cache_write_tokens: int = 0
    cached_tokens: int = 0


class OutputDetails(_Out):
    """Of the output's tokens."""

    reasoning_tokens: int = 0


class Usage(_Out):
    """Tokens that were read; none are written."""

    input_tokens: int
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int = 0
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class Decision(_Out):
    """What POST /v1/decisions answers, in the questions' order."""

    model: str
    answers: list[Answer]
    usage: Usage


class SystemOneQuestion(_In):
    """A question of POST /v1/systemone: `criteria` are options with descriptions, levels, or hints."""

    type: Literal["choice", "score", "noul"]
    instructions: StrictStr | dict[str, Json] | list[Json]
    criteria: dict[str, Json] | list[Json] | None = None


class SystemOneRequest(_In):
    """The body of POST /v1/systemone."""

    model: StrictStr
    state: StrictStr | dict[str, Json] | list[Json]
    questions: dict[str, SystemOneQuestion] = Field(min_length=1, max_length=MOST_QUESTIONS)
    images: list[Json] | None = Field(default=None, max_length=0)
    videos: list[Json] | None = Field(default=None, max_length=0)


class SystemOneChoice(_Out):
    """The likeliest option, and how likely each is."""

    type: Literal["choice"] = "choice"
    choice: str
    confidence: float
    probabilities: dict[str, float]


class SystemOneScore(_Out):
    """The expected level, its number from 0; `legend` says what each number stands for."""

    type: Literal["score"] = "score"
    score: float
    legend: dict[str, Json]
    probabilities: dict[str, float]
    confidence: float


class SystemOneNoul(_Out):
    """The probability that it's true."""

    type: Literal["noul"] = "noul"
    noul: float


SystemOneAnswer: TypeAlias = SystemOneChoice | SystemOneScore | SystemOneNoul


class SystemOneUsage(_Out):
    """Tokens that were read; none are written."""

    input_tokens: int
    output_tokens: int = 0


class SystemOneDecision(_Out):
    """What POST /v1/systemone answers, by the questions' names."""

    model: str
    answers: dict[str, SystemOneAnswer]
    usage: SystemOneUsage
