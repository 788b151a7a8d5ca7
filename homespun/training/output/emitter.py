"""Events flow in, each listener is called with them in order: the records, the console, then the user's."""

from collections.abc import Callable, Sequence

from homespun.records.events import Activity, Event, Listener, Message, StopRun
from homespun.training.checkpointing.position import Position
from homespun.training.timing.clock import Clock


class Emitter:
    """Adds the state of the run to each event, and calls the listeners.

    An error in one of the project's own listeners ends the run at once, since its cause is a failing disk. The user's
    listener must not cost the run: when it raises `StopRun` or anything else, even SystemExit, `stopped_by` says so,
    and the loop saves and ends.
    """

    def __init__(
        self,
        position: Position,
        clock: Clock,
        listeners: Sequence[Listener],
        on_event: Listener | None,
    ) -> None:
        self._position, self._clock = position, clock
        self._listeners, self._on_event = listeners, on_event
        self.stopped_by: str | None = None
        """Set when the user's listener has ended the run: `on_event`, with the reason if it gave one."""
        self.error: BaseException | None = None
        """The error that it raised; it is not called again."""

    def __call__(self, kind: Callable[..., Event], **fields: object) -> None:
        """Make an event and pass it to all listeners."""
        state = {
            "step": self._position.step,
            "tokens": self._position.tokens,
            "epoch": self._position.epoch,
            "progress": self._clock.progress(),
            "seconds_left": self._clock.seconds_left(),
        }
        event = kind(**state | fields)
        for listener in self._listeners:
            listener(event)
        if self._on_event and not self.error:
            self._call_users(self._on_event, event)

    def activity(self, name: str) -> None:
        """Report the beginning of an activity other than a step."""
        self(Activity, name=name)

    def message(self, text: str) -> None:
        """Send a line to the console."""
        self(Message, text=text)

    def _call_users(self, on_event: Listener, event: Event) -> None:
        try:
            on_event(event)
        except StopRun as stop:
            reason = str(stop)
        except BaseException as error:
            self.error, reason = error, repr(error)
        else:
            return
        if self.stopped_by is None:
            self.stopped_by = f"on_event: {reason}" if reason else "on_event"
