"""Judges: vision-language models that answer questions about pictures, as sources of rewards and labels."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vrm.judges.base import BudgetError as BudgetError
from vrm.judges.base import Counts as Counts
from vrm.judges.base import Fault as Fault
from vrm.judges.base import Judge as Judge
from vrm.judges.base import JudgeError as JudgeError
from vrm.judges.base import Meaning as Meaning
from vrm.judges.base import Question as Question
from vrm.judges.base import Reply as Reply
from vrm.judges.labeller import JudgeLabeller as JudgeLabeller
from vrm.judges.loading import make_judge as make_judge
from vrm.judges.loading import make_runner as make_runner
from vrm.judges.preference import Preferences as Preferences
from vrm.judges.preference import prefer as prefer
from vrm.judges.progress import Changes as Changes
from vrm.judges.progress import Progress as Progress
from vrm.judges.progress import change as change
from vrm.judges.progress import shuffled_progress as shuffled_progress
from vrm.judges.progress import signed_progress as signed_progress
from vrm.judges.runner import JudgeRunner as JudgeRunner
from vrm.judges.sim import SimJudge as SimJudge
from vrm.judges.verdict import Criterion as Criterion
from vrm.judges.verdict import RubricScores as RubricScores
from vrm.judges.verdict import holds as holds
from vrm.judges.verdict import judge_by as judge_by
from vrm.judges.verdict import log_true as log_true
from vrm.judges.verdict import rate as rate

if TYPE_CHECKING:
    from vrm.judges.hf import HFJudge as HFJudge
    from vrm.judges.http import HTTPJudge as HTTPJudge

_HEAVY = {"HFJudge": "vrm.judges.hf", "HTTPJudge": "vrm.judges.http"}


def __getattr__(name: str) -> Any:
    """Import a backend when it is first used: they need optional packages."""
    if name not in _HEAVY:
        raise AttributeError(f"module 'vrm.judges' has no attribute {name!r}")
    return getattr(import_module(_HEAVY[name]), name)
