"""WSSL in PyTorch (Duan et al., NeurIPS 2018), with the official names."""

import torch
from torch import nn

from references import Named
from vmr_jax.models.wssl import ANCHORS
from vmr_jax.torch_import import load


def encoder(inputs, features, layers, residual):
    """A GRU, and the layer of its residual."""
    parts = {"rnn_cell": nn.GRU(inputs, features, layers, batch_first=True)}
    if residual:
        parts["linear"] = nn.Linear(inputs, features, bias=False)
    return Named(**parts)


def encode(part, x):
    """Outputs [T,F] and the states [T,U F] of all layers, of one sequence [T,D]."""
    outputs, states, hidden = [], [], None
    for row in x:
        y, hidden = part.rnn_cell(row[None, None], hidden)
        outputs.append(y[0, 0] + (part.linear(row) if hasattr(part, "linear") else 0))
        states.append(hidden.flatten())
    return torch.stack(outputs), torch.stack(states)


class Twin(nn.Module):
    """WSSL without dropout and noise. Every row is computed by itself, without padding.

    Args:
      inputs: D.
      classes: X, the start included.
      features: F, also the width of a word; every other field is as in `vmr_jax.models.wssl.Model`.
    """

    def __init__(self, inputs, classes, *, features, layers, scale, slope, change_weight):
        super().__init__()
        f, self.slope, self.scale, self.change_weight = features, slope, scale, change_weight
        attention = {
            f"{name}_attention": Named(linear=nn.Linear(f, layers * f, bias=False))
            for name in ("video", "text")
        }
        norms = {f"{name}_batch_norm": nn.BatchNorm1d(f) for name in ("video", "text")}
        wide = [nn.Linear(3 * f, 3 * f, bias=False) for _ in range(2)]
        combiner = nn.Sequential(
            wide[0], nn.BatchNorm1d(3 * f), nn.ReLU(), nn.Dropout(0), wide[1], nn.BatchNorm1d(3 * f), nn.ReLU()
        )
        self.model_sl = Named(
            video_encoder=encoder(inputs, f, layers, True),
            text_encoder=encoder(f, f, layers, False),
            sent_embedding=nn.Embedding(classes, f),
            feature_mixer=Named(**attention, **norms, fc=nn.Linear(2 * f, f), combiner=combiner),
            predictor=nn.Linear(3 * f, len(ANCHORS)),
            refiner=nn.Linear(3 * f, 2 * len(ANCHORS)),
        )
        self.model_cg = Named(
            video_encoder=encoder(inputs, f, layers, True),
            decoder=Named(
                rnn_cell=nn.GRU(4 * f, f, layers, batch_first=True),
                embedding=nn.Embedding(classes, f),
                output_layer=nn.Linear(f, classes),
            ),
        )

    def checkpoint(self):
        """As the official program saves it."""
        parts = {name: getattr(self, name).state_dict() for name in ("model_sl", "model_cg")}
        return {"state_dict": parts["model_sl"], "dynamic_params": {"step": 1, **parts}, "params": {"lr": 0.01}}

    def forward(self, batch):
        """Outputs of a turn of captions, by name; rows must be real."""
        rows = range(len(batch.duration))
        videos = [torch.as_tensor(batch.video[b, : int(batch.video_mask[b].sum())]) for b in rows]
        # Official ids: 0 starts, 1 ends, then the words, the unknown one last; ours end with 0, unknown is 1.
        last = self.model_sl.sent_embedding.num_embeddings - 1
        words = [torch.as_tensor(batch.query[b, : int(batch.query_mask[b].sum())]).long() for b in rows]
        words = [torch.cat([torch.tensor([0]), torch.where(x == 1, last, x), torch.tensor([1])]) for x in words]
        scores, refinements = self._localize(videos, words)
        segment = self._segment(scores, refinements)
        captions = [self._caption(*row) for row in zip(videos, segment, words, strict=True)]
        again = self._segment(*self._localize(videos, [likely for _, likely in captions]))
        return {
            "scores": scores,
            "refinements": refinements,
            "caption": torch.stack([loss for loss, _ in captions]),
            "change": (again - segment.detach()).square().mean(-1),
        }

    def loss(self, outputs, batch):
        """The terms of a turn of captions."""
        del batch
        return {"caption": outputs["caption"].mean(), "change": self.change_weight * outputs["change"].mean()}

    @staticmethod
    def _segment(scores, refinements):
        best = scores.argmax(-1)
        return torch.as_tensor(ANCHORS)[best] + refinements[torch.arange(len(best)), best]

    def _localize(self, videos, words):
        part, mixer = self.model_sl, self.model_sl.feature_mixer
        contexts = []
        for video, sentence in zip(videos, words, strict=True):
            clips, clip_states = encode(part.video_encoder, video)
            text, text_states = encode(part.text_encoder, part.sent_embedding(sentence))
            pairs = (text, clip_states, mixer.text_attention), (clips, text_states, mixer.video_attention)
            for x, states, attention in pairs:
                logits = attention.linear(x) @ states[-1] / states.shape[-1] ** 0.5
                contexts.append(logits.softmax(0) @ x)
        t, v = (
            mixer.text_batch_norm(torch.stack(contexts[::2])),
            mixer.video_batch_norm(torch.stack(contexts[1::2])),
        )
        mixed = mixer.combiner(torch.cat([mixer.fc(torch.cat([t, v], 1)), t * v, t + v], 1))
        refinements = part.refiner(mixed).sigmoid() * self.scale
        return part.predictor(mixed), refinements.view(len(mixed), -1, 2)

    def _caption(self, video, segment, words):
        """Negative log-likelihood [] of a sentence, and the likeliest words behind each of its words."""
        part = self.model_cg
        clips, states = encode(part.video_encoder, video)
        centre, width = segment * len(video)
        place = torch.arange(len(video))
        start, end = (self.slope * (place - edge) for edge in (centre - width / 2, centre + width / 2))
        masks = torch.stack([(-start).sigmoid(), start.sigmoid() - end.sigmoid(), end.sigmoid()])
        context = (masks @ clips / (masks.sum(1, keepdim=True) + 1e-4)).flatten()
        last = int((segment.sum() - segment[1] / 2).clamp(max=1 - 1e-4) * len(video))
        hidden = states[last].view(part.decoder.rnn_cell.num_layers, 1, -1)
        inputs = torch.cat([part.decoder.embedding(words[:-1]), context.expand(len(words) - 1, -1)], 1)
        output, _ = part.decoder.rnn_cell(inputs[None], hidden)
        found = part.decoder.output_layer(output[0]).log_softmax(-1)
        likely = torch.cat([words[:1], found.argmax(-1)])
        return -found.gather(1, words[1:, None]).sum(), likely


def build(config):
    """The twin of a config, for a vocabulary of 20 words and padding."""
    names = ("features", "layers", "scale", "slope", "change_weight")
    sizes = config.dataset.feature_dim, 21 + 1
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("wssl", twin.checkpoint())
