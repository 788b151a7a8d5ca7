"""The forms of boasting, promises, wishes, work, gifts and small animals.

The package explains their slots and signs, and has them all in `SENTENCES`.
"""

DEEDS = {
    "boast": (
        '"I am (faster|stronger|better) than you, {B}," {said} in a proud voice.',
        "{a} was proud and told {b} that nobody could run faster.",
        "Proud as ever, {a} boasted and laughed at {b}.",
        "{a} was proud and showed {b} how far {he} could jump, and laughed at others.",
        '"You will never be as (fast|strong) as I am, {B}," {said}, proud as {he} was.',
        "{a} was so proud that {he} called {b} a snail.",
    ),
    "race": (
        "So {both} ran a race {in}.",
        '"Let us have a race, {B}," {said}.',
        "{a} wanted to see that and asked {b} for a race.",
        '"First one at the big stone wins, {B}," {said}.',
        '"Show me how fast you are, {B}," {said}, and they began to race.',
        "{both} lined up for a race.",
    ),
    "win": (
        "{a} won the race, and {B} came in last.",
        "But {B} looked back, (tripped|stumbled), and {a} won the race.",
        "{a} ran and ran and won the race against {b}.",
        "{a} was faster and won the race, and {B} was left behind.",
        "In the race {a} came first, far in front of {b}.",
        "{a} crossed the line first and had won the race against {b}.",
    ),
    "promise": (
        '"I promise to {errand} for you, {B}," {said}.',
        "{a} promised {b} to {errand}.",
        "{a} gave {b} {his} word to {errand} later.",
        '"Today I will {errand} for you, {B}, I promise," {said}.',
        '"You have my word, {B}, I will {errand}," {said}.',
        "{a} told {b} that {he} would {errand}, and that was a promise.",
    ),
    "forget": (
        "But {a} was forgetful and soon thought of other things.",
        "But {a} forgot the promise, forgetful as {he} was.",
        "Forgetful as ever, {a} (fell asleep|chased a fly) instead.",
        "But then {a}, forgetful as ever, thought of something else.",
        "But the head of {A} was full of other things, and, being forgetful, {he} did nothing.",
        "But {a} was so forgetful that the promise was soon out of {his} mind.",
    ),
    "wait": (
        "{a} waited and waited, but nothing happened.",
        "{a} waited in vain for {b}.",
        "For a long time {a} sat there and waited for {b}.",
        "{a} sat on a stone and waited, but {B} did nothing.",
        "One hour went by, and {a} still waited for {b}.",
        "{a} looked at {b} and waited, but in vain.",
    ),
    "remind": (
        '"You made me a promise, {B}," {said}.',
        "<next>{a} reminded {b} of the promise.",
        '"Have you forgotten your promise, {B}?" {asked}.',
        '"Did you not want to do something for me, {B}?" {asked}.',
        "<next>{a} asked {b} what had become of the promise.",
        '"What about your promise, {B}?" {asked}.',
    ),
    "keep": (
        "{a} kept {his} word and {errands} for {b}.",
        "As {he} had promised, {a} {errands} for {b}.",
        "Then {a} {errands} for {b}, better late than never.",
        "At last {a} {errands} for {b}, just as it had been promised.",
        "{a} made good on the promise and {errands} for {b}.",
        "{a} did not waste any time and {errands} for {b}.",
    ),
    "wish": (
        '"I wish I had {an} like yours, {B}," {said}.',
        "{B}'s {n} was so nice that {a} wished for one too.",
        "More than anything, {a} wished for {an} like {B}'s.",
        '"How lucky you are, {B}, I have always wanted {an}," {said}.',
        "{a} could not take {his} eyes off {B}'s {n} and wished for one like it.",
        "{a} dreamed of having {an} like {B}'s.",
    ),
    "busy": (
        "Now {a} had to {chore}.",
        "{a} had to {chore}, and it was hard work.",
        '"I still have to {chore}," {said}.',
        "{a} had come to {chore}, and the work was not done yet.",
        "{a} had work to do and started to {chore}.",
        '"Before I can play, I have to {chore}," {said}.',
        "{a} sighed, <for> {he} had to {chore}.",
        "{a} was told to {chore}.",
    ),
    "ask_work": (
        '"Will you help me to {chore}, {B}?" {asked}.',
        "<next>{a} asked {b} to help {him} {chore}.",
        '"It is too much for one, {B}, will you help me {chore}?" {asked}.',
        "<next>{a} had to {chore} and asked {b} to lend a hand.",
        '"Please, {B}, help me {chore}," {said}.',
    ),
    "shirk": (
        "But {a} was lazy and (lay down|did not lift a finger|closed {his} eyes).",
        '"I am too lazy to {chore}, {B}," {said}.',
        "Lazy as ever, {a} (yawned and lay down|said no and took a nap).",
        "But {a} was lazy and said that {he} was too tired.",
        '"Do it yourself, {B}," {said}, lazy as {he} was.',
        "But {a} was so lazy that {he} only watched.",
    ),
    "toil": (
        "So {a} had to {chore} all alone.",
        "{a} did it without any help and was <very> tired (afterwards|at the end).",
        "{a} worked alone until the last bit was done.",
        "With aching arms, {a} finished the work alone.",
    ),
    "work": (
        "It was a lot of work to {chore}, but {a} helped {b}.",
        '"I will help you to {chore}, {B}," {said}.',
        "<so>{a} rolled up {his} sleeves and helped {b} to {chore}.",
        "With {b}, {a} set to work to {chore}, and (soon |)it was done.",
        '"Many hands make light work, {B}, I will help you to {chore}," {said}.',
        "{a} did not mind work and helped {b} to {chore}.",
        "<so>{a} helped {b} to {chore} until it was done.",
    ),
    "make_good": (
        "To make up for it, {a} did {b} a (favour|good turn).",
        "<so>{a} wanted to make it good and was extra nice to {b}.",
        "<so>{a} thought of something nice to do for {b} and did it.",
        "From then on, {a} was as helpful to {b} as could be.",
    ),
    "gift": (
        "<so>{a} gave {t} to {b} to keep.",
        '"You helped me, {B}, so you may keep {T}," {said}.',
        '"You have earned {T}, {B}," {said}.',
        '"Take {T}, {B}, you have worked for it," {said}.',
        "<so>{a} wanted {b} to have {t} for ever.",
        "As a thank you, {a} gave {t} to {b} for good.",
        '"You can keep {T}, {B}," {said}.',
    ),
    "pity:bird": (
        "{a} saw a little bird that had fallen out of its nest.",
        "A tiny bird lay on the ground {in} and cheeped, and {a} heard it.",
    ),
    "pity:snail": (
        "{a} saw a snail in the middle of the path, where somebody might step on it.",
        "A slow snail sat right in the way, and {a} almost stepped on it.",
    ),
    "pity:bee": (
        "{a} saw a bee that had fallen into the water of a puddle.",
        "A wet bee lay in a puddle, and {a} saw how it struggled.",
    ),
    "pity:lamb": (
        "{a} heard a lamb that was caught in the thorns.",
        "A white lamb bleated in a thorn bush, and {a} felt sorry for it.",
    ),
    "pity:turtle": (
        "{a} saw a turtle that lay helpless on its back.",
        "An old turtle had rolled onto its back, and {a} felt sorry for it.",
    ),
    "pity:beetle": (
        "{a} saw a shiny beetle in a jar without air.",
        "Somebody had shut a beetle up in a jar, and {a} felt sorry for it.",
    ),
    "pity:butterfly": (
        "{a} saw a butterfly in a spider's web.",
        "A bright butterfly was caught in a web, and {a} saw it flutter.",
    ),
    "pity:kitten": (
        "{a} heard a kitten that was shut up in a box.",
        "A kitten mewed in an old box, and {a} felt sorry for it.",
    ),
    "free:bird": (
        "With gentle hands, {a} put the bird back into its nest.",
        "{a} was gentle and lifted the bird up to its mother.",
    ),
    "free:snail": (
        "With gentle fingers, {a} carried the snail into the green leaves.",
        "{a} was gentle and set the snail down where it was safe.",
    ),
    "free:bee": (
        "With a leaf, {a} was gentle and helped the bee out of the water.",
        "Gentle as ever, {a} lifted the bee out and let it dry.",
    ),
    "free:lamb": (
        "With gentle hands, {a} bent the thorns back and freed the lamb.",
        "{a} was gentle and freed the lamb without a scratch.",
    ),
    "free:turtle": (
        "With gentle hands, {a} turned the turtle over.",
        "{a} was gentle and helped the turtle onto its feet.",
    ),
    "free:beetle": (
        "With gentle fingers, {a} let the beetle out of the jar.",
        "{a} was gentle and set the beetle on a leaf.",
    ),
    "free:butterfly": (
        "With gentle fingers, {a} freed the butterfly from the web.",
        "{a} was gentle, and not a wing was torn as the butterfly came free.",
    ),
    "free:kitten": (
        "With gentle hands, {a} lifted the kitten out of the box.",
        "{a} was gentle and stroked the kitten until it purred.",
    ),
}
