"""``vrm fit`` from demonstrations on disk to a reward that works at once, and what is said about held-out ones."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from tiny import TinyEncoder, make_cartpole

import vrm
from vrm.cli import main
from vrm.data import Demo, DemoError
from vrm.errors import UnknownNameError
from vrm.fit import cross_validate, score_demos
from vrm.fit.kinds import KINDS, OptionError, parse_options
from vrm.rewards import GoalImageReward, MatchingReward, PerceptualReward, ProgressReward
from vrm.video import write_video

QUICK = {
    "perceptual": ["steps=2"],
    "matching": ["matcher=sinkhorn"],
    "progress": ["steps=20", "objective=time"],
    "rank2reward": ["steps=20"],
    "rewind": ["steps=2", "width=16", "layers=1", "frames=4", "window=4"],
    "critic": ["steps=2", "width=16", "interval=2"],
    "goal_image": [],
}
TINY = [
    "agent.algorithm.learning_starts=40", "agent.algorithm.batch_size=16", "agent.algorithm.gradient_steps=1",
    "agent.algorithm.policy_kwargs.net_arch=[16]", "agent.n_envs=4", "eval_episodes=2", "task.episode_steps=20",
    "agent.algorithm.buffer_size=400", "agent.total_steps=64", "task=inverted_pendulum",
]  # fmt: skip


def crossing(frames, seed=0, backwards=False):
    """A bright block that crosses a dim picture and reddens what is behind it, ``(T, 3, 32, 32)``."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(3, 32, 32, generator=generator).mul(20).to(torch.uint8).repeat(frames, 1, 1, 1)
    for t in range(frames):
        left = round(24 * t / (frames - 1))
        pictures[t, 0, :, : left + 8] += 80
        pictures[t, :, 12:20, left : left + 8] = 200
    return pictures.flip(0) if backwards else pictures


def crossings(count=3, **options):
    return [Demo(crossing(12 + 3 * k, seed=k), f"crossing {k}", **options) for k in range(count)]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Three crossings of different length, and two that run backwards."""
    root = tmp_path_factory.mktemp("films")
    for k in range(3):
        write_video(root / "good" / f"crossing_{k}.mp4", crossing(12 + 6 * k, seed=k), fps=10)
    for k in range(2):
        write_video(root / "bad" / f"back_{k}.mp4", crossing(12, seed=9 + k, backwards=True), fps=10)
    return root


@pytest.fixture(scope="module")
def fitted(films):
    """One file of every kind."""
    for kind, options in QUICK.items():
        out = films / "out" / f"{kind}.safetensors"
        failed = ["--failed", str(films / "bad")] if kind == "goal_image" else []
        assert main(["fit", kind, str(films / "good"), "--out", str(out), "--text", "cross", *failed, *options]) == 0
    return films / "out"


def test_every_kind_leaves_a_reward_a_report_and_a_picture(fitted):
    assert set(QUICK) == set(KINDS)
    assert {path.name for path in fitted.iterdir()} == {
        f"{kind}{suffix}" for kind in KINDS for suffix in (".safetensors", ".json", ".png")
    }
    for kind in KINDS:
        told = json.loads((fitted / f"{kind}.json").read_text())
        assert [(demo["name"], demo["held_out"]) for demo in told["demos"]] == [
            (f"crossing_{k}", True) for k in range(3)
        ]
        assert told["folds"] == 3
        assert told["encoder"]["fingerprint"] == vrm.load_encoder("vrm-sim").fingerprint
        reward = vrm.load_reward(fitted / f"{kind}.safetensors")
        assert type(reward) is KINDS[kind]
        assert told["reward"]["class"] == type(reward).__name__


def test_fitted_rewards_score_videos_with_and_without_a_prompt(films, fitted, tmp_path):
    files = ",".join(str(fitted / f"{kind}.safetensors") for kind in KINDS)
    for name, prompt in (("plain", []), ("told", ["--prompt", "cross"])):
        arguments = [str(films / "good"), "--reward", files, "--no-cache", "--workers=0", "--out", str(tmp_path / name)]
        assert main(["score", *arguments, *prompt]) == 0


@pytest.mark.parametrize("kind", ["progress", "perceptual"])
def test_fitted_rewards_wrap_an_environment(fitted, kind):
    env = vrm.wrap(make_cartpole(5), reward=vrm.load_reward(fitted / f"{kind}.safetensors"))
    env.reset(seed=0)
    assert math.isfinite(env.step(env.action_space.sample())[1])
    env.close()


@pytest.mark.parametrize("kind", ["progress", "matching"])
def test_fitted_rewards_train_also_when_they_need_whole_episodes(fitted, tmp_path, kind):
    assert vrm.load_reward(fitted / "matching.safetensors").causal is False
    reward = f"reward={fitted / kind}.safetensors"
    assert main(["train", *TINY, reward, f"hydra.run.dir={tmp_path}"]) == 0


def test_failed_clips_are_told_apart(fitted):
    told = json.loads((fitted / "goal_image.json").read_text())
    assert told["failed"] == ["back_0", "back_1"]
    assert told["means"]["beats_final"] > 0.8


def test_one_demonstration_is_marked_as_training(films, tmp_path, capsys):
    source, out = films / "good" / "crossing_0.mp4", tmp_path / "one.safetensors"
    assert main(["fit", "goal_image", str(source), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "demonstration (training)" in shown
    assert "cannot be held out" in shown
    assert json.loads(out.with_suffix(".json").read_text())["demos"][0]["held_out"] is False


def test_a_failed_fit_leaves_the_old_file(films, tmp_path, capsys):
    out = tmp_path / "reward.safetensors"
    out.write_text("old")
    assert main(["fit", "perceptual", str(films / "good"), "--out", str(out), "steps=30"]) == 2
    message = capsys.readouterr().err
    assert "too short" in message
    assert message.count("\n") == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["progess", "good"], "Did you mean 'progress'"),
        (["goal_image", "empty"], "holds no videos"),
        (["goal_image", "still.mp4"], "shows the same picture in all"),
        (["goal_image", "good", "--fps=50"], "fewer than fps=50"),
        (["goal_image", "good", "--device=tpu"], "Device 'tpu' cannot be used"),
        (["progress", "good", "steps=0"], "must be positive, got steps=0"),
        (["progress", "good", "gama=0.5"], "Did you mean 'gamma'"),
        (["matching", "good", "matcher=sinkhor"], "Did you mean 'sinkhorn'"),
    ],
)
def test_bad_input_is_one_sentence(films, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(films)
    (films / "empty").mkdir(exist_ok=True)
    write_video("still.mp4", crossing(12)[:1].repeat(8, 1, 1, 1), fps=10)
    assert main(["fit", *arguments, "--out", "x.safetensors"]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not (films / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("kind", "argument", "error", "words"),
    [
        ("progress", "steps=many", OptionError, "must be a whole number, got 'many'"),
        ("progress", "lr={a", OptionError, "malformed"),
        ("perceptual", "joint=3", OptionError, "true or false"),
        ("rewind", "negatives=[1]", OptionError, "a list, each a word or null"),
        ("goal_image", "seed=3", UnknownNameError, "Unknown option of goal_image 'seed'"),
    ],
)
def test_options_are_checked_by_name_and_type(kind, argument, error, words):
    with pytest.raises(error, match=words.replace("[", r"\[")):
        parse_options(kind, [argument])


def test_options_are_read_as_yaml():
    given = parse_options("matching", ["matcher={name: sinkhorn, eps: 1e-2}", "max_frames=null", "alpha=3"])
    assert given == {"matcher": {"name": "sinkhorn", "eps": 0.01}, "max_frames": None, "alpha": 3}
    with pytest.raises(OptionError, match="twice"):
        parse_options("matching", ["alpha=1", "alpha=2"])


def test_each_demonstration_is_scored_by_a_reward_that_has_not_seen_it():
    seen = []

    def fit(encoder, demos, *, seed):
        seen.append({demo.name for demo in demos})
        return GoalImageReward.fit(encoder, demos, seed=seed)

    demos = crossings(11)
    held = cross_validate(fit, TinyEncoder(), demos, seed=1)
    assert held.folds == len(seen) == 5
    assert [score.name for score in held.scores] == [demo.name for demo in demos]
    assert all(sum(demo.name not in fold for fold in seen) == 1 for demo in demos)
    assert all(score.held_out for score in held.scores)


def test_held_out_scores_are_those_of_the_reward():
    encoder, demos = TinyEncoder(), crossings(3)
    fit = partial(ProgressReward.fit, objective="time", steps=60, lr=1e-2)
    held = cross_validate(fit, encoder, demos, failed=[Demo(crossing(12, backwards=True), "back")])
    by_hand = fit(encoder, demos[:2], seed=0)(demos[2].frames[None])[0]
    np.testing.assert_allclose(held.scores[2].rewards, by_hand.numpy(), atol=1e-5)
    assert held.mean("voc") > 0.8
    assert held.mean("voc_reversed") == pytest.approx(-held.mean("voc"))
    assert held.mean("beats_final") == 1


def test_true_stages_are_compared_with_step_rewards():
    demos = [Demo(d.frames, d.name, stages=(np.arange(len(d)) >= len(d) // 2).astype(int)) for d in crossings(3)]
    encoder = TinyEncoder()
    held = cross_validate(partial(PerceptualReward.fit, steps=2), encoder, demos)
    assert 0 < held.mean("step_overlap") <= 1
    three = PerceptualReward.fit(encoder, demos, steps=3)
    assert all(math.isnan(score.step_overlap) for score in score_demos(three, encoder, demos))


def test_nothing_is_held_out_of_one_demonstration():
    with pytest.raises(DemoError, match="Nothing can be held out of 1"):
        cross_validate(MatchingReward.fit, TinyEncoder(), crossings(1))


def test_goal_images_come_from_demonstrations_that_do_not_fail():
    encoder, demos = TinyEncoder(), crossings(2)
    reward = GoalImageReward.fit(encoder, demos, metric="l2")
    last = torch.cat([encoder.encode_image(demo.frames[-1:]) for demo in demos]).mean(dim=0)
    torch.testing.assert_close(reward.goal, last)
    with pytest.raises(DemoError, match="ends without success"):
        GoalImageReward.fit(encoder, crossings(2, success=False))
