"""From a GGUF file's vocabulary to a `tokenizers.Tokenizer` that splits text as llama.cpp does.

The regular expressions are those of llama.cpp's `llm_tokenizer_bpe`, by the file's own
`tokenizer.ggml.pre`; a model under a pre-tokenizer that isn't in the table is refused, because a wrong
split gives other tokens without any error.
"""

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Final, Literal

from rung.errors import ModelError
from rung.models.tagged_calls import MARKERS

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

Spelling = Literal["bytes", "spaces", "plain"]
"""How a vocabulary writes text: GPT-2's byte alphabet, `▁` for a space with `<0x0A>` bytes, or as it is."""

NORMAL: Final = 1
CONTROL: Final = (2, 3)
USER_DEFINED: Final = 4

_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2: Final = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN35: Final = _QWEN2.replace(r"]?\p{L}+", r"]?[\p{L}\p{M}]+").replace(
    r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]"
)
# llama.cpp's own spelling of these: letters that aren't lower-case, then such as aren't upper-case.
_UPPER: Final = r"(?=[\p{L}])([^a-z])"
_LOWER: Final = r"(?=[\p{L}])([^A-Z])"
_ENDING: Final = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?"
_TEKKEN: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?({_UPPER})*({_LOWER})+|[^\r\n\p{{L}}\p{{N}}]?({_UPPER})+({_LOWER})*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT4O: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?({_UPPER})*({_LOWER})+{_ENDING}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?({_UPPER})+({_LOWER})*{_ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS: Final[Mapping[str, tuple[str, ...]]] = {
    "smollm": (r"\p{N}", _GPT2),
    "starcoder": (r"\p{N}", _GPT2),
    "gpt-2": (_GPT2,),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "llama-bpe": (_LLAMA3,),
    "llama3": (_LLAMA3,),
    "qwen2": (_QWEN2,),
    "qwen35": (_QWEN35,),
    "gpt-4o": (_GPT4O,),
    "tekken": (_TEKKEN,),
}
_WHOLE_WORDS: Final = frozenset({"llama-bpe", "llama3", "tekken"})
_ENDS: Final = frozenset(
    {
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>"),
        *("<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]"),
        *("<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>"),
    }
)
_TAKING: Final = ("phi-3", "phi3")
_NOT_TAKING: Final = frozenset({"<unk>", "<s>", "<|endoftext|>"})


def spelling_of(model: str, pre: str, where: str) -> Spelling:
    """Say how the vocabulary of `tokenizer.ggml.model` is written; ModelError where it isn't supported."""
    if model == "llama":
        return "spaces"
    if model != "gpt2":
        raise ModelError(
            f"{where}: tokenizer.ggml.model is {model!r}; 'gpt2' (byte-level BPE) and 'llama' (SentencePiece "
            "BPE) are supported: use the model's safetensors folder instead"
        )
    if pre not in _SPLITS:
        raise ModelError(
            f"{where}: tokenizer.ggml.pre is {pre!r}, which rung can't split as llama.cpp does; known are "
            f"{', '.join(sorted(_SPLITS))}: use the model's safetensors folder instead"
        )
    return "bytes"


def kinds_of(texts: Sequence[str], kinds: Sequence[int]) -> list[int]:
    """The token types, with tokens that end a turn made control tokens whatever the file says.

    llama.cpp does so too. What marks a function call is no control token, whatever the file says: those are
    left out of an answer's text, and the calls couldn't be read.
    """
    known = dict.fromkeys(_ENDS, CONTROL[1]) | dict.fromkeys(MARKERS, USER_DEFINED)
    return [known.get(text, kind) for text, kind in zip(texts, kinds, strict=True)]


def takes_behind(name: str, texts: Sequence[str], kinds: Sequence[int]) -> frozenset[str]:
    """The tokens that take the white space behind them with them, in a text of the model of this name.

    No file says so: llama.cpp knows Phi-3 by its `general.name`.
    """
    if not any(known in name.lower() for known in _TAKING):
        return frozenset()
    special = (*CONTROL, USER_DEFINED)
    found = (text for text, kind in zip(texts, kinds, strict=True) if kind in special)
    return frozenset(found) - _NOT_TAKING


def begins_with_bos(spelling: Spelling, pre: str) -> bool:
    """Whether prompts begin with the bos token where the file doesn't say, as llama.cpp assumes."""
    return spelling == "spaces" or pre in _WHOLE_WORDS


def put_first(tokenizer: "Tokenizer", token: str, index: int) -> None:
    """Let other libraries that read the saved tokenizer begin each text with `token`."""
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=[token, "$A"], pair=[token, "$A", "$B"], special_tokens=[(token, index)]
    )


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, as character → byte."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def byte_level(
    texts: Sequence[str],
    kinds: Sequence[int],
    merges: Sequence[str],
    pre: str,
    takes: Set[str] = frozenset(),
) -> "Tokenizer":
    """Build a byte-level BPE tokenizer; `merges` are written `left right`, best first.

    Control and user-defined tokens of `takes` take the white space behind them with them.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pairs: list[tuple[str, str]] = []
    for merge in merges:
        cut = merge.find(" ", 1)
        pairs.append((merge[:cut], merge[cut + 1 :]))
    vocabulary = {text: index for index, text in enumerate(texts)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre in _WHOLE_WORDS))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*_splitters(_SPLITS[pre]), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _add(tokenizer, texts, kinds, takes)
    return tokenizer


def sentence_piece(
    texts: Sequence[str],
    kinds: Sequence[int],
    scores: Sequence[float],
    *,
    unknown: str,
    prefix: bool,
    takes: Set[str] = frozenset(),
) -> "Tokenizer":
    """Build a SentencePiece BPE tokenizer: adjacent pieces merge in the order of the merged piece's score.

    Control and user-defined tokens of `takes` take the white space behind them with them.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocabulary = {text: index for index, text in enumerate(texts)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges(texts, kinds, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    space = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if prefix else space
    first = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *first]
    )
    _add(tokenizer, texts, kinds, takes)
    return tokenizer


def _splitters(expressions: Sequence[str]) -> "list[PreTokenizer]":
    from tokenizers import Regex, pre_tokenizers

    return [pre_tokenizers.Split(Regex(expression), "isolated") for expression in expressions]


def _merges(texts: Sequence[str], kinds: Sequence[int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every way to make a piece from two others, best score first.

    A control token is never made by merging: typed text must not turn into one.
    """
    halves = {text for text, kind in zip(texts, kinds, strict=True) if kind not in CONTROL}
    order = sorted(
        (i for i, text in enumerate(texts) if len(text) > 1 and kinds[i] not in CONTROL),
        key=lambda i: (-scores[i], i),
    )
    return [
        (text[:cut], text[cut:])
        for text in (texts[i] for i in order)
        for cut in range(len(text) - 1, 0, -1)
        if text[:cut] in halves and text[cut:] in halves
    ]


def _add(tokenizer: "Tokenizer", texts: Sequence[str], kinds: Sequence[int], takes: Set[str]) -> None:
    from tokenizers import AddedToken

    def added(wanted: Sequence[int], special: bool) -> list[AddedToken]:
        return [
            AddedToken(text, special=special, normalized=False, rstrip=text in takes)
            for text, kind in zip(texts, kinds, strict=True)
            if kind in wanted
        ]

    tokenizer.add_special_tokens(added(CONTROL, True))
    tokenizer.add_tokens(added((USER_DEFINED,), False))
