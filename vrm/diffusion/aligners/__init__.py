"""Aligners: each improves a video generator by rewards, one ``step(batch)`` at a time."""

from vrm.diffusion.advantage import AdaptiveKL, Credit, PairwiseJudge
from vrm.diffusion.aligners.base import Aligner, Batch, Training
from vrm.diffusion.aligners.matching import NFT, RAFT, RWR, Matching, Repeats, Signed
from vrm.diffusion.aligners.pair_policy import D3PO, PRDP, REBEL, PairPolicy
from vrm.diffusion.aligners.plans import AllSteps, BackwardProgression, SlidingWindow
from vrm.diffusion.aligners.policy_gradient import PolicyGradient, PolicyLoss
from vrm.diffusion.aligners.preference import Preference, PreferenceLoss, PreviousPolicies
from vrm.diffusion.aligners.sampling import Sampling

__all__ = [
    "D3PO",
    "NFT",
    "PRDP",
    "RAFT",
    "REBEL",
    "RWR",
    "AdaptiveKL",
    "Aligner",
    "AllSteps",
    "BackwardProgression",
    "Batch",
    "Credit",
    "Matching",
    "PairPolicy",
    "PairwiseJudge",
    "PolicyGradient",
    "PolicyLoss",
    "Preference",
    "PreferenceLoss",
    "PreviousPolicies",
    "Repeats",
    "Sampling",
    "Signed",
    "SlidingWindow",
    "Training",
]
