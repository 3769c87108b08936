"""Text to token ids and back, exactly as llama.cpp does it: `load_tokenizer`."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rung.errors import DataError, ModelError
from rung.models._gguf import gguf_metadata
from rung.models._pretokenizers import (
    CONTROL,
    NORMAL,
    Spelling,
    begins_with_bos,
    byte_alphabet,
    byte_level,
    kinds_of,
    put_first,
    sentence_piece,
    spelling_of,
    takes_behind,
)
from rung.models.resolve import Model, read_json
from rung.models.tagged_calls import MARKERS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WHITE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""White space by Unicode, as `tokenizers` has it; to Python four control characters are some, too."""
LONG_TEXT = 1 << 16
"""Characters above which a text takes so long to encode that other threads shouldn't wait for it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """A vocabulary. `texts` holds each token as it is written in the vocabulary, by id.

    `control` are the tokens that steer the model (`<|im_end|>`), `literal` the ids that are written as
    plain text whatever the spelling. `add_bos`: prompts begin with `bos_id`. In a text, the control tokens of
    `takes_before` and `takes_behind` take the white space beside them with them. `inside` splits all but the
    first piece of a text, where a vocabulary puts its blank before that one alone.
    """

    backend: "Tokenizer"
    texts: tuple[str, ...]
    spelling: Spelling
    control: Mapping[str, int]
    literal: frozenset[int]
    bos_id: int | None
    eos_id: int | None
    add_bos: bool
    strips_space: bool = False
    takes_before: frozenset[int] = frozenset()
    takes_behind: frozenset[int] = frozenset()
    inside: "Tokenizer | None" = None

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        return len(self.texts)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Turn text into token ids, without a first or last control token of its own.

        With `special`, control tokens written out in the text become that token; without it they are
        plain characters. Raises DataError on text that isn't Unicode (a lone surrogate).
        """
        return self.encode_parts(self.split(text) if special else (text,))

    def encode_parts(self, parts: Iterable[str | int]) -> list[int]:
        """Turn plain text and ids of control tokens, in order, into token ids.

        They are those of one text in which the control tokens are written out, but that plain text gives no
        control token: what stands beside a piece decides on the blank before it and the white space at its
        ends. Raises DataError as `encode` does.
        """
        ids: list[int] = []
        text, behind = "", None
        for part in (*parts, None):
            if isinstance(part, str):
                text += part
                continue
            if behind in self.takes_behind:
                text = text.lstrip(_WHITE)
            if part in self.takes_before:
                text = text.rstrip(_WHITE)
            if text:
                ids += self._plain(text, first=not ids)
            if part is not None:
                ids.append(part)
            text, behind = "", part
        return ids

    def encode_inside(self, text: str) -> list[int]:
        """Turn plain text into the ids that it has behind a line break.

        Some vocabularies put a blank before a text; this one has none.
        """
        if self.inside is not None:
            return self._plain(text, first=False)
        if not self.strips_space:
            return self._plain(text)
        ids = self._plain(f"\n{text}")
        spelled = b""
        for place, index in enumerate(ids, start=1):
            spelled += self.token_bytes(index)
            if spelled.strip(b" ") == b"\n":
                return ids[place:]
        return self._plain(text)

    def split(self, text: str) -> Iterator[str | int]:
        """The text in order, as ids of control tokens and the plain text between them."""
        begin = 0
        for match in self._controls.finditer(text):
            if match.start() > begin:
                yield text[begin : match.start()]
            yield self.control[match.group()]
            begin = match.end()
        if begin < len(text):
            yield text[begin:]

    def decode(self, ids: Iterable[int]) -> str:
        """Turn token ids into text; control tokens are left out, broken UTF-8 becomes U+FFFD."""
        steering = self._control_ids
        text = b"".join(self.token_bytes(i) for i in ids if i not in steering).decode("utf-8", "replace")
        return text.removeprefix(" ") if self.strips_space else text

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token adds to the text (a control token: its name)."""
        text = self.texts[id]
        if id in self.literal or self.spelling == "plain":
            return text.encode()
        if self.spelling == "bytes":
            return bytes(_BYTES[char] for char in text)
        if match := _BYTE_TOKEN.fullmatch(text):
            return bytes([int(match[1], 16)])
        return text.replace("▁", " ").encode()

    def spellings(self) -> list[bytes]:
        """The bytes that each token adds to an answer, by id; none for control tokens."""
        steering = self._control_ids
        return [b"" if id in steering else self.token_bytes(id) for id in range(self.vocab_size)]

    def id_of(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it, or None."""
        return self.backend.token_to_id(token)

    def save(self, path: Path) -> None:
        """Write the tokenizer as a tokenizer.json that other libraries read. Raises OSError."""
        path.write_bytes(self.backend.to_str().encode())

    def _plain(self, text: str, first: bool = True) -> list[int]:
        backend = self.backend if first or self.inside is None else self.inside
        try:
            if len(text) > LONG_TEXT:
                # This lets other threads go on meanwhile, which `encode` doesn't.
                return backend.encode_batch([text], add_special_tokens=False)[0].ids
            return backend.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise DataError(
                f"the text {text[:80]!r} holds half a surrogate pair, which is no character: repair the file"
            ) from error

    @cached_property
    def _controls(self) -> re.Pattern[str]:
        longest_first = sorted(self.control, key=lambda token: (-len(token), token))
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        return frozenset(self.control.values())


_BYTES = byte_alphabet()
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


@lru_cache(maxsize=4)
def load_tokenizer(model: Model) -> Tokens:
    """Build a model's tokenizer from its GGUF metadata or from its folder's tokenizer.json.

    Raises ModelError when the vocabulary is missing, damaged or split in a way that isn't supported.
    """
    if model.gguf is not None:
        return gguf_tokenizer(model.gguf)
    assert model.folder is not None
    return _from_folder(model.folder)


def gguf_tokenizer(path: Path) -> Tokens:
    """The tokenizer in a GGUF file. Raises ModelError as `load_tokenizer` does."""
    state = path.stat()
    return _of_state(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)
def _of_state(path: Path, size: int, modified_ns: int) -> Tokens:
    """Built once for the file as it is now."""
    return _from_gguf(path)


def _from_gguf(path: Path) -> Tokens:
    values: Mapping[str, Any] = gguf_metadata(path, arrays=True)

    def value(key: str, otherwise: Any = None) -> Any:
        found = values.get(f"tokenizer.ggml.{key}", otherwise)
        if found is None:
            raise ModelError(f"{str(path)!r} has no tokenizer.ggml.{key}, so no text can be split for it")
        return found

    try:
        return _from_values(path, values, value)
    except ModelError:
        raise
    except Exception as error:  # tokenizers raises Exception itself
        raise ModelError(
            f"{str(path)!r} holds a damaged vocabulary ({type(error).__name__}: {str(error)[:200]}): bring "
            "the file again"
        ) from error


def _from_values(path: Path, values: Mapping[str, Any], value: Callable[..., Any]) -> Tokens:
    texts, pre = value("tokens"), value("pre", "default")
    kinds = kinds_of(texts, value("token_type", [NORMAL] * len(texts)))
    spelling = spelling_of(value("model"), pre, repr(str(path)))
    takes = takes_behind(str(values.get("general.name", "")), texts, kinds)
    prefix = False
    if spelling == "bytes":
        backend = byte_level(texts, kinds, value("merges"), pre, takes)
    else:
        prefix = bool(value("add_space_prefix", True))
        unknown = texts[value("unknown_token_id", 0)]
        backend = sentence_piece(texts, kinds, value("scores"), unknown=unknown, prefix=prefix, takes=takes)
    backend.encode_special_tokens = True
    bos, eos = values.get("tokenizer.ggml.bos_token_id"), values.get("tokenizer.ggml.eos_token_id")
    add_bos = bos is not None and bool(value("add_bos_token", begins_with_bos(spelling, pre)))
    if bos is not None and add_bos:
        put_first(backend, texts[bos], bos)
    if not all(index is None or 0 <= index < len(texts) for index in (bos, eos)):
        raise IndexError(f"bos {bos!r} or eos {eos!r} of {len(texts)} tokens")
    return Tokens(
        backend=backend,
        texts=tuple(texts),
        spelling=spelling,
        control={text: i for i, text in enumerate(texts) if kinds[i] in CONTROL and text},
        literal=frozenset(i for i, kind in enumerate(kinds) if kind not in (1, 6)),
        bos_id=bos,
        eos_id=eos,
        add_bos=add_bos,
        strips_space=prefix,
        takes_behind=frozenset(i for i, text in enumerate(texts) if text in takes),
    )


def _from_folder(folder: Path) -> Tokens:
    described = read_json(folder / "tokenizer.json")
    try:
        backend = read_tokenizer(folder / "tokenizer.json")
    except Exception as error:  # tokenizers raises Exception itself
        raise ModelError(
            f"{str(folder / 'tokenizer.json')!r} is no tokenizer ({str(error)[:200]}): bring the model again"
        ) from error
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    added = described.get("added_tokens", [])
    decoder = repr(described.get("decoder"))
    bos, eos = (_named(folder, backend, name) for name in ("bos_token", "eos_token"))
    first = backend.encode("", add_special_tokens=True).ids[:1]
    ids = backend.get_vocab(with_added_tokens=True).values()
    texts = [backend.id_to_token(i) or "" for i in range(max(ids, default=-1) + 1)]
    return Tokens(
        backend=backend,
        texts=tuple(texts),
        spelling="bytes"
        if "'ByteLevel'" in decoder
        else "spaces"
        if "'ByteFallback'" in decoder
        else "plain",
        control={
            token["content"]: token["id"]
            for token in added
            if token["special"] and token["content"] not in MARKERS
        },
        literal=frozenset(token["id"] for token in added),
        bos_id=bos,
        eos_id=eos,
        add_bos=bos is not None and first == [bos],
        strips_space="'Strip'" in decoder,
        takes_before=_taking(added, "lstrip"),
        takes_behind=_taking(added, "rstrip"),
        inside=_inside(backend, described.get("pre_tokenizer")),
    )


def _taking(added: Iterable[Mapping[str, Any]], side: str) -> frozenset[int]:
    """The tokens that take the white space on that side with them."""
    return frozenset(token["id"] for token in added if token.get(side))


def _inside(backend: "Tokenizer", splitter: Any) -> "Tokenizer | None":
    """What splits all but the first piece of a text, where `splitter`, a pre-tokenizer, tells it apart."""
    from tokenizers import Tokenizer

    changed = _without_first(splitter)
    if changed == splitter:
        return None
    made = Tokenizer.from_str(json.dumps({**json.loads(backend.to_str()), "pre_tokenizer": changed}))
    made.encode_special_tokens = True
    return made


def _without_first(part: Any) -> Any:
    """A pre-tokenizer's description without the blank that it puts before the first piece alone."""
    if isinstance(part, list):
        return [_without_first(one) for one in part]
    if not isinstance(part, dict):
        return part
    made = {key: _without_first(value) for key, value in part.items()}
    return made | {"prepend_scheme": "never"} if made.get("prepend_scheme") == "first" else made


def read_tokenizer(path: Path) -> "Tokenizer":
    """The tokenizer of a tokenizer.json, in which what marks a function call is no control token.

    Raises what `tokenizers` does where it is none, which is Exception itself.
    """
    from tokenizers import Tokenizer

    text = path.read_text(encoding="utf-8")
    if MARKERS[0] in text:
        described = json.loads(text)
        for token in described.get("added_tokens", ()):
            token["special"] = token["special"] and token["content"] not in MARKERS
        text = json.dumps(described, ensure_ascii=False)
    return Tokenizer.from_str(text)


def _named(folder: Path, backend: "Tokenizer", name: str) -> int | None:
    """The id of the token that tokenizer_config.json calls `name`, or else that config.json numbers."""
    settings = folder / "tokenizer_config.json"
    token = read_json(settings).get(name) if settings.is_file() else None
    if isinstance(token, dict):
        token = token.get("content")
    if isinstance(token, str):
        return backend.token_to_id(token)
    number = read_json(folder / "config.json").get(f"{name}_id")
    if isinstance(number, list):
        number = number[0] if number else None
    return number if isinstance(number, int) else None
