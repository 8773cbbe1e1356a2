"""The sampling parameters as fields of a request's body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, create_model
from pydantic_core import PydanticCustomError

from protos.sampling import GREEDY, PARAMETERS, Bounds, Sampling, SamplingParameter

_Body = TypeVar("_Body", bound=BaseModel)
_NONE: Mapping[str, Bounds] = {}


def with_sampling(bounds: Mapping[str, Bounds] = _NONE, *, nullable: bool = False) -> Callable[[type[_Body]], type[_Body]]:
    """Adds a field for each parameter to a body. `bounds` replace those of `protos.sampling`; null is a value where `nullable`."""

    def extend(body: type[_Body]) -> type[_Body]:
        added: dict[str, Any] = {
            name: _field(parameter, bounds.get(name, parameter.bounds), nullable) for name, parameter in PARAMETERS.items()
        }
        return create_model(body.__name__, __base__=body, __module__=body.__module__, __doc__=body.__doc__, **added)

    return extend


def sampling_of(body: BaseModel, default: Sampling = GREEDY) -> Sampling:
    """Of a body `with_sampling`; `default` holds for fields that are null."""
    given = {name: value for name in PARAMETERS if (value := getattr(body, name)) is not None}
    return replace(default, **given)


def left_to_model(body: BaseModel) -> tuple[str, ...]:
    """The parameters that a body `with_sampling` does not give; null gives none. An explicit zero is given."""
    return tuple(name for name in PARAMETERS if name not in body.model_fields_set or getattr(body, name) is None)


def _field(parameter: SamplingParameter, bounds: Bounds, nullable: bool) -> tuple[Any, float | None]:
    whole = parameter.annotation not in (float, float | None)
    allowed = f"{'an integer' if whole else 'a number'}, {bounds}"
    least: Any = {"gt": bounds.least} if bounds.above else {"ge": bounds.least}
    bounded: Any = Annotated[
        parameter.annotation, Field(**least, le=bounds.most, description=bounds.meaning), WrapValidator(telling(allowed))
    ]
    return (bounded | None, None) if nullable else (bounded, parameter.default)


def telling(allowed: str) -> Callable[[Any, ValidatorFunctionWrapHandler], Any]:
    """A validator that says what is allowed: pydantic tells of one bound, and takes true for 1."""

    def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            if not isinstance(value, bool):
                return validate(value)
        except ValidationError:
            pass
        raise PydanticCustomError("out_of_bounds", "it must be {allowed}", {"allowed": allowed})

    return check
