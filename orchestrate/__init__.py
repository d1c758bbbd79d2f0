"""Plan where every slice of a GPT goes on a cluster, then train it there."""

__version__ = "0.1.0"
