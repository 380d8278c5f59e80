"""Hold what the functions that answer requests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from resnet_infer.serving.http.middleware import Traffic
from resnet_infer.serving.http.openapi import document
from resnet_infer.serving.http.routing import TABLE, RouteTable
from resnet_infer.serving.inference.deployment import Deployment
from resnet_infer.serving.inference.model_manager import ModelManager
from resnet_infer.serving.metrics import Metrics
from resnet_infer.serving.settings import ApiKeys, Settings
from resnet_infer.utils import strict_json


@dataclass(eq=False)
class Context:
    """Hold the parts of a service that a handler may need; `Api` passes it to every handler.

    `manager.current` is the model that answers. `reloaded` is called after a reload by HTTP request, which other
    processes must follow. `document` is the OpenAPI document, as JSON.
    """

    manager: ModelManager
    settings: Settings
    keys: ApiKeys
    metrics: Metrics
    traffic: Traffic
    reloaded: Callable[[], None] = lambda: None
    table: RouteTable = TABLE
    document: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Write the OpenAPI document."""
        described = document(self.table.routes, self.settings, bool(self.keys), self.keys.has_admin)
        self.document = strict_json.dumps(described).encode()

    async def renew(self) -> Deployment:
        """Reload the keys, and then the model.

        Raises the errors of both. Keys that could be read take effect even if the model could not.
        """
        outcome = "failed"
        try:
            self.keys.reload()
            deployment = await self.manager.reload()
            outcome = "done"
        finally:
            self.metrics.reloaded(outcome)
        return deployment
