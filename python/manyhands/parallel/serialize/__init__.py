"""Objects on ipyparallel's wire: canned, pickled, big memory beside."""

from __future__ import annotations

from .canning import Reference, can, can_map, uncan, uncan_map, use_cloudpickle, use_dill, use_pickle
from .serialize import PrePickled, deserialize_object, pack_apply_message, serialize_object, unpack_apply_message

__all__ = [
    "PrePickled", "Reference", "can", "can_map", "deserialize_object", "pack_apply_message", "serialize_object", "uncan", "uncan_map",
    "unpack_apply_message", "use_cloudpickle", "use_dill", "use_pickle",
]
