"""DRN in PyTorch (Zeng et al., CVPR 2020), with the official names; the video comes as rows, in segments."""

import torch
from torch import nn
from torch.nn import functional as F

from references import Named
from vmr_jax.torch_import import load


class Twin(nn.Module):
    """DRN.

    Args:
      inputs: D.
      words: W.
      vocabulary: number of words that have a vector; 0 takes the vectors of the batch.
      features: F; every other field is as in `vmr_jax.models.drn.Model`.
    """

    def __init__(
        self, inputs, words, vocabulary, *, features, first_features, query_features, position_features,
        segments, row_frames, window_frames, level_from, level_to, focal_alpha=0.25, focal_gamma=2.0,
        least_iou=0.9,
    ):  # fmt: skip
        super().__init__()
        self.vocabulary = vocabulary
        self.segments, self.row_frames, self.window_frames = segments, row_frames, window_frames
        self.level_from, self.level_to, self.least_iou = level_from, level_to, least_iou
        self.alpha, self.gamma = focal_alpha, focal_gamma
        f, first, both = features, first_features, 2 * query_features
        unused = {"W1": nn.Linear(1024, 1), "W2": nn.Linear(2048, 1024), "W3": nn.Linear(2048, 2048)}
        self.query_encoder = Named(
            embedding=nn.Embedding(vocabulary + 1, words, padding_idx=0),
            biLSTM=nn.LSTM(words, query_features, batch_first=True, bidirectional=True),
            textualAttention=Named(**unused),
            qInput=nn.Linear(2 * both, query_features),
            **{f"qInput{t}": nn.Linear(query_features, both) for t in range(3)},
            cmd_inter2logits=nn.Linear(both, 1),
        )
        self.prop_fc = nn.Linear(inputs, inputs)
        self.position_transform = nn.Linear(3, position_features)
        widths = (first, 2 * first, 4 * first)
        for t, gated in enumerate((inputs, *widths[:2])):
            setattr(self, f"qInput{t}", nn.Linear(both, gated))
        joined = (inputs + position_features, *widths[:2])
        self.backbone_net = Named(
            **{f"forward_conv{t}": block(joined[t], widths[t], 3, 1 if t == 0 else 2) for t in range(3)}
        )
        self.fpn = Named(
            **{f"fpn_inner{t + 1}": block(widths[t], f, 1) for t in range(3)},
            **{f"fpn_layer{t + 1}": block(f, f, 3) for t in range(3)},
        )
        self.fcos = Named(
            head=Named(
                cls_tower=block(f, f, 3, bias=True),
                bbox_tower=block(f, f, 3, bias=True),
                cls_logits=nn.Conv1d(f, 1, 3, padding=1),
                bbox_pred=nn.Conv1d(f, 2, 3, padding=1),
                centerness=nn.Conv1d(f, 1, 3, padding=1),
                mix_fc=block(2 * f, f, 1, bias=True),
                iou_scores=nn.Sequential(*block(f, f // 2, 3, bias=True), nn.Conv1d(f // 2, 1, 1)),
                scales=nn.ModuleList(Named(scale=nn.Parameter(torch.ones(1))) for _ in range(3)),
            )
        )

    def forward(self, batch):
        """'logits', 'iou' [B,M], 'distances' [B,M,2]; the ids of the words are ours, one above the official."""
        queries = self._queries(batch, torch.as_tensor(batch.query_mask).sum(1))
        parts = [self._segments(*pair) for pair in zip(batch.video, batch.video_mask.sum(1), strict=True)]
        video, position = (torch.stack(part) for part in zip(*parts, strict=True))
        x, position = self.prop_fc(video).mT, self.position_transform(position).mT
        levels = []
        for t, query in enumerate(queries):
            x = x * getattr(self, f"qInput{t}")(query)[..., None]
            if t == 0:
                x = torch.cat([x, position], 1)
            x = getattr(self.backbone_net, f"forward_conv{t}")(x)
            levels.append(x)
        pyramid, above = [None] * 3, 0
        for t in (2, 1, 0):
            above = getattr(self.fpn, f"fpn_inner{t + 1}")(levels[t]) + above
            pyramid[t] = getattr(self.fpn, f"fpn_layer{t + 1}")(above)
            above = above.repeat_interleave(2, -1)
        found = [self._head(t, x) for t, x in enumerate(pyramid)]
        return {name: torch.cat([level[name] for level in found], 1) for name in found[0]}

    def _queries(self, batch, lengths):
        e = self.query_encoder
        words = torch.as_tensor(batch.query_vectors)
        if self.vocabulary:
            ids = torch.as_tensor(batch.query)
            words = e.embedding(torch.where(ids > 1, ids - 1, 0))
        packed = nn.utils.rnn.pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
        states = nn.utils.rnn.pad_packed_sequence(
            e.biLSTM(packed)[0], batch_first=True, total_length=words.shape[1]
        )[0]
        last = states[torch.arange(len(states)), lengths - 1]
        hidden = e.qInput(torch.cat([states[:, 0], last], -1)).relu()
        outside = torch.arange(words.shape[1]) >= lengths[:, None]
        found = []
        for t in range(3):
            scores = e.cmd_inter2logits(getattr(e, f"qInput{t}")(hidden)[:, None] * states)[..., 0]
            weights = scores.masked_fill(outside, -1e30).softmax(-1)
            found.append((weights[..., None] * states).sum(1))
        return found

    def _segments(self, rows, count):
        """Segments [N,D] and positions [N,3] of one video of `count` rows."""
        frames = int((count - 1) * self.row_frames + self.window_frames)
        frames += min(self.row_frames // 2, self.window_frames - self.row_frames)
        borders = [1 + i * (frames - 1) // self.segments for i in range(self.segments)] + [frames]
        pooled, position = [], []
        for start, end in zip(borders, borders[1:]):
            own = range(start // self.row_frames * self.row_frames, end, self.row_frames)
            taken = [start] if end - start <= self.window_frames else own
            taken = [min(frame // self.row_frames, count - 1) for frame in taken]
            pooled.append(torch.as_tensor(rows[taken]).amax(0))
            position.append([start / frames, end / frames, (end - start) / frames])
        return torch.stack(pooled), torch.tensor(position)

    def _head(self, t, x):
        head = self.fcos.head
        inside, distance = head.cls_tower(x), head.bbox_tower(x)
        mixed = head.mix_fc(torch.cat([inside, distance], 1))
        return {
            "logits": head.cls_logits(inside)[:, 0],
            "distances": (head.scales[t].scale * head.bbox_pred(distance)).exp().mT,
            "iou": head.iou_scores(mixed)[:, 0],
        }

    def loss(self, outputs, batch):
        """The three terms of the third stage."""
        n = self.segments
        truth = torch.as_tensor(batch.span) / torch.as_tensor(batch.duration)[:, None]
        places = [(i + 0.5) * 2**level for level in range(3) for i in range(n >> level)]
        levels = [level for level in range(3) for _ in range(n >> level)]
        t = torch.tensor(places)
        targets = torch.stack([t - n * truth[:, :1], n * truth[:, 1:] - t], -1)
        longest = targets.amax(-1)
        low, high = (torch.tensor([x[level] for level in levels]) for x in (self.level_from, self.level_to))
        positive = (targets.amin(-1) > 0) & (longest >= low) & (longest <= high)
        p = outputs["logits"].sigmoid()
        hit, miss = (1 - p) ** self.gamma * p.log(), p**self.gamma * (1 - p).log()
        focal = -torch.where(positive, self.alpha * hit, (1 - self.alpha) * miss).sum()
        d, e = outputs["distances"], targets
        shared = torch.minimum(d, e).sum(-1)[positive]
        union = (d + e).sum(-1)[positive] - shared
        spans = torch.stack([t - d[..., 0], t + d[..., 1]], -1) / n
        spans = torch.cat([spans[:, :1].clamp(0, 1), spans[:, 1:]], 1)
        gold_start, gold_end = truth[:, None].unbind(-1)
        start, end = spans.unbind(-1)
        inner = (torch.minimum(end, gold_end) - torch.maximum(start, gold_start)).clamp(min=0)
        overlap = inner / (torch.maximum(end, gold_end) - torch.minimum(start, gold_start) + 1e-6)
        good = overlap > self.least_iou
        return {
            "classification": focal / (positive.sum() + len(truth)),
            "regression": -((shared + 1e-8) / (union + 1e-8)).log().mean(),
            "iou": F.smooth_l1_loss(outputs["iou"].sigmoid()[good], overlap[good], reduction="sum")
            / good.sum().clamp(min=1),
        }


def block(inputs, outputs, kernel, stride=1, bias=False):
    """A convolution, and a batch normalisation whose statistics are not the initial ones."""
    norm = nn.BatchNorm1d(outputs)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    conv = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)
    return nn.Sequential(conv, norm, nn.ReLU())


def build(config):
    """The twin of a config, with the vectors of the batch."""
    names = (
        "features", "first_features", "query_features", "position_features", "segments", "row_frames",
        "window_frames", "level_from", "level_to", "focal_alpha", "focal_gamma", "least_iou",
    )  # fmt: skip
    sizes = config.dataset.feature_dim, config.text.dim
    return Twin(*sizes, 0, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    found = load("drn", twin.state_dict())
    if not twin.vocabulary:
        del found["params"]["query"]["words"]  # of padding alone
    return found
