"""Students learn what a teacher pays, on its scale, and keep the reward contract."""

from functools import partial
from pathlib import Path

import pytest
import torch
from contract import check_reward
from tiny import GOAL, RisingReward, TinyEncoder, random_clips

from vrm.configuration import build_reward, compose, expand
from vrm.encoders import load_encoder
from vrm.errors import PromptError, UnknownNameError, VrmError
from vrm.metrics import spearman
from vrm.rewards import GoalReward, StateValue, load_reward
from vrm.rewards.distilled import DistilledReward, load_teacher, recent_counts
from vrm.rewards.preference_networks import small_frames
from vrm.rewards.students import FORMS
from vrm.video import read_video

VIDEOS = Path(__file__).parents[2] / "videos"
KNEELING = "a humanoid robot kneeling"


def fitted(encoder, **options):
    teacher = GoalReward(encoder, GOAL)
    reward = DistilledReward(encoder, teacher, steps=3, batch=16, **options)
    frames = random_clips(batch=8, seed=5).flatten(0, 1)
    reward.learn(reward.see(frames), reward.ask(frames))
    return reward


@pytest.fixture(scope="module")
def scene():
    """Frames of videos of a humanoid and the teacher's labels, the even ones to learn from."""
    encoder = load_encoder("vrm-sim")
    clips = [read_video(VIDEOS / f"{name}.mp4")[::3] for name in ("kneeling", "standing", "falling")]
    frames = torch.cat([small_frames(clip, 64) for clip in clips])
    teacher = GoalReward(encoder, KNEELING)
    labels = DistilledReward(encoder, teacher).ask(frames)
    return encoder, teacher, frames, labels


@pytest.mark.parametrize("input", ["frames", "features"])
@pytest.mark.parametrize("form", FORMS)
def test_students_keep_the_contract(form, input, tmp_path):
    check_reward(lambda e: fitted(e, form=form, input=input), TinyEncoder(), tmp_path)


@pytest.mark.parametrize("form", ["table", "ranking"])
def test_damped_students_keep_the_contract(form, tmp_path):
    check_reward(lambda e: fitted(e, form=form, damping=3.0, horizon=3), TinyEncoder(), tmp_path)


@pytest.mark.parametrize(
    ("form", "input", "least"),
    [("regression", "features", 0.9), ("ranking", "features", 0.9), ("classifier", "features", 0.9),
     ("table", "features", 0.6), ("regression", "frames", 0.7), ("ranking", "frames", 0.7),
     ("classifier", "frames", 0.7), ("table", "frames", 0.5)],
)  # fmt: skip
def test_a_student_ranks_unseen_frames_as_its_teacher_does(scene, form, input, least):
    encoder, teacher, frames, labels = scene
    reward = DistilledReward(encoder, teacher, form=form, input=input, steps=120, batch=64, lr=1e-3, bits=12, cells=4)
    inputs = reward.see(frames)
    reward.learn(inputs[::2], labels[::2])
    said = reward.read(inputs[1::2])
    assert spearman(said.numpy(), labels[1::2].numpy()) > least
    assert said.mean().item() == pytest.approx(labels.mean().item(), abs=labels.std().item() / 3)


@pytest.mark.parametrize("form", ["regression", "ranking"])
def test_a_student_pays_on_its_teachers_scale(scene, form):
    encoder, teacher, frames, labels = scene
    reward = DistilledReward(encoder, teacher, form=form, input="features", steps=200, lr=1e-3)
    inputs = reward.see(frames)
    reward.learn(inputs, labels * 100 + 7)
    said = reward.read(inputs)
    assert said.mean().item() == pytest.approx(labels.mean().item() * 100 + 7, rel=0.02)
    assert said.std().item() == pytest.approx(labels.std().item() * 100, rel=0.2)
    assert reward.label_std.item() == pytest.approx(labels.std(correction=0).item() * 100, rel=1e-3)


def test_a_student_that_has_learned_nothing_pays_nothing():
    for form in FORMS:
        reward = DistilledReward(None, GoalReward(TinyEncoder(), GOAL), form=form)
        assert not reward(random_clips()).any()


def test_a_classifier_of_two_bins_says_yes_or_no(scene):
    encoder, teacher, frames, labels = scene
    helpful = (labels > labels.median()).float()
    reward = DistilledReward(encoder, teacher, form="classifier", input="features", bins=2, lr=1e-3)
    inputs = reward.see(frames)
    reward.learn(inputs, helpful)
    said = reward.read(inputs)
    assert said.min() >= 0
    assert said.max() <= 1
    assert ((said > 0.5) == (helpful > 0.5)).float().mean() > 0.9


def test_a_table_pays_known_frames_their_mean_and_unknown_ones_the_mean_of_all():
    reward = DistilledReward(None, GoalReward(TinyEncoder(), GOAL), form="table")
    black, white, grey = (torch.full((1, 3, 64, 64), value, dtype=torch.uint8) for value in (0, 255, 128))
    reward.learn(reward.see(torch.cat([black, black, white])), torch.tensor([1.0, 3.0, 5.0]))
    assert reward.read(reward.see(torch.cat([black, white, grey]))).tolist() == [2.0, 5.0, 3.0]


def test_a_full_table_keeps_what_was_labelled_last():
    reward = DistilledReward(None, GoalReward(TinyEncoder(), GOAL), form="table", table=1)
    shades = torch.stack([torch.full((3, 64, 64), value, dtype=torch.uint8) for value in (0, 255, 0)])
    reward.learn(reward.see(shades), torch.tensor([1.0, 5.0, 3.0]))
    assert reward.read(reward.see(shades[:2])).tolist() == [2.0, 3.0]


def test_damping_divides_by_how_often_a_frame_was_seen():
    reward = DistilledReward(None, GoalReward(TinyEncoder(), GOAL), form="table", damping=3.0, horizon=4)
    shades = torch.stack([torch.full((3, 64, 64), value, dtype=torch.uint8) for value in (0, 255)])
    reward.learn(reward.see(shades), torch.tensor([0.0, 8.0]))
    clip = shades[[1, 1, 0, 1, 1]][None]
    assert reward(clip)[0].tolist() == pytest.approx([8, 1, 0, 8 / 27, 8 / 27])  # the first left the horizon
    assert recent_counts(torch.tensor([[1, 1, 1]]), 2).tolist() == [[1, 2, 2]]


def test_learning_twice_alike_gives_one_student(scene):
    encoder, teacher, frames, labels = scene
    state = torch.random.get_rng_state()
    said = []
    for _ in range(2):
        reward = DistilledReward(encoder, teacher, form="ranking", input="features", steps=20)
        inputs = reward.see(frames)
        reward.learn(inputs, labels)
        said.append(reward.read(inputs))
    assert torch.equal(*said)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_file_holds_the_student_only_and_names_its_teacher(scene, tmp_path):
    encoder, teacher, frames, labels = scene
    reward = DistilledReward(encoder, teacher, steps=3)
    assert not any(name.startswith("teacher") for name in reward.state_dict())
    assert not any(isinstance(module, GoalReward) for module in reward.modules())
    reward.learn(reward.see(frames), labels)
    reward.save(tmp_path / "student.safetensors")
    again = load_reward(tmp_path / "student.safetensors")
    assert again.teacher is None
    assert again.config()["teacher"]["config"]["goal"] == [KNEELING]
    assert torch.equal(again(frames[None]), reward(frames[None]))
    with pytest.raises(VrmError, match="holds no teacher"):
        again.ask(frames)


def test_calibration_is_the_teachers(scene):
    encoder, _, frames, _ = scene
    teacher = GoalReward(encoder, KNEELING)
    reward = DistilledReward.of(TinyEncoder(), teacher=partial(GoalReward, goal=KNEELING), teacher_encoder=encoder)
    reward.calibrate(frames[None])
    torch.testing.assert_close(reward.ask(frames), teacher.calibrate(frames[None])(frames[None])[0])


def test_a_saved_teacher_loads_for_its_process(scene, tmp_path):
    _, teacher, frames, labels = scene
    teacher.save(tmp_path / "teacher.safetensors")
    again = load_teacher(tmp_path / "teacher.safetensors")
    torch.testing.assert_close(again(frames[None])[0], labels)


def test_what_cannot_be_a_teacher_is_refused():
    encoder = TinyEncoder()
    with pytest.raises(ValueError, match="single frames"):
        DistilledReward(None, RisingReward(GoalReward(encoder, GOAL)))
    with pytest.raises(ValueError, match="reads state"):
        DistilledReward(None, StateValue("speed"))


def test_bad_settings_are_one_sentence():
    teacher = GoalReward(TinyEncoder(), GOAL)
    with pytest.raises(UnknownNameError, match="ranking"):
        DistilledReward(None, teacher, form="rankin")
    with pytest.raises(UnknownNameError, match="frames"):
        DistilledReward(None, teacher, input="frame")
    with pytest.raises(ValueError, match="encoder of its own"):
        DistilledReward(None, teacher, input="features")
    for option in (
        {"bins": 1},
        {"lr": 0},
        {"damping": -1},
        {"annotate": {"fraction": 0}},
        {"annotate": {"holdout": 1}},
    ):
        with pytest.raises(ValueError, match="must"):
            DistilledReward(None, teacher, **option)
    with pytest.raises(PromptError, match="reads no text"):
        DistilledReward(None, teacher)(random_clips(), goals=["a"] * 4)
    with pytest.raises(ValueError, match="finite"):
        DistilledReward(None, teacher).learn(torch.zeros(1, 3, 64, 64), torch.tensor([float("nan")]))


@pytest.mark.parametrize("teacher", ["contrastive", "file"])
def test_a_teacher_is_named_as_the_reward_of_a_run_is(teacher, tmp_path):
    path = tmp_path / "kneeling.safetensors"
    GoalReward(load_encoder("vrm-sim"), KNEELING).save(path)
    given = [f"reward.teacher={path if teacher == 'file' else teacher}", "reward.teacher_encoder=vrm-sim"]
    arguments = ["task=humanoid_kneeling", "reward=distilled", *given]
    reward = build_reward(compose("train", [o for argument in arguments for o in expand(argument)]))
    assert isinstance(reward, DistilledReward)
    assert type(reward.teacher).__name__ == {"file": "GoalReward", "contrastive": "ContrastiveGoalReward"}[teacher]
    named = expand("reward.teacher_encoder=openclip")
    assert named == ["+encoder@reward.teacher_encoder=openclip"]
