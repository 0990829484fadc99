"""The ECS deployment: cluster, task definitions, services."""

from dataclasses import dataclass

from aws_cdk import Aws, CfnCondition, CfnParameter, Duration, Fn, RemovalPolicy
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from resources import deployments, scaling, tracing
from resources.accepted import accept, accept_wildcards
from resources.access import statement
from resources.arns import arn, bucket_name
from resources.deployments import Deployment
from resources.network import READER_SUBNETS, Network
from telemill import names

HEALTH_CHECK = (
    "import urllib.request as u;"
    f"u.urlopen('http://127.0.0.1:{deployments.HTTP_PORT}/healthz',timeout=3)"
)
"""As the image's own HEALTHCHECK, which ECS does not look at. No curl in the image."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the operator says at deployment."""

    image_tag: str
    base_url: str
    devices: str
    interval: str
    slots: str
    coordinator: CfnParameter
    max_readers: CfnParameter
    target_group: str
    caller_group: str
    secret: str
    people_secret: str
    collector_tag: str
    trace_ratio: str


def parameters(scope: Construct) -> Parameters:
    """The parameters of the stack."""

    def text(name: str, description: str, default: str | None = "") -> str:
        made = CfnParameter(scope, name, description=description, default=default)
        return str(made.value_as_string)

    return Parameters(
        image_tag=text("ImageTag", "Tag of the images in the repositories telemill/…", None),
        base_url=text("FmsBaseUrl", "The FMS API: FmsBaseUrl/{device}/", None),
        devices=text("Devices", "Devices to poll: a list of ids, also ranges", "1-100"),
        interval=text("PollIntervalSeconds", "Between two polls of a device", "10"),
        slots=text("SlotCount", "Slots of the streams; fixed for a stream's life", "64"),
        coordinator=CfnParameter(
            scope,
            "Coordinator",
            default="single",
            allowed_values=["single", "kcl"],
            description="Who shares out the shards; kcl takes images with the KCL in them",
        ),
        max_readers=CfnParameter(
            scope,
            "MaxReaders",
            type="Number",
            default=2,
            min_value=1,
            description="Most tasks of each reading service; with the coordinator `single` one"
            " works and the others stand by",
        ),
        target_group=text("PushTargetGroupArn", "Target group for HTTP push; empty: none"),
        caller_group=text("PushSecurityGroupId", "Security group of its load balancer"),
        secret=text("PushKeysArn", "Secret with INGEST_API_KEY_HASHES; empty: no push"),
        people_secret=text(
            "PeopleKeysArn", "Secret with ANOMALY_API_KEY_HASHES; empty: nobody mutes alerts"
        ),
        collector_tag=text("CollectorTag", "Tag of telemill/collector; empty: no traces"),
        trace_ratio=text("TraceRatio", "Share of polls and pushes that are traced", "0.01"),
    )


class Services(Construct):
    """The five deployments."""

    def __init__(
        self,
        scope: Construct,
        network: Network,
        key: kms.Key,
        policies: dict[str, iam.ManagedPolicy],
    ) -> None:
        super().__init__(scope, "Services")
        self._network = network
        self._key = key
        self._given = parameters(scope)
        self._secrets = {
            "ingest": (self._unless_empty("HasApiKeys", self._given.secret), self._given.secret),
            "anomaly": (
                self._unless_empty("HasPeopleKeys", self._given.people_secret),
                self._given.people_secret,
            ),
        }
        self._has_group = self._unless_empty("HasPush", self._given.target_group)
        self._has_collector = self._unless_empty("HasCollector", self._given.collector_tag)
        self._trace_endpoint = Fn.condition_if(
            self._has_collector.logical_id, tracing.ENDPOINT, ""
        ).to_string()
        self._inside = Fn.split(",", Fn.import_value(READER_SUBNETS))
        self.cluster = ecs.Cluster(
            self,
            "Cluster",
            cluster_name="telemill",
            vpc=network.vpc,
            container_insights_v2=ecs.ContainerInsights.ENABLED,
            enable_fargate_capacity_providers=True,
        )
        self._execution = self._execution_role()
        self._group = self._security_group()
        for each in deployments.ALL:
            self._run(each, policies[each.name])

    def _unless_empty(self, name: str, value: str) -> CfnCondition:
        given = Fn.condition_not(Fn.condition_equals(value, ""))
        return CfnCondition(self.node.scope, name, expression=given)

    def _execution_role(self) -> iam.Role:
        """Of the agent: pulls the images, writes the logs, reads the secrets."""
        role = iam.Role(
            self, "Execution", assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com")
        )
        statements = [
            statement("Login", ["ecr:GetAuthorizationToken"], ["*"]),
            statement(
                "Pull",
                [
                    "ecr:BatchCheckLayerAvailability",
                    "ecr:BatchGetImage",
                    "ecr:GetDownloadUrlForLayer",
                ],
                [arn("ecr", "repository/telemill/*")],
            ),
            statement(
                "Log",
                ["logs:CreateLogStream", "logs:PutLogEvents"],
                [arn("logs", "log-group:/telemill/*:log-stream:*")],
            ),
        ]
        for each in statements:
            role.add_to_policy(each)
        reason = "GetAuthorizationToken knows no resources; repositories and log groups are ours."
        accept_wildcards(role.node.find_child("DefaultPolicy"), reason, statements)
        for name, (given, secret) in self._secrets.items():
            allowed = iam.CfnPolicy(
                self,
                "ReadSecret" if name == "ingest" else f"Read{name.title()}Secret",
                policy_name="secret" if name == "ingest" else f"secret-{name}",
                roles=[role.role_name],
                policy_document=iam.PolicyDocument(
                    statements=[statement("Secret", ["secretsmanager:GetSecretValue"], [secret])]
                ),
            )
            allowed.cfn_options.condition = given
        return role

    def _security_group(self) -> ec2.SecurityGroup:
        group = ec2.SecurityGroup(
            self,
            "Group",
            vpc=self._network.vpc,
            description="Telemill services: out to AWS and the FMS API, in from the load balancer",
            allow_all_outbound=False,
        )
        group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(443), "AWS, and an API on HTTPS")
        group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(9872), "The FMS API")
        group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.udp(53), "Names")
        push = ec2.CfnSecurityGroupIngress(
            self,
            "Push",
            ip_protocol="tcp",
            from_port=deployments.HTTP_PORT,
            to_port=deployments.HTTP_PORT,
            group_id=group.security_group_id,
            source_security_group_id=self._given.caller_group,
            description="HTTP push from the load balancer",
        )
        push.cfn_options.condition = self._has_group
        return group

    def _run(self, of: Deployment, policy: iam.ManagedPolicy) -> None:
        scope = Construct(self, of.name.title().replace("-", ""))
        task = self._task(scope, of, policy)
        service = ecs.FargateService(
            scope,
            "Service",
            service_name=f"telemill-{of.name}",
            cluster=self.cluster,
            task_definition=task,
            capacity_provider_strategies=_capacity(of),
            circuit_breaker=ecs.DeploymentCircuitBreaker(enable=True, rollback=True),
            # The new task starts while the old one drains and gives up its claims.
            min_healthy_percent=100,
            max_healthy_percent=200,
            security_groups=[self._group],
            vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS),
            propagate_tags=ecs.PropagatedTagSource.SERVICE,
            enable_execute_command=False,
        )
        made = service.node.default_child
        if of.reads:
            made.add_property_override(
                "NetworkConfiguration.AwsvpcConfiguration.Subnets", self._inside
            )
            scaling.by_lag(scope, of, service, self._given.max_readers)
        else:
            made.add_property_override("LoadBalancers", self._load_balancers(of))
            scaling.by_cpu(service)

    def _load_balancers(self, of: Deployment) -> object:
        target = {
            "ContainerName": of.name,
            "ContainerPort": deployments.HTTP_PORT,
            "TargetGroupArn": self._given.target_group,
        }
        return Fn.condition_if(self._has_group.logical_id, [target], Aws.NO_VALUE)

    def _task(
        self, scope: Construct, of: Deployment, policy: iam.ManagedPolicy
    ) -> ecs.FargateTaskDefinition:
        role = iam.Role(
            scope,
            "Role",
            role_name=f"telemill-ecs-{of.name}",
            description=f"Telemill {of.name} on ECS",
            assumed_by=iam.ServicePrincipal(
                "ecs-tasks.amazonaws.com",
                conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
            ),
            managed_policies=[policy],
        )
        task = ecs.FargateTaskDefinition(
            scope,
            "Task",
            family=f"telemill-{of.name}",
            cpu=of.cpu,
            memory_limit_mib=of.memory_mib,
            task_role=role,
            execution_role=self._execution,
            volumes=[ecs.Volume(name="tmp")],
        )
        self._collect_traces(scope, of, role, task)
        container = self._container(scope, of, task)
        container.add_mount_points(
            ecs.MountPoint(container_path="/tmp", source_volume="tmp", read_only=False)  # noqa: S108
        )
        reason = "Settings are no secrets; those that are come from Secrets Manager."
        accept(task, reason, "AwsSolutions-ECS2")
        if of.name in self._secrets:
            given, secret = self._secrets[of.name]
            secrets = [{"Name": f"{of.prefix}API_KEY_HASHES", "ValueFrom": secret}]
            task.node.default_child.add_property_override(
                "ContainerDefinitions.0.Secrets",
                Fn.condition_if(given.logical_id, secrets, Aws.NO_VALUE),
            )
        return task

    def _collect_traces(
        self, scope: Construct, of: Deployment, role: iam.Role, task: ecs.FargateTaskDefinition
    ) -> None:
        made = tracing.side_container(
            _registry(), self._given.collector_tag, f"/telemill/{of.name}", "collector"
        )
        task.node.default_child.add_property_override(
            "ContainerDefinitions.1",
            Fn.condition_if(self._has_collector.logical_id, made, Aws.NO_VALUE),
        )
        policy = iam.CfnPolicy(
            scope,
            "Traces",
            policy_name="traces",
            roles=[role.role_name],
            policy_document=iam.PolicyDocument(statements=[tracing.writing()]),
        )
        policy.cfn_options.condition = self._has_collector
        accept(policy, tracing.WHY_ALL, "AwsSolutions-IAM5[Resource::*]")

    def _container(
        self, scope: Construct, of: Deployment, task: ecs.FargateTaskDefinition
    ) -> ecs.ContainerDefinition:
        log = logs.LogGroup(
            scope,
            "Log",
            log_group_name=f"/telemill/{of.name}",
            encryption_key=self._key,
            retention=logs.RetentionDays.THREE_MONTHS,
            removal_policy=RemovalPolicy.DESTROY,
        )
        return task.add_container(
            of.name,
            image=ecs.ContainerImage.from_registry(
                f"{_registry()}/telemill/{of.service}:{self._given.image_tag}"
            ),
            environment=environment(of, self._given, self._trace_endpoint),
            logging=ecs.LogDriver.aws_logs(stream_prefix=of.name, log_group=log),
            health_check=ecs.HealthCheck(
                command=["CMD", "python", "-c", HEALTH_CHECK],
                interval=Duration.seconds(15),
                timeout=Duration.seconds(10),
                retries=3,
                start_period=Duration.seconds(60),
            ),
            port_mappings=[ecs.PortMapping(container_port=deployments.HTTP_PORT)],
            readonly_root_filesystem=True,
            stop_timeout=Duration.seconds(deployments.STOP_SECONDS),
        )


def _registry() -> str:
    return f"{Aws.ACCOUNT_ID}.dkr.ecr.{Aws.REGION}.{Aws.URL_SUFFIX}"


def environment(of: Deployment, given: Parameters, trace_endpoint: str) -> dict[str, str]:
    """The settings of a deployment, as environment variables."""
    shared = {"AWS_DEFAULT_REGION": Aws.REGION}
    own = {
        "HTTP_HOST": "0.0.0.0",  # noqa: S104
        "HTTP_PORT": str(deployments.HTTP_PORT),
        "DRAIN_TIMEOUT_SECONDS": str(deployments.DRAIN_SECONDS),
        "EMF_ENABLED": "true",
        "SLOT_COUNT": given.slots,
        "STATE_BUCKET": bucket_name(names.STATE_BUCKET),
        "TRACE_ENDPOINT": trace_endpoint,
        **dict(of.settings),
    }
    if of.reads:
        own["LAKE_BUCKET"] = bucket_name(names.LAKE_BUCKET)
        shared["KINESIS_COORDINATOR"] = given.coordinator.value_as_string
    else:
        own |= {
            "BASE_URL": given.base_url,
            "DEVICES": given.devices,
            "POLL_INTERVAL_SECONDS": given.interval,
            "TRACE_RATIO": given.trace_ratio,
        }
    if of.service == "anomaly":
        own["ALERT_TOPIC"] = arn("sns", names.ALERT_TOPIC)
    prefixed = {f"{of.prefix}{name}": value for name, value in own.items()}
    return {**shared, **prefixed}


def _capacity(of: Deployment) -> list[ecs.CapacityProviderStrategy]:
    """SIGKILL at any moment is safe for who reads a stream; a poll under way would be missed."""
    if not of.reads:
        return [ecs.CapacityProviderStrategy(capacity_provider="FARGATE", weight=1)]
    return [
        ecs.CapacityProviderStrategy(capacity_provider="FARGATE", base=1, weight=1),
        ecs.CapacityProviderStrategy(capacity_provider="FARGATE_SPOT", weight=3),
    ]
