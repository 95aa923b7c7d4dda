import pytest
import torch
from tiny_generator import PROMPTS, tiny_unet, tiny_wan

from vrm.diffusion.kernels import cps, dance_sde, ddim, flow_sde, kl, ode
from vrm.diffusion.rollout import draw_noise, group_noise, rollout, transit

CASES = [
    (tiny_wan, flow_sde(0.7), 1.0),
    (tiny_wan, flow_sde(0.7), 3.0),
    (tiny_wan, dance_sde(0.3), 3.0),
    (tiny_wan, cps(0.7), 1.0),
    (tiny_wan, ddim(1.0), 3.0),
    (tiny_unet, ddim(1.0, keep_noise=True), 3.0),
]


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def tuned(make=tiny_wan, disturbed=True):
    generator = make()
    generator.denoiser.add_lora(4)
    if disturbed:
        noise = source(2)
        for parameter in generator.denoiser.trainable():
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=noise)
    return generator, generator.denoiser


def run(generator, kernel, /, steps=5, count=3, **options):
    denoiser = generator.denoiser
    noise = draw_noise(generator.latent_shape(count), source(1))
    grid = denoiser.schedule.grid(steps)
    options.setdefault("generator", source(3))
    return rollout(denoiser, generator.condition(PROMPTS[:count]), noise, grid, kernel, **options)


def again(denoiser, path, step, kernel, **options):
    times = path.times[step], path.times[step + 1]
    transition = transit(denoiser, path.states[step], *times, path.conditions, kernel, **options)
    return transition.log_prob(path.states[step + 1])


@pytest.mark.parametrize(("make", "kernel", "guidance"), CASES)
def test_the_ratio_is_exactly_one_before_the_first_update(make, kernel, guidance):
    generator, denoiser = tuned(make)
    options = {"guidance": guidance, "null": generator.null(3)}
    path = run(generator, kernel, **options)
    assert path.stochastic == tuple(range(5 if make is tiny_unet else 4))
    for step in path.stochastic:
        ratio = (again(denoiser, path, step, kernel, **options) - path.log_probs[:, step]).exp()
        assert torch.equal(ratio, torch.ones(3))


def test_states_stored_in_half_precision_keep_the_ratio_at_one():
    generator, denoiser = tuned()
    path = run(generator, flow_sde(), store_dtype=torch.bfloat16)
    assert {state.dtype for state in path.states} == {torch.bfloat16}
    for step in path.stochastic:
        assert torch.equal(again(denoiser, path, step, flow_sde()), path.log_probs[:, step])


def test_an_update_moves_the_ratio():
    generator, denoiser = tuned(disturbed=False)
    path = run(generator, flow_sde())
    loss = -again(denoiser, path, 1, flow_sde()).sum()
    loss.backward()
    with torch.no_grad():
        for parameter in denoiser.trainable():
            parameter -= 10 * parameter.grad
    assert bool((again(denoiser, path, 1, flow_sde()).detach() > path.log_probs[:, 1]).all())


def test_the_divergence_from_the_reference_is_zero_at_the_start_and_then_positive():
    for disturbed in (False, True):
        generator, denoiser = tuned(disturbed=disturbed)
        path = run(generator, flow_sde())
        arguments = (path.states[1], path.times[1], path.times[2], path.conditions, flow_sde())
        with torch.no_grad():
            policy = transit(denoiser, *arguments)
            with denoiser.reference():
                divergence = kl(policy, transit(denoiser, *arguments))
        assert bool((divergence > 0).all()) if disturbed else torch.equal(divergence, torch.zeros(3))


def test_noise_acts_in_its_window_only():
    generator, denoiser = tuned()
    path = run(generator, flow_sde(), sde_window=(1, 3))
    assert path.stochastic == (1, 2)
    assert path.log_probs[:, [0, 3, 4]].eq(0).all()
    first = transit(denoiser, path.states[0], path.times[0], path.times[1], path.conditions, ode)
    assert torch.equal(first.mean.detach(), path.states[1])
    assert run(generator, flow_sde(), sde_window=(2, 2)).stochastic == ()


def test_branches_share_their_past_and_differ_afterwards():
    generator, denoiser = tuned()
    before = denoiser.nfe
    path = run(generator, flow_sde(), branch_at=2, branch=4)
    assert denoiser.nfe - before == 3 * 2 + 12 * 3
    assert {len(state) for state in path.states} == {12}
    assert path.log_probs.shape == (12, 5)
    assert len(path.conditions) == 12
    for step in (0, 1, 2):
        assert torch.equal(path.states[step], path.states[step][::4].repeat_interleave(4, dim=0))
    assert not torch.equal(path.states[3][0], path.states[3][1])
    for step in path.stochastic:
        torch.testing.assert_close(again(denoiser, path, step, flow_sde()), path.log_probs[:, step], atol=1e-5, rtol=0)


def test_a_video_with_its_own_source_of_noise_does_not_depend_on_its_batch():
    generator, denoiser = tuned()
    noise = draw_noise(generator.latent_shape(3), [source(seed) for seed in (7, 8, 9)])
    conditions, grid = generator.condition(PROMPTS[:3]), denoiser.schedule.grid(5)
    sources = [source(seed) for seed in (17, 18, 19)]
    together = rollout(denoiser, conditions, noise, grid, flow_sde(), generator=sources).x0
    alone = rollout(denoiser, conditions[1:2], noise[1:2], grid, flow_sde(), generator=[source(18)]).x0
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-4)


def test_a_group_shares_its_first_noise_or_does_not():
    shared = group_noise((2, 4, 3, 8, 8), 3, True, source())
    assert shared.shape == (6, 4, 3, 8, 8)
    assert torch.equal(shared[0], shared[2])
    assert not torch.equal(shared[2], shared[3])
    apart = group_noise((2, 4, 3, 8, 8), 3, False, source())
    assert len({float(video.sum()) for video in apart}) == 6


@pytest.mark.parametrize(
    "options",
    [{"sde_window": (3, 9)}, {"sde_window": (-1, 2)}, {"branch_at": 5, "branch": 2}, {"branch": 2},
     {"branch_at": 1, "branch": 0}, {"generator": [source()]}],
)  # fmt: skip
def test_steps_that_do_not_exist_are_refused(options):
    with pytest.raises(ValueError, match=r"must lie within|Branching needs|One generator per video"):
        run(tuned()[0], flow_sde(), **options)
