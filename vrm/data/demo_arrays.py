"""Demonstrations from stacks of frames: .npz files, and HDF5 files in our own or robomimic's layout."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vrm.data.demo_frames import Reading, natural
from vrm.data.demos import Demo, DemoError
from vrm.errors import MissingExtraError, UnknownNameError, VrmError

FIELDS = ("frames", "stages", "actions", "success", "text", "fps")
HDF5 = (".h5", ".hdf5")
BAD_NPZ = (
    OSError, ValueError, KeyError, IndexError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
BAD_HDF5 = (OSError, RuntimeError, KeyError, ValueError, TypeError, ArithmeticError, MemoryError)


def read_npz(path: Path, reading: Reading) -> Iterator[Demo]:
    """Read ``frames`` ``(T, H, W, 3)`` uint8, or ``(N, T, H, W, 3)`` for N demonstrations, and labels if there are any.

    Labels are ``stages`` ``(T,)``, ``actions`` ``(T - 1, A)``, ``success`` (one value, or one per frame of which the
    last counts), ``text`` and ``fps`` (one value for all); with N demonstrations, all but ``fps`` have a leading axis
    of N, and one ``text`` may serve for all.

    Raises:
        DemoError: if the file is damaged, or its arrays are of other types or shapes.
    """
    try:
        with path.open("rb") as opened:  # numpy leaves the file open where it gives up
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it is one array, not an archive of named ones")
            fields = {name: file[name] for name in FIELDS if name in file}
            names = list(file)
    except BAD_NPZ as error:
        raise DemoError(f"{path} cannot be read as .npz ({error}).") from error
    if "frames" not in fields:
        raise DemoError(f"{path} needs an array named 'frames' (T, H, W, 3) uint8; it holds {names or 'nothing'}.")
    return read_arrays(fields, str(path), path.stem, reading)


def read_hdf5(path: Path, reading: Reading) -> Iterator[Demo]:
    """Read the arrays of :func:`read_npz` from the root of a file, or from each of its groups.

    Groups, or those inside ``data`` (robomimic's ``data/demo_0``), are one demonstration each; without ``frames`` of
    its own a group's images are taken from its ``obs``.

    Raises:
        DemoError: if the file is damaged or holds no such arrays.
        UnknownNameError: if a camera is asked for that is not there.
        MissingExtraError: if h5py is not installed.
    """
    h5py = _h5py()
    found = False
    try:
        with h5py.File(path, "r") as file:
            for group, name in _groups(file, path.stem, h5py):
                fields, camera = _group_fields(group, f"{path}, group {group.name!r}", reading.camera, h5py)
                found = True
                yield from read_arrays(fields, f"{path}, group {group.name!r}", name + camera, reading)
    except VrmError:
        raise
    except BAD_HDF5 as error:
        raise DemoError(f"{path} cannot be read as HDF5 ({error}).") from error
    if not found:
        raise DemoError(f"{path} holds neither a dataset 'frames' nor groups with frames or obs.")


def read_arrays(fields: Mapping[str, Any], where: str, name: str, reading: Reading) -> Iterator[Demo]:
    """Make demonstrations of arrays with the names of :data:`FIELDS`.

    Args:
        fields: ``frames`` at least; arrays or datasets of a file.
        where: the source, for messages.
        name: of the demonstration; several get numbers.
        reading: how.

    Raises:
        DemoError: if types or shapes are others.
    """
    check_stack(fields["frames"], where)
    if len(fields["frames"].shape) == 4:
        yield _read_one(fields, where, name, reading)
        return
    for number in range(fields["frames"].shape[0]):
        one = {key: _nth(key, values, number, fields["frames"].shape[0], where) for key, values in fields.items()}
        yield _read_one(one, where, f"{name}/{number}", reading)


def check_stack(frames: Any, where: str) -> None:
    """Refuse what is not ``(T, H, W, 3)`` or ``(N, T, H, W, 3)`` uint8.

    Raises:
        DemoError: if it is not, or is empty.
    """
    shape, dtype = tuple(frames.shape), frames.dtype
    hint = ""
    if dtype != np.uint8:
        hint = "; scale floats in [0, 1] by 255 and convert them" if dtype.kind == "f" else "; convert them"
    elif len(shape) in (4, 5) and shape[-1] != 3 and shape[-3] == 3:
        hint = "; the channels must come last"
    if hint or len(shape) not in (4, 5) or shape[-1] != 3 or 0 in shape:
        raise DemoError(f"{where}: frames must be (T, H, W, 3) uint8 RGB and not empty, got {dtype} {shape}{hint}.")


def pick_camera(cameras: Iterable[str], wanted: str | None, where: str) -> tuple[str, str]:
    """Choose a camera by its name or the last part of it, or take the first.

    Returns:
        The camera, and a note for the demonstration's name: empty if there was no choice.

    Raises:
        UnknownNameError: if there is no such camera.
    """
    known = list(cameras)
    if wanted is None:
        return known[0], f" ({known[0]})" if len(known) > 1 else ""
    found = [c for c in known if wanted in (c, c.rpartition(".")[2], c.rpartition("/")[2])]
    if not found:
        raise UnknownNameError("camera", wanted, known, f"In {where}.")
    return found[0], f" ({found[0]})" if len(known) > 1 else ""


def is_images(values: Any) -> bool:
    """Whether an array or dataset holds ``(T, H, W, 3)`` uint8 pictures."""
    shape: tuple[int, ...] = getattr(values, "shape", ())
    return len(shape) == 4 and shape[-1] == 3 and min(shape[1:3]) >= 8 and values.dtype == np.uint8


def _read_one(fields: Mapping[str, Any], where: str, name: str, reading: Reading) -> Demo:
    frames = fields["frames"]
    total = int(frames.shape[0])
    rate = _rate(fields.get("fps"), where)
    rows = reading.even_rows(total, rate, where)
    labels = {key: np.asarray(fields[key]) for key in ("stages", "actions") if key in fields}
    return reading.demo(
        reading.stack(frames, rows), name, rows, total,
        rate=rate, text=_text(fields.get("text")), success=_success(fields.get("success"), total, where), **labels,
    )  # fmt: skip


def _nth(key: str, values: Any, number: int, count: int, where: str) -> Any:
    shape = np.shape(values)
    if key == "fps" or (key == "text" and len(shape) == 0):
        return values
    if not shape or shape[0] != count:
        raise DemoError(f"{where}: {key} must have one row for each of the {count} demonstrations, got shape {shape}.")
    return values[number]


def _rate(value: Any, where: str) -> float | None:
    if value is None:
        return None
    rate = np.asarray(value)
    if rate.size != 1 or rate.dtype.kind not in "iuf" or not (np.isfinite(rate).all() and rate.item() > 0):
        raise DemoError(f"{where}: fps must be one positive number, got {rate!r:.60}.")
    return float(rate.item())


def _success(value: Any, total: int, where: str) -> bool | None:
    if value is None:
        return None
    success: NDArray[Any] = np.asarray(value)
    if success.size not in (1, total) or success.dtype.kind not in "biuf":
        raise DemoError(
            f"{where}: success must be one value or one per frame, got {success.dtype} with shape {success.shape}."
        )
    return bool(success.reshape(-1)[-1])


def _text(value: Any) -> str | None:
    if value is None:
        return None
    written = np.asarray(value).reshape(-1)
    first = written[0] if len(written) else ""
    return first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)


def _groups(file: Any, stem: str, h5py: Any) -> Iterator[tuple[Any, str]]:
    if "frames" in file:
        yield file, stem
        return
    top = file["data"] if isinstance(file.get("data"), h5py.Group) else file
    for key in sorted(top, key=natural):
        if isinstance(top[key], h5py.Group):
            yield top[key], f"{stem}/{key}"


def _group_fields(group: Any, where: str, camera: str | None, h5py: Any) -> tuple[dict[str, Any], str]:
    fields = {key: group[key] for key in FIELDS if isinstance(group.get(key), h5py.Dataset)}
    fields |= {key: values[()] for key, values in fields.items() if key != "frames"}
    if "frames" in fields:
        return fields, ""
    obs = group.get("obs")
    cameras = [key for key in sorted(obs, key=natural) if is_images(obs[key])] if isinstance(obs, h5py.Group) else []
    if not cameras:
        raise DemoError(f"{where} has no images: neither 'frames' nor (T, H, W, 3) uint8 in 'obs'.")
    chosen, note = pick_camera(cameras, camera, where)
    return fields | {"frames": obs[chosen]}, note


def _h5py() -> Any:
    try:
        return import_module("h5py")
    except ImportError as error:
        raise MissingExtraError("h5py", "data", "Reading HDF5 demonstrations") from error
