"""What users bring of their own, and what the commands tell them about what there is."""

from __future__ import annotations

import argparse
import json
import re
import time

import pytest
import standin
from rich.console import Console

from benchmarks.cli import _parser, main
from benchmarks.data.problems import data_source, prepared_problems
from benchmarks.data.sources import evaluation_problems
from benchmarks.plan import preflight
from benchmarks.profiles.planned import planned_run, planned_study
from benchmarks.run import launch, progress
from benchmarks.run.checkpoint import model_directory
from benchmarks.run.status import status_command
from benchmarks.run.study import Outcome, write_plan
from benchmarks.store.records import Study
from sgpo.core.files import write_json

METHOD = """
from dataclasses import dataclass
from baselines.grpo import GRPO, GRPOConfig

@dataclass(frozen=True)
class CONFIG(GRPOConfig): pass

class METHOD(GRPO):
    pass
"""


@pytest.fixture
def own(tmp_path):
    """Two method files and a file of problems."""
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text(METHOD)
    rows = [{"question": f"Find the bik pair: {i}", "answer": i} for i in range(3)]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def asked(out, *words):
    options = _parser().parse_args(
        ["study", "--profile", "quick", "--seeds", "1", *map(str, words)]
    )
    return launch.asked_for(options, out)


def test_a_variant_asked_for_by_name_brings_no_other_into_the_plan_and_stays(tmp_path):
    plain = {entry.key for entry in asked(tmp_path).methods}
    for name in ("sgpo_nll", "sgpo_reverse"):
        study = asked(tmp_path, "--methods", name)
        write_plan(study, tmp_path)  # once planned, it stays
    assert {e.key for e in asked(tmp_path).methods} == plain | {"sgpo_nll", "sgpo_reverse"}
    table = asked(tmp_path / "other", "--only", "table3")
    assert {e.key for e in table.methods} == plain | {"sgpo_nll"}
    assert {e.key for e in asked(tmp_path / "other", "--all").methods} > {"sgpo_nll", "dapo"}


def test_own_methods_and_problems_stand_in_one_plan_and_are_remembered(own, capsys):
    files = ("--method-file", own / "first.py", "--method-file", own / "second.py")
    plan = asked(own / "out", *files, "--problems", own / "bench.jsonl")
    assert [e.key for e in plan.methods][-2:] == ["first", "second"]
    assert [(b.key, b.num_problems, b.k) for b in plan.benchmarks][-1] == ("bench", 3, 2)
    write_plan(plan, own / "out")
    assert [c.run_id for c in asked(own / "out").cells()] == [c.run_id for c in plan.cells()]
    plain = planned_study("quick", 1)
    assert not {c.run_id for c in plan.cells()} & {c.run_id for c in plain.cells()}
    assert main(["diff-configs", "first", "grpo", "--out", str(own / "out")]) == 0
    (own / "second.py").unlink()
    assert "second" not in [e.key for e in asked(own / "out").methods]
    assert "second leaves the study" in capsys.readouterr().out


def test_an_own_method_may_have_a_rate_of_its_own_on_each_model_or_on_all(own):
    usual = planned_study("mini", 1).entry("grpo").config("llama-m", 0).train.learning_rate
    for rate, expected in (('{"qwen-m": 3e-4}', (3e-4, usual)), ("5e-5", (5e-5, 5e-5))):
        (own / "first.py").write_text(f"{METHOD}\nLEARNING_RATE = {rate}\n")
        study = planned_study("mini", 1, [own / "first.py"])
        configs = [study.entry("first").config(model, 0) for model in ("qwen-m", "llama-m")]
        assert tuple(config.train.learning_rate for config in configs) == expected
        warmup = study.entry("sft").config("qwen-m", 0)  # other rows stay as they are
        assert warmup == planned_study("mini", 1).entry("sft").config("qwen-m", 0)
    (own / "first.py").write_text(f"{METHOD}\nLEARNING_RATE = {{'qwen_m': 3e-4}}\n")
    with pytest.raises(ValueError, match="LEARNING_RATE: model 'qwen_m'"):
        planned_study("mini", 1, [own / "first.py"])


def test_problems_that_a_model_cannot_read_are_refused_before_the_study_knows_them(own, refused):
    (own / "bench.jsonl").write_text('{"question": "How many apples are left over?", "answer": 3}')
    words = ["--profile", "quick", "--problems", str(own / "bench.jsonl"), "--out", str(own / "o")]
    for verb in (["study"], ["train", "--model", "qwen-s", "--method", "grpo"]):
        refused([*verb, *words], "bench.jsonl, qwen-s: problem")
    assert not (own / "o" / "study.json").exists() and not (own / "o" / "runs").exists()


def test_an_own_method_that_draws_other_samples_is_marked_in_every_table(own):
    plan = asked(own, "--method-file", own / "first.py", "--method-file", own / "second.py")
    drawn = {"grpo": 12, "first": 12, "second": 5}
    for cell in plan.cells():
        train = cell.config.train
        if cell.config.method in drawn:
            samples = drawn[cell.config.method] * train.num_steps * train.problems_per_step
            result = {"num_parameters": 9, "num_steps": train.num_steps, "num_samples": samples}
            write_json(own / "runs" / cell.run_id / "result.json", result)
    write_plan(plan, own)
    labels = {m["key"]: m["label"] for m in json.loads((own / "study.json").read_text())["methods"]}
    assert labels["first"] == "first" and labels["grpo"] == "SFT+GRPO"
    assert labels["second"] == "second (5 samples a problem, others 12)"


def test_what_an_own_method_shows_without_saying_is_said_before_training(own):
    path = own / "mine.py"
    for call, name in (
        ("rollout.groups(problems, 4, guided=True)", "strategy"),
        ("rollout.prompts(problems, shown='solution')", "solution"),
    ):
        shown = f"    def collect(self, problems, rollout):\n        return {call}\n"
        path.write_text(METHOD.rsplit("    pass", 1)[0] + shown)
        said = rf"mine.py, line \d+: a prompt shows a {name} .* add shows = \('{name}',\) to the"
        with pytest.raises(ValueError, match=said):
            preflight.check([planned_run("quick", str(path))], own)
        declared = f"    shows = ({name!r},)\n\n" + shown
        path.write_text(METHOD.rsplit("    pass", 1)[0] + declared)
        preflight.check([planned_run("quick", str(path))], own)


def test_the_steps_of_a_run_follow_a_small_training_set(tmp_path, capsys):
    model = standin.write_checkpoint(tmp_path / "model", small=True)
    rows, data = standin.write_training_set(tmp_path / "rows.jsonl", 10), tmp_path / "data"
    words = ["--source", rows, "--tokenizer", model, "--out", data, "--test-sets", "none"]
    assert main(["data", "prepare", *map(str, words), "--max-tokens", "2048", "--offline"]) == 0
    assert f"data.source={data_source(data)}" in capsys.readouterr().out
    overrides = [f"data.source={data_source(data)}"]
    cell = planned_run("quick", "grpo", overrides=overrides)
    for config in (cell.parent.config, cell.config):
        count, train = len(prepared_problems(data, config.data.split)), config.train
        most = count - round(train.held_out_share * count)
        assert 0 < train.problems_per_step == most - most % train.updates_per_step
    preflight.check([cell.parent, cell], tmp_path)  # nothing stands in the way
    chosen = planned_run("quick", "grpo", overrides=[*overrides, "train.problems_per_step=16"])
    with pytest.raises(ValueError, match="takes 16"):  # what was asked for is kept
        preflight.check([chosen], tmp_path)


def test_a_train_override_reaches_the_warm_up_as_in_a_study(tmp_path, monkeypatch):
    seen = []

    def run_study(cells, *_, **__):
        seen.extend(cells)
        return Outcome()

    monkeypatch.setattr(launch, "run_study", run_study)
    overrides = ["train.problems_per_step=4", "rollout.max_tokens=50"]
    words = ["train", "--profile", "quick", "--model", "qwen-s", "--method", "grpo"]
    words += [word for item in overrides for word in ("--set", item)]
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert [c.config.method for c in seen] == ["sft", "grpo"]
    assert {c.config.train.problems_per_step for c in seen} == {4}
    study = planned_study("quick", 1, overrides=overrides)
    assert seen[1].run_id in {c.run_id for c in study.cells()}
    equal = ("num_samples=6", "num_autonomous=4", "num_guided=2")  # budgets that stay equal
    asked(tmp_path, *(word for item in equal for word in ("--set", f"settings.{item}")))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("list methods", "sgpo |sgpo_no_clip|SRFT"),
        ("list models", "qwen-m |qwen-l"),
        ("list benchmarks", "trained|math500|minidev"),
        ("list artefacts", "table1|fig4"),
        ("list profiles", "mini |single_gpu"),
        ("list settings sgpo", "settings.kl_threshold        1.0   (paper)"),
        ("mini show 0", "Aldric |world 0: a guided|train-0-0320 (level 2)|boxed"),
        ("config hpt --profile quick", "settings.gate|(the profile's)|grad_clip"),
    ],
)
def test_lists_name_what_there_is(words, expected, capsys):
    assert main(words.split()) == 0
    text = capsys.readouterr().out
    assert all(part in text for part in expected.split("|")), text


def test_status_names_failed_runs_beside_the_plan(tmp_path, capsys, refused):
    write_plan(planned_study("quick", 1), tmp_path)
    side = tmp_path / "runs" / "qwen-s-mine-s0-01234567"
    side.mkdir(parents=True)
    (side / "failed.json").write_text("{}")
    assert main(["status", "--out", str(tmp_path)]) == 0  # the profile is the study's
    text = capsys.readouterr().out
    assert f"{side.name:40} failed, beside the plan" in text and "7 missing" in text
    refused(
        f"status --profile mini --out {tmp_path}",
        "holds a study of the profile quick; leave --profile out",
    )
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(ValueError, match="does not describe a study"):
        status_command(argparse.Namespace(profile="quick", out=tmp_path))


def test_without_a_terminal_a_running_cell_says_a_line_a_minute(tmp_path, monkeypatch, capsys):
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    cell = planned_study("quick", 1).cells()[3]
    console = Console(force_terminal=False, width=200)
    with progress.StudyProgress([cell], console, tmp_path) as shown:
        shown.start(cell)
        (tmp_path / cell.run_id).mkdir()
        step = {"step": 3, "reward": 0.25, "entropy": 1.5, "response_length": 31.0}
        (tmp_path / cell.run_id / "metrics.jsonl").write_text(json.dumps(step) + "\n")
        for news in (("train", 3, 6), ("evaluate", 1, 4, "accuracy 50.0%")):
            shown.update(cell, *news)
            for _ in range(65):
                clock[0] += 1
                shown.refresh()
    lines = capsys.readouterr().out.splitlines()
    # 61 s for 0.75 x 3/6 of the cell: as much again, and two thirds, is left.
    assert lines == [
        f"{cell.run_id}: train 3/6, reward 0.25 entropy 1.5 length 31, about 1:41 left",
        f"{cell.run_id}: evaluate 1/4, accuracy 50.0%, about 0:28 left",
    ]


def test_a_runs_directory_stands_for_its_model(tmp_path):
    model = tmp_path / "run" / "model"
    standin.write_checkpoint(model, small=True)
    assert model_directory(str(tmp_path / "run")) == model_directory(str(model)) == model
    (model / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no .safetensors weights"):
        model_directory(str(model))


def test_the_commands_of_the_report_carry_the_values_of_the_study(tmp_path):
    write_plan(asked(tmp_path, "--set", "train.grad_clip=0.5"), tmp_path)
    command = Study.read(tmp_path).command("fig4", out="here")
    values = "--only fig4 --out here --set train.grad_clip=0.5"
    assert re.search(rf"--profile quick --seeds \d {values}$", command)


def test_problems_that_were_changed_are_not_taken_for_the_planned_ones(own):
    config = planned_run("quick", "sgpo", problems=[own / "bench.jsonl"]).config
    problems, k = evaluation_problems("bench", config.evaluation)
    assert [p.answer for p in problems] == ["0", "1", "2"] and k == 2
    with (own / "bench.jsonl").open("a") as file:
        file.write(json.dumps({"question": "Find the bik pair: 9", "answer": 9}) + "\n")
    with pytest.raises(ValueError, match="is not there or was changed since"):
        evaluation_problems("bench", config.evaluation)


def test_what_must_be_pretrained_first_is_part_of_the_estimate(tmp_path, capsys, monkeypatch):
    laid = progress.pretraining(planned_study("mini", 2).cells(), tmp_path)
    assert laid == {}  # all that is needed comes along
    monkeypatch.setattr(progress, "BASES", tmp_path)
    assert main(["study", "--methods", "sgpo", "--models", "qwen-m", "--seeds", "2", "--dry-run",
                 "--jobs", "1", "--out", str(tmp_path)]) == 0  # fmt: skip
    cells = [c for c in planned_study("mini", 2).cells() if c.config.model == "qwen-m"]
    left = [c for c in cells if c.config.method in ("sft", "sgpo")]
    whole = progress.COST_OF_FOUNDATION + 2 * progress.COST_OF_LESSON
    assert progress.pretraining(left, tmp_path) == {"qwen-m": whole}
    total = progress.clock(whole + sum(map(progress.expected_cost, left)))
    assert f"about {total} with 1 jobs" in capsys.readouterr().out
    for name in ("foundation-0", "world-0-0"):
        (tmp_path / f"qwen-m-{name}").mkdir()
    assert progress.pretraining(left, tmp_path) == {"qwen-m": progress.COST_OF_LESSON}
    assert progress.pretraining(cells, tmp_path) == {}  # its own cell holds the other lesson
