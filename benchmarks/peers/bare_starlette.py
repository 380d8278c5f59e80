"""Our batcher behind the least that can be called a service: one Starlette route, no guard, no metrics, no BentoML."""

import asyncio
import json
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resnet_infer.classifier import Picture
from resnet_infer.serving.inference.deployment import ClassifyItem, Deployment
from resnet_infer.serving.settings import Settings

sys.setswitchinterval(0.0005)
deployment = Deployment(Settings.from_environment())


async def classify(request: Request) -> Response:
    item = ClassifyItem(Picture("picture", await request.body()))
    (future,) = deployment.classify([item], 30)
    done = await asyncio.wrap_future(future)
    return Response(json.dumps([vars(item) for item in done.result.predictions]), media_type="application/json")


async def ready(request: Request) -> Response:
    return Response("")


if __name__ == "__main__":
    app = Starlette(routes=[Route("/classify", classify, methods=["POST"]), Route("/readyz", ready)])
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
