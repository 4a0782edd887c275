-- SQLite, made by the migrations
CREATE INDEX ix_adaptation_days_day ON adaptation_days (day);
CREATE INDEX ix_adaptations_created_id ON adaptations (created, id);
CREATE INDEX ix_adaptations_kind_entity_created ON adaptations (kind, entity, created);
CREATE INDEX ix_adaptations_model_version_created ON adaptations (model_version, created);
CREATE INDEX ix_alias_history_model_version ON alias_history (model, version);
CREATE INDEX ix_api_keys_name ON api_keys (name);
CREATE INDEX ix_audit_action_at ON audit (action, at);
CREATE INDEX ix_audit_actor_at ON audit (actor, at);
CREATE INDEX ix_audit_at_id ON audit (at, id);
CREATE INDEX ix_default_models_model ON default_models (model);
CREATE INDEX ix_erasures_entity_digest_at ON erasures (entity_digest, at);
CREATE INDEX ix_evaluations_dataset_created ON evaluations (dataset, created);
CREATE INDEX ix_evaluations_dataset_scenario_metric_method_shots ON evaluations (dataset, scenario, metric, method, shots);
CREATE INDEX ix_evaluations_model_created ON evaluations (model, created);
CREATE INDEX ix_evaluations_run ON evaluations (run);
CREATE INDEX ix_events_kind_entity_time_event_id ON events (kind, entity, time, event_id);
CREATE INDEX ix_events_kind_item_received ON events (kind, item, received);
CREATE INDEX ix_events_kind_received ON events (kind, received);
CREATE INDEX ix_explorations_created_id ON explorations (created, id);
CREATE INDEX ix_explorations_kind_entity_created ON explorations (kind, entity, created);
CREATE INDEX ix_impressions_created_id ON impressions (created, id);
CREATE INDEX ix_impressions_kind_entity_created ON impressions (kind, entity, created);
CREATE INDEX ix_impressions_model_version_created ON impressions (model_version, created);
CREATE INDEX ix_items_kind_revision ON items (kind, revision);
CREATE INDEX ix_items_kind_updated_external_id ON items (kind, updated, external_id);
CREATE INDEX ix_latest_metrics_key_value ON latest_metrics ("key", value);
CREATE INDEX ix_model_versions_run ON model_versions (run);
CREATE INDEX ix_model_versions_version ON model_versions (version);
CREATE INDEX ix_newcomer_results_created ON newcomer_results (created);
CREATE INDEX ix_newcomer_results_dataset_created ON newcomer_results (dataset, created);
CREATE INDEX ix_newcomer_results_kind_entity ON newcomer_results (kind, entity);
CREATE INDEX ix_outcome_days_day ON outcome_days (day);
CREATE INDEX ix_outcome_days_model_day ON outcome_days (model, day);
CREATE INDEX ix_outcomes_created ON outcomes (created);
CREATE INDEX ix_outcomes_day ON outcomes (day);
CREATE INDEX ix_outcomes_kind_entity_created ON outcomes (kind, entity, created);
CREATE INDEX ix_outcomes_model_created ON outcomes (model, created);
CREATE INDEX ix_outcomes_model_model_version_variant_created ON outcomes (model, model_version, variant, created);
CREATE INDEX ix_paired_tests_created ON paired_tests (created);
CREATE INDEX ix_paired_tests_dataset_created ON paired_tests (dataset, created);
CREATE INDEX ix_runs_started_id ON runs (started, id);
CREATE INDEX ix_runs_status_started ON runs (status, started);
CREATE INDEX ix_split_entities_model_sequence_place ON split_entities (model, sequence, place);
CREATE INDEX ix_splits_model_version ON splits (model, version);
CREATE INDEX ix_tuning_studies_created_name ON tuning_studies (created, name);
CREATE INDEX ix_tuning_studies_learner_objective_created ON tuning_studies (learner, objective, created);
CREATE TABLE adaptation_days (
  id INTEGER NOT NULL,
  day DATE NOT NULL,
  model_version VARCHAR(200) NOT NULL,
  variant VARCHAR(50),
  kind VARCHAR(100) NOT NULL,
  served_by VARCHAR(20) NOT NULL,
  adaptations INTEGER NOT NULL,
  entities INTEGER NOT NULL,
  support_size DOUBLE,
  loss_before DOUBLE,
  loss_after DOUBLE,
  improved DOUBLE,
  gradient_norm DOUBLE,
  ms DOUBLE,
  slowest_ms DOUBLE,
  CONSTRAINT pk_adaptation_days PRIMARY KEY (id)
  );
CREATE TABLE adaptations (
  id INTEGER NOT NULL,
  model_version VARCHAR(200) NOT NULL,
  kind VARCHAR(100) NOT NULL,
  entity VARCHAR(200) NOT NULL,
  support_size INTEGER NOT NULL,
  steps INTEGER NOT NULL,
  loss_before DOUBLE,
  loss_after DOUBLE,
  gradient_norm DOUBLE,
  ms DOUBLE NOT NULL,
  served_by VARCHAR(20) NOT NULL,
  created DATETIME NOT NULL, answers INTEGER DEFAULT '1' NOT NULL, variant VARCHAR(50),
  CONSTRAINT pk_adaptations PRIMARY KEY (id)
  );
CREATE TABLE alerts (
  model VARCHAR(200) NOT NULL,
  model_version VARCHAR(200) NOT NULL,
  rule VARCHAR(100) NOT NULL,
  opened DATETIME NOT NULL,
  ended DATETIME,
  checked DATETIME NOT NULL,
  difference DOUBLE NOT NULL,
  low DOUBLE NOT NULL,
  high DOUBLE NOT NULL,
  events INTEGER NOT NULL,
  entities INTEGER NOT NULL,
  CONSTRAINT pk_alerts PRIMARY KEY (model, model_version, rule),
  CONSTRAINT fk_alerts_model FOREIGN KEY(model) REFERENCES models (name) ON DELETE CASCADE
  );
CREATE TABLE "alias_history" (
  id INTEGER NOT NULL,
  model VARCHAR(200) NOT NULL,
  alias VARCHAR(100) NOT NULL,
  sequence INTEGER NOT NULL,
  version VARCHAR(200) NOT NULL,
  previous VARCHAR(200),
  action VARCHAR(20) NOT NULL,
  actor VARCHAR(200),
  at DATETIME NOT NULL,
  CONSTRAINT pk_alias_history PRIMARY KEY (id),
  CONSTRAINT uq_alias_history_model_alias_sequence UNIQUE (model, alias, sequence),
  CONSTRAINT ck_alias_history_action CHECK (action IN ('publish', 'promote', 'rollback', 'retire')),
  CONSTRAINT fk_alias_history_model_version FOREIGN KEY(model, version) REFERENCES model_versions (model, version) ON DELETE CASCADE
  );
CREATE TABLE api_keys (
  id VARCHAR(100) NOT NULL,
  name VARCHAR(200) NOT NULL,
  digest VARCHAR(100) NOT NULL,
  scopes VARCHAR(100) NOT NULL,
  created DATETIME NOT NULL,
  expires DATETIME,
  revoked DATETIME,
  CONSTRAINT pk_api_keys PRIMARY KEY (id),
  CONSTRAINT uq_api_keys_digest UNIQUE (digest)
  );
CREATE TABLE audit (
  id INTEGER NOT NULL,
  at DATETIME NOT NULL,
  actor VARCHAR(200) NOT NULL,
  action VARCHAR(100) NOT NULL,
  target VARCHAR(500) NOT NULL,
  request_id VARCHAR(100),
  CONSTRAINT pk_audit PRIMARY KEY (id)
  );
CREATE TABLE curriculum (
  run VARCHAR(100) NOT NULL,
  step INTEGER NOT NULL,
  bucket VARCHAR(200) NOT NULL,
  hardness DOUBLE,
  weight DOUBLE,
  CONSTRAINT pk_curriculum PRIMARY KEY (run, step, bucket),
  CONSTRAINT fk_curriculum_run FOREIGN KEY(run) REFERENCES runs (id) ON DELETE CASCADE
  );
CREATE TABLE default_models (
  kind VARCHAR(100) NOT NULL,
  model VARCHAR(200) NOT NULL,
  actor VARCHAR(200),
  at DATETIME NOT NULL,
  CONSTRAINT pk_default_models PRIMARY KEY (kind),
  CONSTRAINT fk_default_models_model FOREIGN KEY(model) REFERENCES models (name) ON DELETE CASCADE
  );
CREATE TABLE entities (
  kind VARCHAR(100) NOT NULL,
  external_id VARCHAR(200) NOT NULL,
  features JSON NOT NULL,
  created DATETIME NOT NULL,
  updated DATETIME NOT NULL,
  CONSTRAINT pk_entities PRIMARY KEY (kind, external_id)
  );
CREATE TABLE erasures (
  receipt VARCHAR(100) NOT NULL,
  kind VARCHAR(100) NOT NULL,
  entity_digest VARCHAR(100) NOT NULL,
  entities INTEGER NOT NULL,
  events INTEGER NOT NULL,
  adaptations INTEGER NOT NULL,
  at DATETIME NOT NULL,
  confirmed DATETIME NOT NULL, impressions INTEGER DEFAULT '0' NOT NULL, outcomes INTEGER DEFAULT '0' NOT NULL,
  CONSTRAINT pk_erasures PRIMARY KEY (receipt)
  );
CREATE TABLE evaluations (
  id INTEGER NOT NULL,
  model VARCHAR(200),
  model_version VARCHAR(200),
  dataset VARCHAR(200) NOT NULL,
  scenario VARCHAR(200) NOT NULL,
  method VARCHAR(200) NOT NULL,
  role VARCHAR(20) NOT NULL,
  seed INTEGER,
  shots INTEGER NOT NULL,
  metric VARCHAR(200) NOT NULL,
  value DOUBLE,
  low DOUBLE,
  high DOUBLE,
  n INTEGER NOT NULL,
  created DATETIME NOT NULL, run VARCHAR(100), recipe VARCHAR(200), config_digest VARCHAR(16), split VARCHAR(200), seeds INTEGER DEFAULT '1' NOT NULL,
  CONSTRAINT pk_evaluations PRIMARY KEY (id),
  CONSTRAINT ck_evaluations_role CHECK (role IN ('learner', 'flagship', 'baseline'))
  );
CREATE TABLE events (
  kind VARCHAR(100) NOT NULL,
  event_id VARCHAR(200) NOT NULL,
  entity VARCHAR(200) NOT NULL,
  item VARCHAR(200) NOT NULL,
  label DOUBLE NOT NULL,
  time DATETIME NOT NULL,
  context JSON,
  received DATETIME NOT NULL,
  CONSTRAINT pk_events PRIMARY KEY (kind, event_id)
  );
CREATE TABLE explorations (
  id INTEGER NOT NULL,
  request_id VARCHAR(100) NOT NULL,
  model VARCHAR(200) NOT NULL,
  model_version VARCHAR(200) NOT NULL,
  kind VARCHAR(100) NOT NULL,
  entity VARCHAR(200) NOT NULL,
  item VARCHAR(200) NOT NULL,
  candidates INTEGER NOT NULL,
  propensity DOUBLE NOT NULL,
  seed INTEGER NOT NULL,
  created DATETIME NOT NULL,
  CONSTRAINT pk_explorations PRIMARY KEY (id)
  );
CREATE TABLE impressions (
  id INTEGER NOT NULL,
  request_id VARCHAR(100) NOT NULL,
  model VARCHAR(200) NOT NULL,
  model_version VARCHAR(200) NOT NULL,
  variant VARCHAR(50),
  kind VARCHAR(100) NOT NULL,
  entity VARCHAR(200) NOT NULL,
  served_by VARCHAR(20) NOT NULL,
  support_size INTEGER NOT NULL,
  first_rank INTEGER NOT NULL,
  items JSON NOT NULL,
  propensity DOUBLE NOT NULL,
  sample_rate DOUBLE NOT NULL,
  answers INTEGER NOT NULL,
  created DATETIME NOT NULL,
  CONSTRAINT pk_impressions PRIMARY KEY (id)
  );
CREATE TABLE item_revisions (
  kind VARCHAR(100) NOT NULL,
  revision INTEGER NOT NULL,
  CONSTRAINT pk_item_revisions PRIMARY KEY (kind)
  );
CREATE TABLE items (
  kind VARCHAR(100) NOT NULL,
  external_id VARCHAR(200) NOT NULL,
  features JSON NOT NULL,
  title VARCHAR(200),
  available BOOLEAN NOT NULL,
  revision INTEGER NOT NULL,
  created DATETIME NOT NULL,
  updated DATETIME NOT NULL,
  deleted DATETIME,
  CONSTRAINT pk_items PRIMARY KEY (kind, external_id)
  );
CREATE TABLE latest_curriculum (
  run VARCHAR(100) NOT NULL,
  bucket VARCHAR(200) NOT NULL,
  step INTEGER NOT NULL,
  hardness DOUBLE,
  weight DOUBLE,
  CONSTRAINT pk_latest_curriculum PRIMARY KEY (run, bucket),
  CONSTRAINT fk_latest_curriculum_run FOREIGN KEY(run) REFERENCES runs (id) ON DELETE CASCADE
  );
CREATE TABLE latest_metrics (
  run VARCHAR(100) NOT NULL,
  "key" VARCHAR(200) NOT NULL,
  step INTEGER NOT NULL,
  value DOUBLE,
  at DATETIME NOT NULL,
  CONSTRAINT pk_latest_metrics PRIMARY KEY (run, "key"),
  CONSTRAINT fk_latest_metrics_run FOREIGN KEY(run) REFERENCES runs (id) ON DELETE CASCADE
  );
CREATE TABLE metrics (
  run VARCHAR(100) NOT NULL,
  "key" VARCHAR(200) NOT NULL,
  step INTEGER NOT NULL,
  value DOUBLE,
  CONSTRAINT pk_metrics PRIMARY KEY (run, "key", step),
  CONSTRAINT fk_metrics_run FOREIGN KEY(run) REFERENCES runs (id) ON DELETE CASCADE
  );
CREATE TABLE model_versions (
  model VARCHAR(200) NOT NULL,
  version VARCHAR(200) NOT NULL,
  path VARCHAR(4000) NOT NULL,
  run VARCHAR(100),
  metrics JSON NOT NULL,
  created DATETIME NOT NULL, archived DATETIME, deleted DATETIME,
  CONSTRAINT pk_model_versions PRIMARY KEY (model, version),
  CONSTRAINT fk_model_versions_model FOREIGN KEY(model) REFERENCES models (name) ON DELETE CASCADE,
  CONSTRAINT fk_model_versions_run FOREIGN KEY(run) REFERENCES runs (id) ON DELETE SET NULL
  );
CREATE TABLE models (
  name VARCHAR(200) NOT NULL,
  created DATETIME NOT NULL,
  updated DATETIME NOT NULL,
  CONSTRAINT pk_models PRIMARY KEY (name)
  );
CREATE TABLE newcomer_results (
  id INTEGER NOT NULL,
  dataset VARCHAR(200) NOT NULL,
  scenario VARCHAR(200) NOT NULL,
  method VARCHAR(200) NOT NULL,
  seed INTEGER NOT NULL,
  kind VARCHAR(100) NOT NULL,
  entity VARCHAR(200) NOT NULL,
  metric VARCHAR(200) NOT NULL,
  shots INTEGER NOT NULL,
  value DOUBLE NOT NULL,
  value_unadapted DOUBLE,
  value_baseline DOUBLE,
  gain DOUBLE,
  place INTEGER,
  is_random BOOLEAN NOT NULL,
  support_size INTEGER NOT NULL,
  popularity DOUBLE,
  features_known INTEGER NOT NULL,
  features JSON NOT NULL,
  created DATETIME NOT NULL,
  CONSTRAINT pk_newcomer_results PRIMARY KEY (id)
  );
CREATE TABLE outcome_days (
  id INTEGER NOT NULL,
  day DATE NOT NULL,
  model VARCHAR(200) NOT NULL,
  model_version VARCHAR(200) NOT NULL,
  variant VARCHAR(50),
  kind VARCHAR(100) NOT NULL,
  support_size INTEGER NOT NULL,
  events INTEGER NOT NULL,
  entities INTEGER NOT NULL,
  listed_entities INTEGER NOT NULL,
  judged_entities INTEGER NOT NULL,
  lists DOUBLE NOT NULL,
  hits_1 DOUBLE NOT NULL,
  hits_5 DOUBLE NOT NULL,
  hits DOUBLE NOT NULL,
  reciprocal_ranks DOUBLE NOT NULL,
  popular_hits DOUBLE NOT NULL,
  compared_hits DOUBLE NOT NULL,
  compared DOUBLE NOT NULL,
  hits_hits DOUBLE NOT NULL,
  hits_lists DOUBLE NOT NULL,
  lists_lists DOUBLE NOT NULL,
  losses DOUBLE NOT NULL,
  loss DOUBLE NOT NULL,
  loss_unadapted DOUBLE NOT NULL,
  gain DOUBLE NOT NULL,
  gain_gain DOUBLE NOT NULL,
  gain_losses DOUBLE NOT NULL,
  losses_losses DOUBLE NOT NULL,
  CONSTRAINT pk_outcome_days PRIMARY KEY (id)
  );
CREATE TABLE outcomes (
  kind VARCHAR(100) NOT NULL,
  event_id VARCHAR(200) NOT NULL,
  entity VARCHAR(200) NOT NULL,
  model VARCHAR(200) NOT NULL,
  model_version VARCHAR(200) NOT NULL,
  variant VARCHAR(50),
  support_size INTEGER NOT NULL,
  impression INTEGER,
  rank INTEGER,
  hit_1 DOUBLE,
  hit_5 DOUBLE,
  hit_10 DOUBLE,
  reciprocal_rank DOUBLE,
  popular_hit_10 DOUBLE,
  loss DOUBLE,
  loss_unadapted DOUBLE,
  created DATETIME NOT NULL,
  day DATE NOT NULL,
  CONSTRAINT pk_outcomes PRIMARY KEY (kind, event_id)
  );
CREATE TABLE paired_tests (
  id INTEGER NOT NULL,
  dataset VARCHAR(200) NOT NULL,
  scenario VARCHAR(200) NOT NULL,
  method VARCHAR(200) NOT NULL,
  against VARCHAR(200) NOT NULL,
  reference VARCHAR(20) NOT NULL,
  segment VARCHAR(200),
  part VARCHAR(200),
  part_from DOUBLE,
  part_to DOUBLE,
  metric VARCHAR(200) NOT NULL,
  shots INTEGER NOT NULL,
  value DOUBLE,
  value_against DOUBLE,
  difference DOUBLE,
  low DOUBLE,
  high DOUBLE,
  p DOUBLE,
  verdict VARCHAR(20) NOT NULL,
  seeds INTEGER NOT NULL,
  n INTEGER NOT NULL,
  created DATETIME NOT NULL,
  CONSTRAINT pk_paired_tests PRIMARY KEY (id),
  CONSTRAINT ck_paired_tests_reference CHECK (reference IN ('baseline', 'unadapted')),
  CONSTRAINT ck_paired_tests_verdict CHECK (verdict IN ('better', 'worse', 'open'))
  );
CREATE TABLE recsys_meta_revision (
  version_num VARCHAR(32) NOT NULL,
  CONSTRAINT recsys_meta_revision_pkc PRIMARY KEY (version_num)
  );
CREATE TABLE runs (
  id VARCHAR(100) NOT NULL,
  recipe VARCHAR(200) NOT NULL,
  dataset VARCHAR(200) NOT NULL,
  learner VARCHAR(200) NOT NULL,
  config JSON NOT NULL,
  seed INTEGER NOT NULL,
  device VARCHAR(200),
  code_version VARCHAR(200),
  status VARCHAR(20) NOT NULL,
  reason VARCHAR(2000),
  started DATETIME NOT NULL,
  finished DATETIME, config_digest VARCHAR(16),
  CONSTRAINT pk_runs PRIMARY KEY (id),
  CONSTRAINT ck_runs_status CHECK (status IN ('running', 'finished', 'failed', 'stopped'))
  );
CREATE TABLE secrets (
  name VARCHAR(100) NOT NULL,
  value VARCHAR(100) NOT NULL,
  created DATETIME NOT NULL,
  CONSTRAINT pk_secrets PRIMARY KEY (name)
  );
CREATE TABLE split_entities (
  kind VARCHAR(100) NOT NULL,
  entity VARCHAR(200) NOT NULL,
  model VARCHAR(200) NOT NULL,
  sequence INTEGER NOT NULL,
  place INTEGER NOT NULL,
  events INTEGER NOT NULL,
  lists DOUBLE NOT NULL,
  hits_1 DOUBLE NOT NULL,
  hits_5 DOUBLE NOT NULL,
  hits DOUBLE NOT NULL,
  reciprocal_ranks DOUBLE NOT NULL,
  popular_hits DOUBLE NOT NULL,
  compared_hits DOUBLE NOT NULL,
  compared DOUBLE NOT NULL,
  losses DOUBLE NOT NULL,
  loss DOUBLE NOT NULL,
  loss_unadapted DOUBLE NOT NULL,
  gain DOUBLE NOT NULL,
  CONSTRAINT pk_split_entities PRIMARY KEY (kind, entity, model, sequence, place),
  CONSTRAINT fk_split_entities_model_sequence_place FOREIGN KEY(model, sequence, place) REFERENCES splits (model, sequence, place) ON DELETE CASCADE
  );
CREATE TABLE splits (
  id INTEGER NOT NULL,
  model VARCHAR(200) NOT NULL,
  sequence INTEGER NOT NULL,
  place INTEGER NOT NULL,
  label VARCHAR(50) NOT NULL,
  version VARCHAR(200),
  weight DOUBLE NOT NULL,
  salt VARCHAR(100) NOT NULL,
  actor VARCHAR(200),
  at DATETIME NOT NULL,
  CONSTRAINT pk_splits PRIMARY KEY (id),
  CONSTRAINT uq_splits_model_sequence_place UNIQUE (model, sequence, place),
  CONSTRAINT ck_splits_weight CHECK (weight >= 0 AND weight <= 1),
  CONSTRAINT fk_splits_model FOREIGN KEY(model) REFERENCES models (name) ON DELETE CASCADE,
  CONSTRAINT fk_splits_model_version FOREIGN KEY(model, version) REFERENCES model_versions (model, version) ON DELETE CASCADE
  );
CREATE TABLE tuning_studies (
  name VARCHAR(100) NOT NULL,
  learner VARCHAR(200) NOT NULL,
  dataset VARCHAR(200) NOT NULL,
  digest VARCHAR(200) NOT NULL,
  objective VARCHAR(20) NOT NULL,
  metric VARCHAR(200) NOT NULL,
  direction VARCHAR(20) NOT NULL,
  recipe JSON NOT NULL,
  space JSON NOT NULL,
  settings JSON NOT NULL,
  meta_features JSON NOT NULL,
  trials INTEGER NOT NULL,
  created DATETIME NOT NULL,
  CONSTRAINT pk_tuning_studies PRIMARY KEY (name),
  CONSTRAINT ck_tuning_studies_direction CHECK (direction IN ('maximize', 'minimize'))
  );
CREATE TABLE tuning_trials (
  study VARCHAR(100) NOT NULL,
  number INTEGER NOT NULL,
  status VARCHAR(20) NOT NULL,
  origin VARCHAR(200) NOT NULL,
  params JSON NOT NULL,
  value DOUBLE,
  validations JSON NOT NULL,
  steps INTEGER NOT NULL,
  reason VARCHAR(2000),
  worker VARCHAR(200) NOT NULL,
  started DATETIME NOT NULL,
  heartbeat DATETIME NOT NULL,
  finished DATETIME,
  CONSTRAINT pk_tuning_trials PRIMARY KEY (study, number),
  CONSTRAINT fk_tuning_trials_study FOREIGN KEY(study) REFERENCES tuning_studies (name) ON DELETE CASCADE,
  CONSTRAINT ck_tuning_trials_status CHECK (status IN ('running', 'finished', 'pruned', 'failed', 'stopped', 'lost'))
  );
CREATE TABLE unsummed_days (
  source VARCHAR(20) NOT NULL,
  day DATE NOT NULL,
  CONSTRAINT pk_unsummed_days PRIMARY KEY (source, day)
  );
CREATE TRIGGER keep_begun_splits AFTER INSERT ON splits BEGIN
  DELETE FROM split_entities
  WHERE model = NEW.model AND sequence IN (NEW.sequence - 1, NEW.sequence) AND EXISTS (
  SELECT 1 FROM outcomes
  WHERE outcomes.model = NEW.model AND outcomes.created >= NEW.at AND outcomes.kind = split_entities.kind
  AND outcomes.entity = split_entities.entity
  );
  INSERT INTO split_entities (kind, entity, model, sequence, place, events, lists, hits_1, hits_5, hits, reciprocal_ranks, popular_hits, compared_hits, compared, losses, loss, loss_unadapted, gain)
  SELECT kind, entity, model, sequence, place, events, lists, hits_1, hits_5, hits, reciprocal_ranks, popular_hits, compared_hits, compared, losses, loss, loss_unadapted, gain
  FROM (
  SELECT outcomes.kind, outcomes.entity, periods.model, periods.sequence, periods.place,
  COUNT(*) AS events,
  CAST(COUNT(hit_10) AS DOUBLE PRECISION) AS lists,
  COALESCE(SUM(hit_1), 0.0) AS hits_1,
  COALESCE(SUM(hit_5), 0.0) AS hits_5,
  COALESCE(SUM(hit_10), 0.0) AS hits,
  COALESCE(SUM(reciprocal_rank), 0.0) AS reciprocal_ranks,
  COALESCE(SUM(CASE WHEN hit_10 IS NOT NULL THEN popular_hit_10 END), 0.0) AS popular_hits,
  COALESCE(SUM(CASE WHEN popular_hit_10 IS NOT NULL THEN hit_10 END), 0.0) AS compared_hits,
  CAST(COUNT(hit_10 - popular_hit_10) AS DOUBLE PRECISION) AS compared,
  CAST(COUNT(loss_unadapted - loss) AS DOUBLE PRECISION) AS losses,
  COALESCE(SUM(CASE WHEN loss_unadapted IS NOT NULL THEN loss END), 0.0) AS loss,
  COALESCE(SUM(CASE WHEN loss IS NOT NULL THEN loss_unadapted END), 0.0) AS loss_unadapted,
  COALESCE(SUM(loss_unadapted - loss), 0.0) AS gain
  FROM outcomes JOIN split_periods AS periods ON periods.model = outcomes.model AND periods.model_version = outcomes.model_version AND periods.label = outcomes.variant AND outcomes.created >= periods.started AND (periods.ended IS NULL OR outcomes.created < periods.ended)
  WHERE periods.model = NEW.model AND periods.sequence IN (NEW.sequence - 1, NEW.sequence) AND (outcomes.kind, outcomes.entity) IN (SELECT late.kind, late.entity FROM outcomes AS late WHERE late.model = NEW.model AND late.created >= NEW.at)
  GROUP BY outcomes.kind, outcomes.entity, periods.model, periods.sequence, periods.place
  ) AS parts
  WHERE true ORDER BY kind, entity, model, sequence, place
  ON CONFLICT (kind, entity, model, sequence, place) DO UPDATE SET events = split_entities.events + excluded.events, lists = split_entities.lists + excluded.lists, hits_1 = split_entities.hits_1 + excluded.hits_1, hits_5 = split_entities.hits_5 + excluded.hits_5, hits = split_entities.hits + excluded.hits, reciprocal_ranks = split_entities.reciprocal_ranks + excluded.reciprocal_ranks, popular_hits = split_entities.popular_hits + excluded.popular_hits, compared_hits = split_entities.compared_hits + excluded.compared_hits, compared = split_entities.compared + excluded.compared, losses = split_entities.losses + excluded.losses, loss = split_entities.loss + excluded.loss, loss_unadapted = split_entities.loss_unadapted + excluded.loss_unadapted, gain = split_entities.gain + excluded.gain;
  END;
CREATE TRIGGER keep_deleted_splits AFTER DELETE ON outcomes BEGIN
  INSERT INTO split_entities (kind, entity, model, sequence, place, events, lists, hits_1, hits_5, hits, reciprocal_ranks, popular_hits, compared_hits, compared, losses, loss, loss_unadapted, gain)
  SELECT kind, entity, model, sequence, place, -events, -lists, -hits_1, -hits_5, -hits, -reciprocal_ranks, -popular_hits, -compared_hits, -compared, -losses, -loss, -loss_unadapted, -gain
  FROM (
  SELECT changed.kind, changed.entity, periods.model, periods.sequence, periods.place,
  COUNT(*) AS events,
  CAST(COUNT(hit_10) AS DOUBLE PRECISION) AS lists,
  COALESCE(SUM(hit_1), 0.0) AS hits_1,
  COALESCE(SUM(hit_5), 0.0) AS hits_5,
  COALESCE(SUM(hit_10), 0.0) AS hits,
  COALESCE(SUM(reciprocal_rank), 0.0) AS reciprocal_ranks,
  COALESCE(SUM(CASE WHEN hit_10 IS NOT NULL THEN popular_hit_10 END), 0.0) AS popular_hits,
  COALESCE(SUM(CASE WHEN popular_hit_10 IS NOT NULL THEN hit_10 END), 0.0) AS compared_hits,
  CAST(COUNT(hit_10 - popular_hit_10) AS DOUBLE PRECISION) AS compared,
  CAST(COUNT(loss_unadapted - loss) AS DOUBLE PRECISION) AS losses,
  COALESCE(SUM(CASE WHEN loss_unadapted IS NOT NULL THEN loss END), 0.0) AS loss,
  COALESCE(SUM(CASE WHEN loss IS NOT NULL THEN loss_unadapted END), 0.0) AS loss_unadapted,
  COALESCE(SUM(loss_unadapted - loss), 0.0) AS gain
  FROM (SELECT OLD.kind AS kind, OLD.entity AS entity, OLD.model AS model, OLD.model_version AS model_version, OLD.variant AS variant, OLD.created AS created, OLD.hit_1 AS hit_1, OLD.hit_5 AS hit_5, OLD.hit_10 AS hit_10, OLD.reciprocal_rank AS reciprocal_rank, OLD.popular_hit_10 AS popular_hit_10, OLD.loss AS loss, OLD.loss_unadapted AS loss_unadapted) AS changed JOIN split_periods AS periods ON periods.model = changed.model AND periods.model_version = changed.model_version AND periods.label = changed.variant AND changed.created >= periods.started AND (periods.ended IS NULL OR changed.created < periods.ended)
  GROUP BY changed.kind, changed.entity, periods.model, periods.sequence, periods.place
  ) AS parts
  WHERE true ORDER BY kind, entity, model, sequence, place
  ON CONFLICT (kind, entity, model, sequence, place) DO UPDATE SET events = split_entities.events + excluded.events, lists = split_entities.lists + excluded.lists, hits_1 = split_entities.hits_1 + excluded.hits_1, hits_5 = split_entities.hits_5 + excluded.hits_5, hits = split_entities.hits + excluded.hits, reciprocal_ranks = split_entities.reciprocal_ranks + excluded.reciprocal_ranks, popular_hits = split_entities.popular_hits + excluded.popular_hits, compared_hits = split_entities.compared_hits + excluded.compared_hits, compared = split_entities.compared + excluded.compared, losses = split_entities.losses + excluded.losses, loss = split_entities.loss + excluded.loss, loss_unadapted = split_entities.loss_unadapted + excluded.loss_unadapted, gain = split_entities.gain + excluded.gain;
  DELETE FROM split_entities WHERE events <= 0 AND kind = OLD.kind AND entity = OLD.entity;
  END;
CREATE TRIGGER keep_inserted_curriculum AFTER INSERT ON curriculum BEGIN
  INSERT INTO latest_curriculum (run, bucket, step, hardness, weight)
  VALUES (NEW.run, NEW.bucket, NEW.step, NEW.hardness, NEW.weight)
  ON CONFLICT (run, bucket) DO UPDATE
  SET step = excluded.step, hardness = excluded.hardness, weight = excluded.weight
  WHERE latest_curriculum.step <= excluded.step
  ;
  END;
CREATE TRIGGER keep_inserted_splits AFTER INSERT ON outcomes BEGIN
  INSERT INTO split_entities (kind, entity, model, sequence, place, events, lists, hits_1, hits_5, hits, reciprocal_ranks, popular_hits, compared_hits, compared, losses, loss, loss_unadapted, gain)
  SELECT kind, entity, model, sequence, place, events, lists, hits_1, hits_5, hits, reciprocal_ranks, popular_hits, compared_hits, compared, losses, loss, loss_unadapted, gain
  FROM (
  SELECT changed.kind, changed.entity, periods.model, periods.sequence, periods.place,
  COUNT(*) AS events,
  CAST(COUNT(hit_10) AS DOUBLE PRECISION) AS lists,
  COALESCE(SUM(hit_1), 0.0) AS hits_1,
  COALESCE(SUM(hit_5), 0.0) AS hits_5,
  COALESCE(SUM(hit_10), 0.0) AS hits,
  COALESCE(SUM(reciprocal_rank), 0.0) AS reciprocal_ranks,
  COALESCE(SUM(CASE WHEN hit_10 IS NOT NULL THEN popular_hit_10 END), 0.0) AS popular_hits,
  COALESCE(SUM(CASE WHEN popular_hit_10 IS NOT NULL THEN hit_10 END), 0.0) AS compared_hits,
  CAST(COUNT(hit_10 - popular_hit_10) AS DOUBLE PRECISION) AS compared,
  CAST(COUNT(loss_unadapted - loss) AS DOUBLE PRECISION) AS losses,
  COALESCE(SUM(CASE WHEN loss_unadapted IS NOT NULL THEN loss END), 0.0) AS loss,
  COALESCE(SUM(CASE WHEN loss IS NOT NULL THEN loss_unadapted END), 0.0) AS loss_unadapted,
  COALESCE(SUM(loss_unadapted - loss), 0.0) AS gain
  FROM (SELECT NEW.kind AS kind, NEW.entity AS entity, NEW.model AS model, NEW.model_version AS model_version, NEW.variant AS variant, NEW.created AS created, NEW.hit_1 AS hit_1, NEW.hit_5 AS hit_5, NEW.hit_10 AS hit_10, NEW.reciprocal_rank AS reciprocal_rank, NEW.popular_hit_10 AS popular_hit_10, NEW.loss AS loss, NEW.loss_unadapted AS loss_unadapted) AS changed JOIN split_periods AS periods ON periods.model = changed.model AND periods.model_version = changed.model_version AND periods.label = changed.variant AND changed.created >= periods.started AND (periods.ended IS NULL OR changed.created < periods.ended)
  GROUP BY changed.kind, changed.entity, periods.model, periods.sequence, periods.place
  ) AS parts
  WHERE true ORDER BY kind, entity, model, sequence, place
  ON CONFLICT (kind, entity, model, sequence, place) DO UPDATE SET events = split_entities.events + excluded.events, lists = split_entities.lists + excluded.lists, hits_1 = split_entities.hits_1 + excluded.hits_1, hits_5 = split_entities.hits_5 + excluded.hits_5, hits = split_entities.hits + excluded.hits, reciprocal_ranks = split_entities.reciprocal_ranks + excluded.reciprocal_ranks, popular_hits = split_entities.popular_hits + excluded.popular_hits, compared_hits = split_entities.compared_hits + excluded.compared_hits, compared = split_entities.compared + excluded.compared, losses = split_entities.losses + excluded.losses, loss = split_entities.loss + excluded.loss, loss_unadapted = split_entities.loss_unadapted + excluded.loss_unadapted, gain = split_entities.gain + excluded.gain;
  END;
CREATE TRIGGER keep_updated_curriculum AFTER UPDATE ON curriculum BEGIN
  INSERT INTO latest_curriculum (run, bucket, step, hardness, weight)
  VALUES (NEW.run, NEW.bucket, NEW.step, NEW.hardness, NEW.weight)
  ON CONFLICT (run, bucket) DO UPDATE
  SET step = excluded.step, hardness = excluded.hardness, weight = excluded.weight
  WHERE latest_curriculum.step <= excluded.step
  ;
  END;
CREATE TRIGGER keep_updated_splits AFTER UPDATE ON outcomes BEGIN
  INSERT INTO split_entities (kind, entity, model, sequence, place, events, lists, hits_1, hits_5, hits, reciprocal_ranks, popular_hits, compared_hits, compared, losses, loss, loss_unadapted, gain)
  SELECT kind, entity, model, sequence, place, -events, -lists, -hits_1, -hits_5, -hits, -reciprocal_ranks, -popular_hits, -compared_hits, -compared, -losses, -loss, -loss_unadapted, -gain
  FROM (
  SELECT changed.kind, changed.entity, periods.model, periods.sequence, periods.place,
  COUNT(*) AS events,
  CAST(COUNT(hit_10) AS DOUBLE PRECISION) AS lists,
  COALESCE(SUM(hit_1), 0.0) AS hits_1,
  COALESCE(SUM(hit_5), 0.0) AS hits_5,
  COALESCE(SUM(hit_10), 0.0) AS hits,
  COALESCE(SUM(reciprocal_rank), 0.0) AS reciprocal_ranks,
  COALESCE(SUM(CASE WHEN hit_10 IS NOT NULL THEN popular_hit_10 END), 0.0) AS popular_hits,
  COALESCE(SUM(CASE WHEN popular_hit_10 IS NOT NULL THEN hit_10 END), 0.0) AS compared_hits,
  CAST(COUNT(hit_10 - popular_hit_10) AS DOUBLE PRECISION) AS compared,
  CAST(COUNT(loss_unadapted - loss) AS DOUBLE PRECISION) AS losses,
  COALESCE(SUM(CASE WHEN loss_unadapted IS NOT NULL THEN loss END), 0.0) AS loss,
  COALESCE(SUM(CASE WHEN loss IS NOT NULL THEN loss_unadapted END), 0.0) AS loss_unadapted,
  COALESCE(SUM(loss_unadapted - loss), 0.0) AS gain
  FROM (SELECT OLD.kind AS kind, OLD.entity AS entity, OLD.model AS model, OLD.model_version AS model_version, OLD.variant AS variant, OLD.created AS created, OLD.hit_1 AS hit_1, OLD.hit_5 AS hit_5, OLD.hit_10 AS hit_10, OLD.reciprocal_rank AS reciprocal_rank, OLD.popular_hit_10 AS popular_hit_10, OLD.loss AS loss, OLD.loss_unadapted AS loss_unadapted) AS changed JOIN split_periods AS periods ON periods.model = changed.model AND periods.model_version = changed.model_version AND periods.label = changed.variant AND changed.created >= periods.started AND (periods.ended IS NULL OR changed.created < periods.ended)
  GROUP BY changed.kind, changed.entity, periods.model, periods.sequence, periods.place
  ) AS parts
  WHERE true ORDER BY kind, entity, model, sequence, place
  ON CONFLICT (kind, entity, model, sequence, place) DO UPDATE SET events = split_entities.events + excluded.events, lists = split_entities.lists + excluded.lists, hits_1 = split_entities.hits_1 + excluded.hits_1, hits_5 = split_entities.hits_5 + excluded.hits_5, hits = split_entities.hits + excluded.hits, reciprocal_ranks = split_entities.reciprocal_ranks + excluded.reciprocal_ranks, popular_hits = split_entities.popular_hits + excluded.popular_hits, compared_hits = split_entities.compared_hits + excluded.compared_hits, compared = split_entities.compared + excluded.compared, losses = split_entities.losses + excluded.losses, loss = split_entities.loss + excluded.loss, loss_unadapted = split_entities.loss_unadapted + excluded.loss_unadapted, gain = split_entities.gain + excluded.gain;
  DELETE FROM split_entities WHERE events <= 0 AND kind = OLD.kind AND entity = OLD.entity;
  INSERT INTO split_entities (kind, entity, model, sequence, place, events, lists, hits_1, hits_5, hits, reciprocal_ranks, popular_hits, compared_hits, compared, losses, loss, loss_unadapted, gain)
  SELECT kind, entity, model, sequence, place, events, lists, hits_1, hits_5, hits, reciprocal_ranks, popular_hits, compared_hits, compared, losses, loss, loss_unadapted, gain
  FROM (
  SELECT changed.kind, changed.entity, periods.model, periods.sequence, periods.place,
  COUNT(*) AS events,
  CAST(COUNT(hit_10) AS DOUBLE PRECISION) AS lists,
  COALESCE(SUM(hit_1), 0.0) AS hits_1,
  COALESCE(SUM(hit_5), 0.0) AS hits_5,
  COALESCE(SUM(hit_10), 0.0) AS hits,
  COALESCE(SUM(reciprocal_rank), 0.0) AS reciprocal_ranks,
  COALESCE(SUM(CASE WHEN hit_10 IS NOT NULL THEN popular_hit_10 END), 0.0) AS popular_hits,
  COALESCE(SUM(CASE WHEN popular_hit_10 IS NOT NULL THEN hit_10 END), 0.0) AS compared_hits,
  CAST(COUNT(hit_10 - popular_hit_10) AS DOUBLE PRECISION) AS compared,
  CAST(COUNT(loss_unadapted - loss) AS DOUBLE PRECISION) AS losses,
  COALESCE(SUM(CASE WHEN loss_unadapted IS NOT NULL THEN loss END), 0.0) AS loss,
  COALESCE(SUM(CASE WHEN loss IS NOT NULL THEN loss_unadapted END), 0.0) AS loss_unadapted,
  COALESCE(SUM(loss_unadapted - loss), 0.0) AS gain
  FROM (SELECT NEW.kind AS kind, NEW.entity AS entity, NEW.model AS model, NEW.model_version AS model_version, NEW.variant AS variant, NEW.created AS created, NEW.hit_1 AS hit_1, NEW.hit_5 AS hit_5, NEW.hit_10 AS hit_10, NEW.reciprocal_rank AS reciprocal_rank, NEW.popular_hit_10 AS popular_hit_10, NEW.loss AS loss, NEW.loss_unadapted AS loss_unadapted) AS changed JOIN split_periods AS periods ON periods.model = changed.model AND periods.model_version = changed.model_version AND periods.label = changed.variant AND changed.created >= periods.started AND (periods.ended IS NULL OR changed.created < periods.ended)
  GROUP BY changed.kind, changed.entity, periods.model, periods.sequence, periods.place
  ) AS parts
  WHERE true ORDER BY kind, entity, model, sequence, place
  ON CONFLICT (kind, entity, model, sequence, place) DO UPDATE SET events = split_entities.events + excluded.events, lists = split_entities.lists + excluded.lists, hits_1 = split_entities.hits_1 + excluded.hits_1, hits_5 = split_entities.hits_5 + excluded.hits_5, hits = split_entities.hits + excluded.hits, reciprocal_ranks = split_entities.reciprocal_ranks + excluded.reciprocal_ranks, popular_hits = split_entities.popular_hits + excluded.popular_hits, compared_hits = split_entities.compared_hits + excluded.compared_hits, compared = split_entities.compared + excluded.compared, losses = split_entities.losses + excluded.losses, loss = split_entities.loss + excluded.loss, loss_unadapted = split_entities.loss_unadapted + excluded.loss_unadapted, gain = split_entities.gain + excluded.gain;
  END;
CREATE TRIGGER note_changed_from_adaptations_days AFTER UPDATE ON adaptations BEGIN
  INSERT OR IGNORE INTO unsummed_days (source, day) VALUES ('adaptations', DATE(OLD.created));
  END;
CREATE TRIGGER note_changed_from_outcomes_days AFTER UPDATE ON outcomes BEGIN
  INSERT OR IGNORE INTO unsummed_days (source, day) VALUES ('outcomes', OLD.day);
  END;
CREATE TRIGGER note_changed_to_adaptations_days AFTER UPDATE ON adaptations BEGIN
  INSERT OR IGNORE INTO unsummed_days (source, day) VALUES ('adaptations', DATE(NEW.created));
  END;
CREATE TRIGGER note_changed_to_outcomes_days AFTER UPDATE ON outcomes BEGIN
  INSERT OR IGNORE INTO unsummed_days (source, day) VALUES ('outcomes', NEW.day);
  END;
CREATE TRIGGER note_deleted_adaptations_days AFTER DELETE ON adaptations BEGIN
  INSERT OR IGNORE INTO unsummed_days (source, day) VALUES ('adaptations', DATE(OLD.created));
  END;
CREATE TRIGGER note_deleted_outcomes_days AFTER DELETE ON outcomes BEGIN
  INSERT OR IGNORE INTO unsummed_days (source, day) VALUES ('outcomes', OLD.day);
  END;
CREATE TRIGGER note_inserted_adaptations_days AFTER INSERT ON adaptations BEGIN
  INSERT OR IGNORE INTO unsummed_days (source, day) VALUES ('adaptations', DATE(NEW.created));
  END;
CREATE TRIGGER note_inserted_outcomes_days AFTER INSERT ON outcomes BEGIN
  INSERT OR IGNORE INTO unsummed_days (source, day) VALUES ('outcomes', NEW.day);
  END;
CREATE VIEW adaptation_daily AS
  SELECT days.day AS day, model_version, variant, kind, served_by,
  CAST(SUM(answers) AS BIGINT) AS adaptations,
  COUNT(DISTINCT entity) AS entities,
  SUM(CAST(support_size AS DOUBLE PRECISION) * answers) / SUM(answers) AS support_size,
  AVG(loss_before) AS loss_before,
  AVG(loss_after) AS loss_after,
  AVG(CASE WHEN loss_after < loss_before THEN 1.0E0 WHEN loss_after >= loss_before THEN 0.0E0 END) AS improved,
  AVG(gradient_norm) AS gradient_norm,
  SUM(ms * answers) / SUM(answers) AS ms,
  MAX(ms) AS slowest_ms
  FROM unsummed_days AS days CROSS JOIN adaptations WHERE days.source = 'adaptations' AND adaptations.created >= days.day AND adaptations.created < DATE(days.day, '+1 day') GROUP BY days.day, model_version, variant, kind, served_by
  UNION ALL
  SELECT day, model_version, variant, kind, served_by, adaptations, entities, support_size, loss_before, loss_after, improved, gradient_norm, ms, slowest_ms FROM adaptation_days WHERE day NOT IN (SELECT day FROM unsummed_days WHERE source = 'adaptations');
CREATE VIEW cold_start_curve AS
  SELECT model, model_version, run, recipe, config_digest, dataset, scenario, split, method, role, seed, seeds, metric,
  shots, value, low, high, n, created
  FROM (
  SELECT evaluations.*, MAX(created) OVER (
  PARTITION BY model, model_version, run, dataset, scenario, split, method, seed, seeds
  ) AS newest
  FROM evaluations
  WHERE seed IS NULL OR seeds = 1
  ) AS curves
  WHERE created = newest;
CREATE VIEW hardest_tasks AS
  SELECT seen.run, runs.dataset, runs.learner, seen.bucket, seen.step, seen.hardness, seen.weight,
  RANK() OVER (
  PARTITION BY seen.run
  ORDER BY CASE WHEN seen.hardness IS NULL THEN 1 ELSE 0 END, seen.hardness DESC
  ) AS rank
  FROM latest_curriculum AS seen JOIN runs ON runs.id = seen.run;
CREATE VIEW online_quality AS
  WITH rates AS (
  SELECT day, model, model_version, variant, kind, support_size,
  CAST(events AS BIGINT) AS events, entities, CAST(lists AS BIGINT) AS lists, hits, listed_entities,
  CASE WHEN lists > 0 THEN hits_1 / lists END AS hit_1,
  CASE WHEN lists > 0 THEN hits_5 / lists END AS hit_5,
  CASE WHEN lists > 0 THEN hits / lists END AS hit_10,
  CASE WHEN lists > 0 THEN CASE WHEN listed_entities > 1 THEN CASE WHEN hits_hits - 2 * hits / lists * hits_lists + hits / lists * hits / lists * lists_lists > 0 THEN (hits_hits - 2 * hits / lists * hits_lists + hits / lists * hits / lists * lists_lists) / (lists * lists) * listed_entities / (listed_entities - 1) ELSE 0.0 END END END AS hit_variance,
  CASE WHEN lists > 0 THEN reciprocal_ranks / lists END AS reciprocal_rank,
  CAST(compared AS BIGINT) AS compared,
  CASE WHEN compared > 0 THEN compared_hits / compared END AS compared_hit_10,
  CASE WHEN compared > 0 THEN popular_hits / compared END AS popular_hit_10,
  CAST(losses AS BIGINT) AS judged,
  CASE WHEN losses > 0 THEN loss / losses END AS mean_loss,
  CASE WHEN losses > 0 THEN loss_unadapted / losses END AS mean_loss_unadapted,
  CASE WHEN losses > 0 THEN gain / losses END AS mean_gain,
  CASE WHEN judged_entities >= 10 THEN CASE WHEN judged_entities > 1 THEN CASE WHEN gain_gain - 2 * gain / losses * gain_losses + gain / losses * gain / losses * losses_losses > 0 THEN (gain_gain - 2 * gain / losses * gain_losses + gain / losses * gain / losses * losses_losses) / (losses * losses) * judged_entities / (judged_entities - 1) ELSE 0.0 END END END AS gain_variance
  FROM outcome_sums
  )
  SELECT day, model, model_version, variant, kind, support_size, events, entities, lists,
  hit_1,
  hit_5,
  hit_10,
  hit_10 - 1.96 * SQRT(CASE WHEN listed_entities >= 10 AND hits >= 5 AND lists - hits >= 5 THEN hit_variance END) AS hit_10_low,
  hit_10 + 1.96 * SQRT(CASE WHEN listed_entities >= 10 AND hits >= 5 AND lists - hits >= 5 THEN hit_variance END) AS hit_10_high,
  reciprocal_rank,
  compared,
  compared_hit_10,
  popular_hit_10,
  judged,
  mean_loss AS loss,
  mean_loss_unadapted AS loss_unadapted,
  mean_gain AS gain,
  mean_gain - 1.96 * SQRT(gain_variance) AS gain_low,
  mean_gain + 1.96 * SQRT(gain_variance) AS gain_high
  FROM rates;
CREATE VIEW outcome_sums AS
  WITH per_entity AS (
  SELECT days.day AS day, model, model_version, variant, kind, support_size, entity,
  COUNT(*) AS events,
  CAST(COUNT(hit_10) AS DOUBLE PRECISION) AS lists,
  COALESCE(SUM(hit_1), 0.0) AS hits_1,
  COALESCE(SUM(hit_5), 0.0) AS hits_5,
  COALESCE(SUM(hit_10), 0.0) AS hits,
  COALESCE(SUM(reciprocal_rank), 0.0) AS reciprocal_ranks,
  COALESCE(SUM(CASE WHEN hit_10 IS NOT NULL THEN popular_hit_10 END), 0.0) AS popular_hits,
  COALESCE(SUM(CASE WHEN popular_hit_10 IS NOT NULL THEN hit_10 END), 0.0) AS compared_hits,
  CAST(COUNT(hit_10 - popular_hit_10) AS DOUBLE PRECISION) AS compared,
  CAST(COUNT(loss_unadapted - loss) AS DOUBLE PRECISION) AS losses,
  COALESCE(SUM(CASE WHEN loss_unadapted IS NOT NULL THEN loss END), 0.0) AS loss,
  COALESCE(SUM(CASE WHEN loss IS NOT NULL THEN loss_unadapted END), 0.0) AS loss_unadapted,
  COALESCE(SUM(loss_unadapted - loss), 0.0) AS gain
  FROM unsummed_days AS days CROSS JOIN outcomes
  WHERE days.source = 'outcomes' AND outcomes.day = days.day
  GROUP BY days.day, entity, support_size, model, model_version, variant, kind
  ), sums AS (
  SELECT day, model, model_version, variant, kind, support_size,
  SUM(events) AS events,
  COUNT(entity) AS entities,
  SUM(lists) AS lists,
  SUM(CASE WHEN lists > 0 THEN 1 ELSE 0 END) AS listed_entities,
  SUM(hits_1) AS hits_1,
  SUM(hits_5) AS hits_5,
  SUM(hits) AS hits,
  SUM(reciprocal_ranks) AS reciprocal_ranks,
  SUM(popular_hits) AS popular_hits,
  SUM(compared_hits) AS compared_hits,
  SUM(compared) AS compared,
  SUM(hits * hits) AS hits_hits,
  SUM(hits * lists) AS hits_lists,
  SUM(lists * lists) AS lists_lists,
  SUM(losses) AS losses,
  SUM(CASE WHEN losses > 0 THEN 1 ELSE 0 END) AS judged_entities,
  SUM(loss) AS loss,
  SUM(loss_unadapted) AS loss_unadapted,
  SUM(gain) AS gain,
  SUM(gain * gain) AS gain_gain,
  SUM(gain * losses) AS gain_losses,
  SUM(losses * losses) AS losses_losses
  FROM per_entity GROUP BY day, model, model_version, variant, kind, support_size
  )
  SELECT day, model, model_version, variant, kind, support_size, CAST(events AS BIGINT) AS events, entities, listed_entities, judged_entities, lists, hits_1, hits_5, hits, reciprocal_ranks, popular_hits, compared_hits, compared, hits_hits, hits_lists, lists_lists, losses, loss, loss_unadapted, gain, gain_gain, gain_losses, losses_losses FROM sums
  UNION ALL
  SELECT day, model, model_version, variant, kind, support_size, events, entities, listed_entities, judged_entities, lists, hits_1, hits_5, hits, reciprocal_ranks, popular_hits, compared_hits, compared, hits_hits, hits_lists, lists_lists, losses, loss, loss_unadapted, gain, gain_gain, gain_losses, losses_losses FROM outcome_days
  WHERE day NOT IN (SELECT day FROM unsummed_days WHERE source = 'outcomes');
CREATE VIEW split_periods AS
  SELECT
  model, sequence, place, label, version AS model_version, weight, at AS started,
  (
  SELECT MIN(later.at) FROM splits AS later
  WHERE later.model = splits.model AND later.sequence = splits.sequence + 1
  ) AS ended
  FROM splits
  WHERE version IS NOT NULL;
CREATE VIEW split_results AS
  WITH sums AS (
  SELECT model, sequence, place,
  SUM(events) AS events,
  COUNT(entity) AS entities,
  SUM(lists) AS lists,
  SUM(CASE WHEN lists > 0 THEN 1 ELSE 0 END) AS listed_entities,
  SUM(hits_1) AS hits_1,
  SUM(hits_5) AS hits_5,
  SUM(hits) AS hits,
  SUM(reciprocal_ranks) AS reciprocal_ranks,
  SUM(popular_hits) AS popular_hits,
  SUM(compared_hits) AS compared_hits,
  SUM(compared) AS compared,
  SUM(hits * hits) AS hits_hits,
  SUM(hits * lists) AS hits_lists,
  SUM(lists * lists) AS lists_lists,
  SUM(losses) AS losses,
  SUM(CASE WHEN losses > 0 THEN 1 ELSE 0 END) AS judged_entities,
  SUM(loss) AS loss,
  SUM(loss_unadapted) AS loss_unadapted,
  SUM(gain) AS gain,
  SUM(gain * gain) AS gain_gain,
  SUM(gain * losses) AS gain_losses,
  SUM(losses * losses) AS losses_losses
  FROM split_entities GROUP BY model, sequence, place
  ), rates AS (
  SELECT arms.model, arms.sequence, arms.place, label, version AS model_version, weight, at AS started,
  CAST(events AS BIGINT) AS events, entities, CAST(lists AS BIGINT) AS lists, hits, listed_entities,
  CASE WHEN lists > 0 THEN hits_1 / lists END AS hit_1,
  CASE WHEN lists > 0 THEN hits_5 / lists END AS hit_5,
  CASE WHEN lists > 0 THEN hits / lists END AS hit_10,
  CASE WHEN lists > 0 THEN CASE WHEN listed_entities > 1 THEN CASE WHEN hits_hits - 2 * hits / lists * hits_lists + hits / lists * hits / lists * lists_lists > 0 THEN (hits_hits - 2 * hits / lists * hits_lists + hits / lists * hits / lists * lists_lists) / (lists * lists) * listed_entities / (listed_entities - 1) ELSE 0.0 END END END AS hit_variance,
  CASE WHEN lists > 0 THEN reciprocal_ranks / lists END AS reciprocal_rank,
  CAST(compared AS BIGINT) AS compared,
  CASE WHEN compared > 0 THEN compared_hits / compared END AS compared_hit_10,
  CASE WHEN compared > 0 THEN popular_hits / compared END AS popular_hit_10,
  CAST(losses AS BIGINT) AS judged,
  CASE WHEN losses > 0 THEN loss / losses END AS mean_loss,
  CASE WHEN losses > 0 THEN loss_unadapted / losses END AS mean_loss_unadapted,
  CASE WHEN losses > 0 THEN gain / losses END AS mean_gain,
  CASE WHEN judged_entities >= 10 THEN CASE WHEN judged_entities > 1 THEN CASE WHEN gain_gain - 2 * gain / losses * gain_losses + gain / losses * gain / losses * losses_losses > 0 THEN (gain_gain - 2 * gain / losses * gain_losses + gain / losses * gain / losses * losses_losses) / (losses * losses) * judged_entities / (judged_entities - 1) ELSE 0.0 END END END AS gain_variance
  FROM splits AS arms
  LEFT JOIN sums ON sums.model = arms.model AND sums.sequence = arms.sequence AND sums.place = arms.place
  WHERE version IS NOT NULL
  ), pairs AS (
  SELECT
  rates.*,
  FIRST_VALUE(hit_10) OVER (PARTITION BY model, sequence ORDER BY place) AS first_hit_10,
  FIRST_VALUE(hits) OVER (PARTITION BY model, sequence ORDER BY place) AS first_hits,
  FIRST_VALUE(lists) OVER (PARTITION BY model, sequence ORDER BY place) AS first_lists,
  FIRST_VALUE(listed_entities) OVER (PARTITION BY model, sequence ORDER BY place) AS first_entities,
  FIRST_VALUE(hit_variance) OVER (PARTITION BY model, sequence ORDER BY place) AS first_variance,
  MAX(place) OVER (PARTITION BY model, sequence) AS arms
  FROM rates
  ), shares AS (
  SELECT
  pairs.*,
  CASE WHEN place > 0 AND listed_entities >= 30 AND first_entities >= 30 AND hits + first_hits >= 10 AND lists + first_lists - hits - first_hits >= 10 THEN (hits + first_hits) / (lists + first_lists)
  * (1 - (hits + first_hits) / (lists + first_lists)) END AS share
  FROM pairs
  ), differences AS (
  SELECT
  shares.*,
  CASE WHEN share IS NOT NULL THEN hit_10 - first_hit_10 END AS difference,
  CASE WHEN share IS NOT NULL THEN CASE WHEN hit_variance > share / lists THEN hit_variance ELSE share / lists END
  + CASE WHEN first_variance > share / first_lists THEN first_variance ELSE share / first_lists END END AS variance
  FROM shares
  ), tests AS (
  SELECT
  differences.*,
  CASE WHEN variance > 0 THEN SQRT(
  variance * (variance + 0.01) / 0.01
  * (2 * LN(arms / 0.05) + LN((variance + 0.01) / variance))
  ) END AS margin,
  CASE WHEN variance > 0 THEN LN(CAST(arms AS DOUBLE PRECISION)) + 0.5 * LN((variance + 0.01) / variance)
  - 0.01 * difference * difference / (2 * variance * (variance + 0.01)) END AS log_p
  FROM differences
  )
  SELECT
  model, sequence, label, model_version, weight, started,
  (
  SELECT MIN(later.at) FROM splits AS later
  WHERE later.model = tests.model AND later.sequence = tests.sequence + 1
  ) AS ended,
  COALESCE(events, 0) AS events, COALESCE(entities, 0) AS entities, COALESCE(lists, 0) AS lists,
  hit_1,
  hit_5,
  hit_10,
  hit_10 - 1.96 * SQRT(CASE WHEN listed_entities >= 10 AND hits >= 5 AND lists - hits >= 5 THEN hit_variance END) AS hit_10_low,
  hit_10 + 1.96 * SQRT(CASE WHEN listed_entities >= 10 AND hits >= 5 AND lists - hits >= 5 THEN hit_variance END) AS hit_10_high,
  reciprocal_rank,
  compared,
  compared_hit_10,
  popular_hit_10,
  judged,
  mean_loss AS loss,
  mean_loss_unadapted AS loss_unadapted,
  mean_gain AS gain,
  mean_gain - 1.96 * SQRT(gain_variance) AS gain_low,
  mean_gain + 1.96 * SQRT(gain_variance) AS gain_high
  ,
  difference,
  difference - margin AS difference_low,
  difference + margin AS difference_high,
  CASE WHEN log_p >= 0 THEN 1.0E0 WHEN log_p < -700 THEN 0.0E0 WHEN log_p < 0 THEN EXP(log_p) END AS p,
  CASE
  WHEN place = 0 THEN 'reference'
  WHEN margin IS NULL THEN 'too few'
  WHEN difference > margin THEN 'better'
  WHEN difference < -margin THEN 'worse'
  ELSE 'open'
  END AS verdict
  FROM tests;
-- PostgreSQL, made of the tables
CREATE TABLE adaptation_days (
  id BIGSERIAL NOT NULL,
  day DATE NOT NULL,
  model_version VARCHAR(200) NOT NULL,
  variant VARCHAR(50),
  kind VARCHAR(100) NOT NULL,
  served_by VARCHAR(20) NOT NULL,
  adaptations BIGINT NOT NULL,
  entities BIGINT NOT NULL,
  support_size DOUBLE PRECISION,
  loss_before DOUBLE PRECISION,
  loss_after DOUBLE PRECISION,
  improved DOUBLE PRECISION,
  gradient_norm DOUBLE PRECISION,
  ms DOUBLE PRECISION,
  slowest_ms DOUBLE PRECISION,
  CONSTRAINT pk_adaptation_days PRIMARY KEY (id)
  );
CREATE INDEX ix_adaptation_days_day ON adaptation_days (day);
CREATE TABLE adaptations (
  id BIGSERIAL NOT NULL,
  model_version VARCHAR(200) NOT NULL,
  kind VARCHAR(100) NOT NULL,
  entity VARCHAR(200) NOT NULL,
  support_size BIGINT NOT NULL,
  steps BIGINT NOT NULL,
  loss_before DOUBLE PRECISION,
  loss_after DOUBLE PRECISION,
  gradient_norm DOUBLE PRECISION,
  ms DOUBLE PRECISION NOT NULL,
  served_by VARCHAR(20) NOT NULL,
  created TIMESTAMP WITH TIME ZONE NOT NULL,
  answers BIGINT DEFAULT '1' NOT NULL,
  variant VARCHAR(50),
  CONSTRAINT pk_adaptations PRIMARY KEY (id)
  );
CREATE INDEX ix_adaptations_created_id ON adaptations (created, id);
CREATE INDEX ix_adaptations_kind_entity_created ON adaptations (kind, entity, created);
CREATE INDEX ix_adaptations_model_version_created ON adaptations (model_version, created);
CREATE TABLE alerts (
  model VARCHAR(200) NOT NULL,
  model_version VARCHAR(200) NOT NULL,
  rule VARCHAR(100) NOT NULL,
  opened TIMESTAMP WITH TIME ZONE NOT NULL,
  ended TIMESTAMP WITH TIME ZONE,
  checked TIMESTAMP WITH TIME ZONE NOT NULL,
  difference DOUBLE PRECISION NOT NULL,
  low DOUBLE PRECISION NOT NULL,
  high DOUBLE PRECISION NOT NULL,
  events BIGINT NOT NULL,
  entities BIGINT NOT NULL,
  CONSTRAINT pk_alerts PRIMARY KEY (model, model_version, rule),
  CONSTRAINT fk_alerts_model FOREIGN KEY(model) REFERENCES models (name) ON DELETE CASCADE
  );
CREATE TABLE alias_history (
  id BIGSERIAL NOT NULL,
  model VARCHAR(200) NOT NULL,
  alias VARCHAR(100) NOT NULL,
  sequence BIGINT NOT NULL,
  version VARCHAR(200) NOT NULL,
  previous VARCHAR(200),
  action VARCHAR(20) NOT NULL,
  actor VARCHAR(200),
  at TIMESTAMP WITH TIME ZONE NOT NULL,
  CONSTRAINT pk_alias_history PRIMARY KEY (id),
  CONSTRAINT ck_alias_history_action CHECK (action IN ('publish', 'promote', 'rollback', 'retire')),
  CONSTRAINT uq_alias_history_model_alias_sequence UNIQUE (model, alias, sequence),
  CONSTRAINT fk_alias_history_model_version FOREIGN KEY(model, version) REFERENCES model_versions (model, version) ON DELETE CASCADE
  );
CREATE INDEX ix_alias_history_model_version ON alias_history (model, version);
CREATE TABLE api_keys (
  id VARCHAR(100) NOT NULL,
  name VARCHAR(200) NOT NULL,
  digest VARCHAR(100) NOT NULL,
  scopes VARCHAR(100) NOT NULL,
  created TIMESTAMP WITH TIME ZONE NOT NULL,
  expires TIMESTAMP WITH TIME ZONE,
  revoked TIMESTAMP WITH TIME ZONE,
  CONSTRAINT pk_api_keys PRIMARY KEY (id),
  CONSTRAINT uq_api_keys_digest UNIQUE (digest)
  );
CREATE INDEX ix_api_keys_name ON api_keys (name);
CREATE TABLE audit (
  id BIGSERIAL NOT NULL,
  at TIMESTAMP WITH TIME ZONE NOT NULL,
  actor VARCHAR(200) NOT NULL,
  action VARCHAR(100) NOT NULL,
  target VARCHAR(500) NOT NULL,
  request_id VARCHAR(100),
  CONSTRAINT pk_audit PRIMARY KEY (id)
  );
CREATE INDEX ix_audit_action_at ON audit (action, at);
CREATE INDEX ix_audit_actor_at ON audit (actor, at);
CREATE INDEX ix_audit_at_id ON audit (at, id);
CREATE TABLE curriculum (
  run VARCHAR(100) NOT NULL,
  step BIGINT NOT NULL,
  bucket VARCHAR(200) NOT NULL,
  hardness DOUBLE PRECISION,
  weight DOUBLE PRECISION,
  CONSTRAINT pk_curriculum PRIMARY KEY (run, step, bucket),
  CONSTRAINT fk_curriculum_run FOREIGN KEY(run) REFERENCES runs (id) ON DELETE CASCADE
  );
CREATE TABLE default_models (
  kind VARCHAR(100) NOT NULL,
  model VARCHAR(200) NOT NULL,
  actor VARCHAR(200),
  at TIMESTAMP WITH TIME ZONE NOT NULL,
  CONSTRAINT pk_default_models PRIMARY KEY (kind),
  CONSTRAINT fk_default_models_model FOREIGN KEY(model) REFERENCES models (name) ON DELETE CASCADE
  );
CREATE INDEX ix_default_models_model ON default_models (model);
CREATE TABLE entities (
  kind VARCHAR(100) NOT NULL,
  external_id VARCHAR(200) NOT NULL,
  features JSONB NOT NULL,
  created TIMESTAMP WITH TIME ZONE NOT NULL,
  updated TIMESTAMP WITH TIME ZONE NOT NULL,
  CONSTRAINT pk_entities PRIMARY KEY (kind, external_id)
  );
CREATE TABLE erasures (
  receipt VARCHAR(100) NOT NULL,
  kind VARCHAR(100) NOT NULL,
  entity_digest VARCHAR(100) NOT NULL,
  entities BIGINT NOT NULL,
  events BIGINT NOT NULL,
  adaptations BIGINT NOT NULL,
  impressions BIGINT DEFAULT '0' NOT NULL,
  outcomes BIGINT DEFAULT '0' NOT NULL,
  at TIMESTAMP WITH TIME ZONE NOT NULL,
  confirmed TIMESTAMP WITH TIME ZONE NOT NULL,
  CONSTRAINT pk_erasures PRIMARY KEY (receipt)
  );
CREATE INDEX ix_erasures_entity_digest_at ON erasures (entity_digest, at);
CREATE TABLE evaluations (
  id BIGSERIAL NOT NULL,
  model VARCHAR(200),
  model_version VARCHAR(200),
  run VARCHAR(100),
  recipe VARCHAR(200),
  config_digest VARCHAR(16),
  dataset VARCHAR(200) NOT NULL,
  scenario VARCHAR(200) NOT NULL,
  split VARCHAR(200),
  method VARCHAR(200) NOT NULL,
  role VARCHAR(20) NOT NULL,
  seed BIGINT,
  seeds BIGINT DEFAULT '1' NOT NULL,
  shots BIGINT NOT NULL,
  metric VARCHAR(200) NOT NULL,
  value DOUBLE PRECISION,
  low DOUBLE PRECISION,
  high DOUBLE PRECISION,
  n BIGINT NOT NULL,
  created TIMESTAMP WITH TIME ZONE NOT NULL,
  CONSTRAINT pk_evaluations PRIMARY KEY (id),
  CONSTRAINT ck_evaluations_role CHECK (role IN ('learner', 'flagship', 'baseline'))
  );
CREATE INDEX ix_evaluations_dataset_created ON evaluations (dataset, created);
CREATE INDEX ix_evaluations_dataset_scenario_metric_method_shots ON evaluations (dataset, scenario, metric, method, shots);
CREATE INDEX ix_evaluations_model_created ON evaluations (model, created);
CREATE INDEX ix_evaluations_run ON evaluations (run);
CREATE TABLE events (
  kind VARCHAR(100) NOT NULL,
  event_id VARCHAR(200) NOT NULL,
  entity VARCHAR(200) NOT NULL,
  item VARCHAR(200) NOT NULL,
  label DOUBLE PRECISION NOT NULL,
  time TIMESTAMP WITH TIME ZONE NOT NULL,
  context JSONB,
  received TIMESTAMP WITH TIME ZONE NOT NULL,
  CONSTRAINT pk_events PRIMARY KEY (kind, event_id)
  );
CREATE INDEX ix_events_kind_entity_time_event_id ON events (kind, entity, time, event_id);
CREATE INDEX ix_events_kind_item_received ON events (kind, item, received);
CREATE INDEX ix_events_kind_received ON events (kind, received);
CREATE TABLE explorations (
  id BIGSERIAL NOT NULL,
  request_id VARCHAR(100) NOT NULL,
  model VARCHAR(200) NOT NULL,
  model_version VARCHAR(200) NOT NULL,
  kind VARCHAR(100) NOT NULL,
  entity VARCHAR(200) NOT NULL,
  item VARCHAR(200) NOT NULL,
  candidates BIGINT NOT NULL,
  propensity DOUBLE PRECISION NOT NULL,
  seed BIGINT NOT NULL,
  created TIMESTAMP WITH TIME ZONE NOT NULL,
  CONSTRAINT pk_explorations PRIMARY KEY (id)
  );
CREATE INDEX ix_explorations_created_id ON explorations (created, id);
CREATE INDEX ix_explorations_kind_entity_created ON explorations (kind, entity, created);
CREATE TABLE impressions (
  id BIGSERIAL NOT NULL,
  request_id VARCHAR(100) NOT NULL,
  model VARCHAR(200) NOT NULL,
  model_version VARCHAR(200) NOT NULL,
  variant VARCHAR(50),
  kind VARCHAR(100) NOT NULL,
  entity VARCHAR(200) NOT NULL,
  served_by VARCHAR(20) NOT NULL,
  support_size BIGINT NOT NULL,
  first_rank BIGINT NOT NULL,
  items JSONB NOT NULL,
  propensity DOUBLE PRECISION NOT NULL,
  sample_rate DOUBLE PRECISION NOT NULL,
  answers BIGINT NOT NULL,
  created TIMESTAMP WITH TIME ZONE NOT NULL,
  CONSTRAINT pk_impressions PRIMARY KEY (id)
  );
CREATE INDEX ix_impressions_created_id ON impressions (created, id);
CREATE INDEX ix_impressions_kind_entity_created ON impressions (kind, entity, created);
CREATE INDEX ix_impressions_model_version_created ON impressions (model_version, created);
CREATE TABLE item_revisions (
  kind VARCHAR(100) NOT NULL,
  revision BIGINT NOT NULL,
  CONSTRAINT pk_item_revisions PRIMARY KEY (kind)
  );
CREATE TABLE items (
  kind VARCHAR(100) NOT NULL,
  external_id VARCHAR(200) NOT NULL,
  features JSONB NOT NULL,
  title VARCHAR(200),
  available BOOLEAN NOT NULL,
  revision BIGINT NOT NULL,
  created TIMESTAMP WITH TIME ZONE NOT NULL,
  updated TIMESTAMP WITH TIME ZONE NOT NULL,
  deleted TIMESTAMP WITH TIME ZONE,
  CONSTRAINT pk_items PRIMARY KEY (kind, external_id)
  );
CREATE INDEX ix_items_kind_revision ON items (kind, revision);
CREATE INDEX ix_items_kind_updated_external_id ON items (kind, updated, external_id);
CREATE TABLE latest_curriculum (
  run VARCHAR(100) NOT NULL,
  bucket VARCHAR(200) NOT NULL,
  step BIGINT NOT NULL,
  hardness DOUBLE PRECISION,
  weight DOUBLE PRECISION,
  CONSTRAINT pk_latest_curriculum PRIMARY KEY (run, bucket),
  CONSTRAINT fk_latest_curriculum_run FOREIGN KEY(run) REFERENCES runs (id) ON DELETE CASCADE
  );
CREATE TABLE latest_metrics (
  run VARCHAR(100) NOT NULL,
  key VARCHAR(200) NOT NULL,
  step BIGINT NOT NULL,
  value DOUBLE PRECISION,
  at TIMESTAMP WITH TIME ZONE NOT NULL,
  CONSTRAINT pk_latest_metrics PRIMARY KEY (run, key),
  CONSTRAINT fk_latest_metrics_run FOREIGN KEY(run) REFERENCES runs (id) ON DELETE CASCADE
  );
CREATE INDEX ix_latest_metrics_key_value ON latest_metrics (key, value);
CREATE TABLE metrics (
  run VARCHAR(100) NOT NULL,
  key VARCHAR(200) NOT NULL,
  step BIGINT NOT NULL,
  value DOUBLE PRECISION,
  CONSTRAINT pk_metrics PRIMARY KEY (run, key, step),
  CONSTRAINT fk_metrics_run FOREIGN KEY(run) REFERENCES runs (id) ON DELETE CASCADE
  );
CREATE TABLE model_versions (
  model VARCHAR(200) NOT NULL,
  version VARCHAR(200) NOT NULL,
  path VARCHAR(4000) NOT NULL,
  run VARCHAR(100),
  metrics JSONB NOT NULL,
  created TIMESTAMP WITH TIME ZONE NOT NULL,
  archived TIMESTAMP WITH TIME ZONE,
  deleted TIMESTAMP WITH TIME ZONE,
  CONSTRAINT pk_model_versions PRIMARY KEY (model, version),
  CONSTRAINT fk_model_versions_model FOREIGN KEY(model) REFERENCES models (name) ON DELETE CASCADE,
  CONSTRAINT fk_model_versions_run FOREIGN KEY(run) REFERENCES runs (id) ON DELETE SET NULL
  );
CREATE INDEX ix_model_versions_run ON model_versions (run);
CREATE INDEX ix_model_versions_version ON model_versions (version);
CREATE TABLE models (
  name VARCHAR(200) NOT NULL,
  created TIMESTAMP WITH TIME ZONE NOT NULL,
  updated TIMESTAMP WITH TIME ZONE NOT NULL,
  CONSTRAINT pk_models PRIMARY KEY (name)
  );
CREATE TABLE newcomer_results (
  id BIGSERIAL NOT NULL,
  dataset VARCHAR(200) NOT NULL,
  scenario VARCHAR(200) NOT NULL,
  method VARCHAR(200) NOT NULL,
  seed BIGINT NOT NULL,
  kind VARCHAR(100) NOT NULL,
  entity VARCHAR(200) NOT NULL,
  metric VARCHAR(200) NOT NULL,
  shots BIGINT NOT NULL,
  value DOUBLE PRECISION NOT NULL,
  value_unadapted DOUBLE PRECISION,
  value_baseline DOUBLE PRECISION,
  gain DOUBLE PRECISION,
  place BIGINT,
  is_random BOOLEAN NOT NULL,
  support_size BIGINT NOT NULL,
  popularity DOUBLE PRECISION,
  features_known BIGINT NOT NULL,
  features JSONB NOT NULL,
  created TIMESTAMP WITH TIME ZONE NOT NULL,
  CONSTRAINT pk_newcomer_results PRIMARY KEY (id)
  );
CREATE INDEX ix_newcomer_results_created ON newcomer_results (created);
CREATE INDEX ix_newcomer_results_dataset_created ON newcomer_results (dataset, created);
CREATE INDEX ix_newcomer_results_kind_entity ON newcomer_results (kind, entity);
CREATE TABLE outcome_days (
  id BIGSERIAL NOT NULL,
  day DATE NOT NULL,
  model VARCHAR(200) NOT NULL,
  model_version VARCHAR(200) NOT NULL,
  variant VARCHAR(50),
  kind VARCHAR(100) NOT NULL,
  support_size BIGINT NOT NULL,
  events BIGINT NOT NULL,
  entities BIGINT NOT NULL,
  listed_entities BIGINT NOT NULL,
  judged_entities BIGINT NOT NULL,
  lists DOUBLE PRECISION NOT NULL,
  hits_1 DOUBLE PRECISION NOT NULL,
  hits_5 DOUBLE PRECISION NOT NULL,
  hits DOUBLE PRECISION NOT NULL,
  reciprocal_ranks DOUBLE PRECISION NOT NULL,
  popular_hits DOUBLE PRECISION NOT NULL,
  compared_hits DOUBLE PRECISION NOT NULL,
  compared DOUBLE PRECISION NOT NULL,
  hits_hits DOUBLE PRECISION NOT NULL,
  hits_lists DOUBLE PRECISION NOT NULL,
  lists_lists DOUBLE PRECISION NOT NULL,
  losses DOUBLE PRECISION NOT NULL,
  loss DOUBLE PRECISION NOT NULL,
  loss_unadapted DOUBLE PRECISION NOT NULL,
  gain DOUBLE PRECISION NOT NULL,
  gain_gain DOUBLE PRECISION NOT NULL,
  gain_losses DOUBLE PRECISION NOT NULL,
  losses_losses DOUBLE PRECISION NOT NULL,
  CONSTRAINT pk_outcome_days PRIMARY KEY (id)
  );
CREATE INDEX ix_outcome_days_day ON outcome_days (day);
CREATE INDEX ix_outcome_days_model_day ON outcome_days (model, day);
CREATE TABLE outcomes (
  kind VARCHAR(100) NOT NULL,
  event_id VARCHAR(200) NOT NULL,
  entity VARCHAR(200) NOT NULL,
  model VARCHAR(200) NOT NULL,
  model_version VARCHAR(200) NOT NULL,
  variant VARCHAR(50),
  support_size BIGINT NOT NULL,
  impression BIGINT,
  rank BIGINT,
  hit_1 DOUBLE PRECISION,
  hit_5 DOUBLE PRECISION,
  hit_10 DOUBLE PRECISION,
  reciprocal_rank DOUBLE PRECISION,
  popular_hit_10 DOUBLE PRECISION,
  loss DOUBLE PRECISION,
  loss_unadapted DOUBLE PRECISION,
  created TIMESTAMP WITH TIME ZONE NOT NULL,
  day DATE NOT NULL,
  CONSTRAINT pk_outcomes PRIMARY KEY (kind, event_id)
  );
CREATE INDEX ix_outcomes_created ON outcomes (created);
CREATE INDEX ix_outcomes_day ON outcomes (day);
CREATE INDEX ix_outcomes_kind_entity_created ON outcomes (kind, entity, created);
CREATE INDEX ix_outcomes_model_created ON outcomes (model, created);
CREATE INDEX ix_outcomes_model_model_version_variant_created ON outcomes (model, model_version, variant, created);
CREATE TABLE paired_tests (
  id BIGSERIAL NOT NULL,
  dataset VARCHAR(200) NOT NULL,
  scenario VARCHAR(200) NOT NULL,
  method VARCHAR(200) NOT NULL,
  against VARCHAR(200) NOT NULL,
  reference VARCHAR(20) NOT NULL,
  segment VARCHAR(200),
  part VARCHAR(200),
  part_from DOUBLE PRECISION,
  part_to DOUBLE PRECISION,
  metric VARCHAR(200) NOT NULL,
  shots BIGINT NOT NULL,
  value DOUBLE PRECISION,
  value_against DOUBLE PRECISION,
  difference DOUBLE PRECISION,
  low DOUBLE PRECISION,
  high DOUBLE PRECISION,
  p DOUBLE PRECISION,
  verdict VARCHAR(20) NOT NULL,
  seeds BIGINT NOT NULL,
  n BIGINT NOT NULL,
  created TIMESTAMP WITH TIME ZONE NOT NULL,
  CONSTRAINT pk_paired_tests PRIMARY KEY (id),
  CONSTRAINT ck_paired_tests_reference CHECK (reference IN ('baseline', 'unadapted')),
  CONSTRAINT ck_paired_tests_verdict CHECK (verdict IN ('better', 'worse', 'open'))
  );
CREATE INDEX ix_paired_tests_created ON paired_tests (created);
CREATE INDEX ix_paired_tests_dataset_created ON paired_tests (dataset, created);
CREATE TABLE runs (
  id VARCHAR(100) NOT NULL,
  recipe VARCHAR(200) NOT NULL,
  dataset VARCHAR(200) NOT NULL,
  learner VARCHAR(200) NOT NULL,
  config JSONB NOT NULL,
  config_digest VARCHAR(16),
  seed BIGINT NOT NULL,
  device VARCHAR(200),
  code_version VARCHAR(200),
  status VARCHAR(20) NOT NULL,
  reason VARCHAR(2000),
  started TIMESTAMP WITH TIME ZONE NOT NULL,
  finished TIMESTAMP WITH TIME ZONE,
  CONSTRAINT pk_runs PRIMARY KEY (id),
  CONSTRAINT ck_runs_status CHECK (status IN ('running', 'finished', 'failed', 'stopped'))
  );
CREATE INDEX ix_runs_started_id ON runs (started, id);
CREATE INDEX ix_runs_status_started ON runs (status, started);
CREATE TABLE secrets (
  name VARCHAR(100) NOT NULL,
  value VARCHAR(100) NOT NULL,
  created TIMESTAMP WITH TIME ZONE NOT NULL,
  CONSTRAINT pk_secrets PRIMARY KEY (name)
  );
CREATE TABLE split_entities (
  kind VARCHAR(100) NOT NULL,
  entity VARCHAR(200) NOT NULL,
  model VARCHAR(200) NOT NULL,
  sequence BIGINT NOT NULL,
  place BIGINT NOT NULL,
  events BIGINT NOT NULL,
  lists DOUBLE PRECISION NOT NULL,
  hits_1 DOUBLE PRECISION NOT NULL,
  hits_5 DOUBLE PRECISION NOT NULL,
  hits DOUBLE PRECISION NOT NULL,
  reciprocal_ranks DOUBLE PRECISION NOT NULL,
  popular_hits DOUBLE PRECISION NOT NULL,
  compared_hits DOUBLE PRECISION NOT NULL,
  compared DOUBLE PRECISION NOT NULL,
  losses DOUBLE PRECISION NOT NULL,
  loss DOUBLE PRECISION NOT NULL,
  loss_unadapted DOUBLE PRECISION NOT NULL,
  gain DOUBLE PRECISION NOT NULL,
  CONSTRAINT pk_split_entities PRIMARY KEY (kind, entity, model, sequence, place),
  CONSTRAINT fk_split_entities_model_sequence_place FOREIGN KEY(model, sequence, place) REFERENCES splits (model, sequence, place) ON DELETE CASCADE
  );
CREATE INDEX ix_split_entities_model_sequence_place ON split_entities (model, sequence, place);
CREATE TABLE splits (
  id BIGSERIAL NOT NULL,
  model VARCHAR(200) NOT NULL,
  sequence BIGINT NOT NULL,
  place BIGINT NOT NULL,
  label VARCHAR(50) NOT NULL,
  version VARCHAR(200),
  weight DOUBLE PRECISION NOT NULL,
  salt VARCHAR(100) NOT NULL,
  actor VARCHAR(200),
  at TIMESTAMP WITH TIME ZONE NOT NULL,
  CONSTRAINT pk_splits PRIMARY KEY (id),
  CONSTRAINT ck_splits_weight CHECK (weight >= 0 AND weight <= 1),
  CONSTRAINT uq_splits_model_sequence_place UNIQUE (model, sequence, place),
  CONSTRAINT fk_splits_model_version FOREIGN KEY(model, version) REFERENCES model_versions (model, version) ON DELETE CASCADE,
  CONSTRAINT fk_splits_model FOREIGN KEY(model) REFERENCES models (name) ON DELETE CASCADE
  );
CREATE INDEX ix_splits_model_version ON splits (model, version);
CREATE TABLE tuning_studies (
  name VARCHAR(100) NOT NULL,
  learner VARCHAR(200) NOT NULL,
  dataset VARCHAR(200) NOT NULL,
  digest VARCHAR(200) NOT NULL,
  objective VARCHAR(20) NOT NULL,
  metric VARCHAR(200) NOT NULL,
  direction VARCHAR(20) NOT NULL,
  recipe JSONB NOT NULL,
  space JSONB NOT NULL,
  settings JSONB NOT NULL,
  meta_features JSONB NOT NULL,
  trials BIGINT NOT NULL,
  created TIMESTAMP WITH TIME ZONE NOT NULL,
  CONSTRAINT pk_tuning_studies PRIMARY KEY (name),
  CONSTRAINT ck_tuning_studies_direction CHECK (direction IN ('maximize', 'minimize'))
  );
CREATE INDEX ix_tuning_studies_created_name ON tuning_studies (created, name);
CREATE INDEX ix_tuning_studies_learner_objective_created ON tuning_studies (learner, objective, created);
CREATE TABLE tuning_trials (
  study VARCHAR(100) NOT NULL,
  number BIGINT NOT NULL,
  status VARCHAR(20) NOT NULL,
  origin VARCHAR(200) NOT NULL,
  params JSONB NOT NULL,
  value DOUBLE PRECISION,
  validations JSONB NOT NULL,
  steps BIGINT NOT NULL,
  reason VARCHAR(2000),
  worker VARCHAR(200) NOT NULL,
  started TIMESTAMP WITH TIME ZONE NOT NULL,
  heartbeat TIMESTAMP WITH TIME ZONE NOT NULL,
  finished TIMESTAMP WITH TIME ZONE,
  CONSTRAINT pk_tuning_trials PRIMARY KEY (study, number),
  CONSTRAINT ck_tuning_trials_status CHECK (status IN ('running', 'finished', 'pruned', 'failed', 'stopped', 'lost')),
  CONSTRAINT fk_tuning_trials_study FOREIGN KEY(study) REFERENCES tuning_studies (name) ON DELETE CASCADE
  );
CREATE TABLE unsummed_days (
  source VARCHAR(20) NOT NULL,
  day DATE NOT NULL,
  CONSTRAINT pk_unsummed_days PRIMARY KEY (source, day)
  );
