"""The regime of the miniature: the measured conditions of each base model, before any RL result."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report.document import Block, Table, TextCell, row, standing_note
from benchmarks.report.tables.write import write_table
from benchmarks.store.records import NOT_RUN, Study, StudyError, read_object

NAME = "regime"
TITLE = "Regime of the miniature world"
USES = "scores"
REPORTED = "reported"


def needs(study: Study) -> list[tuple[str, str]]:
    """No run of the grid: the conditions are measured on the base models."""
    return []


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes tables/regime.{md,csv,tex}."""
    records = conditions(study) or [
        {"model": NOT_RUN, "condition": NOT_RUN, "value": NOT_RUN, "requirement": NOT_RUN}
    ]
    note = standing_note(study.profile)
    return write_table(out_dir / "tables" / NAME, table(study), note=note, records=records)


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [table(study)]


def conditions(study: Study) -> list[dict[str, object]]:
    """One record a model and measured number from regime.json; empty when it was not measured.

    Conditions come first; what is only reported follows with ``passed`` None.
    """
    path = study.root / "regime.json"
    if not path.exists():
        return []
    try:
        return [
            record
            for model, measured in read_object(path)["models"].items()
            for record in [
                *(_record(model, **entry) for entry in measured["conditions"]),
                *(
                    _record(model, name, value, REPORTED, None)
                    for name, value in _flat(measured.get("reported", {}))
                ),
            ]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise StudyError(
            f"{path.name} lacks {error}; measure it again with sgpo mini check"
        ) from error


def _record(model: str, name: str, value: object, requirement: str, passed: bool | None) -> dict:
    return {
        "model": model,
        "condition": name,
        "value": value,
        "requirement": requirement,
        "passed": REPORTED if passed is None else passed,
    }


def _flat(reported: dict[str, object]) -> list[tuple[str, object]]:
    """Numbers under their names; a breakdown of rates ("..._by_...") as its range."""
    found: list[tuple[str, object]] = []
    for name, value in reported.items():
        words = name.replace("_", " ")
        if not isinstance(value, dict):
            found.append((words, "none" if value is None else value))
        elif "_by_" in name and value:
            low, high = min(value.values()), max(value.values())
            found.append((words, f"{value_text(low)} to {value_text(high)}"))
        else:
            found += [(f"{words}: {inner}", number) for inner, number in _flat(value)]
    return found


def table(study: Study) -> Table:
    """Rows model x condition: measured value, requirement, passed or failed."""
    labels = {model.key: model.label for model in study.models}
    rows = [
        row(
            labels.get(str(c["model"]), str(c["model"])),
            str(c["condition"]),
            value_text(c["value"]),
            str(c["requirement"]),
            outcome(c["passed"]),
        )
        for c in conditions(study)
    ]
    return Table(
        header=("Model", "Condition", "Measured", "Required", "Outcome"),
        rows=tuple(rows) or (row(*[NOT_RUN] * 5),),
        caption="Conditions under which the miniature can tell methods apart, measured on each "
        "base model. Made by: sgpo mini check",
        numeric=frozenset({2}),
    )


def outcome(passed: object) -> TextCell:
    """passed, FAILED in bold, or nothing for a number without a requirement."""
    if passed == REPORTED:
        return TextCell("")
    return TextCell("passed") if passed else TextCell("FAILED", bold=True)


def value_text(value: object) -> str:
    """A measured value in short form; lists and nested values as they are."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(value_text(item) for item in value)
    return str(value)
