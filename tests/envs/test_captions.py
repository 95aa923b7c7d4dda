"""Captions: true of what they describe, and their truth is what a careful reader would work out."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vrm.envs import FAMILIES, TASKS
from vrm.envs.captions import Caption, Captioner, Fact, caption_truth, deny, rise

EVERY_FAMILY = pytest.mark.parametrize("name", FAMILIES)
UNIT = st.floats(0, 1, width=32)


@EVERY_FAMILY
def test_composed_captions_are_true_of_their_state(name, sampled):
    captioner, rng = FAMILIES[name].captioner, np.random.default_rng(0)
    clauses = set()
    for truths in sampled(name).truths[::3]:
        captions = [captioner.compose(rng, truths) for _ in range(4)]
        assert (caption_truth(truths[None], captions) > 0.5).all(), captions
        clauses |= {len(caption.clauses) for caption in captions}
    assert clauses == {0, 1, 2}


@EVERY_FAMILY
def test_captions_are_clean_text_that_says_its_clauses(name, sampled):
    captioner, rng = FAMILIES[name].captioner, np.random.default_rng(1)
    for truths in [None, *sampled(name).truths[:150]]:
        caption = captioner.compose(rng, truths)
        assert caption.text == " ".join(caption.text.split())
        for index, affirmed in caption.clauses:
            fact = captioner.facts[index]
            spoken = [phrase.removeprefix("with ") for phrase in (*fact.phrases, *fact.details)]
            assert any(phrase in caption.text for phrase in spoken), (caption, fact.name)
            assert affirmed or "not " in caption.text or "without " in caption.text


@EVERY_FAMILY
def test_every_fact_is_true_of_some_state_and_false_of_another(name, sampled):
    truths = sampled(name).truths
    assert (truths >= 0).all()
    assert (truths <= 1).all()
    for fact, column in zip(FAMILIES[name].captioner.facts, truths.T, strict=True):
        assert (column > 0.6).any(), f"{fact.name} is never true"
        assert (column < 0.4).any(), f"{fact.name} is always true"


@EVERY_FAMILY
def test_a_phrase_belongs_to_one_fact(name):
    facts = FAMILIES[name].captioner.facts
    owners = defaultdict(set)
    for fact in facts:
        assert len(set(fact.phrases)) == len(fact.phrases)
        for phrase in (*fact.phrases, *fact.details):
            owners[phrase.lower()].add(fact.name)
    assert {phrase: names for phrase, names in owners.items() if len(names) > 1} == {}
    assert len({fact.name for fact in facts}) == len(facts)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_caption_truth_is_the_weakest_clause(data):
    facts = data.draw(st.integers(1, 5))
    rows = data.draw(st.lists(st.lists(UNIT, min_size=facts, max_size=facts), min_size=1, max_size=4))
    clause = st.tuples(st.integers(0, facts - 1), st.booleans())
    captions = [Caption("", tuple(c)) for c in data.draw(st.lists(st.lists(clause, max_size=3), max_size=5))]
    truths = np.array(rows, dtype=np.float32)
    got = caption_truth(truths, captions)
    assert got.shape == (len(rows), len(captions))
    for n, row in enumerate(truths):
        for m, caption in enumerate(captions):
            sides = [row[i] if affirmed else 1 - row[i] for i, affirmed in caption.clauses]
            assert got[n, m] == pytest.approx(min(sides, default=1.0), abs=1e-6)


@given(st.lists(UNIT.filter(lambda t: t != 0.5), min_size=2, max_size=6), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_composing_never_lies_whatever_is_true(truths, seed):
    facts = tuple(Fact(f"f{i}", lambda s, i=i: s[i], (f"phrase {i}",)) for i in range(len(truths)))
    captioner = Captioner(("a thing",), facts, likely=(0.9, 0.5))
    weights = captioner.truths(truths)
    caption = captioner.compose(np.random.default_rng(seed), weights)
    assert caption_truth(weights[None], [caption])[0, 0] > 0.5
    assert len({index for index, _ in caption.clauses}) == len(caption.clauses)


@given(st.floats(-5, 5), st.floats(-3, 3), st.floats(-3, 3).filter(lambda x: x != 0))
def test_rise_goes_from_start_to_end(value, start, width):
    end = start + width
    if end == start:
        return
    assert 0 <= rise(value, start, end) <= 1
    assert (rise(start, start, end), rise(end, start, end)) == (0.0, pytest.approx(1.0))
    assert rise(value, start, end) == pytest.approx(1 - rise(value, end, start), abs=1e-6)


def test_denials_are_english():
    rng = np.random.default_rng(0)
    assert deny(rng, "with its arms crossed") == "without its arms crossed"
    assert {deny(rng, "kneeling") for _ in range(20)} == {"not kneeling", "that is not kneeling"}


@EVERY_FAMILY
def test_without_variation_the_tasks_own_look_stays(name):
    before, after = looks(name, vary=False)
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value, err_msg=key)


@EVERY_FAMILY
def test_with_variation_the_look_changes(name):
    before, after = looks(name, vary=True)
    assert not all(np.array_equal(after[key], value) for key, value in before.items())


def looks(name, vary):
    """Everything that shows but is no state, before and after sampling."""
    env = next(task for task in TASKS.values() if task.family == name).make(render_mode=None).unwrapped
    env.reset(seed=0)
    before = appearance(env)
    for _ in zip(range(20), FAMILIES[name].sample(env, np.random.default_rng(0), vary), strict=False):
        pass
    return before, appearance(env)


def appearance(env):
    shown = {key: np.copy(vars(env)[key]) for key in ("look", "tint") if key in vars(env)}
    if hasattr(env, "camera"):
        shown["camera"] = np.array([env.camera.azimuth, env.camera.elevation, env.camera.distance, *env.camera.lookat])
        shown["colours"] = env.model.geom_rgba.copy()
        shown["lights"] = np.append(env.model.light_diffuse, env.model.vis.headlight.diffuse)
    return shown
