"""Teachers that are slow, broken or deadly; a module of their own, so that a process which holds one starts quickly."""

from __future__ import annotations

import time

from vrm.rewards.base import RewardModel


class Brightness(RewardModel):
    """Pays the mean brightness of a frame, after ``seconds``."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds

    def terms(self, clips, goals=None, state=None):
        time.sleep(self.seconds)
        return {"brightness": clips.float().mean(dim=(2, 3, 4)) / 255}

    def combine(self, terms):
        return terms["brightness"]

    def config(self):
        return {"seconds": self.seconds}

    @classmethod
    def from_config(cls, config, encoder=None):
        return cls(**config)


class Broken(Brightness):
    """A teacher that cannot label."""

    def terms(self, clips, goals=None, state=None):
        raise ArithmeticError("nothing fits")
