"""References to stages. Loads no tensors, so that code which only reads records starts fast."""

from engine.recipes.settings import Document
from engine.storage.safe_names import ContentDigest, StageKey, StageKind


class Ref(Document):
    """Names a committed stage and the bits that it made."""

    stage: StageKind
    """Kind of stage, e.g. train."""

    key: StageKey
    """Digest of everything that shaped it, 32 hex digits."""

    content: ContentDigest
    """Digest of what it made, 16 hex digits."""
