"""Judges and what runs them, from plain settings: what configuration files and saved rewards hold."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from vrm.encoders import Encoder, load_encoder
from vrm.errors import UnknownNameError
from vrm.judges.base import Judge, JudgeError
from vrm.judges.runner import JudgeRunner
from vrm.judges.sim import SimJudge

BACKENDS = ("hf", "http", "sim")


def make_judge(settings: Mapping[str, Any], encoder: Encoder | None = None) -> Judge:
    """Build a judge.

    Args:
        settings: ``backend`` is ``"sim"``, ``"hf"`` or ``"http"``, the rest are that judge's arguments. They may stand
            under the backend's name, so that one configuration serves several: what stands under other backends' names
            is not read. One that is None is left to the judge's own default.
        encoder: of the stand-in judge; without it, the one named in the settings is loaded.

    Raises:
        UnknownNameError: if there is no such backend, or it has no such setting.
        JudgeError: if a setting is missing.
        MissingExtraError: if what the backend needs is not installed.

    Example:
        >>> make_judge({"backend": "sim", "encoder": "vrm-sim", "noise": 0.1}).settings()["noise"]  # doctest: +SKIP
        0.1
    """
    given = dict(settings)
    backend = given.pop("backend", "sim")
    cls = _backend(backend)
    given |= {name: given.pop(name, {}) for name in BACKENDS}[backend]
    given = {name: value for name, value in given.items() if value is not None}
    known = inspect.signature(cls).parameters
    for name in given:
        if name not in known:
            raise UnknownNameError(f"setting of judge {backend!r}", name, known)
    if backend == "sim":
        named = given.pop("encoder", "vrm-sim")
        given["encoder"] = encoder if encoder is not None else load_encoder(named)
    missing = [name for name, p in known.items() if p.default is inspect.Parameter.empty and name not in given]
    if missing:
        raise JudgeError(f"Judge {backend!r} needs {', '.join(missing)}; add it to the judge's settings.")
    return cls(**given)


def make_runner(
    judge: Judge | Mapping[str, Any], runner: Mapping[str, Any] | None = None, encoder: Encoder | None = None
) -> JudgeRunner:
    """Build a runner around a judge or its settings.

    Args:
        judge: a judge, or as in :func:`make_judge`.
        runner: keyword arguments of :class:`vrm.judges.JudgeRunner`; those that are None are left out.
        encoder: of the stand-in judge.

    Raises:
        UnknownNameError: if the runner has no such setting; and as :func:`make_judge`.
    """
    given = {name: value for name, value in (runner or {}).items() if value is not None}
    known = list(inspect.signature(JudgeRunner).parameters)[1:]
    for name in given:
        if name not in known:
            raise UnknownNameError("setting of the judge's runner", name, known)
    return JudgeRunner(judge if isinstance(judge, Judge) else make_judge(judge, encoder), **given)


def _backend(name: str) -> type[Judge]:
    if name == "sim":
        return SimJudge
    if name == "hf":
        from vrm.judges.hf import HFJudge

        return HFJudge
    if name == "http":
        from vrm.judges.http import HTTPJudge

        return HTTPJudge
    raise UnknownNameError("judge", name, BACKENDS)
