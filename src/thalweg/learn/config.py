"""What a run is made of: the configuration, its defaults, its YAML."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ..methods import get_method

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Loader(yaml.SafeLoader):
    """YAML whose keys are words as they are written: 01 is not 1, nor yes true, which the classes of a table may be.

    A key that comes twice is an error, as YAML defines it; the last one would count alone.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(None, None, f"the key {key.value} comes twice", key.start_mark)
                seen.add(key.value)
                if key.tag != "tag:yaml.org,2002:merge":
                    key.tag = "tag:yaml.org,2002:str"
        return node


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes True for 1, and YAML takes a bare yes for True."""
        assert info.field_name is not None
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise PydanticCustomError("truth", "a value other than true and false (quote text such as 'yes')")
        return value


class DataConfig(_Part):
    """Where the rows come from, and what is to be told of them.

    Attributes
    ----------
    source : str
        A CSV or Parquet file, arrays of NumPy's (`.npz` or `.npy`), a folder of folders of images, or the name of a
        bundled data set.
    target : str or None
        The column to predict; a bundled data set knows its own, of a folder of images it is `class`, and of arrays one
        may be called as a target is, `y` or `label`.
    task : {"classification", "regression"} or None
        None: decided from the target.
    data_dir : str or None
        Where the IDX files of `mnist` are.
    decimal : {"point", "comma"} or None
        How a CSV file writes decimals; None: found out.
    image_size : int, [int, int] or None
        The height and width that images are brought to, one number where they are the same; None: their median, or as
        much smaller as makes 1024 pixels.
    image_colour : {"grey", "rgb"} or None
        Whether a pixel of an image is one number or three; None: grey where all images are.
    test_size : float
        The share of rows that is kept apart, to judge the trained model by.
    """

    source: str = ""
    target: str | None = None
    task: Literal["classification", "regression"] | None = None
    data_dir: str | None = None
    decimal: Literal["point", "comma"] | None = None
    image_size: Count | list[Count] | None = None
    image_colour: Literal["grey", "rgb"] | None = None
    test_size: Fraction = 0.2

    @field_validator("image_size", mode="before")
    @classmethod
    def _is_a_size(cls, value: Any) -> Any:
        numbers = value if isinstance(value, list) and len(value) == 2 else [1 if value is None else value]
        if not all(type(number) is int and number > 0 for number in numbers):
            raise PydanticCustomError("size", "a height and a width in pixels, or one number for both")
        return value


class ModelConfig(_Part):
    """Encoder, flow, decoder.

    Attributes
    ----------
    flow : {"ode", "resnet", "none"}
        A neural ODE, residual blocks of the same field, or the encoder and decoder alone.
    state_dim : int or None
        The dimension of the state; None: chosen from the number of inputs.
    width, depth : int
        Width and number of the field's hidden layers.
    activation : {"tanh", "relu", "gelu", "silu", "softplus", "sin"}
        Between the field's layers.
    time : {"none", "concat", "gated"}
        How time enters the field.
    encoder : {"linear", "mlp", "identity"}
        How inputs become z(t0); the identity adds zeros where the state is larger.
    decoder : {"linear", "mlp"}
        How z(t1) becomes the answer.
    dropout : float or None
        The share of the inputs that training hides from the encoder, others each time; None: chosen from their number.
    resnet_depth : int
        The number of residual blocks.
    resnet_shared : bool
        Whether all of them are one.
    """

    flow: Literal["ode", "resnet", "none"] = "ode"
    state_dim: Count | None = None
    width: Count = 64
    depth: Annotated[int, Field(ge=0)] = 1
    activation: Literal["tanh", "relu", "gelu", "silu", "softplus", "sin"] = "tanh"
    time: Literal["none", "concat", "gated"] = "concat"
    encoder: Literal["linear", "mlp", "identity"] = "linear"
    decoder: Literal["linear", "mlp"] = "linear"
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    resnet_depth: Count = 6
    resnet_shared: bool = False


Gradient: TypeAlias = Literal["checkpointed", "direct", "reversible", "adjoint", "interpolating", "gauss"]
"""How the gradient of a flow is made; `forward` is for fewer numbers than a model has."""


class SolverConfig(_Part):
    """How the flow is solved; the names are those of `thalweg.solve_ivp`."""

    method: str = "tsit5"
    t0: Finite = 0.0
    t1: Finite = 1.0
    step_size: Positive | None = None
    rtol: Positive = 1e-2
    atol: NotNegative = 1e-3
    batching: Literal["joint", "per_sample"] = "per_sample"
    gradient: Gradient = "checkpointed"
    backend: Literal["auto", "eager", "native"] = "auto"
    learn_times: bool = False
    max_steps: Count = 10_000

    @model_validator(mode="after")
    def _time_passes(self) -> SolverConfig:
        if self.t0 == self.t1:
            raise ValueError(f"t1 must be another time than t0 for there to be a flow, got {self.t1:g} for both")
        return self

    @model_validator(mode="after")
    def _method_fits(self) -> SolverConfig:
        method = get_method(self.method)
        if method.pair is not None:
            raise ValueError(f"method {self.method!r} takes two functions, and a flow has one; choose another")
        if not method.adaptive and self.step_size is None:
            raise ValueError(f"method {self.method!r} has no error estimate and needs a step_size, such as 0.1")
        if self.gradient == "reversible" and method.kind != "explicit":
            raise ValueError(
                f"gradient 'reversible' takes explicit methods, not {self.method!r}; choose 'checkpointed'"
            )
        return self


ClassWeight: TypeAlias = Literal["balanced"] | dict[str, NotNegative] | None
"""How much the rows of each class count."""


class TrainingConfig(_Part):
    """How the model is trained.

    Attributes
    ----------
    class_weight : "balanced", dict or None
        How much the rows of each class count: `"balanced"`, so that classes count alike, however many rows each has; or
        by label, 1 where none is given. The score of held-out rows counts them so too, that of the rows kept apart not.
    optimizer : {"adam", "sgd"}
        Adam with decoupled weight decay, or stochastic gradient descent with Nesterov's momentum.
    learning_rate, momentum, weight_decay : float
        Momentum is SGD's; decay pulls at matrices, not at biases.
    schedule : {"constant", "cosine"}
        How the learning rate goes from epoch to epoch.
    batch_size : int or "auto"
        Rows in a minibatch; "auto": a tenth of them, but at least 64 and at most 256.
    max_epochs : int
        Passes over the rows.
    early_stopping : bool
        Whether to end when nothing has got better by `tol` for `patience` epochs.
    validation_fraction : float
        The share of the training rows that is held out to choose the best epoch by; 0 holds out none, and the last
        epoch counts.
    clip_norm : float or None
        The bound on the gradient's norm.
    dtype : {"float32", "float64"}
    device : str
        As PyTorch names it.
    """

    class_weight: ClassWeight = None
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: Positive = 1e-2
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 1e-2
    schedule: Literal["constant", "cosine"] = "cosine"
    batch_size: Count | Literal["auto"] = "auto"
    max_epochs: Count = 40
    early_stopping: bool = False
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    patience: Count = 10
    tol: NotNegative = 1e-4
    clip_norm: Positive | None = None
    dtype: Literal["float32", "float64"] = "float32"
    device: str = "cpu"

    @field_validator("class_weight", mode="before")
    @classmethod
    def _by_words(cls, value: Any) -> Any:
        """Labels are words here, also where Python has numbers or truth."""
        if isinstance(value, dict):
            return {str(label): weight for label, weight in value.items()}
        if value not in (None, "balanced"):
            raise PydanticCustomError("weights", "'balanced', or weights by label such as {spam: 5, ham: 1}")
        return value


class Config(_Part):
    """All of a run.

    Examples
    --------
    >>> from thalweg.learn.config import Config
    >>> config = Config().with_overrides(["solver.method=dopri5", "model.width=32"])
    >>> config.solver.method, config.model.width
    ('dopri5', 32)
    >>> Config().with_overrides(["solver.metod=dopri5"])
    Traceback (most recent call last):
    ...
    ValueError: there is no key solver.metod; did you mean solver.method?
    """

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    solver: SolverConfig = SolverConfig()
    training: TrainingConfig = TrainingConfig()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read a YAML file.

        Raises
        ------
        ValueError
            When it is no YAML, or a key or value is not one of a configuration.
        """
        path = Path(path)
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no YAML file: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict | None):
            raise ValueError(f"{path} must hold keys and values, such as 'seed: 0'")
        try:
            return validated(content or {})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write a YAML file, every key of it."""
        Path(path).write_text(self.to_yaml(), encoding="utf-8")

    def to_yaml(self) -> str:
        """The text of such a file."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)

    def with_overrides(self, overrides: Sequence[str]) -> Config:
        """The same configuration, but for some keys.

        Parameters
        ----------
        overrides : sequence of str
            Each `part.key=value`, with the value in YAML.

        Raises
        ------
        ValueError
            When a key does not exist (the nearest one is suggested) or a value cannot be.
        """
        content = self.model_dump()
        for override in overrides:
            key, equals, text = override.partition("=")
            if not equals:
                raise ValueError(f"a setting has the form key=value, such as solver.method=dopri5; got {override!r}")
            key = key.strip()
            if key not in keys():
                raise ValueError(_no_such_key(key))
            *parts, name = key.split(".")
            try:
                reduce(getitem, parts, content)[name] = yaml.load(text, _Loader) if text.strip() else None
            except yaml.YAMLError as error:
                reason = f": {error.problem}" if isinstance(error, yaml.MarkedYAMLError) else ""
                raise ValueError(f"{key} must be a value in YAML, got {text!r}{reason}") from None
        return validated(content)


def keys(part: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every key of a configuration, such as `solver.method`."""
    for name, field in part.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def _no_such_key(key: str) -> str:
    known = list(keys())
    part, _, name = key.rpartition(".")
    initials = ["".join(word[0] for word in k.rpartition(".")[2].split("_")) for k in known]
    near = [k for k, short in zip(known, initials, strict=True) if short == name and part in ("", k.rpartition(".")[0])]
    near += [k for k in known if k.rpartition(".")[2] == name]  # of another part
    near = near[:1] or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not near:  # perhaps the part was left out too
        last = {k.rpartition(".")[2]: k for k in known}
        near = [last[n] for n in difflib.get_close_matches(name, last, n=1, cutoff=0.6)]
    hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"
    return f"there is no key {key}; {hint}"


def validated(content: dict[str, Any]) -> Config:
    """A configuration from nested dictionaries; an error is one sentence that names the key."""
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = list(first["loc"])
        while place and place[-1] not in _names(place[:-1]):
            place.pop()  # the branches of a union are named too
        if first["type"] in ("extra_forbidden", "invalid_key"):
            raise ValueError(_no_such_key(".".join(map(str, first["loc"])))) from None
        key = ".".join(map(str, place))
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        message = message[0].lower() + message[1:]
        if first["type"] == "value_error":
            raise ValueError(f"{key}: {message}") from None
        wanted = " or ".join(
            dict.fromkeys(
                e["msg"].removeprefix("Input should be ")
                for e in error.errors()
                if list(e["loc"])[: len(place)] == place
            )
        )
        raise ValueError(f"{key} must be {wanted}, got {first['input']!r}") from None


def _names(place: Sequence[Any]) -> set[str]:
    """The keys of the part at a place."""
    part: Any = Config
    for name in place:
        fields = getattr(part, "model_fields", {})
        part = fields[name].annotation if name in fields else None
        if get_origin(part) in (Union, types.UnionType):
            part = next((p for p in get_args(part) if isinstance(p, type)), None)
    return set(getattr(part, "model_fields", {}))
