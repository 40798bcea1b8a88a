"""Video Moment Retrieval in JAX and Flax: one contract, one trainer, one file per architecture."""

__version__ = "0.1.0"
