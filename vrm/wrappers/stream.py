"""The only place that knows about episodes: per-environment history for online rewards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vrm.frames import check_frames
from vrm.rewards.base import RewardModel, Terms


class RewardStream:
    """Feeds one frame per environment and step to a reward model and pays the reward of arriving there.

    Args:
        model: a causal reward model.
        num_envs: number ``N`` of environments that step together.

    Raises:
        ValueError: if ``num_envs`` is not positive or ``model`` needs future frames.

    Attributes:
        terms: the named parts ``(N,)`` of the last rewards, for ``info``.
    """

    def __init__(self, model: RewardModel, num_envs: int) -> None:
        """Start with no history; call :meth:`begin` with the frames that reset returned."""
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
        if not model.causal:
            raise ValueError(
                f"{type(model).__name__} needs frames from the future, so it cannot pay rewards step by step; "
                "use it with deferred or offline scoring."
            )
        self.model = model
        self.num_envs = num_envs
        self.terms: Terms = {}
        self._frames: list[list[Tensor]] = [[] for _ in range(num_envs)]
        self._state: list[list[dict[str, float]]] = [[] for _ in range(num_envs)]

    @property
    def needs_reset_frame(self) -> bool:
        """Whether rewards look back, so that an episode's first frame must be given to :meth:`begin`."""
        return self.model.window > 1

    def begin(self, frames: Tensor, state: Sequence[dict[str, float]] | None = None, mask: Tensor | None = None) -> None:
        """Start new episodes: forget history and remember the first frame, which is never paid.

        Args:
            frames: ``(N, 3, H, W)`` first frames.
            state: per environment, the values the model's ``state_keys`` name.
            mask: ``(N,)`` bool, which environments begin; all if omitted.
        """
        for i in range(self.num_envs):
            if mask is None or bool(mask[i]):
                self._frames[i], self._state[i] = [], []
                self._append(i, frames[i], state)

    def push(self, frames: Tensor, done: Tensor, state: Sequence[dict[str, float]] | None = None) -> Tensor:
        """Reward ``(N,)`` for arriving at ``frames``.

        Args:
            frames: ``(N, 3, H, W)`` RGB; where ``done``, the episode's own last frame, not the next one's first.
            done: ``(N,)`` bool, terminated or truncated; history is cleared after paying.
            state: per environment, the values the model's ``state_keys`` name.

        Raises:
            FrameError: if ``frames`` breaks the layout.
            ValueError: if there is not one frame per environment.
        """
        check_frames(frames, 4)
        if len(frames) != self.num_envs:
            raise ValueError(f"Expected one frame for each of {self.num_envs} environments, got {len(frames)}.")
        for i in range(self.num_envs):
            self._append(i, frames[i], state)
        self.terms = self._latest_terms()
        reward = self.model.combine(self.terms)
        for i in torch.nonzero(done).flatten().tolist():
            self._frames[i], self._state[i] = [], []
        return reward

    def _append(self, i: int, frame: Tensor, state: Sequence[dict[str, float]] | None) -> None:
        values = {k: float(state[i][k]) for k in self.model.state_keys} if state is not None else {}
        self._frames[i] = [*self._frames[i], frame][-self.model.window :]
        self._state[i] = [*self._state[i], values][-self.model.window :]

    def _latest_terms(self) -> Terms:
        """Run the model once for each distinct history length, keeping the last column of every term."""
        lengths = [len(f) for f in self._frames]
        columns: dict[str, list[Tensor]] = {}
        for length in sorted(set(lengths)):
            rows = [i for i, n in enumerate(lengths) if n == length]
            clips = torch.stack([torch.stack(self._frames[i]) for i in rows])
            for name, values in self.model.terms(clips, state=self._stack_state(rows)).items():
                columns.setdefault(name, [values.new_empty(0)] * self.num_envs)
                for i, value in zip(rows, values[:, -1], strict=True):
                    columns[name][i] = value
        return {name: torch.stack(values) for name, values in columns.items()}

    def _stack_state(self, rows: list[int]) -> dict[str, Tensor] | None:
        if not self.model.state_keys:
            return None
        return {k: torch.tensor([[s[k] for s in self._state[i]] for i in rows]) for k in self.model.state_keys}
