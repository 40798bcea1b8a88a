"""The encoders clip and siglip, from frames and sentences to vectors, against those of transformers."""

import json

import av
import jax.numpy as jnp
import numpy as np
import pytest
from image_text_folder import SIDE, write_clip, write_siglip
from PIL import Image

from vmr_jax.errors import UserError
from vmr_jax.parallel import Parallel
from vmr_jax.torch_import.image_text import read_image_text
from vmr_jax.video import image_text
from vmr_jax.video.encoder import open_encoder
from vmr_jax.video.image_text import prepared

WRITE = {"clip": write_clip, "siglip": write_siglip}
SENTENCES = ["A man opens the door.", "the door", "a man a man a man a man a man a man a man a man é"]


@pytest.fixture(scope="module", params=WRITE)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    return WRITE[name](tmp_path_factory.mktemp(name) / name)


@pytest.fixture(scope="module")
def encoder(name, folder):
    return open_encoder(name, folder)


@pytest.fixture(scope="module")
def twin(name, folder):
    """Model and processor of transformers."""
    transformers = pytest.importorskip("transformers")
    if name == "clip":
        processor = transformers.CLIPImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        )
        return transformers.CLIPModel.from_pretrained(folder).eval(), processor
    # SigLIP 2's preprocessor_config.json has the filter 2, bilinear.
    processor = transformers.SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}, resample=2)
    return transformers.SiglipModel.from_pretrained(folder).eval(), processor


def picture(width, height, seed=0):
    """Smooth shapes and noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8)).resize((width, height))
    noise = rng.integers(-40, 40, (height, width, 3))
    return np.clip(np.asarray(small).astype(int) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "width, height", [(64, 48), (48, 64), (33, 97), (32, 32), (20, 11), (101, 57), (640, 361)]
)
def test_pixels_are_those_of_the_processor(name, encoder, twin, width, height):
    pixels = picture(width, height)
    found = encoder.prepare(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
    assert found.shape == (SIDE, SIDE, 3) and found.dtype == np.uint8
    expected = twin[1](Image.fromarray(pixels), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    mean, std = (np.float32(getattr(twin[1], f"image_{x}")) for x in ("mean", "std"))
    np.testing.assert_allclose((found / np.float32(255) - mean) / std, expected, atol=1e-5)


def test_vectors_are_those_of_the_model(encoder, twin):
    torch = pytest.importorskip("torch")
    model, processor = twin
    pictures = [picture(80, 60, seed) for seed in range(11)]
    frames = np.stack([encoder.prepare(av.VideoFrame.from_ndarray(p, format="rgb24")) for p in pictures])
    found = encoder.encode(frames, None)
    assert found.shape == (11, encoder.dim) and found.dtype == np.float32
    asked = processor([Image.fromarray(p) for p in pictures], return_tensors="pt")
    with torch.no_grad():
        expected = model.get_image_features(**asked)
        expected = getattr(expected, "pooler_output", expected).numpy()
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert encoder.encode(frames[:0], frames[0]).shape == (0, encoder.dim)


def test_sentences_are_those_of_the_model(name, encoder, twin):
    torch = pytest.importorskip("torch")
    model, _ = twin
    found = encoder.encode_sentences(SENTENCES)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(encoder.encode_sentences(SENTENCES[1:2])[0], found[1], atol=1e-5)
    for sentence, vector in zip(SENTENCES, found):
        ids, mask = encoder._subwords([sentence], 1)
        asked = {"input_ids": torch.tensor(ids)}
        if name == "clip":
            asked["attention_mask"] = torch.tensor(mask)
        with torch.no_grad():
            expected = model.get_text_features(**asked)
            expected = getattr(expected, "pooler_output", expected)[0].numpy()
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)
    assert mask[0].all()  # the last one is longer than the tower reads


def test_one_shape_is_compiled(encoder, monkeypatch):
    """Whatever the number of frames; on an accelerator another, in bfloat16."""
    shapes = []
    put = encoder._parallel.put_batch
    monkeypatch.setattr(encoder._parallel, "put_batch", lambda x: shapes.append(x.shape) or put(x))
    frames = np.zeros((19, *encoder._shape), np.uint8)
    for count in (1, 8, 19):
        encoder.encode(frames[:count], None)
    assert set(shapes) == {(8, SIDE, SIDE, 3)} and len(shapes) == 1 + 1 + 3


def test_an_accelerator_computes_in_half_precision(name, folder, encoder, monkeypatch):
    monkeypatch.setattr(image_text, "on_cpu", lambda: False)
    fast = open_encoder(name, folder)
    assert fast._towers.image.dtype == fast._text.dtype == jnp.bfloat16
    assert fast.identity == encoder.identity  # its vectors are near, and may stand beside the others
    frames = np.stack([np.asarray(Image.fromarray(picture(SIDE, SIDE, seed))) for seed in range(3)])
    found, expected = (e.encode(frames, None) for e in (fast, encoder))
    assert found.dtype == np.float32
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.999
    assert (fast.encode_sentences(SENTENCES) * encoder.encode_sentences(SENTENCES)).sum(1).min() > 0.999


def test_devices_share_the_frames(name, folder, encoder):
    several = open_encoder(name, folder, Parallel("jit", num_devices=4))
    frames = np.random.default_rng(0).integers(0, 256, (9, *encoder._shape), np.uint8)
    np.testing.assert_allclose(several.encode(frames, None), encoder.encode(frames, None), atol=1e-4)


def test_identity(name, folder, encoder, tmp_path):
    assert json.loads(json.dumps(encoder.identity)) == encoder.identity
    assert (encoder.name, encoder.has_text, encoder.identity["name"]) == (name, True, name)
    other = open_encoder(name, WRITE[name](tmp_path / "other", seed=1))
    assert {k for k in other.identity if other.identity[k] != encoder.identity[k]} == {"weights"}
    again = WRITE[name](tmp_path / "again")
    assert open_encoder(name, again).identity == encoder.identity
    (again / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3]}))
    moved = open_encoder(name, again)
    assert {k for k in moved.identity if moved.identity[k] != encoder.identity[k]} == {"pixels"}


def test_what_is_wrong_is_told(name, folder, tmp_path):
    with pytest.raises(UserError, match=f"The encoder {name} needs its published weights.*--encoder_dir"):
        open_encoder(name, None)
    with pytest.raises(UserError, match=f"no weights of the image-text encoder {name} at .*--encoder_dir"):
        open_encoder(name, tmp_path)
    other = {"clip": "siglip", "siglip": "clip"}[name]
    with pytest.raises(UserError, match="has no tensor"):
        open_encoder(other, folder)


def test_a_tokeniser_of_another_model_is_refused(tmp_path):
    folder = write_clip(tmp_path / "clip")
    vocabulary = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {"more</w>": len(vocabulary)}))
    with pytest.raises(UserError, match="has 522 subwords, and the weights have vectors of 521"):
        open_encoder("clip", folder)


def test_clip_cuts_and_siglip_squeezes(tmp_path):
    """An image whose left and right quarters are red: the square in its middle has none of it."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :16, 0] = pixels[:, 48:, 0] = 255
    image = Image.fromarray(pixels)
    clip = prepared(image, read_image_text("clip", write_clip(tmp_path / "clip")).pixels)
    siglip = prepared(image, read_image_text("siglip", write_siglip(tmp_path / "siglip")).pixels)
    assert not clip.any()
    assert (siglip[:, :7, 0] == 255).all() and (siglip[:, 9:23, 0] == 0).all() and not siglip[..., 1:].any()
