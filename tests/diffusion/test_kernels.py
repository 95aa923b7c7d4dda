import diffusers
import numpy as np
import pytest
import torch

from vrm.diffusion.denoiser import Prediction
from vrm.diffusion.kernels import Transition, cps, dance_sde, ddim, flow_sde, kl, lcm, ode
from vrm.diffusion.schedule import DiffusionSchedule, FlowSchedule, from_diffusers

SHAPE = (2, 4, 3, 8, 8)


def draw(seed, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows(*values):
    return torch.tensor(values, dtype=torch.float32)


def ddim_scheduler(**changes):
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    return diffusers.DDIMScheduler(**(config | {"clip_sample": False} | changes))


def as_prediction(output, x, t, schedule, kind):
    alpha, sigma = (level.reshape(-1, 1, 1, 1, 1) for level in schedule.levels(t))
    if kind == "epsilon":
        x0 = (x - sigma * output) / alpha
        return Prediction(x0, output, alpha * output - sigma * x0)
    if kind == "flow":
        return Prediction(x - sigma * output, x + alpha * output, output)
    return Prediction(alpha * x - sigma * output, alpha * output + sigma * x, output)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(("kind", "name"), [("epsilon", "epsilon"), ("v", "v_prediction")])
@pytest.mark.parametrize("place", [0, 7, 19])
def test_ddim_is_the_step_of_the_scheduler_of_diffusers(eta, kind, name, place):
    scheduler = ddim_scheduler(prediction_type=name, set_alpha_to_one=False)
    scheduler.set_timesteps(20)
    schedule = from_diffusers(scheduler)
    grid = schedule.grid(20)
    t, following = grid[place].expand(2), grid[place + 1].expand(2)
    x, output, noise = draw(0), draw(1), draw(2)
    expected = scheduler.step(output, int(t[0]), x, eta=eta, variance_noise=noise).prev_sample
    transition = ddim(eta)(as_prediction(output, x, t, schedule, kind), x, t, following, schedule)
    torch.testing.assert_close(transition.sample(noise), expected, atol=2e-6, rtol=1e-5)
    if eta == 0:
        deterministic = ode(as_prediction(output, x, t, schedule, kind), x, t, following, schedule)
        torch.testing.assert_close(deterministic.mean, expected, atol=2e-6, rtol=1e-5)


def test_the_ode_is_the_euler_step_of_a_flow():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 8, 8))
    schedule = from_diffusers(scheduler)
    grid = schedule.grid(8)
    torch.testing.assert_close(grid, scheduler.sigmas)
    x = draw(0)
    for i, t in enumerate(scheduler.timesteps):
        output = draw(i + 1)
        times = grid[i].expand(2), grid[i + 1].expand(2)
        mean = ode(as_prediction(output, x, times[0], schedule, "flow"), x, *times, schedule).mean
        x = scheduler.step(output, t, x).prev_sample
        torch.testing.assert_close(mean, x, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [7, 20, 50])
def test_grids_of_diffusion_are_those_of_diffusers(spacing, steps):
    scheduler = ddim_scheduler(timestep_spacing=spacing, steps_offset=1 if spacing == "leading" else 0)
    scheduler.set_timesteps(steps)
    grid = from_diffusers(scheduler).grid(steps)
    assert grid.tolist() == [*scheduler.timesteps.tolist(), -1]


def test_the_truncated_chain_is_the_one_of_instructvideo():
    grid = DiffusionSchedule.scaled_linear().grid(20, start=0.6)
    assert grid.tolist() == [551, 501, 451, 401, 351, 301, 251, 201, 151, 101, 51, 1, -1]
    flow = FlowSchedule(3.0)
    assert torch.equal(flow.grid(10, start=0.6), flow.grid(10)[4:])


def test_a_terminal_sigma_and_a_shift_by_length_are_those_of_diffusers():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, shift_terminal=0.1, base_image_seq_len=1024
    )
    mu = 0.95 + (2.05 - 0.95) * (2000 - 1024) / (4096 - 1024)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 6, 6), mu=mu)
    torch.testing.assert_close(from_diffusers(scheduler, tokens=2000).grid(6), scheduler.sigmas)


def test_ancestral_steps_have_the_moments_of_the_posterior():
    schedule = DiffusionSchedule.scaled_linear()
    x0, x, t, following = draw(0), draw(1), rows(401, 401), rows(351, 351)
    bar, bar_next = (schedule.alphas_cumprod[int(time[0])] for time in (t, following))
    eps = (x - bar.sqrt() * x0) / (1 - bar).sqrt()
    transition = ddim(1.0)(Prediction(x0, eps, eps), x, t, following, schedule)
    a = bar / bar_next
    mean = (bar_next.sqrt() * (1 - a) * x0 + a.sqrt() * (1 - bar_next) * x) / (1 - bar)
    torch.testing.assert_close(transition.mean, mean, atol=1e-5, rtol=1e-5)
    variance = (1 - bar_next) / (1 - bar) * (1 - a)
    torch.testing.assert_close(transition.std.square(), variance.expand(2), atol=1e-7, rtol=1e-4)


def test_the_last_step_has_noise_only_where_it_is_kept():
    schedule = DiffusionSchedule.scaled_linear()
    prediction = Prediction(draw(0), draw(1), draw(2))
    step = (prediction, draw(3), rows(51, 51), rows(-1, -1), schedule)
    assert ddim(1.0)(*step).std.tolist() == [0, 0]
    assert bool((ddim(1.0, keep_noise=True)(*step).std > 0.01).all())


@pytest.mark.parametrize(
    ("kernel", "low", "high"),
    [(ode, 0.485, 0.515), (flow_sde(0.7), 0.485, 0.515), (dance_sde(0.3), 0.485, 0.515), (ddim(1.0), 0.475, 0.515),
     (cps(0.7), 0.40, 0.43)],
    ids=["ode", "flow_sde", "dance_sde", "ddim", "cps"],
)  # fmt: skip
def test_two_hundred_steps_turn_noise_into_gaussian_data(kernel, low, high):
    schedule, noise = FlowSchedule(3.0), torch.Generator().manual_seed(0)
    grid, x = schedule.grid(200), torch.randn(1, 4, 10, 32, 32, generator=noise)
    for t, following in zip(grid[:-1, None], grid[1:, None], strict=True):
        x0 = 0.25 * (1 - t) * x / (0.25 * (1 - t) ** 2 + t**2)
        v = (x - x0) / t
        transition = kernel(Prediction(x0, x0 + v, v), x, t, following, schedule)
        x = transition.sample(torch.randn(x.shape, generator=noise))
    assert low < float(x.std()) < high


def test_coefficient_preserving_sampling_keeps_the_level_of_the_noise():
    eps, zero = draw(0, (1, 4, 8, 32, 32)), torch.zeros(1, 4, 8, 32, 32)
    transition = cps(0.7)(Prediction(zero, eps, eps), eps, rows(0.9), rows(0.6), FlowSchedule())
    assert float(transition.sample(draw(1, eps.shape)).std()) == pytest.approx(0.6, abs=0.01)
    following = draw(2, eps.shape)
    expected = -(following - transition.mean).square().mean()
    torch.testing.assert_close(transition.log_prob(following), expected[None])


def test_a_consistency_step_renews_all_noise():
    prediction = Prediction(draw(0), draw(1), draw(2))
    schedule = DiffusionSchedule.scaled_linear()
    transition = lcm(prediction, draw(3), rows(501, 501), rows(251, 251), schedule)
    alpha, sigma = schedule.levels(rows(251, 251))
    torch.testing.assert_close(transition.mean, alpha[0] * prediction.x0)
    torch.testing.assert_close(transition.std, sigma)


def test_log_probabilities_and_divergences_are_those_of_normal_distributions():
    mean, other, std, x = draw(0), draw(1), rows(0.3, 0.7), draw(2)
    wide = std.reshape(2, 1, 1, 1, 1)
    policy = Transition(mean, std, mean)
    normal = torch.distributions.Normal(mean, wide)
    torch.testing.assert_close(policy.log_prob(x), normal.log_prob(x).flatten(1).mean(1))
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(other, wide)).flatten(1).mean(1)
    torch.testing.assert_close(kl(policy, Transition(other, std, other)), expected)


def test_no_gradient_reaches_the_action_of_a_log_probability():
    mean, x = draw(0).requires_grad_(), draw(1).requires_grad_()
    Transition(mean, rows(0.3, 0.3), mean).log_prob(x).sum().backward()
    assert x.grad is None
    assert bool(mean.grad.abs().sum() > 0)


@pytest.mark.parametrize("kernel", [ode, lcm, ddim(0.8), flow_sde(), dance_sde(), cps()])
def test_rows_at_different_times_are_stepped_as_if_alone(kernel):
    schedule = FlowSchedule(3.0)
    x, output, t, following = draw(0), draw(1), rows(1.0, 0.4), rows(0.9, 0.0)
    both = kernel(as_prediction(output, x, t, schedule, "flow"), x, t, following, schedule)
    for row in (slice(0, 1), slice(1, 2)):
        prediction = as_prediction(output[row], x[row], t[row], schedule, "flow")
        alone = kernel(prediction, x[row], t[row], following[row], schedule)
        assert torch.equal(both.mean[row], alone.mean)
        assert torch.equal(both.std[row], alone.std)


@pytest.mark.parametrize("kernel", [flow_sde(), dance_sde()])
def test_stochastic_flow_steps_are_finite_at_pure_noise_and_end_deterministic(kernel):
    schedule = FlowSchedule()
    x, output = draw(0).bfloat16(), draw(1)
    prediction = as_prediction(output, x.float(), rows(1.0, 0.2), schedule, "flow")
    transition = kernel(prediction, x, rows(1.0, 0.2), rows(0.9, 0.0), schedule)
    assert transition.mean.dtype == torch.float32
    assert bool(transition.mean.isfinite().all())
    assert float(transition.std[0]) > 0
    assert float(transition.std[1]) == 0
    torch.testing.assert_close(transition.mean[1], prediction.x0[1])


@pytest.mark.parametrize(
    "call",
    [lambda: ddim(1.5), lambda: cps(-0.1), lambda: flow_sde(0.0), lambda: dance_sde(-1.0),
     lambda: FlowSchedule(0.0), lambda: FlowSchedule().grid(0), lambda: FlowSchedule().grid(10, start=0.01),
     lambda: FlowSchedule().sample(2, None, 0.5, 0.5), lambda: DiffusionSchedule.scaled_linear().grid(2000)],
)  # fmt: skip
def test_impossible_settings_are_refused(call):
    with pytest.raises(ValueError, match=r"must|need|use"):
        call()


def test_a_deterministic_step_and_a_foreign_schedule_are_refused():
    x = draw(0)
    still = Transition(x, rows(0, 0), x)
    with pytest.raises(ValueError, match="deterministic"):
        still.log_prob(x)
    with pytest.raises(ValueError, match="deterministic"):
        kl(still, still)
    schedule = DiffusionSchedule.scaled_linear()
    with pytest.raises(ValueError, match=r"flow_sde is for flow models"):
        flow_sde()(Prediction(x, x, x), x, rows(5, 5), rows(1, 1), schedule)


def test_training_times_lie_in_their_part_of_the_chain():
    source = torch.Generator().manual_seed(0)
    flow, chain = FlowSchedule(3.0), DiffusionSchedule.scaled_linear()
    times = flow.sample(200, source, 0.2, 0.5)
    assert float(flow.at(torch.tensor(0.2))) <= float(times.min())
    assert float(times.max()) <= float(flow.at(torch.tensor(0.5)))
    steps = chain.sample(200, source, 0.0, 0.2)
    assert bool((steps == steps.round()).all())
    assert 0 <= float(steps.min()) < 20
    assert 180 < float(steps.max()) < 200
