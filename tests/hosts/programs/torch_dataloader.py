"""Classify images in the workers of a DataLoader: python torch_dataloader.py fork|spawn|forkserver FOLDER

The data set holds a classifier, for example to choose or to label images. Every worker opens the model again.
"""

import json
import sys
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from resnet_infer import Answer, Classifier


class Answered(Dataset[Answer]):
    def __init__(self, classifier: Classifier, folder: Path) -> None:
        self.classifier = classifier
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Answer:
        return self.classifier.ask(self.paths[index])


if __name__ == "__main__":
    method, folder = sys.argv[1:]
    with Classifier(threads=1) as classifier:
        data_set = Answered(classifier, Path(folder))
        for answer in DataLoader(data_set, batch_size=None, num_workers=2, multiprocessing_context=method):
            print(json.dumps(answer.to_json()))
