"""The reward contract: clips to one number per frame, from the past and present only."""

from __future__ import annotations

import inspect
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vrm.encoders import Encoder, load_encoder
from vrm.errors import CheckpointError, PromptError, UnknownNameError, UntaughtError
from vrm.frames import check_frames

Goals = Sequence[str] | None
State = Mapping[str, Tensor] | None
TERMINATED = "terminated"  # state that wrappers fill from a step's flags; where it is missing, nothing has terminated
Terms = dict[str, Tensor]
Encoders = Encoder | Mapping[str, Encoder] | None


class RewardModel(nn.Module, ABC):
    """Maps clips to rewards ``(B, T)``; ``r[:, t]`` pays for arriving at frame ``t``, ``r[:, 0]`` is never paid.

    A subclass implements :meth:`terms` (the named parts) and :meth:`combine` (how they become one number); the
    class attributes say what wrappers and the command line may do with it. Terms and rewards come back on the device
    of ``clips``, wherever the encoder is.

    Attributes:
        window: how many frames of history, the present one included, one reward needs.
        causal: whether ``r[:, t]`` depends on frames ``<= t`` only; only such rewards can be paid online.
        granularity: ``"frame"`` if each frame has its own number, ``"clip"`` if one number is spread over frames.
        differentiable: whether gradients reach float clips.
        range: the closed interval that rewards lie in before any calibration.
        reads_pixels: whether terms look at the frames themselves; a reward that says no sees them through encoder
            features only, which may then be handed over in their place (:meth:`vrm.encoders.Encoder.supply`).
        frame_side: longest side of the frames, their aspect kept, that a reward which reads pixels should be given of
            a video file; None for those that squashed frames of 64 x 64 serve as well.
        takes_goals: whether texts given per call mean anything; a reward whose goal is what it was made from says no,
            and refuses them.
    """

    window: int = 1
    causal: bool = True
    granularity: Literal["frame", "clip"] = "frame"
    differentiable: bool = True
    range: tuple[float, float] = (-float("inf"), float("inf"))
    reads_pixels: bool = True
    frame_side: int | None = None
    takes_goals: bool = True

    @property
    def taught(self) -> bool:
        """Whether it knows what to pay; a reward that others teach says no until they have."""
        return True

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
    def from_config(cls, config: dict[str, Any], encoder: Encoders = None) -> Self:
        """Build the reward from :meth:`config`; ``encoder``, one or by name, replaces loading the named one."""

    @classmethod
    def of(cls, encoder: Encoder, **arguments: Any) -> Self:
        """Build the reward around ``encoder``; what config files call, where an encoder is not known yet.

        Args:
            encoder: goes to the constructor if it has such a parameter, and to the parts that are unfinished.
            arguments: the constructor's other arguments; a part, or each of a mapping of parts, may be a
                ``functools.partial`` that still lacks its encoder.
        """
        if "encoder" in inspect.signature(cls).parameters:
            arguments["encoder"] = encoder
        return cls(**{name: _finished(value, encoder) for name, value in arguments.items()})

    def forward(self, clips: Tensor, goals: Goals = None, state: State = None) -> Tensor:
        """Reward per frame ``(B, T)``; arguments as in :meth:`terms`."""
        return self.combine(self.terms(clips, goals, state))

    def latest(self, clips: Tensor, goals: Goals = None, state: State = None) -> Terms:
        """The terms of the last frame only, each ``(B,)``; what online use asks for at every step."""
        return {name: values[:, -1] for name, values in self.terms(clips, goals, state).items()}

    def score(self, clips: Tensor, goals: Goals = None, state: State = None) -> Tensor:
        """One number per clip ``(B,)``: the mean over time unless the method defines another."""
        return self.forward(clips, goals, state).mean(dim=1)

    def dimensions(self, clips: Tensor, goals: Goals = None, state: State = None) -> dict[str, Tensor]:
        """Named parts of :meth:`score`, each ``(B,)``: the mean over time of each term unless the method differs."""
        return {name: values.mean(dim=1) for name, values in self.terms(clips, goals, state).items()}

    def save(self, path: str | Path) -> None:
        """Write config, tensors and encoder fingerprints to one ``.safetensors`` file, atomically.

        Raises:
            CheckpointError: if two encoders of one name have different weights, so that the name cannot stand for both.
        """
        header = {**to_spec(self), "encoders": self._encoder_fingerprints()}
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            save_file(self._own_tensors() or {"_": torch.zeros(1)}, unfinished, metadata={"vrm": json.dumps(header)})
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)

    def _encoder_fingerprints(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for encoder in (m for m in self.modules() if isinstance(m, Encoder)):
            if found.setdefault(encoder.name, encoder.fingerprint) != encoder.fingerprint:
                raise CheckpointError(f"Two encoders named {encoder.name!r} have different weights; rename one.")
        return found

    def _own_tensors(self) -> dict[str, Tensor]:
        """The state without the encoders' weights, which are named and fingerprinted instead of copied."""
        named = self.named_modules(remove_duplicate=False)  # a shared encoder's weights appear once per part
        outside = tuple(f"{name}." for name, module in named if isinstance(module, Encoder))
        return {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items() if not k.startswith(outside)}


def check_taught(reward: RewardModel) -> None:
    """Refuse a reward that knows nothing yet, or has such a part.

    Raises:
        UntaughtError: naming it.
    """
    for part in reward.modules():
        if isinstance(part, RewardModel) and not part.taught:
            raise UntaughtError(
                f"{type(part).__name__} has learned nothing yet, so what it pays means nothing; give the file of one "
                "that was fitted, or let it be taught while an agent of Stable-Baselines3 trains (reward=preference "
                "labeller=NAME, reward=distilled)."
            )


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
    names = header["encoders"]
    encoders: Encoders = encoder
    if encoder is None or len(names) > 1:
        encoders = {n: encoder if encoder is not None and encoder.name == n else load_encoder(n) for n in names}
    reward = from_spec(header, encoders)
    for module in reward.modules():
        if isinstance(module, Encoder) and module.fingerprint not in names.values():
            raise CheckpointError(
                f"Reward {str(path)!r} was saved with encoders {names}, but {module.name!r} here has "
                f"weights {module.fingerprint}; load it with the encoder it was made with, or calibrate again."
            )
    expected = reward._own_tensors()
    if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in expected.items()}:
        raise CheckpointError(f"Reward {str(path)!r} holds {sorted(tensors)}, its class expects {sorted(expected)}.")
    if not all(bool(torch.isfinite(v).all()) for v in tensors.values() if v.is_floating_point()):
        raise CheckpointError(f"Reward {str(path)!r} holds NaN or infinity; calibrate or fit it again.")
    reward.load_state_dict(tensors, strict=False)
    return reward


def to_spec(reward: RewardModel) -> dict[str, Any]:
    """Describe a reward by class and config, as files and composed rewards store it."""
    return {"class": type(reward).__name__, "config": reward.config()}


def from_spec(spec: Mapping[str, Any], encoder: Encoders = None) -> RewardModel:
    """Build the reward that :func:`to_spec` described.

    Raises:
        UnknownNameError: if its class is not imported.
    """
    known = _reward_classes()
    if spec["class"] not in known:
        raise UnknownNameError("reward class", spec["class"], known, "Import the module that defines it first.")
    return known[spec["class"]].from_config(spec["config"], encoder)


def pick_encoder(name: str, encoders: Encoders = None) -> Encoder:
    """Return the one encoder given, the given one of this ``name``, or load it by name."""
    if isinstance(encoders, Encoder):
        return encoders
    return encoders[name] if encoders is not None and name in encoders else load_encoder(name)


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
        if key == TERMINATED and (state is None or key not in state):
            continue
        if state is None or key not in state:
            given = sorted(state) if state else "none"
            raise ValueError(f"This reward reads state {key!r} for every frame; state given: {given}.")
        if tuple(state[key].shape) != tuple(clips.shape[:2]):
            shape = tuple(state[key].shape)
            raise ValueError(f"State {key!r} must be (B, T) = {tuple(clips.shape[:2])}, got {shape}.")
        if not torch.isfinite(state[key]).all():
            raise ValueError(f"State {key!r} holds NaN or infinity; a reward needs finite values for every frame.")
    return clips


def encode_frames(encoder: Encoder, clips: Tensor) -> Tensor:
    """Embed every frame of ``clips`` ``(B, T, 3, H, W)`` to ``(B, T, D)`` on their device, in one encoder call."""

    def embed(frames: Tensor) -> Tensor:
        features = encoder.encode_image(frames.flatten(0, 1))
        return features.reshape(*frames.shape[:2], -1).to(frames.device)

    return encoder.memoized(clips, embed)


@contextmanager
def supply_part(reward: RewardModel, clips: Tensor, part: Tensor, place: tuple[Any, ...]) -> Iterator[None]:
    """Where an encoder of ``reward`` was given features for ``clips``, give it those of ``part = clips[place]``.

    Args:
        reward: about to be asked for ``part``.
        clips: ``(B, T, 3, H, W)``.
        part: ``(B', T', 3, H, W)``.
        place: index of the first two axes that picks ``part`` out of ``clips``.
    """
    with ExitStack() as stack:
        for encoder in (module for module in reward.modules() if isinstance(module, Encoder)):
            if (features := encoder.supplied(clips)) is not None:
                stack.enter_context(encoder.supply(part, features[place]))
        yield


def raw_percentiles(batches: Iterable[Tensor], low: float, high: float) -> tuple[float, float]:
    """Find the values below which ``low`` and ``high`` percent of all numbers in ``batches`` lie.

    Raises:
        ValueError: unless ``0 <= low < high <= 100``, there is data, and the two values differ.
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"Calibration needs 0 <= low < high <= 100 (percent), got low={low} and high={high}.")
    values = [np.asarray(batch.detach().cpu(), dtype=np.float64).ravel() for batch in batches]
    if not values:
        raise ValueError("Calibration needs at least one clip, got none.")
    bottom, top = (float(v) for v in np.percentile(np.concatenate(values), [low, high]))
    if not top - bottom > 1e-6:
        raise ValueError(
            f"Calibration data give a constant reward (percentiles {low:g} and {high:g} are "
            f"{bottom:.6g} and {top:.6g}); use clips that show more than one situation."
        )
    return bottom, top


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"No reward file at {str(path)!r}; write one with reward.save(path).")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["vrm"])
            tensors = {k: file.get_tensor(k) for k in file.keys() if k != "_"}  # noqa: SIM118 (not a mapping)
        header = {key: header[key] for key in ("class", "config", "encoders")}
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{str(path)!r} is not a reward saved by vrm, or is damaged ({error}).") from error
    return header, tensors


def _finished(value: Any, encoder: Encoder) -> Any:
    if isinstance(value, partial):
        return value(encoder)
    return {name: _finished(part, encoder) for name, part in value.items()} if isinstance(value, Mapping) else value


def _reward_classes() -> dict[str, type[RewardModel]]:
    found: dict[str, type[RewardModel]] = {}
    waiting = list(RewardModel.__subclasses__())
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__())
        if not cls.__name__.startswith("_"):
            found[cls.__name__] = cls
    return found
