"""Folders of small image-text encoders as Hugging Face publishes them: random weights, settings, tokenisers."""

import io
import json
import random

import numpy as np

SIDE = 32  # of an image; 16 patches of 8
PROJECT = 10  # E of CLIP; of SigLIP it is the width of the image tower
MERGES = ["t h", "th e</w>", "m a", "ma n</w>", "d o", "do o", "doo r</w>"]
CLIP_VOCABULARY = 514 + len(MERGES)
SIGLIP_VOCABULARY = 370
PLACES = 12  # of the longest sentence


def write_clip(folder, seed=0):
    """A CLIP of 2 layers: images 24 wide with 3 heads, sentences 16 wide with 2."""
    tensors = _embeddings(CLIP_VOCABULARY, 16, 24, "class_embedding")
    tensors |= _norm("vision_model.pre_layrnorm", 24) | _norm("vision_model.post_layernorm", 24)
    tensors["visual_projection.weight"] = (PROJECT, 24)
    tensors["text_projection.weight"] = (PROJECT, 16)
    for i in range(2):
        tensors |= _layer(f"vision_model.encoder.layers.{i}", 24, 96)
        tensors |= _layer(f"text_model.encoder.layers.{i}", 16, 64)
    config = {
        "model_type": "clip",
        "projection_dim": PROJECT,
        "vision_config": _settings(24, 96, 3, image_size=SIDE, patch_size=8, projection_dim=PROJECT),
        "text_config": _settings(
            16,
            64,
            2,
            vocab_size=CLIP_VOCABULARY,
            max_position_embeddings=PLACES,
            projection_dim=PROJECT,
            bos_token_id=CLIP_VOCABULARY - 2,
            eos_token_id=CLIP_VOCABULARY - 1,
        ),
    }
    _write(folder, tensors, config, seed)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    subwords = [*symbols, *(s + "</w>" for s in symbols), *(merge.replace(" ", "") for merge in MERGES)]
    vocabulary = {s: i for i, s in enumerate([*subwords, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
    return folder


def write_siglip(folder, seed=0):
    """A SigLIP of 2 layers: images 24 wide with 3 heads, sentences 16 wide with 2."""
    tensors = _embeddings(SIGLIP_VOCABULARY, 16, 24)
    tensors["vision_model.embeddings.patch_embedding.bias"] = (24,)
    head = "vision_model.head"
    tensors |= _norm("vision_model.post_layernorm", 24) | _norm(f"{head}.layernorm", 24)
    tensors |= _linear(f"{head}.mlp.fc1", 40, 24) | _linear(f"{head}.mlp.fc2", 24, 40)
    tensors |= _linear(f"{head}.attention.out_proj", 24, 24)
    tensors[f"{head}.probe"] = (1, 1, 24)
    tensors[f"{head}.attention.in_proj_weight"], tensors[f"{head}.attention.in_proj_bias"] = (72, 24), (72,)
    tensors |= _linear("text_model.head", 24, 16) | {"logit_bias": (1,)}
    for i in range(2):
        tensors |= _layer(f"vision_model.encoder.layers.{i}", 24, 40)
        tensors |= _layer(f"text_model.encoder.layers.{i}", 16, 36)
    gelu = {"hidden_act": "gelu_pytorch_tanh"}
    config = {
        "model_type": "siglip",
        "vision_config": _settings(24, 40, 3, image_size=SIDE, patch_size=8) | gelu,
        "text_config": _settings(
            16,
            36,
            2,
            vocab_size=SIGLIP_VOCABULARY,
            max_position_embeddings=PLACES,
            projection_size=24,
        )
        | gelu,
    }
    _write(folder, tensors, config, seed)
    (folder / "tokenizer.model").write_bytes(sentence_pieces())
    return folder


def sentence_pieces(**settings):
    """A SentencePiece model with Gemma's special pieces and settings, of a few English words."""
    import sentencepiece

    words = "a man opens the door woman closes window sits on sofa drinks cup of é looks at 12 2024".split()
    draw = random.Random(0)
    sentences = [" ".join(draw.choices(words, k=8)) for _ in range(200)]
    file = io.BytesIO()
    gemma = {
        "model_type": "bpe",
        "vocab_size": SIGLIP_VOCABULARY,
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": 2,
        "unk_id": 3,
        "pad_piece": "<pad>",
        "eos_piece": "<eos>",
        "bos_piece": "<bos>",
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
        "split_digits": True,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=file, minloglevel=2, **{**gemma, **settings}
    )
    return file.getvalue()


def write_safetensors(file, arrays):
    """The format in which Hugging Face publishes weights: length of the header, header, numbers."""
    header, begin = {}, 0
    for name, x in arrays.items():
        place = [begin, begin + x.nbytes]
        header[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": place}
        begin = place[1]
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    content = b"".join(x.tobytes() for x in arrays.values())
    file.write_bytes(len(text).to_bytes(8, "little") + text + content)


def _write(folder, shapes, config, seed):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shapes = {**shapes, "logit_scale": (1,) if config["model_type"] == "siglip" else ()}
    # Far from the small initial values, with which the attention would be nearly uniform.
    arrays = {n: (0.3 * rng.standard_normal(s)).astype(np.float32) for n, s in shapes.items()}
    write_safetensors(folder / "model.safetensors", arrays)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _settings(width, hidden, heads, **more):
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": 2,
        **more,
    }


def _embeddings(vocabulary, text, image, first=""):
    vision = "vision_model.embeddings."
    return {
        "text_model.embeddings.token_embedding.weight": (vocabulary, text),
        "text_model.embeddings.position_embedding.weight": (PLACES, text),
        f"{vision}patch_embedding.weight": (image, 3, 8, 8),
        f"{vision}position_embedding.weight": ((SIDE // 8) ** 2 + bool(first), image),
        **({f"{vision}{first}": (image,)} if first else {}),
        **_norm("text_model.final_layer_norm", text),
    }


def _layer(name, width, hidden):
    tensors = _norm(f"{name}.layer_norm1", width) | _norm(f"{name}.layer_norm2", width)
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        tensors |= _linear(f"{name}.self_attn.{part}", width, width)
    return tensors | _linear(f"{name}.mlp.fc1", hidden, width) | _linear(f"{name}.mlp.fc2", width, hidden)


def _linear(name, outputs, inputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
