"""Folders of text encoders that cannot be used; what can is in test_torch_import_text_encoders.py."""

import json
import zipfile

import pytest

from vmr_jax.errors import UserError
from vmr_jax.torch_import import architectures, load
from vmr_jax.torch_import.text_encoders import initial_text_encoder


@pytest.mark.parametrize(
    "kind, settings, message",
    [
        ("clip", {"hidden_act": "gelu"}, 'hidden_act.* is "gelu", .* clip has "quick_gelu"'),
        ("clip", {"text_config": {"hidden_act": "gelu"}}, 'is "gelu"'),  # config.json of a whole CLIP
        ("distilbert", {"activation": "relu"}, 'activation.* is "relu", .* distilbert has "gelu"'),
        ("clip", [], "is not the JSON object"),
    ],
)
def test_another_activation_is_refused(tmp_path, kind, settings, message):
    # It is looked at before the weights, which are those of any network here.
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=f"config.json.*{message}"):
        initial_text_encoder(kind, tmp_path)


def test_the_published_activation_is_accepted(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text('{"text_config": {"hidden_act": "quick_gelu"}}')
    with pytest.raises(UserError, match="model.safetensors is not a whole safetensors file"):
        initial_text_encoder("clip", tmp_path)


def test_an_archive_without_weights_is_explained(tmp_path):
    with zipfile.ZipFile(tmp_path / "ViT-B-32.pt", "w") as archive:
        archive.writestr("ViT-B-32/constants.pkl", b"")
    with pytest.raises(UserError, match=r"ViT-B-32.pt cannot be read.*zip archive without a data.pkl"):
        initial_text_encoder("clip", tmp_path)


def test_a_folder_without_weights_is_explained(tmp_path):
    with pytest.raises(UserError, match=r"no weights of the text encoder clip.*model.safetensors or pytorch"):
        initial_text_encoder("clip", tmp_path)


def test_an_unknown_kind_is_named(tmp_path):
    with pytest.raises(UserError, match='no text encoder "clop".* Did you mean "clip"'):
        initial_text_encoder("clop", tmp_path)


def test_the_text_encoders_are_no_architecture():
    assert not {"text_encoders", "safetensors"} & set(architectures())
    with pytest.raises(UserError, match='no import of official checkpoints .* "text_encoders"'):
        load("text_encoders", {})
