"""Published image-text encoders -> both towers of `clip_image`, `clip_text` and `siglip` in `vmr_jax.layers`.

CLIP ViT: a folder of Hugging Face such as openai/clip-vit-base-patch32, or OpenAI's file under its own names.
SigLIP 2 at a fixed resolution: a folder such as google/siglip2-base-patch16-224. A file holds both towers.
"""

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vmr_jax.errors import UserError, unknown, user_path
from vmr_jax.layers.clip_image import ClipImage
from vmr_jax.layers.clip_text import ClipText
from vmr_jax.layers.siglip import SiglipImage, SiglipText
from vmr_jax.torch_import import Entry, Shapes, kernel, linear, norm, size
from vmr_jax.torch_import.text_encoders import (
    CLIP_OTHERS,
    clip_text_tensors,
    convert_file,
    hugging_face_layers,
    is_hugging_face,
    openai_layers,
    settings_of,
    siglip_text_tensors,
    weights_file,
)
from vmr_jax.torch_import.transformer import joint_projection

_SCALARS = ("logit_scale", "logit_bias", *CLIP_OTHERS)  # left out where they are not of a tower
BILINEAR, BICUBIC = 2, 3  # as Pillow numbers its filters, and preprocessor_config.json


class Pixels(NamedTuple):
    """The form in which a tower reads images.

    Attributes:
      side: of the square image, in pixels.
      crop: whether the longer side is cut at both ends; otherwise it is squeezed.
      filter: `BILINEAR` or `BICUBIC`, by which images are made smaller or larger.
      mean: of each colour in [0,1], which is subtracted.
      std: of each colour, by which the rest is divided.
    """

    side: int
    crop: bool
    filter: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class ImageText(NamedTuple):
    """Two towers with their weights.

    Attributes:
      image: module of images [B,I,I,3] -> [B,E]; I is `pixels.side`.
      text: module of subwords and their mask [B,S] -> states and [B,E].
      params: {'image': ..., 'text': ...}, parameters of each, float32 numpy arrays.
      pixels: the form of the images.
    """

    image: nn.Module
    text: nn.Module
    params: dict[str, Any]
    pixels: Pixels


def read_image_text(
    kind: str, folder: Path, dtype: jnp.dtype = jnp.float32, setting: str = "--encoder_dir"
) -> ImageText:
    """Reads both towers and how images are prepared for them.

    Args:
      kind: 'clip' or 'siglip'.
      folder: of Hugging Face, or a file of weights.
      dtype: number format of the computation.
      setting: name of the user's setting that gives the folder, for messages.

    Raises:
      UserError: for an unknown kind, a missing or damaged file, and one of another network.
    """
    if kind not in _KINDS:
        raise unknown("There is no image-text encoder", kind, _KINDS)
    file = weights_file(f"image-text encoder {kind}", user_path(folder), setting)
    config, pixels = (settings_of(file.parent / f"{name}.json") for name in ("config", "preprocessor_config"))
    entries, build, usual = _KINDS[kind]
    if config.get("model_type") == "siglip2":
        raise UserError(
            f"{file.parent} holds a SigLIP 2 of any resolution (NaFlex), which is another network. Use one of "
            "a fixed resolution, such as google/siglip2-base-patch16-224."
        )
    params = convert_file(f"the image-text encoder {kind}", file, entries)
    image, text = build(params, config, dtype, file.parent)
    return ImageText(image, text, params, _pixels(params["image"], usual, pixels, file.parent))


# --- CLIP -------------------------------------------------------------------------------------------


def clip_entries(shapes: Shapes) -> list[Entry]:
    """All tensors of a CLIP whose image tower is a vision transformer."""
    if any(name.startswith("visual.layer1.") for name in shapes):
        raise UserError("This CLIP reads images with a ResNet. Use one with a vision transformer: ViT-B/32.")
    tower = _hugging_face_image if is_hugging_face(shapes) else _openai_image
    found = clip_text_tensors(shapes, "", "text/") + tower(shapes, "image/")
    return found + _left_out(shapes, found)


def _hugging_face_image(shapes: Shapes, path: str) -> list[Entry]:
    embeddings, projection = "vision_model.embeddings.", "visual_projection.weight"
    patches, positions = f"{embeddings}patch_embedding.weight", f"{embeddings}position_embedding.weight"
    features = size(shapes, patches, 0)
    return [
        Entry(f"{embeddings}class_embedding", f"{path}class_vector", (features,), _first),
        Entry(patches, f"{path}patches/linear/kernel", _patch_shape(shapes, patches), _patches),
        Entry(positions, f"{path}positions", (size(shapes, positions, 0), features), _one),
        *norm("vision_model.pre_layrnorm", f"{path}input_norm", features),  # spelled so in the file
        *norm("vision_model.post_layernorm", f"{path}norm", features),
        Entry(projection, f"{path}projection/kernel", (size(shapes, projection, 0), features), kernel),
        *hugging_face_layers(shapes, "vision_model.encoder.layers.", path, features),
    ]


def _openai_image(shapes: Shapes, path: str) -> list[Entry]:
    patches, positions, projection = "visual.conv1.weight", "visual.positional_embedding", "visual.proj"
    features = size(shapes, patches, 0)
    return [
        Entry("visual.class_embedding", f"{path}class_vector", (features,), _first),
        Entry(patches, f"{path}patches/linear/kernel", _patch_shape(shapes, patches), _patches),
        Entry(positions, f"{path}positions", (size(shapes, positions, 0), features), _one),
        *norm("visual.ln_pre", f"{path}input_norm", features),
        *norm("visual.ln_post", f"{path}norm", features),
        Entry(projection, f"{path}projection/kernel", (features, size(shapes, projection, 1))),
        *openai_layers(shapes, "visual.transformer.resblocks.", path, features),
    ]


def _clip(params: dict, config: dict, dtype: jnp.dtype, folder: Path) -> tuple[ClipImage, ClipText]:
    """OpenAI's file says nothing of heads: all of its are 64 wide."""
    image, text = params["image"], params["text"]
    heads = [
        _heads(config.get(part, {}), folder, "quick_gelu", width, max(width // 64, 1))
        for part, width in (("vision_config", _width(image)), ("text_config", _width(text)))
    ]
    project = text["projection"]["kernel"].shape[1]
    return (
        ClipImage(_patch(image), _width(image), _depth(image), heads[0], project, dtype),
        ClipText(_words(text), _width(text), _depth(text), heads[1], _places(text), project, dtype),
    )


# --- SigLIP -----------------------------------------------------------------------------------------


def siglip_entries(shapes: Shapes) -> list[Entry]:
    """All tensors of a SigLIP of a fixed resolution."""
    embeddings, head = "vision_model.embeddings.", "vision_model.head"
    patches, positions = f"{embeddings}patch_embedding.weight", f"{embeddings}position_embedding.weight"
    features, hidden = size(shapes, patches, 0), size(shapes, f"{head}.mlp.fc1.weight", 0)
    found = siglip_text_tensors(shapes, "", "text/")
    found += [
        Entry(patches, "image/patches/linear/kernel", _patch_shape(shapes, patches), _patches),
        Entry(f"{embeddings}patch_embedding.bias", "image/patches/linear/bias", (features,)),
        Entry(positions, "image/positions", (size(shapes, positions, 0), features), _one),
        *norm("vision_model.post_layernorm", "image/norm", features),
        *hugging_face_layers(shapes, "vision_model.encoder.layers.", "image/", features),
        Entry(f"{head}.probe", "image/pool/probe", (1, 1, features)),
        *joint_projection(f"{head}.attention", "image/pool/attention", features),
        *linear(f"{head}.attention.out_proj", "image/pool/output", (features, features)),
        *norm(f"{head}.layernorm", "image/pool/norm", features),
        *linear(f"{head}.mlp.fc1", "image/pool/hidden", (hidden, features)),
        *linear(f"{head}.mlp.fc2", "image/pool/feed_forward", (features, hidden)),
    ]
    return found + _left_out(shapes, found)


def _siglip(params: dict, config: dict, dtype: jnp.dtype, folder: Path) -> tuple[SiglipImage, SiglipText]:
    """The number of heads stands in config.json alone, and not where it is that of the base."""
    if not config:
        raise UserError(
            f"{folder} lacks config.json, without which the number of attention heads of a SigLIP is not "
            "known. Download it from the page of the model into this folder."
        )
    image, text = params["image"], params["text"]
    heads = [
        _heads(config.get(part, {}), folder, "gelu_pytorch_tanh", _width(tower), 12)
        for part, tower in (("vision_config", image), ("text_config", text))
    ]
    return (
        SiglipImage(_patch(image), _width(image), _depth(image), heads[0], _hidden(image), dtype),
        SiglipText(
            _words(text),
            _width(text),
            _depth(text),
            heads[1],
            _hidden(text),
            _places(text),
            text["projection"]["bias"].size,
            dtype,
        ),
    )


# --- Sizes and layouts ------------------------------------------------------------------------------


def _width(tower: dict[str, Any]) -> int:
    return tower["norm"]["scale"].size


def _depth(tower: dict[str, Any]) -> int:
    return sum(name.startswith("layer_") for name in tower)


def _hidden(tower: dict[str, Any]) -> int:
    return tower["layer_0"]["hidden"]["bias"].size


def _words(tower: dict[str, Any]) -> int:
    return len(tower["embedding"]["words"])


def _places(tower: dict[str, Any]) -> int:
    return len(tower["embedding"]["positions"])


def _patch(tower: dict[str, Any]) -> int:
    """Side of a patch, of which the first layer reads three numbers a pixel."""
    return round((len(tower["patches"]["linear"]["kernel"]) / 3) ** 0.5)


def _patch_shape(shapes: Shapes, key: str) -> tuple[int, int, int, int]:
    """[F,3,side,side], of a convolution as wide as its steps."""
    side = size(shapes, key, 3)
    return size(shapes, key, 0), 3, side, side


def _patches(x: np.ndarray) -> np.ndarray:
    """Weights of such a convolution become those of a linear layer over the pixels of a patch."""
    return np.asarray(x).transpose(2, 3, 1, 0).reshape(-1, x.shape[0])


def _first(x: np.ndarray) -> np.ndarray:
    return np.asarray(x)[None, None]


def _one(x: np.ndarray) -> np.ndarray:
    return np.asarray(x)[None]


def _left_out(shapes: Shapes, found: list[Entry]) -> list[Entry]:
    """Scalars and tables of positions 0, 1, 2, ... that stand beside the tensors of the towers."""
    known = {entry.key for entry in found}
    return [
        Entry(name, "", shape)
        for name, shape in shapes.items()
        if name not in known and (name in _SCALARS or name.endswith("embeddings.position_ids"))
    ]


def _heads(settings: dict[str, Any], folder: Path, activation: str, width: int, usual: int) -> int:
    """Number of attention heads of a tower, of its part of config.json; UserError for another activation."""
    found = settings.get("hidden_act", activation)
    if found != activation:
        raise UserError(
            f"{folder}/config.json: hidden_act of this model is {found!r}, and its towers here compute "
            f"{activation!r}. Use OpenAI's CLIP, such as openai/clip-vit-base-patch32, or Google's SigLIP 2, "
            "such as google/siglip2-base-patch16-224."
        )
    heads = settings.get("num_attention_heads", usual)
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise UserError(
            f"{folder}/config.json has {heads!r} attention heads, which cannot share the {width} numbers of a "
            "state in the weights. The two files are of different models; download both again."
        )
    return heads


# --- Pixels -----------------------------------------------------------------------------------------

# OpenAI's, and Google's for SigLIP 2, where preprocessor_config.json says nothing else.
_CLIP_PIXELS = Pixels(
    0, True, BICUBIC, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)
_SIGLIP_PIXELS = Pixels(0, False, BILINEAR, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _pixels(image: dict[str, Any], usual: Pixels, settings: dict[str, Any], folder: Path) -> Pixels:
    """How images are prepared: as usual, but for the filter and the colours of preprocessor_config.json."""
    places = image["positions"].shape[1] - ("class_vector" in image)
    side = _patch(image) * round(places**0.5)
    read = {"filter": "resample", "mean": "image_mean", "std": "image_std"}
    given = {field: settings[name] for field, name in read.items() if name in settings}
    try:
        found = usual._replace(side=side, **given)
        mean, std = (tuple(float(x) for x in colours) for colours in (found.mean, found.std))
        right = found.filter in (BILINEAR, BICUBIC) and len(mean) == len(std) == 3 and min(std) > 0
    except (TypeError, ValueError):
        right = False
    if not right:
        raise UserError(
            f"{folder}/preprocessor_config.json: {', '.join(read.values())} must be {BILINEAR} or {BICUBIC}, "
            f"and three numbers each; they are {given}. Download the file again."
        )
    return found._replace(mean=mean, std=std)


_KINDS: dict[str, Any] = {
    "clip": (clip_entries, _clip, _CLIP_PIXELS),
    "siglip": (siglip_entries, _siglip, _SIGLIP_PIXELS),
}
KINDS = tuple(_KINDS)
