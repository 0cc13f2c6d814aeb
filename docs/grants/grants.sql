-- The least rights that the checks need. Run it as a superuser in every database that is to be checked:
--
--   PGOPTIONS='-c pgintegrity.role=monitor' psql -d erp -f docs/grants/grants.sql
--
-- The role must exist. Versions 13 to 18; safe to run again, for example after ALTER EXTENSION amcheck UPDATE.

DO $grants$
DECLARE
	monitor text := current_setting('pgintegrity.role', true);
	amcheck regprocedure;
	schema name;
BEGIN
	IF coalesce(monitor, '') = '' THEN
		RAISE EXCEPTION 'name the role: PGOPTIONS=''-c pgintegrity.role=monitor''';
	END IF;
	-- Statistics views, settings such as data_directory, progress views, pg_visibility.
	EXECUTE format('GRANT pg_monitor TO %I', monitor);

	-- What is in the configuration files, for the checks setting, cluster and drift.
	EXECUTE format('GRANT SELECT ON pg_file_settings, pg_hba_file_rules TO %I', monitor);
	EXECUTE format('GRANT EXECUTE ON FUNCTION pg_show_all_file_settings(), pg_hba_file_rules() TO %I', monitor);
	IF current_setting('server_version_num')::int >= 150000 THEN
		EXECUTE format('GRANT SELECT ON pg_ident_file_mappings TO %I', monitor);
		EXECUTE format('GRANT EXECUTE ON FUNCTION pg_ident_file_mappings() TO %I', monitor);
	END IF;

	-- Constants of the SQL standard that PUBLIC may not read.
	EXECUTE format('GRANT SELECT ON information_schema.sql_parts TO %I', monitor);

	-- amcheck is not a trusted extension: only a superuser can make it.
	CREATE EXTENSION IF NOT EXISTS amcheck;
	-- Its functions are for members of pg_monitor.
	CREATE EXTENSION IF NOT EXISTS pg_visibility;
	-- These functions read relations and change nothing; they need no right on the relations themselves.
	-- bt_index_parent_check is left out on purpose: it locks out writers.
	FOR amcheck IN
		SELECT p.oid FROM pg_proc p
		JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
		JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
		WHERE e.extname = 'amcheck' AND p.proname IN ('bt_index_check', 'gin_index_check', 'verify_heapam')
	LOOP
		EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', amcheck, monitor);
	END LOOP;
	EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I',
		(SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'amcheck'), monitor);

	-- The checks page, checksum, files and cluster read files of the data directory. They need nothing here when the exporter runs on the
	-- server's machine and may read the data directory. Elsewhere: PGOPTIONS='... -c pgintegrity.files=on'. A role
	-- with these rights can read every file of the server, password hashes included: guard it like a superuser.
	IF current_setting('pgintegrity.files', true) = 'on' THEN
		EXECUTE format('GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean), pg_stat_file(text, boolean), pg_ls_dir(text, boolean, boolean) TO %I', monitor);
	END IF;

	-- The checks index, constraint, generated, sequence, matview, invariant, sealed and rows read the data itself, and 13's heap.
	-- PGOPTIONS='... -c pgintegrity.data=on' lets the role read every table and sequence that exists, or will be made
	-- by the role that runs this script, in the database's own schemas. Where row security is on it needs BYPASSRLS as
	-- well: without it these checks refuse, because rows that they do not see would look lost.
	IF current_setting('pgintegrity.data', true) = 'on' THEN
		FOR schema IN SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'
		LOOP
			EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', schema, monitor);
			EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO %I', schema, monitor);
			EXECUTE format('GRANT SELECT ON ALL SEQUENCES IN SCHEMA %I TO %I', schema, monitor);
			EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT ON TABLES TO %I', schema, monitor);
			EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT ON SEQUENCES TO %I', schema, monitor);
		END LOOP;
	END IF;

	-- The exporter reads the log's files when it can. When it cannot: PGOPTIONS='... -c pgintegrity.log=on', in the
	-- database of its DSN. The function reads nothing but the files of log_directory.
	IF current_setting('pgintegrity.log', true) = 'on' THEN
		CREATE SCHEMA IF NOT EXISTS pgintegrity;
		CREATE OR REPLACE FUNCTION pgintegrity.read_log(name text, start bigint, length bigint) RETURNS bytea
			LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
			AS $read$SELECT pg_read_binary_file(current_setting('log_directory') || '/' || l.name, $2, $3, true)
				FROM pg_ls_logdir() l WHERE l.name = $1$read$;
		REVOKE ALL ON FUNCTION pgintegrity.read_log(text, bigint, bigint) FROM PUBLIC;
		EXECUTE format('GRANT USAGE ON SCHEMA pgintegrity TO %I', monitor);
		EXECUTE format('GRANT EXECUTE ON FUNCTION pgintegrity.read_log(text, bigint, bigint) TO %I', monitor);
	END IF;
END
$grants$;
