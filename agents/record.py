"""Record what a policy does as videos that rewards can be learned from."""

from __future__ import annotations

import argparse
import os
import warnings
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from vrm.agents.callbacks import deterministic
from vrm.agents.rollouts import Episodes, Policy, make_envs
from vrm.agents.run import RunFolder
from vrm.agents.train import build
from vrm.data.demos import DemoError
from vrm.data.recordings import Episode, read_episodes, write_episodes
from vrm.envs import TextGoalTask
from vrm.envs.rendering import Quality
from vrm.frames import from_hwc
from vrm.video import write_video
from vrm.wrappers import FrameCapture

TRIES_PER_EPISODE = 10


def record(
    task: TextGoalTask,
    policy: Policy,
    out: str | Path,
    *,
    episodes: int = 5,
    seed: int = 0,
    size: int = 128,
    quality: Quality = "fast",
    only_success: bool = True,
    min_success: float = 1.0,
    max_tries: int | None = None,
    policy_name: str = "policy",
    states: bool = False,
) -> list[Path]:
    """Play episodes and write each as a video, with ``episodes.jsonl`` beside them; ``load_demos([out])`` reads both.

    Episode after episode is played with seeds ``seed``, ``seed + 1``, … until enough are kept. What is already in
    ``out`` is not played again, so that a call that was cut off, or one that asks for more, goes on.

    Args:
        task: what to play.
        policy: observations ``(N, …)`` to actions ``(N, …)``; here N is 1.
        out: folder, made if it is missing.
        episodes: how many to keep.
        seed: of the first episode.
        size: height and width of the frames in pixels.
        quality: ``"fast"``, as reward models see the task, or ``"full"``, as people do.
        only_success: keep only episodes in which the task is done.
        min_success: an episode counts as done if the criterion holds in at least this share of its last fifth.
        max_tries: give up after so many episodes in all; None for ten times ``episodes``.
        policy_name: who plays; a recording holds the episodes of one.
        states: write what offline learning needs beside the actions, too: ``observations`` ``(T + 1, D)``, the task's
            own ``rewards`` ``(T,)``, ``terminated``, ``truncated``, and MuJoCo's ``qpos`` and ``qvel``.

    Returns:
        The videos, in the order they were played.

    Raises:
        DemoError: if ``out`` holds another recording, or ``max_tries`` episodes do not suffice; what was kept stays.
        ValueError: if a number is out of range.

    Example:
        >>> import tempfile, numpy as np
        >>> from vrm.envs import make_task
        >>> task = make_task("cartpole", episode_steps=10)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = record(task, lambda obs: np.zeros(len(obs), int), folder, episodes=1, only_success=False)
        >>> paths[0].name
        'episode_00000.mp4'
    """
    tries = TRIES_PER_EPISODE * episodes if max_tries is None else max_tries
    _check_numbers(episodes, tries, size, min_success)
    session = _Session(task, Path(out), policy_name, size, quality, only_success, min_success, states)
    session.go_on(policy, episodes, seed, tries)
    return [session.out / e.file for e in session.kept[:episodes] if e.file is not None]


def record_run(path: str | Path, out: str | Path, noise: float = 0.0, **settings: Any) -> list[Path]:
    """Record the newest checkpoint of the training run in ``path``, without exploration.

    Args:
        path: folder of the run.
        out: as for :func:`record`.
        noise: share of the steps that act at random, in [0, 1]; 1 is random play.
        settings: further arguments of :func:`record`.

    Raises:
        CheckpointError: if ``path`` is no run or has no checkpoint.
        DemoError: as :func:`record`.
        ValueError: as :func:`record`, or if ``noise`` is no share.
    """
    from vrm.configuration import build_algorithm, build_task

    if not 0 <= noise <= 1:
        raise ValueError(f"noise must be a share in [0, 1], got {noise}.")
    run = RunFolder(path)
    config = run.read_config()
    task = build_task(config)
    venv = make_envs(task, 1, config["size"])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about batch sizes, which do not matter for play
            algorithm = build(build_algorithm(config), venv, seed=0)
        step = run.load_checkpoint(algorithm, with_buffer=False)
    finally:
        venv.close()
    policy, name = deterministic(algorithm), f"{run.path.name} at step {step}"
    if noise:
        policy, name = _noisy(policy, venv.action_space, noise), f"{name}, {noise:g} at random"
    return record(task, policy, out, policy_name=name, **settings)


def record_command(arguments: list[str]) -> int:
    """``vrm record RUN --out DIR``: parse, record, say what came out."""
    parser = argparse.ArgumentParser("vrm record", description="Record a trained agent as demonstration videos.")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for videos and episodes.jsonl")
    parser.add_argument("--episodes", type=int, default=5, help="how many to keep (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode (default 0)")
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels (default 128)")
    parser.add_argument("--quality", choices=("fast", "full"), default="fast", help="full: as people watch it")
    parser.add_argument("--all", action="store_true", help="keep episodes that fail, too")
    parser.add_argument(
        "--min-success", type=float, default=1.0, metavar="SHARE",
        help="of the last fifth of an episode in which the task's criterion must hold (default 1)",
    )  # fmt: skip
    parser.add_argument("--max-tries", type=int, metavar="N", help="episodes played at most (default 10 per episode)")
    parser.add_argument("--states", action="store_true", help="write observations and rewards, for offline learning")
    parser.add_argument(
        "--noise", type=float, default=0.0, metavar="SHARE", help="of the steps that act at random (default 0)"
    )
    given = parser.parse_args(arguments)
    try:
        paths = record_run(
            given.run, given.out, episodes=given.episodes, seed=given.seed, size=given.size, quality=given.quality,
            only_success=not given.all, min_success=given.min_success, max_tries=given.max_tries,
            states=given.states, noise=given.noise,
        )  # fmt: skip
    except ValueError as error:
        if isinstance(error, DemoError):
            raise
        parser.error(str(error))
    tried = read_episodes(given.out)
    done = sum(episode.done for episode in tried)
    print(f"{len(paths)} episodes kept, {len(tried)} tried, the task done in {done} of them")
    print(f"videos: {given.out}")
    return 0


@dataclass
class _Session:
    """A recording that goes on."""

    task: TextGoalTask
    out: Path
    policy_name: str
    size: int
    quality: Quality
    only_success: bool
    min_success: float
    states: bool = False
    played: list[Episode] = field(init=False)

    def __post_init__(self) -> None:
        found = read_episodes(self.out)
        self.played = [e for e in found if e.file is None or (self.out / e.file).is_file()]
        ours = {"task": self.task.name, "policy": self.policy_name, "size": self.size, "quality": self.quality}
        for name, value in ours.items():
            other = next((getattr(e, name) for e in found if getattr(e, name) != value), None)
            if other is not None:
                raise DemoError(
                    f"{self.out} holds a recording with {name} {other!r}, not {value!r}; use another folder."
                )

    @property
    def kept(self) -> list[Episode]:
        """Episodes with a video that meet what is asked now."""
        return [e for e in self.played if e.file is not None and (self._enough(e) or not self.only_success)]

    @property
    def settled(self) -> list[Episode]:
        """Episodes that need not be played again: kept ones, and those that would be rejected again."""
        return [e for e in self.played if e.file is not None or (self.only_success and not self._enough(e))]

    def go_on(self, policy: Policy, episodes: int, seed: int, tries: int) -> None:
        """Play until enough episodes are kept."""
        if len(self.kept) >= episodes:
            return
        env = FrameCapture(self.task.make(size=self.size, quality=self.quality))
        try:
            for number in count(seed):
                if len(self.kept) >= episodes:
                    return
                if number in {e.seed for e in self.settled}:
                    continue
                if len(self.settled) >= tries:
                    raise self._gave_up(episodes, tries)
                self._keep(number, _play(env, policy, number))
        finally:
            env.close()

    def _enough(self, episode: Episode) -> bool:
        return episode.success_rate >= self.min_success - 1e-6

    def _keep(self, seed: int, shot: _Shot) -> None:
        """Write the video first and the line about it last: what has a line is complete."""
        rate = shot.success_rate
        done = rate >= self.min_success - 1e-6
        keep = done or not self.only_success
        name = f"episode_{seed:05d}"
        if keep:
            write_video(self.out / f"{name}.mp4", shot.frames, shot.fps)
            _write_arrays(self.out / f"{name}.npz", {"actions": shot.actions, **(shot.states if self.states else {})})
        episode = Episode(
            seed, done, round(rate, 6), f"{name}.mp4" if keep else None, f"{name}.npz" if keep else None,
            shot.success if keep else None, shot.stages if keep else None, shot.fps,
            self.task.goal[0], self.task.name, self.policy_name, self.size, self.quality,
        )  # fmt: skip
        self.played = [e for e in self.played if e.seed != seed] + [episode]
        write_episodes(self.out, self.played)

    def _gave_up(self, episodes: int, tries: int) -> DemoError:
        best = max((e.success_rate for e in self.settled), default=0.0)
        return DemoError(
            f"Only {len(self.kept)} of {len(self.settled)} episodes, not {episodes}, meet the criterion of "
            f"{self.task.name} ({self.task.criterion}) in {self.min_success:.0%} of their last fifth; the best reaches "
            f"{best:.0%}. Lower min_success, raise max_tries ({tries}), keep all, or train longer."
        )


@dataclass(frozen=True)
class _Shot:
    """One episode: frames ``(T + 1, 3, H, W)`` uint8 from reset on, actions ``(T, A)``, labels per frame, states."""

    frames: torch.Tensor
    actions: NDArray[np.float32]
    success: list[int]
    stages: list[int] | None
    fps: float
    states: dict[str, NDArray[Any]]

    @property
    def success_rate(self) -> float:
        """Share of the last fifth of the steps in which the criterion holds."""
        steps = np.array(self.success[1:], dtype=np.bool_)[None]
        nothing = np.zeros(steps.shape, np.float32)
        return Episodes(nothing, nothing, steps).success_rate


def _play(env: FrameCapture, policy: Policy, seed: int) -> _Shot:
    observation, info = env.reset(seed=seed)
    infos, actions = [info], []
    columns: dict[str, list[Any]] = {"observations": [observation], "rewards": [], **_simulator(env)}
    ended = False
    while not ended:
        action = policy(np.asarray(observation)[None])[0]
        observation, reward, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
        infos.append(info)
        for name, values in {"observations": [observation], "rewards": [float(reward)], **_simulator(env)}.items():
            columns[name] += values
        actions.append(np.asarray(action, dtype=np.float32).reshape(-1))
    stages = [int(info["stage"]) for info in infos] if all("stage" in info for info in infos) else None
    return _Shot(
        from_hwc(np.stack([info["frame"] for info in infos])), np.stack(actions),
        [int(info["success"]) for info in infos], stages, float(env.metadata.get("render_fps") or 30),
        {**{name: np.asarray(values) for name, values in columns.items()},
         "terminated": np.array(terminated), "truncated": np.array(truncated)},
    )  # fmt: skip


def _simulator(env: FrameCapture) -> dict[str, list[Any]]:
    """MuJoCo's state, where there is one."""
    data: Any = getattr(env.unwrapped, "data", None)
    return {} if data is None else {"qpos": [data.qpos.copy()], "qvel": [data.qvel.copy()]}


def _noisy(policy: Policy, space: Any, share: float) -> Policy:
    """A policy that now and then acts at random; chance hangs on what it sees, so that a recording can be repeated."""

    def one(seen: NDArray[Any], action: Any) -> Any:
        chance = crc32(np.ascontiguousarray(seen).tobytes())
        space.seed(chance)
        return space.sample() if chance < share * 2**32 else action

    def act(observation: NDArray[Any]) -> NDArray[Any]:
        actions = policy(observation)
        drawn = [one(seen, action) for seen, action in zip(observation, actions, strict=True)]
        return np.asarray(drawn, dtype=actions.dtype)

    return act


def _write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial.npz")
    try:
        np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _check_numbers(episodes: int, tries: int, size: int, min_success: float) -> None:
    for name, value, least in (("episodes", episodes, 1), ("max_tries", tries, episodes), ("size", size, 16)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
    if not 0 < min_success <= 1:
        raise ValueError(f"min_success must be a share above 0 and at most 1, got {min_success}.")
