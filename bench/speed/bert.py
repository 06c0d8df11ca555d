"""A BERT with mean pooling in plain torch, from its folder: what a student's teacher is, for a fair export."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn
from torch.nn import functional


class Bert(nn.Module):
    """Devlin et al. (2018), averaged over real tokens and scaled to length 1, as sentence transformers are."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._heads, self._layers = config["num_attention_heads"], config["num_hidden_layers"]
        self._size, self._epsilon = config["hidden_size"], config["layer_norm_eps"]
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        self.weights = nn.ParameterDict(
            {name.replace(".", "/"): tensor for name, tensor in weights.items() if tensor.is_floating_point()}
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode token ids `(B, T)`, real ones where the mask is 1: `(B, D)`."""
        embedding = {
            name: self.weights[f"embeddings/{name}_embeddings/weight"] for name in ("word", "position", "token_type")
        }
        steps = embedding["word"][ids] + embedding["position"][: ids.shape[1]] + embedding["token_type"][0]
        steps = self._normalize(steps, "embeddings/LayerNorm")
        hidden = (1 - mask[:, None, None, :].float()) * -1e9  # added to the scores of padding
        for layer in range(self._layers):
            name = f"encoder/layer/{layer}"
            attended = self._map(
                self._attend(steps, hidden, f"{name}/attention/self"), f"{name}/attention/output/dense"
            )
            steps = self._normalize(steps + attended, f"{name}/attention/output/LayerNorm")
            inner = functional.gelu(self._map(steps, f"{name}/intermediate/dense"))
            steps = self._normalize(steps + self._map(inner, f"{name}/output/dense"), f"{name}/output/LayerNorm")
        real = mask[:, :, None].float()
        return functional.normalize((steps * real).sum(1) / real.sum(1), dim=1)

    def _attend(self, steps: Tensor, hidden: Tensor, name: str) -> Tensor:
        rows, time = steps.shape[0], steps.shape[1]
        width = self._size // self._heads
        query, key, value = (
            self._map(steps, f"{name}/{part}").reshape(rows, time, self._heads, width).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        weights = (query @ key.transpose(2, 3) / width**0.5 + hidden).softmax(-1)
        joined: Tensor = (weights @ value).transpose(1, 2).reshape(rows, time, self._size)
        return joined

    def _map(self, steps: Tensor, name: str) -> Tensor:
        return functional.linear(steps, self.weights[f"{name}/weight"], self.weights[f"{name}/bias"])

    def _normalize(self, steps: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}/weight"], self.weights[f"{name}/bias"]
        return functional.layer_norm(steps, (self._size,), weight, bias, self._epsilon)
