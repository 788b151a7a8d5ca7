"""Settings of replay: a text that the model has learned already is mixed into what it learns now."""

from dataclasses import dataclass

from homespun.config.checked import Checked, PathName, setting


@dataclass(frozen=True)
class ReplayConfig(Checked):
    """Replay. Mix an earlier text into the new one, so that a model that goes on learning does not forget it."""

    replay: PathName | None = setting(
        None,
        "Text or conversations to mix in, usually those that the model of --init-from has learned from. One document "
        "in ten is held out, and measured at each evaluation.",
        if_omitted="the run learns from --data-file alone",
    )
    # A small model of stories learned from the same samples of questions. With shares of 0.1, 0.2 and 0.4, held-out
    # stories rose from 0.203 to 0.406, 0.273 and 0.236 bits per byte, and the answers had a loss of 0.197, 0.209 and
    # 0.186; without replay, of 0.185. Each is one run.
    replay_share: float = setting(
        0.2,
        "With --replay: its share of the samples, and its weight in the loss of a step.",
        above=0,
        below=1,
        on_resume="fixed",
    )
