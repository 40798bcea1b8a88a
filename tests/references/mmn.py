"""MMN in PyTorch (Wang et al., AAAI 2022), with the official names; and with our 'glove' text encoder."""

import torch
from torch import nn
from torch.nn import functional as F

from references import MaxMap, Named, kernel_weights, overlap_map
from vmr_jax.torch_import import convert, load, lstm
from vmr_jax.torch_import.mmn import entries


class DistilBertTwin(nn.Module):
    """The published encoder, under its names, without dropout."""

    def __init__(self, width, heads, feed, words, places, layers):
        super().__init__()
        self.heads = heads
        self.embeddings = Named(
            word_embeddings=nn.Embedding(words, width),
            position_embeddings=nn.Embedding(places, width),
            LayerNorm=nn.LayerNorm(width, 1e-12),
        )
        self.transformer = Named(layer=nn.ModuleList([self._layer(width, feed) for _ in range(layers)]))

    @staticmethod
    def _layer(width, feed):
        names = ("q_lin", "k_lin", "v_lin", "out_lin")
        return Named(
            attention=Named(**{name: nn.Linear(width, width) for name in names}),
            ffn=Named(lin1=nn.Linear(width, feed), lin2=nn.Linear(feed, width)),
            sa_layer_norm=nn.LayerNorm(width, 1e-12),
            output_layer_norm=nn.LayerNorm(width, 1e-12),
        )

    def forward(self, ids, mask):
        e = self.embeddings
        x = e.LayerNorm(e.word_embeddings(ids) + e.position_embeddings.weight[: ids.shape[1]])
        for layer in self.transformer.layer:
            a = layer.attention
            q, k, v = (
                p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (a.q_lin, a.k_lin, a.v_lin)
            )
            y = F.scaled_dot_product_attention(q, k, v, mask[:, None, None, :]).transpose(1, 2).flatten(2)
            x = layer.sa_layer_norm(x + a.out_lin(y))
            x = layer.output_layer_norm(x + layer.ffn.lin2(F.gelu(layer.ffn.lin1(x))))
        return x


class WordStates(nn.Module):
    """The states of a bidirectional LSTM over word vectors; there is no padding."""

    def __init__(self, words, width):
        super().__init__()
        self.lstm = nn.LSTM(words, width // 2, batch_first=True, bidirectional=True)

    def forward(self, words, mask):
        del mask
        return self.lstm(words)[0]


class Twin(nn.Module):
    """MMN.

    Args:
      inputs: D.
      text_encoder: (ids or vectors, mask) -> states [B,L,E].
      width: E.
      clips: T.
      text: 'distilbert' or 'glove', what the text encoder reads.
      features: width of clips and convolutions; every other field is as in `vmr_jax.models.mmn.Model`.
    """

    def __init__(
        self, inputs, text_encoder, width, clips, *, text="distilbert", features, space, num_clips,
        scale_layers, map_kernel, map_layers, queries_per_video, positives, margin, temperature,
        contrast_weight=0.05, iou_low=0.5, iou_high=1.0, iou_scale=10.0, negative_iou=0.5, same_iou=0.5,
    ):  # fmt: skip
        super().__init__()
        self.num_clips, self.window, self.text = num_clips, clips // num_clips, text
        self.queries_per_video, self.positives, self.margin = queries_per_video, positives, margin
        self.temperature, self.contrast_weight, self.iou_scale = temperature, contrast_weight, iou_scale
        self.iou_range, self.negative_iou, self.same_iou = (iou_low, iou_high), negative_iou, same_iou
        self.featpool = Named(conv=nn.Conv1d(inputs, features, 1))
        self.proposals = MaxMap(num_clips, scale_layers)
        self.mask = self.proposals.mask.bool()
        self.weights = kernel_weights(self.proposals.mask, map_kernel, map_layers)
        padding = [(map_kernel - 1) * map_layers // 2] + [0] * (map_layers - 1)
        self.proposal_conv = Named(
            convs=nn.ModuleList([nn.Conv2d(features, features, map_kernel, padding=p) for p in padding]),
            bn=nn.ModuleList([nn.BatchNorm2d(features) for _ in padding]),
            conv1x1_iou=nn.Conv2d(features, space, 1),
            conv1x1_contrastive=nn.Conv2d(features, space, 1),
        )
        self.text_encoder = Named(
            bert=text_encoder,
            layernorm=nn.LayerNorm(width),
            fc_out1=nn.Linear(width, space),
            fc_out2=nn.Linear(width, space),
        )

    def forward(self, batch):
        """Cosines [B,M] of every sentence with the candidates of its video, and the vectors of the contrast."""
        video = torch.as_tensor(batch.video)[:: self.queries_per_video]
        x = self.proposals(F.avg_pool1d(self.featpool.conv(video.mT).relu(), self.window))
        p = self.proposal_conv
        for conv, norm, weight in zip(p.convs, p.bn, self.weights, strict=True):
            x = norm(conv(x)).relu() * weight
        iou, contrast = (
            F.normalize(head(x), dim=1)[:, :, self.mask] for head in (p.conv1x1_iou, p.conv1x1_contrastive)
        )
        t = self.text_encoder
        fields = ("subwords", "subword_mask") if self.text == "distilbert" else ("query_vectors", "query_mask")
        words, mask = (torch.as_tensor(getattr(batch, name)) for name in fields)
        states = t.bert(words, mask) * mask[..., None]
        sentence = t.layernorm(states.sum(1) / mask.sum(1, keepdim=True))
        s_iou, s_contrast = F.normalize(t.fc_out1(sentence), dim=1), F.normalize(t.fc_out2(sentence), dim=1)
        owner = torch.arange(len(words)) // self.queries_per_video
        return {
            "iou": torch.einsum("gsc,gcm->gsm", s_iou.unflatten(0, (len(video), -1)), iou).flatten(0, 1),
            "contrast": torch.einsum(
                "gsc,gcm->gsm", s_contrast.unflatten(0, (len(video), -1)), contrast
            ).flatten(0, 1),
            "moments": contrast,  # [G,C,M]
            "sentences": s_contrast,  # [B,C]
            "owner": owner,  # [B]
        }

    def loss(self, out, batch):
        """'iou', 'moment' and 'sentence', of all pairs at once; all videos are different."""
        low, high = self.iou_range
        span = torch.as_tensor(batch.span)
        overlap = overlap_map(self.num_clips, span, torch.as_tensor(batch.duration))[:, self.mask]
        target = ((overlap - low) / (high - low)).clamp(0, 1)
        best = overlap.topk(self.positives)[1]  # [B,K]
        positive = (out["contrast"].gather(1, best) - self.margin) / self.temperature
        return {
            "iou": F.binary_cross_entropy((self.iou_scale * out["iou"]).sigmoid(), target),
            "moment": self.contrast_weight * (self._sentences(out, best, span) - positive).mean(),
            "sentence": self.contrast_weight * (self._moments(out, overlap, positive) - positive).mean(),
        }

    def _sentences(self, out, best, span):
        """Log of the sum over sentences [B,K], for each positive moment."""
        owner, sentences = out["owner"], out["sentences"]
        moments = out["moments"].mT[owner[:, None], best]
        own = torch.eye(len(owner), dtype=torch.bool)
        same = (owner[:, None] == owner) & (span_iou(span[:, None], span) >= self.same_iou) & ~own
        cosine = moments @ sentences.T - self.margin * own[:, None]
        return (cosine / self.temperature).masked_fill(same[:, None], -torch.inf).logsumexp(-1)

    def _moments(self, out, overlap, positive):
        """Log of the sum over moments [B,K], for each positive one."""
        cosine = torch.einsum("bc,gcm->bgm", out["sentences"], out["moments"])
        own = (out["owner"][:, None] == torch.arange(cosine.shape[1]))[..., None]
        cosine = torch.where(own & (overlap >= self.negative_iou)[:, None], 0, cosine)
        total = (cosine / self.temperature).flatten(1).logsumexp(1)[:, None]
        return torch.logaddexp(torch.logaddexp(total, positive), torch.tensor(1e-6).log())


def span_iou(a, b):
    """IoU of spans [...,2]."""
    shared = (torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])).clamp(min=0)
    return shared / ((a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - shared)


def build(config):
    """The twin of a config whose text is 'glove'."""
    names = (
        "features", "space", "num_clips", "scale_layers", "map_kernel", "map_layers", "queries_per_video",
        "positives", "margin", "contrast_weight", "iou_low", "iou_high",
    )  # fmt: skip
    width = config.model.text_features
    return Twin(
        config.dataset.feature_dim, WordStates(config.text.dim, width), width, config.input.num_clips,
        text="glove", temperature=0.1, **{name: config.model[name] for name in names},
    )  # fmt: skip


def variables(twin):
    """Its weights as ours."""
    state = twin.state_dict()
    if twin.text == "distilbert":
        return load("mmn", state)
    key, encoder = "text_encoder.bert.", twin.text_encoder.bert.lstm

    def with_lstm(shapes):
        """The official entries, with the LSTM in the place of an empty DistilBERT."""
        tables = {f"{key}embeddings.{name}_embeddings.weight": (0, 0) for name in ("word", "position")}
        official = [entry for entry in entries({**shapes, **tables}) if not entry.key.startswith(key)]
        sizes = encoder.input_size, encoder.hidden_size, 1, 2
        return official + lstm(f"{key}lstm", "params/text_encoder/lstm", *sizes)

    return convert("mmn", state, with_lstm)
