"""Measurements on the weights that finished runs left: a stage after the cells, one file each.

An analysis needs torch and writes a small JSON file with its provenance; the report draws from
that file without torch. ``planned`` says which there are, ``run`` runs one, and each other module
has ``analyse(task, directories, progress) -> dict`` of plain JSON types.
"""
