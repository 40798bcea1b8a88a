"""LGI in PyTorch (Mun et al., CVPR 2020), with the official names and the official padding of clips."""

import torch
from torch import nn

from references import Named
from vmr_jax.torch_import import load


class Twin(nn.Module):
    """LGI.

    Args:
      inputs: D.
      words: W.
      vocabulary: number of words that have a vector; 0 takes the vectors of the batch.
      features: F; every other field is as in `vmr_jax.models.lgi.Model`.
    """

    def __init__(
        self, inputs, words, vocabulary, *, features, attention_features, num_phrases, local_kernel,
        global_layers, heads, activation, max_clips, guidance_weight=1.0, diversity_weight=1.0,
        self_overlap=0.0,
    ):  # fmt: skip
        super().__init__()
        self.heads, self.activation, self.self_overlap = heads, activation, self_overlap
        self.vocabulary = vocabulary
        self.weights = {
            "regression": 1.0,
            "attention_guidance": guidance_weight,
            "distinct_query_attention": diversity_weight,
        }
        f, a = features, attention_features
        self.video_enc = Named(
            vid_emb_fn=nn.Sequential(nn.Linear(inputs, f)), pos_emb_fn=nn.Sequential(nn.Embedding(max_clips, f))
        )
        self.query_enc = Named(
            embedding=nn.Embedding(vocabulary or 4, words),
            rnn=nn.LSTM(words, f // 2, 2, batch_first=True, bidirectional=True),
        )
        if num_phrases > 1:
            self.sqan = Named(
                global_emb_fn=nn.ModuleList(nn.Linear(f, f) for _ in range(num_phrases)),
                guide_emb_fn=nn.Sequential(nn.Linear(2 * f, f)),
                att_fn=Named(key2att=nn.Linear(f, a), feat2att=nn.Linear(f, a), to_alpha=nn.Linear(a, 1)),
            )
        self.vti_fn = Named(
            fusion_fn=nn.ModuleList(
                Named(fc_1=nn.Linear(f, f), fc_2=nn.Linear(f, f), fc_3=nn.Linear(f, f))
                for _ in range(num_phrases)
            ),
            local_fn=nn.ModuleList(
                Named(blocks=nn.ModuleList([block(f, local_kernel)])) for _ in range(num_phrases)
            ),
            satt_fn=pooling(f, a),
            global_fn=nn.ModuleList(
                Named(c_lin=nn.Linear(f, 2 * f), v_lin=nn.Linear(f, f)) for _ in range(global_layers)
            ),
        )
        self.ta_reg_fn = Named(
            tatt=pooling(f, a), MLP_reg=nn.Sequential(nn.Linear(f, f), nn.ReLU(), nn.Linear(f, 2))
        )

    def checkpoint(self):
        """What the official code saves: the state of each part."""
        return {name: part.state_dict() for name, part in self.named_children()}

    def forward(self, batch):
        """'span' [B,2], 'attention' [B,T] and the phrases' attention 'words' [B,N,L], None for one phrase."""
        vectors = torch.as_tensor(batch.query_vectors)
        if self.vocabulary:
            vectors = self.query_enc.embedding(torch.as_tensor(batch.query).long())
        words, sentence = self._query(vectors, torch.as_tensor(batch.query_mask))
        mask = torch.as_tensor(batch.video_mask)
        clips = self.video_enc.vid_emb_fn(torch.as_tensor(batch.video)).relu()
        clips = clips + self.video_enc.pos_emb_fn[0].weight[: clips.shape[1]].relu()
        clips = clips * mask[..., None]
        phrases, attentions = sentence[:, None], None
        if hasattr(self, "sqan"):
            phrases, attentions = self._phrases(words, sentence, torch.as_tensor(batch.query_mask))
        local = []
        for n, (fuse, part) in enumerate(zip(self.vti_fn.fusion_fn, self.vti_fn.local_fn, strict=True)):
            x = (fuse.fc_1(clips).relu() * fuse.fc_2(phrases[:, n]).relu()[:, None]).mT
            x = fuse.fc_3(x.mT).relu().mT
            local.append((x + part.blocks[0](x)).relu().mT)
        every = torch.ones(phrases.shape[:2], dtype=torch.bool)
        weights = attend(self.vti_fn.satt_fn, phrases, every)
        x = (weights[..., None, None] * torch.stack(local, 1)).sum(1)
        for part in self.vti_fn.global_fn:
            x = x + self._non_local(part, x, mask)
        attention = attend(self.ta_reg_fn.tatt, x, mask)
        video = self.ta_reg_fn.tatt.fc((attention[..., None] * x).sum(1))
        span = getattr(torch, self.activation)(self.ta_reg_fn.MLP_reg(video))
        return {"span": span, "attention": attention, "words": attentions}

    def _query(self, vectors, mask):
        lengths = mask.sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
        states = self.query_enc.rnn(packed)[0]
        states = nn.utils.rnn.pad_packed_sequence(states, batch_first=True, total_length=mask.shape[1])[0]
        forward = states[torch.arange(len(vectors)), lengths - 1, : states.shape[2] // 2]
        return states, torch.cat([forward, states[:, 0, states.shape[2] // 2 :]], -1)

    def _phrases(self, words, sentence, mask):
        att, phrase, phrases, attentions = self.sqan.att_fn, torch.zeros_like(sentence), [], []
        for linear in self.sqan.global_emb_fn:
            guide = self.sqan.guide_emb_fn(torch.cat([linear(sentence), phrase], -1)).relu()
            hidden = (att.key2att(guide)[:, None] + att.feat2att(words)).tanh()
            weights = att.to_alpha(hidden)[..., 0].masked_fill(~mask, -1e9).softmax(-1)
            phrase = (weights[..., None] * words).sum(1)
            phrases.append(phrase)
            attentions.append(weights)
        return torch.stack(phrases, 1), torch.stack(attentions, 1)

    def _non_local(self, part, x, mask):
        parts = (part.v_lin(x), *part.c_lin(x).chunk(2, -1))
        asks, answers, values = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        relation = asks @ answers.mT / (x.shape[2] // self.heads) ** 0.5
        relation = relation.masked_fill(~mask[:, None, None], -1e9).softmax(-1)
        return (relation @ values).transpose(1, 2).flatten(2)

    def loss(self, outputs, batch):
        """The weighted terms of the objective."""
        span, duration = torch.as_tensor(batch.span), torch.as_tensor(batch.duration)
        gold = span / duration[:, None]
        terms = {
            "regression": sum(nn.functional.smooth_l1_loss(outputs["span"][:, i], gold[:, i]) for i in (0, 1))
        }
        inside = torch.zeros_like(outputs["attention"])
        rows = zip(inside, gold.tolist(), batch.video_mask.sum(1).tolist(), strict=True)
        for row, (start, end), clips in rows:
            first = min(round(start * clips), clips - 1)
            row[first : max(round(end * clips), first + 1) + 1] = 1
        surprise = -(inside * (outputs["attention"] + 1e-8).log()).sum(1) / inside.sum(1)
        terms["attention_guidance"] = surprise.mean()
        if outputs["words"] is not None:
            a = outputs["words"]
            overlap = a @ a.mT - self.self_overlap * torch.eye(a.shape[1])
            terms["distinct_query_attention"] = overlap.square().sum((1, 2)).mean()
        return {name: self.weights[name] * term for name, term in terms.items()}


def block(features, kernel):
    """Two convolutions, each with a batch normalisation whose statistics are not the initial ones."""
    layers = [
        nn.Conv1d(features, features, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm1d(features),
        nn.ReLU(),
    ]
    layers += [nn.Conv1d(features, features, kernel, padding=kernel // 2, bias=False), nn.BatchNorm1d(features)]
    for norm in (layers[1], layers[4]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
    return nn.Sequential(*layers)


def pooling(features, attention):
    return Named(
        feat2att=nn.Linear(features, attention, bias=False),
        to_alpha=nn.Linear(attention, 1, bias=False),
        fc=nn.Linear(features, features),
    )


def attend(part, x, mask):
    logits = part.to_alpha(part.feat2att(x).tanh())[..., 0]
    return logits.masked_fill(~mask, -1e9).softmax(-1)


def build(config):
    """The twin of a config, with the vectors of the batch."""
    names = (
        "features", "attention_features", "num_phrases", "local_kernel", "global_layers", "heads", "activation",
        "max_clips", "guidance_weight", "diversity_weight", "self_overlap",
    )  # fmt: skip
    sizes = config.dataset.feature_dim, config.text.dim
    return Twin(*sizes, 0, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("lgi", twin.checkpoint())
