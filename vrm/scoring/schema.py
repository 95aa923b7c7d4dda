"""What one row of scores holds: a video under a prompt, judged by one reward."""

from __future__ import annotations

import pyarrow as pa

ROW = pa.schema(
    [
        # which row this is
        ("index", pa.int64()),  # place in the plan: rows are sorted by it
        ("id", pa.string()),  # of the item, from the manifest, else its path
        ("path", pa.string()),
        ("prompt", pa.string()),
        ("reward", pa.string()),
        # what was found
        ("score", pa.float64()),  # null where there is an error
        ("dimensions", pa.map_(pa.string(), pa.float64())),  # named parts of the score
        ("values", pa.list_(pa.float32())),  # one reward per sampled frame
        ("frame_indices", pa.list_(pa.int32())),  # which frames were sampled, of the file as shown
        ("frame_times", pa.list_(pa.float64())),  # their time stamps, in seconds from the first frame
        # the file
        ("frames", pa.int64()),
        ("fps", pa.float64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("duration", pa.float64()),  # in seconds
        ("codec", pa.string()),
        ("backend", pa.string()),  # decoder and its version
        ("video_hash", pa.string()),  # of the file's bytes
        # the judge
        ("sampler", pa.string()),  # as in "segments:8"
        ("encoder", pa.string()),
        ("encoder_hash", pa.string()),  # of weights and preprocessing
        ("reward_hash", pa.string()),  # of class, configuration, tensors and encoder
        ("prompt_truncated", pa.bool_()),  # the text tower did not read all of the prompt; null where none reads it
        ("prompt_tokens", pa.int32()),  # its length
        ("prompt_tokens_read", pa.int32()),  # how many of them the text tower saw
        # what went wrong
        ("warning", pa.string()),  # a score exists, but look at the file
        ("error_kind", pa.string()),  # a kind of DecodeError, or "model"; null if there is a score
        ("error", pa.string()),  # one sentence
        ("meta", pa.map_(pa.string(), pa.string())),  # further columns of the manifest
    ]
)
