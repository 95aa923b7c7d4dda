"""The rewards of a run: what they need of a video, and the rows they make of it."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vrm.encoders import Encoder, Preprocess
from vrm.errors import DecodeError, NonFiniteError, VrmError
from vrm.frames import fit_side, to_float
from vrm.rewards import RewardModel
from vrm.rewards.base import TERMINATED, to_spec
from vrm.rewards.segmental import SegmentalReward
from vrm.scoring.dataset import Row
from vrm.scoring.features import Clip, pixels_name
from vrm.scoring.inputs import InputError
from vrm.scoring.plan import Item
from vrm.video.decoding import Pictures
from vrm.video.read import as_frames

CHUNK = 8  # frames squashed at once, because a long clip of large frames would not fit into memory as floats
MAX_PROMPTS = 100_000  # remembered
CUT = r"Encoder .* reads \d+ tokens, so the end of"  # how an encoder warns that it does not read all of a text
PIXEL_SIZE = 64  # side of squashed frames
STATE_KEYS = ("frame_index", "frame_count", TERMINATED)
Task = tuple[Item, int]  # an item, and which of the rewards is to judge it


@dataclass(frozen=True)
class Shrink:
    """Brings decoded pictures to the sizes that a run needs.

    Attributes:
        fits: by name, how frames are fitted to an encoder's tower.
        sides: longest sides of the frames that are wanted themselves; None for ``(T, 3, 64, 64)`` squashed ones.
    """

    fits: dict[str, Preprocess]
    sides: tuple[int | None, ...]

    def __call__(self, pictures: Pictures) -> dict[str, Tensor]:
        """Map ``(T, H, W, 3)`` uint8 to ``(T, 3, S, S)`` by name: uint8, but for squashed frames, which are float."""
        frames = as_frames(pictures)
        found = {name: fit.fit(frames).contiguous() for name, fit in self.fits.items()}
        for side in self.sides:
            shrunk = [_squash(c) if side is None else fit_side(c, side) for c in torch.split(frames, CHUNK)]
            found[pixels_name(side)] = torch.cat(shrunk).contiguous()
        return found


class Judge:
    """One or more rewards by name, in evaluation mode, that share their encoders' work.

    Encoders of equal weights, preprocessing and precision count as one. A reward is asked about one video and one
    prompt at a time, so that its numbers do not depend on what else is scored.

    Args:
        rewards: by the names that go into the rows.

    Raises:
        ValueError: if there is none.
        InputError: if one needs state values that video files do not have.
    """

    def __init__(self, rewards: Mapping[str, RewardModel]) -> None:
        """Collect the encoders."""
        if not rewards:
            raise ValueError("There is no reward to score with; name at least one.")
        for name, reward in rewards.items():
            if lacking := [key for key in reward.state_keys if key not in STATE_KEYS]:
                raise InputError(f"Reward {name!r} reads state {lacking}, which a video file does not have.")
        self.names = tuple(rewards)
        self.members = tuple(_Member(reward.eval()) for reward in rewards.values())
        self.encoders: dict[str, Encoder] = {}
        for key, encoder in (pair for member in self.members for pair in member.encoders):
            self.encoders.setdefault(key, encoder)
        readers = [member.reward for member in self.members if member.reward.reads_pixels]
        self.sides = tuple(dict.fromkeys(reward.frame_side for reward in readers))
        self._tokens: dict[tuple[str, str], tuple[int, int] | None] = {}

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the tensors that a clip must have to be judged."""
        return (*self.encoders, *map(pixels_name, self.sides))

    def shrink(self) -> Shrink:
        """Return what is done to decoded pictures."""
        return Shrink({key: deepcopy(e.preprocess).cpu() for key, e in self.encoders.items()}, self.sides)

    def identity(self) -> dict[str, Any]:
        """All that the numbers depend on, as JSON values."""
        return {name: member.identity() for name, member in zip(self.names, self.members, strict=True)}

    def rows(self, tasks: Sequence[Task], found: Clip | VrmError, sampler: str) -> list[Row]:
        """Judge one video, or say for every task what is wrong with it.

        Args:
            tasks: items of this video, and the places of rewards among :attr:`names`.
            found: the clip with its tensors, or why there is none.
            sampler: how frames were chosen.

        Returns:
            One row of :data:`vrm.scoring.schema.ROW` per task.
        """
        return [self._row(item, place, found, sampler) for item, place in tasks]

    def _row(self, item: Item, place: int, found: Clip | VrmError, sampler: str) -> Row:
        member = self.members[place]
        row: Row = {
            "index": item.index * len(self.names) + place,
            "id": item.id,
            "path": item.path,
            "prompt": item.prompt,
            "reward": self.names[place],
            "sampler": sampler,
            "encoder": ", ".join(encoder.name for _, encoder in member.encoders) or None,
            "encoder_hash": ", ".join(encoder.fingerprint for _, encoder in member.encoders) or None,
            "reward_hash": member.digest,
            "meta": list(item.meta),
        }
        if isinstance(found, Clip):
            row |= _facts(found)
            try:
                with torch.no_grad():
                    return row | self._reading(item.prompt, member) | member.judge(item.prompt, found)
            except torch.cuda.OutOfMemoryError:
                raise  # of the machine, not of this video
            except (VrmError, ValueError, RuntimeError) as error:
                return row | _error(error)
        return row | _error(found)

    def _reading(self, prompt: str | None, member: _Member) -> Row:
        """How much of ``prompt`` the text tower reads that reads the least of it; nulls where there is none to tell."""
        if prompt is None or not member.reward.takes_goals:
            return {}
        found = []
        for key, encoder in member.encoders:
            if (key, prompt) not in self._tokens:
                if len(self._tokens) >= MAX_PROMPTS:
                    self._tokens.clear()
                counted = encoder.count_tokens([prompt])
                self._tokens[key, prompt] = None if counted is None else (counted[0][0], counted[1])
            if (tokens := self._tokens[key, prompt]) is not None:
                found.append(tokens)
        if not found:
            return {}
        length, limit = max(found, key=lambda pair: pair[0] - pair[1])
        return {"prompt_truncated": length > limit, "prompt_tokens": length, "prompt_tokens_read": min(length, limit)}


class _Member:
    """A reward with what is asked of it again and again."""

    def __init__(self, reward: RewardModel) -> None:
        self.reward = reward
        found = {id(module): module for module in reward.modules() if isinstance(module, Encoder)}
        self.encoders = [(f"{e.fingerprint}-{str(e.dtype).removeprefix('torch.')}", e) for e in found.values()]
        self.digest = self._hash()

    def identity(self) -> dict[str, Any]:
        return {"hash": self.digest, **to_spec(self.reward), "encoders": sorted({key for key, _ in self.encoders})}

    def judge(self, prompt: str | None, clip: Clip) -> Row:
        """Ask for score, parts and curve of one clip."""
        reward, facts = self.reward, clip.facts
        count = len(facts.indices)
        clips = torch.zeros(1, count, 3, 1, 1, dtype=torch.uint8)
        if reward.reads_pixels:
            clips = clip.tensors[pixels_name(reward.frame_side)][None]
        state = {
            "frame_index": torch.tensor([facts.indices]),
            "frame_count": torch.full((1, count), facts.info.frames),
        }
        goals = [prompt] if prompt is not None and reward.takes_goals else None
        # A segmental reward gives every frame the clip's number; the reward inside it has a curve to show.
        curve = reward.image_reward if isinstance(reward, SegmentalReward) else reward
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", CUT)
            for key, encoder in self.encoders:
                stack.enter_context(encoder.supply(clips, clip.tensors[key][None]))
            score = float(reward.score(clips, goals, state))
            dimensions = {name: float(value) for name, value in reward.dimensions(clips, goals, state).items()}
            values = curve(clips, goals, state)[0].tolist()
        if not all(math.isfinite(number) for number in (score, *dimensions.values(), *values)):
            raise NonFiniteError(f"The reward gave NaN or infinity for this clip (score {score}); look at its weights.")
        return {"score": score, "dimensions": list(dimensions.items()), "values": values}

    def _hash(self) -> str:
        """Sixteen hex digits of class, configuration, tensors and encoders."""
        digest = hashlib.sha256(json.dumps([to_spec(self.reward), [key for key, _ in self.encoders]]).encode())
        prefixes = tuple(
            f"{n}." for n, m in self.reward.named_modules(remove_duplicate=False) if isinstance(m, Encoder)
        )
        for name, value in sorted(self.reward.state_dict().items()):
            if not name.startswith(prefixes):
                digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]


def _facts(clip: Clip) -> Row:
    facts = clip.facts
    return {
        "frame_indices": list(facts.indices),
        "frame_times": list(facts.times),
        "backend": facts.backend,
        "video_hash": facts.video_hash,
        "warning": facts.warning,
        **asdict(facts.info),
    }


def _error(error: Exception) -> Row:
    kind = error.kind if isinstance(error, DecodeError) else "model"
    return {"error_kind": kind, "error": " ".join(str(error).split()) or type(error).__name__}


def _squash(frames: Tensor) -> Tensor:
    size = (PIXEL_SIZE, PIXEL_SIZE)
    return functional.interpolate(to_float(frames), size, mode="bilinear", antialias=True, align_corners=False)
