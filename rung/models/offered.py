"""Small models on the hub that people use, by name. None was run here: their digests aren't known beforehand.

The digest of what is fetched first is kept, and what is fetched later has to have the same (`trust`).
"""

from dataclasses import dataclass
from typing import Final, Literal

from rung.models.catalog import CHATML

BITS: Final[dict[Literal["Q4", "Q8"], float]] = {"Q4": 4.85, "Q8": 8.5}
"""Bits a weight, scales included: llama.cpp's Q4_K_M, about, and Q8_0."""

APACHE: Final = ("apache-2.0", "Apache-2.0: free to use, change and share, with the notice kept.")
MIT: Final = ("mit", "MIT: free to use, change and share, with the notice kept.")
GEMMA: Final = (
    "gemma",
    "Gemma Terms of Use, not an open-source licence: commercial use is allowed, the prohibited-use policy "
    "binds you, and whoever gets the model or a tune of it must be bound by the terms too.",
)
LLAMA: Final = (
    "llama3.2",
    "Llama 3.2 Community Licence, not an open-source licence: commercial use is allowed under 700 million "
    "monthly users, the acceptable-use policy binds you, what is made with it says 'Built with Llama', and "
    "the name of a tune begins with 'Llama'.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Offered:
    """A model of the hub: its safetensors (`hub`), and the file of a GGUF repository that is fetched.

    `gated`: the licence has to be accepted on the page of `hub`, which isn't so for the GGUF. `parameters`
    are about right, and so are those of the `embedding` where Q4 files keep it at the bits of Q8. `context`
    is in tokens. `template` replaces the chat template of the model's own files where `quirks` say why. One
    that isn't `tunable` can be asked alone (`NOT_TUNED` says why).
    """

    name: str
    what: str
    terms: tuple[str, str]
    gated: bool
    parameters: float
    context: int
    hub: str
    gguf: str
    embedding: float = 0.0
    template: str | None = None
    quirks: tuple[str, ...] = ()
    tunable: bool = True

    @property
    def licence(self) -> str:
        """The licence's short name."""
        return self.terms[0]

    @property
    def licence_note(self) -> str:
        """What the licence asks."""
        return self.terms[1]

    @property
    def origin(self) -> str:
        """The hub id of the weights that the GGUF was made of."""
        return self.hub

    def memory_mb(self, bits: Literal["Q4", "Q8"]) -> float:
        """About how many MB its weights take at so many bits, from their number alone."""
        others = (self.parameters - self.embedding) * BITS[bits]
        return (others + self.embedding * BITS["Q8"]) / 8 / 1e6


NOT_TUNED: Final = "not all of its layers are attention"
_THINKS: Final = "It can think before it answers; that is switched off (enable_thinking=false)."
_NO_SYSTEM: Final = "It knows no system turn: its template puts the instruction before the first question."
_NAMES_ITSELF: Final = "Its own template adds a system turn that nobody wrote; plain ChatML is used instead."
_PICTURES: Final = "It sees images too; here it is given text alone."

OFFERED: Final[tuple[Offered, ...]] = (
    Offered(
        name="gemma-3-270m-it",
        what="Gemma 3 270M, chat-tuned; made to be fine-tuned.",
        terms=GEMMA,
        gated=True,
        parameters=268e6,
        context=32_768,
        hub="google/gemma-3-270m-it",
        gguf="ggml-org/gemma-3-270m-it-GGUF:gemma-3-270m-it-Q8_0.gguf",
        embedding=168e6,
        quirks=(_NO_SYSTEM,),
    ),
    Offered(
        name="functiongemma-270m",
        what="Gemma 3 270M tuned to call functions; made to be fine-tuned to yours.",
        terms=GEMMA,
        gated=True,
        parameters=268e6,
        context=32_768,
        hub="google/functiongemma-270m-it",
        gguf="unsloth/functiongemma-270m-it-GGUF:functiongemma-270m-it-Q8_0.gguf",
        embedding=168e6,
        quirks=("It is asked and tuned in the form of call that it was taught, and in JSON; dev chooses.",),
    ),
    Offered(
        name="smollm2-360m",
        what="SmolLM2 360M Instruct; English.",
        terms=APACHE,
        gated=False,
        parameters=362e6,
        context=8192,
        hub="HuggingFaceTB/SmolLM2-360M-Instruct",
        gguf="HuggingFaceTB/SmolLM2-360M-Instruct-GGUF:smollm2-360m-instruct-q8_0.gguf",
        template=CHATML,
        quirks=(_NAMES_ITSELF,),
    ),
    Offered(
        name="qwen3-0.6b",
        what="Qwen3 0.6B; about a hundred languages.",
        terms=APACHE,
        gated=False,
        parameters=596e6,
        context=40_960,
        hub="Qwen/Qwen3-0.6B",
        gguf="Qwen/Qwen3-0.6B-GGUF:Qwen3-0.6B-Q8_0.gguf",
        quirks=(_THINKS,),
    ),
    Offered(
        name="qwen3.5-0.8b",
        what="Qwen3.5 0.8B; about two hundred languages.",
        terms=APACHE,
        gated=False,
        parameters=0.8e9,
        context=262_144,
        hub="Qwen/Qwen3.5-0.8B",
        gguf="unsloth/Qwen3.5-0.8B-GGUF:Qwen3.5-0.8B-Q4_K_M.gguf",
        quirks=(_THINKS, _PICTURES),
        tunable=False,
    ),
    Offered(
        name="gemma-3-1b-it",
        what="Gemma 3 1B, chat-tuned; mostly English.",
        terms=GEMMA,
        gated=True,
        parameters=1.0e9,
        context=32_768,
        hub="google/gemma-3-1b-it",
        gguf="ggml-org/gemma-3-1b-it-GGUF:gemma-3-1b-it-Q4_K_M.gguf",
        embedding=302e6,
        quirks=(_NO_SYSTEM,),
    ),
    Offered(
        name="llama-3.2-1b",
        what="Llama 3.2 1B Instruct; eight languages.",
        terms=LLAMA,
        gated=True,
        parameters=1.24e9,
        context=131_072,
        hub="meta-llama/Llama-3.2-1B-Instruct",
        gguf="bartowski/Llama-3.2-1B-Instruct-GGUF:Llama-3.2-1B-Instruct-Q4_K_M.gguf",
        quirks=("Its template names today's date; a fixed one is given.",),
    ),
    Offered(
        name="eurollm-1.7b",
        what="EuroLLM 1.7B Instruct; all official languages of the EU.",
        terms=APACHE,
        gated=False,
        parameters=1.66e9,
        context=4096,
        hub="utter-project/EuroLLM-1.7B-Instruct",
        gguf="mradermacher/EuroLLM-1.7B-Instruct-GGUF:EuroLLM-1.7B-Instruct.Q4_K_M.gguf",
    ),
    Offered(
        name="smollm2-1.7b",
        what="SmolLM2 1.7B Instruct; English.",
        terms=APACHE,
        gated=False,
        parameters=1.71e9,
        context=8192,
        hub="HuggingFaceTB/SmolLM2-1.7B-Instruct",
        gguf="HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF:smollm2-1.7b-instruct-q4_k_m.gguf",
        template=CHATML,
        quirks=(_NAMES_ITSELF,),
    ),
    Offered(
        name="qwen3-1.7b",
        what="Qwen3 1.7B; about a hundred languages.",
        terms=APACHE,
        gated=False,
        parameters=1.72e9,
        context=40_960,
        hub="Qwen/Qwen3-1.7B",
        gguf="Qwen/Qwen3-1.7B-GGUF:Qwen3-1.7B-Q8_0.gguf",
        quirks=(_THINKS,),
    ),
    Offered(
        name="qwen3.5-2b",
        what="Qwen3.5 2B; about two hundred languages.",
        terms=APACHE,
        gated=False,
        parameters=2e9,
        context=262_144,
        hub="Qwen/Qwen3.5-2B",
        gguf="unsloth/Qwen3.5-2B-GGUF:Qwen3.5-2B-Q4_K_M.gguf",
        quirks=(_THINKS, _PICTURES),
        tunable=False,
    ),
    Offered(
        name="llama-3.2-3b",
        what="Llama 3.2 3B Instruct; eight languages.",
        terms=LLAMA,
        gated=True,
        parameters=3.21e9,
        context=131_072,
        hub="meta-llama/Llama-3.2-3B-Instruct",
        gguf="bartowski/Llama-3.2-3B-Instruct-GGUF:Llama-3.2-3B-Instruct-Q4_K_M.gguf",
        quirks=("Its template names today's date; a fixed one is given.",),
    ),
    Offered(
        name="phi-4-mini",
        what="Phi-4-mini-instruct, 3.8B; about twenty languages.",
        terms=MIT,
        gated=False,
        parameters=3.84e9,
        context=131_072,
        hub="microsoft/Phi-4-mini-instruct",
        gguf="unsloth/Phi-4-mini-instruct-GGUF:Phi-4-mini-instruct-Q4_K_M.gguf",
    ),
    Offered(
        name="gemma-3-4b-it",
        what="Gemma 3 4B, chat-tuned; over 140 languages.",
        terms=GEMMA,
        gated=True,
        parameters=3.88e9,
        context=131_072,
        hub="google/gemma-3-4b-it",
        gguf="ggml-org/gemma-3-4b-it-GGUF:gemma-3-4b-it-Q4_K_M.gguf",
        quirks=(_NO_SYSTEM, _PICTURES),
    ),
    Offered(
        name="qwen3-4b",
        what="Qwen3 4B; about a hundred languages.",
        terms=APACHE,
        gated=False,
        parameters=4.02e9,
        context=40_960,
        hub="Qwen/Qwen3-4B",
        gguf="Qwen/Qwen3-4B-GGUF:Qwen3-4B-Q4_K_M.gguf",
        quirks=(_THINKS,),
    ),
    Offered(
        name="qwen3.5-4b",
        what="Qwen3.5 4B; about two hundred languages.",
        terms=APACHE,
        gated=False,
        parameters=4.2e9,
        context=262_144,
        hub="Qwen/Qwen3.5-4B",
        gguf="unsloth/Qwen3.5-4B-GGUF:Qwen3.5-4B-Q4_K_M.gguf",
        quirks=(_THINKS, _PICTURES),
        tunable=False,
    ),
    Offered(
        name="eurollm-9b",
        what="EuroLLM 9B Instruct; all official languages of the EU.",
        terms=APACHE,
        gated=False,
        parameters=9.15e9,
        context=4096,
        hub="utter-project/EuroLLM-9B-Instruct",
        gguf="bartowski/EuroLLM-9B-Instruct-GGUF:EuroLLM-9B-Instruct-Q4_K_M.gguf",
    ),
    Offered(
        name="mistral-small-3.1",
        what="Mistral Small 3.1 24B Instruct; dozens of languages.",
        terms=APACHE,
        gated=False,
        parameters=23.6e9,
        context=131_072,
        hub="mistralai/Mistral-Small-3.1-24B-Instruct-2503",
        gguf="unsloth/Mistral-Small-3.1-24B-Instruct-2503-GGUF:Mistral-Small-3.1-24B-Instruct-2503-Q4_K_M.gguf",
        quirks=(
            _PICTURES,
            "Its template may add a system turn of its own where the task has no instruction.",
        ),
    ),
)
"""The smallest first."""


def offered_named(name: str) -> Offered | None:
    """The entry called `name`, or None."""
    return next((entry for entry in OFFERED if entry.name == name), None)
