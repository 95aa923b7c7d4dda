"""Transforms for a decode pool that hang, crash or fail, by the brightness of a plain clip."""

import os
import time

HANGS, ABORTS, FAILS = 200, 150, 100


def judge(frames):
    if frames.std() > 9:
        return frames
    level = int(frames.mean().round())
    if abs(level - HANGS) < 9:
        time.sleep(1000)
    if abs(level - ABORTS) < 9:
        os.abort()
    if abs(level - FAILS) < 9:
        raise RuntimeError("no such picture")
    return frames
