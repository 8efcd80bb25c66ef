"""``sgpo strategies`` against a real server on this machine that errs in every way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripted_endpoint import candidate, scripted_endpoint

pytest.importorskip("openai", reason="the openai client is not installed (extra: strategies)")

import openai._base_client

from benchmarks.cli import main
from benchmarks.data.problems import prepared_problems, write_problems
from sgpo.core.files import read_json, write_json
from sgpo.core.types import Problem
from sgpo.strategies import ask


@pytest.fixture
def data(tmp_path) -> Path:
    """A prepared set: six problems for RL."""
    folder = tmp_path / "set"
    problems = [Problem(f"p{i}", f"Add q{i}.", f"{40 + i}", expert="think") for i in range(8)]
    write_problems(folder / "warmup.jsonl", problems[6:])
    write_problems(folder / "rl.jsonl", problems[:6])
    write_json(folder / "report.json", {})
    return folder


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(ask, "BAD_BODY_PAUSE", 0.01)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.02)


def strategies(data: Path, url: str, *more: object) -> int:
    return main(["strategies", "--data", str(data), "--endpoint", url, "--model", "strong",
                 "--concurrency", "3", *map(str, more)])  # fmt: skip


def test_every_problem_gets_the_best_of_five_and_a_second_call_asks_nothing(data, capsys):
    with scripted_endpoint() as endpoint:
        assert strategies(data, endpoint.url, "--scorer", "judge") == 0
        problems = prepared_problems(data, "rl")
        assert [p.id for p in problems] == [f"p{i}" for i in range(6)]
        assert all("Strategy: Idea e.\n" in p.strategy for p in problems)  # scores rise to the last
        assert endpoint.models == {"strong": 6, "judge": 6} and endpoint.most_at_once <= 3
        report = read_json(data / "strategies_report.json")
        taken = {"requests": 12, "prompt_tokens": 1200, "completion_tokens": 120}
        assert report["spent"] == report["total"] == taken
        assert report["bands"]["[0.8, 1]"] == 6 and report["candidates"] == 30
        assert report["mean_score"] == pytest.approx((1 + 0.4 + 1 + 1) / 4)
        assert "6 of 6 problems have a strategy" in capsys.readouterr().out
        first = (data / "strategies.jsonl").read_bytes()
        assert strategies(data, endpoint.url, "--scorer", "judge") == 0
        assert len(endpoint.prompts) == 12 and (data / "strategies.jsonl").read_bytes() == first
    report = read_json(data / "strategies_report.json")
    assert report["spent"]["requests"] == 0 and report["total"] == taken


@pytest.mark.parametrize("fault", ["rate limit", "status 500", "drop", "cut", "empty", "slow 0.7"])
def test_passing_faults_are_waited_out(data, fault):
    """Every request fails in this way when it is made for the first time."""
    seen: set[str] = set()

    def script(number: int, prompt: str) -> str | None:
        first = prompt not in seen
        seen.add(prompt)
        return fault if first else None

    timeout = 0.4 if fault.startswith("slow") else 60
    with scripted_endpoint(script) as endpoint:
        assert strategies(data, endpoint.url, "--timeout", timeout) == 0
    assert len(prepared_problems(data, "rl")) == 6
    report = read_json(data / "strategies_report.json")
    assert report["total"]["requests"] == 12 and len(endpoint.prompts) == 24


def test_candidates_that_leak_are_never_kept(data):
    def script(number: int, prompt: str) -> str | None:
        if "strategies meant" in prompt:
            assert "is 4" not in prompt  # a leaking one is not even scored
            return None
        index = int(prompt.split("Add q")[1][0])
        leaky = candidate("sums", f"The answer is {40 + index}.")
        return leaky + ("" if index == 2 else candidate("sums", f"Clean {index * 'x'}."))

    with scripted_endpoint(script) as endpoint:
        assert strategies(data, endpoint.url, "--candidates", 2) == 0
    assert [p.id for p in prepared_problems(data, "rl")] == ["p0", "p1", "p3", "p4", "p5"]
    assert len(prepared_problems(data, "warmup")) == 2
    report = read_json(data / "strategies_report.json")
    assert report["without"] == [{"id": "p2", "why": "every candidate leaks", "final": True}]
    assert report["leaking_candidates"] == 6
    assert not any("The answer is" in p.strategy for p in prepared_problems(data, "rl"))


def test_replies_that_cannot_be_read_are_asked_for_again(data):
    """Cut candidates first, then scores of the wrong number; p5 never replies in the form."""
    seen: set[str] = set()

    def script(number: int, prompt: str) -> str | None:
        if "Add q5" in prompt:
            return "I would rather talk about it."
        if prompt in seen or "Write 4" in prompt:
            return None
        seen.add(prompt)
        if "strategies meant" in prompt:
            return '{"scores": [{"type": 1, "strategy": 1, "steps": 1, "no_le'
        return candidate("sums", "One only.") + "<candidate>\nProblem type: cut"

    with scripted_endpoint(script) as endpoint:
        assert strategies(data, endpoint.url) == 0
    assert len(prepared_problems(data, "rl")) == 5
    report = read_json(data / "strategies_report.json")
    assert report["without"] == [{"id": "p5", "why": "no candidate could be read", "final": True}]
    # One of five was read, so four were asked for next: five in all.
    assert report["candidates"] == 25
    assert sum("Write 4 different" in p for p in endpoint.prompts) == 5


def test_an_interrupted_extraction_goes_on_from_its_cache(data, capsys):
    """The endpoint dies after seven requests; what it said until then is not asked for again."""
    with scripted_endpoint(lambda n, _: None if n < 7 else "status 401") as endpoint:
        assert strategies(data, endpoint.url) == 2
    error = capsys.readouterr().err
    assert "access refused; set OPENAI_API_KEY" in error and len(error.splitlines()) == 1
    assert not (data / "strategies.jsonl").exists()
    cache = data / "strategy_replies.jsonl"
    assert len(cache.read_text().splitlines()) == 7
    with cache.open("a") as file:
        file.write('{"key": "half a li')  # the machine stopped in the middle of a line
    with scripted_endpoint() as endpoint:
        assert strategies(data, endpoint.url) == 0
    assert len(endpoint.prompts) == 12 - 7
    assert all(json.loads(line) for line in cache.read_text().splitlines())
    assert len(prepared_problems(data, "rl")) == 6


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("status 404", "no such model or path"),
        ("status 403", "access refused"),
        ("empty", "2 problems failed in a row: repeat the command"),
    ],
)
def test_an_endpoint_that_will_not_work_is_given_up(data, capsys, monkeypatch, fault, message):
    monkeypatch.setattr(ask, "FAILURES_IN_A_ROW", 2)
    with scripted_endpoint(lambda *_: fault) as endpoint:
        assert strategies(data, endpoint.url) == 2
    assert message in capsys.readouterr().err
    # Three problems are under way at once; the one that fails first is followed by a fourth.
    assert len(endpoint.prompts) <= (4 * ask.BAD_BODY_ATTEMPTS if fault == "empty" else 3)


def test_no_endpoint_and_a_wrong_address_are_one_line(data, capsys, monkeypatch):
    monkeypatch.setattr(ask, "FAILURES_IN_A_ROW", 2)
    assert strategies(data, "http://127.0.0.1:9/v1") == 2
    assert "2 problems failed in a row: repeat the command" in capsys.readouterr().err
    assert strategies(data, "localhost:8000") == 2
    assert "endpoint 'localhost:8000': must be a URL" in capsys.readouterr().err


def test_a_pilot_says_what_all_would_take_and_writes_nothing(data, capsys):
    with scripted_endpoint() as endpoint:
        assert strategies(data, endpoint.url, "--limit", 2) == 0
    out = capsys.readouterr().out
    assert "all 6 problems would take about 12 requests, 1200 prompt and 120 completion" in out
    assert not (data / "strategies.jsonl").exists() and len(endpoint.prompts) == 4
    (data / "strategy_replies.jsonl").unlink()
    with scripted_endpoint(lambda *_: "empty") as endpoint:
        assert strategies(data, endpoint.url, "--limit", 2) == 1
    assert "none of 2 problems got a reply" in capsys.readouterr().out


def test_a_request_that_the_endpoint_takes_for_invalid_is_that_problems_alone(data):
    bad = "status 400"
    with scripted_endpoint(lambda _, prompt: bad if "Add q3" in prompt else None) as endpoint:
        assert strategies(data, endpoint.url) == 0
    (without,) = read_json(data / "strategies_report.json")["without"]
    assert without["id"] == "p3" and "request refused" in without["why"] and without["final"]
