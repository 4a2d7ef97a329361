"""Where the published Meta-VQA split lies, for the tests that use it if it is there."""

from pathlib import Path

import hyper_meta

META_VQA = Path(hyper_meta.__file__).parents[2] / "shared" / "meta_vqa"
