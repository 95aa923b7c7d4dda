"""Training on a distilled reward: the agent's frames go to the teacher, and the student learns from its labels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from vrm.agents.annotator import Annotator
from vrm.agents.label_store import LabelStore
from vrm.errors import CheckpointError
from vrm.metrics import spearman
from vrm.rewards.distilled import DistilledReward, load_teacher
from vrm.rewards.teacher_process import MakeTeacher
from vrm.wrappers.stream import take_frame

TEACHER = "teacher.safetensors"


class DistillationCallback(BaseCallback):
    """Feeds an annotator with the agent's frames and refits the student every so often.

    Logs under ``distilled/`` what :meth:`Annotator.statistics` counts, the student's ``loss``, and, on labels kept from
    it, the rank correlation ``spearman`` with the teacher just before a refit: how good the rewards paid lately were.

    Frames are read from ``info["frame"]``, which whoever pays the reward takes away, so this callback comes before that
    of :func:`~vrm.wrappers.attach_reward`. Rewards paid already stay as they are: a replay buffer holds observations,
    not the frames that a student reads, and keeping those for each transition costs 12 kB apiece at 64 pixels. So what
    lies in a replay buffer is stale by up to the buffer's length, and most so after the first fits.

    Args:
        reward: the student; :class:`~vrm.rewards.distilled.Annotation` in it says how labels are collected.
        folder: for the labels and the teacher. One that a resumed run finds there takes the place of the student's.
            Labels of another teacher are deleted.
        seed: of the choice among frames.
        make_teacher: builds the teacher instead, if it cannot be saved or its encoder not be loaded by name.

    Attributes:
        statistics: the annotator's when last asked, at a refit or at the end.

    Raises:
        CheckpointError: if there is neither a teacher nor a file of it.
    """

    def __init__(
        self, reward: DistilledReward, folder: str | Path, seed: int = 0, make_teacher: MakeTeacher | None = None
    ) -> None:
        """Save the teacher for its process; that starts with training."""
        super().__init__()
        self.reward, self.folder, self.seed = reward, Path(folder), seed
        self.make_teacher = make_teacher if make_teacher is not None else save_teacher(reward, self.folder)
        self.annotator: Annotator | None = None
        self.statistics: dict[str, float] = {}
        self._seen = 0

    def close(self) -> None:
        """End the teacher's process."""
        if self.annotator is not None:
            self.statistics = self.annotator.statistics()
            self.annotator.close()
            self.annotator = None

    def refit(self) -> None:
        """Let the student learn from the labels that have come, if they are enough."""
        assert self.annotator is not None
        self.annotator.collect()
        self.statistics = self.annotator.statistics()
        for name, value in self.statistics.items():
            self.logger.record(f"distilled/{name}", value)
        labels = self.annotator.store.labels()
        if labels is None or len(labels) < self.reward.annotate.first:
            return
        known, held_out = labels.held_out(self.reward.annotate.holdout)
        if len(held_out) > 2 and int(self.reward.fits):
            agreement = spearman(self.reward.read(held_out.inputs).numpy(), held_out.values.numpy())
            if np.isfinite(agreement):  # constant labels have no ranks
                self.logger.record("distilled/spearman", agreement)
        for name, value in self.reward.learn(known.inputs, known.values).items():
            self.logger.record(f"distilled/{name}", value)

    def _on_training_start(self) -> None:
        self.close()
        self.annotator = Annotator(
            self.make_teacher, self.folder, self.reward.see, self.reward.annotate, seed=self.seed
        )
        self.annotator.wait_ready()  # a fast agent would be half done before a large teacher has loaded

    def _on_step(self) -> bool:
        assert self.annotator is not None
        frames = [take_frame(info, keep=True) for info in self.locals["infos"]]
        self.annotator.offer(frames)
        self._seen += len(frames)
        if self._seen >= self.reward.annotate.every:
            self._seen = 0
            self.refit()
        return True

    def _on_training_end(self) -> None:
        self.close()


def save_teacher(reward: DistilledReward, folder: Path) -> MakeTeacher:
    """Write the teacher where a process can load it, unless it is there; returns what loads it.

    Raises:
        CheckpointError: if there is neither a teacher nor a file of it.
    """
    path = folder / TEACHER
    before = path.read_bytes() if path.is_file() else None
    if reward.teacher is not None:
        reward.teacher.save(path)
        if path.read_bytes() != before:
            LabelStore(folder).clear()
    elif before is None:
        raise CheckpointError(f"There is no teacher at {str(path)!r}, and a student from a file brings none.")
    record = reward.teacher_record
    return partial(load_teacher, path, record["device"], record["dtype"])
