"""What an encoder knows of an environment: facts told by prompts that no caption contains, and prompts that mislead."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from vrm.encoders import Encoder
from vrm.envs import FAMILIES
from vrm.envs.heldout import HeldOutPrompts, held_out_prompts
from vrm.metrics import roc_auc, spearman
from vrm.pretrain.held_out import HeldOutFrames, strangers

Floats = NDArray[np.float32]

CLEAR = (0.3, 0.7)  # truth up to the first is false, from the second on true; between them nothing is asked
FEWEST = 5  # true and false frames without which a fact is not measured
GRADED = 0.9  # rank correlation that the quantity behind a fact can reach with its truth, where it counts as graded
GROUPS = {
    "left/right": re.compile(r"(^|_)(left|right)(_|$)"),
    "one/both": re.compile(r"(^|_)one(_|$)|^(arms|legs|knees)_"),
}


@dataclass(frozen=True)
class FactScore:
    """How well cosines to held-out prompts tell where one fact is true; nan where that cannot be measured.

    Attributes:
        fact: its name.
        groups: those of :data:`GROUPS` that it belongs to, and "graded" if its truth takes many values.
        true: frames where it is true.
        false: frames where it is not.
        auc: area under the ROC curve of the mean cosine to the fact's prompts, 0.5 for knowing nothing.
        caption_auc: that of what captions say instead; where it is high and ``auc`` is not, the words are at fault.
        near_miss_auc: that of the near misses for the same truth; no more than 0.5 is right.
        near_miss_above: share of the true frames that are nearer to the near misses than to the fact's prompts.
        agreement: mean rank correlation between the cosines to two of its prompts.
        graded: rank correlation with the truth; nan for a fact that is not graded.
        told_apart: AUC among the frames where either the fact or its mirror image is true, of the difference of
            both cosines; nan for a fact without left or right.
        prompts: AUC of each prompt alone, those that mean the fact first.
    """

    fact: str
    groups: tuple[str, ...]
    true: int
    false: int
    auc: float
    caption_auc: float
    near_miss_auc: float
    near_miss_above: float
    agreement: float
    graded: float
    told_apart: float
    prompts: tuple[float, ...]


@dataclass(frozen=True)
class FamilyScore:
    """What is measured of one family.

    Attributes:
        family: its name.
        facts: one score each.
        own_above_others: share of the pairs of a true fact and a prompt of a stranger in which the fact's prompts are
            nearer to the frame.
    """

    family: str
    facts: tuple[FactScore, ...]
    own_above_others: float

    @property
    def auc(self) -> float:
        """Mean over the facts."""
        return mean(fact.auc for fact in self.facts)


@torch.no_grad()
def score_family(encoder: Encoder, held_out: HeldOutFrames, image: torch.Tensor) -> FamilyScore:
    """Measure one family.

    Args:
        encoder: what is measured.
        held_out: frames and truths.
        image: unit vectors ``(N, D)`` of the frames.
    """
    prompts = family_prompts(held_out.family)
    own = {name: _cosines(encoder, image, entry.means) for name, entry in prompts.items()}
    missed = {name: _cosines(encoder, image, entry.near_misses) for name, entry in prompts.items()}
    captioner = FAMILIES[held_out.family].captioner
    said = {
        fact.name: _cosines(encoder, image, [f"{captioner.subjects[0]} {phrase}" for phrase in fact.phrases])
        for fact in captioner.facts
    }
    truths = dict(zip(prompts, held_out.truths.T, strict=True))
    facts = tuple(_score_fact(name, own, said[name], missed[name], truths) for name in prompts)
    means = np.stack([columns.mean(1) for columns in own.values()], axis=1)
    others = [
        _cosines(encoder, image, entry.means).mean(1)
        for name in strangers(held_out.family)
        for entry in family_prompts(name).values()
    ]
    return FamilyScore(held_out.family, facts, _own_above(means, held_out.truths, np.stack(others, axis=1)))


def family_prompts(family: str) -> dict[str, HeldOutPrompts]:
    """Held-out prompts of a family about the captioner's first subject."""
    return held_out_prompts(family, FAMILIES[family].captioner.subjects[0])


def shuffled(encoder: Encoder, seed: int = 0) -> Encoder:
    """Return an encoder of the same architecture that knows nothing: every tensor's weights in random order."""
    generator = torch.Generator().manual_seed(seed)
    twin = deepcopy(encoder)
    weights = {
        key: value.flatten()[torch.randperm(value.numel(), generator=generator).to(value.device)].view_as(value)
        for key, value in encoder.state_dict().items()
    }
    twin.load_state_dict(weights)
    twin.name = f"{encoder.name} shuffled"
    return twin


def summarise(scores: Sequence[FamilyScore]) -> dict[str, float]:
    """Means over all measured facts of all families, the worst family, and the means over each group of facts."""
    facts = [fact for score in scores for fact in score.facts]
    said = {
        "auc": mean(f.auc for f in facts),
        "auc_worst_family": min((s.auc for s in scores if not math.isnan(s.auc)), default=math.nan),
    }
    for group in GROUPS:
        said[f"auc_{group.replace('/', '_')}"] = mean(f.auc for f in facts if group in f.groups)
    for name in ("caption_auc", "told_apart", "near_miss_auc", "near_miss_above", "agreement", "graded"):
        said[name] = mean(getattr(f, name) for f in facts)
    return said | {"own_above_others": mean(s.own_above_others for s in scores)}


def mean(values: Iterable[float]) -> float:
    """Mean of those that are not nan; nan without any."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def mirror(fact: str) -> str | None:
    """Name with left and right exchanged; None without either.

    Example:
        >>> mirror("left_arm_raised"), mirror("kneeling")
        ('right_arm_raised', None)
    """
    if not GROUPS["left/right"].search(fact):
        return None
    return re.sub("left|right", lambda side: "right" if side[0] == "left" else "left", fact)


def _cosines(encoder: Encoder, image: torch.Tensor, texts: Sequence[str]) -> Floats:
    cosines: Floats = (image @ encoder.encode_text(list(texts)).T).cpu().numpy()
    return cosines


def _score_fact(
    name: str, own: Mapping[str, Floats], said: Floats, missed: Floats, truths: Mapping[str, Floats]
) -> FactScore:
    columns, truth = own[name], truths[name]
    score, false_score = columns.mean(1), missed.mean(1)
    true, clear = truth >= CLEAR[1], (truth <= CLEAR[0]) | (truth >= CLEAR[1])
    graded = _reachable(truth) >= GRADED
    groups = [group for group, pattern in GROUPS.items() if pattern.search(name)] + ["graded"] * graded
    return FactScore(
        fact=name,
        groups=tuple(groups),
        true=int(true.sum()),
        false=int(clear.sum() - true.sum()),
        auc=_auc(score[clear], true[clear]),
        caption_auc=_auc(said.mean(1)[clear], true[clear]),
        near_miss_auc=_auc(false_score[clear], true[clear]),
        near_miss_above=_above(false_score[true], score[true]) if true.sum() >= FEWEST else math.nan,
        agreement=mean(spearman(a, b) for a, b in combinations(columns.T, 2)),
        graded=spearman(score, truth) if graded else math.nan,
        told_apart=_told_apart(name, own, truths),
        prompts=tuple(_auc(column[clear], true[clear]) for column in (*columns.T, *missed.T)),
    )


def _told_apart(name: str, own: Mapping[str, Floats], truths: Mapping[str, Floats]) -> float:
    twin = mirror(name)
    if twin is None or twin not in own:
        return math.nan
    here, there = truths[name] >= CLEAR[1], truths[twin] >= CLEAR[1]
    either = here != there
    return _auc((own[name].mean(1) - own[twin].mean(1))[either], here[either])


def _auc(score: Floats, true: NDArray[np.bool_]) -> float:
    return roc_auc(score, true) if min(true.sum(), (~true).sum()) >= FEWEST else math.nan


def _above(score: Floats, other: Floats) -> float:
    """Share of the entries in which ``score`` is greater, equals counting one half."""
    return float(((score > other) + 0.5 * (score == other)).mean())


def _own_above(own: Floats, truths: Floats, others: Floats) -> float:
    shares = [
        _above(scores[true, None], strange[None])
        for scores, true, strange in zip(own, truths >= CLEAR[1], others, strict=True)
        if true.any()
    ]
    return mean(shares)


def _reachable(truth: Floats) -> float:
    """Rank correlation of the truth with a quantity that it rises with, where that also tells tied frames apart.

    Spearman's coefficient of ranks with ties of sizes ``t`` against ranks without is
    ``sqrt(1 - sum(t^3 - t) / (N^3 - N))``.
    """
    ties = np.unique(truth, return_counts=True)[1].astype(np.float64)
    count = float(len(truth))
    return math.sqrt(max(0.0, 1 - float((ties**3 - ties).sum()) / max(count**3 - count, 1.0)))
