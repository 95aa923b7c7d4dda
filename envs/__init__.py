"""Text-goal tasks: environments with a sentence for a goal, rendered fast, described by captions.

Importing this package chooses a headless OpenGL backend and registers the tasks as Gymnasium ids under ``vrm/``.

Example:
    >>> import gymnasium as gym
    >>> import vrm.envs
    >>> env = gym.make("vrm/HumanoidKneeling-v0", render_mode="rgb_array")
    >>> env.reset(seed=0)[0].shape
    (62,)
"""

if __name__ == "envs":
    raise ImportError("Import vrm.envs, not envs: the folder is only a source location.")

from vrm.envs.gl import import_mujoco

import_mujoco()  # before anything below imports mujoco without a backend

from vrm.envs.families import FAMILIES as FAMILIES  # noqa: E402
from vrm.envs.families import Family as Family  # noqa: E402
from vrm.envs.task import TASKS as TASKS  # noqa: E402
from vrm.envs.task import TaskSample as TaskSample  # noqa: E402
from vrm.envs.task import TextGoalTask as TextGoalTask  # noqa: E402
from vrm.envs.task import make_task as make_task  # noqa: E402
from vrm.envs.task import register_tasks  # noqa: E402

register_tasks()
