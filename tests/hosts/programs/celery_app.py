"""Classify images in Celery's workers: celery -A celery_app worker --pool prefork --concurrency 2

The worker opens the model; processes of the pool inherit it, and open it again when they first use it. The queue is a
folder here, so that no broker is needed. The client sends names of files.
"""

from pathlib import Path
from typing import Any

from celery import Celery

from resnet_infer import Classifier

folder = Path.cwd()
for name in ("queue", "results"):
    (folder / name).mkdir(exist_ok=True)
app = Celery("celery_app", broker="filesystem://localhost//", backend=f"file://{folder / 'results'}")
app.conf.broker_transport_options = {"data_folder_in": str(folder / "queue"), "data_folder_out": str(folder / "queue")}
classifier = Classifier(threads=1)


@app.task(name="classify")
def classify(path: str) -> dict[str, Any]:
    return classifier.ask(path).to_json()
