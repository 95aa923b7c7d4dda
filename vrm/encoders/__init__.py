"""Encoders: images and texts to unit vectors; :func:`load_encoder` is the one way in."""

from vrm.encoders.base import Encoder as Encoder
from vrm.encoders.loading import load_encoder as load_encoder
from vrm.encoders.preprocess import Preprocess as Preprocess
