"""What happens during training besides training: a progress bar, evaluations, checkpoints, videos, pictures."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from vrm.agents.rollouts import Examiner, Policy, film
from vrm.agents.run import RunFolder
from vrm.pictures import learning_curve, reward_curve_video
from vrm.rewards import RewardModel
from vrm.video import write_video


def deterministic(model: Any) -> Policy:
    """The policy of an SB3 algorithm without exploration."""

    def act(observation: NDArray[Any]) -> NDArray[Any]:
        actions: NDArray[Any] = model.predict(observation, deterministic=True)[0]
        return actions

    return act


class Chores(BaseCallback):
    """Evaluates, films, saves and shows progress, always between an update and the next rollout.

    Args:
        run: the run's folder.
        examiner: plays the evaluation episodes.
        reward: pays in films.
        total_steps: where training ends.
        every: steps between evaluations, checkpoints and films, by name: ``eval``, ``checkpoint``, ``video``.
        episodes: evaluation episodes.
        seed: of evaluation and film episodes.
        size: pixels of the frames that the reward sees.
    """

    def __init__(
        self,
        run: RunFolder,
        examiner: Examiner,
        reward: RewardModel,
        total_steps: int,
        every: dict[str, int],
        episodes: int,
        seed: int,
        size: int,
    ) -> None:
        """Nothing is due yet."""
        super().__init__()
        self.run, self.examiner, self.reward = run, examiner, reward
        self.total_steps, self.every, self.episodes, self.seed, self.size = total_steps, every, episodes, seed, size
        self._due: dict[str, int] = {}
        self._bar: Any = None

    def _on_training_start(self) -> None:
        step = self.model.num_timesteps
        self._due = {name: (step // every + bool(step)) * every for name, every in self.every.items()}
        self._bar = tqdm(total=self.total_steps, initial=step, desc="train", unit="step", dynamic_ncols=True)

    def _on_rollout_start(self) -> None:
        step = self.model.num_timesteps
        for name, chore in (("eval", self.evaluate), ("video", self.shoot), ("checkpoint", self.checkpoint)):
            if step >= self._due[name] and step < self.total_steps:
                chore()
                self._due[name] = (step // self.every[name] + 1) * self.every[name]

    def _on_step(self) -> bool:
        self._bar.update(self.model.num_timesteps - self._bar.n)
        return True

    def _on_training_end(self) -> None:
        self.finish()

    def finish(self) -> None:
        """Close the progress bar."""
        if self._bar is not None:
            self._bar.close()

    def evaluate(self) -> dict[str, float]:
        """Play evaluation episodes, log them and redraw the curve."""
        result = self.examiner.play(deterministic(self.model), self.episodes, self.seed).summary()
        self.run.log_evaluation(self.model.num_timesteps, result)
        for name, value in result.items():
            self.logger.record(f"eval/{name}", value)
        if self._bar is not None:
            self._bar.set_postfix(success=f"{result['success_rate']:.0%}", reward=f"{result['reward_return']:.1f}")
        learning_curve(self.run.path / "curve.png", [self.run.evaluations()], title=self.examiner.task.name)
        return result

    def shoot(self) -> None:
        """Film one episode with its reward curve."""
        shot = film(deterministic(self.model), self.examiner.task, self.reward, self.size, self.seed)
        video = reward_curve_video(shot.frames, shot.reward, shot.success, caption=self.examiner.task.goal[0])
        write_video(self.run.videos / f"step_{self.model.num_timesteps:09d}.mp4", video, fps=30)

    def checkpoint(self) -> None:
        """Save everything that a killed run needs to continue."""
        if self.model.num_timesteps:
            self.run.save_checkpoint(self.model)
            self.reward.save(self.run.reward_file)  # one that learns online is not what it was
