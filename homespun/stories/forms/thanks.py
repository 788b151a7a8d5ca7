"""The forms of thanks, one group for each kind of help.

The package explains their slots and signs, and has them all in `SENTENCES`.
"""

THANKS = {
    "thank:help": (
        '"<thanks> for your help, {B}!" {said}.',
        '"I could not have done it without you, {B}," {said}.',
        "<next>{a} thanked {b} for (all the help|the help).",
        "{a} was (glad|happy) that {B} had helped {him} and said so.",
        '"You are a real friend, {B}," {said}.',
        '"How good that you helped me, {B}," {said}.',
    ),
    "thank:find": (
        '"<thanks> for finding {T}, {B}!" {said}.',
        "<next>{a} thanked {b} for finding {t}.",
        '"You found {T}, {B}, how wonderful!" {said}.',
        "{a} hugged {b} for finding {t}.",
    ),
    "thank:mend": (
        '"<thanks> for mending {T}, {B}!" {said}.',
        "<next>{a} thanked {b} for mending {t}.",
        '"How well you mended {T}, {B}!" {said}.',
        "{a} hugged {b} for mending {t}.",
    ),
    "thank:get_down": (
        '"<thanks> for getting {T} down, {B}!" {said}.',
        "<next>{a} thanked {b} for getting {t} down.",
        '"You got {T} down, {B}, how wonderful!" {said}.',
        "{a} hugged {b} for getting {t} down.",
    ),
    "thank:wash": (
        '"<thanks> for washing {T}, {B}!" {said}.',
        "<next>{a} thanked {b} for washing {t}.",
        '"How clean {T} is, {B}, thank you!" {said}.',
        "{a} hugged {b} for washing {t}.",
    ),
    "thank:stitch": (
        '"<thanks> for sewing up {T}, {B}!" {said}.',
        "<next>{a} thanked {b} for sewing up {t}.",
        '"How well you sew, {B}, thank you!" {said}.',
        "{a} hugged {b} for sewing up {t}.",
    ),
    "thank:fish_out": (
        '"<thanks> for saving {T}, {B}!" {said}.',
        "<next>{a} thanked {b} for saving {t}.",
        '"You saved {T}, {B}, thank you!" {said}.',
        "{a} hugged {b} for saving {t}.",
    ),
    "thank:lend": (
        '"<thanks> for lending me {T}, {B}!" {said}.',
        "<next>{a} thanked {b} for lending {him} {t}.",
        '"It was good of you to lend me {T}, {B}!" {said}.',
    ),
    "thank:share": (
        '"<thanks> for sharing {T}, {B}!" {said}.',
        "<next>{a} thanked {b} for sharing {t}.",
        '"It is nice of you to share {T}, {B}!" {said}.',
    ),
    "thank:comfort": (
        '"<thanks> for staying with me, {B}!" {said}.',
        "<next>{a} thanked {b} for staying with {him}.",
        '"How good that you were with me, {B}!" {said}.',
        "{a} hugged {b} for staying with {him}.",
    ),
    "thank:feed": (
        '"<thanks> for the {n}, {B}!" {said}.',
        '"That was the best {n} of all, {B}!" {said}.',
        "<next>{a} thanked {b} for the {n}.",
        '"Now I am full, thank you, {B}!" {said}.',
        '"That was (good|kind) of you, {B}, I was so hungry!" {said}.',
    ),
    "thank:tend": (
        '"<thanks> for looking after me, {B}!" {said}.',
        "<next>{a} thanked {b} for looking after {him}.",
        '"It does not hurt any more, thank you, {B}!" {said}.',
        '"What a good doctor you are, {B}!" {said}.',
    ),
    "thank:guide": (
        '"<thanks> for showing me the way, {B}!" {said}.',
        "<next>{a} thanked {b} for showing {him} the way.",
        '"Without you I would still be lost, {B}!" {said}.',
        "{a} hugged {b} for showing {him} the way.",
    ),
    "thank:help_down": (
        '"<thanks> for helping me down, {B}!" {said}.',
        "<next>{a} thanked {b} for helping {him} down.",
        '"It is good to stand on the ground again, thank you, {B}!" {said}.',
        "{a} hugged {b} for helping {him} down.",
    ),
    "thank:warm": (
        '"<thanks> for keeping me warm, {B}!" {said}.',
        "<next>{a} thanked {b} for keeping {him} warm.",
        '"Now I am warm, thank you, {B}!" {said}.',
        "{a} hugged {b} for keeping {him} warm.",
    ),
    "thank:carry": (
        '"<thanks> for waiting for me, {B}!" {said}.',
        "<next>{a} thanked {b} for waiting for {him}.",
        '"Now I can walk again, thank you, {B}!" {said}.',
    ),
    "thank:quench": (
        '"<thanks> for the drink, {B}!" {said}.',
        "<next>{a} thanked {b} for the drink.",
        '"That was just what I needed, thank you, {B}!" {said}.',
    ),
    "thank:invite": (
        '"<thanks> for taking me along, {B}!" {said}.',
        "<next>{a} thanked {b} for taking {him} along.",
        '"I would never have dared alone, thank you, {B}!" {said}.',
    ),
    "thank:work": (
        '"<thanks> for working with me, {B}!" {said}.',
        "<next>{a} thanked {b} for working with {him}.",
        '"Together it went so fast, thank you, {B}!" {said}.',
        "{a} was (glad|happy) that {B} had worked with {him} and said so.",
    ),
    "thank:gift": (
        '"<thanks>, {B}, I love the {n}!" {said}.',
        "{a} loved the {n} and thanked {b}.",
        '"Is the {n} really for me, {B}, thank you!" {said}.',
        "{a} hugged {b} and was happy about the {n}.",
    ),
    "thank:keep": (
        '"You kept your promise, {B}, thank you!" {said}.',
        "<next>{a} thanked {b} for keeping the promise.",
        '"I knew that you would remember, {B}, thank you!" {said}.',
    ),
}
