"""The figures of the report. ``axes`` is their common look; each other file has artefacts."""
