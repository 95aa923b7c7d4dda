"""Environment steps per second of SAC, end to end: collecting, rewards, updates.

Text reward: the humanoid renders at the encoder's resolution and the deferred reward scores frames in batches before
the buffer is sampled, as ``vrm train`` does. Against it: the same SAC (``configs/agent/sac.yaml``: same number of
environments, train frequency and gradient steps) on the environment's own reward, without rendering. Only
``learning_starts`` is lowered, so that updates are part of what is measured from the beginning.
"""

from __future__ import annotations

from statistics import median

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq
from timing import in_turns, make_reward, median_ratio, open_encoder, parse, print_table

from vrm.agents.rollouts import make_envs
from vrm.agents.threads import ThreadVecEnv
from vrm.agents.train import build
from vrm.configuration import build_algorithm, build_task, compose
from vrm.wrappers import attach_reward

WARM_UP = 512  # steps


class Learning:
    """A few rollouts of training, each with its updates."""

    def __init__(self, algorithm: OffPolicyAlgorithm, rollouts: int, callback: BaseCallback | None = None) -> None:
        """Train until updates have begun."""
        self.algorithm, self.callback = algorithm, callback
        algorithm.set_logger(Logger(None, []))
        assert isinstance(algorithm.train_freq, TrainFreq)
        self.steps: int = rollouts * algorithm.train_freq.frequency * algorithm.n_envs
        algorithm.learn(WARM_UP, callback)

    def __call__(self) -> int:
        """Train on and return the environment steps taken."""
        before = self.algorithm.num_timesteps
        self.algorithm.learn(self.steps, self.callback, reset_num_timesteps=False)
        return self.algorithm.num_timesteps - before


def main() -> None:
    """Measure and print."""
    options = parse(__doc__, seconds=12.0)
    encoder, size = open_encoder(options.encoder)
    config = compose("train", ["task=humanoid_kneeling", "agent=sac"])
    config["agent"]["algorithm"]["learning_starts"] = WARM_UP // 2
    task, make_algorithm, count = build_task(config), build_algorithm(config), config["agent"]["n_envs"]

    with_text = build(make_algorithm, make_envs(task, count, size), seed=0)
    bare = ThreadVecEnv([lambda: task.make(render_mode=None)] * count)
    with_own = make_algorithm(env=bare, seed=0, device=with_text.device)
    text = Learning(with_text, 2, attach_reward(with_text, make_reward(encoder)))
    works = {"text reward": text, "own reward": Learning(with_own, 2)}
    rates = in_turns(works, options.seconds, rounds=5)
    ratio = median_ratio(rates, "text reward", "own reward")
    for algorithm in (with_text, with_own):
        algorithm.get_env().close()
    settings = config["agent"]["algorithm"]
    rows = [[name, f"{median(rates[name]):.0f}"] for name in works]
    print_table(
        f"SAC steps per second, {count} environments, train_freq {settings['train_freq']}, "
        f"gradient_steps {settings['gradient_steps']}",
        ["reward", "steps/s"], [*rows, ["ratio", f"{ratio:.2f}x"]],
    )  # fmt: skip


if __name__ == "__main__":
    main()
