"""Published text encoders, against those of the transformers library with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.layers.clip_text import ClipText
from vmr_jax.layers.distilbert import DistilBert
from vmr_jax.torch_import import convert
from vmr_jax.torch_import.text_encoders import clip_text_entries, distilbert_entries, initial_text_encoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY, LENGTH = 30, 9
DISTILBERT = DistilBert(VOCABULARY, 24, 2, 3, 40, 12)
CLIP = ClipText(VOCABULARY, 24, 2, 3, 12, 10)


def sentences():
    """Ids [3,S] of 9, 6 and 3 subwords, and their mask; the last real one is CLIP's end, the greatest id."""
    ids = np.random.default_rng(0).integers(3, VOCABULARY - 1, (3, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH)[None] < np.array([9, 6, 3])[:, None]
    ids[np.arange(3), mask.sum(1) - 1] = VOCABULARY - 1
    return np.where(mask, ids, 0), mask


def spread(model):
    """Random biases and norms too: their initial zeros and ones would hide a mix-up."""
    for x in model.parameters():
        torch.nn.init.normal_(x, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def distilbert():
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=24, n_layers=2, n_heads=3, hidden_dim=40, max_position_embeddings=12
    )
    return spread(transformers.DistilBertForMaskedLM(config))


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=24, intermediate_size=96, projection_dim=10, num_hidden_layers=2,
        num_attention_heads=3, max_position_embeddings=12, bos_token_id=1, eos_token_id=VOCABULARY - 1,
        pad_token_id=0,
    )  # fmt: skip
    return spread(transformers.CLIPTextModelWithProjection(config))


def openai_names(state):
    """The tensors of a CLIP of Hugging Face as OpenAI's code has them, with some of the visual tower."""
    one = {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T,
        "visual.conv1.weight": torch.zeros(4, 3, 2, 2),
        "visual.transformer.resblocks.0.attn.in_proj_weight": torch.zeros(12, 4),
        "logit_scale": torch.tensor(1.0),
        "input_resolution": torch.tensor(224),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(VOCABULARY),
    }
    parts = {
        "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
        "layer_norm1": "ln_1", "layer_norm2": "ln_2",
    }  # fmt: skip
    for end in ("weight", "bias"):
        one[f"ln_final.{end}"] = state[f"text_model.final_layer_norm.{end}"]
        for i in range(2):
            theirs, ours = f"text_model.encoder.layers.{i}", f"transformer.resblocks.{i}"
            joined = [state[f"{theirs}.self_attn.{name}_proj.{end}"] for name in "qkv"]
            one[f"{ours}.attn.in_proj_{end}"] = torch.cat(joined)
            one |= {f"{ours}.{new}.{end}": state[f"{theirs}.{old}.{end}"] for old, new in parts.items()}
    return one


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_distilbert_is_that_of_transformers(distilbert, tmp_path):
    distilbert.save_pretrained(tmp_path)  # model.safetensors and config.json
    params = initial_text_encoder("distilbert", tmp_path)
    ids, mask = sentences()
    index = jnp.arange(3)
    shapes = jax.eval_shape(lambda: DISTILBERT.init(jax.random.key(0), ids, mask, index, False))["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda x: x.shape, shapes)
    states = jax.jit(lambda p: DISTILBERT.apply({"params": p}, ids, mask, index, False))(params)
    with torch.no_grad():
        expected = distilbert.distilbert(torch.tensor(ids), torch.tensor(mask)).last_hidden_state.numpy()
    np.testing.assert_allclose(states, expected * mask[..., None], atol=1e-4, rtol=0)


def test_clip_is_that_of_transformers(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    params = initial_text_encoder("clip", tmp_path)
    ids, mask = sentences()
    shapes = jax.eval_shape(lambda: CLIP.init(jax.random.key(0), ids, mask))["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda x: x.shape, shapes)
    states, sentence = jax.jit(lambda p: CLIP.apply({"params": p}, ids, mask))(params)
    with torch.no_grad():
        expected = clip(torch.tensor(ids), torch.tensor(mask))
    np.testing.assert_allclose(states, expected.last_hidden_state.numpy() * mask[..., None], atol=1e-4, rtol=0)
    np.testing.assert_allclose(sentence, expected.text_embeds.numpy(), atol=1e-4, rtol=0)


def test_every_form_of_a_distilbert_gives_the_same(distilbert, tmp_path):
    expected = initial_text_encoder("distilbert", written(tmp_path / "heads", distilbert.state_dict()))
    bare = distilbert.distilbert.state_dict() | {"embeddings.position_ids": torch.arange(12)[None]}
    assert_same(initial_text_encoder("distilbert", written(tmp_path / "bare", bare)), expected)
    within = {f"module.text_encoder.bert.{key}": x for key, x in bare.items()}
    entries = lambda shapes: distilbert_entries(shapes, "text_encoder.bert.", "params/text_encoder/")  # noqa: E731
    assert_same(convert("mmn", within, entries), {"params": {"text_encoder": expected}})
    assert_same(initial_text_encoder("distilbert", tmp_path / "heads" / "pytorch_model.bin"), expected)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(expected))


def test_every_form_of_a_clip_gives_the_same(clip, tmp_path):
    state = clip.state_dict() | {
        "text_model.embeddings.position_ids": torch.arange(12)[None],
        "vision_model.embeddings.class_embedding": torch.zeros(5),
        "visual_projection.weight": torch.zeros(10, 5),
        "logit_scale": torch.tensor(1.0),
    }
    expected = initial_text_encoder("clip", written(tmp_path / "whole", state))
    openai = openai_names(clip.state_dict())
    (tmp_path / "openai").mkdir()
    torch.save(openai, tmp_path / "openai" / "clip.pt")
    assert_same(initial_text_encoder("clip", tmp_path / "openai"), expected)
    within = {f"clip.{key}": x for key, x in openai.items()}
    found = convert("vdi", within, lambda shapes: clip_text_entries(shapes, "clip.", "params/text_encoder/"))
    assert_same(found, {"params": {"text_encoder": expected}})


def test_half_precision_files_become_float32(clip, tmp_path):
    half = {key: x.half() for key, x in openai_names(clip.state_dict()).items()}
    params = initial_text_encoder("clip", written(tmp_path / "half", half))
    assert params["norm"]["scale"].dtype == np.float32
    expected = clip.state_dict()["text_model.final_layer_norm.weight"].half().float().numpy()
    np.testing.assert_array_equal(params["norm"]["scale"], expected)


def written(folder, state):
    folder.mkdir()
    torch.save(dict(state), folder / "pytorch_model.bin")
    return folder


def test_files_of_another_network_are_refused(distilbert, clip, tmp_path):
    bert, other = (written(tmp_path / str(i), m.state_dict()) for i, m in enumerate((distilbert, clip)))
    with pytest.raises(UserError, match=r"pytorch_model.bin: The checkpoint has no tensor .token_embedding"):
        initial_text_encoder("clip", bert)
    with pytest.raises(UserError, match=r"no tensor .embeddings.word_embeddings.weight"):
        initial_text_encoder("distilbert", other)
    more = distilbert.state_dict() | {"distilbert.transformer.layer.1.adapter.weight": torch.zeros(2)}
    with pytest.raises(UserError, match=r"1 left over: distilbert.transformer.layer.1.adapter.weight"):
        initial_text_encoder("distilbert", written(tmp_path / "more", more))
