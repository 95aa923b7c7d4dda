"""SPO's win rate: what it is, when its queue changes, how it trains, and what it can do that no scalar reward can."""

from __future__ import annotations

import json
import math
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from contract import check_reward
from hydra.utils import instantiate
from omegaconf import OmegaConf
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv
from tiny import GOAL, make_cartpole, random_clips

from vrm import FrameCapture, load_reward
from vrm.data.comparisons import ComparisonError, Segments
from vrm.errors import CheckpointError, PromptError, UnknownNameError
from vrm.rewards import GoalReward
from vrm.rewards.heron import HeronLabeller
from vrm.rewards.synthetic_teacher import SyntheticTeacher
from vrm.rewards.win_rate import WinRateReward, same_length
from vrm.wrappers import DeferredReplayBuffer, attach_reward
from vrm.wrappers.sb3 import VecRewardWrapper

CONFIG = Path(__file__).parents[2] / "configs" / "reward" / "win_rate.yaml"
BLANK = torch.zeros(1, 4, 3, 1, 1, dtype=torch.uint8)


class RockPaperScissors:
    """Prefers 1 to 0, 2 to 1 and 0 to 2, whatever is done in all frames of a segment."""

    sees_frames = False
    state_keys = ("move",)

    def compare(self, first, second):
        ahead = (first.state["move"][:, 0] - second.state["move"][:, 0]) % 3
        return torch.tensor([0.5, 1.0, 0.0])[ahead.long()]


class Brightness:
    """Prefers the brighter segment, shows a bias for what comes first, and leaves black ones unanswered."""

    sees_frames = True
    state_keys = ()

    def __init__(self, bias=0.0):
        self.bias, self.lengths = bias, []

    def compare(self, first, second):
        self.lengths.append(first.length)
        one, other = (side.frames.float().mean(dim=(1, 2, 3, 4)) for side in (first, second))
        answer = (torch.sigmoid((one - other) / 10) + self.bias).clamp(0, 1)
        return answer.masked_fill((one == 0) | (other == 0), math.nan)


def moves(*chosen, frames=4):
    return {"move": torch.tensor(chosen, dtype=torch.float32)[:, None].expand(-1, frames).clone()}


def clips(count, frames=4):
    return torch.zeros(count, frames, 3, 1, 1, dtype=torch.uint8)


def grey(*levels, frames=4):
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None, None].expand(-1, frames, 3, 4, 4).clone()


def filled(labeller, state, **settings):
    reward = WinRateReward(labeller, **settings)
    count, frames = next(iter(state.values())).shape
    reward.playing().terms(clips(count, frames), state=state)
    return reward


def with_teacher(encoder):
    state = {"env_reward": torch.rand(6, 5, generator=torch.Generator().manual_seed(4))}
    return filled(SyntheticTeacher(), state)


def with_heron(encoder):
    labeller = HeronLabeller(["similar", "env_reward"], {"similar": GoalReward(encoder, GOAL)})
    reward = WinRateReward(labeller, pay="end", frames=3)
    before = random_clips(batch=6, seed=5)
    labeller.calibrate(Segments((before * 255).byte(), {"env_reward": torch.zeros(6, 5)}))
    reward.playing().terms(before, state={"env_reward": torch.rand(6, 5)})
    return reward


@pytest.mark.parametrize("factory", [with_teacher, with_heron, lambda e: WinRateReward(SyntheticTeacher())])
def test_contract(factory, encoder, tmp_path):
    check_reward(factory, encoder, tmp_path)


def test_the_rate_is_the_mean_over_the_queue_and_is_paid_once():
    reward = filled(RockPaperScissors(), moves(0, 0, 0, 2))
    state = moves(1, 0, 2)
    assert reward.score(clips(3), state=state).tolist() == [0.75, 0.625, 0.125]
    spread = reward(clips(3), state=state)
    torch.testing.assert_close(spread.sum(dim=1), torch.tensor([0.75, 0.625, 0.125]))
    assert (spread[:, 0] == 0).all()
    ended = filled(RockPaperScissors(), moves(0, 0, 0, 2), pay="end", total=10.0)(clips(3), state=state)
    assert ended[0].tolist() == [0.0, 0.0, 0.0, 7.5]


def test_only_playing_changes_the_queue_which_is_bounded_and_forgets_the_oldest():
    reward = WinRateReward(RockPaperScissors(), queue=3)
    player = reward.playing()
    assert player.score(clips(2), state=moves(0, 0)).tolist() == [0.5, 0.5]
    reward.score(clips(2), state=moves(1, 1))
    assert len(reward.queue) == len(player.queue) == 2
    player.score(clips(3), state=moves(1, 1, 1))
    assert len(reward.queue) == 3
    assert reward.queue.segments().state["move"][:, 0].tolist() == [1, 1, 1]


def test_a_bias_for_what_comes_first_cancels_when_both_orders_are_asked():
    rates = {}
    for both_orders, bias in product((True, False), (0.0, 0.1)):
        reward = WinRateReward(Brightness(bias), both_orders=both_orders)
        reward.playing().score(grey(60, 80))
        rates[both_orders, bias] = reward.score(grey(70)).item()
    assert rates[True, 0.1] == pytest.approx(rates[True, 0.0], abs=1e-6)
    assert rates[False, 0.1] == pytest.approx(rates[True, 0.0] + 0.1, abs=1e-6)


def test_unanswered_questions_do_not_count():
    reward = WinRateReward(Brightness())
    reward.playing().score(grey(0, 10, 0))
    assert reward.score(grey(200)).item() > 0.99
    assert reward.score(grey(0)).item() == 0.5


def test_frames_of_long_episodes_are_thinned_and_those_of_short_ones_repeated():
    labeller = Brightness()
    reward = WinRateReward(labeller, frames=5)
    reward.playing().score(grey(60, frames=40))
    reward.score(grey(70, frames=3))
    assert set(labeller.lengths) == {5}
    assert reward.queue.seen.shape == (1, 5, 3, 4, 4)


def test_an_episode_that_ended_early_earns_nothing_more_and_stays_as_it_is():
    short = Segments(state={"env_reward": torch.tensor([[0.0, 1.0]]), "height": torch.tensor([[0.0, 2.0]])})
    long = Segments(state={"env_reward": torch.zeros(2, 4), "height": torch.zeros(2, 4)})
    grown, same = same_length(short, long)
    assert grown.state["env_reward"].tolist() == [[0, 1, 0, 0]]
    assert grown.state["height"].tolist() == [[0, 2, 2, 2]]
    assert same.length == 4
    reward = filled(SyntheticTeacher(), {"env_reward": torch.ones(3, 4)})
    reward.playing().score(clips(1, 8), state={"env_reward": torch.ones(1, 8)})
    assert reward.score(clips(1, 6), state={"env_reward": torch.ones(1, 6)}).item() == 0.75
    assert reward.queue.told.shape == (1, 4, 8)


def test_where_labels_go_round_win_rates_are_equal_and_a_scalar_reward_must_order():
    """Rock, paper and scissors: questions come as often as an agent that favours rock meets them."""
    reward = filled(RockPaperScissors(), moves(*[0, 1, 2] * 4))
    rates = reward.score(clips(3), state=moves(0, 1, 2))
    torch.testing.assert_close(rates, torch.full((3,), 0.5))

    asked = torch.tensor([[1, 0]] * 6 + [[0, 2]] * 3 + [[2, 1]])  # winner first
    values = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.LBFGS([values], max_iter=200)

    def loss():
        optimiser.zero_grad()
        found = -torch.nn.functional.logsigmoid(values[asked[:, 0]] - values[asked[:, 1]]).mean()
        found.backward()
        return found

    optimiser.step(loss)
    fitted = values.detach()
    gaps = fitted.sort().values.diff()
    assert gaps.min() > 0.1  # a strict order, of which there is none to find
    wins = torch.tensor([[1, 0], [0, 2], [2, 1]])
    assert int((fitted[wins[:, 0]] > fitted[wins[:, 1]]).sum()) == 2  # the third answer is contradicted


def test_against_a_policy_that_favours_one_behaviour_its_best_answer_wins_most():
    reward = filled(RockPaperScissors(), moves(0, 0, 0, 1, 2))
    rates = reward.score(clips(3), state=moves(0, 1, 2))
    assert rates.argmax() == 1


def test_the_queue_is_saved_and_a_labeller_that_cannot_be_is_attached_again(tmp_path):
    reward = filled(RockPaperScissors(), moves(0, 1, 1))
    reward.save(tmp_path / "spo.safetensors")
    again = load_reward(tmp_path / "spo.safetensors")
    assert again.state_keys == ("move",)
    with pytest.raises(CheckpointError, match="saved without its labeller"):
        again.score(clips(1), state=moves(2))
    assert again.attach(RockPaperScissors()).score(clips(1), state=moves(2)).item() == pytest.approx(2 / 3)
    with pytest.raises(ComparisonError, match=r"reads state \['env_reward'\]"):
        again.attach(SyntheticTeacher())


@pytest.mark.parametrize("name", ["os:system", "vrm.rewards.goal:GoalReward", "vrm.nowhere:X", "vrm..x:Y"])
def test_a_file_cannot_name_anything_but_labellers(name, tmp_path):
    config = json.loads(json.dumps(filled(SyntheticTeacher(), {"env_reward": torch.ones(1, 2)}).config()))
    config["labeller"]["class"] = name
    with pytest.raises(CheckpointError, match="none that this library knows"):
        WinRateReward.from_config(config)


def test_sac_learns_from_episodes_that_are_compared_when_they_end():
    reward = WinRateReward(SyntheticTeacher(), queue=4, total=20.0)
    venv = DummyVecEnv([lambda: FrameCapture(make_cartpole(20, continuous=True))] * 2)
    algo = SAC(
        "MlpPolicy", venv, replay_buffer_class=DeferredReplayBuffer, buffer_size=400, learning_starts=30, seed=0,
        batch_size=16, policy_kwargs={"net_arch": [8]},
    )  # fmt: skip
    callback = attach_reward(algo, reward.playing())
    algo.learn(120, callback=callback)
    assert len(reward.queue) == 4
    paid = algo.replay_buffer.rewards[: algo.replay_buffer.pos]
    known = paid[~torch.tensor(paid).isnan().numpy()]
    assert len(known) > 40
    assert len(set(callback.queue.episode_sums)) > 1
    assert all(0 <= total <= 20.001 for total in callback.queue.episode_sums)
    venv.close()


def test_a_vector_wrapper_pays_it_at_the_end_and_leaves_the_queue_alone():
    reward = filled(SyntheticTeacher(), {"env_reward": torch.tensor([[0.0, 1, 1], [0, 1, 1]])})
    venv = VecRewardWrapper(
        DummyVecEnv([lambda: FrameCapture(make_cartpole(5, continuous=True))]), reward, mode="episode_end"
    )
    venv.seed(0)
    venv.reset()
    paid = [float(venv.step([[0.0]])[1][0]) for _ in range(5)]
    assert paid[:4] == [0, 0, 0, 0]
    assert paid[4] == pytest.approx(1.0)
    assert len(reward.queue) == 2
    venv.close()


@pytest.mark.parametrize("settings", [{"queue": 0}, {"frames": 0}, {"total": 0}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(ComparisonError, match="must be at least 1 and total above 0"):
        WinRateReward(RockPaperScissors(), **settings)


def test_wrong_calls_are_sentences():
    with pytest.raises(UnknownNameError, match="Unknown pay 'never'"):
        WinRateReward(RockPaperScissors(), pay="never")
    reward = WinRateReward(Brightness())
    with pytest.raises(PromptError, match="reads no text"):
        reward.score(grey(1), ["a sentence"])
    reward.playing().score(grey(1))
    with pytest.raises(ComparisonError, match="frames of \\(4, 4\\) pixels"):
        reward.playing().score(torch.zeros(1, 4, 3, 8, 8, dtype=torch.uint8))


def test_the_config_file_builds_it_around_any_labeller(encoder):
    labeller = {"_target_": "vrm.rewards.heron.HeronLabeller.of", "_partial_": True, "factors": ["env_reward"]}
    config = OmegaConf.merge({"labeller": labeller}, {"reward": OmegaConf.load(CONFIG)})
    made = instantiate(OmegaConf.to_container(config, resolve=True)["reward"])
    assert isinstance(made, partial)
    reward = made(encoder)
    assert isinstance(reward.labeller, HeronLabeller)
    assert (reward.queue.size, reward.total, reward.pay) == (32, 100.0, "spread")
