"""A judge as a reward: the contract, what it asks, and what it costs."""

import base64
import io

import pytest
import torch
from contract import check_reward
from openai_server import failing
from PIL import Image
from real_frames import BASELINE, GOAL, frames_of
from tiny import random_clips

from vrm import load_reward
from vrm.configuration import build_rewards
from vrm.errors import PromptError, UnknownNameError, VrmError
from vrm.judges import JudgeError, make_judge
from vrm.rewards.judge import JudgeReward
from vrm.scoring import score
from vrm.video import write_video

SIM = {"backend": "sim", "baseline": BASELINE}
RUBRIC = [{"name": "low", "statement": GOAL, "weight": 2.0}, {"name": "upright", "statement": "a humanoid robot"}]
KINDS = {
    "question": {},
    "statement-looking-back": {"ask": "statement", "frames": 3, "stride": 2},
    "log_true": {"ask": "log_true"},
    "rating": {"ask": "rating", "levels": 7},
    "rubric": {"ask": "rubric", "criteria": RUBRIC},
    "clip": {"per": "clip", "frames": 3},
}


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind, encoder, tmp_path):
    check_reward(lambda e: JudgeReward(e, SIM, GOAL, **KINDS[kind]), encoder, tmp_path)


def test_frames_are_paid_for_what_they_show(sim_encoder):
    clips = torch.stack([frames_of("kneeling", 4), frames_of("standing", 4)])
    reward = JudgeReward(sim_encoder, SIM, GOAL)
    found = reward(clips)
    assert found[0].min() > 0.5 > found[1].max()
    swapped = reward(clips, ["a humanoid robot standing", GOAL])
    assert swapped[0].max() < found[0].min()


def test_asking_again_is_free_and_criteria_are_dimensions(sim_encoder):
    reward = JudgeReward(sim_encoder, SIM, GOAL, ask="rubric", criteria=RUBRIC)
    clips = frames_of("kneeling", 4)[None]
    score, dimensions = reward.score(clips), reward.dimensions(clips)
    torch.testing.assert_close(score, (2 * dimensions["low"] + dimensions["upright"]) / 3)
    assert reward.runner.counts.requests == 8


def test_a_reward_over_http_saves_settings_but_no_key(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BRIGHT_KEY", "sk-secret-123")
    judge = {"backend": "http", "url": server.url, "model": "m", "api_key_env": "BRIGHT_KEY"}
    reward = JudgeReward(None, judge, "a bright picture", runner={"cache": str(tmp_path / "cache")})
    clips = (torch.tensor([0.2, 0.8]).reshape(1, 2, 1, 1, 1).expand(1, 2, 3, 8, 8) * 255).to(torch.uint8)
    torch.testing.assert_close(reward(clips), torch.tensor([[0.2, 0.8]]))
    reward.save(tmp_path / "reward.safetensors")
    assert b"secret" not in (tmp_path / "reward.safetensors").read_bytes()
    again = load_reward(tmp_path / "reward.safetensors")
    assert torch.equal(again(clips), reward(clips))
    assert len(server.bodies) == 2


def test_frames_without_answer_are_nan_or_what_was_said(server):
    judge = {"backend": "http", "url": server.url, "model": "m", "concurrency": 1}
    clips = torch.stack([torch.full((3, 8, 8), level, dtype=torch.uint8) for level in (50, 200)])[None]
    for otherwise, expected in ((None, None), (-1.0, -1.0)):
        server.trouble.append(failing(400, "cannot read this picture"))
        reward = JudgeReward(None, judge, "a bright picture", otherwise=otherwise)
        found = reward(clips)[0]
        assert found[0].isnan() if expected is None else found[0] == expected
        assert not found[1].isnan()
        assert reward.runner.counts.failed == 1


def test_it_is_built_by_the_score_configuration(tmp_path):
    settings = ["judge.ask=rating", "judge.levels=3", f"judge.runner.cache={tmp_path}", "judge.judge.sim.noise=0.5"]
    reward = build_rewards(["judge"], overrides=settings)["judge"]
    assert (reward.ask, reward.levels, reward.runner.judge.noise) == ("rating", 3, 0.5)
    settings = ["judge.judge.backend=http", "judge.judge.http.model=m"]
    reward = build_rewards(["judge"], overrides=settings)["judge"]
    assert reward.runner.judge.settings()["model"] == "m"


def test_wrong_settings_are_refused_in_one_sentence(encoder):
    with pytest.raises(UnknownNameError, match=r"Unknown judge 'htp'\. Did you mean 'http'"):
        make_judge({"backend": "htp"})
    with pytest.raises(UnknownNameError, match="Did you mean 'noise'"):
        make_judge({"backend": "sim", "noize": 1}, encoder)
    with pytest.raises(JudgeError, match="needs url, model"):
        make_judge({"backend": "http"})
    with pytest.raises(UnknownNameError, match="setting of the judge's runner"):
        JudgeReward(encoder, SIM, GOAL, runner={"cash": "x"})
    with pytest.raises(PromptError, match="needs a goal sentence"):
        JudgeReward(encoder, SIM)
    with pytest.raises(PromptError, match="goes with criteria"):
        JudgeReward(encoder, SIM, GOAL, ask="rubric")
    with pytest.raises(ValueError, match="ask must be one of"):
        JudgeReward(encoder, SIM, GOAL, ask="why")
    with pytest.raises(ValueError, match="size of at least 1"):
        JudgeReward(encoder, SIM, GOAL, frames=0)
    with pytest.raises(VrmError, match="Unknown judge"):
        build_rewards(["judge"], overrides=["judge.judge.backend=none"])
    assert JudgeReward(encoder, SIM, GOAL)(random_clips()).shape == (4, 5)


def test_a_judge_of_files_sees_frames_in_their_own_shape(server, tmp_path):
    frames = torch.randint(0, 256, (6, 3, 96, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_video(tmp_path / "clip.mp4", frames, fps=10)
    for size, shape in ((448, (160, 96)), (80, (80, 48))):
        judge = {"backend": "http", "url": server.url, "model": "bright-1"}
        reward = JudgeReward(None, judge, GOAL, per="clip", frames=2, size=size)
        row = score(tmp_path / "clip.mp4", {"judge": reward}, GOAL, cache=tmp_path / "features").to_pylist()[0]
        assert row["error"] is None
        parts = server.bodies[-1]["messages"][0]["content"]
        shown = [part["image_url"]["url"].split(",")[1] for part in parts if part["type"] == "image_url"]
        assert [Image.open(io.BytesIO(base64.b64decode(text))).size for text in shown] == [shape] * 2
