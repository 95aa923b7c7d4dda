"""Demonstrations from Minari and LeRobot datasets, written by Minari itself and after LeRobot's layouts."""

import io
import json
import sys
import warnings

import gymnasium as gym
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from minari.data_collector import EpisodeBuffer
from PIL import Image
from ramps import hwc, numbers, ramp

from vrm.data import DemoError, load_demos
from vrm.errors import DecodeError, MissingExtraError
from vrm.video import write_video


@pytest.mark.parametrize("package", ["h5py", "minari"])
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, package):
    (tmp_path / "push.h5").write_bytes(b"")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "metadata.json").write_text('{"minari_version": "0.5.4"}')
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package}, which is not installed.*vrm\[data\]"):
        load_demos([tmp_path / {"h5py": "push.h5", "minari": "set"}[package]])


def write_minari(name, observations, space, data_format="hdf5"):
    """Two episodes of five steps; ``observations`` makes the six observations of one from brightness 0 to 50."""
    images = np.stack([np.full((40, 48, 3), 10 * t, np.uint8) for t in range(6)])
    buffers = [
        EpisodeBuffer(
            id=episode, seed=episode, observations=observations(images), actions=np.full((5, 2), episode, np.float32),
            rewards=[0.0] * 5, terminations=[False] * 5, truncations=[False] * 4 + [True],
            infos={"success": np.array([False] * 3 + [True] * 3)} if data_format == "hdf5" else None,
        )
        for episode in range(2)
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no environment comes with it
        minari.create_dataset_from_buffers(
            name, buffers, observation_space=space, action_space=gym.spaces.Box(-1, 1, (2,), np.float32),
            algorithm_name="none", author="a", author_email="a@b.c", code_permalink="none", description="a lamp",
            data_format=data_format,
        )  # fmt: skip


IMAGE = gym.spaces.Box(0, 255, (40, 48, 3), np.uint8)
LEVEL = gym.spaces.Box(0, 9, (1,), np.float32)


@pytest.fixture
def minari_root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    ("observations", "space"),
    [
        (lambda images: images, IMAGE),
        (
            lambda images: {"pixels": images, "level": np.zeros((6, 1), np.float32)},
            gym.spaces.Dict({"pixels": IMAGE, "level": LEVEL}),
        ),
    ],
)
def test_minari_episodes_come_with_actions_and_success(minari_root, observations, space, data_format):
    write_minari("lamp/bright-v0", observations, space, data_format)
    for source in ("lamp/bright-v0", minari_root / "lamp" / "bright-v0", minari_root / "lamp" / "bright-v0" / "data"):
        demos = load_demos([source])
        assert [demo.name for demo in demos] == ["lamp/bright-v0/0", "lamp/bright-v0/1"]
        assert numbers(demos[1]) == [0, 1, 2, 3, 4, 5]
        assert demos[1].actions.tolist() == [[1, 1]] * 5
        assert demos[1].success is (True if data_format == "hdf5" else None)


def test_a_minari_dataset_without_images_says_how_to_record_some(minari_root):
    write_minari("lamp-v0", lambda images: np.zeros((6, 1), np.float32), LEVEL)
    with pytest.raises(DemoError, match=r"no image observations.*AddRenderObservation"):
        load_demos(["lamp-v0"])


def test_a_damaged_minari_dataset_is_named(minari_root):
    write_minari("lamp/bright-v0", lambda images: images, IMAGE)
    data = minari_root / "lamp" / "bright-v0" / "data"
    (data / "main_data.hdf5").write_bytes(b"nothing")
    with pytest.raises(DemoError, match=r"lamp/bright-v0 cannot be read"):
        load_demos(["lamp/bright-v0"])
    (data / "metadata.json").write_text(json.dumps({"minari_version": "0.5.4"}))
    with pytest.raises(DemoError, match="does not record its spaces"):
        load_demos(["lamp/bright-v0"])


TOP, WRIST = "observation.images.top", "observation.images.wrist"


def write_info(root, version, features, **paths):
    (root / "meta").mkdir(parents=True)
    features = {**features, "action": {"dtype": "float32"}, "next.success": {"dtype": "bool"}}
    info = {"codebase_version": version, "fps": 10, "chunks_size": 1000, "features": features, **paths}
    (root / "meta" / "info.json").write_text(json.dumps(info))


def episode_rows(episode, length, task):
    return {
        "episode_index": [episode] * length, "frame_index": list(range(length)), "task_index": [task] * length,
        "action": [[float(episode), float(t)] for t in range(length)],
        "next.success": [False] * (length - 1) + [episode == 0],
    }  # fmt: skip


def write_table(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def lerobot_v2(tmp_path):
    root = tmp_path / "pusht"
    write_info(
        root, "v2.1", {TOP: {"dtype": "video"}, WRIST: {"dtype": "video"}},
        data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        video_path="videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    )  # fmt: skip
    lines = []
    for episode, length in enumerate((5, 6)):
        write_table(root / f"data/chunk-000/episode_{episode:06d}.parquet", episode_rows(episode, length, episode))
        for start, camera in enumerate((TOP, WRIST)):
            file = root / f"videos/chunk-000/{camera}/episode_{episode:06d}.mp4"
            write_video(file, ramp(length, start=10 * start + episode), fps=10)
        lines.append({"episode_index": episode, "tasks": [f"task {episode}"], "length": length})
    (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tasks = [json.dumps({"task_index": i, "task": f"task {i}"}) for i in range(2)]
    (root / "meta/tasks.jsonl").write_text("\n".join(tasks))
    return root


@pytest.fixture
def lerobot_v3(tmp_path):
    """Three episodes: two share a video, all share a table."""
    root, lengths = tmp_path / "pusht", (5, 6, 4)
    write_info(
        root, "v3.0", {TOP: {"dtype": "video"}},
        data_path="data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        video_path="videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    )  # fmt: skip
    rows = [episode_rows(episode, length, 0) for episode, length in enumerate(lengths)]
    write_table(root / "data/chunk-000/file-000.parquet", {k: [v for row in rows for v in row[k]] for k in rows[0]})
    write_video(root / f"videos/{TOP}/chunk-000/file-000.mp4", torch.cat([ramp(5), ramp(6, start=10)]), fps=10)
    write_video(root / f"videos/{TOP}/chunk-000/file-001.mp4", ramp(4, start=3), fps=10)
    columns = {
        "episode_index": [2, 0, 1], "length": [4, 5, 6], "tasks": [["push the T"]] * 3,
        "data/chunk_index": [0] * 3, "data/file_index": [0] * 3,
        f"videos/{TOP}/chunk_index": [0] * 3, f"videos/{TOP}/file_index": [1, 0, 0],
        f"videos/{TOP}/from_timestamp": [0.0, 0.0, 0.5], f"videos/{TOP}/to_timestamp": [0.4, 0.5, 1.1],
    }  # fmt: skip
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", columns)
    write_table(root / "meta/tasks.parquet", {"task_index": [0], "__index_level_0__": ["push the T"]})
    return root


def test_lerobot_v2_has_one_file_per_episode_and_camera(lerobot_v2):
    first, second = load_demos([lerobot_v2])
    assert (first.name, first.text, first.success, first.fps) == (f"pusht/0 ({TOP})", "task 0", True, 10)
    assert (numbers(first), numbers(second)) == ([0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6])
    assert second.actions.tolist() == [[1, t] for t in range(5)]
    assert second.success is False
    assert numbers(load_demos([lerobot_v2], camera="wrist", fps=5)[1]) == [11, 13, 15]


def test_lerobot_v3_episodes_share_files(lerobot_v3):
    demos = load_demos([lerobot_v3])
    assert [numbers(demo) for demo in demos] == [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14, 15], [3, 4, 5, 6]]
    assert [demo.name for demo in demos] == ["pusht/0", "pusht/1", "pusht/2"]
    assert {demo.text for demo in demos} == {"push the T"}
    assert demos[2].actions.tolist() == [[2, t] for t in range(3)]
    assert numbers(load_demos([lerobot_v3], fps=5)[1]) == [10, 12, 14]


def test_lerobot_text_comes_from_the_task_table_where_episodes_have_none(lerobot_v3):
    file = lerobot_v3 / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["tasks"]), file)
    assert load_demos([lerobot_v3], limit=1)[0].text == "push the T"


def test_lerobot_pictures_may_stand_in_the_table(tmp_path):
    root = tmp_path / "libero"
    write_info(root, "v2.0", {"image": {"dtype": "image"}}, data_path="data/{episode_index}.parquet", video_path=None)
    cells = []
    for picture in hwc(ramp(4)):
        Image.fromarray(picture).save(stream := io.BytesIO(), "PNG")
        cells.append({"bytes": stream.getvalue(), "path": "frame.png"})
    write_table(root / "data/0.parquet", {**episode_rows(0, 4, 0), "image": cells})
    (root / "meta/episodes.jsonl").write_text(json.dumps({"episode_index": 0, "length": 4, "tasks": ["stack"]}))
    (demo,) = load_demos([root])
    assert torch.equal(demo.frames, ramp(4))
    cells[2]["bytes"] = b"nothing"
    write_table(root / "data/0.parquet", {**episode_rows(0, 4, 0), "image": cells})
    with pytest.raises(DemoError, match="picture 2 of 'image' cannot be decoded"):
        load_demos([root])


def change_info(root, **changes):
    file = root / "meta/info.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda root: change_info(root, codebase_version="v9"), DemoError, "layout 'v9'"),
        (lambda root: change_info(root, features={"action": {"dtype": "float32"}}), DemoError, "no camera"),
        (lambda root: change_info(root, fps=0), DemoError, "positive fps"),
        (lambda root: (root / "meta/info.json").write_text("{"), DemoError, "cannot be read as JSON"),
        (lambda root: (root / "meta/episodes.jsonl").unlink(), DemoError, "episodes.jsonl is missing"),
        (lambda root: (root / "meta/episodes.jsonl").write_text(""), DemoError, "lists no episodes"),
        (lambda root: (root / "meta/episodes.jsonl").write_text('{"episode_index": 0}'), DemoError, "malformed"),
        (lambda root: (root / "data/chunk-000/episode_000000.parquet").unlink(), DemoError, "missing or damaged"),
        (lambda root: (root / f"videos/chunk-000/{TOP}/episode_000000.mp4").unlink(), DecodeError, "no video file"),
        (
            lambda root: write_video(root / f"videos/chunk-000/{TOP}/episode_000000.mp4", ramp(3), fps=10),
            DemoError, "should last until 0.400 s",
        ),
    ],
)  # fmt: skip
def test_a_malformed_lerobot_dataset_is_one_sentence(lerobot_v2, damage, error, message):
    damage(lerobot_v2)
    with pytest.raises(error, match=message) as caught:
        load_demos([lerobot_v2])
    assert "pusht" in str(caught.value)
