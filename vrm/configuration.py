"""From Hydra's configuration to calls: the only place that knows both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vrm.agents.run import RunFolder
from vrm.errors import UnknownNameError, VrmError

if TYPE_CHECKING:
    from vrm.agents.rollouts import Episodes
    from vrm.agents.train import MakeAlgorithm
    from vrm.envs import TextGoalTask
    from vrm.rewards import RewardModel
    from vrm.rewards.labellers import Labeller

Config = dict[str, Any]


def run_hydra(name: str, arguments: Sequence[str], call: Callable[[Config, Path], None]) -> None:
    """Compose ``configs/NAME.yaml`` with overrides and call ``call(config, output folder)``, once per job of a sweep.

    Raises:
        VrmError: instead of Hydra's own errors for unknown groups, options and keys.
    """

    @hydra.main(version_base="1.3", config_path="pkg://vrm.configs", config_name=name)
    def job(config: DictConfig) -> None:
        try:
            with _one_sentence(f"Settings {list(arguments)} do not fit"):
                resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            assert isinstance(resolved, dict)
            call({str(k): v for k, v in resolved.items()}, Path(HydraConfig.get().runtime.output_dir))
        except (VrmError, InstantiationException) as error:
            failed.append(error)  # Hydra would print it and exit

    arguments = [override for argument in arguments for override in expand(argument)]
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


def expand(argument: str) -> list[str]:
    """Turn short forms into what Hydra understands, and leave the rest.

    A reward may be a file, ``reward=FILE.safetensors``; a teacher and its encoder are named as the reward and the
    encoder of a run are: ``reward.teacher=FILE``, ``reward.teacher=goal``, ``reward.teacher_encoder=openclip``.
    """
    key, _, value = argument.partition("=")
    group = {"reward": "reward", "reward.teacher": "reward@reward.teacher"}.get(key)
    if group is not None and value.endswith(".safetensors"):
        return [f"{group}=saved", f"{key}.path='{Path(value).absolute()}'"]
    if key == "reward.teacher" and value in list_options("reward"):
        return [f"{group}={value}"]
    if key == "reward.teacher_encoder" and value in list_options("encoder"):
        return [f"+encoder@{key}={value}"]
    return [argument]


def check_choices(name: str, arguments: Sequence[str]) -> None:
    """Refuse unknown tasks, encoders, rewards, labellers and agents in one sentence, before Hydra prints a page.

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
    from vrm.agents.preference_settings import PreferenceSettings
    from vrm.agents.train import calibrate_on_random_play, train
    from vrm.rewards import PreferenceReward, load_reward

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
    if {"dataset", "collector"} & agent.keys():
        return _train_torchrl(config, task, reward, out, resume)
    asks = isinstance(reward, PreferenceReward) and config.get("labeller") is not None
    return train(
        task, reward, build_algorithm(config), out,
        total_steps=agent["total_steps"], n_envs=agent["n_envs"], size=config["size"], seed=config["seed"],
        eval_every=config["eval_every"], checkpoint_every=config["checkpoint_every"],
        video_every=config["video_every"], eval_episodes=config["eval_episodes"], resume=resume,
        labeller=build_labeller(config) if asks else None, preference=PreferenceSettings(**config["preference"]),
    )  # fmt: skip


def _train_torchrl(
    config: Config, task: TextGoalTask, reward: RewardModel, out: Path, resume: bool
) -> dict[str, float]:
    """Train an agent of TorchRL, from a dataset if it names one."""
    from vrm.agents.torchrl_train import Schedule, train_offline, train_torchrl

    agent = config["agent"]
    names = ("size", "seed", "eval_every", "checkpoint_every", "video_every", "eval_episodes")
    schedule = Schedule(agent["total_steps"], **{name: config[name] for name in names}, resume=resume)
    if "dataset" in agent:
        return train_offline(task, reward, build_algorithm(config), agent["dataset"], out, schedule)
    return train_torchrl(
        task, reward, build_algorithm(config), out, schedule, n_envs=agent["n_envs"], collector=agent["collector"]
    )


def resume(path: Path, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Continue a run with its own configuration, changed by dotted ``KEY=VALUE`` overrides."""
    return train_from_config(read_config(path, overrides), path, resume=True)


def read_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a run's own configuration, changed by dotted ``KEY=VALUE`` overrides."""
    saved = OmegaConf.create(RunFolder(path).read_config())
    try:
        config = OmegaConf.merge(saved, OmegaConf.from_dotlist(list(overrides)))
    except ValueError as error:
        raise VrmError(f"Overrides must be KEY=VALUE, got {list(overrides)} ({error}).") from error
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return {str(k): v for k, v in resolved.items()}


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
    """Load the encoder and build the reward on it; or load a saved reward, which brings its own."""
    from vrm.rewards import load_reward

    if "path" in config["reward"]:
        return load_reward(config["reward"]["path"])
    encoder = instantiate(config["encoder"])
    reward: RewardModel = instantiate(config["reward"])(encoder)
    return reward


def build_rewards(
    names: Sequence[str],
    encoder: str = "vrm-sim",
    *,
    device: str | None = None,
    overrides: Sequence[str] = (),
    has_prompts: bool = True,
) -> dict[str, RewardModel]:
    """Build rewards that judge videos, all on one encoder.

    Args:
        names: of ``configs/reward``, or paths of saved rewards (``.safetensors``), which keep their own encoder.
        encoder: a name of ``configs/encoder`` or what :func:`vrm.load_encoder` takes.
        device: where encoders run; None for what the configuration says.
        overrides: ``KEY=VALUE`` settings of ``configs/score.yaml``; ``NAME.KEY=VALUE`` is for one of the rewards.
        has_prompts: whether every video comes with a prompt. If not, rewards that read one are refused.

    Returns:
        The rewards by name; a saved one by its file's name without suffix.

    Raises:
        VrmError: if a name or setting is unknown, named twice, or a reward cannot be built or has learned nothing.
    """
    from vrm.encoders import Encoder
    from vrm.rewards import load_reward
    from vrm.rewards.base import check_taught

    loaded: Encoder | None = None
    found: dict[str, RewardModel] = {}
    for name in names:
        is_file = name.endswith(".safetensors")
        if not is_file and name not in list_options("reward"):
            raise UnknownNameError("reward", name, list_options("reward"), "Or the path of a .safetensors file.")
        label = Path(name).stem if is_file else name
        if label in found:
            raise VrmError(f"Two rewards are named {label!r}; rename one, so that their rows can be told apart.")
        if is_file:
            found[label] = load_reward(name)
            for module in found[label].modules():
                if isinstance(module, Encoder) and device is not None:
                    module.to(device)
            continue
        config = _compose_for_scoring(name, encoder, device, [_for_reward(name, names, o) for o in overrides])
        if has_prompts:
            config.task.goal = "the prompt"  # stands for each video's own
        elif OmegaConf.is_missing(config.task, "goal") and "task.goal" in str(OmegaConf.to_yaml(config.reward)):
            raise VrmError(
                f"Reward {name!r} compares videos with a prompt, but none is given; pass --prompt or others."
            )
        with _one_sentence(f"Reward {name!r} cannot be built"):
            loaded = instantiate(config.encoder) if loaded is None else loaded
            found[label] = instantiate(config.reward)(loaded)
    for reward in found.values():
        check_taught(reward)
    return found


def _compose_for_scoring(name: str, encoder: str, device: str | None, overrides: Sequence[str]) -> DictConfig:
    is_option = encoder in list_options("encoder")
    group = [f"encoder={encoder}"] if is_option else []
    with (
        _one_sentence(f"Settings {list(overrides)} do not fit"),
        hydra.initialize_config_module("vrm.configs", version_base="1.3"),
    ):
        config = hydra.compose("score", [f"reward={name}", *group, *(o for o in overrides if o)])
    if not is_option:
        config.encoder.name = encoder
    if device is not None:
        config.encoder.device = device
    return config


def _for_reward(name: str, names: Sequence[str], override: str) -> str:
    """Turn ``NAME.KEY=VALUE`` into ``reward.KEY=VALUE`` for this reward, and into nothing for the others."""
    owner, _, rest = override.partition(".")
    if owner not in names:
        return override
    return f"reward.{rest}" if owner == name else ""


@contextmanager
def _one_sentence(what: str) -> Iterator[None]:
    """Turn the page that Hydra and OmegaConf write about a bad setting into a sentence."""
    try:
        yield
    except VrmError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, VrmError):
            raise cause from error
        raise VrmError(f"{what}: {str(cause).strip().splitlines()[0]}") from error


def build_labeller(config: Config) -> Labeller:
    """Build whoever answers questions; one that looks at frames gets the encoder."""
    made = instantiate(config["labeller"])
    labeller: Labeller = made(instantiate(config["encoder"])) if isinstance(made, partial) else made
    return labeller


def build_algorithm(config: Config) -> MakeAlgorithm:
    """Return what makes the agent from an environment."""
    algorithm: MakeAlgorithm = instantiate(config["agent"]["algorithm"], _convert_="all")
    return algorithm
