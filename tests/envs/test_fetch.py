"""The Fetch tasks: what is drawn, what counts, experts, another simulator version, and a missing package."""

import subprocess
import sys

import numpy as np
import pytest

from vrm.envs import TASKS, make_task
from vrm.envs.fetch import BALL, BLOCK_HEIGHT, NOISE, SPOT, START, TextGoalFetchPush, expert, on_table
from vrm.envs.fetch_facts import APART, measure, sample

pytest.importorskip("gymnasium_robotics")
BOTH = pytest.mark.parametrize("name", ["fetch_reach", "fetch_push"])
STILL = np.zeros(4, np.float32)


@pytest.fixture(scope="module")
def push():
    env = TASKS["fetch_push"].make(render_mode="rgb_array").unwrapped
    yield env
    env.close()


def play(task, seed):
    """Whether the criterion held at reset and after each of the expert's steps."""
    env = task.make(render_mode=None)
    success = [env.reset(seed=seed)[1]["success"]]
    for _ in range(task.episode_steps):
        success.append(env.step(expert(env))[4]["success"])
    return success


ANYWHERE = {"fetch_reach": {"target": None}, "fetch_push": {"target": None, "lift": True}}


@BOTH
@pytest.mark.parametrize("anywhere", [False, True])
def test_the_expert_succeeds_and_stays(name, anywhere):
    task = make_task(name, **(ANYWHERE[name] if anywhere else {}))
    done = [play(task, seed) for seed in range(6)]
    assert all(all(success[-10:]) for success in done)
    assert not all(success[0] for success in done)


def test_doing_nothing_leaves_the_block_where_it_lies():
    env = TASKS["fetch_push"].make(render_mode=None)
    for seed in range(5):
        env.reset(seed=seed)
        start = env.unwrapped.block
        assert np.abs(start[:2] - START).max() <= NOISE
        for _ in range(20):
            success = env.step(STILL)[4]["success"]
        assert not success
        np.testing.assert_allclose(env.unwrapped.block, start, atol=2e-3)


@pytest.mark.parametrize(("offset", "counts"), [(0.0, True), (0.049, True), (0.051, False)])
def test_the_block_counts_within_5_centimetres_of_the_spot(push, offset, counts):
    push.reset(seed=0)
    push.place(push.goal, on_table(np.array(SPOT) - (0, offset)))
    assert push.success() is counts
    assert measure(push).miss == pytest.approx(offset)


@BOTH
def test_pay_is_minus_the_distance(name):
    env = TASKS[name].make(render_mode=None).unwrapped
    env.reset(seed=1)
    for _ in range(5):
        observation, reward, *_ = env.step(expert(env))
        scene = measure(env)
        assert reward == pytest.approx(-(scene.miss if name == "fetch_push" else scene.reach))
        np.testing.assert_array_equal(observation[:3], scene.gripper)
        np.testing.assert_array_equal(observation[-3:], scene.goal)
        assert env.observation_space.contains(observation)


def test_the_gripper_starts_in_varied_places_and_the_ball_stays():
    env = TASKS["fetch_reach"].make(render_mode=None).unwrapped
    starts = []
    for seed in range(8):
        env.reset(seed=seed)
        np.testing.assert_allclose(env.goal, BALL)
        starts.append(env.gripper)
    assert (np.ptp(starts, axis=0) > 0.05).all()


@pytest.mark.parametrize("lift", [False, True])
def test_only_with_lift_do_actions_raise_the_pushing_gripper(lift):
    env = make_task("fetch_push", lift=lift).make(render_mode=None)
    env.reset(seed=0)
    for _ in range(5):
        env.step(np.array([0, -0.5, 1, 0], np.float32))
    assert bool(env.unwrapped.gripper[2] > BLOCK_HEIGHT + 0.05) is lift


def test_targets_out_of_reach_are_told():
    with pytest.raises(
        ValueError, match=r"target must lie between \[1.2, 0.64\] and \[1.48, 1.0\] .* got \[2.0, 0.8\]"
    ):
        make_task("fetch_push", target=(2.0, 0.8)).make()
    with pytest.raises(ValueError, match=r"got \[1.3, 0.8\]"):
        make_task("fetch_reach", target=(1.3, 0.8)).make()


def coloured(frame, channel):
    """Mask of pixels much redder (0) or bluer (2) than grey."""
    others = frame.astype(int).sum(axis=2) - frame[..., channel]
    return frame[..., channel] - others / 2 > 80


def test_the_picture_shows_block_and_spot_and_where_they_are(push):
    push.reset(seed=0)
    frame = push.render()
    block, spot = coloured(frame, 2), coloured(frame, 0)
    assert block.sum() > 15
    assert spot.sum() > 15
    assert np.nonzero(block)[1].mean() < np.nonzero(spot)[1].mean() - 8, "the spot is to the block's right"
    push.place(push.goal, push.goal)
    assert coloured(push.render(), 0).sum() < 0.9 * spot.sum(), "the block covers some of the spot"


def test_the_picture_shows_the_gripper(push):
    push.reset(seed=0)
    before = push.render().astype(int)
    for _ in range(4):
        push.step(np.array([0, -1, 0, 0], np.float32))
    assert (np.abs(push.render() - before).max(axis=2) > 40).mean() > 0.03


def test_sampled_blocks_lie_on_the_table_beside_the_fingers():
    env = TextGoalFetchPush()
    for _, scene in zip(range(60), sample(env, np.random.default_rng(0), True), strict=False):
        assert scene.block[2] == pytest.approx(BLOCK_HEIGHT)
        assert scene.gripper[2] > 0.48 or np.linalg.norm((scene.gripper - scene.block)[:2]) > APART


WITHOUT = """
import sys
sys.modules["gymnasium_robotics"] = None
import vrm.envs
from vrm.errors import MissingExtraError
for name in ("fetch_reach", "fetch_push"):
    try:
        vrm.envs.TASKS[name].make(render_mode=None)
    except MissingExtraError as error:
        print(error)
"""


def test_without_gymnasium_robotics_only_these_tasks_are_missing():
    done = subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert "The Fetch tasks needs gymnasium-robotics" in lines[0]
    assert "vrm[robotics]" in lines[0]


def test_nothing_is_printed_or_warned_when_the_simulation_is_loaded():
    code = "import vrm.envs; vrm.envs.TASKS['fetch_push'].make(render_mode=None).reset(seed=0)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
