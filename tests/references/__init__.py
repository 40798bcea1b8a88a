"""PyTorch twins of architectures, written from the papers, under the names of the official checkpoints.

The tests compare numbers with them, `benchmarks/training.py --rivals=...` speed. Each file has a `Twin`, whose
`forward(batch)` returns named outputs and whose `loss(outputs, batch)`, if it can train, the weighted terms of
the objective; `build(config)`, the twin of a config; and `variables(twin)`, its weights as ours.
"""

import contextlib

import jax
import torch
from torch.utils._pytree import tree_map_only


class Named(torch.nn.Module):
    """A folder of modules and parameters."""

    def __init__(self, /, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def tensors(batch):
    """The batch with PyTorch tensors over the same memory."""
    return jax.tree.map(torch.as_tensor, batch)


def map_candidates(num_clips, scale_layers):
    """The diagonals [(kernel, stride, [(i, j), ...]), ...] of a moment map, shortest moments first.

    Each is what windows of `kernel` over the moments of the one before cover.
    """
    spans, levels = [(i, i) for i in range(num_clips)], []
    for scale, layers in enumerate(scale_layers):
        for layer in range(layers):
            kernel, stride = (2, 1) if layer else (3, 2) if scale else (1, 1)
            ends = zip(spans[: len(spans) - kernel + 1 : stride], spans[kernel - 1 :: stride], strict=True)
            spans = [(a[0], b[1]) for a, b in ends]
            levels.append((kernel, stride, spans))
    return levels


class MaxMap(torch.nn.Module):
    """Clips [B,F,N] -> the map [B,F,N,N] of their maxima, zero at no candidate. No parameters."""

    def __init__(self, num_clips, scale_layers):
        super().__init__()
        self.num_clips, self.levels = num_clips, map_candidates(num_clips, scale_layers)
        self.mask = torch.zeros(num_clips, num_clips)
        for _, _, spans in self.levels:
            self.mask[tuple(torch.tensor(spans).T)] = 1

    def forward(self, clips):
        cells = clips.new_zeros(*clips.shape, self.num_clips)
        for kernel, stride, spans in self.levels:
            clips = torch.nn.functional.max_pool1d(clips, kernel, stride)
            cells[:, :, *torch.tensor(spans).T] = clips
        return cells


def kernel_weights(mask, kernel, layers):
    """What the official map convolutions multiply by: 1 / valid cells under the kernel; one map a layer.

    All padding is on the first layer, (kernel - 1) / 2 * layers on each side.
    """
    valid, weights = mask[None, None], []
    for layer in range(layers):
        padding = 0 if layer else (kernel - 1) * layers // 2
        count = torch.nn.functional.conv2d(valid, torch.ones(1, 1, kernel, kernel), padding=padding)
        weights.append(torch.where(count > 0, 1 / count.clamp(min=1), 0))
        valid = (count > 0).float()
    return weights


def overlap_map(num_clips, span, duration):
    """IoU [B,N,N] of every cell with the annotated moment; negative lengths count as none."""
    clip = duration[:, None, None] / num_clips
    start = torch.arange(num_clips)[None, :, None] * clip
    end = (torch.arange(num_clips)[None, None, :] + 1) * clip
    gold_start, gold_end = span[:, :, None, None].unbind(1)
    shared = (torch.minimum(end, gold_end) - torch.maximum(start, gold_start)).clamp(min=0)
    return shared / (torch.maximum(end, gold_end) - torch.minimum(start, gold_start))


def make_optimizer(options, twin):
    """Adam or AdamW as `config.optimizer`, at its full learning rate.

    Where some parameters are exempt from weight decay, they are the biases and scales.
    """
    settings = {"lr": options.learning_rate, "betas": (options.b1, options.b2), "eps": options.eps}
    if options.name == "adam":
        return torch.optim.Adam(twin.parameters(), **settings)
    exempt = [x for x in twin.parameters() if options.no_decay and x.ndim == 1]
    decayed = [x for x in twin.parameters() if not (options.no_decay and x.ndim == 1)]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], **settings)


def train_step(twin, optimizer, clip_norm, batch, autocast=None, **draws):
    """One update; returns the objective before it. `draws` go to the loss.

    With a `torch.autocast` the forward pass is in its format; the loss is in float32, as ours.
    """
    optimizer.zero_grad()
    with autocast or contextlib.nullcontext():
        outputs = twin(batch)
    if autocast:
        outputs = tree_map_only(torch.Tensor, lambda x: x.float() if x.is_floating_point() else x, outputs)
    objective = sum(twin.loss(outputs, batch, **draws).values())
    objective.backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), clip_norm)
    optimizer.step()
    return objective.item()


def random_draws(model, variables, batch, key):
    """The random choices of our loss, as arguments of the twin's; a model without any has none."""

    @jax.jit
    def of_clips(variables, batch):
        outputs, _ = model.apply(variables, batch, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
        return getattr(outputs, "clip_draws", None)

    draws = of_clips(variables, batch)
    return {} if draws is None else {"draws": torch.tensor(jax.device_get(draws))}
