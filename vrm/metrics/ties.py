"""Agreement with pairwise preferences that people may leave undecided: accuracies with and without ties.

A scorer of real numbers hardly ever ties, people often do. Accuracy with ties (Deutsch, Foster and Freitag 2023,
"Ties Matter", arXiv 2305.14324, section 5) therefore lets the scorer call a tie where ``|margin| <= epsilon`` and
counts three classes. Choosing epsilon on the pairs that are then counted flatters the scorer, so the figure to report
is the cross-fitted one: each fold of prompts is judged with the epsilon that was best on the others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vrm.metrics.inputs import Floats, check_preference, paired_series

RANDOM_DRAWS = 20  # how many random scorers the random baseline averages


class TieThreshold(NamedTuple):
    """The tie threshold that fits some pairs best.

    Attributes:
        accuracy: with ties, in [0, 1]; nan without pairs.
        epsilon: largest ``|margin|`` called a tie.
    """

    accuracy: float
    epsilon: float


@dataclass(frozen=True)
class Accuracies:
    """The four accuracies of one scorer, each in [0, 1], nan where no pair counts.

    Attributes:
        strict: over the pairs that people decided; a margin of 0 is wrong.
        tie_aware: over the same pairs; a margin of 0 is worth one half.
        heldout: over all pairs, ties predicted with an epsilon from other folds; nan with fewer than two groups.
        oracle: over all pairs, ties predicted with the best epsilon for these very pairs.
    """

    strict: float
    tie_aware: float
    heldout: float
    oracle: float


@dataclass(frozen=True, eq=False)
class Agreement:
    """How a scorer agrees with people, beside scorers that know nothing.

    Attributes:
        accuracy: of the scorer.
        baselines: of ``"constant"`` (margin always 0), ``"majority"`` (always the commonest answer of these people) and
            ``"random"`` (Gaussian margins, mean of twenty draws).
        epsilon: the threshold of ``accuracy.oracle``.
        pairs: how many pairs count.
        human_ties: how many of them people left undecided.
        model_ties: how many of them have a margin of exactly 0.
        dropped: pairs that do not count, by reason.
        kept: ``(P,)`` bool, which of the given pairs count.
        credits: ``(pairs,)`` what each pair adds, by ``"strict"``, ``"tie_aware"`` (both nan where people tied) and
            ``"heldout"``: accuracies are their means, intervals come from resampling them.
    """

    accuracy: Accuracies
    baselines: Mapping[str, Accuracies]
    epsilon: float
    pairs: int
    human_ties: int
    model_ties: int
    dropped: Mapping[str, int]
    kept: NDArray[np.bool_] = field(repr=False)
    credits: Mapping[str, Floats] = field(repr=False)

    @property
    def tie_share(self) -> float:
        """Share of the pairs that people left undecided, in [0, 1]; nan without pairs."""
        return self.human_ties / self.pairs if self.pairs else math.nan


def measure_agreement(
    margin: ArrayLike, preference: ArrayLike, groups: Sequence[str] | None = None, folds: int = 5
) -> Agreement:
    """Compare a scorer with people on pairs (A, B); every figure is the same in whatever order the pairs come.

    Args:
        margin: ``(P,)`` score of A minus score of B; one that is not finite drops its pair ("no score").
        preference: ``(P,)`` 1 where A is preferred, -1 where B is, 0 where neither; nan drops its pair ("no label").
        groups: ``P`` names, usually prompts; pairs of one name stay in one fold. None makes each pair a group.
        folds: of the cross-fitting, at least 2; with fewer groups than that, each group is a fold.

    Raises:
        ValueError: if the lengths differ, something has another shape, a preference is another number, or ``folds``
            is below 2.

    Example:
        >>> measure_agreement([0.3, -0.2, 0.0, 0.1], [1, -1, 0, -1]).accuracy
        Accuracies(strict=0.6666666666666666, tie_aware=0.6666666666666666, heldout=0.75, oracle=0.75)
    """
    margins, wanted = np.asarray(margin, np.float64), np.asarray(preference, np.float64)
    if margins.ndim != 1 or wanted.ndim != 1:
        raise ValueError(f"margin and preference must be one-dimensional, got {margins.shape} and {wanted.shape}.")
    names = [str(index) for index in range(len(margins))] if groups is None else list(groups)
    if not len(margins) == len(wanted) == len(names):
        raise ValueError(
            f"margin, preference and groups must have one length, got {len(margins)}, {len(wanted)} and {len(names)}."
        )
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}.")
    labelled, scored = ~np.isnan(wanted), np.isfinite(margins)
    kept = labelled & scored
    dropped = {"no label": int((~labelled).sum()), "no score": int((labelled & ~scored).sum())}
    margins, wanted = margins[kept], wanted[kept]
    check_preference(wanted)
    fold = assign_folds([name for name, keep in zip(names, kept, strict=True) if keep], folds)
    credits = _credits(margins, wanted, fold)
    best = best_tie_threshold(margins, wanted)
    return Agreement(
        _accuracies(credits, best.accuracy),
        _baselines(wanted, fold),
        best.epsilon,
        len(wanted),
        int((wanted == 0).sum()),
        int((margins == 0).sum()),
        {reason: count for reason, count in dropped.items() if count},
        kept,
        credits,
    )


def best_tie_threshold(margin: ArrayLike, preference: ArrayLike) -> TieThreshold:
    """Find the epsilon with the highest accuracy with ties, in O(P log P).

    Only thresholds that exist are tried: 0 and the distinct ``|margin|``, each taking all margins of that size at
    once. A margin of exactly 0 is a tie at every threshold, for it cannot be ranked. The smallest of equally good
    thresholds is returned, so :func:`vrm.metrics.preference_accuracy` with ``tie=epsilon`` gives ``accuracy``.

    Args:
        margin: ``(P,)`` score of A minus score of B, finite.
        preference: ``(P,)`` 1, -1 or 0, as in :func:`measure_agreement`.

    Raises:
        ValueError: if the lengths differ, a margin is not finite or a preference is not -1, 0 or 1.

    Example:
        >>> best_tie_threshold([0.5, -0.1, 0.4, 0.1], [1, 0, 1, 0])
        TieThreshold(accuracy=1.0, epsilon=0.1)
    """
    margins, wanted = paired_series(margin, preference, ("margin", "preference"), minimum=0)
    check_preference(wanted)
    if not len(margins):
        return TieThreshold(math.nan, 0.0)
    size = np.abs(margins)
    order = np.argsort(size, kind="stable")
    size = size[order]
    right = np.sign(margins) * wanted > 0
    gain = np.cumsum(np.where(wanted == 0, 1, -right.astype(np.int64))[order])  # by calling the smallest margins ties
    ends = np.append(np.flatnonzero(np.diff(size)), len(size) - 1)
    epsilons = size[ends]
    gains = gain[ends]
    if epsilons[0] > 0:
        epsilons, gains = np.append(0.0, epsilons), np.append(0, gains)
    best = int(np.argmax(gains))
    return TieThreshold(float((right.sum() + gains[best]) / len(size)), float(epsilons[best]))


def assign_folds(groups: Sequence[str], folds: int) -> NDArray[np.intp]:
    """Deal groups to folds by the hash of their names, so that neither order nor size of the data matters.

    Args:
        groups: ``P`` names; pairs of one name share a fold.
        folds: how many folds there are at most.

    Returns:
        ``(P,)`` fold of each pair, in [0, folds).
    """
    names = sorted(dict.fromkeys(groups), key=lambda name: hashlib.blake2b(name.encode(errors="replace")).digest())
    place = {name: index % folds for index, name in enumerate(names)}
    return np.array([place[name] for name in groups], dtype=np.intp)


def _credits(margins: Floats, wanted: Floats, fold: NDArray[np.intp]) -> dict[str, Floats]:
    decided = wanted != 0
    signed = np.sign(margins) * wanted
    return {
        "strict": np.where(decided, signed > 0, np.nan),
        "tie_aware": np.where(decided, (1 + signed) / 2, np.nan),
        "heldout": _heldout(margins, wanted, fold),
    }


def _heldout(margins: Floats, wanted: Floats, fold: NDArray[np.intp]) -> Floats:
    """Credit each pair with ties called at the threshold that fits the other folds best."""
    credit = np.full(len(margins), np.nan)
    present = np.unique(fold)
    if len(present) < 2:
        return credit
    for one in present:
        here = fold == one
        epsilon = best_tie_threshold(margins[~here], wanted[~here]).epsilon
        predicted = np.where(np.abs(margins[here]) <= epsilon, 0, np.sign(margins[here]))
        credit[here] = predicted == wanted[here]
    return credit


def _accuracies(credits: Mapping[str, Floats], oracle: float) -> Accuracies:
    return Accuracies(_mean(credits["strict"]), _mean(credits["tie_aware"]), _mean(credits["heldout"]), oracle)


def _mean(credit: Floats) -> float:
    counted = credit[~np.isnan(credit)]
    return float(counted.mean()) if len(counted) else math.nan


def _baselines(wanted: Floats, fold: NDArray[np.intp]) -> dict[str, Accuracies]:
    order = np.lexsort((wanted, fold))  # so that random margins do not depend on the order of the pairs
    wanted, fold = wanted[order], fold[order]
    constant = np.zeros(len(wanted))
    share = {answer: float((wanted == answer).mean()) if len(wanted) else math.nan for answer in (-1, 0, 1)}
    leading = max(share[1], share[-1])
    decided = share[1] + share[-1]
    side = leading / decided if decided > 0 else math.nan
    commonest = max(share.values())
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(RANDOM_DRAWS):
        margins = rng.standard_normal(len(wanted))
        draws.append(_accuracies(_credits(margins, wanted, fold), best_tie_threshold(margins, wanted).accuracy))
    return {
        "constant": _accuracies(_credits(constant, wanted, fold), best_tie_threshold(constant, wanted).accuracy),
        "majority": Accuracies(side, side, commonest, commonest),
        "random": Accuracies(
            *(
                float(np.mean([getattr(draw, name) for draw in draws]))
                for name in ("strict", "tie_aware", "heldout", "oracle")
            )
        ),
    }
