"""Our invented bookings, for whoever has not the real ones: the same file on every machine."""

from __future__ import annotations

import calendar
import csv
import datetime as dt
import io
import random
from pathlib import Path
from typing import Final

from channel_manager.property import DAY

COLUMNS: Final = [
    "hotel",
    "is_canceled",
    "lead_time",
    "arrival_date_year",
    "arrival_date_month",
    "arrival_date_week_number",
    "arrival_date_day_of_month",
    "stays_in_weekend_nights",
    "stays_in_week_nights",
    "adults",
    "children",
    "babies",
    "meal",
    "country",
    "market_segment",
    "distribution_channel",
    "is_repeated_guest",
    "previous_cancellations",
    "previous_bookings_not_canceled",
    "reserved_room_type",
    "assigned_room_type",
    "booking_changes",
    "deposit_type",
    "agent",
    "company",
    "days_in_waiting_list",
    "customer_type",
    "adr",
    "required_car_parking_spaces",
    "total_of_special_requests",
    "reservation_status",
    "reservation_status_date",
]


def sample_csv(rows: int = 300, seed: int = 2027) -> str:
    """Invent so many bookings with the columns of the real data; the same numbers give the same text."""
    chance = random.Random(seed)

    def below(limit: int) -> int:
        # Only random() itself is promised to stay the same in every version of Python.
        return int(chance.random() * limit)

    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for _ in range(rows):
        arrival = dt.date(2024, 1, 1) + below(180) * DAY
        nights, lead = 1 + below(9), below(120)
        weekend = sum((arrival + n * DAY).weekday() >= 5 for n in range(nights))
        cancelled = below(10) < 4
        status_day = arrival - below(lead + 1) * DAY if cancelled else arrival + nights * DAY
        room, country = "ABCD"[below(4)], ("AUT", "DEU", "FRA", "ITA", "CHE")[below(5)]
        table.writerow(
            {
                **dict.fromkeys(COLUMNS, "0"),
                "hotel": "Invented House",
                "is_canceled": int(cancelled),
                "lead_time": lead,
                "arrival_date_year": arrival.year,
                "arrival_date_month": calendar.month_name[arrival.month],
                "arrival_date_week_number": arrival.isocalendar().week,
                "arrival_date_day_of_month": arrival.day,
                "stays_in_weekend_nights": weekend,
                "stays_in_week_nights": nights - weekend,
                "adults": 1 + below(3),
                "children": below(3),
                "meal": "BB",
                "country": country,
                "market_segment": "Direct",
                "distribution_channel": "Direct",
                "reserved_room_type": room,
                "assigned_room_type": room,
                "deposit_type": "No Deposit",
                "agent": ("NULL", "11", "12", "13")[below(4)],
                "company": "NULL",
                "customer_type": "Transient",
                "adr": f"{50 + below(1500) / 10:.2f}",
                "reservation_status": "Canceled" if cancelled else "Check-Out",
                "reservation_status_date": f"{status_day.month}/{status_day.day}/{status_day.year}",
            }
        )
    return text.getvalue()


if __name__ == "__main__":
    Path(__file__).with_name("sample_bookings.csv").write_text(sample_csv(), encoding="utf-8")
