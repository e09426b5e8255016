"""All targets of the fuzz, by name."""

from bench.fuzz import agents, sealed, seeds
from bench.fuzz import targets as t
from bench.fuzz.targets import Target

TARGETS = {
    "codec": Target(t.codec, seeds.messages),
    "agents": Target(agents.agents, agents.seeds, 16384),
    "sealed": Target(sealed.sealed, sealed.seeds, 16384),
    "tflite": Target(t.tflite, seeds.models, 16384),
    "graph": Target(t.graph, seeds.changes, 256),
    "darknet": Target(t.darknet, seeds.networks),
    "card": Target(t.card, seeds.cards),
    "config": Target(t.config, seeds.configs),
    "bundle": Target(t.bundle, seeds.bundles, 16384),
    "decoder": Target(t.decoder, seeds.outputs, 1024),
}
