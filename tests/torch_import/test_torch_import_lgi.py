"""Official LGI checkpoints, against a PyTorch twin written from the paper, with random weights."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.text.vectors import load_word_vectors
from vmr_jax.torch_import import load, load_model, read_checkpoint
from vmr_jax.torch_import.lgi import WORDS
from vmr_jax.torch_import.words import write_words
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
from references.lgi import Twin  # noqa: E402

B, T, L, D, W, F, A = 3, 9, 5, 7, 6, 8, 4
VOCABULARY = ["<PAD>", "<UNK>", "<S>", "<E>", "box", "cup", "door", "holds", "opens", "person"]
FIELDS = dict(features=F, attention_features=A, local_kernel=3)
SETTINGS = {
    "phrases": dict(num_phrases=2, global_layers=3, heads=2, activation="relu", self_overlap=0.3, max_clips=12),
    "padded": dict(
        num_phrases=2,
        global_layers=1,
        heads=2,
        activation="sigmoid",
        official_padding=True,
        max_clips=T,
        self_overlap=0.3,
    ),
    "one phrase": dict(num_phrases=1, global_layers=1, heads=1, activation="sigmoid", max_clips=12),
}


def make_twin(setting):
    torch.manual_seed(0)
    fields = {name: x for name, x in SETTINGS[setting].items() if name != "official_padding"}
    return Twin(D, W, len(VOCABULARY), **FIELDS, **fields)


def make_batch(table, padded=False):
    """Three sentences, one with an unknown word; `table` holds the vectors, which the unknown word lacks.

    Where videos are padded, one moment ends with its video.
    """
    rng = np.random.default_rng(0)
    query_mask = np.arange(L) < np.array([5, 2, 4])[:, None]
    video_mask = np.arange(T) < np.array([[T], [T - 2], [T - 4]] if padded else [[T]] * B)
    query = rng.integers(4, len(VOCABULARY), (B, L))
    query[0, 2] = VOCABULARY.index("<UNK>")
    vectors = np.where((query >= 4)[..., None], table[query], 0)
    return Batch(
        video=(rng.normal(size=(B, T, D)) * video_mask[..., None]).astype(np.float32),
        video_mask=video_mask,
        duration=np.float32([30, 12, 60]),
        query=(query * query_mask).astype(np.int32),
        query_vectors=(vectors * query_mask[..., None]).astype(np.float32),
        query_mask=query_mask,
        span=np.float32([[3, 9], [2, 12], [41, 47]]),
        example_mask=np.ones(B, bool),
        example_index=np.arange(B, dtype=np.int32),
        video_index=np.arange(B, dtype=np.int32),
    )


@pytest.fixture(scope="module", params=SETTINGS)
def pair(request):
    twin = make_twin(request.param)
    with torch.no_grad():
        twin.ta_reg_fn.MLP_reg[2].bias += 0.5  # otherwise the ReLU has no gradient
    return (
        twin,
        create("lgi", dropout=0.0, **FIELDS, **SETTINGS[request.param]),
        make_batch(twin.query_enc.embedding.weight.detach().numpy(), request.param == "padded"),
    )


def test_outputs_losses_and_gradients_are_the_twins(pair):
    twin, created, batch = pair
    given = {
        name: getattr(created, name)
        for name in ("heads", "activation", "self_overlap", "dropout", "official_padding")
    }
    sizes, model, variables = load_model("lgi", twin.checkpoint(), **given)
    assert model == created  # with all sizes
    assert not {"heads", "activation"} & (sizes.keys() - given.keys())

    @jax.jit
    def evaluate(variables):
        return model.apply(variables, batch, train=False)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def train(params):
        outputs, updated = model.apply(
            {**variables, "params": params}, batch, train=True, mutable=["batch_stats"]
        )
        losses = {k: term.value() for k, term in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}
        return sum(losses.values()), (losses, updated["batch_stats"])

    def close(ours, theirs):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)

    outputs = evaluate(variables)
    twin.eval()
    with torch.no_grad():
        for name, expected in twin(batch).items():
            assert expected is None or close(getattr(outputs, name), expected.numpy()) is None

    gradients, (losses, batch_stats) = train(variables["params"])
    twin.train()
    expected = twin.loss(twin(batch), batch)
    sum(expected.values()).backward()
    close(np.array([losses[k] for k in expected]), [x.item() for x in expected.values()])
    after = load("lgi", twin.checkpoint())
    jax.tree.map(close, batch_stats, after["batch_stats"])
    for parameter in twin.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    expected = load("lgi", twin.checkpoint())["params"]
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(expected["fusion_0"]))
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, atol=1e-5, rtol=1e-4), gradients, expected)


def test_every_parameter_is_set(pair):
    twin, model, batch = pair
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch)
    loaded = load("lgi", twin.checkpoint())
    assert jax.tree.map(np.shape, loaded) == jax.tree.map(lambda x: x.shape, shapes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An official checkpoint and its vocabulary."""
    twin, folder = make_twin("phrases"), tmp_path_factory.mktemp("official")
    torch.save(twin.checkpoint(), folder / "model.pkl")
    ids = {word: i for i, word in enumerate(VOCABULARY)}
    (folder / "info.json").write_text(json.dumps({"wtoi": ids, "query_lengths": {"0": 3}}))
    return twin, folder


def test_a_file_holds_a_state_dict_per_module(saved):
    twin, folder = saved
    read = load("lgi", read_checkpoint(folder / "model.pkl"))
    flat = {f"{part}.{key}": x for part, state in twin.checkpoint().items() for key, x in state.items()}
    assert "sqan.guide_emb_fn.0.weight" in flat
    parallel = {
        part: {f"module.{key}": x for key, x in state.items()} for part, state in twin.checkpoint().items()
    }
    for other in (flat, parallel, {"state_dict": parallel}, {f"module.{key}": x for key, x in flat.items()}):
        jax.tree.map(np.testing.assert_array_equal, load("lgi", other), read)
    with pytest.raises(UserError, match="not a dictionary of tensors: sqan.epoch"):
        load("lgi", {**twin.checkpoint(), "sqan": {"epoch": 3}})


def test_what_does_not_fit_is_named(saved):
    state = saved[0].checkpoint()
    state["sqan"] = {**state["sqan"], "att_fn.to_alpha.weight": torch.zeros(2, A)}
    with pytest.raises(UserError, match=r"1 of another shape: sqan.att_fn.to_alpha.weight is \(2, 4\)"):
        load("lgi", state)


def test_word_vectors_of_a_checkpoint_become_a_file(saved, tmp_path, capsys):
    twin, folder = saved
    write_words(WORDS, [str(folder / "model.pkl"), str(folder / "info.json"), str(tmp_path / "words.npz")])
    assert "6 words and their vectors of 6 numbers" in capsys.readouterr().out
    vectors = load_word_vectors(tmp_path / "words.npz")
    table = twin.query_enc.embedding.weight.detach().numpy()
    np.testing.assert_array_equal(
        vectors.lookup(["door", "person", "<UNK>"]), [table[6], table[9], np.zeros(W)]
    )
    unknown = load("lgi", twin.checkpoint())["params"]["words"]["unknown"]
    np.testing.assert_array_equal(unknown, table[1:2])


def test_files_that_do_not_belong_together_are_refused(saved, tmp_path):
    folder = saved[1]

    def fails(vocabulary, message, checkpoint=folder / "model.pkl"):
        (tmp_path / "info.json").write_text(json.dumps(vocabulary))
        with pytest.raises(UserError, match=message):
            write_words(WORDS, [str(checkpoint), str(tmp_path / "info.json"), str(tmp_path / "words.npz")])
        assert not (tmp_path / "words.npz").exists()

    ids = {word: i for i, word in enumerate(VOCABULARY)}
    fails({"wtoi": {**ids, "zebra": 10}}, "vectors of 10 words and .* has 11")
    fails({"wtoi": {**ids, "cup": 4}}, "no vocabulary of LGI")
    fails({"itow": {}}, "no vocabulary of LGI")
    torch.save({"video_enc": {"weight": torch.zeros(1)}}, tmp_path / "other.pkl")
    fails({"wtoi": ids}, "has no query_enc.embedding.weight", tmp_path / "other.pkl")
    with pytest.raises(UserError, match="There is no vocabulary"):
        write_words(
            WORDS, [str(folder / "model.pkl"), str(tmp_path / "absent.json"), str(tmp_path / "words.npz")]
        )
    with pytest.raises(UserError, match="Use: python -m"):
        write_words(WORDS, [])
