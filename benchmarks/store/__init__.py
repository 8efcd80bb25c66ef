"""Stored studies: plan, runs, verdicts and metrics. Report, run and all above read through it."""
