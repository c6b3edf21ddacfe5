"""When runs start: the configured cron expression, as APScheduler understands it."""

from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from nightschool_daemon.config import ConfigurationError, ScheduleSettings

if TYPE_CHECKING:
    from apscheduler.triggers.cron import CronTrigger

WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")


def trigger_of(settings: ScheduleSettings) -> "CronTrigger":
    """The trigger of a schedule. Raises `ConfigurationError`.

    APScheduler's `from_crontab` counts weekdays from Monday = 0, cron from Sunday = 0: numbers are
    translated to names first.
    """
    from apscheduler.triggers.cron import CronTrigger

    fields = settings.cron.split()
    if len(fields) != 5:
        raise ConfigurationError(
            f"schedule.cron: {settings.cron!r} has {len(fields)} fields; it needs five: "
            "minute, hour, day, month, weekday."
        )
    try:
        zone = ZoneInfo(settings.timezone) if settings.timezone else None
    except (ValueError, LookupError, OSError):
        raise ConfigurationError(
            f"schedule.timezone: {settings.timezone!r} is not known here. Names look like 'Europe/Berlin'."
        ) from None
    try:
        fields[4] = named_weekdays(fields[4])
        return CronTrigger.from_crontab(" ".join(fields), timezone=zone)
    except (ValueError, KeyError, LookupError) as error:
        raise ConfigurationError(f"schedule.cron: {settings.cron!r} cannot be used: {error}.") from error


def named_weekdays(field: str) -> str:
    """Translate a weekday field: `1-5` is Monday to Friday, 0 and 7 are Sunday.

    A range is written out day by day, because one that begins or ends on Sunday has no range of names.
    """
    return ",".join(_named(part) for part in field.split(","))


def _named(part: str) -> str:
    days, _, step = part.partition("/")
    first, dash, last = days.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        if days == "*" and step.isdigit():
            return ",".join(dict.fromkeys(WEEKDAYS[day] for day in range(0, 7, int(step))))
        return part
    begin, end = int(first), int(last) if dash else (6 if step else int(first))
    if not (0 <= begin <= end <= 7) or (step and not step.isdigit()):
        raise ConfigurationError(f"schedule.cron: the weekday {part!r} is not within 0-7.")
    return ",".join(dict.fromkeys(WEEKDAYS[day] for day in range(begin, end + 1, int(step or 1))))


def next_time(settings: ScheduleSettings, now: datetime) -> datetime | None:
    """When the next night begins; None where nothing is scheduled."""
    if not settings.enabled:
        return None
    moment = trigger_of(settings).get_next_fire_time(None, now)
    return moment if isinstance(moment, datetime) else None
