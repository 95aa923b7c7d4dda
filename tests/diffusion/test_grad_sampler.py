import pytest
import torch
from tiny_generator import PROMPTS, tiny_unet, tiny_wan

from vrm.diffusion.grad_sampler import (
    LastSteps,
    ListedSteps,
    RandomCutoff,
    RandomSteps,
    noised_start,
    renoised_x0,
    sample_with_gradient,
)
from vrm.diffusion.kernels import flow_sde, ode

STEPS = 5


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def setting(make=tiny_wan, count=2):
    generator = make()
    denoiser = generator.denoiser
    denoiser.add_lora(4)
    noise = source(2)
    for parameter in denoiser.trainable():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=noise)
    start = torch.randn(generator.latent_shape(count), generator=source(1))
    return denoiser, generator.condition(PROMPTS[:count]), start, denoiser.schedule.grid(STEPS)


def gradient(denoiser, values):
    denoiser.zero_grad()
    (values * torch.linspace(-1, 1, values.numel()).reshape(values.shape)).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in denoiser.trainable()])


def gradient_of_steps(steps, make=tiny_wan, **options):
    denoiser, conditions, start, grid = setting(make)
    return gradient(denoiser, sample_with_gradient(denoiser, conditions, start, grid, steps, **options).latents)


def by_hand(first, make=tiny_wan):
    """Plain backpropagation through the steps from ``first`` on."""
    denoiser, conditions, x, grid = setting(make)
    for step in range(STEPS):
        x = x.detach() if step == first else x
        times = (denoiser.times(x, grid[step]), denoiser.times(x, grid[step + 1]))
        x = ode(denoiser.predict(x, times[0], conditions), x, *times, denoiser.schedule).mean
    return gradient(denoiser, x)


@pytest.mark.parametrize(("make", "count"), [(tiny_wan, 1), (tiny_wan, 3), (tiny_wan, STEPS), (tiny_unet, 2)])
def test_the_last_steps_carry_the_gradient_of_plain_backpropagation(make, count):
    found = gradient_of_steps(LastSteps(count).choose(STEPS), make)
    torch.testing.assert_close(found, by_hand(STEPS - count, make), atol=1e-5, rtol=1e-4)
    assert float(found.norm()) > 0


@pytest.mark.parametrize("steps", [[4], [1], [0, 3], [2, 3, 4], list(range(STEPS))])
def test_gradient_is_recorded_in_the_declared_steps_only(steps):
    denoiser, conditions, start, grid = setting()
    seen, call = [], denoiser.call

    def watched(*arguments):
        seen.append(torch.is_grad_enabled())
        return call(*arguments)

    denoiser.call = watched
    sample = sample_with_gradient(denoiser, conditions, start, grid, steps)
    assert [i for i, recorded in enumerate(seen) if recorded] == steps == list(sample.steps)
    assert gradient(denoiser, sample.latents).norm() > 0


def test_with_detached_inputs_the_gradient_is_a_sum_over_steps_that_reaches_early_ones():
    each = [gradient_of_steps([step], detach_input=True) for step in range(STEPS)]
    together = gradient_of_steps(range(STEPS), detach_input=True)
    torch.testing.assert_close(together, torch.stack(each).sum(0), atol=1e-4, rtol=1e-4)
    assert all(float(part.norm()) > 0 for part in each)
    full = gradient_of_steps(range(STEPS))
    assert float((together - full).norm() / full.norm()) > 1e-3


@pytest.mark.parametrize("option", [{"checkpoint": True}, {"offload": True}, {"checkpoint": True, "offload": True}])
def test_saving_memory_keeps_the_gradient(option):
    torch.testing.assert_close(gradient_of_steps([1, 3, 4], **option), gradient_of_steps([1, 3, 4]))


def test_a_stopped_chain_gives_its_latents_their_time_and_a_guess_of_the_end():
    denoiser, conditions, start, grid = setting()
    sample = sample_with_gradient(denoiser, conditions, start, grid, [2], stop=2)
    assert denoiser.nfe == 2 * 3
    assert torch.equal(sample.time, grid[3])
    rest = sample_with_gradient(denoiser, conditions, sample.latents.detach(), grid[3:], [1]).latents
    whole = sample_with_gradient(denoiser, conditions, start, grid, [4])
    torch.testing.assert_close(rest, whole.latents)
    torch.testing.assert_close(whole.latents, whole.x0)
    assert gradient(denoiser, sample.x0).norm() > 0


def test_stochastic_chains_with_one_seed_are_one_chain():
    denoiser, conditions, start, grid = setting()
    runs = [
        sample_with_gradient(denoiser, conditions, start, grid, [4], kernel=flow_sde(), generator=source(seed)).latents
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_editing_starts_from_noised_data():
    denoiser, conditions, x0, _ = setting(tiny_unet)
    grid = denoiser.schedule.grid(STEPS, start=0.6)
    assert len(grid) == 4
    start = noised_start(denoiser, x0, grid[0], source(4))
    assert torch.equal(start, denoiser.noise(x0, grid[0], torch.randn(x0.shape, generator=source(4))))
    shifted = noised_start(denoiser, x0, grid[0], source(4), offset=0.1) - start
    torch.testing.assert_close(shifted, shifted[..., :1, :1].expand_as(shifted), atol=1e-5, rtol=1e-4)
    assert float(shifted[0, 0, :, 0, 0].std()) > 0
    sample = sample_with_gradient(denoiser, conditions, start, grid, LastSteps().choose(3))
    assert denoiser.nfe == 2 * 3
    assert gradient(denoiser, sample.latents).norm() > 0


def test_data_noised_again_are_predicted_in_one_step():
    denoiser, conditions, x0, grid = setting()
    again = renoised_x0(denoiser, x0, grid[-2], conditions, 3, generator=source(5))
    assert again.shape == (6, *x0.shape[1:])
    noisy = denoiser.noise(x0.repeat_interleave(3, 0), grid[-2], torch.randn(again.shape, generator=source(5)))
    expected = denoiser.predict(noisy[2:3], grid[-2], conditions[:1]).x0
    torch.testing.assert_close(again[2:3], expected, atol=1e-5, rtol=1e-4)
    assert gradient(denoiser, again).norm() > 0


def test_choices_cover_their_range():
    assert LastSteps(2).choose(10) == [8, 9]
    assert ListedSteps((0, -1, 4)).choose(10) == [0, 4, 9]
    cutoffs = [RandomCutoff().choose(4, source(seed)) for seed in range(40)]
    assert {steps[0] for steps in cutoffs} == {0, 1, 2, 3}
    assert all(steps == list(range(steps[0], 4)) for steps in cutoffs)
    assert {RandomCutoff(0.5, 1.0).choose(4, source(seed))[0] for seed in range(40)} == {2, 3}
    late = {RandomSteps(1, 0.5, 0.75).choose(8, source(seed))[0] for seed in range(60)}
    assert late == {4, 5, 6}
    assert all(len(set(RandomSteps(3).choose(6, source(seed)))) == 3 for seed in range(20))


@pytest.mark.parametrize(
    "call",
    [lambda: LastSteps(0).choose(5), lambda: LastSteps(6).choose(5), lambda: ListedSteps((7,)).choose(5),
     lambda: RandomSteps(9).choose(5), lambda: RandomCutoff(0.9, 0.1).choose(5), lambda: RandomCutoff(-1.0).choose(5),
     lambda: gradient_of_steps([]), lambda: gradient_of_steps([9]), lambda: gradient_of_steps([3], stop=1),
     lambda: renoised_x0(*setting()[:1], setting()[2], 0.1, setting()[1], 0)],
)  # fmt: skip
def test_steps_that_do_not_exist_are_refused(call):
    with pytest.raises(ValueError, match=r"must|needs|Cannot choose"):
        call()
