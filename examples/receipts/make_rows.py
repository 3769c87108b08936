"""Makes the rows of this folder: shop receipts as a text reader sees them, beside what they say.

    python make_rows.py train > train.jsonl
    python make_rows.py test > test.jsonl

Same bytes on every machine: one seed per file, and every choice is drawn with `random.Random.random`, whose
sequence Python keeps. Shops, streets and towns are made up from the parts in places.json; both files are
drawn from the same shops, layouts and currencies. What is right:

company   the shop as printed (its case kept), with characters that were misread put right
date      the day of the payment as yyyy-mm-dd; month first in the US, day first elsewhere
total     what was paid in the end: not the subtotal, the net amount, the cash given or the change
currency  the ISO code: from the sign or the code, and for "kr" from the language
"""

import json
import random
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

T = TypeVar("T")
Kind: TypeAlias = Literal["plain", "company", "date", "total"]
Line: TypeAlias = tuple[str, Kind]

PLACES = Path(__file__).parent / "places.json"
SEEDS = {"train": 20240, "test": 20241}
COUNTS = {"train": 240, "test": 120}
SHOP_SEED = 7
SHOPS_PER_PLACE = 24
MIN_LINES, MAX_LINES = 6, 16
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
TO_DIGIT = dict(zip("OolISBZg", "00115829", strict=True))
TO_LETTER = {digit: letter for letter, digit in TO_DIGIT.items() if letter in "OlSBZ"}


@dataclass(frozen=True, kw_only=True)
class Place:
    """A country: how its shops are called, and how its tills write words, prices and dates."""

    place: str
    currency: str
    signs: tuple[str, ...]
    comma: bool
    price_level: float
    tax_percent: float
    tax_on_top: bool
    dates: tuple[str, ...]
    phone: str
    trade_first: bool
    stems: tuple[str, ...]
    trades: tuple[str, ...]
    forms: tuple[str, ...]
    streets: tuple[str, ...]
    towns: tuple[str, ...]
    goods: tuple[str, ...]
    total: tuple[str, ...]
    words: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A made-up shop with the lines that its receipts begin with."""

    place: Place
    name: str
    street: str
    town: str
    phone: str
    tax_id: str


@dataclass(frozen=True, kw_only=True)
class Sale:
    """One purchase. Amounts are in hundredths of the currency; `sign` is how this till writes a price."""

    shop: Shop
    day: date
    date_form: str
    time: str
    goods: tuple[tuple[str, int], ...]
    discount: int
    tax: int
    tip: int
    sign: str
    number: int

    @property
    def subtotal(self) -> int:
        """The goods before discount, tax on top and tip."""
        return sum(price for _, price in self.goods)

    @property
    def total(self) -> int:
        """What is paid."""
        on_top = self.tax if self.shop.place.tax_on_top else 0
        return self.subtotal - self.discount + on_top + self.tip

    @property
    def written_day(self) -> str:
        """The day as this till prints it."""
        return write_day(self.day, self.date_form)

    def word(self, name: str) -> str:
        """The till's word for `name`, a key of the place's words."""
        return self.shop.place.words[name]

    def money(self, cents: int) -> str:
        """The amount without its currency, as this country writes it."""
        if not self.shop.place.comma:
            return f"{cents // 100:,}.{cents % 100:02}"
        return f"{cents // 100:,}".replace(",", " ") + f",{cents % 100:02}"

    def price(self, cents: int) -> str:
        """The amount with its currency."""
        return self.sign.format(self.money(cents))

    def total_line(self) -> Line:
        """The line that states what is paid; the word for it varies from till to till."""
        words = self.shop.place.total
        return (f"{words[self.number % len(words)]} {self.price(self.total)}", "total")


def pick(rng: random.Random, choices: Sequence[T]) -> T:
    """One of the choices, all alike."""
    return choices[int(rng.random() * len(choices))]


def whole(rng: random.Random, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return low + int(rng.random() * (high - low + 1))


def write_day(day: date, form: str) -> str:
    """The day in one of a place's date formats."""
    month = MONTHS[day.month - 1]
    return form.format(d=day.day, m=day.month, y=day.year, yy=day.year % 100, mon=month, MON=month.upper())


def make_shops() -> list[list[Shop]]:
    """The shops of each place, in the order of places.json. Within a place no name comes twice."""
    rng = random.Random(SHOP_SEED)
    shops: list[list[Shop]] = []
    for given in json.loads(PLACES.read_text(encoding="utf-8")):
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
        }
        place = Place(**fields)
        named: dict[str, Shop] = {}
        while len(named) < SHOPS_PER_PLACE:
            shop = make_shop(place, rng)
            named.setdefault(shop.name.casefold(), shop)
        shops.append(list(named.values()))
    return shops


def make_shop(place: Place, rng: random.Random) -> Shop:
    """A shop whose name is put together from a stem, a trade and a legal form."""
    stem, trade, form = pick(rng, place.stems), pick(rng, place.trades), pick(rng, place.forms)
    parts = (trade, stem, form) if place.trade_first else (stem, trade, form)
    name = " ".join(part for part in parts if part)
    return Shop(
        place=place,
        name=name.upper() if rng.random() < 0.45 else name,
        street=f"{pick(rng, place.streets)} {whole(rng, 1, 98)}",
        town=f"{whole(rng, 10000, 98999)} {pick(rng, place.towns)}",
        phone=place.phone.format(whole(rng, 211, 989), whole(rng, 1000, 9999)),
        tax_id=f"{place.words['taxid']}{whole(rng, 10**7, 10**9 - 1)}",
    )


def make_sale(shop: Shop, rng: random.Random) -> Sale:
    """A purchase of one to four things; a discount in three of ten, a tip in two of ten."""
    place = shop.place
    goods: list[tuple[str, int]] = []
    for _ in range(whole(rng, 1, 4)):
        cents = int(whole(rng, 90, 2400) * (8 if rng.random() < 0.08 else 1) * place.price_level)
        ending = pick(rng, (0, 50, 90, 99, cents % 100))
        goods.append((pick(rng, place.goods), max(100, cents // 100 * 100) + ending))
    subtotal = sum(price for _, price in goods)
    discount = subtotal * whole(rng, 5, 25) // 100 if rng.random() < 0.3 else 0
    taxed = subtotal - discount
    rate = place.tax_percent / 100
    return Sale(
        shop=shop,
        day=date(2021, 1, 4) + timedelta(days=whole(rng, 0, 1800)),
        date_form=pick(rng, place.dates),
        time=f"{whole(rng, 7, 21):02}:{whole(rng, 0, 59):02}",
        goods=tuple(goods),
        discount=discount,
        tax=round(taxed * rate if place.tax_on_top else taxed * rate / (1 + rate)),
        tip=taxed * whole(rng, 5, 15) // 100 if rng.random() < 0.2 else 0,
        sign=pick(rng, place.signs),
        number=whole(rng, 1000, 99999),
    )


def head(sale: Sale) -> list[Line]:
    """The shop's name and where it is."""
    shop = sale.shop
    return [(shop.name, "company"), (shop.street, "plain"), (shop.town, "plain"), (shop.tax_id, "plain")]


def basket(sale: Sale) -> list[Line]:
    """The things bought, a line each."""
    return [(f"{name} {sale.money(price)}", "plain") for name, price in sale.goods]


def sums(sale: Sale) -> list[Line]:
    """From the subtotal to the total: discount, tax and tip where there are any."""
    lines: list[Line] = [(f"{sale.word('subtotal')} {sale.money(sale.subtotal)}", "plain")]
    if sale.discount:
        lines.append((f"{sale.word('discount')} -{sale.money(sale.discount)}", "plain"))
    lines.append((f"{sale.word('tax')} {sale.money(sale.tax)}", "plain"))
    if sale.tip:
        lines.append((f"{sale.word('tip')} {sale.money(sale.tip)}", "plain"))
    return [*lines, sale.total_line()]


def paid(sale: Sale, rng: random.Random) -> list[Line]:
    """By card, or in cash with the change."""
    if rng.random() < 0.4:
        digits = f"**** **** **** {whole(rng, 1000, 9999)}"
        return [(f"{sale.word('card')} {digits}", "plain"), (sale.price(sale.total), "plain")]
    note = (1000, 2000, 5000, 10000, 50000, 100000)[whole(rng, 0, 5)]
    given = -(-sale.total // note) * note
    lines: list[Line] = [(f"{sale.word('cash')} {sale.money(given)}", "plain")]
    return [*lines, (f"{sale.word('change')} {sale.money(given - sale.total)}", "plain")]


def supermarket(sale: Sale, rng: random.Random) -> list[Line]:
    """The usual till: shop, things, sums, payment, with the date at the top or at the end."""
    when: Line = (f"{sale.word('date')} {sale.written_day} {sale.time}", "date")
    till: Line = (f"{sale.word('cashier')} {whole(rng, 1, 19):02}  #{sale.number}", "plain")
    body = [*basket(sale), *sums(sale), *paid(sale, rng)]
    if rng.random() < 0.5:
        return [*head(sale), when, till, *body]
    return [*head(sale), till, *body, when]


def card_slip(sale: Sale, rng: random.Random) -> list[Line]:
    """A terminal's slip: its maker's name stands above the shop's, and there are no things."""
    shop = sale.shop
    return [
        (pick(rng, ("Oxbowpay TERMINAL v4.2", "* Plinthpay *", "Wickettap POS")), "plain"),
        (shop.name, "company"),
        (shop.town, "plain"),
        (f"TID {whole(rng, 10**7, 10**8 - 1)}  MID {sale.number}", "plain"),
        (f"{sale.word('card')} XXXX-{whole(rng, 1000, 9999)}", "plain"),
        sale.total_line(),
        (f"{sale.word('tax')} {sale.money(sale.tax)}", "plain"),
        (f"{sale.written_day} {sale.time}", "date"),
        (f"AUTH {whole(rng, 100000, 999999)} APPROVED 00", "plain"),
    ]


def restaurant(sale: Sale, rng: random.Random) -> list[Line]:
    """A bill with a table number; quantities stand before the dishes."""
    shop = sale.shop
    dishes: list[Line] = [(f"1 x {name} {sale.money(price)}", "plain") for name, price in sale.goods]
    return [
        (shop.name, "company"),
        (f"{sale.word('phone')} {shop.phone}", "plain"),
        (f"{sale.word('table')} {whole(rng, 1, 24)}   {sale.written_day}  {sale.time}", "date"),
        *dishes,
        *sums(sale),
        (shop.tax_id, "plain"),
        (sale.word("thanks"), "plain"),
    ]


def fuel(sale: Sale, rng: random.Random) -> list[Line]:
    """A pump's receipt: the date comes first, and a unit price looks like an amount."""
    litres = whole(rng, 800, 6200)
    unit = sale.subtotal * 100 // litres
    return [
        (f"{sale.written_day} {sale.time}", "date"),
        *head(sale)[:3],
        (f"{sale.word('receipt')} {sale.number}", "plain"),
        (
            f"P{whole(rng, 1, 8)} {litres / 100:.2f} L x {sale.money(unit)} = {sale.money(sale.subtotal)}",
            "plain",
        ),
        *sums(sale),
        *paid(sale, rng),
    ]


def invoice(sale: Sale, rng: random.Random) -> list[Line]:
    """A small invoice: a number that looks like a date, net before tax."""
    shop = sale.shop
    untaxed = sale.subtotal - sale.discount - (0 if shop.place.tax_on_top else sale.tax)
    tip: list[Line] = [(f"{sale.word('tip')} {sale.money(sale.tip)}", "plain")] if sale.tip else []
    return [
        (f"{sale.word('receipt')} {sale.day.year - 1}-{whole(rng, 10, 99)}-{sale.number}", "plain"),
        (shop.name, "company"),
        (f"{shop.street}, {shop.town}", "plain"),
        (f"{sale.word('phone')} {shop.phone}", "plain"),
        (f"{sale.word('date')}: {sale.written_day}", "date"),
        *basket(sale),
        (f"{sale.word('net')} {sale.money(untaxed)}", "plain"),
        (f"{sale.word('tax')} {sale.money(sale.tax)}", "plain"),
        *tip,
        sale.total_line(),
    ]


def columns(sale: Sale, rng: random.Random) -> list[Line]:
    """Read column by column: the words first, the amounts after them in the same order."""
    words = [
        sale.word("subtotal"),
        sale.word("tax"),
        sale.total_line()[0].removesuffix(sale.price(sale.total)),
    ]
    return [
        (sale.shop.name, "company"),
        (sale.shop.town, "plain"),
        (f"{sale.word('date')} {sale.written_day}", "date"),
        (f"{sale.word('count')} {len(sale.goods)}", "plain"),
        *((word.strip(), "plain") for word in words),
        (sale.money(sale.subtotal), "plain"),
        (sale.money(sale.tax), "plain"),
        (sale.price(sale.total), "total"),
        (f"{sale.word('phone')} {sale.shop.phone}", "plain"),
    ]


def signed_off(sale: Sale, rng: random.Random) -> list[Line]:
    """A greeting at the top; the shop's name comes last."""
    greeting = pick(rng, ("* * * * * * * *", sale.word("thanks"), sale.word("receipt").upper()))
    return [
        (greeting, "plain"),
        (f"{sale.time}  {sale.written_day}  #{sale.number}", "date"),
        *basket(sale),
        *sums(sale),
        *paid(sale, rng),
        (sale.shop.name, "company"),
        (sale.shop.street, "plain"),
    ]


def voucher(sale: Sale, rng: random.Random) -> list[Line]:
    """A second date, until which a voucher is valid, and points that look like an amount."""
    until = write_day(sale.day + timedelta(days=whole(rng, 20, 120)), sale.date_form)
    return [
        *head(sale)[:2],
        (f"{sale.word('receipt')} {sale.number} {sale.written_day}", "date"),
        *basket(sale),
        *sums(sale),
        (f"BONUS +{sale.total // 100} P = {whole(rng, 100, 9999)} P", "plain"),
        (f"{sale.word('until')} {until}", "plain"),
    ]


def two_line_name(sale: Sale, rng: random.Random) -> list[Line]:
    """The name broken over two lines, the address on one, a short till."""
    first, _, rest = sale.shop.name.partition(" ")
    return [
        (first, "company"),
        (rest, "company"),
        (f"{sale.shop.street} - {sale.shop.town}", "plain"),
        (sale.shop.tax_id, "plain"),
        (f"{sale.word('date')}:{sale.written_day} {sale.word('cashier')}:{whole(rng, 1, 9)}", "date"),
        *basket(sale),
        *sums(sale),
    ]


LAYOUTS: tuple[Callable[[Sale, random.Random], list[Line]], ...] = (
    supermarket,
    card_slip,
    restaurant,
    fuel,
    invoice,
    columns,
    signed_off,
    voucher,
    two_line_name,
)


def misread(text: str, share: float, rng: random.Random) -> str:
    """Some letters read as digits and some digits as letters, as readers of print confuse them."""
    swaps = {**TO_DIGIT, **TO_LETTER}
    return "".join(swaps[sign] if sign in swaps and rng.random() < share else sign for sign in text)


def misspace(text: str, share: float, rng: random.Random) -> str:
    """Some gaps between words widened, some closed."""
    return re.sub(" ", lambda _: pick(rng, ("  ", "    ", "")) if rng.random() < share else " ", text)


def read_line(line: Line, share: float, rng: random.Random) -> str:
    """The line as it is read. `share` is the part of the characters at risk that go wrong.

    Totals and dates keep their digits, and names lose fewer characters, so that every field can be told.
    """
    text, kind = line
    if kind in ("total", "date"):
        return re.sub("(?<=[^ \\d]) (?=[^ ]|$)", lambda _: pick(rng, (" ", "  ", "   ")), text)
    if kind == "company":
        return misread(text, share / 3, rng)
    dirt = pick(rng, (".", "'", "|", "~", "_")) if rng.random() < share / 2 else ""
    return misspace(misread(text, share, rng), share, rng) + dirt


def make_row(shops: Sequence[Sequence[Shop]], rng: random.Random) -> dict[str, object] | None:
    """One receipt with its fields, or None where the layout came out too short or too long."""
    sale = make_sale(pick(rng, pick(rng, shops)), rng)
    lines = pick(rng, LAYOUTS)(sale, rng)
    share = pick(rng, (0.0, 0.04, 0.04, 0.1, 0.2))
    if not MIN_LINES <= len(lines) <= MAX_LINES:
        return None
    return {
        "input": "\n".join(read_line(line, share, rng) for line in lines),
        "output": {
            "company": sale.shop.name,
            "date": sale.day.isoformat(),
            "total": f"{sale.total // 100}.{sale.total % 100:02}",
            "currency": sale.shop.place.currency,
        },
    }


def make_file(name: str) -> str:
    """The whole text of train.jsonl (`train`) or test.jsonl (`test`), one row a line."""
    rng = random.Random(SEEDS[name])
    shops = make_shops()
    rows: list[dict[str, object]] = []
    while len(rows) < COUNTS[name]:
        row = make_row(shops, rng)
        if row is not None:
            rows.append(row)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in SEEDS:
        sys.exit(f"usage: python make_rows.py {'|'.join(SEEDS)}")
    sys.stdout.buffer.write(make_file(sys.argv[1]).encode())
