"""A ResNet-50 artifact with random weights whose batch norm fits real photos: as fast as a trained one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resnet_infer.data.image import read_image
from resnet_infer.data.preprocess import centre_crop
from resnet_infer.models.architectures import architecture
from resnet_infer.models.checkpoint import SUFFIX, save_checkpoint
from resnet_infer.models.spec import InputSpec, ModelSpec, imagenet_classes
from resnet_infer.models.weights.download import cache_folder


def resnet50(photos: Path) -> Path:
    """The artifact, made once and kept in the cache with the checkpoint that it is made from."""
    target = cache_folder() / "benchmarks" / "resnet50-untrained.onnx"
    if not target.exists() or not target.with_suffix(SUFFIX).exists():
        from resnet_infer.converters.source import export_onnx
        from resnet_infer.models.network import untrained_checkpoint

        geometry = InputSpec(256, 224, np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]), exif=False)
        names, ids = imagenet_classes()
        spec = ModelSpec("resnet50-untrained", architecture("resnet50"), names, geometry, class_ids=ids)
        views = [centre_crop(read_image(path), geometry) for path in sorted(photos.iterdir())[:49]]
        checkpoint = untrained_checkpoint(spec, np.concatenate(views[:32]))
        save_checkpoint(checkpoint, target.with_suffix(SUFFIX))
        print(export_onnx(checkpoint, target, images=np.concatenate(views[32:])))
    return target
