"""Configuration: overrides, hashes, and what is refused before anything runs."""

import dataclasses
import json
import math
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest

from baselines.chord import CHORDConfig
from baselines.dapo import DAPOConfig
from baselines.dr_grpo import DrGRPOConfig
from baselines.grpo import GRPOConfig
from baselines.hpt import HPTConfig
from baselines.luffy import LUFFYConfig
from baselines.opd import OPDConfig
from baselines.opsd import OPSDConfig
from baselines.relift import ReLIFTConfig
from baselines.sdpo import SDPOConfig
from baselines.srft import SRFTConfig
from benchmarks.config import Cell, DataConfig, EvalConfig, RunConfig
from benchmarks.profiles.planned import planned_study
from sgpo.core.config import (
    RolloutConfig,
    TrainConfig,
    VLLMSettings,
    apply_overrides,
    canonical_json,
    config_hash,
    to_dict,
)
from sgpo.method import SGPOConfig


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    flag: bool = False
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    steps: int = 3
    name: str = "x"
    limit: int | None = None
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("item", "path", "expected"),
    [
        ("steps=7", ("steps",), 7),
        ("name=5", ("name",), "5"),
        ("name=a=b", ("name",), "a=b"),
        ("limit=4", ("limit",), 4),
        ("inner.rate=1e-4", ("inner", "rate"), 1e-4),
        ("inner.rate=inf", ("inner", "rate"), math.inf),
        ("inner.rate=2", ("inner", "rate"), 2.0),
        ("inner.flag=true", ("inner", "flag"), True),
        ("inner.flag=False", ("inner", "flag"), False),
        ("inner.kind=b", ("inner", "kind"), "b"),
    ],
)
def test_overrides_take_the_fields_type(item, path, expected):
    value = apply_overrides(Outer(), [item])
    for name in path:
        value = getattr(value, name)
    assert value == expected and type(value) is type(expected)


def test_overrides_leave_the_original_and_no_key_is_given_twice():
    start = Outer(limit=3)
    changed = apply_overrides(start, ["steps=2", "limit=none", "inner.rate=3"])
    assert changed == Outer(steps=2, limit=None, inner=Inner(rate=3.0))
    assert start == Outer(limit=3)
    with pytest.raises(ValueError, match="override 'steps=2': steps is given twice"):
        apply_overrides(start, ["steps=1", "limit=4", "steps=2"])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("steps", "override 'steps': must look like key=value"),
        ("stepz=3", "unknown override key 'stepz'; did you mean 'steps'"),
        ("iner.rate=3", "unknown override key 'iner.rate'; did you mean 'inner.rate'"),
        ("inner.rat=3", "unknown override key 'inner.rat'; did you mean 'inner.rate'"),
        ("steps.x=3", "unknown override key 'steps.x'"),
        ("=3", "unknown override key ''"),
        ("steps=2.5", "steps='2.5': must be of type int"),
        ("steps=", "steps='': must be of type int"),
        ("inner.rate=fast", "inner.rate='fast': must be of type float"),
        ("inner.rate=nan", "NaN"),
        ("inner.flag=yes", "inner.flag='yes': must be true or false"),
        ("inner.kind=c", "inner.kind='c': must be one of a, b"),
        ("inner=3", "inner"),
        ("sizes=3", "sizes"),
    ],
)
def test_wrong_overrides_are_explained(item, message):
    with pytest.raises(ValueError) as caught:
        apply_overrides(Outer(), [item])
    assert message in str(caught.value) and "\n" not in str(caught.value)


TRAIN = TrainConfig(num_steps=10, problems_per_step=4, learning_rate=1e-3)


ROLLOUT = RolloutConfig(max_tokens=8)
EVALUATION = EvalConfig(suites=("minimath",), max_tokens=8)
RUN = RunConfig("p", "m", "x", 0, "base", "mini", "compact", DataConfig(), EVALUATION)
# Each is refused where the config is made, not hours later where it is first used.
IMPOSSIBLE = {
    TRAIN: {
        "num_steps": (0, 2.5), "problems_per_step": (-1,), "grad_clip": (0.0,),
        "learning_rate": (0.0, math.nan, math.inf), "micro_batch_tokens": (0,),
        "checkpoint_every": (0,), "collapse_patience": (0,), "updates_per_step": (3,),
        "warmup_share": (-0.1, 1.5),
        "weight_decay": (-0.1,), "held_out_share": (1.0,), "skip_above": (0.0,),
        "samples_per_problem": (0,), "decay": ("exponential",), "nonfinite_patience": (0,),
    },
    ROLLOUT: {"max_tokens": (0, None), "temperature": (0.0, -1.0, 0.6), "top_p": (0.0, 2.0, "1")},
    EVALUATION: {"problem_limit": (0, 1.5), "sample_limit": (0,), "temperature": (0.0,)},
    DataConfig(): {"split": ("test",), "expert_gap": (-0.1, 1.5)},
    RUN: {
        "seed": (-1, "0"), "init": ("sft",), "sampler": ("fast",), "data": (None,),
        "pretrain_steps": (0,), "device": ("tpu",), "precision": ("float16",), "train": (ROLLOUT,),
    },
    VLLMSettings(): {
        "gpu_memory_utilization": (1.5,), "max_model_len": (0,), "server": ("host", "host:8000"),
        "stall_seconds": (0.0,), "probe_tolerance": (-1.0,),
    },
    SGPOConfig(): {
        "clip_low": (1.1, 2), "alpha_mode": ("best",), "kl_threshold": (0.0, math.nan),
        "distillation": ("foo",), "alpha_smoothing": (0,), "num_guided": (-1,),
        "num_autonomous": (1.5,),
    },
    GRPOConfig(): {"num_samples": (1, "12"), "clip_high": (math.nan,)},
    DrGRPOConfig(): {"clip_high": (-0.5,)},
    DAPOConfig(): {"num_samples": (1,), "cache_share": (1.0,)},
    OPSDConfig(): {"num_samples": (0,), "direction": ("sideways",), "beta": (1.0,)},
    OPDConfig(): {"direction": ("sideways",), "beta": (0.0,)},
    SDPOConfig(): {"beta": (1.0,)},
    SRFTConfig(): {"num_samples": (0,), "sft_entropy_sign": (2,), "entropy_level": ("batch",)},
    CHORDConfig(): {"mu_peak": (1.5,)},
    ReLIFTConfig(): {"buffer_size": (0,)},
    LUFFYConfig(max_tokens=8): {"scaling": ("sum",), "shaping": (0.0,)},
    HPTConfig(max_tokens=8): {"max_tokens": (0,)},
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [(c, name, v) for c, fields in IMPOSSIBLE.items() for name, vs in fields.items() for v in vs],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else str(value),
)
def test_an_impossible_setting_is_refused_wherever_the_config_is_made(config, name, value):
    with pytest.raises(ValueError, match=f"^{name}=.*(must|needs)|^{name}=nan: NaN") as caught:
        replace(config, **{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "changes", "line"),
    [
        (SGPOConfig(), {"num_guided": 0}, "num_guided=0 with alpha_mode='adaptive'"),
        (SGPOConfig(), {"alpha_mode": "zero"}, "num_guided=4 with alpha_mode='zero'"),
        (HPTConfig(max_tokens=8), {"gate": 12}, "gate=12.*num_samples=12"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(config, changes, line):
    with pytest.raises(ValueError, match=line):
        replace(config, **changes)


def other_value(value):
    if value is None:
        return 7
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value * 2 if value else 1
    return f"other than {value}"  # past validation


@pytest.mark.parametrize("config", [TRAIN, RolloutConfig(max_tokens=8, top_p=0.4), SGPOConfig()])
def test_every_field_reaches_the_hash(config):
    hashes = {config_hash(to_dict(config))}
    for f in dataclasses.fields(config):
        changed = other_value(getattr(config, f.name))
        bare = to_dict(config) | {f.name: changed}  # past validation: the hash is what is tested
        hashes.add(config_hash(bare))
    assert len(hashes) == 1 + len(dataclasses.fields(config))


def test_hash_is_stable_and_ignores_the_order_of_keys():
    # First 8 hex digits of sha256('{"a":1,"b":[true,null,"x"]}').
    value = {"a": 1, "b": [True, None, "x"]}
    assert canonical_json(value) == '{"a":1,"b":[true,null,"x"]}'
    assert config_hash(value) == config_hash(dict(reversed(value.items()))) == "eca8cfb3"
    assert config_hash(value | {"a": 1.0000001}) != config_hash(value)
    with pytest.raises(ValueError):
        canonical_json({"x": math.nan})


def test_nested_configs_and_infinities_become_plain_json_values():
    value = to_dict(Outer(sizes=(3, 4), inner=Inner(rate=-math.inf)))
    assert value == {
        "steps": 3,
        "name": "x",
        "limit": None,
        "sizes": [3, 4],
        "inner": {"rate": "-inf", "flag": False, "kind": "a"},
    }
    assert json.loads(canonical_json(value)) == value
    config = SGPOConfig(kl_threshold=math.inf)
    stored = to_dict(config)["kl_threshold"]
    assert stored == "inf" and apply_overrides(SGPOConfig(), [f"kl_threshold={stored}"]) == config


METHOD_FILE = """
from dataclasses import dataclass
from baselines.grpo import GRPO as METHOD, GRPOConfig

@dataclass(frozen=True)
class CONFIG(GRPOConfig):
    strength: float = 1.0
"""


def cell_of(study, method: str) -> Cell:
    return next(c for c in study.cells() if c.config.method == method)


def addresses(overrides=()) -> dict[str, str]:
    """Method -> address of its one run in the quick grid."""
    return {c.config.method: c.hash for c in planned_study("quick", 1, (), overrides).cells()}


def test_an_override_moves_the_runs_it_touches_and_no_others():
    plain = addresses()
    moved = addresses(["settings.kl_threshold=inf"])
    assert {m for m in plain if plain[m] != moved[m]} == {"sgpo"}
    moved = addresses(["settings.gate=1", "settings.shaping=0.2"])
    assert {m for m in plain if plain[m] != moved[m]} == {"hpt", "luffy"}
    assert all(
        a != b
        for a, b in zip(plain.values(), addresses(["pretrain_steps=7"]).values(), strict=True)
    )


def test_a_run_is_addressed_by_what_it_starts_from():
    cell = cell_of(planned_study("quick", 1), "grpo")
    train = replace(cell.parent.config.train, learning_rate=7e-5)
    parent = Cell(replace(cell.parent.config, train=train))
    assert replace(cell, parent=parent).hash != cell.hash
    assert replace(cell, config=replace(cell.config, seed=9)).run_id != cell.run_id


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("seed=3", "use --seeds"),
        ("model=qwen-m", "use --models"),
        ("method=x", "use --methods"),
        ("profile=mini", "use --profile"),
        ("settings.kl_treshold=2", "did you mean 'settings.kl_threshold'"),
        ("train.learning_rate=inf", "learning_rate=inf"),
        ("rollout.temperature=-1", "temperature=-1"),
        ("evaluation.top_p=3", "top_p=3"),
        ("settings.gate=99", "gate=99"),
    ],
)
def test_a_wrong_override_stops_the_study_before_its_first_run(item, message):
    with pytest.raises(ValueError, match=message):
        planned_study("quick", 1, (), [item])


def test_an_edited_method_file_is_another_run(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(METHOD_FILE)
    before = cell_of(planned_study("quick", 1, [file]), "mine")
    assert cell_of(planned_study("quick", 1, [file]), "mine").run_id == before.run_id
    old = before.hash
    file.write_text(METHOD_FILE + "\nFACTOR = 2\n")
    assert cell_of(planned_study("quick", 1, [file]), "mine").hash != old


def test_a_method_file_may_not_be_absent_or_take_a_name_of_the_study(tmp_path):
    """Else the study's own method would run under the user's name."""
    for name, message in (("grpo", "grpo"), ("absent", "absent.py.*no such file")):
        (tmp_path / "grpo.py").write_text(METHOD_FILE)
        with pytest.raises(ValueError, match=message):
            planned_study("quick", 1, [tmp_path / f"{name}.py"])
