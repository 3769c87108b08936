"""The model that a System was made on, where that is a file of one's own."""

import json

import pytest

from rung.errors import ModelError
from rung.models.resolve import resolve
from rung.records import Example
from rung.spec import AnswerSpec, Spec
from rung.system import SPEC_FILE, Pool, System, ref_to, save
from tests.fixtures_climb import make_tiny_gguf

ROW = Example(id="a", input="so?", output=None)


def test_a_model_of_ones_own_that_was_moved_is_found_by_its_new_place(tmp_path):
    gguf = make_tiny_gguf(tmp_path / "mine.gguf")
    answer = AnswerSpec(form="free", max_tokens=4)
    ref = ref_to(resolve(str(gguf)), str(gguf))
    spec = Spec(rung="prompt", task="t", kind="text", engine="llama", model=ref, answer=answer)
    made = save(tmp_path / "system", spec, {})
    moved = gguf.rename(tmp_path / "elsewhere.gguf")
    with Pool(threads=1, parallel=1) as pool:
        said = (
            rf"the model 'mine' \(sha256 {ref.digest[:16]}\), which lay at '.*mine\.gguf' .*`model\.source`"
        )
        with pytest.raises(ModelError, match=said):
            made.answer([ROW], pool)
    file = made.folder / SPEC_FILE
    written = json.loads(file.read_text())
    written["model"]["source"] = str(moved)
    file.write_text(json.dumps(written))
    found = System.load(made.folder)
    with Pool(threads=1, parallel=1) as pool:
        assert found.digest == made.digest and found.answer([ROW], pool)[0].failure is None
