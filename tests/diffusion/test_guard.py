"""The guard's rule on constructed courses, and prompts by step."""

import json

import numpy as np
import pytest

from vrm.diffusion.finetune.guard import Guard, warnings
from vrm.diffusion.finetune.prompts import Prompts, batch_indices, read_prompts
from vrm.errors import PromptError
from vrm.scoring.inputs import InputError

SPREAD = np.linspace(-0.1, 0.1, 8)


def play(guard, trained, held_out, noise=0.0):
    """Feed mean scores of eight videos that differ from each other as much as real ones."""
    rng = np.random.default_rng(0)
    states = []
    for step, (reward, judge) in enumerate(zip(trained, held_out, strict=True)):
        draws = rng.standard_normal(8)
        wobble = noise * (draws - draws.mean())
        states.append(guard.update(10 * step, reward + SPREAD, judge + SPREAD + wobble).state)
    return states


def test_it_stops_when_the_judge_falls_while_the_reward_rises_and_keeps_what_was_before():
    guard = Guard(patience=2)
    states = play(guard, [0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.6, 0.65, 0.5, 0.4])
    assert states == ["fine", "fine", "fine", "hacking", "stop"]
    assert guard.best.step == guard.peak.step == 20
    assert "fell from 0.6500 (step 20) to 0.4000" in guard.verdicts[-1].reason
    assert "trained reward rose from 0.3000 to 0.5000" in guard.verdicts[-1].reason


def test_one_bad_evaluation_is_forgiven():
    states = play(Guard(patience=2), [0.1, 0.2, 0.3, 0.4], [0.5, 0.3, 0.55, 0.4])
    assert states == ["fine", "hacking", "fine", "hacking"]


def test_a_fall_within_the_noise_of_the_videos_is_no_fall():
    states = play(Guard(patience=1), [0.1, 0.2, 0.3, 0.4], [0.5, 0.495, 0.49, 0.5], noise=0.05)
    assert states == ["fine"] * 4
    assert play(Guard(patience=1, margin=0), [0.1, 0.2], [0.5, 0.49]) == ["fine", "stop"]


def test_when_both_fall_it_says_so_and_goes_on():
    guard = Guard(patience=1)
    assert play(guard, [0.5, 0.4, 0.3], [0.5, 0.4, 0.3]) == ["fine", "both fall", "both fall"]
    assert guard.best.step == 0


def test_best_is_the_highest_reward_before_the_fall_not_the_peak_of_the_judge():
    guard = Guard(patience=3)
    play(guard, [0.1, 0.2, 0.4, 0.6], [0.5, 0.52, 0.51, 0.2], noise=0.03)
    assert (guard.peak.step, guard.best.step) == (10, 20)


def test_a_guard_read_back_goes_on_like_the_first():
    course = ([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.3, 0.2])
    whole, half = Guard(), Guard()
    play(whole, *course)
    play(half, course[0][:3], course[1][:3])
    again = Guard()
    again.load_state_dict(json.loads(json.dumps(half.state_dict())))
    verdict = again.update(30, 0.4 + SPREAD, 0.2 + SPREAD)
    assert verdict == whole.verdicts[-1]
    assert verdict.state == "stop"
    assert again.state_dict() == whole.state_dict()


def test_scores_that_say_nothing_are_refused():
    guard = Guard()
    guard.update(0, [0.1, 0.2], [0.1, 0.2])
    with pytest.raises(ValueError, match="the same 2 videos"):
        guard.update(1, [0.1], [0.1])
    with pytest.raises(ValueError, match="NaN"):
        guard.update(1, [0.1, float("nan")], [0.1, 0.2])
    with pytest.raises(ValueError, match="patience >= 1"):
        Guard(patience=0)


def test_large_changes_of_the_videos_are_named():
    before = {"diversity": 0.4, "motion": 0.02, "sharpness": 1.0, "saturation": 0.001}
    assert warnings(before, before) == []
    worse = {"diversity": 0.1, "motion": 0.02, "sharpness": 0.4, "saturation": 0.1}
    assert [text.split()[0] for text in warnings(before, worse)] == ["diversity", "sharpness", "saturation"]
    assert warnings(before, {"saturation": 0.01}) == []


def test_every_prompt_comes_once_before_any_comes_twice_and_processes_share_them():
    seen = [batch_indices(6, 1, step, 3, (rank, 2)) for step in range(3) for rank in range(2)]
    assert sorted(index for batch in seen for index in batch) == list(range(6))
    later = [batch_indices(6, 2, step, 3) for step in range(3, 6)]
    assert sorted(index for batch in later for index in batch) == list(range(6))
    assert batch_indices(6, 4, 7, 3) == batch_indices(6, 4, 7, 3)
    assert any(batch_indices(6, 4, 7, seed) != batch_indices(6, 4, 7, 3) for seed in range(3))


def test_prompts_are_read_from_a_file_and_kept_apart(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a robot kneels\n a pole falls \n\n")
    assert read_prompts(path) == ["a robot kneels", "a pole falls"]
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "other.txt")
    with pytest.raises(PromptError, match="more than once"):
        read_prompts(["a", "a"])
    with pytest.raises(PromptError, match="no empty one"):
        read_prompts(["a", " "])
    with pytest.raises(PromptError, match="trained on and held out"):
        Prompts(["A robot  kneels"], ["a robot kneels"])
    with pytest.raises(PromptError, match="at least one prompt"):
        Prompts(["a robot kneels"], [])
