"""Settings of an installation, read from the environment by the commands and the server, never at import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from recsys_meta.core.errors import ConfigError
from recsys_meta.store.database.engine import DatabaseOptions

MIN_SECRET_LENGTH = 32
"""Characters that RECSYS_META_SECRET has at least."""

SKETCH_FROM = 20_000
"""Items from which on lists are made in two stages: with 8,000 to score all costs as much."""


class Settings(BaseSettings):
    """Values of RECSYS_META_HOME, _DATA, _DATABASE_URL, _REDIS_URL, _API_KEYS, _KEYS_TRUSTED_S, _RATE_LIMIT, _SECRET,
    _REDIS_TIMEOUT_S, _IMPRESSION_RATE, _OUTCOME_WINDOW_S, _SKETCH_FROM, _FRESH, and of _DATABASE_POOL_SIZE,
    _POOL_OVERFLOW, _POOL_TIMEOUT_S, _CONNECT_TIMEOUT_S and _STATEMENT_TIMEOUT_S (see `DatabaseOptions`). Times are in
    seconds.

    Without a database URL the database is a SQLite file under HOME; without a Redis URL the cache is in the process.
    The impression rate is the share of entities whose lists are kept, 0 to 1; an event answers a list that was shown
    within the outcome window before it. Lists of catalogues of at least `sketch_from` items are made in two stages (0:
    never). `fresh` has the places for new items of models, as `NAME:slots=2`. API keys are separated by commas. A rate
    limit reads `1000/second` or `60000 per minute`. Raises ConfigError for a
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
    secret: SecretStr | None = Field(default=None, min_length=MIN_SECRET_LENGTH)
    redis_timeout_s: float = Field(default=0.25, gt=0, le=60, allow_inf_nan=False)
    impression_rate: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    outcome_window_s: float = Field(default=24 * 3600.0, gt=0, le=366 * 86_400, allow_inf_nan=False)
    sketch_from: int = Field(default=SKETCH_FROM, ge=0)
    fresh: str = ""
    database_pool_size: int = Field(default=5, ge=0, le=1000)
    database_pool_overflow: int = Field(default=10, ge=0, le=1000)
    database_pool_timeout_s: float = Field(default=10.0, gt=0, le=600, allow_inf_nan=False)
    database_connect_timeout_s: float = Field(default=5.0, ge=1, le=600, allow_inf_nan=False)
    database_statement_timeout_s: float | None = Field(default=None, gt=0, le=86_400, allow_inf_nan=False)

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
    def database_options(self) -> DatabaseOptions:
        """The options of database connections in use."""
        return DatabaseOptions(
            pool_size=self.database_pool_size,
            pool_overflow=self.database_pool_overflow,
            pool_timeout_s=self.database_pool_timeout_s,
            connect_timeout_s=self.database_connect_timeout_s,
            statement_timeout_s=self.database_statement_timeout_s,
            secret=None if self.secret is None else self.secret.get_secret_value(),
        )

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
    def cursor_key_file(self) -> Path:
        """File with the key of cursors, for a server that starts while the database is unavailable."""
        return self.home / "cursor-key.json"

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
