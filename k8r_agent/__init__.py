"""k8r-agent: first boot, update and reinstall of Kubernetes nodes from a golden image."""

__version__ = "0.1.0"
