"""The Job's manifest, from values alone. It names secrets and never holds their values."""

from __future__ import annotations

from typing import Any

import yaml

from dreambooth_resume.errors import AccessDenied, BadInput, Fenced, RefusedToGoOn, StoppedOnPurpose
from dreambooth_resume.launch.base import LaunchRequest
from dreambooth_resume.launch.kubernetes.settings import KubernetesSettings
from dreambooth_resume.launch.lists import listed
from dreambooth_resume.launch.machine_settings import service_settings

LAUNCH_LABEL, HOME_ANNOTATION = "dreambooth-resume/launch", "dreambooth-resume/home"
_CONTAINER = "dbr"
_USER = 1000
_STAGE = "/stage"
"""Both as infra/Dockerfile has them."""
_KEPT_SECONDS = 7 * 24 * 3600
NEVER_RESTARTED = tuple(kind.exit_code for kind in (BadInput, StoppedOnPurpose, AccessDenied, RefusedToGoOn, Fenced))


def manifest(request: LaunchRequest, settings: KubernetesSettings) -> dict[str, Any]:
    """A batch/v1 Job of one pod at a time."""
    labels = {"app.kubernetes.io/name": "dreambooth-resume", LAUNCH_LABEL: request.launch_id}
    metadata: dict[str, Any] = {
        "name": request.name,
        "labels": labels,
        "annotations": {HOME_ANNOTATION: request.home},
    }
    if settings.namespace is not None:
        metadata["namespace"] = settings.namespace
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": settings.backoff_limit,
            # A second pod beside one that still saves would wait for it; so it isn't made before.
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _rules()},
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": _pod(request, settings)},
        },
    }


def manifest_yaml(request: LaunchRequest, settings: KubernetesSettings) -> str:
    """The manifest as YAML."""
    return yaml.safe_dump(manifest(request, settings), sort_keys=False, allow_unicode=True, width=1000)


def _rules() -> list[dict[str, Any]]:
    """The restart rule in Kubernetes' words, in this order: what fits none of them counts as a failure."""
    return [
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": _CONTAINER, "operator": "In", "values": sorted(NEVER_RESTARTED)},
        },
        # The node was lost, drained or taken away: no fault of the run.
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]


def _pod(request: LaunchRequest, settings: KubernetesSettings) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": settings.grace_seconds,
        "securityContext": {"runAsNonRoot": True, "runAsUser": _USER, "fsGroup": _USER},
        "automountServiceAccountToken": False,
        "containers": [_container(request, settings)],
        "volumes": [{"name": "stage", "emptyDir": {}}],
    }
    if settings.service_account is not None:
        pod["serviceAccountName"] = settings.service_account
    if settings.node_selector is not None:
        pod["nodeSelector"] = dict(one.split("=", 1) for one in listed(settings.node_selector))
    tolerations = [_toleration(one) for one in listed(settings.tolerations)]
    if settings.gpus:
        tolerations.append({"key": settings.gpu_resource, "operator": "Exists", "effect": "NoSchedule"})
    if tolerations:
        pod["tolerations"] = tolerations
    return pod


def _container(request: LaunchRequest, settings: KubernetesSettings) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if settings.gpus:
        limits[settings.gpu_resource] = settings.gpus
    if settings.memory is not None:
        limits["memory"] = settings.memory
    container: dict[str, Any] = {
        "name": _CONTAINER,
        "image": settings.image or "",
        # The image's entry point is dbr itself, in exec form: SIGTERM arrives.
        "args": [*request.command, "--stage_dir", f"{_STAGE}/run"],
        "env": [{"name": name, "value": value} for name, value in service_settings(request).items()],
        "resources": {"limits": limits, "requests": dict(limits)},
        "volumeMounts": [{"name": "stage", "mountPath": _STAGE}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if settings.secret is not None:
        container["envFrom"] = [{"secretRef": {"name": settings.secret}}]
    return container


def _toleration(text: str) -> dict[str, str]:
    taint, _, effect = text.rpartition(":")
    key, equals, value = taint.partition("=")
    if equals:
        return {"key": key, "operator": "Equal", "value": value, "effect": effect}
    return {"key": key, "operator": "Exists", "effect": effect}
