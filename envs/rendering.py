"""Fast off-screen rendering: a profile that turns off what costs and teaches nothing, and a camera per task.

Measured on the Gymnasium humanoid at 64 x 64 pixels with a software renderer (``benchmarks/reward_path.py``): most of
a default frame goes into the shadow map, multisampling and a floor drawn as a hundred thousand small quads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray
from OpenGL.error import Error as OpenGLError  # type: ignore[import-untyped]  # it has no stubs

from vrm.envs.gl import require_backend
from vrm.errors import RenderingError

Frame = NDArray[np.uint8]
Quality = Literal["fast", "full"]
FULL_SIZE = 320  # pixels of the videos that people watch


def render_metadata(fps: int) -> dict[str, Any]:
    """Return the ``metadata`` of an environment that renders RGB arrays only; Gymnasium makes windows from them."""
    return {"render_modes": ["rgb_array"], "render_fps": fps}


@dataclass(frozen=True)
class Camera:
    """A free camera that may follow one body over the ground.

    Attributes:
        distance: metres from the point it looks at.
        azimuth: degrees about the vertical axis.
        elevation: degrees, negative looks down.
        lookat: the point ``(x, y, z)`` in metres; ``x, y`` are offsets from ``follow`` if that is given.
        follow: name of a body whose ground position the camera tracks; its height is never followed, so that
            height stays visible.
        fovy: vertical field of view in degrees.
    """

    distance: float
    azimuth: float
    elevation: float
    lookat: tuple[float, float, float]
    follow: str | None = None
    fovy: float = 45.0

    def jitter(self, rng: np.random.Generator, scale: float = 1.0) -> Camera:
        """Return a nearby camera: about 10 % in distance, 15 degrees around, 6 degrees up or down at ``scale`` 1."""
        dx, dy, dz = rng.normal(0, [0.08, 0.08, 0.05]) * scale
        return replace(
            self,
            distance=self.distance * float(np.exp(rng.normal(0, 0.08) * scale)),
            azimuth=self.azimuth + float(rng.normal(0, 15)) * scale,
            elevation=min(self.elevation + float(rng.normal(0, 6)) * scale, -2.0),
            lookat=(self.lookat[0] + dx, self.lookat[1] + dy, self.lookat[2] + dz),
        )


def prepare(spec: mujoco.MjSpec, size: int, quality: Quality, camera: Camera) -> None:
    """Edit a model specification, before it is compiled, for rendering at ``size`` pixels in ``quality``."""
    spec.visual.global_.offwidth = spec.visual.global_.offheight = size
    spec.visual.global_.fovy = camera.fovy
    settings = spec.visual.quality
    if quality == "full":
        settings.offsamples, settings.shadowsize = 8, 2048
        return
    settings.offsamples = settings.shadowsize = 0
    settings.numslices, settings.numstacks, settings.numquads = 10, 5, 1
    for geom in spec.geoms:
        if geom.type == mujoco.mjtGeom.mjGEOM_PLANE:
            geom.size[2] = max(geom.size[:2])  # one quad, not one per grid cell


class SceneRenderer:
    """Renders one model from one camera; must be used from the thread that created it.

    Args:
        model: compiled after :func:`prepare`.
        size: picture height and width in pixels.
        quality: the profile given to :func:`prepare`.
        camera: where to look from.

    Raises:
        RenderingError: if no OpenGL library is there, or the context cannot be created.
    """

    def __init__(self, model: mujoco.MjModel, size: int, quality: Quality, camera: Camera) -> None:
        """Create an OpenGL context for ``model``."""
        require_backend()
        try:
            self._renderer = mujoco.Renderer(model, size, size)
        except (mujoco.FatalError, RuntimeError, ImportError, OpenGLError) as error:
            raise RenderingError(
                f"MuJoCo could not create an OpenGL context ({error}); is there a driver, on Debian or Ubuntu "
                "`apt-get install libgl1-mesa-dri`?"
            ) from error
        if quality == "fast":
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderer.scene.flags[flag] = 0
        self._model = model
        self.camera = camera

    @property
    def camera(self) -> Camera:
        """Where frames are taken from; assign another at any time."""
        return self._camera

    @camera.setter
    def camera(self, camera: Camera) -> None:
        self._camera = camera
        self._view = mujoco.MjvCamera()
        self._view.distance, self._view.azimuth, self._view.elevation = (
            camera.distance,
            camera.azimuth,
            camera.elevation,
        )
        self._view.lookat[:] = camera.lookat
        self._body = self._model.body(camera.follow).id if camera.follow else None

    def render(self, data: mujoco.MjData) -> Frame:
        """Return the frame ``(H, W, 3)`` uint8 RGB of the present state."""
        if self._body is not None:
            self._view.lookat[:2] = data.xpos[self._body, :2] + np.asarray(self._camera.lookat[:2])
        self._renderer.update_scene(data, self._view)
        frame: Frame = self._renderer.render()
        return frame

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()
