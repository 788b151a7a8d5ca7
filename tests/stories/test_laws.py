"""The laws of the world, one by one: events that may not follow other events."""

import pytest

from homespun.stories.laws import Event, Facts

MIA, TOM, LILY = ("Mia",), ("Tom",), ("Lily",)

SCENE = (
    Event("intro", MIA, what="girl", trait="greedy"),
    Event("friend", TOM, whom="Mia", what="fox", trait="cheeky"),
    Event("friend", LILY, whom="Mia", what="girl", trait="timid"),
    Event("own", MIA, thing="kite", colour="red"),
    Event("own", TOM, thing="pie", colour="warm", what="food"),
    Event("set_out", ("Mia", "Tom", "Lily"), place="park"),
)
LOST = Event("lose", MIA, thing="kite")
HIDDEN = Event("hide", TOM, thing="kite", spot="near the gate")
ASKED = Event("ask_borrow", TOM, "Mia", "kite")
LENT = Event("lend", MIA, "Tom", "kite")
REFUSED = Event("refuse", MIA, "Tom", "kite")
AWAY = Event("walk_off", TOM, place="hill")
HUNGRY = Event("hungry", LILY)
RAIN = Event("weather", what="rain")
END = Event("end_friends", ("Mia", "Tom"))

CASES = [
    ((), END, ""),
    ((), Event("lend", MIA, "Tom", "kite"), "Tom has not asked for the kite"),
    ((ASKED, LENT), Event("give_back", TOM, "Lily", "kite"), "the kite belongs to Mia"),
    ((ASKED, LENT), Event("give_back", TOM, "Mia", "kite"), ""),
    ((ASKED, LENT), END, "the story ends, but Tom still has Mia's kite"),
    ((ASKED,), END, "the story ends, but Tom has no answer about the kite"),
    ((ASKED, REFUSED), END, "the story ends, but Tom has not forgiven Mia"),
    ((ASKED, REFUSED, AWAY), Event("sorry", MIA, "Tom", "kite", what="refuse"), "Tom is not there"),
    ((ASKED, REFUSED), Event("forgive", TOM, "Mia"), "Mia has not said sorry to Tom"),
    ((ASKED, REFUSED), Event("learn", TOM, what="share"), "nothing taught Tom this lesson"),
    ((LOST,), Event("play", MIA, thing="kite"), "the kite is lost"),
    ((LOST,), Event("look", TOM, thing="kite", spot="near the gate"),
     "Tom has not offered to help with the kite"),
    ((LOST,), END, "the story ends, but the kite is lost"),
    ((HIDDEN,), Event("look", MIA, thing="kite", spot="down in the straw"),
     "Mia does not know what is wrong with the kite"),
    ((HIDDEN, Event("miss", MIA, thing="kite")),
     Event("find", MIA, thing="kite", spot="down in the straw"), "the kite was hidden somewhere else"),
    ((HIDDEN,), Event("giggle", TOM, thing="kite", spot="near the gate"), "nobody misses the kite"),
    ((HIDDEN, Event("miss", MIA, thing="kite")),
     Event("giggle", MIA, thing="kite", spot="near the gate"), "Mia did not hide the kite"),
    ((), Event("break", MIA, thing="kite"), "Mia is not careless"),
    ((), Event("sad", MIA), "Mia has no reason to be sad"),
    ((), Event("happy", MIA), "Mia was not sad before"),
    ((HUNGRY,), Event("feed", TOM, "Lily", "pie"), ""),
    ((HUNGRY, Event("feed", TOM, "Lily", "pie")), Event("play", TOM, thing="pie"),
     "the pie is eaten"),
    ((HUNGRY,), Event("feed", MIA, "Lily", "pie"), "Mia does not have the pie"),
    ((RAIN,), Event("afraid", TOM, what="rain"), "Tom is not timid"),
    ((RAIN,), Event("clear", what="snow"), "there is no snow"),
    ((RAIN,), END, "the story ends, but the rain is not over"),
    ((), Event("gift", MIA, "Tom", "kite"), "Tom did not wish for the kite"),
    ((), Event("thank", MIA, "Tom", what="help"),
     "Mia has nothing of that kind to thank Tom for"),
    ((END,), Event("play", MIA, thing="kite"), "the story goes on after its ending"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "event", "problem"), CASES)
def test_what_may_not_happen(before: tuple[Event, ...], event: Event, problem: str) -> None:
    facts = Facts()
    for earlier in (*SCENE, *before):
        assert facts.happen(earlier) == []
    problems = facts.happen(event)
    assert problem in problems if problem else problems == []
