"""The vocabulary of the stories: names, creatures, traits, things and places.

There are few of each, so that a small model soon knows them all. The hard part is to remember which of them a story is
about.
"""


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GIRLS = _split("Mia Lily Anna Zoe Ruby Nora Ella Rosie Daisy Molly Emma Sue Kate Tina Lucy")
BOYS = _split("Tom Ben Max Sam Leo Jack Finn Tim Oscar Toby Hugo Peter Billy Noah Fred")
NAMES = GIRLS + BOYS
HE = dict.fromkeys(GIRLS, "she") | dict.fromkeys(BOYS, "he")
HIM = dict.fromkeys(GIRLS, "her") | dict.fromkeys(BOYS, "him")
HIS = dict.fromkeys(GIRLS, "her") | dict.fromkeys(BOYS, "his")
CHILD = dict.fromkeys(GIRLS, "girl") | dict.fromkeys(BOYS, "boy")
ANIMALS = _split("rabbit bear fox mouse duck cat dog frog squirrel pig")

# A trait is a cause: only careless characters leave things behind, only greedy ones refuse to share, only timid ones
# fear the weather, only cheeky ones play tricks. The number is the weight of the trait in a random choice.
TRAITS = dict.fromkeys(_split("careless greedy timid cheeky"), 2)
TRAITS |= dict.fromkeys(_split("kind brave cheerful clever gentle"), 1)
CARES = frozenset(_split("careless greedy"))  # these traits show in the treatment of one's own toy
TRICKS = frozenset(_split("cheeky"))  # these traits show in the treatment of another's toy

TOYS = _split(
    "ball kite doll drum boat car train robot puppet hoop scarf hat cap bucket cup book bell "
    "whistle flute lantern umbrella balloon blanket ring shell feather clock crown wand mask "
    "brush map"
)
FRAGILE = frozenset(
    _split(
        "kite doll drum boat car train robot puppet cup flute lantern umbrella clock crown wand "
        "mask"
    )
)
LIGHT = frozenset(_split("kite scarf hat cap balloon feather map mask umbrella"))
THROWN = frozenset(_split("ball kite hoop hat cap balloon boat ring doll scarf"))
FOODS = _split("cake pie bun pear melon cookie sandwich pancake")
COLOURS = _split("red blue green yellow white pink purple brown")
TASTES = _split("big sweet warm fresh")

PLACES = {  # place -> the phrase for being there
    "garden": "in the garden",
    "park": "in the park",
    "forest": "in the forest",
    "barn": "in the barn",
    "meadow": "in the meadow",
    "orchard": "in the orchard",
    "village": "in the village",
    "valley": "in the valley",
    "field": "in the field",
    "town": "in the town",
    "cave": "in the cave",
    "beach": "at the beach",
    "market": "at the market",
    "school": "at the school",
    "farm": "at the farm",
    "castle": "at the castle",
    "mill": "at the mill",
    "playground": "at the playground",
    "fair": "at the fair",
    "zoo": "at the zoo",
    "river": "by the river",
    "lake": "by the lake",
    "pond": "by the pond",
    "sea": "by the sea",
    "hill": "on the hill",
    "stream": "by the stream",
    "island": "on the island",
}
SPOTS = (  # their first words differ
    "under the bench", "behind the big tree", "deep in the tall grass", "beside the well",
    "among the leaves", "between the rocks", "inside the hollow log", "below the steps",
    "beneath the cart", "near the gate", "next to the shed", "close to the fence",
    "underneath the table", "down in the straw", "outside the hut", "beyond the bushes",
)  # fmt: skip
HEIGHTS = ("in the old oak", "on the roof", "on the high shelf", "in the tall pine")
WEATHER = _split("rain snow thunder wind fog")
LIMBS = _split("knee foot arm nose")
CHORES = (
    "carry the wood", "water the flowers", "wash the plates", "paint the door",
    "pick the apples", "feed the hens", "sweep the yard", "plant the seeds",
)  # fmt: skip
