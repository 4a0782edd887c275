"""Where this installation keeps its things, read from the environment by the doors (never at import)."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The variables RECSYS_META_HOME, _DATA, _DATABASE_URL, _REDIS_URL and _API_KEYS.

    Without a database URL the database is a SQLite file under HOME; without a Redis URL the cache lives in the
    process. API keys are separated by commas.
    """

    model_config = SettingsConfigDict(env_prefix="RECSYS_META_", extra="ignore")

    home: Path = Path("var")
    data: Path | None = None
    database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    api_keys: SecretStr | None = None

    @property
    def database(self) -> str:
        """The database URL in use."""
        if self.database_url is not None and self.database_url.get_secret_value():
            return self.database_url.get_secret_value()
        return f"sqlite:///{(self.home / 'recsys-meta.db').resolve()}"

    @property
    def redis(self) -> str | None:
        """The Redis URL in use, if any."""
        return self.redis_url.get_secret_value() or None if self.redis_url is not None else None

    @property
    def keys(self) -> tuple[str, ...]:
        """The API keys in use."""
        text = self.api_keys.get_secret_value() if self.api_keys is not None else ""
        return tuple(k.strip() for k in text.split(",") if k.strip())

    @property
    def prepared(self) -> Path:
        """Folder of prepared data sets."""
        return self.home / "data"

    @property
    def runs(self) -> Path:
        """Folder of training runs and their checkpoints."""
        return self.home / "runs"

    @property
    def models(self) -> Path:
        """Folder of published bundles, models/<name>/<version>."""
        return self.home / "models"
