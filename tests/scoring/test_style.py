import random

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from rung.records import Answer, Example
from rung.scoring import paired, style
from rung.scoring.measure import measurement
from rung.scoring.scorers import SCORERS
from rung.scoring.style import draws, matched, passing, placements

SUBJECTS = ("the king", "my lord", "a soldier", "the nurse", "our cousin", "the moon")
VERBS = ("waits by the gate", "speaks of love", "sees the morning", "keeps the letter", "walks alone")
ENDS = ("tonight", "in the garden", "with no word", "before the feast", "near the tomb")


def plain(dice: random.Random) -> str:
    return f"{dice.choice(SUBJECTS)} {dice.choice(VERBS)} {dice.choice(ENDS)}"


def old(text: str) -> str:
    """The same in an author's manner."""
    return text.replace("the", "thy").replace("s ", "eth ").replace("with", "wi' ") + ", good sir"


def author(n: int, seed: int) -> list[str]:
    dice = random.Random(seed)
    return [old(plain(dice)) for _ in range(n)]


def mixed(n: int, seed: int, share: float) -> list[str]:
    """Texts of which a share is in the author's manner."""
    dice = random.Random(seed)
    return [old(text) if dice.random() < share else text for text in (plain(dice) for _ in range(n))]


def score(answers, targets) -> float:
    return passing(*placements(answers, targets))


@pytest.fixture
def few_draws(monkeypatch):
    """A fifth of the folds: a score wavers a little more, and is no other."""
    monkeypatch.setattr(style, "MOST_DRAWS", 4)
    style._placed.cache_clear()
    yield
    style._placed.cache_clear()


@pytest.mark.usefixtures("few_draws")
def test_the_authors_own_texts_pass_in_full_and_others_do_not():
    targets = author(80, 0)
    assert score(targets, targets) == 1.0
    assert score(author(80, 1), targets) > 0.75
    assert score(mixed(80, 2, 0.0), targets) < 0.05
    graded = [score(mixed(80, 3, share), targets) for share in (0.0, 0.4, 0.8, 1.0)]
    assert graded == sorted(graded)


def test_a_placement_is_the_share_of_the_authors_texts_in_the_fold_that_look_less_like_him(monkeypatch):
    """One less their mean is the area under the ROC curve of all folds and draws, as scikit-learn has it."""
    areas = []
    real = style._likeness

    def seen(counts, learned, held):
        assert sorted([*learned, *held]) == list(range(57)), "judged by what it had learned"
        looks = real(counts, learned, held)
        areas.append((len(held), roc_auc_score([0, 1] * len(held), looks.ravel())))
        return looks

    monkeypatch.setattr(style, "_likeness", seen)
    targets = [f"{text} {n}" for n, text in enumerate(author(57, 5))]
    answers = [f"{text} {n}x" for n, text in enumerate(mixed(57, 6, 0.5))]
    places, _ = placements(answers, targets)
    judged = 57 * draws(57)
    assert len(areas) == style.FOLDS * draws(57) and sum(size for size, _ in areas) == judged
    assert 1 - places.mean() == pytest.approx(sum(size * area for size, area in areas) / judged)


def test_a_text_is_weighed_by_the_texts_that_its_classifier_learned_from():
    """As scikit-learn's own vectoriser has it, which sees no others."""
    pairs = [matched(a, t) for a, t in zip(mixed(40, 1, 0.4), author(40, 0), strict=True)]
    held = np.arange(0, 40, 5)
    learned = np.setdiff1d(np.arange(40), held)
    known, asked = ([text for at in rows for text in pairs[at]] for rows in (learned, held))
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), lowercase=False, sublinear_tf=True)
    model = LogisticRegression(C=10.0, solver="liblinear", random_state=0)
    model.fit(vectors.fit_transform(known), [0, 1] * len(learned))
    wanted = model.decision_function(vectors.transform(asked))
    found = style._likeness(style._counts(pairs), learned, held)
    assert found.ravel() == pytest.approx(wanted, abs=1e-2) and wanted.std() > 1


def test_folds_are_drawn_the_more_often_the_fewer_the_rows():
    assert [draws(rows) for rows in (10, 60, 200, 500, 5000)] == [20, 20, 15, 6, 1]


def test_many_draws_of_folds_make_a_score_waver_less_than_one_does(monkeypatch):
    targets, answers = author(40, 0), mixed(40, 1, 0.5)

    def spread(most):
        found = []
        for seed in range(6):
            with monkeypatch.context() as patch:
                patch.setattr(style, "MOST_DRAWS", most)
                patch.setattr(style, "_SEED", seed)
                style._placed.cache_clear()
                found.append(score(answers, targets))
        style._placed.cache_clear()
        return np.std(found)

    assert 0 < spread(12) < spread(1) / 2


@pytest.mark.usefixtures("few_draws")
def test_length_gives_no_text_away():
    assert matched("a b c d", "x y") == ("a b", "x y") and matched("a", "x y") == ("a", "x")
    dice = random.Random(0)
    short, long = (
        [
            " ".join(dice.choices("thee thou doth hath art nay good my lord".split(), k=size))
            for _ in range(80)
        ]
        for size in (6, 18)
    )
    assert score(long, short) > 0.75 and score(short, long) > 0.75


def test_silence_scores_nothing_and_lowers_the_others():
    targets = author(60, 0)
    some = [text if at % 2 else None for at, text in enumerate(targets)]
    places, _ = placements(some, targets)
    assert set(places[::2]) == {0.0} and score(some, targets) == pytest.approx(0.5)
    assert score([None] * 60, targets) == score([""] * 60, targets) == 0.0


def test_few_rows_are_no_style_unless_they_are_the_very_same():
    targets = author(9, 0)
    assert score(targets, targets) == 1.0 and score(author(9, 1), targets) == 0.0


def measured(answers, targets):
    rows = [Example(id=f"{at:03}", input=str(at), output=target) for at, target in enumerate(targets)]
    given = [Answer(text=text, value=text) for text in answers]
    return measurement(system="s", split="dev", metric="style", examples=rows, answers=given)


@pytest.mark.usefixtures("few_draws")
def test_a_measurement_has_an_interval_around_its_score():
    found = measured(mixed(100, 1, 0.5), author(100, 0))
    assert 0 < found.interval.low < found.score < found.interval.high <= 1
    assert found.interval.high - found.interval.low < 0.5


def pair(first, second, targets):
    by_id = {f"{at:03}": target for at, target in enumerate(targets)}
    return paired.pair_up(measured(first, targets), measured(second, targets), targets=by_id, groups=None)


@pytest.mark.usefixtures("few_draws")
def test_a_better_imitation_wins_and_an_equal_one_hardly_ever_does():
    targets = author(80, 0)
    clear = pair(mixed(80, 1, 0.1), mixed(80, 2, 0.7), targets)
    assert paired.p_value(clear, 0) < 0.01 and paired.gain(clear) > 0.2
    runs = 12
    false = sum(
        paired.p_value(pair(mixed(60, 10 + run, 0.5), mixed(60, 900 + run, 0.5), author(60, run)), 0) <= 0.05
        for run in range(runs)
    )
    assert false / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


def test_style_is_a_metric_of_texts_alone():
    scorer = SCORERS["style"]
    assert scorer.kinds == {"text"} and scorer.higher_is_better and not scorer.mean_of_rows
    assert np.isfinite(scorer.summary(author(20, 1), author(20, 0)))


@pytest.mark.usefixtures("few_draws")
def test_a_gain_is_the_difference_of_the_scores_though_the_rows_ids_sort_otherwise():
    targets = author(90, 0)
    ids = [f"rows.jsonl:{at}" for at in range(1, 91)]
    assert ids != sorted(ids)
    rows = [Example(id=name, input=name, output=target) for name, target in zip(ids, targets, strict=True)]
    less, more = (
        measurement(
            system="s",
            split="dev",
            metric="style",
            examples=rows,
            answers=[Answer(text=text, value=text) for text in mixed(90, seed, share)],
        )
        for seed, share in ((1, 0.2), (2, 0.6))
    )
    found = paired.pair_up(less, more, targets=dict(zip(ids, targets, strict=True)), groups=None)
    assert paired.gain(found) == pytest.approx(more.score - less.score, abs=1e-12)


@pytest.mark.usefixtures("few_draws")
def test_a_score_does_not_hang_on_the_order_of_the_rows():
    targets, answers = author(70, 0), mixed(70, 1, 0.4)
    order = np.random.default_rng(3).permutation(70)
    here, _ = placements(answers, targets)
    there, _ = placements([answers[at] for at in order], [targets[at] for at in order])
    assert there.tolist() == here[order].tolist()
