"""Answer posted images in FastAPI: uvicorn fastapi_app:app

The model is opened when the server starts and closed when it stops. `aclassify` leaves the event loop free.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request

from resnet_infer import Classifier, PictureError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with Classifier(threads=1) as app.state.classifier:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/")
async def classify(request: Request) -> list[dict[str, Any]]:
    try:
        found = await app.state.classifier.aclassify(await request.body(), timeout=30)
    except PictureError as error:
        raise HTTPException(422, error.message) from error
    return [prediction.to_json() for prediction in found]
