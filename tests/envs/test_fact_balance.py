"""Samplers show both sides of every fact often enough to learn it from, in every look, and decided by the seed."""

import numpy as np
import pytest

from vrm.envs import humanoid_facts, humanoid_standup, inverted_double_pendulum, pendulum, pusher

MODULES = {
    humanoid_standup: humanoid_standup.TextGoalHumanoidStandup,
    pusher: pusher.TextGoalPusher,
    inverted_double_pendulum: inverted_double_pendulum.TextGoalInvertedDoublePendulum,
    pendulum: pendulum.TextGoalPendulum,
}
EACH = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])


def sampled(module, count, seed=0, vary=True, **options):
    """``count`` states' facts, success, and frames where they are rendered."""
    env = MODULES[module](**options)
    env.reset(seed=0)
    truths, success, frames = [], [], []
    for _, state in zip(range(count), module.sample(env, np.random.default_rng(seed), vary), strict=False):
        truths.append(module.CAPTIONER.truths(state))
        success.append(env.success())
        if env.render_mode is not None:
            frames.append(env.render().copy())
    env.close()
    return np.stack(truths), np.array(success), frames


@EACH
@pytest.mark.parametrize("vary", [False, True])
def test_every_fact_is_true_of_three_states_in_a_hundred_and_false_of_three(module, vary):
    truths, success, _ = sampled(module, 1200 if module is humanoid_standup else 600, vary=vary)
    facts = [fact.name for fact in module.CAPTIONER.facts]
    rare = {n: (c > 0.5).mean() for n, c in zip(facts, truths.T, strict=True) if (c > 0.5).mean() < 0.03}
    usual = {n: (c < 0.5).mean() for n, c in zip(facts, truths.T, strict=True) if (c < 0.5).mean() < 0.03}
    assert (rare, usual) == ({}, {})
    assert 0.03 < success.mean() < 0.6


@EACH
def test_there_is_much_to_say_and_many_ways_to_say_it(module):
    assert len(module.CAPTIONER.facts) >= 8
    own = [fact for fact in module.CAPTIONER.facts if fact not in humanoid_facts.FACTS]
    assert {fact.name: fact.phrases for fact in own if len(fact.phrases) < 4} == {}


@EACH
@pytest.mark.parametrize("vary", [False, True])
def test_the_seed_decides_states_and_looks(module, vary):
    def draw(seed):
        return sampled(module, 12, seed, vary, size=24, render_mode="rgb_array")

    one, same, other = draw(3), draw(3), draw(4)
    np.testing.assert_array_equal(one[0], same[0])
    np.testing.assert_array_equal(one[2], same[2])
    assert not np.array_equal(one[2], other[2])


@EACH
def test_a_frame_shows_enough_contrast_whatever_the_look(module):
    _, _, frames = sampled(module, 60, size=64, render_mode="rgb_array")
    assert np.percentile([frame.std() for frame in frames], 5) > 6
    assert np.stack(frames).reshape(60, -1).std(axis=0).mean() > 10, "looks differ"
