"""The README of an export: what it is, how it is used, what was proved, and what binds whoever gets it.

For a model hub it is the model card, with front matter.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from rung import __version__
from rung.asking import context_of
from rung.guards import told
from rung.records import Interval, Measurement, MetricName
from rung.scoring.notation import (
    gain_text,
    gains_text,
    interval_text,
    percent_text,
    percents_text,
    score_text,
)
from rung.ship.climbed import Climbed
from rung.ship.parity import Gate
from rung.ship.subject import Subject
from rung.ship.targets import ADAPTER, Target
from rung.ship.usage import code_text, usage
from rung.ship.ways import ROOM_FOR_BLANKS, WayName

GEMMA_NOTICE: Final = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
)
"""What the Gemma Terms of Use want in a file called Notice, word for word."""
LLAMAS: Final[Mapping[str, str]] = {
    "llama3": "Meta Llama 3",
    "llama3.1": "Llama 3.1",
    "llama3.2": "Llama 3.2",
    "llama3.3": "Llama 3.3",
}
"""What the licences that the hub has under these names call the models."""
NOTICES: Final[Mapping[str, str]] = {
    "gemma": GEMMA_NOTICE,
    **{
        licence: f"{model} is licensed under the {model} Community License, Copyright © Meta Platforms, Inc. "
        "All Rights Reserved."
        for licence, model in LLAMAS.items()
    },
}
"""What a licence wants in that file, word for word."""
SHOWN: Final[Mapping[str, str]] = {
    licence: "Built with Meta Llama 3" if licence == "llama3" else "Built with Llama" for licence in LLAMAS
}
"""What a licence wants to be shown, word for word."""
LABELS_ONLY: Final = "- It always gives one of its labels, also where none fits."
WAY_TEXTS: Final[Mapping[WayName, str]] = {
    "as_served": "as the System is",
    "written": "in free text at temperature 0",
    "listed": "as a JSON string held to the list of labels",
    "guided": "token by token within the labels",
}
HUB_METRICS: Final[Mapping[MetricName, str]] = {
    "accuracy": "accuracy",
    "macro_f1": "f1",
    "field_f1": "f1",
    "exact": "exact_match",
    "rouge_l": "rouge",
    "style": "style",
    "execution": "execution_accuracy",
    "mae": "mae",
    "spearman": "spearmanr",
    "judge": "win_rate",
}


def readme(
    subject: Subject, target: Target, kind: str, gate: Gate, origin: Climbed | None, size_bytes: int
) -> str:
    """The whole README.md."""
    lines = [*_front_matter(subject, kind, origin)] if target == "hub-folder" else []
    lines += [f"# {subject.name}", "", *_what(subject, target, kind, origin, size_bytes)]
    lines += ["", "## Use", "", *usage(subject, target, kind, gate)]
    if origin is not None:
        lines += ["", "## Scores", "", *_scores(origin)]
    if origin is not None and (beside := told.lines(origin.result, origin.climb.metric)):
        lines += ["", "## Beside its job", "", *_beside(beside, _learned(subject), kind)]
    lines += ["", "## Parity", "", *_parity(gate)]
    lines += ["", "## Limits", "", *_limits(subject, target, kind, gate, origin)]
    lines += ["", "## Licence", "", *_licence(subject)]
    return "\n".join(lines) + "\n"


def notice(subject: Subject) -> str:
    """The file NOTICE: whose weights these are made of, under what terms, and that they were changed."""
    base = subject.hub_id or subject.model.name
    changed = {
        "adapter": "tuned with a LoRA",
        "prefix": "given a learned prefix",
        "weights": "tuned in all its weights",
    }.get(_learned(subject), "given a fixed prompt")
    lines = [
        f"Made from {base} (weights with the SHA-256 {subject.model.digest}), {changed} by rung.",
        f"The licence of {base}: {_licence_name(subject)}.",
    ]
    if wanted := NOTICES.get(_licence_name(subject)):
        lines.append(wanted)
    return "\n".join(lines) + "\n"


def _learned(subject: Subject) -> str:
    """Which of its own the System has: an `adapter`, a `prefix`, all `weights`, or ``."""
    if subject.system.adapter_form == "prefix":
        return "prefix"
    if subject.system.weights is not None:
        return "weights"
    return "adapter" if subject.adapter is not None else ""


def _front_matter(subject: Subject, kind: str, origin: Climbed | None) -> list[str]:
    """YAML as model hubs read it. JSON strings are YAML strings."""
    tags = ["rung", "text-classification" if subject.spec.kind == "label" else "text-generation"]
    form = "prefix-tuning" if _learned(subject) == "prefix" else "lora"
    fields: dict[str, Any] = {
        "license": _licence_name(subject).replace("unknown", "other"),
        "library_name": "peft" if kind == ADAPTER else "transformers",
        "pipeline_tag": "text-generation",
        "tags": [*tags, form] if kind == ADAPTER else tags,
    }
    if subject.hub_id is not None:
        fields["base_model"] = subject.hub_id
        fields["base_model_relation"] = "adapter" if kind == ADAPTER else "finetune"
    if origin is not None:
        fields["metrics"] = [HUB_METRICS[origin.climb.metric]]
        fields["model-index"] = [_index(subject, origin)]
    return [
        "---",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()),
        "---",
        "",
    ]


def _index(subject: Subject, origin: Climbed) -> dict[str, Any]:
    """The score as a hub lists it: the test's, or that on dev where the test wasn't opened for it."""
    climb, result = origin.climb, origin.result
    found = result.test or result.dev
    split = "test" if result.test is not None else "dev"
    metrics = []
    if found is not None:
        metrics = [
            {
                "type": HUB_METRICS[climb.metric],
                "name": f"{climb.metric} ({split}, n = {found.n})",
                "value": round(found.score, 4),
            }
        ]
    return {
        "name": subject.name,
        "results": [
            {
                "task": {"type": "text-classification" if climb.kind == "label" else "text-generation"},
                "dataset": {"name": climb.task, "type": "private", "split": split},
                "metrics": metrics,
            }
        ],
    }


def _what(subject: Subject, target: Target, kind: str, origin: Climbed | None, size_bytes: int) -> list[str]:
    spec = subject.spec
    base = code_text(subject.model.name)
    made = {
        "adapter": f"a LoRA tune of {base}",
        "prefix": f"a learned prefix of {base}",
        "weights": f"a full tune of {base}",
    }.get(_learned(subject), "a fixed prompt")
    lines = [
        f"A System of rung ({made}) that answers one job with a {spec.kind}, exported as {target}, {kind}: "
        f"{size_bytes / 1e6:,.1f} MB. rung {__version__}, System {subject.system.digest}.",
    ]
    if origin is not None and origin.climb.about:
        lines += ["", "The job: " + code_text(origin.climb.about)]
    if spec.labels:
        lines += ["", "Labels: " + ", ".join(map(code_text, spec.labels))]
    return lines


def _scores(origin: Climbed) -> list[str]:
    climb, result = origin.climb, origin.result
    rows = [
        (split, found) for split, found in (("test", result.test), ("dev", result.dev)) if found is not None
    ]
    lines = [
        f"The System's own, through the engine that served it, {climb.metric}:",
        "",
        "| rows | score | 95 % interval | n |",
        "|---|---|---|---|",
        *(_score_row(split, found) for split, found in rows),
        "",
        f"It learned from {climb.n_train:,} rows; choices were made on {climb.n_dev:,} dev rows; the test "
        f"has {climb.n_test:,} rows and was opened {_times(climb.openings)}.",
    ]
    if result.test is None:
        lines[-1] += (
            " It wasn't opened for this System, and a score on dev, by which it was chosen, is hopeful."
        )
    digests = dict(climb.digests)
    if "data" in digests:
        lines.append(f"SHA-256 of the rows and their split: `{digests['data']}`.")
    return lines


def _beside(lines: list[str], learned: str, kind: str) -> list[str]:
    """What the guards found: what the tune does to the base model for other questions."""
    without = {
        "prefix": ", which is intact without the prefix",
        "adapter": ", which is intact without the adapter" if kind == ADAPTER else "",
    }.get(learned, "")
    return [
        f"What isn't its job it may do worse than its base model{without}:",
        "",
        *(f"- {line[0].upper()}{line[1:]}." for line in lines),
    ]


def _score_row(split: str, found: Measurement) -> str:
    scored = f"{score_text(found.score, found.metric)} | {interval_text(found.interval, found.metric)}"
    return f"| {split} | {scored} | {found.n:,} |"


def _parity(gate: Gate) -> list[str]:
    verdict = (
        "**Passed.**"
        if gate.passed
        else "**Not passed**, and exported all the same: " + "; ".join(gate.faults)
    )
    what = "next tokens inside its answers" if gate.tokens else "answers"
    same = percent_text(gate.same / gate.compared)
    share = f"{same} of {gate.compared:,} {what} ({percents_text(gate.agreement)})"
    gain = f"{gain_text(gate.gain, gate.metric)} ({gains_text(gate.gain_interval, gate.metric)})"
    lines = [
        f"{verdict} The System and this export answered the same {gate.rows:,} rows ({gate.told}); this one "
        f"was asked {WAY_TEXTS[gate.way]}.",
        "",
        "| | |",
        "|---|---|",
        f"| the System, {gate.engine_before} | "
        f"{_scored(gate.before.score, gate.before.interval, gate.metric)} |",
        f"| this export, {gate.engine_after} | "
        f"{_scored(gate.after.score, gate.after.interval, gate.metric)} |",
        f"| difference | {gain} |",
        f"| the same | {share} |",
        f"| the same prompt | {gate.prompts_same:,} of {gate.rows:,} rows, token for token |",
    ]
    if gate.tokens:
        lines.append(f"| the same answer, whole | {gate.same_answers:,} of {gate.rows:,} |")
    if gate.broken:
        lines.append(f"| calls that broke | {gate.broken:,} |")
    if gate.notes:
        lines += ["", *(f"**But** {note}." for note in gate.notes)]
    return [
        *lines,
        "",
        f"It passes where the score is shown to fall by less than {score_text(gate.margin, gate.metric)} "
        f"(one-sided 95 %; here by {score_text(max(0.0, gate.loss_bound), gate.metric)} at most) and "
        f"{100 * gate.least_agreement:.0f} % or more to be the same (95 % Wilson interval). All numbers are "
        "in `parity.json`.",
    ]


def _limits(subject: Subject, target: Target, kind: str, gate: Gate, origin: Climbed | None) -> list[str]:
    lines = [
        "- It was made for one job and judged on rows of that job alone. Other texts get an answer too, "
        "which means nothing.",
        f"- A prompt and its answer have room for {context_of(subject.model):,} tokens.",
    ]
    if subject.spec.answer.form == "schema" and target in ("gguf", "ollama"):
        server = "llama.cpp's server" if target == "gguf" else "Ollama"
        lines.append(
            f"- {server} lets JSON have white space, and the System's answers have none. So an answer gets "
            f"{ROOM_FOR_BLANKS} times the {subject.spec.answer.max_tokens:,} tokens that it was measured "
            "with; one that takes more is cut."
        )
    lines += _paths(subject, target, kind)
    if subject.spec.labels:
        lines.append(LABELS_ONLY if gate.way != "written" else "- It may answer with what is no label.")
    if origin is None:
        lines.append("- The climb that it comes from wasn't at hand: its scores aren't known here.")
    return lines


def _paths(subject: Subject, target: Target, kind: str) -> list[str]:
    """What an adapter's files say of this machine."""
    if kind != ADAPTER or target == "gguf":
        return []
    named = ["`adapter_config.json`"] if subject.loadable_id is None else []
    if subject.base_path is not None and target != "vllm":
        named.append("the code above")
    if not named:
        return []
    verb = "names" if len(named) == 1 else "name"
    return [
        f"- {' and '.join(named)} {verb} the base's folder on the machine that exported it: change it before "
        "you pass this on."
    ]


def _licence(subject: Subject) -> list[str]:
    name = _licence_name(subject)
    base = code_text(subject.hub_id or subject.model.name)
    lines = [
        f"The weights are made of {base}, so its licence holds for them: {code_text(name)}.",
        subject.licence_note or "Read it before you pass this on.",
    ]
    if wanted := SHOWN.get(name):
        lines = [wanted, "", *lines]
    return [*lines, "`NOTICE` goes with every copy. The rows that it learned from may bind you, too."]


def _licence_name(subject: Subject) -> str:
    """The licence's short name; from a System's file no more than a word."""
    if subject.entry is not None:
        return subject.entry.licence
    return "".join(c for c in subject.model.licence if c.isalnum() or c in "-._")[:60] or "unknown"


def _scored(score: float, interval: Interval, metric: MetricName) -> str:
    return f"{score_text(score, metric)} ({interval_text(interval, metric)})"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")
