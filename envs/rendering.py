"""Fast off-screen rendering: a profile that turns off what costs and teaches nothing, and a camera per task.

Two renderers draw the same model: OpenGL, and the ray-caster of :mod:`vrm.envs.warp_renderer`. Their frames differ in
light and texture filtering, and so do scores of them.

Measured on the Gymnasium humanoid at 64 x 64 pixels with a software renderer (``benchmarks/reward_path.py``): most of
a default frame goes into the shadow map, multisampling and a floor drawn as a hundred thousand small quads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import mujoco
import numpy as np
from numpy.typing import NDArray
from OpenGL.error import Error as OpenGLError  # type: ignore[import-untyped]  # it has no stubs

from vrm.envs.gl import require_backend
from vrm.errors import RenderingError, UnknownNameError

Frame = NDArray[np.uint8]
Quality = Literal["fast", "full"]
RendererName = Literal["opengl", "warp"]
FULL_SIZE = 320  # pixels of the videos that people watch
EYE = "vrm ray-caster"  # the camera and the headlight of a model that is prepared for it
SITE_GEOM = "vrm site "  # starts the name of a geom that stands for a site, which rays do not meet


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

    def view(self, model: mujoco.MjModel, data: mujoco.MjData) -> mujoco.MjvCamera:
        """Return MuJoCo's free camera for the present state."""
        view = mujoco.MjvCamera()
        view.distance, view.azimuth, view.elevation = self.distance, self.azimuth, self.elevation
        view.lookat[:] = self.lookat
        if self.follow:
            view.lookat[:2] += data.xpos[model.body(self.follow).id, :2]
        return view


def prepare(
    spec: mujoco.MjSpec, size: int, quality: Quality, camera: Camera, renderer: RendererName = "opengl"
) -> None:
    """Edit a model specification, before it is compiled, for rendering at ``size`` pixels in ``quality``.

    The compiled model knows which renderer it was prepared for, and :class:`SceneRenderer` takes that one.

    Raises:
        UnknownNameError: on an unknown renderer.
        MissingExtraError: if ``renderer`` is ``"warp"`` and mujoco-warp is not installed.
    """
    if renderer not in get_args(RendererName):
        raise UnknownNameError("renderer", renderer, get_args(RendererName))
    if renderer == "warp":
        from vrm.envs import warp_renderer  # noqa: F401  # to be told at once if it is missing

        _prepare_for_rays(spec, camera)
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


def _prepare_for_rays(spec: mujoco.MjSpec, camera: Camera) -> None:
    """Add what OpenGL has of itself: a free camera, the headlight, sites; none of it has mass or touches anything."""
    spec.worldbody.add_camera(name=EYE, fovy=camera.fovy)
    light = spec.worldbody.add_light(name=EYE, type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)
    light.castshadow = False
    matte = spec.add_material(name=EYE, specular=0.0, rgba=(0.5, 0.5, 0.5, 1))
    for geom in spec.geoms:
        if geom.type == mujoco.mjtGeom.mjGEOM_PLANE:  # OpenGL shines at corners only, rays would all over
            geom.material = geom.material or matte.name
            spec.material(geom.material).specular = 0.0
    for number, site in enumerate(spec.sites):
        if site.group > 2 or site.rgba[3] == 0:
            continue
        site.name = site.name or f"vrm unnamed {number}"
        geom = site.parent.add_geom(
            name=f"{SITE_GEOM}{site.name}", type=site.type, size=site.size, pos=site.pos, quat=site.quat,
            rgba=site.rgba, material=site.material, group=site.group, mass=0, contype=0, conaffinity=0,
        )  # fmt: skip
        geom.fromto = site.fromto


class SceneRenderer:
    """Renders one model from one camera; must be used from the thread that created it.

    Args:
        model: compiled after :func:`prepare`, which chose OpenGL or the ray-caster.
        size: picture height and width in pixels.
        quality: the profile given to :func:`prepare`.
        camera: where to look from.

    Raises:
        RenderingError: if no OpenGL library is there, or the context cannot be created.
    """

    def __init__(self, model: mujoco.MjModel, size: int, quality: Quality, camera: Camera) -> None:
        """Create an OpenGL context or a ray-caster for ``model``."""
        self._renderer = _open(model, size, quality)
        self._model = model
        self.camera = camera  # where frames are taken from; assign another at any time

    def render(self, data: mujoco.MjData) -> Frame:
        """Return the frame ``(H, W, 3)`` uint8 RGB of the present state."""
        self._renderer.update_scene(data, self.camera.view(self._model, data))
        frame: Frame = self._renderer.render()
        return frame

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()


class RendersScene:
    """Gives an environment with a MuJoCo model ``render`` and ``close``; stands before the simulator's class.

    Attributes:
        model: compiled after :func:`prepare`.
        data: the simulator's present state.
        width: picture height and width in pixels.
        quality: the profile given to :func:`prepare`.
        camera: where frames are taken from; assign another at any time.
        render_mode: ``"rgb_array"`` or ``None``.
    """

    model: mujoco.MjModel
    data: mujoco.MjData
    width: int
    quality: Quality
    camera: Camera
    render_mode: str | None
    _scene: SceneRenderer | None = None

    def render(self) -> Frame | None:
        """Return the frame ``(size, size, 3)`` uint8, or ``None`` without ``render_mode="rgb_array"``."""
        if self.render_mode != "rgb_array":
            return None
        if self._scene is None:
            self._scene = SceneRenderer(self.model, self.width, self.quality, self.camera)
        self._scene.camera = self.camera
        return self._scene.render(self.data)

    def close(self) -> None:
        """Free the OpenGL context, if one was made."""
        if self._scene is not None:
            self._scene.close()
            self._scene = None


def _open(model: mujoco.MjModel, size: int, quality: Quality) -> Any:
    """Return the renderer that ``model`` was prepared for; both are used like :class:`mujoco.Renderer`."""
    if mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, EYE) >= 0:
        from vrm.envs.warp_renderer import WarpRenderer

        return WarpRenderer(model, size, quality)
    require_backend()
    try:
        renderer = mujoco.Renderer(model, size, size)
    except (mujoco.FatalError, RuntimeError, ImportError, OpenGLError) as error:
        raise RenderingError(
            f"MuJoCo could not create an OpenGL context ({error}); is there a driver, on Debian or Ubuntu "
            "`apt-get install libgl1-mesa-dri`?"
        ) from error
    if quality == "fast":
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            renderer.scene.flags[flag] = 0
    return renderer
