"""SGPO (arXiv 2606.24064) and its baselines on shared rollout, verifier and training code."""

__version__ = "0.1.0"
