"""TCMN in PyTorch (Zhang et al., ACM MM 2019), with the official names; a node at a time."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from references import Named
from vmr_jax.torch_import import load

LABELS = 73


class Network(nn.Module):
    """One network of the ensemble.

    Args:
      words: W.
      main: D of the features for the main event.
      context: D of those for the context event.
      num_clips: T.
    """

    def __init__(
        self, words, main, context, num_clips, *, tree_features, visual_features, attention_features, features
    ):
        super().__init__()
        both = words + tree_features

        def reader():
            return Named(
                text_embedding=glove(words),
                label_embedding=nn.Embedding(LABELS, words),
                node_attention_linear=nn.Sequential(nn.Linear(both, 1)),
            )

        def attention(width):
            common = attention_features
            return Named(
                visual_to_hidden=nn.Sequential(
                    nn.Linear(width, visual_features), nn.ReLU(), nn.Linear(visual_features, common)
                ),
                textual_to_hidden=nn.Sequential(nn.Linear(tree_features, common)),
                prediction=nn.Sequential(nn.Linear(common, common), nn.ReLU(), nn.Linear(common, 1)),
            )

        def score(width):
            return Named(
                visual_to_hidden=nn.Sequential(nn.Linear(width, features)),
                textual_to_hidden=nn.Sequential(nn.Linear(tree_features, features)),
                nonlinear_1=nn.Sequential(nn.Linear(features, features), nn.ReLU()),
                nonlinear_2=nn.Linear(features, 1),
            )

        self.text_embedding = glove(words)
        cell = Named(
            conv_combined=nn.Linear(both, 3 * tree_features),
            conv_wf=nn.Linear(words, tree_features),
            conv_uf=nn.Linear(tree_features, tree_features),
        )
        self.cstlstm = Named(tree_cell=cell)
        self.signal_builder, self.main_sent_builder, self.context_sent_builder = (reader() for _ in range(3))
        self.main_prop_att_builder, self.context_prop_att_builder = attention(main), attention(context)
        self.prop_score_builder, self.loc_score_builder = score(main + context + 4), score(4)
        self.segments = [(i, i + n) for n in range(num_clips) for i in range(num_clips - n)]
        ends = torch.tensor(self.segments) / num_clips
        pairs = [torch.cat([a, b]) for a in ends for b in ends]
        self.conTEF = nn.Parameter(torch.stack(pairs).reshape(len(ends), len(ends), 4), requires_grad=False)

    def states(self, vectors, parents, words):
        """States [n,F] of the nodes of a tree."""
        cell, hidden, memory = self.cstlstm.tree_cell, [], []
        for z, own in enumerate(words):
            below = [k for k in range(z) if parents[k] == z]
            x = vectors.new_zeros(vectors.shape[1])
            if not below and own.any():
                x = vectors[own].mean(0)
            h = sum((hidden[k] for k in below), torch.zeros(cell.conv_uf.out_features))
            i, o, u = cell.conv_combined(torch.cat([x, h])).chunk(3)
            c = i.sigmoid() * u.tanh()
            for k in below:
                c = c + (cell.conv_wf(x) + cell.conv_uf(hidden[k])).sigmoid() * memory[k]
            hidden.append(o.sigmoid() * c.tanh())
            memory.append(c)
        return torch.stack(hidden)

    def forward(self, vectors, parents, labels, words, main, context, count):
        """Scores [M,M] of one example, of which `count` chunks are real."""
        states = self.states(vectors, parents, words)
        real = torch.tensor([end < count for _, end in self.segments]).float()

        def read(builder):
            nodes = torch.cat([builder.label_embedding(labels - 1), states], dim=1)
            return builder.node_attention_linear(nodes).softmax(0).T @ states

        def attend(builder, text, rows):
            means = torch.stack([rows[a : b + 1].mean(0) for a, b in self.segments])
            means = F.normalize(means, dim=1) * real[:, None]
            fused = F.normalize(builder.textual_to_hidden(text) * builder.visual_to_hidden(means), dim=1)
            weights = builder.prediction(fused)[:, 0].softmax(0) * real
            return (weights / weights.sum())[:, None] * means

        def fit(builder, text, pairs):
            fused = builder.textual_to_hidden(text) * builder.visual_to_hidden(pairs)
            return builder.nonlinear_2(builder.nonlinear_1(F.normalize(fused, dim=2)))[..., 0]

        main = attend(self.main_prop_att_builder, read(self.main_sent_builder), main)
        context = attend(self.context_prop_att_builder, read(self.context_sent_builder), context)
        m = len(main)
        pairs = [main[:, None].expand(-1, m, -1), context[None].expand(m, -1, -1), self.conTEF]
        visual = fit(self.prop_score_builder, states[-1:], torch.cat(pairs, dim=2))
        return visual + fit(self.loc_score_builder, read(self.signal_builder), self.conTEF)


def glove(words):
    """A place for the word vectors, which are the batch's."""
    return Named(word_embedding=nn.Embedding.from_pretrained(torch.zeros(2, words)))


class Twin(nn.ModuleList):
    """The networks of an ensemble; moments are those to learn."""

    def __init__(
        self,
        words,
        video,
        flow,
        networks,
        *,
        num_clips,
        margin=0.1,
        official_padding=False,
        context_weight=0.0,
        **sizes,
    ):
        widths = {"video": video, "flow": flow}
        super().__init__(
            Network(words, *(widths[stream] for stream in network.split("_")), num_clips, **sizes)
            for network in networks
        )
        self.networks, self.margin, self.official_padding = networks, margin, official_padding
        self.context_weight = context_weight

    def forward(self, batch):
        """Scores [B,M,M] by network."""
        words, found = torch.as_tensor(batch.query_vectors), {}
        tree = batch.constituents
        for name, network in zip(self.networks, self):
            rows = []
            for b, count in enumerate(counts(batch)):
                real = tree.labels[b] > 0
                nodes = (torch.as_tensor(x[b][real]) for x in (tree.parents, tree.labels, tree.words))
                main, context = (torch.as_tensor(getattr(batch, x)[b]) for x in name.split("_"))
                rows.append(network(words[b], *nodes, main, context, count))
            found[name] = torch.stack(rows)
        return found

    def loss(self, outputs, batch):
        """The hinge of each network, and that of its contexts where they have a weight."""
        terms = {}
        for name, network in zip(self.networks, self):
            lost, contexts, counted = 0.0, 0.0, 0
            for b, count in enumerate(counts(batch)):
                real = [m for m, (_, end) in enumerate(network.segments) if end < count]
                scores = outputs[name][b] if self.official_padding else outputs[name][b][:, real]
                best = scores.max(1).values
                seconds = batch.duration[b] / batch.video_mask[b].sum()
                ious = [overlap(network.segments[m], batch.span[b] / seconds) for m in real]
                own = real[max(range(len(real)), key=ious.__getitem__)]
                lost = lost + (best[real] - best[own] + self.margin).relu().sum()
                counted += len(real)
                told = batch.context[b] if batch.context[b, 1] > 0 else np.array([0.0, batch.duration[b]])
                ious = [overlap(network.segments[m], told / seconds) for m in real]
                row, context = outputs[name][b][own], real[max(range(len(real)), key=ious.__getitem__)]
                contexts = contexts + (row[real] - row[context] + self.margin).relu().sum()
            terms[name] = lost / counted
            if self.context_weight:
                terms[f"{name}_context"] = self.context_weight * contexts / counted
        return terms


def counts(batch):
    """The number of chunks up to the last that is not zero."""
    return [int(rows.any(-1).nonzero()[0].max()) + 1 for rows in batch.video * batch.video_mask[..., None]]


def overlap(segment, moment):
    """IoU of first and last chunk with start and end, in chunks."""
    first, end = segment[0], segment[1] + 1
    shared = max(min(end, moment[1]) - max(first, moment[0]), 0)
    return shared / (end - first + moment[1] - moment[0] - shared)


def build(config):
    """The twin of a config."""
    names = (
        "tree_features",
        "visual_features",
        "attention_features",
        "features",
        "num_clips",
        "margin",
        "context_weight",
    )
    dim = config.dataset.feature_dim
    fields = {name: config.model[name] for name in names}
    return Twin(config.text.dim, dim, dim, config.model.networks, **fields)


def variables(twin):
    """Its weights as ours."""
    return load("tcmn", {"state_dict": list(map(dict, (network.state_dict() for network in twin)))})
