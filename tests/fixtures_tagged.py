"""What the tests of tags share: small Systems that answer, and a finished run that holds one."""

from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from rung.models.head import counted, fit_tfidf, head_files
from rung.records import Climb
from rung.runs import write_json
from rung.spec import Spec
from rung.system import System, save
from tests.report.climb_fixture import synthetic_climb

ROWS = [("the parcel is late", "delivery"), ("no parcel came", "delivery"), ("I forgot my password", "login")]
SETTINGS = {"name": "helpdesk", "seed": 0}


def make_head(folder: Path, task: str = "helpdesk") -> System:
    """A TF-IDF head; another task gives it another digest."""
    texts, labels = [text for text, _ in ROWS], [label for _, label in ROWS]
    made = fit_tfidf(counted(texts), labels, 1.0, 0)
    spec = Spec(rung="head", task=task, kind="label", labels=made.labels, engine="head", features="tfidf")
    return save(folder, spec, head_files(made))


def make_run(run: Path) -> System:
    """A finished run whose verdict is to ship its head, on 400 rows of the sealed test."""
    system = make_head(run / "winner")
    make_head(run / "rungs" / "head" / "system")
    climb = synthetic_climb()
    head, *others = climb.results
    done = replace(
        climb,
        results=(replace(head, system=system.digest), *others),
        decision=replace(climb.decision, kind="tie", chosen="head"),
        digests=(("data", "5f2c90aa11"), ("run", "77ab12cd34")),
    )
    (run / "climb.json").write_bytes(TypeAdapter(Climb).dump_json(done))
    write_json(run / "run.json", {"task": SETTINGS})
    return system
