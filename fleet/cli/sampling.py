"""The sampling parameters as options of a command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from protos.errors import InvalidInput
from protos.sampling import PARAMETERS, Sampling, SamplingParameter


def with_sampling(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each parameter where it has its own parameter `sampling`.

    In `left_to_model` it gets the names of those that were not given.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for each in signature.parameters.values():
        if each.name != "left_to_model":
            parameters.extend(map(_option, PARAMETERS.values()) if each.name == "sampling" else [each])

    @functools.wraps(command)
    def call(**given: Any) -> None:
        told = {name: value for name in PARAMETERS if (value := given.pop(name)) is not None}
        command(sampling=Sampling(**told), left_to_model=tuple(name for name in PARAMETERS if name not in told), **given)

    # What typer reads: the first for the order and the defaults, the second for the types.
    vars(call)["__signature__"] = signature.replace(parameters=parameters)
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call


def _option(parameter: SamplingParameter) -> inspect.Parameter:
    def check(value: Any) -> Any:
        try:
            if value is not None:
                parameter.bounds.check(parameter.name, value)
        except InvalidInput as error:
            raise typer.BadParameter(error.detail) from error
        return value

    default = f"the model's own, else {parameter.default}" if parameter.default is not None else False
    option = typer.Option(f"--{parameter.name.replace('_', '-')}", help=parameter.bounds.meaning, show_default=default, callback=check)
    annotation: Any = Annotated[parameter.annotation | None, option]
    return inspect.Parameter(parameter.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=annotation)
