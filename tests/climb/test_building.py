"""How long a rung took to build, where the climb was ended after that and taken up again."""

import time

import pytest

from rung.climb.climb import Options, climb
from tests.climb.test_models import Free
from tests.fixtures_climb import Log, label_rows, make_tiny_gguf, write_rows

LOOKED_S = 1.5


class Slow(Free):
    """Takes its time the first time that it is built; what it made is there the next time."""

    def build(self, context):
        if not self.given:
            time.sleep(0.3)
        return super().build(context)


def test_what_a_killed_climb_had_built_is_counted_once_and_not_what_came_after(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    task = write_rows(tmp_path / "topics.jsonl", label_rows(120))
    options = Options(
        models=(str(make_tiny_gguf(tmp_path / "tiny.gguf")),),
        out=tmp_path / "run",
        budget_s=600,
        curve=False,
    )
    monkeypatch.setattr("rung.climb.options.LADDER", (Slow(),))

    def ended(*given):
        time.sleep(LOOKED_S)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rung.climb.climb.guarded", ended)
        patch.setattr("rung.climb.machine.Watch.EVERY_S", 0.1)
        with pytest.raises(KeyboardInterrupt):
            climb(task, options, Log())
    result, _ = climb(task, options, Log())
    (one,) = result.results
    assert 0.3 <= one.build_s < LOOKED_S and one.took_s < LOOKED_S
