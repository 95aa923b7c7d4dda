"""A whole small tuning: files, weights that load, resuming, the guard, and videos to start from."""

import json
import os
import signal
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from tiny_generator import PROMPTS, tiny_wan

from vrm.diffusion.aligners.base import Training
from vrm.diffusion.aligners.reward_gradient import RewardGradient
from vrm.diffusion.finetune import FinetuneSettings, GuardSettings, Prompts, Rewards, finetune, load_tuned
from vrm.diffusion.finetune.command import finetune_command, second_group
from vrm.diffusion.finetune.state import read_state, write_state
from vrm.diffusion.finetune.videos import draw_captioned, read_captioned
from vrm.errors import CheckpointError, UnknownNameError
from vrm.rewards import ContrastiveGoalReward, GoalReward, Sum
from vrm.scoring.inputs import InputError
from vrm.video import read_video, write_video

torch.set_num_threads(1)

TRAIN, HELD_OUT = PROMPTS, ["a humanoid runs", "a pole falls"]
SETTINGS = {"batch": 2, "eval_every": 2, "checkpoint_every": 2, "film_every": 4, "scales": ()}


def tune(encoder, out, generator=None, judge=None, make=None, resume=False, **settings):
    make = make or partial(RewardGradient, training=Training(lr=3e-3, ema=0.8, warmup=3, seed=1))
    reward = GoalReward(encoder, "the prompt")
    judge = judge or ContrastiveGoalReward(encoder, "the prompt", "noise", low=-1, high=1)
    made = FinetuneSettings(**{**SETTINGS, **settings})
    generator = generator or tiny_wan()
    rewards, prompts = Rewards(reward, judge, encoder), Prompts(TRAIN, HELD_OUT)
    return finetune(generator, make, rewards, prompts, out, made, resume=resume)


class Interrupted(RewardGradient):
    """Gets Ctrl-C in the middle of its third update."""

    def update(self, batch):
        if self.updates == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return super().update(batch)


def test_a_run_leaves_weights_tables_films_and_pictures(encoder, tmp_path):
    generator = tiny_wan()
    summary = tune(encoder, tmp_path, generator, steps=4, scales=(0.5, 1.0))
    for name in ("guard.png", "before_after.png", "tradeoff.png", "samples/step_000000.png", "samples/step_000004.png"):
        assert (tmp_path / name).stat().st_size > 3000
    assert len(read_video(tmp_path / "samples" / "step_000004.mp4")) == generator.defaults.frames
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert [verdict["step"] for verdict in summary["verdicts"]] == [0, 2, 4]
    assert summary["last"]["velocity_distance"] > summary["before"]["velocity_distance"] == 0
    assert summary["last"]["trained"] > summary["before"]["trained"]
    rows = (tmp_path / "tradeoff.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["scale", "0", "0.5", "1"]
    assert float(rows[1].split(",")[1]) == pytest.approx(summary["before"]["trained"], abs=1e-4)
    header = (tmp_path / "logs" / "from_000000000" / "progress.csv").read_text().splitlines()[0]
    assert {"loss", "reward/trained", "grad_norm", "nfe", "reward_calls", "decodes"} <= set(header.split(","))


def test_tuned_weights_load_into_a_fresh_generator_and_scale(encoder, tmp_path):
    tuned = tiny_wan()
    tune(encoder, tmp_path, tuned, make=partial(RewardGradient, training=Training(lr=3e-3)), steps=2)
    loaded = load_tuned(tmp_path, "last", tiny_wan())
    assert torch.equal(loaded.sample(HELD_OUT, seed=5), tuned.sample(HELD_OUT, seed=5))
    base = load_tuned(tmp_path / "last", generator=tiny_wan(), scale=0.0)
    assert torch.equal(base.sample(HELD_OUT, seed=5), tiny_wan().sample(HELD_OUT, seed=5))
    with pytest.raises(CheckpointError, match="no tuned weights"):
        load_tuned(tmp_path / "logs", generator=tiny_wan())


def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(encoder, tmp_path):
    training = Training(lr=3e-3, ema=0.8, warmup=3, seed=1)
    whole = tune(encoder, tmp_path / "whole", steps=5)
    with pytest.raises(KeyboardInterrupt):
        tune(encoder, tmp_path / "cut", make=partial(Interrupted, training=training), steps=5)
    assert [path.name for path in sorted((tmp_path / "cut" / "checkpoints").iterdir())] == ["000000002", "000000003"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = tune(encoder, tmp_path / "cut", steps=5, resume=True)
    assert resumed == whole
    for name in ("best", "last"):
        first, second = (load_file(tmp_path / run / name / "lora.safetensors") for run in ("whole", "cut"))
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert (tmp_path / "cut" / "evaluations.csv").read_text() == (tmp_path / "whole" / "evaluations.csv").read_text()


def test_the_guard_stops_when_the_judge_falls_and_keeps_what_was_before(encoder, tmp_path):
    opposite = Sum({"goal": GoalReward(encoder, "the prompt")}, {"goal": -1.0})
    make = partial(RewardGradient, training=Training(lr=2e-2))
    guard = GuardSettings(patience=1, margin=0.0)
    summary = tune(encoder, tmp_path, judge=opposite, make=make, steps=20, guard=guard)
    assert summary["stopped_by_guard"] < 20
    assert summary["kept"]["step"] < summary["stopped_by_guard"]
    assert "Stopped at step" in summary["sentence"]
    assert "held-out judge fell" in summary["sentence"]
    kept = load_file(tmp_path / "best" / "lora.safetensors")
    assert all(not value.any() for name, value in kept.items() if "lora_B" in name)
    off = GuardSettings(enabled=False, patience=1, margin=0.0)
    further = tune(encoder, tmp_path, judge=opposite, make=make, steps=3, guard=off, resume=True)
    assert further["stopped_by_guard"] is None
    assert "the guard is off" in further["sentence"]


def test_what_cannot_be_tuned_is_refused_at_once(encoder, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        tune(encoder, tmp_path, steps=1, resume=True)
    with pytest.raises(ValueError, match="samples must be at least 2"):
        FinetuneSettings(samples=1)
    with pytest.raises(UnknownNameError, match="bf16"):
        FinetuneSettings(mixed_precision="bf32")


def test_videos_are_read_with_their_prompts_or_drawn_once(tmp_path):
    clip = torch.zeros(6, 3, 16, 32, dtype=torch.uint8)
    clip[..., 8:24] = 255
    write_video(tmp_path / "real" / "clip.mp4", clip)
    (tmp_path / "real" / "clip.txt").write_text("a white square")
    source = read_captioned(tmp_path / "real", frames=3, size=(8, 8))
    prompts, frames = source.pick([0, 0])
    assert prompts == ["a white square"] * 2
    assert frames.shape == (2, 3, 3, 8, 8)
    assert frames.min() > 0.8  # the black borders left and right are cut off
    (tmp_path / "list.csv").write_text("path\nreal/clip.mp4\n")
    with pytest.raises(InputError, match="column 'prompt'"):
        read_captioned(tmp_path / "list.csv", 3, (8, 8))
    cache = tmp_path / "base.safetensors"
    drawn = draw_captioned(tiny_wan(), PROMPTS, cache, seed=3)
    assert torch.equal(draw_captioned(tiny_wan(seed=9), PROMPTS, cache, seed=4).frames, drawn.frames)
    with pytest.raises(CheckpointError, match="4 videos for 2 prompts"):
        draw_captioned(tiny_wan(), PROMPTS[:2], cache, seed=3)


def test_state_comes_back_as_it_was_without_pickle(tmp_path):
    state = {
        "a": {0: torch.arange(3), "b": [1.1, None, True, (2, "x")]},
        "seed": torch.Generator().get_state(),
        "e": {},
    }
    write_state(tmp_path, "state", state)
    back = read_state(tmp_path, "state")
    assert torch.equal(back["a"][0], state["a"][0])
    assert back["a"]["b"] == state["a"]["b"]
    assert torch.equal(back["seed"], state["seed"])
    with pytest.raises(TypeError, match="JSON values"):
        write_state(tmp_path, "state", {"a": object()})
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        read_state(tmp_path, "state")


def test_the_command_composes_a_run_and_resumes_it(tmp_path, capsys):
    tiny = [
        "generator._target_=tiny_generator.tiny_wan",
        "~generator.name",
        "aligner=draft",
        "aligner.training.lr=0.003",
    ]
    prompts = ["prompts.train=[a humanoid kneels,a pole falls]", "prompts.held_out=[a humanoid falls]"]
    length = ["steps=1", "batch=1", "scales=[]", "held_out_reward=contrastive", "seed=5", f"hydra.run.dir={tmp_path}"]
    assert finetune_command([*tiny, *prompts, *length]) == 0
    assert "No reward hacking up to step 1" in capsys.readouterr().out
    assert finetune_command(["--resume", str(tmp_path), "steps=2"]) == 0
    assert "up to step 2" in capsys.readouterr().out
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["000000001", "000000002"]
    with pytest.raises(UnknownNameError, match="Did you mean 'goal'"):
        finetune_command(["held_out_reward=gaol"])
    assert second_group("held_out_reward=r.safetensors")[0] == "reward@held_out_reward=saved"
    assert second_group("held_out_encoder=null") == ["encoder@held_out_encoder=null"]
