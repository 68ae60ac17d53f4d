"""The people, articles and addresses that stand for the terse words where the desk speaks realistically.

They stand in the order of the terse ones. No name of an article contains another.
"""

from __future__ import annotations

from agito.envs.desk.words import CUSTOMERS, ITEMS, PLACES

_PEOPLE = (
    "Maria Lopez",
    "James Okafor",
    "Hannah Weiss",
    "Kenji Sato",
    "Amelia Brooks",
    "Omar Haddad",
    "Ingrid Larsen",
    "Mateo Rossi",
    "Priya Nair",
    "Lucas Moreau",
    "Chloe Bennett",
    "Tomasz Nowak",
    "Aisha Rahman",
    "Daniel Fischer",
    "Elena Petrova",
    "Samuel Wright",
    "Yara Mansour",
    "Jonas Berg",
    "Grace Mbeki",
    "Victor Almeida",
    "Nina Kovac",
    "Peter Lindqvist",
    "Leila Farahani",
    "Owen Gallagher",
)
_ARTICLES = {
    "LAMP": "desk lamp",
    "KETL": "electric kettle",
    "BOOT": "hiking boots",
    "TENT": "two-person tent",
    "MOUS": "wireless mouse",
    "HEAD": "headphones",
    "RUGS": "wool rug",
    "CHRS": "office chair",
    "PANS": "frying pan",
    "BAGS": "laptop bag",
    "CLCK": "wall clock",
    "TOWL": "bath towels",
    "BIKE": "bicycle pump",
    "GLAS": "wine glasses",
    "SHRT": "linen shirt",
    "COAT": "rain jacket",
    "WTCH": "running watch",
    "KNIF": "bread knife",
    "YOGA": "yoga mat",
    "CAMR": "action camera",
    "BLND": "hand blender",
    "PILW": "feather pillow",
    "DRIL": "cordless drill",
    "SHLF": "book shelf",
}
_ADDRESSES = (
    "14 Mill Lane, Oxford",
    "7 Harbour Street, Cork",
    "221 Elm Avenue, Boston",
    "3 Rue des Lilas, Lyon",
    "58 Lindenweg, Bremen",
    "90 Queen Street, Glasgow",
    "12 Via Roma, Turin",
    "45 Station Road, York",
    "6 Kirkegata, Bergen",
    "133 Cedar Drive, Denver",
    "27 Calle Mayor, Toledo",
    "81 Park Row, Leeds",
    "19 Prinsengracht, Utrecht",
    "302 Maple Court, Austin",
    "5 Church Hill, Galway",
    "64 Rua do Sol, Porto",
)


def email_of(person: str) -> str:
    return f"{person.lower().replace(' ', '.')}@example.com"


PERSON = dict(zip(CUSTOMERS, _PEOPLE, strict=True))
ARTICLE = dict(zip(ITEMS, _ARTICLES.values(), strict=True))
CODE = dict(zip(ITEMS, _ARTICLES, strict=True))
ADDRESS = dict(zip(PLACES, _ADDRESSES, strict=True))
