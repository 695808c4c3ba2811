"""The rows of the section [kubernetes]."""

from __future__ import annotations

from k8r_agent.config import clusterreaders as c
from k8r_agent.config import readers as r
from k8r_agent.config.setting import Setting

SECTION = "kubernetes"

ROWS: tuple[Setting, ...] = (
    Setting(
        section=SECTION, key="initialise", read=r.flag, kind="true or false", values=("true", "false"),
        help="this node may make a new cluster",
        doc="Set it on one node, the first. It counts only while the node has no cluster and no join information; "
            "a node that has been a control plane comes back from what its state partition keeps. A `variables.cfg` "
            "without KUBEADM_JOIN_STRING means the same.",
    ),
    Setting(
        section=SECTION, key="endpoint", read=r.optional(c.endpoint), kind="host:port",
        help="where the control plane is reached",
        doc="A name or address that stays when nodes change, and its port (6443 when left out). It goes into the "
            "certificates of a new cluster, and a joining node asks there. Empty on the first node: its own address, "
            "which it must then keep.",
    ),
    Setting(
        section=SECTION, key="join_token", read=r.optional(c.token), kind="bootstrap token",
        help="what lets this node join",
        doc="As `kubeadm token create` prints it on a control-plane node. A secret: once used it is blanked on the "
            "boot partition, and it is never shown.",
    ),
    Setting(
        section=SECTION, key="ca_cert_hashes", read=r.list_of(c.ca_hash), kind="list of sha256:...",
        help="which cluster this node joins",
        doc="Hash of the public key of the cluster's CA, as `kubeadm token create --print-join-command` prints it. "
            "Without it a node does not join: it could not tell the cluster from an impostor.",
    ),
    Setting(
        section=SECTION, key="certificate_key", read=r.optional(c.certificate_key), kind="64 hexadecimal digits",
        help="what lets this node join as a control-plane node",
        doc="As `kubeadm init phase upload-certs --upload-certs` prints it; it is good for two hours. A secret, like "
            "the token.",
    ),
    Setting(
        section=SECTION, key="token_ttl", read=c.token_ttl, kind="duration",
        help="how long tokens that this node makes are good",
        doc="From 5min to 30d. No token is without an end: TOKEN_TTL=0 of a `variables.cfg` becomes the default.",
    ),
    Setting(
        section=SECTION, key="pod_cidr", read=r.optional(c.cidr), kind="network",
        help="addresses of pods in a new cluster",
        doc="Must not overlap with other networks. An IPv4 and an IPv6 network separated by a comma make a dual-stack "
            "cluster.",
    ),
    Setting(
        section=SECTION, key="service_cidr", read=c.cidr, kind="network",
        help="addresses of services in a new cluster",
        doc="Must not overlap with other networks.",
    ),
    Setting(
        section=SECTION, key="cni", read=r.choice("calico", "flannel", "none"), kind="calico, flannel or none",
        values=("calico", "flannel", "none"),
        help="network of the pods in a new cluster",
        doc="Its manifest is `/usr/share/k8r/cni/calico.yaml` (`flannel.yaml`) in the image. `none`: nothing is "
            "applied, and nodes become Ready when somebody has installed a network.",
    ),
    Setting(
        section=SECTION, key="cni_version", read=r.optional(c.version), kind="version",
        help="version of that manifest",
        doc="With it the manifest is `/usr/share/k8r/cni/calico-3.25.1.yaml`, and no other one is taken.",
    ),
    Setting(
        section=SECTION, key="cni_manifest", read=r.optional(c.manifest), kind="absolute path or URL",
        help="another manifest for the network of the pods",
        doc="Applied instead of a file in the image.",
    ),
    Setting(
        section=SECTION, key="cni_sha256", read=r.optional(c.sha256), kind="64 hexadecimal digits",
        help="SHA-256 of that manifest",
        doc="Needed for a URL: what it names runs with full rights on every node.",
    ),
    Setting(
        section=SECTION, key="image_repository", read=r.optional(c.image_repository), kind="registry",
        help="where the control plane's container images come from",
        doc="Empty: registry.k8s.io.",
    ),
    Setting(
        section=SECTION, key="insecure_registries", read=r.list_of(c.registry), kind="list of host:port",
        help="registries that are reached without TLS",
        doc="For a registry of your own in a network of your own.",
    ),
    Setting(
        section=SECTION, key="extra_sans", read=r.list_of(c.san), kind="list of names and addresses",
        help="more names for the API server's certificate",
        doc="For example the public name of the cluster.",
    ),
    Setting(
        section=SECTION, key="patches", read=r.optional(r.path), kind="absolute path",
        help="directory of kubeadm patches",
        doc="Files such as `kube-apiserver+merge.yaml`; see the kubeadm documentation.",
    ),
    Setting(
        section=SECTION, key="labels", read=r.list_of(c.label), kind="list of key=value",
        help="labels that the node gives itself when it joins",
        doc="A node may not give itself labels under `node-role.kubernetes.io` and most others of Kubernetes' own.",
    ),
    Setting(
        section=SECTION, key="taints", read=r.list_of(c.taint), kind="list of key=value:Effect",
        help="taints of the node when it joins",
        doc="Not set: a control-plane node takes no ordinary pods, a worker has no taints. `[]`: no taints, so that "
            "a single node runs everything.",
    ),
    Setting(
        section=SECTION, key="node_ip", read=r.optional(r.ip), kind="IP address",
        help="address of the node in the cluster",
        doc="For a node with several addresses. Empty: the one of the default route; without such a route, the only "
            "one.",
    ),
    Setting(
        section=SECTION, key="drain_timeout", read=r.duration, kind="duration",
        help="how long a reinstall waits for pods to leave",
        doc="Disruption budgets are honoured for so long; after it, kubernetes.when_drain_blocked says what happens.",
    ),
    Setting(
        section=SECTION, key="when_drain_blocked", read=r.choice("abort", "delete"), kind="abort or delete",
        values=("abort", "delete"),
        help="what a reinstall does with pods that do not leave in time",
        doc="`abort`: the reinstall is refused and the node takes pods again. `delete`: they are deleted in spite of "
            "their disruption budgets.",
    ),
)
