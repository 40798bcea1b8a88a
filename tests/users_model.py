"""A model as a user writes one, in a file of their own: quarters of the video beside the mean word vector."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

import vmr_jax as vmr
from vmr_jax.moments import iou, rank


@struct.dataclass
class Outputs:
    score: jax.Array  # [B,M]


class Mine(vmr.GroundingModel, vmr.DualEncoder):
    """Scores quarters of the video by a dot product with the sentence."""

    features: int = 16
    parts: int = 4
    dtype: jnp.dtype = jnp.float32
    vocab_size: int = 0

    def setup(self):
        self.video, self.text = nn.Dense(self.features), nn.Dense(self.features)

    def spans(self, batch):
        edges = jnp.linspace(0.0, 1.0, self.parts + 1)
        quarters = jnp.stack([edges[:-1], edges[1:]], -1)  # [M,2]
        return quarters[None] * batch.duration[:, None, None]

    def encode_moments(self, batch):
        b, t, d = batch.video.shape
        clips = batch.video.reshape(b, self.parts, t // self.parts, d).mean(2)
        real = jnp.broadcast_to(batch.example_mask[:, None], (b, self.parts))
        return self.video(clips), self.spans(batch), real

    def encode_query(self, batch):
        words = (batch.query_vectors * batch.query_mask[..., None]).sum(1)
        return self.text(words / batch.query_mask.sum(1)[:, None])

    def __call__(self, batch, *, train):
        moments, _, _ = self.encode_moments(batch)
        return Outputs(jnp.einsum("bmf,bf->bm", moments, self.encode_query(batch)))

    def loss(self, outputs, batch, *, epoch):
        target = iou(self.spans(batch), batch.span[:, None]).argmax(1)
        log_p = jnp.take_along_axis(nn.log_softmax(outputs.score), target[:, None], 1)[:, 0]
        return {"cross_entropy": vmr.Mean.of(-log_p, batch.example_mask)}

    def predict(self, outputs, batch):
        return rank(self.spans(batch), outputs.score, jnp.ones(outputs.score.shape, bool), self.parts)
