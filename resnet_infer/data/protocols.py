"""List the evaluation protocols: by which views of an image a model is judged (paper, section 3.4).

`PROTOCOLS` is the only list of them. Everything that depends on a protocol is a value of its row; no other module
branches on a protocol's name. `evaluation/scorer.py` applies a protocol to a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from resnet_infer.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from PIL import Image

    from resnet_infer.data.preprocess import Pixels
    from resnet_infer.models.spec import InputSpec

    Prepare = Callable[[Image.Image, InputSpec], Pixels]
    """Function of a resized image, 8-bit RGB, and the model's input, that returns views: uint8, (views, H, W, 3)."""


@dataclass(frozen=True)
class Protocol:
    """Describe a protocol. Its answer is the mean of the softmax over the views, and then over the sizes.

    - `name`: the name on the command line, in results and in specs.
    - `views`: number of views of an image at one size.
    - `prepare`: "module:function" of a `Prepare`. The module is imported when the protocol is used.
    - `needs_sizes`: whether images are viewed at several sizes (`--scales`), so that the model must take images of any
      size. Otherwise the image is resized as the model's input demands, and each view is a crop of it.
    - `service_crops`: the `crops` of a request for which a service gives the same answer to the image's file; None if
      it must be sent the views.
    - `paper_columns`: the protocols of the published tables (`evaluation/paper.py`) that it is compared with.
    - `default_for`: the models that are evaluated by it unless another is named: those whose crop is the `whole`
      resized square, or those whose crop is the `centre` of it; None for neither.
    """

    name: str
    views: int
    prepare: str
    needs_sizes: bool = False
    service_crops: Literal[1, 10] | None = None
    paper_columns: tuple[str, ...] = ()
    default_for: Literal["whole", "centre"] | None = None

    def function(self) -> Prepare:
        """Import `prepare`."""
        module, _, name = self.prepare.partition(":")
        function: Prepare = getattr(import_module(module), name)
        return function

    def alike(self) -> tuple[str, ...]:
        """Return the names of the protocols with the same views, its own among them. Their errors are comparable."""
        own = self.prepare, self.needs_sizes
        return tuple(item.name for item in PROTOCOLS if (item.prepare, item.needs_sizes) == own)


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        "native",
        views=1,
        prepare="resnet_infer.data.preprocess:centre_crop",
        service_crops=1,
        paper_columns=("native",),
        default_for="whole",
    ),
    Protocol(
        "1-crop",
        views=1,
        prepare="resnet_infer.data.preprocess:centre_crop",
        service_crops=1,
        # Only CIFAR-10's table has the column `native`: there the crop is the whole image.
        paper_columns=("1-crop", "native"),
        default_for="centre",
    ),
    Protocol(
        "10-crop",
        views=10,
        prepare="resnet_infer.data.preprocess:ten_crops",
        service_crops=10,
        paper_columns=("10-crop",),
    ),
    Protocol(
        "multi-scale",
        views=2,
        prepare="resnet_infer.data.preprocess:whole_views",
        needs_sizes=True,
        paper_columns=("multi-scale",),
    ),
)
"""The protocols, in the order of help texts."""
NAMES = tuple(item.name for item in PROTOCOLS)
"""Names of the protocols."""
DEFAULTS = {item.default_for: item.name for item in PROTOCOLS if item.default_for}
"""Which models (`Protocol.default_for`) -> name of their protocol."""
SIZED = tuple(item.name for item in PROTOCOLS if item.needs_sizes)
"""Names of the protocols that view images at several sizes."""


def find_protocol(name: str) -> Protocol:
    """Return the protocol of that name. Raises `UsageError`, which suggests a similar name, if there is none.

    >>> find_protocol("10-crop").views
    10
    """
    for item in PROTOCOLS:
        if item.name == name:
            return item
    raise UsageError(f"there is no protocol {name!r}" + did_you_mean(name, NAMES), hint=f"known are {', '.join(NAMES)}")


def default_protocol(spec: InputSpec) -> str:
    """Return the name of the protocol by which a model with this input is evaluated if none is named."""
    return DEFAULTS["whole" if spec.resize == spec.crop else "centre"]
