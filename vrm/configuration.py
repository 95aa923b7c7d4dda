"""From Hydra's configuration to calls: the only place that knows both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from vrm.agents.run import RunFolder
from vrm.errors import UnknownNameError, VrmError

if TYPE_CHECKING:
    from vrm.agents.rollouts import Episodes
    from vrm.agents.train import MakeAlgorithm
    from vrm.envs import TextGoalTask
    from vrm.rewards import RewardModel

Config = dict[str, Any]


def run_hydra(name: str, arguments: Sequence[str], call: Callable[[Config, Path], None]) -> None:
    """Compose ``configs/NAME.yaml`` with overrides and call ``call(config, output folder)``, once per job of a sweep.

    Raises:
        VrmError: instead of Hydra's own errors for unknown groups, options and keys.
    """

    @hydra.main(version_base="1.3", config_path="pkg://vrm.configs", config_name=name)
    def job(config: DictConfig) -> None:
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        assert isinstance(resolved, dict)
        try:
            call({str(k): v for k, v in resolved.items()}, Path(HydraConfig.get().runtime.output_dir))
        except (VrmError, InstantiationException) as error:
            failed.append(error)  # Hydra would print it and exit

    check_choices(name, arguments)
    failed: list[Exception] = []
    before = sys.argv
    sys.argv = [f"vrm {name}", *arguments]
    try:
        job()
    finally:
        sys.argv = before
    for error in failed:
        raise error.__cause__ if isinstance(error.__cause__, VrmError) else error


def check_choices(name: str, arguments: Sequence[str]) -> None:
    """Refuse unknown tasks, encoders, rewards and agents in one sentence, before Hydra prints a page.

    Raises:
        UnknownNameError: if a group's option does not exist.
    """
    for argument in arguments:
        group, _, choice = argument.partition("=")
        options = list_options(group)
        for option in choice.split(",") if options else ():
            if option not in options:
                raise UnknownNameError(group, option, options)


def list_options(group: str) -> list[str]:
    """Names of the yaml files of one configuration group; empty if there is no such group."""
    folder = Path(__file__).parent / "configs" / group
    return sorted(p.stem for p in folder.glob("*.yaml")) if group.isidentifier() and folder.is_dir() else []


def train_from_config(config: Config, out: Path, resume: bool = False) -> dict[str, float]:
    """Build what the configuration names and train it in ``out``."""
    from vrm.agents.train import calibrate_on_random_play, train
    from vrm.rewards import load_reward

    run = RunFolder(out)
    run.write_config(config)
    task = build_task(config)
    if resume:
        reward = load_reward(run.reward_file)
    else:
        reward = build_reward(config)
        if config["calibrate"]:
            calibrate_on_random_play(reward, task, config["size"])
    agent = config["agent"]
    return train(
        task, reward, build_algorithm(config), out,
        total_steps=agent["total_steps"], n_envs=agent["n_envs"], size=config["size"], seed=config["seed"],
        eval_every=config["eval_every"], checkpoint_every=config["checkpoint_every"],
        video_every=config["video_every"], eval_episodes=config["eval_episodes"], resume=resume,
    )  # fmt: skip


def resume(path: Path, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Continue a run with its own configuration, changed by dotted ``KEY=VALUE`` overrides."""
    saved = OmegaConf.create(RunFolder(path).read_config())
    try:
        config = OmegaConf.merge(saved, OmegaConf.from_dotlist(list(overrides)))
    except ValueError as error:
        raise VrmError(f"Overrides must be KEY=VALUE, got {list(overrides)} ({error}).") from error
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return train_from_config({str(k): v for k, v in resolved.items()}, path, resume=True)


def evaluate_run(path: Path, **settings: Any) -> Episodes:
    """Play the newest checkpoint of the run in ``path``; settings as in :func:`vrm.agents.evaluate`."""
    from vrm.agents.evaluate import evaluate
    from vrm.rewards import load_reward

    run = RunFolder(path)
    config = run.read_config()
    reward = load_reward(run.reward_file)
    return evaluate(build_task(config), reward, build_algorithm(config), path, size=config["size"], **settings)


def compose(name: str, overrides: Sequence[str] = ()) -> Config:
    """Compose ``configs/NAME.yaml`` without running a job."""
    with hydra.initialize_config_module("vrm.configs", version_base="1.3"):
        config = hydra.compose(name, list(overrides))
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    return {str(k): v for k, v in resolved.items()}


def build_task(config: Config) -> TextGoalTask:
    """Build the task the configuration names."""
    task: TextGoalTask = instantiate(config["task"], _convert_="all")
    return task


def build_reward(config: Config) -> RewardModel:
    """Load the encoder and build the reward on it."""
    encoder = instantiate(config["encoder"])
    reward: RewardModel = instantiate(config["reward"])(encoder)
    return reward


def build_algorithm(config: Config) -> MakeAlgorithm:
    """Return what makes the agent from an environment."""
    algorithm: MakeAlgorithm = instantiate(config["agent"]["algorithm"], _convert_="all")
    return algorithm
