"""Hooks of preferences: pairs of a better and a worse answer, and answers that were liked or disliked alone."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import ExamItem, LabelledAnswer, PreferencePair, ScoredEvent
from nightschool_hookspecs.services import Sample, Validate


@hookspec
def nightschool_build_preference_pairs(events: tuple[ScoredEvent, ...]) -> tuple[PreferencePair, ...] | None:
    """Build preference pairs from the selected events, and from disliked answers of the training side.

    Called in the worker with events of the training side only, from whose pairs is learned. Then with events
    of whose prompts no wanted answer is known, once with those that the exam has and once with those that
    trial candidates are to be asked: their pairs are ranked, those whose texts are answers that were given to
    that prompt. A pair of two events is of the better answer's, and names the other as `worse_event_id`: both were
    learned from then. The pairs of all plugins are joined; equal ones count once. `nightschool feedback export`
    writes those of all feedback. Built-in plugins are asked before `nightschool train --method dpo` as well, with
    events that nobody has scored: a file that has no pairs is refused at once. None: no pairs.
    """


@hookspec
def nightschool_build_sampled_pairs(
    items: tuple[ExamItem, ...], sample: Sample, validate: Validate, seed: int
) -> tuple[PreferencePair, ...] | None:
    """Build preference pairs among answers that the incumbent is asked for.

    Called in the worker, once for a candidate and once for each trial candidate, where pairs are learned from
    (`training.method` "auto" or "dpo"); never where a training is only planned. `items` are prompts of the
    training side alone, one a group, as an exam would ask them: those of which a better answer is known, and
    failed checks that a validator here makes too. For a trial candidate, and in a rebuild, `sample` gives what is
    kept and asks nothing. The pairs are joined with those of `nightschool_build_preference_pairs`; of two with
    the same texts the one of this hook counts. No exam ranks them. None: no pairs.
    """


@hookspec
def nightschool_label_answers(events: tuple[ScoredEvent, ...]) -> tuple[LabelledAnswer, ...] | None:
    """Say which answers were liked or disliked by themselves.

    Called once in a run, in the worker, with the same events. The labels of all plugins are joined;
    the first one of an answer counts. `nightschool feedback export` writes those of all feedback. None: no labels.
    Built-in plugins are also asked before a training by `--method kto`, as for pairs.
    """
