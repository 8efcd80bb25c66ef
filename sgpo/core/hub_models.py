"""Checkpoints by name: a local directory, or one of the Hugging Face hub at a revision."""

from __future__ import annotations

from pathlib import Path

# Weights in safetensors only; code, other formats and originals are never fetched.
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")


def checkpoint_directory(name: str, revision: str | None = None) -> Path:
    """The directory of checkpoint ``name``, downloaded into the hub's cache if need be.

    Raises:
        ValueError: one line that says what is wrong: an incomplete directory, no such model or
            revision, a gated model without a token, no network and nothing cached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        _check_complete(path)
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ValueError(f"checkpoint {name!r}: no such directory")
    path = _download(name, revision)
    _check_complete(path)
    return path


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    what = f"checkpoint {name!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS)))
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{what} is gated: accept its terms on the hub and set HF_TOKEN, or give a local "
            "directory with --set checkpoint=DIRECTORY"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{what}: the hub knows no such revision") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{what}: the hub knows no such model (or it is private and HF_TOKEN is not set)"
        ) from error
    except errors.HFValidationError as error:
        raise ValueError(f"{what}: neither a directory nor a name like owner/model") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{what}: not in the cache and the hub cannot be had ({line}); give a local directory "
            "with --set checkpoint=DIRECTORY"
        ) from error


def _check_complete(path: Path) -> None:
    for needed, why in (
        ("config.json", "it is no model directory"),
        ("tokenizer_config.json", "save the model's tokenizer beside its weights"),
    ):
        if not (path / needed).is_file():
            raise ValueError(f"checkpoint {str(path)!r}: {needed} is missing; {why}")
    if not list(path.glob("*.safetensors")):
        raise ValueError(
            f"checkpoint {str(path)!r}: holds no .safetensors weights (other formats can run code "
            "when they are loaded and are refused)"
        )
