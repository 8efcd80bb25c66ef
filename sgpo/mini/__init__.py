"""The mini world, embedded: problems, strong model, base models, probes. Used by the benchmarks;
imports sgpo.core alone.
"""
