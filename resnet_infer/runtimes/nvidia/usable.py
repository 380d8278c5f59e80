"""Say whether ONNX Runtime can use a provider, without importing what only a build for GPUs needs."""

from __future__ import annotations

from resnet_infer.utils.extras import needs

with needs("cpu", "the runtime onnxruntime"):
    from resnet_infer.runtimes import ort_session


def usable(provider: str) -> bool:
    """Return whether ONNX Runtime can use a provider of `PROVIDERS` here. A build for GPUs names them everywhere."""
    if ort_session.PROVIDERS[provider] not in ort_session.available_providers():
        return False
    if provider == "cpu":
        return True
    from resnet_infer.runtimes.nvidia.obstacles import obstacle

    return obstacle(provider) is None
