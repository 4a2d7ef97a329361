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
    # Over this share of the steps, scenes grow from one digit with plain sentences to those of the
    # benchmark. Learning from the latter alone takes far longer.
    config.simple_share = 0.3
    # The loss of pairs of sentences begins after this share of the steps. Earlier, it hinders
    # learning which digit has which colour and place.
    config.unpaired_share = 0.6
    return config
