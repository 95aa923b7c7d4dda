"""Choose MuJoCo's OpenGL backend before mujoco is imported, and explain a missing library in one sentence."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys

from vrm.errors import RenderingError

BACKENDS = {"egl": "EGL", "osmesa": "OSMesa"}
ADVICE = (
    "No OpenGL library for headless rendering was found (tried EGL, then OSMesa): "
    "install one, on Debian or Ubuntu `apt-get install libegl1 libopengl0 libgl1-mesa-dri`."
)


def choose_backend() -> str | None:
    """Set ``MUJOCO_GL`` if the user has not, to the first headless backend whose library loads.

    Returns:
        The backend in force, or ``None`` where MuJoCo's own default is kept (not Linux) or nothing was found.
    """
    chosen = os.environ.get("MUJOCO_GL")
    if chosen or not sys.platform.startswith("linux"):
        return chosen
    for backend, library in BACKENDS.items():
        if _loads(library):
            os.environ["MUJOCO_GL"] = backend
            return backend
    return None


def require_backend() -> None:
    """Raise if frames cannot be rendered in this process.

    Raises:
        RenderingError: if no headless OpenGL library loads, or mujoco was imported before one was chosen.
    """
    if not sys.platform.startswith("linux"):
        return
    backend = os.environ.get("MUJOCO_GL", "").strip().lower()
    if not backend or (backend in BACKENDS and not _loads(BACKENDS[backend])):
        raise RenderingError(ADVICE)
    context = getattr(sys.modules.get("mujoco"), "GLContext", None)
    loaded = getattr(context, "__module__", "mujoco.nothing").removeprefix("mujoco.")
    if backend in BACKENDS and loaded != backend:
        raise RenderingError(
            f"mujoco was imported before MUJOCO_GL={backend} was set, and renders with {loaded}; "
            "import vrm.envs first, or set it earlier."
        )


def import_mujoco() -> None:
    """Import mujoco under the chosen backend; a missing library becomes one sentence.

    Raises:
        RenderingError: instead of the AttributeError that mujoco raises when the OpenGL library is missing.
    """
    choose_backend()
    try:
        import mujoco  # noqa: F401
    except (AttributeError, ImportError) as error:
        if isinstance(error, ImportError) and "mujoco" in str(error):
            raise
        raise RenderingError(ADVICE) from error


def _loads(library: str) -> bool:
    found = ctypes.util.find_library(library)
    if not found:
        return False
    try:
        ctypes.CDLL(found)
    except OSError:
        return False
    return True
