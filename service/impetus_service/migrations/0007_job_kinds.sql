-- Which kinds of jobs there are is declared in job_kinds.py alone.
ALTER TABLE jobs DROP CONSTRAINT IF EXISTS jobs_kind_check;
