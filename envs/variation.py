"""What should not matter, varied: viewpoint, field of view, colours, light and background of a MuJoCo scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

FIELD_OF_VIEW = (32.0, 60.0)  # degrees


class Variation:
    """Draws another look for a MuJoCo environment at every call; the scene keeps its size in the picture.

    Args:
        env: has ``model`` and an assignable ``camera``; its present look is what others are drawn around.
        shift: standard deviation of the point looked at, metres on each axis.
        turn: how far the camera strays, in units of :meth:`~vrm.envs.rendering.Camera.jitter`.
        backdrops: names of geoms that serve as background and may take any colour; a transparent one shows now and
            then.
    """

    def __init__(self, env: Any, shift: float, turn: float = 1.0, backdrops: Sequence[str] = ()) -> None:
        """Keep the environment's own look."""
        self._env, self._shift, self._turn = env, shift, turn
        model = env.model
        self._camera = env.camera
        self._colours = model.geom_rgba.copy()
        self._backdrops = [model.geom(name).id for name in backdrops]
        self._headlight = model.vis.headlight.ambient.copy(), model.vis.headlight.diffuse.copy()
        self._lights = model.light_diffuse.copy(), model.light_dir.copy()

    def __call__(self, rng: np.random.Generator) -> None:
        """Draw viewpoint, colours and light."""
        self._look(rng)
        self._paint(rng)
        self._light(rng)

    def _look(self, rng: np.random.Generator) -> None:
        near = self._camera.jitter(rng, scale=float(rng.uniform(0, self._turn)))
        fovy = float(rng.uniform(*FIELD_OF_VIEW))
        zoom = np.tan(np.radians(self._camera.fovy) / 2) / np.tan(np.radians(fovy) / 2)
        x, y, z = np.asarray(self._camera.lookat) + rng.normal(0, self._shift, 3)
        self._env.model.vis.global_.fovy = fovy
        lookat = (float(x), float(y), float(z))
        self._env.camera = replace(near, distance=near.distance * float(zoom), lookat=lookat, fovy=fovy)

    def _paint(self, rng: np.random.Generator) -> None:
        rgba = self._env.model.geom_rgba
        shades = rng.uniform(0.8, 1.2, (len(rgba), 3)) * rng.uniform(0.85, 1.15, 3)  # each geom's own, and a cast
        rgba[:] = self._colours
        rgba[:, :3] = np.clip(self._colours[:, :3] * shades, 0, 1)
        for geom in self._backdrops:
            if rng.random() < 0.6:
                grey, colour = rng.uniform(0.25, 1.0), rng.uniform(0.2, 1.0, 3)
                rgba[geom] = (*(0.5 * grey + 0.5 * colour), 1.0)

    def _light(self, rng: np.random.Generator) -> None:
        model, brightness = self._env.model, rng.uniform(0.75, 1.25)
        model.vis.headlight.ambient[:] = self._headlight[0] * rng.uniform(0.7, 1.2)
        model.vis.headlight.diffuse[:] = self._headlight[1] * brightness
        model.light_diffuse[:] = self._lights[0] * brightness
        tilted = self._lights[1] + rng.normal(0, 0.2, self._lights[1].shape)
        model.light_dir[:] = tilted / np.linalg.norm(tilted, axis=1, keepdims=True)
