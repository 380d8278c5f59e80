"""Classify a folder's images in a program that contains Python and the model: pyinstaller frozen.py"""

import json
import sys
from pathlib import Path

from resnet_infer import Classifier

if __name__ == "__main__":
    with Classifier() as classifier:
        for answer in classifier.stream(sorted(Path(sys.argv[1]).iterdir())):
            print(json.dumps(answer.to_json()))
