"""The ways in which a row may be written: one table, seen from the first row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rung.data.conversations import Beside, Fields, completion, conversation, preference
from rung.data.rows import ONE_A_LINE, read_rows
from rung.errors import DataError
from rung.task.model import DataFormat
from rung.task.outputs import shown

TOOL_COLUMNS = ("tools", "functions")
WRAPPERS = ("data", "rows", "examples", "instances", "records", "items", "train")
"""Keys under which a whole file may lie."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One way of writing a row: the columns that show it, the others that are read, and how.

    `judgements` are what the last of the needed columns says of the answer, where it's about that: desirable
    or not.
    """

    name: DataFormat
    needs: tuple[str, ...]
    read: Callable[[Mapping[str, Any], tuple[str, ...]], Fields]
    reads: tuple[str, ...] = ("context",)
    judgements: Mapping[str, bool] | None = None

    def judgement(self, row: Mapping[str, Any]) -> bool | None:
        """Whether the row's answer was judged desirable; None where nothing is said of that."""
        said = row[self.needs[-1]]
        if self.judgements is None or not isinstance(said, (str, bool, int, float)):
            return None
        return self.judgements.get(str(said).strip().lower())

    @property
    def columns(self) -> str:
        """What is needed, in words."""
        said = f" of {' or '.join(list(self.judgements)[:2])}" if self.judgements else ""
        return " + ".join(self.needs) + said


def _columns(row: Mapping[str, Any], needs: tuple[str, ...]) -> Fields:
    return Fields(input=row[needs[0]], output=row[needs[1]], context=row.get("context"))


def _prompt_completion(row: Mapping[str, Any], needs: tuple[str, ...]) -> Fields:
    """Two texts; or, as TRL has conversations, turns in place of either."""
    if any(_are_turns(row[column]) for column in needs):
        return completion(row[needs[0]], row[needs[1]], needs, _beside(row))
    return _columns(row, needs)


def _are_turns(value: Any) -> bool:
    """Whether it's a list of turns: answers in JSON may have objects with a `role`, too."""
    return isinstance(value, list) and bool(value) and all(map(_is_turn, value))


def _is_turn(value: Any) -> bool:
    said = {"content", "tool_calls", "function_call"}
    return isinstance(value, dict) and "role" in value and bool(said & value.keys())


def _alpaca(row: Mapping[str, Any], needs: tuple[str, ...]) -> Fields:
    parts = [row["instruction"], row.get("input") or ""]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError(f"instruction and input must be text, not {shown(parts)}")
    text = "\n\n".join(part for part in parts if part.strip())
    return Fields(input=text, output=row["output"], context=row.get("context"))


def _chat(row: Mapping[str, Any], needs: tuple[str, ...]) -> Fields:
    return conversation(row["messages"], "messages", _beside(row))


def _sharegpt(row: Mapping[str, Any], needs: tuple[str, ...]) -> Fields:
    turns = row["conversations"]
    return conversation(turns, "conversations", _beside(row), role_key="from", text_key="value")


def _preference(row: Mapping[str, Any], needs: tuple[str, ...]) -> Fields:
    asked, beside = row[needs[0]], _beside(row)
    if isinstance(asked, dict):
        beside = replace(beside, tools=asked.get("tools") or beside.tools)
        asked = asked.get("messages")
    return preference(asked, row[needs[1]], row[needs[2]], needs, beside)


def _unpaired(row: Mapping[str, Any], needs: tuple[str, ...]) -> Fields:
    return completion(row[needs[0]], row[needs[1]], needs, _beside(row))


def _beside(row: Mapping[str, Any]) -> Beside:
    tools = next((row[column] for column in TOOL_COLUMNS if row.get(column)), None)
    return Beside(tools=tools, context=row.get("context"))


UNSAID = "-"
"""In place of an answer that isn't read."""
SAID = {"true": True, "false": False}
NUMBERED = {"1": True, "0": False, "1.0": True, "0.0": False}
TURNED = ("context", *TOOL_COLUMNS)
"""What is read beside turns."""
JUDGED = ("prompt", "completion", "label")
OPENAI_PREFERENCE = ("input", "preferred_output", "non_preferred_output")
BY_NUMBERS = Format(
    name="unpaired_preference", needs=JUDGED, read=_unpaired, reads=TURNED, judgements=NUMBERED
)
"""Many a row has a `label` of its own: only a column of nothing but 1 and 0 is of judgements."""
FORMATS: tuple[Format, ...] = (
    Format(name="preference", needs=("prompt", "chosen", "rejected"), read=_preference, reads=TURNED),
    Format(name="preference", needs=OPENAI_PREFERENCE, read=_preference, reads=TURNED),
    Format(name="unpaired_preference", needs=JUDGED, read=_unpaired, reads=TURNED, judgements=SAID),
    BY_NUMBERS,
    Format(name="chat", needs=("messages",), read=_chat, reads=TURNED),
    Format(name="sharegpt", needs=("conversations",), read=_sharegpt, reads=TURNED),
    Format(name="alpaca", needs=("instruction", "output"), read=_alpaca, reads=("input", "context")),
    Format(name="prompt_completion", needs=("prompt", "completion"), read=_prompt_completion, reads=TURNED),
    Format(name="io", needs=("input", "output"), read=_columns),
    Format(name="io", needs=("text", "label"), read=_columns),
    Format(name="io", needs=("sentence", "label"), read=_columns),
    Format(name="io", needs=("question", "answer"), read=_columns),
)
"""The first that fits a row is its format."""


def formats_named(name: str) -> Sequence[Format]:
    """The formats of this name, all of them for `auto`. Raises DataError where there are none."""
    found = [known for known in FORMATS if name in ("auto", known.name)]
    if not found:
        names = ", ".join(dict.fromkeys(known.name for known in FORMATS))
        raise DataError(f"unknown data format {name!r}; choose auto, {names}")
    return found


def formats_of(path: Path, row: Mapping[str, Any]) -> Sequence[Format]:
    """The formats that a file with this first row may be written in."""
    plain = [known for known in FORMATS if known is not BY_NUMBERS]
    if format_of(row, [BY_NUMBERS]) is None:
        return plain
    found: set[bool | None] = set()
    for _, other in read_rows(path):
        if not isinstance(other, DataError) and other.get(JUDGED[-1]) is not None:
            found.add(BY_NUMBERS.judgement(other))
    return FORMATS if found == {True, False} else plain


def format_of(row: Mapping[str, Any], formats: Sequence[Format]) -> Format | None:
    """The first of the formats that fits the row."""
    for known in formats:
        if all(row.get(column) is not None for column in known.needs) and _is_judged(row, known):
            return known
    return None


def _is_judged(row: Mapping[str, Any], format: Format) -> bool:
    """Whether a column that must hold a judgement does."""
    return format.judgements is None or format.judgement(row) is not None


def asked_in(row: Mapping[str, Any], formats: Sequence[Format]) -> Fields | None:
    """What a row asks that may lack its answer, by the first of the formats whose question it has.

    An answer that it does have isn't read. None where it has no such question; ValueError where it can't be
    read.
    """
    known = next((one for one in formats if row.get(one.needs[0]) is not None), None)
    if known is None:
        return None
    first, *others = known.needs
    filled = {**row, **dict.fromkeys(others, UNSAID)}
    if known.name in ("chat", "sharegpt"):
        filled[first] = _ending(row[first], known.name)
    return known.read(filled, known.needs)


def _ending(turns: Any, name: str) -> Any:
    """The turns with one of the assistant's at the end that says nothing."""
    role, text = ("from", "value") if name == "sharegpt" else ("role", "content")
    if not isinstance(turns, list) or not turns:
        return turns
    said = isinstance(turns[-1], dict) and turns[-1].get(role) in ("assistant", "gpt")
    return [*(turns[:-1] if said else turns), {role: "assistant", text: UNSAID}]


def format_lacking(row: Mapping[str, Any], where: str, formats: Sequence[Format]) -> Format:
    """The first of the formats whose columns the row has, be they empty. Raises DataError without any."""
    for known in formats:
        if row.keys() >= set(known.needs) and _is_judged(row, known):
            return known
    inside = next((name for name in WRAPPERS if isinstance(row.get(name), list)), None)
    if inside is not None:
        raise DataError(f"{where}: the rows seem to lie inside of {inside!r}: {ONE_A_LINE}")
    accepted = "; ".join(f"{known.columns} ({known.name})" for known in formats)
    but = _but_for_case(row, formats)
    raise DataError(f"{where}: no known columns among {shown(list(row))}{but}; accepted: {accepted}")


def _but_for_case(row: Mapping[str, Any], formats: Sequence[Format]) -> str:
    """What to write instead where small letters would make the columns known; nothing where they don't."""
    small = {column.lower(): (column, value) for column, value in row.items()}
    plain = {name: value for name, (_, value) in small.items()}
    for known in formats:
        if plain.keys() >= set(known.needs) and _is_judged(plain, known):
            other = [(small[name][0], name) for name in known.needs if small[name][0] != name]
            return f", but for their case: write {' and '.join(f'{new} for {old}' for old, new in other)}"
    return ""


def unlike_text(row: Mapping[str, Any], where: str, chosen: Format, here: Format | None, first: str) -> str:
    """Why a row isn't written as the `first` one, which decided."""
    if here is not None:
        return (
            f"{where}: this row is written as {here.name} ({here.columns}), but {first} as "
            f"{chosen.name} ({chosen.columns}); write all rows in one way"
        )
    missing = [column for column in chosen.needs if row.get(column) is None]
    if missing:
        return f"{where}: {missing[0]!r} is missing or empty; fill it in or delete the row"
    last = chosen.needs[-1]
    return f"{where}: {last} {shown(row[last])} is no judgement; needed are {chosen.columns}"
