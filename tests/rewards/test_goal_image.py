"""Closeness to goal pictures."""

import pytest
import torch
from contract import check_reward
from PIL import Image
from tiny import random_clips

from vrm.configuration import build_rewards
from vrm.errors import FrameError, PromptError, UnknownNameError, VrmError
from vrm.rewards.goal_image import GoalImageReward

METRICS = pytest.mark.parametrize("metric", ["cosine", "l2"])


def pictures(count=2, size=24, seed=7):
    return (random_clips(1, count, size, seed)[0] * 255).to(torch.uint8)


@METRICS
def test_goal_image_keeps_the_contract(metric, encoder, tmp_path):
    check_reward(lambda e: GoalImageReward(e, pictures(), metric), encoder, tmp_path)


@METRICS
def test_the_goal_itself_pays_most(metric, encoder):
    reward = GoalImageReward(encoder, pictures(1), metric)
    clip = torch.cat([pictures(4, seed=1), pictures(1)])[None]
    rewards = reward(clip)[0]
    assert rewards.argmax() == 4
    assert float(rewards[4]) == pytest.approx(reward.range[1], abs=1e-5)


def test_metrics_are_the_published_ones(encoder):
    goal = encoder.encode_image(pictures(3)).mean(dim=0)
    frames = pictures(4, seed=1)
    image = encoder.encode_image(frames)
    cosine = torch.nn.functional.cosine_similarity(image, goal[None])
    torch.testing.assert_close(GoalImageReward(encoder, pictures(3))(frames[None])[0], cosine)
    torch.testing.assert_close(
        GoalImageReward(encoder, pictures(3), "l2")(frames[None])[0], -(image - goal).norm(dim=1)
    )


def test_pictures_are_read_from_files_of_any_size_and_mode(encoder, tmp_path):
    first, second = pictures(1)[0], pictures(1, size=40)[0]
    for name, picture in (("a.png", first), ("b.png", second)):
        Image.fromarray(picture.movedim(0, -1).numpy()).save(tmp_path / name)
    Image.fromarray(first.movedim(0, -1).numpy()).convert("L").save(tmp_path / "grey.png")
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    clips = random_clips()
    from_files = GoalImageReward.from_files(encoder, [tmp_path / "a.png", tmp_path / "b.png"])
    assert from_files.count == 2
    assert torch.equal(from_files(clips), GoalImageReward(encoder, [first, second])(clips))
    one = GoalImageReward.from_files(encoder, str(tmp_path / "grey.png"))
    assert torch.isfinite(one(clips)).all()
    white = GoalImageReward(encoder, torch.full((1, 3, 9, 9), 255, dtype=torch.uint8))
    assert torch.equal(GoalImageReward.from_files(encoder, [tmp_path / "clear.png"])(clips), white(clips))


def test_the_configuration_reads_pictures(tmp_path):
    Image.fromarray(pictures(1)[0].movedim(0, -1).numpy()).save(tmp_path / "a.png")
    overrides = [f"reward.images=[{tmp_path / 'a.png'}]", "reward.metric=l2"]
    reward = build_rewards(["goal_image"], overrides=overrides, has_prompts=False)["goal_image"]
    assert isinstance(reward, GoalImageReward)
    assert (reward.metric, reward.count) == ("l2", 1)
    with pytest.raises(VrmError, match="images"):
        build_rewards(["goal_image"], has_prompts=False)


def test_wrong_pictures_and_calls_are_refused(encoder, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(FrameError, match="does not exist"):
        GoalImageReward.from_files(encoder, [tmp_path / "none.png"])
    with pytest.raises(FrameError, match="cannot be read as a picture"):
        GoalImageReward.from_files(encoder, [tmp_path / "text.png"])
    with pytest.raises(FrameError, match="at least one picture"):
        GoalImageReward.from_files(encoder, [])
    with pytest.raises(UnknownNameError, match="Did you mean 'cosine'"):
        GoalImageReward(encoder, pictures(), "cosin")
    with pytest.raises(PromptError, match="GoalImageReward reads no text"):
        GoalImageReward(encoder, pictures())(random_clips(), goals=["a"] * 4)
