"""Published weights of pretrained text encoders -> `distilbert`, `clip_text`, `siglip` of `vmr_jax.layers`.

DistilBERT: huggingface.co/distilbert/distilbert-base-uncased. CLIP: huggingface.co/openai/clip-vit-base-patch32
or OpenAI's own file, under its own names. SigLIP 2: huggingface.co/google/siglip2-base-patch16-224. The same
entries serve a checkpoint of an architecture that holds such an encoder under a prefix. The image towers are in
`vmr_jax.torch_import.image_text`.
"""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError, unknown, user_path
from vmr_jax.files import read_json
from vmr_jax.torch_import import Entry, Shapes, convert, count, kernel, linear, norm, read_checkpoint, size
from vmr_jax.torch_import.safetensors import read_safetensors
from vmr_jax.torch_import.transformer import joint_projection

# What the published files hold besides the text encoder, left out by the first part of the name.
DISTILBERT_HEADS = (
    "vocab_transform", "vocab_layer_norm", "vocab_projector", "pre_classifier", "classifier", "qa_outputs",
)  # fmt: skip
CLIP_OTHERS = (
    "visual", "vision_model", "visual_projection", "logit_scale", "input_resolution", "context_length",
    "vocab_size",
)  # fmt: skip
SIGLIP_OTHERS = ("vision_model", "logit_scale", "logit_bias")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # names in a folder of Hugging Face


def distilbert_sizes(shapes: Shapes, key: str) -> dict[str, int]:
    """Sizes of a DistilBERT whose names begin with `key`: vocab, features, layers, hidden, positions.

    Its number of attention heads is not among them: shapes do not tell it. Without a layer there is no hidden.
    """
    words, positions, layers = _distilbert_keys(key)
    found = {
        "vocab": size(shapes, words, 0),
        "features": size(shapes, words, 1),
        "positions": size(shapes, positions, 0),
        "layers": _layers(shapes, layers),
    }
    if found["layers"]:
        found["hidden"] = size(shapes, f"{layers}0.ffn.lin1.weight", 0)
    return found


def _distilbert_keys(key: str) -> tuple[str, str, str]:
    """Names of the tables of words and of positions, and the start of the names of the layers."""
    tables = f"{key}embeddings."
    return (
        f"{tables}word_embeddings.weight",
        f"{tables}position_embeddings.weight",
        f"{key}transformer.layer.",
    )


def distilbert_entries(shapes: Shapes, key: str, path: str) -> list[Entry]:
    """All tensors of a DistilBERT.

    Args:
      shapes: shapes of all tensors of the checkpoint.
      key: prefix of the official names, such as 'text_encoder.bert.'.
      path: prefix of our names, such as 'params/text_encoder/'.
    """
    words, positions, layers = _distilbert_keys(key)
    sizes = distilbert_sizes(shapes, key)
    features = sizes["features"]
    found = [
        Entry(words, f"{path}embedding/words", (sizes["vocab"], features)),
        Entry(positions, f"{path}embedding/positions", (sizes["positions"], features)),
        *norm(f"{key}embeddings.LayerNorm", f"{path}embedding_norm", features),
        *_left_out(shapes, f"{key}embeddings.", ["position_ids"]),
    ]
    for i in range(sizes["layers"]):
        theirs, ours = f"{layers}{i}", f"{path}layer_{i}"
        for name in ("query", "key", "value"):
            projection = f"{theirs}.attention.{name[0]}_lin"
            found += linear(projection, f"{ours}/attention/{name}", (features, features))
        hidden = sizes["hidden"]
        found += linear(f"{theirs}.attention.out_lin", f"{ours}/output", (features, features))
        found += norm(f"{theirs}.sa_layer_norm", f"{ours}/attention_norm", features)
        found += linear(f"{theirs}.ffn.lin1", f"{ours}/hidden", (hidden, features))
        found += linear(f"{theirs}.ffn.lin2", f"{ours}/feed_forward", (features, hidden))
        found += norm(f"{theirs}.output_layer_norm", f"{ours}/output_norm", features)
    return found


def clip_text_entries(shapes: Shapes, key: str, path: str) -> list[Entry]:
    """All tensors of a CLIP, of which the text tower is kept and the visual one left out.

    Both OpenAI's names and those of Hugging Face are known. Arguments as those of `distilbert_entries`.
    """
    return clip_text_tensors(shapes, key, path) + _left_out(shapes, key, CLIP_OTHERS)


def clip_text_tensors(shapes: Shapes, key: str, path: str) -> list[Entry]:
    """Those of them that are kept."""
    return (_hugging_face if is_hugging_face(shapes, key) else _openai)(shapes, key, path)


def is_hugging_face(shapes: Shapes, key: str = "") -> bool:
    """Whether a CLIP has the names of Hugging Face, not those of OpenAI."""
    return any(name.startswith(f"{key}text_model.") for name in shapes)


def _openai(shapes: Shapes, key: str, path: str) -> list[Entry]:
    words, projection = f"{key}token_embedding.weight", f"{key}text_projection"
    features = size(shapes, words, 1)
    return [
        *_embedding(shapes, words, f"{key}positional_embedding", path),
        *norm(f"{key}ln_final", f"{path}norm", features),
        Entry(projection, f"{path}projection/kernel", (features, size(shapes, projection, 1))),
        *openai_layers(shapes, f"{key}transformer.resblocks.", path, features),
    ]


def openai_layers(shapes: Shapes, prefix: str, path: str, features: int) -> list[Entry]:
    """The layers of a tower under OpenAI's names, as `vmr_jax.layers.pre_norm.PreNormLayer` has them."""
    found = []
    for i in range(_layers(shapes, prefix)):
        theirs, ours = f"{prefix}{i}", f"{path}layer_{i}"
        found += joint_projection(f"{theirs}.attn", f"{ours}/attention", features)
        found += linear(f"{theirs}.attn.out_proj", f"{ours}/output", (features, features))
        found += norm(f"{theirs}.ln_1", f"{ours}/attention_norm", features)
        found += linear(f"{theirs}.mlp.c_fc", f"{ours}/hidden", (4 * features, features))
        found += linear(f"{theirs}.mlp.c_proj", f"{ours}/feed_forward", (features, 4 * features))
        found += norm(f"{theirs}.ln_2", f"{ours}/feed_forward_norm", features)
        found += _left_out(shapes, f"{theirs}.", ["attn_mask"])  # of the program that OpenAI publishes
    return found


def _hugging_face(shapes: Shapes, key: str, path: str) -> list[Entry]:
    projection = f"{key}text_projection.weight"
    features = size(shapes, projection, 1)
    return [
        *_hugging_face_text(shapes, key, path),
        Entry(projection, f"{path}projection/kernel", (size(shapes, projection, 0), features), kernel),
    ]


def siglip_text_entries(shapes: Shapes, key: str, path: str) -> list[Entry]:
    """All tensors of a SigLIP, of which the text tower is kept; arguments as those of `distilbert_entries`."""
    return siglip_text_tensors(shapes, key, path) + _left_out(shapes, key, SIGLIP_OTHERS)


def siglip_text_tensors(shapes: Shapes, key: str, path: str) -> list[Entry]:
    """Those of them that are kept."""
    head = f"{key}text_model.head"
    shape = size(shapes, f"{head}.weight", 0), size(shapes, f"{head}.weight", 1)
    return [*_hugging_face_text(shapes, key, path), *linear(head, f"{path}projection", shape)]


def _hugging_face_text(shapes: Shapes, key: str, path: str) -> list[Entry]:
    """A text tower of Hugging Face without its projection: CLIP and SigLIP have the same names."""
    embeddings = f"{key}text_model.embeddings."
    words = f"{embeddings}token_embedding.weight"
    features = size(shapes, words, 1)
    return [
        *_embedding(shapes, words, f"{embeddings}position_embedding.weight", path),
        *_left_out(shapes, embeddings, ["position_ids"]),
        *norm(f"{key}text_model.final_layer_norm", f"{path}norm", features),
        *hugging_face_layers(shapes, f"{key}text_model.encoder.layers.", path, features),
    ]


def hugging_face_layers(shapes: Shapes, prefix: str, path: str, features: int) -> list[Entry]:
    """The layers of a tower under the names of Hugging Face; as `openai_layers`."""
    found = []
    for i in range(_layers(shapes, prefix)):
        theirs, ours = f"{prefix}{i}", f"{path}layer_{i}"
        hidden = size(shapes, f"{theirs}.mlp.fc1.weight", 0)
        for name in ("query", "key", "value"):
            attention = f"{theirs}.self_attn.{name[0]}_proj"
            found += linear(attention, f"{ours}/attention/{name}", (features, features))
        found += linear(f"{theirs}.self_attn.out_proj", f"{ours}/output", (features, features))
        found += norm(f"{theirs}.layer_norm1", f"{ours}/attention_norm", features)
        found += linear(f"{theirs}.mlp.fc1", f"{ours}/hidden", (hidden, features))
        found += linear(f"{theirs}.mlp.fc2", f"{ours}/feed_forward", (features, hidden))
        found += norm(f"{theirs}.layer_norm2", f"{ours}/feed_forward_norm", features)
    return found


def _embedding(shapes: Shapes, words: str, positions: str, path: str) -> list[Entry]:
    features = size(shapes, words, 1)
    return [
        Entry(words, f"{path}embedding/words", (size(shapes, words, 0), features)),
        Entry(positions, f"{path}embedding/positions", (size(shapes, positions, 0), features)),
    ]


def _layers(shapes: Shapes, prefix: str) -> int:
    return count(shapes, rf"{re.escape(prefix)}(\d+)\..+")


def _left_out(shapes: Shapes, prefix: str, parts: Iterable[str]) -> list[Entry]:
    """The tensors whose name, after the prefix, begins with one of the parts."""
    return [
        Entry(name, "", shape)
        for name, shape in shapes.items()
        if name.startswith(prefix) and name.removeprefix(prefix).split(".")[0] in parts
    ]


def _published_distilbert(shapes: Shapes) -> list[Entry]:
    """The tensors of the published file: the encoder under 'distilbert.' or nothing, and heads."""
    key = "distilbert." if any(name.startswith("distilbert.") for name in shapes) else ""
    return distilbert_entries(shapes, key, "") + _left_out(shapes, "", DISTILBERT_HEADS)


def _published_clip(shapes: Shapes) -> list[Entry]:
    return clip_text_entries(shapes, "", "")


def _published_siglip(shapes: Shapes) -> list[Entry]:
    return siglip_text_entries(shapes, "", "")


KINDS = {"distilbert": _published_distilbert, "clip": _published_clip, "siglip": _published_siglip}
# What our layers compute, the name of the setting in a config.json of Hugging Face, and whose it is.
_ACTIVATIONS = {
    "distilbert": ("activation", "gelu", "distilbert-base-uncased"),
    "clip": ("hidden_act", "quick_gelu", "OpenAI's clip-vit-base-patch32"),
    "siglip": ("hidden_act", "gelu_pytorch_tanh", "google/siglip2-base-patch16-224"),
}


def initial_text_encoder(kind: str, path: str | os.PathLike) -> dict[str, Any]:
    """Reads published weights: the parameters of a `DistilBert`, `ClipText` or `SiglipText`, nested.

    Args:
      kind: 'distilbert', 'clip' or 'siglip'.
      path: a folder with one of `WEIGHTS` or one .pt file, or such a file.

    Returns:
      The tree of float32 numpy arrays.

    Raises:
      UserError: for an unknown kind, a missing or damaged file, and one of another network.
    """
    if kind not in KINDS:
        raise unknown("There is no text encoder", kind, KINDS)
    file = weights_file(f"text encoder {kind}", user_path(path))
    _check_activation(kind, file.parent / "config.json")
    return convert_file(f"the text encoder {kind}", file, KINDS[kind])


def convert_file(name: str, file: Path, entries: Callable[[Shapes], list[Entry]]) -> dict[str, Any]:
    """The tree that the `entries` of a file of weights lay out; `name` is for errors, which name the file."""
    tensors = _read(file)
    try:
        return convert(name, tensors, entries)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def weights_file(name: str, path: Path, setting: str = "config.text.encoder_dir") -> Path:
    """The file with the weights of an encoder, such as 'text encoder clip', from the folder of a `setting`."""
    if path.is_file():
        return path
    candidates = [path / name for name in WEIGHTS] + sorted(path.glob("*.pt"))
    file = next((file for file in candidates if file.is_file()), None)
    if file is None:
        raise UserError(
            f"There are no weights of the {name} at {path}: expected is a folder with "
            f"{' or '.join(WEIGHTS)}. Download the files of the model, and set {setting} to their folder."
        )
    return file


def _read(file: Path) -> dict[str, Any]:
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    return read_checkpoint(file)


def _check_activation(kind: str, file: Path) -> None:
    """Other CLIPs and BERTs have the same tensors and another activation; only config.json tells."""
    name, expected, published = _ACTIVATIONS[kind]
    found = settings_of(file, "text_config").get(name, expected)
    if found != expected:
        raise UserError(
            f'{file}: the activation ({name}) of this model is "{found}", but the text encoder {kind} has '
            f'"{expected}". Use {published}.'
        )


def settings_of(file: Path, part: str = "") -> dict[str, Any]:
    """A JSON file of Hugging Face, of which a `part` may stand for itself; empty where it is not there.

    Raises:
      UserError: where it is no JSON object.
    """
    if not file.is_file():
        return {}
    try:
        settings = read_json(file)
        found = settings.get(part, settings)
        found.get("")
    except (OSError, ValueError, AttributeError):
        raise UserError(
            f"{file} is not the JSON object that is published with a model. Get it again."
        ) from None
    return found
