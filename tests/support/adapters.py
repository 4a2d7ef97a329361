"""Adapters of the sizes that tests use."""

from hyper_meta.networks.adapter import adapter


def make_adapter(embed_dim, hidden_dim, blend=1.0):
    return adapter(embed_dim, hidden_dim=hidden_dim, blend=blend)


def num_weights(embed_dim, hidden_dim):
    return make_adapter(embed_dim, hidden_dim).num_weights
