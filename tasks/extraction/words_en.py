"""The English lists. Towns and companies are put together; any likeness to real ones is chance."""

from __future__ import annotations

from .lexicon import Words

WORDS = Words(
    surnames=(
        "Abernathy", "Aldous", "Ashworth", "Bancroft", "Barlow", "Beckett", "Bexley", "Birch", "Blackwood", "Brandt",
        "Calder", "Carrow", "Castell", "Chaudhry", "Crane", "Dalloway", "Darrow", "Delgado", "Denholm", "Drummond",
        "Eastwick", "Ellery", "Fairbank", "Farrow", "Fenwick", "Finch", "Forsythe", "Garrick", "Glover", "Greaves",
        "Hadley", "Halloran", "Harding", "Hastings", "Haverford", "Holloway", "Ibarra", "Ingram", "Jarvis", "Keating",
        "Kessler", "Kirkland", "Lambert", "Langley", "Lockhart", "Lowell", "Maddox", "Marlow", "Mercer", "Moreau",
        "Nakata", "Norwood", "Novak", "Oakes", "Okafor", "Orwell", "Paxton", "Pembroke", "Petrov", "Quill",
        "Radcliffe", "Ramsey", "Reyes", "Ridley", "Rosen", "Salter", "Sandoval", "Sinclair", "Stroud", "Thackeray",
        "Thorne", "Tillman", "Underhill", "Vance", "Varga", "Wadsworth", "Wexler", "Whitlock", "Winslow", "Yardley",
    ),
    given_names=(
        "Adam", "Alice", "Amir", "Anna", "Ben", "Carla", "Clara", "Daniel", "David", "Dora", "Edith", "Elena", "Emma",
        "Felix", "Frank", "Grace", "Hana", "Harold", "Helen", "Ivan", "Jack", "James", "Jane", "Joel", "Julia", "Karen",
        "Laura", "Leo", "Lucas", "Maria", "Mark", "Martin", "Maya", "Nina", "Noah", "Oscar", "Paul", "Peter", "Rachel",
        "Robert", "Rosa", "Ruth", "Samuel", "Sara", "Simon", "Tara", "Thomas", "Victor", "Walter", "Wendy",
    ),
    name_order="{given} {surname}",
    town_beginnings=(
        "Ald", "Ash", "Bram", "Brook", "Carn", "Cold", "Dun", "East", "Fern", "Green", "Hazel", "Kel", "Lark", "Mill",
        "Nor", "Oak", "Pen", "Raven", "Stone", "Wind",
    ),
    town_ends=("bury", "combe", "dale", "field", "ford", "gate", "ham", "haven", "hill", "mere", "port", "wick"),
    quarters=(
        "Bridge Street", "Canal Road", "Castle Lane", "Chapel Street", "Elm Avenue", "Harbour Road", "High Street",
        "Kiln Lane", "Market Square", "Mill Road", "Orchard Way", "Park Row", "Quay Street", "Station Road",
    ),
    quarter_order="{quarter}, {town}",
    address_order="{number} {quarter}, {town}",
    company_beginnings=(
        "Alder", "Beacon", "Bluebell", "Cedar", "Copper", "Delta", "Ember", "Falcon", "Harbour", "Juniper", "Lantern",
        "Maple", "Meridian", "Northern", "Orchid", "Pioneer", "Quarry", "Silverline", "Sparrow", "Summit",
    ),
    company_ends=(
        "Bakery", "Builders", "Clinic", "Electronics", "Foods", "Freight", "Garage", "Insurance", "Logistics", "Motors",
        "Printing", "Textiles",
    ),
    company_order="{beginning} {end}",
    police=("{stem} Police", "{stem} Central Police", "{stem} Police Department"),
    positions=(
        "accountant", "architect", "baker", "bookkeeper", "branch manager", "carpenter", "cashier", "clerk", "cook",
        "courier", "director", "driver", "electrician", "engineer", "estate agent", "gardener", "lecturer", "mechanic",
        "nurse", "office worker", "painter", "sales manager", "security guard", "teacher", "technician", "warehouse worker",
    ),
    acts=(
        ("theft", "tools were taken from a locked shed"),
        ("burglary", "a window was forced at night and jewellery was taken"),
        ("shoplifting", "cosmetics were carried out of a shop without paying"),
        ("fraud", "elderly residents were talked into paying for repairs that were never made"),
        ("embezzlement", "money was moved from the books of a club over two years"),
        ("arson", "a parked van and a fence were set on fire"),
        ("vandalism", "the windows of a bus shelter were smashed"),
        ("trespassing", "somebody climbed into a closed power station"),
        ("assault", "a passer-by was struck during a quarrel"),
        ("robbery", "a shop assistant was threatened and the till was emptied"),
        ("drink-driving", "a car left the road and hit a lamp post"),
        ("dangerous driving", "a lorry passed three red lights"),
        ("forgery", "false certificates were sold over the internet"),
        ("bribery", "an inspector was offered money for a permit"),
        ("illegal dumping", "forty tyres were left in a wood"),
        ("unauthorised access", "a school's computers were entered with a stolen password"),
        ("tax evasion", "income from rents was not declared"),
        ("smuggling", "cigarettes were found behind a false wall"),
    ),
)  # fmt: skip
