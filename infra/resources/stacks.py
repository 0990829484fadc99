"""The stacks, in the order in which they are deployed."""

from aws_cdk import App, DefaultStackSynthesizer, Stack, Tags
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from constructs import Construct

from resources import (
    access,
    catalog,
    dashboard,
    deployments,
    ecs,
    eks,
    governance,
    monitoring,
    registry,
    roles,
    streams,
    tracing,
)
from resources.accepted import accept_empty_parameters
from resources.lake import Buckets, Key
from resources.network import Network
from telemill import names

OPERATIONS_TOPIC = "telemill-operations"


class TelemillStack(Stack):
    """A stack that deploys without a bootstrapped account: it has no assets."""

    def __init__(self, scope: Construct, name: str, description: str) -> None:
        super().__init__(
            scope,
            f"telemill-{name}",
            description=f"Telemill: {description}",
            synthesizer=DefaultStackSynthesizer(generate_bootstrap_version_rule=False),
        )
        Tags.of(self).add("application", "telemill")


class DataStack(TelemillStack):
    """What must outlive every deployment: key, streams, buckets, table, topics."""

    def __init__(self, app: App) -> None:
        super().__init__(app, "data", "streams, buckets, progress table, topics")
        accept_empty_parameters(self)
        self.key = Key(self)
        self.buckets = Buckets(self, self.key)
        governance.let_trail_write(self.buckets.logs)
        self.streams = streams.Streams(self, self.key)
        streams.progress_table(self, self.key)
        streams.topic(Construct(self, "Alerts"), names.ALERT_TOPIC, self.key)
        self.operations: sns.Topic = streams.topic(
            Construct(self, "Operations"),
            OPERATIONS_TOPIC,
            self.key,
            "cloudwatch",
            "budgets",
            "costalerts",
        )
        streams.archive(self, self.streams.by_name[names.RAW_STREAM], self.buckets.raw, self.key)


class CatalogStack(TelemillStack):
    """Tables and queries."""

    def __init__(self, app: App, data: DataStack) -> None:
        super().__init__(app, "catalog", "Glue tables, Athena workgroups and queries")
        catalog.tables(self, data.buckets.lake)
        catalog.workgroups(self, data.buckets.results, data.key)


class AccessStack(TelemillStack):
    """Policies of the services."""

    def __init__(self, app: App, data: DataStack) -> None:
        super().__init__(app, "access", "what each service may do")
        key_arn = data.key.key_arn
        self.policies: dict[str, iam.ManagedPolicy] = {
            each.name: access.policy(self, each, key_arn) for each in deployments.ALL
        }


class PeopleStack(TelemillStack):
    """Roles of people."""

    def __init__(self, app: App, data: DataStack) -> None:
        super().__init__(app, "people", "roles of analysts, operators and administrators")
        for role in (roles.analyst, roles.operator, roles.administrator):
            role(self, data.key.key_arn)


class RegistryStack(TelemillStack):
    """Image repositories."""

    def __init__(self, app: App, data: DataStack) -> None:
        super().__init__(app, "registry", "image repositories")
        registry.repositories(self, data.key.key_arn)


class EcsStack(TelemillStack):
    """The network of the ECS deployment and its services."""

    def __init__(
        self, app: App, data: DataStack, access_stack: AccessStack, network: "NetworkStack"
    ) -> None:
        super().__init__(app, "ecs", "the services on ECS Fargate")
        accept_empty_parameters(self)
        ecs.Services(self, network.network, data.key, access_stack.policies)


class NetworkStack(TelemillStack):
    """Of the ECS deployment; an EKS cluster brings its own."""

    def __init__(self, app: App, data: DataStack) -> None:
        super().__init__(app, "network", "subnets and endpoints of the ECS deployment")
        self.network = Network(self, data.key)


class EksStack(TelemillStack):
    """Roles of the service accounts in k8s/."""

    def __init__(self, app: App, access_stack: AccessStack) -> None:
        super().__init__(app, "eks", "roles of the service accounts on an EKS cluster")
        eks.ServiceAccounts(self, access_stack.policies)


class MonitoringStack(TelemillStack):
    """Alarms and dashboard."""

    def __init__(self, app: App, data: DataStack) -> None:
        super().__init__(app, "monitoring", "alarms and dashboard")
        monitoring.Alarms(self, data.operations)
        dashboard.dashboard(self)
        tracing.group(self)


class GovernanceStack(TelemillStack):
    """Trail and spending."""

    def __init__(self, app: App, data: DataStack) -> None:
        super().__init__(app, "governance", "trail of data access, budget, cost anomalies")
        governance.trail(self, data.key, data.buckets.logs)
        governance.spending(self, data.operations)


def build(app: App) -> None:
    """Add every stack to the app."""
    data = DataStack(app)
    CatalogStack(app, data)
    permissions = AccessStack(app, data)
    PeopleStack(app, data)
    RegistryStack(app, data)
    network = NetworkStack(app, data)
    EcsStack(app, data, permissions, network)
    EksStack(app, permissions)
    MonitoringStack(app, data)
    GovernanceStack(app, data)
