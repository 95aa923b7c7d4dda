"""Milestones of manipulation episodes, found in the gripper and the arm's motion, as labels of progress.

VLA-RL (Lu et al. 2025, arXiv 2505.18719) makes the training labels of its process reward model from successful
trajectories: where the gripper opens or closes a sub-task ends, and within a sub-task the frames where the
end-effector nearly stands still are milestones. Its label script is not released; the rule here is stated in full at
:func:`milestones`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vrm.data.demos import Demo, DemoError

Indices = NDArray[np.int64]


def milestones(
    gripper: ArrayLike,
    velocity: ArrayLike | None = None,
    positions: ArrayLike | None = None,
    *,
    hysteresis: float = 0.2,
    least_range: float = 0.01,
    hold: int = 3,
    still: float = 0.1,
    smooth: int = 3,
) -> Indices:
    """Find the frames at which a part of the task is finished.

    The rule, in order:

    1. The gripper is open or closed: its state changes where openness passes the middle of its range by more than half
       of ``hysteresis`` times the range, and only if it stays so for ``hold`` frames. The frame of a change ends a
       sub-task. Openness whose range is below ``least_range`` never changes, however its noise looks.
    2. Speed is smoothed by a centred median over ``smooth`` frames. The arm stands still where it is below ``still``
       times the 95th percentile of the episode's speeds; of each run of ``hold`` still frames or more the slowest frame
       (the first if several are) is a keyframe.
    3. A run of stillness with a gripper change in it, or within ``hold`` frames of one, is part of that change; a run
       at the start, before anything has moved, and one that reaches the end finish nothing.
    4. The last frame finishes the task.

    Args:
        gripper: ``(T,)`` openness, or the command for it, of any sign.
        velocity: ``(T,)`` speed of the end-effector, or ``(T, k)`` of which the norm is taken; in any unit.
        positions: ``(T, k)`` end-effector positions, whose change from the frame before is taken for the velocity;
            with neither, only the gripper counts.
        hysteresis: dead band as a share of the gripper's range, in [0, 1).
        least_range: smallest range, in the gripper's unit, that counts as opening and closing; the default suits
            commands in [-1, 1] and metres.
        hold: frames that a state must last to count, at least 1.
        still: share of the episode's high speed below which the arm stands still, in (0, 1).
        smooth: odd number of frames, 1 for none.

    Returns:
        ``(K,)`` int64 frames in rising order, the last of them ``T - 1``.

    Raises:
        ValueError: if a signal has another length or is not finite, both velocity and positions are given, or an option
            is out of its range.

    Example:
        >>> milestones([1, 1, 1, 1, 0, 0, 0, 0], hold=2)
        array([4, 7])

    Paper: Lu et al. 2025, "VLA-RL: Towards Masterful and General Robotic Manipulation with Scalable Reinforcement
    Learning", arXiv 2505.18719, section on the robotic process reward model.
    """
    if not 0 <= hysteresis < 1 or not 0 < still < 1 or hold < 1 or smooth < 1 or smooth % 2 == 0:
        raise ValueError(
            "hysteresis must lie in [0, 1), still in (0, 1), hold be at least 1 and smooth odd and at least 1; got "
            f"{hysteresis=}, {still=}, {hold=}, {smooth=}."
        )
    if velocity is not None and positions is not None:
        raise ValueError("Give velocity or positions, not both: one is computed from the other.")
    openness = _signal(gripper, "gripper", ndim=(1,))
    total = len(openness)
    changes = _changes(openness, hysteresis, least_range, hold)
    speed = _speed(velocity, positions, total)
    keyframes = [] if speed is None else _keyframes(_median(speed, smooth), changes, still, hold)
    return np.unique(np.array([*changes, *keyframes, total - 1], dtype=np.int64))


def process_labels(
    total: int, found: ArrayLike, form: Literal["progress", "milestone"] = "progress"
) -> NDArray[np.float32]:
    """Label every frame of an episode from its milestones.

    Args:
        total: number ``T`` of frames.
        found: ``(K,)`` frames of milestones in rising order, the last of them ``T - 1``; from :func:`milestones`.
        form: ``"progress"`` rises by ``1 / K`` from milestone to milestone, evenly over the frames between;
            ``"milestone"`` is 1 at milestones and 0 elsewhere, which is what VLA-RL trains its model to say.

    Returns:
        ``(T,)`` float32 in [0, 1]; as progress it starts at 0 and ends at 1.

    Raises:
        ValueError: if milestones are not such frames, or ``form`` is unknown.

    Example:
        >>> process_labels(5, [2, 4])
        array([0.  , 0.25, 0.5 , 0.75, 1.  ], dtype=float32)
        >>> process_labels(5, [2, 4], "milestone")
        array([0., 0., 1., 0., 1.], dtype=float32)
    """
    frames = _check_milestones(total, found)
    if form not in ("progress", "milestone"):
        raise ValueError(f"form must be 'progress' or 'milestone', got {form!r}.")
    if form == "milestone":
        return np.isin(np.arange(total), frames).astype(np.float32)
    known = np.array([0, *frames]), np.linspace(0, 1, len(frames) + 1)
    labels: NDArray[np.float32] = np.interp(np.arange(total), *known).astype(np.float32)
    return labels


def stages(total: int, found: ArrayLike) -> Indices:
    """Number the steps between milestones: ``(T,)`` int64 from 0; a milestone is the last frame of its step.

    Args and errors as for :func:`process_labels`.

    Example:
        >>> stages(5, [2, 4])
        array([0, 0, 0, 1, 1])
    """
    return np.searchsorted(_check_milestones(total, found), np.arange(total)).astype(np.int64)


def stage_demo(demo: Demo, gripper: int = -1, motion: Sequence[int] | None = None, **options: Any) -> Demo:
    """Give a demonstration the steps that its actions show.

    Actions are taken for velocity or displacement commands, with one column for the gripper, as in LIBERO, Meta-World
    and Gymnasium-Robotics; what led to frame ``t`` is ``actions[t - 1]``, and frame 0 counts as having the first.

    Args:
        demo: with actions ``(T - 1, A)``.
        gripper: column of the gripper's command.
        motion: columns whose norm is the arm's speed; by default all others.
        options: those of :func:`milestones`.

    Returns:
        The same demonstration with :attr:`Demo.stages`.

    Raises:
        DemoError: if it has no actions, or a column is not among them.
        ValueError: if actions are not finite or an option is out of its range.
    """
    if demo.actions is None:
        raise DemoError(f"Demonstration {demo.name!r} has no actions to find milestones in; record it with actions.")
    width = demo.actions.shape[1]
    others = [i for i in range(width) if i != gripper % width] if motion is None else list(motion)
    if not all(-width <= column < width for column in (gripper, *others)):
        raise DemoError(
            f"Demonstration {demo.name!r} has {width} action columns; gripper={gripper} and motion={others} must be "
            "among them."
        )
    arrived = np.concatenate([demo.actions[:1], demo.actions])
    speed = arrived[:, others] if others else None
    return replace(demo, stages=stages(len(demo), milestones(arrived[:, gripper], speed, **options)))


def _signal(values: ArrayLike, name: str, ndim: tuple[int, ...], total: int | None = None) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in ndim or len(array) < 1 or not np.isfinite(array).all() or total not in (None, len(array)):
        rows = "one row per frame" if total is None else f"{total} rows, one per frame as the gripper has"
        raise ValueError(f"{name} must be finite, of {' or '.join(map(str, ndim))} axes and {rows}; got {array.shape}.")
    return array


def _speed(velocity: ArrayLike | None, positions: ArrayLike | None, total: int) -> NDArray[np.float64] | None:
    if velocity is not None:
        given = _signal(velocity, "velocity", (1, 2), total)
        speed: NDArray[np.float64] = np.linalg.norm(given.reshape(total, -1), axis=1)
        return speed
    if positions is None:
        return None
    moved = np.linalg.norm(np.diff(_signal(positions, "positions", (2,), total), axis=0), axis=1)
    return np.concatenate([moved[:1], moved]) if total > 1 else np.zeros(1)


def _changes(openness: NDArray[np.float64], hysteresis: float, least_range: float, hold: int) -> list[int]:
    low, high = openness.min(), openness.max()
    if high - low < max(least_range, 1e-9):
        return []
    middle, band = (low + high) / 2, hysteresis * (high - low) / 2
    side = np.where(openness > middle + band, 1, np.where(openness < middle - band, -1, 0))
    found, state = [], 0
    for t in range(len(side)):
        ahead = side[t : t + hold]
        if side[t] not in (0, state) and len(ahead) == hold and (ahead == side[t]).all():
            if state:
                found.append(t)
            state = int(side[t])
    return found


def _keyframes(speed: NDArray[np.float64], changes: Sequence[int], still: float, hold: int) -> list[int]:
    resting = np.concatenate([[False], speed < still * np.percentile(speed, 95), [False]])
    starts, ends = np.flatnonzero(np.diff(resting.astype(np.int8))).reshape(-1, 2).T
    found = []
    for start, end in zip(starts, ends, strict=True):  # the run is speed[start:end]
        near = any(start - hold <= change < end + hold for change in changes)
        if end - start >= hold and start > 0 and end < len(speed) and not near:
            found.append(int(start + np.argmin(speed[start:end])))
    return found


def _median(speed: NDArray[np.float64], smooth: int) -> NDArray[np.float64]:
    padded = np.pad(speed, smooth // 2, mode="edge")
    medians: NDArray[np.float64] = np.median(np.lib.stride_tricks.sliding_window_view(padded, smooth), axis=1)
    return medians


def _check_milestones(total: int, found: ArrayLike) -> Indices:
    frames = np.asarray(found, dtype=np.int64)
    rising = frames.ndim == 1 and frames.size > 0 and bool((np.diff(frames) > 0).all())
    if total < 2 or not rising or frames[0] < 1 or frames[-1] != total - 1:
        raise ValueError(
            f"Milestones must be rising frames from 1 on, the last of them T - 1 = {total - 1}, got {frames.tolist()}."
        )
    return frames
