import json
from pathlib import Path

import numpy as np
import pytest

from rung.models.head import (
    MANY_TEXTS,
    TOLERANCE,
    Numbers,
    answers,
    calibrated,
    counted,
    fit_minilm,
    fit_ridge,
    fit_tfidf,
    head_files,
    load_head,
    numbers_like,
    softmax,
)

SMS = Path(__file__).parents[3] / "shared" / "data" / "sms_spam"
WORDS = {"red": "apple cherry rose brick", "green": "grass leaf lime frog", "blue": "sky sea jeans ink"}


def colours(count, classes=3, seed=0, noise=0.15):
    """Texts of a class's words, with a share of words from elsewhere."""
    dice = np.random.default_rng(seed)
    every = " ".join(WORDS.values()).split()
    labels = list(WORDS)[:classes]
    targets = [labels[i % classes] for i in range(count)]
    texts = [
        " ".join(
            dice.choice(every) if dice.random() < noise else dice.choice(WORDS[target].split())
            for _ in range(5)
        )
        for target in targets
    ]
    return texts, targets


def vectors_of(texts):
    """Unit vectors that hold the letters of a text: what an embedder would give, without its weights."""
    counts = np.array([[text.count(chr(97 + i)) for i in range(26)] for text in texts], dtype=np.float64)
    return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def no_vectors(texts):
    raise AssertionError("TF-IDF needs no sentence vectors")


def fitted(features, classes=3, count=120):
    texts, targets = colours(count, classes)
    if features == "minilm":
        return fit_minilm(vectors_of(texts), targets, 10.0), vectors_of
    return fit_tfidf(counted(texts), targets, 1.0, seed=0), no_vectors


def stored(head, folder):
    for name, content in head_files(head).items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_head(folder, head.features, head.labels)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("features", ["minilm", "tfidf"])
def test_a_stored_head_says_what_the_fitted_one_said(features, classes, tmp_path):
    head, embed = fitted(features, classes)
    texts, _ = colours(50, classes, seed=1)
    again = stored(head, tmp_path)
    np.testing.assert_allclose(
        again.probabilities(texts, embed), head.probabilities(texts, embed), atol=1e-5, rtol=1e-4
    )
    assert again.labels == head.labels and again.size_bytes > 0


@pytest.mark.parametrize("classes", [2, 3])
def test_minilm_probabilities_are_those_of_scikit_learn(classes):
    from sklearn.linear_model import LogisticRegression

    texts, targets = colours(120, classes)
    unseen, _ = colours(50, classes, seed=1)
    oracle = LogisticRegression(C=10.0, max_iter=2000).fit(vectors_of(texts), targets)
    head = fit_minilm(vectors_of(texts), targets, 10.0)
    assert head.labels == tuple(oracle.classes_)
    np.testing.assert_allclose(
        head.probabilities(unseen, vectors_of), oracle.predict_proba(vectors_of(unseen)), atol=1e-6
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_tfidf_scores_are_those_of_scikit_learn(classes, tmp_path):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.svm import LinearSVC

    texts, targets = colours(120, classes)
    unseen, _ = colours(50, classes, seed=1)
    oracle = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        ),
        LinearSVC(C=1.0, random_state=0, tol=TOLERANCE),
    ).fit(texts, targets)
    scores = stored(fit_tfidf(counted(texts), targets, 1.0, seed=0), tmp_path).scores(unseen, no_vectors)
    wanted = oracle.decision_function(unseen)
    if classes == 2:
        np.testing.assert_allclose(scores[:, 1] - scores[:, 0], wanted, atol=1e-4)
    else:
        np.testing.assert_allclose(scores, wanted, atol=1e-4)


def worth(texts):
    """A number that a text's letters make."""
    return [round(2.5 * text.count("a") - 1.25 * text.count("e"), 2) for text in texts]


@pytest.mark.parametrize("features", ["minilm", "tfidf", "both"])
def test_numbers_are_those_of_scikit_learns_ridge_within_the_rows_range(features, tmp_path):
    from sklearn.linear_model import Ridge

    texts, _ = colours(120, 3)
    unseen, _ = colours(50, 3, seed=1)
    targets = worth(texts)
    counts = None if features == "minilm" else counted(texts)
    vectors = None if features == "tfidf" else vectors_of(texts)
    head = fit_ridge(features, counts, vectors, targets, 0.3)
    embed = no_vectors if features == "tfidf" else vectors_of
    oracle = Ridge(alpha=0.3, solver="lsqr", tol=1e-10, max_iter=10_000).fit(
        head.matrix(texts, embed), targets
    )
    wanted = oracle.predict(head.matrix(unseen, embed))
    np.testing.assert_allclose(head.scores(unseen, embed)[:, 0], wanted, atol=2e-3)
    again = stored(head, tmp_path)
    assert again.numbers == head.numbers == Numbers(low=min(targets), high=max(targets), decimals=2)
    found = answers(again, unseen, embed)
    assert [a.value for a in found] == pytest.approx(np.clip(wanted, min(targets), max(targets)), abs=0.02)
    assert all(a.text == str(a.value) and a.probability is None and a.options == () for a in found)


def test_whole_numbers_are_given_where_all_rows_have_them():
    assert numbers_like([1, 2.0, 40]) == Numbers(low=1.0, high=40.0, decimals=0)
    assert numbers_like([0.1, 1e-9]).decimals == numbers_like([0.30000000000000004, 1.5]).decimals == 6
    given = [numbers_like([1, 5]).nearest(x) for x in (-3.0, 2.4, 99.0)]
    assert given == [1, 2, 5] and all(isinstance(x, int) for x in given)


def test_small_numbers_are_told_from_each_other():
    small = numbers_like([2e-7, 9e-7, 5.5e-7])
    assert [small.nearest(x) for x in (0.0, 4.2e-7, 4.26e-7, 1.0)] == [2e-7, 4.2e-7, 4.3e-7, 9e-7]
    assert numbers_like([1e-7, 1.23456789e-7, 1.5e-7]).decimals == 12
    for far in ([-1e308, 1e308], [5e-324, 1e-323], [2.0, 2.0]):
        assert min(far) <= numbers_like(far).nearest(far[0]) <= max(far)


def test_rows_of_one_number_are_no_regression():
    with pytest.raises(ValueError, match="one and the same number"):
        fit_ridge("minilm", None, np.eye(3), [2.0, 2.0, 2.0], 1.0)


def test_with_many_texts_what_only_one_of_them_has_is_left_out():
    texts, targets = colours(MANY_TEXTS, 3)
    texts[7] += " zyzzyva"
    few, many = counted(texts[:-1]), counted(texts)
    assert "zyzzyva" in few.vocabularies[0] and "zyzzyva" not in many.vocabularies[0]
    assert set(many.vocabularies[0]) < set(few.vocabularies[0])
    head = fit_tfidf(many, targets, 1.0, seed=0)
    assert head.weights.shape[1] == sum(map(len, many.vocabularies)) == many.idf[0].size + many.idf[1].size


@pytest.mark.parametrize("features", ["minilm", "tfidf"])
def test_calibration_lowers_the_loss_on_held_out_rows_and_keeps_the_ranking(features):
    head, embed = fitted(features)
    texts, targets = colours(200, seed=2, noise=0.5)
    ready = calibrated(head, head.scores(texts, embed), targets)

    def loss(one):
        table = one.probabilities(texts, embed)
        return -np.log([row[one.labels.index(t)] for row, t in zip(table, targets, strict=True)]).mean()

    assert ready.temperature != head.temperature
    assert loss(ready) < loss(head)
    np.testing.assert_array_equal(
        np.argsort(ready.probabilities(texts, embed), axis=1), np.argsort(head.scores(texts, embed), axis=1)
    )


def test_calibrating_on_rows_of_unknown_classes_alone_changes_nothing():
    head, embed = fitted("minilm")
    texts, _ = colours(5)
    assert calibrated(head, head.scores(texts, embed), ["violet"] * 5) is head


def test_an_answer_is_the_likeliest_label_with_the_five_likeliest_and_their_probabilities():
    head, embed = fitted("minilm")
    (answer,) = answers(head, ["grass leaf lime"], embed)
    assert answer.value == answer.text == answer.options[0][0] == "green"
    assert answer.probability == answer.options[0][1]
    assert sum(p for _, p in answer.options) == pytest.approx(1.0)
    assert answers(head, [], lambda texts: np.zeros((0, 26))) == []


def test_softmax_does_not_overflow():
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [0.0, 0.0]])), [[1, 0], [0.5, 0.5]])


def test_a_head_is_as_large_as_its_arrays_and_words():
    small, _ = fitted("minilm")
    large, _ = fitted("tfidf")
    assert small.size_bytes == small.weights.nbytes + small.bias.nbytes
    words = sum(len(word) for block in large.vocabularies for word in block)
    assert large.size_bytes > large.weights.nbytes + words


def test_the_same_rows_give_the_same_bytes():
    for features in ("minilm", "tfidf"):
        assert head_files(fitted(features)[0]) == head_files(fitted(features)[0])


def test_many_labels_give_the_same_bits_each_time():
    """liblinear has one random number generator for the whole process: fits side by side would share it."""
    dice = np.random.default_rng(0)
    targets = [f"label {i % 40}" for i in range(1600)]
    words = ["".join(dice.choice(list("abcdefghij"), 6)) for _ in range(300)]
    texts = [" ".join([*dice.choice(words, 10), words[int(target[6:])]]) for target in targets]
    counts = counted(texts)
    first, *others = (fit_tfidf(counts, targets, 1.0, seed=0).weights for _ in range(4))
    assert all(np.array_equal(first, other) for other in others)


def spam(count):
    """`count` training and `count` test texts with labels, from all over the files, which are sorted."""
    if not SMS.is_dir():
        pytest.skip(f"no data set at {SMS}")
    parts = []
    for name in ("train", "test"):
        lines = (SMS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines[:: max(1, len(lines) // count)]]
        parts.append(([row["input"] for row in rows], [row["output"] for row in rows]))
    return parts


def accuracy(head, part, embed):
    said = [answer.value for answer in answers(head, part[0], embed)]
    return np.mean([a == b for a, b in zip(said, part[1], strict=True)])


def test_spam_is_told_from_ham_by_counts():
    train, test = spam(1500)
    assert accuracy(fit_tfidf(counted(train[0]), train[1], 1.0, seed=0), test, no_vectors) >= 0.97


@pytest.mark.models
def test_spam_is_told_from_ham_by_sentence_vectors():
    from rung.models.embed import Embedder

    embed = Embedder().embed
    train, test = spam(400)
    assert accuracy(fit_minilm(embed(train[0]), train[1], 10.0), test, embed) >= 0.97
