"""Data sets from the Hugging Face hub, pinned by revision, or from its cache without a network."""

from __future__ import annotations

from pathlib import Path

from benchmarks.data.rows import SUFFIXES


def fetch_dataset(
    repository: str,
    *,
    split: str,
    revision: str | None = None,
    subset: str = "",
    offline: bool = False,
) -> tuple[list[Path], str]:
    """The data files of one split, and the commit that they are of.

    Args:
        repository: data set on the hub, "owner/name". split: part of the wanted file names.
        revision: commit, tag or branch; None for the main branch. A commit is the only one that
            cannot move: record the returned one and pass it next time.
        subset: further part of the names, where a data set holds several.
        offline: take the files from the local cache and open no connection.

    Raises:
        ValueError: one line that says what is wrong: no such data set or revision, a gated one
            without a token, no network, nothing cached, or no file of that split.
    """
    from huggingface_hub import constants, errors, snapshot_download

    name = f"data set {repository!r}" + (f" at revision {revision!r}" if revision else "")
    patterns = [f"*{subset}*{split}*{suffix}" for suffix in SUFFIXES]
    # The library reads its switch when it is imported; later changes of the environment are not
    # seen, so it is set on the module too.
    offline = offline or constants.HF_HUB_OFFLINE
    try:
        folder = snapshot_download(
            repository,
            repo_type="dataset",
            revision=revision,
            allow_patterns=patterns,
            local_files_only=offline,
        )
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{name} is gated: accept its terms on the hub and set HF_TOKEN, or give a local file"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{name}: the hub knows no such revision") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{name}: the hub knows no such data set (or it is private and HF_TOKEN is not set)"
        ) from error
    except errors.HFValidationError as error:
        raise ValueError(f"{name}: not a name of a data set, like owner/name") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        why = "is not in the local cache (offline)" if offline else "the hub cannot be reached"
        raise ValueError(f"{name}: {why}; give a local file, or try again online") from error
    except (errors.HfHubHTTPError, OSError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{name}: the hub answers with an error ({line})") from error
    files = sorted(
        p for p in Path(folder).rglob(f"*{split}*") if p.suffix in SUFFIXES and subset in str(p)
    )
    if not files:
        raise ValueError(f"{name}: holds no {' or '.join(SUFFIXES)} file of split {split!r}")
    return files, Path(folder).name
