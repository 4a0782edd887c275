"""A client of a Redis Cluster that goes on while the cluster changes: nodes are lost, and slots are on their way.

redis-py's own does three things that cost more than the slot or the node that they are about. Each is put right here,
and the rest is left to it.
"""

from typing import Any

import redis.asyncio.cluster
from redis.asyncio.cluster import ClusterNode, PipelineCommand

_ASKING = ("ASKING",)


class ClusterClient(redis.asyncio.cluster.RedisCluster):
    """For commands whose keys come first, and all of them where the command is of several."""

    def __init__(self, **settings: Any) -> None:
        # Every fifth slot that moved would have it hang up on all nodes, whoever waits for an answer; it learns of a
        # slot from the node that had it, and of nodes that were lost from the others, without that.
        super().__init__(**{**settings, "reinitialize_steps": 0})
        # It asks the first node which words of a command are keys: one that is started while that node is away would
        # use none of the others.
        self.commands_parser: Any = _CommandKeys()
        self._importing: dict[str, ClusterNode] = {}

    def get_node(
        self, host: str | None = None, port: int | None = None, node_name: str | None = None
    ) -> ClusterNode | None:
        """A node; by its name one that a slot is on its way to, which need not be known yet."""
        if node_name is None:
            return super().get_node(host, port)
        if node_name not in self._importing:
            address, _, port_text = node_name.rpartition(":")
            self._importing[node_name] = _ImportingNode(address, int(port_text), **self.nodes_manager.connection_kwargs)
        return self._importing[node_name]

    async def aclose(self) -> None:
        """Close the connections."""
        importing, self._importing = self._importing, {}
        for node in importing.values():
            await node.disconnect()
        await super().aclose()


class _CommandKeys:
    """Which words of our commands are keys."""

    async def initialize(self, node: Any = None) -> None:
        """Nothing needs to be asked."""

    async def get_keys(self, command: str, *words: Any) -> tuple[Any, ...]:
        return words[:1] if command in ("GET", "SET") else words


class _ImportingNode(ClusterNode):
    """A node, for slots that are on their way to it.

    What is ASKING holds for the next command on the same connection; redis-py may send that on another one.
    """

    async def execute_command(self, *words: Any, asking: bool = False, **given: Any) -> Any:
        if words == _ASKING:
            return True
        asking_command, command = PipelineCommand(0, *_ASKING), PipelineCommand(1, *words, **given)
        await self.execute_pipeline([asking_command, command])
        if isinstance(command.result, Exception):
            raise command.result
        return command.result
