"""Agents that learn from answers while they train: real SAC and DQN, a simulated teacher, a person who answers late."""

import csv
from functools import partial

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC
from tiny import TinyEncoder
from torch.testing import assert_close

from vrm.agents import evaluate, train
from vrm.agents.exploration import StateEntropy, reset_critic
from vrm.agents.preference_buffer import PreferenceReplayBuffer
from vrm.agents.preference_loop import PreferenceLoop
from vrm.agents.preference_settings import PreferenceSettings
from vrm.agents.question_book import QuestionBook
from vrm.agents.rollouts import make_envs
from vrm.agents.run import RunFolder
from vrm.agents.segment_store import SegmentStore
from vrm.agents.train import build
from vrm.data.comparisons import Answer, ComparisonError, Segments
from vrm.envs import make_task
from vrm.errors import UnknownNameError, UntaughtError
from vrm.label.human import HumanLabeller
from vrm.rewards import GoalReward
from vrm.rewards.preference import PreferenceReward
from vrm.rewards.synthetic_teacher import SyntheticTeacher
from vrm.wrappers.deferred import DeferredRewardCallback

OFF = {"learning_starts": 40, "train_freq": 4, "gradient_steps": 1, "batch_size": 16, "buffer_size": 240}
make_sac = partial(SAC, "MlpPolicy", policy_kwargs={"net_arch": [16]}, **OFF)
make_dqn = partial(DQN, "MlpPolicy", policy_kwargs={"net_arch": [16]}, **OFF)
RUN = {"n_envs": 2, "eval_every": 10_000, "checkpoint_every": 10_000, "video_every": 10_000, "eval_episodes": 2}
ASKING = PreferenceSettings(
    segment=5, queries_per_session=10, session_every=60, budget=25, unsupervised_steps=80, reset_updates=3,
    relabel_batch=50,
)  # fmt: skip


class Ties:
    """A labeller to whom all is one."""

    sees_frames, state_keys = False, ()

    def compare(self, first, second):
        return torch.full((len(first),), 0.5)


class Crash(RuntimeError):
    """Stands for a power cut."""


class Fragile(SyntheticTeacher):
    """Answers a number of sessions, then fails."""

    left = 1

    def compare(self, first, second):
        if not self.left:
            raise Crash
        self.left -= 1
        return super().compare(first, second)


@pytest.fixture(scope="module")
def encoder():
    return TinyEncoder()


@pytest.fixture(scope="module")
def task():
    return make_task("inverted_pendulum", episode_steps=20)


def learner(encoder, **settings):
    return PreferenceReward(encoder, hidden=[16], epochs=20, **settings)


def sessions(out):
    return list(csv.DictReader((out / "preferences" / "sessions.csv").read_text().splitlines()))


def loop_of(task, out, reward, labeller, make=make_sac, settings=ASKING):
    venv = make_envs(task, 2, 64)
    algo = build(make, venv, 0, PreferenceReplayBuffer)
    loop = PreferenceLoop(RunFolder(out), algo, reward, labeller, settings)
    return loop, algo


def learn(task, out, reward, labeller, steps, make=make_sac, settings=ASKING, resume=False):
    """What train does, without evaluations and films, which take their time."""
    loop, algo = loop_of(task, out, reward, labeller, make, settings)
    start = loop.run.load_checkpoint(algo) if resume else 0
    loop.begin(resume)
    try:
        callbacks = [DeferredRewardCallback(loop.queue), loop]
        algo.learn(steps - start, callback=callbacks, reset_num_timesteps=not start)
        loop.run.save_checkpoint(algo)
    finally:
        algo.get_env().close()
    return loop, algo


def loaded(task, out, reward, labeller, make=make_sac):
    loop, algo = loop_of(task, out, reward, labeller, make)
    loop.run.load_checkpoint(algo)
    algo.get_env().close()
    return loop, algo


@pytest.mark.parametrize("kind", ["features", "pixels"])
def test_every_reward_in_the_buffer_is_what_the_present_model_gives(task, encoder, tmp_path, kind):
    reward = learner(encoder, input=kind, members=2)
    loop, algo = learn(task, tmp_path, reward, SyntheticTeacher(), 280)
    buffer = algo.replay_buffer
    assert buffer.full  # what was overwritten was paid anew, too
    assert loop.queue.stamp == reward.stamp() == sessions(tmp_path)[-1]["stamp"]
    kept = torch.from_numpy(loop.store.kept).transpose(0, 1)
    if kind == "pixels":
        paid = reward(kept)
    else:
        clips = torch.zeros(*kept.shape[:2], 3, 1, 1, dtype=torch.uint8)
        with encoder.supply(clips, kept):
            paid = reward(clips)
    assert_close(torch.from_numpy(buffer.rewards), paid.T, atol=2e-5, rtol=0)
    assert np.ptp(buffer.rewards) > 0.01


def test_the_budget_is_kept_and_sessions_are_logged(task, encoder, tmp_path):
    train(
        task, learner(encoder), make_sac, tmp_path, total_steps=400, labeller=SyntheticTeacher(), preference=ASKING,
        **RUN,
    )  # fmt: skip
    rows = sessions(tmp_path)
    assert [int(float(row["asked"])) for row in rows] == [10, 10, 5]
    steps = [int(row["step"]) for row in rows]
    assert steps[0] >= 80
    assert all(np.diff(steps) >= 60)
    assert all(float(row["label_accuracy"]) in (1.0,) or row["label_accuracy"] == "nan" for row in rows)
    assert len({row["stamp"] for row in rows}) == 3
    book = QuestionBook(tmp_path / "preferences", SyntheticTeacher())
    assert len(book) == 25 == len(book.answers.read())
    assert book.data.first.dtype == torch.float16
    assert evaluate(task, learner(encoder), make_sac, tmp_path, episodes=1, size=64).reward.shape == (1, 20)
    log = next((tmp_path / "logs").glob("*/progress.csv")).read_text()
    assert "preference/label_accuracy" in log
    assert "preference/disagreement" in log


def test_a_killed_run_goes_on_with_answers_model_and_buffer(task, encoder, tmp_path):
    reward, teacher = learner(encoder), Fragile()
    with pytest.raises(Crash):
        learn(task, tmp_path, reward, teacher, 400)
    loop, algo = loaded(task, tmp_path, learner(encoder), teacher)
    assert loop.reward.stamp() == reward.stamp()
    assert loop.book.answered == loop.learned == 10
    assert not loop.exploring
    assert loop.store.count == algo.replay_buffer.pos == algo.num_timesteps // 2
    assert_close(algo.replay_buffer.rewards[: loop.store.count], loop.queue.pay(slice(0, loop.store.count)))
    teacher.left = 5
    learn(task, tmp_path, loop.reward, teacher, 400, resume=True)
    rows = sessions(tmp_path)
    assert [int(row["session"]) for row in rows] == [1, 2, 3]
    assert int(float(rows[-1]["answers"])) == 25


def test_a_checkpoint_holds_all_that_the_loop_knows(task, encoder, tmp_path):
    left, algo = learn(task, tmp_path, learner(encoder), SyntheticTeacher(), 350)
    found, again = loaded(task, tmp_path, learner(encoder), SyntheticTeacher())
    assert np.array_equal(again.replay_buffer.rewards, algo.replay_buffer.rewards)
    assert found.queue.stamp == left.queue.stamp
    assert (found.due, found.sessions, found.learned) == (left.due, left.sessions, left.learned)
    assert found.book.data.first.equal(left.book.data.first)
    assert found.book.data.labels.equal(left.book.data.labels)
    arrays, others = left.store.arrays(), found.store.arrays()
    assert np.array_equal(arrays["kept"], others["kept"])
    assert np.array_equal(arrays["values"], others["values"])
    assert int(arrays["next"]) == int(others["next"]) == again.replay_buffer.pos


def test_answers_newer_than_the_checkpoint_are_learned_at_once(task, encoder, tmp_path):
    teacher = SyntheticTeacher()
    learn(task, tmp_path, learner(encoder), teacher, 100)
    book = QuestionBook(tmp_path / "preferences", teacher)
    blind = Segments(state={"env_reward": torch.zeros(4, 5)})
    book.add(130, book.data.first[:4], book.data.second[:4], torch.ones(4), (blind, blind))
    loop, algo = learn(task, tmp_path, learner(encoder), teacher, 110, resume=True)
    assert loop.learned == 14
    assert loop.due == 190
    filled = algo.replay_buffer.pos
    assert_close(algo.replay_buffer.rewards[:filled], loop.queue.pay(slice(0, filled)), atol=2e-5, rtol=0)


def test_only_ties_keep_the_agent_exploring_until_the_budget_is_spent(task, encoder, tmp_path):
    with pytest.raises(ComparisonError, match=r"All 25 questions.*none of the 25 answers prefers one side"):
        learn(task, tmp_path, learner(encoder), Ties(), 400)
    assert [row["epochs"] for row in sessions(tmp_path)] == ["0.0"] * 3


def test_dqn_learns_from_answers_too(encoder, tmp_path):
    cartpole = make_task("cartpole", episode_steps=20)
    learn(cartpole, tmp_path, learner(encoder), SyntheticTeacher(), 200, make=make_dqn)
    assert len(sessions(tmp_path)) == 2


def test_people_may_answer_late_even_after_a_restart(task, encoder, tmp_path):
    person = HumanLabeller(tmp_path / "queries", wait=False)
    settings = PreferenceSettings(segment=3, queries_per_session=4, session_every=40, budget=4, unsupervised_steps=60)
    learn(task, tmp_path, learner(encoder), person, 80, settings=settings)
    assert [row["unanswered"] for row in sessions(tmp_path)] == ["4.0"]
    loop, _ = loaded(task, tmp_path, learner(encoder), person)
    assert loop.exploring
    assert loop.book.open_questions == 4
    pairs = [(f"{path.stem}-first.mp4", f"{path.stem}-second.mp4") for path in (tmp_path / "queries").glob("*.json")]
    answers = [Answer(*pair, label) for pair, label in zip(pairs, (1.0, 0.0, 1.0, 0.5), strict=False)]
    person.answers.append(answers)
    fresh = HumanLabeller(tmp_path / "queries", wait=False)
    loop, _ = learn(task, tmp_path, learner(encoder), fresh, 150, settings=settings, resume=True)
    assert not loop.exploring
    assert sessions(tmp_path)[-1]["late"] == f"{len(answers)}.0"
    again = QuestionBook(tmp_path / "preferences", fresh)
    assert again.answered == len(answers)
    assert not again.open_questions


def test_what_does_not_fit_is_refused_in_a_sentence(task, encoder, tmp_path):
    teacher = SyntheticTeacher()
    make_ppo = partial(PPO, "MlpPolicy", n_steps=10, batch_size=10)
    go = partial(train, task, total_steps=50, labeller=teacher, **RUN)
    with pytest.raises(ComparisonError, match="PPO is on-policy"):
        go(learner(encoder), make_ppo, tmp_path, preference=ASKING)
    with pytest.raises(UntaughtError, match="PreferenceReward has learned nothing"):
        train(task, learner(encoder), make_sac, tmp_path / "alone", total_steps=10)
    with pytest.raises(ComparisonError, match="not a GoalReward"):
        go(GoalReward(encoder, "a pole"), make_sac, tmp_path, preference=ASKING)
    with pytest.raises(ComparisonError, match="segment=21 is longer than the 20 steps"):
        go(learner(encoder), make_sac, tmp_path, preference=PreferenceSettings(segment=21))
    with pytest.raises(ComparisonError, match="budget must be a whole number of at least 1, got 0"):
        PreferenceSettings(budget=0)
    with pytest.raises(UnknownNameError, match="sampler"):
        PreferenceSettings(sampler="best")


def test_a_new_run_does_not_take_anothers_answers(task, encoder, tmp_path):
    learn(task, tmp_path, learner(encoder), SyntheticTeacher(), 100)
    with pytest.raises(ComparisonError, match="10 questions of another run"):
        learn(task, tmp_path, learner(encoder), SyntheticTeacher(), 100)


def test_pieces_never_reach_over_the_end_of_an_episode():
    store = SegmentStore(rows=10, envs=2, keys=("x",), recent=8, frames=True)
    frames = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    for step in range(17):
        dones = np.array([step % 5 == 4, False])
        row = store.add(frames + step, np.full((2, 1), step, np.float32), dones)
        store.keep([row], torch.full((1, 2, 1), float(step)))
    pieces = store.pieces(4)
    assert set(zip(pieces.starts.tolist(), pieces.envs.tolist(), strict=True)) == {
        (10, 0), (11, 0), *((start, 1) for start in range(9, 14)),
    }  # fmt: skip
    shown = store.segments(pieces, 4)
    expected = torch.from_numpy(pieces.starts)[:, None] + torch.arange(4)
    assert_close(shown.state["x"], expected.float())
    assert_close(shown.frames[:, :, 0, 0, 0].long(), expected)
    assert_close(store.seen(pieces, 4)[..., 0].long(), expected)
    store.cut()
    assert all(store.pieces(2).starts + 1 <= 16)
    store.add(frames, np.zeros((2, 1), np.float32), np.zeros(2))
    assert not any(store.pieces(2).starts + 1 == 17)


def test_new_states_are_paid_their_distance_over_its_deviation():
    explorer = StateEntropy(neighbours=1)
    others = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    paid = explorer.pay(others, others)
    assert_close(paid, torch.tensor([1.0, 1.0, 2.0, 7.0]) / torch.tensor([1.0, 1.0, 2.0, 7.0]).std(correction=0))
    explorer.pay(others * 2, others * 2)
    seen = np.array([1, 1, 2, 7, 2, 2, 4, 14])
    assert_close(explorer.seen, (8.0, seen.mean(), 8 * seen.var()), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("make", [make_sac, make_dqn])
def test_resetting_the_critic_forgets_it_and_leaves_the_actor(encoder, make):
    env = make_envs(make_task("cartpole" if make is make_dqn else "inverted_pendulum"), 2, 64)
    algo = make(env=env, seed=0)
    critic, target = (algo.q_net, algo.q_net_target) if make is make_dqn else (algo.critic, algo.critic_target)
    before = [p.clone() for p in critic.parameters()]
    actor = [p.clone() for p in algo.actor.parameters()] if make is make_sac else []
    reset_critic(algo)
    assert any(not torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(critic.parameters(), target.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(actor, algo.actor.parameters() if actor else [], strict=True))
    env.close()
