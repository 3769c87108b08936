"""What a judging System said, by what it was asked: read from the disk, and asked for where it isn't known.

One line of its file holds a chunk of questions: who is killed while it judges loses the chunk in flight and
no other.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from rung.errors import RunError
from rung.hosted import FEWEST_TOLD, by_another
from rung.records import Answer, Example
from rung.runs import append_jsonl, read_each
from rung.scoring.verdicts import read_word
from rung.system import Pool, System

CHUNK = 32
"""Questions, of one prompt or of several."""

Said: TypeAlias = tuple[tuple[str | None, str | None], ...]
"""For each prompt of a question its word, and why there is none."""


def is_whole(said: Said) -> bool:
    """Whether there is a word for each prompt of a question."""
    return all(word is not None for word, _ in said)


def _line(line: dict) -> tuple[str, dict[str, Said]]:
    """Who said what, as a line of the file has it."""
    return line["judge"], {name: tuple(map(_one, said)) for name, said in line["said"].items()}


@dataclass
class Verdicts:
    """A System that answers with one of `words`, and what it said before in `path`, by the question's name.

    `given` is its model's name in the task. A question on which it broke in an earlier process is asked
    again, once.
    """

    given: str
    system: System
    path: Path
    words: tuple[str, ...]
    on_done: Callable[[int, int], None] = lambda done, total: None
    known: dict[str, Said] = field(init=False, default_factory=dict)
    _tried: set[str] = field(init=False, default_factory=set)
    _asked: int = field(init=False, default=0)
    _checked: bool = field(init=False, default=False)
    _asking_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.read(self.path)

    @property
    def each_s(self) -> float:
        """Seconds that a question took, all its prompts, as far as this process asked; 0 before that."""
        return self._asking_s / max(1, self._asked)

    def read(self, path: Path) -> None:
        """Know what the same System said in another file, too. RunError for a damaged one."""
        for judge, found in read_each(path, _line):
            if judge == self.system.digest:
                # A broken verdict takes the place of none.
                self.known |= {n: it for n, it in found.items() if is_whole(it) or n not in self.known}

    def ask(self, questions: Mapping[str, Sequence[Example]], pool: Pool) -> None:
        """Have the prompts of each question answered that isn't known yet.

        Raises EngineError where the judge can't be asked at all, or what it may be paid is used up, RunError
        where the first few that are asked together are answered by another model.
        """
        todo = [name for name in questions if self._is_open(name)]
        done = 0
        while done < len(todo):
            # A hosted judge that is gone is paid for few questions at each start.
            size = FEWEST_TOLD if self.system.is_hosted and not self._checked else CHUNK
            chunk = todo[done : done + size]
            self._ask({name: questions[name] for name in chunk}, pool)
            done += len(chunk)
            self.on_done(done, len(todo))

    def _is_open(self, name: str) -> bool:
        said = self.known.get(name)
        return said is None or (not is_whole(said) and name not in self._tried)

    def _ask(self, chunk: Mapping[str, Sequence[Example]], pool: Pool) -> None:
        rows = [row for asked in chunk.values() for row in asked]
        start = time.perf_counter()
        with pool.till.judging() if pool.till is not None else nullcontext():
            given = self.system.answer(rows, pool)
        if not self._checked and len(given) >= FEWEST_TOLD:
            self._need_same(given)
            self._checked = True
        answers = iter(given)
        self._asking_s += time.perf_counter() - start
        self._asked += len(chunk)
        said = {name: tuple(self._said(next(answers)) for _ in asked) for name, asked in chunk.items()}
        append_jsonl(self.path, [{"judge": self.system.digest, "said": said}])
        self.known |= said
        self._tried |= said.keys()

    def _need_same(self, given: Sequence[Answer]) -> None:
        """RunError where none of the answers is the judge's, as its name is another model's now.

        Every verdict to come would break as well, and each rung that is to be judged would fail for itself.
        """
        others = by_another(given)
        if others and all(one.failure is not None for one in given):
            raise RunError(f"{str(self.path.parent)!r} holds verdicts of a judge that is gone: {others[0]}")

    def _said(self, answer: Answer) -> tuple[str | None, str | None]:
        """The word, and why there is none."""
        if answer.failure is not None:
            return None, answer.failure
        if (word := read_word(answer.text, self.words)) is None:
            *others, last = self.words
            return None, f"it said {answer.text[:80]!r}, not {', '.join(others)} or {last}"
        return word, None


def _one(kept: list[str | None]) -> tuple[str | None, str | None]:
    word, why = kept
    return word, why
