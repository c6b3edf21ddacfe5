"""What the author of a Night School plugin needs.

A plugin is a module. It implements hooks by functions of the same name marked with `hookimpl`; the
signatures, and what each hook means, stand in the stage modules of this package (`reward`,
`selection`, ...). It imports this package and libraries, nothing else of Night School's.

A plugin with settings returns a frozen dataclass type from `nightschool_register_settings` and puts
its implementations into that class as methods: the daemon fills it from `[plugins.<name>]` of the
configuration and registers the instance.

    from dataclasses import dataclass
    from nightschool_hookspecs import Event, hookimpl

    @dataclass(frozen=True, kw_only=True)
    class DifficultyByLines:
        hard_lines: int = 40

        @hookimpl
        def nightschool_score_difficulty(self, event: Event) -> float:
            return min(1.0, event.input_data.count("\\n") / self.hard_lines)

    @hookimpl
    def nightschool_register_settings() -> type[DifficultyByLines]:
        return DifficultyByLines
"""

from nightschool_hookspecs.corrections import is_minor
from nightschool_hookspecs.markers import PROJECT, hookimpl, hookspec
from nightschool_hookspecs.records import (
    AliasMove,
    AnswerScore,
    BaseChange,
    BatchStatistics,
    Budget,
    Chunk,
    Context,
    CountedItem,
    DeliveryForm,
    DeliveryPlan,
    DeliveryTarget,
    Event,
    Evidence,
    Exam,
    ExamAnswer,
    ExamItem,
    FeedbackFile,
    FeedbackType,
    GuardResult,
    Hyperparameters,
    InstalledModel,
    ItemRole,
    LabelledAnswer,
    LiveAnswer,
    LiveFeedback,
    LiveVerdict,
    Material,
    Matrix,
    Message,
    Metadata,
    MethodChoice,
    MoveKind,
    Outcome,
    ParsedFeedback,
    Peers,
    PreferencePair,
    PromptGroup,
    Refusal,
    RefusedRecord,
    RewardScore,
    Role,
    RunEnd,
    RunInfo,
    RunReport,
    ScoredEvent,
    ServerAbilities,
    Side,
    SideChoice,
    SimilarityMatrix,
    Sitting,
    Specialty,
    TensorInfo,
    TrainedForm,
    TrainingExample,
    TrainingJob,
    TrainingMethod,
    TrainingResult,
    TrainingText,
    Verdict,
)
from nightschool_hookspecs.services import (
    Embed,
    Generate,
    GenerationError,
    Measure,
    Retrieve,
    Store,
    Train,
    TrainingError,
)

__all__ = [
    "PROJECT",
    "AliasMove",
    "AnswerScore",
    "BaseChange",
    "BatchStatistics",
    "Budget",
    "Chunk",
    "Context",
    "CountedItem",
    "DeliveryForm",
    "DeliveryPlan",
    "DeliveryTarget",
    "Embed",
    "Event",
    "Evidence",
    "Exam",
    "ExamAnswer",
    "ExamItem",
    "FeedbackFile",
    "FeedbackType",
    "Generate",
    "GenerationError",
    "GuardResult",
    "Hyperparameters",
    "InstalledModel",
    "ItemRole",
    "LabelledAnswer",
    "LiveAnswer",
    "LiveFeedback",
    "LiveVerdict",
    "Material",
    "Matrix",
    "Measure",
    "Message",
    "Metadata",
    "MethodChoice",
    "MoveKind",
    "Outcome",
    "ParsedFeedback",
    "Peers",
    "PreferencePair",
    "PromptGroup",
    "Refusal",
    "RefusedRecord",
    "Retrieve",
    "RewardScore",
    "Role",
    "RunEnd",
    "RunInfo",
    "RunReport",
    "ScoredEvent",
    "ServerAbilities",
    "Side",
    "SideChoice",
    "SimilarityMatrix",
    "Sitting",
    "Specialty",
    "Store",
    "TensorInfo",
    "Train",
    "TrainedForm",
    "TrainingError",
    "TrainingExample",
    "TrainingJob",
    "TrainingMethod",
    "TrainingResult",
    "TrainingText",
    "Verdict",
    "hookimpl",
    "hookspec",
    "is_minor",
]
