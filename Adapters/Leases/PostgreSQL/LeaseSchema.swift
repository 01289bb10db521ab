/// What a database needs to keep leases: tables that only their owner touches, and functions that agents may call.
///
/// All that matters is decided in there, under the lock of the seat's row and by the server's clock: an agent's role can
/// neither set a fence back nor write what it doesn't hold.
package enum LeaseSchema {
  /// - Parameter role: Who may call the functions; must be there.
  package static func script(for role: String) -> String {
    let quoted = "\"" + role.replacing("\"", with: "\"\"") + "\""
    return text + """

      GRANT USAGE ON SCHEMA salvor_failover TO \(quoted);
      GRANT EXECUTE ON FUNCTION salvor_failover.view(text), salvor_failover.take(text, bigint, text, text, float8),
        salvor_failover.renew(text, bigint, bigint), salvor_failover.release(text, bigint, bigint),
        salvor_failover.write(text, bigint, bigint, text), salvor_failover.leave_order(text, bigint, text) TO \(quoted);
      COMMIT;

      """
  }

  /// SQLSTATEs of its own. Source: PostgreSQL 15, appendix A: classes that begin with a letter from I on are free for use.
  static let isUnsuited = "SV001"
  static let hasForgotten = "SV002"

  private static let text = """
    BEGIN;
    CREATE SCHEMA IF NOT EXISTS salvor_failover;

    -- One row: whose history this is. Another one, after a failover or a restore, may lack what agents were told.
    CREATE TABLE IF NOT EXISTS salvor_failover.store (
      is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
      lineage text NOT NULL);

    -- A seat's row stays for ever, and its fence only grows.
    CREATE TABLE IF NOT EXISTS salvor_failover.seat (
      name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 200),
      fence bigint NOT NULL DEFAULT 0,
      holder text CHECK (length(holder) <= 1000),
      token text CHECK (length(token) <= 100),
      period interval,
      lapses timestamptz NOT NULL DEFAULT '-infinity',
      record bytea CHECK (length(record) <= 1048576),
      wanted bytea CHECK (length(wanted) <= 1048576));

    -- Which server, and which of its histories.
    CREATE OR REPLACE FUNCTION salvor_failover.lineage() RETURNS text
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
      SELECT system_identifier || '-' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) FROM pg_control_system();
    $$;

    INSERT INTO salvor_failover.store (lineage) VALUES (salvor_failover.lineage()) ON CONFLICT DO NOTHING;

    CREATE OR REPLACE FUNCTION salvor_failover.check_store() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE known text;
    BEGIN
      IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'this server is a standby' USING ERRCODE = 'SV001';
      END IF;
      IF NOT current_setting('fsync')::boolean THEN
        RAISE EXCEPTION 'fsync is off: what it acknowledged may be gone after a power failure' USING ERRCODE = 'SV001';
      END IF;
      SELECT lineage INTO known FROM salvor_failover.store;
      IF known IS DISTINCT FROM salvor_failover.lineage() THEN
        RAISE EXCEPTION 'it was restored or failed over: it is %, and its leases are of %', salvor_failover.lineage(), known
          USING ERRCODE = 'SV002';
      END IF;
      -- What is acknowledged is flushed; and whoever waits for a row gives up before who asked does.
      IF current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
      END IF;
      PERFORM set_config('lock_timeout', '1500', true);
    END $$;

    -- The seat's row, locked until the end of the transaction. floor: the highest fence that who asks has ever seen.
    CREATE OR REPLACE FUNCTION salvor_failover.lock_seat(seat_name text, floor bigint) RETURNS salvor_failover.seat
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE found salvor_failover.seat;
    BEGIN
      PERFORM salvor_failover.check_store();
      INSERT INTO salvor_failover.seat (name) VALUES (seat_name) ON CONFLICT DO NOTHING;
      SELECT * INTO found FROM salvor_failover.seat s WHERE s.name = seat_name FOR UPDATE;
      IF found.fence < floor THEN
        RAISE EXCEPTION 'the fence of % was % and is %', seat_name, floor, found.fence USING ERRCODE = 'SV002';
      END IF;
      RETURN found;
    END $$;

    -- Whether it was done; the seat; and where the server's history and its log stand.
    CREATE OR REPLACE FUNCTION salvor_failover.answer(is_done boolean, found salvor_failover.seat)
    RETURNS TABLE (done boolean, fence bigint, holder text, token text, record text, wanted text, lineage text, flushed text)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
      SELECT is_done, coalesce(found.fence, 0),
        CASE WHEN found.lapses > clock_timestamp() THEN found.holder END,
        CASE WHEN found.lapses > clock_timestamp() THEN found.token END,
        encode(found.record, 'hex'), encode(found.wanted, 'hex'),
        salvor_failover.lineage(), (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::text;
    $$;

    CREATE OR REPLACE FUNCTION salvor_failover.view(seat_name text)
    RETURNS TABLE (done boolean, fence bigint, holder text, token text, record text, wanted text, lineage text, flushed text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE found salvor_failover.seat;
    BEGIN
      PERFORM salvor_failover.check_store();
      SELECT * INTO found FROM salvor_failover.seat s WHERE s.name = seat_name;
      RETURN QUERY SELECT * FROM salvor_failover.answer(true, found);
    END $$;

    CREATE OR REPLACE FUNCTION salvor_failover.take(
      seat_name text, floor bigint, new_holder text, new_token text, seconds float8)
    RETURNS TABLE (done boolean, fence bigint, holder text, token text, record text, wanted text, lineage text, flushed text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
      found salvor_failover.seat := salvor_failover.lock_seat(seat_name, floor);
      is_done boolean := false;
    BEGIN
      IF found.lapses > clock_timestamp() THEN
        -- Asked again by who didn't hear the answer.
        is_done := found.holder = new_holder AND found.token = new_token;
      ELSE
        UPDATE salvor_failover.seat s
          SET fence = s.fence + 1, holder = new_holder, token = new_token, period = make_interval(secs => seconds),
            lapses = clock_timestamp() + make_interval(secs => seconds)
          WHERE s.name = seat_name RETURNING s.* INTO found;
        is_done := true;
      END IF;
      RETURN QUERY SELECT * FROM salvor_failover.answer(is_done, found);
    END $$;

    CREATE OR REPLACE FUNCTION salvor_failover.renew(seat_name text, floor bigint, own_fence bigint)
    RETURNS TABLE (done boolean, fence bigint, holder text, token text, record text, wanted text, lineage text, flushed text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
      found salvor_failover.seat := salvor_failover.lock_seat(seat_name, floor);
      is_done boolean := found.fence = own_fence AND found.lapses > clock_timestamp();
    BEGIN
      IF is_done THEN
        UPDATE salvor_failover.seat s SET lapses = clock_timestamp() + s.period
          WHERE s.name = seat_name RETURNING s.* INTO found;
      END IF;
      RETURN QUERY SELECT * FROM salvor_failover.answer(is_done, found);
    END $$;

    CREATE OR REPLACE FUNCTION salvor_failover.release(seat_name text, floor bigint, own_fence bigint)
    RETURNS TABLE (done boolean, fence bigint, holder text, token text, record text, wanted text, lineage text, flushed text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE found salvor_failover.seat := salvor_failover.lock_seat(seat_name, floor);
    BEGIN
      IF found.fence = own_fence THEN
        UPDATE salvor_failover.seat s SET lapses = '-infinity' WHERE s.name = seat_name RETURNING s.* INTO found;
      END IF;
      RETURN QUERY SELECT * FROM salvor_failover.answer(true, found);
    END $$;

    CREATE OR REPLACE FUNCTION salvor_failover.write(seat_name text, floor bigint, own_fence bigint, new_record text)
    RETURNS TABLE (done boolean, fence bigint, holder text, token text, record text, wanted text, lineage text, flushed text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
      found salvor_failover.seat := salvor_failover.lock_seat(seat_name, floor);
      is_done boolean := found.fence = own_fence AND found.lapses > clock_timestamp();
    BEGIN
      IF is_done THEN
        UPDATE salvor_failover.seat s SET record = decode(new_record, 'hex')
          WHERE s.name = seat_name RETURNING s.* INTO found;
      END IF;
      RETURN QUERY SELECT * FROM salvor_failover.answer(is_done, found);
    END $$;

    CREATE OR REPLACE FUNCTION salvor_failover.leave_order(seat_name text, floor bigint, new_order text)
    RETURNS TABLE (done boolean, fence bigint, holder text, token text, record text, wanted text, lineage text, flushed text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE found salvor_failover.seat := salvor_failover.lock_seat(seat_name, floor);
    BEGIN
      UPDATE salvor_failover.seat s SET wanted = decode(new_order, 'hex')
        WHERE s.name = seat_name RETURNING s.* INTO found;
      RETURN QUERY SELECT * FROM salvor_failover.answer(true, found);
    END $$;

    -- For a person, after this server was restored or failed over: goes on from here, above any fence that was given out.
    CREATE OR REPLACE FUNCTION salvor_failover.accept(lowest_fence bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
      UPDATE salvor_failover.seat SET fence = greatest(fence, lowest_fence), lapses = '-infinity';
      UPDATE salvor_failover.store SET lineage = salvor_failover.lineage();
    END $$;

    REVOKE ALL ON ALL TABLES IN SCHEMA salvor_failover FROM PUBLIC;
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA salvor_failover FROM PUBLIC;
    """
}
