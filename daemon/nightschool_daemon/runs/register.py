"""Step `register`: the candidate becomes a tag in Ollama, under a version number that is never used again."""

from nightschool_daemon.jobs import ExportResult, PrepareResult, RegisterResult, Step, VerifyResult, Watched, read_lines
from nightschool_daemon.ledger import Agreement, DeliveredFileRow, KeptLesson, VersionRow, VersionState
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.publish import Publication, PublishedTag, publish, publish_messages
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import StepFailed
from nightschool_hookspecs.records import Message, Specialty, TrainingResult


def perform(context: StepContext) -> None:
    """Reserve a version, upload its files, create its tag, read it back."""
    prepared = context.result(Step.PREPARE, PrepareResult)
    export = context.result_if_done(Step.EXPORT, ExportResult)
    version = reserve(context, prepared, export)
    published = _published(context, version.tag)
    context.ledger.versions.set_digests(version.tag, published.tag_digest, published.weights_digest)
    _require_equal_capabilities(context, version.tag, prepared)
    context.directory.finish(
        Step.REGISTER,
        RegisterResult(
            tag=version.tag,
            number=version.number,
            tag_digest=published.tag_digest,
            weights_digest=published.weights_digest,
        ),
    )


def perform_for_trial(context: StepContext, tag: str) -> None:
    """The same under a working tag, which is no version."""
    _remove_half_made(context, tag)
    published = _published(context, tag)
    context.directory.finish(
        Step.REGISTER,
        RegisterResult(tag=tag, number=0, tag_digest=published.tag_digest, weights_digest=published.weights_digest),
    )


def _published(context: StepContext, tag: str) -> PublishedTag:
    prepared = context.result(Step.PREPARE, PrepareResult)
    export = context.result_if_done(Step.EXPORT, ExportResult)
    if export is None:
        return _with_examples(context, prepared, tag)
    return _with_lesson(context, prepared, export, tag)


def _with_lesson(context: StepContext, prepared: PrepareResult, export: ExportResult, tag: str) -> PublishedTag:
    total = sum(file.bytes for file in export.files)
    return publish(
        context.ollama,
        Publication(
            tag=tag,
            form=export.plan.form,
            files=export.files,
            base_tag=prepared.base.pin,
            models_directory=prepared.base.gguf.parent.parent,
            # who takes shards stores every file as it is sent
            may_be_rewritten=not export.abilities.split,
        ),
        on_progress=lambda done: context.listener.progress(
            context.info.id, Step.REGISTER, done, total, f"upload {tag}"
        ),
    )


def _with_examples(context: StepContext, prepared: PrepareResult, tag: str) -> PublishedTag:
    shots = tuple(read_lines(context.directory.step(Step.SELECT) / "shots.jsonl", Message))
    return publish_messages(context.ollama, tag, prepared.base.pin, shots, prepared.base.gguf.parent.parent)


def accept_verified(context: StepContext) -> None:
    """Note with the version how much of the lesson is in it, and how close what is served is to what was trained."""
    verified = context.result(Step.VERIFY, VerifyResult)
    lesson = KeptLesson(
        held_in=context.result(Step.EXPORT, ExportResult).held_in,
        held_out=verified.held_out if verified.held_out_texts else None,
        served=Agreement(
            disagreement=verified.disagreement, noise=verified.noise, live=verified.live, pairs=verified.pairs
        ),
        watched=_watched(context),
    )
    context.ledger.versions.set_lesson(context.result(Step.REGISTER, RegisterResult).tag, lesson)


def _watched(context: StepContext) -> Watched | None:
    return Watched.of(context.result_if_done(Step.TRAIN, TrainingResult))


def version_of_run(context: StepContext) -> VersionRow | None:
    """The version that this run reserved, if it came so far."""
    versions = context.ledger.versions.of_specialty(context.info.specialty)
    return next((one for one in versions if one.run_id == context.info.id), None)


def reserve(context: StepContext, prepared: PrepareResult, export: ExportResult | None) -> VersionRow:
    """Write the version down before its tag exists, so that a crash leaves no tag that nobody knows."""
    if (known := version_of_run(context)) is not None:
        _remove_half_made(context, known.tag)
        return known
    specialty = context.info.specialty
    number = _free_number(context, specialty)
    version = VersionRow(
        tag=names.version_of(specialty, number),
        specialty=specialty,
        number=number,
        run_id=context.info.id,
        form=None if export is None else export.plan.form,
        tag_digest="",
        weights_digest="",
        base_tag_digest=prepared.base.tag_digest,
        base_weights_digest=prepared.base.weights_digest,
        state=VersionState.CANDIDATE,
        created_at=context.clock(),
        files=tuple(
            DeliveredFileRow(name=file.name, path=file.path, digest=file.digest, bytes=file.bytes)
            for file in (() if export is None else export.files)
        ),
        lesson=KeptLesson(held_in=None if export is None else export.held_in, watched=_watched(context)),
    )
    context.ledger.versions.add(version)
    return version


def _free_number(context: StepContext, specialty: Specialty) -> int:
    """A number that neither the ledger nor Ollama knows: a new ledger must not overwrite an old one's versions."""
    alias = names.alias_of(specialty)
    taken = [
        own.number
        for entry in context.ollama.tags()
        if names.alias_of_version(entry.name) == alias and (own := names.parse(entry.name)) and own.number
    ]
    return max([context.ledger.versions.next_number(specialty), *(number + 1 for number in taken)])


def _remove_half_made(context: StepContext, tag: str) -> None:
    if any(entry.name == tag for entry in context.ollama.tags()):
        context.ollama.delete(tag)


def _require_equal_capabilities(context: StepContext, tag: str, prepared: PrepareResult) -> None:
    found = set(context.ollama.show(tag).capabilities)
    missing = set(prepared.base.capabilities) - found
    if missing:
        raise StepFailed(
            f"The candidate {tag} lost {', '.join(sorted(missing))}, which {prepared.base.name} has. "
            "It was discarded; please report this with `nightschool doctor --json`."
        )
