"""KEDA's resources are what KEDA takes: its own schemas, strictly, and what its scaler asks for."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.k8s.overlays import ROOT, Manifest, kustomize

SCHEMAS = ROOT / "tools" / "keda"
SCALER_TAKES = {
    "namespace", "metricName", "dimensionName", "dimensionValue", "expression",
    "targetMetricValue", "activationTargetMetricValue", "minMetricValue", "ignoreNullValues",
    "metricCollectionTime", "metricStat", "metricUnit", "metricStatPeriod", "metricEndTimeOffset",
    "awsRegion", "awsEndpoint", "identityOwner",
}  # fmt: skip
"""Metadata of the aws-cloudwatch scaler (KEDA 2.18, pkg/scalers/aws_cloudwatch_scaler.go). The
resource's schema takes any text there."""
SCALER_NEEDS = {"targetMetricValue", "minMetricValue", "awsRegion"}


def strict(schema: Any) -> Any:
    """The same schema, refusing what it does not know: an API server drops that without a word."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(each) for name, each in schema.items()}
    known = schema.get("properties")
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(known, dict) and schema.get("type") == "object" and not is_open:
        made["additionalProperties"] = False
    return made


def schema_of(kind: str) -> Any:
    """Of a custom resource, by its plural."""
    text = (SCHEMAS / f"keda.sh_{kind.lower()}s.yaml").read_text()
    (version,) = [
        each
        for each in yaml.safe_load(text)["spec"]["versions"]
        if each["name"] == "v1alpha1" and each["served"]
    ]
    schema = strict(version["schema"]["openAPIV3Schema"])
    # The API server knows these itself; the schema only says that they are objects.
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return schema


def problems(manifest: Manifest) -> list[str]:
    """What KEDA would not take, or not see."""
    found = jsonschema.Draft7Validator(schema_of(manifest["kind"])).iter_errors(manifest)
    said = [f"{each.json_path}: {each.message}" for each in found]
    for trigger in manifest["spec"].get("triggers", []):
        metadata = set(trigger["metadata"])
        said += [f"{name}: the scaler does not know it" for name in metadata - SCALER_TAKES]
        said += [f"{name}: the scaler needs it" for name in SCALER_NEEDS - metadata]
    return said


def ours() -> dict[str, Manifest]:
    """KEDA's resources of the eks overlay, by kind and name."""
    built = kustomize(ROOT / "k8s" / "overlays" / "eks")
    return {
        f"{each['kind']} {each['metadata']['name']}": each
        for each in built
        if each["apiVersion"].startswith("keda.sh/")
    }


def test_keda_takes_our_resources() -> None:
    """Each is valid, with no field that would be dropped."""
    found = ours()
    assert len([name for name in found if name.startswith("ScaledObject ")]) == 4
    assert {name: problems(each) for name, each in found.items()} == {name: [] for name in found}


def test_triggers_name_an_authentication_that_is_there() -> None:
    """KEDA asks CloudWatch with the pod identity of its own."""
    found = ours()
    for name, each in found.items():
        for trigger in each["spec"].get("triggers", []):
            named = trigger["authenticationRef"]["name"]
            assert f"TriggerAuthentication {named}" in found, name


def _misspell(spec: Any) -> None:
    spec["minReplicas"] = spec.pop("minReplicaCount")


def _write_text(spec: Any) -> None:
    spec["pollingInterval"] = "60"


def _forget_type(spec: Any) -> None:
    del spec["triggers"][0]["type"]


def _number_as_metadata(spec: Any) -> None:
    spec["triggers"][0]["metadata"]["targetMetricValue"] = 30000


def _misspell_metadata(spec: Any) -> None:
    metadata = spec["triggers"][0]["metadata"]
    metadata["metricsName"] = metadata.pop("metricName")


def _forget_metadata(spec: Any) -> None:
    del spec["triggers"][0]["metadata"]["minMetricValue"]


def _wrong_fallback(spec: Any) -> None:
    spec["fallback"]["behavior"] = "stay"


def _misspell_deep_down(spec: Any) -> None:
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    behavior["scaleDown"]["stabilisationWindowSeconds"] = 900


@pytest.mark.parametrize(
    "plant",
    [
        _misspell,
        _write_text,
        _forget_type,
        _number_as_metadata,
        _misspell_metadata,
        _forget_metadata,
        _wrong_fallback,
        _misspell_deep_down,
    ],
)
def test_a_mistake_is_found(plant: Callable[[Any], None]) -> None:
    """What the test above would not let pass."""
    manifest = copy.deepcopy(ours()["ScaledObject transform"])
    plant(manifest["spec"])
    assert problems(manifest)


def test_the_schemas_say_where_they_are_from() -> None:
    """Origin and licence stand beside them."""
    page = (SCHEMAS / "README.md").read_text()
    assert "github.com/kedacore/keda/v2@v2.18" in page
    assert "Apache License" in Path(SCHEMAS / "LICENSE").read_text()
