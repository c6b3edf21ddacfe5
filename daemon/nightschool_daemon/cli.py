"""The command line: arguments, exit codes, tables. It decides nothing."""

import dataclasses
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.markdown import Markdown

from nightschool_daemon import __version__, codec, config, disk, doctor, night, units
from nightschool_daemon.comparisons import Asked
from nightschool_daemon.config import ConfigurationError, Settings
from nightschool_daemon.control import ControlClient, ControlError
from nightschool_daemon.display import (
    answer_rows,
    comparison_notes,
    comparison_result,
    comparison_rows,
    complain,
    job_bar,
    out,
    plan_rows,
    run_listener,
    say,
    show_curve,
    show_explanation,
    show_records,
    show_table,
)
from nightschool_daemon.exits import Exit
from nightschool_daemon.explaining import Explanation, explanation_of
from nightschool_daemon.feedback_forms import NEEDED, Form, events_of, export
from nightschool_daemon.hooks import Hooks, PluginFailed, PluginStatus
from nightschool_daemon.installation import Installation, load_hooks, looking, now, working
from nightschool_daemon.jobs import UNITS, Step, write_durably
from nightschool_daemon.ledger import LedgerError, MoveRow, RunRow, VersionRow
from nightschool_daemon.locking import LockedError
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.address import base_url
from nightschool_daemon.ollama.errors import InvalidHost, OllamaError, OllamaUnreachable, RemoteHostRefused
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_daemon.reporting.page import html_of
from nightschool_daemon.reporting.records import TrackMaterial
from nightschool_daemon.reporting.words import nights_section, track_table
from nightschool_daemon.runs import (
    Estimate,
    MoveFailed,
    RunListener,
    RunRefused,
    Share,
    ShareRefused,
    SpecialtyState,
    UndoRefused,
)
from nightschool_daemon.runs.account import Account
from nightschool_daemon.runs.alone import Order, TrainedAlone, plan_alone, train_alone
from nightschool_daemon.runs.comparing import Pairing, compare, pair_by_file
from nightschool_daemon.runs.feedback_file import read_file, read_prompts
from nightschool_daemon.runs.tracks import material_by_name, track
from nightschool_daemon.starter import starter_configuration
from nightschool_daemon.status import PAUSED, Status, status_of
from nightschool_daemon.views import History, Page, history_of, page_of, pairing_of
from nightschool_hookspecs.records import (
    AliasMove,
    MethodChoice,
    ParsedFeedback,
    RunEnd,
    RunReport,
    TrainingMethod,
)

T = TypeVar("T")

EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 Ollama cannot be reached, 4 nothing changed (nothing to learn, "
    "or no gain proven), 5 another process works on the state directory, 78 the configuration is wrong."
)

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, epilog=EPILOG)
config_app = typer.Typer(no_args_is_help=True, help="Look at the configuration.")
feedback_app = typer.Typer(no_args_is_help=True, help="Take feedback elsewhere.")
service_app = typer.Typer(no_args_is_help=True, help="Install or remove the systemd service.")
app.add_typer(config_app, name="config")
app.add_typer(feedback_app, name="feedback")
app.add_typer(service_app, name="service")

AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
User = Annotated[bool, typer.Option("--user/--system", help="For you alone, or for the whole machine.")]


@dataclass(kw_only=True)
class Chosen:
    """What the global options say."""

    file: Path | None = None


class WrongArgument(Exception):
    """A value on the command line is of no use to anybody; the message says why."""


EXITS: tuple[tuple[type[Exception], Exit], ...] = (
    (WrongArgument, Exit.USAGE),
    (ConfigurationError, Exit.CONFIGURATION),
    (InvalidHost, Exit.CONFIGURATION),
    (RemoteHostRefused, Exit.CONFIGURATION),
    (LockedError, Exit.LOCKED),
    (OllamaUnreachable, Exit.OLLAMA),
    (night.NothingToLearn, Exit.NOTHING_CHANGED),
    (OllamaError, Exit.FAILED),
    (LedgerError, Exit.FAILED),
    (PluginFailed, Exit.FAILED),
    (RunRefused, Exit.FAILED),
    (UndoRefused, Exit.FAILED),
    (ShareRefused, Exit.FAILED),
    (MoveFailed, Exit.FAILED),
    (units.UnitError, Exit.FAILED),
    (OSError, Exit.FAILED),
)
"""What ends a command with one sentence, and with which exit code; the first that fits."""


CTRL_C = 130
"""What typer returns for a keyboard interrupt."""
INTERRUPTED = (
    "Ended. A run that was begun goes on with the next `nightschool run --now` or `serve`; "
    "`nightschool cancel` gives it up."
)
PREFERENCES_ALONE = (
    "It learned which answers are better than others, not how to write them: the base has to be able to do that. Where "
    "it is not, let it learn from corrections first (--method sft --adapter DIR), and go on from there (--from DIR)."
)
"""Of DPO and KTO: their losses say nothing of how good an answer is."""


class Sentences(logging.Formatter):
    """What is logged while a person looks on: the sentence alone. The service's log has tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """The message without what raised it."""
        return record.getMessage()


def run() -> int:
    """Run the command line. Returns the exit code; an error is one sentence, never a traceback."""
    handler = logging.StreamHandler()
    handler.setFormatter(Sentences())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        # a terminal that closes; below `nohup` it stays ignored
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        # without its standalone mode typer returns the code of an `Exit`, and lets errors through
        code = app(standalone_mode=False)
    except ControlError as error:
        return _fail(error, Exit(error.code))
    except tuple(kind for kind, _ in EXITS) as error:
        return _fail(_sentence(error), next(code for kind, code in EXITS if isinstance(error, kind)))
    except (typer.Abort, KeyboardInterrupt):
        return _fail(INTERRUPTED, Exit.FAILED)
    except Exception as error:  # noqa: BLE001 - typer's own errors know how to show themselves, others are raised again
        return _usage_or_raise(error)
    if code == CTRL_C:
        return _fail(INTERRUPTED, Exit.FAILED)
    return code if isinstance(code, int) else Exit.OK


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _usage_or_raise(error: Exception) -> int:
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    return Exit.USAGE


def _sentence(error: Exception) -> str:
    if isinstance(error, PermissionError) and error.filename:
        return (
            f"{error.filename} is not yours to use. Where Night School runs for the whole machine, start its service, "
            "or call the command as its user: sudo -u nightschool nightschool ..."
        )
    return disk.told(error, Path.cwd()) if isinstance(error, OSError) and error.filename else str(error)


def _fail(error: Exception | str, code: Exit) -> int:
    complain(str(error))
    return code


def _version(wanted: bool) -> None:
    if wanted:
        say(f"nightschool {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    file: Annotated[Path | None, typer.Option("--config", help="The configuration to use.")] = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Your local Ollama models learn from your corrections."""
    context.obj = Chosen(file=file)


def _settings(context: typer.Context) -> Settings:
    chosen = context.obj
    return config.load(chosen.file if isinstance(chosen, Chosen) else None)


# --------------------------------------------------------------------------- setting up


@app.command()
def init(
    context: typer.Context,
    force: Annotated[bool, typer.Option(help="Overwrite a configuration that is there.")] = False,
) -> None:
    """Write a configuration for the models that your Ollama has."""
    chosen = context.obj
    file = (chosen.file if isinstance(chosen, Chosen) else None) or config.default_locations()[0]
    if file.exists() and not force:
        raise ConfigurationError(f"{file} exists already. Edit it, or use --force to write it anew.")
    text = starter_configuration(config.OllamaSettings(), os.environ)
    config.parse(text, file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    settings = config.load(file)
    settings.feedback_directory.mkdir(parents=True, exist_ok=True)
    say(f"Wrote {file}.")
    say(f"Drop feedback into {settings.feedback_directory}. `nightschool doctor` says what is missing.")


@app.command()
def serve(
    safe_mode: Annotated[bool, typer.Option("--safe-mode", help="Load built-in plugins alone.")] = False,
) -> None:
    """Watch, learn by night, answer the other commands. What systemd starts."""
    raise AssertionError("`serve` is dispatched before this is loaded")


@app.command()
def proxy() -> None:
    """Pass requests on to Ollama, a share of an alias's to another version. `serve` starts it where it is enabled."""
    raise AssertionError("`proxy` is dispatched before this is loaded")


@app.command(name="doctor")
def doctor_command(context: typer.Context, as_json: AsJson = False) -> None:
    """Say what is missing, and what to do about it."""
    findings = doctor.examine(_settings(context))
    if as_json:
        _print_json(findings)
    else:
        rows = [("ok" if one.good else "MISSING", one.subject, one.text) for one in findings]
        show_table("", ("", "what", "found"), rows)
    if not all(one.good for one in findings):
        raise typer.Exit(Exit.FAILED)


@config_app.command(name="check")
def config_check(context: typer.Context) -> None:
    """Say whether the configuration can be used."""
    settings = _settings(context)
    load_hooks(settings, None, safe_mode=False)
    base_url(settings.ollama)
    say(f"{settings.file or 'The defaults'}: sound.")


@config_app.command(name="show")
def config_show(context: typer.Context, as_json: AsJson = False) -> None:
    """Print every key with its value."""
    settings = _settings(context)
    # a table of a plugin is checked by whoever loads it
    load_hooks(settings, None, safe_mode=False)
    plain = codec.to_plain(settings)
    if as_json:
        _print_json(settings)
        return
    rows = list(_flattened(plain))
    show_table(str(settings.file or "defaults"), ("key", "value"), rows)


@service_app.command(name="install")
def service_install(context: typer.Context, user: User = True) -> None:
    """Install the service and start it. It reads the configuration that --config names, else the usual one."""
    chosen = context.obj
    _show_deeds(units.install(units.place(user=user), chosen.file if isinstance(chosen, Chosen) else None))


@service_app.command(name="uninstall")
def service_uninstall(user: User = True) -> None:
    """Stop and remove the service. Feedback, ledger and models stay."""
    _show_deeds(units.uninstall(units.place(user=user)))


def _show_deeds(deeds: units.Deeds) -> None:
    for sentence in deeds.sentences:
        say(sentence)
    if not deeds.works:
        raise typer.Exit(Exit.FAILED)


# --------------------------------------------------------------------------- learning


@app.command(name="run")
def run_command(
    context: typer.Context,
    specialty: Annotated[str | None, typer.Argument(help="An alias, MODEL/TYPE, or a model with one type.")] = None,
    at_once: Annotated[bool, typer.Option("--now", help="Do not wait for the night.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be learned, and learn nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Learn now: all specialties with fresh feedback, or the named one."""
    settings = _settings(context)
    if not at_once and not dry_run:
        raise typer.BadParameter(
            "A run starts by night by itself. Add --now to start one at once, --dry-run to see what it would do."
        )
    if dry_run:
        _dry_run(settings, specialty, as_json)
        return
    client = ControlClient(settings.runtime_directory)
    found = _run_by_daemon(client, specialty) if client.is_there() else _run_here(settings, specialty)
    if as_json:
        _print_json(found)
    else:
        for one in found:
            run_id = one.run.id
            _show_page(_look(settings, Page, "report", partial(page_of, run_id=run_id), run=run_id))
    raise typer.Exit(_exit_of(found))


def _run_here(settings: Settings, text: str | None) -> tuple[RunReport, ...]:
    """No daemon runs: take the lock and work here."""
    with working(settings) as installation, run_listener() as listener:
        for sentence in installation.runs.recover(now()) + installation.runs.look_at_registry(now()):
            complain(sentence)
        installation.intake.scan(now())
        for sentence in installation.runs.look_at_feedback(now()):
            complain(sentence)
        night.require_known(installation, text)
        finished = night.finish_what_was_begun(installation, listener)
        try:
            wanted = night.asked_for(installation, text)
        except night.NothingToLearn:
            if finished:
                return finished
            raise
        run = night.run_now if text is not None else night.run_if_fresh
        return (*finished, *(report for one in wanted for report in run(installation, one, listener, now())))


def _run_by_daemon(client: ControlClient, text: str | None) -> tuple[RunReport, ...]:
    with run_listener() as listener:
        for line in client.follow("run", specialty=text):
            if "progress" in line:
                _pass_on(line["progress"], listener)
            else:
                return codec.build(tuple[RunReport, ...], line["result"])
    raise ControlError("The daemon ended in the middle of the run. It goes on when the daemon is started again.")


def _pass_on(line: dict[str, object], listener: RunListener) -> None:
    run_id = str(line["run"])
    if line["kind"] == "note":
        listener.note(run_id, str(line["text"]))
        return
    step = Step(str(line["step"]))
    if line["kind"] == "began":
        listener.step_began(run_id, step)
    elif line["kind"] == "ended":
        listener.step_ended(run_id, step)
    else:
        listener.progress(run_id, step, int(str(line["done"])), int(str(line["total"])), str(line["text"]))


def _dry_run(settings: Settings, text: str | None, as_json: bool) -> None:
    with _taken_in(settings) as installation:
        wanted = night.asked_for(installation, text)
        estimates = tuple(installation.runs.estimate(one, now()) for one in wanted)
    if as_json:
        _print_json(estimates)
        return
    for one in estimates:
        show_table(str(one.specialty), ("what", "how much"), (*_estimate_rows(one), *plan_rows(one.plan)))


def _estimate_rows(one: Estimate) -> list[tuple[str, str]]:
    how = "as the last run took" if one.measured else "a rough guess of all steps; later ones are measured"
    return [
        ("fresh events", str(one.fresh)),
        *([("but", one.problem)] if one.problem else []),
        ("time of the run", f"{one.minutes:.0f} min ({how})"),
        ("disk while it runs", f"{one.work_bytes / 1e6:.0f} MB"),
    ]


def _exit_of(found: Sequence[RunReport]) -> Exit:
    ends = {one.end for one in found}
    if ends & {RunEnd.FAILED, RunEnd.CANCELLED}:
        return Exit.FAILED
    return Exit.OK if ends & {RunEnd.PROMOTED, RunEnd.WAITING} else Exit.NOTHING_CHANGED


@app.command()
def train(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The base, as Ollama calls it.")],
    data: Annotated[Path, typer.Option("--data", help="A file of feedback events.", exists=True, dir_okay=False)],
    name: Annotated[str, typer.Option("--name", help="How the result is to be called.")],
    method: Annotated[
        MethodChoice,
        typer.Option(
            "--method",
            help="sft: wanted answers; dpo: better answers over worse ones; kto: liked and disliked answers; "
            "auto: what the file has.",
        ),
    ] = MethodChoice.AUTO,
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A PEFT adapter to begin from, or what an earlier --adapter was given.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", help="Where to put what was trained: for LoRA, a PEFT adapter.")
    ] = None,
    anew: Annotated[
        bool,
        typer.Option("--anew", help="Begin anew, though what the same call left before could be gone on with."),
    ] = False,
) -> None:
    """Train by hand: one file in, one model out. No exam, no alias."""
    settings = _settings(context)
    training = dataclasses.replace(
        settings.training, method=method, start_from=None if start_from is None else start_from.absolute()
    )
    settings = dataclasses.replace(settings, training=training)
    _require_name("MODEL", model)
    _require_name("--name", name)
    hooks = load_hooks(settings, None, safe_mode=False)
    order = Order(
        model=model,
        feedback=_feedback_in(data, hooks),
        data_digest=sha256_of(data),
        name=name,
        adapter=adapter,
        anew=anew,
    )
    with run_listener() as listener, _ended_as("Ended: no model was made."):
        made = train_alone(settings, order, hooks=hooks, listener=listener, now=now())
    _show_account(made.account, data)
    if made.trained.not_learned:
        say(made.trained.not_learned)
    for curve in made.curves:
        show_curve(f"loss by {curve.method.upper()}", curve.losses, curve.watched, is_held=curve.is_held)
    columns = ("", "base", "trained", "delivered", "kept")
    show_table("What is left of the lesson", columns, list(_loss_rows(made)))
    if TrainingMethod.SFT not in made.trained.methods and not made.trained.warm_start:
        say(PREFERENCES_ALONE)
    say(f"{made.name}: delivered as {made.export.plan.form.value}. Try it: `ollama run {made.name}`")


@contextmanager
def _ended_as(sentence: str) -> Iterator[None]:
    """What Ctrl-C and SIGTERM say of a command that is no run, in place of `INTERRUPTED`."""
    try:
        yield
    except KeyboardInterrupt:
        raise RunRefused(sentence) from None


def _require_name(argument: str, name: str) -> None:
    """Raise `WrongArgument` where what was given as a model's name can be none."""
    if (problem := names.model_problem(name)) is not None:
        raise WrongArgument(f"{argument}: {problem}.")


def _loss_rows(made: TrainedAlone) -> Iterator[tuple[str, ...]]:
    """Losses on what was learned, and on what was held out, where anything was."""
    verified = made.verified
    measured = {"on what was learned": made.export.held_in}
    if verified.held_out_texts:
        measured[f"on {verified.held_out_texts} held-out references"] = verified.held_out
    for texts, losses in measured.items():
        if losses is not None:
            three = (losses.base_loss, losses.trained_loss, losses.delivered_loss)
            # where training made them worse there is nothing that could be kept
            kept = f"{losses.kept:.1%}" if losses.trained_loss < losses.base_loss else ""
            yield (f"{texts} ({UNITS[losses.kind]})", *(f"{one:.3f}" for one in three), kept)


def _show_account(account: Account, data: Path) -> None:
    """From how much of a file was learned, and why not from the rest."""
    say(f"Learned from {account.learned} of the {account.records} records in {data.name}.")
    if account.left_out:
        show_table("Left out", ("records", "why"), [(count, why) for why, count in account.left_out.items()])


def _feedback_in(data: Path, hooks: Hooks) -> ParsedFeedback:
    """What a file holds. Raises `RunRefused` where there are no events."""
    parsed = read_file(data, hooks)
    for record in parsed.refused:
        complain(f"Left out, record {record.position}: {record.reason}")
    return parsed


@app.command()
def plan(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The base, as Ollama calls it.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="A file of feedback events; else an assumption.", exists=True, dir_okay=False),
    ] = None,
    method: Annotated[MethodChoice | None, typer.Option("--method", help="As for `train`; else as configured.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a training would take on this machine, and what a version would cost. Nothing is changed."""
    settings = _settings(context)
    _require_name("MODEL", model)
    if method is not None:
        settings = dataclasses.replace(settings, training=dataclasses.replace(settings.training, method=method))
    hooks = load_hooks(settings, None, safe_mode=False)
    events = None if data is None else _feedback_in(data, hooks).events
    with _ended_as("Ended."):
        found = plan_alone(settings, model=model, events=events, now=now())
    if as_json:
        _print_json(found)
    else:
        show_table(found.base, ("what", "how much"), plan_rows(found))
    if (problem := found.problem or found.delivery_problem) is not None:
        complain(problem)
        raise typer.Exit(Exit.FAILED)


@app.command()
def exam(
    context: typer.Context,
    first: Annotated[str | None, typer.Argument(help="A model, as Ollama calls it; with one alone, its base.")] = None,
    second: Annotated[str | None, typer.Argument(help="The model that may be better.")] = None,
    on: Annotated[
        str | None, typer.Option("--on", help="The specialty whose prompts are asked, where none of both names it.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="A file of feedback events or of prompts, to be asked.", exists=True, dir_okay=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two models on prompts that an alias holds out, or on those of a file. Nothing is changed.

    With one name its base is compared with it; with none, the base with the only alias. While little is held out, what
    neither of them has learned is asked. Prompts without feedback are answered side by side.
    """
    settings = _settings(context)
    hooks = load_hooks(settings, None, safe_mode=False)
    if data is None:
        pairing = _look(
            settings,
            Pairing,
            "pairing",
            lambda one: pairing_of(one, first, second, on),
            first=first,
            second=second,
            on=on,
        )
    elif first is None or second is None:
        raise WrongArgument("--data: name the two models that are to be compared on it.")
    else:
        pairing = _pairing_on(data, hooks, first, second)
    with job_bar("examine") as report, _ended_as("Ended."):
        found = compare(settings, pairing, report, now())
    if as_json:
        _print_json(found)
        return
    for sentence in comparison_notes(found):
        say(sentence)
    columns = (f"{found.asked} of {found.prompts} prompts", found.first, found.second)
    show_table("", columns, comparison_rows(found))
    for pair in found.answers:
        show_table(pair.prompt, ("", "answer"), answer_rows(found, pair))
    say(comparison_result(found))


def _pairing_on(data: Path, hooks: Hooks, first: str, second: str) -> Pairing:
    """Two models on a file of feedback, or of prompts alone. Raises `RunRefused` for what is neither."""
    try:
        events, what = _feedback_in(data, hooks).events, Asked.FEEDBACK
    except RunRefused:
        events, what = read_prompts(data), Asked.PROMPTS
        if not events:
            raise
    return pair_by_file(events, what, first, second)


@app.command()
def pause(context: typer.Context) -> None:
    """Learn nothing by night until `resume`."""
    _order(_settings(context), "pause", lambda one: one.ledger.facts.put(PAUSED, now().isoformat()))
    say("Paused. `nightschool resume` goes on.")


@app.command()
def resume(context: typer.Context) -> None:
    """Learn by night again."""
    _order(_settings(context), "resume", lambda one: one.ledger.facts.delete(PAUSED))
    say("Learning again.")


@app.command()
def cancel(context: typer.Context) -> None:
    """End the run under way. Nothing is promoted."""
    client = ControlClient(_settings(context).runtime_directory)
    cancelled = client.ask("cancel") if client.is_there() else _cancel_here(_settings(context))
    say("The run ends at once." if cancelled else "No run is under way.")
    if not cancelled:
        raise typer.Exit(Exit.NOTHING_CHANGED)


def _cancel_here(settings: Settings) -> bool:
    """No daemon runs: a run that was interrupted is given up. One in a terminal holds the lock."""
    try:
        with working(settings) as installation:
            return installation.runs.give_up(now())
    except LockedError:
        raise LockedError("A run goes on in another terminal. Ctrl-C there stops it, then `cancel` ends it.") from None


@app.command(name="ab")
def share_command(
    context: typer.Context,
    alias: Annotated[str, typer.Argument(help="An alias or a specialty.")],
    share: Annotated[float | None, typer.Option("--share", help="Of the conversations, at most 0.95.")] = None,
    off: Annotated[bool, typer.Option("--off", help="End it; the alias stays what it is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a candidate a share of the alias's use, until feedback shows which is better."""
    settings = _settings(context)
    if off == (share is not None):
        raise typer.BadParameter("Say either --share 0.2 or --off.")
    if share is None:
        _end_share(settings, alias)
        return
    found = _shared(settings, alias, share)
    if as_json:
        _print_json(found)
        return
    say(
        f"{found.share:.0%} of the conversations with {found.alias} go to {found.candidate.tag}, the others to "
        f"{found.incumbent.tag}."
    )
    if not settings.proxy.enabled:
        complain("The proxy is not enabled: set proxy.enabled = true, or start `nightschool proxy`.")
    say(f"Applications take part that call http://127.0.0.1:{settings.proxy.port} in place of Ollama's address.")


def _shared(settings: Settings, alias: str, share: float) -> Share:
    client = ControlClient(settings.runtime_directory)
    if client.is_there():
        return codec.build(Share, client.ask("share", alias=alias, share=share))
    with working(settings) as installation:
        return installation.runs.share(alias, share, now())


def _end_share(settings: Settings, alias: str) -> None:
    client = ControlClient(settings.runtime_directory)
    if client.is_there():
        ended = bool(client.ask("unshare", alias=alias))
    else:
        with working(settings) as installation:
            ended = installation.runs.unshare(alias)
    say(f"{alias} is shared no more." if ended else f"{alias} was not shared.")
    if not ended:
        raise typer.Exit(Exit.NOTHING_CHANGED)


@app.command()
def undo(
    context: typer.Context,
    alias: Annotated[str, typer.Argument(help="An alias or a specialty.")],
    as_json: AsJson = False,
) -> None:
    """Put an alias back to the version before its last promotion."""
    moved = _move(_settings(context), "undo", alias, lambda one: one.runs.undo(alias, now()))
    _show_move(moved, as_json)


@app.command()
def approve(
    context: typer.Context,
    alias: Annotated[str, typer.Argument(help="An alias or a specialty.")],
    as_json: AsJson = False,
) -> None:
    """Put the candidate into use that waits for approval (promotion.promote = "ask")."""
    moved = _move(_settings(context), "approve", alias, lambda one: one.runs.approve(alias, now()))
    _show_move(moved, as_json)


# --------------------------------------------------------------------------- looking


@app.command()
def status(context: typer.Context, as_json: AsJson = False) -> None:
    """What learns, what serves, what waits."""
    settings = _settings(context)
    client = ControlClient(settings.runtime_directory)
    if client.is_there():
        found = codec.build(Status, client.ask("status"))
    else:
        with _readable(settings) as installation:
            found = status_of(installation, "not running", now())
    if as_json:
        _print_json(found)
        return
    _show_status(found)


@app.command()
def report(
    context: typer.Context,
    run_id: Annotated[str | None, typer.Argument(metavar="RUN", help="A run's id; else the last one.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the page with its plots into this file.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """One page about a run, in plain words."""
    page = _look(_settings(context), Page, "report", lambda one: page_of(one, run_id), run=run_id)
    if html is not None:
        html.write_text(html_of(page.sheet), encoding="utf-8")
    if as_json:
        _print_json(page.report)
    elif html is not None:
        say(f"Wrote {html}.")
    else:
        _show_page(page)


@app.command()
def history(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="How many of each.", min=1)] = 20,
    tracked: Annotated[
        str | None,
        typer.Option("--track", metavar="ALIAS", help="The track record of one specialty over its exams instead."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Every run, every version with what is left in it of its lesson, and every move of an alias, newest first."""
    if tracked is not None:
        _show_track(_settings(context), tracked, as_json)
        return
    found = _look(_settings(context), History, "history", lambda one: history_of(one, limit), limit=limit)
    if as_json:
        _print_json(found)
        return
    show_records("Runs", ("run", "specialty", "end", "why"), [_run_line(one) for one in found.runs])
    show_records(
        "Versions",
        (
            "version",
            "state",
            "form",
            "MB",
            "kept",
            "watched loss (epoch)",
            *(f"held-out loss: {one}" for one in ("base", "trained", "delivered")),
        ),
        [_version_line(one) for one in found.versions],
    )
    columns = ("when", "alias", "kind", "from", "to", "state", "why")
    show_records("Moves of aliases", columns, [_move_line(one) for one in found.moves])


@app.command()
def explain(
    context: typer.Context,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Its `source/id`, or its id.")],
    as_json: AsJson = False,
) -> None:
    """What became of a piece of feedback: what it was worth, why it was learned from or left out, what it taught."""
    found = _look(_settings(context), Explanation, "explain", lambda one: explanation_of(one, event), name=event)
    if as_json:
        _print_json(found)
        return
    show_explanation(found)


@feedback_app.command(name="export")
def feedback_export(
    context: typer.Context,
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="trl, openai: better answers over worse ones; kto: liked and disliked answers; alpaca, sharegpt: "
            "wanted answers.",
        ),
    ],
    specialty: Annotated[
        str | None,
        typer.Option(
            "--specialty", "--alias", help="Of this one alone: an alias, MODEL/TYPE, or a model with one type."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; else standard output.", dir_okay=False)
    ] = None,
) -> None:
    """Write the feedback as JSONL that other tools train from. Withdrawn feedback and weak signals are left out."""
    with _taken_in(_settings(context)) as installation:
        wanted = None if specialty is None else night.asked_for(installation, specialty)[0]
        found = export(form, events_of(installation.ledger, wanted), installation.hooks)
    if found.left_out:
        complain(f"{found.left_out} left out: {form} has no place for the turns before them.")
    if not found.lines:
        raise RunRefused(f"There is nothing to write: {form} says {NEEDED[form]}.")
    text = "".join(f"{line}\n" for line in found.lines)
    if output is None:
        sys.stdout.write(text)
    else:
        write_durably(output, text)
        say(f"Wrote {len(found.lines)} rows to {output}.")


@app.command()
def plugins(context: typer.Context, as_json: AsJson = False) -> None:
    """Every plugin, where it comes from, and which hooks it answers."""
    settings = _settings(context)
    try:
        found = _look(settings, tuple[PluginStatus, ...], "plugins", lambda one: one.hooks.status())
    except LedgerError:
        found = load_hooks(settings, None, safe_mode=False).status()
    if as_json:
        _print_json(found)
        return
    rows = [
        (one.name, one.kind, one.state, one.reason or ", ".join(_short(hook) for hook in one.hooks)) for one in found
    ]
    show_table("", ("plugin", "from", "state", "hooks, or why not"), rows)


# --------------------------------------------------------------------------- helpers


@contextmanager
def _readable(settings: Settings) -> Iterator[Installation]:
    """Read the ledger; where there is none yet, make it and take in what was dropped."""
    try:
        with looking(settings) as installation:
            yield installation
            return
    except LedgerError:
        if ControlClient(settings.runtime_directory).is_there():
            raise
    with working(settings) as installation:
        installation.intake.scan(now())
        yield installation


@contextmanager
def _taken_in(settings: Settings) -> Iterator[Installation]:
    """Take in what was dropped, then read. Where a daemon runs, it has done so; where a run goes on, it waits."""
    with ExitStack() as stack:
        try:
            if ControlClient(settings.runtime_directory).is_there():
                installation = stack.enter_context(looking(settings))
            else:
                installation = stack.enter_context(working(settings))
                installation.intake.scan(now())
        except LockedError:
            installation = stack.enter_context(looking(settings))
        yield installation


def _look(settings: Settings, kind: type[T], command: str, here: Callable[[Installation], T], **arguments: object) -> T:
    """Ask the daemon, whose files may not be ours to read; look here where none runs."""
    client = ControlClient(settings.runtime_directory)
    if client.is_there():
        return codec.build(kind, client.ask(command, **arguments))
    with looking(settings) as installation:
        return here(installation)


def _order(settings: Settings, command: str, here: Callable[[Installation], object]) -> None:
    """Have the daemon do it, or do it here where none runs."""
    client = ControlClient(settings.runtime_directory)
    if client.is_there():
        client.ask(command)
        return
    with working(settings) as installation:
        here(installation)


def _move(settings: Settings, command: str, alias: str, here: Callable[[Installation], AliasMove]) -> AliasMove:
    client = ControlClient(settings.runtime_directory)
    if client.is_there():
        return codec.build(AliasMove, client.ask(command, alias=alias))
    with working(settings) as installation:
        for sentence in installation.runs.recover(now()):
            complain(sentence)
        return here(installation)


def _show_move(moved: AliasMove, as_json: bool) -> None:
    if as_json:
        _print_json(moved)
        return
    say(f"{moved.alias} was moved: {moved.reason}.")


def _show_page(page: Page) -> None:
    out.print(Markdown(page.text) if out.is_terminal else page.text, markup=False)


def _show_track(settings: Settings, name: str, as_json: bool) -> None:
    """Scores, latencies and levels over the exams of a specialty, and whether feedback or prompts changed."""
    material = _look(
        settings, TrackMaterial, "track", lambda one: material_by_name(one.runs.planner, one.ledger, name), name=name
    )
    found = track(settings, material, now())
    if as_json:
        _print_json(found)
        return
    table = track_table(found)
    show_table(str(material.specialty), table.columns, table.rows)
    for sentence in nights_section(found).sentences:
        say(sentence.replace("`", ""))


def _show_status(found: Status) -> None:
    night_text = f"{found.next_run:%a %d %b %H:%M}" if found.next_run else "not scheduled"
    if found.next_run and found.daemon != "running":
        night_text += ", if the daemon runs then"
    rows = [
        ("daemon", found.daemon),
        ("Ollama", found.ollama),
        ("learning", "paused" if found.paused else f"next night: {night_text}"),
        ("run under way", found.run_under_way or "none"),
        ("events", str(found.events)),
    ]
    show_table("", ("", ""), rows)
    lines = [
        (
            str(one.specialty),
            _serving(one),
            f"{one.fresh} of {one.total}",
            "due" if one.batch_size or one.wants_examples else "collects",
            one.last_run.end.value if one.last_run and one.last_run.end else "-",
            one.alias if one.alias_exists else f"{one.alias} (after the first promotion)",
        )
        for one in found.specialties
    ]
    if lines:
        show_table("Specialties", ("specialty", "serves", "fresh", "next night", "last run", "alias"), lines)
    shares = [
        (one.share.alias, one.share.candidate.tag, f"{one.share.share:.0%}", one.share.incumbent.tag, one.verdict)
        for one in found.shares
    ]
    if shares:
        show_table("Shared use", ("alias", "candidate", "gets", "of the use of", "so far"), shares)
    for one in found.specialties:
        if one.unwatched:
            say(one.unwatched.replace("`", ""))
    problems = [one.problem for one in found.specialties if one.problem] + list(found.problems)
    for problem in problems:
        complain(problem)


def _serving(one: SpecialtyState) -> str:
    lesson = one.serving_lesson.sentence() if one.serving_lesson is not None else ""
    return " ".join(filter(None, (one.serving or "the base", f"({lesson})" if lesson else "")))


def _run_line(row: RunRow) -> tuple[str, str, str, str]:
    return (row.id, str(row.specialty), row.end.value if row.end else "under way", row.outcome_reason or row.reason)


def _version_line(row: VersionRow) -> tuple[str, ...]:
    held_in, held_out = row.lesson.held_in, row.lesson.held_out
    losses = (held_out.base_loss, held_out.trained_loss, held_out.delivered_loss) if held_out is not None else ()
    return (
        row.tag,
        row.state.value,
        row.form.value if row.form is not None else "-",
        f"{row.files[0].bytes / 1e6:.1f}" if row.files else "-",
        held_in.share() if held_in is not None else "-",
        str(row.lesson.watched or "-"),
        *(f"{one:.3f}" for one in losses),
    )


def _move_line(row: MoveRow) -> tuple[str, ...]:
    moment = f"{row.intended_at:%Y-%m-%d %H:%M}"
    return (moment, row.alias, row.kind.value, row.from_tag or "-", row.to_tag or "-", row.state.value, row.reason)


def _flattened(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _flattened(one, codec.join(path, str(key)))
    else:
        yield path, json.dumps(value, ensure_ascii=False)


def _short(hook: str) -> str:
    return hook.removeprefix("nightschool_")


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(codec.to_plain(value), indent=1, ensure_ascii=False) + "\n")
