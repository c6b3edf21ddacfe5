"""The configuration: `config.toml` becomes frozen settings.

Every field has its default here; the commented `config.toml` that ships with the package shows the
same defaults, and a test holds the two together. An unknown key is an error with its path.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from nightschool_daemon import codec
from nightschool_hookspecs.records import MethodChoice


class ConfigurationError(Exception):
    """The configuration cannot be used; the message names file and key and says what to do."""


class PromotionMode(StrEnum):
    """How sure the exam must be before an alias moves."""

    PROVEN = "proven"
    PROVISIONAL = "provisional"
    ASK = "ask"


class SpecialtyMode(StrEnum):
    """Whether each artifact type learns apart, or all types of a base together."""

    PER_TYPE = "per_type"
    POOLED = "pooled"


class EngineChoice(StrEnum):
    """What trains, and computes losses."""

    AUTO = "auto"
    """The packed engine where it knows the base's architecture, else transformers."""
    TRANSFORMERS = "transformers"


class EmbeddingSource(StrEnum):
    """Which model makes embeddings."""

    AUTO = "auto"
    """The first of those below that is there."""
    OLLAMA = "ollama"
    SENTENCE_TRANSFORMERS = "sentence-transformers"
    STATIC = "static"
    NONE = "none"


class Preset(StrEnum):
    """Which of the built-ins are asked."""

    MEASURED = "measured"
    """Those that a measurement says help, or are harmless at no cost."""
    ALL = "all"
    """The optional ones too, and pairs of answers are learned from unless `training.method` says otherwise."""


class DeliveryChoice(StrEnum):
    """In which form a lesson is delivered."""

    AUTO = "auto"
    SPLIT = "split"
    FUSED = "fused"
    ADAPTER = "adapter"


def _require(settings: object, lowest: float, *names: str, above: bool = False) -> None:
    """Raise `ValueError` for the first number below `lowest`, or at it where it must be above. NaN never fits."""
    for name in names:
        value = getattr(settings, name)
        if not (value > lowest if above else value >= lowest):
            raise ValueError(f"{name} must be {'above' if above else 'at least'} {lowest:g}, not {value:g}")


@dataclass(frozen=True, kw_only=True)
class OllamaSettings:
    """`[ollama]`"""

    host: str = ""
    """Empty: the environment's OLLAMA_HOST, else http://127.0.0.1:11434."""
    allow_remote: bool = False
    models_directory: Path | None = None
    """Where the server keeps its blobs; None: OLLAMA_MODELS, then the usual places."""
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 600.0
    """Loading a large model from a slow disk may take minutes."""
    between_chunks_timeout_s: float = 120.0
    poll_interval_s: float = 60.0

    def __post_init__(self) -> None:
        limits = ("connect_timeout_s", "first_byte_timeout_s", "between_chunks_timeout_s", "poll_interval_s")
        _require(self, 0, *limits, above=True)


@dataclass(frozen=True, kw_only=True)
class FeedbackSettings:
    """`[feedback]`"""

    directory: Path = Path("~/nightschool/feedback")
    rescan_interval_s: float = 10.0
    settle_s: float = 2.0
    incomplete_after_s: float = 60.0
    keep_accepted_days: int = 30
    """How long files that were taken in stay in `accepted/`; 0: they are removed at once."""

    def __post_init__(self) -> None:
        _require(self, 0, "rescan_interval_s", above=True)
        _require(self, 0, "settle_s", "incomplete_after_s", "keep_accepted_days")


@dataclass(frozen=True, kw_only=True)
class StateSettings:
    """`[state]`"""

    directory: Path | None = None
    """None: $STATE_DIRECTORY (set by systemd), else nightschool/ under the XDG state home."""
    runtime_directory: Path | None = None
    """None: $RUNTIME_DIRECTORY, else nightschool/ under $XDG_RUNTIME_DIR, else the state directory."""


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """`[schedule]`"""

    enabled: bool = True
    cron: str = "30 2 * * *"
    """Five fields; weekdays as names or 0-7 with Sunday = 0 = 7, as cron counts."""
    timezone: str = ""
    """Empty: the machine's."""
    idle_minutes: float = 0.0
    """A run starts only when no model was in use in Ollama for so long; 0: at once."""
    window_minutes: float = 240.0
    """How long after the scheduled time a run may still wait for the machine to be idle."""
    max_runs_per_night: int = 4

    def __post_init__(self) -> None:
        _require(self, 0, "idle_minutes", "window_minutes")
        _require(self, 1, "max_runs_per_night")


@dataclass(frozen=True, kw_only=True)
class SpecialtySettings:
    """`[specialties]`"""

    mode: SpecialtyMode = SpecialtyMode.PER_TYPE
    default_base: Mapping[str, str] = field(default_factory=dict)
    """`[specialties.default_base]`: artifact type (or `*`) -> Ollama name, for events without a model."""
    ignore: tuple[str, ...] = ()
    """Ollama names that never learn."""


@dataclass(frozen=True, kw_only=True)
class SimilaritySettings:
    """`[similarity]`"""

    embedding: EmbeddingSource = EmbeddingSource.AUTO
    ollama_model: str = ""
    """Empty: the first by name that can embed."""
    sentence_transformers_model: str = "all-MiniLM-L6-v2"
    """A name or a directory; loaded from disk only."""
    near_duplicate: float = 0.85
    """Similarity, 0..1, of the edits or combined, from which two prompts are near-duplicates."""
    max_near_duplicates: int = 16
    """Events of one group of near-duplicates that a run learns from."""

    def __post_init__(self) -> None:
        _require(self, 0, "near_duplicate", above=True)
        _require(self, 1, "max_near_duplicates")
        if self.near_duplicate > 1:
            raise ValueError(f"near_duplicate must be at most 1, not {self.near_duplicate:g}")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """`[training]`"""

    engine: EngineChoice = EngineChoice.AUTO
    method: MethodChoice = MethodChoice.SFT
    warm_start: bool = True
    """Begin from what the version in service learned, where it fits."""
    start_from: Path | None = None
    """A PEFT adapter that a specialty's first training begins from."""
    examples_from: int = 5
    """From so many corrected prompts on, and as many as an exam needs, until a version was promoted, the base with a
    few of the corrections as example messages sits an exam too; 0: never."""
    max_shots: int = 8
    """Corrections that such a candidate shows."""
    max_shot_tokens: int = 1024
    """Of them all: they stand before every conversation, and take their part of the context."""
    max_events: int = 2000
    max_tokens: int = 400_000
    max_growth: float = 3.0
    """Examples and their variants together, as a multiple of the examples."""
    doubted: float = 0.5
    """Of the weight of feedback that looks wrong: where no more is left, it counts in no pair and as no thumb."""
    time_limit_minutes: float = 480.0
    threads: int = 0
    """0: as many as there are cores."""
    seed: int = 0
    """0: a new one for every run. Another number makes runs on the same feedback repeatable."""
    unload_models: bool = True
    """Ask Ollama to unload idle models before training and delivery, to have the memory."""

    def __post_init__(self) -> None:
        _require(self, 1, "max_events", "max_tokens", "max_growth", "max_shots", "max_shot_tokens")
        _require(self, 0, "examples_from", "doubted")
        _require(self, 0, "time_limit_minutes", above=True)
        _require(self, 0, "threads", "seed")
        if self.doubted >= 1:
            raise ValueError(f"doubted must be below 1, not {self.doubted:g}")

    @property
    def time_limit_s(self) -> float:
        """What all trainings of a run may take together."""
        return self.time_limit_minutes * 60


@dataclass(frozen=True, kw_only=True)
class DeliverySettings:
    """`[delivery]`"""

    form: DeliveryChoice = DeliveryChoice.AUTO
    min_free_gb: float = 1.0
    """Free disk that must remain in the state directory and in Ollama's store."""
    min_kept: float = 0.99
    """Share of the lesson that must be left in the written file."""
    max_version_mb: float = 0.0
    """What a version may add to Ollama's store; 0: no limit."""

    def __post_init__(self) -> None:
        _require(self, 0, "min_free_gb", "min_kept", "max_version_mb")


@dataclass(frozen=True, kw_only=True)
class ExamSettings:
    """`[exam]`"""

    max_items: int = 60
    """Held-out prompts that count for or against a candidate, a night."""
    max_guard_items: int = 20
    max_regression_items: int = 20
    """Corrections that were learned before; all of them are asked where the last time is `regression_days` ago."""
    regression_items_to_promote: int = 100
    """So many of them are asked of a candidate that would come into use."""
    max_lesson_items: int = 20
    """Corrections of tonight's lesson, where trial candidates prove it: whether the candidate itself is sound."""
    max_pairs: int = 40
    """Held-out pairs of a better and a worse answer that are ranked, a night: each goes through both models."""
    regression_days: int = 7
    round_items: int = 5
    """Prompts that count, asked before it is looked whether the exam is decided.
    Where memory holds one model at a time, both are loaded once a round."""
    min_items: int = 6
    """With fewer, nothing can be proven, and a run ends before it trains."""
    max_answer_tokens: int = 512
    context_tokens: int = 4096
    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    verify_positions: int = 96
    guard_time_s: float = 1800.0
    """What the guards of an exam may take together for questions of their own.
    Past it a candidate waits for approval."""
    judge_model: str = ""
    """Ollama name of the model that plugins may ask about answers. Empty: the base that learns."""

    def __post_init__(self) -> None:
        _require(
            self, 1, "max_items", "round_items", "max_answer_tokens", "context_tokens", "top_k", "verify_positions"
        )
        _require(
            self,
            0,
            "max_guard_items",
            "max_regression_items",
            "regression_items_to_promote",
            "max_lesson_items",
            "max_pairs",
            "regression_days",
            "min_items",
            "temperature",
            "min_p",
        )
        _require(self, 0, "top_p", "repeat_penalty", "guard_time_s", above=True)
        _require(self, -1, "repeat_last_n")


@dataclass(frozen=True, kw_only=True)
class PromotionSettings:
    """`[promotion]`"""

    promote: PromotionMode = PromotionMode.PROVEN
    keep_versions: int = 3
    replace_base: bool = False
    """Move the user's own tag too, after saving it under another name."""
    probation_days: float = 30.0
    """How long feedback may take a promotion back, and how many days before it are compared with; 0: never."""

    def __post_init__(self) -> None:
        _require(self, 0, "keep_versions", "probation_days")


@dataclass(frozen=True, kw_only=True)
class ProxySettings:
    """`[proxy]`"""

    enabled: bool = False
    """Start the proxy beside the daemon."""
    port: int = 11435
    """On the loopback interface, and on no other."""
    keep_days: float = 90.0
    """How long it is remembered which version answered which conversation."""

    def __post_init__(self) -> None:
        _require(self, 1, "port")
        _require(self, 0, "keep_days", above=True)
        if self.port > 65535:
            raise ValueError(f"port must be at most 65535, not {self.port}")


@dataclass(frozen=True, kw_only=True)
class PluginSettings:
    """`[plugins]`: the host's own keys; each other table belongs to the plugin of its name."""

    directory: Path | None = None
    """Drop-in `*.py` files; None: plugins/ beside the configuration file."""
    preset: Preset = Preset.MEASURED
    enabled: tuple[str, ...] = ()
    """Optional built-ins that are asked too."""
    disabled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        both = sorted(set(self.enabled).intersection(self.disabled))
        if both:
            raise ValueError(f"{both[0]} stands in both enabled and disabled; take it out of one")


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """`[log]`"""

    level: str = "info"

    def __post_init__(self) -> None:
        if self.level not in ("debug", "info", "warning", "error"):
            raise ValueError(f"level: one of debug, info, warning, error expected, not {self.level!r}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The whole configuration."""

    ollama: OllamaSettings = field(default_factory=OllamaSettings)
    feedback: FeedbackSettings = field(default_factory=FeedbackSettings)
    state: StateSettings = field(default_factory=StateSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    specialties: SpecialtySettings = field(default_factory=SpecialtySettings)
    similarity: SimilaritySettings = field(default_factory=SimilaritySettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    exam: ExamSettings = field(default_factory=ExamSettings)
    promotion: PromotionSettings = field(default_factory=PromotionSettings)
    proxy: ProxySettings = field(default_factory=ProxySettings)
    plugins: PluginSettings = field(default_factory=PluginSettings)
    log: LogSettings = field(default_factory=LogSettings)
    plugin_tables: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """`[plugins.<name>]` as read; each plugin's dataclass checks its own."""
    file: Path | None = None
    """Where it was read from; None: the defaults alone."""

    @property
    def state_directory(self) -> Path:
        """The directory of ledger, runs and caches."""
        if self.state.directory is not None:
            return self.state.directory.expanduser()
        if given := os.environ.get("STATE_DIRECTORY"):
            return Path(given.split(":")[0])
        home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        return Path(home).expanduser() / "nightschool"

    @property
    def runtime_directory(self) -> Path:
        """The directory of `control.sock`."""
        if self.state.runtime_directory is not None:
            return self.state.runtime_directory.expanduser()
        if given := os.environ.get("RUNTIME_DIRECTORY"):
            return Path(given.split(":")[0])
        if given := os.environ.get("XDG_RUNTIME_DIR"):
            return Path(given) / "nightschool"
        return self.state_directory

    @property
    def feedback_directory(self) -> Path:
        """The directory that applications drop feedback into."""
        return self.feedback.directory.expanduser()

    @property
    def plugin_directory(self) -> Path | None:
        """The directory of drop-in plugins."""
        if self.plugins.directory is not None:
            return self.plugins.directory.expanduser()
        return self.file.parent / "plugins" if self.file is not None else None


def default_locations() -> tuple[Path, ...]:
    """Where a configuration is looked for, in order: the user's, then the system's."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    return (home / "nightschool" / "config.toml", Path("/etc/nightschool/config.toml"))


def load(file: Path | None) -> Settings:
    """Read `file`, else the first of `default_locations` that exists, else the defaults.

    Raises `ConfigurationError`.
    """
    if file is None:
        file = next((one for one in default_locations() if one.is_file()), None)
    return parse(_read(file), file) if file is not None else Settings()


def parse(text: str, file: Path | None) -> Settings:
    """Turn TOML 1.1 into settings. Raises `ConfigurationError`."""
    import tomli

    where = str(file) if file is not None else "configuration"
    try:
        tables = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise ConfigurationError(f"{where}: not valid TOML: {error}") from error
    plugins = tables.pop("plugins", {})
    for reserved in ("plugin_tables", "file"):
        if reserved in tables:
            raise ConfigurationError(f"{where}: {reserved}: unknown key")
    if not isinstance(plugins, dict):
        raise ConfigurationError(f"{where}: plugins: a table expected")
    try:
        host_keys = {key: value for key, value in plugins.items() if not isinstance(value, dict)}
        plugin_tables = {key: value for key, value in plugins.items() if isinstance(value, dict)}
        tables["plugins"] = host_keys
        settings = codec.build(Settings, tables | {"plugin_tables": plugin_tables, "file": file})
    except codec.CodecError as error:
        hint = "`nightschool config show` prints every key with its value."
        end = "" if str(error).endswith("?") else "."
        raise ConfigurationError(f"{where}: {error}{end} {hint}") from error
    _check_directories(settings, where)
    _check_schedule(settings.schedule, where)
    return settings if "method" in tables.get("training", {}) else _with_method_of_preset(settings)


def _with_method_of_preset(settings: Settings) -> Settings:
    """With the method that a preset brings where none is set: pairs that optional plugins make would not be learned."""
    if settings.plugins.preset is not Preset.ALL:
        return settings
    return replace(settings, training=replace(settings.training, method=MethodChoice.AUTO))


def _check_directories(settings: Settings, where: str) -> None:
    """Raise for a path that depends on where a command is called, and for feedback mixed with what is not feedback."""
    given = {
        "ollama.models_directory": settings.ollama.models_directory,
        "feedback.directory": settings.feedback.directory,
        "state.directory": settings.state.directory,
        "state.runtime_directory": settings.state.runtime_directory,
        "plugins.directory": settings.plugins.directory,
        "training.start_from": settings.training.start_from,
    }
    for key, path in given.items():
        if path is not None and not path.expanduser().is_absolute():
            raise ConfigurationError(f"{where}: {key}: {str(path)!r} is not absolute. Begin it with / or ~.")
    for key, path in (
        ("feedback.directory", settings.feedback_directory),
        ("state.directory", settings.state_directory),
    ):
        nearest = next(one for one in (path, *path.parents) if one.exists())
        if not nearest.is_dir():
            raise ConfigurationError(f"{where}: {key}: {nearest} is no directory. Choose another.")
    feedback = settings.feedback_directory.resolve()
    held = (Path.home(), settings.state_directory, settings.plugin_directory, settings.file)
    for path in held:
        if path is not None and path.resolve().is_relative_to(feedback):
            raise ConfigurationError(
                f"{where}: feedback.directory: everything in {feedback} would be taken for feedback, {path} too. "
                "Give feedback a directory of its own."
            )
    plugins = settings.plugins.directory
    if plugins is not None and not plugins.expanduser().is_dir():
        raise ConfigurationError(
            f"{where}: plugins.directory: {plugins} is no directory. Make it, or take the key out."
        )


def require_directories(settings: Settings) -> None:
    """Make the directories of feedback and state. Raises `ConfigurationError` for one that cannot be."""
    _require_directory(settings, "feedback.directory", settings.feedback_directory, mode=0o777)
    require_state_directory(settings)


def require_state_directory(settings: Settings) -> None:
    """Make the directory of state, for its owner alone. Raises `ConfigurationError` where it cannot be."""
    _require_directory(settings, "state.directory", settings.state_directory, mode=0o700)


def _require_directory(settings: Settings, key: str, path: Path, mode: int) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        raise ConfigurationError(
            f"{settings.file or 'configuration'}: {key}: {path} cannot be made ({error.strerror}). Choose another."
        ) from error


def _check_schedule(schedule: ScheduleSettings, where: str) -> None:
    from nightschool_daemon.scheduling import trigger_of

    try:
        trigger_of(schedule)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(f"{file} does not exist. `nightschool init` writes a configuration.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from error
