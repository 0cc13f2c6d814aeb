-- The least rights that the checks need. Run it as a superuser in every database that is to be checked:
--
--   PGOPTIONS='-c pgintegrity.role=monitor' psql -d erp -f docs/grants/grants.sql
--
-- The role must exist. Versions 13 to 18; safe to run again, for example after ALTER EXTENSION amcheck UPDATE.

DO $grants$
DECLARE
	monitor text := current_setting('pgintegrity.role', true);
	amcheck regprocedure;
BEGIN
	IF coalesce(monitor, '') = '' THEN
		RAISE EXCEPTION 'name the role: PGOPTIONS=''-c pgintegrity.role=monitor''';
	END IF;
	-- Statistics views, settings such as data_directory, progress views, pg_visibility.
	EXECUTE format('GRANT pg_monitor TO %I', monitor);

	-- amcheck is not a trusted extension: only a superuser can make it.
	CREATE EXTENSION IF NOT EXISTS amcheck;
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

	-- The check page reads the files of tables and indexes. It needs nothing here when the exporter runs on the
	-- server's machine and may read the data directory. Elsewhere: PGOPTIONS='... -c pgintegrity.files=on'. A role
	-- with these rights can read every file of the server, password hashes included: guard it like a superuser.
	IF current_setting('pgintegrity.files', true) = 'on' THEN
		EXECUTE format('GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean), pg_stat_file(text, boolean) TO %I', monitor);
	END IF;
END
$grants$;
