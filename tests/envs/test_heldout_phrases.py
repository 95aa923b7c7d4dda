"""Prompts for evaluation say every fact in words that no caption of its family uses, and what must not score."""

import re
from pathlib import Path

import pytest
import yaml

import vrm.envs
from vrm.envs import FAMILIES

FOLDER = Path(vrm.envs.__path__[0]) / "heldout_phrases"
CAPTIONERS = {name: family.captioner for name, family in FAMILIES.items()}
EVERY_FAMILY = pytest.mark.parametrize("name", CAPTIONERS)


def held_out(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def templates(name):
    facts = CAPTIONERS[name].facts
    return {spaced(phrase.removeprefix("with ")) for fact in facts for phrase in (*fact.phrases, *fact.details)}


def spaced(text):
    return f" {' '.join(re.findall('[a-z0-9]+', text.lower()))} "


@EVERY_FAMILY
def test_every_fact_has_four_phrases_and_a_near_miss(name):
    phrases = held_out(name)
    assert list(phrases) == [fact.name for fact in CAPTIONERS[name].facts]
    for fact, entry in phrases.items():
        assert set(entry) == {"means", "near_misses"}, fact
        assert len(set(entry["means"])) == len(entry["means"]) >= 4, fact
        assert entry["near_misses"], fact
        assert set(entry["means"]).isdisjoint(entry["near_misses"]), fact
        assert all(isinstance(text, str) and text == text.strip() for kind in entry.values() for text in kind), fact


@EVERY_FAMILY
def test_no_phrase_contains_what_a_caption_says(name):
    known = templates(name)
    told = [
        (fact, text, phrase)
        for fact, entry in held_out(name).items()
        for text in (*entry["means"], *entry["near_misses"])
        for phrase in known
        if phrase in spaced(text)
    ]
    assert told == []


@EVERY_FAMILY
def test_a_phrase_speaks_for_one_fact(name):
    owners = {}
    for fact, entry in held_out(name).items():
        for text in entry["means"]:
            assert owners.setdefault(text, fact) == fact
