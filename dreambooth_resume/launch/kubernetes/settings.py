"""The own options of the kubernetes launcher."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from dreambooth_resume.config.options.declaration import NOT_BLANK, free
from dreambooth_resume.launch.base import SETTINGS_CONFIG
from dreambooth_resume.launch.lists import listed

_LABEL = re.compile(r"[A-Za-z0-9./_-]+=[A-Za-z0-9._-]*")
_TOLERATION = re.compile(r"[A-Za-z0-9./_-]+(?:=[A-Za-z0-9._-]*)?:(?:NoSchedule|NoExecute|PreferNoSchedule)")


def _are_labels(value: str | None) -> str | None:
    wrong = next((part for part in listed(value) if _LABEL.fullmatch(part) is None), None)
    if wrong is not None:
        raise ValueError(f"{wrong} is no label; write cloud.google.com/gke-spot=true")
    return value


def _are_tolerations(value: str | None) -> str | None:
    wrong = next((part for part in listed(value) if _TOLERATION.fullmatch(part) is None), None)
    if wrong is not None:
        raise ValueError(f"{wrong} is no toleration; write kubernetes.azure.com/scalesetpriority=spot:NoSchedule")
    return value


class KubernetesSettings(BaseModel):
    """Pods of a cluster."""

    model_config = SETTINGS_CONFIG

    image: Annotated[str | None, NOT_BLANK, free()] = None
    """The image with dbr, made from infra/Dockerfile at this version and pushed where the cluster reads from. It has to
    be named."""

    context: Annotated[str | None, NOT_BLANK, free()] = None
    """Which cluster, by its name in kubectl's settings. null: kubectl's current one."""

    namespace: Annotated[str | None, NOT_BLANK, free()] = None
    """Where in the cluster. null: that of the context."""

    gpus: Annotated[int, Field(ge=0, le=1), free()] = 1
    """GPUs of the pod: a run trains on one. 0: none, on the processor."""

    gpu_resource: Annotated[str, NOT_BLANK, free()] = "nvidia.com/gpu"
    """What the cluster calls a GPU."""

    memory: Annotated[str | None, NOT_BLANK, free()] = None
    """Memory that the pod needs and may take at most, such as 24Gi. null: as the cluster has it."""

    secret: Annotated[str | None, NOT_BLANK, free()] = None
    """Name of a Secret of the namespace, whose keys become variables of the pod: HF_TOKEN for a gated model;
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where the pod has no role for the bucket. Make it with kubectl create
    secret generic; its values never pass through dbr."""

    service_account: Annotated[str | None, NOT_BLANK, free()] = None
    """The pod's service account, where that has the role for the bucket. null: the namespace's default."""

    node_selector: Annotated[str | None, AfterValidator(_are_labels), free()] = None
    """Labels of the nodes that will do, separated by commas, such as cloud.google.com/gke-spot=true."""

    tolerations: Annotated[str | None, AfterValidator(_are_tolerations), free()] = None
    """Taints of nodes that will do all the same, separated by commas, such as
    kubernetes.azure.com/scalesetpriority=spot:NoSchedule. That of GPUs is among them by itself."""

    grace_seconds: Annotated[int, Field(ge=5, le=3600), free()] = 120
    """How long a pod that is to go may go on after SIGTERM, to save its last step. A spot node may give less."""

    backoff_limit: Annotated[int, Field(ge=0, le=10000), free()] = 20
    """How many pods may fail before the cluster gives the Job up. Pods of a node that was lost, drained or taken away
    don't count, and after ends that nobody restarts there is no other pod anyway."""
