"""What is wanted of each deployment, as it is stored."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import insert, select, update

from fleet.store.database import Store
from fleet.store.tables import deployments
from protos.errors import Conflict


@dataclass(frozen=True)
class StoredDeployment:
    name: str
    generation: int
    desired: str  # JSON


class DeploymentRecords:
    """Over a store, with its rules: calls block and may come from any thread, and raise what a store raises."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def deployments(self) -> list[StoredDeployment]:
        """Those that are wanted, by name."""
        query = select(deployments).where(deployments.c.desired.is_not(None)).order_by(deployments.c.name)
        with self._store.reading() as connection:
            return [StoredDeployment(row.name, row.generation, row.desired) for row in connection.execute(query)]

    def generation(self, name: str) -> int:
        """The highest ever stored under this name, removed ones included; 0 when there was none."""
        with self._store.reading() as connection:
            return connection.execute(select(deployments.c.generation).where(deployments.c.name == name)).scalar() or 0

    def put_deployment(self, name: str, generation: int, desired: str) -> None:
        """Raises Conflict when a higher generation is stored."""
        self._put(name, generation, desired)

    def remove_deployment(self, name: str, generation: int) -> None:
        """Not wanted any more; its generation stays known. Raises Conflict when a higher generation is stored."""
        self._put(name, generation, None)

    def _put(self, name: str, generation: int, desired: str | None) -> None:
        with self._store.writing() as connection:
            query = select(deployments.c.generation).where(deployments.c.name == name).with_for_update()
            stored = connection.execute(query).scalar()
            values = {"generation": generation, "desired": desired}
            if stored is None:
                connection.execute(insert(deployments).values(name=name, **values))
            elif stored > generation:
                raise Conflict(f"deployment {name} is at generation {stored}; this is {generation}", advice="read it again and retry")
            else:
                connection.execute(update(deployments).where(deployments.c.name == name).values(**values))
