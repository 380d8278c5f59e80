"""Classify a folder's images with joblib: python joblib_parallel.py FOLDER

Each call gets a pickled classifier, which opens the model again; so the calls are few, each with many images.
"""

import json
import sys
from pathlib import Path

from joblib import Parallel, delayed

from resnet_infer import Answer, Classifier


def classify(classifier: Classifier, paths: list[Path]) -> list[Answer]:
    with classifier:
        return list(classifier.stream(paths))


if __name__ == "__main__":
    paths = sorted(Path(sys.argv[1]).iterdir())
    with Classifier(threads=1) as classifier:
        parts = [paths[first : first + 32] for first in range(0, len(paths), 32)]
        for answers in Parallel(n_jobs=2)(delayed(classify)(classifier, part) for part in parts):
            for answer in answers:
                print(json.dumps(answer.to_json()))
