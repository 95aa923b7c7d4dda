"""A reward's labels for a dataset: a copy of it whose rewards a reward model paid."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from vrm.data.demos import DemoError
from vrm.data.trajectories import Trajectories, Trajectory, open_trajectories
from vrm.encoders import Encoder
from vrm.envs import TextGoalTask
from vrm.errors import VrmError
from vrm.frames import from_hwc
from vrm.rewards import RewardModel
from vrm.rewards.base import TERMINATED, to_spec
from vrm.wrappers.history import Scorer

BATCH = 256  # frames scored at once


def relabel(
    dataset: str | Path,
    reward: RewardModel,
    out: str | Path,
    *,
    task: TextGoalTask | None = None,
    size: int = 64,
    progress: bool = True,
) -> Path:
    """Write a copy of a dataset in which ``reward`` pays every step; ``r[t]`` is for the frame step ``t`` arrives at.

    The copy has the format of the dataset. The rewards that it had stay beside the new ones, as ``env_rewards``, and a
    stamp says what paid. Labels are kept episode by episode in ``.OUT.relabel`` until the copy is complete: a call that
    was killed goes on where it was, one with another reward starts anew, and ``out`` is there whole or not at all.

    Args:
        dataset: what :func:`~vrm.data.trajectories.open_trajectories` opens.
        reward: any reward model; one that reads state gets ``env_reward``, ``terminated`` and what the dataset says of
            each frame, such as ``success``.
        out: the copy, which must not exist.
        task: renders frames of a dataset without pictures from its ``qpos`` and ``qvel``.
        size: height and width of rendered frames.
        progress: whether to draw a progress bar.

    Returns:
        ``out``.

    Raises:
        DemoError: if the dataset is damaged, has no frames and they cannot be rendered, or ``out`` exists.
        VrmError: if the reward cannot judge it.
    """
    target = Path(out)
    source = open_trajectories(dataset)
    if target.exists():
        raise DemoError(f"{target} exists already; remove it, or name another copy.")
    stamp = {**describe(reward), "dataset": str(source.path.name), "vrm": version("vrm")}
    labels = _Labels(target, stamp, source)
    renderer = _Renderer(task, size) if task is not None else None
    try:
        missing = [index for index in range(len(source)) if not labels.has(index)]
        bar: Iterable[int] = tqdm(
            missing, initial=len(source) - len(missing), total=len(source), desc="relabel", unit="episode",
            disable=not progress, dynamic_ncols=True,
        )  # fmt: skip
        for index in bar:
            labels.keep(index, _score(source, index, reward, renderer))
    finally:
        if renderer is not None:
            renderer.close()
    labels.finish()
    return target


def describe(reward: RewardModel) -> dict[str, Any]:
    """What tells a reward from others: its class and settings, its encoders, and a fingerprint of all its numbers."""
    digest = hashlib.sha256(json.dumps(to_spec(reward), sort_keys=True).encode())
    inside = [name for name, module in reward.named_modules(remove_duplicate=False) if isinstance(module, Encoder)]
    for name, values in sorted(reward.state_dict().items()):
        if not name.startswith(tuple(f"{part}." for part in inside)):
            digest.update(name.encode() + values.detach().cpu().contiguous().numpy().tobytes())
    encoders = {m.name: m.fingerprint for m in reward.modules() if isinstance(m, Encoder)}
    digest.update(json.dumps(encoders, sort_keys=True).encode())
    return {"reward": to_spec(reward), "encoders": encoders, "fingerprint": digest.hexdigest()[:16]}


class _Labels:
    """Rewards of the episodes that are done, one file each, in a folder that belongs to one reward and dataset."""

    def __init__(self, target: Path, stamp: dict[str, Any], source: Trajectories) -> None:
        self.target, self.stamp, self.source = target, stamp, source
        self.folder = target.with_name(f".{target.name}.relabel")
        about = json.dumps({**stamp, "episodes": len(source), "path": str(source.path.absolute())}, sort_keys=True)
        note = self.folder / "stamp.json"
        if note.is_file() and note.read_text(encoding="utf-8") != about:
            shutil.rmtree(self.folder)
        if not note.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / ".stamp.partial"
            partial.write_text(about, encoding="utf-8")
            os.replace(partial, note)

    def has(self, index: int) -> bool:
        return self._file(index).is_file()

    def keep(self, index: int, rewards: torch.Tensor) -> None:
        partial = self.folder / f".{index}.partial"
        save_file({"rewards": rewards.float().contiguous()}, partial)
        os.replace(partial, self._file(index))

    def finish(self) -> None:
        """Write the copy beside its place, move it there, and drop what it was made of."""
        partial = self.target.with_name(f".{self.target.name}.copy")
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
        self.source.write_copy(partial, [self._read(index) for index in range(len(self.source))], self.stamp)
        os.replace(partial, self.target)
        shutil.rmtree(self.folder)

    def _read(self, index: int) -> NDArray[np.float32]:
        with safe_open(self._file(index), "np") as file:
            rewards: NDArray[np.float32] = file.get_tensor("rewards")
        return rewards

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:06d}.safetensors"


def _score(source: Trajectories, index: int, reward: RewardModel, renderer: _Renderer | None) -> torch.Tensor:
    """Rewards ``(T,)`` of an episode."""
    found = source.read(index)
    frames = source.frames(index)
    if frames is None:
        frames = _render(found, renderer)
    steps = len(frames) - 1
    if steps < 1 or (found.actions is not None and len(found.actions) != steps):
        given = "no" if found.actions is None else len(found.actions)
        raise DemoError(f"{found.name} has {len(frames)} frames and {given} actions; T actions need T + 1 frames.")
    state = _state(found, steps, reward)
    scorer = Scorer(reward, whole=True)
    moments = [scorer.moment(frame, state[t]) for t, frame in enumerate(frames)]
    return scorer.every([moments], BATCH)[0][1:]


def _state(found: Trajectory, steps: int, reward: RewardModel) -> list[dict[str, float]]:
    """The state values that the reward reads, of each frame."""
    rewards = found.rewards if found.rewards is not None else np.full(steps, np.nan, np.float32)
    columns = {
        **found.state,
        "env_reward": np.concatenate([[0.0], rewards]),
        TERMINATED: np.eye(steps + 1)[-1] * found.terminated,
    }
    for key in reward.state_keys:
        values = columns.get(key)
        if values is None or len(values) != steps + 1 or not np.isfinite(values).all():
            known = sorted(k for k, v in columns.items() if len(v) == steps + 1 and np.isfinite(v).all())
            raise VrmError(f"The reward reads state {key!r} of every frame, but {found.name} has only {known}.")
    return [{key: float(columns[key][t]) for key in reward.state_keys} for t in range(steps + 1)]


def _render(found: Trajectory, renderer: _Renderer | None) -> torch.Tensor:
    if not {"qpos", "qvel"} <= found.simulator.keys():
        raise DemoError(
            f"{found.name} has neither frames nor the simulator's qpos and qvel in its infos, so there is nothing to "
            "look at; collect it with gymnasium.wrappers.AddRenderObservation, or use `vrm record RUN --states`."
        )
    if renderer is None:
        raise DemoError(f"{found.name} has no frames, but qpos and qvel; name the task that renders them with --task.")
    return renderer.frames(found)


class _Renderer:
    """Puts a task's simulator into recorded states and takes pictures."""

    def __init__(self, task: TextGoalTask, size: int) -> None:
        self.task = task
        self._env = task.make(size=size)
        self._env.reset(seed=0)
        if not hasattr(self._env.unwrapped, "set_state"):
            raise DemoError(f"Task {task.name} has no simulator that takes qpos and qvel, so it cannot render them.")

    def frames(self, found: Trajectory) -> torch.Tensor:
        base: Any = self._env.unwrapped
        qpos, qvel = found.simulator["qpos"], found.simulator["qvel"]
        if qpos.shape[1:] != (base.model.nq,) or qvel.shape[1:] != (base.model.nv,):
            raise DemoError(
                f"{found.name} has qpos {qpos.shape[1:]} and qvel {qvel.shape[1:]}, but {self.task.name} has "
                f"{(base.model.nq,)} and {(base.model.nv,)}; name the task that it was recorded in."
            )
        shots = []
        for position, velocity in zip(qpos, qvel, strict=True):
            base.set_state(position, velocity)
            shots.append(base.render().copy())
        return from_hwc(np.stack(shots))

    def close(self) -> None:
        self._env.close()
