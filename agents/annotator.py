"""Labels from a slow reward for an agent that never waits: a bounded queue, emptied newest first by a thread."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrm.agents.label_store import Labels, LabelStore
from vrm.errors import NonFiniteError, VrmError
from vrm.frames import from_hwc
from vrm.rewards.base import RewardModel
from vrm.rewards.distilled import Annotation, ask_teacher, check_teacher
from vrm.rewards.teacher_process import MakeTeacher, TeacherFailedError, TeacherLostError, TeacherProcess

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Asked:
    """A frame ``(H, W, 3)`` that waits for its label."""

    id: int
    frame: Pixels
    since: float


class Desk:
    """What the agent's thread and the labelling thread share: frames that wait, labels that are done, statistics.

    Args:
        make: builds the teacher.
        settings: of the queue, the batches and the process.
    """

    def __init__(self, make: MakeTeacher, settings: Annotation) -> None:
        """Nothing waits; :meth:`start` starts labelling."""
        self.make, self.settings = make, settings
        self.waiting: deque[Asked] = deque()
        self.done: list[tuple[Asked, float]] = []
        self.dropped = self.labelled = self.restarts = self.under_way = 0
        self.latencies: deque[float] = deque(maxlen=1000)  # seconds from frame to label
        self.error: VrmError | None = None
        self.ready = False
        self.changed = threading.Condition()
        self.process: TeacherProcess | None = None
        self._teacher: RewardModel | None = None
        self._closed = False

    def start(self) -> None:
        """Start the teacher's process and the thread that talks to it."""
        self.process = TeacherProcess(self.make, self.settings.threads)
        threading.Thread(target=self._label_all, daemon=True, name="vrm-annotator").start()

    def put(self, frames: Sequence[Asked]) -> None:
        """Let frames wait; where the queue is full the oldest goes."""
        with self.changed:
            self.waiting.extend(frames)
            while len(self.waiting) > self.settings.queue:
                self.waiting.popleft()
                self.dropped += 1
            self.changed.notify_all()

    def take(self) -> list[Asked]:
        """The newest batch of what waits, newest first."""
        with self.changed:
            batch = [self.waiting.pop() for _ in range(min(self.settings.batch, len(self.waiting)))]
            self.under_way = len(batch)
        return batch

    def give(self, batch: Sequence[Asked], values: Sequence[float]) -> None:
        """Hand in the labels of a batch."""
        now = time.monotonic()
        with self.changed:
            self.done += list(zip(batch, values, strict=True))
            self.latencies.extend(now - asked.since for asked in batch)
            self.labelled += len(batch)
            self.under_way = 0
            self.changed.notify_all()

    def label_here(self) -> None:
        """Label all that waits in this very thread."""
        if self._teacher is None:
            self._teacher = check_teacher(self.make())
        while batch := self.take():
            frames = from_hwc(np.stack([asked.frame for asked in batch]))
            self.give(batch, check_labels(ask_teacher(self._teacher, frames).tolist()))

    def close(self) -> None:
        """End the thread and the process."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        if self.process is not None:
            self.process.close()

    def _label_all(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self._closed or self.waiting or not self.ready)
                if self._closed:
                    return
            batch = self.take()
            try:
                assert self.process is not None
                self.process.wait_ready()
                self._say_ready()
                if batch:
                    self.give(batch, check_labels(self.process.label(np.stack([a.frame for a in batch])).tolist()))
            except TeacherLostError as lost:
                if not self._begin_again(batch, lost):
                    return
            except (TeacherFailedError, NonFiniteError, ValueError) as error:
                self._fail(error if isinstance(error, VrmError) else VrmError(str(error)))
                return

    def _say_ready(self) -> None:
        with self.changed:
            self.ready = True
            self.changed.notify_all()

    def _begin_again(self, batch: list[Asked], lost: TeacherLostError) -> bool:
        with self.changed:
            if self._closed:
                return False
            self.waiting.extend(reversed(batch))
            self.under_way = 0
            if self.restarts:
                self._fail(VrmError(f"{lost} It was started again once before; look at memory, then resume the run."))
                return False
            self.restarts += 1
            self.process = TeacherProcess(self.make, self.settings.threads)
        return True

    def _fail(self, error: VrmError) -> None:
        with self.changed:
            self.error, self.under_way = error, 0
            self.changed.notify_all()


class Annotator:
    """Has a share of an agent's frames labelled by a teacher, in another process, and keeps the labels on disk.

    Frames wait in a bounded queue that is emptied from the newest end, as in ONI: what the agent does now matters
    more than what it did. Offering never waits, unless ``settings.synchronous``, where the labels are made at once in
    this process and everything repeats exactly.

    The teacher's process is started again once if it dies. Then the next call here raises; so it does at once if the
    teacher itself raises an error.

    Args:
        make_teacher: builds the teacher; must be picklable unless synchronous.
        folder: for the labels; those that lie there are kept, and ids go on from theirs.
        see: what a student is shown of frames ``(N, 3, H, W)``, which is kept beside the label.
        settings: see :class:`~vrm.rewards.distilled.Annotation`.
        seed: of the choice among frames.

    Example:
        >>> annotator = Annotator(partial(load_teacher, "goal.safetensors"), "labels", student.see)  # doctest: +SKIP
        >>> annotator.offer(frames)  # doctest: +SKIP
        >>> annotator.collect()  # doctest: +SKIP

    Paper: Zheng et al., "Online Intrinsic Rewards for Decision Making Agents from LLM Feedback", arXiv 2410.23022.
    """

    def __init__(
        self,
        make_teacher: MakeTeacher,
        folder: str | Path,
        see: Callable[[Tensor], Tensor],
        settings: Annotation | None = None,
        seed: int = 0,
    ) -> None:
        """Read earlier labels and start the teacher's process."""
        self.settings = Annotation() if settings is None else settings
        self.store = LabelStore(folder, self.settings.capacity)
        self.see = see
        self._random = np.random.default_rng([seed, self.store.next_id])
        self._next_id = self.store.next_id
        self._offered = 0
        self._desk = Desk(make_teacher, self.settings)
        self._stop = weakref.finalize(self, self._desk.close)
        if not self.settings.synchronous:
            self._desk.start()

    @property
    def pid(self) -> int | None:
        """The id of the teacher's process; None if synchronous."""
        return self._desk.process.pid if self._desk.process is not None else None

    def offer(self, frames: Sequence[Pixels]) -> int:
        """Choose among frames ``(H, W, 3)``, oldest first, and let the chosen ones wait for labels.

        Returns:
            How many were chosen.

        Raises:
            VrmError: if the annotator is closed, or the teacher failed or died twice.
        """
        self._check()
        chosen = [frame for frame in frames if self._random.random() < self.settings.fraction]
        now = time.monotonic()
        self._offered += len(frames)
        if chosen:
            self._desk.put([Asked(self._next_id + i, np.array(frame), now) for i, frame in enumerate(chosen)])
            self._next_id += len(chosen)
            if self.settings.synchronous:
                self._desk.label_here()
        if len(self._desk.done) >= self.settings.batch:
            self.collect()
        return len(chosen)

    def collect(self) -> int:
        """Write the labels that have come and return how many; never waits for any.

        Raises:
            VrmError: as :meth:`offer` does.
        """
        with self._desk.changed:
            done, self._desk.done = self._desk.done, []
        if done:
            done.sort(key=lambda pair: pair[0].id)
            inputs = self.see(from_hwc(np.stack([asked.frame for asked, _ in done])))
            ids = torch.tensor([asked.id for asked, _ in done])
            self.store.add(Labels(ids, inputs, torch.tensor([value for _, value in done], dtype=torch.float32)))
        self._check()
        return len(done)

    def wait_ready(self, seconds: float = 600.0) -> bool:
        """Wait until the teacher is loaded, at most so long; returns whether it is.

        Raises:
            VrmError: as :meth:`offer` does.
        """
        desk = self._desk
        if not self.settings.synchronous:
            with desk.changed:
                desk.changed.wait_for(lambda: desk.ready or desk.error is not None, seconds)
        self._check()
        return desk.ready or self.settings.synchronous

    def wait(self, seconds: float = 60.0) -> bool:
        """Wait until nothing waits for a label, at most so long; returns whether that is so.

        Raises:
            VrmError: as :meth:`offer` does.
        """
        desk = self._desk
        with desk.changed:
            over = desk.changed.wait_for(
                lambda: desk.error is not None or not (desk.waiting or desk.under_way), seconds
            )
        self._check()
        return over

    def statistics(self) -> dict[str, float]:
        """Counts since the start, and the mean ``latency`` of the last 1000 labels in seconds (0 before the first)."""
        desk = self._desk
        with desk.changed:
            latency = float(np.mean(desk.latencies)) if desk.latencies else 0.0
            return {
                "offered": float(self._offered),
                "labelled": float(desk.labelled),
                "dropped": float(desk.dropped),
                "waiting": float(len(desk.waiting) + desk.under_way),
                "restarts": float(desk.restarts),
                "latency": latency,
            }

    def close(self) -> None:
        """Write what has come, and end the process; what still waits is forgotten."""
        if self._stop.alive:
            self._stop()
            self._desk.error = None
            try:
                self.collect()
            except VrmError:
                return  # it is closed, which is what was asked for

    def _check(self) -> None:
        if self._desk.error is not None:
            raise self._desk.error
        if not self._stop.alive:
            raise VrmError("This annotator is closed; make a new one on the same folder to go on.")


def check_labels(values: list[float]) -> list[float]:
    """Return a teacher's labels if all are finite.

    Raises:
        NonFiniteError: if not.
    """
    if not np.isfinite(values).all():
        raise NonFiniteError(f"The teacher returned {values}; labels must be finite numbers.")
    return values
