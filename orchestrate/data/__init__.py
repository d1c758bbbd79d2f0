"""Tokens: where they come from, how they are kept, and which of them make up each sample.

Only `orchestrate.data.loader` imports torch.
"""

from orchestrate.data.dataset import Data, open_data

__all__ = ["Data", "open_data"]
