"""Whether the engine that serves says what the engine that trained says, adapter and all."""

import time
from collections.abc import Callable, Sequence

from rung.engines.base import Choice, Engine
from rung.engines.trie import log_sum
from rung.errors import TrainingError
from rung.records import Parity

Tokens = tuple[int, ...]

LOGPROB_ROWS = 20
LOWEST_AGREEMENT = 0.99
MOST_POSITIONS, FEWEST_POSITIONS = 8, 3
POSITION_TOKENS = 48_000
MOST_CHANCE = 0.05
NOISE_NATS = 1.0
"""Twice the largest difference that the engines' rounding was seen to make in one log-probability (0.5)."""
LIKELY = -4.6
"""Log-probabilities under this one (1 %) decide nothing and aren't compared."""


class Reference:
    """What the engine that trained says to prompts: it's asked once, however many are set beside it.

    `opened` gives it, anew where it was closed meanwhile. Compared are the next token's log-probabilities on
    the first 20 prompts, and the choice among `candidates` on all. Raises TrainingError without prompts.
    """

    def __init__(
        self, opened: Callable[[], Engine], prompts: Sequence[Tokens], candidates: Sequence[Tokens]
    ) -> None:
        if not prompts:
            raise TrainingError("no rows to compare the engines on")
        self.opened, self.prompts, self.candidates = opened, prompts, candidates
        self._logprobs: list[list[float]] = []
        self._chosen: list[Choice] = []

    @property
    def known(self) -> int:
        """How many of the prompts it chose on so far, the first ones."""
        return len(self._chosen)

    def beside(self, serving: Callable[[], Engine], enough: Callable[[float], int] | None = None) -> Parity:
        """How far another engine, which `serving` gives, says the same.

        On the first so many prompts where `enough` is given: it's told the seconds that a prompt takes the
        engines that are yet to be asked. The compared tokens are the candidates' first ones. Differences are
        absolute, in nats, over the full-vocabulary log-probabilities that at least one engine gives more than
        1 % probability. Raises TrainingError when an engine fails on a prompt.
        """
        first, rows = sorted({c[0] for c in self.candidates}), self.prompts[:LOGPROB_ROWS]
        if not self._logprobs:
            self.opened()
        serving()  # both wait for their weights before they are timed
        start = time.perf_counter()
        if not self._logprobs:
            self._logprobs = self.opened().next_logprobs(rows, first)
        theirs = serving().next_logprobs(rows, first)
        each_s = (time.perf_counter() - start) / len(rows)
        prompts = self.prompts if enough is None else self.prompts[: enough(each_s)]
        differences = [
            abs(a - b)
            for mine, other in zip(self._logprobs, theirs, strict=True)
            for a, b in zip(mine, other, strict=True)
            if max(a, b) > LIKELY
        ]
        chosen, served = self._own(len(prompts)), _choices(serving(), prompts, self.candidates)
        margins = [
            _margin(self.opened(), prompt, self.candidates, (one.index, other.index))
            for prompt, one, other in zip(prompts, chosen, served, strict=True)
            if one.index != other.index
        ]
        return Parity(
            rows=len(rows),
            max_difference=max(differences, default=0.0),
            mean_difference=sum(differences) / len(differences) if differences else 0.0,
            agreement=1 - len(margins) / len(prompts),
            agreement_rows=len(prompts),
            clear_disagreements=sum(margin > NOISE_NATS for margin in margins),
        )

    def _own(self, count: int) -> list[Choice]:
        """Its own on the first so many prompts."""
        if more := self.prompts[self.known : count]:
            self._chosen += _choices(self.opened(), more, self.candidates)
        return self._chosen[:count]


def compare(
    reference: Engine, serving: Engine, prompts: Sequence[Tokens], candidates: Sequence[Tokens]
) -> Parity:
    """Two engines that are open on all of the prompts, as `Reference.beside` compares them."""
    return Reference(lambda: reference, prompts, candidates).beside(lambda: serving)


def single_tokens(answers: Sequence[Tokens]) -> list[Tokens]:
    """Every token that occurs in the answers, as candidates of one token each: a way to compare free text."""
    return [(token,) for token in sorted({t for answer in answers for t in answer})]


def per_row(prompts: Sequence[Tokens]) -> int:
    """How many positions of each answer to compare: fewer where prompts are long, each is read anew."""
    return min(MOST_POSITIONS, max(FEWEST_POSITIONS, POSITION_TOKENS // max(1, sum(map(len, prompts)))))


def positions(rows: Sequence[tuple[Tokens, Tokens]], per_row: int = 8) -> list[Tokens]:
    """Prompts that end inside the gold answers of (prompt, answer) rows, evenly spread over each.

    The first of them are of as many rows, each at another place of its answer.
    """
    places = []
    for _, answer in rows:
        step = max(1, len(answer) // per_row)
        places.append([*range(0, len(answer), step)][:per_row])
    return [
        (*prompt, *answer[: own[(number + turn) % len(own)]])
        for turn in range(per_row)
        for number, ((prompt, answer), own) in enumerate(zip(rows, places, strict=True))
        if turn < len(own)
    ]


def clearly_apart(found: Parity) -> bool:
    """Whether the engines disagree on more than 1 % of such rows, near-ties aside, and not by chance alone.

    One-sided exact binomial test at .05. One row of fifty is no such sign: what is served then is the model
    as it was trained, and nothing is lost but speed.
    """
    from scipy.stats import binomtest

    if not found.clear_disagreements:
        return False
    most = 1 - LOWEST_AGREEMENT
    tested = binomtest(found.clear_disagreements, found.agreement_rows, most, alternative="greater")
    return bool(tested.pvalue <= MOST_CHANCE)


def _choices(engine: Engine, prompts: Sequence[Tokens], candidates: Sequence[Tokens]) -> list[Choice]:
    found = engine.choose(prompts, candidates)
    broken = next((choice.failure for choice in found if choice.failure), None)
    if broken is not None:
        raise TrainingError(f"the engines can't be compared: {engine.name} failed with {broken!r}")
    return found


def _margin(engine: Engine, prompt: Tokens, candidates: Sequence[Tokens], pair: tuple[int, int]) -> float:
    """By how much the engine prefers the first candidate of the pair to the second, in nats.

    Computed node by node, since a search that already knows the best leaves the others at -inf.
    """
    totals = []
    for candidate in (candidates[index] for index in pair):
        total = 0.0
        for depth, token in enumerate(candidate):
            ways = sorted({c[depth] for c in candidates if c[:depth] == candidate[:depth]})
            (found,) = engine.next_logprobs([(*prompt, *candidate[:depth])], ways) if ways[1:] else ([0.0],)
            total += found[ways.index(token)] - log_sum(found)
        totals.append(total)
    return totals[0] - totals[1]
