"""The network of the ECS deployment: public, private and isolated subnets, endpoints."""

from aws_cdk import CfnCondition, CfnOutput, CfnParameter, Fn, RemovalPolicy
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from resources.accepted import accept

READER_SUBNETS = "telemill-reader-subnets"
ENDPOINTS = ("kinesis-streams", "logs", "ecr.api", "ecr.dkr", "glue", "sns", "sts")
"""What the services and Fargate call; S3 and DynamoDB have gateways, which cost nothing."""
TRACES = "xray"


class Network(Construct):
    """Two zones. Only ingest needs the world (the FMS API): it gets the NAT gateway."""

    def __init__(self, scope: Construct, key: kms.Key) -> None:
        super().__init__(scope, "Network")
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            max_azs=2,
            nat_gateways=1,
            subnet_configuration=[
                _subnets("public", ec2.SubnetType.PUBLIC),
                _subnets("private", ec2.SubnetType.PRIVATE_WITH_EGRESS),
                _subnets("isolated", ec2.SubnetType.PRIVATE_ISOLATED),
            ],
            gateway_endpoints={
                "S3": {"service": ec2.GatewayVpcEndpointAwsService.S3},
                "DynamoDb": {"service": ec2.GatewayVpcEndpointAwsService.DYNAMODB},
            },
            # Nothing is started in public subnets but the NAT gateway.
            create_internet_gateway=True,
        )
        for subnet in self.vpc.public_subnets:
            subnet.node.default_child.map_public_ip_on_launch = False
        self._log_flows(key)
        self.private_link = CfnCondition(
            scope,
            "HasPrivateLink",
            expression=Fn.condition_equals(
                CfnParameter(
                    scope,
                    "PrivateLink",
                    default="false",
                    allowed_values=["true", "false"],
                    description="Interface endpoints, so that transform, sink and anomaly run in"
                    " subnets without a way out; false: through the NAT gateway, which is cheaper"
                    " below some 3 TB a month",
                ).value_as_string,
                "true",
            ),
        )
        self.traces = CfnCondition(
            scope,
            "HasTraceEndpoint",
            expression=Fn.condition_and(
                self.private_link,
                Fn.condition_equals(
                    CfnParameter(
                        scope,
                        "Tracing",
                        default="false",
                        allowed_values=["true", "false"],
                        description="With PrivateLink: an endpoint for X-Ray, too",
                    ).value_as_string,
                    "true",
                ),
            ),
        )
        self._connect()
        self._export_subnets()

    def _export_subnets(self) -> None:
        """Where readers run: without a way out where there are endpoints, else behind the NAT."""
        isolated = Fn.join(",", [each.subnet_id for each in self.vpc.isolated_subnets])
        private = Fn.join(",", [each.subnet_id for each in self.vpc.private_subnets])
        chosen = Fn.condition_if(self.private_link.logical_id, isolated, private)
        CfnOutput(
            self.node.scope,
            "ReaderSubnets",
            value=chosen.to_string(),
            export_name=READER_SUBNETS,
        )

    def _log_flows(self, key: kms.Key) -> None:
        log = logs.LogGroup(
            self,
            "FlowLog",
            log_group_name="/telemill/network",
            encryption_key=key,
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=RemovalPolicy.DESTROY,
        )
        role = iam.Role(
            self, "FlowRole", assumed_by=iam.ServicePrincipal("vpc-flow-logs.amazonaws.com")
        )
        self.vpc.add_flow_log(
            "Flows", destination=ec2.FlowLogDestination.to_cloud_watch_logs(log, role)
        )

    def _connect(self) -> None:
        inside = ec2.SecurityGroup(
            self,
            "EndpointGroup",
            vpc=self.vpc,
            description="Interface endpoints: HTTPS from the network",
            allow_all_outbound=False,
        )
        inside.add_ingress_rule(
            ec2.Peer.ipv4(self.vpc.vpc_cidr_block), ec2.Port.tcp(443), "HTTPS from the network"
        )
        accept(
            inside,
            "The source is the network's own range, a reference the rule cannot look through.",
            "AwsSolutions-EC23",
        )
        for name in (*ENDPOINTS, TRACES):
            made = ec2.InterfaceVpcEndpoint(
                self,
                f"To{name.title().replace('-', '').replace('.', '')}",
                vpc=self.vpc,
                service=ec2.InterfaceVpcEndpointAwsService(name),
                subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED),
                security_groups=[inside],
                open=False,
            )
            made.node.default_child.cfn_options.condition = (
                self.traces if name == TRACES else self.private_link
            )


def _subnets(name: str, kind: ec2.SubnetType) -> ec2.SubnetConfiguration:
    return ec2.SubnetConfiguration(name=name, subnet_type=kind, cidr_mask=22)
