"""Days, as budgets and sums are kept by them. Pure: no clock, no calendar of the system."""

from __future__ import annotations


def day_of(now: float) -> str:
    """The day (UTC) of epoch seconds, `2026-11-27`."""
    # Years begin in March here, so that the day of the leap comes last (proleptic Gregorian).
    days = int(now // 86400) + 719468
    era, of_era = divmod(days, 146097)
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    return f"{year + era * 400 + (month <= 2):04}-{month:02}-{day:02}"
