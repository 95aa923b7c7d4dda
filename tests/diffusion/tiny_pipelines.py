"""A random pipeline of each class that is driven, with its own tokenizer and text encoder, small enough for a test."""

from __future__ import annotations

import diffusers
import torch
from tiny_generator import tiny_unet_model, tiny_wan_model
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def clip_text(width=32):
    vocab = {letter: i for i, letter in enumerate(LETTERS)}
    vocab |= {f"{letter}</w>": len(vocab) + i for i, letter in enumerate(LETTERS)}
    vocab |= {"<|startoftext|>": len(vocab), "<|endoftext|>": len(vocab) + 1}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)
    config = CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=vocab["<|startoftext|>"],
        eos_token_id=vocab["<|endoftext|>"],
    )
    return {"tokenizer": tokenizer, "text_encoder": CLIPTextModel(config).eval()}


def t5_text(width=32, multilingual=False):
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -5.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    tokenizer = T5TokenizerFast(vocab=pieces, extra_ids=0)
    kind, model = (UMT5Config, UMT5EncoderModel) if multilingual else (T5Config, T5EncoderModel)
    config = kind(vocab_size=len(pieces), d_model=width, d_kv=8, d_ff=48, num_layers=1, num_heads=2)
    return {"tokenizer": tokenizer, "text_encoder": model(config).eval()}


def image_vae():
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )


def wan_vae(**changes):
    return diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 2.0, 0.5, 1.0],
        **changes,
    )


def cogvideox_vae():
    return diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )


def ltx_vae(causal=False):
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, False),
        decoder_spatio_temporal_scaling=(True, False),
        decoder_inject_noise=(False, False, False),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=causal,
    )
    vae.latents_mean.normal_()
    vae.latents_std.uniform_(0.5, 2.0)
    return vae


def ddim(**changes):
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    return diffusers.DDIMScheduler(**(config | {"clip_sample": False} | changes))


def modelscope():
    return diffusers.TextToVideoSDPipeline(
        **clip_text(), vae=image_vae(), unet=tiny_unet_model(), scheduler=ddim(set_alpha_to_one=False)
    )


def animatediff():
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=32,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    adapter = diffusers.MotionAdapter(
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
        motion_max_seq_length=16,
    )
    model = diffusers.UNetMotionModel.from_unet2d(unet, adapter)
    return diffusers.AnimateDiffPipeline(
        **clip_text(),
        vae=image_vae(),
        unet=model,
        motion_adapter=adapter,
        scheduler=ddim(beta_schedule="linear"),
    )


def wan(experts=False):
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    )
    return diffusers.WanPipeline(
        **t5_text(multilingual=True),
        vae=wan_vae(),
        scheduler=scheduler,
        transformer=tiny_wan_model(),
        transformer_2=tiny_wan_model() if experts else None,
        boundary_ratio=0.875 if experts else None,
    )


def cogvideox(rotary=True, temporal_patch=None):
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        patch_size=2,
        patch_size_t=temporal_patch,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=rotary,
        patch_bias=temporal_patch is None,
    )
    scheduler = diffusers.CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", snr_shift_scale=3.0
    )
    return diffusers.CogVideoXPipeline(**t5_text(), vae=cogvideox_vae(), transformer=transformer, scheduler=scheduler)


def ltx():
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=32,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, shift_terminal=0.1,
        base_image_seq_len=1024, max_image_seq_len=4096,
    )  # fmt: skip
    return diffusers.LTXPipeline(**t5_text(), vae=ltx_vae(), transformer=transformer, scheduler=scheduler)


def seeded(build, seed=0, **arguments):
    """Build with fixed weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(**arguments)
