"""The online preference loop: explore, ask which behaviour is better, learn a reward from answers, pay anew, go on."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Generator, Tensor
from tqdm import tqdm

from vrm.agents.exploration import StateEntropy, reset_critic
from vrm.agents.preference_buffer import FeatureQueue, PreferenceReplayBuffer
from vrm.agents.preference_run import PreferenceRun
from vrm.agents.preference_settings import PreferenceSettings
from vrm.agents.question_book import QuestionBook
from vrm.agents.run import RunFolder, write_atomically
from vrm.agents.segment_store import SegmentStore
from vrm.data.comparisons import ComparisonError, Segments
from vrm.rewards import RewardModel
from vrm.rewards.labellers import Labeller
from vrm.rewards.preference import PreferenceReward
from vrm.rewards.preference_queries import get_sampler, uniform

REWARD, STATE, STEPS = "preference_reward.safetensors", "preferences.json", "preference_steps.npz"
TRUE = "env_reward"  # what labels are held against


class PreferenceLoop(BaseCallback):
    """PEBBLE's loop (Lee et al. 2021, arXiv 2106.05091), with any labeller, such as RL-VLM-F's (arXiv 2402.03681).

    First the agent is paid for new states. Then, every so often, it stops for a session: pairs of pieces of recent
    episodes are drawn, the most telling are put to the labeller, the ensemble is refitted to all answers there are, and
    every step in the replay buffer is paid anew. With the first reward the critic is drawn anew. As long as nothing is
    learned, because all answers are ties or none has come yet, the agent goes on exploring.

    A labeller with a method ``collect``, such as :class:`~vrm.label.human.HumanLabeller`, may answer late: its answers
    join at the next session. Sessions go into ``preferences/`` of the run: questions, answers and ``sessions.csv``; and
    each that learned something is followed by a checkpoint. Answers newer than the checkpoint that a run continues from
    are kept and learned at once.

    Args:
        run: the run's folder.
        algo: SAC, TD3, DQN …, made with :class:`PreferenceReplayBuffer`.
        reward: what learns.
        labeller: who answers.
        settings: when and what.
        goal: the sentence behind the questions, for the record.
        batch: frames encoded at once.
        seed: of what is drawn.

    Raises:
        ValueError: if the algorithm is on-policy.
        ComparisonError: if the reward does not learn from comparisons, or answers on disk are not this run's.
    """

    def __init__(
        self,
        run: RunFolder,
        algo: BaseAlgorithm,
        reward: RewardModel,
        labeller: Labeller,
        settings: PreferenceSettings,
        goal: str = "",
        batch: int = 256,
        seed: int = 0,
    ) -> None:
        """Nothing is asked yet, but what was asked before is read."""
        super().__init__()
        self.algo, self.buffer, self.reward = algo, _buffer(algo), _learner(reward)
        self.labeller, self.settings, self.seed = labeller, settings, seed
        venv = algo.get_env()
        assert venv is not None
        keys = tuple(dict.fromkeys((*labeller.state_keys, TRUE)))
        recent = max(settings.recent // venv.num_envs, settings.segment + 1)
        self.store = SegmentStore(len(self.buffer.rewards), venv.num_envs, keys, recent, labeller.sees_frames)
        self.queue = FeatureQueue(self.reward, venv, self.store, batch)
        self.queue.aim(self.buffer.rewards)
        self.folder = run.path / "preferences"
        self.book = QuestionBook(self.folder, labeller, goal)
        self.run = PreferenceRun(run.path, self)
        self.sessions = 0
        self.learned = 0  # answers that the reward has learned from
        self.due = 0
        self.buffer.explorer = StateEntropy(settings.neighbours)

    @property
    def exploring(self) -> bool:
        """Whether new states are paid for."""
        return self.buffer.explorer is not None

    def begin(self, resumed: bool) -> None:
        """Find out what comes first; call once, after a checkpoint was loaded if one is.

        Raises:
            ComparisonError: if a new run would take another's answers for its own.
        """
        every, first = self.settings.session_every, self.settings.unsupervised_steps
        if resumed:
            self.due = max(self.due, self.book.last_step + every if len(self.book) else first)
            return
        if len(self.book):
            raise ComparisonError(
                f"{str(self.folder)!r} holds {len(self.book)} questions of another run; continue that one with "
                "--resume, or choose another folder."
            )
        (self.folder / "sessions.csv").unlink(missing_ok=True)
        self.due = first
        if not first and int(self.reward.trained):
            self.buffer.explorer = None

    def write(self, folder: Path) -> None:
        """Write the loop's part of a checkpoint."""
        self.queue.flush()
        self.reward.save(folder / REWARD)
        arrays: dict[str, Any] = dict(self.store.arrays())
        np.savez(folder / STEPS, **arrays)
        entropy = None if self.buffer.explorer is None else self.buffer.explorer.seen
        known = {"sessions": self.sessions, "learned": self.learned, "due": self.due, "entropy": entropy}
        (folder / STATE).write_text(json.dumps(known))

    def read(self, folder: Path) -> None:
        """Read what :meth:`write` wrote, after the replay buffer's own arrays."""
        known = json.loads((folder / STATE).read_text())
        self.reward.load_state_dict(load_file(folder / REWARD), strict=False)
        with np.load(folder / STEPS, allow_pickle=False) as saved:
            self.store.restore(saved, self.buffer.pos, self.buffer.full)
        self.sessions, self.learned, self.due = known["sessions"], known["learned"], known["due"]
        self.buffer.explorer = None if known["entropy"] is None else StateEntropy(self.settings.neighbours)
        if self.buffer.explorer is not None:
            self.buffer.explorer.seen = tuple(known["entropy"])
        self.queue.stamp = self.reward.stamp()

    def _on_training_start(self) -> None:
        if self.book.answered > self.learned and self.store.count:  # a kill came between answers and checkpoint
            self._finish_session(self._learn(), asked=0)

    def _on_rollout_start(self) -> None:
        step = self.algo.num_timesteps
        if step >= self.due and step > _off_policy(self.algo).learning_starts:  # warm-up is at random
            self.session()

    def _on_step(self) -> bool:
        return True

    def session(self) -> None:
        """Take late answers, ask, learn, pay anew.

        Raises:
            ComparisonError: if the budget is spent and no answer says what is better.
        """
        self.queue.flush()
        left = self.settings.budget - len(self.book)
        late = self.book.collect()
        told = self._ask(min(left, self.settings.queries_per_session)) if left > 0 else {}
        if left > 0 and not told and not late:
            return  # too little has been seen; the next rollout is another chance
        self.due = self.algo.num_timesteps + self.settings.session_every
        if not told and not late and self.book.answered == self.learned:
            self._check_learned()
            return
        self._finish_session({**told, "late": float(late), **self._learn()}, int(told.get("asked", 0)))

    def _ask(self, count: int) -> dict[str, float]:
        """Put ``count`` questions and tell how it went; nothing, if too few pieces are known."""
        length = self.settings.segment
        generator = Generator().manual_seed(self.seed + 7919 * (self.sessions + 1))
        one, other = self.store.pairs(length, max(count * self.settings.pool, count + 1), generator)
        if len(one) < count:
            return {}
        features, against = (_wide(self.store.seen(side, length)) for side in (one, other))
        choose = get_sampler(self.settings.sampler) if int(self.reward.trained) else uniform
        with torch.no_grad():
            rows = choose(self.reward, features, against, count, generator)
        places = rows.numpy()
        first, second = (self.store.segments(side[places], length) for side in (one, other))
        labels = self.labeller.compare(first, second).detach().float().cpu()
        kept = [self.store.seen(side[places], length) for side in (one, other)]
        self.book.add(self.algo.num_timesteps, kept[0], kept[1], labels, (first, second))
        return {"asked": float(len(labels)), **_figures(labels, first, second)}

    def _learn(self) -> dict[str, float]:
        """Refit to all answers and pay the buffer anew, if there is anything to learn."""
        told = {"answers": float(self.book.answered), "epochs": 0.0}
        if self.book.data is None or not self.book.answered:
            return told
        data = self.book.data
        with torch.inference_mode(False):
            told |= self.reward.update(data, seed=self.seed + self.sessions)
        self.learned = self.book.answered
        if told["epochs"]:
            told["relabelled"] = float(self.queue.relabel(self.settings.relabel_batch))
            if self.exploring:
                self._stop_exploring()
        return told

    def _stop_exploring(self) -> None:
        algo = _off_policy(self.algo)
        self.buffer.explorer = None
        reset_critic(algo)
        if self.settings.reset_updates and algo.num_timesteps > 0:
            algo.train(gradient_steps=self.settings.reset_updates, batch_size=algo.batch_size)
            algo.policy.set_training_mode(False)

    def _finish_session(self, told: dict[str, float], asked: int) -> None:
        self.sessions += 1
        step = self.algo.num_timesteps
        for name, value in told.items():
            self.logger.record(f"preference/{name}", value)
        self._write_row({"step": step, "session": self.sessions, "stamp": self.queue.stamp, **told})
        tqdm.write(
            f"session {self.sessions} at step {step}: {asked} asked, {self.book.answered} answers of "
            f"{self.settings.budget}, accuracy {told.get('accuracy', math.nan):.0%}, reward {self.queue.stamp}"
        )
        if told["epochs"]:
            self.run.save_checkpoint(self.algo)
        self._check_learned()

    def _check_learned(self) -> None:
        spent = len(self.book) >= self.settings.budget and not self.book.open_questions
        if spent and not int(self.reward.trained):
            raise ComparisonError(
                f"All {len(self.book)} questions of the budget are asked, and none of the {self.book.answered} answers "
                "prefers one side, so there is no reward to train on; ask about longer pieces or another labeller, or "
                "raise preference.budget."
            )

    def _write_row(self, row: dict[str, Any]) -> None:
        path = self.folder / "sessions.csv"
        rows = list(csv.DictReader(io.StringIO(path.read_text()))) if path.is_file() else []
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*rows, {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}])
        write_atomically(path, text.getvalue())


COLUMNS = (
    "session", "step", "asked", "late", "answers", "unanswered", "ties", "label_accuracy", "accuracy", "loss",
    "disagreement", "epochs", "relabelled", "stamp",
)  # fmt: skip


def _figures(labels: Tensor, first: Segments, second: Segments) -> dict[str, float]:
    """How many labels say something, and how many of these agree with the environment's own reward."""
    ahead = (first.state[TRUE] - second.state[TRUE]).sum(dim=1)
    counted = ~labels.isnan() & (labels != 0.5) & (ahead != 0)
    right = ((labels > 0.5) == (ahead > 0))[counted]
    return {
        "unanswered": float(labels.isnan().sum()),
        "ties": float((labels == 0.5).sum()),
        "label_accuracy": float(right.float().mean()) if len(right) else math.nan,
    }


def _wide(seen: Tensor) -> Tensor:
    return seen if seen.dtype == torch.uint8 else seen.float()


def _off_policy(algo: BaseAlgorithm) -> OffPolicyAlgorithm:
    if not isinstance(algo, OffPolicyAlgorithm):
        raise ComparisonError(
            f"{type(algo).__name__} is on-policy and keeps no replay buffer that could be paid anew when the reward "
            "has learned; train on preferences with SAC, TD3 or DQN."
        )
    return algo


def _buffer(algo: BaseAlgorithm) -> PreferenceReplayBuffer:
    buffer = _off_policy(algo).replay_buffer
    if not isinstance(buffer, PreferenceReplayBuffer):
        raise ValueError(
            f"{type(algo).__name__} holds a {type(buffer).__name__}; make it with "
            "replay_buffer_class=vrm.agents.preference_buffer.PreferenceReplayBuffer."
        )
    return buffer


def _learner(reward: RewardModel) -> PreferenceReward:
    if not isinstance(reward, PreferenceReward):
        raise ComparisonError(
            f"A labeller teaches a PreferenceReward, not a {type(reward).__name__}; use reward=preference."
        )
    return reward
