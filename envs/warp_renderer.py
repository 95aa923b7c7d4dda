"""The second renderer: mujoco-warp's ray-caster, which needs no OpenGL library, no CUDA, and draws batches.

It draws what OpenGL draws by default: geoms and visible sites of the groups 0 to 2 with their colours and textures,
the skybox, headlight and lights, each pixel lit by itself; in ``"full"`` quality also shadows, and four rays a pixel.
It cannot draw transparency (whatever is not invisible is opaque), reflections, haze, skins, tendons and MuJoCo's
decorations such as contact points, and has no flags for them. It has no mipmaps, so that a checkered floor flickers in
the distance, the less for :data:`CONTRAST`; floors have no highlights. Frames are deterministic and do not depend on
what else is in a batch; those of a CUDA device need not equal the processor's.

Kernels are compiled when a process first needs them, about 10 seconds in all on one core, and kept in Warp's own cache
(``warp.config.kernel_cache_dir``, by default ``~/.cache/warp``; the environment variable ``WARP_CACHE_PATH`` moves it).
"""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from vrm.envs.rendering import EYE, SITE_GEOM, Camera, Frame, Quality
from vrm.errors import MissingExtraError, RenderingError


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Drop what native code writes to standard error."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


try:
    import warp

    with _quiet_stderr():  # it warns that there is no CUDA driver, which nobody asked for
        warp.config.log_level = max(warp.config.log_level, warp.LOG_WARNING)  # no banner, no line per kernel
        warp.init()  # type: ignore[no-untyped-call]  # Warp leaves it untyped
    import mujoco_warp  # type: ignore[import-untyped]  # no stubs
except ImportError as error:
    raise MissingExtraError("mujoco-warp", "warp", "renderer=warp") from error

Array = NDArray[np.float32]
LOOKS = ("geom_rgba", "mat_rgba", "light_ambient", "light_diffuse", "light_specular")
PLACES = ("geom_xpos", "geom_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")
SLOW = 3.0  # seconds of compiling after which a sentence says so
CONTRAST = 0.6  # of checkered floors in "fast" frames: between OpenGL's near the camera and its none far away
_BUILDING = threading.Lock()
_SHARING = threading.Lock()


@dataclass(frozen=True)
class Snapshot:
    """All that one frame depends on, copied from a model and its state; ``G`` geoms, ``M`` materials, ``L`` lights.

    Attributes:
        geom_xpos: ``(G, 3)`` metres.
        geom_xmat: ``(G, 3, 3)``.
        cam_xpos: ``(C, 3)`` metres; all cameras, of which one is looked through.
        cam_xmat: ``(C, 3, 3)``; columns right, up and backwards.
        light_xpos: ``(L, 3)`` metres.
        light_xdir: ``(L, 3)``.
        geom_rgba: ``(G, 4)`` in [0, 1].
        mat_rgba: ``(M, 4)`` in [0, 1].
        light_ambient: ``(L, 3)``.
        light_diffuse: ``(L, 3)``.
        light_specular: ``(L, 3)``.
    """

    geom_xpos: Array
    geom_xmat: Array
    cam_xpos: Array
    cam_xmat: Array
    light_xpos: Array
    light_xdir: Array
    geom_rgba: Array
    mat_rgba: Array
    light_ambient: Array
    light_diffuse: Array
    light_specular: Array


class WarpRenderer:
    """Casts rays into one model; used like :class:`mujoco.Renderer`, or for many states at once.

    Colours and lights of ``model`` may change between frames, and within a batch; shapes, textures and the field of
    view are those of its construction.

    Args:
        model: compiled after :func:`~vrm.envs.rendering.prepare` with ``renderer="warp"``.
        size: picture height and width in pixels.
        quality: the profile given to ``prepare``.
        worlds: how many states one launch draws.
        device: ``"cpu"``, ``"cuda:0"``; ``None`` for CUDA where there is one.

    Raises:
        RenderingError: if the model was not prepared for it, has parts that mujoco-warp refuses, or there is no such
            device.
        ValueError: if ``worlds`` is not positive.

    Example:
        >>> from vrm.envs import make_task
        >>> env = make_task("humanoid_kneeling", renderer="warp").make(size=24).unwrapped
        >>> renderer, seen = WarpRenderer(env.model, 24, "fast", worlds=2), []
        >>> for seed in range(3):
        ...     _ = env.reset(seed=seed)
        ...     seen.append(renderer.snapshot(env.data, env.camera))
        >>> renderer.render_batch(seen).shape
        (3, 24, 24, 3)
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        size: int,
        quality: Quality,
        worlds: int = 1,
        device: str | None = "cpu",
    ) -> None:
        """Copy the model's shapes and textures to the device."""
        self._eye = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, EYE)
        if self._eye < 0:
            raise RenderingError('The model was not prepared for the ray-caster; use prepare(..., renderer="warp").')
        if worlds < 1:
            raise ValueError(f"worlds must be at least 1, got {worlds}.")
        self._model, self._size, self.worlds = model, size, worlds
        self._headlight = model.light(EYE).id
        self._sites = _drawn_sites(model)
        self._device = _find_device(device)
        with _BUILDING, _explain_compiling(), self._launching():
            self._build(quality)
        self._sent: dict[str, Array] = {}
        self._next: Snapshot | None = None

    def _build(self, quality: Quality) -> None:
        visual = copy.copy(self._model)
        visual.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON  # others are refused, though nothing is solved here
        visual.vis.headlight.active = 0  # it is one of the lights: its colour would be compiled in
        visual.vis.map.zfar = 0.0  # likewise; no ray ends
        if quality == "fast":
            _soften(visual)
        try:
            self._warp_model = mujoco_warp.put_model(visual, dict.fromkeys(LOOKS, self.worlds))
            self._data = mujoco_warp.make_data(visual, nworld=self.worlds)
        except NotImplementedError as error:
            raise RenderingError(f"mujoco-warp cannot take this model ({error}); use renderer=opengl.") from error
        self._context = mujoco_warp.create_render_context(
            visual, nworld=self.worlds, cam_res=(self._size, self._size), cam_active=[self._eye], render_rgb=True,
            render_skybox=True, use_shadows=quality == "full", samples_per_pixel=2 if quality == "full" else 1,
        )  # fmt: skip
        mujoco_warp.refit_bvh(self._warp_model, self._data, self._context)
        mujoco_warp.render(self._warp_model, self._data, self._context)

    @contextlib.contextmanager
    def _launching(self) -> Iterator[None]:
        """Make the device the current one, which is one for all threads."""
        with _SHARING if warp.is_cuda_available() else contextlib.nullcontext(), warp.ScopedDevice(self._device):
            yield

    def snapshot(self, data: mujoco.MjData, camera: Camera | mujoco.MjvCamera) -> Snapshot:
        """Copy what a frame of the present state, seen from ``camera``, depends on."""
        model = self._model
        view = camera.view(model, data) if isinstance(camera, Camera) else camera
        position, axes = pose(view)
        found = {name: _copied(getattr(data, name)) for name in PLACES}
        found |= {name: _copied(getattr(model, name)) for name in LOOKS}
        geoms, sites = self._sites
        found["geom_xpos"][geoms], found["geom_xmat"][geoms] = data.site_xpos[sites], data.site_xmat[sites]
        found["geom_rgba"][geoms] = model.site_rgba[sites]
        for name in ("geom_xmat", "cam_xmat"):
            found[name] = found[name].reshape(-1, 3, 3)
        found["cam_xpos"][self._eye], found["cam_xmat"][self._eye] = position, axes
        found["light_xpos"][self._headlight], found["light_xdir"][self._headlight] = position, -axes[:, 2]
        for part in ("ambient", "diffuse", "specular"):
            shines = getattr(model.vis.headlight, part) * bool(model.vis.headlight.active)
            found[f"light_{part}"][self._headlight] = shines
        return Snapshot(**found)

    def render_batch(self, snapshots: Sequence[Snapshot]) -> Frame:
        """Return the frames ``(N, H, W, 3)`` uint8 RGB of ``N`` snapshots, drawn ``worlds`` at a time."""
        frames = np.empty((len(snapshots), self._size, self._size, 3), dtype=np.uint8)
        for start in range(0, len(snapshots), self.worlds):
            part = list(snapshots[start : start + self.worlds])
            count = len(part)
            part += [part[-1]] * (self.worlds - count)
            with self._launching():
                for field in fields(Snapshot):
                    self._send(field.name, np.stack([getattr(snapshot, field.name) for snapshot in part]))
                mujoco_warp.refit_bvh(self._warp_model, self._data, self._context)
                mujoco_warp.render(self._warp_model, self._data, self._context)
                pixels = self._context.rgb_data.numpy()  # uint32, 0xAARRGGBB
            shape = (self.worlds, self._size, self._size, 4)
            frames[start : start + count] = pixels.astype("<u4").view(np.uint8).reshape(shape)[:count, ..., 2::-1]
        return frames

    def _send(self, name: str, values: Array) -> None:
        if name in self._sent and np.array_equal(self._sent[name], values):
            return
        target: Any = getattr(self._warp_model if name in LOOKS else self._data, name)
        if values.size:
            target.assign(values)
        self._sent[name] = values

    def update_scene(self, data: mujoco.MjData, camera: mujoco.MjvCamera) -> None:
        """Choose what :meth:`render` draws."""
        self._next = self.snapshot(data, camera)

    def render(self) -> Frame:
        """Return the frame ``(H, W, 3)`` uint8 RGB of what :meth:`update_scene` has seen."""
        assert self._next is not None
        frame: Frame = self.render_batch([self._next])[0]
        return frame

    def close(self) -> None:
        """Do nothing: memory goes with the object."""


def _find_device(name: str | None) -> Any:
    """Return Warp's device of that name, or the fastest there is."""
    if name is None:
        return warp.get_preferred_device()
    known = [device.alias for device in warp.get_devices()]
    if name not in known:
        raise RenderingError(f"There is no device {name!r} here for the ray-caster; known: {', '.join(known)}.")
    return warp.get_device(name)


def pose(view: mujoco.MjvCamera) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return position ``(3,)`` and axes ``(3, 3)`` (columns right, up, backwards) of a free camera."""
    azimuth, elevation = np.radians([view.azimuth, view.elevation])
    forward = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    return view.lookat - view.distance * forward, np.stack([right, np.cross(right, forward), -forward], axis=1)


def _soften(model: mujoco.MjModel) -> None:
    """Take contrast out of the textures of planes: nothing filters them in the distance, where they would flicker."""
    planes = model.geom_matid[model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE]
    textures = model.mat_texid[planes[planes >= 0], mujoco.mjtTextureRole.mjTEXROLE_RGB]
    for texture in {int(i) for i in textures if i >= 0}:
        start, channels = model.tex_adr[texture], model.tex_nchannel[texture]
        length = model.tex_height[texture] * model.tex_width[texture] * channels
        pixels = model.tex_data[start : start + length].reshape(-1, channels)
        mean = pixels.mean(axis=0)
        pixels[:] = mean + CONTRAST * (pixels - mean)


def _copied(values: NDArray[np.float64]) -> Array:
    return np.array(values, dtype=np.float32)


def _drawn_sites(model: mujoco.MjModel) -> tuple[list[int], list[int]]:
    """Return the geoms that stand for sites, and these sites."""
    geoms = [i for i in range(model.ngeom) if model.geom(i).name.startswith(SITE_GEOM)]
    return geoms, [model.site(model.geom(i).name.removeprefix(SITE_GEOM)).id for i in geoms]


@contextlib.contextmanager
def _explain_compiling() -> Iterator[None]:
    """Say on standard error what takes so long, if it does."""
    sentence = (
        "vrm: compiling the ray-caster's kernels, once for this machine and kind of scene (about 10 seconds); "
        f"they are kept in {warp.config.kernel_cache_dir}."
    )
    timer = threading.Timer(SLOW, print, [sentence], {"file": sys.stderr})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
