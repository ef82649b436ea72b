"""CLINC150: 150 intents of ten domains, 150 short requests to an assistant for each.

Source: Larson et al. 2019, "An evaluation dataset for intent classification and out-of-scope prediction",
github.com/clinc/oos-eval (CC BY 3.0).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from metalearn_cli.core.check import Range
from metalearn_cli.core.errors import DataError, Finding
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.files import benchmark_root
from metalearn_cli.data.common.manifest import Entry, Manifest, placed, split_named
from metalearn_cli.data.common.texts import Coding, Length, Passage, Vocabulary, filled, text_data

FILE = "data_full.json"
WHERE = f"{FILE} of github.com/clinc/oos-eval, data/, or its folder"
DOMAINS = {
    "auto_and_commute": """current_location oil_change_when oil_change_how uber traffic tire_pressure
        schedule_maintenance gas mpg distance directions last_maintenance gas_type tire_change jump_start""",
    "banking": """freeze_account routing pin_change bill_due pay_bill account_blocked interest_rate min_payment
        bill_balance transfer order_checks balance spending_history transactions report_fraud""",
    "credit_cards": """replacement_card_duration expiration_date damaged_card improve_credit_score report_lost_card
        card_declined credit_limit_change apr redeem_rewards credit_limit rewards_balance application_status
        credit_score new_card international_fees""",
    "home": """what_song play_music todo_list_update reminder reminder_update calendar_update order_status
        update_playlist shopping_list calendar next_song order todo_list shopping_list_update smart_home""",
    "kitchen_and_dining": """food_last confirm_reservation how_busy ingredients_list calories nutrition_info recipe
        restaurant_reviews restaurant_reservation meal_suggestion restaurant_suggestion cancel_reservation
        ingredient_substitution cook_time accept_reservations""",
    "meta": """change_speed user_name whisper_mode yes change_volume no change_language repeat change_accent cancel
        sync_device change_user_name change_ai_name reset_settings maybe""",
    "small_talk": """who_made_you meaning_of_life who_do_you_work_for do_you_have_pets what_are_your_hobbies fun_fact
        what_is_your_name where_are_you_from goodbye thank_you greeting tell_joke are_you_a_bot how_old_are_you
        what_can_i_ask_you""",
    "travel": """plug_type travel_notification translate flight_status international_visa timezone exchange_rate
        travel_suggestion travel_alert vaccines lost_luggage book_flight book_hotel carry_on car_rental""",
    "utility": """weather alarm date find_phone share_location timer make_call calculator definition
        measurement_conversion flip_coin spelling time roll_dice text""",
    "work": """pto_request_status next_holiday insurance_change insurance meeting_schedule payday taxes income
        rollover_401k pto_balance pto_request w2 schedule_meeting direct_deposit pto_used""",
}
"""The intents of each domain, which data/domains.json of the source lists."""

_DOMAIN_OF = {intent: domain for domain, intents in DOMAINS.items() for intent in intents.split()}


def clinc150(
    root: str | None = None,
    split: str = "auto",
    tokenizer: str = "words",
    vocabulary: Vocabulary = 4096,
    length: Length = 32,
    within: bool = False,
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Requests as ids; the groups of classes are the domains, and what is out of scope is left out.

    Args:
        root: data_full.json or its folder; None for $MLX_DATA_DIR/clinc150.
        split: "auto" or "groups": six domains train, two validate, two test, drawn by the seed; "classes": 90, 30 and
            30 intents; "items": the published split of the requests of each intent (ordinary classification); or a
            JSON file of lists, see `manifest.placed`.
        tokenizer: "words", "bytes" or an encoder's folder, see `text.text`.
        vocabulary: most ids of tokenizer "words", 16 to 1048576.
        length: ids of an item, 1 to 65536.
        within: whether the intents of an episode are all of one domain.
        seed: of the split, >= 0.

    Raises:
        UserError: if the file is missing or not the one of upstream.
    """
    source = benchmark_root(root, "clinc150", WHERE)
    path = source / FILE if source.is_dir() else source
    entries = []
    for part, rows in _parts(path).items():
        given = split_named(part, str(path)) if split == "items" else ""
        for row, (text, intent) in enumerate(rows):
            passage = Passage(text, f"{path.name}, {part}, row {row + 1}")
            entries.append(Entry(passage, intent, given, _DOMAIN_OF[intent]))
    kept, findings = filled(entries)
    found = placed(Manifest(kept, findings=findings, by_place=True), split, seed)
    data = text_data("clinc150", found, Coding(tokenizer, vocabulary, length))
    return data.within_groups("domains") if within else data


def _parts(path: Path) -> dict[str, list[list[str]]]:
    """Return the requests [text, intent] of train, val and test.

    Raises:
        DataError: if the file is missing or has another layout.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        parts = {part: found[part] for part in ("train", "val", "test")}
        wrong = {str(intent) for rows in parts.values() for _, intent in rows} - _DOMAIN_OF.keys()
        if not all(isinstance(text, str) for rows in parts.values() for text, _ in rows):
            raise ValueError("a text is not a string")
    except OSError as error:
        raise DataError([Finding(True, str(path), f"cannot be read: {error.strerror}")], f"it is {WHERE}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        told = f'is not {{"train": [[text, intent], ...], "val": ..., "test": ...}}: {error}'
        raise DataError([Finding(True, str(path), told)], f"it is {WHERE}") from error
    if wrong:
        raise DataError([Finding(True, str(path), f"has intents that CLINC150 does not have: {sorted(wrong)[:5]}")])
    return parts
