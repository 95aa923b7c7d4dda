"""``vrm relabel``: a dataset, a reward, a copy."""

from __future__ import annotations

import argparse
from pathlib import Path

from vrm.configuration import build_rewards
from vrm.data.relabel import describe, relabel
from vrm.data.trajectories import ORIGINAL, open_trajectories
from vrm.envs import make_task

EPILOG = """\
examples:
  vrm record runs/RUN --all --states --size 64 --episodes 50 --out data
  vrm relabel data --reward goal --task inverted_pendulum --out labelled
  vrm train task=inverted_pendulum agent=torchrl_iql agent.dataset=labelled

A dataset is a folder of `vrm record`, a Minari or LeRobot dataset on local disk, an .npz or an HDF5 file. The copy has
its format; the rewards it had are kept beside the new ones. What was killed goes on when it is called again.
"""


def relabel_command(arguments: list[str]) -> int:
    """Relabel the dataset that the command line names.

    Raises:
        VrmError: if it cannot be carried out; no copy is written then.
    """
    parser = argparse.ArgumentParser(
        "vrm relabel",
        usage="vrm relabel DATASET --reward R --out COPY [KEY=VALUE ...] [options]",
        description="Let a reward pay every step of a dataset, in a copy.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", help="what is labelled")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of the reward, as for vrm score")
    parser.add_argument("--reward", required=True, metavar="R", help="a reward's name, or a saved one (.safetensors)")
    parser.add_argument("--out", type=Path, required=True, metavar="COPY", help="the copy; must not exist")
    parser.add_argument("--task", help="gives a named reward its goal, and renders where a dataset has no frames")
    parser.add_argument("--goal", help="what should be done, instead of the task's goal")
    parser.add_argument("--size", type=int, default=64, help="pixels of rendered frames (default 64)")
    parser.add_argument("--encoder", default="vrm-sim", metavar="NAME", help="what load_encoder takes (%(default)s)")
    parser.add_argument("--device", help="where the encoder runs")
    given = parser.parse_intermixed_args(arguments)
    task = make_task(given.task) if given.task else None
    goal = given.goal or (task.goal[0] if task else None)
    settings = [*([f"task.goal='{goal}'"] if goal else []), *given.settings]
    if task is not None and not given.goal:
        settings.insert(1, f"task.baseline='{task.baseline[0]}'")
    rewards = build_rewards(
        [given.reward], given.encoder, device=given.device, has_prompts=False,
        overrides=[] if given.reward.endswith(".safetensors") else settings,
    )  # fmt: skip
    (reward,) = rewards.values()
    relabel(given.dataset, reward, given.out, task=task, size=given.size)
    paid = open_trajectories(given.out)
    totals = [float(values.sum()) for i in range(len(paid)) if (values := paid.read(i).rewards) is not None]
    print(f"{len(paid)} episodes relabelled by {given.reward} (fingerprint {describe(reward)['fingerprint']})")
    print(f"returns: {min(totals):.2f} to {max(totals):.2f}; the former rewards are kept as {ORIGINAL}")
    print(f"copy: {given.out}")
    return 0
