"""The forms of lending and sharing, and of quarrels and apologies.

The package explains their slots and signs, and has them all in `SENTENCES`.
"""

QUARRELS = {
    "ask_borrow": (
        '"May I play with {T}, {B}?" {asked}.',
        '"(Can I|Could I|May I) have a turn with {T}, {B}?" {asked}.',
        "{B}'s {n} looked like so much fun that {a} asked for a turn.",
        '"Will you lend me {T}, {B}?" {asked}.',
        "<next>{a} asked {b} if {he} could borrow {t}.",
        "<next>{a} pointed at {t} and asked {b} for a turn.",
        '"That looks like fun, {B}, may I try {T}?" {asked}.',
        '"Please, {B}, can I have {T} for a while?" {asked}.',
        "<next>{a} had never had such a thing and asked {b} for {t}.",
    ),
    "lend": (
        "<so>{a} was (glad|happy) to lend {t} to {b}.",
        '"(Yes|Of course|Sure), you may play with {T}, {B}," {said}.',
        '"Here, {B}, take {T}," {said}.',
        '"Take good care of {T}, {B}," {said} and lent it gladly.',
        "<so>{a} put {t} into the hands of {b} for a while.",
        '"You can have {T} until we go home, {B}," {said}.',
        "<so>{a} nodded and let {b} borrow {t}.",
    ),
    "refuse": (
        '"No, {B}, you can not have {T}," {said}.',
        "But {a} was greedy and did not want to share {t} with {b}.",
        '"I never share {T}, {B}," {said}.',
        "{a} was too greedy to let {b} have {t} (for a moment|even once).",
        "{a} was greedy, held {t} tight and told {b} to go away.",
        '"Go away, {B}, I do not share {T}," {said}.',
        "Greedy as ever, {a} hid {t} behind {his} back and said no to {b}.",
        '"Get your own, {B}, I keep {T}," {said}.',
    ),
    "cross": (
        "<next>{a} was (cross|angry) with {b}.",
        '"That was not nice of you, {B}," {said}.',
        '"How could you do that, {B}?" {asked}.',
        "<next>{a} (frowned|stamped a foot) and would not look at {b}.",
        "<next>{a} turned {his} back on {b}.",
        '"I am angry with you, {B}," {said}.',
        "<next>{a} told {b} how angry {he} was.",
        '"Why did you do that, {B}?" {asked}.',
    ),
    "walk_off": (
        "<next>{a} turned around and went {to} alone.",
        "<next>{a} was hurt and walked {to} alone.",
        "Without a word, {a} left and went {to}.",
        "<next>{a} did not want to stay any longer and went {to} alone.",
        "<next>{a} ran away, all the way {to}.",
        "With tears in {his} eyes, {a} walked {to} alone.",
    ),
    "lonely": (
        "{a} played with {t} alone, but it was no fun.",
        "Now {a} had {t} but nobody to play with.",
        "Alone with {o}, {a} felt (bored|lonely|rather silly).",
        "{a} soon found that it was no fun to be alone with {t}.",
        "Nobody was left to play with, and {a} put {t} down.",
    ),
    "follow": (
        "<so>{a} went {to} to find {b}.",
        "<so>{a} ran after {b} {to}.",
        "<at last> {a} followed {b} {to}.",
        "<so>{a} could not bear it any longer and went after {b} {to}.",
        "<so>{a} looked for {b} and came {to}.",
        "Feeling bad, {a} hurried after {b} {to}.",
    ),
    "own_up": (
        "<next>{a} was honest and (told {b} at once|did not hide it from {b}).",
        '"I have to be honest, {B}, it was me," {said}.',
        "Honest as {he} was, {a} went straight to {b} (and told everything|with the news).",
        "<next>{a} could have kept quiet, but {he} was honest and (faced|looked at) {b}.",
        '"I am honest, {B}, so I tell you that it was my fault," {said}.',
    ),
    "sorry:lost": (
        '"<sorry> that I lost {T}, {B}," {said}.',
        "{a} (told {b} how sorry {he} was|said sorry to {b}) for losing {t}.",
    ),
    "sorry:broken": (
        '"<sorry> that I broke {T}, {B}," {said}.',
        "{a} (told {b} how sorry {he} was|said sorry to {b}) for breaking {t}.",
    ),
    "sorry:stuck": (
        '"<sorry> that I threw {T} so high, {B}," {said}.',
        "{a} (told {b} how sorry {he} was|said sorry to {b}) for throwing {t} so high.",
    ),
    "sorry:muddy": (
        '"<sorry> that I got {T} so muddy, {B}," {said}.',
        "{a} (told {b} how sorry {he} was|said sorry to {b}) for the mud on {t}.",
    ),
    "sorry:torn": (
        '"<sorry> that I tore {T}, {B}," {said}.',
        "{a} (told {b} how sorry {he} was|said sorry to {b}) for tearing {t}.",
    ),
    "sorry:adrift": (
        '"<sorry> that I dropped {T} in the water, {B}," {said}.',
        "{a} (told {b} how sorry {he} was|said sorry to {b}) for dropping {t} in the water.",
    ),
    "sorry:hidden": (
        '"<sorry> that I hid {T}, {B}," {said}.',
        "{a} (told {b} how sorry {he} was|said sorry to {b}) for hiding {t}.",
    ),
    "sorry:refuse": (
        '"<sorry> that I did not share {T}, {B}," {said}.',
        "{a} (told {b} how sorry {he} was|said sorry to {b}) for not sharing {t}.",
    ),
    "sorry:gobble": (
        '"<sorry> that I ate {T}, {B}," {said}.',
        "{a} (told {b} how sorry {he} was|said sorry to {b}) for eating {t}.",
    ),
    "sorry:boast": (
        '"<sorry> that I boasted so much, {B}," {said}.',
        "{a} (told {b} how sorry {he} was|said sorry to {b}) for the boasting.",
    ),
    "sorry:forget": (
        '"<sorry> that I forgot my promise, {B}," {said}.',
        "{a} (told {b} how sorry {he} was|said sorry to {b}) for forgetting the promise.",
    ),
    "sorry:shirk": (
        '"<sorry> that I was so lazy, {B}," {said}.',
        "{a} (told {b} how sorry {he} was|said sorry to {b}) for being lazy.",
    ),
    "forgive": (
        '"I forgive you, {B}," {said}.',
        '"(That is|It is) all right, {B}," {said}.',
        "<so>{a} forgave {b}.",
        "<so>{a} (smiled|nodded) and (shook hands with {b}|gave {b} a hug).",
        '"Let us be friends again, {B}," {said}.',
        "<so>{a} could not be angry with {b} any longer.",
        '"Never mind, {B}," {said}.',
        '"It is forgotten, {B}," {said}.',
        "<so>{a} held out a hand to {b}, and all was well.",
        '"Everybody makes mistakes, {B}," {said}.',
    ),
    "unforgive": (
        "But {a} could not forgive {b} yet.",
        "But {a} shook {his} head and did not want to hear {b}.",
        '"Sorry is not enough, {B}," {said}.',
        "{a} was still too hurt to forgive {b}.",
        '"I do not want to talk to you, {B}," {said}.',
        "But {a} walked past {b} as if nobody was there.",
    ),
    "share": (
        "<so>{a} shared {t} with {b}.",
        "Now {a} let {b} play with {t} too.",
        "After that, {a} let {b} have a turn with {t}.",
        '"Now you have a turn with {T}, {B}," {said}.',
        "This time {a} let {b} have {t} first.",
        "<so>{a} smiled and held {t} out to {b} to share it.",
    ),
}
