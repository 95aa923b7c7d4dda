"""Train agents in TorchRL, in the run folders that Stable-Baselines3 agents have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import configure

from vrm.agents.callbacks import Chores
from vrm.agents.rollouts import Examiner, make_envs
from vrm.agents.run import RunFolder
from vrm.agents.torchrl_agent import OnlineAgent, TorchAgent
from vrm.agents.torchrl_collect import Collection
from vrm.agents.torchrl_offline import OfflineAgent
from vrm.agents.train import MakeAlgorithm, build, finish
from vrm.data.trajectories import open_trajectories
from vrm.envs import TextGoalTask
from vrm.rewards import RewardModel
from vrm.rewards.base import check_taught

LOG_EVERY = 10  # rollouts
UPDATES = 50  # from a dataset, between looks at what is due


@dataclass(frozen=True)
class Schedule:
    """What is due when, as the settings of ``vrm train`` say it.

    Attributes:
        total_steps: where training ends: environment steps, or updates from a dataset.
        size: pixels of the frames that the reward sees.
        seed: of environments, weights and exploration.
        eval_every: steps between evaluations.
        checkpoint_every: steps between checkpoints.
        video_every: steps between videos.
        eval_episodes: episodes per evaluation.
        resume: continue from the newest checkpoint.
    """

    total_steps: int
    size: int = 64
    seed: int = 0
    eval_every: int = 10_000
    checkpoint_every: int = 20_000
    video_every: int = 50_000
    eval_episodes: int = 10
    resume: bool = False

    def __post_init__(self) -> None:
        """Check the length."""
        if self.total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {self.total_steps}.")


def train_torchrl(
    task: TextGoalTask,
    reward: RewardModel,
    make_agent: MakeAlgorithm,
    out: str | Path,
    schedule: Schedule,
    *,
    n_envs: int = 8,
    reward_batch: int = 256,
    collector: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Train on environments until ``schedule.total_steps``; rewards are scored before any update sees them.

    Args:
        task: the environment; its own reward is the ground truth and is only logged.
        reward: pays for every step; one that needs the future labels whole episodes, which rollouts then consist of.
        make_agent: takes ``env``, ``seed`` and ``device``; for instance ``functools.partial(SAC, hidden=[64, 64])``.
        out: the run's folder.
        schedule: how long, and what is due when.
        n_envs: environments stepped together.
        reward_batch: frames scored at once.
        collector: ``kind``, ``workers`` and ``address`` of :class:`~vrm.agents.torchrl_collect.Collection`.

    Returns:
        The final evaluation: ``reward_return``, ``true_return`` and ``success_rate``.

    Raises:
        CheckpointError: if there is nothing to resume.
        VrmError: if agent, task and collector do not go together.
    """
    with _session(task, reward, make_agent, Path(out), schedule) as (agent, chores, run):
        assert isinstance(agent, OnlineAgent)
        collection = Collection(
            agent, task, reward, run.reward_file, n_envs, schedule.size, schedule.seed + agent.num_timesteps,
            reward_batch=reward_batch, **(collector or {}),
        )  # fmt: skip
        try:
            chores.on_rollout_start()
            for number, data in enumerate(collection if agent.num_timesteps < schedule.total_steps else ()):
                agent.num_timesteps += data.numel()
                chores.on_step()
                _log(agent, "train", agent.learn(data), number)
                agent.logger.record("rollout/reward_model_mean", float(data["next", "reward"].mean()))
                chores.on_rollout_start()
                if agent.num_timesteps >= schedule.total_steps:
                    break
        finally:
            collection.close()
        return finish(run, chores)


def train_offline(
    task: TextGoalTask,
    reward: RewardModel,
    make_agent: MakeAlgorithm,
    dataset: str | Path,
    out: str | Path,
    schedule: Schedule,
) -> dict[str, float]:
    """Train from a dataset, whose own rewards are learned from; the environment serves to evaluate.

    Args:
        task: the environment that the dataset is from.
        reward: pays in evaluations and films.
        make_agent: as for :func:`train_torchrl`.
        dataset: what :func:`~vrm.data.trajectories.open_trajectories` opens, such as what ``vrm relabel`` wrote.
        out: the run's folder.
        schedule: how long, and what is due when; a step is an update.

    Returns:
        The final evaluation: ``reward_return``, ``true_return`` and ``success_rate``.

    Raises:
        CheckpointError: if there is nothing to resume.
        DemoError: if the dataset lacks what agents learn from, or does not fit the task.
    """
    with _session(task, reward, make_agent, Path(out), schedule) as (agent, chores, run):
        assert isinstance(agent, OfflineAgent)
        agent.study(open_trajectories(dataset).transitions())
        chores.on_rollout_start()
        number = 0
        while agent.num_timesteps < schedule.total_steps:
            found: dict[str, float] = {}
            for _ in range(min(UPDATES, schedule.total_steps - agent.num_timesteps)):
                found = agent.update()
                agent.num_timesteps += 1
            chores.on_step()
            _log(agent, "train", found, number)
            chores.on_rollout_start()
            number += 1
        return finish(run, chores)


@contextmanager
def _session(
    task: TextGoalTask, reward: RewardModel, make_agent: MakeAlgorithm, out: Path, schedule: Schedule
) -> Iterator[tuple[TorchAgent, Chores, RunFolder]]:
    """Everything around training: the folder, the newest checkpoint, what is due, and an end that loses nothing."""
    check_taught(reward)
    run = RunFolder(out)
    venv = make_envs(task, 1, schedule.size)
    try:
        agent: Any = build(make_agent, venv, schedule.seed)
    finally:
        venv.close()
    start = run.load_checkpoint(agent) if schedule.resume else 0
    run.forget_after(start)
    agent.set_logger(configure(str(run.path / "logs" / f"from_{start:09d}"), ["csv", "tensorboard"]))
    reward.save(run.reward_file)
    examiner = Examiner(task, reward, schedule.size, lanes=min(schedule.eval_episodes, 10))
    every = {"eval": schedule.eval_every, "checkpoint": schedule.checkpoint_every, "video": schedule.video_every}
    chores = Chores(
        run, examiner, reward, schedule.total_steps, every, schedule.eval_episodes, schedule.seed + 10_000,
        schedule.size,
    )  # fmt: skip
    chores.init_callback(agent)
    chores.on_training_start({}, {})
    try:
        yield agent, chores, run
    except KeyboardInterrupt:
        chores.checkpoint()
        print(f"\nInterrupted at step {agent.num_timesteps}, saved; continue with: vrm train --resume {run.path}")
        raise
    finally:
        chores.finish()
        agent.logger.close()
        examiner.close()


def _log(agent: TorchAgent, group: str, values: Mapping[str, float], number: int) -> None:
    for name, value in values.items():
        agent.logger.record(f"{group}/{name}", value)
    if number % LOG_EVERY == 0:
        agent.logger.dump(agent.num_timesteps)
