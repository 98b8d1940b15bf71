"""Vision-language models with random weights, in the layouts that the hub has: Qwen3-VL's and LLaVA's."""

import json

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests.photographs import photographs

IMAGE, VIDEO, START, END = "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", START, END, IMAGE, VIDEO]
WORDS = (
    "Yes yes No no one One two Two three Three 2 3 How many dogs are in the image? Answer in one word. user assistant"
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
QWEN_IMAGES = dict(
    image_processor_type="Qwen2VLImageProcessorFast",
    processor_class="Qwen3VLProcessor",
    size=dict(shortest_edge=16 * 16, longest_edge=64 * 64),
    patch_size=8,
    merge_size=2,
    temporal_patch_size=2,
)
LLAVA_IMAGES = dict(
    image_processor_type="CLIPImageProcessor", size=dict(shortest_edge=32), crop_size=dict(height=32, width=32)
)
ROWS = [
    ("two dogs", 2, [("How many dogs are in the image?", "two", "count"), ("Are there any dogs?", "Yes", "object")]),
    (
        "a red car",
        2,
        [("How many?", "one", "count"), ("Is the car red?", "Yes", "attribute"), ("Any cars?", "Yes", "object")],
    ),
    ("a cat on a mat", 3, [("Any cats in the image?", "Yes", "object"), ("Is it on the mat?", "Yes", "position")]),
]
"""Prompts in GenEval 2's form, made up here: text, atoms, and questions with answer and skill."""


def suite_text(rows=tuple(ROWS)):
    """Return a file in GenEval 2's form."""
    lines = [
        {
            "prompt": prompt,
            "atom_count": atom_count,
            "vqa_list": [[question, answer] for question, answer, _ in asked],
            "skills": [skill for *_, skill in asked],
        }
        for prompt, atom_count, asked in rows
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def build_tokenizer():
    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = bytes_of_words, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([WORDS] * 3, trainer)
    named = dict(eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE)
    return PreTrainedTokenizerFast(tokenizer_object=made, extra_special_tokens=SPECIALS[3:], **named)


def _qwen(tokenizer, model, config, text=None, vision=None):
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIALS}
    rope = dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 1, 1])
    words = dict(vocab_size=len(tokenizer), max_position_embeddings=512, rope_parameters=rope, **TEXT)
    sight = dict(depth=2, hidden_size=32, intermediate_size=48, num_heads=4, out_hidden_size=32, patch_size=8)
    tokens = dict(image_token_id=ids[IMAGE], video_token_id=ids[VIDEO])
    tokens |= dict(vision_start_token_id=ids[START], vision_end_token_id=ids[END])
    return model(config(text_config=words | (text or {}), vision_config=sight | (vision or {}), **tokens))


def _qwen3(tokenizer):
    vision = dict(num_position_embeddings=64, deepstack_visual_indexes=[0])
    return _qwen(tokenizer, Qwen3VLForConditionalGeneration, Qwen3VLConfig, dict(head_dim=8), vision)


def _qwen2_5(tokenizer):
    vision = dict(window_size=32, fullatt_block_indexes=[1])
    return _qwen(tokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, None, vision)


def _llava(tokenizer):
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    text = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **TEXT)
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=image, vision_feature_layer=-1)
    )


def save_tiny_judge(folder, family="qwen3_vl", seed=0):
    """Write a judge in a hub's layout; its answers are spread, so that an exchange of two shows."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = {"qwen3_vl": _qwen3, "qwen2_5_vl": _qwen2_5, "llava": _llava}[family](tokenizer)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.25)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = LLAVA_IMAGES if family == "llava" else QWEN_IMAGES
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    if family == "llava":
        sizes = dict(patch_size=8, num_additional_image_tokens=1, vision_feature_select_strategy="default")
        named = dict(processor_class="LlavaProcessor", image_token=IMAGE)
        (folder / "processor_config.json").write_text(json.dumps({**sizes, **named}))
    return folder


def some_images(number):
    """Return photographs where there are some, else noise, of several sizes: uint8 (H, W, 3)."""
    found = [
        np.asarray(Image.open(path).convert("RGB").resize((64 + 8 * at, 56)))
        for at, path in enumerate(photographs(number))
    ]
    rng = np.random.default_rng(0)
    return found or [rng.integers(0, 256, (56, 64 + 8 * at, 3), dtype=np.uint8) for at in range(number)]
