"""An index of every dual encoder finds what its own encodings say, in a folder and in Milvus."""

import cases
import jax
import numpy as np
import pytest
from batches import random_batch

from vmr_jax import models
from vmr_jax.errors import UserError
from vmr_jax.models import DualEncoder
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.index import MomentIndex, query_encoder
from vmr_jax.training.experiment import initial_variables

NAMES = [name for name in models.architectures() if issubclass(models.model_class(name), DualEncoder)]
IDS = [f"v{i}" for i in range(6)]  # rows 6 and 7 only fill the batch


def test_all_dual_encoders_are_tested():
    assert {"fvmr", "mcn", "mmn", "vdi", "xml"} <= set(NAMES)


@pytest.fixture
def lite(tmp_path):
    yield str(tmp_path / "lite.db")
    from milvus_lite import server_manager_instance

    server_manager_instance.release_all()


@pytest.mark.parametrize("name", NAMES)
def test_search_is_the_dot_product_of_the_encodings(name, tmp_path, lite):
    """Video i comes in row i, and the sentence "i" is query i."""
    model = models.create(name, **cases.ALL[name].SMALL)
    batch = random_batch()
    variables = initial_variables(model, batch, 0)
    parallel = Parallel("pmap", 2)

    def batch_of(sentences):
        rows = [int(sentence) for sentence in sentences]
        return jax.tree.map(lambda x: x[rows], batch)

    encode = query_encoder(model, variables, batch_of, parallel, size=4)
    vectors, spans, mask = jax.jit(lambda v, b: model.apply(v, b, method="encode_moments"))(variables, batch)
    queries = jax.jit(lambda v, b: model.apply(v, b, method="encode_query"))(variables, batch)
    scores = np.einsum("qd,vnd->qvn", queries, vectors)
    sentences = [str(i) for i in range(6)]
    for place in ({"path": tmp_path / "folder"}, {"uri": lite}):
        index = MomentIndex.build(
            model, variables, [(IDS, batch)], **place, encode=encode, parallel=parallel, nms_threshold=1.0
        )
        assert len(index) == mask[:6].sum() and sorted(index.store.videos) == IDS
        everything = index.search(sentences, k=len(index))
        for q, found in enumerate(everything):
            expected = -np.sort(-scores[q, :6][mask[:6]])
            np.testing.assert_allclose([moment.score for moment in found], expected, rtol=1e-4, atol=1e-4)
        for q, v in ((0, 0), (1, 4), (5, 2)):
            (found,) = index.search([sentences[q]], k=1000, video=IDS[v])
            assert len(found) == mask[v].sum() and {moment.video for moment in found} == {IDS[v]}
            at: dict[tuple, list] = {}  # two windows can end where the video ends
            for span, score in zip(spans[v].tolist(), scores[q, v].tolist()):
                at.setdefault(tuple(span), []).append(pytest.approx(score, rel=1e-4, abs=1e-4))
            for moment in found:
                assert moment.score in at[moment.start, moment.end]


@pytest.mark.parametrize("name", ["fvmr", "mcn"])
def test_in_its_own_video_a_query_finds_what_the_model_predicts(name, tmp_path):
    """These two rank by the dot product itself; the tests of the others say how theirs relates to it."""
    fields = dict(cases.ALL[name].SMALL)
    fields.pop("score", None)  # FVMR's own; the contract has both of its scores
    model = models.create(name, **fields)
    batch = random_batch()
    variables = jax.tree.map(lambda p: 4 * p, initial_variables(model, batch, 0))  # scores far apart
    predicted = jax.jit(lambda v, b: model.predict(model.apply(v, b, train=False), b))(variables, batch)
    parallel = Parallel("pmap", 1)
    encode = query_encoder(
        model,
        variables,
        lambda sentences: jax.tree.map(lambda x: x[[int(s) for s in sentences]], batch),
        parallel,
        1,
    )
    index = MomentIndex.build(
        model,
        variables,
        [(IDS, batch)],
        path=tmp_path / "i",
        encode=encode,
        parallel=parallel,
        nms_threshold=1.0,
    )
    for v in range(6):
        real = np.isfinite(predicted.scores[v])
        (found,) = index.search([str(v)], k=int(real.sum()), video=IDS[v])
        order = np.array([[moment.start, moment.end] for moment in found])
        gaps = -np.diff(predicted.scores[v][real])
        clear = np.append(gaps, 1) > 1e-4  # neither a tie with the next
        clear &= np.append(1, gaps) > 1e-4  # nor with the one before
        assert clear.sum() > 5
        np.testing.assert_allclose(order[clear], predicted.spans[v][real][clear], atol=1e-4)


def test_nothing_to_index(tmp_path):
    model = models.create("fvmr", **cases.ALL["fvmr"].SMALL)
    with pytest.raises(UserError, match="no video to index"):
        MomentIndex.build(model, {}, [], path=tmp_path / "i", encode=None, parallel=Parallel("pmap", 1))
