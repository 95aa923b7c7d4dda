"""The reward contract: clips to one number per frame, from the past and present only."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vrm.encoders import Encoder
from vrm.errors import CheckpointError, PromptError, UnknownNameError
from vrm.frames import check_frames

Goals = Sequence[str] | None
State = Mapping[str, Tensor] | None
Terms = dict[str, Tensor]


class RewardModel(nn.Module, ABC):
    """Maps clips to rewards ``(B, T)``; ``r[:, t]`` pays for arriving at frame ``t``, ``r[:, 0]`` is never paid.

    A subclass implements :meth:`terms` (the named parts) and :meth:`combine` (how they become one number); the
    class attributes say what wrappers and the command line may do with it.

    Attributes:
        window: how many frames of history, the present one included, one reward needs.
        causal: whether ``r[:, t]`` depends on frames ``<= t`` only; only such rewards can be paid online.
        granularity: ``"frame"`` if each frame has its own number, ``"clip"`` if one number is spread over frames.
        differentiable: whether gradients reach float clips.
        range: the closed interval that rewards lie in before any calibration.
    """

    window: int = 1
    causal: ClassVar[bool] = True
    granularity: ClassVar[Literal["frame", "clip"]] = "frame"
    differentiable: bool = True
    range: tuple[float, float] = (-float("inf"), float("inf"))

    @property
    def state_keys(self) -> tuple[str, ...]:
        """Names of the per-frame state values that :meth:`terms` reads from ``state``."""
        return ()

    @abstractmethod
    def terms(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """Compute the named parts of the reward, each ``(B, T)`` float32.

        Args:
            clips: ``(B, T, 3, H, W)`` RGB, uint8 or float in [0, 1].
            goals: one goal per clip, replacing those given at construction.
            state: per-frame values ``(B, T)`` by name, at least those in :attr:`state_keys`.
        """

    @abstractmethod
    def combine(self, terms: Terms) -> Tensor:
        """Turn the parts into the reward ``(B, T)``; elementwise, so it is valid on any slice of the parts."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Constructor arguments as JSON values, an encoder as its name: what :meth:`save` writes."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any], encoder: Encoder | None = None) -> Self:
        """Build the reward from :meth:`config`; ``encoder`` replaces loading the named one."""

    def forward(self, clips: Tensor, goals: Goals = None, state: State = None) -> Tensor:
        """Reward per frame ``(B, T)``; arguments as in :meth:`terms`."""
        return self.combine(self.terms(clips, goals, state))

    def score(self, clips: Tensor, goals: Goals = None, state: State = None) -> Tensor:
        """One number per clip ``(B,)``: the mean over time unless the method defines another."""
        return self.forward(clips, goals, state).mean(dim=1)

    def save(self, path: str | Path) -> None:
        """Write config, tensors and encoder fingerprints to one ``.safetensors`` file, atomically."""
        encoders = {id(m): m for m in self.modules() if isinstance(m, Encoder)}.values()
        header = {
            "class": type(self).__name__,
            "config": self.config(),
            "encoders": {e.name: e.fingerprint for e in encoders},
        }
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        save_file(self._own_tensors() or {"_": torch.zeros(1)}, partial, metadata={"vrm": json.dumps(header)})
        os.replace(partial, target)

    def _own_tensors(self) -> dict[str, Tensor]:
        """The state without the encoders' weights, which are named and fingerprinted instead of copied."""
        outside = tuple(f"{name}." for name, m in self.named_modules() if isinstance(m, Encoder))
        return {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items() if not k.startswith(outside)}


def load_reward(path: str | Path, encoder: Encoder | None = None) -> RewardModel:
    """Load what :meth:`RewardModel.save` wrote; nothing in the file is ever executed.

    Args:
        path: a ``.safetensors`` reward file.
        encoder: an already loaded encoder to use instead of loading the one the file names.

    Raises:
        CheckpointError: if the file is missing, damaged, no reward, or was saved with other encoder weights.
        UnknownNameError: if the file names a reward class that is not imported.
    """
    header, tensors = _read(Path(path))
    known = {cls.__name__: cls for cls in _subclasses(RewardModel)}
    if header["class"] not in known:
        raise UnknownNameError("reward class", header["class"], known, "Import the module that defines it first.")
    reward = known[header["class"]].from_config(header["config"], encoder)
    for module in reward.modules():
        if isinstance(module, Encoder) and header["encoders"].get(module.name) != module.fingerprint:
            raise CheckpointError(
                f"Reward {str(path)!r} was saved with encoders {header['encoders']}, but {module.name!r} here has "
                f"weights {module.fingerprint}; load it with the encoder it was made with, or calibrate again."
            )
    expected = reward._own_tensors()
    if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in expected.items()}:
        raise CheckpointError(f"Reward {str(path)!r} holds {sorted(tensors)}, its class expects {sorted(expected)}.")
    reward.load_state_dict(tensors, strict=False)
    return reward


def check_call(clips: Tensor, goals: Goals, state: State, state_keys: Sequence[str] = ()) -> Tensor:
    """Check the arguments of a reward call and return ``clips``.

    Raises:
        FrameError: if ``clips`` breaks the layout.
        PromptError: if there is not one non-empty goal per clip.
        ValueError: if a needed state value is missing or not ``(B, T)``.
    """
    check_frames(clips, 5)
    if goals is not None and (isinstance(goals, str) or len(goals) != len(clips)):
        raise PromptError(f"goals must hold one text per clip ({len(clips)} here), got {goals!r}.")
    for key in state_keys:
        if state is None or key not in state:
            given = sorted(state) if state else "none"
            raise ValueError(f"This reward reads state {key!r} for every frame; state given: {given}.")
        if tuple(state[key].shape) != tuple(clips.shape[:2]):
            shape = tuple(state[key].shape)
            raise ValueError(f"State {key!r} must be (B, T) = {tuple(clips.shape[:2])}, got {shape}.")
    return clips


def encode_frames(encoder: Encoder, clips: Tensor) -> Tensor:
    """Embed every frame of ``clips`` ``(B, T, 3, H, W)`` to ``(B, T, D)`` in one encoder call."""
    return encoder.memoized(clips, lambda c: encoder.encode_image(c.flatten(0, 1)).unflatten(0, c.shape[:2]))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"No reward file at {str(path)!r}; write one with reward.save(path).")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["vrm"])
            tensors = {k: file.get_tensor(k) for k in file.keys() if k != "_"}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{str(path)!r} is not a reward saved by vrm, or is damaged ({error}).") from error
    return header, tensors


def _subclasses(cls: type[RewardModel]) -> list[type[RewardModel]]:
    return [s for sub in cls.__subclasses__() for s in (sub, *_subclasses(sub))]

