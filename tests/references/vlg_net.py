"""VLG-Net in PyTorch (Soldan et al., ICCV Workshops 2021), with the official names and neighbours."""

import torch
from torch import nn
from torch.nn import functional as F

from references import Named, tensors
from vmr_jax.layers.map2d import candidate_mask
from vmr_jax.torch_import import load


def bottleneck(inputs, features, groups, width, size=1, flat=True):
    """Three convolutions, the middle one in groups, over steps or over steps and neighbours."""
    hidden = groups * width
    conv = nn.Conv1d if flat else nn.Conv2d
    return nn.Sequential(
        conv(inputs, hidden, 1), nn.ReLU(), conv(hidden, hidden, size, groups=groups, padding=size // 2),
        nn.ReLU(), conv(hidden, features, 1),
    )  # fmt: skip


def places(length, features):
    """[length,features]"""
    angle = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, features, 2) / features)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


def neighbours(x, real, k):
    """Features [B,F,T,k] of the k nearest real nodes of x [B,F,T], as officially, and minus their distances."""
    apart = (x[:, :, :, None] - x[:, :, None]).square().sum(1)
    distance = torch.where(apart > 0, torch.where(apart > 0, apart, 1).sqrt(), 0)
    closeness, index = (-distance).masked_fill(~real[:, None], -1e10).topk(min(k, x.shape[2]), -1)
    mixed = x.reshape(x.mT.shape).mT  # features by nodes are read as nodes by features
    return torch.stack([row[:, i] for row, i in zip(mixed, index)]), closeness


class Twin(nn.Module):
    """VLG-Net without dropout, for batches without padded clips.

    Args:
      inputs: D, even.
      words: W.
      features: F; every other field is as in `vmr_jax.models.vlg_net.Model`.
    """

    def __init__(
        self, inputs, words, *, num_clips, scale_layers, window, places, features, query_features,
        context_layers, context_neighbours, context_groups, context_width, match_neighbours, match_groups,
        match_width, lstm_layers, syntax_layers, score_features, score_layers,
    ):  # fmt: skip
        super().__init__()
        f, e, self.num_clips, self.window = features, query_features, num_clips, window
        self.mask = torch.as_tensor(candidate_mask(num_clips, scale_layers))
        self.context_neighbours, self.match_neighbours = context_neighbours, match_neighbours
        self.pos_encoder = Places(inputs, num_clips) if places else nn.Identity()
        self.feat_pool = nn.Sequential(nn.Identity(), self.pos_encoder, nn.Conv1d(inputs, f, 3, padding=1))
        sizes = f, context_groups, context_width
        layer = Named(
            tconvs=bottleneck(f, *sizes, size=3),
            sconvs=bottleneck(2 * f, *sizes, flat=False),
        )
        self.context_aggregator = nn.ModuleList([layer] * context_layers)
        layer = Named(
            w_wc=nn.Sequential(
                nn.Linear(2 * e, e, bias=False), nn.Identity(), nn.ReLU(), nn.Linear(e, 1, bias=False)
            ),
            wd=nn.Sequential(nn.Linear(e, e, bias=False)),
        )
        self.language_encoder = Named(
            lstm=nn.LSTM(words, e, lstm_layers, batch_first=True),
            language_encoder=nn.ModuleList([layer] * syntax_layers),
            fc_query=nn.Sequential(nn.Linear(e, f), nn.ReLU()),
        )

        def both(inputs, size=1):
            return nn.ModuleDict(
                {m: bottleneck(inputs, f, match_groups, match_width, size) for m in ("video", "query")}
            )

        matching = Named(tconvs=both(f, 3), vconvs=both(2 * f), qconvs=both(2 * f))
        self.clip_level_fusion = Named(
            graph_matching=nn.ModuleList([matching]), conv1x1=nn.Sequential(nn.Conv1d(f, f, 1), nn.ReLU())
        )
        self.masked_attention_pooling = Named(conv1d=nn.Conv1d(2 * f, 1, 1), conv1d_lang=nn.Conv1d(f, 1, 1))
        self.pos2d_encoder = nn.Module()
        table = globals()["places"](num_clips, f // 2)
        rows, columns = table[:, None].expand(-1, num_clips, -1), table[None].expand(num_clips, -1, -1)
        pos2d = torch.cat([columns, rows], -1).permute(2, 0, 1)[None]
        self.pos2d_encoder.register_buffer("pos2d", pos2d)
        first, other = (nn.Sequential(nn.Conv2d(n, score_features, 1), nn.ReLU()) for n in (f, score_features))
        self.convs_pred = nn.ModuleList([first] + [other] * (score_layers - 1))
        self.iou = nn.Conv2d(score_features, 1, 1)

    def forward(self, batch):
        """'logits' [B,G,G], zero at no candidate."""
        batch = tensors(batch)
        stride = batch.video.shape[1] // self.num_clips
        clips = self.feat_pool(F.avg_pool1d(batch.video.mT, self.window, stride)).relu()
        every = torch.ones(len(clips), self.num_clips, dtype=bool)
        for layer in self.context_aggregator:
            near = neighbours(clips, every, self.context_neighbours)[0]
            pairs = torch.cat([near, clips[..., None].expand_as(near)], 1)
            clips = (layer.tconvs(clips) + clips + layer.sconvs(pairs).amax(-1)).relu()

        language, real = self.language_encoder, batch.query_mask
        words = language.lstm(batch.query_vectors * real[..., None])[0]
        edges = batch.dependencies > 1
        for layer in language.language_encoder:
            length = words.shape[1]
            pairs = [words[:, :, None].expand(-1, -1, length, -1), words[:, None].expand(-1, length, -1, -1)]
            weights = layer.w_wc(torch.cat(pairs, -1))[..., 0].masked_fill(~edges, -100).softmax(2) * edges
            words = words + (words + weights @ layer.wd(words)).relu()
        words = language.fc_query(words).mT

        relations = clips.mT @ words
        to_clips = words @ relations.masked_fill(~real[:, None], -1e10).softmax(2).mT
        to_words = clips @ relations.softmax(1)
        clips, words = (
            self.updated("video", clips, to_clips, every),
            self.updated("query", words, to_words, real),
        )
        clips = self.clip_level_fusion.conv1x1(clips)

        pool = self.masked_attention_pooling
        weights = pool.conv1d_lang(words).masked_fill(~real[:, None], -1e10).softmax(2)
        sentence = (weights * words).sum(2, keepdim=True).expand_as(clips)
        logits = pool.conv1d(torch.cat([sentence, clips], 1))
        rows, columns = self.mask.nonzero().T
        place = torch.arange(self.num_clips)
        outside = (place < rows[:, None]) | (place > columns[:, None])
        moments = logits.expand(-1, len(rows), -1).masked_fill(outside, -1e10).softmax(2) @ clips.mT
        cells = clips.new_zeros(*clips.shape, self.num_clips)
        cells[:, :, rows, columns] = moments.mT
        cells = cells + self.pos2d_encoder.pos2d
        for layer in self.convs_pred:
            cells = layer(cells)
        return {"logits": self.iou(cells)[:, 0] * self.mask}

    def updated(self, modality, nodes, other, real):
        """Nodes [B,F,T] plus what they hear."""
        layers = self.clip_level_fusion.graph_matching[0]
        near, closeness = neighbours(nodes, real, self.match_neighbours)
        near = (near * closeness.softmax(-1)[:, None]).sum(-1)
        alike = layers.vconvs[modality](torch.cat([nodes, near], 1))
        matched = layers.qconvs[modality](torch.cat([nodes, other], 1))
        return alike + matched + layers.tconvs[modality](nodes) + nodes


class Places(nn.Module):
    """Adds the table of places."""

    def __init__(self, inputs, length):
        super().__init__()
        self.register_buffer("pe", places(length, inputs).T[None])

    def forward(self, x):
        return x + self.pe


def build(config):
    """The twin of a config whose neighbours are the official ones."""
    names = (
        "num_clips", "scale_layers", "window", "places", "features", "query_features", "context_layers",
        "context_neighbours", "context_groups", "context_width", "match_neighbours", "match_groups",
        "match_width", "lstm_layers", "syntax_layers", "score_features", "score_layers",
    )  # fmt: skip
    sizes = config.dataset.feature_dim, config.text.dim
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("vlg_net", twin.state_dict())
