"""``vrm audit``: arguments to one audit."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from vrm.audit.battery import audit
from vrm.audit.evidence import Evidence
from vrm.errors import VrmError
from vrm.rewards import RewardModel
from vrm.scoring.inputs import Entry, find_videos
from vrm.video import FrameSampler, sample_video

CLIPS = 8  # made from a task where no videos are given
LENGTH = 32  # of them, in frames
EPILOG = """\
examples:
  vrm audit goal --videos good/ --failed bad/ --prompt "a robot kneels" --out runs/audit
  vrm audit goal --task humanoid_kneeling
  vrm audit kneeling.safetensors --videos good/ --failed bad/ --task humanoid_kneeling --out runs/audit

Exit status: 0, 1 if an item fails, 2 if the command cannot be carried out.
"""


def audit_command(arguments: Sequence[str]) -> int:
    """Audit the reward that the command line names; returns 1 if an item fails, else 0.

    Raises:
        VrmError: if it cannot be carried out.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if not given.videos and given.task is None:
        parser.error("give --videos, or a --task to make clips from")
    videos = list(find_videos(given.videos)) if given.videos else []
    prompts = _prompts(given.prompt, videos)
    name, reward, prompts, chosen = _reward(given, prompts)
    evidence = _evidence(given)
    good = _read(videos, given.frames) or _made_good(name, reward, evidence)
    failed = _read(_named(given.failed), given.frames)
    if not failed and evidence is not None:
        failed = evidence.failed_clips(CLIPS, LENGTH)
    other = _read(_named(given.other), given.frames) or _made_other(given.task)
    found = audit(
        reward, good, failed, other=other, prompts=prompts, wrong=given.wrong or _other_goals(given.task, prompts),
        prompts_given=chosen, evidence=evidence, name=name,
    )  # fmt: skip
    found.print()
    if given.out is not None:
        print("also:", *found.save(given.out))
    return 1 if found.failed else 0


def _reward(given: argparse.Namespace, prompts: list[str]) -> tuple[str, RewardModel, list[str], bool]:
    """Build the reward; returns its name, itself, the prompts to ask with, and whether somebody chose these."""
    from vrm.configuration import build_rewards

    texts = prompts
    if not prompts and given.task is not None and not given.reward.endswith(".safetensors"):
        from vrm.envs import make_task  # a saved reward brings its own goal

        texts = list(make_task(given.task).goal[:1])
    built = build_rewards([given.reward], given.encoder, device=given.device, has_prompts=bool(texts))
    ((name, reward),) = built.items()
    return name, reward, texts, bool(prompts)


def _prompts(given: Sequence[str] | None, videos: Sequence[Entry]) -> list[str]:
    """Take the prompts of the command line, else those of the videos' manifest."""
    if given:
        return list(given)
    noted = [video.prompt for video in videos if video.prompt is not None]
    if noted and len(noted) < len(videos):
        raise VrmError(
            f"Only {len(noted)} of {len(videos)} videos have a prompt in their manifest; add them or --prompt."
        )
    return list(noted)


def _named(inputs: Sequence[str] | None) -> list[Entry]:
    return list(find_videos(inputs)) if inputs else []


def _read(videos: Sequence[Entry], sampler: FrameSampler) -> list[Tensor]:
    return [sample_video(video.path, sampler).frames for video in videos]


def _evidence(given: argparse.Namespace) -> Evidence | None:
    if given.task is None:
        return None
    from vrm.audit.gathering import gather
    from vrm.envs import make_task

    return gather(make_task(given.task), given.states, given.episodes, given.seed)


def _made_good(name: str, reward: RewardModel, evidence: Evidence | None) -> list[Tensor]:
    assert evidence is not None
    if reward.window > 1 or not reward.causal:
        raise VrmError(
            f"Reward {name!r} looks at several frames, but clips made of a task's states do not move; give --videos."
        )
    return evidence.good_clips(CLIPS, LENGTH)


def _made_other(task: str | None) -> list[Tensor]:
    """Make a clip of a task from another family."""
    if task is None:
        return []
    from vrm.envs import TASKS
    from vrm.frames import from_hwc

    stranger = next(TASKS[name] for name in ("cartpole", "mountain_car") if TASKS[name].family != TASKS[task].family)
    return [from_hwc(stranger.sample(LENGTH).frames)]


def _other_goals(task: str | None, prompts: Sequence[str]) -> list[str]:
    """Goals of all tasks but this one."""
    from vrm.envs import TASKS

    goals = [goal for name, one in TASKS.items() if name != task for goal in one.goal]
    return [goal for goal in dict.fromkeys(goals) if goal not in prompts]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vrm audit",
        description="Ask a reward the questions that show whether it is fit to train with.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    inputs = "video, glob, folder or manifest"
    add("reward", metavar="REWARD", help="of configs/reward, or a saved .safetensors file")
    add("--videos", nargs="+", metavar="INPUT", help=f"clips of the task done ({inputs})")
    add("--failed", nargs="+", metavar="INPUT", help="clips of the task attempted and not done")
    add("--other", nargs="+", metavar="INPUT", help="clips of something else")
    add("--prompt", action="append", metavar="TEXT", help="the goal; once for all videos or once for each")
    add("--wrong", action="append", metavar="TEXT", help="another goal (default: the goals of all tasks)")
    add("--task", metavar="ID", help="compare with this task's own reward; makes clips that are not given")
    add("--states", type=_at_least_two, default=512, metavar="N", help="states of the task (%(default)s)")
    add("--episodes", type=_at_least_two, default=64, metavar="N", help="roll-outs of random play (%(default)s)")
    add("--seed", type=int, default=0, help="of states and roll-outs")
    add("--encoder", default="vrm-sim", metavar="NAME", help="of configs/encoder, or what load_encoder takes")
    add("--device", help="where the encoder runs")
    add("--frames", type=_sampler, default="uniform:32", metavar="SPEC", help="frames of a video (%(default)s)")
    add("--out", type=Path, metavar="DIR", help="folder for audit.json and audit.png")
    return parser


def _sampler(text: str) -> FrameSampler:
    try:
        return FrameSampler.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _at_least_two(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 2, got {text!r}")
    return int(text)
