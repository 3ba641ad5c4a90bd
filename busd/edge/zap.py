"""Who may attach over CURVE: the ZAP handler (ZeroMQ RFC 27), and the watch over it.

libzmq asks a handler at a fixed address inside the process about each key that finished a handshake, and lets it in
unasked when no handler is there. So the handler has a thread and a socket of its own that nothing else can hold up, is
there before anything listens, and is asked a question of our own all the time: whoever listens must close when it does
not answer (`ZapProbe`).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import zmq

from busproto.z85 import KEY_BYTES, encode_key

ADDRESS: Final = "inproc://zeromq.zap.01"
"""Where RFC 27 has libzmq look for a handler."""

START_SECONDS: Final = 10.0
"""For a thread to come up on a machine that is busy."""

_VERSION: Final = b"1.0"
_PROBE: Final = b"probe"
_FRAMES: Final = 8
"""Delimiter, version, request id, domain, address, identity, mechanism and the key, in what libzmq sends."""


@dataclass(frozen=True, slots=True)
class ZapStatistics:
    """One handler."""

    requests: int
    """Keys asked about."""
    denied: int
    """Of these, keys that were not let in."""
    malformed: int
    """Requests that were not as RFC 27 has them, or could not be decided; they were denied too."""
    last_denied: str
    """The public key that was denied last and where it came from; "" when none was."""


class ZapHandler:
    """A thread that answers libzmq's question about each key."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", domain: str, user_id_of: Callable[[str], str | None]
    ) -> None:
        """``user_id_of`` is asked on the handler's thread: a public key in Z85 to its user id, None to keep it out."""
        self._context = context
        self._domain = domain.encode()
        self._user_id_of = user_id_of
        self._requests = self._denied = self._malformed = 0
        self._last_denied = ""
        self._bound = threading.Event()
        self._control: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        self._control.bind("inproc://busd.zap.control")
        self.thread = threading.Thread(target=self._run, name="busd-zap", daemon=True)

    def start(self) -> None:
        """Answer from now on. Raises RuntimeError when the thread does not come up."""
        self.thread.start()
        if not self._bound.wait(START_SECONDS):
            raise RuntimeError("the ZAP handler did not start")

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self.thread.is_alive()

    def stop(self, seconds: float) -> None:
        """End the thread, and give it ``seconds`` for that; its socket closes with it."""
        if self.thread.is_alive():
            self._control.send(b"", zmq.DONTWAIT)
            self.thread.join(seconds)
        self._control.close(linger=0)

    def statistics(self) -> ZapStatistics:
        """Figures of this handler."""
        return ZapStatistics(self._requests, self._denied, self._malformed, self._last_denied)

    # -- on the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asked = self._context.socket(zmq.ROUTER)
        control = self._context.socket(zmq.PAIR)
        try:
            asked.setsockopt(zmq.LINGER, 0)
            asked.bind(ADDRESS)
            control.connect("inproc://busd.zap.control")
            poller = zmq.Poller()
            poller.register(asked, zmq.POLLIN)
            poller.register(control, zmq.POLLIN)
            self._bound.set()
            while True:
                ready = dict(poller.poll())
                if control in ready:
                    return
                self._answer(asked)
        finally:
            asked.close(linger=0)
            control.close(linger=0)

    def _answer(self, asked: "zmq.Socket[bytes]") -> None:
        peer, *request = asked.recv_multipart()
        try:
            user_id = self._decide(request)
        except Exception:
            # Whatever went wrong, the answer is no, and the next one still gets an answer.
            self._malformed += 1
            user_id = None
        status, text = (b"400", b"not enrolled") if user_id is None else (b"200", b"")
        request_id = request[2] if len(request) > 2 else b""
        reply = (peer, b"", _VERSION, request_id, status, text, (user_id or "").encode(), b"")
        try:
            asked.send_multipart(reply, zmq.DONTWAIT)
        except zmq.ZMQError:
            # Who asked has gone, or does not take answers.
            pass

    def _decide(self, request: list[bytes]) -> str | None:
        """The user id of the key in ``request``; None to keep it out."""
        if len(request) != _FRAMES or request[:2] != [b"", _VERSION] or request[6] != b"CURVE":
            raise ValueError("not a ZAP request for CURVE")
        domain, address, key = request[3], request[4], request[7]
        if domain != self._domain or len(key) != KEY_BYTES:
            raise ValueError("another domain, or not a key")
        if request[2] == _PROBE:
            return None
        self._requests += 1
        shown = encode_key(key)
        user_id = self._user_id_of(shown)
        if not user_id:
            self._denied += 1
            self._last_denied = f"{shown} from {address.decode('ascii', 'replace')[:64]}"
            return None
        return user_id


class ZapProbe:
    """Asks the handler about a key that nobody has, over and over, and says when no answer comes."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", domain: str, patience: int) -> None:
        """``patience``: how many looks an answer may take."""
        self._socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(ADDRESS)
        self._question = (b"", _VERSION, _PROBE, domain.encode(), b"", b"", b"CURVE", bytes(KEY_BYTES))
        self._patience = patience
        self._waited = 0

    def is_answered(self) -> bool:
        """Look whether the last question was answered, and ask the next one if so. False when patience is at an end.

        Patience is counted in looks, not seconds: after the whole process was stopped for a while the handler gets its
        turn before it is judged.
        """
        try:
            if self._waited:
                answer = self._socket.recv_multipart(zmq.DONTWAIT)
                if answer[1:4] != [_VERSION, _PROBE, b"400"]:
                    return False
            self._socket.send_multipart(self._question, zmq.DONTWAIT)
            self._waited = 1
        except zmq.ZMQError:
            self._waited += 1
        return self._waited <= self._patience

    def close(self) -> None:
        """Ask no more."""
        self._socket.close(linger=0)
