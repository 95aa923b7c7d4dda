"""Plain pictures, and the runner that tests use: it waits for milliseconds."""

import torch

from vrm.judges import JudgeRunner, Meaning, Question

SIZE = 12


def grey(*levels):
    """One picture per level in (0, 1): ``(N, 3, H, W)`` uint8."""
    values = torch.tensor([round(255 * level) for level in levels], dtype=torch.uint8)
    return values[:, None, None, None].expand(-1, 3, SIZE, SIZE).contiguous()


def yes_or_no(level):
    parts = ("The image:", grey(level)[0], "Is it bright? Answer with one word, yes or no.")
    return Question(parts, ("yes", "no"), Meaning("holds", "a bright picture"))


def quick(judge, cache=None, **limits):
    return JudgeRunner(judge, cache, **{"base_delay": 0.01, "max_delay": 0.05, "retries": 3} | limits)
