"""Audits catch rewards that are known to be bad, each by the item meant for it, and let the good one pass."""

import json
import math

import pytest
import torch
from PIL import Image

import vrm
from vrm.audit import Evidence, audit
from vrm.audit.command import audit_command
from vrm.audit.gathering import gather
from vrm.envs import make_task
from vrm.errors import DecodeError, FrameError, NonFiniteError, UnknownNameError, VrmError
from vrm.pictures.audit import audit_sheet
from vrm.rewards import FrozenVideo, GoalReward, RewardModel, SegmentalReward, StateValue
from vrm.video import read_video, write_video

GOAL = "a pole standing upright on a cart"
OTHERS = ("a car in the mountain", "a pole fallen down, hanging below the cart")
FRAMES = 16


class _Pixels(RewardModel):
    """A reward made of one function of clips scaled to [0, 1]."""

    def terms(self, clips, goals=None, state=None):
        return {"value": self.value(clips.float() / 255)}

    def combine(self, terms):
        return terms["value"]

    def config(self):
        return {}

    @classmethod
    def from_config(cls, config, encoder=None):
        return cls()


class _Constant(_Pixels):
    def value(self, clips):
        return torch.full(clips.shape[:2], 0.3)


class _Clock(_Pixels):
    def value(self, clips):
        return torch.arange(clips.shape[1]).float().expand(clips.shape[:2])


class _Brightness(_Pixels):
    def value(self, clips):
        return clips.mean((2, 3, 4))


class _Motion(_Pixels):
    window = 2

    def value(self, clips):
        moved = clips.diff(dim=1, prepend=clips[:, :1]).abs().mean((2, 3, 4))
        return moved * 100


class _BatchRelative(_Brightness):
    def value(self, clips):
        return super().value(clips) - super().value(clips).mean()


class _Foresight(_Brightness):
    def value(self, clips):
        return super().value(clips) - super().value(clips)[:, -1:]


class _Unlucky(_Brightness):
    range = (0.0, 0.1)


class _Broken(_Pixels):
    def value(self, clips):
        return torch.full(clips.shape[:2], float("nan"))


class _Lottery(_Pixels):
    """Pays a single frame of all."""

    def value(self, clips):
        return (clips.mean((2, 3, 4)) > 0.999).float()


@pytest.fixture(scope="module")
def evidence():
    return gather(make_task("cartpole", episode_steps=30), states=120, episodes=8, seed=0)


@pytest.fixture(scope="module")
def clips(evidence):
    return evidence.good_clips(3, FRAMES), evidence.failed_clips(3, FRAMES) or _fallen(evidence)


@pytest.fixture(scope="module")
def reward():
    return GoalReward(vrm.load_encoder("vrm-sim"), GOAL)


def _fallen(evidence):
    states = evidence.states[torch.from_numpy(~evidence.truth)]
    return [states[start : start + FRAMES] for start in (0, FRAMES, 2 * FRAMES)]


def test_the_goal_reward_passes_on_a_pole_that_rises(reward, clips, evidence):
    good, failed = clips
    other = [torch.rand(FRAMES, 3, 64, 64).mul(255).byte()]
    found = audit(reward, good, failed, other=other, prompts=GOAL, wrong=OTHERS, evidence=evidence, name="goal")
    assert found.failed == []
    for name in ("VOC reversed", "frozen start", "AUROC final", "black", "wrong goal", "prefix invariance"):
        assert found[name].verdict == "pass", found[name]
    assert found["EPIC to task"].value < 0.5
    assert found.summary().startswith("goal: ")


@pytest.mark.parametrize(
    ("model", "catchers"),
    [
        (_Constant, {"varies", "VOC success", "AUROC mean", "black", "EPIC to task"}),
        (_Clock, {"VOC reversed", "VOC gap", "frozen start", "AUROC final", "EPIC to task"}),
        (_Brightness, {"white", "dimmed", "wrong goal"}),
        (_BatchRelative, {"batch invariance"}),
        (_Foresight, {"prefix invariance"}),
        (_Unlucky, {"range"}),
    ],
)
def test_a_bad_reward_is_caught_by_what_is_meant_to_catch_it(model, catchers, clips, evidence):
    good, failed = clips
    found = audit(model(), good, failed, prompts=GOAL, wrong=OTHERS, evidence=evidence)
    assert catchers <= set(found.failed)


def test_a_clock_follows_time_perfectly_and_a_frame_reward_turns_round(clips):
    good, failed = clips
    clock, bright = (audit(model(), good, failed) for model in (_Clock, _Brightness))
    assert clock["VOC success"].value == pytest.approx(1)
    assert clock["VOC reversed"].value == pytest.approx(-1)
    assert clock["frozen start"].value > 0.3
    assert bright["frozen start"].value == 0


def test_paying_for_motion_shows_when_the_end_is_held(clips):
    found = audit(_Motion(), *clips)
    assert found["static end"].verdict == "warn"
    assert "staying at the goal" in found["static end"].catches


def test_a_reward_of_one_lucky_frame_is_concentrated(clips):
    good, failed = [clip.clone() for clip in clips[0]], clips[1]
    good = [torch.cat([clip] * 3) for clip in good]
    good[0][5] = 255
    assert audit(_Lottery(), good, failed)["top 1 % share"].value == 1


def test_what_cannot_be_asked_says_why(reward, clips):
    found = audit(reward, clips[0])
    reasons = {item.name: item.note for item in found.items if item.verdict == "not applicable"}
    assert reasons["AUROC mean"] == "no failed clips were given"
    assert reasons["other clips"] == "no other clips were given"
    assert reasons["wrong goal"] == "no other goals were given"
    assert reasons["EPIC to task"] == reasons["best of n"] == "no task was given"
    assert all(item.value is None for item in found.items if item.verdict == "not applicable")


def test_text_that_a_reward_was_not_meant_to_read_is_no_failure(clips):
    found = audit(_Brightness(), clips[0], clips[1], prompts=GOAL, wrong=OTHERS, prompts_given=False)
    assert found["wrong goal"].verdict == "not applicable"


def test_a_reward_of_whole_clips_is_judged_by_its_scores(reward, clips):
    good, failed = clips
    found = audit(SegmentalReward(reward, segments=4), good, failed, prompts=GOAL, wrong=OTHERS)
    assert found["AUROC mean"].value == 1
    for name in ("VOC success", "VOC reversed", "frozen start", "prefix invariance", "AUROC final", "top 1 % share"):
        assert found[name].verdict == "not applicable"
    assert found["black"].verdict == "pass"


def test_clips_may_have_different_sizes_and_lengths_and_prompts(reward, clips):
    good, failed = clips
    varied = [good[0], torch.nn.functional.interpolate(good[1].float(), (50, 70)).byte()[:12]]
    found = audit(reward, varied, failed, prompts=[GOAL, "a pole balanced upright"])
    assert [len(curve) for curve in found.curves["good"]] == [FRAMES - 1, 11]


def test_best_of_n_is_asked_where_random_play_earns_something(clips, evidence):
    good, failed = clips
    play = evidence.play.float().mean((2, 3, 4))
    aligned = Evidence(evidence.states, evidence.truth, evidence.play, play[:, 1:].double().numpy())
    opposed = Evidence(evidence.states, evidence.truth, evidence.play, -play[:, 1:].double().numpy())
    assert audit(_Brightness(), good, failed, evidence=aligned)["best of n"].verdict == "pass"
    assert audit(_Brightness(), good, failed, evidence=opposed)["best of n"].verdict == "fail"
    nothing = Evidence(evidence.states, evidence.truth, evidence.play, 0 * aligned.gold)
    assert "return 0" in audit(_Brightness(), good, failed, evidence=nothing)["best of n"].note


def test_an_audit_is_printed_and_saved(reward, clips, tmp_path, capsys):
    found = audit(reward, *clips, prompts=GOAL, wrong=OTHERS, name="upright")
    found.print()
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == found.summary()
    assert sum(line.startswith(("pass", "warn", "fail", "n/a")) for line in printed) == len(found.items)
    data, picture = found.save(tmp_path / "new")
    assert sorted(path.name for path in data.parent.iterdir()) == ["audit.json", "audit.png"]
    read = json.loads(data.read_text())
    assert read["reward"] == "upright"
    assert [item["name"] for item in read["items"]] == [item.name for item in found.items]
    assert len(read["curves"]["good"][0]) == FRAMES - 1
    with Image.open(picture) as page:
        assert min(page.size) > 800


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"good": []}, VrmError, "at least one clip of the task done"),
        ({"good": [torch.zeros(3, 3, 8, 8)]}, FrameError, "at least 8 frames, got one of 3"),
        ({"reward": StateValue("x")}, VrmError, r"reads state \['x'\]"),
        ({"prompts": ["a", "b"]}, VrmError, r"one per good clip \(3 here\), got 2"),
    ],
)
def test_what_cannot_be_audited_is_refused(arguments, error, sentence, reward, clips):
    with pytest.raises(error, match=sentence):
        audit(**{"reward": reward, "good": clips[0], **arguments})


def test_a_reward_that_is_no_number_ends_the_audit(clips):
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        audit(_Broken(), clips[0])


def test_a_picture_needs_a_good_clip(tmp_path):
    with pytest.raises(ValueError, match="at least one good clip and one item"):
        audit_sheet(tmp_path / "audit.png", "nothing", [], {}, {}, [])
    assert not list(tmp_path.iterdir())


def test_evidence_is_reproducible_and_aligned(evidence):
    again = gather(make_task("cartpole", episode_steps=30), states=120, episodes=8, seed=0)
    assert torch.equal(again.play, evidence.play)
    assert evidence.play.shape[:2] == (8, 31)
    assert evidence.gold.shape == (8, 30)
    good = evidence.good_clips(2, 9)
    assert [len(clip) for clip in good] == [9, 9]
    with pytest.raises(VrmError, match="0 of 120 sampled states are a success"):
        Evidence(evidence.states, evidence.truth & False, evidence.play, evidence.gold).good_clips(1, 8)
    with pytest.raises(ValueError, match="at least 2 states"):
        gather(make_task("cartpole"), states=1)


@pytest.fixture
def videos(clips, tmp_path):
    for kind, group in zip(("good", "bad"), clips, strict=True):
        for index, clip in enumerate(group):
            write_video(tmp_path / kind / f"{index}.mp4", clip, fps=8)
    return tmp_path


def test_the_command_reads_folders_and_writes_its_findings(videos, capsys):
    given = ["--videos", str(videos / "good"), "--failed", str(videos / "bad"), "--prompt", GOAL]
    wrong = [part for text in OTHERS for part in ("--wrong", text)]
    status = audit_command(["goal", *given, *wrong, "--frames", "uniform:12", "--out", str(videos / "out")])
    read = json.loads((videos / "out" / "audit.json").read_text())
    assert status == int(any(item["verdict"] == "fail" for item in read["items"])) == 0
    assert len(read["curves"]["failed"][0]) == 11
    assert "goal: " in capsys.readouterr().out


def test_the_command_takes_saved_rewards_and_tells_failure_by_its_status(videos, capsys):
    reward = GoalReward(vrm.load_encoder("vrm-sim"), "a car at the peak of the mountain")
    reward.save(videos / "mountain.safetensors")
    given = ["--videos", str(videos / "good"), "--failed", str(videos / "bad"), "--wrong", GOAL]
    assert audit_command([str(videos / "mountain.safetensors"), *given]) == 1
    assert "fail  wrong goal" in capsys.readouterr().out


def test_the_command_needs_no_videos_where_a_task_is_named(capsys):
    status = audit_command(["goal", "--task", "cartpole", "--states", "60", "--episodes", "2"])
    out = capsys.readouterr().out
    assert status == int("fail  " in out)
    assert "60 states" in out


def test_a_reward_of_motion_needs_videos():
    with pytest.raises(VrmError, match="do not move; give --videos"):
        audit_command(["frozen", "--task", "cartpole", "--states", "50", "--episodes", "2"])


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (["nonsense", "--videos", "good"], UnknownNameError, "Unknown reward 'nonsense'"),
        (["goal", "--videos", "good"], VrmError, "compares videos with a prompt"),
        (["goal", "--prompt", GOAL, "--task", "nonsense"], UnknownNameError, "Unknown task 'nonsense'"),
        (["goal", "--prompt", GOAL, "--videos", "missing.mp4"], DecodeError, "missing.mp4"),
    ],
)
def test_the_command_refuses_in_a_sentence(arguments, error, sentence, videos, monkeypatch):
    monkeypatch.chdir(videos)
    with pytest.raises(error, match=sentence):
        audit_command(arguments)


def test_the_command_needs_something_to_look_at(capsys):
    with pytest.raises(SystemExit):
        audit_command(["goal"])
    assert "give --videos, or a --task" in capsys.readouterr().err


def test_decoded_videos_keep_their_verdicts(videos, reward, clips):
    decoded = [read_video(path) for path in sorted((videos / "good").iterdir())]
    failed = [read_video(path) for path in sorted((videos / "bad").iterdir())]
    from_file, direct = audit(reward, decoded, failed), audit(reward, *clips)
    assert math.isclose(from_file["VOC success"].value, direct["VOC success"].value, abs_tol=0.1)
    assert audit(FrozenVideo(), decoded, failed)["VOC gap"].verdict in ("warn", "fail", "not applicable")
