"""DORi in PyTorch (Rodriguez-Opazo et al., WACV 2021), with the official names; loops in place of tensors."""

import torch
from torch import nn

from references import Named
from references.tmlga import Twin as Tmlga
from references.tmlga import packed, softmax
from vmr_jax.torch_import import load


class Twin(nn.Module):
    """DORi.

    Args:
      inputs: D.
      regions: D of the objects.
      words: W.
      features: F; every other field is as in `vmr_jax.models.dori.Model`.
    """

    loss = Tmlga.loss

    def __init__(
        self, inputs, regions, words, *, features, recurrent_features, key_features, iterations,
        recurrent_layers, use_bias, dropout=0.0, attention_weight=1.0,
    ):  # fmt: skip
        super().__init__()
        both, self.iterations, self.attention_weight = 2 * recurrent_features, iterations, attention_weight
        kind = dict(batch_first=True, bidirectional=True)
        graph = {"factor_query": Named(lstm=nn.GRU(words, recurrent_features, **kind))}
        for name, width in (("factor_video", inputs), ("factor_human", regions), ("factor_obj", regions)):
            graph[name] = nn.Linear(width, features)
        for name in ("video", "human", "object"):
            graph[f"{name}_query"] = nn.Linear(both + features, features)
            graph[f"factor_update_{name}"] = nn.Linear(features, features)
        for name in ("object_human", "video_object", "video_human"):
            graph[f"factor_{name}_query"] = nn.Linear(2 * features, features)
        for number in (1, 2, 3):
            graph[f"query_head{number}"] = nn.Linear(both, key_features)
            graph[f"query_key{number}"] = nn.Linear(words, key_features)
            graph[f"query_value{number}"] = nn.Linear(words, both)
        self.model_spatial = Named(**graph)
        self.multimodal_fc2 = nn.Linear(features, 1)
        self.rnn_localization = nn.GRU(
            features,
            recurrent_features,
            recurrent_layers,
            bias=use_bias,
            dropout=dropout if recurrent_layers > 1 else 0.0,
            **kind,
        )
        self.starting, self.ending = nn.Linear(both, 1), nn.Linear(both, 1)

    def forward(self, batch):
        """'start' and 'end' [B,T], logits where a clip is real; 'attention' [B,T]."""
        mask, lengths = torch.as_tensor(batch.video_mask), torch.as_tensor(batch.query_mask).sum(1)
        embedded = torch.as_tensor(batch.query_vectors)
        words = packed(self.model_spatial.factor_query.lstm, embedded, lengths)
        clips = torch.zeros(*mask.shape, self.multimodal_fc2.in_features)
        for b, count in enumerate(lengths.tolist()):
            nodes = self.query_nodes(words[b, :count], embedded[b, :count])
            for t in range(int(mask[b].sum())):
                clips[b, t] = self.graph(nodes, batch, b, t)
        states = packed(self.rnn_localization, clips, mask.sum(1))
        fit = self.multimodal_fc2(clips)[..., 0] / lengths[:, None] ** 0.5
        return {
            "start": self.starting(states)[..., 0],
            "end": self.ending(states)[..., 0],
            "attention": softmax(fit, mask),
        }

    def query_nodes(self, words, embedded):
        """The three query nodes of one sentence."""
        graph, nodes = self.model_spatial, []
        sentence = words.mean(0).tanh()
        for number in (1, 2, 3):
            query = getattr(graph, f"query_head{number}")(sentence)
            keys = getattr(graph, f"query_key{number}")(embedded)
            nodes.append((keys @ query).softmax(0) @ words)
        return nodes

    def graph(self, nodes, batch, b, t):
        """The node [F] of one clip after all rounds; regions are lists."""
        graph, (ho, vo, vh) = self.model_spatial, nodes
        seen = [
            (torch.as_tensor(x), person)
            for x, there, person in zip(batch.objects[b, t], batch.object_mask[b, t], batch.persons[b, t])
            if there
        ]
        clip = first_clip = graph.factor_video(torch.as_tensor(batch.video[b, t])).tanh()
        things = first_things = [graph.factor_human(x).tanh() for x, person in seen if not person]
        humans = first_humans = [graph.factor_obj(x).tanh() for x, person in seen if person]
        zero = torch.zeros_like(clip)

        def say(layer, query, node):
            return layer(torch.cat([query, node]))

        def update(layer, one, other, first):
            return (layer(one * other) * first).relu()

        for _ in range(self.iterations):
            heard = [
                pair(torch.cat([say(graph.video_query, q, clip), sum((say(layer, q, x) for x in rest), zero)]))
                for pair, q, layer, rest in (
                    (graph.factor_video_human_query, vh, graph.human_query, humans),
                    (graph.factor_video_object_query, vo, graph.object_query, things),
                )
            ]
            clip = update(graph.factor_update_video, *heard, first_clip)
            both = sum((say(graph.human_query, ho, x) for x in humans), zero)
            things = [
                update(
                    graph.factor_update_object,
                    graph.factor_object_human_query(torch.cat([say(graph.object_query, ho, x), both])),
                    graph.factor_video_object_query(
                        torch.cat([say(graph.object_query, vo, x), say(graph.video_query, vo, clip)])
                    ),
                    first,
                )
                for x, first in zip(things, first_things, strict=True)
            ]
            both = sum((say(graph.object_query, ho, x) for x in things), zero)
            humans = [
                update(
                    graph.factor_update_human,
                    graph.factor_object_human_query(torch.cat([say(graph.human_query, ho, x), both])),
                    graph.factor_video_human_query(
                        torch.cat([say(graph.human_query, vh, x), say(graph.video_query, vh, clip)])
                    ),
                    first,
                )
                for x, first in zip(humans, first_humans, strict=True)
            ]
        return clip


def build(config):
    """The twin of a config."""
    names = (
        "features", "recurrent_features", "key_features", "iterations", "recurrent_layers", "use_bias",
        "dropout", "attention_weight",
    )  # fmt: skip
    regions = config.dataset.streams.objects[2] if config.dataset.get("streams") else 32
    sizes = config.dataset.feature_dim, regions, config.text.dim
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("dori", twin.state_dict())
