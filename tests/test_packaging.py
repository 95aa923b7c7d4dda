"""The wheel, installed elsewhere and used from another folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "vrm", "envs", "agents", "configs")
UV = shutil.which("uv", path=sysconfig.get_path("scripts")) or "uv"


def run(*command, cwd, check=True):
    """Run a command that must not see this checkout, and return what it said."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build from a copy, so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    build = ("build", "--wheel", "--no-build-isolation", "--offline", "--python", sys.executable)
    run(UV, *build, "--out-dir", str(folder), cwd=source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with nothing but the wheel, which borrows the dependencies of this one."""
    home = tmp_path_factory.mktemp("elsewhere")
    venv.create(home / "venv", with_pip=False, symlinks=True)
    (packages,) = (home / "venv" / "lib").glob("python*/site-packages")
    # Folders named in a .pth file get no .pth files of their own read: an editable vrm stays out of sight.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = home / "venv" / "bin" / "python"
    run(UV, "pip", "install", "--offline", "--no-deps", "--python", str(python), str(wheel), cwd=home)
    return home


def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def data_files():
    """What the library reads at run time besides its modules."""
    for folder in ("vrm", "envs", "agents", "configs"):
        for file in (ROOT / folder).rglob("*"):
            data = file.suffix == ".yaml" or file.name == "py.typed" or {"weights", "assets"} & set(file.parts)
            if file.is_file() and data and "__pycache__" not in file.parts:
                inside = file.relative_to(ROOT)
                yield str(inside if folder == "vrm" else Path("vrm") / inside)


def test_the_wheel_holds_every_module_and_data_file(wheel):
    modules = {
        str(Path(*([] if folder == "vrm" else ["vrm"]), file.relative_to(ROOT)))
        for folder in ("vrm", "envs", "agents", "configs")
        for file in (ROOT / folder).rglob("*.py")
    }
    assert modules | set(data_files()) <= names(wheel)


def test_the_wheel_puts_nothing_but_vrm_on_the_path(wheel):
    roots = {name.split("/")[0] for name in names(wheel)}
    assert {root for root in roots if not root.endswith(".dist-info")} == {"vrm"}
    assert any(name.endswith("licenses/LICENSE") for name in names(wheel))


def test_it_imports_from_another_folder(installed):
    code = (
        "import vrm, vrm.envs, vrm.agents, vrm.configs, pathlib, importlib.util as u;"
        "print(*(pathlib.Path(m.__file__).parent for m in (vrm, vrm.envs, vrm.agents, vrm.configs)), sep='\\n');"
        "assert not any(u.find_spec(name) for name in ('envs', 'agents', 'configs'))"
    )
    folders = run(str(installed / "venv" / "bin" / "python"), "-c", code, cwd=installed).stdout.split()
    assert len(folders) == 4
    assert all(Path(folder).is_relative_to(installed) for folder in folders)


def test_the_command_answers_from_another_folder(installed):
    assert "vrm" in run(str(installed / "venv" / "bin" / "vrm"), "--help", cwd=installed).stdout


@pytest.mark.parametrize("name", ["envs", "agents"])
def test_source_folders_refuse_to_be_imported_by_their_own_name(name):
    done = run(sys.executable, "-c", f"import {name}", cwd=ROOT, check=False)
    assert done.returncode == 1
    assert f"ImportError: Import vrm.{name}, not {name}" in done.stderr


def test_the_links_that_make_the_layout_are_links():
    for name in ("envs", "agents", "configs"):
        assert os.readlink(ROOT / "vrm" / name) == f"../{name}"


def test_requirements_name_packages_only():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert not [line for line in lines if line.startswith("-") or "/" in line or "==" not in line]
    assert {"torch==2.14.1", "torchvision==0.29.1"} <= set(lines)
