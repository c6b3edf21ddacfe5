"""The plugins that come with Night School, in the order of registration.

Of two that answer the same first-result hook, the later one is asked first: `evaluation_shell` before
`evaluation_text`, which takes any type.
"""

PACKAGE = "nightschool_plugins"

BUILT_IN: tuple[str, ...] = (
    "intake_native",
    "intake_quality",
    "intake_classify",
    "context_event",
    "reward_plain",
    "difficulty_length",
    "similarity_edit",
    "batching_threshold",
    "selection_priority",
    "negatives_plain",
    "curriculum_shuffle",
    "augmentation_letters",
    "preference_corrections",
    "tuning_fixed",
    "training_sft",
    "delivery_split",
    "delivery_fused",
    "delivery_adapter",
    "evaluation_split",
    "evaluation_text",
    "evaluation_shell",
    "guard_answers",
    "guard_length",
    "guard_liked",
    "judge_paired",
)
