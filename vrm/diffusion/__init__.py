"""Rewards that improve video generators: denoisers, codecs, samplers, and what trains or searches with them."""

from vrm.diffusion.codec import FrameCodec, LatentCodec, VideoCodec
from vrm.diffusion.conditions import Conditions, PromptEncoder
from vrm.diffusion.denoiser import Prediction, VideoDenoiser
from vrm.diffusion.frames import (
    TAR,
    AllFrames,
    AlternateFrames,
    EvenFrames,
    FirstMiddleLast,
    FrameSelection,
    RandomFrames,
    Segments,
    Uniform,
)
from vrm.diffusion.generator import SamplingDefaults, VideoGenerator, load_generator
from vrm.diffusion.grad_sampler import (
    GradientSample,
    LastSteps,
    ListedSteps,
    RandomCutoff,
    RandomSteps,
    StepChoice,
    noised_start,
    renoised_x0,
    sample_with_gradient,
)
from vrm.diffusion.kernels import Kernel, Transition, cps, dance_sde, ddim, flow_sde, kl, lcm, ode
from vrm.diffusion.rollout import Trajectory, rollout, transit
from vrm.diffusion.schedule import DiffusionSchedule, FlowSchedule, NoiseSchedule
