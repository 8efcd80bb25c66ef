"""Data sets as the ``datasets`` library reads them: of the Hugging Face hub at a revision, from its
cache without a network, and on this disk.

The hub's files are fetched whole at one commit and read from the disk. ``load_dataset`` with the
name alone would not do: when the hub cannot be reached it takes whatever the cache holds under that
name, of any revision.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATTERNS = ("README.md", "*.parquet", "*.jsonl", "*.json", "*.csv")


def go_offline() -> None:
    """Open no connection from here on, in this process and in those it starts."""
    from huggingface_hub import constants

    # The library reads its switch when it is imported; later changes of the environment are not
    # seen, so it is set on the module too.
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


def fetch_dataset(
    repository: str, *, revision: str | None = None, offline: bool = False
) -> tuple[Path, str]:
    """The directory with the files of a data set of the hub, and the commit that they are of.

    Args:
        repository: "owner/name".
        revision: commit, tag or branch; None for the main branch. Only a commit cannot move.
        offline: take the files from the local cache and open no connection, as HF_HUB_OFFLINE does.

    Raises:
        ValueError: one line that says what is wrong.
    """
    from huggingface_hub import constants, errors, snapshot_download

    offline = offline or constants.HF_HUB_OFFLINE
    try:
        folder = snapshot_download(
            repository,
            repo_type="dataset",
            revision=revision,
            allow_patterns=list(PATTERNS),
            local_files_only=offline,
        )
    except (errors.HFValidationError, OSError) as error:  # OSError: all others of the hub
        name = f"data set {repository!r}" + (f" at revision {revision!r}" if revision else "")
        raise ValueError(name + _meaning(error, offline)) from error
    return Path(folder), Path(folder).name


def _meaning(error: Exception, offline: bool) -> str:
    """What an error of the hub's client means to a user."""
    from huggingface_hub import errors

    for kind, text in (
        (errors.HFValidationError, ": neither a file or directory here nor a name of a data set, "
         "like owner/name"),
        (errors.GatedRepoError, " is gated: accept its terms on the hub and set HF_TOKEN, or give "
         "a local file"),
        (errors.RevisionNotFoundError, ": the hub knows no such revision"),
        (errors.RepositoryNotFoundError, ": the hub knows no such data set (or it is private and "
         "HF_TOKEN is not set)"),
        ((errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled),
         f": {'is not in the local cache (offline)' if offline else 'the hub cannot be reached'}; "
         "give a local file, or try again online"),
    ):  # fmt: skip
        if isinstance(error, kind):
            return text
    return f": the hub answers with an error ({_line(error)})"


def rows_of(path: Path, split: str, subset: str | None = None) -> Iterator[tuple[str, dict]]:
    """(file or directory and row, columns) of a parquet file, of what ``save_to_disk`` of the
    ``datasets`` library left, or of a directory of data files as the hub has them.

    Raises:
        ValueError: no such path, another kind of file, damaged content, no such split.
    """
    import pyarrow
    from datasets.exceptions import DatasetsError

    if not path.exists():
        raise ValueError(f"problem file {str(path)!r}: no such file")
    if path.is_file() and path.suffix != ".parquet":
        raise ValueError(
            f"problem file {str(path)!r}: must be .jsonl, .json, .parquet or a data set's directory"
        )
    try:
        for number, row in enumerate(_load(path, split, subset), start=1):
            yield f"{path}, row {number}", row
    except (DatasetsError, pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path}: cannot be read as a data set with split {split!r} ({_line(error)})"
        ) from error


def _load(path: Path, split: str, subset: str | None) -> Any:
    """The rows; read as they are asked for, so that nothing is written to a second cache."""
    import datasets

    if path.is_file():
        data = datasets.load_dataset("parquet", data_files=[str(path)], streaming=True)
        return data["train"]
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        saved = datasets.load_from_disk(str(path))
        return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
    return datasets.load_dataset(str(path), subset, split=split, streaming=True)


def _line(error: BaseException) -> str:
    """The innermost message: ``datasets`` says in the outer ones only that something failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
