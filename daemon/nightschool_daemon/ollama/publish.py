"""Makes a version a tag in Ollama: upload, create, read back.

Upload and creation are one step that starts again from the question which blobs are there, because the
server removes blobs that no manifest names when it likes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nightschool_daemon.jobs import DeliveredFile
from nightschool_daemon.ollama.errors import ModelMissing, OllamaRefused, PublicationFailed
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp, ShownModel
from nightschool_daemon.ollama.inheritance import Inheritance, inheritance_of
from nightschool_daemon.ollama.storage import layers_of
from nightschool_hookspecs.records import DeliveryForm, Message

SPLIT_REQUIRES = "0.34.1"
"""First version that takes split files; without it the server would write down one of the future."""
ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What is to become a tag."""

    tag: str
    form: DeliveryForm
    files: Sequence[DeliveredFile]
    """The one that identifies the version first."""
    base_tag: str
    """The tag whose template, parameters and so on it inherits: the pinned base."""
    models_directory: Path | None
    """Where the base's layers can be read, and those of the tag that is made."""
    may_be_rewritten: bool = False
    """Whether the server stores a single file as it likes, as those of 0.30 to 0.34.0 do."""


@dataclass(frozen=True, kw_only=True)
class PublishedTag:
    """A tag as it was read back. Digests in hex."""

    tag_digest: str
    weights_digest: str


def publish(
    ollama: OllamaHttp, publication: Publication, *, on_progress: Callable[[int], None] | None = None
) -> PublishedTag:
    """Upload what is missing, create the tag, read it back.

    `on_progress` hears the bytes sent so far. Raises `PublicationFailed` where what was read back is not
    what was sent, and other `OllamaError`s.
    """
    request = _request(ollama, publication)
    for attempt in range(1, ATTEMPTS + 1):
        _upload(ollama, publication.files, on_progress)
        try:
            ollama.create(request)
            break
        except (OllamaRefused, ModelMissing):
            # a blob may have been pruned since the upload; where none was, the refusal stands
            lost = [file for file in publication.files if not ollama.has_blob(file.digest)]
            if not lost or attempt == ATTEMPTS:
                raise
    return _read_back(ollama, publication, request)


def publish_messages(
    ollama: OllamaHttp, tag: str, base_tag: str, messages: Sequence[Message], models_directory: Path | None
) -> PublishedTag:
    """Make a tag of the base in which these messages precede every conversation, after those of the base's own.

    Raises `PublicationFailed` where the tag does not hold them, and other `OllamaError`s.
    """
    of_base = ollama.show(base_tag)
    wanted = (*inheritance_of(of_base, models_directory).messages, *messages)
    ollama.create(CreateRequest(model=tag, from_model=base_tag, messages=wanted))
    entry = next((one for one in ollama.tags() if one.name == tag), None)
    shown = ollama.show(tag)
    holds = inheritance_of(shown, models_directory).messages == wanted
    if entry is None or not holds or shown.weights_digest != of_base.weights_digest:
        raise PublicationFailed(
            f"{tag} was made without the examples that it should show. Update Ollama and run again."
        )
    return PublishedTag(tag_digest=entry.digest, weights_digest=shown.weights_digest)


def _request(ollama: OllamaHttp, publication: Publication) -> CreateRequest:
    files = {file.name: file.digest for file in publication.files}
    if publication.form is DeliveryForm.ADAPTER:
        return CreateRequest(model=publication.tag, from_model=publication.base_tag, adapters=files)
    inherited = inheritance_of(ollama.show(publication.base_tag), publication.models_directory)
    projectors = {f"projector-{number}.gguf": digest for number, digest in enumerate(inherited.projectors)}
    return _with_inheritance(publication, {**files, **projectors}, inherited)


def _with_inheritance(publication: Publication, files: dict[str, str], inherited: Inheritance) -> CreateRequest:
    return CreateRequest(
        model=publication.tag,
        files=files,
        template=inherited.template,
        system=inherited.system,
        parameters=inherited.parameters,
        messages=inherited.messages,
        license=inherited.licenses,
        renderer=inherited.renderer,
        parser=inherited.parser,
        requires=SPLIT_REQUIRES if publication.form is DeliveryForm.SPLIT else None,
    )


def _upload(ollama: OllamaHttp, files: Sequence[DeliveredFile], on_progress: Callable[[int], None] | None) -> None:
    before = 0
    for file in files:
        ollama.upload_blob(file.path, file.digest, _shifted(on_progress, before))
        before += file.bytes


def _shifted(on_progress: Callable[[int], None] | None, before: int) -> Callable[[int], None] | None:
    """Progress of one file as progress of them all."""
    return None if on_progress is None else lambda sent: on_progress(before + sent)


def _read_back(ollama: OllamaHttp, publication: Publication, request: CreateRequest) -> PublishedTag:
    """Compare the tag with what was sent. Where the server rewrote the file, its new digest is noted."""
    entry = next((one for one in ollama.tags() if one.name == publication.tag), None)
    if entry is None:
        raise PublicationFailed(
            f"Ollama said that it made {publication.tag}, but does not list it. Its disk may be full; free space and "
            "run again."
        )
    shown = ollama.show(publication.tag)
    if publication.form is DeliveryForm.ADAPTER:
        if publication.files[0].digest not in shown.modelfile.adapter_digests:
            raise PublicationFailed(f"{publication.tag} was created without its adapter. Update Ollama and run again.")
    elif not publication.may_be_rewritten and not _holds(publication, request, shown):
        raise PublicationFailed(f"{publication.tag} does not hold the weights that were sent. Run again.")
    return PublishedTag(tag_digest=entry.digest, weights_digest=shown.weights_digest)


def _holds(publication: Publication, request: CreateRequest, shown: ShownModel) -> bool:
    """Whether a tag has every file that was sent; of those the server itself shows the first alone."""
    if shown.weights_digest != publication.files[0].digest:
        return False
    directory = publication.models_directory
    layers = layers_of(publication.tag, directory) if directory is not None else None
    if layers is None:
        return True
    return sorted([*layers.get("model", ()), *layers.get("projector", ())]) == sorted(request.files.values())
