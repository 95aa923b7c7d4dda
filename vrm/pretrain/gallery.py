"""Pictures of what an encoder makes of held-out frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vrm.encoders import Encoder
from vrm.envs import FAMILIES
from vrm.pictures.encoder import FrameMap, Retrieval, ScoredFrames, embedding_map, retrieval_sheet, score_sheet
from vrm.pretrain.evaluate import CLEAR, family_prompts
from vrm.pretrain.held_out import strangers

TILE = 96  # the most pixels of a kept frame
PROMPTS, FRAMES = 4, 6  # on a row of the sheet of scores
BEST, WORST = 6, 4  # frames retrieved for a text
TEXTS = 10
# Family, fact, and a text about it as a person may write it; the first of which there are frames are shown.
FREE_TEXTS = (
    ("humanoid", "kneeling", "someone proposing on their knees"),
    ("humanoid", "lying", "a robot that takes a nap on the floor"),
    ("humanoid", "arms_raised", "hands up, this is a robbery"),
    ("cartpole", "hanging", "the pole dangles under the cart"),
    ("mountain_car", "at_flag", "the car has won, it is at the flag"),
    ("inverted_pendulum", "upright", "a stick balanced perfectly on a slider"),
    ("ant", "on_back", "a spider-like robot stuck on its back"),
    ("half_cheetah", "upside_down", "a running cat robot that has flipped onto its back"),
    ("hopper", "airborne", "a pogo stick in the middle of a jump"),
    ("reacher", "reached", "the arm touches the red ball"),
    ("walker2d", "kneeling", "two legs praying on their knees"),
    ("swimmer", "u_shape", "a snake curled like a horseshoe"),
    ("pendulum", "upright", "a swinging rod that points at the sky"),
    ("pusher", "on_target", "the cylinder stands on the red disc"),
    ("fetch_push", "on_spot", "the block has been pushed onto the red spot"),
    ("inverted_double_pendulum", "straight", "two rods in one straight line"),
)


@dataclass(frozen=True)
class Seen:
    """Frames of one family as one encoder sees them.

    Attributes:
        family: its name.
        frames: ``(N, 3, S, S)``, of at most :data:`TILE` pixels.
        truths: ``(N, K)``.
        image: ``(N, D)`` unit vectors.
    """

    family: str
    frames: Tensor
    truths: NDArray[np.float32]
    image: Tensor


def see(family: str, frames: Tensor, truths: NDArray[np.float32], image: Tensor) -> Seen:
    """Keep small copies of the frames."""
    if frames.shape[-1] > TILE:
        small = functional.interpolate(frames.float(), size=(TILE, TILE), mode="area")
        frames = small.round().clamp(0, 255).byte()
    return Seen(family, frames, truths, image.cpu())


@torch.no_grad()
def draw(encoder: Encoder, seen: Sequence[Seen], out: Path, seed: int) -> list[Path]:
    """Draw the sheet of scores, the map and the retrievals into ``out``.

    Args:
        encoder: whose features ``seen`` holds.
        seen: every family's frames.
        out: folder for the pictures.
        seed: of the choice of frames.
    """
    rng = np.random.default_rng(seed)
    rows = [_retrieve(encoder, seen, *wanted) for wanted in _texts(seen)]
    count = sum(len(part.frames) for part in seen)
    title = f"Of {count} frames: the nearest to a text, and the farthest on the right. Green: the text is true."
    return [
        score_sheet(out / "scores.png", [_scored(encoder, part, rng) for part in seen]),
        embedding_map(out / "map.png", _maps(seen)),
        retrieval_sheet(out / "retrievals.png", rows, title),
    ]


def principal_plane(features: Tensor) -> NDArray[np.float64]:
    """Coordinates ``(N, 2)`` of features ``(N, D)`` along their first two principal components."""
    centred = features.double() - features.double().mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # else a sign is the machine's choice
    points: NDArray[np.float64] = (centred @ axes.T).numpy()
    return points


def _scored(encoder: Encoder, seen: Seen, rng: np.random.Generator) -> ScoredFrames:
    """Choose facts that are true of some frames, one such frame for each, and others."""
    prompts = [entry.means[0] for entry in family_prompts(seen.family).values()]
    true = seen.truths >= CLEAR[1]
    known = np.flatnonzero(true.any(0) & ~true.all(0))
    facts = known[np.unique(np.linspace(0, len(known) - 1, PROMPTS).round().astype(int))] if len(known) else known
    frames = [int(rng.choice(np.flatnonzero(true[:, fact]))) for fact in facts]
    rest = np.setdiff1d(np.arange(len(true)), frames)
    frames += [int(i) for i in rng.choice(rest, min(len(rest), FRAMES - len(frames)), replace=False)]
    texts = [prompts[fact] for fact in facts]
    cosines = (seen.image @ encoder.encode_text(texts).cpu().T).numpy() if texts else np.zeros((len(true), 0))
    ranks = (cosines[None] < cosines[frames][:, None]).mean(1)
    return ScoredFrames(seen.family, texts, seen.frames[frames], ranks.T, true[frames][:, facts].T)


def _maps(seen: Sequence[Seen]) -> list[FrameMap]:
    """Map all families together, then each by the fact that divides it most evenly."""
    kinds = [part.family for part in seen for _ in part.frames]
    maps = [FrameMap("every family", principal_plane(torch.cat([part.image for part in seen])), kinds)]
    for part in seen:
        fact = int(np.abs(part.truths.mean(0) - 0.5).argmin())
        name = FAMILIES[part.family].captioner.facts[fact].name
        values = part.truths[:, fact].astype(np.float64)
        maps.append(FrameMap(f"{part.family}: {name}", principal_plane(part.image), values))
    return maps


def _texts(seen: Sequence[Seen]) -> list[tuple[str, int, str]]:
    """Ten texts about families of which there are frames; held-out prompts where no more have been written."""
    facts = {part.family: list(family_prompts(part.family)) for part in seen}
    chosen = [(family, facts[family].index(fact), text) for family, fact, text in FREE_TEXTS if family in facts]
    spare = (
        (family, index, entry.means[-1])
        for family in facts
        for index, entry in enumerate(family_prompts(family).values())
        if (family, index) not in {(f, i) for f, i, _ in chosen}
    )
    while len(chosen) < TEXTS and (more := next(spare, None)):
        chosen.append(more)
    return chosen[:TEXTS]


def _retrieve(encoder: Encoder, seen: Sequence[Seen], family: str, fact: int, text: str) -> Retrieval:
    cosines = torch.cat([part.image for part in seen]) @ encoder.encode_text([text]).cpu()[0]
    name = FAMILIES[family].captioner.facts[fact].name
    true = np.concatenate([_true(part, family, name) for part in seen])
    order = cosines.argsort(descending=True, stable=True).tolist()
    best, worst = order[:BEST], order[-WORST:]
    return Retrieval(
        f"“{text}”  ({family}: {name})",
        _pick(seen, best), [bool(true[i]) for i in best], _pick(seen, worst), [bool(true[i]) for i in worst],
    )  # fmt: skip


def _true(seen: Seen, family: str, name: str) -> NDArray[np.bool_]:
    """Frames that a fact is true of: those of its own family, and of one with the same body that knows the fact."""
    facts = [fact.name for fact in FAMILIES[seen.family].captioner.facts]
    if name not in facts or seen.family in strangers(family):
        return np.zeros(len(seen.truths), bool)
    true: NDArray[np.bool_] = seen.truths[:, facts.index(name)] >= CLEAR[1]
    return true


def _pick(seen: Sequence[Seen], rows: Sequence[int]) -> Tensor:
    """Frames by their number among those of all families."""
    frames = [frame for part in seen for frame in part.frames]
    return torch.stack([frames[row] for row in rows])
