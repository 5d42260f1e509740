"""The configuration: every key is kept, every mistake is named."""

from typing import Any, get_args, get_origin

import pytest
import yaml
from annotated_types import Ge, Gt, Lt
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from thalweg.learn.config import Config, DataConfig, ModelConfig, SolverConfig, TrainingConfig, keys

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
FIELDS = {"solver.method": st.sampled_from(["tsit5", "dopri5", "bosh3"])}


def values(annotation: Any, metadata: Any = ()) -> st.SearchStrategy:
    """Values that an annotation allows."""
    if annotation in (int, float):
        low = next((m.ge if isinstance(m, Ge) else m.gt for m in metadata if isinstance(m, Ge | Gt)), -9)
        high = next((m.lt for m in metadata if isinstance(m, Lt)), 1000)
        open_low = any(isinstance(m, Gt) for m in metadata)
        if annotation is int:
            return st.integers(low, high - 1)
        return st.floats(low, high, exclude_min=open_low, exclude_max=True)
    plain = {str: TEXT, bool: st.booleans(), type(None): st.none()}
    if annotation in plain:
        return plain[annotation]
    if hasattr(annotation, "__metadata__"):
        bounds = [m for field in annotation.__metadata__ for m in getattr(field, "metadata", [field])]
        return values(annotation.__origin__, bounds)
    choices = get_args(annotation)
    if get_origin(annotation) is dict:
        return st.dictionaries(*map(values, choices), max_size=3)
    if all(isinstance(choice, str) for choice in choices):
        return st.sampled_from(choices)
    return st.one_of([values(choice) for choice in choices])


def parts(part: type[BaseModel] = Config, prefix: str = "") -> st.SearchStrategy:
    """Any part of a configuration, as nested dictionaries."""
    fields = {}
    for name, field in part.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            fields[name] = parts(field.annotation, f"{name}.")
        else:
            fields[name] = FIELDS.get(prefix + name, values(field.annotation, field.metadata))
    return st.fixed_dictionaries(fields).filter(lambda part: "t0" not in part or part["t0"] != part["t1"])


def flat(config: Config) -> dict[str, Any]:
    """Keys such as `solver.method` and their values."""
    return {key: get(config, key) for key in keys()}


def get(config: Config, key: str) -> Any:
    place: Any = config
    for name in key.split("."):
        place = getattr(place, name)
    return place


def in_yaml(value: Any) -> str:
    """One line of YAML."""
    return yaml.safe_dump([value], default_flow_style=True, width=10**6).strip()[1:-1]


@settings(deadline=None)
@given(content=parts())
def test_every_key_goes_through_yaml(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    config = Config.model_validate(content)
    config.save(path)
    assert Config.load(path) == config
    assert config.model_dump() == content


@settings(deadline=None)
@given(content=parts())
def test_every_key_can_be_overridden(content):
    config = Config.model_validate(content)
    overrides = [f"{key}={in_yaml(value)}" for key, value in flat(config).items()]
    assert Config().with_overrides(overrides) == config


def test_keys_are_all_there_are():
    assert (
        len(list(keys()))
        == sum(len(p.model_fields) for p in (DataConfig, ModelConfig, SolverConfig, TrainingConfig)) + 1
    )


def test_an_empty_file_is_the_default(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("# nothing\n", encoding="utf-8")
    assert Config.load(path) == Config()


def test_a_file_may_say_some_keys_alone(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("model: {width: 7}\ntraining:\n  learning_rate: 1e-3\n", encoding="utf-8")
    assert Config.load(path) == Config().with_overrides(["model.width=7", "training.learning_rate=0.001"])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("model.width=32", 32),
        ("model.state_dim=5", 5),
        ("model.state_dim=null", None),
        ("model.state_dim=", None),
        ("training.learning_rate=1e-3", 1e-3),
        ("training.learning_rate=1", 1.0),
        ("training.batch_size=auto", "auto"),
        ("training.batch_size=17", 17),
        ("training.early_stopping=true", True),
        ("solver.learn_times=yes", True),
        ("solver.t1=-2.5", -2.5),
        ("model.flow=resnet", "resnet"),
        ("data.source=rivers, and lakes.csv", "rivers, and lakes.csv"),
        ("data.source=a=b.csv", "a=b.csv"),
        ("data.target='1'", "1"),
        (" seed =3", 3),
    ],
)
def test_overrides_of_each_type(override, value):
    config = Config().with_overrides([override])
    key = override.partition("=")[0].strip()
    assert get(config, key) == value
    assert {k: v for k, v in flat(config).items() if k != key} == {k: v for k, v in flat(Config()).items() if k != key}


@pytest.mark.parametrize(
    "label", ["1", "01", "0x1", "1.50", "1e3", "yes", "no", "on", "null", "~", "true", "2026-01-31"]
)
def test_weights_are_by_labels_as_they_are_written(tmp_path, label):
    """YAML has 1 for 01, and true for yes, which may be the names of other classes or of none."""
    (tmp_path / "config.yaml").write_text(f"training:\n  class_weight:\n    {label}: 5\n    a: 1\n")
    for config in (
        Config().with_overrides([f"training.class_weight={{{label}: 5, a: 1}}"]),
        Config.load(tmp_path / "config.yaml"),
    ):
        assert config.training.class_weight == {label: 5, "a": 1}


def test_the_last_override_counts():
    assert Config().with_overrides(["model.width=3", "model.width=4"]).model.width == 4


def test_a_rule_of_two_keys_holds_for_the_outcome():
    assert Config().with_overrides(["solver.method=euler", "solver.step_size=0.1"]).solver.step_size == 0.1


UNKNOWN = [
    ("solver.metod", "did you mean solver.method?"),
    ("model.widht", "did you mean model.width?"),
    ("training.lr", "did you mean training.learning_rate?"),
    ("lr", "did you mean training.learning_rate?"),
    ("method", "did you mean solver.method?"),
    ("model.rtol", "did you mean solver.rtol?"),
    ("sede", "did you mean seed?"),
    ("xyzzy", "the keys are data.source"),
]


@pytest.mark.parametrize(("key", "hint"), UNKNOWN)
def test_an_unknown_key_suggests_the_nearest(tmp_path, key, hint):
    path = tmp_path / "config.yaml"
    part, _, name = key.rpartition(".")
    path.write_text(yaml.safe_dump({part: {name: 1}} if part else {name: 1}), encoding="utf-8")
    for attempt in (lambda: Config().with_overrides([f"{key}=1"]), lambda: Config.load(path)):
        with pytest.raises(ValueError, match="there is no key") as caught:
            attempt()
        assert f"there is no key {key}" in str(caught.value)
        assert hint in str(caught.value)


WRONG = [
    ("model.width=wide", "model.width must be a valid integer"),
    ("model.width=1.5", "model.width must be a valid integer"),
    ("model.width=0", "model.width must be greater than or equal to 1, got 0"),
    ("model.width=", "model.width must be a valid integer, got None"),
    ("model.width=true", "model.width must be a value other than true and false"),
    ("seed=true", "seed must be a value other than true and false"),
    ("seed=-1", "seed must be greater than or equal to 0, got -1"),
    ("training.learning_rate=0", "training.learning_rate must be greater than 0, got 0"),
    ("training.learning_rate=.nan", "training.learning_rate must be a finite number"),
    ("training.learning_rate=.inf", "training.learning_rate must be a finite number"),
    ("solver.t1=.inf", "solver.t1 must be a finite number"),
    ("solver.t1=0", "solver: t1 must be another time than t0 for there to be a flow, got 0 for both"),
    ("training.batch_size=many", "training.batch_size must be a valid integer.* or 'auto', got 'many'"),
    ("training.early_stopping=perhaps", "training.early_stopping must be a valid boolean"),
    ("training.dtype=float16", "training.dtype must be 'float32' or 'float64', got 'float16'"),
    ("data.test_size=1", "data.test_size must be less than 1, got 1"),
    ("data.target=yes", "data.target must be a value other than true and false"),
    ("data.target=1", "data.target must be a valid string, got 1"),
    ("model.flow=null", "model.flow must be 'ode', 'resnet' or 'none', got None"),
    ("model.flow=[ode]", "model.flow must be"),
    ("solver.method=euler", "solver: method 'euler' has no error estimate and needs a step_size"),
    ("solver.method=tist5", "did you mean 'tsit5'?"),
]


@pytest.mark.parametrize(("override", "message"), WRONG)
def test_a_wrong_value_is_one_sentence_that_names_the_key(tmp_path, override, message):
    key, _, text = override.partition("=")
    part, _, name = key.rpartition(".")
    content = {name: yaml.safe_load(text) if text else None}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({part: content} if part else content), encoding="utf-8")
    for attempt in (lambda: Config().with_overrides([override]), lambda: Config.load(path)):
        with pytest.raises(ValueError, match=message) as caught:
            attempt()
        assert not isinstance(caught.value, ValidationError)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.width", "form key=value"),
        ("", "form key=value"),
        ("model=3", "there is no key model"),
        ("model.width.deep=3", "there is no key model.width.deep"),
        ("=3", "there is no key"),
        ("model.width=[1", "model.width must be a value in YAML"),
        (
            "training.class_weight={a: 5, a: 1}",
            r"class_weight must be .*, got '{a: 5, a: 1}': the key a comes twice",
        ),
    ],
)
def test_a_malformed_override(override, message):
    with pytest.raises(ValueError, match=message):
        Config().with_overrides([override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model: [1", "is no YAML file"),
        (b"\xff\xfe\x00", "is no YAML file"),
        (b"- 1\n- 2\n", "must hold keys and values"),
        (b"just words", "must hold keys and values"),
        (b"model: 3", "model must be"),
        (b"1: 2", "there is no key 1"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        Config.load(path)
    assert str(path) in str(caught.value)


def test_nothing_of_it_changes():
    config = Config()
    for part, name in ((config, "seed"), (config.model, "width"), (config.solver, "method")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, 1)
    config.with_overrides(["model.width=3"])
    assert config == Config()


@pytest.mark.parametrize(
    "text",
    [
        "seed: 1\ntraining:\n  tol: 0.1\nseed: 2\n",
        "training:\n  seed: 1\n  seed: 1\n",
        "model: {<<: {width: 8}, seed: 3, seed: 4}\n",
    ],
)
def test_a_key_that_comes_twice_is_refused(tmp_path, text):
    """The last of them would count, and the first be overlooked."""
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"is no YAML file: the key seed comes twice in .*, line \d"):
        Config.load(tmp_path / "config.yaml")


def test_anchors_and_merged_keys_are_read(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "data: {source: &name iris, target: *name}\nmodel: {<<: {width: 8}, depth: 2}\n"
    )
    config = Config.load(tmp_path / "config.yaml")
    assert (config.data.target, config.model.width, config.model.depth) == ("iris", 8, 2)
