"""Strategies from a strong model: what is asked, and the asking. Used by benchmarks.data; imports
sgpo.core alone.
"""
