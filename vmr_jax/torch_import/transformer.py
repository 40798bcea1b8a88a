"""Attention and transformer layers of PyTorch checkpoints -> `vmr_jax.layers.transformer`."""

import functools

import numpy as np

from vmr_jax.torch_import import Entry, linear, norm


def joint_projection(key: str, path: str, features: int) -> list[Entry]:
    """Query, key and value layers of a torch.nn.MultiheadAttention, which holds them on top of each other."""
    found = []
    for part, name in enumerate(("query", "key", "value")):
        rows = slice(part * features, (part + 1) * features)
        kernel, bias = f"{path}/{name}/kernel", f"{path}/{name}/bias"
        found += [
            Entry(f"{key}.in_proj_weight", kernel, (3 * features, features), functools.partial(_kernel, rows)),
            Entry(f"{key}.in_proj_bias", bias, (3 * features,), functools.partial(_bias, rows)),
        ]
    return found


def _kernel(rows: slice, weight: np.ndarray) -> np.ndarray:
    return weight[rows].T


def _bias(rows: slice, bias: np.ndarray) -> np.ndarray:
    return bias[rows]


def attention(key: str, path: str, features: int) -> list[Entry]:
    """A torch.nn.MultiheadAttention that becomes an `Attention`."""
    out = linear(f"{key}.out_proj", f"{path}/out", (features, features))
    return joint_projection(key, f"{path}/heads", features) + out


def encoder_layer(key: str, path: str, features: int, hidden: int) -> list[Entry]:
    """A layer of DETR's encoder, or a torch.nn.TransformerEncoderLayer, that becomes an `EncoderLayer`."""
    return [
        *attention(f"{key}.self_attn", f"{path}/attention", features),
        *norm(f"{key}.norm1", f"{path}/attention_norm", features),
        *feed_forward(key, path, features, hidden),
        *norm(f"{key}.norm2", f"{path}/output_norm", features),
    ]


def slope(key: str, path: str) -> Entry:
    """A torch.nn.PReLU that becomes the learned slope of a feed-forward network."""
    return Entry(f"{key}.weight", f"{path}/negative_slope", (1,), np.squeeze)


def decoder_layer(key: str, path: str, features: int, hidden: int) -> list[Entry]:
    """A layer of DETR's decoder, or a torch.nn.TransformerDecoderLayer, that becomes a `DecoderLayer`."""
    return [
        *attention(f"{key}.self_attn", f"{path}/attention", features),
        *norm(f"{key}.norm1", f"{path}/attention_norm", features),
        *attention(f"{key}.multihead_attn", f"{path}/memory_attention", features),
        *norm(f"{key}.norm2", f"{path}/memory_norm", features),
        *feed_forward(key, path, features, hidden),
        *norm(f"{key}.norm3", f"{path}/output_norm", features),
    ]


def feed_forward(key: str, path: str, features: int, hidden: int) -> list[Entry]:
    """Both linear layers of a feed-forward network."""
    return [
        *linear(f"{key}.linear1", f"{path}/hidden", (hidden, features)),
        *linear(f"{key}.linear2", f"{path}/output", (features, hidden)),
    ]
