"""2D-TAN in PyTorch (Zhang et al., AAAI 2020), with the official names."""

import torch

from references import MaxMap, kernel_weights, map_candidates, overlap_map
from vmr_jax.torch_import import load


class Frame(torch.nn.Module):
    """Clips: a linear layer, ReLU, the mean over windows."""

    def __init__(self, inputs, features, window):
        super().__init__()
        self.vis_conv, self.window = torch.nn.Conv1d(inputs, features, 1), window

    def forward(self, video):
        return torch.nn.functional.avg_pool1d(self.vis_conv(video).relu(), self.window, self.window)


class ConvMap(torch.nn.Module):
    """The map of the 'conv' variant: each diagonal is a convolution of the one before."""

    def __init__(self, features, num_clips, scale_layers):
        super().__init__()
        self.num_clips, self.levels = num_clips, map_candidates(num_clips, scale_layers)
        levels = iter(self.levels)
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleList(torch.nn.Conv1d(features, features, *next(levels)[:2]) for _ in range(layers))
            for layers in scale_layers
        )

    def forward(self, clips):
        cells = clips.new_zeros(*clips.shape, self.num_clips)
        convs = (conv for scale in self.layers for conv in scale)
        for conv, (_, _, spans) in zip(convs, self.levels, strict=True):
            clips = conv(clips)
            cells[:, :, *torch.tensor(spans).T] = clips
        return cells


class Fusion(torch.nn.Module):
    """The query's last state times the proposals."""

    def __init__(self, words, features, layers):
        super().__init__()
        self.textual_encoder = torch.nn.LSTM(words, features, layers, batch_first=True)
        self.tex_linear, self.vis_conv = (
            torch.nn.Linear(features, features),
            torch.nn.Conv2d(features, features, 1),
        )

    def forward(self, words, lengths, cells, mask):
        state = self.textual_encoder(words)[0][torch.arange(len(words)), lengths - 1]
        query = self.tex_linear(state)[:, :, None, None]
        return state, torch.nn.functional.normalize(query * self.vis_conv(cells)) * mask


class Context(torch.nn.Module):
    """The map convolutions; returns the map after each layer."""

    def __init__(self, features, kernel, layers, mask):
        super().__init__()
        first = (kernel - 1) * layers // 2
        self.convs = torch.nn.ModuleList(
            torch.nn.Conv2d(features, features, kernel, padding=0 if i else first) for i in range(layers)
        )
        self.weights = kernel_weights(mask, kernel, layers)

    def forward(self, x):
        outputs = []
        for conv, weight in zip(self.convs, self.weights, strict=True):
            x = conv(x).relu() * weight
            outputs.append(x)
        return outputs


class Twin(torch.nn.Module):
    """2D-TAN; returns every stage.

    Args:
      inputs: D.
      words: W.
      features: F.
      clips: T.
      fields: of the same names as those of `vmr_jax.models.two_d_tan.Model`.
    """

    def __init__(
        self, inputs, words, features, clips, *, num_clips, scale_layers, map_kernel, map_layers,
        proposal="pool", lstm_layers=3, iou_low=0.5, iou_high=1.0,
    ):  # fmt: skip
        super().__init__()
        pooled = MaxMap(num_clips, scale_layers)
        self.num_clips, self.mask, self.iou_range = num_clips, pooled.mask, (iou_low, iou_high)
        self.frame_layer = Frame(inputs, features, clips // num_clips)
        self.prop_layer = ConvMap(features, num_clips, scale_layers) if proposal == "conv" else pooled
        self.fusion_layer = Fusion(words, features, lstm_layers)
        self.map_layer = Context(features, map_kernel, map_layers, self.mask)
        self.pred_layer = torch.nn.Conv2d(features, 1, 1)

    def forward(self, batch):
        """Stages 'clips', 'proposals', 'state', 'fused', 'layers' (a list) and 'logits'."""
        stages = {"clips": self.frame_layer(torch.as_tensor(batch.video).mT)}
        stages["proposals"] = self.prop_layer(stages["clips"])
        words, lengths = torch.as_tensor(batch.query_vectors), torch.as_tensor(batch.query_mask).sum(1)
        stages["state"], stages["fused"] = self.fusion_layer(words, lengths, stages["proposals"], self.mask)
        stages["layers"] = self.map_layer(stages["fused"])
        stages["logits"] = self.pred_layer(stages["layers"][-1])[:, 0] * self.mask
        return stages

    def loss(self, stages, batch):
        """'iou': cross-entropy with the scaled IoU, the mean over candidates."""
        low, high = self.iou_range
        iou = overlap_map(self.num_clips, torch.as_tensor(batch.span), torch.as_tensor(batch.duration))
        target, mask = ((iou - low) / (high - low)).clamp(0, 1), self.mask
        probability = stages["logits"].sigmoid() * mask
        losses = torch.nn.functional.binary_cross_entropy(probability, target, reduction="none")
        return {"iou": (losses * mask).sum() / (mask.sum() * len(probability))}


def build(config):
    """The twin of a config."""
    names = (
        "num_clips", "scale_layers", "map_kernel", "map_layers", "proposal", "lstm_layers", "iou_low",
        "iou_high",
    )  # fmt: skip
    sizes = config.dataset.feature_dim, config.text.dim, config.model.features, config.input.num_clips
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("two_d_tan", twin.state_dict())
