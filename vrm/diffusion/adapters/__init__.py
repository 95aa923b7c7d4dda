"""Denoisers of diffusers, one per network layout."""

from vrm.diffusion.adapters.cogvideox import CogVideoXDenoiser
from vrm.diffusion.adapters.ltx import LTXDenoiser
from vrm.diffusion.adapters.unet3d import UNet3DDenoiser
from vrm.diffusion.adapters.unet_motion import UNetMotionDenoiser
from vrm.diffusion.adapters.wan import WanDenoiser
