"""Configuration: overrides, hashes and addresses, and what is refused before anything runs."""

import dataclasses
import math
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest
from tiny import method_of

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
from sgpo.core.sampling import SamplingParams
from sgpo.method import SGPOConfig


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    sign: Literal[-1, 1] = -1


@dataclass(frozen=True)
class Outer:
    steps: int = 3
    name: str = "x"
    limit: int | None = 5
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("steps=7", Outer(steps=7)),
        ("name=5", Outer(name="5")),
        ("limit=none", Outer(limit=None)),
        ("inner.rate=1e-4", Outer(inner=Inner(rate=1e-4))),
        ("inner.rate=inf", Outer(inner=Inner(rate=math.inf))),
        ("inner.flag=True", Outer(inner=Inner(flag=True))),
        ("inner.kind=b", Outer(inner=Inner(kind="b"))),
        ("inner.sign=1", Outer(inner=Inner(sign=1))),
    ],
)
def test_overrides_take_the_fields_type(item, expected):
    start = Outer()
    assert repr(apply_overrides(start, [item])) == repr(expected) and start == Outer()


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("steps", "override 'steps': must look like key=value"),
        ("stepz=3", "unknown override key 'stepz'; did you mean 'steps'"),
        ("steps.x=3", "unknown override key 'steps.x'"),
        ("steps=2.5", "steps='2.5': must be of type int"),
        ("inner.rate=fast", "inner.rate='fast': must be of type float"),
        ("inner.rate=nan", "NaN"),
        ("inner.flag=yes", "inner.flag='yes': must be one of true, false"),
        ("inner.kind=c", "inner.kind='c': must be one of a, b"),
        ("sizes=3", "sizes"),
        ("steps=1 limit=4 steps=2", "override 'steps=2': steps is given twice"),
    ],
)
def test_wrong_overrides_are_explained(items, message):
    with pytest.raises(ValueError) as caught:
        apply_overrides(Outer(), items.split())
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
        "warmup_share": (-0.1, 1.5), "samples_per_problem": (0,), "decay": ("exponential",),
        "weight_decay": (-0.1,), "held_out_share": (1.0,), "skip_above": (0.0,),
        "nonfinite_patience": (0,),
    },
    ROLLOUT: {"max_tokens": (0, None), "temperature": (0.0, 0.6), "top_p": (0.0, 2.0, "1")},
    SamplingParams(max_tokens=4): {
        "max_tokens": (0,), "temperature": (0.0, math.nan), "top_p": (0.0, 1.5),
    },
    EVALUATION: {"problem_limit": (0, 1.5), "sample_limit": (0,), "temperature": (0.0,)},
    DataConfig(): {"split": ("test",), "expert_gap": (-0.1, 1.5)},
    RUN: {
        "seed": (-1, "0"), "init": ("sft",), "sampler": ("fast",), "data": (None,),
        "pretrain_steps": (0,), "device": ("tpu",), "precision": ("float16",), "train": (ROLLOUT,),
    },
    VLLMSettings(): {
        "gpu_memory_utilization": (1.5,), "max_model_len": (0,), "server": ("host:8000",),
        "stall_seconds": (0.0,), "probe_tolerance": (-1.0,),
    },
    SGPOConfig(): {
        "clip_low": (1.1, 2), "alpha_mode": ("best", "zero"), "kl_threshold": (0.0, math.nan),
        "distillation": ("foo",), "alpha_smoothing": (0,), "num_guided": (-1,),
        "num_autonomous": (1.5,),
    },
    **{method_of(name, **needed).config: values for name, needed, values in (
        ("grpo", {}, {"num_samples": (1, "12"), "clip_high": (math.nan,)}),
        ("dr_grpo", {}, {"clip_high": (-0.5,)}),
        ("dapo", {}, {"num_samples": (1,), "cache_share": (1.0,)}),
        ("opsd", {}, {"num_samples": (0,), "direction": ("sideways",), "beta": (1.0,)}),
        ("opd", {"teacher": "x"}, {"direction": ("sideways",), "beta": (0.0,)}),
        ("sdpo", {}, {"beta": (1.0,), "max_ratio": (0.0,)}),
        ("srft", {}, {"num_samples": (0,), "sft_entropy_sign": (2,), "entropy_level": ("batch",)}),
        ("chord", {}, {"mu_peak": (1.5,)}),
        ("relift", {}, {"buffer_size": (0,)}),
        ("luffy", {"max_tokens": 8}, {"scaling": ("sum",), "shaping": (0.0,)}),
        ("hpt", {"max_tokens": 8}, {"max_tokens": (0,), "gate": (12,)}),
    )},
}  # fmt: skip


@pytest.mark.parametrize("config", IMPOSSIBLE, ids=lambda config: type(config).__name__)
def test_an_impossible_setting_is_refused_wherever_the_config_is_made(config):
    for name, values in IMPOSSIBLE[config].items():
        for value in values:
            with pytest.raises(ValueError, match=name) as caught:
                replace(config, **{name: value})
            line = str(caught.value)
            assert str(value) in line and "\n" not in line
            assert any(word in line for word in ("must", "NaN", "needs", "exactly when")), line


def other_value(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value * 2 or 1
    return f"other than {value}"


@pytest.mark.parametrize("config", [TRAIN, RolloutConfig(max_tokens=8, top_p=0.4), SGPOConfig()])
def test_every_field_reaches_the_hash(config):
    names = [f.name for f in dataclasses.fields(config)]
    # Past validation: the hash is what is tested.
    changed = [to_dict(config) | {n: other_value(getattr(config, n))} for n in names]
    assert len({config_hash(c) for c in [to_dict(config), *changed]}) == 1 + len(names)


def test_hash_is_stable_and_ignores_the_order_of_keys():
    # First 8 hex digits of sha256('{"a":1,"b":[true,null,"x"]}').
    value = {"a": 1, "b": [True, None, "x"]}
    assert canonical_json(value) == '{"a":1,"b":[true,null,"x"]}'
    assert config_hash(value) == config_hash(dict(reversed(value.items()))) == "eca8cfb3"
    assert config_hash(value | {"a": 1.0000001}) != config_hash(value)
    with pytest.raises(ValueError):
        canonical_json({"a": math.nan})
    stored = to_dict(SGPOConfig(kl_threshold=math.inf))["kl_threshold"]
    assert stored == "inf"
    assert apply_overrides(SGPOConfig(), [f"kl_threshold={stored}"]).kl_threshold == math.inf


# --- the addresses of runs ----------------------------------------------------------------------


def cells(overrides=(), files=()) -> dict[str, Cell]:
    """Method -> its one cell of the quick grid."""
    return {c.config.method: c for c in planned_study("quick", 1, files, overrides).cells()}


def test_an_override_moves_the_runs_it_touches_and_no_others():
    plain = cells()
    for items, moved in (
        (["settings.kl_threshold=inf"], {"sgpo"}),
        (["settings.gate=1", "settings.shaping=0.2"], {"hpt", "luffy"}),
        (["pretrain_steps=7"], set(plain)),
    ):
        assert {m for m, c in cells(items).items() if c.hash != plain[m].hash} == moved
    cell = plain["grpo"]
    train = replace(cell.parent.config.train, learning_rate=7e-5)
    parent = Cell(replace(cell.parent.config, train=train))
    assert replace(cell, parent=parent).hash != cell.hash  # what it starts from
    assert replace(cell, config=replace(cell.config, seed=9)).run_id != cell.run_id


def test_a_setting_that_was_added_changes_no_address_at_its_default():
    config = cells()["sgpo"].config
    plain = to_dict(config)
    assert not {"device", "precision", "checkpoint", "revision"} & plain.keys()
    assert "activation_checkpointing" not in plain["train"]
    assert Cell(replace(config, device="cpu")).hash == Cell(config).hash
    changed = [
        replace(config, device="auto"),
        replace(config, precision="bfloat16"),
        replace(config, checkpoint="owner/model"),
        replace(config, train=replace(config.train, activation_checkpointing=True)),
    ]
    assert len({Cell(c).hash for c in [config, *changed]}) == 5


def test_the_comparison_runs_luffy_and_hpt_as_their_authors_do():
    """Loss scale, entropy bonus, clip, and the updates that HPT's script skips on Qwen alone."""
    for config in (cell.config for cell in planned_study("mini", 1).cells()):
        if config.method in ("luffy", "hpt"):
            settings, train = config.settings, config.train
            assert (settings.scaling, settings.entropy_over) == ("authors", "response")
            skips = config.method == "hpt" and config.model.startswith("qwen")
            assert (train.grad_clip, train.skip_above) == (1.0, 80.0 if skips else None)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("seed=3", "use --seeds"),
        ("model=qwen-m", "use --models"),
        ("settings.kl_treshold=2", "did you mean 'settings.kl_threshold'"),
        ("rollout.temperature=-1", "temperature=-1"),
        ("settings.gate=99", "gate=99"),
    ],
)
def test_a_wrong_override_stops_the_study_before_its_first_run(item, message):
    with pytest.raises(ValueError, match=message):
        cells([item])


METHOD_FILE = """
from dataclasses import dataclass
from baselines.grpo import GRPO as METHOD, GRPOConfig

@dataclass(frozen=True)
class CONFIG(GRPOConfig):
    strength: float = 1.0
"""


def test_an_edited_method_file_is_another_run_and_none_takes_a_name_of_the_study(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(METHOD_FILE)
    before, again = (cells(files=[file])["mine"].hash for _ in range(2))
    file.write_text(METHOD_FILE + "\nFACTOR = 2\n")
    assert before == again != cells(files=[file])["mine"].hash
    file.rename(tmp_path / "grpo.py")  # the study's own would run under the user's name
    for name, message in (("grpo", "grpo"), ("absent", "absent.py.*no such file")):
        with pytest.raises(ValueError, match=message):
            cells(files=[tmp_path / f"{name}.py"])
