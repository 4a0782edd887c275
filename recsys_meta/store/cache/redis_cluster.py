"""Client of a Redis Cluster that keeps working while nodes are lost and slots migrate.

redis-py's own client reacts to such changes in three ways that cost more than the slot or node concerned. Each of them
is overridden here; everything else is inherited.
"""

from typing import Any

import redis.asyncio.cluster
from redis.asyncio.cluster import ClusterNode, PipelineCommand

_ASKING = ("ASKING",)


class ClusterClient(redis.asyncio.cluster.RedisCluster):
    """Cluster client for GET and SET, whose first argument is the key, and commands with only keys as arguments."""

    def __init__(self, **settings: Any) -> None:
        # At every fifth moved slot it would close all connections, with replies pending. It needs no such reset: the
        # former node of a slot names the new one, and the remaining nodes name those that were lost.
        super().__init__(**{**settings, "reinitialize_steps": 0})
        # It asks the first node which arguments of a command are keys: a client started while that node is down would
        # use none of the others.
        self.commands_parser: Any = _CommandKeys()
        self._importing: dict[str, ClusterNode] = {}

    def get_node(
        self, host: str | None = None, port: int | None = None, node_name: str | None = None
    ) -> ClusterNode | None:
        """Return a node; by its name one that a slot migrates to, which may not be part of the topology yet."""
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
    """Positions of the keys in the commands that this project sends."""

    async def initialize(self, node: Any = None) -> None:
        """Do nothing: the keys are known without asking a node."""

    async def get_keys(self, command: str, *arguments: Any) -> tuple[Any, ...]:
        return arguments[:1] if command in ("GET", "SET") else arguments


class _ImportingNode(ClusterNode):
    """Node that slots migrate to.

    ASKING holds for the next command on the same connection; redis-py may send that command on another connection, so
    both are sent in one pipeline here.
    """

    async def execute_command(self, *arguments: Any, asking: bool = False, **options: Any) -> Any:
        if arguments == _ASKING:
            return True
        asking_command, command = PipelineCommand(0, *_ASKING), PipelineCommand(1, *arguments, **options)
        await self.execute_pipeline([asking_command, command])
        if isinstance(command.result, Exception):
            raise command.result
        return command.result
