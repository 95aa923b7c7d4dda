"""What the front page shows is what runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_python_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").symlink_to(ROOT / "videos")
    small = (
        BLOCKS[block]
        .replace("total_steps=100_000", "total_steps=104, eval_episodes=1")
        .replace("gamma=0.98", "gamma=0.98, learning_starts=90")
    )
    exec(compile(small, f"README block {block}", "exec"), {})


def test_every_command_exists():
    from vrm.cli import USAGE

    commands = set(re.findall(r"^vrm (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    assert commands
    assert all(f"  {command} " in USAGE for command in commands)


def test_linked_files_exist():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
