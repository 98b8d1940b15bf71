"""A detector of photographs with random weights: Mask2Former of COCO's classes, and a CLIP that names plain colours."""

import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    SwinConfig,
)

from softalign.config import DetectorConfig
from softalign.detectors import preprocessing
from softalign.detectors.colors import ColorClassifier, to_square
from softalign.detectors.golden import golden_findings
from softalign.detectors.self_test import COLOR_TEST_CLASS, SOLID_COLORS
from softalign.geneval.prompts import CLASSES
from softalign.shapes.tokenizer import build_tokenizer

CPU = torch.device("cpu")
WIDTH = 32
CLIP_SIDE_PX = 16
TEXT_LENGTH = 77
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def segmenter_config(**changes):
    swin = SwinConfig(
        embed_dim=8, depths=[2, 1, 1, 1], num_heads=[1, 2, 4, 8], window_size=7, out_features=STAGES, drop_path_rate=0.0
    )
    sizes = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim"), WIDTH)
    labels = {index: name for index, name in enumerate(CLASSES)}
    others = dict(dim_feedforward=WIDTH, encoder_layers=1, decoder_layers=3, num_attention_heads=4, num_queries=12)
    return Mask2FormerConfig(backbone_config=swin, id2label=labels, **{**sizes, **others, **changes})


def build_segmenter(seed=0):
    """Return a Mask2Former that is sure of its answers, however random: some scores are above GenEval's thresholds."""
    torch.manual_seed(seed)
    model = Mask2FormerForUniversalSegmentation(segmenter_config()).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.model.transformer_module.queries_features.weight)
        model.class_predictor.weight.normal_(std=1.5)
        model.class_predictor.bias.zero_()
        model.model.pixel_level_module.decoder.mask_projection.weight.normal_(std=1.0)
    return model


def build_clip(seed=0):
    """Return a CLIP whose image projection is solved for: the ten plain squares have their colours' embeddings."""
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = TEXT_LENGTH
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=CLIP_SIDE_PX,
        patch_size=8,
    )
    torch.manual_seed(seed)
    clip = CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH)
    ).eval()
    texts = ColorClassifier(clip, tokenizer, torch.device("cpu")).text_embeddings(COLOR_TEST_CLASS)
    squares = [to_square(Image.new("RGB", (64, 64), rgb), CLIP_SIDE_PX) for rgb in SOLID_COLORS.values()]
    with torch.no_grad():
        pixels = torch.stack([torch.from_numpy(square) for square in squares])
        features = clip.vision_model(pixel_values=pixels).pooler_output
        solved = torch.linalg.lstsq(features.double(), texts.clone().double(), driver="gelsd").solution
        clip.visual_projection.weight.copy_(solved.T.float())
    return clip, tokenizer


def detect_in_small(monkeypatch, short_side_px, long_side_px=preprocessing.LONG_SIDE_PX, device=CPU):
    """Let images be scaled to less than the official size; the self-test has looked at its picture before."""
    golden_findings(device)
    monkeypatch.setattr(preprocessing, "SHORT_SIDE_PX", short_side_px)
    monkeypatch.setattr(preprocessing, "LONG_SIDE_PX", long_side_px)


def save_tiny_detector(folder, seed=0):
    """Write both models below a folder and return their configuration."""
    build_segmenter(seed).save_pretrained(folder / "segmenter")
    clip, tokenizer = build_clip(seed)
    clip.save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    return DetectorConfig(segmenter=str(folder / "segmenter"), color_classifier=str(folder / "clip"))
