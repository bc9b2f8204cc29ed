"""Turn picture files into the network's 8x8 images, and its logits into a digit."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

SIDE = 8
BRIGHTNESS_MAX = 16.0
PIXEL_COUNT_MAX = 1 << 24


class Pictures:
    """Decode one request's picture; name one request's digit."""

    def preprocess(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return `image` float32[1, 8, 8], 0 to 16, of the picture in `file`; raise ValueError for anything else."""
        try:
            with Image.open(io.BytesIO(inputs["file"][0]), formats=("PNG", "JPEG")) as picture:
                if picture.width * picture.height > PIXEL_COUNT_MAX:
                    raise ValueError(
                        f"the picture has {picture.width} x {picture.height} pixels, above {PIXEL_COUNT_MAX}; shrink it"
                    )
                small = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise ValueError(f"file is no PNG or JPEG picture: {error}; send the bytes of one") from error
        return {"image": np.asarray(small, dtype=np.float32)[None] * (BRIGHTNESS_MAX / 255.0)}

    def postprocess(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the most likely `digit` and its `confidence`."""
        logits = outputs["logits"].astype(np.float64)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        digit = int(shares.argmax())
        return {"digit": np.array([digit]), "confidence": np.array([shares[digit]], dtype=np.float32)}
