"""What an EKS cluster needs: a role for each service account, KEDA and the collector of traces."""

from aws_cdk import Aws, CfnParameter
from aws_cdk import aws_eks as eks
from aws_cdk import aws_iam as iam
from constructs import Construct

from resources import tracing
from resources.accepted import accept_wildcards
from resources.access import statement
from resources.arns import arn
from resources.deployments import ALL

NAMESPACE = "telemill"
KEDA_NAMESPACE = "keda"
KEDA_ACCOUNT = "keda-operator"


class ServiceAccounts(Construct):
    """Roles, and their associations with the service accounts of k8s/base."""

    def __init__(self, scope: Construct, policies: dict[str, iam.ManagedPolicy]) -> None:
        super().__init__(scope, "Accounts")
        self._cluster = CfnParameter(
            scope,
            "ClusterName",
            description="The EKS cluster; its Pod Identity Agent add-on is installed",
            allowed_pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$",
        ).value_as_string
        for each in ALL:
            role = self._role(each.name, NAMESPACE, each.name)
            role.add_managed_policy(policies[each.name])
        reading = statement("Metrics", ["cloudwatch:GetMetricData"], ["*"])
        keda = self._role("keda", KEDA_NAMESPACE, KEDA_ACCOUNT)
        keda.add_to_policy(reading)
        accept_wildcards(
            keda.node.find_child("DefaultPolicy"),
            "GetMetricData knows no resources.",
            [reading],
        )

        collector = self._role("collector", NAMESPACE, "collector")
        traces = tracing.writing()
        collector.add_to_policy(traces)
        accept_wildcards(collector.node.find_child("DefaultPolicy"), tracing.WHY_ALL, [traces])

    def _role(self, name: str, namespace: str, account: str) -> iam.Role:
        role = iam.Role(
            self,
            name.title().replace("-", ""),
            role_name=f"telemill-eks-{name}",
            description=f"Telemill {name} on EKS",
            assumed_by=iam.SessionTagsPrincipal(
                iam.ServicePrincipal(
                    "pods.eks.amazonaws.com",
                    conditions={
                        "StringEquals": {
                            "aws:SourceAccount": Aws.ACCOUNT_ID,
                            "aws:RequestTag/kubernetes-namespace": namespace,
                            "aws:RequestTag/kubernetes-service-account": account,
                        },
                        "ArnEquals": {"aws:SourceArn": arn("eks", f"cluster/{self._cluster}")},
                    },
                )
            ),
        )
        eks.CfnPodIdentityAssociation(
            self,
            f"{name.title().replace('-', '')}Account",
            cluster_name=self._cluster,
            namespace=namespace,
            service_account=account,
            role_arn=role.role_arn,
        )
        return role
