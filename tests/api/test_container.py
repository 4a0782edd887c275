"""Opening and closing what the routes share."""

import asyncio

from api import container


def test_a_poll_that_loses_its_cancellation_still_ends(monkeypatch):
    async def walk():
        looking = asyncio.Event()

        async def look(_):
            looking.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return  # what wait_for of Python 3.11 does when its work ends at that moment

        monkeypatch.setattr(container, "_poll_once", look)
        monkeypatch.setattr(container, "POLL_S", 0.0)
        closing = asyncio.Event()
        poll = asyncio.create_task(container._poll_stores(None, closing))
        await looking.wait()
        closing.set()
        poll.cancel()
        done, _ = await asyncio.wait({poll}, timeout=5)
        assert done

    asyncio.run(walk())
