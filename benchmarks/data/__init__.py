"""Data: files of problems, training sets, real benchmarks, where a run's problems come from. Used
by profiles, plan, analyses and run; imports sgpo and benchmarks.config.
"""
