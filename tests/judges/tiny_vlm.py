"""Tiny image-text-to-text models with random weights and tokenizers of their own, written like any released model."""

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
QWEN = ["<pad>", "<s>", "</s>", "<unk>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
CORPUS = [
    "yes no Yes No True False",
    "the goal is a humanoid robot kneeling",
    "answer with one digit 0 1 2 3 4 5 6 7 8 9",
]
LAYERS = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_llava(folder, seed=0, template=TEMPLATE):
    """LLaVA: a CLIP vision tower and a Llama."""
    tokenizer = make_tokenizer(SPECIAL)
    vision = transformers.CLIPVisionConfig(**LAYERS, image_size=32, patch_size=8, projection_dim=16)
    text = transformers.LlamaConfig(
        **LAYERS,
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1, vision_feature_select_strategy="default",
    )  # fmt: skip
    save(transformers.LlavaForConditionalGeneration, config, folder, seed)
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.25] * 3
    )
    transformers.LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def write_qwen(folder, seed=0):
    """Qwen2-VL: pictures of any size, positions in three directions."""
    tokenizer = make_tokenizer(QWEN)
    ids = {name.strip("<|>") + "_token_id": tokenizer.convert_tokens_to_ids(name) for name in QWEN[4:6]}
    image, video = (tokenizer.convert_tokens_to_ids(name) for name in QWEN[6:])
    text = LAYERS | {
        "vocab_size": len(tokenizer), "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": 1,
        "eos_token_id": 2, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
    }  # fmt: skip
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    config = transformers.Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=image, video_token_id=video, **ids
    )
    save(transformers.Qwen2VLForConditionalGeneration, config, folder, seed)
    sizes = {"patch_size": 4, "size": {"shortest_edge": 64, "longest_edge": 4096}}
    template = TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
    transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(**sizes), tokenizer, transformers.Qwen2VLVideoProcessor(**sizes), template
    ).save_pretrained(folder)
    return folder


def save(cls, config, folder, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = cls(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)  # as initialised, a tiny model hardly sees its input
    model.save_pretrained(folder)


def make_tokenizer(special, **tokens):
    """A byte-level BPE tokenizer trained on a few sentences: most words are several tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **tokens)
