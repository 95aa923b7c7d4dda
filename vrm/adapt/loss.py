"""The losses of adaptation; cosines in, scalars out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def contrastive_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Symmetric contrastive loss with as many positives as are true.

    CLIP's loss (Radford et al. 2021) is cross-entropy against the one caption of an image; here the target of an image
    is spread over all captions in proportion to their truth, and that of a caption over all images (as UniCL, Yang et
    al. 2022, does by label). With a unit matrix for ``truth`` it is CLIP's.

    Args:
        logits: ``(B, M)`` scaled cosines of images and captions.
        truth: ``(B, M)`` in [0, 1]; rows and columns without any truth count for nothing.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
        >>> round(contrastive_loss(logits, torch.eye(2)).item(), 6)
        0.153926
    """
    return (_spread(logits, truth) + _spread(logits.T, truth.T)) / 2


def _spread(logits: Tensor, truth: Tensor) -> Tensor:
    total = truth.sum(1, keepdim=True)
    target = truth / total.clamp_min(1e-6)
    loss = -(target * functional.log_softmax(logits, dim=1)).sum(1)
    known = (total[:, 0] > 1e-6).to(loss.dtype)
    return (loss * known).sum() / known.sum().clamp_min(1)


def label_loss(cosines: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """Logistic loss of goals against frames labelled good or bad, both classes weighing the same.

    Only the order of frames matters to a reward, so the threshold of each goal is the middle between the mean cosines
    of its good and of its bad frames in the batch.

    Args:
        cosines: ``(B, G)`` of frames and goals.
        labels: ``(B, G)``: 1 good, 0 bad, nan unknown; goals without both in the batch count for nothing.
        scale: what cosines are multiplied with.
    """
    losses = []
    for cosine, label in zip(cosines.T, labels.T, strict=True):
        good, bad = cosine[label == 1], cosine[label == 0]
        if len(good) and len(bad):
            middle = (good.mean() + bad.mean()) / 2
            hit = functional.softplus(-scale * (good - middle)).mean()
            losses.append((hit + functional.softplus(scale * (bad - middle)).mean()) / 2)
    return torch.stack(losses).mean() if losses else cosines.sum() * 0


def drift(new: Tensor, old: Tensor) -> Tensor:
    """How far unit vectors ``(N, D)`` have turned: mean of one minus their cosine, 0 for not at all."""
    return (1 - (new * old).sum(-1)).mean()
