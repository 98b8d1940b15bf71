import pytest
import torch
from diffusers import UNet2DConditionModel

from softalign.adapters.base_fingerprint import NUM_SAMPLES, check_base, fingerprint_of
from softalign.errors import CompatibilityError


def make_unet(seed=0, channels=(8, 16)):
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=channels,
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    )


@pytest.fixture(scope="module")
def fingerprint():
    return fingerprint_of(make_unet())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_one_model_in_any_precision_is_one_base(dtype, stored):
    expected = fingerprint_of(make_unet().to(stored))
    check_base(expected, make_unet().to(dtype), base_model="m")


def test_other_weights_are_refused(fingerprint):
    with pytest.raises(CompatibilityError, match="same architecture, other weights") as error:
        check_base(fingerprint, make_unet(seed=1), base_model="some/model")
    assert "some/model" in error.value.fix
    assert "force=True" in error.value.fix
    assert "unfuse_lora()" in error.value.fix


def test_a_fine_tuned_model_is_refused(fingerprint):
    tuned = make_unet()
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.mul_(1.05)
    with pytest.raises(CompatibilityError, match="other weights"):
        check_base(fingerprint, tuned, base_model="m")


def test_another_architecture_is_refused_and_shown(fingerprint):
    with pytest.raises(CompatibilityError, match="another architecture") as error:
        check_base(fingerprint, make_unet(channels=(8, 24)), base_model="m")
    assert "24" in error.value.found


def test_samples_come_from_all_over_the_model(fingerprint):
    assert len(fingerprint.weights) == NUM_SAMPLES
    parts = {sample.name.split(".")[0] for sample in fingerprint.weights}
    assert {"down_blocks", "mid_block", "up_blocks"} <= parts


def test_lora_layers_are_looked_through(fingerprint):
    peft = pytest.importorskip("peft")
    unet = make_unet()
    unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    assert any(".base_layer." in name for name, _ in unet.named_parameters())
    check_base(fingerprint, unet, base_model="m")


def test_offloaded_weights_are_read_where_they_are_kept(fingerprint):
    from accelerate import cpu_offload

    unet = make_unet()
    cpu_offload(unet, execution_device=torch.device("cpu"))
    assert next(unet.parameters()).is_meta
    check_base(fingerprint, unet, base_model="m")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_in_eight_bits_are_checked_as_closely_as_they_are_known(fingerprint, dtype):
    unet, other = make_unet(), make_unet(seed=1)
    for module in (unet, other):
        module.enable_layerwise_casting(storage_dtype=dtype, compute_dtype=torch.float32)
        assert any(parameter.dtype == dtype for parameter in module.parameters())
    check_base(fingerprint, unet, base_model="m")
    with pytest.raises(CompatibilityError, match="other weights"):
        check_base(fingerprint, other, base_model="m")


def packed(unet, kinds):
    for module in unet.modules():
        if isinstance(module, kinds):
            data = torch.zeros(module.weight.numel() // 2, 1, dtype=torch.uint8)
            module.weight = torch.nn.Parameter(data, requires_grad=False)
    return unet


def test_of_a_quantised_model_the_weights_that_are_left_are_checked(fingerprint):
    check_base(fingerprint, packed(make_unet(), torch.nn.Linear), base_model="m")
    with pytest.raises(CompatibilityError, match="other weights"):
        check_base(fingerprint, packed(make_unet(seed=1), torch.nn.Linear), base_model="m")
    with pytest.raises(CompatibilityError, match="another architecture"):
        check_base(fingerprint, packed(make_unet(channels=(8, 24)), torch.nn.Linear), base_model="m")


def test_where_all_weights_are_quantised_it_says_that_the_architecture_alone_was_checked(fingerprint):
    with pytest.warns(UserWarning, match="could not be checked"):
        check_base(fingerprint, packed(make_unet(seed=1), (torch.nn.Linear, torch.nn.Conv2d)), base_model="m")
