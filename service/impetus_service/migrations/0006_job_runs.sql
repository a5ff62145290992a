-- Which run of a job may write to its row. `attempt` counts towards JOB_ATTEMPTS and begins anew when a job is requeued;
-- `run` never takes a value again.
ALTER TABLE jobs ADD COLUMN run bigint NOT NULL DEFAULT 0;
