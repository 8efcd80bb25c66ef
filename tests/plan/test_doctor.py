"""``sgpo doctor`` says what is wrong with a machine and what to do about it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from benchmarks.cli import main
from benchmarks.plan import doctor
from sgpo.core import sampling


def test_a_ready_machine_passes(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "FAIL" not in text and "untried" not in text
    assert len(re.findall("^ok ", text, re.MULTILINE)) == len(doctor.TRIED) + 5
    assert "judges a symbolic answer" in text and "CPU cores" in text


def test_an_untried_version_is_no_failure_until_a_check_on_it_fails(monkeypatch, capsys):
    plain = metadata.version
    monkeypatch.setattr(
        doctor.metadata, "version", lambda n: "2.99.0+cu99" if n == "torch" else plain(n)
    )
    assert main(["doctor"]) == 0
    (line,) = [s for s in capsys.readouterr().out.splitlines() if s.startswith("untried")]
    assert "torch 2.99.0+cu99  -> tried: 2.13.0, " in line and "it breaks" in line
    monkeypatch.delattr(sampling, "make_sampler")
    assert main(["doctor"]) == 1
    (line,) = [s for s in capsys.readouterr().out.splitlines() if s.startswith("FAIL")]
    assert "ImportError" in line and "  -> " in line


def test_a_missing_package_and_a_full_disk_come_with_their_remedy(monkeypatch, capsys):
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    assert main(["doctor"]) == 1
    failed = [s for s in capsys.readouterr().out.splitlines() if s.startswith("FAIL")]
    assert len(failed) == len(doctor.TRIED) + 1 and all("  -> " in line for line in failed)
    assert "math-verify is missing (tried: 0.9.0)" in "".join(failed)
    assert "free 2 GiB" in failed[-1]


def test_what_was_tried_is_what_the_package_asks_for():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    asked = {r.name: r for r in map(Requirement, project["dependencies"])}
    for name, tried in doctor.TRIED.items():
        assert all(asked[name].specifier.contains(version) for version in tried), name


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other machines have other instructions")
@pytest.mark.parametrize("own", [None, "default"])
def test_a_command_computes_with_the_instructions_of_every_x86_machine(own):
    """The sums of a run depend on them, and so its last bits; the user's own choice stands."""
    code = "import torch; from benchmarks.cli import main; main(['list', 'profiles']); "
    code += "print(torch.backends.cpu.get_cpu_capability())"
    environment = {k: v for k, v in os.environ.items() if k != "ATEN_CPU_CAPABILITY"}
    environment |= {} if own is None else {"ATEN_CPU_CAPABILITY": own}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == (own or "avx2").upper()
