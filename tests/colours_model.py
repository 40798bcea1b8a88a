"""Models of which a test knows what they find: the clips whose colour a word names, in the encoder `pixels`."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

import vmr_jax as vmr
from vmr_jax.configs import common, datasets
from vmr_jax.moments import rank

# Colour of a whole frame -> its place among the 4 x 4 x 4 colours of `pixels`: red is level 3, 0 and 0.
WORDS = {"red": 3 * 16, "green": 3 * 4, "blue": 3}
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (85, 85, 85)}


@struct.dataclass
class Outputs:
    score: jax.Array  # [B,T]


class Joint(vmr.GroundingModel):
    """A moment is a pair of clips, its score the share of the colour that the words name; learns nothing."""

    dtype: jnp.dtype = jnp.float32
    vocab_size: int = 0

    def moments(self, batch):
        pairs = (batch.video[:, :-1, :64] + batch.video[:, 1:, :64]) / 2
        edges = jnp.arange(pairs.shape[1] + 2)[None] * (batch.duration[:, None] / batch.video.shape[1])
        return pairs, jnp.stack([edges[:, :-2], edges[:, 2:]], -1), batch.video_mask[:, 1:]

    def words(self, batch):
        return (batch.query_vectors * batch.query_mask[..., None]).sum(1)[:, :64]

    def __call__(self, batch, *, train):
        del train
        return Outputs(jnp.einsum("btd,bd->bt", self.moments(batch)[0], self.words(batch)))

    def loss(self, outputs, batch, *, epoch):
        del epoch
        return {"none": vmr.Mean.of(outputs.score[:, 0], batch.example_mask)}

    def predict(self, outputs, batch):
        _, spans, mask = self.moments(batch)
        return rank(spans, outputs.score, mask, spans.shape[1])


class Dual(Joint, vmr.DualEncoder):
    """The same as a dual encoder."""

    def encode_moments(self, batch):
        return self.moments(batch)

    def encode_query(self, batch):
        return self.words(batch)


def run_of(model, folder, clips=32):
    """A run of a model of this file, whose word vectors are written to a folder."""
    vectors = np.zeros((len(WORDS), 304), np.float32)
    vectors[range(len(WORDS)), list(WORDS.values())] = 1
    np.savez(folder / "words.npz", words=list(WORDS), vectors=vectors)
    config = common.base(type(model))
    datasets.manual_dataset(config, "jsonl", ("library", "pixels"))
    config.text.vectors, config.text.dim = str(folder / "words.npz"), 304
    config.input.num_clips = clips
    return vmr.Run(config.lock(), model, {"params": {}}, list(WORDS))


def coloured(*parts, size=(48, 64)):
    """Second -> pixels: of parts (colour, second at which it ends), each in its time."""

    def show(second):
        colour = next((colour for colour, end in parts if second < end - 1e-6), parts[-1][0])
        return np.full((*size, 3), COLOURS[colour], np.uint8)

    return show
