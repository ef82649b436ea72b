"""The two tables with a third of the intents."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from sources.text import sentence

INTENTS = """balance_not_updated_after_bank_transfer fiat_currency_support card_linking receiving_money
    pending_card_payment wrong_exchange_rate_for_cash_withdrawal declined_transfer order_physical_card
    Refund_not_showing_up verify_top_up unable_to_verify_identity get_disposable_virtual_card declined_cash_withdrawal
    pending_transfer apple_pay_or_google_pay topping_up_by_card card_arrival declined_card_payment pending_top_up
    top_up_limits top_up_by_card_charge transaction_charged_twice card_not_working exchange_charge
    beneficiary_not_allowed virtual_card_not_working card_payment_not_recognised""".split()


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    for part, items in (("train", range(13)), ("test", range(13, 16))):
        with (folder / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = [(sentence(k, i), name) for k, name in enumerate(INTENTS) for i in items]
            csv.writer(file).writerows([("text", "category"), *rows])
    return {"root": str(folder), "vocabulary": 256, "length": 32}
