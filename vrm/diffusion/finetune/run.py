"""Tune a generator on a reward: a resumable run that watches a judge it does not train on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.logger import Logger, configure
from torch import Tensor
from tqdm import tqdm

from vrm.agents.run import RunFolder
from vrm.diffusion.aligners.base import Aligner, Batch
from vrm.diffusion.finetune.examiner import Exam, Examiner
from vrm.diffusion.finetune.guard import Guard, Verdict, warnings
from vrm.diffusion.finetune.interrupt import noted_interrupts
from vrm.diffusion.finetune.outcome import Outcome
from vrm.diffusion.finetune.prompts import Prompts, batch_indices
from vrm.diffusion.finetune.settings import FinetuneSettings
from vrm.diffusion.finetune.state import read_state, to_cpu, write_state
from vrm.diffusion.finetune.team import Team
from vrm.diffusion.finetune.tuned import describe_adapter, save_tuned
from vrm.diffusion.finetune.videos import CaptionedVideos, draw_captioned, read_captioned
from vrm.diffusion.generator import VideoGenerator
from vrm.diffusion.objective import RewardObjective
from vrm.encoders import Encoder
from vrm.rewards import RewardModel

if TYPE_CHECKING:
    from accelerate import Accelerator

MakeAligner = Callable[..., Aligner]
STATE = "state"


@dataclass(frozen=True)
class Rewards:
    """What is climbed, and what watches.

    Attributes:
        trained: what is climbed.
        held_out: a judge that is never trained on.
        encoder: whose features say how alike samples of one prompt are.
    """

    trained: RewardModel
    held_out: RewardModel
    encoder: Encoder


def finetune(
    generator: VideoGenerator,
    make_aligner: MakeAligner,
    rewards: Rewards,
    prompts: Prompts,
    out: str | Path,
    settings: FinetuneSettings | None = None,
    *,
    accelerator: Accelerator | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Tune ``generator`` until ``settings.steps`` updates, or until the guard stops it.

    Args:
        generator: is changed: gets an adapter, which ends up with the last weights.
        make_aligner: takes the generator, a :class:`~vrm.diffusion.objective.RewardObjective` and ``accelerator``;
            such as ``functools.partial(RewardGradient, training=Training(lr=1e-3))``.
        rewards: the trained one, and the judge that is held out.
        prompts: trained on, and held out.
        out: the run's folder.
        settings: how long and how carefully.
        accelerator: of Hugging Face Accelerate, for several processes or mixed precision.
        resume: continue from the newest checkpoint in ``out``; ends where an uninterrupted run would.

    Returns:
        What ``summary.json`` says; nothing in processes other than the first.

    Raises:
        PromptError: if a held-out prompt is trained on.
        CheckpointError: if there is nothing to resume.
        ValueError: if the reward does not suit the aligner.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the update is finished and saved.
    """
    settings = settings or FinetuneSettings()
    team = Team.of(accelerator)
    objective = RewardObjective({"trained": rewards.trained})
    aligner = make_aligner(generator, objective, accelerator=accelerator)
    source = _videos(aligner, prompts, Path(out), settings, accelerator)
    if source is not None:
        prompts = Prompts(list(dict.fromkeys(source.prompts)), prompts.held_out)
    examiner = Examiner(generator, objective, rewards.held_out, rewards.encoder, prompts.held_out, settings, team)
    course = Course(aligner, examiner, RunFolder(out), settings, prompts, source)
    if team.is_first:
        rewards.trained.save(course.run.reward_file)
        rewards.held_out.save(course.run.path / "held_out_reward.safetensors")
    try:
        course.begin(resume)
        with noted_interrupts() as asked:
            while not course.is_over:
                course.advance()
                if team.agree(asked()):
                    course.interrupt()
        return course.finish()
    finally:
        course.close()


class Course:
    """The state of a run and everything that happens between two updates; checkpoints hold all of it.

    Attributes:
        num_timesteps: updates made.
    """

    def __init__(
        self,
        aligner: Aligner,
        examiner: Examiner,
        run: RunFolder,
        settings: FinetuneSettings,
        prompts: Prompts,
        source: CaptionedVideos | None,
    ) -> None:
        """Start before the first update."""
        self.aligner, self.examiner, self.run, self.settings = aligner, examiner, run, settings
        self.prompts, self.source, self.team = prompts, source, examiner.team
        self.guard = Guard(settings.guard.patience, settings.guard.margin)
        self.num_timesteps = 0
        self.best: dict[str, Tensor] = {}
        self.outcome = Outcome(run.path, examiner, settings)
        self._logger: Logger | None = None
        self._bar: Any = None
        self._exam: tuple[int, Exam] | None = None

    @property
    def is_over(self) -> bool:
        """Whether all updates are made, or the guard has stopped them."""
        return self.num_timesteps >= self.settings.steps or self.stopped is not None

    @property
    def stopped(self) -> int | None:
        """The update after which the guard stopped, if it did."""
        verdicts = self.guard.verdicts
        has_stopped = bool(self.settings.guard.enabled and verdicts and verdicts[-1].state == "stop")
        return self.guard.history[-1].step if has_stopped else None

    def begin(self, resume: bool) -> None:
        """Read the newest checkpoint, or look at the generator as it is."""
        start = self.run.load_checkpoint(self) if resume else 0
        if self.team.is_first:
            self.run.forget_after(start)
            logs = self.run.path / "logs" / f"from_{start:09d}"
            self._logger = configure(str(logs), ["csv", "tensorboard"])
            self._bar = tqdm(total=self.settings.steps, initial=start, desc="tuning", leave=False)
        if not resume:
            self.evaluate()
            self.film()

    def advance(self) -> None:
        """Make one update and whatever is due after it."""
        start = time.perf_counter()
        metrics = self.aligner.step(self._batch())
        metrics["seconds"] = time.perf_counter() - start
        self.num_timesteps += 1
        if self._logger is not None:
            for name, value in metrics.items():
                self._logger.record(name, value)
            self._logger.dump(self.num_timesteps)
            self._bar.update()
        settings, step = self.settings, self.num_timesteps
        if step % settings.eval_every == 0 or step == settings.steps:
            self.evaluate()
        if step % settings.film_every == 0 and step < settings.steps:
            self.film()
        if step % settings.checkpoint_every == 0 or self.is_over:
            self.checkpoint()

    def evaluate(self) -> None:
        """Draw held-out videos, measure them, ask the guard, and keep the weights if they are the best so far."""
        exam = self._look()
        verdict = self.guard.update(self.num_timesteps, exam.trained.tolist(), exam.held_out.tolist())
        if verdict.is_best:
            self.best = self._weights()
        if self.team.is_first:
            self.run.log_evaluation(self.num_timesteps, exam.row())
            self._say(verdict, exam)
            if verdict.is_best:
                self._keep("best", self.best, self.num_timesteps)
            self.outcome.summarise(self.guard, self.run.evaluations(), self.stopped, finished=False)

    def film(self) -> None:
        """Write a sheet and a film of samples of the generator as it is."""
        exam = self._look()
        if self.team.is_first:
            self.outcome.film(f"step_{self.num_timesteps:06d}", exam.videos)

    def checkpoint(self) -> None:
        """Write everything that the next update depends on."""
        states = self.team.gather([to_cpu(self.aligner.state_dict())])
        if self.team.is_first:
            self._states = states
            self.run.save_checkpoint(self)
        self.team.agree(False)  # nobody goes on before it is written

    def interrupt(self) -> None:
        """Save, say how to go on, and raise KeyboardInterrupt."""
        self.checkpoint()
        if self.team.is_first:
            command = f"vrm finetune --resume {self.run.path}"
            tqdm.write(f"Interrupted after update {self.num_timesteps}, saved; continue with: {command}")
        raise KeyboardInterrupt

    def close(self) -> None:
        """Close the logs."""
        if self._logger is not None:
            self._bar.close()
            self._logger.close()

    def finish(self) -> dict[str, Any]:
        """Keep the last weights, measure scaled versions of them, and draw the pictures."""
        last = self._weights()
        final = self._look()
        rows = self._scaled(final) if self.settings.scales else []
        with self.aligner.denoiser.lora_weights(self.best):
            kept = final if self.guard.best.step == self.num_timesteps else self.examiner.examine()
        summary: dict[str, Any] = {}
        if self.team.is_first:
            self._keep("last", last, self.num_timesteps)
            self.outcome.film(f"step_{self.num_timesteps:06d}", final.videos)
            evaluations = self.run.evaluations()
            summary = self.outcome.summarise(self.guard, evaluations, self.stopped, finished=True, tradeoff=rows)
            self.outcome.draw(self.guard, evaluations, self.stopped, kept.videos, final.videos, rows)
        return summary

    def write_checkpoint(self, folder: Path) -> None:
        """Write the state of all processes into an empty folder."""
        common = {"step": self.num_timesteps, "guard": self.guard.state_dict(), "best": self.best}
        write_state(folder, STATE, {**common, "aligners": self._states})

    def read_checkpoint(self, folder: Path, with_buffer: bool = True) -> None:
        """Read what :meth:`write_checkpoint` wrote; there is no buffer.

        Raises:
            CheckpointError: if it is damaged, or of another aligner.
            ValueError: if it was written by another number of processes.
        """
        state = read_state(folder, STATE)
        if len(state["aligners"]) != self.team.size:
            raise ValueError(f"it was written by {len(state['aligners'])} processes, these are {self.team.size}")
        self.aligner.load_state_dict(state["aligners"][self.team.rank])
        self.guard.load_state_dict(state["guard"])
        self.num_timesteps = state["step"]
        device = self.aligner.denoiser.device
        self.best = {name: value.to(device) for name, value in state["best"].items()}
        if self.team.is_first:
            self._keep("best", self.best, self.guard.best.step)

    def _batch(self) -> Batch:
        """What the next update learns from: a function of its number alone."""
        total = len(self.prompts.train if self.source is None else self.source.prompts)
        share = (self.team.rank, self.team.size)
        rows = batch_indices(total, self.settings.batch, self.num_timesteps, self.settings.seed, share)
        if self.source is None:
            return Batch([self.prompts.train[row] for row in rows])
        prompts, frames = self.source.pick(rows)
        return Batch(prompts, frames.to(self.aligner.denoiser.device))

    def _look(self) -> Exam:
        """Examine the generator as it is, once per update."""
        if self._exam is None or self._exam[0] != self.num_timesteps:
            with self.aligner.averaged():
                self._exam = (self.num_timesteps, self.examiner.examine())
        return self._exam[1]

    def _weights(self) -> dict[str, Tensor]:
        """The adapter's weights that are evaluated: their running mean, where there is one."""
        with self.aligner.averaged():
            return self.aligner.denoiser.lora_state()

    def _keep(self, name: str, weights: dict[str, Tensor], step: int) -> None:
        about = {"generator": self.aligner.generator.name, **describe_adapter(self.aligner.denoiser), "step": step}
        save_tuned(self.run.path / name, weights, about)

    def _scaled(self, final: Exam) -> list[dict[str, float]]:
        """Measure the last weights at each scale; 1 is measured already."""
        rows = []
        for scale in sorted({0.0, *self.settings.scales}):
            exam = final
            if scale != 1:
                with self.aligner.averaged(), self.aligner.denoiser.lora_scale(scale):
                    exam = self.examiner.examine()
            rows.append({"scale": scale, **exam.row()})
        return rows

    def _say(self, verdict: Verdict, exam: Exam) -> None:
        rows = self.run.evaluations()
        row = exam.row()
        line = f"update {self.num_timesteps}: trained reward {row['trained']:.4f}, held-out {row['held_out']:.4f}"
        tqdm.write(f"{line}; {verdict.state}: {verdict.reason}")
        for warning in warnings(rows[0], row):
            tqdm.write(f"  look at the samples: {warning}")
        if self.stopped is not None:
            tqdm.write(
                f"Stopped by the guard after update {self.stopped}; kept those of update {self.guard.best.step}."
            )


def _videos(
    aligner: Aligner, prompts: Prompts, out: Path, settings: FinetuneSettings, accelerator: Accelerator | None
) -> CaptionedVideos | None:
    """Real videos if there are some, the base model's own if the aligner needs any."""
    generator = aligner.generator
    if settings.videos is not None:
        return read_captioned(settings.videos, generator.defaults.frames, generator.defaults.size)
    if not aligner.needs_videos:
        return None
    cache = out / "videos" / "base.safetensors"
    # Only the first process draws; the others then find the file.
    with nullcontext() if accelerator is None else accelerator.main_process_first():
        return draw_captioned(generator, prompts.train, cache, settings.seed, settings.eval_batch)
