"""Find the API's address and credentials: those that a pod is given, or those of a kubeconfig."""

from __future__ import annotations

from pathlib import Path

from kubernetes_asyncio import client, config

from symphony.coordination.address import KubernetesAddress
from symphony.coordination.kubernetes.store import KubernetesStore
from symphony.errors import ConfigError

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_NAMESPACE_DEFAULT = "default"


async def open_store(address: KubernetesAddress) -> KubernetesStore:
    """Return the store at `address`; raise ConfigError if there are no usable credentials. Blocks to read files."""
    configuration = client.Configuration()
    namespace = address.namespace
    if address.kubeconfig is not None:
        try:
            loader = await config.load_kube_config(
                str(address.kubeconfig), address.context, configuration, persist_config=False
            )
            context = loader.current_context or {}
            namespace = namespace or str(context.get("context", {}).get("namespace") or _NAMESPACE_DEFAULT)
        except Exception as error:  # the loader's own, and whatever a malformed file makes it raise
            raise ConfigError(f"--cluster: kubeconfig={address.kubeconfig} cannot be used: {error}") from None
    else:
        try:
            config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        except (config.ConfigException, OSError) as error:
            raise ConfigError(
                f"--cluster kubernetes: this process is in no pod ({error}); name a kubeconfig with ?kubeconfig=FILE"
            ) from None
        namespace = namespace or _pod_namespace()
    return KubernetesStore(configuration, namespace, address.prefix, address.timing)


def _pod_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip()
    except OSError:
        return _NAMESPACE_DEFAULT
