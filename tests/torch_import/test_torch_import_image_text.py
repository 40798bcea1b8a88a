"""Published image-text encoders, against those of the transformers library with the same random weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_text_folder import CLIP_VOCABULARY, PLACES, PROJECT, SIDE, write_clip, write_siglip

from vmr_jax.errors import UserError
from vmr_jax.torch_import.image_text import BICUBIC, BILINEAR, Pixels, read_image_text
from vmr_jax.torch_import.text_encoders import initial_text_encoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WRITE = {"clip": write_clip, "siglip": write_siglip}


@pytest.fixture(scope="module", params=WRITE)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    return WRITE[kind](tmp_path_factory.mktemp(kind) / kind)


@pytest.fixture(scope="module")
def twin(kind, folder):
    model = {"clip": transformers.CLIPModel, "siglip": transformers.SiglipModel}[kind]
    return model.from_pretrained(folder).eval()


def images():
    return np.random.default_rng(1).standard_normal((3, SIDE, SIDE, 3)).astype(np.float32)


def sentences(kind, length=PLACES):
    """Ids [3,S] and their mask; each ends in the end token."""
    ids = np.random.default_rng(2).integers(4, 300, (3, length)).astype(np.int32)
    mask = np.arange(length)[None] < np.array([length, 6, 3])[:, None]
    ids[np.arange(3), mask.sum(1) - 1] = CLIP_VOCABULARY - 1 if kind == "clip" else 1
    return np.where(mask, ids, 0), mask


def near(found, expected):
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def pooled(output):
    return getattr(output, "pooler_output", output).numpy()


def test_images_are_those_of_transformers(kind, folder, twin):
    read = read_image_text(kind, folder)
    found = jax.jit(lambda p, x: read.image.apply({"params": p}, x))(read.params["image"], images())
    with torch.no_grad():
        near(found, pooled(twin.get_image_features(torch.tensor(images().transpose(0, 3, 1, 2)))))


def test_sentences_are_those_of_transformers(kind, folder, twin):
    read = read_image_text(kind, folder)
    ids, mask = sentences(kind)
    apply = jax.jit(lambda p, x, m: read.text.apply({"params": p}, x, m))
    states, found = apply(read.params["text"], ids, mask)
    asked = {"input_ids": torch.tensor(ids)}
    if kind == "clip":  # SigLIP reads the padding too
        asked["attention_mask"] = torch.tensor(mask)
    with torch.no_grad():
        near(found, pooled(twin.get_text_features(**asked)))
        expected = twin.text_model(**asked).last_hidden_state.numpy()
    near(states, expected * mask[..., None])
    # However far the batch pads: the two shorter ones alone.
    shorter = apply(read.params["text"], ids[1:, :7], mask[1:, :7])
    near(shorter[1], np.asarray(found[1:]))
    near(shorter[0], np.asarray(states[1:, :7]))
    jax.tree.map(np.testing.assert_array_equal, initial_text_encoder(kind, folder), read.params["text"])


def test_shapes_are_those_that_the_towers_begin_with(kind, folder):
    read = read_image_text(kind, folder)
    for tower, arguments in ((read.image, (images(),)), (read.text, sentences(kind))):
        begun = jax.eval_shape(lambda t=tower, a=arguments: t.init(jax.random.key(0), *a))["params"]
        found = read.params["image" if tower is read.image else "text"]
        assert jax.tree.map(np.shape, found) == jax.tree.map(lambda x: x.shape, begun)


def test_half_precision_is_near(kind, folder):
    full, half = (read_image_text(kind, folder, dtype) for dtype in (jnp.float32, jnp.bfloat16))
    vectors = [
        np.asarray(
            jax.jit(lambda p, x, t=read.image: t.apply({"params": p}, x))(read.params["image"], images())
        )
        for read in (full, half)
    ]
    assert vectors[1].dtype == jnp.bfloat16
    cosines = [(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(*np.float32(vectors))]
    assert min(cosines) > 0.999


def openai_names(state):
    """The tensors of a CLIP of Hugging Face as OpenAI's code names them."""
    one = {
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T,
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T,
        "logit_scale": state["logit_scale"],
        "input_resolution": torch.tensor(SIDE),
        "context_length": torch.tensor(PLACES),
        "vocab_size": torch.tensor(CLIP_VOCABULARY),
    }
    parts = {
        "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
        "layer_norm1": "ln_1", "layer_norm2": "ln_2",
    }  # fmt: skip
    norms = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm"}
    for end in ("weight", "bias"):
        for new, old in {**norms, "ln_final": "text_model.final_layer_norm"}.items():
            one[f"{new}.{end}"] = state[f"{old}.{end}"]
        for tower, prefix in (("vision_model", "visual."), ("text_model", "")):
            for i in range(2):
                theirs, ours = f"{tower}.encoder.layers.{i}", f"{prefix}transformer.resblocks.{i}"
                joined = [state[f"{theirs}.self_attn.{name}_proj.{end}"] for name in "qkv"]
                one[f"{ours}.attn.in_proj_{end}"] = torch.cat(joined)
                for old, new in parts.items():
                    one[f"{ours}.{new}.{end}"] = state[f"{theirs}.{old}.{end}"]
    return one


def test_openais_file_gives_the_same(tmp_path):
    folder = write_clip(tmp_path / "clip")
    state = transformers.CLIPModel.from_pretrained(folder).state_dict()
    torch.save(openai_names(state), tmp_path / "clip.pt")
    found, expected = read_image_text("clip", tmp_path / "clip.pt"), read_image_text("clip", folder)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    # It does not say how many heads there are: all of OpenAI's are 64 wide, and these towers are narrower.
    assert (found.image.heads, found.text.heads) == (1, 1)
    assert (found.image.clone(heads=3), found.text.clone(heads=2)) == (expected.image, expected.text)
    assert found.pixels == expected.pixels


class Part(torch.nn.Module):
    """Tensors and parts by their dotted names; of a layer also the mask, which is no parameter."""

    def __init__(self, tensors):
        super().__init__()
        parts = {}
        for name, x in tensors.items():
            first, _, rest = name.partition(".")
            if rest:
                parts.setdefault(first, {})[rest] = x
            elif x.is_floating_point():
                self.register_parameter(name, torch.nn.Parameter(x, requires_grad=False))
            else:
                self.register_buffer(name, x)
        for name, of_part in parts.items():
            self.add_module(name, Part(of_part))
        if "ln_1" in parts:
            self.attn_mask = torch.full((2, 2), -torch.inf)

    def forward(self, x):
        return x + 1


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
def test_openais_file_is_read_as_it_is_downloaded(tmp_path):
    """It is a program (torch.jit), traced, whose matrices have half precision; nothing of it is run."""
    folder = write_clip(tmp_path / "clip")
    names = openai_names(transformers.CLIPModel.from_pretrained(folder).state_dict())
    halves = {n: x.half() if x.ndim > 1 and x.is_floating_point() else x for n, x in names.items()}
    program = torch.jit.trace(Part(halves), torch.ones(1))
    torch.jit.save(program, tmp_path / "ViT-B-32.pt")
    loaded = torch.jit.load(tmp_path / "ViT-B-32.pt").state_dict()
    assert set(loaded) == set(names) and loaded["visual.proj"].dtype == torch.float16
    torch.save({n: x.float() if x.is_floating_point() else x for n, x in halves.items()}, tmp_path / "clip.pt")
    found, expected = (read_image_text("clip", tmp_path / f"{name}.pt") for name in ("ViT-B-32", "clip"))
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    assert found[:2] == expected[:2] and found.pixels == expected.pixels
    jax.tree.map(
        np.testing.assert_array_equal,
        initial_text_encoder("clip", tmp_path / "ViT-B-32.pt"),
        found.params["text"],
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "patch, side, width, layers, text, project, count",
    [
        # Parameters as OpenAI and Hugging Face count them, less logit_scale.
        (32, 224, 768, 12, 512, 512, 151_277_312),
        (16, 224, 768, 12, 512, 512, 149_620_736),
        (14, 224, 1024, 24, 768, 768, 427_616_512),
    ],
)
def test_clip_at_full_size(tmp_path, patch, side, width, layers, text, project, count):
    shared = {"projection_dim": project}
    config = transformers.CLIPConfig(
        vision_config=dict(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
            num_attention_heads=width // 64, image_size=side, patch_size=patch, **shared,
        ),
        text_config=dict(
            hidden_size=text, intermediate_size=4 * text, num_attention_heads=text // 64, **shared
        ),
        **shared,
    )  # fmt: skip
    check_full_size("clip", filled(transformers.CLIPModel, config), tmp_path, side, count, 49_407)


@pytest.mark.slow
def test_siglip_at_full_size(tmp_path):
    """SigLIP 2 base with patches of 16 pixels, at 224: 375,187,970 parameters, two of them of the loss."""
    config = transformers.SiglipConfig(
        vision_config={"image_size": 224, "patch_size": 16}, text_config={"vocab_size": 256_000}
    )
    check_full_size("siglip", filled(transformers.SiglipModel, config), tmp_path, 224, 375_187_968, 1)


def filled(model, config):
    """The model with random weights, biases and scales: a million numbers over and over, each tensor from where
    the one before it ends. Drawing as many as there are would take most of the time.
    """
    with transformers.initialization.no_init_weights():
        twin = model(config)
    numbers, begin = 0.02 * np.random.default_rng(0).standard_normal(1_000_003).astype(np.float32), 0
    with torch.no_grad():
        for name, x in twin.named_parameters():
            own = torch.tensor(np.resize(np.roll(numbers, -begin), x.shape))
            x.copy_(own + 1 if "norm" in name and name.endswith("weight") else own)
            begin = (begin + x.numel()) % len(numbers)
    return twin


def check_full_size(kind, twin, folder, side, count, end):
    twin.eval().save_pretrained(folder)
    read = read_image_text(kind, folder)
    assert sum(x.size for x in jax.tree.leaves(read.params)) == count
    assert read.pixels.side == side
    pixels = np.random.default_rng(0).standard_normal((2, side, side, 3)).astype(np.float32)
    length = read.text.max_positions
    ids = np.random.default_rng(1).integers(4, 40_000, (2, length)).astype(np.int32)
    ids[:, -1] = end
    image = jax.jit(lambda p, x: read.image.apply({"params": p}, x))(read.params["image"], pixels)
    text = jax.jit(lambda p, x: read.text.apply({"params": p}, x, jnp.ones(x.shape, bool))[1])(
        read.params["text"], ids
    )
    with torch.no_grad():
        images = pooled(twin.get_image_features(torch.tensor(pixels.transpose(0, 3, 1, 2))))
        texts = pooled(twin.get_text_features(torch.tensor(ids)))
    for found, expected in ((image, images), (text, texts)):
        print(kind, side, np.abs(found - expected).max(), np.abs(expected).max())
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


# Folders of which something is wrong, and what a folder says of the pixels.


def test_pixels_are_as_published(tmp_path):
    clip, siglip = write_clip(tmp_path / "clip"), write_siglip(tmp_path / "siglip")
    assert read_image_text("siglip", siglip).pixels == Pixels(SIDE, False, BILINEAR, (0.5,) * 3, (0.5,) * 3)
    pixels = read_image_text("clip", clip).pixels
    processor = transformers.CLIPImageProcessorPil()
    assert pixels == Pixels(SIDE, True, BICUBIC, tuple(processor.image_mean), tuple(processor.image_std))
    settings = {"resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1], "size": {"height": 9}}
    (siglip / "preprocessor_config.json").write_text(json.dumps(settings))
    expected = Pixels(SIDE, False, BICUBIC, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    assert read_image_text("siglip", siglip).pixels == expected


@pytest.mark.parametrize(
    "kind, file, change, message",
    [
        ("siglip", "config.json", {"model_type": "siglip2"}, "NaFlex"),
        (
            "siglip",
            "config.json",
            {"vision_config": {"num_attention_heads": 7}},
            "has 7 attention heads",
        ),
        (
            "clip",
            "config.json",
            {"vision_config": {"hidden_act": "gelu"}},
            "hidden_act of .* 'gelu'",
        ),
        ("clip", "preprocessor_config.json", {"resample": 4}, "image_std must be 2 or 3"),
        ("clip", "preprocessor_config.json", {"image_std": [1, 0, 1]}, "three numbers each"),
        ("clip", "preprocessor_config.json", {"image_mean": "grey"}, "three numbers each"),
    ],
)
def test_settings_of_another_network_are_refused(tmp_path, kind, file, change, message):
    folder = WRITE[kind](tmp_path / kind)
    settings = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    (folder / file).write_text(json.dumps({**settings, **change}))
    with pytest.raises(UserError, match=message):
        read_image_text(kind, folder)


def test_weights_of_another_network_are_refused(tmp_path):
    clip, siglip = write_clip(tmp_path / "clip"), write_siglip(tmp_path / "siglip")
    with pytest.raises(UserError, match="has no tensor .vision_model.head"):
        read_image_text("siglip", clip)
    with pytest.raises(UserError, match="has no tensor .text_projection.weight"):
        read_image_text("clip", siglip)
    (siglip / "config.json").unlink()
    with pytest.raises(UserError, match="lacks config.json"):
        read_image_text("siglip", siglip)
    with pytest.raises(UserError, match='no image-text encoder "clop". Did you mean "clip"'):
        read_image_text("clop", clip)
    with pytest.raises(UserError, match="no weights of the image-text encoder clip .*--encoder_dir"):
        read_image_text("clip", tmp_path)
    torch.save({"visual.layer1.0.conv1.weight": torch.zeros(2, 2)}, tmp_path / "RN50.pt")
    with pytest.raises(UserError, match="ResNet"):
        read_image_text("clip", tmp_path)
    assert PROJECT == read_image_text("clip", clip).image.project
