"""Fitting rewards to demonstrations, and what they are worth on demonstrations that they were not fitted to."""

from vrm.fit.command import fit_command as fit_command
from vrm.fit.held_out import DemoScore as DemoScore
from vrm.fit.held_out import HeldOut as HeldOut
from vrm.fit.held_out import cross_validate as cross_validate
from vrm.fit.held_out import score_demos as score_demos
