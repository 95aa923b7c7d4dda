"""Video files and tensors: write, read, sample, frame-exact and many at once."""

from vrm.video.hashing import file_hash as file_hash
from vrm.video.read import MAX_FRAMES as MAX_FRAMES
from vrm.video.read import Backend as Backend
from vrm.video.read import Sample as Sample
from vrm.video.read import VideoInfo as VideoInfo
from vrm.video.read import read_video as read_video
from vrm.video.read import sample_video as sample_video
from vrm.video.read import video_info as video_info
from vrm.video.sampling import FrameSampler as FrameSampler
from vrm.video.sampling import Sampling as Sampling
from vrm.video.sampling import sample_indices as sample_indices
from vrm.video.workers import DecodePool as DecodePool
from vrm.video.writing import MAX_GIF_FPS as MAX_GIF_FPS
from vrm.video.writing import Picture as Picture
from vrm.video.writing import replacing as replacing
from vrm.video.writing import write_gif as write_gif
from vrm.video.writing import write_video as write_video
