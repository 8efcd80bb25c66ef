"""Everything that is made from stored runs: tables, figures, claims, pages, and the audit.

For the command line and ``benchmarks.run``. Starts without torch.
"""
