"""The vocabulary of the stories: names, creatures, traits, things and places, and which of them fit together.

A feature such as "trees" or "water" joins a place to the spots, heights, shelters and chores that exist there.
"""


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Characters.

GIRLS = _split(
    "Mia Lily Anna Zoe Ruby Nora Ella Rosie Daisy Molly Emma Sue Kate Tina Lucy Clara Ivy Hazel "
    "Jane Bella Greta Nina Paula Vera Wendy"
)
BOYS = _split(
    "Tom Ben Max Sam Leo Jack Finn Tim Oscar Toby Hugo Peter Billy Noah Fred Adam Carl Dan Felix "
    "George Henry Ned Otto Paul Victor"
)
NAMES = GIRLS + BOYS
MIXED_NAMES = tuple(name for both in zip(GIRLS, BOYS, strict=True) for name in both)
"""Those of girls and boys in turn, so that the first few have both."""
HE = dict.fromkeys(GIRLS, "she") | dict.fromkeys(BOYS, "he")
HIM = dict.fromkeys(GIRLS, "her") | dict.fromkeys(BOYS, "him")
HIS = dict.fromkeys(GIRLS, "her") | dict.fromkeys(BOYS, "his")
CHILDREN = {"girl": GIRLS, "princess": GIRLS, "boy": BOYS, "prince": BOYS}
"""The names of each kind of child."""
ANIMALS = _split(
    "rabbit bear fox mouse duck cat dog frog squirrel pig hedgehog owl otter badger goat beaver"
)
CREATURES = (*CHILDREN, *ANIMALS)

FAULTS = _split("careless greedy timid cheeky proud lazy forgetful shy curious daring")
"""Traits that make something go wrong."""
VIRTUES = _split("kind cheerful brave clever patient honest gentle")
"""Traits that show when something has gone wrong."""
TRAITS = FAULTS + VIRTUES
LOOKS = _split("little young small")
"""Words before a creature without a trait. They mean nothing for the story."""
LIMBS = _split("knee foot arm nose elbow ankle hand toe")

# Things.

TOYS = _split(
    "ball kite doll drum boat car train robot puppet hoop scarf hat cap bucket cup book bell "
    "whistle flute lantern umbrella balloon blanket ring shell feather clock crown wand mask "
    "brush map teddy violin trumpet wagon spade basket flag cloak marble telescope compass "
    "necklace frisbee rattle pillow shield plane truck tambourine"
)
FRAGILE = frozenset(
    _split(
        "kite drum boat car train robot puppet cup flute lantern umbrella clock crown wand mask "
        "violin trumpet wagon telescope compass necklace rattle shield plane truck tambourine "
        "whistle bell"
    )
)
CLOTH = frozenset(
    _split("kite doll puppet scarf hat cap book umbrella blanket map teddy flag cloak pillow mask")
)
"""Things that can tear."""
LIGHT = frozenset(_split("kite scarf hat cap balloon feather map mask umbrella flag plane"))
"""Things that the wind can blow away."""
THROWN = frozenset(_split("ball kite hoop hat cap balloon ring doll scarf frisbee teddy plane"))
WASHABLE = frozenset(
    _split(
        "ball doll scarf hat cap bucket cup blanket boat car train wagon teddy cloak flag pillow "
        "mask shell spade basket truck robot hoop frisbee puppet ring"
    )
)
FLOATING = frozenset(
    _split("ball boat balloon hat cap bucket feather hoop basket frisbee doll teddy plane")
)
COLOURS = _split(
    "red blue green yellow white pink purple brown orange black silver golden grey striped"
)

FRUITS = _split("pear melon apple plum peach banana apricot")
BAKED = _split(
    "cake pie bun cookie sandwich pancake muffin waffle tart biscuit pretzel doughnut dumpling"
)
FOODS = FRUITS + BAKED
TASTES_OF = dict.fromkeys(FRUITS, _split("big sweet fresh ripe juicy")) | dict.fromkeys(
    BAKED, _split("big sweet warm fresh tasty delicious")
)
TASTES = tuple(dict.fromkeys(taste for tastes in TASTES_OF.values() for taste in tastes))

# Places.

_PLACES = {  # place: the preposition, and the features
    "garden": ("in", "trees grass shed"),
    "park": ("in", "trees grass bench"),
    "forest": ("in", "trees stones"),
    "clearing": ("in", "trees grass"),
    "barn": ("in", "straw"),
    "stable": ("in", "straw"),
    "meadow": ("in", "grass"),
    "orchard": ("in", "trees grass"),
    "village": ("in", "houses"),
    "valley": ("in", "grass stones"),
    "field": ("in", "grass"),
    "town": ("in", "houses bench"),
    "cave": ("in", "stones"),
    "beach": ("at", "sand water"),
    "market": ("at", "stalls houses"),
    "school": ("at", "houses bench"),
    "farm": ("at", "straw houses"),
    "castle": ("at", "houses stones"),
    "mill": ("at", "houses straw"),
    "playground": ("at", "bench trees"),
    "fair": ("at", "stalls grass"),
    "zoo": ("at", "bench trees"),
    "campsite": ("at", "trees grass"),
    "station": ("at", "houses bench"),
    "harbour": ("at", "houses water"),
    "lighthouse": ("at", "stones water"),
    "river": ("by", "water grass"),
    "lake": ("by", "water trees"),
    "pond": ("by", "water grass"),
    "sea": ("by", "sand water"),
    "stream": ("by", "water stones"),
    "waterfall": ("by", "water stones"),
    "fountain": ("by", "houses bench"),
    "hill": ("on", "grass stones"),
    "mountain": ("on", "stones"),
    "island": ("on", "trees water"),
}
PLACES = {place: f"{where} the {place}" for place, (where, _) in _PLACES.items()}
"""The phrase for being at each place."""
LIVELY = frozenset({"bench", "houses", "stalls", "sand"})
"""Features of places where other children play."""
FEATURES = {place: frozenset(features.split()) for place, (_, features) in _PLACES.items()}


def _by_phrase(by_feature: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {phrase: feature for feature, phrases in by_feature.items() for phrase in phrases}


SPOTS = _by_phrase({  # Where a thing can lie.
    "trees": ("behind the big tree", "among the fallen leaves", "inside the hollow log", "between the roots"),
    "grass": ("deep in the tall grass", "among the daisies", "beyond the bushes", "beside the molehill"),
    "stones": ("between the rocks", "under a flat stone", "in a dark hole", "behind the boulder"),
    "straw": ("down in the straw", "behind the hay bales", "under the ladder", "beneath the cart"),
    "bench": ("under the bench", "beside the hedge", "close to the fence"),
    "houses": ("below the steps", "beside the well", "near the gate", "behind the barrels"),
    "shed": ("next to the shed", "behind the wheelbarrow"),
    "stalls": ("underneath the table", "between the crates", "behind the sacks"),
    "water": ("among the reeds", "beside the jetty", "near the water's edge"),
    "sand": ("behind the dune", "beneath the driftwood", "beside the rock pool"),
})  # fmt: skip
HEIGHTS = _by_phrase({  # Where a thing can get stuck.
    "trees": ("in the old oak", "in the tall pine", "in the top of a beech"),
    "houses": ("on the roof", "on a chimney", "on the balcony"),
    "stones": ("on a ledge", "on the cliff"),
    "straw": ("on a high beam", "on the loft"),
    "bench": ("on the lamp post",),
    "stalls": ("on the awning",),
    "water": ("in the branches of a willow",),
})  # fmt: skip
SHELTERS = _by_phrase({  # Where one can wait for better weather.
    "trees": ("under the thick branches", "in a hollow tree"),
    "grass": ("under a hedge", "in a ditch"),
    "stones": ("under an overhang", "in a cleft of the rock"),
    "straw": ("in the hayloft", "under the low roof"),
    "bench": ("in a small hut",),
    "houses": ("in a doorway", "under an arch"),
    "shed": ("in the shed",),
    "stalls": ("under the canvas",),
    "water": ("under the old bridge",),
    "sand": ("in a beach hut",),
})  # fmt: skip
CHORES = _by_phrase({
    "trees": ("gather the firewood", "rake the leaves", "pick the nuts"),
    "grass": ("mow the grass", "pick the berries", "watch the sheep"),
    "stones": ("stack the stones", "clear the path"),
    "straw": ("feed the hens", "turn the hay", "brush the pony"),
    "bench": ("sweep the path", "pick up the litter"),
    "houses": ("wash the windows", "scrub the steps", "carry the parcels", "paint the door"),
    "shed": ("water the flowers", "plant the seeds", "pull the weeds"),
    "stalls": ("unpack the crates", "tidy the stall", "count the coins"),
    "water": ("fill the jugs", "clean the rowing boats"),
    "sand": ("collect the driftwood", "dry the nets"),
})  # fmt: skip


def fits(feature: str, place: str) -> bool:
    """Whether a place has a feature."""
    return feature in FEATURES[place]


# Weather and time.

WEATHER = _split("rain snow thunder wind fog hail")
TIMES = (
    "One day", "One morning", "One sunny day", "One sunny morning", "One fine day", "One warm morning", "One cold day",
    "One windy day", "One afternoon", "One quiet afternoon", "One summer day", "One autumn morning",
    "Early one morning", "One bright morning", "One cloudy day", "One hot afternoon",
)  # fmt: skip
"""When an outing begins."""
LATER = ("After lunch", "In the afternoon", "Later that day", "A little later", "After that")
"""When the outing goes on."""
HOURS = {"morning": 1, "lunch": 2, "Later": 2, "afternoon": 3}
"""The order of the times of a day, by a word of the phrase; 0 for others."""
IMPOSSIBLE = {  # a word of the phrase: weather that such a day does not have
    "warm": frozenset({"snow", "hail"}),
    "hot": frozenset({"snow", "hail"}),
    "summer": frozenset({"snow"}),
    "cold": frozenset({"thunder"}),
    "windy": frozenset({"wind", "fog"}),
    "sunny": frozenset({"snow", "fog"}),
}


def hour(phrase: str) -> int:
    """The time of day that a phrase states, 0 if it states none."""
    return next((HOURS[word] for word in phrase.split() if word in HOURS), 0)


# Promises, and small animals in need.

ERRANDS = {  # as it is promised: as it is done
    "sing a song": "sang a song",
    "tell a story": "told a story",
    "bring some flowers": "brought some flowers",
    "draw a picture": "drew a picture",
    "bring some lemonade": "brought some lemonade",
    "show a secret path": "showed a secret path",
    "teach a new game": "taught a new game",
    "build a den": "built a den",
    "dance a dance": "danced a dance",
    "make a daisy chain": "made a daisy chain",
}
SMALL = _split("bird snail bee lamb turtle beetle butterfly kitten")


def an(words: str) -> str:
    """The words with their indefinite article."""
    vowel = words[0] in "aeiou" or words.startswith("honest")
    return f"{'an' if vowel else 'a'} {words}"
