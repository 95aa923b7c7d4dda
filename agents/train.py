"""Train an agent on what a sentence, or any reward model, pays for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from vrm.agents.callbacks import Chores
from vrm.agents.distillation import DistillationCallback
from vrm.agents.online_reward import OnlineRewardCallback
from vrm.agents.preference_buffer import PreferenceReplayBuffer
from vrm.agents.preference_loop import PreferenceLoop
from vrm.agents.preference_settings import PreferenceSettings
from vrm.agents.rollouts import Examiner, make_envs, random_clips
from vrm.agents.run import RunFolder
from vrm.envs import TextGoalTask
from vrm.pictures import film_strip
from vrm.rewards import Rank2Reward, RewardModel, WinRateReward
from vrm.rewards.base import check_taught
from vrm.rewards.distilled import DistilledReward
from vrm.rewards.labellers import Labeller
from vrm.video import read_video
from vrm.wrappers.deferred import DeferredReplayBuffer, DeferredRewardCallback, attach_reward

MakeAlgorithm = Callable[..., BaseAlgorithm]


def train(
    task: TextGoalTask,
    reward: RewardModel,
    make_algorithm: MakeAlgorithm,
    out: str | Path,
    *,
    total_steps: int,
    n_envs: int = 8,
    size: int = 64,
    seed: int = 0,
    eval_every: int = 10_000,
    checkpoint_every: int = 20_000,
    video_every: int = 50_000,
    eval_episodes: int = 10,
    reward_batch: int = 256,
    resume: bool = False,
    labeller: Labeller | None = None,
    preference: PreferenceSettings | None = None,
) -> dict[str, float]:
    """Train until ``total_steps`` environment steps; rewards are scored in batches before any update sees them.

    Args:
        task: the environment; its own reward is the ground truth and is only logged.
        reward: pays for every step; one that needs the future labels episodes when they end, which off-policy
            algorithms can wait for. Saved into the run folder as it is.
        make_algorithm: takes an SB3 vector environment (and ``replay_buffer_class`` if off-policy), returns an
            algorithm; for instance ``functools.partial(SAC, "MlpPolicy")``.
        out: the run's folder.
        total_steps: environment steps over all environments.
        n_envs: environments stepped together.
        size: pixels of the frames that the reward sees.
        seed: of environments, weights and exploration.
        eval_every: steps between evaluations.
        checkpoint_every: steps between checkpoints.
        video_every: steps between videos.
        eval_episodes: episodes per evaluation.
        reward_batch: frames scored at once.
        resume: continue from the newest checkpoint in ``out``.
        labeller: answers which of two pieces of behaviour is better, while the agent trains; ``reward``, which must be
            a :class:`~vrm.rewards.PreferenceReward`, learns from that. The algorithm must be off-policy.
        preference: when and what it is asked; see :class:`~vrm.agents.preference_settings.PreferenceSettings`.

    Returns:
        The final evaluation: ``reward_return``, ``true_return`` and ``success_rate``.

    Raises:
        CheckpointError: if there is nothing to resume.
        UntaughtError: if the reward has learned nothing and nobody teaches it.
        ComparisonError: if there is a labeller, but the reward does not learn from it, or never learned anything.
        ValueError: if ``total_steps`` is not positive, or the algorithm is on-policy and the reward needs the future or
            a labeller.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}.")
    if labeller is None and not isinstance(reward, DistilledReward):
        check_taught(reward)
    preference = (preference or PreferenceSettings()).fitting(task) if labeller is not None else None
    run = RunFolder(out)
    venv = make_envs(task, n_envs, size)
    venv.seed(seed)
    algo = build(make_algorithm, venv, seed, DeferredReplayBuffer if labeller is None else PreferenceReplayBuffer)
    loop = None
    if labeller is not None and preference is not None:
        loop = PreferenceLoop(run, algo, reward, labeller, preference, "; ".join(task.goal), reward_batch, seed)
        run = loop.run  # whose checkpoints hold the loop, too
    start = run.load_checkpoint(algo) if resume else 0
    if loop is not None:
        loop.begin(resumed=resume)
    run.forget_after(start)
    algo.set_logger(configure(str(run.path / "logs" / f"from_{start:09d}"), ["csv", "tensorboard"]))
    reward.save(run.reward_file)
    examiner = Examiner(task, reward, size, lanes=min(eval_episodes, 10))
    every = {"eval": eval_every, "checkpoint": checkpoint_every, "video": video_every}
    chores = Chores(run, examiner, reward, total_steps, every, eval_episodes, seed + 10_000, size)
    payers = _payers(algo, reward, loop, run, reward_batch, seed)
    try:
        if start < total_steps:
            algo.learn(total_steps - start, callback=[*payers, chores], reset_num_timesteps=start == 0, log_interval=10)
        result = finish(run, chores)
    except KeyboardInterrupt:
        chores.checkpoint()
        print(f"\nInterrupted at step {algo.num_timesteps}, saved; continue with: vrm train --resume {run.path}")
        raise
    finally:
        for payer in payers:
            if isinstance(payer, DistillationCallback):
                payer.close()
        chores.finish()
        algo.logger.close()
        examiner.close()
        venv.close()
    return result


def _payers(
    algo: BaseAlgorithm, reward: RewardModel, loop: PreferenceLoop | None, run: RunFolder, batch: int, seed: int
) -> list[BaseCallback]:
    """What pays the agent, and before it what shows its frames to a reward that goes on learning."""
    if loop is not None:
        return [DeferredRewardCallback(loop.queue), loop]
    payer = attach_reward(algo, reward.playing() if isinstance(reward, WinRateReward) else reward, batch=batch)
    if isinstance(reward, Rank2Reward):
        return [OnlineRewardCallback(reward, seed=seed), payer]
    if isinstance(reward, DistilledReward):
        return [DistillationCallback(reward, run.path / "annotations", seed=seed), payer]
    return [payer]


def build(
    make_algorithm: MakeAlgorithm, venv: Any, seed: int, buffer: type[DeferredReplayBuffer] = DeferredReplayBuffer
) -> BaseAlgorithm:
    """Make the algorithm, with a replay buffer that waits for rewards where it has one."""
    target = getattr(make_algorithm, "func", make_algorithm)
    off_policy = isinstance(target, type) and issubclass(target, OffPolicyAlgorithm)
    extra = {"replay_buffer_class": buffer} if off_policy else {}
    return make_algorithm(env=venv, seed=seed, device="cpu" if not torch.cuda.is_available() else "auto", **extra)


def finish(run: RunFolder, chores: Chores) -> dict[str, float]:
    """Save, evaluate, film, and lay the first and the last film side by side."""
    chores.checkpoint()
    result = chores.evaluate()
    chores.shoot()
    films = sorted(run.videos.glob("step_*.mp4"))
    rows = [("before training", read_video(films[0])), ("after training", read_video(films[-1]))]
    film_strip(run.path / "before_after.png", rows, height=260)
    return result


def calibrate_on_random_play(reward: RewardModel, task: TextGoalTask, size: int = 64, episodes: int = 16) -> None:
    """Fit the reward's scale and shift to frames of random play; the task's criterion is not looked at."""
    calibrate: Any = getattr(reward, "calibrate", None)
    if calibrate is not None:
        calibrate(random_clips(task, size, episodes, seed=77))
