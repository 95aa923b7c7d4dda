"""Progress learned from demonstrations, and Rank2Reward's classifier that watches the agent."""

import math

import numpy as np
import pytest
import torch
from contract import check_reward
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv
from tiny import TinyEncoder, make_cartpole, random_clips

import vrm
from vrm import load_reward
from vrm.agents.online_reward import OnlineRewardCallback
from vrm.data.demos import Demo, DemoError
from vrm.errors import PromptError, UnknownNameError
from vrm.metrics import spearman
from vrm.rewards.discriminator import Rank2Reward, gradient_penalty, rank2reward
from vrm.rewards.goal import GoalReward
from vrm.rewards.progress import FeatureHead, ProgressReward
from vrm.video import read_video, write_video
from vrm.wrappers import DeferredReplayBuffer, FrameCapture, VecRewardWrapper, attach_reward

OBJECTIVES = ("vip", "tcc", "rank", "time")
QUICK = {"steps": 150, "lr": 3e-3}


def crossing(frames, seed=0):
    """A bright block that crosses a dim picture from left to right, which reddens behind it, ``(T, 3, 32, 32)``."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(3, 32, 32, generator=generator).mul(20).to(torch.uint8).repeat(frames, 1, 1, 1)
    row = int(torch.randint(11, 14, (), generator=generator))
    for t in range(frames):
        left = round(24 * t / (frames - 1))
        pictures[t, 0, :, : left + 8] += 80
        pictures[t, :, row : row + 8, left : left + 8] = 200
    return pictures


def crossings(count=4, **options):
    return [Demo(crossing(12 + 5 * k, seed=k), name=f"crossing {k}", **options) for k in range(count)]


def voc(reward, frames):
    with torch.no_grad():
        return spearman(reward(frames[None])[0].numpy(), np.arange(len(frames)))


@pytest.fixture(scope="module")
def fitted(encoder):
    return {o: ProgressReward.fit(encoder, crossings(), objective=o, **QUICK) for o in OBJECTIVES}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_progress_keeps_the_contract(objective, fitted, encoder, tmp_path):
    check_reward(lambda e: fitted[objective], encoder, tmp_path)


@pytest.mark.parametrize("form", ["mask", "log", "ratio"])
def test_rank2reward_keeps_the_contract(form, fitted, encoder, tmp_path):
    def build(e):
        reward = Rank2Reward(fitted["time"], e.encode_image(crossing(12)), form=form, alpha=0.5, capacity=40)
        reward.observe(random_clips(), steps=5)
        return reward

    check_reward(build, encoder, tmp_path)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_reward_rises_along_a_crossing_that_was_never_seen_and_falls_along_its_reverse(objective, fitted):
    unseen, least = crossing(25, seed=9), 0.5 if objective == "vip" else 0.8
    assert voc(fitted[objective], unseen) > least
    assert voc(fitted[objective], unseen.flip(0)) < -least


def test_bins_and_the_other_cycle_losses_learn_too(encoder):
    options = [("time", {"size": 10})]
    options += [("tcc", {"loss": loss, "temperature": 1.0}) for loss in ("classification", "regression_mse_var")]
    for objective, more in options:
        reward = ProgressReward.fit(encoder, crossings(), objective=objective, **QUICK, **more)
        assert voc(reward, crossing(25, seed=9)) > 0.5, (objective, more)


def test_rank_starts_at_one_half_and_tcc_one_unit_from_the_goal(fitted, encoder):
    starts = torch.stack([crossing(12 + 5 * k, seed=k)[0] for k in range(4)])
    features = encoder.encode_image(starts)
    utilities = torch.logit(fitted["rank"].progress(features))
    assert float(utilities.mean()) == pytest.approx(0, abs=1e-4)
    assert float(fitted["tcc"].progress(features).mean()) == pytest.approx(-1, abs=1e-4)


def test_a_fit_is_the_same_for_the_same_seed_and_leaves_the_global_generator_alone(encoder):
    before = torch.random.get_rng_state()
    with torch.no_grad():
        one, same, other = (
            ProgressReward.fit(encoder, crossings(), objective="time", steps=20, seed=seed) for seed in (3, 3, 4)
        )
    assert torch.equal(torch.random.get_rng_state(), before)
    clips = random_clips()
    assert torch.equal(one(clips), same(clips))
    assert not torch.equal(one(clips), other(clips))


def test_a_fit_tells_its_curves_and_keeps_the_best_step_of_what_was_held_out(encoder):
    found = ProgressReward.fit(encoder, crossings(5), objective="time", steps=400, lr=3e-2).found
    held = {int(k.rsplit("_", 1)[1]): v for k, v in found.figures.items() if k.startswith("held_out_loss_")}
    assert len(held) == 20
    assert found.figures["best_step"] == min(held, key=held.__getitem__)
    assert found.figures["best_step"] < 400, "with this rate it overfits"
    assert {"training_loss_400", "held_out_voc", "training_voc"} <= found.figures.keys()
    assert all(math.isfinite(v) for v in found.figures.values())
    assert "4 demonstrations, 1 held out" in found.notes[0]


@pytest.mark.parametrize("objective", ["vip", "rank", "time"])
def test_one_demonstration_is_enough_where_clips_are_not_compared(objective, encoder):
    reward = ProgressReward.fit(encoder, crossings(1), objective=objective, **QUICK)
    assert "none held out" in reward.found.notes[0]
    assert voc(reward, crossing(12)) > 0.9


def test_demonstrations_that_teach_nothing_are_refused(encoder):
    with pytest.raises(DemoError, match=r"tcc.* needs at least 2"):
        ProgressReward.fit(encoder, crossings(1), objective="tcc")
    with pytest.raises(DemoError, match="same picture"):
        ProgressReward.fit(encoder, [Demo(crossing(5)[:1].repeat(5, 1, 1, 1), "still")])
    with pytest.raises(DemoError, match="'crossing 0' ends without success"):
        ProgressReward.fit(encoder, crossings(success=False))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"objective": "vips"}, UnknownNameError, "Did you mean 'vip'"),
        ({"objective": "vip", "temperature": 1}, UnknownNameError, "option of objective 'vip'"),
        ({"objective": "tcc", "loss": "mse"}, UnknownNameError, "regression_mse"),
        ({"objective": "tcc", "partners": None}, UnknownNameError, "partners"),
        ({"objective": "tcc", "batch": 1}, ValueError, "at least 2"),
        ({"gamma": 1}, ValueError, "between 0 and 1"),
        ({"objective": "rank", "weight": 0}, ValueError, "positive"),
        ({"objective": "rank", "size": 3}, ValueError, "one output"),
        ({"steps": 0}, ValueError, "steps=0"),
        ({"lr": float("nan")}, ValueError, "lr=nan"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_encoded(options, error, message):
    encoder = TinyEncoder()
    with pytest.raises(error, match=message):
        ProgressReward.fit(encoder, crossings(), **options)
    assert not encoder.calls


def test_a_text_goal_is_refused(fitted):
    with pytest.raises(PromptError, match="ProgressReward reads no text"):
        fitted["vip"](random_clips(), goals=["a block on the right"] * 4)


def test_parts_that_do_not_fit_are_refused(encoder):
    with pytest.raises(ValueError, match="needs a goal"):
        ProgressReward(encoder, FeatureHead([16, 4]), "vip")
    with pytest.raises(ValueError, match="has no goal"):
        ProgressReward(encoder, FeatureHead([16, 1]), "time", goal=torch.zeros(1))
    with pytest.raises(ValueError, match="reads 8 features"):
        ProgressReward(encoder, FeatureHead([8, 1]), "time")


def test_videos_teach_the_bundled_encoder_progress(tmp_path):
    """From files to a saved reward: demonstrations of different length, one frame size, real codec."""
    encoder = vrm.load_encoder("vrm-sim")
    paths = [write_video(tmp_path / f"{k}.mp4", crossing(8 + 3 * k, seed=k)) for k in range(4)]
    demos = [Demo(read_video(path), path.stem) for path in paths]
    ProgressReward.fit(encoder, demos, objective="time", steps=100, lr=1e-3).save(tmp_path / "reward.safetensors")
    reward = load_reward(tmp_path / "reward.safetensors", encoder)
    assert voc(reward, crossing(20, seed=9)) > 0.8


def test_the_published_forms_of_rank2reward():
    p, logit = torch.tensor([0.5, 0.9, 0.0]), torch.tensor([0.0, 2.0, -3.0])
    d = torch.sigmoid(logit)
    torch.testing.assert_close(rank2reward(p, logit, "mask"), p * d)
    floored = p.clamp(min=1e-6)
    torch.testing.assert_close(rank2reward(p, logit, "log", 0.4), floored.log() + 0.4 * d.log())
    ratio = floored.log() + 0.4 * (d.log() - (1 - d).log())
    torch.testing.assert_close(rank2reward(p, logit, "ratio", 0.4), ratio)
    with pytest.raises(UnknownNameError, match="Did you mean 'mask'"):
        rank2reward(p, logit, "masks")


def test_gradient_penalty_is_one_sided():
    weight = torch.tensor([3.0, 4.0])
    points = torch.zeros(6, 2)
    assert float(gradient_penalty(lambda x: x @ weight, points)) == pytest.approx(16)
    assert float(gradient_penalty(lambda x: x @ weight / 10, points)) == 0


@pytest.mark.parametrize("options", [{}, {"mixup": False}, {"penalty": 0.0}])
def test_what_the_agent_does_pays_less_once_it_was_observed(options, fitted, encoder):
    """Frames that fool the ranker: the end of a crossing in a picture that no demonstration has."""
    demos = crossings()
    experts = torch.cat([encoder.encode_image(demo.frames) for demo in demos])
    reward = Rank2Reward(fitted["time"], experts, lr=3e-3, **options)
    fooling = 255 - crossing(20, seed=5)[None]
    demo = demos[0].frames[None]
    assert torch.equal(reward(fooling), reward.terms(fooling)["progress"] / 2), "before it has seen anything"
    before, demo_before = float(reward(fooling).mean()), float(reward(demo).mean())
    for _ in range(3):
        told = reward.observe(fooling)
    assert set(told) == {"loss", "expert_probability", "agent_probability", "penalty"}
    assert told["expert_probability"] > told["agent_probability"] + 0.2
    assert float(reward(fooling).mean()) < before
    assert float(reward(demo).mean()) > demo_before


def test_the_newest_frames_are_kept_and_saved(fitted, encoder, tmp_path):
    reward = Rank2Reward(fitted["rank"], encoder.encode_image(crossing(12)), capacity=10)
    features = encoder.encode_image(random_clips(batch=5, frames=5).flatten(0, 1))
    reward.observe(features[:8], steps=1)
    reward.observe(features[8:13], steps=1)
    assert torch.equal(reward.agents.sort(0).values, features[3:13].sort(0).values)
    reward.observe(features, steps=1)  # more than there is room for
    assert torch.equal(reward.agents.sort(0).values, features[-10:].sort(0).values)
    reward.save(tmp_path / "reward.safetensors")
    again = load_reward(tmp_path / "reward.safetensors", encoder)
    assert torch.equal(again.agents, reward.agents)
    assert int(again.seen) == 38
    again.observe(features[:3], steps=2)  # goes on where it was


def test_frames_and_their_features_are_observed_alike(fitted, encoder):
    clips = random_clips()
    told = []
    for agent in (clips, clips.flatten(0, 1), encoder.encode_image(clips.flatten(0, 1))):
        reward = Rank2Reward(fitted["time"], encoder.encode_image(crossing(12)))
        told.append(reward.observe(agent, steps=3))
    assert told[0] == told[1] == told[2]


def test_a_ranker_that_measures_distance_and_wrong_features_are_refused(fitted, encoder):
    with pytest.raises(ValueError, match="measures distances"):
        Rank2Reward(fitted["vip"], torch.zeros(3, 16))
    with pytest.raises(ValueError, match=r"\(N, 16\)"):
        Rank2Reward(fitted["time"], torch.zeros(3, 8))
    with pytest.raises(ValueError, match=r"\(N, 16\)"):
        Rank2Reward(fitted["time"], torch.zeros(3, 16)).observe(torch.zeros(3, 8))
    with pytest.raises(ValueError, match="capacity=0"):
        Rank2Reward(fitted["time"], torch.zeros(3, 16), capacity=0)


def test_fitting_rank2reward_fits_its_ranker(encoder):
    reward = Rank2Reward.fit(encoder, crossings(), steps=50, form="ratio", capacity=30)
    assert (reward.ranker.objective, reward.form, reward.capacity) == ("time", "ratio", 30)
    assert len(reward.experts) == sum(len(demo) for demo in crossings())
    assert reward.found.figures["best_step"] > 0


class Listener(GoalReward):
    """A reward that keeps what it is shown."""

    shown: list[torch.Tensor]

    def observe(self, agent):
        self.shown.append(agent)
        return {"shown": float(len(agent))}


@pytest.mark.parametrize("kind", ["rollout", "replay", "stepwise"])
def test_training_shows_the_agents_frames_to_the_reward(kind, encoder):
    listener = Listener(encoder, "a pole standing upright")
    listener.shown = []
    watch = OnlineRewardCallback(listener, every=20, frames=8)
    venv = DummyVecEnv([lambda: FrameCapture(make_cartpole(7, continuous=kind == "replay"))] * 2)
    small = {"seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [8]}}
    if kind == "replay":
        options = {"replay_buffer_class": DeferredReplayBuffer, "buffer_size": 50, "learning_starts": 20}
        algo = SAC("MlpPolicy", venv, batch_size=8, **options, **small)
    else:
        venv = VecRewardWrapper(venv, listener, keep_frame=True) if kind == "stepwise" else venv
        algo = PPO("MlpPolicy", venv, n_steps=8, batch_size=16, n_epochs=1, **small)
    algo.learn(64, callback=[watch] if kind == "stepwise" else [watch, attach_reward(algo, listener)])
    assert len(listener.shown) == 3
    assert all(tuple(frames.shape) == (8, 3, 150, 180) for frames in listener.shown)
    assert all(len(frames.unique(dim=0)) > 1 for frames in listener.shown)


def test_the_callback_says_what_is_missing():
    with pytest.raises(ValueError, match="every=0"):
        OnlineRewardCallback(Listener(TinyEncoder(), "a pole"), every=0)
