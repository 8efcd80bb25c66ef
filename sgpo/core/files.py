"""Files that are either whole or absent: temporary file, fsync, rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What the user wants others to be able to do. It can be asked only by setting it, which is no
# business of a moment in which other threads may make files.
UMASK = os.umask(0)
os.umask(UMASK)


def _grant(path: Path) -> None:
    """Give a file or directory the mode that an ordinary program would: temporary ones and those
    of safetensors are their owner's alone."""
    os.chmod(path, (0o777 if path.is_dir() else 0o666) & ~UMASK)


def write_bytes(path: Path, content: bytes) -> Path:
    """``path``, after ``content`` was written to it so that no reader ever sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _grant(Path(name))
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    sync_directory(path.parent)
    return path


def write_text(path: Path, text: str) -> Path:
    return write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON with sorted keys and a closing newline."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parsed JSON of ``path``; ValueError naming the file if it is not JSON."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(f"{path}: not valid JSON ({error})") from error


def jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, object) of every line of a JSONL file that is not blank; ValueError where one
    is no UTF-8 text or no JSON object, or the file is absent."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")  # a byte order mark
                row = json.loads(text) if text.strip() else None
            except UnicodeDecodeError as error:
                byte = f"0x{line[error.start]:02x} at position {error.start + 1}"
                raise ValueError(
                    f"{where}: not UTF-8 text (byte {byte}); save it as UTF-8"
                ) from error
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(f"{where}: not valid JSON ({error})") from error
            if row is None and not text.strip():
                continue
            if not isinstance(row, dict):
                raise ValueError(f"{where}: must be a JSON object, is {type(row).__name__}")
            yield where, row


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in jsonl_rows(path)]


def write_sealed_json(path: Path, value: dict[str, Any]) -> None:
    """``value`` as JSON with a digest of itself, so that ``read_sealed_json`` notices damage."""
    write_json(path, value | {"seal": _seal(value)})


def read_sealed_json(path: Path) -> dict[str, Any]:
    """What ``write_sealed_json`` wrote; ValueError naming the file if it is not whole."""
    stored = read_json(path)
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: holds no JSON object")
    value = {key: inner for key, inner in stored.items() if key != "seal"}
    if stored.get("seal") != _seal(value):
        raise ValueError(f"{path}: does not match its own checksum")
    return value


def _seal(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def inside(root: Path, name: str) -> Path:
    """``root / name`` for a name from stored data; ValueError when it leads out of ``root``."""
    path = root / name
    if not name or "\0" in name or root.resolve() not in path.resolve().parents:
        raise ValueError(f"{name!r}: is no path below {root}")
    return path


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A fresh directory to fill; it appears at ``path``, in place of what is there, when the block
    ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".tmp-"))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _grant(file)
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        sync_directory(temporary)
        _grant(temporary)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(path.parent)
