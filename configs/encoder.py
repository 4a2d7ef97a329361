"""The bundled encoder: a small CLIP, pre-trained on rendered scenes and sentences about them.

    hyper-meta pretrain --config configs/encoder.py --workdir runs/encoder --out runs/digits_clip
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.vocab_size = 800
    config.max_tokens = 24
    config.embed_dim = 128
    config.image_size = 48
    config.patch_size = 24  # one corner of a scene
    config.image_mean = 0.3
    config.image_std = 0.25

    config.vision = ConfigDict({"width": 128, "mlp": 512, "layers": 4, "heads": 4})
    config.text = ConfigDict({"width": 128, "mlp": 256, "layers": 2, "heads": 4})

    config.num_steps = 6000
    config.chunk_steps = 50
    config.checkpoint_every = 4  # chunks
    config.batch_size = 256
    config.learning_rate = 1.5e-3
    config.weight_decay = 0.05
    config.simple_share = 0.3  # of the steps, until scenes and sentences are the benchmark's own
    config.unpaired_share = 0.6  # of the steps, before pairs of sentences count
    return config
