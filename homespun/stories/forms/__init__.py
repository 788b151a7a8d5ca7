"""All ways in which the stories word an event. The teller writes with these forms, and the judge reads with them.

A form is a text with slots: {N} a new character; {kind} a creature with its article and trait; {a} the actor; {A} the
same, always by name; {g} one or two actors; {both} two actors; {said}, {asked} the speaker; {he}, {him}, {his}
pronouns for these. {b} the other character (a name, him or her); {B} the same, always a name. {t} a thing in the
words of the story (the, her, Tom's); {o} the same without a pronoun; {T} a thing in the words of a speaker (my, your,
the); {n} its noun, {an} its noun with an article; {new} a new thing. {in} at a place; {to} to a place; {s} at a spot;
{h} high up; {shelter} out of the weather; {when} and {later} the time of an outing; {w} weather; {limb}; {chore};
{errand} a promise, {errands} the same in the past.

(one|another) are words of which the teller chooses one, and the judge accepts each; one that begins with ~ is only
accepted. <soon> stands for an entry of `MACROS`. The key "kind:what" has the forms of a kind of event for one value
of `Event.what`.

Each module has the forms of one subject, under the name that its laws have in `laws`; `SENTENCES` is their union.
"""

from homespun.stories.forms.beginning import BEGINNING
from homespun.stories.forms.body import BODY
from homespun.stories.forms.conclusion import CONCLUSION
from homespun.stories.forms.deeds import DEEDS
from homespun.stories.forms.quarrels import QUARRELS
from homespun.stories.forms.thanks import THANKS
from homespun.stories.forms.things import THINGS

MACROS = {
    "named": "(named|called|~whose name was|~by the name of)",
    "so": "(|So |Then |And so )",
    "next": "(|Then )",
    "soon": "(Soon|Before long,|A little later,|After a while,|Not long after,)",
    "then": "(Then|Now|At that moment,)",
    "but": "(But|Sadly,|Oh dear,)",
    "very": "(very|so|terribly|quite)",
    "at last": "(At last,|In the end,|Finally,|At long last,)",
    "suddenly": "(Suddenly,|All at once,|All of a sudden,|Without warning,)",
    "oh": "(Oh|Oh no|Oh dear)",
    "for": "(for|because|as|~since)",
    "evening": "(In the evening,|When evening came,|At sunset,|As the sun went down,)",
    "night": "(That night,|At bedtime,|When the stars came out,)",
    "vowed": "(never forgot it|never forgot that day|remembered it always)",
    "need": "(Please help me|I need your help|Will you help me|Can you help me)",
    "thanks": "(Thank you|Thank you so much|Many thanks)",
    "sorry": "(I am sorry|I am so sorry|I am really sorry)",
}

SENTENCES: dict[str, tuple[str, ...]] = (
    BEGINNING | THINGS | THANKS | QUARRELS | BODY | DEEDS | CONCLUSION
)
