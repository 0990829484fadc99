"""The manifests, as kustomize builds them, fit the code: settings, ports, probes, metrics."""

from collections.abc import Iterator

import pytest
import yaml
from aiohttp import web
from prometheus_client import CollectorRegistry

from anomaly.settings import AnomalySettings
from ingest.settings import IngestSettings
from simulator.settings import SimulatorSettings
from sink.settings import SinkSettings
from telemill import coordination, emf, health, names, settings
from tests.deploy import published
from tests.k8s.overlays import ROOT, Manifest, kustomize
from transform.settings import TransformSettings

OVERLAYS = ("local", "eks", "eks-traced")
SETTINGS: dict[str, type[settings.ServiceSettings]] = {
    "ingest": IngestSettings,
    "transform": TransformSettings,
    "sink": SinkSettings,
    "anomaly": AnomalySettings,
}
READERS = [each for each in published.APPLICATIONS if each != "ingest"]


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Manifest]:
    """The manifests of each overlay."""
    return kustomize(ROOT / "k8s" / "overlays" / request.param)


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """Name to manifest."""
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}


def services(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The deployments of our services."""
    found = of_kind(manifests, "Deployment")
    return {name: each for name, each in found.items() if name in published.APPLICATIONS}


def container(deployment: Manifest) -> Manifest:
    """Its one container."""
    (one,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(one)


def environment(manifests: list[Manifest], name: str) -> dict[str, str]:
    """What a deployment's ConfigMap sets."""
    sources = container(services(manifests)[name])["envFrom"]
    (reference,) = [each["configMapRef"]["name"] for each in sources if "configMapRef" in each]
    return dict(of_kind(manifests, "ConfigMap")[reference]["data"])


def loaded(
    manifests: list[Manifest], name: str, monkeypatch: pytest.MonkeyPatch
) -> settings.ServiceSettings:
    """The settings a deployment starts with."""
    for variable, value in environment(manifests, name).items():
        monkeypatch.setenv(variable, value)
    return settings.read(SETTINGS[published.APPLICATIONS[name]])


def routes() -> set[str]:
    """What every service answers under."""
    app = health.ops_app(health.Health(), CollectorRegistry())
    return {each.canonical for each in app.router.resources() if isinstance(each, web.Resource)}


def test_all_five_are_there(overlay: list[Manifest]) -> None:
    """Each deployment has what belongs to it."""
    wanted = set(published.APPLICATIONS)
    assert set(services(overlay)) == wanted
    for kind in ("Service", "ServiceAccount", "PodDisruptionBudget"):
        assert wanted <= set(of_kind(overlay, kind)), kind


@pytest.mark.parametrize("name", published.APPLICATIONS)
def test_the_settings_are_the_services(
    name: str, overlay: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every variable is a setting, its value is taken, and nothing else is set but AWS's own."""
    read = loaded(overlay, name, monkeypatch)
    prefix = f"{published.APPLICATIONS[name].upper()}_"
    for variable in environment(overlay, name):
        assert variable.startswith((prefix, "KINESIS_", "AWS_")), variable
    assert read.http_host == "0.0.0.0"  # noqa: S104
    assert read.emf_enabled
    if isinstance(read, SinkSettings):
        assert read.application == name


@pytest.mark.parametrize("name", published.APPLICATIONS)
def test_ports_and_probes_are_the_services(
    name: str, overlay: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probes ask the port the service listens on, under paths that it answers."""
    read = loaded(overlay, name, monkeypatch)
    inside = container(services(overlay)[name])
    assert [(each["name"], each["containerPort"]) for each in inside["ports"]] == [
        ("http", read.http_port)
    ]
    (port,) = of_kind(overlay, "Service")[name]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (read.http_port, "http")
    asked = {
        kind: inside[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")
    }
    assert {each["port"] for each in asked.values()} == {"http"}
    assert {each["path"] for each in asked.values()} <= routes()
    assert asked["readiness"]["path"] == "/readyz"
    assert asked["liveness"]["path"] == asked["startup"]["path"] == "/healthz"


@pytest.mark.parametrize("name", published.APPLICATIONS)
def test_a_pod_may_drain(
    name: str, overlay: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL comes after the drain, and after the KCL's daemon has told every shard."""
    grace = services(overlay)[name]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    drain = loaded(overlay, name, monkeypatch).drain_timeout_seconds
    assert grace > drain + coordination.GRACE_SECONDS


@pytest.mark.parametrize("name", published.APPLICATIONS)
def test_selectors_meet(name: str, overlay: list[Manifest]) -> None:
    """Service, disruption budget and spread select the deployment's own pods."""
    deployment = services(overlay)[name]["spec"]
    own = {"app.kubernetes.io/name": name}
    labels = deployment["template"]["metadata"]["labels"]
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    selectors = [
        deployment["selector"]["matchLabels"],
        of_kind(overlay, "Service")[name]["spec"]["selector"],
        of_kind(overlay, "PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in spread),
    ]
    assert all(each == own for each in selectors)
    assert own.items() <= labels.items()
    assert deployment["template"]["spec"]["serviceAccountName"] == name


def test_a_reader_leaves_before_its_successor_is_ready(overlay: list[Manifest]) -> None:
    """A rollout does not wait for a pod that itself waits for the old pod's shards."""
    for name in READERS:
        rolling = services(overlay)[name]["spec"]["strategy"]["rollingUpdate"]
        assert rolling["maxUnavailable"] == 1


def triggers() -> Iterator[tuple[str, Manifest, Manifest]]:
    """Deployment, ScaledObject and trigger of the eks overlay."""
    for each in of_kind(kustomize(ROOT / "k8s" / "overlays" / "eks"), "ScaledObject").values():
        (trigger,) = each["spec"]["triggers"]
        yield each["spec"]["scaleTargetRef"]["name"], each["spec"], trigger


def test_readers_scale_by_a_metric_the_code_emits() -> None:
    """Each reader scales on its own lag, under the name and dimensions the exporter writes."""
    found = {name: trigger["metadata"] for name, _, trigger in triggers()}
    assert set(found) == set(READERS)
    for name, metadata in found.items():
        assert metadata["namespace"] == emf.NAMESPACE
        assert metadata["dimensionValue"] == name
        dimensions = {metadata["dimensionName"]: metadata["dimensionValue"]}
        assert published.unknown(metadata["metricName"], dimensions) == ""
        assert metadata["metricStat"] == "Maximum"


def test_scaling_down_waits_for_hand_overs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two steps down there is more time than a pod may take to end."""
    built = kustomize(ROOT / "k8s" / "overlays" / "eks")
    for name, spec, _ in triggers():
        down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        pod = services(built)[name]["spec"]["template"]["spec"]
        assert down["stabilizationWindowSeconds"] > pod["terminationGracePeriodSeconds"]
        assert all(
            each["periodSeconds"] > pod["terminationGracePeriodSeconds"] and each["value"] == 1
            for each in down["policies"]
        )
        # With this coordinator one worker reads every shard: a second one stands by.
        if environment(built, name)["KINESIS_COORDINATOR"] == "single":
            assert spec["maxReplicaCount"] <= 2


def test_eks_names_what_the_templates_make() -> None:
    """Buckets, topic, namespace and service accounts are those of infra/templates."""
    built = kustomize(ROOT / "k8s" / "overlays" / "eks")
    for name, service in published.APPLICATIONS.items():
        variables = environment(built, name)
        assert variables[f"{service.upper()}_STATE_BUCKET"].startswith(f"{names.STATE_BUCKET}-")
        if name in READERS:
            lake = variables[f"{service.upper()}_LAKE_BUCKET"]
            assert lake.startswith(f"{names.LAKE_BUCKET}-")
    topic = environment(built, "anomaly")["ANOMALY_ALERT_TOPIC"]
    assert topic.endswith(f":{names.ALERT_TOPIC}")
    associated = {
        (each["Namespace"], each["ServiceAccount"])
        for _, each in published.resources("eks", "AWS::EKS::PodIdentityAssociation")
    }
    accounts = of_kind(built, "ServiceAccount").values()
    ours = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in accounts}
    assert ours <= associated
    assert associated - ours == {("keda", "keda-operator"), ("telemill", "collector")}


def test_traces_reach_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every service sends to a port the collector has and may be reached on, as its own account."""
    built = kustomize(ROOT / "k8s" / "overlays" / "eks-traced")
    collector = of_kind(built, "Deployment")["collector"]["spec"]["template"]
    (one,) = collector["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in one["ports"]}
    (service,) = of_kind(built, "Service")["collector"]["spec"]["ports"]
    assert service["targetPort"] in ports
    assert of_kind(built, "Service")["collector"]["spec"]["selector"].items() <= (
        collector["metadata"]["labels"].items()
    )
    for name, service_name in published.APPLICATIONS.items():
        chosen = loaded(built, name, monkeypatch)
        assert chosen.trace_endpoint == f"http://collector:{service['port']}", service_name
    (configuration,) = [
        yaml.safe_load(each["data"]["config.yaml"])
        for name, each in of_kind(built, "ConfigMap").items()
        if name.startswith("collector-")
    ]
    taken = configuration["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert taken.endswith(f":{ports['otlp']}")
    assert configuration["extensions"]["health_check"]["endpoint"].endswith(f":{ports['health']}")
    assert configuration["service"]["pipelines"]["traces"]["exporters"] == ["awsxray"]
    associated = {
        (each["Namespace"], each["ServiceAccount"])
        for _, each in published.resources("eks", "AWS::EKS::PodIdentityAssociation")
    }
    assert ("telemill", collector["spec"]["serviceAccountName"]) in associated
    (sent,) = of_kind(built, "NetworkPolicy")["sends-traces"]["spec"]["egress"]
    assert sent["ports"] == [{"port": ports["otlp"], "protocol": "TCP"}]


def test_only_what_is_needed_gets_through(overlay: list[Manifest]) -> None:
    """Everything is denied, and then allowed by policies that select someone."""
    policies = of_kind(overlay, "NetworkPolicy")
    denied = policies.pop("deny-all")["spec"]
    assert denied == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    labels = [
        each["spec"]["template"]["metadata"]["labels"]
        for kind in ("Deployment", "Job")
        for each in of_kind(overlay, kind).values()
    ]
    for name, policy in policies.items():
        wanted = policy["spec"]["podSelector"].get("matchLabels", {})
        assert any(wanted.items() <= each.items() for each in labels), name
        assert not any(rule == {} for rule in policy["spec"].get("egress", [])), name


def test_the_local_fleet_is_the_simulators(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated FMS API listens where ingest polls it."""
    built = kustomize(ROOT / "k8s" / "overlays" / "local")
    for each in container(of_kind(built, "Deployment")["fms"])["env"]:
        monkeypatch.setenv(each["name"], each["value"])
    fleet = settings.read(SimulatorSettings)
    asked = environment(built, "ingest")
    assert asked["INGEST_BASE_URL"] == f"http://fms:{fleet.http_port}"
    assert asked["INGEST_DEVICES"] == f"1-{fleet.device_count}"
    (port,) = of_kind(built, "Service")["fms"]["spec"]["ports"]
    assert port["port"] == fleet.http_port


def test_the_service_monitor_selects_our_services() -> None:
    """The optional component scrapes the port and path that the services have."""
    (monitor,) = kustomize(ROOT / "k8s" / "components" / "service-monitor")
    built = kustomize(ROOT / "k8s" / "overlays" / "eks")
    selected = [
        name
        for name, each in of_kind(built, "Service").items()
        if monitor["spec"]["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
    ]
    assert set(selected) == set(published.APPLICATIONS)
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["path"] in routes()
    assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/name"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TRANSFORM_COMIT_INTERVAL_SECONDS", "5"),
        ("TRANSFORM_HTTP_PORT", "eighty"),
        ("KINESIS_COORDINATOR", "both"),
    ],
)
def test_a_wrong_overlay_value_is_found(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the settings test above would not let pass."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(Exception, match=variable):
        settings.read(TransformSettings)
