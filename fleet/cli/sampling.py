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
    """The command with an option for each parameter where it has its own parameter `sampling`."""
    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for each in signature.parameters.values():
        parameters.extend(map(_option, PARAMETERS.values()) if each.name == "sampling" else [each])

    @functools.wraps(command)
    def call(**given: Any) -> None:
        command(sampling=Sampling(**{name: given.pop(name) for name in PARAMETERS}), **given)

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

    option = typer.Option(
        f"--{parameter.name.replace('_', '-')}", help=parameter.bounds.meaning, show_default=parameter.default is not None, callback=check
    )
    annotation: Any = Annotated[parameter.annotation, option]
    return inspect.Parameter(parameter.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=parameter.default, annotation=annotation)
