"""The house: the reference pages name every command, route, field, error and profile figure that the code has."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from fleet.answering.views import GenerateResult
from fleet.api.app import create_app
from fleet.api.deployments import DeployBody
from fleet.api.generate import GenerateBody
from fleet.api.openai_embeddings import EmbeddingsBody
from fleet.api.openai_fields import CHAT, COMPLETION, EMBEDDINGS, MESSAGE, RESPONSES, STREAM_OPTIONS
from fleet.api.openai_messages import ChatMessage
from fleet.api.openai_request import ChatBody, CompletionBody
from fleet.api.openai_responses_request import ResponsesBody
from fleet.cli.main import ENTRIES
from fleet.telemetry.views import CostRow, DeviceCost, History, HistorySeries, Percentiles, PercentileSeries
from protos.errors import LEAVES
from protos.manifest import Manifest
from sim_devices.faults import KINDS
from sim_devices.profiles import OPTIONAL_UNITS, UNITS
from tests.support.fake_coordinator import FakeCoordinator

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = re.compile(r"[A-Z]+_[A-Z_]+")


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def words_in_code(text: str) -> set[str]:
    """Identifiers between back ticks."""
    return {word for code in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"[\w-]+", code)}


def fields(view: type) -> set[str]:
    return {field.name for field in dataclasses.fields(view)}


def test_every_command_is_listed() -> None:
    listed = words_in_code(page("commands"))
    assert listed.issuperset(entry.name for entry in ENTRIES)


def test_every_variable_of_the_environment_that_the_code_reads_is_listed() -> None:
    """Constants that are names of variables count, and strings in calls of os.environ."""
    read: set[str] = set()
    for package in ("fleet", "device", "quantize"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            if "os.environ" in text:
                constants = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
                read |= {value for value in constants if isinstance(value, str) and VARIABLES.fullmatch(value)}
    read -= {"TMPDIR", "_COMPLETE"}
    assert {"GLMFLEET_HOME", "GLMFLEET_DEBUG", "HF_ENDPOINT"} <= read
    assert words_in_code(page("commands")) >= read - {name for name in read if name.startswith("HF_HUB_DISABLE_PROGRESS")}


def test_every_route_is_listed() -> None:
    schema = create_app(FakeCoordinator(), authenticate=None).openapi()
    routes = [(method.upper(), path) for path, methods in schema["paths"].items() for method in methods]
    assert len(routes) > 10
    for method, path in routes:
        assert f"`{method} {path}" in page("http-api"), f"{method} {path}"


@pytest.mark.parametrize("body", [DeployBody, GenerateBody])
def test_every_field_of_a_request_is_listed(body: type[DeployBody] | type[GenerateBody]) -> None:
    assert words_in_code(page("http-api")) >= set(body.model_fields)


@pytest.mark.parametrize("begin", ["Honoured", "Harmless", "Refused"])
def test_what_becomes_of_each_field_of_openais_api_is_listed(begin: str) -> None:
    """Each paragraph has the names of its list in the code; the second and the third have no others."""
    (paragraph,) = [text for text in page("http-api").split("\n\n") if text.startswith(f"**{begin}**")]
    listed = set(re.findall(r"`([^`\n]+)`", " ".join(paragraph.split())))
    if begin == "Honoured":
        assert listed == {*ChatBody.model_fields, *CompletionBody.model_fields, *ChatMessage.model_fields}
        return
    places = (CHAT, COMPLETION, MESSAGE, STREAM_OPTIONS)
    honoured = ChatBody.model_fields.keys() | CompletionBody.model_fields.keys()
    names = {name for place in places for name in (place.harmless if begin == "Harmless" else place.refused)} - honoured
    assert listed - {"unsupported_parameter", "n", "stream_options"} == names


def test_each_field_of_embeddings_is_listed() -> None:
    (paragraph,) = [text for text in page("http-api").split("\n\n") if text.startswith("**Embeddings**")]
    assert words_in_code(" ".join(paragraph.split())) == {*EmbeddingsBody.model_fields, *EMBEDDINGS.harmless, *EMBEDDINGS.refused}


def test_each_field_of_responses_is_listed() -> None:
    (paragraph,) = [text for text in page("http-api").split("\n\n") if text.startswith("**Responses**")]
    listed = words_in_code(" ".join(paragraph.split())) | words_in_code(page("openai"))
    assert listed >= {*ResponsesBody.model_fields, *RESPONSES.harmless, *RESPONSES.refused}


def test_every_error_is_listed() -> None:
    assert words_in_code(page("http-api")) >= {leaf.__name__ for leaf in LEAVES}


def test_every_field_of_a_cost_is_listed() -> None:
    answers = fields(GenerateResult) - {"text", "token_ids", "logprobs", "prompt", "embedding"}  # of the HTTP API's page
    views = (CostRow, DeviceCost, History, HistorySeries, Percentiles, PercentileSeries)
    assert words_in_code(page("telemetry")) >= answers.union(*map(fields, views))


def test_every_fault_and_every_figure_of_a_profile_is_listed() -> None:
    simulation = page("simulation")
    listed = words_in_code(simulation)
    efficiencies = {name for name in UNITS if name.endswith("_efficiency")}
    assert listed >= set(KINDS) | (UNITS.keys() - efficiencies) | OPTIONAL_UNITS.keys()
    assert all(f"`{name.partition('_')[0]}_…_efficiency`" in simulation for name in efficiencies)


def test_every_field_of_a_manifest_is_listed() -> None:
    assert words_in_code(page("models")) >= fields(Manifest) | {"format_version"}
