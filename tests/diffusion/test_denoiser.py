import pytest
import torch
from tiny_generator import PROMPTS, tiny_unet, tiny_wan

from vrm.diffusion.adapters.wan import WanDenoiser
from vrm.diffusion.conditions import Conditions
from vrm.diffusion.schedule import DiffusionSchedule
from vrm.errors import CheckpointError

MAKERS = pytest.mark.parametrize("make", [tiny_wan, tiny_unet])
FLOW_TIME, CHAIN_TIME = 0.6, 401.0


def setting(make, count=2):
    generator = make()
    denoiser = generator.denoiser
    x = torch.randn(generator.latent_shape(count), generator=torch.Generator().manual_seed(1))
    t = FLOW_TIME if denoiser.prediction == "flow" else CHAIN_TIME
    return generator, denoiser, x, t, generator.condition(PROMPTS[:count])


def disturb(denoiser, scale=0.3):
    noise = torch.Generator().manual_seed(2)
    for parameter in denoiser.trainable():
        parameter.data += scale * torch.randn(parameter.shape, generator=noise)


@MAKERS
def test_data_and_noise_make_up_the_latent(make):
    _, denoiser, x, t, conditions = setting(make)
    found = denoiser.predict(x, t, conditions)
    torch.testing.assert_close(denoiser.noise(found.x0, t, found.eps), x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(denoiser.target(found.x0, t, found.eps), denoiser.output(x, t, conditions))
    assert {part.dtype for part in (found.x0, found.eps, found.v)} == {torch.float32}


def test_velocity_models_are_read_as_their_papers_say():
    _, denoiser, x, _, _ = setting(tiny_unet)
    denoiser.prediction = "v"
    x0, eps = x, torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    noisy = denoiser.noise(x0, CHAIN_TIME, eps)
    found = denoiser.convert(denoiser.target(x0, CHAIN_TIME, eps), noisy, CHAIN_TIME)
    torch.testing.assert_close(found.x0, x0, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.eps, eps, atol=1e-5, rtol=1e-5)


@MAKERS
def test_guidance_moves_away_from_the_null_prompt(make):
    generator, denoiser, x, t, conditions = setting(make)
    conditional = denoiser.output(x, t, conditions)
    unconditional = denoiser.output(x, t, generator.null(2))
    guided = denoiser.output(x, t, conditions, 3.0, generator.null(2))
    torch.testing.assert_close(guided, unconditional + 3 * (conditional - unconditional), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(conditional, unconditional, atol=1e-6)


@MAKERS
def test_the_matching_loss_is_the_error_of_the_models_own_target(make):
    _, denoiser, x0, t, conditions = setting(make)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(4))
    target = eps if denoiser.prediction == "epsilon" else eps - x0
    output = denoiser.output(denoiser.noise(x0, t, eps), t, conditions)
    loss = denoiser.matching_loss(x0, t, eps, conditions)
    assert loss.shape == (2,)
    torch.testing.assert_close(loss, (output - target).square().flatten(1).mean(1))


@MAKERS
def test_adapters_change_nothing_until_trained_and_nothing_when_off(make):
    _, denoiser, x, t, conditions = setting(make)
    base = denoiser.output(x, t, conditions)
    denoiser.add_lora(4)
    assert torch.equal(denoiser.output(x, t, conditions), base)
    disturb(denoiser)
    tuned = denoiser.output(x, t, conditions)
    assert not torch.allclose(tuned, base, atol=1e-4)
    with denoiser.reference():
        assert torch.equal(denoiser.output(x, t, conditions), base)
    with denoiser.lora_scale(0.0):
        assert torch.equal(denoiser.output(x, t, conditions), base)
    with denoiser.lora_scale(0.5):
        half = denoiser.output(x, t, conditions)
    assert 0 < (half - base).norm().item() < (tuned - base).norm().item()
    assert torch.equal(denoiser.output(x, t, conditions), tuned)


def test_a_reference_within_a_step_leaves_the_gradient_alone():
    _, denoiser, x, t, conditions = setting(tiny_wan)
    denoiser.add_lora(4)
    disturb(denoiser)
    denoiser.output(x, t, conditions).square().mean().backward()
    expected = [parameter.grad.clone() for parameter in denoiser.trainable()]
    for parameter in denoiser.trainable():
        parameter.grad = None
    loss = denoiser.output(x, t, conditions).square().mean()
    with denoiser.reference(), torch.no_grad():
        denoiser.output(x, t, conditions)
    loss.backward()
    assert len(denoiser.trainable()) == len(expected)
    assert all(torch.equal(p.grad, g) for p, g in zip(denoiser.trainable(), expected, strict=True))


def test_without_adapters_a_trained_base_has_no_reference():
    _, denoiser, x, t, conditions = setting(tiny_wan)
    with denoiser.reference():
        denoiser.output(x, t, conditions)
    denoiser.model.requires_grad_(True)
    with pytest.raises(ValueError, match="no reference is left"):
        denoiser.reference()


def test_adapter_weights_return_and_can_be_borrowed():
    _, denoiser, x, t, conditions = setting(tiny_wan)
    denoiser.add_lora(4)
    first = denoiser.lora_state()
    start = denoiser.output(x, t, conditions)
    disturb(denoiser)
    tuned, saved = denoiser.output(x, t, conditions), denoiser.lora_state()
    with denoiser.lora_weights(first):
        assert torch.equal(denoiser.output(x, t, conditions), start)
    assert torch.equal(denoiser.output(x, t, conditions), tuned)
    other = tiny_wan().denoiser
    other.add_lora(4, seed=5)
    other.load_lora_state(saved)
    assert torch.equal(other.output(x, t, conditions), tuned)


def test_borrowed_weights_do_not_disturb_a_graph_built_before():
    _, denoiser, x, t, conditions = setting(tiny_wan)
    denoiser.add_lora(4)
    old = denoiser.lora_state()
    disturb(denoiser)
    denoiser.output(x, t, conditions).square().mean().backward()
    expected = [parameter.grad.clone() for parameter in denoiser.trainable()]
    denoiser.zero_grad()
    loss = denoiser.output(x, t, conditions).square().mean()
    with denoiser.lora_weights(old), torch.no_grad():
        denoiser.output(x, t, conditions)
    loss.backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(denoiser.trainable(), expected, strict=True))


def test_adapters_of_another_rank_and_impossible_ones_are_refused():
    denoiser, other = tiny_wan().denoiser, tiny_wan().denoiser
    denoiser.add_lora(4)
    other.add_lora(2)
    with pytest.raises(CheckpointError, match=r"lora_A.*have shape"):
        other.load_lora_state(denoiser.lora_state())
    with pytest.raises(ValueError, match="without adapters"):
        denoiser.add_lora(4)
    with pytest.raises(ValueError, match="No linear layer"):
        tiny_wan().denoiser.add_lora(4, targets=["nothing"])


def test_adapters_can_go_elsewhere_and_be_scaled():
    denoiser = tiny_wan().denoiser
    denoiser.add_lora(2, alpha=8.0, targets=["ffn.net.2", "proj_out"])
    names = {name.split(".lora_")[0] for name in denoiser.lora_state()}
    assert names == {"blocks.0.ffn.net.2", "blocks.1.ffn.net.2", "proj_out"}
    assert denoiser.model.proj_out.scaling["default"] == 4.0


def test_dropout_never_acts():
    _, denoiser, x, t, conditions = setting(tiny_unet)
    still = denoiser.output(x, t, conditions)
    denoiser.train()
    assert not denoiser.model.training
    denoiser.model.train()
    with torch.no_grad():
        raw = [denoiser.call(x, torch.full((2,), t), conditions) for _ in range(2)]
    assert not torch.equal(*raw)  # so the guard has something to guard against
    assert torch.equal(denoiser.output(x, t, conditions), still)
    assert not denoiser.model.training


@MAKERS
def test_checkpointing_keeps_the_gradient(make):
    gradients = []
    for again, enabled in ((False, False), (True, False), (False, True)):
        _, denoiser, x, t, conditions = setting(make)
        denoiser.add_lora(2)
        disturb(denoiser)
        if enabled:
            denoiser.enable_checkpointing()
        denoiser.output(x, t, conditions, checkpoint=again).square().mean().backward()
        gradients.append([parameter.grad for parameter in denoiser.trainable()])
        assert denoiser.nfe == 2
    for other in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], other, strict=True))


def test_a_half_precision_network_keeps_float32_outside_and_in_its_adapters():
    _, denoiser, x, t, conditions = setting(tiny_wan)
    full = denoiser.predict(x, t, conditions)
    denoiser.model.to(torch.bfloat16)
    denoiser.add_lora(4)
    half = denoiser.predict(x, t, conditions)
    assert half.x0.dtype == torch.float32
    torch.testing.assert_close(half.x0, full.x0, atol=0.05, rtol=0.05)
    assert {parameter.dtype for parameter in denoiser.trainable()} == {torch.float32}


def test_times_of_rows_and_calls_are_counted():
    generator, denoiser, x, _, conditions = setting(tiny_wan)
    both = denoiser.output(x, torch.tensor([0.3, 0.9]), conditions)
    torch.testing.assert_close(both[:1], denoiser.output(x[:1], 0.3, conditions[:1]), atol=2e-6, rtol=1e-5)
    assert denoiser.nfe == 3
    denoiser.output(x, 0.5, conditions, 2.0, generator.null(2))
    assert denoiser.nfe == 7


def test_mistakes_are_named():
    generator, denoiser, x, t, conditions = setting(tiny_wan)
    with pytest.raises(ValueError, match="needs null conditions"):
        denoiser.predict(x, t, conditions, guidance=2.0)
    with pytest.raises(ValueError, match="one per video"):
        denoiser.predict(x, torch.tensor([0.1, 0.2, 0.3]), conditions)
    with pytest.raises(ValueError, match="does not go with DiffusionSchedule"):
        WanDenoiser(denoiser.model, DiffusionSchedule.scaled_linear(), "flow")
    with pytest.raises(ValueError, match="cannot share a batch"):
        conditions.join(Conditions(torch.zeros(2, 5, 32)))
    assert generator.device == x.device


def test_conditions_are_cut_repeated_and_joined_by_rows():
    conditions = Conditions(torch.arange(6.0).reshape(2, 1, 3), torch.tensor([[True], [False]]))
    assert conditions.repeat(2).embeds[:, 0, 0].tolist() == [0, 0, 3, 3]
    assert conditions[torch.tensor([1])].mask.tolist() == [[False]]
    assert len(conditions.join(conditions[:1])) == 3
    assert conditions[:1].expand(4).embeds.shape == (4, 1, 3)
    assert conditions.to("cpu", torch.bfloat16).embeds.dtype == torch.bfloat16
