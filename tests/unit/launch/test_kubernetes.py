"""The kubernetes launcher: the manifest against Kubernetes' own schemas, and kubectl's answers in our words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dreambooth_resume import errors
from dreambooth_resume.errors import AccessDenied, BadInput, ComeBack
from dreambooth_resume.launch.base import Job
from dreambooth_resume.launch.kubernetes.launcher import KubernetesLauncher
from dreambooth_resume.launch.kubernetes.manifest import manifest, manifest_yaml
from dreambooth_resume.launch.kubernetes.settings import KubernetesSettings
from dreambooth_resume.launch.launchers import split_words
from dreambooth_resume.launch.state_folder import launch_folder
from tests.contracts.launcher_cases import request_for
from tests.fakes.platform_programs import FakeProgram, fake_kubectl, without_programs

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[3]
REQUEST = request_for("s3://bucket/dog")
ALL: dict[str, Any] = {
    "image": "registry/dbr:1",
    "context": "here",
    "namespace": "training",
    "memory": "24Gi",
    "secret": "dbr",
    "service_account": "trainer",
    "node_selector": "cloud.google.com/gke-spot=true,disk=fast",
    "tolerations": "kubernetes.azure.com/scalesetpriority=spot:NoSchedule,mine:NoExecute",
}


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProgram:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return fake_kubectl(tmp_path, monkeypatch)


def launcher(**settings: Any) -> KubernetesLauncher:
    return KubernetesLauncher(KubernetesSettings.model_validate({"image": "registry/dbr:1", **settings}))


@pytest.mark.parametrize("version", ["1.31", "1.37"])
@pytest.mark.parametrize("settings", [{"image": "registry/dbr:1"}, ALL, {"image": "x", "gpus": 0}])
def test_the_manifest_is_one_by_kubernetes_own_schema(settings: dict[str, Any], version: str) -> None:
    found = yaml.safe_load(manifest_yaml(REQUEST, KubernetesSettings.model_validate(settings)))
    kubernetes_validate.validate(found, version, strict=True)


def test_a_misspelt_key_would_be_found() -> None:
    found = manifest(REQUEST, KubernetesSettings(image="x"))
    found["spec"]["backofLimit"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found, "1.37", strict=True)


def test_the_policy_is_the_restart_rule() -> None:
    spec = manifest(REQUEST, KubernetesSettings(image="x"))["spec"]
    end, lost = spec["podFailurePolicy"]["rules"]
    all_codes = {
        value.exit_code for value in vars(errors).values() if isinstance(value, type) and hasattr(value, "exit_code")
    }
    assert end["action"] == "FailJob"
    assert set(end["onExitCodes"]["values"]) == all_codes - {70, 75}
    assert end["onExitCodes"]["containerName"] == spec["template"]["spec"]["containers"][0]["name"]
    # A pod of a lost node costs none of the failures that are allowed.
    assert lost == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["podReplacementPolicy"] == "Failed"


def test_the_pod_has_a_gpu_time_to_save_and_secrets_by_name() -> None:
    pod = manifest(REQUEST, KubernetesSettings.model_validate(ALL))["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] == 120
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1, "memory": "24Gi"}
    assert container["envFrom"] == [{"secretRef": {"name": "dbr"}}]
    assert container["args"][:4] == ["supervise", "s3://bucket/dog", "--launch", REQUEST.launch_id]
    assert pod["nodeSelector"] == {"cloud.google.com/gke-spot": "true", "disk": "fast"}
    assert pod["tolerations"] == [
        {"key": "kubernetes.azure.com/scalesetpriority", "operator": "Equal", "value": "spot", "effect": "NoSchedule"},
        {"key": "mine", "operator": "Exists", "effect": "NoExecute"},
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
    ]


def test_user_and_stage_are_those_of_the_image() -> None:
    image = (ROOT / "infra" / "Dockerfile").read_text()
    pod = manifest(REQUEST, KubernetesSettings(image="x"))["spec"]["template"]["spec"]
    assert re.findall(r"^USER (\d+)$", image, re.M) == [str(pod["securityContext"]["runAsUser"])]
    assert re.findall(r"^VOLUME (\S+)$", image, re.M) == [pod["containers"][0]["volumeMounts"][0]["mountPath"]]


def test_what_can_not_work_is_refused_and_nothing_is_made(kubectl: FakeProgram) -> None:
    with pytest.raises(BadInput, match="needs an image"):
        launcher(image=None).check(REQUEST)
    with pytest.raises(BadInput, match="has no Secret other"):
        launcher(secret="other").check(REQUEST)
    with pytest.raises(BadInput, match="is no label"):
        split_words("kubernetes", ["--node-selector", "spot"])
    with pytest.raises(BadInput, match="is no toleration"):
        split_words("kubernetes", ["--tolerations", "spot"])
    assert kubectl.jobs == {}


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ('Error from server (Forbidden): jobs.batch is forbidden: User "eve" cannot create resource', AccessDenied),
        ("error: You must be logged in to the server (Unauthorized)", AccessDenied),
        ("Unable to connect to the server: dial tcp 10.0.0.1:443: i/o timeout", ComeBack),
        ('error: context "here" does not exist', BadInput),
    ],
)
def test_kubectls_refusals_in_our_words(kubectl: FakeProgram, said: str, error: type[Exception]) -> None:
    kubectl.set(refuses=["create", said])
    with pytest.raises(error, match=re.escape(said)):
        launcher().check(REQUEST)
    with pytest.raises(error):
        launcher().start(REQUEST)
    assert kubectl.jobs == {}
    assert not launch_folder(REQUEST.launch_id).exists()


def test_context_and_namespace_go_with_every_question(kubectl: FakeProgram) -> None:
    wanted = launcher(context="here", namespace="training")
    wanted.check(REQUEST)
    job = wanted.start(REQUEST)
    wanted.look(job)
    wanted.release(job)
    assert len(kubectl.asked) == 4
    assert all(words[:4] == ["--context", "here", "--namespace", "training"] for words in kubectl.asked)


def test_without_kubectl_the_manifest_is_written_and_what_to_type_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    without_programs(tmp_path, monkeypatch)
    wanted = launcher(namespace="training")
    wanted.check(REQUEST)
    assert "kubectl isn't installed here" in wanted.plan(REQUEST)
    job = wanted.start(REQUEST)
    file = launch_folder(REQUEST.launch_id) / "job.yaml"
    assert job.name.endswith(f"type: kubectl --namespace training create -f {file}")
    assert file.read_text() == manifest_yaml(REQUEST, wanted.settings)
    assert wanted.look(job).state == "unknown"
    assert wanted.logs(job, follow=False) is None
    wanted.release(job)


@pytest.mark.parametrize(
    ("status", "state", "because"),
    [
        ({}, "waiting", "no pod yet"),
        ({"active": 1, "ready": 0, "failed": 2}, "waiting", "2 pods failed so far"),
        ({"active": 1, "ready": 1}, "running", "its pod runs"),
        ({"conditions": [{"type": "Complete", "status": "True"}]}, "ended", "Complete"),
        (
            {"conditions": [{"type": "Failed", "status": "True", "message": "Container dbr failed with exit code 76"}]},
            "ended",
            "exit code 76",
        ),
        # The pod has ended, and the Job has not drawn its conclusion yet.
        ({"conditions": [{"type": "FailureTarget", "status": "True"}], "active": 1}, "waiting", "not ready"),
    ],
)
def test_a_job_stands_as_the_cluster_says(
    kubectl: FakeProgram, status: dict[str, Any], state: str, because: str
) -> None:
    kubectl.set(jobs={"dbr-dog-1": {"status": status}})
    looked = launcher().look(Job(name="job/dbr-dog-1", values={"name": "dbr-dog-1"}))
    assert looked.state == state
    assert because in looked.because


def test_logs_are_those_of_the_jobs_pod(kubectl: FakeProgram) -> None:
    kubectl.set(jobs={"dbr-dog-1": {"status": {}}})
    job = Job(name="job/dbr-dog-1", values={"name": "dbr-dog-1"})
    assert list(launcher().logs(job, follow=True) or ()) == ["step 1", "step 2"]
    assert launcher().logs(Job(name="gone", values={"name": "gone"}), follow=False) is None
