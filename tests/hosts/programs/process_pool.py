"""Classify a folder's images in a pool of processes: python process_pool.py fork|spawn|forkserver FOLDER

The classifier is opened once and given to the processes: they inherit it (fork), or get it pickled. Either way each of
them opens the model again.
"""

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from resnet_infer import Answer, Classifier

own: Classifier
"""The classifier of this process."""


def keep(classifier: Classifier) -> None:
    global own
    own = classifier


def classify(path: Path) -> Answer:
    return own.ask(path)


if __name__ == "__main__":
    method, folder = sys.argv[1:]
    with (
        Classifier(threads=1) as classifier,
        ProcessPoolExecutor(2, multiprocessing.get_context(method), initializer=keep, initargs=(classifier,)) as pool,
    ):
        for answer in pool.map(classify, sorted(Path(folder).iterdir()), chunksize=8):
            print(json.dumps(answer.to_json()))
