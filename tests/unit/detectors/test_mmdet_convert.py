"""The official checkpoint's weights under transformers' names: all of them, and the same network."""

import pickle
from functools import reduce

import pytest
import torch
from transformers import Mask2FormerForUniversalSegmentation

from softalign.config import DetectorConfig
from softalign.detectors.identity import CONVERSION_FILENAME, OFFICIAL_CLIP, Conversion, detector_label
from softalign.detectors.mmdet_convert import convert_checkpoint, converted_model, read_checkpoint
from softalign.detectors.mmdet_names import UNUSED, to_transformers_names
from softalign.detectors.mmdet_sizes import configuration_of
from softalign.errors import CompatibilityError, ConfigError, DataError, MissingInputError
from softalign.store.files import sha256_of_file
from tests.mmdet_network import TINY, mmdet_shapes, position_index, random_state


@pytest.fixture(scope="module")
def state():
    return random_state(**TINY)


@pytest.fixture(scope="module")
def converted(state):
    return converted_model(state)


@pytest.fixture(scope="module")
def checkpoint(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("mmdet") / "mask2former.pth"
    torch.save({"meta": {"mmdet_version": "2.25.0", "CLASSES": ("person",)}, "state_dict": state}, path)
    return path


def test_every_weight_of_the_full_size_network_has_its_place_and_none_is_left_over():
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in mmdet_shapes().items()}
        config = configuration_of(state)
        wanted = Mask2FormerForUniversalSegmentation(config).state_dict()
    placed = to_transformers_names(state)
    assert {name: tensor.shape for name, tensor in placed.items()} == {
        name: tensor.shape for name, tensor in wanted.items() if name not in UNUSED
    }
    assert (config.num_labels, config.num_queries, config.decoder_layers, config.encoder_layers) == (80, 100, 10, 6)
    assert (config.backbone_config.embed_dim, config.backbone_config.window_size) == (96, 7)
    assert config.backbone_config.depths == [2, 2, 18, 2] and config.backbone_config.num_heads == [3, 6, 12, 24]
    assert (config.num_attention_heads, config.dim_feedforward, config.encoder_feedforward_dim) == (8, 2048, 1024)


def put(model, path, tensor):
    part = reduce(getattr, path.split("."), model)
    assert part.shape == tensor.shape
    with torch.no_grad():
        part.copy_(tensor)


def put_directly(model, state):
    """Write mmdet's weights into the network's parts, one by one and by hand."""
    network, head = model.model, "panoptic_head"
    swin = network.pixel_level_module.encoder.swin

    def both(part, name):
        put(part, "weight", state[f"{name}.weight"])
        put(part, "bias", state[f"{name}.bias"])

    both(swin.embeddings.patch_embeddings.projection, "backbone.patch_embed.projection")
    both(swin.embeddings.norm, "backbone.patch_embed.norm")
    for i, stage in enumerate(swin.encoder.layers):
        for j, block in enumerate(stage.blocks):
            at = f"backbone.stages.{i}.blocks.{j}"
            both(block.layernorm_before, f"{at}.norm1")
            both(block.layernorm_after, f"{at}.norm2")
            attention = block.attention
            table = state[f"{at}.attn.w_msa.relative_position_bias_table"]
            put(attention.relative_position_bias, "relative_position_bias_table", table)
            size = table.shape[1] * (attention.q_proj.weight.shape[0] // table.shape[1])
            for k, part in enumerate((attention.q_proj, attention.k_proj, attention.v_proj)):
                put(part, "weight", state[f"{at}.attn.w_msa.qkv.weight"][k * size : (k + 1) * size])
                put(part, "bias", state[f"{at}.attn.w_msa.qkv.bias"][k * size : (k + 1) * size])
            both(attention.o_proj, f"{at}.attn.w_msa.proj")
            both(block.mlp.fc1, f"{at}.ffn.layers.0.0")
            both(block.mlp.fc2, f"{at}.ffn.layers.1")
        if stage.downsample is not None:
            at = f"backbone.stages.{i}.downsample"
            reduction, norm = state[f"{at}.reduction.weight"], [state[f"{at}.norm.{w}"] for w in ("weight", "bias")]
            channels = reduction.shape[1] // 4
            for place, (column, row) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
                for channel in range(channels):
                    mine, theirs = place * channels + channel, channel * 4 + row * 2 + column
                    with torch.no_grad():
                        stage.downsample.reduction.weight[:, mine] = reduction[:, theirs]
                        stage.downsample.norm.weight[mine] = norm[0][theirs]
                        stage.downsample.norm.bias[mine] = norm[1][theirs]
        both(network.pixel_level_module.encoder.hidden_states_norms[f"stage{i + 1}"], f"backbone.norm{i}")
    decoder, at = network.pixel_level_module.decoder, f"{head}.pixel_decoder"
    for i, projection in enumerate(decoder.input_projections):
        both(projection[0], f"{at}.input_convs.{i}.conv")
        both(projection[1], f"{at}.input_convs.{i}.gn")
    for i, layer in enumerate(decoder.encoder.layers):
        inner = f"{at}.encoder.layers.{i}"
        for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            both(getattr(layer.self_attn, name), f"{inner}.attentions.0.{name}")
        both(layer.fc1, f"{inner}.ffns.0.layers.0.0")
        both(layer.fc2, f"{inner}.ffns.0.layers.1")
        both(layer.self_attn_layer_norm, f"{inner}.norms.0")
        both(layer.final_layer_norm, f"{inner}.norms.1")
    put(decoder, "level_embed", state[f"{at}.level_encoding.weight"])
    put(decoder.adapter_1[0], "weight", state[f"{at}.lateral_convs.0.conv.weight"])
    both(decoder.adapter_1[1], f"{at}.lateral_convs.0.gn")
    put(decoder.layer_1[0], "weight", state[f"{at}.output_convs.0.conv.weight"])
    both(decoder.layer_1[1], f"{at}.output_convs.0.gn")
    both(decoder.mask_projection, f"{at}.mask_feature")
    transformer = network.transformer_module
    put(transformer.queries_embedder, "weight", state[f"{head}.query_embed.weight"])
    put(transformer.queries_features, "weight", state[f"{head}.query_feat.weight"])
    put(transformer.level_embed, "weight", state[f"{head}.level_embed.weight"])
    for i, layer in enumerate(transformer.decoder.layers):
        inner = f"{head}.transformer_decoder.layers.{i}"
        put(layer.cross_attn, "in_proj_weight", state[f"{inner}.attentions.0.attn.in_proj_weight"])
        put(layer.cross_attn, "in_proj_bias", state[f"{inner}.attentions.0.attn.in_proj_bias"])
        both(layer.cross_attn.out_proj, f"{inner}.attentions.0.attn.out_proj")
        weight, bias = (state[f"{inner}.attentions.1.attn.in_proj_{w}"] for w in ("weight", "bias"))
        size = weight.shape[1]
        for k, part in enumerate((layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)):
            put(part, "weight", weight[k * size : (k + 1) * size])
            put(part, "bias", bias[k * size : (k + 1) * size])
        both(layer.self_attn.out_proj, f"{inner}.attentions.1.attn.out_proj")
        both(layer.fc1, f"{inner}.ffns.0.layers.0.0")
        both(layer.fc2, f"{inner}.ffns.0.layers.1")
        norms = (layer.cross_attn_layer_norm, layer.self_attn_layer_norm, layer.final_layer_norm)
        for k, norm in enumerate(norms):
            both(norm, f"{inner}.norms.{k}")
    both(transformer.decoder.layernorm, f"{head}.transformer_decoder.post_norm")
    for i in range(3):
        both(
            getattr(getattr(transformer.decoder.mask_predictor.mask_embedder, str(i)), "0"),
            f"{head}.mask_embed.{2 * i}",
        )
    both(model.class_predictor, f"{head}.cls_embed")


def answers(model):
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        outputs = model.eval()(pixel_values=torch.randn(1, 3, 96, 128, generator=generator))
    return outputs.class_queries_logits, outputs.masks_queries_logits


def test_converted_weights_compute_what_the_same_weights_put_in_directly_do(state, checkpoint, tmp_path):
    convert_checkpoint(checkpoint, tmp_path / "m2f")
    loaded = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "m2f")
    direct = Mask2FormerForUniversalSegmentation(configuration_of(state))
    put_directly(direct, state)
    for found, expected in zip(answers(loaded), answers(direct), strict=True):
        assert expected.std() > 1e-3
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    other = Mask2FormerForUniversalSegmentation(configuration_of(state))
    put_directly(other, random_state(seed=5, **TINY))
    assert not torch.allclose(answers(other)[0], answers(direct)[0])


def test_patch_merging_computes_what_mmdets_unfold_does(state, converted):
    at = "backbone.stages.0.downsample"
    x = torch.randn(2, 6, 10, 8)
    patches = torch.nn.functional.unfold(x.permute(0, 3, 1, 2), kernel_size=2, stride=2).transpose(1, 2)
    weight, bias = state[f"{at}.norm.weight"], state[f"{at}.norm.bias"]
    normed = torch.nn.functional.layer_norm(patches, (32,), weight, bias)
    expected = normed @ state[f"{at}.reduction.weight"].T
    merge = converted.model.pixel_level_module.encoder.swin.encoder.layers[0].downsample
    torch.testing.assert_close(merge(x.reshape(2, 60, 8), (6, 10)), expected, rtol=1e-5, atol=1e-5)


def test_both_libraries_read_the_position_table_alike(state):
    model = Mask2FormerForUniversalSegmentation(configuration_of(state))
    bias = model.model.pixel_level_module.encoder.swin.encoder.layers[0].blocks[0].attention.relative_position_bias
    assert torch.equal(bias.relative_position_index.view(49, 49), position_index(7))


@pytest.mark.parametrize("change", ["missing", "strange", "misshaped", "panoptic"])
def test_another_network_is_refused(state, change):
    other = dict(state)
    name = "panoptic_head.transformer_decoder.layers.1.norms.2.weight"
    if change == "missing":
        del other[name]
    elif change == "strange":
        other["roi_head.fc.weight"] = torch.zeros(2)
    elif change == "misshaped":
        other[name] = torch.zeros(7)
    else:
        other["panoptic_head.cls_embed.weight"] = torch.zeros(134, 32)
    said = {"missing": "no model.*final_layer_norm", "strange": "roi_head", "misshaped": r"\(7,\)", "panoptic": "133"}
    with pytest.raises(CompatibilityError, match=said[change]):
        converted_model(other)


class Hostile:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint's code was run",))


def test_a_checkpoint_with_code_or_without_weights_is_refused(tmp_path):
    path = tmp_path / "c.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "meta": Hostile()}, path)
    with pytest.raises(DataError, match="plain tensors"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(DataError, match="plain tensors"):
        read_checkpoint(path)
    torch.save({"state_dict": {"a": "text"}}, path)
    with pytest.raises(DataError, match="no weights"):
        read_checkpoint(path)
    with pytest.raises(MissingInputError):
        read_checkpoint(tmp_path / "none.pth")


def test_scores_are_called_geneval_with_the_official_weights_alone(checkpoint, tmp_path):
    folder = tmp_path / "m2f"
    conversion = convert_checkpoint(checkpoint, folder)
    assert conversion.checkpoint_sha256 == sha256_of_file(checkpoint) and not conversion.is_official
    config = DetectorConfig(segmenter=str(folder))
    assert detector_label(DetectorConfig()) == detector_label(config) == "geneval-hf"
    official = Conversion(checkpoint_sha256="743b7d99" + 56 * "0", weights_sha256=conversion.weights_sha256)
    (folder / CONVERSION_FILENAME).write_text(official.model_dump_json())
    assert detector_label(config) == "geneval" and config.color_classifier == OFFICIAL_CLIP
    assert detector_label(config.model_copy(update={"color_classifier": "another/clip"})) == "geneval-hf"
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    assert detector_label(config) == "geneval-hf"
    with pytest.raises(ConfigError, match="taken"):
        convert_checkpoint(checkpoint, folder)
