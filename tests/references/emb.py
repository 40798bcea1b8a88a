"""EMB in PyTorch (Huang et al., ECCV 2022), with the official names and the official padding."""

import torch
from torch import nn
from torch.nn import functional as F

from references import Named
from references.vslnet import Conv1D, best_clips, masked
from vmr_jax.torch_import import load


def heads_of(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """A layer of attention, guided or not; `pairs` [B,T,Z] says which keys a step sees."""

    def __init__(self, features, heads, kernel=None):
        super().__init__()
        self.heads = heads
        self.attention = Named(**{name: Conv1D(features, features) for name in ("query", "key", "value")})
        self.dense = nn.Sequential(Conv1D(features, features), nn.ReLU(), Conv1D(features, features))
        self.norm1, self.norm2 = nn.LayerNorm(features, 1e-6), nn.LayerNorm(features, 1e-6)
        if kernel:
            depthwise = nn.Conv2d(
                features, features, (kernel, 3), groups=features, padding=(kernel // 2, 0), bias=False
            )
            self.guide = Named(
                conv_layers=nn.Sequential(depthwise, nn.Conv2d(features, features, 1)),
                layer_norm=nn.LayerNorm(features, 1e-6),
            )

    def forward(self, x, pairs, source=None, guides=None):
        queries = x
        if guides is not None:
            stacked = torch.stack([*guides, x], -1).transpose(1, 2)
            queries = self.guide.layer_norm(self.guide.conv_layers(stacked)[..., 0].mT).relu()
        keys = queries if source is None else source
        parts = ((self.attention.query, queries), (self.attention.key, keys), (self.attention.value, keys))
        q, k, v = (heads_of(part(y), self.heads) for part, y in parts)
        logits = q @ k.mT / q.shape[-1] ** 0.5 + (1 - pairs[:, None].float()) * -1e30
        x = self.norm1(x + (logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return self.norm2(x + self.dense(x))


class Twin(nn.Module):
    """EMB with one layer in each stack.

    Args:
      inputs: D.
      words: W.
      features: F; every other field is as in `vmr_jax.models.emb.Model`.
    """

    def __init__(self, inputs, words, *, features, heads, block, guide_kernel=7, ranker_kernel=3):
        super().__init__()
        self.block = block
        f, k = features, ranker_kernel
        self.embedding_net = Named(
            word_emb=Named(
                pad_vec=nn.Parameter(torch.zeros(1, words), requires_grad=False),
                unk_vec=nn.Parameter(torch.randn(1, words)),
                glove_vec=nn.Parameter(torch.randn(20, words), requires_grad=False),
            ),
            char_emb=Named(char_emb=nn.Embedding(4, 3)),
            linear=Conv1D(words, f),
        )
        self.video_affine = Named(linear=Conv1D(inputs, f))
        self.position = nn.Module()
        self.position.register_buffer("pe", table(32, f))
        kernels = dict(f2f=guide_kernel, p2p=1, w2w=0, f2w=guide_kernel, p2w=1, w2f=0, w2p=0)
        kernels |= dict(v2v=guide_kernel, pq2q=0, vq2q=0, s2s=1)
        self.encoder = Named(
            **{
                name: Named(layers=nn.ModuleList([Attention(f, heads, kernel)]))
                for name, kernel in kernels.items()
            }
        )
        for name in ("fuser1", "fuser2"):
            attention = Named(w4C=drawn(f, 1), w4Q=drawn(f, 1), w4mlu=drawn(1, 1, f))
            attention.cqa_linear = Conv1D(4 * f, f)
            pool = Named(weighted_pool=Named(weight=drawn(f, 1)), conv1d=Conv1D(2 * f, f))
            setattr(self, name, Named(cq_attention=attention, cq_concat=pool))
        self.highlight_layer = Named(conv1d=Conv1D(f, 1))
        self.predictor = nn.Module()
        for end in ("start", "end"):
            rnn = nn.LSTM(f, f, batch_first=True, bidirectional=True)
            setattr(self.predictor, f"{end}_encoder", Named(rnn=rnn, dense_output=Conv1D(2 * f, f)))
            block = nn.Sequential(Conv1D(2 * f, f), nn.ReLU(), Conv1D(f, 1))
            setattr(self.predictor, f"{end}_block", block)
        self.ranker = Named(
            encoders=nn.ModuleList([nn.Conv2d(f, f, k, padding=k // 2)]), predictor=nn.Conv2d(f, 1, 1)
        )

    def forward(self, batch):
        """Logits 'start', 'end', 'highlight' [B,T], and 'proposal' [B,N,N] of blocks."""
        mask, q_mask = torch.as_tensor(batch.video_mask), torch.as_tensor(batch.query_mask)
        words = torch.as_tensor(batch.query_vectors)
        absent = (words == 0).all(-1) & q_mask
        words = torch.where(absent[..., None], self.embedding_net.word_emb.unk_vec, words)
        q = self.embedding_net.linear(words) + self.position.pe[: words.shape[1]]
        video = torch.as_tensor(batch.video)
        v = self.video_affine.linear(video) + self.position.pe[: video.shape[1]]
        v, v_words, p, p_words, real = self._encode(v, q, mask, q_mask)
        v = self._fuse(self.fuser1, v, v_words, mask, q_mask)
        highlight = masked(self.highlight_layer.conv1d(v)[..., 0], mask)
        v = v * highlight.sigmoid()[..., None]
        start = self._read("start", v, mask)
        end = self._read("end", start, mask)
        logits = {
            name: masked(block(torch.cat([x, v], -1))[..., 0], mask)
            for name, block, x in (
                ("start", self.predictor.start_block, start),
                ("end", self.predictor.end_block, end),
            )
        }
        p = self._fuse(self.fuser2, p, p_words, real, q_mask)
        return {**logits, "highlight": highlight, "proposal": self._rank(p, real)}

    def _encode(self, v, q, mask, q_mask):
        e, pairs = self.encoder, lambda a, b: a[:, :, None] & b[:, None]

        def attend(name, x, x_mask, source=None, s_mask=None, guides=None):
            seen = x_mask[:, None].expand(-1, x.shape[1], -1) if source is None else pairs(x_mask, s_mask)
            return getattr(e, name).layers[0](x, seen, source, guides)

        def frames(name, x, *source):
            return attend(name, x * mask[..., None], mask, *source, guides=around(x, mask))

        def proposals(name, x, guide, *source):
            x = x * real[..., None]
            blocks = pooled(guide, self.block)
            n = blocks.shape[1]
            ends = blocks.repeat_interleave(n, 1), blocks.repeat(1, n, 1)
            ends = [end * real[..., None] for end in ends]
            return attend(name, x, real, *source, guides=ends)

        blocks = pooled(v + (1 - mask[..., None].float()) * -1e30, self.block)
        n = blocks.shape[1]
        whole = F.pad(mask, (0, n * self.block - mask.shape[1])).unflatten(1, (n, -1)).any(-1)
        cells = torch.zeros(len(v), n, n, v.shape[-1])
        for i in range(n):
            for j in range(i, n):
                cells[:, i, j] = blocks[:, i : j + 1].amax(1)
        real = (torch.ones(n, n, dtype=torch.bool).triu() & whole[:, None]).flatten(1)
        p = torch.where(real[..., None], cells.flatten(1, 2), 0)
        p, v, q = proposals("p2p", p, v), frames("f2f", v), attend("w2w", q, q_mask)
        p, p_words = proposals("p2w", p, v, q, q_mask), attend("w2p", q, q_mask, p, real)
        v, v_words = frames("f2w", v, q, q_mask), attend("w2f", q, q_mask, v, mask)
        p, p_words = proposals("s2s", p, v), attend("pq2q", p_words, q_mask)
        return frames("v2v", v), attend("vq2q", v_words, q_mask), p, p_words, real

    def _fuse(self, part, x, q, mask, q_mask):
        a, c = part.cq_attention, part.cq_concat
        similarity = x @ a.w4C + (q @ a.w4Q).mT + (x * a.w4mlu) @ q.mT
        rows = masked(similarity, q_mask[:, None]).softmax(2)
        columns = masked(similarity, mask[:, :, None]).softmax(1)
        attended, back = rows @ q, rows @ columns.mT @ x
        x = a.cqa_linear(torch.cat([x, attended, x * attended, x * back], -1))
        alpha = masked(q @ c.weighted_pool.weight, q_mask[..., None]).softmax(1)
        pool = (alpha * q).sum(1, keepdim=True).expand(-1, x.shape[1], -1)
        return c.conv1d(torch.cat([x, pool], -1)).relu()

    def _read(self, end, x, mask):
        part = getattr(self.predictor, f"{end}_encoder")
        lengths = mask.sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        states = nn.utils.rnn.pad_packed_sequence(
            part.rnn(packed)[0], batch_first=True, total_length=x.shape[1]
        )
        return part.dense_output(states[0])

    def _rank(self, p, real):
        n = round(real.shape[1] ** 0.5)
        valid = real.float().unflatten(1, (n, n))[:, None]
        conv = self.ranker.encoders[0]
        count = F.conv2d(valid, torch.ones(1, 1, *conv.kernel_size), padding=conv.padding)
        x = conv(p.mT.unflatten(2, (n, n)) * valid).relu() / count.clamp(min=1)
        return masked(self.ranker.predictor(x)[:, 0], valid[:, 0] > 0)

    def loss(self, outputs, batch, needed=1.0):
        """The weighted terms of the objective, for the IoU that a second opinion needs."""
        mask, span = torch.as_tensor(batch.video_mask), torch.as_tensor(batch.span)
        first, last = best_clips(span, torch.as_tensor(batch.duration), mask)
        logits = outputs["proposal"]
        n = logits.shape[1]
        begin = (torch.arange(n) * self.block)[None, :, None].expand_as(logits)
        end = torch.minimum(((torch.arange(n) + 1) * self.block)[None, None], mask.sum(1)[:, None, None])
        end = end.expand_as(logits)
        one, two = first[:, None, None], last[:, None, None] + 1
        shared = (torch.minimum(end, two) - torch.maximum(begin, one)).clamp(min=0)
        overlap = shared / (torch.maximum(end, two) - torch.minimum(begin, one)).clamp(min=1)
        real = logits > -1e29
        enough = ((overlap >= needed) & real).flatten(1)
        best = torch.where(enough, logits.flatten(1), -torch.inf).argmax(1, keepdim=True)
        found = enough.any(1)
        start = torch.where(found, begin.flatten(1).gather(1, best)[:, 0], first)
        stop = torch.where(found, end.flatten(1).gather(1, best)[:, 0], last + 1)
        clip = torch.arange(mask.shape[1])

        def elastic(x, a, b):
            low, high = torch.minimum(a, b)[:, None], torch.maximum(a, b)[:, None]
            inside = (clip >= low) & (clip <= high)
            return -(x.softmax(1) * inside).sum(1).log().mean()

        left, right = torch.minimum(first, start), torch.minimum(last, stop)
        extra = torch.round(0.1 * (right - left + 1))
        inside = ((clip >= (left - extra)[:, None]) & (clip <= (right + extra)[:, None])).float()[mask]
        errors = F.binary_cross_entropy_with_logits(outputs["highlight"][mask], inside, weight=1 + inside)
        target = ((overlap - 0.3) / 0.4).clamp(0, 1)
        return {
            "start": elastic(outputs["start"], first, start),
            "end": elastic(outputs["end"], last, stop),
            "highlight": 5 * errors,
            "ranking": F.binary_cross_entropy_with_logits(logits[real], target[real]),
        }


def around(x, mask):
    """The maxima over the real frames before and after each; zero where is none."""
    place = torch.arange(x.shape[1])
    real = mask[:, :, None] & mask[:, None]
    found = []
    for side in (place[:, None] > place, place[:, None] < place):
        seen = (side & real)[..., None]
        found.append(torch.where(seen.any(2), masked(x[:, None], seen).amax(2), 0))
    return found


def pooled(x, block):
    """Maxima of blocks of frames; the last one is filled with nearly zero."""
    return F.max_pool1d(F.pad(x.mT, (0, -x.shape[1] % block), value=-1e-30), block).mT


def table(length, features):
    angle = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, features, 2) / features)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


def drawn(*shape):
    return nn.Parameter(torch.randn(shape))


def build(config):
    """The twin of a config."""
    names = ("features", "heads", "block", "guide_kernel", "ranker_kernel")
    return Twin(config.dataset.feature_dim, config.text.dim, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("emb", twin.state_dict())
