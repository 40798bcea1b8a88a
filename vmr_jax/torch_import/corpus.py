"""Parts of XML's line in PyTorch checkpoints -> `vmr_jax.layers.corpus`."""

from vmr_jax.torch_import import Entry, linear, norm


def input_projection(key: str, name: str, width: int, features: int) -> list[Entry]:
    """A LinearLayer with layer norm, of `width` inputs, that becomes an `InputProjection`."""
    return [
        *norm(f"{key}.LayerNorm", f"params/{name}/norm", width),
        *linear(f"{key}.net.1", f"params/{name}/linear", (features, width)),
    ]


def positions(key: str, name: str, count: int, features: int) -> list[Entry]:
    """A TrainablePositionalEncoding that becomes `LearnedPositions`."""
    return [
        Entry(f"{key}.position_embeddings.weight", f"params/{name}/table", (count, features)),
        *norm(f"{key}.LayerNorm", f"params/{name}/norm", features),
    ]


def self_attention(key: str, name: str, features: int) -> list[Entry]:
    """A BertAttention that becomes a `SelfAttention`."""
    return [
        *heads(f"{key}.self", f"params/{name}/attention", features),
        *linear(f"{key}.output.dense", f"params/{name}/output", (features, features)),
        *norm(f"{key}.output.LayerNorm", f"params/{name}/output_norm", features),
    ]


def heads(key: str, path: str, features: int) -> list[Entry]:
    """A BertSelfAttention that becomes a `MultiHeadAttention`."""
    square = (features, features)
    return [e for part in ("query", "key", "value") for e in linear(f"{key}.{part}", f"{path}/{part}", square)]


def cross_attention(key: str, name: str, features: int) -> list[Entry]:
    """A BertSelfAttention of one stream to another and its layer norm, that become a `CrossAttention`."""
    return [
        *heads(f"{key}_cross_att", f"params/{name}/attention", features),
        *norm(f"{key}_cross_layernorm", f"params/{name}/cross_norm", features),
    ]
