"""``vrm finetune``: from Hydra's configuration to one tuning, and videos from a finished one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate

from vrm.agents.run import RunFolder
from vrm.configuration import Config, list_options, read_config, run_hydra
from vrm.errors import MissingExtraError, UnknownNameError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vrm.encoders import Encoder
    from vrm.rewards import RewardModel

# Groups that are used a second time, under another name.
SECOND = {"held_out_reward": "reward", "held_out_encoder": "encoder"}


def finetune_command(arguments: list[str]) -> int:
    """Tune a generator as ``configs/finetune.yaml`` and overrides say, go on with a run, or draw from one; returns 0.

    Raises:
        VrmError: if it cannot be carried out.
    """
    if "--sample" in arguments:
        return _sample(arguments)
    if "--resume" in arguments:
        parser = argparse.ArgumentParser("vrm finetune", description="Continue a cut-off run from its last checkpoint.")
        parser.add_argument("--resume", type=Path, required=True, metavar="RUN", help="folder of the run")
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changed settings")
        given = parser.parse_args(arguments)
        finetune_from_config(read_config(given.resume, given.overrides), given.resume, resume=True)
        return 0

    def start(config: Config, out: Path) -> None:
        finetune_from_config(config, out)

    run_hydra("finetune", [part for argument in arguments for part in second_group(argument)], start)
    return 0


def finetune_from_config(config: Config, out: Path, resume: bool = False) -> dict[str, Any]:
    """Build what the configuration names, tune it in ``out``, and say how it went.

    Returns:
        What ``summary.json`` says; nothing in processes other than the first.
    """
    from vrm.diffusion.finetune.prompts import Prompts, read_prompts
    from vrm.diffusion.finetune.run import Rewards, finetune
    from vrm.diffusion.finetune.settings import FinetuneSettings

    settings = FinetuneSettings.from_config(config)
    accelerator = _accelerator(settings.mixed_precision, config["device"])
    out = _agreed(out, accelerator)
    if accelerator.is_main_process:
        RunFolder(out).write_config(config)
    device = accelerator.device
    encoder: Encoder = instantiate(_placed(config["encoder"], str(device)))
    other = config.get("held_out_encoder")
    judging: Encoder = encoder if other is None else instantiate(_placed(other, str(device)))
    rewards = Rewards(
        trained=_reward(config["reward"], encoder).to(device),
        held_out=_reward(config["held_out_reward"], judging).to(device),
        encoder=judging,
    )
    prompts = Prompts(
        train=read_prompts(config["prompts"]["train"], "Training prompts"),
        held_out=read_prompts(config["prompts"]["held_out"], "Held-out prompts"),
    )
    summary = finetune(
        instantiate(config["generator"]).to(device),
        instantiate(_seeded(config["aligner"], settings.seed), _convert_="all"),
        rewards,
        prompts,
        out,
        settings,
        accelerator=accelerator,
        resume=resume,
    )
    if summary:
        print(summary["sentence"], f"pictures, samples and weights: {out}", sep="\n")
    return summary


def second_group(argument: str) -> list[str]:
    """Turn ``held_out_reward=NAME`` or ``=FILE.safetensors`` into what Hydra understands, and leave the rest.

    Raises:
        UnknownNameError: if there is no such reward or encoder.
    """
    key, equals, value = argument.partition("=")
    if key not in SECOND or not equals:
        return [argument]
    group = f"{SECOND[key]}@{key}"
    if value.endswith(".safetensors"):
        return [f"{group}=saved", f"{key}.path='{Path(value).absolute()}'"]
    for option in value.split(","):
        if option != "null" and option not in list_options(SECOND[key]):
            raise UnknownNameError(key, option, list_options(SECOND[key]))
    return [f"{group}={value}"]


def _sample(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("vrm finetune", description="Draw videos from a tuned generator.")
    parser.add_argument("--sample", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--prompt", action="append", required=True, help="what to draw; may be given several times")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for one mp4 per prompt")
    parser.add_argument("--which", choices=("best", "last"), default="best", help="weights (%(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the tuning: 0 is the base model (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first video's noise (%(default)s)")
    parser.add_argument("--fps", type=float, default=8, help="(%(default)s)")
    given = parser.parse_args(arguments)
    from vrm.diffusion.finetune.tuned import load_tuned
    from vrm.video import write_video

    generator = load_tuned(given.sample, given.which, scale=given.scale)
    for number, video in enumerate(generator.sample(given.prompt, seed=given.seed)):
        path = write_video(given.out / f"{number:03d}.mp4", (video * 255).round().byte(), given.fps)
        print(f"{path}: {given.prompt[number]}")
    return 0


def _reward(config: Config, encoder: Encoder) -> RewardModel:
    """Build a reward on its encoder, or load a saved one, which brings its own."""
    from vrm.rewards import load_reward

    reward: RewardModel = load_reward(config["path"]) if "path" in config else instantiate(config)(encoder)
    return reward


def _seeded(aligner: Config, seed: int) -> Config:
    """Give an aligner's training the run's seed, unless it names its own."""
    training = aligner.get("training")
    return {**aligner, "training": {"seed": seed, **training}} if isinstance(training, dict) else aligner


def _placed(encoder: Config, device: str) -> Config:
    """Tell an encoder where to compute, if it asks."""
    return {**encoder, "device": device} if "device" in encoder else encoder


def _accelerator(mixed_precision: str, device: str) -> Accelerator:
    """Join the processes that ``accelerate launch`` started, or stand alone.

    Raises:
        MissingExtraError: if accelerate is not installed.
        UnknownNameError: if ``device`` is neither auto nor cpu.
    """
    if device not in ("auto", "cpu"):
        raise UnknownNameError("device", device, ("auto", "cpu"), "CUDA_VISIBLE_DEVICES picks among several cards.")
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise MissingExtraError("accelerate", "diffusion", "Tuning a generator") from error
    # A sweep makes several in one process, and the precision of the first would stay.
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=mixed_precision, cpu=device == "cpu")


def _agreed(out: Path, accelerator: Accelerator) -> Path:
    """The first process's folder: those of others may be a second younger."""
    if accelerator.num_processes == 1:
        return out
    from accelerate.utils import broadcast_object_list

    paths = [str(out.absolute())]
    broadcast_object_list(paths)
    return Path(paths[0])
