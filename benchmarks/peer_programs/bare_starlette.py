"""Our batcher behind the least that can be called a service: one Starlette route, no checks, no metrics, no BentoML.

python bare_starlette.py PORT
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any


def application() -> Any:
    """Return the Starlette application, with the model of `RESNET_INFER_SERVE_MODEL`."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from resnet_infer.classifier import Picture
    from resnet_infer.serving.inference.deployment import ClassifyItem, Deployment
    from resnet_infer.serving.settings import Settings

    deployment = Deployment(Settings.from_environment())

    async def classify(request: Request) -> Response:
        item = ClassifyItem(Picture("picture", await request.body()))
        (future,) = deployment.classify([item], 30)
        done: Any = await asyncio.wrap_future(future)
        return Response(json.dumps([vars(item) for item in done.result.predictions]), media_type="application/json")

    async def ready(request: Request) -> Response:
        return Response("")

    return Starlette(routes=[Route("/classify", classify, methods=["POST"]), Route("/readyz", ready)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("port", metavar="PORT", type=int)
    given = parser.parse_args()

    import uvicorn

    sys.setswitchinterval(0.0005)
    uvicorn.run(application(), port=given.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
