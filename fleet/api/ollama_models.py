"""Deployments as Ollama lists models."""

from __future__ import annotations

from typing import Any

from fleet.deploying.views import DeploymentView
from fleet.service.protocol import FleetService
from fleet.service.views import ModelView
from protos.errors import NotFound

NEVER, UNKNOWN = "9999-12-31T23:59:59Z", "1970-01-01T00:00:00Z"  # nobody knows when a model was modified


def listed(fleet: FleetService) -> list[dict[str, Any]]:
    """All, whether they answer just now or not."""
    models = {model.digest: model for model in fleet.models()}
    deployments = [one for one in fleet.deployments() if one.state != "unreadable"]
    return [{**_named(one), "modified_at": UNKNOWN, **_sized(models.get(one.manifest_digest))} for one in deployments]


def running(fleet: FleetService) -> list[dict[str, Any]]:
    """Those that answer: until they are taken down."""
    models = {model.digest: model for model in fleet.models()}
    ready = [one for one in fleet.deployments() if one.state in ("ready", "degraded")]
    return [
        {**_named(one), **(sized := _sized(models.get(one.manifest_digest))), "size_vram": sized["size"], "expires_at": NEVER}
        | {"context_length": one.context}
        for one in ready
    ]


def shown(fleet: FleetService, name: str) -> dict[str, Any]:
    """Raises NotFound."""
    deployment = deployed(fleet, name)
    model = next((one for one in fleet.models() if one.digest == deployment.manifest_digest), None)
    told: dict[str, Any] = {
        "modelfile": "",
        "template": "",
        "modified_at": UNKNOWN,
        "details": _details(model),
        "model_info": {},
        "capabilities": ["completion", "insert"] if model and model.fills_blanks else ["completion", "tools"],
    }
    if model is None:
        return told
    family = model.architecture
    return {
        **told,
        "license": model.license,
        "parameters": "\n".join(f"{key} {value}" for key, value in model.sampling.items()),
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": model.parameters,
            f"{family}.context_length": deployment.context,
            f"{family}.embedding_length": model.hidden_size,
            f"{family}.block_count": model.layers,
        },
    }


def deployed(fleet: FleetService, name: str) -> DeploymentView:
    """By its own name, or its model's. Raises NotFound."""
    for one in fleet.deployments():
        if name in (one.name, one.model) and one.state != "unreadable":
            return one
    raise NotFound(f"model {name!r} not found", advice="GET /api/tags lists them")


def _named(deployment: DeploymentView) -> dict[str, Any]:
    return {"name": deployment.name, "model": deployment.name, "digest": deployment.manifest_digest}


def _sized(model: ModelView | None) -> dict[str, Any]:
    return {"size": model.size_bytes if model else 0, "details": _details(model)}


def _details(model: ModelView | None) -> dict[str, Any]:
    """Empty of a model that is in the store no more."""
    family = model.architecture if model else ""
    return {
        "parent_model": "",
        "format": "glmfleet",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _counted(model.parameters) if model else "",
        "quantization_level": f"int{model.bits}" if model else "",
    }


def _counted(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"
