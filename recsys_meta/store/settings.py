"""Settings of an installation, read from the environment by the commands and the server, never at import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from recsys_meta.core.errors import ConfigError


class Settings(BaseSettings):
    """Values of RECSYS_META_HOME, _DATA, _DATABASE_URL, _REDIS_URL, _API_KEYS, _KEYS_TRUSTED_S and _RATE_LIMIT.

    Without a database URL the database is a SQLite file under HOME; without a Redis URL the cache is in the process.
    API keys are separated by commas. A rate limit reads `1000/second` or `60000 per minute`. Raises ConfigError for a
    value of the wrong form.
    """

    model_config = SettingsConfigDict(env_prefix="RECSYS_META_", extra="ignore")

    home: Path = Path("var")
    data: Path | None = None
    database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    api_keys: SecretStr | None = None
    keys_trusted_s: float = Field(default=24 * 3600.0, gt=0, allow_inf_nan=False)
    rate_limit: str | None = None

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            # The message holds no values: one of them may be a secret.
            problems = "; ".join(f"RECSYS_META_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
            raise ConfigError(problems) from None

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
    def key_digest_file(self) -> Path:
        """File with the digests of stored API keys, for a server that starts while the database is unavailable."""
        return self.home / "known-keys.json"

    @property
    def prepared(self) -> Path:
        """Folder of prepared data sets."""
        return self.home / "data"

    def prepared_folders(self, name: str) -> tuple[Path, ...]:
        """Return where a prepared data set may be that is given by name or by path, the likeliest first: a name stands
        for one under `prepared`, whatever lies in the working directory."""
        folder = Path(name)
        is_name = bool(name) and len(folder.parts) == 1 and name not in (".", "..")
        return (self.prepared / name, folder) if is_name else (folder,)

    @property
    def runs(self) -> Path:
        """Folder of training runs and their checkpoints."""
        return self.home / "runs"

    @property
    def models(self) -> Path:
        """Folder of published bundles, models/<name>/<version>."""
        return self.home / "models"
