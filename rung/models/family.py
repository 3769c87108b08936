"""Which family of models a name belongs to: those of one maker write alike, and like what they write."""

import re
from pathlib import Path

from rung.models.hosted import hosted

FAMILIES: dict[str, str] = {
    "OpenAI": r"gpt|chatgpt|codex|davinci|o\d",
    "Anthropic": r"claude",
    "Google": r"gemma|functiongemma|codegemma|gemini|palm",
    "Qwen": r"qwen|qwq",
    "Meta": r"llama|codellama",
    "Mistral": r"mistral|mixtral|ministral|magistral|devstral|codestral|zephyr",
    "SmolLM": r"smollm|smolvlm",
    "DeepSeek": r"deepseek",
    "Microsoft": r"phi|orca",
    "IBM": r"granite",
    "Cohere": r"command|aya",
    "xAI": r"grok",
    "NVIDIA": r"nemotron",
    "AI2": r"olmo|tulu|molmo",
    "Zhipu": r"glm|chatglm",
    "Moonshot": r"kimi|moonshot",
    "EuroLLM": r"eurollm",
}
"""Each family with how the words begin by which its models are known."""

_FAMILY = {
    name: re.compile(rf"(?<![a-z\d])(?:{start})(?![a-z])", re.IGNORECASE) for name, start in FAMILIES.items()
}


def family_of(name: str) -> str:
    """The family of a model as a task names it; for an unknown one the first letters of its own name.

    Of several the first counts: DeepSeek-R1-Distill-Qwen is DeepSeek's.
    """
    found = hosted(name)
    own = Path((found.model if found is not None else name.removeprefix("hf:")).rstrip("/")).name
    places = {family: match.start() for family, word in _FAMILY.items() if (match := word.search(own))}
    if places:
        return min(places, key=places.__getitem__)
    letters = re.match(r"[^\W\d_]+", own)
    return letters[0].lower() if letters is not None else own.lower()
