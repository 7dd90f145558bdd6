"""A private Redis with a publisher and bridges, as target/debug/site starts them, and tokens as a backend signs them."""

import base64
import hashlib
import hmac
import json
import os
import pathlib
import subprocess
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))

TOPICS = """
[topics.orders]
history_size = 100

[topics.chat]
personal = "off"
named = true
presence = true
join_leave = true
force_join_leave = true
publish = "subscribers"
see_presence = "subscribers"
see_history = "subscribers"

[topics.closed]
personal = "off"

[topics.small]
personal = "off"
named = true
history_size = 2

[topics.plain]
personal = "off"
named = true
history_size = 0
publish = "users"
"""


def _part(value) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def sign(secret: str, claims: dict) -> str:
    """A JWT by HS256 with exactly these claims."""
    signed = _part({"alg": "HS256", "typ": "JWT"}) + b"." + _part(claims)
    signature = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


class Site:
    """Runs until `stop`, and no longer than this process."""

    def __init__(self, bridges: list[str], topics: str = TOPICS):
        self._program = subprocess.Popen(
            [TARGET / "debug" / "site"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        facts = self._ask({"topics": topics, "bridges": bridges})
        self.secret, self.bridges, self.backends, self.api_key = (
            facts["secret"],
            facts["bridges"],
            facts["api"],
            facts["api_key"],
        )

    def _ask(self, line: dict) -> dict:
        self._program.stdin.write(json.dumps(line) + "\n")
        self._program.stdin.flush()
        told = self._program.stdout.readline()
        assert told, f"the site ended instead of answering {line}"
        answer = json.loads(told)
        assert "failed" not in answer, answer["failed"]
        return answer

    def kill(self, bridge: int):
        """SIGKILL."""
        self._ask({"do": "kill", "bridge": bridge})

    def end(self, bridge: int):
        """SIGTERM, and waits for a good end."""
        self._ask({"do": "stop", "bridge": bridge})

    def again(self, bridge: int):
        """Brings a bridge back where it was."""
        self._ask({"do": "start", "bridge": bridge})

    def stop(self):
        """Ends everything."""
        self._program.stdin.close()
        self._program.wait(30)
        self._program.stdout.close()

    def socket(self, bridge: int = 0) -> str:
        """Where clients of the protocol connect."""
        return self.bridges[bridge]["http"].replace("http", "ws") + "/connection/websocket"

    def token(self, user: str, **claims) -> str:
        """A connection token, for an hour unless the claims say otherwise."""
        return sign(self.secret, {"sub": user, "exp": int(time.time()) + 3600, **claims})

    def api(self, method: str, body: dict) -> dict:
        """Calls the publisher's API, and must succeed."""
        request = urllib.request.Request(
            f"{self.backends}/api/{method}", json.dumps(body).encode(), {"X-API-Key": self.api_key}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            told = json.load(answer)
        assert "error" not in told, told
        return told["result"]

    def publish(self, channel: str, data) -> dict:
        """Publishes, and must succeed."""
        return self.api("publish", {"channel": channel, "data": data})
