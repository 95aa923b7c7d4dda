"""One folder of clips of every kind for the whole session."""

import pytest
from codes import encode, ffmpeg
from kinds import CLIPS, H264, MADE_OF_OTHERS


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """A folder with all of ``GOOD`` in it."""
    folder = tmp_path_factory.mktemp("clips")
    for name, (options, count, size) in CLIPS.items():
        encode(folder / name, *options, count=count, size=size)
    encode(folder / "one_gop.mp4", *H264, "-g", "9999", "-bf", "0", "-sc_threshold", "0", count=255)
    for name, (source, before, after) in MADE_OF_OTHERS.items():
        ffmpeg(*before, "-i", folder / source, *after, folder / name)
    return folder
