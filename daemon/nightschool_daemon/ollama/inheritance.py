"""What a model has besides its weights, so that a model made from files can be given the same.

A create from files inherits nothing. The layers of the base's manifest are exact; where they cannot be
read (a container, another user's directory), the Modelfile that the server prints has to do.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nightschool_daemon.ollama.http import ShownModel
from nightschool_daemon.ollama.storage import blob_of, layers_of
from nightschool_hookspecs.records import Message, Role

LISTS = frozenset({"stop"})
"""Parameters that may come several times."""


@dataclass(frozen=True, kw_only=True)
class Inheritance:
    """Everything of a model that is not its weights."""

    template: str | None = None
    system: str | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    licenses: tuple[str, ...] = ()
    renderer: str | None = None
    parser: str | None = None
    projectors: tuple[str, ...] = ()
    """Digests of projector blobs, hex."""


def inheritance_of(shown: ShownModel, models_directory: Path | None) -> Inheritance:
    """Read it from the layers on disk, else from the Modelfile."""
    digests = layers_of(shown.name, models_directory) if models_directory is not None else None
    if digests is None or models_directory is None:
        return _from_modelfile(shown)
    layers = {kind: [blob_of(models_directory, one) for one in ones] for kind, ones in digests.items()}
    return _from_layers(layers, shown)


def _from_layers(layers: Mapping[str, Sequence[Path]], shown: ShownModel) -> Inheritance:
    if not all(
        path.is_file() for kind in ("template", "system", "params", "messages") for path in layers.get(kind, [])
    ):
        return _from_modelfile(shown)
    return Inheritance(
        template=_text(layers, "template"),
        system=_text(layers, "system"),
        parameters=json.loads(_text(layers, "params") or "{}"),
        messages=tuple(
            Message(role=Role(one["role"]), content=one["content"])
            for one in json.loads(_text(layers, "messages") or "[]")
        ),
        licenses=tuple(path.read_bytes().decode() for path in layers.get("license", [])),
        renderer=shown.modelfile.renderer,
        parser=shown.modelfile.parser,
        projectors=tuple(path.name.removeprefix("sha256-") for path in layers.get("projector", [])),
    )


def _text(layers: Mapping[str, Sequence[Path]], kind: str) -> str | None:
    # as bytes: reading as text would turn a template's "\r\n" into "\n"
    return layers[kind][-1].read_bytes().decode() if kind in layers else None


def _from_modelfile(shown: ShownModel) -> Inheritance:
    file = shown.modelfile
    parameters: dict[str, object] = {}
    for name, text in file.parameters:
        value = _scalar(text)
        if name in LISTS:
            earlier = parameters.get(name)
            parameters[name] = [*earlier, text] if isinstance(earlier, list) else [text]
        else:
            parameters[name] = value
    return Inheritance(
        # "{{ .Prompt }}" is what the server prints where there is no template layer at all
        template=None if file.template == "{{ .Prompt }}" else file.template,
        system=file.system,
        parameters=parameters,
        messages=tuple(Message(role=Role(role), content=content) for role, content in file.messages),
        licenses=file.licenses,
        renderer=file.renderer,
        parser=file.parser,
        projectors=file.further_digests,
    )


def _scalar(text: str) -> object:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text
