"""Stored runs: a directory of small files each, or together the four tables of a published study.

A run leaves a directory (``benchmarks.run.cell``). ``sgpo publish`` moves the directories of a
study into ``runs.parquet`` (a row a run with the text of its files), ``verdicts.parquet`` (a row a
judged sample: scores.json), ``metrics.parquet`` (a row a training step: metrics.jsonl) and
``ledger.parquet`` (a row a type and place of tokens: ledger.json). A file reads the same in either
form, byte for byte, so that the checksums in result.json hold for both. ``samples.parquet`` has the
rows of some runs' samples files, where texts were kept. Imports no torch.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sgpo.core.config import canonical_json
from sgpo.core.files import inside, read_json, read_jsonl, sha256_of

SAMPLES = "samples"
SCORES, METRICS, LEDGER = "scores.json", "metrics.jsonl", "ledger.json"
TEXTS = ("config.json", "environment.json", "method.py", "provenance.json", "regime.json",
         "result.json", "source.patch", "train.json")  # fmt: skip
LABELS = ("run_id", "model", "method", "seed")
# The metrics that count something: whole numbers. All others are published as floats.
COUNTS = ("step", "sampled_tokens", "num_samples", "scored_tokens")
# What ledger.json sums by type and place; the places of a plan's choices.
SUMS = ("tokens", "kl", "kl_masked")
CHOICES = ("order", "combine", "finish")
PROBLEMS_FILE = "problems.parquet"  # a row a problem of each world; beside the runs
# scores.json files what a run scored at another budget than 1 under BENCHMARK@BUDGET.
AT = "@"
# Verdict letters of scores.json and what they mean.
REASONS = {"c": "correct", "w": "wrong", "n": "no_answer", "t": "truncated", "o": "timeout",
           "e": "error"}  # fmt: skip
SAMPLE_KEYS = ("problem_id", "sample", "gold", "text", "num_tokens", "finish_reason", "reason")
_SAMPLES_END = ".jsonl.gz"


class StudyError(ValueError):
    """A results directory that cannot be reported; one line that names the file and the remedy."""


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or StudyError naming the file."""
    if not path.exists():
        raise StudyError(f"{path} does not exist; run the study of this directory first")
    return _object(path.read_bytes(), path)


def _object(content: bytes, where: Path) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise StudyError(f"{where} is not valid JSON ({error}); remove it and repeat") from error
    if not isinstance(value, dict):
        raise StudyError(f"{where} must hold a JSON object; remove it and repeat")
    return value


@dataclass(frozen=True)
class StoredRun:
    """One ended run by the files in its directory ``path``."""

    path: Path
    published = False

    @property
    def run_id(self) -> str:
        return self.path.name

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def content(self, name: str) -> bytes | None:
        """The bytes of one of its files, None where it has no such file."""
        return (self.path / name).read_bytes() if self.has(name) else None

    def digest(self, name: str) -> str | None:
        """sha256 of one of its files, None where it is not here."""
        if (path := inside(self.path, name)).is_file():
            return sha256_of(path)
        content = self.content(name)
        return hashlib.sha256(content).hexdigest() if content else None

    def object(self, name: str) -> dict[str, Any]:
        """The JSON object in one of its files, or StudyError naming the file."""
        content = self.content(name)
        if content is None:
            raise StudyError(f"{self.path / name} does not exist; run bash reproduce.sh first")
        return _object(content, self.path / name)

    def metrics(self) -> list[dict[str, Any]]:
        """One record a training step, [] where it was not trained; ValueError naming a broken
        file."""
        return read_jsonl(self.path / METRICS) if self.has(METRICS) else []

    def sampled(self) -> list[str]:
        """The keys of scores.json whose samples are here with their texts."""
        found = (self.path / "samples").glob(f"*{_SAMPLES_END}")
        return sorted(path.name.removesuffix(_SAMPLES_END) for path in found)

    def samples(self, key: str) -> list[dict[str, Any]]:
        """The judged samples of one of ``sampled``, a record each; ValueError naming a damaged
        file."""
        return read_samples(self.path / "samples" / f"{key}{_SAMPLES_END}")


@dataclass(frozen=True)
class PublishedRun(StoredRun):
    """One whose files are rows of ``tables``; its directory is not here."""

    tables: Tables
    published = True

    def has(self, name: str) -> bool:
        column = "metric_names" if name == METRICS else name
        return self.tables.rows[self.run_id].get(column) is not None

    def content(self, name: str) -> bytes | None:
        if not self.has(name):
            return None
        if name == METRICS:
            return metrics_text(self.metrics())
        if name == SCORES:
            return f"{canonical_json(self.object(name))}\n".encode()
        if name == LEDGER:  # as sgpo.core.files.write_json does
            return f"{json.dumps(self.object(name), indent=1, sort_keys=True)}\n".encode()
        return self.tables.rows[self.run_id][name].encode()

    def object(self, name: str) -> dict[str, Any]:
        if name not in (SCORES, LEDGER) or not self.has(name):
            return super().object(name)
        value = json.loads(self.tables.rows[self.run_id][name])
        if name == LEDGER:
            for row in self.tables.ledger.get(self.run_id, ()):
                value.setdefault(row["type"], {})[row["place"]] = {n: row[n] for n in SUMS}
            return value
        for key, entry in value["benchmarks"].items():
            letters, answers = self.tables.verdicts.get((self.run_id, key), ("", ""))
            entry["verdicts"] = _words(letters, entry["k"])
            if answers:
                entry["answers"] = " ".join(_words(answers, entry["k"]))
        return value

    def metrics(self) -> list[dict[str, Any]]:
        names = self.tables.rows[self.run_id]["metric_names"] or ()
        rows = self.tables.metrics.get(self.run_id, ())
        return [{n: row[n] for n in names if row[n] is not None} for row in rows]

    def sampled(self) -> list[str]:
        return list(self.tables.samples.get(self.run_id, ()))

    def samples(self, key: str) -> list[dict[str, Any]]:
        return self.tables.samples[self.run_id][key]


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The rows of a samples file; ValueError naming it when it is none or damaged."""
    try:
        text = gzip.decompress(path.read_bytes()).decode()
        rows = [json.loads(line) for line in text.splitlines()]
        if any(key not in row for row in rows for key in SAMPLE_KEYS):
            raise ValueError(f"a sample lacks one of {', '.join(SAMPLE_KEYS)}")
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path}: no samples file, or a damaged one ({error}); of a run, evaluate it again "
            "without it"
        ) from error
    return rows


def is_finished(run_dir: Path, *, weights: bool = True) -> bool:
    """Whether the run is complete on this machine: results that came with the source tree have
    no samples and weights beside them and count as published, not as finished. ``weights``: whether
    those must be here; of a run that was imported they are not, and only other runs need them."""
    if not (run_dir / "result.json").exists() or not (run_dir / "samples").is_dir():
        return False
    trained = read_json(run_dir / "result.json")["num_steps"] > 0
    return not trained or not weights or (run_dir / "model").is_dir()


def stored_runs(root: Path) -> dict[str, StoredRun]:
    """Every ended run of ``root`` (``results/<profile>`` or its ``tuning``) by id, in order of
    ids. A directory comes before a row of the same run: it was made since."""
    found: dict[str, StoredRun] = {**published_runs(root)}
    for path in (root / "runs").glob("*/result.json"):
        if not path.parent.name.startswith("."):
            found[path.parent.name] = StoredRun(path.parent)
    return dict(sorted(found.items()))


def published_runs(root: Path) -> dict[str, PublishedRun]:
    """The runs in the tables of ``root``; {} where there are none."""
    if not (root / "runs.parquet").exists():
        return {}
    tables = Tables(root)
    return {run_id: PublishedRun(root / "runs" / run_id, tables) for run_id in tables.rows}


def read_table(root: Path, name: str) -> pa.Table:
    """One of ``TABLES``: a file, or a directory of parts where one file would be too large."""
    try:
        return pq.read_table(root / f"{name}.parquet").unify_dictionaries().combine_chunks()
    except (OSError, pa.ArrowException) as error:
        raise StudyError(f"{root / name}.parquet is damaged ({error}); get it again") from error


class Tables:
    """The tables of a published study, by run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows = {row["run_id"]: row for row in read_table(root, "runs").to_pylist()}

    @cached_property
    def verdicts(self) -> dict[tuple[str, str], tuple[str, str]]:
        """(run, key of scores.json) -> all its verdict letters in a row and all its answer
        symbols."""
        frame = read_table(self.root, "verdicts").to_pandas()
        letters = frame["reason"].map({word: letter for letter, word in REASONS.items()})
        letters = letters.to_numpy(object)
        symbols = frame["answer"].astype(object).fillna("").to_numpy()
        by = frame.groupby(["run_id", "benchmark", "budget"], observed=True, sort=False)
        return {
            (run_id, scored_as(key, budget)): ("".join(letters[rows]), "".join(symbols[rows]))
            for (run_id, key, budget), rows in by.indices.items()
        }

    @cached_property
    def samples(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Run -> benchmark -> the rows of its samples file, of the runs whose texts were kept."""
        found: dict[str, dict[str, list[dict[str, Any]]]] = {}
        if (self.root / f"{SAMPLES}.parquet").exists():
            for run_id, rows in self._by_run(SAMPLES).items():
                of_run = found[run_id] = {}
                for row in rows:
                    sample = {name: row[name] for name in SAMPLE_KEYS}
                    sample["correct"] = row["reason"] == "correct"
                    of_run.setdefault(row["benchmark"], []).append(sample)
        return found

    @cached_property
    def metrics(self) -> dict[str, list[dict[str, Any]]]:
        return self._by_run("metrics")

    @cached_property
    def ledger(self) -> dict[str, list[dict[str, Any]]]:
        return self._by_run("ledger")

    def _by_run(self, name: str) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for row in read_table(self.root, name).to_pylist():
            found.setdefault(row["run_id"], []).append(row)
        return found


def scored_as(benchmark: str, budget: float) -> str:
    """The key of scores.json for a benchmark at a budget."""
    return benchmark if budget == 1 else f"{benchmark}{AT}{budget:g}"


def benchmark_and_budget(key: str) -> tuple[str, float]:
    """What a key of scores.json is about."""
    benchmark, _, budget = key.partition(AT)
    return benchmark, float(budget or 1)


def metrics_text(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """metrics.jsonl as it is published: values in the order of their first appearance, no nulls,
    and floats but for ``COUNTS``."""
    names, text = metric_names(rows), ""
    for row in rows:
        kept = {name: row[name] for name in names if row.get(name) is not None}
        kept = {n: float(v) if type(v) is int and n not in COUNTS else v for n, v in kept.items()}
        text += f"{json.dumps(kept)}\n"
    return text.encode()


def metric_names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the metrics that have a value in some row, in the order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row if row[name] is not None))


def _words(text: str, k: int) -> list[str]:
    return [text[i : i + k] for i in range(0, len(text), k)]


# Making the tables -------------------------------------------------------------------------------

_LABEL_TYPES = [("run_id", pa.string()), ("model", pa.string()), ("method", pa.string()),
                ("seed", pa.int64())]  # fmt: skip
_VERDICTS = pa.schema(
    [*_LABEL_TYPES, ("benchmark", pa.string()), ("budget", pa.float64()), ("problem", pa.int32()),
     ("sample", pa.int32()), ("correct", pa.bool_()), ("reason", pa.string()),
     ("answer", pa.string())]
)  # fmt: skip


def run_table(runs: Sequence[StoredRun]) -> pa.Table:
    """A row a run: its labels, how it ended, and the text of each of its files. Of those that have
    tables only what the tables lack: sizes and protocol, the order of metrics, whether there was a
    ledger."""
    rows = []
    for run in runs:
        result = run.object("result.json")
        texts = {name: content.decode() for name in TEXTS if (content := run.content(name))}
        if run.has(SCORES):
            scores = run.object(SCORES)
            brief = {
                key: {k: v for k, v in entry.items() if k not in ("verdicts", "answers")}
                for key, entry in scores["benchmarks"].items()
            }
            texts[SCORES] = canonical_json(scores | {"benchmarks": brief})
        if run.has(LEDGER):
            texts[LEDGER] = "{}"
        names = metric_names(run.metrics()) if run.has(METRICS) else None
        rows.append({**_labels(run), "status": result["status"], **texts, "metric_names": names})
    text = [(name, pa.string()) for name in ("status", *TEXTS, SCORES, LEDGER)]
    schema = [*_LABEL_TYPES, *text, ("metric_names", pa.list_(pa.string()))]
    return pa.Table.from_pylist(rows, schema=pa.schema(schema))


def _labels(run: StoredRun) -> dict[str, Any]:
    result = run.object("result.json")
    return {"run_id": run.run_id} | {name: result.get(name) for name in LABELS[1:]}


def verdict_table(runs: Sequence[StoredRun]) -> pa.Table:
    """A row a judged sample, in the order of runs, benchmarks, budgets, problems and samples."""
    blocks = []
    for run in runs:
        scored = run.object(SCORES)["benchmarks"] if run.has(SCORES) else {}
        labels = _labels(run)
        labels["seed"] = labels["seed"] or 0
        for key, entry in sorted(scored.items()):
            count, k = len(entry["verdicts"]), entry["k"]
            letters = "".join(entry["verdicts"])
            symbols = entry["answers"].replace(" ", "") if "answers" in entry else None
            if {len(letters), len(letters if symbols is None else symbols)} != {count * k}:
                raise StudyError(
                    f"{run.path / SCORES}, {key}: not {k} samples a problem; evaluate it again"
                )
            benchmark, budget = benchmark_and_budget(key)
            place = labels | {"benchmark": benchmark, "budget": budget}
            columns = {name: pa.repeat(value, count * k) for name, value in place.items()}
            columns["problem"] = np.repeat(np.arange(count), k)
            columns["sample"] = np.tile(np.arange(k), count)
            columns["correct"] = np.array([*letters]) == "c"
            columns["reason"] = [REASONS[letter] for letter in letters]
            columns["answer"] = pa.nulls(count * k) if symbols is None else [*symbols]
            blocks.append(pa.table(columns, schema=_VERDICTS))
    return _encoded(pa.concat_tables(blocks) if blocks else _VERDICTS.empty_table())


def metric_table(runs: Sequence[StoredRun]) -> pa.Table:
    """A row a training step with a column a metric, null where a run does not record it.

    Raises:
        StudyError: a metric that is no number, or is called as a label of the run.
    """
    rows: list[dict[str, Any]] = []
    for run in runs:
        labels = _labels(run)
        for row in run.metrics():
            for name, value in row.items():
                allowed = (int,) if name in COUNTS else (int, float, type(None))
                if type(value) not in allowed or name in LABELS:
                    raise StudyError(f"{run.path / METRICS}: {name}={value!r} is no metric")
            rows.append(row | labels)
    names = [name for name in metric_names(rows) if name not in LABELS]
    kinds = [(name, pa.int64() if name in COUNTS else pa.float64()) for name in names]
    return _encoded(pa.Table.from_pylist(rows, schema=pa.schema([*_LABEL_TYPES, *kinds])))


def ledger_table(runs: Sequence[StoredRun]) -> pa.Table:
    """A row a run, type and place that a distilled token had. ``prior``: of the type in the run's
    world, null where problems.parquet does not know the world."""
    rows, known = [], priors(runs[0].path.parents[1]) if runs else {}
    for run in runs:
        labels = _labels(run)
        for kind, places in run.object(LEDGER).items() if run.has(LEDGER) else ():
            for place, sums in places.items():
                what = "choice" if place in CHOICES else place
                place = {"type": kind, "place": place, "token_class": what}
                rows.append(labels | place | sums | {"prior": known.get((labels["seed"], kind))})
    texts = [(name, pa.string()) for name in ("type", "place", "token_class")]
    numbers = [(name, pa.float64()) for name in ("prior", *SUMS)]
    schema = pa.schema([*_LABEL_TYPES, *texts, *numbers])
    return _encoded(pa.Table.from_pylist(rows, schema=schema))


def priors(root: Path) -> dict[tuple[int, str], float]:
    """(world, type) -> how often its writers find the type's plan without a strategy; {} where no
    world was recorded."""
    if not (root / PROBLEMS_FILE).exists():
        return {}
    rows = pq.read_table(root / PROBLEMS_FILE, columns=["seed", "types", "prior"]).to_pylist()
    return {(row["seed"], row["types"]): row["prior"] for row in rows if " " not in row["types"]}


def _encoded(table: pa.Table) -> pa.Table:
    """``table`` with its columns of text as dictionaries."""
    for place, field in enumerate(table.schema):
        if field.type == pa.string():
            column = table.column(place).dictionary_encode()
            table = table.set_column(place, field.name, column)
    return table.combine_chunks()


def sample_table(runs: Sequence[StoredRun]) -> pa.Table:
    """A row a sample with its text, of every benchmark that ``runs`` were judged on at the study's
    own budget, in the order of their samples files."""
    rows = [
        _labels(run) | {"benchmark": key} | {name: row[name] for name in SAMPLE_KEYS}
        for run in runs
        for key in run.sampled()
        if AT not in key
        for row in run.samples(key)
    ]
    whole = {"sample", "num_tokens"}
    kinds = [(name, pa.int64() if name in whole else pa.string()) for name in SAMPLE_KEYS]
    schema = pa.schema([*_LABEL_TYPES, ("benchmark", pa.string()), *kinds])
    return pa.Table.from_pylist(rows, schema=schema)


# Name of a published table -> what makes it of runs.
TABLES: dict[str, Callable[[Sequence[StoredRun]], pa.Table]] = {
    "verdicts": verdict_table,
    "metrics": metric_table,
    "ledger": ledger_table,
    "runs": run_table,  # written last: what it names is in the others
}
