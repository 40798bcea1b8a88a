"""MML in PyTorch (Vidanapathirana et al., 2020), with the official names, on windows that are given."""

import torch
from torch import nn
from torch.nn.functional import normalize

from vmr_jax.torch_import import load

# Of the default config: features, captions, things, activities, sentence, words.
STORYBOARD = (64, 32, 18, 13, 32, 50)


class Twin(nn.Module):
    """MML.

    Args:
      video: D of the features, and of the other fields of a batch as they are named.
      features: E; every other field is as in `vmr_jax.models.object_evidence.Model`.
    """

    def __init__(
        self, video, captions, things, activities, sentence, words, *, features, action_features, hidden,
        context, object_scale, offset_scale, regression_weight, score_clips,
    ):  # fmt: skip
        super().__init__()
        self.v2s_lt = nn.Linear(3 * (video + captions), features)
        self.s2s_lt = nn.Linear(sentence, features)
        self.soft2s_lt = nn.Linear(things + activities, action_features)
        self.VP2s_lt = nn.Linear(2 * words, action_features)
        self.fc1 = nn.Conv2d(4 * (features + action_features), hidden, 1)
        self.fc2 = nn.Conv2d(hidden, 3, 1)
        self.context, self.score_clips, self.object_scale = context, score_clips, object_scale
        self.offset_scale, self.regression_weight = offset_scale, regression_weight

    def forward(self, batch, windows, verb_object):
        """Score and offsets [B,B,3] of every sentence (row) with every window [B,2] of whole clips."""
        seen, concepts = [], []
        for b, (start, end) in enumerate(windows.round().long().tolist()):
            rows = [torch.as_tensor(x[b]) for x in (batch.video, batch.captions)]
            rows = torch.cat([rows[0], normalize(rows[1], dim=-1)], -1)
            clips, width = int(batch.video_mask[b].sum()), int(self.context)
            own = before = after = rows[start:end].mean(0)
            if start >= width:
                before = rows[start - width : start].mean(0)
            if end + width <= clips:
                after = rows[end : end + width].mean(0)
            seen.append(torch.cat([before, own, after]))
            last = max(end - int(self.score_clips) + 1, start + 1)
            things = torch.as_tensor(batch.object_scores[b, start:last]).mean(0)
            activities = torch.as_tensor(batch.activity_scores[b, start:last]).mean(0)
            concepts.append(torch.cat([self.object_scale * normalize(things, dim=0), activities]))
        v, p = normalize(self.v2s_lt(torch.stack(seen))), normalize(self.soft2s_lt(torch.stack(concepts)))
        s = normalize(self.s2s_lt(torch.as_tensor(batch.sentence)))
        a = normalize(self.VP2s_lt(torch.as_tensor(verb_object)))
        rows = []
        for i in range(len(s)):
            pairs = [
                normalize(torch.cat([x * y, x + y, x, y.expand_as(x)], -1), dim=-1)
                for x, y in ((v, s[i]), (p, a[i]))
            ]
            rows.append(torch.cat(pairs, -1))
        mixed = torch.stack(rows).permute(2, 0, 1)[None]
        return self.fc2(self.fc1(mixed).relu())[0].permute(1, 2, 0)

    def loss(self, scores, batch, windows):
        """The two terms of the objective, of a batch without fillers whose moments are all different."""
        size = len(scores)
        own = torch.eye(size)
        alignment = (own + 1 / size) * nn.functional.softplus((1 - 2 * own) * scores[..., 0])
        clips = torch.as_tensor(batch.video_mask).sum(1) / torch.as_tensor(batch.duration)
        target = (torch.as_tensor(batch.span) * clips[:, None] - windows) * self.offset_scale
        offsets = scores[range(size), range(size), 1:]
        return {
            "alignment": alignment.mean(),
            "regression": self.regression_weight * (offsets - target).abs().mean(),
        }


def build(config):
    """The twin of a config."""
    names = (
        "features", "action_features", "hidden", "context", "object_scale", "offset_scale", "regression_weight",
        "score_clips",
    )  # fmt: skip
    return Twin(*STORYBOARD, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("object_evidence", twin.state_dict())
