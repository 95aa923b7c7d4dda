"""Offline scoring of videos: plan, score, keep, read."""

from vrm.scoring.dataset import read_scores as read_scores
from vrm.scoring.run import score as score
