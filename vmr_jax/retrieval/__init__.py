"""Search for moments in a corpus: moments are encoded once, a query is a vector and a dot product.

`MomentIndex` is what users call; `store` is the folder on disk, `search` the exact search on the devices.
"""

from vmr_jax.retrieval.index import MomentIndex

__all__ = ["MomentIndex"]
