"""The API as pycent calls it, and as its OpenAPI document describes it, with a real client connected to a real bridge."""

import asyncio
import json
import pathlib
import unittest
import urllib.error
import urllib.request

import cent
from centrifuge import Client, ClientEventHandler
from jsonschema import Draft202012Validator

from griot_site import Site

PATIENCE = 30

site: Site


def setUpModule():
    global site
    site = Site([""])


def tearDownModule():
    site.stop()


class Ending(ClientEventHandler):
    """Tells how the connection and its server-side subscriptions end."""

    def __init__(self):
        loop = asyncio.get_running_loop()
        self.connected, self.subscribed, self.unsubscribed, self.disconnected = (loop.create_future() for _ in range(4))

    async def on_connected(self, context):
        self.connected.set_result(context)

    async def on_subscribed(self, context):
        # Every user has a personal channel from the beginning.
        if not context.channel.startswith("orders:#"):
            self.subscribed.set_result(context)

    async def on_unsubscribed(self, context):
        self.unsubscribed.set_result(context)

    async def on_disconnected(self, context):
        self.disconnected.set_result(context)


async def connected(user, channel=None):
    """A client of `user`, subscribed to `channel`, and what it hears."""
    ending = Ending()
    client = Client(site.socket(), events=ending, token=site.token(user), proxy=None)
    await client.connect()
    await asyncio.wait_for(ending.connected, PATIENCE)
    if channel:
        subscription = client.new_subscription(channel)
        await subscription.subscribe()
        await asyncio.wait_for(subscription.ready(), PATIENCE)
    return client, ending


async def eventually(holds, what):
    async def wait():
        while not holds():
            await asyncio.sleep(0.05)

    try:
        await asyncio.wait_for(wait(), PATIENCE)
    except TimeoutError:
        raise AssertionError(what) from None


class Pycent(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.api = cent.Client(f"{site.backends}/api", site.api_key)
        self.addCleanup(self.api._session.close)

    def refused(self, call, request):
        with self.assertRaises(cent.CentApiResponseError) as caught:
            call(request)
        return caught.exception.code

    def test_publishing_and_history(self):
        channel = "chat:pycent-history"
        first = self.api.publish(cent.PublishRequest(channel=channel, data={"n": 1}, tags={"by": "pycent"}))
        once = cent.PublishRequest(channel=channel, data={"n": 2}, idempotency_key="once")
        self.assertEqual([self.api.publish(once).offset for _ in range(2)], [2, 2])
        told = self.api.broadcast(cent.BroadcastRequest(channels=[channel, "nowhere:a"], data={"n": 3}))
        self.assertEqual((told.responses[0].result.offset, told.responses[1].error.code), (3, 102))
        page = self.api.history(cent.HistoryRequest(channel=channel, limit=2))
        self.assertEqual([publication.data["n"] for publication in page.publications], [1, 2])
        self.assertEqual((page.offset, page.epoch, page.publications[0].tags["by"]), (3, first.epoch, "pycent"))
        since = cent.StreamPosition(offset=3, epoch=page.epoch)
        newest = self.api.history(cent.HistoryRequest(channel=channel, limit=1, since=since, reverse=True))
        self.assertEqual([publication.data["n"] for publication in newest.publications], [2])
        self.api.history_remove(cent.HistoryRemoveRequest(channel=channel))
        emptied = self.api.history(cent.HistoryRequest(channel=channel, limit=-1))
        self.assertEqual((emptied.publications, emptied.offset), ([], 3))
        other = cent.StreamPosition(offset=1, epoch="another")
        self.assertEqual(self.refused(self.api.history, cent.HistoryRequest(channel=channel, since=other)), 112)
        self.assertEqual(self.refused(self.api.history, cent.HistoryRequest(channel="plain:a")), 108)
        self.assertEqual(self.refused(self.api.presence, cent.PresenceRequest(channel="small:a")), 108)
        self.assertEqual(self.refused(self.api.publish, cent.PublishRequest(channel="nowhere:a", data=1)), 102)

    async def test_who_is_there_and_where(self):
        channel = "chat:pycent-presence"
        client, ending = await connected("pycent-ann", channel)
        members = (await asyncio.to_thread(self.api.presence, cent.PresenceRequest(channel=channel))).presence
        told = await ending.connected
        self.assertEqual({id: info.user for id, info in members.items()}, {told.client: "pycent-ann"})
        batch = cent.BatchRequest(
            requests=[
                cent.PresenceStatsRequest(channel=channel),
                cent.PresenceRequest(channel=channel),
                cent.PublishRequest(channel=channel, data=1),
                cent.HistoryRequest(channel=channel, limit=9),
                cent.ChannelsRequest(pattern="chat:pycent-pres*"),
            ]
        )
        stats, presence, published, history, channels = (await asyncio.to_thread(self.api.batch, batch)).replies
        self.assertEqual((stats.num_clients, stats.num_users), (1, 1))
        self.assertEqual(list(presence.presence), [told.client])
        self.assertEqual((published.offset, [publication.data for publication in history.publications]), (1, [1]))
        self.assertEqual({name: found.num_clients for name, found in channels.channels.items()}, {channel: 1})

        def counted():
            nodes = self.api.info(cent.InfoRequest()).nodes
            return len(nodes) == 1 and nodes[0].num_clients >= 1 and nodes[0].num_subs >= 1

        await eventually(counted, "the bridge tells that it has a connection with a subscription")
        await client.disconnect()
        empty = cent.PresenceStatsRequest(channel=channel)
        await eventually(lambda: self.api.presence_stats(empty).num_clients == 0, "whoever went is there no more")

    async def test_orders(self):
        user, channel = "pycent-bob", "chat:pycent-orders"
        client, ending = await connected(user)
        subscribe = cent.SubscribeRequest(user=user, channel=channel, data={"hello": 1})
        await asyncio.to_thread(self.api.subscribe, subscribe)
        subscribed = await asyncio.wait_for(ending.subscribed, PATIENCE)
        self.assertEqual((subscribed.channel, subscribed.data), (channel, {"hello": 1}))
        await asyncio.to_thread(self.api.unsubscribe, cent.UnsubscribeRequest(user=user, channel=channel))
        self.assertEqual((await asyncio.wait_for(ending.unsubscribed, PATIENCE)).channel, channel)
        await asyncio.to_thread(self.api.refresh, cent.RefreshRequest(user=user, expire_at=4_000_000_000))
        reason = cent.Disconnect(code=4567, reason="bye")
        listed, other = [(await ending.connected).client], cent.Disconnect(code=4999, reason="not you")
        kept = cent.DisconnectRequest(user=user, whitelist=listed, disconnect=other)
        await asyncio.to_thread(self.api.disconnect, kept)
        await asyncio.to_thread(self.api.disconnect, cent.DisconnectRequest(user=user, disconnect=reason))
        self.assertEqual((await asyncio.wait_for(ending.disconnected, PATIENCE)).code, 4567)


CHANNEL = "chat:openapi"

# For every method of the document: requests that must succeed, and some that must be refused.
CALLS = {
    "publish": (
        [
            {"channel": CHANNEL, "data": {"n": 1}, "tags": {"a": "b"}, "version": 1, "version_epoch": "e"},
            {"channel": "plain:a", "b64data": "MQ=="},
        ],
        [{"data": 1}, {"channel": "nowhere:a", "data": 1}],
    ),
    "broadcast": ([{"channels": [CHANNEL, "nowhere:a"], "data": None}], [{"channels": [], "data": 1}]),
    "history": (
        [
            {"channel": CHANNEL, "limit": -1},
            {"channel": CHANNEL, "limit": 1, "since": {"offset": 2, "epoch": ""}, "reverse": True},
        ],
        [{"channel": CHANNEL, "since": {"offset": 1, "epoch": "another"}}, {"channel": "plain:a"}],
    ),
    "presence": ([{"channel": CHANNEL}], [{"channel": "small:a"}]),
    "presence_stats": ([{"channel": CHANNEL}], [{"channel": "small:a"}]),
    "channels": ([{}, {"pattern": "chat:*"}], []),
    "info": ([{}], []),
    "subscribe": (
        [{"user": "x", "channel": CHANNEL, "info": {}, "override": {"presence": {"value": False}}}],
        [{"user": "x"}],
    ),
    "unsubscribe": ([{"user": "x", "channel": CHANNEL}], [{"user": "x"}]),
    "disconnect": ([{"user": "x", "disconnect": {"code": 4000, "reason": "bye"}}], [{"disconnect": {"code": 1}}]),
    "refresh": ([{"user": "x", "expire_at": 4_000_000_000}], []),
    "history_remove": ([{"channel": CHANNEL}], [{"channel": "plain:a"}]),
    "batch": (
        [
            {
                "commands": [
                    {"publish": {"channel": CHANNEL, "data": 1}},
                    {"info": {}},
                    {"presence": {"channel": "small:a"}},
                ]
            }
        ],
        [{"commands": [{"history": {"channel": CHANNEL}}] * 17}],
    ),
}


class OpenApi(unittest.IsolatedAsyncioTestCase):
    def request(self, path, body=None, **headers):
        """The status and the body of an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{site.backends}/api{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read()

    def call(self, method, body, **headers):
        status, answer = self.request(f"/{method}", body, **{"X-API-Key": site.api_key, **headers})
        return status, json.loads(answer)

    def setUp(self):
        status, answer = self.request("/openapi.json")
        self.assertEqual(status, 200, "the document needs no key")
        self.document = json.loads(answer)

    def wrong(self, schema, value):
        """What of `value` is not as a schema of the document says."""
        whole = {"$defs": {"whole": self.document}, **schema}
        text = json.dumps(whole).replace("#/components/", "#/$defs/whole/components/")
        return [error.message for error in Draft202012Validator(json.loads(text)).iter_errors(value)]

    async def test_every_method_answers_as_the_document_says(self):
        client, _ = await connected("openapi", CHANNEL)
        self.assertEqual({f"/{method}" for method in CALLS} | {"/openapi.json"}, set(self.document["paths"]))
        for method, (accepted, refused) in CALLS.items():
            operation = self.document["paths"][f"/{method}"]["post"]
            await asyncio.to_thread(self.accepts, method, operation, accepted)
            await asyncio.to_thread(self.refuses, method, operation, refused)
        await client.disconnect()

    def accepts(self, method, operation, requests):
        takes = operation["requestBody"]["content"]["application/json"]["schema"]
        gives = operation["responses"]["200"]["content"]["application/json"]["schema"]
        for body in requests:
            with self.subTest(method=method, body=body):
                self.assertEqual(self.wrong(takes, body), [])
                status, answer = self.call(method, body)
                self.assertEqual((status, self.wrong(gives, answer)), (200, []), answer)
                self.assertNotIn("error", answer)

    def refuses(self, method, operation, requests):
        gives = operation["responses"]["200"]["content"]["application/json"]["schema"]
        alone = operation["responses"]["default"]["content"]["application/json"]["schema"]
        for body in requests:
            with self.subTest(method=method, body=body):
                status, answer = self.call(method, body)
                self.assertEqual((status, self.wrong(gives, answer)), (200, []), answer)
                self.assertIn("error", answer)
                status, error = self.call(method, body, **{"X-Centrifugo-Error-Mode": "transport"})
                self.assertEqual((status >= 400, error, self.wrong(alone, error)), (True, answer["error"], []))

    def test_the_document_is_one_and_its_references_lead_somewhere(self):
        self.assertTrue(self.document["openapi"].startswith("3.1."))
        schemas = self.document["components"]["schemas"]
        for schema in schemas.values():
            Draft202012Validator.check_schema(schema)
        used = {text.split('"')[0] for text in json.dumps(self.document).split('"#/components/schemas/')[1:]}
        self.assertEqual(used, set(schemas))
        kept = pathlib.Path(__file__).resolve().parents[2] / "crates/publisher/openapi.json"
        self.assertEqual(self.document, json.loads(kept.read_text()))


if __name__ == "__main__":
    unittest.main()
