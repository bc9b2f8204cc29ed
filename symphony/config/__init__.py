"""Read what people configure, and refuse what cannot work with a sentence to act on. Pure: text in, values out."""

from symphony.config.devices import DEVICE_KINDS, DeviceSpec, parse_devices
from symphony.config.keys import SCOPES, KeyConfig, hash_key
from symphony.config.keys_document import parse_keys
from symphony.config.model import EmulatedSpec, ModelConfig, TensorSpec
from symphony.config.model_document import DATATYPES, parse_model_config
from symphony.config.node import NodeConfig
from symphony.config.node_document import parse_node_config

__all__ = [
    "DATATYPES",
    "DEVICE_KINDS",
    "SCOPES",
    "DeviceSpec",
    "EmulatedSpec",
    "KeyConfig",
    "ModelConfig",
    "NodeConfig",
    "TensorSpec",
    "hash_key",
    "parse_devices",
    "parse_keys",
    "parse_model_config",
    "parse_node_config",
]
