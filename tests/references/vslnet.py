"""VSLNet in PyTorch (Zhang et al., ACL 2020), with the official names and the official padding."""

import torch
from torch import nn
from torch.nn import functional as F

from references import Named
from vmr_jax.torch_import import load


class Conv1D(nn.Module):
    """A linear layer under the official name."""

    def __init__(self, inputs, features):
        super().__init__()
        self.conv1d = nn.Conv1d(inputs, features, 1)

    def forward(self, x):
        return self.conv1d(x.mT).mT


class Encoder(nn.Module):
    """Positions, convolutions, one block of self-attention."""

    def __init__(self, features, heads, positions, dropout, layers, kernel):
        super().__init__()
        self.heads, self.drop = heads, nn.Dropout(dropout)
        self.pos_embedding = Named(position_embeddings=nn.Embedding(positions, features))
        convs = [
            nn.Sequential(
                nn.Conv1d(features, features, kernel, padding=kernel // 2, groups=features, bias=False),
                nn.Conv1d(features, features, 1),
            )
            for _ in range(layers)
        ]
        self.conv_block = Named(
            depthwise_separable_conv=nn.ModuleList(convs),
            layer_norms=nn.ModuleList([nn.LayerNorm(features, 1e-6) for _ in convs]),
        )
        names = ("query", "key", "value", "out_layer")
        self.attention_block = Named(
            **{name: Conv1D(features, features) for name in names},
            layer_norm1=nn.LayerNorm(features, 1e-6),
            layer_norm2=nn.LayerNorm(features, 1e-6),
        )

    def forward(self, x, mask):
        x = x + self.pos_embedding.position_embeddings.weight[: x.shape[1]]
        for conv, norm in zip(
            self.conv_block.depthwise_separable_conv, self.conv_block.layer_norms, strict=True
        ):
            x = x + self.drop(conv(norm(x).mT).relu().mT)
        block = self.attention_block
        y = self.drop(block.layer_norm1(x))
        q, k, v = (
            part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (block.query, block.key, block.value)
        )
        dropout = self.drop.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, mask[:, None, None], dropout_p=dropout)
        x = x + self.drop(attended.transpose(1, 2).flatten(2))
        return x + self.drop(block.out_layer(self.drop(block.layer_norm2(x))))


class Twin(nn.Module):
    """VSLNet.

    Args:
      inputs: D.
      words: W.
      features: F; every other field is as in `vmr_jax.models.vslnet.Model`.
    """

    def __init__(
        self, inputs, words, *, features, heads, predictor, max_positions, char_features, num_chars,
        conv_layers=4, conv_kernel=7, dropout=0.0, highlight_weight=5.0, extension=0.1,
    ):  # fmt: skip
        super().__init__()
        self.drop, self.kind = nn.Dropout(dropout), predictor
        self.highlight_weight, self.extension = highlight_weight, extension
        convs = [nn.Sequential(nn.Conv2d(char_features, 10 * k, (1, k)), nn.ReLU()) for k in (1, 2, 3, 4)]
        self.embedding_net = Named(
            word_emb=Named(
                pad_vec=nn.Parameter(torch.zeros(1, words), requires_grad=False),
                unk_vec=nn.Parameter(torch.randn(1, words)),
                glove_vec=nn.Parameter(torch.randn(20, words), requires_grad=False),
            ),
            char_emb=Named(char_emb=nn.Embedding(num_chars, char_features), char_convs=nn.ModuleList(convs)),
            linear=Conv1D(words + 100, features),
        )
        self.video_affine = Named(linear=Conv1D(inputs, features))
        encoder = features, heads, max_positions, dropout, conv_layers, conv_kernel
        self.feature_encoder = Encoder(*encoder)
        self.cq_attention = Named(
            w4C=_glorot(features, 1),
            w4Q=_glorot(features, 1),
            w4mlu=_glorot(1, 1, features),
            cqa_linear=Conv1D(4 * features, features),
        )
        self.cq_concat = Named(
            weighted_pool=Named(weight=_glorot(features, 1)), conv1d=Conv1D(2 * features, features)
        )
        self.highlight_layer = Named(conv1d=Conv1D(features, 1))
        blocks = {
            f"{end}_block": nn.Sequential(Conv1D(2 * features, features), nn.ReLU(), Conv1D(features, 1))
            for end in ("start", "end")
        }
        if predictor == "rnn":
            for end in ("start", "end"):
                blocks[f"{end}_encoder"] = Named(lstm=nn.LSTM(features, features, batch_first=True))
        else:
            blocks["encoder"] = Encoder(*encoder)
            for end in ("start", "end"):
                blocks[f"{end}_layer_norm"] = nn.LayerNorm(features, 1e-6)
        self.predictor = Named(**blocks)

    def forward(self, batch):
        """Logits [B,T]: 'start', 'end', 'highlight'."""
        net = self.embedding_net
        words = torch.as_tensor(batch.query_vectors)
        absent = (words == 0).all(-1) & torch.as_tensor(batch.query_mask)
        words = torch.where(absent[..., None], net.word_emb.unk_vec, words)
        ids = torch.as_tensor(batch.query_chars)
        chars = net.char_emb.char_emb.weight[ids] * (ids > 0)[..., None]
        chars = self.drop(chars).permute(0, 3, 1, 2)
        chars = torch.cat([conv(chars).amax(3) for conv in net.char_emb.char_convs], 1).mT
        video_mask, query_mask = torch.as_tensor(batch.video_mask), torch.as_tensor(batch.query_mask)
        query = self.feature_encoder(net.linear(torch.cat([self.drop(words), chars], -1)), query_mask)
        video = self.video_affine.linear(self.drop(torch.as_tensor(batch.video)))
        video = self.feature_encoder(video, video_mask)
        fused = self._concat(self._attention(video, query, video_mask, query_mask), query, query_mask)
        highlight = masked(self.highlight_layer.conv1d(fused), video_mask[..., None])
        fused = fused * highlight.sigmoid()
        start, end = self._states(fused, video_mask)
        p = self.predictor
        logits = [
            masked(block(torch.cat([state, fused], -1))[..., 0], video_mask)
            for block, state in ((p.start_block, start), (p.end_block, end))
        ]
        return {"start": logits[0], "end": logits[1], "highlight": highlight[..., 0]}

    def _attention(self, video, query, video_mask, query_mask):
        cq, v, q = self.cq_attention, self.drop(video), self.drop(query)
        similarity = v @ cq.w4C + (q @ cq.w4Q).mT + (v * cq.w4mlu) @ q.mT
        rows = masked(similarity, query_mask[:, None]).softmax(2)
        columns = masked(similarity, video_mask[:, :, None]).softmax(1)
        attended, back = rows @ query, rows @ columns.mT @ video
        return cq.cqa_linear(torch.cat([video, attended, video * attended, video * back], -1))

    def _concat(self, clips, query, query_mask):
        alpha = masked(query @ self.cq_concat.weighted_pool.weight, query_mask[..., None]).softmax(1)
        pooled = (alpha * query).sum(1, keepdim=True).expand(-1, clips.shape[1], -1)
        return self.cq_concat.conv1d(torch.cat([clips, pooled], -1))

    def _states(self, fused, mask):
        p = self.predictor
        if self.kind == "rnn":
            start = p.start_encoder.lstm(fused)[0]
            return start, p.end_encoder.lstm(start)[0]
        start = p.encoder(fused, mask)
        return p.start_layer_norm(start), p.end_layer_norm(p.encoder(start, mask))

    def loss(self, outputs, batch):
        """'start' and 'end': cross-entropy of the clip; 'highlight': twice as heavy inside the moment."""
        mask = torch.as_tensor(batch.video_mask)
        first, last = best_clips(torch.as_tensor(batch.span), torch.as_tensor(batch.duration), mask)
        extra = torch.round(self.extension * (last - first + 1))
        clip = torch.arange(mask.shape[1])
        inside = ((clip >= (first - extra)[:, None]) & (clip <= (last + extra)[:, None])).float()
        inside = inside * mask
        errors = F.binary_cross_entropy_with_logits(
            outputs["highlight"][mask], inside[mask], weight=1 + inside[mask]
        )
        return {
            "start": F.cross_entropy(outputs["start"], first),
            "end": F.cross_entropy(outputs["end"], last),
            "highlight": self.highlight_weight * errors,
        }


def masked(logits, mask):
    """Logits, -1e30 where the mask is False."""
    return logits.masked_fill(~mask, -1e30)


def best_clips(span, duration, mask):
    """First and last clip [B] of the pair with the highest IoU, of the clips of mask [B,T]."""
    clips = mask.shape[1]
    seconds = (duration / mask.sum(1))[:, None]
    start = torch.arange(clips) * seconds
    start, end = start[:, :, None], (start + seconds)[:, None]
    gold_start, gold_end = span[:, :, None, None].unbind(1)
    shared = (torch.minimum(end, gold_end) - torch.maximum(start, gold_start)).clamp(min=0)
    overlap = shared / ((end - start) + (gold_end - gold_start) - shared)
    overlap = torch.where(torch.ones(clips, clips, dtype=torch.bool).triu() & mask[:, None], overlap, -1)
    best = overlap.flatten(1).argmax(1)
    return best // clips, best % clips


def _glorot(*shape):
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape)))


def build(config):
    """The twin of a config."""
    names = (
        "features", "heads", "predictor", "char_features", "num_chars", "dropout", "highlight_weight",
        "extension",
    )  # fmt: skip
    sizes = config.dataset.feature_dim, config.text.dim
    return Twin(*sizes, max_positions=128, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("vslnet", twin.state_dict())
