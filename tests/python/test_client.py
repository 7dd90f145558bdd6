"""The official Python client, in JSON and in protobuf: every command, tokens, recovery, and the codes that end it."""

import asyncio
import json
import time
import unittest

from centrifuge import Client, ClientEventHandler, StreamPosition, SubscriptionEventHandler
from centrifuge.exceptions import ReplyError

from griot_site import Site

PATIENCE = 30
NARROW = "max_channels = 2\n"

site: Site


def setUpModule():
    global site
    site = Site(["telling_window_seconds = 0\n", "", NARROW])


def tearDownModule():
    site.stop()


class Heard:
    """Everything that a client or a subscription was told, in order; `until` waits for what suits."""

    def __init__(self):
        self.events = []
        self._changed = asyncio.Condition()

    async def add(self, name, context):
        async with self._changed:
            self.events.append((name, context))
            self._changed.notify_all()

    async def until(self, name, suits=lambda context: True, since=0):
        def found():
            return next((context for event, context in self.events[since:] if event == name and suits(context)), None)

        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(lambda: found() is not None), PATIENCE)
            return found()

    def all(self, name):
        return [context for event, context in self.events if event == name]


def recorder(base):
    """A handler that writes down every event of `base`."""
    heard = Heard()

    def method(name):
        async def told(self, context):
            await heard.add(name, context)

        return told

    names = [name[3:] for name in dir(base) if name.startswith("on_")]
    handler = type("Recorder", (base,), {f"on_{name}": method(name) for name in names})()
    handler.heard = heard
    return handler


class Scenarios:
    protobuf: bool

    def encode(self, value):
        return json.dumps(value).encode() if self.protobuf else value

    def decode(self, value):
        return json.loads(value) if self.protobuf else value

    async def asyncSetUp(self):
        self.clients = []
        self.slug = f"{'protobuf' if self.protobuf else 'json'}-{self._testMethodName}"

    async def asyncTearDown(self):
        for client in self.clients:
            await client.disconnect()

    def client(self, user="42", bridge=0, **options):
        handler = recorder(ClientEventHandler)
        options.setdefault("token", site.token(user))
        client = Client(
            site.socket(bridge),
            events=handler,
            use_protobuf=self.protobuf,
            timeout=PATIENCE,
            min_reconnect_delay=0.02,
            max_reconnect_delay=0.2,
            proxy=None,
            **options,
        )
        client.heard = handler.heard
        self.clients.append(client)
        return client

    async def connected(self, *args, **options):
        client = self.client(*args, **options)
        await client.connect()
        client.told = await client.heard.until("connected")
        return client

    async def subscribed(self, client, channel, **options):
        handler = recorder(SubscriptionEventHandler)
        subscription = client.new_subscription(
            channel, events=handler, min_resubscribe_delay=0.02, max_resubscribe_delay=0.2, **options
        )
        subscription.heard = handler.heard
        await subscription.subscribe()
        subscription.told = await subscription.heard.until("subscribed")
        return subscription

    async def refused(self, call):
        with self.assertRaises(ReplyError) as caught:
            await call
        return caught.exception.code

    async def test_publish_reaches_oneself_with_who_it_was(self):
        client = await self.connected(token=site.token("42", info={"name": "Awa"}))
        subscription = await self.subscribed(client, f"chat:{self.slug}")
        self.assertTrue(subscription.told.recoverable and subscription.told.positioned)
        await subscription.publish(self.encode({"text": "déjà vu\n"}))
        pub = (await subscription.heard.until("publication")).pub
        self.assertEqual(self.decode(pub.data), {"text": "déjà vu\n"})
        self.assertEqual((pub.offset, pub.info.user, pub.info.client), (1, "42", client.told.client))
        self.assertEqual(self.decode(pub.info.conn_info), {"name": "Awa"})

    async def test_presence_history_and_numbers(self):
        client = await self.connected()
        channel = f"chat:{self.slug}"
        subscription = await self.subscribed(client, channel)
        presence = await subscription.presence()
        self.assertEqual([info.user for info in presence.clients.values()], ["42"])
        stats = await subscription.presence_stats()
        self.assertEqual((stats.num_clients, stats.num_users), (1, 1))
        for n in range(1, 6):
            site.publish(channel, n)
        top = await subscription.history()
        self.assertEqual((top.publications, top.offset), ([], 5))

        async def said(**options):
            return [self.decode(pub.data) for pub in (await subscription.history(**options)).publications]

        self.assertEqual(await said(limit=-1), [1, 2, 3, 4, 5])
        self.assertEqual(await said(limit=2, since=StreamPosition(2, top.epoch)), [3, 4])
        self.assertEqual(await said(limit=2, reverse=True), [5, 4])
        self.assertEqual(await self.refused(subscription.history(limit=1, since=StreamPosition(1, "another"))), 112)

    async def test_joins_and_leaves(self):
        one, two = await self.connected("42"), await self.connected("7", bridge=1)
        seen = await self.subscribed(one, f"chat:{self.slug}")
        self.assertEqual((await seen.heard.until("join")).info.user, "42")
        other = await self.subscribed(two, f"chat:{self.slug}")
        await seen.heard.until("join", lambda context: context.info.user == "7")
        await other.unsubscribe()
        self.assertEqual((await seen.heard.until("leave")).info.user, "7")

    async def test_what_is_refused(self):
        client = await self.connected()
        self.assertEqual(await self.refused(client.rpc("any", self.encode({}))), 108)
        self.assertEqual(await self.refused(client.publish("orders:#42", self.encode(1))), 103)
        self.assertEqual(await self.refused(client.publish("elsewhere:a", self.encode(1))), 102)
        self.assertEqual(await self.refused(client.presence(f"chat:{self.slug}")), 103)
        await client.publish("plain:room", self.encode(1))
        for channel, code in [("orders:#7", 103), ("closed:room", 103), ("elsewhere:a", 102)]:
            handler = recorder(SubscriptionEventHandler)
            await client.new_subscription(channel, events=handler).subscribe()
            self.assertEqual((await handler.heard.until("unsubscribed")).code, code)

    async def test_a_channel_too_many_is_106(self):
        client = await self.connected(f"many-{self.slug}", bridge=2)
        await self.subscribed(client, "chat:1")
        handler = recorder(SubscriptionEventHandler)
        await client.new_subscription("chat:2", events=handler).subscribe()
        self.assertEqual((await handler.heard.until("unsubscribed")).code, 106)

    async def test_personal_channels_are_there_and_recover(self):
        user = self.slug
        channel = f"orders:#{user}"
        client = await self.connected(user)
        self.assertTrue((await client.heard.until("subscribed", lambda told: told.channel == channel)).recoverable)
        site.publish(channel, 1)
        await client.heard.until("publication", lambda told: self.decode(told.pub.data) == 1)
        await client.disconnect()
        site.publish(channel, 2)
        await client.connect()
        await client.heard.until("publication", lambda told: self.decode(told.pub.data) == 2)
        back = [told for told in client.heard.all("subscribed") if told.channel == channel][-1]
        self.assertTrue(back.recovered)

    async def test_channels_of_the_token(self):
        subs = {f"closed:{self.slug}": {"data": {"colour": "blue"}}}
        client = await self.connected(token=site.token("42", subs=subs))
        told = await client.heard.until("subscribed", lambda told: told.channel == f"closed:{self.slug}")
        self.assertEqual(self.decode(told.data), {"colour": "blue"})
        site.publish(f"closed:{self.slug}", "deep")
        heard = await client.heard.until("publication", lambda told: told.channel == f"closed:{self.slug}")
        self.assertEqual(self.decode(heard.pub.data), "deep")

    async def test_tokens_are_refreshed_while_connected(self):
        asked = []

        async def get_token():
            asked.append(True)
            return site.token("42", **({"exp": int(time.time()) + 2} if len(asked) < 3 else {}))

        client = await self.connected(token=site.token("42", exp=int(time.time()) + 2), get_token=get_token)
        await self.until(lambda: len(asked) == 3)
        await self.subscribed(client, f"chat:{self.slug}")
        self.assertEqual(len(client.heard.all("connected")), 1)

    async def test_tokens_of_a_subscription_are_refreshed_while_subscribed(self):
        channel, asked = f"closed:{self.slug}", []

        async def get_token(channel):
            asked.append(True)
            return site.token("42", channel=channel, **({"exp": int(time.time()) + 2} if len(asked) < 3 else {}))

        client = await self.connected()
        subscription = await self.subscribed(client, channel, get_token=get_token)
        await self.until(lambda: len(asked) == 3)
        site.publish(channel, "still here")
        await subscription.heard.until("publication")
        self.assertEqual(len(subscription.heard.all("subscribing")), 1)

    async def test_an_expired_token_is_replaced_an_invalid_one_ends_it(self):
        async def get_token():
            return site.token("42")

        await self.connected(token=site.token("42", exp=int(time.time()) - 1), get_token=get_token)
        client = self.client(token=site.token("42") + "x")
        await client.connect()
        self.assertEqual((await client.heard.until("disconnected")).code, 3500)

    async def test_recovery_after_the_bridge_was_killed(self):
        channel = f"chat:{self.slug}"
        client = await self.connected()
        subscription = await self.subscribed(client, channel)
        site.publish(channel, 1)
        await subscription.heard.until("publication")
        before = len(subscription.heard.events)
        await asyncio.to_thread(site.kill, 0)
        site.publish(channel, 2)
        await asyncio.to_thread(site.again, 0)
        self.assertTrue((await subscription.heard.until("subscribed", since=before)).recovered)
        site.publish(channel, 3)
        await subscription.heard.until("publication", lambda told: self.decode(told.pub.data) == 3)
        said = [self.decode(told.pub.data) for told in subscription.heard.all("publication")]
        self.assertEqual(said, [1, 2, 3])

    async def test_more_than_the_history_holds_is_told(self):
        channel = f"small:{self.slug}"
        client = await self.connected()
        subscription = await self.subscribed(client, channel)
        await client.disconnect()
        for n in range(3):
            site.publish(channel, n)
        before = len(subscription.heard.events)
        await client.connect()
        told = await subscription.heard.until("subscribed", since=before)
        self.assertEqual((told.was_recovering, told.recovered), (True, False))

    async def test_whoever_loads_the_state_is_asked_for_it(self):
        channel, asked = f"small:{self.slug}", []

        async def get_state(channel):
            top = site.api("history", {"channel": channel, "limit": 0})
            asked.append(top["offset"])
            return StreamPosition(top["offset"], top["epoch"])

        client = await self.connected()
        subscription = await self.subscribed(client, channel, get_state=get_state)
        await client.disconnect()
        for n in range(3):
            site.publish(channel, n)
        before = len(subscription.heard.events)
        await client.connect()
        await subscription.heard.until("subscribed", since=before)
        self.assertEqual(asked, [0, 3])

    async def test_ends_by_the_api(self):
        user, channel = self.slug, f"chat:{self.slug}"
        client = await self.connected(user)
        subscription = await self.subscribed(client, channel)
        site.api("unsubscribe", {"user": user, "channel": channel})
        self.assertEqual((await subscription.heard.until("unsubscribed")).code, 2000)
        site.api("disconnect", {"user": user})
        self.assertEqual((await client.heard.until("disconnected")).code, 3503)

    async def test_shutdown_brings_it_back(self):
        client = await self.connected(self.slug, bridge=1)
        before = len(client.heard.events)
        await asyncio.to_thread(site.end, 1)
        self.assertEqual((await client.heard.until("connecting", since=before)).code, 3001)
        await asyncio.to_thread(site.again, 1)
        await client.heard.until("connected", since=before)

    async def until(self, holds):
        async def wait():
            while not holds():
                await asyncio.sleep(0.01)

        await asyncio.wait_for(wait(), PATIENCE)


class Json(Scenarios, unittest.IsolatedAsyncioTestCase):
    protobuf = False


class Protobuf(Scenarios, unittest.IsolatedAsyncioTestCase):
    protobuf = True


if __name__ == "__main__":
    unittest.main()
