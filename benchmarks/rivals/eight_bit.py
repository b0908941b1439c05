"""hivemind's uniform 8-bit quantiser, as it goes on the wire."""

import numpy as np
import torch
from hivemind.compression import CompressionInfo, Uniform8BitQuantization, deserialize_torch_tensor
from hivemind.proto.runtime_pb2 import Tensor

from benchmarks.rivals import Values


class EightBit:
    """It has no step to choose: 256 levels, by the tensor's standard deviation."""

    def __init__(self) -> None:
        self._codec = Uniform8BitQuantization()

    def encode(self, x: Values, step: float) -> bytes:
        """Quantise and serialise."""
        tensor = torch.from_numpy(x)
        message: bytes = self._codec.compress(tensor, CompressionInfo.from_tensor(tensor)).SerializeToString()
        return message

    def decode(self, coded: bytes) -> Values:
        """Parse and dequantise."""
        return np.asarray(deserialize_torch_tensor(Tensor.FromString(coded)).numpy(), np.float32)
